"""A JupyterLab of its own, and how a notebook is run in it."""
from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try: return urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError): time.sleep(0.3)
        if server.poll() is not None: break
    pytest.fail(f"JupyterLab did not start within {seconds:.0f} s")


def without_outputs(notebook: Path, to: Path) -> None:
    "A copy whose outputs are removed, so that nothing old can pass for new"
    held = nbformat.read(notebook, 4)
    for cell in held.cells: cell.update(dict(outputs=[], execution_count=None) if cell.cell_type == "code" else {})
    to.parent.mkdir(exist_ok=True)
    nbformat.write(held, to)


@contextmanager
def jupyterlab(folder: Path, *options: str) -> Iterator[tuple[str, str]]:
    "Address and token of a JupyterLab that serves the folder `work` in `folder`, with settings of its own"
    folders = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    port, token = free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'work'}", *options]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=os.environ | folders, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"http://127.0.0.1:{port}/api", server)
            yield f"http://127.0.0.1:{port}", token
        finally:
            server.terminate()
            server.wait(30)


def dismiss(page) -> None:
    "JupyterLab's first dialog (a build is suggested) and its question about news"
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.locator(".jp-Dialog button.jp-mod-reject").click()
    page.wait_for_selector(".jp-Dialog", state="detached")
    for _ in range(page.locator(".Toastify button:text-is('No')").count()): page.locator(".Toastify button:text-is('No')").first.click()


STARTED = "() => [...document.querySelectorAll('.jp-InputPrompt')].some(p => /\\[(\\*|\\d+)\\]/.test(p.textContent))"


def run_all(page) -> None:
    "Run > Run All Cells, again where the menu was not ready to take the click, or a dialog stood in its way"
    for _ in range(6):
        late = page.locator(".jp-Dialog button.jp-mod-reject") # a dialog that came after the first was dismissed
        if late.count(): late.last.click()
        try:
            page.locator(".jp-Notebook .jp-Cell").first.click(timeout=20_000)
            page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
            page.locator(".lm-MenuBar-itemLabel:text-is('Run')").click()
            page.locator('[data-command="runmenu:run-all"]').click()
            return page.wait_for_function(STARTED, timeout=10_000)
        except PlaywrightTimeout: page.keyboard.press("Escape")
    pytest.fail("JupyterLab did not start to run the cells")
