"""The search for settings: the papers' spaces, what a trial may see, how it ends, and that a killed search is the same search."""
import json
import math
import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from motiflab.crystals import read_crystals
from motiflab.crystalset import CrystalSet
from motiflab.descriptors import DescriptorSettings
from motiflab.errors import UserError
from motiflab.graphs import AtomGraph, GraphSettings, build_graphs
from motiflab.models import MODELS
from motiflab.recipes import recipe
from motiflab.spaces import Knob, scaled_start, with_values
from motiflab.targets import read_targets, split_by_seed
from motiflab.training import load_run
from motiflab.tuning import SPACES, TuneSettings, search_space, tune

TINY = dict(width=8, hidden=8, n_blocks=1, n_gaussians=8)
SPACE = dict(learning_rate=Knob(low=1e-3, high=3e-2, log=True), hidden_layers=(1, 2))


def asked(**more):
    "A small search"
    training = dict(epochs=3, batch_size=16, logger=None) | more.pop("training", {})
    return TuneSettings(**dict(space=SPACE, options=TINY, startup=1, warmup=0, progress=False) | more, training=training)


@pytest.fixture(scope="module")
def crystals():
    found = read_crystals("matbench_dielectric", progress=False)
    small = found.frame[(found.frame["n"] < 4) & (found.frame.structure.map(len) <= 5)]
    return CrystalSet(small).sample(60, seed=0)


@pytest.fixture(scope="module")
def targets(crystals): return read_targets(crystals, "n")


@pytest.fixture(scope="module")
def split(targets): return split_by_seed(len(targets), seed=0)


@pytest.fixture(scope="module")
def found(crystals, targets, split, tmp_path_factory):
    return tune("cgcnn", crystals, targets, split, tmp_path_factory.mktemp("study") / "study", n_trials=5, settings=asked())


def values(name): return {k: v.values for k, v in search_space(*name).items()}


# spaces

def test_the_tables_of_the_papers():
    xie = values(("cgcnn", "xie"))
    assert xie["n_blocks"] == (1, 2, 3, 4, 5) == xie["hidden_layers"] and xie["width"] == (10, 20, 50, 100, 200) and xie["dropout"] == (0.0, 0.1, 0.2)
    assert np.allclose(np.log(xie["learning_rate"]), range(-8, -2), atol=1e-4) and np.allclose(np.log(xie["init_scale"]), range(-8, 0, 2), atol=1e-4)
    assert np.allclose(np.log(np.array(xie["weight_decay"]) / 2), range(-6, 2, 2), atol=1e-4) # the penalty's gradient is twice its factor
    assert set(values(("cgcnn", "xie-gated"))) == {"n_blocks", "weight_decay", "learning_rate"}
    assert values(("cgcnn", "gong")) == dict(width=(32, 64), hidden=(64, 128), hidden_layers=(1, 2, 3), learning_rate=(1e-3, 1e-2))
    assert values(("alignn", "gong")) == dict(n_gaussians=(40, 80), width=(64, 128, 256), n_angle_gaussians=(20, 40), learning_rate=(1e-3, 1e-2))
    assert values(("de-cgcnn", "gong")) == dict(width=(32, 64), learning_rate=(1e-3, 1e-2), joint_width=(64, 128), joint_layers=(1, 2, 3))


def test_without_a_name_the_papers_space_is_taken_where_there_is_one():
    assert search_space("cgcnn") == search_space("cgcnn", "gong") and search_space("megnet") == search_space("megnet", "general")


@pytest.mark.parametrize("model", MODELS)
def test_every_network_can_be_built_anywhere_in_its_space(model, targets):
    "Both ends of every knob of the general space, each for itself, and all together"
    base, space = recipe("quick", model), search_space(model, "general")
    ends = lambda k: k.values or (k.low, k.high)
    for trial in [{name: ends(k)[0] for name, k in space.items()}, {name: ends(k)[-1] for name, k in space.items()}]:
        chosen = with_values(base, trial)
        model_built = chosen.build(targets)
        assert model_built.options["n_blocks"] == trial["n_blocks"] and chosen.settings.learning_rate == trial["learning_rate"]
        if "neighbors" in trial: assert chosen.graphs.atoms.neighbors == trial["neighbors"]
        if "cutoff" in trial: assert chosen.graphs.atoms.cutoff == trial["cutoff"] == model_built.options["cutoff"]
        if "joint_width" in trial: assert model_built.options["joint"] == [trial["joint_width"]] * trial["joint_layers"]


def test_first_weights_have_the_width_that_is_asked_for(targets):
    first, again = (scaled_start(recipe("quick", "cgcnn").build(targets), 0.02, seed=1) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.parameters(), again.parameters()))
    assert abs(float(first.blocks[0].dense.weight.detach().std()) - 0.02) < 1e-3 and (first.blocks[0].node_norm.weight == 1).all()


# a search

def test_trials_have_a_state_a_score_and_their_values(found):
    assert len(found.trials) == 5 and found.trials["state"].isin(["complete", "pruned"]).all() and found.trials["value"].notna().all()
    assert found.trials["learning_rate"].between(1e-3, 3e-2).all() and found.trials["hidden_layers"].isin([1, 2]).all()
    assert found.best.settings.learning_rate == found.trials.learning_rate[found.number] and found.best.options["hidden_layers"] == found.values["hidden_layers"]
    assert found.trials["value"][found.number] == found.trials.value[found.trials.state == "complete"].min()
    assert (found.trials.epochs[found.trials.state == "complete"] == 3).all()


def test_hopeless_trials_are_stopped_early(crystals, targets, split, tmp_path):
    "A rate at which nothing is learned is worse than the median after one epoch"
    space = dict(learning_rate=(1e-2, 1e-9), hidden_layers=(1, 2))
    trials = tune("cgcnn", crystals, targets, split, tmp_path / "s", 4, settings=asked(space=space, sampler="random", training=dict(epochs=4))).trials
    pruned = trials[trials.state == "pruned"]
    assert len(pruned) and (pruned.epochs < 4).all() and (pruned.learning_rate == 1e-9).any() and "Pruned" not in " ".join(trials.reason)


def test_the_best_is_kept_as_a_run_and_scored(found, split, targets):
    run = load_run(found.folder / "best")
    assert math.isclose(run.score("mae", "validation"), found.trials["value"][found.number], rel_tol=1e-5)
    assert int(run.scores.loc[("test", "n"), "n"]) == len(split.test) and run.split["test"] == [targets.ids[i] for i in split.test]
    assert run.model.options["hidden_layers"] == found.values["hidden_layers"] and not (found.folder / "trials" / "0000").exists()
    assert pd.read_csv(found.folder / "trials.csv")["value"].round(6).tolist() == found.trials["value"].round(6).tolist()


def test_no_trial_sees_the_test_crystals(found, crystals, targets, split, tmp_path):
    "Other values of the test crystals change no trial and not the choice, only the last score"
    other = targets.values.copy()
    other[split.test] += 100
    theirs = tune("cgcnn", crystals, replace(targets, values=other), split, tmp_path / "s", 5, settings=asked())
    assert theirs.trials.drop(columns="seconds").equals(found.trials.drop(columns="seconds")) and theirs.values == found.values
    assert theirs.run.score("mae") > 50 > found.run.score("mae")


def _killed_in_epoch(n, crystals, targets, split, folder):
    "Tune in this process and kill it without warning after so many epochs"
    seen = []
    def count(history):
        seen.append(len(history))
        if len(seen) == n: os.kill(os.getpid(), signal.SIGKILL)
    tune("cgcnn", crystals, targets, split, folder, 5, settings=asked(callbacks=(count,)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork to kill")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_search_goes_on_as_the_same_search(found, crystals, targets, split, tmp_path):
    child = multiprocessing.get_context("fork").Process(target=_killed_in_epoch, args=(5, crystals, targets, split, tmp_path / "s"))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL and not (tmp_path / "s" / "best").exists()
    again = tune("cgcnn", crystals, targets, split, tmp_path / "s", 5, resume=True, settings=asked())
    assert again.trials.drop(columns="seconds").equals(found.trials.drop(columns="seconds")) and again.values == found.values
    assert again.run.score("mae") == pytest.approx(found.run.score("mae"), rel=1e-5)


def test_more_trials_are_added_to_those_there(found, crystals, targets, split, tmp_path):
    import shutil

    folder = shutil.copytree(found.folder, tmp_path / "s")
    more = tune("cgcnn", crystals, targets, split, folder, 6, resume=True, settings=asked())
    assert len(more.trials) == 6 and more.trials[:5].equals(found.trials)
    assert len(tune("cgcnn", crystals, targets, split, folder, 2, resume=True, settings=asked()).trials) == 6


def test_failed_trials_stay_with_their_reason(crystals, targets, split, tmp_path):
    found = tune("cgcnn", crystals, targets, split, tmp_path / "s", 3, settings=asked(space=dict(learning_rate=(1e-3, 1e30), hidden_layers=(1, 2)), sampler="random"))
    failed = found.trials[found.trials.state == "failed"]
    assert len(failed) and failed.reason.str.contains("learning_rate").all() and (failed.learning_rate == 1e30).all() and found.values["learning_rate"] == 1e-3
    with pytest.raises(UserError, match="None of the 2 trials came to its end; of trial 0 it is said: .*learning_rate"):
        tune("cgcnn", crystals, targets, split, tmp_path / "t", 2, settings=asked(space=dict(learning_rate=(1e30, 1e31))))


def test_any_mistake_of_a_trial_is_written_down_and_the_search_can_be_gone_on_with(crystals, targets, split, tmp_path):
    for resume in (False, True):
        with pytest.raises(UserError, match="None of the 2 trials came to its end; of trial 0 it is said: "):
            tune("cgcnn", crystals, targets, split, tmp_path / "s", 2, resume=resume, settings=asked(space=dict(width=["a", -3])))
    trials = pd.read_csv(tmp_path / "s" / "trials.csv").query("state != 'repeated'")
    assert (trials.state == "failed").all() and sorted(trials.width) == ["-3", "a"] and trials.reason.str.contains("Error: ").all()


def test_a_full_disk_is_no_mistake_of_a_trial(crystals, targets, split, tmp_path):
    def full(history): raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"): tune("cgcnn", crystals, targets, split, tmp_path / "s", 1, settings=asked(callbacks=(full,)))
    again = tune("cgcnn", crystals, targets, split, tmp_path / "s", 1, resume=True, settings=asked())
    assert again.trials["state"].tolist() == ["complete"] and (again.trials["epochs"] == 3).all()


def test_choices_that_are_lists(crystals, targets, split, tmp_path, recwarn):
    space = dict(joint=[(64,), (32, 16)], learning_rate=(1e-3, 1e-2))
    settings = asked(space=space, options=dict(n_blocks=1, width=8), training=dict(epochs=1), descriptors=DescriptorSettings(("volume_per_atom",)))
    found = tune("de-cgcnn", crystals, targets, split, tmp_path / "s", 2, settings=settings)
    again = tune("de-cgcnn", crystals, targets, split, tmp_path / "s", 4, resume=True, settings=settings)
    assert (again.trials["state"] != "repeated").sum() == 4 and again.trials["joint"].map(tuple).nunique() == 2
    assert found.run.model.options["joint"] == list(found.values["joint"]) and found.run.model.options["n_descriptors"] == 1
    assert not [w for w in recwarn if "categorical distribution" in str(w.message)]


def test_memory_that_runs_out_fails_the_trial_and_not_the_search(crystals, targets, split, tmp_path, monkeypatch):
    import motiflab.tuning as tuning

    real = tuning._model
    def greedy(base, values, study):
        if values["hidden_layers"] == 2: raise MemoryError("no memory for so many layers")
        return real(base, values, study)
    monkeypatch.setattr(tuning, "_model", greedy)
    found = tune("cgcnn", crystals, targets, split, tmp_path / "s", 2, settings=asked(space=dict(hidden_layers=(1, 2))))
    assert sorted(found.trials.state[found.trials.state != "repeated"]) == ["complete", "failed"] and "no memory" in " ".join(found.trials.reason)


def test_equal_values_are_trained_once(crystals, targets, split, tmp_path):
    found = tune("cgcnn", crystals, targets, split, tmp_path / "s", 10, settings=asked(space=dict(hidden_layers=(1, 2)), sampler="random"))
    twins = found.trials[found.trials.state == "repeated"]
    assert len(found.trials) - len(twins) == 2 and (twins.seconds == 0).all()
    assert all(found.trials.value[n] == row.value and found.trials.hidden_layers[n] == row.hidden_layers for n, row in zip(twins.same_as, twins.itertuples()))


def test_graphs_are_built_once_for_each_choice_of_neighbours(crystals, targets, split, tmp_path, monkeypatch):
    import motiflab.graphs

    real, built = motiflab.graphs.build_graphs, []
    monkeypatch.setattr(motiflab.graphs, "build_graphs", lambda crystals, settings, **more: built.append(settings.atoms.neighbors) or real(crystals, settings, **more))
    found = tune("cgcnn", crystals, targets, split, tmp_path / "s", 4, settings=asked(space=dict(neighbors=(4, 8), learning_rate=(1e-3, 1e-2)), sampler="random", training=dict(epochs=1)))
    assert sorted(built) == [4, 8, 12] and found.best.graphs.atoms.neighbors == found.values["neighbors"] # 12: the recipe's, by which the study knows its crystals


def test_graphs_that_are_given_stay_as_they_are(crystals, targets, split, tmp_path):
    graphs = build_graphs(crystals, GraphSettings(), n_jobs=1, progress=False)
    found = tune("megnet", graphs, targets, split, tmp_path / "s", 1, settings=asked(space="general", options={}, training=dict(epochs=1)))
    assert "cutoff" in search_space("megnet", "general") and "cutoff" not in found.values and "width" in found.values
    for more, said in ((dict(space=dict(cutoff=[4.0, 5.0])), "names 'cutoff', but the graphs are given"), (dict(space="general", graphs=GraphSettings()), "graphs are given and stay")):
        with pytest.raises(UserError, match=said): tune("megnet", graphs, targets, split, tmp_path / "t", 1, settings=asked(options={}, **more))


def test_a_hybrid_on_graphs_with_columns_of_ones_own(crystals, targets, split, tmp_path):
    graphs = build_graphs(crystals, GraphSettings(), n_jobs=1, progress=False)
    table = pd.DataFrame(dict(volume=[s.volume / len(s) for s in crystals.structures], atoms=[len(s) for s in crystals.structures]), index=crystals.frame.index)
    found = tune("de-cgcnn", graphs.with_descriptors(table), targets, split, tmp_path / "s", 1, settings=asked(space="gong", options=dict(n_blocks=1), training=dict(epochs=1)))
    assert found.run.model.options["n_descriptors"] == 2 and found.run.model.options["joint"] == [found.values["joint_width"]] * found.values["joint_layers"]


def test_classes_are_chosen_by_their_loss(crystals, split, tmp_path):
    classes = read_targets(crystals, "n", threshold=2.0)
    found = tune("cgcnn", crystals, classes, split, tmp_path / "s", 1, settings=asked(training=dict(epochs=1)))
    assert found.trials.value[0] == pytest.approx(found.run.history.validation_loss.min(), rel=1e-5)
    assert "validation loss" in str(found.figure().layout)


def test_the_figure_shows_every_trial(found):
    points = {trace.name: list(trace.x) for trace in found.figure().data if trace.mode == "markers"}
    assert {n: s for s, ns in points.items() for n in ns} == found.trials["state"].to_dict()


# mistakes

@pytest.mark.parametrize("change, said", [
    (dict(model="cgnn"), "model='cgnn' is unknown: did you mean 'cgcnn'"),
    (dict(settings=asked(space="gnog")), "space='gnog' is unknown: did you mean 'gong'"),
    (dict(model="schnet", settings=asked(space="xie", options={})), "The space 'xie' is of cgcnn, not of schnet: take 'general'"),
    (dict(settings=asked(space=dict(widht=(8, 16)))), "The space names 'widht', which cgcnn does not have: did you mean 'width'"),
    (dict(settings=asked(space={})), "The space is empty"),
    (dict(settings=asked(space=dict(width=32))), "The space gives width=32: give a list of choices, or a Knob"),
    (dict(settings=asked(space=dict(width=[]))), "The space gives width=[]: give a list of choices, or a Knob"),
    (dict(settings=asked(space=["width"])), "must be a name, or a dictionary"),
    (dict(settings=asked(space=dict(joint_width=(32, 64)))), "The space names 'joint_width', which turns nothing in cgcnn"),
    (dict(model="roost", settings=asked(space=dict(neighbors=(8, 12)))), "The space names 'neighbors', which turns nothing in roost"),
    (dict(model="de-mnet", settings=asked(space=dict(neighbors=(8, 12)))), "The space names 'neighbors', which turns nothing in de-mnet"),
    (dict(model="de-cgcnn", settings=asked(space=dict(hidden_layers=(1, 2)))), "The space names 'hidden_layers', which turns nothing in de-cgcnn"),
    (dict(settings=asked(space=dict(neighbors=(8, 12)), graphs=GraphSettings(AtomGraph(method="voronoi")))), "The space names 'neighbors', which turns nothing in cgcnn"),
    (dict(settings=asked(graphs=GraphSettings(descriptors=DescriptorSettings()))), "cgcnn reads no descriptors: its companion that does is called 'de-cgcnn'"),
    (dict(settings=asked(descriptors=DescriptorSettings())), "cgcnn reads no descriptors: its companion that does is called 'de-cgcnn'"),
    (dict(settings=asked(training=dict(epoch=2))), "setting='epoch' is unknown: did you mean 'epochs'"),
    (dict(n_trials=0), "n_trials=0 must be a whole number from 1 on"),
    (dict(fractions=(0.8, 0.0, 0.2)), "no validation crystals"),
    (dict(fractions=(0.8, 0.2, 0.0)), "no test crystals"),
])
def test_mistakes_are_named_before_anything_is_trained(change, said, crystals, targets, tmp_path):
    part = split_by_seed(len(targets), change.pop("fractions", (0.6, 0.2, 0.2)), 0)
    with pytest.raises(UserError) as error: tune(**dict(model="cgcnn", crystals=crystals, targets=targets, split=part, folder=tmp_path / "s", settings=asked()) | change)
    assert said in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "s" / "study.db").exists()


def test_a_folder_in_use_is_refused(found, crystals, targets, split, tmp_path):
    with pytest.raises(UserError, match="already holds a study: go on with it by resume=True"): tune("cgcnn", crystals, targets, split, found.folder, 5, settings=asked())
    with pytest.raises(UserError, match="was begun with another training"): tune("cgcnn", crystals, targets, split, found.folder, 5, resume=True, settings=asked(training=dict(epochs=4)))
    with pytest.raises(UserError, match="was begun with another seed"): tune("cgcnn", crystals, targets, split, found.folder, 5, 1, resume=True, settings=asked())
    with pytest.raises(UserError, match="already holds a run"): tune("cgcnn", crystals, targets, split, found.folder / "best", 5, settings=asked())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"): tune("cgcnn", crystals, targets, split, tmp_path / "file", 5, settings=asked())


def test_settings_that_cannot_be():
    with pytest.raises(UserError, match="sampler='tep' is unknown: did you mean 'tpe'"): TuneSettings(sampler="tep")
    with pytest.raises(UserError, match="warmup=-1 must be a whole number"): TuneSettings(warmup=-1)
    with pytest.raises(UserError, match="argument seed of tune, .* take seed=9 out of training"): TuneSettings(training=dict(seed=9))
    for wrong, said in ((dict(low=64, high=32), "not low=64 and high=32"), (dict(), "not low=0.0 and high=0.0"), (dict(low=0.0, high=1.0, log=True), "begins above 0, not at low=0.0"), (dict(values="ab"), "not 'ab'"), (dict(values=[object()]), "numbers, words")):
        with pytest.raises(UserError, match=said): Knob(**wrong)
    assert Knob(np.array([8, 16])) == Knob((8, 16))
    told = TuneSettings(graphs=GraphSettings(AtomGraph(neighbors=4)), descriptors=DescriptorSettings(columns=("n",))).base("de-cgcnn").graphs
    assert told.atoms.neighbors == 4 and told.descriptors.columns == ("n",) and TuneSettings(graphs=GraphSettings()).base("de-cgcnn").graphs.descriptors == DescriptorSettings()
    assert set(SPACES) == {"gong", "xie", "xie-gated", "general"}


# the command

@pytest.mark.parametrize("more, said", [
    (["--model", "cgnn"], "did you mean 'cgcnn'"), (["--space", "gnog"], "did you mean 'gong'"), (["--trials", "0"], "--trials 0 must be 1 or more"), (["--task", "regresion"], "did you mean 'regression'"),
    (["--model", "cgcnn", "--descriptors", "bank"], "called 'de-cgcnn'"),
])
def test_the_command_says_what_is_wrong_before_it_reads(more, said, tmp_path, capsys):
    from motiflab.console import run
    import motiflab.cli # noqa: F401

    assert run(["tune", "--data", "nothing.jsonl", "-t", "n", "-o", str(tmp_path / "s"), *more]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "s").exists()


def test_the_command_shows_a_narrow_table_and_counts_what_was_left_out(crystals, tmp_path, capsys):
    "A crystal without a cation has no motif, and is used all the same"
    from motiflab.console import run
    import motiflab.cli # noqa: F401

    rows = [dict(id=str(i), lattice=s.lattice.matrix.tolist(), species=[e.symbol for e in s.species], frac=s.frac_coords.tolist(), n=float(n)) for (i, s), n in zip(crystals, crystals.frame["n"])]
    rows[0]["species"] = ["Fe"] * len(rows[0]["species"])
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(["tune", "--model", "de-mnet", "--descriptors", "composition", "--data", str(tmp_path / "c.jsonl"), "-t", "n", "-o", str(tmp_path / "s"), "--epochs", "1", "--trials", "1", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "0 crystals skipped" in said and "Skipped" not in said and "  joint_width " in said and "…" not in said and "weight_decay" not in next(row for row in said.splitlines() if "validation" in row)
    best = load_run(tmp_path / "s" / "best")
    assert best.model.options["n_descriptors"] == 132 and rows[0]["id"] in set(best.skipped["id"]) and set(best.skipped["stage"]) == {"motifs"}
