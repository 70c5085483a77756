"""Submissions that are nearly the same: a place to look, never a proof.

Programs are compared as sequences of tokens: names, numbers and texts lose what they say,
comments, docstrings and layout go. Each sequence is cut into overlapping pieces of `PIECE`
tokens; pieces that stand in the release itself do not count. A piece weighs the less the more
students have it, since what everybody writes is the usual way to write it, and two programs are
as alike as the weight they share is of the weight that either has.
"""

from __future__ import annotations

import io
import keyword
import math
import tokenize
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

PIECE = 6  # tokens
LEAST = 40  # tokens of one's own, below which nothing can be said
ALIKE = 0.7  # from here on a pair is listed
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
SKIPPED |= {tokenize.ENCODING, tokenize.ENDMARKER}


@dataclass(frozen=True)
class Pair:
    """Two students, how alike their submissions are (0 to 1), and where most."""

    students: tuple[str, str]
    alike: float
    exercises: tuple[str, ...]


def tokens(source: str) -> list[str]:
    """What a program does, without what its author called things.

    Example:
        >>> tokens("total = 3  # sum") == tokens("x=  4")
        True
    """
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()]
    found: list[str] = []
    fresh = True  # at the beginning of a statement, where a text alone is a docstring
    try:
        for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
            if token.type in SKIPPED:
                fresh = fresh or token.type in (tokenize.NEWLINE, tokenize.INDENT)
                continue
            if token.type == tokenize.STRING and fresh:
                continue
            fresh = False
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                found.append("name")
            elif token.type in (tokenize.NUMBER, tokenize.STRING):
                found.append("value")
            else:
                found.append(token.string)
    except (tokenize.TokenError, SyntaxError):
        pass  # up to where it can be read
    return found


def pieces(source: str) -> Counter[tuple[str, ...]]:
    """Overlapping pieces of a program, and how often each stands in it."""
    listed = tokens(source)
    return Counter(tuple(listed[i : i + PIECE]) for i in range(len(listed) - PIECE + 1))


def similar(
    answers: dict[str, dict[str, str]], given: dict[str, str], least: float = ALIKE
) -> list[Pair]:
    """Pairs of students whose answers are nearly the same, the most alike first.

    Args:
        answers: student -> exercise -> what they wrote.
        given: exercise -> what the release gave there.
        least: how alike a listed pair is at least.
    """
    own: dict[str, dict[str, Counter]] = {}
    for student, theirs in answers.items():
        own[student] = {
            number: pieces(source) - _often(pieces(given.get(number, "")))
            for number, source in theirs.items()
        }
    spread = {
        number: Counter(p for theirs in own.values() for p in theirs.get(number, ()))
        for number in {number for theirs in own.values() for number in theirs}
    }

    def weights(student: str, number: str) -> Counter:
        many = spread.get(number, Counter())
        return Counter(
            {
                (number, p): count * math.log(1 + len(own) / many[p])
                for p, count in own[student].get(number, Counter()).items()
            }
        )

    found = []
    for one, other in combinations(sorted(own), 2):
        numbers = [number for number in own[one] if number in own[other]]
        parts = {n: (weights(one, n), weights(other, n)) for n in numbers}
        enough = min(sum(len(own[s].get(n, ())) for n in numbers) for s in (one, other))
        whole = [sum((parts[n][i] for n in numbers), Counter()) for i in (0, 1)]
        alike = _shared(*whole)
        if enough + PIECE - 1 >= LEAST and alike >= least:
            where = [n for n in numbers if parts[n][0] and _shared(*parts[n]) >= 0.9]
            found.append(Pair((one, other), alike, tuple(where)))
    return sorted(found, key=lambda pair: -pair.alike)


def _often(given: Counter) -> Counter:
    """So that taking it away takes away all of these, however often they stand there."""
    return Counter(dict.fromkeys(given, 1 << 30))


def _shared(one: Counter, other: Counter) -> float:
    either = sum((one | other).values())
    return sum((one & other).values()) / either if either else 0.0
