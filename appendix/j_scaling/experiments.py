"""The experiments behind the first half of appendix J.

    python appendix/j_scaling/experiments.py rates       which learning rates, at both ends
    python appendix/j_scaling/experiments.py laws        the grid: four budgets, several widths
    python appendix/j_scaling/experiments.py prediction  the forecast, written down
    python appendix/j_scaling/experiments.py larger      the run that the fit has not seen
    python appendix/j_scaling/experiments.py machine     what this machine can do; wants it idle

On one thread of a busy machine `laws` took 35 minutes, `larger` 8, and the others 3 or less.
Each writes results/NAME.json after every run and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
import torch

import shared.stories
from shared.appendices import (
    best_width,
    bootstrap_laws,
    fit_loss_law,
    foretell,
    gpt_cases,
    law_floor,
    law_run,
    machine_limits,
    measured_cases,
    measured_utilisation,
    tokens_for,
)
from shared.experiments import keep_runs, source_hash, write_results

RESULTS = Path(__file__).resolve().parent / "results"
RATES_SEED = 100  # rates are chosen on it, and nothing else is
RATE_FACTORS = (1.0, 2.0, 4.0)  # times chapter 5's
GRID = {  # training FLOPs: widths, and how many seeds
    3e10: ((16, 20, 24, 32, 48), 3),
    1e11: ((16, 24, 32, 48, 64), 1),
    3e11: ((24, 32, 48, 64, 96), 1),
    1e12: ((32, 48, 64, 96), 1),
}
LARGER_FLOPS = 4e12  # four times the largest budget of the fit
WIDTHS = (16, 32, 64, 128, 256, 512)  # whose use of the machine is measured


def common() -> dict:
    """What all training runs share."""
    settings = {"vocab_size": 1024, "num_layers": 2, "num_heads": 4, "threads": 1}
    return {"settings": settings, "data": source_hash(shared.stories)}


def train(flops: float, embed_dim: int, seed: int, rates: float = 2.0) -> dict:
    """One run at this compute and width."""
    return law_run(embed_dim, tokens_for(embed_dim, flops), seed, rates)


def rates(minutes: float) -> None:
    """The same compute at three learning rates, for a narrow and a wide model."""
    cases = [
        {"embed_dim": dim, "flops": 1e11, "rates": factor, "seed": RATES_SEED}
        for dim, factor in product((24, 96), RATE_FACTORS)
    ]
    what = "Which learning rates, times chapter 5's? On a seed that is used for nothing else."
    keep_runs(RESULTS / "rates.json", what, cases, train, minutes=minutes, **common())


def laws(minutes: float) -> None:
    """The grid, all of a seed before the next."""
    cases = [
        {"flops": flops, "embed_dim": dim, "seed": seed}
        for seed in range(3)
        for flops, (dims, seeds) in GRID.items()
        for dim in (dims if seed < seeds else ())
    ]
    what = "Loss of small GPTs at equal compute: four budgets, several widths, up to three seeds."
    keep_runs(RESULTS / "laws.json", what, cases, train, minutes=minutes, **common())


def fitted_runs() -> tuple[list[dict], str]:
    """The runs of `laws`, and a digest that changes when one of them does."""
    runs = json.loads((RESULTS / "laws.json").read_text("utf-8"))["runs"]
    text = json.dumps([[run[key] for key in ("weights", "tokens", "loss")] for run in runs])
    return runs, hashlib.sha256(text.encode()).hexdigest()[:12]


def prediction(minutes: float) -> None:
    """Write down what the larger run's loss will be; refused once that run is there."""
    if (RESULTS / "larger.json").exists():
        raise SystemExit("larger.json is there: a forecast after the event is none.")
    runs, digest = fitted_runs()
    columns = [[run[key] for run in runs] for key in ("weights", "tokens", "loss")]
    floors = {"E free": None, "E known": law_floor()}
    fits = {name: fit_loss_law(*columns, floor) for name, floor in floors.items()}
    width = best_width(fits["E known"], LARGER_FLOPS)
    foretold = {
        name: foretell(fit, bootstrap_laws(*columns, floors[name]), runs, width, LARGER_FLOPS)
        for name, fit in fits.items()
    }
    content = {
        "what": "The loss of a run with four times the compute, foretold from laws.json.",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "flops": LARGER_FLOPS,
        "embed_dim": width,
        "tokens": tokens_for(width, LARGER_FLOPS),
        "laws": digest,
        "forecasts": foretold | {"straight line": {"loss": straight_line(runs)}},
    }
    write_results(RESULTS / "prediction.json", content)
    print(json.dumps(content, indent=1))


def straight_line(runs: list[dict]) -> float:
    """The lowest loss of each budget, extended as a power of compute, as if there were no floor."""
    best = {flops: min(r["loss"] for r in runs if r["flops"] == flops) for flops in GRID}
    slope, height = np.polyfit(np.log(list(best)), np.log(list(best.values())), 1)
    return float(np.exp(height + slope * np.log(LARGER_FLOPS)))


def larger(minutes: float) -> None:
    """The run that was foretold; refused without a forecast from the runs that are there now."""
    path = RESULTS / "prediction.json"
    if not path.exists():
        raise SystemExit("First write down what you expect: experiments.py prediction")
    foretold = json.loads(path.read_text("utf-8"))
    if foretold["laws"] != fitted_runs()[1]:
        raise SystemExit("laws.json has changed since the forecast: make the forecast anew.")
    cases = [{"flops": foretold["flops"], "embed_dim": foretold["embed_dim"], "seed": 0}]
    what = "The run that the fit has not seen, and that prediction.json foretold."
    keep_runs(RESULTS / "larger.json", what, cases, train, minutes=minutes, **common())


def machine(minutes: float) -> None:
    """Limits, the parts of a GPT under them, and MFU over widths: one thread."""
    limits = machine_limits(repeats=10)
    content = {
        "what": "Speed of matrix products and memory, of a GPT's parts, and MFU of training steps.",
        "settings": {"threads": torch.get_num_threads(), "repeats": 10},
        "load": round(os.getloadavg()[0], 1),  # programs that want a processor, this one included
        "limits": limits,
        "points": measured_cases(gpt_cases(), repeats=10),
        "utilisation": {w: measured_utilisation(w, limits["flops"], repeats=10) for w in WIDTHS},
    }
    write_results(RESULTS / "machine.json", content)
    print(json.dumps(content, indent=1))


def main() -> None:
    plans = {plan.__name__: plan for plan in (rates, laws, prediction, larger, machine)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", choices=tuple(plans))
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    plans[given.name](given.minutes)


if __name__ == "__main__":
    main()
