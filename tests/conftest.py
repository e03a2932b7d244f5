"""What all tests share: where the real crystals are, and a cache folder of their own."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1") # before torch is imported: threads cost small networks much more time than they save, above all beside another worker of pytest
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if "MOTIFLAB_DATA" not in os.environ and SHARED.is_dir(): os.environ["MOTIFLAB_DATA"] = str(SHARED)


def pytest_configure(config):
    "Remove compiled functions that are older than any module of the core: numba does not look at the modules that a function calls"
    if hasattr(config, "workerinput"): return
    package = Path(__file__).resolve().parents[1] / "motiflab"
    newest = max(p.stat().st_mtime for p in package.rglob("*.py") if "@compiled" in p.read_text(encoding="utf-8"))
    for kept in package.rglob("*.nb[ic]"):
        if kept.stat().st_mtime < newest: kept.unlink(missing_ok=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "A file's tests stay in one process, which makes its fixtures once; so do all that use a browser, whose WebGL takes every processor. In the order of their names: the browser comes first"
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid): return "browser" if "browser/" in nodeid.partition("::")[0] else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    "Tests neither read nor fill the user's cache"
    before = os.environ.get("MOTIFLAB_CACHE")
    os.environ["MOTIFLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None: del os.environ["MOTIFLAB_CACHE"]
    else: os.environ["MOTIFLAB_CACHE"] = before


@pytest.fixture(scope="session")
def shared_data():
    "The folder of real crystals beside the checkout; tests that need it are skipped where there is none"
    for folder in os.environ.get("MOTIFLAB_DATA", "").split(os.pathsep):
        if folder and (Path(folder) / "minerals_aflow.jsonl.gz").exists(): return Path(folder)
    pytest.skip("MOTIFLAB_DATA names no folder with minerals_aflow.jsonl.gz")
