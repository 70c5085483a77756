"""Appendix H, second half: advantages, clipping, distances and training by reward, with values."""

from __future__ import annotations

import itertools
import math
from itertools import islice

import pytest
import torch

from shared.appendices import (
    GRPO,
    PPO,
    GRPORecipe,
    PolicyTraining,
    PPORecipe,
    Replies,
    ValueHead,
    clipped_objective,
    exact_match_reward,
    fit_values,
    generalised_advantages,
    group_advantages,
    grpo_loss,
    k3_to_reference,
    longer_questions,
    ordinary_batches,
    policy_step,
    reply_log_probs,
    run_policy,
    sample_replies,
    token_rewards,
)
from shared.instructions import Example, instructions
from shared.instructions.draw import LONGEST
from shared.previous_chapters import (
    IGNORED,
    BPETokenizer,
    GPTConfig,
    GPTModel,
    extend_tokenizer,
)


@pytest.fixture
def tokenizer() -> BPETokenizer:
    text = "yes no yes no maybe. Say it. Say yes. " * 20
    return extend_tokenizer(BPETokenizer.train(text, vocab_size=266))


@pytest.fixture
def model(tokenizer: BPETokenizer) -> GPTModel:
    size = {"context_length": 40, "embed_dim": 16, "num_heads": 2, "num_layers": 1}
    return GPTModel(GPTConfig(vocab_size=tokenizer.vocab_size, dropout=0.0, **size), seed=0).eval()


def mask(starts_and_ends: list[tuple[int, int]], places: int) -> torch.Tensor:
    asked = torch.zeros(len(starts_and_ends), places, dtype=torch.bool)
    for row, (start, end) in zip(asked, starts_and_ends, strict=True):
        row[start:end] = True
    return asked


# ---- advantages ---------------------------------------------------------------------
def test_group_advantages_on_the_hand() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [0, 2, 0, 2]])
    plain = group_advantages(rewards, by_std=False)
    assert plain.tolist() == [[0.75, -0.25, -0.25, -0.25], [0] * 4, [-1, 1, -1, 1]]
    over = group_advantages(rewards)
    assert over[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert over[1].tolist() == [0.0] * 4
    assert over[2].tolist() == pytest.approx([-math.sqrt(3) / 2, math.sqrt(3) / 2] * 2)


def test_the_spread_takes_the_rewards_scale_away() -> None:
    rewards = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(group_advantages(rewards), group_advantages(7 * rewards - 3), atol=1e-4)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 3, 4)])
def test_rewards_without_a_group_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(prompts, group\)"):
        group_advantages(torch.ones(shape))


def naive_advantages(rewards, values, asked, discount, trace) -> torch.Tensor:
    """The sum of all later surprises, each faded, by a double loop."""
    result = torch.zeros_like(rewards)
    for r in range(len(rewards)):
        places = asked[r].nonzero().flatten().tolist()
        for i, t in enumerate(places):
            for k, u in enumerate(places[i:]):
                following = values[r, u + 1] if u + 1 in places else 0.0
                surprise = rewards[r, u] + discount * following - values[r, u]
                result[r, t] += (discount * trace) ** k * surprise
    return result


@pytest.mark.parametrize(("discount", "trace"), [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (0.7, 1.0)])
def test_gae_is_the_double_loop(discount: float, trace: float) -> None:
    dice = torch.Generator().manual_seed(1)
    asked = mask([(0, 7), (2, 5), (6, 7)], 7)
    rewards, values = torch.randn(2, 3, 7, generator=dice)  # also where nothing was asked
    expected = naive_advantages(rewards, values, asked, discount, trace)
    found = generalised_advantages(rewards, values, asked, discount, trace)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not found[~asked].any()


def test_gae_errors_name_the_shapes() -> None:
    rows = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"'values': \(2, 4\)"):
        generalised_advantages(rows, torch.ones(2, 4), rows > 0)
    with pytest.raises(ValueError, match=r"trace=1.5; expected numbers from 0 to 1"):
        generalised_advantages(rows, rows, rows > 0, trace=1.5)


def test_token_rewards_by_hand() -> None:
    asked = mask([(1, 4), (0, 2)], 5)
    log_probs, reference = torch.full((2, 5), -1.0), torch.full((2, 5), -2.0)
    found = token_rewards(torch.tensor([1.0, -0.5]), log_probs, reference, asked, 0.1)
    expected = torch.tensor([[0, -0.1, -0.1, 0.9, 0], [-0.1, -0.6, 0, 0, 0]])
    assert torch.allclose(found, expected)


# ---- clipping and distances ---------------------------------------------------------
@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [(1.5, 1.0, 1.2, 0.0), (1.1, 1.0, 1.1, 1.1), (0.5, 1.0, 0.5, 0.5)]
    + [(0.5, -1.0, -0.8, 0.0), (0.9, -1.0, -0.9, -0.9), (1.5, -1.0, -1.5, -1.5)],
)
def test_clipping(ratio: float, advantage: float, value: float, slope: float) -> None:
    log_prob = torch.tensor([[math.log(ratio)]], requires_grad=True)
    found = clipped_objective(log_prob, torch.zeros(1, 1), torch.tensor([[advantage]]), 0.2)
    assert found.item() == pytest.approx(value, abs=1e-6)
    found.backward()
    assert log_prob.grad.item() == pytest.approx(slope, abs=1e-6)


def test_k3_is_right_on_average_and_never_negative() -> None:
    """Over all replies of three tokens from a vocabulary of four, counted out."""
    dice = torch.Generator().manual_seed(2)
    mine = torch.randn(3, 4, generator=dice, dtype=torch.double).log_softmax(-1)
    theirs = torch.randn(3, 4, generator=dice, dtype=torch.double).log_softmax(-1)
    mean = 0.0
    for tokens in itertools.product(range(4), repeat=3):
        places = torch.arange(3), torch.tensor(tokens)
        each = k3_to_reference(mine[places], theirs[places])
        assert (each >= 0).all()
        mean += mine[places].sum().exp() * each.sum()
    assert torch.allclose(mean, (mine.exp() * (mine - theirs)).sum())


def test_as_a_loss_k3_has_the_slope_of_the_other_kl() -> None:
    """The mean over the policy's draws of its slope is that of KL(reference, policy)."""
    dice = torch.Generator().manual_seed(5)
    logits = torch.randn(5, generator=dice, dtype=torch.double).requires_grad_()
    theirs = torch.randn(5, generator=dice, dtype=torch.double).log_softmax(-1)
    mine = logits.log_softmax(-1)
    drawn = mine.detach().exp()  # how often each is drawn, which has no slope in a loss
    found = torch.autograd.grad((drawn * k3_to_reference(mine, theirs)).sum(), logits)[0]
    other = (theirs.exp() * (theirs - logits.log_softmax(-1))).sum()
    assert torch.allclose(found, torch.autograd.grad(other, logits)[0])


@pytest.mark.parametrize("per_reply", [True, False])
def test_at_ratio_one_the_gradient_is_reinforce_with_a_baseline(per_reply: bool) -> None:
    asked, recipe = mask([(0, 2), (1, 5)], 5), GRPORecipe(kl_weight=0.0, per_reply=per_reply)
    dice = torch.Generator().manual_seed(3)
    now = (-torch.rand(2, 5, generator=dice)).requires_grad_()
    gains = group_advantages(torch.tensor([[1.0, 0.0]]), by_std=False)[0]
    loss = grpo_loss(now, now.detach(), now.detach(), asked, gains, recipe)
    size = asked.sum(1, keepdim=True) if per_reply else recipe.max_new_tokens
    reinforce = -(gains[:, None] * now * asked / size).sum() / 2
    found, expected = (torch.autograd.grad(x, now)[0] for x in (loss, reinforce))
    assert torch.allclose(found, expected)
    assert found.abs().sum() > 0


def test_rows_left_out_still_count_in_the_mean() -> None:
    asked, gains = mask([(0, 2), (1, 4), (2, 5)], 5), torch.tensor([1.0, -1.0, 0.0])
    now = -torch.rand(3, 5, generator=torch.Generator().manual_seed(4))
    recipe = GRPORecipe(kl_weight=0.0)
    whole = grpo_loss(now, now - 0.1, now, asked, gains, recipe)
    part = grpo_loss(now[:2], now[:2] - 0.1, now[:2], asked[:2], gains[:2], recipe, rows=3)
    assert torch.allclose(whole, part)


def test_the_leash_pulls_back() -> None:
    asked, recipe = mask([(0, 1), (0, 1)], 1), GRPORecipe(kl_weight=1.0)
    now = torch.tensor([[-1.0], [-3.0]], requires_grad=True)
    reference = torch.tensor([[-2.0], [-2.0]])
    grpo_loss(now, now.detach(), reference, asked, torch.zeros(2), recipe).backward()
    assert now.grad[0] > 0 > now.grad[1]  # gradient descent lowers the first, raises the second


# ---- questions ----------------------------------------------------------------------
def test_longer_questions_are_longer_and_the_exam_is_apart() -> None:
    learned = list(islice(longer_questions(["sum", "sort"], seed=0), 60))
    exam = list(islice(longer_questions(["sum", "sort"], seed=1, for_exam=True), 60))
    assert [e.family for e in learned[:4]] == ["sum", "sort", "sum", "sort"]
    assert all(len(e.content.split()) > LONGEST[e.family][0] for e in learned + exam)
    assert not {e.content for e in learned} & {e.content for e in exam}
    assert learned == list(islice(longer_questions(["sum", "sort"], seed=0), 60))


def test_exact_match_reward() -> None:
    examples = [Example("count", "How many?", "kite, drum", "two")] * 2
    none = torch.zeros(2, 1, dtype=torch.long)
    replies = Replies(none, none > 0, ["two", "three"], [0, 0])
    assert exact_match_reward(examples, replies).tolist() == [1.0, 0.0]


def test_ordinary_batches_ask_for_replies_only(tokenizer: BPETokenizer) -> None:
    inputs, targets = next(ordinary_batches(tokenizer, rows=3, seed=5))
    assert len(inputs) == 3
    assert inputs.shape == targets.shape
    assert 0 < (targets != IGNORED).sum() < inputs.numel() / 2


# ---- learning -----------------------------------------------------------------------
def ask_for(word: str):
    """A reward for the share of a reply's letters that stand in a word."""

    def reward(examples, replies: Replies) -> torch.Tensor:
        shares = [sum(c in word for c in text) / max(len(text), 1) for text in replies.texts]
        return torch.tensor(shares)

    return reward


def same_question():
    return itertools.repeat(Example("say", "Say it.", "", "yes"))


@pytest.mark.parametrize("kind", [GRPO, PPO])
def test_a_tiny_policy_learns(kind, model: GPTModel, tokenizer: BPETokenizer) -> None:
    size = {"steps": 25, "max_new_tokens": 3, "learning_rate": 1e-2, "kl_weight": 0.0}
    if kind is GRPO:
        recipe = GRPORecipe(prompts=2, group=16, **size)
    else:
        recipe = PPORecipe(prompts=32, **size)
    training = kind(model, tokenizer, same_question(), ask_for("yes"), recipe)
    notes = run_policy(training, look=lambda m: {"looked": 1}, every=7)
    rewards = [note["reward"] for note in notes]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3, rewards
    assert [n["step"] for n in notes if "looked" in n] == [7, 14, 21, 25]
    assert training.done == len(notes) == 25
    assert notes[-1]["kl"] > notes[0]["kl"] == pytest.approx(0, abs=1e-5)


def test_the_reference_stays_and_seeds_repeat(model: GPTModel, tokenizer: BPETokenizer) -> None:
    start = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = GRPORecipe(steps=3, prompts=2, group=4, max_new_tokens=3, learning_rate=1e-3)
    ends = []
    for _ in range(2):
        model.load_state_dict(start)
        training = GRPO(model, tokenizer, same_question(), ask_for("yes"), recipe)
        run_policy(training)
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
        kept = training.reference.state_dict()
        assert all(torch.equal(kept[name], start[name]) for name in start)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in start)
    assert any(not torch.equal(ends[0][name], start[name]) for name in start)


def test_groups_of_one_mind_change_nothing(model: GPTModel, tokenizer: BPETokenizer) -> None:
    start = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = GRPORecipe(steps=2, prompts=2, group=4, max_new_tokens=3)
    nothing = lambda examples, replies: torch.ones(len(replies))
    notes = policy_step(GRPO(model, tokenizer, same_question(), nothing, recipe))
    assert notes["useful"] == 0.0
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())


def test_replay_is_learned_beside(model: GPTModel, tokenizer: BPETokenizer) -> None:
    batch = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[IGNORED, 5, 5, 5]])
    recipe = GRPORecipe(steps=20, prompts=1, group=2, max_new_tokens=2, learning_rate=3e-3)
    nothing = lambda examples, replies: torch.ones(len(replies))
    training = GRPO(model, tokenizer, same_question(), nothing, recipe, itertools.repeat(batch))
    run_policy(training)
    assert model(batch[0]).argmax(-1)[0, 1:].tolist() == [5, 5, 5]


def test_a_training_without_losses_says_so(model: GPTModel, tokenizer: BPETokenizer) -> None:
    recipe = GRPORecipe(prompts=1, group=2, max_new_tokens=2)
    nothing = lambda examples, replies: torch.ones(len(replies))
    with pytest.raises(NotImplementedError, match="see GRPO and PPO"):
        policy_step(PolicyTraining(model, tokenizer, same_question(), nothing, recipe))


def test_the_value_head_learns_and_leaves_features_alone() -> None:
    dice = torch.Generator().manual_seed(6)
    features = torch.randn(50, 3, generator=dice, requires_grad=True)
    returns = (features.detach() @ torch.tensor([1.0, -2.0, 0.5])) + 0.3
    head = ValueHead(3)
    assert head(features).tolist() == [0.0] * 50
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    known = [fit_values(head, optimizer, features, returns, steps=100) for _ in range(4)]
    assert known[0] == pytest.approx(0.0, abs=1e-6)
    assert known[-1] > 0.99
    head(features).sum().backward()
    assert features.grad is None
    assert head(torch.zeros(2, 5, 3)).shape == (2, 5)


def test_longer_replies_than_asked_are_not_read(model: GPTModel, tokenizer: BPETokenizer) -> None:
    """Log-probabilities at a reply's places only, whatever the width of the batch."""
    examples = [next(same_question()), Example("say", "Say yes. Say yes.", "", "no")]
    replies = sample_replies(model, tokenizer, examples, 3, max_new_tokens=5, seed=1)
    narrow = replies.rows([0, 4])
    with torch.no_grad():
        whole, part = reply_log_probs(model, replies), reply_log_probs(model, narrow)
    width = part.shape[1]
    assert torch.allclose(whole[[0, 4], :width], part, atol=1e-5)
    assert next(instructions(0)).family  # the stream is there, and not used up by the above


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"prompts": 0}, {"group": 0}, {"clip": 0.0}])
def test_a_recipe_without_steps_replies_or_clip_is_refused(wrong):
    name, value = next(iter(wrong.items()))
    for recipe in (GRPORecipe, PPORecipe):
        with pytest.raises(ValueError, match=f"{name}={value}.*expected"):
            recipe(**wrong)
