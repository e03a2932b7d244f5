"""Descriptors beside matminer's featurizers, on the same random crystals in one run, one thread.

    MOTIFLAB_DATA=DATA python benchmarks/descriptors.py               # speed; 24 crystals, a minute, nearly all of it matminer's
    MOTIFLAB_DATA=DATA python benchmarks/descriptors.py --reference   # matminer's values of other crystals, for tests to compare with
    MOTIFLAB_DATA=DATA python benchmarks/descriptors.py --slivers     # how many faces of Voronoi cells are there by rounding

Processor time a crystal. `matminer` runs the featurizers that define the descriptors, each once: StructuralHeterogeneity, SiteStatsFingerprint of
AverageBondLength, AverageBondAngle and CoordinationNumber (all with VoronoiNN), DensityFeatures, StructuralComplexity, GlobalSymmetryFeatures, and
pymatgen's find_primitive and Niggli reduction. `motiflab` is `DescriptorBank().fit_transform` of all of `DESCRIPTORS`, from pymatgen
structures, in one thread. Everything is loaded and compiled before a clock starts.
"""
from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"): os.environ[name] = "1"  # before numpy is loaded
os.environ["SPGLIB_WARNING"] = "OFF"  # it prints what it tries

import argparse
import json
import platform
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pymatgen.analysis.local_env import VoronoiNN
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from motiflab.crystals import CrystalSet, read_crystals
from motiflab.descriptors import CRYSTAL_SYSTEMS, DESCRIPTORS, DescriptorBank

TOP = Path(__file__).resolve().parent.parent
RESULTS = TOP / "data" / "benchmark_descriptors.json"
REFERENCE = TOP / "tests" / "descriptors_matminer.json"
ROUNDING = 1e-10  # of the largest face: smaller ones are no neighbours
VORONOI = tuple(n for n, d in DESCRIPTORS.items() if d.scope == "local" and n not in ("volume_per_atom", "packing_fraction"))
OUR_PARTS = {"Voronoi cells": VORONOI, "volumes": ("volume_per_atom", "packing_fraction", "density"),
             "symmetry and reduced cell": ("n_atoms", "a", "b", "c", "alpha", "beta", "gamma", "crystal_system", "space_group_number"),
             "complexity": ("structural_complexity_per_atom",)}


def save(part: str, numbers: dict) -> None:
    "Keep the numbers of one part beside those of the others"
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[part] = numbers
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def machine() -> dict:
    return dict(python=platform.python_version(), processor=platform.processor() or platform.machine(), **{p: version(p) for p in ("motiflab", "matminer", "numba", "numpy", "pymatgen", "spglib")})


# matminer

def reduced_cell(s: Structure) -> list[float]:
    "Atoms, lengths and angles of the Niggli cell of spglib's primitive cell, by pymatgen"
    primitive = SpacegroupAnalyzer(s).find_primitive()
    lattice = primitive.lattice.get_niggli_reduced_lattice()
    return [len(primitive), *sorted(lattice.abc, reverse=True), *sorted(lattice.angles, reverse=True)]


def published(tolerance: float = 0.0) -> dict:
    "Name -> (what gives the values of a structure, names of these values); `tolerance` is VoronoiNN's for neighbours of single sites"
    from matminer.featurizers.site import AverageBondAngle, AverageBondLength, CoordinationNumber
    from matminer.featurizers.structure import DensityFeatures, GlobalSymmetryFeatures, SiteStatsFingerprint, StructuralComplexity, StructuralHeterogeneity

    def over_sites(featurizer, quantity: str) -> tuple:
        return SiteStatsFingerprint(featurizer, stats=("mean", "avg_dev", "std_dev")).featurize, [f"{s}_{quantity}" for s in ("mean", "mad", "std")]
    spread = StructuralHeterogeneity(stats=("maximum", "minimum", "range", "mean", "avg_dev", "std_dev"))
    return {
        "StructuralHeterogeneity": (spread.featurize, [n for n in VORONOI if n.endswith(("relative_bond_length", "distance_variation", "atomic_volume"))]),
        "AverageBondLength": over_sites(AverageBondLength(VoronoiNN(tol=tolerance)), "average_bond_length"),
        "AverageBondAngle": over_sites(AverageBondAngle(VoronoiNN(tol=tolerance)), "average_bond_angle"),
        "CoordinationNumber": over_sites(CoordinationNumber(VoronoiNN(tol=tolerance)), "voronoi_cn"),
        "DensityFeatures": (DensityFeatures().featurize, ["density", "volume_per_atom", "packing_fraction"]),
        "StructuralComplexity": (StructuralComplexity().featurize, ["structural_complexity_per_atom", "structural_complexity_per_cell"]),
        "GlobalSymmetryFeatures": (GlobalSymmetryFeatures(["spacegroup_num", "crystal_system"]).featurize, ["space_group_number", "crystal_system"]),
        "primitive and Niggli cell": (reduced_cell, ["n_atoms", "a", "b", "c", "alpha", "beta", "gamma"]),
    }


def asked(work, s: Structure, names: list[str]) -> dict:
    "Values by name, None where the featurizer fails"
    try: values = work(s)
    except Exception: values = [None] * len(names)  # whatever it raises, there is no value
    return {n: CRYSTAL_SYSTEMS.index(v) + 1 if isinstance(v, str) else v for n, v in zip(names, values)}


# speed

def our_seconds(crystals: CrystalSet, names: tuple | None, rounds: int) -> float:
    "The least processor time of several runs, after one that does not count"
    times = []
    for _ in range(rounds + 1):
        begin = time.process_time()
        DescriptorBank(names, n_jobs=1).fit_transform(crystals)
        times.append(time.process_time() - begin)
    return min(times[1:])


def their_seconds(crystals: CrystalSet) -> tuple[Counter, dict]:
    "Processor time of each featurizer, and its values"
    seconds, found = Counter(), {}
    for name, (work, names) in published().items():
        asked(work, Structure.from_spacegroup("Fm-3m", np.eye(3) * 4.21, ["Mg", "O"], [[0, 0, 0], [.5, .5, .5]]), names)
        for i, s in crystals:
            begin = time.process_time()
            found.setdefault(i, {}).update(asked(work, s, names))
            seconds[name] += time.process_time() - begin
    return seconds, found


def agreement(crystals: CrystalSet, found: dict) -> float:
    "Share of all values that are within 1e-6 (relative) of matminer's"
    ours = DescriptorBank(n_jobs=1).table(crystals)
    numbers = ours.assign(crystal_system=[CRYSTAL_SYSTEMS.index(w) + 1 for w in ours.crystal_system])
    pairs = [(float(numbers.loc[i, n]), v) for i, row in found.items() for n, v in row.items() if v is not None]
    return float(np.mean([abs(a - b) <= 1e-6 * max(1, abs(b)) for a, b in pairs]))


def speed(crystals: CrystalSet, rounds: int, data: str) -> None:
    "Milliseconds a crystal of both, and how many times less ours are"
    parts = {part: our_seconds(crystals, names, rounds) for part, names in OUR_PARTS.items()}
    ours, (theirs, found) = our_seconds(crystals, None, rounds), their_seconds(crystals)
    ms = lambda seconds: round(1e3 * seconds / len(crystals), 4)
    for name, seconds in (*theirs.items(), ("matminer, all", theirs.total()), *((f"motiflab, {p}", s) for p, s in parts.items()), ("motiflab, all", ours)):
        print(f"{name:40s} {ms(seconds):10.3f} ms a crystal")
    same = agreement(crystals, found)
    print(f"{len(crystals)} crystals of {data}, {sum(map(len, crystals.structures))} atoms: motiflab takes {theirs.total() / ours:.0f} times less processor time; {same:.1%} of the values agree")
    save("speed", dict(data=data, crystals=len(crystals), atoms=sum(map(len, crystals.structures)), ratio=round(theirs.total() / ours, 1), agree_within_1e_6=round(same, 4),
                       matminer_ms={k: ms(v) for k, v in theirs.items()}, matminer_total_ms=ms(theirs.total()), motiflab_ms={k: ms(v) for k, v in parts.items()}, motiflab_total_ms=ms(ours), machine=machine()))


# matminer's values, for tests

def wrapped(s: Structure) -> Structure:
    "With all atoms inside the cell: pymatgen misses neighbours of others"
    return Structure(s.lattice, s.species, s.frac_coords % 1)


def reference(numbers: dict[str, int]) -> None:
    "Values of random crystals of at most 24 atoms, to ten digits"
    kept, preset = {}, published()["CoordinationNumber"][0]
    digits = lambda v: v if v is None else float(f"{float(v):.10g}")
    for data, n in numbers.items():
        kept[data] = {}
        for i, s in read_crystals(data, progress=False).filter(max_sites=24).sample(n, seed=1):
            values = {}
            for work, names in published(ROUNDING).values(): values |= asked(work, wrapped(s), names)
            values["mean_voronoi_cn_by_the_preset"] = asked(preset, wrapped(s), ["mean"])["mean"]
            kept[data][str(i)] = {k: digits(v) for k, v in values.items()}
            print(data, i, s.formula, flush=True)
    names = [*DESCRIPTORS, "mean_voronoi_cn_by_the_preset"]
    line = lambda i, values: f"{json.dumps(i)}: {json.dumps([values[n] for n in names])}"
    parts = [f'"names": {json.dumps(names)}', *(f'{json.dumps(d)}: {{\n' + ",\n".join(line(i, v) for i, v in c.items()) + "\n}" for d, c in kept.items())]
    REFERENCE.write_text("{\n" + ",\n".join(parts) + "\n}\n")


# faces that rounding makes

def slivers(crystals: CrystalSet, data: str) -> None:
    "In how many crystals symmetry-equivalent atoms have different numbers of faces, by the smallest face that counts"
    from motiflab.descriptors.cell import symmetry
    from motiflab.descriptors.voronoi import site_cells
    from motiflab.motifs.rows import plain_crystal

    limits, unequal = (1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4), Counter()
    plain = [plain_crystal(s) for s in crystals.structures]
    for crystal in plain:
        equivalent = symmetry(crystal, 1e-3).crystallographic_orbits
        for limit in limits:
            n = site_cells(crystal, limit).coordination
            unequal[limit] += bool((n != n[equivalent]).any())
    for limit in limits: print(f"faces above {limit:.0e} of the largest: equivalent atoms differ in {unequal[limit]} of {len(plain)} crystals of {data}")
    save(f"slivers, {data}", dict(crystals=len(plain), tolerance=1e-3, crystals_with_unequal_equivalent_atoms={f"{limit:.0e}": unequal[limit] for limit in limits}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mp_crystals_2018", help="dataset to take crystals from")
    parser.add_argument("--n", type=int, default=24, help="random crystals")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice")
    parser.add_argument("--rounds", type=int, default=5, help="of motiflab, of which the fastest counts")
    parser.add_argument("--reference", action="store_true", help="write matminer's values for the tests")
    parser.add_argument("--slivers", action="store_true", help="count faces that rounding makes")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    np.seterr(invalid="ignore")  # matminer rounds cosines above 1 after it has tried
    if given.reference: return reference({"matbench_dielectric": 70, "mp_crystals_2018": 40})
    crystals = read_crystals(given.data, progress=False)
    if given.slivers: slivers(crystals.filter(max_sites=30).sample(600, given.seed), given.data)
    else: speed(crystals.sample(given.n, given.seed), given.rounds, given.data)


if __name__ == "__main__": main()
