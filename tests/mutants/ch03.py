"""Wrong and other right answers to chapter 3's exercises."""

from __future__ import annotations

import math
import statistics

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tests.mutants.cases import mutant, right

# 3.1 Cross-attention


@right("3.1", "PyTorch's own function, weights from an identity as values")
def cross_by_torch():
    def attend(queries, keys, values):
        eye = torch.eye(keys.shape[1]).expand(len(keys), -1, -1)
        weights = F.scaled_dot_product_attention(queries, keys, eye)
        return F.scaled_dot_product_attention(queries, keys, values), weights

    return attend


@right("3.1", "one asker at a time")
def cross_by_loop():
    def attend(queries, keys, values):
        rows = []
        for asker in queries.unbind(1):  # (batch, d)
            powers = ((keys * asker[:, None]).sum(-1) / math.sqrt(keys.shape[-1])).exp()
            rows.append(powers / powers.sum(-1, keepdim=True))
        weights = torch.stack(rows, 1)
        return torch.einsum("bqk,bkv->bqv", weights, values), weights

    return attend


def cross(weigh):
    """An answer to 3.1 with these weights."""

    def attend(queries, keys, values):
        weights = weigh(queries, keys, values)
        return weights @ values, weights

    return attend


@mutant("3.1", "softmax over the askers", says="wrong axis")
def cross_wrong_axis():
    return cross(lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(1))


@mutant("3.1", "no division by √d", says="missing")
def cross_unscaled():
    return cross(lambda q, k, v: (q @ k.mT).softmax(-1))


@mutant("3.1", "division by d", says="by d in place of √d")
def cross_by_d():
    return cross(lambda q, k, v: (q @ k.mT / q.shape[-1]).softmax(-1))


@mutant("3.1", "root of the values' width", says="the root of the values' width")
def cross_by_values():
    return cross(lambda q, k, v: (q @ k.mT / v.shape[-1] ** 0.5).softmax(-1))


@mutant("3.1", "a causal mask left in", says="asker 0 gives 1 nothing")
def cross_masked():
    def weigh(q, k, v):
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf).softmax(-1)

    return cross(weigh)


@mutant("3.1", "the results in the other order", says="other order")
def cross_swapped():
    attend = cross(lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1))
    return lambda q, k, v: attend(q, k, v)[::-1]


@mutant("3.1", "keys mixed in place of values", says=r"mixture.*\(2, 3, 8\)")
def cross_mixes_keys():
    def attend(q, k, v):
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return weights @ k, weights

    return attend


# 3.2 A bug hunt: only the last ones ask


def last_rows(mask_of, after=False):
    """An answer to 3.2: `mask_of(asking, tokens)` is True where one may see."""

    def weigh(queries, keys):
        scores = queries @ keys.mT / queries.shape[-1] ** 0.5
        may_see = mask_of(*scores.shape[-2:])
        if after:
            return scores.softmax(-1).masked_fill(~may_see, 0.0)
        return scores.masked_fill(~may_see, -torch.inf).softmax(-1)

    return weigh


def table(asking, tokens):
    return torch.ones(asking, tokens, dtype=torch.bool)


@right("3.2", "the last rows of the whole table's mask")
def last_rows_of_whole():
    return last_rows(lambda asking, tokens: table(tokens, tokens).tril()[-asking:])


@right("3.2", "places compared, row by row")
def last_rows_by_place():
    def weigh(queries, keys):
        asking, tokens = queries.shape[-2], keys.shape[-2]
        weights = torch.zeros(*queries.shape[:-1], tokens)
        for row in range(asking):
            seen = keys[..., : tokens - asking + row + 1, :]
            scores = (seen @ queries[..., row, :, None])[..., 0] / math.sqrt(keys.shape[-1])
            weights[..., row, : seen.shape[-2]] = scores.softmax(-1)
        return weights

    return weigh


@mutant("3.2", "as found", says="token 5 .* does not see token 1")
def last_as_found():
    return last_rows(lambda asking, tokens: table(asking, tokens).tril())


@mutant("3.2", "no mask, since everything is in the past", says="sees token 1, which comes later")
def last_unmasked():
    return last_rows(table)


@mutant("3.2", "moved one too far", says="token 0 .* sees token 1")
def last_one_more():
    return last_rows(lambda asking, tokens: table(asking, tokens).tril(tokens - asking + 1))


@mutant("3.2", "moved the other way", says="nan")
def last_other_way():
    return last_rows(lambda asking, tokens: table(asking, tokens).tril(asking - tokens))


@mutant("3.2", "zeros after the softmax", says="adds up to")
def last_after():
    return last_rows(lambda asking, tokens: table(asking, tokens).tril(tokens - asking), True)


@mutant("3.2", "mask mended, root lost", says="not divided by √d")
def last_unscaled():
    whole = last_rows(lambda asking, tokens: table(asking, tokens).tril(tokens - asking))
    return lambda queries, keys: whole(queries * queries.shape[-1] ** 0.5, keys)


# 3.3 Predict: a whole table on one hand


@right("3.3", "decimals, as tensors")
def hand_decimals():
    weights = torch.tensor([[1, 0, 0], [0.8, 0.2, 0], [0.5, 0.25, 0.25]])
    return weights, torch.tensor([[10, 0], [8, 2], [6, 4.5]])


@right("3.3", "arrays of two decimals")
def hand_arrays():
    weights = np.array([[1, 0, 0], [0.8, 0.2, 0], [0.5, 0.25, 0.25]])
    return weights, np.array([[10, 0], [8, 2], [6, 4.5]])


@mutant("3.3", "no mask", says="may not look at token 2")
def hand_unmasked():
    weights = [[1 / (5 + 2**0.5), 4 / (5 + 2**0.5), 2**0.5 / (5 + 2**0.5)]]
    weights += [[4 / 7, 1 / 7, 2 / 7], [1 / 2, 1 / 4, 1 / 4]]
    return weights, [[0, 0]] * 3


@mutant("3.3", "no division", says="not been divided")
def hand_unscaled():
    return [[1, 0, 0], [16 / 17, 1 / 17, 0], [16 / 24, 4 / 24, 4 / 24]], [[0, 0]] * 3


@mutant("3.3", "powers of e", says="powers of e")
def hand_of_e():
    e = math.e
    rows = [[1, 0, 0], [e**2 / (1 + e**2), 1 / (1 + e**2), 0]]
    return [*rows, [e / (e + 2), 1 / (e + 2), 1 / (e + 2)]], [[0, 0]] * 3


@mutant("3.3", "one mixture miscalculated", says=r"your mixtures at \[2, 1\]")
def hand_slip():
    return [[1, 0, 0], [0.8, 0.2, 0], [0.5, 0.25, 0.25]], [[10, 0], [8, 2], [6, 3.5]]


@mutant("3.3", "powers, not shared out", says="row 1 of your weights adds up to 5")
def hand_powers():
    return [[1, 0, 0], [4, 1, 0], [4, 2, 2]], [[10, 0], [8, 2], [6, 4.5]]


@mutant("3.3", "a column in place of rows", says="write 3 rows of 3 numbers")
def hand_flat():
    return [1, 0, 0, 0.8, 0.2, 0, 0.5, 0.25, 0.25], [[10, 0], [8, 2], [6, 4.5]]


# 3.4 A window, and how far it sees


def seen_by(rule):
    """A mask from a rule on (distance back, window)."""

    def mask(tokens, window):
        place = torch.arange(tokens)
        return rule(place[:, None] - place, window)

    return mask


true_mask = seen_by(lambda back, window: (back >= 0) & (back < window))


def true_reach(window, layers):
    return layers * (window - 1)


@right("3.4", "two triangles; a sum over layers")
def window_triangles():
    def mask(tokens, window):
        ones = torch.ones(tokens, tokens)
        return ones.tril() - ones.tril(-window)

    return mask, lambda window, layers: sum(window - 1 for _ in range(layers))


@right("3.4", "row by row; step by step")
def window_rows():
    def mask(tokens, window):
        rows = [[i - window < j <= i for j in range(tokens)] for i in range(tokens)]
        return torch.tensor(rows)

    def reach(window, layers):
        place = 1000
        for _ in range(layers):
            place -= window - 1
        return 1000 - place

    return mask, reach


@mutant("3.4", "one more than the window", says=r"\[0, 1, 2, 3\], expected \[1, 2, 3\]")
def window_one_more():
    return seen_by(lambda back, window: (back >= 0) & (back <= window)), true_reach


@mutant("3.4", "looking both ways", says="may see token 2, which is later")
def window_both_ways():
    return seen_by(lambda back, window: back.abs() < window), true_reach


@mutant("3.4", "True where hidden", says="may not see itself")
def window_upside_down():
    return seen_by(lambda back, window: (back < 0) | (back >= window)), true_reach


@mutant("3.4", "reach counts the token itself in each layer", says="you say 3 places back")
def reach_with_itself():
    return true_mask, lambda window, layers: layers * window


@mutant("3.4", "reach multiplies", says="window 4, 3 layers: you say 27")
def reach_multiplies():
    return true_mask, lambda window, layers: (window - 1) ** layers


@mutant("3.4", "reach does not grow with the layers", says="2 layers: you say 2")
def reach_constant():
    return true_mask, lambda window, layers: window - 1


# 3.5 ALiBi


def true_slopes(heads):
    return 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)


def alibi(slopes=None, distance=None, masked=True, root=True, inside=False):
    """An answer to 3.5 with one thing changed."""

    def weigh(queries, keys):
        heads, tokens, head_dim = queries.shape[1:]
        steep = (slopes or true_slopes)(heads)
        place = torch.arange(tokens)
        away = place - place[:, None] if distance is None else distance(place)
        bias = steep[:, None, None] * away
        scores = queries @ keys.mT
        scale = math.sqrt(head_dim) if root else 1.0
        scores = (scores + bias) / scale if inside else scores / scale + bias
        if masked:
            scores = scores.masked_fill(place > place[:, None], -torch.inf)
        return scores.softmax(-1)

    return weigh


@right("3.5", "a bias by the place of the asked alone")
def alibi_absolute():
    return alibi(distance=lambda place: place.expand(len(place), -1))


@right("3.5", "powers times a fading, head by head")
def alibi_by_powers():
    def weigh(queries, keys):
        heads, tokens, head_dim = queries.shape[1:]
        back = (torch.arange(tokens)[:, None] - torch.arange(tokens)).clamp(min=0)
        made = []
        for head in range(heads):
            fading = math.exp(-(2 ** (-8 * (head + 1) / heads))) ** back
            powers = (queries[:, head] @ keys[:, head].mT / head_dim**0.5).exp() * fading
            powers = powers.tril()
            made.append(powers / powers.sum(-1, keepdim=True))
        return torch.stack(made, 1)

    return weigh


@mutant("3.5", "the sign turned", says="far back gets more")
def alibi_sign():
    return alibi(distance=lambda place: place[:, None] - place)


@mutant("3.5", "the bias divided by √head_dim", says=r"divided by √head_dim, too")
def alibi_inside():
    return alibi(inside=True)


@mutant("3.5", "the heads counted from 0", says="one step too steep")
def alibi_from_zero():
    return alibi(slopes=lambda heads: 2.0 ** (-8 * torch.arange(heads) / heads))


@mutant("3.5", "no mask", says="to a later one")
def alibi_unmasked():
    return alibi(masked=False)


@mutant("3.5", "the products not divided", says="not divided by √head_dim")
def alibi_unscaled():
    return alibi(root=False)


@mutant("3.5", "one slope for all", says="the same for all heads")
def alibi_one_slope():
    return alibi(slopes=lambda heads: torch.full((heads,), 2.0 ** (-8 / heads)))


@mutant("3.5", "the square of the distance", says="twice as far back")
def alibi_square():
    return alibi(distance=lambda place: -((place - place[:, None]) ** 2))


@mutant("3.5", "no bias at all", says="distance plays no part")
def alibi_none():
    return alibi(slopes=lambda heads: torch.zeros(heads))


# 3.6 A bug hunt: shapes that fit


def heads_cut(x, qkv, num_heads):
    cut = (x @ qkv).unflatten(-1, (3, num_heads, -1))
    return cut.permute(2, 0, 3, 1, 4)


@right("3.6", "head by head, glued at the end")
def heads_by_loop():
    def attend(x, qkv, out, num_heads):
        parts = [p.chunk(num_heads, -1) for p in (x @ qkv).chunk(3, -1)]
        made = [
            F.scaled_dot_product_attention(q, k, v, is_causal=True)
            for q, k, v in zip(*parts, strict=True)
        ]
        return torch.cat(made, -1) @ out

    return attend


@right("3.6", "each head has its own rows of `out`")
def heads_by_einsum():
    def attend(x, qkv, out, num_heads):
        q, k, v = heads_cut(x, qkv, num_heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.einsum("bhtd,hdo->bto", mixed, out.unflatten(0, (num_heads, -1)))

    return attend


@mutant(
    "3.6", "as found", says="with 3 heads: when token 1 is changed, so is the answer of token 0"
)
def heads_as_found():
    def attend(x, qkv, out, num_heads):
        q, k, v = heads_cut(x, qkv, num_heads)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).reshape(x.shape) @ out

    return attend


@mutant("3.6", "head_dim before heads", says="in the wrong order")
def heads_interleaved():
    def attend(x, qkv, out, num_heads):
        q, k, v = heads_cut(x, qkv, num_heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.permute(0, 2, 3, 1).flatten(2) @ out

    return attend


@mutant("3.6", "the mask taken off", says="comes before it")
def heads_unmasked():
    def attend(x, qkv, out, num_heads):
        q, k, v = heads_cut(x, qkv, num_heads)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2) @ out

    return attend


@mutant("3.6", "the cut turned to view, the end mended", says="does not depend on token")
def heads_view():
    def attend(x, qkv, out, num_heads):
        batch, tokens, width = x.shape
        q, k, v = (x @ qkv).view(3, batch, num_heads, tokens, width // num_heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).flatten(2) @ out

    return attend


@mutant("3.6", "heads attend to heads", says="head")
def heads_to_heads():
    def attend(x, qkv, out, num_heads):
        q, k, v = (p.transpose(1, 2) for p in heads_cut(x, qkv, num_heads))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.flatten(2) @ out

    return attend


@mutant("3.6", "`out` forgotten", says="what you return")
def heads_without_out():
    def attend(x, qkv, out, num_heads):
        q, k, v = heads_cut(x, qkv, num_heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)

    return attend


# 3.7 Padding in front


def hidden(scores, real):
    later = torch.ones(scores.shape[-2:]).triu(1) > 0
    return later | ~real[:, None, :]


@right("3.7", "powers times what may be seen, a total of at least a little")
def padded_by_powers():
    def weigh(scores, real):
        powers = (scores - scores.amax(-1, keepdim=True)).exp() * ~hidden(scores, real)
        return powers / powers.sum(-1, keepdim=True).clamp(min=1e-30)

    return weigh


@right("3.7", "a large negative number, and zeros where padding asks")
def padded_by_filler():
    def weigh(scores, real):
        return scores.masked_fill(hidden(scores, real), -1e9).softmax(-1) * real[:, :, None]

    return weigh


@mutant("3.7", "nothing done about empty rows", says="row 0, which is padding, holds nan")
def padded_nan():
    return lambda scores, real: scores.masked_fill(hidden(scores, real), -torch.inf).softmax(-1)


@mutant("3.7", "padding hidden as asker, not as asked", says="nan|which is padding")
def padded_rows():
    def weigh(scores, real):
        later = torch.ones(scores.shape[-2:]).triu(1) > 0
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        return weights * real[:, :, None]

    return weigh


@mutant("3.7", "the large negative number alone", says="is padding and must have a row of zeros")
def padded_filler_alone():
    return lambda scores, real: scores.masked_fill(hidden(scores, real), -1e9).softmax(-1)


@mutant("3.7", "no causal mask", says="which comes later")
def padded_not_causal():
    def weigh(scores, real):
        weights = scores.masked_fill(~real[:, None, :], -torch.inf).softmax(-1)
        return weights * real[:, :, None]

    return weigh


@mutant("3.7", "struck out after the softmax", says="adds up to")
def padded_after():
    def weigh(scores, real):
        weights = scores.softmax(-1).masked_fill(hidden(scores, real), 0.0)
        return weights * real[:, :, None]

    return weigh


@mutant("3.7", "the mask the wrong way round", says="does not see token 0, and it may")
def padded_inverted():
    return lambda scores, real: (
        scores.masked_fill(hidden(scores, ~real), -torch.inf).softmax(-1).nan_to_num()
    )


# 3.8 A bug hunt: two answers to one question


class Projections(nn.Module):
    def __init__(self, embed_dim, head_dim, dropout):
        super().__init__()
        self.qkv = nn.Linear(embed_dim, 3 * head_dim)
        self.dropout = dropout

    def parts(self, x):
        return self.qkv(x).chunk(3, dim=-1)

    def weights(self, x):
        q, k, _ = self.parts(x)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf).softmax(-1)


@right("3.8", "written out, with F.dropout told whether it trains")
def steady_written_out():
    class Head(Projections):
        def forward(self, x):
            weights = F.dropout(self.weights(x), self.dropout, training=self.training)
            return weights @ self.parts(x)[2]

    return Head


@right("3.8", "a module of dropout, and other names")
def steady_module():
    class Head(nn.Module):
        def __init__(self, embed_dim, head_dim, dropout):
            super().__init__()
            self.ask, self.offer, self.tell = (nn.Linear(embed_dim, head_dim) for _ in range(3))
            self.strike = nn.Dropout(dropout)

        def forward(self, x):
            scores = self.ask(x) @ self.offer(x).mT / self.ask.out_features**0.5
            later = torch.ones_like(scores).triu(1) > 0
            weights = scores.masked_fill(later, -torch.inf).softmax(-1)
            return self.strike(weights) @ self.tell(x)

    return Head


@mutant("3.8", "as found", says="two different answers")
def steady_as_found():
    class Head(Projections):
        def forward(self, x):
            q, k, v = self.parts(x)
            return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)

    return Head


@mutant("3.8", "dropout taken out", says="nothing is struck out")
def steady_without():
    class Head(Projections):
        def forward(self, x):
            return F.scaled_dot_product_attention(*self.parts(x), is_causal=True)

    return Head


@mutant("3.8", "the same draw each time", says="not the one that the same numbers give")
def steady_seeded():
    class Head(Projections):
        def forward(self, x):
            torch.manual_seed(0)
            return F.dropout(self.weights(x), self.dropout) @ self.parts(x)[2]

    return Head


@mutant("3.8", "dropout on the mixture", says="belongs on the weights")
def steady_on_mixture():
    class Head(Projections):
        def forward(self, x):
            mixed = F.scaled_dot_product_attention(*self.parts(x), is_causal=True)
            return F.dropout(mixed, self.dropout, training=self.training)

    return Head


@mutant("3.8", "survivors not made up for", says="must be divided")
def steady_not_divided():
    class Head(Projections):
        def forward(self, x):
            weights = self.weights(x)
            if self.training:
                weights = weights * (torch.rand_like(weights) >= self.dropout)
            return weights @ self.parts(x)[2]

    return Head


@mutant("3.8", "on and off the wrong way round", says="two different answers")
def steady_inverted():
    class Head(Projections):
        def forward(self, x):
            rate = 0.0 if self.training else self.dropout
            return F.dropout(self.weights(x), rate) @ self.parts(x)[2]

    return Head


# 3.9 Explain a plot: which head is which?

HEADS = {
    "the word before": "A",
    "everybody alike": "B",
    "the first token": "C",
    "words like itself": "D",
    "the latest name": "E",
}


@right("3.9", "small letters, another order")
def heads_small():
    return {kind: letter.lower() for kind, letter in reversed(HEADS.items())}


@mutant("3.9", "every name taken for the last word", says="head E does not look at the word before")
def heads_swapped():
    return HEADS | {"the word before": "E", "the latest name": "A"}


@mutant("3.9", "one head for all", says="head C does not look at the word before")
def heads_all_one():
    return dict.fromkeys(HEADS, "C")


@mutant("3.9", "the idle head taken for a parked one", says="head C does not look at everybody")
def heads_idle():
    return {"everybody alike": "C"} | {k: v for k, v in HEADS.items() if k != "everybody alike"}


@mutant("3.9", "one left out", says="'the latest name'")
def heads_missing():
    return {kind: letter for kind, letter in HEADS.items() if letter != "E"}


# 3.10 Wire it yourself: so many places back


def turn(angle):
    """Rows times this are turned by an angle, against the clock."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, s], [-s, c]])


def enough(places):
    return 2 * math.log(40) / (1 - math.cos(2 * math.pi / places))


@right("3.10", "the key is turned forward, not the query back")
def wire_keys():
    def wire(back, places):
        return enough(places) * torch.eye(2), turn(back * 2 * math.pi / places)

    return wire


@right("3.10", "half a turn each, loudness shared, three numbers wide")
def wire_halves():
    def wire(back, places):
        half = back * math.pi / places
        loud = enough(places) ** 0.5
        wide = torch.zeros(2, 1)
        made = [torch.cat([loud * 1.2 * turn(a), wide], 1) for a in (-half, half)]
        return made[0], made[1]

    return wire


@mutant("3.10", "turned the wrong way", says=r"back 1, places 12: token 1 looks most at")
def wire_wrong_way():
    return lambda back, places: (
        enough(places) * turn(back * 2 * math.pi / places),
        torch.eye(2),
    )


@mutant("3.10", "not loud enough", says="looks most at the right one, and gives it only")
def wire_quiet():
    return lambda back, places: (5 * turn(-back * 2 * math.pi / places), torch.eye(2))


@mutant("3.10", "loud enough for twelve places only", says=r"places (16|30).*gives it only")
def wire_fixed():
    return lambda back, places: (60 * turn(-back * 2 * math.pi / places), torch.eye(2))


@mutant("3.10", "always one back", says=r"back 3, places 9: token 3 looks most at token 2")
def wire_one_back():
    return lambda back, places: (enough(places) * turn(-2 * math.pi / places), torch.eye(2))


@mutant("3.10", "degrees in place of radians", says="looks most at")
def wire_degrees():
    return lambda back, places: (enough(places) * turn(-back * 360 / places), torch.eye(2))


@mutant("3.10", "half of a pair", says="return two things")
def wire_half():
    return lambda back, places: enough(places) * turn(-back * 2 * math.pi / places)[None]


# 3.11 Ablate: which difference is real?


def interval(half):
    """An interval around the mean, half as wide as `half(runs)`."""

    def ends(runs):
        mean = statistics.fmean(runs)
        return mean - half(runs), mean + half(runs)

    return ends


true_interval = interval(lambda runs: 2.365 * statistics.stdev(runs) / 8**0.5)


@right("3.11", "NumPy told to divide by n − 1; a set of letters")
def real_numpy():
    def ends(runs):
        runs = np.array(runs)
        half = 2.365 * runs.std(ddof=1) / np.sqrt(len(runs))
        return np.array([runs.mean() - half, runs.mean() + half]).tolist()

    return ends, {"B", "A"}


@right("3.11", "tensors, and the square root of the mean square")
def real_torch():
    def ends(runs):
        runs = torch.tensor(runs)
        half = 2.365 * ((runs - runs.mean()) ** 2).sum().div(7 * 8).sqrt()
        return runs.mean() - half, runs.mean() + half

    return ends, ["a", "b"]


@mutant("3.11", "NumPy's std as it comes", says="s from n")
def real_by_n():
    return interval(lambda runs: 2.365 * float(np.std(runs)) / 8**0.5), "AB"


@mutant("3.11", "the spread of runs for that of their mean", says="not been divided by √8")
def real_spread():
    return interval(lambda runs: 2.365 * statistics.stdev(runs)), "AB"


@mutant("3.11", "1.96", says="too few")
def real_normal():
    return interval(lambda runs: 1.96 * statistics.stdev(runs) / 8**0.5), "AB"


@mutant("3.11", "lowest and highest run", says="the middle of your interval")
def real_range():
    return (lambda runs: (min(runs), max(runs))), "AB"


@mutant("3.11", "a mean that is not 0 taken for a difference", says="C: its interval .* hold 0")
def real_all():
    return true_interval, "ABC"


@mutant("3.11", "only the large one", says="B: its interval")
def real_large_only():
    return true_interval, "A"
