"""Training steps beside the peers, on the same crystals in one run, one thread.

    MOTIFLAB_DATA=DATA python benchmarks/training.py --cgcnn CHECKOUT --matgl PYTHON   # CHECKOUT of github.com/txie-93/cgcnn, PYTHON that has matgl
    MOTIFLAB_DATA=DATA python benchmarks/training.py --matgl PYTHON --scores --epochs 15   # band gaps of oxides: test error of both MEGNets

What is measured: crystals a second of processor time, the median of several rounds in which everybody has a turn; the first round does not
count. A round goes once through all crystals in shuffled batches: batch joined or cut, forward, backward, a step of Adam. Graphs, and the
peers' features, are built beforehand and kept in memory. All have the same Adam, loss and batch size.

- `cgcnn`: the reference code's `CrystalGraphConvNet` and `collate_pool`, as its `main.py` puts them together; as released, and with denormals
  flushed (on some processors its subnormal Gaussian features make the backward pass four times slower; on others they cost nothing).
- `CGConv`: a model of PyTorch Geometric's `CGConv` with batch norm, `Data` objects with the Gaussians in them, its `Batch`; the same widths.
- `matgl`: MEGNet of `benchmarks/matgl_peer.py` in a process of its own; its default widths, which are those of the paper and ours.
- ours: `cgcnn` on the peers' graph (12 nearest, cut), on whole shells, and on these merged by `merge_equal` (equal atoms computed once, the
  answer is the same); `megnet` with Set2Set on all neighbours within 5 and 4 angstrom as matgl, plain and merged; `amdnet` for information.

With `--scores`, both MEGNets learn the band gaps of the study's oxides, 15 epochs, seed 0, 1,363 test crystals: matgl 0.701 eV, ours on
the same neighbours and with the same readout 0.689 eV, on 12 neighbours with the mean as readout 0.731 eV; seeds differ by 0.03 and more.

First the reference's weights are put into our model, and both have to say the same: they differ by 2e-6 at most.

Found with one thread, 256 perovskites of five atoms and 96 crystals of `mp_crystals_2018` (29 atoms), batches of 64, seed 0, on a processor
on which denormals cost nothing (the reference with them flushed is as fast). How many times as fast as the peer, perovskites and
mp_crystals_2018: our cgcnn beside the reference 2.9 and 3.8, on merged graphs 3.7 and 9.1 (`CGConv`: 1.0 and 0.9); our megnet beside
matgl's 1.4 and 1.3 at 5 angstrom, merged 3.8 and 4.5; 1.3 and 1.4 at 4 angstrom, merged 2.3 and 4.3. The goals, 7 for cgcnn and 3 for
megnet, are met by merged graphs of mp_crystals_2018, and of perovskites at 5 angstrom, and not met otherwise.

What bounds the rest, by torch.profiler. cgcnn, perovskites, plain: six tenths of a step are the compiled loops over edges (gate, softplus and
their derivatives in polynomials, products with ten Gaussians of 41), a tenth products of matrices, the rest some hundreds of small operations (Adam,
cutting the batch, norms) whose cost is that of the call; with few edges, as in merged perovskites, the last are most of it. megnet, plain:
0.43 products of matrices, which need as many operations in anybody's code but for the first layer of each update, and 0.3 passes
over edges (softplus, its derivative, less ln 2, sums, gathers) that one compiled loop could take together, as gated.py does for cgcnn.
"""
from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"): os.environ[name] = "1" # before numpy is loaded

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator
from unittest.mock import patch

import numpy as np
import torch
from graphs import machine, write_cifs
from pymatgen.core import Structure
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.nn import CGConv, global_mean_pool

from motiflab.crystals import CrystalSet, read_crystals
from motiflab.graphs import AtomGraph, GraphSet, GraphSettings, MotifGraph, build_graphs
from motiflab.graphs.merged import merge_equal
from motiflab.models import build_model

TOP = Path(__file__).resolve().parent.parent
RESULTS = TOP / "data" / "benchmark_training.json"
ATOMS = {"12 nearest, cut": AtomGraph(ties="cut"), "12 nearest, whole shells": AtomGraph(), "5 angstrom": AtomGraph(neighbors=None, cutoff=5.0), "4 angstrom": AtomGraph(neighbors=None, cutoff=4.0)}


# a round of training steps

def turn(model: nn.Module, join: Callable[[Tensor], Any], call: Callable[[nn.Module, Any], Tensor], y: Tensor, size: int, flush: bool = False) -> Callable[[], float]:
    "A function that goes once through all crystals and says how many it did in a second"
    model.train()
    optimizer, random = torch.optim.Adam(model.parameters(), lr=1e-3), torch.Generator().manual_seed(0)
    def run() -> float:
        torch.set_flush_denormal(flush)
        began = time.process_time()
        for chosen in torch.randperm(len(y), generator=random).split(size):
            loss = F.mse_loss(call(model, join(chosen)), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds = time.process_time() - began
        torch.set_flush_denormal(False)
        return len(y) / seconds
    return run


# the peers

def reference(crystals: CrystalSet, checkout: Path) -> tuple[nn.Module, list[tuple]]:
    "The reference code's network, and its items"
    sys.path.insert(0, str(checkout))
    from cgcnn.data import CIFData
    from cgcnn.model import CrystalGraphConvNet

    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore") # about short neighbour lists
        folder = Path(name)
        write_cifs(crystals, folder, checkout)
        in_memory = {str(folder / f"{k}.cif"): s for k, s in enumerate(crystals.structures)}
        with patch.object(Structure, "from_file", lambda path: in_memory[path]):
            data = CIFData(str(folder))
            items = sorted((data[k] for k in range(len(data))), key=lambda item: int(item[2]))
    return CrystalGraphConvNet(items[0][0][0].shape[1], items[0][0][1].shape[2]), items


def joined(items: list[tuple], chosen: Tensor) -> tuple:
    from cgcnn.data import collate_pool

    return collate_pool([items[i] for i in chosen])[0]


class PyG(nn.Module):
    "CGCNN as one writes it with PyTorch Geometric"

    def __init__(self, atoms: int, edges: int, width: int = 64, hidden: int = 128, blocks: int = 3):
        super().__init__()
        self.embed = nn.Linear(atoms, width)
        self.blocks = nn.ModuleList(CGConv(width, edges, batch_norm=True) for _ in range(blocks))
        self.hidden, self.head = nn.Linear(width, hidden), nn.Linear(hidden, 1)

    def forward(self, batch: Data) -> Tensor:
        x = self.embed(batch.x)
        for block in self.blocks: x = block(x, batch.edge_index, batch.edge_attr)
        return self.head(F.softplus(self.hidden(F.softplus(global_mean_pool(x, batch.batch)))))


def as_pyg(items: list[tuple]) -> list[Data]:
    "The reference's items as `Data`, with an edge for each of its neighbours"
    return [Data(x=x, edge_attr=u.flatten(0, 1), edge_index=torch.stack([j.flatten(), torch.arange(len(x)).repeat_interleave(j.shape[1])])) for (x, u, j), *_ in items]


def exchange(crystals: CrystalSet, targets: list[float], **settings: Any) -> str:
    "What matgl_peer.py reads"
    rows = [dict(lattice=s.lattice.matrix.tolist(), species=[site.specie.symbol for site in s], frac=s.frac_coords.tolist()) for s in crystals.structures]
    return json.dumps(dict(crystals=rows, targets=targets, seed=0, **settings))


@contextmanager
def matgl(python: str, what: str, text: str) -> Iterator[subprocess.Popen]:
    "matgl_peer.py at work"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crystals.json"
        path.write_text(text)
        command = [python, str(TOP / "benchmarks" / "matgl_peer.py"), what, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            yield process
            process.stdin.close()


def matgl_turn(process: subprocess.Popen) -> Callable[[], float]:
    def run() -> float:
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())
    return run


# the same answer

def moved(theirs: nn.Module, table: Tensor) -> nn.Module:
    "Our model with the reference's weights; `table` (n_elements, 92) holds its numbers of each element"
    ours, convs = build_model("cgcnn", atoms="embedding"), theirs.convs
    with torch.no_grad():
        ours.atoms.table.weight[:len(table)] = theirs.embedding(table)
        for block, conv in zip(ours.blocks, convs):
            for mine, other in ((block.dense, conv.fc_full), (block.edge_norm, conv.bn1), (block.node_norm, conv.bn2)): mine.load_state_dict(other.state_dict())
        ours.hidden[0].load_state_dict(theirs.conv_to_fc.state_dict())
        ours.head.load_state_dict(theirs.fc_out.state_dict())
    return ours


def same_answer(theirs: nn.Module, items: list[tuple], graphs: GraphSet, checkout: Path) -> float:
    "Largest difference between the reference and ours with its weights on its edges, in training mode"
    numbers = json.loads((checkout / "data" / "sample-regression" / "atom_init.json").read_text())
    table = torch.zeros(max(map(int, numbers)) + 1, len(numbers["1"]))
    for z, row in numbers.items(): table[int(z)] = torch.tensor(row, dtype=torch.float32)
    whole = graphs.starts["edge"].diff() == 12 * graphs.starts["atom"].diff() # the reference fills up where there are fewer neighbours
    few = whole.nonzero()[:16, 0]
    batch, (x, _, _, crystals) = graphs.batch(few), joined(items, few)
    u, source = (values.view(len(x), 12, *values.shape[1:]) for values in (build_model("cgcnn").expand(batch.edge_length), batch.edge_index[0]))
    theirs.train()
    with torch.no_grad(): return float((theirs(x, u, source, crystals) - moved(theirs, table).train()(batch)).abs().max())


# speed

def contenders(crystals: CrystalSet, given: argparse.Namespace) -> tuple[dict[str, Callable[[], float]], dict[str, int]]:
    "Name -> a round; name of a graph -> its edges"
    torch.manual_seed(0)
    y, size = torch.randn(len(crystals), 1), given.batch
    build = lambda settings: build_graphs(crystals, settings, n_jobs=1, cache=False, progress=False)
    graphs = {name: build(GraphSettings(atoms)) for name, atoms in ATOMS.items()}
    graphs |= {f"{name}, merged": merge_equal(graphs[name]) for name in list(ATOMS)[1:]}
    turns = {}
    if given.cgcnn:
        network, items = reference(crystals, given.cgcnn)
        difference = same_answer(network, items, graphs["12 nearest, cut"], given.cgcnn)
        print(f"the reference and ours with its weights differ by at most {difference:.1e}")
        assert difference < 1e-5
        run = lambda flush: turn(network, lambda chosen: joined(items, chosen), lambda m, b: m(*b), y, size, flush)
        turns |= {"cgcnn's reference": run(False), "cgcnn's reference, denormals flushed": run(True)}
        data = as_pyg(items)
        turns["CGConv of PyG"] = turn(PyG(data[0].x.shape[1], data[0].edge_attr.shape[1]), lambda chosen: Batch.from_data_list([data[i] for i in chosen]), lambda m, b: m(b), y, size)
    ours = lambda model, g: turn(build_model(model), g.batch, lambda m, b: m(b), y, size)
    turns |= {f"motiflab cgcnn, {name}": ours("cgcnn", g) for name, g in graphs.items() if "nearest" in name}
    turns |= {f"motiflab megnet, {name}": ours("megnet", g) for name, g in graphs.items() if "angstrom" in name}
    if given.amdnet: turns["motiflab amdnet, 12 nearest, whole shells, merged"] = ours("amdnet", merge_equal(build(GraphSettings(AtomGraph(), MotifGraph()))))
    return turns, {name: len(g.arrays["edge_index"]) for name, g in graphs.items()}


def against(name: str) -> str | None:
    "With whom a row is compared"
    if "motiflab cgcnn" in name: return "cgcnn's reference"
    if "motiflab megnet" in name: return f"matgl, {5 if '5 angstrom' in name else 4} angstrom"


def show(name: str, crystals: CrystalSet, given: argparse.Namespace) -> dict:
    "Crystals a second of everybody, and how many times as fast ours are"
    turns, edges = contenders(crystals, given)
    y = np.random.default_rng(0).normal(size=len(crystals)).tolist()
    text = lambda cutoff: exchange(crystals, y, flush=False, cutoff=cutoff, loss="mse_loss", batch_size=given.batch)
    if not given.matgl: speeds = rounds(turns, given.rounds)
    else:
        with matgl(given.matgl, "rounds", text(5.0)) as far, matgl(given.matgl, "rounds", text(4.0)) as near:
            for process in (far, near): process.stdout.readline() # what it is
            speeds = rounds(turns | {"matgl, 5 angstrom": matgl_turn(far), "matgl, 4 angstrom": matgl_turn(near)}, given.rounds)
    atoms = sum(map(len, crystals.structures))
    print(f"\n{name}: {len(crystals)} crystals of {atoms / len(crystals):.1f} atoms, batches of {given.batch}")
    for row, speed in speeds.items():
        other = speeds.get(against(row) or "")
        print(f"  {row:50s} {speed:8.0f} crystals a second" + (f"   {speed / other:.1f} times {against(row)}" if other else ""))
    return dict(crystals=len(crystals), atoms=atoms, batch=given.batch, edges=edges, crystals_a_second={k: round(v, 1) for k, v in speeds.items()}, machine=machine())


def rounds(turns: dict[str, Callable[[], float]], n: int) -> dict[str, float]:
    "The median of each, after one round that does not count"
    found: dict[str, list[float]] = {name: [] for name in turns}
    for k in range(n + 1):
        for name, run in turns.items(): found[name].append(run())
    return {name: float(np.median(v[1:])) for name, v in found.items()}


# scores

def scores(given: argparse.Namespace) -> dict:
    "Test error of both MEGNets: the study's crystals, split, epochs, batches, rate, schedule and loss"
    from study import SCALES, TASKS, oxides
    from motiflab.targets import read_targets, split_by_column
    from motiflab.training import TrainSettings, seeded_model, train

    scale, frame = SCALES["cpu"], oxides(SCALES["cpu"].max_atoms)
    split, targets, crystals = split_by_column(frame["split"]), read_targets(frame, **TASKS["band_gap"]), CrystalSet(frame)
    parts = {k: getattr(split, k).tolist() for k in ("train", "validation", "test")}
    text = exchange(crystals, frame.band_gap_eV.tolist(), flush=True, cutoff=5.0, loss="l1_loss", split=parts, epochs=given.epochs, batch_size=scale.batch_size, learning_rate=scale.learning_rate)
    found = {}
    if given.matgl:
        with matgl(given.matgl, "train", text) as process: found["matgl"] = json.loads(list(process.stdout)[-1])["test_mae"]
    torch.set_flush_denormal(True)
    settings = TrainSettings(epochs=given.epochs, batch_size=scale.batch_size, learning_rate=scale.learning_rate, schedule="warmup_cosine", patience=None, gradient_clip=1.0, loss="mae", seed=0)
    for name, atoms, readout in (("5 angstrom, Set2Set as matgl", ATOMS["5 angstrom"], "set2set"), ("12 nearest, mean", AtomGraph(), "mean")):
        graphs = build_graphs(crystals, GraphSettings(atoms), n_jobs=1, progress=False)
        found[f"motiflab, {name}"] = train(seeded_model("megnet", targets.info, 0, readout=readout), graphs, targets, split, settings).scores.loc["test"].iloc[0]["mae"]
    for name, mae in found.items(): print(f"{name:40s} test MAE {mae:.4f} eV after {given.epochs} epochs")
    return dict(epochs=given.epochs, test_mae_eV=found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cgcnn", type=Path, help="checkout of the reference code; without it that part is left out")
    parser.add_argument("--matgl", help="a Python that has matgl; without it that part is left out")
    parser.add_argument("--n", type=int, nargs=2, default=(512, 192), help="crystals: five-atom perovskites, and of mp_crystals_2018")
    parser.add_argument("--batch", type=int, default=64, help="crystals a batch")
    parser.add_argument("--rounds", type=int, default=5, help="whose median counts")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice of crystals")
    parser.add_argument("--no-amdnet", dest="amdnet", action="store_false", help="leave AMDNet out, whose motifs take longest")
    parser.add_argument("--scores", action="store_true", help="train both MEGNets instead of measuring time")
    parser.add_argument("--epochs", type=int, default=15, help="with --scores")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.scores: found = dict(scores=scores(given))
    else: found = dict(speed={name: show(name, read_crystals(name, progress=False).sample(n, given.seed), given) for name, n in zip(("perovskites_castelli", "mp_crystals_2018"), given.n)})
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | found, indent=1) + "\n")


if __name__ == "__main__": main()
