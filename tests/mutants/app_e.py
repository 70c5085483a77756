"""Wrong and other right answers to appendix E's exercises."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from shared.previous_chapters import parameter_ledger
from tests.mutants.cases import mutant, right


def dora_answer(matrix_of):
    """DoRA with another way to the matrix."""
    return lambda x, weight, A, B, scale, lengths: (
        x @ matrix_of(weight, scale * (B @ A), lengths).mT
    )


@right("E.1", "output by output, without a product of matrices")
def dora_by_rows():
    def output(x, weight, A, B, scale, lengths):
        outs = []
        for row, b, length in zip(weight, B, lengths, strict=True):
            turned = row + scale * (b[:, None] * A).sum(0)
            outs.append((x * turned).sum(-1) * length / turned.square().sum().sqrt())
        return torch.stack(outs, dim=-1)

    return output


@right("E.1", "base and change apart, the lengths at the end")
def dora_thin():
    def output(x, weight, A, B, scale, lengths):
        size = (weight + scale * B @ A).square().sum(1) ** 0.5
        return (F.linear(x, weight) + scale * F.linear(F.linear(x, A), B)) * (lengths / size)

    return output


@mutant("E.1", "lengths of the columns", says="lengths of the columns|of shape|nothing should")
def dora_columns():
    return dora_answer(lambda w, d, m: m[:, None] * F.normalize(w + d, dim=0))


@mutant("E.1", "divided by the old rows' lengths", says="length of the old rows")
def dora_old_lengths():
    return dora_answer(lambda w, d, m: m[:, None] * (w + d) / w.norm(dim=1, keepdim=True))


@mutant("E.1", "multiplied by the lengths, not brought to one", says="length 1 first|nothing")
def dora_not_normed():
    return dora_answer(lambda w, d, m: m[:, None] * (w + d))


@mutant("E.1", "LoRA", says="this is LoRA")
def dora_is_lora():
    return dora_answer(lambda w, d, m: w + d)


@mutant("E.1", "scale forgotten", says="scale")
def dora_unscaled():
    return lambda x, w, A, B, scale, m: x @ (m[:, None] * F.normalize(w + B @ A, dim=1)).mT


@mutant("E.1", "the direction stays", says="not changed by B A")
def dora_stiff():
    return dora_answer(lambda w, d, m: m[:, None] * F.normalize(w, dim=1))


@mutant("E.1", "one length for the whole matrix", says="output|nothing should")
def dora_one_length():
    return dora_answer(lambda w, d, m: m[:, None] * (w + d) / (w + d).norm())


@mutant("E.1", "writes into the weight", says="written into `weight`|nothing should")
def dora_in_place():
    def output(x, weight, A, B, scale, lengths):
        weight += scale * B @ A
        return x @ (lengths[:, None] * F.normalize(weight, dim=1)).mT

    return output


def bill_answer(adapter_bytes=16, base_bytes=lambda bits: bits / 8, layers=True, sides=None):
    sides = sides or (lambda out, features: out + features)

    def bytes_of(config, rank, targets, bits):
        dim, shapes = config.embed_dim, {}
        shapes |= dict.fromkeys(("q", "k", "v", "out"), (dim, dim))
        shapes |= {"up": (4 * dim, dim), "down": (dim, 4 * dim)}
        adapter = rank * sum(sides(*shapes[target]) for target in targets)
        adapter *= config.num_layers if layers else 1
        base = sum(parameter_ledger(config).values())
        return int(base * base_bytes(bits) + adapter * adapter_bytes)

    return bytes_of


@right("E.2", "counted on layers that are really built")
def bill_built():
    from torch import nn

    from shared.previous_chapters import GPTModel

    def bytes_of(config, rank, targets, bits):
        model, numbers = GPTModel(config, seed=0), 0
        for block in model.blocks:
            width = block.attention.out.in_features
            for target in targets:
                old = nn.Linear(width, width, device="meta")
                if target in ("up", "down"):
                    old = getattr(block.feed_forward, target)
                numbers += rank * old.in_features + old.out_features * rank
        return model.num_parameters() * bits / 8 + numbers * 4 * 4

    return bytes_of


@mutant("E.2", "gradients and averages for the base", says="needs none")
def bill_full_base():
    return bill_answer(base_bytes=lambda bits: bits / 8 + 12)


@mutant("E.2", "the adapter without its gradients and averages", says="16 bytes")
def bill_weights_only():
    return bill_answer(adapter_bytes=4)


@mutant("E.2", "B alone", says="two matrices")
def bill_one_matrix():
    return bill_answer(sides=lambda out, features: out)


@mutant("E.2", "one block", says="one block alone")
def bill_one_block():
    return bill_answer(layers=False)


@mutant("E.2", "bits taken for bytes", says="in bits")
def bill_bits():
    return bill_answer(base_bytes=lambda bits: bits)


@mutant("E.2", "up and down as square as the others", says="expected")
def bill_square():
    return bill_answer(sides=lambda out, features: 2 * min(out, features))


@mutant("E.2", "returns a text", says="return a number")
def bill_text():
    return lambda *given: f"{bill_answer()(*given)} bytes"


def merge_answer(scale_of, begin=torch.clone):
    def merge(weight, adapters):
        merged = begin(weight)
        for a in adapters:
            merged += scale_of(a["alpha"], a["rank"]) * (a["B"] @ a["A"])
        return merged

    return merge


@right("E.3", "all changes as one wide product")
def merge_at_once():
    def merge(weight, adapters):
        if not adapters:
            return weight.clone()
        A = torch.cat([a["A"] * (a["alpha"] / a["rank"]) for a in adapters])
        return torch.addmm(weight, torch.cat([a["B"] for a in adapters], 1), A)

    return merge


@right("E.3", "never in place")
def merge_sums():
    return lambda weight, adapters: sum(
        (a["alpha"] * torch.einsum("or,rf->of", a["B"], a["A"]) / a["rank"] for a in adapters),
        weight,
    )


@mutant("E.3", "as given", says="3 times as large as apart")
def merge_given():
    return merge_answer(lambda alpha, rank: (alpha / rank) ** 2, begin=lambda w: w)


@mutant("E.3", "scaled twice, on a copy", says="times as large as apart, and the model")
def merge_twice():
    return merge_answer(lambda alpha, rank: (alpha / rank) ** 2)


@mutant("E.3", "the scale is mended, the base still written to", says="other adapters stand on it")
def merge_in_place():
    return merge_answer(lambda alpha, rank: alpha / rank, begin=lambda w: w)


@mutant("E.3", "no scale at all", says="no effect")
def merge_unscaled():
    return merge_answer(lambda alpha, rank: 1.0)


@mutant("E.3", "alpha without the rank", says="merged weight")
def merge_alpha_only():
    return merge_answer(lambda alpha, rank: alpha)


@mutant("E.3", "only the last adapter", says="merged weight")
def merge_last():
    def merge(weight, adapters):
        merged = weight.clone()
        for a in adapters:
            merged = weight + a["alpha"] / a["rank"] * (a["B"] @ a["A"])
        return merged

    return merge


@mutant("E.3", "scales the adapter's own B", says="A or B has changed")
def merge_writes_b():
    def merge(weight, adapters):
        merged = weight.clone()
        for a in adapters:
            a["B"] *= a["alpha"] / a["rank"]
            merged += a["B"] @ a["A"]
        return merged

    return merge


@right("E.4", "adding until it is enough")
def rank_loop():
    def rank_for(values, share, shape):
        squares = [float(v) ** 2 for v in values]
        rank = 0
        while sum(squares[:rank]) < share * sum(squares) - 1e-9:
            rank += 1
        thin, thick = rank * sum(shape), shape[0] * shape[1]
        return None if thin >= thick else rank

    return rank_for


def rank_answer(power=2, more=1, limit=True):
    def rank_for(values, share, shape):
        parts = values.double() ** power
        held = parts.cumsum(0) / parts.sum()
        rank = int((held < share - 1e-9).sum()) + more
        saves = rank * (shape[0] + shape[1]) < shape[0] * shape[1]
        return rank if saves or not limit else None

    return rank_for


@mutant("E.4", "values, not squares", says="squares")
def rank_plain():
    return rank_answer(power=1)


@mutant("E.4", "one too few", says="one more is needed")
def rank_short():
    return rank_answer(more=0)


@mutant("E.4", "one too many", says="the smallest that holds|saves nothing|squares")
def rank_long():
    return rank_answer(more=2)


@mutant("E.4", "never None", says="Return None where")
def rank_always():
    return rank_answer(limit=False)


@mutant("E.4", "compares with the shorter side", says="saves nothing|Return None")
def rank_side():
    def rank_for(values, share, shape):
        rank = rank_answer(limit=False)(values, share, shape)
        return rank if rank < min(shape) else None

    return rank_for
