"""How pytest runs the course's notebooks (with --nbval-lax); unit tests are not touched.

Notebooks run in the course's order. When a cell raises, the rest of its notebook is skipped, and
so are the notebooks that import what it exports: one message for one fault. An output that differs
is reported without stopping anything. A kernel that dies is noticed at once.
"""

from __future__ import annotations

import ast
import os
import re
import time
from collections import defaultdict
from pathlib import Path
from queue import Empty

import pytest

OUTPUT_TIMEOUT = 120  # seconds to wait for what a finished cell printed; nbval waits 5

broken: dict[Path, str] = {}
seconds: dict[str, float] = defaultdict(float)  # per notebook, where the summary is written
reasons: dict[str, str] = {}


def pytest_configure(config) -> None:
    if not (config.option.nbval or config.option.nbval_lax):
        return
    from nbval.kernel import RunningKernel

    RunningKernel.await_reply = _await_reply
    os.environ.pop("MPLBACKEND", None)  # a kernel draws inline
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"


def _await_reply(kernel, msg_id: str, timeout: float | None = None) -> None:
    """Wait for the reply to one cell, looking every second whether the kernel still lives."""
    end = None if timeout is None else time.monotonic() + timeout
    while end is None or time.monotonic() < end:
        try:
            message = kernel.get_message(stream="shell", timeout=1)
        except Empty:
            if not kernel.is_alive():
                raise RuntimeError("the kernel died while it ran this cell") from None
            continue
        if message["parent_header"].get("msg_id") == msg_id:
            if message["content"]["status"] == "aborted":
                raise RuntimeError("the kernel gave up this cell")
            return
    raise Empty


def _is_cell(item) -> bool:
    return hasattr(item, "cell_num")


def pytest_collection_modifyitems(items) -> None:
    cells = [item for item in items if _is_cell(item)]
    if not cells:
        return
    from shared.notebooks import order_key

    for cell in cells:
        cell.output_timeout = OUTPUT_TIMEOUT
    cells.sort(key=lambda cell: order_key(cell.path))  # stable: cells keep their order
    items[:] = [item for item in items if not _is_cell(item)] + cells


def _top_level(parent) -> list[ast.stmt]:
    """The statements of a notebook; cells with magics are passed over."""
    statements: list[ast.stmt] = []
    for cell in parent.nb.cells:
        if cell.cell_type == "code":
            try:
                statements += ast.parse(cell.source).body
            except SyntaxError:
                continue
    return statements


def _exported(parent) -> set[str]:
    """Names that a notebook exports."""
    from shared.export import read_chapter

    return set(read_chapter(parent.path)[0].names)


def _imported(parent) -> set[str]:
    """Names that a notebook takes from earlier chapters and appendices."""
    found = [node for node in _top_level(parent) if isinstance(node, ast.ImportFrom)]
    modules = ("shared.previous_chapters", "shared.appendices")
    found = [node for node in found if node.module in modules]
    return {alias.name for node in found for alias in node.names}


gone: dict[str, str] = {}  # exported name -> why it cannot be relied on


def _break(parent, why: str) -> None:
    broken[parent.path] = why
    gone.update(dict.fromkeys(_exported(parent), why))


def pytest_runtest_setup(item) -> None:
    if not _is_cell(item):
        return
    if item.cell_num == 0 and item.path not in broken:
        needs = sorted(_imported(item.parent) & set(gone))
        if needs:
            _break(item.parent, f"needs {needs[0]}; {gone[needs[0]]}")
    if item.path in broken:
        pytest.skip(broken[item.path])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if not _is_cell(item):
        return
    report = outcome.get_result()
    differs = call.excinfo is not None and "outputs differ" in str(call.excinfo.value)
    if report.failed and not differs and item.path not in broken:
        _break(item.parent, f"{item.path.name}: cell {item.cell_num} failed")
    report.notebook = item.path.name  # travels with the report to the process that sums up
    report.broken = broken.get(item.path, "")


def pytest_runtest_logreport(report) -> None:
    name = getattr(report, "notebook", None)
    if name:
        seconds[name] += report.duration
        if report.broken:
            reasons[name] = report.broken


def pytest_terminal_summary(terminalreporter) -> None:
    if not seconds:
        return
    terminalreporter.section("seconds per notebook")
    for name, duration in seconds.items():
        note = "  " + re.sub(r"\s+", " ", reasons[name]) if name in reasons else ""
        terminalreporter.write_line(f"{duration:7.1f}  {name}{note}")
