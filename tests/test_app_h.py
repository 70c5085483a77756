"""Appendix H, first half: rules, replies, reward models, best-of-n and DPO."""

from __future__ import annotations

import copy
import math
import random
from itertools import combinations, islice, product

import numpy as np
import pytest
import torch

from shared.appendices import (
    PREFERENCE_RULES,
    DPORecipe,
    Replies,
    RewardModel,
    as_replies,
    best_and_worst,
    best_of_n_kl,
    best_of_n_mean,
    best_of_n_weights,
    bradley_terry_loss,
    cut_after,
    does_as_asked,
    dpo_loss,
    draw_tokens,
    ends_kindly,
    exam_questions,
    holds_word,
    ipo_loss,
    is_brief,
    is_polite,
    is_truthful,
    make_opponent,
    measure_against,
    pair_verdicts,
    policy_drift,
    policy_drift_sums,
    preference_loss,
    preference_prompts,
    reply_chances,
    reply_log_probs,
    reply_points,
    reply_rewards,
    reply_totals,
    rules_kept,
    sample_replies,
    shuffled_groups,
    train_dpo,
    train_reward_model,
    tuning_step,
    win_rate,
)
from shared.instructions import Example
from shared.previous_chapters import (
    TURN_END,
    BPETokenizer,
    GPTConfig,
    GPTModel,
    extend_tokenizer,
    generate,
    prompt_ids,
)

TEXT = "Ben had a kite. Mia came by. They laughed together on the hill. Thank you, Ben! " * 8


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return extend_tokenizer(BPETokenizer.train(TEXT, 280))


def small_model(tokenizer: BPETokenizer, seed: int = 0, context: int = 40) -> GPTModel:
    config = GPTConfig(tokenizer.vocab_size, context, embed_dim=24, num_heads=3, num_layers=2)
    model = GPTModel(config, seed=seed)
    with torch.no_grad():  # fresh weights are nearly uniform: give them opinions
        model.token_embedding.weight.mul_(6)
    return model.eval()


def soon_ending_model(tokenizer: BPETokenizer) -> GPTModel:
    """A model that draws the end mark often."""
    model = small_model(tokenizer, seed=2)
    with torch.no_grad():
        model.token_embedding.weight[tokenizer.special_tokens[TURN_END]] *= 0
    return model


def three_replies() -> Replies:
    """Rows of unequal length: prompts of 2, 3 and 1 ids, replies of 3, 1 and 4."""
    rows = [([5, 6, 7, 8, 9], 2), ([4, 3, 2, 11], 3), ([10, 1, 2, 3, 4], 1)]
    tokenizer = extend_tokenizer(BPETokenizer.train(TEXT, 280))
    return as_replies(rows, [0, 1, 2], tokenizer)


# ---- H.1


BEN = Example("continue_story", "Go on, with the word hill.", "Ben had a kite.", "", ("hill",))


@pytest.mark.parametrize(
    ("rule", "text", "kept"),
    [
        (does_as_asked, "They ran up the hill.", True),
        (does_as_asked, "They ran up the hill", False),
        (does_as_asked, "They ran home.", False),
        (is_truthful, "Ben ran. The kite flew.", True),
        (is_truthful, "Ben ran to Rosa.", False),
        (is_truthful, "", True),
        (ends_kindly, "It rained. They went home together.", True),
        (ends_kindly, "They laughed. It rained.", False),
        (ends_kindly, 'It rained. "We are friends!" said Ben.', False),
        (ends_kindly, "They smiled.\n\nThen it rained.", False),
        (is_polite, '"Thank you!" said Ben.', True),
        (is_polite, "Ben said thank you. Thank you!", False),
        (is_polite, '"Go." Thank you. "Stay."', False),
        (is_brief, "word " * 22, True),
        (is_brief, "word " * 23, False),
        (is_brief, "  ", False),
    ],
)
def test_each_rule_says_what_it_says(rule, text, kept):
    assert rule(BEN, text) is kept


def test_a_wanted_name_is_nobody_new():
    asked = Example("continue_story", "Use the word Rosa.", "Ben had a kite.", "", ("Rosa",))
    assert is_truthful(asked, "Rosa came.") and not is_truthful(asked, "Rosa and Tom came.")


def test_whole_words_only():
    assert holds_word("a hand.", ["hand"]) and not holds_word("a handle", ["hand"])


def test_rules_kept_has_a_column_for_each_rule():
    kept = rules_kept([BEN, BEN], ["They ran up the hill.", ""])
    assert kept.shape == (2, 5) and kept.dtype == torch.bool
    assert kept[0].tolist() == [True, True, False, False, True]
    assert rules_kept([], []).shape == (0, len(PREFERENCE_RULES))
    with pytest.raises(ValueError):
        rules_kept([BEN], ["one", "two"])


def test_prompts_are_continuations_and_seeded():
    one, again, other = (preference_prompts(3, seed) for seed in (1, 1, 2))
    assert one == again != other and all(e.family == "continue_story" for e in one)


# ---- H.2


def test_draw_tokens_follows_the_chances():
    chances = torch.tensor([0.1, 0.0, 0.6, 0.3])
    drawn = draw_tokens(chances.log().expand(30_000, 4), 1.0, torch.Generator().manual_seed(3))
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / 30_000
    assert (shares - chances).abs().max() < 0.012 and shares[1] == 0


def test_draw_tokens_at_other_temperatures():
    logits = torch.tensor([[0.0, 1.0, 0.5]]).expand(30_000, 3)
    dice = torch.Generator().manual_seed(4)
    shares = torch.bincount(torch.tensor(draw_tokens(logits, 0.5, dice)), minlength=3) / 30_000
    assert (shares - (logits[0] * 2).softmax(0)).abs().max() < 0.012
    assert draw_tokens(logits[:2], 0, dice) == [1, 1]


def test_draw_tokens_never_leaves_the_vocabulary():
    logits = torch.full((5000, 3), -1e4)
    logits[:, 2] = 0
    assert set(draw_tokens(logits, 1.0, torch.Generator().manual_seed(0))) == {2}


@pytest.mark.parametrize(
    ("row", "start", "cut"),
    [([9, 5, 9, 8], 1, [9, 5, 9]), ([9, 5, 6], 1, [9, 5, 6]), ([9, 9, 9], 1, [9, 9])],
)
def test_cut_after_looks_only_at_the_reply(row, start, cut):
    assert cut_after(row, 9, start) == cut


def test_greedy_replies_are_those_of_chapter_4(tokenizer):
    model = small_model(tokenizer)
    prompts = ["Ben had a kite.", "Mia", "They laughed on the hill."]
    end = tokenizer.special_tokens[TURN_END]
    replies = sample_replies(model, tokenizer, prompts, 3, temperature=0, max_new_tokens=9)
    rows = [prompt_ids(p, tokenizer, model.config.context_length) for p in prompts]
    expected = generate(model, rows, 9, temperature=0, eos_id=end)
    assert replies.prompt == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for i, number in enumerate(replies.prompt):
        ids = expected[number]
        assert replies.token_ids[i, : len(ids)].tolist() == ids
        assert replies.asked[i].nonzero().flatten().tolist() == list(
            range(len(rows[number]), len(ids))
        )


def test_samples_have_the_models_chances(tokenizer):
    model = small_model(tokenizer)
    replies = sample_replies(model, tokenizer, ["Ben"], 3000, seed=1, max_new_tokens=1)
    ids = prompt_ids("Ben", tokenizer, 40)
    with torch.no_grad():
        chances = model(torch.tensor([ids]))[0, -1].softmax(0)
    first = replies.token_ids[:, len(ids)]
    shares = torch.bincount(first, minlength=len(chances)) / len(first)
    assert (shares - chances).abs().max() < 0.03 and chances.max() < 0.9


def test_second_tokens_have_the_models_chances_after_rows_have_left(tokenizer):
    """The cache is copied and thinned out on the way: the rows must keep their own memories."""
    model = soon_ending_model(tokenizer)
    replies = sample_replies(model, tokenizer, ["Ben", "Mia came"], 400, seed=5, max_new_tokens=12)
    totals = reply_totals(model, replies)
    lengths = replies.asked.sum(1)
    assert lengths.float().std() > 1, "all of one length: nothing has left early"
    # what is drawn at random has mean surprise = mean entropy, within a few standard errors
    drift = policy_drift(model, model, replies)
    gap = -totals.sum().item() / lengths.sum().item() - drift["entropy"]
    assert abs(gap) < 0.1, gap


def test_the_same_seed_draws_the_same(tokenizer):
    model = small_model(tokenizer)
    one, two, other = (
        sample_replies(model, tokenizer, ["Ben", "Mia"], 2, seed=s, max_new_tokens=6)
        for s in (1, 1, 2)
    )
    assert torch.equal(one.token_ids, two.token_ids) and one.texts != other.texts


def test_a_reply_stops_where_the_context_ends(tokenizer):
    model = small_model(tokenizer, context=20)
    replies = sample_replies(model, tokenizer, ["Ben had a kite."], 2, max_new_tokens=50)
    assert replies.token_ids.shape[1] <= 20


def test_rows_are_cut_to_what_is_needed():
    part = three_replies().rows(i for i in (1,))
    assert part.token_ids.tolist() == [[4, 3, 2, 11]] and part.prompt == [1] and len(part) == 1
    assert part.asked.tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("rows", [[], [([1, 2], 2)]])
def test_as_replies_wants_replies(rows, tokenizer):
    with pytest.raises(ValueError, match="expected one or more"):
        as_replies(rows, [0] * len(rows), tokenizer)


def test_log_probs_by_hand(tokenizer):
    model, replies = small_model(tokenizer), three_replies()
    found = reply_log_probs(model, replies)
    assert found.shape == (3, 4)
    for row, ids, start, stop in ((0, [5, 6, 7, 8, 9], 2, 5), (1, [4, 3, 2, 11], 3, 4)):
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).log_softmax(-1)[0]
        for t in range(4):
            asked = start <= t + 1 < stop
            expected = log_probs[t, ids[t + 1]].item() if asked else 0.0
            assert found[row, t].item() == pytest.approx(expected, abs=1e-5)
    assert reply_totals(model, replies, rows_at_once=2).tolist() == pytest.approx(
        found.sum(1).tolist(), abs=1e-4
    )
    assert reply_chances(model, replies).shape == (3 + 1 + 4, tokenizer.vocab_size)


def test_log_probs_carry_gradients(tokenizer):
    model, replies = small_model(tokenizer), three_replies()
    reply_log_probs(model, replies).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_all_three_kl_estimates_have_the_right_mean(tokenizer):
    """Over all replies of two tokens, weighted by their chances: exactly the KL of the whole."""
    config = GPTConfig(6, 8, embed_dim=12, num_heads=2, num_layers=1)
    model, reference = GPTModel(config, seed=1).eval(), GPTModel(config, seed=2).eval()
    for one in (model, reference):
        with torch.no_grad():
            one.token_embedding.weight.mul_(20)
    whole, means = 0.0, dict.fromkeys(("kl", "k1", "k3", "entropy"), 0.0)
    for a, b in product(range(6), repeat=2):
        row = Replies(torch.tensor([[3, a, b]]), torch.tensor([[False, True, True]]), [""], [0])
        mine, theirs = (reply_log_probs(m, row).sum().item() for m in (model, reference))
        whole += math.exp(mine) * (mine - theirs)
        with torch.no_grad():
            sums = policy_drift_sums(model, reference, row)
        for name in means:
            means[name] += math.exp(mine) * sums[name]
        assert sums["tokens"] == 2 and sums["k3"] >= 0
    assert whole > 0.05
    for name in ("kl", "k1", "k3"):
        assert means[name] == pytest.approx(whole, rel=1e-3), name
    assert means["entropy"] > 0


def test_drift_counts_per_reply_and_per_token(tokenizer):
    model, reference, replies = small_model(tokenizer), small_model(tokenizer, 1), three_replies()
    found = policy_drift(model, reference, replies, rows_at_once=2)
    with torch.no_grad():
        sums = policy_drift_sums(model, reference, replies)
    assert found["tokens"] == pytest.approx(8 / 3)
    assert found["kl"] == pytest.approx(sums["kl"] / 3, rel=1e-4)
    assert found["entropy"] == pytest.approx(sums["entropy"] / 8, rel=1e-4)


def test_win_rate_by_hand():
    rate, low, high = win_rate(torch.tensor([[4, 2], [0, 0]]), torch.tensor([[2, 1], [0, 5]]))
    assert rate == pytest.approx((0.875 + 0.25) / 2) and low < rate < high
    same = win_rate(torch.ones(5, 3), torch.ones(5, 2))
    assert same == (0.5, 0.5, 0.5)


def test_the_interval_counts_prompts_not_contests():
    mine, theirs = torch.tensor([[1.0], [0.0]]).repeat(20, 1), torch.full((40, 1), 0.5)
    narrow = win_rate(mine, theirs)
    assert win_rate(mine.expand(40, 7), theirs.expand(40, 3)) == pytest.approx(narrow)


@pytest.mark.parametrize(("one", "two"), [((3, 2), (2, 2)), ((1, 2), (1, 2)), ((4,), (4,))])
def test_win_rate_complains(one, two):
    with pytest.raises(ValueError, match="the same two or more prompts"):
        win_rate(torch.ones(one), torch.ones(two))


def test_the_exam_leaves_out_what_has_many_answers():
    questions = exam_questions(2)
    assert len(questions) == 30 and "continue_story" not in {q.family for q in questions}


# ---- H.3


def test_best_and_worst_by_hand():
    points = torch.tensor([[2, 3, 3], [1, 1, 1], [4, 0, 2]])
    found = {tuple(best_and_worst(points, seed=s)) for s in range(20)}
    assert found == {((1, 0), (6, 7)), ((2, 0), (6, 7))}, "the dice must decide among equals"
    assert best_and_worst(points, gap=2) == [(6, 7)]
    with pytest.raises(ValueError, match="above 0"):
        best_and_worst(points, gap=0)


# ---- H.4


def test_bradley_terry_against_a_loop():
    dice = torch.Generator().manual_seed(0)
    rewards = torch.randn(5, 3, generator=dice, dtype=torch.double)
    points = torch.randint(0, 3, (5, 3), generator=dice)
    terms = [
        math.log1p(math.exp(-(rewards[p, i] - rewards[p, j]).item()))
        for p in range(5)
        for i in range(3)
        for j in range(3)
        if points[p, i] > points[p, j]
    ]
    assert bradley_terry_loss(rewards, points).item() == pytest.approx(np.mean(terms), rel=1e-9)
    shifted = rewards + torch.randn(5, 1, generator=dice, dtype=torch.double)
    assert bradley_terry_loss(shifted, points).item() == pytest.approx(np.mean(terms), rel=1e-9)


@pytest.mark.parametrize(
    ("rewards", "points"),
    [(torch.ones(2, 3), torch.ones(2, 3)), (torch.ones(2, 3), torch.ones(3, 2))],
)
def test_bradley_terry_complains(rewards, points):
    with pytest.raises((ValueError, RuntimeError), match="rewards|size"):
        bradley_terry_loss(rewards, points)


def test_pair_verdicts_are_of_the_better_reply():
    rewards, points = torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([[3, 1, 1]])
    gaps, apart = pair_verdicts(rewards, points)
    assert sorted(gaps.tolist()) == [-3, -1] and apart.tolist() == [2, 2]


def test_a_reward_model_starts_equal_and_reads_the_last_place(tokenizer):
    gpt, replies = small_model(tokenizer), three_replies()
    reward = RewardModel(gpt)
    assert reward_of(reward, replies) == [0, 0, 0]
    with torch.no_grad():
        reward.output_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    together = reward_of(reward, replies)
    alone = [reward_of(reward, replies.rows([i]))[0] for i in range(3)]
    assert together == pytest.approx(alone, abs=1e-5) and len(set(together)) == 3
    with torch.no_grad():
        last = reward(replies.token_ids[:1, :5])[0, 4, 0].item()
    assert together[0] == pytest.approx(last, abs=1e-5)


def reward_of(reward: RewardModel, replies: Replies) -> list[float]:
    return reply_rewards(reward, replies, rows_at_once=2).tolist()


def test_a_reward_model_learns_what_is_preferred(tokenizer):
    """Shorter replies are better: it knows that of replies it has not read."""
    model, dice = small_model(tokenizer), random.Random(0)
    lengths = [dice.sample(range(1, 9), 4) for _ in range(18)]
    rows = [
        ([5, 6, *(dice.randrange(200) for _ in range(length))], 2)
        for some in lengths
        for length in some
    ]
    replies, points = as_replies(rows, [0] * 72, tokenizer), -torch.tensor(lengths)
    before = copy.deepcopy(model.state_dict())
    reward, losses = train_reward_model(
        model, replies, points[:12], steps=30, prompts_per_step=6, rate=3e-3
    )
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and losses[-1] < 0.5
    rewards = reply_rewards(reward, replies.rows(range(48, 72))).view(6, 4)
    gaps, _ = pair_verdicts(rewards, points[12:])
    assert len(gaps) == 36 and (gaps > 0).float().mean() > 0.75
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_shuffled_groups_take_everything_once_a_round():
    groups = list(islice(shuffled_groups("abcdef", 4, seed=1), 3))
    assert sorted("".join(sum(groups, []))) == sorted("abcdef" * 2)
    assert [len(g) for g in groups] == [4, 4, 4]
    assert len(next(shuffled_groups([1, 2], 5))) == 5
    with pytest.raises(ValueError, match="no items"):
        next(shuffled_groups([], 2))


def test_tuning_steps_warm_up_and_fall():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer, rates = torch.optim.SGD([weight], lr=1.0), []
    for step in range(20):
        norm = tuning_step((5 * weight).sum(), optimizer, step, 20, 0.1)
        rates.append(optimizer.param_groups[0]["lr"])
        assert norm == pytest.approx(5)
    assert rates[0] == pytest.approx(0.05) and max(rates) == rates[1] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.01)
    assert weight.item() == pytest.approx(1 - sum(rates), abs=1e-5), "the gradient is cut to 1"
    with pytest.raises(FloatingPointError, match="lower rate"):
        tuning_step((weight * math.nan).sum(), optimizer, 0, 20, 0.1)


# ---- H.5


@pytest.mark.parametrize(("total", "n"), [(5, 1), (5, 2), (6, 4), (4, 4)])
def test_best_of_n_weights_against_all_groups(total, n):
    wins = np.bincount([max(group) for group in combinations(range(total), n)], minlength=total)
    assert best_of_n_weights(total, n).tolist() == pytest.approx((wins / wins.sum()).tolist())


@pytest.mark.parametrize("n", [0, 6])
def test_best_of_n_complains(n):
    with pytest.raises(ValueError, match="expected 1 to 5"):
        best_of_n_weights(5, n)


def test_best_of_n_mean_against_all_groups():
    dice = torch.Generator().manual_seed(2)
    rewards, values = torch.rand(3, 6, generator=dice), torch.rand(3, 6, generator=dice)
    groups = list(combinations(range(6), 3))
    for row in range(3):
        tops = [max(g, key=lambda i, row=row: rewards[row, i].item()) for g in groups]
        expected = np.mean([values[row, i].item() for i in tops])
        assert best_of_n_mean(values, rewards, 3)[row].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_best_of_n_kl_against_all_draws(n):
    """Replies with rewards that tie: every draw of n, its chance, and luck among equals."""
    chances, reward = [0.2, 0.25, 0.15, 0.4], [0, 1, 1, 2]
    best = np.zeros(4)
    for drawn in product(range(4), repeat=n):
        top = max(reward[i] for i in drawn)
        for i in drawn:
            if reward[i] == top:
                tied = sum(reward[j] == top for j in drawn)
                best[i] += np.prod([chances[j] for j in drawn]) / tied
    kl = sum(b * math.log(b / c) for b, c in zip(best, chances, strict=True))
    assert best_of_n_kl(n, [0.2, 0.4, 0.4]) == pytest.approx(kl, abs=1e-9)
    assert best_of_n_kl(n, [0.2, 0.4, 0.4]) <= best_of_n_kl(n) + 1e-9


def test_best_of_n_bound_by_integral():
    u = (np.arange(200_000) + 0.5) / 200_000  # of the reward's rank: density n u^(n-1)
    for n in (2, 5, 64):
        log_density = math.log(n) + (n - 1) * np.log(u)
        kl = np.mean(np.exp(log_density) * log_density)
        assert best_of_n_kl(n) == pytest.approx(kl, abs=1e-3)


# ---- H.6


def published_sigmoid(chosen, rejected, ref_chosen, ref_rejected, beta, eps):
    """TRL's `sigmoid` loss as its documentation gives it, in NumPy, from sums of log-probs."""
    h = (chosen - rejected) - (ref_chosen - ref_rejected)
    log_sigmoid = lambda x: -np.logaddexp(0, -x)
    return -log_sigmoid(beta * h) * (1 - eps) - log_sigmoid(-beta * h) * eps


def published_ipo(chosen, rejected, ref_chosen, ref_rejected, beta):
    """TRL's `ipo` loss, in NumPy; its log-probs are means over a reply's tokens."""
    h = (chosen - rejected) - (ref_chosen - ref_rejected)
    return (h - 1 / (2 * beta)) ** 2


@pytest.mark.parametrize("beta", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.35])
def test_dpo_is_the_published_loss(beta, eps):
    dice = np.random.default_rng(0)
    four = dice.normal(-30, 12, (4, 7))
    margin = torch.tensor((four[0] - four[2]) - (four[1] - four[3]))
    expected = published_sigmoid(*four, beta, eps)
    assert dpo_loss(margin, beta, eps).tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_dpo_numbers_by_hand():
    # log-probabilities -12 and -20, under the reference -15 and -15: margin 3 + 5 = 8
    assert dpo_loss(torch.tensor(8.0), 0.1).item() == pytest.approx(0.371101, abs=1e-5)
    # smoothing 0.1: 0.9 * 0.371101 + 0.1 * 1.171101
    assert dpo_loss(torch.tensor(8.0), 0.1, 0.1).item() == pytest.approx(0.451101, abs=1e-5)
    assert dpo_loss(torch.tensor(0.0), 0.7).item() == pytest.approx(math.log(2))
    assert ipo_loss(torch.tensor(8.0), 0.1).item() == pytest.approx(9.0)
    assert dpo_loss(torch.tensor(-5000.0), 1.0).item() == pytest.approx(5000)


def test_the_pull_of_dpo_is_beta_times_the_doubt():
    margin = torch.tensor([0.0, 4.0, -4.0], requires_grad=True)
    dpo_loss(margin, 0.5).sum().backward()
    expected = [-0.5 / (1 + math.exp(0.5 * m)) for m in (0, 4, -4)]
    assert margin.grad.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_preference_loss_from_tokens_as_published(tokenizer, loss):
    """From token log-probabilities of two models, with replies of unequal length."""
    model, reference, replies = (
        small_model(tokenizer, 3),
        small_model(tokenizer, 4),
        three_replies(),
    )
    rows = [0, 2, 1, 0]  # chosen: 0 and 2; rejected: 1 and 0
    ratios = (reply_totals(model, replies) - reply_totals(reference, replies))[rows]
    lengths = replies.asked.sum(1)[rows]
    recipe = DPORecipe(beta=0.4, loss=loss, label_smoothing=0.0 if loss == "ipo" else 0.2)
    ids, starts, stops = replies.token_ids, (2, 3, 1), (5, 4, 5)
    numbers = {}
    for name, one in (("policy", model), ("reference", reference)):
        for r in range(3):
            with torch.no_grad():
                log_probs = one(ids[r : r + 1]).double().log_softmax(-1)[0]
            tokens = [log_probs[t - 1, ids[r, t]].item() for t in range(starts[r], stops[r])]
            numbers[name, r] = np.mean(tokens) if loss == "ipo" else np.sum(tokens)
    pairs = [(0, 1), (2, 0)]
    four = [
        np.array([numbers[name, pair[side]] for pair in pairs])
        for name in ("policy", "reference")
        for side in (0, 1)
    ]
    expected = published_ipo(*four, 0.4) if loss == "ipo" else published_sigmoid(*four, 0.4, 0.2)
    assert preference_loss(ratios, lengths, recipe).item() == pytest.approx(
        expected.mean(), rel=1e-4
    )


@pytest.mark.parametrize(("beta", "eps"), [(0, 0), (-1, 0), (0.1, 0.5), (0.1, -0.1)])
def test_dpo_complains(beta, eps):
    with pytest.raises(ValueError, match="beta="):
        dpo_loss(torch.zeros(2), beta, eps)


def test_ipo_and_recipe_complain():
    with pytest.raises(ValueError, match="beta=0"):
        ipo_loss(torch.zeros(1), 0)
    with pytest.raises(ValueError, match="hinge"):
        DPORecipe(loss="hinge")


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_dpo_prefers_what_was_chosen(tokenizer, loss):
    model = small_model(tokenizer)
    replies = sample_replies(model, tokenizer, ["Ben", "Mia", "They"], 2, seed=2, max_new_tokens=8)
    pairs, before = [(0, 1), (3, 2), (4, 5)], copy.deepcopy(model.state_dict())
    recipe = DPORecipe(beta=0.5, loss=loss, rate=2e-3, steps=25, pairs_per_step=3)
    tuned, history = train_dpo(model, replies, pairs, recipe)
    first = {"dpo": math.log(2), "ipo": 1.0}[loss]
    assert history[0]["loss"] == pytest.approx(first, abs=1e-4) and len(history) == 25
    assert history[-1]["loss"] < 0.7 * first and history[-1]["right"] == 1
    ratios = reply_totals(tuned, replies) - reply_totals(model, replies)
    assert all(ratios[c] > ratios[r] for c, r in pairs)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_dpo_goes_on_from_a_start_with_the_old_reference(tokenizer):
    reference, start = small_model(tokenizer), small_model(tokenizer, seed=1)
    replies = three_replies()
    recipe = DPORecipe(beta=0.1, steps=1, pairs_per_step=1)
    _, history = train_dpo(reference, replies, [(0, 2)], recipe, start=start)
    ratios = reply_totals(start, replies) - reply_totals(reference, replies)
    assert history[0]["chosen"] == pytest.approx(ratios[0].item(), abs=1e-3)
    assert history[0]["rejected"] == pytest.approx(ratios[2].item(), abs=1e-3)


def test_the_chosen_replys_own_loss_lifts_it(tokenizer):
    model, replies = small_model(tokenizer), three_replies()
    plain, with_it = (
        train_dpo(
            model,
            replies,
            [(0, 2)],
            DPORecipe(steps=15, pairs_per_step=1, rate=1e-3, chosen_weight=weight),
        )[1][-1]["chosen"]
        for weight in (0.0, 5.0)
    )
    assert with_it > plain


def test_a_model_measured_against_itself(tokenizer):
    model = small_model(tokenizer, context=256)
    other = make_opponent(model, tokenizer, 3, 2, per_family=1)
    found = measure_against(other, model, per_family=1)
    assert other.points.shape == (3, 2) and found["task_lost"] == 0
    assert abs(found["kl"]) < 1e-3 and set(found["rules"]) == set(PREFERENCE_RULES)
    assert torch.equal(other.points, reply_points(other.examples, other.replies))


# What cannot be done is said


@pytest.mark.parametrize(
    ("count", "wrong", "told"),
    [
        (0, {}, "0 prompts"),
        (2, {"per_prompt": 0}, "0 replies to each"),
        (2, {"max_new_tokens": 0}, "max_new_tokens=0"),
        (2, {"temperature": -1.0}, "temperature=-1.0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tokenizer, count, wrong, told):
    prompts = preference_prompts(count)
    with pytest.raises(ValueError, match=told):
        sample_replies(small_model(tokenizer), tokenizer, prompts, **wrong)


def test_no_pairs_and_points_of_other_replies_are_refused(tokenizer):
    model, replies = small_model(tokenizer), three_replies()
    with pytest.raises(ValueError, match="no pairs"):
        train_dpo(model, replies, [])
    for points in (torch.ones(2, 2), torch.ones(3)):  # too many; not by prompt
        with pytest.raises(ValueError, match="for 3 replies"):
            train_reward_model(model, replies, points)
