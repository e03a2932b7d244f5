"""JupyterLab runs the lesson on training: its curves are alive, its figures answer the mouse."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Error as PlaywrightError
from labs import dismiss, run_all
from mouse import colors_seen
from test_lab import lab # noqa: F401, the fixture

pytestmark = pytest.mark.timeout(500)
TUTORIAL = Path(__file__).parents[2] / "nbs/tutorials/03_train_dual_graph.ipynb"
LIVE = ".motiflab-curves .js-plotly-plot"
EPOCHS = "() => { const g = document.querySelector('" + LIVE + "'); return g && g._fullData && g._fullData[2].x ? g._fullData[2].x.length : 0; }"
FIGURES = ".jp-RenderedPlotly" # pictures that come alive under the mouse


def look(page, name: str) -> None:
    "Keep a picture where the folder MOTIFLAB_SCREENSHOTS is named"
    folder = os.environ.get("MOTIFLAB_SCREENSHOTS")
    if folder: page.screenshot(path=f"{folder}/{name}.png")


def alive(page, n: int):
    "Figure n of the page after the mouse came to it"
    figure = page.locator(FIGURES).nth(n)
    figure.scroll_into_view_if_needed()
    figure.hover()
    page.wait_for_function("([all, n]) => { const g = document.querySelectorAll(all)[n]; return g._fullLayout && g.querySelector('.plot-container'); }", arg=[FIGURES, n])
    return figure


def point_at_last(page, figure) -> None:
    "The mouse on a figure's last point until it is labelled: what is drawn further up may still move it"
    place = """g => { const t = g._fullData[1], l = g._fullLayout, r = g.getBoundingClientRect(), i = t.x.length - 1;
        return [r.left + l.xaxis._offset + l.xaxis.d2p(t.x[i]), r.top + l.yaxis._offset + l.yaxis.d2p(t.y[i])]; }"""
    for _ in range(20):
        x, y = figure.evaluate(place)
        page.mouse.move(x - 2, y)
        page.mouse.move(x, y)
        try: return figure.locator(".hoverlayer .hovertext").first.wait_for(timeout=3000)
        except PlaywrightError: figure.scroll_into_view_if_needed()
    raise AssertionError("the last point has no label")


@pytest.fixture
def dark(tmp_path): # JupyterLab's dark theme, where words are lost more easily
    place = tmp_path / "JUPYTER_CONFIG_DIR/lab/user-settings/@jupyterlab/apputils-extension"
    place.mkdir(parents=True)
    (place / "themes.jupyterlab-settings").write_text('{"theme": "JupyterLab Dark"}')


def test_curves_grow_and_figures_answer(dark, lab, watched): # noqa: F811
    w = watched(1280, 1000)
    page = w.page
    page.goto(lab)
    dismiss(page)
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    run_all(page)
    page.wait_for_function(f"() => ({EPOCHS})() >= 2", timeout=300_000)
    first = page.evaluate(EPOCHS)
    page.locator(LIVE).scroll_into_view_if_needed()
    look(page, "training")
    page.wait_for_function(f"n => ({EPOCHS})() > n", arg=first, timeout=120_000) # it grows while the cell runs
    page.wait_for_function(f"() => ({EPOCHS})() >= 15", timeout=300_000)
    assert "best" in page.inner_text(".motiflab-curves") and colors_seen(page.locator(LIVE)) > 3

    page.wait_for_function("() => ![...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('*'))", timeout=240_000) # every cell has run
    page.wait_for_function("([all, n]) => document.querySelectorAll(all).length >= n", arg=[FIGURES, 4], timeout=120_000) # curves, parity, size, elements
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
    parity = alive(page, 1)
    look(page, "parity")
    point_at_last(page, parity)
    assert "predicted" in (parity.locator(".hoverlayer").text_content() or "")
    elements = alive(page, 3)
    assert colors_seen(elements) > 4
    look(page, "elements")
    assert [e for e in w.errors if "Exception opening new comm" not in e] == []
