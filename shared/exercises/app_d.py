"""Checks of appendix D's exercises: training tricks."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from shared.exercises.checking import exercise, expect, expect_error, expect_same
from shared.previous_chapters import IGNORED, pad_rows


@exercise("D.1", "A bug hunt: large batches that learn worse")
def bites(dice, answer):
    """`answer(model, bites) -> float`, and gradients in the model."""
    row = lambda n: torch.randint(1, 9, (n,), generator=dice).tolist()
    cases = {
        "two bites of rows of one length": [[row(6), row(6)], [row(6)]],
        "one long row and short ones": [[row(20), row(2), row(2)], [row(3)]],
        "a bite of one row and a bite of three": [[row(9)], [row(4), row(4), row(3)]],
        "three unequal bites": [[row(3)], [row(12), row(2)], [row(5), row(5)]],
    }
    for case, groups in cases.items():
        _one_case(dice, answer, case, [pad_rows(group) for group in groups])
    silent = pad_rows([row(4)])
    silent[1].fill_(IGNORED)
    full = [pad_rows([row(7), row(3)]), silent, pad_rows([row(2)])]
    _one_case(dice, answer, "a bite that asks for nothing", full)
    return "In whatever bites it comes: the step of the whole batch."


def _one_case(dice, answer, case, given) -> None:
    model = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 9))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=dice))
    losses = [
        F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=IGNORED, reduction="none")
        for x, y in given
    ]
    counts = [int((y != IGNORED).sum()) for _, y in given]
    wanted = sum(part.sum() for part in losses) / sum(counts)
    gradients = torch.autograd.grad(wanted, list(model.parameters()))
    loss = answer(model, [(x.clone(), y.clone()) for x, y in given])
    expect(
        isinstance(loss, int | float | torch.Tensor),
        f"{case}: return the mean loss, a number; you return a {type(loss).__name__}.",
    )
    expect(
        all(p.grad is not None for p in model.parameters()),
        f"{case}: some parameters have no gradient afterwards; call backward on each bite.",
    )
    made = [p.grad for p in model.parameters()]
    expect(
        math.isfinite(float(loss)) and all(torch.isfinite(g).all() for g in made),
        f"{case}: loss or gradient is not a number any more. A mean over no targets is 0/0.",
    )
    _explain_bites(case, given, counts, made, gradients)
    expect_same(float(loss), wanted.item(), f"{case}: the loss that you return", atol=1e-4)


def _explain_bites(case, given, counts, made, wanted) -> None:
    """Raise `Wrong` unless the gradients are those of the whole batch."""
    if all(torch.allclose(g, w, atol=1e-5) for g, w in zip(made, wanted, strict=True)):
        return
    flat, true = (torch.cat([t.flatten() for t in ts]) for ts in (made, wanted))
    factor = ((flat @ true) / (true @ true)).item()
    if torch.allclose(flat, factor * true, atol=1e-4 * max(1.0, abs(factor))):
        expect(
            False, f"{case}: the gradient points the right way, but is {factor:.3g} times as long."
        )
    targets = ", ".join(map(str, counts))
    expect(
        False,
        f"{case}: not the gradient of the whole batch. The bites ask for {targets} targets; does "
        "each target of each bite have the same say?",
    )


@exercise("D.2", "A mean that does not start at zero")
def means(dice, answer):
    """`answer(values, keep) -> list of tensors`."""
    by_hand = _list(answer([torch.tensor(4.0), torch.tensor(2.0), torch.tensor(2.0)], 0.5), 3)
    _explain_means([float(m) for m in by_hand])
    for keep, count, shape in ((0.9, 7, (2, 3)), (0.0, 4, (5,)), (0.99, 30, ()), (0.3, 1, (1, 2))):
        values = [torch.randn(shape, generator=dice) + 2 for _ in range(count)]
        before = [v.clone() for v in values]
        given = _list(answer(values, keep), count)
        for t, mean in enumerate(given, 1):
            weights = [(1 - keep) * keep ** (t - i) for i in range(1, t + 1)]
            pairs = zip(weights, before, strict=False)
            wanted = sum(w * v for w, v in pairs) / (1 - keep**t)
            expect_same(mean, wanted, f"keep {keep}, after {t} of {count} values: your mean")
        same = all(torch.equal(v, b) for v, b in zip(values, before, strict=True))
        expect(same, "the values were changed; leave them as they are.")
    for keep in (1.0, -0.1, 1.5):
        told = expect_error(
            ValueError,
            lambda keep=keep: answer([torch.tensor(1.0)], keep),
            f"keep={keep} should raise a ValueError.",
        )
        expect(str(keep) in told, f"the error for keep={keep} does not say which keep it was.")
    return "Honest from the first value on."


def _list(given, count: int) -> list:
    expect(
        isinstance(given, list | tuple),
        f"return a list of means; you return a {type(given).__name__}.",
    )
    expect(len(given) == count, f"{len(given)} means for {count} values.")
    return list(given)


def _explain_means(given: list[float]) -> None:
    """Raise `Wrong` with the likeliest reason if the example by hand is not met."""
    near = lambda wanted: all(abs(a - b) < 1e-3 for a, b in zip(given, wanted, strict=True))
    where = "with values 4, 2, 2 and keep 0.5"
    expect(not near([2, 2, 2]), f"{where}: 2, 2, 2 is the mean before it is made up for its start.")
    expect(
        not near([4, 3, 2.5]),
        f"{where}: 4, 3, 2.5 is a mean that starts at the first value, not at 0.",
    )
    expect(
        len({round(x, 4) for x in given}) > 1,
        f"{where}: all three are {given[0]:.3f}. Is the same tensor three times in the list?",
    )
    expect(
        not near([4, 4, 3.4286]),
        f"{where}: the corrected mean is carried on and corrected again; carry on the plain one.",
    )
    expect_same(given, [4, 4 * 2 / 3, 16 / 7], f"{where}: the means", atol=1e-3)


@exercise("D.3", "A schedule in steps")
def schedule(dice, answer):
    """`answer(steps, peak, warmup_steps, decay_steps, floor) -> list`."""
    root = math.sqrt
    wanted = [0.5, 1, 1, 1, 0.5, 1 - root(0.5), 1 - root(0.75), 0]
    _explain_schedule(_rates(answer(8, 1.0, 2, 4, 0.0), 8), wanted, "the example by hand", 2, 4)
    cases = [(10, 0.02, 3, 4, 0.005), (6, 2.0, 0, 6, 0.5), (5, 0.3, 5, 0, 0.0), (4, 1.0, 0, 0, 0.1)]
    for _ in range(5):
        w, s, d = torch.randint(1, 9, (3,), generator=dice).tolist()
        peak, floor = torch.rand(2, generator=dice).tolist()
        cases.append((w + s + d, 1 + peak, w, d, floor))
    for steps, peak, w, d, floor in cases:
        wanted = [peak * (i + 1) / w for i in range(w)] + [peak] * (steps - w - d)
        wanted += [peak - (peak - floor) * root((j + 1) / d) for j in range(d)]
        what = f"{steps} steps, warm-up {w}, decay {d}, peak {peak:.2f}, floor {floor:.2f}"
        _explain_schedule(_rates(answer(steps, peak, w, d, floor), steps), wanted, what, w, d)
    expect_error(
        ValueError,
        lambda: answer(5, 1.0, 3, 3, 0.0),
        "a warm-up of 3 and a decay of 3 in 5 steps should raise a ValueError.",
    )
    return "Neither the first step nor the last is wasted."


def _rates(given, steps: int) -> list[float]:
    try:
        rates = [float(x) for x in given]
    except TypeError:
        expect(False, f"return a list of rates; you return a {type(given).__name__}.")
    expect(len(rates) == steps, f"{len(rates)} rates for {steps} steps.")
    return rates


def _explain_schedule(given, wanted, what, w, d) -> None:
    off = [i for i, (a, b) in enumerate(zip(given, wanted, strict=True)) if abs(a - b) > 1e-6]
    if not off:
        return
    first, last = off[0], len(given) - 1
    if first < w:
        expect(
            given[first] != 0,
            f"{what}: the first step has the rate 0 and teaches nothing. Count from 1.",
        )
        part = "in the warm-up"
    else:
        part = "in the decay" if first > last - d else "in the stable part"
    end = ""
    if abs(given[last] - wanted[last]) > 1e-6:
        end = f" And the last step has {given[last]:.4f}; it should have {wanted[last]:.4f}."
    expect(
        False,
        f"{what}: step {first + 1}, {part}, has the rate {given[first]:.4f}, expected "
        f"{wanted[first]:.4f}.{end}",
    )


@exercise("D.4", "Read an ablation")
def ablation(dice, answer):
    """`answer({condition: {seed: loss}}) -> {condition: word}`."""
    base = {0: 3.5, 1: 3.7, 2: 3.4, 3: 3.6}
    _read(answer, {"baseline": base, "trick": {2: 3.33, 0: 3.45, 1: 3.66}}, {"trick": "better"}, "")
    luck = torch.randn(5, generator=dice)
    seeds = {s: 3.0 + 0.2 * x for s, x in enumerate(luck.tolist())}
    plus = lambda *changes: {s: seeds[s] + c for s, c in enumerate(changes)}
    table = {
        "small and steady": plus(-0.02, -0.021, -0.019, -0.022, -0.018),
        "baseline": seeds,
        "harm": plus(0.05, 0.07, 0.06, 0.05, 0.06),
        "large and uneven": plus(-0.5, 0.3, -0.4, 0.1, -0.2),
        "three seeds, nearly": plus(-0.05, -0.02, -0.01),
        "backwards": dict(reversed(list(plus(-0.03, -0.031, -0.029, -0.032, -0.03).items()))),
        "one seed": {3: seeds[3] - 1},
        "seeds of its own": {7: 2.0, 8: 2.1, 9: 2.2},
        "one shared": {1: seeds[1] - 0.5, 8: 2.1, 9: 2.2},
    }
    words = {"small and steady": "better", "harm": "worse", "backwards": "better"}
    unclear = ("large and uneven", "three seeds, nearly", "one seed", "seeds of its own")
    words |= dict.fromkeys((*unclear, "one shared"), "cannot tell")
    _read(answer, table, words, WHY)
    return "You know what a table with one run a row is worth."


WHY = {
    "small and steady": "Its differences are alike in all seeds: pair by seed, so that the seeds' "
    "own luck drops out.",
    "harm": "Its losses are higher in every seed. A lower loss is better.",
    "large and uneven": "Its mean is large, and its differences lie on both sides of 0.",
    "three seeds, nearly": "With three seeds the interval is wide: Student's factor is 4.3, not 2.",
    "backwards": "Its seeds stand in another order than the baseline's. Pair by seed.",
    "one seed": "One seed has no interval.",
    "seeds of its own": "It shares no seed with the baseline.",
    "one shared": "It shares one seed with the baseline, and one has no interval.",
}


def _read(answer, table, wanted, why) -> None:
    given = answer({name: dict(found) for name, found in table.items()})
    expect(isinstance(given, dict), f"return a dict; you return a {type(given).__name__}.")
    expect("baseline" not in given, "the baseline is compared with itself; leave it out.")
    for name, word in wanted.items():
        expect(name in given, f"there is no word for {name!r}.")
        reason = f" {why[name]}" if why else " It is the example by hand."
        expect(
            given[name] == word, f"{name!r}: you say {given[name]!r}, expected {word!r}.{reason}"
        )
    more = [name for name in given if name not in wanted]
    expect(not more, f"there is a word for {more}, which the table does not hold.")
