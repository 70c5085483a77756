"""What a reader does, in a real browser: JupyterLab in headless Chromium, on a copy of the course.

Skipped where there is no Chromium (or Chrome) or no playwright, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest

from shared.artifacts import ROOT
from shared.exercises.build import SOURCES, with_blanks
from shared.ledger import Ledger
from shared.notebooks import kernel_environment

CHAPTER = "ch03_attention/ch03_attention.ipynb"
EXERCISES = "ch03_attention/ch03_exercises.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
SETTINGS = {  # all cells are in the page, whether in view or not; nothing asks to be clicked away
    "notebook-extension/tracker": {"windowingMode": "none", "autoClosingBrackets": False},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
START, RUN_ALL, SOON = 60, 300, 30  # seconds to wait at most, on a slow and busy machine


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A folder with copies of the two notebooks; the course's own files are never opened."""
    folder = tmp_path_factory.mktemp("course")
    (folder / CHAPTER).parent.mkdir()
    shutil.copy(ROOT / CHAPTER, folder / CHAPTER)
    blanks = with_blanks(nbformat.read(SOURCES / "ch03_solutions.ipynb", as_version=4), "ch03")
    nbformat.write(blanks, folder / EXERCISES)
    return folder


@pytest.fixture(scope="module")
def lab(course, tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab of its own, which knows nothing of the user's settings."""
    own = tmp_path_factory.mktemp("jupyter")
    for name, content in SETTINGS.items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "COURSE_ARTIFACTS": "artifacts",
    }
    environment = kernel_environment() | {name: str(own / at) for name, at in places.items()}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={course}"]
    command += ["--LabApp.extension_manager=readonly"]
    log = own / "log.txt"
    with open(log, "w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=course)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(server, address, log)
        os.environ["BROWSER_TEST_ARTIFACTS"] = str(own / "artifacts")
        yield address
    finally:
        os.environ.pop("BROWSER_TEST_ARTIFACTS", None)
        server.terminate()  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_for(server: subprocess.Popen, address: str, log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            urlopen(f"{address}/api", timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start; it said:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Headless Chromium, as the system has it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser) -> Iterator:
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(1000 * SOON)
    yield opened
    opened.close()


class Notebook:
    """A notebook in the browser; cells are counted as in the file, from 0."""

    def __init__(self, page, lab: str, course: Path, path: str) -> None:
        self.page, self.source = page, nbformat.read(course / path, as_version=4)
        page.goto(f"{lab}/lab/tree/{path}")
        self.cells = page.locator(".jp-Notebook .jp-Cell")
        self.page.wait_for_function(
            "count => document.querySelectorAll('.jp-Notebook .jp-Cell').length === count",
            arg=len(self.source.cells),
            timeout=1000 * START,
        )
        self._wait_until("idle", START)

    def _wait_until(self, status: str, seconds: float) -> None:
        indicator = f".jp-Notebook-ExecutionIndicator[data-status='{status}']"
        self.page.locator(indicator).wait_for(timeout=1000 * seconds)

    def number(self, beginning: str) -> int:
        """Which cell begins so."""
        found = [i for i, c in enumerate(self.source.cells) if c.source.startswith(beginning)]
        assert len(found) == 1, f"cells that begin with {beginning!r}: {found}"
        return found[0]

    def cell(self, beginning: str):
        return self.cells.nth(self.number(beginning))

    def run_all(self) -> None:
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        code = [i for i, c in enumerate(self.source.cells) if c.cell_type == "code"]
        last = self.cells.nth(code[-1]).locator(".jp-InputPrompt")
        expect_text(self.page, last, f"[{len(code)}]:", RUN_ALL)

    def run(self, beginning: str) -> None:
        """Click into a cell and run it."""
        editor = self.cell(beginning).locator(".cm-content")
        editor.scroll_into_view_if_needed()
        editor.click()
        self.page.keyboard.press("Shift+Enter")
        self._wait_until("idle", SOON)

    def write(self, beginning: str, text: str) -> None:
        """Replace what stands in a cell, as by pasting."""
        editor = self.cell(beginning).locator(".cm-content")
        editor.scroll_into_view_if_needed()
        editor.click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(text)


def expect_text(page, locator, text: str, seconds: float = SOON) -> None:
    """Wait until an element holds this text, or fail and say what it holds."""
    from playwright.sync_api import expect

    expect(locator).to_contain_text(text, timeout=1000 * seconds)


def test_a_chapter_runs_and_its_panel_answers(page, lab, course):
    chapter = Notebook(page, lab, course, CHAPTER)
    chapter.run_all()
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    panel = chapter.cell("panel(draw_head")
    panel.scroll_into_view_if_needed()
    picture = panel.locator(".jp-OutputArea-output img").first
    before = picture.get_attribute("src")
    assert before and before.startswith("data:image/png;base64,")

    slider = panel.locator(".widget-slider").filter(has_text="seed")
    slider.locator(".noUi-handle").press("ArrowRight")
    expect_text(page, slider.locator(".widget-readout"), "1")
    page.wait_for_function("([image, before]) => image.isConnected === false || image.src !== before",
                           arg=[picture.element_handle(), before])
