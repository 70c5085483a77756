"""Checks of appendix E's exercises: low-rank adapters."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from shared.exercises.checking import exercise, expect, expect_same, expect_tensor
from shared.previous_chapters import GPTConfig, parameter_ledger


@exercise("E.1", "Length and direction apart")
def dora(dice, answer):
    """`answer(x, weight, A, B, scale, lengths) -> output`."""
    for out, features, rank in ((5, 3, 2), (2, 7, 1), (4, 4, 3)):
        x = torch.randn(2, 6, features, generator=dice)
        weight = torch.randn(out, features, generator=dice)
        A = torch.randn(rank, features, generator=dice)
        B = torch.randn(out, rank, generator=dice)
        what = f"with {out} outputs, {features} features, rank {rank}"
        nothing = torch.zeros(out, rank)
        given = answer(x, weight.clone(), A.clone(), nothing, 2.0, weight.norm(dim=1))
        expect_tensor(given, (2, 6, out), f"{what}: what you return")
        expect(
            torch.allclose(given, x @ weight.T, atol=1e-4),
            f"{what}: B is zero and `lengths` are those of the rows of `weight`, so nothing should "
            "be changed, and your output is not x times the weight.",
        )
        lengths = 0.5 + torch.rand(out, generator=dice)
        _say_what_is_wrong(answer, x, weight, A, B, 0.7, lengths, what)
    hand = [torch.tensor(v) for v in ([[2.0, 1.0]], [[3.0, 4.0]], [[0.0, -4.0]], [[1.0]])]
    _say_what_is_wrong(answer, *hand, 1.0, torch.tensor([5.0]), "in the example by hand")
    return "A weight that can turn without growing."


def _say_what_is_wrong(answer, x, weight, A, B, scale, lengths, what):
    """Raise `Wrong`, with the likeliest reason, unless the output is right."""
    given = [t.clone() for t in (x, weight, A, B)]
    found = answer(*given, scale, lengths.clone())
    for name, mine, theirs in zip(("x", "weight", "A", "B"), (x, weight, A, B), given, strict=True):
        expect(torch.equal(mine, theirs), f"{what}: you have written into `{name}`.")
    expect_tensor(found, (*x.shape[:-1], len(weight)), f"{what}: what you return")
    turned = weight + scale * (B @ A)

    def out(matrix):
        return x @ matrix.T

    likely = {
        "you take the lengths of the columns; an output is a row.": out(
            lengths[:, None] * F.normalize(turned, dim=0)
        ),
        "you divide by the length of the old rows; take that of the changed ones.": out(
            lengths[:, None] * turned / weight.norm(dim=1, keepdim=True)
        ),
        "the rows do not have the lengths that `lengths` says: bring them to length 1 first.": out(
            lengths[:, None] * turned
        ),
        "`scale` has no effect.": out(lengths[:, None] * F.normalize(weight + B @ A, dim=1)),
        "`lengths` has no effect.": out(F.normalize(turned, dim=1)),
        "the direction is not changed by B A.": out(lengths[:, None] * F.normalize(weight, dim=1)),
        "this is LoRA: the lengths are left as they come.": out(turned),
    }
    wanted = out(lengths[:, None] * F.normalize(turned, dim=1))
    if not torch.allclose(found, wanted, atol=1e-4):
        for reason, wrong in likely.items():
            expect(not torch.allclose(found, wrong, atol=1e-4), f"{what}: {reason}")
    expect_same(found, wanted, f"{what}: the output", atol=1e-4)


@exercise("E.2", "The bill of an adapter")
def bill(dice, answer):
    """`answer(config, rank, targets, bits) -> bytes`."""
    small = GPTConfig(10, 5, 4, 2, 3)
    given = answer(small, 2, ("q", "up"), 8)
    _number(given)
    _explain_bill(given, small, 2, ("q", "up"), 8, "the example by hand")
    for _ in range(8):
        layers, heads, width, rank, vocab = torch.randint(1, 7, (5,), generator=dice).tolist()
        config = GPTConfig(40 + vocab, 16, 8 * heads * width, heads, layers)
        drawn = torch.randperm(6, generator=dice).tolist()[: max(1, rank)]
        targets = tuple(("q", "k", "v", "out", "up", "down")[i] for i in drawn)
        bits = (4, 8, 16, 32)[int(torch.randint(4, (1,), generator=dice))]
        what = f"{layers} layers of width {config.embed_dim}, rank {rank}, {targets}, {bits} bits"
        given = answer(config, rank, targets, bits)
        _number(given)
        _explain_bill(given, config, rank, targets, bits, what)
    return "Now you know what your card must hold."


def _number(given) -> None:
    expect(
        isinstance(given, int | float) and not isinstance(given, bool),
        f"return a number of bytes; you return a {type(given).__name__}.",
    )


def _explain_bill(given, config, rank, targets, bits, what) -> None:
    base, dim = sum(parameter_ledger(config).values()), config.embed_dim
    kept = base * bits / 8

    def adapters(sides, layers=config.num_layers):
        return layers * rank * sum(sides(*_sides(target, dim)) for target in targets)

    right = adapters(lambda out, features: out + features)
    likely = {
        "the frozen base has gradients and averages in your bill, and it needs none.": kept
        + 12 * base
        + 16 * right,
        "each number of an adapter takes 16 bytes: itself, its gradient, two averages.": kept
        + 4 * right,
        "AdamW keeps two averages for each number of an adapter: 16 bytes, not 12.": kept
        + 12 * right,
        "an adapter has two matrices, A and B.": kept + 16 * adapters(lambda out, features: out),
        "only A is counted, or only B.": kept + 16 * adapters(lambda out, features: features),
        "the adapters of one block alone are counted.": kept
        + 16 * adapters(lambda out, features: out + features, 1),
        "you count the whole change, not its two thin matrices.": kept
        + 16 * config.num_layers * sum(out * f for out, f in (_sides(t, dim) for t in targets)),
        "the base is counted in bits, not in bytes.": base * bits + 16 * right,
        "the base is left out.": 16 * right,
        "the adapter is left out.": kept,
    }
    if abs(given - (kept + 16 * right)) > 0.5:
        for reason, wrong in likely.items():
            expect(abs(given - wrong) > 0.5, f"{what}: {given:,.0f} bytes; {reason}")
    expect(
        abs(given - (kept + 16 * right)) <= 0.5,
        f"{what}: {given:,.0f} bytes, expected {kept + 16 * right:,.0f} "
        f"({kept:,.0f} for the base, {16 * right:,.0f} for the adapter).",
    )


def _sides(target: str, dim: int) -> tuple[int, int]:
    return {"up": (4 * dim, dim), "down": (dim, 4 * dim)}.get(target, (dim, dim))


@exercise("E.3", "A bug hunt: merged and merged")
def merged(dice, answer):
    """`answer(weight, adapters) -> weight`."""
    one = torch.ones(1, 1)
    _examine_merge(answer, torch.zeros(1, 1), [(one, one, 3.0, 1)], "in the example by hand")
    for out, features, settings in (
        (4, 6, [(2, 2.0)]),
        (5, 3, [(2, 8.0)]),
        (3, 7, [(1, 16.0), (3, 1.0)]),
        (2, 2, []),
    ):
        weight, adapters = torch.randn(out, features, generator=dice), []
        for rank, alpha in settings:
            A = torch.randn(rank, features, generator=dice)
            adapters.append((A, torch.randn(out, rank, generator=dice), alpha, rank))
        told = [f"rank {r}, alpha {a:g}" for r, a in settings]
        _examine_merge(answer, weight, adapters, f"with {' and '.join(told) or 'no adapter'}")
    return "Apart and merged, the same."


def _examine_merge(answer, weight, adapters, what) -> None:
    mine = weight.clone()
    given = [{"A": A.clone(), "B": B.clone(), "alpha": a, "rank": r} for A, B, a, r in adapters]
    found = answer(mine, given)
    expect_tensor(found, tuple(weight.shape), f"{what}: what you return")
    changes = [(a / r, B @ A) for A, B, a, r in adapters]
    wanted = weight + sum((s * c for s, c in changes), torch.zeros_like(weight))
    if not torch.allclose(found, wanted, atol=1e-4):
        size = f"the change is {_ratio(found - weight, wanted - weight)} times as large as apart"
        twice = weight + sum((s * s * c for s, c in changes), torch.zeros_like(weight))
        never = weight + sum((c for _, c in changes), torch.zeros_like(weight))
        expect(
            not torch.allclose(found, twice, atol=1e-4),
            f"{what}: {size}, and the model answers differently once merged.",
        )
        expect(
            not torch.allclose(found, never, atol=1e-4),
            f"{what}: {size}: alpha and rank have no effect.",
        )
    expect_same(found, wanted, f"{what}: the merged weight", atol=1e-4)
    expect(
        torch.equal(mine, weight),
        f"{what}: the weight that you were given has changed, and other adapters stand on it.",
    )
    for (A, B, _, _), adapter in zip(adapters, given, strict=True):
        expect(
            torch.equal(adapter["A"], A) and torch.equal(adapter["B"], B),
            f"{what}: an adapter's A or B has changed, and it may be needed apart again.",
        )


def _ratio(found, wanted) -> str:
    return f"{float(found.norm() / wanted.norm().clamp(min=1e-9)):.2g}"


@exercise("E.4", "Which rank?")
def which_rank(dice, answer):
    """`answer(values, share, shape) -> rank or None`."""
    hand = torch.tensor([2.0, 1.0, 1.0])
    _examine_rank(answer, hand, 0.8, (100, 4), "the example by hand, 100 × 4")
    _examine_rank(answer, hand, 0.8, (3, 3), "the example by hand, 3 × 3")
    _examine_rank(answer, torch.tensor([3.0, 1.0]), 0.9, (50, 40), "values (3, 1), share 0.9")
    for size, steep in ((20, 0.05), (12, 0.6), (30, 0.0), (9, 0.2)):
        values = torch.exp(-steep * torch.arange(size)) * (
            1 + 0.1 * torch.rand(size, generator=dice)
        )
        values = values.sort(descending=True).values
        for share in (0.35, 0.77, 0.96):
            for shape in ((size * 9, size), (size, size)):
                what = f"{size} values, share {share}, a matrix of {shape[0]} × {shape[1]}"
                _examine_rank(answer, values, share, shape, what)
    return "What a picture can tell about a rank, you can read now."


def _rank(values: list[float], share: float) -> int:
    held, total = 0.0, sum(values)
    for rank, value in enumerate(values, 1):
        held += value
        if held >= share * total - 1e-9:
            return rank
    return len(values)


def _examine_rank(answer, values, share, shape, what) -> None:
    given = answer(values.clone(), share, shape)
    squares, plain = [v * v for v in values.tolist()], values.tolist()
    rank, (out, features) = _rank(squares, share), shape
    wanted = rank if rank * (out + features) < out * features else None
    if given is None:
        expect(
            wanted is None,
            f"{what}: you say that an adapter saves nothing, and one of rank {rank} has "
            f"{rank * (out + features)} numbers of {out * features}.",
        )
        return
    expect(
        isinstance(given, int) and not isinstance(given, bool),
        f"return a whole number or None; you return a {type(given).__name__}.",
    )
    expect(
        given != _rank(plain, share) or given == rank,
        f"{what}: rank {given}. That is where the values themselves add up to the share; take "
        "their squares.",
    )
    expect(
        given != rank - 1,
        f"{what}: rank {given} holds less than the share; one more is needed.",
    )
    expect(
        given == rank or wanted is None,
        f"{what}: rank {given}, expected {rank}, the smallest that holds the share.",
    )
    expect(
        wanted is not None,
        f"{what}: rank {given}, but an adapter of rank {rank} has {rank * (out + features)} "
        f"numbers and the matrix {out * features}. Return None where it saves nothing.",
    )
