"""A run over crystals in memory: who computes, in what order, and what one bad crystal costs."""
from __future__ import annotations

import os
import signal
import time

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from motiflab.crystals import CrystalSet
from motiflab.errors import UserError
from motiflab.motifs import MotifTable, extract_motifs, limits, load_motifs, pool, save_motifs
from motiflab.motifs.extract import CHUNK

QUIET = dict(progress=False)
ROCKSALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [.5, .5, .5]])
COPPER = Structure(Lattice.cubic(2.55), ["Cu"], [[0, 0, 0]])
PEROVSKITE = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [.5, .5, .5], [.5, .5, 0]])


def strained(n: int) -> list[Structure]:
    "Different crystals, quick ones"
    return [(ROCKSALT if k % 2 else PEROVSKITE).copy().apply_strain(-0.001 * k) for k in range(n)]


def same(one, other) -> None:
    "The same table, to the last bit"
    pd.testing.assert_frame_equal(one.motifs.drop(columns="order_parameters"), other.motifs.drop(columns="order_parameters"))
    assert np.array_equal(np.stack(one.motifs.order_parameters), np.stack(other.motifs.order_parameters), equal_nan=True)
    pd.testing.assert_frame_equal(one.connections, other.connections)
    pd.testing.assert_frame_equal(one.skipped, other.skipped)


# ---------------------------------------------------------------- in order, whoever computes

def test_jobs_do_not_change_the_table():
    crystals = [*strained(40), COPPER, *strained(3)]
    alone = extract_motifs(crystals, n_jobs=1, **QUIET)
    same(extract_motifs(crystals, n_jobs=3, **QUIET), alone)
    assert alone.skipped.id.tolist() == [40] and alone.motifs.crystal_id.is_monotonic_increasing


def test_what_may_be_given():
    s, expected = strained(3), extract_motifs(strained(3), n_jobs=1, **QUIET)
    for given in (iter(s), {k: c for k, c in enumerate(s)}, ((k, c) for k, c in enumerate(s)), pd.Series(s), pd.DataFrame({"structure": s}), CrystalSet(pd.DataFrame({"structure": s}))):
        same(extract_motifs(given, n_jobs=1, **QUIET), expected)
    assert len(extract_motifs(s[0], n_jobs=1, **QUIET)) == 2
    assert len(extract_motifs([], **QUIET)) == 0 == len(extract_motifs(iter([]), n_jobs=2, **QUIET).skipped)


def test_a_name_that_comes_twice_stays_two_crystals():
    table = extract_motifs([("a", ROCKSALT), ("a", PEROVSKITE), ("b", ROCKSALT)], n_jobs=1, **QUIET)
    assert table.motifs.crystal_id.unique().tolist() == ["a", "a~2", "b"]


def test_an_empty_crystal_is_a_row():
    table = extract_motifs([Structure(Lattice.cubic(4), [], []), ROCKSALT], n_jobs=1, **QUIET)
    assert table.skipped.values.tolist() == [[0, "extract", "There is no atom in it."]] and len(table) == 4


def test_ids_keep_their_type_and_their_zeros(tmp_path):
    for ids, kind in (["1000041", "0012"], str), ([41, 12], int):
        named = pd.Series([ROCKSALT, COPPER], index=ids)
        again = load_motifs(save_motifs(extract_motifs(named, n_jobs=1, **QUIET), tmp_path / kind.__name__))
        assert set(again.motifs.crystal_id) == {ids[0]} == set(again.connections.crystal_id) and again.skipped.id.tolist() == [ids[1]]
        assert kind is str or pd.api.types.is_integer_dtype(again.motifs.crystal_id)


def test_lists_are_lists_and_order_parameters_arrays(tmp_path):
    table = extract_motifs(ROCKSALT, n_jobs=1, **QUIET)
    for t in (table, load_motifs(save_motifs(table, tmp_path))):
        ligand = t.motifs.ligands[0][0]
        assert set(ligand) == {"site", "image"} and len(ligand["image"]) == 3 and (t.motifs.cn == t.motifs.ligands.map(len)).all()
        assert t.motifs.order_parameters[0].dtype == float and t.motifs.order_parameters.map(len).eq(61).all()
        assert t.connections.angles.map(len).tolist() == t.connections.n_shared.tolist() and set(map(len, t.connections.image)) == {3}


@pytest.mark.parametrize("n", [0, 2])
def test_plain_pandas_reads_what_is_saved(n, tmp_path):
    table = extract_motifs(strained(n), n_jobs=1, **QUIET)
    save_motifs(table, tmp_path)
    for name, frame in (("motifs", table.motifs), ("connections", table.connections)):
        plain = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert list(plain.columns) == list(frame.columns) and len(plain) == len(frame)


def test_a_table_without_rows_has_types():
    for table in (MotifTable(), extract_motifs([], **QUIET)):
        assert table.motifs.csm.round(2).empty and table.motifs.cn.dtype == int and (table.connections.distance > 3).sum() == 0
        assert table.connections.angles.list.len().empty and table.motifs.merge(extract_motifs(ROCKSALT, n_jobs=1, **QUIET).motifs, on="crystal_id").empty


def test_any_name_is_a_name(tmp_path):
    names = [2**70, -2**63, "\ud800bad", "M\udcfcller", np.uint64(2**63), "\\ud800bad"]
    table = extract_motifs({name: COPPER if k == 3 else ROCKSALT for k, name in enumerate(names)}, n_jobs=1, **QUIET)
    assert table.motifs.crystal_id.unique().tolist() == [str(2**70), str(-2**63), "\\ud800bad", str(2**63), "\\ud800bad~2"]
    again = load_motifs(save_motifs(table, tmp_path))
    assert again.motifs.crystal_id.equals(table.motifs.crystal_id) and again.skipped.id.tolist() == ["M\\udcfcller"]


# ---------------------------------------------------------------- as much as there is room for

class Counter:
    "In place of the progress bar: how many crystals were read and not yet done, at most"
    def __init__(self): self.read, self.done, self.most = 0, 0, 0
    def __enter__(self): return self
    def __exit__(self, *_): pass

    def crystals(self, n: int):
        for self.read in range(1, n + 1): yield COPPER

    def update(self, n: int) -> None: self.done, self.most = self.done + n, max(self.most, self.read - self.done)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_crystals_are_read_only_as_there_is_room(n_jobs, monkeypatch):
    counter = Counter()
    monkeypatch.setattr("motiflab.motifs.extract.progress_bar", lambda *_: counter)
    assert len(extract_motifs(counter.crystals(1000), n_jobs=n_jobs, **QUIET).skipped) == 1000 == counter.read == counter.done
    assert counter.most <= 3 * n_jobs * CHUNK


def test_no_process_is_started_for_one_job(monkeypatch):
    monkeypatch.setattr("motiflab.motifs.extract.Processes", lambda *_: pytest.fail("a pool was started"))
    assert len(extract_motifs(ROCKSALT, n_jobs=1, **QUIET)) == 4


@pytest.mark.parametrize("options, text", [(dict(centers="cation"), "cations"), (dict(ligands="chemenw"), "chemenv"), (dict(centers=["Xx"]), "Xx"),
                                           (dict(n_jobs=0), "n_jobs"), (dict(time_limit=-1), "time_limit"), (dict(min_distance=-1), "min_distance"),
                                           (dict(dask="tcp://127.0.0.1:1", n_jobs=2), "leave out n_jobs"), (dict(dask="no address"), "scheduler")])
def test_mistakes_are_one_sentence(options, text):
    with pytest.raises(UserError, match=text): extract_motifs(ROCKSALT, **QUIET | options)


def test_a_time_limit_of_centuries_is_none():
    for limit in (1e12, float("inf"), None): assert len(extract_motifs(ROCKSALT, n_jobs=1, time_limit=limit, **QUIET)) == 4
    with pytest.raises(UserError, match="time_limit"): extract_motifs(ROCKSALT, time_limit=float("nan"), **QUIET)


def test_what_is_no_crystal_is_said():
    with pytest.raises(UserError, match="read_crystals"): extract_motifs("matbench_dielectric")
    with pytest.raises(UserError, match="one is a int"): extract_motifs([ROCKSALT, 5], n_jobs=1, **QUIET)
    with pytest.raises(UserError, match="from type int"): extract_motifs(5)


# ---------------------------------------------------------------- one bad crystal

@pytest.fixture
def trouble(monkeypatch):
    "Copper is trouble of the kind wanted, in forked workers too; other crystals are extracted"
    pool.load_libraries()
    real = pool.crystal_motifs
    def of_kind(kind):
        def crystal_motifs(crystal, settings):
            if crystal.numbers[0] == 29: kind()
            return real(crystal, settings)
        monkeypatch.setattr(pool, "crystal_motifs", crystal_motifs)
    return of_kind


def among(table, place: int, n: int) -> str:
    "The reason of the one crystal that is skipped, the others having their motifs"
    assert table.skipped.id.tolist() == [place] and set(table.motifs.crystal_id) == set(range(n)) - {place}
    return table.skipped.reason[0]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_crystal_over_its_time_is_a_row(trouble, n_jobs):
    trouble(lambda: time.sleep(60))
    crystals = [*strained(5), COPPER, *strained(4)]
    assert among(extract_motifs(crystals, n_jobs=n_jobs, time_limit=1, **QUIET), 5, 10) == "It took longer than time_limit=1 seconds."


def test_code_that_hears_no_alarm_is_stopped_from_outside(trouble, monkeypatch):
    def deaf():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(60)
    monkeypatch.setattr(limits, "GRACE", 1)
    trouble(deaf)
    start, crystals = time.monotonic(), [*strained(40), COPPER, *strained(40)]
    assert among(extract_motifs(crystals, n_jobs=2, time_limit=1, **QUIET), 40, 81) == "It took longer than time_limit=1 seconds."
    assert time.monotonic() - start < 30


def test_a_worker_that_dies_costs_its_own_crystal_only(trouble):
    trouble(lambda: os.kill(os.getpid(), signal.SIGKILL))
    crystals = [*strained(40), COPPER, *strained(40)]
    assert "worker process died (exit code -9)" in among(extract_motifs(crystals, n_jobs=2, **QUIET), 40, 81)


@pytest.mark.parametrize("error, text", [(MemoryError(), "more memory"), (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero")])
def test_a_surprise_is_a_reason(trouble, error, text):
    def surprise(): raise error
    trouble(surprise)
    assert text in among(extract_motifs([*strained(2), COPPER], n_jobs=1, **QUIET), 2, 3)


def test_ctrl_c_is_not_taken_for_a_bad_crystal(trouble):
    def stop(): raise KeyboardInterrupt
    trouble(stop)
    with pytest.raises(KeyboardInterrupt): extract_motifs([*strained(2), COPPER], n_jobs=1, **QUIET)
