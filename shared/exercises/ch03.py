"""Checks and quick questions of chapter 3: attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shared.exercises.checking import Wrong, exercise, expect, expect_same, expect_tensor
from shared.exercises.questions import question, right, wrong


def two_things(given: Any, what: str) -> tuple:
    """What a function returned, if that is two things."""
    expect(isinstance(given, tuple | list) and len(given) == 2, f"return two things: {what}.")
    return tuple(given)


def same(one: Tensor, other: Tensor, atol: float = 1e-5) -> bool:
    """Whether two tensors of any number types agree."""
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), atol=atol)


def weights_by_torch(queries: Tensor, keys: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """PyTorch's causal attention weights, with a bias on the scores: an identity as values."""
    tokens = keys.shape[-2]
    later = torch.ones(tokens, tokens).triu(1) > 0
    bias = (torch.zeros(tokens, tokens) + bias).masked_fill(later, -torch.inf)
    eye = torch.eye(tokens).expand(*keys.shape[:-1], tokens)
    return F.scaled_dot_product_attention(queries, keys, eye, attn_mask=bias)


def expect_rows_of_one(weights: Tensor) -> None:
    """Raise `Wrong` unless each row, the last axis, adds up to 1."""
    sums = weights.double().sum(-1).flatten()
    worst = float(sums[(sums - 1).abs().argmax()])
    expect(
        abs(worst - 1) < 1e-4,
        f"a row adds up to {worst:.2f}: what is hidden must be hidden before the softmax, so "
        "that the rest shares out the whole.",
    )


@exercise("3.1", "Cross-attention")
def cross_attention(dice, answer):
    """`answer(queries, keys, values) -> (out, weights)`, no mask; odd sizes all around."""
    queries = torch.randn(2, 3, 8, generator=dice)
    keys, values = torch.randn(2, 5, 8, generator=dice), torch.randn(2, 5, 4, generator=dice)
    given = answer(queries, keys, values)
    out, weights = two_things(given, "the mixture and the weights, `return out, weights`")
    if isinstance(out, Tensor) and tuple(out.shape) == (2, 3, 5):
        raise Wrong("your two results stand in the other order: `return out, weights`.")
    expect_tensor(weights, (2, 3, 5), "your weights (batch, who asks, who is asked)")
    sums, columns = weights.sum(-1), weights.sum(-2)
    if not same(sums, torch.ones_like(sums), 1e-4):
        expect(
            not same(columns, torch.ones_like(columns), 1e-4),
            "your softmax runs over the wrong axis: the weights on one key add up to 1 over all "
            "who ask. Each row, one asker's shares over all keys, must add up to 1.",
        )
        expect(False, f"a row of your weights adds up to {sums[0, 0]:.3f}, not to 1.")
    hidden = (weights[0] == 0).nonzero().tolist()
    if hidden:
        raise Wrong(
            f"asker {hidden[0][0]} gives {hidden[0][1]} nothing at all. There is no mask here: "
            "the two sequences have nothing to do with before and after."
        )
    products = torch.einsum("bqd,bkd->bqk", queries, keys)
    for factor, name in ((1.0, "missing"), (1 / 8, "by d in place of √d")):
        expect(
            not same(weights, torch.softmax(factor * products, -1)),
            f"the division of the scores is {name}; divide by √d, and d is the width of a query.",
        )
    expect(
        not same(weights, torch.softmax(products / 2, -1)),
        "your scores are divided by the root of the values' width. A score adds up as many "
        "products as a query is wide; the values have no part in it.",
    )
    wanted = torch.softmax(products / math.sqrt(8), -1)
    expect_same(weights, wanted, "your weights")
    expect_tensor(out, (2, 3, 4), "your mixture (batch, who asks, width of a value)")
    expect_same(out, torch.einsum("bqk,bkv->bqv", wanted, values), "your mixture")
    return "Three askers, five who are asked, and nobody hidden."


@exercise("3.2", "A bug hunt: only the last ones ask")
def last_ones_ask(dice, answer):
    """`answer(queries, keys) -> weights`: the queries are those of the last tokens."""
    for asking, tokens in ((6, 6), (2, 7), (1, 5), (3, 4)):
        queries = torch.randn(2, tokens, 3, generator=dice)
        keys = torch.randn(2, tokens, 3, generator=dice)
        weights = answer(queries[:, -asking:], keys)
        case = f"{tokens} tokens, of which the last {asking} ask"
        expect_tensor(weights, (2, asking, tokens), f"with {case}, your weights")
        for row in range(asking):
            token = tokens - asking + row
            for asked in range(tokens):
                share = float(weights[:, row, asked].max())
                if asked > token:
                    expect(
                        share < 1e-9,
                        f"with {case}: token {token} (row {row}) sees token {asked}, which comes "
                        f"later, and gives it up to {share:.0%} of its look.",
                    )
                else:
                    expect(
                        share > 0,
                        f"with {case}: token {token} (row {row}) does not see token {asked}, "
                        "and it may.",
                    )
        expect_rows_of_one(weights)
        for factor, told in (
            (math.sqrt(3), "are not divided by √d"),
            (3**-0.5, "are divided by d, not by √d"),
        ):
            other = weights_by_torch(queries * factor, keys)[:, -asking:]
            expect(asking == 1 or not same(weights, other), f"with {case}: the scores {told}.")
        wanted = weights_by_torch(queries, keys)[:, -asking:]
        expect_same(weights, wanted, f"with {case}, your weights")
    return "One row or all of them: the same rows of the same table."


HAND_QUERIES = torch.tensor([[0.0, 2, 0, 1], [2, 0, 1, 1], [2, 1, 1, 1]])
HAND_KEYS = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 1]])
HAND_VALUES = torch.tensor([[10.0, 0], [0, 10], [4, 8]])


def table_by_hand(masked: bool = True, root: bool = True, base: float = 2.0) -> Tensor:
    """The weights of exercise 3.3, or what they become with one thing forgotten."""
    powers = base ** ((HAND_QUERIES @ HAND_KEYS.T) / (2 if root else 1))
    powers = powers.tril() if masked else powers
    return powers / powers.sum(-1, keepdim=True)


@exercise("3.3", "Predict: a whole table on one hand")
def table_on_a_hand(dice, weights, mixtures):
    """`weights` (3, 3) and `mixtures` (3, 2) as the reader worked them out; powers of 2."""
    given = []
    for answer, shape, what in ((weights, (3, 3), "weights"), (mixtures, (3, 2), "mixtures")):
        try:
            rows = [[float(x) for x in row] for row in answer]
            given.append(torch.tensor(rows, dtype=torch.float64))
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"your {what}: write {shape[0]} rows of {shape[1]} numbers.") from None
        expect_tensor(given[-1], shape, f"your {what}")
    weights, mixtures = given
    near = 0.006  # two decimals will do
    for table, told in (
        (table_by_hand(masked=False), "token 1 may not look at token 2, and token 0 at neither"),
        (table_by_hand(root=False), "the scores have not been divided by √4"),
        (table_by_hand(base=math.e), "these are powers of e; here take powers of 2"),
        (table_by_hand(masked=False).tril(), "rows must add up to 1, the hidden ones left out"),
        (table_by_hand().T, "rows and columns are swapped: the row is who asks"),
    ):
        expect(not same(weights, table, near), f"your weights: {told}.")
    for row, total in enumerate(weights.sum(-1).tolist()):
        expect(
            abs(total - 1) < 0.02,
            f"row {row} of your weights adds up to {total:.3g}; shares of one whole add up to 1.",
        )
    expect_same(weights, table_by_hand(), "your weights", atol=near)
    expect_same(mixtures, table_by_hand() @ HAND_VALUES, "your mixtures", atol=0.06)
    return "Scores, root, mask, shares, mixture: the whole of attention, without a machine."


@exercise("3.4", "A window, and how far it sees")
def window(dice, mask, reach):
    """`mask(tokens, window)`: who may see whom; `reach(window, layers)`: how far back it gets."""
    for tokens, width in ((7, 3), (5, 1), (4, 9), (9, 4)):
        case = f"{tokens} tokens, window {width}"
        given = mask(tokens, width)
        expect_tensor(given, (tokens, tokens), f"{case}: your mask")
        given = given.bool()
        first = next((i for i in range(tokens) if not given[i, i]), None)
        expect(
            first is None,
            f"{case}: token {first} may not see itself. True stands for 'may see'.",
        )
        for i in range(tokens):
            row = given[i].nonzero().flatten().tolist()
            expect(max(row) <= i, f"{case}: token {i} may see token {max(row)}, which is later.")
            allowed = list(range(max(0, i - width + 1), i + 1))
            expect(
                row == allowed,
                f"{case}: token {i} may see tokens {row}, expected {allowed}, which "
                f"{'is' if len(allowed) == 1 else 'are'} {len(allowed)} with itself.",
            )
    for width, layers in ((3, 1), (3, 2), (1, 4), (4, 3), (6, 5)):
        place = torch.arange(40)
        back = place[:, None] - place
        step = ((back >= 0) & (back < width)).double()
        seen = torch.linalg.matrix_power(step, layers)[39].nonzero().flatten()
        given, wanted = reach(width, layers), 39 - int(seen.min())
        expect(
            isinstance(given, int | float | Tensor) and float(given) == wanted,
            f"window {width}, {layers} layer{'s' * (layers > 1)}: you say {given!r} places back. "
            f"In a text of 40 tokens, token 39 is moved by token {39 - wanted}, "
            f"{wanted} back, and by none before it.",
        )
    return "A short look, passed on from layer to layer, goes a long way."


@exercise("3.5", "ALiBi: far away is quieter")
def alibi(dice, answer):
    """`answer(queries, keys) -> weights` (batch, heads, tokens, tokens), causal, with ALiBi."""
    for heads in (4, 2, 8):
        slopes = torch.tensor([2.0 ** (-8 * (h + 1) / heads) for h in range(heads)])
        silent = torch.zeros(3, heads, 6, 5)
        weights = answer(silent, silent)
        expect_tensor(weights, (3, heads, 6, 6), f"your weights with {heads} heads")
        later = float(weights.triu(1).max())
        expect(later < 1e-9, f"a token gives {later:.0%} of its look to a later one.")
        expect_rows_of_one(weights)
        expect((weights.tril() > 0).sum() == 3 * heads * 21, "a token gives one before it nothing.")
        drop = weights[0, :, 5].double().log().diff()  # what one place nearer adds to the score
        expect(
            drop.abs().max() > 1e-6,
            "with all queries 0, every token looks at all before it alike: distance plays no part.",
        )
        expect(
            drop.min() > -1e-6,
            "with all queries 0, a token far back gets more than a near one. The score of a "
            "token must go down with its distance.",
        )
        expect(
            same(drop, drop[:, :1].expand_as(drop), 1e-4),
            "the score does not go down by the same amount with each place: twice as far back "
            "must cost twice as much.",
        )
        given = drop[:, 0]
        for other, told in (
            (slopes / math.sqrt(5), "divided by √head_dim, too. Only the products q · k are"),
            (slopes * 2 ** (8 / heads), "one step too steep: the first head's is not 1"),
            (slopes.flip(0), "in reverse: the first head has the steepest"),
            (slopes[:1].expand(heads), "the same for all heads"),
        ):
            expect(not same(given, other, 1e-4), f"your slopes with {heads} heads are {told}.")
        for head, (one, other) in enumerate(zip(given.tolist(), slopes.tolist(), strict=True)):
            expect(
                abs(one - other) < 1e-4,
                f"with {heads} heads, head {head} takes off {one:.4g} for each place, "
                f"expected {other:.4g}.",
            )
        queries, keys = torch.randn(2, 3, heads, 6, 5, generator=dice)
        place = torch.arange(6)
        bias = slopes[:, None, None] * (place - place[:, None])
        weights = answer(queries, keys)
        expect_tensor(weights, (3, heads, 6, 6), f"your weights with {heads} heads")
        expect(
            not same(weights, weights_by_torch(queries * math.sqrt(5), keys, bias)),
            "the distance is right, but the products q · k are not divided by √head_dim.",
        )
        wanted = weights_by_torch(queries, keys, bias)
        expect_same(weights, wanted, f"your weights with {heads} heads")
    return "The first head whispers beyond its neighbours, the last one hears nearly everything."


@exercise("3.6", "A bug hunt: shapes that fit")
def heads_together(dice, answer):
    """`answer(x, qkv, out, num_heads)`, the whole of causal attention with several heads."""
    for batch, tokens, width, heads in ((2, 7, 6, 1), (2, 7, 12, 3), (3, 5, 10, 2)):
        draw = lambda *shape: torch.randn(*shape, generator=dice)
        x, qkv, eye = draw(batch, tokens, width), draw(width, 3 * width), torch.eye(width)
        case = f"with {heads} head{'s' * (heads > 1)}"
        plain = answer(x.clone(), qkv.clone(), eye, heads)  # `out` changes nothing
        expect_tensor(plain, (batch, tokens, width), f"{case}, what you return")
        for j in range(tokens):
            changed = x.clone()
            changed[:, j] += 1.0
            moved = (answer(changed, qkv.clone(), eye, heads) - plain).abs().amax((0, 2)) > 1e-5
            early = moved[:j].nonzero().flatten().tolist()
            expect(
                not early,
                f"{case}: when token {j} is changed, so is the answer of token "
                f"{min(early, default=0)}, which comes before it.",
            )
            expect(moved[j], f"{case}: the answer of token {j} does not depend on token {j}.")
        size = width // heads
        wanted = []
        for head in range(heads):
            q, k, v = (
                x @ qkv[:, part * width + head * size :][:, :size] for part in range(3)
            )  # (batch, tokens, head_dim)
            wanted.append(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        wanted = torch.cat(wanted, -1)
        expect(
            heads == 1
            or same(plain, wanted)
            or not same(plain.sort(-1).values, wanted.sort(-1).values),
            f"{case}: each token has the right numbers, in the wrong order. First all "
            "numbers of head 0, then all of head 1, and so on.",
        )
        expect_same(plain, wanted, f"{case}, before `out`, what the heads bring home")
        out = draw(width, width)
        expect_same(answer(x, qkv, out, heads), wanted @ out, f"{case}, what you return", atol=1e-3)
    return "Compared with the heads one by one: the same values, not only the same shape."


@exercise("3.7", "Padding in front")
def padding(dice, answer):
    """`answer(scores, real) -> weights`: causal, padding hidden, padding's own rows zero."""
    tokens = 6
    for lengths in ((6, 6), (6, 4, 1), (5, 2, 3)):
        place = torch.arange(tokens)
        real = place >= tokens - torch.tensor(lengths)[:, None]
        scores = torch.randn(len(lengths), tokens, tokens, generator=dice)
        weights = answer(scores.clone(), real.clone())
        if isinstance(weights, Tensor) and weights.isnan().any():
            text, row, _ = weights.isnan().nonzero()[0].tolist()
            kind = "a real token" if real[text, row] else "padding"
            raise Wrong(
                f"text {text}, row {row}, which is {kind}, holds nan. A row in which everybody "
                "is hidden has powers that add up to 0, and softmax divides by that."
            )
        expect_tensor(weights, (len(lengths), tokens, tokens), "your weights")
        for text, row, asked in torch.cartesian_prod(torch.arange(len(lengths)), place, place):
            share = float(weights[text, row, asked])
            where = f"text {text}: token {row}"
            if not real[text, row]:
                expect(share == 0, f"{where} is padding and must have a row of zeros: {share:.2f}.")
            elif not real[text, asked]:
                expect(
                    share < 1e-9, f"{where} looks at token {asked}, which is padding: {share:.0%}."
                )
            elif asked > row:
                expect(share < 1e-9, f"{where} sees token {asked}, which comes later: {share:.0%}.")
            else:
                expect(share > 0, f"{where} does not see token {asked}, and it may.")
        expect_rows_of_one(weights[real])
        for text, length in enumerate(lengths):
            alone = scores[text, tokens - length :, tokens - length :].exp().tril()
            expect_same(
                weights[text, tokens - length :, tokens - length :],
                alone / alone.sum(-1, keepdim=True),
                f"text {text}, its real tokens, compared with the text without padding",
            )
    return "A text looks at itself as if there were no padding at all."


@exercise("3.8", "A bug hunt: two answers to one question")
def steady_head(dice, answer):
    """`answer(embed_dim, head_dim, dropout)`, a module: dropout on the weights, training only."""
    expect(isinstance(answer, type), f"give the class itself, not {type(answer).__name__}.")
    rate = 0.25
    head, plain = answer(6, 4, rate), answer(6, 4, 0.0)
    plain.load_state_dict(head.state_dict())
    x = torch.randn(1, 5, 6, generator=dice)
    with torch.no_grad():
        head.eval()
        first, second, wanted = head(x), head(x), plain.eval()(x)
        expect_tensor(first, (1, 5, 4), "your head's answer")
        expect(
            same(first, second),
            "after .eval(), the same input gave two different answers.",
        )
        expect(
            same(first, wanted),
            "after .eval(), the answer is not the one that the same numbers give with dropout 0.",
        )
        for j in range(1, 5):
            changed = x.clone()
            changed[:, j] += 1.0
            expect(same(head(changed)[:, :j], first[:, :j]), f"an answer before token {j} sees it.")
        head.train()
        draws = head(x.expand(3000, 5, 6))  # 3,000 texts, all the same
        expect(
            not same(draws[1:], draws[:-1]),
            "after .train(), nothing is struck out: 3,000 equal texts got the same answer.",
        )
        both = torch.stack([draws[:, 0].abs().amax(-1), draws[:, 0].abs().amin(-1)])
        expect(
            not ((both[0] > 1e-6) & (both[1] < 1e-9)).any(),
            "in training, some of the first token's numbers are struck out and others are not. "
            "It has one weight only, so all of them must go or stay: dropout belongs on the "
            "weights.",
        )
        gone = float((both[0] < 1e-9).double().mean())
        expect(
            abs(gone - rate) < 0.05,
            f"with dropout {rate}, the first token's only weight was struck out in {gone:.0%} of "
            "the draws.",
        )
        off = float((draws.mean(0) - wanted[0]).abs().max() / wanted.abs().max())
        expect(
            off < 0.15,
            f"in training, the average answer is off by {off:.0%}: what survives must be divided "
            "by the share that survives.",
        )
        head.eval()
        expect(same(head(x), wanted), "after .train() and .eval() again, the answer is another.")
    return "It varies while it learns, and means what it says afterwards."


KINDS = (
    "the word before",
    "words like itself",
    "the latest name",
    "the first token",
    "everybody alike",
)
LETTERS = "ABCDE"
TEXT = "· Mia has the kite . Ben has the drum . Mia sees Ben .".split()


def looked_for(kind: str) -> Tensor:
    """1 where a head of this kind looks, (tokens, tokens)."""
    table = torch.zeros(len(TEXT), len(TEXT))
    for i, word in enumerate(TEXT):
        names = [j for j in range(i + 1) if TEXT[j] in ("Mia", "Ben")]
        table[
            i,
            {
                "the word before": [max(i - 1, 0)],
                "words like itself": [j for j in range(i + 1) if TEXT[j] == word],
                "the latest name": names[-1:] or [0],
                "the first token": [0],
                "everybody alike": list(range(i + 1)),
            }[kind],
        ] = 1
    return table


def mystery_heads() -> tuple[list[str], dict[str, Tensor]]:
    """A text and five heads with a little noise, under letters that say nothing about them."""
    dice = torch.Generator().manual_seed(309)
    heads = {}
    for letter, kind in zip(LETTERS, torch.randperm(5, generator=dice).tolist(), strict=True):
        table = looked_for(KINDS[kind])
        scores = 4.5 * table + 0.5 * torch.randn(table.shape, generator=dice)
        later = torch.ones_like(table).triu(1) > 0
        heads[letter] = scores.masked_fill(later, -torch.inf).softmax(-1)
    return list(TEXT), heads


@exercise("3.9", "Explain a plot: which head is which?")
def which_head(dice, answer):
    """`answer`: a dictionary, from what a head does to its letter."""
    form = f"write a dictionary with these five keys: {', '.join(KINDS)}."
    expect(isinstance(answer, dict), form)
    missing = [kind for kind in KINDS if kind not in answer]
    expect(not missing, f"nothing is said about {missing[0] if missing else ''!r}; {form}")
    answer = {kind: str(answer[kind]).strip().upper() for kind in KINDS}
    _, heads = mystery_heads()
    for kind, letter in answer.items():
        expect(letter in heads, f"{kind}: {letter!r} is none of the heads {', '.join(heads)}.")
        weights = heads[letter]
        on_target = (weights * looked_for(kind)).sum(-1)
        if kind == "everybody alike":
            row = int((weights.amax(-1) * torch.arange(1, len(TEXT) + 1)).argmax())
            most = int(weights[row].argmax())
            expect(
                weights[row, most] * (row + 1) < 6,
                f"head {letter} does not look at everybody alike: in row {row} ({TEXT[row]!r}), "
                f"token {most} ({TEXT[most]!r}) gets {float(weights[row, most]):.0%}.",
            )
        else:
            row = int(on_target.argmin())
            most = int(weights[row].argmax())
            expect(
                on_target[row] > 0.5,
                f"head {letter} does not look at {kind}: row {row} ({TEXT[row]!r}) looks most at "
                f"token {most} ({TEXT[most]!r}).",
            )
    return "You read five heads by where they look; what they carry home, no such plot shows."


@exercise("3.10", "Wire it yourself: so many places back")
def look_back(dice, answer):
    """`answer(back, places) -> (W_query, W_key)` for points on a circle; causal, root of width."""
    for back, places in ((1, 12), (3, 9), (0, 7), (5, 16), (2, 30)):
        case = f"back {back}, places {places}"
        given = answer(back, places)
        w_query, w_key = two_things(given, "W_query and W_key")
        for matrix, name in ((w_query, "W_query"), (w_key, "W_key")):
            expect(
                isinstance(matrix, Tensor) and matrix.dim() == 2 and len(matrix) == 2,
                f"{case}: {name} must be a tensor with 2 rows, one for each number of a place.",
            )
        expect(
            w_query.shape == w_key.shape,
            f"{case}: W_query is {tuple(w_query.shape)} and W_key {tuple(w_key.shape)}; a query "
            "must be as wide as a key.",
        )
        angles = torch.arange(places, dtype=torch.float64) * 2 * math.pi / places
        x = torch.stack([angles.cos(), angles.sin()], dim=1)
        scores = (x @ w_query.double()) @ (x @ w_key.double()).T / math.sqrt(w_query.shape[1])
        scores = scores.masked_fill(torch.ones(places, places).triu(1) > 0, -torch.inf)
        weights = scores.softmax(-1)
        expect_tensor(weights, (places, places), f"{case}: the weights that come of it")
        for i in range(back, places):
            most = int(weights[i].argmax())
            expect(
                most == i - back or weights[i, most] < weights[i, i - back] + 1e-6,
                f"{case}: token {i} looks most at token {most}, expected {i - back}.",
            )
            share = float(weights[i, i - back])
            expect(
                share > 0.9,
                f"{case}: token {i} looks most at the right one, and gives it only {share:.0%}. "
                "More than 90 % are asked for, with any number of places: how loud must it be?",
            )
    return "Two numbers a place, and one turn."


def largest_share(head_dim: int, divide: bool, seed: int) -> float:
    """Mean of the largest weight in 16 rows of 16 random scores; as in exercise 3.11."""
    dice = torch.Generator().manual_seed(seed)
    queries, keys = torch.randn(2, 16, head_dim, generator=dice)
    scores = queries @ keys.T / (head_dim**0.5 if divide else 1.0)
    return float(scores.softmax(-1).amax(-1).mean())


COMPARED = {
    "A": ((64, False), (64, True)),
    "B": ((2, False), (2, True)),
    "C": ((64, True), (1, True)),
    "D": ((64, True), (16, True)),
}


@exercise("3.11", "Ablate: which difference is real?")
def real_differences(dice, interval, real):
    """`interval(differences) -> (low, high)` for eight runs; `real`, the letters of the real."""
    for _ in range(3):
        runs = (torch.randn(8, generator=dice) * 2 + 1).tolist()
        low, high = two_things(interval(list(runs)), "the lower end and the upper end")
        low, high = float(low), float(high)
        mean = math.fsum(runs) / 8
        total = math.fsum((x - mean) ** 2 for x in runs)
        half = 2.365 * math.sqrt(total / 7 / 8)
        expect(low <= high, f"your interval begins at {low:.3f} and ends before, at {high:.3f}.")
        expect(
            abs((low + high) / 2 - mean) < 1e-4,
            f"the middle of your interval is {(low + high) / 2:.3f}, the mean is {mean:.3f}.",
        )
        for other, told in (
            (2.365 * math.sqrt(total / 7), "of single runs: s has not been divided by √8"),
            (2.365 * math.sqrt(total / 8 / 8), "with s from n; divide by n − 1 = 7 in it"),
            (1.96 * math.sqrt(total / 7 / 8), "with 1.96, which eight runs are too few for"),
            (math.sqrt(total / 7 / 8), "of one s/√8 on each side; it takes 2.365 of them"),
            (2.365 * math.sqrt(total / 7) / 8, "with s divided by 8; it takes √8"),
        ):
            expect(abs((high - low) / 2 - other) > 1e-4, f"your interval is one {told}.")
        expect_same([low, high], [mean - half, mean + half], "your interval", atol=1e-3)
    expect(
        isinstance(real, str | list | tuple | set | frozenset),
        'write the letters of the real differences together, as in "AD".',
    )
    letters = {str(letter).strip().upper() for letter in real} - {"", ","}
    expect(letters <= set(COMPARED), f'write the letters alone, as in "AD", not {real!r}.')
    for letter, (one, other) in COMPARED.items():
        runs = [largest_share(*one, seed) - largest_share(*other, seed) for seed in range(8)]
        mean = sum(runs) / 8
        half = 2.365 * math.sqrt(sum((x - mean) ** 2 for x in runs) / 7 / 8)
        holds_zero = mean - half <= 0 <= mean + half
        expect(
            (letter in letters) != holds_zero,
            f"{letter}: its interval reaches from {mean - half:.3f} to {mean + half:.3f}. Does it "
            "hold 0, and what follows from that?",
        )
    return "What holds 0 has not been shown; that it is nothing has not been shown either."


QUESTIONS = [
    question(
        "3.a",
        "Every key gets the same vector added: the bias of the key projection. "
        "What happens to the attention weights?",
        right(
            "Nothing.",
            "A row's scores all rise by the same amount, query · bias, and softmax looks at "
            "differences only. Some models leave this bias out for that reason.",
        ),
        wrong(
            "All queries look more where the bias points.",
            "They would if some keys got it and others did not. All keys of a row rise alike.",
        ),
        wrong(
            "They become sharper.",
            "Sharpness comes from multiplying the scores; adding moves them all alike.",
        ),
    ),
    question(
        "3.b",
        "Two earlier tokens have the same key and different values. What can this head bring home?",
        wrong(
            "The one that fits the query better.",
            "Whatever the query, equal keys get equal scores, so it cannot prefer one.",
        ),
        wrong(
            "Either, depending on which value is larger.",
            "Values have no say in the weights; they are only mixed.",
        ),
        right(
            "Both in equal shares, never one alone.",
            "Equal keys, equal scores, equal shares. To tell two *kite*s apart, something in "
            "their keys has to differ: a place, or a note from a layer below.",
        ),
    ),
    question(
        "3.c",
        "You go from 4 heads to 12, with the same `embed_dim`. How many learned numbers does "
        "`MultiHeadAttention` have now?",
        wrong(
            "Three times as many.",
            "Each head is a third as wide. The fused matrix has 3 · embed_dim columns either way.",
        ),
        right(
            "As many as before.",
            "Heads are a way to cut the same columns. What changes is the number of tables, and "
            "with it the memory of the written-out form.",
        ),
        wrong(
            "More, but only in the last matrix.",
            "The last matrix is embed_dim × embed_dim, however the columns are cut into heads.",
        ),
    ),
    question(
        "3.d",
        "Texts of unequal length stand in one batch, the short ones filled up with padding "
        "**behind** them. The mask is causal. What do the real tokens need besides?",
        wrong(
            "A second mask that hides the padding.",
            "It would do no harm. But padding comes later than every real token, and later "
            "tokens are hidden already.",
        ),
        right(
            "Nothing; only the loss must not count the padding.",
            "No real token can see what stands behind it. Padding in front is another matter: "
            "exercise 3.7.",
        ),
        wrong(
            "Padding vectors of zeros.",
            "A zero vector still gets a share where it is visible. Here it is not visible.",
        ),
    ),
    question(
        "3.e",
        "In a heat-map, *it* gives 90 % of its look to *ball*. What may you conclude?",
        wrong(
            "The model has understood that *it* is the ball.",
            "An untrained head can show such a square by accident, and nothing says that what "
            "was fetched is used.",
        ),
        wrong(
            "Without *ball*, the model's prediction would change a lot.",
            "If the value of *ball* is small, or the last matrix passes it over, nothing "
            "changes. To know, take it away and look.",
        ),
        right(
            "This head's mixture at *it* is nine tenths the value of *ball*.",
            "That is what a weight is. What the value holds, and who reads it, is another "
            "question, and needs another experiment.",
        ),
    ),
    question(
        "3.f",
        "Each token looks at no more than the last 256. The text becomes four times longer, from "
        "4,000 tokens to 16,000. What do the scores cost now, if nothing hidden is computed?",
        right(
            "About four times as much.",
            "Each token asks 256 others, whatever the length: tokens × window, not "
            "tokens × tokens.",
        ),
        wrong(
            "About sixteen times as much.",
            "So it is without a window, where each token asks all before it.",
        ),
        wrong(
            "The same, since the window is the same.",
            "The window fixes the cost of one token. There are four times as many tokens.",
        ),
    ),
    question(
        "3.g",
        "Keys are all doubled, and so are queries. What does a head do now?",
        wrong(
            "The same; softmax looks only at differences.",
            "The differences have grown as well, by a factor of four.",
        ),
        wrong(
            "It looks as before, but brings home twice as much.",
            "How much comes home is the values' part, and they have not changed.",
        ),
        right(
            "It looks in the same order of preference, more sharply.",
            "All scores are multiplied by four: a sharpness of 4, or a temperature of ¼.",
        ),
    ),
]
