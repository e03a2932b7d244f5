"""Building graphs beside the peers, on the same crystals in one run, one thread; and what whole shells cost.

    MOTIFLAB_DATA=DATA python benchmarks/graphs.py --cgcnn CHECKOUT   # CHECKOUT of github.com/txie-93/cgcnn
    python benchmarks/graphs.py --shells                                        # edges an atom, crystals in which a cut splits a shell

What is measured, in milliseconds of processor time a crystal, the least of several rounds:

- `motiflab`: `build_graphs` from pymatgen structures, everything included: checks, arrays, edges, packing. No cache.
- `cgcnn`: items of the reference code's `CIFData` (12 nearest within 8 angstrom, Gaussians expanded), from CIF files as it wants them, and
  once more with its reading of files replaced by structures in memory, so that graph building alone is compared.
- `pymatgen`: `Structure.get_neighbor_list(8.0)`, a neighbour list only: it knows no number of neighbours and makes no graph.

What a profile of 1,000 random crystals of `mp_crystals_2018` (25 atoms on average) says of motiflab's own time, 12 nearest: of 0.22 ms
a crystal, 0.11 ms go into turning pymatgen sites into arrays (asking each site whether it is ordered, and for its species), 0.09 ms
into the compiled search, 4 microseconds an atom, and the rest into checks, stacking and packing. One compiled call takes 64
crystals, so the cost of a call does not show. Most of cgcnn's time, 28 of 40 ms here, is `get_all_neighbors`, which makes a Python
object of each of some 150 atoms within 8 angstrom of each atom; reading the CIF file is 5 ms. A motif graph costs 7 ms a crystal, of which
all but 0.15 ms is the extraction of motifs; from a table that exists it is those 0.15 ms.
"""
from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"): os.environ[name] = "1"  # before numpy is loaded

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Callable
from unittest.mock import patch

import numpy as np
from pymatgen.core import Structure

from motiflab.crystals import CrystalSet, read_crystals
from motiflab.graphs import AtomGraph, GraphSettings, MotifGraph, build_graphs
from motiflab.motifs import extract_motifs

TOP = Path(__file__).resolve().parent.parent
RESULTS = TOP / "data" / "benchmark_graphs.json"
SETTINGS = {"12 nearest, whole shells": AtomGraph(), "12 nearest, cut": AtomGraph(ties="cut"), "24 nearest, whole shells": AtomGraph(neighbors=24),
            "within 5 angstrom": AtomGraph(neighbors=None, cutoff=5.0), "Voronoi": AtomGraph(method="voronoi")}


def save(part: str, numbers: dict) -> None:
    "Keep the numbers of one part beside those of the others"
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[part] = numbers
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def machine() -> dict:
    return dict(python=platform.python_version(), processor=platform.processor() or platform.machine(), **{p: version(p) for p in ("motiflab", "numba", "numpy", "pymatgen", "torch")})


# speed

def least(rounds: int, work: Callable[[], object]) -> float: # seconds
    "The least processor time of several runs, after one that does not count: on a busy machine it is what a free one would take"
    times = []
    for _ in range(rounds + 1):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times[1:])


def write_cifs(crystals: CrystalSet, folder: Path, checkout: Path) -> None:
    "Crystals as the reference code reads them"
    shutil.copy(checkout / "data" / "sample-regression" / "atom_init.json", folder)
    for k, structure in enumerate(crystals.structures): structure.to(filename=str(folder / f"{k}.cif"))
    (folder / "id_prop.csv").write_text("".join(f"{k},0\n" for k in range(len(crystals))))


def cgcnn_times(crystals: CrystalSet, checkout: Path, rounds: int) -> dict[str, float]: # seconds
    "The reference code with and without its reading of CIF files"
    sys.path.insert(0, str(checkout))
    from cgcnn.data import CIFData

    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore") # about short neighbour lists and CIF files
        folder = Path(name)
        write_cifs(crystals, folder, checkout)
        def run() -> None:
            data = CIFData(str(folder)) # a new one each time: it keeps what it has built
            for k in range(len(data)): data[k]
        in_memory = {str(folder / f"{k}.cif"): s for k, s in enumerate(crystals.structures)}
        from_files = least(rounds, run)
        with patch.object(Structure, "from_file", lambda path: in_memory[path]): from_memory = least(rounds, run)
    return {"cgcnn, from CIF files": from_files, "cgcnn, structures in memory": from_memory}


def our_times(crystals: CrystalSet, rounds: int) -> dict[str, float]: # seconds
    build = lambda settings, **more: build_graphs(crystals, settings, n_jobs=1, cache=False, progress=False, **more)
    times = {f"motiflab, {name}": least(rounds, lambda: build(GraphSettings(atoms))) for name, atoms in SETTINGS.items()}
    both, table = GraphSettings(AtomGraph(), MotifGraph()), extract_motifs(crystals, n_jobs=1, progress=False)
    times["motiflab, 12 nearest and motifs of a table"] = least(rounds, lambda: build(both, table=table))
    times["motiflab, 12 nearest and motifs extracted"] = least(1, lambda: build(both))
    return times


def speed(crystals: CrystalSet, checkout: Path | None, rounds: int) -> None:
    "Milliseconds a crystal of everybody, and how many times faster motiflab's 12 nearest are"
    times = our_times(crystals, rounds)
    times["pymatgen, neighbour list of 8 angstrom"] = least(rounds, lambda: [s.get_neighbor_list(8.0) for s in crystals.structures])
    if checkout is not None: times |= cgcnn_times(crystals, checkout, rounds)
    ours = times["motiflab, 12 nearest, whole shells"]
    for name, seconds in times.items():
        print(f"{name:45s} {1e3 * seconds / len(crystals):8.3f} ms a crystal" + ("" if name.startswith("motiflab") else f"   motiflab is {seconds / ours:.1f} times as fast"))
    save("speed", dict(crystals=len(crystals), atoms=int(sum(map(len, crystals.structures))), ms_a_crystal={k: round(1e3 * s / len(crystals), 4) for k, s in times.items()}, machine=machine()))


# shells

def shells(crystals: CrystalSet, name: str) -> dict:
    "Edges an atom with whole shells, and how many crystals and atoms a cut at the number splits a shell of"
    numbers = {}
    for k in (12, 24):
        graphs = build_graphs(crystals, GraphSettings(AtomGraph(neighbors=k)), n_jobs=1, cache=False, progress=False)
        edges = np.bincount(graphs.arrays["edge_index"][:, 1].numpy() + np.repeat(graphs.starts["atom"][:-1].numpy(), graphs.starts["edge"].diff().numpy()), minlength=int(graphs.n_atoms.sum()))
        split = np.maximum.reduceat(edges, graphs.starts["atom"][:-1].numpy()) > k
        numbers[str(k)] = dict(edges_an_atom=round(float(edges.mean()), 3), atoms_split=round(float((edges > k).mean()), 4), crystals_split=round(float(split.mean()), 4),
                               most=int(edges.max()), counts=np.bincount(edges).tolist())
        print(f"{name}, k = {k}: {edges.mean():.2f} edges an atom; a cut splits a shell of {(edges > k).mean():.1%} of the atoms, in {split.mean():.1%} of the crystals; at most {edges.max()}")
    return dict(crystals=len(crystals), atoms=int(graphs.n_atoms.sum()), neighbors=numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cgcnn", type=Path, help="checkout of the reference code; without it that part is left out")
    parser.add_argument("--data", default="mp_crystals_2018", help="dataset to take crystals from")
    parser.add_argument("--n", type=int, default=200, help="random crystals")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice")
    parser.add_argument("--rounds", type=int, default=5, help="of which the fastest counts")
    parser.add_argument("--shells", action="store_true", help="count edges of whole shells instead of measuring time")
    given = parser.parse_args()
    if given.shells: save("shells", {name: shells(read_crystals(name, progress=False).sample(5000, given.seed), name) for name in ("mp_crystals_2018", "matbench_dielectric")})
    else: speed(read_crystals(given.data, progress=False).sample(given.n, given.seed), given.cgcnn, given.rounds)


if __name__ == "__main__": main()
