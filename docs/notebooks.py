"""One notebook becomes one page: nbdev's directives are carried out, show_doc and links are written as MyST."""
from __future__ import annotations

import ast
import base64
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from execnb.nbio import mk_cell, read_nb
from nbdev.process import NBProcessor, Processor
from nbdev.processors import ai_magics, clean_magics, filter_stream_, hide_, hide_line, rm_export, rm_header_dash, strip_ansi

import showdoc
from names import ROOT
from references import References
from symbols import Symbols

NBS = ROOT / "nbs"
PLOTLY = "application/vnd.plotly.v1+json"
CALLOUTS = ("note", "tip", "warning", "caution", "important")


class PageError(Exception):
    "Something on a page that a reader would stumble over"


def page_name(notebook: Path) -> str: # `motifs/extract`, as nbdev calls it
    "The page's address without its ending: numbers in front of names are for the order only"
    at = notebook.relative_to(NBS)
    return (at.parent / re.sub(r"^\d+[a-zA-Z]?_", "", at.stem)).as_posix()


@dataclass
class Page:
    notebook: Path
    module: str = "" # that it exports
    title: str = ""
    lead: str = "" # the sentence under the title
    picture: bytes = b"" # its last, PNG
    shown: set[str] = field(default_factory=set) # public names that it documents
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str: return page_name(self.notebook)


class Site:
    "What all pages share"
    def __init__(self, repository: str, branch: str, symbols: Symbols, references: References, tree: list[str]):
        self.repository, self.branch, self.symbols, self.references, self.tree = repository, branch, symbols, references, tree # tree: first page of each section

    def blob(self, path: Path) -> str: # on GitHub
        return f"{self.repository}/{'tree' if path.is_dir() else 'blob'}/{self.branch}/{path.relative_to(ROOT).as_posix()}"


def _first_argument(source: str) -> str | None: # of `show_doc(...)`
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "show_doc": return ast.unparse(node.args[0])
    return None


def _bound(source: str) -> list[str]: # top-level names that a cell makes
    names: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): names.append(node.name)
        for target in [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", []):
            names += [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]
    return list(dict.fromkeys(names))


def _code(cell) -> bool: return cell.cell_type == "code"


class AddShowDocs(Processor):
    "A `show_doc` after each exported cell for its public names, constants too, unless the notebook has one elsewhere"
    site: Site
    page: Page

    def begin(self):
        explicit = {_first_argument(c.source) for c in self.nb.cells if _code(c) and re.search(r"^show_doc\(", c.source, re.M)}
        public = {s.name for s in self.site.symbols.all if s.module == self.page.module and "." not in s.name}
        for cell in reversed([c for c in self.nb.cells if _code(c) and {"export", "exports"} & set(c.directives_)]):
            names = [n for n in _bound(cell.source) if n in public - explicit]
            for name in reversed(names):
                made = mk_cell(f"show_doc({name})")
                made.directives_ = {}
                self.nb.cells.insert(self.nb.cells.index(cell) + 1, made)


class RenderShowDocs(Processor):
    "`show_doc(name)` becomes the description of `name`"
    site: Site
    page: Page

    def cell(self, cell):
        if not _code(cell) or not re.search(r"^show_doc\(", cell.source, re.M): return
        wanted = _first_argument(cell.source)
        symbols = self.site.symbols
        target = symbols.find(wanted, self.page.module)
        found = next((s for s in symbols.all if s.target == target), None)
        if found is None: raise PageError(f"show_doc({wanted}): motiflab has no such public name")
        self.page.shown.add(found.target)
        cell.update(cell_type="markdown", source=showdoc.show(found, symbols, self.site.repository), outputs=[])
        cell.is_doc = True


def _tags(cell, *tags: str) -> None:
    cell.metadata["tags"] = [*cell.metadata.get("tags", []), *tags]


def quarto_options(cell):
    "Quarto's cell options that change what is seen: echo, output, include, warning, code-fold"
    if not _code(cell): return
    options = {k.rstrip(":"): " ".join(v) for k, v in cell.directives_.items()}
    if options.get("include") == "false":
        cell["source"] = None
        return
    if options.get("echo") == "false" or "hide_input" in options: _tags(cell, "remove-input")
    if options.get("output") == "false" or "hide_output" in options: cell["outputs"] = []
    if options.get("warning") == "false": cell["outputs"] = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]
    if options.get("code-fold") in ("true", "show"): _tags(cell, "hide-input")
    cell["source"] = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip("\n")


def _callout(m: re.Match) -> str:
    kind, more, body = m["kind"], m["more"] or "", m["body"].strip("\n")
    title = re.search(r'title="([^"]*)"', more)
    heading = re.match(r"#+ (.*)\n", body)
    if heading and not title: body = body[heading.end():].strip("\n")
    title = title[1] if title else heading[1] if heading else ""
    classes = f":class: {kind}" + (" dropdown" if 'collapse="true"' in more else "")
    if title or "dropdown" in classes: return f":::{{admonition}} {title or kind.capitalize()}\n{classes}\n\n{body}\n:::"
    return f":::{{{kind}}}\n{body}\n:::"


def callouts(text: str) -> str:
    "Quarto's callouts as admonitions"
    kinds = "|".join(CALLOUTS)
    return re.sub(rf"^:::+ ?\{{\.callout-(?P<kind>{kinds})(?P<more>[^}}]*)\}}\n(?P<body>.*?)^:::+ *$", _callout, text, flags=re.M | re.S)


def _target(link: str, anchor: str, page: Page, site: Site) -> str: # where a relative link leads on the site
    path = Path(os.path.normpath(page.notebook.parent / link))
    if not path.exists():
        page.problems.append(f"link to {link}, which is not there")
        return link
    if path.suffix == ".ipynb" and path.is_relative_to(NBS):
        there = os.path.relpath(NBS / page_name(path), page.notebook.parent)
        return f"{there}.ipynb{anchor.lower()}"
    if path.is_relative_to(NBS / "images"): return link
    return site.blob(path) + anchor


_RELATIVE = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")


def with_links(text: str, target) -> str: # Markdown
    "`target(link, anchor)` in place of each relative link that does not stand in code"
    parts = re.split(r"(^```.*?^```[ \t]*$|`[^`\n]+`)", text, flags=re.M | re.S)
    return "".join(p if p.startswith("`") else _RELATIVE.sub(lambda m: target(m[1], m[2] or ""), p) for p in parts)


def _outside_code(text: str, change) -> str: # `change` is not for fenced code
    parts = re.split(r"(^```.*?^```[ \t]*$)", text, flags=re.M | re.S)
    return "".join(p if p.startswith("```") else change(p) for p in parts)


class Markdown(Processor):
    "Callouts, citations and links of the cells that people wrote"
    site: Site
    page: Page

    def begin(self): self.cited = {}

    def cell(self, cell):
        if cell.cell_type != "markdown" or getattr(cell, "is_doc", False): return
        def change(text: str) -> str:
            text = with_links(callouts(text), lambda link, anchor: _target(link, anchor, self.page, self.site))
            text, cited, unknown = self.site.references.cite(text)
            self.cited |= {r.key: r for r in cited}
            self.page.problems += [f"{u} is cited but not in nbs/references.bib" for u in unknown]
            return self.site.symbols.link(text, self.page.module)
        cell["source"] = _outside_code(cell.source, change)

    def end(self):
        if not self.cited or any(re.search(r"^## (Sources|References)$", c.source, re.M) for c in self.nb.cells if c.cell_type == "markdown"): return
        lines = [f"- {r.line}" for r in sorted(self.cited.values(), key=lambda r: r.line)]
        self.nb.cells.append(mk_cell("## References\n\n" + "\n".join(lines), "markdown"))


class Head(Processor):
    "Title, the sentence under it, and where the page comes from"
    site: Site
    page: Page

    def begin(self):
        first = next((c for c in self.nb.cells if c.cell_type == "markdown"), None)
        head = re.match(r"# (?P<title>.+)\n*(?:> (?P<lead>.+?)\n*)?(?:\n(?P<rest>.*))?$", first.source.strip() + "\n", re.S) if first else None
        if not head: raise PageError("the first cell has to begin with '# Title' and '> one sentence'")
        title, _, more = head["title"].partition("\n")
        lead = re.match(r"\s*> (.+?)(?:\n\s*\n|$)", more, re.S)
        rest = more[lead.end():] if lead else more
        self.page.title = title.strip()
        self.page.lead = " ".join((lead[1] if lead else "").replace("\n> ", " ").split())
        if not self.page.lead: self.page.problems.append("no sentence ('> ...') under the title")
        parts = [f"# {self.page.title}", f"{{.lead}}\n{self.page.lead}" if self.page.lead else "", f"{{.page-links}}\n{self.links()}", rest.strip()]
        first["source"] = "\n\n".join(p for p in parts if p)
        if self.page.module: first["source"] += f"\n\n```{{py:module}} {self.page.module}\n```"

    def end(self):
        handed = self.site.symbols.handed_on.get(self.page.module, [])
        if not handed: return
        table = showdoc.names(handed, self.site.symbols, self.page.module)
        self.nb.cells.append(mk_cell(f"## Names that `{self.page.module}` hands on\n\n{table}", "markdown"))
        self.nb.cells[-1].directives_, self.nb.cells[-1].is_doc = {}, True

    def links(self) -> str:
        path = self.page.notebook
        there = [f"`import {self.page.module}`"] if self.page.module else []
        there.append(f"[Notebook]({self.site.blob(path)})")
        if self.page.module:
            module = ROOT / (self.page.module.replace(".", "/") + ".py")
            there.append(f"[Module]({self.site.blob(module if module.exists() else module.with_suffix('') / '__init__.py')})")
        return " · ".join(there)


def _live(figure: dict, png: str, number: int) -> str: # HTML
    "A plotly figure: its picture until the script that draws it has come"
    safe = json.dumps(figure, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    height = figure.get("layout", {}).get("height", 450)
    image = f'<img src="data:image/png;base64,{png.strip()}" alt="Figure {number} of this page, interactive where scripts run">' if png else ""
    return f'<div class="live-figure" style="min-height:{int(height)}px">{image}<script type="application/json">{safe}</script></div>'


class Outputs(Processor):
    "Plotly's figures come alive by a script of the site's own; the last picture is kept for the page's card"
    page: Page

    def begin(self): self.figures = 0

    def cell(self, cell):
        if not _code(cell): return
        for output in cell.get("outputs", []):
            data = output.get("data")
            if not data: continue
            png = "".join(data.get("image/png", ""))
            if png: self.page.picture = base64.b64decode(png)
            if PLOTLY in data:
                self.figures += 1
                output["data"] = {"text/html": _live(data[PLOTLY], png, self.figures)}


class Hero(Processor):
    "The live atlas on the home page, after its first words, and the tree of all sections"
    site: Site

    def begin(self):
        html = (ROOT / "docs/hero.md").read_text(encoding="utf-8")
        first = next(c for c in self.nb.cells if c.cell_type == "markdown")
        tree = "\n".join(["```{toctree}", ":hidden:", "", *self.site.tree, "```"])
        self.nb.cells.insert(self.nb.cells.index(first) + 1, mk_cell(f"{html}\n{tree}", "markdown"))


def _with(kind: type, site: Site, page: Page) -> type: # nbdev makes processors from their class and the notebook alone
    return type(kind.__name__, (kind,), dict(site=site, page=page))


def process(page: Page, site: Site) -> str: # a notebook as JSON
    "The page's notebook as Sphinx is to read it"
    nb = read_nb(page.notebook)
    own = [_with(k, site, page) for k in (Head, AddShowDocs, RenderShowDocs, Markdown, Outputs)]
    if page.name == "index": own[1:1] = [_with(Hero, site, page)]
    head, *rest = own
    steps = [head, *[r for r in rest if r.__name__ in ("Hero", "AddShowDocs", "RenderShowDocs")], strip_ansi, hide_line, filter_stream_, rm_header_dash, rm_export,
             ai_magics, clean_magics, hide_, quarto_options, *[r for r in rest if r.__name__ in ("Markdown", "Outputs")]]
    try: NBProcessor(nb=nb, procs=steps, process=True)
    except PageError as error: raise PageError(f"{page.notebook.relative_to(ROOT)}: {error}") from error
    return _json(nb)


def _json(nb) -> str:
    "nbformat's notebook, without what nbdev noted on its cells"
    made = nbformat.v4.new_notebook(metadata=dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"), language_info=dict(name="python")))
    for cell in nb.cells:
        if cell.cell_type == "code":
            if not cell.source.strip() and not cell.get("outputs"): continue
            outputs = [nbformat.from_dict(json.loads(json.dumps(o))) for o in cell.get("outputs", [])]
            made.cells.append(nbformat.v4.new_code_cell(cell.source, outputs=outputs, metadata=dict(tags=list(cell.metadata.get("tags", [])))))
        else: made.cells.append(nbformat.v4.new_markdown_cell(cell.source) if cell.cell_type == "markdown" else nbformat.v4.new_raw_cell(cell.source))
    for i, cell in enumerate(made.cells): cell["id"] = f"cell-{i}"
    return nbformat.writes(made)
