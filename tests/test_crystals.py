"The crystal set, reading and writing of whole sets, oxidation states"
import gzip
import json
import threading
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Species, Structure

import motiflab.oxidation as oxidation
import motiflab.reading as reading
from motiflab.crystals import CrystalSet, guess_oxidation_states, ion_signs, read_crystals, write_crystals
from motiflab.crystalset import closest_atoms, unique_ids
from motiflab.errors import UserError

SALT = Structure(Lattice.cubic(3.99), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
RUTILE = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])
COUNTS = dict(mp_crystals_2018=36733, mp_oxides_2024=26524, phonons_petretto=1521, kappa_ohnishi=3272, elasticity_mp=3191, dielectric_mp=1056,
              piezo_mp=941, perovskites_castelli=7572, tco_nomad2018=2992, minerals_aflow=180, structures_pymatgen_tests=91) # the README's


# ---------------------------------------------------------------- the set
def test_by_hand():
    crystals = CrystalSet(pd.DataFrame(dict(structure=[SALT, RUTILE], n=[1.5, 2.6])))
    assert list(crystals) == [(0, SALT), (1, RUTILE)] and len(crystals) == 2 and crystals[1] is RUTILE and crystals.properties == ["n"]
    assert crystals.frame.index.name == "id" and list(crystals.skipped.columns) == ["id", "stage", "reason"] and not len(crystals.skipped)
    assert list(crystals.flagged.columns) == ["id", "reason"] and not len(crystals.flagged)
    assert crystals.subset([True, False]).frame.n.tolist() == [1.5] and list(crystals.subset([1, 0]).frame.index) == [1, 0]
    assert list(crystals.filter(only=["Ti", "O"]).frame.index) == list(crystals.filter(excluding="Cl").frame.index) == [1]
    assert len(crystals.filter(min_elements=3)) == 0 and len(crystals.filter(max_elements=2)) == 2 and len(crystals.filter(max_sites=2)) == 1
    assert len(CrystalSet(pd.DataFrame(dict(structure=[])))) == 0 and "0 crystals" in repr(crystals.subset([]))
    assert crystals.sample(1, seed=3).frame.equals(crystals.sample(1, seed=3).frame) and len(crystals.sample(9)) == 2


def test_mistakes_by_hand():
    with pytest.raises(UserError, match="column `structure`"): CrystalSet(pd.DataFrame(dict(n=[1])))
    with pytest.raises(UserError, match="not str"): CrystalSet(pd.DataFrame(dict(structure=["NaCl"])))
    with pytest.raises(UserError, match="angstrom"): CrystalSet(pd.DataFrame(dict(structure=[SALT])), min_distance=-1)
    with pytest.raises(UserError, match="one value a crystal"): CrystalSet(pd.DataFrame(dict(structure=[SALT]))).subset([True, False])
    with pytest.raises(UserError, match="no crystal 'x'"): CrystalSet(pd.DataFrame(dict(structure=[SALT])))["x"]


def test_nothing_vanishes():
    frame = pd.DataFrame(dict(structure=[SALT, None, SALT, np.nan]), index=["a", "b", "a", "c"])
    crystals = CrystalSet(frame, [dict(id="d", stage="read", reason="Because.")])
    assert list(crystals.frame.index) == ["a", "a~2"] and set(crystals.skipped.id) == {"b", "c", "d"} and list(frame.index) == ["a", "b", "a", "c"]
    assert len(crystals.subset(["a"]).skipped) == 3


@given(st.lists(st.integers(-3, 3) | st.sampled_from(["a", "a~2", "1", "~2"]), max_size=12))
def test_unique_ids(ids):
    out = unique_ids(ids)
    assert len(set(out)) == len(out) == len(ids) and (all(isinstance(i, int) for i in out) or all(isinstance(i, str) for i in out))
    if len(set(map(str, ids))) == len(ids): assert list(map(str, out)) == list(map(str, ids))


def test_names_can_be_written(tmp_path):
    assert unique_ids(["M\udcfcller", "M\\udcfcller", "Müller"]) == ["M\\udcfcller", "M\\udcfcller~2", "Müller"]
    assert unique_ids([1, 2**63]) == ["1", str(2**63)] and unique_ids([1, 2**63 - 1]) == [1, 2**63 - 1]
    lines = [dict(id=i, lattice=np.eye(3).tolist(), species=s, frac=[[0, 0, 0]]) for i, s in (("\ud800bad", ["Po"]), (2**70, ["Po"]), ("\ud800worse", ["?"]))]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    crystals = read_crystals(tmp_path / "x.jsonl", progress=False)
    assert list(crystals.frame.index) == ["\\ud800bad", str(2**70)] and crystals.skipped.id.tolist() == ["\\ud800worse"]
    crystals.skipped.to_csv(tmp_path / "skipped.csv")
    assert list(read_crystals(write_crystals(crystals, tmp_path / "y.jsonl"), progress=False).frame.index) == list(crystals.frame.index)


def test_names_are_text(tmp_path):
    name = "<script>alert(1)</script>"
    (tmp_path / "x.jsonl").write_text(json.dumps(dict(id=name, lattice=np.eye(3).tolist(), species=["Po"], frac=[[0, 0, 0]], note="<b>")))
    crystals = read_crystals(tmp_path / "x.jsonl", progress=False)
    assert list(crystals.frame.index) == [name]
    shown = crystals._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "<b>" not in shown
    assert list(read_crystals(write_crystals(crystals, tmp_path / "y.jsonl"), progress=False).frame.index) == [name]


# ---------------------------------------------------------------- atoms too close
def brute_force(structure, cutoff):
    "Shortest distance by looking at many images"
    shifts = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), -1).reshape(-1, 3)
    d = structure.frac_coords[None, :, None] - structure.frac_coords[:, None, None] + shifts
    lengths = np.linalg.norm(d @ structure.lattice.matrix, axis=-1)
    same = np.eye(len(structure), dtype=bool)[:, :, None] & (shifts == 0).all(-1)
    shortest = np.where(same, np.inf, lengths).min()
    return shortest if shortest < cutoff else None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10**6), st.floats(0.3, 6))
def test_closest_atoms_against_brute_force(n, seed, cutoff):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(3, 3)) * 2 + np.diag([3, 3, 3])
    if abs(np.linalg.det(matrix)) < 8 or (1 / np.linalg.norm(np.linalg.inv(matrix), axis=0)).min() < 1.2: return # else six images are too few
    structure = Structure(Lattice(matrix), ["H"] * n, rng.uniform(-2, 2, (n, 3)))
    found, expected = closest_atoms(structure, cutoff), brute_force(structure, cutoff)
    assert (found is None) == (expected is None) and (found is None or np.isclose(found[0], expected))


def test_closest_atoms_in_odd_cells():
    assert closest_atoms(Structure(Lattice.orthorhombic(1e5, 1e5, 1e5), ["H", "H"], [[0, 0, 0], [1e-6, 0, 0]]), 0.5)[0] == pytest.approx(0.1)
    assert closest_atoms(Structure(Lattice([[4, 0, 0], [400, 4, 0], [0, 0, 4]]), ["H"], [[0, 0, 0]]), 0.5) is None # skewed, not thin
    assert closest_atoms(Structure(Lattice.orthorhombic(0.01, 4, 4), ["H"], [[0, 0, 0]]), 0.5)[0] == pytest.approx(0.01)
    assert closest_atoms(Structure(Lattice.cubic(4), ["H", "He"], [[0, 0, 0], [0, 0, 1]]), 0.5)[0] == 0
    assert closest_atoms(SALT, 0) is None


def test_min_distance(tmp_path):
    line = json.dumps(dict(id="pair", lattice=(np.eye(3) * 4).tolist(), species=["H", "H"], frac=[[0, 0, 0], [0.1, 0, 0]]))
    (tmp_path / "x.jsonl").write_text(line)
    flagged = {d: len(read_crystals(tmp_path / "x.jsonl", min_distance=d, progress=False).flagged) for d in (0, 0.3, 0.5, 1)}
    assert flagged == {0: 0, 0.3: 0, 0.5: 1, 1: 1}


# ---------------------------------------------------------------- there and back
def test_round_trip(tmp_path):
    charged = Structure(Lattice.hexagonal(3.1, 1 / 3), [Species("Fe", 8 / 3, spin=5), Species("O", -2)], [[1 / 3, 2 / 3, 1.1], [0, -0.2, np.pi]],
                        site_properties=dict(magmom=[5.0, None], force=[np.zeros(3), np.ones(3)]), charge=1)
    values = dict(n=[np.float32(1.5), np.nan], k=np.array([1, 2], dtype=np.int16), ok=np.array([True, False]), tensor=[np.eye(3), None], name=["α", "<b>"])
    crystals = CrystalSet(pd.DataFrame(dict(structure=[charged, SALT], **values), index=[7, 9]))
    for name in ("x.jsonl", "x.jsonl.gz"):
        again = read_crystals(write_crystals(crystals, tmp_path / name), progress=False)
        assert list(again.frame.index) == [7, 9] and again[9] == SALT and again.properties == crystals.properties
        assert again[7].species == charged.species and np.array_equal(again[7].frac_coords, charged.frac_coords) and again[7].charge == 1
        assert again[7].species[0].spin == 5 and np.array_equal(again[7].lattice.matrix, charged.lattice.matrix)
        assert again[7].site_properties["magmom"] == [5.0, None]
        assert again.frame.n.tolist()[0] == 1.5 and np.isnan(again.frame.n[9]) and again.frame.k.tolist() == [1, 2] and again.frame.name.tolist() == ["α", "<b>"]
        assert again.frame.tensor[7] == np.eye(3).tolist() and again.frame.ok.tolist() == [True, False]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.jsonl", "x.jsonl.gz"]


def test_round_trip_without_properties(tmp_path):
    again = read_crystals(write_crystals(CrystalSet(pd.DataFrame(dict(structure=[SALT, RUTILE]))), tmp_path / "x.jsonl.gz"), progress=False)
    assert list(again.structures) == [SALT, RUTILE] and again.properties == []


def test_properties_may_have_any_name(tmp_path):
    frame = pd.DataFrame(dict(structure=[SALT], id=[5], lattice=["cubic"], species=["salt"], props=[{"a": 1}], cif=["no"]), index=["x"])
    again = read_crystals(write_crystals(CrystalSet(frame), tmp_path / "x.jsonl"), progress=False)
    assert again["x"] == SALT and again.frame.loc["x", ["id", "lattice", "species", "cif"]].tolist() == [5, "cubic", "salt", "no"]


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_crystals(CrystalSet(pd.DataFrame(dict(structure=[SALT]), index=["old"])), tmp_path / "x.jsonl.gz")
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr(reading, "to_record", full)
    with pytest.raises(OSError, match="No space"): write_crystals(CrystalSet(pd.DataFrame(dict(structure=[SALT]))), path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl.gz"] and "old" in read_crystals(path, progress=False)
    with pytest.raises(UserError, match="jsonl.gz"): write_crystals(CrystalSet(pd.DataFrame(dict(structure=[SALT]))), tmp_path / "x.csv")


# ---------------------------------------------------------------- real crystals
@pytest.mark.parametrize("name", ["minerals_aflow", "structures_pymatgen_tests", "dielectric_mp", "piezo_mp", "phonons_petretto"])
def test_shared_sets_are_whole(shared_data, name, tmp_path):
    crystals = read_crystals(name, progress=False)
    assert len(crystals) == COUNTS[name] and not len(crystals.skipped) and crystals.frame.index.is_unique
    again = read_crystals(write_crystals(crystals.head(40), tmp_path / "x.jsonl.gz"), progress=False)
    assert all(a == b for a, b in zip(again.structures, crystals.structures.head(40)))
    assert all(np.array_equal(a.frac_coords, b.frac_coords) for a, b in zip(again.structures, crystals.structures))


@pytest.mark.parametrize("name", ["mp_crystals_2018", "mp_oxides_2024"])
def test_large_sets(shared_data, name):
    with gzip.open(shared_data / f"{name}.jsonl.gz") as file: assert sum(1 for _ in file) == COUNTS[name]
    crystals = read_crystals(name, limit=2000, progress=False)
    assert len(crystals) == 2000 and not len(crystals.skipped)


def test_hostile_structures(shared_data):
    "What pymatgen tests its parsers with is read; overlapping atoms are flagged; charges and signs come without errors"
    crystals = read_crystals("structures_pymatgen_tests", progress=False)
    assert crystals.flagged.id.tolist() == ["io/vasp/inputs/POSCAR_overlap"]
    for _, structure in crystals.filter(max_sites=150):
        charges = guess_oxidation_states(structure, time_limit=0.5)
        assert charges is None or len(charges) == len(structure)
        assert set(ion_signs(structure, charges)) <= {-1, 0, 1} and len(ion_signs(structure)) == len(structure)


# ---------------------------------------------------------------- oxidation states
def test_composition_guess_is_pymatgens():
    crystals = read_crystals("matbench_dielectric", progress=False).sample(400, seed=1)
    compared = 0
    for _, structure in crystals:
        composition = structure.composition.reduced_composition
        if composition.num_atoms > 18 or len(composition) > 4: continue
        best, mine = composition.oxi_state_guesses(), guess_oxidation_states(structure, "composition")
        compared += 1
        assert (mine is None) == (not best)
        if best: assert {s.specie.symbol: round(q, 9) for s, q in zip(structure, mine)} == {k: round(q, 9) for k, q in best[0].items()}
    assert compared > 250


@pytest.mark.parametrize("formula, expected", [("Fe3O4", {"Fe": 8 / 3, "O": -2}), ("SrTiO3", {"Sr": 2, "Ti": 4, "O": -2}), ("Si", {"Si": 0}), ("LiFePO4", {"Li": 1, "Fe": 2, "P": 5, "O": -2})])
def test_known_states(formula, expected):
    composition = Composition(formula)
    species = [e.symbol for e, n in composition.items() for _ in range(int(n))]
    structure = Structure(Lattice.cubic(10), species, np.random.default_rng(0).random((len(species), 3)))
    assert guess_oxidation_states(structure) == pytest.approx([expected[s] for s in species])


def test_states_are_invariant():
    order = np.random.default_rng(0).permutation(6)
    shuffled = Structure.from_sites([RUTILE[i] for i in order])
    for structure in (RUTILE, shuffled, RUTILE * (2, 1, 3)):
        by_element = {s.specie.symbol: q for s, q in zip(structure, guess_oxidation_states(structure))}
        assert by_element == {"Ti": 4, "O": -2}
        assert {s.specie.symbol: q for s, q in zip(structure, guess_oxidation_states(structure, "bond_valence"))} == by_element


def test_given_states_come_first():
    given_states = Structure(RUTILE.lattice, [Species(s.specie.symbol, {"Ti": 3, "O": -1.5}[s.specie.symbol]) for s in RUTILE], RUTILE.frac_coords)
    assert guess_oxidation_states(given_states) == [3, 3] + [-1.5] * 4
    assert guess_oxidation_states(given_states, "composition") == [4, 4] + [-2] * 4
    zeros = Structure(RUTILE.lattice, [Species(s.specie.symbol, 0) for s in RUTILE], RUTILE.frac_coords) # some databases write Ti0+
    assert guess_oxidation_states(zeros) == [4, 4] + [-2] * 4
    with pytest.raises(UserError, match="bond_valence"): guess_oxidation_states(RUTILE, "bond_valance")


def test_large_formulas():
    species = ["Fe"] * 97 + ["Mn"] * 89 + ["Co"] * 101 + ["O"] * 421
    structure = Structure(Lattice.cubic(30), species, np.random.default_rng(0).random((len(species), 3)))
    charges = guess_oxidation_states(structure, "composition")
    assert abs(sum(charges)) < 1e-6 and set(charges[-421:]) == {-2.0}


def slow(*args):
    while True: time.sleep(0.01)


def test_time_limit_in_any_thread(monkeypatch):
    alloy = Structure(Lattice.cubic(2.9), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    monkeypatch.setattr(oxidation, "_bond_valence", slow)
    box = []
    assert guess_oxidation_states(alloy, time_limit=0.2) is None and guess_oxidation_states(alloy, time_limit=0) is None
    thread = threading.Thread(target=lambda: box.append(guess_oxidation_states(alloy, time_limit=0.2)), daemon=True)
    thread.start()
    thread.join(5)
    assert box == [None] # `slow` never ends by itself


def test_time_limit_within_a_time_limit():
    "An outer alarm still rings, after the inner one"
    import signal
    class Outer(Exception): pass
    def ring(signum, frame): raise Outer
    before = signal.signal(signal.SIGALRM, ring)
    try:
        for outer, inner in ((0.6, 0.2), (0.2, 5)):
            signal.setitimer(signal.ITIMER_REAL, outer)
            with pytest.raises(Outer):
                assert oxidation._limited(slow, (), inner) is None
                slow()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_signs():
    def signs(formula, charges=None):
        species = [e.symbol for e, n in Composition(formula).items() for _ in range(int(n))]
        structure = Structure(Lattice.cubic(10), species, np.random.default_rng(0).random((len(species), 3)))
        return dict(zip(species, ion_signs(structure, charges)))
    assert signs("NiAl3") == {"Ni": 1, "Al": 1} and signs("Fe") == {"Fe": 0} and signs("S8") == {"S": 0}
    assert signs("NaCl") == {"Na": 1, "Cl": -1} and signs("Ca3SnO") == {"Ca": 1, "Sn": 1, "O": -1} and signs("CsAu") == {"Cs": 1, "Au": 1}
    assert signs("CO2") == {"C": 1, "O": -1} and signs("ArHe") == {"Ar": 0, "He": 0}
    assert signs("CsAu", [1, -1]) == {"Cs": 1, "Au": -1} and signs("NaCl", [None, np.nan]) == {"Na": 0, "Cl": 0}
    with pytest.raises(ValueError): ion_signs(SALT, [1.0])
