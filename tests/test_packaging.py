"""An installed motiflab: whole, without nbdev, quick to import, with its data."""
from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKED = ("motiflab", "data", "settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
BLOCK_NBDEV = "import sys\nfor name in ('nbdev', 'execnb', 'fastcore', 'ghapi'): sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path: # folder that motiflab was installed into
    "The wheel of this checkout, installed into a folder of its own"
    tmp = tmp_path_factory.mktemp("wheel")
    for name in PACKED:
        if (ROOT / name).is_dir(): shutil.copytree(ROOT / name, tmp / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists(): shutil.copy(ROOT / name, tmp / "src" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp), str(tmp / "src")], check=True)
    (wheel,) = tmp.glob("motiflab-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(tmp / "site"), str(wheel)], check=True)
    return tmp / "site"


def python(code: str, site: Path) -> str: # what it printed
    "Run `code` with the installed copy, away from the checkout, with nbdev out of reach"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", BLOCK_NBDEV + code], cwd=site.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
