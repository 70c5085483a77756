"""The race of appendix F that one run cannot decide: does guessing ahead pay?

    python appendix/f_fast_inference/experiments.py drafts     (two minutes; results/drafts.json)

For several prompts, with and without a draft, in turns, always the same text. A ratio compares two
times of one turn, so that a machine which slows down slows both. It is written after every prompt,
and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch

from shared.appendices import (
    Draft,
    PairTable,
    deepened,
    generate_cached,
    small_draft,
    speculative_generate,
)
from shared.artifacts import written_whole
from shared.machine import num_cores, processor_name
from shared.previous_chapters import GPTModel, story_model, story_rows
from shared.stories import stories

RESULTS = Path(__file__).resolve().parent / "results"
PROMPTS, PROMPT_TOKENS, TURNS, NEW, NUM_DRAFT, DEEP = 6, 16, 3, 40, 2, 22
Seconds = dict[str, dict[str, list[float]]]  # of a model's layers, of a way: of each turn


def timed(work: Callable[[], object]) -> float:
    """Seconds of one piece of work."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def race(large: GPTModel, guessers: dict[str, Draft], prompt: list[int]) -> dict[str, list[float]]:
    """Seconds of each turn, without a draft and with each.

    Raises:
        ValueError: a draft has changed the text.
    """
    how = {"num_draft": NUM_DRAFT, "temperature": 0}
    ways: dict[str, Callable[[], list[int]]] = {
        "no draft": lambda: generate_cached(large, [prompt], NEW, temperature=0)[0]
    }
    for name, guess in guessers.items():
        ways[name] = lambda guess=guess: speculative_generate(large, guess, prompt, NEW, **how).row
    texts = [way() for way in ways.values()]  # not timed: the first time is slower
    if any(text != texts[0] for text in texts):
        raise ValueError(f"after {prompt}, {', '.join(ways)} do not write the same text")
    turns = [{name: timed(way) for name, way in ways.items()} for _ in range(TURNS)]
    return {name: [turn[name] for turn in turns] for name in ways}


def summary(runs: list[Seconds]) -> dict[str, dict[str, dict[str, float]]]:
    """Times as fast as without a draft: the middle prompt, the slowest and the fastest.

    Of each prompt, the middle turn counts.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for size, ways in runs[0].items():
        found[size] = {}
        for name in ways:
            pairs = [zip(run[size]["no draft"], run[size][name], strict=True) for run in runs]
            ratios = [statistics.median(alone / drafted for alone, drafted in p) for p in pairs]
            low, high = min(ratios), max(ratios)
            found[size][name] = {"times": statistics.median(ratios), "low": low, "high": high}
    return found


def machine() -> dict[str, object]:
    """What this ran on."""
    return {
        "processor": processor_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": platform.system(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=["drafts"])
    parser.add_argument("--minutes", type=float, default=60, help="stop then; run again to go on")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    given = parser.parse_args(arguments)
    start, path = time.perf_counter(), given.out / f"{given.name}.json"
    settings = {"prompts": PROMPTS, "prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW, "seed": 0}
    settings |= {"turns": TURNS, "num_draft": NUM_DRAFT, "temperature": 0}
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    same = old.get("settings") == settings and old.get("machine") == machine()
    runs: list[Seconds] = old["runs"] if same and len(old["runs"]) < PROMPTS else []
    before = old["seconds"] if runs else 0.0
    model, tokenizer = story_model()
    rows = story_rows(islice(stories(seed=1), 1500), tokenizer)
    guessers = {"small GPT": small_draft(), "pair table": PairTable(rows, model.config.vocab_size)}
    larges = {f"{n} layers": deepened(model, n) for n in (model.config.num_layers, DEEP)}
    asked = story_rows(islice(stories(seed=0, split="validation"), PROMPTS), tokenizer)
    for row in asked[len(runs) :]:
        prompt = row[:PROMPT_TOKENS]
        runs.append({name: race(large, guessers, prompt) for name, large in larges.items()})
        seconds = time.perf_counter() - start
        table = {"what": "guessing ahead: times as fast as without a draft", "settings": settings}
        table |= {"machine": machine(), "seconds": round(before + seconds, 1)}
        table |= {"models": summary(runs), "runs": runs}
        given.out.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        print(f"{len(runs)} of {PROMPTS} prompts, {seconds:.0f} s", flush=True)
        if seconds > 60 * given.minutes:
            return


if __name__ == "__main__":
    main()
