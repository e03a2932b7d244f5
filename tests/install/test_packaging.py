"""What is built and installed: an sdist and a wheel that are whole, a motiflab without nbdev that is quick to import, with its data."""
from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKED = ("motiflab", "data", "nbs", "docs", "tests", "benchmarks", ".ci", "settings.ini", "setup.py", "pyproject.toml", "constraints.txt", "MANIFEST.in", "README.md",
          "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "Makefile", "pytest.ini")
MACHINE = ("data/hybrids/.lock", "data/study/.claims/1", "nbs/.ipynb_checkpoints/x.ipynb", "motiflab/__pycache__/x.pyc") # what work leaves behind
BLOCK_NBDEV = "import sys\nfor name in ('nbdev', 'execnb', 'fastcore', 'ghapi'): sys.modules[name] = None\n"
WHOLE = bool(os.environ.get("CI") or os.environ.get("MOTIFLAB_WHOLE_INSTALL"))


def rock_salt(metal: str, a: float) -> str: # CIF
    "An oxide in the structure of rock salt: four octahedra in its cell"
    from pymatgen.core import Lattice, Structure
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [metal, "O"], [[0, 0, 0], [.5, .5, .5]]).to(fmt="cif")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path: # folder with one sdist and one wheel
    "What `python -m build` makes of this checkout, with what work leaves behind in it"
    source = tmp_path_factory.mktemp("source")
    for name in PACKED:
        if (ROOT / name).is_dir(): shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists(): shutil.copy(ROOT / name, source / name)
    for name in MACHINE:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(source / "dist"), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return source / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path: # folder that motiflab was installed into
    "The wheel of this checkout, installed into a folder of its own"
    tmp, (wheel,) = tmp_path_factory.mktemp("wheel"), built.glob("motiflab-*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(tmp / "site"), str(wheel)], check=True)
    return tmp / "site"


def python(code: str, site: Path) -> str: # what it printed
    "Run `code` with the installed copy, away from the checkout, with nbdev out of reach"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", BLOCK_NBDEV + code], cwd=site.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"motiflab", "motiflab-" + importlib.metadata.version("motiflab") + ".dist-info"}
    assert "motiflab/py.typed" in names and any(n.endswith("licenses/LICENSE") for n in names)
    left = [n for n in names if "/." in n or n.endswith((".pyc", ".ipynb", ".lock")) or "/tests/" in n]
    assert not left


def test_the_sdist_holds_all_that_building_and_testing_need(built):
    (sdist,) = built.glob("*.tar.gz")
    names = {n.partition("/")[2] for n in tarfile.open(sdist).getnames()}
    assert {n for n in PACKED if (ROOT / n).exists()} <= {n.split("/")[0] for n in names}
    notebooks = {p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").rglob("*.ipynb") if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)}
    assert notebooks and notebooks <= names
    assert not set(MACHINE) & names and not [n for n in names if n.endswith(".lock")]


def test_twine_finds_no_fault(built):
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_imports_without_nbdev(installed):
    modules = [".".join(p.relative_to(installed).with_suffix("").parts) for p in sorted(installed.glob("motiflab/**/*.py")) if "data" not in p.parts]
    here = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in ROOT.glob("motiflab/**/*.py")}
    assert here <= set(modules) and "motiflab.cli" in modules
    imports = "\n".join(f"import {m.removesuffix('.__init__')}" for m in modules)
    assert str(installed) in python(imports + "\nprint(motiflab.__file__)", installed)


def test_the_command_works_without_nbdev(installed):
    assert "extract" in python("from motiflab.cli import run\nassert run([]) == 0", installed)
    assert "motiflab.cli:main" in next(installed.glob("motiflab-*.dist-info/entry_points.txt")).read_text()


def test_shipped_data_is_in_the_wheel(installed):
    code = "from motiflab.shipped import shipped_names, shipped_path\nfor n in shipped_names(): print(n, shipped_path(n))"
    found = dict(line.split(" ", 1) for line in python(code, installed).splitlines())
    assert found and all(Path(p).is_relative_to(installed) for p in found.values())
    tracked = {p.relative_to(ROOT / "data") for p in (ROOT / "data").rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(ROOT / "data").parts)}
    missing = {p for p in tracked if not (installed / "motiflab" / "data" / p).exists() and p.suffix not in (".py", ".pyc")}
    assert not missing


def test_import_is_light(installed):
    heavy = "{'torch', 'pymatgen', 'matminer', 'plotly', 'umap', 'openTSNE', 'robocrys', 'crystal_toolkit'}"
    python(f"import motiflab\nassert not {heavy} & set(sys.modules) and 'pandas' not in sys.modules, set(sys.modules)", installed)
    python(f"import motiflab.cli\nassert not ({heavy} | {{'pandas', 'scipy'}}) & set(sys.modules)", installed)


def seconds(python: Path, code: str, cwd: Path) -> float: # the best of five
    "How long a Python takes for some code, its own start included"
    def once() -> float:
        start = time.perf_counter()
        subprocess.run([str(python), "-c", code], cwd=cwd, check=True)
        return time.perf_counter() - start
    return min(once() for _ in range(5))


@pytest.mark.skipif(not WHOLE, reason="a whole installation takes minutes: it is made where CI=true, or with MOTIFLAB_WHOLE_INSTALL=1")
@pytest.mark.timeout(1800)
def test_a_stranger_installs_the_wheel_and_extracts_two_crystals(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    bin, home = tmp_path / "env" / "bin", tmp_path / "work"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "MOTIFLAB"))}
    environment = kept | dict(MOTIFLAB_CACHE=str(tmp_path / "cache"), PATH=f"{bin}{os.pathsep}{os.defpath}")
    def run(*command: str) -> str: # what it printed
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout
    for metal, a in (("Mg", 4.21), ("Ca", 4.81)):
        (home / "crystals").mkdir(parents=True, exist_ok=True)
        (home / "crystals" / f"{metal}O.cif").write_text(rock_salt(metal, a))

    run(str(bin / "python"), "-m", "pip", "--disable-pip-version-check", "-q", "install", "-c", str(ROOT / "constraints.txt"), str(wheel))
    names = [".".join(Path(n).with_suffix("").parts).removesuffix(".__init__") for n in zipfile.ZipFile(wheel).namelist() if n.startswith("motiflab/") and n.endswith(".py")]
    assert len(names) > 100 and "motiflab.cli" in names
    where = run(str(bin / "python"), "-c", "\n".join(f"import {n}" for n in names) + "\nprint(motiflab.__file__)")
    assert Path(where.splitlines()[-1]).is_relative_to(tmp_path / "env")
    assert "extract" in run(str(bin / "motiflab"), "--help")

    run(str(bin / "motiflab"), "extract", "crystals", "-o", "out")
    table = run(str(bin / "python"), "-c", "from motiflab.motifs import load_motifs\nt = load_motifs('out')\nprint(len(t), t.n_crystals, *sorted(set(t.kinds)))")
    assert table.split() == ["8", "2", "Ca|O:6", "Mg|O:6"]
    assert seconds(bin / "python", "import motiflab", home) - seconds(bin / "python", "pass", home) < 0.5


def test_requirements_leave_nbdev_to_developers():
    required = [r for r in importlib.metadata.requires("motiflab") if "extra ==" not in r]
    assert len(required) > 10 and not [r for r in required if r.startswith(("nbdev", "execnb", "fastcore", "ghapi", "pytest"))]
    assert {"dev", "docs", "dask"} <= set(importlib.metadata.metadata("motiflab").get_all("Provides-Extra"))


def test_constraints_pin_what_is_installed():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines) and "torch==2.13.0" in lines
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    needed = {r.split(";")[0].split("=")[0].split("<")[0].split(">")[0].split("[")[0].strip().lower() for r in importlib.metadata.requires("motiflab")}
    assert needed <= pinned, needed - pinned
