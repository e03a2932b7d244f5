"`motiflab doctor`: what a sound installation says, what is found where something is broken, and how caches are emptied"
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from motiflab import caches, doctor
from motiflab.cli import run

PARTS = {"motiflab", "libraries", "devices", "data", "shipped", "cache", "compiled functions", "Materials Project", "disk"}


@pytest.fixture(scope="module")
def sound(): # one check-up of this installation
    return doctor.examine()


@pytest.fixture
def quick(monkeypatch): # a check-up whose libraries and compiled functions are known to be fine
    answers = {"crystals": dict(extraction=dict(answer=dict(symbols=["O:6"], connections=36), seconds=0.1)), "networks": dict(devices=dict(answer=dict(cuda=[], built_for="", mps=False, threads=1)))}
    monkeypatch.setattr(doctor, "_tried", lambda name, limit: answers[name])
    return answers


def find(checkup, name: str, state: str) -> doctor.Finding: return next(f for f in checkup.findings if f.name == name and f.state == state)


# ---------------------------------------------------------------- a sound installation
def test_a_sound_installation(sound):
    assert {*sound.parts} == PARTS and sound.sound, sound.of("broken")
    assert {"torch", "numba", "pymatgen", "torch-geometric", "lightning"} <= {f.name for f in sound.parts["libraries"]}
    assert find(sound, "a tiny extraction", "fine").value.startswith("right") and all(f.value == "hashes hold" for f in sound.parts["shipped"])
    assert len(sound.table) == len(sound.findings) and set(sound.table.columns) == {"part", "name", "value", "state", "advice"}


def test_everything_broken_says_what_to_do(sound):
    assert all(f.advice for f in sound.findings if f.state != "fine")


def test_command_in_a_process_of_its_own(tmp_path): # as a user runs it, with the last sentence and the status
    asked = subprocess.run([sys.executable, "-c", "from motiflab.cli import main; import sys; sys.argv[1:] = ['doctor']; main()"], capture_output=True, text=True, cwd=tmp_path)
    assert asked.returncode == 0 and asked.stdout.strip().splitlines()[-1].startswith(("Everything is fine.", "Nothing is broken; ")), asked.stdout + asked.stderr


def test_json_holds_no_secret(quick, monkeypatch, capsys):
    monkeypatch.setenv("MP_API_KEY", "a-secret-of-mine")
    monkeypatch.setenv("MOTIFLAB_DATA", str(Path.home() / "no-such-folder"))
    assert run(["doctor", "--json"]) == 0
    said = capsys.readouterr().out
    found = json.loads(said)
    assert "a-secret-of-mine" not in said and found["sound"] and {f["part"] for f in found["findings"]} == PARTS
    assert next(f for f in found["findings"] if f["name"] == "MP_API_KEY")["value"] == "set"
    if len(str(Path.home())) > 1: assert str(Path.home()) + "/" not in said and "~/no-such-folder" in said


# ---------------------------------------------------------------- broken ones
def test_unwritable_cache(quick, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MOTIFLAB_CACHE", str(tmp_path / "file" / "cache"))
    assert run(["doctor"]) == 2
    assert capsys.readouterr().out.strip().splitlines()[-1] == "1 thing is broken. First: Set MOTIFLAB_CACHE to a folder that you may write to."


@pytest.mark.skipif(os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="nothing is forbidden to root")
def test_cache_that_may_only_be_read(quick, monkeypatch, tmp_path):
    monkeypatch.setenv("MOTIFLAB_CACHE", str(tmp_path))
    tmp_path.chmod(0o500)
    try: assert "cannot be written to" in find(doctor.examine(), "folder", "broken").value
    finally: tmp_path.chmod(0o700)


def test_data_folder_that_is_not_there(quick, monkeypatch, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    for name in ("a.jsonl.gz", "b.cif", "README.md"): (tmp_path / "mine" / name).write_text("")
    monkeypatch.setenv("MOTIFLAB_DATA", os.pathsep.join([str(tmp_path / "gone"), str(tmp_path / "mine")]))
    assert run(["doctor"]) == 0 # a note stops nothing
    found = doctor.examine()
    assert find(found, "MOTIFLAB_DATA", "fine").value == f"{tmp_path / 'mine'}: 2 data sets" and found.sound
    assert str(tmp_path / "gone") in found.sentence and found.sentence.startswith("Nothing is broken; ")


@pytest.mark.parametrize("spoil, said", [
    (lambda m: (m / "weights.safetensors").write_bytes(b"x"), "weights.safetensors does not have the hash"),
    (lambda m: (m / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    (lambda m: (m / "model.json").write_text((m / "model.json").read_text().replace("megnet", "magnet", 1)), "model.json does not have the hash"),
    (lambda m: (m / "model.json").write_text("{"), "model.json cannot be read"),
])
def test_a_shipped_file_that_is_damaged(spoil, said, quick, monkeypatch, tmp_path):
    from motiflab.shipped import shipped_path

    for name in ("motif2vec_oxides", "models/megnet-band-gap"): shutil.copytree(shipped_path(name), tmp_path / name)
    monkeypatch.setattr("motiflab.shipped._data_folder", lambda package: tmp_path)
    assert doctor.examine().sound
    spoil(tmp_path / "models" / "megnet-band-gap")
    found = find(doctor.examine(), "megnet-band-gap", "broken")
    assert said in found.value and "Install motiflab again" in found.advice


def test_no_shipped_data_at_all(quick, monkeypatch, tmp_path):
    monkeypatch.setattr("motiflab.shipped._data_folder", lambda package: tmp_path)
    found = find(doctor.examine(), "this check", "broken")
    assert found.part == "shipped" and "motif2vec_oxides" in found.value


def broken_library(folder: Path, name: str, content: str) -> dict: # environment in which it is found first
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(content)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(Path(doctor.__file__).parents[1])])}


def test_a_library_that_cannot_be_imported(tmp_path): # torch takes all that need it with it; the command itself runs
    env = broken_library(tmp_path, "torch", "raise ImportError('libcudart.so.99: cannot open shared object file')")
    asked = subprocess.run([sys.executable, "-c", "from motiflab.cli import main; import sys; sys.argv[1:] = ['doctor', '--json']; main()"], capture_output=True, text=True, env=env, cwd=tmp_path)
    found = json.loads(asked.stdout)
    assert asked.returncode == 2 and [f["name"] for f in found["findings"] if f["state"] == "broken"][0] == "torch", asked.stderr
    assert "libcudart.so.99" in asked.stdout and found["sentence"].endswith("First: Install torch again: pip install --force-reinstall torch")


def test_a_library_that_takes_its_process_down(monkeypatch, tmp_path):
    broken_library(tmp_path, "torch", "import os; os._exit(11)")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert doctor._tried("networks", 100)["torch"]["failed"] == "the process ended with status 11"


def test_missing_old_and_optional_libraries(quick, monkeypatch):
    from packaging.requirements import Requirement

    real = doctor._version_of
    monkeypatch.setattr(doctor, "_version_of", lambda lib: None if lib.name in ("optuna", "distributed") else real(lib))
    monkeypatch.setattr(doctor, "_requirements", lambda: {"numpy": Requirement("numpy>=999")})
    found = doctor.examine()
    assert find(found, "numpy", "broken").advice.endswith("pip install --upgrade 'numpy>=999'") and "missing" in find(found, "optuna", "broken").value
    assert find(found, "distributed", "fine").value == "not installed; for --dask" and found.sentence.startswith("2 things are broken. First: Bring numpy up to date")


def test_compiled_functions_that_answer_wrong(quick):
    quick["crystals"]["extraction"] = dict(answer=dict(symbols=["T:4"], connections=36), seconds=0.1)
    assert "wrong answer" in find(doctor.examine(), "a tiny extraction", "broken").value


def test_a_process_that_never_answers(monkeypatch):
    monkeypatch.setitem(doctor._TRIALS, "crystals", {"extraction": lambda: None})
    assert all("gave no answer" in step["failed"] for step in doctor._tried("crystals", 0.01).values() if "failed" in step)


def test_a_disk_that_is_nearly_full(quick, monkeypatch):
    monkeypatch.setattr(doctor, "LITTLE", 10**18)
    found = doctor.examine()
    assert found.sound and find(found, "temporary files", "note").advice.startswith("Make room at ")


def test_a_check_that_fails_is_a_finding(quick, monkeypatch):
    monkeypatch.setattr(doctor, "_memory", lambda: 1 / 0)
    found = find(doctor.examine(), "this check", "broken")
    assert found.part == "devices" and "ZeroDivisionError" in found.value


# ---------------------------------------------------------------- caches
@pytest.fixture
def filled(monkeypatch, tmp_path): # a cache folder with one entry of each part, and files that are nobody's
    monkeypatch.setenv("MOTIFLAB_CACHE", str(tmp_path))
    for name in ("graphs/" + "a" * 64 + "/arrays.safetensors", "datasets/phonon.json.gz", "descriptors/" + "b" * 64 + ".npz", "graphs/mine.txt", "datasets/thesis.tex", "other/x.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 1000)
    return tmp_path


def test_sizes_of_the_caches(filled):
    table = caches.caches()
    assert {*table.index} == {*caches.CACHES} and (table.drop(index="compiled").files == 1).all() and (table.drop(index="compiled").megabytes == 0.001).all()


def test_only_what_is_ours_is_removed(filled, capsys, monkeypatch):
    monkeypatch.setattr(caches, "compiled_folders", lambda: [])
    assert run(["doctor", "--clear", "all", "--yes"]) == 0
    assert "3 kB removed: datasets, graphs, descriptors" in capsys.readouterr().out
    assert {p.relative_to(filled).as_posix() for p in filled.rglob("*") if p.is_file()} == {"graphs/mine.txt", "datasets/thesis.tex", "other/x.npz"}
    assert run(["doctor", "--clear", "all", "--yes"]) == 0 and "nothing to remove" in capsys.readouterr().out


def test_it_asks_first(filled, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question: False)
    assert run(["doctor", "--clear", "graphs"]) == 0 and "Nothing was removed." in capsys.readouterr().out and caches.cache_size("graphs")[0] == 1
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert run(["doctor", "--clear", "graphs"]) == 2 and "--yes" in capsys.readouterr().err and caches.cache_size("graphs")[0] == 1
    assert run(["doctor", "--clear", "graph", "--yes"]) == 2 and "did you mean 'graphs'" in capsys.readouterr().err


def test_a_link_is_not_followed(filled, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").write_text("x")
    (filled / "graphs" / ("c" * 64)).symlink_to(elsewhere, target_is_directory=True)
    caches.clear_cache("graphs")
    assert (elsewhere / "precious").exists() and not (filled / "graphs" / ("c" * 64)).exists()


def test_compiled_functions_are_found_where_the_package_cannot_be_written(tmp_path): # numba's own folder, by numba's own answer
    code = "from motiflab.caches import compiled_folders; from motiflab import neighbors; from pathlib import Path; f = next(v for v in vars(neighbors).values() if hasattr(v, 'stats')); Path(f.stats.cache_path).mkdir(parents=True, exist_ok=True); print(Path(f.stats.cache_path) in compiled_folders())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "numba")})
    assert asked.stdout.strip() == "True", asked.stderr
