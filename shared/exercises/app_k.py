"""Checks of appendix K's exercises: evaluation."""

from __future__ import annotations

import math

import torch

from shared.exercises.checking import exercise, expect, expect_number, expect_same


@exercise("K.1", "A test that flips signs")
def flips(dice, answer):
    """`answer(differences) -> p`."""
    given = expect_number(answer([1.0, 2.0, 3.0]), "the example by hand")
    expect(
        abs(given - 1 / 8) > 1e-9,
        "the example by hand: 0.125, expected 0.25. Sums as far below 0 count, too.",
    )
    expect(
        abs(given) > 1e-9,
        "the example by hand: 0. The observed signs are one of the ways, and count: at least as "
        "far, not further.",
    )
    expect_same(given, 0.25, "the example by hand")
    given = expect_number(answer([0.1, 0.2, 0.3, -0.6]), "0.1, 0.2, 0.3 and -0.6, whose sum is 0")
    expect_same(given, 1.0, "0.1, 0.2, 0.3 and -0.6, whose sum is 0")
    for size in (4, 7, 9):
        drawn = [round(x + 0.7, 1) for x in torch.randn(size, generator=dice).tolist()]
        for differences in (drawn, [-d for d in drawn], [0.0, *drawn[1:]]):
            told = f"p of {[round(d, 1) for d in differences]}"
            given = expect_number(answer(list(differences)), told)
            expect(0 <= given <= 1, f"{told}: {given}, which is no share.")
            wanted = _flipped(differences)
            expect(
                not _flipped(differences, strict=True) <= given < wanted - 1e-9,
                f"{told}: {given:.4f}, expected {wanted:.4f}. Ways that are exactly as far as the "
                "observed one count, too; leave room for rounding.",
            )
            expect_same(given, wanted, told, atol=1e-9)
    return "No bell curve needed."


def _flipped(differences, strict: bool = False) -> float:
    """The share, in whole tenths, so that nothing is rounded."""
    sums = [0]
    for d in (round(10 * d) for d in differences):
        sums = [s + sign * d for s in sums for sign in (-1, 1)]
    observed = abs(sum(round(10 * d) for d in differences))
    return sum(abs(s) > observed if strict else abs(s) >= observed for s in sums) / len(sums)


@exercise("K.2", "A bug hunt: the scorer that is too good")
def scorer(dice, answer):
    """`answer(logits, context, choice) -> nats`."""
    for before, after, vocab in ((2, 2, 9), (5, 1, 4), (1, 3, 6)):
        row = torch.randint(vocab, (before + after,), generator=dice).tolist()
        context, choice = row[:before], row[before:]
        sure = torch.zeros(len(row), vocab)
        for line, following in enumerate(row[1:]):
            sure[line, following] = 60.0
        case = f"a context of {before} ids and a choice of {after}"
        given = expect_number(answer(sure.clone(), list(context), list(choice)), case)
        expect(
            abs(given) < 1e-3,
            f"{case}, and a model that is certain of each next id: the choice should be free, and "
            f"costs {given:.1f} nats.",
        )
        logits = torch.randn(len(row), vocab, generator=dice)
        given = expect_number(answer(logits.clone(), list(context), list(choice)), case)
        lines = range(before - 1, before + after - 1)
        each = [
            (logits[i].exp().sum().log() - logits[i, row[i + 1]]).item() for i in lines
        ]  # by hand
        expect(
            after == 1 or abs(given - sum(each) / after) > 1e-4,
            f"{case}: {given:.3f} nats, the mean over its ids; expected their sum.",
        )
        expect(given > 0, f"{case}: {given:.3f} nats. A price is minus the log-probability.")
        expect_same(given, sum(each), f"{case}: the price", atol=1e-4)
    return "Each id is priced by the guess that was made before it was seen."


@exercise("K.3", "How many questions?")
def needed(dice, answer):
    """`answer(share, gain, differ) -> questions`."""
    expect_same(_whole(answer(0.5, 0.1), "different questions"), 385, "0.5 and a gain of 0.1")
    given = _whole(answer(0.5, 0.1, 0.2), "the same questions")
    expect(
        given != 157,
        "0.5, a gain of 0.1, differing on 0.2: 157, expected 149. The variance is differ - gain².",
    )
    expect_same(given, 149, "0.5, a gain of 0.1, differing on 0.2")
    for _ in range(8):
        a, b, c = torch.rand(3, generator=dice).tolist()
        share, gain = round(0.3 + 0.5 * a, 2), round(0.01 + 0.14 * b, 2)
        differ = round(gain + 0.02 + 0.2 * c, 2)
        other = share + gain
        apart = 7.84 * (share - share**2 + other - other**2) / gain**2
        same = 7.84 * (differ / gain**2 - 1)
        told = f"share {share}, gain {gain}"
        given = _whole(answer(share, gain), told)
        half = 7.84 * (share - share**2) / gain**2
        expect(
            abs(given - half) > 1.5,
            f"{told}: {given}, expected {math.ceil(apart)}. Both models' shares are uncertain, and "
            "their variances add up.",
        )
        _expect_up(given, apart, f"{told}, different questions")
        _expect_up(_whole(answer(share, gain, differ), told), same, f"{told}, differ {differ}")
    return "The gain counts squared."


def _whole(given, what: str) -> int:
    number = expect_number(given, what)
    expect(number == int(number), f"{what}: {number:.2f} questions; round up to a whole number.")
    return int(number)


def _expect_up(given: int, exact: float, what: str) -> None:
    """A last digit of rounding is forgiven where the exact value is a whole number."""
    fine = given in (math.ceil(exact - 1e-6), math.ceil(exact + 1e-6))
    expect(fine, f"{what}: {given}, expected {math.ceil(exact - 1e-6)} (from {exact:.2f}).")


@exercise("K.4", "A judge asked twice")
def twice(dice, answer):
    """`answer(judge, pairs) -> counts`."""
    pairs = [("a", "b"), ("c", "d"), ("e", "f")]
    for always, first in ((0, 3), (1, 0)):
        told = f"a judge that always says {always}, on three pairs"
        wanted = {"wins": 0, "draws": 3, "losses": 0, "first": first}
        _expect_counts(answer(lambda one, two, say=always: say, list(pairs)), wanted, told)
    asked: list[tuple] = []

    def better(one, two):
        asked.append((one, two))
        return int(two > one)

    told = "a judge that takes the larger number, on (2, 1), (1, 3), (5, 4)"
    given = answer(better, [(2, 1), (1, 3), (5, 4)])
    expect(
        {(2, 1), (1, 2), (1, 3), (3, 1)} <= set(asked),
        f"{told}: not every pair was shown to it in both orders.",
    )
    _expect_counts(given, {"wins": 2, "draws": 0, "losses": 1, "first": 0}, told)
    for push in (-1.5, 0.0, 0.8):
        rows = torch.randn(23, 2, generator=dice).tolist()
        lean = lambda one, two, push=push: int(two > one + push)
        wins = sum(a > b + abs(push) for a, b in rows)
        losses = sum(b > a + abs(push) for a, b in rows)
        draws = len(rows) - wins - losses
        wanted = {"wins": wins, "draws": draws, "losses": losses, "first": draws * (push > 0)}
        told = f"a judge that gives the first place {push} for nothing, on 23 pairs"
        _expect_counts(answer(lean, [tuple(row) for row in rows]), wanted, told)
    return "Its lean is counted now, as draws."


def _expect_counts(given, wanted: dict, told: str) -> None:
    expect(isinstance(given, dict), f"return a dict; you return a {type(given).__name__}.")
    for name, many in wanted.items():
        expect(name in given, f'the dict has no "{name}"; it has {", ".join(map(str, given))}.')
        value = expect_number(given[name], f'"{name}"')
        expect(value == many, f'{told}: "{name}" is {given[name]}, expected {many}.')
