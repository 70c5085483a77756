"""Appendix J, first half: counts by hand and by PyTorch, the law's fit, the forecast, the bill."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from shared.appendices import (
    A100,
    GPU_PEAKS,
    H100,
    LAW_LENGTH,
    Accelerator,
    LossLaw,
    RooflineCase,
    attention_case,
    best_width,
    bootstrap_laws,
    cost_sheet,
    elementwise_case,
    fastest_seconds,
    fit_loss_law,
    foretell,
    known_peak_flops,
    law_config,
    law_exam,
    law_floor,
    law_recipe,
    law_run,
    machine_limits,
    matrix_case,
    measured_cases,
    measured_utilisation,
    model_flops_utilisation,
    multiplying_weights,
    solve_for_powers,
    step_peak_bytes,
    step_seconds,
    tokens_for,
    training_flops,
    training_memory,
)
from shared.artifacts import ROOT
from shared.previous_chapters import (
    GPT2_CONFIGS,
    GPTConfig,
    GPTModel,
    memory_ledger,
    parameter_ledger,
)

ODD = GPTConfig(vocab_size=331, context_length=48, embed_dim=36, num_heads=3, num_layers=2)
RESULTS = ROOT / "appendix/j_scaling/results"


# --- J.1 and J.2: counts


def test_training_flops_are_the_hand_count_on_an_odd_shape():
    matrices = 2 * 12 * 36 * 36 + 331 * 36
    assert multiplying_weights(ODD) == matrices
    pairs = 12 * 2 * 36 * 41
    assert training_flops(ODD, 7, 41) == 7 * (6 * matrices + pairs)
    assert training_flops(ODD, 1) == 6 * matrices + 12 * 2 * 36 * 48  # full texts


@pytest.mark.parametrize(
    "config, batch, tokens",
    [
        (ODD, 5, 41),
        (GPTConfig(97, 20, embed_dim=12, num_heads=4, num_layers=5, qkv_bias=False), 3, 1),
        (GPTConfig(50, 33, embed_dim=40, num_heads=1, num_layers=1), 1, 33),
    ],
)
def test_pytorchs_counter_agrees_to_the_last_digit(config, batch, tokens):
    with torch.device("meta"):
        model, ids = GPTModel(config), torch.zeros(batch, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    assert counter.get_total_flops() == training_flops(config, batch * tokens, tokens)


@pytest.mark.parametrize("tokens, length", [(0, 4), (10, 0), (10, 49)])
def test_training_flops_refuse_what_cannot_be_trained(tokens, length):
    with pytest.raises(ValueError, match="context_length=48"):
        training_flops(ODD, tokens, length)


SIZES_PUBLISHED = list(zip(GPT2_CONFIGS, (124, 355, 774, 1558), strict=True))


@pytest.mark.parametrize("name, millions", SIZES_PUBLISHED)
def test_published_sizes(name, millions):
    sheet = cost_sheet(GPT2_CONFIGS[name], 1e9, A100, mfu=0.5, euros_per_hour=1)
    assert round(sheet["parameters"] / 1e6) == millions


def test_peak_has_two_moments_and_says_which():
    many, few = step_peak_bytes(ODD, 30, 41), step_peak_bytes(ODD, 1, 2)
    ledger = memory_ledger(ODD, 30, 41)
    assert many["turning point"] == ledger["activations"] + 3 * ledger["log-probabilities"]
    assert many["gradients"] == 0 == few["turning point"]
    numbers = sum(parameter_ledger(ODD).values())
    assert few["gradients"] == 4 * (numbers + 2 * 331 * 36)
    assert few["weights"] == 4 * numbers == few["AdamW's averages"] / 2
    assert step_peak_bytes(ODD, 30, 41, 2)["turning point"] == many["turning point"] / 2


# --- J.3: the machine


def test_cases_count_by_hand_and_compute_what_they_say():
    case = matrix_case("a", rows=3, inner=5, columns=7, copies=2)
    assert (case.flops, case.num_bytes) == (2 * 2 * 3 * 5 * 7, 2 * 4 * (15 + 35 + 21))
    assert case.intensity == case.flops / case.num_bytes
    assert [tuple(m.shape) for m in case.work()] == [(3, 7), (3, 7)]
    case = attention_case("b", queries=2, keys=9, heads=3, copies=2)
    assert (case.flops, case.num_bytes) == (2 * 4 * 3 * 2 * 9 * 64, 2 * 4 * 3 * 64 * 2 * (2 + 9))
    assert [tuple(t.shape) for t in case.work()] == [(1, 3, 2, 64)] * 2
    assert elementwise_case("LayerNorm", 4, 6, 1).intensity == 1
    assert elementwise_case("addition", 4, 6, 2).intensity == 1 / 12


def test_the_fastest_round_counts_and_the_first_does_not(monkeypatch):
    clock = iter([0, 0.1, 1, 4, 5, 7, 10, 15])  # rounds of 0.1, 3, 2 and 5 seconds
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert fastest_seconds(lambda: None, repeats=3) == 2


def test_measured_speed_is_flops_over_seconds(monkeypatch):
    import shared.appendices as appendices

    monkeypatch.setattr(appendices, "fastest_seconds", lambda work, repeats: 0.5)
    case = RooflineCase("a", flops=100, num_bytes=50, work=lambda: None)
    assert measured_cases([case]) == [{"name": "a", "intensity": 2, "flops": 200}]
    monkeypatch.setattr(appendices, "step_seconds", lambda *_, **__: 2.0)
    flops = training_flops(GPTConfig(1024, 256, 16, 4, 2), 1024, 128)
    assert measured_utilisation(16, peak=flops) == 0.5


def test_limits_and_a_step_are_measured_at_all():
    limits = machine_limits(repeats=1)
    assert limits["flops"] > 1e8 and limits["bandwidth"] > 1e7
    assert 0 < step_seconds(ODD, batch_size=2, num_tokens=8, repeats=1) < 60


def test_utilisation():
    assert model_flops_utilisation(3e12, 2, 5e12) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="above 0"):
        model_flops_utilisation(1, 0, 1)


@pytest.mark.parametrize(
    "name, teraflops",
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_peaks_by_device_name(name, teraflops):
    assert known_peak_flops(name) == teraflops * 1e12


@pytest.mark.parametrize("name", ["NVIDIA L40S", "T400", "a CPU"])
def test_an_unknown_device_is_not_taken_for_a_known_one(name):
    with pytest.raises(ValueError, match="measure it"):
        known_peak_flops(name)


# --- J.4: the law


SIZES = [22_528, 38_400, 57_344, 104_448, 163_840, 319_488]
TOKENS = [40_000, 130_000, 400_000, 1_300_000, 2_400_000]
PLACES = [(n, d) for n in SIZES for d in TOKENS]
TRUTH = LossLaw(irreducible=0.5, size=90.0, size_power=0.4, data=700.0, data_power=0.45)


def drawn(noise: float, seed: int = 0, law: LossLaw = TRUTH) -> list[float]:
    """Losses at PLACES, each off by a share of about `noise`."""
    dice = torch.Generator().manual_seed(seed)
    factors = 1 + noise * torch.randn(len(PLACES), generator=dice, dtype=torch.float64)
    return [law.loss(*place) * f for place, f in zip(PLACES, factors.tolist(), strict=True)]


@pytest.mark.parametrize(
    "law", [TRUTH, LossLaw(1.7, 400.0, 0.34, 2000.0, 0.37), LossLaw(0.2, 3e4, 1.2, 40.0, 0.3)]
)
def test_the_fit_finds_constants_that_are_known(law):
    n, d = zip(*PLACES, strict=True)
    found = fit_loss_law(n, d, drawn(0, law=law))
    for name, value in vars(law).items():
        assert getattr(found, name) == pytest.approx(value, rel=2e-3), name
    assert fit_loss_law(n, d, drawn(0, law=law), law.irreducible).irreducible == law.irreducible


def test_with_noise_the_interval_covers_the_truth():
    n, d = zip(*PLACES, strict=True)
    losses = drawn(0.01, seed=3)
    laws = bootstrap_laws(n, d, losses, count=60)
    floors = sorted(law.irreducible for law in laws)
    assert len(laws) == 60 and floors[1] < 0.5 < floors[-2]
    narrow = bootstrap_laws(n, d, losses, irreducible=0.5, count=60)
    spread = lambda laws: max(x.size_power for x in laws) - min(x.size_power for x in laws)
    assert spread(narrow) < spread(laws)  # knowing E pins the rest
    assert bootstrap_laws(n, d, losses, count=3) == laws[:3]  # seeded


def test_the_linear_part_is_least_squares():
    n, d = (torch.tensor(column, dtype=torch.float64) for column in zip(*PLACES, strict=True))
    n, d, y = n / 1e5, d / 1e6, torch.tensor(drawn(0.05, seed=1), dtype=torch.float64)
    powers = torch.tensor([[0.3, 0.7], [0.5, 0.2]], dtype=torch.float64)
    found, errors = solve_for_powers(powers, n, d, y, None)
    for (alpha, beta), numbers, error in zip(powers, found, errors, strict=True):
        design = torch.stack([torch.ones_like(n), n**-alpha, d**-beta], 1) / y[:, None]
        best = torch.linalg.lstsq(design, torch.ones(len(n), 1, dtype=torch.float64)).solution
        torch.testing.assert_close(numbers, best[:, 0])
        expected = (design @ best - 1).square().mean() if (best > 0).all() else math.inf
        assert error.item() == pytest.approx(float(expected))


def test_the_fit_refuses_too_little_and_the_impossible():
    with pytest.raises(ValueError, match="5 runs"):
        fit_loss_law(SIZES[:4], TOKENS[:4], [3.0, 2.0, 1.5, 1.2])
    for wrong in (0, -1.0, math.nan, math.inf):
        runs = [list(SIZES[:5]), list(TOKENS[:5]), [3.0, 2.0, 1.5, 1.2, 1.1]]
        for column in runs:
            kept, column[2] = column[2], wrong
            with pytest.raises(ValueError, match="not above 0, or not finite"):
                fit_loss_law(*runs)
            column[2] = kept
    with pytest.raises(ValueError, match="positive"):  # larger is worse, longer is worse
        fit_loss_law(*zip(*PLACES, strict=True), [n * d for n, d in PLACES])


def test_the_best_width_is_the_best():
    law = LossLaw(0.5, 2e4, 0.9, 300.0, 0.45)
    width = best_width(law, 1e12)
    loss = lambda w: law.loss(multiplying_weights(law_config(w)), tokens_for(w, 1e12))
    assert loss(width) == min(loss(w) for w in range(8, 257, 8))
    assert best_width(law, 1e12, [32, 64]) in (32, 64)
    assert best_width(law, 1e14) > width
    used = training_flops(law_config(64), tokens_for(64, 1e12), LAW_LENGTH)
    assert used == pytest.approx(1e12, rel=1e-4)


def test_a_forecast_from_clean_runs_is_the_law_and_its_bounds_hold_noise():
    runs = lambda losses: [
        {"weights": n, "tokens": d, "loss": y} for (n, d), y in zip(PLACES, losses, strict=True)
    ]
    at = multiplying_weights(law_config(96)), tokens_for(96, 4e12)
    clean = foretell(TRUTH, [TRUTH] * 50, runs(drawn(0)), 96, 4e12)
    assert clean["loss"] == clean["low"] == clean["high"] == pytest.approx(TRUTH.loss(*at))
    noisy = foretell(TRUTH, [TRUTH] * 200, runs(drawn(0.05)), 96, 4e12)
    assert noisy["low"] < 0.97 * noisy["loss"] and noisy["high"] > 1.03 * noisy["loss"]


def test_the_recipe_scales_rates_and_batches():
    short, long = law_recipe(32, 10_000), law_recipe(32, 1_000_000, seed=4, rates=1.0)
    assert long.tokens_per_batch == 10 * short.tokens_per_batch == 1250
    assert short.training.matrix_rate == 2 * long.training.matrix_rate
    assert (long.seed, long.training.seed, short.curriculum) == (4, 4, ())


def test_a_run_learns_counts_what_it_used_and_is_repeatable():
    run, again = law_run(16, 8_000, seed=1), law_run(16, 8_000, seed=1)
    assert run == again
    assert run["weights"] == 1024 * 16 + 2 * 12 * 16 * 16
    assert 8_000 <= run["tokens"] < 8_300 and run["steps"] > 50
    assert run["flops_used"] == training_flops(law_config(16), run["tokens"], LAW_LENGTH)
    assert law_floor() < run["loss"] < 0.9 * math.log(1024)
    assert law_exam() is law_exam() and len(law_exam()) == 400


# --- J.5: the bill


def test_the_bill_by_hand():
    kind = Accelerator("toy", peak_flops=1e12, memory_bytes=1e9, watts=500)
    sheet = cost_sheet(ODD, 3.6e9, kind, mfu=0.5, euros_per_hour=3.0, overhead=1.2, texts=2)
    per_token = 6 * (2 * 12 * 36 * 36 + 331 * 36) + 12 * 2 * 36 * 48
    hours = 3.6e9 * per_token / 0.5e12 / 3600
    assert sheet["FLOPs"] == 3.6e9 * per_token
    assert sheet["machine hours"] == pytest.approx(hours)
    assert sheet["euros"] == pytest.approx(3 * hours)
    assert sheet["kWh"] == pytest.approx(0.6 * hours)
    assert sheet["bytes to share"] == 16 * sum(parameter_ledger(ODD).values())
    halves = memory_ledger(ODD, 2, bytes_per_number=2)
    expected = halves["activations"] + 4 * 3 * 2 * 48 * 331
    assert sheet["activation bytes"] == expected


def test_machines_are_the_fewest_that_hold_it():
    config = GPT2_CONFIGS["gpt2-xl"]
    memory = training_memory(config, A100)
    assert memory["machines"] == 1
    room = lambda machines: memory["bytes to share"] / machines + memory["activation bytes"]
    for machines in (2, 3, 7):
        kind = Accelerator("toy", 1e12, memory_bytes=1.001 * room(machines) / 0.9, watts=1)
        assert training_memory(config, kind)["machines"] == machines
    with pytest.raises(ValueError, match="fewer texts"):
        training_memory(config, Accelerator("toy", 1e12, 3e9, 1))


@pytest.mark.parametrize(
    "wrong", [{"mfu": 0}, {"mfu": 1.1}, {"euros_per_hour": -1}, {"overhead": 0.9}]
)
def test_a_bill_with_an_impossible_price_is_refused(wrong):
    with pytest.raises(ValueError, match="expected an mfu"):
        cost_sheet(ODD, 1e9, A100, **{"mfu": 0.4, "euros_per_hour": 1.0} | wrong)


def test_published_runs_had_a_share_that_a_program_can_reach():
    hours = lambda name, tokens, kind, mfu: cost_sheet(
        GPT2_CONFIGS[name], tokens, kind, mfu=mfu, euros_per_hour=0
    )["machine hours"]
    assert hours("gpt2", 10e9, A100, 0.6) / 8 == pytest.approx(1.5, rel=0.1)  # llm.c: 90 minutes
    assert hours("gpt2-xl", 33.55e9, H100, 0.5) / 8 == pytest.approx(24, rel=0.05)  # llm.c: a day
    assert A100.peak_flops == GPU_PEAKS["A100"]


# --- the experiments


@pytest.fixture
def experiments(tmp_path, monkeypatch) -> ModuleType:
    """experiments.py, writing elsewhere."""
    path = ROOT / "appendix/j_scaling/experiments.py"
    spec = importlib.util.spec_from_file_location("j_experiments", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "j_experiments", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def test_no_larger_run_without_a_forecast_and_no_forecast_after_it(experiments, tmp_path):
    with pytest.raises(SystemExit, match="First write down"):
        experiments.larger(1)
    (tmp_path / "laws.json").write_text((RESULTS / "laws.json").read_text("utf-8"), "utf-8")
    stale = {"laws": "other", "flops": 1, "embed_dim": 8}
    (tmp_path / "prediction.json").write_text(json.dumps(stale), "utf-8")
    with pytest.raises(SystemExit, match="has changed"):
        experiments.larger(1)
    (tmp_path / "larger.json").write_text("{}", "utf-8")
    with pytest.raises(SystemExit, match="after the event"):
        experiments.prediction(1)


def test_the_forecast_in_the_repository_was_made_from_the_runs_there(experiments, monkeypatch):
    monkeypatch.setattr(experiments, "RESULTS", RESULTS)
    runs, digest = experiments.fitted_runs()
    forecast = json.loads((RESULTS / "prediction.json").read_text("utf-8"))
    assert forecast["laws"] == digest
    assert forecast["flops"] >= 4 * max(run["flops"] for run in runs)
    columns = [[run[key] for run in runs] for key in ("weights", "tokens", "loss")]
    for name, floor in (("E free", None), ("E known", law_floor())):
        law = fit_loss_law(*columns, floor)
        at = multiplying_weights(law_config(forecast["embed_dim"])), forecast["tokens"]
        assert law.loss(*at) == pytest.approx(forecast["forecasts"][name]["loss"], rel=0.01)
