"""Set for few steps: a third of the batch, quicker gates, a memory that doubts itself less.

With 16,384 tokens there are some 200 steps. What decides whom to trust has to learn within them.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from shared.previous_chapters import IGNORED, Recipe, build_optimizers, learning_rate_at

TOKENS = 16_384
RECIPE = Recipe(matrix_rate=0.02, table_rate=0.015, vector_rate=0.01, momentum=0.8)
DIM, HEADS, LAYERS = 128, 4, 2
ORDER, LATEST = 3, 16  # the memory: longest context, appearances that it looks at


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


class Memory(nn.Module):
    """A third answer: what came next, wherever the last one, two or three tokens stood before.

    Counts of the text read so far; a longer context corrects a shorter one's answer. Only the
    last few appearances of a context are looked at.
    """

    def __init__(self, vocab_size, end):
        super().__init__()
        self.vocab_size, self.end = vocab_size, end
        self.register_buffer("counts", torch.full((vocab_size,), 0.1))  # of single tokens
        for size in range(1, ORDER + 1):
            self.register_buffer(f"contexts{size}", torch.zeros(0, dtype=torch.long))  # sorted
            self.register_buffer(f"followers{size}", torch.zeros(0, dtype=torch.long))
        self.doubt = nn.Parameter(torch.full((ORDER,), math.log(0.2)))  # log of a prior count

    def contexts(self, ids):
        """One number for the last token, the last two, the last three: no two share one."""
        number = torch.zeros_like(ids)
        for size in range(ORDER):
            number = (
                number
                + self.vocab_size**size * F.pad(ids, (size, 0), value=self.end)[:, : ids.size(1)]
            )
            yield number

    def remember(self, inputs, targets):
        asked = targets != IGNORED
        new = targets[asked]
        self.counts.index_add_(0, new, torch.ones(len(new)))
        for size, number in enumerate(self.contexts(inputs), 1):
            known, after = f"contexts{size}", f"followers{size}"
            numbers, order = torch.cat([getattr(self, known), number[asked]]).sort(stable=True)
            setattr(self, after, torch.cat([getattr(self, after), new])[order])
            setattr(self, known, numbers)

    def forward(self, ids):
        answer = (self.counts / self.counts.sum()).expand(*ids.shape, -1)
        sure = []
        for size, number in enumerate(self.contexts(ids), 1):
            known, after = getattr(self, f"contexts{size}"), getattr(self, f"followers{size}")
            if not len(known):
                return answer, torch.zeros(*ids.shape, ORDER)
            first, end = (torch.searchsorted(known, number, right=r) for r in (False, True))
            at = end[..., None] - 1 - torch.arange(LATEST)  # (batch, tokens, LATEST)
            found = (at >= first[..., None]).float()
            count, doubt = found.sum(-1, keepdim=True), self.doubt[size - 1].exp()
            answer = (answer * (doubt / (count + doubt))).scatter_add(
                -1, after[at.clamp(min=0)], found / (count + doubt)
            )
            sure.append(count / (count + 2))
        return answer, torch.cat(sure, -1)  # (batch, tokens, vocab_size), (…, ORDER)


class Model(nn.Module):
    def __init__(self, vocab_size, end):
        super().__init__()
        self.memory = Memory(vocab_size, end)
        self.embedding = nn.Embedding(vocab_size, DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.blocks.append(Copying())  # so that Muon trains its matrices, too
        self.gate = nn.Linear(DIM + ORDER, 3)  # how much to trust: invented, copied, remembered
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.5 * p.size(1) ** -0.5)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.zeros_(self.gate.weight)
        self.gate.bias.data = torch.tensor([0.0, -2.0, 0.0])
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
        remembered, sure = self.memory(ids)
        trust = self.gate(torch.cat([x, sure], -1)).softmax(-1)[..., None, :].unbind(-1)
        answers = (invented, copied, remembered)
        return torch.log(sum(t * a for t, a in zip(trust, answers, strict=True)) + 1e-9)


def train(text, seed):
    torch.manual_seed(seed)
    model = Model(text.vocab_size, text.end)
    optimizers = build_optimizers(model, RECIPE)
    while text.left:
        inputs, targets = text.stories(96)
        factor = learning_rate_at(text.progress, warmup=0.02, decay=0.4)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), RECIPE.max_norm)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group["peak"]
            optimizer.step()
            optimizer.zero_grad()
        model.memory.remember(inputs, targets)
        yield model
