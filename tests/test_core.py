"""The motifs of a crystal against the libraries' own, and what must not change them: hypothesis makes the crystals."""
import gzip
import itertools
import json

import numpy as np
import oracle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from scipy.spatial.transform import Rotation

from motiflab.crystals import ion_signs, read_crystals
from motiflab.motifs.crystal import MotifSettings, crystal_motifs, oxidation_states
from motiflab.motifs.measure import closest_shape
from motiflab.motifs.order_parameters import order_parameter_names
from motiflab.motifs.rows import MotifError, PlainCrystal, plain_crystal
from motiflab.neighbors import neighbor_lists, voronoi_cells

CUBE = order_parameter_names().index("body-centered cubic CN_8")  # depends on the order of equal neighbours, in matminer too
EVERY_SITE, BONDS = MotifSettings(centers="all"), MotifSettings(centers="all", ligands="crystalnn")


# against the libraries

def embedded():
    frame = read_crystals("matbench_dielectric", progress=False).frame
    return frame.structure[[5 <= len(s) <= 12 for s in frame.structure]].sample(10, random_state=5).to_dict()


def of_materials_project(folder, n=10, max_sites=12):
    "Some oxides, from all over the file"
    found = {}
    with gzip.open(folder / "mp_crystals_2018.jsonl.gz", "rt") as lines:
        for line in itertools.islice(lines, 77, None, 331):
            row = json.loads(line)
            if len(row["species"]) <= max_sites and "O" in row["species"] and len(set(row["species"])) > 1:
                found[row["id"]] = Structure(row["lattice"], row["species"], row["frac"])
            if len(found) == n: return found
    return found


def ligands(found):
    "site -> set of (atom, image)"
    starts, named = np.r_[0, np.cumsum(found.cn)], list(zip(found.ligand_site.tolist(), map(tuple, found.ligand_image.tolist())))
    return {site: set(named[a:b]) for site, a, b in zip(found.site.tolist(), starts, starts[1:])}


def check(structure):
    "All answers for one crystal; the number of cations"
    found, oxidation = crystal_motifs(structure), oxidation_states(plain_crystal(structure))
    theirs, around = oracle.chemenv(structure, ion_signs(structure) if oxidation is None else oxidation), ligands(found)
    assert sorted(found.site.tolist()) == sorted(theirs)
    for site, symbol, csm in zip(found.site.tolist(), found.symbol, found.csm):
        assert around[site] == set(theirs[site].ligands)
        assert symbol == theirs[site].symbol and csm == pytest.approx(theirs[site].csm, abs=1e-4, nan_ok=True)
    bonds, neighbors = ligands(crystal_motifs(structure, BONDS)), oracle.crystalnn(oracle.plain(structure))
    for site, known in enumerate(neighbors): assert isinstance(known, str) or bonds[site] == set(known)
    values = oracle.order_parameters(oracle.plain(structure), found.site)
    assert np.nanmax(np.abs(np.delete(found.order_parameters - values, CUBE, axis=1))) < 1e-6
    assert np.nanmax(np.abs(found.order_parameters - values)) < 0.02
    return len(theirs)


def test_as_the_libraries_on_embedded_crystals(): assert sum(check(s) for s in embedded().values()) > 30


def test_as_the_libraries_on_the_materials_project(shared_data):
    assert sum(check(s) for s in of_materials_project(shared_data).values()) > 20


# crystals made by hypothesis

LENGTH, ANGLE = st.floats(2.5, 9), st.floats(55, 125)


@st.composite
def lattices(draw):
    "Any shape of cell, but none without volume"
    lengths, angles = [draw(LENGTH) for _ in range(3)], [draw(ANGLE) for _ in range(3)]
    c = np.cos(np.radians(angles))
    assume(1 - (c**2).sum() + 2 * c.prod() > 0.05)
    return np.array(Lattice.from_parameters(*lengths, *angles).matrix)


@st.composite
def crystals(draw, matrices=lattices(), coordinates=st.floats(0, 1, exclude_max=True), most=7):
    "Cations and anions anywhere, not nearer to each other than one angstrom"
    matrix, n = draw(matrices), draw(st.integers(2, most))
    frac = np.array([[draw(coordinates) for _ in range(3)] for _ in range(n)])
    numbers, states = zip(*[(3, 1.0), (8, -2.0), (22, 4.0), (9, -1.0), (8, -2.0), (12, 2.0), (8, -2.0)][:n])
    crystal = PlainCrystal(matrix, frac, np.array(numbers), np.array(states))
    assume(not len(neighbor_lists(matrix, frac, np.arange(n), 1.0).distance))
    return crystal


@st.composite
def unimodular(draw):
    "Another choice of cell: a product of shears, some large"
    turn = np.eye(3, dtype=int)
    for _ in range(draw(st.integers(1, 3))):
        i, j = draw(st.sampled_from(list(itertools.permutations(range(3), 2))))
        shear = np.eye(3, dtype=int)
        shear[i, j] = draw(st.sampled_from([-7, -2, -1, 1, 2, 12]))
        turn = shear @ turn
    return turn


SOME, FEW = settings(deadline=None, max_examples=60), settings(deadline=None, max_examples=30)
SEEDS = st.integers(0, 2**32 - 1)


def joins(found):
    "Connections as a set, each from one of its two ends"
    ends = []
    for i, j, image, n, distance in zip(found.site_i.tolist(), found.site_j.tolist(), found.image.tolist(), found.n_shared.tolist(), found.distance):
        other = (j, i, tuple(-v for v in image))
        ends.append((min((i, j, tuple(image)), other), n, round(float(distance), 4)))
    return sorted(ends)


def shapes(found): return dict(zip(found.site.tolist(), zip(found.symbol.tolist(), found.csm.tolist())))


def vectors(crystal, site, around):
    "Ligands as seen from the centre, angstrom"
    return (np.array([crystal.frac[a] + image for a, image in sorted(around)]) - crystal.frac[site]) @ crystal.matrix


def same_shapes(crystal, before, after, moved=None, tolerance=1e-6):
    "The same measure at every site, and the same geometry unless two are as close as each other"
    around = ligands(before)
    for site, (symbol, csm) in shapes(before).items():
        other, measure = shapes(after)[moved[site] if moved is not None else site]
        assert measure == pytest.approx(csm, abs=tolerance, nan_ok=True)
        if other != symbol: assert closest_shape(vectors(crystal, site, around[site]), other).csm == pytest.approx(csm, abs=tolerance)


def same(crystal, before, after):
    "The same answer for the same sites, atoms and images"
    assert ligands(before) == ligands(after) and joins(before) == joins(after)
    same_shapes(crystal, before, after)
    assert np.allclose(np.delete(before.order_parameters, CUBE, axis=1), np.delete(after.order_parameters, CUBE, axis=1), atol=1e-6)


KINDS = pytest.mark.parametrize("kind", [MotifSettings(), EVERY_SITE, BONDS], ids=["cations", "every site", "CrystalNN"])


@KINDS
@SOME
@given(crystals(), SEEDS)
def test_rotation_and_reflection(kind, crystal, seed):
    before, turn = crystal_motifs(crystal, kind), Rotation.random(random_state=seed).as_matrix()
    same(crystal, before, crystal_motifs(crystal._replace(matrix=crystal.matrix @ turn), kind))
    same(crystal, before, crystal_motifs(crystal._replace(matrix=-crystal.matrix @ turn), kind))


@KINDS
@SOME
@given(crystals(), unimodular())
def test_choice_of_cell(kind, crystal, turn):
    "Long and flat cells of the same lattice; an image (i, j, k) becomes (i, j, k) @ turn^-1"
    back = np.rint(np.linalg.inv(turn)).astype(int)
    before, after = crystal_motifs(crystal, kind), crystal_motifs(crystal._replace(matrix=turn @ crystal.matrix, frac=crystal.frac @ back), kind)
    translated = {site: {(atom, tuple(np.array(image) @ back)) for atom, image in around} for site, around in ligands(before).items()}
    assert translated == ligands(after) and sorted(before.distance.round(5)) == sorted(after.distance.round(5))
    same_shapes(crystal, before, after)
    assert np.allclose(np.delete(before.order_parameters, CUBE, axis=1), np.delete(after.order_parameters, CUBE, axis=1), atol=1e-6)


@KINDS
@SOME
@given(crystals(), SEEDS)
def test_order_of_sites_origin_and_whole_cells(kind, crystal, seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(crystal.numbers))
    moved = {int(old): new for new, old in enumerate(order)}
    whole, origin = rng.integers(-3, 4, size=crystal.frac.shape), rng.uniform(-1, 1, size=3)
    other = PlainCrystal(crystal.matrix, (crystal.frac + origin + whole)[order], crystal.numbers[order], crystal.oxidation[order])
    before, after = crystal_motifs(crystal, kind), crystal_motifs(other, kind)
    found = ligands(after)
    for site, around in ligands(before).items():
        assert found[moved[site]] == {(moved[atom], tuple(np.array(image) - whole[atom] + whole[site])) for atom, image in around}
    same_shapes(crystal, before, after, moved)
    assert sorted(before.distance.round(5)) == sorted(after.distance.round(5))


@KINDS
@FEW
@given(crystals(most=5), st.sampled_from([(2, 1, 1), (1, 3, 1), (2, 2, 1), (2, 1, 3)]))
def test_supercell(kind, crystal, scaling):
    "Every copy of a site has its motif; connections grow with the cell"
    offsets = np.array(list(itertools.product(*map(range, scaling))))
    frac = (crystal.frac[:, None] + offsets).reshape(-1, 3) / scaling
    repeated = crystal._replace(matrix=crystal.matrix * np.array(scaling)[:, None], frac=frac, numbers=np.repeat(crystal.numbers, len(offsets)),
                                oxidation=np.repeat(crystal.oxidation, len(offsets)))
    before = crystal_motifs(crystal, kind)
    for symmetry in (True, False):
        after = crystal_motifs(repeated, kind, symmetry)
        assert len(after) == len(before) * len(offsets) and len(after.site_i) == len(before.site_i) * len(offsets)
        for k in range(len(offsets)): same_shapes(crystal, before, after, {s: s * len(offsets) + k for s in before.site.tolist()})
        for site, around in ligands(before).items():
            lengths = sorted(np.linalg.norm(vectors(crystal, site, around), axis=1).round(5)) if around else []
            for k in range(len(offsets)):
                copy, there = site * len(offsets) + k, ligands(after)[site * len(offsets) + k]
                assert (sorted(np.linalg.norm(vectors(repeated, copy, there), axis=1).round(5)) if there else []) == pytest.approx(lengths, abs=2e-5)


@KINDS
@SOME
@given(crystals(), SEEDS)
def test_tiny_noise(kind, crystal, seed):
    "A ten-millionth of an angstrom changes no ligand"
    noise = np.random.default_rng(seed).uniform(-1e-7, 1e-7, size=crystal.frac.shape) @ np.linalg.inv(crystal.matrix)
    before, after = crystal_motifs(crystal, kind), crystal_motifs(crystal._replace(frac=crystal.frac + noise), kind)
    assert ligands(before) == ligands(after)
    same_shapes(crystal, before, after, tolerance=2e-5)


# perfect lattices: many Voronoi corners where more than three faces meet, many equal distances

# (with thirds and quarters together, two distances can be as 1.4 to 1, which is ChemEnv's cut-off)

PERFECT = [Lattice.cubic(4.1), Lattice.tetragonal(4.0, 5.53), Lattice.rhombohedral(4.0, 60), Lattice.rhombohedral(4.0, np.degrees(np.arccos(-1 / 3))),
           Lattice.orthorhombic(4.0, 5.03, 6.11)]
SIXFOLD = [Lattice.hexagonal(4.0, 4.0 * (8 / 3) ** 0.5), Lattice.hexagonal(4.2, 5.1)]
perfect = (crystals(st.sampled_from([np.array(l.matrix) for l in PERFECT]), st.sampled_from([0, 0.25, 0.5, 0.75]))
           | crystals(st.sampled_from([np.array(l.matrix) for l in SIXFOLD]), st.sampled_from([0, 1 / 3, 1 / 2, 2 / 3])))


@KINDS
@SOME
@given(perfect, SEEDS, unimodular())
def test_perfect_lattices(kind, crystal, seed, turn):
    "Rotated, written in another cell, and each site for itself"
    before, back = crystal_motifs(crystal, kind), np.rint(np.linalg.inv(turn)).astype(int)
    turned = crystal._replace(matrix=turn @ crystal.matrix @ Rotation.random(random_state=seed).as_matrix(), frac=crystal.frac @ back)
    for after in (crystal_motifs(turned, kind), crystal_motifs(crystal, kind, symmetry=False)):
        assert np.array_equal(before.cn, after.cn) and len(before.site_i) == len(after.site_i)
        same_shapes(crystal, before, after)
    assert ligands(before) == ligands(crystal_motifs(crystal, kind, symmetry=False))


@SOME
@given(perfect, SEEDS)
def test_noise_in_perfect_lattices(crystal, seed):
    "Corners of the Voronoi cell split into faces of almost no angle, which are no ligands"
    noise = np.random.default_rng(seed).uniform(-1e-7, 1e-7, size=crystal.frac.shape) @ np.linalg.inv(crystal.matrix)
    before, after = crystal_motifs(crystal), crystal_motifs(crystal._replace(frac=crystal.frac + noise))
    assert ligands(before) == ligands(after)
    same_shapes(crystal, before, after, tolerance=2e-5)


# what holds for any crystal

@SOME
@given(crystals() | perfect)
def test_what_a_motif_is(crystal):
    "Every cation has a row; ligands are anions, none farther than 1.41 times the nearest atom with a face; measures lie between 0 and 100"
    found = crystal_motifs(crystal)
    assert found.site.tolist() == np.flatnonzero(crystal.oxidation > 0).tolist()
    for (site, around), symbol, csm, cn in zip(ligands(found).items(), found.symbol, found.csm, found.cn):
        assert len(around) == cn and all(crystal.oxidation[atom] < 0 for atom, _ in around)
        assert symbol.endswith(f":{cn}") and (symbol.startswith("UNKNOWN") == np.isnan(csm)) and not csm < 0 and not csm > 100
        nearest = voronoi_cells(crystal.matrix, crystal.frac, np.array([site]))[0].distance.min()
        if cn: assert np.linalg.norm(vectors(crystal, site, around), axis=1).max() <= 1.41 * nearest + 1e-9
    assert found.order_parameters.shape == (len(found), 61) and not np.isnan(found.order_parameters).any()


@SOME
@given(crystals() | perfect)
def test_connections_are_the_shared_ligands(crystal):
    "Counted again: two motifs for each atom that both touch, once for each pair"
    found, touched = crystal_motifs(crystal), {}
    for site, around in ligands(found).items():
        for atom, image in around: touched.setdefault(atom, []).append((site, tuple(-np.array(image))))  # the centre's cell as the atom sees it
    shared = {}
    for ends in touched.values():
        for (i, a), (j, b) in itertools.permutations(ends, 2):
            pair = (i, j, tuple(np.subtract(b, a).tolist()))
            shared[pair] = shared.get(pair, 0) + 1
    pairs = list(zip(found.site_i.tolist(), found.site_j.tolist(), map(tuple, found.image.tolist())))
    mirrored = [(j, i, tuple(-v for v in image)) for i, j, image in pairs]
    assert len({*pairs, *mirrored}) == 2 * len(pairs) and {*pairs, *mirrored} == set(shared)
    for pair, n, distance in zip(pairs, found.n_shared, found.distance):
        apart = (crystal.frac[pair[1]] + pair[2] - crystal.frac[pair[0]]) @ crystal.matrix
        assert shared[pair] == n and np.linalg.norm(apart) == pytest.approx(distance)
    assert len(found.angles) == found.n_shared.sum() and (found.angles > 0).all() and (found.angles <= 180).all()


@FEW
@given(lattices(), unimodular())
def test_one_atom(matrix, turn):
    "A lattice of one atom: neighbours come in opposite pairs"
    atom = PlainCrystal(matrix, np.zeros((1, 3)), np.array([29]))
    assume(not len(neighbor_lists(matrix, atom.frac, np.zeros(1, int), 1.0).distance))
    for kind in (EVERY_SITE, BONDS):
        found, other = crystal_motifs(atom, kind), crystal_motifs(atom._replace(matrix=turn @ matrix), kind)
        around = ligands(found)[0]
        assert {(a, tuple(-v for v in image)) for a, image in around} == around and found.cn[0] == other.cn[0]
        assert found.multiplicity.tolist() == [1] and found.csm[0] == pytest.approx(other.csm[0], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("lengths", [(3, 3, 300), (3, 200, 200), (40, 60, 80), (1000, 1000, 1000)])
@pytest.mark.parametrize("angle", [90, 30])
def test_isolated_atoms_and_cells_of_any_length(lengths, angle):
    "Surfaces, chains and molecules in a vacuum: every cation has a row"
    matrix = np.array(Lattice.from_parameters(*lengths, angle, 80, 90).matrix)
    molecule = np.array([[0, 0, 0], [0, 0, 1.6], [0, 1.6, 0.2]]) @ np.linalg.inv(matrix)
    crystal = PlainCrystal(matrix, molecule, np.array([12, 8, 12]), np.array([2.0, -2.0, 2.0]))
    for kind in (MotifSettings(), EVERY_SITE, BONDS):
        found = crystal_motifs(crystal, kind)
        assert len(found) == (2 if kind == MotifSettings() else 3)
        assert kind == BONDS or any(around for around in ligands(found).values())


def test_a_flat_cell_is_the_same_lattice():
    "Angles of less than a degree"
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [.5, .5, .5]])
    primitive = plain_crystal(salt.get_primitive_structure())
    turn = np.array([[1, 0, 0], [90, 1, 0], [0, 120, 1]])
    flat = primitive._replace(matrix=turn @ primitive.matrix, frac=primitive.frac @ np.rint(np.linalg.inv(turn)))
    assert min(Lattice(flat.matrix).angles) < 1
    found = crystal_motifs(flat)
    assert found.symbol.tolist() == ["O:6"] and found.csm[0] < 1e-6 and len(found.site_i) == 9


def test_crystals_that_are_none():
    for matrix in (np.zeros((3, 3)), np.diag([4, 4, np.nan]), np.array([[4.0, 0, 0], [8, 0, 0], [0, 0, 4]])):
        with pytest.raises(ValueError): crystal_motifs(PlainCrystal(matrix, np.array([[0, 0, 0], [.5, .5, .5]]), np.array([12, 8]), np.array([2.0, -2.0])))
    with pytest.raises(MotifError, match="0.1 angstrom|closer than"):
        crystal_motifs(PlainCrystal(4 * np.eye(3), np.array([[0, 0, 0], [.02, 0, 0]]), np.array([12, 8]), np.array([2.0, -2.0])))


# ---------------------------------------------------------------- what a first user met

def test_a_strained_lattice_is_not_compiled_for_anew():
    from motiflab.motifs.symmetry import _representatives

    strained = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [.5, .5, .5]])
    crystal_motifs(strained)
    known = len(_representatives.signatures)
    strained.apply_strain(0.01)
    plain = plain_crystal(strained)
    assert all(a.flags.c_contiguous and a.flags.writeable for a in plain[:3])
    for crystal in (strained, plain._replace(matrix=np.asfortranarray(plain.matrix), frac=np.asfortranarray(plain.frac))): crystal_motifs(crystal)
    assert len(_representatives.signatures) == known


def test_a_plane_that_only_touches_a_cell():
    "Cubic, and three atoms out of place by 1e-11: rounding decides whether a plane cuts"
    frac = [[4.658055079577051e-12, 0.7499999999882265, 0.25000000001180417], [0.25000000001154676, 0.49999999999959543, 0.2500000000174239],
            [0.25000000000677836, 0.7499999999881386, 0.250000000021305]]
    found = crystal_motifs(Structure(Lattice.cubic(4), ["Na", "Cl", "Cl"], frac), MotifSettings(centers="all"))
    assert len(found) == 3 and (found.cn > 0).all()


def test_dummy_atoms_are_no_elements():
    from pymatgen.core import DummySpecies

    with pytest.raises(MotifError, match="no element"): crystal_motifs(Structure(Lattice.cubic(4), [DummySpecies("X"), "O"], [[0, 0, 0], [.5, .5, .5]]))


def test_sites_of_two_charges_are_not_equivalent():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [.5, .5, .5]])
    salt.add_oxidation_state_by_site([2, 1, 1, 1, -1.25, -1.25, -1.25, -1.25])
    assert crystal_motifs(salt).multiplicity.tolist() == [1, 3, 3, 3]


def test_oxides_of_elements_without_electronegativity():
    found = crystal_motifs(Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.5), ["Rf", "O"], [[0, 0, 0], [.25, .25, .25]]))
    assert found.symbol.tolist() == ["C:8"] * 4


def test_without_a_folder_for_compiled_functions(monkeypatch):
    "A read-only installation and no home: functions are compiled anew, that is all"
    from numba.core import caching
    from motiflab.compiled import compiled

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert compiled(twice)(21) == 42


def twice(x): return 2 * x
