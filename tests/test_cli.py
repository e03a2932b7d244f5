"""The command line keeps what DESIGN promises: files, numbers on the last line, exit statuses."""
from __future__ import annotations

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from typer.main import get_command

from motiflab.cli import app, run
from motiflab.motifs import load_motifs

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [.5, .5, .5]])
RUTILE = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [.305, .305, 0]])
PEROVSKITE = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [.5, .5, .5], [.5, .5, 0]])
COPPER = Structure(Lattice.cubic(2.55), ["Cu"], [[0, 0, 0]])


@pytest.fixture(scope="module")
def crystals(tmp_path_factory): # folder of four CIF files
    folder = tmp_path_factory.mktemp("crystals")
    for name, s in dict(salt=SALT, rutile=RUTILE, perovskite=PEROVSKITE, copper=COPPER).items(): s.to(filename=str(folder / f"{name}.cif"))
    return folder


@pytest.fixture(scope="module")
def extracted(crystals, tmp_path_factory): # folder that `motiflab extract` wrote
    folder = tmp_path_factory.mktemp("run") / "out"
    assert run(["extract", str(crystals), "-o", str(folder), "--jobs", "1"]) == 0
    return folder


def last_line(text: str) -> str: return text.strip().splitlines()[-1]


def complaint(capsys, *arguments: str) -> str: # the one line on stderr
    "Run a command that has to end with status 2 and one line"
    status, said = run(arguments), capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("motiflab:")]
    assert status == 2 and len(lines) == 1 and "Traceback" not in said.err
    return lines[0]


def test_alone_it_says_what_it_can_do(capsys):
    assert run([]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in ("extract", "atlas", "demo"))


COMMANDS = sorted(c.name or c.callback.__name__ for c in app.registered_commands)


def test_alone_it_says_how_to_start(capsys):
    assert run([]) == 0
    said = capsys.readouterr().out
    assert all(f" {name} " in said for name in COMMANDS) and "motiflab extract my_crystals/ -o out" in said and "motiflab doctor" in " ".join(said.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    "Usage, and an example that can be typed"
    assert run([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"Usage: motiflab {command}" in said and f"  motiflab {command}" in said.partition("Example")[2]
    assert not any("<bool>" in line and "--help" not in line for line in said.splitlines()) # a flag takes no value


@pytest.mark.parametrize("command, parameter", [(c.name or c.callback.__name__, p) for c in get_command(app).commands.values() for p in c.params if p.name != "help"])
def test_every_option_is_explained(command, parameter): assert parameter.help and parameter.help.rstrip().endswith((".", ")")), (command, parameter.name)


def test_a_missing_argument_points_to_the_help_of_the_command(capsys): assert complaint(capsys, "extract").endswith("Try: motiflab extract --help")


def test_the_last_lines_say_where_it_is_and_what_comes_next(crystals, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, next_step, written in (
        (["extract", str(crystals), "-o", "out", "--jobs", "1"], "Next: motiflab atlas out -o atlas.html", "written to out"),
        (["atlas", "out", "--method", "pca"], "Next: open atlas.html in any browser", "written to atlas.html"),
        (["describe", str(crystals), "-D", "density", "--jobs", "1"], "Next: motiflab probe", "written to descriptors.csv"),
    ):
        assert run(arguments) == 0
        *_, before, last = capsys.readouterr().out.strip().splitlines()
        assert before.startswith(next_step) and last.endswith(written)


def test_a_pipe_gets_no_bar(crystals, tmp_path):
    code = "import sys; from motiflab.cli import run; sys.exit(run(sys.argv[1:]))"
    asked = subprocess.run([sys.executable, "-c", code, "extract", str(crystals), "-o", str(tmp_path / "out"), "--jobs", "1"], capture_output=True, text=True)
    assert asked.returncode == 0 and "\r" not in asked.stderr and "%|" not in asked.stderr and asked.stdout.strip().splitlines()[-1].endswith(f"written to {tmp_path / 'out'}")


@pytest.mark.skipif(os.name == "nt", reason="there are no terminals of this kind")
def test_a_terminal_gets_a_bar_with_the_time_left():
    import fcntl
    import pty
    import struct
    import termios

    code = "from motiflab.progress import progress_bar\nwith progress_bar(4, 'extracting motifs', mininterval=0) as bar:\n    for _ in range(4): bar.update()"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0)) # 80 columns
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, close_fds=True) as process:
        os.close(theirs)
        said = b""
        while True:
            try: part = os.read(ours, 4096)
            except OSError: break
            if not part: break
            said += part
    assert process.returncode == 0 and b"extracting motifs:" in said and b"4/4 [00:00<00:00" in said and b"%|" in said


def test_version(capsys):
    assert run(["--version"]) == 0 and capsys.readouterr().out.split()[0] == "motiflab"


def test_extract_writes_tables_and_crystals(extracted):
    table = load_motifs(extracted)
    assert set(table.kinds) == {"Na|O:6", "Ti|O:6", "Sr|C:12"} and len(table.skipped) == 1
    assert table.skipped.reason[0].startswith("No cation")
    assert {p.name for p in extracted.iterdir()} == {"motifs.parquet", "connections.parquet", "skipped.csv", "manifest.json", "crystals.jsonl.gz"}


def test_kept_crystals_are_those_with_motifs(extracted):
    from motiflab.crystals import read_crystals

    kept, table = read_crystals(extracted / "crystals.jsonl.gz"), load_motifs(extracted)
    assert set(kept.frame.index) == set(table.motifs.crystal_id) and len(kept) == 3


@pytest.mark.parametrize("damage, said", [("motifs.parquet", "not a whole motif table"), ("crystals.jsonl.gz", "lacks 3 crystals")])
def test_damaged_tables_are_one_line(extracted, tmp_path, capsys, damage, said):
    import shutil

    folder = shutil.copytree(extracted, tmp_path / "copy")
    (folder / damage).write_bytes(b"x")
    assert run(["atlas", str(folder), "-o", str(tmp_path / "atlas.html")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "atlas.html").exists()


def test_reasons_are_grouped_without_the_file_they_stand_in(capsys):
    import pandas as pd

    from motiflab.console import show_skipped

    reasons = ["a.cif:1: There is no atom in it.", "b c.cif:7: There is no atom in it.", "d.cif: This is no CIF: there is no line."]
    show_skipped(pd.DataFrame(dict(id=["a", "b", "d"], stage="read", reason=reasons)))
    said = capsys.readouterr().out
    assert said.count("There is no atom in it") == 1 and "This is no CIF" in said and ".cif" not in said


def test_last_line_holds_the_numbers(crystals, tmp_path, capsys):
    assert run(["extract", str(crystals), "-o", str(tmp_path), "--jobs", "1"]) == 0
    line = last_line(capsys.readouterr().out)
    assert line.startswith("8 motifs of 3 kinds in 3 crystals") and "1 crystal skipped" in line


def test_options_reach_the_extraction(crystals, tmp_path, capsys):
    centers = ["extract", str(crystals), "-o", str(tmp_path / "o"), "--centers", "O,Cl", "--jobs", "1"]
    assert run(centers) == 0 and set(load_motifs(tmp_path / "o").motifs.element) == {"O", "Cl"}
    assert run(["extract", str(crystals), "-o", str(tmp_path / "l"), "--limit", "1", "--jobs", "1"]) == 0
    table = load_motifs(tmp_path / "l")
    assert table.n_crystals + len(table.skipped) == 1


def test_several_inputs_keep_ids_apart(crystals, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    RUTILE.copy().scale_lattice(RUTILE.volume * 1.03).to(filename=str(other / "rutile.cif"))
    assert run(["extract", str(crystals / "rutile.cif"), str(other / "rutile.cif"), "-o", str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert load_motifs(tmp_path / "out").n_crystals == 2


def test_tables_are_not_written_over_unasked(crystals, extracted, capsys):
    assert "--resume" in complaint(capsys, "extract", str(crystals), "-o", str(extracted))
    before = (extracted / "motifs.parquet").read_bytes()
    assert run(["extract", str(crystals), "-o", str(extracted), "--resume", "--jobs", "1"]) == 0
    assert (extracted / "motifs.parquet").read_bytes() == before and "8 motifs" in last_line(capsys.readouterr().out)
    assert "ligands='chemenv' instead of 'crystalnn'" in complaint(capsys, "extract", str(crystals), "-o", str(extracted), "--resume", "--ligands", "crystalnn")


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere know no such names")
def test_a_file_name_that_is_no_unicode(tmp_path, capsys):
    SALT.to(filename=str(tmp_path / "salt.cif"))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / os.fsdecode(b"M\xfcller.cif")).write_bytes((tmp_path / "salt.cif").read_bytes())
    (folder / os.fsdecode(b"leer\xfc.cif")).write_text("data_x\n")
    assert run(["extract", str(folder), "-o", str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert last_line(capsys.readouterr().out).startswith("4 motifs of 1 kind in 1 crystal,")
    assert load_motifs(tmp_path / "out").n_crystals == 1 and load_motifs(tmp_path / "out").skipped.id[0].startswith("leer\\udcfc")


def test_tables_of_an_earlier_run_do_not_pass_for_the_result(crystals, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["extract", str(crystals), "-o", str(out), "--jobs", "1"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    for text, hint in ((json.dumps(manifest | dict(complete=False)), "holds an unfinished run"), ("{", "manifest.json is damaged"), ("[]", "manifest.json is damaged")):
        (out / "manifest.json").write_text(text)
        said = complaint(capsys, "atlas", str(out), "-o", str(tmp_path / "a.html"))
        assert hint in said and "--resume" in said
    (out / "manifest.json").unlink()
    assert len(load_motifs(out)) == 8 # as the sentence says: without the manifest they are read as they are


@pytest.mark.parametrize("wrong, hint", [(["--jobs", "0"], "--jobs"), (["--time-limit", "-3"], "--time-limit"), (["--time-limit", "nan"], "--time-limit"),
                                         (["--dask", "foo"], "address of a Dask scheduler"), (["--dask", ""], "address of a Dask scheduler"),
                                         (["--dask", "tcp://127.0.0.1:1"], "No Dask scheduler answers")])
def test_a_wrong_option_is_said_before_reading(wrong, hint, crystals, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("motiflab.motifs.cluster.ANSWER", 1)
    monkeypatch.setattr("motiflab.crystals.read_crystals", lambda *_, **__: pytest.fail("crystals were read"))
    assert hint in complaint(capsys, "extract", str(crystals), "-o", str(tmp_path / "out"), *wrong) and not (tmp_path / "out").exists()


def test_resume_takes_in_new_files(crystals, tmp_path, capsys):
    import shutil

    folder, out = shutil.copytree(crystals, tmp_path / "in"), tmp_path / "out"
    assert run(["extract", str(folder), "-o", str(out), "--jobs", "1"]) == 0
    SALT.to(filename=str(folder / "zeolite.cif"))
    assert run(["extract", str(folder), "-o", str(out), "--resume", "--jobs", "1"]) == 0
    assert last_line(capsys.readouterr().out).startswith("12 motifs of 3 kinds in 4 crystals")
    from motiflab.crystals import read_crystals
    assert len(read_crystals(out / "crystals.jsonl.gz")) == 4 == load_motifs(out).n_crystals


@pytest.mark.parametrize("arguments, hint", [
    (["extract"], "INPUT"), (["extract", "x.cif"], "out"), (["extrat"], "extract"), (["extract", "x.cif", "-o", "o", "--reume"], "--resume"),
    (["extract", "x.cif", "-o", "o", "--centers", "cation"], "'cations'"), (["extract", "x.cif", "-o", "o", "--ligands", "chemev"], "'chemenv'"),
    (["extract", "x.cif", "-o", "o", "--jobs", "many"], "jobs"), (["extract", "x.cif", "-o", "o", "--shard-size", "0"], "shard-size"),
    (["extract", "x.cif", "-o", "o", "--jobs", "2", "--dask", "tcp://10.0.0.1:8786"], "leave out --jobs"), (["atlas", "--method", "tnse"], "'tsne'"), (["atlas", "--vectors", "shiped"], "'shipped'"),
    (["extract", "matbench_dielectrik", "-o", "o"], "matbench_dielectric"), (["atlas", "no_such_folder"], "motiflab extract")])
def test_a_mistake_is_one_line_that_says_what_to_do(arguments, hint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hint in complaint(capsys, *arguments)


def test_atlas_is_one_file(extracted, tmp_path, capsys):
    assert run(["atlas", str(extracted), "-o", str(tmp_path / "sub" / "atlas.html"), "--vectors", "fit", "--method", "pca"]) == 0
    page = (tmp_path / "sub" / "atlas.html").read_text(encoding="utf-8")
    assert "Ti|O:6" in page and "plotly" in page.lower() and [p.name for p in (tmp_path / "sub").iterdir()] == ["atlas.html"]
    assert "1 crystal skipped" in last_line(capsys.readouterr().out)


def test_atlas_of_the_shipped_vectors(tmp_path, capsys):
    assert run(["atlas", "-o", str(tmp_path / "atlas.html"), "--method", "pca"]) == 0
    assert (tmp_path / "atlas.html").stat().st_size > 100_000 and "kinds" in last_line(capsys.readouterr().out)


def test_demo(tmp_path, capsys):
    assert run(["demo", "-o", str(tmp_path), "--crystals", "6", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "atlas.html").exists() and "make lab" in said and "skipped" in last_line(said) and "6 of the 4,764 crystals" in said
    formulas = pd.read_parquet(tmp_path / "motifs.parquet").crystal_id.nunique()
    assert 0 < formulas <= 6


def test_help_is_quick():
    "No library that takes seconds is imported for --help"
    code = "import sys; from motiflab.cli import run; run(['--help']); assert not {'pandas', 'torch', 'pymatgen', 'plotly'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("arguments, said", [
    (["describe", "x.cif", "-D", "volume"], "did you mean 'volume_per_atom'"),
    (["extract", "x.cif", "-o", "out", "--centers", "Xx"], "it can be 'cations', 'all', or elements such as 'Ti'."),
    (["extract", "x.cif", "-o", "out", "--jobs", "0"], ". Try: motiflab extract --help"),
    (["train", "-d", "x.csv", "-t", "n", "-o", "run", "--epochs", "many"], ". Try: motiflab train --help"),
])
def test_mistakes_that_a_newcomer_makes(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in complaint(capsys, *arguments) and not list(tmp_path.iterdir())
