"""What fine-tuning reaches: claims about stories, spam, and an assistant's exam."""

from __future__ import annotations

import copy
from itertools import islice

import torch

from shared.instructions import FAMILIES_OF, instructions
from shared.messages import messages, split_messages
from shared.previous_chapters import (
    BagOfWords,
    GPTModel,
    LabelBatches,
    TextBatches,
    assistant_checkpoint,
    assistant_model,
    assistant_recipe,
    claims,
    classifier_from,
    fine_tuning,
    label_logits,
    load_checkpoint,
    new_story_model,
    pretrain,
    score,
    story_checkpoint,
    story_model,
    story_recipe,
    text_rows,
    wilson,
)

PER_FAMILY, STORIES = 100, 20  # questions in each split; continued stories take long to write


def share_row(figure: str, right: int, asked: int, least: float | None, note: str = "") -> dict:
    """A share with its interval; `least` is None where it is only reported."""
    low, high = wilson(right, asked)
    return {
        "figure": figure,
        "bar": "" if least is None else f"≥ {least:.0%}",
        "measured": f"{right / asked:.1%} [{low:.1%}, {high:.1%}]",
        "met": None if least is None else right / asked >= least,
        "note": f"{right} of {asked}; {note}" if note else f"{right} of {asked}",
    }


def count_right(logits: torch.Tensor, labels: list[int]) -> int:
    """How many rows get their label."""
    return (logits.argmax(dim=1) == torch.tensor(labels)).sum().item()


def claim_rows(gpt: GPTModel, tokenizer, context: int) -> list[dict]:
    """Story consistency: the recipe of chapter 6, random weights, and a bag of words."""
    learned = list(islice(claims(1, "train"), 24_000))
    asked = list(islice(claims(0, "validation", both=False), 2000))
    labels = [int(claim.is_true) for claim in asked]
    rows = [
        text_rows([c.name_first for c in some], tokenizer, context) for some in (learned, asked)
    ]
    random = new_story_model(story_recipe())
    found = []
    for name, start, least in (("pretrained", gpt, 0.9), ("random weights", random, None)):
        model = classifier_from(start, 2, 0)
        stream = LabelBatches(rows[0], [int(c.is_true) for c in learned], together=2)
        pretrain(model, stream, fine_tuning(0))
        right = count_right(label_logits(model, rows[1]), labels)
        found.append(share_row(f"story consistency, {name}", right, len(asked), least, "seed 0"))
    bag = BagOfWords([c.name_last for c in learned], [int(c.is_true) for c in learned])
    right = sum(
        (score > 0) == label
        for score, label in zip(bag.scores([c.name_last for c in asked]), labels, strict=True)
    )
    row = share_row("story consistency, bag of words", int(right), len(asked), None)
    return [*found, row | {"bar": "≤ 60 %", "met": bool(right <= 0.6 * len(asked))}]


def spam_rows(gpt: GPTModel, tokenizer, context: int) -> list[dict]:
    """Spam on the test messages: the recipe of chapter 6, and a bag of words."""
    train, _, test = split_messages(messages())
    labels = [int(m.is_spam) for m in test]
    rows = [text_rows([m.text for m in part], tokenizer, context) for part in (train, test)]
    reader = copy.deepcopy(gpt)
    further = fine_tuning(0, matrix_rate=0.01, table_rate=0.005)
    pretrain(reader, TextBatches(rows[0], epochs=3.0), further)
    model = classifier_from(reader, 2, 0, mean=True)
    stream = LabelBatches(rows[0], [int(m.is_spam) for m in train], epochs=4.0, skip=0.15)
    pretrain(model, stream, fine_tuning(0, table_rate=0.003, decay=1.0))
    right = count_right(label_logits(model, rows[1]), labels)
    bag = BagOfWords([m.text for m in train], [int(m.is_spam) for m in train])
    by_bag = ((bag.scores([m.text for m in test]) > 0) == torch.tensor(labels)).sum().item()
    return [
        share_row("spam, fine-tuned GPT", right, len(test), 0.95, "seed 0"),
        share_row("spam, bag of words", by_bag, len(test), None),
    ]


def exam_rows() -> list[dict]:
    """The assistant's exact match in each split, and how long ch05 and ch07 train."""
    model, tokenizer = assistant_model(assistant_recipe())
    bars = {"new_entities": 0.95, "new_combinations": 0.9, "new_wordings": 0.85, "longer": None}
    found = []
    for split, least in bars.items():
        count = lambda family: STORIES if family == "continue_story" else PER_FAMILY
        asked = [
            e for f in FAMILIES_OF[split] for e in islice(instructions(6, split, [f]), count(f))
        ]
        right = score(model, tokenizer, asked, split)["right"]
        found.append(share_row(f"assistant, {split}", int(right.sum()), len(asked), least))
    seconds = sum(step["seconds"] for step in saved_steps())
    return [
        *found,
        {
            "figure": "training of ch05 and ch07 together",
            "bar": "≤ 10 min",
            "measured": f"{seconds / 60:.1f} min",
            "met": seconds <= 600,
        },
    ]


def saved_steps() -> list[dict]:
    """All steps of the two runs, as their checkpoints tell."""
    paths = (story_checkpoint(story_recipe()), assistant_checkpoint(assistant_recipe()))
    return [step for path in paths for step in load_checkpoint(path)[1]["history"]["steps"]]


def rows() -> list[dict]:
    """One row for each figure of chapters 6 and 7."""
    gpt, tokenizer = story_model(story_recipe())
    context = gpt.config.context_length
    return [*claim_rows(gpt, tokenizer, context), *spam_rows(gpt, tokenizer, context), *exam_rows()]
