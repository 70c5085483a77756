"""Checks of appendix L's exercises: making data."""

from __future__ import annotations

import itertools
import math

import torch

from shared.exercises.checking import exercise, expect, expect_same


@exercise("L.1", "A world with a memory")
def memory(dice, answer):
    """`answer(steps, ingredients, stir) -> nats`; all stories are told one by one to compare."""
    told = answer(3, 4, 0.5)
    _finite(told, "3 steps, 4 ingredients, stir 0.5")
    expect(
        abs(told - 4.5) > 1e-6,
        "the example by hand comes out in bits. Natural logarithms give nats.",
    )
    expect(
        abs(told - 6 * math.log(2)) > 1e-6,
        "the example by hand: 6 · ln 2, as if the pot were empty at every step.",
    )
    expect_same(told, 4.5 * math.log(2), "the example by hand: 4.5 · ln 2", atol=1e-6)
    drawn = torch.rand(3, generator=dice).tolist()
    cases = [(1, 3, 0.4), (2, 5, 0.9), (6, 2, 0.3), (5, 1, 0.25)]
    cases += [(7, 3, 0.05 + 0.9 * share) for share in drawn]
    for steps, ingredients, stir in cases:
        given = answer(steps, ingredients, stir)
        what = f"{steps} steps, {ingredients} ingredients, stir {stir:.2f}"
        _finite(given, what)
        wanted = _by_all_stories(steps, ingredients, stir)
        other = _by_all_stories(steps, ingredients, 1 - stir)
        expect(
            abs(given - wanted) < 1e-6 or abs(given - other) > 1e-6,
            f"{what}: {given:.4f} nats would be right if stirring emptied the pot. Stirring leaves "
            "it full.",
        )
        expect_same(given, wanted, f"{what}: the entropy", atol=1e-6)
    for stir in (0.0, 1.0):
        given = answer(4, 3, stir)
        _finite(given, f"stir {stir}, where that choice is certain")
        expect_same(given, (2 - stir) * math.log(3), f"4 steps, 3 ingredients, stir {stir}", 1e-6)
    long = answer(400, 3, 0.6)
    _finite(long, "400 steps")
    return "A choice counts as often as the state lets it come."


def _by_all_stories(steps: int, ingredients: int, stir: float) -> float:
    """-Σ p ln p over all stories of the kitchen."""
    total = 0.0
    for choices in itertools.product(range(max(ingredients, 2)), repeat=steps):
        chance, full = 1.0, False
        for choice in choices:
            if full:
                chance *= (stir, 1 - stir)[choice] if choice < 2 else 0.0
                full = choice == 0
            else:
                chance *= 1 / ingredients if choice < ingredients else 0.0
                full = True
        total -= chance * math.log(chance) if chance > 0 else 0.0
    return total


def _finite(given, what: str) -> None:
    expect(
        isinstance(given, int | float) and not isinstance(given, bool),
        f"{what}: return a number; you return a {type(given).__name__}.",
    )
    expect(math.isfinite(given), f"{what}: you return {given}; 0 · ln 0 counts as 0.")


@exercise("L.2", "One hash function is enough")
def one_hash(dice, answer):
    """`answer(one, other, k)` on sets of numbers; unbiased, and exact where sets are small."""
    given = answer({1, 4, 6, 9}, {1, 5, 6, 7}, 3)
    _share(given, "the example by hand")
    expect(
        abs(given - 2 / 3) > 1e-6,
        "the example by hand: 2/3. You count 6, which is not among the 3 smallest of both sets.",
    )
    expect(
        abs(given - 2 / 4) > 1e-6,
        "the example by hand: 2/4. You divide by all numbers in either sketch; only the k smallest "
        "of both together are a fair sample.",
    )
    expect_same(given, 1 / 3, "the example by hand", atol=1e-6)
    expect_same(answer({5, 2}, {2}, 10), 0.5, "{5, 2} and {2}, k = 10, with fewer than k numbers")
    expect_same(answer({3, 8}, {3, 8}, 2), 1.0, "a set and itself")
    expect_same(answer({3, 8}, {1, 9}, 3), 0.0, "sets without a common number")
    sizes = ((200, 60, 40), (90, 200, 110), (150, 150, 150))
    for mine, yours, shared in sizes:
        estimates, truth = [], shared / (mine + yours + shared)
        for _ in range(60):
            numbers = torch.randperm(100_000, generator=dice)[: mine + yours + shared].tolist()
            one, other = set(numbers[: mine + shared]), set(numbers[mine:])
            estimates.append(answer(set(one), set(other), 32))
            _share(estimates[-1], "an estimate")
        mean = sum(estimates) / len(estimates)
        error = math.sqrt(truth * (1 - truth) / 32 / len(estimates))
        expect(
            abs(mean - truth) < 4.5 * error,
            f"sets of similarity {truth:.3f}: your estimates are {mean:.3f} on average over 60 "
            "pairs, and that is no accident. Which numbers of the union do you look at?",
        )
    return "Sixty estimates lie around the truth."


def _share(given, what: str) -> None:
    expect(
        isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given),
        f"{what}: return a share from 0 to 1; you return {given!r}.",
    )
    expect(0 <= given <= 1, f"{what}: you return {given}, which is no share.")


@exercise("L.3", "A bug hunt: the leak that was not found")
def hidden_leak(dice, answer):
    """`answer(texts, tests, size) -> numbers of texts to leave out`."""
    cases = [
        (["a b c d e"], ["a b c d e"], 3, [0], "a text that is the test itself"),
        (["a b c d"], ["w x y z"], 2, [], "a text that has no word of the test"),
        (["so a b c d"], ["a b c d"], 3, [0], "a test with one more word before it"),
        (["a b c d e"], ["x a b c y"], 3, [0], "a run from the middle of a test"),
        (["x y a b c"], ["a b c d"], 3, [0], "a run at the very end of a text"),
        (["a b c x"], ["y a b c"], 3, [0], "a run at the very end of a test"),
        (["a b x c d"], ["a b y c d"], 3, [], "only two words at a time in common"),
        (["a b"], ["a b"], 3, [], "a text shorter than a run"),
        (["x b c y"], ["a b", "c d"], 2, [], "a run that begins in one test and ends in another"),
    ]
    for texts, tests, size, wanted, what in cases:
        _thrown_out(answer(list(texts), list(tests), size), wanted, what, size)
    words = "tin box old hen red cup big map".split()
    for _ in range(40):
        size, *lengths = torch.randint(2, 9, (4,), generator=dice).tolist()
        size = min(size, 5)
        texts = [_draw(words, n + 2, dice) for n in lengths]
        tests = [_draw(words, 6, dice) for _ in range(3)]
        wanted = [i for i, text in enumerate(texts) if any(_common(text, t, size) for t in tests)]
        what = f"texts {texts} and tests {tests}"
        _thrown_out(answer(list(texts), list(tests), size), wanted, what, size)
    return "Wherever the leak begins."


def _draw(words: list[str], count: int, dice) -> str:
    return " ".join(words[i] for i in torch.randint(len(words), (count,), generator=dice))


def _common(text: str, test: str, size: int) -> bool:
    """Whether some run of `size` words of the text stands in the test."""
    words = text.split()
    runs = (f" {' '.join(words[i : i + size])} " for i in range(len(words) - size + 1))
    return any(run in f" {test} " for run in runs)


def _thrown_out(given, wanted: list[int], what: str, size: int) -> None:
    expect(
        isinstance(given, list | tuple | set),
        f"{what}: return the numbers of texts; you return a {type(given).__name__}.",
    )
    given = sorted(given)
    missed, extra = [set(a) - set(b) for a, b in ((wanted, given), (given, wanted))]
    told = f"{what}, runs of {size} words: "
    expect(not missed, f"{told}text {min(missed, default=0)} stays in, and it has leaked.")
    expect(not extra, f"{told}text {min(extra, default=0)} is left out, and it has not leaked.")


@exercise("L.4", "Packing a stream")
def stream(dice, answer):
    """`answer(lengths, room, most_open) -> list of bins of numbers`, in the order of opening."""
    hand = ([4, 5, 2, 3, 6], 8, 2)
    cases = [hand, ([8, 8, 8], 8, 2), ([3, 6, 3, 2, 1], 8, 1), ([], 5, 2), ([5, 3, 5, 3], 8, 9)]
    for _ in range(12):
        many, room, most = torch.randint(1, 9, (3,), generator=dice).tolist()
        room += 6
        lengths = torch.randint(1, room + 1, (3 * many,), generator=dice).tolist()
        cases.append((lengths, room, min(most, 4)))
    for lengths, room, most in cases:
        what = f"lengths {lengths}, room {room}, at most {most} open"
        what = "the example by hand" if (lengths, room, most) == hand else what
        given = answer(list(lengths), room, most)
        expect(
            isinstance(given, list | tuple) and all(isinstance(b, list | tuple) for b in given),
            f"{what}: return a list of lists of numbers.",
        )
        for b in given:
            size = sum(lengths[i] for i in b)
            expect(size <= room, f"{what}: the row {list(b)} holds {size} tokens.")
        seen = sorted(i for b in given for i in b)
        expect(
            seen == list(range(len(lengths))),
            f"{what}: each story must stand in exactly one row; you have {seen}.",
        )
        _packed(given, _fill(lengths, room, most), what)
    return "Every story in one row, and no row waits for ever."


def _fill(lengths: list[int], room: int, most: int) -> list[list[int]]:
    """What should come out, by asking for each story which rows are open."""
    rows: list[list[int]] = []
    shut: set[int] = set()
    for i, length in enumerate(lengths):
        fits = [
            r
            for r, row in enumerate(rows)
            if r not in shut and sum(lengths[k] for k in row) + length <= room
        ]
        if fits:
            rows[fits[0]].append(i)
            continue
        still_open = [r for r in range(len(rows)) if r not in shut]
        if len(still_open) == most:
            shut.add(still_open[0])
        rows.append([i])
    return rows


def _packed(given, wanted: list[list[int]], what: str) -> None:
    given = [list(row) for row in given]
    for place, (mine, right) in enumerate(zip(given, wanted, strict=False)):
        expect(mine == right, f"{what}: row {place} holds stories {mine}, expected {right}.")
    expect(len(given) == len(wanted), f"{what}: {len(given)} rows, expected {len(wanted)}.")
