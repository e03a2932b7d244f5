"""What people really give to a program, and what it gets: a sentence, a row in skipped.csv, never a stack trace."""
from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from motiflab.cli import run
from motiflab.crystals import CrystalSet, read_crystals
from motiflab.motifs import extract_motifs, load_motifs, pool
from motiflab.motifs.shards import read_manifest

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [.5, .5, .5]])
SLOW = """
import time
from motiflab.cli import main
from motiflab.motifs import pool
real = pool.crystal_motifs
pool.crystal_motifs = lambda *given: time.sleep(0.01) or real(*given)
main()
""" # the command line with crystals that take their time, so that there is a middle to be stopped in


def extracted(source: Path, out: Path, *options: str): # the table
    "Run `motiflab extract`, which has to end with status 0, and read what it wrote"
    assert run(["extract", str(source), "-o", str(out), "--jobs", "1", *options]) == 0
    return load_motifs(out)


def lines(path: Path, *rows: dict) -> Path:
    "A file of crystals as JSON-lines"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(name, structure: Structure) -> dict:
    return dict(id=name, lattice=structure.lattice.matrix.tolist(), species=[s.specie.symbol for s in structure], frac=structure.frac_coords.tolist())


def complaint(capsys) -> str:
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("motiflab:")]
    assert len(said) == 1
    return said[0]


# ---------------------------------------------------------------- what is in the files

def test_an_empty_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(["extract", str(tmp_path / "empty"), "-o", str(tmp_path / "out")]) == 2
    assert "empty" in complaint(capsys)


def test_a_text_file_called_cif_among_good_ones(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "letter.cif").write_text("Dear colleague,\nplease find the structure attached.\n")
    SALT.to(filename=str(tmp_path / "in" / "salt.cif"))
    table = extracted(tmp_path / "in", tmp_path / "out")
    assert set(table.kinds) == {"Na|O:6"} and len(table.skipped) == 1
    assert "letter" in str(table.skipped.id[0]) + table.skipped.reason[0] and table.skipped.stage[0] == "read"


def test_partial_occupancies(tmp_path):
    half = Structure(Lattice.cubic(4.2), [{"Mg": 0.7, "Fe": 0.3}, "O"], [[0, 0, 0], [.5, .5, .5]])
    half.to(filename=str(tmp_path / "half.cif"))
    table = extracted(tmp_path / "half.cif", tmp_path / "skip")
    assert len(table) == 0 and "occup" in table.skipped.reason[0]
    assert set(extracted(tmp_path / "half.cif", tmp_path / "majority", "--disorder", "majority").motifs.element) == {"Mg"}


def test_atoms_on_top_of_each_other(tmp_path):
    double = Structure(SALT.lattice, [*(s.specie for s in SALT), "Na"], [*SALT.frac_coords, [0.001, 0, 0]])
    source = lines(tmp_path / "double.jsonl", row("double", double), row("salt", SALT))
    crystals = read_crystals(source)
    assert len(crystals) == 2 and list(crystals.flagged.id) == ["double"]
    table = extracted(source, tmp_path / "out")
    assert set(table.motifs.crystal_id) == {"salt"} and "angstrom" in table.skipped.reason[0] and table.skipped.stage[0] == "extract"


def test_an_element_that_does_not_exist(tmp_path):
    source = lines(tmp_path / "wrong.jsonl", row("salt", SALT), {**row("kryptonite", SALT), "species": ["Qq"] * 8})
    table = extracted(source, tmp_path / "out")
    assert set(table.motifs.crystal_id) == {"salt"} and table.skipped.id.tolist() == ["kryptonite"] and "Qq" in table.skipped.reason[0]


def test_a_crystal_of_one_element(tmp_path):
    copper = Structure(Lattice.cubic(2.55), ["Cu"], [[0, 0, 0]])
    source = lines(tmp_path / "copper.jsonl", row("copper", copper))
    assert len(read_crystals(source)) == 1 # a metal is a crystal that models learn from
    table = extracted(source, tmp_path / "out")
    assert len(table) == 0 and table.skipped.stage[0] == "extract" and "cation" in table.skipped.reason[0]
    assert len(extracted(source, tmp_path / "all", "--centers", "all")) == 1


def test_two_thousand_atoms_end_in_time():
    big = SALT * (6, 6, 7)
    big.perturb(0.05)
    table = extract_motifs(CrystalSet(pd.DataFrame({"structure": [big, SALT]}, index=["big", "salt"])), n_jobs=2, time_limit=5, progress=False)
    assert len(big) == 2016
    assert "salt" in set(table.motifs.crystal_id)
    assert "big" in set(table.motifs.crystal_id) or "time_limit=5" in table.skipped.set_index("id").reason["big"]


def test_a_name_with_markup_is_shown_as_text(tmp_path, capsys):
    name = "<script>alert('x')</script>"
    source = lines(tmp_path / "named.jsonl", row(name, SALT), row("[bold]" + name, Structure(Lattice.cubic(2.55), ["Cu"], [[0, 0, 0]])))
    assert extracted(source, tmp_path / "out").motifs.crystal_id.unique().tolist() == [name]
    assert "[bold]<script>" in capsys.readouterr().out.replace("\n", "")
    assert run(["atlas", str(tmp_path / "out"), "-o", str(tmp_path / "atlas.html"), "--vectors", "fit", "--method", "pca"]) == 0
    assert "<script>alert" not in (tmp_path / "atlas.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- a disk that is full

@pytest.fixture
def small_disk(tmp_path): # a real disk of 128 KiB
    "A tmpfs of its own; the test is skipped where nobody may mount one"
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode: pytest.skip("a small disk can be mounted only by root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave: int) -> None:
    "Fill `disk` but for `leave` bytes"
    (disk / "filler").write_bytes(b"x" * (128 * 1024 - leave))


def salts(path: Path, n: int) -> Path:
    "A file of `n` different crystals"
    with gzip.open(path, "wt") as f: f.writelines(json.dumps(row(f"salt{i}", SALT.copy().apply_strain(-1e-4 * i))) + "\n" for i in range(n))
    return path


def test_a_full_disk_is_said_before_the_work(small_disk, tmp_path, capsys):
    fill(small_disk, leave=0)
    assert run(["extract", str(lines(tmp_path / "s.jsonl", row("salt", SALT))), "-o", str(small_disk)]) == 2
    assert "disk is full" in complaint(capsys)


@pytest.mark.parametrize("leave, finished", [(32 * 1024, range(1, 3)), (56 * 1024, range(3, 4))], ids=["in a shard", "in the tables"])
def test_a_disk_that_fills_up_keeps_what_was_done(leave, finished, small_disk, tmp_path, capsys, monkeypatch):
    source, out = salts(tmp_path / "many.jsonl.gz", 12), small_disk / "out"
    fill(small_disk, leave)
    command = ["extract", str(source), "--jobs", "1", "--shard-size", "4"]
    assert run([*command, "-o", str(out)]) == 2 and "--resume" in complaint(capsys)
    there = len(read_manifest(out).shards)
    assert there in finished and not list(out.rglob("*.part")) and not (out / "motifs.parquet").exists()
    (small_disk / "filler").unlink()
    computed, real = [], pool.crystal_motifs
    monkeypatch.setattr(pool, "crystal_motifs", lambda crystal, settings: computed.append(crystal) or real(crystal, settings))
    assert run([*command, "-o", str(out), "--resume"]) == 0 and len(computed) == 12 - 4 * there
    assert run([*command, "-o", str(tmp_path / "whole")]) == 0
    assert all((out / f"{t}.parquet").read_bytes() == (tmp_path / "whole" / f"{t}.parquet").read_bytes() for t in ("motifs", "connections"))


# ---------------------------------------------------------------- Ctrl-C in the middle

def finished(out: Path) -> int:
    "Number of finished shards"
    there = read_manifest(out) if out.exists() else None
    return len(there.shards) if there else 0


def test_ctrl_c_keeps_what_was_done(tmp_path):
    source, out = salts(tmp_path / "many.jsonl.gz", 120), tmp_path / "out"
    command = [sys.executable, "-c", SLOW, "extract", str(source), "-o", str(out), "--jobs", "2", "--shard-size", "5"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not finished(out) and first.poll() is None and time.monotonic() < deadline: time.sleep(0.02)
    os.killpg(first.pid, signal.SIGINT) # as a terminal does: to the program and its workers
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130 and "Traceback" not in said and "with --resume and it goes on from there" in said.splitlines()[-1]
    assert 0 < finished(out) < 24 and not (out / "motifs.parquet").exists()
    second = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert second.returncode == 0 and finished(out) == 24
    whole, again, plain = extract_motifs(read_crystals(source), n_jobs=2, progress=False), load_motifs(out), ["crystal_id", "site", "element", "symbol", "cn", "csm"]
    pd.testing.assert_frame_equal(again.motifs[plain], whole.motifs[plain])
    assert np.array_equal(np.stack(again.motifs.order_parameters), np.stack(whole.motifs.order_parameters), equal_nan=True)
    pd.testing.assert_frame_equal(again.connections, whole.connections)
