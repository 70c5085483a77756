"""Run an entry: hand out the text, look from aside, check, and say what came out."""

from __future__ import annotations

import hashlib
import math
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from shared.machine import keep_freed_memory, machine_line
from shared.previous_chapters import evaluating

from .rules import (
    MAX_SECONDS,
    Refused,
    check_causal,
    check_model,
    check_reading,
    count_numbers,
    load_entry,
    log_probabilities,
    metering,
)
from .text import Text, held_out, nats_per_token

LOOKS = tuple(round(8192 * 2 ** (step / 2)) for step in range(16))  # tokens; then the very end
# 95 of 100 times, the true mean of n runs lies less than so many standard errors above theirs.
STUDENT = {2: 6.314, 3: 2.920, 4: 2.353, 5: 2.132, 6: 2.015, 7: 1.943, 8: 1.895, 9: 1.860}


@dataclass(frozen=True)
class Run:
    """What one seed did. Losses are in nats per token of the held-out stories."""

    seed: int
    loss: float
    tokens: int
    seconds: float  # of the entry's own work, its text included, the runner's looks left out
    numbers: int
    curve: tuple[tuple[int, float], ...]


def loss_of(model: nn.Module) -> float:
    """The held-out loss, computed by the runner; the model's parts and modes stay as they are."""
    with evaluating(model), _own_randomness():
        answers = (log_probabilities(model, inputs) for inputs, _ in held_out()[1])
        return nats_per_token(answers, held_out()[1])


@contextmanager
def _own_randomness(seed: int | None = None) -> Iterator[None]:
    """Inside, random numbers start from `seed`; outside, nobody notices."""
    plain = random.getstate()
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
            random.seed(seed)
        try:
            yield
        finally:
            random.setstate(plain)


def run_entry(entry: ModuleType, seed: int, tokens: int | None = None, looks=LOOKS) -> Run:
    """Train an entry once and look at it on the way, at fixed numbers of tokens.

    Raises:
        Refused: it breaks a rule.
    """
    keep_freed_memory()
    text = Text(tokens or entry.TOKENS, seed)
    due, curve, seconds, model = [look for look in looks if look < text.tokens], [], 0.0, None
    with metering() as meter, _own_randomness(seed):
        steps = iter(entry.train(text, seed))
        while True:
            start = time.process_time()
            model, previous = next(steps, None), model
            seconds += time.process_time() - start
            check_reading(meter, text.places)
            if seconds > MAX_SECONDS:
                raise Refused(f"{MAX_SECONDS:.0f} s are over after {text.given:,} tokens.")
            if model is None:
                break
            if due and text.given >= due[0]:
                check_model(model)
                curve.append((text.given, loss_of(model)))
                due = [look for look in due if look > text.given]
    if previous is None:
        raise Refused("train() yielded no model; `yield model` after each step.")
    check_model(previous)
    check_causal(previous)
    loss = loss_of(previous)
    curve.append((text.given, loss))
    return Run(seed, loss, text.given, seconds, count_numbers(previous), tuple(curve))


def interval(losses: list[float]) -> tuple[float, float]:
    """Mean of the seeds' losses, and how far above it the true mean may lie (one-sided, 95 %).

    Raises:
        ValueError: fewer than 2 seeds, or more than 9.
    """
    if len(losses) not in STUDENT:
        raise ValueError(f"{len(losses)} seeds, expected 2 to 9.")
    error = statistics.stdev(losses) / math.sqrt(len(losses))
    return statistics.mean(losses), STUDENT[len(losses)] * error


def measure(path: str | Path, seeds: int = 3, tokens: int | None = None, say=print) -> dict:
    """Run an entry with the seeds 0, 1, 2, … and return its result, ready for JSON.

    Raises:
        Refused: it breaks a rule.
    """
    path = Path(path)
    entry = load_entry(path)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    runs = []
    for seed in range(seeds):
        runs.append(run_entry(entry, seed, tokens))
        say(f"  seed {seed}: {runs[-1].loss:.4f} nats per token, {runs[-1].seconds:.0f} s")
    losses = [run.loss for run in runs]
    mean, above = interval(losses) if seeds > 1 else (losses[0], math.nan)
    return {
        "entry": path.stem,
        "idea": entry.__doc__.strip().splitlines()[0],
        "lines": len(path.read_text(encoding="utf-8").splitlines()),
        "script": fingerprint(path),
        "date": date.today().isoformat(),
        "machine": machine_line(),
        "tokens": runs[0].tokens,
        "numbers": runs[0].numbers,
        "seconds": round(statistics.mean(run.seconds for run in runs), 1),
        "loss": round(mean, 4),
        "at_most": round(mean + above, 4),
        "runs": [asdict(run) for run in runs],
    }


def fingerprint(path: Path) -> str:
    """Twelve digits that change when the script changes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
