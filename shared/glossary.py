"""The course's glossary: every bold term, where it is taught, and what it means.

    python -m shared.glossary    what is missing or has lost its place, and where

A term is bold where it is defined; bold also marks lead-ins and what matters in a sentence. The
rule that tells them apart is in `rule_out`; what the rule cannot tell stands, one a line, in
glossary_not_terms.txt. The meanings, written by hand, are in glossary.tsv.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import quote

from shared.artifacts import ROOT
from shared.notebooks import all_notebooks

ENTRIES = Path(__file__).with_name("glossary.tsv")
NOT_TERMS = Path(__file__).with_name("glossary_not_terms.txt")
PAGE = Path("appendix/b_further_reading")  # where the links start
COLUMNS = "term\talso\tmeaning"

LONGEST = 4  # words; what is longer is a sentence that matters
CLOSING = re.compile(r"Summary|Exercises|Next|What comes next|What you( have)? practised")
STARTERS = frozenset(
    "a an the this that these those what which who whose whom where when how why is are has can "
    "no not none every each all any one two more most you your my its it in of on at by for from "
    "to with without before after below above and or".split()
)
BOLD = re.compile(r"\*\*(?=[^\s*])((?:(?!\n\s*\n).)+?)(?<=\S)\*\*", re.S)
CODE = re.compile(r"```.*?(?:```|\Z)|(`+)[^`]+?\1", re.S)
NUMBER = re.compile(r"((?:\d+|[A-Z])\.\d+)\b")  # of a section: `3.9 Second rung`, `F.4 Memory`
HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$")


@dataclass(frozen=True)
class Place:
    """Where something stands in bold: the notebook, the heading above, and the cell."""

    notebook: Path  # relative to the course's folder
    heading: str
    section: str  # the number of the section that the heading belongs to; "" before the first
    cell: str  # its id

    @property
    def label(self) -> str:
        """What a link to it says: `3.9`, `F.4`, `exercise 4.1`, or `chapter 3` for its opening."""
        name = self.notebook.stem
        if not self.section:
            chapter = re.match(r"ch(\d\d)_", name)
            return f"chapter {int(chapter[1])}" if chapter else f"appendix {name[0].upper()}"
        return f"exercise {self.section}" if name.endswith("_exercises") else self.section

    def link(self, start: Path = PAGE) -> str:
        """The relative link from a notebook in the folder `start`.

        GitHub opens the notebook; JupyterLab, once it is open, goes to the cell. (It would find
        a heading, too, but none with a letter outside of ASCII in it.)
        """
        path = Path(os.path.relpath(self.notebook, start)).as_posix()
        return f"{quote(path)}#cell-id={quote(self.cell)}"


@dataclass
class Entry:
    """A term, other forms in which it stands in bold, its meaning, and its places in order."""

    term: str
    also: tuple[str, ...]
    meaning: str
    places: list[Place] = field(default_factory=list)


# Reading the notebooks


def sources(root: Path = ROOT) -> list[Path]:
    """The notebooks that are read: chapters, appendices, then exercises; solved ones are not."""
    found = [p for p in all_notebooks(root) if not p.stem.endswith("_solutions")]

    def key(path: Path) -> tuple:
        place = path.relative_to(root)
        return path.stem.endswith("_exercises"), place.parts[0] == "appendix", place.as_posix()

    return sorted(found, key=key)


def markdown_cells(path: Path) -> Iterator[tuple[str, str]]:
    """The id and the text of each markdown cell.

    Raises:
        ValueError: the file is no notebook, e.g. half written.
    """
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no whole notebook ({error!r}); save it again") from None
    for cell in cells:
        if cell["cell_type"] == "markdown":
            yield cell.get("id", ""), "".join(cell["source"])


def plain(heading: str) -> str:
    """A heading as it is shown: without the signs for code, emphasis and links."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[`*]", "", shown).strip()


def key_of(words: str) -> str:
    """The form in which terms are compared: small letters, no code marks, single spaces."""
    return " ".join(words.replace("`", "").split()).casefold()


def bold_of(path: Path, root: Path = ROOT) -> Iterator[tuple[str, str, Place]]:
    """What stands in bold in a notebook: (the words, the line they are in, the place)."""
    heading, section = "", ""
    for cell, text in markdown_cells(path):
        hidden = CODE.sub(lambda m: m[0].replace("*", "\0").replace("#", "\1"), text)
        at = 0
        for part in re.split(r"(?m)(^#{1,6} .*$)", hidden):
            if match := HEADING.match(part.replace("\0", "*").replace("\1", "#")):
                heading = plain(match[1])
                if number := NUMBER.match(heading):
                    section = number[1]
            elif not CLOSING.fullmatch(heading):
                for found in BOLD.finditer(part):
                    start = hidden.rfind("\n", 0, at + found.start()) + 1
                    line = hidden[start:].split("\n", 1)[0]
                    place = Place(path.relative_to(root), heading, section, cell)
                    yield found[1].replace("\0", "*"), line, place
            at += len(part)


# What is a term, and what is not


def rule_out(words: str, line: str) -> bool:
    """Whether bold words cannot be a term.

    A term is one to four words, begins with a letter and with no such word as *the* or *what*,
    and has no mark of punctuation in it: so lead-ins (**Break it.**) and sentences are none.
    Nor is what stands in a table's row, nor what a summary repeats (`bold_of` passes that over).
    """
    key = key_of(words)
    return (
        not re.match(r"[^\W\d_].*\w", key)
        or bool(re.search(r"[.,:;!?+=]", key))
        or len(key.split()) > LONGEST
        or key.split()[0] in STARTERS
        or line.lstrip("> ").startswith("|")
        or bool(re.fullmatch(r"(chapters?|appendix) \w+", key))
    )


@cache
def not_terms() -> frozenset[str]:
    """The words that pass `rule_out` and are no terms all the same."""
    lines = NOT_TERMS.read_text("utf-8").splitlines()
    return frozenset(key_of(line) for line in lines if line.strip() and not line.startswith("#"))


def entries(path: Path = ENTRIES) -> list[Entry]:
    """The written entries, without places, in the file's order.

    Raises:
        ValueError: a line has not three columns, no meaning, or words that another line has.
    """
    first, *lines = path.read_text("utf-8").splitlines()
    if first != COLUMNS:
        raise ValueError(f"{path.name} begins with {first!r}; expected {COLUMNS!r}")
    found: list[Entry] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 2):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 3 or not parts[0] or not parts[2]:
            raise ValueError(
                f"{path.name}, line {number}: {line[:60]!r}; expected a term, a tab, its other "
                "forms separated by '; ' (or nothing), a tab, and what it means"
            )
        also = tuple(form.strip() for form in parts[1].split(";") if form.strip())
        for form in (parts[0], *also):
            if (earlier := seen.setdefault(key_of(form), number)) != number:
                raise ValueError(
                    f"{path.name}, line {number}: {form!r} stands in line {earlier} too; "
                    "make them one entry"
                )
        found.append(Entry(parts[0], also, parts[2]))
    return found


@dataclass
class Glossary:
    """Entries with their places, and what does not fit together."""

    entries: list[Entry]
    missing: dict[str, Place]  # bold words that may be a term and have no entry
    placeless: list[str]  # entries of which no form stands in bold any more


def collect(root: Path = ROOT, written: Path = ENTRIES) -> Glossary:
    """Read every notebook and find the places of every entry.

    Example:
        >>> [e.places[0].label for e in collect().entries if e.term == "logits"]
        ['4.1']
    """
    found = entries(written)
    by_key = {key_of(form): entry for entry in found for form in (entry.term, *entry.also)}
    missing: dict[str, Place] = {}
    for path in filter(Path.exists, sources(root)):  # one may be made anew at this moment
        for words, line, place in bold_of(path, root):
            key = key_of(words)
            if key in by_key:
                places = by_key[key].places
                known = {(other.notebook, other.label) for other in places}
                if (path.relative_to(root), place.label) not in known:
                    places.append(place)
            elif key not in not_terms() and not rule_out(words, line):
                missing.setdefault(key, place)
    placeless = [entry.term for entry in found if not entry.places]
    return Glossary(found, missing, placeless)


def complaints(glossary: Glossary) -> list[str]:
    """What is wrong, each with what to do; empty if all is well."""
    return [
        f"**{words}** ({place.notebook.name}, {place.heading!r}) has no entry: explain it in "
        f"shared/{ENTRIES.name}, or, if it is no term, add it to shared/{NOT_TERMS.name}"
        for words, place in glossary.missing.items()
    ] + [
        f"{term!r} in shared/{ENTRIES.name} stands nowhere in bold any more: take the entry out, "
        "or name the form that does stand there"
        for term in glossary.placeless
    ]


# Showing it


def sorting(term: str) -> str:
    """The key by which terms are listed: letters alone, so that `top-k` stands with T."""
    return re.sub(r"[^\w ]", "", key_of(term))


def tables(glossary: Glossary, start: Path = PAGE) -> dict[str, str]:
    """A Markdown table for each initial letter: the term, what it means, where it is taught."""
    lines: dict[str, list[str]] = {}
    for entry in sorted(glossary.entries, key=lambda e: sorting(e.term)):
        if not entry.places:
            continue
        places = [f"[{p.label}]({p.link(start)})".replace("|", "\\|") for p in entry.places]
        named = f"**{entry.term}**" + (f" ({', '.join(entry.also)})" if entry.also else "")
        row = f"| {named} | {entry.meaning} | {', '.join(places)} |"
        lines.setdefault(sorting(entry.term)[0].upper(), []).append(row)
    head = "| term | what it means | taught in |\n|:---|:---|:---|\n"
    return {letter: head + "\n".join(rows) for letter, rows in lines.items()}


def look_up(words: str, glossary: Glossary, start: Path = PAGE) -> str:
    """What the glossary says of some words, as Markdown.

    The entry that has them as its name comes first; failing that, those whose name or meaning
    holds them.

    Raises:
        ValueError: no words are given.
    """
    key = key_of(words)
    if not key:
        raise ValueError("nothing to look up; give a word such as 'softmax'")
    named = [e for e in glossary.entries if key in map(key_of, (e.term, *e.also))]
    holding = [e for e in glossary.entries if key in key_of(" ".join((e.term, *e.also, e.meaning)))]
    lines = []
    for entry in named or holding:
        places = ", ".join(f"[{p.label}]({p.link(start)})" for p in entry.places)
        lines.append(f"- **{entry.term}**: {entry.meaning} ({places})")
    return "\n".join(lines) or f"Nothing about *{words}* here. Try a shorter word."


def main() -> int:
    """Print what is wrong; the number of complaints decides the exit status."""
    glossary = collect()
    found = complaints(glossary)
    print("\n".join(found) or f"{len(glossary.entries)} entries, none missing")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
