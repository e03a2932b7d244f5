"""Extraction against the libraries' own answers, and its behaviour as a run over many crystals."""
import os
import signal

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.operations import SymmOp

from motiflab.crystals import CrystalSet, guess_oxidation_states, ion_signs, read_crystals
from motiflab.errors import UserError
from motiflab.motifs import MotifTable, concat_motifs, extract_motifs, load_motifs, save_motifs
from motiflab.motifs import pool
from motiflab.motifs.cache import RowCache, crystal_key
from motiflab.motifs.crystal import MotifSettings
from motiflab.motifs.library import order_parameter_names

QUIET = dict(progress=False, cache=False)


@pytest.fixture(scope="module")
def embedded(): return read_crystals("matbench_dielectric", progress=False)


def some(crystals, n, max_sites=14):
    small = crystals.frame[[len(s) <= max_sites for s in crystals.frame.structure]]
    return CrystalSet(small.sample(n, random_state=0))


@pytest.fixture(scope="module")
def table(embedded): return extract_motifs(some(embedded, 24), n_jobs=2, **QUIET)


def chemenv(structure, valences):
    "site -> (symbol, measure, ligands), by ChemEnv from one end to the other"
    from pymatgen.analysis.chemenv.coordination_environments.chemenv_strategies import SimplestChemenvStrategy
    from pymatgen.analysis.chemenv.coordination_environments.coordination_geometry_finder import LocalGeometryFinder

    finder = LocalGeometryFinder()
    finder.setup_structure(structure)
    found = finder.compute_structure_environments(valences=valences, maximum_distance_factor=1.41, additional_conditions=[1])
    strategy = SimplestChemenvStrategy(found, distance_cutoff=1.4, angle_cutoff=0.3, additional_condition=1)
    answers = {}
    for i in (i for i, v in enumerate(valences) if v > 0):
        found_here = strategy.get_site_coordination_environment(structure[i], isite=i, return_map=True)
        if found_here is None or found_here[0] is None:  # no geometry has so many ligands, or none at all
            answers[i] = None
            continue
        symbol, geometry = found_here[0]
        neighbors = strategy.get_site_neighbors(structure[i], isite=i, dequivsite=[0, 0, 0], dthissite=[0, 0, 0], mysym=SymmOp.from_rotation_and_translation())
        ligands = sorted(n.coords.round(3).tolist() for n in neighbors)
        answers[i] = symbol, geometry["other_symmetry_measures"]["csm_wcs_ctwcc"], ligands
    return answers


def test_equal_to_chemenv_from_one_end_to_the_other(embedded, table):
    compared = 0
    for crystal_id, rows in list(table.motifs.groupby("crystal_id"))[:8]:
        structure = embedded.frame.structure[crystal_id]
        theirs = chemenv(structure, ion_signs(structure, guess_oxidation_states(structure)))
        assert sorted(theirs) == sorted(rows.site)
        for row in rows.itertuples():
            if theirs[row.site] is None:
                assert row.symbol.startswith("UNKNOWN") and np.isnan(row.csm)
                continue
            symbol, csm, ligands = theirs[row.site]
            ours = sorted(((structure.frac_coords[l["site"]] + l["image"]) @ structure.lattice.matrix).round(3).tolist() for l in row.ligands)
            assert row.symbol == symbol and row.csm == pytest.approx(csm, abs=1e-3), (crystal_id, row.site)
            assert np.allclose(ours, ligands, atol=2e-3)
            compared += 1
    assert compared > 20


def test_order_parameters_are_matminers(embedded, table):
    from matminer.featurizers.site import CrystalNNFingerprint

    fingerprint = CrystalNNFingerprint.from_preset("ops")
    assert list(order_parameter_names()) == fingerprint.feature_labels()
    for row in table.motifs.iloc[::12].itertuples():
        theirs = fingerprint.featurize(embedded.frame.structure[row.crystal_id], row.site)
        assert np.allclose(row.order_parameters, theirs, atol=1e-3), (row.crystal_id, row.site)


def test_every_cation_has_a_row_and_every_crystal_an_end(embedded, table):
    seen = set(table.motifs.crystal_id) | set(table.skipped.id)
    assert seen == set(some(embedded, 24).frame.index)
    assert table.motifs.order_parameters.map(len).eq(61).all()
    assert (table.motifs.cn == table.motifs.ligands.map(len)).all()


def test_connections_say_what_the_ligands_say(table):
    "Shared ligands, counted again from the motifs' own lists"
    ligands = {(m.crystal_id, m.site): {(l["site"], *l["image"]) for l in m.ligands} for m in table.motifs.itertuples()}
    for c in table.connections.itertuples():
        other = {(atom, *np.add(image, c.image)) for atom, *image in ligands[c.crystal_id, c.site_j]}
        shared = ligands[c.crystal_id, c.site_i] & other
        assert len(shared) == c.n_shared == len(c.angles) and c.kind == ("corner", "edge", "face")[min(c.n_shared, 3) - 1]


def test_jobs_do_not_change_the_table(embedded, table):
    alone = extract_motifs(some(embedded, 24), n_jobs=1, **QUIET)
    pd.testing.assert_frame_equal(alone.motifs.drop(columns=["order_parameters", "ligands"]), table.motifs.drop(columns=["order_parameters", "ligands"]))
    assert np.array_equal(np.stack(alone.motifs.order_parameters), np.stack(table.motifs.order_parameters))


def test_parquet_round_trip(table, tmp_path):
    again = load_motifs(save_motifs(table, tmp_path))
    pd.testing.assert_frame_equal(again.connections.drop(columns=["image", "angles"]), table.connections.drop(columns=["image", "angles"]))
    assert again.motifs.crystal_id.dtype == table.motifs.crystal_id.dtype
    assert all(np.array_equal(a, b) for a, b in zip(again.motifs.order_parameters, table.motifs.order_parameters))
    assert len(concat_motifs([again, table])) == 2 * len(table)


def test_a_missing_table_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="motiflab extract"): load_motifs(tmp_path)
    with pytest.raises(UserError, match="crystal_id"): MotifTable(pd.DataFrame({"a": [1]}))


def test_a_damaged_table_names_the_command(table, tmp_path):
    path = save_motifs(table, tmp_path) / "motifs.parquet"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="not a whole motif table"): load_motifs(tmp_path)
    pd.DataFrame({"another": [1]}).to_parquet(path)
    with pytest.raises(UserError, match="not a whole motif table"): load_motifs(tmp_path)


def test_ids_keep_their_type_and_their_zeros(tmp_path):
    copper = Structure(Lattice.cubic(2.5), ["Cu"], [[0, 0, 0]])
    for ids, kind in (["1000041", "0012"], str), ([41, 12], int):
        named = pd.Series([ROCKSALT, copper], index=ids)
        again = load_motifs(save_motifs(extract_motifs(named, n_jobs=1, **QUIET), tmp_path / kind.__name__))
        assert set(again.motifs.crystal_id) == {ids[0]} == set(again.connections.crystal_id) and again.skipped.id.tolist() == [ids[1]]
        assert kind is str or pd.api.types.is_integer_dtype(again.motifs.crystal_id)


ROCKSALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [.5, .5, .5]])


def reason(structure, **options):
    table = extract_motifs([structure], n_jobs=1, **QUIET | options)
    assert len(table) == 0 and table.skipped.stage.tolist() == ["extract"]
    return table.skipped.reason[0]


def test_reasons():
    lattice = Lattice.cubic(4.0)
    assert reason(Structure(lattice, ["Cu"], [[0, 0, 0]])).startswith("No cation")
    assert reason(Structure(lattice, ["Ti", "Al"], [[0, 0, 0], [.5, .5, .5]])).startswith("No anion")
    assert "occupied" in reason(Structure(lattice, [{"Mg": .5, "Fe": .5}, "O"], [[0, 0, 0], [.5, .5, .5]]))
    near = Structure(lattice, ["Mg", "O", "O"], [[0, 0, 0], [.5, .5, .5], [.5, .5, .55]])
    assert "0.2 angstrom" in reason(near)
    assert len(extract_motifs(near, min_distance=0, n_jobs=1, **QUIET)) == 1
    assert "no Ti" in reason(ROCKSALT, centers=["Ti"])


def test_centres_can_be_any_site():
    assert extract_motifs(ROCKSALT, centers="all", n_jobs=1, **QUIET).kinds.value_counts().to_dict() == {"Mg|O:6": 4, "O|O:6": 4}
    copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]])
    table = extract_motifs(copper, centers="all", n_jobs=1, **QUIET)
    assert table.kinds.tolist() == ["Cu|C:12"] * 4 and len(table.connections) > 0
    assert extract_motifs(copper, centers=["Cu"], n_jobs=1, **QUIET).motifs.cn.tolist() == [12] * 4


def test_a_cation_without_ligands_and_a_coordination_without_a_geometry_keep_their_rows():
    salt = Structure.from_spacegroup("Pm-3m", Lattice.cubic(4.15), ["Ca", "B"], [[0, 0, 0], [.207, .5, .5]])
    assert extract_motifs(salt, n_jobs=1, **QUIET).motifs[["symbol", "name", "cn"]].values.tolist() == [["UNKNOWN:24", "unknown", 24]]
    far = Structure(Lattice.cubic(12.0), ["Na", "Mg", "O"], [[.5, .5, .5], [0, 0, 0], [.17, 0, 0]])
    lonely = extract_motifs(far, n_jobs=1, **QUIET).motifs.set_index("element")
    assert lonely.loc["Mg", "cn"] == 1


def test_one_atom_in_a_vast_cell_does_not_hang():
    sparse = Structure(Lattice.orthorhombic(60, 40, 40), ["Na", "Cl"], [[0, 0, 0], [.04, 0, 0]])
    assert extract_motifs(sparse, n_jobs=1, **QUIET).motifs.symbol.tolist() == ["S:1"]


@pytest.mark.parametrize("options, text", [(dict(centers="cation"), "cations"), (dict(ligands="chemenw"), "chemenv"), (dict(centers=["Xx"]), "Xx"),
                                           (dict(n_jobs=0), "n_jobs"), (dict(time_limit=-1), "time_limit"), (dict(min_distance=-1), "min_distance")])
def test_mistakes_are_one_sentence(options, text):
    with pytest.raises(UserError, match=text): extract_motifs(ROCKSALT, **QUIET | options)
    with pytest.raises(UserError, match="read_crystals"): extract_motifs("matbench_dielectric")


def test_a_crystal_over_its_time_is_a_row(embedded):
    big = ROCKSALT.copy() * (5, 5, 5)
    big.perturb(0.05)
    for n_jobs in (1, 2):
        table = extract_motifs([ROCKSALT, big], n_jobs=n_jobs, time_limit=2, **QUIET)
        assert len(table) == 4 and table.skipped.id.tolist() == [1] and "time_limit" in table.skipped.reason[0]


def dies_of_copper(structure, settings):
    if len(structure) == 1: os.kill(os.getpid(), signal.SIGKILL)
    return [dict(site=0)], []


def test_a_worker_that_dies_costs_its_own_crystal_only(monkeypatch):
    monkeypatch.setattr(pool, "crystal_outcome", dies_of_copper)
    one = Structure(Lattice.cubic(4), ["Cu"], [[0, 0, 0]])
    outcomes = dict(pool.run_jobs([(k, one if k == 3 else ROCKSALT) for k in range(8)], MotifSettings(), n_jobs=2))
    assert "worker process died" in outcomes.pop(3) and len(outcomes) == 7
    assert all(o == ([dict(site=0)], []) for o in outcomes.values())


def test_no_process_is_started_for_one_job(monkeypatch):
    monkeypatch.setattr(pool, "_parallel", lambda *_: pytest.fail("a pool was started"))
    assert len(extract_motifs(ROCKSALT, n_jobs=1, **QUIET)) == 4


def test_the_cache_is_asked_first(tmp_path, monkeypatch):
    first = extract_motifs(ROCKSALT, n_jobs=1, progress=False, cache=tmp_path / "rows.sqlite")
    monkeypatch.setattr(pool, "crystal_motifs", lambda *_: pytest.fail("computed again"))
    again = extract_motifs(ROCKSALT, n_jobs=1, progress=False, cache=tmp_path / "rows.sqlite")
    assert again.motifs.csm.tolist() == first.motifs.csm.tolist()
    assert crystal_key(ROCKSALT, MotifSettings()) != crystal_key(ROCKSALT, MotifSettings(min_distance=0.0))


def test_what_was_done_survives_an_interruption(tmp_path, monkeypatch):
    crystals = [ROCKSALT.copy().apply_strain(0.01 * k) for k in range(1, 5)]
    calls, real = [], pool.crystal_motifs

    def interrupted(structure, settings):
        calls.append(structure)
        if len(calls) == 3: raise KeyboardInterrupt
        return real(structure, settings)

    monkeypatch.setattr(pool, "crystal_motifs", interrupted)
    with pytest.raises(KeyboardInterrupt): extract_motifs(crystals, n_jobs=1, progress=False, cache=tmp_path / "rows.sqlite")
    cache = RowCache(tmp_path / "rows.sqlite")
    assert [cache.get(crystal_key(c, MotifSettings())) is not None for c in crystals] == [True, True, False, False]
    assert len(extract_motifs(crystals, n_jobs=1, progress=False, cache=tmp_path / "rows.sqlite")) == 16


def test_a_full_disk_costs_the_cache_not_the_run(tmp_path, monkeypatch):
    import sqlite3

    def full(self, *_): raise sqlite3.OperationalError("database or disk is full")
    cache = RowCache(tmp_path / "rows.sqlite")
    cache._db.close()
    cache._db = type("Full", (), dict(execute=full, commit=full))()
    with pytest.warns(UserWarning, match="disk is full"): cache.put("key", ([], []))
    assert cache.get("key") is None
