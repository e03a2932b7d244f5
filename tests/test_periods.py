"What graphs say of a crystal's repetition, and what the network `periodic` makes of it"
import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure

from motiflab.chains import make_chains
from motiflab.crystals import CrystalSet, read_crystals
from motiflab.errors import UserError
from motiflab.estimators import CrystalRegressor
from motiflab.graphs import AtomGraph, GraphSettings, build_graphs
from motiflab.graphs.merged import merge_equal
from motiflab.graphs.periods import period_fields
from motiflab.models import build_model
from motiflab.models.periodic import SteadyNorm
from motiflab.motifs.rows import plain_crystal

SETTINGS = GraphSettings(AtomGraph(), periods=True)


def fields(*structures): return period_fields([plain_crystal(s) for s in structures])


def build(structures): return build_graphs(list(structures), SETTINGS, n_jobs=1, cache=False, progress=False)


@pytest.fixture(scope="module")
def real():
    frame = read_crystals("matbench_dielectric", progress=False).frame
    return [s for s in frame.structure if len(s) <= 30][::97]


def test_nearest_copies_are_the_niggli_cells_edges(real):
    found = fields(*real)["period"]
    for row, s in zip(found, real):
        primitive = s.get_primitive_structure(tolerance=.01, use_site_props=False).remove_oxidation_states().get_reduced_structure()
        assert row[1] == 3 and np.allclose(row[2:5], sorted(primitive.lattice.abc), atol=.01), s.formula
        assert round(1 / row[0]) == round(s.volume / primitive.volume)


def test_another_cell_has_the_same_periods(real):
    some, turn = real[::6], np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    changed = [Structure(s.lattice.matrix @ turn, s.species, s.frac_coords + .3) * [[1, 1, 0], [0, 2, 0], [0, 0, 1]] for s in some]
    one, other = fields(*some)["period"], fields(*changed)["period"]
    assert np.allclose(one[:, 1:5], other[:, 1:5], atol=1e-4) and np.allclose(one[:, 0], 2 * other[:, 0])
    assert np.allclose(abs(one[:, 5:]), abs(other[:, 5:]), atol=1e-3)


@pytest.mark.parametrize("lattice, cosine", [(Lattice([[0, 2, 2], [2, 0, 2], [2, 2, 0]]), .5), (Lattice([[-2, 2, 2], [2, -2, 2], [2, 2, -2]]), -1 / 3), (Lattice.cubic(3), 0)])
def test_cosines_of_cubic_lattices(lattice, cosine):
    assert np.allclose(fields(Structure(lattice, ["Cu"], [[0, 0, 0]]))["period"][0, 5:], cosine, atol=1e-6)


@pytest.mark.parametrize("structure, directions", [
    (Structure(Lattice.cubic(40), ["N", "N"], [[0, 0, 0], [.0275, 0, 0]]), 0),
    (Structure(Lattice.hexagonal(2.46, 40), ["C", "C"], [[1 / 3, 2 / 3, .5], [2 / 3, 1 / 3, .5]]), 2),
    (Structure(Lattice.cubic(20), ["He"], [[0, 0, 0]]), 3), # its images are its nearest neighbours, 20 angstrom away
])
def test_directions(structure, directions):
    found = fields(structure)
    assert found["period"][0, 1] == directions and (found["period"][0, 2:5] > 0).sum() == directions and not found["along_share"].any()


@pytest.mark.parametrize("name", ["short", "long", "double", "mixed", "armchair"])
def test_chains_in_single_file(name):
    chains = make_chains(name, 20, seed=4).frame
    graphs = build(chains.structure)
    ahead, behind, share = graphs.arrays["along"][:, 0], graphs.arrays["along"][:, 4], graphs.arrays["along_share"]
    of = torch.repeat_interleave(torch.arange(20), graphs.starts["atom"].diff())
    total = lambda x: torch.zeros(20, dtype=torch.float64).index_add(0, of, (x * share).double())
    assert (graphs.arrays["period"][:, 1] == 1).all()
    assert np.allclose(total(ahead), chains.a, atol=1e-4) and np.allclose(total(-behind), chains.a, atol=1e-4)
    assert np.allclose(graphs.arrays["period"][:, 2], chains.a, atol=1e-4)


def test_a_chain_drawn_askew_and_twice():
    chain = make_chains("long", 1, seed=6).frame.structure.iloc[0]
    askew = Structure(chain.lattice.matrix + [[0, 0, 0], 0.37 * chain.lattice.matrix[0], -1.2 * chain.lattice.matrix[0]], chain.species, chain.cart_coords, coords_are_cartesian=True)
    one, other, twice = fields(chain), fields(askew), fields(chain * (2, 1, 1))
    assert np.allclose(one["period"], other["period"], atol=1e-4)
    gaps = lambda f: sorted(np.round(np.minimum(f["along"][:, 0], -f["along"][:, 4]), 4))
    assert np.allclose(gaps(one), gaps(other), atol=1e-3) and np.allclose(gaps(one), gaps(twice)[::2], atol=1e-3)


def test_atoms_of_two_unlike_strands_are_not_merged():
    chains = make_chains("double", 4).frame.structure
    graphs = build(chains)
    merged = merge_equal(graphs)
    assert (merged.n_atoms == graphs.n_atoms).all() and merged.arrays["along"].shape[0] == len(merged.arrays["z"])
    model = build_model("periodic").eval()
    for _ in range(3): model.train()(graphs.batch(range(4)))
    model.eval()
    assert torch.allclose(model(graphs.batch(range(4))), model(merged.batch(range(4))), atol=1e-4)


def test_graphs_without_periods_are_refused():
    graphs = build_graphs(list(make_chains("short", 2).structures), GraphSettings(AtomGraph()), n_jobs=1, cache=False, progress=False)
    with pytest.raises(UserError, match="periods=True"): build_model("periodic")(graphs.batch([0, 1]))


def test_settings_go_to_json_and_back():
    assert GraphSettings.from_dict(SETTINGS.as_dict()) == SETTINGS and "periods" not in GraphSettings().as_dict()
    assert build_model("periodic").graph_settings == SETTINGS and not build_model("cgcnn").graph_settings.periods


def test_steady_norm_is_the_same_in_training_and_after():
    norm, x = SteadyNorm(3), torch.randn(200, 3) * torch.tensor([1., 10, 100]) + torch.tensor([0., 5, 900])
    for _ in range(3): norm(x)
    found = norm.eval()(x)
    assert torch.allclose(found.mean(0), torch.zeros(3), atol=.02) and torch.allclose(found.std(0), torch.ones(3), atol=.15)
    assert torch.equal(norm(x), norm(x))
    again = SteadyNorm(3)
    again.load_state_dict(norm.state_dict())
    assert torch.equal(again.eval()(x), found)


@pytest.fixture(scope="module")
def learned():
    frame = make_chains("short_mixed", 500, seed=1).frame
    train, test = frame.iloc[:420], frame.iloc[420:]
    models = {}
    for name, copies in (("neighbors", False), ("periodic", True)):
        models[name] = CrystalRegressor("periodic", options=dict(copies=copies, width=32, n_blocks=1), settings=dict(epochs=25, logger=None)).fit(train.structure, train.a)
    return models, test


@pytest.mark.parametrize("name", ["neighbors", "periodic"])
def test_the_period_is_learned_from_single_and_double_chains(learned, name):
    models, test = learned
    assert models[name].score(test.structure, test.a) > .98 # the number of atoms gives 0.2


@pytest.mark.parametrize("name", ["neighbors", "periodic"])
def test_the_cell_may_be_drawn_larger(learned, name):
    models, test = learned
    some = list(test.structure[:20])
    once = models[name].predict(some)
    for times in ((2, 1, 1), (3, 1, 1), (1, 2, 1)):
        assert abs(models[name].predict([s * times for s in some]) - once).max() < 1e-3
    assert once.std() > 1


def test_sum_over_atoms_changes_with_the_cell():
    "What the two tests before would not pass with"
    frame = make_chains("short", 120, seed=1).frame
    by_sum = CrystalRegressor("cgcnn", options=dict(readout="linear_sum", width=16, n_blocks=1), settings=dict(epochs=3, logger=None)).fit(frame.structure, frame.a)
    some = list(frame.structure[:5])
    assert abs(by_sum.predict([s * (2, 1, 1) for s in some]) - by_sum.predict(some)).max() > .1
