"""Wrong and other right answers to appendix F's exercises."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from shared.previous_chapters import kv_cache_bytes
from tests.mutants.cases import mutant, right


def ring_answer(place=lambda t, n: t % n, filled=min, scale=True, late=False):
    """A ring with its parts exchanged."""

    def step(store, count, query, key, value):
        size = store.shape[1]
        at = place(count, size)
        if not late:
            store[0, at], store[1, at] = key, value
        seen = filled(count + (not late), size)
        scores = store[0, :seen] @ query / (math.sqrt(len(query)) if scale else 1)
        out = scores.softmax(0) @ store[1, :seen]
        if late:
            store[0, at], store[1, at] = key, value
        return out

    return step


@right("F.1", "a shifted store, and a mask")
def ring_shifted():
    def step(store, count, query, key, value):
        store.copy_(torch.cat([store[:, 1:], torch.stack([key, value])[:, None]], 1))
        empty = torch.arange(store.shape[1]) < store.shape[1] - count - 1
        scores = (store[0] * query).sum(-1) * len(query) ** -0.5
        return scores.masked_fill(empty, -torch.inf).softmax(0) @ store[1]

    return step


@right("F.1", "PyTorch's own attention")
def ring_by_torch():
    def step(store, count, query, key, value):
        store[:, count % store.shape[1]] = torch.stack([key, value])
        k, v = store[:, : count + 1]
        return F.scaled_dot_product_attention(query[None], k, v)[0]

    return step


@mutant("F.1", "empty places take part", says="empty places")
def ring_empty():
    return ring_answer(filled=lambda count, size: size)


@mutant("F.1", "attends before it writes", says="does not see token 0.*first, then attend")
def ring_late():
    return ring_answer(late=True)


@mutant(
    "F.1",
    "stays at the last place when full",
    says="token 3 still sees token 0",
)
def ring_stuck():
    return ring_answer(place=lambda t, n: min(t, n - 1))


@mutant("F.1", "no division", says="not divided")
def ring_unscaled():
    return ring_answer(scale=False)


@mutant("F.1", "counts past the end", says="IndexError")
def ring_past():
    return ring_answer(place=lambda t, n: t)


@right("F.2", "counting up one reader at a time")
def readers_one_by_one():
    def fit(memory, weights, config, num_kv_heads, tokens, bytes_per_number):
        width = config.embed_dim // config.num_heads
        each, count = 2 * config.num_layers * num_kv_heads * width * tokens, 0
        while weights + (count + 1) * each * bytes_per_number <= memory:
            count += 1
        return count

    return fit


def readers_answer(times=1.0, whole=math.floor, least=0):
    def fit(memory, weights, config, num_kv_heads, tokens, bytes_per_number):
        each = kv_cache_bytes(config, 1, tokens, bytes_per_number)
        each *= times * num_kv_heads / config.num_heads
        return max(whole((memory - weights) / each), least)

    return fit


@mutant("F.2", "keys without values", says="by hand|twice")
def readers_keys_only():
    return readers_answer(times=0.5)


@mutant("F.2", "all heads stored", says="by hand|quarter")
def readers_all_heads():
    def fit(memory, weights, config, num_kv_heads, tokens, bytes_per_number):
        return max((memory - weights) // kv_cache_bytes(config, 1, tokens, bytes_per_number), 0)

    return fit


@mutant("F.2", "rounded to the nearest", says="round down")
def readers_rounded():
    return readers_answer(whole=round)


@mutant("F.2", "not rounded", says="half a reader")
def readers_broken():
    return readers_answer(whole=float)


@mutant("F.2", "fewer than none", says="weights alone do not fit")
def readers_negative():
    return readers_answer(least=-math.inf)


def chunk_answer(mask_of):
    def attend(q, k, v, memory):
        if memory:
            k, v = torch.cat([memory["k"], k], 1), torch.cat([memory["v"], v], 1)
        memory.update(k=k, v=v)
        mask = mask_of(q.shape[1], k.shape[1])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attend


@right("F.3", "scores by hand, later ones hidden by their numbers")
def chunk_by_numbers():
    def attend(q, k, v, memory):
        if memory:
            k, v = torch.cat([memory["k"], k], 1), torch.cat([memory["v"], v], 1)
        memory.update(k=k, v=v)
        mine = torch.arange(k.shape[1] - q.shape[1], k.shape[1])
        later = torch.arange(k.shape[1])[None] > mine[:, None]
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return scores.masked_fill(later, -torch.inf).softmax(-1) @ v

    return attend


@right("F.3", "one token after the other")
def chunk_one_by_one():
    def attend(q, k, v, memory):
        outs = []
        for t in range(q.shape[1]):
            new = {"k": k[:, t : t + 1], "v": v[:, t : t + 1]}
            memory.update(
                {n: torch.cat([memory[n], x], 1) if n in memory else x for n, x in new.items()}
            )
            outs.append(F.scaled_dot_product_attention(q[:, t : t + 1], memory["k"], memory["v"]))
        return torch.cat(outs, 1)

    return attend


@mutant("F.3", "as given: the triangle begins in the upper left", says="does not see token 1")
def chunk_upper_left():
    return chunk_answer(lambda new, seen: torch.ones(new, seen, dtype=torch.bool).tril())


@mutant("F.3", "no mask after the prompt", says="which comes later")
def chunk_no_mask():
    def mask(new, seen):
        square = torch.ones(new, seen, dtype=torch.bool)
        return square.tril() if new == seen else square

    return chunk_answer(mask)


@mutant("F.3", "one too far to the right", says="sees token 1, which comes later")
def chunk_too_far():
    return chunk_answer(
        lambda new, seen: torch.ones(new, seen, dtype=torch.bool).tril(seen - new + 1)
    )


@mutant("F.3", "one too few", says="does not see token 0|nan")
def chunk_too_few():
    return chunk_answer(
        lambda new, seen: torch.ones(new, seen, dtype=torch.bool).tril(seen - new - 1)
    )


@right("F.4", "stops where the next guess no longer pays")
def guesses_climbing():
    def best(kept, draft_cost, limit):
        tokens, k = 1.0, 0
        while k < limit and kept ** (k + 1) * (1 + k * draft_cost) > draft_cost * tokens + 1e-12:
            k += 1
            tokens += kept**k
        return k

    return best


def guesses_answer(tokens, cost=lambda k, c: 1 + k * c):
    def best(kept, draft_cost, limit):
        return max(range(limit + 1), key=lambda k: tokens(kept, k) / cost(k, draft_cost))

    return best


@mutant("F.4", "without the certain token", says="tokens per cost")
def guesses_without_own():
    return guesses_answer(lambda a, k: sum(a**i for i in range(1, k + 1)))


@mutant("F.4", "most tokens, whatever they cost", says="tokens per cost")
def guesses_free():
    return guesses_answer(lambda a, k: sum(a**i for i in range(k + 1)), cost=lambda k, c: 1)


@mutant("F.4", "the formula without its limit", says="ZeroDivisionError")
def guesses_formula():
    return guesses_answer(lambda a, k: (1 - a ** (k + 1)) / (1 - a))


@mutant("F.4", "the tokens, not the guesses", says="tokens per cost|limit")
def guesses_tokens():
    exact = guesses_answer(lambda a, k: sum(a**i for i in range(k + 1)))
    return lambda kept, cost, limit: exact(kept, cost, limit) + 1
