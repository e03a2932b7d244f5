"""The widget without a browser: every way a person can touch it, and what Python gets back."""
import json
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from motiflab.atlasdata import atlas_data, motif_points, nearest_kinds, place_motifs, search_kinds
from motiflab.colorings import NOTHING, geometry_color
from motiflab.crystals import CrystalSet, read_crystals
from motiflab.errors import UserError
from motiflab.explorer import Atlas
from motiflab.motif2vec import Motif2Vec
from motiflab.motifs import extract_motifs
from motiflab.motifs.table import MotifTable

BAD = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def world():
    "Real oxides from the embedded set, their motifs, and vectors fitted to them"
    some = "O Li Na K Mg Ca Sr Ba Al Ti Zn Zr Si Nb La Fe".split()
    crystals = read_crystals("matbench_dielectric", progress=False).filter(containing="O", only=some, min_elements=2, max_elements=3, max_sites=10)
    table = extract_motifs(crystals, n_jobs=1, progress=False)
    return table, Motif2Vec(n_components=8).fit(table), crystals


@pytest.fixture
def atlas(world):
    return Atlas(*world, projection="pca")


def touch(atlas, event, points):
    "What plotly's script sends when points are clicked or lassoed"
    n = len(points)
    data = dict(event_type=f"plotly_{event}", points=dict(xs=[0] * n, ys=[0] * n, point_indexes=points, trace_indexes=[0] * n), device_state=None)
    atlas._map.figure._handler_js2py_pointsCallback(dict(new=data))


def test_click_shows_a_crystal(atlas):
    several = next(k for k, ids in atlas.data.examples.items() if len(ids) > 2 and k in atlas.data.position)
    touch(atlas, "click", [atlas.data.position[several]])
    panel = atlas._crystal
    assert panel.kind == several and any(t.type == "mesh3d" for t in panel.figure.data)
    assert panel.which.value.startswith(f"crystal 1 of {len(panel.ids)}<br>") and panel.previous.disabled and not panel.next.disabled
    panel.next.click()
    assert panel.index == 1 and panel.which.value.startswith("crystal 2 of ")
    for _ in range(len(panel.ids) + 2): panel.next.click()
    assert panel.next.disabled and panel.index == len(panel.ids) - 1
    assert list(atlas._map.ring.x) == [atlas.data.kinds.x[several]]
    button = panel.near.children[1]
    button.click()
    assert panel.kind == button.description.split()[0] == nearest_kinds(atlas.data, several).index[0]


def test_lasso_comes_back_to_python(atlas, world):
    heard = []
    atlas.observe(lambda change: heard.append(change.new), "selected")
    rows = [i for i, s in enumerate(atlas.data.kinds.symbol) if s == "O:6"]
    touch(atlas, "selected", rows)
    assert sorted(atlas.selected) == sorted(atlas.data.kinds.index[rows]) and heard == [atlas.selected]
    assert set(atlas.selected_motifs.symbol) == {"O:6"} and len(atlas.selected_motifs) == (world[0].motifs.symbol[world[0].kinds.isin(atlas.selected)] == "O:6").sum()
    assert atlas.enriched().feature[0] == "O:6" and "octahedron" in atlas._enriched.value
    touch(atlas, "deselect", [])
    atlas.reset()
    assert atlas.selected == [] and "Lasso" in atlas._enriched.value


def test_selection_from_python_marks_the_map(atlas):
    atlas.selected = atlas.data.kinds.index[:3].tolist()
    assert list(atlas._map.trace.selectedpoints) == [0, 1, 2] and "3 kinds" in atlas._chosen.value


def test_search_and_colours(atlas):
    assert set(atlas.find("Ti")) == {k for k in atlas.data.kinds.index if k.startswith("Ti|")}
    faint = np.array(atlas._map.trace.marker.opacity) < 0.5
    assert (faint == ~search_kinds(atlas.data, "Ti")).all()
    assert atlas.find("Xx") == [] and "Nothing found" in atlas._controls.said.value
    atlas.find("")
    assert atlas._map.trace.marker.opacity == pytest.approx(0.88)
    before = list(atlas._map.trace.marker.color)
    for by in atlas.data.color_options:
        atlas.color_by = by
        assert len(atlas._map.trace.marker.color) == len(atlas.data.kinds) and atlas._map.legend.value
    assert list(atlas._map.trace.marker.color) != before
    with pytest.raises(UserError, match="geometry"): atlas.color_by = "geometri"


def test_search_by_crystal_formula(world):
    data = atlas_data(*world, projection="pca")
    for formula in ("MgO", "Mg2O2", "SrTiO3"):
        kinds = set(data.kinds.index[search_kinds(data, formula)])
        want = {i for i, s in world[2].frame.structure.items() if s.composition.reduced_formula == ("MgO" if "Mg" in formula else formula)}
        assert kinds == set(world[0].kinds[world[0].motifs.crystal_id.isin(want)]) & set(data.kinds.index)


def test_single_motifs(atlas, world):
    atlas.restore(dict(level="motifs"))
    points = atlas._map.points
    assert len(atlas._map.trace.x) == len(points) <= len(world[0])
    touch(atlas, "click", [5])
    assert atlas._crystal.kind == points.kind[5] and atlas._crystal.ids[atlas._crystal.index] == points.crystal_id[5]
    touch(atlas, "selected", [0, 1, 2])
    assert len(atlas.selected_motifs) == 3 and (atlas.selected_motifs.crystal_id.tolist() == points.crystal_id[:3].tolist())
    assert atlas.enriched().selected.max() <= 3
    for by in atlas.data.color_options: atlas.color_by = by
    state = json.loads(json.dumps(atlas.state))
    atlas.reset()
    atlas.restore(state)
    assert atlas.state == state


def test_a_hundred_thousand_motifs_lie_by_their_kinds():
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(1000, 60))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    xy, own = rng.normal(size=(1000, 2)), rng.integers(1000, size=100_000)
    placed = place_motifs(unit.astype(np.float32), xy, unit[own], own)
    assert placed.shape == (100_000, 2) and np.isfinite(placed).all()
    assert np.median(np.linalg.norm(placed - xy[own], axis=1)) < 0.2 # a motif like its kind lies by its kind


def test_state_goes_through_a_file(atlas, world, tmp_path):
    atlas.show(atlas.data.kinds.index[0])
    atlas.color_by = "element"
    atlas.selected = atlas.data.kinds.index[2:5].tolist()
    atlas._map.figure.update_layout(xaxis=dict(range=[0, 1], autorange=False), yaxis=dict(range=[-1, 1], autorange=False))
    atlas.save_state(tmp_path / "state.json")
    other = Atlas(*world, projection="pca")
    other.restore(tmp_path / "state.json")
    assert other.state == atlas.state and other.state["range"] == [[0, 1], [-1, 1]]
    with pytest.raises(UserError, match="saved state"): other.restore(tmp_path / "nothing.json")
    with pytest.raises(UserError, match="color_by"): other.restore(dict(colour_by="element"))
    with pytest.raises(UserError, match="on this map"): other.restore(dict(kind="Uuo|O:6"))


def test_restore_on_a_used_atlas(atlas):
    fresh = json.loads(json.dumps(atlas.state))
    welcome = atlas._crystal.head.value
    atlas.show(next(k for k in atlas.data.kinds.index if atlas.data.examples.get(k)))
    atlas.selected = atlas.data.kinds.index[:3].tolist()
    atlas.find("Ti")
    atlas._map.zoom([[0, 1], [-1, 1]])
    used = atlas.state
    atlas.restore(fresh)
    assert atlas.state == fresh and atlas._crystal.head.value == welcome and atlas._crystal.view.layout.display == "none"
    assert not len(atlas._map.ring.x) and atlas._map.figure.layout.xaxis.autorange and not atlas._map.trace.selectedpoints
    atlas.restore(used)
    assert atlas.state == used and used["range"] == [[0, 1], [-1, 1]] and len(atlas._map.ring.x) == 1


def test_selection_follows_from_kinds_to_motifs_and_back(atlas, world):
    kinds = atlas.data.kinds.index[:2].tolist()
    atlas.selected = kinds
    for level in ("motifs", "kinds"):
        atlas._controls.level.value = level
        assert atlas.selected == kinds and set(atlas._map.points.iloc[atlas._rows].get("kind", pd.Series(kinds))) == set(kinds)
        assert len(atlas.selected_motifs) == world[0].kinds.isin(kinds).sum() and len(atlas.enriched()) and len(atlas._map.trace.selectedpoints) == len(atlas._rows)
    atlas._controls.level.value = "motifs"
    atlas.selected = kinds[:1]
    assert set(atlas.selected_motifs.element + "|" + atlas.selected_motifs.symbol) == set(kinds[:1])
    atlas._controls.level.value = "kinds"
    assert atlas.state["rows"] == [0]


def test_a_state_that_does_not_fit_changes_nothing(world, atlas, tmp_path):
    bare = Atlas(None, world[1], projection="pca")
    with pytest.raises(UserError, match="no motif table"): bare.restore(dict(level="motifs"))
    assert bare.state["level"] == "kinds"
    before = atlas.state
    (tmp_path / "list.json").write_text("[]")
    for wrong in (tmp_path / "list.json", dict(selected=None), dict(rows=[-1]), dict(rows=3), dict(range=[[0, 1]]), dict(range=[["a", 1], [0, 1]]), dict(crystal="x"),
                  dict(search=None), dict(kind=["Zn"]), dict(kind=""), dict(color_by="element", selected=["Zz|O:6"])):
        with pytest.raises(UserError): atlas.restore(wrong)
        assert atlas.state == before
    assert atlas.save_state(tmp_path / "new" / "folder" / "state.json").is_file()
    with pytest.raises(UserError, match="cannot be written"): atlas.save_state(tmp_path)


def test_selected_has_to_be_on_the_map(atlas):
    kind = atlas.data.kinds.index[0]
    with pytest.raises(UserError, match="Zz"): atlas.selected = ["Zz|O:6"]
    with pytest.raises(UserError, match=f"did you mean.*{kind.split('|')[1]}"): atlas.selected = [kind.lower() + "0"]
    assert atlas.selected == []


def small_world(columns, ids=("a", "b")):
    cells = [Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [e, "O"], [[0, 0, 0], [.5, .5, .5]]) for e, a in (("Mg", 4.21), ("Ca", 4.81))]
    row = dict(site=0, oxidation=2.0, symbol="O:6", name="octahedron", cn=6, csm=0.0, multiplicity=4, order_parameters=[], ligands=[])
    table = MotifTable([row | dict(crystal_id=i, element=e) for i, e in zip(ids, ("Mg", "Ca"))])
    frame = pd.concat([pd.DataFrame(dict(structure=cells), index=list(ids)), columns.set_axis(list(ids))], axis=1)
    return table, pd.DataFrame([[1., 0], [0, 1]], index=["Mg|O:6", "Ca|O:6"]), SimpleNamespace(frame=frame)


def test_unusual_property_columns():
    names = ["late", "wave", "group", "cluster", "gap", "gap", "whole", "flag", "note"]
    values = [pd.to_timedelta([1, 2], "h"), [1j, 2j], [5., 6], [1, 2], [1., 2], [3., 4], pd.array([1, 2], "Int64"), pd.array([True, False], "boolean"), ["x", "y"]]
    columns = pd.concat([pd.Series(v) for v in values], axis=1).set_axis(names, axis=1)
    atlas = Atlas(*small_world(columns), projection="pca")
    options = list(atlas.data.color_options)
    assert options[-5:] == ["group (property)", "cluster (property)", "gap", "whole", "flag"] and not {"late", "wave", "note"} & set(options)
    for by in options: atlas.color_by = by
    atlas.restore(dict(level="motifs"))
    for by in options: atlas.color_by = by
    assert atlas.data.color_options["group"] == "group" and atlas.data.kinds.loc["Mg|O:6", "property: gap"] == 1


def test_search_finds_ids_with_spaces_and_commas():
    data = atlas_data(*small_world(pd.DataFrame(index=[0, 1]), ("rock salt, MgO", "lime")), projection="pca")
    for query, found in {"rock salt, MgO": ["Mg|O:6"], " rock salt, MgO ": ["Mg|O:6"], "lime": ["Ca|O:6"], "MgO": ["Mg|O:6"], "rock salt": [], "Ca2(O2)1": ["Ca|O:6"]}.items():
        assert data.kinds.index[search_kinds(data, query)].tolist() == found, query


def test_vectors_are_looked_at(world):
    good = pd.DataFrame([[1., 0], [0, 1]], index=["Ti|O:6", "Zn|T:4"])
    none = Motif2Vec(n_components=2)
    none.vectors_ = good.iloc[:0]
    for wrong, sentence in ((good.reset_index(drop=True), "motif kinds such as"), (good.set_axis(["Ti", "Zn"]), "motif kinds such as"), (good.assign(a="x"), "no real numbers"),
                            (good.where(good > 0), "missing or infinite"), (good / 0, "missing or infinite"), (good.set_axis(["Ti|O:6"] * 2), "more than one"),
                            (good[[]], "DataFrame of vectors"), (none, "more crystals or weighting='row'")):
        with pytest.raises(UserError, match=sentence): Atlas(None, wrong, projection="pca")
    assert len(Atlas(None, good.astype("Float64"), projection="pca").data.kinds) == 2


def _lab(color):
    "CIE Lab of `#rrggbb` (D65), in which distances are those of the eye, about"
    rgb = np.array([int(color[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    rgb = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    x, y, z = np.cbrt(np.array([[.4124, .3576, .1805], [.2126, .7152, .0722], [.0193, .1192, .9505]]) @ rgb / [.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_common_geometries_have_colours_that_differ():
    counts = Motif2Vec.shipped().counts_
    common = counts.groupby(counts.index.str.rpartition("|").get_level_values(2)).sum().drop("UNKNOWN:0", errors="ignore").nlargest(17).index
    colors = np.array([_lab(geometry_color(s)) for s in common] + [_lab(c) for c in ("#ffffff", "#1a2029", NOTHING)])
    gaps = np.linalg.norm(colors[:, None] - colors[None], axis=-1)[~np.eye(len(colors), dtype=bool)]
    assert gaps.min() > 20


def test_wrong_input_gets_a_sentence(world):
    table, model, crystals = world
    for wrong in ((table.motifs, model), (table, table), (table, pd.DataFrame()), (table, model, crystals.frame)):
        with pytest.raises(UserError): Atlas(*wrong, projection="pca")
    with pytest.raises(UserError, match="tsne"): Atlas(table, model, crystals, projection="tnse")


def test_without_table_and_without_crystals(world):
    table, model, crystals = world
    bare = Atlas(None, model, projection="pca")
    bare.show(bare.data.kinds.index[0])
    assert "read_crystals" in bare._crystal.words.value
    bare.selected = bare.data.kinds.index[:4].tolist()
    assert len(bare.enriched()) and bare._controls.level.disabled
    with pytest.raises(UserError): bare.selected_motifs
    with pytest.raises(UserError): motif_points(bare.data)
    seen = Atlas(table, model, projection="pca")
    seen.show(seen.data.kinds.index[0])
    assert "read_crystals" in seen._crystal.words.value and len(seen.restore(dict(level="motifs")) or seen._map.trace.x) > 10


def test_shipped_vectors_open_at_once():
    atlas = Atlas(None, Motif2Vec.shipped(), projection="pca")
    assert len(atlas.data.kinds) > 500 and atlas.find("Zn tetrahedron") == ["Zn|T:4"]
    assert "No crystals are loaded" in atlas.children[1].value


def test_names_are_text(world):
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [.5, .5, .5]])
    row = dict(crystal_id=BAD, site=0, element="Mg", oxidation=2.0, symbol="O:6", name=BAD, cn=6, csm=0.0, multiplicity=4, order_parameters=[], ligands=[])
    atlas = Atlas(MotifTable([row, row | dict(symbol=BAD)]), pd.DataFrame([[1., 0], [0, 1]], index=["Mg|O:6", f"Mg|{BAD}"]),
                  CrystalSet(pd.DataFrame(dict(structure=[cell]), index=[BAD])), projection="pca", title=BAD)
    atlas.show(f"Mg|{BAD}")
    atlas.selected = [f"Mg|{BAD}"]
    shown = [w.value for w in (atlas.children[1], atlas._crystal.head, atlas._crystal.which, atlas._map.legend, atlas._enriched)]
    assert not any("<script" in text for text in shown + list(atlas._map.trace.text)) and any("&lt;script" in text for text in shown)
    atlas.restore(dict(level="motifs"))
    assert not any("<script" in text for text in atlas._map.trace.text)


def test_description_is_asked_for_and_its_errors_are_sentences(atlas, monkeypatch):
    import motiflab.describe as describe
    atlas.show(next(k for k in atlas.data.kinds.index if atlas.data.examples.get(k)))
    def fail(structure): raise RuntimeError("no <mineral>")
    monkeypatch.setattr(describe, "describe_crystal", fail)
    assert atlas._crystal.words.value == ""
    atlas._crystal.describe.click()
    end = time.monotonic() + 20
    while "RuntimeError" not in atlas._crystal.words.value and time.monotonic() < end: time.sleep(0.02)
    assert "could not describe" in atlas._crystal.words.value and "<mineral>" not in atlas._crystal.words.value
