"""Wrong and other right answers to appendix I's exercises."""

from __future__ import annotations

import torch

from shared.appendices import Rope, modern_cache_bytes, turn_angles, turn_pairs
from tests.mutants.cases import mutant, right


@right("I.1", "complex numbers")
def neighbours_complex():
    def turn(x, speeds):
        angles = torch.arange(len(x))[:, None] * speeds
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        spun = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.view_as_real(spun).flatten(1)

    return turn


@right("I.1", "sorted into halves and back")
def neighbours_sorted():
    def turn(x, speeds):
        angles = torch.arange(len(x))[:, None] * speeds
        halves = torch.cat([x[:, 0::2], x[:, 1::2]], dim=1)
        turned = turn_pairs(halves, angles.cos(), angles.sin())
        return torch.stack(turned.chunk(2, dim=1), dim=-1).flatten(1)

    return turn


def neighbours_answer(wide, cross, sign=1.0):
    def turn(x, speeds):
        angles = sign * torch.arange(x.shape[0])[:, None] * speeds
        return x * wide(angles.cos()) + cross(x) * wide(angles.sin())

    return turn


def crossed(x):
    return torch.stack([-x[:, 1::2], x[:, 0::2]], dim=-1).flatten(1)


def in_halves(x):
    first, second = x.chunk(2, dim=1)
    return torch.cat([-second, first], dim=1)


def doubled(wave):
    return wave.repeat_interleave(2, dim=1)


@mutant("I.1", "as it was found", says="changes no length|by hand")
def neighbours_given():
    return neighbours_answer(lambda wave: wave.repeat(1, 2), crossed)


@mutant("I.1", "halves everywhere", says="you pair halves")
def neighbours_halves():
    return neighbours_answer(lambda wave: wave.repeat(1, 2), in_halves)


@mutant("I.1", "the table mended, the crossing by halves", says="by hand|no length")
def neighbours_mixed():
    return neighbours_answer(doubled, in_halves)


@mutant("I.1", "turned backwards", says="wrong way round")
def neighbours_backwards():
    return neighbours_answer(doubled, crossed, sign=-1.0)


@right("I.2", "written out, in place on a copy")
def part_written():
    def turn(x, positions, turned, base):
        out, half = x.clone(), turned // 2
        for i in range(half):
            angle = positions * base ** (-2 * i / turned)
            a, b = x[..., i], x[..., half + i]
            out[..., i] = a * angle.cos() - b * angle.sin()
            out[..., half + i] = b * angle.cos() + a * angle.sin()
        return out

    return turn


@mutant("I.2", "the whole head's speeds", says="speeds of a head of")
def part_speeds():
    def turn(x, positions, turned, base):
        cos, sin = turn_angles(positions, x.shape[-1], Rope(base), x)
        cos, sin = cos[:, : turned // 2], sin[:, : turned // 2]
        return torch.cat([turn_pairs(x[..., :turned], cos, sin), x[..., turned:]], dim=-1)

    return turn


@mutant("I.2", "the whole head turned", says="by hand")
def part_whole():
    def turn(x, positions, turned, base):
        return turn_pairs(x, *turn_angles(positions, x.shape[-1], Rope(base), x))

    return turn


@mutant("I.2", "the last numbers turned", says="by hand")
def part_last():
    def turn(x, positions, turned, base):
        cos, sin = turn_angles(positions, turned, Rope(base), x)
        keep = x.shape[-1] - turned
        return torch.cat([x[..., :keep], turn_pairs(x[..., keep:], cos, sin)], dim=-1)

    return turn


@mutant("I.2", "counts positions anew", says="by hand|positions from")
def part_from_zero():
    def turn(x, positions, turned, base):
        cos, sin = turn_angles(torch.arange(x.shape[2]), turned, Rope(base), x)
        return torch.cat([turn_pairs(x[..., :turned], cos, sin), x[..., turned:]], dim=-1)

    return turn


@right("I.3", "a formula for both sides of the bend")
def longest_formula():
    def longest(memory, config, bytes_per_number):
        each = 2 * config.num_kv_heads * config.head_dim * bytes_per_number
        layers = config.num_layers
        free = layers if config.window is None else len(config.global_layers)
        tokens = memory // (each * layers)
        if config.window is not None and tokens >= config.window:
            left = memory - each * (layers - free) * config.window
            tokens = left // (each * free) if free else config.context_length
        return min(tokens, config.context_length)

    return longest


@mutant("I.3", "every layer global", says="by hand|still fits")
def longest_no_window():
    def longest(memory, config, bytes_per_number):
        return min(memory // modern_cache_bytes(config, 1, bytes_per_number), config.context_length)

    return longest


@mutant("I.3", "no end of the context", says="context_length")
def longest_unbounded():
    def longest(memory, config, bytes_per_number):
        low, high = 0, 10**7
        while low < high:
            middle = (low + high + 1) // 2
            fits = modern_cache_bytes(config, middle, bytes_per_number) <= memory
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    return longest


@mutant("I.3", "the first that does not fit", says="do not fit|by hand")
def longest_one_more():
    def longest(memory, config, bytes_per_number):
        tokens = 0
        while (
            tokens < config.context_length
            and modern_cache_bytes(config, tokens, bytes_per_number) <= memory
        ):
            tokens += 1
        return tokens

    return longest


@right("I.4", "sorted turns, a place among those who want it")
def room_counted():
    def route(chances, count, capacity):
        chosen = chances.topk(count, dim=-1).indices.T.flatten()  # first choices, then second
        wants = torch.nn.functional.one_hot(chosen, chances.shape[1])
        served = wants * (wants.cumsum(0) <= capacity)  # how many wanted the expert so far
        return chances * served.unflatten(0, (count, -1)).sum(0)

    return route


def room_answer(order="choices", renormalise=False, endless=False):
    def route(chances, count, capacity):
        chosen = chances.topk(count, dim=-1).indices.tolist()
        tokens = range(len(chances))
        if order == "choices":
            turns = [(t, c) for c in range(count) for t in tokens]
        else:
            turns = [(t, c) for t in tokens for c in range(count)]
        if order == "backwards":
            turns = turns[::-1]
        table, taken = torch.zeros_like(chances), [0] * chances.shape[1]
        for t, c in turns:
            expert = chosen[t][c]
            if endless or taken[expert] < capacity:
                taken[expert] += 1
                table[t, expert] = chances[t, expert]
        return table / table.sum(-1, keepdim=True).clamp(min=1e-9) if renormalise else table

    return route


@mutant("I.4", "each token settles all its choices", says="second choices were settled")
def room_tokens():
    return room_answer(order="tokens")


@mutant("I.4", "no capacity", says="has room for")
def room_endless():
    return room_answer(endless=True)


@mutant("I.4", "renormalised", says="chances differ")
def room_renormalised():
    return room_answer(renormalise=True)


@mutant("I.4", "the last come first", says="served by expert")
def room_backwards():
    return room_answer(order="backwards")


@mutant("I.4", "the best tokens of each expert", says="served by expert")
def room_by_expert():
    def route(chances, count, capacity):
        wanted = torch.zeros_like(chances).scatter(1, chances.topk(count, -1).indices, 1.0)
        best = (chances * wanted).topk(min(capacity, len(chances)), dim=0).indices
        return chances * wanted * torch.zeros_like(chances).scatter(0, best, 1.0)

    return route
