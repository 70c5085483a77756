"""Wrong and other right answers to appendix K's exercises."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch.nn import functional as F

from tests.mutants.cases import mutant, right


def flip_answer(counts=lambda total, observed: abs(total) >= abs(observed) - 1e-9, ways=(-1, 1)):
    """The test with its comparison exchanged."""

    def test(differences):
        observed = sum(differences)
        sums = [
            sum(s * d for s, d in zip(signs, differences, strict=True))
            for signs in product(ways, repeat=len(differences))
        ]
        return sum(counts(total, observed) for total in sums) / len(sums)

    return test


@right("K.1", "as one matrix of signs")
def flip_matrix():
    def test(differences):
        many = len(differences)
        bits = torch.arange(2**many)[:, None] >> torch.arange(many)[None] & 1
        sums = (2 * bits - 1).double() @ torch.tensor(differences, dtype=torch.double)
        return (sums.abs() >= abs(sum(differences)) - 1e-9).double().mean().item()

    return test


@right("K.1", "sums grown one difference at a time")
def flip_grown():
    def test(differences):
        sums = [0.0]
        for d in differences:
            sums = [s + d for s in sums] + [s - d for s in sums]
        return sum(round(abs(s), 6) >= round(abs(sum(differences)), 6) for s in sums) / len(sums)

    return test


@mutant("K.1", "one side only", says="as far below 0 count")
def flip_one_side():
    return flip_answer(lambda total, observed: total >= observed - 1e-9)


@mutant("K.1", "further, not as far", says="at least as far")
def flip_further():
    return flip_answer(lambda total, observed: abs(total) > abs(observed) + 1e-9)


@mutant("K.1", "no room for rounding", says="rounding|expected")
def flip_exact():
    return flip_answer(lambda total, observed: abs(total) >= abs(observed))


@mutant("K.1", "flips that leave out", says="by hand")
def flip_zeros():
    return flip_answer(ways=(0, 1))


@right("K.2", "by cross-entropy over the whole row")
def scorer_by_torch():
    def nats(logits, context, choice):
        row = torch.tensor([*context, *choice])
        paid = F.cross_entropy(logits[:-1], row[1:], reduction="none")
        return paid[-len(choice) :].sum().item()

    return nats


@right("K.2", "id by id")
def scorer_by_hand():
    def nats(logits, context, choice):
        total = 0.0
        for number, token in enumerate(choice):
            line = logits[len(context) + number - 1].double()
            total += float(torch.logsumexp(line, 0) - line[token])
        return total

    return nats


def scorer_answer(shift, finish=sum, sign=-1):
    def nats(logits, context, choice):
        start = len(context) + shift
        lines = logits.log_softmax(-1)[start : start + len(choice)]
        return sign * finish([x[i].item() for x, i in zip(lines, choice, strict=False)])

    return nats


@mutant("K.2", "as given: one line late", says="should be free")
def scorer_late():
    return scorer_answer(0)


@mutant("K.2", "one line early", says="should be free|return a number")
def scorer_early():
    return scorer_answer(-2)


@mutant("K.2", "the mean", says="expected their sum")
def scorer_mean():
    return scorer_answer(-1, finish=lambda paid: sum(paid) / len(paid))


@mutant("K.2", "the log-probability", says="minus the log-probability")
def scorer_sign():
    return scorer_answer(-1, sign=1)


def needed_answer(apart=lambda p, q: p * (1 - p) + q * (1 - q), same=None, whole=math.ceil):
    same = same or (lambda differ, gain: differ - gain**2)

    def needed(share, gain, differ=None):
        variance = apart(share, share + gain) if differ is None else same(differ, gain)
        return whole(2.8**2 * variance / gain**2)

    return needed


@right("K.3", "counting up")
def needed_counting():
    def needed(share, gain, differ=None):
        other, n = share + gain, 1
        one = share * (1 - share) + other * (1 - other) if differ is None else differ - gain * gain
        while gain / math.sqrt(one / n) < 2.8 - 1e-12:
            n += 1
        return n

    return needed


@mutant("K.3", "one variance only", says="0.5 and a gain|both models|Both")
def needed_half():
    return needed_answer(apart=lambda p, q: p * (1 - p))


@mutant("K.3", "the gain forgotten when paired", says="157")
def needed_no_gain():
    return needed_answer(same=lambda differ, gain: differ)


@mutant("K.3", "rounded down", says="expected 385")
def needed_down():
    return needed_answer(whole=math.floor)


@mutant("K.3", "not rounded", says="round up")
def needed_broken():
    return needed_answer(whole=float)


@mutant("K.3", "the first share twice", says="expected 385|different questions")
def needed_first_twice():
    return needed_answer(apart=lambda p, q: 2 * p * (1 - p))


@right("K.4", "by the places that won")
def twice_by_place():
    def twice(judge, pairs):
        places = [(judge(a, b), judge(b, a)) for a, b in pairs]
        return {
            "wins": places.count((0, 1)),
            "losses": places.count((1, 0)),
            "first": places.count((0, 0)),
            "draws": places.count((0, 0)) + places.count((1, 1)),
        }

    return twice


def twice_answer(second=lambda judge, a, b: judge(b, a) == 1, first=(True, False)):
    def twice(judge, pairs):
        counts = {"wins": 0, "draws": 0, "losses": 0, "first": 0}
        for a, b in pairs:
            both = (judge(a, b) == 0, second(judge, a, b))
            counts[{2: "wins", 1: "draws", 0: "losses"}[sum(both)]] += 1
            counts["first"] += both == first
        return counts

    return twice


@mutant("K.4", "0 still means A after the swap", says="always says 0.*wins")
def twice_unswapped():
    return twice_answer(lambda judge, a, b: judge(b, a) == 0)


@mutant("K.4", "the same order twice", says="always says 0|both orders")
def twice_same():
    return twice_answer(lambda judge, a, b: judge(a, b) == 0)


@mutant("K.4", "draws of the second place counted", says='"first"')
def twice_last():
    return twice_answer(first=(False, True))


@mutant("K.4", "no count of the first place", says='no "first"')
def twice_without():
    return lambda judge, pairs: {
        name: many for name, many in twice_answer()(judge, pairs).items() if name != "first"
    }
