"""Wrong and other right answers to appendix J's exercises."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import torch

from tests.mutants.cases import mutant, right

# J.1

GUESSES = [9, 5, 3]


def cards_answer(bytes_each=(2, 2, 12), divided=None, whole=math.ceil, fits=lambda room: room > 0):
    """The number of cards, with one part exchanged."""
    weights, gradients, optimiser = bytes_each
    divided = divided or {0: 0, 1: optimiser, 2: optimiser + gradients, 3: sum(bytes_each)}

    def needed(parameters, card_bytes, stage, other_bytes=0):
        shared = divided[stage] * parameters
        room = card_bytes - other_bytes - (sum(bytes_each) * parameters - shared)
        if not shared:
            return 1 if room >= 0 else None
        return whole(Fraction(shared, room)) if fits(room) else None

    return needed


@right("J.1", "by doubling, then halving")
def cards_search():
    def needed(parameters, card_bytes, stage, other_bytes=0):
        parts = [(2, stage >= 3), (2, stage >= 2), (12, stage >= 1)]

        def fit(many):
            inside = sum(Fraction(b * parameters, many if split else 1) for b, split in parts)
            return inside + other_bytes <= card_bytes

        if not fit(10**30):
            return None
        low, high = 0, 1
        while not fit(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fit(middle) else (middle, high)
        return high

    return GUESSES, needed


@mutant("J.1", "rounded down", says="expected 3|expected")
def cards_floor():
    return GUESSES, cards_answer(whole=lambda x: max(1, math.floor(x)))


@mutant("J.1", "not rounded", says="whole ones")
def cards_broken():
    return GUESSES, cards_answer(whole=float)


@mutant("J.1", "all divided at every stage", says="stage 1|No number")
def cards_all():
    return GUESSES, cards_answer(divided={0: 0, 1: 16, 2: 16, 3: 16})


@mutant("J.1", "gradients never divided", says="stage 2|stage 3")
def cards_gradients():
    return GUESSES, cards_answer(divided={0: 0, 1: 12, 2: 12, 3: 14})


@mutant("J.1", "a negative number of cards", says="No number of cards")
def cards_negative():
    return GUESSES, cards_answer(fits=lambda room: room != 0)


@mutant("J.1", "two bytes of optimiser", says="stage 0")
def cards_light():
    return GUESSES, cards_answer(bytes_each=(2, 2, 2))


@mutant("J.1", "sixteen bytes divided among as many", says="prediction for stage 1, 2")
def cards_wrong_guess():
    return [3, 3, 3], cards_answer()


# J.2


def rank_answer(
    seed_of=lambda seed, epoch, rank: seed + 1000 * epoch,
    fill=lambda order, ranks: (order * ranks)[: len(order) + -len(order) % ranks],
    share=lambda order, rank, ranks: order[rank::ranks],
    shuffle=True,
):
    """Rows of a rank, with one part exchanged."""

    def rows(count, rank, ranks, epoch, seed=0):
        dice = torch.Generator().manual_seed(seed_of(seed, epoch, rank))
        order = torch.randperm(count, generator=dice).tolist() if shuffle else list(range(count))
        return share(fill(order, ranks), rank, ranks)

    return rows


@right("J.2", "in blocks, by numpy")
def rank_blocks():
    def rows(count, rank, ranks, epoch, seed=0):
        order = np.random.default_rng([seed, epoch]).permutation(count)
        each = -(-count // ranks)
        return np.resize(order, each * ranks)[rank * each : (rank + 1) * each]

    return rows


@right("J.2", "dealt like cards")
def rank_dealt():
    def rows(count, rank, ranks, epoch, seed=0):
        deck = list(range(count))
        random.Random(f"{seed} {epoch}").shuffle(deck)
        each = math.ceil(count / ranks)
        return [deck[(place * ranks + rank) % count] for place in range(each)]

    return rows


@mutant("J.2", "as given: each rank shuffles for itself", says="read by nobody")
def rank_own():
    return rank_answer(seed_of=lambda seed, epoch, rank: seed + 1000 * epoch + rank)


@mutant("J.2", "all ranks read everything", says="are enough")
def rank_everything():
    return rank_answer(share=lambda order, rank, ranks: order)


@mutant("J.2", "the tail is dropped", says="read by nobody")
def rank_dropped():
    return rank_answer(fill=lambda order, ranks: order[: len(order) - len(order) % ranks])


@mutant("J.2", "unequal shares", says="for ever")
def rank_unequal():
    return rank_answer(fill=lambda order, ranks: order)


@mutant("J.2", "the epoch forgotten", says="epochs 1 and 2")
def rank_no_epoch():
    return rank_answer(seed_of=lambda seed, epoch, rank: seed)


@mutant("J.2", "the seed forgotten", says="another seed")
def rank_no_seed():
    return rank_answer(seed_of=lambda seed, epoch, rank: epoch)


@mutant("J.2", "never shuffled", says="same order")
def rank_plain():
    return rank_answer(shuffle=False)


@mutant("J.2", "shared out before it is shuffled", says="Shuffle before")
def rank_late():
    def rows(count, rank, ranks, epoch, seed=0):
        mine = rank_answer(shuffle=False)(count, rank, ranks, epoch, seed)
        random.Random(1000 * epoch + seed).shuffle(mine)
        return mine

    return rows


@mutant("J.2", "filled with the last row alone", says="times|read by")
def rank_last():
    return rank_answer(fill=lambda order, ranks: order + order[-1:] * (-len(order) % ranks))


@mutant("J.2", "by whatever chance is left", says="nobody|two orders|same")
def rank_global():
    return lambda count, rank, ranks, epoch, seed=0: rank_answer()(
        count, rank, ranks, epoch, random.randrange(10**6)
    )


# J.3


def stage_answer(warm, backward_last=False):
    """`warm` forwards, then by turns; or all the forwards first."""

    def order(stage, stages, bites):
        first = bites if backward_last else min(bites, warm(stage, stages))
        jobs = [("F", b) for b in range(first)]
        for b in range(bites):
            jobs.append(("B", b))
            if first + b < bites:
                jobs.append(("F", first + b))
        return jobs

    return order


@right("J.3", "as the others' ticks allow")
def stage_simulated():
    """All stages at once: backward where one can, else forward if there is room."""

    def order(stage, stages, bites):
        done, orders = set(), [[] for _ in range(stages)]
        while len(done) < 2 * stages * bites:
            now = []
            for s in range(stages):
                count = lambda kind, s=s: sum(k == kind for k, _ in orders[s])
                f, b = count("F"), count("B")
                back = b < f and (s == stages - 1 or (s + 1, "B", b) in done)
                ahead = f < bites and f - b < stages - s and (s == 0 or (s - 1, "F", f) in done)
                if back or ahead:
                    now.append((s, *(("B", b) if back else ("F", f))))
            for s, kind, bite in now:
                orders[s].append((kind, bite))
                done.add((s, kind, bite))
        return orders[stage]

    return order


@mutant("J.3", "all forward, then all backward", says="keeps the activations")
def stage_all_forward():
    return stage_answer(None, backward_last=True)


@mutant("J.3", "one bite after the other", says="ticks")
def stage_alone():
    return stage_answer(lambda stage, stages: 1)


@mutant("J.3", "one forward too few", says="ticks")
def stage_short():
    return stage_answer(lambda stage, stages: max(1, stages - stage - 1))


@mutant("J.3", "one forward too many", says="keeps the activations")
def stage_long():
    return stage_answer(lambda stage, stages: stages - stage + 1)


@mutant("J.3", "the stages counted from the wrong end", says="ticks|waits|keeps")
def stage_turned():
    return stage_answer(lambda stage, stages: stage + 1)


@mutant("J.3", "the last bite backward first", says="everybody waits|ticks|before it has")
def stage_last_first():
    def order(stage, stages, bites):
        forward = [("F", b) for b in range(bites)]
        return forward + [("B", b) for b in (range(bites) if stage % 2 else reversed(range(bites)))]

    return order


@mutant("J.3", "no backward", says="runs backward for these bites: none")
def stage_forward_only():
    return lambda stage, stages, bites: [("F", b) for b in range(bites)]


@mutant("J.3", "everybody waits", says="everybody waits")
def stage_stuck():
    def order(stage, stages, bites):
        if stage == 0:
            return [(kind, b) for b in range(bites) for kind in "FB"]
        return [("F", b) for b in range(bites)] + [("B", b) for b in range(bites)]

    return order


# J.4


def sized(law, loss, served, price, spread=4000, decades=16):
    """The cheapest of many sizes."""
    left = loss - law["E"]
    if left <= 0:
        raise ValueError(f"a loss of {loss}; expected more than E, which is {law['E']}.")
    least = (law["A"] / left) ** (1 / law["alpha"])
    sizes = least * (1 + np.logspace(-4, decades - 4, spread))
    rest = left - law["A"] / sizes ** law["alpha"]
    tokens = (law["B"] / rest) ** (1 / law["beta"])
    best = np.argmin(price(sizes, tokens, served))
    return float(sizes[best]), float(tokens[best])


def used_answer(price=lambda n, d, served: 6 * n * d + 2 * n * served, **settings):
    return lambda loss, served, law: sized(law, loss, served, price, **settings)


@right("J.4", "by thirds")
def used_thirds():
    def cheapest(loss, served, law):
        if loss <= law["E"]:
            raise ValueError("too low")
        split = loss - law["E"]

        def at(share):  # which share of the gap the size takes; the data take the rest
            size = (law["A"] / (split * share)) ** (1 / law["alpha"])
            return size, (law["B"] / (split * (1 - share))) ** (1 / law["beta"])

        price = lambda share: at(share)[0] * (6 * at(share)[1] + 2 * served)
        low, high = 1e-9, 1 - 1e-9
        for _ in range(300):
            one, two = low + (high - low) / 3, high - (high - low) / 3
            low, high = (low, two) if price(one) < price(two) else (one, high)
        return at(low)

    return cheapest


@right("J.4", "on a grid")
def used_grid():
    return used_answer()


@mutant("J.4", "as if it were never used", says="as if nobody")
def used_never():
    return used_answer(lambda n, d, served: 6 * n * d)


@mutant("J.4", "answers as dear as training", says="more than a larger")
def used_dear():
    return used_answer(lambda n, d, served: 6 * n * (d + served))


@mutant("J.4", "twenty tokens a parameter", says="more than a|reach")
def used_twenty():
    def cheapest(loss, served, law):
        if loss <= law["E"]:
            raise ValueError("too low")
        low, high = 0.0, 60.0
        for _ in range(200):
            n = math.exp((low + high) / 2)
            reached = law["E"] + law["A"] / n ** law["alpha"] + law["B"] / (20 * n) ** law["beta"]
            low, high = (math.log(n), high) if reached > loss else (low, math.log(n))
        return n, 20 * n

    return cheapest


@mutant("J.4", "a grid too coarse", says="% more than")
def used_coarse():
    return used_answer(spread=12)


@mutant("J.4", "the smallest that could", says="% more than")
def used_smallest():
    return used_answer(lambda n, d, served: n)


@mutant("J.4", "tokens of half the way", says="reach")
def used_half():
    def cheapest(loss, served, law):
        size, tokens = used_answer()(loss, served, law)
        return size, tokens / 2

    return cheapest


@mutant("J.4", "a loss that no size reaches", says="expected a ValueError")
def used_unreachable():
    inner = used_answer()
    return lambda loss, served, law: inner(max(loss, law["E"] + 1e-3), served, law)


@mutant("J.4", "tokens first", says="wrong order")
def used_turned():
    inner = used_answer()
    return lambda loss, served, law: inner(loss, served, law)[::-1]


@mutant("J.1", "no list longer than a thousand", says="would be enough")
def cards_short_list():
    def needed(parameters, card_bytes, stage, other_bytes=0):
        whole, divided = 16 - (0, 12, 14, 16)[stage], (0, 12, 14, 16)[stage]
        for many in range(1, 1000):
            if parameters * (whole * many + divided) + other_bytes * many <= card_bytes * many:
                return many
        return None

    return GUESSES, needed
