"""Pretraining: loss, batches, Muon, the loop and its exact resume, checkpoints, GPT-2's weights."""

from __future__ import annotations

import dataclasses
import errno
import http.server
import importlib.util
import itertools
import json
import math
import pickle
import shutil
import signal
import threading
from collections import Counter
from functools import partial
from itertools import islice

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shared import previous_chapters as pc
from shared.artifacts import ROOT
from shared.download import DownloadError
from shared.previous_chapters import (
    END_OF_TEXT,
    IGNORED,
    Batches,
    BPETokenizer,
    GPTConfig,
    GPTModel,
    Muon,
    Recipe,
    StoryBatches,
    StoryRecipe,
    WindowBatches,
    answer_spans,
    build_optimizers,
    code_of,
    count_targets,
    evaluate,
    expected_seconds,
    head_start,
    learning_rate_at,
    load_checkpoint,
    load_gpt2,
    longest_at,
    loss_over_entropy,
    new_story_model,
    next_token_loss,
    ngram_nats,
    orthogonalise,
    pack_rows,
    pad_rows,
    pretrain,
    save_checkpoint,
    story_checkpoint,
    story_model,
    story_nats,
    story_rows,
    training_step,
    watch_stories,
    who_has_what,
    wilson,
    write_story,
)
from shared.stories import SPLITS, stories, story_text

SMALL = GPTConfig(vocab_size=300, context_length=24, embed_dim=12, num_heads=3, num_layers=2)
ROOMY = dataclasses.replace(SMALL, context_length=400)


@pytest.fixture(autouse=True)
def own_artifacts(tmp_path, monkeypatch):
    """Nothing that a test makes is found by another, or by the course."""
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    """Few merges: names are several tokens long."""
    return BPETokenizer.train(story_text(60_000), 300, [END_OF_TEXT])


def told(count: int, seed: int = 0, split: str = "train") -> list:
    return list(itertools.islice(stories(seed, split), count))


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_ids(count: int, vocab_size: int = 300, seed: int = 0) -> list[int]:
    return torch.randint(vocab_size, (count,), generator=dice(seed)).tolist()


def windows(total_tokens: int = 2000, seed: int = 0, count: int = 700) -> WindowBatches:
    return WindowBatches(some_ids(count), 16, 5, total_tokens, seed=seed)


def short_stories(tokenizer, **changes) -> StoryBatches:
    recipe = StoryRecipe(
        vocab_size=300, context_length=400, total_tokens=6000, tokens_per_batch=900, curriculum=()
    )
    return StoryBatches(tokenizer, dataclasses.replace(recipe, **changes), pool=300)


class Oracle(nn.Module):
    """Says what comes next as the rows that it was shown have it, or something else on purpose."""

    def __init__(self, rows: list[list[int]], vocab_size: int, wrong: bool = False) -> None:
        super().__init__()
        self.config = GPTConfig(vocab_size, 1000, 2, 1, 1)
        self.nothing = nn.Parameter(torch.zeros(1))
        self.rows, self.wrong = rows, wrong

    def forward(self, token_ids):
        logits = torch.zeros(*token_ids.shape, self.config.vocab_size)
        for i, ids in enumerate(token_ids.tolist()):
            row = next(r for r in self.rows if ids[: len(r) - 1] == r[:-1])
            for place, target in enumerate(row[1:]):
                logits[i, place, (target + self.wrong) % self.config.vocab_size] = 50.0
        return logits


# --- loss


def test_the_loss_is_the_mean_surprise_of_the_targets_that_count():
    model = GPTModel(SMALL, seed=1)
    inputs, targets = torch.tensor([[5, 7, 9], [11, 2, 0]]), torch.tensor([[7, 9, 4], [2, 3, -100]])
    chances = model(inputs).detach().softmax(-1)
    asked = [(0, 0, 7), (0, 1, 9), (0, 2, 4), (1, 0, 2), (1, 1, 3)]
    expected = -sum(math.log(chances[i, j, k]) for i, j, k in asked) / 5
    assert next_token_loss(model, inputs, targets).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("place, bad", [(0, 300), (1, 300), (0, -1), (1, -3)])
def test_the_loss_refuses_ids_that_the_model_does_not_know(place, bad):
    batch = [torch.tensor([[5, 7, 9]]), torch.tensor([[7, 9, 4]])]
    batch[place][0, 2] = bad
    with pytest.raises(ValueError, match=rf"{bad}.*vocab_size=300"):
        next_token_loss(GPTModel(SMALL, seed=0), *batch)


def test_evaluate_weighs_each_token_alike():
    model = GPTModel(SMALL, seed=0)
    batches = [
        pad_rows([some_ids(9, seed=1), some_ids(4, seed=2)]),
        pad_rows([some_ids(3, seed=3)]),
    ]
    counts = [count_targets(batch) for batch in batches]
    assert counts == [11, 2]
    losses = [next_token_loss(model, *batch).item() for batch in batches]
    expected = (11 * losses[0] + 2 * losses[1]) / 13
    assert evaluate(model, batches) == pytest.approx(expected, rel=1e-6)


def test_evaluate_disturbs_nothing():
    model = GPTModel(dataclasses.replace(SMALL, dropout=0.5), seed=0).train()
    model.blocks[1].eval()
    modes = [part.training for part in model.modules()]
    batches, state = windows(), torch.random.get_rng_state()
    first = next(iter(batches))
    place = batches.place
    assert evaluate(model, batches) == evaluate(model, batches)
    assert batches.place == place and torch.equal(state, torch.random.get_rng_state())
    assert modes == [part.training for part in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert not torch.equal(first[0], next(iter(batches))[0]), "the stream goes on from its place"


def test_evaluate_refuses_what_asks_for_nothing():
    model = GPTModel(SMALL, seed=0)
    nothing = (torch.zeros(1, 3, dtype=torch.int64), torch.full((1, 3), IGNORED))
    for batches in ([], [nothing]):
        with pytest.raises(ValueError, match="ask for no token"):
            evaluate(model, batches)


# --- rows and batches


def test_rows_have_the_end_mark_on_both_sides_and_pad_on_the_right(tokenizer):
    end = tokenizer.special_tokens[END_OF_TEXT]
    rows = story_rows(["Mia had a kite.", "No."], tokenizer)
    assert [row[0] for row in rows] == [row[-1] for row in rows] == [end, end]
    assert tokenizer.decode(rows[1][1:-1]) == "No."
    inputs, targets = pad_rows(rows)
    width, short = len(rows[0]) - 1, len(rows[1]) - 1
    assert inputs.shape == targets.shape == (2, width) and inputs.dtype == torch.int64
    assert inputs[0].tolist() == rows[0][:-1] and targets[0].tolist() == rows[0][1:]
    assert targets[1].tolist() == rows[1][1:] + [IGNORED] * (width - short)


def test_an_end_mark_inside_a_story_is_text_like_any_other(tokenizer):
    (row,) = story_rows([f"a{END_OF_TEXT}b"], tokenizer)
    end = tokenizer.special_tokens[END_OF_TEXT]
    assert row.count(end) == 2 and tokenizer.decode(row[1:-1]) == f"a{END_OF_TEXT}b"


@pytest.mark.parametrize("rows", [[], [[1]], [[1, 2], []]])
def test_rows_that_ask_for_nothing_are_refused(rows):
    with pytest.raises(ValueError, match="at least two|two ids or more"):
        pad_rows(rows)


def test_packing_keeps_every_row_and_the_budget():
    rows = [some_ids(n, seed=n) for n in (3, 40, 12, 11, 39, 2, 2, 2, 7, 28, 25, 5)]
    groups = pack_rows(rows, 80)
    assert Counter(map(tuple, itertools.chain(*groups))) == Counter(map(tuple, rows))
    for group in groups[:-1]:
        assert len(group) * (max(map(len, group)) - 1) <= 80
    assert pack_rows([], 80) == [] and pack_rows([[1] * 500], 80) == [[[1] * 500]]


def test_large_groups_have_few_sizes():
    groups = pack_rows([[1] * (n % 9 + 2) for n in range(400)], 100)
    assert all(len(group) % 4 == 0 for group in groups[:-1] if len(group) > 8)


def test_a_batch_can_be_wider_than_its_rows_but_not_narrower():
    inputs, targets = pad_rows([[5, 6, 7], [8, 9]], 4)
    assert inputs.tolist() == [[5, 6, 0, 0], [8, 0, 0, 0]]
    assert targets.tolist() == [[6, 7] + 2 * [IGNORED], [9] + 3 * [IGNORED]]
    assert pad_rows([[5, 6, 7], [8, 9]], 1)[0].shape == (2, 2)


def test_few_leftover_rows_join_the_batch_before():
    groups = pack_rows([[1] * 11] * 17, 80)
    assert [len(group) for group in groups] == [8, 9]


def test_longest_story_along_the_run():
    curriculum = ((0.0, 30), (0.2, 60), (0.5, 60))
    assert [longest_at(p, curriculum) for p in (0.0, 0.1, 0.2, 0.4)] == [30, 45, 60, 60]
    assert longest_at(0.5, curriculum) == longest_at(0.0, ()) == math.inf


def test_story_batches_ask_for_whole_stories_token_by_token(tokenizer):
    end = tokenizer.special_tokens[END_OF_TEXT]
    known = {tuple(row) for row in story_rows(told(200, seed=1), tokenizer)}
    batches = short_stories(tokenizer)
    for inputs, targets in batches:
        assert inputs.numel() <= 900 * 1.5
        for x, y in zip(inputs.tolist(), targets.tolist(), strict=True):
            row = x[: len([t for t in y if t != IGNORED])] + [[t for t in y if t != IGNORED][-1]]
            assert row[0] == end and y[: len(row) - 1] == row[1:]
            assert tuple(row) in known or len(row) == 401, "a story of the first chunk"
    assert batches.place["tokens"] >= 6000


def batches_equal(ours, theirs) -> bool:
    ours, theirs = list(ours), list(theirs)
    return len(ours) == len(theirs) and all(
        torch.equal(a, b)
        for x, y in zip(ours, theirs, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_a_stream_depends_on_its_seed_alone(tokenizer):
    assert batches_equal(short_stories(tokenizer), short_stories(tokenizer))
    assert not batches_equal(short_stories(tokenizer), short_stories(tokenizer, seed=1))
    assert not batches_equal(
        short_stories(tokenizer),
        StoryBatches(tokenizer, short_stories(tokenizer).recipe, split="validation"),
    )


@pytest.mark.parametrize("given", [0, 1, 3, 7])
def test_a_stream_goes_on_from_a_saved_place(tokenizer, given):
    for make in (
        lambda: short_stories(tokenizer, curriculum=((0.0, 80), (0.4, 130)), total_tokens=30_000),
        lambda: windows(3000),
    ):
        whole, first = list(make()), make()
        list(itertools.islice(first, given))
        again = make()
        again.place = json.loads(json.dumps(first.place))
        assert len(whole) > 8 and batches_equal(whole[given:], again)
        assert list(first) and list(first) == [], "a stream that is at its end has nothing more"


def test_short_stories_come_first(tokenizer):
    batches = short_stories(tokenizer, curriculum=((0.0, 80), (0.5, 130)), total_tokens=60_000)
    longest = []
    for inputs, targets in batches:
        assert inputs.shape[1] % 8 == 0 or inputs.shape[1] == batches.recipe.context_length
        asked = int((targets != IGNORED).sum(1).max())
        longest.append((batches.place["began"] / 60_000, asked))
    assert all(
        length <= longest_at(began, ((0.0, 80), (0.5, 130))) + 1 for began, length in longest
    )
    assert max(length for _, length in longest) > 131 > 81 >= longest[0][1]


def test_a_curriculum_without_any_story_says_so(tokenizer):
    with pytest.raises(ValueError, match="no text to read.*curriculum"):
        list(short_stories(tokenizer, curriculum=((0.0, 2), (1.0, 3))))


def test_windows_come_once_in_each_pass_in_a_new_order():
    batches = WindowBatches(list(range(100)), 3, 4, total_tokens=2 * 96)
    assert len(batches.windows) == 33
    firsts = [x[:, 0].tolist() for x, _ in batches]
    passes = [sum(firsts[:8], []), sum(firsts[8:16], [])]
    for one in passes:
        assert len(set(one)) == 32 and all(first % 3 == 0 for first in one)
    assert passes[0] != passes[1]
    for x, y in WindowBatches(list(range(100)), 3, 4, 96):
        assert torch.equal(y, x + 1) and x.shape == (4, 3)


def test_batches_refuse_texts_that_are_too_small():
    with pytest.raises(ValueError, match="0 ids"):
        WindowBatches([], 8, 4, 100)
    with pytest.raises(ValueError, match="batch_size=4.*2 windows.*more text"):
        WindowBatches(list(range(20)), 8, 4, 100)
    with pytest.raises(ValueError, match="total_tokens=0"):
        WindowBatches(list(range(100)), 8, 4, 0)


# --- loss over entropy


def test_counting_by_hand():
    paid = ngram_nats([[0, 1, 2, 1]], [[0, 1]], order=2, vocab_size=4, prior=2.0)
    single = (2 + 2 / 4) / (3 + 2)  # 1 was seen twice among three
    pair = (1 + 2 * single) / (1 + 2)  # after 0 it was 1, once
    assert paid == pytest.approx([-math.log(single), -math.log(pair)])


def test_counting_shares_out_all_of_its_belief():
    learned = [some_ids(40, 5, seed) for seed in range(3)]
    for order in (1, 2, 3):
        chances = [math.exp(-ngram_nats(learned, [[1, 2, x]], order, 5)[-1]) for x in range(5)]
        first = math.exp(-ngram_nats(learned, [[1, 2]], order, 5)[-1])
        assert sum(chances) / first == pytest.approx(1)


def test_what_a_model_pays_is_the_sum_over_stories(tokenizer):
    model = GPTModel(dataclasses.replace(SMALL, context_length=600), seed=0)
    some = told(7)
    alone = 0.0
    for row in story_rows(some, tokenizer):
        logits = model(torch.tensor([row[:-1]]))[0]
        alone += F.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum").item()
    assert story_nats(model, tokenizer, some) == pytest.approx(alone, rel=1e-5)
    entropy = -sum(story.log_prob for story in some)
    assert loss_over_entropy(model, tokenizer, some) == pytest.approx(alone / entropy, rel=1e-5)


def test_a_model_that_knows_nothing_pays_the_logarithm_of_the_vocabulary(tokenizer):
    model = GPTModel(dataclasses.replace(SMALL, context_length=600), seed=0)
    with torch.no_grad():
        model.token_embedding.weight.zero_()
    some = told(3)
    asked = sum(len(row) - 1 for row in story_rows(some, tokenizer))
    assert story_nats(model, tokenizer, some) == pytest.approx(asked * math.log(300), rel=1e-5)


def test_a_story_beyond_the_context_is_refused(tokenizer):
    with pytest.raises(ValueError, match="does not fit into context_length=24"):
        story_nats(GPTModel(SMALL, seed=0), tokenizer, told(3))
    with pytest.raises(ValueError, match="no token"):
        story_nats(GPTModel(SMALL, seed=0), tokenizer, [])


# --- Muon


@pytest.mark.parametrize("shape", [(7, 7), (5, 13), (17, 4), (1, 9), (64, 24)])
def test_orthogonalising_keeps_directions_and_evens_their_strength(shape):
    matrix = torch.randn(shape, generator=dice(1))
    ours = orthogonalise(matrix)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    strengths = (u.T @ ours @ v.T).diagonal()
    assert torch.allclose(ours, u @ strengths.diag() @ v, atol=1e-4), "same directions"
    large = s / s.norm() > 0.05
    assert strengths[large].min() > 0.6 and strengths.max() < 1.3
    assert s.max() / s[large].min() > 1.5 or min(shape) == 1


def test_orthogonalising_a_stack_is_orthogonalising_each():
    stack = torch.randn(3, 5, 11, generator=dice(2))
    assert torch.allclose(
        orthogonalise(stack), torch.stack([orthogonalise(m) for m in stack]), atol=1e-5
    )
    assert torch.equal(orthogonalise(torch.zeros(4, 3)), torch.zeros(4, 3))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_muon_equals_pytorchs_within_its_bfloat16(weight_decay):
    shapes = [(24, 8), (8, 24), (17, 17), (5, 31), (17, 17)]
    ours = [nn.Parameter(torch.randn(s, generator=dice(i))) for i, s in enumerate(shapes)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    options = {"lr": 0.02, "weight_decay": weight_decay, "momentum": 0.95}
    optimizers = [Muon(ours, **options), torch.optim.Muon(theirs, **options)]
    for step in range(4):
        for parameters in (ours, theirs):
            for i, p in enumerate(parameters):
                p.grad = torch.randn(p.shape, generator=dice(100 * step + i))
        for optimizer in optimizers:
            optimizer.step()
    for one, other, shape in zip(ours, theirs, shapes, strict=True):
        largest = 0.02 * max(1, shape[0] / shape[1]) ** 0.5  # of what one step changes
        assert (one - other).abs().max() < 4 * 0.02 * largest, shape
        assert not torch.equal(one, other), "float32 should differ from bfloat16"


def test_a_fused_matrix_is_trained_like_its_parts():
    fused = nn.Parameter(torch.randn(21, 7, generator=dice(0)))
    apart = [nn.Parameter(part.clone()) for part in fused.detach().chunk(3)]
    optimizers = Muon([fused], parts=3), Muon(apart)
    for step in range(3):
        fused.grad = torch.randn(21, 7, generator=dice(step))
        for p, gradient in zip(apart, fused.grad.chunk(3), strict=True):
            p.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(fused, torch.cat(apart), atol=1e-6)


def test_muon_refuses_what_is_no_matrix():
    for shape, parts in (((4,), 1), ((2, 3, 4), 1), ((10, 4), 3)):
        with pytest.raises(ValueError, match=r"shape \(.*AdamW"):
            Muon([nn.Parameter(torch.zeros(shape))], parts=parts)


def test_muon_leaves_parameters_without_gradient_alone():
    p = nn.Parameter(torch.ones(3, 4))
    Muon([p], weight_decay=0.5).step()
    assert torch.equal(p, torch.ones(3, 4))


def test_every_parameter_is_trained_by_one_optimizer():
    model = GPTModel(SMALL, seed=0)
    muon, adamw = build_optimizers(model, Recipe())
    fused, single = (group["params"] for group in muon.param_groups)
    assert [p.shape for p in fused] == [(36, 12)] * 2 and muon.param_groups[0]["parts"] == 3
    assert {tuple(p.shape) for p in single} == {(12, 12), (48, 12), (12, 48)}
    tables, vectors = (group["params"] for group in adamw.param_groups)
    assert {p.ndim for p in tables} == {2} and {p.ndim for p in vectors} == {1}
    everything = [*fused, *single, *tables, *vectors]
    assert len({id(p) for p in everything}) == len(everything) == len(list(model.parameters()))
    assert sum(p.numel() for p in everything) == model.num_parameters()
    assert any(p is model.token_embedding.weight for p in tables)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_the_recipe_s_momentum_is_that_of_every_optimizer(kind):
    recipe = Recipe(matrix_optimizer=kind, momentum=0.7)
    groups = [g for o in build_optimizers(GPTModel(SMALL), recipe) for g in o.param_groups]
    assert {g.get("momentum", g.get("betas", [None])[0]) for g in groups} == {0.7}


def test_adamw_can_train_everything():
    model = GPTModel(SMALL, seed=0)
    (adamw,) = build_optimizers(model, Recipe(matrix_optimizer="adamw", matrix_rate=0.003))
    rates = [group["lr"] for group in adamw.param_groups]
    assert rates == [Recipe.table_rate, Recipe.vector_rate, 0.003, 0.003]
    counted = [p.numel() for group in adamw.param_groups for p in group["params"]]
    assert sum(counted) == model.num_parameters()
    with pytest.raises(ValueError, match="'sgd'.*'muon' or 'adamw'"):
        build_optimizers(model, Recipe(matrix_optimizer="sgd"))


def test_frozen_parameters_get_no_optimizer():
    model = GPTModel(SMALL, seed=0)
    model.requires_grad_(False)
    model.final_norm.requires_grad_(True)
    (only,) = build_optimizers(model, Recipe())
    assert [len(group["params"]) for group in only.param_groups] == [2]
    with pytest.raises(ValueError, match="0 parameters to train"):
        build_optimizers(model.requires_grad_(False), Recipe())


# --- rates and steps


def test_the_rate_rises_stays_and_falls():
    rate = partial(learning_rate_at, warmup=0.1, decay=0.4)
    assert [round(rate(p), 6) for p in (0, 0.05, 0.1, 0.3, 0.6, 0.8, 1)] == [
        0,
        0.5,
        1,
        1,
        1,
        0.5,
        0,
    ]
    assert learning_rate_at(0.3, warmup=0.0, decay=0.0) == learning_rate_at(1.0, 0.0, 0.0) == 1
    assert min(learning_rate_at(p / 50, 0.7, 0.7) for p in range(51)) >= 0


def gradients(batches) -> list[torch.Tensor]:
    """What one step would do: plain gradient descent shows the gradient."""
    model = GPTModel(SMALL, seed=3)
    before = [p.detach().clone() for p in model.parameters()]
    training_step(model, [torch.optim.SGD(model.parameters(), lr=1.0)], batches)
    return [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]


def test_four_small_batches_are_one_large_one_also_with_unequal_targets():
    rows = [some_ids(n, seed=n) for n in (20, 3, 11, 7)]
    one, four = gradients([pad_rows(rows)]), gradients([pad_rows([row]) for row in rows])
    for a, b in zip(one, four, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert max(g.abs().max() for g in one) > 1e-3


def test_a_long_gradient_is_shortened():
    model = GPTModel(SMALL, seed=3)
    before = [p.detach().clone() for p in model.parameters()]
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    _, norm = training_step(model, [sgd], [pad_rows([some_ids(9)])], max_norm=0.01)
    moved = (
        sum(((b - p) ** 2).sum() for b, p in zip(before, model.parameters(), strict=True)) ** 0.5
    )
    assert norm > 0.1 and moved.item() == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_no_number_stops_before_it_does_harm():
    model = GPTModel(SMALL, seed=0)
    with torch.no_grad():
        model.final_norm.weight[0] = torch.nan
    others = [p.detach().clone() for p in model.blocks.parameters()]
    with pytest.raises(FloatingPointError, match="lower learning rates"):
        training_step(model, build_optimizers(model, Recipe()), [pad_rows([some_ids(9)])])
    for a, b in zip(others, model.blocks.parameters(), strict=True):
        assert torch.equal(a, b)


# --- the loop


def state(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(one), state(other), strict=True))


def without_times(history) -> list[dict]:
    return [{k: v for k, v in step.items() if k != "seconds"} for step in history.steps]


def test_pretraining_learns_a_text_that_repeats():
    model = GPTModel(SMALL, seed=0)
    ids = [7, 8, 9, 10, 11] * 100
    batches = WindowBatches(ids, 10, 4, total_tokens=3000)
    recipe, validation = Recipe(table_rate=0.02), [pad_rows([ids[:11]])]
    history = pretrain(model, batches, recipe, validation=validation, watch_every=20)
    assert history.finished and history.steps[0]["loss"] == pytest.approx(math.log(300), abs=0.3)
    assert [look["step"] for look in history.looks] == [0, 20, 40, 60, 75]
    assert history.looks[-1]["validation"] < 0.7 and history.steps[-1]["tokens"] == 3000
    assert not model.training


def test_looking_changes_nothing(tokenizer):
    runs = []
    for watch_every, watch in ((4, watch_stories(tokenizer, 2)), (1000, None)):
        config = dataclasses.replace(SMALL, dropout=0.2, context_length=600)
        model = GPTModel(config, seed=0)
        torch.rand(watch_every)  # and the world's randomness is nobody's business
        validation = [pad_rows([some_ids(9)])] if watch else None
        pretrain(model, windows(), watch=watch, watch_every=watch_every, validation=validation)
        runs.append(model)
    assert same(*runs)


def test_pretraining_leaves_the_worlds_randomness_alone():
    before = torch.random.get_rng_state()
    pretrain(GPTModel(dataclasses.replace(SMALL, dropout=0.2), seed=0), windows(500))
    assert torch.equal(before, torch.random.get_rng_state())


def pressing(steps: set[int]):
    """Presses Ctrl-C when it is shown the model at one of these steps."""
    seen = itertools.count()

    def watch(model) -> dict:
        if next(seen) in steps:
            signal.raise_signal(signal.SIGINT)
        return {"logit": model(torch.tensor([[1, 2, 3]]))[0, 0, 0].item()}

    return watch


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, accumulate):
    recipe = Recipe(accumulate=accumulate, weight_decay=0.1)
    config = dataclasses.replace(SMALL, dropout=0.1)
    whole, parts = GPTModel(config, seed=0), None
    expected = pretrain(whole, windows(), recipe, watch=pressing(set()), watch_every=1)
    path = tmp_path / "run.safetensors"
    for attempt in range(3):
        parts = GPTModel(config, seed=attempt)  # its own weights are replaced
        watch = pressing({3} if attempt < 2 else set())
        history = pretrain(parts, windows(), recipe, watch=watch, watch_every=1, checkpoint=path)
        assert history.finished == (attempt == 2)
    assert same(whole, parts)
    assert without_times(history) == without_times(expected) and history.looks == expected.looks
    assert len(history.steps) == math.ceil(25 / accumulate)


def test_a_run_that_died_goes_on_from_its_last_checkpoint(tmp_path):
    whole, parts = GPTModel(SMALL, seed=0), GPTModel(SMALL, seed=0)
    pretrain(whole, windows())

    def dying(model):
        if len(deaths) == 1:
            raise MemoryError("the power is gone")
        deaths.append(1)
        return {}

    deaths, path = [], tmp_path / "run.safetensors"
    options = {"checkpoint": path, "checkpoint_every": 5}
    with pytest.raises(MemoryError):
        pretrain(parts, windows(), watch=dying, watch_every=18, **options)
    parts = GPTModel(SMALL, seed=1)
    history = pretrain(parts, windows(), **options)
    assert same(whole, parts) and len(history.steps) == 25


def test_a_finished_run_is_found_and_not_repeated(tmp_path):
    path = tmp_path / "run.safetensors"
    first = GPTModel(SMALL, seed=0)
    history = pretrain(first, windows(), checkpoint=path)
    again = GPTModel(SMALL, seed=1)
    assert pretrain(again, windows(), checkpoint=path) == history and same(first, again)


def test_ctrl_c_works_as_usual_afterwards():
    usual = signal.getsignal(signal.SIGINT)
    pretrain(GPTModel(SMALL, seed=0), windows(500), watch=pressing({1}), watch_every=1)
    assert signal.getsignal(signal.SIGINT) is usual


def test_a_second_ctrl_c_does_not_wait():
    def impatient(model):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pretrain(GPTModel(SMALL, seed=0), windows(500), watch=impatient)


def test_training_works_outside_of_the_main_thread():
    result = []
    work = lambda: result.append(pretrain(GPTModel(SMALL, seed=0), windows(500)))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert result[0].finished


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    pretrain(GPTModel(SMALL, seed=0), windows(500), checkpoint=path)
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    wider = GPTModel(dataclasses.replace(SMALL, embed_dim=24), seed=0)
    model = GPTModel(SMALL, seed=0)
    for asked, message in (
        ((wider, windows(500)), "config.embed_dim is 12 in the file, 24 here"),
        (
            (model, windows(500), Recipe(matrix_rate=0.5)),
            "recipe.matrix_rate is 0.02 in the file, 0.5",
        ),
        ((model, windows(501)), "batches.total_tokens is 500 in the file, 501 here"),
        ((model, windows(500, count=701)), "batches.ids is .* in the file"),
    ):
        with pytest.raises(ValueError, match=f"another run: {message}.*delete it"):
            pretrain(*asked, checkpoint=path)
    assert before == (path.read_bytes(), path.with_suffix(".json").read_bytes())


def test_pretraining_wants_a_stream_that_knows_its_place():
    with pytest.raises(TypeError, match="a list; expected StoryBatches"):
        pretrain(GPTModel(SMALL, seed=0), [pad_rows([some_ids(9)])])
    with pytest.raises(NotImplementedError):
        list(Batches(10))


def test_a_text_with_foreign_ids_is_refused():
    batches = WindowBatches([5, 900] * 50, 8, 2, 200)
    with pytest.raises(ValueError, match="900.*vocab_size=300"):
        pretrain(GPTModel(SMALL, seed=0), batches)


# --- checkpoints


def test_a_checkpoint_gives_the_model_and_the_notes_back(tmp_path):
    model = GPTModel(dataclasses.replace(SMALL, qkv_bias=False), seed=5)
    path = tmp_path / "deep" / "model.safetensors"
    save_checkpoint(path, model, text="über", numbers=[1, 2.5, None])
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.safetensors"]
    again, notes = load_checkpoint(path)
    assert same(model, again) and again.config == model.config and not again.training
    assert notes == {"text": "über", "numbers": [1, 2.5, None]}
    assert load_checkpoint(str(path), model.config)[0].config == model.config


def test_a_checkpoint_is_loaded_without_touching_randomness(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", GPTModel(SMALL, seed=5))
    before = torch.random.get_rng_state()
    load_checkpoint(tmp_path / "a.safetensors")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, GPTModel(SMALL, seed=0))
    wanted = dataclasses.replace(SMALL, num_layers=3, dropout=0.1)
    with pytest.raises(ValueError) as error:
        load_checkpoint(path, wanted)
    for part in (
        "num_layers is 2 in the file, 3 here",
        "dropout is 0.0 in the file, 0.1",
        str(path),
    ):
        assert part in str(error.value)


def damage_truncate(weights, sheet):
    weights.write_bytes(weights.read_bytes()[:-100])


def damage_header(weights, sheet):
    weights.write_bytes(weights.read_bytes()[:5])


def damage_empty(weights, sheet):
    weights.write_bytes(b"")


def damage_pickle(weights, sheet):
    weights.write_bytes(pickle.dumps(Bomb()))


def damage_sheet(weights, sheet):
    sheet.write_text(sheet.read_text()[:50])


def damage_list(weights, sheet):
    sheet.write_text("[]")


def damage_format(weights, sheet):
    sheet.write_text(json.dumps(json.loads(sheet.read_text()) | {"format": "something else"}))


def damage_config(weights, sheet):
    content = json.loads(sheet.read_text())
    content["config"] = {"size": 3}
    sheet.write_text(json.dumps(content))


def damage_size(weights, sheet):
    content = json.loads(sheet.read_text())
    content["config"]["embed_dim"] = 24
    sheet.write_text(json.dumps(content))


def damage_binary(weights, sheet):
    sheet.write_bytes(b"\xff\xfe\x00")


DAMAGES = {
    name.removeprefix("damage_"): f for name, f in globals().items() if name[:7] == "damage_"
}


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("the file's code ran",)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, GPTModel(SMALL, seed=0))
    DAMAGES[damage](path, path.with_suffix(".json"))
    with pytest.raises(ValueError, match="a.safetensors"):
        load_checkpoint(path)
    if damage not in ("config", "size"):
        with pytest.raises(ValueError, match="not a checkpoint of this course.*Give another path"):
            load_checkpoint(path)


def test_two_files_of_different_checkpoints_do_not_go_together(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        save_checkpoint(tmp_path / f"{name}.safetensors", GPTModel(SMALL, seed=seed))
    shutil.copy(tmp_path / "a.json", tmp_path / "b.json")
    with pytest.raises(ValueError, match="not of the same checkpoint"):
        load_checkpoint(tmp_path / "b.safetensors")


@pytest.mark.parametrize("missing", [".json", ".safetensors"])
def test_a_missing_file_is_named(tmp_path, missing):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, GPTModel(SMALL, seed=0))
    path.with_suffix(missing).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"a\\{missing} is missing: a checkpoint is two files"
    ):
        load_checkpoint(path)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ends in .safetensors"):
        save_checkpoint(tmp_path / "model.pt", GPTModel(SMALL, seed=0))
    with pytest.raises(ValueError, match="ends in .safetensors"):
        load_checkpoint(tmp_path / "model.pt")


def full_disk(tensors, path, metadata=None):
    path.write_bytes(b"half of it")
    raise pc.SafetensorError("I/O error: No space left on device (os error 28)")


def test_a_full_disk_overwrites_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, GPTModel(SMALL, seed=0), step=1)
    monkeypatch.setattr(pc, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left.*unharmed") as error:
        save_checkpoint(path, GPTModel(SMALL, seed=1), step=2)
    assert error.value.errno == errno.ENOSPC
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.json", "a.safetensors"]
    model, notes = load_checkpoint(path)
    assert same(model, GPTModel(SMALL, seed=0)) and notes == {"step": 1}


def test_notes_that_json_cannot_hold_overwrite_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, GPTModel(SMALL, seed=0), step=1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(path, GPTModel(SMALL, seed=1), step=object())
    assert load_checkpoint(path)[1] == {"step": 1}


# --- who has what


@pytest.mark.parametrize("split", SPLITS)
def test_spans_are_the_tokens_of_the_answers(tokenizer, split):
    for story in told(40, split=split):
        (row,) = story_rows([story], tokenizer)
        spans = answer_spans(story, row, tokenizer)
        for probe, (first, last) in zip(story.probes, spans, strict=True):
            assert tokenizer.decode(row[first:last]).strip().startswith(probe.answer)
            assert tokenizer.decode(row[1:first]).rstrip() == story.text[: probe.start].rstrip()


def test_an_oracle_knows_who_has_what_and_a_liar_does_not(tokenizer):
    some = told(30)
    rows, probes = story_rows(some, tokenizer), sum(len(story.probes) for story in some)
    assert probes > 10
    assert who_has_what(Oracle(rows, 300), tokenizer, some) == (probes, probes)
    assert who_has_what(Oracle(rows, 300, wrong=True), tokenizer, some) == (0, probes)
    assert who_has_what(Oracle(rows, 300), tokenizer, []) == (0, 0)


def test_every_token_of_a_name_must_be_right(tokenizer):
    some = [s for s in told(80) if s.probes]
    rows = story_rows(some, tokenizer)
    longer = [
        max(b - a for a, b in answer_spans(s, r, tokenizer))
        for s, r in zip(some, rows, strict=True)
    ]
    story, row = next((s, r) for s, r, n in zip(some, rows, longer, strict=True) if n > 1)
    spoiled = Oracle([row], 300)
    first, last = answer_spans(story, row, tokenizer)[0]
    right = spoiled.forward

    def forward(token_ids):
        logits = right(token_ids)
        logits[:, last - 2, (row[last - 1] + 1) % 300] = 100.0  # the name's last token
        return logits

    spoiled.forward = forward
    right_now, asked = who_has_what(spoiled, tokenizer, [story])
    assert asked == len(story.probes) and right_now < asked


def test_wilson_interval():
    low, high = wilson(90, 100)
    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1
    for right, total in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"{right} of {total}"):
            wilson(right, total)


# --- the comparisons of experiments.py


@pytest.fixture(scope="module")
def experiments():
    """The module beside the notebook, which is in no package."""
    path = ROOT / "ch05_pretraining" / "experiments.py"
    spec = importlib.util.spec_from_file_location("ch05_experiments", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("progress", [0.0, 0.6])
def test_cut_stories_are_the_same_stories_cut_elsewhere(experiments, tokenizer, progress):
    recipe = dataclasses.replace(
        short_stories(tokenizer).recipe, curriculum=((0.0, 80), (1.0, 160)), tokens_per_batch=1300
    )
    whole = StoryBatches(tokenizer, recipe, pool=300)
    cut = experiments.CutStories(tokenizer, recipe, pool=300)
    end = tokenizer.special_tokens[END_OF_TEXT]
    told = {
        tuple(y[y != IGNORED].tolist()) for _, ys in whole.chunk(2, progress) for y in ys
    }  # each ends with the end mark
    windows = list(cut.chunk(2, progress))
    assert all(y.shape == (1300 // 128, 128) for _, y in windows) and windows
    found = 0
    for x, y in ((x, y) for xs, ys in windows for x, y in zip(xs, ys, strict=True)):
        assert torch.equal(x[1:], y[:-1])
        ends = [i for i, token in enumerate(x.tolist()) if token == end]
        for start, stop in itertools.pairwise(ends):
            assert tuple(x[start + 1 : stop + 1].tolist()) in told
            found += 1
    assert found > 0, "some stories lie whole inside a window"
    for one, other in zip(windows, cut.chunk(2, progress), strict=True):
        assert torch.equal(one[0], other[0]), "a chunk depends on its number and the progress alone"


def test_every_condition_of_the_comparison_has_its_batches(experiments, tokenizer):
    kinds = {name: StoryBatches for name in experiments.CONDITIONS}
    kinds |= {experiments.WINDOWS: WindowBatches, experiments.SHORT_WINDOWS: experiments.CutStories}
    for name, recipe in experiments.CONDITIONS.items():
        few = dataclasses.replace(recipe, total_tokens=2000)
        assert type(experiments.batches_for(name, few, tokenizer)) is kinds[name], name


def test_runs_are_kept_but_not_those_of_other_settings(experiments, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(experiments, "SEEDS", (0,))
    ran = []
    monkeypatch.setattr(experiments, "run", lambda condition, seed: ran.append(condition) or {})
    conditions = list(experiments.CONDITIONS)
    experiments.ingredients()
    experiments.ingredients()
    assert ran == conditions, "the second call finds all"
    monkeypatch.setattr(experiments, "BASE", dataclasses.replace(experiments.BASE, copying=0.25))
    before = experiments.RESULTS.read_bytes()
    with pytest.raises(ValueError, match="other settings"):
        experiments.ingredients()
    assert ran == conditions and experiments.RESULTS.read_bytes() == before, "another recipe"


# --- the story model

TINY = StoryRecipe(
    vocab_size=300,
    context_length=600,
    embed_dim=8,
    num_heads=2,
    num_layers=1,
    total_tokens=3000,
    tokens_per_batch=500,
    curriculum=(),
)


@pytest.fixture
def quick(monkeypatch):
    """Look at few stories only."""
    monkeypatch.setattr(pc, "watch_stories", partial(watch_stories, count=3))


def test_the_head_start_passes_on_what_is_seen():
    model = GPTModel(SMALL, seed=0)
    head_start(model, position_size=0.5, copying=0.4)
    attention = model.blocks[1].attention
    values = attention.qkv.weight[24:]
    assert torch.allclose(attention.out.weight @ values, 0.16 * torch.eye(12), atol=1e-6)
    positions = model.position_embedding.weight
    assert torch.allclose(positions.norm(dim=1), torch.full((24,), 0.5 * 12**0.5), atol=1e-5)
    head_start(GPTModel(dataclasses.replace(SMALL, embed_dim=9), seed=0), 0.5, 0.4)  # odd
    usual = GPTModel(SMALL, seed=0)
    head_start(usual, 0.0, 0.0)
    assert same(usual, GPTModel(SMALL, seed=0))


def test_the_story_model_is_made_once(quick, capsys):
    model, tokenizer = story_model(TINY)
    assert "minutes on this machine" in capsys.readouterr().out
    assert tokenizer.vocab_size == 300 and model.config.embed_dim == 8
    again, _ = story_model(TINY)
    assert same(model, again) and capsys.readouterr().out == "", "nothing is trained, nothing said"


def test_a_stopped_story_model_is_finished_at_the_next_call(quick, monkeypatch):
    whole, _ = story_model(dataclasses.replace(TINY))
    story_checkpoint(TINY).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(pc, "watch_stories", lambda tokenizer: pressing({0}))
        with pytest.raises(RuntimeError, match="call again"):
            story_model(TINY)
    parts, _ = story_model(TINY)
    assert same(whole, parts)


def test_a_world_that_tells_other_stories_gets_its_own_checkpoint(monkeypatch):
    import shared.stories

    before = story_checkpoint(TINY)
    monkeypatch.setattr(shared.stories, "story_text", lambda *_, **__: "Other stories.")
    assert story_checkpoint(TINY) != before


def test_another_recipe_is_another_file():
    assert story_checkpoint(TINY) == story_checkpoint(dataclasses.replace(TINY))
    for change in ({"seed": 1}, {"total_tokens": 3001}, {"training": Recipe(decay=0.4)}):
        assert story_checkpoint(TINY) != story_checkpoint(dataclasses.replace(TINY, **change))


def test_code_is_followed_to_all_that_it_uses():
    code = code_of(pretrain, new_story_model)
    for name in ("Muon.step", "GPTModel.forward", "causal_weights", "own_randomness", "IGNORED"):
        assert name in code, name
    assert not any(
        "#" in text for name, text in code.items() if name in ("training_loop", "Muon.step")
    )
    assert "who_has_what" not in code and "wilson" not in code


class Clock:
    """Time that passes only when somebody says so."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(pc.time, "perf_counter", lambda: self.now)


def times_of_steps(monkeypatch, seconds: list[float]) -> list[int]:
    """Let training steps last as long as given, on a clock of our own; the targets of each."""
    clock, seen, step = Clock(monkeypatch), [], pc.training_step

    def slow_step(model, optimizers, batches, *bounds):
        clock.now += seconds[len(seen)]
        seen.append(sum(map(pc.count_targets, batches)))
        return step(model, optimizers, batches, *bounds)

    monkeypatch.setattr(pc, "training_step", slow_step)
    return seen


def test_the_expected_time_is_per_token_as_in_all_steps_but_the_first(tokenizer, monkeypatch):
    batches, model = short_stories(tokenizer), GPTModel(ROOMY, seed=0)
    seen = times_of_steps(monkeypatch, [0.001, 0.4, 0.1, 0.3, 0.4, 0.3])
    expected = expected_seconds(model, batches, Recipe())
    assert len(seen) == 6 and min(seen) > 0.5 * max(seen), "batches of about the same size"
    assert expected == pytest.approx(1.5 / sum(seen[1:]) * batches.total_tokens)
    assert same(model, GPTModel(ROOMY, seed=0)) and batches.place["tokens"] == 0, (
        "only a copy learns"
    )


def test_the_expected_time_is_there_soon_also_where_steps_are_slow(tokenizer, monkeypatch):
    batches = short_stories(tokenizer)
    seen = times_of_steps(monkeypatch, [30.0, 20.0])
    expected = expected_seconds(GPTModel(ROOMY, seed=0), batches, Recipe())
    assert len(seen) == 2 and expected == pytest.approx(20 / seen[1] * batches.total_tokens)


def test_a_story_begins_as_asked_and_depends_on_the_seed(tokenizer):
    model = GPTModel(dataclasses.replace(SMALL, context_length=64), seed=0)
    one, two = (
        write_story(model, tokenizer, "Mia had", max_new_tokens=9, generator=dice(4)) for _ in "12"
    )
    assert one == two and one.startswith("Mia had") and END_OF_TEXT not in one


# --- GPT-2

GPT2_SIZES = ((61, 13, 24, 3, 2), (97, 7, 40, 5, 3), (5, 31, 6, 1, 1))


def transformers_gpt2(sizes: tuple[int, ...], seed: int = 0, head: bool = True):
    """A GPT-2 of transformers with random weights, biases and norms included."""
    transformers = pytest.importorskip("transformers")
    vocab, context, dim, heads, layers = sizes
    config = transformers.GPT2Config(
        vocab_size=vocab, n_positions=context, n_embd=dim, n_head=heads, n_layer=layers,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    theirs = (transformers.GPT2LMHeadModel if head else transformers.GPT2Model)(config).eval()
    with torch.no_grad():
        for i, p in enumerate(theirs.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, generator=dice(1000 * seed + i)))
    return theirs


@pytest.mark.parametrize("sizes", GPT2_SIZES)
def test_gpt2s_logits_are_those_of_transformers(tmp_path, sizes):
    theirs = transformers_gpt2(sizes)
    theirs.save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path)
    assert ours.config == GPTConfig(*sizes) and not ours.training
    ids = torch.tensor([some_ids(sizes[1], sizes[0], seed=s) for s in range(3)])
    with torch.no_grad():
        assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-4


def test_gpt2_without_a_prefix_is_the_same(tmp_path):
    theirs = transformers_gpt2(GPT2_SIZES[0], head=False)
    theirs.save_pretrained(tmp_path)
    ours, ids = load_gpt2(str(tmp_path)), torch.tensor([some_ids(11, 61)])
    with torch.no_grad():
        expected = theirs(ids).last_hidden_state @ theirs.wte.weight.T
        assert (ours(ids) - expected).abs().max() <= 1e-4


def test_a_loaded_gpt2_can_be_trained_saved_and_changed(tmp_path):
    transformers_gpt2(GPT2_SIZES[1]).save_pretrained(tmp_path / "theirs")
    model = load_gpt2(tmp_path / "theirs", dropout=0.1)
    assert model.config.dropout == 0.1 and all(p.requires_grad for p in model.parameters())
    assert model.output_head.weight is model.token_embedding.weight
    pretrain(model, WindowBatches(some_ids(100, 97), 7, 2, 50))
    save_checkpoint(tmp_path / "ours.safetensors", model)
    assert same(load_checkpoint(tmp_path / "ours.safetensors")[0], model)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "llama"}, "model_type='llama'"),
        ({"activation_function": "relu"}, "activation_function='relu' .expected 'gelu_new'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"n_inner": 77}, "n_inner=77"),
        ({"n_layer": 3}, "Missing key|blocks.2"),
        ({"n_embd": 48}, "size mismatch"),
        ({"n_head": 7}, "num_heads=7"),
    ],
)
def test_other_models_are_refused(tmp_path, change, message):
    transformers_gpt2(GPT2_SIZES[0]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        load_gpt2(tmp_path)


def test_damaged_and_missing_gpt2_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json and no model.safetensors"):
        load_gpt2(tmp_path)
    transformers_gpt2(GPT2_SIZES[0]).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-10], b"", b"<html>not found</html>"):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match="not a GPT-2 that can be loaded"):
            load_gpt2(tmp_path)
    weights.write_bytes(whole)
    (tmp_path / "config.json").write_text("[1, 2")
    with pytest.raises(ValueError, match="not a GPT-2 that can be loaded"):
        load_gpt2(tmp_path)
    for name in ("gpt3", "../nowhere/gpt2", str(tmp_path / "nothing")):
        with pytest.raises(FileNotFoundError, match="neither a folder nor a model's name"):
            load_gpt2(name)


def test_offline_there_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="openai-community/gpt2.*load_gpt2 takes a folder"):
        load_gpt2("gpt2")


def test_gpt2_comes_from_the_mirror_that_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "openai-community" / "gpt2" / "resolve" / "main"
    theirs = transformers_gpt2(GPT2_SIZES[0])
    theirs.save_pretrained(folder)
    serve = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    serve.log_message = lambda *a: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        ours = load_gpt2("gpt2")
    finally:
        server.shutdown()
    with torch.no_grad():
        ids = torch.tensor([some_ids(5, 61)])
        assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-4


# --- CUDA


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_pretraining_runs_on_cuda_in_bfloat16(tmp_path):
    model = GPTModel(SMALL, seed=0).cuda()
    path = tmp_path / "run.safetensors"
    history = pretrain(model, WindowBatches([7, 8, 9] * 200, 10, 4, 3000), checkpoint=path)
    assert history.steps[-1]["loss"] < 1 and all(
        p.dtype == torch.float32 for p in model.parameters()
    )
    again = GPTModel(SMALL, seed=1).cuda()
    pretrain(again, WindowBatches([7, 8, 9] * 200, 10, 4, 3000), checkpoint=path)
    assert same(model, again)


def test_batches_grow_along_the_run(tokenizer):
    recipe = StoryRecipe(curriculum=(), tokens_per_batch=800, batch_growth=4.0)
    batches = StoryBatches(tokenizer, recipe)
    places = [
        max(batch[0].numel() for batch in islice(batches.chunk(0, progress), 10))
        for progress in (0.0, 0.5, 1.0)
    ]
    assert [round(number / 800, 1) for number in places] == pytest.approx([1, 2.5, 4], abs=0.4)
