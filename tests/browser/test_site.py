"""The built site in Chromium: every page at a desk and on a phone, live figures, search, and the atlas on the home page."""
from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mouse import PLACE, colors_seen, most_alone

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).resolve().parents[2]
PHONE, DESK = (390, 844), (1280, 900)
WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def site(): # where it lies; `make test` has built it, whoever runs this file alone waits for it
    folder = ROOT / "_docs"
    if not (folder / "index.html").exists():
        done = subprocess.run([sys.executable, str(ROOT / "docs/build.py")], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def addresses(site) -> list[str]:
    return [p.relative_to(site).as_posix() for p in sorted(site.rglob("*.html")) if "_static" not in p.parts and p.name != "atlas.html"]


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_page(size, site, address, watched):
    w, wrong, pages = watched(*size), [], addresses(site)
    assert len(pages) > 130
    for name in pages:
        w.errors.clear()
        w.page.goto(f"{address}/{name}", wait_until="load")
        if not w.page.title() or not w.page.locator("h1").count(): wrong.append(f"{name}: no title")
        if name not in ("search.html", "genindex.html") and w.page.evaluate(WIDE) > 1: wrong.append(f"{name}: wider than the window by {w.page.evaluate(WIDE)} pixels")
        wrong += [f"{name}: {e}" for e in w.errors]
    assert not wrong, "\n".join(wrong)
    assert {r.split("/")[2] for r in w.requests if r.startswith("http")} == {address.removeprefix("http://")}


def test_figures_come_alive_in_both_themes(site, address, watched):
    name = "tutorials/train_dual_graph.html"
    w = watched(*DESK, dark=True)
    w.page.goto(f"{address}/{name}")
    figures = w.page.locator(".live-figure")
    assert figures.count() >= 4
    for i in range(figures.count()):
        figures.nth(i).scroll_into_view_if_needed()
        w.page.wait_for_function("i => document.querySelectorAll('.live-figure')[i].dataset.drawn", arg=i)
        assert figures.nth(i).locator("img").count() == 0 and colors_seen(figures.nth(i)) > 3
    ink = "() => getComputedStyle(document.querySelector('.live-figure .xtick text')).fill"
    dark = w.page.evaluate(ink)
    w.page.evaluate("document.documentElement.dataset.theme = 'light'")
    w.page.wait_for_function(f"dark => ({ink})() !== dark", arg=dark)
    assert w.errors == []


def test_equations_are_set(site, address, watched):
    w = watched(*DESK)
    w.page.goto(f"{address}/models/cgcnn.html")
    w.page.wait_for_selector("mjx-container svg")
    assert w.page.locator("mjx-container").count() > 3 and w.page.locator("mjx-merror").count() == 0 and w.errors == []


def test_search_finds_names_and_words(site, address, watched):
    w = watched(*DESK)
    for query, page in (("extract_motifs", "motifs/extract.html"), ("periodic Voronoi", "neighbors.html")):
        w.page.goto(f"{address}/search.html?q={query}")
        w.page.wait_for_selector("#search-results li a")
        assert any(page in (a.get_attribute("href") or "") for a in w.page.locator("#search-results li a").all()), query
    assert w.errors == []


def test_the_atlas_at_home_answers(site, address, watched):
    w = watched(*DESK)
    w.page.goto(f"{address}/index.html")
    w.page.locator(".hero-atlas iframe").scroll_into_view_if_needed()
    inside = next(f for f in w.page.frames if f.url.endswith("atlas.html"))
    inside.wait_for_function("window.atlas && atlas.ready")
    kinds = inside.evaluate("JSON.parse(document.getElementById('atlas-data').textContent).kinds")
    assert len(kinds["kind"]) > 500
    held = [i for i, examples in enumerate(kinds["examples"]) if examples]
    i = most_alone(inside, "#map", held)
    x, y = inside.evaluate(PLACE, ["#map", i])
    box = w.page.locator(".hero-atlas iframe").bounding_box()
    w.page.mouse.move(box["x"] + x - 1, box["y"] + y)
    w.page.mouse.click(box["x"] + x, box["y"] + y)
    inside.wait_for_function("atlas.drawn !== null")
    assert inside.inner_text("#kind").split()[0] == kinds["kind"][i]
    assert colors_seen(inside.locator("#crystal")) > 4
    paper = "getComputedStyle(document.body).backgroundColor"
    light = inside.evaluate(paper)
    w.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    inside.wait_for_function(f"light => {paper} !== light", arg=light) # it follows the page's theme
    assert w.errors == []


def test_menu_on_a_phone(site, address, watched):
    w = watched(*PHONE)
    w.page.goto(f"{address}/models/amdnet.html")
    w.page.locator("button.primary-toggle").click()
    w.page.locator("dialog a:text-is('Tutorials'), .bd-sidebar-primary a:text-is('Tutorials')").first.click()
    w.page.wait_for_url("**/tutorials-overview.html")
    assert w.errors == []
