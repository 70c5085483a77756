"""Wrong and other right answers to appendix H's exercises."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from tests.mutants.cases import mutant, right

# H.1


def nats(policy, reference):
    return sum(p * math.log(p / q) for p, q in zip(policy, reference, strict=True) if p > 0)


def tilt(reference, rewards, beta):
    top = max(rewards)
    weights = [q * math.exp((r - top) / beta) for q, r in zip(reference, rewards, strict=True)]
    return [w / sum(weights) for w in weights]


def within_answer(path, distance=nats, steps=200):
    """As far along `path(reference, rewards, way)`, way from 0 to 1, as the budget allows."""

    def best(reference, rewards, budget):
        if budget < 0:
            raise ValueError(f"budget={budget}, expected 0 or more.")
        low, high = 0.0, 1.0
        for _ in range(steps):
            middle = (low + high) / 2
            near = distance(path(reference, rewards, middle), reference) <= budget
            low, high = (middle, high) if near else (low, middle)
        return path(reference, rewards, low)

    return best


def along_beta(reference, rewards, way):
    spread = max(rewards) - min(rewards) or 1.0
    return tilt(reference, rewards, spread * (1 / max(way, 1e-12) - 1 + 1e-5))


def along_mixture(reference, rewards, way):
    top = rewards.index(max(rewards))
    return [(1 - way) * q + way * (i == top) for i, q in enumerate(reference)]


@right("H.1", "by halving")
def within_halving():
    return within_answer(along_beta)


@right("H.1", "many betas at once")
def within_grid():
    def best(reference, rewards, budget):
        if budget < 0:
            raise ValueError("budget below 0")
        q, r = np.array(reference), np.array(rewards)
        betas = np.geomspace(1e-5, 1e7, 60_000) * (np.ptp(r) or 1.0)
        p = q * np.exp((r - r.max()) / betas[:, None])
        p = p / p.sum(1, keepdims=True)
        away = (p * np.log(np.maximum(p, 1e-300) / q)).sum(1)
        near = away <= budget + 1e-9
        return p[near.argmax()] if near.any() else q

    return best


@mutant("H.1", "a mixture with the best reply", says="can be had")
def within_mixture():
    return within_answer(along_mixture)


@mutant("H.1", "no reference in it", says="nats from|can be had")
def within_softmax():
    def path(reference, rewards, way):
        return along_beta([1 / len(rewards)] * len(rewards), rewards, way)

    return within_answer(path)


@mutant("H.1", "the distance the other way round", says="other way round")
def within_backwards():
    return within_answer(along_beta, lambda p, q: nats(q, p) if min(p) > 0 else math.inf)


@mutant("H.1", "the budget taken for beta", says="nats from")
def within_beta():
    def best(reference, rewards, budget):
        if budget < 0:
            raise ValueError("budget below 0")
        return tilt(reference, rewards, max(budget, 1e-3))

    return best


@mutant("H.1", "the best reply and nothing else", says="nats from")
def within_greedy():
    return within_answer(lambda q, r, way: [float(i == r.index(max(r))) for i in range(len(r))])


@mutant("H.1", "the reference, which is always near enough", says="can be had")
def within_lazy():
    return within_answer(lambda reference, rewards, way: list(reference))


@mutant("H.1", "exp without care", says="no chance")
def within_overflow():
    def path(reference, rewards, way):
        with np.errstate(all="ignore"):
            p = np.array(reference) * np.exp(np.array(rewards) / (1 / max(way, 1e-12) - 1 + 1e-9))
            return (p / p.sum()).tolist()

    return within_answer(path, lambda p, q: nats(p, q) if not math.isnan(sum(p)) else 0.0)


@mutant("H.1", "a budget below nothing", says="expected a ValueError")
def within_careless():
    inner = within_answer(along_beta)
    return lambda reference, rewards, budget: inner(reference, rewards, max(budget, 0.0))


# H.2


def pairs_answer(
    split=lambda gain: (gain[0::2], gain[1::2]),
    gain=lambda policy, reference: policy - reference,
    mask=lambda asked: asked[:, 1:],
    finish=lambda each, mask: (each * mask).sum(-1),
    loss=lambda margin, beta: -F.logsigmoid(beta * margin).mean(),
):
    """The loss with one part exchanged."""

    def run(policy_logits, reference_logits, rows, asked, beta):
        def told(logits):
            log_probs = logits[:, :-1].log_softmax(-1)
            each = log_probs.gather(-1, rows[:, 1:, None]).squeeze(-1)
            return finish(each, mask(asked))

        preferred, other = split(gain(told(policy_logits), told(reference_logits)))
        return loss(preferred - other, beta)

    return run


@right("H.2", "pair by pair, in a loop")
def pairs_loop():
    def run(policy_logits, reference_logits, rows, asked, beta):
        losses = []
        for first in range(0, len(rows), 2):
            gains = []
            for row in (first, first + 1):
                kept = asked[row, 1:]
                labels = rows[row, 1:][kept]
                nats = [
                    F.cross_entropy(logits[row, :-1][kept], labels, reduction="sum")
                    for logits in (policy_logits, reference_logits)
                ]
                gains.append(nats[1] - nats[0])
            losses.append(F.softplus(-beta * (gains[0] - gains[1])))
        return torch.stack(losses).mean()

    return run


@right("H.2", "two columns, and the prompt counted, which cancels")
def pairs_columns():
    return pairs_answer(
        split=lambda gain: gain.view(-1, 2).unbind(1),
        mask=lambda asked: asked.flip(1).cumsum(1).flip(1)[:, 1:] > 0,
    )


@mutant("H.2", "as given: halves", says="one at a time your loss is right")
def pairs_halves():
    return pairs_answer(split=lambda gain: gain.chunk(2))


@mutant("H.2", "the mean over a reply's ids", says="summed")
def pairs_mean():
    return pairs_answer(finish=lambda each, mask: (each * mask).sum(-1) / mask.sum(-1))


@mutant("H.2", "the filling counted", says="behind a reply's last id")
def pairs_filling():
    return pairs_answer(mask=lambda asked: torch.ones_like(asked[:, 1:]))


@mutant("H.2", "the first id left out", says="behind a reply's last id|the first and the last")
def pairs_late():
    return pairs_answer(mask=lambda asked: asked[:, :-1])


@mutant("H.2", "the last id left out", says="the first and the last")
def pairs_early():
    return pairs_answer(mask=lambda asked: asked[:, 1:] & F.pad(asked[:, 2:], (0, 1)))


@mutant("H.2", "policy and reference exchanged", says="sign is turned")
def pairs_exchanged():
    return pairs_answer(gain=lambda policy, reference: reference - policy)


@mutant("H.2", "no reference", says="expected log 2")
def pairs_no_reference():
    return pairs_answer(gain=lambda policy, reference: policy)


@mutant("H.2", "beta forgotten", says="depend on beta")
def pairs_no_beta():
    return pairs_answer(loss=lambda margin, beta: -F.logsigmoid(margin).mean())


@mutant("H.2", "the sum over pairs", says="expected their mean|expected log 2")
def pairs_sum():
    return pairs_answer(loss=lambda margin, beta: -F.logsigmoid(beta * margin).sum())


@mutant("H.2", "no way back", says="no way back")
def pairs_detached():
    return pairs_answer(gain=lambda policy, reference: (policy - reference).detach())


# H.3

GUESSES = ["k2", "k3", "k1"]


def table_answer(draws=lambda p, q: p, ratio=lambda p, q: q / p, root=math.sqrt, skip=True):
    def table(policy, reference):
        pairs = [(p, q) for p, q in zip(policy, reference, strict=True) if p > 0 or not skip]
        found = {}
        for name in ("k1", "k2", "k3"):
            each = []
            for p, q in pairs:
                r = ratio(p, q)
                k1, k2 = -math.log(r), math.log(r) ** 2 / 2
                each.append((draws(p, q), {"k1": k1, "k2": k2, "k3": r - 1 + k1}[name]))
            mean = sum(p * x for p, x in each)
            found[name] = mean, root(max(0.0, sum(p * x * x for p, x in each) - mean**2))
        return found

    return table


@right("H.3", "with tensors")
def table_tensors():
    def table(policy, reference):
        p, q = (torch.tensor(x, dtype=torch.double) for x in (policy, reference))
        p, q = p[p > 0], q[p > 0]
        log_r = (q / p).log()
        kinds = {"k1": -log_r, "k2": log_r**2 / 2, "k3": log_r.expm1() - log_r}
        return {
            name: ((p * k).sum(), (p * (k - (p * k).sum()) ** 2).sum().sqrt())
            for name, k in kinds.items()
        }

    return GUESSES, table


@mutant("H.3", "drawn by the reference", says="the policy draws")
def table_reference():
    return GUESSES, table_answer(draws=lambda p, q: q)


@mutant("H.3", "the ratio upside down", says="r is the reference")
def table_upside_down():
    return GUESSES, table_answer(ratio=lambda p, q: p / q)


@mutant("H.3", "the variance", says="take its root")
def table_variance():
    return GUESSES, table_answer(root=lambda x: x)


@mutant("H.3", "nan for what is never drawn", says="never drawn")
def table_nan():
    def table(policy, reference):
        p, q = np.array(policy), np.array(reference)
        with np.errstate(all="ignore"):
            log_r = np.log(q / p)
            kinds = {"k1": -log_r, "k2": log_r**2 / 2, "k3": np.exp(log_r) - 1 - log_r}
            means = {name: (p * k).sum() for name, k in kinds.items()}
            return {
                name: (means[name], np.sqrt((p * (k - means[name]) ** 2).sum()))
                for name, k in kinds.items()
            }

    return GUESSES, table


@mutant("H.3", "the folklore: k3 is always the calmest", says="number 3 did not come true")
def table_folklore():
    return ["k2", "k3", "k3"], table_answer()


@mutant("H.3", "letters", says='"k1", "k2" or "k3"')
def table_letters():
    return ["a", "b", "c"], table_answer()


# H.4


def fitted_rate(x, won, ridge=0.0):
    """σ of the intercept, by Newton's method."""
    x = np.stack([np.ones_like(x), x], 1) if x is not None else np.ones((len(won), 1))
    w = np.zeros(x.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-x @ w))
        bend = (x * (chance * (1 - chance))[:, None]).T @ x + ridge * np.eye(len(w))
        w = w + np.linalg.solve(bend, x.T @ (won - chance))
    return float(1 / (1 + np.exp(-w[0])))


def as_arrays(wins, longer):
    return np.array(wins, dtype=float), np.array(longer, dtype=float) / np.abs(longer).max()


@right("H.4", "by gradient descent on scaled lengths")
def rate_by_descent():
    def rate(wins, longer):
        won, x = torch.tensor(wins).double(), torch.tensor(longer).double()
        x = x / x.abs().max()
        w = torch.zeros(2, dtype=torch.double)
        for _ in range(4000):
            chance = (w[0] + w[1] * x).sigmoid()
            w = w - 2.0 * torch.stack([(chance - won).mean(), ((chance - won) * x).mean()])
        return w[0].sigmoid().item()

    return rate


@right("H.4", "by bisection within bisection")
def rate_by_bisection():
    def rate(wins, longer):
        won, x = as_arrays(wins, longer)

        def root(slope_of):
            low, high = -20.0, 20.0
            for _ in range(45):
                middle = (low + high) / 2
                low, high = (middle, high) if slope_of(middle) > 0 else (low, middle)
            return (low + high) / 2

        left = lambda a, b: won - 1 / (1 + np.exp(-(a + b * x)))
        best_a = lambda b: root(lambda a: left(a, b).sum())
        b = root(lambda b: (left(best_a(b), b) * x).sum())
        return float(1 / (1 + np.exp(-best_a(b))))

    return rate


@mutant("H.4", "the plain win rate", says="plain win rate")
def rate_plain():
    return lambda wins, longer: sum(wins) / len(wins)


@mutant("H.4", "lengths about their mean", says="usual")
def rate_centred():
    def rate(wins, longer):
        won, x = as_arrays(wins, longer)
        return fitted_rate(x - x.mean(), won)

    return rate


@mutant("H.4", "a straight line", says="expected")
def rate_line():
    def rate(wins, longer):
        won, x = as_arrays(wins, longer)
        return float(np.polyfit(x, won, 1)[1])

    return rate


@mutant("H.4", "no intercept", says="expected")
def rate_half():
    return lambda wins, longer: 0.5


@mutant("H.4", "a, not its rate", says="no rate|expected")
def rate_log_odds():
    def rate(wins, longer):
        won, x = as_arrays(wins, longer)
        p = fitted_rate(x, won)
        return math.log(p / (1 - p))

    return rate


@mutant("H.4", "ties are losses", says="ties")
def rate_ties_lost():
    def rate(wins, longer):
        won, x = as_arrays(wins, longer)
        return fitted_rate(x, (won > 0.5).astype(float))

    return rate


@mutant("H.4", "ties left out", says="ties")
def rate_ties_out():
    def rate(wins, longer):
        won, x = as_arrays(wins, longer)
        return fitted_rate(x[won != 0.5], won[won != 0.5])

    return rate


@mutant("H.4", "steps too few for words", says="expected|plain|usual")
def rate_not_there():
    def rate(wins, longer):
        won, x = torch.tensor(wins).double(), torch.tensor(longer).double()
        w = torch.zeros(2, dtype=torch.double)
        for _ in range(100):
            chance = (w[0] + w[1] * x).sigmoid()
            w = w - 0.001 * torch.stack([(chance - won).mean(), ((chance - won) * x).mean()])
        return w[0].sigmoid().item()

    return rate


@mutant("H.4", "the other model's rate", says="old model's rate")
def rate_other():
    def rate(wins, longer):
        won, x = as_arrays(wins, longer)
        return fitted_rate(x, 1 - won)

    return rate
