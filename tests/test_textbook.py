"""Minerals whose motifs and connections a textbook knows."""
import gzip
import json

import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from motiflab.motifs import extract_motifs


def extract(structure, **options): return extract_motifs(structure, n_jobs=1, progress=False, **options)


def neighbours(table, site):
    "How many neighbours of each connection kind the motif at `site` has; both ends of a connection count"
    c = table.connections
    ends = pd.concat([c.kind[c.site_i == site], c.kind[c.site_j == site]])
    return {kind: int(n) for kind, n in ends.value_counts().items()}


def kinds(table): return sorted(set(table.kinds))


def cubic(spacegroup, a, species, coords): return Structure.from_spacegroup(spacegroup, Lattice.cubic(a), species, coords)


BUILT = {
    "CsCl": (cubic("Pm-3m", 4.12, ["Cs", "Cl"], [[0, 0, 0], [.5, .5, .5]]), {"Cs|C:8": dict(corner=8, edge=12, face=6)}),
    "NaCl": (cubic("Fm-3m", 5.64, ["Na", "Cl"], [[0, 0, 0], [.5, .5, .5]]), {"Na|O:6": dict(corner=6, edge=12)}),
    "zincblende": (cubic("F-43m", 5.41, ["Zn", "S"], [[0, 0, 0], [.25, .25, .25]]), {"Zn|T:4": dict(corner=12)}),
    "fluorite": (cubic("Fm-3m", 5.46, ["Ca", "F"], [[0, 0, 0], [.25, .25, .25]]), {"Ca|C:8": dict(edge=12)}),
    "antifluorite": (cubic("Fm-3m", 4.62, ["Li", "O"], [[.25, .25, .25], [0, 0, 0]]), {"Li|T:4": dict(corner=16, edge=6)}),
    "rutile": (Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [.305, .305, 0]]),
               {"Ti|O:6": dict(corner=8, edge=2)}),
    "perovskite": (cubic("Pm-3m", 3.905, ["Sr", "Ti", "O"], [[0, 0, 0], [.5, .5, .5], [.5, .5, 0]]),
                   {"Ti|O:6": dict(corner=6, face=8), "Sr|C:12": dict(corner=12, face=14)}),
    "spinel": (cubic("Fd-3m", 8.08, ["Mg", "Al", "O"], [[0, 0, 0], [.625, .625, .625], [.3874, .3874, .3874]]),
               {"Mg|T:4": dict(corner=12), "Al|O:6": dict(corner=6, edge=6)}),
    "corundum": (Structure.from_spacegroup("R-3c", Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, .3522], [.3063, 0, .25]]),
                 {"Al|O:6": dict(corner=9, edge=3, face=1)}),
}


@pytest.mark.parametrize("name", BUILT)
def test_built_from_the_textbook(name):
    structure, expected = BUILT[name]
    table = extract(structure)
    assert kinds(table) == sorted(expected)
    for site, kind in zip(table.motifs.site, table.kinds): assert neighbours(table, site) == expected[kind], (name, site)


def test_perovskite_octahedra_share_corners_with_octahedra_only():
    table = extract(BUILT["perovskite"][0])
    titanium = table.motifs.site[table.motifs.element == "Ti"].iloc[0]
    own = table.connections[(table.connections.site_i == titanium) & (table.connections.site_j == titanium)]
    assert len(own) == 3 and set(own.kind) == {"corner"}  # three opposite pairs are six neighbours
    assert own.angles.map(lambda a: abs(a[0] - 180) < 1e-3).all() and own.distance.sub(3.905).abs().max() < 1e-9


def test_perfect_polyhedra_have_measure_zero():
    for name in ("CsCl", "NaCl", "zincblende", "fluorite", "perovskite"):
        assert extract(BUILT[name][0]).motifs.csm.max() < 1e-4, name


MINERALS = {  # mineral in the file -> kinds, neighbours of one kind
    "Rutile": (["Ti|O:6"], "Ti|O:6", dict(corner=8, edge=2)),
    "(Cubic) Perovskite": (["Ca|C:12", "Ti|O:6"], "Ti|O:6", dict(corner=6, face=8)),
    "Spinel": (["Al|O:6", "Mg|T:4"], "Al|O:6", dict(corner=6, edge=6)),
    "Corundum": (["Al|O:6"], "Al|O:6", dict(corner=9, edge=3, face=1)),
    "Ilmenite": (["Fe|O:6", "Ti|O:6"], "Ti|O:6", dict(corner=9, edge=3, face=1)),
    "quartz (alpha)": (["Si|T:4"], "Si|T:4", dict(corner=4)),
    "quartz (beta)": (["Si|T:4"], "Si|T:4", dict(corner=4)),
    "low (alpha) Cristobalite": (["Si|T:4"], "Si|T:4", dict(corner=4)),
    "high (beta) Cristobalite": (["Si|T:4"], "Si|T:4", dict(corner=4)),
    "Halite, Rock Salt": (["Na|O:6"], "Na|O:6", dict(corner=6, edge=12)),
    "Zincblende, Sphalerite": (["Zn|T:4"], "Zn|T:4", dict(corner=12)),
    "Wurtzite": (["Zn|T:4"], "Zn|T:4", dict(corner=12)),
    "Fluorite": (["Ca|C:8"], "Ca|C:8", dict(edge=12)),
    "alpha Rhenium trioxide": (["Re|O:6"], "Re|O:6", dict(corner=6)),
    "Molybdenite": (["Mo|T:6"], "Mo|T:6", dict(edge=6)),
    "Calcite": (["Ca|O:6", "C|TL:3"], "C|TL:3", dict(corner=6)),
    "trigonal omega": (["Cd|O:6"], "Cd|O:6", dict(edge=6)),
    "Silicon Disuphide": (["Si|T:4"], "Si|T:4", dict(edge=2)),
}


@pytest.fixture(scope="module")
def minerals(shared_data):
    with gzip.open(shared_data / "minerals_aflow.jsonl.gz", "rt") as lines: rows = [json.loads(line) for line in lines]
    return {r["mineral_or_structure_type"]: Structure(r["lattice"], r["species"], r["frac"]) for r in rows}


@pytest.mark.parametrize("name", MINERALS)
def test_mineral(minerals, name):
    expected, kind, around = MINERALS[name]
    table = extract(minerals[name])
    assert kinds(table) == expected
    for site in table.motifs.site[table.kinds == kind]: assert neighbours(table, site) == around


def test_chlorides_sulfides_nitrides_have_motifs_too(minerals):
    for name, kind in {"Chromium trichloride": "Cr|O:6", "Pyrite": "Fe|O:6", "Bismuth triodide": "Bi|O:6", "Boron Nitride": "B|TL:3", "Calaverite": "Au|O:6"}.items():
        assert kind in kinds(extract(minerals[name])), name
