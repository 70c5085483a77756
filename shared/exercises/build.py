"""Make the notebooks of exercises from the solved ones in appendix/c_exercise_solutions.

From `chNN_solutions.ipynb` comes `chNN_exercises.ipynb` beside the chapter; from
`app_d_solutions.ipynb`, `d_exercises.ipynb` beside appendix D.

    python -m shared.exercises            write what is not current
    python -m shared.exercises --check    compare only; exit with 1 and say what differs

The source is in nbgrader's format: `### BEGIN SOLUTION` to `### END SOLUTION` becomes a line to
fill in, `### BEGIN HIDDEN TESTS` to `### END HIDDEN TESTS` goes, and so does every cell tagged
`solution`. All else stays, cell ids and nbgrader's metadata included.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from shared.artifacts import ROOT

SOURCES = ROOT / "appendix" / "c_exercise_solutions"
STUB = "pass  # your answer"
SOLUTION = re.compile(
    r"^([ \t]*)### BEGIN SOLUTION[^\n]*\n.*?^[ \t]*### END SOLUTION[^\n]*$", re.M | re.S
)
HIDDEN = re.compile(
    r"\n?^[ \t]*### BEGIN HIDDEN TESTS[^\n]*\n.*?^[ \t]*### END HIDDEN TESTS[^\n]*$", re.M | re.S
)
MARK = re.compile(r"###\s*(BEGIN|END)\s+(SOLUTION|HIDDEN TESTS)")


class BuildError(ValueError):
    """A solved notebook cannot be given blanks; says which cell."""


def solved_notebooks(root: Path = ROOT) -> list[Path]:
    """The sources, in the course's order: chapters, then appendices."""
    folder = root / SOURCES.relative_to(ROOT)
    chapters = sorted(folder.glob("ch[0-9][0-9]_solutions.ipynb"))
    return chapters + sorted(folder.glob("app_[a-z]_solutions.ipynb"))


def chapter_of(source: Path) -> str:
    """What the exercises' numbers begin with: "3" for ch03_solutions, "D" for app_d_solutions."""
    part = source.stem.removesuffix("_solutions")
    return str(int(part[2:])) if part.startswith("ch") else part[-1].upper()


def blank_path(source: Path, root: Path = ROOT) -> Path:
    """Where the exercises of a solved notebook belong: beside their chapter or appendix.

    Raises:
        BuildError: there is no such chapter.
    """
    part = source.stem.removesuffix("_solutions")
    name = part if part.startswith("ch") else part[-1]
    where = root if part.startswith("ch") else root / "appendix"
    folders = sorted(path for path in where.glob(f"{name}_*") if path.is_dir())
    if not folders:
        raise BuildError(f"{source.name}: there is no folder {name}_…")
    return folders[0] / f"{name}_exercises.ipynb"


def without_answers(text: str, where: str) -> str:
    """The source of a cell with blanks in place of its answers.

    Raises:
        BuildError: a region that begins and does not end, or the other way round.
    """
    text = SOLUTION.sub(lambda found: found[1] + STUB, text)
    text = HIDDEN.sub("", text).strip("\n")
    if left := MARK.search(text):
        raise BuildError(f"{where}: {left[0]!r} has no other end")
    return text


def with_blanks(solved: NotebookNode, name: str) -> NotebookNode:
    """The notebook of exercises: no answers, no hidden tests, no outputs.

    Raises:
        BuildError: see `without_answers`.
    """
    made = copy.deepcopy(solved)
    made.cells = []
    for number, cell in enumerate(solved.cells, 1):
        if "solution" in cell.metadata.get("tags", []):
            continue
        cell = copy.deepcopy(cell)
        cell.source = without_answers(cell.source, f"{name}, cell {number}")
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        made.cells.append(cell)
    return made


def same_source(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks differ in their outputs at most."""
    parts = [
        [(c.id, c.cell_type, c.source, c.metadata) for c in notebook.cells]
        for notebook in (one, other)
    ]
    return parts[0] == parts[1]


def build(root: Path = ROOT, write: bool = True) -> list[Path]:
    """Write the notebooks of exercises that are not current (or only find them); which they are.

    Raises:
        BuildError: a source cannot be used.
    """
    stale = []
    for source in solved_notebooks(root):
        target = blank_path(source, root)
        made = with_blanks(nbformat.read(source, as_version=4), source.name)
        if target.exists() and same_source(made, nbformat.read(target, as_version=4)):
            continue
        stale.append(target)
        if write:
            nbformat.write(made, target)
    return stale


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m shared.exercises", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="compare only")
    options = parser.parse_args(arguments)
    try:
        stale = build(write=not options.check)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for path in stale:
        word = (
            "is not what its solutions say"
            if options.check
            else "written; run it to save its outputs"
        )
        print(f"{path.relative_to(ROOT)}: {word}")
    if not stale:
        print("the exercises are what their solutions say")
    return int(options.check and bool(stale))
