"""The site's builder: nbdev's directives come out right, and what a reader would stumble over stops the build."""
from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
pytest.importorskip("bibtexparser")

import notebooks # noqa: E402
import sections # noqa: E402
from links import broken # noqa: E402
from references import References # noqa: E402
from symbols import Symbols # noqa: E402

REPOSITORY = "https://github.com/motiflab/motiflab"


@pytest.fixture(scope="module")
def site():
    return notebooks.Site(REPOSITORY, "main", Symbols(), References(ROOT / "nbs/references.bib"), ["about"])


@pytest.fixture
def page_of(site, tmp_path, monkeypatch):
    "`page_of(cells, module)` -> the processed cells and the page; a cell is Markdown, or code with its outputs"
    monkeypatch.setattr(notebooks, "NBS", tmp_path)
    monkeypatch.setattr(notebooks, "ROOT", tmp_path.parent)
    monkeypatch.setattr(site, "blob", lambda path: f"{REPOSITORY}/blob/main/{path.name}")

    def process(*cells, module=""):
        made = [nbformat.v4.new_markdown_cell("# A page\n\n> What it is for.")]
        for cell in cells:
            if isinstance(cell, tuple): made.append(nbformat.v4.new_code_cell(cell[0], outputs=[nbformat.v4.new_output(**o) for o in cell[1:]]))
            elif cell.startswith("code:"): made.append(nbformat.v4.new_code_cell(cell.removeprefix("code:")))
            else: made.append(nbformat.v4.new_markdown_cell(cell))
        path = tmp_path / "07_sample.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=made), path)
        page = notebooks.Page(path, module)
        return nbformat.reads(notebooks.process(page, site), 4).cells, page
    return process


OUT = dict(output_type="stream", name="stdout", text="42\n")


def test_head_of_a_page(page_of):
    (head,), page = page_of()
    assert (page.title, page.lead, page.name) == ("A page", "What it is for.", "sample")
    assert head.source.startswith("# A page\n\n{.lead}\nWhat it is for.") and "[Notebook](" in head.source


def test_hidden_exported_and_silent_cells(page_of):
    cells, _ = page_of("code:#| hide\nsecret = 1", "code:#| default_exp sample", "code:#| export\nimport os", ("#| echo: false\nprint(42)", OUT), ("#| output: false\nprint(42)", OUT),
                       ("#| include: false\nprint('gone')", OUT), ("#| code-fold: true\nprint(42)", OUT), "code:shown = 1 #| hide_line\nkept = 2")
    text = "\n".join(c.source for c in cells)
    assert "secret" not in text and "import os" not in text and "gone" not in text and "default_exp" not in text and "#|" not in text
    assert "shown" not in text and "kept = 2" in text
    silent, quiet, folded = [c for c in cells if c.cell_type == "code"][:3]
    assert silent.metadata.tags == ["remove-input"] and silent.outputs[0].text == "42\n"
    assert quiet.source == "print(42)" and quiet.outputs == []
    assert folded.metadata.tags == ["hide-input"] and folded.outputs


@pytest.mark.parametrize("written, made", [
    (":::{.callout-note}\nMind the gap.\n:::", ":::{note}\nMind the gap.\n:::"),
    ("::: {.callout-tip}\n## Quicker\nTake less.\n:::", ":::{admonition} Quicker\n:class: tip\n\nTake less.\n:::"),
    (':::{.callout-warning title="Slow" collapse="true"}\nOn two cores.\n:::', ":::{admonition} Slow\n:class: warning dropdown\n\nOn two cores.\n:::"),
])
def test_callouts(page_of, written, made):
    assert page_of(written)[0][1].source == made


def test_an_exported_function_is_described(page_of):
    cells, page = page_of("code:#| export\ndef extract_motifs(crystals): pass", module="motiflab.motifs.extract")
    text = cells[-1].source
    assert "{py:function} extract_motifs(crystals, centers='cations'," in text and ":module: motiflab.motifs.extract" in text
    assert "| `crystals` |" in text and "{py:obj}`CrystalSet <motiflab.crystalset.CrystalSet>`" in text
    assert "| **returns** | {py:obj}`MotifTable <motiflab.motifs.table.MotifTable>` |" in text
    line = re.search(r"blob/main/motiflab/motifs/extract\.py#L(\d+)", text)[1]
    assert (ROOT / "motiflab/motifs/extract.py").read_text().splitlines()[int(line) - 1].startswith("def extract_motifs")
    assert page.shown == {"motiflab.motifs.extract.extract_motifs"}


def test_a_class_comes_with_its_members_and_a_constant_with_its_comment(page_of):
    cells, page = page_of("code:#| export\nclass MotifTable: pass", "code:show_doc(MotifTable)", "code:#| export\nMOTIF_FIELDS = {}", module="motiflab.motifs.table")
    shown = [c.source for c in cells if "{py:" in c.source and "py:module" not in c.source]
    assert len(shown) == 2 and "{py:class} MotifTable(" in shown[0] and "{py:data} MOTIF_FIELDS" in shown[1]
    assert "{py:property} MotifTable.kinds" in shown[0] and "{py:method} MotifTable.from_arrow(" in shown[0] and ":classmethod:" in shown[0]


def test_show_doc_of_nothing_stops_the_build(page_of):
    with pytest.raises(notebooks.PageError, match=r"show_doc\(no_such_name\)"): page_of("code:show_doc(no_such_name)")


def test_backticks_become_links_where_one_name_is_meant(page_of):
    text = page_of("`extract_motifs` and `motiflab.graphs.build_graphs()` of `motiflab.graphs`, not `x`, not [`train`](https://a.org).\n\n```python\n`extract_motifs`\n```")[0][1].source
    assert "{py:obj}`extract_motifs <motiflab.motifs.extract.extract_motifs>`" in text and "{py:obj}`motiflab.graphs.build_graphs() <motiflab.graphs.build.build_graphs>`" in text
    assert "{py:mod}`motiflab.graphs <motiflab.graphs>`" in text and "`x`" in text and "[`train`](https://a.org)" in text and "```python\n`extract_motifs`" in text


def test_links_between_notebooks_lose_their_numbers(page_of, tmp_path):
    (tmp_path / "models").mkdir(exist_ok=True)
    (tmp_path / "models/44_amdnet.ipynb").write_text("{}")
    cells, page = page_of("[A](models/44_amdnet.ipynb#Options), [B](models/45_none.ipynb)")
    assert "[A](models/amdnet.ipynb#options)" in cells[1].source
    assert page.problems == ["link to models/45_none.ipynb, which is not there"]


def test_citations(page_of):
    cells, page = page_of("As in Xie and Grossman (2018), and (Banjade et al., 2021); see Nobody et al. (1999). In 2018 and Table 2003.")
    assert "[Xie and Grossman (2018)](https://doi.org/10.1103/PhysRevLett.120.145301)" in cells[1].source
    assert "([Banjade et al., 2021](https://doi.org/10.1126/sciadv.abf1754))" in cells[1].source
    assert page.problems == ["Nobody et al. (1999) is cited but not in nbs/references.bib"]
    assert cells[-1].source.startswith("## References") and "Crystal Graph Convolutional Neural Networks" in cells[-1].source


def test_a_plotly_figure_cannot_leave_its_script(page_of):
    evil = dict(data=[dict(type="scatter", text="</script><script>alert(1)</script>")], layout=dict(height=300))
    data = {notebooks.PLOTLY: evil, "image/png": "AAAA", "text/plain": "Figure"}
    cells, page = page_of(("figure", dict(output_type="display_data", data=data)))
    html = cells[1].outputs[0].data["text/html"]
    assert html.count("</script>") == 1 and "min-height:300px" in html and json.loads(re.search(r"json\">(.*)</script>", html)[1]) == evil


def test_every_notebook_has_its_place_once():
    found = [n for s in sections.read_sections() for n in s.every]
    everything = {p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    assert len(found) == len(set(found)) and set(found) | {ROOT / "nbs/index.ipynb"} == everything
    assert len({notebooks.page_name(n) for n in found}) == len(found)


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="top">A</h1><a href="b.html#there">1</a><a href="b.html#gone">2</a><a href="c.html">3</a><img src="https://x.org/i.png"><a href="https://doi.org/11.x">4</a>'
                                     f'<a href="{REPOSITORY}/blob/main/setup.py">5</a><a href="{REPOSITORY}/blob/main/gone.py">6</a><a href="#top">7</a>')
    (tmp_path / "b.html").write_text('<p id="there">B</p>')
    wrong = broken(tmp_path, REPOSITORY, "main")
    assert [w.split(": ", 1)[1] for w in wrong] == ["b.html#gone has no such place on its page", "c.html leads nowhere", "https://x.org/i.png is loaded from another host",
                                                    "https://doi.org/11.x is no DOI", f"{REPOSITORY}/blob/main/gone.py is not in the repository"]


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"])
def test_links_of_the_repository_lead_somewhere(file):
    path = ROOT / file
    links: list[str] = []
    notebooks.with_links(path.read_text(encoding="utf-8"), lambda link, anchor: links.append(link) or link)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_imports_stand_alone():
    "nbdev's docs run every cell with an import where a notebook exports something, so that no other work may stand there"
    mixed = []
    for path in (p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts):
        code = ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        if not any("#| default_exp" in c for c in code): continue
        for source in (c for c in code if "#| export" not in c and "nbdev_export()" not in c):
            nodes = list(ast.walk(ast.parse(source)))
            if any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes) and any(isinstance(n, (ast.Expr, ast.Assign)) for n in nodes): mixed.append(f"{path.name}: {source[:80]}")
    assert mixed == []


def test_quarto_has_the_same_pages(site, monkeypatch):
    "What nbdev gives Quarto: a notebook with a front matter and descriptions of names, made in the kernel as `nbdev_docs` does"
    from execnb.nbio import read_nb
    from nbdev.processors import FilterDefaults
    monkeypatch.chdir(ROOT)
    made = read_nb(ROOT / "nbs/motifs/17_extract.ipynb")
    FilterDefaults()(made)
    outputs = [str(o) for c in made.cells for o in c.get("outputs", [])]
    assert "output-file: extract.html" in made.cells[0].source and any("extract_motifs" in o and "text/markdown" in o for o in outputs)
