"""Folds of a public benchmark: who is in which, what happens to a member that diverges, what a blend brings, what is written."""
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from motiflab.errors import UserError
from motiflab.folds import (DIELECTRIC_HASH, METRICS, Diverged, Judge, Member, blend, blend_weights, cross_fit, fold_scores, folds_hash, inner_folds, matbench_folds, matbench_record,
                            read_folds, record_hash, row_names, settled, summary, write_fold, write_record)

TOP = Path(__file__).resolve().parent.parent
KEPT = TOP / "benchmarks" / "results" / "matbench_dielectric"


@pytest.fixture(scope="module")
def task():
    "A curve of two numbers with noise: truth, folds, a member for each number"
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (200, 2))
    truth = np.exp(x.sum(1)) + 0.05 * rng.standard_normal(200)

    def line(column, calls=None):
        def fit(train, rows, rate):
            if calls is not None: calls.append(len(train))
            return np.polyval(np.polyfit(x[train, column], truth[train], 2), x[rows, column])
        return fit
    return truth, matbench_folds(200), line


def test_folds_are_matbenchs():
    folds = matbench_folds(4764)
    assert folds_hash(folds) == DIELECTRIC_HASH
    assert [len(f.test) for f in folds] == [953, 953, 953, 953, 952]
    assert folds[0].test[:5].tolist() == [7, 9, 18, 24, 30] # mb-dielectric-0008, -0010, -0019, -0025, -0031 of the package's own list
    assert folds_hash(matbench_folds(4764, seed=1)) != DIELECTRIC_HASH


def test_every_row_is_predicted_once():
    folds = matbench_folds(103)
    assert np.array_equal(np.sort(np.concatenate([f.test for f in folds])), np.arange(103))
    for f in folds: assert not set(f.train) & set(f.test)


def test_too_few_rows():
    with pytest.raises(UserError, match="cannot be cut into 5 folds"): matbench_folds(4)


def test_inner_folds_know_nothing_of_the_test():
    fold = matbench_folds(103)[2]
    inner = inner_folds(fold)
    assert np.array_equal(np.sort(np.concatenate([f.test for f in inner])), fold.train)
    assert not any(set(np.concatenate([f.train, f.test])) & set(fold.test) for f in inner)


def test_members_never_see_test_values(task):
    truth, folds, line = task
    seen = []
    def fit(train, rows, rate):
        seen.append(set(train) & set(folds[1].test))
        return line(0)(train, rows, rate)
    changed = truth.copy()
    changed[folds[1].test] = 1e9
    a, b = cross_fit("a", fit, truth, folds[1], inner_folds(folds[1])), cross_fit("a", fit, changed, folds[1], inner_folds(folds[1]))
    assert not any(seen) and np.array_equal(a.train, b.train) and np.array_equal(a.test, b.test)


def test_a_diverged_member_is_tried_again(task):
    truth, folds, line = task
    def fit(train, rows, rate): return line(0)(train, rows, rate) if rate < 0.5 else np.full(len(rows), np.inf)
    with pytest.warns(Diverged, match="with 1 times its learning rate it diverged"): member = cross_fit("net", fit, truth, folds[0], inner_folds(folds[0]))
    assert np.array_equal(member.test, cross_fit("line", line(0), truth, folds[0], inner_folds(folds[0])).test)
    assert len(member.said) == 5 and "net, fold 0, copy 0" in member.said[0]


def test_a_member_that_never_settles_stays_in(task):
    truth, folds, _ = task
    def fit(train, rows, rate): raise UserError("No epoch gave a finite validation score.")
    with pytest.warns(Diverged, match="median of the training values stands in"): member = cross_fit("net", fit, truth, folds[0], inner_folds(folds[0]))
    assert np.isfinite(member.test).all() and len(member.test) == len(folds[0].test)
    assert abs(np.median(truth[folds[0].train]) - member.test[0]) < 0.1


def test_an_error_far_beyond_guessing_is_divergence():
    truth = np.linspace(1, 2, 50)
    judge = Judge(truth, np.arange(10, 20), 1.5)
    assert "that of the median" in judge.reason(np.arange(10, 30), np.full(20, 50.0))
    assert judge.reason(np.arange(10, 30), truth[10:30]) == ""
    assert "shape" in judge.reason(np.arange(10, 30), np.zeros(3))
    values, said = settled(lambda t, r, rate: np.full(len(r), 50.0), np.arange(10), np.arange(10, 30), judge)
    assert (values == 1.5).all() and len(said) == 4


def test_a_bug_is_no_divergence(task):
    truth, folds, _ = task
    def fit(train, rows, rate): raise KeyError("a mistake of ours")
    with pytest.raises(KeyError): cross_fit("net", fit, truth, folds[0], inner_folds(folds[0]))


def test_a_stopped_run_goes_on(task, tmp_path):
    truth, folds, line = task
    calls, inner = [], inner_folds(folds[0])
    cross_fit("line", line(0, calls), truth, folds[0], inner[:3], tmp_path, "one")
    assert len(calls) == 3
    calls.clear()
    first = cross_fit("line", line(0, calls), truth, folds[0], inner, tmp_path, "one")
    assert len(calls) == 5 # other inner folds, other copies
    calls.clear()
    (tmp_path / "fold_0" / "line-2.json").unlink()
    (tmp_path / "fold_0" / "line-3.json").write_text('{"key": ')
    again = cross_fit("line", line(0, calls), truth, folds[0], inner, tmp_path, "one")
    assert len(calls) == 2 and np.allclose(again.test, first.test) and np.allclose(again.train, first.train)
    cross_fit("line", line(0, calls), truth, folds[0], inner, tmp_path, "other settings")
    assert len(calls) == 7


def test_a_blend_beats_its_members(task):
    truth, folds, line = task
    fold = folds[0]
    members = [cross_fit(str(k), line(k), truth, fold, inner_folds(fold)) for k in (0, 1)]
    joined, weights = blend(members, truth, fold)
    error = lambda m: abs(m.test - truth[fold.test]).mean()
    assert error(joined) < 0.9 * min(map(error, members))
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1)


def test_weights_are_those_of_least_absolute_deviation():
    rng = np.random.default_rng(0)
    good, truth = rng.normal(size=400), None
    truth = good.copy()
    truth[:20] += 1000 # outliers that a least-squares fit would run after
    assert blend_weights(np.stack([good, good + 3], 1), truth) == pytest.approx([1, 0], abs=1e-6)
    with pytest.raises(UserError, match="finite"): blend_weights(np.array([[np.nan], [1.0]]), np.ones(2))
    with pytest.raises(UserError, match="one row a value"): blend_weights(np.ones((3, 2)), np.ones(4))


def test_a_blend_takes_members_of_its_fold_only(task):
    truth, folds, _ = task
    with pytest.raises(UserError, match="is of fold 1, not of fold 0"): blend([Member("a", 1, np.ones(160), np.ones(40))], truth, folds[0])


def test_files_come_back(tmp_path):
    folds, values = matbench_folds(50), np.linspace(1, 3, 50)
    for f in folds[:4]: write_fold(tmp_path, f, values[f.test])
    found = read_folds(tmp_path, folds)
    assert np.isnan(found[folds[4].test]).all() and np.allclose(np.delete(found, folds[4].test), np.delete(values, folds[4].test), rtol=1e-5)
    assert len(fold_scores(values, found, folds)) == 4


@pytest.mark.parametrize("spoil, said", [
    (lambda t: pd.concat([t, t.iloc[:1]]), "twice"),
    (lambda t: t.iloc[1:], "lacks 1 of 10 rows"),
    (lambda t: t.assign(id=t.id.where(t.index > 0, 10_000)), "is not in fold 0"),
    (lambda t: t.assign(prediction=t.prediction.where(t.index > 0)), "not finite"),
    (lambda t: t.rename(columns=dict(prediction="n")), "must have the columns id,prediction"),
])
def test_spoilt_files_are_refused(tmp_path, spoil, said):
    folds = matbench_folds(50)
    path = write_fold(tmp_path, folds[0], np.ones(10))
    spoil(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(UserError, match=said): read_folds(tmp_path, folds)


def test_only_finite_predictions_of_all_rows_are_written(tmp_path):
    fold = matbench_folds(50)[0]
    with pytest.raises(UserError, match="not finite"): write_fold(tmp_path, fold, np.full(10, np.nan))
    with pytest.raises(UserError, match="10 rows to predict"): write_fold(tmp_path, fold, np.ones(9))
    assert not list(tmp_path.iterdir())


def test_the_record_is_matbenchs(tmp_path):
    folds, truth = matbench_folds(50), np.linspace(1, 3, 50)
    record = matbench_record("matbench_dielectric", truth, truth + 0.25, folds, dict(algorithm="x"), [dict(weights={"a": 1.0})] * 5)
    read = json.loads(gzip.decompress(write_record(record, tmp_path / "results.json.gz").read_bytes()))
    assert set(read) == {"@module", "@class", "version", "tasks", "user_metadata", "benchmark_name", "datestamp", "hash"} and read["hash"] == record_hash(read)
    one = read["tasks"]["matbench_dielectric"]
    assert set(one) == {"@module", "@class", "benchmark_name", "dataset_name", "results"} and list(one["results"]) == [f"fold_{k}" for k in range(5)]
    for k, fold in enumerate(one["results"].values()):
        assert set(fold) == {"data", "parameters", "scores"} and set(fold["scores"]) == set(METRICS) and fold["scores"]["mae"] == pytest.approx(0.25)
        assert list(fold["data"]) == [row_names("matbench_dielectric", 50)[r] for r in folds[k].test]
    read["tasks"]["matbench_dielectric"]["results"]["fold_0"]["scores"]["mae"] = 0.0
    assert record_hash(read) != read["hash"]


def test_a_record_holds_all_folds():
    values = np.ones(50)
    values[matbench_folds(50)[3].test] = np.nan
    with pytest.raises(UserError, match="Fold 3 of matbench_dielectric has no predictions"): matbench_record("matbench_dielectric", np.ones(50), values, matbench_folds(50), {})


def test_row_names(): assert row_names("matbench_dielectric", 4764)[7] == "mb-dielectric-0008"


@pytest.mark.skipif(not (KEPT / "results.json.gz").exists(), reason="Study 2 was not run")
@pytest.mark.parametrize("folder", ["", "own"])
def test_what_is_kept_gives_what_is_said(crystals_of_the_task, folder):
    n, folds = crystals_of_the_task, matbench_folds(4764)
    found = summary(fold_scores(n, read_folds(KEPT / folder, folds), folds))
    record = json.loads(gzip.decompress((KEPT / folder / "results.json.gz").read_bytes()))
    said = [f["scores"]["mae"] for f in record["tasks"]["matbench_dielectric"]["results"].values()]
    assert found["folds"] == 5 and found["n"] == 4764 and np.mean(said) == pytest.approx(found["mean_mae"], abs=1e-5) and record["hash"] == record_hash(record)
    table = pd.read_csv(KEPT / "scores.csv", index_col="model")
    assert table.loc["blend without transfer" if folder else "blend with transfer", "mean_mae"] == pytest.approx(found["mean_mae"], abs=1e-5)


@pytest.fixture(scope="module")
def crystals_of_the_task():
    from motiflab.crystals import read_crystals

    return read_crystals("matbench_dielectric", progress=False).frame.n.to_numpy(float)


def test_the_benchmark_explains_itself():
    said = subprocess.run([sys.executable, str(TOP / "benchmarks" / "matbench_dielectric.py"), "--help"], capture_output=True, text=True, timeout=120)
    assert said.returncode == 0 and "pretrain" in said.stdout
