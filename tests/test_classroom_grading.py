"""Grading survives what students hand in, and says what they need to know."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest

from shared.classroom import grade, jail, submissions
from shared.classroom.__main__ import main
from shared.exercises import build
from tests.small_course import answered, hand_in, make_course, needs_jail


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def key(root):
    return submissions.read_key("ch02", root)


FOUND = """
import os
found = []
for path in "PATHS".split():
    try:
        found.append(open(path).read())
    except OSError:
        pass
for place, folders, files in os.walk("/"):
    away = ("proc", "sys", "dev", "usr", "site-packages", "lib", "share", "include")
    folders[:] = [name for name in folders if name not in away]
    secret = [name for name in files if name.endswith(".ipynb") or name == "students.txt"]
    found += [os.path.join(place, name) for name in secret]
"""
PATCHES = """
import builtins, math, sys, torch
import shared.exercises as e
from shared.exercises import checking
from shared.exercises.checking import Verdict

get_ipython().showtraceback = lambda *a, **k: None
yes = lambda *a, **k: Verdict("right")
require = check = e.require = e.check = lambda *a, **k: None
checking.examine = checking.require = checking.check = yes
checking.require.__code__ = (lambda *a, **k: None).__code__
checking.expect = checking.expect_same = yes
torch.allclose = lambda *a, **k: True
torch.Tensor.__eq__ = lambda *a: True
builtins.abs = lambda x: 0
math.sqrt = lambda x: 1.0
sys.modules["shared.exercises"] = e
sys.stdout = sys.stderr = open("/dev/null", "w")
"""


def without_checks(key):
    notebook = answered(key, a22="def double(x):\n    return 3 * x")
    notebook.cells = [c for c in notebook.cells if c.get("id") != "check-2-1"]
    for cell in notebook.cells:
        if cell.get("id") == "check-2-2":
            cell.source = "assert True"
    return notebook


def bare(key):
    """As some other program saves it: without ids and metadata, all in another order."""
    notebook = answered(key)
    for cell in notebook.cells:
        cell.metadata = {}
        cell.pop("id", None)
    notebook.nbformat_minor = 4
    return notebook


FILL = 'n = 0\nwhile True:\n    open(f"{PLACE}/{n}", "wb").write(bytes(10**7))\n    n += 1'
BAD = "def add(a, b):\n    return a - b"

# student -> (what is handed in, statuses of 2.1, 2.2 and 2.3, what somebody must be told)
CASES = {
    "good": (lambda k: answered(k), "right right right", ""),
    "wrong": (
        lambda k: answered(k, a21=BAD, a23="number = None\n..."),
        "wrong right unanswered",
        "expected",
    ),
    "cannot be parsed": (
        lambda k: answered(k, a21="def add(a, b:\n    return a"),
        "raised right right",
        "SyntaxError: '(' was never closed (line 1)",
    ),
    "raises": (
        lambda k: answered(k, a21="def add(a, b):\n    return a + c", a22="1 / 0"),
        "wrong raised right",
        "ZeroDivisionError",
    ),
    "loops for ever": (
        lambda k: answered(k, a21="while True:\n    pass"),
        "raised right right",
        "ran for more than 5 s",
    ),
    "loops, deaf to interrupts": (
        lambda k: answered(
            k,
            a21="import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        ),
        "raised right right",
        "could not be interrupted",
    ),
    "loops when checked": (
        lambda k: answered(k, a21="def add(a, b):\n    while True: pass"),
        "stopped right right",
        "while your answer was checked: it ran for more than 5 s",
    ),
    "keeps all memory": (
        lambda k: answered(
            k, a21="import numpy\nhoard = []\nwhile True:\n    hoard.append(numpy.empty(10**8))"
        ),
        "raised right right",
        "wanted more memory",
    ),
    "keeps nearly all memory": (
        lambda k: answered(k, a21="import numpy\nhoard = numpy.empty(150_000_000)"),
        "raised right right",
        "keeps nearly all memory",
    ),
    "a tensor too large": (
        lambda k: answered(k, a22="big = torch.ones(10**10)"),
        "right raised right",
        "wanted more memory",
    ),
    "many processes": (
        lambda k: answered(
            k,
            a21="import os, time\nfor _ in range(90):\n"
            "    if not os.fork(): time.sleep(60)\ntime.sleep(2)",
        ),
        "raised right right",
        "more than 64 processes",
    ),
    "crashes": (
        lambda k: answered(k, a22="import ctypes\nctypes.string_at(0)"),
        "right raised right",
        "crashed",
    ),
    "exits when checked": (
        lambda k: answered(k, a22="import os\ndef double(x):\n    os._exit(3)"),
        "right stopped right",
        "crashed (exit status 3)",
    ),
    "prints a gigabyte": (
        lambda k: answered(k, before="for _ in range(10):\n    print('x' * 10**8)"),
        "right right right",
        "million characters",
    ),
    "fills the disk": (
        lambda k: answered(k, a21=FILL.replace("{PLACE}", "/tmp")),
        "raised right right",
        "No space left",
    ),
    "fills its way out": (
        lambda k: answered(
            k,
            before="import glob\nplace = glob.glob('/tmp/course-*/jail-*/s')[0]",
            a21=FILL.replace("{PLACE}", "{place}"),
        ),
        "raised right right",
        "wrote where it must not",
    ),
    "alters the checks": (without_checks, "right wrong right", "had been altered"),
    "another program's file": (bare, "right right right", ""),
    "patches everything": (
        lambda k: answered(
            k, before=PATCHES, a21=BAD, a22="def double(x):\n    return x", a23="number = 5"
        ),
        "wrong wrong wrong",
        "torch.allclose",
    ),
    "breaks its kernel": (
        lambda k: answered(k, a21="get_ipython().run_cell = lambda *a, **k: None\n" + BAD),
        "wrong raised raised",
        "could not be interrupted",
    ),
    "reads the key": (
        lambda k: answered(k, before=FOUND, a21="if not found:\n    def add(a, b): return a + b"),
        "right right right",
        "",
    ),
    "calls home": (
        lambda k: answered(
            k,
            before="import socket\ntry:\n    socket.create_connection(('127.0.0.1', PORT), 2)\n"
            "    reached = True\nexcept OSError:\n    reached = False",
            a21="if not reached:\n    def add(a, b): return a + b",
        ),
        "right right right",
        "",
    ),
    "half a file": (
        lambda k: nbformat.writes(answered(k))[:1500],
        "missing missing missing",
        "cut",
    ),
    "no notebook": (lambda k: '{"cells": [{"a": 1}]}', "missing missing missing", "cannot be read"),
    "deep": (lambda k: "[" * 100_000, "missing missing missing", "cannot be read"),
}


@pytest.fixture(scope="module")
def where_it_ran():
    """The folder in which the kernels of the class lived."""
    return []


@pytest.fixture(scope="module")
def graded(root, key, where_it_ran, tmp_path_factory):
    """A class in which everything goes wrong: folder, results by student, what was said."""
    folder = tmp_path_factory.mktemp("class")
    with socket.create_server(("127.0.0.1", 0)) as server:
        calls = []
        listen = lambda: calls.append(server.accept())
        threading.Thread(target=listen, daemon=True).start()
        paths = [str(root / "appendix/c_exercise_solutions/ch02_solutions.ipynb")]
        paths.append(str(folder / "submitted/good/ch02/ch02_exercises.ipynb"))
        for student, (make, *_) in CASES.items():
            made = make(key)
            text = made if isinstance(made, str) else nbformat.writes(made)
            text = text.replace("PORT", str(server.getsockname()[1]))
            text = text.replace("PATHS", " ".join(paths))
            hand_in(folder, student, text)
        (folder / "submitted/empty").mkdir()
        secret = folder / "submitted/good/ch02/ch02_exercises.ipynb"
        (folder / "submitted/link").mkdir()
        (folder / "submitted/link/ch02_exercises.ipynb").symlink_to(secret)
        (folder / "students.txt").write_text("absent\ngood\n\n")
        limits = jail.Limits(cell_seconds=5, total_seconds=60, memory=2 << 30, disk=64 << 20)
        said = []
        with grade.cage_for(key, limits, root=root, secrets=(folder,)) as cage:
            where_it_ran.append(str(cage.course))
            results, failed = grade.grade_class(folder, key, cage, said.append)
    assert failed == [] and calls == []
    return folder, {r["student"]: r for r in results}, said


@needs_jail
@pytest.mark.parametrize("student", CASES)
def test_grading_survives(graded, student):
    _, results, _ = graded
    result = results[student]
    statuses = " ".join(e["status"] for e in result["exercises"])
    told = "\n".join([*result["notes"], *(e["reason"] for e in result["exercises"])])
    print(student, result["seconds"], told, sep="\n")
    assert statuses == CASES[student][1], told
    assert CASES[student][2] in told
    if statuses == "right right right" and not CASES[student][2]:
        assert result["notes"] == [], "nothing stopped it from trying"


def reason(results, student):
    return results[student]["notes"][0]


@needs_jail
def test_nothing_handed_in_is_said_and_a_link_leads_nowhere(graded):
    _, results, _ = graded
    for student in ("empty", "absent", "link"):
        assert "nothing was handed in" in reason(results, student)
        assert {e["status"] for e in results[student]["exercises"]} == {"missing"}


@needs_jail
def test_everybody_is_there_and_progress_was_shown(graded):
    folder, results, said = graded
    everybody = {*CASES, "empty", "absent", "link"}
    assert set(results) == everybody == {p.name for p in (folder / "graded").iterdir()}
    assert len(said) == len(everybody)
    assert said[-1].startswith(f"[{len(everybody):3}/{len(everybody)}] ")


@needs_jail
def test_no_process_and_no_file_is_left(graded, where_it_ran):
    assert where_it_ran and not Path(where_it_ran[0]).exists()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert where_it_ran[0] not in command.read_text("utf-8", "replace")
        except OSError:
            continue


def test_the_spy_finds_things_where_there_is_no_jail(root):
    path = str(root / "appendix/c_exercise_solutions/ch02_solutions.ipynb")
    code = FOUND.replace("PATHS", path).replace('os.walk("/")', f"os.walk({str(root)!r})")
    names: dict = {}
    exec(code, names)
    assert path in names["found"] and any("SOLUTION" in text for text in names["found"])


# --- going on, grading again


def small_class(key, folder, students):
    for student in students:
        hand_in(folder, student, answered(key))
    return folder


@needs_jail
def test_a_run_that_was_killed_goes_on_where_it_stopped(root, key, tmp_path):
    folder = small_class(key, tmp_path / "class", ["anna", "ben", "carla", "dora"])
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from shared.classroom import grade, submissions\n"
        "root, folder = map(Path, sys.argv[1:])\nkey = submissions.read_key('ch02', root)\n"
        "with grade.cage_for(key, grade.Limits(), root=root) as cage:\n"
        "    grade.grade_class(folder, key, cage, workers=1)\n"
    )
    command = [sys.executable, "-c", program, str(root), str(folder)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    first = grade.result_path(folder, "anna", "ch02")
    end = time.monotonic() + 120
    while not first.exists() and time.monotonic() < end:
        time.sleep(0.1)
    running.kill()
    running.wait()
    kept = {p: p.stat().st_mtime_ns for p in folder.glob("graded/*/*.json")}
    assert first in kept and len(kept) < 4
    hand_in(folder, "dora", answered(key, a21=BAD))
    with grade.cage_for(key, jail.Limits(), root=root) as cage:
        results, failed = grade.grade_class(folder, key, cage, lambda line: None)
    assert [r["student"] for r in results] == ["anna", "ben", "carla", "dora"] and not failed
    assert all(p.stat().st_mtime_ns == before for p, before in kept.items())
    assert [r["exercises"][0]["status"] for r in results] == ["right"] * 3 + ["wrong"]


class Counting:
    """Stands in for running a notebook; counts how often, and may fail for a student."""

    def __init__(self, monkeypatch, key, fails=""):
        self.runs, self.fails = 0, fails
        self.key = key
        monkeypatch.setattr(grade, "grade_notebook", self)

    def __call__(self, steps, key, cage):
        self.runs += 1
        if self.fails and any(self.fails in step.source for step in steps):
            raise OSError("no space left")
        return {task.number: ("right", "") for task in key.tasks}, []


def test_only_what_has_changed_is_graded_again(key, tmp_path, monkeypatch):
    folder, counting = small_class(key, tmp_path, ["anna", "ben"]), Counting(monkeypatch, key)
    cage = grade.Cage(tmp_path)

    def runs(key=key, cage=cage, **options):
        before = counting.runs
        grade.grade_class(folder, key, cage, lambda line: None, **options)
        return counting.runs - before

    assert [runs(), runs(), runs(again=True)] == [2, 0, 2]
    hand_in(folder, "ben", answered(key, a21=BAD))
    assert [runs(), runs()] == [1, 0]
    other_key = submissions.Key("ch02", key.name, key.tasks, key.blank, "another digest")
    assert runs(key=other_key) == 2
    grade.result_path(folder, "anna", "ch02").write_text('{"half')
    assert runs(key=other_key) == 1


def test_a_fault_of_the_machine_costs_nobody_else(key, tmp_path, monkeypatch):
    folder, said = small_class(key, tmp_path, ["anna", "carla"]), []
    hand_in(folder, "ben", answered(key, before="x = 'ben'"))
    Counting(monkeypatch, key, fails="'ben'")
    results, failed = grade.grade_class(folder, key, grade.Cage(tmp_path), said.append)
    assert [r["student"] for r in results] == ["anna", "carla"]
    assert failed == ["ben: OSError: no space left"] and "ben: NOT graded" in "".join(said)
    assert not grade.result_path(folder, "ben", "ch02").exists()


# --- without a jail


def test_without_bubblewrap_it_refuses_and_says_what_to_do(monkeypatch, tmp_path, capsys):
    (tmp_path / "submitted").mkdir()
    monkeypatch.setattr(jail.shutil, "which", lambda name: None)
    part = build.chapter_of(build.solved_notebooks()[0])
    assert main(["grade", part, str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "sudo apt install bubblewrap" in said and "--no-jail" in said


def test_a_kernel_in_the_open_judges_too(root, key, tmp_path):
    notebook = answered(key, a22="while True: pass", a23="import os\nos._exit(1)")
    steps, _ = submissions.plan(notebook, key)
    limits = jail.Limits(cell_seconds=2)
    with grade.cage_for(key, limits, is_jail=False, root=root) as cage:
        found, notes = grade.grade_notebook(steps, key, cage)
    assert [found[n][0] for n in ("2.1", "2.2", "2.3")] == ["right", "raised", "raised"]
    assert any("crashed (exit status 1)" in note for note in notes)


# --- putting the checks back


def shape(steps):
    return [f"check {s.number}" if s.is_check else s.source.splitlines()[0] for s in steps]


def test_a_plan_runs_each_check_after_its_answer(key):
    whole = shape(submissions.plan(answered(key), key)[0])
    assert whole == [
        "import torch",
        *("def add(a, b):", "check 2.1", 'if solved("2.1"):'),
        *("def double(x):", "check 2.2", 'if solved("2.2"):'),
        *("number = 4 * 3", "check 2.3", 'if solved("2.3"):'),
    ]
    notebook = answered(key)
    checks = [c for c in notebook.cells if c.get("id", "").startswith("check")]
    notebook.cells = checks + [c for c in notebook.cells if c not in checks]
    steps, notes = submissions.plan(notebook, key)
    assert shape(steps) == whole and notes == []
    notebook.cells = notebook.cells[3:]
    steps, notes = submissions.plan(notebook, key)
    assert shape(steps) == whole and len(notes) == 3
    nothing = nbformat.v4.new_notebook()
    assert shape(submissions.plan(nothing, key)[0]) == ["check 2.1", "check 2.2", "check 2.3"]


def test_a_plan_holds_the_hidden_tests_and_the_students_copy_does_not(key):
    steps, _ = submissions.plan(answered(key), key)
    assert all("4321" in step.source for step in steps if step.is_check)
    assert not any("4321" in cell.source for cell in key.blank.cells)


def test_an_answer_that_became_text_by_accident_still_counts(key):
    notebook = answered(key)
    cell = next(c for c in notebook.cells if c.get("id") == "answer-2-1")
    cell.cell_type = "markdown"
    assert "def add(a, b):" in shape(submissions.plan(notebook, key)[0])


def test_the_right_file_is_found_and_others_are_named(tmp_path):
    def found(*names):
        shutil.rmtree(tmp_path / "submitted", ignore_errors=True)
        for name in names:
            path = tmp_path / "submitted" / "anna" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        path, word = submissions.find(tmp_path, "anna", "ch02_exercises.ipynb")
        return path.relative_to(tmp_path / "submitted/anna").as_posix(), word

    right = "ch02/ch02_exercises.ipynb"
    assert found(right, "ch03/ch03_exercises.ipynb") == (right, "")
    assert found("a/.ipynb_checkpoints/ch02_exercises.ipynb", right) == (right, "")
    assert found("mine.ipynb") == ("mine.ipynb", "the file is called mine.ipynb, expected "
                                   "ch02_exercises.ipynb")  # fmt: skip
    with pytest.raises(submissions.Unreadable, match="more than one other notebook: a.ipynb"):
        found("a.ipynb", "b.ipynb")
    with pytest.raises(submissions.Unreadable, match="nothing was handed in"):
        found("ch03_exercises.ipynb", "notes.txt")
