"""Sphinx settings: the notebooks of nbs/ as they are saved, not run again (`make docs`)."""
from configparser import ConfigParser
from pathlib import Path

settings = ConfigParser(delimiters=["="])
settings.read(Path(__file__).parent.parent / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

project, author, release = settings["title"], settings["author"], settings["version"]
copyright = settings["copyright"]
extensions = ["myst_nb"]
root_doc = "contents"
exclude_patterns = ["**.ipynb_checkpoints", "_*"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath"]
html_theme = "pydata_sphinx_theme"
html_title = project
html_theme_options = {"navbar_center": []}
html_sidebars = {"**": ["globaltoc.html"]}
