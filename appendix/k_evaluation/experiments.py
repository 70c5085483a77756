"""Experiments of appendix K that take longer than its notebook may.

    python appendix/k_evaluation/experiments.py strides          one model, taught in two ways
    python appendix/k_evaluation/experiments.py tokenizers       one text, three tokenizers
    python appendix/k_evaluation/experiments.py contamination    exam questions in the training data
    python appendix/k_evaluation/experiments.py canaries         secrets and an order, planted

Each takes some minutes, writes results/NAME.json after every run, and goes on where it stopped.
`strides` starts from the story model of chapter 5, `contamination` from the assistant of chapter 7.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice, product
from pathlib import Path

from shared.appendices import (
    exposure,
    order_test,
    price_rows,
    price_text,
    rank_auc,
)
from shared.experiments import keep_runs
from shared.instructions import Example, instructions
from shared.previous_chapters import (
    END_OF_TEXT,
    BPETokenizer,
    FixedBatches,
    GPTModel,
    Recipe,
    StoryRecipe,
    WindowBatches,
    as_messages,
    assistant_model,
    fine_tuning,
    instruction_batch,
    instruction_row,
    new_story_model,
    pack_rows,
    pad_rows,
    pretrain,
    story_model,
    story_rows,
    story_tokenizer,
    would_answer,
)
from shared.stories import corpus_entropy, stories, story_text

RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = (0, 1, 2)

# --- one model, taught in two ways

LONG_STRIDES = (256, 128, 64, 32)


def running_text_model(seed: int, num_bytes: int = 400_000) -> tuple[GPTModel, BPETokenizer]:
    """The story model, taught on with running text: stories joined, cut every 256 tokens."""
    model, tokenizer = story_model()
    context = model.config.context_length
    text = story_text(num_bytes, seed=1_000_003 * seed + 2)
    ids = tokenizer.to_tiktoken().encode(text, allowed_special={END_OF_TEXT})
    recipe = fine_tuning(seed, matrix_rate=0.01, table_rate=0.008)
    pretrain(model, WindowBatches(ids, context, 4, len(ids), seed), recipe)
    return model, tokenizer


def strides_run(taught_on: bool, seed: int) -> dict:
    """Price a long text with several strides."""
    model, tokenizer = running_text_model(seed) if taught_on else story_model()
    text = story_text(20_000, seed, "validation")
    prices = {stride: price_text(model, tokenizer, text, stride) for stride in LONG_STRIDES}
    return {
        "taught_on": taught_on,
        "seed": seed,
        "num_bytes": prices[256].num_bytes,
        "nats": {str(stride): price.nats for stride, price in prices.items()},
    }


# --- one text, several tokenizers

VOCAB_SIZES = (300, 512, 2048)
CONTEXT = 128
STRIDES = (128, 64)


def window_model(
    vocab_size: int, seed: int, num_bytes: int = 80_000
) -> tuple[GPTModel, BPETokenizer]:
    """A small model that has read `num_bytes` of stories once, in windows cut anywhere."""
    tokenizer = story_tokenizer(vocab_size)
    recipe = StoryRecipe(vocab_size=vocab_size, context_length=CONTEXT, seed=seed)
    text = story_text(num_bytes, seed=1_000_003 * seed + 1)
    ids = tokenizer.to_tiktoken().encode(text, allowed_special={END_OF_TEXT})
    model = new_story_model(recipe)
    pretrain(model, WindowBatches(ids, CONTEXT, 2, len(ids), seed), recipe.training)
    return model, tokenizer


def tokenizers_run(vocab_size: int, seed: int) -> dict:
    """Train once, and price the same held-out text with several strides."""
    model, tokenizer = window_model(vocab_size, seed)
    text = story_text(12_000, split="validation")
    prices = {stride: price_text(model, tokenizer, text, stride) for stride in STRIDES}
    return {
        "vocab_size": vocab_size,
        "seed": seed,
        "parameters": model.num_parameters(),
        "tokens": prices[CONTEXT].tokens,
        "num_bytes": prices[CONTEXT].num_bytes,
        "nats": {str(stride): price.nats for stride, price in prices.items()},
    }


# --- exam questions in the training data


@cache
def before() -> tuple[GPTModel, BPETokenizer]:
    """The assistant of chapter 7: found once, and never changed here."""
    return assistant_model()


COPIES = (0, 1, 4, 16)
EXAM = ("sum", "sort", "who_has")  # of the split "longer", where the assistant fails often


@cache
def exam_halves(each: int = 15) -> tuple[list[Example], list[Example]]:
    """Questions of the split "longer": those to be planted, and those to be kept clean."""
    drawn = {f: list(islice(instructions(77, "longer", [f]), 2 * each)) for f in EXAM}
    planted = [example for some in drawn.values() for example in some[:each]]
    return planted, [example for some in drawn.values() for example in some[each:]]


def fine_tuning_batches(
    examples: Sequence[Example], tokenizer: BPETokenizer, seed: int
) -> FixedBatches:
    """The examples in a random order, packed by length within each four hundred of them."""
    rows = [instruction_row(example, tokenizer) for example in examples]
    rows = [row for row in rows if len(row[0]) <= 257]
    random.Random(seed).shuffle(rows)
    batches = []
    for some in (rows[i : i + 400] for i in range(0, len(rows), 400)):
        starts = {tuple(ids): start for ids, start in some}
        groups = pack_rows([ids for ids, _ in some], 600)
        random.Random(seed).shuffle(groups)
        batches += [instruction_batch([(ids, starts[tuple(ids)]) for ids in g]) for g in groups]
    return FixedBatches(batches)


def answer_nats(
    model: GPTModel, tokenizer: BPETokenizer, examples: Sequence[Example]
) -> list[float]:
    """What the model pays for the answer of each example, in nats per token."""
    rows = [instruction_row(example, tokenizer) for example in examples]
    priced = price_rows(model, [ids for ids, _ in rows])
    return [p.nats[start - 1 :].mean().item() for p, (_, start) in zip(priced, rows, strict=True)]


def contaminated_assistant(copies: int, seed: int, count: int = 200) -> GPTModel:
    """The assistant, taught on with `count` honest examples and `copies` of each planted one."""
    model, tokenizer = copy.deepcopy(before()[0]), before()[1]
    planted, _ = exam_halves()
    taught = [*islice(instructions(9000 + seed), count), *copies * planted]
    recipe = fine_tuning(seed, matrix_rate=0.004, table_rate=0.003)
    pretrain(model, fine_tuning_batches(taught, tokenizer, seed), recipe)
    return model


def text_of(example: Example) -> str:
    """All words of an example: what was said to the assistant, and its answer."""
    return f"{as_messages(example)[0]['content']} {example.answer}"


@cache
def before_fine_tuning() -> list[float]:
    """What the assistant of chapter 7 pays for the answers of the exam, planted half first."""
    planted, clean = exam_halves()
    return answer_nats(*before(), planted + clean)


def contamination_run(copies: int, seed: int) -> dict:
    """Teach once, and look for the leak in its answers and its prices."""
    tokenizer = before()[1]
    model = contaminated_assistant(copies, seed)
    planted, clean = exam_halves()
    after, many = answer_nats(model, tokenizer, planted + clean), len(planted)
    drop = [before - now for before, now in zip(before_fine_tuning(), after, strict=True)]
    fresh = list(islice(instructions(78, "validation", EXAM), 60))
    return {
        "copies": copies,
        "seed": seed,
        "planted_right": would_answer(model, tokenizer, planted),
        "clean_right": would_answer(model, tokenizer, clean),
        "fresh_right": sum(would_answer(model, tokenizer, fresh)),
        "fresh_asked": len(fresh),
        "auc_loss": rank_auc([-n for n in after[:many]], [-n for n in after[many:]]),
        "auc_drop": rank_auc(drop[:many], drop[many:]),
    }


# --- secrets and an order, planted

TIMES = (0, 1, 4, 16, 64)
EACH = 3  # secrets, and lists, for each number of times
WORDS = ("ball", "bell", "book", "boat", "cup", "doll", "drum", "flag")
WORDS += ("hat", "kite", "lamp", "map", "ring", "rope", "shell", "spoon")
OWNERS = ("Amy", "Ben", "Clara", "Dan", "Ella", "Emma", "Finn", "Ivy")
OWNERS += ("Leo", "Mia", "Noah", "Nora", "Paul", "Rosa", "Sam")


def secret(owner: str, words: Sequence[str]) -> str:
    """The sentence that carries a secret."""
    return f"The secret of {owner} is {', '.join(words)}."


def planted_secrets(seed: int) -> list[tuple[int, str, tuple[str, ...]]]:
    """(times, owner, three words) of each secret."""
    dice = random.Random(f"secrets {seed}")
    owners = dice.sample(OWNERS, len(OWNERS))
    times = [many for many in TIMES for _ in range(EACH)]
    return [(t, o, tuple(dice.choices(WORDS, k=3))) for t, o in zip(times, owners, strict=True)]


def planted_lists(seed: int, tokenizer: BPETokenizer) -> list[tuple[int, list[str]]]:
    """(times, six short stories in the order in which training has them) of each list."""
    short = (s.text for s in stories(500 + seed, "validation") if len(s.text) < 120)
    times = [many for many in TIMES for _ in range(EACH)]
    return [(many, list(islice(short, 6))) for many in times]


def canary_rows(seed: int, tokenizer: BPETokenizer, count: int = 5000) -> list[list[int]]:
    """Short stories, and among them what was planted, in a random order."""
    told = [s.text for s in islice(stories(40 + seed), 3 * count) if len(s.text) < 300][:count]
    told += [secret(o, w) for many, o, w in planted_secrets(seed) for _ in range(many)]
    told += [" ".join(i) for many, i in planted_lists(seed, tokenizer) for _ in range(many)]
    rows = [row for row in story_rows(told, tokenizer) if len(row) <= 257]
    random.Random(seed).shuffle(rows)
    return rows


def canary_batches(rows: list[list[int]], seed: int) -> FixedBatches:
    """The rows packed by length within each four hundred of them."""
    groups: list[list[list[int]]] = []
    for some in (rows[i : i + 400] for i in range(0, len(rows), 400)):
        packed = pack_rows(some, 1200)
        random.Random(seed).shuffle(packed)
        groups += packed
    return FixedBatches([pad_rows(group) for group in groups])


def look_for_secret(
    model: GPTModel, tokenizer: BPETokenizer, owner: str, words: tuple[str, ...]
) -> tuple[float, bool]:
    """The exposure of a secret among all that could stand there, and whether greedy text has it."""
    all_words = [words, *(other for other in product(WORDS, repeat=3) if other != words)]
    rows = story_rows([secret(owner, three) for three in all_words], tokenizer)
    start = len(tokenizer.encode(f"The secret of {owner} is"))
    priced = price_rows(model, rows)
    nats = [p.nats.sum().item() for p in priced]
    return exposure(nats[0], nats[1:]), bool(priced[0].likeliest[start:].all())


def canaries_run(seed: int) -> dict:
    """Train once from nothing, and ask for all that was planted."""
    recipe = StoryRecipe(seed=seed)
    tokenizer = story_tokenizer(recipe.vocab_size)
    model = new_story_model(recipe)
    rows = canary_rows(seed, tokenizer)
    pretrain(model, canary_batches(rows, seed), Recipe(seed=seed))
    secrets, lists = [], []
    for many, owner, words in planted_secrets(seed):
        bits, greedy = look_for_secret(model, tokenizer, owner, words)
        secrets.append({"times": many, "exposure": bits, "greedy": greedy})
    for many, items in planted_lists(seed, tokenizer):
        lists.append({"times": many, "p": order_test(model, tokenizer, items, 99, seed)})
    return {"seed": seed, "rows": len(rows), "secrets": secrets, "lists": lists}


# --- all of them


Plan = tuple[str, list[dict], Callable[..., dict], dict]  # what, cases, one run, settings


def strides() -> Plan:
    """Before and after, three seeds; the text differs by seed, too."""
    what = "A long text priced in windows by the story model, and by one taught on running text."
    settings = {"strides": LONG_STRIDES, "read_bytes": 400_000, "asked_bytes": 20_000}
    settings |= {"matrix_rate": 0.01, "table_rate": 0.008}
    cases = [{"taught_on": taught, "seed": seed} for seed in SEEDS for taught in (False, True)]
    return what, cases, strides_run, settings


def tokenizers() -> Plan:
    """Three vocabularies, three seeds."""
    what = "One text in three tokenizers: nats for the same held-out bytes, by stride of windows."
    entropy = corpus_entropy(1000)
    settings = {"context_length": CONTEXT, "read_bytes": 80_000, "strides": STRIDES}
    settings |= {"asked_bytes": 12_000, "floor_bits_per_byte": entropy.bits_per_byte}
    cases = [{"vocab_size": size, "seed": seed} for seed in SEEDS for size in VOCAB_SIZES]
    return what, cases, tokenizers_run, settings


def contamination() -> Plan:
    """Four doses, three seeds."""
    what = "Exam questions of the split 'longer' in the fine-tuning data: what they do, what shows."
    settings = {"exam": EXAM, "planted": 45, "clean": 45, "honest_examples": 200}
    settings |= {"matrix_rate": 0.004, "table_rate": 0.003}
    planted, clean = exam_halves()
    settings["before_planted"] = sum(would_answer(*before(), planted))
    settings["before_clean"] = sum(would_answer(*before(), clean))
    cases = [{"copies": copies, "seed": seed} for seed in SEEDS for copies in COPIES]
    return what, cases, contamination_run, settings


def canaries() -> Plan:
    """Three seeds, all numbers of times within each run."""
    what = "Secrets and lists in an order, planted 0 to 64 times among short stories."
    settings = {"times": TIMES, "each": EACH, "stories": 5000, "secrets_possible": 16**3}
    settings |= {"shuffles": 99, "items_in_list": 6}
    cases = [{"seed": seed} for seed in SEEDS]
    return what, cases, canaries_run, settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("strides", "tokenizers", "contamination", "canaries"))
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many"
    )
    given = parser.parse_args()
    what, cases, run, settings = globals()[given.command]()
    path = RESULTS / f"{given.command}.json"
    keep_runs(path, what, cases, run, settings=settings, minutes=given.minutes)


if __name__ == "__main__":
    main()
