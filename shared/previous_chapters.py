"""Everything that the chapters define for one another, collected from their notebooks.

Written by `make export` from the cells that begin with `#| export`; a change made here is lost.
Each definition names the notebook and the section that teach it: change it there.
"""

import ast
import codecs
import copy
import difflib
import dis
import hashlib
import heapq
import inspect
import json
import math
import platform
import random
import re
import secrets
import signal
import sys
import textwrap
import time
import warnings
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from itertools import accumulate, chain, groupby, islice, pairwise, takewhile
from operator import add
from pathlib import Path
from types import CodeType
from typing import Literal, Self

import pandas as pd
import tiktoken
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import shared.stories
from shared.artifacts import artifact_path, key_of, written_whole
from shared.download import hub_file
from shared.instructions import FAMILIES, Example, instructions, short_tales
from shared.instructions.words import ENTITIES
from shared.machine import keep_freed_memory
from shared.stories import Story, stories

__all__ = [
    # ch02_tokenization
    "TokenPair",
    "GPT2_PATTERN",
    "NEW_LETTERS",
    "NEW_NUMBERS",
    "UNICODE_SPACES",
    "is_number",
    "character_class",
    "word_pattern",
    "split_words",
    "Merges",
    "Vocab",
    "Special",
    "TokenizerParts",
    "TextOrPieces",
    "AllowedSpecial",
    "index_pairs",
    "merge_everywhere",
    "FLIPPED_BYTES",
    "flipped",
    "train_merges",
    "merge_word",
    "WordIds",
    "END_OF_TEXT",
    "choose_special",
    "cut_words",
    "stream_words",
    "count_words",
    "train_bpe",
    "check_special",
    "bytes_of",
    "check_table",
    "TOKENIZER_FORMAT",
    "write_tokenizer",
    "read_tokenizer",
    "gpt2_letters",
    "read_gpt2_files",
    "tiktoken_encoding",
    "TokenTable",
    "BPETokenizer",
    "story_tokenizer",
    "Ids",
    "TokenWindows",
    "make_loader",
    # ch03_attention
    "head_width",
    "causal_weights",
    "MultiHeadAttention",
    # ch04_gpt_model
    "GPTConfig",
    "check_config",
    "LayerNorm",
    "GELU",
    "FeedForward",
    "TransformerBlock",
    "initialise",
    "convolution_pays",
    "fast_linear",
    "FastLinear",
    "use_fast_linear",
    "TiedHead",
    "parameter_ledger",
    "GPT2_CONFIGS",
    "flop_ledger",
    "memory_ledger",
    "kv_cache_bytes",
    "CountedModel",
    "check_ids_known",
    "check_token_ids",
    "GPTModel",
    "keep_top_k",
    "keep_top_p",
    "check_sampling",
    "sampling_probabilities",
    "next_tokens",
    "evaluating",
    "next_logits",
    "generation_steps",
    "checked_prompts",
    "generate",
    "generate_stream",
    # ch05_pretraining
    "Recipe",
    "StoryRecipe",
    "story_recipe",
    "IGNORED",
    "Batch",
    "count_targets",
    "next_token_loss",
    "evaluate",
    "story_rows",
    "ngram_nats",
    "pad_rows",
    "pack_rows",
    "story_nats",
    "loss_over_entropy",
    "Curriculum",
    "longest_at",
    "Batches",
    "remaining",
    "StoryBatches",
    "story_chunk",
    "WindowBatches",
    "newton_schulz_factor",
    "orthogonalise",
    "nesterov_momentum",
    "check_matrices",
    "Muon",
    "parameter_groups",
    "build_optimizers",
    "learning_rate_at",
    "training_step",
    "History",
    "own_randomness",
    "TrainingRun",
    "Watch",
    "look_at",
    "is_due",
    "stoppable",
    "pretrain",
    "training_loop",
    "CHECKPOINT_FORMAT",
    "both_files",
    "save_checkpoint",
    "read_checkpoint",
    "differences",
    "fill_model",
    "load_checkpoint",
    "save_run",
    "fill_optimizers",
    "restore_run",
    "answer_spans",
    "who_has_what",
    "wilson",
    "head_start",
    "new_story_model",
    "write_story",
    "STORY_LOOKS",
    "watch_stories",
    "functions_in",
    "names_used",
    "code_of",
    "best_device",
    "story_checkpoint",
    "expected_seconds",
    "story_model",
    "GPT2_PARTS",
    "gpt2_name",
    "gpt2_config",
    "gpt2_files",
    "load_gpt2",
    # ch06_classification_finetune
    "fine_tuning",
    "Claim",
    "claims",
    "words_of",
    "BagOfWords",
    "bag_scores",
    "learn_weights",
    "check_labels",
    "GPTClassifier",
    "MeanHead",
    "new_head",
    "classifier_from",
    "READS",
    "check_rows",
    "label_batch",
    "text_rows",
    "LabelBatches",
    "check_stream",
    "pieces_of",
    "label_chunk",
    "label_logits",
    "train_last",
    "TextBatches",
    "paired_bootstrap",
    "confusion_matrix",
    "precision_recall",
    "Bin",
    "confidence_bins",
    "calibration_error",
    "best_temperature",
    "classify",
    "save_classifier",
    "load_classifier",
    # ch07_instruction_finetune
    "AssistantRecipe",
    "assistant_recipe",
    "gpt2_tokenizer",
    "start_model",
    "Message",
    "ROLES",
    "TURN_END",
    "CHAT_TOKENS",
    "merges_for",
    "extend_tokenizer",
    "instruction_words",
    "check_messages",
    "chat_ids",
    "new_rows",
    "grow_vocabulary",
    "as_messages",
    "instruction_row",
    "instruction_batch",
    "chunk_rows",
    "InstructionBatches",
    "instruction_chunk",
    "Prompt",
    "prompt_ids",
    "answer_text",
    "reply",
    "would_answer",
    "score",
    "ASSISTANT_LOOKS",
    "watch_answers",
    "assistant_tokenizer",
    "new_assistant",
    "assistant_checkpoint",
    "assistant_model",
    "right_shares",
    "misspelled",
    "likely_cause",
    "FixedBatches",
    "trim_chat",
    "text_stream",
    "ANSWER_ROOM",
    "Chat",
    "chat_turn",
]


# --------------------------------------------------------------------------------------------------
# Chapter 2 · Tokenization: how text becomes numbers
# ch02_tokenization/ch02_tokenization.ipynb
# --------------------------------------------------------------------------------------------------


# ch02_tokenization.ipynb, "2.2 Byte-pair encoding, by hand"
TokenPair = tuple[bytes, bytes]

# ch02_tokenization.ipynb, "2.3 Words first: where no token may cross"
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# ch02_tokenization.ipynb, "A letter, a number, a space: in which alphabet?"
# Added to Unicode in versions 15 to 16; Python 3.11 knows version 14, tiktoken knows 16.
NEW_LETTERS = """
    1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 1123f-11240
    11380-11389 1138b-1138b 1138e-1138e 11390-113b5 113b7-113b7 113d1-113d1 113d3-113d3 11bc0-11be0
    11f02-11f02 11f04-11f10 11f12-11f33 1342f-1342f 13441-13446 13460-143fa 16100-1611d 16d40-16d6c
    18cff-18cff 1b132-1b132 1b155-1b155 1df25-1df2a 1e030-1e06d 1e4d0-1e4eb 1e5d0-1e5ed 1e5f0-1e5f0
    2b739-2b739 2ebf0-2ee5d 31350-323af
"""
NEW_NUMBERS = """
    10d40-10d49 116d0-116e3 11bf0-11bf9 11f50-11f59 16130-16139 16d70-16d79 1ccf0-1ccf9
    1d2c0-1d2d3 1e4f0-1e4f9 1e5f1-1e5fa
"""

# ch02_tokenization.ipynb, "A letter, a number, a space: in which alphabet?"
UNICODE_SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def is_number(character: str) -> bool:
    """Whether a character is a number that is no letter; Unicode's categories Nd, Nl and No."""
    # ch02_tokenization.ipynb, "A letter, a number, a space: in which alphabet?"
    return character.isnumeric() and not character.isalpha()


def character_class(belongs: Callable[[str], bool], newer: str) -> str:
    r"""All characters that belong, and the `newer` ones, as written between `[` and `]`.

    Example:
        >>> character_class(lambda character: character in "abcx", newer="7a-7a")
        '\\U00000061-\\U00000063\\U00000078-\\U00000078\\U0000007a-\\U0000007a'
    """
    # ch02_tokenization.ipynb, "A letter, a number, a space: in which alphabet?"
    groups = groupby(range(0x40000), lambda code: belongs(chr(code)))  # above: no letters
    runs = [list(run) for inside, run in groups if inside]
    spans = [(run[0], run[-1]) for run in runs]
    spans += [tuple(int(end, 16) for end in span.split("-")) for span in newer.split()]
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)


@cache
def word_pattern() -> re.Pattern[str]:
    """GPT-2's pattern for Python's `re`, on all of Unicode 16; made at the first call.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", 2.2.
    """
    # ch02_tokenization.ipynb, "A letter, a number, a space: in which alphabet?"
    letter = character_class(str.isalpha, NEW_LETTERS)
    number = character_class(is_number, NEW_NUMBERS)
    return re.compile(
        r"'(?:[sdmt]|ll|ve|re)"
        r"| ?(?:[A-Za-z]++|[0-9]++|[!-/:-@\[-`{-~]++)(?![^\n -~])"  # a shortcut for ASCII
        rf"| ?[{letter}]+| ?[{number}]+| ?[^{UNICODE_SPACES}{letter}{number}]+"
        rf"|[{UNICODE_SPACES}]+(?![^{UNICODE_SPACES}])|[{UNICODE_SPACES}]+"
    )


def split_words(text: str) -> list[str]:
    """The pieces of `text` that no token crosses; joined, they are `text`.

    Example:
        >>> split_words("It's 42 hens!")
        ['It', "'s", ' 42', ' hens', '!']
    """
    # ch02_tokenization.ipynb, "A letter, a number, a space: in which alphabet?"
    return word_pattern().findall(text)


# ch02_tokenization.ipynb, "2.4 The trainer, as plainly as possible"
Merges = list[TokenPair]  # in the order in which they were learnt
Vocab = dict[int, bytes]  # the bytes of each id
Special = dict[str, int]  # the ids of special tokens, section 2.7
TokenizerParts = tuple[Vocab, Merges, Special]  # all that a tokenizer knows
TextOrPieces = str | Iterable[str]  # a text, or one that comes in pieces
AllowedSpecial = Literal["all"] | Collection[str]


def index_pairs(words: list[str], counts: list[int]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """How often each pair of neighbours occurs, and the numbers of the words that hold it.

    Example:
        >>> index_pairs(["hen", "ten"], [5, 2])[0]["en"]
        7
    """
    # ch02_tokenization.ipynb, "2.5 The same merges, hundreds of times faster"
    pair_counts: dict[str, int] = defaultdict(int)
    where: dict[str, list[int]] = defaultdict(list)
    for number, word in enumerate(words):
        for pair in map(add, word, word[1:]):
            pair_counts[pair] += counts[number]
            where[pair].append(number)
    return pair_counts, where


def merge_everywhere(
    pair: str,
    merged: str,
    words: list[str],
    counts: list[int],
    pair_counts: dict[str, int],
    where: dict[str, list[int]],
) -> dict[str, int]:
    """Replace `pair` by `merged` in all words; mend everything; return the pairs born."""
    # ch02_tokenization.ipynb, "2.5 The same merges, hundreds of times faster"
    left, right = pair
    born: dict[str, int] = defaultdict(int)
    for number in where.pop(pair):
        if pair not in words[number]:  # noted down long ago, and gone since
            continue
        word = words[number] = words[number].replace(pair, merged)
        count, at = counts[number], word.find(merged)
        while at >= 0:
            before, after = word[at - 1 : at], word[at + 1 : at + 2]  # empty at the word's ends
            if before and before != merged:
                pair_counts[before + left] -= count
                born[before + merged] += count
                where[before + merged].append(number)
            if after:
                pair_counts[right + (left if after == merged else after)] -= count
                born[merged + after] += count
                where[merged + after].append(number)
            at = word.find(merged, at + 1)
    return born


# ch02_tokenization.ipynb, "2.5 The same merges, hundreds of times faster"
FLIPPED_BYTES = bytes(255 - byte for byte in range(256))


def flipped(token: bytes) -> str:
    """A text that sorts the other way round: the greater the bytes, the smaller the text.

    Example:
        >>> flipped(b"b") < flipped(b"a"), flipped(b"ab") < flipped(b"a")
        (True, True)
    """
    # ch02_tokenization.ipynb, "2.5 The same merges, hundreds of times faster"
    return token.translate(FLIPPED_BYTES).decode("latin-1") + chr(256)


def train_merges(word_counts: dict[str, int], num_merges: int) -> Merges:
    """The merges of BPE in order; fewer than `num_merges` if the words allow no more.

    Of equally frequent pairs the lexicographically greatest pair of byte strings goes first.

    Source: Sennrich, Haddow, Birch 2016, "Neural Machine Translation of Rare Words with Subword
    Units", 3.2; over bytes as in Radford et al. 2019.
    """
    # ch02_tokenization.ipynb, "2.5 The same merges, hundreds of times faster"
    words = [word.encode().decode("latin-1") for word in word_counts]  # a character for each byte
    counts = list(word_counts.values())
    tokens = [bytes([byte]) for byte in range(256)]
    pair_counts, where = index_pairs(words, counts)
    entry = lambda pair: (-pair_counts[pair], "".join(flipped(tokens[ord(c)]) for c in pair), pair)
    heap = [entry(pair) for pair in pair_counts]
    heapq.heapify(heap)
    merges: Merges = []
    while heap and len(merges) < num_merges:
        minus_count, _, pair = heapq.heappop(heap)
        if pair_counts[pair] != -minus_count:  # the count has fallen since: back in line
            if pair_counts[pair] > 0:
                heapq.heappush(heap, entry(pair))
            continue
        merges.append(tuple(tokens[ord(c)] for c in pair))
        tokens.append(b"".join(merges[-1]))
        born = merge_everywhere(pair, chr(len(tokens) - 1), words, counts, pair_counts, where)
        pair_counts.update(born)
        for new in born:
            heapq.heappush(heap, entry(new))
    return merges


def merge_word(word: bytes, ranks: dict[TokenPair, int]) -> list[bytes]:
    """The tokens of a word: its bytes, joined in the order in which the pairs were learnt.

    `ranks` gives the place of each pair in the list of merges. Takes n log n steps for n bytes.

    Example:
        >>> merge_word(b"hens", {(b"e", b"n"): 0, (b"h", b"en"): 1})
        [b'hen', b's']
    """
    # ch02_tokenization.ipynb, "When a word is very long"
    n = len(word)
    tokens = [bytes([byte]) for byte in word] + [b""]  # tokens[n] and tokens[-1]: beyond the ends
    before, after = list(range(-1, n)), [*range(1, n + 1), n]
    heap: list[tuple[int, int, TokenPair]] = []

    def offer(i: int) -> None:
        pair = tokens[i], tokens[after[i]]
        if pair in ranks:
            heapq.heappush(heap, (ranks[pair], i, pair))

    for i in range(n - 1):
        offer(i)
    while heap:
        _, i, pair = heapq.heappop(heap)
        j = after[i]
        if (tokens[i], tokens[j]) == pair:  # else: one of the two has gone elsewhere
            tokens[i], tokens[j] = b"".join(pair), b""
            after[i], before[after[j]] = after[j], i
            offer(before[i])
            offer(i)
    return [token for token in tokens if token]


class WordIds(dict):
    """Ids of a word: worked out at the first look-up, remembered from then on.

    Args:
        ids: the id of each token.
        merges: the pairs of tokens that are joined, in order.
        limit: after so many words, all are forgotten.
    """

    # ch02_tokenization.ipynb, "The same word twice"

    def __init__(self, ids: dict[bytes, int], merges: Merges, limit: int = 50_000) -> None:
        super().__init__()
        self.ids, self.limit = ids, limit
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}

    def __missing__(self, word: str) -> list[int]:
        found = [self.ids[token] for token in merge_word(word.encode(), self.ranks)]
        if len(word) <= 100:  # longer ones hardly come twice
            if len(self) >= self.limit:
                self.clear()
            self[word] = found
        return found


# ch02_tokenization.ipynb, "2.7 Special tokens, and texts that come in pieces"
END_OF_TEXT = "<|endoftext|>"


def choose_special(allowed: AllowedSpecial, known: Collection[str]) -> tuple[str, ...]:
    """The special tokens that are `allowed`.

    Raises:
        ValueError: one of them is not `known`, or a single text other than "all" was given.
    """
    # ch02_tokenization.ipynb, "2.7 Special tokens, and texts that come in pieces"
    if allowed == "all":
        return tuple(known)
    if isinstance(allowed, str):
        raise ValueError(f'allowed_special={allowed!r}: expected "all" or a set: {{{allowed!r}}}')
    if unknown := sorted(set(allowed) - set(known)):
        raise ValueError(
            f"allowed_special names {unknown}, which this tokenizer does not have; it has "
            f"{sorted(known)}. Name new ones when training: train(…, special_tokens=…)."
        )
    return tuple(allowed)


def cut_words(
    text: str, special_tokens: Collection[str], final: bool
) -> tuple[list[list[str] | str], str]:
    """What is certain of a text that may go on, and the rest.

    What is certain comes in order: lists of words, and special tokens as single texts. With
    `final`, nothing follows and all is certain.
    """
    # ch02_tokenization.ipynb, "A file that does not fit into memory"
    longest_first = sorted(special_tokens, key=len, reverse=True)
    special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) fits nowhere
    held = 0 if final else max(map(len, special_tokens), default=1) - 1
    known = max(0, len(text) - held)
    certain: list[list[str] | str] = []
    start = 0
    for match in special.finditer(text):
        if match.start() >= known:
            break
        certain += [split_words(text[start : match.start()]), match.group()]
        start = match.end()
    words = split_words(text[start:known])
    certain.append(words if final else words[:-2])
    return certain, text[start + sum(map(len, certain[-1])) :]


def stream_words(
    pieces: Iterable[str], special_tokens: Collection[str] = ()
) -> Iterator[list[str] | str]:
    """Words of one text that comes in pieces; where it was cut makes no difference.

    Yields lists of words, and each special token as a single text. Holds no more in memory
    than a piece, 65,536 characters, or three times the longest word.
    """
    # ch02_tokenization.ipynb, "A file that does not fit into memory"
    rest, enough = "", 65_536
    for piece in pieces:
        rest += piece
        if len(rest) >= enough:
            certain, rest = cut_words(rest, special_tokens, final=False)
            yield from certain
            enough = 65_536 + 2 * len(rest)
    yield from cut_words(rest, special_tokens, final=True)[0]


def count_words(
    text_or_iterable: TextOrPieces, special_tokens: Collection[str] = ()
) -> dict[str, int]:
    """How often each word stands in a text, or in one that comes in pieces.

    Example:
        >>> count_words("hen, hen")
        Counter({'hen': 1, ',': 1, ' hen': 1})
    """
    # ch02_tokenization.ipynb, "2.8 The tokenizer"
    pieces = [text_or_iterable] if isinstance(text_or_iterable, str) else text_or_iterable
    counts: Counter[str] = Counter()
    for words in stream_words(pieces, special_tokens):
        if not isinstance(words, str):
            counts.update(words)
    return counts


def train_bpe(
    text_or_iterable: TextOrPieces, vocab_size: int, special_tokens: Collection[str] = ()
) -> TokenizerParts:
    """The bytes of each id, the merges, and the ids of the special tokens.

    Raises:
        ValueError: no text, too little text for `vocab_size`, a `vocab_size` without room for
            256 bytes and the special tokens, or special tokens that are empty or doubled.
    """
    # ch02_tokenization.ipynb, "2.8 The tokenizer"
    check_special(special_tokens)
    num_merges = vocab_size - 256 - len(special_tokens)
    if num_merges < 0:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: 256 bytes and {len(special_tokens)} special "
            f"tokens need {256 + len(special_tokens)}. Choose that or more."
        )
    counts = count_words(text_or_iterable, special_tokens)
    merges = train_merges(counts, num_merges)
    if not counts or len(merges) < num_merges:
        raise ValueError(
            f"the text has {sum(counts.values())} words, {len(counts)} of them different, which "
            f"is enough for a vocab_size of {vocab_size - num_merges + len(merges)}, not for "
            f"{vocab_size}. Give more text, or ask for a smaller vocab_size."
        )
    tokens = [bytes([b]) for b in range(256)] + [first + second for first, second in merges]
    special = {text: len(tokens) + i for i, text in enumerate(special_tokens)}
    return dict(enumerate(tokens + [text.encode() for text in special])), merges, special


def check_special(special_tokens: Collection[str]) -> None:
    """Raise a ValueError if special tokens are not several different texts, none empty."""
    # ch02_tokenization.ipynb, "2.8 The tokenizer"
    if isinstance(special_tokens, str):
        raise ValueError(
            f"special_tokens={special_tokens!r} is one text: expected a list or a tuple, such "
            f"as [{special_tokens!r}]"
        )
    if len(set(special_tokens)) < len(special_tokens) or "" in special_tokens:
        raise ValueError(f"special_tokens={list(special_tokens)}: each must differ and none be ''")


def bytes_of(ids: Iterable[int], vocab: Vocab) -> bytes:
    """The bytes that a row of ids stands for; `ids` may be a list, an array or a tensor.

    Raises:
        ValueError: an id that is not in `vocab`, or not one flat row of ids.
    """
    # ch02_tokenization.ipynb, "Decoding"
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    try:
        return b"".join([vocab[i] for i in ids])
    except KeyError as error:
        raise ValueError(
            f"no token has the id {error.args[0]!r}: ids go from {min(vocab)} to {max(vocab)}. "
            "Do these ids come from another tokenizer, or from a model with a larger vocab_size?"
        ) from None
    except TypeError:
        raise ValueError(
            f"expected one row of ids, such as [72, 105], not {str(ids)[:60]}; decode the rows of "
            "a batch one by one"
        ) from None


def check_table(vocab: Vocab, merges: Merges, special_tokens: Special) -> dict[bytes, int]:
    """The ids of all ordinary tokens.

    Raises:
        ValueError: a byte, a merge or a special token has no id, or a token has two.
    """
    # ch02_tokenization.ipynb, "Saving"
    special_ids = set(special_tokens.values())
    ids = {token: i for i, token in vocab.items() if i not in special_ids}
    missing = [bytes([b]) for b in range(256) if bytes([b]) not in ids]
    missing += [token for a, b in merges for token in (a, b, a + b) if token not in ids]
    if missing:
        raise ValueError(f"{missing[0]!r} has no id; every byte and every merge needs one")
    wrong = [text for text, i in special_tokens.items() if vocab.get(i) != text.encode()]
    if wrong:
        raise ValueError(f"the special token {wrong[0]!r} does not stand under its id")
    if len(ids) + len(special_ids) != len(vocab) or min(vocab) < 0:
        raise ValueError("a token has two ids, or an id is below 0")
    return ids


# ch02_tokenization.ipynb, "Saving"
TOKENIZER_FORMAT = "byte-pair tokenizer, version 1"


def write_tokenizer(
    path: str | Path,
    vocab: Vocab,
    merges: Merges,
    special_tokens: Special,
) -> None:
    """Save a tokenizer as JSON: whole or not at all."""
    # ch02_tokenization.ipynb, "Saving"
    content = {
        "format": TOKENIZER_FORMAT,
        "special_tokens": special_tokens,
        "vocab": {i: token.decode("latin-1") for i, token in vocab.items()},
        "merges": [[a.decode("latin-1"), b.decode("latin-1")] for a, b in merges],
    }
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=0), encoding="utf-8")


def read_tokenizer(
    path: str | Path,
) -> TokenizerParts:
    """What `write_tokenizer` saved. Runs no code from the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or something else.
    """
    # ch02_tokenization.ipynb, "Saving"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != TOKENIZER_FORMAT:
            raise ValueError(f"its format is {content['format']!r}, expected {TOKENIZER_FORMAT!r}")
        vocab = {int(i): token.encode("latin-1") for i, token in content["vocab"].items()}
        merges = [(a.encode("latin-1"), b.encode("latin-1")) for a, b in content["merges"]]
        check_table(vocab, merges, content["special_tokens"])
        return vocab, merges, content["special_tokens"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a tokenizer saved by this course, or it is damaged ({error!r:.200}). "
            "Give another path, or train and save again: BPETokenizer.train(…).save(path)."
        ) from None


@cache
def gpt2_letters() -> dict[str, int]:
    """The byte for which each letter stands in GPT-2's files.

    Example:
        >>> gpt2_letters()["Ġ"]  # the space
        32
    """
    # ch02_tokenization.ipynb, "GPT-2's own files"
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(b): b for b in visible} | {chr(256 + n): b for n, b in enumerate(hidden)}


def read_gpt2_files(vocab_bpe: str | Path, encoder_json: str | Path) -> TokenizerParts:
    """The same three parts from GPT-2's two files, or others of that format (`merges.txt`).

    What stands in `encoder_json` and is neither a byte nor a merge is a special token.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or something else.
    """
    # ch02_tokenization.ipynb, "GPT-2's own files"
    letters = gpt2_letters()
    spell = lambda token: bytes(letters[letter] for letter in token)
    try:
        encoder = json.loads(Path(encoder_json).read_text("utf-8"))
        lines = Path(vocab_bpe).read_text("utf-8").splitlines()
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        merges = [(spell(first), spell(second)) for first, second in pairs]
        plain = letters.keys() | {first + second for first, second in pairs}
        special = {text: i for text, i in encoder.items() if text not in plain}
        vocab = {i: spell(t) if t in plain else t.encode() for t, i in encoder.items()}
        check_table(vocab, merges, special)
        return vocab, merges, special
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{vocab_bpe} and {encoder_json} are not the vocab.bpe and encoder.json of a GPT-2 "
            f"tokenizer, in this order, or they are damaged ({error!r:.200}). Fetch them again."
        ) from None


def tiktoken_encoding(
    ids: dict[bytes, int], merges: Merges, special_tokens: Special
) -> tiktoken.Encoding:
    """The encoding of the library tiktoken that gives the same ids.

    Raises:
        ValueError: the ids do not rise in the order of the merges.
    """
    # ch02_tokenization.ipynb, "tiktoken"
    order = [ids[first + second] for first, second in merges]
    if order != sorted(set(order)):
        raise ValueError(
            "tiktoken joins by id, and the ids of this tokenizer do not rise in the order of its "
            "merges; encode with encode() instead"
        )
    return tiktoken.Encoding(
        "from-nothing", pat_str=GPT2_PATTERN, mergeable_ranks=ids, special_tokens=special_tokens
    )


class TokenTable:
    """What a tokenizer knows: the bytes of each id, the merges in order, the special tokens."""

    # ch02_tokenization.ipynb, "Two small classes"

    def __init__(self, vocab: Vocab, merges: Merges, special_tokens: Special | None = None) -> None:
        self.vocab, self.merges, self.special_tokens = vocab, merges, special_tokens or {}
        self.ids = check_table(vocab, merges, self.special_tokens)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote; runs no code from the file. Raises as `read_tokenizer`."""
        return cls(*read_tokenizer(path))

    @classmethod
    def from_gpt2_files(cls, vocab_bpe: str | Path, encoder_json: str | Path) -> Self:
        """A tokenizer from GPT-2's published files. Raises as `read_gpt2_files`."""
        return cls(*read_gpt2_files(vocab_bpe, encoder_json))

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all."""
        write_tokenizer(path, self.vocab, self.merges, self.special_tokens)

    @property
    def vocab_size(self) -> int:
        """How many rows a model's table needs: the largest id + 1."""
        return max(self.vocab) + 1

    def decode(self, ids: Iterable[int]) -> str:
        """The text of one row of ids; bytes that are no UTF-8 become `�`. Raises as `bytes_of`."""
        return bytes_of(ids, self.vocab).decode("utf-8", errors="replace")

    def to_tiktoken(self) -> tiktoken.Encoding:
        """The same tokenizer in Rust, for speed. Raises as `tiktoken_encoding`."""
        return tiktoken_encoding(self.ids, self.merges, self.special_tokens)


class BPETokenizer(TokenTable):
    """Byte-level BPE: any text to ids and back, nothing lost.

    Example:
        >>> tokenizer = BPETokenizer.train("low lower lowest", vocab_size=258)
        >>> tokenizer.decode(tokenizer.encode("slow"))
        'slow'
    """

    # ch02_tokenization.ipynb, "Two small classes"

    def __init__(self, vocab: Vocab, merges: Merges, special_tokens: Special | None = None) -> None:
        super().__init__(vocab, merges, special_tokens)
        self.word_ids = WordIds(self.ids, merges)

    @classmethod
    def train(
        cls, text_or_iterable: TextOrPieces, vocab_size: int, special_tokens: Iterable[str] = ()
    ) -> Self:
        """Learn from a text or from its pieces. Raises as `train_bpe`."""
        return cls(*train_bpe(text_or_iterable, vocab_size, special_tokens))

    def encode(self, text: str, allowed_special: AllowedSpecial = ()) -> list[int]:
        """The ids of a text; special tokens count only if allowed. Raises as `choose_special`."""
        return list(self.encode_iterable([text], allowed_special))

    def encode_iterable(
        self, iterable: Iterable[str], allowed_special: AllowedSpecial = ()
    ) -> Iterator[int]:
        """The ids of one text that comes in pieces, in bounded memory, wherever it is cut."""
        allowed = choose_special(allowed_special, self.special_tokens)
        return chain.from_iterable(map(self._ids_of, stream_words(iterable, allowed)))

    def _ids_of(self, words: list[str] | str) -> Iterable[int]:
        if isinstance(words, str):
            return [self.special_tokens[words]]
        return chain.from_iterable(map(self.word_ids.__getitem__, words))


def story_tokenizer(
    vocab_size: int = 1024, num_bytes: int = 500_000, seed: int = 0
) -> BPETokenizer:
    """The tokenizer of the built-in stories; trained at the first call, in a second or two.

    Args:
        vocab_size: tokens in all, of which one is `END_OF_TEXT`.
        num_bytes: how much of the training split to learn from.
        seed: of the stories.
    """
    # ch02_tokenization.ipynb, "2.11 The tokenizer of the stories"
    text = shared.stories.story_text(num_bytes, seed=seed)
    makers = [word_pattern, character_class, is_number, cut_words, count_words]
    makers += [train_bpe, train_merges, merge_everywhere, index_pairs, flipped, write_tokenizer]
    sources = [inspect.getsource(maker) for maker in makers]
    path = artifact_path("tokenizers/stories.json", vocab_size, text, sources)
    if not path.exists():
        BPETokenizer.train(text, vocab_size, [END_OF_TEXT]).save(path)
    return BPETokenizer.load(path)


# ch02_tokenization.ipynb, "2.12 From one long list to training examples"
Ids = Sequence[int] | torch.Tensor  # a row of token ids: a list, an array or a tensor


class TokenWindows(Dataset):
    """Windows over one long row of ids, each with its targets: the same row, one place later.

    Shape:
        ids: (tokens,), a list, an array or a tensor.
        windows[i]: inputs (context_length,) and targets (context_length,), int64.

    Raises:
        ValueError: too few ids for one window, or a length or stride below 1.
    """

    # ch02_tokenization.ipynb, "2.12 From one long list to training examples"

    def __init__(self, ids: Ids, context_length: int, stride: int | None = None) -> None:
        self.ids = torch.as_tensor(ids, dtype=torch.int64)
        self.context_length = context_length
        self.stride = context_length if stride is None else stride
        if context_length < 1 or self.stride < 1 or len(self.ids) <= context_length:
            raise ValueError(
                f"{len(self.ids)} ids, context_length={context_length}, stride={stride}: expected "
                "at least context_length + 1 ids and a length and stride of 1 or more"
            )

    def __len__(self) -> int:
        return (len(self.ids) - self.context_length - 1) // self.stride + 1

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = range(len(self))[index] * self.stride  # refuses an index beyond the end
        row = self.ids[start : start + self.context_length + 1]
        return row[:-1], row[1:]


def make_loader(
    ids: Ids,
    context_length: int,
    batch_size: int,
    *,
    stride: int | None = None,
    shuffle: bool = True,
    drop_last: bool = True,
    seed: int = 0,
) -> DataLoader:
    """Batches of windows over `ids`, in an order that depends on `seed` alone.

    Shape:
        each batch: inputs and targets, both (batch_size, context_length), int64.

    Raises:
        ValueError: as `TokenWindows`, or not enough windows for one batch.
    """
    # ch02_tokenization.ipynb, "2.12 From one long list to training examples"
    windows = TokenWindows(ids, context_length, stride)
    if drop_last and len(windows) < batch_size:
        raise ValueError(
            f"batch_size={batch_size}, but {len(windows.ids)} ids make only {len(windows)} windows "
            f"of {context_length}: give more text, a smaller batch_size, or drop_last=False"
        )
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        windows, batch_size, shuffle=shuffle, drop_last=drop_last, generator=generator
    )


# --------------------------------------------------------------------------------------------------
# Chapter 3 · Attention: how a token asks the others
# ch03_attention/ch03_attention.ipynb
# --------------------------------------------------------------------------------------------------


def head_width(embed_dim: int, num_heads: int) -> int:
    """Numbers per head when `embed_dim` is shared out among `num_heads` heads.

    Raises: ValueError if the heads cannot all be equally wide.
    """
    # ch03_attention.ipynb, "The one that you keep"
    if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
        raise ValueError(
            f"embed_dim={embed_dim} cannot be shared out equally among num_heads={num_heads}: "
            "choose a num_heads of at least 1 that divides embed_dim"
        )
    return embed_dim // num_heads


def causal_weights(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention weights, written out: how much each token takes from itself and those before it.

    Shape: `queries` and `keys` (..., tokens, head_dim) -> (..., tokens, tokens), rows sum to 1.
    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1.
    """
    # ch03_attention.ipynb, "The one that you keep"
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.size(-1))
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(dim=-1)


class MultiHeadAttention(nn.Module):
    """Causal self-attention with several heads: one fused projection, one fused kernel.

    Shape: (batch, tokens, embed_dim) -> (batch, tokens, embed_dim).
    Raises: ValueError if `num_heads` does not divide `embed_dim`.
    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2.
    """

    # ch03_attention.ipynb, "The one that you keep"

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_width(embed_dim, num_heads)
        self.dropout = dropout  # on the attention weights, in training only
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.out = nn.Linear(embed_dim, embed_dim)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three tensors of shape (batch, num_heads, tokens, head_dim)."""
        cut = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        return cut.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        q, k, v = self.queries_keys_values(x)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (batch, tokens, embed_dim)

    def attention_weights(self, x: Tensor) -> Tensor:
        """What forward weighs with, without dropout: (batch, num_heads, tokens, tokens)."""
        return causal_weights(*self.queries_keys_values(x)[:2])


# --------------------------------------------------------------------------------------------------
# Chapter 4 · GPT: a whole language model, part by part
# ch04_gpt_model/ch04_gpt_model.ipynb
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GPTConfig:
    """The numbers that fix a GPT's shape. It checks itself when made, and cannot change.

    Raises:
        ValueError: with numbers that make no model; the message says which, and what to do.

    Example:
        >>> GPTConfig(vocab_size=1024, context_length=128, embed_dim=128, num_heads=4, num_layers=4)
    """

    # ch04_gpt_model.ipynb, "4.1 Skeleton first"

    vocab_size: int  # how many different tokens there are
    context_length: int  # how many tokens the model sees at most
    embed_dim: int  # how many numbers stand for one token
    num_heads: int  # attention heads in each block; divides embed_dim
    num_layers: int  # blocks
    dropout: float = 0.0  # share of numbers zeroed while training
    qkv_bias: bool = True  # whether queries, keys and values get a bias, as in GPT-2

    def __post_init__(self) -> None:
        check_config(self)


def check_config(config: GPTConfig) -> None:
    """Raise ValueError, naming the field, if no model can be built from `config`."""
    # ch04_gpt_model.ipynb, "4.1 Skeleton first"
    for name in ("vocab_size", "context_length", "embed_dim", "num_heads", "num_layers"):
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"GPTConfig: {name}={value!r}, expected a whole number from 1 up.")
    if config.embed_dim % config.num_heads:
        divisors = [n for n in range(1, config.embed_dim + 1) if config.embed_dim % n == 0]
        near = min(divisors, key=lambda n: abs(n - config.num_heads))
        raise ValueError(
            f"GPTConfig: embed_dim={config.embed_dim} cannot be shared out equally among "
            f"num_heads={config.num_heads}; take a divisor of it, such as num_heads={near}."
        )
    if type(config.dropout) not in (int, float) or not 0 <= config.dropout < 1:
        raise ValueError(f"GPTConfig: dropout={config.dropout!r}, expected 0 (none) to below 1.")
    if type(config.qkv_bias) is not bool:
        raise ValueError(f"GPTConfig: qkv_bias={config.qkv_bias!r}, expected True or False.")


class LayerNorm(nn.Module):
    """Give every token's vector mean 0 and variance 1, then a learned scale and shift.

    Shape:
        x: (..., embed_dim); result: the same.

    Source: Ba, Kiros and Hinton (2016), "Layer Normalization".
    """

    # ch04_gpt_model.ipynb, "4.2 Layer normalisation"

    def __init__(self, embed_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(embed_dim))
        self.bias = nn.Parameter(torch.zeros(embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class GELU(nn.Module):
    """x times the chance that a number from the bell curve is below x, in GPT-2's tanh form.

    Shape:
        x: any; result: the same.

    Source: Hendrycks and Gimpel (2016), "Gaussian Error Linear Units (GELUs)", section 2.
    """

    # ch04_gpt_model.ipynb, "4.3 GELU and the feed-forward layer"

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """Widen each token's vector four times, bend it with GELU, and come back.

    Shape:
        x: (..., embed_dim); result: the same.
    """

    # ch04_gpt_model.ipynb, "4.3 GELU and the feed-forward layer"

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(embed_dim, 4 * embed_dim)
        self.gelu = GELU()
        self.down = nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(x)))  # (..., embed_dim) → (..., 4 embed_dim) → back


class TransformerBlock(nn.Module):
    """Attention, then feed-forward; each reads a normalised copy and adds to the stream.

    Shape:
        x: (batch, tokens, embed_dim); result: the same.

    Source: Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", 2.3.
    """

    # ch04_gpt_model.ipynb, "4.5 The block"

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.embed_dim)
        self.attention = MultiHeadAttention(
            config.embed_dim, config.num_heads, config.dropout, config.qkv_bias
        )
        self.norm2 = LayerNorm(config.embed_dim)
        self.feed_forward = FeedForward(config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


def initialise(model: nn.Module, num_layers: int, generator: torch.Generator | None = None) -> None:
    """Give `model` GPT-2's first weights, in place.

    Matrices are normal with spread 0.02, biases 0. The two layers of each block that write to
    the residual stream get 0.02 / sqrt(2 * num_layers), so that the sum of the notes stays small.

    Source: Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", 2.3.
    """
    # ch04_gpt_model.ipynb, "4.6 The first weights"
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            writes = name.endswith(("attention.out", "feed_forward.down"))
            spread = 0.02 / (2 * num_layers) ** 0.5 if writes else 0.02
            nn.init.normal_(module.weight, std=spread, generator=generator)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


@cache
def convolution_pays() -> bool:
    """Whether this is an AMD processor with AVX-512, and PyTorch has oneDNN for it."""
    # ch04_gpt_model.ipynb, "4.7 The same numbers, sooner"
    linux = Path("/proc/cpuinfo")
    maker = linux.read_text() if linux.exists() else platform.processor()
    avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return avx512 and "AuthenticAMD" in maker and torch.backends.mkldnn.is_available()


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear(x, weight, bias)`, computed as a convolution of width one where that is faster.

    Shape:
        x: (..., features); weight: (out, features); result: (..., out).
    """
    # ch04_gpt_model.ipynb, "4.7 The same numbers, sooner"
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() == 3
    large = plain and len(x) > 1 and x.shape[0] * x.shape[1] >= 512  # rows and tokens
    if not large or torch.compiler.is_compiling() or not convolution_pays():
        return F.linear(x, weight, bias)
    image = x[:, :, None].permute(0, 3, 1, 2)  # (batch, features, tokens, 1)
    out = F.conv2d(image, weight[:, :, None, None], bias)  # (batch, out, tokens, 1)
    return out.permute(0, 2, 3, 1).squeeze(2)  # (batch, tokens, out)


class FastLinear(nn.Linear):
    """`nn.Linear` with the same weights and results, computed by `fast_linear`."""

    # ch04_gpt_model.ipynb, "4.7 The same numbers, sooner"

    def forward(self, x: Tensor) -> Tensor:
        return fast_linear(x, self.weight, self.bias)


def use_fast_linear(model: nn.Module) -> None:
    """Let every plain `nn.Linear` inside `model` compute as a `FastLinear`."""
    # ch04_gpt_model.ipynb, "4.7 The same numbers, sooner"
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear


class TiedHead(nn.Module):
    """Score every token by its dot product with x; the matrix is the token embedding's own.

    The embedding stands in a tuple, where PyTorch does not look for parameters: so the matrix is
    counted, trained and saved once, and no way of copying or loading a model can part the two.

    Shape:
        x: (..., embed_dim); result: (..., vocab_size).

    Source: Press and Wolf (2017), "Using the Output Embedding to Improve Language Models".
    """

    # ch04_gpt_model.ipynb, "4.8 One matrix at both ends"

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.shared = (embedding,)

    @property
    def weight(self) -> nn.Parameter:
        return self.shared[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return fast_linear(x, self.weight)


def parameter_ledger(config: GPTConfig) -> dict[str, int]:
    """How many numbers each part of a GPTModel learns. They add up to `num_parameters()`.

    Example:
        >>> sum(parameter_ledger(GPT2_CONFIGS["gpt2"]).values())
        124439808
    """
    # ch04_gpt_model.ipynb, "Parameters"
    dim, layers = config.embed_dim, config.num_layers
    qkv_bias = 3 * dim if config.qkv_bias else 0
    return {
        "token embedding": config.vocab_size * dim,
        "position embedding": config.context_length * dim,
        "attention": layers * (4 * dim**2 + dim + qkv_bias),
        "feed-forward": layers * (8 * dim**2 + 5 * dim),
        "layer norms": (2 * layers + 1) * 2 * dim,
    }


# ch04_gpt_model.ipynb, "Parameters"
GPT2_CONFIGS = {
    "gpt2": GPTConfig(50257, 1024, embed_dim=768, num_heads=12, num_layers=12),
    "gpt2-medium": GPTConfig(50257, 1024, embed_dim=1024, num_heads=16, num_layers=24),
    "gpt2-large": GPTConfig(50257, 1024, embed_dim=1280, num_heads=20, num_layers=36),
    "gpt2-xl": GPTConfig(50257, 1024, embed_dim=1600, num_heads=25, num_layers=48),
}


def flop_ledger(config: GPTConfig, num_tokens: int | None = None) -> dict[str, int]:
    """Floating-point operations per token, by part, to read a text of `num_tokens`, forward only.

    Without `num_tokens`, the text fills the context. All pairs of tokens are counted, as PyTorch's
    own counter does; a causal kernel may skip nearly half of "scores and mixing".
    """
    # ch04_gpt_model.ipynb, "FLOPs"
    dim, layers = config.embed_dim, config.num_layers
    tokens = config.context_length if num_tokens is None else num_tokens
    return {
        "attention's matrices": layers * 8 * dim**2,
        "scores and mixing": layers * 4 * dim * tokens,
        "feed-forward": layers * 16 * dim**2,
        "output head": 2 * config.vocab_size * dim,
    }


def memory_ledger(
    config: GPTConfig, batch_size: int, num_tokens: int | None = None, bytes_per_number: int = 4
) -> dict[str, int]:
    """Bytes that a training step with AdamW keeps, by purpose, for `batch_size` texts.

    Without `num_tokens`, texts fill the context. Not counted: token ids, dropout's masks, and
    what an operation needs for a moment.
    """
    # ch04_gpt_model.ipynb, "Bytes"
    dim, layers = config.embed_dim, config.num_layers
    tokens = batch_size * (config.context_length if num_tokens is None else num_tokens)
    per_block = 16 * dim + config.num_heads + 4  # the small ones: softmax sums, norms' statistics
    numbers = sum(parameter_ledger(config).values())
    ledger = {
        "parameters": numbers,
        "gradients": numbers,
        "AdamW's averages": 2 * numbers,
        "activations": tokens * (layers * per_block + 2 * dim + 2),
        "log-probabilities": tokens * config.vocab_size,
    }
    return {purpose: bytes_per_number * count for purpose, count in ledger.items()}


def kv_cache_bytes(
    config: GPTConfig,
    batch_size: int = 1,
    num_tokens: int | None = None,
    bytes_per_number: int = 4,
) -> int:
    """Bytes for the keys and values of `batch_size` texts; without `num_tokens`, of full ones."""
    # ch04_gpt_model.ipynb, "Bytes"
    tokens = batch_size * (config.context_length if num_tokens is None else num_tokens)
    return 2 * config.num_layers * config.embed_dim * tokens * bytes_per_number


class CountedModel(nn.Module):
    """A model that makes out its own bill, from its `config`."""

    # ch04_gpt_model.ipynb, "Bytes"

    config: GPTConfig

    def num_parameters(self) -> int:
        """How many numbers are learned. A tied matrix counts once."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self, num_tokens: int | None = None, training: bool = False) -> int:
        """Floating-point operations per token; three times as many when training."""
        forward = sum(flop_ledger(self.config, num_tokens).values())
        return 3 * forward if training else forward

    def memory_ledger(self, batch_size: int, num_tokens: int | None = None) -> dict[str, int]:
        """Bytes that a training step with AdamW keeps, by purpose."""
        size = next(self.parameters()).element_size()
        return memory_ledger(self.config, batch_size, num_tokens, size)


def check_ids_known(lowest: int, highest: int, config: GPTConfig) -> None:
    """Raise ValueError if token ids from `lowest` to `highest` are not all in the vocabulary."""
    # ch04_gpt_model.ipynb, "4.10 The model"
    if lowest < 0 or highest >= config.vocab_size:
        raise ValueError(
            f"token ids from {lowest} to {highest}, but with vocab_size={config.vocab_size} the "
            f"model knows 0 to {config.vocab_size - 1}. Do tokenizer and model belong together?"
        )


def check_token_ids(token_ids: Tensor, config: GPTConfig) -> None:
    """Raise ValueError if a model of `config` cannot read `token_ids`; ids' values on CPU only."""
    # ch04_gpt_model.ipynb, "4.10 The model"
    if token_ids.dim() != 2 or token_ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"token_ids: shape {tuple(token_ids.shape)}, {token_ids.dtype}; expected whole numbers "
            "of shape (batch, tokens). One text alone: token_ids[None]."
        )
    if not 1 <= token_ids.shape[1] <= config.context_length:
        raise ValueError(
            f"token_ids: {token_ids.shape[1]} tokens per text, but the model reads 1 to "
            f"context_length={config.context_length}. Cut the texts, or build a model with a "
            "longer context."
        )
    if token_ids.device.type == "cpu" and not torch.compiler.is_compiling() and len(token_ids):
        check_ids_known(int(token_ids.min()), int(token_ids.max()), config)


class GPTModel(CountedModel):
    """A GPT: embeddings, blocks, a last norm, and a head tied to the token embedding.

    Shape:
        token_ids: (batch, tokens), at most context_length tokens;
        result: logits (batch, tokens, vocab_size).
    """

    # ch04_gpt_model.ipynb, "4.10 The model"

    def __init__(self, config: GPTConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            self.token_embedding = nn.Embedding(config.vocab_size, config.embed_dim)
            self.position_embedding = nn.Embedding(config.context_length, config.embed_dim)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.num_layers))
            self.final_norm = LayerNorm(config.embed_dim)
            self.output_head = TiedHead(self.token_embedding)
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            initialise(self, config.num_layers, generator)
        use_fast_linear(self)

    def forward(self, token_ids: Tensor) -> Tensor:
        check_token_ids(token_ids, self.config)
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        x = self.dropout(self.token_embedding(token_ids) + self.position_embedding(positions))
        for block in self.blocks:
            x = block(x)  # (batch, tokens, embed_dim)
        return self.output_head(self.final_norm(x))  # (batch, tokens, vocab_size)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Leave the `top_k` largest logits; the others become minus infinity.

    Shape:
        logits: (..., vocab_size); result: the same.
    """
    # ch04_gpt_model.ipynb, "Top-k"
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return logits.scatter(-1, order[..., top_k:], -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Leave the fewest largest logits whose chances reach `top_p` together; others: -infinity.

    Shape:
        logits: (..., vocab_size); result: the same.

    Source: Holtzman et al. (2020), "The Curious Case of Neural Text Degeneration", section 3.1.
    """
    # ch04_gpt_model.ipynb, "Top-p"
    chances, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    enough = chances.cumsum(dim=-1) - chances >= top_p  # the better ones reach it already
    return logits.masked_fill(enough.scatter(-1, order, enough), -torch.inf)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError, naming the setting, if nothing sensible could be drawn with it."""
    # ch04_gpt_model.ipynb, "Top-p"
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature}, expected 0 (greedy) or more, such as 0.8.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}, expected 1 or more tokens, or None for all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}, expected above 0, at most 1, or None for all tokens.")


def sampling_probabilities(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """The chances from which the next token is drawn. Temperature 0: all on the best token.

    Shape:
        logits: (..., vocab_size); result: the same.
    """
    # ch04_gpt_model.ipynb, "Top-p"
    check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature  # best at 0: no overflow
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None and top_p < 1:
        logits = keep_top_p(logits, top_p)
    return logits.softmax(dim=-1)


def next_tokens(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Choose one token for each row of logits: (rows, vocab_size)."""
    # ch04_gpt_model.ipynb, "Top-p"
    chances = sampling_probabilities(logits, temperature, top_k, top_p)
    if temperature == 0:
        return chances.argmax(dim=-1).tolist()
    if generator is not None:
        chances = chances.to(generator.device)
    return torch.multinomial(chances, 1, generator=generator).flatten().tolist()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside: dropout off, no gradients. Afterwards every part's mode is what it was.

    Example:
        >>> with evaluating(model):
        ...     logits = model(token_ids)
    """
    # ch04_gpt_model.ipynb, "4.13 Many prompts at once"
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def next_logits(model: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The logits of the token after each row; rows may differ in length: (rows, vocab_size)."""
    # ch04_gpt_model.ipynb, "4.13 Many prompts at once"
    windows = [list(row[-model.config.context_length :]) for row in rows]
    width = max(len(window) for window in windows)
    padded = [window + [0] * (width - len(window)) for window in windows]
    last = [len(window) - 1 for window in windows]
    device = next(model.parameters()).device
    with evaluating(model):
        logits = model(torch.tensor(padded, device=device))  # (rows, width, vocab_size)
    return logits[range(len(rows)), last].float()


def generation_steps(
    model: nn.Module, rows: list[list[int]], max_new_tokens: int, eos_id: int | None, **sampling
) -> Iterator[None]:
    """Grow `rows` in place, one token a step; a row that ends with a new `eos_id` is finished."""
    # ch04_gpt_model.ipynb, "The loop"
    growing = list(rows)
    for _ in range(max_new_tokens):
        if not growing:
            return
        chosen = next_tokens(next_logits(model, growing), **sampling)
        for row, token in zip(growing, chosen, strict=True):
            row.append(token)
        growing = [row for row in growing if row[-1] != eos_id]
        yield


def checked_prompts(
    prompts: Tensor | Sequence[Sequence[int]], max_new_tokens: int, config: GPTConfig
) -> list[list[int]]:
    """The prompts as lists of their own; ValueError if a model of `config` cannot continue them."""
    # ch04_gpt_model.ipynb, "The loop"
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens}, expected 0 or more.")
    rows = prompts.tolist() if isinstance(prompts, Tensor) else prompts
    for number, row in enumerate(rows):
        if not isinstance(row, Sequence) or not row:
            raise ValueError(
                f"prompt {number} is {row!r}, expected a list of one or more token ids. One prompt "
                "alone goes into a list, too; to begin with nothing, give the end-of-text token."
            )
        if len(row) > config.context_length:
            raise ValueError(
                f"prompt {number} has {len(row)} tokens, but the model reads at most "
                f"context_length={config.context_length}. Keep its end, such as "
                f"prompt[-{config.context_length}:]."
            )
        check_ids_known(min(row), max(row), config)
    return [list(row) for row in rows]


def generate(
    model: nn.Module,
    token_ids: Tensor | Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor | list[list[int]]:
    """Continue each prompt by up to `max_new_tokens`; past the context, the window slides.

    Shape:
        token_ids: (batch, tokens), or lists of any lengths; result: of the same kind, prompts
        included, each row up to its first new `eos_id`. A tensor is filled up with eos_id.
    """
    # ch04_gpt_model.ipynb, "The loop"
    sampling = dict(temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    rows = checked_prompts(token_ids, max_new_tokens, model.config)
    for _ in generation_steps(model, rows, max_new_tokens, eos_id, **sampling):
        pass
    if not isinstance(token_ids, Tensor) or not rows:
        return token_ids if isinstance(token_ids, Tensor) else rows
    width = max(len(row) for row in rows)
    filled = [row + [eos_id] * (width - len(row)) for row in rows]
    return torch.tensor(filled, dtype=token_ids.dtype, device=token_ids.device)


def generate_stream(
    model: nn.Module,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    eos_id: int | None = None,
    **sampling,
) -> Iterator[int]:
    """Yield the new tokens of one prompt as they are chosen; settings as for `generate`.

    Example:
        >>> for token in generate_stream(model, prompt, 50, temperature=0.8):
        ...     print(tokenizer.decode([token]), end="")
    """
    # ch04_gpt_model.ipynb, "The loop"
    rows = checked_prompts([list(prompt)], max_new_tokens, model.config)
    steps = generation_steps(model, rows, max_new_tokens, eos_id, **sampling)
    return (rows[0][-1] for _ in steps)


# --------------------------------------------------------------------------------------------------
# Chapter 5 · Pretraining: a model learns from text
# ch05_pretraining/ch05_pretraining.ipynb
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How to train: the two optimisers' rates, their schedule, and what keeps a step in bounds."""

    # ch05_pretraining.ipynb, "Parameters"

    matrix_optimizer: str = "muon"  # for the matrices in the blocks; or "adamw", to compare
    matrix_rate: float = 0.02  # their learning rate: how far a step turns them
    table_rate: float = 0.025  # of embeddings, always with AdamW
    vector_rate: float = 0.003  # of norms and biases, the same
    momentum: float = 0.8  # how much of the running mean of gradients each step keeps
    warmup: float = 0.01  # share of the run in which the rates rise from 0
    decay: float = 0.5  # share of the run, at its end, in which they fall back to 0
    weight_decay: float = 0.0  # no story comes often enough to be learnt by heart
    max_norm: float = 1.0  # a longer gradient is shortened to this length
    accumulate: int = 1  # batches per step
    seed: int = 0  # of dropout, where there is any


@dataclass(frozen=True)
class StoryRecipe:
    """All that the story model depends on, apart from code: its size, its reading, its training."""

    # ch05_pretraining.ipynb, "Parameters"

    vocab_size: int = 2048  # nearly every word of the stories is one token
    context_length: int = 256  # the longest story fits
    embed_dim: int = 128  # small enough for minutes on two cores
    num_heads: int = 4  # 32 numbers for each
    num_layers: int = 2  # enough to know who has what; more take longer over each token
    total_tokens: int = 4_800_000  # to learn from: some minutes on two cores
    tokens_per_batch: int = 800  # about ten stories: at first, many small steps
    batch_growth: float = 6.0  # times as many at the end: then, few calm ones
    curriculum: tuple[tuple[float, float], ...] = ((0.0, 30), (0.06, 60))  # short stories first
    position_size: float = 0.02  # of the waves with which positions start
    copying: float = 0.5  # how strongly attention starts by passing on what it sees
    seed: int = 0  # of weights and stories
    training: Recipe = Recipe()


def story_recipe(scale: str = "auto") -> StoryRecipe:
    """The recipe for a device: "laptop"; "gpu", which reads four times as much; "auto" chooses.

    Raises:
        ValueError: another scale.
    """
    # ch05_pretraining.ipynb, "Parameters"
    if scale not in ("auto", "laptop", "gpu"):
        raise ValueError(f'scale={scale!r}, expected "auto", "laptop" or "gpu".')
    large = scale == "gpu" or (scale == "auto" and torch.cuda.is_available())
    return StoryRecipe(total_tokens=(4 if large else 1) * StoryRecipe.total_tokens)


# ch05_pretraining.ipynb, "The loss of a batch"
IGNORED = -100  # the target of a place that asks nothing; F.cross_entropy passes it over
Batch = tuple[Tensor, Tensor]  # inputs and targets, both (rows, tokens), int64


def count_targets(batch: Batch) -> int:
    """How many tokens a batch asks for."""
    # ch05_pretraining.ipynb, "The loss of a batch"
    return int((batch[1] != IGNORED).sum())


def next_token_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats per target; in bfloat16 on CUDA, in float32 elsewhere.

    Shape:
        inputs, targets: (rows, tokens), targets may hold IGNORED; result: a single number.

    Raises:
        ValueError: an id that the model does not know.
    """
    # ch05_pretraining.ipynb, "The loss of a batch"
    asked = targets[targets != IGNORED]
    for ids in (inputs, asked) if len(asked) else (inputs,):
        check_ids_known(int(ids.min()), int(ids.max()), model.config)
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = model(inputs.to(device))  # (rows, tokens, vocab_size)
    flat = logits.float().flatten(0, 1)  # (rows * tokens, vocab_size)
    return F.cross_entropy(flat, targets.to(device).flatten(), ignore_index=IGNORED)


def evaluate(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Mean loss over all targets of `batches`, in nats per token; nothing is disturbed.

    Dropout is off, no randomness is used, and a stream of batches keeps its place.

    Raises:
        ValueError: the batches ask for nothing.
    """
    # ch05_pretraining.ipynb, "The loss of a batch"
    total, asked = 0.0, 0
    with evaluating(model):
        for batch in copy.copy(batches):
            if count := count_targets(batch):
                total += count * next_token_loss(model, *batch).item()
                asked += count
    if not asked:
        raise ValueError("evaluate: the batches ask for no token; give at least one text.")
    return total / asked


def story_rows(told: Iterable[Story | str], tokenizer: BPETokenizer) -> list[list[int]]:
    """Each story as a row of ids, with the end-of-text token before and after it.

    Example:
        >>> tokenizer.decode(story_rows(["Mia had a kite."], tokenizer)[0])
        '<|endoftext|>Mia had a kite.<|endoftext|>'
    """
    # ch05_pretraining.ipynb, "A story as a row"
    rust, end = tokenizer.to_tiktoken(), tokenizer.special_tokens[END_OF_TEXT]
    texts = [story if isinstance(story, str) else story.text for story in told]
    return [[end, *rust.encode_ordinary(text), end] for text in texts]


def ngram_nats(
    learned: Iterable[Sequence[int]],
    asked: Iterable[Sequence[int]],
    order: int,
    vocab_size: int,
    prior: float = 2.0,
) -> list[float]:
    """What counting pays for the rows `asked`, in nats: single tokens, pairs, up to `order` tokens.

    Each context starts as if `prior` tokens had followed it, shared out as after the next shorter
    context; before the shortest one, all tokens are equally likely.

    Source: MacKay and Peto (1995), "A Hierarchical Dirichlet Language Model".
    """
    # ch05_pretraining.ipynb, "Four opponents"
    pairs: Counter[tuple] = Counter()  # (context, what followed)
    totals: Counter[tuple] = Counter()  # context
    for row in learned:
        for i in range(1, len(row)):
            contexts = [tuple(row[i - back : i]) for back in range(min(order, i + 1))]
            pairs.update((context, row[i]) for context in contexts)
            totals.update(contexts)
    nats = [0.0] * order
    for row in asked:
        for i in range(1, len(row)):
            chance = 1 / vocab_size
            for back in range(order):
                if back <= i:  # else the row has no more to look back at
                    context = tuple(row[i - back : i])
                    chance = (pairs[context, row[i]] + prior * chance) / (totals[context] + prior)
                nats[back] -= math.log(chance)
    return nats


def pad_rows(rows: Sequence[Sequence[int]], width: int = 0) -> Batch:
    """Rows of any lengths as one batch, filled up on the right with places that ask nothing.

    Shape:
        result: inputs and targets, both (rows, length of the longest row - 1), or wider: `width`.

    Raises:
        ValueError: no rows, or one of fewer than two ids.
    """
    # ch05_pretraining.ipynb, "Filling up"
    if not rows or min(map(len, rows)) < 2:
        raise ValueError("pad_rows: expected one or more rows, each of two ids or more.")
    width = max(width, max(map(len, rows)) - 1)
    inputs = torch.zeros(len(rows), width, dtype=torch.long)
    targets = torch.full_like(inputs, IGNORED)
    for row, given, asked in zip(rows, inputs, targets, strict=True):
        given[: len(row) - 1], asked[: len(row) - 1] = torch.tensor((row[:-1], row[1:]))
    return inputs, targets


def pack_rows(rows: Iterable[list[int]], tokens_per_batch: int) -> list[list[list[int]]]:
    """Groups of rows of similar length; filled up, each has about `tokens_per_batch` places."""
    # ch05_pretraining.ipynb, "Filling up"
    waiting = sorted(rows, key=len, reverse=True)
    groups: list[list[list[int]]] = []
    while waiting:
        room = max(1, tokens_per_batch // (len(waiting[0]) - 1))
        room -= room % 4 if room > 8 else 0  # fewer shapes: each new one costs the computer time
        groups.append(waiting[:room])
        waiting = waiting[room:]
    if len(groups) > 1 and len(groups[-1]) < room / 2:  # too few for a batch of their own
        few = groups.pop()
        groups[-1] += few
    return groups


def story_nats(model: nn.Module, tokenizer: BPETokenizer, told: Sequence[Story]) -> float:
    """What the model pays for these stories in nats, end-of-text tokens included.

    Raises:
        ValueError: no story, or one that is longer than the model's context.
    """
    # ch05_pretraining.ipynb, "A loss beside its floor"
    rows = story_rows(told, tokenizer)
    longest, room = max(map(len, rows), default=0) - 1, model.config.context_length
    if longest > room:
        raise ValueError(
            f"a story of {longest} tokens does not fit into context_length={room}: leave it out, "
            "or take a model with a longer context."
        )
    batches = [pad_rows(group) for group in pack_rows(rows, 8000)]
    return evaluate(model, batches) * sum(map(count_targets, batches))


def loss_over_entropy(model: nn.Module, tokenizer: BPETokenizer, told: Sequence[Story]) -> float:
    """The model's loss on stories over their teller's own; 1 is the floor. Raises: `story_nats`."""
    # ch05_pretraining.ipynb, "A loss beside its floor"
    return story_nats(model, tokenizer, told) / -sum(story.log_prob for story in told)


# ch05_pretraining.ipynb, "Short stories first"
Curriculum = Sequence[tuple[float, float]]  # (progress, tokens of the longest story), in order


def longest_at(progress: float, curriculum: Curriculum) -> float:
    """How many tokens a story may have at this point of the run; past the last one, any number.

    Example:
        >>> longest_at(0.1, [(0.0, 30), (0.2, 60)]), longest_at(0.2, [(0.0, 30), (0.2, 60)])
        (45.0, inf)
    """
    # ch05_pretraining.ipynb, "Short stories first"
    for (start, low), (end, high) in pairwise(curriculum):
        if progress < end:
            return low + (high - low) * (progress - start) / (end - start)
    return math.inf


class Batches:
    """A stream of batches that knows its place: it can be saved, and continued exactly there.

    It comes in chunks. A subclass says what a chunk holds, from its number and from the progress
    at its beginning, and from nothing else.

    Raises:
        ValueError: `total_tokens` below 1.
    """

    # ch05_pretraining.ipynb, "5.4 A stream that knows its place"

    def __init__(self, total_tokens: int, **settings: object) -> None:
        if total_tokens < 1:
            raise ValueError(f"total_tokens={total_tokens}, expected 1 or more.")
        self.total_tokens = total_tokens
        self.settings = {"kind": type(self).__name__, "total_tokens": total_tokens, **settings}
        self.place = {"chunk": 0, "began": 0, "given": 0, "tokens": 0}

    def chunk(self, number: int, progress: float) -> Iterator[Batch]:
        """The batches of one chunk; `progress` goes from 0 to 1."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        return remaining(self)


def remaining(batches: Batches) -> Iterator[Batch]:
    """The batches from the present place on, until `total_tokens` targets were given.

    Raises:
        ValueError: a chunk is empty.
    """
    # ch05_pretraining.ipynb, "5.4 A stream that knows its place"
    while batches.place["tokens"] < batches.total_tokens:
        number, chunk, began = 0, batches.place["chunk"], batches.place["began"]
        for number, batch in enumerate(batches.chunk(chunk, began / batches.total_tokens), 1):
            if number <= batches.place["given"]:
                continue  # given before the stream was saved
            tokens = batches.place["tokens"] + count_targets(batch)
            batches.place = batches.place | {"given": number, "tokens": tokens}
            yield batch
            if tokens >= batches.total_tokens:
                return
        if not number:
            raise ValueError(f"there is no text to read: chunk {chunk} of {batches.settings}")
        tokens = batches.place["tokens"]
        batches.place = {"chunk": chunk + 1, "began": tokens, "given": 0, "tokens": tokens}


class StoryBatches(Batches):
    """Whole stories, packed by length: short ones first as the recipe's curriculum says, then all.

    Every chunk tells new stories; the curriculum alone draws repeatedly from a pool.
    """

    # ch05_pretraining.ipynb, "5.4 A stream that knows its place"

    def __init__(
        self, tokenizer: BPETokenizer, recipe: StoryRecipe, split: str = "train", pool: int = 20_000
    ) -> None:
        names = ("tokens_per_batch", "batch_growth", "curriculum", "context_length", "seed")
        settings = {name: getattr(recipe, name) for name in names}
        ids = key_of([token.hex() for token in tokenizer.vocab.values()])
        super().__init__(recipe.total_tokens, **settings, split=split, pool=pool, ids=ids)
        self.tokenizer, self.recipe, self.pool = tokenizer, recipe, pool

    def rows(self, number: int, count: int) -> list[list[int]]:
        """The stories of this number, as rows that fit the context."""
        told = stories(1_000_003 * self.recipe.seed + number, self.settings["split"])
        rows = story_rows(islice(told, count), self.tokenizer)
        return [row[: self.recipe.context_length + 1] for row in rows]

    @cached_property
    def short_rows(self) -> list[list[int]]:
        """The pool from which the curriculum draws."""
        return self.rows(0, self.pool)

    def chunk(self, number: int, progress: float) -> Iterator[Batch]:
        """About twenty batches of new stories, or five of short ones."""
        return story_chunk(self, number, progress)


def story_chunk(batches: StoryBatches, number: int, progress: float) -> Iterator[Batch]:
    """The batches of a chunk, in an order that depends on the seed and the chunk's number."""
    # ch05_pretraining.ipynb, "5.4 A stream that knows its place"
    recipe, dice = batches.recipe, random.Random(f"{batches.recipe.seed} {number}")
    size = round(recipe.tokens_per_batch * (1 + (recipe.batch_growth - 1) * progress))
    longest = longest_at(progress, recipe.curriculum)
    if longest < math.inf:
        rows = [row for row in batches.short_rows if len(row) <= longest + 2]
        rows = dice.sample(rows, min(len(rows), 5 * size // int(longest + 1)))
    else:
        rows = batches.rows(number + 1, max(1, 20 * size // 100))
    groups = pack_rows(rows, size)
    dice.shuffle(groups)
    for group in groups:
        width = 8 * math.ceil((max(map(len, group)) - 1) / 8)  # again: fewer shapes
        yield pad_rows(group, min(width, recipe.context_length))


class WindowBatches(Batches):
    """Windows over one long row of ids, in a new order on each pass: for any other text.

    Raises:
        ValueError: as `TokenWindows`, or too few windows for a batch.
    """

    # ch05_pretraining.ipynb, "5.4 A stream that knows its place"

    def __init__(
        self,
        ids: Sequence[int],
        context_length: int,
        batch_size: int,
        total_tokens: int,
        seed: int = 0,
    ) -> None:
        self.windows, self.batch_size = TokenWindows(ids, context_length), batch_size
        if not 1 <= batch_size <= len(self.windows):
            found = f"batch_size={batch_size}, but the ids make {len(self.windows)} windows"
            raise ValueError(f"{found}: give more text, or a batch_size of 1 to that.")
        text = hashlib.sha256(self.windows.ids.numpy().tobytes()).hexdigest()[:12]
        sizes = {"context_length": context_length, "batch_size": batch_size}
        super().__init__(total_tokens, **sizes, seed=seed, ids=text)

    def chunk(self, number: int, progress: float) -> Iterator[Batch]:
        """One pass over the text."""
        dice = torch.Generator().manual_seed(1_000_003 * self.settings["seed"] + number)
        order = torch.randperm(len(self.windows), generator=dice)
        for number in range(len(order) // self.batch_size):
            places = order[number * self.batch_size :][: self.batch_size]
            windows = [self.windows[i] for i in places.tolist()]
            yield torch.stack([x for x, _ in windows]), torch.stack([y for _, y in windows])


def newton_schulz_factor(gram: Tensor) -> Tensor:
    """What a matrix with this Gram matrix is multiplied by, from the left, in one step.

    Shape:
        gram: (matrices, rows, rows); result: the same.
    """
    # ch05_pretraining.ipynb, "Without a decomposition"
    factor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
    factor.diagonal(dim1=-2, dim2=-1).add_(3.4445)  # times the identity
    return factor


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Keep the directions of each matrix and make all of them about equally strong, in float32.

    Five steps of Newton-Schulz bring the singular values between about 0.7 and 1.2, except tiny
    ones. For long matrices, the small factors are multiplied first.

    Shape:
        matrices: (..., rows, columns); result: the same.

    Source: Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks".
    """
    # ch05_pretraining.ipynb, "Without a decomposition"
    tall = matrices.size(-2) > matrices.size(-1)
    x = (matrices.mT if tall else matrices).float()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    shape, x = x.shape, x.reshape(-1, *x.shape[-2:])  # (matrices, shorter side, longer side)
    if x.size(-1) < 2 * x.size(-2):
        for _ in range(steps):
            x = newton_schulz_factor(x @ x.mT) @ x
    else:
        gram, product = x @ x.mT, torch.eye(x.size(-2), device=x.device).expand(len(x), -1, -1)
        for _ in range(steps):
            factor = newton_schulz_factor(gram)
            gram, product = factor @ gram @ factor, factor @ product
        x = product @ x
    return (x.reshape(shape).mT if tall else x.reshape(shape)).to(matrices.dtype)


def nesterov_momentum(state: dict, gradient: Tensor, momentum: float) -> Tensor:
    """A running mean of the gradients, kept in `state`, and seen one step ahead."""
    # ch05_pretraining.ipynb, "The optimiser"
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
    return gradient.lerp(mean, momentum)


def check_matrices(groups: list[dict]) -> None:
    """Raise ValueError if there is a parameter that Muon cannot train."""
    # ch05_pretraining.ipynb, "The optimiser"
    for parts, p in ((group["parts"], p) for group in groups for p in group["params"]):
        if p.ndim != 2 or parts < 1 or p.shape[0] % parts:
            raise ValueError(
                f"Muon: a parameter of shape {tuple(p.shape)}, parts={parts}; expected a matrix "
                "whose rows can be shared out equally. Give other parameters to AdamW."
            )


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: for the matrices of hidden layers, or groups of them.

    Settings: `momentum` (0.95), `weight_decay` (0) and `parts` (1), how many matrices are stacked
    in each parameter: 3 in a fused query-key-value projection.

    Raises: ValueError if a parameter is no matrix, or its rows cannot be shared out among `parts`.
    Source: Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks".
    """

    # ch05_pretraining.ipynb, "The optimiser"

    def __init__(self, params: Iterable, lr: float = 0.02, **settings: float) -> None:
        usual = {"momentum": 0.95, "weight_decay": 0.0, "parts": 1}
        super().__init__(params, {"lr": lr} | usual | settings)
        check_matrices(self.param_groups)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of all parameters that have a gradient; equal shapes go in one go."""
        alike = defaultdict(list)
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                update = nesterov_momentum(self.state[p], p.grad, group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                for i in range(group["parts"]):
                    piece, change = (t.chunk(group["parts"])[i] for t in (p, update))
                    alike[piece.shape, p.device].append((piece, change, group["lr"]))
        for (shape, _), pieces in alike.items():
            changes = orthogonalise(torch.stack([change for _, change, _ in pieces]))
            for (piece, _, rate), change in zip(pieces, changes, strict=True):
                piece.add_(change, alpha=-rate * max(1, shape[0] / shape[1]) ** 0.5)


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """All parameters that are trained, each in one group.

    "fused": query-key-value matrices, three in one; "single": the other matrices inside the
    blocks; "tables": embeddings and all other matrices; "vectors": norms and biases.
    """
    # ch05_pretraining.ipynb, "Who trains what"
    kinds = ("fused", "single", "tables", "vectors")
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in kinds}
    for name, p in model.named_parameters():
        if p.requires_grad:
            inside = "fused" if name.endswith("qkv.weight") else "single"
            kind = inside if name.startswith("blocks.") else "tables"
            groups[kind if p.ndim == 2 else "vectors"].append(p)
    return groups


def build_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest; or AdamW for all.

    Raises:
        ValueError: nothing to train, or an unknown `matrix_optimizer`.
    """
    # ch05_pretraining.ipynb, "Who trains what"
    fused, single, tables, vectors = groups = parameter_groups(model).values()
    if recipe.matrix_optimizer not in ("muon", "adamw") or not any(groups):
        what = f"matrix_optimizer={recipe.matrix_optimizer!r}, expected 'muon' or 'adamw'"
        raise ValueError(f"{what}, and {sum(map(len, groups))} parameters to train")
    rates = ((tables, recipe.table_rate), (vectors, recipe.vector_rate))
    adamw = [{"params": group, "lr": rate, "weight_decay": 0.0} for group, rate in rates]
    matrices = [{"params": fused, "parts": 3}, {"params": single, "parts": 1}]
    matrices = [group | {"lr": recipe.matrix_rate} for group in matrices if group["params"]]
    if recipe.matrix_optimizer == "adamw":
        adamw, matrices = adamw + matrices, []
    settings = {"weight_decay": recipe.weight_decay}
    optimizers = [Muon(matrices, momentum=recipe.momentum, **settings)] if matrices else []
    if adamw := [group for group in adamw if group["params"]]:
        betas = (recipe.momentum, 0.95)
        optimizers.append(torch.optim.AdamW(adamw, betas=betas, fused=True, **settings))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["peak"] = group["lr"]  # what the schedule multiplies
    return optimizers


def learning_rate_at(progress: float, warmup: float = 0.01, decay: float = 0.7) -> float:
    """The factor for the learning rates: up from 0 at first, at the end down to 0, 1 between.

    Args:
        progress: of the run, from 0 to 1.
        warmup, decay: the shares of the run in which the factor rises and falls.
    """
    # ch05_pretraining.ipynb, "5.7 How fast, and when to stop"
    rising = progress / warmup if progress < warmup else 1.0
    falling = (1 - progress) / decay if 1 - progress < decay else 1.0
    return max(0.0, min(rising, falling))


def training_step(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Sequence[Batch],
    max_norm: float = math.inf,
) -> tuple[float, float]:
    """One update from several batches as if they were one; its loss, and its gradient's length.

    Raises:
        FloatingPointError: the loss or a gradient is not a number; nothing was changed.
    """
    # ch05_pretraining.ipynb, "A batch in several bites"
    counts = [count_targets(batch) for batch in batches]
    loss = 0.0
    for batch, count in zip(batches, counts, strict=True):
        part = next_token_loss(model, *batch) * (count / sum(counts))
        part.backward()
        loss += part.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm).item()
    if math.isfinite(loss + norm):
        for optimizer in optimizers:
            optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad()
    if not math.isfinite(loss + norm):
        raise FloatingPointError(f"loss {loss}, gradient {norm}: try lower learning rates.")
    return loss, norm


@dataclass
class History:
    """What happened in a run, as plain numbers and texts."""

    # ch05_pretraining.ipynb, "5.8 The loop"

    steps: list[dict] = field(default_factory=list)  # tokens, loss, factor, norm, seconds
    looks: list[dict] = field(default_factory=list)  # step, tokens, and what was seen
    finished: bool = False


@contextmanager
def own_randomness(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Inside, random numbers start from `seed`; outside, nobody notices."""
    # ch05_pretraining.ipynb, "5.8 The loop"
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if seed is not None:
            torch.manual_seed(seed)
        yield


class TrainingRun:
    """A model in training, with everything that changes on the way."""

    # ch05_pretraining.ipynb, "5.8 The loop"

    def __init__(self, model: nn.Module, batches: Batches, recipe: Recipe) -> None:
        if not isinstance(batches, Batches):
            kind = type(batches).__name__
            raise TypeError(f"batches: a {kind}; expected StoryBatches, WindowBatches or your own.")
        self.model, self.batches, self.recipe = model, batches, recipe
        self.optimizers = build_optimizers(model, recipe)
        self.history, self.stream = History(), iter(batches)

    def step(self) -> int:
        """Learn from the next batches; how many tokens that were, 0 when there are no more."""
        start, before = time.perf_counter(), self.batches.place["tokens"]
        group = list(islice(self.stream, self.recipe.accumulate))
        if not group:
            self.history.finished = True
            return 0
        after = self.batches.place["tokens"]
        middle = min(1.0, (before + after) / 2 / self.batches.total_tokens)
        factor = learning_rate_at(middle, self.recipe.warmup, self.recipe.decay)
        for rates in (rates for optimizer in self.optimizers for rates in optimizer.param_groups):
            rates["lr"] = factor * rates["peak"]
        loss, norm = training_step(self.model, self.optimizers, group, self.recipe.max_norm)
        entry = {"tokens": after, "loss": loss, "factor": factor, "norm": norm}
        self.history.steps.append(entry | {"seconds": time.perf_counter() - start})
        return after - before


# ch05_pretraining.ipynb, "5.8 The loop"
Watch = Callable[[GPTModel], dict]  # what to note down about a model, as plain numbers and texts


def look_at(run: TrainingRun, validation: Iterable[Batch] | None, watch: Watch | None) -> None:
    """Note down how the model does by now, without touching its training."""
    # ch05_pretraining.ipynb, "5.8 The loop"
    seen = {"step": len(run.history.steps), "tokens": run.batches.place["tokens"]}
    if any(seen["step"] == other["step"] for other in run.history.looks):
        return  # before an interruption
    with own_randomness(run.model), evaluating(run.model):
        if validation is not None:
            seen["validation"] = evaluate(run.model, validation)
        run.history.looks.append(seen | (watch(run.model) if watch else {}))


def is_due(step: int, every: int | Container[int]) -> bool:
    """Whether a step is one of every so many, or one of those that are listed."""
    # ch05_pretraining.ipynb, "5.8 The loop"
    return step % every == 0 if isinstance(every, int) else step in every


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, or Jupyter's stop button, waits for the end of a step; a second one does not wait."""
    # ch05_pretraining.ipynb, "5.8 The loop"
    pressed: list[int] = []

    def press(number: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    try:
        usual = signal.signal(signal.SIGINT, press)
    except ValueError:  # not the main thread: signals do not come here
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, usual)


def pretrain(
    model: GPTModel,
    batches: Batches,
    recipe: Recipe | None = None,
    *,
    validation: Sequence[Batch] | None = None,
    watch: Watch | None = None,
    watch_every: int | Container[int] = 100,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 200,
) -> History:
    """Train `model` in place on all of `batches`, looking at it every so many steps, or at some.

    With a `checkpoint`, the run is saved there, and goes on from there if it was interrupted: on a
    CPU, bit for bit as if it had not been. Ctrl-C saves it and returns what there is.

    Raises:
        ValueError: bad batches, or the checkpoint is of another run.
        FloatingPointError: the loss is no longer a number.
    """
    # ch05_pretraining.ipynb, "5.8 The loop"
    keep_freed_memory()
    run = TrainingRun(model, batches, recipe or Recipe())
    with own_randomness(model, run.recipe.seed), stoppable() as stopped:
        if checkpoint is not None and Path(checkpoint).exists():
            restore_run(run, checkpoint)
        training_loop(run, stopped, validation, watch, watch_every, checkpoint, checkpoint_every)
    return run.history


def training_loop(
    run: TrainingRun,
    stopped: Callable[[], bool],
    validation: Sequence[Batch] | None,
    watch: Watch | None,
    watch_every: int | Container[int],
    checkpoint: str | Path | None,
    checkpoint_every: int,
) -> None:
    """The loop of `pretrain`: look, step, save, until the batches end or somebody stops it."""
    # ch05_pretraining.ipynb, "5.8 The loop"
    total, steps = run.batches.total_tokens, run.history.steps
    done = min(total, run.batches.place["tokens"])
    style = {"unit": " tokens", "unit_scale": True, "file": sys.stdout, "mininterval": 1.0}
    run.model.train()
    with tqdm(total=total, initial=done, desc="training", **style) as bar:
        while not stopped():
            if is_due(len(steps), watch_every):
                look_at(run, validation, watch)
            learned = run.step()
            if not learned:
                look_at(run, validation, watch)  # at the very end
                break
            bar.set_postfix(loss=f"{steps[-1]['loss']:.3f}", refresh=False)
            bar.update(min(learned, total - bar.n))
            if checkpoint is not None and len(steps) % checkpoint_every == 0:
                save_run(run, checkpoint)
    run.model.eval()
    if checkpoint is not None and steps:
        save_run(run, checkpoint)


# ch05_pretraining.ipynb, "5.9 Checkpoints: stop now, go on tomorrow"
CHECKPOINT_FORMAT = "gpt checkpoint, version 1"


def both_files(path: str | Path) -> tuple[Path, Path]:
    """Where a checkpoint's tensors and its description lie.

    Raises:
        ValueError: the path does not end in .safetensors.
    """
    # ch05_pretraining.ipynb, "5.9 Checkpoints: stop now, go on tomorrow"
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"checkpoint {path}: expected a name that ends in .safetensors")
    return path, path.with_suffix(".json")


def save_checkpoint(
    path: str | Path, model: GPTModel, tensors: dict[str, Tensor] | None = None, **notes: object
) -> None:
    """Save a model as `path`, a .safetensors, and a .json beside it.

    Both are written whole under other names, then moved into place, the .safetensors first. If the
    power fails between the two moves, the pair is refused when read, and the older one is lost.

    Args:
        tensors: more of them, such as an optimiser's averages.
        notes: whatever else is worth keeping; numbers, texts, lists and dicts.

    Raises:
        ValueError: the path has another ending.
        TypeError: JSON cannot hold the notes.
        OSError: no space left. In each of these cases, older files stay as they were.
    """
    # ch05_pretraining.ipynb, "5.9 Checkpoints: stop now, go on tomorrow"
    weights, sheet = both_files(path)
    key = secrets.token_hex(8)  # stands in both files: they belong together
    content = {"format": CHECKPOINT_FORMAT, "key": key, "config": asdict(model.config)}
    text = json.dumps(content | {"notes": notes}, indent=1)
    named = {f"model.{name}": value for name, value in model.state_dict().items()} | (tensors or {})
    named = {name: value.detach().contiguous() for name, value in named.items()}
    with written_whole(sheet) as new_sheet, written_whole(weights) as new_weights:
        save_file(named, new_weights, metadata={"key": key})
        new_sheet.write_text(text, encoding="utf-8")


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """All tensors of a checkpoint, and its description. Runs no code from the files.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: they are damaged, something else, or not of one checkpoint.
    """
    # ch05_pretraining.ipynb, "5.9 Checkpoints: stop now, go on tomorrow"
    weights, sheet = both_files(path)
    for file in (weights, sheet):
        if not file.is_file():
            pair = f"a checkpoint is two files, {weights.name} and {sheet.name}"
            raise FileNotFoundError(f"{file} is missing: {pair}. Give another path, or train anew.")
    try:
        content = json.loads(sheet.read_text(encoding="utf-8"))
        with safe_open(weights, framework="pt") as file:
            key = (file.metadata() or {}).get("key")
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        if content["format"] != CHECKPOINT_FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {CHECKPOINT_FORMAT!r}")
        if content["key"] != key:
            raise ValueError("the two files are not of the same checkpoint")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{weights} with {sheet.name} is not a checkpoint of this course, or it is damaged "
            f"({str(error) or error!r:.200}). Give another path, or delete both and train anew."
        ) from None
    return tensors, content


def differences(saved: object, wanted: object, name: str = "") -> list[str]:
    """What differs between two descriptions, by name; nested ones are looked into.

    Example:
        >>> differences({"size": {"embed_dim": 64}}, {"size": {"embed_dim": 128}})
        ['size.embed_dim is 64 in the file, 128 here']
    """
    # ch05_pretraining.ipynb, "5.9 Checkpoints: stop now, go on tomorrow"
    wanted = json.loads(json.dumps(wanted))  # tuples become lists, as in the file
    if isinstance(saved, dict) and isinstance(wanted, dict):
        names = dict.fromkeys([*saved, *wanted])
        inside = [differences(saved.get(n), wanted.get(n), f"{name}.{n}".strip(".")) for n in names]
        return [line for lines in inside for line in lines]
    return [] if saved == wanted else [f"{name} is {saved} in the file, {wanted} here"]


def fill_model(model: GPTModel, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Put a checkpoint's weights into `model`. Raises ValueError if they do not fit."""
    # ch05_pretraining.ipynb, "5.9 Checkpoints: stop now, go on tomorrow"
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit the model: {error}") from None


def load_checkpoint(path: str | Path, config: GPTConfig | None = None) -> tuple[GPTModel, dict]:
    """The model that was saved, on the CPU, and its notes. Runs no code from the files.

    Args:
        config: what you expect; None for any.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`; or another configuration than `config`.
    """
    # ch05_pretraining.ipynb, "5.9 Checkpoints: stop now, go on tomorrow"
    tensors, content = read_checkpoint(path)
    if config and (other := differences(content["config"], asdict(config))):
        raise ValueError(
            f"{path} holds a model of another configuration: {'; '.join(other)}. Give the path of "
            "another checkpoint, or leave out `config` to take the model as it is."
        )
    try:
        model = GPTModel(GPTConfig(**content["config"]), seed=0)
    except TypeError as error:
        raise ValueError(f"{path}: its configuration is not a GPTConfig's ({error}).") from None
    fill_model(model, tensors, path)
    return model.eval(), content["notes"]


def save_run(run: TrainingRun, path: str | Path) -> None:
    """Save all that is needed to go on with a run as if nothing had happened. Raises as above."""
    # ch05_pretraining.ipynb, "5.9 Checkpoints: stop now, go on tomorrow"
    tensors = {"random": torch.get_rng_state()}  # dropout draws from it
    for number, optimizer in enumerate(run.optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{number}.{index}.{name}"] = value
    notes = {"recipe": asdict(run.recipe), "batches": run.batches.settings}
    notes |= {"place": run.batches.place, "history": asdict(run.history)}
    save_checkpoint(path, run.model, tensors, **notes)


def fill_optimizers(
    optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    """Put back the averages that the optimisers had when they were saved."""
    # ch05_pretraining.ipynb, "5.9 Checkpoints: stop now, go on tomorrow"
    states = [optimizer.state_dict() for optimizer in optimizers]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, index, key = name.split(".")
            states[int(number)]["state"].setdefault(int(index), {})[key] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)


def restore_run(run: TrainingRun, path: str | Path) -> None:
    """Go on where `save_run` was. Raises ValueError if the file is of another run."""
    # ch05_pretraining.ipynb, "5.9 Checkpoints: stop now, go on tomorrow"
    tensors, content = read_checkpoint(path)
    notes = content["notes"]
    here = {"config": asdict(run.model.config), "recipe": asdict(run.recipe)}
    here["batches"] = run.batches.settings
    there = {name: (content | notes).get(name) for name in here}
    if other := differences(there, here):
        raise ValueError(
            f"{path} is a checkpoint of another run: {'; '.join(other)}. Give another path, or "
            "delete it to begin anew."
        )
    fill_model(run.model, tensors, path)
    fill_optimizers(run.optimizers, tensors)
    torch.set_rng_state(tensors["random"])
    run.batches.place, run.history = notes["place"], History(**notes["history"])


def answer_spans(story: Story, row: list[int], tokenizer: BPETokenizer) -> list[tuple[int, int]]:
    """For each probe of a story, where in its row the tokens of the answer begin and end."""
    # ch05_pretraining.ipynb, "5.10 Who has what?"
    ends = list(accumulate(len(tokenizer.vocab[i]) for i in row[1:-1]))  # in bytes
    spans = []
    for probe in story.probes:
        start = len(story.text[: probe.start].encode())
        stop = start + len(probe.answer.encode())
        spans.append((bisect_right(ends, start) + 1, bisect_left(ends, stop) + 2))
    return spans


def who_has_what(
    model: nn.Module, tokenizer: BPETokenizer, told: Iterable[Story]
) -> tuple[int, int]:
    """At how many probes the model's likeliest tokens spell the right name; and of how many."""
    # ch05_pretraining.ipynb, "5.10 Who has what?"
    told = sorted((story for story in told if story.probes), key=lambda story: len(story.text))
    pairs = list(zip(told, story_rows(told, tokenizer), strict=True))
    device, right, asked = next(model.parameters()).device, 0, 0
    with evaluating(model):
        for group in (pairs[i : i + 64] for i in range(0, len(pairs), 64)):
            inputs, targets = pad_rows([row for _, row in group])
            hits = model(inputs.to(device)).argmax(-1).cpu() == targets  # (rows, tokens)
            for (story, row), hit in zip(group, hits, strict=True):
                spans = answer_spans(story, row, tokenizer)
                right += sum(bool(hit[first - 1 : last - 1].all()) for first, last in spans)
                asked += len(spans)
    return right, asked


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The interval that holds the true share in 95 of 100 cases, when `right` of `total` were seen.

    Raises:
        ValueError: `total` below 1, or `right` not between 0 and it.

    Source: Wilson (1927), "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    # ch05_pretraining.ipynb, "How sure is a share?"
    if total < 1 or not 0 <= right <= total:
        raise ValueError(f"wilson: {right} of {total}, expected 0 to all of at least 1.")
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + (z / 2 / total) ** 2)
    return max(0.0, middle - spread), min(1.0, middle + spread)


def head_start(model: GPTModel, position_size: float, copying: float, seed: int = 0) -> None:
    """Start positions as waves, and attention as a hand that passes on what it sees; in place.

    A 0 leaves that part as it is.

    Source: sinusoidal positions from Vaswani et al. (2017), "Attention Is All You Need", 3.5.
    """
    # ch05_pretraining.ipynb, "A head start"
    length, dim = model.position_embedding.weight.shape
    speeds = torch.exp(-math.log(length) * torch.arange(0, dim, 2) / dim)
    angles = torch.arange(length)[:, None] * speeds  # (context_length, embed_dim / 2)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim]
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if position_size:
            model.position_embedding.weight.copy_(position_size * 2**0.5 * waves)
        for block in model.blocks if copying else ():
            turn, _ = torch.linalg.qr(torch.randn(dim, dim, generator=dice))
            block.attention.qkv.weight[2 * dim :] = copying * turn  # values
            block.attention.out.weight.copy_(copying * turn.T)


def new_story_model(recipe: StoryRecipe) -> GPTModel:
    """The story model before its first step."""
    # ch05_pretraining.ipynb, "A head start"
    sizes = ("vocab_size", "context_length", "embed_dim", "num_heads", "num_layers")
    config = GPTConfig(**{name: getattr(recipe, name) for name in sizes})
    model = GPTModel(config, seed=recipe.seed)
    head_start(model, recipe.position_size, recipe.copying, recipe.seed)
    return model


def write_story(
    model: GPTModel,
    tokenizer: BPETokenizer,
    beginning: str = "",
    max_new_tokens: int = 200,
    **sampling: object,
) -> str:
    """A story that begins as given; `sampling` as for `generate`."""
    # ch05_pretraining.ipynb, "What to watch"
    end = tokenizer.special_tokens[END_OF_TEXT]
    prompt = [end, *tokenizer.encode(beginning)]
    (row,) = generate(model, [prompt], max_new_tokens, eos_id=end, **sampling)
    return tokenizer.decode(i for i in row if i != end)


# ch05_pretraining.ipynb, "What to watch"
STORY_LOOKS = (0, 50, 100, 200, 400, *range(800, 20_000, 400))  # steps


def watch_stories(tokenizer: BPETokenizer, count: int = 100, seed: int = 0) -> Watch:
    """What to note down while a story model learns: loss over entropy, who has what, a sample."""
    # ch05_pretraining.ipynb, "What to watch"
    told = list(islice(stories(1000 + seed, "validation"), count))  # not those of the exam

    def watch(model: GPTModel) -> dict:
        right, asked = who_has_what(model, tokenizer, told)
        dice = torch.Generator().manual_seed(seed)
        sample = write_story(model, tokenizer, max_new_tokens=50, top_p=0.95, generator=dice)
        ratio = loss_over_entropy(model, tokenizer, told)
        return {"ratio": ratio, "right": right, "asked": asked, "sample": sample}

    return watch


def functions_in(thing: object) -> list[Callable]:
    """The plain functions in a function or class that the course defines; none in anything else."""
    # ch05_pretraining.ipynb, "Where it is kept"
    thing = inspect.unwrap(thing) if callable(thing) else thing
    if getattr(thing, "__module__", "") not in ("__main__", evaluating.__module__):
        return []
    members = list(vars(thing).values()) if isinstance(thing, type) else [thing]
    inner = [getattr(m, "fget", None) or getattr(m, "func", None) or m for m in members]
    inner = [inspect.unwrap(getattr(m, "__func__", m)) for m in inner]
    written = [m for m in inner if inspect.isfunction(m) and m.__code__.co_filename != "<string>"]
    return written + [f for base in getattr(thing, "__bases__", ()) for f in functions_in(base)]


def names_used(code: CodeType) -> set[str]:
    """The global names that a piece of compiled code looks up, in inner functions, too."""
    # ch05_pretraining.ipynb, "Where it is kept"
    inner = [names_used(const) for const in code.co_consts if isinstance(const, CodeType)]
    steps = dis.get_instructions(code)
    return {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}.union(*inner)


def code_of(*things: Callable) -> dict[str, str]:
    """The code of functions and classes and of all of the course's that they use, by name.

    Comments do not count, and neither does where it stands, in a notebook or in the module.
    """
    # ch05_pretraining.ipynb, "Where it is kept"
    found: dict[str, str] = {}
    waiting = list(things)
    while waiting:
        for function in functions_in(waiting.pop()):
            if function.__qualname__ not in found:
                tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
                found[function.__qualname__] = ast.unparse(tree)
                used = names_used(function.__code__) & function.__globals__.keys()
                values = {name: function.__globals__[name] for name in used}
                found |= {n: repr(v) for n, v in values.items() if isinstance(v, str | int | float)}
                waiting += values.values()
    return found


def best_device() -> torch.device:
    """CUDA where there is one, else the CPU, which is quicker than most others for small models."""
    # ch05_pretraining.ipynb, "Where it is kept"
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def story_checkpoint(recipe: StoryRecipe) -> Path:
    """Where the story model of a recipe is kept. Other code, other stories: another file."""
    # ch05_pretraining.ipynb, "Where it is kept"
    told = shared.stories.story_text(500_000, seed=recipe.seed)
    code = code_of(pretrain, new_story_model, watch_stories, StoryBatches, story_tokenizer)
    return artifact_path("checkpoints/stories.safetensors", recipe, told, code)


def expected_seconds(model: GPTModel, batches: StoryBatches, recipe: Recipe) -> float:
    """How long a run will take here: per token as in some steps, half-way, on a copy.

    Five steps after a first one, which is slower; fewer where two seconds are over before.
    """
    # ch05_pretraining.ipynb, "Where it is kept"
    trial, taken = copy.deepcopy(model).train(), []
    optimizers, until = build_optimizers(trial, recipe), time.perf_counter() + 2
    for batch in islice(batches.chunk(0, 0.5), 6):
        start = time.perf_counter()
        if len(taken) > 1 and start > until:
            break
        training_step(trial, optimizers, [batch], recipe.max_norm)
        taken.append((time.perf_counter() - start, count_targets(batch)))
    seconds, tokens = map(sum, zip(*(taken[1:] or taken), strict=True))
    return seconds / tokens * batches.total_tokens


def story_model(recipe: StoryRecipe | None = None) -> tuple[GPTModel, BPETokenizer]:
    """The pretrained story model and its tokenizer, pretrained at the first call: some minutes.

    Raises:
        RuntimeError: it was stopped on the way; the next call goes on from there.
    """
    # ch05_pretraining.ipynb, "Where it is kept"
    recipe = recipe or story_recipe()
    path, tokenizer = story_checkpoint(recipe), story_tokenizer(recipe.vocab_size)
    model = new_story_model(recipe).to(best_device())
    if path.exists():
        saved, notes = load_checkpoint(path, model.config)
        if notes["history"]["finished"]:
            return saved.to(best_device()), tokenizer
    batches = StoryBatches(tokenizer, recipe)
    minutes = expected_seconds(model, batches, recipe.training) / 60
    print(f"Pretraining the story model, once: about {minutes:.1f} minutes on this machine.")
    watched = {"watch": watch_stories(tokenizer), "watch_every": STORY_LOOKS}
    history = pretrain(model, batches, recipe.training, checkpoint=path, **watched)
    if not history.finished:
        raise RuntimeError("the story model's training was stopped; call again to go on from there")
    return model, tokenizer


# ch05_pretraining.ipynb, "5.16 GPT-2, in your model"
GPT2_PARTS = {
    "wte": "token_embedding",
    "wpe": "position_embedding",
    "ln_f": "final_norm",
    "ln_1": "norm1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "ln_2": "norm2",
    "mlp.c_fc": "feed_forward.up",
    "mlp.c_proj": "feed_forward.down",
}


def gpt2_name(name: str) -> str | None:
    """What GPT-2's `name` is called in `GPTModel`; None for what it does not need.

    Example:
        >>> gpt2_name("transformer.h.3.attn.c_attn.weight")
        'blocks.3.attention.qkv.weight'
    """
    # ch05_pretraining.ipynb, "5.16 GPT-2, in your model"
    name = name.removeprefix("transformer.")
    if name == "lm_head.weight" or name.endswith((".attn.bias", ".attn.masked_bias")):
        return None  # the tied head once more, and the causal mask
    *block, rest = re.split(r"^(h\.\d+)\.", name)
    part, _, kind = rest.rpartition(".")
    if part not in GPT2_PARTS:
        raise ValueError(f"GPT-2 has no part {name!r}")
    return ".".join([*(b.replace("h.", "blocks.") for b in block if b), GPT2_PARTS[part], kind])


def gpt2_config(content: dict, dropout: float = 0.0) -> GPTConfig:
    """Our configuration from the content of GPT-2's config.json.

    Raises:
        ValueError: not a GPT-2, or one of a kind that `GPTModel` does not compute.
    """
    # ch05_pretraining.ipynb, "5.16 GPT-2, in your model"
    usual = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    usual |= {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    usual |= {"tie_word_embeddings": True, "add_cross_attention": False, "n_inner": None}
    if content.get("n_inner") == 4 * content.get("n_embd", 0):
        content = content | {"n_inner": None}
    if other := [n for n, value in usual.items() if content.get(n, value) != value]:
        found = ", ".join(f"{name}={content[name]!r} (expected {usual[name]!r})" for name in other)
        raise ValueError(f"config.json describes another model than GPT-2: {found}.")
    names = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"config.json does not say {missing}: is it a GPT-2's?")
    return GPTConfig(*(content[name] for name in names), dropout=dropout)


def gpt2_files(name_or_folder: str | Path) -> tuple[Path, Path]:
    """config.json and model.safetensors, from a folder or from the Hugging Face hub.

    Raises:
        FileNotFoundError: a file is missing in the folder, or it is no name of a model.
        DownloadError: the hub cannot be reached.
    """
    # ch05_pretraining.ipynb, "5.16 GPT-2, in your model"
    names, folder = ("config.json", "model.safetensors"), Path(name_or_folder).expanduser()
    if folder.is_dir():
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise FileNotFoundError(f"{folder} holds no {' and no '.join(missing)}; it needs both.")
        return folder / names[0], folder / names[1]
    repo = str(name_or_folder)
    repo = f"openai-community/{repo}" if repo in GPT2_CONFIGS else repo
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", repo):
        raise FileNotFoundError(
            f"{name_or_folder} is neither a folder nor a model's name; expected one of "
            f"{', '.join(GPT2_CONFIGS)}, or OWNER/NAME on the Hugging Face hub."
        )
    advice = "load_gpt2 takes a folder with both files, too. Your own model needs no network."
    return hub_file(repo, names[0], advice=advice), hub_file(repo, names[1], advice=advice)


def load_gpt2(name_or_folder: str | Path = "gpt2", dropout: float = 0.0) -> GPTModel:
    """GPT-2 with its published weights: by name, "gpt2" to "gpt2-xl", or from a folder.

    A folder holds config.json and model.safetensors in Hugging Face's format. Runs no code from it.

    Raises:
        FileNotFoundError, DownloadError: as `gpt2_files`.
        ValueError: the files are damaged, or of another kind of model.
    """
    # ch05_pretraining.ipynb, "5.16 GPT-2, in your model"
    config_file, weights_file = gpt2_files(name_or_folder)
    try:
        config = gpt2_config(json.loads(config_file.read_text(encoding="utf-8")), dropout)
        weights = {}
        with safe_open(weights_file, framework="pt") as file:
            for theirs in file.keys():
                if ours := gpt2_name(theirs):
                    tensor = file.get_tensor(theirs).float()
                    stored_turned = ours.startswith("blocks.") and tensor.ndim == 2
                    weights[ours] = tensor.T.contiguous() if stored_turned else tensor.clone()
        with torch.device("meta"):  # only shapes: the weights come from the file
            model = GPTModel(config)
        model.load_state_dict(weights, assign=True)
    except (SafetensorError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{name_or_folder} is not a GPT-2 that can be loaded: {error}") from None
    return model.eval()


# --------------------------------------------------------------------------------------------------
# Chapter 6 · Fine-tuning: from language model to classifier
# ch06_classification_finetune/ch06_classification_finetune.ipynb
# --------------------------------------------------------------------------------------------------


def fine_tuning(seed: int = 0, **changes: object) -> Recipe:
    """The recipe for training a pretrained model a little further; `changes` as in `Recipe`.

    Example:
        >>> fine_tuning(matrix_rate=0.02).table_rate
        0.002
    """
    # ch06_classification_finetune.ipynb, "Parameters"
    gentle = {"matrix_rate": 0.005, "table_rate": 0.002, "vector_rate": 0.002}
    return Recipe(**gentle | {"seed": seed} | changes)


@dataclass(frozen=True)
class Claim:
    """A story up to where somebody's name must come, a name for that place, and whether it fits."""

    # ch06_classification_finetune.ipynb, "Is it true?"

    before: str
    name: str
    after: str  # the rest of the sentence
    is_true: bool
    story: Story

    @property
    def name_last(self) -> str:
        """The claim where it stands in the story: at the end."""
        return self.before + self.name + self.after

    @property
    def name_first(self) -> str:
        """The name as a question, and then the story up to the gap."""
        return f"{self.name}? {self.before.rstrip()}"


def claims(seed: int = 0, split: str = "train", both: bool = True) -> Iterator[Claim]:
    """Claims without end: of each story a true one, then a false one about somebody else in it.

    Not `both`: one of each story, in turns a true one and a false one. Only stories with a probe
    are used, and only if somebody else is named before the gap.

    Raises:
        ValueError: unknown split.
    """
    # ch06_classification_finetune.ipynb, "Is it true?"
    dice, turn = random.Random(f"claims {split} {seed}"), True
    for story in stories(seed, split):
        for probe in story.probes[:1]:
            before, rest = story.text[: probe.start], story.text[probe.start + len(probe.answer) :]
            named = [n for n in dict.fromkeys(story.people) if re.search(rf"\b{n}\b", before)]
            others = [name for name in named if name != probe.answer]
            after = re.match(r"[^.!?]*[.!?]\"?", rest)
            if not others or not after:
                continue
            names = {True: probe.answer, False: dice.choice(others)}
            for is_true in (True, False) if both else (turn,):
                yield Claim(before, names[is_true], after[0], is_true, story)
            turn = not turn


def words_of(text: str, pairs: bool = True) -> list[str]:
    """The different words of a text, in small letters, and the pairs of neighbours.

    Punctuation marks are words, and a number counts by how many digits it has.

    Example:
        >>> words_of("Win 500 now!", pairs=False)
        ['win', '###', 'now', '!']
    """
    # ch06_classification_finetune.ipynb, "A bag of words"
    words = re.findall(r"[^\W\d]+(?:'[^\W\d]+)?|\d+|[^\w\s]", text.lower())
    words = ["#" * len(word) if word.isdigit() else word for word in words]
    return list(dict.fromkeys([*words, *(map(" ".join, pairwise(words)) if pairs else ())]))


class BagOfWords:
    """Each word a weight, their sum says which of two labels: 1 above 0, else 0.

    Words that only one text has are left out. Learned when it is made; takes a second or two.

    Raises:
        ValueError: no texts, not as many labels as texts, or a label other than 0 and 1.
    """

    # ch06_classification_finetune.ipynb, "A bag of words"

    def __init__(
        self, texts: Sequence[str], labels: Sequence[int], decay: float = 3e-5, pairs: bool = True
    ) -> None:
        check_labels(texts, labels, 2)
        bags = [words_of(text, pairs) for text in texts]
        counts = Counter(word for bag in bags for word in bag)
        common = [word for word, count in counts.items() if count > 1]
        self.pairs, self.places = pairs, {word: place for place, word in enumerate(common, 1)}
        self.weights = torch.zeros(len(common) + 1, 1, requires_grad=True)  # 0: for every text
        learn_weights(self, self.bags(texts), torch.tensor(labels, dtype=torch.float32), decay)

    def bags(self, texts: Sequence[str]) -> list[list[int]]:
        """For each text, 0 and the places of those of its words that have a weight."""
        words = ([self.places.get(w) for w in words_of(text, self.pairs)] for text in texts)
        return [[0, *(place for place in row if place)] for row in words]

    def scores(self, texts: Sequence[str]) -> Tensor:
        """The logarithm of the odds that a text's label is 1: (texts,)."""
        return bag_scores(self.weights, self.bags(texts))


def bag_scores(weights: Tensor, bags: Sequence[Sequence[int]]) -> Tensor:
    """The sum of the weights in each bag, over the root of how many they are: (bags,)."""
    # ch06_classification_finetune.ipynb, "A bag of words"
    sizes = torch.tensor([len(bag) for bag in bags])
    places = torch.tensor([place for bag in bags for place in bag])
    share = (sizes.float() ** -0.5).repeat_interleave(sizes)
    starts = sizes.cumsum(0) - sizes
    sums = F.embedding_bag(places, weights, starts, mode="sum", per_sample_weights=share)
    return sums[:, 0]


def learn_weights(
    bag: BagOfWords, bags: Sequence[Sequence[int]], labels: Tensor, decay: float
) -> None:
    """Find the weights with the lowest cross-entropy plus `decay` times the sum of squares."""
    # ch06_classification_finetune.ipynb, "A bag of words"
    optimizer = torch.optim.LBFGS([bag.weights], max_iter=100, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(bag_scores(bag.weights, bags), labels)
        loss = loss + decay * bag.weights.pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(cost)
    bag.weights.requires_grad_(False)


def check_labels(texts: Sequence, labels: Sequence[int], num_classes: int) -> None:
    """Raise ValueError unless there are texts, each with a label from 0 to `num_classes` - 1."""
    # ch06_classification_finetune.ipynb, "A bag of words"
    if not len(texts) or len(texts) != len(labels):
        raise ValueError(f"{len(texts)} texts, {len(labels)} labels; expected one of each or more.")
    for number, label in enumerate(labels):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"text {number} has the label {label}; expected 0 to {num_classes - 1}, since "
                f"there are {num_classes} classes."
            )


class GPTClassifier(GPTModel):
    """A GPT whose head gives, at every place, one number for each class.

    With `mean`, the head sees the mean of all places up to there, not one place alone.

    Shape:
        token_ids: (batch, tokens), at most context_length tokens;
        result: logits (batch, tokens, num_classes).

    Raises:
        ValueError: `num_classes` below 2.

    Source: Radford et al. (2018), "Improving Language Understanding by Generative Pre-Training".
    """

    # ch06_classification_finetune.ipynb, "6.3 Another head"

    def __init__(
        self, config: GPTConfig, num_classes: int = 2, seed: int | None = None, mean: bool = False
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}, expected 2 or more.")
        super().__init__(config, seed)
        self.num_classes, self.mean = num_classes, mean
        self.output_head = new_head(config.embed_dim, num_classes, seed, mean)


class MeanHead(nn.Linear):
    """A linear layer on the running mean over places: place i sees the mean of places 0 to i.

    Shape:
        x: (batch, tokens, in_features); result: (batch, tokens, out_features).
    """

    # ch06_classification_finetune.ipynb, "6.3 Another head"

    def forward(self, x: Tensor) -> Tensor:
        read = torch.arange(1, x.shape[1] + 1, device=x.device)  # how many places, (tokens,)
        return super().forward(x.cumsum(dim=1) / read[:, None])


def new_head(embed_dim: int, num_classes: int, seed: int | None, mean: bool) -> nn.Linear:
    """A head with small random weights, from its own dice if a seed is given."""
    # ch06_classification_finetune.ipynb, "6.3 Another head"
    dice = None if seed is None else torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        head = (MeanHead if mean else nn.Linear)(embed_dim, num_classes)
    nn.init.normal_(head.weight, std=0.02, generator=dice)
    nn.init.zeros_(head.bias)
    return head


def classifier_from(
    gpt: GPTModel, num_classes: int = 2, seed: int = 0, mean: bool = False
) -> GPTClassifier:
    """A classifier with all weights of `gpt` but the head, which starts at random; a copy.

    Raises:
        ValueError: `num_classes` below 2, or `gpt` is made of other parts than a GPTModel.
    """
    # ch06_classification_finetune.ipynb, "6.3 Another head"
    classifier = GPTClassifier(gpt.config, num_classes, seed, mean)
    found = classifier.load_state_dict(gpt.state_dict(), strict=False)
    if set(found.missing_keys) != {"output_head.weight", "output_head.bias"}:
        raise ValueError(f"not filled: {found.missing_keys}; expected the new head alone.")
    return classifier.to(next(gpt.parameters()).device)


# ch06_classification_finetune.ipynb, "6.4 Where to read"
READS = ("first", "last", "last_padded")  # where the label stands


def check_rows(rows: Sequence[Sequence[int]], read: str) -> None:
    """Raise ValueError if a row is empty, or `read` is none of READS."""
    # ch06_classification_finetune.ipynb, "6.4 Where to read"
    if read not in READS:
        raise ValueError(f"read={read!r}, expected one of {', '.join(READS)}.")
    if empty := [number for number, row in enumerate(rows) if not len(row)]:
        raise ValueError(f"row {empty[0]} has no token; expected one or more in each.")


def label_batch(
    rows: Sequence[Sequence[int]],
    labels: Sequence[int],
    num_classes: int = 2,
    read: str = "last",
    width: int = 0,
) -> Batch:
    """Rows as inputs, filled up on the right with 0; as targets one label each, the rest IGNORED.

    `read` says where the label stands: at the "first" place, at the "last" real one, or at the
    last one of the filled-up row, "last_padded".

    Shape:
        result: inputs and targets, both (rows, length of the longest row), or wider: `width`.

    Raises:
        ValueError: no rows, an empty one, a label out of range, or an unknown `read`.
    """
    # ch06_classification_finetune.ipynb, "6.4 Where to read"
    check_labels(rows, labels, num_classes)
    check_rows(rows, read)
    width = max(width, max(map(len, rows)))
    inputs = torch.zeros(len(rows), width, dtype=torch.long)
    targets = torch.full_like(inputs, IGNORED)
    for row, label, given, asked in zip(rows, labels, inputs, targets, strict=True):
        given[: len(row)] = torch.tensor(row)
        asked[{"first": 0, "last": len(row) - 1, "last_padded": -1}[read]] = label
    return inputs, targets


def text_rows(
    texts: Sequence[str], tokenizer: BPETokenizer, context_length: int
) -> list[list[int]]:
    """Each text as a row of ids behind the end-of-text token; of longer ones, the beginning.

    Warns if it had to cut, with how many and how much.

    Raises:
        TypeError: one text alone, not in a list.
        ValueError: an empty text.
    """
    # ch06_classification_finetune.ipynb, "6.4 Where to read"
    if isinstance(texts, str):
        raise TypeError("text_rows: one text alone; put it into a list, as in [text].")
    if empty := [number for number, text in enumerate(texts) if not text.strip()]:
        raise ValueError(f"text {empty[0]} is empty; there is nothing to read in it.")
    rust, end = tokenizer.to_tiktoken(), tokenizer.special_tokens[END_OF_TEXT]
    rows = [[end, *rust.encode_ordinary(text)] for text in texts]
    if longer := [len(row) for row in rows if len(row) > context_length]:
        warnings.warn(
            f"{len(longer)} of {len(rows)} texts are too long for context_length="
            f"{context_length} (the longest has {max(longer)} tokens): their ends are cut off.",
            stacklevel=2,
        )
    return [row[:context_length] for row in rows]


class LabelBatches(Batches):
    """Rows with labels, `epochs` times, each time in another order, packed by length.

    Settings: `read` as in `label_batch`; `seed`; `together`, how many neighbours in the list, such
    as two claims about one story, always share a batch; `skip`, the chance that a token is left
    out, anew in each epoch, never a row's first one.

    Raises:
        ValueError: as `label_batch`; or `epochs`, `batch_size` or `skip` make no sense.
    """

    # ch06_classification_finetune.ipynb, "6.5 The stream"

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        labels: Sequence[int],
        num_classes: int = 2,
        *,
        epochs: float = 1.0,
        batch_size: int = 16,
        **settings: object,
    ) -> None:
        usual = {"read": "last", "skip": 0.0, "together": 1, "seed": 0}
        check_labels(rows, labels, num_classes)
        check_stream(epochs, batch_size, settings.get("together", 1), settings.keys() - usual)
        ids = hashlib.sha256(repr([list(map(list, rows)), list(labels)]).encode()).hexdigest()[:12]
        settings = usual | settings | {"batch_size": batch_size, "num_classes": num_classes}
        check_rows(rows, settings["read"])
        super().__init__(max(1, round(epochs * len(rows))), **settings, ids=ids)
        self.rows, self.labels = rows, labels

    def chunk(self, number: int, progress: float) -> Iterator[Batch]:
        """One epoch."""
        return label_chunk(self, number)


def check_stream(epochs: float, batch_size: int, together: int, unknown: set[str]) -> None:
    """Raise an error that names the setting from which no stream can be made."""
    # ch06_classification_finetune.ipynb, "6.5 The stream"
    if epochs <= 0 or batch_size < 1:
        given = f"epochs={epochs}, batch_size={batch_size}"
        raise ValueError(f"{given}; expected more than 0 epochs, and 1 or more texts a batch.")
    if together < 1 or batch_size % together:
        given = f"together={together}, batch_size={batch_size}"
        raise ValueError(f"{given}; expected a batch_size that is a multiple of `together`.")
    if unknown:
        raise TypeError(f"LabelBatches: unknown settings {sorted(unknown)}.")


def pieces_of(items: Sequence[int], size: int) -> list[Sequence[int]]:
    """The items in pieces of `size`; the last one may be shorter."""
    # ch06_classification_finetune.ipynb, "6.5 The stream"
    return [items[i : i + size] for i in range(0, len(items), size)]


def label_chunk(batches: LabelBatches, number: int) -> Iterator[Batch]:
    """The batches of an epoch, in an order that depends on the seed and its number alone."""
    # ch06_classification_finetune.ipynb, "6.5 The stream"
    settings, size = batches.settings, batches.settings["batch_size"]
    dice = random.Random(f"{settings['seed']} {number}")
    rows = batches.rows
    if skip := settings["skip"]:
        rows = [[row[0], *(i for i in row[1:] if dice.random() >= skip)] for row in rows]
    pieces = pieces_of(range(len(rows)), settings["together"])
    pieces.sort(key=lambda piece: len(rows[piece[0]]) + 8 * dice.random())
    groups = pieces_of([i for piece in pieces for i in piece], size)
    dice.shuffle(groups)
    for group in groups:
        width = 8 * math.ceil(max(len(rows[i]) for i in group) / 8)  # fewer shapes, as in 5.3
        labels = [batches.labels[i] for i in group]
        yield label_batch(
            [rows[i] for i in group], labels, settings["num_classes"], settings["read"], width
        )


def label_logits(
    model: GPTClassifier, rows: Sequence[Sequence[int]], read: str = "last", batch_size: int = 64
) -> Tensor:
    """What the classifier says of each row at the place that is read, in batches of like lengths.

    Shape:
        result: (rows, num_classes), float32, on the CPU.
    """
    # ch06_classification_finetune.ipynb, "6.5 The stream"
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    logits, device = torch.zeros(len(rows), model.num_classes), next(model.parameters()).device
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            group = order[start : start + batch_size]
            batch = label_batch([rows[i] for i in group], [0] * len(group), read=read)
            inputs, targets = (x.to(device) for x in batch)
            logits[group] = model(inputs)[targets != IGNORED].float().cpu()
    return logits


def train_last(model: GPTModel, layers: int | None) -> None:
    """Let only the head and the last `layers` blocks be trained, with the last norm; None: all.

    With 0, the head alone is trained.

    Raises:
        ValueError: the model has not as many blocks.
    """
    # ch06_classification_finetune.ipynb, "6.8 What to train, where to read, how fast"
    if layers is not None and not 0 <= layers <= len(model.blocks):
        raise ValueError(f"layers={layers}, expected 0 to {len(model.blocks)}, or None for all.")
    model.requires_grad_(layers is None)
    model.output_head.requires_grad_(True)
    if layers:
        model.final_norm.requires_grad_(True)
        for block in model.blocks[-layers:]:
            block.requires_grad_(True)


class TextBatches(Batches):
    """Texts as rows of ids, `epochs` times, in another order each time: to read on.

    Raises:
        ValueError: no rows, or one of fewer than two ids.
    """

    # ch06_classification_finetune.ipynb, "6.9 Spam"

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        *,
        epochs: float = 1.0,
        tokens_per_batch: int = 800,
        seed: int = 0,
    ) -> None:
        pad_rows(rows)  # raises if there is nothing to read
        self.rows = [list(row) for row in rows]
        ids = hashlib.sha256(repr(self.rows).encode()).hexdigest()[:12]
        total = max(1, round(epochs * sum(len(row) - 1 for row in rows)))
        super().__init__(total, tokens_per_batch=tokens_per_batch, seed=seed, ids=ids)

    def chunk(self, number: int, progress: float) -> Iterator[Batch]:
        """One epoch."""
        dice = random.Random(f"{self.settings['seed']} {number}")
        rows = dice.sample(self.rows, len(self.rows))
        groups = pack_rows(rows, self.settings["tokens_per_batch"])
        dice.shuffle(groups)
        return (pad_rows(group) for group in groups)


def paired_bootstrap(
    first: Sequence[bool], second: Sequence[bool], samples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """How much larger the share of right answers of `first` is: the difference, and its interval.

    Both have answered the same questions, in the same order. 95 of 100 such intervals hold the
    true difference.

    Raises:
        ValueError: no answers, or not as many of one as of the other.

    Source: Efron (1979), "Bootstrap Methods: Another Look at the Jackknife".
    """
    # ch06_classification_finetune.ipynb, "The test"
    if not len(first) or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} answers; expected as many, 1 or more.")
    gain = torch.as_tensor(first).double() - torch.as_tensor(second).double()  # -1, 0 or 1 each
    dice = torch.Generator().manual_seed(seed)
    size = (len(gain),)
    draws = (torch.randint(len(gain), size, generator=dice) for _ in range(samples))
    differences = torch.stack([gain[drawn].mean() for drawn in draws])
    low, high = differences.quantile(torch.tensor([0.025, 0.975], dtype=torch.double))
    return gain.mean().item(), low.item(), high.item()


def confusion_matrix(guessed: Sequence[int], labels: Sequence[int], num_classes: int = 2) -> Tensor:
    """How often each label (row) got each answer (column).

    Shape:
        result: (num_classes, num_classes), int64.

    Raises:
        ValueError: not as many answers as labels, or one out of range.
    """
    # ch06_classification_finetune.ipynb, "6.10 How is it wrong?"
    check_labels(guessed, labels, num_classes)
    check_labels(labels, guessed, num_classes)
    counts = torch.zeros(num_classes, num_classes, dtype=torch.long)
    for guess, label in zip(guessed, labels, strict=True):
        counts[label, guess] += 1
    return counts


def precision_recall(
    scores: Sequence[float], labels: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Precision and recall of label 1 if everything from each score on upwards is called 1.

    Shape:
        result: thresholds, falling, one for each different score; precision; recall: all equal.

    Raises:
        ValueError: not as many scores as labels, a label other than 0 and 1, or none is 1.
    """
    # ch06_classification_finetune.ipynb, "6.10 How is it wrong?"
    check_labels(scores, labels, 2)
    if not any(labels):
        raise ValueError("no label is 1: there is nothing to recall.")
    order = torch.as_tensor(scores).argsort(descending=True, stable=True)
    ranked, hits = torch.as_tensor(scores)[order], torch.as_tensor(labels)[order].cumsum(0)
    called = torch.arange(1, len(ranked) + 1)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.tensor([True])])  # equal scores go together
    return ranked[last], (hits / called)[last], (hits / hits[-1])[last]


@dataclass(frozen=True)
class Bin:
    """Answers that were about equally sure: how many, how many right, and the mean confidence."""

    # ch06_classification_finetune.ipynb, "6.11 Can its chances be trusted?"

    total: int
    right: int
    confidence: float


def confidence_bins(
    confidences: Sequence[float], is_right: Sequence[bool], num_bins: int = 10
) -> list[Bin]:
    """The answers in bins of equal width from 0 to 1; empty bins are left out.

    Raises:
        ValueError: no answers, not as many of both, or a confidence outside 0 to 1.
    """
    # ch06_classification_finetune.ipynb, "6.11 Can its chances be trusted?"
    sure, right = torch.as_tensor(confidences, dtype=torch.float64), torch.as_tensor(is_right)
    if not len(sure) or len(sure) != len(right) or sure.min() < 0 or sure.max() > 1:
        raise ValueError(
            f"{len(sure)} confidences, {len(right)} answers; expected one or more of each, "
            "confidences from 0 to 1."
        )
    places = (sure * num_bins).long().clamp(max=num_bins - 1)
    masks = [places == place for place in range(num_bins)]
    return [
        Bin(int(mask.sum()), int(right[mask].sum()), sure[mask].mean().item())
        for mask in masks
        if mask.any()
    ]


def calibration_error(
    confidences: Sequence[float], is_right: Sequence[bool], num_bins: int = 10
) -> float:
    """Expected calibration error: the mean gap between confidence and share of right answers.

    Raises: as `confidence_bins`.

    Source: Guo et al. (2017), "On Calibration of Modern Neural Networks", section 2.
    """
    # ch06_classification_finetune.ipynb, "6.11 Can its chances be trusted?"
    bins = confidence_bins(confidences, is_right, num_bins)
    gaps = [bin.total * abs(bin.right / bin.total - bin.confidence) for bin in bins]
    return sum(gaps) / sum(bin.total for bin in bins)


def best_temperature(logits: Tensor, labels: Sequence[int]) -> float:
    """By what to divide the logits so that their cross-entropy is lowest; from 0.1 to 10.

    Shape:
        logits: (texts, num_classes).

    Source: Guo et al. (2017), "On Calibration of Modern Neural Networks", section 4.2.
    """
    # ch06_classification_finetune.ipynb, "6.11 Can its chances be trusted?"
    check_labels(logits, labels, logits.shape[-1])
    targets = torch.as_tensor(labels)
    tried = torch.logspace(-1, 1, 201)
    losses = [F.cross_entropy(logits / temperature, targets) for temperature in tried]
    return tried[torch.stack(losses).argmin()].item()


def classify(
    model: GPTClassifier,
    tokenizer: BPETokenizer,
    texts: Sequence[str],
    *,
    read: str = "last",
    temperature: float = 1.0,
) -> Tensor:
    """The chance of each label for each text, in their order. No text: no row.

    Texts that are longer than the model's context are cut at its end, with a warning.

    Shape:
        result: (texts, num_classes).

    Raises:
        TypeError, ValueError: as `text_rows`; or `temperature` is not above 0.

    Example:
        >>> classify(model, tokenizer, ["You have won!", "See you at six"])[:, 1]
    """
    # ch06_classification_finetune.ipynb, "6.13 For use"
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}, expected above 0.")
    rows = text_rows(texts, tokenizer, model.config.context_length)
    return (label_logits(model, rows, read) / temperature).softmax(dim=-1)


def save_classifier(
    path: str | Path,
    model: GPTClassifier,
    label_names: Sequence[str],
    *,
    read: str = "last",
    temperature: float = 1.0,
    **notes: object,
) -> None:
    """Save a classifier as `path`, a .safetensors, and a .json beside it.

    Raises:
        ValueError: not one name for each label, an unknown `read`, or as `save_checkpoint`.
    """
    # ch06_classification_finetune.ipynb, "Kept in a file"
    if len(label_names) != model.num_classes:
        raise ValueError(f"{len(label_names)} names for {model.num_classes} labels.")
    check_rows([], read)
    kept = {"label_names": list(label_names), "mean": model.mean, "read": read}
    save_checkpoint(path, model, **notes, **kept, temperature=temperature)


def load_classifier(path: str | Path) -> tuple[GPTClassifier, dict]:
    """The classifier that was saved, on the CPU, and its notes: label_names, read, temperature.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`; or it holds no classifier.
    """
    # ch06_classification_finetune.ipynb, "Kept in a file"
    tensors, content = read_checkpoint(path)
    notes = content["notes"]
    if not {"label_names", "mean", "read"} <= notes.keys():
        raise ValueError(f"{path} holds no classifier; load it with load_checkpoint.")
    config = GPTConfig(**content["config"])
    model = GPTClassifier(config, len(notes["label_names"]), seed=0, mean=notes["mean"])
    fill_model(model, tensors, path)
    return model.eval(), notes


# --------------------------------------------------------------------------------------------------
# Chapter 7 · Instruction fine-tuning: your GPT becomes an assistant
# ch07_instruction_finetune/ch07_instruction_finetune.ipynb
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AssistantRecipe:
    """All that the assistant depends on, apart from code: its start, its reading, its training."""

    # ch07_instruction_finetune.ipynb, "Parameters"

    start: str = "story"  # your own model; or "gpt2", …, or a folder with GPT-2's files
    story: StoryRecipe = StoryRecipe()  # how that model of yours was made
    total_tokens: int = 1_900_000  # asked tokens to learn from: some minutes on two cores
    tokens_per_batch: int = 1200  # places, most of them taken by prompts: at first small steps
    batch_growth: float = 4.0  # times as many at the end: then, few calm ones
    replay: float = 0.2  # short tales read for each exchange, so that nothing is forgotten
    talk: float = 0.15  # share of rows with something said before, for the chat
    masked: bool = True  # learn from the answers only
    vocabulary: int = 4000  # examples in which a word must be frequent to become a token
    seed: int = 0  # of examples and new rows
    training: Recipe = Recipe(matrix_rate=0.01, table_rate=0.008, decay=0.6)


def assistant_recipe(scale: str = "auto", start: str = "story") -> AssistantRecipe:
    """The recipe for a device, "laptop", "gpu" or "auto", and for the weights to start from.

    Raises:
        ValueError: another scale.

    Example:
        >>> assistant_recipe("laptop", start="gpt2").training.matrix_optimizer
        'adamw'
    """
    # ch07_instruction_finetune.ipynb, "Parameters"
    story = story_recipe(scale)
    many = story.total_tokens // StoryRecipe.total_tokens  # times as much as on a laptop
    recipe = AssistantRecipe(start, story, total_tokens=many * AssistantRecipe.total_tokens)
    if start == "story":
        return recipe
    gentle = Recipe("adamw", matrix_rate=1e-4, table_rate=1e-4, vector_rate=1e-4, momentum=0.9)
    return replace(recipe, replay=0.0, tokens_per_batch=4000, batch_growth=1.0, training=gentle)


def gpt2_tokenizer(name_or_folder: str | Path = "gpt2") -> BPETokenizer:
    """GPT-2's tokenizer, from its two files in a folder or on the Hugging Face hub.

    Raises:
        FileNotFoundError: the folder has no vocab.bpe with encoder.json, and no merges.txt with
            vocab.json.
        DownloadError: the hub cannot be reached.
    """
    # ch07_instruction_finetune.ipynb, "7.1 What does it do when it is asked?"
    folder, repo = Path(name_or_folder).expanduser(), str(name_or_folder)
    pairs = (("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json"))
    if folder.is_dir():
        for names in pairs:
            if all((folder / name).is_file() for name in names):
                return BPETokenizer.from_gpt2_files(*(folder / name for name in names))
        raise FileNotFoundError(f"{folder} holds no tokenizer: {' or '.join(map(str, pairs))}")
    repo = f"openai-community/{repo}" if repo in GPT2_CONFIGS else repo
    advice = "A folder with these files will do, too. Your own model needs no network."
    return BPETokenizer.from_gpt2_files(*(hub_file(repo, n, advice=advice) for n in pairs[1]))


def start_model(recipe: AssistantRecipe) -> tuple[GPTModel, BPETokenizer]:
    """The pretrained model that becomes the assistant, and its tokenizer.

    Makes the story model if there is none yet. Raises as `load_gpt2` for GPT-2's weights.
    """
    # ch07_instruction_finetune.ipynb, "7.1 What does it do when it is asked?"
    if recipe.start == "story":
        return story_model(recipe.story)
    return load_gpt2(recipe.start).to(best_device()), gpt2_tokenizer(recipe.start)


# ch07_instruction_finetune.ipynb, "7.3 A form for talking"
Message = dict[str, str]  # "role" and "content"
ROLES = ("system", "user", "assistant")
TURN_END = "<|end|>"
CHAT_TOKENS = (*(f"<|{role}|>" for role in ROLES), TURN_END)


def merges_for(word: str, ranks: dict[TokenPair, int]) -> list[TokenPair]:
    """The merges that join what is left of a word after the merges in `ranks`, from the left.

    Example:
        >>> merges_for("hens", {(b"e", b"n"): 0})
        [(b'h', b'en'), (b'hen', b's')]
    """
    # ch07_instruction_finetune.ipynb, "The tokenizer grows"
    tokens, pairs = merge_word(word.encode(), ranks), []
    while len(tokens) > 1:
        pairs.append((tokens[0], tokens[1]))
        tokens[:2] = [tokens[0] + tokens[1]]
    return pairs


def extend_tokenizer(
    tokenizer: BPETokenizer, words: Iterable[str] = (), special_tokens: Sequence[str] = CHAT_TOKENS
) -> BPETokenizer:
    """The tokenizer with more whole words and special tokens; all old ids keep their meaning.

    What the old tokenizer joins stays joined: the new merges only join its tokens further.

    Raises:
        ValueError: a word that text is cut in, such as "two words", or a special token that is
            there already.
    """
    # ch07_instruction_finetune.ipynb, "The tokenizer grows"
    check_special(special_tokens)
    if known := [text for text in special_tokens if text in tokenizer.special_tokens]:
        raise ValueError(f"special_tokens: the tokenizer has {known} already")
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    tokens, known = [], set(tokenizer.ids)
    for word in words:
        if len(split_words(word)) != 1:
            raise ValueError(f"{word!r} is no single word: text is cut into {split_words(word)}")
        pairs = merges_for(word, ranks)
        made = [first + second for first, second in pairs]
        if known.isdisjoint(made):
            ranks |= {pair: len(ranks) + i for i, pair in enumerate(pairs)}
            tokens += made
            known.update(made)
    first = tokenizer.vocab_size
    special = {text: first + len(tokens) + i for i, text in enumerate(special_tokens)}
    added = dict(enumerate(tokens, first)) | {i: text.encode() for text, i in special.items()}
    return BPETokenizer(tokenizer.vocab | added, list(ranks), tokenizer.special_tokens | special)


def instruction_words(
    tokenizer: BPETokenizer, count: int = 4000, share: float = 0.0015
) -> list[str]:
    """Words that are frequent in instructions and answers and not yet one token, by frequency.

    Names and things stay in pieces. `share`: in how many of `count` examples a word must stand.
    """
    # ch07_instruction_finetune.ipynb, "The tokenizer grows"
    examples = [e for e in islice(instructions(99), count) if e.family != "continue_story"]
    counts = count_words(f" {text}" for e in examples for text in (e.instruction, e.answer))
    often = [w for w, n in counts.most_common() if n >= share * count and w.strip() not in ENTITIES]
    return [w for w in often if w[0] == " " and len(tokenizer.encode(w)) > 1]


def check_messages(messages: Sequence[Message]) -> None:
    """Raise ValueError if these are not messages: a known role each, and something said."""
    # ch07_instruction_finetune.ipynb, "Nobody can forge a mark"
    for number, message in enumerate(messages):
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise ValueError(
                f"message {number} is {message!r}: expected a role, one of {', '.join(ROLES)}, "
                'and a text, such as {"role": "user", "content": "Hello!"}'
            )
        if not message["content"].strip():
            raise ValueError(f"message {number} of the {message['role']} is empty: leave it out")


def chat_ids(
    tokenizer: BPETokenizer, messages: Sequence[Message], reply: bool = False
) -> list[int]:
    """A conversation as a row of ids; with `reply`, the assistant is about to speak.

    Raises:
        ValueError: as `check_messages`; or the tokenizer has no such marks.
    """
    # ch07_instruction_finetune.ipynb, "Nobody can forge a mark"
    check_messages(messages)
    mark = tokenizer.special_tokens
    if missing := [text for text in CHAT_TOKENS if text not in mark]:
        raise ValueError(f"the tokenizer has no {missing}: see extend_tokenizer")
    ids = []
    for message in messages:
        said = tokenizer.encode(" " + message["content"].strip())
        ids += [mark[f"<|{message['role']}|>"], *said, mark[TURN_END]]
    return ids + [mark["<|assistant|>"]] * reply


def new_rows(
    table: torch.Tensor, old: BPETokenizer, new: BPETokenizer, seed: int = 0
) -> torch.Tensor:
    """Rows of the token table for the tokens that only `new` has.

    Shape:
        table: (old.vocab_size, embed_dim); result: (new.vocab_size - old.vocab_size, embed_dim).
    """
    # ch07_instruction_finetune.ipynb, "The model grows"
    dice = torch.Generator().manual_seed(seed)
    ranks = {pair: rank for rank, pair in enumerate(old.merges)}
    mean, spread = table.mean(0), table.std()
    marks, rows = set(new.special_tokens.values()), []
    for i in range(old.vocab_size, new.vocab_size):
        if i in marks:
            rows.append(mean + spread * torch.randn(mean.shape, generator=dice))
        else:
            pieces = [old.ids[piece] for piece in merge_word(new.vocab[i], ranks)]
            rows.append(table[pieces].mean(0))
    return torch.stack(rows) if rows else table[:0]


def grow_vocabulary(
    model: GPTModel, old: BPETokenizer, new: BPETokenizer, seed: int = 0
) -> GPTModel:
    """A copy of the model with a row for each token of `new`; what it knew, it still knows.

    Raises:
        ValueError: the model has not the vocabulary of `old`, or `new` is no extension of it.
    """
    # ch07_instruction_finetune.ipynb, "The model grows"
    if model.config.vocab_size != old.vocab_size or old.vocab.items() - new.vocab.items():
        raise ValueError(
            f"a model with vocab_size={model.config.vocab_size}, a tokenizer of {old.vocab_size} "
            f"tokens and one of {new.vocab_size}: expected a model and its tokenizer, and the "
            "same tokenizer extended by extend_tokenizer"
        )
    table = model.token_embedding.weight.detach()
    rows = torch.cat([table, new_rows(table.cpu(), old, new, seed).to(table.device)])
    grown = GPTModel(replace(model.config, vocab_size=new.vocab_size), seed=0).to(table.device)
    grown.load_state_dict(model.state_dict() | {"token_embedding.weight": rows})
    return grown


def as_messages(example: Example) -> list[Message]:
    """What the user says in an example.

    Example:
        >>> as_messages(Example("count", "How many?", "kite, drum", "two"))
        [{'role': 'user', 'content': 'How many? kite, drum'}]
    """
    # ch07_instruction_finetune.ipynb, "7.4 From an example to a batch"
    return [{"role": "user", "content": f"{example.instruction} {example.input}".strip()}]


def instruction_row(
    example: Example, tokenizer: BPETokenizer, earlier: Sequence[Message] = ()
) -> tuple[list[int], int]:
    """The exchange as a row of ids, and at which place of it the reply starts."""
    # ch07_instruction_finetune.ipynb, "7.4 From an example to a batch"
    asked = [*earlier, *as_messages(example)]
    answered = [*asked, {"role": "assistant", "content": example.answer}]
    return chat_ids(tokenizer, answered), len(chat_ids(tokenizer, asked, reply=True))


def instruction_batch(
    rows: Sequence[tuple[Sequence[int], int]], masked: bool = True, width: int = 0
) -> Batch:
    """Rows with the places where their replies start, as one batch that asks for the replies.

    Args:
        rows: as `instruction_row` gives them.
        masked: False asks for the prompts, too.
        width: at least so many places in a row.

    Shape:
        result: inputs and targets, both (rows, length of the longest row - 1), or wider: `width`.

    Raises:
        ValueError: no rows, or a reply that starts outside its row.
    """
    # ch07_instruction_finetune.ipynb, "7.4 From an example to a batch"
    if wrong := [(len(ids), start) for ids, start in rows if not 0 < start < len(ids)]:
        raise ValueError(f"a row of {wrong[0][0]} ids, and its reply starts at {wrong[0][1]}")
    inputs, targets = pad_rows([ids for ids, _ in rows], width)
    for row, (_, start) in zip(targets, rows, strict=True):
        row[: start - 1] = IGNORED if masked else row[: start - 1]
    return inputs, targets


def chunk_rows(
    examples: Sequence[Example], tokenizer: BPETokenizer, longest: int, talk: float, seed: str
) -> list[tuple[list[int], int]]:
    """The examples as rows of at most `longest` ids; a share `talk` has others before it."""
    # ch07_instruction_finetune.ipynb, "7.5 A stream of exchanges"
    dice, rows = random.Random(seed), []
    for number, example in enumerate(examples):
        count = dice.randint(1, 2) if dice.random() < talk else 0
        earlier = [
            message
            for other in examples[max(0, number - count) : number]
            for message in [*as_messages(other), {"role": "assistant", "content": other.answer}]
        ]
        row = instruction_row(example, tokenizer, earlier)
        if len(row[0]) > longest and earlier:
            row = instruction_row(example, tokenizer)
        if len(row[0]) <= longest:
            rows.append(row)
    return rows


class InstructionBatches(Batches):
    """Exchanges without end, packed by length; the batches ask for the replies.

    Examples that do not fit into the context are left out. `families`: some of `FAMILIES`, or None
    for all and the open ones.
    """

    # ch07_instruction_finetune.ipynb, "7.5 A stream of exchanges"

    def __init__(
        self,
        tokenizer: BPETokenizer,
        recipe: AssistantRecipe,
        context_length: int = 256,
        split: str = "train",
        families: Sequence[str] | None = None,
    ) -> None:
        names = ("tokens_per_batch", "batch_growth", "replay", "talk", "masked", "seed")
        settings = {name: getattr(recipe, name) for name in names}
        settings |= {"context_length": context_length, "split": split, "families": families}
        instructions(0, split, families)  # complains about what it does not know
        ids = key_of([token.hex() for token in tokenizer.vocab.values()])
        super().__init__(recipe.total_tokens, **settings, ids=ids)
        self.tokenizer, self.recipe = tokenizer, recipe

    def chunk(self, number: int, progress: float) -> Iterator[Batch]:
        """About twenty batches of new examples."""
        return instruction_chunk(self, number, progress)


def instruction_chunk(batches: InstructionBatches, number: int, progress: float) -> Iterator[Batch]:
    """The batches of a chunk, in an order that depends on the seed and the chunk's number."""
    # ch07_instruction_finetune.ipynb, "7.5 A stream of exchanges"
    recipe, settings = batches.recipe, batches.settings
    seed, longest = f"{recipe.seed} {number}", settings["context_length"] + 1
    size = round(recipe.tokens_per_batch * (1 + (recipe.batch_growth - 1) * progress))
    drawn = instructions(1_000_003 * recipe.seed + number, settings["split"], settings["families"])
    examples = list(islice(drawn, max(1, 20 * size // 60)))
    rows = chunk_rows(examples, batches.tokenizer, longest, recipe.talk, seed)
    told = islice(short_tales(1_000_003 * recipe.seed + number), int(recipe.replay * len(rows)))
    rows += [(ids[:longest], 1) for ids in story_rows(told, batches.tokenizer)]
    starts = {tuple(ids): start for ids, start in rows}
    groups = pack_rows([ids for ids, _ in rows], size)
    random.Random(seed).shuffle(groups)
    for group in groups:
        width = min(8 * math.ceil((max(map(len, group)) - 1) / 8), longest - 1)
        yield instruction_batch([(ids, starts[tuple(ids)]) for ids in group], recipe.masked, width)


# ch07_instruction_finetune.ipynb, "7.6 An exam without a judge"
Prompt = str | Sequence[Message]  # what the user says, or a whole conversation


def prompt_ids(prompt: Prompt, tokenizer: BPETokenizer, context_length: int) -> list[int]:
    """A prompt as a row of ids, up to where the assistant speaks.

    Raises:
        ValueError: as `chat_ids`, or too long for the context.
    """
    # ch07_instruction_finetune.ipynb, "7.6 An exam without a judge"
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    ids = chat_ids(tokenizer, messages, reply=True)
    if len(ids) >= context_length:
        raise ValueError(
            f"the prompt has {len(ids)} tokens, and with context_length={context_length} there is "
            "no room for an answer: shorten it, or drop the oldest turns (see trim_chat)"
        )
    return ids


def answer_text(ids: Iterable[int], tokenizer: BPETokenizer) -> str:
    """The text of an answer: up to the first mark, without spaces at its ends."""
    # ch07_instruction_finetune.ipynb, "7.6 An exam without a judge"
    marks = set(tokenizer.special_tokens.values())
    return tokenizer.decode(takewhile(lambda i: i not in marks, ids)).strip()


def reply(
    model: GPTModel,
    tokenizer: BPETokenizer,
    prompts: Sequence[Prompt],
    max_new_tokens: int = 120,
    temperature: float = 0.0,
    **sampling: object,
) -> list[str]:
    """The assistant's answers; `sampling` as for `generate`. Raises ValueError as `prompt_ids`.

    Example:
        >>> reply(model, tokenizer, ["What is the plural? a kite"])
        ['two kites']
    """
    # ch07_instruction_finetune.ipynb, "7.6 An exam without a judge"
    rows = [prompt_ids(prompt, tokenizer, model.config.context_length) for prompt in prompts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    stop, replies = tokenizer.special_tokens[TURN_END], [""] * len(rows)
    for group in (order[i : i + 64] for i in range(0, len(order), 64)):
        given = [rows[i] for i in group]
        settings = {"temperature": temperature, "eos_id": stop, **sampling}
        for i, ids in zip(group, generate(model, given, max_new_tokens, **settings), strict=True):
            replies[i] = answer_text(ids[len(rows[i]) :], tokenizer)
    return replies


def would_answer(
    model: GPTModel, tokenizer: BPETokenizer, examples: Sequence[Example], stop: bool = True
) -> list[bool]:
    """For each example, whether the model's likeliest tokens are its answer; in one pass.

    An example that does not fit into the context is not answered. `stop=False` does not ask for
    the end of the turn.
    """
    # ch07_instruction_finetune.ipynb, "Two ways to grade"
    rows = [instruction_row(example, tokenizer) for example in examples]
    fits = [i for i, (ids, _) in enumerate(rows) if len(ids) <= model.config.context_length + 1]
    order = sorted(fits, key=lambda i: len(rows[i][0]))
    device, would = next(model.parameters()).device, [False] * len(rows)
    for group in (order[i : i + 64] for i in range(0, len(order), 64)):
        inputs, targets = instruction_batch([rows[i] for i in group])
        if not stop:
            targets[targets == tokenizer.special_tokens[TURN_END]] = IGNORED
        with evaluating(model):
            likeliest = model(inputs.to(device)).argmax(-1).cpu()  # (rows, tokens)
        hits = ((likeliest == targets) | (targets == IGNORED)).all(-1)
        for i, hit in zip(group, hits.tolist(), strict=True):
            would[i] = hit
    return would


def score(
    model: GPTModel,
    tokenizer: BPETokenizer,
    examples: Sequence[Example],
    split: str = "",
    read: bool = True,
    stop: bool = True,
) -> pd.DataFrame:
    """Ask all examples; one line for each, with family, split, reply, and whether it is right.

    Args:
        split: a name for the table.
        read: False saves time: replies other than the expected answer are not read, and not right.
        stop: as for `would_answer`.
    """
    # ch07_instruction_finetune.ipynb, "Two ways to grade"
    would = would_answer(model, tokenizer, examples, stop)
    said = [e.answer if right else "" for e, right in zip(examples, would, strict=True)]
    room = model.config.context_length
    fits = lambda e: len(chat_ids(tokenizer, as_messages(e), reply=True)) < room
    unsure = [i for i, e in enumerate(examples) if read and not would[i] and fits(e)]
    for free in (False, True):  # continued stories are longer than all other answers
        group = [i for i in unsure if bool(examples[i].wanted) == free]
        longest = max((len(tokenizer.encode(examples[i].answer)) for i in group), default=0)
        replies = reply(model, tokenizer, [as_messages(examples[i]) for i in group], longest + 16)
        for i, text in zip(group, replies, strict=True):
            said[i], would[i] = text, examples[i].is_right(text)
    columns = {"family": [e.family for e in examples], "split": split, "right": would}
    return pd.DataFrame(columns | {"reply": said})


# ch07_instruction_finetune.ipynb, "7.7 Learning to answer"
ASSISTANT_LOOKS = (0, 50, 100, 200, 300, *range(400, 40_000, 200))  # steps


def watch_answers(tokenizer: BPETokenizer, count: int = 8, seed: int = 0) -> Watch:
    """What to note down while an assistant learns: how many questions it answers, by family."""
    # ch07_instruction_finetune.ipynb, "7.7 Learning to answer"
    asked = {
        family: list(islice(instructions(1000 + seed, "validation", [family]), count))
        for family in FAMILIES
        if family != "continue_story"  # has many right answers
    }
    examples = list(chain.from_iterable(asked.values()))

    def watch(model: GPTModel) -> dict:
        would = iter(would_answer(model, tokenizer, examples))
        right = {family: sum(islice(would, len(some))) for family, some in asked.items()}
        return {"right": sum(right.values()), "asked": len(examples), "by_family": right}

    return watch


def assistant_tokenizer(recipe: AssistantRecipe) -> tuple[BPETokenizer, BPETokenizer]:
    """The tokenizer of the model to start from, and the assistant's, which extends it.

    GPT-2's tokens are words already: it gets the marks alone.
    """
    # ch07_instruction_finetune.ipynb, "7.7 Learning to answer"
    if recipe.start != "story":
        old = gpt2_tokenizer(recipe.start)
        return old, extend_tokenizer(old)
    old = story_tokenizer(recipe.story.vocab_size)
    return old, extend_tokenizer(old, instruction_words(old, recipe.vocabulary))


def new_assistant(recipe: AssistantRecipe) -> GPTModel:
    """The assistant before its first lesson. Makes the story model if there is none yet."""
    # ch07_instruction_finetune.ipynb, "7.7 Learning to answer"
    old, new = assistant_tokenizer(recipe)
    return grow_vocabulary(start_model(recipe)[0], old, new, recipe.seed)


def assistant_checkpoint(recipe: AssistantRecipe) -> Path:
    """Where the assistant of a recipe is kept. Other code, examples or start: another file."""
    # ch07_instruction_finetune.ipynb, "7.7 Learning to answer"
    if recipe.start == "story":
        start = story_checkpoint(recipe.story).name
    else:
        with open(gpt2_files(recipe.start)[1], "rb") as file:
            start = hashlib.file_digest(file, "sha256").hexdigest()
    examples = [(e.instruction, e.input, e.answer) for e in islice(instructions(99), 1000)]
    code = code_of(pretrain, new_assistant, watch_answers, InstructionBatches)
    return artifact_path("checkpoints/assistant.safetensors", recipe, start, examples, code)


def assistant_model(recipe: AssistantRecipe | None = None) -> tuple[GPTModel, BPETokenizer]:
    """The assistant and its tokenizer; fine-tuned at the first call, which takes some minutes.

    Raises:
        RuntimeError: it was stopped on the way; the next call goes on from there.
    """
    # ch07_instruction_finetune.ipynb, "7.7 Learning to answer"
    recipe = recipe or assistant_recipe()
    path, (_, tokenizer) = assistant_checkpoint(recipe), assistant_tokenizer(recipe)
    if path.exists():
        saved, notes = load_checkpoint(path)
        if notes["history"]["finished"]:
            return saved.to(best_device()), tokenizer
    model = new_assistant(recipe)
    batches = InstructionBatches(tokenizer, recipe, model.config.context_length)
    minutes = expected_seconds(model, batches, recipe.training) / 60
    print(f"Training the assistant, once: about {minutes:.1f} minutes on this machine.")
    watched = {"watch": watch_answers(tokenizer), "watch_every": ASSISTANT_LOOKS}
    history = pretrain(model, batches, recipe.training, checkpoint=path, **watched)
    if not history.finished:
        raise RuntimeError("the assistant's training was stopped; call again to go on from there")
    return model, tokenizer


def right_shares(scores: pd.DataFrame, by: Sequence[str] = ("split", "family")) -> pd.DataFrame:
    """The share of right answers in each group, with Wilson's interval."""
    # ch07_instruction_finetune.ipynb, "7.8 The exam"
    table = scores.groupby(list(by), sort=False)["right"].agg(["sum", "count"])
    table.columns = ["right", "asked"]
    pairs = list(zip(table["right"].astype(int), table["asked"].astype(int), strict=True))
    intervals = [wilson(right, asked) for right, asked in pairs]
    table["share"] = table["right"] / table["asked"]
    table["low"], table["high"] = zip(*intervals, strict=True) if intervals else ((), ())
    return table


def misspelled(said: str, meant: str) -> bool:
    """Whether a word looks like another one spelled wrong."""
    # ch07_instruction_finetune.ipynb, "A gallery of mistakes"
    return said != meant and difflib.SequenceMatcher(None, said, meant).ratio() > 0.6


def likely_cause(example: Example, reply: str) -> str:
    """What probably went wrong in a wrong reply, in a few words, from the reply alone."""
    # ch07_instruction_finetune.ipynb, "A gallery of mistakes"
    said, meant = re.findall(r"\w+", reply), re.findall(r"\w+", example.answer)
    prompt = set(re.findall(r"\w+", as_messages(example)[0]["content"]))
    if example.wanted:
        missing = [w for w in example.wanted if not re.search(rf"\b{re.escape(w)}", reply)]
        return "left a given word out" if missing else "did not come to an end"
    if not said:
        return "said nothing"
    if said == meant or sorted(said) == sorted(meant):
        return "right words, another order"
    if said == meant[: len(said)] or meant == said[: len(meant)]:
        return "stopped early" if len(said) < len(meant) else "did not stop"
    if len(said) != len(meant):
        alike = difflib.SequenceMatcher(None, said, meant).ratio() > 0.5
        return "a word too many or too few" if alike else "another kind of answer"
    wrong = [(s, m) for s, m in zip(said, meant, strict=True) if s != m]
    if all(s not in prompt and misspelled(s, m) for s, m in wrong):
        return "a word spelled wrong"
    if len(wrong) == len(said) > 1:
        return "another kind of answer"
    return "a wrong word of the prompt" if wrong[0][0] in prompt else "a wrong word of its own"


class FixedBatches(Batches):
    """Batches that are there already, as a stream, in their order."""

    # ch07_instruction_finetune.ipynb, "7.9 Is the mask worth it?"

    def __init__(self, batches: Sequence[Batch]) -> None:
        super().__init__(sum(map(count_targets, batches)), count=len(batches))
        self.batches = batches

    def chunk(self, number: int, progress: float) -> Iterator[Batch]:
        """All of them; a second time if that is asked for."""
        return iter(self.batches)


def trim_chat(messages: Sequence[Message], tokenizer: BPETokenizer, room: int) -> list[Message]:
    """The latest turns that fit into `room` tokens, and the system message.

    A turn is what the user says with all that follows it, up to where the user speaks again.

    Raises:
        ValueError: as `chat_ids`, or what must stay is too long alone.
    """
    # ch07_instruction_finetune.ipynb, "When it gets too long"
    system = [m for m in messages if m["role"] == "system"]
    turns: list[list[Message]] = []
    for message in (m for m in messages if m["role"] != "system"):
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    while True:
        kept = [*system, *chain.from_iterable(turns)]
        length = len(chat_ids(tokenizer, kept, reply=True))
        if length <= room:
            return kept
        if len(turns) < 2:
            raise ValueError(
                f"this is too long: {length} tokens with what must stay, and there is room for "
                f"{room}. Say it in fewer words, or in several messages."
            )
        del turns[0]


def text_stream(ids: Iterable[int], tokenizer: BPETokenizer) -> Iterator[str]:
    """The text of tokens as they come, in whole characters, up to the first mark.

    Together the pieces are what `decode` gives.
    """
    # ch07_instruction_finetune.ipynb, "Text as it comes"
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    marks = set(tokenizer.special_tokens.values())
    for i in takewhile(lambda i: i not in marks, ids):
        if text := decoder.decode(tokenizer.vocab[i]):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


# ch07_instruction_finetune.ipynb, "The chat"
ANSWER_ROOM = 32  # tokens that are kept free for an answer, however long the conversation is


@dataclass(eq=False)
class Chat:
    """A conversation with an assistant: it streams, remembers, can be stopped and cleared.

    Raises ValueError where no room is left for an answer.
    """

    # ch07_instruction_finetune.ipynb, "The chat"

    model: GPTModel
    tokenizer: BPETokenizer
    system: str = ""  # how to behave; stays when old turns are dropped
    temperature: float = 0.0  # 0: always the likeliest token
    top_p: float = 1.0
    max_new_tokens: int = 120  # the longest answer, where the context has room for it
    seed: int = 0

    def __post_init__(self) -> None:
        self.generator, self.stopped = torch.Generator().manual_seed(self.seed), False
        self.room = self.model.config.context_length - ANSWER_ROOM
        self.clear()

    def clear(self) -> None:
        """Forget everything but the system message."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        self.messages = trim_chat(system, self.tokenizer, self.room)

    def stop(self) -> None:
        """End the answer that is being written; what was said so far stays."""
        self.stopped = True

    def stream(self, text: str) -> Iterator[str]:
        """The answer to what the user says, piece by piece. ValueError for nothing or too much."""
        asked = [*self.messages, {"role": "user", "content": text}]
        return chat_turn(self, trim_chat(asked, self.tokenizer, self.room))


def chat_turn(chat: Chat, messages: list[Message]) -> Iterator[str]:
    """Answer the last of `messages`, and keep them with the answer as the chat's history."""
    # ch07_instruction_finetune.ipynb, "The chat"
    prompt = chat_ids(chat.tokenizer, messages, reply=True)
    sampling = {"temperature": chat.temperature, "top_p": chat.top_p, "generator": chat.generator}
    limit = min(chat.max_new_tokens, chat.model.config.context_length - len(prompt))
    ids = generate_stream(chat.model, prompt, limit, **sampling)
    chat.stopped, said = False, ""
    try:
        for text in text_stream(ids, chat.tokenizer):
            text = text if said else text.lstrip()
            said += text
            if text:
                yield text
            if chat.stopped:
                break
    finally:
        if said.strip():  # else there was no answer, and the question is forgotten with it
            chat.messages = [*messages, {"role": "assistant", "content": said.strip()}]
