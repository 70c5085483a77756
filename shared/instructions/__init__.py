"""Instructions for fine-tuning, without end: each with an answer that a rule can check.

>>> from shared.instructions import instructions
>>> example = next(instructions(seed=1))
>>> example.instruction, example.input, example.answer
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import pandas as pd

from shared.instructions import about_stories, about_words, words
from shared.instructions.about_stories import short_tales
from shared.instructions.draw import (
    SPLITS,
    TEST_SHARE,
    Content,
    Draw,
    Family,
    fits_length,
    for_tests,
    held_out,
)
from shared.instructions.open import OPEN
from shared.instructions.renaming import renamed
from shared.instructions.wordings import NEW_WORDINGS, WORDINGS

__all__ = ["FAMILIES", "FAMILIES_OF", "SHARES", "SPLITS", "Example", "instructions", "leakage"]
__all__ += ["open_instructions", "short_tales"]

_FAMILIES: dict[str, Family] = {
    "who_has": about_stories.who_has,
    "where_is": about_stories.where_is,
    "who_found": about_stories.who_found,
    "who_gave": about_stories.who_gave,
    "why": about_stories.why,
    "yes_no": about_stories.yes_no,
    "continue_story": about_stories.continue_story,
    "reverse": about_words.reverse,
    "count": about_words.count,
    "sort": about_words.sort,
    "opposite": about_words.opposite,
    "past_tense": about_words.past_tense,
    "plural": about_words.plural,
    "passive": about_words.passive,
    "sum": about_words.sum_,
    "rename": about_words.rename,
}
FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
"""The scored families, stories first."""

FAMILIES_OF: dict[str, tuple[str, ...]] = {split: FAMILIES for split in SPLITS} | {
    split: tuple(f for f in FAMILIES if f != "sort") for split in ("new_entities", "unheard")
}
"""The families of each split: sorted numbers hold nothing that could be new."""

OPEN_SHARE = 0.03  # of the training examples
SHARES = dict.fromkeys(("where_is", "who_found", "why"), 0.4) | {"continue_story": 0.5}
SHARES |= dict.fromkeys(("opposite", "past_tense", "plural", "reverse", "sum"), 2.0)
SHARES |= {"sort": 1.5, "rename": 1.5}
"""How often training asks a family, if not once: rarely what is soon learned, or long."""


@dataclass(frozen=True)
class Example:
    """An instruction and its answer.

    `input` is the text it is about, or "" where the instruction holds it; `content` is that text
    in both cases. A family with `wanted` words is scored by its rule, all others by exact match.
    """

    family: str
    instruction: str
    input: str
    answer: str
    wanted: tuple[str, ...] = ()
    content: str = ""

    def is_right(self, reply: str) -> bool:
        """Whether a reply is right: the answer itself, or any that keeps the family's rule.

        >>> Example("count", "How many?", "kite, drum", "two").is_right(" two ")
        True
        """
        if self.wanted:
            return about_stories.is_right_continuation(reply, self.wanted)
        return reply.strip() == self.answer


def instructions(
    seed: int = 0, split: str = "train", families: Sequence[str] | None = None
) -> Iterator[Example]:
    """Examples without end, the same for the same seed, split and families.

    Splits: "train", in which families come by their `SHARES` and about three in a hundred are open
    ones; "validation", other contents
    of the same kind; "new_entities", about names and things that the stories tell of, and no other
    instruction; "new_combinations", with words that training knows and keeps apart;
    "new_wordings", asked in other ways; "longer", with longer inputs; "unheard", about names and
    things that not even the stories know. No prompt of any other split stands in "train".

    Args:
        families: some of `FAMILIES_OF[split]`, each as likely as the others; None for all.

    Raises:
        ValueError: unknown split, or a family that the split has not.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    chosen = tuple(FAMILIES_OF[split] if families is None else families)
    unknown = [f for f in chosen if f not in FAMILIES_OF[split]]
    if unknown or not chosen:
        raise ValueError(
            f"families={unknown or chosen!r} of split {split!r}: expected some of "
            f"{', '.join(FAMILIES_OF[split])}"
        )
    return _examples(seed, split, chosen, families is None and split == "train")


def _examples(seed: int, split: str, families: Sequence[str], with_open: bool) -> Iterator[Example]:
    weights = [SHARES.get(family, 1.0) if with_open else 1.0 for family in families]
    for number in count():
        name = f"{split} {seed} {number}"
        draw = Draw(name, split)
        if with_open and draw.maybe(OPEN_SHARE):
            yield draw.choice(_OPEN)
            continue
        family = draw.choices(families, weights)[0]
        yield _example(Draw(f"{name} {family}", split), family)
        if family == "yes_no" and split == "train":  # at once the question with the other answer
            yield _example(Draw(f"{name} {family}", split, turned=True), family)


def _example(draw: Draw, family: str) -> Example:
    """Draw contents of this family until one is what the split may ask."""
    make = _FAMILIES[family]
    for _ in range(100_000):
        content = make(draw)
        if content is None or not fits_length(content.input, family, draw.longer):
            continue
        # The same story about others is another input: cheaper than to tell another story.
        renames = draw.renames and bool(content.people)
        for _ in range(TEST_SHARE if renames and draw.split != "train" else 1):
            one = renamed(content, draw) if renames else content
            if _belongs(one, draw):
                return _worded(draw, family, one)
    raise AssertionError(f"no content of family {family!r} fits the split {draw.split!r}")


def _belongs(content: Content, draw: Draw) -> bool:
    """Whether a content is one that this split may ask: no other split asks it."""
    entities = (*content.people, *content.things)
    if draw.new:
        return (words.SPARED | words.UNHEARD).issuperset(entities)
    if not words.SPARED.isdisjoint(entities):
        return False
    apart = [pair for pair in content.pairs if held_out(*pair)]
    if draw.split == "new_combinations" and apart:
        # Where the pair is not in the input itself, training may ask another thing of it.
        said = any(first in content.input and second in content.input for first, second in apart)
        return said or for_tests(content.input)
    if draw.split == "new_combinations" or apart:
        return False
    return draw.longer or for_tests(content.input) == (draw.split != "train")


def _worded(draw: Draw, family: str, content: Content) -> Example:
    wordings = NEW_WORDINGS if draw.split == "new_wordings" else WORDINGS
    wording = draw.choice(wordings[content.wordings])
    text = wording.format(input=content.input, **content.slots)
    return Example(
        family=family,
        instruction=text[0].upper() + text[1:],
        input="" if "{input}" in wording else content.input,
        answer=content.answer,
        wanted=content.wanted,
        content=content.input,
    )


_OPEN = tuple(Example("open", wording, "", answer) for many, answer in OPEN for wording in many)


def open_instructions() -> list[Example]:
    """The open instructions, family "open", answered by hand: to read, not to score."""
    return list(_OPEN)


def leakage(train: Iterable[Example], test: Iterable[Example]) -> pd.DataFrame:
    """How much of a test stands in training: one row for each family of the test, and "all".

    Columns: `tests`, how many there are; `prompts` of them stand in training word for word;
    `inputs` are asked about there under any wording, in the same family; `answers` are the answer
    to something there, which is no leak.
    """
    prompts, inputs, answers = set(), set(), set()
    for e in train:
        prompts.add((e.instruction, e.input))
        inputs.add((e.family, e.content))
        answers.add((e.family, e.answer))
    rows = [
        {
            "family": e.family,
            "tests": 1,
            "prompts": (e.instruction, e.input) in prompts,
            "inputs": (e.family, e.content) in inputs,
            "answers": (e.family, e.answer) in answers,
        }
        for e in test
    ]
    table = pd.DataFrame(rows, columns=["family", "tests", "prompts", "inputs", "answers"])
    table = table.groupby("family", sort=False).sum().astype(int)
    table.loc["all"] = table.sum()
    return table
