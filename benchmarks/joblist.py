"""A list of jobs whose results lie in a folder: several processes may work on it, one that is killed loses nothing but its job, and what was done is not done again."""
from __future__ import annotations

import argparse
import fcntl
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Sequence

import pandas as pd


class JobList:
    "Tables in a folder, each with a column `job`"

    def __init__(self, folder: Path, results: str = "scores.csv"):
        self.folder, self.results = folder, results

    def table(self, name: str) -> pd.DataFrame:
        "A table, empty where there is none yet"
        path = self.folder / name
        if not path.exists(): return pd.DataFrame(columns=["job"])
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)

    def done(self) -> set[str]:
        "Jobs with a row of results"
        return set(self.table(self.results)["job"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        "One process at a time writes"
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def claimed(self, job: str) -> Iterator[bool]:
        "Whether this job is to be done, and no other process has it"
        claims = self.folder / ".claims"
        claims.mkdir(parents=True, exist_ok=True)
        with open(claims / job, "w") as claim:
            try: fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError: free = False
            else: free = job not in self.done()
            yield free

    def add(self, job: str, tables: dict[str, pd.DataFrame]) -> None:
        "Rows of a job, in place of those it had; the results last, so that a job with results has all the rest"
        with self.locked():
            for name in sorted(tables, key=lambda n: n == self.results):
                before, path = self.table(name), self.folder / name
                rows = [t for t in (before[before["job"] != job], tables[name]) if len(t)]
                whole, part = pd.concat(rows, ignore_index=True), path.with_name(f".{name}")
                if path.suffix == ".parquet": whole.to_parquet(part, index=False, compression="zstd")
                else: whole.to_csv(part, index=False, float_format="%.6g")
                part.replace(path)

    def work(self, jobs: Sequence[str], run: Callable[[str], None], minutes: float = float("inf")) -> None:
        "The jobs that are left, one after the other; none is begun after so many minutes. One that fails is written down with its reason, and the others go on"
        from motiflab.errors import UserError

        end = time.time() + 60 * minutes
        for job in jobs:
            if time.time() > end: return
            with self.claimed(job) as free:
                if not free: continue
                try: run(job)
                except UserError as error:
                    print(f"{job} failed: {error}", flush=True)
                    self.add(job, {"failed.csv": pd.DataFrame([dict(job=job, reason=str(error))])})

    def show(self, jobs: Sequence[str]) -> None:
        "What was run, what failed and why, what was not run"
        done, failed = self.done(), self.table("failed.csv").set_index("job").get("reason", {})
        for job in jobs: print("done   " if job in done else "failed " if job in failed else "not run", job, failed[job] if job in failed and job not in done else "")


def arguments(doc: str, what: Sequence[str], jobs: Sequence[str], more: Callable[[argparse.ArgumentParser], None] = lambda parser: None) -> argparse.Namespace:
    "The command line of a study; `chosen` holds the jobs that were asked for"
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=what)
    parser.add_argument("--jobs", default="", help="only jobs whose name has this in it; several with commas")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no job after so many")
    more(parser)
    given = parser.parse_args()
    given.chosen = [j for j in jobs if any(w in j for w in given.jobs.split(","))]
    if not given.chosen: parser.error(f"no job has {given.jobs!r} in its name; `list` names them all")
    return given
