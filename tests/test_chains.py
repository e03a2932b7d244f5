"Chains whose period is known, and what is said of chains that cannot be"
import numpy as np
import pytest

from motiflab.chains import CHAIN_SETS, NEAREST, ChainSet, armchair_chain, double_chain, make_chains, single_chain, zigzag_chain
from motiflab.crystals import read_crystals
from motiflab.crystalset import closest_atoms
from motiflab.errors import UserError
from motiflab.reading import write_crystals


def test_the_recipe_of_the_paper():
    "Steps of the first 20 chains: forward along x by less than 3 angstrom, to one side and back by turns; the last atom ends the cell"
    for seed in range(20):
        chain = single_chain(9, np.random.default_rng(seed))
        places = chain.cart_coords
        steps = np.diff(np.vstack([np.zeros(3), places]), axis=0)
        assert (steps[:, 0] > 0).all() and (abs(steps) < 3).all()
        assert (steps[::2, 1:] > 0).all() and (steps[1::2, 1:] < 0).all()
        assert chain.lattice.abc == (pytest.approx(places[-1, 0]), 100, 100)


@pytest.mark.parametrize("name", CHAIN_SETS)
def test_no_atom_lies_on_another(name):
    chains = make_chains(name, 60, seed=2)
    assert len(chains.flagged) == 0 and (chains.frame.a >= NEAREST).all()
    assert all(closest_atoms(s, NEAREST) is None for s in chains.structures)


def test_one_atom_is_a_chain():
    found = [single_chain(1, np.random.default_rng(seed)) for seed in range(50)]
    assert all(len(s) == 1 and s.lattice.a >= NEAREST for s in found)


def test_sets_are_what_they_say():
    sizes = {name: make_chains(name, 80).frame.n_atoms for name in ("short", "long", "double", "mixed")}
    assert set(sizes["short"]) <= set(range(2, 9)) and set(sizes["long"]) <= set(range(37, 51)) and set(sizes["double"]) <= set(range(74, 101, 2))
    assert (sizes["mixed"] > 60).sum() == 40
    assert make_chains("long", 1400).frame.split.value_counts().to_dict() == dict(train=1120, validation=140, test=140)
    own = make_chains(ChainSet(("single",), (3, 3)), 5, seed=9)
    assert set(own.frame.n_atoms) == {3}


def test_seeds():
    one, again, other = make_chains("mixed", 6, seed=1), make_chains("mixed", 6, seed=1), make_chains("mixed", 6, seed=2)
    assert one.frame.a.equals(again.frame.a) and not one.frame.a.equals(other.frame.a)


def test_strands_of_a_double_chain_share_the_period():
    chain = double_chain(40, np.random.default_rng(0))
    first, second = chain.cart_coords[:40], chain.cart_coords[40:]
    assert len(chain) == 80 and np.ptp(second[:, 0]) < chain.lattice.a
    assert second[:, 1].min() - first[:, 1].max() >= 1.5


@pytest.mark.parametrize("bond, angle", [(1.42, 120), (1.2, 95), (1.6, 150)])
def test_planar_chains(bond, angle):
    zigzag, armchair = zigzag_chain(bond, angle), armchair_chain(bond, angle)
    half = np.radians(angle) / 2
    assert zigzag.lattice.a == pytest.approx(2 * bond * np.sin(half)) and armchair.lattice.a == pytest.approx(2 * bond * (1 - np.cos(2 * half)))
    for chain in (zigzag, armchair):
        for i, site in enumerate(chain):
            near = sorted(chain.get_neighbors(site, bond + .01), key=lambda n: n.nn_distance)
            assert len(near) == 2 and near[0].nn_distance == pytest.approx(bond) == near[1].nn_distance
            u, v = (n.coords - site.coords for n in near)
            assert np.degrees(np.arccos(u @ v / bond**2)) == pytest.approx(angle)


def test_chains_go_to_a_file_and_back(tmp_path):
    chains = make_chains("short", 12)
    again = read_crystals(write_crystals(chains, tmp_path / "chains.jsonl.gz"), progress=False)
    assert np.allclose(again.frame.a, chains.frame.a) and again.frame.split.tolist() == chains.frame.split.tolist()
    assert np.allclose(again.frame.structure.iloc[3].cart_coords, chains.frame.structure.iloc[3].cart_coords)


@pytest.mark.parametrize("wrong, word", [(lambda: make_chains("lang"), "long"), (lambda: make_chains("long", 0), "one chain"), (lambda: single_chain(0, np.random.default_rng(0)), "one atom"),
                                         (lambda: double_chain(0, np.random.default_rng(0)), "one atom"), (lambda: zigzag_chain(1.4, 180), "180"), (lambda: armchair_chain(0, 120), "bond")])
def test_what_cannot_be_is_said(wrong, word):
    with pytest.raises(UserError, match=word): wrong()
