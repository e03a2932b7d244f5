"""The continuous symmetry measure against every permutation, against ChemEnv's own search, and what must not change it."""
from itertools import permutations

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from motiflab.errors import UserError
from motiflab.motifs.measure import closest_shape, symmetry_measures
from motiflab.motifs.polyhedra import geometry_symbols, ideal_vertices

NUMBER = {symbol: int(symbol.split(":")[1]) for symbol in geometry_symbols()}
MANY = settings(deadline=None, max_examples=60)


def of_number(n): return [symbol for symbol in geometry_symbols() if NUMBER[symbol] == n]


def centred(vectors):
    "Centre and ligands from their common centroid, their squares adding up to one"
    points = np.vstack([np.zeros(3), vectors])
    points = points - points.mean(axis=0)
    return points / np.linalg.norm(points)


def by_all_permutations(vectors, symbol):
    "The definition: the best of all assignments, by singular values, reflections included"
    d, p = centred(vectors), centred(ideal_vertices(symbol))
    orders = np.array(list(permutations(range(1, len(d)))), int).reshape(-1, len(d) - 1)
    overlap = d[0][:, None] * p[0] + np.einsum("mki,kj->mij", d[orders], p[1:])
    return 100 * (1 - np.linalg.svd(overlap, compute_uv=False).sum(axis=1).max() ** 2)


def distorted(symbol, seed, size):
    "Ideal vertices of mean length 2, moved, turned and shuffled"
    rng = np.random.default_rng([seed, *symbol.encode()])
    vertices = ideal_vertices(symbol)
    vertices = 2 * vertices / np.linalg.norm(vertices, axis=1).mean() + rng.normal(scale=size, size=vertices.shape)
    return Rotation.random(random_state=int(rng.integers(2**31))).apply(rng.permutation(vertices))


@pytest.mark.parametrize("symbol", [s for s, n in NUMBER.items() if n <= 7])
def test_best_of_all_permutations(symbol):
    for seed in range(3 if NUMBER[symbol] < 7 else 1):
        for vectors in (distorted(symbol, seed, 0.2), np.random.default_rng(seed).normal(size=(NUMBER[symbol], 3))):
            assert closest_shape(vectors, symbol).csm == pytest.approx(by_all_permutations(vectors, symbol), abs=1e-7)


FLAT = {"line": [1, 0, 0], "plane": [1, 1, 0], "almost a line": [1, 1e-6, 1e-7], "almost a plane": [1, 1, 1e-7]}


@pytest.mark.parametrize("n", range(2, 7))
@pytest.mark.parametrize("scale", FLAT.values(), ids=FLAT)
def test_best_of_all_permutations_where_ligands_lie_flat(n, scale):
    "There the rotation that fits best is not unique"
    vectors = np.random.default_rng(n).normal(size=(n, 3)) * scale
    for symbol, csm in symmetry_measures(vectors).items(): assert csm == pytest.approx(by_all_permutations(vectors, symbol), abs=1e-6)


def test_best_of_all_permutations_where_ligands_coincide():
    vectors = np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, -1]])
    for n in range(1, 7):
        for symbol, csm in symmetry_measures(vectors[:n]).items(): assert csm == pytest.approx(by_all_permutations(vectors[:n], symbol), abs=1e-6)


@pytest.mark.parametrize("symbol", [s for s, n in NUMBER.items() if 2 <= n <= 13])
def test_chemenv_finds_the_same_for_mild_distortions(symbol):
    vectors = distorted(symbol, 0, 0.1)
    csm, _ = oracle.chemenv_measure(vectors, symbol)
    found = closest_shape(vectors, symbol)
    assert found.csm == pytest.approx(csm, abs=1e-6)
    assert oracle.measure(vectors, symbol, np.argsort(found.vertices)) == pytest.approx(found.csm, abs=1e-8)


@pytest.mark.parametrize("n", range(2, 14))
def test_never_above_chemenv(n):
    "For other shapes than their own, and for random ligands, ChemEnv's search may miss the optimum; ours is the measure of its assignment"
    for vectors in (distorted(of_number(n)[0], 1, 0.3), np.random.default_rng(n).normal(size=(n, 3))):
        for symbol in of_number(n)[:4]:
            found = closest_shape(vectors, symbol)
            assert found.csm <= oracle.chemenv_measure(vectors, symbol)[0] + 1e-7
            assert oracle.measure(vectors, symbol, np.argsort(found.vertices)) == pytest.approx(found.csm, abs=1e-7)


@pytest.mark.parametrize("symbol", geometry_symbols())
def test_an_ideal_polyhedron_is_its_own_and_keeps_its_vertices(symbol):
    vertices = 2.3 * ideal_vertices(symbol)
    assert closest_shape(vertices, symbol).csm < 1e-9
    assert closest_shape(vertices).csm < 1e-9
    if NUMBER[symbol] > 1: assert oracle.measure(vertices, symbol, np.argsort(closest_shape(vertices, symbol).vertices)) < 1e-9


@MANY
@given(st.integers(0, 10**9), st.sampled_from([s for s, n in NUMBER.items() if n <= 13]), st.sampled_from([0.0, 0.05, 0.2, 1.0]))
def test_what_does_not_change_the_measure(seed, symbol, size):
    "Rotation, reflection, scale and the order of ligands"
    vectors, rng = distorted(symbol, seed, size), np.random.default_rng(seed)
    before = closest_shape(vectors)
    turned = Rotation.random(random_state=seed % 2**32).apply(vectors)
    for other in (turned, -vectors, vectors * [1, 1, -1], vectors * 10 ** rng.uniform(-2, 2), rng.permutation(vectors)):
        after = closest_shape(other)
        assert after.csm == pytest.approx(before.csm, abs=1e-6)
        if after.symbol != before.symbol:  # only where two shapes are as close as each other
            assert closest_shape(vectors, after.symbol).csm == pytest.approx(before.csm, abs=1e-6)


@MANY
@given(st.integers(0, 10**9), st.integers(2, 13))
def test_the_closest_is_the_lowest_of_all(seed, n):
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    found, measures = closest_shape(vectors), symmetry_measures(vectors)
    assert list(measures) == sorted(measures, key=measures.get) and set(measures) == set(of_number(n))
    assert found.csm == pytest.approx(min(measures.values()), abs=1e-6) and measures[found.symbol] == pytest.approx(found.csm, abs=1e-6)
    assert sorted(found.vertices) == list(range(n)) and 0 <= found.csm <= 100


@MANY
@given(st.integers(0, 10**9), st.integers(1, 6))
def test_random_ligands_by_all_permutations(seed, n):
    vectors = np.random.default_rng(seed).normal(size=(n, 3)) * np.random.default_rng(seed + 1).choice([1, 0.01, 1e-5], size=3)
    for symbol, csm in symmetry_measures(vectors).items(): assert csm == pytest.approx(by_all_permutations(vectors, symbol), abs=1e-6)


def test_numbers_without_a_shape():
    assert closest_shape(np.zeros((0, 3))).symbol == "UNKNOWN:0"
    for n in (14, 17, 25, 40):
        found = closest_shape(np.random.default_rng(n).normal(size=(n, 3)))
        assert found.symbol == f"UNKNOWN:{n}" and np.isnan(found.csm) and found.vertices == ()
    assert closest_shape([[0, 0, 2.0]]).symbol == "S:1" and closest_shape([[0, 0, 2.0]]).csm == pytest.approx(0, abs=1e-9)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="O:6"): closest_shape(np.eye(3), "O6")
    with pytest.raises(ValueError, match="O:6"): closest_shape(np.eye(3), "O:6")


@pytest.mark.parametrize("vectors", [[[np.nan, 0, 0], [1, 0, 0]], [[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[np.inf, 0, 0]]])
def test_vectors_without_a_direction_are_refused(vectors):
    with pytest.raises(ValueError, match="finite vectors"): closest_shape(np.array(vectors))
