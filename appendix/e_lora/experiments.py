"""Comparisons for appendix E that take too long for its notebook.

    python appendix/e_lora/experiments.py NAME [--minutes M]

NAME is claims, instructions, manner, rates or rounding. Each writes results/NAME.json after every
run and goes on where it was stopped, after M minutes say. Needs the models of chapters 5 and 7, or
makes them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.appendices import (
    ALL_TARGETS,
    ATTENTION_TARGETS,
    FourBitLinear,
    Int8Embedding,
    Int8Linear,
    add_lora,
    even_levels,
    lora_tuning,
    replace_matrices,
    stored_bytes,
    trained_parameters,
)
from shared.experiments import keep_runs
from shared.instructions import instructions
from shared.previous_chapters import (
    FixedBatches,
    GPTModel,
    InstructionBatches,
    LabelBatches,
    Recipe,
    assistant_model,
    assistant_recipe,
    assistant_tokenizer,
    claims,
    classifier_from,
    evaluate,
    fine_tuning,
    instruction_batch,
    instruction_row,
    label_logits,
    new_assistant,
    pack_rows,
    pretrain,
    story_model,
    story_recipe,
    text_rows,
    train_last,
    would_answer,
)

RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = (0, 1, 2)
CUTS = (0, 1, 2, 4, 8, 16, 32, 64, 128)  # ranks to which a full change is cut

CLAIMS = {"learned": 4_000, "asked": 1_000, "cut_asked": 500, "batch_size": 16, "lora_rate": 0.005}
KNOWN = ("where_is", "who_gave", "who_found", "why")  # what the story model nearly knows
SOME = {"families": list(KNOWN), "tokens": 9_000, "asked": 100, "lora_rate": 0.005}
BRIEF = {"manner": "only the last word", "lessons": 400, "asked": 200, "places": 600}
BRIEF |= {"families": ["who_has", "where_is", "who_gave", "plural"]}
RATES = {"ranks": [1, 8, 64], "rates": [0.0005, 0.002, 0.008, 0.032], "seeds": [0, 1]}
RATES |= {"scale_at_rank_8": 2.0} | BRIEF
ROUNDING = {"rank": 8, "alpha": 16.0, "rate": 0.005} | BRIEF
MANNER = {"lora_rate": 0.005} | BRIEF
SETTINGS = {
    "manner": MANNER,
    "claims": CLAIMS,
    "instructions": SOME,
    "rates": RATES,
    "rounding": ROUNDING,
}

TARGETS = {"q, v": ("q", "v"), "attention": ATTENTION_TARGETS, "all": ALL_TARGETS}


def quiet(model: nn.Module, batches: object, recipe: Recipe) -> dict:
    """Train without a bar; what it took."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        history = pretrain(model, batches, recipe, watch_every=10**9)
    step = statistics.median(entry["seconds"] for entry in history.steps)
    return {
        "trained": trained_parameters(model),
        "steps": len(history.steps),
        "step_seconds": round(step, 5),
        "seconds": round(time.perf_counter() - started, 1),
    }


def adamw(seed: int, rate: float = 0.001) -> Recipe:
    """Full tuning as most people do it: AdamW for all."""
    return fine_tuning(seed, matrix_optimizer="adamw", matrix_rate=rate, momentum=0.9)


def lora(rank: int, where: str) -> Callable[[GPTModel, int], GPTModel]:
    """An adapter of this rank, with alpha twice the rank."""
    return lambda m, seed, **more: add_lora(m, rank, 2.0 * rank, TARGETS[where], seed=seed, **more)


def last(layers: int) -> Callable[[GPTModel, int], GPTModel]:
    """Only the last layers are trained."""

    def prepare(model: GPTModel, seed: int) -> GPTModel:
        train_last(model, layers)
        return model

    return prepare


# Conditions: how the model is prepared, and the recipe for a seed

LORA_RECIPE = partial(lora_tuning, rate=CLAIMS["lora_rate"])
FULL = {
    "full, Muon": (lambda m, seed: m, fine_tuning),
    "full, AdamW": (lambda m, seed: m, adamw),
}
LORAS = {f"LoRA {r}, all": (lora(r, "all"), LORA_RECIPE) for r in (8, 1, 16, 4, 2)}
LORAS |= {f"LoRA 8, {where}": (lora(8, where), LORA_RECIPE) for where in ("q, v", "attention")}
CLAIM_LORAS = ("LoRA 8, all", "LoRA 1, all")  # dear runs: fewer
LASTS = {"last block and head": (last(1), fine_tuning), "head alone": (last(0), fine_tuning)}


# The claims of chapter 6


@cache
def claim_rows(number: int, seed: int, split: str, both: bool) -> tuple[list, list]:
    tokenizer = story_model()[1]
    told = list(islice(claims(seed, split, both), number))
    return text_rows([c.name_first for c in told], tokenizer, 256), [int(c.is_true) for c in told]


def judged(model: GPTModel, count: int) -> tuple[list[bool], float]:
    """Which claims of the exam are judged rightly, and the loss."""
    rows, labels = claim_rows(CLAIMS["asked"], 0, "validation", False)
    logits, asked = label_logits(model, rows[:count]), torch.tensor(labels[:count])
    return (logits.argmax(1) == asked).tolist(), F.cross_entropy(logits, asked).item()


def bits(answers: list[bool]) -> str:
    return "".join(str(int(a)) for a in answers)


def matrices(model: GPTModel) -> dict[str, Tensor]:
    """The weights inside the blocks, by name."""
    named = model.named_parameters()
    return {n: p.detach() for n, p in named if n.startswith("blocks.") and p.ndim == 2}


def cut_change(before: GPTModel, after: GPTModel, rank: int) -> GPTModel:
    """The tuned model with the change of each block matrix cut down to `rank`."""
    model, start = copy.deepcopy(after), matrices(before)
    for name, weight in matrices(model).items():
        u, s, v = torch.linalg.svd(weight - start[name], full_matrices=False)
        weight.copy_(start[name] + (u[:, :rank] * s[:rank]) @ v[:rank])
    return model


def run_claims(condition: str, seed: int) -> dict:
    """Chapter 6's claims, from the story model, by full tuning and by adapters."""
    gpt = story_model()[0]
    prepare, recipe = (FULL | LORAS | LASTS)[condition]
    start = classifier_from(gpt, 2, seed=seed)
    model = prepare(copy.deepcopy(start), seed)
    rows, labels = claim_rows(CLAIMS["learned"], 1, "train", True)
    stream = LabelBatches(rows, labels, batch_size=CLAIMS["batch_size"], together=2, seed=seed)
    found = quiet(model, stream, recipe(seed))
    answers, loss = judged(model, CLAIMS["asked"])
    found |= {"right": sum(answers), "asked": len(answers), "loss": round(loss, 4)}
    found["answers"] = bits(answers)
    if condition in FULL and seed == 0:
        found["singular"] = {
            name: [float(f"{s:.4g}") for s in torch.linalg.svdvals(w - matrices(start)[name])]
            for name, w in matrices(model).items()
        }
        found["cut"] = {}
        for rank in CUTS:
            answers, loss = judged(cut_change(start, model, rank), CLAIMS["cut_asked"])
            found["cut"][rank] = {"right": sum(answers), "asked": len(answers), "loss": loss}
    return found


# The instructions of chapter 7


@cache
def young_assistant() -> tuple[GPTModel, object, int]:
    """The assistant before its first lesson, its tokenizer, and how many tokens are new."""
    recipe = assistant_recipe("laptop")
    old, new = assistant_tokenizer(recipe)
    return new_assistant(recipe), new, new.vocab_size - old.vocab_size


def learn(model: GPTModel, recipe: Recipe, settings: dict, seed: int) -> dict:
    """Train on some families of instructions, and examine."""
    _, tokenizer, _ = young_assistant()
    changes = {"replay": 0.0, "talk": 0.0, "tokens_per_batch": 600, "batch_growth": 1.0}
    reading = replace(
        assistant_recipe("laptop"), total_tokens=settings["tokens"], seed=seed, **changes
    )
    stream = InstructionBatches(tokenizer, reading, 256, families=settings["families"])
    found = quiet(model, stream, recipe)
    exam = [
        example
        for family in settings["families"]
        for example in islice(instructions(77, "validation", [family]), settings["asked"])
    ]
    answers = would_answer(model, tokenizer, exam)
    batch = instruction_batch([instruction_row(e, tokenizer) for e in exam])
    found |= {"right": sum(answers), "asked": len(answers), "answers": bits(answers)}
    return found | {"loss": round(evaluate(model, [batch]), 4)}


def with_tables(recipe: Callable[..., Recipe], **changes: object) -> Callable[[int], Recipe]:
    """Chapter 7's rate for the token table, since new tokens have to be learned."""
    return lambda seed: recipe(seed, table_rate=0.008, **changes)


def run_instructions(condition: str, seed: int) -> dict:
    """Chapter 7's instructions about stories, from the model before its first lesson."""
    base, _, new = young_assistant()
    lora_recipe = with_tables(lora_tuning, rate=SOME["lora_rate"])
    if condition in FULL:
        recipes = {"full, Muon": with_tables(fine_tuning, matrix_rate=0.01)}
        recipe = recipes.get(condition, with_tables(adamw_named))
        return learn(copy.deepcopy(base), recipe(seed), SOME, seed)
    if condition == "new tokens alone":
        model = add_lora(base, 1, 1.0, ("q",), new_rows=new)
        for layer in model.blocks:
            layer.requires_grad_(False)
        return learn(model, lora_recipe(seed), SOME, seed)
    return learn(LORAS[condition][0](base, seed, new_rows=new), lora_recipe(seed), SOME, seed)


def adamw_named(seed: int, **changes: object) -> Recipe:
    usual = {"matrix_optimizer": "adamw", "matrix_rate": 0.001, "momentum": 0.9}
    return fine_tuning(seed, **usual | changes)


# Another manner for the finished assistant: answers of one word


@cache
def assistant() -> tuple[GPTModel, object]:
    return assistant_model(assistant_recipe("laptop"))


def brief(seed: int, count: int, split: str = "train") -> list[tuple[list[int], int]]:
    """Exchanges in which the assistant answers with the last word only, as rows."""
    drawn = islice(instructions(seed, split, BRIEF["families"]), count)
    short = [replace(e, answer=e.answer.split()[-1]) for e in drawn]
    return [instruction_row(e, assistant()[1]) for e in short]


def learn_brief(model: GPTModel, recipe: Recipe, seed: int) -> dict:
    """Train on short answers, and examine."""
    rows = brief(1000 + seed, BRIEF["lessons"])
    starts = {tuple(ids): start for ids, start in rows}
    groups = pack_rows([ids for ids, _ in rows], BRIEF["places"])
    random.Random(seed).shuffle(groups)
    batches = [instruction_batch([(ids, starts[tuple(ids)]) for ids in g]) for g in groups]
    found = quiet(model, FixedBatches(batches), recipe)
    asked = islice(instructions(77, "validation", BRIEF["families"]), BRIEF["asked"])
    exam = [replace(e, answer=e.answer.split()[-1]) for e in asked]
    answers = would_answer(model, assistant()[1], exam)
    found |= {"right": sum(answers), "asked": len(answers), "answers": bits(answers)}
    batch = instruction_batch(brief(77, BRIEF["asked"], "validation"))
    return found | {"loss": round(evaluate(model, [batch]), 4)}


OTHER_RATES = {
    f"full, AdamW, rate {rate}": (lambda m, seed: m, partial(adamw, rate=rate))
    for rate in (0.0003, 0.003)
}
OTHER_RATES |= {
    f"LoRA 8, all, rate {rate}": (lora(8, "all"), partial(lora_tuning, rate=rate))
    for rate in (0.0015, 0.008, 0.015)
}


def run_manner(condition: str, seed: int) -> dict:
    """Short answers, by full tuning, by its last block alone, and by adapters of many kinds."""
    last_block = {"last block": LASTS["last block and head"]}
    prepare, recipe = (FULL | LORAS | OTHER_RATES | last_block)[condition]
    return learn_brief(prepare(copy.deepcopy(assistant()[0]), seed), recipe(seed), seed)


SCALINGS = {
    "alpha / rank": lambda rank: 8 / rank,
    "alpha / root of rank": lambda rank: math.sqrt(8 / rank),
    "none": lambda rank: 1.0,
}


def run_rates(condition: str, seed: int) -> dict:
    """Short answers by adapters; the condition is scaling, rank and rate in one text."""
    scaling, rank, rate = condition.split(" | ")
    scale = RATES["scale_at_rank_8"] * SCALINGS[scaling](int(rank))
    model = add_lora(assistant()[0], int(rank), scale * int(rank), ALL_TARGETS, seed=seed)
    found = {"scaling": scaling, "rank": int(rank), "rate": float(rate)}
    try:
        return found | learn_brief(model, lora_tuning(seed, float(rate)), seed)
    except FloatingPointError:
        return found | {"loss": None}


BASES: dict[str, Callable[[GPTModel], GPTModel]] = {
    "32-bit floats": lambda m: m,
    "8 bits": lambda m: replace_matrices(m, Int8Linear, Int8Embedding),
    "4 bits, normal levels": lambda m: replace_matrices(m, FourBitLinear, Int8Embedding),
    "4 bits, even levels": lambda m: replace_matrices(
        m, partial(FourBitLinear, levels=even_levels()), Int8Embedding
    ),
    "3 bits": lambda m: replace_matrices(m, partial(Int8Linear, bits=3), Int8Embedding),
    "2 bits": lambda m: replace_matrices(m, partial(Int8Linear, bits=2), Int8Embedding),
}


def run_rounding(condition: str, seed: int) -> dict:
    """Short answers by the same adapter, on a base in fewer and fewer bits."""
    base, tokenizer = assistant()
    base = BASES[condition](base)
    found = {"stored_bytes": stored_bytes(base)}
    families = BRIEF["families"]
    exam = list(islice(instructions(78, "validation", families), BRIEF["asked"]))
    found["old_right_before"] = sum(would_answer(base, tokenizer, exam))
    model = add_lora(base, ROUNDING["rank"], ROUNDING["alpha"], ALL_TARGETS, seed=seed)
    return found | learn_brief(model, lora_tuning(seed, ROUNDING["rate"]), seed)


RUNS = {
    "claims": run_claims,
    "instructions": run_instructions,
    "manner": run_manner,
    "rates": run_rates,
    "rounding": run_rounding,
}


def jobs(name: str) -> list[tuple[str, int]]:
    """All runs of an experiment, in the order in which they are made."""
    if name == "rates":
        grid = [
            f"{scaling} | {rank} | {rate}"
            for scaling in SCALINGS
            for rank in RATES["ranks"]
            for rate in RATES["rates"]
        ]
        return [(condition, seed) for seed in RATES["seeds"] for condition in grid]
    conditions = {
        "claims": [*FULL, *CLAIM_LORAS, "last block and head"],
        "instructions": [*FULL, *CLAIM_LORAS, "new tokens alone"],
        "manner": [*FULL, *OTHER_RATES, *LORAS, "last block"],
        "rounding": list(BASES),
    }[name]
    last_of_all = ("full, Muon", "last block and head") if name == "claims" else ()  # dear runs
    made = [(condition, seed) for seed in SEEDS for condition in conditions]
    return sorted(made, key=lambda job: job[0] in last_of_all)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(RUNS))
    parser.add_argument("--minutes", type=float, default=math.inf)
    chosen = parser.parse_args()
    keep_runs(
        RESULTS / f"{chosen.name}.json",
        RUNS[chosen.name].__doc__,
        [{"condition": condition, "seed": seed} for condition, seed in jobs(chosen.name)],
        RUNS[chosen.name],
        settings=SETTINGS[chosen.name],
        minutes=chosen.minutes,
        story_recipe=repr(story_recipe("laptop")),
    )


if __name__ == "__main__":
    main()
