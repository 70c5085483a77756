"""A second answer beside the softmax: copy a token of this text, found by one small attention.

Names and things come back. To repeat a word, a GPT has to learn it at both ends; to point at it,
nothing about the word itself.

Source: See, Liu and Manning (2017); Merity et al. (2017), pointers beside a softmax.
"""

import torch
from torch import nn
from torch.nn import functional as F

from shared.previous_chapters import IGNORED, Recipe, build_optimizers, learning_rate_at

TOKENS = 30_720
RECIPE = Recipe(matrix_rate=0.02, table_rate=0.015, vector_rate=0.003, momentum=0.8)
DIM, HEADS, LAYERS = 128, 4, 2


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def rotate(x):
    """Turn each pair of numbers by an angle that grows with the place: (..., tokens, head_dim)."""
    tokens, dim = x.shape[-2:]
    speeds = 1000.0 ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.arange(tokens)[:, None] * speeds  # (tokens, head_dim / 2)
    one, other = x.chunk(2, dim=-1)
    return torch.cat(
        [one * angles.cos() - other * angles.sin(), one * angles.sin() + other * angles.cos()], -1
    )


def before(x):
    """What stands one place earlier: (batch, tokens, dim), zeros at the first place."""
    return F.pad(x, (0, 0, 1, -1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.out = nn.Linear(DIM, DIM, bias=False)
        self.smear = nn.Parameter(torch.full((DIM,), 0.5))  # how much of the neighbour

    def forward(self, x):
        x = x + self.smear * before(x)
        cut = self.qkv(x).unflatten(-1, (3, HEADS, DIM // HEADS))
        q, k, v = cut.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, tokens, head_dim)
        mixed = F.scaled_dot_product_attention(rotate(norm(q)), rotate(norm(k)), v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.up = nn.Linear(DIM, 4 * DIM, bias=False)
        self.down = nn.Linear(4 * DIM, DIM, bias=False)
        self.shares = nn.Parameter(torch.tensor([1.0, 0.0]))  # of the stream, of its start

    def forward(self, x, start):
        x = self.shares[0] * x + self.shares[1] * start
        x = x + self.attention(norm(x))
        return x + self.down(F.relu(self.up(norm(x))).square())


class Copying(nn.Module):
    """A second answer: a token that stands earlier in the text, chosen by attention."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(DIM, 32, bias=False)
        self.key_before = nn.Linear(DIM, 32, bias=False)  # of what led to a token
        self.key_itself = nn.Linear(DIM, 32, bias=False)  # of the token

    def forward(self, h, start, ids, vocab_size):
        q = norm(self.query(h))
        k = norm(self.key_before(before(h)) + self.key_itself(start))
        scores = 3.0 * q @ k.transpose(1, 2)  # (batch, tokens, tokens)
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -1e9).softmax(-1)
        answer = weights.new_zeros(*ids.shape, vocab_size)
        return answer.scatter_add(2, ids[:, None].expand_as(weights), weights)


class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.blocks.append(Copying())  # so that Muon trains its matrices, too
        self.gate = nn.Linear(DIM, 2)  # how much to trust: invented, copied
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.5 * p.size(1) ** -0.5)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.zeros_(self.gate.weight)
        self.gate.bias.data = torch.tensor([0.0, -2.0])
        for block in self.blocks[:LAYERS]:
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.down.weight)

    def forward(self, ids):
        start = x = norm(self.embedding(ids))
        for block in self.blocks[:LAYERS]:
            x = block(x, start)
        x = norm(x)
        invented = (self.scale * F.linear(x, self.embedding.weight) + self.bias).softmax(-1)
        copied = self.blocks[LAYERS](x, start, ids, len(self.bias))
        trust = self.gate(x).softmax(-1)  # (batch, tokens, 2)
        return torch.log(trust[..., :1] * invented + trust[..., 1:] * copied + 1e-9)


def train(text, seed):
    torch.manual_seed(seed)
    model = Model(text.vocab_size)
    optimizers = build_optimizers(model, RECIPE)
    while text.left:
        inputs, targets = text.stories(256)
        factor = learning_rate_at(text.progress, warmup=0.02, decay=0.6)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), RECIPE.max_norm)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group["peak"]
            optimizer.step()
            optimizer.zero_grad()
        yield model
