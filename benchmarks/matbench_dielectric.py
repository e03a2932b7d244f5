"""The official Matbench dielectric task: refractive indices of 4,764 crystals, five fixed folds, mean absolute error.

    python benchmarks/matbench_dielectric.py run                 # every fold with every member; goes on where it was stopped
    python benchmarks/matbench_dielectric.py run --fold 2        # one fold
    python benchmarks/matbench_dielectric.py table               # scores of all members and of both blends, beside the published ones
    MOTIFLAB_DATA=DATA python benchmarks/matbench_dielectric.py pretrain    # the shipped network that the transfer members start from

Members learn the logarithm of n by its absolute error; scores are in n. Within each fold, five inner folds of its training rows give every member
predictions out of fold, from which the weights of a blend are found (least absolute deviation); the fold's test rows are predicted by the five copies
of each member, joined by their median and then by these weights. No test row takes part in any choice: not in scales, epochs, weights.
The variant `transfer` starts from a CGCNN that learned band gaps and energies of other crystals (every formula of the benchmark was left out of its
training); the variant `own` knows nothing but the benchmark's training rows. Copies are kept in the folder of --runs and not done twice.
"""
from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import dielectric_descriptors

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "benchmarks" / "results" / "matbench_dielectric"
TASK, ENCODER = "matbench_dielectric", "cgcnn-crystals"
VARIANTS = { # name -> its members
    "transfer": ("trees", "dense-transfer", "de-cgcnn-transfer"),
    "own": ("trees", "dense", "de-cgcnn"),
}
ALONE = ("boosting", "cgcnn") # members of no blend, one copy a fold of the network
FOLDERS = {"transfer": OUT, "own": OUT / "own"}
PUBLISHED = {"CGCNN": 0.5988, "ALIGNN": 0.3449, "MEGNet": 0.3391, "coGN": 0.3088, "MODNet": 0.2711, "JMP-L (235 million parameters, 120 million structures)": 0.249}


# what members learn from

@dataclass
class Task:
    "Crystals, targets and descriptors; graphs and the encoder's vectors where they are asked for"
    threads: int = 1

    @cached_property
    def crystals(self) -> Any:
        from motiflab.crystals import read_crystals
        return read_crystals(TASK, progress=False)

    @cached_property
    def n(self) -> np.ndarray: return self.crystals.frame.n.to_numpy(float)

    @cached_property
    def descriptors(self) -> pd.DataFrame: return dielectric_descriptors.describe(self.crystals)

    @cached_property
    def graphs(self) -> Any:
        "With equal atoms merged"
        from motiflab.graphs import AtomGraph, GraphSettings, build_graphs
        from motiflab.graphs.merged import merge_equal
        return merge_equal(build_graphs(self.crystals, GraphSettings(AtomGraph()), n_jobs=self.threads, progress=False))

    @cached_property
    def encoder(self) -> Any:
        from motiflab.named import load_model
        return load_model(ENCODER)

    @cached_property
    def guesses(self) -> pd.DataFrame:
        "What the encoder says of these crystals: gap, energies, magnetisation"
        return pd.DataFrame(self.encoder.values(self.graphs), self.graphs.ids, self.encoder.targets.names)

    @cached_property
    def vectors(self) -> pd.DataFrame:
        "Its last hidden layer"
        import torch

        with torch.no_grad(): parts = [self.encoder.model.eval().encode(self.graphs.batch(rows)) for rows in torch.arange(len(self.graphs)).split(256)]
        return pd.DataFrame(torch.cat(parts).numpy(), self.graphs.ids).rename(columns=lambda k: f"vector {k}")


def squashed(table: pd.DataFrame, train: np.ndarray) -> np.ndarray: # (n, k) float32
    "Columns in deviations of the training rows, long tails bent by arsinh; those that hardly any training row has, or that are constant, are left out"
    known = table.iloc[train]
    table = table.loc[:, (known.notna().mean() > 0.5) & (known.std() > 1e-9)]
    known = table.iloc[train]
    return np.arcsinh((table.fillna(known.median()) - known.mean()) / known.std()).to_numpy(np.float32)


# members: (task) -> function of training rows, rows to predict, factor on the learning rate

def trees(task: Task):
    "Extremely randomised trees on -1/n, which hardly feels the largest indices"
    from sklearn.ensemble import ExtraTreesRegressor

    X = task.descriptors.fillna(-1).to_numpy(np.float32)

    def fit(train, rows, rate):
        model = ExtraTreesRegressor(60, max_features=0.25, min_samples_leaf=2, random_state=0, n_jobs=task.threads).fit(X[train], -1 / task.n[train])
        return -1 / model.predict(X[rows])
    return fit


def boosting(task: Task):
    "Gradient boosting by absolute error on log n"
    from sklearn.ensemble import HistGradientBoostingRegressor

    def fit(train, rows, rate):
        X = squashed(task.descriptors, train)
        model = HistGradientBoostingRegressor(loss="absolute_error", learning_rate=0.06, max_iter=300, max_leaf_nodes=16, min_samples_leaf=8, max_features=0.15, l2_regularization=1.0, random_state=0)
        return np.exp(model.fit(X[train], np.log(task.n[train])).predict(X[rows]))
    return fit


@dataclass(frozen=True)
class Dense:
    "Dense layers on descriptors; seeds are trained together, as one batched product"
    hidden: tuple[int, ...] = (192, 64)
    seeds: int = 3
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 2e-3
    dropout: float = 0.2
    weight_decay: float = 1e-2

    def predict(self, X: np.ndarray, y: np.ndarray, X_new: np.ndarray, rate: float) -> np.ndarray: # mean over seeds
        "Learn y by its absolute error, from generators of their own"
        import torch
        from torch.nn import functional as F

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            x, t = torch.from_numpy(X), torch.tensor(y, dtype=torch.float32)
            middle, spread = t.median(), t.std()
            sizes = [x.shape[1], *self.hidden, 1]
            weights = [torch.randn(self.seeds, a, b) * (2 / a)**0.5 for a, b in zip(sizes, sizes[1:])]
            weights[-1] *= 0.3
            biases = [torch.zeros(self.seeds, 1, b) for b in sizes[1:]]
            for p in weights + biases: p.requires_grad_()
            steps = len(x) // self.batch_size
            optimizer = torch.optim.AdamW([dict(params=weights, weight_decay=self.weight_decay), dict(params=biases, weight_decay=0)], lr=rate * self.learning_rate)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate * self.learning_rate, total_steps=self.epochs * steps, pct_start=0.1)

            def outputs(h, learning):
                for k, (w, b) in enumerate(zip(weights, biases)):
                    h = torch.baddbmm(b, F.dropout(h, self.dropout if k else self.dropout / 2, learning), w)
                    if k < len(weights) - 1: h = F.silu(h)
                return h[..., 0]

            for _ in range(self.epochs):
                order = torch.stack([torch.randperm(len(x)) for _ in range(self.seeds)])
                for s in range(steps):
                    at = order[:, s * self.batch_size:(s + 1) * self.batch_size]
                    loss = (outputs(x[at], True) - (t[at] - middle) / spread).abs().mean(1).sum()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
            with torch.no_grad(): return (outputs(torch.from_numpy(X_new).expand(self.seeds, -1, -1), False).mean(0) * spread + middle).double().numpy()


def dense(task: Task, transfer: bool = False):
    "Descriptors alone, or with what the frozen encoder makes of the crystal"
    table = task.descriptors.join([task.guesses, task.vectors]) if transfer else task.descriptors

    def fit(train, rows, rate):
        X = squashed(table, train)
        return np.exp(Dense().predict(X[train], np.log(task.n[train]), X[rows], rate))
    return fit


NETWORKS = { # member -> name, options, training settings
    "cgcnn": ("cgcnn", dict(width=48), dict(epochs=20, learning_rate=3e-3, batch_size=64)),
    "de-cgcnn": ("de-cgcnn", dict(width=48, joint=(192, 64), dropout=0.2), dict(epochs=15, learning_rate=3e-3, batch_size=64)),
    "de-cgcnn-transfer": ("de-cgcnn", dict(joint=(192, 64), dropout=0.2), dict(epochs=12, learning_rate=1e-3)),
}
VALIDATION = 20 # every so-manieth training row decides which epoch is kept


def network(task: Task, member: str):
    "A graph network, or a hybrid of it with descriptors"
    from motiflab.settings import TrainSettings
    from motiflab.targets import Split, Targets
    from motiflab.training import seeded_model, train as learn

    name, options, training = NETWORKS[member]
    hybrid, transfer = name.startswith("de-"), member.endswith("transfer")
    table = task.descriptors.join(task.guesses) if transfer else task.descriptors
    if transfer: options = options | {k: task.encoder.model.options[k] for k in ("width", "n_blocks", "hidden")}

    def fit(train, rows, rate):
        values = np.full((len(task.n), 1), np.nan, np.float32) # of test rows nothing is known
        values[train, 0] = np.log(task.n[train])
        targets = Targets(("log_n",), ("",), values=values, ids=tuple(task.graphs.ids), minimum=(0.0,))
        graphs, extra = task.graphs, {}
        if hybrid:
            X = squashed(table, train)
            graphs, extra = graphs.with_descriptors(pd.DataFrame(X, task.graphs.ids)), dict(n_descriptors=X.shape[1])
        model = seeded_model(name, targets.info, 0, **options, **extra)
        if transfer: model.take_encoder(task.encoder.model)
        order = np.random.default_rng(0).permutation(train)
        some, rest = order[::VALIDATION], np.setdiff1d(order, order[::VALIDATION])
        settings = TrainSettings(loss="mae", optimizer="adamw", weight_decay=1e-2, schedule="warmup_cosine", patience=None, gradient_clip=2.0, accelerator="cpu", merge=False,
                                 **dict(batch_size=32) | training | dict(learning_rate=rate * training["learning_rate"]))
        run = learn(model, graphs, targets, Split(rest, some, []), settings)
        return np.exp(run.values(graphs.subset(rows))[:, 0])
    return fit


def member_fit(name: str, task: Task):
    "The function of a member"
    if name in NETWORKS: return network(task, name)
    return dict(trees=trees, boosting=boosting, dense=dense).get(name, lambda t: dense(t, transfer=True))(task)


def member_settings(name: str) -> dict:
    "Whatever decides what a member gives"
    from dataclasses import asdict

    own = NETWORKS[name] if name in NETWORKS else asdict(Dense()) if name.startswith("dense") else {}
    return dict(descriptors=dielectric_descriptors.VERSION, own=json.loads(json.dumps(own)), encoder=ENCODER if "transfer" in name else None)


# folds

def run_member(task: Task, name: str, fold: Any, runs: Path):
    "A member on a fold, from disk where it was done"
    from motiflab.folds import cross_fit, inner_folds

    inner = inner_folds(fold)
    if name == "cgcnn": inner = inner[:1]
    started, fit = time.time(), []
    lazy = lambda train, rows, rate: (fit or fit.append(member_fit(name, task)) or fit)[0](train, rows, rate)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*hold elements that training never saw")
        member = cross_fit(name, lazy, task.n, fold, inner, runs, member_settings(name))
    error = abs(member.train - task.n[fold.train])
    spent = round(time.time() - started)
    print(f"fold {fold.number} {name}: MAE on training rows, out of fold, {np.nanmean(error):.4f}" + (f" ({spent} s)" if spent > 1 else ""), flush=True)
    return member


def run(args: argparse.Namespace) -> None:
    "All members of the wanted variants on the wanted folds; files of a fold are written when its variant is whole"
    import torch
    from motiflab.folds import matbench_folds

    torch.set_num_threads(args.threads)
    task = Task(args.threads)
    folds = [f for f in matbench_folds(len(task.n)) if f.number in (args.fold or range(5))]
    for variant in args.variant:
        for fold in folds: run_variant(task, variant, fold, args.runs)
    if args.alone:
        for fold in folds:
            for name in ALONE: write_member(run_member(task, name, fold, args.runs), fold)


def write_member(member: Any, fold: Any) -> None:
    "Test predictions of one member"
    from motiflab.folds import write_fold

    write_fold(OUT / "members" / member.name, fold, member.test)


def run_variant(task: Task, variant: str, fold: Any, runs: Path) -> None:
    "Members, their blend, its file, and the weights"
    from motiflab.folds import blend, write_fold

    members = [run_member(task, name, fold, runs) for name in VARIANTS[variant]]
    joined, weights = blend(members, task.n, fold)
    write_fold(FOLDERS[variant], fold, joined.test)
    for m in members: write_member(m, fold)
    facts = dict(fold=fold.number, n_train=len(fold.train), n_test=len(fold.test), weights=weights.round(4).to_dict(), out_of_fold_mae=float(abs(joined.train - task.n[fold.train]).mean()), diverged=joined.said)
    (FOLDERS[variant] / f"fold_{fold.number}.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"fold {fold.number} {variant}: weights {facts['weights']}, out of fold {facts['out_of_fold_mae']:.4f}", flush=True)


# what came of it

def results(n: np.ndarray) -> pd.DataFrame: # a row a member and blend whose folds are all there
    "Scores on the test rows"
    from motiflab.folds import fold_scores, matbench_folds, read_folds, summary

    folders = {"blend with transfer": OUT, "blend without transfer": OUT / "own"} | {p.name: p for p in sorted((OUT / "members").glob("*")) if p.is_dir()}
    folds, rows = matbench_folds(len(n)), {}
    for name, folder in folders.items():
        scores = fold_scores(n, read_folds(folder, folds), folds)
        if len(scores) == len(folds): rows[name] = summary(scores) | {f"fold_{k}": v for k, v in scores.mae.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def facts_of(variant: str) -> list[dict]:
    "What was written down of each fold"
    return [json.loads(p.read_text()) for p in sorted(FOLDERS[variant].glob("fold_*.json"))]


def table(args: argparse.Namespace) -> None:
    "Print and keep the scores, and write Matbench's records"
    from motiflab.folds import matbench_folds, matbench_record, read_folds, write_record

    n = Task().n
    found, folds = results(n), matbench_folds(len(n))
    found.round(5).to_csv(OUT / "scores.csv", index_label="model")
    if found.empty: return print("No model has predicted all five folds yet.")
    print(found[["folds", "mean_mae", "std_mae", "mean_rmse", "mean_max_error"]].round(4).to_string())
    print("published:", ", ".join(f"{k} {v:.3f}" for k, v in PUBLISHED.items()))
    for variant, folder in FOLDERS.items():
        predictions = read_folds(folder, folds)
        if np.isnan(predictions).any(): continue
        about = dict(algorithm=f"motiflab blend, {variant}", members=list(VARIANTS[variant]), transfer=ENCODER if variant == "transfer" else "none", command="python benchmarks/matbench_dielectric.py run")
        write_record(matbench_record(TASK, n, predictions, folds, about, [dict(weights=f["weights"]) for f in facts_of(variant)]), folder / "results.json.gz")


# the network that transfer starts from

PRETRAIN = ("band_gap_eV", "formation_energy_eV_per_atom", "fermi_energy_eV", "magnetization_muB_per_atom")
MAX_ATOMS = 60


def pretrain(args: argparse.Namespace) -> None:
    "Train it on the crystals of mp_crystals_2018 whose formula the benchmark does not know; test it on those that share one"
    import torch
    from motiflab.crystals import read_crystals
    from motiflab.crystalset import CrystalSet
    from motiflab.graphs import AtomGraph, GraphSettings, build_graphs
    from motiflab.settings import TrainSettings
    from motiflab.targets import Split, read_targets, split_by_seed
    from motiflab.training import seeded_model, train

    torch.set_num_threads(args.threads)
    formula = lambda s: s.composition.reduced_formula
    known = set(read_crystals(TASK, progress=False).frame.structure.map(formula))
    frame = read_crystals("mp_crystals_2018", progress=False).frame
    frame = frame[frame.structure.map(len) <= MAX_ATOMS]
    frame = frame.assign(magnetization_muB_per_atom=frame.total_magnetization_muB.abs() / frame.structure.map(len), shared=frame.structure.map(formula).isin(known))
    frame = frame.sort_values("shared", kind="stable")
    others = int((~frame.shared).sum())
    inner = split_by_seed(others, (0.95, 0.05, 0.0), 0)
    split = Split(inner.train, inner.validation, np.arange(others, len(frame)))
    targets = read_targets(frame, PRETRAIN)
    graphs = build_graphs(CrystalSet(frame.drop(columns="shared")), GraphSettings(AtomGraph()), n_jobs=args.threads)
    settings = TrainSettings(epochs=args.epochs, batch_size=64, learning_rate=2e-3, loss="mae", optimizer="adamw", weight_decay=1e-4, schedule="warmup_cosine", patience=None, gradient_clip=5.0, accelerator="cpu")
    model = seeded_model("cgcnn", targets.info, 0, width=80, n_blocks=4, hidden=128)
    print(train(model, graphs, targets, split, settings, args.runs / ENCODER, resume=True).scores.round(4).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table", "pretrain"))
    parser.add_argument("--fold", type=int, action="append", choices=range(5), help="only this one; may be given several times")
    parser.add_argument("--variant", action="append", choices=tuple(VARIANTS), help="only this one")
    parser.add_argument("--no-alone", dest="alone", action="store_false", help="leave out members that are in no blend")
    parser.add_argument("--runs", type=Path, help="where copies and checkpoints are kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=28, help="of pretrain")
    args = parser.parse_args()
    if args.runs is None:
        from motiflab.paths import cache_dir
        args.runs = cache_dir("study_2")
    args.variant = args.variant or list(VARIANTS)
    dict(run=run, table=table, pretrain=pretrain)[args.what](args)
    if args.what == "run": table(args)


if __name__ == "__main__": main()
