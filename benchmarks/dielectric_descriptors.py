"""Descriptors of crystals for Study 2: motiflab's own blocks, and what is known of bonds, ions and electrons.

All of them come from composition and structure alone; nothing is learned here. `describe` gives one table, a row a crystal, and keeps it in the cache.
"""
from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

VERSION = 1 # of what is computed; another number, another file in the cache
GROUPS = 21 # columns of the periodic table, lanthanides as 19, actinides as 20


class Elements(NamedTuple):
    "Numbers of the elements by atomic number, (104,) each"
    group: np.ndarray
    row: np.ndarray
    electronegativity: np.ndarray # Pauling, 0 where there is none
    radius: np.ndarray # covalent, angstrom
    polarizability: np.ndarray # of the free atom, angstrom^3
    valence: np.ndarray # electrons


@lru_cache(maxsize=1)
def elements() -> Elements:
    "From pymatgen, and from the tables of Ward and of Deml that come with matminer"
    from matminer.utils.data import DemlData, MagpieData
    from pymatgen.core import Element

    magpie, deml, known = MagpieData(impute_nan=True), DemlData(), [Element.from_Z(z) for z in range(1, 104)]
    column = lambda e: 19 if 57 <= e.Z <= 71 else 20 if e.Z >= 89 else e.group
    polarizability = np.array([float(deml.get_elemental_property(e, "electric_pol")) for e in known])
    values = [[column(e) for e in known], [e.row for e in known], np.nan_to_num([float(e.X) for e in known]),
              [magpie.get_elemental_property(e, "CovalentRadius") / 100 for e in known], np.where(np.isnan(polarizability), 5.0, polarizability),
              [magpie.get_elemental_property(e, "NValence") for e in known]]
    return Elements(*(np.r_[0, v] for v in values))


class Bonds(NamedTuple):
    "Voronoi neighbours of all crystals, one after the other"
    z: np.ndarray # (n_atoms,)
    crystal: np.ndarray # (n_atoms,)
    source: np.ndarray # (n_edges,) neighbour
    target: np.ndarray # (n_edges,) atom
    length: np.ndarray # (n_edges,) angstrom
    share: np.ndarray # (n_edges,) of the solid angle around the atom
    atoms: np.ndarray # (n_crystals,) atoms in the cell

    @property
    def edge_crystal(self) -> np.ndarray: return self.crystal[self.target]

    @property
    def weight(self) -> np.ndarray: # (n_edges,) sums to 1 over a crystal
        return self.share / self.atoms[self.edge_crystal]


def bonds(crystals) -> Bonds:
    "Neighbours that share a Voronoi face and are near enough for a bond"
    from motiflab.graphs import AtomGraph, GraphSettings, build_graphs

    graphs = build_graphs(crystals, GraphSettings(AtomGraph(method="voronoi")), n_jobs=1, progress=False)
    if len(graphs) != len(crystals): raise ValueError(f"{len(crystals) - len(graphs)} crystals have no Voronoi graph.")
    count = lambda family: np.diff(graphs.starts[family].numpy())
    first = np.repeat(graphs.starts["atom"].numpy()[:-1], count("edge"))
    source, target = graphs.arrays["edge_index"].numpy().T + first if graphs.arrays["edge_index"].shape[1] == 2 else graphs.arrays["edge_index"].numpy() + first
    angle, n = graphs.arrays["edge_face"].numpy()[:, 0].astype(float), int(count("atom").sum())
    share = angle / np.bincount(target, angle, n)[target]
    return Bonds(graphs.arrays["z"].numpy().astype(int), np.repeat(np.arange(len(graphs)), count("atom")), source, target, graphs.arrays["edge_length"].numpy().astype(float), share, count("atom"))


def moments(name: str, values: np.ndarray, weight: np.ndarray, crystal: np.ndarray, n: int) -> dict[str, np.ndarray]:
    "Mean, deviation, least and largest value over each crystal"
    mean = np.bincount(crystal, weight * values, n)
    least, largest = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(least, crystal, values)
    np.maximum.at(largest, crystal, values)
    std = np.sqrt(np.maximum(np.bincount(crystal, weight * values**2, n) - mean**2, 0))
    return {f"{name} mean": mean, f"{name} std": std, f"{name} min": least, f"{name} max": largest}


def of_bonds(b: Bonds) -> dict[str, np.ndarray]:
    "How polar, how long and between which groups the bonds are"
    e, n, zi, zj = elements(), len(b.atoms), b.z[b.target], b.z[b.source]
    polar, ratio = abs(e.electronegativity[zi] - e.electronegativity[zj]), b.length / (e.radius[zi] + e.radius[zj])
    of = {"bond polarity": polar, "bond ratio": ratio, "bond length": b.length, "bond ionicity": 1 - np.exp(-polar**2 / 4), "bond polarity over length": polar / b.length**2,
          "bond electronegativity": e.electronegativity[zi] * e.electronegativity[zj], "bond valence difference": abs(e.valence[zi] - e.valence[zj])}
    out = {}
    for name, values in of.items(): out |= moments(name, values, b.weight, b.edge_crystal, n)
    pair = np.minimum(e.group[zi], e.group[zj]) * GROUPS + np.maximum(e.group[zi], e.group[zj])
    for p in range(GROUPS**2):
        if (at := pair == p).any(): out[f"bonds {p // GROUPS}-{p % GROUPS}"] = np.bincount(b.edge_crystal[at], b.weight[at], n)
    return out | {"bonds without polarity": np.bincount(b.edge_crystal, b.weight * (polar < 0.3), n)}


def of_sites(b: Bonds) -> dict[str, np.ndarray]:
    "Bond orders after Pauling, effective numbers of neighbours, and how positive an atom is among its own"
    e, n, total = elements(), len(b.atoms), len(b.z)
    weight, zi, zj = 1 / b.atoms[b.crystal], b.z[b.target], b.z[b.source]
    order = np.bincount(b.target, np.exp(-(b.length - e.radius[zi] - e.radius[zj]) / 0.3), total)
    nearest = np.full(total, np.inf)
    np.minimum.at(nearest, b.target, b.length)
    around = np.maximum(np.bincount(b.target, b.share**2, total), 1e-9)
    negative = np.bincount(b.target, b.share * (e.electronegativity[zj] - e.electronegativity[zi]), total)
    out = {}
    for name, values in {"bond order": order, "neighbours": 1 / around, "negativity": negative, "nearest": np.where(np.isinf(nearest), 20.0, nearest)}.items():
        out |= moments(name, values, weight, b.crystal, n)
    return out | of_ions(b, negative > 0, 1 / around)


def of_ions(b: Bonds, cation: np.ndarray, neighbours: np.ndarray) -> dict[str, np.ndarray]:
    "Means over positive and over negative atoms, and bonds among atoms of one sign"
    e, n, out = elements(), len(b.atoms), {}
    of = {"electronegativity": e.electronegativity, "polarizability": e.polarizability, "radius": e.radius, "number": np.arange(104.0), "valence": e.valence, "row": e.row}
    for sign, at in (("cation", cation), ("anion", ~cation)):
        part = np.bincount(b.crystal, at / b.atoms[b.crystal], n)
        out[f"{sign} part"] = part
        mean = lambda values: np.bincount(b.crystal, at * values / b.atoms[b.crystal], n) / np.where(part > 0, part, np.nan)
        for name, values in of.items(): out[f"{sign} {name}"] = mean(values[b.z])
        out[f"{sign} neighbours"] = mean(neighbours)
        among = at[b.target] & at[b.source]
        shortest = np.full(n, 20.0) # angstrom, where there is none
        np.minimum.at(shortest, b.edge_crystal[among], b.length[among])
        out |= {f"{sign}-{sign} nearest": shortest, f"{sign}-{sign} bonds": np.bincount(b.edge_crystal, b.weight * among, n)}
    return out


def of_cell(b: Bonds, volumes: np.ndarray) -> dict[str, np.ndarray]:
    "Shares of groups and rows; electrons and polarizability (Clausius and Mossotti) in the volume"
    e, n, weight = elements(), len(b.atoms), 1 / b.atoms[b.crystal]
    out = {f"group {g}": np.bincount(b.crystal, weight * (e.group[b.z] == g), n) for g in range(1, GROUPS)}
    out |= {f"row {r}": np.bincount(b.crystal, weight * (e.row[b.z] == r), n) for r in range(1, 8)}
    each = volumes / b.atoms
    sums = {"valence density": e.valence, "polarizability density": e.polarizability, "electron density": np.arange(104.0)}
    out |= {name: np.bincount(b.crystal, weight * values[b.z], n) / each for name, values in sums.items()}
    atoms = np.bincount(b.crystal, weight * (4 / 3 * np.pi * e.radius[b.z]**3), n)
    return out | {"plasma energy": np.sqrt(out["valence density"]), "volume over atoms": each / atoms, "atoms": b.atoms.astype(float)}


def of_charges(structures: pd.Series) -> dict[str, np.ndarray]:
    "Oxidation states that balance the formula"
    from motiflab.oxidation import states_of_formula
    from pymatgen.core import Element

    names = ("highest", "lowest", "mean", "mean cation", "mean square", "cations", "anions", "cation electronegativity", "anion electronegativity")
    rows = np.full((len(structures), len(names)), np.nan)
    for row, s in zip(rows, structures):
        formula = tuple(sorted((str(e), int(round(k))) for e, k in s.composition.element_composition.reduced_composition.items()))
        if (states := states_of_formula(formula)) is None: continue
        q, part, x = np.array(states), np.array([k for _, k in formula], float), np.nan_to_num([float(Element(e).X) for e, _ in formula])
        part, plus, minus = part / part.sum(), q > 0, q < 0
        mean = lambda values, at: (values * part)[at].sum() / part[at].sum() if at.any() else np.nan
        row[:] = q.max(), q.min(), (part * abs(q)).sum(), q[plus].mean() if plus.any() else 0, (part * q**2).sum(), plus.sum(), minus.sum(), mean(x, plus), mean(x, minus)
    return {f"oxidation {name}": rows[:, k] for k, name in enumerate(names)}


def of_orbitals(structures: pd.Series) -> pd.DataFrame:
    "matminer's valence orbitals, band centre, HOMO and LUMO of the atoms, ionic character and stoichiometry, once a formula"
    from matminer.featurizers.composition import AtomicOrbitals, BandCenter, IonProperty, Stoichiometry, ValenceOrbital

    featurizers = (ValenceOrbital(), AtomicOrbitals(), BandCenter(), IonProperty(fast=True), Stoichiometry())
    formulas, rows = structures.map(lambda s: s.composition.element_composition.reduced_composition), {}
    for formula in formulas:
        if formula in rows: continue
        rows[formula] = {}
        for f in featurizers:
            try: values = f.featurize(formula)
            except (TypeError, ValueError): continue # AtomicOrbitals of a single element
            rows[formula] |= {label: float(v) for label, v in zip(f.feature_labels(), values) if isinstance(v, (int, float, np.number, bool))}
    return pd.DataFrame([rows[f] for f in formulas], index=structures.index)


def of_motifs(crystals) -> pd.DataFrame:
    "Mean order parameters of the motifs, and their angles"
    from motiflab.motifs import extract_motifs

    table, ids = extract_motifs(crystals, n_jobs=1, progress=False), crystals.frame.index
    values = pd.DataFrame(np.array(table.motifs.order_parameters.tolist(), float)).rename(columns=lambda k: f"order parameter {k}")
    values[["oxidation of motifs"]] = table.motifs[["oxidation"]].to_numpy(float)
    means = values.groupby(table.motifs.crystal_id.to_numpy()).mean().reindex(ids)
    angle = np.array([np.mean(a) if a is not None and len(a) else np.nan for a in table.connections.angles.tolist()], float)
    return means.assign(angle=pd.Series(angle).groupby(table.connections.crystal_id.to_numpy()).mean().reindex(ids))


def describe(crystals) -> pd.DataFrame: # index id, NaN where undefined
    "All descriptors of a set of crystals, from the cache where they were computed before"
    from motiflab.descriptors import DescriptorSettings, descriptor_table
    from motiflab.paths import cache_dir, whole_or_not_at_all

    structures, volumes = crystals.frame.structure, np.array([s.volume for s in crystals.frame.structure])
    known = hashlib.sha256(f"{VERSION} {[(i, s.composition.formula) for i, s in crystals]} {volumes.round(4).tolist()}".encode()).hexdigest()
    path = cache_dir("study_2") / f"{known[:32]}.parquet"
    if path.exists(): return pd.read_parquet(path)
    b = bonds(crystals)
    own = pd.DataFrame(of_bonds(b) | of_sites(b) | of_cell(b, volumes) | of_charges(structures), index=structures.index)
    house = descriptor_table(crystals, DescriptorSettings(composition=True, motifs=True), n_jobs=1)[0]
    table = pd.concat([house, own, of_orbitals(structures), of_motifs(crystals)], axis=1).replace([np.inf, -np.inf], np.nan).astype(float)
    with whole_or_not_at_all(path) as part: table.to_parquet(part)
    return table
