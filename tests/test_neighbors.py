"Neighbour lists and Voronoi cells: against pymatgen and Qhull, on perfect, flat, long and random lattices"
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pymatgen.analysis.local_env import VoronoiNN
from pymatgen.core import Structure
from scipy.spatial import Voronoi

from motiflab.crystals import read_crystals
from motiflab.neighbors import neighbor_lists, voronoi_cells

ONE = np.zeros((1, 3))
SC, FCC, BCC = np.eye(3), np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0.]]), np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1.]])
PEROVSKITE = np.eye(3) * 3.905, np.array([[0, 0, 0], [.5, .5, .5], [.5, .5, 0], [.5, 0, .5], [0, .5, .5]])
DIAMOND = np.array([[0, 0, 0], [.25, .25, .25]])
GRID = np.stack(np.meshgrid(*[np.arange(3) / 3] * 3, indexing="ij"), -1).reshape(-1, 3)
UNIMODULAR = np.array([[1, 2, 0], [0, 1, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 1, 0], [-3, 1, 1]]) @ np.array([[0, 1, 0], [-1, 0, 3], [0, 0, 1]])


def rows(lists, s: int) -> slice: return slice(lists.starts[s], lists.starts[s + 1])


def everything(matrix, frac, reach=7.0): return voronoi_cells(matrix, frac, np.arange(len(frac)), reach)


def sound(matrix, frac, cells) -> None:
    "What holds for the cells of all atoms of any crystal"
    assert np.allclose(np.add.reduceat(cells.solid_angle, cells.starts[:-1]), 4 * np.pi, rtol=1e-8)
    assert np.isclose((cells.area * cells.distance / 6).sum(), abs(np.linalg.det(matrix)), rtol=1e-8)
    centre = np.repeat(np.arange(len(frac)), np.diff(cells.starts))
    rounding = 1e-9 * (1 + abs(matrix).max() * (1 + abs(frac).max()))
    assert np.allclose((frac[cells.atom] + cells.image - frac[centre]) @ matrix, cells.vector, atol=rounding)
    areas = {(i, j, *image): area for i, j, image, area in zip(centre.tolist(), cells.atom.tolist(), cells.image.tolist(), cells.area)}
    small = 1e-6 * cells.area.max()
    for (i, j, *image), area in areas.items(): assert abs(area - areas.get((j, i, *(-n for n in image)), 0.0)) < small
    for s in range(len(frac)): assert (np.diff(cells.distance[rows(cells, s)]) > -1e-7).all()


def weights(cells, s: int) -> tuple: # four numbers that do not hang on the order of equal faces
    "Sums over a site's faces that are continuous in the positions of the atoms"
    r = rows(cells, s)
    area, angle, distance = cells.area[r], cells.solid_angle[r], cells.distance[r]
    return (area * distance).sum(), (angle ** 2).sum(), (angle * distance).sum(), (area ** 2).sum()


# ---------------------------------------------------------------- against others
@pytest.fixture(scope="module")
def every(): return read_crystals("matbench_dielectric")


@pytest.fixture(scope="module")
def crystals(every): # 15 real crystals of at most 40 atoms
    return [s for _, s in every.filter(max_sites=40).sample(15, seed=4)]


def test_neighbors_are_pymatgens(crystals):
    for s in crystals:
        ours = neighbor_lists(s.lattice.matrix, s.frac_coords, range(len(s)), 6.0)
        centre, atom, image, distance = s.get_neighbor_list(6.0)
        centres = np.repeat(np.arange(len(s)), np.diff(ours.starts)).tolist()
        us = sorted(zip(centres, ours.atom.tolist(), map(tuple, ours.image.tolist()), ours.distance))
        them = sorted(zip(centre.tolist(), atom.tolist(), map(tuple, image.astype(int).tolist()), distance))
        assert [u[:3] for u in us] == [t[:3] for t in them] and np.allclose([u[3] for u in us], [t[3] for t in them], atol=1e-9)


def test_cells_are_pymatgens(crystals):
    compared = 0
    for s in crystals:
        _, within = everything(s.lattice.matrix, s.frac_coords)
        for i in {site.specie: i for i, site in enumerate(s)}.values():
            r, theirs = rows(within, i), {}
            for face in VoronoiNN(cutoff=7.0, compute_adj_neighbors=False).get_voronoi_polyhedra(s, i).values():
                theirs[tuple((face["normal"] * face["face_dist"] * 2).round(4) + 0.0)] = face["solid_angle"], face["area"]
            ours = {tuple(v.round(4) + 0.0): w for v, w in zip(within.vector[r], zip(within.solid_angle[r], within.area[r]))}
            largest = max(w[0] for w in ours.values())
            big = {v for v, w in ours.items() if w[0] > 1e-6 * largest}
            assert big == {v for v, w in theirs.items() if w[0] > 1e-6 * largest}
            for v in big: assert np.allclose(ours[v], theirs[v], rtol=1e-8, atol=0)
            compared += 1
    assert compared >= 15


def test_real_crystals_are_filled(every):
    for _, s in every.sample(500, seed=0):
        exact, within = everything(s.lattice.matrix, s.frac_coords)
        for cells in (exact, within): assert np.allclose(np.add.reduceat(cells.solid_angle, cells.starts[:-1]), 4 * np.pi, rtol=1e-8)
        assert np.isclose((exact.area * exact.distance / 6).sum(), s.volume, rtol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_cells_are_qhulls(seed):
    rng = np.random.default_rng(seed)
    matrix, frac = rng.normal(size=(3, 3)) * 4, rng.random((4, 3))
    exact, _ = everything(matrix, frac)
    around = neighbor_lists(matrix, frac, [0], 2.5 * exact.distance[rows(exact, 0)].max())
    hull = Voronoi(np.r_[ONE, around.vector])
    faces = {b if a == 0 else a: v for (a, b), v in hull.ridge_dict.items() if 0 in (a, b)}
    assert np.allclose(sorted(np.linalg.norm(around.vector[i - 1]) for i in faces), exact.distance[rows(exact, 0)])
    assert sorted(map(len, faces.values())) == sorted(exact.n_vertices[rows(exact, 0)])


def test_a_short_reach_sees_a_larger_cell(crystals):
    s = crystals[0]
    exact, within = everything(s.lattice.matrix, s.frac_coords, reach=3.0)
    volume = lambda cells, i: (cells.area * cells.distance)[rows(cells, i)].sum()
    assert all(volume(within, i) >= volume(exact, i) * (1 - 1e-12) for i in range(len(s)))
    far, same = everything(s.lattice.matrix, s.frac_coords, reach=50.0)
    assert far is same and np.array_equal(far.area, exact.area)


def test_a_cell_that_reach_leaves_open():
    matrix, frac = np.diag([3.0, 3.0, 30.0]), np.array([[0, 0, 0], [.5, .5, .1]])
    exact, within = everything(matrix, frac) # nothing above the slab within 7 angstrom, but within the diagonal
    assert np.allclose(exact.solid_angle, within.solid_angle)


# ---------------------------------------------------------------- known cells
@pytest.mark.parametrize("matrix, faces", [(SC, 6), (FCC, 12), (BCC, 14)])
@pytest.mark.parametrize("size", [1e-2, 1.0, 4.0, 300.0])
@pytest.mark.parametrize("turn", [np.eye(3), UNIMODULAR])
def test_perfect_lattices(matrix, faces, size, turn):
    matrix = turn @ matrix * size
    exact, _ = everything(matrix, ONE)
    sound(matrix, ONE, exact)
    assert len(exact.atom) == faces


def test_perovskite():
    exact, _ = everything(*PEROVSKITE)
    sound(*PEROVSKITE, exact)
    assert np.diff(exact.starts).tolist() == [12, 6, 14, 14, 14] and np.allclose(exact.solid_angle[rows(exact, 1)], 2 * np.pi / 3)
    assert exact.n_vertices[rows(exact, 1)].tolist() == [4] * 6


@pytest.mark.parametrize("noise", [0, 1e-15, 1e-13, 1e-11, 1e-10, 1e-9, 1e-8, 1e-6, 1e-4])
@pytest.mark.parametrize("matrix, frac", [(FCC * 2, ONE), (SC * 9, GRID), PEROVSKITE, (np.diag([3, 3, 60.]), GRID), (FCC * 2.7, DIAMOND)])
def test_almost_perfect(matrix, frac, noise):
    rng = np.random.default_rng(5)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix, frac = (matrix + rng.normal(size=(3, 3)) * noise) @ turn, frac + rng.normal(size=frac.shape) * noise
    for cells in (exact := everything(matrix, frac)): assert np.allclose(np.add.reduceat(cells.solid_angle, cells.starts[:-1]), 4 * np.pi, rtol=1e-8)
    sound(matrix, frac, exact[0])


@pytest.mark.parametrize("edges", [(100, 100, 100), (3, 3, 60), (60, 60, 3), (.5, 30, 30)])
def test_an_atom_alone(edges):
    matrix = np.diag(np.array(edges, float))
    exact, within = everything(matrix, ONE + 7.25)
    sound(matrix, ONE + 7.25, exact)
    assert len(exact.atom) == 6 and np.allclose(within.solid_angle, exact.solid_angle)


def test_a_molecule_in_a_vacuum():
    ball = np.random.default_rng(0).normal(size=(30, 3))
    frac = (ball / np.linalg.norm(ball, axis=1)[:, None] * 4 + 20) / 40
    sound(np.eye(3) * 40, frac, everything(np.eye(3) * 40, frac)[0])


def test_many_faces(): # more planes than the first room has
    ball = np.random.default_rng(1).normal(size=(400, 3))
    frac = np.r_[ONE, ball / np.linalg.norm(ball, axis=1)[:, None] * 10 / 60]
    exact, within = voronoi_cells(np.eye(3) * 60, frac, [0], 15.0)
    assert len(exact.atom) == 400 and exact is within and abs(exact.solid_angle.sum() - 4 * np.pi) < 1e-9


# ---------------------------------------------------------------- any lattice
lengths = st.floats(0.8, 40.0).map(lambda x: round(x, 3))
angles = st.floats(25.0, 150.0).map(lambda x: round(x, 2))


@st.composite
def lattices(draw): # crystals of one to eight atoms, short, long and flat, none closer than 0.2 angstrom
    from pymatgen.core import Lattice

    abc, (alpha, beta, gamma) = [draw(lengths) for _ in range(3)], [draw(angles) for _ in range(3)]
    assume(alpha + beta + gamma < 350 and alpha < beta + gamma - 5 and beta < alpha + gamma - 5 and gamma < alpha + beta - 5)
    matrix = np.array(Lattice.from_parameters(*abc, alpha, beta, gamma).matrix)
    rng = np.random.default_rng(draw(st.integers(0, 2 ** 32)))
    frac = rng.random((draw(st.integers(1, 8)), 3)) * draw(st.sampled_from([1, 1, 6])) - draw(st.sampled_from([0, 3]))
    if draw(st.booleans()): frac = np.unique(np.round(frac * 4) / 4 % 1, axis=0)
    near = neighbor_lists(matrix, frac, range(len(frac)), 0.2)
    assume(not len(near.atom))
    return matrix, frac


@given(lattices())
@settings(max_examples=300, deadline=None)
def test_any_lattice(crystal):
    exact, within = everything(*crystal)
    sound(*crystal, exact)
    assert np.allclose(np.add.reduceat(within.solid_angle, within.starts[:-1]), 4 * np.pi, rtol=1e-8)


@given(lattices(), st.integers(0, 2 ** 32))
@settings(max_examples=150, deadline=None)
def test_the_description_does_not_matter(crystal, seed):
    matrix, frac = crystal
    rng, n = np.random.default_rng(seed), len(frac)
    exact, _ = everything(matrix, frac)
    before = np.array([weights(exact, s) for s in range(n)])
    order, (turn, _) = rng.permutation(n), np.linalg.qr(rng.normal(size=(3, 3)))
    along = np.eye(3, dtype=int)[rng.integers(3)]
    others = dict(rotation=(matrix @ turn, frac, np.arange(n)), permutation=(matrix, frac[order], np.argsort(order)),
                  choice=(UNIMODULAR @ matrix, frac @ np.linalg.inv(UNIMODULAR), np.arange(n)),
                  origin=(matrix, frac + rng.integers(-3, 4, frac.shape) + rng.random(3), np.arange(n)),
                  supercell=(matrix * (1 + along)[:, None], np.r_[frac, frac + along] / (1 + along), np.arange(n)))
    for name, (m, f, where) in others.items():
        cells, _ = everything(m, f)
        assert np.allclose([weights(cells, s) for s in where], before, rtol=1e-6), name


@given(lattices(), st.floats(0.5, 9.0))
@settings(max_examples=150, deadline=None)
def test_neighbors_of_any_lattice(crystal, cutoff):
    matrix, frac = crystal
    cutoff = min(cutoff, (300 * abs(np.linalg.det(matrix)) / len(frac)) ** (1 / 3))
    lists = neighbor_lists(matrix, frac, range(len(frac)), cutoff)
    inverse = np.linalg.inv(matrix)
    most = np.ceil(cutoff * np.linalg.norm(inverse, axis=0) + np.ptp(frac, axis=0)).astype(int) + 1
    images = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in most], indexing="ij"), -1).reshape(-1, 3)
    assume(len(images) * len(frac) ** 2 < 3e6)
    for s in range(len(frac)):
        apart = np.linalg.norm((frac[None] + images[:, None] - frac[s]) @ matrix, axis=-1)
        apart[(images == 0).all(1), s] = np.inf
        assume(not (abs(apart - cutoff) < 1e-6).any())
        at, atom = np.nonzero(apart <= cutoff)
        r = rows(lists, s)
        assert set(zip(atom.tolist(), map(tuple, images[at].tolist()))) == set(zip(lists.atom[r].tolist(), map(tuple, lists.image[r].tolist())))
        assert np.allclose(np.sort(apart[at, atom]), lists.distance[r])


def test_ties_are_in_order():
    lists = neighbor_lists(*PEROVSKITE, [0, 1], 8.0)
    for s in range(2):
        key = list(zip(lists.distance[rows(lists, s)].round(6), lists.atom[rows(lists, s)], map(tuple, lists.image[rows(lists, s)])))
        assert key == sorted(key)
    assert (lists.distance[rows(lists, 0)] > 0).all() and 0 in lists.atom[rows(lists, 0)] # its images, not itself


# ---------------------------------------------------------------- what is no crystal
def test_mistakes():
    with pytest.raises(ValueError, match="volume"): neighbor_lists(np.diag([1, 1, 0.]), ONE, [0], 3.0)
    with pytest.raises(ValueError, match="three vectors"): voronoi_cells(np.full((3, 3), np.nan), ONE, [0])
    with pytest.raises(ValueError, match="finite"): voronoi_cells(np.eye(3), ONE * np.nan, [0])
    with pytest.raises(ValueError, match="within 0 and 0"): voronoi_cells(np.eye(3), ONE, [1])
    with pytest.raises(ValueError, match="cutoff"): neighbor_lists(np.eye(3), ONE, [0], 0.0)
    with pytest.raises(ValueError, match="reach"): voronoi_cells(np.eye(3), ONE, [0], 0.0)
    assert len(neighbor_lists(np.eye(3), ONE, [], 2.0).atom) == 0 and voronoi_cells(np.eye(3), ONE, [])[0].starts.tolist() == [0]


def test_two_atoms_at_one_place(): # one cell for both
    exact, _ = voronoi_cells(np.eye(3) * 3, np.zeros((2, 3)), [0, 1])
    assert np.allclose(np.add.reduceat(exact.solid_angle, exact.starts[:-1]), 4 * np.pi)
