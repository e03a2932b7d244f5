"""Shipped files are found in a checkout and in an installed wheel alike."""
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import motiflab
from motiflab import shipped
from motiflab.errors import UserError
from motiflab.shipped import shipped_names, shipped_path

TOP = Path(motiflab.__file__).parent.parent
CHECKOUT = (TOP / "setup.py").is_file()


def test_what_is_shipped_is_found():
    assert "README.md" in shipped_names()
    for name in shipped_names(): assert shipped_path(name).exists() and shipped_path(name).is_absolute()


@pytest.mark.parametrize("name", ["", ".", "..", "../settings.ini", "/etc/passwd", "nothing"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="Nothing shipped"): shipped_path(name)


def test_near_miss_is_named():
    with pytest.raises(UserError, match="did you mean 'README.md'"): shipped_path("README.txt")


def test_inside_comes_before_beside(tmp_path):
    package = tmp_path / "motiflab"
    (tmp_path / "data").mkdir()
    package.mkdir()
    with pytest.raises(UserError, match="no shipped data"): shipped._data_folder(package) # some other project's data/
    (tmp_path / "settings.ini").touch()
    assert shipped._data_folder(package) == tmp_path / "data"
    (package / "data").mkdir()
    assert shipped._data_folder(package) == package / "data"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    "A folder that holds the unpacked wheel and nothing else"
    if not CHECKOUT: pytest.skip("the wheel is built from a checkout")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (TOP / name).exists(): shutil.copy(TOP / name, source)
    for name in ("motiflab", "data"): shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-w", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out / "site")
    return out / "site"


def in_wheel(site: Path, code: str, folder: Path) -> str:
    "What `code` prints with the unpacked wheel first on the path, run in an empty folder"
    code = f"import sys; sys.path.insert(0, {str(site)!r}); sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f).lower()]; {code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_wheel_carries_the_data(installed, tmp_path):
    path = Path(in_wheel(installed, "from motiflab.shipped import shipped_path; print(shipped_path('README.md'))", tmp_path))
    assert path == (installed / "motiflab" / "data" / "README.md").resolve()
    assert path.read_bytes() == shipped_path("README.md").read_bytes()
    inside = {p.relative_to(installed / "motiflab" / "data").as_posix() for p in (installed / "motiflab" / "data").rglob("*") if p.is_file()}
    beside = {p.relative_to(TOP / "data").as_posix() for p in (TOP / "data").rglob("*") if p.is_file() and p.name[0] != "." and p.suffix != ".part"}
    assert inside == beside


def test_wheel_loads_the_vectors(installed, tmp_path):
    if "motif2vec_oxides" not in shipped_names(): pytest.skip("no vectors are shipped yet")
    said = in_wheel(installed, "from motiflab.motif2vec import Motif2Vec; m = Motif2Vec.shipped(); print(len(m.vectors_), m.counts_.sum())", tmp_path)
    from motiflab.motif2vec import Motif2Vec
    ours = Motif2Vec.shipped()
    assert said == f"{len(ours.vectors_)} {ours.counts_.sum()}"
