"""The 61 order parameters against matminer's, and what must not change them."""
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matminer.featurizers.site import CrystalNNFingerprint
from pymatgen.analysis.local_env import CrystalNN
from scipy.spatial.transform import Rotation

from motiflab.crystals import read_crystals
from motiflab.motifs.order_parameters import (coordination_weights, likeliest_coordination, order_parameter_names, order_parameters,
                                              site_order_parameters)

NAMES = order_parameter_names()
BCC = NAMES.index("body-centered cubic CN_8")


@pytest.fixture(scope="module")
def fingerprint(): return CrystalNNFingerprint.from_preset("ops")


def of_neighbors(fingerprint, vectors):
    "matminer's order parameters of neighbours that all weigh 1, in the order of NAMES; those of other coordination numbers are 0"
    cn, values = len(vectors), np.zeros(len(NAMES))
    sites = [SimpleNamespace(coords=np.array(v, float)) for v in (np.zeros(3), *vectors)]
    asked = [i for i, name in enumerate(NAMES) if name.endswith(f" CN_{cn}")]
    for i, op in zip(asked, fingerprint.ops[cn], strict=True):
        values[i] = 1 if op == "wt" else op.get_order_parameters(sites, 0, indices_neighs=list(range(1, cn + 1)))[0] or 0
    return values


def compare(fingerprint, structures, sites_each):
    "Largest difference from matminer's over some sites of each structure, and the number of sites"
    starts, vectors, weights, theirs = [0], [], [], []
    for structure in structures:
        structure = structure.copy()
        structure.remove_oxidation_states()
        for site in np.random.default_rng(0).permutation(len(structure))[:sites_each].tolist():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore") # of elements without oxidation state
                found, values = CrystalNN().get_nn_data(structure, site), fingerprint.featurize(structure, site)
                chosen = len(CrystalNN().get_nn_info(structure, site))
            vectors += [n["site"].coords - structure[site].coords for n in found.all_nninfo]
            weights += [n["weight"] for n in found.all_nninfo]
            theirs.append(values)
            check_likelihoods(np.array(weights[starts[-1]:], float), found.cn_weights, chosen)
            starts.append(len(weights))
    ours = order_parameters(np.array(starts), np.array(vectors), np.array(weights))
    return np.abs(ours - np.array(theirs)).max(), len(theirs)


def check_likelihoods(weights, likelihoods, chosen):
    expected = [likelihoods.get(n, 0) for n in range(25)]
    assert np.allclose(coordination_weights(weights), expected, atol=1e-12)
    assert likeliest_coordination(weights) == chosen


def test_names_are_matminers(fingerprint): assert list(NAMES) == fingerprint.feature_labels()


def test_real_crystals_as_matminer(fingerprint):
    frame = read_crystals("matbench_dielectric", progress=False).frame
    small = frame.structure[[len(s) <= 16 for s in frame.structure]]
    difference, n = compare(fingerprint, small.sample(15, random_state=2), 4)
    assert n >= 40 and difference < 1e-6


def test_minerals_as_matminer(fingerprint, shared_data):
    frame = read_crystals("minerals_aflow", progress=False).frame
    difference, n = compare(fingerprint, frame.structure[[len(s) <= 24 for s in frame.structure]].sample(12, random_state=3), 2)
    assert n >= 20 and difference < 1e-6


@pytest.mark.parametrize("cn", range(1, 13))
def test_random_neighbors_as_matminer(fingerprint, cn):
    rng = np.random.default_rng(cn)
    for _ in range(4):
        vectors = rng.normal(size=(cn, 3))
        assert np.allclose(site_order_parameters(vectors, np.ones(cn)), of_neighbors(fingerprint, vectors), atol=1e-9)


def ring(n):
    "n neighbours around the equator"
    angle = 2 * np.pi * np.arange(n) / n
    return np.column_stack([np.cos(angle), np.sin(angle), np.zeros(n)])


UP, DOWN = [[0, 0, 1.0]], [[0, 0, -1.0]]
CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
IDEAL = {
    "linear CN_2": np.vstack([UP, DOWN]), "L-shaped CN_2": np.eye(3)[:2], "bent 120 degrees CN_2": ring(3)[:2], "trigonal planar CN_3": ring(3),
    "T-shaped CN_3": ring(4)[:3], "square co-planar CN_4": ring(4), "tetrahedral CN_4": CUBE[[0, 3, 5, 6]],
    "trigonal pyramidal CN_4": np.vstack([ring(3), UP]),
    "pentagonal planar CN_5": ring(5), "square pyramidal CN_5": np.vstack([ring(4), UP]), "trigonal bipyramidal CN_5": np.vstack([ring(3), UP, DOWN]),
    "hexagonal planar CN_6": ring(6), "octahedral CN_6": np.vstack([ring(4), UP, DOWN]), "pentagonal pyramidal CN_6": np.vstack([ring(5), UP]),
    "hexagonal pyramidal CN_7": np.vstack([ring(6), UP]), "pentagonal bipyramidal CN_7": np.vstack([ring(5), UP, DOWN]),
    "body-centered cubic CN_8": CUBE, "hexagonal bipyramidal CN_8": np.vstack([ring(6), UP, DOWN]),
    "cuboctahedral CN_12": np.array([np.roll([a, b, 0], i) for a in (-1, 1) for b in (-1, 1) for i in range(3)], float)}


@pytest.mark.parametrize("name", IDEAL)
def test_ideal_polyhedron_has_the_value_one(fingerprint, name):
    "One times the likelihood of its coordination number"
    vectors = 2.1 * Rotation.from_rotvec([0.3, 0.8, -0.4]).apply(IDEAL[name])
    weights = np.r_[np.full(len(vectors), 0.9), 0.3] # a further neighbour, so that the likelihood is not 1
    values = dict(zip(NAMES, site_order_parameters(np.vstack([vectors, [3, 3, 3.5]]), weights)))
    likelihood = values[f"wt CN_{len(vectors)}"]
    assert likelihood == coordination_weights(weights)[len(vectors)] and 0.3 < likelihood < 1
    assert values[name] == pytest.approx(likelihood, rel=2e-3)
    assert np.allclose(site_order_parameters(vectors, np.ones(len(vectors))), of_neighbors(fingerprint, vectors), atol=1e-6)


def neighbors(seed, n):
    "Random neighbours, of random weights of which some are equal"
    rng = np.random.default_rng(seed)
    weights = np.sort(rng.choice([1, 0.97, 0.8, 0.5, 0.401, 0.4, 0.2, 0.1, 0.01], size=n))[::-1]
    return 2 * rng.normal(size=(n, 3)), weights, rng


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**9), st.integers(1, 20))
def test_rotation_and_length_do_not_matter(seed, n):
    vectors, weights, rng = neighbors(seed, n)
    turned = Rotation.random(random_state=seed % 2**32).apply(vectors) * rng.uniform(0.5, 2, size=(n, 1))
    assert np.allclose(site_order_parameters(turned, weights), site_order_parameters(vectors, weights), atol=1e-6)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**9), st.integers(1, 20))
def test_order_of_equal_neighbors_matters_for_the_cube_only(seed, n):
    vectors, weights, rng = neighbors(seed, n)
    shuffled = np.lexsort((rng.random(n), -weights))
    before, after = site_order_parameters(vectors, weights), site_order_parameters(vectors[shuffled], weights)
    assert np.allclose(np.delete(before, BCC), np.delete(after, BCC), atol=1e-9)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 1000), max_size=40))
def test_likelihoods_sum_to_one(thousandths):
    weights = np.sort(np.array(thousandths, float) / 1000)[::-1]
    likelihood, best = coordination_weights(weights), likeliest_coordination(weights)
    assert (likelihood >= 0).all() and best <= len(weights)
    if len(weights) <= 24: assert likelihood.sum() == pytest.approx(1) and likelihood[best] == likelihood.max()


def test_no_neighbor_and_one():
    assert not site_order_parameters(np.zeros((0, 3)), np.zeros(0)).any()
    assert coordination_weights(np.zeros(0))[0] == 1 and likeliest_coordination(np.zeros(0)) == 0
    one = site_order_parameters([[0, 0, 2.0]], np.ones(1))
    assert {name: v for name, v in zip(NAMES, one) if v} == {"wt CN_1": 1, "sgl_bd CN_1": 1}


def test_more_neighbors_than_the_fingerprint_has():
    many = site_order_parameters(np.random.default_rng(0).normal(size=(30, 3)), np.ones(30))
    assert not many.any() and likeliest_coordination(np.ones(30)) == 30


def test_sites_do_not_see_each_other():
    sites = [neighbors(seed, n)[:2] for seed, n in enumerate((0, 3, 12, 1, 8, 0, 20, 6))]
    starts = np.cumsum([0, *(len(w) for _, w in sites)])
    together = order_parameters(starts, np.vstack([v for v, _ in sites]), np.concatenate([w for _, w in sites]))
    assert together.shape == (8, 61) and np.array_equal(together, [site_order_parameters(v, w) for v, w in sites])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="weights need as many vectors"): order_parameters([0, 2], np.ones((3, 3)), np.ones(3))
    with pytest.raises(ValueError, match="weights need as many vectors"): order_parameters([0, 3], np.ones((2, 3)), np.ones(3))
