"""The study of what motifs add: its jobs can be run, its ablations do what they say, its tables say what was not run."""
from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from motiflab.crystals import read_crystals
from motiflab.graphs import AtomGraph, GraphSettings, MotifGraph, build_graphs
from motiflab.graphs.merged import merge_equal
from motiflab.models import build_model
from motiflab.studies import Study, bootstrap, classification_table, errors_by_range, regression_table

SCRIPT = Path(__file__).parents[1] / "benchmarks/study.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    import sys
    sys.modules["study"] = module # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def graphs():
    crystals = read_crystals("matbench_dielectric", progress=False).filter(containing="O", max_sites=10).sample(12, seed=3)
    return build_graphs(crystals, GraphSettings(AtomGraph(), MotifGraph()), n_jobs=1, progress=False)


def test_every_job_is_named_once_and_has_its_variant(study):
    names = [study.job_name("cpu", *j) for j in study.jobs("cpu")]
    assert len(names) == len(set(names)) and {v for _, v, _ in study.jobs("cpu")} == set(study.VARIANTS) and {t for t, _, _ in study.jobs("cpu")} == set(study.TASKS)
    least = {("band_gap", v, s) for v in ("megnet", "amdnet", "megnet_wide", "amdnet_shuffled") for s in (0, 1, 2)}
    assert least <= set(study.jobs("cpu")[:15])


@pytest.mark.parametrize("variant", ["megnet", "megnet_wide", "amdnet", "amdnet_plus", "amdnet_shuffled", "amdnet_oxidation", "amdnet_plus_no_oxidation", "cgcnn", "mnet", "mnet_plus"])
def test_variants_read_their_graphs(study, graphs, variant):
    name, options, kind = study.VARIANTS[variant]
    model = build_model(name, **options).eval()
    with torch.no_grad():
        whole, merged = (model(g.batch(torch.arange(len(graphs)))) for g in (study.GRAPHS[kind](graphs), merge_equal(study.GRAPHS[kind](graphs))))
    assert whole.isfinite().all() and torch.allclose(whole, merged, atol=1e-3)


def test_wide_network_has_as_many_parameters(study):
    size = lambda v: sum(p.numel() for p in build_model(study.VARIANTS[v][0], **study.VARIANTS[v][1]).parameters())
    assert abs(size("megnet_wide") / size("amdnet") - 1) < 0.03 and size("megnet") < 0.6 * size("amdnet")


def test_shuffled_motifs_are_those_of_other_crystals(study, graphs):
    shuffled = study.shuffle_motifs(graphs, seed=0)
    moved = 0
    for k in range(len(graphs)):
        ours, theirs = graphs[k], shuffled[k]
        assert torch.equal(ours.z, theirs.z) and torch.equal(ours.edge_length, theirs.edge_length) and int(theirs.motif_atom.max()) < len(ours.z)
        moved += not (ours.motif_x.shape == theirs.motif_x.shape and torch.equal(ours.motif_x, theirs.motif_x))
    assert moved >= len(graphs) - 3
    rows = lambda g: sorted(map(tuple, g.arrays["motif_x"].tolist()))
    assert rows(shuffled) == rows(graphs) # none is lost


def test_site_columns_are_switched_off(study, graphs):
    site = study.with_site_columns(graphs, (0, 1)).arrays["motif_site"]
    assert torch.equal(site[:, :2], graphs.arrays["motif_site"][:, :2]) and not site[:, 2:].any() and graphs.arrays["motif_site"][:, 2:].any()


def made(jobs: dict[str, np.ndarray], true: np.ndarray) -> Study:
    "A study in which `jobs` (name -> predictions) were run"
    plan = pd.DataFrame([dict(job=f"cpu-{t}-{v}-{s}", task=t, variant=v, seed=s) for t in ("band_gap", "is_metal") for v in ("megnet", "amdnet", "mnet") for s in (0, 1)])
    predictions = pd.concat([pd.DataFrame(dict(job=j, id=[f"c{k}" for k in range(len(true))], true=true, predicted=p)) for j, p in jobs.items()])
    return Study(plan, pd.DataFrame(dict(parameters=7), index=list(jobs)), predictions)


def test_tables_have_scores_intervals_and_what_was_not_run():
    rng, true = np.random.default_rng(0), np.linspace(0, 4, 400)
    found = made({f"cpu-band_gap-{v}-{s}": true + e * rng.normal(size=400) for v, e in (("megnet", .8), ("amdnet", .4)) for s in (0, 1)}, true)
    table = regression_table(found, "band_gap")
    assert table.loc["mnet", "MAE"] == "not run" and table.loc["megnet", "seeds"] == 2 and table.loc["amdnet", "test"] == "400"
    assert np.isclose(float(table.loc["megnet", "MAE"]), .8 * np.sqrt(2 / np.pi), rtol=.06) and float(table.loc["megnet", "ensemble"]) < float(table.loc["megnet", "MAE"])
    assert table.loc["amdnet", "against megnet"].startswith(("-5", "-4"))
    ranges = errors_by_range(found, "band_gap", ("megnet", "amdnet", "mnet"), (1, 2))
    assert ranges.crystals.sum() == 400 and list(ranges) == ["crystals", "megnet", "amdnet"] and (ranges.amdnet < ranges.megnet).all()


def test_bootstrap_interval_holds_the_mean_and_shrinks_with_crystals():
    rng = np.random.default_rng(1)
    widths = []
    for n in (100, 10_000):
        errors = pd.DataFrame({0: rng.normal(size=n)})
        low, high = bootstrap(errors)
        assert low < errors[0].abs().mean() < high
        widths.append(high - low)
    assert widths[1] < 0.2 * widths[0]


def test_classes():
    rng, true = np.random.default_rng(0), (np.arange(300) % 2).astype(float)
    found = made({"cpu-is_metal-megnet-0": np.clip(true * .6 + rng.normal(size=300) * .2 + .2, 0, 1), "cpu-is_metal-amdnet-0": true * .98 + .01}, true)
    table = classification_table(found, "is_metal")
    assert table.loc["amdnet", "AUC"] == "1.000" and 0.9 < float(table.loc["megnet", "AUC"]) < 1 and table.loc["mnet", "AUC"] == "not run"


def test_rows_of_a_job_replace_its_old_ones(study):
    old = pd.DataFrame(dict(job=["a", "b"], x=[1, 2]))
    assert study.joined(None, old) is old and study.joined(old, pd.DataFrame(dict(job=["b"], x=[3]))).x.tolist() == [1, 3]
