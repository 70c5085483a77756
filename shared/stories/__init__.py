"""The story world: varied short stories with known facts and a known probability.

A simulator keeps a small world's state (who is where, who has what, who feels what and why),
a plot happens to it, and a teller puts it into plain English. Every decision is drawn from a
known distribution, so each story has a log-probability and the corpus has an entropy: the
lowest loss that any model of it can have.

>>> from shared.stories import stories
>>> story = next(stories(seed=1))
>>> story.text, story.log_prob, story.facts
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from shared.stories.beats import Beats
from shared.stories.chance import Chance, Dice
from shared.stories.plots import PLOTS, WEIGHTS
from shared.stories.tale import Probe
from shared.stories.world import SPLITS

__all__ = ["END_OF_TEXT", "SPLITS", "Entropy", "Fact", "Story", "corpus_entropy", "stories"]
__all__ += ["story_text", "tell"]

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Fact:
    """Something certain about a story.

    `kind` is "who_has" (about a thing), "where_is" (about a thing), "who_found" (about a thing),
    "who_gave" (about "THING to PERSON") or "why" (about "PERSON FEELING"); `answer` is a name, a
    place or a reason that begins with "because".
    """

    kind: str
    about: str
    answer: str


@dataclass(frozen=True)
class Story:
    """A story, what is true in it, and how likely its teller was to tell it.

    `log_prob` is in nats: the probability of exactly this text, end of text included, when
    stories of its split are told at random. `probes` are the places near the end where only the
    world's state tells which name comes next.
    """

    text: str
    log_prob: float
    facts: tuple[Fact, ...]
    probes: tuple[Probe, ...]
    plot: str
    people: tuple[str, ...]
    things: tuple[str, ...]


def tell(chance: Chance, wanted: str | None = None, split: str = "train") -> Story:
    """Tell one story with the decisions of `chance`.

    Raises:
        ValueError: unknown split.
        Mismatch: `wanted` is given and the text departs from it.
    """
    teller = Beats(chance, split, wanted)
    plot = chance.pick(PLOTS, WEIGHTS)
    plot(teller)
    teller.close_facts()
    return Story(
        text=teller.text,
        log_prob=chance.log_prob,
        facts=tuple(Fact(*fact) for fact in dict.fromkeys(teller.facts)),
        probes=tuple(teller.probes),
        plot=plot.__name__,
        people=tuple(p.name for p in teller.world.people if p.name),
        things=tuple(t.noun for t in teller.world.things if t.noun),
    )


def stories(seed: int = 0, split: str = "train") -> Iterator[Story]:
    """Stories without end, the same for the same seed and split.

    Splits: "train"; "validation", other stories of the same kind; "new_combinations", each with
    a person and a thing that never stand together in training; "new_entities", with names and
    things that training never names; "new_wordings", told with wordings kept out of training.

    Raises:
        ValueError: unknown split.
    """
    number = 0
    while True:
        yield tell(Dice(f"{split} {seed} {number}"), split=split)
        number += 1


def story_text(num_bytes: int, seed: int = 0, split: str = "train") -> str:
    """Whole stories, joined by `END_OF_TEXT`, of at least `num_bytes` bytes.

    Raises:
        ValueError: unknown split, or `num_bytes` below 1.
    """
    if num_bytes < 1:
        raise ValueError(f"num_bytes={num_bytes}: expected at least 1")
    parts, size = [], 0
    for story in stories(seed, split):
        parts.append(story.text)
        size += len(story.text.encode()) + len(END_OF_TEXT)
        if size >= num_bytes:
            return END_OF_TEXT.join(parts) + END_OF_TEXT
    raise AssertionError("unreachable: stories never end")


@dataclass(frozen=True)
class Entropy:
    """Entropy of the corpus, estimated from a sample of stories.

    `bits_per_byte` counts each story's bytes and none for the end-of-text mark; `standard_error`
    is that of `bits_per_byte`.
    """

    bits_per_byte: float
    standard_error: float
    nats_per_story: float
    bytes_per_story: float


def corpus_entropy(num_stories: int = 2000, seed: int = 0, split: str = "validation") -> Entropy:
    """Entropy of a split's stories in bits per byte: the floor that no model's loss passes.

    Raises:
        ValueError: fewer than 2 stories.
    """
    if num_stories < 2:
        raise ValueError(f"num_stories={num_stories}: expected at least 2")
    told = [story for story, _ in zip(stories(seed, split), range(num_stories), strict=False)]
    nats = [-story.log_prob for story in told]
    sizes = [len(story.text.encode()) for story in told]
    ratio = sum(nats) / sum(sizes)
    # Standard error of a ratio of means, from its residuals.
    residuals = [n - ratio * b for n, b in zip(nats, sizes, strict=True)]
    spread = math.sqrt(sum(r * r for r in residuals) / (num_stories - 1) / num_stories)
    mean_bytes = sum(sizes) / num_stories
    return Entropy(
        bits_per_byte=ratio / math.log(2),
        standard_error=spread / mean_bytes / math.log(2),
        nats_per_story=sum(nats) / num_stories,
        bytes_per_story=mean_bytes,
    )
