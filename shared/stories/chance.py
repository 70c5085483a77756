"""Choices that remember how likely they were.

A story is told by a function that asks a `Chance` for every decision. `Dice` decides at random;
`Replay` follows a given list of decisions. Both add up the log-probability, so the teller's own
probability of a text is known exactly: the sum over all lists of decisions that tell that text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Chance:
    """Something that decides; keeps the log-probability (nats) of its decisions in `log_prob`."""

    def __init__(self) -> None:
        self.log_prob = 0.0
        self.decisions: list[int] = []

    def _index(self, weights: Sequence[float]) -> int:
        raise NotImplementedError

    def pick(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of `options`, with probability in proportion to `weights` (equal if not given)."""
        if not options:
            raise ValueError("nothing to pick from: the list of options is empty")
        if len(options) == 1:
            return options[0]
        weights = weights or [1.0] * len(options)
        index = self._index(weights)
        self.decisions.append(index)
        self.log_prob += math.log(weights[index] / sum(weights))
        return options[index]

    def maybe(self, probability: float) -> bool:
        """True with the given probability."""
        return self.pick((True, False), (probability, 1 - probability))


class Dice(Chance):
    """Decides at random from a seed."""

    def __init__(self, seed: int | str) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def _index(self, weights: Sequence[float]) -> int:
        point = self._random.random() * sum(weights)
        for index, weight in enumerate(weights):
            point -= weight
            if point < 0:
                return index
        return len(weights) - 1


class _Open(Exception):
    """Raised where the given decisions end; carries how many options there are."""

    def __init__(self, options: int) -> None:
        super().__init__(options)
        self.options = options


class Mismatch(Exception):
    """Raised by a teller whose text so far is not the beginning of the wanted text."""


class Replay(Chance):
    """Follows a list of decisions."""

    def __init__(self, decisions: Sequence[int]) -> None:
        super().__init__()
        self._given = decisions

    def _index(self, weights: Sequence[float]) -> int:
        if len(self.decisions) == len(self._given):
            raise _Open(len(weights))
        return self._given[len(self.decisions)]


class Told(Protocol):
    """What a teller returns: at least its text."""

    text: str


def derivations(
    tell: Callable[[Chance, str], Told], text: str, limit: int = 200_000
) -> list[tuple[list[int], float]]:
    """Every list of decisions that tells exactly `text`, each with its log-probability (nats).

    Args:
        tell: `tell(chance, wanted)` tells a story and raises `Mismatch` as soon as what it has
            told is not the beginning of `wanted`.
        limit: how many partial tellings to try.

    Raises:
        RuntimeError: more than `limit` partial tellings were needed.

    Example:
        >>> len(derivations(tell, story.text))  # 1: the text betrays every decision
        1
    """
    found, stack, tried = [], [[]], 0
    while stack:
        decisions = stack.pop()
        tried += 1
        if tried > limit:
            raise RuntimeError(f"gave up after {limit} partial tellings of {text[:60]!r}…")
        chance = Replay(decisions)
        try:
            told = tell(chance, text)
        except _Open as gap:
            stack += [[*decisions, i] for i in reversed(range(gap.options))]
        except Mismatch:
            continue
        else:
            if told.text == text:
                found.append((decisions, chance.log_prob))
    return found
