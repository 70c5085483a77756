"""The text of the speedrun: what an entry may read, counted, and the stories that judge it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice

import torch
from torch import Tensor

from shared.previous_chapters import (
    IGNORED,
    Batch,
    BPETokenizer,
    count_targets,
    pack_rows,
    pad_rows,
    story_rows,
    story_tokenizer,
)
from shared.stories import END_OF_TEXT, Story, stories

VOCAB_SIZE = 2048  # chapter 5's tokenizer, the same for everybody: nearly every word is one token
HELD_OUT = 300  # stories that no entry sees
BUDGET = 262_144  # tokens: no entry may take more


@cache
def tokenizer() -> BPETokenizer:
    """The course's tokenizer, made where it is missing."""
    return story_tokenizer(VOCAB_SIZE)


@cache
def held_out(count: int = HELD_OUT) -> tuple[tuple[Story, ...], tuple[Batch, ...]]:
    """The stories that every entry is judged by, and the same as batches of whole stories."""
    told = tuple(islice(stories(2026, "validation"), count))
    groups = pack_rows(story_rows(told, tokenizer()), 8000)
    return told, tuple(pad_rows(group) for group in groups)


class Text:
    """A stream of new stories from the training split, handed out until the tokens are used up.

    Every token asked for counts once, when it is handed out. Padding teaches nothing and costs
    nothing; it only adds to `places`, which the runner compares with what a model has read.

    Shape:
        each batch: inputs and targets, both (rows, tokens), int64, as chapter 5 has them.

    Raises:
        ValueError: a budget below 1, or a batch of no rows or no tokens.

    Example:
        >>> text = Text(100_000, seed=0)
        >>> while text.left:
        ...     inputs, targets = text.windows(16, 128)
    """

    vocab_size = VOCAB_SIZE
    end = property(
        lambda self: tokenizer().special_tokens[END_OF_TEXT]
    )  # every story's first token
    longest = 256  # every story, its end included, has fewer tokens

    def __init__(self, tokens: int, seed: int) -> None:
        if tokens < 1:
            raise ValueError(f"tokens={tokens}, expected 1 or more.")
        self.tokens, self.given, self.places = tokens, 0, 0
        self._told = _endless_rows(seed)
        self._dice = random.Random(f"speedrun {seed}")
        self._stream: list[int] = []
        self._waiting: list[list[int]] = []

    @property
    def left(self) -> int:
        """How many tokens may still be read."""
        return self.tokens - self.given

    @property
    def progress(self) -> float:
        """The share of the tokens that was read, from 0 to 1."""
        return self.given / self.tokens

    def windows(self, rows: int, length: int) -> Batch:
        """The next pieces of all stories written one behind the other; the last batch is smaller.

        A window may begin in the middle of a story and hold several.
        """
        self._check(rows=rows, length=length)
        length = min(length, self.left)
        rows = min(rows, self.left // length)
        while len(self._stream) <= rows * length:
            self._stream += next(self._told)[:-1]  # the next story brings the end-of-text token
        ids = torch.tensor(self._stream[: rows * length + 1])
        self._stream = self._stream[rows * length :]
        return self._hand_out((ids[:-1].view(rows, length), ids[1:].view(rows, length)))

    def stories(self, tokens: int, longest: float = math.inf) -> Batch:
        """Whole stories of like length, about `tokens` in all, filled up on the right.

        With `longest`, only stories of at most so many tokens; the others are left out.
        """
        self._check(tokens=tokens)
        if longest < 16:
            raise ValueError(f"longest={longest}: there are too few stories below 16 tokens.")
        fitting = [row for row in self._waiting if len(row) - 1 <= longest]
        while len(fitting) < 256 or sum(map(len, fitting)) < 2 * tokens:
            row = next(self._told)
            if len(row) - 1 <= longest:
                fitting.append(row)
        fitting.sort(key=len)
        first = last = self._dice.randrange(len(fitting))
        while last < len(fitting) and (last + 1 - first) * (len(fitting[last]) - 1) <= tokens:
            last += 1
        last = max(last, first + 1)
        chosen, self._waiting = fitting[first:last], fitting[:first] + fitting[last:]
        return self._hand_out(pad_rows(_cut(chosen, self.left)))

    def _hand_out(self, batch: Batch) -> Batch:
        self.given += count_targets(batch)
        self.places += batch[0].numel()
        return batch

    def _check(self, **wanted: int) -> None:
        for name, value in wanted.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={value!r}, expected a whole number from 1 up.")
        if not self.left:
            raise ValueError(
                f"all {self.tokens:,} tokens were read; loop with `while text.left:`, or raise "
                "TOKENS in your entry."
            )


def _endless_rows(seed: int) -> Iterator[list[int]]:
    """Stories as rows of ids, told in small lots; each seed has its own."""
    told = stories(7_000_000 + seed, "train")
    while True:
        yield from story_rows(islice(told, 50), tokenizer())


def _cut(rows: list[list[int]], left: int) -> list[list[int]]:
    """As many rows as `left` tokens allow; the last one may be cut short."""
    kept = []
    for row in rows:
        if left < 1:
            break
        kept.append(row[: left + 1])
        left -= len(kept[-1]) - 1
    return kept


def nats_per_token(log_probs: Iterable[Tensor], batches: tuple[Batch, ...]) -> float:
    """Mean of -log probability over the targets; `log_probs` hold (rows, tokens, vocab_size)."""
    total, asked = 0.0, 0
    for given, (_, targets) in zip(log_probs, batches, strict=True):
        where = targets != IGNORED
        total -= float(given[where].double().gather(1, targets[where][:, None]).sum())
        asked += int(where.sum())
    return total / asked


@cache
def floor() -> float:
    """Nats per token that the teller of the held-out stories pays itself: nobody can pay less."""
    told, batches = held_out()
    return -sum(story.log_prob for story in told) / sum(map(count_targets, batches))


@cache
def bytes_per_token() -> float:
    """How many bytes of text a token of the held-out stories stands for, end of text included."""
    told, batches = held_out()
    return sum(len(story.text.encode()) for story in told) / sum(map(count_targets, batches))
