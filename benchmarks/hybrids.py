"""What do descriptors add to graph networks? Tables 1 and 2 of Gong et al., Sci. Adv. 9, eadi3245 (2023), on public sets of computed properties.

    MOTIFLAB_DATA=DATA python benchmarks/hybrids.py run                    # every job of the list, the least needed last
    MOTIFLAB_DATA=DATA python benchmarks/hybrids.py run --jobs phonons     # only those whose name has this in it
    python benchmarks/hybrids.py list                                                # what was run, what was not
    python benchmarks/hybrids.py table                                               # errors beside the paper's
    MOTIFLAB_DATA=DATA python benchmarks/hybrids.py ship                   # the networks that come with motiflab, trained anew and kept under data/models

A job is one set, one variant, one seed; one that was run is not run again, and two processes may work on the same list. The seed decides
the split (60 % to learn, 20 % to choose the weights, 20 % to test) and the first weights; all variants of a seed have the same split. A
network learns all properties of its set at once, by absolute error. All networks of a set have the same optimiser, batches, schedule and
epochs (`SETS`), but ALIGNN, which is narrow and has a third of them. A network whose loss diverged is trained again with a third of the
learning rate, at most twice; the column `tries` says so. Results: data/hybrids (scores.csv, a row a job and property; predictions.parquet,
what was said of the test crystals); weights are not kept, but for what `ship` writes. Of phonons_petretto all 1,245 rows with U and Cv are used, the 161
with a quality flag (large_asr_break, large_cnsr_break) too, as their spread is the paper's.
"""
from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from joblist import JobList, arguments

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "data" / "hybrids"
JOBS = JobList(OUT)


# what is learned

@dataclass(frozen=True)
class Data:
    "A set of crystals with properties"
    source: str # name of the data set
    targets: tuple[str, ...] # columns that `columns_of` makes
    epochs: int
    learning_rate: float = 5e-3
    readout: str = "mean"


SETS = dict(
    phonons=Data("phonons_petretto", ("U_kJ_per_mol_cell", "Cv_J_per_mol_cell_K"), 150),
    kappa=Data("kappa_ohnishi", ("log10_kappa",), 40),
    mp=Data("mp_crystals_2018", ("band_gap_eV", "formation_energy_eV_per_atom", "magnetization_muB_per_formula"), 30),
    elasticity=Data("elasticity_mp", ("bulk_modulus_GPa", "shear_modulus_GPa", "poisson_ratio"), 60),
    dielectric=Data("dielectric_mp", ("eps_electronic", "eps_total", "refractive_index"), 120),
    piezo=Data("piezo_mp", ("eij_max_C_per_m2",), 80),
    phonons_atom=Data("phonons_petretto", ("U_kJ_per_mol_atom", "Cv_J_per_mol_atom_K"), 150), # Table 2: per atom
    phonons_sum=Data("phonons_petretto", ("U_kJ_per_mol_cell", "Cv_J_per_mol_cell_K"), 150, readout="sum"), # Table 2: sum over the atoms
)
UNITS = dict(U_kJ_per_mol_cell="kJ/mol", Cv_J_per_mol_cell_K="J/(mol K)", U_kJ_per_mol_atom="kJ/mol", Cv_J_per_mol_atom_K="J/(mol K)", log10_kappa="", band_gap_eV="eV", formation_energy_eV_per_atom="eV/atom",
             magnetization_muB_per_formula="muB", bulk_modulus_GPa="GPa", shear_modulus_GPa="GPa", poisson_ratio="", eps_electronic="", eps_total="", refractive_index="", eij_max_C_per_m2="C/m^2")
N_MP, MAX_ATOMS = 2500, 40 # crystals of mp_crystals_2018, and the largest cell among them
PAPER = OUT / "paper.csv" # MAE / MAD of the paper's Table 1 of the same property (total energy for formation energy), kept by hand


def columns_of(source: str) -> pd.DataFrame:
    "Structures and properties of a set, under the names of `SETS`"
    from motiflab.crystals import read_crystals
    from motiflab.descriptors.debye import debye_energy, debye_heat_capacity, debye_temperature

    frame = read_crystals(source, progress=False).frame
    n, trace = frame.structure.map(len), lambda c: frame[c].map(lambda t: np.trace(np.array(t)) / 3 if isinstance(t, (list, np.ndarray)) else np.nan)
    if source == "phonons_petretto":
        theta = debye_temperature(frame.structure.map(lambda s: s.composition.weight / s.composition.num_atoms).to_numpy(), frame.structure.map(lambda s: s.volume / len(s)).to_numpy())
        frame = frame.assign(debye_energy=debye_energy(theta, n_atoms=n), debye_heat_capacity=debye_heat_capacity(theta, n_atoms=n))
        atom = dict(U_kJ_per_mol_atom=frame["U_300K_kJ_per_mol_atom"], Cv_J_per_mol_atom_K=frame["Cv_300K_J_per_mol_atom_K"])
        return frame.assign(**atom, U_kJ_per_mol_cell=atom["U_kJ_per_mol_atom"] * n, Cv_J_per_mol_cell_K=atom["Cv_J_per_mol_atom_K"] * n)
    if source == "kappa_ohnishi": return frame.assign(log10_kappa=frame["log10_kappa_lattice_300K_W_per_mK"])
    if source == "dielectric_mp": return frame.assign(refractive_index=frame["refractive_index_n"], eps_electronic=trace("eps_electronic"), eps_total=trace("eps_total"))
    if source != "mp_crystals_2018": return frame
    factor = frame.structure.map(lambda s: s.composition.get_reduced_composition_and_factor()[1])
    some = frame.assign(magnetization_muB_per_formula=frame["total_magnetization_muB"] / factor)[n <= MAX_ATOMS]
    return some.iloc[np.sort(np.random.default_rng(0).permutation(len(some))[:N_MP])]


# what learns it

@dataclass(frozen=True)
class Variant:
    "A network with its options, or descriptors alone"
    model: str # of motiflab.models, or of motiflab.baselines.ALONE
    options: dict = field(default_factory=dict)
    bank: bool | tuple[str, ...] = True # which descriptors stand beside the graph
    columns: tuple[str, ...] = () # columns of the set that stand there too
    shuffled: bool = False # each crystal gets the descriptors of another
    before: str = "" # variant whose trained encoder it keeps
    epochs: float = 1.0 # share of the set's
    triplets: int | None = None


LOCAL = ("mad_relative_bond_length", "max_relative_bond_length", "min_relative_bond_length", "mean_neighbor_distance_variation", "mean_average_bond_length", "mad_average_bond_length",
         "mean_average_bond_angle", "mean_voronoi_cn", "volume_per_atom", "packing_fraction", "density")
NARROW = dict(width=64, embedding=32, n_blocks=2, n_gcn=2)
VARIANTS = dict( # in the order of the table
    forest=Variant("forest"),
    boosting=Variant("boosting"),
    cgcnn=Variant("cgcnn"),
    cgcnn_then_descriptors=Variant("de-cgcnn", dict(frozen=True), before="cgcnn"), # equation S5
    de_cgcnn=Variant("de-cgcnn"),
    de_amdnet=Variant("de-amdnet", dict(atom="cgcnn", motif_nodes=("composition", "statistics", "order_parameters", "site"))),
    amdnet=Variant("amdnet", dict(atom="cgcnn", motif_nodes=("composition", "statistics", "order_parameters", "site"))),
    alignn=Variant("alignn", NARROW, epochs=1 / 3, triplets=6),
    de_alignn=Variant("de-alignn", NARROW, epochs=1 / 3, triplets=6),
    de_cgcnn_shuffled=Variant("de-cgcnn", shuffled=True),                    # what could refute the gain: numbers without a meaning
    de_cgcnn_n_atoms=Variant("de-cgcnn", bank=("n_atoms",)),                 # which descriptors carry it (the Debye page)
    de_cgcnn_cell=Variant("de-cgcnn", bank=("a", "b", "c", "alpha", "beta", "gamma")),
    de_cgcnn_local=Variant("de-cgcnn", bank=LOCAL),
    de_cgcnn_debye=Variant("de-cgcnn", columns=("debye_energy", "debye_heat_capacity")), # and Debye's estimate beside the bank
)
FORMULAS = dict( # no network at all: what is fitted on training crystals is said
    dulong_petit="3 R (or 3 R T) for each atom; nothing is fitted",
    times_n_atoms="a constant for each atom; the constant is fitted",
    debye_mass="Debye's model from the number of atoms and their mean mass; the spring constant is fitted",
    debye="the same with springs that soften as 1 / volume",
)
MAIN = ("forest", "boosting", "de_cgcnn", "cgcnn", "de_amdnet")
LEAST = [(s, v, seed) for s in ("phonons", "kappa", "mp") for seed in (0, 1, 2) for v in MAIN]
CONTROLS = [("phonons", v, seed) for seed in (0, 1, 2) for v in ("de_cgcnn_shuffled", "de_cgcnn_n_atoms", "de_cgcnn_cell", "de_cgcnn_local", "de_cgcnn_debye", "cgcnn_then_descriptors")]
ESTIMATES = [("phonons", v, seed) for seed in (0, 1, 2) for v in FORMULAS]
FURTHER = [(s, v, seed) for s in ("dielectric", "elasticity", "piezo") for seed in (0, 1, 2) for v in ("forest", "boosting", "de_cgcnn", "cgcnn")]
TABLE_2 = [(s, v, seed) for s in ("phonons_atom", "phonons_sum") for seed in (0, 1, 2) for v in ("cgcnn", "de_cgcnn")]
LINES = [(s, v, seed) for s in ("phonons", "kappa") for seed in (0, 1, 2) for v in ("alignn", "de_alignn")]
REST = [(s, v, seed) for s in SETS if not s.startswith("phonons_") for seed in (0, 1, 2) for v in (*MAIN, "cgcnn_then_descriptors", "amdnet", "alignn", "de_alignn", "de_cgcnn_shuffled")]


def all_jobs() -> list[str]:
    "Names of the jobs, the least needed last"
    return ["-".join(map(str, j)) for j in dict.fromkeys(LEAST + ESTIMATES + CONTROLS + FURTHER + TABLE_2 + LINES + REST)]


def write_plan() -> None:
    "All jobs, so that what was not run can be told from what was never asked"
    OUT.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([dict(zip(("job", "set", "variant", "seed"), (j, *j.split("-")))) for j in all_jobs()]).to_csv(OUT / "plan.csv", index=False)


# running

def graph_settings(variant: Variant):
    "The graphs of a variant"
    from motiflab.descriptors import DescriptorSettings
    from motiflab.graphs import AtomGraph, GraphSettings, MotifGraph

    beside = DescriptorSettings(variant.bank, columns=variant.columns) if variant.model.startswith("de-") or variant.model in ("forest", "boosting") else None
    return GraphSettings(AtomGraph(triplets=variant.triplets), MotifGraph() if "amdnet" in variant.model else None, descriptors=beside)


def shuffled(graphs, seed: int):
    "Each crystal with the descriptors of another"
    from motiflab.graphs.packed import GraphSet

    order = np.random.default_rng(seed).permutation(len(graphs))
    return GraphSet(graphs.arrays | dict(descriptor=graphs.arrays["descriptor"][order]), graphs.starts, graphs.ids, graphs.skipped, graphs.settings)


def trained(data: Data, variant: Variant, graphs, targets, split, seed: int):
    "A network, tried again with a third of the rate where it diverged; and how many tries it took"
    from motiflab.errors import UserError
    from motiflab.recipes import recipe
    from motiflab.training import seeded_model, train

    options = dict(readout=data.readout) | dict(variant.options) | (dict(n_descriptors=graphs.arrays["descriptor"].shape[1]) if variant.model.startswith("de-") else {})
    settings = recipe("quick", variant.model, seed=seed, loss="mae", epochs=max(int(data.epochs * variant.epochs), 1), accelerator="cpu", learning_rate=data.learning_rate).settings
    for tries in (1, 2, 3):
        model = seeded_model(variant.model, targets, seed, **options)
        if variant.before: model.take_encoder(trained(data, replace(VARIANTS[variant.before]), graphs, targets, split, seed)[0].model)
        try: return train(model, graphs, targets, split, replace(settings, learning_rate=settings.learning_rate / 3 ** (tries - 1))), tries
        except UserError as error:
            if "NaN" not in str(error) and "finite" not in str(error) or tries == 3: raise


def estimates(formula: str, frame: pd.DataFrame, train: np.ndarray) -> np.ndarray: # (n_crystals, 2)
    "Energy and heat capacity per cell by a formula, its constant chosen on training rows by absolute error"
    from motiflab.descriptors.debye import GAS_CONSTANT, ROOM, debye_energy, debye_heat_capacity, debye_temperature

    n, true = frame.structure.map(len).to_numpy(), frame[list(SETS["phonons"].targets)].to_numpy()
    mass = frame.structure.map(lambda s: s.composition.weight / s.composition.num_atoms).to_numpy()
    room = frame.structure.map(lambda s: s.volume / len(s)).to_numpy() if formula == "debye" else np.full(len(n), ROOM)
    classical = np.array([3 * GAS_CONSTANT * 300, 3000 * GAS_CONSTANT])
    if formula == "dulong_petit": return n[:, None] * classical
    if formula == "times_n_atoms": tried = [n[:, None] * classical * share for share in np.linspace(0.4, 1.6, 481)]
    else:
        thetas = [debye_temperature(mass, room, spring) for spring in np.geomspace(4, 200, 80)]
        tried = [np.column_stack([debye_energy(t, n_atoms=n), debye_heat_capacity(t, n_atoms=n)]) for t in thetas]
    best = np.argmin([abs(x[train] - true[train]).mean(0) for x in tried], axis=0)
    return np.column_stack([tried[b][:, k] for k, b in enumerate(best)])


def prepared(data: Data, variant: Variant | None, seed: int): # table, targets, split, graphs (None without a variant)
    "Crystals with a value, and what a variant sees of them"
    from motiflab.crystals import CrystalSet
    from motiflab.graphs import build_graphs
    from motiflab.targets import match_rows, read_targets, split_by_seed

    frame = columns_of(data.source)
    crystals = CrystalSet(frame[frame[list(data.targets)].notna().any(axis=1)])
    targets, split = read_targets(crystals, data.targets, units={t: UNITS[t] for t in data.targets}), split_by_seed(len(crystals), seed=seed)
    if variant is None: return crystals.frame, targets, split, None
    graphs = build_graphs(crystals, graph_settings(variant), n_jobs=1, progress=False)
    return crystals.frame, *match_rows(targets, split, graphs.ids), graphs


def run_job(job: str) -> None:
    "Train, score and write down"
    from motiflab.baselines import descriptors_alone

    name, kind, seed = job.split("-")
    data, variant, seed = SETS[name], VARIANTS.get(kind), int(seed)
    frame, targets, split, graphs = prepared(data, variant, seed)
    if kind in FORMULAS: return _write(job, targets, split, estimates(kind, frame, split.train)[split.test], dict(tries=1, best_epoch=-1, parameters=0, seconds=0, n_train=len(split.train)))
    if variant.shuffled: graphs = shuffled(graphs, seed)
    start, facts = time.time(), dict(tries=1, best_epoch=-1, parameters=0)
    if variant.model in ("forest", "boosting"):
        told = pd.DataFrame(graphs.arrays["descriptor"].numpy(), graphs.ids)
        values = descriptors_alone(told, targets, split, variant.model, seed)[split.test]
    else:
        run, facts["tries"] = trained(data, variant, graphs, targets, split, seed)
        facts |= dict(best_epoch=run.facts["best_epoch"], parameters=sum(p.numel() for p in run.model.parameters()))
        test = run.predictions[run.predictions["split"] == "test"].loc[[graphs.ids[i] for i in split.test]]
        values = test[[f"{t}_predicted" for t in targets.names]].to_numpy()
    _write(job, targets, split, values, facts | dict(seconds=time.time() - start, n_train=len(split.train)))


def _write(job: str, targets, split, values: np.ndarray, facts: dict) -> None:
    "A row a property, and the predictions"
    from motiflab.scores import regression_scores

    name, variant, seed = job.split("-")
    rows, said = [], []
    for k, t in enumerate(targets.names):
        true = targets.values[split.test, k].astype(float)
        there = np.isfinite(true)
        found = regression_scores(true[there], values[there, k])
        rows.append(dict(job=job, set=name, variant=variant, seed=int(seed), target=t, n_test=int(found["n"]), mae=found["mae"], mad=found["mad"], mae_over_mad=found["mae"] / found["mad"], r2=found["r2"], **facts))
        said.append(pd.DataFrame(dict(job=job, target=t, id=[str(targets.ids[i]) for i in split.test[there]], true=true[there].astype("float32"), predicted=values[there, k].astype("float32"))))
        print(f"{job}: {t} MAE/MAD {rows[-1]['mae_over_mad']:.4f} on {rows[-1]['n_test']} crystals, {facts['seconds']:.0f} s", flush=True)
    JOBS.add(job, {"scores.csv": pd.DataFrame(rows), "predictions.parquet": pd.concat(said)})


# tables

def table() -> pd.DataFrame:
    "MAE / MAD of each property and variant: mean over seeds, their range, `not run`; the paper's beside"
    scores, theirs = pd.read_csv(OUT / "scores.csv"), pd.read_csv(PAPER, index_col="property")
    rows = {}
    for name, data in SETS.items():
        for target in data.targets:
            held = scores[(scores["set"] == name) & (scores["target"] == target)]
            if held.empty: continue
            row = {v: _cell(held[held["variant"] == v]["mae_over_mad"]) for v in [*FORMULAS, *VARIANTS] if v in VARIANTS or name == 'phonons'}
            about = dict(crystals=f"{int(held['n_train'].iloc[0])} / {int(held['n_test'].iloc[0])}", MAD=f"{held['mad'].mean():.3g}")
            paper = {f"paper {v}": f"{theirs.loc[target, v]:.3f}" for v in theirs} if target in theirs.index and data.readout == "mean" else {}
            rows[name, target] = about | row | paper
    return pd.DataFrame(rows).T.fillna("").rename_axis(["set", "property"])


def _cell(values: pd.Series) -> str:
    if values.empty: return "not run"
    return f"{values.mean():.3f}" + (f" ({values.min():.3f} to {values.max():.3f})" if len(values) > 1 else " (1 seed)")


SHIPPED = {"de-cgcnn-vibrations": ("phonons", "de_cgcnn", 0), "de-cgcnn-conductivity": ("kappa", "de_cgcnn", 0)} # name -> set, variant, seed
EXPLAINED = SHIPPED | {"cgcnn-vibrations": ("phonons", "cgcnn", 0)} # what benchmarks/explain.py looks into


def ship() -> None:
    "Train the jobs of `SHIPPED` and keep their networks"
    for label, (name, kind, seed) in SHIPPED.items():
        _, targets, split, graphs = prepared(SETS[name], VARIANTS[kind], seed)
        run, _ = trained(SETS[name], VARIANTS[kind], graphs, targets, split, seed)
        run.save(TOP / "data" / "models" / label)
        print(label, {t: round(run.score("mae", target=t), 4) for t in targets.names})


def main() -> None:
    given = arguments(__doc__, ["run", "list", "table", "ship"], all_jobs())
    if given.what == "ship": return ship()
    if given.what == "list": return JOBS.show(given.chosen)
    if given.what == "table":
        with pd.option_context("display.max_columns", None, "display.width", 250): return print(table().T.to_string())
    write_plan()
    JOBS.work(given.chosen, run_job, given.minutes)


if __name__ == "__main__": main()
