"""The course's papers: what each is, and what to read it for. The list is references.tsv."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REFERENCES = Path(__file__).with_name("references.tsv")
COLUMNS = "chapter\tauthors\tyear\ttitle\tvenue\tid\tread_for"
SHOWN = 3  # authors; of more, the first and "and others"
IDENTIFIER = re.compile(r"|arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,}/\S+")


@dataclass(frozen=True)
class Reference:
    """A paper or book.

    `chapter` is a number, an appendix's letter, or `+` for what lies beyond the course; `id` is an
    arXiv number or a DOI, or empty.
    """

    chapter: str
    authors: tuple[str, ...]
    year: int
    title: str
    venue: str
    id: str
    read_for: str

    @property
    def surname(self) -> str:
        """The first author's last name: what one says when one speaks of the paper."""
        first = re.sub(r" \(.*\)| and others$", "", self.authors[0])
        return first.split()[-1]

    def row(self) -> str:
        """The paper as a row of a Markdown table."""
        many = len(self.authors) > SHOWN
        names = f"{self.authors[0]} and others" if many else ", ".join(self.authors)
        known = self.venue == "arXiv" and self.id  # then the number says it
        place = self.id if known else ", ".join(filter(None, (self.venue, self.id)))
        end = "" if self.title.endswith("?") else "."
        return f"| {names} ({self.year}) | *{self.title}*{end} {place} | {self.read_for} |"


def references(path: Path = REFERENCES) -> list[Reference]:
    """The list, in its order: chapter by chapter, and in each the one to begin with first.

    Raises:
        ValueError: a line has not seven columns, a year is no year, an id no arXiv number or DOI,
            or a title stands twice.
    """
    first, *lines = path.read_text("utf-8").splitlines()
    if first != COLUMNS:
        raise ValueError(f"{path.name} begins with {first!r}; expected {COLUMNS!r}")
    found: list[Reference] = []
    for number, line in enumerate(lines, 2):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 7 or not all(parts[:5]) or not parts[6]:
            raise ValueError(
                f"{path.name}, line {number}: {line[:60]!r}; expected seven columns with tabs "
                f"between them ({COLUMNS.split()}), of which only the id may be empty"
            )
        chapter, authors, year, title, venue, identifier, read_for = parts
        if not re.fullmatch(r"1[89]\d\d|20\d\d", year):
            raise ValueError(f"{path.name}, line {number}: year {year!r}; expected e.g. 2017")
        if not IDENTIFIER.fullmatch(identifier):
            raise ValueError(
                f"{path.name}, line {number}: id {identifier!r}; expected e.g. arXiv:1706.03762, "
                "doi:10.1038/323533a0, or nothing"
            )
        if any(title.casefold() == other.title.casefold() for other in found):
            raise ValueError(f"{path.name}, line {number}: {title!r} stands twice; keep one")
        names = tuple(name.strip() for name in authors.split(";"))
        found.append(Reference(chapter, names, int(year), title, venue, identifier, read_for))
    return found


def table(chapter: str, found: list[Reference] | None = None) -> str:
    """The papers of one chapter as a Markdown table.

    Raises:
        ValueError: there are none for it.
    """
    found = references() if found is None else found
    rows = [reference.row() for reference in found if reference.chapter == chapter]
    if not rows:
        offered = ", ".join(dict.fromkeys(reference.chapter for reference in found))
        raise ValueError(f"no papers for chapter {chapter!r}; there are some for {offered}")
    return "| who | what | read it for |\n|:---|:---|:---|\n" + "\n".join(rows)


def sources(code: str) -> list[str]:
    """What the `Source:` parts of docstrings say, each in one line."""
    parts = re.findall(r'Source: (.+?)(?:\n\s*\n|"""|\n\s*[A-Z]\w*:)', code, re.S)
    return [" ".join(part.split()) for part in parts]


def named(source: str, found: list[Reference]) -> list[Reference]:
    """The references that a source names, by the first author's last name and the year."""
    return [
        r
        for r in found
        if str(r.year) in source and re.search(rf"\b{re.escape(r.surname)}\b", source)
    ]
