"""What is drawn is what was counted."""
import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from motiflab.scenes import crystal_figure, crystal_layout, crystal_scene, crystal_traces, draw_crystal, polyhedron, sphere

PEROVSKITE = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [.5, .5, .5], [.5, .5, 0]])
COLUMNS = ["site", "element", "symbol", "ligands"]


def rows(structure, element="Ti", symbol="O:6", reach=2.1, ligand="O"):
    sites = [i for i, s in enumerate(structure) if s.specie.symbol == element]
    near = [[n for n in structure.get_neighbors(structure[i], reach) if n.specie.symbol == ligand] for i in sites]
    return pd.DataFrame([dict(site=i, element=element, symbol=symbol, ligands=[dict(site=n.index, image=np.array(n.image)) for n in ns])
                         for i, ns in zip(sites, near)], columns=COLUMNS)


def test_perovskite_octahedron():
    drawing = draw_crystal(PEROVSKITE, rows(PEROVSKITE), "SrTiO3")
    assert drawing.elements == ["O", "Sr", "Ti"] and drawing.formula == "SrTiO3"
    assert np.bincount(drawing.element).tolist() == [6, 8, 1] # Ti in the middle, Sr on all corners
    assert len(drawing.bonds) == 12 and len(drawing.faces["Ti|O:6"]) == 24 and len(drawing.edges["Ti|O:6"]) == 24
    xyz = np.array(drawing.xyz).reshape(-1, 3)
    lengths = np.linalg.norm(np.subtract(*xyz[np.array(drawing.bonds).reshape(-1, 2)].transpose(1, 0, 2)), axis=1)
    assert np.allclose(lengths, 3.905 / 2, atol=0.02)


def test_polyhedra_are_closed_across_the_cell():
    rutile = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [.305, .305, 0]])
    scene = crystal_scene(rutile, rows(rutile))
    polyhedra = next(p.contents for p in scene.contents if p.name == "polyhedra")
    assert len(polyhedra) == 9 and all(len(p.positions) == 6 for p in polyhedra)


def test_motifs_of_any_centre():
    "An antiperovskite's octahedron has the anion in its middle, which crystal-toolkit's own rule would not draw"
    drawing = draw_crystal(PEROVSKITE, rows(PEROVSKITE, "O", "L:2", 2.1, "Ti"))
    assert drawing.faces == {} and len(drawing.bonds) > 0 # two ligands make no polyhedron
    anti = Structure.from_spacegroup("Pm-3m", Lattice.cubic(4.8), ["N", "O", "Ca"], [[0, 0, 0], [.5, .5, .5], [.5, .5, 0]])
    assert len(draw_crystal(anti, rows(anti, "O", "O:6", 2.5, "Ca")).faces["O|O:6"]) == 24


def test_no_motifs_and_strange_structures():
    nothing = pd.DataFrame(columns=COLUMNS)
    assert draw_crystal(PEROVSKITE, nothing).bonds == []
    magnetic = PEROVSKITE.copy(site_properties=dict(magmom=[1.0] * 5, label=["a"] * 5))
    magnetic.add_oxidation_state_by_element(dict(Sr=2, Ti=4, O=-2))
    assert draw_crystal(magnetic, rows(PEROVSKITE)).elements == ["O", "Sr", "Ti"]
    helium = Structure(Lattice.cubic(3), ["He"], [[0, 0, 0]]) # no atomic radius known
    assert draw_crystal(helium, nothing).radii[0] > 0
    mixed = Structure(Lattice.cubic(3), [{"Fe": .3, "Ni": .7}], [[0, 0, 0]])
    assert draw_crystal(mixed, nothing).elements == ["Ni"]


def test_large_cells_are_drawn_without_copies():
    big = PEROVSKITE * (4, 4, 4)
    assert len(draw_crystal(big, pd.DataFrame(columns=COLUMNS)).element) == 320


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_flat_rings(n):
    ring = np.array([[np.cos(t), np.sin(t), 0] for t in 2 * np.pi * np.arange(n) / n])
    faces, edges = polyhedron(ring)
    assert len(faces) == n - 2 and len(edges) == n


def test_traces_have_true_proportions():
    drawing = draw_crystal(PEROVSKITE * (1, 1, 3), pd.DataFrame(columns=COLUMNS))
    scene = crystal_layout(drawing)["scene"]
    span = {a: np.ptp(scene[f"{a}axis"]["range"]) for a in "xyz"}
    ratio = scene["aspectratio"]
    assert ratio["z"] / ratio["x"] == pytest.approx(span["z"] / span["x"], rel=1e-2)
    points, triangles = sphere()
    traces = crystal_traces(drawing)
    assert all(len(t["x"]) % len(points) == 0 for t in traces if t["type"] == "mesh3d")


def test_names_are_text():
    traces = crystal_traces(draw_crystal(PEROVSKITE, rows(PEROVSKITE, symbol="<b>O:6</b>")))
    assert not any("<" in t["name"] for t in traces) and any("Ti|&lt;b&gt;O:6" in t["name"] for t in traces)


def test_figure_names_the_elements():
    figure = crystal_figure(PEROVSKITE, rows(PEROVSKITE), "Ti|O:6")
    assert [t.name for t in figure.data if t.showlegend] == ["O", "Sr", "Ti"]
    assert {t.opacity for t in figure.data if t.name == "Ti|O:6" and t.type == "mesh3d"} == {0.62}
