"""A course of two small chapters, and students of it, for the tests of shared/classroom."""

from __future__ import annotations

import json
import shutil
import textwrap

import nbformat
import pytest

from shared.artifacts import ROOT
from shared.classroom import jail

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
    "2.1": """def add(a, b):
    ### BEGIN SOLUTION
    total = a + b  # secret way
    return total
    ### END SOLUTION""",
    "2.2": """def double(x):
    ### BEGIN SOLUTION
    return shift(x, by=x)  # of chapter one
    ### END SOLUTION""",
    "2.3": """number = None  # how many?
### BEGIN SOLUTION
number = 3 + 4 + 5 + 0 * 1000 + 0 * 2000
### END SOLUTION""",
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


def make_course(root):
    """A course of two small chapters, with exercises for the second, in an empty folder."""
    kept = shutil.ignore_patterns("classroom", "__pycache__", "ch0*.py", "previous_chapters.py")
    shutil.copytree(ROOT / "shared", root / "shared", ignore=kept, dirs_exist_ok=True)
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
