"""Checks and quick questions of chapter 4, and `TinyGPT`, the model that they play with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.exercises.checking import Wrong, exercise, expect, expect_same, expect_tensor
from shared.exercises.questions import question, right, wrong
from shared.previous_chapters import MultiHeadAttention

WIRINGS = ("pre-norm", "post-norm", "no plus sign")


def gelu_layer(embed_dim: int) -> nn.Sequential:
    """The chapter's feed-forward layer: four times as wide inside, GELU between.

    Shape:
        x: (..., embed_dim); result: the same.
    """
    up, down = nn.Linear(embed_dim, 4 * embed_dim), nn.Linear(4 * embed_dim, embed_dim)
    return nn.Sequential(up, nn.GELU(approximate="tanh"), down)


class TinyBlock(nn.Module):
    """A transformer block whose parts and wiring can be exchanged.

    Shape:
        x: (batch, tokens, embed_dim); result: the same.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        feed_forward: Callable[[int], nn.Module] = gelu_layer,
        wiring: str = "pre-norm",
    ) -> None:
        super().__init__()
        if wiring not in WIRINGS:
            raise ValueError(f"wiring={wiring!r}, expected one of {', '.join(WIRINGS)}.")
        self.norm1, self.attention = norm(embed_dim), MultiHeadAttention(embed_dim, num_heads)
        self.norm2, self.feed_forward = norm(embed_dim), feed_forward(embed_dim)
        self.wiring = wiring

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in ((self.norm1, self.attention), (self.norm2, self.feed_forward)):
            if self.wiring == "pre-norm":
                x = x + layer(norm(x))
            elif self.wiring == "post-norm":
                x = norm(x + layer(x))
            else:
                x = layer(norm(x))
        return x


class TinyGPT(nn.Module):
    """A GPT as in the chapter, without dropout and tying, for experiments that take a second.

    `parts` are those of `TinyBlock`: norm, feed_forward, wiring. Every matrix starts from a bell
    curve of spread `spread`, drawn from `seed`, and every bias from 0; no other randomness is
    touched.

    Shape:
        token_ids: (batch, tokens); result: logits (batch, tokens, vocab_size).
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        *,
        spread: float = 0.08,
        seed: int = 0,
        **parts: object,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.token_embedding = nn.Embedding(vocab_size, embed_dim)
            self.position_embedding = nn.Embedding(context_length, embed_dim)
            blocks = (TinyBlock(embed_dim, num_heads, **parts) for _ in range(num_layers))
            self.blocks = nn.ModuleList(blocks)
            self.final_norm = parts.get("norm", nn.LayerNorm)(embed_dim)
            self.head = nn.Linear(embed_dim, vocab_size, bias=False)
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=spread)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, token_ids: Tensor) -> Tensor:
        positions = torch.arange(token_ids.shape[1])
        x = self.token_embedding(token_ids) + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x)  # (batch, tokens, embed_dim)
        return self.head(self.final_norm(x))


def same(one: Tensor, other: Tensor, atol: float = 1e-5) -> bool:
    """Whether two tensors are of one shape and close."""
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), atol=atol)


@exercise("4.1", "RMS norm")
def rms_norm(dice, answer):
    """`answer(x, weight, eps=1e-5)`: over the last axis, no mean taken off, no shift."""
    x = 2 * torch.randn(2, 5, 7, generator=dice) + 1.5
    weight = torch.rand(7, generator=dice) + 0.5
    original = x.clone()
    given = answer(original, weight.clone())
    expect_tensor(given, (2, 5, 7), "what you return")
    expect(
        torch.equal(original, x),
        "your function changes the `x` that it was given; others still need it (the stream, say).",
    )
    plain = F.rms_norm(x, (7,))
    told = {
        "you take the mean off first, as layer norm does; here the mean stays.": F.layer_norm(
            x, (7,)
        ),
        "the learned scale `weight` has no effect yet.": plain,
        "you use the mean square of a whole text or batch. Each token has its own: "
        "average over the last axis only.": x / x.square().mean((1, 2), keepdim=True).sqrt(),
        "you average over the tokens, so a token's result depends on its neighbours. "
        "Average over the numbers of one token, the last axis.": x
        / x.square().mean(1, keepdim=True).sqrt(),
        "you divide by the length of the vector, the root of the *sum* of squares; take the "
        "root of their *mean*.": F.normalize(x, dim=-1),
        "you multiply by the root of the mean square; divide by it.": x
        * x.square().mean(-1, keepdim=True).sqrt(),
        "you divide by the mean square; take its root first.": x
        / x.square().mean(-1, keepdim=True),
        "you divide by the spread around the mean; here the squares are taken of the numbers "
        "as they are.": x / x.var(-1, keepdim=True, correction=0).sqrt(),
    }
    for why, other in told.items():
        for scaled in (other, other * weight):
            if same(scaled, plain * weight, 1e-4):
                continue
            expect(not same(given, scaled, 1e-3), why)
    changed = x.clone()
    changed[0, 3] += 1
    moved = (answer(changed, weight) - given).abs().amax(-1) > 1e-6
    others = [tuple(place) for place in moved.nonzero().tolist() if tuple(place) != (0, 3)]
    expect(not others, f"token 3 of text 0 changed, and so did your result at {others[:1]}.")
    expect_same(given, plain * weight, "your result")
    zeros = answer(torch.zeros(1, 2, 7), weight)
    expect(not zeros.isnan().any(), "a token of zeros comes out as nan: where does eps belong?")
    expect_same(zeros, torch.zeros(1, 2, 7), "a token of zeros")
    expect_same(
        answer(x / 10, weight, eps=0.3),
        F.rms_norm(x / 10, (7,), weight, 0.3),
        "with eps=0.3, which is added under the root,",
    )
    expect_same(answer(x[0, 0], weight), (plain * weight)[0, 0], "one token alone, of shape (7,),")
    return "Size gone, offset kept, half the learned numbers of layer norm."


def price(embed_dim: int) -> int:
    """Learned numbers of the chapter's feed-forward layer, biases included."""
    return 8 * embed_dim**2 + 5 * embed_dim


@exercise("4.2", "SwiGLU at the same price")
def swiglu(dice, answer):
    """A class: `answer(embed_dim)` with `gate`, `up` and `down`, three matrices, no biases."""
    expect(isinstance(answer, type), "give the class itself: `check('4.2', SwiGLU)`.")
    for dim in (30, 16, 50):
        layer = answer(dim)
        shapes = {}
        for name in ("gate", "up", "down"):
            part = getattr(layer, name, None)
            expect(isinstance(part, nn.Linear), f"no nn.Linear called `{name}` in your layer.")
            expect(
                part.bias is None, f"`{name}` has a bias; the three come without (`bias=False`)."
            )
            shapes[name] = tuple(part.weight.shape)
        width = shapes["gate"][0]
        wanted = {"gate": (width, dim), "up": (width, dim), "down": (dim, width)}
        for name, shape in wanted.items():
            expect(
                shapes[name] == shape,
                f"`{name}` is of shape {shapes[name]} (out, in), but with a gate of width {width} "
                f"and embed_dim={dim} it must be {shape}.",
            )
        numbers = sum(p.numel() for p in layer.parameters())
        expect(
            2 * abs(numbers - price(dim)) <= 3 * dim,
            f"with embed_dim={dim} your layer learns {numbers:,} numbers and the one that it "
            f"replaces {price(dim):,}. Another width comes nearer: you have {width}, and each "
            f"unit of width costs {3 * dim}.",
        )
        with torch.no_grad():
            for part in layer.parameters():
                part.copy_(torch.randn(part.shape, generator=dice) / part.shape[1] ** 0.5)
        x = 2 * torch.randn(2, 3, dim, generator=dice)
        given = layer(x)
        expect_tensor(given, (2, 3, dim), "what your layer returns")
        gate, up = x @ layer.gate.weight.T, x @ layer.up.weight.T
        told = {
            "the bend is on the wrong branch: it belongs on `gate`, and `up` stays straight.": gate
            * F.silu(up),
            "you bend the product; bend `gate` alone, then multiply.": F.silu(gate * up),
            "nothing is bent: SiLU goes over `gate` before the two are multiplied.": gate * up,
            "you open the gate with the sigmoid alone; SiLU is x times its sigmoid.": gate.sigmoid()
            * up,
            "you open the gate with GELU (that is GEGLU, a cousin); SwiGLU takes SiLU.": F.gelu(
                gate
            )
            * up,
            "the two branches are added; a gate multiplies.": F.silu(gate) + up,
            "only one branch arrives: `up` has no effect.": F.silu(gate),
        }
        for why, inside in told.items():
            expect(not same(given, inside @ layer.down.weight.T, 1e-3), why)
        expect_same(given, F.silu(gate) * up @ layer.down.weight.T, "your result", atol=1e-4)
    return "Three matrices for the price of two."


def built_bill(vocab: int, dim: int, layers: int, heads: int, kv_heads: int, hidden: int) -> int:
    """What PyTorch counts when the parts of such a model are built."""
    kv_dim = dim // heads * kv_heads
    straight = [(dim, dim), (dim, kv_dim), (dim, kv_dim), (dim, dim)]
    straight += [(dim, hidden), (dim, hidden), (hidden, dim)]
    parts = [nn.Embedding(vocab, dim), nn.RMSNorm(dim), nn.Linear(dim, vocab, bias=False)]
    for _ in range(layers):
        parts += [nn.Linear(a, b, bias=False) for a, b in straight]
        parts += [nn.RMSNorm(dim), nn.RMSNorm(dim)]
    return sum(p.numel() for part in parts for p in part.parameters())


@exercise("4.3", "The bill of a newer model")
def newer_bill(dice, answer):
    """`answer(vocab_size, embed_dim, num_layers, num_heads, num_kv_heads, hidden) -> int`."""
    for heads, kv_heads, head_dim in ((6, 2, 8), (4, 4, 10), (8, 1, 4)):
        layers, extra, pick = (int(torch.randint(2, 7, (1,), generator=dice)) for _ in range(3))
        vocab = (97, 101, 103, 107, 109, 113, 127)[pick]  # primes: no two slips cost the same
        dim, hidden = heads * head_dim, 2 * heads * head_dim + extra
        names = "vocab_size, embed_dim, num_layers, num_heads, num_kv_heads, hidden"
        sizes = (vocab, dim, layers, heads, kv_heads, hidden)
        given, wanted = answer(*sizes), built_bill(*sizes)
        expect(
            isinstance(given, int | float) and not isinstance(given, bool),
            f"return one number, the total; you return a {type(given).__name__}.",
        )
        missing, kv_dim = wanted - given, head_dim * kv_heads
        told = {
            vocab * dim: "the head has a matrix of its own here, or a table of tokens is missing",
            -vocab * dim: "a table of tokens is counted once too often",
            dim: "the norm after the last block is missing",
            (2 * layers + 1) * dim: "the norms are missing",
            -(2 * layers + 1) * dim: "the norms are counted with a shift; RMS norm has none",
            layers * dim * hidden: "a feed-forward layer has three matrices here",
            -2 * layers * dim * (dim - kv_dim): "keys and values are counted as wide as the "
            "queries, but they have only num_kv_heads heads",
            -layers * dim * (dim - kv_dim): "one of keys and values is counted as wide as the "
            "queries, but both have only num_kv_heads heads",
            layers * dim * dim: "one square matrix per block is missing: queries or output",
            layers * dim * kv_dim: "the matrix of keys or that of values is missing",
        }
        why = next((text for size, text in told.items() if size and size == missing), "")
        way = "too few" if missing > 0 else "too many"
        expect(
            missing == 0,
            f"with ({names}) = {sizes} you count {given:,}, {abs(missing):,} {way}"
            + (f": {why}." if why else f". In units of embed_dim: {abs(missing) / dim:g}."),
        )
    return "To the last number, for three odd models that PyTorch built and counted."


PREDICTIONS = {
    "words at top_k=1": (1, "top_k=1 leaves the best word alone: greedy."),
    "words at top_p=0.65": (
        2,
        "0.4 does not reach 0.65; the word that carries the sum across the line stays in.",
    ),
    "words at top_p=0.01": (
        1,
        "the best word is the first to reach 0.01, so it stays: never none.",
    ),
    "ball at top_k=2": (4 / 7, "what stays shares out the whole: 0.4 of 0.4 + 0.3."),
    "ball at temperature 0.5": (
        0.16 / 0.2952,
        "dividing scores by 0.5 squares the chances before they share out the whole: "
        "0.16 : 0.09 : 0.04 : 0.0036 : 0.0016.",
    ),
    "words at temperature 0.5 and top_p=0.5": (
        1,
        "temperature comes first. What are the chances then, and which of them reach 0.5?",
    ),
    "tax at temperature 1000": (0.2, "so hot, all scores are nearly 0 and all five words alike."),
    "ball at temperature 0.001": (1.0, "so cold, 0.3/0.4 is raised to the power 1000: nothing."),
}


@exercise("4.4", "Before you draw")
def predictions(dice, answer):
    """A dictionary of eight numbers."""
    expect(isinstance(answer, dict), "give the dictionary with its eight numbers.")
    missing = [name for name in PREDICTIONS if answer.get(name) in (None, ...)]
    if len(missing) == len(PREDICTIONS):
        raise NotImplementedError  # the dictionary as it was given: not answered yet
    expect(not missing, f"no number yet for {missing[:1]}." if missing else "")
    slips = []
    for name, (wanted, why) in PREDICTIONS.items():
        try:
            off = abs(float(answer[name]) - wanted)
        except (TypeError, ValueError):
            raise Wrong(f"{name!r}: {answer[name]!r} is no number.") from None
        if not off <= (0.006 if isinstance(wanted, float) else 0):
            slips.append(f"{name!r} is not {answer[name]:.4g}: {why}")
    expect(not slips, f"{len(slips)} to think over again. First: {(slips or [''])[0]}")
    return "All eight, before anything was drawn."


@exercise("4.5", "Min-p")
def min_p(dice, answer):
    """`answer(logits, min_p)`: logits of any shape (..., vocab_size), minus infinity elsewhere."""
    hand = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    given = answer(hand.clone(), 0.2)
    expect_tensor(given.nan_to_num(neginf=0.0), (4,), "what you return")
    kept = (given > -torch.inf).tolist()
    expect(
        not any(float(x) == 0 for x in given),
        "dropped tokens get a 0. A logit of 0 is a score like any other; minus infinity is none.",
    )
    expect(
        kept != [True, True, False, False],
        "with chances 0.5, 0.3, 0.15, 0.05 and min_p=0.2 you keep two. The line is not the chance "
        "0.2 itself but 0.2 of the best chance, 0.1.",
    )
    expect(
        kept == [True, True, True, False],
        "with chances 0.5, 0.3, 0.15, 0.05 and min_p=0.2 the first three stay, and the last goes. "
        f"You keep {[x for x, stays in zip((0.5, 0.3, 0.15, 0.05), kept, strict=True) if stays]}.",
    )
    expect_same(given[:3], hand[:3], "the logits that stay must stay as they are; yours")
    logits = 2 * torch.randn(3, 4, 9, generator=dice)
    logits[0] *= 0.2  # unsure beside sure rows
    original = logits.clone()
    for share in (0.03, 0.3, 1.0):
        given = answer(logits, share)
        expect(torch.equal(logits, original), "your function changes the logits it was given.")
        expect_tensor(given.nan_to_num(neginf=0.0), (3, 4, 9), "what you return")
        for place in itertools.product(range(3), range(4)):
            row, stays = original[place], (given[place] > -torch.inf).tolist()
            ratios = (row - row.max()).exp()
            expect(
                any(stays),
                f"with min_p={share} no token is left in row {list(place)}. The best of each row "
                "stays: it is as likely as itself.",
            )
            wanted = (ratios >= share).tolist()
            expect(
                stays == wanted,
                f"with min_p={share}, row {list(place)}: you keep {sum(stays)} tokens, expected "
                f"{sum(wanted)}. Each row is measured by its own best chance, after softmax.",
            )
            expect_same(given[place][ratios >= share], row[ratios >= share], "what stays")
    moved = answer(original + 50, 0.3) > -torch.inf
    expect(
        torch.equal(moved, answer(original.clone(), 0.3) > -torch.inf),
        "50 more on every logit changes no chance, but it changes what you keep.",
    )
    return "The surer the model, the fewer tokens stay."


@exercise("4.6", "A bug hunt: the parrot")
def penalise(dice, answer):
    """`answer(logits, said, penalty)`: what was said gets less likely, each token once."""
    order = torch.randperm(6, generator=dice).tolist()
    values = torch.tensor([3.0, 1.2, -0.4, -2.0, 2.0, -1.0])
    logits = torch.empty(6)
    logits[order] = values
    said = [order[i] for i in (0, 1, 2, 3)]
    for spoken in (said, said[::-1] + said[:2]):
        original = logits.clone()
        given = answer(original, list(spoken), 1.5)
        expect_tensor(given, (6,), "what you return")
        expect(torch.equal(original, logits), "your function changes the logits it was given.")
        for token in order[4:]:
            expect(
                abs(float(given[token] - logits[token])) < 1e-6,
                f"token {token} was never said, and its score moved from {logits[token]:.1f} to "
                f"{given[token]:.2f}.",
            )
        for token in said:
            change = float(given[token] - logits[token])
            expect(
                change < -1e-6,
                f"token {token} had been said. Its score went from {logits[token]:.2f} to "
                f"{given[token]:.2f}: beside a token never said, it is now {math.exp(change):.2f} "
                "times as likely as before. The penalty has to bring that below 1.",
            )
        for token, wanted in ((order[0], 2.0), (order[1], 0.8)):
            how = ", though it was said twice: once is enough." if len(spoken) > 4 else "."
            expect(
                abs(float(given[token]) - wanted) < 1e-4,
                f"the score {logits[token]:.1f} of a token that was said became "
                f"{given[token]:.3f}, expected {logits[token]:.1f} / 1.5 = {wanted:.1f}" + how,
            )
    expect_same(answer(logits, said, 1.0), logits, "a penalty of 1, which changes nothing: yours")
    expect_same(answer(logits, [], 1.5), logits, "when nothing was said yet: your scores")
    harder = answer(logits, said, 3.0)
    expect(
        all(float(harder[t]) < float(answer(logits, said, 1.5)[t]) for t in said),
        "a larger penalty has to push what was said down further.",
    )
    return "Whatever has been said, whatever its sign, loses."


def told_beams(given: object, steps: int, start: list[int]) -> list[tuple[float, list[int]]]:
    """The reader's beams as (total, tokens), or Wrong."""
    expect(isinstance(given, list), f"return a list of pairs; you return a {type(given).__name__}.")
    beams = []
    for beam in given:
        expect(
            isinstance(beam, tuple | list) and len(beam) == 2,
            "each beam is a pair (total, tokens).",
        )
        total, tokens = beam
        try:
            total, tokens = float(total), [int(t) for t in tokens]
        except (TypeError, ValueError):
            raise Wrong("each beam is a pair (total, tokens), in this order.") from None
        expect(tokens[: len(start)] == start, f"the beam {tokens} does not begin with {start}.")
        expect(
            len(tokens) == len(start) + steps,
            f"asked for {steps} new tokens after {start}, a beam is {tokens}.",
        )
        beams.append((total, tokens))
    totals = [total for total, _ in beams]
    expect(totals == sorted(totals, reverse=True), "the beams do not come best first.")
    return beams


def by_hand(order: list[int], first: list[float], then: list[list[float]]) -> Callable:
    """A model of three tokens, in this order, with a start token 3 that never comes again."""
    rows = {3: first, **{token: then[i] for i, token in enumerate(order)}}

    def log_chances(tokens: list[int]) -> Tensor:
        row = torch.full((4,), 1e-9)
        row[order] = torch.tensor(rows[int(tokens[-1])])
        return row.log()

    return log_chances


@exercise("4.7", "Beam search")
def beams(dice, answer):
    """`answer(log_chances, start, steps, beams) -> [(total, tokens), …]`, best first."""
    order = torch.randperm(3, generator=dice).tolist()
    a, b, c = order
    model = by_hand(
        order, [0.4, 0.35, 0.25], [[0.34, 0.33, 0.33], [0.4, 0.3, 0.3], [0.9, 0.06, 0.04]]
    )
    cases = {
        1: [(0.136, [3, a, a])],
        2: [(0.14, [3, b, a]), (0.136, [3, a, a])],
        3: [(0.225, [3, c, a]), (0.14, [3, b, a]), (0.136, [3, a, a])],
    }
    for number, wanted in cases.items():
        given = told_beams(answer(model, [3], 2, number), 2, [3])
        expect(
            len({tuple(tokens) for _, tokens in given}) == len(given),
            f"with beams={number} one text is there twice. You begin with one beam, the start; "
            "and after a step no two beams may hold the same tokens.",
        )
        expect(
            len(given) == number, f"with beams={number} you return {len(given)} of them at the end."
        )
        for (total, tokens), (chance, best) in zip(given, wanted, strict=True):
            rank = order.index(tokens[1]) if tokens[1] in order else 3
            expect(
                rank < number,
                f"with beams={number} you return {tokens}. But after one step its beginning "
                f"{tokens[:2]} came {('first', 'second', 'third', 'last')[rank]}, and only the "
                f"best {number} had to be kept; the others are given up for good.",
            )
            expect(
                tokens == best,
                f"with beams={number}: you return {tokens}, expected {best}, whose chance is "
                f"{chance:.3f}.",
            )
            expect(
                abs(total - math.log(chance)) < 1e-3,
                f"{tokens} has the chance {chance:.3f}; the sum of the logarithms is "
                f"{math.log(chance):.3f}, and you say {total:.3f}.",
            )
    model = by_hand(
        order, [0.6, 0.3, 0.1], [[0.45, 0.3, 0.25], [0.34, 0.33, 0.33], [0.4, 0.3, 0.3]]
    )
    given = told_beams(answer(model, [3], 2, 2), 2, [3])
    expect(
        [tokens[1] for _, tokens in given] == [a, a],
        "each beginning passes on one continuation in your search. Two of the same beginning may "
        f"both be among the best: here 0.6 × 0.45 and 0.6 × 0.30, both after [3, {a}].",
    )
    table, asked = torch.randn(5, 4, 4, generator=dice).mul(2).log_softmax(-1), []

    def long_memory(tokens: list[int]) -> Tensor:
        asked.append(list(tokens))
        tokens = [int(t) for t in tokens]
        return table[len(tokens) % 5, (tokens[0] + 2 * tokens[-1]) % 4]

    every = []
    for tail in itertools.product(range(4), repeat=3):
        path = [1, 2, *tail]
        every.append((sum(float(long_memory(path[:i])[path[i]]) for i in (2, 3, 4)), path))
    every.sort(reverse=True)
    given = told_beams(answer(long_memory, [1, 2], 3, 16), 3, [1, 2])
    expect_same(given[0][1], every[0][1], "with enough beams the best of all texts is found: yours")
    expect_same([t for t, _ in given], [t for t, _ in every[:16]], "totals of 16 beams", atol=1e-3)
    asked.clear()
    told_beams(answer(long_memory, [1, 2], 6, 3), 6, [1, 2])
    expect(
        len(asked) <= 3 * 6,
        f"for 6 steps with 3 beams your search asks the model {len(asked)} times; once for each "
        "beam and step, 18 times at most, is enough.",
    )
    return "Greedy with one beam, exhaustive with enough."


@exercise("4.8", "A bug hunt: the cache")
def cached(dice, answer):
    """`answer(model, token_ids, cache)`: logits of new tokens, the earlier ones from the cache."""
    for heads, dim, pieces in ((3, 12, (5, 1, 2, 1)), (2, 12, (2, 1, 1)), (4, 20, (1, 1, 4, 3))):
        seed = int(torch.randint(1000, (1,), generator=dice))
        model = TinyGPT(11, 16, dim, heads, 2, spread=0.4, seed=seed)
        ids = torch.randint(11, (2, sum(pieces)), generator=dice)
        with torch.no_grad():
            whole, cache, done = model(ids), [None] * 2, 0
            for piece in ids.split(pieces, dim=1):
                new = piece.shape[1]
                given = answer(model, piece, cache)
                expect_tensor(given, (2, new, 11), f"the logits of {new} new tokens")
                off = (given - whole[:, done : done + new]).abs().amax((0, 2))
                if off.max() > 1e-4:
                    raise Wrong(told_cache(done, new, off, model, ids, given))
                done += new
    return "Piece by piece, the same scores as all at once, with 2, 3 and 4 heads."


def told_cache(done: int, new: int, off: Tensor, model: TinyGPT, ids: Tensor, given: Tensor) -> str:
    """What a reader sees of scores that differ from the model's own."""
    if done == 0:
        return f"the first {new} tokens, with nothing cached yet, already get other scores."
    what = f"{done} tokens were read and kept; the next {new} came on their own"
    for start in range(16 - new + 1):
        if start == done:
            continue
        places = torch.tensor([*range(done), *range(start, start + new)])
        x = model.token_embedding(ids[:, : done + new]) + model.position_embedding(places)
        for block in model.blocks:
            x = block(x)
        if same(model.head(model.final_norm(x))[:, done:], given, 1e-4):
            return (
                f"{what}. Their scores are those of tokens that stand at position {start}; in "
                f"the text they stand at position {done}."
            )
    first = int((off > 1e-4).nonzero()[0])
    return (
        f"{what}. The scores at position {done + first} are off by up to {off.max():.2f} from "
        "those of the model that reads the whole text at once."
    )


T_VALUES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@exercise("4.9", "Which difference is real?")
def compare(dice, answer):
    """`answer(ours, theirs) -> (low, high, verdict)`, paired by seed."""
    hand = answer([1.1, 2.3, 3.2, 4.2], [1.0, 2.0, 3.0, 4.0])
    expect(
        isinstance(hand, tuple | list) and len(hand) == 3,
        "return three things: low end, high end and the verdict.",
    )
    for count, gap, spread in ((4, 0.0, 0.0), (6, -0.3, 0.1), (8, 0.4, 0.2), (5, 0.05, 0.4)):
        theirs = 2 + 2 * torch.rand(count, generator=dice).double()
        noise = torch.randn(count, generator=dice).double()
        noise = (noise - noise.mean()) / noise.std() * spread
        ours = theirs + gap + noise
        if count == 4:
            theirs = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
            ours = theirs + torch.tensor([0.1, 0.3, 0.2, 0.2]).double()
        low, high, verdict = answer(ours.tolist(), theirs.tolist())
        low, high = float(low), float(high)
        d, t = ours - theirs, T_VALUES[count - 2]
        middle, error = float(d.mean()), float(d.std()) / count**0.5
        where = "differences 0.1, 0.3, 0.2, 0.2" if count == 4 else f"{count} pairs"
        expect(low <= high, f"{where}: your low end {low:.3f} lies above your high end {high:.3f}.")
        expect(
            abs((low + high) / 2 + middle) > 1e-6 or abs(middle) < 1e-6,
            f"{where}: your interval has its middle at {-middle:.3f}, the sign turned round; take "
            "ours − theirs.",
        )
        expect(
            abs((low + high) / 2 - middle) < 1e-4,
            f"{where}: the middle of your interval is {(low + high) / 2:.3f}, but the mean "
            f"difference is {middle:.3f}.",
        )
        half = (high - low) / 2
        unpaired = float((ours.var() / count + theirs.var() / count).sqrt())
        told = {
            1.96 * error: "you multiply by 1.96, which is for hundreds of pairs; for few pairs "
            "use T95",
            T_VALUES[count - 1] * error: "you look up T95 under the number of pairs; it wants one "
            "less",
            t * float(d.std()): "you give the spread of single differences; the mean of n wavers "
            "less, by √n",
            t * error * ((count - 1) / count) ** 0.5: "the spread is divided by n; for a sample "
            "divide by n − 1",
            t * unpaired: "you compare two groups; but each seed gives a *pair*. Take the "
            "differences first",
            1.96 * unpaired: "you compare two groups; but each seed gives a *pair*. Take the "
            "differences first",
            error: "you give one standard error; an interval of 95 % is T95 of them to each side",
        }
        for size, why in told.items():
            expect(abs(half - size) > 2e-3 * size, f"{where}: {why}.")
        expect(
            abs(half - t * error) < 3e-3 * t * error,
            f"{where}: your interval reaches {half:.3f} to each side, expected {t * error:.3f}.",
        )
        wanted = "undecided" if low <= 0 <= high else "lower" if high < 0 else "higher"
        expect(
            verdict == wanted,
            f"{where}: the interval {low:.2f} to {high:.2f} of ours − theirs "
            f"{'holds 0' if wanted == 'undecided' else 'does not hold 0'}, and you say "
            f"{verdict!r}; expected {wanted!r}.",
        )
    return "The pairs decide, and sometimes the verdict is that there is none."


QUESTIONS = [
    question(
        "4.a",
        "You ask a model twice for a greedy text, and get two different texts. Nobody trained it "
        "in between. Where do you look first?",
        wrong(
            "At the seed of the sampler.",
            "Greedy takes the best token and draws nothing: no seed can matter to it.",
        ),
        wrong(
            "At the temperature.",
            "Greedy means temperature 0. Any other temperature moves the scores closer or apart, "
            "but never changes which is best.",
        ),
        right(
            "At whether the model is in training mode.",
            "Dropout zeroes other numbers at each call, so even the best token changes. Generate "
            "in evaluation mode, and put the mode back afterwards.",
        ),
        wrong(
            "At the first weights.",
            "They decide what a model says, not whether it says the same thing twice.",
        ),
    ),
    question(
        "4.b",
        "GPT-2's smallest size has 12 blocks. You build it with 24 and change nothing else. What "
        "happens to its number of parameters, and to its KV cache for a full text?",
        wrong(
            "Both double.", "The tables of tokens and positions are there once, whatever the depth."
        ),
        right(
            "The cache doubles; the parameters grow by less.",
            "Keys and values are kept per block. Of the parameters, only the blocks' share "
            "doubles: nearly a third of the small model sits in the tables, which stay.",
        ),
        wrong(
            "The parameters double; the cache stays.",
            "Every block has keys and values of its own, so the cache is what doubles exactly.",
        ),
        wrong("Both grow fourfold.", "That is what doubling the *width* does to a matrix."),
    ),
    question(
        "4.c",
        "Before the first step, a model with vocab_size 1024 has a loss of 2.1 on ordinary text "
        "(ln 1024 ≈ 6.9). What do you think?",
        wrong(
            "Good luck with the seed.",
            "A loss of 2.1 means a chance of about 12 % for the right token at every place. "
            "No seed gets that from random weights.",
        ),
        wrong(
            "The first weights are too large.",
            "Too large makes it confidently *wrong*: the loss would lie above 6.9.",
        ),
        right(
            "It is allowed to see its answers.",
            "Nobody who knows nothing can beat ln(vocab_size). Look at the targets: if they are "
            "not shifted, a model with a tied head only has to repeat its input.",
        ),
    ),
    question(
        "4.d",
        "The token 'zebra' is in the vocabulary, but never in the training text. Head and "
        "embedding are tied. Does its row change in training?",
        right(
            "Yes, at every step.",
            "At the exit each token takes part in the softmax. Zebra is never the answer, so its "
            "score is pushed down wherever it is given a chance.",
        ),
        wrong(
            "No, since it is never read.",
            "That holds at the entrance. But the same row also scores zebra at the exit.",
        ),
        wrong(
            "Only through weight decay.",
            "That would be so for an embedding that is not tied to the head.",
        ),
    ),
    question(
        "4.e",
        "Against greedy, a beam search with 8 beams finds stories of a higher total probability. "
        "Readers find them duller. Is one of the two measurements wrong?",
        wrong(
            "Yes: the likeliest text is what people would write.",
            "People take a less likely word again and again; that is what makes a text worth "
            "reading. A coin's likeliest hundred tosses are not typical either.",
        ),
        wrong(
            "Yes: beam search must find the same as greedy.",
            "With one beam it does. With more, it can give up a good first word for a better "
            "whole.",
        ),
        right(
            "No: likeliest and best are different things.",
            "Beam search answers 'which text is likeliest?'. That suits a translation or a sum; "
            "for a story one draws.",
        ),
    ),
    question(
        "4.f",
        "Which curve of the picture above belongs to the blocks that the chapter built, with the "
        "norm on the branch?",
        wrong(
            "A, the flat one.",
            "Something brings the stream back to the same spread after each block: a norm *on* "
            "the stream. That is post-norm.",
        ),
        right(
            "B, the rising one.",
            "Each block adds two notes, and nothing ever shrinks the stream. It grows about like "
            "the root of the number of notes; the final norm sets it right at the end.",
        ),
        wrong(
            "C, the falling one.",
            "If x is added to, it cannot fade so fast. Here each layer *replaces* the stream: "
            "the plus sign is missing.",
        ),
    ),
    question(
        "4.g",
        "A model has context_length 128 and is asked to write 500 tokens. What does each step "
        "read, once the text is longer than 128?",
        wrong(
            "The whole text.",
            "The position table has 128 rows: the token at place 128 finds none, and the program "
            "stops with an index error.",
        ),
        wrong(
            "The first 128 tokens.",
            "Then it would be asked the same question for ever, and answer the same.",
        ),
        right(
            "The last 128 tokens, counted from position 0 again.",
            "The window slides. All positions in it change at each step, which is why a KV cache "
            "with learned positions has to be thrown away there.",
        ),
        wrong(
            "The last token only.",
            "That works with a KV cache, but only while the cached text still fits the position "
            "table.",
        ),
    ),
]
