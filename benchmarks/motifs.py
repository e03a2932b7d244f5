"""Motif extraction beside the published route, on the same random oxides: CPU time of each stage, and where the answers differ.

    MOTIFLAB_DATA=DATA python benchmarks/motifs.py --n 300 --seed 0   # both routes, one process and one thread each
    python benchmarks/motifs.py --growth                                        # SrTiO3 supercells of 5 to 1,080 atoms
    python benchmarks/motifs.py --all                                           # all of mp_oxides_2024 on all processors

The published route is ChemEnv (given our oxidation states), CrystalNN's neighbours of every site and matminer's order parameters of
the cations (tests/oracle.py). Its answers are kept with --keep FILE, from which a later run reads them instead of computing them again.
The numbers of each part are written to data/benchmark_motifs.json.
"""
from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"): os.environ[name] = "1"  # before numpy is loaded
os.environ["SPGLIB_WARNING"] = "OFF"  # it prints what it tries

import argparse
import gzip
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tests"))
RESULTS = TOP / "data" / "benchmark_motifs.json"
VERSIONS = ("motiflab", "numpy", "numba", "spglib", "pymatgen", "matminer")


# crystals

def as_dict(name, s: Structure) -> dict:
    "A crystal for another process, with the oxidation states (or signs) that ChemEnv is given"
    from motiflab.motifs.crystal import _signs, oxidation_states
    from motiflab.motifs.rows import plain_crystal

    plain = plain_crystal(s)
    oxidation = oxidation_states(plain)
    valences = _signs(plain, None) if oxidation is None else oxidation
    return dict(id=str(name), lattice=s.lattice.matrix.tolist(), species=[e.specie.symbol for e in s], frac=s.frac_coords.tolist(),
                valences=[float(v) for v in valences])


def as_structure(crystal: dict) -> Structure: return Structure(crystal["lattice"], crystal["species"], crystal["frac"])


def random_oxides(n: int, seed: int) -> list[dict]:
    "Random crystals of oxygen and at least one metal, of all sizes"
    from motiflab.crystals import read_crystals

    frame = read_crystals("mp_crystals_2018", progress=False).frame
    frame = frame[["O" in s.symbol_set and any(e.is_metal for e in s.composition) for s in frame.structure]]
    chosen = frame.iloc[np.random.default_rng(seed).permutation(len(frame))[:n]]
    sites = [len(s) for s in chosen.structure]
    print(f"{n} of {len(frame):,} oxides of at least one metal (seed {seed}): {sum(sites):,} sites, {min(sites)} to {max(sites)} a crystal")
    return [as_dict(name, s) for name, s in chosen.structure.items()]


def rock_salt() -> dict:
    return as_dict("rock salt", Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [.5, .5, .5]]))


# the two routes, each in a process of its own

class Clock:
    "CPU seconds by stage"
    def __init__(self): self.seconds: Counter = Counter()

    def timed(self, stage: str, function, *args, **options):
        begin = time.process_time()
        try: return function(*args, **options)
        finally: self.seconds[stage] += time.process_time() - begin

    def wrap(self, module, stages: dict[str, str]) -> None:
        "Time functions by the names that a module calls them by"
        for name, stage in stages.items():
            original = getattr(module, name)
            setattr(module, name, lambda *a, _f=original, _s=stage, **k: self.timed(_s, _f, *a, **k))


def published_route(crystals: list[dict], clock: Clock) -> list[dict]:
    "What the libraries find; where one of them fails, what it says"
    import oracle

    found = []
    for n, crystal in enumerate(crystals):
        s, valences = as_structure(crystal), crystal["valences"]
        cations = [i for i, v in enumerate(valences) if v > 0]
        try: environments = {i: vars(e) for i, e in clock.timed("ChemEnv, cations", oracle.chemenv, s, valences).items()}
        except Exception as error: environments = f"{type(error).__name__}: {error}"  # whatever ChemEnv raises is its answer here
        neighbors = clock.timed("CrystalNN's neighbours, every site", oracle.crystalnn, s)
        values = clock.timed("order parameters, cations", oracle.order_parameters, s, cations)
        found.append(dict(environments=environments, neighbors=neighbors, order_parameters=dict(zip(cations, values.tolist()))))
        if n % 20 == 19: print(f"  published route: {n + 1} of {len(crystals)} crystals, {sum(clock.seconds.values()):.0f} s of CPU", flush=True)
    return found


STAGES = {"plain_crystal": "arrays of the structure", "check_distances": "closest atoms", "oxidation_states": "oxidation states",
          "_site_symmetry": "symmetry", "voronoi_cells": "Voronoi cells", "chemenv_faces": "ligands", "crystalnn_weights": "ligands",
          "_select": "ligands", "_shapes": "symmetry measures", "order_parameters": "order parameters", "_all_sites": "copies",
          "find_connections": "connections"}


def attempt(function, *args):
    "What a function finds, or why there are no motifs"
    from motiflab.motifs.rows import MotifError

    try: return function(*args)
    except MotifError as error: return str(error)


def our_route(crystals: list[dict], clock: Clock, stages: bool = True) -> None:
    "Time only, since the comparison computes our answers again: once as it is, once for CrystalNN's neighbours, once with a clock in each stage"
    from motiflab.motifs import crystal as module

    structures = [as_structure(c) for c in crystals]
    for s in structures: clock.timed("total", attempt, module.crystal_motifs, s)
    for s in structures: clock.timed("CrystalNN's neighbours, every site", attempt, module.crystal_motifs, s,
                                     module.MotifSettings(centers="all", ligands="crystalnn"))
    if not stages: return
    clock.wrap(module, STAGES)
    for s in structures: clock.timed("total with clocks", attempt, module.crystal_motifs, s)


def warm_up() -> None:
    "Load libraries, ideal polyhedra and compiled code before any clock starts"
    from motiflab.oxidation import guess_oxidation_states

    guess_oxidation_states(as_structure(rock_salt()), method="bond_valence")
    our_route([rock_salt()], Clock(), stages=False)


def work(route: str, source: Path, target: Path) -> None:
    "One route over the crystals of a file; what it finds, and the seconds of its stages, into another"
    crystals, clock = read(source), Clock()
    if route == "published": published_route([rock_salt()], Clock())
    if route == "ours": warm_up()
    found = (published_route if route == "published" else our_route)(crystals, clock)
    write(target, dict(seconds=clock.seconds, found=found))


def read(path: Path): return json.loads(gzip.decompress(path.read_bytes()))
def write(path: Path, data) -> None: path.write_bytes(gzip.compress(json.dumps(data).encode(), 1))


def in_process(route: str, crystals: list[dict], folder: Path) -> tuple[dict, float]:
    "What `work` writes, and the wall seconds of the process"
    source, target = folder / f"{route}_crystals.json.gz", folder / f"{route}_found.json.gz"
    write(source, crystals)
    begin = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--route", route, "--source", source, "--target", target], check=True)
    return read(target), time.perf_counter() - begin


# tables

def restored(found: dict) -> dict:
    "The published route's answers with the tuples and numbers that JSON does not have"
    from oracle import as_site

    environments, neighbors = found["environments"], found["neighbors"]
    if isinstance(environments, dict): environments = {int(i): as_site(e) for i, e in environments.items()}
    return dict(environments=environments, neighbors=[n if isinstance(n, str) else [(a, tuple(i)) for a, i in n] for n in neighbors],
                order_parameters={int(i): np.array(v, float) for i, v in found["order_parameters"].items()})


def print_seconds(theirs: dict, ours: dict, n: int) -> dict:
    "Both routes stage by stage; the totals and their ratio are returned"
    print(f"\nCPU seconds, {n} crystals, one thread")
    for stage, seconds in theirs.items(): print(f"  published  {stage:38s} {seconds:10.2f}")
    published, total, neighbors = sum(theirs.values()), ours["total"], ours["CrystalNN's neighbours, every site"]
    print(f"  published  {'all':38s} {published:10.2f}\n")
    stages = {s: ours.get(s, 0.0) for s in dict.fromkeys(STAGES.values())}
    stages["in between"] = ours["total with clocks"] - sum(stages.values())
    for stage, seconds in stages.items(): print(f"  motiflab   {stage:38s} {seconds:10.3f}")
    print(f"  motiflab   {'all, without these clocks':38s} {total:10.3f}   {published / total:.0f} times less")
    print(f"  motiflab   {'CrystalNN neighbours of every site':38s} {neighbors:10.3f}   in all {published / (total + neighbors):.0f} times less")
    return dict(published={s: round(v, 2) for s, v in theirs.items()}, motiflab={s: round(v, 4) for s, v in stages.items()},
                published_total=round(published, 2), motiflab_total=round(total, 3), motiflab_crystalnn_every_site=round(neighbors, 3),
                ratio=round(published / total, 1), ratio_with_crystalnn_every_site=round(published / (total + neighbors), 1))


def print_agreement(crystals: list[dict], found: list[dict]) -> dict:
    "Every count, every difference"
    from agreement import Comparison

    comparison = Comparison()
    for crystal, theirs in zip(crystals, found, strict=True): comparison.add(crystal, as_structure(crystal), restored(theirs))
    print("\nAgreement")
    for what, count in sorted(comparison.counts.items()): print(f"  {what:48s} {count:10,}")
    for what, value in sorted(comparison.largest.items()): print(f"  largest difference: {what:28s} {value:10.2e}")
    print(f"\n{len(comparison.differences)} differences")
    line = "  {crystal} {element}{site} {what}: {ours} here, {theirs} there; {why}"
    for d in comparison.differences: print(line.format(**d))
    kinds = Counter(f"{d['what']}: {d['why'].split(';')[0].split(':')[0]}" for d in comparison.differences)
    return dict(counts=dict(comparison.counts), largest=dict(comparison.largest), differences=dict(kinds))


def save(part: str, numbers: dict) -> None:
    "One part of data/benchmark_motifs.json"
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[part] = numbers | dict(versions={name: version(name) for name in VERSIONS}, python=platform.python_version())
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    print(f"\nwrote {part!r} to {RESULTS.relative_to(TOP)}")


def compare(n: int, seed: int, keep: Path | None) -> None:
    crystals = random_oxides(n, seed)
    with tempfile.TemporaryDirectory() as folder:
        if keep and keep.exists(): theirs = read(keep)
        else: theirs, _ = in_process("published", crystals, Path(folder))
        if keep and not keep.exists(): write(keep, theirs)
        ours, _ = in_process("ours", crystals, Path(folder))
        _, ten = in_process("alone", crystals[:10], Path(folder))
    seconds = print_seconds(theirs["seconds"], ours["seconds"], n)
    print(f"  motiflab   {'ten crystals in a new process, wall':38s} {ten:10.2f}")
    agreement = print_agreement(crystals, theirs["found"])
    save("comparison", dict(crystals=n, seed=seed, sites=sum(len(c["species"]) for c in crystals), seconds=seconds,
                            ten_crystals_new_process_wall_seconds=round(ten, 2), agreement=agreement))


def growth() -> None:
    "Seconds for SrTiO3 supercells when every site is computed for itself"
    from motiflab.motifs.crystal import crystal_motifs

    cell = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [.5, .5, .5], [.5, .5, 0]])
    warm_up()
    print("SrTiO3 supercells, symmetry switched off\n    atoms    CPU ms   ms an atom")
    rows = []
    for m in range(1, 7):
        big = cell * (m, m, m)
        seconds = []
        for _ in range(5):
            begin = time.process_time()
            crystal_motifs(big, symmetry=False)
            seconds.append(time.process_time() - begin)
        rows.append((len(big), min(seconds)))
        print(f"  {len(big):7,} {1e3 * min(seconds):9.2f} {1e3 * min(seconds) / len(big):12.4f}")
    atoms, seconds = np.log(np.array(rows)).T
    exponent, largest = float(np.polyfit(atoms, seconds, 1)[0]), float(np.polyfit(atoms[2:], seconds[2:], 1)[0])
    print(f"exponent {exponent:.3f} over all sizes, {largest:.3f} from {rows[2][0]} atoms on")
    save("growth", dict(atoms=[r[0] for r in rows], seconds=[round(r[1], 6) for r in rows], exponent=round(exponent, 3),
                        exponent_from_135_atoms=round(largest, 3)))


# all oxides

def memory(pid: int) -> float:
    "MiB of a process and its children, shared pages counted once (Linux)"
    parents = {int(p.name): int(p.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1]) for p in Path("/proc").glob("[0-9]*") if readable(p)}
    family, size = {pid}, 0
    while len(family) > size: size, family = len(family), family | {p for p, parent in parents.items() if parent in family}
    return sum(proportional(Path(f"/proc/{p}/smaps_rollup")) for p in family) / 1024


def readable(process: Path) -> bool:
    try: return bool(process.joinpath("stat").read_text())
    except OSError: return False  # it has just ended


def proportional(path: Path) -> int:
    "kB of a process, pages that k processes share counted as 1/k"
    try: return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("Pss:"))
    except (OSError, StopIteration): return 0


def watched(command: list) -> tuple[float, float]:
    "Wall seconds of a command and the most memory it and its children took"
    begin, most, process = time.perf_counter(), 0.0, subprocess.Popen(command)
    while process.poll() is None:
        most = max(most, memory(process.pid))
        time.sleep(0.5)
    if process.returncode: sys.exit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return time.perf_counter() - begin, most


def cations_of(frame) -> dict:
    "Cations of each crystal: id -> set of sites"
    from motiflab.motifs.crystal import _signs, oxidation_states
    from motiflab.motifs.rows import plain_crystal

    found = {}
    for name, s in frame.structure.items():
        crystal = plain_crystal(s)
        found[name] = np.flatnonzero(_signs(crystal, oxidation_states(crystal)) > 0).tolist()
    return found


def everything(limit: int | None) -> None:
    "All oxides of mp_oxides_2024 from file to tables, as the command line does it"
    from motiflab.crystals import read_crystals
    from motiflab.motifs import load_motifs

    with tempfile.TemporaryDirectory() as folder:
        names = ["mp_oxides_2024", "-o", f"{folder}/motifs", *(["--limit", str(limit)] if limit else [])]
        seconds, mebibytes = watched([Path(sys.executable).parent / "motiflab", "extract", *names])
        table = load_motifs(f"{folder}/motifs")
    frame = read_crystals("mp_oxides_2024", progress=False).frame.iloc[:limit]
    skipped, have, cations = set(table.skipped.id), table.motifs.groupby("crystal_id").site.agg(set).to_dict(), cations_of(frame)
    missing = sum(len(set(sites) - have.get(name, set())) for name, sites in cations.items() if name not in skipped)
    lost = set(frame.index) - skipped - set(have)
    unknown = table.motifs.symbol[table.motifs.symbol.str.startswith("UNKNOWN")].value_counts()
    print(f"{len(frame):,} crystals, {len(table):,} motifs, {len(table.connections):,} connections: "
          f"{seconds:.0f} s on {os.cpu_count()} processors, {mebibytes:,.0f} MiB")
    print(f"skipped {len(table.skipped)}, neither with motifs nor skipped {len(lost)}, cations without a row {missing}, "
          f"cations without ligands {(table.motifs.cn == 0).sum():,}")
    for row in table.skipped.itertuples(): print(f"  {row.id}: {row.reason}")
    print(unknown.to_string())
    save("all", dict(crystals=len(frame), motifs=len(table), connections=len(table.connections), wall_seconds=round(seconds), processors=os.cpu_count(),
                     peak_mebibytes=round(mebibytes), skipped=len(table.skipped), cations_without_a_row=missing, crystals_lost=len(lost),
                     without_ligands=int((table.motifs.cn == 0).sum()), unknown={k: int(v) for k, v in unknown.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="crystals to compare")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice")
    parser.add_argument("--keep", type=Path, help="file for the published route's answers")
    parser.add_argument("--growth", action="store_true", help="supercells instead of the comparison")
    parser.add_argument("--all", action="store_true", help="all of mp_oxides_2024 instead of the comparison")
    parser.add_argument("--limit", type=int, help="with --all, only the first so many")
    parser.add_argument("--route", help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.route: work(given.route, given.source, given.target)
    elif given.growth: growth()
    elif given.all: everything(given.limit)
    else: compare(given.n, given.seed, given.keep)


if __name__ == "__main__": main()
