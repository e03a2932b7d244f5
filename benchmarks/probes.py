"""What can graph networks learn about a crystal? The periods of chains, and a bank of descriptors (Gong et al., Sci. Adv. 9, eadi3245, 2023).

    python benchmarks/probes.py run                                                # every job of the list, the least needed last
    MOTIFLAB_DATA=DATA python benchmarks/probes.py run --jobs bank       # only those whose name has this in it
    python benchmarks/probes.py list                                               # what was run, what was not
    python benchmarks/probes.py table                                              # the tables of results

A job is one model, one set of crystals, one seed; one that was run is not run again, and two processes may work on the same list. The sets of
chains are those of `motiflab.chains` (1,400 chains, seed 0, 80/10/10); for the bank, 3,000 crystals of at most 40 atoms are taken from
mp_crystals_2018 as the paper thinned its set: one with space group g is left out with probability g / (g + 15); Voronoi
faces below 1e-5 of an atom's largest, which rounded coordinates make, are no neighbours. All networks of a study have the
same optimiser, batches and schedule (the recipe `quick`); epochs as in `EPOCHS`. Results: data/probes (scores.csv, a row a job and target, and
predictions.parquet, what was said of the test crystals about periods); weights are not kept.
"""
from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from joblist import JobList, arguments

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "data" / "probes"
JOBS = JobList(OUT)

EPOCHS = dict(chains=30, bank=60)
SETS = ("short", "long", "double", "mixed", "short_mixed")
PERIODS = ("a", "b", "c") # targets whose predictions are kept


# what is asked

@dataclass(frozen=True)
class Variant:
    "A model with its options and its neighbours"
    model: str
    options: dict
    neighbors: int = 12
    cutoff: float = 8.0
    triplets: int | None = None
    translations: bool = False # may it read how far copies of an atom are?
    epochs: int | None = None # where they differ from the study's


CHAINS = dict( # name -> variant, in the order of the table
    cgcnn=Variant("cgcnn", {}),
    cgcnn_8_convolutions=Variant("cgcnn", dict(n_blocks=8)),
    cgcnn_18_neighbors=Variant("cgcnn", dict(cutoff=12.0), 18, 12.0),
    cgcnn_sum=Variant("cgcnn", dict(readout="sum")),
    cgcnn_sum_of_atoms=Variant("cgcnn", dict(readout="linear_sum")),
    periodic_cell_sum=Variant("periodic", dict(copies=False, along=False)),
    periodic_neighbors=Variant("periodic", dict(copies=False)),
    periodic_copies=Variant("periodic", dict(along=False), translations=True),
    periodic=Variant("periodic", {}, translations=True),
)
BANK = dict(
    roost=Variant("roost", {}),
    cgcnn=Variant("cgcnn", {}),
    cgcnn_sum_of_atoms=Variant("cgcnn", dict(readout="linear_sum")),
    alignn=Variant("alignn", dict(width=64), triplets=12, epochs=20),
    periodic_neighbors=Variant("periodic", dict(copies=False)),
    periodic=Variant("periodic", {}, translations=True),
)
SEEDS = (0, 1, 2)


def all_jobs() -> list[str]:
    "Names set-variant-seed, the most needed first"
    first = [f"{s}-{v}-0" for v in CHAINS for s in SETS[:4]] + [f"bank-{v}-0" for v in BANK]
    again = [f"bank-{v}-{seed}" for seed in SEEDS[1:] for v in BANK if v != "alignn"]
    again += [f"{s}-{v}-{seed}" for seed in SEEDS[1:] for v in ("periodic", "periodic_neighbors", "cgcnn", "cgcnn_sum_of_atoms") for s in SETS[:4]]
    return first + [f"short_mixed-{v}-0" for v in ("cgcnn", "cgcnn_sum_of_atoms")] + again


# the crystals

def chains(name: str):
    "A set of chains"
    from motiflab.chains import make_chains

    return make_chains(name)


def thinned(n: int = 3000, max_atoms: int = 40, seed: int = 0):
    "Crystals of mp_crystals_2018, fewer of high symmetry"
    import numpy as np
    from motiflab.crystals import read_crystals
    from motiflab.crystalset import CrystalSet
    from motiflab.descriptors import describe

    crystals = read_crystals("mp_crystals_2018", progress=False).filter(max_sites=max_atoms)
    rng = np.random.default_rng(seed)
    order, draw = rng.permutation(len(crystals)), rng.random(len(crystals))
    some = crystals.frame.iloc[order[:4 * n]] # the rest is not needed
    g = describe(CrystalSet(some[["structure"]]), ["space_group_number"])["space_group_number"].reindex(some.index).to_numpy(float)
    kept = np.flatnonzero(draw[:len(some)] >= g / (g + 15))[:n]
    return CrystalSet(some[["structure"]].iloc[kept])


def bank():
    "The crystals of the bank study with all descriptors as columns, computed once"
    from motiflab.crystalset import CrystalSet
    from motiflab.descriptors import DescriptorBank
    from motiflab.paths import cache_dir

    kept = cache_dir("study") / "probe_bank.parquet"
    crystals = thinned()
    table = pd.read_parquet(kept) if kept.exists() else DescriptorBank(n_jobs=1, face_tolerance=1e-5).table(crystals, progress=False)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(kept)
    return CrystalSet(crystals.frame.join(table.reindex(crystals.frame.index)), crystals.skipped), list(table.columns)


# one job

def probe(job: str):
    "Train, predict, score"
    from motiflab.graphs import AtomGraph, GraphSettings
    from motiflab.models import MODELS
    from motiflab.probes import Probe

    where, name, seed = job.split("-")
    variant = (BANK if where == "bank" else CHAINS)[name]
    crystals, targets = bank() if where == "bank" else (chains(where), ["a"])
    graphs = GraphSettings(AtomGraph(variant.neighbors, variant.cutoff, triplets=variant.triplets), periods=MODELS[variant.model].takes_periods)
    epochs = variant.epochs or EPOCHS["bank" if where == "bank" else "chains"]
    asked = Probe(dict(name=variant.model, **variant.options), targets, baseline=None, seeds=[int(seed)], settings=dict(epochs=epochs, logger=None), graphs=graphs)
    return asked.run(crystals), epochs


def run_job(job: str) -> None:
    "One job, its rows written"
    started, used = time.time(), time.process_time()
    result, epochs = probe(job)
    where, name, seed = job.split("-")
    facts = dict(job=job, set=where, variant=name, seed=int(seed), epochs=epochs, n_train=result.facts["train"], cpu_seconds=round(time.process_time() - used), seconds=round(time.time() - started))
    columns = ["task", "r2", "mae", "mad", "mae_over_mad", "accuracy", "commonest", "n_crystals", "scope", "unit", "note"]
    rows = result.table[columns].reset_index().assign(**facts)[[*facts, "target", *columns]]
    said = result.predictions[result.predictions["target"].isin(PERIODS)].assign(job=job)[["job", "target", "id", "true", "predicted"]].astype(dict(id=str, true="float32", predicted="float32"))
    JOBS.add(job, {"scores.csv": rows, "predictions.parquet": said})
    print(job, rows[["target", "r2"]].head(3).round(4).values.tolist(), f"{facts['cpu_seconds']} s", flush=True)


# tables

def table() -> str:
    "R2 of the period for each set and model; R2 of each descriptor for each model"
    scores = pd.read_csv(OUT / "scores.csv")
    about = scores[scores["set"] != "bank"]
    periods = about.pivot_table(index="variant", columns="set", values="r2", aggfunc=["mean", "count"]).reindex([v for v in CHAINS if v in set(about["variant"])])
    held = scores[scores["set"] == "bank"]
    bank_table = held.assign(score=held["r2"].fillna(held["accuracy"])).pivot_table(index=["scope", "target"], columns="variant", values="score", sort=False)
    return f"R2 of the period, mean over the seeds, and number of seeds\n{periods.round(4).to_string()}\n\nR2 of descriptors (accuracy of the crystal system), mean over the seeds\n{bank_table.round(3).to_string()}"


def main() -> None:
    given = arguments(__doc__, ["run", "list", "table"], all_jobs())
    if given.what == "table": return print(table())
    if given.what == "list": return JOBS.show(given.chosen)
    JOBS.work(given.chosen, run_job, given.minutes)


if __name__ == "__main__": main()
