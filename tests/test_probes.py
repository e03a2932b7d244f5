"Probes: what a model can tell of crystals, beside what the formula alone tells, and every way in which one cannot be asked"
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from motiflab.baselines import CompositionForest, composition_statistics
from motiflab.cli import run
from motiflab.crystals import CrystalSet, read_crystals
from motiflab.embeddings import Embedding, encoded, read_embedding, read_off
from motiflab.errors import UserError
from motiflab.graphs import AtomGraph, GraphSettings
from motiflab.models import build_model
from motiflab.probe_targets import probe_split
from motiflab.probes import Probe
from motiflab.recipes import recipe
from motiflab.targets import Split, split_by_seed

GRAPHS = GraphSettings(AtomGraph(neighbors=8, cutoff=6.0))
COMMON = "Li Na K Mg Ca Sr Ba Al Si Zn O S F Cl P".split()
QUICK = dict(graphs=GRAPHS, settings=dict(epochs=6, batch_size=16, learning_rate=5e-3, accelerator="cpu"), baseline=None)
SMALL = dict(name="cgcnn", n_blocks=1, width=16, hidden=16)


def with_columns(crystals):
    "The crystals with quantities that anyone can check"
    frame = crystals.frame.copy()
    frame["volume"] = [s.volume / len(s) for s in frame.structure]
    frame["heavy"] = [s.density for s in frame.structure]
    frame["anion"] = ["oxide" if "O" in s.composition else "other" for s in frame.structure]
    frame["constant"], frame["empty"] = 2.0, np.nan
    return CrystalSet(frame)


@pytest.fixture(scope="module")
def crystals(): return with_columns(read_crystals("matbench_dielectric", progress=False).filter(only=COMMON, max_sites=8).sample(120, seed=3))


@pytest.fixture(scope="module")
def vectors(crystals):
    "An embedding that is the descriptors themselves, turned"
    rng = np.random.default_rng(0)
    x = np.column_stack([crystals.frame[["volume", "heavy"]].to_numpy(), rng.normal(size=(len(crystals), 3))])
    return pd.DataFrame(x @ rng.normal(size=(5, 5)), index=crystals.frame.index)


# -------------------------------------------------- baselines
def test_statistics_of_the_composition_are_matminers(crystals):
    from matminer.featurizers.composition import ElementProperty

    some = crystals.sample(12, seed=1)
    theirs = ElementProperty.from_preset("magpie", impute_nan=True)
    ours = composition_statistics(some)
    assert np.allclose(ours, [theirs.featurize(s.composition) for s in some.structures], rtol=1e-6, atol=1e-6)
    assert [c.split()[1] for c in ours.columns[::6]] == theirs.features


def test_the_forest_takes_several_targets_with_gaps(crystals):
    x, y = composition_statistics(crystals).to_numpy(), crystals.frame[["volume", "heavy"]].to_numpy(copy=True) * [1, 1000]
    y[::5, 1] = np.nan
    first, again = (CompositionForest(n_trees=20, seed=s).fit(x[:90], y[:90]).predict(x) for s in (0, 0))
    assert np.array_equal(first, again) and np.isfinite(first).all() and not np.array_equal(first, CompositionForest(n_trees=20, seed=1).fit(x[:90], y[:90]).predict(x))
    known = ~np.isnan(y[90:, 1])
    assert np.corrcoef(first[90:, 0], y[90:, 0])[0, 1] > 0.8 and np.corrcoef(first[90:, 1][known], y[90:, 1][known])[0, 1] > 0.8
    kinds = (crystals.frame["anion"] == "oxide").to_numpy(float)[:, None]
    guess = CompositionForest("classification", n_trees=20).fit(x[:90], kinds[:90]).predict(x[90:])
    assert set(np.unique(guess)) <= {0.0, 1.0} and (guess == kinds[90:]).mean() > 0.9
    with pytest.raises(UserError): CompositionForest().fit(x, np.full((len(x), 1), np.nan))


# -------------------------------------------------- embeddings
def test_an_embedding_that_is_the_descriptor_is_read_by_a_line(crystals, vectors):
    found = Probe(vectors, ["volume", "heavy", "n"], readers=["ridge"], baseline=None).run(crystals)
    assert (found.table.r2[["volume", "heavy"]] > 0.99).all() and found.table.r2["n"] < 0.9
    assert (found.table.model == "ridge").all() and (found.table.n_crystals == 12).all() and (found.table.baseline == "").all()
    assert np.allclose(found.table.mae_over_mad, found.table.mae / found.table.mad) and len(found.skipped) == 0


def test_a_shuffled_embedding_tells_nothing(crystals, vectors):
    lost = vectors.set_axis(np.random.default_rng(1).permutation(vectors.index), axis=0)
    wide = Split(np.arange(70), np.arange(70, 95), np.arange(95, 120)) # more to choose by, more to be tested on
    found = Probe(lost, ["volume", "heavy"], readers=["ridge"], baseline=None, split=wide).run(crystals)
    assert (found.table.r2 < 0.1).all() and (found.table.r2 > -0.5).all()


def test_neighbours_read_what_no_line_reads():
    rng = np.random.default_rng(0)
    x, split = rng.normal(size=(300, 2)), split_by_seed(300, (0.8, 0.1, 0.1))
    radius = np.hypot(*x.T)[:, None]
    error = {r: abs(read_off(x, radius, split, r).predicted - radius)[split.test].mean() for r in ("ridge", "knn")}
    assert error["knn"] < error["ridge"] / 2
    inside = read_off(x, (radius < 1).astype(float), split, "knn", classes=2).predicted
    assert (inside == (radius < 1))[split.test].mean() > 0.85
    with pytest.raises(UserError, match="knn"): read_off(x, radius, split, "kn")


def test_both_readers_are_kept_and_the_better_is_told(crystals, vectors):
    found = Probe(vectors, ["volume", "anion"], baseline="forest").run(crystals)
    of = found.scores.query("of == 'model'")
    assert set(of.model) == {"ridge", "knn"} and found.table.model["volume"] == "ridge"
    assert found.table.baseline_accuracy["anion"] > 0.9 >= 0 and found.table.task["anion"] == "classification" and np.isnan(found.table.r2["anion"])
    assert 0.3 < found.table.commonest["anion"] < 1


def test_missing_double_and_broken_vectors_are_rows_in_skipped(crystals, vectors):
    ids, given = list(vectors.index), vectors.copy()
    given.loc[ids[1], 0] = np.nan
    given = pd.concat([given.drop(index=ids[0]), given.loc[[ids[2]]] + 1, given.loc[[ids[3]]]])
    found = Probe(given, ["volume"], baseline=None).run(crystals)
    said = found.skipped.set_index("id").reason
    assert set(said.index) == set(ids[:3]) and "no vector" in said[ids[0]] and "missing or infinite" in said[ids[1]] and "several different" in said[ids[2]]
    assert found.facts["train"] + found.facts["validation"] + found.facts["test"] == 117 and found.table.r2["volume"] > 0.98


def test_an_embedding_of_other_crystals_is_refused(crystals, vectors):
    with pytest.raises(UserError, match="no vector of any"): Probe(vectors.set_axis([f"x{i}" for i in vectors.index], axis=0), ["volume"]).run(crystals)
    with pytest.raises(UserError, match="not a number"): Probe(vectors.astype(object).assign(name="a"), ["volume"]).run(crystals)
    with pytest.raises(UserError, match="id of each crystal"): Embedding(vectors.to_numpy())
    with pytest.raises(UserError, match="ids"): Embedding(vectors.to_numpy(), [1, 2])
    with pytest.raises(UserError): Embedding(np.zeros((4, 0)), [1, 2, 3, 4])
    assert np.array_equal(Embedding(vectors.to_numpy(), list(vectors.index)).frame, Embedding(vectors).frame)


def test_embeddings_from_files(tmp_path, vectors):
    vectors.rename(columns=str).rename_axis("id").to_csv(tmp_path / "a.csv")
    vectors.rename(columns=str).rename_axis("id").to_parquet(tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", ids=np.array([str(i) for i in vectors.index]), vectors=vectors.to_numpy())
    for name in ("a.csv", "a.parquet", "a.npz"):
        kept, skipped = read_embedding(tmp_path / name).of(list(vectors.index))
        assert np.allclose(kept, vectors) and list(kept.index) == list(vectors.index) and not len(skipped)
    (tmp_path / "b.csv").write_text("ID,x\n1,2\n")
    np.savez(tmp_path / "b.npz", vectors=vectors.to_numpy())
    (tmp_path / "c.npz").write_text("no")
    for name in ("b.csv", "b.npz", "c.npz", "none.csv", "."):
        with pytest.raises(UserError): read_embedding(tmp_path / name)


# -------------------------------------------------- networks
def test_one_network_for_all_numbers_and_one_for_classes(crystals):
    trained = []
    def make(n_outputs):
        trained.append(n_outputs)
        return build_model(**SMALL, n_outputs=n_outputs)
    crystals = CrystalSet(crystals.frame.assign(gappy=crystals.frame["volume"].where(np.arange(120) % 3 > 0)))
    asked = ["volume", "gappy", "anion"]
    found = Probe(make, asked, seeds=2, **QUICK).run(crystals)
    assert trained[1:] == [2, 2, 1, 1] and list(found.table.index) == asked and found.table.n_crystals["gappy"] < 12
    assert (found.table.r2_spread[["volume", "gappy"]] > 0).all() and len(found.scores) == 6 and 0 <= found.table.accuracy["anion"] <= 1
    test = found.predictions.query("target == 'volume' and seed == 1")
    assert len(test) == 12 and np.allclose(test.true, crystals.frame["volume"].loc[list(test.id)], rtol=1e-6)
    assert np.isclose(found.scores.query("target == 'volume' and seed == 1").mae.iloc[0], abs(test.true - test.predicted).mean(), rtol=1e-5)
    trained.clear()
    Probe(make, asked[:2], together=False, **QUICK).run(crystals)
    assert trained[1:] == [1, 1]


def test_it_learns_and_is_repeatable(crystals):
    how = QUICK | dict(settings=QUICK["settings"] | dict(epochs=25))
    first, again = (Probe(SMALL, ["volume"], seeds=[s], **how).run(crystals) for s in (3, 3))
    assert first.table.r2["volume"] > 0 and first.table.equals(again.table) and first.facts["model"] == "cgcnn"


def test_descriptors_are_computed_and_undefined_ones_left_out(crystals):
    from motiflab.descriptors import DESCRIPTORS, DescriptorBank

    found = Probe("forest", ["density", "crystal_system", "a", "volume"]).run(crystals)
    true = found.predictions.query("target == 'density'")
    assert np.allclose(true.true, [crystals[i].density for i in true.id]) and list(found.table.scope) == ["global", "global", "global", "property"]
    assert found.table.task["crystal_system"] == "classification" and found.table.accuracy["crystal_system"] > 0 and found.table.unit["a"]
    every = Probe("forest").run(crystals)
    assert list(every.table.index) == list(DESCRIPTORS) and (every.table.n_crystals > 0).all()
    bank = Probe("forest", DescriptorBank(["n_atoms", "density"], n_jobs=1)).run(crystals)
    assert list(bank.table.index) == ["n_atoms", "density"] and np.isclose(bank.table.mad["density"], found.table.mad["density"])
    overlap = crystals.structures.iloc[0].copy()
    overlap.append(overlap[0].specie, overlap[0].frac_coords + 1e-4)
    frame = crystals.frame[["structure", "volume"]].copy()
    frame.at[frame.index[5], "structure"] = overlap
    said = Probe("forest", ["mean_voronoi_cn", "volume"]).run(CrystalSet(frame)).skipped
    assert said.id.tolist() == [frame.index[5]] and said.stage.tolist() == ["descriptors"] and "mean_voronoi_cn: " in said.reason.iloc[0]


def test_model_and_baseline_are_scored_on_the_same_crystals(crystals):
    how = QUICK | dict(baseline="auto")
    found = Probe(recipe("quick", "cgcnn").but(dict(n_blocks=1, width=16, hidden=16)), ["volume", "anion"], **how).run(crystals)
    assert found.facts["baseline"] == "roost" and set(found.scores["of"]) == {"model", "baseline"} and found.table.baseline_r2.notna()["volume"]
    of = {k: set(g.id) for k, g in found.predictions.query("target == 'volume'").groupby("of")}
    assert of["model"] == of["baseline"] and "Roost" not in str(found.skipped)
    forest = Probe("forest", ["volume"]).run(crystals)
    assert forest.table.baseline["volume"] == "" and forest.table.r2["volume"] > 0.5
    with pytest.raises(UserError, match="forest"): Probe("cgcnn", baseline="forrest")


def test_the_column_split_is_taken_at_its_word(crystals):
    parts = np.where(np.arange(120) < 80, "train", np.where(np.arange(120) < 90, "val", "test"))
    own = CrystalSet(crystals.frame.assign(split=parts))
    assert Probe("forest", ["volume"]).run(own).table.n_crystals["volume"] == 30
    assert Probe("forest", ["volume"], split=None).run(own).table.n_crystals["volume"] == 12
    with pytest.raises(UserError, match="train"): Probe("forest", ["volume"]).run(CrystalSet(own.frame[own.frame["split"] != "train"]))
    with pytest.raises(UserError, match="'split'"): Probe("forest", ["volume"], split="splt").run(own)


def test_a_trained_run_is_read_frozen(crystals, tmp_path):
    from motiflab.graphs import build_graphs
    from motiflab.targets import read_targets
    from motiflab.training import TrainSettings, train

    graphs = build_graphs(crystals, GRAPHS, progress=False)
    trained = train(build_model(**SMALL), graphs, read_targets(crystals, "volume"), probe_split(crystals), TrainSettings(epochs=10, batch_size=16, accelerator="cpu"))
    direct, folder = (Probe(m, ["volume"], baseline=None).run(crystals) for m in (trained, trained.save(tmp_path / "run")))
    same = Probe(encoded(trained, crystals)[0], ["volume"], baseline=None).run(crystals)
    said = [r.predictions.sort_values(["model", "id"]).predicted.to_numpy(float) for r in (direct, folder, same)]
    assert len(said[0]) >= 12 and np.ptp(said[0]) > 0 and np.allclose(said[0], said[1], rtol=1e-3) and np.allclose(said[0], said[2], rtol=1e-3)
    assert "frozen" in direct.facts["model"]


def test_networks_are_kept_and_found_again(crystals, tmp_path):
    first = Probe(SMALL, ["volume"], **QUICK).run(crystals, folder=tmp_path)
    epochs = []
    again = Probe(SMALL, ["volume"], **QUICK).run(crystals, folder=tmp_path, callbacks=[lambda history: epochs.append(len(history))])
    assert len(list(tmp_path.glob("*/model.json"))) == 1 and not epochs and np.isclose(first.table.mae["volume"], again.table.mae["volume"])


# -------------------------------------------------- what cannot be asked
class Nothing(nn.Module):
    "A network that says NaN, from the start or for some crystals"
    def __init__(self, n_outputs, only_large=False):
        super().__init__()
        self.weight, self.n, self.only_large = nn.Parameter(torch.zeros(1)), n_outputs, only_large

    def forward(self, batch):
        atoms = torch.bincount(batch.batch, minlength=batch.num_graphs)
        out = (self.weight + 0 * atoms)[:, None].repeat(1, self.n)
        return torch.where(((atoms > 7) & (not self.training))[:, None] if self.only_large else torch.ones_like(out, dtype=torch.bool), float("nan"), out)


def test_a_network_that_says_nan(crystals):
    found = Probe(Nothing, ["volume", "heavy", "anion"], **QUICK).run(crystals)
    assert (found.table.n_crystals == 0).all() and found.table.r2.isna().all() and set(found.skipped.id) == {"volume", "heavy", "anion"}
    assert found.table.note.str.contains("NaN").all() and found.table.note.str.startswith("Nothing: ").all()
    with pytest.raises(UserError, match="no score"): found.figure()


def test_the_others_survive_a_target_that_cannot_be_learned(crystals):
    class Spoilt(Nothing):
        def forward(self, batch): return torch.full((batch.num_graphs, self.n), float("nan")) * self.weight if self.n == 2 else self.weight.expand(batch.num_graphs, 1)
    found = Probe(Spoilt, ["volume", "heavy"], **QUICK).run(crystals)
    assert (found.table.n_crystals == 12).all() and found.table.mae.notna().all() and len(found.skipped) == 0


def test_a_network_that_says_nan_of_some_crystals(crystals):
    n = np.array([len(s) for s in crystals.structures])
    small, large = np.flatnonzero(n <= 7), np.flatnonzero(n > 7)
    split = Split(small[:60], small[60:75], np.r_[small[75:80], large[:2]])
    found = Probe(lambda k: Nothing(k, True), ["volume"], split=split, **QUICK).run(crystals)
    assert found.table.n_crystals["volume"] == 5 and "2 of 7" in found.skipped.reason.iloc[0] and np.isfinite(found.table.mae["volume"])


def test_constant_and_empty_quantities_keep_their_rows(crystals):
    found = Probe("forest", ["constant", "volume", "empty"]).run(crystals)
    assert list(found.table.index) == ["constant", "volume", "empty"] and list(found.table.n_crystals) == [0, 12, 0]
    said = found.skipped.set_index("id").reason
    assert "R2 is undefined" in said["constant"] and "undefined for all" in said["empty"] and found.table.note["volume"] == ""
    assert found.table.r2.notna().tolist() == [False, True, False]


def test_a_quantity_that_is_constant_among_the_test_crystals(crystals):
    split = probe_split(crystals)
    column = np.arange(120.0)
    column[split.test] = 5.0
    found = Probe("forest", ["odd"]).run(CrystalSet(crystals.frame.assign(odd=column)))
    assert np.isnan(found.table.r2["odd"]) and np.isfinite(found.table.mae["odd"]) and "R2 is undefined" in found.table.note["odd"]


def test_a_quantity_known_for_too_few(crystals):
    rare = crystals.frame["volume"].where(np.arange(120) < 6)
    with pytest.warns(UserWarning, match="Only 6"): found = Probe("forest", ["rare", "volume"]).run(CrystalSet(crystals.frame.assign(rare=rare)))
    assert "at least" in found.table.note["rare"] and found.table.n_crystals["volume"] == 12


def test_three_crystals_are_too_few(crystals):
    for n, words in ((3, "there are 3"), (1, "there is 1"), (0, "there are 0")):
        with pytest.raises(UserError, match=f"at least 20 crystals.*{words}"): Probe("cgcnn", ["volume"]).run(crystals.head(n))


def test_wrong_names_have_their_near_miss(crystals):
    with pytest.raises(UserError, match="'cgcnn'"): Probe("cgnn", ["volume"]).run(crystals)
    with pytest.raises(UserError, match="'volume'"): Probe("forest", ["volum"]).run(crystals)
    with pytest.raises(UserError, match="epochs"): Probe("cgcnn", ["volume"], settings=dict(epoch=3)).run(crystals)
    with pytest.raises(UserError, match="n_blocks"): Probe(dict(name="cgcnn", n_block=3), ["volume"]).run(crystals)
    with pytest.raises(UserError, match="name"): Probe(dict(n_blocks=3), ["volume"]).run(crystals)
    with pytest.raises(UserError, match="function"): Probe(nn.Linear(2, 2), ["volume"]).run(crystals)
    with pytest.raises(UserError, match="int"): Probe(3, ["volume"]).run(crystals)
    with pytest.raises(UserError): Probe("forest", [])  .run(crystals)
    with pytest.raises(UserError, match="seeds"): Probe("forest", seeds=0)


# -------------------------------------------------- figure, table, command
def test_figure_and_table(crystals, tmp_path):
    frame = crystals.frame.assign(**{"<b>odd</b>": crystals.frame["heavy"]})
    found = Probe("forest", ["volume", "<b>odd</b>", "anion", "constant"]).run(CrystalSet(frame))
    picture = found.figure("title")
    assert [t.type for t in picture.data] == ["bar", "bar"] and len(picture.data[0].y) == 2 and picture.png()[:4] == b"\x89PNG"
    assert not any("<b>odd" in str(t) for t in picture.layout.xaxis.ticktext) and "<b>odd" not in found._repr_html_()
    again = pd.read_csv(found.to_csv(tmp_path / "t.csv"), index_col="target")
    assert np.allclose(again.r2, found.table.r2, rtol=1e-4, equal_nan=True) and list(again.n_crystals) == [12, 12, 12, 0]


def test_the_command(crystals, vectors, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    vectors.rename(columns=str).rename_axis("id").to_csv("mine.csv")
    frame = crystals.frame.iloc[:60]
    frame.assign(cif=[s.to(fmt="cif") for s in frame.structure])[["cif", "volume", "anion"]].to_csv("crystals.csv")
    data = ["--data", "crystals.csv", "-j", "1"]
    assert run(["probe", "--model", "cgcnn", *data, "--target", "volume", "--epochs", "1", "--baseline", "forest", "-o", "out/probe.csv"]) == 0
    table = pd.read_csv("out/probe.csv")
    assert list(table.target) == ["volume"] and table.n_crystals[0] == 6 and {"r2", "mae", "mae_over_mad", "baseline_r2"} <= set(table)
    assert (tmp_path / "out/probe.html").exists() and list(pd.read_csv("out/probe_skipped.csv")) == ["id", "stage", "reason"]
    assert "1 target on 6 test crystals" in capsys.readouterr().out
    assert run(["probe", "--embedding", "mine.csv", *data, "-t", "volume", "-t", "anion", "--baseline", "none"]) == 0
    assert pd.read_csv("probe.csv").set_index("target").r2["volume"] > 0.99
    wrong = [["--model", "cgnn", "-t", "volume"], ["--model", "forest", "-t", "volum"], ["-t", "volume"], ["--model", "forest", "--embedding", "mine.csv"], ["--embedding", "gone.csv"],
             ["--model", "forest", "-t", "volume", "--baseline", "nothing"], ["--model", "forest", "-t", "volume", "--limit", "3"], ["--model", "forest", "-t", "volume", "-o", "."]]
    capsys.readouterr()
    for arguments in wrong:
        assert run(["probe", *data, *arguments]) == 2, arguments
        said = capsys.readouterr().err.split("\r")[-1].strip().splitlines()
        assert len(said) == 1 and "motiflab: " in said[0], (arguments, said)
