"""What do motifs add? MEGNet, CGCNN, MNet and AMDNet on the binary and ternary metal oxides of mp_crystals_2018, and the ablations that could refute the idea.

    MOTIFLAB_DATA=DATA python benchmarks/study.py run                    # every job of the list, the least needed first
    MOTIFLAB_DATA=DATA python benchmarks/study.py run --jobs band_gap    # only those whose name has this in it
    python benchmarks/study.py list                                                # what was run, what was not
    python benchmarks/study.py table                                               # the table of results
    python benchmarks/study.py ship                                                # the models that come with motiflab, from the runs of this machine

A job is one model, one property, one seed. A job that was run is not run again, one that was killed goes on where it was, and two processes
may work on the same list. The split is the data set's own column. Scales: `cpu` takes cells of at most 40 atoms and few epochs, `full` all cells
and the epochs of a GPU; all models of one scale have the same graphs, optimiser, epochs and schedule. Results: data/study (a row a job in
results.csv, predictions of the test crystals in predictions.parquet); weights and checkpoints in the folder of --runs, which is not kept.
"""
from __future__ import annotations

import argparse
import fcntl
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "data" / "study"


# what is asked

@dataclass(frozen=True)
class Scale:
    "What all jobs of one scale share"
    max_atoms: int
    epochs: int
    batch_size: int
    learning_rate: float


SCALES = dict(cpu=Scale(40, 40, 32, 2e-3), full=Scale(10_000, 400, 64, 1e-3))

TASKS = dict( # name -> how its column is read
    band_gap=dict(columns="band_gap_eV", minimum=0.0),
    formation_energy=dict(columns="formation_energy_eV_per_atom"),
    is_metal=dict(columns="is_metal"), # a gap of at most 0.2 eV
)

PAPER = ("composition", "statistics", "order_parameters")
PLUS = dict(motif_nodes=(*PAPER, "site"), cross=True)

VARIANTS = dict( # name -> model, options, graphs (one of `GRAPHS`)
    megnet=("megnet", dict(readout="mean"), "plain"),
    amdnet=("amdnet", {}, "plain"),
    amdnet_plus=("amdnet", PLUS, "plain"),                                            # oxidation state, coordination; messages between the graphs
    amdnet_shuffled=("amdnet", {}, "shuffled"),
    megnet_wide=("megnet", dict(width=94, out_width=47, readout="mean"), "plain"),    # as many parameters as amdnet
    amdnet_oxidation=("amdnet", dict(motif_nodes=("site",), motif_edges=(), cross=True), "oxidation"), # nothing of a motif but its centre's oxidation state
    amdnet_plus_no_oxidation=("amdnet", PLUS, "no_oxidation"),
    amdnet_plus_shuffled=("amdnet", PLUS, "shuffled"),
    cgcnn=("cgcnn", {}, "plain"),
    amdnet_cgcnn=("amdnet", dict(PLUS, atom="cgcnn"), "plain"),                       # amdnet_plus with the stronger atom tower
    amdnet_cgcnn_shuffled=("amdnet", dict(PLUS, atom="cgcnn"), "shuffled"),
    amdnet_cgcnn_oxidation=("amdnet", dict(motif_nodes=("site",), motif_edges=(), cross=True, atom="cgcnn"), "oxidation"),
    mnet=("mnet", {}, "plain"),
    amdnet_no_order_parameters=("amdnet", dict(motif_nodes=PAPER[:2]), "plain"),
    amdnet_no_connections=("amdnet", dict(motif_edges=()), "plain"),                  # which motifs touch, but not how
    amdnet_order_parameters_only=("amdnet", dict(motif_nodes=PAPER[2:]), "plain"),
    mnet_plus=("mnet", dict(motif_nodes=PLUS["motif_nodes"]), "plain"),
)

LEAST = [("band_gap", v, seed) for seed in (0, 1, 2) for v in ("megnet", "amdnet", "amdnet_plus", "amdnet_shuffled", "megnet_wide")]
CONTROLS = [("band_gap", v, seed) for seed in (0, 1, 2) for v in ("amdnet_oxidation", "amdnet_plus_no_oxidation")]
TOWERS = [("band_gap", v, seed) for v, seed in (("amdnet_cgcnn_oxidation", 0), ("amdnet_cgcnn_shuffled", 0), ("amdnet_cgcnn_oxidation", 1), ("amdnet_cgcnn_oxidation", 2))]
STRONGER = [("band_gap", v, seed) for seed in (0, 1, 2) for v in ("cgcnn", "amdnet_cgcnn")]
TASKS_TOO = [(task, v, 0) for v in ("amdnet_cgcnn", "cgcnn", "megnet", "amdnet_plus") for task in ("formation_energy", "is_metal")]
ABLATIONS = [("band_gap", v, 0) for v in VARIANTS]
REST = [(task, v, 0) for v in ("amdnet", "mnet") for task in ("formation_energy", "is_metal")]


def jobs(scale: str, wanted: str = "") -> list[tuple[str, str, int]]:
    "Task, variant and seed of each job, the least needed first"
    every = list(dict.fromkeys(LEAST + STRONGER + TASKS_TOO[:2] + TOWERS + TASKS_TOO + CONTROLS + ABLATIONS + REST))
    return [j for j in every if wanted in job_name(scale, *j)]


def write_plan(scale: str) -> None:
    "All jobs of a scale, so that what was not run can be told from what was never asked"
    OUT.mkdir(parents=True, exist_ok=True)
    rows = [dict(job=job_name(scale, *j), scale=scale, task=j[0], variant=j[1], seed=j[2]) for j in jobs(scale)]
    pd.DataFrame(rows).to_csv(OUT / "plan.csv", index=False)


def job_name(scale: str, task: str, variant: str, seed: int) -> str: return f"{scale}-{task}-{variant}-{seed}"


# crystals and graphs

def oxides(max_atoms: int) -> pd.DataFrame:
    "Binary and ternary oxides of at least one metal"
    from motiflab.crystals import read_crystals
    from pymatgen.core import Element

    metals = {e.symbol for e in Element if e.is_metal}
    frame = read_crystals("mp_crystals_2018", progress=False).frame
    elements = frame.structure.map(lambda s: {e.symbol for e in s.composition.elements})
    kept = elements.map(lambda e: "O" in e and len(e) in (2, 3) and bool(e & metals)) & (frame.structure.map(len) <= max_atoms)
    return frame[kept].assign(is_metal=frame.band_gap_eV[kept] <= 0.2)


def graphs_of(scale: str, frame: pd.DataFrame):
    "The dual graphs of all crystals, built once and kept in the cache"
    from motiflab.crystals import CrystalSet
    from motiflab.graphs import AtomGraph, GraphSettings, MotifGraph, build_graphs

    return build_graphs(CrystalSet(frame), GraphSettings(AtomGraph(), MotifGraph()))


def shuffle_motifs(graphs, seed: int):
    "Each crystal gets the motif graph of another; `motif_atom` and `ligand_index` are kept within the cell that receives them. Before merging."
    from motiflab.graphs.packed import GraphSet

    order = np.random.default_rng(seed).permutation(len(graphs))
    other = graphs.subset(order)
    families = ("motif", "motif_edge", "ligand")
    arrays = {f: a for f, a in graphs.arrays.items() if not f.startswith(("motif", "ligand"))} | {f: a.clone() for f, a in other.arrays.items() if f.startswith(("motif", "ligand"))}
    atoms = graphs.n_atoms
    per = lambda family: atoms.repeat_interleave(other.starts[family].diff())
    arrays["motif_atom"] %= per("motif").to(arrays["motif_atom"].dtype)
    arrays["ligand_index"][:, 0] %= per("ligand").to(arrays["ligand_index"].dtype)
    return GraphSet(arrays, {k: (other if k in families else graphs).starts[k] for k in graphs.starts}, graphs.ids, graphs.skipped, dict(graphs.settings, shuffled=seed))


def with_site_columns(graphs, kept: tuple[int, ...]):
    "Of oxidation state, whether it is known, number of ligands and symmetry measure of each motif, only some"
    from motiflab.graphs.packed import GraphSet

    site = graphs.arrays["motif_site"].clone()
    site[:, [k for k in range(site.shape[1]) if k not in kept]] = 0
    return GraphSet(dict(graphs.arrays, motif_site=site), graphs.starts, graphs.ids, graphs.skipped, dict(graphs.settings, site_columns=list(kept)))


GRAPHS = dict( # name -> what is made of the graphs that were built
    plain=lambda graphs: graphs,
    shuffled=lambda graphs: shuffle_motifs(graphs, 0),
    oxidation=lambda graphs: with_site_columns(graphs, (0, 1)),
    no_oxidation=lambda graphs: with_site_columns(graphs, (2, 3)),
)


# one job

def run_job(scale: str, job: tuple[str, str, int], frame: pd.DataFrame, graphs: dict, folder: Path) -> None:
    "Train, and add a row to the results and the test predictions to theirs"
    from motiflab.targets import read_targets, split_by_column
    from motiflab.training import TrainSettings, seeded_model, train

    task, variant, seed = job
    model_name, options, kind = VARIANTS[variant]
    if kind not in graphs: graphs[kind] = merge(GRAPHS[kind](graphs["built"]))
    targets = read_targets(frame, **TASKS[task])
    s = SCALES[scale]
    settings = TrainSettings(epochs=s.epochs, batch_size=s.batch_size, learning_rate=s.learning_rate, schedule="warmup_cosine", patience=None, gradient_clip=1.0,
                             loss=None if task == "is_metal" else "mae", seed=seed, checkpoint_every=5)
    name = job_name(scale, *job)
    run = train(seeded_model(model_name, targets.info, seed, **options), graphs[kind], targets, split_by_column(frame["split"]), settings,
                folder=folder / name, resume=True)
    keep(scale, job, run)


def merge(graphs):
    from motiflab.graphs.merged import merge_equal

    return merge_equal(graphs)


@contextmanager
def alone(path: Path):
    "Only one process at a time writes here"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def row(scale: str, job: tuple[str, str, int], run) -> dict:
    "What is written down of a job"
    s, facts = SCALES[scale], run.facts
    return dict(scale=scale, task=job[0], variant=job[1], seed=job[2], max_atoms=s.max_atoms, epochs=s.epochs, best_epoch=facts["best_epoch"], n_train=facts["n_train"],
                parameters=sum(p.numel() for p in run.model.parameters()), seconds=round(facts["seconds"]), data_hash=facts["data_hash"][:12], torch=facts["versions"]["torch"],
                motiflab=facts["versions"]["motiflab"])


def test_table(run) -> pd.DataFrame:
    "Crystal, truth and prediction of the test crystals; of classes, whether it is the last and how likely that is"
    table, column = run.predictions[run.predictions.split == "test"], run.targets.names[0]
    true = table[column] if run.targets.task == "regression" else (table[column] == run.targets.classes[-1])
    return pd.DataFrame(dict(id=table.index, true=true.to_numpy(np.float32), predicted=table[f"{column}_predicted"].to_numpy(np.float32)))


def keep(scale: str, job: tuple[str, str, int], run) -> None:
    "Add a job to results.csv and predictions.parquet; scores are computed from the predictions when they are shown"
    name, table = job_name(scale, *job), test_table(run)
    with alone(OUT / ".lock"):
        done, path = results(), OUT / "predictions.parquet"
        joined(done, pd.DataFrame([dict(job=name, **row(scale, job, run))])).to_csv(OUT / "results.csv", index=False)
        joined(pd.read_parquet(path) if path.exists() else None, table.assign(job=name)).to_parquet(path, index=False)


def joined(before: pd.DataFrame | None, new: pd.DataFrame) -> pd.DataFrame:
    "Rows of other jobs, then the new ones"
    return new if before is None or before.empty else pd.concat([before[~before.job.isin(new.job)], new])


def results() -> pd.DataFrame:
    "The jobs that were run"
    path = OUT / "results.csv"
    whole = ("seed", "max_atoms", "epochs", "best_epoch", "n_train", "parameters", "seconds")
    return pd.read_csv(path).astype(dict.fromkeys(whole, int)) if path.exists() else pd.DataFrame(columns=["job", "task"])


def work(arguments: tuple) -> None:
    "One process: jobs of the list that no other process has taken"
    scale, wanted, folder, deadline = arguments
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    frame = oxides(SCALES[scale].max_atoms)
    built = graphs_of(scale, frame)
    graphs = dict(built=built)
    for job in jobs(scale, wanted):
        name = job_name(scale, *job)
        if time.time() > deadline: return
        (folder / name).mkdir(parents=True, exist_ok=True)
        with open(folder / name / ".taken", "w") as taken:
            try: fcntl.flock(taken, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError: continue
            if name in set(results().job): continue
            began = time.time()
            run_job(scale, job, frame, graphs, folder)
            print(f"{name}: {(time.time() - began) / 60:.1f} min, {table(results()).query('job == @name').score.iloc[0]}", flush=True)


# tables

def table(done: pd.DataFrame) -> pd.DataFrame:
    "Score of each job on its test crystals"
    predictions = pd.read_parquet(OUT / "predictions.parquet") if len(done) else pd.DataFrame(columns=["job", "true", "predicted"])
    return done.assign(score=[score(predictions[predictions.job == j], t) for j, t in zip(done.job, done.task)])


def score(p: pd.DataFrame, task: str) -> str:
    "MAE and RMSE, or ROC AUC and accuracy"
    from sklearn.metrics import roc_auc_score

    error = (p.predicted - p.true).abs()
    if task == "is_metal": return f"AUC {roc_auc_score(p.true, p.predicted):.3f}, accuracy {((p.predicted > 0.5) == (p.true > 0.5)).mean():.3f}, n {len(p)}"
    return f"MAE {error.mean():.4f}, RMSE {(error ** 2).mean() ** 0.5:.4f}, n {len(p)}"


# models that come with motiflab

SHIPPED = { # name -> task, variant, seeds; several seeds make an ensemble
    "amdnet-band-gap": ("band_gap", "amdnet_cgcnn", (0, 1, 2)),
    "megnet-band-gap": ("band_gap", "megnet", (0,)),
    "amdnet-formation-energy": ("formation_energy", "amdnet_cgcnn", (0,)),
    "amdnet-is-metal": ("is_metal", "amdnet_cgcnn", (0,)),
}


def ship(scale: str, folder: Path) -> None:
    "Copy finished runs to data/models, without checkpoints"
    import shutil

    from motiflab.ensembles import Ensemble
    from motiflab.training import load_run

    for name, (task, variant, seeds) in SHIPPED.items():
        runs, target = [load_run(folder / job_name(scale, task, variant, seed)) for seed in seeds], TOP / "data" / "models" / name
        shutil.rmtree(target, ignore_errors=True)
        (runs[0] if len(runs) == 1 else Ensemble.of(runs)).save(target)
        print(f"{name}: {sum(p.stat().st_size for p in target.rglob('*')) / 1e6:.1f} MB in {target}")


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("what", choices=("run", "list", "table", "ship"))
    ask.add_argument("--scale", choices=SCALES, default="cpu")
    ask.add_argument("--jobs", default="", metavar="TEXT", help="only jobs with this in their name")
    ask.add_argument("--runs", type=Path, default=TOP / "runs", help="folder for weights and checkpoints")
    ask.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, each with one thread")
    ask.add_argument("--minutes", type=float, default=1e6, help="start no job after this time")
    given = ask.parse_args()
    if given.what == "ship": return ship(given.scale, given.runs)
    if given.what == "run":
        write_plan(given.scale)
        start(given)
    done = table(results())
    if given.what == "table": return print(done[["job", "n_train", "parameters", "best_epoch", "seconds", "score"]].sort_values("job").to_string(index=False))
    known = dict(zip(done.job, done.score))
    for job in jobs(given.scale, given.jobs): print(f"{job_name(given.scale, *job):45} {known.get(job_name(given.scale, *job), 'not run')}")


def start(given: argparse.Namespace) -> None:
    "Workers of `work`; the graphs are built once before they begin"
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    merge(graphs_of(given.scale, oxides(SCALES[given.scale].max_atoms)))
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        list(pool.map(work, [(given.scale, given.jobs, given.runs, time.time() + 60 * given.minutes)] * given.workers))


if __name__ == "__main__": main()
