"""Checks and quick questions of chapter 3: attention."""

from __future__ import annotations

import math

import torch

from shared.exercises.checking import exercise, expect, expect_same, expect_tensor
from shared.exercises.questions import question, right, wrong


@exercise("3.1", "Cross-attention")
def cross_attention(dice, answer):
    """`answer(queries, keys, values) -> (out, weights)`, no mask; odd sizes all around."""
    queries = torch.randn(2, 3, 8, generator=dice)
    keys, values = torch.randn(2, 5, 8, generator=dice), torch.randn(2, 5, 4, generator=dice)
    given = answer(queries, keys, values)
    expect(
        isinstance(given, tuple) and len(given) == 2,
        "return two things, the mixture and the weights: `return out, weights`.",
    )
    out, weights = given
    expect_tensor(weights, (2, 3, 5), "your weights (batch, who asks, who is asked)")
    sums = weights.sum(-1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        columns = weights.sum(-2)
        expect(
            not torch.allclose(columns, torch.ones_like(columns), atol=1e-4),
            "your softmax runs over the wrong axis: the weights on one key add up to 1 over all "
            "who ask. Each row, one asker's shares over all keys, must add up to 1.",
        )
        expect(False, f"a row of your weights adds up to {sums[0, 0]:.3f}, not to 1.")
    wanted = torch.softmax(torch.einsum("bqd,bkd->bqk", queries, keys) / math.sqrt(8), -1)
    for factor, name in ((1.0, "missing"), (1 / 8, "by d in place of √d")):
        other = torch.softmax(factor * torch.einsum("bqd,bkd->bqk", queries, keys), -1)
        expect(
            not torch.allclose(weights, other, atol=1e-5),
            f"the division of the scores is {name}; divide by √d, and d is the width of a query.",
        )
    expect_same(weights, wanted, "your weights")
    expect_tensor(out, (2, 3, 4), "your mixture (batch, who asks, width of a value)")
    expect_same(out, torch.einsum("bqk,bkv->bqv", wanted, values), "your mixture")
    return "Three askers, five who are asked, and nobody hidden."


@exercise("3.2", "A bug hunt: who sees the future?")
def causal_weights(dice, answer):
    """`answer(scores) -> weights` with a causal mask."""
    scores = torch.randn(2, 6, 6, generator=dice)
    weights = answer(scores.clone())
    expect_tensor(weights, (2, 6, 6), "your weights")
    for asker in range(6):
        for asked in range(6):
            seen = float(weights[:, asker, asked].max())
            if asked > asker:
                expect(
                    seen < 1e-9,
                    f"position {asker} sees position {asked}, which comes later: "
                    f"it gives it {seen:.0%} of its look.",
                )
            else:
                expect(seen > 0, f"position {asker} does not see position {asked}, and it may.")
    sums = weights.sum(-1)
    expect(
        torch.allclose(sums, torch.ones_like(sums), atol=1e-5),
        f"a row adds up to {float(sums.min()):.2f}: what is hidden must be hidden before the "
        "softmax, so that the rest shares out the whole.",
    )
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    expect_same(weights, scores.masked_fill(~mask, -torch.inf).softmax(-1), "your weights")
    return "Nobody sees what comes later, and everybody sees themselves."


QUESTIONS = [
    question(
        "3.a",
        "All scores of a row rise by 3. What happens to its attention weights?",
        wrong("They all become larger.", "They are shares of one whole: not all can grow."),
        right("Nothing.", "Every power grows by the same factor, e³, and the total with them."),
        wrong(
            "They become sharper.",
            "Sharpness comes from multiplying the scores; adding moves them all alike.",
        ),
    ),
]
