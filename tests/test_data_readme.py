"Every file under data/ is told in data/README.md: what it holds, how it was made, from what, and its licence"
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
SECTIONS = {m[1]: m[2] for m in re.finditer(r"^## `([^`]+)`\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)} # folder/ or file -> text


def shipped_files() -> list[str]: # relative to data/, of git where there is one
    "Files under data/ but for the README itself"
    asked = subprocess.run(["git", "ls-files", "data"], cwd=ROOT, capture_output=True, text=True) if (ROOT / ".git").exists() else None
    names = asked.stdout.splitlines() if asked and not asked.returncode else [p.relative_to(ROOT).as_posix() for p in (ROOT / "data").rglob("*") if p.is_file()]
    return sorted(n.removeprefix("data/") for n in names if n != "data/README.md" and "__pycache__" not in n and n != "data/__init__.py")


def test_every_file_has_a_section():
    top = {f"{n.partition('/')[0]}/" if "/" in n else n for n in shipped_files()}
    assert top == {*SECTIONS}, top ^ {*SECTIONS}


def test_every_file_is_named_in_its_section():
    for name in shipped_files():
        folder, _, rest = name.partition("/")
        if rest: assert f"`{Path(rest).name}`" in SECTIONS[f"{folder}/"], name


def test_every_model_is_named():
    for folder in sorted(p.name for p in (ROOT / "data" / "models").iterdir() if p.is_dir()): assert f"| `{folder}` |" in SECTIONS["models/"], folder


@pytest.mark.parametrize("name", SECTIONS)
def test_sections_have_the_same_form(name):
    assert re.findall(r"^- \*\*(.+?)\*\*", SECTIONS[name], re.M) == ["Made by", "From", "Licence"]


@pytest.mark.parametrize("pattern, place", [(r"benchmarks/\w+\.py", ROOT), (r"\.\./nbs/[\w/]+\.ipynb", ROOT / "data")])
def test_what_it_points_to_is_there(pattern, place):
    found = set(re.findall(pattern, TEXT))
    assert found and all((place / f).exists() for f in found), [f for f in found if not (place / f).exists()]


def test_sets_named_as_sources_are_listed():
    table = TEXT.partition("## Sources and licences")[2]
    used = {name for text in SECTIONS.values() for name in re.findall(r"`((?:mp|phonons|kappa|elasticity|dielectric|piezo|perovskites|matbench)_\w+)`", text)}
    assert used and all(f"| `{name}` |" in table for name in used), used
