"""Are the notebooks clean, and is motiflab/ what they export? Looks at copies: nothing in the checkout is changed."""
from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    "Relative path -> content of the files of `folder` that nbdev looks after"
    found = (p for p in sorted(folder.rglob(pattern)) if ".ipynb_checkpoints" not in p.parts and p.stat().st_size)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def nbdev(command: str, copy: Path) -> None:
    "Run nbdev's `command` in `copy`; ends the check with its own words when it fails"
    run = subprocess.run([str(Path(sys.executable).parent / command)], cwd=copy, capture_output=True, text=True)
    if run.returncode: sys.exit(f"{command} failed:\n{run.stdout}{run.stderr}")


def differences(folder: str, pattern: str, command: str, copy: Path) -> list[str]:
    "A line for each file of `folder` that `command` would write otherwise"
    ours = files(root / folder, pattern)
    nbdev(command, copy)
    theirs = files(copy / folder, pattern)
    return [f"{folder}/{name}" for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]


NOISE = {  # what no saved output may hold -> why
    "site-packages": "a path of the machine that ran it",
    "/tmp/": "a path of the machine that ran it",
    "widget-view": "the state of a widget, which shows nothing without its kernel",
}


def noise() -> list[str]:
    "A line for each saved output that says more of the machine than of the work"
    found = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if "widgets" in notebook["metadata"]: found.append(f"{path.relative_to(root)}: the state of its widgets (metadata)")
        for i, cell in enumerate(notebook["cells"]):
            saved = json.dumps(cell.get("outputs", []))
            found += [f"{path.relative_to(root)} cell {i}: {why} ({mark})" for mark, why in NOISE.items() if mark in saved]
    return found


def main() -> None:
    "Say which files are out of step and what to run; exit status 1 when there are any"
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)
        for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md"): shutil.copy(root / name, copy)
        shutil.copytree(root / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        (copy / "motiflab").mkdir()
        stale = differences("motiflab", "*.py", "nbdev_export", copy)
        dirty = differences("nbs", "*.ipynb", "nbdev_clean", copy)
    if stale: print("Out of step with the notebooks (run nbdev_export; delete modules without a notebook):", *stale, sep="\n  ")
    if dirty: print("Not clean (run nbdev_clean):", *dirty, sep="\n  ")
    noisy = noise()
    if noisy: print("Outputs to mend and run again:", *noisy, sep="\n  ")
    if stale or dirty or noisy: sys.exit(1)
    print("Notebooks are clean and motiflab/ is what they export.")


if __name__ == "__main__": main()
