"""Everything that the chapters define for one another, collected from their notebooks.

Written by `make export` from the cells that begin with `#| export`; a change made here is lost.
Each definition names the notebook and the section that teach it: change it there.
"""

import heapq
import inspect
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, groupby
from operator import add
from pathlib import Path
from typing import Literal, Self

import tiktoken
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import shared.stories
from shared.artifacts import artifact_path, written_whole

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
    def train(cls, text_or_iterable: TextOrPieces, vocab_size: int, special_tokens=()) -> Self:
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
    world = sorted(Path(shared.stories.__file__).parent.rglob("*.py"))
    makers = [word_pattern, character_class, is_number, cut_words, count_words]
    makers += [train_bpe, train_merges, merge_everywhere, index_pairs, flipped, write_tokenizer]
    sources = [path.read_text("utf-8") for path in world] + [inspect.getsource(f) for f in makers]
    path = artifact_path("tokenizers/stories.json", vocab_size, num_bytes, seed, sources)
    if not path.exists():
        text = shared.stories.story_text(num_bytes, seed=seed)
        BPETokenizer.train(text, vocab_size, [END_OF_TEXT]).save(path)
    return BPETokenizer.load(path)


class TokenWindows(Dataset):
    """Windows over one long row of ids, each with its targets: the same row, one place later.

    Shape:
        ids: (tokens,), a list, an array or a tensor.
        windows[i]: inputs (context_length,) and targets (context_length,), int64.

    Raises:
        ValueError: too few ids for one window, or a length or stride below 1.
    """

    # ch02_tokenization.ipynb, "2.12 From one long list to training examples"

    def __init__(self, ids, context_length: int, stride: int | None = None) -> None:
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
    ids,
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
    the residual stream get 0.02 / sqrt(2 * num_layers), so that the sum of all notes keeps its size.

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
    """Whether this CPU has AVX-512 and PyTorch the library that makes use of it."""
    # ch04_gpt_model.ipynb, "4.7 The same numbers, sooner"
    avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return avx512 and torch.backends.mkldnn.is_available()


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear(x, weight, bias)`, computed as a convolution of width one where that is faster.

    Shape:
        x: (..., features); weight: (out, features); result: (..., out).
    """
    # ch04_gpt_model.ipynb, "4.7 The same numbers, sooner"
    large = x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() == 3 and len(x) >= 16
    if not large or torch.compiler.is_compiling() or not convolution_pays():
        return F.linear(x, weight, bias)
    image = x[:, :, None].permute(0, 3, 1, 2)  # (batch, features, tokens, 1)
    out = F.conv2d(image, weight[:, :, None, None], bias)  # (batch, out, tokens, 1)
    return out.permute(0, 2, 3, 1)[:, :, 0]  # (batch, tokens, out)


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
