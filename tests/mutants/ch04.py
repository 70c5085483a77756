"""Wrong and other right answers to chapter 4's exercises."""

from __future__ import annotations

import itertools
import math
import statistics

import torch
from torch import nn
from torch.nn import functional as F

from tests.mutants.cases import mutant, right

# 4.1 RMS norm


@right("4.1", "PyTorch's own function")
def rms_by_torch():
    return lambda x, weight, eps=1e-5: F.rms_norm(x, weight.shape, weight, eps)


@right("4.1", "the vector's length, and the root of embed_dim")
def rms_by_length():
    def norm(x, weight, eps=1e-5):
        count = x.shape[-1]
        length = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) ** 2 + count * eps) ** 0.5
        return x / length * count**0.5 * weight

    return norm


@mutant("4.1", "layer norm from habit", says="take the mean off")
def rms_layer_norm():
    return lambda x, weight, eps=1e-5: F.layer_norm(x, weight.shape, weight, None, eps)


@mutant("4.1", "the variance in place of the mean square", says="spread around the mean")
def rms_variance():
    return lambda x, weight, eps=1e-5: (
        weight * x / (x.var(-1, keepdim=True, correction=0) + eps).sqrt()
    )


@mutant("4.1", "one mean square for everything", says="tokens|a whole text|changed")
def rms_everything():
    return lambda x, weight, eps=1e-5: weight * x / (x.square().mean() + eps).sqrt()


@mutant("4.1", "the mean over the tokens", says="neighbours")
def rms_over_tokens():
    return lambda x, weight, eps=1e-5: weight * x / (x.square().mean(-2, keepdim=True) + eps).sqrt()


@mutant("4.1", "eps forgotten", says="nan")
def rms_without_eps():
    return lambda x, weight, eps=1e-5: weight * x / x.square().mean(-1, keepdim=True).sqrt()


@mutant("4.1", "eps outside the root", says="under the root")
def rms_eps_outside():
    return lambda x, weight, eps=1e-5: weight * x / (x.square().mean(-1, keepdim=True).sqrt() + eps)


@mutant("4.1", "the scale left out", says="no effect")
def rms_without_weight():
    return lambda x, weight, eps=1e-5: x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


@mutant("4.1", "in place", says="changes the `x`")
def rms_in_place():
    def norm(x, weight, eps=1e-5):
        x /= (x.square().mean(-1, keepdim=True) + eps).sqrt()
        return weight * x

    return norm


# 4.2 SwiGLU


def gated(width, bend, bias=False):
    """A gated layer of this width, a function of embed_dim, and this way of mixing."""

    class Gated(nn.Module):
        def __init__(self, embed_dim):
            super().__init__()
            inside = width(embed_dim)
            self.gate = nn.Linear(embed_dim, inside, bias=bias)
            self.up = nn.Linear(embed_dim, inside, bias=bias)
            self.down = nn.Linear(inside, embed_dim, bias=bias)

        def forward(self, x):
            return self.down(bend(self.gate(x), self.up(x)))

    return Gated


def fair(embed_dim):
    return (8 * embed_dim + 5 + 1) // 3


@right("4.2", "the width by search, SiLU by hand")
def swiglu_by_search():
    def width(dim):
        wanted = 8 * dim**2 + 5 * dim
        return min(range(1, 5 * dim), key=lambda w: abs(3 * dim * w - wanted))

    return gated(width, lambda gate, up: gate * up / (1 + torch.exp(-gate)))


@right("4.2", "by einsum from the weights")
def swiglu_einsum():
    class Layer(gated(fair, None)):
        def forward(self, x):
            gate, up = (
                torch.einsum("...d,wd->...w", x, part.weight) for part in (self.gate, self.up)
            )
            inside = F.silu(gate) * up
            return torch.einsum("...w,dw->...d", inside, self.down.weight)

    return Layer


@mutant("4.2", "four times as wide", says="comes nearer")
def swiglu_four():
    return gated(lambda dim: 4 * dim, lambda gate, up: F.silu(gate) * up)


@mutant("4.2", "rounded down", says="comes nearer")
def swiglu_down():
    return gated(lambda dim: 8 * dim // 3, lambda gate, up: F.silu(gate) * up)


@mutant("4.2", "with biases", says="bias")
def swiglu_biased():
    return gated(fair, lambda gate, up: F.silu(gate) * up, bias=True)


@mutant("4.2", "the bend on the other branch", says="wrong branch")
def swiglu_swapped():
    return gated(fair, lambda gate, up: gate * F.silu(up))


@mutant("4.2", "the sigmoid alone", says="sigmoid")
def swiglu_sigmoid():
    return gated(fair, lambda gate, up: gate.sigmoid() * up)


@mutant("4.2", "the product bent", says="bend the product")
def swiglu_product():
    return gated(fair, lambda gate, up: F.silu(gate * up))


@mutant("4.2", "branches added", says="multiplies")
def swiglu_added():
    return gated(fair, lambda gate, up: F.silu(gate) + up)


# 4.3 The bill


@right("4.3", "shapes listed and multiplied out")
def bill_by_shapes():
    def bill(vocab_size, embed_dim, num_layers, num_heads, num_kv_heads, hidden):
        wide, narrow = (embed_dim, embed_dim), (embed_dim, embed_dim * num_kv_heads // num_heads)
        block = [wide, narrow, narrow, wide, *[(embed_dim, hidden)] * 3, *[(embed_dim,)] * 2]
        shapes = [(vocab_size, embed_dim)] * 2 + [(embed_dim,)] + num_layers * block
        return sum(math.prod(shape) for shape in shapes)

    return bill


@right("4.3", "built from layers on the meta device and counted")
def bill_by_building():
    def bill(vocab_size, embed_dim, num_layers, num_heads, num_kv_heads, hidden):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                kv_dim = num_kv_heads * (embed_dim // num_heads)
                self.qkv = nn.Linear(embed_dim, embed_dim + 2 * kv_dim, bias=False)
                self.out = nn.Linear(embed_dim, embed_dim, bias=False)
                self.gate_up = nn.Linear(embed_dim, 2 * hidden, bias=False)
                self.down = nn.Linear(hidden, embed_dim, bias=False)
                self.norms = nn.ParameterList(torch.ones(embed_dim) for _ in range(2))

        with torch.device("meta"):
            blocks = nn.ModuleList(Block() for _ in range(num_layers))
            ends = [torch.empty(vocab_size, embed_dim)] * 2 + [torch.empty(embed_dim)]
        return sum(p.numel() for p in [*blocks.parameters(), *ends])

    return bill


def bill_with(tables=2, kv=2, full_kv=False, matrices=3, norm=1, last=1):
    def bill(vocab_size, embed_dim, num_layers, num_heads, num_kv_heads, hidden):
        kv_dim = embed_dim if full_kv else embed_dim // num_heads * num_kv_heads
        block = 2 * embed_dim**2 + kv * embed_dim * kv_dim + matrices * embed_dim * hidden
        block += 2 * norm * embed_dim
        return tables * vocab_size * embed_dim + num_layers * block + last * norm * embed_dim

    return bill


@mutant("4.3", "the head tied", says="matrix of its own")
def bill_tied():
    return bill_with(tables=1)


@mutant("4.3", "keys as wide as queries", says="num_kv_heads")
def bill_full_keys():
    return bill_with(full_kv=True)


@mutant("4.3", "two matrices in the feed-forward layer", says="three matrices")
def bill_two():
    return bill_with(matrices=2)


@mutant("4.3", "norms with a shift", says="shift")
def bill_shift():
    return bill_with(norm=2)


@mutant("4.3", "no last norm", says="norm after the last block")
def bill_no_last():
    return bill_with(last=0)


# 4.4 Before you draw

WORDS = [0.4, 0.3, 0.2, 0.06, 0.04]


def dials(temperature=1.0, top_k=5, top_p=1.0, first="temperature", crossing=True, share=True):
    """Chances of the five words after the dials were turned, in this order or another."""

    def heat(chances):
        powers = [c ** (1 / temperature) for c in chances]
        return [p / sum(powers) for p in powers]

    def cut(chances):
        kept, total = [], 0.0
        for chance in chances[:top_k]:
            if total >= top_p or (not crossing and total + chance > top_p):
                break
            kept.append(chance)
            total += chance
        return kept

    kept = cut(heat(WORDS)) if first == "temperature" else heat(cut(WORDS))
    return [k / sum(kept) for k in kept] if share else kept


def predict(**how):
    return {
        "words at top_k=1": len(dials(top_k=1, **how)),
        "words at top_p=0.65": len(dials(top_p=0.65, **how)),
        "words at top_p=0.01": len(dials(top_p=0.01, **how) or []),
        "ball at top_k=2": dials(top_k=2, **how)[0],
        "ball at temperature 0.5": dials(0.5, **how)[0],
        "ball at temperature 0.001": dials(0.01, **how)[0],
        "words at temperature 0.5 and top_p=0.5": len(dials(0.5, top_p=0.5, **how)),
        "tax at temperature 1000": dials(1000, **how)[-1],
    }


@right("4.4", "worked out by a program")
def predict_by_program():
    return predict()


@right("4.4", "two decimals, the counts as floats")
def predict_by_hand():
    return {
        name: float(round(x, 2)) if "words" not in name else float(x)
        for name, x in predict().items()
    }


@mutant("4.4", "top-p before temperature", says="temperature comes first")
def predict_order():
    return predict(first="top_p")


@mutant("4.4", "the crossing word left out", says="across the line")
def predict_crossing():
    return predict(crossing=False, share=False) | {"ball at top_k=2": 4 / 7}


@mutant("4.4", "what stays not shared out", says="shares out the whole")
def predict_unshared():
    return predict(share=False)


@mutant("4.4", "one left open", says="no number yet")
def predict_open():
    return predict() | {"tax at temperature 1000": None}


# 4.5 Min-p


@right("4.5", "in logarithms, no softmax")
def min_p_logs():
    def keep(logits, min_p):
        line = logits.amax(-1, keepdim=True) + math.log(min_p)
        return torch.where(logits >= line, logits, torch.tensor(-math.inf))

    return keep


@right("4.5", "row by row, from the sorted chances")
def min_p_rows():
    def keep(logits, min_p):
        out = torch.full_like(logits, -math.inf)
        for row, kept in zip(
            logits.view(-1, logits.shape[-1]), out.view(-1, out.shape[-1]), strict=True
        ):
            chances, order = row.softmax(-1).sort(descending=True)
            stay = order[chances >= min_p * chances[0]]
            kept[stay] = row[stay]
        return out

    return keep


@mutant("4.5", "the line is min_p itself", says="not the chance 0.2 itself")
def min_p_absolute():
    return lambda logits, min_p: logits.masked_fill(logits.softmax(-1) < min_p, -torch.inf)


@mutant("4.5", "zeros for what is dropped", says="score like any other")
def min_p_zeros():
    def keep(logits, min_p):
        chances = logits.softmax(-1)
        return logits.masked_fill(chances < min_p * chances.amax(-1, keepdim=True), 0.0)

    return keep


@mutant(
    "4.5", "one best chance for the whole batch", says="its own best chance|The best of each row"
)
def min_p_global():
    def keep(logits, min_p):
        chances = logits.softmax(-1)
        return logits.masked_fill(chances < min_p * chances.max(), -torch.inf)

    return keep


@mutant("4.5", "the ratio of logits", says="first three stay")
def min_p_of_logits():
    return lambda logits, min_p: logits.masked_fill(
        logits < min_p * logits.amax(-1, keepdim=True), -torch.inf
    )


@mutant("4.5", "in place", says="changes the logits it was given")
def min_p_in_place():
    def keep(logits, min_p):
        chances = logits.softmax(-1)
        return logits.masked_fill_(chances < min_p * chances.amax(-1, keepdim=True), -torch.inf)

    return keep


# 4.6 The parrot


@right("4.6", "token by token")
def parrot_loop():
    def penalise(logits, said, penalty):
        scores = logits.tolist()
        for token in set(said):
            scores[token] *= penalty if scores[token] < 0 else 1 / penalty
        return torch.tensor(scores)

    return penalise


@right("4.6", "negative ones lose a fixed amount")
def parrot_amount():
    def penalise(logits, said, penalty):
        out = logits.clone()
        for token in set(said):
            score = logits[token]
            out[token] = score / penalty if score > 0 else score - math.log(penalty)
        return out

    return penalise


@mutant("4.6", "as given", says=r"went from -\d.* times as likely as before")
def parrot_given():
    def penalise(logits, said, penalty):
        marked = torch.zeros_like(logits, dtype=torch.bool)
        marked[list(said)] = True
        return torch.where(marked, logits / penalty, logits)

    return penalise


@mutant("4.6", "once more for each time it was said", says="once is enough")
def parrot_counted():
    def penalise(logits, said, penalty):
        out = logits.clone()
        for token in said:
            out[token] = out[token] / penalty if out[token] > 0 else out[token] * penalty
        return out

    return penalise


@mutant("4.6", "everybody is penalised", says="was never said")
def parrot_everybody():
    return lambda logits, said, penalty: torch.where(logits > 0, logits / penalty, logits * penalty)


@mutant("4.6", "everything multiplied", says="had been said")
def parrot_multiplied():
    def penalise(logits, said, penalty):
        out = logits.clone()
        out[list(said)] *= penalty
        return out

    return penalise


@mutant("4.6", "in place", says="changes the logits it was given")
def parrot_in_place():
    def penalise(logits, said, penalty):
        for token in set(said):
            logits[token] *= penalty if logits[token] < 0 else 1 / penalty
        return logits

    return penalise


# 4.7 Beam search


def search(each=None, score="sum", prune=True, root=1):
    """A beam search with slips to choose from."""

    def beam_search(log_chances, start, steps, beams):
        kept = [(0.0 if score == "sum" else 1.0, list(start))] * (root or beams)
        for _ in range(steps):
            longer = []
            for total, tokens in kept:
                gains = log_chances(tokens).tolist()
                if score == "product":
                    gains = [math.exp(gain) for gain in gains]
                    new = [(total * g, [*tokens, t]) for t, g in enumerate(gains)]
                elif score == "last":
                    new = [(g, [*tokens, t]) for t, g in enumerate(gains)]
                else:
                    new = [(total + g, [*tokens, t]) for t, g in enumerate(gains)]
                longer += sorted(new, reverse=True)[:each]
            kept = sorted(longer, reverse=True)[: beams if prune else None]
        return kept[:beams]

    return beam_search


@right("4.7", "one tensor of totals and topk")
def beam_topk():
    def beam_search(log_chances, start, steps, beams):
        rows, totals = torch.tensor([list(start)]), torch.zeros(1)
        for _ in range(steps):
            gains = torch.stack([log_chances(row) for row in rows.tolist()])
            every = totals[:, None] + gains  # (rows, vocab_size)
            totals, flat = every.flatten().topk(min(beams, every.numel()))
            parents, tokens = flat // every.shape[1], flat % every.shape[1]
            rows = torch.cat([rows[parents], tokens[:, None]], 1)
        return list(zip(totals, rows.tolist(), strict=True))

    return beam_search


@right("4.7", "a dictionary of prefixes")
def beam_dictionary():
    def beam_search(log_chances, start, steps, beams):
        totals = {tuple(start): 0.0}
        for _ in range(steps):
            rows = {prefix: log_chances(list(prefix)) for prefix in totals}
            grown = {
                (*prefix, token): totals[prefix] + float(row[token])
                for prefix, row in rows.items()
                for token in range(len(row))
            }
            best = sorted(grown, key=grown.get, reverse=True)[:beams]
            totals = {prefix: grown[prefix] for prefix in best}
        return [(total, list(prefix)) for prefix, total in totals.items()]

    return beam_search


@mutant("4.7", "one child for each beam", says="of them at the end|passes on one")
def beam_one_child():
    return search(each=1)


@mutant("4.7", "never gives up a beginning", says="given up for good")
def beam_exhaustive():
    return search(prune=False)


@mutant("4.7", "the last gain decides", says="sum of the logarithms")
def beam_last_gain():
    return search(score="last")


@mutant("4.7", "chances multiplied", says="sum of the logarithms")
def beam_product():
    return search(score="product")


@mutant("4.7", "begins with several copies of the start", says="there twice")
def beam_copies():
    return search(root=0)


@mutant("4.7", "greedy, whatever the number", says="of them at the end")
def beam_greedy():
    def beam_search(log_chances, start, steps, beams):
        return search()(log_chances, start, steps, 1)

    return beam_search


@mutant("4.7", "worst first", says="best first")
def beam_reversed():
    return lambda *given: search()(*given)[::-1]


@mutant("4.7", "tokens before totals", says=r"\(total, tokens\)")
def beam_swapped():
    return lambda *given: [(tokens, total) for total, tokens in search()(*given)]


@mutant("4.7", "every text there is", says="given up for good")
def beam_all_texts():
    def beam_search(log_chances, start, steps, beams):
        size, every = len(log_chances(list(start))), []
        for tail in itertools.product(range(size), repeat=steps):
            path = [*start, *tail]
            places = range(len(start), len(path))
            every.append((sum(float(log_chances(path[:i])[path[i]]) for i in places), path))
        return sorted(every, reverse=True)[:beams]

    return beam_search


# 4.8 The cache


def attend(attention, x, cache, i):
    """Attention of new tokens, as given in the notebook's exercise."""
    q, k, v = attention.queries_keys_values(x)
    if cache[i] is not None:
        k, v = (torch.cat(pair, dim=2) for pair in zip(cache[i], (k, v), strict=True))
    cache[i] = (k, v)
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attention.out(mixed.transpose(1, 2).flatten(2))


def reader(start, attend=attend):
    """Reads on, with the first new position from `start(cached keys, or None)`."""

    def read_on(model, token_ids, cache):
        first = start(None if cache[0] is None else cache[0][0])
        positions = torch.arange(first, first + token_ids.shape[1])
        x = model.token_embedding(token_ids) + model.position_embedding(positions)
        for i, block in enumerate(model.blocks):
            x = x + attend(block.attention, block.norm1(x), cache, i)
            x = x + block.feed_forward(block.norm2(x))
        return model.head(model.final_norm(x))

    return read_on


@right("4.8", "counted from the back of the shape")
def cache_from_back():
    return reader(lambda keys: 0 if keys is None else keys.size(-2))


@right("4.8", "no keys kept: the whole text is read again")
def cache_of_texts():
    def read_on(model, token_ids, cache):
        text = token_ids if cache[0] is None else torch.cat([cache[0], token_ids], 1)
        cache[0] = text
        return model(text)[:, -token_ids.shape[1] :]

    return read_on


@mutant("4.8", "as given", says="stand at position 3; in the text they stand at position 5")
def cache_given():
    return reader(lambda keys: 0 if keys is None else keys.shape[1])


@mutant("4.8", "each piece begins at 0", says="stand at position 0")
def cache_from_zero():
    return reader(lambda keys: 0)


@mutant("4.8", "one too late", says="stand at position 6; in the text they stand at position 5")
def cache_one_late():
    return reader(lambda keys: 0 if keys is None else keys.shape[2] + 1)


@mutant("4.8", "the cache is emptied", says="off by up to")
def cache_forgotten():
    def read_on(model, token_ids, cache):
        first = 0 if cache[0] is None else cache[0][0].shape[2]
        old, cache[:] = first, [None] * len(cache)
        return reader(lambda keys: old)(model, token_ids, cache)

    return read_on


@mutant("4.8", "new tokens see one another's future", says="already get other scores")
def cache_no_mask():
    def attend_all(attention, x, cache, i):
        q, k, v = attention.queries_keys_values(x)
        if cache[i] is not None:
            k, v = (torch.cat(pair, dim=2) for pair in zip(cache[i], (k, v), strict=True))
        cache[i] = (k, v)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return attention.out(mixed.transpose(1, 2).flatten(2))

    return reader(lambda keys: 0 if keys is None else keys.shape[2], attend_all)


# 4.9 Which difference is real?

T = (None, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def comparing(reach, turned=False, verdict=None):
    """A comparison whose interval has this reach: `reach(differences, ours, theirs)`."""

    def compare(ours, theirs):
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        middle = statistics.mean(differences) * (-1 if turned else 1)
        half = reach(differences, ours, theirs)
        low, high = middle - half, middle + half
        said = "lower" if high < 0 else "higher" if low > 0 else "undecided"
        return low, high, verdict(said, middle) if verdict else said

    return compare


def half_width(d, *_):
    return T[len(d) - 1] * statistics.stdev(d) / len(d) ** 0.5


@right("4.9", "without torch, more digits of t")
def compare_plain():
    more = {3: 3.18245, 4: 2.77645, 5: 2.57058, 7: 2.36462}
    return comparing(lambda d, *_: more[len(d) - 1] * statistics.stdev(d) / len(d) ** 0.5)


@right("4.9", "from sums and sums of squares")
def compare_sums():
    def reach(d, *_):
        n, total, squares = len(d), sum(d), sum(x * x for x in d)
        return T[n - 1] * ((squares - total**2 / n) / (n * (n - 1))) ** 0.5

    return comparing(reach)


@mutant("4.9", "1.96 for everything", says="1.96")
def compare_normal():
    return comparing(lambda d, *_: 1.96 * statistics.stdev(d) / len(d) ** 0.5)


@mutant("4.9", "two groups in place of pairs", says="pair")
def compare_unpaired():
    def reach(d, ours, theirs):
        n = len(d)
        both = statistics.variance(ours) / n + statistics.variance(theirs) / n
        return T[n - 1] * both**0.5

    return comparing(reach)


@mutant("4.9", "n where n - 1 belongs", says="divide by n − 1")
def compare_population():
    return comparing(lambda d, *_: T[len(d) - 1] * statistics.pstdev(d) / len(d) ** 0.5)


@mutant("4.9", "T95 under the number of pairs", says="one less")
def compare_t_of_n():
    return comparing(lambda d, *_: T[len(d)] * statistics.stdev(d) / len(d) ** 0.5)


@mutant("4.9", "the spread of single differences", says="√n")
def compare_no_root():
    return comparing(lambda d, *_: T[len(d) - 1] * statistics.stdev(d))


@mutant("4.9", "theirs minus ours", says="sign turned")
def compare_turned():
    return comparing(half_width, turned=True)


@mutant("4.9", "always a winner", says="holds 0")
def compare_sure():
    return comparing(half_width, verdict=lambda said, middle: "lower" if middle < 0 else "higher")
