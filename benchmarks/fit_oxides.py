"""Fit the Motif2Vec that motiflab ships: all binary and ternary oxides of the Materials Project.

    MOTIFLAB_DATA=DATA python benchmarks/fit_oxides.py --seed 0

extracts their motifs (about two minutes on two processors; a random 3,000 of them with --n 3000), fits, and writes
data/motif2vec_oxides and data/motif2vec_oxides_variants.csv. With --motifs the tables of earlier extractions are used
instead, in the order given.
"""
from __future__ import annotations

import argparse
import itertools
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from motiflab.findings import headlines
from motiflab.motif2vec import COUNTS, OWN, WEIGHTINGS, Motif2Vec
from motiflab.motifs.table import MotifTable, concat_motifs, load_motifs

SOURCE = "Materials Project (2024), by way of github.com/fxcoudert/topology_databases, data set mp_oxides_2024"
TOP = Path(__file__).resolve().parent.parent


def extract(n: int | None, seed: int, jobs: int | None) -> MotifTable:
    "Motifs of a random `n` of the oxides"
    from motiflab.crystals import CrystalSet, read_crystals
    from motiflab.motifs import extract_motifs

    frame = read_crystals("mp_oxides_2024").frame
    print(f"{len(frame):,} oxides")
    return extract_motifs(CrystalSet(frame.iloc[np.random.default_rng(seed).permutation(len(frame))[:n]]), n_jobs=jobs)


def fit(table: MotifTable, seed: int, selection: str, out: Path) -> Motif2Vec:
    "Fit with the default options and write the folder that is shipped"
    model = Motif2Vec(seed=seed).fit(table)
    model.save(out / "motif2vec_oxides", source=SOURCE, license="CC BY 4.0", selection=selection, seed=seed, skipped=len(table.skipped),
               environments=f"ChemEnv of pymatgen {version('pymatgen')}, lowest continuous symmetry measure", command="python benchmarks/fit_oxides.py")
    return model


def variants(table: MotifTable) -> pd.DataFrame:
    "The paper's findings in short for every way to count and weight"
    rows = []
    for count in COUNTS:
        model = Motif2Vec(count=count).fit(table)
        for own, weighting in itertools.product(OWN, WEIGHTINGS):
            rows.append(dict(count=count, own=own, weighting=weighting, **headlines(model.reweighted(own=own, weighting=weighting))))
    return pd.DataFrame(rows)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--n", type=int, help="how many crystals, drawn at random; all when not given")
    ask.add_argument("--seed", type=int, default=0, help="of the draw and of the decomposition")
    ask.add_argument("--jobs", type=int, help="processes for the extraction; all processors when not given")
    ask.add_argument("--motifs", type=Path, nargs="+", metavar="FOLDER", help="tables already extracted, instead of extracting")
    ask.add_argument("--selection", default="all {n}", help="how the crystals of --motifs were chosen, for the record; {n} is their number")
    ask.add_argument("--out", type=Path, default=TOP / "data", help="folder to write into")
    given = ask.parse_args()
    table = concat_motifs(map(load_motifs, given.motifs)) if given.motifs else extract(given.n, given.seed, given.jobs)
    print(table)
    chosen = given.selection if given.motifs or not given.n else "a random {n} of the"
    chosen = chosen.format(n=f"{table.n_crystals + len(table.skipped):,}") + " binary and ternary oxides"
    model = fit(table, given.seed, chosen, given.out)
    print(f"{len(model.vectors_):,} kinds have a vector; the first explains {model.explained_variance_ratio_[0]:.1%}, all {model.explained_variance_ratio_.sum():.1%}")
    variants(table).round(4).to_csv(given.out / "motif2vec_oxides_variants.csv", index=False)


if __name__ == "__main__": main()
