"""`make docs`: the site in _docs/, from the notebooks of nbs/, with nothing but packages from PyPI and no network.

Pages are the notebooks as they are saved: nothing is run but the atlas of the home page. The build fails on a broken link, a
citation without an entry in nbs/references.bib, a public name without a docstring, and a notebook that the sidebar leaves out."""
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path

import links
from names import ROOT, modules, without_docstring
from notebooks import NBS, Page, PageError, Site, process
from references import References
from sections import Section, about_page, gallery, library_page, part_page, read_sections, write_about
from symbols import Symbols

WORK, OUT = ROOT / "build/docs", ROOT / "_docs"


def settings() -> ConfigParser:
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def find_pages(sections: list[Section]) -> dict[Path, Page]:
    "A page for each notebook; no two may have one address"
    module_of = {notebook: name for name, notebook in modules()}
    pages = {p: Page(p, module_of.get(p, "")) for p in [NBS / "index.ipynb", *(n for s in sections for n in s.every)]}
    names = [page.name for page in pages.values()]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice: raise SystemExit(f"Two notebooks have one address: {', '.join(twice)}")
    return pages


def write_sources(work: Path) -> list[str]: # what is wrong with them
    "Everything that Sphinx reads"
    shutil.rmtree(work, ignore_errors=True)
    config, symbols, sections = settings(), Symbols(), read_sections()
    site = Site(config["git_url"], config["branch"], symbols, References(NBS / "references.bib"), [*(s.name for s in sections), "about"])
    pages = find_pages(sections)
    for page in pages.values():
        target = work / f"{page.name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        try: target.write_text(process(page, site), encoding="utf-8")
        except PageError as error: page.problems.append(str(error))
    write_overviews(work, sections, pages, site)
    shutil.copytree(NBS / "images", work / "images")
    problems = [f"{page.notebook.relative_to(ROOT)}: {p}" for page in pages.values() for p in page.problems]
    undocumented = [s for s in symbols.all if "." not in s.name and s.target not in {t for p in pages.values() for t in p.shown}]
    problems += [f"{s.target} is public and on no page" for s in undocumented]
    return problems + [f"{module}.{name} has no docstring" for module, name in without_docstring()]


def write_overviews(work: Path, sections: list[Section], pages: dict[Path, Page], site: Site) -> None:
    "The first page of each section"
    for section in sections:
        text = library_page(section, pages, site.symbols) if section.parts else gallery(section, pages, work)
        (work / f"{section.name}.md").write_text(text, encoding="utf-8")
        for part in section.parts: (work / f"{part.name}.md").write_text(part_page(part, pages, site.symbols), encoding="utf-8")
    write_about(work, site, site.symbols)
    (work / "about.md").write_text(about_page(), encoding="utf-8")


def write_static(folder: Path) -> None:
    "Scripts that pages need: plotly's from its package, MathJax from its own"
    import plotly
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(Path(plotly.__file__).parent / "package_data/plotly.min.js", folder)
    mathjax = next(f for f in distribution("sphinx-mathjax-offline").files if f.as_posix().endswith("mathjax/tex-svg.js"))
    (folder / "mathjax").mkdir()
    shutil.copy(mathjax.locate(), folder / "mathjax")


def sphinx(work: Path, static: Path, out: Path) -> int:
    "Sphinx's exit status; a warning is an error"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", str(ROOT / "docs"), "-d", str(WORK / "doctrees"), str(work), str(out)]
    return subprocess.run(command, env=os.environ | {"MOTIFLAB_DOCS_STATIC": str(static)}).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=OUT, help="folder of the site, made anew")
    parser.add_argument("--no-atlas", action="store_true", help="leave the home page's atlas out: quicker, for work on the pages")
    options, start = parser.parse_args(), time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    html = WORK / "html"
    html.mkdir(parents=True)
    atlas = None if options.no_atlas else subprocess.Popen([sys.executable, str(ROOT / "docs/atlas.py"), str(html / "atlas.html")])
    try: problems = write_sources(WORK / "pages")
    except BaseException:
        if atlas: atlas.kill()
        raise
    write_static(WORK / "static")
    if sphinx(WORK / "pages", WORK / "static", html): problems.append("Sphinx has complained, see above")
    if atlas and atlas.wait(): problems.append("the home page's atlas could not be written, see above")
    config = settings()
    if atlas: problems += links.broken(html, config["git_url"], config["branch"])
    (html / ".nojekyll").touch()
    shutil.rmtree(options.out, ignore_errors=True)
    shutil.move(html, options.out)
    if problems: raise SystemExit(f"The site in {options.out} has faults:\n  " + "\n  ".join(problems))
    pages = sum(1 for _ in options.out.rglob("*.html"))
    print(f"{pages} pages in {options.out} ({time.monotonic() - start:.0f} s). Look at them: {Path(sys.executable).name} -m http.server -d {os.path.relpath(options.out)}")


if __name__ == "__main__": main()
