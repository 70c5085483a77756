"""Comparisons for chapter 7 that take too long for its notebook.

    python ch07_instruction_finetune/experiments.py masking    three minutes on two cores

Writes results/masking.json after each run, and goes on where it was stopped. Begins with the story
model of chapter 5, or makes it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict, replace
from datetime import date
from itertools import accumulate, islice
from pathlib import Path

import shared.instructions
from shared.artifacts import written_whole
from shared.instructions import Example, instructions
from shared.machine import machine_line
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


def instructions_hash() -> str:
    """Twelve digits that change when the instructions do."""
    sources = sorted(Path(shared.instructions.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def write(name: str, content: dict) -> None:
    """A results file, whole or not at all."""
    with written_whole(RESULTS / name) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


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
    return {"condition": condition, "seed": recipe.seed, "seconds": seconds, "points": points}


def masking(total_tokens: int) -> None:
    """All conditions with all seeds that are not in the file yet."""
    recipe = assistant_recipe("laptop")
    recipe = replace(recipe, total_tokens=total_tokens, batch_growth=1.0, talk=0.0)
    path, settings = RESULTS / "masking.json", json.loads(json.dumps(asdict(recipe)))
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if (found.get("instructions"), found.get("settings")) != (instructions_hash(), settings):
        found = {}  # made with other instructions or settings: all anew
    runs = found.get("runs", [])
    done = {(one["condition"], one["seed"]) for one in runs}
    for seed in SEEDS:
        for condition in CONDITIONS:
            if (condition, seed) in done:
                continue
            print(f"seed {seed}, {condition}", flush=True)
            runs.append(run(condition, replace(recipe, seed=seed)))
            content = {
                "what": "Is it better to ask for the replies only, or for the prompts, too?",
                "command": "python ch07_instruction_finetune/experiments.py masking",
                "asked": f"{len(questions(40))} validation questions: {', '.join(ASKED)}",
                "machine": machine_line(),
                "date": str(date.today()),
                "instructions": instructions_hash(),
                "settings": settings,
                "runs": runs,
            }
            write("masking.json", content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("masking",))
    parser.add_argument("--tokens", type=int, default=200_000, help="answer tokens of a run")
    options = parser.parse_args()
    masking(options.tokens)


if __name__ == "__main__":
    main()
