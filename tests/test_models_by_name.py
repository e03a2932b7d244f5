"""The models that come with motiflab: they load, say again what they said when they were trained, and know textbook oxides apart."""
from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from motiflab.crystalset import CrystalSet
from motiflab.graphs import build_graphs
from motiflab.named import describe_models, load_model, model_names, predict_crystals

NAMES = ("amdnet-band-gap", "amdnet-formation-energy", "amdnet-is-metal", "megnet-band-gap")
MINERALS = dict(
    periclase=Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [.5, .5, .5]]),
    corundum=Structure.from_spacegroup("R-3c", Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, .3522], [.3063, 0, .25]]),
    rutile=Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [.305, .305, 0]]),
    bronze=Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.86), ["Na", "W", "O"], [[.5, .5, .5], [0, 0, 0], [.5, 0, 0]]),
    rhenium_trioxide=Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.75), ["Re", "O"], [[0, 0, 0], [.5, 0, 0]]),
)


@pytest.fixture(scope="module")
def minerals(): return CrystalSet(pd.DataFrame(dict(structure=list(MINERALS.values())), index=list(MINERALS)))


def answers(name: str, crystals: CrystalSet) -> pd.DataFrame:
    return predict_crystals(load_model(name), crystals, n_jobs=1, progress=False).set_index("id")


def test_all_are_there():
    assert set(NAMES) <= set(model_names())
    table = describe_models()
    assert list(table.index.unique()) == model_names() and (table["training crystals"] > 500).all() and (table["test crystals"] > 200).all() and (table.loc[list(NAMES), "training crystals"] > 3000).all()


@pytest.mark.parametrize("name", ["amdnet-band-gap", "megnet-band-gap"])
def test_textbook_gaps(minerals, name):
    found = answers(name, minerals)
    gaps = found.band_gap_eV
    assert gaps[["periclase", "corundum"]].min() > 3 and gaps[["bronze", "rhenium_trioxide"]].max() < 0.5 and 0.1 < gaps["rutile"] < 3 and gaps.min() >= 0
    assert (found.band_gap_eV_uncertainty > 0).all() and (found.reason == "").all()


def test_metals_and_nonmetals(minerals):
    likely = answers("amdnet-is-metal", minerals).is_metal
    assert likely[["periclase", "corundum"]].max() < 0.1 and likely[["bronze", "rhenium_trioxide"]].min() > 0.8


def test_stable_oxides_have_negative_formation_energies(minerals):
    found = answers("amdnet-formation-energy", minerals).formation_energy_eV_per_atom
    assert found["periclase"] < -2.5 and found["corundum"] < -2.8 and found["rutile"] < -2.8 and found["rhenium_trioxide"] > found["rutile"] + 0.5


@pytest.mark.parametrize("name", NAMES)
def test_they_say_again_what_they_said_when_they_were_trained(shared_data, name):
    model = load_model(name)
    target, table = model.targets.names[0], model.predictions[model.predictions["split"] == "test"].iloc[::60]
    with gzip.open(shared_data / "mp_crystals_2018.jsonl.gz", "rt") as lines: rows = [r for r in map(json.loads, lines) if r["id"] in table.index]
    structures = {r["id"]: Structure(r["lattice"], r["species"], r["frac"]) for r in rows}
    crystals = CrystalSet(pd.DataFrame(dict(structure=list(structures.values())), index=pd.Index(list(structures), name="id")))
    found = model.predict(build_graphs(crystals, model.graph_settings, n_jobs=1, cache=False, progress=False))[target]
    assert len(found) == len(table) > 15 and np.allclose(found, table[f"{target}_predicted"].loc[found.index], atol=5e-3)
