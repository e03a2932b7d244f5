"""Packaging of motiflab: everything it says is read from settings.ini, nbdev's configuration file."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

extras = {name: cfg[f"{name}_requirements"].split() for name in ("dev", "docs", "dask", "tensorboard")}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={"Source": cfg["git_url"], "Documentation": cfg["doc_host"] + cfg["doc_baseurl"], "Changes": cfg["git_url"] + "/blob/main/CHANGELOG.md"},
    classifiers=[
        "Development Status :: 3 - Alpha", "Intended Audience :: Science/Research", "Natural Language :: English",
        "Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Chemistry", "Typing :: Typed",
    ],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    packages=[*find_packages(include=["motiflab", "motiflab.*"]), "motiflab.data"],
    package_dir={"motiflab.data": "data"},  # the checkout's data/ lies in the wheel as motiflab/data: see motiflab.shipped
    package_data={"motiflab": ["py.typed"], "motiflab.data": ["*.md", "*.csv", "*.json", "*/*", "*/*/*", "*/*/*/*"]},
    include_package_data=False, # but for `package_data`
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": [cfg["console_scripts"]]},
    zip_safe=False,
)
