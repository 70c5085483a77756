"""What pretraining reaches: loss against the floor, who has what, exact resume, GPT-2's files."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from shared.previous_chapters import (
    GPTModel,
    StoryBatches,
    load_checkpoint,
    load_gpt2,
    loss_over_entropy,
    new_story_model,
    pretrain,
    story_checkpoint,
    story_model,
    story_recipe,
    story_tokenizer,
    who_has_what,
    wilson,
)
from shared.stories import stories


def floor_row(model: GPTModel, tokenizer, seconds: float, tokens: int) -> dict:
    """Validation loss over the corpus's entropy, on stories never trained on."""
    told = list(islice(stories(7, "validation"), 2000))
    ratio = loss_over_entropy(model, tokenizer, told)
    return {
        "figure": "ch05 validation loss over the corpus's entropy",
        "bar": "≤ 1.05 in ≤ 4 min",
        "measured": f"{ratio:.3f} in {seconds:.0f} s of training steps",
        "met": ratio <= 1.05 and seconds <= 240,
        "note": f"{tokens:,} tokens, 2,000 stories",
    }


def who_row(model: GPTModel, tokenizer, split: str) -> dict:
    """Share of who-has-what endings completed rightly."""
    right, asked = who_has_what(model, tokenizer, islice(stories(7, split), 2000))
    low, high = wilson(right, asked)
    return {
        "figure": f"who-has-what endings, {split}",
        "bar": "≥ 90 %",
        "measured": f"{right / asked:.1%} [{low:.1%}, {high:.1%}]",
        "met": right / asked >= 0.9,
        "note": f"{right} of {asked}, Wilson interval",
    }


def resume_row() -> dict:
    """A run that is stopped and goes on, against one that is not: the same bits?"""
    recipe = replace(story_recipe(), total_tokens=12_000, embed_dim=48, num_layers=2, num_heads=3)
    tokenizer = story_tokenizer(recipe.vocab_size)
    whole = new_story_model(recipe)
    pretrain(whole, StoryBatches(tokenizer, recipe), recipe.training)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"

        class Interrupted(Exception):
            pass

        def die(model: GPTModel) -> dict:
            if die.looks == 1:
                raise Interrupted
            die.looks += 1
            return {}

        die.looks = 0
        options = {"checkpoint": path, "checkpoint_every": 1, "watch_every": 5}
        half = new_story_model(recipe)
        try:
            pretrain(half, StoryBatches(tokenizer, recipe), recipe.training, watch=die, **options)
        except Interrupted:
            pass
        again = new_story_model(recipe)
        pretrain(again, StoryBatches(tokenizer, recipe), recipe.training, **options)
    equal = all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True)
    )
    return {
        "figure": "resume after an interrupt",
        "bar": "bit-equal on CPU",
        "measured": "bit-equal" if equal else "different",
        "met": equal,
        "note": "stopped after 5 steps, continued from its checkpoint",
    }


def gpt2_row() -> dict:
    """Logits against transformers on random GPT-2 checkpoints saved in its format."""
    from transformers import GPT2Config, GPT2LMHeadModel

    worst = 0.0
    for vocab_size, positions, embed_dim, layers, heads in (
        (97, 33, 24, 3, 4),
        (211, 17, 60, 2, 5),
    ):
        config = GPT2Config(
            vocab_size=vocab_size,
            n_positions=positions,
            n_embd=embed_dim,
            n_layer=layers,
            n_head=heads,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            theirs = GPT2LMHeadModel(config).eval()
            ids = torch.randint(0, vocab_size, (3, positions - 4))
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            ours = load_gpt2(folder).eval()
        with torch.no_grad():
            worst = max(worst, (ours(ids) - theirs(ids).logits).abs().max().item())
    return {
        "figure": "logits against transformers, checkpoint in its format",
        "bar": "≤ 1e-4",
        "measured": f"{worst:.1e}",
        "met": worst <= 1e-4,
        "note": "two odd sizes, random weights",
    }


def rows() -> list[dict]:
    """The rows of the table; the story model is trained if it is not there."""
    model, tokenizer = story_model()
    _, notes = load_checkpoint(story_checkpoint(story_recipe()), model.config)
    steps = notes["history"]["steps"]
    seconds, tokens = sum(step["seconds"] for step in steps), steps[-1]["tokens"]
    return [
        floor_row(model, tokenizer, seconds, tokens),
        who_row(model, tokenizer, "validation"),
        who_row(model, tokenizer, "new_combinations"),
        resume_row(),
        gpt2_row(),
    ]
