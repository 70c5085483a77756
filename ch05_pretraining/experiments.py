"""Comparisons for chapter 5 that take too long for its notebook, and the README's picture.

    python ch05_pretraining/experiments.py ingredients    about a quarter of an hour
    python ch05_pretraining/experiments.py picture        what_you_make.svg; needs the story model

`ingredients` writes results/ingredients.json after each run, and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import random
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import shared.stories
from shared.artifacts import written_whole
from shared.experiments import keep_runs, source_hash
from shared.figures import BLUE, GREY, RED, use_style
from shared.previous_chapters import (
    END_OF_TEXT,
    IGNORED,
    Batch,
    Batches,
    BPETokenizer,
    StoryBatches,
    StoryRecipe,
    WindowBatches,
    load_checkpoint,
    loss_over_entropy,
    new_story_model,
    ngram_nats,
    pretrain,
    story_checkpoint,
    story_recipe,
    story_rows,
    story_tokenizer,
    who_has_what,
    write_story,
)
from shared.stories import Story, stories, story_text

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "ingredients.json"
SEEDS = (0, 1, 2)
LONGEST = 60  # tokens of the stories that are asked about, and the end of the curriculum
WIDTH = 128  # tokens of a window

# A small model and few tokens: what can be learned in some seconds.
BASE = StoryRecipe(total_tokens=200_000, batch_growth=1.0, curriculum=((0.0, 30), (1.0, LONGEST)))
WINDOWS = "windows cut anywhere"
SHORT_WINDOWS = "windows over short stories first"
CONDITIONS: dict[str, StoryRecipe] = {
    "the whole recipe": BASE,
    "any length from the start": replace(BASE, curriculum=()),
    WINDOWS: BASE,
    SHORT_WINDOWS: BASE,
    "batches three times as large": replace(BASE, tokens_per_batch=3 * BASE.tokens_per_batch),
    "attention starts at random": replace(BASE, copying=0.0),
    "positions start at random": replace(BASE, position_size=0.0),
    "momentum 0.95": replace(BASE, training=replace(BASE.training, momentum=0.95)),
}
for rate in (0.002, 0.004, 0.008):
    adamw = replace(BASE.training, matrix_optimizer="adamw", matrix_rate=rate)
    CONDITIONS[f"AdamW for the matrices, rate {rate}"] = replace(BASE, training=adamw)


def stories_hash() -> str:
    """Twelve digits that change when the story world does."""
    return source_hash(shared.stories)


def short_stories(tokenizer: BPETokenizer, count: int = 200, seed: int = 0) -> list[Story]:
    """Held-out stories of at most `LONGEST` tokens that ask who has what."""
    asking = (story for story in stories(seed, "validation") if story.probes)
    short = (s for s in asking if len(story_rows([s], tokenizer)[0]) <= LONGEST + 2)
    return list(islice(short, count))


class CutStories(StoryBatches):
    """The stories of `StoryBatches`, chunk by chunk: only where the text is cut is different.

    Each chunk's stories are joined in a random order to one row, which is cut every WIDTH tokens.
    """

    def chunk(self, number: int, progress: float) -> Iterator[Batch]:
        """The windows of the stories that `StoryBatches` would have in this chunk."""
        whole = super().chunk(number, progress)
        told = [row[row != IGNORED] for _, targets in whole for row in targets]
        random.Random(f"{self.recipe.seed} {number}").shuffle(told)  # they came sorted by length
        stream, rows = torch.cat(told), self.recipe.tokens_per_batch // WIDTH
        windows = WindowBatches(stream, WIDTH, rows, len(stream), self.recipe.seed)
        return windows.chunk(number, progress)


def batches_for(condition: str, recipe: StoryRecipe, tokenizer: BPETokenizer) -> Batches:
    """The training text of a condition, in batches."""
    if condition != WINDOWS:
        return (CutStories if condition == SHORT_WINDOWS else StoryBatches)(tokenizer, recipe)
    text = story_text(5 * recipe.total_tokens, seed=1_000_003 * recipe.seed + 1)
    ids = tokenizer.to_tiktoken().encode(text, allowed_special={END_OF_TEXT})
    rows = recipe.tokens_per_batch // WIDTH
    return WindowBatches(ids, WIDTH, rows, recipe.total_tokens, seed=recipe.seed)


def run(condition: str, seed: int) -> dict:
    """Train once; how well the model copies, along the way."""
    recipe = replace(CONDITIONS[condition], seed=seed)
    tokenizer = story_tokenizer(recipe.vocab_size)
    told = short_stories(tokenizer)

    def watch(model) -> dict:
        right, asked = who_has_what(model, tokenizer, told)
        return {"right": right, "asked": asked, "ratio": loss_over_entropy(model, tokenizer, told)}

    batches = batches_for(condition, recipe, tokenizer)
    steps = recipe.total_tokens // recipe.tokens_per_batch
    history = pretrain(
        new_story_model(recipe),
        batches,
        recipe.training,
        watch=watch,
        watch_every=max(1, steps // 8),
    )
    seconds = sum(step["seconds"] for step in history.steps)
    return {"condition": condition, "seed": seed, "seconds": seconds, "points": history.looks}


def ingredients() -> None:
    """All conditions with all seeds that are not in the file yet."""
    keep_runs(
        RESULTS,
        "What teaches a small model to copy? One thing is changed at a time.",
        [{"condition": condition, "seed": seed} for seed in SEEDS for condition in CONDITIONS],
        run,
        settings=asdict(BASE),
        data=stories_hash(),
        asked=f"200 held-out stories of at most {LONGEST} tokens",
        stories=stories_hash(),  # the notebook shows it
    )


# --- the picture for the README


def opponents(tokenizer: BPETokenizer, told: list[Story]) -> dict[str, float]:
    """What counting pays for these stories, over their entropy."""
    learned = story_rows(islice(stories(1), 5000), tokenizer)
    asked, entropy = story_rows(told, tokenizer), -sum(story.log_prob for story in told)
    nats = ngram_nats(learned, asked, 3, tokenizer.vocab_size)
    names = ("counting single tokens", "counting pairs", "counting triples")
    return {name: paid / entropy for name, paid in zip(names, nats, strict=True)}


def draw_curve(ax, looks: list[dict], lines: dict[str, float]) -> None:
    """Loss over entropy against tokens read, with the opponents and the floor."""
    ax.plot(
        [x["tokens"] / 1e6 for x in looks], [x["ratio"] for x in looks], "o-", color=BLUE, lw=2.5
    )
    for name, ratio in lines.items():
        ax.axhline(ratio, color=GREY, lw=1, ls="--")
        ax.text(looks[-1]["tokens"] / 1e6, ratio * 1.02, name, ha="right", color=GREY, fontsize=9.5)
    ax.axhline(1, color=RED, lw=1.5)
    ax.text(0, 1.02, "the floor: the entropy of the stories", color=RED, fontsize=9.5)
    ax.set_yscale("log", base=2)
    ax.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    ax.set(xlabel="million tokens read", ylabel="loss / lowest possible", ylim=(0.95, None))
    ax.set_title("It learns")


def draw_story(ax, sample: str) -> None:
    """A text in the model's words, wrapped."""
    paragraphs = [textwrap.fill(part, 58) for part in sample.strip().split("\n\n")]
    ax.text(
        0, 0.97, "\n\n".join(paragraphs), va="top", fontsize=11, linespacing=1.5, parse_math=False
    )
    ax.set_title("and tells")
    ax.axis("off")


def picture() -> None:
    """what_you_make.svg, from the story model that chapter 5 has made on this machine."""
    recipe = story_recipe()
    path = story_checkpoint(recipe)
    if not path.exists():
        sys.exit("no story model here yet: run chapter 5, or story_model(), first")
    model, notes = load_checkpoint(path)
    tokenizer = story_tokenizer(recipe.vocab_size)
    looks = notes["history"]["looks"]
    told = list(islice(stories(0, "validation"), 1000))
    use_style()
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "what you make"})
    plt.rcParams.update({"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Arial"]})
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[1, 1.05], facecolor="white")
    draw_curve(axes[0], looks, opponents(tokenizer, told))
    dice = torch.Generator().manual_seed(1)
    draw_story(axes[1], write_story(model, tokenizer, top_p=0.95, generator=dice))
    with written_whole(HERE / "what_you_make.svg") as temporary:
        fig.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    print(f"what_you_make.svg: {(HERE / 'what_you_make.svg').stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("ingredients", "picture"))
    {"ingredients": ingredients, "picture": picture}[parser.parse_args().command]()


if __name__ == "__main__":
    main()
