"""Appendix D: schedules, averages, the finder, intervals, and a trial with every switch."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import statistics
from dataclasses import asdict, fields, replace
from functools import cache

import pytest
import torch
from torch import nn

from shared.appendices import (
    STUDENT_95,
    RateSearch,
    Trial,
    WeightAverage,
    cosine_rate_at,
    decay_groups,
    find_learning_rate,
    first_weights,
    give_weights,
    look_at_trial,
    paired_t_interval,
    run_trial,
    trial_batches,
    trial_exam,
    trial_factor,
    trial_loss,
    trial_model,
    trial_optimizers,
    trial_rows,
    trial_step,
    wsd_rate_at,
)
from shared.artifacts import ROOT
from shared.previous_chapters import (
    IGNORED,
    GPTConfig,
    GPTModel,
    Muon,
    count_targets,
    evaluate,
    learning_rate_at,
    next_token_loss,
    pad_rows,
    story_tokenizer,
)

SMALL = Trial(num_tokens=3_000, tokens_per_batch=300, embed_dim=24)
TINY = replace(SMALL, num_tokens=900, embed_dim=12)
RESULTS = ROOT / "appendix" / "d_training_tricks" / "results"


@cache
def tokenizer():
    return story_tokenizer(SMALL.vocab_size)


@cache
def plain_loss() -> float:
    """Of a tiny trial, all switches off."""
    return run_trial(TINY, looks=1)["loss"]


def small_gpt(seed: int = 0, layers: int = 3) -> GPTModel:
    return GPTModel(GPTConfig(61, 23, 12, 3, layers), seed=seed)


def weights_of(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Schedules


@pytest.mark.parametrize(
    ("progress", "warmup", "floor", "wanted"),
    [(0.0, 0.1, 0.0, 0.0), (0.05, 0.1, 0.0, 0.5), (0.1, 0.1, 0.0, 1.0), (0.55, 0.1, 0.0, 0.5)]
    + [(0.25, 0.0, 0.0, (1 + 0.5**0.5) / 2), (1.0, 0.1, 0.2, 0.2), (0.5, 0.0, 0.2, 0.6)]
    + [(0.4, 1.0, 0.0, 0.4), (1.0, 1.0, 0.3, 0.3)],
)
def test_the_cosine_at_points_worked_out_by_hand(progress, warmup, floor, wanted):
    assert cosine_rate_at(progress, warmup, floor) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "settings", "wanted"),
    [(0.025, {}, 0.5), (0.05, {}, 1.0), (0.7, {}, 1.0), (0.85, {}, 0.5), (1.0, {}, 0.0)]
    + [(0.85, {"shape": "sqrt"}, 1 - 0.5**0.5), (1.0, {"floor": 0.1}, 0.1)]
    + [(0.85, {"floor": 0.5}, 0.75), (0.0, {"warmup": 0.0}, 1.0), (1.0, {"decay": 0.0}, 1.0)],
)
def test_warm_up_stable_decay_at_points_worked_out_by_hand(progress, settings, wanted):
    assert wsd_rate_at(progress, **settings) == pytest.approx(wanted, abs=1e-12)


def test_wsd_is_chapter_5s_schedule_where_both_are_defined():
    for warmup, decay in ((0.01, 0.7), (0.3, 0.3), (0.0, 1.0)):
        for i in range(101):
            given = wsd_rate_at(i / 100, warmup, decay)
            assert given == pytest.approx(learning_rate_at(i / 100, warmup, decay), abs=1e-9)


@pytest.mark.parametrize("settings", [{"warmup": 0.8}, {"shape": "cosine"}, {"decay": 1.2}])
def test_wsd_refuses_what_is_no_schedule(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        wsd_rate_at(0.5, **settings)


def test_schedules_refuse_progress_outside_of_the_run():
    for schedule in (cosine_rate_at, wsd_rate_at):
        with pytest.raises(ValueError, match="progress=1.2"):
            schedule(1.2)


# The average of weights


def test_the_average_is_a_plain_mean_at_first_and_then_exponential():
    model = nn.Linear(3, 2)
    average, dice = WeightAverage(model, longest=0.8), torch.Generator().manual_seed(1)
    seen, wanted = [], None
    for t in range(12):
        give_weights(model, [torch.randn(p.shape, generator=dice) for p in model.parameters()])
        average.update()
        seen.append(weights_of(model))
        keep = min(0.8, t / (t + 1))
        wanted = [
            (keep * old + (1 - keep) * new) if wanted else new
            for old, new in zip(wanted or seen[-1], seen[-1], strict=True)
        ]
        if t < 4:
            plain = torch.stack([weights[0] for weights in seen]).mean(0)
            torch.testing.assert_close(average.means[0], plain)
    for mean, value in zip(average.means, wanted, strict=True):
        torch.testing.assert_close(mean, value)


def test_the_model_gets_its_own_weights_back_even_after_an_error():
    model = small_gpt()
    average = WeightAverage(model, 0.5)
    average.update()
    with torch.no_grad():
        model.final_norm.bias.add_(1)
    own = weights_of(model)
    with average.in_place():
        assert not same(weights_of(model), own)
    assert same(weights_of(model), own)
    with pytest.raises(KeyError), average.in_place():
        raise KeyError
    assert same(weights_of(model), own)


def test_the_average_says_what_is_wrong():
    with pytest.raises(ValueError, match="longest=1.0"):
        WeightAverage(nn.Linear(1, 1), 1.0)
    with (
        pytest.raises(RuntimeError, match="call update"),
        WeightAverage(nn.Linear(1, 1)).in_place(),
    ):
        pass


# Groups, first weights, the finder


def test_only_matrices_inside_the_blocks_decay_and_nobody_is_forgotten():
    model = small_gpt()
    decaying, others = decay_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[1] for p in decaying["params"]} == {"weight"}
    assert all(names[id(p)].startswith("blocks") and p.ndim == 2 for p in decaying["params"])
    assert len(decaying["params"]) == 4 * 3
    every = [id(p) for group in (decaying, others) for p in group["params"]]
    assert sorted(every) == sorted(names)
    with pytest.raises(ValueError, match="-0.1"):
        decay_groups(model, -0.1)


def test_weight_decay_without_a_gradient_shrinks_matrices_alone():
    model = small_gpt()
    before = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(decay_groups(model, 0.5), lr=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    matrix, old = model.blocks[1].feed_forward.up.weight, before.blocks[1].feed_forward.up.weight
    torch.testing.assert_close(matrix, 0.95 * old)
    assert torch.equal(model.token_embedding.weight, before.token_embedding.weight)


def test_first_weights_have_the_spreads_they_promise():
    model = GPTModel(GPTConfig(101, 31, 48, 4, 8), seed=3)
    writer, reader = model.blocks[2].attention.out.weight, model.blocks[2].feed_forward.up.weight
    for start, spread in (("gpt2", 0.02 / 4), ("unscaled", 0.02), ("zero", 0.0)):
        first_weights(model, start, 3)
        assert writer.std().item() == pytest.approx(spread, rel=0.1, abs=1e-9)
        assert reader.std().item() == pytest.approx(0.02, rel=0.1)
    first_weights(model, "torch", 3)
    assert model.token_embedding.weight.std().item() == pytest.approx(1.0, rel=0.05)
    assert reader.abs().max().item() <= 48**-0.5
    first_weights(model, "head start", 3)
    values = model.blocks[0].attention.qkv.weight[2 * 48 :]
    passed = model.blocks[0].attention.out.weight @ values
    torch.testing.assert_close(passed, 0.25 * torch.eye(48), atol=1e-5, rtol=0)


@pytest.mark.parametrize("start", ["gpt2", "unscaled", "zero", "torch", "head start"])
def test_first_weights_depend_on_their_seed_alone(start):
    one, other = small_gpt(1), small_gpt(2)
    torch.manual_seed(0)
    first_weights(one, start, 5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first_weights(other, start, 5)
    assert torch.equal(state, torch.get_rng_state()), "the common randomness was used"
    assert same(weights_of(one), weights_of(other))


def test_first_weights_refuse_another_word():
    with pytest.raises(ValueError, match="start='xavier'.*head start"):
        first_weights(small_gpt(), "xavier", 0)


def test_the_finder_finds_the_steep_place_of_a_valley():
    """x²/2 by plain descent: factor |1 - rate| a step, so best at 1, and above 2 it blows up."""
    at = [5.0]

    def step(rate: float) -> float:
        loss = at[0] ** 2 / 2
        at[0] *= 1 - rate
        return loss

    found = find_learning_rate(step, 1e-3, 100.0, steps=60, keep=0.0)
    assert isinstance(found, RateSearch) and 0.05 < found.suggestion < 2
    assert len(found.rates) == len(found.losses) < 60, "it should stop when the loss blows up"
    assert found.rates[0] == pytest.approx(1e-3)
    ratios = [b / a for a, b in zip(found.rates, found.rates[1:], strict=False)]
    assert ratios == pytest.approx([1e5 ** (1 / 59)] * len(ratios))


def test_the_finder_smooths_without_a_pull_towards_zero_and_stops_at_nan():
    losses = iter([4.0] * 15 + [math.nan])
    found = find_learning_rate(lambda rate: next(losses), steps=50)
    assert found.losses == pytest.approx([4.0] * 15)


@pytest.mark.parametrize("settings", [{"lowest": 0.0}, {"lowest": 2.0}, {"steps": 9}])
def test_the_finder_refuses_rates_that_do_not_rise(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        find_learning_rate(lambda rate: 1.0, **settings)


# Intervals


def test_the_interval_is_students():
    mean, low, high = paired_t_interval([-0.05, -0.04, -0.07])
    assert (mean, low, high) == pytest.approx((-0.16 / 3, -0.0913, -0.0154), abs=1e-4)
    assert paired_t_interval([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)
    for wrong in ([], [1.0], [0.0] * 11):
        with pytest.raises(ValueError, match=f"{len(wrong)} differences"):
            paired_t_interval(wrong)


def test_students_factors_leave_five_of_a_hundred_outside():
    """The density of t with k freedoms, added up between -t and t."""
    for k, t in enumerate(STUDENT_95, 1):
        x = torch.linspace(-t, t, 200_001, dtype=torch.double)
        log_norm = math.lgamma((k + 1) / 2) - math.lgamma(k / 2) - 0.5 * math.log(k * math.pi)
        density = (log_norm - (k + 1) / 2 * torch.log1p(x**2 / k)).exp()
        assert torch.trapezoid(density, x).item() == pytest.approx(0.95, abs=2e-4)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    dice = torch.Generator().manual_seed(4)
    held = 0
    for _ in range(2000):
        _, low, high = paired_t_interval((0.3 + torch.randn(4, generator=dice)).tolist())
        held += low <= 0.3 <= high
    assert 0.935 < held / 2000 < 0.965


# Trials


def test_a_trial_reads_the_same_stories_whatever_its_tricks():
    told = sorted(trial_rows(SMALL, tokenizer()))
    for order in ("short first", "long first"):
        rows = trial_rows(replace(SMALL, order=order), tokenizer())
        lengths = [len(row) for row in rows]
        assert sorted(rows) == told and lengths == sorted(lengths, reverse=order == "long first")
    twice = trial_rows(replace(SMALL, order="half twice"), tokenizer())
    assert twice[: len(twice) // 2] == twice[len(twice) // 2 :]
    assert twice[: len(twice) // 2] == trial_rows(SMALL, tokenizer())[: len(twice) // 2]
    assert trial_rows(replace(SMALL, seed=1), tokenizer()) != trial_rows(SMALL, tokenizer())
    with pytest.raises(ValueError, match="order='random'"):
        trial_rows(replace(SMALL, order="random"), tokenizer())


def test_no_token_is_lost_in_batches_and_they_grow():
    asked = sum(len(row) - 1 for row in trial_rows(SMALL, tokenizer()))
    trial = replace(SMALL, num_tokens=40_000)
    for tricks in ({}, {"order": "short first"}, {"tokens_per_batch": 150}):
        batches = trial_batches(replace(SMALL, **tricks), tokenizer())
        assert sum(map(count_targets, batches)) == asked
    growing = trial_batches(replace(trial, batch_growth=4.0), tokenizer())
    counts = list(map(count_targets, growing))
    assert sum(counts) == sum(map(count_targets, trial_batches(trial, tokenizer())))
    assert statistics.mean(counts[-10:]) > 1.5 * statistics.mean(counts[:10])
    first, again = (trial_batches(SMALL, tokenizer()) for _ in range(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))


def test_short_first_begins_with_short_batches():
    batches = trial_batches(replace(SMALL, order="short first"), tokenizer())
    longest = [int((y != IGNORED).sum(1).max()) for _, y in batches]
    assert longest == sorted(longest)


def test_no_story_of_the_exam_is_read():
    read = {tuple(row) for row in trial_rows(SMALL, tokenizer())}
    for inputs, targets in trial_exam(tokenizer(), 40):
        for row, asked in zip(inputs.tolist(), targets, strict=True):
            assert tuple(row[: int((asked != IGNORED).sum())]) not in {r[:-1] for r in read}


def test_with_all_switches_off_a_trial_is_the_plain_loop():
    model = trial_model(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=SMALL.rate, weight_decay=0.0, fused=True)
    for batch in trial_batches(SMALL, tokenizer()):
        next_token_loss(model, *batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    run = run_trial(SMALL)
    assert run["loss"] == pytest.approx(evaluate(model, trial_exam(tokenizer())), abs=1e-4)
    assert run["tokens"] == sum(map(count_targets, trial_batches(SMALL, tokenizer())))
    assert len(run["looks"]) == 3 and run["looks"][-1] == (1.0, run["loss"])


SWITCHES = {
    "rate": 0.01,
    "beta": 0.9,
    "start": "torch",
    "warmup": 0.3,
    "schedule": "cosine",
    "max_norm": 0.1,
    "weight_decay": 5.0,
    "accumulate": 2,
    "average": 0.5,
    "precision": "bfloat16",
    "muon_rate": 0.02,
    "table_factor": 4.0,
    "order": "short first",
    "dropout": 0.2,
    "label_smoothing": 0.2,
}


def test_every_switch_of_a_trial_is_tried_here():
    size = {"vocab_size", "embed_dim", "num_tokens", "tokens_per_batch", "seed"}
    depend = {"decay", "decay_all", "batch_growth"}  # on another switch, or on many stories
    assert {f.name for f in fields(Trial)} - size - depend == set(SWITCHES)


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_does_something_and_looking_changes_nothing(name):
    trial = replace(TINY, **{name: SWITCHES[name]})
    tricked = run_trial(trial, looks=2)
    assert math.isfinite(tricked["loss"]) and tricked["loss"] != plain_loss()
    assert run_trial(trial, looks=1)["loss"] == tricked["loss"]


def test_the_schedule_reaches_the_optimisers():
    trial = replace(SMALL, schedule="wsd", warmup=0.2, decay=0.5, muon_rate=0.02)
    factors = [step["factor"] for step in run_trial(trial)["steps"]]
    assert factors[0] < 0.5 and max(factors) == 1.0 and factors[-1] < 0.3
    model = trial_model(trial)
    optimizers = trial_optimizers(model, trial)
    trial_step(model, optimizers, trial_batches(trial, tokenizer())[:1], trial, 0.25)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    assert rates == pytest.approx([0.005, 0.005, 0.25 * trial.rate, 0.25 * trial.rate])
    with pytest.raises(ValueError, match="schedule='linear'"):
        trial_factor(replace(trial, schedule="linear"), 0.5)


@pytest.mark.parametrize("muon_rate", [0.0, 0.02])
@pytest.mark.parametrize("decay_all", [False, True])
def test_every_parameter_has_an_optimiser_and_its_decay(muon_rate, decay_all):
    trial = replace(SMALL, weight_decay=0.1, decay_all=decay_all, muon_rate=muon_rate)
    model = trial_model(trial)
    groups = [g for optimizer in trial_optimizers(model, trial) for g in optimizer.param_groups]
    every = [id(p) for group in groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in model.parameters())
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decays[id(model.blocks[0].feed_forward.up.weight)] == 0.1
    assert decays[id(model.token_embedding.weight)] == (0.1 if decay_all else 0.0)
    assert isinstance(trial_optimizers(model, trial)[0], Muon) == bool(muon_rate)


def test_bites_of_a_step_count_by_their_targets_and_clipping_keeps_the_direction():
    trial, rows = replace(SMALL, embed_dim=12), trial_rows(SMALL, tokenizer())[:7]
    moved = []
    for bites in ([rows], [rows[:1], rows[1:3], rows[3:]]):
        for max_norm in (math.inf, 0.01):
            model = trial_model(trial)
            before = weights_of(model)
            sgd = torch.optim.SGD(model.parameters(), lr=1.0)
            sgd.param_groups[0]["peak"] = 1.0
            how = replace(trial, max_norm=max_norm)
            loss, norm = trial_step(model, [sgd], [pad_rows(bite) for bite in bites], how, 1.0)
            step = torch.cat(
                [(b - p).flatten() for b, p in zip(before, model.parameters(), strict=True)]
            ).detach()
            moved.append((loss, norm, step))
    for loss, norm, step in moved:
        assert (loss, norm) == pytest.approx(moved[0][:2], rel=1e-4)
        assert torch.cosine_similarity(step, moved[0][2], dim=0) > 0.999
    assert moved[0][2].norm() == pytest.approx(moved[0][1], rel=1e-3)
    assert moved[1][2].norm() == pytest.approx(0.01, rel=1e-3)


def test_the_loss_is_chapter_5s_and_smoothing_raises_a_sure_models_loss():
    model, batch = trial_model(SMALL), trial_batches(SMALL, tokenizer())[0]
    torch.testing.assert_close(trial_loss(model, batch, SMALL), next_token_loss(model, *batch))
    half = trial_loss(model, batch, replace(SMALL, precision="bfloat16"))
    assert half.dtype == torch.float32 and abs(half - trial_loss(model, batch, SMALL)) < 0.02


def test_looking_through_the_average_leaves_the_model_alone():
    model, exam = trial_model(SMALL), trial_exam(tokenizer(), 8)
    average = WeightAverage(model, 0.9)
    average.update()
    usual = evaluate(model, exam)
    with torch.no_grad():
        model.final_norm.weight.mul_(50)
    assert look_at_trial(model, exam, average) == pytest.approx(usual, abs=1e-5)
    assert look_at_trial(model, exam, None) > usual + 0.1


# The files


def experiments():
    path = RESULTS.parent / "experiments.py"
    spec = importlib.util.spec_from_file_location("app_d_experiments", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["rates", "tricks", "together", "longer"])
def test_the_files_were_made_with_these_settings(name):
    """The same baseline, and each condition with the change that its name has now."""
    plan = experiments()
    found = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    conditions = getattr(plan, name.upper())
    assert found["settings"] == json.loads(json.dumps(asdict(plan.BASE)))
    for run in found["runs"]:
        assert run["changes"] == json.loads(json.dumps(conditions[run["condition"]]))
    assert {run["condition"] for run in found["runs"]} == set(conditions)
    whole = [
        seed
        for seed in found["seeds"]
        if {r["condition"] for r in found["runs"] if r["seed"] == seed} == set(conditions)
    ]
    assert len(whole) >= (2 if name == "rates" else 3), "too few seeds"


def test_the_last_comparison_has_seeds_of_its_own():
    plan = experiments()
    assert not set(plan.NEW_SEEDS) & set(plan.SEEDS)
    assert not set(plan.TUNING_SEEDS) & {*plan.SEEDS, *plan.NEW_SEEDS}


def test_a_comparison_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    plan, trained = experiments(), []
    monkeypatch.setattr(plan, "RESULTS", tmp_path)

    def run_trial(trial, looks):
        trained.append((trial.rate, trial.seed))
        return {"loss": trial.rate, "tokens": 1, "seconds": 0.5, "steps": [1]}

    monkeypatch.setattr(plan, "run_trial", run_trial)
    conditions = {"baseline": {}, "slow": dict(rate=0.1)}
    plan.compare("tried", "what", conditions, (0, 1), minutes=math.inf)
    assert len(trained) == 4
    plan.compare("tried", "what", conditions, (0, 1, 2), minutes=math.inf)
    assert len(trained) == 6 and trained[-1] == (0.1, 2)
    plan.compare("tried", "what", conditions | {"slow": dict(rate=0.2)}, (0,), minutes=math.inf)
    assert trained[6:] == [(0.2, 0)], "a changed condition is run again, the others are not"
    plan.compare("tried", "what", conditions, (7,), minutes=-math.inf)
    assert len(trained) == 7, "time was up"
