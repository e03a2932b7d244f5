"""matgl's MEGNet, as its own training takes a step, for benchmarks/training.py; run by a Python that has matgl (`pip install matgl`), which need not have motiflab.

    python benchmarks/matgl_peer.py rounds FILE   # one round of training steps for each line on standard input; answers with a line: crystals a second
    python benchmarks/matgl_peer.py train FILE    # trains and answers with a line an epoch, then the scores

FILE is JSON that training.py writes: crystals, targets and settings. A step is that of matgl's code: `collate_fn_graph`, `ModelLightningModule.step`, backward, Adam.
Graphs are built beforehand and kept in memory. Its `Trainer` is left out, so nothing of Lightning is in the times.
"""
from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"): os.environ[name] = "1" # before numpy is loaded

import json
import math
import sys
import time
from importlib.metadata import version

import numpy as np
import torch
from matgl.ext.pymatgen import Structure2Graph, get_element_list
from matgl.graph.data import collate_fn_graph
from matgl.models import MEGNet
from matgl.utils.training import ModelLightningModule
from pymatgen.core import Structure

WARM_UP, LAST = 0.05, 0.01 # part of all steps, last rate over first: motiflab's `warmup_cosine`


def items(structures: list[Structure], targets: list[float], elements: tuple[str, ...], cutoff: float) -> list[tuple]:
    "What `MGLDataset` would hold: graph, lattice, state, label"
    converter = Structure2Graph(element_types=elements, cutoff=cutoff)
    found = []
    for structure, y in zip(structures, targets):
        graph, lattice, state = converter.get_graph(structure)
        found.append((graph, lattice, torch.tensor(np.array(state), dtype=torch.float32), dict(y=y)))
    return found


def step(module: ModelLightningModule, optimizer: torch.optim.Optimizer, data: list[tuple], chosen: np.ndarray, clip: float | None = None) -> None:
    results, _ = module.step(collate_fn_graph([data[i] for i in chosen]))
    optimizer.zero_grad(set_to_none=True)
    results["Total_Loss"].backward()
    if clip: torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()


def batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    "As motiflab cuts them: no batch of one crystal"
    starts = list(range(0, len(order), size))
    if len(starts) > 1 and len(order) - starts[-1] < 2: starts.pop()
    return np.split(order, starts[1:])


def rounds(given: dict, module: ModelLightningModule, data: list[tuple]) -> None:
    "Crystals a second of processor time, a line for each line that comes"
    optimizer, random = torch.optim.Adam(module.parameters(), lr=1e-3), np.random.default_rng(given["seed"])
    edges = sum(d[0].edge_index.shape[1] for d in data)
    print(json.dumps(dict(version=version("matgl"), edges=edges, parameters=sum(p.numel() for p in module.parameters()))), flush=True)
    for _ in sys.stdin:
        order = batches(random.permutation(len(data)), given["batch_size"])
        began = time.process_time()
        for chosen in order: step(module, optimizer, data, chosen)
        print(len(data) / (time.process_time() - began), flush=True)


def rate(done: float) -> float:
    "Learning rate after a part of the training, over the first"
    if done < WARM_UP: return max(done / WARM_UP, 1e-3)
    return LAST + (1 - LAST) * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


@torch.no_grad()
def error(module: ModelLightningModule, data: list[tuple], rows: np.ndarray, mean: float, std: float) -> float:
    "Mean absolute error of predictions that are not below zero, in the unit of the target"
    module.eval()
    found = []
    for chosen in batches(rows, 256):
        graph, lattice, state, y = collate_fn_graph([data[i] for i in chosen])
        found.append(((module(graph, lat=lattice, state_attr=state) * std + mean).clamp(min=0) - (y * std + mean)).abs())
    module.train()
    return float(torch.cat(found).mean())


def train(given: dict, module: ModelLightningModule, data: list[tuple], mean: float, std: float) -> None:
    "The best epoch by the validation crystals; a line an epoch"
    fit, watch, test = (np.array(given["split"][k]) for k in ("train", "validation", "test"))
    random = np.random.default_rng(given["seed"])
    optimizer = torch.optim.Adam(module.parameters(), lr=given["learning_rate"])
    steps = given["epochs"] * len(batches(fit, given["batch_size"]))
    schedule, best = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: rate(k / steps)), (math.inf, math.inf, -1)
    for epoch in range(given["epochs"]):
        began = time.process_time()
        for chosen in batches(random.permutation(fit), given["batch_size"]):
            step(module, optimizer, data, chosen, clip=1.0)
            schedule.step()
        seconds, watched = time.process_time() - began, error(module, data, watch, mean, std)
        if watched < best[0]: best = watched, error(module, data, test, mean, std), epoch
        print(json.dumps(dict(epoch=epoch, seconds=round(seconds, 1), validation_mae=watched)), flush=True)
    print(json.dumps(dict(version=version("matgl"), validation_mae=best[0], test_mae=best[1], best_epoch=best[2], parameters=sum(p.numel() for p in module.parameters()))), flush=True)


def main() -> None:
    torch.set_num_threads(1)
    given = json.loads(open(sys.argv[2]).read())
    torch.manual_seed(given["seed"])
    torch.set_flush_denormal(given["flush"])
    structures = [Structure(c["lattice"], c["species"], c["frac"]) for c in given["crystals"]]
    y, elements = np.array(given["targets"]), tuple(get_element_list(structures))
    fitted = y[given["split"]["train"]] if "split" in given else y
    mean, std = float(fitted.mean()), float(fitted.std())
    data = items(structures, ((y - mean) / std).tolist(), elements, given["cutoff"])
    module = ModelLightningModule(MEGNet(element_types=elements, cutoff=given["cutoff"]), loss=given["loss"])
    module.train()
    if sys.argv[1] == "rounds": rounds(given, module, data)
    else: train(given, module, data, mean, std)


if __name__ == "__main__": main()
