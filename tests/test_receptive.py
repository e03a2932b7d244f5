"How far an atom of a network sees: exactly as many bonds as convolutions, the same in every cell of a crystal"
import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure

from motiflab.crystals import CrystalSet
from motiflab.errors import UserError
from motiflab.graphs import AtomGraph, GraphSettings, build_graphs
from motiflab.models import build_model
from motiflab.receptive import receptive_field, receptive_figure, receptive_profile, step_radius, unroll, unrolled_batch

CHAIN = GraphSettings(AtomGraph(neighbors=2, cutoff=8.0))
NEAR = GraphSettings(AtomGraph(neighbors=6, cutoff=8.0))
SMALL = {"cgcnn": dict(n_blocks=2, width=16), "megnet": dict(n_blocks=2, width=16), "schnet": dict(n_blocks=2, width=16), "alignn": dict(n_blocks=1, n_gcn=1, width=16)}


def as_set(**structures): return CrystalSet(pd.DataFrame(dict(structure=structures.values()), index=list(structures)))


def network(name, **options):
    torch.manual_seed(0)
    return build_model(name, **options).eval()


@pytest.fixture(scope="module")
def chain(): return Structure(Lattice.orthorhombic(2.0, 40, 40), ["C"], [[0.3, 0, 0]])


@pytest.fixture(scope="module")
def rutile(): return Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.3053, 0.3053, 0]])


@pytest.mark.parametrize("name", ["cgcnn", "megnet", "schnet"])
@pytest.mark.parametrize("k", [1, 3])
def test_information_goes_one_bond_a_convolution(chain, name, k):
    profile = receptive_profile(network(name, n_blocks=k, width=16), chain, settings=CHAIN)
    reached = profile[profile.gradient > 0]
    assert sorted(reached.hops) == sorted([0, *2 * list(range(1, k + 1))]) and np.isclose(reached.distance.max(), 2.0 * k)
    assert np.isclose(profile.share.sum(), 1) and profile.share[profile.hops == 0].sum() == 0


def test_the_table_of_a_chain(chain):
    cells = {"short": chain, "long": chain * (7, 1, 1)}
    table = receptive_field(network("cgcnn", n_blocks=3, width=16), as_set(**cells), CHAIN)
    assert (table.hops == 3).all() and np.allclose(table.farthest, 6.0) and np.allclose(table.a, 40) and np.allclose(table.ratio, 12 / 40)
    assert np.isclose(*table.radius_95) and (table.radius_95 <= 6.0).all() and (table.reason == "").all() and not table.state.any()


def test_where_an_atom_sees_less_than_the_period():
    elements = ["C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P"]
    long = Structure(Lattice.orthorhombic(25, 12, 12), elements, [[k / 10, 0, 0] for k in range(10)])
    found = receptive_field(network("cgcnn", n_blocks=2, width=16), as_set(long=long), CHAIN, n_centres=10).iloc[0]
    assert np.isclose(found.a, 25) and np.isclose(found.farthest, 5.0) and np.isclose(found.ratio, 0.4) and found.ratio_95 <= found.ratio


@pytest.mark.parametrize("name", SMALL)
def test_the_unrolled_crystal_gives_the_crystals_own_vectors(rutile, name):
    model, atoms = network(name, **SMALL[name], **(dict(state=False) if name == "megnet" else {})), AtomGraph(neighbors=6, cutoff=8.0, vectors=True, triplets=6 if name == "alignn" else None)
    graph = build_graphs([rutile], GraphSettings(atoms), n_jobs=1, cache=False, progress=False)
    with torch.no_grad():
        inside = model.run(graph.batch([0]))[0].nodes
        for centre in (0, 5):
            around = unroll(graph[0], rutile, centre, 3)
            assert torch.allclose(model.run(unrolled_batch(graph[0], around))[0].nodes[0], inside[centre], atol=1e-5)
    assert len(np.unique(np.c_[around.atom, around.image], axis=0)) == len(around.atom) and (np.diff(around.ends[1]) >= 0).all()


@pytest.mark.parametrize("name", SMALL)
def test_bonds_of_real_crystals(rutile, name):
    settings = GraphSettings(AtomGraph(neighbors=6, cutoff=8.0, triplets=6 if name == "alignn" else None))
    table = receptive_field(network(name, **SMALL[name]), as_set(rutile=rutile, doubled=rutile * (1, 1, 2)), settings, n_centres=1)
    assert (table.hops == 2).all() and (table.state == (name == "megnet")).all() and (table.radius_95 <= table.farthest).all()
    assert np.allclose(table.a, 4.594) and np.allclose(table.estimate, 2 * step_radius(rutile, settings))


def test_a_supercell_changes_nothing(rutile):
    model = network("cgcnn", n_blocks=2, width=16)
    one, other = (receptive_profile(model, s, [0], NEAR).query("gradient > 0").sort_values(["distance", "gradient"]) for s in (rutile, rutile * (2, 1, 1)))
    assert len(one) == len(other) and np.allclose(one.distance, other.distance, atol=1e-4) and np.allclose(np.sort(one.gradient), np.sort(other.gradient), rtol=1e-2)


def test_the_estimate_stops_at_the_cutoff(rutile):
    per_atom = rutile.volume / 6
    assert np.isclose(step_radius(rutile, GraphSettings(AtomGraph(neighbors=12, cutoff=8.0))), (3 / (4 * np.pi) * 12 * per_atom) ** (1 / 3))
    assert step_radius(rutile, GraphSettings(AtomGraph(neighbors=12, cutoff=2.5))) == 2.5 == step_radius(rutile, GraphSettings(AtomGraph(neighbors=None, cutoff=2.5)))


def test_periods_that_a_network_is_handed_are_told_of(rutile):
    table = receptive_field(network("periodic", n_blocks=1, width=16), as_set(rutile=rutile), n_centres=1)
    assert table.state.all() and (table.hops == 1).all() and (table.farthest < 5).all()


def test_what_has_no_field_is_said_in_a_sentence(rutile):
    for model, words in (("roost", "no atoms with neighbours"), ("mnet", "motifs"), (torch.nn.Linear(2, 2), "Linear")):
        with pytest.raises(UserError, match=words): receptive_field(model, as_set(rutile=rutile), NEAR)
    with pytest.raises(UserError): receptive_field("cgnn", as_set(rutile=rutile))
    with pytest.raises(UserError, match="too many"): receptive_field(network("cgcnn", n_blocks=9, width=16), as_set(rutile=rutile), GraphSettings(AtomGraph(neighbors=None, cutoff=8.0)))


def test_a_crystal_without_a_graph_keeps_its_row(chain):
    twins = Structure(Lattice.cubic(5), ["C", "C"], [[0, 0, 0], [0.001, 0, 0]])
    lonely = Structure(Lattice.cubic(30), ["Xe"], [[0, 0, 0]])
    table = receptive_field(network("cgcnn", n_blocks=1, width=16), as_set(chain=chain, twins=twins, lonely=lonely), CHAIN)
    assert list(table.index) == ["chain", "twins", "lonely"] and "closer" in table.reason["twins"] and np.isnan(table.radius_95["twins"])
    assert table.farthest["lonely"] == table.radius_95["lonely"] == table.hops["lonely"] == 0
    assert len(receptive_figure(table).data) == 4
    with pytest.raises(UserError): receptive_figure(table.loc[["twins"]])
