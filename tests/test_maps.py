"""Maps, clusters and neighbours of vectors whose groups are known."""
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from motiflab.errors import UserError
from motiflab.maps import METHODS, cluster_vectors, nearest_rows, neighbor_purity, neighbor_rank, project_vectors, truncated_svd


@pytest.fixture(autouse=True)
def same_threads():
    "UMAP starts OpenMP's threads, once in a process: how many torch uses is not its business"
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 4, 5, 7])
def test_small_maps(method, n):
    v = pd.DataFrame(np.random.default_rng(0).normal(size=(n, 4)), [f"k{i}" for i in range(n)])
    xy = project_vectors(v, method)
    assert list(xy.columns) == ["x", "y"] and xy.index.equals(v.index) and np.isfinite(xy).all(axis=None)


@pytest.mark.parametrize("method", METHODS)
def test_maps_keep_groups_apart_and_repeat(method):
    rng = np.random.default_rng(0)
    v = pd.DataFrame(np.repeat(np.eye(3, 10), 20, axis=0) + 0.05 * rng.normal(size=(60, 10)))
    xy = project_vectors(v, method, seed=1)
    assert xy.equals(project_vectors(v, method, seed=1))
    d = np.linalg.norm(xy.to_numpy()[:, None] - xy.to_numpy()[None], axis=2) + np.eye(60) * 1e9
    assert (d.argmin(axis=1) // 20 == np.arange(60) // 20).all()


def test_empty_map():
    assert project_vectors(pd.DataFrame(np.zeros((0, 4))), "tsne").shape == (0, 2)
    with pytest.raises(UserError, match="did you mean 'tsne'"): project_vectors(pd.DataFrame(np.eye(3)), "t-sne")


@pytest.mark.parametrize("method", ["hdbscan", "kmeans"])
def test_clusters(method):
    v = pd.DataFrame(np.repeat(np.eye(3, 10), 20, axis=0) + 0.05 * np.random.default_rng(0).normal(size=(60, 10)))
    labels = cluster_vectors(v, method, n_clusters=3)
    assert labels.index.equals(v.index) and labels.groupby(np.arange(60) // 20).nunique().eq(1).all() and labels.nunique() == 3
    assert len(cluster_vectors(v.head(2), method)) == 2
    with pytest.raises(UserError, match="did you mean 'kmeans'"): cluster_vectors(v, "k-means")


# ---- decomposition and neighbours

@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (300, 400)])
def test_svd_is_numpys(shape):
    w = sparse.random(*shape, density=0.3, random_state=0, format="csr")
    s, vt = truncated_svd(w, 4, 0)
    assert np.allclose(s, np.linalg.svd(w.toarray(), compute_uv=False)[:4]) and np.allclose(vt @ vt.T, np.eye(4), atol=1e-8)
    assert (vt[np.arange(4), np.abs(vt).argmax(axis=1)] > 0).all()
    assert len(truncated_svd(sparse.csr_matrix(shape), 4, 0)[0]) == 0


def test_neighbours_of_points():
    v = pd.DataFrame([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], list("abcd"))
    assert nearest_rows(v, 1).ravel().tolist() == [1, 0, 3, 2] and nearest_rows(v, 99).shape == (4, 3)
    assert neighbor_rank(v, "a", "b") == 1 and neighbor_rank(v, "a", "c") == 3
    with pytest.raises(UserError, match="z has no vector"): neighbor_rank(v, "a", "z")


def test_purity_and_its_baseline():
    v = pd.DataFrame(np.repeat(np.eye(4, 10), 10, axis=0) + 0.05 * np.random.default_rng(0).normal(size=(40, 10)))
    found = neighbor_purity(v, np.repeat(list("abcd"), 10), k=5)
    assert found["purity"] == 1 and abs(found["shuffled"] - 9 / 39) < 0.03 and found["shuffled_sd"] < 0.1 and found["points"] == 40
    assert neighbor_purity(v, np.repeat(list("abcd"), 10), of=np.arange(40) < 10)["points"] == 10
    assert neighbor_purity(v, np.repeat(list("abcd"), 10), k=5, seed=1) == neighbor_purity(v, np.repeat(list("abcd"), 10), k=5, seed=1)
    with pytest.raises(UserError, match="one for each"): neighbor_purity(v, ["a"])
