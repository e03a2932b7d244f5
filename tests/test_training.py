"Targets, trainings, runs, ensembles: what is learned, what is kept, and each way in which it can go wrong"
import json
import logging
import os
import pickletools
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch

from motiflab.crystals import read_crystals
from motiflab.crystalset import CrystalSet
from motiflab.ensembles import Ensemble, load_ensemble, load_model, train_ensemble
from motiflab.errors import UserError
from motiflab.fitting import cut_batches, epoch_order
from motiflab.graphs import AtomGraph, GraphSettings, build_graphs
from motiflab.graphs.packed import GraphSet
from motiflab.recipes import RECIPES, recipe
from motiflab.runs import UNSEEN_FACTOR, UnseenElements, load_run
from motiflab.scores import Calibration, classification_scores, coverage, regression_scores
from motiflab.settings import TrainSettings, loss_sum
from motiflab.targets import Normaliser, Split, match_rows, read_targets, split_by_column, split_by_seed, usable
from motiflab.training import seeded_model, train

SMALL = dict(width=16, n_blocks=1, dropout=0.2)
FAST = TrainSettings(epochs=4, batch_size=8, learning_rate=3e-3, accelerator="cpu")
COMMON = "Li Na K Mg Ca Sr Ba Al Si Zn O S F Cl P".split()


@pytest.fixture(scope="module")
def crystals(): # real crystals of common elements, at most 8 atoms each
    found = read_crystals("matbench_dielectric", progress=False).filter(only=COMMON, max_sites=8).sample(70, seed=2)
    n = found.frame["n"]
    return CrystalSet(found.frame.assign(log_n=np.log(n), high=n > n.median(), kind=pd.cut(n, [0, 1.6, 2.2, 99], labels=["low", "middle", "high"])))


@pytest.fixture(scope="module")
def graphs(crystals): return build_graphs(crystals, GraphSettings(AtomGraph(neighbors=None, cutoff=4.0)), n_jobs=1, progress=False)


@pytest.fixture(scope="module")
def targets(crystals): return read_targets(crystals, "log_n", minimum=0)


@pytest.fixture(scope="module")
def split(crystals): return split_by_seed(len(crystals), seed=0)


def model(targets, seed=0): return seeded_model("megnet", targets, seed, **SMALL)


@pytest.fixture(scope="module")
def run(graphs, targets, split, tmp_path_factory): return train(model(targets), graphs, targets, split, FAST, tmp_path_factory.mktemp("runs") / "run")


def same_weights(a, b) -> bool: return all(torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True))


def same_history(a, b) -> bool: return a.history.drop(columns="seconds").equals(b.history.drop(columns="seconds"))


# ---------------------------------------------------------------- targets
def frame(**columns): return pd.DataFrame(columns, index=pd.Index([f"c{i}" for i in range(12)], name="id"))


@pytest.mark.parametrize("columns, wanted, options, words", [
    (dict(band_gap_eV=np.arange(12.)), "band_gap", {}, "did you mean 'band_gap_eV'"),
    (dict(x=np.ones(12)), "x", {}, "is 1 for all 12 crystals"),
    (dict(x=np.full(12, np.nan)), "x", {}, "is empty"),
    (dict(x=[*range(11), "metal"]), "x", {}, "'metal' for crystal 'c11'"),
    (dict(x=[*map(float, range(11)), np.inf]), "x", {}, "'inf' for crystal 'c11'"),
    (dict(x=[f"name {i}" for i in range(12)]), "x", {}, "12 different values"),
    (dict(x=["metal"] * 12), "x", {}, "takes two"),
    (dict(x=np.arange(12.)), "x", dict(threshold=50), "one side of the threshold"),
    (dict(x=np.arange(12.)), "x", dict(task="regresion"), "did you mean 'regression'"),
    (dict(x=np.arange(12.)), "x", dict(minimum={"y": 0}), "target='y' is unknown"),
    (dict(x=np.arange(12.), y=np.arange(12.)), ["x", "y"], dict(task="classification"), "one column, not 2"),
    (dict(x=np.arange(12.)), [], {}, "at least one column"),
])
def test_unfit_columns_get_one_sentence(columns, wanted, options, words):
    with pytest.raises(UserError) as said: read_targets(frame(**columns), wanted, **options)
    assert words in str(said.value) and str(said.value).count("\n") == 0


def test_sparse_column_is_learned_with_a_warning():
    with pytest.warns(UserWarning, match="Only 4 of 12 crystals have a value of 'x'"): found = read_targets(frame(x=[0., 1, 2, 3] + [np.nan] * 8), "x")
    assert np.isnan(found.values).sum() == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_targets(frame(x=[0., 1, 2, 3, 4, 5, 6] + [np.nan] * 5), "x")


def test_columns_become_what_they_are():
    assert read_targets(frame(x=["1.5", *map(str, range(11))]), "x").task == "regression"
    truth = read_targets(frame(x=[True, False] * 6), "x")
    assert (truth.task, truth.classes, truth.values[0, 0], truth.n_outputs) == ("classification", (False, True), 1, 1)
    three = read_targets(frame(x=["b", None, "a", "c"] * 3), "x")
    assert three.classes == ("a", "b", "c") and three.n_outputs == 3 and np.isnan(three.values[1, 0])
    gap = read_targets(frame(band_gap_eV=np.arange(12.)), "band_gap_eV", threshold=5, classes=("metal", "nonmetal"))
    assert gap.classes == ("metal", "nonmetal") and gap.values[:, 0].sum() == 6
    two = read_targets(frame(band_gap_eV=np.arange(12.), y=np.arange(12.)), ["band_gap_eV", "y"], minimum={"band_gap_eV": 0})
    assert two.units == ("eV", "") and two.minimum == (0, None) and two.n_outputs == 2


def test_splits():
    with pytest.raises(UserError, match="share crystals"): Split([0, 1], [1], [2])
    with pytest.raises(UserError, match="'training-set'"): split_by_column(pd.Series(["train", "Training-Set"]))
    with pytest.raises(UserError, match="together at most 1"): split_by_seed(10, (0.9, 0.2, 0.2))
    assert (split_by_seed(100, seed=1).train == split_by_seed(100, seed=1).train).all() and (split_by_seed(100, seed=1).train != split_by_seed(100, seed=2).train).any()


def test_three_crystals_are_too_few(graphs, targets):
    with pytest.raises(UserError, match="The training set has 3 crystals .* at least 8 are needed"):
        train("megnet", graphs, targets, Split([0, 1, 2], [3, 4], [5]), FAST)


def test_training_rows_must_differ_and_validation_must_be_known(targets, split):
    same = replace(targets, values=targets.values.copy())
    same.values[split.train] = 1.5
    with pytest.raises(UserError, match="All 42 training crystals are 1.5"): usable(same, split)
    unknown = replace(targets, values=targets.values.copy())
    unknown.values[split.validation] = np.nan
    with pytest.raises(UserError, match="No validation crystal has a value of 'log_n'"): usable(unknown, split)


def test_rows_follow_their_crystals(graphs, targets, split):
    order = np.random.default_rng(0).permutation(len(graphs))[:60]
    moved, parts = match_rows(targets, split, graphs.subset(order).ids)
    by_id = dict(zip(targets.ids, targets.values[:, 0]))
    assert all(by_id[i] == v for i, v in zip(moved.ids, moved.values[:, 0]))
    assert {moved.ids[i] for i in parts.test} == {targets.ids[i] for i in split.test} & set(moved.ids)
    with pytest.raises(UserError, match="no row of targets"): match_rows(targets.take(range(10)), split_by_seed(10), graphs.ids)


# ---------------------------------------------------------------- losses, normaliser, scores
def test_missing_values_add_neither_loss_nor_gradient():
    outputs = torch.randn(5, 2, requires_grad=True)
    y = torch.randn(5, 2)
    y[[0, 3], 1] = float("nan")
    for loss in ("mse", "mae", "huber"):
        outputs.grad = None
        total, count = loss_sum(outputs, y, loss)
        total.backward()
        assert count == 8 and torch.isfinite(total) and outputs.grad[[0, 3], 1].tolist() == [0, 0] and (outputs.grad[[1, 2, 4]] != 0).all()


def test_training_with_gaps_is_training_on_what_is_there(graphs, targets, split):
    gone = split.train[[1, 5, 8, 20]]
    gaps = replace(targets, values=targets.values.copy())
    gaps.values[gone] = np.nan
    without = Split(np.setdiff1d(split.train, gone, assume_unique=True), split.validation, split.test)
    a, b = train(model(targets), graphs, gaps, split, FAST), train(model(targets), graphs, targets, without, FAST)
    assert same_weights(a, b) and same_history(a, b) and a.normaliser == b.normaliser and a.scores.equals(b.scores)


def test_nothing_of_validation_and_test_enters_the_training(graphs, targets, split, run):
    other = replace(targets, values=targets.values.copy())
    other.values[split.test] *= 100
    again = train(model(targets), graphs, other, split, FAST)
    assert again.normaliser == run.normaliser and same_weights(again, run) and again.score() > 10 * run.score()
    other.values[split.validation] += 50 # chooses weights, but moves none
    again = train(model(targets), graphs, other, split, FAST)
    assert again.normaliser == run.normaliser and np.array_equal(again.history.loss, run.history.loss)
    assert again.normaliser == Normaliser.fit(targets.values[split.train]) != Normaliser.fit(targets.values)


def test_several_targets_at_once(crystals, graphs, split):
    both = read_targets(crystals.frame.assign(n=crystals.frame["n"].where(np.arange(len(crystals)) % 3 > 0)), ["log_n", "n"], minimum={"log_n": 0, "n": 1})
    found = train(model(both), graphs, both, split, FAST)
    assert {"validation_mae_log_n", "validation_mae_n"} <= set(found.history) and list(found.scores.xs("test").index) == ["log_n", "n"]
    known = (~np.isnan(both.values[split.test])).sum(0)
    assert found.scores.xs("test")["n"].tolist() == known.tolist() and known[1] < known[0]
    assert list(found.predict(graphs)) == ["log_n", "log_n_uncertainty", "n", "n_uncertainty"] and found.predict(graphs)["n"].min() >= 1


def test_scores_are_those_of_scikit_learn():
    from sklearn import metrics
    rng = np.random.default_rng(0)
    t, p = rng.normal(size=50), rng.normal(size=50)
    found = regression_scores(np.r_[t, np.nan], np.r_[p, 1.0])
    assert found["n"] == 50 and np.isclose(found["mae"], metrics.mean_absolute_error(t, p)) and np.isclose(found["r2"], metrics.r2_score(t, p)) and np.isclose(found["rmse"], metrics.root_mean_squared_error(t, p))
    c, q = rng.integers(0, 3, 50).astype(float), rng.dirichlet([1, 1, 1], 50)
    found = classification_scores(c, q)
    assert np.isclose(found["roc_auc"], metrics.roc_auc_score(c, q, multi_class="ovr")) and np.isclose(found["balanced_accuracy"], metrics.balanced_accuracy_score(c, q.argmax(1)))
    assert np.isnan(classification_scores(np.zeros(5), np.tile([0.7, 0.3], (5, 1)))["roc_auc"])


# ---------------------------------------------------------------- fitting
def test_batches_hold_each_crystal_once_on_all_devices():
    for n, size, world in ((33, 8, 1), (33, 8, 2), (65, 64, 4), (5, 8, 2), (17, 16, 2)):
        batches = cut_batches(epoch_order(np.arange(n), 3, 1), size, max(2, world))
        shares = [b[r::world] for b in batches for r in range(world)]
        assert sorted(np.concatenate(shares)) == list(range(n)) and min(map(len, shares)) >= 1 and min(map(len, batches)) >= 2


def test_best_weights_are_kept_by_value(graphs, targets, split):
    found = train(model(targets), graphs, targets, split, replace(FAST, epochs=12, learning_rate=3e-2))
    best = found.history.validation_mae.idxmin()
    assert found.facts["best_epoch"] == best < 11 # the last epoch is not the best here
    assert np.isclose(found.score("mae", "validation"), found.history.validation_mae[best], rtol=1e-6)
    assert not np.isclose(found.score("mae", "validation"), found.history.validation_mae.iloc[-1])


def test_stops_when_nothing_improves(graphs, targets, split):
    found = train(model(targets), graphs, targets, split, replace(FAST, epochs=60, learning_rate=3e-2, patience=3))
    assert len(found.history) == found.facts["best_epoch"] + 4 < 60


def test_same_seed_same_result_other_seed_another(graphs, targets, split, run):
    torch.manual_seed(123) # neither used nor changed
    before = torch.get_rng_state()
    assert same_weights(train(model(targets), graphs, targets, split, FAST), run)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same_weights(train(model(targets), graphs, targets, split, replace(FAST, seed=1)), run)


@pytest.mark.parametrize("settings", [dict(precision="bf16-mixed"), dict(gradient_clip=0.1, optimizer="adamw", weight_decay=0.01), dict(optimizer="sgd", schedule="cosine"),
                                      dict(schedule="linear", final_learning_rate=1e-5), dict(schedule="warmup_cosine", loss="huber"), dict(schedule="plateau", patience=4, loss="mae")])
def test_each_setting_trains(graphs, targets, split, run, settings):
    found = train(model(targets), graphs, targets, split, replace(FAST, **settings))
    assert np.isfinite(found.history.loss).all() and not same_weights(found, run)
    if "final_learning_rate" in settings: assert np.isclose(found.history.learning_rate.iloc[-1], 1e-5)


def test_callbacks_hear_of_each_epoch(graphs, targets, split):
    heard, metrics = [], []
    class Listener(pl.Callback):
        def on_train_epoch_end(self, trainer, module): metrics.append(float(trainer.callback_metrics["validation_mae"]))
    found = train(model(targets), graphs, targets, split, FAST, callbacks=[heard.append, Listener()])
    assert [len(h) for h in heard] == [1, 2, 3, 4] and np.allclose(metrics, found.history.validation_mae)
    assert {"epoch", "loss", "validation_loss", "validation_mae", "learning_rate", "seconds"} <= set(heard[-1])


def test_lightning_is_silent_and_nothing_stays_changed(graphs, targets, split, capfd):
    log = logging.getLogger("lightning.pytorch")
    before, level = list(warnings.filters), log.level
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        train(model(targets), graphs, targets, split, replace(FAST, epochs=1))
        assert warnings.filters == inside
    assert [str(w.message) for w in said if "ightning" in w.filename] == [] and warnings.filters == before and log.level == level
    out, err = capfd.readouterr()
    assert out == "" and err == ""


@pytest.mark.parametrize("wrong, words", [(dict(epochs=0), "epochs=0"), (dict(batch_size=2.5), "whole number"), (dict(schedule="cosin"), "did you mean 'cosine'"),
                                          (dict(loss="hubert"), "did you mean 'huber'"), (dict(learning_rate=float("nan")), "more than 0"), (dict(patience=0), "patience=0"), (dict(precision="bf16"), "'bf16-mixed'")])
def test_impossible_settings(wrong, words):
    with pytest.raises(UserError, match=words.replace("?", r"\?")): TrainSettings(**wrong)


def test_unknown_setting_names_the_near_miss():
    with pytest.raises(UserError, match="did you mean 'batch_size'"): TrainSettings.from_dict(dict(batchsize=3))


def test_loss_and_outputs_must_fit_the_task(graphs, targets, split):
    with pytest.raises(UserError, match="does not fit a regression"): train(model(targets), graphs, targets, split, replace(FAST, loss="cross_entropy"))
    with pytest.raises(UserError, match="has 3 outputs but log_n need 1: build it with n_outputs=1"):
        train(seeded_model("megnet", replace(targets, task="classification", classes=(1, 2, 3)), **SMALL), graphs, targets, split, FAST)


def test_nan_loss_names_the_crystals_of_its_batch(crystals, graphs, targets, split):
    sick = int(split.train[7])
    spoilt = GraphSet({k: v.clone() for k, v in graphs.arrays.items()}, graphs.starts, graphs.ids, graphs.skipped, graphs.settings)
    spoilt.arrays["edge_length"][graphs.starts["edge"][sick]] = float("nan")
    with pytest.raises(UserError) as said: train(model(targets), spoilt, targets, split, FAST)
    words, order = str(said.value), epoch_order(split.train, FAST.seed, 0)
    batch = next(b for b in cut_batches(order, FAST.batch_size) if sick in b)
    assert "NaN or infinite in epoch 0" in words and all(str(graphs.ids[i]) in words for i in batch) and words.count("\n") == 0


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")])
def test_out_of_memory_says_what_to_lower(graphs, targets, split, error):
    class Greedy(pl.Callback):
        def on_train_batch_start(self, *_): raise error
    with pytest.raises(UserError, match="Memory ran out with batch_size=8 .* lower batch_size"): train(model(targets), graphs, targets, split, FAST, callbacks=[Greedy()])


def test_other_errors_stay_what_they_are(graphs, targets, split):
    class Broken(pl.Callback):
        def on_train_batch_start(self, *_): raise RuntimeError("a mistake of ours")
    with pytest.raises(RuntimeError, match="a mistake of ours"): train(model(targets), graphs, targets, split, FAST, callbacks=[Broken()])


# ---------------------------------------------------------------- going on
SCRIPT = """
import os, signal, sys
import lightning.pytorch as pl
import pandas as pd
from dataclasses import replace
from motiflab.graphs.packed import GraphSet
from motiflab.targets import read_targets, split_by_seed
from motiflab.training import TrainSettings, seeded_model, train

class Killer(pl.Callback):
    def on_train_batch_end(self, trainer, module, *_):
        if module.epoch == 3 and trainer.global_step % 5 == 2: os.kill(os.getpid(), signal.SIGKILL)

def main():
    graphs = GraphSet.load("graphs")
    targets = read_targets(pd.read_csv("targets.csv", index_col=0), "log_n", minimum=0)
    kill, schedule, devices, folder = sys.argv[1] == "kill", sys.argv[2], int(sys.argv[3]), sys.argv[4]
    settings = TrainSettings(epochs=6, batch_size=8, learning_rate=3e-3, accelerator="cpu", schedule=schedule, patience=5, devices=devices, strategy="ddp" if devices > 1 else "auto")
    model = seeded_model(sys.argv[5], targets, 0, width=16, n_blocks=1, **({"dropout": 0.2} if devices == 1 else {}))
    train(model, graphs, targets, split_by_seed(len(targets), seed=0), settings, folder, resume=not kill, callbacks=[Killer()] if kill else [])

if __name__ == "__main__": main()
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory, graphs, crystals): # a folder where the script finds its data
    folder = tmp_path_factory.mktemp("bench")
    (folder / "script.py").write_text(SCRIPT)
    graphs.save(folder / "graphs")
    crystals.frame[["log_n"]].to_csv(folder / "targets.csv")
    return folder


def start(bench: Path, *words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "script.py", *map(str, words)], cwd=bench, capture_output=True, text=True, timeout=240, env=os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).resolve().parent.parent)))


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_a_killed_run_goes_on_to_the_same_result(bench, graphs, targets, split, schedule):
    killed = start(bench, "kill", schedule, 1, f"killed-{schedule}", "megnet")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = bench / f"killed-{schedule}"
    assert len(pd.read_csv(folder / "history.csv")) == 3 and not (folder / "model.json").exists()
    settings = TrainSettings(epochs=6, batch_size=8, learning_rate=3e-3, accelerator="cpu", schedule=schedule, patience=5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = train(model(targets, 99), graphs, targets, split, settings, folder, resume=True) # its first weights do not matter any more
        whole = train(model(targets), graphs, targets, split, settings)
    finally: torch.set_num_threads(threads)
    assert same_history(resumed, whole) and same_weights(resumed, whole) and resumed.predictions.equals(whole.predictions) and resumed.scores.equals(whole.scores)
    assert len(resumed.history) == 6


def test_two_processes_learn_what_one_does(bench, graphs, targets, split):
    done = start(bench, "go", "cosine", 2, "two", "megnet")
    assert done.returncode == 0, done.stderr
    two, alone = load_run(bench / "two"), model_alone(graphs, targets, split)
    assert np.allclose(two.history.loss, alone.history.loss, rtol=1e-4) and np.allclose(two.history.validation_mae, alone.history.validation_mae, rtol=1e-3)
    assert two.settings.devices == 2 and len(two.predictions) == len(alone.predictions)


def model_alone(graphs, targets, split):
    settings = TrainSettings(epochs=6, batch_size=8, learning_rate=3e-3, accelerator="cpu", schedule="cosine", patience=5)
    return train(seeded_model("megnet", targets, 0, width=16, n_blocks=1), graphs, targets, split, settings)


def test_resuming_asks_for_the_same_training(graphs, targets, split, run, tmp_path):
    for change, words in ((dict(learning_rate=1e-2), "learning_rate=0.003, not 0.01"), (dict(seed=3), "seed=0, not 3")):
        with pytest.raises(UserError, match=words): train(model(targets), graphs, targets, split, replace(FAST, **change), run.folder, resume=True)
    with pytest.raises(UserError, match="other split"): train(model(targets), graphs, targets, split_by_seed(70, seed=5), FAST, run.folder, resume=True)
    with pytest.raises(UserError, match="other model"): train(seeded_model("megnet", targets, width=8), graphs, targets, split, FAST, run.folder, resume=True)
    with pytest.raises(UserError, match="already holds a run"): train(model(targets), graphs, targets, split, FAST, run.folder)
    with pytest.raises(UserError, match="needs the folder"): train(model(targets), graphs, targets, split, FAST, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"): train(model(targets), graphs, targets, split, FAST, tmp_path / "file")


def test_a_finished_run_is_not_trained_again(graphs, targets, split, run):
    again = train(model(targets), graphs, targets, split, FAST, run.folder, resume=True)
    assert same_weights(again, run) and again.history.equals(run.history)


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for f in folder.iterdir(): (to / f.name).write_bytes(f.read_bytes())
    return to


def test_damaged_checkpoint(graphs, targets, split, run, tmp_path):
    folder = copied(run.folder, tmp_path / "run")
    (folder / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match="checkpoint.pt is damaged"): train(model(targets), graphs, targets, split, FAST, folder, resume=True)
    (folder / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match="finished run without its checkpoint.pt"): train(model(targets), graphs, targets, split, FAST, folder, resume=True)
    assert same_weights(load_run(folder), run) # all that a reader needs is still there


def test_checkpoint_of_another_version(graphs, targets, split, run, tmp_path):
    folder = copied(run.folder, tmp_path / "run")
    torch.save(dict(format=99), folder / "checkpoint.pt")
    with pytest.raises(UserError, match="written by another version"): train(model(targets), graphs, targets, split, FAST, folder, resume=True)


def test_tensorboard_is_named_where_it_is_missing(graphs, targets, split, tmp_path):
    settings = replace(FAST, epochs=1, logger="tensorboard")
    try: import tensorboard # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(UserError, match="needs the package tensorboard"): train(model(targets), graphs, targets, split, settings, tmp_path / "run")
        return
    train(model(targets), graphs, targets, split, settings, tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


# ---------------------------------------------------------------- runs
def test_a_run_is_read_as_it_was_written(run, graphs):
    again = load_run(run.folder)
    assert same_weights(again, run) and again.settings == run.settings and again.normaliser == run.normaliser and again.targets == run.targets and again.split == run.split and again.calibration == run.calibration
    pd.testing.assert_frame_equal(again.scores, run.scores)
    pd.testing.assert_frame_equal(again.predictions, run.predictions)
    pd.testing.assert_frame_equal(again.history, run.history)
    assert again.scores.equals(run.scores) and again.predictions.equals(run.predictions) and again.predict(graphs).equals(run.predict(graphs)) and again.facts == json.loads(json.dumps(run.facts)) and repr(again) == repr(run)
    known = json.loads((run.folder / "model.json").read_text())
    assert known["facts"]["data_hash"] == graphs.hash and known["facts"]["versions"]["torch"] == torch.__version__.split("+")[0] or known["facts"]["versions"]["torch"] == torch.__version__
    assert known["scores"][1]["n"] == len(run.split["test"]) and known["seed"] == 0


def test_predictions_kept_are_those_that_are_made(run, graphs):
    table, made = run.predictions, run.predict(graphs)
    assert np.allclose(made.loc[table.index, "log_n"], table["log_n_predicted"], atol=1e-6) and np.allclose(made.loc[table.index, "log_n_uncertainty"], table["log_n_uncertainty"])
    test = table[table["split"] == "test"]
    assert np.isclose(run.score(), abs(test["log_n"] - test["log_n_predicted"]).mean()) and run.score("n") == len(test)


def test_nothing_that_is_passed_on_can_run_code(run):
    for f in run.folder.iterdir():
        if f.name == "checkpoint.pt": continue # stays with whoever trains
        assert f.suffix in (".safetensors", ".json", ".csv")
        with pytest.raises(Exception): list(pickletools.genops(f.read_bytes()))


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json", "history.csv", "predictions.csv", "skipped.csv"])
def test_missing_file(run, tmp_path, name):
    folder = copied(run.folder, tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"holds no whole run: {name} cannot be read"): load_run(folder)


@pytest.mark.parametrize("name, place", [("weights.safetensors", 3), ("weights.safetensors", 5000), ("weights.safetensors", -1), ("model.json", 40), ("model.json", -200)])
def test_flipped_byte(run, tmp_path, name, place):
    folder = copied(run.folder, tmp_path / "run")
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged|was written in format") as said: load_run(folder)
    assert str(said.value).count("\n") == 0


def test_run_of_another_version(run, tmp_path):
    folder = copied(run.folder, tmp_path / "run")
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | dict(format=7)))
    with pytest.raises(UserError, match="written in format 7, and this version of motiflab reads format 1"): load_run(folder)


def test_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="There is no folder"): load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no whole run"): load_run(tmp_path)


def test_an_element_never_seen_widens_the_interval(run, crystals):
    strange = crystals.structures.iloc[0].copy()
    strange.replace_species({strange[0].specie: "Pu"})
    graphs = build_graphs([crystals.structures.iloc[0], strange], run.graph_settings, n_jobs=1, progress=False)
    with pytest.warns(UnseenElements, match=r"1 of 2 crystals hold elements that training never saw \(Pu\)"): found = run.predict(graphs)
    assert np.isfinite(found["log_n"]).all() and np.isclose(found["log_n_uncertainty"].iloc[1], UNSEEN_FACTOR * found["log_n_uncertainty"].iloc[0])


def test_graphs_of_another_kind_are_refused(run, crystals):
    other = build_graphs(crystals.structures.iloc[:3], GraphSettings(AtomGraph(neighbors=12)), n_jobs=1, progress=False)
    with pytest.raises(UserError, match="built with other settings than the model learned with"): run.predict(other)


def test_merged_graphs_are_the_same_graphs(run, graphs):
    from motiflab.graphs.merged import merge_equal
    merged = merge_equal(graphs)
    assert len(merged.arrays["z"]) < len(graphs.arrays["z"])
    assert np.allclose(run.predict(merged)["log_n"], run.predict(graphs)["log_n"], atol=1e-4)


def test_equal_atoms_are_merged_for_networks_that_count(graphs, targets, split):
    seen = []
    class Spy(torch.nn.Module): # a network from elsewhere, that takes what it is given
        name = "spy"
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
        def forward(self, batch):
            seen.append("atom_count" in batch)
            return self.inner(batch)
    runs = [train(model(targets), graphs, targets, split, replace(FAST, merge=merge)) for merge in (True, False)]
    assert np.allclose(*(r.history.validation_mae for r in runs), rtol=1e-3) and not runs[0].history.validation_mae.equals(runs[1].history.validation_mae)
    assert runs[0].facts["data_hash"] == runs[1].facts["data_hash"] == graphs.hash
    inner = model(targets)
    inner.register_forward_pre_hook(lambda module, given: seen.append("atom_count" in given[0]))
    from motiflab.fitting import fit
    from motiflab.training import fit_data
    fit(inner, fit_data(graphs, targets, split), replace(FAST, epochs=1))
    assert all(seen)
    seen.clear()
    fit(Spy(model(targets)), fit_data(graphs, targets, split), replace(FAST, epochs=1))
    assert seen and not any(seen)


def test_predictions_do_not_fall_below_what_is_possible(graphs, targets, split):
    high = replace(targets, minimum=(0.6,))
    found = train(model(targets), graphs, high, split, replace(FAST, epochs=1))
    assert found.predict(graphs)["log_n"].min() >= 0.6 and found.predictions["log_n_predicted"].min() >= 0.6


# ---------------------------------------------------------------- classes
@pytest.mark.parametrize("column, classes", [("high", (False, True)), ("kind", ("high", "low", "middle"))])
def test_classification(crystals, graphs, split, tmp_path, column, classes):
    known = read_targets(crystals, column)
    found = train(model(known), graphs, known, split, replace(FAST, epochs=10), tmp_path / "run")
    assert found.targets.classes == classes and found.normaliser is None and found.score("roc_auc", "validation") > 0.5
    assert found.history.validation_loss.idxmin() == found.facts["best_epoch"] and np.isclose(found.history.validation_accuracy[found.facts["best_epoch"]], found.score("accuracy", "validation"))
    again, table = load_run(tmp_path / "run"), found.predict(graphs)
    pd.testing.assert_frame_equal(again.predictions, found.predictions)
    assert again.predict(graphs).equals(table) and list(again.targets.classes) == list(classes)
    if column == "kind": assert np.allclose(table[[f"kind={c}" for c in classes]].sum(axis=1), 1) and set(table["kind"]) <= set(classes)
    else: assert table["high"].between(0, 1).all() and np.allclose(table["high_uncertainty"], np.sqrt(table["high"] * (1 - table["high"])))


# ---------------------------------------------------------------- ensembles and recipes
@pytest.fixture(scope="module")
def ensemble(graphs, targets, split, tmp_path_factory):
    return train_ensemble(lambda seed: model(targets, seed), graphs, targets, split, FAST, 3, tmp_path_factory.mktemp("ensemble"))


def test_an_ensemble_is_the_mean_of_its_members(ensemble, graphs):
    each = np.stack([m.predict(graphs)["log_n"] for m in ensemble.members])
    found = ensemble.predict(graphs)
    assert np.allclose(found["log_n"], each.mean(0)) and [m.settings.seed for m in ensemble.members] == [0, 1, 2]
    expected = ensemble.calibration.scale[0] * np.sqrt(each.var(0, ddof=1) + ensemble.calibration.noise[0] ** 2)
    assert np.allclose(found["log_n_uncertainty"], expected) and found["log_n_uncertainty"].nunique() > 1
    assert ensemble.score() <= np.mean([m.score() for m in ensemble.members]) + 1e-9
    within = abs(ensemble.predictions["log_n"] - ensemble.predictions["log_n_predicted"]) <= ensemble.predictions["log_n_uncertainty"]
    assert abs(within[ensemble.predictions["split"] == "validation"].mean() - 0.683) < 0.12


def test_an_ensemble_is_read_as_it_was_written(ensemble, graphs, tmp_path):
    for folder in (ensemble.folder, Ensemble.of(ensemble.members).save(tmp_path / "copy")):
        again = load_model(folder)
        assert isinstance(again, Ensemble) and again.predict(graphs).equals(ensemble.predict(graphs)) and again.scores.equals(ensemble.scores)
    weights = ensemble.folder / "member_1" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 4
    (tmp_path / "copy" / "member_1" / "weights.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="weights.safetensors is damaged"): load_ensemble(tmp_path / "copy")


def test_members_must_belong_together(ensemble, graphs, targets, run):
    stranger = train(model(targets), graphs, targets, split_by_seed(len(targets), seed=4), replace(FAST, epochs=1))
    with pytest.raises(UserError, match="share their split"): Ensemble.of([run, stranger])
    with pytest.raises(UserError, match="at least one run"): Ensemble.of([])


def test_a_stopped_ensemble_goes_on(graphs, targets, split, ensemble, tmp_path):
    train_ensemble(lambda seed: model(targets, seed), graphs, targets, split, FAST, 1, tmp_path) # only the first was done
    whole = train_ensemble(lambda seed: model(targets, seed), graphs, targets, split, FAST, 3, tmp_path, resume=True)
    assert all(same_weights(a, b) for a, b in zip(whole.members, ensemble.members))


def test_calibration_is_honest_on_what_it_did_not_see():
    rng = np.random.default_rng(1)
    spread = rng.gamma(2, 0.3, (4000, 1))
    guess = rng.normal(size=(4000, 1)) * np.sqrt(spread ** 2 + 0.5 ** 2)
    fitted = Calibration.fit(np.zeros((2000, 1)), guess[:2000], spread[:2000] ** 2)
    table = coverage(np.zeros(2000), guess[2000:, 0], fitted.uncertainty(spread[2000:] ** 2)[:, 0])
    assert abs(table.expected - table.observed).max() < 0.04
    alone = Calibration.fit(np.zeros((2000, 1)), guess[:2000])
    assert len(np.unique(alone.uncertainty(np.zeros((5, 1))))) == 1


def test_recipes_say_what_their_papers_say():
    paper, energy, release, cogn = (recipe(n).settings for n in ("paper", "paper-formation-energy", "release", "cogn"))
    assert (paper.optimizer, paper.learning_rate, paper.batch_size, paper.patience) == ("adam", 1e-3, 64, 20) and (energy.batch_size, energy.patience) == (32, 100)
    assert (release.batch_size, release.learning_rate, release.epochs, release.patience) == (32, 5e-5, 1000, 100)
    assert (cogn.learning_rate, cogn.final_learning_rate, cogn.schedule, cogn.epochs, cogn.batch_size, cogn.loss, cogn.patience) == (5e-4, 1e-5, "linear", 800, 64, "mae", None)
    wide = recipe("release", "amdnet")
    assert wide.graphs.atoms.cutoff == 5 and wide.graphs.motifs.cutoff == 11 and wide.options["n_gaussians"] == 100 and wide.options["gaussian_width"] == 0.5
    assert recipe("cogn", "megnet").graphs.atoms.neighbors == 24
    with pytest.raises(UserError, match="did you mean 'release'"): recipe("relase")
    assert recipe("cogn").settings_for(read_targets(frame(x=[True, False] * 6), "x")).loss is None
    with pytest.raises(UserError, match="did you mean 'batch_size'"): recipe("paper").but(batchsize=3)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("kind", ["cgcnn", "megnet", "mnet", "amdnet", "schnet"])
def test_each_recipe_trains_each_model(name, kind, crystals, targets):
    chosen = recipe(name, kind, epochs=1, accelerator="cpu")
    some = crystals.subset(np.arange(len(crystals)) < 14)
    graphs = build_graphs(some, chosen.graphs, n_jobs=1, progress=False)
    known = read_targets(some, "log_n")
    found = train(chosen.build(known), graphs, known, split_by_seed(14, (0.7, 0.3, 0.0)), chosen.settings)
    assert np.isfinite(found.score("mae", "validation")) and "validation crystals" in repr(found)
