"""The same crystal written down in another way has the same motifs and connections."""
from collections import Counter

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.operations import SymmOp

from motiflab.crystals import read_crystals
from motiflab.motifs import extract_motifs

EMBEDDED = [2, 4, 9, 23, 40]  # Rb2ZrO3, Li2CoSiO4, Li8Zr6O16 and others of the embedded set


def summary(structure):
    "Motifs and connections of a crystal per atom, without site numbers: what must not change"
    table = extract_motifs(structure, n_jobs=1, progress=False)
    assert not len(table.skipped), table.skipped.reason.tolist()
    n = len(structure)
    motifs = Counter((kind, cn) for kind, cn in zip(table.kinds, table.motifs.cn))
    kind_of = dict(zip(table.motifs.site, table.kinds))
    joined = Counter((*sorted((kind_of[c.site_i], kind_of[c.site_j])), c.kind, round(c.distance, 3)) for c in table.connections.itertuples())
    per_atom = lambda counter: {key: value / n for key, value in counter.items()}
    return per_atom(motifs), per_atom(joined), table


def numbers(table, column):
    "All numbers of a column, sorted, each kind apart"
    values = {}
    for kind, value in zip(table.kinds, table.motifs[column]): values.setdefault(kind, []).append(value)
    return {kind: np.sort(np.array(v), axis=0) for kind, v in values.items()}


def same(a, b):
    assert a[0] == pytest.approx(b[0]) and a[1] == pytest.approx(b[1])
    for kind, csm in numbers(a[2], "csm").items():
        other = numbers(b[2], "csm")[kind]
        assert np.allclose(np.unique(csm.round(4)), np.unique(other.round(4)), atol=2e-4)


@pytest.fixture(scope="module")
def crystals():
    frame = read_crystals("matbench_dielectric", progress=False).frame
    return {i: (frame.structure[i], summary(frame.structure[i])) for i in EMBEDDED}


@pytest.mark.parametrize("i", EMBEDDED)
def test_rotation(crystals, i):
    structure, before = crystals[i]
    turned = structure.copy()
    turned.apply_operation(SymmOp.from_axis_angle_and_translation([1, 2, 3], 47.0))
    same(before, summary(turned))


@pytest.mark.parametrize("i", EMBEDDED)
def test_order_of_sites_and_origin(crystals, i):
    structure, before = crystals[i]
    order = np.random.default_rng(i).permutation(len(structure))
    moved = Structure(structure.lattice, [structure[int(k)].specie for k in order], structure.frac_coords[order] + [0.137, -1.4, 0.731])
    same(before, summary(moved))


@pytest.mark.parametrize("i", EMBEDDED[:3])
@pytest.mark.parametrize("scaling", [(2, 1, 1), [[1, 1, 0], [0, 1, 0], [0, 0, 1]]])
def test_supercell_and_other_cell(crystals, i, scaling):
    structure, before = crystals[i]
    same(before, summary(structure * scaling if isinstance(scaling, tuple) else structure.copy().make_supercell(scaling)))


def test_order_parameters_do_not_turn(crystals):
    structure, before = crystals[EMBEDDED[0]]
    turned = structure.copy()
    turned.apply_operation(SymmOp.from_axis_angle_and_translation([0, 1, 1], 30.0))
    a, b = before[2].motifs, summary(turned)[2].motifs
    assert np.allclose(np.stack(a.order_parameters), np.stack(b.order_parameters), atol=1e-4)


def test_ligands_are_where_the_structure_says():
    "Ligand images belong to the structure as given, atoms outside the cell included"
    lattice = Lattice.from_parameters(4.0, 5.0, 6.0, 80, 95, 110)
    structure = Structure(lattice, ["Mg", "O"], [[2.1, -3.2, 0.4], [-0.4, 0.3, 5.9]])
    table = extract_motifs(structure, n_jobs=1, progress=False)
    centre = structure[0].coords
    reach = [np.linalg.norm((structure.frac_coords[l["site"]] + l["image"]) @ lattice.matrix - centre) for l in table.motifs.ligands[0]]
    nearest = min(n.nn_distance for n in structure.get_neighbors(structure[0], 8.0) if n.specie.symbol == "O")
    assert min(reach) == pytest.approx(nearest) and max(reach) <= 1.41 * nearest
