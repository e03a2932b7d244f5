"""JupyterLab runs the tutorial, and its atlas is used by mouse."""
from __future__ import annotations

from pathlib import Path

import pytest
from labs import dismiss, jupyterlab, run_all, without_outputs
from mouse import click_point, colors_seen, lasso, most_alone
from playwright.sync_api import TimeoutError as PlaywrightTimeout

pytestmark = pytest.mark.timeout(400)
TUTORIAL = Path(__file__).parents[2] / "nbs/tutorials/01_explore_motifs_of_oxides.ipynb"
MAP = ".motif-atlas .js-plotly-plot" # the first figure of the atlas


@pytest.fixture
def lab(tmp_path, request):
    "The address of the test module's tutorial in a JupyterLab of its own, outputs removed so that nothing old can pass for new"
    without_outputs(request.module.TUTORIAL, tmp_path / "work/tutorial.ipynb")
    with jupyterlab(tmp_path) as (address, token): yield f"{address}/lab/tree/tutorial.ipynb?token={token}"


def wait_for_map(page) -> None:
    "The atlas is drawn; if it never is, say how far the cells came"
    try: page.wait_for_selector(MAP, state="attached", timeout=180_000)
    except PlaywrightTimeout:
        prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
        pytest.fail(f"No atlas after three minutes; cells: {prompts}; dialogs: {page.locator('.jp-Dialog').all_text_contents()}")


def test_tutorial(lab, watched):
    w = watched(1280, 1150)
    page = w.page
    page.goto(lab)
    dismiss(page)
    run_all(page)
    wait_for_map(page)
    page.wait_for_function("document.querySelector('.motif-atlas h3') && [...document.querySelectorAll('.motif-atlas h3')].some(h => h.textContent.startsWith('Ti|O:6'))", timeout=180_000)
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
    page.locator(MAP).first.scroll_into_view_if_needed()
    page.wait_for_function("graph => document.querySelector(graph)._fullData[0].x.length > 100", arg=MAP)
    assert colors_seen(page.locator(MAP).first) > 5

    text = page.evaluate("graph => Array.from(document.querySelector(graph)._fullData[0].text)", MAP)
    ours = [i for i, t in enumerate(text) if "in your table" in t and "<br>0 in your table" not in t]
    assert len(ours) > 10
    i = most_alone(page, MAP, ours)
    kind = text[i].partition("</b>")[0].removeprefix("<b>")
    click_point(page, MAP, i)
    page.wait_for_function("kind => [...document.querySelectorAll('.motif-atlas h3')].some(h => h.textContent.startsWith(kind + ' ') || h.textContent.startsWith(kind + '\\u00a0'))", arg=kind)
    page.wait_for_function("() => { const g = document.querySelectorAll('.motif-atlas .js-plotly-plot')[1]; return g && g._fullData.some(t => t.type === 'mesh3d'); }")
    assert "crystal 1 of" in page.locator(".motif-atlas .center").inner_text()
    assert colors_seen(page.locator(".motif-atlas .js-plotly-plot").nth(1)) > 4

    page.locator(".motif-atlas button:text-is('Describe')").click()
    page.wait_for_function("document.querySelector('.motif-atlas').innerText.includes('crystallizes in the')", timeout=150_000)

    page.locator(".motif-atlas button:text-is('Lasso')").click()
    page.wait_for_function("graph => document.querySelector(graph)._fullLayout.dragmode === 'lasso'", arg=MAP)
    lasso(page, MAP, next(i for i, t in enumerate(text) if t.startswith("<b>Ti|O:6</b>")), 75)
    page.wait_for_selector(".motif-atlas table td")
    assert page.locator(".motif-atlas table tr").count() > 1
    # the one complaint that is not ours: dash, which crystal-toolkit imports, greets an extension of its own
    assert [e for e in w.errors if "Exception opening new comm" not in e] == []
    assert {r.split("/")[2].split(":")[0] for r in w.requests if r.startswith(("http", "ws"))} == {"127.0.0.1"}
