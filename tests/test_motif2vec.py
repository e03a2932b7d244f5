"""Motif2Vec against counts made by hand, scikit-learn, and a world whose answer is known."""
import itertools
import json
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.decomposition import TruncatedSVD

from motiflab.errors import UserError
from motiflab.motif2vec import COUNTS, OWN, WEIGHTINGS, Motif2Vec, UnknownKind, environment_matrix, own_element_columns, weight_environments
from motiflab.motifs.table import CONNECTION_FIELDS, MOTIF_FIELDS, MotifTable, concat_motifs


def table(motifs, connections) -> MotifTable:
    "From (crystal, site, kind) and (crystal, site_i, site_j, sharing)"
    m = pd.DataFrame([(c, s, *k.split("|")) for c, s, k in motifs], columns=["crystal_id", "site", "element", "symbol"])
    c = pd.DataFrame(connections, columns=["crystal_id", "site_i", "site_j", "kind"])
    return MotifTable(m.reindex(columns=list(MOTIF_FIELDS)), c.reindex(columns=list(CONNECTION_FIELDS)))


def random_table(n_crystals=300, n_elements=12, seed=0) -> MotifTable:
    "Crystals of 4 to 12 motifs, connected at random, neighbours depending on the element"
    rng = np.random.default_rng(seed)
    elements = ["Li", "Na", "Mg", "Ca", "Ti", "V", "Fe", "Zn", "Al", "Si", "La", "Y"][:n_elements]
    size = rng.integers(4, 13, n_crystals)
    crystal = np.repeat(np.arange(n_crystals), size)
    site = np.concatenate([np.arange(s) for s in size])
    m = pd.DataFrame(dict(crystal_id=crystal, site=site, element=rng.choice(elements, len(site)), symbol=rng.choice(["O:6", "T:4"], len(site))))
    i = rng.integers(0, size[crystal])
    c = pd.DataFrame(dict(crystal_id=crystal, site_i=site, site_j=i, kind=rng.choice(["corner", "edge", "face"], len(site))))
    return MotifTable(m.reindex(columns=list(MOTIF_FIELDS)), c.reindex(columns=list(CONNECTION_FIELDS)))


def dense(t, count="site"):
    e, kinds, contexts = environment_matrix(t, count)
    return pd.DataFrame(e.toarray(), kinds, contexts)


# ---- counting

def test_each_end_counts_once():
    d = dense(table([(0, 0, "Zn|T:4"), (0, 1, "Ti|O:6")], [(0, 0, 1, "corner")]))
    assert d.loc["Zn|T:4", ("Ti|O:6", "corner")] == 1 and d.loc["Ti|O:6", ("Zn|T:4", "corner")] == 1 and d.to_numpy().sum() == 2


def test_own_image_counts_twice():
    "The octahedron of a cubic perovskite has 6 corner-sharing neighbours, in one cell as in a doubled one"
    one = table([(0, 0, "Ti|O:6")], [(0, 0, 0, "corner")] * 3)
    two = table([(0, 0, "Ti|O:6"), (0, 1, "Ti|O:6")], [(0, 0, 0, "corner"), (0, 1, 1, "corner")] * 2 + [(0, 0, 1, "corner")] * 2)
    assert dense(one, "crystal").iloc[0, 0] == dense(two, "crystal").iloc[0, 0] == 6
    assert dense(one, "site").iloc[0, 0] == 6 and dense(two, "site").iloc[0, 0] == 12


def test_a_loop_over_connections_agrees():
    t = random_table(40)
    expected, kind = {}, dict(zip(zip(t.motifs.crystal_id, t.motifs.site), t.kinds))
    for c, i, j, how in t.connections[["crystal_id", "site_i", "site_j", "kind"]].itertuples(index=False):
        for a, b in ((i, j), (j, i)):
            key = (kind[c, a], (kind[c, b], how))
            expected[key] = expected.get(key, 0) + 1
    d = dense(t)
    assert d.to_numpy().sum() == sum(expected.values()) and all(d.loc[k, c] == n for (k, c), n in expected.items())


def test_isolated_kinds_are_counted_but_have_no_vector():
    m = Motif2Vec().fit(table([(0, 0, "Zn|T:4"), (0, 1, "Ti|O:6"), (1, 0, "Na|UNKNOWN:0")], [(0, 0, 1, "corner")]))
    assert m.counts_["Na|UNKNOWN:0"] == 1 and "Na|UNKNOWN:0" not in m.vectors_.index and m.n_crystals_ == 2
    with pytest.raises(UnknownKind, match="shares no ligand"): m.most_similar("Na|UNKNOWN:0")


def test_contradictory_tables_are_refused():
    t = random_table(5)
    with pytest.raises(UserError, match="twice"): Motif2Vec().fit(concat_motifs([t, t]))
    with pytest.raises(UserError, match="table lacks"): Motif2Vec().fit(MotifTable(t.motifs.iloc[1:], t.connections, t.skipped))
    with pytest.raises(UserError, match="corner, edge, face"): Motif2Vec().fit(table([(0, 0, "Zn|T:4"), (0, 1, "Ti|O:6")], [(0, 0, 1, "side")]))
    with pytest.raises(UserError, match="nothing to learn"): Motif2Vec().fit(table([(0, 0, "Zn|T:4")], []))
    with pytest.raises(UserError, match="nothing to learn"): Motif2Vec().fit(MotifTable())


# ---- weighting and decomposition

def test_ppmi_by_hand():
    e, _, _ = environment_matrix(random_table())
    n = e.toarray()
    with np.errstate(divide="ignore"):
        pmi = np.log(n * n.sum() / np.outer(n.sum(axis=1), n.sum(axis=0)))
    assert np.allclose(weight_environments(e, "ppmi", n.sum(axis=0) / n.sum()).toarray(), np.maximum(0, pmi))
    assert np.allclose(weight_environments(e, "row", n.sum(axis=0) / n.sum()).sum(axis=1), 1)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_is_sklearns_truncated_svd(weighting):
    m = Motif2Vec(5, weighting, own="named").fit(random_table())
    w = weight_environments(m.environment_, weighting, m.column_share_)
    theirs = TruncatedSVD(5, algorithm="arpack", random_state=0)
    vectors = theirs.fit_transform(w)
    assert np.allclose(theirs.singular_values_, m.singular_values_)
    assert np.allclose(theirs.explained_variance_ratio_, m.explained_variance_ratio_)
    assert np.allclose(np.abs(vectors), np.abs(m.vectors_), atol=1e-6)


def test_more_dimensions_than_rank_are_clipped():
    m = Motif2Vec(60).fit(random_table(n_elements=3))
    assert m.vectors_.shape == (6, len(m.singular_values_)) and m.vectors_.shape[1] <= 6 and m.explained_variance_ratio_.sum() <= 1 + 1e-9


def test_same_seed_same_vectors_and_row_order_does_not_matter():
    t = random_table()
    shuffled = MotifTable(t.motifs.sample(frac=1, random_state=1), t.connections.sample(frac=1, random_state=2), t.skipped)
    a, b, c = (Motif2Vec(6).fit(x).vectors_ for x in (t, t, shuffled))
    assert a.equals(b)
    assert np.allclose(a, c, atol=1e-6)


def test_it_is_a_sklearn_transformer():
    m = Motif2Vec(7, "row", "site", "named", seed=3)
    assert clone(m).get_params() == m.get_params() == dict(n_components=7, weighting="row", count="site", own="named", seed=3)
    t = random_table()
    assert np.allclose(m.fit_transform(t), m.transform(t)) and len(m.get_feature_names_out()) == 7
    frame = clone(m).set_output(transform="pandas").fit_transform(t)
    assert list(frame.columns) == list(m.get_feature_names_out())
    assert len(pickle.dumps(m)) > 0 # joblib sends estimators to processes


@pytest.mark.parametrize("bad", [dict(weighting="pmi"), dict(count="crystals"), dict(own="sme"), dict(n_components=0), dict(n_components=2.5)])
def test_unknown_options(bad):
    with pytest.raises(UserError, match="did you mean|has to be"): Motif2Vec(**bad).fit(random_table(5))


# ---- the row's own element

def test_own_element_by_hand():
    t = table([(0, 0, "Zn|T:4"), (0, 1, "Zn|O:6"), (0, 2, "Ti|O:6"), (1, 0, "Mg|T:4"), (1, 1, "Mg|O:6"), (1, 2, "Ti|O:6")],
              [(0, 0, 1, "corner"), (0, 0, 2, "edge"), (1, 0, 1, "corner"), (1, 0, 2, "edge")])
    m = {own: Motif2Vec(own=own, weighting="counts", count="site").fit(t) for own in OWN}
    assert np.isclose(m["same"].most_similar("Zn|T:4", 1).similarity.iloc[0], 1) and m["same"].most_similar("Zn|T:4", 1).index[0] == "Mg|T:4"
    assert ("=|O:6", "corner") in m["same"].columns_ and ("Zn|O:6", "corner") not in m["same"].columns_
    assert m["named"].columns_.equals(m["named"].contexts_) and m["named"].most_similar("Zn|T:4").similarity["Mg|T:4"] < 0.9
    assert set(m["omit"].vectors_.index) == {"Zn|T:4", "Mg|T:4", "Ti|O:6"} # the octahedra see nothing but their own element
    for v in m.values(): assert v.environment_.sum() == 8 and list(v.environment("Zn|T:4").neighbor) == ["Ti|O:6", "Zn|O:6"]


def test_own_element_keeps_every_count():
    e, kinds, contexts = environment_matrix(random_table())
    elements = np.array([k.split("|")[0] for k in kinds])
    same, columns = own_element_columns(e, elements, contexts, "same")
    omit, others = own_element_columns(e, elements, contexts, "omit")
    relative = columns.get_level_values("neighbor").str.startswith("=")
    assert np.allclose(same.sum(axis=1), e.sum(axis=1)) and np.isclose(same[:, np.flatnonzero(relative)].sum() + omit.sum(), e.sum())
    assert not others.get_level_values("neighbor").str.startswith("=").any()


def test_an_unseen_element_is_placed_by_its_neighbours():
    m = Motif2Vec().fit(random_table())
    v = m.transform(table([(0, 0, "Xe|O:6"), (0, 1, "Xe|O:6"), (0, 2, "Ti|T:4")], [(0, 0, 1, "edge"), (0, 0, 2, "corner")]))
    assert v[0].any() and v[1].any() # an octahedron like itself is known, whatever the element


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_one_crystal_is_enough(weighting, own, tmp_path):
    "Rutile: one kind, two columns; there may be nothing to tell apart, but nothing breaks"
    t = table([(0, 0, "Ti|O:6"), (0, 1, "Ti|O:6")], [(0, 0, 1, "corner")] * 8 + [(0, 0, 0, "edge"), (0, 1, 1, "edge")])
    m = Motif2Vec(weighting=weighting, own=own).fit(t)
    again = Motif2Vec.load(m.save(tmp_path))
    assert m.counts_["Ti|O:6"] == 2 and m.transform(t).shape == (2, len(m.components_)) and again.vectors_.shape == m.vectors_.shape
    assert len(m.project("tsne")) == len(m.cluster()) == len(m.vectors_)


# ---- transform

def test_a_motif_with_its_kinds_environment_gets_its_kinds_vector():
    "One kind a crystal: each motif's own row is its kind's row, so the vectors are the same but for the scale of counts"
    t = table([(0, 0, "Zn|T:4"), (0, 1, "Ti|O:6"), (0, 2, "La|C:8")], [(0, 0, 1, "corner"), (0, 1, 2, "edge"), (0, 1, 2, "face"), (0, 2, 2, "corner")])
    for weighting, own in itertools.product(WEIGHTINGS, ("same", "named")):
        m = Motif2Vec(60, weighting, "site", own).fit(t)
        assert np.allclose(m.transform(t), m.vectors_.loc[t.kinds])


def test_mean_of_single_motifs_is_the_kind_with_counts():
    t = random_table()
    m = Motif2Vec(8, "counts", "site", "named").fit(t)
    assert np.allclose(pd.DataFrame(m.transform(t)).groupby(t.kinds.to_numpy()).sum(), m.vectors_)


def test_unseen_neighbours_and_lonely_motifs():
    m = Motif2Vec().fit(random_table())
    new = table([(0, 0, "Ti|O:6"), (0, 1, "Xe|L:2"), (0, 2, "Li|T:4"), (1, 0, "Fe|O:6")], [(0, 0, 1, "corner"), (0, 0, 2, "corner")])
    only = table([(0, 0, "Ti|O:6"), (0, 2, "Li|T:4")], [(0, 0, 2, "corner")])
    v = m.transform(new)
    assert np.allclose(v[0], m.transform(only)[0]) and v[0].any() # what is known is used
    assert not v[3].any() and v[1].any() # no neighbours: zeros; an unseen kind with a known neighbour has a place
    assert m.transform(MotifTable()).shape == (0, len(m.components_))
    with pytest.raises(UserError, match="MotifTable"): m.transform([1, 2])


# ---- questions

@pytest.fixture(scope="module")
def families() -> MotifTable:
    "Zn and Mg share corners with Ti, La and Y edges with Al; Zn and La as tetrahedra do both the other way"
    rng, motifs, pairs = np.random.default_rng(0), [], []
    what = [("Zn|O:6", "Ti|O:6", "corner"), ("Mg|O:6", "Ti|O:6", "corner"), ("La|O:6", "Al|O:6", "edge"), ("Y|O:6", "Al|O:6", "edge"),
            ("Zn|T:4", "Ti|O:6", "face"), ("Mg|T:4", "Ti|O:6", "face")]
    for c in range(120):
        a, b, how = what[c % 6]
        motifs += [(c, 0, a), (c, 1, b if rng.random() < 0.8 else "Si|T:4")]
        pairs += [(c, 0, 1, how)]
    return table(motifs, pairs)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_kinds_that_share_environments_are_neighbours(families, weighting, count):
    m = Motif2Vec(60, weighting, count).fit(families)
    for a, b in (("Zn|O:6", "Mg|O:6"), ("La|O:6", "Y|O:6"), ("Mg|T:4", "Zn|T:4")):
        assert m.most_similar(a, 1).index[0] == b and m.most_similar(b, 1).similarity.iloc[0] > 0.8


def test_analogy(families):
    m = Motif2Vec().fit(families)
    assert m.analogy("Zn|T:4", "Zn|O:6", "Mg|T:4", n=1).index[0] == "Mg|O:6"


def test_most_similar_is_a_table_with_counts(families):
    m = Motif2Vec().fit(families)
    found = m.most_similar("Zn|O:6", n=3)
    assert list(found.columns) == ["similarity", "count", "crystals"] and len(found) == 3 and found.similarity.is_monotonic_decreasing
    assert "Zn|O:6" not in found.index and found.similarity.between(-1 - 1e-9, 1 + 1e-9).all()
    assert (m.most_similar("Zn|O:6", min_count=25)["count"] >= 25).all()


def test_unknown_kind_names_near_misses(families):
    m = Motif2Vec().fit(families)
    with pytest.raises(UnknownKind, match=r"Zn\|T:4"): m.most_similar("Zn|T4")
    with pytest.raises(KeyError): m.environment("Zn|T4")
    with pytest.raises(UserError) as e: m.analogy("Zn|T:4", "zn|o:6", "Mg|T:4")
    assert str(e.value).startswith("No motif of kind 'zn|o:6' was seen: did you mean Zn|O:6")
    with pytest.raises(UserError, match="an element and a geometry"): m.most_similar("???")


def test_environment_names_what_surrounds_a_kind(families):
    e = Motif2Vec(count="site").fit(families).environment("Zn|T:4")
    assert e.neighbor[0] == "Ti|O:6" and e.sharing[0] == "face" and e["count"].sum() == 20 and np.isclose(e.share.sum(), 1)


# ---- files

@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_save_and_load(tmp_path, weighting, own):
    t = random_table()
    m = Motif2Vec(6, weighting, "crystal", own, 4).fit(t)
    again = Motif2Vec.load(m.save(tmp_path / "deep" / "model", data="random", n=3))
    assert again.get_params() == m.get_params() and again.provenance_ == dict(data="random", n=3)
    assert np.allclose(again.vectors_, m.vectors_, rtol=1e-4, atol=1e-5) and (again.environment_ != m.environment_).nnz == 0
    assert again.counts_.equals(m.counts_) and again.crystals_.equals(m.crystals_) and again.contexts_.equals(m.contexts_)
    assert np.allclose(again.transform(t), m.transform(t), rtol=1e-4, atol=1e-4)
    assert again.n_crystals_ == 300 and again.most_similar("Ti|O:6").index.equals(m.most_similar("Ti|O:6").index)
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("*.pkl"))


def test_ids_like_na_survive(tmp_path):
    m = Motif2Vec().fit(table([(0, 0, "Na|O:6"), (0, 1, "NaN|O:6")], [(0, 0, 1, "corner")]))
    assert list(Motif2Vec.load(m.save(tmp_path)).counts_.index) == ["NaN|O:6", "Na|O:6"]


def test_broken_folders(tmp_path):
    with pytest.raises(UserError, match="no model.json"): Motif2Vec.load(tmp_path)
    m = Motif2Vec().fit(random_table(20))
    m.save(tmp_path)
    good = (tmp_path / "arrays.safetensors").read_bytes()
    (tmp_path / "arrays.safetensors").write_bytes(good[:-8])
    with pytest.raises(UserError, match="does not belong"): Motif2Vec.load(tmp_path)
    (tmp_path / "arrays.safetensors").unlink()
    with pytest.raises(UserError, match="not a whole Motif2Vec"): Motif2Vec.load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(UserError, match="not a whole Motif2Vec"): Motif2Vec.load(tmp_path)


def test_a_failed_save_leaves_the_old_model(tmp_path, monkeypatch):
    from pathlib import Path
    old = Motif2Vec(seed=1).fit(random_table(20))
    old.save(tmp_path)
    def full(self, data): raise OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"): Motif2Vec().fit(random_table(30)).save(tmp_path)
    monkeypatch.undo()
    assert Motif2Vec.load(tmp_path).seed == 1 and not list(tmp_path.glob("*.part"))


def test_reweighted_is_a_new_fit():
    t = random_table()
    m = Motif2Vec(6, "counts").fit(t)
    assert np.allclose(m.reweighted(weighting="ppmi").vectors_, Motif2Vec(6, "ppmi").fit(t).vectors_)
    assert m.weighting == "counts" and m.reweighted(n_components=2).vectors_.shape[1] == 2
    with pytest.raises(UserError, match="did you mean 'ppmi'"): m.reweighted(weighting="ppm")
    with pytest.raises(UserError, match="option='count'"): m.reweighted(count="site")


# ---- size

def test_as_many_connections_as_a_quarter_of_all_oxides():
    "6,000 crystals and 400,000 connections; the 26,500 oxides of the Materials Project have about four times as many"
    rng = np.random.default_rng(0)
    crystal = np.repeat(np.arange(6000), 12)
    site = np.tile(np.arange(12), 6000)
    m = pd.DataFrame(dict(crystal_id=crystal, site=site, element=rng.choice([f"E{i}" for i in range(70)], 72000), symbol=rng.choice([f"S:{i}" for i in range(12)], 72000)))
    k = rng.integers(0, 6000, 400_000)
    c = pd.DataFrame(dict(crystal_id=k, site_i=rng.integers(0, 12, len(k)), site_j=rng.integers(0, 12, len(k)), kind=rng.choice(["corner", "edge", "face"], len(k))))
    t = MotifTable(m.reindex(columns=list(MOTIF_FIELDS)), c.reindex(columns=list(CONNECTION_FIELDS)))
    model = Motif2Vec(count="site").fit(t)
    assert model.vectors_.shape == (840, 60) and model.transform(t).shape == (72000, 60)
    assert model.environment_.sum() == 2 * len(c)  # every connection is seen from both of its ends


# ---- the shipped model

def test_shipped_model():
    from motiflab.shipped import shipped_names
    if "motif2vec_oxides" not in shipped_names(): pytest.skip("no vectors are shipped yet")
    m = Motif2Vec.shipped()
    assert m.vectors_.shape[1] == 60 and m.n_crystals_ >= 2500 and m.vectors_.index.is_unique
    assert m.provenance_["license"] == "CC BY 4.0" and "Materials Project" in m.provenance_["source"]
    assert {"Ti|O:6", "Si|T:4", "Zn|T:4", "La|C:8"} <= set(m.vectors_.index)
    again = m.reweighted()
    assert np.allclose(np.abs(again.singular_values_), m.singular_values_, rtol=1e-5)
    assert json.dumps(m.provenance_)
