"""Everything that the appendices define for one another, collected from their notebooks.

Written by `make export` from the cells that begin with `#| export`; a change made here is lost.
Each definition names the notebook and the section that teach it: change it there.
"""

import codecs
import contextlib
import copy
import hashlib
import io
import json
import math
import queue
import random
import re
import secrets
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, lru_cache, partial
from itertools import combinations, count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import shared
from shared.artifacts import written_whole
from shared.download import DownloadError, hub_file
from shared.instructions import FAMILIES, Example, instructions
from shared.instructions.draw import for_tests
from shared.instructions.words import NAMES
from shared.previous_chapters import (
    ANSWER_ROOM,
    CHECKPOINT_FORMAT,
    END_OF_TEXT,
    IGNORED,
    TURN_END,
    Batch,
    BPETokenizer,
    FastLinear,
    FeedForward,
    GPTConfig,
    GPTModel,
    LayerNorm,
    Message,
    MultiHeadAttention,
    Muon,
    Prompt,
    Recipe,
    StoryBatches,
    StoryRecipe,
    TiedHead,
    answer_text,
    as_messages,
    best_device,
    both_files,
    build_optimizers,
    chat_ids,
    check_messages,
    check_sampling,
    check_token_ids,
    checked_prompts,
    count_targets,
    differences,
    evaluate,
    evaluating,
    flop_ledger,
    generate,
    head_start,
    initialise,
    instruction_batch,
    instruction_row,
    learning_rate_at,
    memory_ledger,
    new_story_model,
    next_logits,
    next_tokens,
    own_randomness,
    pack_rows,
    pad_rows,
    parameter_groups,
    parameter_ledger,
    pretrain,
    prompt_ids,
    read_checkpoint,
    sampling_probabilities,
    story_model,
    story_nats,
    story_rows,
    story_tokenizer,
    training_step,
    trim_chat,
    use_fast_linear,
    would_answer,
)
from shared.stories import Fact, Story, stories
from shared.stories.chance import Chance, Dice, Mismatch

__all__ = [
    # a_pytorch_primer
    "BIRTHS",
    "Scalar",
    "backpropagate",
    "scalar_tanh",
    # d_training_tricks
    "Trial",
    "told_rows",
    "trial_rows",
    "trial_batches",
    "trial_exam",
    "trial_model",
    "STUDENT_95",
    "paired_t_interval",
    "first_weights",
    "RateSearch",
    "find_learning_rate",
    "cosine_rate_at",
    "wsd_rate_at",
    "check_shares",
    "decay_groups",
    "WeightAverage",
    "averaged_weights",
    "give_weights",
    "trial_loss",
    "trial_optimizers",
    "trial_factor",
    "trial_step",
    "look_at_trial",
    "trial_tokenizer",
    "run_trial",
    # e_lora
    "matrix_shape",
    "Parts",
    "check_rank",
    "check_parts",
    "LowRankChange",
    "wide_B",
    "LoRALinear",
    "LORA_TARGETS",
    "ATTENTION_TARGETS",
    "ALL_TARGETS",
    "check_targets",
    "thirds",
    "NewRowsEmbedding",
    "train_new_rows",
    "own_parameters",
    "sharing_copy",
    "base_key",
    "check_base",
    "lora_layers",
    "adapt_block",
    "add_lora",
    "trained_parameters",
    "lora_ledger",
    "lora_tuning",
    "merge_lora",
    "unmerge_lora",
    "without_lora",
    "adapter_tensors",
    "save_adapter",
    "check_adapter",
    "check_same_base",
    "load_adapter",
    "normal_levels",
    "even_levels",
    "quantise_to_levels",
    "pack_pairs",
    "unpack_pairs",
    "RoundedProduct",
    "FourBitLinear",
    "replace_matrices",
    # f_fast_inference
    "KVCache",
    "check_cacheable",
    "Place",
    "place_together",
    "bare",
    "BlockParts",
    "run_block",
    "common_length",
    "CachedReader",
    "last_of_each",
    "check_rows_to_read",
    "window",
    "check_overflow",
    "place_chunks",
    "cached_steps",
    "generate_cached",
    "cached_generation",
    "shared_cache_bytes",
    "check_groups",
    "SharedKeysAttention",
    "share_heads",
    "quantise_rows",
    "Int8Linear",
    "Int8Embedding",
    "quantise_int8",
    "stored_bytes",
    "settle",
    "Draft",
    "propose",
    "speculative_round",
    "Speculation",
    "speculative_generate",
    "as_draft",
    "check_speculation",
    "small_draft",
    "PairTable",
    "deepened",
    "StaticStep",
    # g_user_interface
    "Piece",
    "Deliver",
    "certain",
    "Speech",
    "likeliest",
    "Job",
    "receive_token",
    "take_turn",
    "fail",
    "give_tokens",
    "Writer",
    "fit_messages",
    "check_left",
    "arrivals",
    "work",
    "Service",
    "new_job",
    "put_in_line",
    # h_preference_tuning
    "does_as_asked",
    "is_truthful",
    "KIND_WORDS",
    "POLITE_WORDS",
    "BRIEF_WORDS",
    "holds_word",
    "ends_kindly",
    "is_polite",
    "is_brief",
    "PreferenceRule",
    "PREFERENCE_RULES",
    "rules_kept",
    "preference_prompts",
    "draw_tokens",
    "draw_replies",
    "cut_after",
    "Replies",
    "REPLY_ROOM",
    "as_replies",
    "check_drawing",
    "sample_replies",
    "last_features",
    "reply_chances",
    "reply_log_probs",
    "reply_totals",
    "policy_drift_sums",
    "policy_drift",
    "win_rate",
    "reply_points",
    "exam_questions",
    "task_accuracy",
    "Opponent",
    "make_opponent",
    "measure_against",
    "best_and_worst",
    "RewardModel",
    "bradley_terry_loss",
    "shuffled_groups",
    "tuning_step",
    "train_reward_model",
    "reply_rewards",
    "pair_verdicts",
    "best_of_n_weights",
    "best_of_n_kl",
    "best_of_n_mean",
    "dpo_loss",
    "ipo_loss",
    "DPORecipe",
    "preference_loss",
    "dpo_step",
    "train_dpo",
    "group_advantages",
    "WEAK_FAMILIES",
    "longer_questions",
    "RewardRule",
    "exact_match_reward",
    "clipped_objective",
    "k3_to_reference",
    "PolicyRecipe",
    "GRPORecipe",
    "grpo_loss",
    "PolicyTraining",
    "policy_step",
    "policy_update",
    "ordinary_batches",
    "run_policy",
    "GRPO",
    "check_token_shapes",
    "generalised_advantages",
    "ValueHead",
    "fit_values",
    "token_rewards",
    "PPORecipe",
    "PPO",
    "ppo_advantages",
    "kind_word_reward",
    "kind_and_fitting_reward",
    # i_modern_architectures
    "Rope",
    "ModernSizes",
    "ModernConfig",
    "MODERN_CHOICES",
    "check_modern",
    "check_details",
    "RMSNorm",
    "make_norm",
    "rope_speeds",
    "turn_pairs",
    "turn_angles",
    "kept_by_turns",
    "kept_by_pair",
    "rope_slowdown",
    "GatedFeedForward",
    "sliding_window_mask",
    "LayerMemory",
    "ModernAttention",
    "layer_window",
    "layer_rope",
    "qk_norms",
    "normed_and_turned",
    "attend_back",
    "ModernBlock",
    "block_norms",
    "make_feed_forward",
    "ModelMemory",
    "ModernModel",
    "build_parts",
    "start_weights",
    "run_blocks",
    "continue_modern",
    "route_tokens",
    "MixtureOfExperts",
    "balance_loss",
    "model_balance",
    "LatentAttention",
    "beside_places",
    "delta_steps",
    "delta_chunk",
    "delta_chunks",
    "DeltaAttention",
    "TwoAhead",
    "modern_loss",
    "equal_budget_run",
    "MODEL_FAMILIES",
    "PUBLISHED_SIZES",
    "modern_config",
    "read_ropes",
    "PUBLISHED_ROPES",
    "read_one_rope",
    "read_layer_windows",
    "read_experts",
    "check_published_config",
    "PUBLISHED_PARTS",
    "published_name",
    "published_files",
    "model_file_finder",
    "shard_index",
    "check_published",
    "read_in_pieces",
    "load_modern",
    "LOADING_CHILD",
    "loading_memory",
    "modern_cache_bytes",
    # j_scaling
    "training_flops",
    "multiplying_weights",
    "step_peak_bytes",
    "RooflineCase",
    "matrix_case",
    "attention_case",
    "elementwise_case",
    "gpt_cases",
    "fastest_seconds",
    "machine_limits",
    "measured_cases",
    "model_flops_utilisation",
    "step_seconds",
    "measured_utilisation",
    "GPU_PEAKS",
    "known_peak_flops",
    "LAW_VOCAB",
    "LAW_CONTEXT",
    "LAW_LAYERS",
    "LAW_LENGTH",
    "law_config",
    "tokens_for",
    "law_recipe",
    "law_exam",
    "law_floor",
    "law_run",
    "LossLaw",
    "solve_for_powers",
    "best_powers",
    "fit_loss_law",
    "bootstrap_laws",
    "best_width",
    "foretell",
    "Accelerator",
    "A100",
    "H100",
    "training_memory",
    "cost_sheet",
    "check_prices",
    "filled_shards",
    "SHARD_FORMAT",
    "bytes_hash",
    "write_token_shards",
    "read_shard_sheet",
    "map_shards",
    "TokenShards",
    "shuffled_place",
    "rank_windows",
    "rank_batch",
    "ring_all_reduce",
    "qkv_rank_order",
    # k_evaluation
    "TextPrice",
    "rolling_windows",
    "RowPrice",
    "price_rows",
    "price_text",
    "ending_form",
    "ChoiceQuestion",
    "ending_question",
    "ending_questions",
    "split_continuation",
    "price_continuations",
    "choice_prices",
    "choice_scores",
    "NUMBER_WORDS",
    "REPLY_RULES",
    "normalise_reply",
    "exact_match",
    "pass_at_k",
    "mcnemar",
    "holm",
    "ngram_set",
    "ngram_overlap",
    "rank_auc",
    "order_test",
    "cohens_kappa",
    "ask_server",
    "longest_copy",
    "exposure",
    # l_making_data
    "STATIONS",
    "TRAVELLERS",
    "GETS_ON",
    "GETS_OFF",
    "FEWEST_STOPS",
    "MOST_STOPS",
    "Train",
    "LineTeller",
    "tell_line",
    "line_stories",
    "line_entropy",
    "shingles",
    "jaccard",
    "shingle_number",
    "minhash_signatures",
    "estimated_jaccard",
    "lsh_chance",
    "lsh_pairs",
    "first_of_each_group",
    "DIRT",
    "MENU",
    "FOOTER",
    "dirtied",
    "rule_findings",
    "word_runs",
    "leaked_ngrams",
    "temperature_shares",
    "mixed_rows",
    "first_fit_decreasing",
    "joined_rows",
    "story_numbers",
    "places_in_story",
    "StoryAttention",
    "PackedGPT",
    "agreed_answer",
    "batches_in_order",
]


# --------------------------------------------------------------------------------------------------
# Appendix A · A PyTorch primer: tensors that remember where they came from
# a_pytorch_primer/a_pytorch_primer.ipynb
# --------------------------------------------------------------------------------------------------


# a_pytorch_primer.ipynb, "A.4 Autograd in twenty lines"
BIRTHS = count()  # numbers each Scalar, so that we can tell the younger from the older


class Scalar:
    """A number that remembers from which numbers it was made, and the slope towards each.

    Raises:
        TypeError: the value is not a number.

    Example:
        >>> a, b = Scalar(2.0), Scalar(3.0)
        >>> backpropagate((a + b) * b)
        >>> b.grad  # 8.0
    """

    # a_pytorch_primer.ipynb, "A.4 Autograd in twenty lines"

    def __init__(self, value: float, parents: tuple[tuple["Scalar", float], ...] = ()) -> None:
        if not isinstance(value, int | float):
            raise TypeError(f"a Scalar holds one number, got {value!r}; wrap a Scalar only once")
        self.value, self.grad, self.parents, self.born = value, 0.0, parents, next(BIRTHS)

    def __add__(self, other: "Scalar") -> "Scalar":
        return Scalar(self.value + other.value, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other: "Scalar") -> "Scalar":
        return Scalar(self.value * other.value, ((self, other.value), (other, self.value)))


def backpropagate(result: Scalar) -> None:
    """Add to the `grad` of each number that `result` was made from the slope of `result` there.

    Numbers that were given, not made, keep what they had and gain: call twice, and they count
    twice. Those on the way start at 0 each time.

    Source: reverse-mode differentiation, Linnainmaa (1970).
    """
    # a_pytorch_primer.ipynb, "A.4 Autograd in twenty lines"
    family, waiting = set(), [result]
    while waiting:
        node = waiting.pop()
        if node not in family:
            family.add(node)
            waiting += [parent for parent, _ in node.parents]
    for node in family:
        node.grad = 0.0 if node.parents else node.grad
    result.grad += 1.0
    for node in sorted(family, key=lambda node: node.born, reverse=True):
        for parent, slope in node.parents:
            parent.grad += slope * node.grad


def scalar_tanh(x: Scalar) -> Scalar:
    """Any number, squeezed to between −1 and 1; the slope is 1 − tanh²."""
    # a_pytorch_primer.ipynb, "A third step, and PyTorch's own"
    squeezed = math.tanh(x.value)
    return Scalar(squeezed, ((x, 1.0 - squeezed**2),))


# --------------------------------------------------------------------------------------------------
# Appendix D · Training tricks: one change, one number
# d_training_tricks/d_training_tricks.ipynb
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One training run: its size, its data, and a switch for each trick of appendix D.

    All switches stand at off: this is the baseline, AdamW at a constant rate.
    """

    # d_training_tricks.ipynb, "D.1 When is a difference a difference?"

    vocab_size: int = 1024  # of chapter 2's story tokenizer; a small head keeps runs short
    embed_dim: int = 64  # with two layers about 180 thousand numbers
    num_tokens: int = 80_000  # to learn from: some seconds on one core
    tokens_per_batch: int = 400  # so there are about 200 steps
    seed: int = 0  # of first weights and stories; equal seeds read equal stories
    rate: float = 0.003  # of AdamW: the best of several, on seeds used for nothing else
    beta: float = 0.999  # how long AdamW remembers squared slopes
    start: str = "gpt2"  # first weights: see `first_weights`
    warmup: float = 0.0  # share of the run in which the rate rises
    schedule: str = "constant"  # after it: "constant", "cosine" or "wsd"
    decay: float = 0.3  # of "wsd": share of the run, at its end, in which the rate falls
    max_norm: float = math.inf  # clipping: longer gradients are shortened to this
    weight_decay: float = 0.0
    decay_all: bool = False  # True: also tables, norms and biases
    accumulate: int = 1  # batches per step
    batch_growth: float = 1.0  # how many times as large batches become, every 256 stories
    average: float = 0.0  # the longest memory of the average of weights, such as 0.98
    precision: str = "float32"  # or "bfloat16"
    muon_rate: float = 0.0  # above 0: Muon trains the matrices in the blocks, at this rate
    table_factor: float = 1.0  # the tables' rate over that of the rest
    order: str = "mixed"  # of stories: "mixed", "short first", "long first", "half twice"
    dropout: float = 0.0
    label_smoothing: float = 0.0  # share of each target that is spread over all tokens


@cache
def told_rows(tokenizer: BPETokenizer, seed: int, num_tokens: float) -> list[list[int]]:
    """Stories of this seed as rows, sixteen at a time, until they hold so many tokens."""
    # d_training_tricks.ipynb, "D.1 When is a difference a difference?"
    rows, tokens, told = [], 0, stories(1_000_003 * seed + 17)
    while tokens < num_tokens:
        rows += [row[:257] for row in story_rows(islice(told, 16), tokenizer)]
        tokens += sum(len(row) - 1 for row in rows[-16:])
    return rows


def trial_rows(trial: Trial, tokenizer: BPETokenizer) -> list[list[int]]:
    """The stories of a trial, as rows, in the order in which they are read.

    Raises:
        ValueError: an unknown order.
    """
    # d_training_tricks.ipynb, "D.1 When is a difference a difference?"
    if trial.order not in ("mixed", "short first", "long first", "half twice"):
        known = '"mixed", "short first", "long first" or "half twice"'
        raise ValueError(f"order={trial.order!r}, expected {known}.")
    twice = 2 if trial.order == "half twice" else 1
    rows = told_rows(tokenizer, trial.seed, trial.num_tokens / twice)
    if trial.order in ("short first", "long first"):
        return sorted(rows, key=len, reverse=trial.order == "long first")
    return rows * twice


def trial_batches(trial: Trial, tokenizer: BPETokenizer) -> list[Batch]:
    """All batches of a trial: 256 stories at a time, packed by length and shuffled."""
    # d_training_tricks.ipynb, "D.1 When is a difference a difference?"
    rows, batches = trial_rows(trial, tokenizer), []
    for start in range(0, len(rows), 256):
        size = trial.tokens_per_batch * (1 + (trial.batch_growth - 1) * start / len(rows))
        groups = pack_rows(rows[start : start + 256], round(size))
        if trial.order in ("mixed", "half twice"):
            random.Random(f"{trial.seed} {start}").shuffle(groups)
        elif trial.order == "short first":
            groups.reverse()  # they come with the longest first
        for group in groups:
            width = 8 * math.ceil((max(map(len, group)) - 1) / 8)  # few shapes: chapter 5
            batches.append(pad_rows(group, min(width, 256)))
    return batches


@cache
def trial_exam(tokenizer: BPETokenizer, count: int = 150) -> tuple[Batch, ...]:
    """Held-out stories, the same for all trials."""
    # d_training_tricks.ipynb, "D.1 When is a difference a difference?"
    rows = [row[:257] for row in story_rows(islice(stories(5, "validation"), count), tokenizer)]
    return tuple(pad_rows(group) for group in pack_rows(rows, 2000))


def trial_model(trial: Trial) -> GPTModel:
    """The small GPT of a trial before its first step."""
    # d_training_tricks.ipynb, "D.1 When is a difference a difference?"
    config = GPTConfig(trial.vocab_size, 256, trial.embed_dim, 4, 2, dropout=trial.dropout)
    model = GPTModel(config, seed=trial.seed)
    if trial.start != "gpt2":
        first_weights(model, trial.start, trial.seed)
    return model.to(best_device())


# d_training_tricks.ipynb, "Pairs"
STUDENT_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 1 to 9 freedoms


def paired_t_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """The mean of some differences, and its 95 % interval by Student's t.

    Raises:
        ValueError: fewer than 2 differences, or more than 10.

    Source: Student (1908), "The Probable Error of a Mean".

    Example:
        >>> mean, low, high = paired_t_interval([-0.05, -0.04, -0.07])
    """
    # d_training_tricks.ipynb, "Pairs"
    count = len(differences)
    if not 2 <= count <= len(STUDENT_95) + 1:
        raise ValueError(f"{count} differences; expected 2 to {len(STUDENT_95) + 1} seeds.")
    mean = statistics.mean(differences)
    half = STUDENT_95[count - 2] * statistics.stdev(differences) / count**0.5
    return mean, mean - half, mean + half


def first_weights(model: GPTModel, start: str, seed: int) -> None:
    """Start the weights in another way, in place.

    "gpt2": normal, 0.02, and less where a block writes to the residual stream (chapter 4);
    "unscaled": 0.02 there, too; "zero": nothing there; "torch": as PyTorch's layers start
    themselves; "head start": as chapter 5's story model.

    Raises:
        ValueError: another word.
    """
    # d_training_tricks.ipynb, "D.2 First weights"
    ways = ("gpt2", "unscaled", "zero", "torch", "head start")
    if start not in ways:
        raise ValueError(f"start={start!r}, expected one of {', '.join(ways)}.")
    initialise(model, model.config.num_layers, torch.Generator().manual_seed(seed))
    if start == "head start":
        head_start(model, position_size=0.02, copying=0.5, seed=seed)
    if start == "torch":
        with own_randomness(model, seed):
            for module in model.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    module.reset_parameters()
    if start in ("unscaled", "zero"):
        factor = (2 * model.config.num_layers) ** 0.5 if start == "unscaled" else 0.0
        with torch.no_grad():
            for block in model.blocks:
                block.attention.out.weight.mul_(factor)
                block.feed_forward.down.weight.mul_(factor)


@dataclass(frozen=True)
class RateSearch:
    """What `find_learning_rate` saw: rates, smoothed losses, and a suggestion."""

    # d_training_tricks.ipynb, "D.3 How fast? A learning-rate finder"

    rates: list[float]
    losses: list[float]
    suggestion: float


def find_learning_rate(
    step: Callable[[float], float],
    lowest: float = 1e-5,
    highest: float = 1.0,
    steps: int = 100,
    keep: float = 0.8,
) -> RateSearch:
    """Raise the rate at every step by the same factor, until the loss blows up.

    `step` makes one training step at the given rate and returns its loss; what it trains is spoilt
    afterwards. The suggestion is the rate at which the smoothed loss falls most steeply.

    Raises: ValueError for rates that do not rise, or fewer than ten steps.
    Source: Smith (2017), "Cyclical Learning Rates for Training Neural Networks", 3.3.
    """
    # d_training_tricks.ipynb, "D.3 How fast? A learning-rate finder"
    if not 0 < lowest < highest or steps < 10:
        given = f"lowest={lowest}, highest={highest}, steps={steps}"
        raise ValueError(f"{given}: expected 0 < lowest < highest and ten steps or more.")
    rates, losses, mean = [], [], 0.0
    for number in range(steps):
        rate = lowest * (highest / lowest) ** (number / (steps - 1))
        loss = step(rate)
        mean = keep * mean + (1 - keep) * loss
        smooth = mean / (1 - keep ** (number + 1))  # made up for its start at 0
        if not math.isfinite(loss) or (losses and smooth > 1.5 * min(losses)):
            break
        rates, losses = [*rates, rate], [*losses, smooth]
    falls = [losses[i + 1] - losses[i - 1] for i in range(1, len(losses) - 1)]
    steepest = 1 + falls.index(min(falls)) if falls else 0
    return RateSearch(rates, losses, rates[steepest])


def cosine_rate_at(progress: float, warmup: float = 0.05, floor: float = 0.0) -> float:
    """The factor for the learning rate: up in a straight line, down along half a cosine.

    Args:
        progress: of the run, from 0 to 1.
        warmup: the share of the run in which the factor rises from 0 to 1.
        floor: where it ends.

    Raises:
        ValueError: a share outside of 0 to 1.

    Source: Loshchilov and Hutter (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts".
    """
    # d_training_tricks.ipynb, "D.4 Warm-up, cosine, and warm-up-stable-decay"
    check_shares(progress=progress, warmup=warmup, floor=floor)
    if progress < warmup:
        return progress / warmup
    rest = (progress - warmup) / (1 - warmup) if warmup < 1 else 1.0
    return floor + (1 - floor) * (1 + math.cos(math.pi * rest)) / 2


def wsd_rate_at(
    progress: float,
    warmup: float = 0.05,
    decay: float = 0.3,
    floor: float = 0.0,
    shape: str = "linear",
) -> float:
    """Warm-up, stable, decay: up in a straight line, 1 for long, down at the end.

    Args:
        progress: of the run, from 0 to 1.
        warmup, decay: the shares of the run in which the factor rises, and falls.
        floor: where it ends.
        shape: of the fall: "linear", or "sqrt", which falls fast at first.

    Raises:
        ValueError: a share outside of 0 to 1, shares above 1 together, or another shape.

    Source: Hu et al. (2024), "MiniCPM: Unveiling the Potential of Small Language Models".
    """
    # d_training_tricks.ipynb, "D.4 Warm-up, cosine, and warm-up-stable-decay"
    check_shares(progress=progress, warmup=warmup, decay=decay, floor=floor)
    if warmup + decay > 1 + 1e-9 or shape not in ("linear", "sqrt"):
        given = f"warmup={warmup}, decay={decay}, shape={shape!r}"
        raise ValueError(f'{given}: expected at most 1 together, and "linear" or "sqrt".')
    if progress < warmup:
        return progress / warmup
    if progress <= 1 - decay:
        return 1.0
    fallen = (progress - (1 - decay)) / decay
    return 1 - (1 - floor) * (fallen**0.5 if shape == "sqrt" else fallen)


def check_shares(**shares: float) -> None:
    """Raise ValueError unless all are numbers from 0 to 1."""
    # d_training_tricks.ipynb, "D.4 Warm-up, cosine, and warm-up-stable-decay"
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share}, expected a share, from 0 to 1.")


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for an optimiser: the matrices inside the blocks, which decay, and all others.

    Tables of embeddings, norms and biases do not decay.

    Raises:
        ValueError: `weight_decay` is below 0.

    Example:
        >>> optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=0.003)
    """
    # d_training_tricks.ipynb, "D.6 Weight decay, and who gets it"
    if weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay}, expected 0 or more.")
    groups = parameter_groups(model)
    matrices, others = groups["fused"] + groups["single"], groups["tables"] + groups["vectors"]
    both = ((matrices, weight_decay), (others, 0.0))
    return [{"params": group, "weight_decay": share} for group, share in both if group]


class WeightAverage:
    """A running mean of a model's weights (EMA), kept beside them.

    At update t it keeps `min(longest, t / (t + 1))` of the old mean: at first a plain mean of all
    that it has seen, later an exponential one. So it is never pulled towards where it began.

    Raises:
        ValueError: `longest` is not between 0 and 1.
        RuntimeError: it is asked for before the first update.

    Source: Polyak and Juditsky (1992), "Acceleration of Stochastic Approximation by Averaging".

    Example:
        >>> average = WeightAverage(model, longest=0.98)
        >>> average.update()  # after each step
        >>> with average.in_place():
        ...     loss = evaluate(model, batches)  # of the averaged weights
    """

    # d_training_tricks.ipynb, "D.9 An average of the weights"

    def __init__(self, model: nn.Module, longest: float = 0.98) -> None:
        if not 0 < longest < 1:
            raise ValueError(f"longest={longest}, expected a share between 0 and 1, such as 0.98.")
        self.model, self.longest, self.updates = model, longest, 0
        self.means = [torch.zeros_like(p) for p in model.parameters()]

    def update(self) -> None:
        """Take in the model's present weights."""
        keep = min(self.longest, self.updates / (self.updates + 1))
        for mean, p in zip(self.means, self.model.parameters(), strict=True):
            mean.lerp_(p.detach(), 1 - keep)
        self.updates += 1

    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again."""
        return averaged_weights(self)


@contextmanager
def averaged_weights(average: WeightAverage) -> Iterator[None]:
    """What `WeightAverage.in_place` does."""
    # d_training_tricks.ipynb, "D.9 An average of the weights"
    if not average.updates:
        raise RuntimeError("WeightAverage: nothing to average yet; call update() first.")
    own = [p.detach().clone() for p in average.model.parameters()]
    try:
        give_weights(average.model, average.means)
        yield
    finally:
        give_weights(average.model, own)


@torch.no_grad()
def give_weights(model: nn.Module, values: Iterable[Tensor]) -> None:
    """Give a model these weights, in the order of its parameters."""
    # d_training_tricks.ipynb, "D.9 An average of the weights"
    for p, value in zip(model.parameters(), values, strict=True):
        p.copy_(value)


def trial_loss(model: GPTModel, batch: Batch, trial: Trial) -> Tensor:
    """Mean loss of a batch in nats, in the trial's precision; a single number."""
    # d_training_tricks.ipynb, "D.10 Mixed precision"
    device = next(model.parameters()).device
    inputs, targets = (t.to(device) for t in batch)
    half = trial.precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        logits = model(inputs).flatten(0, 1)  # (rows * tokens, vocab_size)
    smooth = trial.label_smoothing
    return F.cross_entropy(
        logits.float(), targets.flatten(), ignore_index=IGNORED, label_smoothing=smooth
    )


def trial_optimizers(model: GPTModel, trial: Trial) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the matrices in the blocks and AdamW for the rest."""
    # d_training_tricks.ipynb, "D.14 One loop, every switch, one table"
    groups, decays = parameter_groups(model), trial.weight_decay
    rest = decays if trial.decay_all else 0.0
    tables = {"params": groups["tables"], "lr": trial.rate * trial.table_factor}
    others = [tables | {"weight_decay": rest}, {"params": groups["vectors"], "weight_decay": rest}]
    optimizers: list[torch.optim.Optimizer] = []
    if trial.muon_rate:
        matrices = [{"params": groups["fused"], "parts": 3}, {"params": groups["single"]}]
        optimizers.append(Muon(matrices, lr=trial.muon_rate, weight_decay=decays))
    else:
        matrices = groups["fused"] + groups["single"]
        others.insert(0, {"params": matrices, "weight_decay": decays})
    betas = (0.9, trial.beta)
    optimizers.append(torch.optim.AdamW(others, lr=trial.rate, betas=betas, fused=True))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["peak"] = group["lr"]
    return optimizers


def trial_factor(trial: Trial, progress: float) -> float:
    """The factor for the learning rates at this point of a trial.

    Raises:
        ValueError: an unknown schedule.
    """
    # d_training_tricks.ipynb, "D.14 One loop, every switch, one table"
    if trial.schedule == "cosine":
        return cosine_rate_at(progress, trial.warmup)
    if trial.schedule not in ("constant", "wsd"):
        raise ValueError(f'schedule={trial.schedule!r}, expected "constant", "cosine" or "wsd".')
    decay = trial.decay if trial.schedule == "wsd" else 0.0
    return wsd_rate_at(progress, trial.warmup, decay)


def trial_step(
    model: GPTModel,
    optimizers: Sequence[torch.optim.Optimizer],
    bites: Sequence[Batch],
    trial: Trial,
    factor: float,
) -> tuple[float, float]:
    """One update with rates times `factor`; the loss, and the gradient's length before clipping."""
    # d_training_tricks.ipynb, "D.14 One loop, every switch, one table"
    total, loss = sum(map(count_targets, bites)), 0.0
    for bite in bites:
        part = trial_loss(model, bite, trial) * (count_targets(bite) / total)
        part.backward()
        loss += part.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), trial.max_norm).item()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        optimizer.step()
        optimizer.zero_grad()
    return loss, norm


def look_at_trial(model: GPTModel, exam: Iterable[Batch], average: WeightAverage | None) -> float:
    """The loss on the exam, of the averaged weights if there are any."""
    # d_training_tricks.ipynb, "D.14 One loop, every switch, one table"
    if average is None:
        return evaluate(model, exam)
    with average.in_place():
        return evaluate(model, exam)


@cache
def trial_tokenizer(vocab_size: int) -> BPETokenizer:
    """Chapter 2's story tokenizer, loaded once."""
    # d_training_tricks.ipynb, "D.14 One loop, every switch, one table"
    return story_tokenizer(vocab_size)


def run_trial(trial: Trial, looks: int = 3) -> dict:
    """Train once; the loss on held-out stories, at the end and at some points on the way.

    Returns:
        "loss": at the end, in nats per token; "looks": (share of the run, loss) pairs; "steps": a
        dict for each step, with tokens, loss, norm and factor; "tokens"; "seconds" of training.
    """
    # d_training_tricks.ipynb, "D.14 One loop, every switch, one table"
    tokenizer = trial_tokenizer(trial.vocab_size)
    batches, exam = trial_batches(trial, tokenizer), trial_exam(tokenizer)
    model = trial_model(trial)
    optimizers = trial_optimizers(model, trial)
    average = WeightAverage(model, trial.average) if trial.average else None
    groups = [batches[i : i + trial.accumulate] for i in range(0, len(batches), trial.accumulate)]
    total, read, seconds, steps, seen = sum(map(count_targets, batches)), 0, 0.0, [], []
    with own_randomness(model, trial.seed):
        for number, group in enumerate(groups, 1):
            started, tokens = time.perf_counter(), sum(map(count_targets, group))
            factor = trial_factor(trial, (read + tokens / 2) / total)
            loss, norm = trial_step(model, optimizers, group, trial, factor)
            if average:
                average.update()
            read, seconds = read + tokens, seconds + time.perf_counter() - started
            steps.append({"tokens": read, "loss": loss, "norm": norm, "factor": factor})
            if number * looks // len(groups) > (number - 1) * looks // len(groups):
                seen.append((read / total, look_at_trial(model, exam, average)))
    last = seen[-1][1]
    return {"loss": last, "looks": seen, "steps": steps, "tokens": total, "seconds": seconds}


# --------------------------------------------------------------------------------------------------
# Appendix E · LoRA: a small change to a large model
# e_lora/e_lora.ipynb
# --------------------------------------------------------------------------------------------------


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """(out, features) of a linear layer, also of one whose weight is kept in whole numbers.

    Raises:
        TypeError: it is no linear layer.
    """
    # e_lora.ipynb, "The layer that you keep"
    if isinstance(layer, TiedHead) or not isinstance(layer, nn.Module):
        kept = None
    else:
        kept = getattr(layer, "numbers", getattr(layer, "weight", None))
    if kept is None or kept.dim() != 2 or isinstance(layer, nn.Embedding):
        raise TypeError(
            f"a {type(layer).__name__}: expected a linear layer with a matrix of its own, such as "
            "nn.Linear, Int8Linear or FourBitLinear."
        )
    return tuple(kept.shape)


# e_lora.ipynb, "The layer that you keep"
Parts = Sequence[tuple[int, int]]  # ranges of rows (start, stop)


def check_rank(rank: int, alpha: float) -> None:
    """Raise ValueError unless `rank` is a whole number from 1 up and `alpha` above 0."""
    # e_lora.ipynb, "The layer that you keep"
    if type(rank) is not int or rank < 1:
        raise ValueError(f"rank={rank!r}, expected a whole number from 1 up, such as 8.")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha={alpha!r}, expected a number above 0, such as 2 * rank.")


def check_parts(parts: Parts | None, out: int) -> tuple[tuple[int, int], ...]:
    """The parts of the output, in order; all of it for None.

    Raises:
        ValueError: a part that is empty, overlaps another, or reaches past the output.
    """
    # e_lora.ipynb, "The layer that you keep"
    chosen = ((0, out),) if parts is None else tuple(sorted((int(a), int(b)) for a, b in parts))
    ends = [0, *(stop for _, stop in chosen)]
    fits = all(end <= a < b <= out for end, (a, b) in zip(ends, chosen, strict=False))
    if not chosen or not fits:
        raise ValueError(
            f"parts={parts}, expected pairs (start, stop) from 0 to {out} that do not overlap, "
            f"such as [(0, {out // 2})], or None for all."
        )
    return chosen


class LowRankChange(nn.Module):
    """A learned change of rank `rank`: scale * B A, for all rows of a matrix or for some.

    A starts at random and B at zero, so at first the change is nothing. Each of the `parts`,
    rows (start, stop) of the output, has an A and a B of its own; all parts stand in one tensor.

    Shape:
        A: (parts * rank, features); B: (rows in all parts, rank).
    """

    # e_lora.ipynb, "The layer that you keep"

    def __init__(
        self, shape: tuple[int, int], rank: int, alpha: float, parts: Parts | None = None
    ) -> None:
        super().__init__()
        check_rank(rank, alpha)
        self.out, features = shape
        self.parts = check_parts(parts, self.out)
        self.rank, self.scale = rank, alpha / rank
        self.A = nn.Parameter(torch.empty(len(self.parts) * rank, features))
        self.B = nn.Parameter(torch.zeros(sum(b - a for a, b in self.parts), rank))

    def delta(self) -> Tensor:
        """The change of the weight, written out: (out, features)."""
        return self.scale * (wide_B(self) @ self.A)

    def change(self, x: Tensor) -> Tensor:
        """The change times x, (..., out), without ever making the large matrix."""
        return self.scale * F.linear(F.linear(x, self.A), wide_B(self))


def wide_B(change: LowRankChange) -> Tensor:
    """B with a row for each output and a column for each row of A; zero where nothing changes."""
    # e_lora.ipynb, "The layer that you keep"
    if change.parts == ((0, change.out),):
        return change.B
    wide, row, rank = change.B.new_zeros(change.out, len(change.A)), 0, change.rank
    for i, (start, stop) in enumerate(change.parts):
        own = change.B[row : row + stop - start]
        wide[start:stop, i * rank : (i + 1) * rank] = own
        row += stop - start
    return wide


class LoRALinear(LowRankChange):
    """A frozen linear layer with a learned change of low rank: base(x) + alpha / rank * B(A x).

    Shape:
        x: (..., features); result: (..., out).

    Raises:
        TypeError: `base` is no linear layer.
        ValueError: rank, alpha or parts make no sense.

    Source: Hu et al. (2022), "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
    """

    # e_lora.ipynb, "The layer that you keep"

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        alpha: float,
        parts: Parts | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(matrix_shape(base), rank, alpha, parts)
        self.base, self.kept = base.requires_grad_(False), ()  # kept: its weight while merged
        bound = self.A.shape[1] ** -0.5
        nn.init.uniform_(self.A, -bound, bound, generator=generator)
        self.to((*base.parameters(), *base.buffers())[0].device)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) if self.kept else self.base(x) + self.change(x)


# e_lora.ipynb, "E.4 Into the model"
LORA_TARGETS = {
    "q": "attention.qkv",
    "k": "attention.qkv",
    "v": "attention.qkv",
    "out": "attention.out",
    "up": "feed_forward.up",
    "down": "feed_forward.down",
}
ATTENTION_TARGETS = ("q", "k", "v", "out")
ALL_TARGETS = tuple(LORA_TARGETS)


def check_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """The targets, in the order of LORA_TARGETS.

    Raises:
        ValueError: none, one twice, or one that a block does not have.
    """
    # e_lora.ipynb, "E.4 Into the model"
    chosen = (targets,) if isinstance(targets, str) else tuple(targets)
    unknown = [name for name in chosen if name not in LORA_TARGETS]
    ends = [name for name in unknown if name in ("head", "output_head", "token_embedding")]
    if ends:
        raise ValueError(
            f"targets: {ends[0]!r} is no matrix inside the blocks. A tied head is the token "
            "embedding's own table: to train both ends give trainable=['token_embedding'], or "
            "new_rows=… for its last rows. A classifier's head is trained anyway."
        )
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"targets={targets!r}, expected some of {', '.join(LORA_TARGETS)}, each once."
        )
    return tuple(name for name in LORA_TARGETS if name in chosen)


def thirds(attention: nn.Module) -> dict[str, tuple[int, int]]:
    """Which rows of a fused projection give queries, keys and values; groups may share keys."""
    # e_lora.ipynb, "E.4 Into the model"
    queries = attention.num_heads * attention.head_dim
    shared = getattr(attention, "num_kv_heads", attention.num_heads) * attention.head_dim
    return {
        "q": (0, queries),
        "k": (queries, queries + shared),
        "v": (queries + shared, queries + 2 * shared),
    }


class NewRowsEmbedding(nn.Module):
    """A frozen embedding whose last `count` rows are trained: the tokens that are new.

    `weight` is the whole table, for a head that is tied to it.

    Shape:
        ids: any; result: (*ids.shape, embed_dim).

    Raises:
        ValueError: `count` is not from 1 to the number of rows.
    """

    # e_lora.ipynb, "E.4 Into the model"

    def __init__(self, base: nn.Module, count: int) -> None:
        super().__init__()
        table = base.weight.detach()
        if not 1 <= count <= len(table):
            raise ValueError(
                f"new_rows={count}, expected 1 to {len(table)}, the rows of the table."
            )
        self.base, self.new = base.requires_grad_(False), nn.Parameter(table[-count:].clone())

    @property
    def weight(self) -> Tensor:
        """All rows: (vocab_size, embed_dim)."""
        return torch.cat([self.base.weight[: -len(self.new)], self.new])

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


def train_new_rows(model: GPTModel, count: int) -> None:
    """Let the last rows of the token embedding be trained; a tied head reads them, too."""
    # e_lora.ipynb, "E.4 Into the model"
    model.token_embedding = NewRowsEmbedding(model.token_embedding, count)
    if isinstance(model.output_head, TiedHead):
        model.output_head = TiedHead(model.token_embedding)


def own_parameters(model: nn.Module, names: Sequence[str]) -> set[int]:
    """The ids of all parameters inside the modules of these names.

    Raises:
        ValueError: the model has no module of such a name, or the module has no parameters.
    """
    # e_lora.ipynb, "E.4 Into the model"
    found = {name: m for name, m in model.named_modules() if name in names}
    for name in names:
        if name not in found or not list(found[name].parameters()):
            tied = " A tied head has none of its own: name token_embedding." * ("head" in name)
            known = [child for child, _ in model.named_children()]
            raise ValueError(
                f"trainable: {name!r} names no module with parameters; the model has {known}.{tied}"
            )
    return {id(p) for module in found.values() for p in module.parameters()}


def sharing_copy(model: nn.Module, own: Sequence[str] = ()) -> nn.Module:
    """A copy whose parameters are frozen and lie where the model's lie: no number is copied.

    Modules named in `own` get numbers of their own, to be trained. Raises as `own_parameters`.
    """
    # e_lora.ipynb, "E.4 Into the model"
    mine, memo = own_parameters(model, own), {id(b): b for b in model.buffers()}
    for p in model.parameters():
        if id(p) not in mine:
            memo[id(p)] = nn.Parameter(p.detach(), requires_grad=False)
    copied = copy.deepcopy(model, memo)
    for name in own:
        copied.get_submodule(name).requires_grad_(True)
    return copied


def base_key(model: nn.Module) -> str:
    """A short key of all that is frozen in a model: another base, another key."""
    # e_lora.ipynb, "E.4 Into the model"
    digest = hashlib.sha256()
    frozen = [(n, p) for n, p in model.named_parameters() if not p.requires_grad]
    for name, tensor in [*frozen, *model.named_buffers()]:
        if name == "token_embedding.base.weight":  # rows that the adapter replaces do not count
            tensor = tensor[: -len(model.token_embedding.new)]
        raw = tensor.detach().flatten().contiguous().view(torch.uint8).cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_base(model: nn.Module) -> None:
    """Raise TypeError or ValueError if no adapter can be put on this."""
    # e_lora.ipynb, "E.4 Into the model"
    if not isinstance(model, GPTModel):
        raise TypeError(
            f"a {type(model).__name__}: expected a GPTModel of chapter 4 or a classifier of "
            "chapter 6. For another network, put LoRALinear around its layers yourself."
        )
    if lora_layers(model):
        raise ValueError(
            "the model has an adapter already: give the base model, or without_lora(model)."
        )


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """All LoRALinear layers inside, by name."""
    # e_lora.ipynb, "E.4 Into the model"
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


def adapt_block(
    block: nn.Module, rank: int, alpha: float, targets: Sequence[str], dice: torch.Generator
) -> None:
    """Put a LoRALinear around each target of a block, in place."""
    # e_lora.ipynb, "E.4 Into the model"
    rows = thirds(block.attention)
    for path in dict.fromkeys(LORA_TARGETS[name] for name in targets):
        part, name = path.split(".")
        holder = block.get_submodule(part)
        parts = [rows[t] for t in rows if t in targets] if name == "qkv" else None
        setattr(holder, name, LoRALinear(getattr(holder, name), rank, alpha, parts, dice))


def add_lora(
    model: GPTModel,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] = ("q", "v"),
    *,
    trainable: Sequence[str] = (),  # modules to train whole, such as "final_norm"
    new_rows: int = 0,  # so many last rows of the token embedding are trained
    seed: int = 0,
) -> GPTModel:
    """A copy of `model` with a low-rank change on the targets of each block; the rest is frozen.

    The copy shares the model's weights, so several copies stand on one base. A head with weights
    of its own, as a classifier's, is trained, too. `targets`: some of LORA_TARGETS.

    Raises: TypeError or ValueError if the model or the settings do not allow it; says what to do.
    """
    # e_lora.ipynb, "E.4 Into the model"
    check_base(model)
    tied = isinstance(model.output_head, TiedHead)
    tuned = sharing_copy(model, [*trainable, *([] if tied else ["output_head"])])
    chosen, dice = check_targets(targets), torch.Generator().manual_seed(seed)
    for block in tuned.blocks:
        adapt_block(block, rank, alpha, chosen, dice)
    if new_rows:
        train_new_rows(tuned, new_rows)
    settings = {"rank": rank, "alpha": alpha, "targets": list(chosen)}
    tuned.lora = settings | {"trainable": list(trainable), "new_rows": new_rows}
    tuned.lora_names = [name for name, p in tuned.named_parameters() if p.requires_grad]
    tuned.lora_base = base_key(tuned)
    return tuned


def trained_parameters(model: nn.Module) -> int:
    """How many numbers get a gradient."""
    # e_lora.ipynb, "The ledger"
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def lora_ledger(
    model: GPTModel, rank: int, targets: Sequence[str] = ("q", "v"), new_rows: int = 0
) -> dict[str, int]:
    """How many numbers an adapter learns, by target, worked out without making it.

    They add up to `trained_parameters(add_lora(model, rank, targets=targets, …))`.
    """
    # e_lora.ipynb, "The ledger"
    dim, layers = model.config.embed_dim, model.config.num_layers
    rows = {name: stop - start for name, (start, stop) in thirds(model.blocks[0].attention).items()}
    sizes = {name: (rows[name], dim) for name in rows}
    sizes |= {"out": (dim, dim), "up": (4 * dim, dim), "down": (dim, 4 * dim)}
    ledger = {t: layers * rank * sum(sizes[t]) for t in check_targets(targets)}
    head = 0 if isinstance(model.output_head, TiedHead) else model.output_head.weight.numel()
    bias = 0 if not head or model.output_head.bias is None else model.output_head.bias.numel()
    return ledger | {"head": head + bias, "new rows": new_rows * dim}


def lora_tuning(seed: int = 0, rate: float = 0.005, **changes: object) -> Recipe:
    """A recipe to train an adapter: AdamW for A and B at `rate`, gentle elsewhere.

    Example:
        >>> lora_tuning(rate=0.01).matrix_optimizer
        'adamw'
    """
    # e_lora.ipynb, "E.5 Teach it something"
    usual = {"matrix_rate": rate, "table_rate": 0.002, "vector_rate": 0.002, "momentum": 0.9}
    return Recipe("adamw", **usual | {"seed": seed} | changes)


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Add each change into its layer's weight, in place; the base that others share stays as it is.

    Raises:
        ValueError: no adapter, merged already, or the base is kept in whole numbers.
    """
    # e_lora.ipynb, "E.8 Merge: an ordinary model again"
    layers = lora_layers(model)
    if not layers or any(layer.kept for layer in layers.values()):
        what = "is merged already: unmerge_lora first" if layers else "has no adapter: see add_lora"
        raise ValueError(f"merge_lora: the model {what}.")
    for name, layer in layers.items():
        if not isinstance(layer.base, nn.Linear):
            raise ValueError(
                f"merge_lora: {name} stands on a {type(layer.base).__name__}, and a small change "
                "would be lost between its few levels. Keep the adapter apart, or merge it into "
                "the model that was not rounded."
            )
    for layer in layers.values():
        layer.kept = (layer.base.weight,)
        layer.base.weight = nn.Parameter(layer.kept[0] + layer.delta(), requires_grad=False)


def unmerge_lora(model: nn.Module) -> None:
    """Go back to the base's own weights, bit for bit, and add the changes in each pass again.

    Raises:
        ValueError: it is not merged.
    """
    # e_lora.ipynb, "E.8 Merge: an ordinary model again"
    layers = lora_layers(model)
    if not layers or not all(layer.kept for layer in layers.values()):
        raise ValueError("unmerge_lora: the model is not merged: merge_lora first.")
    for layer in layers.values():
        layer.base.weight = nn.Parameter(layer.kept[0].to(layer.A.device), requires_grad=False)
        layer.kept = ()


@torch.no_grad()
def without_lora(model: GPTModel, merged: bool = True) -> GPTModel:
    """An ordinary model with weights of its own: with the adapter's change in them, or without.

    Without `merged` it is the base, with the head and new rows as they were trained.

    Raises:
        ValueError: no adapter, or merging into whole numbers.
    """
    # e_lora.ipynb, "E.8 Merge: an ordinary model again"
    plain = copy.deepcopy(model)
    layers = lora_layers(plain)
    if merged and not any(layer.kept for layer in layers.values()):
        merge_lora(plain)
    if not merged and any(layer.kept for layer in layers.values()):
        unmerge_lora(plain)
    for name, layer in layers.items():
        holder, _, last = name.rpartition(".")
        setattr(plain.get_submodule(holder), last, layer.base)
    if isinstance(plain.token_embedding, NewRowsEmbedding):
        tied = isinstance(plain.output_head, TiedHead)
        plain.token_embedding = nn.Embedding.from_pretrained(plain.token_embedding.weight)
        plain.output_head = TiedHead(plain.token_embedding) if tied else plain.output_head
    for name in ("lora", "lora_names", "lora_base"):
        delattr(plain, name)
    return plain.requires_grad_(True)


def adapter_tensors(model: GPTModel) -> dict[str, Tensor]:
    """All that an adapter consists of, by name: A and B, a head of its own, new rows.

    Raises:
        ValueError: the model has no adapter.
    """
    # e_lora.ipynb, "E.9 A file of its own, and several on one base"
    if not hasattr(model, "lora_names"):
        raise ValueError(f"a {type(model).__name__} without an adapter: see add_lora.")
    named = dict(model.named_parameters())
    return {name: named[name].detach() for name in model.lora_names}


def save_adapter(path: str | Path, model: GPTModel, **notes: object) -> None:
    """Save the adapter alone as `path`, a .safetensors, and a .json that says which base it needs.

    Raises:
        ValueError: no adapter, or the path has another ending.
        TypeError: JSON cannot hold the notes.
    """
    # e_lora.ipynb, "E.9 A file of its own, and several on one base"
    weights, sheet = both_files(path)
    tensors = {f"adapter.{n}": t.cpu().contiguous() for n, t in adapter_tensors(model).items()}
    key = secrets.token_hex(8)
    content = {"format": CHECKPOINT_FORMAT, "key": key, "config": asdict(model.config)}
    content |= {"adapter": model.lora, "base": model.lora_base, "notes": notes}
    text = json.dumps(content, indent=1)
    with written_whole(sheet) as new_sheet, written_whole(weights) as new_weights:
        save_file(tensors, new_weights, metadata={"key": key})
        new_sheet.write_text(text, encoding="utf-8")


def check_adapter(path: str | Path, content: dict, base: GPTModel) -> None:
    """Raise ValueError if a file's description is of no adapter, or of one for another shape."""
    # e_lora.ipynb, "E.9 A file of its own, and several on one base"
    if "adapter" not in content:
        raise ValueError(f"{path} holds a whole model: load it with load_checkpoint.")
    if other := differences(content["config"], asdict(base.config)):
        raise ValueError(
            f"the adapter in {path} belongs to a base of another shape: {'; '.join(other)}. Give "
            "the model that it was trained on."
        )


def check_same_base(path: str | Path, content: dict, model: GPTModel, found: dict) -> None:
    """Raise ValueError unless the tensors `found` fit, and were trained on this model's base."""
    # e_lora.ipynb, "E.9 A file of its own, and several on one base"
    wanted = {name: t.shape for name, t in adapter_tensors(model).items()}
    if wrong := {n for n in wanted | found if n not in found or wanted.get(n) != found[n].shape}:
        raise ValueError(
            f"the adapter in {path} does not fit this base in {sorted(wrong)}: it was trained on "
            "another kind of model, such as a classifier with another head."
        )
    if content["base"] != model.lora_base:
        raise ValueError(
            f"the adapter in {path} was trained on other weights (base {content['base']}, this is "
            f"{model.lora_base}): a change is of use only on what it changes. Give the model that "
            "it was trained on, or train it anew on this one."
        )


def load_adapter(path: str | Path, base: GPTModel) -> tuple[GPTModel, dict]:
    """A copy of `base`, sharing its weights, with the adapter that was saved; and its notes.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`; or the file holds no adapter, or one
            that was trained on another base.
    """
    # e_lora.ipynb, "E.9 A file of its own, and several on one base"
    check_base(base)
    tensors, content = read_checkpoint(path)
    check_adapter(path, content, base)
    model = add_lora(base, **content["adapter"])
    found = {name.removeprefix("adapter."): t for name, t in tensors.items()}
    check_same_base(path, content, model, found)
    with torch.no_grad():
        for name, tensor in adapter_tensors(model).items():
            tensor.copy_(found[name])
    return model.eval(), content["notes"]


def normal_levels() -> Tensor:
    """Sixteen levels from -1 to 1 that lie as a bell curve's numbers do, one of them 0 (NF4).

    Shape:
        result: (16,), rising.

    Source: Dettmers et al. (2023), "QLoRA: Efficient Finetuning of Quantized LLMs", section 3.
    """
    # e_lora.ipynb, "E.11 A base in four bits"
    edge = 1 - (1 / 32 + 1 / 30) / 2  # the outermost share; both ends of the bell curve stay in
    above = torch.special.ndtri(torch.linspace(0.5, edge, 9, dtype=torch.float64))
    below = -torch.special.ndtri(torch.linspace(0.5, edge, 8, dtype=torch.float64))
    levels = torch.cat([below[1:].flip(0), above])  # 7 below 0, then 0, then 8 above
    return (levels / levels.abs().max()).float()


def even_levels() -> Tensor:
    """Sixteen levels in even steps: the whole numbers of four bits, -8 to 7, over 7.

    The largest number of a block falls on 1 or -1, so the lowest level is never used.
    """
    # e_lora.ipynb, "E.11 A base in four bits"
    return torch.arange(-8, 8) / 7


def quantise_to_levels(weight: Tensor, levels: Tensor, block: int = 64) -> tuple[Tensor, Tensor]:
    """The nearest level of each number, and for each `block` of numbers the largest size in it.

    Shape:
        weight: any; result: uint8 of as many numbers in a row, filled up to whole blocks; and
        scales (blocks, 1).

    Raises:
        ValueError: `block` below 2 or odd.
    """
    # e_lora.ipynb, "E.11 A base in four bits"
    if block < 2 or block % 2:
        raise ValueError(f"block={block}, expected an even number from 2 up, such as 64.")
    flat = weight.detach().flatten()
    rows = F.pad(flat, (0, -len(flat) % block)).view(-1, block)
    scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12)
    middles = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(rows / scale, middles).to(torch.uint8).flatten(), scale


def pack_pairs(codes: Tensor) -> Tensor:
    """Numbers from 0 to 15, two in each byte. Shape: (n,), n even -> (n / 2,), uint8."""
    # e_lora.ipynb, "E.11 A base in four bits"
    return codes[::2] * 16 + codes[1::2]


def unpack_pairs(packed: Tensor) -> Tensor:
    """The numbers that `pack_pairs` packed. Shape: (n / 2,) -> (n,)."""
    # e_lora.ipynb, "E.11 A base in four bits"
    return torch.stack([packed // 16, packed % 16], dim=1).flatten()


class RoundedProduct(torch.autograd.Function):
    """x times a matrix that is unpacked when needed, on the way back once more: never kept."""

    # e_lora.ipynb, "E.11 A base in four bits"

    @staticmethod
    def forward(ctx: object, x: Tensor, layer: nn.Module) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight, None


class FourBitLinear(nn.Module):
    """A frozen linear layer with its weight in four bits, made from an ordinary one.

    Shape:
        x: (..., features); result: (..., out).

    Source: Dettmers et al. (2023), "QLoRA: Efficient Finetuning of Quantized LLMs", section 3.
    """

    # e_lora.ipynb, "E.11 A base in four bits"

    def __init__(self, linear: nn.Linear, levels: Tensor | None = None, block: int = 64) -> None:
        super().__init__()
        levels = (normal_levels() if levels is None else levels).to(linear.weight.device)
        if levels.shape != (16,):
            raise ValueError(f"levels: shape {tuple(levels.shape)}, expected (16,), rising.")
        codes, scale = quantise_to_levels(linear.weight, levels, block)
        self.shape = tuple(linear.weight.shape)
        self.register_buffer("packed", pack_pairs(codes))
        self.register_buffer("scale", scale)
        self.register_buffer("levels", levels)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The whole matrix as floats again: (out, features)."""
        rows = self.levels[unpack_pairs(self.packed).long()].view(len(self.scale), -1) * self.scale
        return rows.flatten()[: math.prod(self.shape)].view(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        out = RoundedProduct.apply(x, self)
        return out if self.bias is None else out + self.bias


def replace_matrices(
    model: GPTModel,
    make: Callable[[nn.Linear], nn.Module],
    embedding: Callable[[nn.Embedding], nn.Module] | None = None,
) -> GPTModel:
    """A frozen copy of `model` whose blocks hold `make(linear)` in place of each linear layer.

    Norms, positions and a head with weights of its own stay as they are. Put an adapter on it to
    train it.

    Args:
        embedding: what to put in place of the token embedding; a tied head then reads from it.

    Raises:
        TypeError, ValueError: the model is no GPTModel, or has an adapter already.

    Example:
        >>> small = replace_matrices(gpt, FourBitLinear)
    """
    # e_lora.ipynb, "E.11 A base in four bits"
    check_base(model)
    small = copy.deepcopy(model).requires_grad_(False)
    for part in [m for block in small.blocks for m in block.modules()]:
        for name, child in list(part.named_children()):
            if isinstance(child, nn.Linear):
                setattr(part, name, make(child))
    if embedding is not None:
        small.token_embedding = embedding(small.token_embedding)
        if isinstance(small.output_head, TiedHead):
            small.output_head = TiedHead(small.token_embedding)
    return small.eval()


# --------------------------------------------------------------------------------------------------
# Appendix F · Fast inference: the same tokens, sooner
# f_fast_inference/f_fast_inference.ipynb
# --------------------------------------------------------------------------------------------------


class KVCache:
    """Keys and values of the tokens that a model has read, in memory that is taken once.

    `store` is (layers, batch, 2 * key heads, context_length, head_dim): of each row the keys,
    then the values. `ids` are the tokens that they belong to, a list for each row.

    Raises:
        TypeError: the model is no GPTModel.
        ValueError: a batch of less than one row.

    Example:
        >>> KVCache(GPTModel(GPT2_CONFIGS["gpt2"])).num_bytes
        75497472
    """

    # f_fast_inference.ipynb, "F.4 Memory that is taken once"

    def __init__(self, model: GPTModel, batch_size: int = 1) -> None:
        check_cacheable(model, batch_size)
        attention, like = model.blocks[0].attention, model.position_embedding.weight
        self.key_heads = getattr(attention, "num_kv_heads", attention.num_heads)
        shape = (len(model.blocks), batch_size, 2 * self.key_heads, model.config.context_length)
        self.store = like.detach().new_zeros(*shape, attention.head_dim)
        self.ids: list[list[int]] = [[] for _ in range(batch_size)]

    @property
    def num_bytes(self) -> int:
        """What it takes, however much of it is filled."""
        return self.store.numel() * self.store.element_size()

    def keep(self, rows: Sequence[int]) -> None:
        """Let only these rows stay, in this order."""
        self.store = self.store[:, list(rows)]
        self.ids = [self.ids[row] for row in rows]


def check_cacheable(model: nn.Module, batch_size: int) -> None:
    """Raise TypeError or ValueError if there can be no `KVCache` for this."""
    # f_fast_inference.ipynb, "F.4 Memory that is taken once"
    if not isinstance(model, GPTModel):
        raise TypeError(
            f"a cache for a {type(model).__name__}: expected a GPTModel of chapter 4. Other models "
            "keep other things; chapter 4's `generate` works with any."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}, expected 1 or more rows.")


@dataclass(frozen=True)
class Place:
    """Where a chunk of tokens goes in a cache, and what each of them may look at."""

    # f_fast_inference.ipynb, "Where a chunk goes"

    position: Tensor | slice  # of each token, as an index of the position embedding
    seen: int  # so many places of the cache are looked at, from the first
    mask: Tensor | None  # (..., tokens, seen), True where a token may look; None: everywhere
    write: tuple  # index of where its keys go in one layer's store
    real: Tensor | None = None  # which of the chunk's tokens, counted through all rows, are kept


def place_together(start: int, tokens: int, device: torch.device) -> Place:
    """The place of `tokens` more tokens in rows that all hold `start`.

    Example:
        >>> place_together(3, 2, torch.device("cpu")).mask.int().tolist()
        [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    """
    # f_fast_inference.ipynb, "Where a chunk goes"
    stop, mask = start + tokens, None
    if tokens > 1:
        mask = torch.ones(tokens, stop, dtype=torch.bool, device=device).tril(start)
    where = slice(start, stop)
    return Place(where, stop, mask, (slice(None), slice(None), where))


def bare(part: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a plain layer computes, without the calls around it; any other part as it is."""
    # f_fast_inference.ipynb, "The price of a call"
    if type(part) in (nn.Linear, FastLinear):
        return partial(F.linear, weight=part.weight, bias=part.bias)
    if type(part) is LayerNorm:
        norm = partial(torch.layer_norm, normalized_shape=part.weight.shape, eps=part.eps)
        return partial(norm, weight=part.weight, bias=part.bias)
    if type(part) is TiedHead and type(part.shared[0]) is nn.Embedding:
        return partial(F.linear, weight=part.weight)
    return part


class BlockParts:
    """The six parts of a block that hold weights, each as something to call."""

    # f_fast_inference.ipynb, "The price of a call"

    def __init__(self, block: nn.Module) -> None:
        self.norm1, self.norm2 = bare(block.norm1), bare(block.norm2)
        self.qkv, self.out = bare(block.attention.qkv), bare(block.attention.out)
        self.up, self.down = bare(block.feed_forward.up), bare(block.feed_forward.down)


def run_block(parts: BlockParts, x: Tensor, store: Tensor, place: Place) -> Tensor:
    """One block of a GPTModel, whose tokens look at what one layer's `store` holds.

    Shape:
        x: (batch, tokens, embed_dim); store: (batch, 2 * key heads, context_length, head_dim);
        result: as x. The new keys and values are written into the store.
    """
    # f_fast_inference.ipynb, "The price of a call"
    key_heads = store.shape[1] // 2
    cut = parts.qkv(parts.norm1(x)).view(*x.shape[:2], -1, store.shape[-1]).transpose(1, 2)
    q, new = cut[:, : -2 * key_heads], cut[:, -2 * key_heads :]  # (batch, heads, tokens, head_dim)
    if place.real is not None:
        new = new.transpose(1, 2).flatten(0, 1)[place.real]  # (real tokens, heads, head_dim)
    store[place.write] = new
    seen = store[:, :, : place.seen]
    k, v = seen[:, :key_heads], seen[:, key_heads:]  # (batch, key heads, seen, head_dim)
    grouped = key_heads < q.shape[1]
    mixed = F.scaled_dot_product_attention(q, k, v, place.mask, enable_gqa=grouped)
    x = x + parts.out(mixed.transpose(1, 2).flatten(2))  # (batch, tokens, embed_dim)
    return x + parts.down(F.gelu(parts.up(parts.norm2(x)), approximate="tanh"))


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows have in common at their beginnings.

    Example:
        >>> common_length([5, 6, 7, 8], [5, 6, 9])
        2
    """
    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"
    limit = min(len(one), len(other))
    if one[:limit] == other[:limit]:  # in nearly all cases, and quick
        return limit
    return next(i for i in range(limit) if one[i] != other[i])


class CachedReader:
    """A model with a memory: gives the logits after each row, and reads only what is new in it.

    Dropout is off, and there are no gradients. `overflow`: see `window`.
    """

    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"

    def __init__(self, model: GPTModel, batch_size: int = 1, overflow: str = "exact") -> None:
        check_overflow(overflow)
        self.model, self.overflow, self.cache = model, overflow, KVCache(model, batch_size)
        self.parts = [BlockParts(block) for block in model.blocks]
        self.norm, self.head = bare(model.final_norm), bare(model.output_head)

    @torch.inference_mode()
    def logits(self, rows: Sequence[list[int]], last: int = 1) -> Tensor:
        """The logits after each of the `last` tokens of each row: (rows, last, vocab_size)."""
        windows = [window(row, self.model.config.context_length, self.overflow) for row in rows]
        check_rows_to_read(windows, self.cache, last)
        ids = zip(self.cache.ids, windows, strict=True)
        starts = [min(common_length(*pair), len(pair[1]) - last) for pair in ids]
        chunks = [row[start:] for row, start in zip(windows, starts, strict=True)]
        x = last_of_each(self.read(chunks, starts), [len(chunk) for chunk in chunks], last)
        self.cache.ids = [list(row) for row in windows]
        return self.head(self.norm(x)).float()

    def read(self, chunks: list[list[int]], starts: list[int]) -> Tensor:
        """Take in a chunk for each row, from place `starts` on: (rows, longest, embed_dim)."""
        place, token_ids = place_chunks(chunks, starts, self.cache.store)
        x = self.model.token_embedding(token_ids)
        x = x + self.model.position_embedding.weight[place.position]
        for parts, store in zip(self.parts, self.cache.store, strict=True):
            x = run_block(parts, x, store, place)
        return x


def last_of_each(x: Tensor, sizes: Sequence[int], last: int) -> Tensor:
    """The `last` tokens of each row, rows being of these sizes and filled up on the right.

    Shape:
        x: (rows, tokens, embed_dim); result: (rows, last, embed_dim).
    """
    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"
    if min(sizes) == x.shape[1]:  # no filling
        return x[:, -last:]
    return torch.stack([x[i, size - last : size] for i, size in enumerate(sizes)])


def check_rows_to_read(rows: Sequence[list[int]], cache: KVCache, last: int) -> None:
    """Raise ValueError if these rows do not belong to the cache, or are too short."""
    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"
    if len(rows) != len(cache.ids):
        raise ValueError(
            f"{len(rows)} rows, but the cache was made for {len(cache.ids)}. Make a new reader, "
            "or let rows leave with cache.keep(rows)."
        )
    if last < 1 or min(map(len, rows)) < last:
        raise ValueError(
            f"last={last}, and the shortest row has {min(map(len, rows))} tokens: expected 1 or "
            "more, and rows at least as long."
        )


def window(row: list[int], context_length: int, overflow: str = "exact") -> list[int]:
    """What a model reads of a row: all, or the end of it where it has outgrown the context.

    With "exact" the last `context_length` tokens, as in chapter 4. With "half" the window moves
    on by half a context whenever it is full.

    Example:
        >>> window([1, 2, 3, 4, 5], 4), window([1, 2, 3, 4, 5], 4, "half")
        ([2, 3, 4, 5], [3, 4, 5])
    """
    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"
    over = len(row) - context_length
    if over <= 0:
        return row
    step = 1 if overflow == "exact" else max(context_length // 2, 1)
    return row[-(-over // step) * step :]


def check_overflow(overflow: str) -> None:
    """Raise ValueError for an unknown way to go on past the context."""
    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"
    if overflow not in ("exact", "half"):
        raise ValueError(
            f'overflow={overflow!r}, expected "exact" (as chapter 4 slides its window, no gain '
            'past the context) or "half" (drop half of it at once: quick, other tokens).'
        )


def place_chunks(chunks: list[list[int]], starts: list[int], store: Tensor) -> tuple[Place, Tensor]:
    """Where each row's chunk goes that begins at its own start, and the chunks' ids, filled up.

    Shape:
        ids: (rows, longest chunk).
    """
    # f_fast_inference.ipynb, "Rows of unequal length"
    sizes, device = [len(chunk) for chunk in chunks], store.device
    longest = max(sizes)
    ids = torch.tensor([c + [0] * (longest - len(c)) for c in chunks], device=device)
    if min(sizes) == longest and min(starts) == max(starts):
        return place_together(starts[0], longest, device), ids
    steps = torch.arange(longest, device=device)
    positions = torch.tensor(starts, device=device)[:, None] + steps  # (rows, longest)
    is_real = steps < torch.tensor(sizes, device=device)[:, None]
    real = is_real.flatten().nonzero().flatten()
    seen = max(start + size for start, size in zip(starts, sizes, strict=True))
    mask = torch.arange(seen, device=device) <= positions[:, None, :, None]
    write = (real // longest, slice(None), positions.flatten()[real])
    positions = positions.clamp(max=store.shape[-2] - 1)  # of filling, which has none
    return Place(positions, seen, mask, write, real), ids


def cached_steps(
    model: GPTModel,
    rows: list[list[int]],
    max_new_tokens: int,
    eos_id: int | None,
    overflow: str = "exact",
    **sampling: object,
) -> Iterator[None]:
    """Chapter 4's `generation_steps` with a KV cache: grow `rows` in place, one token a step."""
    # f_fast_inference.ipynb, "F.6 generate, with a memory"
    growing, reader = list(rows), CachedReader(model, max(len(rows), 1), overflow)
    for _ in range(max_new_tokens):
        if not growing:
            return
        chosen = next_tokens(reader.logits(growing)[:, -1], **sampling)
        for row, token in zip(growing, chosen, strict=True):
            row.append(token)
        left = [i for i, row in enumerate(growing) if row[-1] != eos_id]
        if len(left) < len(growing):
            growing = [growing[i] for i in left]
            reader.cache.keep(left)
        yield


def generate_cached(
    model: GPTModel,
    token_ids: Tensor | Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    overflow: str = "exact",
    eos_id: int | None = None,
    **sampling: object,
) -> Tensor | list[list[int]]:
    """Chapter 4's `generate`, with the same settings and the same tokens, sooner.

    `overflow` says what is read once a row has outgrown the context: see `window`.

    Shape:
        token_ids: (batch, tokens), or lists of any lengths; result: as that of `generate`.

    Raises:
        ValueError: as `generate`, or an unknown `overflow`. TypeError: the model is no GPTModel.
    """
    # f_fast_inference.ipynb, "F.6 generate, with a memory"
    check_cacheable(model, 1)
    rows = checked_prompts(token_ids, max_new_tokens, model.config)
    for _ in cached_steps(model, rows, max_new_tokens, eos_id, overflow, **sampling):
        pass
    if not isinstance(token_ids, Tensor) or not rows:
        return token_ids if isinstance(token_ids, Tensor) else rows
    width = max(len(row) for row in rows)
    filled = [row + [eos_id] * (width - len(row)) for row in rows]
    return torch.tensor(filled, dtype=token_ids.dtype, device=token_ids.device)


@contextmanager
def cached_generation() -> Iterator[None]:
    """Inside, everything of the chapters that generates (`reply`, `Chat`, …) uses the cache.

    For good, in one line: `shared.previous_chapters.generation_steps = cached_steps`.

    Example:
        >>> with cached_generation():
        ...     print(*chat.stream("What is the plural? a kite"))
    """
    # f_fast_inference.ipynb, "In the chat"
    chapters = sys.modules[generate.__module__]
    plain = chapters.generation_steps
    chapters.generation_steps = cached_steps
    try:
        yield
    finally:
        chapters.generation_steps = plain


def shared_cache_bytes(
    config: GPTConfig,
    num_kv_heads: int,
    batch_size: int = 1,
    num_tokens: int | None = None,
    bytes_per_number: int = 4,
) -> int:
    """Bytes of a KV cache if the query heads share `num_kv_heads` heads of keys and values.

    Raises:
        ValueError: the query heads cannot be dealt out to so many groups equally.

    Example:
        >>> shared_cache_bytes(GPTConfig(1024, 128, 128, 4, 4), num_kv_heads=1)
        131072
    """
    # f_fast_inference.ipynb, "F.8 What a cache weighs"
    check_groups(config.num_heads, num_kv_heads)
    tokens = batch_size * (config.context_length if num_tokens is None else num_tokens)
    width = num_kv_heads * (config.embed_dim // config.num_heads)
    return 2 * config.num_layers * width * tokens * bytes_per_number


def check_groups(num_heads: int, num_kv_heads: int) -> None:
    """Raise ValueError if `num_heads` query heads cannot share `num_kv_heads` equally."""
    # f_fast_inference.ipynb, "F.8 What a cache weighs"
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        fit = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
        raise ValueError(
            f"num_kv_heads={num_kv_heads} with num_heads={num_heads}: expected one of {fit}."
        )


class SharedKeysAttention(nn.Module):
    """Causal attention in which groups of heads share one head of keys and values.

    Shape:
        x: (batch, tokens, embed_dim); result: the same.

    Source: Ainslie et al. (2023), "GQA: Training Generalized Multi-Query Transformer Models".
    """

    # f_fast_inference.ipynb, "Attention with shared keys"

    def __init__(self, embed_dim: int, num_heads: int, num_kv_heads: int, bias: bool) -> None:
        super().__init__()
        check_groups(num_heads, num_kv_heads)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, (num_heads + 2 * num_kv_heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        cut = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        sizes = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        q, k, v = cut.split(sizes, dim=1)  # (batch, heads, tokens, head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


def share_heads(model: GPTModel, num_kv_heads: int) -> GPTModel:
    """A copy of `model` whose heads share keys and values in groups, each the group's mean.

    Raises:
        ValueError: the heads cannot be dealt out equally.

    Source: Ainslie et al. (2023), "GQA", section 2.1.
    """
    # f_fast_inference.ipynb, "Attention with shared keys"
    shared, config = copy.deepcopy(model), model.config
    for block in shared.blocks:
        old = block.attention
        has_bias = old.qkv.bias is not None
        sizes = (config.embed_dim, config.num_heads, num_kv_heads, has_bias)
        with torch.random.fork_rng(devices=[]):  # its first weights are overwritten
            new = SharedKeysAttention(*sizes).to(old.qkv.weight)
        for name in ("weight", "bias") if has_bias else ("weight",):
            heads = getattr(old.qkv, name).detach().unflatten(0, (3, config.num_heads, -1))
            groups = heads[1:].unflatten(1, (num_kv_heads, -1)).mean(2)  # keys, values
            parts = [heads[0].flatten(0, 1), groups.flatten(0, 2)]
            getattr(new.qkv, name).data.copy_(torch.cat(parts))
        new.out.load_state_dict(old.out.state_dict())
        block.attention = new
    return shared.train(model.training)


def quantise_rows(weight: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Whole numbers and a scale for each row, so that numbers * scale is nearly `weight`.

    Shape:
        weight: (rows, columns); result: int8 of that shape, and scales (rows, 1).

    Raises:
        ValueError: `bits` not from 2 to 8.
    """
    # f_fast_inference.ipynb, "F.9 Weights in eight bits"
    if not 2 <= bits <= 8:
        raise ValueError(f"bits={bits}, expected 2 to 8.")
    limit = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / limit
    return (weight / scale).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """A linear layer with its weights in whole numbers, made from an ordinary one.

    Shape:
        x: (..., features); result: (..., out).
    """

    # f_fast_inference.ipynb, "F.9 Weights in eight bits"

    def __init__(self, linear: nn.Linear, bits: int = 8) -> None:
        super().__init__()
        numbers, scale = quantise_rows(linear.weight.detach(), bits)
        self.register_buffer("numbers", numbers)
        self.register_buffer("scale", scale.squeeze(1))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x, self.numbers.to(x.dtype)) * self.scale
        return out if self.bias is None else out + self.bias


class Int8Embedding(nn.Module):
    """An embedding with its vectors in whole numbers; `weight` gives them back as floats.

    Shape:
        ids: any; result: (*ids.shape, embed_dim).
    """

    # f_fast_inference.ipynb, "F.9 Weights in eight bits"

    def __init__(self, embedding: nn.Embedding, bits: int = 8) -> None:
        super().__init__()
        numbers, scale = quantise_rows(embedding.weight.detach(), bits)
        self.register_buffer("numbers", numbers)
        self.register_buffer("scale", scale)

    @property
    def weight(self) -> Tensor:
        """The whole matrix, for the output head that shares it."""
        return self.numbers.to(self.scale.dtype) * self.scale

    def forward(self, ids: Tensor) -> Tensor:
        return self.numbers[ids].to(self.scale.dtype) * self.scale[ids]


def quantise_int8(model: GPTModel, bits: int = 8) -> GPTModel:
    """A copy of `model` for inference, its matrices and token vectors in whole numbers.

    With fewer `bits` the numbers are rounded as if they had so many; they still take a byte each.

    Raises:
        ValueError: `bits` not from 2 to 8.
    """
    # f_fast_inference.ipynb, "F.9 Weights in eight bits"
    small = copy.deepcopy(model)
    for module in list(small.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child, bits))
    small.token_embedding = Int8Embedding(small.token_embedding, bits)
    small.output_head = TiedHead(small.token_embedding)
    return small.eval()


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers: what the model takes in memory and on disk."""
    # f_fast_inference.ipynb, "F.9 Weights in eight bits"
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def settle(
    token: int, p: Tensor, q: Tensor, generator: torch.Generator | None = None
) -> tuple[bool, int]:
    """Whether a token drawn from `q` is kept, and the token that stands there then.

    Over many draws of `token` from q, the tokens that stand are distributed as p.

    Shape:
        p, q: (vocab_size,), chances.

    Source: Leviathan et al. (2023), "Fast Inference from Transformers via Speculative Decoding".
    """
    # f_fast_inference.ipynb, "F.10 Guess ahead, check at once"
    device = "cpu" if generator is None else generator.device
    if float(torch.rand((), generator=generator, device=device)) * float(q[token]) < float(
        p[token]
    ):
        return True, token
    more = (p - q).clamp(min=0).to(device)
    return False, int(torch.multinomial(more, 1, generator=generator))


# f_fast_inference.ipynb, "A round"
Draft = Callable[[list[int]], Tensor]  # ids so far -> logits of the next token, (vocab_size,)


def propose(
    draft: Draft, row: list[int], count: int, generator: torch.Generator | None, **sampling: object
) -> tuple[list[int], list[Tensor]]:
    """`count` tokens that the draft would go on with, and the chances each was drawn from."""
    # f_fast_inference.ipynb, "A round"
    guessed, chances = list(row), []
    for _ in range(count):
        chances.append(sampling_probabilities(draft(guessed), **sampling))
        q = chances[-1] if generator is None else chances[-1].to(generator.device)
        guessed.append(int(torch.multinomial(q, 1, generator=generator)))
    return guessed[len(row) :], chances


def speculative_round(
    reader: CachedReader,
    draft: Draft,
    row: list[int],
    count: int,
    generator: torch.Generator | None = None,
    **sampling: object,
) -> tuple[list[int], int]:
    """The next tokens of `row`, from 1 to count + 1, and how many of the draft's were kept."""
    # f_fast_inference.ipynb, "A round"
    guesses, chances = propose(draft, row, count, generator, **sampling)
    logits = reader.logits([row + guesses], last=count + 1)[0]  # (count + 1, vocab_size)
    wanted = sampling_probabilities(logits, **sampling)
    for i, (token, q) in enumerate(zip(guesses, chances, strict=True)):
        kept, token = settle(token, wanted[i], q.to(wanted.device), generator)
        if not kept:
            return [*guesses[:i], token], i
    return [*guesses, *next_tokens(logits[-1:], generator=generator, **sampling)], count


@dataclass(frozen=True)
class Speculation:
    """A text written by guessing ahead, and how well that went."""

    # f_fast_inference.ipynb, "A round"

    row: list[int]  # the prompt and what was written
    passes: int  # of the large model
    proposed: int  # tokens that the draft offered
    kept: int  # of these


def speculative_generate(
    model: GPTModel,
    draft: GPTModel | Draft,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    num_draft: int = 4,
    eos_id: int | None = None,
    generator: torch.Generator | None = None,
    **sampling: object,
) -> Speculation:
    """Continue one prompt with a draft that guesses ahead; tokens are distributed as `model`'s.

    Raises:
        ValueError: as `generate`; num_draft below 1; or the two do not share a vocabulary.

    Source: Leviathan et al. (2023), "Fast Inference from Transformers via Speculative Decoding".
    """
    # f_fast_inference.ipynb, "A round"
    check_speculation(model, draft, num_draft, **sampling)
    (row,) = checked_prompts([list(prompt)], max_new_tokens, model.config)
    reader, guess = CachedReader(model), as_draft(draft)
    end, passes, proposed, kept = len(row) + max_new_tokens, 0, 0, 0
    while len(row) < end and not (passes and row[-1] == eos_id):
        count = min(num_draft, end - len(row) - 1, model.config.context_length - len(row))
        count = max(count, 0)
        new, good = speculative_round(reader, guess, row, count, generator, **sampling)
        if eos_id in new:
            new = new[: new.index(eos_id) + 1]
        row, passes, proposed, kept = row + new, passes + 1, proposed + count, kept + good
    return Speculation(row, passes, proposed, kept)


def as_draft(draft: GPTModel | Draft) -> Draft:
    """A GPTModel as a draft, with a cache of its own; anything else as it is."""
    # f_fast_inference.ipynb, "A round"
    if not isinstance(draft, GPTModel):
        return draft
    reader = CachedReader(draft)
    return lambda ids: reader.logits([ids])[0, -1]


def check_speculation(
    model: GPTModel, draft: GPTModel | Draft, num_draft: int, **sampling: object
) -> None:
    """Raise ValueError if `draft` cannot guess for `model`, or the settings make no sense."""
    # f_fast_inference.ipynb, "A round"
    if num_draft < 1:
        raise ValueError(f"num_draft={num_draft}, expected 1 or more tokens to guess ahead.")
    if isinstance(draft, GPTModel) and draft.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the draft knows {draft.config.vocab_size} tokens and the model "
            f"{model.config.vocab_size}: both must be trained with the same tokenizer."
        )
    known = dict(temperature=1.0, top_k=None, top_p=None) | sampling
    check_sampling(known["temperature"], known["top_k"], known["top_p"])


def small_draft() -> GPTModel:
    """A draft for the story model: a quarter of its width, one layer, a twelfth of its stories."""
    # f_fast_inference.ipynb, "Two drafts"
    recipe = replace(StoryRecipe(), embed_dim=32, num_heads=2, num_layers=1, total_tokens=400_000)
    return story_model(recipe)[0]


class PairTable:
    """For each pair of tokens, what followed it in some texts; a guess for what comes next.

    Shape:
        a call takes a list of ids and gives the logits of the next token, (vocab_size,).
    """

    # f_fast_inference.ipynb, "Two drafts"

    def __init__(self, texts: list[list[int]], vocab_size: int) -> None:
        self.counts: dict[tuple[int, ...], Counter] = {}
        self.vocab_size = vocab_size
        for text in texts:
            for i in range(1, len(text)):
                for key in ((text[i - 1],), tuple(text[max(i - 2, 0) : i])):
                    self.counts.setdefault(key, Counter())[text[i]] += 1

    def __call__(self, ids: list[int]) -> Tensor:
        found = self.counts.get(tuple(ids[-2:])) or self.counts.get(tuple(ids[-1:])) or {0: 1}
        logits = torch.full((self.vocab_size,), -12.0)  # all others: very unlikely
        logits[list(found)] = torch.tensor(list(found.values())).float().log()
        return logits


def deepened(model: GPTModel, num_layers: int) -> GPTModel:
    """A copy with more blocks, which add nothing: same logits, more work."""
    # f_fast_inference.ipynb, "Two drafts"
    deep = GPTModel(replace(model.config, num_layers=num_layers), seed=0)
    deep.to(next(model.parameters()).device)
    deep.load_state_dict(model.state_dict(), strict=False)
    for block in deep.blocks[model.config.num_layers :]:
        for layer in (block.attention.out, block.feed_forward.down):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return deep.eval()


class StaticStep:
    """One decode step of fixed shapes, for torch.compile: all of the cache is looked at, masked.

    Shape:
        tokens, positions: (batch,), whole numbers; result: logits (batch, vocab_size).

    Example:
        >>> step = StaticStep(CachedReader(model))
        >>> logits = torch.compile(step)(tokens, positions)
    """

    # f_fast_inference.ipynb, "F.12 Compile it"

    def __init__(self, reader: CachedReader) -> None:
        self.reader, self.store = reader, reader.cache.store
        self.batch = torch.arange(self.store.shape[1], device=self.store.device)
        self.places = torch.arange(self.store.shape[-2], device=self.store.device)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        reader, model, capacity = self.reader, self.reader.model, self.store.shape[-2]
        mask = self.places <= positions[:, None, None, None]  # (batch, 1, 1, capacity)
        write = (self.batch, slice(None), positions)
        every = self.batch  # one token in each row, and all of them are real
        place = Place(positions[:, None], capacity, mask, write, every)
        x = model.token_embedding(tokens[:, None]) + model.position_embedding(place.position)
        for layer, parts in enumerate(reader.parts):
            x = run_block(parts, x, self.store[layer], place)
        return reader.head(reader.norm(x[:, -1])).float()


# --------------------------------------------------------------------------------------------------
# Appendix G · A user interface: one model, many users
# g_user_interface/g_user_interface.ipynb
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """What a user gets of an answer at one step.

    `chances` holds (token id, probability), first the chosen token, then the likeliest; empty
    where nobody asked. `ended` is "" while more is to come, and then "stop" (the model, or a
    stop word), "length", "cancelled" or "error".
    """

    # g_user_interface.ipynb, "G.2 One user's answer"

    text: str = ""
    chances: tuple[tuple[int, float], ...] = ()
    ended: str = ""
    error: str = ""


# g_user_interface.ipynb, "G.2 One user's answer"
Deliver = Callable[[Piece], None]  # tells a user the next piece


def certain(text: str, stop_words: Iterable[str]) -> str:
    """The part of `text` that can be shown whatever comes: nothing in it may yet be cut off.

    Example:
        >>> certain("to the E", ["END"])
        'to the'
    """
    # g_user_interface.ipynb, "G.2 One user's answer"
    held = 0
    for word in stop_words:
        for n in range(held + 1, min(len(word), len(text) + 1)):
            if text.endswith(word[:n]):
                held = n
    return text[: len(text) - held].rstrip()


class Speech:
    """Turns tokens into text as they come: whole letters, no blank edges, up to a stop word."""

    # g_user_interface.ipynb, "G.2 One user's answer"

    def __init__(self, tokenizer: BPETokenizer, stop_words: Sequence[str] = ()) -> None:
        self.vocab, self.stop_words = tokenizer.vocab, tuple(stop_words)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.begun, self.ended = "", False, False

    def add(self, token: int) -> str:
        """The text that this token makes certain."""
        return self._show(self.decoder.decode(self.vocab[token]))

    def rest(self) -> str:
        """What was held back, when no token follows."""
        return self._show(self.decoder.decode(b"", final=True), last=True)

    def _show(self, text: str, last: bool = False) -> str:
        self.held += text
        self.held = self.held if self.begun else self.held.lstrip()
        places = [self.held.find(word) for word in self.stop_words if word in self.held]
        if places:
            self.ended, self.held = True, self.held[: min(places)]
        shown = self.held.rstrip() if last or places else certain(self.held, self.stop_words)
        self.held = "" if last or places else self.held[len(shown) :]
        self.begun = self.begun or bool(shown)
        return shown


def likeliest(logits: Tensor, token: int, how_many: int | None) -> tuple[tuple[int, float], ...]:
    """The chosen token and the `how_many` likeliest, with their chances at temperature 1.

    Shape:
        logits: (vocab_size,). `how_many` None: nothing.
    """
    # g_user_interface.ipynb, "G.2 One user's answer"
    if how_many is None:
        return ()
    chances = logits.softmax(dim=-1)
    best = chances.topk(min(how_many, len(chances))).indices.tolist()
    return tuple((i, chances[i].item()) for i in (token, *best))


@dataclass(eq=False)
class Job:
    """One answer being written, told by `deliver(Piece(…))`; whoever leaves sets `cancelled`.

    Raises ValueError as `check_sampling`."""

    # g_user_interface.ipynb, "G.2 One user's answer"

    row: list[int]  # the prompt; grows
    speech: Speech
    deliver: Deliver
    end_ids: frozenset[int] = frozenset()  # tokens that end the answer
    limit: int = 120  # tokens
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    alternatives: int | None = None  # how many chances are told; None: none at all
    dropped: int = 0  # messages that did not fit
    cancelled: bool = False
    ended: str = ""

    def __post_init__(self) -> None:
        check_sampling(self.temperature, None, self.top_p)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.prompt_tokens = len(self.row)

    @property
    def new_tokens(self) -> int:
        """How many tokens have been written."""
        return len(self.row) - self.prompt_tokens

    def end(self, why: str, error: str = "") -> None:
        """Say that there is no more, once."""
        if not self.ended:
            self.ended = why
            self.deliver(Piece(self.speech.rest(), ended=why, error=error))


def receive_token(job: Job, logits: Tensor) -> None:
    """Choose a token for a job, tell its user, and end the job where it is time."""
    # g_user_interface.ipynb, "G.2 One user's answer"
    sampling = dict(temperature=job.temperature, top_p=job.top_p, generator=job.generator)
    [token] = next_tokens(logits[None], **sampling)
    if token in job.end_ids:
        return job.end("stop")
    job.row.append(token)
    text = job.speech.add(token)
    job.deliver(Piece(text, likeliest(logits, token, job.alternatives)))
    if job.speech.ended:
        job.end("stop")
    elif job.new_tokens >= job.limit:
        job.end("length")


def take_turn(line: deque[Job], seats: int) -> list[Job]:
    """Take from the front of the line those that get a token now; send home who is cancelled."""
    # g_user_interface.ipynb, "G.3 The line"
    turn: list[Job] = []
    while line and len(turn) < seats:
        job = line.popleft()
        if job.cancelled:
            with suppress(Exception):  # nobody may be there to be told
                job.end("cancelled")
        else:
            turn.append(job)
    return turn


def fail(job: Job, error: Exception) -> None:
    """End a job with an error; whether anybody can still be told does not matter."""
    # g_user_interface.ipynb, "G.3 The line"
    told = f"{type(error).__name__}: {error}"
    with suppress(Exception):
        job.end("error", told)
    job.ended = job.ended or "error"


def give_tokens(model: nn.Module, turn: Sequence[Job]) -> None:
    """One pass of the model: a token for each job. Raises nothing; errors end their jobs."""
    # g_user_interface.ipynb, "G.3 The line"
    try:
        rows = next_logits(model, [job.row for job in turn])
    except Exception as error:
        for job in turn:
            fail(job, error)
        return
    for job, logits in zip(turn, rows, strict=True):
        try:
            receive_token(job, logits)
        except Exception as error:
            fail(job, error)


class Writer:
    """Writes many answers at once, fairly: a token a step for those at the front of the line.

    With n jobs in line, each gets a token at least every ceil(n / seats) steps.

    Raises:
        ValueError: fewer than one seat.
    """

    # g_user_interface.ipynb, "G.3 The line"

    def __init__(self, model: nn.Module, seats: int = 16) -> None:
        if seats < 1:
            raise ValueError(f"seats={seats}, expected 1 or more answers in a step")
        self.model, self.seats, self.line = model, seats, deque()

    def add(self, job: Job) -> None:
        """Stand at the end of the line."""
        self.line.append(job)

    def step(self) -> list[Job]:
        """A token for those whose turn it is; returns them."""
        turn = take_turn(self.line, self.seats)
        if turn:
            give_tokens(self.model, turn)
        self.line.extend(job for job in turn if not job.ended)
        return turn


def fit_messages(messages: Sequence[Message], tokenizer: BPETokenizer, room: int) -> list[Message]:
    """As `trim_chat`, at a price that does not grow with what cannot fit anyhow.

    Raises:
        ValueError: as `trim_chat`.
    """
    # g_user_interface.ipynb, "G.4 Too much to read"
    check_messages(messages)
    longest = max(map(len, tokenizer.vocab.values()))
    least = [-(-len(m["content"].strip().encode()) // longest) + 2 for m in messages]
    system = [i for i, m in enumerate(messages) if m["role"] == "system"]
    others = [i for i, m in enumerate(messages) if m["role"] != "system"]
    total, kept = sum(least[i] for i in system), []
    while others and total + least[others[-1]] <= room:
        total += least[others[-1]]
        kept.append(others.pop())
    check_left(total, kept, least[others[-1]] if others else 0, room)
    while others and kept and messages[kept[-1]]["role"] != "user":
        kept.pop()  # half a turn
    chosen = sorted([*system, *kept])
    return trim_chat([messages[i] for i in chosen], tokenizer, room)


def check_left(total: int, kept: Sequence[int], dropped: int, room: int) -> None:
    """Raise ValueError if not even the last message is left, or the system's alone are too long."""
    # g_user_interface.ipynb, "G.4 Too much to read"
    if total > room or (dropped and not kept):
        raise ValueError(
            f"this is too long: at least {total + dropped} tokens with what must stay, and there "
            f"is room for {room}. Say it in fewer words, or in several messages."
        )


def arrivals(inbox: queue.SimpleQueue, wait: bool) -> list[Job | None]:
    """All that is in the inbox; with `wait`, not before there is something."""
    # g_user_interface.ipynb, "G.5 What if they all come at once?"
    found = [inbox.get()] if wait else []
    with suppress(queue.Empty):
        while True:
            found.append(inbox.get_nowait())
    return found


def work(writer: Writer, inbox: queue.SimpleQueue) -> None:
    """Write answers until None arrives; who is in line then is told that the server closes."""
    # g_user_interface.ipynb, "G.5 What if they all come at once?"
    while True:
        found = arrivals(inbox, wait=not writer.line)
        for job in filter(None, found):
            writer.add(job)
        if None in found:
            break
        writer.step()
    for job in writer.line:
        fail(job, RuntimeError("the server is closing"))
    writer.line.clear()


class Service:
    """An assistant for many users: one thread owns the model, anybody may `ask`; `close` ends it.

    `seats` answers grow in one step; at most `most` are under way at a time.
    """

    # g_user_interface.ipynb, "G.5 What if they all come at once?"

    def __init__(
        self,
        model: GPTModel,
        tokenizer: BPETokenizer,
        name: str = "assistant",
        seats: int = 16,
        most: int = 200,
    ) -> None:
        self.model, self.tokenizer, self.name, self.most = model, tokenizer, name, most
        self.inbox, self.lock, self.seeds = queue.SimpleQueue(), threading.Lock(), count()
        self.open_jobs, self.closed = 0, False
        job = (Writer(model, seats), self.inbox)
        self.thread = threading.Thread(target=work, args=job, daemon=True)  # ends with Python
        self.thread.start()

    def ask(self, messages: Sequence[Message], deliver: Deliver, **settings: object) -> Job:
        """Put a question in line; settings and errors as for `new_job` and `put_in_line`.

        `deliver` is called in the service's thread.
        """
        return put_in_line(self, new_job(self, messages, deliver, **settings))

    def close(self) -> None:
        """End all answers and the thread."""
        with self.lock:
            self.closed = True
            self.inbox.put(None)
        self.thread.join()


def new_job(
    service: Service, messages: Sequence[Message], deliver: Deliver, **settings: object
) -> Job:
    """The job; settings as `Job`'s, and `stop_words`. ValueError as `fit_messages` and `Job`."""
    # g_user_interface.ipynb, "G.5 What if they all come at once?"
    context, tokenizer = service.model.config.context_length, service.tokenizer
    kept = fit_messages(messages, tokenizer, context - ANSWER_ROOM)
    row = chat_ids(tokenizer, kept, reply=True)

    def pass_on(piece: Piece) -> None:
        if piece.ended:
            with service.lock:
                service.open_jobs -= 1
        deliver(piece)

    speech = Speech(tokenizer, settings.pop("stop_words", ()))
    settings["limit"] = min(settings.get("limit", 120), context - len(row))
    settings = {"seed": next(service.seeds), "dropped": len(messages) - len(kept)} | settings
    marks = frozenset(tokenizer.special_tokens.values())
    return Job(row, speech, pass_on, marks, **settings)


def put_in_line(service: Service, job: Job) -> Job:
    """Into the inbox. OverflowError: too many are in line; RuntimeError: the service is closed."""
    # g_user_interface.ipynb, "G.5 What if they all come at once?"
    with service.lock:
        if service.closed:
            raise RuntimeError("the server is closing: ask again when it is back")
        if service.open_jobs >= service.most:
            raise OverflowError(
                f"{service.open_jobs} answers are being written, and {service.most} is the most "
                "here: ask again in a moment"
            )
        service.open_jobs += 1
        service.inbox.put(job)
    return job


# --------------------------------------------------------------------------------------------------
# Appendix H · Preference tuning: which of two good answers?
# h_preference_tuning/h_preference_tuning.ipynb
# --------------------------------------------------------------------------------------------------


def does_as_asked(example: Example, text: str) -> bool:
    """Whether it uses the words that were asked for, ends as a sentence does, is not too long."""
    # h_preference_tuning.ipynb, "Five rules"
    return example.is_right(text)


def is_truthful(example: Example, text: str) -> bool:
    """Whether it names nobody but those whom the story's beginning or the request names."""
    # h_preference_tuning.ipynb, "Five rules"
    asked = as_messages(example)[0]["content"]
    people = NAMES.intersection(re.findall(r"\w+", text))
    return people <= set(re.findall(r"\w+", asked))


# h_preference_tuning.ipynb, "Five rules"
KIND_WORDS = "friends together shared smiled laughed sang hugged hand".split()
POLITE_WORDS = "Thank Thanks Please please Welcome Sorry sorry kind Good Hello".split()
BRIEF_WORDS = 22  # about half of the longest that chapter 7 taught


def holds_word(text: str, words: Iterable[str]) -> bool:
    """Whether one of these words stands in a text, as a whole word."""
    # h_preference_tuning.ipynb, "Five rules"
    return not set(words).isdisjoint(re.findall(r"\w+", text))


def ends_kindly(example: Example, text: str) -> bool:
    """Whether its last sentence holds one of KIND_WORDS."""
    # h_preference_tuning.ipynb, "Five rules"
    sentences = re.split(r"(?<=[.!?])\W+(?=\w)", text.strip())
    return holds_word(sentences[-1], KIND_WORDS)


def is_polite(example: Example, text: str) -> bool:
    """Whether somebody says one of POLITE_WORDS, in quotation marks."""
    # h_preference_tuning.ipynb, "Five rules"
    return any(holds_word(said, POLITE_WORDS) for said in re.findall(r'"([^"]*)"', text))


def is_brief(example: Example, text: str) -> bool:
    """Whether it has something to say, in at most BRIEF_WORDS words."""
    # h_preference_tuning.ipynb, "Five rules"
    return 0 < len(text.split()) <= BRIEF_WORDS


# h_preference_tuning.ipynb, "Five rules"
PreferenceRule = Callable[[Example, str], bool]
PREFERENCE_RULES: dict[str, PreferenceRule] = {
    "as asked": does_as_asked,
    "truthful": is_truthful,
    "kind ending": ends_kindly,
    "polite": is_polite,
    "brief": is_brief,
}


def rules_kept(
    examples: Sequence[Example],
    texts: Sequence[str],
    rules: dict[str, PreferenceRule] | None = None,
) -> Tensor:
    """Which rules each reply keeps; `rules` are PREFERENCE_RULES if not others are given.

    Shape:
        result: (replies, rules), True or False. Its sum over rules is a reply's points.
    """
    # h_preference_tuning.ipynb, "Five rules"
    rules = PREFERENCE_RULES if rules is None else rules
    pairs = zip(examples, texts, strict=True)
    kept = [[rule(example, text) for rule in rules.values()] for example, text in pairs]
    return torch.tensor(kept, dtype=torch.bool).view(len(kept), len(rules))


def preference_prompts(count: int, seed: int = 0, split: str = "train") -> list[Example]:
    """Beginnings of stories to go on with: prompts which may be answered in many ways."""
    # h_preference_tuning.ipynb, "H.2 Several replies, and what they cost"
    return list(islice(instructions(seed, split, ["continue_story"]), count))


def draw_tokens(logits: Tensor, temperature: float, dice: torch.Generator) -> list[int]:
    """One token for each row of logits, by one random number a row. Temperature 0: the likeliest.

    Shape:
        logits: (rows, vocab_size).
    """
    # h_preference_tuning.ipynb, "One random number a token"
    if temperature == 0:
        return logits.argmax(-1).tolist()
    line = (logits / temperature).softmax(-1).cumsum(-1)  # (rows, vocab_size)
    at = torch.rand(len(line), 1, generator=dice).to(line.device) * line[:, -1:]
    chosen = torch.searchsorted(line, at, right=True).squeeze(-1)
    return chosen.clamp(max=logits.shape[-1] - 1).tolist()


def draw_replies(
    model: GPTModel,
    prompts: Sequence[list[int]],
    copies: int,
    room: int,
    end: int,
    temperature: float,
    dice: torch.Generator,
) -> list[list[int]]:
    """Each prompt with `copies` replies, up to the end mark or `room` tokens, as rows of ids."""
    # h_preference_tuning.ipynb, "Replies in groups"
    reader = CachedReader(model, len(prompts))
    order = [i for i in range(len(prompts)) for _ in range(copies)]
    logits = reader.logits([list(row) for row in prompts])[order, -1]
    reader.cache.keep(order)  # the memory of a prompt, once for each copy
    rows, growing, ended = [list(prompts[i]) for i in order], list(range(len(order))), set()
    for step in range(room):
        for i, token in zip(growing, draw_tokens(logits, temperature, dice), strict=True):
            rows[i].append(token)
            if token == end:
                ended.add(i)
        left = [k for k, i in enumerate(growing) if i not in ended]
        if not left or step == room - 1:
            break
        if len(left) < 0.8 * len(growing):
            growing = [growing[k] for k in left]
            reader.cache.keep(left)
        logits = reader.logits([rows[i] for i in growing])[:, -1]
    return [cut_after(row, end, len(prompts[i])) for i, row in zip(order, rows, strict=True)]


def cut_after(row: list[int], end: int, start: int) -> list[int]:
    """The row up to its first `end` at or after place `start`; all of it if there is none.

    Example:
        >>> cut_after([9, 5, 7, 9, 8], end=9, start=1)
        [9, 5, 7, 9]
    """
    # h_preference_tuning.ipynb, "Replies in groups"
    return row[: row.index(end, start) + 1] if end in row[start:] else row


@dataclass(frozen=True)
class Replies:
    """Sampled replies, each with its prompt, as one batch of rows.

    Shape:
        token_ids: (rows, width): prompt, reply, end mark, then zeros;
        asked: (rows, width), True at the places of the reply and of its end mark.
    """

    # h_preference_tuning.ipynb, "Replies in groups"

    token_ids: Tensor
    asked: Tensor
    texts: list[str]
    prompt: list[int]  # for each row the number of its prompt

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, numbers: Iterable[int]) -> "Replies":
        """Some of the rows, no wider than they need to be."""
        numbers = list(numbers)
        asked = self.asked[numbers]
        width = int(asked.any(0).nonzero().max()) + 1
        texts, prompt = ([many[i] for i in numbers] for many in (self.texts, self.prompt))
        return Replies(self.token_ids[numbers, :width], asked[:, :width], texts, prompt)

    def examples(self, examples: Sequence[Example]) -> list[Example]:
        """The example that each row answers."""
        return [examples[i] for i in self.prompt]


# h_preference_tuning.ipynb, "Replies in groups"
REPLY_ROOM = 80  # tokens that a reply may have


def as_replies(
    rows: Sequence[tuple[list[int], int]],
    prompt: Sequence[int],
    tokenizer: BPETokenizer,
    device: torch.device | str = "cpu",
) -> Replies:
    """Rows of ids, each with the place where its reply starts, as `Replies`.

    Raises:
        ValueError: no rows, or a reply without a token.
    """
    # h_preference_tuning.ipynb, "Replies in groups"
    if not rows or any(start >= len(ids) for ids, start in rows):
        raise ValueError(f"{len(rows)} rows: expected one or more, each with a token of a reply.")
    width = max(len(ids) for ids, _ in rows)
    token_ids = torch.zeros(len(rows), width, dtype=torch.long)
    asked = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (ids, start) in enumerate(rows):
        token_ids[i, : len(ids)] = torch.tensor(ids)
        asked[i, start : len(ids)] = True
    texts = [answer_text(ids[start:], tokenizer) for ids, start in rows]
    return Replies(token_ids.to(device), asked.to(device), texts, list(prompt))


def check_drawing(prompts: int, per_prompt: int, max_new_tokens: int, temperature: float) -> None:
    """Raise ValueError if there is nothing to draw, or if it could not be drawn like this."""
    # h_preference_tuning.ipynb, "Replies in groups"
    check_sampling(temperature, None, None)
    if min(prompts, per_prompt, max_new_tokens) < 1:
        raise ValueError(
            f"{prompts} prompts, {per_prompt} replies to each, max_new_tokens={max_new_tokens}: "
            "expected one or more of each."
        )


def sample_replies(
    model: GPTModel,
    tokenizer: BPETokenizer,
    prompts: Sequence[Prompt | Example],
    per_prompt: int = 1,
    *,
    temperature: float = 1.0,
    max_new_tokens: int = REPLY_ROOM,
    seed: int = 0,
    rows_at_once: int = 128,
) -> Replies:
    """Draw replies to each prompt, from dice of their own; those to one prompt stand together.

    Raises: as `prompt_ids` and `check_drawing`.
    """
    # h_preference_tuning.ipynb, "Replies in groups"
    check_drawing(len(prompts), per_prompt, max_new_tokens, temperature)
    given = [as_messages(p) if isinstance(p, Example) else p for p in prompts]
    given = [prompt_ids(p, tokenizer, model.config.context_length) for p in given]
    order = sorted(range(len(given)), key=lambda i: len(given[i]))
    dice, end = torch.Generator().manual_seed(seed), tokenizer.special_tokens[TURN_END]
    size, written = max(1, rows_at_once // per_prompt), {}
    for group in (order[i : i + size] for i in range(0, len(order), size)):
        some = [given[i] for i in group]
        room = min(max_new_tokens, model.config.context_length - max(map(len, some)))
        rows = draw_replies(model, some, per_prompt, room, end, temperature, dice)
        written |= {i: rows[k * per_prompt : (k + 1) * per_prompt] for k, i in enumerate(group)}
    numbers = [i for i in range(len(given)) for _ in range(per_prompt)]
    rows = [(row, len(ids)) for i, ids in enumerate(given) for row in written[i]]
    return as_replies(rows, numbers, tokenizer, next(model.parameters()).device)


def last_features(model: GPTModel, token_ids: Tensor) -> Tensor:
    """What the model's head reads at each place.

    Shape:
        token_ids: (rows, width); result: (rows, width, embed_dim).
    """
    # h_preference_tuning.ipynb, "The chance of a whole reply"
    positions = torch.arange(token_ids.shape[1], device=token_ids.device)
    x = model.token_embedding(token_ids) + model.position_embedding(positions)
    x = model.dropout(x)
    for block in model.blocks:
        x = block(x)
    return model.final_norm(x)


def reply_chances(model: GPTModel, replies: Replies) -> Tensor:
    """Log-probabilities of all tokens at the reply's places, and nowhere else.

    Shape:
        result: (asked places of all rows, one row after the other, vocab_size).
    """
    # h_preference_tuning.ipynb, "The chance of a whole reply"
    features = last_features(model, replies.token_ids[:, :-1])  # (rows, width - 1, embed_dim)
    return model.output_head(features[replies.asked[:, 1:]]).log_softmax(-1)


def reply_log_probs(model: GPTModel, replies: Replies) -> Tensor:
    """The log-probability of each token of the replies, with gradients; 0 where nothing was asked.

    Its sum over a row is the log-probability of that whole reply.

    Shape:
        result: (rows, width - 1); place t is about token t + 1.
    """
    # h_preference_tuning.ipynb, "The chance of a whole reply"
    asked = replies.asked[:, 1:]
    chosen = replies.token_ids[:, 1:][asked]
    log_probs = reply_chances(model, replies).gather(-1, chosen[:, None]).squeeze(-1)
    return torch.zeros(asked.shape, device=asked.device).masked_scatter(asked, log_probs)


def reply_totals(model: GPTModel, replies: Replies, rows_at_once: int = 64) -> Tensor:
    """The log-probability of each whole reply, without gradients: (rows,)."""
    # h_preference_tuning.ipynb, "The chance of a whole reply"
    starts = range(0, len(replies), rows_at_once)
    parts = (replies.rows(range(s, min(s + rows_at_once, len(replies)))) for s in starts)
    with evaluating(model):
        return torch.cat([reply_log_probs(model, part).sum(1) for part in parts])


def policy_drift_sums(model: GPTModel, reference: GPTModel, replies: Replies) -> dict[str, float]:
    """The sums over all asked places from which `policy_drift` takes its means."""
    # h_preference_tuning.ipynb, "How far has a model gone?"
    mine, theirs = reply_chances(model, replies), reply_chances(reference, replies)
    chosen = replies.token_ids[:, 1:][replies.asked[:, 1:]][:, None]
    log_r = (theirs - mine).gather(-1, chosen).double()  # r = reference / model
    return {
        "kl": (mine.exp() * (mine - theirs)).sum().item(),
        "k1": -log_r.sum().item(),
        "k3": (log_r.exp() - 1 - log_r).sum().item(),
        "entropy": -(mine.exp() * mine).sum().item(),
        "tokens": len(chosen),
    }


def policy_drift(
    model: GPTModel, reference: GPTModel, replies: Replies, rows_at_once: int = 64
) -> dict[str, float]:
    """How far a model has gone from its reference, on replies that *this model* has sampled.

    Means over the replies: `kl`, exact at each place and summed over the reply; `k1`, `k3`, the
    same from the drawn tokens alone; `tokens`, with the end mark. `entropy` is in nats per token.

    Source: Schulman (2020), "Approximating KL Divergence".
    """
    # h_preference_tuning.ipynb, "How far has a model gone?"
    sums: dict[str, float] = {}
    with evaluating(model), evaluating(reference):
        for start in range(0, len(replies), rows_at_once):
            part = replies.rows(range(start, min(start + rows_at_once, len(replies))))
            for name, value in policy_drift_sums(model, reference, part).items():
                sums[name] = sums.get(name, 0.0) + value
    found = {name: value / len(replies) for name, value in sums.items()}
    return found | {"entropy": sums["entropy"] / sums["tokens"]}


def win_rate(mine: Tensor, theirs: Tensor) -> tuple[float, float, float]:
    """How often a reply of mine has more points than one of theirs (ties: half), with interval.

    Each of my replies to a prompt meets each of theirs to it. The 95 % interval treats the prompts
    as the units, since replies to one prompt are alike.

    Shape:
        mine, theirs: (prompts, replies), points; the numbers of replies may differ.

    Raises:
        ValueError: other shapes, or fewer than two prompts.
    """
    # h_preference_tuning.ipynb, "The contest"
    if mine.dim() != 2 or theirs.dim() != 2 or len(mine) != len(theirs) or len(mine) < 2:
        raise ValueError(
            f"points of shapes {tuple(mine.shape)} and {tuple(theirs.shape)}; expected (prompts, "
            "replies) for both, about the same two or more prompts."
        )
    gap = mine.double()[:, :, None] - theirs.double()[:, None, :]  # (prompts, mine, theirs)
    rates = ((gap > 0).double() + (gap == 0).double() / 2).mean((1, 2)).tolist()
    mean, half = statistics.mean(rates), 1.96 * statistics.stdev(rates) / math.sqrt(len(rates))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def reply_points(examples: Sequence[Example], replies: Replies) -> Tensor:
    """How many rules each reply keeps: (prompts, replies of each), as `win_rate` wants it."""
    # h_preference_tuning.ipynb, "The contest"
    kept = rules_kept(replies.examples(examples), replies.texts)
    return kept.sum(1).view(len(examples), -1)


@lru_cache(maxsize=4)
def exam_questions(per_family: int = 40, seed: int = 0) -> tuple[Example, ...]:
    """Chapter 7's exam in small: new contents, all families whose answers are certain."""
    # h_preference_tuning.ipynb, "The contest"
    certain = [family for family in FAMILIES if family != "continue_story"]
    asked = [islice(instructions(2000 + seed, "validation", [f]), per_family) for f in certain]
    return tuple(example for some in asked for example in some)


def task_accuracy(
    model: GPTModel, tokenizer: BPETokenizer, per_family: int = 40, seed: int = 0
) -> float:
    """The share of `exam_questions` that the model answers to the letter (`would_answer`)."""
    # h_preference_tuning.ipynb, "The contest"
    return statistics.mean(would_answer(model, tokenizer, exam_questions(per_family, seed)))


@dataclass(frozen=True)
class Opponent:
    """The model that others are measured against, with its replies to the held-out prompts."""

    # h_preference_tuning.ipynb, "The contest"

    model: GPTModel
    tokenizer: BPETokenizer
    examples: list[Example]
    replies: Replies
    points: Tensor  # (prompts, replies of each)
    task_accuracy: float


def make_opponent(
    model: GPTModel,
    tokenizer: BPETokenizer,
    prompts: int = 200,
    per_prompt: int = 4,
    *,
    per_family: int = 40,
    seed: int = 0,
) -> Opponent:
    """The reference, ready to be compared with; `measure_against` takes it."""
    # h_preference_tuning.ipynb, "The contest"
    examples = preference_prompts(prompts, 5000 + seed, "validation")
    replies = sample_replies(model, tokenizer, examples, per_prompt, seed=5000 + seed)
    accuracy = task_accuracy(model, tokenizer, per_family)
    return Opponent(model, tokenizer, examples, replies, reply_points(examples, replies), accuracy)


def measure_against(
    other: Opponent, model: GPTModel, *, seed: int = 1, per_family: int = 40
) -> dict[str, object]:
    """Win rate, task accuracy, drift and each rule's share of a model, against an opponent.

    Keys: `win_rate`, `low`, `high`; `points`, the mean; `task_accuracy`; `task_lost`, in points of
    a hundred; those of `policy_drift`, from the first reply to each prompt; `words`; `distinct`,
    how many different replies for each reply; `rules`, a dict. `per_family` as the opponent's.
    """
    # h_preference_tuning.ipynb, "The contest"
    per_prompt = other.points.shape[1]
    replies = sample_replies(model, other.tokenizer, other.examples, per_prompt, seed=6000 + seed)
    kept = rules_kept(replies.examples(other.examples), replies.texts)
    mine = kept.sum(1).view(len(other.examples), -1)
    accuracy = task_accuracy(model, other.tokenizer, per_family)
    return {
        **dict(zip(("win_rate", "low", "high"), win_rate(mine, other.points), strict=True)),
        "points": mine.double().mean().item(),
        "task_accuracy": accuracy,
        "task_lost": 100 * (other.task_accuracy - accuracy),
        **policy_drift(model, other.model, replies.rows(range(0, len(replies), per_prompt))),
        "words": statistics.mean(len(text.split()) for text in replies.texts),
        "distinct": len(set(replies.texts)) / len(replies),
        "rules": dict(zip(PREFERENCE_RULES, kept.double().mean(0).tolist(), strict=True)),
    }


def best_and_worst(points: Tensor, gap: float = 1, seed: int = 0) -> list[tuple[int, int]]:
    """Of each prompt's replies one of the best and one of the worst: rows (chosen, rejected).

    Prompts whose best and worst are less than `gap` points apart give no pair.

    Shape:
        points: (prompts, replies of each).

    Raises:
        ValueError: `gap` is not above 0.
    """
    # h_preference_tuning.ipynb, "H.3 Pairs from the model's own mouth"
    if not gap > 0:
        raise ValueError(f"gap={gap}, expected above 0: equals are no preference.")
    dice, pairs = random.Random(seed), []
    for number, row in enumerate(points.tolist()):
        high, low = max(row), min(row)
        if high - low >= gap:
            best = dice.choice([i for i, value in enumerate(row) if value == high])
            worst = dice.choice([i for i, value in enumerate(row) if value == low])
            pairs.append((number * len(row) + best, number * len(row) + worst))
    return pairs


class RewardModel(GPTModel):
    """A GPT that gives a whole reply one number: a linear head, read at the reply's last place.

    It starts as a copy of `gpt`; the head starts at zero, so at first all replies are equal.

    Shape:
        forward: token_ids (rows, tokens) → (rows, tokens, 1).
    """

    # h_preference_tuning.ipynb, "H.4 A reward model"

    def __init__(self, gpt: GPTModel) -> None:
        super().__init__(gpt.config)
        self.load_state_dict(gpt.state_dict())
        self.output_head = nn.Linear(gpt.config.embed_dim, 1)
        nn.init.zeros_(self.output_head.weight)
        nn.init.zeros_(self.output_head.bias)
        self.to(next(gpt.parameters()).device)

    def score_replies(self, replies: Replies) -> Tensor:
        """The reward of each reply, with gradients: (rows,)."""
        places = torch.arange(replies.asked.shape[1], device=replies.asked.device)
        last = (replies.asked * places).argmax(1)  # (rows,)
        features = last_features(self, replies.token_ids)[torch.arange(len(last)), last]
        return self.output_head(features).squeeze(-1)


def bradley_terry_loss(rewards: Tensor, points: Tensor) -> Tensor:
    """Mean of -log σ(r_better - r_worse), over all pairs of replies to one prompt that differ.

    Shape:
        rewards, points: (prompts, replies of each); result: a single number.

    Raises:
        ValueError: other shapes, or no two replies with different points.

    Source: Bradley and Terry (1952); Ouyang et al. (2022), section 3.5.
    """
    # h_preference_tuning.ipynb, "H.4 A reward model"
    better = points[..., :, None] > points[..., None, :]  # (prompts, replies, replies)
    if rewards.shape != points.shape or rewards.dim() != 2 or not better.any():
        raise ValueError(
            f"rewards {tuple(rewards.shape)}, points {tuple(points.shape)}; expected (prompts, "
            "replies) for both, with a difference somewhere (see best_and_worst)."
        )
    gaps = rewards[:, :, None] - rewards[:, None, :]
    return -F.logsigmoid(gaps[better]).mean()


def shuffled_groups(items: Sequence, size: int, seed: int = 0) -> Iterator[list]:
    """Groups of `size` items without end: all items once in some order, then in another one."""
    # h_preference_tuning.ipynb, "The loop"
    if not items:
        raise ValueError("no items to make groups of: are there prompts with different replies?")
    dice, waiting = random.Random(seed), []
    while True:
        while len(waiting) < size:
            waiting += dice.sample(items, len(items))
        yield waiting[:size]
        waiting = waiting[size:]


def tuning_step(
    loss: Tensor, optimizer: torch.optim.Optimizer, step: int, steps: int, peak: float
) -> float:
    """One update, number `step` of `steps`, counted from 0; the gradient's length before clipping.

    Raises:
        FloatingPointError: the loss is not a number.
    """
    # h_preference_tuning.ipynb, "The loop"
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"loss {loss.item()} at step {step}: try a lower rate.")
    warm = max(1, steps // 10)
    falling = 1 - 0.9 * max(0, step + 1 - warm) / max(1, steps - warm)
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = peak * min((step + 1) / warm, falling)
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(weights, 1.0).item()
    optimizer.step()
    return norm


def train_reward_model(
    gpt: GPTModel,
    replies: Replies,
    points: Tensor,
    *,
    steps: int = 100,
    prompts_per_step: int = 8,
    rate: float = 5e-4,
    seed: int = 0,
) -> tuple[RewardModel, list[float]]:
    """A reward model that starts as `gpt` and learns which replies have more points; its losses.

    Shape:
        points: (prompts, replies of each), of the first of `replies`. ValueError, if not.
    """
    # h_preference_tuning.ipynb, "The loop"
    if points.dim() != 2 or points.numel() > len(replies):
        raise ValueError(f"points of shape {tuple(points.shape)} for {len(replies)} replies.")
    reward, copies, losses = RewardModel(gpt).train(), points.shape[1], []
    optimizer = torch.optim.AdamW(reward.parameters(), weight_decay=0.0)
    useful = [i for i, row in enumerate(points.tolist()) if max(row) > min(row)]
    groups = shuffled_groups(useful, prompts_per_step, seed)
    for step, group in enumerate(islice(groups, steps)):
        part = replies.rows(i * copies + k for i in group for k in range(copies))
        rewards = reward.score_replies(part).view(len(group), copies)
        loss = bradley_terry_loss(rewards, points[group])
        tuning_step(loss, optimizer, step, steps, rate)
        losses.append(loss.item())
    return reward.eval(), losses


def reply_rewards(reward: RewardModel, replies: Replies, rows_at_once: int = 128) -> Tensor:
    """The rewards of many replies, without gradients: (rows,)."""
    # h_preference_tuning.ipynb, "Is it right, and how sure is it?"
    starts = range(0, len(replies), rows_at_once)
    parts = (replies.rows(range(s, min(s + rows_at_once, len(replies)))) for s in starts)
    with evaluating(reward):
        return torch.cat([reward.score_replies(part) for part in parts])


def pair_verdicts(rewards: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """For each pair of one prompt's replies with different points: reward gap, and points gap.

    The gap is that of the better reply to the worse one, so the reward model is right where it is
    above 0, and gave this outcome the probability σ(gap).

    Shape:
        rewards, points: (prompts, replies of each); result: (pairs,), (pairs,).
    """
    # h_preference_tuning.ipynb, "Is it right, and how sure is it?"
    better = points[:, :, None] > points[:, None, :]
    reward_gaps = (rewards[:, :, None] - rewards[:, None, :])[better]
    return reward_gaps, (points[:, :, None] - points[:, None, :])[better]


def best_of_n_weights(total: int, n: int) -> Tensor:
    """How often each of `total` replies, from worst to best, is the best of `n` drawn from them.

    Shape:
        result: (total,), sums to 1.

    Raises:
        ValueError: n is not from 1 to total.
    """
    # h_preference_tuning.ipynb, "H.5 Best of n"
    if not 1 <= n <= total:
        raise ValueError(f"best of n={n} from {total} replies: expected 1 to {total}.")
    groups = math.comb(total, n)
    return torch.tensor([math.comb(j, n - 1) / groups for j in range(total)], dtype=torch.double)


def best_of_n_kl(n: int, level_chances: Sequence[float] | None = None) -> float:
    """The KL divergence of best-of-n from the model that is drawn from, in nats.

    Without `level_chances` for rewards that never tie: log n - (n - 1)/n. With them, the chances
    of each level of reward from the lowest, for rewards that tie; ties are broken by luck.

    Source: Beirami et al. (2024), "Theoretical guarantees on the best-of-n alignment policy".

    Example:
        >>> round(best_of_n_kl(2), 3), round(best_of_n_kl(2, [0.5, 0.5]), 3)
        (0.193, 0.131)
    """
    # h_preference_tuning.ipynb, "What does it cost in nats?"
    if level_chances is None:
        return math.log(n) - (n - 1) / n
    kl, below = 0.0, 0.0
    for p in level_chances:
        upto = min(1.0, below + p)
        q = upto**n - below**n
        kl, below = kl + (q * math.log(q / p) if q > 0 else 0.0), upto
    return kl


def best_of_n_mean(values: Tensor, rewards: Tensor, n: int) -> Tensor:
    """The mean value of the reply that has the highest of n rewards, for each prompt: (prompts,).

    Shape:
        values, rewards: (prompts, replies of each); values may be points, or True and False.

    Raises: as `best_of_n_weights`.
    """
    # h_preference_tuning.ipynb, "What does it cost in nats?"
    order = rewards.argsort(dim=1, stable=True)
    return (values.double().gather(1, order) * best_of_n_weights(values.shape[1], n)).sum(1)


def dpo_loss(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO's loss of each pair, from its margin.

    The margin is log π(chosen)/ref(chosen) - log π(rejected)/ref(rejected), of whole replies. With
    label smoothing ε, so many of the preferences are taken to be the wrong way round.

    Shape:
        margin: any; result: the same.

    Raises:
        ValueError: beta is not above 0, or label_smoothing not from 0 to below 0.5.

    Source: Rafailov et al. (2023), equation 7; smoothing: Mitchell (2023), "A note on DPO with
    noisy preferences & relationship to IPO".
    """
    # h_preference_tuning.ipynb, "The turn"
    if not beta > 0 or not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"beta={beta}, label_smoothing={label_smoothing}; expected beta above 0, and 0 to "
            "below 0.5 of the labels wrong."
        )
    right, wrong = -F.logsigmoid(beta * margin), -F.logsigmoid(-beta * margin)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def ipo_loss(margin: Tensor, beta: float) -> Tensor:
    """IPO's loss of each pair: the square of how far the margin is from 1/(2 beta).

    The paper's margin is of whole replies, as in `dpo_loss`; the TRL library's is of means per
    token, which makes the same beta mean another thing. `preference_loss` does as TRL does.

    Shape:
        margin: any; result: the same.

    Raises:
        ValueError: beta is not above 0.

    Source: Azar et al. (2023), "A General Theoretical Paradigm to Understand Learning from Human
    Preferences", equation 17.
    """
    # h_preference_tuning.ipynb, "The turn"
    if not beta > 0:
        raise ValueError(f"beta={beta}, expected above 0.")
    return (margin - 1 / (2 * beta)) ** 2


@dataclass(frozen=True)
class DPORecipe:
    """How a model is tuned on pairs."""

    # h_preference_tuning.ipynb, "The trainer"

    beta: float = 0.3  # the price of a nat; from the sweep in H.6
    loss: str = "dpo"  # or "ipo"
    label_smoothing: float = 0.0  # the share of preferences that may be wrong
    chosen_weight: float = 0.0  # of the chosen reply's own loss per token, beside the margin's
    rate: float = 2e-4  # a tenth of what chapter 5 would take: the model should stay near
    steps: int = 60
    pairs_per_step: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in ("dpo", "ipo"):
            raise ValueError(f"loss={self.loss!r}, expected 'dpo' or 'ipo'.")


def preference_loss(ratios: Tensor, lengths: Tensor, recipe: DPORecipe) -> Tensor:
    """The mean loss of some pairs.

    For IPO the log-ratios are taken per token, as TRL does (the paper sums them).

    Shape:
        ratios: (2 * pairs,), log π/ref of whole replies, all chosen ones first, then the rejected;
        lengths: the same, their tokens.
    """
    # h_preference_tuning.ipynb, "The trainer"
    if recipe.loss == "ipo":
        chosen, rejected = (ratios / lengths).chunk(2)
        return ipo_loss(chosen - rejected, recipe.beta).mean()
    chosen, rejected = ratios.chunk(2)
    return dpo_loss(chosen - rejected, recipe.beta, recipe.label_smoothing).mean()


def dpo_step(
    model: GPTModel, replies: Replies, given: Tensor, pairs: list, recipe: DPORecipe
) -> tuple[Tensor, dict[str, float]]:
    """The loss of some pairs, with gradients, and what is worth writing down of them.

    Shape:
        given: (rows,), the reference's log-probability of each of `replies`.
    """
    # h_preference_tuning.ipynb, "The trainer"
    rows = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
    part = replies.rows(rows)
    log_probs, tokens = reply_log_probs(model, part).sum(1), part.asked.sum(1)
    ratios = log_probs - given[rows]
    loss = preference_loss(ratios, tokens, recipe)
    chosen, rejected = ratios.detach().chunk(2)
    means = (loss.detach(), chosen.mean(), rejected.mean(), (chosen > rejected).float().mean())
    names = ("loss", "chosen", "rejected", "right")
    own_loss = -(log_probs / tokens)[: len(pairs)].mean()  # of the chosen ones, per token
    noted = dict(zip(names, (mean.item() for mean in means), strict=True))
    return loss + recipe.chosen_weight * own_loss, noted


def train_dpo(
    reference: GPTModel,
    replies: Replies,
    pairs: Sequence[tuple[int, int]],
    recipe: DPORecipe | None = None,
    start: GPTModel | None = None,
) -> tuple[GPTModel, list[dict[str, float]]]:
    """A copy of `start` (or of the reference) tuned on pairs of rows (chosen, rejected).

    Returns it with a line for each step: `loss`, the means of the log-ratios of `chosen` and
    `rejected`, and of `right`, whether the margin is above 0.

    Raises:
        ValueError: no pairs.
    """
    # h_preference_tuning.ipynb, "The trainer"
    if not pairs:
        raise ValueError("no pairs to learn from: are there prompts with different replies?")
    recipe, used = recipe or DPORecipe(), sorted({row for pair in pairs for row in pair})
    given = torch.zeros(len(replies), device=replies.token_ids.device)
    given[used] = reply_totals(reference, replies.rows(used))
    model, history = copy.deepcopy(start or reference).train(), []
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    groups = shuffled_groups(list(pairs), recipe.pairs_per_step, recipe.seed)
    for step, group in enumerate(islice(groups, recipe.steps)):
        loss, noted = dpo_step(model, replies, given, group, recipe)
        tuning_step(loss, optimizer, step, recipe.steps, recipe.rate)
        history.append(noted)
    return model.eval(), history


def group_advantages(rewards: Tensor, by_std: bool = True) -> Tensor:
    """How much better each reply did than the mean of its group; over the group's spread.

    A group that is of one mind has advantages of 0. With `by_std=False` nothing is divided.

    Shape:
        rewards, result: (prompts, group), two or more replies in a group.

    Raises:
        ValueError: another shape.

    Source: Shao et al. (2024), "DeepSeekMath", section 4.1; for `by_std=False`, Liu et al. (2025),
    "Understanding R1-Zero-Like Training", section 3.

    Example:
        >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), by_std=False).tolist()
        [[0.5, -0.5, -0.5, 0.5]]
    """
    # h_preference_tuning.ipynb, "From three replies to a language model"
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards of shape {tuple(rewards.shape)}; expected (prompts, group) with two or more "
            "replies to a prompt, since each is compared with the others of its group."
        )
    gap, spread = rewards - rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)
    if not by_std:
        return gap
    return torch.where(spread > 1e-6, gap / spread.clamp(min=1e-6), torch.zeros_like(gap))


# h_preference_tuning.ipynb, "What is rare must still happen"
WEAK_FAMILIES = ("sum", "sort", "who_gave", "yes_no")


def longer_questions(
    families: Sequence[str] = WEAK_FAMILIES, seed: int = 0, for_exam: bool = False
) -> Iterator[Example]:
    """Questions longer than any that the assistant learned from, family by family in turn.

    Those for the exam have other inputs than those for training by reward: a checksum decides.
    """
    # h_preference_tuning.ipynb, "What is rare must still happen"
    streams = [instructions(seed, "longer", [family]) for family in families]
    while True:
        for stream in streams:
            yield next(e for e in stream if for_tests(e.content) == for_exam)


# h_preference_tuning.ipynb, "What is rare must still happen"
RewardRule = Callable[[Sequence[Example], Replies], Tensor]  # a number for each row


def exact_match_reward(examples: Sequence[Example], replies: Replies) -> Tensor:
    """1 for a right reply and 0 for any other; `examples`: of each row its own. Shape: (rows,)."""
    # h_preference_tuning.ipynb, "What is rare must still happen"
    right = [e.is_right(text) for e, text in zip(examples, replies.texts, strict=True)]
    return torch.tensor(right, dtype=torch.float32)


def clipped_objective(
    log_probs: Tensor, old: Tensor, advantages: Tensor, clip: float = 0.2
) -> Tensor:
    """Ratio times advantage for each token, without a prize for going beyond `clip`.

    Shape:
        log_probs, old, result: (rows, places); advantages: the same, or (rows, 1).

    Source: Schulman et al. (2017), "Proximal Policy Optimization Algorithms", equation 7.
    """
    # h_preference_tuning.ipynb, "Not too far on old replies"
    ratio = (log_probs - old).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def k3_to_reference(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Each token's estimate of KL(policy, reference): r - 1 - log r, r being reference / policy.

    Right on average over tokens that the policy itself has drawn; never negative.

    Shape:
        all (rows, places).

    Source: Schulman (2020), "Approximating KL Divergence"; Shao et al. (2024), "DeepSeekMath",
    equation 4.
    """
    # h_preference_tuning.ipynb, "Not too far on old replies"
    log_r = reference - log_probs
    return log_r.exp() - 1 - log_r


@dataclass(frozen=True)
class PolicyRecipe:
    """What all training by reward has in common."""

    # h_preference_tuning.ipynb, "The recipe and the loss"

    steps: int = 40  # batches of fresh replies
    prompts: int = 12  # in a step
    group: int = 8  # replies to each prompt
    epochs: int = 2  # steps of the optimiser on each batch; at the second the replies are old
    learning_rate: float = 4e-4  # AdamW, for everything
    clip: float = 0.2  # how much likelier a token may become before its prize ends
    kl_weight: float = 0.02  # what a nat away from the reference costs, in rewards
    replay_weight: float = 0.5  # of the loss on ordinary exchanges, where there are any
    temperature: float = 1.0  # the chances must be those that the loss speaks of
    max_new_tokens: int = 40
    max_norm: float = 1.0  # a longer gradient is shortened to this length
    seed: int = 0  # of the replies

    def __post_init__(self) -> None:
        if min(self.steps, self.prompts, self.group, self.epochs) < 1 or self.clip <= 0:
            raise ValueError(
                f"steps={self.steps}, prompts={self.prompts}, group={self.group}, "
                f"epochs={self.epochs}, clip={self.clip}: expected 1 or more, and a clip above 0."
            )


@dataclass(frozen=True)
class GRPORecipe(PolicyRecipe):
    """Training by reward with groups."""

    # h_preference_tuning.ipynb, "The recipe and the loss"

    by_std: bool = True  # advantages over the group's spread; False: Dr. GRPO
    per_reply: bool = True  # each reply counts alike, however long; False: each token does


def grpo_loss(
    log_probs: Tensor,
    old: Tensor,
    reference: Tensor,
    asked: Tensor,
    advantages: Tensor,
    recipe: GRPORecipe,
    rows: int | None = None,
) -> Tensor:
    """The clipped objective less the price of the distance, as a mean over replies, negated.

    Shape:
        log_probs, old, reference: (rows, places), from `reply_log_probs`; asked: the same, True at
        the replies' tokens; advantages: (rows,). `rows`: what to divide by, if not by their number.

    Source: Shao et al. (2024), "DeepSeekMath", equation 3.
    """
    # h_preference_tuning.ipynb, "The recipe and the loss"
    gain = clipped_objective(log_probs, old, advantages[:, None], recipe.clip)
    gain = (gain - recipe.kl_weight * k3_to_reference(log_probs, reference)) * asked
    each = gain.sum(1) / (asked.sum(1) if recipe.per_reply else recipe.max_new_tokens)
    return -each.sum() / (rows or len(each))


class PolicyTraining:
    """A model that learns from rewards for its own replies; subclasses say what their loss is.

    `questions` gives the prompts, `reward` looks at replies. `replay`, if there is one, gives
    ordinary exchanges to learn beside. The model is changed in place; `reference` is a copy of it
    as it was.
    """

    # h_preference_tuning.ipynb, "The loop"

    def __init__(
        self,
        model: GPTModel,
        tokenizer: BPETokenizer,
        questions: Iterator[Example],
        reward: RewardRule,
        recipe: PolicyRecipe,
        replay: Iterator[Batch] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.recipe = model, tokenizer, recipe
        self.questions, self.reward, self.replay, self.done = questions, reward, replay, 0
        self.reference = copy.deepcopy(model).requires_grad_(False).eval()
        rate, names = recipe.learning_rate, ("matrix_rate", "table_rate", "vector_rate")
        rates = Recipe("adamw", **dict.fromkeys(names, rate), momentum=0.9)
        self.optimizers = build_optimizers(model, rates)

    def losses(self, replies: Replies, rewards: Tensor) -> tuple[Callable[[], Tensor], dict]:
        """The loss of these replies, as a function to call anew in each epoch; and notes."""
        raise NotImplementedError("see GRPO and PPO")


def policy_step(training: PolicyTraining) -> dict[str, float]:
    """Fresh replies, their rewards, `epochs` steps of the optimiser. Returns what to note down."""
    # h_preference_tuning.ipynb, "The loop"
    recipe = training.recipe
    examples = list(islice(training.questions, recipe.prompts))
    replies = sample_replies(
        *(training.model, training.tokenizer, examples, recipe.group),
        temperature=recipe.temperature,
        max_new_tokens=recipe.max_new_tokens,
        seed=100_000 * recipe.seed + training.done,
    )
    rewards = training.reward(replies.examples(examples), replies)
    loss, notes = training.losses(replies, rewards)
    for _ in range(recipe.epochs):
        policy_update(training, loss())
    training.done += 1
    tokens = replies.asked.sum().item() / len(replies)
    return {"step": training.done, "reward": rewards.mean().item(), "tokens": tokens} | notes


def policy_update(training: PolicyTraining, loss: Tensor) -> None:
    """One step of the optimiser, with the loss of some ordinary exchanges added."""
    # h_preference_tuning.ipynb, "The loop"
    recipe = training.recipe
    if training.replay is not None:
        inputs, targets = (part.to(loss.device) for part in next(training.replay))
        logits = training.model(inputs).flatten(0, 1)
        replayed = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)
        loss = loss + recipe.replay_weight * replayed
    for optimizer in training.optimizers:
        optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(training.model.parameters(), recipe.max_norm)
    factor = learning_rate_at((training.done + 0.5) / recipe.steps, warmup=0.05, decay=0.5)
    for optimizer in training.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        optimizer.step()


def ordinary_batches(tokenizer: BPETokenizer, rows: int = 12, seed: int = 0) -> Iterator[Batch]:
    """Batches of what the assistant has learned from before, without end: for replay."""
    # h_preference_tuning.ipynb, "The loop"
    certain = [family for family in FAMILIES if family != "continue_story"]
    examples = instructions(seed, "train", certain)
    while True:
        yield instruction_batch([instruction_row(e, tokenizer) for e in islice(examples, rows)])


def run_policy(
    training: PolicyTraining,
    look: Callable[[GPTModel], dict] | None = None,
    every: int = 10,
    steps: int | None = None,
) -> list[dict]:
    """All steps, or so many: each one's notes, and at every `every`-th step what `look` sees."""
    # h_preference_tuning.ipynb, "The loop"
    notes = []
    stop = training.recipe.steps if steps is None else training.done + steps
    while training.done < stop:
        notes.append(policy_step(training))
        if look and (training.done % every == 0 or training.done == stop):
            notes[-1] |= look(training.model)
    return notes


class GRPO(PolicyTraining):
    """Group relative policy optimisation: what to expect of a reply is the mean of its group."""

    # h_preference_tuning.ipynb, "The loop"

    def losses(self, replies: Replies, rewards: Tensor) -> tuple[Callable[[], Tensor], dict]:
        """The loss of the replies in groups that are not of one mind; the others teach nothing."""
        recipe, grouped = self.recipe, rewards.view(-1, self.recipe.group)
        advantages = group_advantages(grouped, recipe.by_std).flatten()
        useful = (grouped.amax(1) > grouped.amin(1)).repeat_interleave(recipe.group)
        notes = {"useful": useful.float().mean().item()}
        if not useful.any():
            return lambda: 0.0 * self.model.final_norm.weight.sum(), notes
        part = replies.rows(useful.nonzero().flatten().tolist())
        asked = part.asked[:, 1:]
        advantages = advantages[useful].to(asked.device)
        with torch.no_grad():
            before = reply_log_probs(self.reference, part)
            old = reply_log_probs(self.model, part)
        notes["kl"] = (k3_to_reference(old, before) * asked).sum().item() / len(part)

        def loss() -> Tensor:
            now = reply_log_probs(self.model, part)
            return grpo_loss(now, old, before, asked, advantages, recipe, len(replies))

        return loss, notes


def check_token_shapes(discount: float, trace: float, **tensors: Tensor) -> None:
    """Raise ValueError unless all are (rows, places), and the two numbers lie from 0 to 1."""
    # h_preference_tuning.ipynb, "H.8 PPO, with a value for every token"
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 2:
        raise ValueError(f"shapes {shapes}; expected (rows, places), the same for all.")
    if not (0 <= discount <= 1 and 0 <= trace <= 1):
        raise ValueError(f"discount={discount}, trace={trace}; expected numbers from 0 to 1.")


def generalised_advantages(
    rewards: Tensor, values: Tensor, asked: Tensor, discount: float = 1.0, trace: float = 0.95
) -> Tensor:
    """For each token, how much better things went than the values had expected.

    Shape:
        all (rows, places). asked is True at a reply's tokens, which stand together in each row;
        elsewhere nothing is looked at, and the result is 0.

    Raises:
        ValueError: as `check_token_shapes`.

    Source: Schulman et al., Generalized advantage estimation (2016), equation 16.
    """
    # h_preference_tuning.ipynb, "H.8 PPO, with a value for every token"
    check_token_shapes(discount, trace, rewards=rewards, values=values, asked=asked)
    rewards, values = rewards * asked, values * asked
    advantages, later, next_value = torch.zeros_like(values), 0.0, 0.0
    for place in reversed(range(rewards.shape[1])):
        surprise = rewards[:, place] + discount * next_value - values[:, place]
        later = (surprise + discount * trace * later) * asked[:, place]
        advantages[:, place], next_value = later, values[:, place]
    return advantages


class ValueHead(nn.Module):
    """How much reward is still to come, read off a policy's features, which it does not change.

    Shape:
        features: (..., embed_dim); result: (...).
    """

    # h_preference_tuning.ipynb, "H.8 PPO, with a value for every token"

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.guess = nn.Linear(embed_dim, 1)
        nn.init.zeros_(self.guess.weight)
        nn.init.zeros_(self.guess.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.guess(features.detach()).squeeze(-1)


def fit_values(
    head: ValueHead,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    returns: Tensor,
    steps: int = 20,
) -> float:
    """Bring the guesses nearer to what came. Returns the share of its variance they knew before.

    Shape:
        features: (tokens, embed_dim); returns: (tokens,).
    """
    # h_preference_tuning.ipynb, "H.8 PPO, with a value for every token"
    with torch.no_grad():
        left = (returns - head(features)).var() / returns.var().clamp(min=1e-9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(head(features), returns).backward()
        optimizer.step()
    return 1 - left.item()


def token_rewards(
    rewards: Tensor, log_probs: Tensor, reference: Tensor, asked: Tensor, kl_weight: float
) -> Tensor:
    """Each token pays for going from the reference; the last one gets the reply's reward.

    Shape:
        rewards: (rows,); log_probs, reference, asked, result: (rows, places).

    Source: Ouyang et al., InstructGPT (2022), section 3.5.
    """
    # h_preference_tuning.ipynb, "H.8 PPO, with a value for every token"
    each = -kl_weight * (log_probs - reference) * asked
    places = torch.arange(asked.shape[1], device=asked.device)
    last = (places * asked).argmax(1)  # (rows,)
    each[torch.arange(len(each), device=asked.device), last] += rewards
    return each


@dataclass(frozen=True)
class PPORecipe(PolicyRecipe):
    """Training by reward with a value head: many prompts, one reply to each."""

    # h_preference_tuning.ipynb, "H.8 PPO, with a value for every token"

    prompts: int = 48
    group: int = 1
    max_new_tokens: int = 80
    kl_weight: float = 0.1
    discount: float = 1.0  # what a reward is worth one token earlier
    trace: float = 0.95  # how far a surprise is handed back
    value_rate: float = 0.01  # Adam, for the value head


class PPO(PolicyTraining):
    """Proximal policy optimisation, in its simplest form that has all parts."""

    # h_preference_tuning.ipynb, "H.8 PPO, with a value for every token"

    def __init__(self, model: GPTModel, *arguments: object, **more: object) -> None:
        super().__init__(model, *arguments, **more)
        self.value_head = ValueHead(model.config.embed_dim)
        self.value_head.to(model.position_embedding.weight.device)
        rate = self.recipe.value_rate
        self.value_optimizer = torch.optim.Adam(self.value_head.parameters(), rate)

    def losses(self, replies: Replies, rewards: Tensor) -> tuple[Callable[[], Tensor], dict]:
        """Advantages once, from values as they were; then the clipped objective over all tokens."""
        asked, clip = replies.asked[:, 1:], self.recipe.clip
        old, advantages, notes = ppo_advantages(self, replies, rewards)

        def loss() -> Tensor:
            now = reply_log_probs(self.model, replies)
            return -clipped_objective(now, old, advantages, clip)[asked].mean()

        return loss, notes


def ppo_advantages(
    training: PPO, replies: Replies, rewards: Tensor
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Old log-probabilities, advantages scaled over the batch, notes; and the value head learns.

    Shape:
        rewards: (rows,); the first two results: (rows, places).
    """
    # h_preference_tuning.ipynb, "H.8 PPO, with a value for every token"
    recipe, asked = training.recipe, replies.asked[:, 1:]
    with torch.no_grad():
        before = reply_log_probs(training.reference, replies)
        old = reply_log_probs(training.model, replies)
        features = last_features(training.model, replies.token_ids[:, :-1])
        values = training.value_head(features) * asked
    each = token_rewards(rewards.to(old.device), old, before, asked, recipe.kl_weight)
    advantages = generalised_advantages(each, values, asked, recipe.discount, recipe.trace)
    returns = (advantages + values)[asked]
    known = fit_values(training.value_head, training.value_optimizer, features[asked], returns)
    chosen = advantages[asked]
    advantages = (advantages - chosen.mean()) / chosen.std().clamp(min=1e-6)
    kl = ((old - before) * asked).sum().item() / len(replies)
    return old, advantages, {"known": known, "kl": kl}


def kind_word_reward(examples: Sequence[Example], replies: Replies) -> Tensor:
    """How many of a reply's words are kind ones, counted with repetitions: (rows,)."""
    # h_preference_tuning.ipynb, "H.10 A reward that can be cheated"
    counts = [sum(w in KIND_WORDS for w in re.findall(r"\w+", text)) for text in replies.texts]
    return torch.tensor(counts, dtype=torch.float32)


def kind_and_fitting_reward(examples: Sequence[Example], replies: Replies) -> Tensor:
    """1 for a kind ending of a reply that is as asked and truthful, otherwise 0: (rows,)."""
    # h_preference_tuning.ipynb, "Mending it"
    said = zip(examples, replies.texts, strict=True)
    rules = (ends_kindly, does_as_asked, is_truthful)
    return torch.tensor([float(all(rule(e, text) for rule in rules)) for e, text in said])


# --------------------------------------------------------------------------------------------------
# Appendix I · Modern architectures: from GPT-2 to today, one change at a time
# i_modern_architectures/i_modern_architectures.ipynb
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rope:
    """How fast the pairs of numbers in queries and keys are turned, by position.

    Source: Su et al. (2021), "RoFormer: Enhanced Transformer with Rotary Position Embedding".
    """

    # i_modern_architectures.ipynb, "I.1 One model with switches"

    base: float = 10_000.0  # the slowest pair turns about once in 2π · base tokens
    scaling: str = "none"  # for texts longer than the training's: "linear", "llama3" or "yarn"
    factor: float = 1.0  # so many times as slow
    low: float = 1.0  # pairs with no more turns than this in `trained_length`: slowed in full
    high: float = 4.0  # pairs with more turns than this are left alone; yarn's is 32
    trained_length: int = 8192  # how long the texts of the training were

    @property
    def stretch(self) -> float:
        """What queries and keys are multiplied with: above 1 for yarn alone."""
        return 1 + 0.1 * math.log(self.factor) if self.scaling == "yarn" else 1.0


@dataclass(frozen=True)
class ModernSizes:
    """The sizes of a model; each is a whole number from 1 up."""

    # i_modern_architectures.ipynb, "I.1 One model with switches"

    vocab_size: int
    context_length: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int  # heads of keys and values; fewer than num_heads: shared (I.5)
    head_dim: int  # need not be embed_dim / num_heads
    hidden_dim: int  # width of the feed-forward layer, or of each expert


@dataclass(frozen=True)
class ModernConfig(ModernSizes):
    """Every choice that tells one family of models from another. Raises: `check_modern`."""

    # i_modern_architectures.ipynb, "I.1 One model with switches"

    norm: str = "rms"  # or "layer" (I.2)
    norm_eps: float = 1e-6
    norm_offset: float = 0.0  # added to the norms' weights: 1 in Gemma, which stores them so
    norm_place: str = "pre"  # or "post", "sandwich" (I.6)
    positions: str = "rope"  # or "learned" (I.3)
    rope: Rope = Rope()
    local_rope: Rope | None = None  # of layers with a window, if theirs differs
    feed_forward: str = "silu"  # gated, or "gelu_gated"; "gelu" is chapter 4's (I.4)
    bias: bool = False  # in attention's linear layers
    qk_norm: str = "none"  # or "head", "all" (I.5)
    window: int | None = None  # how many tokens a token looks at, itself among them (I.5)
    global_layers: tuple[int, ...] = ()  # layers that look at everything all the same
    attention_scale: float | None = None  # instead of 1 / √head_dim
    embed_scale: bool = False  # multiply the embedding by √embed_dim
    tied: bool = True  # one matrix as embedding and as output head
    num_experts: int = 0  # 0: no mixture (I.7)
    experts_per_token: int = 0
    renormalise: bool = True  # let the chosen experts' weights sum to 1

    def __post_init__(self) -> None:
        check_modern(self)


# i_modern_architectures.ipynb, "I.1 One model with switches"
MODERN_CHOICES = {
    "norm": ("layer", "rms"),
    "norm_place": ("pre", "post", "sandwich"),
    "positions": ("learned", "rope"),
    "feed_forward": ("gelu", "silu", "gelu_gated"),
    "qk_norm": ("none", "head", "all"),
}


def check_modern(config: ModernConfig) -> None:
    """Raise ValueError, naming the field, if no model can be built from `config`."""
    # i_modern_architectures.ipynb, "I.1 One model with switches"
    for name, choices in MODERN_CHOICES.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"ModernConfig: {name}={getattr(config, name)!r}, expected {choices}.")
    for name in [field.name for field in fields(ModernSizes)]:
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"ModernConfig: {name}={value!r}, expected a whole number from 1 up.")
    check_groups(config.num_heads, config.num_kv_heads)
    check_details(config)


def check_details(config: ModernConfig) -> None:
    """Raise ValueError if the choices do not go together."""
    # i_modern_architectures.ipynb, "I.1 One model with switches"
    if config.positions == "rope" and config.head_dim % 2:
        raise ValueError(f"head_dim={config.head_dim}: rope turns pairs; take an even number.")
    if config.feed_forward == "gelu" and config.hidden_dim != 4 * config.embed_dim:
        four = 4 * config.embed_dim
        raise ValueError(f"hidden_dim={config.hidden_dim}: GPT-2's is 4 · embed_dim = {four}.")
    if config.feed_forward == "gelu" and config.num_experts:
        raise ValueError('num_experts: experts are gated here; take feed_forward="silu".')
    if config.window is not None and config.window < 1:
        raise ValueError(f"window={config.window}, expected None or 1 and more tokens.")
    if config.num_experts and not 1 <= config.experts_per_token <= config.num_experts:
        raise ValueError(
            f"experts_per_token={config.experts_per_token}, expected 1 to {config.num_experts}."
        )


class RMSNorm(nn.Module):
    """Divide a token's vector by the root of its mean square, then scale; computed in float32.

    Shape:
        x: (..., dim); result: the same.

    Source: Zhang and Sennrich (2019), "Root Mean Square Layer Normalization".
    """

    # i_modern_architectures.ipynb, "I.2 RMSNorm: half of a LayerNorm"

    def __init__(self, dim: int, eps: float = 1e-6, offset: float = 0.0) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((dim,), 1.0 - offset))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.float() + self.offset if self.offset else self.weight.float()
        return F.rms_norm(x.float(), scale.shape, scale, self.eps).to(x.dtype)


def make_norm(config: ModernConfig, dim: int | None = None) -> nn.Module:
    """The configuration's norm, for vectors of `dim` numbers, or else of `embed_dim`."""
    # i_modern_architectures.ipynb, "I.2 RMSNorm: half of a LayerNorm"
    dim = dim or config.embed_dim
    if config.norm == "layer":
        return LayerNorm(dim, config.norm_eps)
    return RMSNorm(dim, config.norm_eps, config.norm_offset)


@lru_cache(maxsize=64)
def rope_speeds(head_dim: int, rope: Rope) -> Tensor:
    """Radians that each pair turns per token, fastest first, scaling included.

    Shape:
        result: (head_dim / 2,).

    Raises: ValueError for an unknown `scaling`.
    Source: Su et al. (2021), "RoFormer".
    """
    # i_modern_architectures.ipynb, "I.3 RoPE: turn instead of add"
    speeds = rope.base ** -(torch.arange(0, head_dim, 2, device="cpu") / head_dim)
    return speeds if rope.scaling == "none" else speeds * rope_slowdown(speeds, rope)


def turn_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (number i, number i + head_dim / 2) of queries or keys.

    Shape:
        x: (batch, heads, tokens, head_dim); cos, sin: (tokens, head_dim / 2); result: as x.

    Source: Su et al. (2021), "RoFormer"; halves instead of neighbours as in Llama's weights.
    """
    # i_modern_architectures.ipynb, "I.3 RoPE: turn instead of add"
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def turn_angles(
    positions: Tensor, head_dim: int, rope: Rope, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each pair's angle at these positions, both (tokens, head_dim / 2)."""
    # i_modern_architectures.ipynb, "I.3 RoPE: turn instead of add"
    angles = positions[:, None] * rope_speeds(head_dim, rope).to(positions.device)
    cos, sin = angles.cos() * rope.stretch, angles.sin() * rope.stretch
    return cos.to(like.dtype), sin.to(like.dtype)


def kept_by_turns(speeds: Tensor, rope: Rope) -> Tensor:
    """llama3: from 1 for pairs that are left alone down to 0 for those slowed in full.

    Source: Llama 3.1's own code.
    """
    # i_modern_architectures.ipynb, "Longer than the training"
    turns = rope.trained_length * speeds / (2 * math.pi)
    return ((turns - rope.low) / (rope.high - rope.low)).clamp(0, 1)


def kept_by_pair(speeds: Tensor, rope: Rope) -> Tensor:
    """yarn: as `kept_by_turns`, but blended evenly from pair to pair.

    Source: Peng et al. (2023), "YaRN: Efficient Context Window Extension of Large Language Models".
    """
    # i_modern_architectures.ipynb, "Longer than the training"
    width, once = 2 * len(speeds), rope.trained_length / (2 * math.pi)
    bounds = (math.log(once / turns) for turns in (rope.high, rope.low))
    first, last = (width * bound / (2 * math.log(rope.base)) for bound in bounds)
    first, last = max(math.floor(first), 0), min(math.ceil(last), width - 1)
    pairs = torch.arange(len(speeds), device="cpu")
    return 1 - ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)


def rope_slowdown(speeds: Tensor, rope: Rope) -> Tensor:
    """What scaling multiplies each pair's speed with: from 1 down to 1 / factor.

    Raises: ValueError for an unknown `scaling`.
    Source: linear: Chen et al. (2023), "Extending Context Window of Large Language Models via
    Positional Interpolation"; llama3 and yarn: `kept_by_turns`, `kept_by_pair`.
    """
    # i_modern_architectures.ipynb, "Longer than the training"
    ways = {"linear": lambda *_: 0 * speeds, "llama3": kept_by_turns, "yarn": kept_by_pair}
    if rope.scaling not in ways:
        raise ValueError(f"scaling={rope.scaling!r}, expected 'none' or one of {', '.join(ways)}.")
    kept = ways[rope.scaling](speeds, rope)
    return kept + (1 - kept) / rope.factor


class GatedFeedForward(nn.Module):
    """Two wide vectors, one bent and multiplied onto the other, and back.

    Shape:
        x: (..., embed_dim); result: the same.

    Source: Shazeer (2020), "GLU Variants Improve Transformer".
    """

    # i_modern_architectures.ipynb, "I.4 A gate in the feed-forward layer"

    def __init__(self, embed_dim: int, hidden_dim: int, bend: str = "silu") -> None:
        super().__init__()
        self.gate = nn.Linear(embed_dim, hidden_dim, bias=False)
        self.up = nn.Linear(embed_dim, hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, embed_dim, bias=False)
        self.bend = F.silu if bend == "silu" else partial(F.gelu, approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.bend(self.gate(x)) * self.up(x))


def sliding_window_mask(
    tokens: int, seen: int, window: int | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Which of the `seen` last tokens each of the `tokens` newest may look at.

    Shape:
        result: (tokens, seen), True where it may.

    Example:
        >>> sliding_window_mask(2, 4, 2).int().tolist()
        [[0, 1, 1, 0], [0, 0, 1, 1]]

    Source: Beltagy et al. (2020), "Longformer: The Long-Document Transformer".
    """
    # i_modern_architectures.ipynb, "I.5 Attention, three changes"
    asks = torch.arange(seen - tokens, seen, device=device)[:, None]
    back = asks - torch.arange(seen, device=device)  # how far back: negative is the future
    return (back >= 0) & (back < (seen if window is None else window))


class LayerMemory:
    """Keys and values of one layer's tokens; with a window, only of those that can still be seen.

    Shape:
        keys, values: (batch, key heads, tokens kept, head_dim), None before the first token.
    """

    # i_modern_architectures.ipynb, "I.5 Attention, three changes"

    def __init__(self, window: int | None = None) -> None:
        self.window, self.keys, self.values = window, None, None

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Old and new ones together, to be looked at now; then forget what is too old."""
        if self.keys is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        old = 0 if self.window is None else max(0, keys.shape[2] - self.window + 1)
        self.keys, self.values = keys[:, :, old:], values[:, :, old:]
        return keys, values

    @property
    def num_bytes(self) -> int:
        """What the kept tokens take."""
        return 0 if self.keys is None else 2 * self.keys.numel() * self.keys.element_size()


class ModernAttention(nn.Module):
    """Causal attention with shared keys, norms on queries and keys, turned pairs and a window.

    Shape:
        x: (batch, tokens, embed_dim); positions: (tokens,); result: as x.

    Source: Ainslie et al. (2023), "GQA"; Henry et al. (2020), "Query-Key Normalization for
    Transformers".
    """

    # i_modern_architectures.ipynb, "I.5 Attention, three changes"

    def __init__(self, config: ModernConfig, layer: int = 0) -> None:
        super().__init__()
        self.config, self.window = config, layer_window(config, layer)
        self.rope = layer_rope(config, layer)
        wide, narrow = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
        self.query = nn.Linear(config.embed_dim, wide, bias=config.bias)
        self.key = nn.Linear(config.embed_dim, narrow, bias=config.bias)
        self.value = nn.Linear(config.embed_dim, narrow, bias=config.bias)
        self.out = nn.Linear(wide, config.embed_dim, bias=config.bias)
        self.query_norm, self.key_norm = qk_norms(config)

    def forward(self, x: Tensor, positions: Tensor, memory: LayerMemory | None = None) -> Tensor:
        q, k, v = normed_and_turned(self, x, positions)
        k, v = memory.add(k, v) if memory else (k, v)  # (batch, key heads, seen, head_dim)
        mixed = attend_back(q, k, v, self.window, self.config.attention_scale)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (batch, tokens, embed_dim)


def layer_window(config: ModernConfig, layer: int) -> int | None:
    """The window of this layer; None if it looks at everything."""
    # i_modern_architectures.ipynb, "I.5 Attention, three changes"
    return None if layer in config.global_layers else config.window


def layer_rope(config: ModernConfig, layer: int) -> Rope | None:
    """How this layer turns queries and keys; None if it does not."""
    # i_modern_architectures.ipynb, "I.5 Attention, three changes"
    if config.positions != "rope":
        return None
    local = layer_window(config, layer) is not None and config.local_rope
    return config.local_rope if local else config.rope


def qk_norms(config: ModernConfig) -> tuple[nn.Module, nn.Module]:
    """The norms of queries and keys; parts that do nothing where there are none."""
    # i_modern_architectures.ipynb, "I.5 Attention, three changes"
    if config.qk_norm == "none":
        return nn.Identity(), nn.Identity()
    heads = (1, 1) if config.qk_norm == "head" else (config.num_heads, config.num_kv_heads)
    return tuple(make_norm(config, n * config.head_dim) for n in heads)


def normed_and_turned(
    attention: ModernAttention, x: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a `ModernAttention`, ready to be compared and mixed.

    Shape:
        result: (batch, heads, tokens, head_dim); keys and values have fewer heads.
    """
    # i_modern_architectures.ipynb, "I.5 Attention, three changes"
    config, width = attention.config, attention.config.head_dim
    q, k, v = attention.query(x), attention.key(x), attention.value(x)
    if config.qk_norm == "all":
        q, k = attention.query_norm(q), attention.key_norm(k)
    q, k, v = (t.unflatten(-1, (-1, width)) for t in (q, k, v))  # (batch, tokens, heads, head_dim)
    if config.qk_norm == "head":
        q, k = attention.query_norm(q), attention.key_norm(k)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if attention.rope is not None:
        cos, sin = turn_angles(positions, width, attention.rope, q)
        q, k = turn_pairs(q, cos, sin), turn_pairs(k, cos, sin)
    return q, k, v


def attend_back(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float | None = None
) -> Tensor:
    """Causal attention of the newest tokens to all that are seen; groups of heads share keys.

    Shape:
        q: (batch, heads, tokens, head_dim); k, v: (batch, key heads, seen, head_dim).
    """
    # i_modern_architectures.ipynb, "I.5 Attention, three changes"
    tokens, seen = q.shape[2], k.shape[2]
    shared = q.shape[1] != k.shape[1]
    if tokens == seen and (window is None or window >= seen):
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=shared
        )
    mask = None
    if tokens > 1 or (window is not None and window < seen):
        mask = sliding_window_mask(tokens, seen, window, q.device)
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=shared)


class ModernBlock(nn.Module):
    """Attention, then feed-forward or experts; norms before, after, or on both sides of each.

    Shape:
        x: (batch, tokens, embed_dim); result: the same.

    Source: Walsh et al. (2024), "2 OLMo 2 Furious"; Kamath et al. (2025), "Gemma 3 Technical
    Report".
    """

    # i_modern_architectures.ipynb, "I.6 Block and model"

    def __init__(self, config: ModernConfig, layer: int, attention: Callable | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = block_norms(config, ("pre", "sandwich"))
        self.after1, self.after2 = block_norms(config, ("post", "sandwich"))
        self.attention = (attention or ModernAttention)(config, layer)
        self.feed_forward = make_feed_forward(config)

    def forward(self, x: Tensor, positions: Tensor, memory: LayerMemory | None = None) -> Tensor:
        x = x + self.after1(self.attention(self.norm1(x), positions, memory))
        return x + self.after2(self.feed_forward(self.norm2(x)))


def block_norms(config: ModernConfig, places: tuple[str, ...]) -> tuple[nn.Module, nn.Module]:
    """Norms for attention and feed-forward if `norm_place` is one of `places`."""
    # i_modern_architectures.ipynb, "I.6 Block and model"
    wanted = config.norm_place in places
    return tuple(make_norm(config) if wanted else nn.Identity() for _ in range(2))


def make_feed_forward(config: ModernConfig) -> nn.Module:
    """The configuration's feed-forward layer, or its mixture of experts (I.7)."""
    # i_modern_architectures.ipynb, "I.6 Block and model"
    if config.num_experts:
        return MixtureOfExperts(config)
    if config.feed_forward == "gelu":
        return FeedForward(config.embed_dim)
    return GatedFeedForward(config.embed_dim, config.hidden_dim, config.feed_forward)


class ModelMemory:
    """What a `ModernModel` keeps of the tokens that it has read, layer by layer."""

    # i_modern_architectures.ipynb, "I.6 Block and model"

    def __init__(self, config: ModernConfig) -> None:
        self.tokens = 0
        self.layers = [LayerMemory(layer_window(config, i)) for i in range(config.num_layers)]

    @property
    def num_bytes(self) -> int:
        """What all layers together take by now."""
        return sum(layer.num_bytes for layer in self.layers)


class ModernModel(nn.Module):
    """A language model of any family that a `ModernConfig` describes.

    Shape:
        token_ids: (batch, tokens); result: logits (batch, tokens, vocab_size). With a `memory`,
        the tokens follow those that it holds.
    """

    # i_modern_architectures.ipynb, "I.6 Block and model"

    def __init__(
        self, config: ModernConfig, seed: int | None = None, attention: Callable | None = None
    ) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            build_parts(self, attention)
            start_weights(self, seed)
        use_fast_linear(self)

    def features(self, token_ids: Tensor, memory: ModelMemory | None = None) -> Tensor:
        """The vectors after the last norm: (batch, tokens, embed_dim)."""
        return run_blocks(self, token_ids, memory)

    def forward(self, token_ids: Tensor, memory: ModelMemory | None = None) -> Tensor:
        check_token_ids(token_ids, self.config)
        return self.output_head(self.features(token_ids, memory))

    def num_parameters(self) -> int:
        """How many numbers are learned. A tied matrix counts once."""
        return sum(p.numel() for p in self.parameters())


def build_parts(model: ModernModel, attention: Callable | None) -> None:
    """Give `model` its embeddings, blocks, last norm and head."""
    # i_modern_architectures.ipynb, "I.6 Block and model"
    config = model.config
    model.token_embedding = nn.Embedding(config.vocab_size, config.embed_dim)
    if config.positions == "learned":
        model.position_embedding = nn.Embedding(config.context_length, config.embed_dim)
    blocks = (ModernBlock(config, layer, attention) for layer in range(config.num_layers))
    model.blocks = nn.ModuleList(blocks)
    model.final_norm = make_norm(config)
    model.output_head = (
        TiedHead(model.token_embedding)
        if config.tied
        else nn.Linear(config.embed_dim, config.vocab_size, bias=False)
    )


def start_weights(model: ModernModel, seed: int | None) -> None:
    """Chapter 4's first weights; experts write to the stream, too, so they start as small."""
    # i_modern_architectures.ipynb, "I.6 Block and model"
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    initialise(model, model.config.num_layers, generator)
    with torch.no_grad():
        for name, module in model.named_modules():
            if ".experts." in name and name.endswith(".down"):
                module.weight.mul_((2 * model.config.num_layers) ** -0.5)


def run_blocks(model: ModernModel, token_ids: Tensor, memory: ModelMemory | None) -> Tensor:
    """The vectors of `token_ids` after all blocks and the last norm; what is new is remembered."""
    # i_modern_architectures.ipynb, "I.6 Block and model"
    config, start = model.config, memory.tokens if memory else 0
    positions = torch.arange(start, start + token_ids.shape[1], device=token_ids.device)
    x = model.token_embedding(token_ids)
    if config.embed_scale:  # rounded as the embedding is, so that 16-bit models agree, too
        x = x * torch.tensor(config.embed_dim**0.5, dtype=x.dtype, device=x.device)
    if config.positions == "learned":
        x = x + model.position_embedding(positions)
    for layer, block in enumerate(model.blocks):
        x = block(x, positions, memory.layers[layer] if memory else None)
    if memory:
        memory.tokens += token_ids.shape[1]
    return model.final_norm(x)


@torch.no_grad()
def continue_modern(model: ModernModel, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """The prompt and its greedy continuation, each token read once.

    Raises: ValueError if the text would be longer than the model's context.
    """
    # i_modern_architectures.ipynb, "I.6 Block and model"
    row, memory = list(prompt), ModelMemory(model.config)
    if len(row) + new_tokens > model.config.context_length:
        raise ValueError(
            f"{len(row)} + {new_tokens} tokens, but context_length={model.config.context_length}."
        )
    device, unread = next(model.parameters()).device, list(row)
    for _ in range(new_tokens):
        logits = model(torch.tensor([unread], device=device), memory)[0, -1]
        unread = [int(logits.argmax())]
        row += unread
    return row


def route_tokens(
    logits: Tensor, count: int, renormalise: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Which experts each token is sent to, with which weights, and the chances of all experts.

    Shape:
        logits: (tokens, experts); result: chosen and weights, both (tokens, count), and chances
        (tokens, experts), in float32.

    Source: Shazeer et al. (2017), "Outrageously Large Neural Networks", section 2.1.
    """
    # i_modern_architectures.ipynb, "I.7 Mixture of experts"
    chances = logits.float().softmax(dim=-1)
    weights, chosen = chances.topk(count, dim=-1)
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return chosen, weights, chances


class MixtureOfExperts(nn.Module):
    """Several gated feed-forward layers, of which each token uses a few.

    While training, `routed` holds the last pass's (chosen, chances), for `balance_loss`.
    Shape: (batch, tokens, embed_dim) -> the same.
    Source: Shazeer et al. (2017), "Outrageously Large Neural Networks".
    """

    # i_modern_architectures.ipynb, "I.7 Mixture of experts"

    def __init__(self, config: ModernConfig) -> None:
        super().__init__()
        self.count, self.renormalise = config.experts_per_token, config.renormalise
        self.router = nn.Linear(config.embed_dim, config.num_experts, bias=False)
        sizes = (config.embed_dim, config.hidden_dim, config.feed_forward)
        self.experts = nn.ModuleList(GatedFeedForward(*sizes) for _ in range(config.num_experts))
        self.routed = None

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)  # (batch * tokens, embed_dim)
        chosen, weights, chances = route_tokens(self.router(flat), self.count, self.renormalise)
        self.routed = (chosen, chances) if self.training else None
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, rank = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                answer = expert(flat[rows]) * weights[rows, rank, None].to(flat.dtype)
                out = out.index_add(0, rows, answer)
        return out.view_as(x)


def balance_loss(chosen: Tensor, chances: Tensor) -> Tensor:
    """How unevenly experts are used: 1 for even work, up to the number of experts.

    Shape:
        chosen: (tokens, experts per token); chances: (tokens, experts); result: one number.

    Source: Fedus et al. (2021), "Switch Transformers", section 2.2.
    """
    # i_modern_architectures.ipynb, "I.7 Mixture of experts"
    experts = chances.shape[-1]
    shares = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
    return experts * (shares * chances.mean(dim=0)).sum()


def model_balance(model: nn.Module) -> Tensor | float:
    """The mean `balance_loss` of a model's layers in its last training pass; 0 without experts."""
    # i_modern_architectures.ipynb, "I.7 Mixture of experts"
    layers = [part for part in model.modules() if isinstance(part, MixtureOfExperts)]
    losses = [balance_loss(*part.routed) for part in layers if part.routed is not None]
    for part in layers:
        part.routed = None  # it holds on to the whole pass
    return torch.stack(losses).mean() if losses else 0.0


class LatentAttention(nn.Module):
    """Attention whose keys and values are made from one short vector per token.

    `cached` is how many numbers a token leaves behind for later ones.
    Shape: (batch, tokens, embed_dim) and positions (tokens,) -> as the first.
    Source: DeepSeek-AI (2024), "DeepSeek-V2", section 2.1.
    """

    # i_modern_architectures.ipynb, "I.8 MLA: keep a summary instead of keys"

    def __init__(
        self, config: ModernConfig, layer: int = 0, latent: int = 32, turned: int = 8
    ) -> None:
        super().__init__()
        self.config, self.turned = config, turned if config.positions == "rope" else 0
        dim, wide = config.embed_dim, config.num_heads * config.head_dim
        self.query = nn.Linear(dim, wide + config.num_heads * self.turned, bias=False)
        self.squeeze = nn.Linear(dim, latent + self.turned, bias=False)
        self.norm = RMSNorm(latent, config.norm_eps)
        self.widen = nn.Linear(latent, 2 * wide, bias=False)  # to keys and values
        self.out = nn.Linear(wide, dim, bias=False)
        self.cached = latent + self.turned

    def forward(self, x: Tensor, positions: Tensor, memory: None = None) -> Tensor:
        latent, turned = self.squeeze(x).split((self.cached - self.turned, self.turned), dim=-1)
        q = self.query(x).unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)
        both = self.widen(self.norm(latent)).unflatten(-1, (self.config.num_heads, -1))
        k, v = both.transpose(1, 2).chunk(2, dim=-1)  # (batch, heads, tokens, head_dim)
        if self.turned:
            q, k = beside_places(q, k, turned[:, None], positions, self.config.rope)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


def beside_places(
    q: Tensor, k: Tensor, turned: Tensor, positions: Tensor, rope: Rope
) -> tuple[Tensor, Tensor]:
    """Turn the last numbers of the queries, and set the shared turned part beside each key.

    Shape:
        q: (batch, heads, tokens, head_dim + turned); k: (batch, heads, tokens, head_dim);
        turned: (batch, 1, tokens, turned); result: both of q's shape.
    """
    # i_modern_architectures.ipynb, "I.8 MLA: keep a summary instead of keys"
    cos, sin = turn_angles(positions, turned.shape[-1], rope, q)
    plain, places = q.split((k.shape[-1], turned.shape[-1]), dim=-1)
    q = torch.cat([plain, turn_pairs(places, cos, sin)], dim=-1)
    turned = turn_pairs(turned, cos, sin).expand(-1, k.shape[1], -1, -1)
    return q, torch.cat([k, turned], dim=-1)


def delta_steps(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gated delta rule, one token after the other; what is read, and the last state.

    Shape:
        q, k: (..., tokens, key_dim); v: (..., tokens, value_dim); beta, log_decay: (..., tokens);
        state: (..., key_dim, value_dim), zeros if None; result: as v, and as state.

    Source: Yang et al. (2024), "Gated Delta Networks: Improving Mamba2 with Delta Rule".
    """
    # i_modern_architectures.ipynb, "I.9 Linear attention: a memory that does not grow"
    if state is None:
        state = k.new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1])
    read = []
    for t in range(k.shape[-2]):
        state = state * log_decay[..., t, None, None].exp()
        key = k[..., t, :, None]  # (..., key_dim, 1)
        difference = v[..., t, None, :] - key.mT @ state  # (..., 1, value_dim)
        state = state + key @ (beta[..., t, None, None] * difference)
        read.append(q[..., t, None, :] @ state)
    return torch.cat(read, dim=-2), state


def delta_chunk(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`delta_steps` for one chunk of tokens at once, by solving a triangular system. Shapes: there.

    Source: Yang et al. (2024), "Parallelizing Linear Transformers with the Delta Rule over
    Sequence Length"; Yang et al. (2024), "Gated Delta Networks".
    """
    # i_modern_architectures.ipynb, "I.9 Linear attention: a memory that does not grow"
    sums = log_decay.cumsum(dim=-1)  # decay from the chunk's beginning to each token
    tokens = k.shape[-2]
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=k.device).triu(1)
    fade = (sums[..., :, None] - sums[..., None, :]).masked_fill(later, -math.inf).exp()
    start = sums.exp()[..., None]
    among = beta[..., None] * fade * (k @ k.mT)  # how much of each earlier write a key meets
    wanted = beta[..., None] * (v - start * (k @ state))
    written = torch.linalg.solve_triangular(among, wanted, upper=False, unitriangular=True)
    read = start * (q @ state) + (fade * (q @ k.mT)) @ written
    left = (sums[..., -1:] - sums).exp()[..., None]  # what is left of each write at the end
    return read, start[..., -1:, :] * state + (left * k).mT @ written


def delta_chunks(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, size: int = 32
) -> Tensor:
    """What the delta rule reads, chunk by chunk; as `delta_steps`, sooner."""
    # i_modern_architectures.ipynb, "I.9 Linear attention: a memory that does not grow"
    state = k.new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1])
    read = []
    for t in range(0, k.shape[-2], size):
        parts = (x[..., t : t + size, :] for x in (q, k, v))
        gates = (x[..., t : t + size] for x in (beta, log_decay))
        out, state = delta_chunk(*parts, *gates, state)
        read.append(out)
    return torch.cat(read, dim=-2)


class DeltaAttention(nn.Module):
    """A layer in attention's place whose memory is one matrix per head (gated DeltaNet).

    `cached`: how many numbers a whole text leaves behind. Left out: short convolutions, the gate.
    Shape: (batch, tokens, embed_dim) -> the same.
    Source: Yang et al. (2024), "Gated Delta Networks: Improving Mamba2 with Delta Rule".
    """

    # i_modern_architectures.ipynb, "I.9 Linear attention: a memory that does not grow"

    def __init__(self, config: ModernConfig, layer: int = 0, decay: bool = True) -> None:
        super().__init__()
        self.heads, self.decay = config.num_heads, decay
        wide = config.num_heads * config.head_dim
        self.query = nn.Linear(config.embed_dim, wide, bias=False)
        self.key = nn.Linear(config.embed_dim, wide, bias=False)
        self.value = nn.Linear(config.embed_dim, wide, bias=False)
        self.strength = nn.Linear(config.embed_dim, config.num_heads)
        self.fading = nn.Linear(config.embed_dim, config.num_heads) if decay else None
        self.norm = RMSNorm(config.head_dim, config.norm_eps)
        self.out = nn.Linear(wide, config.embed_dim, bias=False)
        self.cached = config.num_heads * config.head_dim**2

    def forward(self, x: Tensor, positions: Tensor, memory: None = None) -> Tensor:
        parts = (self.query(x), self.key(x), self.value(x))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in parts)
        beta = self.strength(x).sigmoid().mT  # (batch, heads, tokens)
        # Without training about 5 % fade each token: memory for some twenty tokens.
        fading = F.logsigmoid(self.fading(x).mT + 3) if self.decay else torch.zeros_like(beta)
        read = delta_chunks(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, beta, fading)
        return self.out(self.norm(read).transpose(1, 2).flatten(2))


class TwoAhead(nn.Module):
    """A model with one more block that predicts the token after the next one, for training.

    `blocks` are the model's and the new one, so that chapter 5's optimisers find them.

    Source: Gloeckle et al. (2024), "Better & Faster Large Language Models via Multi-token
    Prediction".
    """

    # i_modern_architectures.ipynb, "I.10 Two tokens ahead"

    def __init__(self, model: ModernModel, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            extra = ModernBlock(model.config, model.config.num_layers - 1)
            initialise(extra, model.config.num_layers)
        use_fast_linear(extra)
        self.blocks = nn.ModuleList([*model.blocks, extra])
        self.model = model

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the next token and of the one after it, both (batch, tokens, vocab_size)."""
        x, head = self.model.features(token_ids), self.model.output_head
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        return head(x), head(self.model.final_norm(self.blocks[-1](x, positions)))


def modern_loss(model: nn.Module, batch: Batch, balance: float = 0.0, ahead: float = 0.3) -> Tensor:
    """Cross-entropy of the next token, plus `balance` · imbalance, plus `ahead` · the second one's.

    Shape:
        batch: inputs and targets, both (rows, tokens); result: one number.
    """
    # i_modern_architectures.ipynb, "I.10 Two tokens ahead"
    device = next(model.parameters()).device
    inputs, targets = (ids.to(device) for ids in batch)
    logits, extra = model(inputs), 0.0
    if isinstance(logits, tuple):
        logits, second = logits
        flat = second[:, :-1].flatten(0, 1)
        extra = ahead * F.cross_entropy(flat, targets[:, 1:].flatten(), ignore_index=IGNORED)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    return loss + extra + balance * model_balance(model)


def equal_budget_run(
    model: nn.Module, batches: Iterable[Batch], total_tokens: int, balance: float = 0.0
) -> float:
    """Train `model` in place on chapter 5's schedule; the seconds that it took.

    Only `total_tokens` targets are learned from; batches beyond them are left.
    """
    # i_modern_architectures.ipynb, "I.11 Equal budgets"
    recipe, done, start = Recipe(), 0, time.perf_counter()
    optimizers = build_optimizers(model, recipe)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    model.train()
    for batch in batches:
        count = count_targets(batch)
        factor = learning_rate_at((done + count / 2) / total_tokens, recipe.warmup, recipe.decay)
        for group in groups:
            group["lr"] = factor * group["peak"]
        modern_loss(model, batch, balance).backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.max_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        done += count
        if done >= total_tokens:
            break
    model.eval()
    return time.perf_counter() - start


# i_modern_architectures.ipynb, "I.12 Families, as configurations"
MODEL_FAMILIES: dict[str, dict] = {
    "llama": {},
    "qwen3": {"qk_norm": "head"},
    "qwen3_moe": {"qk_norm": "head"},
    "olmo2": {"qk_norm": "all", "norm_place": "post"},
    "gemma3_text": {
        "qk_norm": "head",
        "norm_place": "sandwich",
        "norm_offset": 1.0,
        "feed_forward": "gelu_gated",
        "embed_scale": True,
    },
}

# i_modern_architectures.ipynb, "I.12 Families, as configurations"
PUBLISHED_SIZES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "hidden_size": "embed_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}


def modern_config(content: dict) -> ModernConfig:
    """Our configuration from the content of a published config.json.

    Raises: ValueError: a family or a setting that `ModernModel` does not compute.
    """
    # i_modern_architectures.ipynb, "I.12 Families, as configurations"
    check_published_config(content)
    kind, scalar = content["model_type"], content.get("query_pre_attn_scalar")
    experts = read_experts(content) if kind == "qwen3_moe" else {}
    more = MODEL_FAMILIES[kind] | read_ropes(content) | read_layer_windows(content) | experts
    more |= {ours: content[theirs] for theirs, ours in PUBLISHED_SIZES.items()}
    heads = more["num_heads"]
    return ModernConfig(
        num_kv_heads=content.get("num_key_value_heads") or heads,
        head_dim=content.get("head_dim") or more["embed_dim"] // heads,
        hidden_dim=content["moe_intermediate_size" if experts else "intermediate_size"],
        norm_eps=content.get("rms_norm_eps", 1e-6),
        bias=content.get("attention_bias", False),
        tied=content.get("tie_word_embeddings", kind == "gemma3_text"),
        attention_scale=None if scalar is None else scalar**-0.5,
        **more,
    )


def read_ropes(content: dict) -> dict:
    """The fields `rope` and `local_rope` from a config.json."""
    # i_modern_architectures.ipynb, "I.12 Families, as configurations"
    given = content.get("rope_parameters") or {}
    if "full_attention" in given:
        full, local = (read_one_rope(given[kind + "_attention"]) for kind in ("full", "sliding"))
        return {"rope": full, "local_rope": local}
    older = {"rope_theta": content.get("rope_theta", 10_000.0)} | (
        content.get("rope_scaling") or {}
    )
    local = content.get("rope_local_base_freq")
    return {
        "rope": read_one_rope(given or older),
        "local_rope": None if local is None else Rope(float(local)),
    }


# i_modern_architectures.ipynb, "I.12 Families, as configurations"
PUBLISHED_ROPES = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "beta_slow", "beta_fast"),
}


def read_one_rope(given: dict) -> Rope:
    """One set of turning speeds. Raises: ValueError for a scaling that is not computed here."""
    # i_modern_architectures.ipynb, "I.12 Families, as configurations"
    kind = given.get("rope_type", given.get("type", "default"))
    usual = {"partial_rotary_factor": 1.0, "attention_factor": None, "truncate": True}
    usual |= {"mscale": None, "mscale_all_dim": None}
    if kind not in PUBLISHED_ROPES or any(
        given.get(n, v) not in (v, None) for n, v in usual.items()
    ):
        raise ValueError(
            f"config.json asks for rope {given}; expected {', '.join(PUBLISHED_ROPES)}."
        )
    names = [*PUBLISHED_ROPES[kind]]
    names += ["original_max_position_embeddings"] if len(names) > 1 else []
    found = {"beta_slow": 1.0, "beta_fast": 32.0} | given
    if missing := [name for name in names if found.get(name) is None]:
        raise ValueError(f"config.json asks for rope {given} and does not say {missing}.")
    base = float(given.get("rope_theta", 10_000.0))
    return Rope(base, "none" if kind == "default" else kind, *(found[name] for name in names))


def read_layer_windows(content: dict) -> dict:
    """The fields `window` and `global_layers` from a config.json."""
    # i_modern_architectures.ipynb, "I.12 Families, as configurations"
    window, layers = content.get("sliding_window"), range(content["num_hidden_layers"])
    kind, types = content["model_type"], content.get("layer_types")
    if kind in ("llama", "olmo2") or window is None:
        return {}
    if kind != "gemma3_text" and not content.get("use_sliding_window", False):
        return {}
    if types is not None:
        everything = [i for i in layers if types[i] == "full_attention"]
    elif kind == "gemma3_text":
        every = content.get("sliding_window_pattern", 6)
        everything = [i for i in layers if (i + 1) % every == 0]
    else:
        everything = [i for i in layers if i < content.get("max_window_layers", 0)]
    return {"window": window, "global_layers": tuple(everything)}


def read_experts(content: dict) -> dict:
    """The fields of a mixture of experts from a config.json."""
    # i_modern_architectures.ipynb, "I.12 Families, as configurations"
    return {
        "num_experts": content.get("num_experts") or content["num_local_experts"],
        "experts_per_token": content["num_experts_per_tok"],
        "renormalise": content.get("norm_topk_prob", False),
    }


def check_published_config(content: dict) -> None:
    """Raise ValueError if a config.json describes a model that `ModernModel` does not compute."""
    # i_modern_architectures.ipynb, "I.12 Families, as configurations"
    kind = content.get("model_type")
    if kind not in MODEL_FAMILIES:
        hint = " Of gemma3, only the text models are read." if kind == "gemma3" else ""
        raise ValueError(f"model_type={kind!r}, expected one of {', '.join(MODEL_FAMILIES)}.{hint}")
    bend = "gelu_pytorch_tanh" if kind == "gemma3_text" else "silu"
    usual = {"hidden_act": bend, "hidden_activation": bend, "mlp_bias": False}
    usual |= {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    usual |= {"use_bidirectional_attention": False, "decoder_sparse_step": 1}
    other = [n for n, value in usual.items() if content.get(n, value) not in (value, None)]
    other += ["mlp_only_layers"] if content.get("mlp_only_layers") else []
    if other:
        found = ", ".join(f"{n}={content[n]!r} (expected {usual.get(n, [])!r})" for n in other)
        raise ValueError(f"config.json describes a {kind} of another kind: {found}.")
    names = [*PUBLISHED_SIZES, "intermediate_size"]
    names += ["moe_intermediate_size", "num_experts_per_tok"] if kind == "qwen3_moe" else []
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"config.json does not say {missing}: is it a {kind}'s?")


# i_modern_architectures.ipynb, "I.13 Loading what is published"
PUBLISHED_PARTS = {
    "token_embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "output_head": "lm_head",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "feed_forward.router": "mlp.gate",
    "norm1": "input_layernorm",
    "after1": "post_attention_layernorm",
    "after2": "post_feedforward_layernorm",
}


def published_name(ours: str, config: ModernConfig) -> str:
    """What a parameter of `ModernModel` is called in published files.

    Raises: ValueError for a part that no published family has.

    Example:
        >>> published_name("blocks.3.feed_forward.experts.7.up.weight", config)
        'model.layers.3.mlp.experts.7.up_proj.weight'
    """
    # i_modern_architectures.ipynb, "I.13 Loading what is published"
    found = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(weight|bias)", ours)
    layer, part, kind = found.groups() if found else (None, ours, "")
    norm2 = (
        "post_attention_layernorm" if config.norm_place == "pre" else "pre_feedforward_layernorm"
    )
    theirs = (PUBLISHED_PARTS | {"norm2": norm2}).get(part)
    if wide := re.fullmatch(r"feed_forward\.(experts\.\d+\.)?(gate|up|down)", part):
        theirs = f"mlp.{wide[1] or ''}{wide[2]}_proj"
    if theirs is None:
        raise ValueError(f"{ours!r} is no part of a published family.")
    return f"{'' if layer is None else f'model.layers.{layer}.'}{theirs}.{kind}"


def published_files(name_or_folder: str | Path) -> tuple[dict, dict[str, Path]]:
    """The content of config.json, and for each tensor's name the file that holds it.

    Raises:
        FileNotFoundError: a file is missing in the folder, or it is no name of a model.
        DownloadError: the hub cannot be reached, or lacks a file.
        ValueError: a file is damaged.
    """
    # i_modern_architectures.ipynb, "I.13 Loading what is published"
    find = model_file_finder(name_or_folder)
    try:
        content = json.loads(find("config.json").read_text(encoding="utf-8"))
        index = shard_index(find)
        if index is None:
            single = find("model.safetensors")
            with safe_open(single, framework="pt") as file:
                return content, dict.fromkeys(file.keys(), single)
        shards = {name: find(name) for name in sorted(set(index.values()))}
    except (
        json.JSONDecodeError,
        UnicodeError,
        SafetensorError,
        LookupError,
        AttributeError,
    ) as error:
        raise ValueError(
            f"{name_or_folder} holds a damaged file: {error!r}. Fetch the model again."
        ) from None
    return content, {tensor: shards[name] for tensor, name in index.items()}


def model_file_finder(name_or_folder: str | Path) -> Callable[[str], Path]:
    """A function that gives the path of a model's file by its name. Raises: `published_files`."""
    # i_modern_architectures.ipynb, "I.13 Loading what is published"
    folder, repo = Path(name_or_folder).expanduser(), str(name_or_folder)
    if not folder.is_dir() and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", repo):
        raise FileNotFoundError(
            f"{name_or_folder} is neither a folder nor a model's name; expected OWNER/NAME on the "
            "Hugging Face hub, or a folder with config.json and safetensors files."
        )

    def find(name: str) -> Path:
        if Path(name).name != name:
            raise ValueError(f"the index names the file {name!r}; expected one in the same folder.")
        if folder.is_dir():
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} holds no {name}; load_modern needs it.")
            return folder / name
        return hub_file(repo, name, advice="load_modern takes a folder with the files, too.")

    return find


def shard_index(find: Callable[[str], Path]) -> dict[str, str] | None:
    """Which file holds which tensor; None if the model lies in a single file."""
    # i_modern_architectures.ipynb, "I.13 Loading what is published"
    try:
        path = find("model.safetensors.index.json")
    except (FileNotFoundError, DownloadError):
        return None
    return json.loads(path.read_text(encoding="utf-8"))["weight_map"]


def check_published(model: ModernModel, files: dict[str, Path]) -> dict[str, str]:
    """Our name for each tensor of the files, after comparing all names and shapes.

    Raises: ValueError: tensors are missing, unknown, or of another shape; the first few of each.
    """
    # i_modern_architectures.ipynb, "I.13 Loading what is published"
    wanted = {published_name(name, model.config): name for name in model.state_dict()}
    spare = {"lm_head.weight"} if model.config.tied else set()
    unknown = [n for n in files if n not in wanted and n not in spare and "rotary_emb" not in n]
    missing, other = [name for name in wanted if name not in files], []
    shapes = {ours: tuple(p.shape) for ours, p in model.state_dict().items()}
    for path in set(files.values()):
        with safe_open(path, framework="pt") as file:
            inside = set(file.keys())
            for theirs in (n for n in wanted if files.get(n) == path):
                if theirs not in inside:
                    missing.append(f"{theirs} (the index says it is in {path.name})")
                elif (found := tuple(file.get_slice(theirs).get_shape())) != shapes[wanted[theirs]]:
                    other.append(f"{theirs} {found}, expected {shapes[wanted[theirs]]}")
    problems = {"missing": missing, "unknown": unknown, "of another shape": other}
    if any(problems.values()):
        told = "; ".join(
            f"{len(n)} {what}: {', '.join(n[:3])}" for what, n in problems.items() if n
        )
        raise ValueError(f"the files do not fit config.json. Tensors {told}.")
    return wanted


def read_in_pieces(
    path: Path, name: str, dtype: torch.dtype | None, piece: int = 1 << 22
) -> Tensor:
    """A tensor from a safetensors file in memory of its own, copied in pieces of so many bytes.

    Raises: SafetensorError for a damaged file.
    """
    # i_modern_architectures.ipynb, "I.13 Loading what is published"
    with safe_open(path, framework="pt") as file:
        part = file.get_slice(name)
        shape, kind = part.get_shape(), part[:1].dtype
    whole = torch.empty(shape, dtype=dtype or kind)
    rows = max(1, piece // max(1, kind.itemsize * math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        with safe_open(path, framework="pt") as file:
            whole[start : start + rows] = file.get_slice(name)[start : start + rows]
    return whole


def load_modern(name_or_folder: str | Path, dtype: torch.dtype | None = None) -> ModernModel:
    """A published Llama 3, Qwen3 (dense or experts), Gemma 3 (text) or OLMo 2, by name or folder.

    Numbers keep the type of the files unless `dtype` names another. Runs no code from the files.
    Takes about the weights' own memory, and one piece more.

    Raises:
        FileNotFoundError, DownloadError: as `published_files`.
        ValueError: damaged files, another family, or tensors that do not fit.

    Example:
        >>> model = load_modern("Qwen/Qwen3-0.6B", torch.float32)
    """
    # i_modern_architectures.ipynb, "I.13 Loading what is published"
    content, files = published_files(name_or_folder)
    try:
        with torch.device("meta"):
            model = ModernModel(modern_config(content))
        for theirs, ours in check_published(model, files).items():
            owner, _, kind = ours.rpartition(".")
            tensor = nn.Parameter(read_in_pieces(files[theirs], theirs, dtype))
            setattr(model.get_submodule(owner), kind, tensor)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{name_or_folder} cannot be loaded: {error}") from None
    return model.eval()


# i_modern_architectures.ipynb, "I.13 Loading what is published"
LOADING_CHILD = """
import json, sys, torch
from shared.appendices import load_modern
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
with torch.device("meta"):  # its first use imports much of PyTorch: not the weights' doing
    torch.nn.Embedding(1, 1)
base = status("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark starts anew
model = load_modern(sys.argv[1])
weights = sum(p.numel() * p.element_size() for p in model.parameters())
peak, after = (status(key) - base for key in ("VmHWM", "VmRSS"))
print(json.dumps({"weights": weights, "peak": peak, "after": after}))
"""


def loading_memory(folder: str | Path) -> dict[str, int]:
    """Bytes that a fresh process needs to load a model, above what it had: `peak` and `after`.

    Beside them `weights`, what the numbers themselves take. On Linux only.

    Raises: OSError: not on Linux. RuntimeError: the loading failed; with its error.
    """
    # i_modern_architectures.ipynb, "I.13 Loading what is published"
    if not sys.platform.startswith("linux"):
        raise OSError(f"the peak of a process is read from /proc, which {sys.platform} has not.")
    command = [sys.executable, "-c", LOADING_CHILD, str(folder)]
    root = str(Path(shared.__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    if done.returncode:
        raise RuntimeError(f"loading {folder} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def modern_cache_bytes(config: ModernConfig, tokens: int, bytes_per_number: int = 2) -> int:
    """Bytes of keys and values that a text of so many tokens leaves in a model's memory.

    A layer with a window keeps at most `window` tokens, the one being read among them.

    Example:
        >>> modern_cache_bytes(modern_config(llama_8b), tokens=1)
        131072
    """
    # i_modern_architectures.ipynb, "I.14 What a long text costs each family"
    windows = (layer_window(config, layer) for layer in range(config.num_layers))
    kept = sum(tokens if window is None else min(window, tokens) for window in windows)
    return 2 * config.num_kv_heads * config.head_dim * kept * bytes_per_number


# --------------------------------------------------------------------------------------------------
# Appendix J · Scaling: what more costs, and what it buys
# j_scaling/j_scaling.ipynb
# --------------------------------------------------------------------------------------------------


def training_flops(config: GPTConfig, num_tokens: float, text_length: int | None = None) -> float:
    """FLOPs to train on `num_tokens`, in texts of `text_length` (by default, full ones).

    The exact count of all matrix products, forward and backward; nothing is computed twice.

    Raises:
        ValueError: `num_tokens` below 1, or a `text_length` that is not 1 to context_length.

    Example:
        >>> f"{training_flops(GPT2_CONFIGS['gpt2'], 1e9):.3g}"
        '8.54e+17'
    """
    # j_scaling.ipynb, "J.1 What does a training run cost?"
    length = config.context_length if text_length is None else text_length
    if num_tokens < 1 or not 1 <= length <= config.context_length:
        raise ValueError(
            f"num_tokens={num_tokens}, text_length={length}: expected 1 or more tokens, in texts "
            f"of 1 to context_length={config.context_length} tokens. Long texts: cut them first."
        )
    return 3 * num_tokens * sum(flop_ledger(config, length).values())


def multiplying_weights(config: GPTConfig) -> int:
    """How many numbers stand in matrices that every token is multiplied by: blocks and head.

    Example:
        >>> multiplying_weights(GPTConfig(10, 8, embed_dim=4, num_heads=2, num_layers=3))
        616
    """
    # j_scaling.ipynb, "J.1 What does a training run cost?"
    head = parameter_ledger(config)["token embedding"]  # tied: the head is the same matrix
    return head + config.num_layers * 12 * config.embed_dim**2


def step_peak_bytes(
    config: GPTConfig, batch_size: int, num_tokens: int | None = None, bytes_per_number: int = 4
) -> dict[str, int]:
    """Bytes at the fullest moment of a training step with AdamW, by purpose.

    The fullest moment is either the turn from forward to backward, or the end of the backward
    pass, when all gradients are there. Gradients of the last step are given back before.
    """
    # j_scaling.ipynb, "J.2 Does it fit? Memory"
    ledger = memory_ledger(config, batch_size, num_tokens, bytes_per_number)
    table = bytes_per_number * parameter_ledger(config)["token embedding"]
    turn = ledger["activations"] + 3 * ledger["log-probabilities"]
    end = ledger["gradients"] + 2 * table
    return {
        "weights": ledger["parameters"],
        "AdamW's averages": ledger["AdamW's averages"],
        "turning point": turn if turn >= end else 0,
        "gradients": end if end > turn else 0,
    }


class RooflineCase(NamedTuple):
    """A piece of work with its counts; bytes: inputs read once, results written once."""

    # j_scaling.ipynb, "J.3 What can your machine do?"

    name: str
    flops: int
    num_bytes: int
    work: Callable[[], object]

    @property
    def intensity(self) -> float:
        """FLOPs for each byte."""
        return self.flops / self.num_bytes


def matrix_case(name: str, rows: int, inner: int, columns: int, copies: int = 1) -> RooflineCase:
    """(rows, inner) times (inner, columns), for `copies` different matrices."""
    # j_scaling.ipynb, "J.3 What can your machine do?"
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inner, generator=dice)
    matrices = [torch.randn(inner, columns, generator=dice) for _ in range(copies)]
    numbers = rows * inner + inner * columns + rows * columns
    flops = copies * 2 * rows * inner * columns
    return RooflineCase(name, flops, copies * 4 * numbers, lambda: [x @ m for m in matrices])


def attention_case(name: str, queries: int, keys: int, heads: int, copies: int) -> RooflineCase:
    """Attention with heads of 64 numbers, for `copies` texts of their own; all pairs."""
    # j_scaling.ipynb, "J.3 What can your machine do?"
    dice = torch.Generator().manual_seed(0)
    draw = lambda tokens: torch.randn(1, heads, tokens, 64, generator=dice)
    texts = [(draw(queries), draw(keys), draw(keys)) for _ in range(copies)]
    flops = copies * 4 * heads * queries * keys * 64
    num_bytes = copies * 4 * heads * 64 * 2 * (queries + keys)
    work = lambda: [F.scaled_dot_product_attention(*text) for text in texts]
    return RooflineCase(name, flops, num_bytes, work)


def elementwise_case(name: str, rows: int, dim: int, copies: int) -> RooflineCase:
    """A "LayerNorm", or anything else: x + y, over `copies` pairs of tables of their own."""
    # j_scaling.ipynb, "J.3 What can your machine do?"
    tables = [(torch.ones(rows, dim), torch.ones(rows, dim)) for _ in range(copies)]
    count = copies * rows * dim
    if name == "LayerNorm":
        work = lambda: [F.layer_norm(x, (dim,)) for x, _ in tables]
        return RooflineCase(name, 8 * count, 8 * count, work)
    return RooflineCase(name, count, 12 * count, lambda: [x + y for x, y in tables])


def gpt_cases() -> list[RooflineCase]:
    """The parts of a GPT-2 with 12 heads, training and writing, in 32-bit numbers."""
    # j_scaling.ipynb, "J.3 What can your machine do?"
    return [
        matrix_case("matrix product 1024³", 1024, 1024, 1024),
        matrix_case("feed-forward, 1,024 tokens", 1024, 768, 3072),
        attention_case("attention, 4 × 256 tokens", 256, 256, 12, copies=4),
        elementwise_case("LayerNorm", 1024, 768, copies=12),
        elementwise_case("residual addition", 1024, 768, copies=12),
        matrix_case("writing, 1 reader", 1, 768, 3072, copies=12),
        matrix_case("writing, 16 readers", 16, 768, 3072, copies=12),
        attention_case("KV cache, 1 reader", 1, 1024, 12, copies=12),
    ]


def fastest_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The fewest seconds that `work` took, after one round unseen."""
    # j_scaling.ipynb, "J.3 What can your machine do?"
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a GPU works on after Python has gone ahead
        times.append(time.perf_counter() - start)
    return min(times[1:])


def machine_limits(repeats: int = 5) -> dict[str, float]:
    """Measured FLOP/s of the best matrix product, and bytes per second from memory."""
    # j_scaling.ipynb, "J.3 What can your machine do?"
    products = [matrix_case("product", size, size, size) for size in (512, 1024, 2048)]
    flops = max(case.flops / fastest_seconds(case.work, repeats) for case in products)
    x, y, result = (torch.ones(4096, 4096) for _ in range(3))  # 64 MiB each
    seconds = fastest_seconds(lambda: torch.add(x, y, out=result), repeats)
    return {"flops": flops, "bandwidth": 3 * x.nbytes / seconds}


def measured_cases(cases: Sequence[RooflineCase], repeats: int = 5) -> list[dict]:
    """Each case's intensity, and the FLOP/s that it reached."""
    # j_scaling.ipynb, "J.3 What can your machine do?"
    return [
        {
            "name": c.name,
            "intensity": c.intensity,
            "flops": c.flops / fastest_seconds(c.work, repeats),
        }
        for c in cases
    ]


def model_flops_utilisation(flops: float, seconds: float, peak: float) -> float:
    """Share of a machine's peak FLOP/s that went into FLOPs which the model needs.

    Raises:
        ValueError: a number that is not above 0.

    Example:
        >>> model_flops_utilisation(flops=3e12, seconds=2, peak=5e12)
        0.3
    """
    # j_scaling.ipynb, "How much of that does training use?"
    if min(flops, seconds, peak) <= 0:
        raise ValueError(f"flops={flops}, seconds={seconds}, peak={peak}: expected all above 0.")
    return flops / seconds / peak


def step_seconds(config: GPTConfig, batch_size: int, num_tokens: int, repeats: int = 5) -> float:
    """Fewest seconds of a training step with chapter 5's optimisers, on random tokens."""
    # j_scaling.ipynb, "How much of that does training use?"
    dice = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (batch_size, num_tokens + 1), generator=dice)
    model = GPTModel(config, seed=0)
    optimizers, batch = build_optimizers(model, Recipe()), (ids[:, :-1], ids[:, 1:])
    return fastest_seconds(lambda: training_step(model, optimizers, [batch], 1.0), repeats)


def measured_utilisation(width: int, peak: float, repeats: int = 5) -> float:
    """MFU of a step of a two-layer GPT of this width, on 1,024 tokens."""
    # j_scaling.ipynb, "How much of that does training use?"
    config = GPTConfig(1024, 256, width, num_heads=4, num_layers=2)
    seconds = step_seconds(config, batch_size=8, num_tokens=128, repeats=repeats)
    return model_flops_utilisation(training_flops(config, 1024, 128), seconds, peak)


# j_scaling.ipynb, "On a GPU"
# Dense bfloat16 FLOP/s, for the first of these that is part of the device's name.
GPU_PEAKS = {
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,  # SXM; half of the 1,979 that the sheet gives "with sparsity"
    "A100": 312e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "T4": 65e12,  # float16: this card has no bfloat16
}


def known_peak_flops(device_name: str) -> float:
    """A GPU's peak for dense 16-bit products, by its name as PyTorch gives it.

    Raises:
        ValueError: a device that is not in GPU_PEAKS.

    Source: NVIDIA's data sheets of these products.
    """
    # j_scaling.ipynb, "On a GPU"
    words = f" {device_name.replace('-', ' ')} "
    for name, peak in GPU_PEAKS.items():
        if f" {name} " in words:
            return peak
    known = ", ".join(GPU_PEAKS)
    raise ValueError(f"{device_name!r} is not among {known}: measure it with machine_limits().")


# j_scaling.ipynb, "Small runs, all alike"
# The runs of the scaling law: what all of them share.
LAW_VOCAB, LAW_CONTEXT, LAW_LAYERS = 1024, 256, 2
LAW_LENGTH = 109  # tokens of the story in which an average token stands


def law_config(embed_dim: int) -> GPTConfig:
    """The model of this width."""
    # j_scaling.ipynb, "Small runs, all alike"
    return GPTConfig(LAW_VOCAB, LAW_CONTEXT, embed_dim, num_heads=4, num_layers=LAW_LAYERS)


def tokens_for(embed_dim: int, flops: float) -> int:
    """How many tokens a model of this width can read for so many FLOPs of training."""
    # j_scaling.ipynb, "Small runs, all alike"
    return round(flops / training_flops(law_config(embed_dim), 1, LAW_LENGTH))


def law_recipe(embed_dim: int, num_tokens: int, seed: int = 0, rates: float = 2.0) -> StoryRecipe:
    """How a run of the scaling law is trained; `rates` times chapter 5's learning rates."""
    # j_scaling.ipynb, "Small runs, all alike"
    usual = Recipe()
    training = Recipe(
        matrix_rate=rates * usual.matrix_rate,
        table_rate=rates * usual.table_rate,
        vector_rate=rates * usual.vector_rate,
        seed=seed,
    )
    sizes = dict(vocab_size=LAW_VOCAB, context_length=LAW_CONTEXT, num_layers=LAW_LAYERS)
    batches = dict(tokens_per_batch=round(1.25 * num_tokens**0.5), batch_growth=1.0, curriculum=())
    return StoryRecipe(
        embed_dim=embed_dim,
        total_tokens=num_tokens,
        seed=seed,
        training=training,
        **sizes,
        **batches,
    )


@cache
def law_exam(count: int = 400) -> tuple[Story, ...]:
    """The held-out stories on which all runs are measured."""
    # j_scaling.ipynb, "Small runs, all alike"
    return tuple(islice(stories(5, "validation"), count))


@cache
def law_floor() -> float:
    """The teller's own nats per token on the exam: no model of the stories can do better."""
    # j_scaling.ipynb, "Small runs, all alike"
    asked = sum(len(row) - 1 for row in story_rows(law_exam(), trial_tokenizer(LAW_VOCAB)))
    return -sum(story.log_prob for story in law_exam()) / asked


def law_run(embed_dim: int, num_tokens: int, seed: int = 0, rates: float = 2.0) -> dict:
    """Train once; what it cost by the exact count, and its loss on the exam in nats per token."""
    # j_scaling.ipynb, "Small runs, all alike"
    tokenizer, recipe = trial_tokenizer(LAW_VOCAB), law_recipe(embed_dim, num_tokens, seed, rates)
    model, batches = new_story_model(recipe), StoryBatches(tokenizer, recipe)
    with contextlib.redirect_stdout(io.StringIO()):  # no progress bar
        history = pretrain(model, batches, recipe.training, watch_every=10**9)
    asked = sum(len(row) - 1 for row in story_rows(law_exam(), tokenizer))
    tokens = history.steps[-1]["tokens"]
    return {
        "weights": multiplying_weights(model.config),
        "tokens": tokens,
        "flops_used": training_flops(model.config, tokens, LAW_LENGTH),
        "steps": len(history.steps),
        "loss": story_nats(model, tokenizer, law_exam()) / asked,
    }


@dataclass(frozen=True)
class LossLaw:
    """Loss = E + A / N**alpha + B / D**beta, for N weights and D tokens.

    Source: Hoffmann et al. (2022), "Training Compute-Optimal Large Language Models", 3.3.
    """

    # j_scaling.ipynb, "One curve through all runs"

    irreducible: float  # E: the best possible loss
    size: float  # A
    size_power: float  # alpha
    data: float  # B
    data_power: float  # beta

    def loss(self, weights: float, tokens: float) -> float:
        """The loss that the law foretells; also for arrays."""
        missing_size = self.size * weights**-self.size_power
        return self.irreducible + missing_size + self.data * tokens**-self.data_power


def solve_for_powers(
    powers: Tensor, weights: Tensor, tokens: Tensor, losses: Tensor, irreducible: float | None
) -> tuple[Tensor, Tensor]:
    """For each pair of powers the best E, A, B, and the mean squared relative error.

    Shape:
        powers: (pairs, 2); weights, tokens, losses: (runs,); results: (pairs, 3) and (pairs,).
    """
    # j_scaling.ipynb, "One curve through all runs"
    columns = [weights ** -powers[:, :1], tokens ** -powers[:, 1:]]  # each (pairs, runs)
    if irreducible is None:
        columns.insert(0, torch.ones_like(columns[0]))
    design = torch.stack(columns, dim=2) / losses[:, None]  # (pairs, runs, columns)
    target = 1 - (irreducible or 0.0) / losses  # both sides over the loss: relative errors
    normal = design.mT @ design
    found = torch.linalg.solve(normal, design.mT @ target[:, None]).squeeze(2)
    errors = (design @ found[:, :, None]).squeeze(2) - target
    errors = errors.square().mean(1).masked_fill((found <= 0).any(1), math.inf)
    if irreducible is not None:
        found = torch.cat([torch.full_like(found[:, :1], irreducible), found], dim=1)
    return found, errors


def best_powers(
    weights: Tensor, tokens: Tensor, losses: Tensor, irreducible: float | None
) -> tuple[list[float], list[float]]:
    """The best pair of powers between 0.02 and 2, and the E, A, B that go with it.

    Raises:
        ValueError: no law with positive terms fits.
    """
    # j_scaling.ipynb, "One curve through all runs"
    middle, reach = torch.tensor([1.0, 1.0], dtype=torch.float64), 0.96
    for _ in range(12):  # each looks three times as closely as the one before
        steps = torch.linspace(-reach, reach, 17, dtype=torch.float64)
        powers = (middle + torch.cartesian_prod(steps, steps)).clamp(min=0.02)
        found, errors = solve_for_powers(powers, weights, tokens, losses, irreducible)
        best = int(errors.argmin())
        middle, reach = powers[best], reach / 3
    if not torch.isfinite(errors[best]):
        raise ValueError("no law with positive E, A and B fits: vary sizes and tokens more.")
    return middle.tolist(), found[best].tolist()


def fit_loss_law(
    weights: Sequence[float],
    tokens: Sequence[float],
    losses: Sequence[float],
    irreducible: float | None = None,
) -> LossLaw:
    """The law with the least mean squared relative error; with `irreducible`, E is held there.

    Raises:
        ValueError: fewer runs than the law has unknowns, one that is no run, or no law with
            positive terms fits.
    """
    # j_scaling.ipynb, "One curve through all runs"
    n, d, y = (torch.as_tensor(list(v), dtype=torch.float64) for v in (weights, tokens, losses))
    if not len(n) == len(d) == len(y) >= (5 if irreducible is None else 4):
        raise ValueError(f"{len(n)} sizes, {len(d)} tokens, {len(y)} losses: give 5 runs or more.")
    if not all((v > 0).all() and v.isfinite().all() for v in (n, d, y)):
        raise ValueError("a size, a number of tokens or a loss is not above 0, or not finite.")
    units = n.log().mean().exp(), d.log().mean().exp()
    (alpha, beta), (e, a, b) = best_powers(n / units[0], d / units[1], y, irreducible)
    return LossLaw(e, a * units[0].item() ** alpha, alpha, b * units[1].item() ** beta, beta)


def bootstrap_laws(
    weights: Sequence[float],
    tokens: Sequence[float],
    losses: Sequence[float],
    irreducible: float | None = None,
    count: int = 200,
    seed: int = 0,
) -> list[LossLaw]:
    """Fits to runs drawn again with replacement. Draws to which no law fits are passed over."""
    # j_scaling.ipynb, "Our runs"
    table = torch.tensor([list(weights), list(tokens), list(losses)], dtype=torch.float64)
    dice, laws = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        drawn = table[:, torch.randint(table.shape[1], (table.shape[1],), generator=dice)]
        with contextlib.suppress(ValueError):
            laws.append(fit_loss_law(*drawn, irreducible))
    return laws


def best_width(law: LossLaw, flops: float, widths: Sequence[int] = range(8, 257, 8)) -> int:
    """The width at which the law foretells the lowest loss for so many FLOPs."""
    # j_scaling.ipynb, "A forecast, written down before"
    foretold = {
        width: law.loss(multiplying_weights(law_config(width)), tokens_for(width, flops))
        for width in widths
    }
    return min(foretold, key=foretold.get)


def foretell(
    law: LossLaw, others: Sequence[LossLaw], runs: Sequence[dict], embed_dim: int, flops: float
) -> dict[str, float]:
    """The loss that `law` foretells for a new run, and the bounds of 95 % of what it may be.

    `others` are fits to resampled `runs`; each is drawn together with one run's own distance.
    """
    # j_scaling.ipynb, "A forecast, written down before"
    at = multiplying_weights(law_config(embed_dim)), tokens_for(embed_dim, flops)
    distances = [run["loss"] / law.loss(run["weights"], run["tokens"]) for run in runs]
    dice = torch.Generator().manual_seed(1)
    which = torch.randint(len(distances), (len(others),), generator=dice).tolist()
    drawn = [other.loss(*at) * distances[i] for other, i in zip(others, which, strict=True)]
    low, high = torch.tensor(drawn, dtype=torch.float64).quantile(
        torch.tensor([0.025, 0.975], dtype=torch.float64)
    )
    return {"loss": law.loss(*at), "low": low.item(), "high": high.item()}


@dataclass(frozen=True)
class Accelerator:
    """A machine to train on: what its maker says of it."""

    # j_scaling.ipynb, "J.5 What would it cost?"

    name: str
    peak_flops: float  # per second, dense, in the number format that you train in
    memory_bytes: float
    watts: float  # at full work


# j_scaling.ipynb, "J.5 What would it cost?"
# From NVIDIA's data sheets of the SXM cards.
A100 = Accelerator("A100", GPU_PEAKS["A100"], 80e9, 400)
H100 = Accelerator("H100", GPU_PEAKS["H100"], 80e9, 700)


def training_memory(config: GPTConfig, machine: Accelerator, texts: int = 1) -> dict[str, float]:
    """Bytes to train in mixed precision, and the fewest machines that hold them.

    Raises:
        ValueError: the activations of so many texts do not fit into one machine.
    """
    # j_scaling.ipynb, "J.5 What would it cost?"
    ledger = memory_ledger(config, texts, bytes_per_number=2)
    activations = ledger["activations"] + 2 * 3 * ledger["log-probabilities"]  # these: 4 bytes
    shared = 16 * sum(parameter_ledger(config).values())
    room = 0.9 * machine.memory_bytes - activations
    if room <= 0:
        raise ValueError(
            f"texts={texts}: activations take {activations / 1e9:.1f} GB, but a {machine.name} has "
            f"{machine.memory_bytes / 1e9:.0f} GB: take fewer texts at a time, or recompute (J.2)."
        )
    return {
        "bytes to share": shared,
        "activation bytes": activations,
        "machines": math.ceil(shared / room),
    }


def cost_sheet(
    config: GPTConfig,
    num_tokens: float,
    machine: Accelerator,
    *,
    mfu: float,
    euros_per_hour: float,
    overhead: float = 1.0,
    texts: int = 1,
) -> dict[str, float]:
    """What it costs to train on `num_tokens`; hours and euros are summed over all machines.

    Each works on `texts` full texts at a time. Raises: ValueError as `check_prices`,
    `training_flops` and `training_memory`. Source of the 16 bytes: Rajbhandari et al. (2020), 3.1.
    """
    # j_scaling.ipynb, "J.5 What would it cost?"
    check_prices(mfu, euros_per_hour, overhead)
    flops = training_flops(config, num_tokens)
    hours = flops / (machine.peak_flops * mfu) / 3600
    money = {"euros": hours * euros_per_hour, "kWh": hours * machine.watts * overhead / 1000}
    sizes = {"parameters": sum(parameter_ledger(config).values()), "tokens": num_tokens}
    work = {"FLOPs": flops, "machine hours": hours}
    return sizes | work | money | training_memory(config, machine, texts)


def check_prices(mfu: float, euros_per_hour: float, overhead: float) -> None:
    """Raises: ValueError, if one of a cost sheet's inputs cannot be what it is said to be."""
    # j_scaling.ipynb, "J.5 What would it cost?"
    if not 0 < mfu <= 1 or euros_per_hour < 0 or overhead < 1:
        raise ValueError(
            f"mfu={mfu}, euros_per_hour={euros_per_hour}, overhead={overhead}: expected an mfu "
            "above 0 and up to 1, a price of 0 or more, and an overhead of 1 or more."
        )


def filled_shards(
    pieces: Iterable[Sequence[int]], vocab_size: int, tokens_per_shard: int
) -> Iterator[np.ndarray]:
    """Arrays of `tokens_per_shard` ids, in order, from pieces of any length; the last is shorter.

    They are uint16 where the vocabulary fits into it, uint32 otherwise, lowest byte first.

    Raises:
        ValueError: an id is not in the vocabulary, or `tokens_per_shard` is below 1.
    """
    # j_scaling.ipynb, "Files of numbers, and a sheet"
    if tokens_per_shard < 1:
        raise ValueError(f"tokens_per_shard={tokens_per_shard}, expected 1 or more.")
    dtype, kept, count = "<u2" if vocab_size <= 2**16 else "<u4", [], 0
    for piece in pieces:
        ids = np.asarray(piece, dtype=np.int64)
        if ids.size and not (0 <= ids.min() and ids.max() < vocab_size):
            raise ValueError(
                f"token ids from {ids.min()} to {ids.max()}, expected 0 to {vocab_size - 1}: give "
                "the vocab_size of the tokenizer that made them."
            )
        kept, count = [*kept, ids.astype(dtype)], count + len(ids)
        if count >= tokens_per_shard:
            row = np.concatenate(kept)
            full = count - count % tokens_per_shard
            yield from row[:full].reshape(-1, tokens_per_shard)
            kept, count = [row[full:]], count - full
    if count:
        yield np.concatenate(kept)


# j_scaling.ipynb, "Files of numbers, and a sheet"
SHARD_FORMAT = "token shards 1"


def bytes_hash(ids: np.ndarray) -> str:
    """The SHA-256 of an array's bytes, as text: another one if any byte differs."""
    # j_scaling.ipynb, "Files of numbers, and a sheet"
    return hashlib.sha256(np.ascontiguousarray(ids)).hexdigest()


def write_token_shards(
    folder: str | Path, pieces: Iterable[Sequence[int]], vocab_size: int, tokens_per_shard: int
) -> dict:
    """Write token ids as files `tokens-00000.bin` … and a sheet `tokens.json`; return the sheet.

    Pieces come one by one and may be more than fit into memory. Each file is written whole or not
    at all, and the sheet last: without it, the files are no data set.

    Raises:
        ValueError: no ids, an id outside the vocabulary, or no room for a token in a shard.
        OSError: no space left.
    """
    # j_scaling.ipynb, "Files of numbers, and a sheet"
    folder, shards = Path(folder), []
    (folder / "tokens.json").unlink(missing_ok=True)  # of an older set, whose files now change
    for number, ids in enumerate(filled_shards(pieces, vocab_size, tokens_per_shard)):
        name = f"tokens-{number:05d}.bin"
        with written_whole(folder / name) as temporary:
            ids.tofile(temporary)
        shards.append({"file": name, "tokens": len(ids), "sha256": bytes_hash(ids)})
    if not shards:
        raise ValueError(f"no token ids for {folder}: the pieces are empty. Give some text.")
    sheet = {"format": SHARD_FORMAT, "dtype": ids.dtype.name, "vocab_size": vocab_size}
    with written_whole(folder / "tokens.json") as temporary:
        temporary.write_text(json.dumps(sheet | {"shards": shards}, indent=1) + "\n", "utf-8")
    return sheet | {"shards": shards}


def read_shard_sheet(folder: str | Path) -> dict:
    """The sheet of a folder of shards. Raises as `TokenShards`."""
    # j_scaling.ipynb, "Reading what is asked for"
    path = Path(folder) / "tokens.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the shards were never finished, or lie elsewhere. Write them with "
            "write_token_shards, or give their folder."
        )
    try:
        sheet = json.loads(path.read_text("utf-8"))
        if sheet["format"] != SHARD_FORMAT or sheet["dtype"] not in ("uint16", "uint32"):
            raise ValueError(f"format {sheet['format']!r}, type {sheet['dtype']!r}")
        if not sheet["vocab_size"] * sum(shard["tokens"] for shard in sheet["shards"]) > 0:
            raise ValueError("no tokens")
    except (ValueError, KeyError, TypeError) as error:
        found = f"{path} is no sheet of token shards ({error!r:.100})"
        raise ValueError(f"{found}. Write the shards again.") from None
    return sheet


def map_shards(folder: str | Path, sheet: dict) -> list[np.memmap]:
    """Each file of a sheet as an array, read where it is indexed. Raises as `TokenShards`."""
    # j_scaling.ipynb, "Reading what is asked for"
    dtype, maps = np.dtype(sheet["dtype"]).newbyteorder("<"), []
    for shard in sheet["shards"]:
        path, expected = Path(folder) / shard["file"], shard["tokens"] * dtype.itemsize
        size = path.stat().st_size if path.is_file() else 0
        if size != expected:
            raise ValueError(
                f"{path} has {size} bytes, expected {expected}: it is missing, cut off, or of "
                "another set. Copy or write the shards again."
            )
        maps.append(np.memmap(path, dtype, mode="r"))
    return maps


class TokenShards:
    """Token ids in files, read where they are asked for; `len()` of them in all.

    Raises:
        FileNotFoundError: there is no sheet.
        ValueError: the sheet is of something else, or a file has another length than it says.
    """

    # j_scaling.ipynb, "Reading what is asked for"

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.sheet = Path(folder), read_shard_sheet(folder)
        self.maps, self.vocab_size = map_shards(folder, self.sheet), self.sheet["vocab_size"]
        self.starts = np.cumsum([0, *map(len, self.maps)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, start: int, count: int) -> Tensor:
        """`count` ids from `start` on, across the borders of files. Shape: (count,), int64."""
        if not 0 <= start <= start + count <= len(self):
            raise IndexError(f"ids {start} to {start + count}, but there are {len(self)}.")
        first, last = np.searchsorted(self.starts, [start, start + count], "right") - 1
        nearby = zip(self.starts[first:], self.maps[first : last + 1], strict=False)
        parts = [ids[max(0, start - begin) : start + count - begin] for begin, ids in nearby]
        return torch.from_numpy(np.concatenate([*parts, []]).astype(np.int64))

    def check(self) -> None:
        """Read everything once. Raises: ValueError, naming the file whose bytes have changed."""
        for shard, ids in zip(self.sheet["shards"], self.maps, strict=True):
            if bytes_hash(ids) != shard["sha256"]:
                raise ValueError(
                    f"{self.folder / shard['file']} is damaged: its bytes are not those that were "
                    "written. Copy or write the shards again."
                )


def shuffled_place(place: int, count: int, key: str) -> int:
    """Where the card at `place` lies after a shuffle of `count` cards; `key` names the shuffle.

    Each card gets a place of its own, yet no list of them is ever made: four rounds, each of which
    stirs one half of the number's bits with the other half, can be undone, so no two cards meet.
    A result past the end is stirred again.

    Raises:
        ValueError: no such place.

    Source: Luby and Rackoff (1988), "How to Construct Pseudorandom Permutations"; Black and
    Rogaway (2002), "Ciphers with Arbitrary Finite Domains".

    Example:
        >>> sorted(shuffled_place(i, 5, "seed 0") for i in range(5))
        [0, 1, 2, 3, 4]
    """
    # j_scaling.ipynb, "A shuffle that you can ask for one card"
    if not 0 <= place < count:
        raise ValueError(f"place {place} among {count}, expected 0 to {count - 1}.")
    half = max(1, ((count - 1).bit_length() + 1) // 2)  # bits
    while True:
        left, right = place >> half, place % 2**half
        for turn in range(4):
            stirred = hashlib.blake2b(f"{key} {turn} {right}".encode(), digest_size=8).digest()
            left, right = right, left ^ int.from_bytes(stirred, "little") % 2**half
        place = left << half | right
        if place < count:
            return place


def rank_windows(
    windows: int, step: int, batch_size: int, seed: int = 0, rank: int = 0, num_ranks: int = 1
) -> list[int]:
    """The numbers of the windows that one rank reads at one step, of `windows` in all.

    Each pass over the text takes every window once, in an order of its own.

    Raises:
        ValueError: no windows or no such rank, or the batch cannot be shared evenly.
    """
    # j_scaling.ipynb, "A batch from three numbers"
    if windows < 1 or not 0 <= rank < num_ranks or batch_size < 1 or batch_size % num_ranks:
        raise ValueError(
            f"{windows} windows, batch_size={batch_size}, rank {rank} of {num_ranks}: expected at "
            "least one window, ranks from 0 on, and a batch_size that num_ranks divides."
        )
    own = batch_size // num_ranks
    first = step * batch_size + rank * own
    turns = [divmod(number, windows) for number in range(first, first + own)]
    return [shuffled_place(place, windows, f"{seed} {passes}") for passes, place in turns]


def rank_batch(
    shards: TokenShards, step: int, *, batch_size: int, context_length: int, **share: int
) -> Batch:
    """One rank's share of the batch of one step, computed from these numbers alone.

    The shares of all ranks, one after the other, are the batch that a single process would get.

    Args:
        share: seed, rank and num_ranks, as for `rank_windows`.

    Shape:
        inputs, targets: (batch_size / num_ranks, context_length), int64.

    Raises:
        ValueError: the text is shorter than a window; or as `rank_windows`.
    """
    # j_scaling.ipynb, "A batch from three numbers"
    windows = (len(shards) - 1) // context_length
    if windows < 1:
        raise ValueError(
            f"{len(shards)} tokens in {shards.folder}, expected at least {context_length + 1} for "
            f"context_length={context_length}: give more text, or a shorter context."
        )
    places = rank_windows(windows, step, batch_size, **share)
    ids = torch.stack([shards.read(i * context_length, context_length + 1) for i in places])
    return ids[:, :-1], ids[:, 1:]  # both (own rows, context_length)


def ring_all_reduce(
    vectors: Sequence[Tensor], turns: int | None = None
) -> tuple[list[Tensor], list[int]]:
    """The sum of all ranks' vectors at every rank, by messages to the next one only.

    Returns each rank's sum, and how many numbers each rank has sent. With `turns`, stop early.

    Shape:
        vectors: one a rank, all of one shape; results: the same.

    Raises:
        ValueError: no vectors, or of different shapes.

    Source: Patarasuk and Yuan (2009), "Bandwidth optimal all-reduce algorithms for clusters of
    workstations".
    """
    # j_scaling.ipynb, "How to add up without a centre"
    if not vectors or any(vector.shape != vectors[0].shape for vector in vectors):
        shapes = [tuple(vector.shape) for vector in vectors]
        raise ValueError(f"vectors of shapes {shapes}, expected one a rank, all of one shape.")
    ranks = len(vectors)
    pieces = [list(vector.flatten().tensor_split(ranks)) for vector in vectors]
    sent = [0] * ranks
    for turn in range(2 * (ranks - 1) if turns is None else turns):
        letters = [own[(rank - turn) % ranks] for rank, own in enumerate(pieces)]
        for rank, letter in enumerate(letters):
            sent[rank] += letter.numel()
            next_one, piece = pieces[(rank + 1) % ranks], (rank - turn) % ranks
            next_one[piece] = next_one[piece] + letter if turn < ranks - 1 else letter
    return [torch.cat(own).view_as(vectors[0]) for own in pieces], sent


def qkv_rank_order(embed_dim: int, num_heads: int, num_ranks: int) -> Tensor:
    """The order of a fused qkv matrix's rows in which each rank's rows lie together.

    A rank's rows are the queries, keys and values of its own heads, so that cutting the reordered
    matrix into `num_ranks` equal pieces gives every rank a small attention of its own.

    Shape:
        result: (3 * embed_dim,), every row's number once.

    Raises:
        ValueError: heads do not divide the width, or ranks do not divide the heads.

    Source: Shoeybi et al. (2019), "Megatron-LM", section 3.

    Example:
        >>> qkv_rank_order(embed_dim=4, num_heads=2, num_ranks=2).tolist()
        [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]
    """
    # j_scaling.ipynb, "Attention, and the trap in a fused matrix"
    if embed_dim % num_heads or num_heads % num_ranks:
        raise ValueError(
            f"embed_dim={embed_dim}, num_heads={num_heads}, num_ranks={num_ranks}: expected heads "
            "that divide the width, and ranks that divide the heads. Take fewer processes."
        )
    rows = torch.arange(3 * embed_dim).view(3, num_ranks, -1)  # q, k, v; ranks; rows of a rank
    return rows.transpose(0, 1).flatten()


# --------------------------------------------------------------------------------------------------
# Appendix K · Evaluation: what does a score say?
# k_evaluation/k_evaluation.ipynb
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextPrice:
    """What a model pays for a text: `nats`, for `tokens` tokens, which spell `num_bytes` bytes.

    Example:
        >>> TextPrice(nats=20.8, tokens=10, num_bytes=30).bits_per_byte
        1.0002...
    """

    # k_evaluation.ipynb, "K.1 What does a long text cost?"

    nats: float
    tokens: int
    num_bytes: int

    @property
    def perplexity(self) -> float:
        """Between how many equally likely tokens one would be as unsure."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """The same surprise, shared out over the bytes, in bits."""
        return self.nats / math.log(2) / self.num_bytes


def rolling_windows(
    num_ids: int, context_length: int, stride: int
) -> Iterator[tuple[int, int, int]]:
    """(start, first, stop) of each window: it holds ids[start:stop], and pays for those from first.

    Every id but the first is paid for once. A window has at most context_length + 1 ids, the last
    of them only as a target.

    Raises:
        ValueError: a stride below 1 or above the context.
    """
    # k_evaluation.ipynb, "Windows"
    if not 1 <= stride <= context_length:
        raise ValueError(f"stride={stride}, expected 1 to context_length={context_length}.")
    stop = 1
    while stop < num_ids:
        first, stop = stop, min(stop + (stride if stop > 1 else context_length), num_ids)
        yield max(0, stop - context_length - 1), first, stop


class RowPrice(NamedTuple):
    """What a model pays for each id of a row but the first, and whether it was the likeliest.

    Shape:
        nats, likeliest: (ids - 1,), float and bool.
    """

    # k_evaluation.ipynb, "Windows"

    nats: Tensor
    likeliest: Tensor


def price_rows(
    model: nn.Module, rows: Sequence[Sequence[int]], at_once: int = 32
) -> list[RowPrice]:
    """What the model pays for each row. Raises ValueError as `pad_rows`, or for an unknown id."""
    # k_evaluation.ipynb, "Windows"
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    device, priced = next(model.parameters()).device, [None] * len(rows)
    for group in (order[i : i + at_once] for i in range(0, len(order), at_once)):
        inputs, targets = pad_rows([rows[i] for i in group])
        with evaluating(model):
            logits = model(inputs.to(device)).float().cpu()  # (rows, tokens, vocab_size)
        flat, hits = logits.flatten(0, 1), logits.argmax(-1) == targets
        nats = F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="none")
        for i, paid, hit in zip(group, nats.view(targets.shape), hits, strict=True):
            priced[i] = RowPrice(paid[: len(rows[i]) - 1], hit[: len(rows[i]) - 1])
    return priced


def price_text(
    model: nn.Module, tokenizer: BPETokenizer, text: str, stride: int | None = None
) -> TextPrice:
    """What the model pays for a text of any length, read in windows; by default they overlap half.

    A text that comes as several documents holds END_OF_TEXT between them, which is paid for and
    counts as no bytes.

    Raises:
        ValueError: an empty text, or a stride as in `rolling_windows`.
    """
    # k_evaluation.ipynb, "Windows"
    if not text.replace(END_OF_TEXT, ""):
        raise ValueError("price_text: the text is empty; give at least one character.")
    start = tokenizer.special_tokens[END_OF_TEXT]
    ids = [start, *tokenizer.to_tiktoken().encode(text, allowed_special={END_OF_TEXT})]
    context = model.config.context_length
    stride = max(1, context // 2) if stride is None else stride
    plan = list(rolling_windows(len(ids), context, stride))
    priced = price_rows(model, [ids[start:stop] for start, _, stop in plan])
    nats = [p.nats[first - stop :] for p, (_, first, stop) in zip(priced, plan, strict=True)]
    return TextPrice(
        torch.cat(nats).sum().item(), len(ids) - 1, len(text.replace(END_OF_TEXT, "").encode())
    )


def ending_form(story: Story) -> str:
    """How a story ends by saying who has a thing, with blanks: "So the {thing} was with {who}."

    Empty where it says so in another way: with a pronoun, with other names, or not in a last
    paragraph of its own.
    """
    # k_evaluation.ipynb, "Questions from the story world"
    if not story.probes:
        return ""
    probe = story.probes[-1]
    start = story.text.rfind("\n\n", 0, probe.start) + 2
    stop = re.search(r"[.!?]\"?", story.text[probe.start :])
    if start < 2 or not stop:
        return ""
    said = story.text[start : probe.start + stop.end()]
    form = re.sub(rf"\b{probe.answer}\b", "{who}", said)
    form = re.sub(rf"\b{probe.thing}\b", "{thing}", form)
    others = "|".join([*story.people, "he", "she", "him", "his", "hers?"])
    plain = not re.search(rf"\b({others})\b", form, re.IGNORECASE)
    return form if plain and form.count("{who}") == form.count("{thing}") == 1 else ""


@dataclass(frozen=True)
class ChoiceQuestion:
    """A text, some ways to go on, which of them is right, and a text that gives nothing away.

    `neutral` is put in the prompt's place to see what the choices cost by themselves.
    """

    # k_evaluation.ipynb, "Questions from the story world"

    prompt: str
    choices: tuple[str, ...]
    answer: int
    neutral: str = ""


def ending_question(
    story: Story, forms: Sequence[str], names: Sequence[str], dice: random.Random
) -> ChoiceQuestion:
    """A story that has an `ending_form`, with four endings; the right one has forms[0]."""
    # k_evaluation.ipynb, "Questions from the story world"
    probe = story.probes[-1]
    wrong = dice.sample([n for n in story.people if n != probe.answer], len(story.people) - 1)
    wrong += dice.sample([n for n in names if n not in story.people], 3)
    pairs = list(zip([probe.answer, *wrong[:3]], forms, strict=True))
    endings = ["\n\n" + form.format(who=who, thing=probe.thing) for who, form in pairs]
    order = dice.sample(range(4), 4)
    body = story.text[: story.text.rfind("\n\n", 0, probe.start)]
    choices = tuple(endings[i] for i in order)
    return ChoiceQuestion(body, choices, order.index(0), f"There was a {probe.thing}.")


def ending_questions(
    count: int, seed: int = 0, mixed: bool = True, split: str = "validation"
) -> list[ChoiceQuestion]:
    """Questions about who has a thing, each with four endings, one right.

    Args:
        mixed: the four endings have four forms, drawn at random; False: all have the story's own.

    Raises:
        ValueError: unknown split.
    """
    # k_evaluation.ipynb, "Questions from the story world"
    dice, known = random.Random(seed), list(islice(stories(7), 1500))
    forms = sorted({form for story in known if (form := ending_form(story))})
    names = sorted({name for story in known for name in story.people})
    found: list[ChoiceQuestion] = []
    for story in stories(seed, split):
        form = ending_form(story)
        if len(found) >= count:
            return found
        if form and len(story.people) > 1:
            others = dice.sample([f for f in forms if f != form], 3) if mixed else 3 * [form]
            found.append(ending_question(story, [form, *others], names, dice))
    raise AssertionError("unreachable: stories never end")


def split_continuation(
    tokenizer: BPETokenizer, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """The ids of a text, with END_OF_TEXT before it, cut where the continuation begins.

    Both are encoded together; spaces and line breaks at the end of `context` go with what follows.

    Raises:
        ValueError: the continuation is empty.
    """
    # k_evaluation.ipynb, "Where does the answer begin?"
    if not continuation:
        raise ValueError("the continuation is empty: there is nothing to price.")
    kept, rust = context.rstrip(), tokenizer.to_tiktoken()
    whole = rust.encode_ordinary(context + continuation)
    start = min(len(rust.encode_ordinary(kept)), len(whole) - 1)
    return [tokenizer.special_tokens[END_OF_TEXT], *whole[:start]], whole[start:]


def price_continuations(
    model: nn.Module, tokenizer: BPETokenizer, pairs: Iterable[tuple[str, str]]
) -> list[tuple[TextPrice, bool]]:
    """For (context, continuation) pairs: the continuation's price, and whether it is greedy text.

    What does not fit into the model's context is left out at the context's beginning.

    Raises:
        ValueError: an empty continuation, or one longer than the model's context.
    """
    # k_evaluation.ipynb, "Where does the answer begin?"
    pairs, room = list(pairs), model.config.context_length
    cut = [split_continuation(tokenizer, *pair) for pair in pairs]
    if wrong := [len(after) for _, after in cut if len(after) > room]:
        raise ValueError(f"a continuation of {wrong[0]} tokens, but context_length={room}.")
    priced = price_rows(model, [(before + after)[-room - 1 :] for before, after in cut])
    return [
        (
            TextPrice(p.nats[-len(after) :].sum().item(), len(after), len(text.encode())),
            bool(p.likeliest[-len(after) :].all()),
        )
        for p, (_, after), (_, text) in zip(priced, cut, pairs, strict=True)
    ]


def choice_prices(
    model: nn.Module,
    tokenizer: BPETokenizer,
    questions: Sequence[ChoiceQuestion],
    neutral: bool = False,
) -> list[list[TextPrice]]:
    """The price of each choice of each question; `neutral`: behind the neutral text instead."""
    # k_evaluation.ipynb, "Four ways to score"
    prompts = [question.neutral if neutral else question.prompt for question in questions]
    asked = [(p, c) for p, q in zip(prompts, questions, strict=True) for c in q.choices]
    priced = iter(price_continuations(model, tokenizer, asked))
    return [[next(priced)[0] for _ in question.choices] for question in questions]


def choice_scores(
    prices: Sequence[TextPrice], per: str = "text", prior: Sequence[TextPrice] | None = None
) -> Tensor:
    """The score of each choice, the highest for the best: minus its nats, or those per token.

    Args:
        per: "text" for the sum, "token" or "byte".
        prior: what the choices cost without the question; it is taken away first.

    Shape:
        result: (choices,).

    Raises:
        ValueError: another `per`, or not as many prior prices as prices.

    Source: Brown et al. (2020), "Language Models are Few-Shot Learners", section 2.4.
    """
    # k_evaluation.ipynb, "Four ways to score"
    sizes = {"text": lambda p: 1, "token": lambda p: p.tokens, "byte": lambda p: p.num_bytes}
    if per not in sizes or (prior is not None and len(prior) != len(prices)):
        raise ValueError(f'per={per!r}, expected "text", "token" or "byte", and a prior for each.')
    free = [p.nats for p in prior] if prior is not None else [0.0] * len(prices)
    return torch.tensor([(f - p.nats) / sizes[per](p) for f, p in zip(free, prices, strict=True)])


# k_evaluation.ipynb, "K.4 The right answer, spelled otherwise"
NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
REPLY_RULES: dict[str, Callable[[str], str]] = {
    "spaces": lambda text: " ".join(text.split()),
    "case": str.casefold,
    "marks": lambda text: re.sub(r"[^\w\s]", "", text),
    "articles": lambda text: re.sub(r"\b(a|an|the)\b", " ", text, flags=re.IGNORECASE),
    "numbers": lambda text: re.sub(r"\b(\d|10)\b", lambda m: NUMBER_WORDS[int(m[1])], text),
}


def normalise_reply(text: str, rules: Iterable[str] = tuple(REPLY_RULES)) -> str:
    """The text after these rules, in the order of `REPLY_RULES`; spaces are tidied at the end.

    Raises:
        ValueError: an unknown rule.

    Example:
        >>> normalise_reply("The 3.")
        'three'
    """
    # k_evaluation.ipynb, "K.4 The right answer, spelled otherwise"
    rules = set(rules)
    if unknown := rules - REPLY_RULES.keys():
        raise ValueError(f"rules {sorted(unknown)}: expected some of {', '.join(REPLY_RULES)}.")
    for name, rule in REPLY_RULES.items():
        text = rule(text) if name in rules else text
    return " ".join(text.split()) if rules else text


def exact_match(reply: str, answers: Iterable[str], rules: Iterable[str] = ()) -> bool:
    """Whether the reply is one of the answers, both normalised. Raises as `normalise_reply`."""
    # k_evaluation.ipynb, "K.4 The right answer, spelled otherwise"
    rules = tuple(rules)
    return normalise_reply(reply, rules) in {normalise_reply(a, rules) for a in answers}


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n tries hold a right one, if c of the n were right; without bias.

    Raises:
        ValueError: not 1 ≤ k ≤ n, or not 0 ≤ c ≤ n.

    Source: Chen et al. (2021), "Evaluating Large Language Models Trained on Code", section 2.1.

    Example:
        >>> round(pass_at_k(n=5, c=2, k=2), 3)
        0.7
    """
    # k_evaluation.ipynb, "K.5 Several tries"
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"n={n}, c={c}, k={k}: expected 1 ≤ k ≤ n and 0 ≤ c ≤ n.")
    if n - c < k:  # fewer wrong tries than are drawn
        return 1.0
    return 1.0 - math.prod(1 - k / i for i in range(n - c + 1, n + 1))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, float]:
    """Two models on the same questions: right for the first alone, for the second alone, p-value.

    The p-value is exact and two-sided: how often fair coins, one for each question on which the
    two differ, fall at least as unevenly. It is 1 where they never differ.

    Raises:
        ValueError: no answers, or not as many of one as of the other.

    Source: McNemar (1947), "Note on the Sampling Error of the Difference Between Correlated
    Proportions or Percentages".
    """
    # k_evaluation.ipynb, "The same questions for two"
    if not len(first) or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} answers; expected as many, 1 or more.")
    one = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    two = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    coins, fewer = one + two, min(one, two)
    tail = sum(math.comb(coins, heads) for heads in range(fewer + 1)) / 2**coins
    return one, two, min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction for having made so many comparisons, in their order.

    Keep those below 0.05: then the chance of even one false alarm is at most 0.05.

    Raises:
        ValueError: a value outside 0 to 1.

    Source: Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure".

    Example:
        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    # k_evaluation.ipynb, "Many comparisons"
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p_values={list(p_values)}: expected numbers from 0 to 1.")
    corrected, so_far = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        so_far = max(so_far, min(1.0, p_values[i] * (len(p_values) - place)))
        corrected[i] = so_far
    return corrected


def ngram_set(texts: Iterable[str], n: int) -> set[tuple[str, ...]]:
    """All runs of n words in the texts. Raises ValueError: n below 1."""
    # k_evaluation.ipynb, "Looking for it in the text"
    if n < 1:
        raise ValueError(f"n={n}, expected 1 or more.")
    words = (text.split() for text in texts)
    return {tuple(some[i : i + n]) for some in words for i in range(len(some) - n + 1)}


def ngram_overlap(text: str, seen: set[tuple[str, ...]], n: int) -> float:
    """The share of a text's runs of n words that are in `seen`, from `ngram_set` with the same n.

    Raises:
        ValueError: the text has fewer than n words, so that nothing could be found in it.
    """
    # k_evaluation.ipynb, "Looking for it in the text"
    words = text.split()
    if len(words) < n:
        raise ValueError(f"a text of {len(words)} words has no run of {n}: take a smaller n.")
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return sum(run in seen for run in runs) / len(runs)


def rank_auc(higher: Sequence[float], lower: Sequence[float]) -> float:
    """How often a number of `higher` is above one of `lower`, a tie counting half.

    Raises:
        ValueError: one of them is empty.
    """
    # k_evaluation.ipynb, "Looking for it in the text"
    if not len(higher) or not len(lower):
        raise ValueError(f"{len(higher)} and {len(lower)} numbers; expected 1 or more of each.")
    a, b = torch.as_tensor(higher).double()[:, None], torch.as_tensor(lower).double()[None]
    return ((a > b).double() + (a == b).double() / 2).mean().item()


def order_test(
    model: nn.Module,
    tokenizer: BPETokenizer,
    items: Sequence[str],
    shuffles: int = 99,
    seed: int = 0,
) -> float:
    """The p-value of 'the model has not read these items in this order'.

    The items are joined by spaces, in their order and in random ones; the value is the share of
    orders, the true one included, that cost no more than the true one.

    Raises:
        ValueError: fewer than 3 items, or they do not fit into the model's context together.

    Source: Oren et al. (2023), "Proving Test Set Contamination in Black Box Language Models".
    """
    # k_evaluation.ipynb, "The order of the questions"
    dice, items = random.Random(seed), list(items)
    orders = [items, *(dice.sample(items, len(items)) for _ in range(shuffles))]
    rows = story_rows([" ".join(order) for order in orders], tokenizer)
    longest, room = max(map(len, rows)) - 1, model.config.context_length
    if len(items) < 3 or longest > room:
        raise ValueError(
            f"{len(items)} items of {longest} tokens together; expected at least 3, and at most "
            f"context_length={room} tokens."
        )
    nats = [price.nats.sum().item() for price in price_rows(model, rows)]
    return sum(paid <= nats[0] + 1e-4 for paid in nats) / len(nats)


def cohens_kappa(first: Sequence[object], second: Sequence[object]) -> float:
    """Agreement of two judges beyond chance: 1 where they always agree, 0 as chance would have it.

    Raises:
        ValueError: no verdicts, not as many of both, or both always say one and the same, so that
            agreement means nothing.

    Source: Cohen (1960), "A Coefficient of Agreement for Nominal Scales".
    """
    # k_evaluation.ipynb, "K.8 Who judges the judge?"
    if not len(first) or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} verdicts; expected as many, 1 or more.")
    many, words = len(first), set(first) | set(second)
    agree = sum(a == b for a, b in zip(first, second, strict=True)) / many
    share = lambda verdicts, word: sum(v == word for v in verdicts) / many
    chance = sum(share(first, word) * share(second, word) for word in words)
    if chance == 1:
        raise ValueError(f"all verdicts of both are {first[0]!r}: no agreement can be measured.")
    return (agree - chance) / (1 - chance)


def ask_server(address: str, model: str, question: str, timeout: float = 30.0) -> str:
    """What a server with OpenAI's chat API answers to one question, at temperature 0.

    Args:
        address: such as "http://localhost:8000".

    Raises:
        ConnectionError: no answer, or one without a message; check that the server runs.
    """
    # k_evaluation.ipynb, "A judge on your machine"
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 60}
    url, kind = f"{address}/v1/chat/completions", {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), kind)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # not through a proxy
    try:
        with direct.open(request, timeout=timeout) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ConnectionError(f"{url} gave no answer ({error}); does the server run?") from None


def longest_copy(text: str, corpus: str) -> str:
    """The longest run of whole words of the text that stands in the corpus; "" if no word does.

    Spaces and line breaks count alike. The first of several that are equally long.

    Example:
        >>> longest_copy("so the cat sat down", "the cat sat on the mat")
        'the cat sat'
    """
    # k_evaluation.ipynb, "K.10 What does it know by heart?"
    words, haystack = text.split(), f" {' '.join(corpus.split())} "
    best, start = "", 0
    for start in range(len(words)):
        longer = len(best.split()) + 1
        while start + longer <= len(words):
            run = " ".join(words[start : start + longer])
            if f" {run} " not in haystack:
                break
            best, longer = run, longer + 1
    return best


def exposure(nats: float, others: Sequence[float]) -> float:
    """How many bits of guessing a model saves on a planted secret that costs `nats`.

    log2 of the number of candidates, minus log2 of the secret's rank; `others`: what all other
    candidates cost.

    Raises:
        ValueError: no other candidates.

    Source: Carlini et al. (2019), "The Secret Sharer", section 4.3.

    Example:
        >>> exposure(1.0, [2.0, 3.0, 4.0])
        2.0
    """
    # k_evaluation.ipynb, "A canary"
    if not len(others):
        raise ValueError("exposure: no other candidates; a secret among one has none.")
    rank = 1 + sum(other <= nats for other in others)
    return math.log2(len(others) + 1) - math.log2(rank)


# --------------------------------------------------------------------------------------------------
# Appendix L · Making data: what a model reads is what it becomes
# l_making_data/l_making_data.ipynb
# --------------------------------------------------------------------------------------------------


# l_making_data.ipynb, "L.2 How do you write another world?"
STATIONS = ("Ash", "Birch", "Cedar", "Elm", "Fir", "Oak")
TRAVELLERS = ("Ben", "Lily", "Mia", "Tom")
GETS_ON, GETS_OFF = ("gets on", "climbs aboard"), ("gets off", "steps down")
FEWEST_STOPS, MOST_STOPS = 2, 4


class Train:
    """The state of the train-line world: where the train stands, and who is aboard."""

    # l_making_data.ipynb, "L.2 How do you write another world?"

    def __init__(self, station: int) -> None:
        self.station = station
        self.aboard: set[str] = set()
        self.left_at: dict[str, str] = {}  # traveller -> where they last got off

    def move(self) -> None:
        """On to the next station; after the last one comes the first."""
        self.station = (self.station + 1) % len(STATIONS)

    def change(self, who: str) -> bool:
        """Somebody gets on, or off if they were aboard; True if they got on."""
        self.aboard ^= {who}
        if who not in self.aboard:
            self.left_at[who] = STATIONS[self.station]
        return who in self.aboard


class LineTeller:
    """Puts the line into words; with `wanted`, stops where the text departs from it."""

    # l_making_data.ipynb, "L.2 How do you write another world?"

    def __init__(self, chance: Chance, wanted: str | None = None) -> None:
        self.chance, self.wanted, self.text = chance, wanted, ""

    def say(self, words: str) -> None:
        """Add a sentence. Raises Mismatch if it is not the wanted one."""
        self.text += " " * bool(self.text) + words
        if self.wanted is not None and not self.wanted.startswith(self.text):
            raise Mismatch

    def stop(self, train: Train) -> None:
        """One stop: somebody is drawn and gets on or off, in one of two wordings."""
        who = self.chance.pick(TRAVELLERS)
        got_on = train.change(who)
        self.say(f"{who} {self.chance.pick(GETS_ON if got_on else GETS_OFF)}.")


def tell_line(chance: Chance, wanted: str | None = None) -> Story:
    """One story of the train line, with its log-probability and facts.

    Raises:
        Mismatch: `wanted` is given and the text departs from it.
    """
    # l_making_data.ipynb, "L.2 How do you write another world?"
    teller, train = LineTeller(chance, wanted), Train(chance.pick(range(len(STATIONS))))
    teller.say(f"The train is at {STATIONS[train.station]}.")
    for left in reversed(range(chance.pick(range(FEWEST_STOPS, MOST_STOPS + 1)))):
        teller.stop(train)
        if left:
            train.move()
            teller.say(f"Next stop {STATIONS[train.station]}.")
    teller.say(f"On the train: {', '.join(sorted(train.aboard)) or 'nobody'}.")
    facts = [Fact("who_is_aboard", "train", ", ".join(sorted(train.aboard)) or "nobody")]
    facts += [Fact("where_off", who, place) for who, place in train.left_at.items()]
    return Story(teller.text, chance.log_prob, tuple(facts), (), "line", TRAVELLERS, ())


def line_stories(seed: int = 0) -> Iterator[Story]:
    """Stories of the train line without end, the same for the same seed."""
    # l_making_data.ipynb, "L.2 How do you write another world?"
    for number in count():
        yield tell_line(Dice(f"line {seed} {number}"))


def line_entropy() -> float:
    """The entropy of a train-line story in nats, worked out: no sampling.

    The start, how many stops, and at each stop who and in which of two wordings.
    """
    # l_making_data.ipynb, "L.2 How do you write another world?"
    numbers = range(FEWEST_STOPS, MOST_STOPS + 1)
    stops = sum(numbers) / len(numbers)
    each = math.log(len(TRAVELLERS)) + math.log(len(GETS_ON))
    return math.log(len(STATIONS)) + math.log(len(numbers)) + stops * each


def shingles(text: str, size: int = 3) -> set[str]:
    """All runs of `size` neighbouring words of a text, in small letters; a shorter text is one.

    Raises:
        ValueError: `size` below 1.

    Source: Broder (1997), "On the Resemblance and Containment of Documents".

    Example:
        >>> sorted(shingles("the cat sat on the cat", 2))
        ['cat sat', 'on the', 'sat on', 'the cat']
    """
    # l_making_data.ipynb, "L.3 Which texts are nearly the same?"
    if size < 1:
        raise ValueError(f"shingles: size={size} words, expected 1 or more.")
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


def jaccard(one: set, other: set) -> float:
    """Of all that stands in either set, the share that stands in both; two empty sets are equal.

    Example:
        >>> jaccard({1, 2, 3}, {2, 3, 4})
        0.5
    """
    # l_making_data.ipynb, "L.3 Which texts are nearly the same?"
    return len(one & other) / len(one | other) if one or other else 1.0


def shingle_number(shingle: str) -> int:
    """A number below 2**64 that stands for a shingle, the same on every machine."""
    # l_making_data.ipynb, "A signature"
    return int.from_bytes(hashlib.blake2b(shingle.encode(), digest_size=8).digest(), "little")


def minhash_signatures(
    sets: Sequence[set[str]], num_hashes: int = 128, seed: int = 0
) -> np.ndarray:
    """For each set and each of `num_hashes` hash functions, the smallest hash of its members.

    Two sets agree in a place with a chance equal to their Jaccard similarity. The functions are
    `(a * x + b) >> 32` in 64-bit arithmetic, with a and b drawn from `seed`.

    Shape:
        result: (sets, num_hashes), uint32.

    Raises:
        ValueError: no sets, an empty one, or `num_hashes` below 1.

    Source: Broder (1997), "On the Resemblance and Containment of Documents".
    """
    # l_making_data.ipynb, "A signature"
    sizes = [len(members) for members in sets]
    if num_hashes < 1 or not sizes or not min(sizes):
        raise ValueError(
            f"minhash_signatures: {len(sizes)} sets, the smallest of {min(sizes, default=0)}, and "
            f"num_hashes={num_hashes}; expected one set or more, none empty, and 1 or more hashes."
        )
    numbers = [shingle_number(shingle) for members in sets for shingle in members]
    x = np.array(numbers, dtype=np.uint64)
    starts = np.cumsum([0, *sizes[:-1]])
    a, b = np.random.default_rng(seed).integers(2**64, size=(2, num_hashes), dtype=np.uint64)
    hashes = ((factor | 1) * x + shift >> 32 for factor, shift in zip(a, b, strict=True))
    return np.stack([np.minimum.reduceat(h, starts) for h in hashes], axis=1).astype(np.uint32)


def estimated_jaccard(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """In how many of their places signatures agree: an estimate of Jaccard's similarity.

    Its standard error is sqrt(J * (1 - J) / num_hashes), at most 1 / (2 * sqrt(num_hashes)).

    Shape:
        one, other: (..., num_hashes); result: (...).
    """
    # l_making_data.ipynb, "A signature"
    return (one == other).mean(-1)


def lsh_chance(similarity: float | np.ndarray, bands: int, rows: int) -> float | np.ndarray:
    """The chance that two sets of this similarity agree in all `rows` places of some band.

    Source: Leskovec, Rajaraman and Ullman (2014), "Mining of Massive Datasets", chapter 3.

    Example:
        >>> lsh_chance(0.5, bands=1, rows=2)
        0.25
    """
    # l_making_data.ipynb, "Without looking at all pairs"
    return 1 - (1 - similarity**rows) ** bands


def lsh_pairs(signatures: np.ndarray, bands: int) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of sets whose signatures agree in all places of at least one band.

    Shape:
        signatures: (sets, num_hashes); `bands` must divide num_hashes.

    Raises:
        ValueError: `bands` does not divide the number of hashes.
    """
    # l_making_data.ipynb, "Without looking at all pairs"
    num_hashes = signatures.shape[1]
    if bands < 1 or num_hashes % bands:
        raise ValueError(f"bands={bands}: expected a number that divides {num_hashes} hashes.")
    found: set[tuple[int, int]] = set()
    for band in np.split(np.ascontiguousarray(signatures), bands, axis=1):
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        for i, places in enumerate(band):
            buckets[places.tobytes()].append(i)
        for bucket in buckets.values():
            found.update(combinations(bucket, 2))
    return sorted(found)


def first_of_each_group(total: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The numbers below `total` that stay when of each group of linked ones the first is kept.

    Example:
        >>> first_of_each_group(5, [(1, 3), (3, 4)])
        [0, 1, 2]
    """
    # l_making_data.ipynb, "Planted near-duplicates"
    first = list(range(total))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]  # a shorter way for the next time
            i = first[i]
        return i

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        first[high] = low
    return [i for i in range(total) if root(i) == i]


# l_making_data.ipynb, "L.4 Which texts are bad?"
DIRT = ("boilerplate", "shuffled", "cut off", "repeated", "cipher", "symbols")
MENU = "Home. News. Log in. We use cookies to make this page better."
FOOTER = "Read more. Share this story. All rights reserved."


def dirtied(text: str, kind: str, dice: random.Random) -> str:
    """A text spoiled in one of the ways of `DIRT`.

    Raises:
        ValueError: another kind.
    """
    # l_making_data.ipynb, "L.4 Which texts are bad?"
    if kind == "boilerplate":
        return f"{MENU} {text[: len(text) // 3]}... {FOOTER}"
    if kind == "shuffled":
        mixed = (dice.sample(s.split(), len(s.split())) for s in re.split(r"(?<=[.!?]) ", text))
        return " ".join(f"{' '.join(words).rstrip('.!?,')}." for words in mixed)
    if kind == "cut off":
        place = round(len(text) * dice.uniform(0.3, 0.7))
        return text[:place] if dice.random() < 0.5 else text[place:]
    if kind == "repeated":
        sentence = dice.choice(re.split(r"(?<=[.!?]) ", text))
        return " ".join([sentence] * (1 + len(text) // len(sentence)))
    if kind == "cipher":
        small = "abcdefghijklmnopqrstuvwxyz"
        code = "".join(dice.sample(small, 26))
        return text.translate(str.maketrans(small + small.upper(), code + code.upper()))
    if kind == "symbols":
        return "".join(dice.choice("#@~0|^") if dice.random() < 0.12 else c for c in text)
    raise ValueError(f"kind={kind!r}, expected one of {', '.join(DIRT)}.")


def rule_findings(text: str, fewest: int = 8, most: int = 250) -> list[str]:
    """What speaks against a text, by five rules of thumb; an empty list if nothing does.

    `fewest` and `most`: words. The rules and their limits were chosen on clean stories.

    Source: rules of this kind from Rae et al. (2021), "Scaling Language Models: Methods, Analysis
        and Insights from Training Gopher", appendix A.
    """
    # l_making_data.ipynb, "Rules of thumb"
    words = re.findall(r"\w+", text.lower())
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", text) if s]
    odd = sum(not (c.isalpha() or c.isspace() or c in ".,;:!?'\"-") for c in text)
    common = sum(word in ("the", "a", "and", "to", "it", "was", "is") for word in words)
    findings = {
        "length": not fewest <= len(words) <= most,
        "symbols": odd > 0.02 * len(text),
        "no end": not text.rstrip().endswith((".", "!", "?", '"')),
        "repetition": len(sentences) > 2 and len(set(sentences)) < 0.6 * len(sentences),
        "no common words": common < 0.04 * len(words),
    }
    return [name for name, found in findings.items() if found]


def word_runs(text: str, size: int) -> list[str]:
    """All runs of `size` words in their order, with repeats; none if the text is shorter."""
    # l_making_data.ipynb, "L.5 Has the test leaked into the corpus?"
    words = re.findall(r"\w+", text.lower())
    return [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]


def leaked_ngrams(texts: Sequence[str], tests: Iterable[str], size: int) -> list[float]:
    """For each text, which share of its words lies in a run of `size` words of some test text.

    A corpus is decontaminated by leaving out the texts above a chosen share: 0 leaves out every
    text that has a single such run.

    Raises:
        ValueError: `size` below 1.

    Source: runs of words from Brown et al. (2020), "Language Models are Few-Shot Learners",
        appendix C, who left out what shared 13 of them.

    Example:
        >>> leaked_ngrams(["so the cat sat down"], ["the cat sat up"], 3)
        [0.6]
    """
    # l_making_data.ipynb, "L.5 Has the test leaked into the corpus?"
    if size < 1:
        raise ValueError(f"leaked_ngrams: size={size} words, expected 1 or more.")
    known = set().union(*(word_runs(test, size) for test in tests))
    shares = []
    for text in texts:
        runs = word_runs(text, size)
        marked = {i + k for i, run in enumerate(runs) if run in known for k in range(size)}
        shares.append(len(marked) / max(1, len(runs) + size - 1))
    return shares


def temperature_shares(sizes: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Mixing shares in proportion to size ** (1 / temperature).

    1 draws as the data lie; the higher, the more equal.

    Raises:
        ValueError: a size or the temperature not above 0.

    Source: Conneau et al. (2020), "Unsupervised Cross-lingual Representation Learning at Scale".

    Example:
        >>> temperature_shares([90, 10]), temperature_shares([81, 1], temperature=2)
        ([0.9, 0.1], [0.9, 0.1])
    """
    # l_making_data.ipynb, "L.6 How much of each?"
    if temperature <= 0 or not sizes or min(sizes) <= 0:
        raise ValueError(
            f"sizes={list(sizes)}, temperature={temperature}: expected numbers above 0."
        )
    powers = [size ** (1 / temperature) for size in sizes]
    return [power / sum(powers) for power in powers]


def mixed_rows(
    domains: Sequence[Sequence[list[int]]], shares: Sequence[float], tokens: int, seed: int = 0
) -> list[list[int]]:
    """Rows of several domains, so that each has its share of about `tokens` tokens, shuffled.

    A domain that is too small is read again from its beginning.

    Raises:
        ValueError: not one share for each domain, or an empty domain.
    """
    # l_making_data.ipynb, "L.6 How much of each?"
    if len(domains) != len(shares) or not all(domains):
        sizes = [len(rows) for rows in domains]
        raise ValueError(f"domains of {sizes} rows, shares {list(shares)}: expected one for each.")
    dice, chosen = random.Random(seed), []
    for rows, share in zip(domains, shares, strict=True):
        order, used = dice.sample(list(rows), len(rows)), 0
        for i in count():
            if used >= share * tokens:
                break
            chosen.append(order[i % len(order)])
            used += len(chosen[-1]) - 1
    dice.shuffle(chosen)
    return chosen


def first_fit_decreasing(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which items go together into bins of `room`: longest first, each into the first that fits.

    Raises:
        ValueError: an item is longer than a bin.

    Source: Johnson (1973), "Near-Optimal Bin Packing Algorithms": at most 11/9 of the fewest bins,
        and a constant number more.

    Example:
        >>> first_fit_decreasing([2, 5, 4, 3], room=7)
        [[1, 0], [2, 3]]
    """
    # l_making_data.ipynb, "L.7 How are batches filled?"
    if lengths and max(lengths) > room:
        raise ValueError(f"an item of {max(lengths)} does not fit into {room}: cut it first")
    bins: list[list[int]] = []
    left: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((b for b, space in enumerate(left) if space >= lengths[item]), len(bins))
        if place == len(bins):
            bins.append([])
            left.append(room)
        bins[place].append(item)
        left[place] -= lengths[item]
    return bins


def joined_rows(rows: Sequence[list[int]], room: int) -> list[list[int]]:
    """Stories packed into rows of at most `room` + 1 ids; where two meet, they share their mark.

    Raises:
        ValueError: a story of more than `room` + 1 ids.
    """
    # l_making_data.ipynb, "L.7 How are batches filled?"
    bins = first_fit_decreasing([len(row) - 1 for row in rows], room)
    return [rows[b[0]] + [i for n in b[1:] for i in rows[n][1:]] for b in bins]


def story_numbers(token_ids: Tensor, end_id: int) -> Tensor:
    """For each place of a packed row, in which story it lies: a mark begins a new one.

    Shape:
        token_ids, result: (rows, tokens).

    Example:
        >>> story_numbers(torch.tensor([[0, 5, 6, 0, 7]]), end_id=0)
        tensor([[1, 1, 1, 2, 2]])
    """
    # l_making_data.ipynb, "May stories see one another?"
    return (token_ids == end_id).cumsum(-1)


def places_in_story(token_ids: Tensor, end_id: int) -> Tensor:
    """For each place of a packed row, how far it is from its story's mark.

    Shape:
        token_ids, result: (rows, tokens).
    """
    # l_making_data.ipynb, "May stories see one another?"
    places = torch.arange(token_ids.shape[-1], device=token_ids.device).expand_as(token_ids)
    return places - torch.where(token_ids == end_id, places, 0).cummax(-1).values


class StoryAttention(MultiHeadAttention):
    """Attention that looks only where `allowed`, (batch, 1, tokens, tokens), is True."""

    # l_making_data.ipynb, "May stories see one another?"

    allowed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """As MultiHeadAttention, with `allowed` in the place of the triangle.

        Shape:
            x, result: (batch, tokens, embed_dim).
        """
        q, k, v = self.queries_keys_values(x)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.allowed)
        return self.out(mixed.transpose(1, 2).flatten(2))


class PackedGPT(GPTModel):
    """A GPT for packed rows: no token looks into another story, and positions start anew.

    Its weights are called and shaped as a GPTModel's. Each story gets the logits that it would
    get alone.

    Shape:
        token_ids: (batch, tokens), each row beginning with `end_id`; result: as GPTModel.
    """

    # l_making_data.ipynb, "May stories see one another?"

    def __init__(self, config: GPTConfig, end_id: int, seed: int | None = None) -> None:
        super().__init__(config, seed)
        self.end_id = end_id
        for block in self.blocks:
            own = StoryAttention(config.embed_dim, config.num_heads, 0.0, config.qkv_bias)
            own.load_state_dict(block.attention.state_dict())
            block.attention = own
        use_fast_linear(self)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits (batch, tokens, vocab_size)."""
        numbers = story_numbers(token_ids, self.end_id)
        allowed = (numbers[:, :, None] == numbers[:, None, :]).tril()[:, None]
        x = self.token_embedding(token_ids)
        x = x + self.position_embedding(places_in_story(token_ids, self.end_id))
        for block in self.blocks:
            block.attention.allowed = allowed
            x = block(x)  # (batch, tokens, embed_dim)
        return self.output_head(self.final_norm(x))


def agreed_answer(answers: Sequence[str], least: int) -> str | None:
    """The most frequent of several answers, if at least so many agree; None if they do not.

    Source: Wang et al. (2023), "Self-Consistency Improves Chain of Thought Reasoning".

    Example:
        >>> agreed_answer(["two", "two", "ten"], least=2)
        'two'
    """
    # l_making_data.ipynb, "L.8 Can a model make the data?"
    if not answers:
        raise ValueError("agreed_answer: no answers given; expected one or more.")
    answer, votes = Counter(answers).most_common(1)[0]
    return answer if votes >= least else None


def batches_in_order(
    rows: Sequence[list[int]], order: str, tokens_per_batch: int, seed: int = 0
) -> list[list[list[int]]]:
    """The same groups of rows of similar length, in an order.

    Args:
        order: "short first", "long first" or "random".

    Raises:
        ValueError: another order.
    """
    # l_making_data.ipynb, "L.9 Does the order matter?"
    if order not in ("short first", "long first", "random"):
        raise ValueError(f'order={order!r}, expected "short first", "long first" or "random".')
    groups = pack_rows(list(rows), tokens_per_batch)  # longest first
    if order == "random":
        random.Random(seed).shuffle(groups)
    return groups[::-1] if order == "short first" else groups
