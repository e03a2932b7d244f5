"""The exported atlas, opened from disk with the network cut."""
from __future__ import annotations

import json

import pandas as pd
import pytest
from mouse import click_point, colors_seen, lasso, most_alone
from pymatgen.core import Lattice, Structure

from motiflab.atlasdata import atlas_data, enriched_in
from motiflab.crystals import CrystalSet, read_crystals
from motiflab.html import write_atlas
from motiflab.motif2vec import Motif2Vec
from motiflab.motifs import extract_motifs
from motiflab.motifs.table import MotifTable

pytestmark = pytest.mark.timeout(240)
ELEMENTS = "O Li Na K Mg Ca Sr Ba Al Ti Zn Zr Si Nb La Fe".split()


@pytest.fixture(scope="module")
def oxides():
    "Real crystals from the embedded set, their motifs and vectors fitted to them"
    crystals = read_crystals("matbench_dielectric", progress=False).filter(containing="O", only=ELEMENTS, min_elements=2, max_elements=3, max_sites=10)
    table = extract_motifs(crystals, n_jobs=1, progress=False)
    return atlas_data(table, Motif2Vec(n_components=8).fit(table), crystals, projection="pca")


@pytest.fixture(scope="module")
def file(oxides, tmp_path_factory):
    return write_atlas(oxides, tmp_path_factory.mktemp("page") / "atlas.html", "Oxides", max_examples=4)


def opened(watched, file, **how):
    w = watched(offline=True, **how)
    w.page.goto(file.as_uri())
    w.page.wait_for_function("window.atlas && atlas.ready")
    w.kinds = w.page.evaluate("JSON.parse(document.getElementById('atlas-data').textContent).kinds")
    return w


def silent(w):
    assert w.errors == [] and w.dialogs == []
    assert [r for r in w.requests if not r.startswith(("file:", "data:", "blob:"))] == []


def test_map_click_and_steps(watched, file, oxides):
    w = opened(watched, file)
    page = w.page
    assert page.inner_text("h1") == "Oxides" and colors_seen(page.locator("#map")) > 5
    several = [i for i, e in enumerate(w.kinds["examples"]) if len(e) > 1]
    i = most_alone(page, "#map", several)
    click_point(page, "#map", i)
    page.wait_for_function("atlas.drawn !== null")
    assert page.inner_text("#kind").split()[0] == w.kinds["kind"][i]
    assert colors_seen(page.locator("#crystal")) > 4
    first = page.inner_text("#which")
    assert first.startswith(f"crystal 1 of {len(w.kinds['examples'][i])} · ")
    page.click("#next")
    page.wait_for_function("atlas.crystal === 1 && atlas.drawn !== null")
    assert page.inner_text("#which").startswith("crystal 2 of ") and page.inner_text("#which") != first
    near = page.locator("#near button").first
    kind = near.evaluate("b => b.firstChild.textContent")
    near.click()
    page.wait_for_function("kind => document.getElementById('kind').textContent.startsWith(kind)", arg=kind)
    silent(w)


def test_lasso_counts_as_python_does(watched, file, oxides):
    w = opened(watched, file)
    page = w.page
    page.click("[data-mode=lasso]")
    i = w.kinds["symbol"].index("O:6")
    lasso(page, "#map", i, 120)
    page.wait_for_function("atlas.selected.length > 1")
    chosen = [w.kinds["kind"][k] for k in page.evaluate("atlas.selected")]
    assert len(chosen) < len(w.kinds["kind"])
    ours = enriched_in(oxides, chosen).set_index(["group", "feature"])
    theirs = page.evaluate("enriched(atlas.selected).map(r => [r.group, r.feature, r.odds, r.p, r.q])")
    assert len(theirs) == len(ours)
    for group, feature, odds, p, q in theirs:
        assert [odds, p, q] == pytest.approx(ours.loc[(group, feature), ["odds_ratio", "p", "q"]].tolist(), rel=1e-6)
    shown = ours[(ours.odds_ratio > 1) & (ours.q < 0.05)]
    assert len(shown) and page.locator("#enriched tbody tr").count() == min(len(shown), 14)
    page.click("#reset")
    page.wait_for_function("atlas.selected.length === 0")
    assert page.locator("#enriched").is_hidden()
    silent(w)


def test_search_and_colours(watched, file, oxides):
    w = opened(watched, file)
    page = w.page
    lit = lambda: [w.kinds["kind"][i] for i, o in enumerate(page.evaluate("lit()")) if o]
    from motiflab.atlasdata import search_kinds
    for query in ("Ti", "TiO2", "Ti2O4", "T:4", "tetrahedra", "octahedral Ti", "Xx"):
        page.fill("#search", query)
        assert set(lit()) == set(oxides.kinds.index[search_kinds(oxides, query)]), query
    assert page.inner_text("#said").startswith("Nothing found")
    page.fill("#search", "")
    for by in oxides.color_options:
        page.select_option("#color", by)
        assert page.locator("#legend > *").count() > 0, by
    assert "n" in oxides.color_options and page.locator("#legend .ramp").count() == 1 # the last is a property
    silent(w)


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["desk", "phone"])
def test_nothing_is_wider_than_the_screen(watched, file, size):
    w = opened(watched, file, width=size[0], height=size[1], dark=True)
    assert w.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    box = w.page.locator("#map").bounding_box()
    assert box["width"] > 300 and box["height"] > 300
    silent(w)


BAD = ["</script><script>window.hit = 1</script>", "<img src=x onerror='window.hit = 1'>"]


def test_names_are_text(watched, tmp_path):
    rutile = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [.305, .305, 0]])
    near = [dict(site=n.index, image=[int(i) for i in n.image]) for n in rutile.get_neighbors(rutile[0], 2.1)]
    row = dict(site=0, element="Ti", oxidation=None, symbol="O:6", name=BAD[1], cn=6, csm=.1, multiplicity=1, order_parameters=[], ligands=near)
    table = MotifTable([row | dict(crystal_id=b) for b in BAD] + [row | dict(crystal_id=BAD[0], symbol=BAD[1])])
    crystals = CrystalSet(pd.DataFrame(dict(structure=[rutile, rutile]), index=BAD))
    vectors = pd.DataFrame([[1., 0], [0, 1], [1, 1]], index=["Ti|O:6", f"Ti|{BAD[1]}", "Zn|T:4"])
    w = opened(watched, write_atlas(atlas_data(table, vectors, crystals, projection="pca"), tmp_path / "a.html", BAD[0]))
    page = w.page
    assert page.inner_text("h1") == BAD[0]
    click_point(page, "#map", 0)
    page.wait_for_function("atlas.drawn !== null")
    page.locator("#map .hoverlayer .hovertext").first.wait_for()
    assert BAD[1] in page.text_content("#map .hoverlayer") and BAD[0] in page.inner_text("#which") and BAD[1] in page.inner_text("#kind")
    page.evaluate("showSelection([0, 1])")
    assert page.evaluate("window.hit") is None
    silent(w)


def world_of(ids, formulas, columns):
    "Crystals of given formulas, a motif of their first element each"
    from pymatgen.core import Composition
    cells = [Structure(Lattice.cubic(9), [e for e, n in Composition(f).items() for _ in range(round(n))], [[i / 9, i / 9, 0] for i in range(round(Composition(f).num_atoms))])
             if "." not in f else Structure(Lattice.cubic(4), [{"Mg": 0.5}, "O"], [[0, 0, 0], [.5, .5, .5]]) for f in formulas]
    row = dict(site=0, oxidation=None, symbol="O:6", name="octahedron", cn=6, csm=.1, multiplicity=1, order_parameters=[], ligands=[])
    table = MotifTable([row | dict(crystal_id=i, element=next(iter(Composition(f))).symbol) for i, f in zip(ids, formulas)])
    kinds = sorted(set(table.kinds)) + ["Zr|T:4"]
    crystals = CrystalSet(pd.DataFrame(dict(structure=cells, **columns), index=ids))
    return atlas_data(table, pd.DataFrame([[1., i] for i in range(len(kinds))], index=kinds), crystals, projection="pca")


def test_formulas_ids_and_odd_names(watched, tmp_path):
    from motiflab.atlasdata import search_kinds
    ids = ["spinel no. 1, big", "mp-1", "constructor", 7]
    data = world_of(ids, ["ZnFe2O4", "Ca3(PO4)2", "Li2O", "Mg0.5O"], {"2024": [1., 2, 3, 4], "a  b ": [2., 1, 4, 3], "element": [1., 2, 3, 5], "__proto__": [1., 2, 3, 7]})
    assert "Zn(FeO2)2" in set(data.formulas)
    w = opened(watched, write_atlas(data, tmp_path / "a.html"))
    page = w.page
    queries = {"ZnFe2O4": 1, "Zn(FeO2)2": 1, "Fe4Zn2O8": 1, "Ca3P2O8": 1, "Ca3(PO4)2": 1, "Mg0.5O": 1, "MgO2": 1, "Li2O": 1, "LiO": 0, "(": 0, "Zn(": 0, "Zn)": 0, "ZnO.": 0,
               "spinel no. 1, big": 1, "mp-1": 1, "7": 1, "constructor": 1, "toString": 0, "__proto__": 0, "mp-1 Ca": 1, "mp-1 Li": 0}
    for query, n in queries.items():
        page.fill("#search", query)
        lit = [w.kinds["kind"][i] for i, o in enumerate(page.evaluate("lit()")) if o]
        assert len(lit) == n and set(lit) == set(data.kinds.index[search_kinds(data, query)]), query
    page.fill("#search", "")
    assert page.evaluate("atlas.color") == "geometry" == page.input_value("#color")
    assert page.evaluate("[...document.getElementById('color').options].map(o => o.value)") == list(data.color_options)
    for by in data.color_options:
        page.evaluate("by => { const c = document.getElementById('color'); c.value = by; c.onchange({target: c}); }", by)
        assert page.evaluate("atlas.color") == by and page.locator("#legend > *").count() > 0
    page.evaluate("i => showKind(i)", w.kinds["kind"].index("Zr|T:4"))
    assert "None of the loaded crystals holds this kind" in page.inner_text("#about")
    silent(w)


def test_a_kind_whose_crystals_were_left_out(watched, tmp_path):
    w = opened(watched, write_atlas(world_of(["a"], ["Li2O"], {}), tmp_path / "a.html", max_examples=0))
    w.page.evaluate("i => showKind(i)", w.kinds["kind"].index("Li|O:6"))
    assert "larger max_examples" in w.page.inner_text("#about")
    silent(w)


def test_without_crystals(watched, tmp_path):
    vectors = pd.DataFrame([[1., 0], [0, 1], [.5, .5]], index=["Ti|O:6", "Zn|T:4", "Mg|O:6"])
    w = opened(watched, write_atlas(atlas_data(None, vectors, projection="pca"), tmp_path / "a.html"))
    click_point(w.page, "#map", 0)
    w.page.wait_for_function("atlas.kind === 0")
    assert "read_crystals" in w.page.inner_text("#about") and w.page.locator("#crystal").is_hidden()
    assert json.dumps(w.page.evaluate("atlas.kind")) == "0"
    silent(w)
