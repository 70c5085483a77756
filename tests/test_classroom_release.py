"""Releases of a chapter give nothing away, and nbgrader can use the same sources."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from shared.artifacts import ROOT
from shared.classroom import jail, release
from shared.exercises import build
from tests.small_course import code, make_course, markdown, needs_jail


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def released(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "ch02"
    release.release("ch02", folder, root)
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
        return " ".join(release.leaks(folder, "ch02", root))

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
    assert "other exercises" in found_after(
        lambda f: (f / "shared/exercises/ch03.py").write_text("")
    )
    assert "no place" in found_after(lambda f: (f / "ch02_solutions.txt").write_text(""))


def test_a_release_replaces_an_earlier_one_and_nothing_else(root, tmp_path):
    folder = tmp_path / "ch02"
    release.release("ch02", folder, root)
    (folder / "old.txt").write_text("")
    release.release("ch02", folder, root)
    assert not (folder / "old.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("")
    with pytest.raises(release.ReleaseError, match="name another"):
        release.release("ch02", tmp_path / "mine", root)
    assert (tmp_path / "mine/thesis.txt").exists()
    with pytest.raises(release.ReleaseError, match="no exercises 'ch09'; there are: ch02"):
        release.release("ch09", tmp_path / "ch09", root)


@pytest.mark.parametrize("path", build.solved_notebooks(), ids=lambda path: path.stem)
def test_every_chapter_can_be_released(path, tmp_path):
    label = path.stem.removesuffix("_solutions")
    folder = tmp_path / label
    release.release(label, folder)  # refuses what gives something away
    module = (folder / "shared/previous_chapters.py").read_text()
    offered = release.exported(module)
    notebook = nbformat.read(folder / build.blank_path(path).name, as_version=4)
    checks = (folder / f"shared/exercises/{label}.py").read_text()
    for text in (release.code_of(notebook), checks):
        used = {n.rpartition(".")[2] for n in release.imported(text) if ".previous_chapters." in n}
        assert used <= offered, f"{path.name} needs what only later chapters export"
    for file in folder.rglob("*.py"):
        for name in release.imported(file.read_text()):
            module = folder.joinpath(*name.split(".")[:2])
            assert module.is_dir() or module.with_suffix(".py").exists(), f"{file} needs {name}"


# --- nbgrader itself


def nbgrader(folder, *arguments):
    """Run nbgrader there, and return what it said."""
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def nbgrader_folder(root, tmp_path_factory):
    """A course folder of nbgrader's with the release that nbgrader made."""
    folder = tmp_path_factory.mktemp("nbgrader")
    release.nbgrader_course("ch02", folder, root)
    nbgrader(folder, "generate_assignment", "ch02")
    return folder


def test_nbgrader_makes_the_same_release(root, nbgrader_folder):
    theirs = nbformat.read(nbgrader_folder / "release/ch02/ch02_exercises.ipynb", as_version=4)
    ours = release.students_notebook(release.source_path("ch02", root))
    assert [c.source.strip() for c in theirs.cells] == [c.source.strip() for c in ours.cells]
    ids = [
        [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in notebook.cells]
        for notebook in (theirs, ours)
    ]
    assert ids[0] == ids[1]


@needs_jail
def test_nbgrader_grades_in_the_jail(root, nbgrader_folder):
    from nbgrader.api import Gradebook

    folder = nbgrader_folder / "submitted/anna/ch02"
    shutil.copytree(nbgrader_folder / "release/ch02", folder)
    path = folder / "ch02_exercises.ipynb"
    notebook = nbformat.read(path, as_version=4)
    secret = str(root / "appendix")
    for cell in notebook.cells:
        if cell.get("id") == "answer-2-1":
            cell.source = f"import os\nif not os.path.exists({secret!r}):\n    add = int.__add__"
        if cell.get("id") == "answer-2-2":
            cell.source = "def double(x):\n    return 3 * x"
    nbformat.write(notebook, path)
    nbgrader(nbgrader_folder, "autograde", "ch02")
    with Gradebook(f"sqlite:///{nbgrader_folder / 'gradebook.db'}") as book:
        found = book.find_submission("ch02", "anna")
        scores = {grade.name: grade.score for grade in found.notebooks[0].grades}
    assert scores == {"check_2_1": 3, "check_2_2": 0, "check_2_3": 0}


def test_what_students_must_not_see_may_not_lie_where_they_look(tmp_path):
    jail.refuse_if_seen(tmp_path)
    with pytest.raises(jail.JailError, match="which students' code can read: move it"):
        jail.refuse_if_seen(tmp_path, jail.Path(sys.prefix) / "class")


def test_the_guide_gives_the_hours_that_the_exercises_give_themselves():
    guide = (ROOT / "appendix/teaching/README.md").read_text("utf-8")
    for path in build.solved_notebooks():
        if not path.name.startswith("ch"):
            continue
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        hours = sum(int(n) for n in re.findall(r"· (\d+) minutes\*$", text, re.M)) / 60
        number = build.chapter_of(path)
        told = re.search(rf"\| (?:\[{number} \w|{number}, the rest).*?\| ([\d.]+) h", guide)
        assert told and abs(float(told[1]) - hours) <= 0.5, f"{path.name}: {hours:.1f} h"


def test_the_guide_leads_nowhere_wrong():
    folder = ROOT / "appendix/teaching"
    for target in re.findall(r"\]\((?!https)([^)]+)\)", (folder / "README.md").read_text("utf-8")):
        assert (folder / target).is_file(), target
