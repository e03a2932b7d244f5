"""Sphinx's settings. `docs/build.py` writes the pages that it reads."""
import os
import sys
from configparser import ConfigParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
_settings = ConfigParser(delimiters=["="])
_settings.read(Path(__file__).parent.parent / "settings.ini", encoding="utf-8")
_settings = _settings["DEFAULT"]

project, author, release = _settings["title"], _settings["author"], _settings["version"]
copyright = _settings["copyright"]
extensions = ["myst_nb", "sphinx_design", "sphinx_copybutton"]
nitpicky = True
add_module_names = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_block", "attrs_inline"]
myst_heading_anchors = 4
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}
copybutton_selector = "div.highlight pre"
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "pydata_sphinx_theme"
html_title = project
html_baseurl = f"{_settings['doc_host']}{_settings['doc_baseurl']}/"
html_static_path = ["static", os.environ["MOTIFLAB_DOCS_STATIC"]]
html_css_files = ["site.css"]
html_js_files = [("figures.js", {"defer": "defer"})]
html_favicon = "static/logo.svg"
html_logo = "static/logo.svg"
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
html_context = {"default_mode": "auto"}
html_sidebars = {"index": []}
html_theme_options = {
    "logo": {"text": project, "alt_text": "motiflab, to the home page"},
    "icon_links": [{"name": "GitHub", "url": _settings["git_url"], "icon": "fa-brands fa-github"}],
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
