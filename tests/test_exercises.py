"""The exercises: their form, their checks on right and wrong answers, and what a reader sees."""

from __future__ import annotations

import re
from collections import Counter

import nbformat
import pytest

from shared.exercises import build, checking
from shared.exercises.checking import Wrong, check, examine, exercises_of, require, solved
from shared.exercises.questions import ask, questions_of
from tests.mutants.cases import cases

SOLVED = build.solved_notebooks()
CASES = cases()
HEADER = re.compile(
    r"^\*(?P<kind>[^·*]+) · difficulty (?P<difficulty>[●○]{5}) · "
    r"importance (?P<importance>[●○]{5}) · (?P<minutes>\d+) minutes\*$",
    re.M,
)
solved_notebooks = pytest.mark.parametrize("path", SOLVED, ids=lambda path: path.stem)


number_of = build.chapter_of


def prose_of(notebook) -> str:
    return "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


@pytest.fixture(params=SOLVED, ids=lambda path: path.stem)
def both(request):
    """A solved notebook and the one with blanks."""
    path = request.param
    blank = nbformat.read(build.blank_path(path), as_version=4)
    return path, nbformat.read(path, as_version=4), blank


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.number} {c.what}")
def test_right_answers_are_accepted_and_wrong_ones_told_why(case):
    verdict = case.verdict()
    assert case.goes_as_it_should(verdict), f"{verdict.kind}: {verdict.text}"


@solved_notebooks
def test_each_exercise_has_a_second_right_answer_and_a_wrong_one(path):
    numbers = exercises_of(checking.module_of(number_of(path) + ".1"))
    rights = Counter(case.number for case in CASES if case.is_right)
    wrongs = Counter(case.number for case in CASES if not case.is_right)
    assert not [n for n in numbers if not rights[n]], "no other right answer for these"
    assert not [n for n in numbers if not wrongs[n]], "no wrong answer for these"


@solved_notebooks
def test_no_check_takes_a_blank_or_a_stranger_for_an_answer(path):
    for number in exercises_of(checking.module_of(number_of(path) + ".1")):
        answers = next(c.make() for c in CASES if c.number == number and c.is_right)
        answers = answers if isinstance(answers, tuple) else (answers,)
        blank = examine(number, tuple(None for _ in answers))
        strange = examine(number, tuple((lambda *a, **k: "?") for _ in answers))
        assert blank.kind == "unanswered"
        assert strange.kind in ("wrong", "raised"), f"{number}: {strange}"


def test_the_notebooks_with_blanks_are_current():
    stale = [path.name for path in build.build(write=False)]
    assert not stale, f"run `python -m shared.exercises`: {stale}"


def test_every_exercise_stands_whole_in_its_notebook(both):
    path, notebook, blank = both
    number = number_of(path)
    known = exercises_of(checking.module_of(number + ".1"))
    prose, code = prose_of(blank), "\n".join(c.source for c in blank.cells if c.cell_type == "code")
    least = 1 if number == "1" else 6 if number.isdigit() else 4
    assert len(known) >= least, f"{path.name}: {len(known)} exercises, at least {least}"
    assert len(HEADER.findall(prose)) == len(known), "a header for each exercise"
    assert prose.count("<details>") >= 3 * len(known), "three hints for each exercise"
    for name, task in known.items():
        assert f"## {name} · {task.title}" in prose, f"{path.name}: no heading for {name}"
        assert f'check("{name}",' in code, f"{path.name}: no check of {name}"
        assert f'solved("{name}")' in code, f"{path.name}: no reward for {name}"


def test_every_quick_question_is_asked(both):
    path, _, blank = both
    code = "\n".join(c.source for c in blank.cells if c.cell_type == "code")
    asked = questions_of(number_of(path) + ".a")
    least = 5 if number_of(path).isdigit() else 0
    assert len(asked) >= least, f"{path.name}: {len(asked)} questions, at least {least}"
    assert not [name for name in asked if f'ask("{name}")' not in code]


def test_the_solved_notebook_is_right_and_the_other_is_unanswered(both):
    path, notebook, blank = both
    for book, mark in ((notebook, "✓"), (blank, "…✗")):
        for cell in book.cells:
            if cell.cell_type == "code" and cell.source.startswith("check("):
                said = "".join(o.get("text", "") for o in cell.outputs)
                assert said[:1] and said[0] in mark, f"{path.name}: {cell.source!r} said {said!r}"


def test_nothing_of_the_answers_is_left_in_the_blanks(both):
    _, notebook, blank = both
    text = "\n".join(c.source for c in blank.cells)
    assert "SOLUTION" not in text and "HIDDEN" not in text
    given = {line.strip() for line in text.splitlines()}
    for cell in notebook.cells:
        for found in build.SOLUTION.finditer(cell.source):
            lines = [x.strip() for x in found[0].splitlines()[1:-1]]
            long = [x for x in lines if len(x) > 30 and not x.startswith("def ")]
            assert not long or not set(long) <= given, f"an answer stands in the blanks: {long}"


def test_it_is_in_nbgraders_format(both):
    path, notebook, _ = both
    ids = [c.metadata.nbgrader.grade_id for c in notebook.cells if "nbgrader" in c.metadata]
    assert len(set(ids)) == len(ids), "grade ids are unique"
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader")
        if "### BEGIN SOLUTION" in cell.source:
            assert marks and marks.solution and not marks.grade, cell.source[:60]
        if "### BEGIN HIDDEN TESTS" in cell.source:
            assert marks and marks.grade and marks.locked and marks.points > 0, cell.source[:60]
        if cell.source.startswith("check("):
            assert "### BEGIN HIDDEN TESTS" in cell.source, f"{path.name}: no hidden test"


# --- the machinery itself, on a small exercise of its own


@pytest.fixture
def sums(monkeypatch):
    """An exercise that stands nowhere: add two numbers."""

    @checking.exercise("0.1", "Adding")
    def adding(dice, answer):
        checking.expect_same(answer(2, 3), 5, "2 and 3")
        return "Good."

    monkeypatch.setattr(checking, "find", lambda number: adding)
    monkeypatch.setattr(checking, "_solved", {})


def test_a_right_answer_is_praised_and_unlocks_its_reward(sums, capsys):
    check("0.1", lambda a, b: a + b)
    assert capsys.readouterr().out == "✓ 0.1 Adding: right. Good.\n"
    assert solved("0.1") and not capsys.readouterr().out


def test_a_wrong_answer_is_told_what_is_wrong_and_stops_nothing(sums, capsys):
    check("0.1", lambda a, b: a * b)
    assert capsys.readouterr().out == "✗ 0.1 Adding: 2 and 3: 6, expected 5.\n"
    assert not solved("0.1") and "when exercise 0.1 is solved" in capsys.readouterr().out


def test_an_error_is_told_with_the_readers_own_line(sums, capsys):
    def add(a, b):
        return a + nothing  # noqa: F821

    check("0.1", add)
    said = capsys.readouterr().out
    assert "NameError" in said and "return a + nothing" in said and "Traceback" not in said


def test_what_was_left_blank_is_not_wrong(sums, capsys):
    def add(a, b):
        """Add two numbers."""
        ...

    class Adder:
        def __init__(self):
            self.x = 1

        def forward(self, a):
            """Add."""
            ...

    for blank in (None, ..., add, Adder):
        check("0.1", blank)
        assert "not answered yet" in capsys.readouterr().out


def test_a_grader_gets_an_error_for_all_that_is_not_right(sums):
    require("0.1", lambda a, b: a + b, seed=3)
    for answer in (None, lambda a, b: 0, lambda a, b: 1 / 0):
        with pytest.raises(Wrong, match="Adding"):
            require("0.1", answer, seed=3)


def test_a_check_disturbs_nobodys_random_numbers(sums):
    import random

    import numpy as np
    import torch

    def draws():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def spoil(a, b):
        draws()
        torch.manual_seed(5)
        random.seed(5)
        torch.set_grad_enabled(False)
        return a + b

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first = draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    check("0.1", spoil)
    assert draws() == first and torch.is_grad_enabled()


def test_unknown_numbers_are_named():
    with pytest.raises(KeyError, match="there are no exercises of '77'"):
        check("77.1", 1)
    with pytest.raises(KeyError, match=r"no exercise '3\.99'; there are 3\.1"):
        check("3.99", 1)
    with pytest.raises(KeyError, match="no question"):
        ask("3.z")


def test_a_difference_is_told_by_its_place():
    for given, wanted, told in (
        ([1, 2], [1, 3], r"x at \[1\]: 2, expected 3"),
        ([[1.0]], [1.0], r"of shape \(1, 1\), expected of shape \(1,\)"),
        (float("nan"), 1.0, "nan, expected 1"),
        ("a", "b", "'a', expected 'b'"),
        (True, 1, "True, expected 1"),
    ):
        with pytest.raises(Wrong, match=told):
            checking.expect_same(given, wanted, "x")
    checking.expect_same(1.0, 1.0 + 1e-7, "x")
    checking.expect_same(float("nan"), float("nan"), "x")


def test_a_question_answers_a_click_and_a_letter(capsys):
    asked = next(iter(questions_of("3.a").values()))
    marks = {letter: asked.feedback(letter)[0] for letter in "abcdef"[: len(asked.choices)]}
    assert sorted(marks.values()).count("✓") == 1
    ask("3.a", "a")
    assert capsys.readouterr().out.strip() == asked.feedback("a")
    with pytest.raises(ValueError, match="expected one of"):
        ask("3.a", "z")


def test_a_region_without_an_end_is_refused():
    assert build.without_answers(
        "x = 1\n    ### BEGIN SOLUTION\n    y = 2\n    ### END SOLUTION", ""
    ) == ("x = 1\n    pass  # your answer")
    with pytest.raises(build.BuildError, match="cell 3.*no other end"):
        build.without_answers("### BEGIN SOLUTION\nx = 1", "cell 3")
