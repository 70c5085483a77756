"""What a reader does, in a real browser: JupyterLab in headless Chromium, on a copy of the course.

Skipped, with the reason, where playwright or a Chromium is missing.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest

from shared.artifacts import ROOT
from shared.exercises.build import MARK, SOURCES, STUB, with_blanks
from shared.ledger import Ledger
from shared.notebooks import kernel_environment

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
CHAPTER = "ch03_attention/ch03_attention.ipynb"
EXERCISES = "ch03_attention/ch03_exercises.ipynb"
SOLVED = SOURCES / "ch03_solutions.ipynb"
QUIET = {"fetchNews": "false", "checkForUpdates": False}  # no pop-up that would want a click
SOON, LATE = 60, 300  # seconds: the longest wait for a click to act, and for a chapter to run

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason=f"no browser: none of {', '.join(BROWSERS)} is on the PATH"
)


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A folder with copies of two notebooks; the course's own files are not opened for writing."""
    folder = tmp_path_factory.mktemp("course")
    (folder / CHAPTER).parent.mkdir()
    shutil.copy(ROOT / CHAPTER, folder / CHAPTER)
    blanks = with_blanks(nbformat.read(SOLVED, as_version=4), SOLVED.name)
    nbformat.write(blanks, folder / EXERCISES)
    return folder


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Path:
    """Where the notebooks in the browser keep what running makes."""
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def lab(course, artifacts, tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab of its own, which neither knows nor touches the user's."""
    own = tmp_path_factory.mktemp("jupyter")
    quiet = own / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps(QUIET))
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data"}
    folders |= {"JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings"}
    folders |= {"JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    environment = kernel_environment() | {name: str(own / at) for name, at in folders.items()}
    environment |= {"COURSE_ARTIFACTS": str(artifacts), "PYTHONPATH": str(ROOT)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += ["--ServerApp.ip=127.0.0.1", "--IdentityProvider.token="]
    command += [f"--ServerApp.root_dir={course}", "--LabApp.extension_manager=readonly"]
    with open(own / "log.txt", "w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=course)
        try:
            wait_for(server, f"http://127.0.0.1:{port}/api", own / "log.txt")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()  # it ends its kernels first
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for(server: subprocess.Popen, address: str, log: Path) -> None:
    """Wait until the server answers, or fail with what it said."""
    end = time.monotonic() + SOON
    while server.poll() is None and time.monotonic() < end:
        try:
            urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start; it said:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    """Headless Chromium, the system's own."""
    expect.set_options(timeout=1000 * SOON)
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=PROGRAM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser) -> Iterator[sync_api.Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(1000 * SOON)
    yield opened
    opened.close()


class Notebook:
    """A notebook open in the browser. A cell is named by its id, or by how it begins."""

    def __init__(self, page: sync_api.Page, lab: str, course: Path, path: str) -> None:
        self.page, self.source = page, nbformat.read(course / path, as_version=4)
        self.cells = page.locator(".jp-Notebook .jp-Cell")
        page.goto(f"{lab}/lab/tree/{path}?reset")  # without the tabs of the test before
        expect(self.cells).to_have_count(len(self.source.cells), timeout=1000 * LATE)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for()

    def cell(self, name: str) -> sync_api.Locator:
        named = [c.id == name or c.source.startswith(name) for c in self.source.cells]
        assert sum(named) == 1, f"{sum(named)} cells are called {name!r}"
        return self.cells.nth(named.index(True))

    def run_all(self) -> None:
        """By the menu, and wait for the last cell."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        code = [i for i, c in enumerate(self.source.cells) if c.cell_type == "code"]
        last = self.cells.nth(code[-1]).locator(".jp-InputPrompt")
        expect(last).to_have_text("[*]:")
        expect(last).to_have_text(f"[{len(code)}]:", timeout=1000 * LATE)

    def run(self, name: str, text: str | None = None) -> None:
        """Click into a cell, replace what stands there if there is a text, and run it."""
        self.cell(name).locator(".cm-content").click()
        if text is not None:
            self.page.keyboard.press("ControlOrMeta+A")
            self.page.keyboard.insert_text(text)
        self.page.keyboard.press("Shift+Enter")


def test_a_chapter_runs_and_its_panel_answers(page, lab, course, artifacts, monkeypatch):
    chapter = Notebook(page, lab, course, CHAPTER)
    chapter.run_all()
    assert page.locator(".jp-OutputArea-output[data-mime-type$='error']").count() == 0
    panel = chapter.cell("panel(draw_head")
    picture = panel.locator("img[src^='data:image/png']").first
    before = picture.get_attribute("src")

    slider = panel.locator(".widget-slider").filter(has_text="seed")
    moved = int(slider.locator(".widget-readout").inner_text()) + 1
    slider.locator(".noUi-handle").press("ArrowRight")
    expect(slider.locator(".widget-readout")).to_have_text(str(moved))
    expect(picture).not_to_have_attribute("src", before)

    panel.get_by_role("button", name="Keep this run").click()
    expect(panel).to_contain_text("kept as run 1")
    panel.get_by_text("Your runs (1)").click()
    expect(panel.locator("table")).to_contain_text("room_to_learn")
    expect(panel.get_by_alt_text("room_to_learn of your runs by run")).to_be_visible()
    monkeypatch.setenv("COURSE_ARTIFACTS", str(artifacts))
    (run,) = Ledger("ch03_head").runs()
    assert run.parameters["seed"] == moved and 0 < run.results["room_to_learn"] < 1


def test_an_exercise_answers_at_once_wrong_and_right(page, lab, course):
    exercises = Notebook(page, lab, course, EXERCISES)
    (solved,) = [c.source for c in nbformat.read(SOLVED, 4).cells if c.id == "answer-3_2"]
    right = "\n".join(line for line in solved.splitlines() if not MARK.search(line))
    (blank,) = [c.source for c in exercises.source.cells if c.id == "answer-3_2"]
    assert blank.count(STUB) == 1
    wrong = blank.replace(STUB, "return weights_of_last(queries, keys)")  # as it was given
    said = exercises.cell("check-3_2").locator(".jp-OutputArea-output")

    exercises.run("import")
    for answer, mark in ((None, "…"), (wrong, "✗"), (right, "✓")):
        exercises.run("answer-3_2", answer)
        exercises.run("check-3_2")
        expect(said).to_have_text(re.compile(rf"^\s*{mark} 3\.2 "))
