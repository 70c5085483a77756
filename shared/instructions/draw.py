"""What an example is about, and the chance that draws it by the rules of a split."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from shared.instructions import words
from shared.stories import world
from shared.stories.world import held_out_pair

SPLITS = (
    *("train", "validation", "new_entities", "new_combinations", "new_wordings", "longer"),
    "unheard",
)
TEST_SHARE = 16  # one input in so many is for tests
PAIR_SHARE = 20  # one pair of words in so many is held out of training

LONGEST: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("who_has", "where_is", "who_found", "who_gave", "why", "yes_no"), (45, 75)),
    "continue_story": (25, 45),
    **dict.fromkeys(("reverse", "count", "sort"), (5, 8)),
    "opposite": (10, 20),
    "past_tense": (10, 20),
    "plural": (10, 20),
    "passive": (8, 16),
    "sum": (5, 8),
    "rename": (18, 32),
}
"""Words of an input: at most the first number in training; in "longer" more, to the second."""

_THINGS, _PEOPLE = frozenset(world.THINGS), frozenset(world.GIRLS + world.BOYS)
_PLACES = tuple(world.PLACES)


@dataclass(frozen=True)
class Content:
    """What an example is about, without its wording.

    `wordings` names the wordings that fit (a key of `WORDINGS`), `slots` fills them; `pairs` are
    the words that stand together here, of which "new_combinations" has some that training has not.
    A content from a story keeps its `people` and `things`, so that others can stand in for them.
    """

    wordings: str
    input: str
    answer: str
    slots: dict[str, str] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] = ()
    wanted: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    things: tuple[str, ...] = ()


def held_out(first: str, second: str) -> bool:
    """Whether training never has these two words together.

    A name and a thing of the story world are apart where its stories keep them apart; all other
    pairs by a checksum, the same on every machine.
    """
    if first in _PEOPLE and second in _THINGS:
        return held_out_pair(first, second)
    return zlib.crc32(f"{first} {second}".encode()) % PAIR_SHARE == 0


def for_tests(text: str) -> bool:
    """Whether this input is kept for tests, in every family and under every wording."""
    return zlib.crc32(text.encode()) % TEST_SHARE == 0


def fits_length(text: str, family: str, longer: bool) -> bool:
    """Whether an input has the length of a family's training, or of its split "longer"."""
    length, (most, most_in_longer) = len(text.split()), LONGEST[family]
    return most < length <= most_in_longer if longer else length <= most


class Draw(Random):
    """Chance, with the names and things that a split may use.

    `renames` says whether people and things of a story are to be exchanged for these; `turned`,
    whether a question with two answers is to be asked so that it has the other one.
    """

    def __init__(self, seed: str, split: str, turned: bool = False) -> None:
        super().__init__(seed)
        self.split, self.longer, self.turned = split, split == "longer", turned
        self.new = split in ("new_entities", "unheard")
        self.renames = split != "new_combinations"
        self.girls, self.boys = words.GIRLS, words.BOYS
        self.things: Sequence[str] = words.THINGS
        if split == "new_entities":
            self.girls, self.boys = words.SPARED_GIRLS, words.SPARED_BOYS
            self.things = words.SPARED_THINGS
        elif split == "unheard":
            self.girls, self.boys = words.UNHEARD_GIRLS, words.UNHEARD_BOYS
            self.things = words.UNHEARD_THINGS

    def maybe(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability

    def name(self) -> str:
        """Somebody's name."""
        return self.choice(self.girls if self.maybe(0.5) else self.boys)

    def thing(self) -> str:
        """A thing's noun."""
        return self.choice(self.things)

    def place(self) -> str:
        """A place of the story world."""
        return self.choice(_PLACES)


Family = Callable[[Draw], Content | None]
"""Draws a content of one kind; None where the draw happens to hold none."""
