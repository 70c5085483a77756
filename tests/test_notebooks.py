"""What every committed notebook must be like, read from the files; running them is nbval's part."""

from __future__ import annotations

import ast
import copy
import json
import re
import subprocess
import sys

import nbformat
import pytest

from shared.artifacts import ROOT
from shared.export import (
    APPENDICES,
    MODULE,
    appendix_notebooks,
    chapter_notebooks,
    collect,
    drift,
    read_chapter,
)
from shared.notebooks import all_notebooks, tidy

LONGEST = 30  # non-blank lines of a code cell; most are far shorter
CHECKED, IGNORED = "nbval-check-output", "nbval-ignore-output"
MACHINE_PATH = re.compile(r"(?<![\w.])(/home/|/root/|/Users/|/tmp/|/work/|/var/|[A-Z]:\\)\S*")
EVERY = all_notebooks()
CHAPTERS = chapter_notebooks()


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    """(number as a reader counts, cell) of each code cell."""
    return [(i, c) for i, c in enumerate(notebook.cells, 1) if c.cell_type == "code"]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def texts(cell) -> list[str]:
    """What a cell printed or showed as text or a table; a picture's stand-in text is none."""
    found = [o.text for o in cell.outputs if o.output_type == "stream"]
    for output in cell.outputs:
        kinds = output.get("data", {})
        if not any(kind.startswith("image/") for kind in kinds):
            found += [text for kind, text in kinds.items() if kind.startswith("text/")]
    return [text for text in found if text.strip()]


def statements(notebook):
    """The parsed code of each cell that is Python alone, with its number."""
    for number, cell in code_cells(notebook):
        try:
            yield number, ast.parse(cell.source).body
        except SyntaxError:
            continue


def named(path) -> str:
    return path.stem


every = pytest.mark.parametrize("path", EVERY, ids=named)
chapters = pytest.mark.parametrize("path", CHAPTERS, ids=named)


@every
def test_it_ran_whole_and_in_order(path):
    cells = code_cells(read(path))
    empty = [i for i, c in cells if not c.source.strip()]
    assert not empty, f"{path.name}: empty code cells {empty}"
    counts = [c.execution_count for _, c in cells]
    hint = f"run: python -m shared.notebooks run {path.relative_to(ROOT)}"
    assert counts == list(range(1, len(cells) + 1)), f"{path.name}: counts {counts}; {hint}"


@every
def test_it_has_no_errors_and_no_warnings(path):
    for number, cell in code_cells(read(path)):
        for output in cell.outputs:
            place = f"{path.name}, cell {number}"
            if "raises-exception" not in tags(cell):
                assert output.output_type != "error", f"{place}: saved error {output.get('evalue')}"
            assert output.get("name") != "stderr", f"{place}: saved stderr {output.text[:200]!r}"


@every
def test_it_is_tidy(path):
    notebook = read(path)
    ids = [cell.get("id") for cell in json.loads(path.read_text("utf-8"))["cells"]]
    assert len(set(ids)) == len(ids) and all(ids), f"{path.name}: ids missing or doubled"
    tidied = tidy(copy.deepcopy(notebook))
    hint = f"run: python -m shared.notebooks tidy {path.relative_to(ROOT)}"
    assert notebook.metadata == tidied.metadata, f"{path.name}: metadata; {hint}"
    for number, (cell, other) in enumerate(zip(notebook.cells, tidied.cells, strict=True), 1):
        assert cell.metadata == other.metadata, f"{path.name}, cell {number}: metadata; {hint}"
        assert cell == other, f"{path.name}, cell {number}: {hint}"


@every
def test_what_it_prints_is_either_compared_or_not(path):
    for number, cell in code_cells(read(path)):
        chosen = tags(cell) & {CHECKED, IGNORED}
        assert len(chosen) < 2, f"{path.name}, cell {number}: {CHECKED} and {IGNORED} together"
        shown = texts(cell)
        assert chosen or not shown, (
            f"{path.name}, cell {number} prints {shown[0][:60]!r}: tag it {CHECKED} if it must be "
            f"the same on every machine, {IGNORED} if not"
        )


@every
def test_what_is_compared_does_not_end_in_a_semicolon(path):
    # nbval keeps no history, by which IPython knows that a result was not to be shown
    for number, cell in code_cells(read(path)):
        if CHECKED in tags(cell):
            quiet = cell.source.rstrip().endswith(";")
            assert not quiet, f"{path.name}, cell {number}: give the result a name instead of the ;"


@every
def test_its_outputs_name_no_place_on_a_machine(path):
    for number, cell in code_cells(read(path)):
        for text in texts(cell):
            found = MACHINE_PATH.search(text)
            assert not found, f"{path.name}, cell {number} shows {found[0]!r}"
            assert str(ROOT) not in text, f"{path.name}, cell {number} shows the course's folder"


@every
def test_its_pictures_are_its_own(path):
    for number, cell in enumerate(read(path).cells, 1):
        if cell.cell_type != "markdown":
            continue
        linked = re.findall(
            r"!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img[^>]*src=[\"']([^\"']+)", cell.source
        )
        for target in (a or b for a, b in linked):
            assert not re.match(r"\w+:|//", target), (
                f"{path.name}, cell {number} links {target}: draw it, or keep the file beside it"
            )
            assert (path.parent / target).is_file(), f"{path.name}, cell {number}: no {target}"


@every
def test_its_cells_can_be_read_in_one_breath(path):
    for number, cell in code_cells(read(path)):
        lines = sum(bool(line.strip()) for line in cell.source.splitlines())
        assert lines <= LONGEST, f"{path.name}, cell {number}: {lines} lines; split it"


@every
def test_it_is_written_with_respect(path):
    for number, cell in enumerate(read(path).cells, 1):
        if cell.cell_type == "markdown":
            prose = re.sub(
                r"```.*?```|`[^`]*`|\"[^\"]*\"|\*\"?[^*]*\"?\*", "", cell.source, flags=re.S
            )
            found = re.search(r"\b(simply|obviously|just)\b", prose, flags=re.IGNORECASE)
            assert not found, f"{path.name}, cell {number} says {found[0]!r}: rephrase it"


@chapters
def test_it_has_the_parts_of_a_chapter(path):
    notebook = read(path)
    code = [c for _, c in code_cells(notebook)]
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    pictures = sum("image/png" in o.get("data", {}) for c in code for o in c.outputs)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert sum("parameters" in tags(c) for c in code) == 1, f"{path.name}: one `parameters` cell"
    assert any(re.search(r"^panel\(", c.source, re.M) for c in code), f"{path.name}: a live panel"
    assert any("assert " in c.source for c in code), f"{path.name}: checks"
    assert pictures >= 5, f"{path.name}: {pictures} figures, at least 5"
    for heading in ("Summary", "Exercises"):
        assert re.search(rf"^#+ .*{heading}", prose, re.M | re.I), f"{path.name}: {heading}"


def exporting():
    """Every notebook that exports, with its names, in the course's order."""
    return [read_chapter(path)[0] for path in [*CHAPTERS, *appendix_notebooks()]]


def place_of(path) -> float:
    """How far in the course a notebook stands.

    A chapter's exercises may use the chapters before it, since a student's copy has no more; an
    appendix's exercises may use their appendix.
    """
    name = path.stem
    if number := re.match(r"ch(\d\d)_", name):
        return int(number[1])
    letter = name.removeprefix("app_")[0]
    return 100 + ord(letter) + 0.5 * name.endswith(("_exercises", "_solutions"))


@every
def test_it_imports_only_from_earlier_chapters(path):
    offered = {
        (chapter.module, name)
        for chapter in exporting()
        if chapter.number < place_of(path)
        for name in chapter.names
    }
    for cell, body in statements(read(path)):
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.module in (MODULE, APPENDICES):
                for alias in node.names:
                    place = f"{path.name}, cell {cell}"
                    assert (node.module, alias.name) in offered, (
                        f"{place}: nothing earlier exports {alias.name} to {node.module}"
                    )


@every
def test_it_defines_nothing_that_another_chapter_exports(path):
    exported = {}
    for chapter in exporting():
        if chapter.notebook != path:
            exported |= dict.fromkeys(chapter.names, chapter.notebook.name)
    for number, body in statements(read(path)):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in exported:
                pytest.fail(
                    f"{path.name}, cell {number}: {exported[node.name]} exports {node.name}"
                )


def test_the_generated_module_is_current():
    changes = drift() + drift(module=APPENDICES)
    assert not changes, "run `make export`:\n" + "\n".join(changes)


def test_every_public_definition_is_documented_and_typed():
    for chapter in collect():
        for block in chapter.blocks:
            if not block.is_definition or block.names[0].startswith("_"):
                continue
            place = f"{block.cell.notebook.name}, cell {block.cell.number}: {block.names[0]}"
            node = ast.parse("\n".join(block.lines)).body[0]
            assert ast.get_docstring(node), f"{place} has no docstring"
            functions = [node] if isinstance(node, ast.FunctionDef) else node.body
            for function in (f for f in functions if isinstance(f, ast.FunctionDef)):
                given = function.args
                named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
                bare = [a.arg for a in named if not a.annotation and a.arg not in ("self", "cls")]
                assert not bare, f"{place}: {function.name} has no types for {bare}"
                assert function.returns, f"{place}: {function.name} has no type for its result"


def ruff(*arguments):
    pytest.importorskip("ruff")
    command = [sys.executable, "-m", "ruff", *arguments, "."]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff_finds_nothing_in_modules_and_notebooks():
    ruff("check", "--quiet")


def test_ruff_would_format_no_module_otherwise():
    ruff("format", "--quiet", "--check")
