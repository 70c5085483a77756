"""Comparisons for chapter 6 that take too long for its notebook.

    python ch06_classification_finetune/experiments.py    about half an hour

Needs the story model of chapter 5, or makes it. Writes results/ablations.json after each run, and
goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import torch

import shared.messages
import shared.stories
from shared.experiments import keep_runs, source_hash
from shared.messages import messages, split_messages
from shared.previous_chapters import (
    BagOfWords,
    GPTModel,
    LabelBatches,
    TextBatches,
    claims,
    classifier_from,
    fine_tuning,
    label_logits,
    new_story_model,
    pretrain,
    story_model,
    story_recipe,
    text_rows,
    train_last,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "ablations.json"
SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4, 5, 6, 7)  # for the two conditions of 6.7, where the dice have most to say
IN_DOUBT = {("claims", "the recipe"), ("claims", "pairs torn apart")}

# What is the same in all runs of a task, and what one condition changes.
BASE = {
    "claims": {"learned": 6_000, "asked": 2_000, "batch_size": 16, "together": 2},
    "spam": {"reading_epochs": 3.0, "epochs": 4.0, "skip": 0.15, "batch_size": 16},
}
CONDITIONS: dict[str, dict[str, dict]] = {
    "claims": {
        "the recipe": {},
        "random weights": {"start": "random"},
        "head alone": {"layers": 0},
        "last block and head": {"layers": 1},
        "first token": {"read": "first"},
        "last place of the batch": {"read": "last_padded"},
        "name last": {"form": "name_last"},
        "pairs torn apart": {"together": 1},
        "matrix rate 0.002": {"matrix_rate": 0.002},
        "matrix rate 0.01": {"matrix_rate": 0.01},
        "matrix rate 0.02": {"matrix_rate": 0.02},
    },
    "spam": {
        "the recipe": {},
        "without reading first": {"reading_epochs": 0.0},
        "nothing skipped": {"skip": 0.0},
        "last token, not the mean": {"mean": False},
        "head alone": {"layers": 0},
        "random weights": {"start": "random", "reading_epochs": 0.0},
        "bag of words": {"start": "bag"},
    },
}


@cache
def story_gpt(start: str = "story model") -> GPTModel:
    """The story model, or one of its kind before its first step."""
    if start == "random":
        return new_story_model(story_recipe("laptop"))
    return story_model(story_recipe("laptop"))[0]


@cache
def reader(seed: int, epochs: float) -> GPTModel:
    """The story model after it has read the texts of the training messages."""
    rows, _ = spam_part("train")
    model = copy.deepcopy(story_gpt())
    recipe = fine_tuning(seed, matrix_rate=0.01, table_rate=0.005)
    pretrain(model, TextBatches(rows, epochs=epochs, seed=seed), recipe)
    return model


def rows_of(texts: list[str]) -> list[list[int]]:
    """The texts as rows of ids."""
    model, tokenizer = story_model(story_recipe("laptop"))
    return text_rows(texts, tokenizer, model.config.context_length)


def spam_texts(part: str) -> tuple[list[str], list[int]]:
    """The messages of a part, and 1 for each that is spam."""
    found = split_messages(messages())[("train", "validation", "test").index(part)]
    return [m.text for m in found], [int(m.is_spam) for m in found]


@cache
def spam_part(part: str) -> tuple[list[list[int]], list[int]]:
    """The same, as rows of ids."""
    texts, labels = spam_texts(part)
    return rows_of(texts), labels


@cache
def claim_part(form: str, seed: int, split: str) -> tuple[list[list[int]], list[int]]:
    """Claims as rows of ids, and 1 for each that is true."""
    train = split == "train"
    stream = claims(seed, split, both=train)
    count = BASE["claims"]["learned" if train else "asked"]
    found = list(islice(stream, count))
    return rows_of([getattr(claim, form) for claim in found]), [int(c.is_true) for c in found]


def count_right(logits: torch.Tensor, labels: list[int]) -> dict:
    """How many answers are right, and of how many."""
    right = (logits.argmax(dim=-1) == torch.tensor(labels)).sum().item()
    return {"right": right, "asked": len(labels)}


def run_claims(seed: int, settings: dict) -> dict:
    """Train on claims once, and ask about those of the exam."""
    form, read = settings.get("form", "name_first"), settings.get("read", "last")
    rows, labels = claim_part(form, seed + 1, "train")
    model = classifier_from(story_gpt(settings.get("start", "story model")), 2, seed)
    train_last(model, settings.get("layers"))
    sizes = {name: settings[name] for name in ("batch_size", "together")}
    changes = {name: settings[name] for name in ("matrix_rate",) if name in settings}
    stream = LabelBatches(rows, labels, read=read, seed=seed, **sizes)
    pretrain(model, stream, fine_tuning(seed, **changes))
    asked, answers = claim_part(form, 0, "validation")
    return count_right(label_logits(model, asked, read), answers)


def run_spam(seed: int, settings: dict) -> dict:
    """Train on the messages once, and ask about those of the test."""
    start, epochs = settings.get("start", "story model"), settings["reading_epochs"]
    if start == "bag":
        scores = BagOfWords(*spam_texts("train")).scores(spam_texts("test")[0])
        return count_right(torch.stack([-scores, scores], dim=-1), spam_texts("test")[1])
    gpt = reader(seed, epochs) if epochs else story_gpt(start)
    model = classifier_from(gpt, 2, seed, mean=settings.get("mean", True))
    train_last(model, settings.get("layers"))
    rows, labels = spam_part("train")
    sizes = {name: settings[name] for name in ("epochs", "skip", "batch_size")}
    stream = LabelBatches(rows, labels, seed=seed, **sizes)
    pretrain(model, stream, fine_tuning(seed, table_rate=0.003, decay=1.0))
    rows, labels = spam_part("test")
    return count_right(label_logits(model, rows), labels)


def cases() -> Iterator[dict]:
    """Every run of the file: with the later seeds only what the first ones left in doubt."""
    for seed in (*SEEDS, *MORE_SEEDS):
        for task, conditions in CONDITIONS.items():
            asked = [c for c in conditions if seed in SEEDS or (task, c) in IN_DOUBT]
            yield from ({"task": task, "condition": c, "seed": seed} for c in asked)


def run(task: str, condition: str, seed: int) -> dict:
    """One of them."""
    settings = BASE[task] | CONDITIONS[task][condition]
    return {"claims": run_claims, "spam": run_spam}[task](seed, settings)


def main() -> None:
    """All runs that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", nargs="?", choices=("ablations",), default="ablations")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many"
    )
    keep_runs(
        RESULTS,
        "Fine-tuning the story model: one thing is changed at a time.",
        cases(),
        run,
        settings=BASE,
        data=source_hash(shared.stories, shared.messages),
        minutes=parser.parse_args().minutes,
        stories=source_hash(shared.stories),  # the notebook shows them
        messages=source_hash(shared.messages),
    )


if __name__ == "__main__":
    main()
