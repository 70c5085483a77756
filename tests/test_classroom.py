"""The teacher's side: releases that give nothing away, and grading that survives what comes back.

A small course of two chapters stands in for the real one where submissions are run.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import textwrap
import threading

import nbformat
import pytest

from shared.artifacts import ROOT
from shared.classroom import grade, jail, release, submissions
from shared.exercises import build

try:
    jail.probe()
    CANNOT = ""
except jail.JailError as error:
    CANNOT = str(error)
needs_jail = pytest.mark.skipif(bool(CANNOT), reason=CANNOT.splitlines()[0] if CANNOT else "")

CHECKS = """
import torch

from shared.exercises.checking import exercise, expect, expect_same
from shared.exercises.questions import question, right, wrong


@exercise("2.1", "Adding")
def adding(dice, answer):
    a, b = torch.randint(100, (2,), generator=dice).tolist()
    expect_same(answer(a, b), a + b, f"{a} and {b}")


@exercise("2.2", "Doubling")
def doubling(dice, answer):
    x = torch.rand(3, generator=dice)
    expect(torch.allclose(answer(x), x + x), "it is not twice what you were given.")


@exercise("2.3", "How many?")
def how_many(dice, answer):
    expect_same(answer, 12, "your number")


QUESTIONS = [question("2.a", "?", right("a", "b"), wrong("c", "d"))]
"""
GOOD = {
    "2.1": "def add(a, b):\n    return a + b",
    "2.2": "def double(x):\n    return shift(x, x)",
    "2.3": "number = 4 * 3",
}
SOLVED = {
    "2.1": 'def add(a, b):\n    """The sum."""\n    ### BEGIN SOLUTION\n    total = a + b  # secret '
    "way\n    return total\n    ### END SOLUTION",
    "2.2": "def double(x):\n    ### BEGIN SOLUTION\n    return shift(x, by=x)  # of chapter one\n"
    "    ### END SOLUTION",
    "2.3": "number = None  # how many?\n### BEGIN SOLUTION\nnumber = 3 + 4 + 5 + 0 * 1000 + 0 * 2000\n"
    "### END SOLUTION",
}
NAMES = {"2.1": "add", "2.2": "double", "2.3": "number"}
IMPORTS = (
    "import torch\n\nfrom shared.exercises import check, require, solved\n"
    "from shared.previous_chapters import shift"
)


def write_notebook(path, cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def code(source, identity=None, **marks):
    cell = nbformat.v4.new_code_cell(source)
    if identity:
        cell.id = identity.replace("_", "-")
        cell.metadata.nbgrader = {"grade_id": identity, "schema_version": 3, "task": False} | marks
    return cell


def markdown(source, tags=()):
    return nbformat.v4.new_markdown_cell(source, metadata={"tags": list(tags)} if tags else {})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A course of two small chapters, with exercises for the second."""
    root = tmp_path_factory.mktemp("course")
    kept = shutil.ignore_patterns("classroom", "__pycache__", "ch0*.py", "previous_chapters.py")
    shutil.copytree(ROOT / "shared", root / "shared", ignore=kept)
    for name in ("requirements.txt", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, root)
    (root / "shared/exercises/ch02.py").write_text(CHECKS)
    (root / "shared/exercises/ch03.py").write_text(CHECKS.replace('"2.', '"3.'))
    write_notebook(
        root / "ch01_one/ch01_one.ipynb",
        [
            markdown("# One"),
            code('#| export\ndef shift(x, by):\n    """x + by"""\n    return x + by'),
        ],
    )
    write_notebook(
        root / "ch02_two/ch02_two.ipynb",
        [markdown("# Two"), code("#| export\ndef answer_of_two(x):\n    return 2 * x")],
    )
    cells = [markdown("# Exercises"), markdown("The solved version", ["solution"]), code(IMPORTS)]
    for number, title in (("2.1", "Adding"), ("2.2", "Doubling"), ("2.3", "How many?")):
        at, name = number.replace(".", "_"), NAMES[number]
        cells.append(markdown(f"## {number} · {title}"))
        cells.append(code(SOLVED[number], f"answer_{at}", grade=False, locked=False, solution=True))
        tests = f'check("{number}", {name})\n### BEGIN HIDDEN TESTS\n'
        tests += f'require("{number}", {name}, seed=4321)\n### END HIDDEN TESTS'
        points = {"grade": True, "locked": True, "points": 3, "solution": False}
        cells.append(code(tests, f"check_{at}", **points))
        cells.append(code(f'if solved("{number}"):\n    print("a reward")'))
        cells.append(markdown("**Why so.** The reasoning that nobody may read.", ["solution"]))
    write_notebook(root / "appendix/c_exercise_solutions/ch02_solutions.ipynb", cells)
    return root


@pytest.fixture(scope="module")
def key(root):
    return submissions.read_key(2, root)


def answered(key, *, before="", **answers):
    """A student's notebook: good answers, but for those given by a name such as a21."""
    notebook = nbformat.from_dict(json.loads(json.dumps(key.blank)))
    for cell in notebook.cells:
        number = cell.get("id", "")[-3:].replace("-", ".")
        if cell.get("id", "").startswith("answer-"):
            cell.source = textwrap.dedent(
                answers.get("a" + number.replace(".", ""), GOOD[number])
            ).strip()
    if before:
        notebook.cells.insert(3, nbformat.v4.new_code_cell(textwrap.dedent(before).strip()))
    return notebook


def hand_in(folder, student, notebook, name="ch02_exercises.ipynb"):
    path = folder / "submitted" / student / "ch02" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = notebook if isinstance(notebook, str) else nbformat.writes(notebook)
    path.write_text(text)
    return path


# --- releases


@pytest.fixture(scope="module")
def released(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "ch02"
    release.release(2, folder, root)
    return folder


def files_of(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_release_holds_what_is_needed_and_nothing_else(released):
    assert files_of(released) == {
        *("LICENSE", "README.md", "pyproject.toml", "requirements.txt", "ch02_exercises.ipynb"),
        *("shared/__init__.py", "shared/previous_chapters.py"),
        *(f"shared/exercises/{n}.py" for n in ("__init__", "checking", "questions", "ch02")),
    }
    everything = "\n".join(p.read_text() for p in released.rglob("*") if p.is_file())
    for secret in ("SOLUTION", "HIDDEN", "secret way", "4321", "0 * 1000", "Why so", "solved ver"):
        assert secret not in everything, secret
    module = (released / "shared/previous_chapters.py").read_text()
    assert "def shift" in module and "answer_of_two" not in module
    assert released.with_suffix(".zip").is_file()


def test_a_released_notebook_runs_where_only_the_release_is(released, tmp_path):
    cells = nbformat.read(released / "ch02_exercises.ipynb", as_version=4).cells
    program = "\n\n".join(c.source for c in cells if c.cell_type == "code")
    folder = shutil.copytree(released, tmp_path / "copy")
    (folder / "run.py").write_text(program + "\nimport shared\nprint(shared.__file__)\n")
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("not answered yet") == 3
    assert str(folder) in done.stdout


def test_what_would_give_something_away_is_found(root, released, tmp_path):
    def found_after(change):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(released, folder)
        change(folder)
        return " ".join(release.leaks(folder, 2, root))

    def in_notebook(change):
        def to(folder):
            path = folder / "ch02_exercises.ipynb"
            notebook = nbformat.read(path, as_version=4)
            change(notebook)
            nbformat.write(notebook, path)

        return to

    def solved_notebook(folder):
        source = root / "appendix/c_exercise_solutions/ch02_solutions.ipynb"
        shutil.copy(source, folder / "ch02_exercises.ipynb")

    def with_cell(cell):
        return in_notebook(lambda notebook: notebook.cells.append(cell))

    assert found_after(lambda folder: None) == ""
    answer = code("number  =  3+4 + 5 + 0*1000+0*2000  # mine")
    assert "cell 15: an answer" in found_after(with_cell(answer))
    reasoning = markdown("**Why so.** The reasoning that nobody may read.")
    assert "its reasoning" in found_after(with_cell(reasoning))
    assert "a hidden test" in found_after(with_cell(code('require("2.1", add, seed=4321)')))
    assert "tagged `solution`" in found_after(with_cell(markdown("x", ["solution"])))
    said = found_after(solved_notebook)
    assert "a mark of a solution" in said and "tagged `solution`" in said
    assert "a hidden test" in said and "its reasoning" in said and "an answer" in said
    assert "answer_of_two" in found_after(
        lambda f: (f / "shared/previous_chapters.py").write_text("def answer_of_two(x): ...")
    )
    assert "another chapter" in found_after(
        lambda f: (f / "shared/exercises/ch03.py").write_text("")
    )
    assert "no place" in found_after(lambda f: (f / "ch02_solutions.txt").write_text(""))


def test_a_release_replaces_an_earlier_one_and_nothing_else(root, tmp_path):
    folder = tmp_path / "ch02"
    release.release(2, folder, root)
    (folder / "old.txt").write_text("")
    release.release(2, folder, root)
    assert not (folder / "old.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("")
    with pytest.raises(release.ReleaseError, match="name another"):
        release.release(2, tmp_path / "mine", root)
    assert (tmp_path / "mine/thesis.txt").exists()
    with pytest.raises(release.ReleaseError, match="no exercises of chapter 9; there are: 2"):
        release.release(9, tmp_path / "ch09", root)


@pytest.mark.parametrize("path", build.solved_notebooks(), ids=lambda path: path.stem)
def test_every_chapter_can_be_released(path, tmp_path):
    chapter = int(path.name[2:4])
    folder = tmp_path / f"ch{chapter:02}"
    release.release(chapter, folder)  # refuses what gives something away
    module = (folder / "shared/previous_chapters.py").read_text()
    offered = release.exported(module)
    notebook = nbformat.read(folder / f"ch{chapter:02}_exercises.ipynb", as_version=4)
    checks = (folder / f"shared/exercises/ch{chapter:02}.py").read_text()
    for text in (release.code_of(notebook), checks):
        used = {n.rpartition(".")[2] for n in release.imported(text) if ".previous_chapters." in n}
        assert used <= offered, f"{path.name} needs what only later chapters export"


# --- grading

FOUND = """
import os
found = []
for folder, _, files in os.walk("/"):
    if folder.startswith(("/proc", "/usr", "/lib")):
        continue
    for name in files:
        if name.endswith((".ipynb", "students.txt")) or "c_exercise_solutions" in folder:
            if "site-packages" not in folder:
                found.append(os.path.join(folder, name))
for path in "PATHS".split():
    try:
        found.append(open(path).read())
    except OSError:
        pass
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
sys.stdout = sys.stderr = None
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
    "raises": (
        lambda k: answered(k, a21="def add(a, b):\n    return a + c", a22="1 / 0"),
        "wrong raised right",
        "ZeroDivisionError",
    ),
    "loops for ever": (
        lambda k: answered(k, a21="while True:\n    pass"),
        "raised right right",
        "ran for more than 3 s",
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
        "while your answer was checked: it ran for more than 3 s",
    ),
    "keeps all memory": (
        lambda k: answered(k, a21="hoard = []\nwhile True:\n    hoard.append(bytearray(10**7))"),
        "raised right right",
        "wanted more memory",
    ),
    "a tensor too large": (
        lambda k: answered(k, a22="big = torch.ones(10**10)"),
        "right raised right",
        "wanted more memory",
    ),
    "many processes": (
        lambda k: answered(
            k, a21="import os, time\nfor _ in range(90):\n    if not os.fork(): time.sleep(60)"
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
def graded(root, key, tmp_path_factory):
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
        limits = jail.Limits(cell_seconds=3, total_seconds=60, memory=2 << 30, disk=64 << 20)
        said = []
        with grade.cage_for(key, limits, root=root, secrets=(folder,)) as cage:
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
