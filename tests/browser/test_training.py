"""JupyterLab runs the lesson on training: its curves are alive, its figures answer the mouse."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
from mouse import colors_seen
from test_lab import dismiss, lab, run_all # noqa: F401, the fixture

pytestmark = pytest.mark.timeout(500)
TUTORIAL = Path(__file__).parents[2] / "nbs/tutorials/30_train_dual_graph.ipynb"
LIVE = ".motiflab-curves .js-plotly-plot"
EPOCHS = "() => { const g = document.querySelector('" + LIVE + "'); return g && g._fullData && g._fullData[2].x ? g._fullData[2].x.length : 0; }"
FIGURES = ".jp-OutputArea-output .js-plotly-plot" # live ones and those that are shown as they are


def look(page, name: str) -> None:
    "Keep a picture where the folder MOTIFLAB_SCREENSHOTS is named"
    folder = os.environ.get("MOTIFLAB_SCREENSHOTS")
    if folder: page.screenshot(path=f"{folder}/{name}.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_curves_grow_and_figures_answer(lab, watched, dark): # noqa: F811
    w = watched(1280, 1000)
    page = w.page
    page.goto(lab)
    dismiss(page)
    if dark: page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    run_all(page)
    page.wait_for_function(f"() => ({EPOCHS})() >= 2", timeout=300_000)
    first = page.evaluate(EPOCHS)
    page.locator(LIVE).scroll_into_view_if_needed()
    look(page, f"training-{'dark' if dark else 'light'}")
    page.wait_for_function(f"n => ({EPOCHS})() > n", arg=first, timeout=120_000) # it grows while the cell runs
    page.wait_for_function(f"() => ({EPOCHS})() >= 15", timeout=300_000)
    assert "best" in page.inner_text(".motiflab-curves") and colors_seen(page.locator(LIVE)) > 3

    page.wait_for_function("n => document.querySelectorAll('.jp-RenderedPlotly .js-plotly-plot').length >= n", arg=4, timeout=120_000) # curves, parity, size, elements
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
    parity = page.locator(".jp-RenderedPlotly .js-plotly-plot").nth(1)
    parity.scroll_into_view_if_needed()
    point = parity.evaluate("""g => { const t = g._fullData[1], l = g._fullLayout, r = g.getBoundingClientRect(), i = t.x.length - 1;
        return [r.left + l._size.l + l.xaxis._offset - l._size.l + l.xaxis.d2p(t.x[i]), r.top + l.yaxis._offset + l.yaxis.d2p(t.y[i])]; }""")
    page.mouse.move(point[0] - 2, point[1])
    page.mouse.move(*point)
    parity.locator(".hoverlayer .hovertext").first.wait_for()
    assert "predicted" in parity.locator(".hoverlayer").inner_text()
    look(page, f"parity-{'dark' if dark else 'light'}")
    elements = page.locator(".jp-RenderedPlotly .js-plotly-plot").nth(3)
    elements.scroll_into_view_if_needed()
    assert colors_seen(elements) > 4
    look(page, f"elements-{'dark' if dark else 'light'}")
    assert [e for e in w.errors if "Exception opening new comm" not in e] == []
