"The study of hybrids: a list of jobs that survives its processes, and tables that follow from the predictions that were kept"
import runpy
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from motiflab.errors import UserError
from motiflab.shipped import shipped_path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS)) # where its imports are found
STUDY = runpy.run_path(str(BENCHMARKS / "hybrids.py"))

from joblist import JobList # noqa: E402


@pytest.fixture(scope="module")
def scores(): return pd.read_csv(shipped_path("hybrids/scores.csv"))


@pytest.fixture(scope="module")
def predictions(): return pd.read_parquet(shipped_path("hybrids/predictions.parquet"))


# -------------------------------------------------- the list of jobs
def rows(job: str, value: float = 1.0) -> dict: return {"scores.csv": pd.DataFrame([dict(job=job, value=value)]), "said.parquet": pd.DataFrame(dict(job=job, id=["a", "b"]))}


def test_a_job_is_done_once_and_written_over(tmp_path):
    jobs, ran = JobList(tmp_path), []
    def run(job):
        ran.append(job)
        jobs.add(job, rows(job))
    jobs.work(["one", "two"], run)
    jobs.work(["one", "two", "three"], run)
    assert ran == ["one", "two", "three"] and jobs.done() == {"one", "two", "three"} and len(jobs.table("said.parquet")) == 6
    jobs.add("one", rows("one", 7.0))
    assert jobs.table("scores.csv").set_index("job").value.to_dict() == dict(one=7.0, two=1.0, three=1.0) and len(jobs.table("said.parquet")) == 6
    jobs.work(["four"], run, minutes=-1)
    assert "four" not in jobs.done()


def test_a_job_that_fails_is_written_down_and_the_others_go_on(tmp_path, capsys):
    jobs = JobList(tmp_path)
    def run(job):
        if job == "bad": raise UserError("The loss became NaN.")
        jobs.add(job, rows(job))
    jobs.work(["bad", "good"], run)
    jobs.show(["bad", "good", "late"])
    assert jobs.done() == {"good"} and capsys.readouterr().out.splitlines()[-3:] == ["failed  bad The loss became NaN.", "done    good ", "not run late "]


def hold(folder, taken, free) -> None:
    with JobList(folder).claimed("one") as mine:
        taken.put(mine)
        free.get()


def test_two_processes_do_not_take_the_same_job(tmp_path):
    context = get_context("spawn")
    taken, free = context.Queue(), context.Queue()
    other = context.Process(target=hold, args=(tmp_path, taken, free))
    other.start()
    assert taken.get(timeout=120)
    with JobList(tmp_path).claimed("one") as mine: assert not mine
    with JobList(tmp_path).claimed("two") as mine: assert mine
    other.kill() # what a killed process held is free again
    other.join()
    with JobList(tmp_path).claimed("one") as mine: assert mine


# -------------------------------------------------- what was found
def test_scores_follow_from_the_predictions(scores, predictions):
    held = predictions.astype(dict(true=float, predicted=float)).groupby(["job", "target"]).apply(
        lambda p: abs(p.predicted - p.true).mean() / abs(p.true - p.true.mean()).mean(), include_groups=False)
    told = scores.set_index(["job", "target"]).mae_over_mad
    assert set(held.index) == set(told.index) and np.allclose(held.loc[told.index], told, rtol=1e-3)


def test_every_job_of_a_seed_has_the_same_test_crystals(predictions):
    parts = predictions.job.str.split("-", expand=True)
    for _, p in predictions.groupby([parts[0], parts[2], predictions.target]):
        ids = [frozenset(g.id) for _, g in p.groupby("job")]
        assert len(set(ids)) == 1


def test_what_the_paper_found_holds(scores):
    mean = scores[scores.set == "phonons"].pivot_table(index="variant", columns="target", values="mae_over_mad")
    for target, goal in (("U_kJ_per_mol_cell", 0.060), ("Cv_J_per_mol_cell_K", 0.058)):
        assert scores[(scores.set == "phonons") & (scores.target == target) & (scores.variant == "de_cgcnn")].seed.nunique() == 3
        assert mean[target]["de_cgcnn"] < min(goal, mean[target]["cgcnn"] / 10)
        assert mean[target]["debye"] < mean[target]["dulong_petit"] < mean[target]["cgcnn"]
        assert mean[target]["de_cgcnn_shuffled"] > 5 * mean[target]["de_cgcnn"]


def test_the_least_that_was_to_be_run_was(scores):
    for job in STUDY["LEAST"]: assert "-".join(map(str, job)) in set(scores.job)
    plan = pd.read_csv(shipped_path("hybrids/plan.csv"))
    assert set(scores.job) <= set(plan.job) == set(STUDY["all_jobs"]())


def test_formulas_choose_their_constant_on_training_rows():
    from pymatgen.core import Lattice, Structure

    rng = np.random.default_rng(0)
    structures = [Structure(Lattice.cubic(a), ["Si"] * n, rng.random((n, 3))) for a, n in zip(rng.uniform(4, 8, 20), rng.integers(1, 9, 20))]
    frame = pd.DataFrame(dict(structure=structures))
    n, train = frame.structure.map(len).to_numpy(), np.arange(10)
    frame["U_kJ_per_mol_cell"], frame["Cv_J_per_mol_cell_K"] = 6.0 * n, 20.0 * n
    frame.loc[10:, "Cv_J_per_mol_cell_K"] *= 100 # what test rows hold must not matter
    found = STUDY["estimates"]("times_n_atoms", frame, train)
    assert np.allclose(found[:, 1] / n, 20.0, rtol=5e-3) and np.allclose(found[:, 0] / n, 6.0, rtol=5e-3)
    assert (STUDY["estimates"]("debye", frame, train)[:, 1] <= STUDY["estimates"]("dulong_petit", frame, train)[:, 1] + 1e-9).all()
