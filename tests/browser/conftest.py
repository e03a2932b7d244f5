"""A real Chromium with software WebGL, and a watch over what it complains of and asks for."""
from __future__ import annotations

import os
import shutil

import pytest

ARGS = ["--no-sandbox", "--disable-gpu", "--use-gl=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking"]


@pytest.fixture(scope="session")
def chromium():
    "A browser; without Chromium the tests are skipped at a desk and fail in CI"
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        sentence = "Chromium is not installed, so the browser tests cannot run: apt-get install chromium."
        pytest.fail(sentence) if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip(sentence)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


class Watched:
    "A page with what went wrong on it"
    def __init__(self, context):
        self.errors, self.requests, self.dialogs = [], [], []
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("dialog", lambda d: (self.dialogs.append(d.message), d.dismiss()))


@pytest.fixture
def watched(chromium, request):
    "`watched(width, height, offline=..., dark=...)` opens a fresh page; its last look is kept in the folder MOTIFLAB_SCREENSHOTS"
    contexts, folder = [], os.environ.get("MOTIFLAB_SCREENSHOTS")
    def open_page(width=1280, height=800, offline=False, dark=False):
        contexts.append(chromium.new_context(viewport=dict(width=width, height=height), color_scheme="dark" if dark else "light", offline=offline))
        return Watched(contexts[-1])
    yield open_page
    for context in contexts:
        if folder: context.pages[0].screenshot(path=f"{folder}/{request.node.name}.png")
        context.close()
