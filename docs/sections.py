"""The order of pages, from nbs/sidebar.yml (Quarto's form, so that both sites have one order), and the overview of each section."""
from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

import showdoc
from names import ROOT
from notebooks import NBS, Page, page_name, with_links
from symbols import Symbols


@dataclass
class Section:
    title: str
    notebooks: list[Path] = field(default_factory=list)
    parts: list["Section"] = field(default_factory=list)

    @property
    def name(self) -> str: # its overview's page
        return f"{re.sub('[^a-z0-9]+', '-', self.title.lower()).strip('-')}-overview"

    @property
    def every(self) -> list[Path]: return [*self.notebooks, *(n for p in self.parts for n in p.every)]


def _section(entry: dict, taken: set[Path]) -> Section:
    "One section of the sidebar; a pattern stands for what no earlier entry took"
    made, contents = Section(entry["section"]), entry["contents"]
    for item in [contents] if isinstance(contents, str) else contents:
        if isinstance(item, dict): made.parts.append(_section(item, taken))
        else:
            found = [p for p in sorted(NBS.glob(item)) if p not in taken]
            made.notebooks += found
            taken.update(found)
    return made


def read_sections() -> list[Section]: # without the home page
    "What the sidebar says; an error when a notebook is missing from it, or a file from the notebooks"
    contents = yaml.safe_load((NBS / "sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    taken = {NBS / c for c in contents if isinstance(c, str)}
    sections = [_section(c, taken) for c in contents if isinstance(c, dict)]
    everything = {p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    if everything - taken: raise SystemExit("Not in nbs/sidebar.yml: " + ", ".join(sorted(p.relative_to(NBS).as_posix() for p in everything - taken)))
    if taken - everything: raise SystemExit("In nbs/sidebar.yml, but not there: " + ", ".join(sorted(p.name for p in taken - everything)))
    return sections


WORDS = { # of the sections with pictures: what a reader finds there
    "Tutorials": "Eight lessons for newcomers, to be read in this order. Each takes about a minute to run and ends with a picture; each opens in Colab.",
    "How-to": "One task a page, for those who know what they want.",
    "Studies": "What was measured with motiflab, beside what the papers report: tables, controls, and what was not run. Each number names its crystals, its split and its seeds.",
}


def _toctree(names: list[str], options: str = "") -> str:
    return "```{toctree}\n:hidden:\n" + options + "\n" + "\n".join(names) + "\n```\n"


def gallery(section: Section, pages: dict[Path, Page], out: Path) -> str:
    "A page of cards with each page's last picture"
    cards, ordered = [], section.title == "Tutorials"
    for number, path in enumerate(section.every, 1):
        page, image = pages[path], ""
        if page.picture:
            thumb = out / "thumbnails" / f"{page.name.replace('/', '-')}.png"
            thumb.parent.mkdir(exist_ok=True)
            _shrink(page.picture, thumb)
            image = f":img-top: thumbnails/{thumb.name}\n"
        cards.append(f"::::{{grid-item-card}} {f'{number}. ' * ordered}{page.title}\n:link: {page.name}\n:link-type: doc\n{image}\n{page.lead}\n::::")
    columns = "1 2 2 3" if any(pages[p].picture for p in section.every) else "1 1 2 2"
    return (f"# {section.title}\n\n{{.lead}}\n{WORDS[section.title]}\n\n:::::{{grid}} {columns}\n:gutter: 3\n:class-container: gallery\n\n" + "\n\n".join(cards)
            + "\n:::::\n\n" + _toctree([f"{n}. {pages[p].title} <{pages[p].name}>" if ordered else pages[p].name for n, p in enumerate(section.every, 1)]))


def _shrink(png: bytes, path: Path, size: tuple[int, int] = (640, 400)) -> None:
    "The picture on a white card of one shape"
    import io

    from PIL import Image
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    image.thumbnail(size, Image.Resampling.LANCZOS)
    card = Image.new("RGBA", size, "white")
    card.alpha_composite(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    card.convert("RGB").save(path, optimize=True)


def part_page(part: Section, pages: dict[Path, Page], symbols: Symbols) -> str:
    "All names of one part of the library, module by module"
    blocks = [f"# {part.title}\n\n{{.lead}}\n{len(part.every)} modules, in the order in which they build on each other or are met."]
    for path in part.every:
        page = pages[path]
        blocks.append(f"## [{page.title}](/{page.name}.ipynb)\n\n{page.lead}\n\n" + (f"{{.page-links}}\n`import {page.module}`\n\n" if page.module else "") + showdoc.names([s for s in symbols.all if s.module == page.module and "." not in s.name], symbols, page.module))
    return "\n\n".join(blocks) + "\n\n" + _toctree([pages[p].name for p in part.every])


def library_page(section: Section, pages: dict[Path, Page], symbols: Symbols) -> str:
    "The parts of the library, and where a script begins"
    cards = [f"::::{{grid-item-card}} {part.title}\n:link: {part.name}\n:link-type: doc\n\n" + ", ".join(pages[p].title for p in part.every) + "\n::::" for part in section.parts]
    return (f"# {section.title}\n\n{{.lead}}\nEvery public name of motiflab: what it takes, what it gives, and why it is built so. "
            f"{len(section.every)} notebooks, each the source of one module.\n\nAll names in alphabetical order are in the {{ref}}`index <genindex>`, all modules in the {{ref}}`list of modules <modindex>`.\n\n"
            ":::::{grid} 1 2 2 2\n:gutter: 3\n\n" + "\n\n".join(cards) + "\n:::::\n\n" + _toctree([p.name for p in section.parts]))


def about_page() -> str:
    "Changelog, contributing, data and citation, as they lie in the repository"
    return ("# About\n\n{.lead}\nHow motiflab changes, how to change it, what it carries, and how to cite it.\n\n"
            ":::::{grid} 1 2 2 2\n:gutter: 3\n\n" + "\n\n".join(f"::::{{grid-item-card}} {title}\n:link: about/{name}\n:link-type: doc\n\n{words}\n::::" for name, title, words in ABOUT)
            + "\n:::::\n\n" + _toctree([f"about/{name}" for name, _, _ in ABOUT]))


ABOUT = (("changelog", "Changelog", "What is new, version by version."), ("contributing", "Contributing", "Change a notebook, add a model, add a descriptor."),
         ("data", "Shipped data", "What each file in the package is, how it was made, and its licence."), ("references", "References and citation", "The literature, with DOIs, and how to cite motiflab."))
_ABOUT_FILES = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md", "data": "data/README.md"}


def write_about(out: Path, site, symbols: Symbols) -> None:
    "The pages of the last section"
    (out / "about").mkdir(exist_ok=True)
    for name, file in _ABOUT_FILES.items():
        path = ROOT / file
        text = path.read_text(encoding="utf-8")
        text = with_links(text, lambda link, anchor, file=path: _from_root(file, link, site) + anchor)
        (out / f"about/{name}.md").write_text(symbols.link(text), encoding="utf-8")
    lines = [f"- {r.line}" for r in sorted(site.references.all.values(), key=lambda r: (r.authors[0].lower(), r.year))]
    cite = ("To cite motiflab, take `CITATION.cff` of the repository ([GitHub]({}) makes BibTeX of it), and the papers whose methods you use.").format(site.blob(ROOT / "CITATION.cff"))
    (out / "about/references.md").write_text(f"# References and citation\n\n{cite}\n\n## Literature\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


def _from_root(file: Path, link: str, site) -> str:
    path = Path(os.path.normpath(file.parent / link))
    if path.suffix == ".ipynb" and path.is_relative_to(NBS): return f"/{page_name(path)}.ipynb"
    named = {ROOT / f: f"/about/{n}.md" for n, f in _ABOUT_FILES.items()}
    return named.get(path) or site.blob(path)
