"""What an atom on the A or the B site of a perovskite costs, learned from whole crystals (Xie and Grossman, Phys. Rev. Lett. 120, 145301, 2018, Figure 3).

    MOTIFLAB_DATA=DATA python benchmarks/perovskites.py run     # every job that was not run yet
    python benchmarks/perovskites.py list                                 # what was run, what was not
    python benchmarks/perovskites.py table                                # errors beside the paper's, and the search
    python benchmarks/perovskites.py ship                                 # the best network with equation 4 and a linear readout to data/models

A job is a variant of CGCNN and a seed; the seed decides the split of `perovskites_castelli` (7,572 of the 18,928 crystals; 60, 20 and 20 %, the set's own column
`split` has no training part and is not read), the first weights and the order. All jobs have the same epochs, batches and schedule. Results:
data/perovskites (crystals.parquet, a row a crystal: elements on A and B, anions, is it stable, and the energy of those that some seed tests; results.csv, a row a job; sites.parquet, a row a job and crystal: which part it
was in, the prediction, and with a linear readout what the atom on A, the one on B and the three anions add to it). A job that is stopped goes on from its last epoch.
"""
from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
from joblist import JobList, arguments

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "data" / "perovskites"
JOBS = JobList(OUT, "results.csv")
TARGET, ANIONS = "heat_all_eV_per_atom", ("O", "N", "S", "F")
EPOCHS, SEEDS = 80, (0, 1, 2)
SHIPPED = "cgcnn-perovskites"

VARIANTS = dict( # name -> options of CGCNN, MAE of the paper (eV/atom)
    simple_linear=(dict(conv="simple", readout="linear"), 0.130),   # equations 4, S14 and S15
    simple_full=(dict(conv="simple", readout="softmax"), 0.099),    # equations 4, S12 and S13, hidden layers after the readout
    gated_linear=(dict(conv="gated", readout="linear"), None),      # equations 5, S14 and S15: not in the paper
)


def all_jobs() -> list[str]:
    "Names variant-seed, the most needed first"
    return [f"{variant}-{seed}" for variant in VARIANTS for seed in SEEDS]


# the crystals

def crystals():
    "The perovskites as they were read"
    from motiflab.crystals import read_crystals

    return read_crystals("perovskites_castelli", progress=False)


def places(structure) -> dict[str, int]: # site of A and of B
    "B is the cation half an edge away from A along y and z, between the anions (the set names its crystals in the same order, A before B)"
    cations = [k for k, s in enumerate(structure) if s.specie.symbol not in ANIONS]
    if len(cations) != 2: raise ValueError(f"{structure.formula} has {len(cations)} cations")
    a, b = sorted(cations, key=lambda k: np.abs(structure[k].frac_coords[1:] - 0.5).max(), reverse=True)
    return dict(A=a, B=b)


def table_of(found) -> pd.DataFrame: # index id; A, B, anions, site_A, site_B, energy (eV/atom)
    "Who stands where"
    rows = {}
    for i, s in found:
        at = places(s)
        x = sorted((site.specie.symbol for k, site in enumerate(s) if k not in at.values()), key=ANIONS.index)
        rows[i] = dict(A=s[at["A"]].specie.symbol, B=s[at["B"]].specie.symbol, anions=" ".join(x), site_A=at["A"], site_B=at["B"])
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("id").assign(energy=found.frame[TARGET])


# one job

def said(run, graphs, found, who: pd.DataFrame) -> pd.DataFrame: # index id; part, predicted, A, B, X
    "The prediction for every crystal, and with a linear readout where it comes from"
    from motiflab.explain import site_energies

    part = {i: p for p, ids in run.split.items() for i in ids}
    table = pd.DataFrame(dict(part=[part[i] for i in graphs.ids], predicted=run.values(graphs)[:, 0]), index=pd.Index(graphs.ids, name="id"))
    if run.model.options["readout"] != "linear": return table.assign(A=np.nan, B=np.nan, X=np.nan)
    sites = site_energies(run, found, n_jobs=1).pivot(index="crystal_id", columns="site", values="contribution").loc[graphs.ids].to_numpy()
    row, at = np.arange(len(graphs)), who.loc[graphs.ids]
    a, b = sites[row, at.site_A.to_numpy()], sites[row, at.site_B.to_numpy()]
    return table.assign(A=a, B=b, X=(sites.sum(1) - a - b) / 3)


def run_job(job: str, folder: Path) -> None:
    "Train, and write down what was found"
    from motiflab.graphs import AtomGraph, GraphSettings, build_graphs
    from motiflab.targets import read_targets, split_by_seed
    from motiflab.training import TrainSettings, seeded_model, train

    started, (variant, seed) = time.process_time(), job.split("-")
    found, seed = crystals(), int(seed)
    graphs = build_graphs(found, GraphSettings(AtomGraph(neighbors=12, cutoff=8.0)), n_jobs=1, progress=False)
    targets = read_targets(found, TARGET)
    settings = TrainSettings(epochs=EPOCHS, batch_size=32, learning_rate=2e-3, schedule="warmup_cosine", patience=None, gradient_clip=1.0, loss="mae", seed=seed, checkpoint_every=5)
    run = train(seeded_model("cgcnn", targets.info, seed, **VARIANTS[variant][0]), graphs, targets, split_by_seed(len(targets), seed=seed), settings, folder / job, resume=True)
    keep(job, run, said(run, graphs, found, who := table_of(found)), who, time.process_time() - started)


def keep(job: str, run, rows: pd.DataFrame, who: pd.DataFrame, seconds: float) -> None:
    "Rows of a job in the tables"
    variant, seed = job.split("-")
    fact = dict(job=job, variant=variant, seed=int(seed), epochs=len(run.history), best_epoch=run.facts["best_epoch"], parameters=sum(p.numel() for p in run.model.parameters()))
    fact |= {f"n_{p}": len(run.split[p]) for p in run.split} | dict(validation_mae=run.score("mae", "validation"), test_mae=run.score("mae"), test_r2=run.score("r2"), cpu_seconds=round(seconds))
    numbers = rows.select_dtypes("float").columns
    if not (OUT / "crystals.parquet").exists():
        with JOBS.locked(): kept(who).reset_index().to_parquet(OUT / "crystals.parquet", index=False)
    JOBS.add(job, {"results.csv": pd.DataFrame([fact]), "sites.parquet": rows.astype(dict.fromkeys(numbers, "float32")).reset_index().assign(job=job)})
    print(pd.DataFrame([fact]).to_string(index=False), flush=True)


def kept(who: pd.DataFrame) -> pd.DataFrame:
    "What is written down of the crystals: their energies only where one of the seeds tests them"
    from motiflab.targets import split_by_seed

    tested = np.unique(np.concatenate([split_by_seed(len(who), seed=s).test for s in SEEDS]))
    energy = who.energy.where(np.isin(np.arange(len(who)), tested))
    return who.assign(stable=who.energy < THRESHOLD - 1e-9, energy=energy).astype(dict(site_A="int8", site_B="int8"))


def results() -> pd.DataFrame: # a row a job
    return JOBS.table("results.csv")


# what is read off

LARGE = ("In", "Tl", "Sn", "Pb", "Sb", "Bi") # of groups 13 to 15: with 9 elements on B and 7 sets of anions they are the paper's 378
THRESHOLD = 0.2 # eV/atom above the hull; a crystal below may be made. Energies are multiples of 0.02, and the paper's list ends at 0.18


def searched(who: pd.DataFrame, large: bool = True) -> pd.Series: # bool
    "Whether A is of groups 13 to 15 and B of groups 4 to 6"
    from pymatgen.core import Element

    group = {e: Element(e).group for e in {*who.A, *who.B}}
    return (who.A.isin(LARGE) if large else who.A.map(group).between(13, 15)) & who.B.map(group).between(4, 6)


def search(who: pd.DataFrame, large: bool = True) -> dict[str, float]:
    "How many of the crystals that are searched may be made, beside how many of all"
    chosen, stable = searched(who, large), who.stable
    hits = (stable & chosen).sum()
    return dict(crystals=len(who), stable=int(stable.sum()), searched=int(chosen.sum()), found=int(hits), narrower=round(float(hits / chosen.sum() / stable.mean()), 2))


def table() -> str:
    "Errors of each variant beside the paper's, and the search"
    done = results()
    lines = []
    for variant, (_, paper) in VARIANTS.items():
        of = done[done.variant == variant].sort_values("seed") if len(done) else done
        ours = " ".join(f"{v:.4f}" for v in of.test_mae) + f", mean {of.test_mae.mean():.4f}" if len(of) else "not run"
        lines.append(f"{variant:15} test MAE (eV/atom) by seed: {ours}; paper, 18,928 crystals: {paper or 'none'}")
    who = pd.read_parquet(OUT / "crystals.parquet")
    return "\n".join([*lines, f"{'search, large A':22} {search(who)}", f"{'search, all of 13-15':22} {search(who, large=False)}", "paper: 228 stable of 18,928; 33 of 378 in the search, 7 times as many"])


def ship(folder: Path) -> None:
    "The network with equation 4 and a linear readout whose validation error is least, without its checkpoint"
    import shutil
    from motiflab.training import load_run

    done = results()
    best = done[done.variant == "simple_linear"].sort_values("validation_mae").job.iloc[0]
    to = TOP / "data" / "models" / SHIPPED
    shutil.rmtree(to, ignore_errors=True)
    load_run(folder / best).save(to)
    print(f"{best} -> {to}: {sum(p.stat().st_size for p in to.rglob('*')) / 1e6:.1f} MB")


def main() -> None:
    given = arguments(__doc__, ["run", "list", "table", "ship"], all_jobs(), lambda p: p.add_argument("--runs", type=Path, default=TOP / "runs", help="folder for weights and checkpoints"))
    if given.what == "table": return print(table())
    if given.what == "ship": return ship(given.runs)
    if given.what == "list": return JOBS.show(given.chosen)
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    JOBS.work(given.chosen, lambda job: run_job(job, given.runs), given.minutes)


if __name__ == "__main__": main()
