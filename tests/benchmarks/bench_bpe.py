"""The tokenizer: its trainer against Hugging Face's, its ids against tiktoken's."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from statistics import median

from shared.previous_chapters import END_OF_TEXT, BPETokenizer, word_pattern
from shared.stories import story_text
from shared.texts import english_text

NUM_BYTES = 2_000_000
VOCAB_SIZE = 5_000
NUM_STRINGS = 100_000
REPEATS = 5

# What tokenizers stumble over. Each random string mixes a few of these.
POOLS = (
    "abcdefghijklmnopqrstuvwxyz etaoin",
    " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\u200b\ufeff",
    "'sdmtlvre' 'S\u2019s 'll've're'm'd't",
    "漢字仮名交じり文한국어简体中文𠀀𪚥",
    "🐔🥚👩‍🚀🇫🇷👍🏽❤️🏴‍☠️",
    "\u0301\u0308\u0327\u093f\u0e33\u20dd\ufe0f\u1ab0\u0abc",
    "éßøžЖщΩλאبपตไอქ",
    "0123456789½Ⅷ٣੭³①𝟘",
    '.,;:!?-_()[]{}<|>/\\@#$%^&*+=~`"…–¿§',
    "".join(map(chr, range(32))) + "\x7f\x80\x9f",
)


def random_strings(count: int, seed: int = 0, longest: int = 60) -> Iterator[str]:
    """Random Unicode without lone surrogates: scripts, emoji, marks, controls, runs of spaces."""
    rng = random.Random(seed)
    for _ in range(count):
        parts: list[str] = []
        for _ in range(rng.randrange(1, 6)):
            kind = rng.random()
            if kind < 0.15:
                parts.append(rng.choice(" \n\t\r") * rng.randrange(1, 9))
            elif kind < 0.3:
                codes = (rng.randrange(0x110000 - 0x800) for _ in range(rng.randrange(1, 9)))
                parts.append("".join(chr(c if c < 0xD800 else c + 0x800) for c in codes))
            elif kind < 0.45:
                parts.append(rng.choice([" the", " of", "it's", "We'll ", END_OF_TEXT, "3.14159"]))
            else:
                parts.append("".join(rng.choices(rng.choice(POOLS), k=rng.randrange(1, 12))))
        yield "".join(parts)[:longest]


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _train_ours(text: str) -> BPETokenizer:
    word_pattern.cache_clear()  # each run makes its pattern anew, as the first one must
    return BPETokenizer.train(text, VOCAB_SIZE)


def _train_theirs(pieces: list[str]):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": VOCAB_SIZE, "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator(pieces, trainers.BpeTrainer(**options))
    return tokenizer


def training() -> dict:
    """Our trainer's time over that of Hugging Face's, which gets the text as suits it best."""
    text = english_text(NUM_BYTES)
    lines = text.splitlines(keepends=True)
    blocks = [text[i : i + 20_000] for i in range(0, len(text), 20_000)]
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(REPEATS):
        ours.append(_seconds(lambda: _train_ours(text)))
        theirs.append(min(_seconds(lambda p=p: _train_theirs(p)) for p in (lines, blocks)))
    ratio = median(ours) / median(theirs)
    return {
        "figure": "BPE training, 2 MB of English, vocabulary 5,000, over Hugging Face's time",
        "bar": "≤ 3×",
        "measured": f"{ratio:.2f}×",
        "met": ratio <= 3,
        "note": f"medians of {REPEATS}: {median(ours):.2f} s, pure Python, against "
        f"{median(theirs):.2f} s; best runs {min(ours):.2f} s and {min(theirs):.2f} s",
    }


def parity() -> list[dict]:
    """Differences from tiktoken, and texts that decoding does not give back."""
    english = BPETokenizer.train(english_text(NUM_BYTES), VOCAB_SIZE, [END_OF_TEXT])
    rust = english.to_tiktoken()
    different = lost = 0
    for text in random_strings(NUM_STRINGS):
        ids = english.encode(text)
        different += ids != rust.encode_ordinary(text)
        lost += english.decode(ids) != text
    figure = f"{NUM_STRINGS:,} random Unicode strings"
    return [
        {
            "figure": f"{figure}: ids unlike tiktoken's",
            "bar": "0",
            "measured": f"{different}",
            "met": different == 0,
            "note": f"trained on English, vocabulary {VOCAB_SIZE:,}",
        },
        {
            "figure": f"{figure}: decode(encode(s)) != s",
            "bar": "0",
            "measured": f"{lost}",
            "met": lost == 0,
        },
    ]


def encoding() -> dict:
    """Encoding speed against tiktoken's, on words not met before."""
    text = story_text(NUM_BYTES)
    trained = BPETokenizer.train(text[:500_000], 1024, [END_OF_TEXT])
    rust = trained.to_tiktoken()
    fresh = lambda: BPETokenizer(trained.vocab, trained.merges, trained.special_tokens)
    ours = median(_seconds(lambda: fresh().encode(text, "all")) for _ in range(3))
    theirs = median(_seconds(lambda: rust.encode(text, allowed_special="all")) for _ in range(3))
    return {
        "figure": "encoding 2 MB of stories, over tiktoken's time",
        "bar": "",
        "measured": f"{ours / theirs:.1f}×",
        "met": None,
        "note": f"{len(text) / ours / 1e6:.1f} MB/s, pure Python, against "
        f"{len(text) / theirs / 1e6:.1f} MB/s",
    }


def rows() -> list[dict]:
    """The rows of the table."""
    return [training(), *parity(), encoding()]
