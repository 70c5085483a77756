"""Comparisons for chapter 7 that take too long for its notebook.

    python ch07_instruction_finetune/experiments.py masking    three minutes on two cores

Writes results/masking.json after each run, and goes on where it was stopped. Begins with the story
model of chapter 5, or makes it.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, replace
from itertools import accumulate, islice
from pathlib import Path

import shared.instructions
from shared.experiments import keep_runs, source_hash
from shared.instructions import Example, instructions
from shared.previous_chapters import (
    AssistantRecipe,
    FixedBatches,
    InstructionBatches,
    assistant_recipe,
    assistant_tokenizer,
    new_assistant,
    pretrain,
    would_answer,
)

RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = (0, 1, 2)
ASKED = ("who_found", "where_is", "who_has", "count", "passive", "past_tense")
"""Families that can be learned in a minute, from stories and from words."""
CONDITIONS = {"replies only": True, "everything": False}  # masked or not


# --- the loss mask


def streams(recipe: AssistantRecipe) -> dict[str, FixedBatches]:
    """The same batches for each condition: the same inputs in the same order, other targets."""
    tokenizer, context = assistant_tokenizer(recipe)[1], recipe.story.context_length
    masked = list(InstructionBatches(tokenizer, recipe, context, families=ASKED))
    endless = replace(recipe, masked=False, total_tokens=10**12)
    whole = islice(InstructionBatches(tokenizer, endless, context, families=ASKED), len(masked))
    return {"replies only": FixedBatches(masked), "everything": FixedBatches(list(whole))}


def questions(per_family: int) -> list[Example]:
    """Validation questions of the families that are learned."""
    return [e for f in ASKED for e in islice(instructions(0, "validation", [f]), per_family)]


def run(condition: str, recipe: AssistantRecipe, per_family: int = 40) -> dict:
    """Train once; how many questions it answers, along the way."""
    stream = streams(recipe)[condition]
    tokenizer, asked = assistant_tokenizer(recipe)[1], questions(per_family)
    places = [0, *accumulate(inputs.numel() for inputs, _ in stream.batches)]

    def watch(model) -> dict:
        return {"right": sum(would_answer(model, tokenizer, asked)), "asked": len(asked)}

    every = max(1, len(stream.batches) // 10)
    start = time.perf_counter()
    history = pretrain(
        new_assistant(recipe), stream, recipe.training, watch=watch, watch_every=every
    )
    points = [look | {"places": places[look["step"]]} for look in history.looks]
    seconds = sum(step["seconds"] for step in history.steps)
    print(f"   {points[-1]['right']} of {points[-1]['asked']}, {seconds:.0f} s to learn", end=", ")
    print(f"{time.perf_counter() - start:.0f} s in all", flush=True)
    return {"seconds": seconds, "points": points}


def masking(total_tokens: int, minutes: float) -> None:
    """All conditions with all seeds that are not in the file yet."""
    recipe = assistant_recipe("laptop")
    recipe = replace(recipe, total_tokens=total_tokens, batch_growth=1.0, talk=0.0)
    keep_runs(
        RESULTS / "masking.json",
        "Is it better to ask for the replies only, or for the prompts, too?",
        [{"condition": condition, "seed": seed} for seed in SEEDS for condition in CONDITIONS],
        lambda condition, seed: run(condition, replace(recipe, seed=seed)),
        settings=asdict(recipe),
        data=source_hash(shared.instructions),
        minutes=minutes,
        asked=f"{len(questions(40))} validation questions: {', '.join(ASKED)}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("masking",))
    parser.add_argument("--tokens", type=int, default=200_000, help="answer tokens of a run")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many"
    )
    options = parser.parse_args()
    masking(options.tokens, options.minutes)


if __name__ == "__main__":
    main()
