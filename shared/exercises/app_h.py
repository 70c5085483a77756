"""Checks of appendix H's exercises: preference tuning."""

from __future__ import annotations

import math

import torch

from shared.exercises.checking import (
    exercise,
    expect,
    expect_error,
    expect_number,
    expect_same,
    expect_tensor,
)

# H.1


@exercise("H.1", "The best that a nat can buy")
def best_policy_within(dice, answer):
    """`answer(reference, rewards, budget) -> policy`, all lists of a number for each reply."""
    half = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    told = "the example by hand"
    _expect_best(answer, [0.5, 0.5], [1.0, 0.0], half, told)
    _expect_best(answer, [0.5, 0.5], [1.0, 0.0], 0.0, f"{told}, with no budget at all")
    _expect_best(answer, [0.5, 0.5], [1.0, 0.0], 2.0, f"{told}, with a budget of 2 nats")
    for size, budget in ((3, 0.05), (4, 0.3), (9, 0.7), (9, 20.0), (30, 1.5)):
        reference = torch.randn(size, generator=dice).softmax(-1).tolist()
        rewards = torch.randn(size, generator=dice).tolist()
        told = f"{size} replies, a budget of {budget} nats"
        _expect_best(answer, reference, rewards, budget, told)
        large = [1000 * (1 + r) for r in rewards]
        _expect_best(answer, reference, large, budget, f"{told}, rewards in the thousands")
    reference = [0.1, 0.2, 0.3, 0.4]
    _expect_best(answer, reference, [2.0] * 4, 0.5, "four replies with equal rewards")
    tied = [1.0, 1.0, 0.0, 0.0]
    _expect_best(answer, reference, tied, math.log(1 / 0.3) + 0.01, "two replies share the highest")
    expect_error(
        ValueError,
        lambda: answer([0.5, 0.5], [1.0, 0.0], -0.1),
        "a budget of -0.1 nats: expected a ValueError that says so.",
    )
    return "No other policy gets more for the distance."


def _nats(policy, reference) -> float:
    """KL(policy || reference)."""
    return sum(p * math.log(p / q) for p, q in zip(policy, reference, strict=True) if p > 0)


def _mean(policy, rewards) -> float:
    return sum(p * r for p, r in zip(policy, rewards, strict=True))


def _tilted(reference, rewards, beta: float) -> list[float]:
    top = max(rewards)
    weights = [q * math.exp((r - top) / beta) for q, r in zip(reference, rewards, strict=True)]
    return [w / sum(weights) for w in weights]


def _most_reward(reference, rewards, budget: float) -> float:
    """The highest mean reward within the budget: halving, along log beta."""
    spread = max(rewards) - min(rewards) or 1.0
    low, high = math.log(spread) - 12, math.log(spread) + 20
    for _ in range(100):
        middle = (low + high) / 2
        near = _nats(_tilted(reference, rewards, math.exp(middle)), reference) <= budget
        low, high = (low, middle) if near else (middle, high)
    return _mean(_tilted(reference, rewards, math.exp(high)), rewards)


def _expect_best(answer, reference, rewards, budget: float, told: str) -> None:
    given = answer(list(reference), list(rewards), budget)
    given = given.tolist() if hasattr(given, "tolist") else given
    expect(
        isinstance(given, list | tuple)
        and len(given) == len(reference)
        and not any(isinstance(p, list | tuple) for p in given),
        f"{told}: return a list with a chance for each reply; you return {given!r:.60}.",
    )
    odd = [p for p in given if getattr(p, "ndim", 0) == 0 and not _is_chance(p)]
    expect(
        not odd,
        f"{told}: {str((odd or [0])[0]):.20} is no chance. (Where exp grows too large, take the "
        "highest reward away from all of them first: it changes nothing.)",
    )
    policy = [expect_number(p, f"{told}: a chance") for p in given]
    expect(abs(sum(policy) - 1) < 1e-4, f"{told}: the chances add up to {sum(policy):.4f}.")
    away, backwards = _nats(policy, reference), math.inf
    if all(p > 0 for p in policy):
        backwards = _nats(reference, policy)
    expect(
        abs(away - budget) < 2e-3 or abs(backwards - budget) > 1e-3,
        f"{told}: your policy is {away:.3f} nats from the reference. Counted the other way round "
        "it would be what is allowed: the mean is over what the *policy* writes.",
    )
    expect(
        away <= budget + 1e-3,
        f"{told}: your policy is {away:.3f} nats from the reference, allowed are {budget:.3f}.",
    )
    reward, most = _mean(policy, rewards), _most_reward(reference, rewards, budget)
    scale = max(rewards) - min(rewards) or 1.0
    rest = f"{away:.3f} of {budget:.3f} nats are spent"
    expect(
        reward > most - 2e-3 * scale,
        f"{told}: a mean reward of {reward:.3f}, and {most:.3f} can be had ({rest}).",
    )


def _is_chance(p) -> bool:
    try:
        return -1e-9 <= float(p) <= 1 + 1e-6
    except (TypeError, ValueError):
        return False


# H.2


@exercise("H.2", "A bug hunt: pairs that learn only when alone")
def pairs(dice, answer):
    """`answer(policy_logits, reference_logits, rows, asked, beta) -> loss`."""
    for many, tokens, vocab, beta in ((1, 6, 7, 0.5), (3, 8, 5, 0.3), (4, 5, 9, 1.2)):
        batch = _pair_batch(many, tokens, vocab, dice)
        policy, reference, rows, asked = batch
        told = f"{many} pair{'s' * (many > 1)}, beta {beta}"
        same = _loss(answer, (policy, policy.clone(), rows, asked), beta, told)
        expect(
            abs(same - math.log(2)) < 1e-4,
            f"{told}, with a policy that is still the reference: {same:.4f}, expected log 2, which "
            "is 0.6931.",
        )
        each = [_one_pair(batch, i, beta) for i in range(many)]
        _expect_asked_only(answer, batch, beta, told)
        alone = [_loss(answer, _rows_of(batch, i), beta, told) for i in range(many)]
        for one, wanted in zip(alone, each, strict=True):
            _expect_one(one, wanted, batch, beta)
        given = _loss(answer, batch, beta, told)
        mean = sum(each) / many
        expect(
            many == 1 or abs(given - sum(each)) > 1e-4,
            f"{told}: {given:.4f}, the sum over the pairs; expected their mean, {mean:.4f}.",
        )
        costs = ", ".join(f"{x:.3f}" for x in each)
        expect(
            abs(given - mean) < 1e-4,
            f"{told}: one at a time your loss is right, {costs}, and their mean is {mean:.4f}. "
            f"All in one batch, it is {given:.4f}.",
        )
    _expect_gradient(answer, dice)
    return "A pair costs the same, whoever stands beside it."


def _pair_batch(many, tokens, vocab, dice):
    """Rows that alternate; each pair has its own prompt, its rows end at different places."""
    rows = torch.randint(1, vocab, (2 * many, tokens), generator=dice)
    asked = torch.zeros(2 * many, tokens, dtype=torch.bool)
    for i in range(many):
        prompt = 1 + i % 3
        rows[2 * i + 1, :prompt] = rows[2 * i, :prompt]
        asked[2 * i, prompt : tokens - i % 2] = True
        asked[2 * i + 1, prompt : tokens - 1 + i % 2] = True
        for row in (2 * i, 2 * i + 1):
            last = int(asked[row].nonzero().max())
            rows[row, last + 1 :] = 0
    policy, reference = 2 * torch.randn(2, 2 * many, tokens, vocab, generator=dice)
    for i in range(many):  # the same prompt is read in both rows
        alike = 1 + i % 3
        for logits in (policy, reference):
            logits[2 * i + 1, :alike] = logits[2 * i, :alike]
    return policy, reference, rows, asked


def _rows_of(batch, i: int):
    return tuple(x[2 * i : 2 * i + 2] for x in batch)


def _loss(answer, batch, beta, told: str) -> float:
    given = answer(*[x.clone() for x in batch], beta)
    expect_tensor(given, (), f"{told}: the loss")
    return given.item()


def _gain(batch, row: int) -> tuple[float, int]:
    """Place by place: how much likelier the policy finds a reply, in nats; its length."""
    policy, reference, rows, asked = batch
    total, length = 0.0, 0
    for place in range(1, rows.shape[1]):
        if asked[row, place]:
            token = rows[row, place]
            for logits, sign in ((policy, 1), (reference, -1)):
                line = logits[row, place - 1].double()
                total += sign * float(line[token] - line.exp().sum().log())
            length += 1
    return total, length


def _one_pair(batch, i: int, beta: float) -> float:
    margin = _gain(batch, 2 * i)[0] - _gain(batch, 2 * i + 1)[0]
    return math.log1p(math.exp(-beta * margin))


def _expect_one(given: float, wanted: float, batch, beta: float) -> None:
    """A pair alone, with a word for the usual slips."""
    inverse = lambda loss: -math.log(math.expm1(loss)) / beta if loss < 50 else -loss / beta
    margin, right = inverse(given) if given > 0 else math.inf, inverse(wanted)
    expect(
        abs(given - math.log(2)) > 1e-4 or abs(right) < 1e-2,
        f"one pair alone: 0.6931, expected {wanted:.4f}, whatever the policy prefers: as if "
        "the two replies were always level.",
    )
    expect(
        abs(margin + right) > 1e-3 or abs(right) < 1e-2,
        f"one pair alone: {given:.4f}, expected {wanted:.4f}. Its sign is turned: a policy pays "
        "less when it likes the preferred reply more than the reference does.",
    )
    expect(
        abs(margin * beta - right) > 1e-3 or abs(right) < 1e-2,
        f"one pair alone: {given:.4f}, expected {wanted:.4f}. It does not depend on beta.",
    )
    expect(
        abs(given - wanted) < 1e-4,
        f"one pair alone: {given:.4f}, expected {wanted:.4f}. The log-probabilities of a reply's "
        "ids are summed, and all of its ids count, the first and the last, too.",
    )


def _expect_asked_only(answer, batch, beta, told: str) -> None:
    """The lines that guess what stands behind a reply may not matter.

    Those of the prompt are alike in both rows of a pair, and cancel, counted or not.
    """
    policy, reference, rows, asked = batch
    before = _loss(answer, batch, beta, told)
    changed = policy.clone()
    for row, last in enumerate(asked.long().cumsum(1).argmax(1).tolist()):
        changed[row, last:] = changed[row, last:].flip(-1) * (3 + row)
    after = _loss(answer, (changed, reference, rows, asked), beta, told)
    expect(
        abs(before - after) < 1e-4,
        f"{told}: the policy's logits were changed only in lines that guess what stands behind a "
        f"reply's last id, and the loss went from {before:.4f} to {after:.4f}.",
    )


def _expect_gradient(answer, dice) -> None:
    policy, reference, rows, asked = _pair_batch(3, 7, 6, dice)
    policy.requires_grad_()
    loss = answer(policy, reference, rows, asked, 0.5)
    expect(loss.requires_grad, "the loss has no way back to the policy: nothing can be learned.")
    (slope,) = torch.autograd.grad(loss, policy)
    moved = (policy - 0.05 * slope).detach()
    before = _loss(answer, (policy.detach(), reference, rows, asked), 0.5, "3 pairs")
    after = _loss(answer, (moved, reference, rows, asked), 0.5, "3 pairs")
    expect(after < before, "a step against the gradient does not make the loss smaller.")


# H.3

NEAR = ([0.5, 0.3, 0.15, 0.05], [0.44, 0.33, 0.16, 0.07])
FAR = ([0.5, 0.3, 0.15, 0.05], [0.05, 0.1, 0.15, 0.7])


@exercise("H.3", "Predict: three ways to measure a distance")
def distances(dice, prediction, answer):
    """`answer(policy, reference) -> {name: (mean, spread)}`; `prediction` three names."""
    expect(
        isinstance(prediction, list | tuple) and len(prediction) == 3,
        f"predict with three names in a list; you have {prediction!r:.60}.",
    )
    names = ["k1", "k2", "k3"]
    expect(
        all(isinstance(p, str) and p in names for p in prediction),
        f'each prediction is "k1", "k2" or "k3"; you have {prediction!r:.60}.',
    )
    _expect_table(answer([0.5, 0.5], [0.25, 0.75]), ([0.5, 0.5], [0.25, 0.75]), "by hand")
    for size in (2, 5, 9):
        policy, reference = torch.randn(2, size, generator=dice).softmax(-1).tolist()
        told = f"a policy of {size} tokens"
        _expect_table(answer(list(policy), list(reference)), (policy, reference), told)
    never = [0.6, 0.0, 0.4], [0.3, 0.5, 0.2]
    _expect_table(answer(*map(list, never)), never, "a policy that never writes its second token")
    right = _predictions()
    held = [p == wanted for p, wanted in zip(prediction, right, strict=True)]
    missed = ", ".join(str(i) for i, fine in enumerate(held, 1) if not fine)
    expect(
        all(held),
        f"your table is right. Of your predictions, number {missed} did not come true: print the "
        "table for NEAR and for FAR, find out why, and say what you would predict now.",
    )
    return "Two tell the truth, and which is the calmer one depends on how far you are."


def _moments(pair) -> dict[str, tuple[float, float]]:
    found = {}
    kinds = {
        "k1": lambda r: -math.log(r),
        "k2": lambda r: math.log(r) ** 2 / 2,
        "k3": lambda r: r - 1 - math.log(r),
    }
    for name, value in kinds.items():
        each = [(p, value(q / p)) for p, q in zip(*pair, strict=True) if p > 0]
        mean = sum(p * x for p, x in each)
        found[name] = mean, math.sqrt(sum(p * (x - mean) ** 2 for p, x in each))
    return found


def _predictions() -> list[str]:
    near, far = _moments(NEAR), _moments(FAR)
    kl = sum(p * math.log(p / q) for p, q in zip(*FAR, strict=True))
    wrong = max(near, key=lambda name: abs(far[name][0] - kl))
    honest = [name for name in near if name != wrong]
    return [wrong, *(min(honest, key=lambda name: table[name][1]) for table in (near, far))]


def _expect_table(given, pair, told: str) -> None:
    expect(isinstance(given, dict), f"return a dict; you return a {type(given).__name__}.")
    wanted = _moments(pair)
    backwards = sum(q * math.log(q / p) for p, q in zip(*pair, strict=True) if p > 0 and q > 0)
    for name, (mean, spread) in wanted.items():
        expect(name in given, f'the dict has no "{name}".')
        two = given[name]
        expect(
            hasattr(two, "__len__") and not isinstance(two, str) and len(two) == 2,
            f'"{name}": expected its mean and its spread; you have {two!r:.60}.',
        )
        what = f'{told}: the mean of "{name}"'
        one = two[0].item() if getattr(two[0], "ndim", None) == 0 else two[0]
        expect(
            not isinstance(one, float) or math.isfinite(one),
            f"{what} is {one}. What the policy never writes is never drawn: leave it out.",
        )
        first, second = (
            expect_number(two[0], what),
            expect_number(two[1], f'{told}: the spread of "{name}"'),
        )
        expect(
            first > -1e-6,
            f"{what}: {first:.4f}. A distance is not below 0 on average: the policy draws the "
            "tokens, and r is the reference's chance divided by the policy's.",
        )
        expect(
            abs(first - backwards) > 1e-6 or abs(first - mean) < 1e-6,
            f"{what}: {first:.4f}, the distance the other way round. The policy draws the tokens.",
        )
        expect_same(first, mean, what, atol=1e-6)
        expect(
            abs(second - spread**2) > 1e-6 or abs(spread**2 - spread) < 1e-5,
            f'{told}: the spread of "{name}" is {second:.4f}, the variance; take its root.',
        )
        expect_same(second, spread, f'{told}: the spread of "{name}"', atol=1e-6)


# H.4


@exercise("H.4", "Longer, or better?")
def equal_length(dice, answer):
    """`answer(wins, longer) -> rate`."""
    wins = [1] * 6 + [0] * 2 + [1] + [0] * 3
    longer = [10] * 8 + [-10] * 4
    _expect_rate(answer, wins, longer, 0.5, "the example by hand")
    # exact, with one length for each side: half of the two log-odds
    cases = (((9, 3), 4, (2, 6), -4), ((5, 5), 6, (2, 8), -2), ((12, 4), 3, (7, 7), -9))
    for (a, b), up, (c, d), down in cases:
        wins, longer = [1] * a + [0] * b + [1] * c + [0] * d, [up] * (a + b) + [down] * (c + d)
        high, low = math.log(a / b), math.log(c / d)
        wanted = 1 / (1 + math.exp(-(low + (high - low) * -down / (up - down))))
        told = f"{a} wins of {a + b} at {up:+} words, {c} of {c + d} at {down:+}"
        _expect_rate(answer, wins, longer, wanted, told)
    for size, taste, lean in ((90, 0.0, 1.2), (70, 0.8, -0.7), (120, -0.5, 2.0)):
        words = (torch.randn(size, generator=dice) * 25 + 12).round()
        chance = (taste + lean * words / 25).sigmoid()
        won = (torch.rand(size, generator=dice) < chance).double()
        won[torch.rand(size, generator=dice) < 0.15] = 0.5  # ties
        a = _fitted(won, words.double())
        wanted = 1 / (1 + math.exp(-a))
        told = f"{size} comparisons, of which some are ties"
        _expect_rate(answer, won.tolist(), words.int().tolist(), wanted, told)
        letters = (words * 6).int().tolist()
        _expect_rate(answer, won.tolist(), letters, wanted, f"{told}, lengths told in letters")
    return "What is left of a lead when nobody may talk longer."


def _expect_rate(answer, wins, longer, wanted: float, told: str) -> None:
    given = expect_number(answer(list(wins), list(longer)), told)
    expect(0 <= given <= 1, f"{told}: {given:.4f}, which is no rate. Return σ(a), not a.")
    won, words = torch.tensor(wins).double(), torch.tensor(longer).double()
    raw = won.mean().item()
    expect(
        abs(given - raw) > 1e-3 or abs(wanted - raw) < 3e-3,
        f"{told}: {given:.3f}, the plain win rate. Length still has its say in it.",
    )
    expect(
        abs(given - (1 - wanted)) > 1e-3 or abs(wanted - 0.5) < 3e-3,
        f"{told}: {given:.3f}, expected {wanted:.3f}. Yours is the old model's rate.",
    )
    middle = 1 / (1 + math.exp(-_fitted(won, words - words.mean())))
    expect(
        abs(given - middle) > 1e-3 or abs(wanted - middle) < 3e-3,
        f"{told}: {given:.3f}, expected {wanted:.3f}. Yours is the rate at the *usual* difference "
        "in length, where the mean was taken away. Asked is the rate where the difference is 0.",
    )
    expect_same(given, wanted, told, atol=2e-3)


def _fitted(won: torch.Tensor, words: torch.Tensor) -> float:
    """The intercept of the logistic regression, by Newton's method."""
    x = torch.stack([torch.ones_like(words), words / words.abs().max()], 1)
    w = torch.zeros(2, dtype=torch.double)
    for _ in range(60):
        chance = (x @ w).sigmoid()
        bend = (x * (chance * (1 - chance))[:, None]).T @ x
        w = w + torch.linalg.solve(bend, x.T @ (won - chance))
    return w[0].item()
