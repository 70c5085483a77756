"""Wrong and other right answers to chapter 3's exercises."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests.mutants.cases import mutant, right


@right("3.1", "PyTorch's own function, weights from an identity as values")
def cross_by_torch():
    def attend(queries, keys, values):
        eye = torch.eye(keys.shape[1]).expand(len(keys), -1, -1)
        weights = F.scaled_dot_product_attention(queries, keys, eye)
        return F.scaled_dot_product_attention(queries, keys, values), weights

    return attend


@mutant("3.1", "softmax over the askers", says="wrong axis")
def cross_wrong_axis():
    def attend(queries, keys, values):
        weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(1)
        return weights @ values, weights

    return attend


@mutant("3.1", "no division by √d", says="missing")
def cross_unscaled():
    def attend(queries, keys, values):
        weights = (queries @ keys.mT).softmax(-1)
        return weights @ values, weights

    return attend


@right("3.2", "weights filled row by row")
def causal_by_rows():
    def weigh(scores):
        weights = torch.zeros_like(scores)
        for i in range(scores.shape[-1]):
            weights[..., i, : i + 1] = scores[..., i, : i + 1].softmax(-1)
        return weights

    return weigh


@mutant("3.2", "the mask begins one too late", says="position 0 sees position 1")
def causal_off_by_one():
    def weigh(scores):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(2)
        return scores.masked_fill(mask, -torch.inf).softmax(-1)

    return weigh


@mutant("3.2", "zeros after the softmax", says="adds up to")
def causal_after():
    def weigh(scores):
        return scores.softmax(-1).tril()

    return weigh
