"""The comparisons of appendix H, with three seeds or more each.

    python appendix/h_preference_tuning/experiments.py reward_model   how many pairs it needs
    python appendix/h_preference_tuning/experiments.py best_of_n      what n buys, and its price
    python appendix/h_preference_tuning/experiments.py dpo            β, IPO, noise, rounds
    python appendix/h_preference_tuning/experiments.py confirm        the rounds, on fresh prompts
    python appendix/h_preference_tuning/experiments.py grpo           right or wrong as the reward
    python appendix/h_preference_tuning/experiments.py ppo            against a learned reward
    python appendix/h_preference_tuning/experiments.py hack           a reward that can be cheated
    python appendix/h_preference_tuning/experiments.py all            all seven; some hours

Each writes results/NAME.json after every run and goes on where it was stopped. With --minutes it
stops by itself.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import shared.instructions
import shared.stories
from shared.appendices import (
    GRPO,
    PPO,
    DPORecipe,
    GRPORecipe,
    Opponent,
    PPORecipe,
    Replies,
    RewardModel,
    RewardRule,
    best_and_worst,
    best_of_n_kl,
    best_of_n_mean,
    exact_match_reward,
    exam_questions,
    kind_and_fitting_reward,
    kind_word_reward,
    longer_questions,
    make_opponent,
    measure_against,
    ordinary_batches,
    pair_verdicts,
    pass_at_k,
    policy_drift,
    preference_prompts,
    reply_points,
    reply_rewards,
    run_policy,
    sample_replies,
    task_accuracy,
    train_dpo,
    train_reward_model,
    win_rate,
)
from shared.experiments import keep_runs, source_hash
from shared.instructions import Example, instructions
from shared.previous_chapters import (
    BPETokenizer,
    GPTModel,
    assistant_model,
    calibration_error,
    would_answer,
)

RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = (0, 1, 2)
HELD_OUT = 100  # prompts of every contest, four replies each
REPLIES = 4  # to each prompt that is learned from
DATA = source_hash(shared.stories, shared.instructions)


@lru_cache(maxsize=1)
def start() -> tuple[GPTModel, BPETokenizer, Opponent]:
    """The SFT model, its tokenizer, and what others are measured against."""
    model, tokenizer = assistant_model()
    return model, tokenizer, make_opponent(model, tokenizer, HELD_OUT)


def sampled(
    policy: GPTModel, prompts: int, seed: int, number: int = 0
) -> tuple[list[Example], Replies, Tensor]:
    """Prompts of a seed, a policy's replies to them, and their points."""
    _, tokenizer, _ = start()
    examples = preference_prompts(prompts, 100 * seed + number + 10)
    replies = sample_replies(policy, tokenizer, examples, REPLIES, seed=100 * seed + number)
    return examples, replies, reply_points(examples, replies)


@lru_cache(maxsize=6)
def of_the_reference(seed: int, prompts: int) -> tuple[list[Example], Replies, Tensor]:
    """The SFT model's replies: the same for all runs of a seed."""
    return sampled(start()[0], prompts, seed)


# --- H.4: how many prompts a reward model needs

MOST_PROMPTS = 400


@lru_cache(maxsize=4)
def reward_for(seed: int, prompts: int = MOST_PROMPTS) -> RewardModel:
    """A reward model that has learned from the first so many prompts of a seed."""
    _, replies, points = of_the_reference(seed, MOST_PROMPTS)
    some = replies.rows(range(prompts * REPLIES))
    steps = max(20, prompts // 5)
    return train_reward_model(start()[0], some, points[:prompts], steps=steps, seed=seed)[0]


def judge_reward_model(prompts: int, seed: int) -> dict:
    """Right verdicts and calibration on the opponent's replies, which it has not seen."""
    *_, other = start()
    rewards = reply_rewards(reward_for(seed, prompts), other.replies).view(other.points.shape)
    gaps, apart = pair_verdicts(rewards, other.points)
    right = (gaps > 0).float()
    return {
        "pairs": len(gaps),
        "accuracy": right.mean().item(),
        **{f"accuracy_{by}": right[apart == by].mean().item() for by in (1, 2, 3)},
        "loss": -F.logsigmoid(gaps).mean().item(),
        "confidence": gaps.abs().sigmoid().mean().item(),
        "calibration_error": calibration_error(gaps.abs().sigmoid().tolist(), (gaps > 0).tolist()),
    }


def reward_model(minutes: float) -> None:
    """Accuracy and calibration against the number of prompts learned from."""
    keep_runs(
        RESULTS / "reward_model.json",
        "A reward model's verdicts on held-out pairs, by the number of prompts it learned from",
        [{"prompts": n, "seed": seed} for seed in SEEDS for n in (50, 150, MOST_PROMPTS)],
        judge_reward_model,
        settings={"replies": REPLIES, "held_out": HELD_OUT, "steps": "prompts / 5, 20 or more"},
        data=DATA,
        minutes=minutes,
    )


# --- H.5: best of n

LARGEST = 64
BEST_OF = (1, 2, 4, 8, 16, 32, LARGEST)
BEST_PROMPTS = 30


@lru_cache(maxsize=1)
def many_replies(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, rewards, words and shares of contests won, of LARGEST replies to each prompt."""
    model, tokenizer, other = start()
    examples = other.examples[:BEST_PROMPTS]
    replies = sample_replies(model, tokenizer, examples, LARGEST, seed=900 + seed)
    points = reply_points(examples, replies)
    rewards = reply_rewards(reward_for(seed), replies).view(points.shape)
    words = torch.tensor([len(text.split()) for text in replies.texts]).view(points.shape)
    gap = points[:, :, None] - other.points[:BEST_PROMPTS, None, :]
    won = ((gap > 0).double() + (gap == 0).double() / 2).mean(2)
    return points, rewards, words, won


def choose_best(chooser: str, n: int, seed: int) -> dict:
    """The best of n by the rules' points or by the reward model, judged by the rules."""
    points, rewards, words, won = many_replies(seed)
    by = points if chooser == "rules" else rewards
    shares = [torch.bincount(row, minlength=6).double() / LARGEST for row in points]
    counted = [best_of_n_kl(n, [p for p in row.tolist() if p > 0]) for row in shares]
    return {
        "win_rate": best_of_n_mean(won, by, n).mean().item(),
        "points": best_of_n_mean(points, by, n).mean().item(),
        "words": best_of_n_mean(words, by, n).mean().item(),
        "kl": statistics.mean(counted) if chooser == "rules" else best_of_n_kl(n),
    }


def best_of_n(minutes: float) -> None:
    """Win rate, points and price of best-of-n."""
    choosers = ("rules", "reward model")
    keep_runs(
        RESULTS / "best_of_n.json",
        "Best-of-n: chosen by the rules or by a reward model, judged by the rules",
        [{"chooser": c, "n": n, "seed": s} for s in SEEDS for c in choosers for n in BEST_OF],
        choose_best,
        settings={
            "prompts": BEST_PROMPTS,
            "replies": LARGEST,
            "reward model's prompts": MOST_PROMPTS,
        },
        data=DATA,
        minutes=minutes,
        kl="rules: counted from the shares of the six levels of points; reward model: the bound",
    )


# --- H.6: DPO

DPO_PROMPTS = 400
BASE = DPORecipe()
VARIANTS: dict[str, dict] = {
    "β = 0.3": {"beta": 0.3},
    "IPO, β = 1": {"loss": "ipo", "beta": 1.0},
    "a fifth of the pairs turned": {},
    "turned, and smoothing 0.2": {"label_smoothing": 0.2},
    "β = 0.03": {"beta": 0.03},
    "β = 1": {"beta": 1.0},
    "three times the rate": {"rate": 3 * BASE.rate},
    "and the chosen reply's own loss": {"chosen_weight": 0.5},
}
ROUNDS = "three rounds"
ROUND_RECIPE = replace(BASE, beta=0.5, chosen_weight=0.2, steps=50)


def turned(pairs: list[tuple[int, int]], share: float, seed: int) -> list[tuple[int, int]]:
    """The pairs with some of them the wrong way round, as a careless judge would leave them."""
    dice = random.Random(seed)
    return [(r, c) if dice.random() < share else (c, r) for c, r in pairs]


def in_rounds(recipe: DPORecipe, rounds: int, seed: int) -> tuple[GPTModel, list[dict]]:
    """DPO again and again, each time on the newest model's own replies; the reference stays."""
    policy, history = start()[0], []
    for number in range(rounds):
        _, replies, points = (
            sampled(policy, DPO_PROMPTS, seed, number)
            if number
            else of_the_reference(seed, DPO_PROMPTS)
        )
        pairs = best_and_worst(points, seed=seed)
        policy, part = train_dpo(start()[0], replies, pairs, recipe, start=policy)
        history += part
    return policy, history


def tune(variant: str, seed: int) -> dict:
    """One run of DPO, measured against the SFT model."""
    recipe = replace(BASE, seed=seed, **VARIANTS.get(variant, {}))
    if variant == ROUNDS:
        recipe = replace(ROUND_RECIPE, seed=seed)
        policy, history = in_rounds(recipe, 3, seed)
    else:
        _, replies, points = of_the_reference(seed, DPO_PROMPTS)
        pairs = best_and_worst(points, seed=seed)
        pairs = turned(pairs, 0.2, seed) if "turned" in variant else pairs
        policy, history = train_dpo(start()[0], replies, pairs, recipe)
    last = {k: statistics.mean(h[k] for h in history[-10:]) for k in history[0]}
    return {"beta": recipe.beta} | last | measure_against(start()[2], policy, seed=seed + 1)


def dpo(minutes: float) -> None:
    """β, IPO, label noise and rounds."""
    keep_runs(
        RESULTS / "dpo.json",
        "DPO against the SFT model, by variant",
        [{"variant": v, "seed": seed} for v in (ROUNDS, *VARIANTS) for seed in SEEDS],
        tune,
        settings={"recipe": asdict(BASE), "rounds": asdict(ROUND_RECIPE)}
        | {"prompts": DPO_PROMPTS, "replies": REPLIES, "held_out": HELD_OUT},
        data=DATA,
        minutes=minutes,
        task_accuracy_before=start()[2].task_accuracy,
        note="loss, chosen, rejected, right: means of the last ten steps, on training pairs",
    )


FRESH_SEEDS = (3, 4, 5, 6, 7)
FRESH = 1  # the seed of prompts and exam questions that no recipe was chosen on


@lru_cache(maxsize=1)
def fresh_opponent() -> tuple[Opponent, float]:
    """The SFT model on fresh prompts, and its share of a fresh and larger exam."""
    model, tokenizer, _ = start()
    other = make_opponent(model, tokenizer, 2 * HELD_OUT, seed=FRESH)
    return other, task_accuracy(model, tokenizer, 100, seed=FRESH)


def confirmed(seed: int) -> dict:
    """The rounds once more, on fresh prompts and exam questions."""
    other, accuracy = fresh_opponent()
    policy, _ = in_rounds(replace(ROUND_RECIPE, seed=seed), 3, seed)
    found = measure_against(other, policy, seed=seed + 1)
    after = task_accuracy(policy, other.tokenizer, 100, seed=FRESH)
    return found | {"task_accuracy": after, "task_lost": 100 * (accuracy - after)}


def confirm(minutes: float) -> None:
    """What the chosen recipe wins where nothing was chosen."""
    keep_runs(
        RESULTS / "confirm.json",
        "DPO in three rounds on seeds, prompts and exam questions that no recipe was chosen on",
        [{"seed": seed} for seed in FRESH_SEEDS],
        confirmed,
        settings={"rounds": asdict(ROUND_RECIPE), "prompts": DPO_PROMPTS, "replies": REPLIES}
        | {"held_out": 2 * HELD_OUT, "exam": "100 questions of each family"},
        data=DATA,
        minutes=minutes,
        task_accuracy_before=fresh_opponent()[1],
    )


# --- H.7: GRPO on questions longer than any before

WEAK_EXAM, EXAM_SEED = 400, 77  # the questions asked before and after
TRIES = 16  # of each of the first 80 of them, at temperature 1
PASS_AT = (1, 2, 4, 8, 16)
GRPO_BASE = GRPORecipe()
GRPO_CASES: dict[str, dict] = {
    "GRPO": {},
    "without replay": {"replay_weight": 0.0},
    "not divided by the spread": {"by_std": False},
    "nor by lengths (Dr. GRPO)": {"by_std": False, "per_reply": False},
}


@lru_cache(maxsize=1)
def weak_exam() -> list[Example]:
    """Longer questions with inputs that training by reward never sees."""
    return list(islice(longer_questions(seed=EXAM_SEED, for_exam=True), WEAK_EXAM))


def right_by_family(
    model: GPTModel, tokenizer: BPETokenizer, questions: Sequence[Example]
) -> dict[str, list[int]]:
    """How many of each family are right, and how many were asked."""
    counts: dict[str, list[int]] = {}
    for example, hit in zip(questions, would_answer(model, tokenizer, questions), strict=True):
        right, asked = counts.get(example.family, (0, 0))
        counts[example.family] = [right + hit, asked + 1]
    return counts


def sampled_tries(model: GPTModel, reference: GPTModel, tokenizer: BPETokenizer) -> dict:
    """pass@k, and length, entropy and distance of what is said at temperature 1."""
    some, room = weak_exam()[:80], GRPO_BASE.max_new_tokens
    replies = sample_replies(model, tokenizer, some, TRIES, max_new_tokens=room, seed=EXAM_SEED)
    right = exact_match_reward(replies.examples(some), replies).view(-1, TRIES).sum(1).int()
    passed = {k: statistics.mean(pass_at_k(TRIES, c, k) for c in right.tolist()) for k in PASS_AT}
    return {"pass_at": passed} | policy_drift(model, reference, replies)


def all_grpo_figures(model: GPTModel, reference: GPTModel, tokenizer: BPETokenizer) -> dict:
    """What is written down of the assistant before and after."""
    found = {
        "weak": right_by_family(model, tokenizer, weak_exam()),
        "other": right_by_family(model, tokenizer, exam_questions(40)),
    }
    return found | sampled_tries(model, reference, tokenizer)


@lru_cache(maxsize=1)
def grpo_before() -> dict:
    """The assistant's own figures."""
    model, tokenizer = assistant_model()
    return all_grpo_figures(model, model, tokenizer)


def run_grpo(case: str, seed: int) -> dict:
    """One training by GRPO, with what it could before and after."""
    recipe = replace(GRPO_BASE, seed=seed, **GRPO_CASES[case])
    (model, tokenizer), exam = assistant_model(), weak_exam()
    replay = ordinary_batches(tokenizer, seed=4000 + seed) if recipe.replay_weight else None
    questions, rule = longer_questions(seed=1000 + seed), exact_match_reward
    training = GRPO(model, tokenizer, questions, rule, recipe, replay)
    look = lambda model: {"right": right_by_family(model, tokenizer, exam[:200])}
    notes = run_policy(training, look, every=10)
    after = all_grpo_figures(model, training.reference, tokenizer)
    return {"before": grpo_before(), "after": after, "notes": notes}


def grpo(minutes: float) -> None:
    """Exact match as the reward, on families that the assistant mostly gets wrong."""
    keep_runs(
        RESULTS / "grpo.json",
        "Can the assistant learn from right or wrong alone what it mostly gets wrong?",
        [{"case": case, "seed": seed} for case in GRPO_CASES for seed in SEEDS],
        run_grpo,
        settings=asdict(GRPO_BASE),
        data=source_hash(shared.instructions),
        minutes=minutes,
        variants=GRPO_CASES,
    )


# --- H.8 and H.9: PPO against a learned reward

PPO_BASE = PPORecipe(steps=20, prompts=32, learning_rate=5e-4, kl_weight=0.05)
PPO_CASES = {
    "PPO": {},
    "PPO without a leash": {"kl_weight": 0.0},
    "PPO, no leash, poor reward": {"kl_weight": 0.0, "steps": 40},
}
POOR = 30  # prompts that a poor reward model learns from
PPO_PROMPTS = 200  # whose replies, four each, a reward model learns from
LOOK_PROMPTS = 40  # in the looks on the way
CONTEST = {"prompts": 60, "per_family": 20}  # smaller than H.6's, so that more runs fit in an hour


@lru_cache(maxsize=1)
def small_start() -> tuple[GPTModel, BPETokenizer, Opponent]:
    """The SFT model, its tokenizer, and the smaller contest."""
    model, tokenizer = assistant_model()
    return model, tokenizer, make_opponent(model, tokenizer, **CONTEST)


@lru_cache(maxsize=1)
def ppo_reward(seed: int, prompts: int) -> RewardRule:
    """A reward model of its own for each seed, shifted and scaled to mean 0 and spread 1."""
    model, tokenizer, _ = small_start()
    examples = preference_prompts(prompts, 300 + seed)
    replies = sample_replies(model, tokenizer, examples, REPLIES, seed=300 + seed)
    points = reply_points(examples, replies)
    reward, _ = train_reward_model(model, replies, points, steps=40, seed=seed)
    found = reply_rewards(reward, replies)
    mean, spread = found.mean(), found.std()
    return lambda examples, replies: (reply_rewards(reward, replies) - mean) / spread


def curve_look(reward: RewardRule, seed: int) -> Callable[[GPTModel], dict]:
    """What the reward says, what the rules say, and how far it is: on held-out prompts."""
    reference, tokenizer, other = small_start()

    def look(model: GPTModel) -> dict:
        examples = other.examples[:LOOK_PROMPTS]
        replies = sample_replies(model, tokenizer, examples, 2, seed=700 + seed)
        points = reply_points(examples, replies)
        drift = policy_drift(model, reference, replies)
        return {
            "held_out": reward(replies.examples(examples), replies).mean().item(),
            "points": points.double().mean().item(),
            "win_rate": win_rate(points, other.points[:LOOK_PROMPTS])[0],
            "kl_exact": drift["kl"],
            "entropy": drift["entropy"],
            "length": drift["tokens"],
        }

    return look


def story_prompts(seed: int) -> Iterator[Example]:
    """Beginnings of stories without end, for training by reward."""
    return instructions(400 + seed, "train", ["continue_story"])


def against_rules(model: GPTModel, seed: int) -> dict:
    """All figures of the contest, and what the model says to the first four prompts."""
    _, tokenizer, other = small_start()
    said = sample_replies(model, tokenizer, other.examples[:4], 1, seed=7).texts
    found = measure_against(other, model, seed=seed, per_family=CONTEST["per_family"])
    return found | {"said": said}


def run_ppo(case: str, seed: int) -> dict:
    """PPO against a learned reward, judged by the rules."""
    reference, tokenizer, _ = small_start()
    recipe = replace(PPO_BASE, seed=seed, **PPO_CASES[case])
    prompts = POOR if "poor" in case else PPO_PROMPTS
    model, reward = copy.deepcopy(reference), ppo_reward(seed, prompts)
    look = curve_look(reward, seed)
    first = {"step": 0} | look(model)
    training = PPO(model, tokenizer, story_prompts(seed), reward, recipe)
    notes = [first, *run_policy(training, look, every=5)]
    return against_rules(model, seed) | {"notes": notes}


def ppo(minutes: float) -> None:
    """PPO with the distance as a price, and without."""
    keep_runs(
        RESULTS / "ppo.json",
        "PPO against a learned reward: with a price on the distance, and without",
        [{"case": case, "seed": seed} for seed in SEEDS for case in PPO_CASES],
        run_ppo,
        settings=asdict(PPO_BASE) | {"held_out": CONTEST["prompts"], "reward_prompts": PPO_PROMPTS},
        data=DATA,
        minutes=minutes,
        variants=PPO_CASES,
    )


# --- H.10: a reward that can be cheated

HACK_BASE = GRPORecipe(
    steps=24, prompts=6, group=8, learning_rate=8e-4, max_new_tokens=80, replay_weight=0.0
)
HACK_CASES: dict[str, tuple[RewardRule, dict]] = {
    "counts kind words": (kind_word_reward, {}),
    "the same, on a short leash": (kind_word_reward, {"kl_weight": 0.3}),
    "a better rule": (kind_and_fitting_reward, {}),
    "better rule, leash, replay": (
        kind_and_fitting_reward,
        {"kl_weight": 0.1, "replay_weight": 0.5},
    ),
}


def run_hack(case: str, seed: int) -> dict:
    """GRPO on a rule that can be cheated, or on a mended one."""
    reference, tokenizer, other = small_start()
    rule, changes = HACK_CASES[case]
    model, recipe = copy.deepcopy(reference), replace(HACK_BASE, seed=seed, **changes)
    replay = ordinary_batches(tokenizer, seed=4000 + seed) if recipe.replay_weight else None
    notes = run_policy(GRPO(model, tokenizer, story_prompts(seed), rule, recipe, replay))
    some = other.examples[:LOOK_PROMPTS]
    replies = sample_replies(model, tokenizer, some, 2, seed=800 + seed)
    counted = kind_word_reward(replies.examples(some), replies).mean().item()
    return against_rules(model, seed) | {"kind_words": counted, "notes": notes}


def hack(minutes: float) -> None:
    """A rule that can be cheated, and two ways to mend it."""
    keep_runs(
        RESULTS / "hack.json",
        "A reward that counts kind words; the same on a short leash; a better rule",
        [{"case": case, "seed": seed} for seed in SEEDS for case in HACK_CASES],
        run_hack,
        settings=asdict(HACK_BASE) | {"held_out": CONTEST["prompts"]},
        data=DATA,
        minutes=minutes,
    )


EXPERIMENTS: dict[str, Callable[[float], None]] = {
    "reward_model": reward_model,
    "best_of_n": best_of_n,
    "dpo": dpo,
    "confirm": confirm,
    "grpo": grpo,
    "ppo": ppo,
    "hack": hack,
}


def main() -> None:
    """Run the experiment that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*EXPERIMENTS, "all"])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    given = parser.parse_args()
    for name in EXPERIMENTS if given.name == "all" else [given.name]:
        EXPERIMENTS[name](given.minutes)


if __name__ == "__main__":
    main()
