"""Checks of appendix F's exercises: fast inference."""

from __future__ import annotations

import math

import torch

from shared.exercises.checking import exercise, expect, expect_same, expect_tensor
from shared.previous_chapters import GPTConfig


@exercise("F.1", "A ring of keys")
def ring(dice, answer):
    """`answer(store, count, query, key, value) -> mixture`; texts longer than the ring, and not."""
    _who_is_in_the_ring(answer)
    for size, tokens, dim in ((3, 11, 4), (5, 4, 2), (1, 3, 3)):
        q, k, v = torch.randn(3, tokens, dim, generator=dice)
        store = torch.zeros(2, size, dim)
        for t in range(tokens):
            given = answer(store, t, q[t].clone(), k[t].clone(), v[t].clone())
            place = f"with a ring of {size}, at token {t}"
            expect_tensor(given, (dim,), f"{place}: what you return")
            first = max(0, t + 1 - size)
            wanted = _mix(q[t], k[first : t + 1], v[first : t + 1])
            if not torch.allclose(given, wanted, atol=1e-5):
                _explain_ring(given, place, q[t], k, v, t, size)
            expect(
                any(torch.allclose(row, k[t]) for row in store[0])
                and any(torch.allclose(row, v[t]) for row in store[1]),
                f"{place}: the new key and value are not in the store; change it in place.",
            )
    return "A cache that never grows, however long the text."


def _who_is_in_the_ring(answer):
    """With keys all alike and values that are places, the mixture says who was looked at."""
    store, size = torch.zeros(2, 3, 8), 3
    for t in range(8):
        looks = answer(store, t, torch.ones(8), torch.zeros(8), torch.eye(8)[t])
        expect_tensor(looks, (8,), "what you return")
        for other, share in enumerate(looks.tolist()):
            place = f"with a ring of {size}, token {t}"
            if other <= t - size:
                expect(share < 1e-6, f"{place} still sees token {other}, which is too old.")
            elif other <= t:
                more = " Write its key and value first, then attend." if other == t else ""
                expect(share > 1e-6, f"{place} does not see token {other}, and it should.{more}")


def _mix(query, keys, values):
    scores = torch.stack([(query * key).sum() for key in keys]) / math.sqrt(len(query))
    return (scores.softmax(0)[:, None] * values).sum(0)


def _explain_ring(given, place, query, k, v, t, size):
    """Raise `Wrong` with the likeliest reason."""
    first = max(0, t + 1 - size)
    keys, values = k[first : t + 1], v[first : t + 1]
    empty = torch.zeros(max(size - t - 1, 0), k.shape[1])
    padded = _mix(query, torch.cat([keys, empty]), torch.cat([values, empty]))
    expect(
        not (len(empty) and torch.allclose(given, padded, atol=1e-5)),
        f"{place}: empty places take part. A place that nothing was written to is no key of "
        "zeros; leave it out.",
    )
    unscaled = _mix(query * math.sqrt(len(query)), keys, values)
    expect(
        not torch.allclose(given, unscaled, atol=1e-5),
        f"{place}: the scores are not divided by √head_dim.",
    )
    expect_same(given, _mix(query, keys, values), f"{place}: the mixture of the last tokens")


@exercise("F.2", "How many readers fit?")
def readers(dice, answer):
    """`answer(memory, weights, config, num_kv_heads, tokens, bytes_per_number) -> int`."""
    small = GPTConfig(11, 9, 8, 4, 2)
    told = answer(1000, 500, small, 1, 5, 2)
    _whole(told)
    expect_same(int(told), 6, "the example by hand")
    for _ in range(6):
        layers, heads, width, tokens = torch.randint(1, 9, (4,), generator=dice).tolist()
        config = GPTConfig(11, 64, 8 * heads * width, 8 * heads, layers)
        groups, size = 2 * heads, 2
        each = 2 * layers * tokens * groups * width * size
        weights = int(torch.randint(100, 9999, (1,), generator=dice))
        many = int(torch.randint(1, 50, (1,), generator=dice))
        for spare in (0, 1, each - 1):
            given = answer(weights + many * each + spare, weights, config, groups, tokens, size)
            _whole(given)
            what = f"{layers} layers, {groups} key heads of width {width}, {tokens} tokens"
            factor = int(given) / many
            expect(
                factor != 2 or many < 2,
                f"{what}: {given} readers fit by your count, twice too many. "
                "Keys and values are kept, both.",
            )
            expect(
                abs(factor - 0.25) > 0.02 or many < 20,
                f"{what}: {given} readers by your count, a quarter of the truth. Only the key "
                "heads are stored, not all heads.",
            )
            expect(
                given != many + 1,
                f"{what}: {given} readers by your count, but for the last one there is not "
                "enough room; round down.",
            )
            expect_same(int(given), many, f"readers with {what}")
    given = answer(1000, 5000, small, 1, 5, 2)
    _whole(given)
    expect(given == 0, f"the weights alone do not fit, and you say {given} readers; expected 0.")
    return "Each reader needs a cache of their own."


def _whole(given) -> None:
    expect(
        isinstance(given, int | float) and not isinstance(given, bool),
        f"return a number; you return a {type(given).__name__}.",
    )
    expect(given == int(given), f"{given:.2f} readers: half a reader cannot be served.")


@exercise("F.3", "A bug hunt: the second chunk")
def second_chunk(dice, answer):
    """`answer(q, k, v, memory)` over several cuts of a text."""
    tokens = 9
    same = torch.zeros(2, tokens, 3)
    eye = torch.eye(tokens).expand(2, -1, -1)
    for cuts in ((9,), (5, 1, 1, 1, 1), (3, 2, 4), (1, 6, 2)):
        memory, start = {}, 0
        for size in cuts:
            part = slice(start, start + size)
            looks = answer(same[:, part], same[:, part], eye[:, part], memory)
            expect_tensor(looks, (2, size, tokens), "what you return (heads, new tokens, width)")
            for row in range(size):
                _who_sees_whom(looks[0, row], start, row, size)
            start += size
    q, k = torch.randn(2, 2, tokens, 4, generator=dice)
    v = torch.randn(2, tokens, 3, generator=dice)
    scores = torch.einsum("hqd,hkd->hqk", q, k) / math.sqrt(4)
    later = torch.arange(tokens)[None] > torch.arange(tokens)[:, None]
    wanted = scores.masked_fill(later, -math.inf).softmax(-1) @ v
    memory, start = {}, 0
    for size in (4, 3, 2):
        part = slice(start, start + size)
        given = answer(q[:, part], k[:, part], v[:, part], memory)
        expect_same(given, wanted[:, part], f"the mixture of {size} tokens after {start}")
        start += size
    return "The same, in whatever chunks the text comes."


def _who_sees_whom(looks, start, row, size) -> None:
    me = start + row
    chunk = f"in a chunk of {size} after {start} tokens, token {me}"
    for other, share in enumerate(looks.tolist()):
        if other > me:
            expect(share < 1e-6, f"{chunk} sees token {other}, which comes later.")
        else:
            expect(share > 1e-6, f"{chunk} does not see token {other}, and it may.")


@exercise("F.4", "How far to guess ahead?")
def guesses(dice, answer):
    """`answer(kept, draft_cost, limit) -> k`."""
    cases = [(0.5, 0.1, 9), (0.0, 0.1, 5), (0.9, 0.01, 4), (1.0, 0.2, 7), (0.3, 0.5, 6)]
    drawn = torch.rand(12, 2, generator=dice).tolist()
    cases += [(0.3 + 0.69 * a, 0.02 + 0.3 * b, 12) for a, b in drawn]
    for kept, cost, limit in cases:
        given = answer(kept, cost, limit)
        expect(
            isinstance(given, int) and not isinstance(given, bool),
            f"return a whole number of guesses; you return a {type(given).__name__}.",
        )
        expect(0 <= given <= limit, f"{given} guesses, with a limit of {limit}.")
        rates = [_rate(kept, cost, k) for k in range(limit + 1)]
        best = max(rates)
        with_words = f"kept {kept:.2f}, draft_cost {cost:.2f}"
        expect(
            rates[given] > best - 1e-9,
            f"{with_words}: with {given} guesses {rates[given]:.3f} tokens per cost, with "
            f"{rates.index(best)} guesses {best:.3f}.",
        )
    expect_same(answer(0.5, 0.5, 1), 0, "kept 0.5, draft_cost 0.5: 0 and 1 guesses are equal")
    return "Good drafts may look far ahead, dear ones not at all."


def _rate(kept: float, cost: float, k: int) -> float:
    tokens = k + 1 if kept == 1 else (1 - kept ** (k + 1)) / (1 - kept)
    return tokens / (1 + k * cost)
