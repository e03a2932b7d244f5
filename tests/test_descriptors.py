"Descriptors: equal to matminer's and pymatgen's, unmoved by how a crystal is written, and never silent about what is missing"
from __future__ import annotations

import gzip
import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Species, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from sklearn.base import clone

import motiflab.descriptors.bank as bank_module
from motiflab.cli import run
from motiflab.crystals import CrystalSet, read_crystals
from motiflab.descriptors import CRYSTAL_SYSTEMS, DESCRIPTORS, DescriptorBank, describe, descriptor_names
from motiflab.descriptors.cell import niggli_parameters
from motiflab.descriptors.voronoi import site_cells
from motiflab.errors import UserError
from motiflab.motifs.rows import plain_crystal

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [.5, .5, .5]])
COPPER = Structure(Lattice([[0, 1.805, 1.805], [1.805, 0, 1.805], [1.805, 1.805, 0]]), ["Cu"], [[0, 0, 0]])
RUTILE = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [.305, .305, 0]])
QUARTZ = Structure.from_spacegroup("P3_121", Lattice.hexagonal(4.913, 5.405), ["Si", "O"], [[.4697, 0, 1 / 3], [.4135, .2669, .4524]])
XENON = Structure(Lattice.tetragonal(4.315, 6.99), ["Xe", "F", "F"], [[0, 0, 0], [0, 0, .2837], [0, 0, -.2837]])
OVERLAP = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, .01]])
SHARED = Structure(Lattice.cubic(3.6), [{"Cu": .5, "Au": .5}], [[0, 0, 0]])
ANGLES = ("alpha", "beta", "gamma")
KEPT = json.loads((Path(__file__).parent / "descriptors_matminer.json").read_text())


def numbers(crystals) -> pd.DataFrame: # index id, crystal system as a number
    return pd.DataFrame(DescriptorBank(n_jobs=1).transform(crystals), columns=list(DESCRIPTORS), index=crystals.frame.index)


def from_lines(path: Path, names: set) -> dict: # name -> structure
    with gzip.open(path, "rt") as lines: rows = [r for r in map(json.loads, lines) if r["id"] in names]
    return {r["id"]: Structure(r["lattice"], r["species"], r["frac"]) for r in rows}


@pytest.fixture(scope="module")
def dielectric(): return read_crystals("matbench_dielectric", progress=False)


@pytest.fixture(scope="module", params=["matbench_dielectric", "mp_crystals_2018"])
def both(request): # ours and matminer's for the same crystals
    theirs = pd.DataFrame.from_dict(KEPT[request.param], orient="index", columns=KEPT["names"]).astype(float)
    if request.param == "matbench_dielectric": structures = {str(i): s for i, s in request.getfixturevalue("dielectric")}
    else: structures = from_lines(request.getfixturevalue("shared_data") / f"{request.param}.jsonl.gz", set(theirs.index))
    crystals = CrystalSet(pd.DataFrame(dict(structure=[structures[i] for i in theirs.index]), index=theirs.index))
    return numbers(crystals), theirs


# ---------------------------------------------------------------- matminer and pymatgen
LOOSE = {*ANGLES, "a", "b", "c", "structural_complexity_per_cell"} # where the page on cells says why


@pytest.mark.parametrize("name", [n for n in DESCRIPTORS if n not in LOOSE])
def test_equal_to_matminer(both, name):
    ours, theirs = both[0][name], both[1][name]
    there = theirs.notna()
    assert there.sum() >= .95 * len(theirs) >= 38 and np.allclose(ours[there], theirs[there], rtol=1e-8, atol=1e-8)


def test_lengths_are_pymatgens(both):
    ours, theirs = (b[["a", "b", "c"]].to_numpy() for b in both)
    assert np.abs(ours - theirs).max() < .01 and (np.abs(ours - theirs).max(1) < 1e-4).mean() > .97


def test_angles_are_pymatgens_or_their_mirror_image(both):
    ours, theirs = (b[list(ANGLES)].to_numpy() for b in both)
    assert np.abs(ours - theirs).max() < 1 and (np.abs(ours - theirs).max(1) < 1e-3).mean() > .9


def test_complexity_is_matminers_of_the_primitive_cell(both):
    ours, theirs = both
    assert np.allclose(ours.structural_complexity_per_cell, theirs.structural_complexity_per_atom * theirs.n_atoms, rtol=1e-8)
    assert (np.abs(ours.structural_complexity_per_cell - theirs.structural_complexity_per_cell) < 1e-6).mean() > .9


def test_the_preset_only_adds_faces_of_no_size(both):
    more = both[1].mean_voronoi_cn_by_the_preset - both[0].mean_voronoi_cn
    assert (more > -1e-8).all() and (more < 1e-8).mean() > .7


def test_live_against_matminer():
    from matminer.featurizers.structure import DensityFeatures, StructuralComplexity, StructuralHeterogeneity

    for s in (RUTILE, COPPER):
        ours, heterogeneity = DescriptorBank(n_jobs=1).table([s]).iloc[0], StructuralHeterogeneity(stats=("maximum", "minimum", "range", "mean", "avg_dev", "std_dev")).featurize(s)
        names = [n for n in DESCRIPTORS if n.endswith(("relative_bond_length", "distance_variation", "relative_atomic_volume"))]
        assert np.allclose(ours[names].astype(float), heterogeneity, atol=1e-9)
        assert np.allclose(ours[["density", "volume_per_atom", "packing_fraction"]].astype(float), DensityFeatures().featurize(s))
        assert np.allclose(ours[["structural_complexity_per_atom", "structural_complexity_per_cell"]].astype(float), StructuralComplexity().featurize(s))
        assert ours.crystal_system == SpacegroupAnalyzer(s).get_crystal_system() and ours.space_group_number == SpacegroupAnalyzer(s).get_space_group_number()


# ---------------------------------------------------------------- textbook
def test_close_packing():
    row = describe([COPPER], n_jobs=1).iloc[0]
    assert np.isclose(row.mean_average_bond_length, 3.61 / 2 ** .5) and np.isclose(row.mean_average_bond_angle, np.pi / 3) and row.mean_voronoi_cn == 12
    assert row.n_atoms == 1 and row.structural_complexity_per_cell == 0 and np.allclose(row[["a", "b", "c"]].astype(float), 3.61 / 2 ** .5) and np.allclose(row[list(ANGLES)].astype(float), 60)
    assert row.filter(regex="^(mad|std|range)_").astype(float).abs().max() < 1e-12 and np.isclose(row.density, 8.97, atol=.01)


def test_quartz_is_hexagonal_however_its_angles_are_rounded():
    rounded = Structure(Lattice.from_parameters(4.9133, 4.9128, 5.405, 90.02, 89.99, 119.995), QUARTZ.species, QUARTZ.frac_coords)
    cells = describe([QUARTZ, rounded], ["a", "b", "c", *ANGLES, "crystal_system", "n_atoms"], n_jobs=1)
    assert np.allclose(cells[list(ANGLES)], [120, 90, 90]) and (cells.crystal_system == "trigonal").all() and (cells.n_atoms == 9).all()
    assert np.allclose(cells[["a", "b", "c"]], [5.405, 4.913, 4.913], atol=1e-3)


# ---------------------------------------------------------------- how a crystal is written
@pytest.mark.parametrize("structure", [SALT, RUTILE, QUARTZ], ids=["salt", "rutile", "quartz"])
def test_any_cell_any_origin_any_order(structure):
    other = structure.make_supercell([[2, 1, 0], [0, 1, 0], [1, 0, 1]], in_place=False)
    order = np.random.default_rng(0).permutation(len(other))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    other = Structure(other.lattice.matrix @ rotation, [other.species[k] for k in order], other.frac_coords[order] + [.13, -1.2, 3.4])
    first, second = DescriptorBank(n_jobs=1, face_tolerance=1e-6).transform([structure, other])
    assert np.allclose(first, second, rtol=1e-6, atol=1e-6)


def test_larger_crystals_are_longer():
    names = ["mean_average_bond_length", "a", "volume_per_atom", "mad_relative_bond_length", "mean_average_bond_angle", "mean_voronoi_cn"]
    one, two = (describe([Structure(Lattice(k * RUTILE.lattice.matrix), RUTILE.species, RUTILE.frac_coords)], names, n_jobs=1).iloc[0].to_numpy() for k in (1, 2))
    assert np.allclose(two / one, [2, 2, 8, 1, 1, 1])


def test_niggli_cells_of_random_bases():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lattice, turn = rng.normal(size=(3, 3)) * 5, np.eye(3)
        if abs(np.linalg.det(lattice)) < 20: continue
        for _ in range(4):
            i, j = rng.choice(3, 2, replace=False)
            turn[i] += rng.integers(-2, 3) * turn[j]
        cell, again = niggli_parameters(lattice), niggli_parameters(turn @ lattice)
        assert np.allclose(cell, again, atol=1e-5) and ((cell[3:] > 90 - 1e-6).all() or (cell[3:] < 90 + 1e-6).all())
        assert np.allclose(cell[:3], np.sort(Lattice(lattice).get_niggli_reduced_lattice().abc)[::-1], atol=1e-3)


def test_oxidation_states_tell_atoms_apart():
    chain = Structure(Lattice.tetragonal(4, 6), ["Fe", "Fe"], [[0, 0, 0], [0, 0, .5]])
    charged = Structure(chain.lattice, [Species("Fe", 2), Species("Fe", 3)], chain.frac_coords)
    assert describe([chain, charged], ["n_atoms"], n_jobs=1).n_atoms.tolist() == [1, 2]


def test_faces_of_no_size_are_no_neighbours():
    wide = Structure(Lattice.orthorhombic(4, 4, 4 + 1e-7), ["Po"], [[0, 0, 0]]).make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 1]], in_place=False)
    assert site_cells(plain_crystal(wide)).coordination.tolist() == [6]
    tilted = plain_crystal(Structure(Lattice.from_parameters(4, 4, 4, 90, 90, 90 - 1e-4), ["Po"], [[0, 0, 0]]))
    assert site_cells(tilted).coordination.tolist() == [8] and site_cells(tilted, 1e-3).coordination.tolist() == [6]


# ---------------------------------------------------------------- what is missing
def test_every_nan_has_a_reason_and_nothing_vanishes():
    bank = DescriptorBank(n_jobs=1)
    table = bank.table([SALT, XENON, OVERLAP, SHARED, COPPER])
    assert len(table) == 5 and table.loc[[0, 4]].notna().all(axis=None) and table.loc[[2, 3]].isna().all(axis=None)
    assert table.loc[1].isna().sum() == 1 and np.isnan(table.loc[1, "packing_fraction"])
    assert table.isna().sum().sum() == len(bank.reasons_) and list(bank.reasons_) == ["id", "descriptor", "reason"]
    said = bank.reasons_.groupby("id").reason.first()
    assert "radius of Xe" in said[1] and "closer than 0.5" in said[2] and "partly occupied" in said[3]


def test_where_spglib_fails(monkeypatch):
    import spglib

    monkeypatch.setattr(spglib, "get_symmetry_dataset", lambda *a, **k: None)
    bank = DescriptorBank(n_jobs=1)
    row = bank.table([SALT]).iloc[0]
    lost = {n for n, d in DESCRIPTORS.items() if d.scope == "global"} - {"density"}
    assert set(row.index[row.isna()]) == lost and bank.reasons_.reason.str.contains("spglib finds no symmetry").all()


def test_nothing_to_describe():
    assert DescriptorBank().transform([]).shape == (0, len(DESCRIPTORS)) and describe([]).shape == (0, len(DESCRIPTORS))
    assert describe(CrystalSet(pd.DataFrame(dict(structure=[])))).empty


def test_rows_without_a_structure_keep_their_row():
    bank = DescriptorBank(["density"], n_jobs=1)
    values = bank.fit_transform(pd.DataFrame(dict(structure=[SALT, None, np.nan]), index=["a", "b", "c"]))
    assert np.isnan(values[:, 0]).tolist() == [False, True, True] and bank.reasons_.id.tolist() == ["b", "c"]


@pytest.mark.parametrize("given", ["crystals.cif", 7, [SALT, "NaCl"], pd.DataFrame(dict(formula=["NaCl"]))], ids=["name", "number", "mixed", "no column"])
def test_what_holds_no_crystals(given):
    with pytest.raises(UserError, match="structure"): describe(given)


@pytest.mark.parametrize("wrong, right", [("vpa", "volume_per_atom"), ("MAD_in_rela_bond_len", "mad_relative_bond_length"), ("packing_fractoin", "packing_fraction"), ("crys_sys", "crystal_system")])
def test_the_near_miss(wrong, right):
    with pytest.raises(UserError, match=f"did you mean '{right}'"): DescriptorBank([wrong]).fit([SALT])


def test_names():
    assert descriptor_names("density") == ["density"] and descriptor_names(None) == list(DESCRIPTORS)
    with pytest.raises(UserError, match="mad_relative_bond_length"): descriptor_names(["zzz"])
    assert all(d.scope in ("local", "global") and d.definition and d.source for d in DESCRIPTORS.values())


# ---------------------------------------------------------------- the transformer
@pytest.fixture(scope="module")
def some(dielectric): return dielectric.filter(max_sites=8).head(100)


def test_transformer(some):
    bank = DescriptorBank(["c", "density"], n_jobs=1)
    again = clone(bank.set_output(transform="pandas"))
    table = again.fit_transform(some.frame)
    assert list(table) == ["c", "density"] == list(bank.get_feature_names_out()) and table.index.equals(some.frame.index) and clone(again).get_params() == again.get_params()
    assert np.array_equal(table.to_numpy(), describe(some, ["c", "density"]).to_numpy())


def test_shared_work_is_the_same_work(some, monkeypatch):
    from joblib import parallel_config

    monkeypatch.setattr(bank_module, "WORTH_PROCESSES", 10)
    with parallel_config(backend="threading"): several = DescriptorBank(n_jobs=2).transform(some) # processes take seconds to start
    work = pickle.loads(pickle.dumps(partial(bank_module._rows, names=["a"], face_tolerance=0.0, min_distance=.5))) # as it travels to one
    assert np.array_equal(DescriptorBank(n_jobs=1).transform(some), several) and work([plain_crystal(SALT)]) == [[pytest.approx(5.64 / 2 ** .5)]]


def test_a_name_at_a_time_is_all_of_them(some):
    few = some.head(3)
    whole = describe(few, n_jobs=1)
    for name in DESCRIPTORS: pd.testing.assert_series_equal(describe(few, [name], n_jobs=1)[name], whole[name])


def test_featurizers_of_matminer():
    from matminer.featurizers.composition import ElementProperty
    from matminer.featurizers.structure import BondFractions, DensityFeatures, GlobalSymmetryFeatures

    bank = DescriptorBank(["packing_fraction"], featurizers=[DensityFeatures(["density", "vpa"]), GlobalSymmetryFeatures(["crystal_system"])], n_jobs=1)
    values = clone(bank).fit_transform([SALT])
    assert list(bank.get_feature_names_out()) == ["packing_fraction", "density", "vpa", "crystal_system"] and np.allclose(values[0, 1:3], [SALT.density, SALT.volume / 8])
    assert np.isnan(values[0, 3]) and "not a number" in bank.fit([SALT]).table([SALT]).pipe(lambda _: bank.reasons_).reason[0]
    broken = DescriptorBank([], featurizers=[DensityFeatures(["packing fraction"])], n_jobs=1)
    assert np.isnan(broken.fit_transform([XENON])).all() and "DensityFeatures fails with" in broken.reasons_.reason[0]
    learning = DescriptorBank([], featurizers=[BondFractions()], n_jobs=1).fit([SALT])
    assert "Cl - Na bond frac." in learning.get_feature_names_out() and sorted(learning.transform([SALT])[0]) == [0, 0, 1] and learning.featurizers[0].fitted_bonds_ is None
    with pytest.raises(UserError, match="'density'"): DescriptorBank(featurizers=[DensityFeatures()]).fit([SALT])
    with pytest.raises(UserError, match="StructureComposition"): DescriptorBank(featurizers=[ElementProperty.from_preset("magpie")]).fit([SALT])
    with pytest.raises(UserError, match="no featurizer"): DescriptorBank(featurizers=[3]).fit([SALT])


@pytest.mark.parametrize("wrong", [dict(n_jobs=0), dict(face_tolerance=-1.0), dict(face_tolerance=1.0)])
def test_impossible_options(wrong):
    with pytest.raises(UserError): DescriptorBank(**wrong).fit([SALT])


# ---------------------------------------------------------------- the command line
@pytest.fixture()
def folder(tmp_path):
    for name, s in dict(salt=SALT, fluoride=XENON, overlap=OVERLAP).items(): s.to(filename=str(tmp_path / f"{name}.vasp"), fmt="poscar")
    (tmp_path / "text.cif").write_text("no crystal")
    return tmp_path


def test_command(folder, capsys):
    out = folder / "new" / "d.csv"
    assert run(["describe", str(folder), "-o", str(out), "--jobs", "1"]) == 0
    table, missing = pd.read_csv(out, index_col="id"), pd.read_csv(out.with_name("d.skipped.csv"))
    assert list(table) == list(DESCRIPTORS) and set(table.index) == {"salt", "fluoride", "overlap", "text"} and table.loc["salt"].notna().all()
    assert table.crystal_system["salt"] == "cubic" and set(table.crystal_system.dropna()) <= set(CRYSTAL_SYSTEMS) and np.isclose(table.density["salt"], SALT.density)
    assert sorted(zip(missing.id, missing.stage)) == [("fluoride", "describe"), ("overlap", "describe"), ("text", "read")]
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("2 crystals described by 33 descriptors; 1 crystal without some of them; 2 crystals skipped")


def test_command_with_names_and_a_dataset(tmp_path, capsys):
    out = tmp_path / "d.csv"
    assert run(["describe", "matbench_dielectric", "-o", str(out), "--limit", "3", "-D", "a", "--descriptor", "density"]) == 0
    assert list(pd.read_csv(out)) == ["id", "a", "density"] and len(pd.read_csv(tmp_path / "d.skipped.csv")) == 0
    assert "3 crystals described by 2 descriptors; 0 crystals skipped; written to" in capsys.readouterr().out


def test_command_when_nothing_can_be_described(tmp_path):
    OVERLAP.to(filename=str(tmp_path / "overlap.vasp"), fmt="poscar")
    assert run(["describe", str(tmp_path / "overlap.vasp"), "-o", str(tmp_path / "d.csv"), "-D", "a"]) == 0
    assert pd.read_csv(tmp_path / "d.csv").a.isna().tolist() == [True] and len(pd.read_csv(tmp_path / "d.skipped.csv")) == 1


@pytest.mark.parametrize("arguments, said", [(["nothing_here"], "nothing_here"), (["matbench_dielectric", "-D", "vpa"], "volume_per_atom"), ([], "INPUT")])
def test_command_mistakes(arguments, said, tmp_path, capsys):
    assert run(["describe", *arguments, "-o", str(tmp_path / "d.csv")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and lines[-1].startswith("motiflab:") and not (tmp_path / "d.csv").exists()
