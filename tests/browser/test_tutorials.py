"""JupyterLab runs every lesson from top to bottom, as a reader would; those of `test_lab` and `test_lesson` are run there."""
from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import dismiss, jupyterlab, run_all, without_outputs
from mouse import colors_seen

pytestmark = pytest.mark.timeout(600)
ELSEWHERE = ("01_explore_motifs_of_oxides", "03_train_dual_graph")
LESSONS = [p for p in sorted((Path(__file__).parents[2] / "nbs/tutorials").glob("*.ipynb")) if p.stem not in ELSEWHERE]
MINUTES = 7 # for all cells of a lesson
NOTEBOOK = "window.jupyterapp.shell.currentWidget.content"
PENDING = f"() => {NOTEBOOK}.widgets.filter(c => c.prompt === '*').length"
PICTURES = ("application/vnd.plotly.v1+json", "image/png")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, str]]:
    "One JupyterLab for all lessons, which it holds without their saved outputs"
    folder = tmp_path_factory.mktemp("lessons")
    for lesson in LESSONS: without_outputs(lesson, folder / "work" / lesson.name)
    with jupyterlab(folder, "--expose-app-in-browser") as running: yield running


def cells(page) -> list[dict]:
    "The code cells of the open notebook with their outputs, those that are not on the screen too"
    return [c for c in page.evaluate(f"() => {NOTEBOOK}.model.toJSON().cells") if c["cell_type"] == "code"]


def errors(held: list[dict]) -> list[str]:
    "What the cells that failed said"
    return [f"{o['ename']}: {o['evalue']} in {''.join(c['source'])[:300]}" for c in held for o in c["outputs"] if o["output_type"] == "error"]


def wait_until_done(page) -> list[dict]:
    "The cells when none is pending; fails at once where one has failed, or after some minutes"
    end = time.monotonic() + 60 * MINUTES
    while time.monotonic() < end:
        page.wait_for_timeout(1000)
        held, pending = cells(page), page.evaluate(PENDING)
        if failed := errors(held): pytest.fail("\n".join(failed))
        if not pending and all(c["execution_count"] for c in held): return held
    pytest.fail(f"Not done after {MINUTES} minutes; numbers of the cells: {[c['execution_count'] for c in cells(page)]}")


def show(page, cell: int):
    "The output of the code cell of this number, on the screen"
    page.evaluate(f"n => {{ const all = {NOTEBOOK}, k = all.widgets.findIndex((c, i) => c.model.type === 'code' && all.widgets.slice(0, i).filter(d => d.model.type === 'code').length === n); all.activeCellIndex = k; return all.scrollToItem(k, 'center'); }}", cell)
    drawn = page.locator(".jp-Cell.jp-mod-active :is(.jp-RenderedPlotly, .jp-RenderedImage)").last
    drawn.wait_for(timeout=60_000)
    drawn.scroll_into_view_if_needed()
    page.wait_for_timeout(1000) # plotly draws
    return drawn


def look(page, name: str, held: list[dict]) -> None:
    "Keep a picture of every output where the folder MOTIFLAB_SCREENSHOTS is named"
    folder = os.environ.get("MOTIFLAB_SCREENSHOTS")
    if not folder: return
    for k in (k for k, c in enumerate(held) if c["outputs"]):
        page.evaluate(f"n => {{ const all = {NOTEBOOK}; const i = all.widgets.map((c, i) => c.model.type === 'code' ? i : -1).filter(i => i >= 0)[n]; all.activeCellIndex = i; return all.scrollToItem(i, 'start'); }}", k)
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/{name}-{k:02d}.png")


@pytest.mark.parametrize("lesson", LESSONS, ids=[p.stem for p in LESSONS])
def test_a_lesson_runs_from_top_to_bottom(server, watched, lesson):
    (address, token), w = server, watched(1280, 1000)
    page = w.page
    page.goto(f"{address}/lab/workspaces/{lesson.stem}/tree/{lesson.name}?token={token}")
    dismiss(page)
    run_all(page)
    held = wait_until_done(page)
    look(page, lesson.stem, held)
    pictures = [k for k, c in enumerate(held) if any(kind in o.get("data", {}) for o in c["outputs"] for kind in PICTURES)]
    assert pictures and pictures[-1] >= len(held) - 3, "the lesson does not end with a picture"
    assert colors_seen(show(page, pictures[-1])) > 3
    page.evaluate("async () => { await window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }") # its kernel, before the next lesson
    assert [e for e in w.errors if "Exception opening new comm" not in e] == [] # dash, which crystal-toolkit imports, greets an extension of its own
    assert {r.split("/")[2].split(":")[0] for r in w.requests if r.startswith(("http", "ws"))} == {"127.0.0.1"}
