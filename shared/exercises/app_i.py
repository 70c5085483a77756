"""Checks of appendix I's exercises: modern architectures."""

from __future__ import annotations

import math

import torch

from shared.appendices import ModernConfig, modern_cache_bytes
from shared.exercises.checking import exercise, expect, expect_same, expect_tensor


@exercise("I.1", "A bug hunt: pairs of neighbours")
def neighbours(dice, answer):
    """`answer(x, speeds) -> turned`, pairs (0, 1), (2, 3), …"""
    _by_hand(answer)
    for tokens, width in ((5, 6), (9, 2), (3, 12)):
        speeds = torch.rand(width // 2, generator=dice) + 0.1
        x = torch.randn(tokens, width, generator=dice)
        given = answer(x.clone(), speeds.clone())
        expect_tensor(given, (tokens, width), "what you return")
        expect_same(given[0], x[0], "the token at position 0, which is not turned", 1e-4)
        for t in range(tokens):
            for pair in range(width // 2):
                one, other = 2 * pair, 2 * pair + 1
                before, after = x[t, one : other + 1].norm(), given[t, one : other + 1].norm()
                expect(
                    abs(float(before - after)) < 1e-3,
                    f"{width} numbers, position {t}: numbers {one} and {other} together had the "
                    f"length {before:.3f} and now have {after:.3f}. Turning changes no length.",
                )
                spin = complex(*x[t, one : other + 1].tolist())
                spin *= complex(math.cos(t * speeds[pair]), math.sin(t * speeds[pair]))
                expect_same(
                    given[t, one : other + 1],
                    [spin.real, spin.imag],
                    f"{width} numbers, position {t}, numbers {one} and {other}",
                    1e-3,
                )
    return "Every pair turns by its own angle, and no length changes."


def _by_hand(answer) -> None:
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0]]).repeat(2, 1)
    given = answer(x, torch.tensor([math.pi / 2, 0.0]))
    expect_tensor(given, (2, 4), "the example by hand")
    expect(
        not torch.allclose(given[1, :2], torch.tensor([0.0, -1.0]), atol=1e-4),
        "the example by hand: the first pair is turned the wrong way round.",
    )
    expect(
        not torch.allclose(given[1], torch.tensor([-1.0, 0.0, 1.0, 0.0]), atol=1e-4),
        "the example by hand: you pair halves (0 with 2); asked are neighbours (0 with 1).",
    )
    expect_same(given[1], [0.0, 1.0, 1.0, 0.0], "the example by hand, position 1", 1e-4)


@exercise("I.2", "Turn a part of the head")
def part(dice, answer):
    """`answer(x, positions, turned, base) -> x` with its first numbers turned."""
    x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    given = answer(x.clone(), torch.tensor([math.pi / 2]), 2, 100.0)
    expect_tensor(given, (1, 1, 1, 4), "the example by hand")
    expect_same(given[0, 0, 0], [-2.0, 1.0, 3.0, 4.0], "the example by hand", 1e-4)
    for shape, turned in (((2, 3, 5, 10), 4), ((1, 2, 7, 8), 6), ((2, 1, 4, 6), 6)):
        x, start = (
            torch.randn(*shape, generator=dice),
            int(torch.randint(1, 9, (1,), generator=dice)),
        )
        positions = torch.arange(start, start + shape[2])
        given = answer(x.clone(), positions.clone(), turned, 50.0)
        what = f"{turned} of {shape[3]} numbers turned"
        expect_tensor(given, shape, what)
        rest = slice(turned, None)
        expect_same(given[..., rest], x[..., rest], f"{what}: the part that is left alone", 1e-4)
        wanted = _turned(x, positions, turned, shape[3])
        whole_speeds = _turned(x, positions, turned, shape[3], speeds_of=shape[3])
        expect(
            turned == shape[3] or not torch.allclose(given, whole_speeds, atol=1e-4),
            f"{what}: these are the speeds of a head of {shape[3]}. The part is a head of its "
            f"own, {turned} wide, and its slowest pair should be nearly as slow as a whole head's.",
        )
        place = f"{what}, positions from {start}: the turned part"
        expect_same(given[..., :turned], wanted[..., :turned], place, 1e-3)
    return "What and where in one part, what alone in the other."


def _turned(x, positions, turned, width, speeds_of=None):
    """Written out with complex numbers, apart from the appendix's code."""
    half, wide = turned // 2, speeds_of or turned
    speeds = torch.tensor([50.0 ** (-2 * i / wide) for i in range(half)], dtype=torch.float64)
    angles = positions[:, None].double() * speeds
    spin = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.complex(x[..., :half].double(), x[..., half:turned].double()) * spin
    return torch.cat([pairs.real.float(), pairs.imag.float(), x[..., turned:]], dim=-1)


def _config(dice) -> ModernConfig:
    layers, heads, width = (int(torch.randint(2, 7, (1,), generator=dice)) for _ in range(3))
    context = int(torch.randint(300, 3000, (1,), generator=dice))
    window = int(torch.randint(1, 200, (1,), generator=dice))
    free = tuple(i for i in range(layers) if torch.rand(1, generator=dice) < 0.4)
    sizes = (11, context, 8, layers, heads, heads, 2 * width, 9)
    return ModernConfig(*sizes, window=window, global_layers=free)


@exercise("I.3", "The longest text that fits")
def longest(dice, answer):
    """`answer(memory, config, bytes_per_number) -> tokens`."""
    small = ModernConfig(11, 100, 8, 3, 1, 1, 2, 9, window=5, global_layers=(1,))
    for memory, wanted in ((52, 4), (100, 15), (11, 0)):
        told = _whole(answer(memory, small, 1))
        expect_same(told, wanted, f"the example by hand with {memory} bytes")
    for _ in range(8):
        config, size = _config(dice), int(torch.randint(1, 5, (1,), generator=dice))
        most = config.context_length
        tokens = int(torch.randint(1, most, (1,), generator=dice))
        for spare in (0, 1):
            memory = modern_cache_bytes(config, tokens, size) - spare
            told = _whole(answer(memory, config, size))
            _judge(told, memory, config, size)
        told = _whole(answer(100 * modern_cache_bytes(config, most, size), config, size))
        expect(
            told <= most,
            f"with plenty of memory you say {told:,} tokens, but context_length={most:,}.",
        )
        expect_same(told, most, "with plenty of memory")
    return "With windows, the answer bends where they are full."


def _judge(told: int, memory: int, config: ModernConfig, size: int) -> None:
    """Raise `Wrong` unless `told` tokens fit and one more does not."""
    what = f"{config.num_layers} layers, window {config.window}, {memory:,} bytes"
    expect(
        0 <= told <= config.context_length, f"{what}: {told} tokens is no length of a text here."
    )
    cost = modern_cache_bytes(config, told, size)
    expect(
        cost <= memory,
        f"{what}: you say {told} tokens, but those take {cost:,} bytes and do not fit.",
    )
    more = modern_cache_bytes(config, told + 1, size)
    expect(
        told == config.context_length or more > memory,
        f"{what}: you say {told} tokens, but one more takes {more:,} bytes and still fits.",
    )


def _whole(given) -> int:
    expect(
        isinstance(given, int | float) and not isinstance(given, bool),
        f"return a number of tokens; you return a {type(given).__name__}.",
    )
    expect(given == int(given), f"{given} tokens: a text has a whole number of them.")
    return int(given)


@exercise("I.4", "Experts that can be full")
def room(dice, answer):
    """`answer(chances, count, capacity) -> (tokens, experts)`."""
    by_hand = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4]])
    _compare(answer(by_hand.clone(), 2, 1), by_hand, 2, 1, "the example by hand")
    for tokens, experts, count, capacity in (
        (9, 4, 2, 3),
        (12, 3, 3, 5),
        (7, 5, 1, 2),
        (6, 4, 2, 9),
    ):
        tilt = torch.linspace(1.5, 0, experts)
        chances = (torch.randn(tokens, experts, generator=dice) + tilt).softmax(-1)
        what = f"{tokens} tokens, {experts} experts, {count} each, capacity {capacity}"
        _compare(answer(chances.clone(), count, capacity), chances, count, capacity, what)
    return "First come, first served, and first choices first."


def _compare(given, chances, count, capacity, what) -> None:
    """Raise `Wrong` with the likeliest reason unless `given` is the right table."""
    expect_tensor(given, tuple(chances.shape), what)
    served = given != 0
    for expert, number in enumerate(served.sum(0).tolist()):
        expect(
            number <= capacity,
            f"{what}: expert {expert} takes {number} tokens and has room for {capacity}.",
        )
    for token, number in enumerate(served.sum(1).tolist()):
        expect(
            number <= count, f"{what}: token {token} is served by {number} experts, not {count}."
        )
    wanted = _served(chances, count, capacity)
    greedy = _served(chances, count, capacity, token_first=True)
    expect(
        torch.equal(wanted, greedy) or not torch.allclose(given, greedy, atol=1e-6),
        f"{what}: some second choices were settled before other tokens' first ones.",
    )
    if not torch.equal(served, wanted != 0):
        token, expert = (served != (wanted != 0)).nonzero()[0].tolist()
        verb = "is served" if served[token, expert] else "is not served"
        raise_with = f"{what}: token {token} {verb} by expert {expert}, and should "
        other = "not be." if served[token, expert] else "be: there is room when its turn comes."
        expect(False, raise_with + other)
    expect_same(given, wanted, f"{what}: served are the right ones, but the chances differ", 1e-6)


def _served(chances, count, capacity, token_first=False):
    order = chances.argsort(dim=-1, descending=True)
    turns = [(token, choice) for choice in range(count) for token in range(len(chances))]
    if token_first:
        turns.sort()
    table, taken = torch.zeros_like(chances), [0] * chances.shape[1]
    for token, choice in turns:
        expert = int(order[token, choice])
        if taken[expert] < capacity:
            taken[expert] += 1
            table[token, expert] = chances[token, expert]
    return table
