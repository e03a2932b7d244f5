"""Runs over many crystals: shards on disk, killed and resumed, on processes and on a Dask cluster."""
from __future__ import annotations

import gzip
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core import Lattice, Structure

from motiflab.cli import run
from motiflab.errors import UserError
from motiflab.motifs import extract_motifs, load_motifs, pool, save_motifs, shards
from motiflab.motifs.cluster import compute_chunk, connect
from motiflab.motifs.extract import CHUNK
from motiflab.motifs.shards import read_manifest, write_motifs

SLOW = """
import time
from motiflab.cli import main
from motiflab.motifs import pool
real = pool.crystal_motifs
pool.crystal_motifs = lambda *given: time.sleep(0.01) or real(*given)
main()
""" # the command line with crystals that take their time, so that there is a middle to be stopped in
SALT = Structure(Lattice.from_parameters(2.98, 3.0, 3.02, 60, 61, 62), ["Mg", "O"], [[0, 0, 0], [.5, .5, .5]]) # without symmetry, which is quick
COPPER = Structure(Lattice.cubic(2.55), ["Cu"], [[0, 0, 0]])
TABLES = ("motifs.parquet", "connections.parquet", "skipped.csv")
QUIET = dict(progress=False)


def salts(n: int, first: int = 0) -> list[tuple[str, Structure]]:
    "Different crystals with their names, every tenth of them a metal without motifs"
    return [(f"c{k}", COPPER if k % 10 == 9 else SALT.copy().apply_strain(-1e-4 * k)) for k in range(first, first + n)]


def equal(one: Path, other: Path) -> bool:
    "Whether two runs wrote the same, to the last byte"
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in TABLES)


@pytest.fixture
def computed(monkeypatch) -> list: # grows
    "The crystals that are computed in this process"
    pool.load_libraries()
    seen, real = [], pool.crystal_motifs
    monkeypatch.setattr(pool, "crystal_motifs", lambda crystal, settings: seen.append(crystal) or real(crystal, settings))
    return seen


@pytest.fixture
def on_update(monkeypatch):
    "Call a function whenever chunks come back"
    def watch(function):
        class Bar:
            def __enter__(self): return self
            def __exit__(self, *_): pass
            def update(self, n): function(n)
        monkeypatch.setattr(shards, "progress_bar", lambda *_: Bar())
    return watch


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Path:
    "What an uninterrupted run over 64 crystals writes"
    return write_motifs(salts(64), tmp_path_factory.mktemp("once"), n_jobs=1, shard_size=8, **QUIET)


def interrupted(folder: Path, after: int, crystals=None) -> Path:
    "A run over 64 crystals whose reader breaks down"
    def broken():
        yield from (crystals or salts(64))[:after]
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): write_motifs(broken(), folder, n_jobs=1, shard_size=8, **QUIET)
    return folder


# ---------------------------------------------------------------- the same as in memory

def test_the_files_hold_what_the_table_holds(once):
    table, again = extract_motifs(salts(64), n_jobs=1, **QUIET), load_motifs(once)
    assert again.connections.equals(table.connections) and again.skipped.equals(table.skipped) and again.motifs.csm.equals(table.motifs.csm)
    totals = read_manifest(once).totals
    assert totals == dict(crystals=64, found=58, motifs=len(table), connections=len(table.connections), kinds=1, without_ligands=0, without_geometry=0, skipped=6)
    assert sorted(p.name for p in once.iterdir()) == sorted([*TABLES, "manifest.json"])


@pytest.mark.parametrize("options", [dict(n_jobs=3), dict(n_jobs=2, shard_size=8)])
def test_jobs_and_shards_do_not_change_the_rows(options, once, tmp_path):
    out = write_motifs(iter(salts(64)), tmp_path, **options, **QUIET)
    assert all(pq.read_table(out / name).equals(pq.read_table(once / name)) for name in TABLES[:2])
    assert (out / "skipped.csv").read_text() == (once / "skipped.csv").read_text() and ("shard_size" not in options or equal(out, once))


def test_integers_and_text_as_names(tmp_path):
    numbered = load_motifs(write_motifs([s for _, s in salts(10)], tmp_path / "int", n_jobs=1, shard_size=4, **QUIET))
    assert numbered.motifs.crystal_id.dtype == int and numbered.skipped.id.tolist() == [9]
    mixed = load_motifs(write_motifs([(k if k < 5 else name, s) for k, (name, s) in enumerate(salts(10))], tmp_path / "mixed", n_jobs=1, shard_size=4, **QUIET))
    assert mixed.motifs.crystal_id.unique().tolist() == ["0", "1", "2", "3", "4", "c5", "c6", "c7", "c8"]


def test_no_crystal_and_no_motif(tmp_path):
    assert len(load_motifs(write_motifs([], tmp_path / "none", **QUIET))) == 0
    assert load_motifs(write_motifs([COPPER], tmp_path / "metal", n_jobs=1, **QUIET)).skipped.id.tolist() == [0]


# ---------------------------------------------------------------- memory

def test_memory_does_not_grow_with_the_crystals(tmp_path, on_update, monkeypatch):
    read, done, ahead, arrow = [0], [0], [], []
    def crystals():
        for read[0] in range(1, 2001): yield SALT
    def update(n):
        done[0] += n
        ahead.append(read[0] - done[0])
        arrow.append(pa.total_allocated_bytes())
    on_update(update)
    motifs = pool.crystal_motifs(SALT)
    monkeypatch.setattr(pool, "crystal_motifs", lambda *_: motifs)
    before = pa.total_allocated_bytes()
    out = write_motifs(crystals(), tmp_path, n_jobs=1, shard_size=50, **QUIET)
    whole = sum(pq.read_table(out / name).nbytes for name in TABLES[:2])
    assert len(ahead) >= 2000 / CHUNK and max(ahead) <= 50 and max(arrow) - before < whole / 10


def test_crystals_are_not_read_ahead_of_the_workers(tmp_path, on_update):
    read, done, ahead = [0], [0], []
    def crystals():
        for read[0] in range(1, 3001): yield COPPER
    def update(n):
        done[0] += n
        ahead.append(read[0] - done[0])
    on_update(update)
    write_motifs(crystals(), tmp_path, n_jobs=2, shard_size=100, **QUIET)
    assert max(ahead) <= 100 + 3 * 2 * CHUNK and done[0] == 3000


# ---------------------------------------------------------------- resumed

def source(path: Path, n: int) -> Path:
    "A file of crystals"
    with gzip.open(path, "wt") as file:
        for name, s in salts(n):
            file.write(json.dumps(dict(id=name, lattice=s.lattice.matrix.tolist(), species=[x.specie.symbol for x in s], frac=s.frac_coords.tolist())) + "\n")
    return path


def children(pid: int) -> set[int]:
    "Processes that a process started"
    return {int(c) for tasks in Path(f"/proc/{pid}/task").iterdir() for c in (tasks / "children").read_text().split()}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_outright_and_resumed(tmp_path, computed):
    n, size = 200, 10
    crystals, out, whole = source(tmp_path / "crystals.jsonl.gz", n), tmp_path / "out", tmp_path / "whole"
    command = ["extract", str(crystals), "--shard-size", str(size)]
    killed = subprocess.Popen([sys.executable, "-c", SLOW, *command, "-o", str(out), "--jobs", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, there = time.monotonic() + 120, None
    while not (there and len(there.shards) >= 2) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        there = read_manifest(out) if out.exists() else None
    workers = children(killed.pid)
    killed.kill()
    killed.wait()
    there = read_manifest(out)
    assert 2 <= len(there.shards) < n / size and not there.complete and workers
    with pytest.raises(FileNotFoundError, match="--resume"): load_motifs(out)
    assert run([*command, "-o", str(out), "--resume", "--jobs", "1"]) == 0
    assert len(computed) == n - size * len(there.shards)
    assert run([*command, "-o", str(whole), "--jobs", "2"]) == 0 and equal(out, whole)
    assert gzip.open(out / "crystals.jsonl.gz").read() == gzip.open(whole / "crystals.jsonl.gz").read()
    assert not [w for w in workers if Path(f"/proc/{w}").exists() and "motiflab" in Path(f"/proc/{w}/cmdline").read_text()] # none is left behind


def test_a_stopped_run_goes_on(once, tmp_path, computed):
    out = interrupted(tmp_path, after=29)
    assert sorted(read_manifest(out).shards) == [0, 1, 2] and len(computed) == 24
    assert equal(write_motifs(salts(64), out, n_jobs=1, resume=True, **QUIET), once) and len(computed) == 64
    write_motifs(salts(64), out, n_jobs=1, resume=True, **QUIET)
    assert len(computed) == 64 and equal(out, once)


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:-100]), lambda p: p.write_bytes(b""), lambda p: p.unlink(),
                                    lambda p: p.write_bytes(p.read_bytes().replace(b"O:6", b"T:4"))], ids=["truncated", "empty", "lost", "changed"])
def test_a_damaged_shard_is_computed_again(damage, once, tmp_path, computed):
    out = interrupted(tmp_path, after=29)
    damage(out / "shards" / "motifs-000001.parquet")
    computed.clear()
    assert equal(write_motifs(salts(64), out, n_jobs=1, resume=True, **QUIET), once) and len(computed) == 64 - 16


def test_a_damaged_table_is_computed_again(once, tmp_path, computed):
    out = write_motifs(salts(64), tmp_path, n_jobs=1, shard_size=8, **QUIET)
    (out / "motifs.parquet").write_bytes((out / "motifs.parquet").read_bytes()[:1000])
    computed.clear()
    assert equal(write_motifs(salts(64), out, n_jobs=1, resume=True, **QUIET), once) and len(computed) == 64


@pytest.mark.parametrize("finished", [True, False])
def test_only_shards_that_differ_are_computed_again(finished, tmp_path, computed):
    out = write_motifs(salts(64), tmp_path / "out", n_jobs=1, shard_size=8, **QUIET) if finished else interrupted(tmp_path / "out", after=64)
    computed.clear()
    wanted = [*salts(10), ("other", SALT), *salts(53, first=11), *salts(5, first=100)]
    write_motifs(wanted, out, n_jobs=1, resume=True, **QUIET)
    assert len(computed) == 8 + 5
    assert equal(out, write_motifs(wanted, tmp_path / "plain", n_jobs=1, shard_size=8, **QUIET))
    computed.clear()
    write_motifs(wanted[:24], out, n_jobs=1, resume=True, **QUIET) # fewer crystals than before
    assert not computed and equal(out, write_motifs(wanted[:24], tmp_path / "fewer", n_jobs=1, shard_size=8, **QUIET))


def test_another_runs_folder_is_left_alone(once, tmp_path):
    out = interrupted(tmp_path, after=29)
    with pytest.raises(UserError, match="holds a run that was stopped.*--resume"): write_motifs(salts(64), out, **QUIET)
    with pytest.raises(UserError, match="already holds motif tables"): write_motifs(salts(64), once, **QUIET)
    for folder in (out, once):
        with pytest.raises(UserError, match="begun with ligands='chemenv' instead of 'crystalnn'"): write_motifs(salts(64), folder, ligands="crystalnn", resume=True, **QUIET)
    with shards.only_run(out), pytest.raises(UserError, match="Another run"), shards.only_run(out, patience=0.2): pass
    (out / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="manifest.json is damaged"): write_motifs(salts(64), out, resume=True, **QUIET)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_run_that_waited_for_another_looks_again(tmp_path):
    found = []
    def second():
        try: write_motifs(salts(4), tmp_path, n_jobs=1, **QUIET)
        except UserError as error: found.append(str(error))
    with shards.only_run(tmp_path): # the first run, which ends while the second waits
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.5)
        (tmp_path / "motifs.parquet").write_bytes(b"of the first")
    waiting.join()
    assert "already holds motif tables" in found[0] and (tmp_path / "motifs.parquet").read_bytes() == b"of the first"


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_what_follows_the_tables_is_kept_from_other_runs(tmp_path):
    def then(folder):
        assert len(load_motifs(folder)) == 4
        with pytest.raises(UserError, match="Another run"), shards.only_run(folder, patience=0.2): pass
        (folder / "beside.txt").touch()
    write_motifs(salts(4), tmp_path, n_jobs=1, then=then, **QUIET)
    assert (tmp_path / "beside.txt").exists()


def test_tables_of_before_an_unfinished_resume_are_not_read(tmp_path):
    out = write_motifs(salts(16), tmp_path, n_jobs=1, shard_size=8, **QUIET)
    table = load_motifs(out)
    def broken():
        yield from salts(12, first=100)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): write_motifs(broken(), out, n_jobs=1, resume=True, **QUIET)
    with pytest.raises(UserError, match="unfinished run.*--resume"): load_motifs(out)
    with pytest.raises(UserError, match="unfinished run"): save_motifs(table, out)
    write_motifs(salts(12, first=100), out, n_jobs=1, resume=True, **QUIET)
    assert set(load_motifs(out).motifs.crystal_id) <= {f"c{k}" for k in range(100, 112)}


def test_a_mistake_leaves_no_run_behind(tmp_path):
    for wrong in (dict(n_jobs=0), dict(centers="cation"), dict(shard_size=0), dict(dask="tcp://127.0.0.1:1", n_jobs=1)):
        with pytest.raises(UserError): write_motifs(salts(2), tmp_path / "out", **wrong, **QUIET)
    assert len(load_motifs(write_motifs(salts(2), tmp_path / "out", n_jobs=1, **QUIET))) == 2


def test_rows_of_an_older_version_are_not_kept(tmp_path, computed, monkeypatch):
    out = interrupted(tmp_path, after=29)
    computed.clear()
    monkeypatch.setattr(shards, "ROWS_VERSION", shards.ROWS_VERSION + 1)
    write_motifs(salts(64), out, n_jobs=1, resume=True, **QUIET)
    assert len(computed) == 64


# ---------------------------------------------------------------- one bad crystal

def test_more_time_gives_a_late_crystal_another_chance(once, tmp_path, monkeypatch):
    pool.load_libraries()
    real = pool.crystal_motifs
    def slow(crystal, settings):
        if len(crystal.numbers) == 1: time.sleep(1.0)
        return real(crystal, settings)
    monkeypatch.setattr(pool, "crystal_motifs", slow)
    out = write_motifs(salts(12), tmp_path / "out", n_jobs=2, shard_size=4, time_limit=0.3, **QUIET)
    assert load_motifs(out).skipped.reason.tolist() == ["It took longer than time_limit=0.3 seconds."]
    write_motifs(salts(12), out, n_jobs=2, time_limit=60, resume=True, **QUIET)
    assert load_motifs(out).skipped.reason[0].startswith("No cation")
    assert equal(out, write_motifs(salts(12), tmp_path / "plain", n_jobs=1, shard_size=4, **QUIET))


# ---------------------------------------------------------------- on a cluster

@pytest.fixture
def cluster():
    "A scheduler and two worker processes, as on two machines"
    dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
    with (dask.config.set({"distributed.scheduler.allowed-failures": 0}),
          distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.CRITICAL) as cluster):
        yield cluster


def test_a_cluster_that_loses_a_worker_writes_the_same(cluster, once, tmp_path, on_update):
    from distributed import Client

    with Client(cluster, set_as_default=False) as client: workers, killed = client.run(os.getpid), []
    def kill(n):
        if not killed: killed.append(os.kill(workers[min(workers)], signal.SIGKILL))
    on_update(kill)
    crystals = salts(640)
    out = write_motifs(iter(crystals), tmp_path / "out", dask=cluster.scheduler_address, shard_size=64, **QUIET)
    assert killed and equal(out, write_motifs(crystals, tmp_path / "plain", n_jobs=1, shard_size=64, **QUIET))


def test_a_crystal_that_kills_its_worker_or_takes_too_long_is_a_row(cluster):
    from distributed import Client
    from distributed.diagnostics.plugin import WorkerPlugin

    class Trouble(WorkerPlugin):
        "Copper ends its process, gold takes for ever, on workers that are started later, too"
        def setup(self, worker):
            import os
            import time
            from motiflab.motifs import pool

            pool.load_libraries()
            real = pool.crystal_motifs
            def crystal_motifs(crystal, settings):
                if crystal.numbers[0] == 29: os._exit(1)
                while crystal.numbers[0] == 79: time.sleep(0.01)
                return real(crystal, settings)
            pool.crystal_motifs = crystal_motifs

    gold = Structure(Lattice.cubic(2.88), ["Au"], [[0, 0, 0]])
    crystals = [s for _, s in salts(8)] + [COPPER, gold] + [s for _, s in salts(8)]
    with Client(cluster, set_as_default=False) as client:
        client.register_plugin(Trouble())
        table = extract_motifs(iter(crystals), dask=client, time_limit=1, **QUIET)
        assert client.status == "running" # a client that was given stays open
    assert set(table.motifs.crystal_id) == set(range(18)) - {8, 9} and table.skipped.id.tolist() == [8, 9]
    assert "every Dask worker" in table.skipped.reason[0] and "time_limit=1" in table.skipped.reason[1]


def test_a_cluster_that_goes_away_leaves_its_shards(cluster, tmp_path, on_update, computed):
    gone = threading.Thread(target=cluster.close)
    done = [0]
    def close(n):
        done[0] += n
        if done[0] > 64 and not gone.is_alive() and gone.ident is None: gone.start()
    on_update(close)
    crystals = salts(3000)
    with pytest.raises(UserError, match="scheduler is gone"): write_motifs(crystals, tmp_path / "out", dask=cluster.scheduler_address, shard_size=16, **QUIET)
    gone.join()
    there = len(read_manifest(tmp_path / "out").shards)
    assert 0 < there < 3000 / 16
    write_motifs(crystals[:320], tmp_path / "out", n_jobs=1, resume=True, **QUIET)
    assert len(computed) <= 320 - 16


def test_a_scheduler_without_workers_is_said_and_waited_for(monkeypatch, capsys):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("motiflab.motifs.cluster._CHECK", 0.2)
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None, silence_logs=logging.CRITICAL) as cluster:
        late = threading.Timer(1.5, cluster.scale, [1])
        late.start()
        table = extract_motifs(SALT, dask=cluster.scheduler_address, **QUIET)
        late.join()
    assert len(table) == 1 and capsys.readouterr().err.count("has no workers; waiting for them") == 1


@pytest.mark.parametrize("word", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 7 + b"\x30"], ids=["mute", "http", "large"])
def test_a_port_where_something_else_listens_is_one_sentence(word, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("motiflab.motifs.cluster.ANSWER", 1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(10)
        def serve(kept=[]):
            try:
                while True:
                    kept.append(other.accept()[0])
                    if word: kept[-1].sendall(word)
            except OSError: pass
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        start = time.monotonic()
        with pytest.raises(UserError, match="No Dask scheduler answers"): connect(f"127.0.0.1:{other.getsockname()[1]}")
        assert time.monotonic() - start < 8


@pytest.mark.parametrize("address", ["foo", "", "tcp://10.0.0.1", "10.0.0.1:", "tcp://a b:8786"])
def test_what_is_no_address_is_said_at_once(address, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("motiflab.motifs.cluster._client", lambda *_: pytest.fail("was tried"))
    with pytest.raises(UserError, match="not the address of a Dask scheduler"): connect(address)


def test_what_is_wrong_with_a_cluster_is_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("motiflab.motifs.cluster.ANSWER", 1)
    with pytest.raises(UserError, match="No Dask scheduler answers at tcp://127.0.0.1:1"): extract_motifs(SALT, dask="tcp://127.0.0.1:1", **QUIET)
    with pytest.raises(UserError, match="have motiflab .*, this is 0.0.0"): compute_chunk(b"", "0.0.0")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="pip install 'motiflab\\[dask\\]'"): extract_motifs(SALT, dask="tcp://127.0.0.1:1", **QUIET)
    SALT.to(filename=str(tmp_path / "salt.cif"))
    assert run(["extract", str(tmp_path / "salt.cif"), "-o", str(tmp_path / "out"), "--dask", "tcp://127.0.0.1:1"]) == 2
    assert "motiflab[dask]" in capsys.readouterr().err
