"""Appendix B: no bold term without an entry, no link without a target, no source unlisted."""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from shared import glossary as g
from shared.artifacts import ROOT
from shared.references import Reference, named, references, sources, table

NOTEBOOK = ROOT / g.PAGE / "b_further_reading.ipynb"
RERUN = f"run: python -m shared.notebooks run --force {NOTEBOOK.relative_to(ROOT)}"


@pytest.fixture(scope="module")
def course() -> g.Glossary:
    return g.collect()


@pytest.fixture(scope="module")
def shown() -> str:
    """What the saved notebook shows as Markdown, in its text and in its outputs."""
    parts = []
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        for output in cell.get("outputs", []):
            parts.append(output.get("data", {}).get("text/markdown", ""))
    return "\n".join(parts)


# The course's own terms


def test_every_bold_term_has_an_entry_and_every_entry_a_place(course):
    found = g.complaints(course)
    assert not found, "\n".join(found)


def test_no_word_is_both_a_term_and_none(course):
    forms = {g.key_of(form) for e in course.entries for form in (e.term, *e.also)}
    assert not forms & g.not_terms(), f"listed as no terms: {sorted(forms & g.not_terms())}"


def test_the_entries_stand_in_order():
    terms = [entry.term.casefold() for entry in g.entries()]
    assert terms == sorted(terms), "sort shared/glossary.tsv by its first column"


def test_a_meaning_is_a_sentence_or_two(course):
    for entry in course.entries:
        assert entry.meaning[0].isupper() or entry.meaning[0] in "−e1235", entry.term
        assert entry.meaning[-1] in ".)", f"{entry.term}: no full stop"
        assert 15 <= len(entry.meaning) <= 320, f"{entry.term}: {len(entry.meaning)} letters"


def test_the_saved_page_shows_the_glossary_of_today(course, shown):
    missing = [row for t in g.tables(course).values() for row in t.splitlines() if row not in shown]
    assert not missing, f"{len(missing)} rows are not shown, e.g. {missing[0][:80]}; {RERUN}"


def test_the_saved_page_shows_every_paper(shown):
    missing = [paper.title for paper in references() if paper.row() not in shown]
    assert not missing, f"not shown as they are now: {missing}; {RERUN}"


def test_every_link_of_the_page_has_its_target(shown):
    links = set(re.findall(r"\]\(([^)\s]+)\)", shown))
    assert len(links) > 100
    cells: dict[Path, set[str]] = {}
    for link in links:
        path, _, target = unquote(link).partition("#")
        notebook = (NOTEBOOK.parent / path).resolve()
        assert notebook.is_file(), f"{link}: no such file; {RERUN}"
        if notebook not in cells:
            cells[notebook] = {c.id for c in nbformat.read(notebook, as_version=4).cells}
        if target:
            kind, _, cell = target.partition("=")
            assert kind == "cell-id", f"{link}: expected #cell-id=…"
            assert cell in cells[notebook], f"{notebook.name} has no cell {cell!r}; {RERUN}"


def test_a_link_s_cell_holds_the_term_under_the_heading_named(course):
    """Looked up anew: the cell has the bold words, and the last heading up to it is the one."""
    read = cache(partial(nbformat.read, as_version=4))
    for entry in course.entries:
        forms = {g.key_of(form) for form in (entry.term, *entry.also)}
        for place in entry.places:
            heading, number = "", ""
            for cell in read(ROOT / place.notebook).cells:
                if cell.cell_type == "markdown":
                    prose = re.sub(r"```.*?```", "", cell.source, flags=re.S)
                    above = [g.plain(h) for h in re.findall(r"^#+ (.*)$", prose, re.M)]
                    heading = above[-1] if above else heading
                    for one in above:
                        number = one.split()[0] if re.match(r"[A-Z\d]+\.\d", one) else number
                if cell.id == place.cell:
                    break
            stands = any(f"**{form}**" in g.key_of(cell.source) for form in forms)
            assert cell.id == place.cell and stands, f"{entry.term}: {place}"
            assert place.heading in (heading, *above), f"{entry.term}: {place}"
            assert number == place.section, f"{entry.term}: {place}"


# The rule


@pytest.mark.parametrize(
    "words", ["KV cache", "`DataLoader`", "one-hot", "n-gram", "F1", "expected calibration error"]
)
def test_what_may_be_a_term(words):
    assert not g.rule_out(words, f"This is called **{words}**.")


@pytest.mark.parametrize(
    "words",
    ["Break it.", "Why so:", "the head alone", "what is carried home", "(5, 1)", "✓", "C", "12",
     "a bug is no discovery at all", "chapter 4", "Shift + Enter", "You should know"],
)  # fmt: skip
def test_what_is_no_term(words):
    assert g.rule_out(words, f"**{words}**")


def test_what_stands_in_a_table_is_no_term():
    assert g.rule_out("together", "| **together** | 8 |")
    assert not g.rule_out("together", "> **together** | 8")


# A small course of one chapter


def course_of(root: Path, *cells: str, name: str = "ch01_small") -> Path:
    path = root / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(c) for c in cells])
    nbformat.write(notebook, path)
    return path


def written(folder: Path, *lines: str) -> Path:
    path = folder / "entries.tsv"
    path.write_text("\n".join((g.COLUMNS, *lines)) + "\n", "utf-8")
    return path


def test_a_new_term_is_missed_and_a_lost_one_reported(tmp_path):
    course_of(tmp_path, "# Chapter 1 · Small", "## 1.1 Hens\n\nA **hen** is no **ox**.")
    found = g.collect(tmp_path, written(tmp_path, "ox\t\tA beast.", "yak\t\tAnother."))
    assert list(found.missing) == ["hen"] and found.placeless == ["yak"]
    first, second = g.complaints(found)
    assert "**hen** (ch01_small.ipynb, '1.1 Hens') has no entry" in first and "yak" in second


def test_forms_count_as_the_term_and_places_come_in_the_course_s_order(tmp_path):
    course_of(tmp_path, "# C", "## 2.1 More\n\n**Oxen** again", name="ch02_more")
    course_of(tmp_path, "# C", "Here **`ox`**", "## 1.1 A\n\nx", "### Sub\n\n**oxen**, **ox**")
    found = g.collect(tmp_path, written(tmp_path, "ox\toxen\tA beast."))
    assert [p.label for p in found.entries[0].places] == ["chapter 1", "1.1", "2.1"]
    assert [p.heading for p in found.entries[0].places] == ["C", "Sub", "2.1 More"]
    assert len({p.cell for p in found.entries[0].places}) == 3


def test_summaries_code_and_solved_exercises_are_passed_over(tmp_path):
    course_of(tmp_path, "# C", "`f(**a, **b)` and\n```\n**hen**\n# no heading\n```", "## Summary",
              "1. **cow**")  # fmt: skip
    path = tmp_path / "appendix/c_exercise_solutions/ch01_solutions.ipynb"
    path.parent.mkdir(parents=True)
    (tmp_path / "ch01_small/ch01_small.ipynb").rename(path)
    course_of(tmp_path, *[text for _, text in g.markdown_cells(path)])
    assert not g.collect(tmp_path, written(tmp_path)).missing


def test_links_are_relative_and_quoted():
    place = g.Place(Path("ch03_a/ch03_a.ipynb"), "3.8 Why √n?", "3.8", "check-3_8")
    assert place.link() == "../../ch03_a/ch03_a.ipynb#cell-id=check-3_8"
    assert place.link(Path(".")) == "ch03_a/ch03_a.ipynb#cell-id=check-3_8"
    assert g.Place(Path("a/f_x.ipynb"), "F", "", "1").label == "appendix F"
    assert g.Place(Path("a/ch04_exercises.ipynb"), "4.1 · R", "4.1", "1").label == "exercise 4.1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ox\tA beast.", "line 2: 'ox\\tA beast.'; expected a term"),
        ("ox\t\t", "expected a term"),
        ("ox\toxen\tA beast.\nyak\tOxen\tOne.", "line 3: 'Oxen' stands in line 2 too"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        g.entries(written(tmp_path, line))


def test_half_a_notebook_is_named(tmp_path):
    course_of(tmp_path, "# C").write_text('{"cells": [', "utf-8")
    with pytest.raises(ValueError, match="ch01_small.ipynb is no whole notebook"):
        g.collect(tmp_path, written(tmp_path))


def test_look_up(course):
    by_name = g.look_up("kv  Cache", course)
    assert by_name.startswith("- **KV cache**: ") and by_name.count("\n") == 0
    assert "[4.9](../../ch04_gpt_model/ch04_gpt_model.ipynb#cell-id=" in by_name
    assert "**top-p**" in g.look_up("nucleus", course)
    assert g.look_up("axolotl", course).startswith("Nothing about")
    with pytest.raises(ValueError, match="nothing to look up"):
        g.look_up(" ", course)


# Papers


def test_every_chapter_has_papers_enough():
    found = references()
    for number in range(1, 8):
        assert sum(paper.chapter == str(number) for paper in found) >= 8, f"chapter {number}"


@pytest.mark.parametrize("module", ["previous_chapters", "appendices"])
def test_every_source_that_a_docstring_names_is_listed(module):
    path = ROOT / "shared" / f"{module}.py"
    if not path.exists():
        pytest.skip(f"{path.name} has not been made")
    listed, found = references(), sources(path.read_text("utf-8"))
    dated = [source for source in found if re.search(r"\b(19|20)\d\d\b", source)]
    assert module == "appendices" or len(dated) > 15, "the docstrings' form has changed"
    for source in dated:
        assert named(source, listed), f"add to shared/references.tsv: {source}"


def test_sources_are_read_to_their_end():
    code = '''
    """One.

    Source: Hen and Ox 1999,
        "On yaks", 2.
    """
    """Two.

    Source: Cow (2001).

    Example:
        >>> 1
    """
    '''
    assert sources(code) == ['Hen and Ox 1999, "On yaks", 2.', "Cow (2001)."]
    cow = Reference("1", ("Ann Cow and others",), 2001, "Milk", "Farm", "", "Milk.")
    assert named("Cow (2001).", [cow]) == [cow] and not named("Cowper (2001).", [cow])
    assert not named("Cow (2002).", [cow])


def test_a_row_names_three_authors_at_most():
    paper = Reference("1", ("A B", "C D"), 1999, "T", "V", "", "R.")
    assert paper.row() == "| A B, C D (1999) | *T*. V | R. |"
    many = Reference("1", ("A B", "C D", "E F", "G H"), 1999, "T", "V", "arXiv:1706.03762", "R.")
    assert many.row() == "| A B and others (1999) | *T*. V, arXiv:1706.03762 | R. |"
    asks = Reference("1", ("A B",), 1999, "T?", "arXiv", "arXiv:1706.03762", "R.")
    assert asks.row() == "| A B (1999) | *T?* arXiv:1706.03762 | R. |"
    with pytest.raises(ValueError, match="no papers for chapter '2'; there are some for 1"):
        table("2", [paper])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\tA B\t1999\tT\tV\tR.", "expected seven columns"),
        ("1\tA B\t199\tT\tV\t\tR.", "year '199'"),
        ("1\tA B\t1999\tT\tV\t1706.03762\tR.", "id '1706.03762'"),
        ("1\tA B\t1999\tT\tV\t\tR.\n2\tA B\t1999\tt\tV\t\tR.", "line 3: 't' stands twice"),
    ],
)
def test_a_wrong_reference_is_named(tmp_path, line, message):
    path = tmp_path / "references.tsv"
    columns = "chapter\tauthors\tyear\ttitle\tvenue\tid\tread_for"
    path.write_text(f"{columns}\n{line}\n", "utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        references(path)
