"""Tales of words and numbers: saying after, counting, adding, turning round.

They are short, and what they teach is order: a row of words comes again as it was, or backwards; a
number follows from two others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shared.stories.beats import Beats

_TENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
NUMBERS = tuple(f"zero one two three four five six seven eight nine {_TENS}".split())
"""The words for 0 to 20."""

PASTS = {
    "walk": "walked",
    "hurry": "hurried",
    "climb": "climbed",
    "jump": "jumped",
    "dance": "danced",
    "wander": "wandered",
    "travel": "travelled",
    "march": "marched",
    "run": "ran",
    "go": "went",
    "come": "came",
    "ride": "rode",
    "swim": "swam",
    "drive": "drove",
}
"""Verbs of going and their past."""

OPPOSITES = {
    "big": "small",
    "old": "new",
    "clean": "dirty",
    "heavy": "light",
    "full": "empty",
    "wet": "dry",
    "wide": "narrow",
    "thick": "thin",
    "strong": "weak",
    "pretty": "ugly",
    "hard": "soft",
    "long": "short",
}
"""What a thing can be, and its opposite; both ways round."""


def _row(t: Beats, words: Sequence[str], least: int, most: int) -> list[str]:
    """Tell some words, none twice, one after the other."""
    row: list[str] = []
    for _ in range(t.chance.pick(range(least, most + 1))):
        row.append(t.chance.pick([word for word in words if word not in row]))
        t.add(f", {row[-1]}" if row[1:] else f" {row[-1]}")
    t.add(".")
    return row


def say_after_me(t: Beats) -> None:
    t.say("The teacher read:", "On the list stood:", "A parrot called:")
    row = _row(t, t.nouns, 2, 5)
    t.say(
        "The class said it again: {w}.",
        "They sang it on the way: {w}.",
        "And once more: {w}.",
        w=", ".join(row),
    )
    if t.chance.maybe(0.5):
        t.say("Backwards it was: {w}.", "Now from the end: {w}.", w=", ".join(reversed(row)))
    if t.chance.maybe(0.3):
        t.say("That made {n}.", "How many was that? It was {n}.", n=NUMBERS[len(row)])


def sums(t: Beats) -> None:
    t.say("The teacher wrote:", "Grandpa asked:", "On the wall stood:")
    first, second = t.chance.pick(range(11)), t.chance.pick(range(11))
    plus = t.chance.maybe(0.6)
    one, result = (first, first + second) if plus else (first + second, second)
    other = second if plus else first
    t.add(f" {NUMBERS[one]} {'plus' if plus else 'minus'} {NUMBERS[other]}.")
    t.say("That is {r}.", "It is {r}.", r=NUMBERS[result])


def in_order(t: Beats) -> None:
    t.say("The teacher wrote:", "The doors had numbers:")
    row = _row(t, NUMBERS, 2, 5)
    o = ", ".join(sorted(row, key=NUMBERS.index))
    t.say("In order it was: {o}.", "Smallest first: {o}.", o=o)


def no_sooner_said(t: Beats) -> None:
    a, p = t.person(), t.place()
    now = t.chance.pick(tuple(PASTS))
    t.say(
        '"Now I {v} {p.to}," {said} {a.n}. And {a.n} {d} {p.to}.',
        '"Shall we {v} {p.to}?" asked {a.n}. So they {d} {p.to}.',
        a=a,
        p=p,
        v=now,
        d=PASTS[now],
    )
    t.world.move(a, p)
    t.end(a)


def the_other_way_round(t: Beats) -> None:
    (a, b), x = t.people(2), t.thing()
    words = t.chance.pick([*OPPOSITES.items(), *((v, k) for k, v in OPPOSITES.items())])
    t.say(
        '"The {x.bare} is {v}," {said} {a}. "No, it is {o}," {said} {b}.',
        '"Is the {x.bare} {v}?" asked {a}. "No, {o}," {said} {b}.',
        a=a,
        b=b,
        x=x,
        v=words[0],
        o=words[1],
    )


SCHOOL: dict[Callable[[Beats], None], float] = {
    say_after_me: 2,
    sums: 1.5,
    in_order: 1.5,
    no_sooner_said: 1,
    the_other_way_round: 1,
}
"""The tales of this module, and how often each is told beside the others."""
