"""The comparisons of appendix D: each trick as one change to one small baseline, several seeds.

    python appendix/d_training_tricks/experiments.py rates       which rates, on seeds of their own
    python appendix/d_training_tricks/experiments.py tricks      each trick alone
    python appendix/d_training_tricks/experiments.py together    all that were kept, and one less
    python appendix/d_training_tricks/experiments.py longer      runs four times as long, with Muon
    python appendix/d_training_tricks/experiments.py all         the four; about half an hour

Each writes results/NAME.json after every run and goes on where it was stopped. With --minutes it
stops by itself.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import shared.stories
from shared.appendices import (
    Trial,
    run_trial,
)
from shared.experiments import as_read, keep_runs, source_hash, write_results

RESULTS = Path(__file__).resolve().parent / "results"
BASE = Trial()
TUNING_SEEDS = (100, 101)  # rates are chosen on these, and nothing else is
SEEDS = (0, 1, 2)  # with more of them the command goes on from what is there
NEW_SEEDS = (10, 11, 12)  # of the last comparisons: no choice was made on them

RATES = {
    **{f"AdamW, rate {r}": dict(rate=r) for r in (0.001, 0.002, 0.003, 0.005)},
    **{f"Muon, rate {r}": dict(muon_rate=r) for r in (0.005, 0.01, 0.02, 0.04)},
}
NOTHING = "baseline"
TRICKS: dict[str, dict] = {
    NOTHING: {},
    "Muon for the matrices": dict(muon_rate=0.01),
    "PyTorch's own first weights": dict(start="torch"),
    "writers start at zero": dict(start="zero"),
    "chapter 5's head start": dict(start="head start"),
    "warm-up": dict(warmup=0.05),
    "warm-up, cosine": dict(warmup=0.05, schedule="cosine"),
    "warm-up, stable, decay": dict(warmup=0.05, schedule="wsd"),
    "twice the rate": dict(rate=2 * BASE.rate),
    "twice the rate, warm-up": dict(rate=2 * BASE.rate, warmup=0.05),
    "twice the rate, w.-up, stable, decay": dict(rate=2 * BASE.rate, warmup=0.05, schedule="wsd"),
    "clipping at 1": dict(max_norm=1.0),
    "weight decay 0.1, matrices": dict(weight_decay=0.1),
    "weight decay 0.1, everything": dict(weight_decay=0.1, decay_all=True),
    "two batches a step": dict(accumulate=2),
    "batches that grow": dict(tokens_per_batch=200, batch_growth=4.0),
    "average of weights": dict(average=0.98),
    "bfloat16": dict(precision="bfloat16"),
    "short stories first": dict(order="short first"),
    "half the stories, twice": dict(order="half twice"),
    "dropout 0.1": dict(dropout=0.1),
    # What helps or not beside AdamW may do otherwise beside Muon.
    "Muon, head start": dict(muon_rate=0.01, start="head start"),
    "Muon, warm-up, stable, decay": dict(muon_rate=0.01, warmup=0.05, schedule="wsd"),
    "Muon, warm-up, cosine": dict(muon_rate=0.01, warmup=0.05, schedule="cosine"),
    "Muon, average of weights": dict(muon_rate=0.01, average=0.98),
    "Muon, batches that grow": dict(muon_rate=0.01, tokens_per_batch=200, batch_growth=4.0),
}

# What the first tables made us keep. The last comparison asks whether that was right.
KEPT: dict[str, dict] = {
    "Muon for the matrices": dict(muon_rate=0.01),
    "half the stories, twice": dict(order="half twice"),
    "batches that grow": dict(tokens_per_batch=200, batch_growth=4.0),  # helped beside Muon
}


def merged(*left_out: str) -> dict:
    """All changes that were kept, except those of some tricks."""
    chosen = (changes for name, changes in KEPT.items() if name not in left_out)
    return {key: value for changes in chosen for key, value in changes.items()}


EVERYTHING = "all that was kept"
TOGETHER = {
    NOTHING: {},
    EVERYTHING: merged(),
    **{f"all but {name}": merged(name) for name in KEPT},
}

# Four times as long: do the tricks that settle a model pay there?
LONG = dict(muon_rate=0.01, num_tokens=4 * BASE.num_tokens)
LONGER = {
    NOTHING: LONG,
    "warm-up, stable, decay": LONG | dict(warmup=0.05, schedule="wsd"),
    "average of weights": LONG | dict(average=0.98),
}


def run(condition: str, seed: int, changes: dict) -> dict:
    """One trial: the baseline with these changes."""
    found = run_trial(replace(BASE, seed=seed, **changes), looks=1)
    kept = {key: found[key] for key in ("loss", "tokens", "seconds")}
    return kept | {"steps": len(found["steps"])}


def compare(
    name: str, what: str, conditions: dict[str, dict], seeds: Sequence[int], minutes: float
) -> None:
    """Every condition with every seed that is not in the file yet; all of a seed, then the next."""
    cases = [
        {"condition": condition, "seed": seed, "changes": changes}
        for seed in seeds
        for condition, changes in conditions.items()
    ]
    path, more = RESULTS / f"{name}.json", {"minutes": minutes, "seeds": list(seeds)}
    forget_changed(path, conditions)
    data = source_hash(shared.stories)
    keep_runs(path, what, cases, run, settings=asdict(BASE), data=data, **more)


def forget_changed(path: Path, conditions: dict[str, dict]) -> None:
    """Take those runs out of a file whose condition means something else by now."""
    if not path.exists():
        return
    found, conditions = json.loads(path.read_text("utf-8")), as_read(conditions)
    kept = [run for run in found["runs"] if run["changes"] == conditions.get(run["condition"])]
    if len(kept) < len(found["runs"]):
        write_results(path, found | {"runs": kept})


def main() -> None:
    plans = {
        "rates": ("Rates, on seeds that are used for nothing else.", RATES, TUNING_SEEDS),
        "tricks": ("Each trick as one change to the baseline.", TRICKS, SEEDS),
        "together": ("All kept tricks, and all but one; new seeds.", TOGETHER, NEW_SEEDS),
        "longer": ("Muon, four times as many tokens, and what settles.", LONGER, NEW_SEEDS),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", choices=(*plans, "all"))
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    for name in plans if given.name == "all" else (given.name,):
        compare(name, *plans[name], (until - time.monotonic()) / 60)


if __name__ == "__main__":
    main()
