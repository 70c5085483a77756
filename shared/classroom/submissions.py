"""What students handed in: found, read with caution, and its checks put back as they were."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from shared.artifacts import ROOT
from shared.classroom.release import source_path, students_notebook
from shared.exercises import build

LARGEST = 50 << 20  # bytes of a submission


class Unreadable(ValueError):
    """There is nothing to grade; why, as one would tell the student."""


@dataclass(frozen=True)
class Task:
    """One exercise: its check with the hidden tests, and what it is worth."""

    number: str
    title: str
    points: float
    check_ids: tuple[str, ...]  # nbgrader's for its cell, and the cell's own
    check: str
    shown: str  # the check as the students have it
    answer_ids: tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """What a chapter's submissions are graded by."""

    label: str
    name: str  # of the file that students hand in
    tasks: tuple[Task, ...]
    blank: NotebookNode
    digest: str


@dataclass(frozen=True)
class Step:
    """A cell to run: the student's own, or the check of a task."""

    source: str
    number: str  # of the exercise that it belongs to, or that it checks; "" after the last
    is_check: bool = False


def digest_of(*parts: bytes | str) -> str:
    """Hexadecimal digits that change when any part does."""
    whole = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()[:16]


def read_key(label: str, root: Path = ROOT) -> Key:
    """The exercises of a chapter from its solved notebook.

    Raises:
        shared.classroom.release.ReleaseError: there is none.
    """
    path = source_path(label, root)
    solved = nbformat.read(path, as_version=4)
    titles = dict(
        re.findall(r"^## ([\w.]+) · (.+)$", "\n".join(c.source for c in solved.cells), re.M)
    )
    tasks, answers = [], []
    for cell in solved.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution"):
            answers += [marks["grade_id"], cell.id]
        if marks.get("grade") and marks.get("locked"):
            found = re.search(r"\b(?:check|require)\(\s*[\"']([\w.]+)[\"']", cell.source)
            number = found[1] if found else marks["grade_id"]
            tasks.append(
                Task(
                    number,
                    titles.get(number, marks["grade_id"]),
                    float(marks["points"]),
                    (marks["grade_id"], cell.id),
                    cell.source,
                    build.without_answers(cell.source, path.name),
                    tuple(answers),
                )
            )
            answers = []
    checks = root / "shared" / "exercises" / f"{label}.py"
    parts = [path.read_bytes(), checks.read_bytes() if checks.exists() else b""]
    parts.append((root / "shared" / "exercises" / "checking.py").read_bytes())
    name = build.blank_path(path, root).name
    return Key(label, name, tuple(tasks), students_notebook(path), digest_of(*parts))


# Finding


def students(folder: Path) -> list[str]:
    """Who is to be graded: the names in `students.txt`, if there is one, and all who handed in.

    Raises:
        FileNotFoundError: there is no folder `submitted`.
        ValueError: a name in the list that no folder can have.
    """
    submitted = folder / "submitted"
    if not submitted.is_dir():
        raise FileNotFoundError(
            f"{submitted} is not there: put what was handed in into {submitted}/STUDENT/…"
        )
    listed = folder / "students.txt"
    names = listed.read_text("utf-8").splitlines() if listed.is_file() else []
    found = {name.strip() for name in names if name.strip()}
    for name in found:
        if Path(name).name != name:
            raise ValueError(f"{listed}: {name!r} cannot be the name of a folder in {submitted}")
    return sorted(found | {p.name for p in submitted.iterdir() if not p.name.startswith(".")})


def find(folder: Path, student: str, name: str) -> tuple[Path, str]:
    """A student's notebook, and a word about it if it was not where or what was expected.

    Links are not followed: one could lead to somebody else's work.

    Raises:
        Unreadable: there is none, or there are several and none has the right name.
    """
    home = folder / "submitted" / student
    if home.is_symlink() or not home.is_dir():
        raise Unreadable("nothing was handed in")
    found = []
    for path, folders, files in os.walk(home):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [Path(path) / f for f in sorted(files) if f.endswith(".ipynb")]
    found = [path for path in found if not path.is_symlink() and path.is_file()]
    of_chapter = [path for path in found if path.name.startswith(name.partition("_")[0] + "_")]
    right = [path for path in of_chapter if path.name == name]
    if right:
        return right[0], f"{len(right)} files of this name, {right[0]} graded" * (len(right) > 1)
    others = of_chapter or [
        path for path in found if not re.match(r"(ch\d\d|[a-z])_exercises", path.name)
    ]
    if len(others) == 1:
        return others[0], f"the file is called {others[0].name}, expected {name}"
    if not others:
        raise Unreadable(f"nothing was handed in: there is no {name}")
    listed = ", ".join(path.name for path in others[:5])
    raise Unreadable(f"there is no {name}, and more than one other notebook: {listed}")


def handed_in(path: Path, home: Path) -> datetime:
    """When: from nbgrader's `timestamp.txt` beside the file or above it, else the file's date."""
    for folder in (path.parent, *path.parents):
        stamp = folder / "timestamp.txt"
        if stamp.is_file() and not stamp.is_symlink():
            try:
                text = stamp.read_text("utf-8")[:40].strip().replace(" UTC", "+00:00")
                return datetime.fromisoformat(text.replace(" +", "+")).astimezone()
            except (OSError, ValueError):
                pass
        if folder == home:
            break
    return datetime.fromtimestamp(path.stat().st_mtime).astimezone()


def read(path: Path) -> NotebookNode:
    """A notebook that anybody may have written.

    Raises:
        Unreadable: it is no notebook.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise Unreadable(
            f"the file has {size >> 20} MB, more than the {LARGEST >> 20} MB that are read: "
            "clear its outputs and hand it in again"
        )
    try:
        notebook = nbformat.reads(path.read_text("utf-8"), as_version=4)
        for cell in notebook.cells:
            if not (isinstance(cell.source, str) and isinstance(cell.metadata, dict)):
                raise TypeError("a cell without text")
            _ = cell.cell_type
    except (Exception, RecursionError) as error:
        raise Unreadable(
            "the file cannot be read as a notebook; it may have been cut off or saved as "
            f"something else ({type(error).__name__})"
        ) from None
    return notebook


# Putting the checks back


def plan(notebook: NotebookNode, key: Key) -> tuple[list[Step], list[str]]:
    """The cells to run, in order, with every check as it is in the source; what was mended.

    A check stands where the student left it, but after its answer; one that is missing or was
    moved before it is put right after the answer.
    """
    notes = []
    cells = [(cell, _task_of(cell, key), _identity(cell)) for cell in notebook.cells]
    places: dict[str, int] = {}
    answered: dict[str, int] = {}
    owner = {identity: task.number for task in key.tasks for identity in task.answer_ids}
    for i, (cell, task, identity) in enumerate(cells):
        if task and task.number not in places:
            places[task.number] = i
            if _words(cell.source) != _words(task.shown):
                notes.append(f"the check of {task.number} had been altered; it was put back")
        if identity in owner:
            answered[owner[identity]] = i
    after: dict[int, list[Task]] = {}
    last = -1
    for task in key.tasks:
        place = places.get(task.number)
        if place is None:
            notes.append(f"the check of {task.number} was missing; it was put back")
            following = [places[t.number] for t in key.tasks if t.number in places]
            following = [p for p in following if p > last]
            place = answered.get(task.number, min(following, default=len(cells)) - 1)
        place = max(place, answered.get(task.number, -1))
        after.setdefault(place, []).append(task)
        last = max(last, place)
    steps: list[Step] = [Step(t.check, t.number, True) for t in after.get(-1, [])]
    for i, (cell, task, identity) in enumerate(cells):
        if not task and (cell.cell_type == "code" or identity in owner) and cell.source.strip():
            steps.append(Step(cell.source, ""))
        steps += [Step(t.check, t.number, True) for t in after.get(i, [])]
    return _belonging(steps), notes


def _belonging(steps: list[Step]) -> list[Step]:
    """The same steps; each of the student's own cells belongs to the next check."""
    number, done = "", []
    for step in reversed(steps):
        number = step.number if step.is_check else number
        done.append(Step(step.source, number, step.is_check))
    return done[::-1]


def _identity(cell: NotebookNode) -> str:
    """What nbgrader calls the cell, or its own id where a program has dropped that."""
    marks = cell.metadata.get("nbgrader")
    named = marks.get("grade_id") if isinstance(marks, dict) else None
    return str(named or cell.get("id", ""))


def _task_of(cell: NotebookNode, key: Key) -> Task | None:
    """The task that a cell is the check of, by nbgrader's mark, its id, or its first words."""
    for task in key.tasks:
        if _identity(cell) in task.check_ids:
            return task
    for task in key.tasks:
        if cell.cell_type == "code" and _words(cell.source) == _words(task.shown):
            return task
    return None


def _words(source: str) -> str:
    return re.sub(r"\s+", "", source)


def answers(notebook: NotebookNode, key: Key) -> dict[str, str]:
    """What the student wrote for each exercise: cells before its check that were not given."""
    given = {_words(cell.source) for cell in key.blank.cells}
    found: dict[str, list[str]] = {task.number: [] for task in key.tasks}
    for step in plan(notebook, key)[0]:
        if not step.is_check and step.number and _words(step.source) not in given:
            found[step.number].append(step.source)
    return {number: "\n\n".join(sources) for number, sources in found.items()}
