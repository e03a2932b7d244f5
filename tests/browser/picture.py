"""Take the README's picture of an exported atlas.

    python tests/browser/picture.py demo/atlas.html nbs/images/atlas.png --kind "Zn|T:4"

The kind is clicked and the points around it are lassoed, as a person would."""
from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from conftest import ARGS
from mouse import click_point, lasso
from playwright.sync_api import sync_playwright


def take(html: Path, picture: Path, kind: str, radius: float, color: str, dark: bool) -> None:
    "Open, click, lasso, save"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS)
        page = browser.new_page(viewport=dict(width=1280, height=800), color_scheme="dark" if dark else "light")
        page.goto(html.resolve().as_uri())
        page.wait_for_function("window.atlas && atlas.ready", timeout=90_000)
        page.select_option("#color", color)
        point = page.evaluate("kind => K.kind.indexOf(kind)", kind)
        if point < 0: raise SystemExit(f"{kind} is not on this map.")
        click_point(page, "#map", point)
        page.wait_for_function("atlas.kind !== null")
        if page.evaluate("atlas.kind") != point: page.evaluate("i => showKind(i)", point) # another point lies on it
        page.wait_for_function("atlas.drawn !== null")
        if radius:
            page.click("[data-mode=lasso]")
            lasso(page, "#map", point, radius)
            page.wait_for_function("atlas.selected.length > 0")
        page.mouse.move(640, 40)
        page.wait_for_timeout(500) # transitions
        page.evaluate("document.querySelector('#map .hoverlayer').replaceChildren()")
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(picture))
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("html", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--kind", default="Zn|T:4")
    parser.add_argument("--radius", type=float, default=90, help="of the lasso, pixels; 0: none")
    parser.add_argument("--color", default="geometry")
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    take(given.html, given.picture, given.kind, given.radius, given.color, given.dark)
