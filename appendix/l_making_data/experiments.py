"""Comparisons for appendix L that take too long for its notebook.

    python appendix/l_making_data/experiments.py duplicates    one to two minutes on one core
    python appendix/l_making_data/experiments.py filters       two minutes
    python appendix/l_making_data/experiments.py mixing        two minutes
    python appendix/l_making_data/experiments.py packing       a minute
    python appendix/l_making_data/experiments.py curriculum    a minute
    python appendix/l_making_data/experiments.py synthetic     four minutes; needs the assistant

Each writes results/NAME.json after every run, and goes on where it was stopped. The model is a
small one from nothing, except for `synthetic`, which starts from chapter 5's.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

import torch

import shared.instructions
import shared.messages
import shared.stories
from shared.appendices import (
    DIRT,
    PackedGPT,
    agreed_answer,
    batches_in_order,
    dirtied,
    joined_rows,
    line_stories,
    mixed_rows,
    rule_findings,
    temperature_shares,
)
from shared.experiments import keep_runs, source_hash
from shared.instructions import Example, instructions
from shared.messages import messages, split_messages
from shared.previous_chapters import (
    BagOfWords,
    Batch,
    Batches,
    BPETokenizer,
    FixedBatches,
    GPTConfig,
    GPTModel,
    Recipe,
    TextBatches,
    as_messages,
    assistant_model,
    assistant_recipe,
    assistant_tokenizer,
    count_targets,
    evaluate,
    grow_vocabulary,
    head_start,
    instruction_batch,
    instruction_row,
    pack_rows,
    pad_rows,
    pretrain,
    reply,
    story_model,
    story_rows,
    story_tokenizer,
    would_answer,
)
from shared.stories import END_OF_TEXT, stories

RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Small:
    """The model and the budget of a run: about four seconds on one core."""

    vocab_size: int = 1024
    context_length: int = 256
    embed_dim: int = 64
    num_heads: int = 2
    num_layers: int = 2
    total_tokens: int = 60_000
    tokens_per_batch: int = 512  # two rows of 256
    asked: int = 200  # held-out texts of each domain


SMALL = Small()
Run = Callable[[str, int], dict]  # condition and seed -> what came out


@cache
def tokenizer() -> BPETokenizer:
    """The story tokenizer of the small model."""
    return story_tokenizer(SMALL.vocab_size)


def rows_of(texts: Sequence[str]) -> list[list[int]]:
    """Texts as rows that fit the context."""
    return [row[: SMALL.context_length + 1] for row in story_rows(texts, tokenizer())]


def tell(count: int, seed: int, split: str = "train") -> list[str]:
    """So many stories."""
    return [story.text for story in islice(stories(seed, split), count)]


def enough(texts: Iterator[str]) -> list[list[int]]:
    """Rows of texts, as many as the budget needs."""
    rows, tokens = [], 0
    while tokens < SMALL.total_tokens:
        rows += rows_of(list(islice(texts, 200)))
        tokens = sum(len(row) - 1 for row in rows)
    return rows


def endless(seed: int) -> Iterator[str]:
    """Stories that no other seed is trained on."""
    return (story.text for story in stories(1000 + seed))


@cache
def pool(seed: int) -> tuple[list[int], ...]:
    """The stories of a seed, as rows: the same for all conditions."""
    return tuple(enough(endless(seed)))


def new_model(seed: int, kind: type[GPTModel] = GPTModel, **given: int) -> GPTModel:
    """The small model before its first step."""
    sizes = ("vocab_size", "context_length", "embed_dim", "num_heads", "num_layers")
    config = GPTConfig(**{name: getattr(SMALL, name) for name in sizes})
    model = kind(config, seed=seed, **given)
    head_start(model, 0.02, 0.5, seed)
    return model


def learn(model: GPTModel, batches: Batches, recipe: Recipe | None = None) -> float:
    """Train; the seconds that it took."""
    history = pretrain(model, batches, recipe or Recipe(), watch_every=10**9)
    return sum(step["seconds"] for step in history.steps)


def trained(rows: Sequence[list[int]], seed: int) -> tuple[GPTModel, float]:
    """A small model that read these rows, again and again until its budget was used."""
    total = sum(len(row) - 1 for row in rows)
    size, epochs = SMALL.tokens_per_batch, SMALL.total_tokens / total
    batches = TextBatches(rows, epochs=epochs, tokens_per_batch=size, seed=seed)
    model = new_model(seed)
    return model, learn(model, batches)


@cache
def exam(domain: str = "stories") -> tuple[Batch, ...]:
    """Held-out texts of a domain, in batches."""
    if domain == "stories":
        texts = tell(SMALL.asked, 0, "validation")
    elif domain == "messages":
        texts = [m.text for m in split_messages(messages())[2][: SMALL.asked]]
    else:
        texts = [story.text for story in islice(line_stories(10**6), SMALL.asked)]
    return tuple(pad_rows(group) for group in pack_rows(rows_of(texts), 8000))


# --- duplicates

COPIES = {"none": 0.0, "half, evenly": 0.5, "half, of a few": 0.5, "90 %, evenly": 0.9}
COPIES |= {"90 %, of a few": 0.9}
FEW = 10  # texts that are copied, where only a few are


def duplicates(condition: str, seed: int) -> dict:
    """Equal budgets; a share of the rows are copies of others.

    "evenly": each text equally often. "of a few": the copies are all of the same ten texts. With
    the copies of "90 %, of a few" removed, "90 %, evenly" is what is left, read more often.
    """
    rows = list(pool(seed))
    different = rows[: round(len(rows) * (1 - COPIES[condition]))]
    source = different[:FEW] if "few" in condition else different
    copies = [source[i % len(source)] for i in range(len(rows) - len(different))]
    model, seconds = trained([*different, *copies], seed)
    seen = [pad_rows(group) for group in pack_rows(different[:FEW], 8000)]
    return {
        "loss": evaluate(model, exam()),
        "loss on copied texts": evaluate(model, seen),
        "different texts": len(different),
        "seconds": seconds,
    }


# --- quality filters

FILTERS = ("clean", "dirty", "rules", "classifier", "both")
DIRTY_SHARE = 0.5


def dirty_stream(seed: int) -> Iterator[tuple[str, str]]:
    """(text, kind) without end; half of the texts are spoiled, kind "" is a clean one."""
    dice = random.Random(f"dirt {seed}")
    for text in endless(seed):
        kind = dice.choice(DIRT) if dice.random() < DIRTY_SHARE else ""
        yield (dirtied(text, kind, dice) if kind else text), kind


@cache
def dirt_classifier() -> BagOfWords:
    """Chapter 6's bag of words, taught by 600 texts whose dirt is known; 1 means dirty."""
    shown = list(islice(dirty_stream(999), 600))
    return BagOfWords([text for text, _ in shown], [int(bool(kind)) for _, kind in shown])


def passes(condition: str, text: str, kind: str) -> bool:
    """Whether a text gets through the filter of a condition."""
    if condition == "clean":
        return not kind
    if condition in ("rules", "both") and rule_findings(text):
        return False
    return condition not in ("classifier", "both") or dirt_classifier().scores([text]).item() < 0


def filters(condition: str, seed: int) -> dict:
    """Equal budgets of what got through."""
    stream = dirty_stream(seed)
    kept = ((text, kind) for text, kind in stream if passes(condition, text, kind))
    noted: list[str] = []

    def texts() -> Iterator[str]:
        for text, kind in kept:
            noted.append(kind)
            yield text

    model, seconds = trained(enough(texts()), seed)
    dirty = sum(map(bool, noted)) / len(noted)
    return {"loss": evaluate(model, exam()), "dirty": dirty, "seconds": seconds}


# --- mixing weights

DOMAINS = ("stories", "messages", "line")
SIZES = (800_000, 60_000, 6_000)  # tokens that there are of each, in the second part
SHARES = {f"messages {share:.0%}": share for share in (0.02, 0.1, 0.5)}
TEMPERATURES = {f"temperature {t}": t for t in (1, 100)}


def cut(rows: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """The first rows, of so many tokens."""
    kept: list[list[int]] = []
    for row in rows:
        if tokens <= 0:
            break
        kept.append(row)
        tokens -= len(row) - 1
    return kept


def domain_rows(domain: str, seed: int) -> list[list[int]]:
    """What there is to read of a domain."""
    if domain == "stories":
        return list(pool(seed))
    if domain == "messages":
        return rows_of([m.text for m in split_messages(messages(), seed=0)[0]])
    return rows_of([story.text for story in islice(line_stories(seed), 300)])


def mixing(condition: str, seed: int) -> dict:
    """Equal budgets; two domains by share, or three by temperature."""
    if condition in SHARES:
        names, shares = DOMAINS[:2], (1 - SHARES[condition], SHARES[condition])
        pools = [domain_rows(name, seed) for name in names]
    else:
        names, shares = DOMAINS, temperature_shares(SIZES, TEMPERATURES[condition])
        pools = [cut(domain_rows(n, seed), t) for n, t in zip(names, SIZES, strict=True)]
    rows = mixed_rows(pools, shares, SMALL.total_tokens, seed)
    model, seconds = trained(rows, seed)
    losses = {name: evaluate(model, exam(name)) for name in DOMAINS}
    return {"losses": losses, "shares": list(shares), "seconds": seconds}


# --- packing

PACKINGS = ("padded, by length", "packed, one another seen", "packed, kept apart", "cut anywhere")


def packing(condition: str, seed: int) -> dict:
    """Equal budgets of asked tokens; the same stories, in rows of another kind."""
    rows = list(pool(seed))
    room, size = SMALL.context_length, SMALL.tokens_per_batch
    mark = tokenizer().special_tokens[END_OF_TEXT]
    model = new_model(seed)
    if condition == "packed, kept apart":
        model = new_model(seed, PackedGPT, end_id=mark)
    if condition == "padded, by length":
        joined = rows
    elif condition == "cut anywhere":
        stream = [mark, *(i for row in rows for i in row[1:])]
        joined = [stream[i : i + room + 1] for i in range(0, len(stream) - room, room)]
    else:
        mixed = random.Random(seed).sample(rows, len(rows))
        parts = [mixed[i : i + 200] for i in range(0, len(mixed), 200)]
        joined = [row for part in parts for row in joined_rows(part, room)]
    total = sum(len(row) - 1 for row in joined)
    epochs = SMALL.total_tokens / total
    seconds = learn(model, TextBatches(joined, epochs=epochs, tokens_per_batch=size, seed=seed))
    return {"loss": evaluate(model, exam()), "rows": len(joined), "seconds": seconds}


# --- curriculum

ORDERS = ("random", "short first", "long first")


def curriculum(condition: str, seed: int) -> dict:
    """The same batches in another order."""
    groups = batches_in_order(list(pool(seed)), condition, SMALL.tokens_per_batch, seed)
    model = new_model(seed)
    seconds = learn(model, FixedBatches([pad_rows(group) for group in groups]))
    return {"loss": evaluate(model, exam()), "seconds": seconds}


# --- synthetic instructions

TEACHING = ("true", "raw", "checked", "agreed")
FAMILIES = ("count", "past_tense", "plural")  # soon learned
PROMPTS, TEMPERATURE, VOTES, LEAST = 500, 1.8, 5, 3
STUDENT_TOKENS = 12_000  # asked ones


@cache
def start() -> tuple[GPTModel, BPETokenizer, BPETokenizer]:
    """The story model, its tokenizer, and the assistant's: where every student begins."""
    return (story_model()[0], *assistant_tokenizer(assistant_recipe("laptop")))


@cache
def teacher() -> GPTModel:
    """The assistant of chapter 7."""
    return assistant_model()[0]


@cache
def prompts(seed: int) -> list[Example]:
    """What the teacher is asked; the answers in it are for the checker and for "true" alone."""
    return list(islice(instructions(7000 + seed, "train", FAMILIES), PROMPTS))


@cache
def teacher_answers(seed: int, vote: int) -> list[str]:
    """The assistant's answers, drawn at a high temperature."""
    words = start()[2]
    asked = [as_messages(example) for example in prompts(seed)]
    dice = torch.Generator().manual_seed(100 * seed + vote)
    return reply(teacher(), words, asked, 40, temperature=TEMPERATURE, generator=dice)


def lessons(condition: str, seed: int) -> list[Example]:
    """The examples that a student learns from."""
    asked = prompts(seed)
    if condition == "true":
        return asked
    said: list[str | None] = list(teacher_answers(seed, 0))
    if condition == "agreed":
        drawn = zip(*(teacher_answers(seed, vote) for vote in range(VOTES)), strict=True)
        said = [agreed_answer(votes, LEAST) for votes in drawn]
    elif condition == "checked":
        pairs = zip(asked, said, strict=True)
        said = [text if example.is_right(text or "") else None for example, text in pairs]
    pairs = zip(asked, said, strict=True)
    return [replace(example, answer=text) for example, text in pairs if text]


def synthetic(condition: str, seed: int) -> dict:
    """A student that starts from the story model, with a budget of answers; asked 300 questions."""
    taught, words = lessons(condition, seed), start()[2]
    if not taught:
        raise ValueError(f"{condition}, seed {seed}: no lesson passed the filter; ask for more.")
    right = {(e.instruction, e.input): e for e in prompts(seed)}
    kept = [right[e.instruction, e.input].is_right(e.answer) for e in taught]
    dice, batches, tokens, epochs = random.Random(seed), [], 0, 0
    rows = [instruction_row(example, words) for example in taught]
    starts = {tuple(ids): start for ids, start in rows}
    while tokens < STUDENT_TOKENS:
        groups = pack_rows(dice.sample([ids for ids, _ in rows], len(rows)), 1200)
        dice.shuffle(groups)
        for group in groups:
            batches.append(instruction_batch([(ids, starts[tuple(ids)]) for ids in group]))
            tokens += count_targets(batches[-1])
            if tokens >= STUDENT_TOKENS:
                break
        epochs += 1
    student = grow_vocabulary(*start(), seed)
    seconds = learn(student, FixedBatches(batches), assistant_recipe("laptop").training)
    asked = list(islice(instructions(0, "validation", FAMILIES), 300))
    answered = would_answer(student, words, asked)
    return {
        "right": sum(answered),
        "asked": len(asked),
        "lessons": len(taught),
        "right lessons": sum(kept),
        "epochs": epochs,
        "seconds": seconds,
    }


# --- running them

EXPERIMENTS: dict[str, tuple[Run, Sequence[str], Sequence[int], str]] = {
    "duplicates": (duplicates, tuple(COPIES), SEEDS, "What do duplicates cost?"),
    "filters": (filters, FILTERS, SEEDS, "What does dirt cost, and what do filters save?"),
    "mixing": (mixing, (*SHARES, *TEMPERATURES), SEEDS, "What does a domain's share buy?"),
    "packing": (packing, PACKINGS, SEEDS, "Does it matter that packed stories see one another?"),
    "curriculum": (curriculum, ORDERS, SEEDS, "Does the order of lengths matter?"),
    "synthetic": (synthetic, TEACHING, SEEDS, "Is a teacher's filtered work better than raw?"),
}


def perform(name: str, minutes: float) -> None:
    """All conditions with all seeds that are not in the file yet, as long as there is time."""
    run, conditions, seeds, what = EXPERIMENTS[name]
    keep_runs(
        RESULTS / f"{name}.json",
        what,
        [{"condition": condition, "seed": seed} for seed in seeds for condition in conditions],
        lambda condition, seed: run(condition, seed),
        settings=asdict(SMALL),
        data=source_hash(shared.stories, shared.instructions, shared.messages),
        minutes=minutes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="+", choices=tuple(EXPERIMENTS), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no run after this long")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    for name in options.names:
        perform(name, (until - time.monotonic()) / 60)


if __name__ == "__main__":
    main()
