"""The tokenizer, the windows and the loader of chapter 2, against references and bad input."""

from __future__ import annotations

import json
import os
import random
import re
import tracemalloc
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex
import torch

from shared import previous_chapters
from shared.previous_chapters import (
    END_OF_TEXT,
    GPT2_PATTERN,
    NEW_LETTERS,
    NEW_NUMBERS,
    UNICODE_SPACES,
    BPETokenizer,
    TokenWindows,
    bytes_of,
    character_class,
    count_words,
    cut_words,
    flipped,
    gpt2_letters,
    is_number,
    make_loader,
    merge_word,
    split_words,
    story_tokenizer,
    stream_words,
    train_merges,
)
from shared.stories import story_text
from tests.benchmarks.bench_bpe import random_strings

RHYME = "the hen and the ten men then went to the tent"
EVERY_CHARACTER = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
REFERENCE = regex.compile(GPT2_PATTERN)


@pytest.fixture(scope="module")
def stories() -> str:
    return story_text(120_000, seed=3)


@pytest.fixture(scope="module")
def tokenizer(stories) -> BPETokenizer:
    return BPETokenizer.train(stories, 700, [END_OF_TEXT])


# A second opinion on what BPE is: written apart from the notebook, as slow as can be.


def naive_merges(word_counts: dict[str, int], num_merges: int) -> list[tuple[bytes, bytes]]:
    words = [([bytes([b]) for b in word.encode()], n) for word, n in word_counts.items()]
    merges = []
    for _ in range(num_merges):
        counts = Counter()
        for tokens, n in words:
            for i in range(len(tokens) - 1):
                counts[tokens[i], tokens[i + 1]] += n
        if not counts:
            break
        top = max(counts.values())
        pair = sorted(p for p, n in counts.items() if n == top)[-1]
        merges.append(pair)
        for tokens, _ in words:
            i = 0
            while i < len(tokens) - 1:
                if (tokens[i], tokens[i + 1]) == pair:
                    tokens[i : i + 2] = [pair[0] + pair[1]]
                i += 1
    return merges


def naive_word(word: bytes, ranks: dict[tuple[bytes, bytes], int]) -> list[bytes]:
    tokens = [bytes([b]) for b in word]
    while True:
        known = [(ranks[p], i) for i, p in enumerate(zip(tokens, tokens[1:])) if p in ranks]  # noqa: B905
        if not known:
            return tokens
        i = min(known)[1]
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]


# --- words


def kept_by_tiktoken(pattern: str) -> set[str]:
    """All characters that match a pattern in tiktoken, which drops what does not match."""
    import tiktoken

    bytes_only = {bytes([b]): b for b in range(256)}
    encoding = tiktoken.Encoding(
        "x", pat_str=pattern, mergeable_ranks=bytes_only, special_tokens={}
    )
    ids = encoding.encode_ordinary(EVERY_CHARACTER)
    return set(bytes(ids).decode())


OUR_CLASSES = {
    r"\p{L}": character_class(str.isalpha, NEW_LETTERS),
    r"\p{N}": character_class(is_number, NEW_NUMBERS),
    r"\s": UNICODE_SPACES,
}


@pytest.mark.parametrize("theirs", OUR_CLASSES)
def test_every_character_of_unicode_is_classed_as_in_tiktoken(theirs):
    ours = set("".join(re.findall(f"[{OUR_CLASSES[theirs]}]+", EVERY_CHARACTER)))
    assert ours ^ kept_by_tiktoken(theirs) == set()


@pytest.mark.parametrize("theirs", OUR_CLASSES)
def test_every_character_is_classed_as_in_regex_up_to_its_newer_unicode(theirs):
    ours = set("".join(re.findall(f"[{OUR_CLASSES[theirs]}]+", EVERY_CHARACTER)))
    different = ours ^ set("".join(regex.findall(f"{theirs}+", EVERY_CHARACTER)))
    assert different <= {c for c in EVERY_CHARACTER if unicodedata.category(c) == "Cn"}
    assert ours - different == ours, "what we call a letter is one in newer Unicode, too"


def unknown_to_some(text: str) -> bool:
    return any(unicodedata.category(c) == "Cn" for c in text)


def test_words_are_cut_as_by_the_original_pattern():
    texts = [t for t in random_strings(6000, seed=1) if not unknown_to_some(t)]
    assert len(texts) > 3000
    for text in texts:
        assert split_words(text) == REFERENCE.findall(text), repr(text)


def test_each_ascii_pair_and_triple_is_cut_as_by_the_original_pattern():
    # The shortcut for ASCII must not show: every ASCII character beside every kind of other.
    ascii_ = [chr(c) for c in range(128)]
    others = [
        "a",
        "Z",
        "7",
        "!",
        "'",
        " ",
        "\n",
        "\t",
        "\x00",
        "\x1c",
        "é",
        "漢",
        "½",
        "\xa0",
        "🐔",
    ]
    for a in ascii_:
        for b in others:
            for text in (
                a + b,
                b + a,
                a + a + b,
                b + a + b,
                " " + a + b,
                "'" + a + b,
                a + "  " + b,
            ):
                assert split_words(text) == REFERENCE.findall(text), repr(text)


def test_words_by_example():
    assert split_words("It's 42 hens!") == ["It", "'s", " 42", " hens", "!"]
    assert split_words("a   b\n\n c") == ["a", "  ", " b", "\n\n", " c"]
    assert split_words("") == []
    assert split_words("\x1c\x85") == ["\x1c", "\x85"]  # a sign and a space, unlike Python's \s


# --- training


def test_merges_of_the_rhyme_by_hand():
    # "en" stands in hen, ten, men, then, went, tent: 6 times; " t" 5 times once words are cut.
    merges = train_merges(Counter(split_words(RHYME)), 4)
    assert merges[0] == (b"e", b"n")
    assert merges[:2] == naive_merges(Counter(split_words(RHYME)), 2)


def test_ties_go_to_the_greatest_pair_of_byte_strings():
    assert train_merges({"ab": 1, "cd": 1}, 1) == [(b"c", b"d")]
    assert train_merges({"az": 1, "b!": 1}, 1) == [(b"b", b"!")]
    # (a, b) before (aa, …): b"ab" > b"aa", and a longer text beats its own beginning
    assert train_merges({"xy": 2, "é": 2}, 1) == [("é".encode()[:1], "é".encode()[1:])]
    assert train_merges({"aab": 3, "aac": 3}, 2)[1] == (b"aa", b"c")


def test_flipped_sorts_backwards():
    rng = random.Random(0)
    tokens = [bytes(rng.choices((0, 1, 97, 98, 255), k=rng.randint(1, 4))) for _ in range(300)]
    pairs = list(zip(tokens, tokens[1:]))  # noqa: B905
    assert sorted(tokens, key=flipped) == sorted(tokens, reverse=True)
    key = lambda pair: flipped(pair[0]) + flipped(pair[1])
    assert sorted(pairs, key=key) == sorted(pairs, reverse=True)


@pytest.mark.parametrize("alphabet", ["ab", "a", "abc", "aé漢"])
def test_merges_are_those_of_the_naive_trainer_on_nasty_words(alphabet):
    rng = random.Random(alphabet)
    for _ in range(60):
        words = Counter()
        for _ in range(rng.randint(1, 25)):
            words["".join(rng.choices(alphabet, k=rng.randint(1, 14)))] += rng.randint(1, 3)
        assert train_merges(words, 70) == naive_merges(words, 70), words


def test_merges_are_those_of_the_naive_trainer_on_stories(stories):
    words = Counter(REFERENCE.findall(stories[:30_000]))
    assert train_merges(words, 250) == naive_merges(words, 250)


def test_a_trained_tokenizer_has_the_promised_parts(tokenizer, stories):
    assert len(tokenizer.merges) == 700 - 256 - 1
    assert tokenizer.vocab_size == len(tokenizer.vocab) == 700
    assert [tokenizer.vocab[i] for i in range(256)] == [bytes([i]) for i in range(256)]
    assert [tokenizer.vocab[256 + i] for i in range(443)] == [a + b for a, b in tokenizer.merges]
    assert tokenizer.special_tokens == {END_OF_TEXT: 699}
    assert tokenizer.vocab[699] == END_OF_TEXT.encode()
    words = Counter()
    for piece in stories.split(END_OF_TEXT):
        words.update(REFERENCE.findall(piece))
    assert tokenizer.merges == naive_merges(words, 60) + tokenizer.merges[60:]


def test_special_tokens_teach_nothing():
    text = "aaa<|x|>" * 50
    learnt = {a + b for a, b in BPETokenizer.train(text, 259, ["<|x|>"]).merges}
    assert learnt == {b"aa", b"aaa"}


def test_training_on_pieces_is_training_on_the_whole(stories):
    rng = random.Random(5)
    cuts = sorted(rng.sample(range(len(stories)), 400))
    pieces = [stories[a:b] for a, b in zip([0, *cuts], [*cuts, len(stories)], strict=True)]
    whole = BPETokenizer.train(stories, 400, [END_OF_TEXT])
    assert BPETokenizer.train(iter(pieces), 400, [END_OF_TEXT]).merges == whole.merges
    assert BPETokenizer.train(stories.splitlines(True), 400, [END_OF_TEXT]).vocab == whole.vocab


@pytest.mark.parametrize("text", ["", [], ["", ""], END_OF_TEXT])
def test_an_empty_corpus_is_refused(text):
    with pytest.raises(ValueError, match=r"0 words.*Give more text"):
        BPETokenizer.train(text, 300, [END_OF_TEXT])


def test_too_little_text_is_refused_and_says_how_far_it_goes():
    with pytest.raises(ValueError, match=r"3 words, 2 of them different.*259, not for 300"):
        BPETokenizer.train("hen hen hen", 300)
    assert BPETokenizer.train("hen hen hen", 259).encode(" hen hens") == [258, 258, 115]


@pytest.mark.parametrize(("size", "special"), [(255, []), (0, []), (-3, []), (256, ["<|x|>"])])
def test_a_vocabulary_without_room_for_bytes_is_refused(size, special):
    with pytest.raises(ValueError, match=rf"vocab_size={size} .* need {256 + len(special)}"):
        BPETokenizer.train("some text", size, special)


@pytest.mark.parametrize("special", [["<|x|>", "<|x|>"], ["<|x|>", ""], "<|x|>"])
def test_unusable_special_tokens_are_refused(special):
    with pytest.raises(ValueError, match="special_tokens="):
        BPETokenizer.train("some text", 300, special)


def test_a_vocabulary_of_bytes_alone_works():
    plain = BPETokenizer.train("anything", 256)
    assert plain.encode("é!") == [195, 169, 33] and plain.merges == []
    assert plain.to_tiktoken().encode("é!") == [195, 169, 33]


# --- encoding and decoding


def test_ids_are_tiktokens_and_decoding_gives_the_text_back(tokenizer):
    rust = tokenizer.to_tiktoken()
    for text in random_strings(5000, seed=2):
        ids = tokenizer.encode(text)
        assert ids == rust.encode_ordinary(text), repr(text)
        assert tokenizer.decode(ids) == text == rust.decode(ids), repr(text)


def test_ids_are_tiktokens_with_special_tokens(tokenizer, stories):
    rust = tokenizer.to_tiktoken()
    text = stories[:20_000] + END_OF_TEXT + END_OF_TEXT + "  " + END_OF_TEXT + " end"
    assert tokenizer.encode(text, "all") == rust.encode(text, allowed_special="all")
    assert tokenizer.encode(text) == rust.encode_ordinary(text)
    assert tokenizer.encode(text, {END_OF_TEXT}).count(699) == text.count(END_OF_TEXT)
    assert tokenizer.decode(tokenizer.encode(text, "all")) == text


def test_every_single_character_comes_back(tokenizer):
    for start in range(0, len(EVERY_CHARACTER), 5000):
        block = EVERY_CHARACTER[start : start + 5000]
        assert tokenizer.decode(tokenizer.encode(block)) == block


@pytest.mark.parametrize("length", [1, 2, 3, 50, 3000])
def test_a_word_is_merged_as_by_the_naive_way(tokenizer, length):
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    rng = random.Random(length)
    for _ in range(20 if length < 100 else 1):
        word = bytes(rng.choices(b"etaoinshrdlu \xc3\xa9", k=length))
        assert merge_word(word, ranks) == naive_word(word, ranks)


def test_a_very_long_word_takes_no_forever(tokenizer):
    word = "".join(random.Random(0).choices("theandwas", k=300_000))
    ids = tokenizer.encode(word)  # quadratic time would be an hour
    assert ids == tokenizer.to_tiktoken().encode(word)


def test_overlapping_runs_are_joined_from_the_left():
    trained = BPETokenizer.train("aaaa aaaa", 257)
    assert trained.encode("aaaaa") == [256, 256, 97]


def test_decoding_replaces_half_a_character(tokenizer):
    hen = list("🐔".encode())
    assert tokenizer.decode(hen) == "🐔" and tokenizer.decode(hen[:3]) == "\ufffd"
    assert bytes_of(hen[:3], tokenizer.vocab) == "🐔".encode()[:3]


def test_decoding_takes_lists_arrays_tensors_and_generators(tokenizer):
    ids = tokenizer.encode("A hen.")
    kinds = [ids, tuple(ids), iter(ids), np.array(ids, dtype=np.uint16), torch.tensor(ids)]
    assert {tokenizer.decode(kind) for kind in kinds} == {"A hen."}
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("wrong", [700, -1, 10**9, None])
def test_an_id_that_no_token_has_is_refused(tokenizer, wrong):
    with pytest.raises(ValueError, match=rf"id {wrong}.*from 0 to 699.*larger vocab_size"):
        tokenizer.decode([72, wrong])


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, dtype=torch.long), [[1, 2]], 5])
def test_a_batch_of_ids_is_refused_with_advice(tokenizer, wrong):
    with pytest.raises(ValueError, match="one row of ids"):
        tokenizer.decode(wrong)


def test_a_lone_surrogate_is_an_error_of_unicode(tokenizer):
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode("\ud800")


# --- special tokens


def test_an_unknown_special_token_is_refused_before_anything_is_encoded(tokenizer):
    with pytest.raises(ValueError, match=r"\['<\|nope\|>'\].*it has \['<\|endoftext\|>'\]"):
        tokenizer.encode_iterable(["text"], {"<|nope|>"})
    with pytest.raises(ValueError, match='expected "all" or a set'):
        tokenizer.encode("text", END_OF_TEXT)


def test_the_longer_of_two_special_tokens_wins():
    both = BPETokenizer.train("abcabc", 260, ["<a>", "<a>b"])
    assert both.encode("<a>b<a>c", "all") == [259, 258, 99]
    assert list(both.encode_iterable(["<", "a>", "b<a", ">c"], "all")) == [259, 258, 99]
    assert both.encode("<a>b", {"<a>"}) == [258, 98]


def test_a_special_token_may_spell_an_ordinary_one():
    plain = BPETokenizer.train("the the the", 259)
    vocab = plain.vocab | {259: b"the"}
    odd = BPETokenizer(vocab, plain.merges, {"the": 259})
    assert odd.encode("the the") == plain.encode("the the")
    assert odd.encode("the the", "all") == [259, 32, 259]
    assert odd.decode(odd.encode("the the", "all")) == "the the"


# --- text that comes in pieces


def flat(batches) -> list[str]:
    return [w for batch in batches for w in ([batch] if isinstance(batch, str) else batch)]


DANGER = [
    "'",
    "'ll",
    "'re",
    "'v",
    "l",
    "s",
    " ",
    "  ",
    "\n",
    "\t \n",
    "hen",
    "é",
    "7",
    "!",
    "漢",
    "🐔",
]
SPECIALS = ("<|end|>", END_OF_TEXT, "<|end|>!", "ll")


def test_cuts_never_change_the_words():
    rng = random.Random(11)
    for _ in range(6000):
        special = rng.sample(SPECIALS, rng.randint(0, 4))
        text = "".join(
            rng.choices([*DANGER, "<|end", "|>", "oftext|>", *SPECIALS], k=rng.randint(0, 10))
        )
        found, rest, left = [], "", text
        while left:
            size = rng.randint(1, 5)
            certain, rest = cut_words(rest + left[:size], special, final=False)
            found, left = found + certain, left[size:]
        found += cut_words(rest, special, final=True)[0]
        whole = flat(cut_words(text, special, final=True)[0])
        assert flat(found) == whole, (text, special)
        assert "".join(whole) == text


def test_streaming_gives_the_ids_of_the_whole_text(tokenizer):
    rng = random.Random(12)
    text = "".join(rng.choices([*DANGER, "The end.", END_OF_TEXT, " once", " upon"], k=120_000))
    whole = tokenizer.encode(text, "all")
    assert whole == tokenizer.to_tiktoken().encode(text, allowed_special="all")
    for longest in (3, 200, 50_000, 300_000):
        pieces, at = [], 0
        while at < len(text):
            size = rng.randint(0, longest)
            pieces.append(text[at : at + size])
            at += size
        assert list(tokenizer.encode_iterable(pieces, "all")) == whole
    assert list(tokenizer.encode_iterable([])) == list(tokenizer.encode_iterable([""])) == []


def peak_memory(tokenizer: BPETokenizer, path: Path, num_lines: int) -> int:
    """Bytes in use at the worst moment while a file of that many lines is encoded."""
    line = "In the year {0} the hen of {0} had eggs; she'll have more 漢字 {1}.\n"
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line.format(i, i * i) for i in range(num_lines))
    with open(path, encoding="utf-8") as file:
        tracemalloc.start()
        count = sum(1 for _ in tokenizer.encode_iterable(file))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count > 40 * num_lines
    return peak


def test_streaming_a_file_needs_bounded_memory(tokenizer, tmp_path):
    fresh = BPETokenizer(tokenizer.vocab, tokenizer.merges)
    assert fresh.word_ids.limit == 50_000
    fresh.word_ids.limit = 1000
    short = peak_memory(fresh, tmp_path / "short.txt", 4_000)
    long = peak_memory(fresh, tmp_path / "long.txt", 24_000)
    assert os.path.getsize(tmp_path / "long.txt") > 1_500_000
    assert long < 1.15 * short and long < 4_000_000, f"{short:,} and {long:,} bytes"


def test_what_is_remembered_of_words_is_bounded(tokenizer):
    tokenizer.word_ids.limit = 50
    try:
        list(tokenizer.encode_iterable(f" word{i}x{i}" for i in range(500)))
        assert len(tokenizer.word_ids) <= 50
        tokenizer.encode("x" * 5000)
        assert "x" * 5000 not in tokenizer.word_ids
    finally:
        tokenizer.word_ids.limit = 50_000


def test_a_word_without_end_is_not_looked_at_again_and_again():
    pieces = ["a" * 1000] * 1000
    assert flat(stream_words(pieces)) == ["a" * 1_000_000]


def test_words_are_counted():
    assert count_words(["he", "n, hen", END_OF_TEXT], [END_OF_TEXT]) == {
        "hen": 1,
        ",": 1,
        " hen": 1,
    }


# --- files


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    path = tmp_path / "deeper" / "tokenizer.json"
    tokenizer.save(path)
    again = BPETokenizer.load(path)
    assert again.vocab == tokenizer.vocab and again.merges == tokenizer.merges
    assert again.special_tokens == tokenizer.special_tokens
    assert again.encode("Zoë met <|endoftext|>", "all") == tokenizer.encode(
        "Zoë met <|endoftext|>", "all"
    )
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]


def damaged(content: dict) -> dict[str, str]:
    """Texts that are no tokenizer, by what is wrong with them."""
    drop = lambda key, name: {**content, key: {k: v for k, v in content[key].items() if k != name}}
    wrong = {
        "no byte 65": drop("vocab", "65"),
        "a merge without its token": drop("vocab", "300"),
        "another format": {**content, "format": "something, version 9"},
        "no merges": {k: v for k, v in content.items() if k != "merges"},
        "merges of three": {**content, "merges": [["a", "b", "c"]]},
        "merges of numbers": {**content, "merges": [[1, 2]]},
        "a token twice": {**content, "vocab": {**content["vocab"], "5000": "a"}},
        "a negative id": {**content, "vocab": {**content["vocab"], "-1": "qqq"}},
        "a special token elsewhere": {**content, "special_tokens": {END_OF_TEXT: 12}},
        "no Latin letter": {**content, "vocab": {**content["vocab"], "5000": "漢"}},
        "a list": [1, 2],
    }
    texts = {name: json.dumps(value) for name, value in wrong.items()}
    whole = json.dumps(content)
    return texts | {f"cut at {n}": whole[:n] for n in (0, 1, 40, len(whole) // 2, len(whole) - 1)}


def test_damaged_and_foreign_files_are_refused(tokenizer, tmp_path):
    good = tmp_path / "good.json"
    tokenizer.save(good)
    for name, text in damaged(json.loads(good.read_text("utf-8"))).items():
        path = tmp_path / "bad.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"bad\.json is not a tokenizer.*train and save again"):
            BPETokenizer.load(path)
            pytest.fail(f"loaded in spite of: {name}")
    path.write_bytes(b"\x80\x04\x95\x00\xff not text")
    with pytest.raises(ValueError, match="bad.json is not a tokenizer"):
        BPETokenizer.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        BPETokenizer.load(tmp_path / "nowhere.json")


def test_a_failed_save_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    old = path.read_bytes()

    def no_space(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", no_space)
    with pytest.raises(OSError, match="(?i)no space left"):
        BPETokenizer.train("hen hen hen", 258).save(path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


# --- GPT-2's files


def gpt2_files(trained: BPETokenizer, folder: Path) -> tuple[Path, Path]:
    """A tokenizer of ours as GPT-2's two files, ids in GPT-2's order."""
    letter_of = {byte: letter for letter, byte in gpt2_letters().items()}
    spelt = lambda token: "".join(letter_of[byte] for byte in token)
    letters = list(gpt2_letters()) + [spelt(a + b) for a, b in trained.merges]
    encoder = {text: i for i, text in enumerate([*letters, END_OF_TEXT])}
    (folder / "encoder.json").write_text(json.dumps(encoder), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{spelt(a)} {spelt(b)}" for a, b in trained.merges)]
    (folder / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "vocab.bpe", folder / "encoder.json"


def test_the_letters_for_bytes_are_gpt2s():
    letters = gpt2_letters()
    assert len(letters) == 256 and sorted(letters.values()) == list(range(256))
    # Facts about the published file: '!' is its first token, 'Ġ' the space, 'Ċ' the new line.
    assert (letters["!"], letters["Ġ"], letters["Ċ"], letters["Ń"]) == (33, 32, 10, 173)
    assert list(letters)[:1] == ["!"] and list(letters)[188] == "Ā"


def test_gpt2_files_give_the_ids_of_transformers(tokenizer, tmp_path):
    from transformers import GPT2Tokenizer

    vocab_bpe, encoder_json = gpt2_files(tokenizer, tmp_path)
    ours = BPETokenizer.from_gpt2_files(vocab_bpe, encoder_json)
    theirs = GPT2Tokenizer(vocab=str(encoder_json), merges=str(vocab_bpe))
    assert len(theirs) == 700, "the reference has read the files"
    assert ours.vocab_size == 700 and ours.special_tokens == {END_OF_TEXT: 699}
    assert ours.vocab[0] == b"!" and ours.merges == tokenizer.merges
    rust = ours.to_tiktoken()
    for text in random_strings(1500, seed=4):
        ids = ours.encode(text, "all")
        assert ids == rust.encode(text, allowed_special="all")
        assert ours.decode(ids) == text
        if not unknown_to_some(text):
            assert ids == theirs.encode(text), repr(text)


def test_gpt2_files_survive_saving(tokenizer, tmp_path):
    ours = BPETokenizer.from_gpt2_files(*gpt2_files(tokenizer, tmp_path))
    ours.save(tmp_path / "ours.json")
    again = BPETokenizer.load(tmp_path / "ours.json")
    assert again.encode("The hen!" + END_OF_TEXT, "all") == ours.encode(
        "The hen!" + END_OF_TEXT, "all"
    )


def test_damaged_gpt2_files_are_refused(tokenizer, tmp_path):
    vocab_bpe, encoder_json = gpt2_files(tokenizer, tmp_path)
    good = {path: path.read_text("utf-8") for path in (vocab_bpe, encoder_json)}
    refused = pytest.raises(ValueError, match=r"not the vocab\.bpe and encoder\.json.*Fetch them")
    with refused:
        BPETokenizer.from_gpt2_files(encoder_json, vocab_bpe)  # the wrong way round
    for path, text in good.items():
        for bad in ("", "{}", text[: len(text) // 2], text.replace("h", "\x01")):
            path.write_text(bad, encoding="utf-8")
            if path == vocab_bpe and bad in ("", text[: len(text) // 2]):
                continue  # fewer merges are a tokenizer too; the others become special tokens
            with refused:
                BPETokenizer.from_gpt2_files(vocab_bpe, encoder_json)
        path.write_text(text, encoding="utf-8")
    with pytest.raises(FileNotFoundError):
        BPETokenizer.from_gpt2_files(tmp_path / "no.bpe", encoder_json)


def test_ids_in_another_order_are_kept_from_tiktoken():
    trained = BPETokenizer.train("hen hen hen then", 258)
    vocab = {**trained.vocab, 256: trained.vocab[257], 257: trained.vocab[256]}
    turned = BPETokenizer(vocab, trained.merges)
    assert turned.decode(turned.encode("hen then")) == "hen then"
    with pytest.raises(ValueError, match=r"encode with encode\(\) instead"):
        turned.to_tiktoken()


# --- the tokenizer of the stories


def test_the_story_tokenizer_is_trained_once_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    first = story_tokenizer(400, num_bytes=40_000)
    assert first.vocab_size == 400 and first.special_tokens == {END_OF_TEXT: 399}
    text = story_text(40_000)
    assert first.merges == BPETokenizer.train(text, 400, [END_OF_TEXT]).merges
    assert first.decode(first.encode(text, "all")) == text
    other = story_tokenizer(401, num_bytes=40_000)
    seeded = story_tokenizer(400, num_bytes=40_000, seed=1)
    assert other.vocab_size == 401 and len({str(t.merges) for t in (first, other, seeded)}) == 3
    assert len(list(tmp_path.rglob("stories-*.json"))) == 3

    def unwanted(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(BPETokenizer, "train", unwanted)
    assert story_tokenizer(400, num_bytes=40_000).merges == first.merges
    # Another trainer, another file: the old one must not be taken for its work.
    monkeypatch.setattr(previous_chapters, "flipped", naive_merges)
    with pytest.raises(AssertionError, match="trained again"):
        story_tokenizer(400, num_bytes=40_000)


def test_a_world_that_tells_other_stories_gets_its_own_tokenizer(tmp_path, monkeypatch):
    """Found so: a kernel with older stories in memory left its tokenizer under the new name."""
    import shared.stories

    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    new = story_tokenizer(400, num_bytes=40_000)
    older = story_text(40_000).replace("kite", "dragon")
    monkeypatch.setattr(shared.stories, "story_text", lambda *_, **__: older)
    old = story_tokenizer(400, num_bytes=40_000)
    assert old.merges == BPETokenizer.train(older, 400, [END_OF_TEXT]).merges != new.merges


def test_the_mark_between_stories_is_theirs():
    import shared.stories

    assert shared.stories.END_OF_TEXT == END_OF_TEXT


# --- windows and batches


@pytest.mark.parametrize("length", [4, 5, 23, 24, 25])
@pytest.mark.parametrize("context_length", [1, 3])
@pytest.mark.parametrize("stride", [None, 1, 2, 3, 7])
def test_windows_hold_the_ids_and_the_ids_one_place_later(length, context_length, stride):
    ids = [100 + i for i in range(length)]
    windows = TokenWindows(ids, context_length, stride)
    step = stride or context_length
    starts = [s for s in range(0, length, step) if s + context_length + 1 <= length]
    assert len(windows) == len(starts)
    for i, start in enumerate(starts):
        inputs, targets = windows[i]
        assert inputs.tolist() == ids[start : start + context_length]
        assert targets.tolist() == ids[start + 1 : start + context_length + 1]
        assert inputs.dtype == targets.dtype == torch.int64
    assert len(list(windows)) == len(starts), "it ends by itself"
    assert torch.equal(windows[-1][0], windows[len(windows) - 1][0])
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_with_the_default_stride_each_token_is_asked_for_once():
    windows = TokenWindows(torch.arange(100), 7)
    assert [t for _, targets in windows for t in targets.tolist()] == list(range(1, 99))


@pytest.mark.parametrize(
    ("ids", "context_length", "stride"),
    [([], 4, None), ([1, 2, 3, 4], 4, None), ([1, 2, 3], 0, 1), ([1, 2, 3], 1, 0)],
)
def test_windows_that_cannot_be_are_refused(ids, context_length, stride):
    with pytest.raises(ValueError, match=rf"{len(ids)} ids, context_length={context_length}"):
        TokenWindows(ids, context_length, stride)


def test_batches_are_odd_shaped_and_in_an_order_of_their_own():
    ids = np.arange(500, dtype=np.uint16)
    before = torch.random.get_rng_state()
    first, second = (list(make_loader(ids, 7, 5, stride=3, seed=9)) for _ in range(2))
    other = next(iter(make_loader(ids, 7, 5, stride=3, seed=10)))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first[0][0].shape == first[0][1].shape == (5, 7)
    for (a, b), (c, d) in zip(first, second, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d) and torch.equal(a + 1, b)
    assert not torch.equal(first[0][0], other[0])
    starts = sorted(row[0].item() for inputs, _ in first for row in inputs)
    assert len(set(starts)) == len(starts) == 165 // 5 * 5


def test_the_order_does_not_depend_on_how_often_one_evaluates():
    ids = list(range(300))
    training = make_loader(ids, 5, 4, seed=1)
    undisturbed = [inputs for _ in range(3) for inputs, _ in training]
    training, evaluation = make_loader(ids, 5, 4, seed=1), make_loader(ids, 5, 4, shuffle=False)
    disturbed = []
    for _ in range(3):
        for inputs, _ in training:
            disturbed.append(inputs)
            torch.rand(3)
        list(evaluation)
    assert all(torch.equal(a, b) for a, b in zip(undisturbed, disturbed, strict=True))


def test_without_shuffling_windows_come_in_order_and_the_last_batch_may_be_short():
    batches = list(make_loader(list(range(30)), 4, 5, shuffle=False, drop_last=False))
    assert [len(inputs) for inputs, _ in batches] == [5, 2]
    assert torch.cat([inputs for inputs, _ in batches])[:, 0].tolist() == list(range(0, 28, 4))


def test_too_few_windows_for_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"batch_size=8, but 30 ids make only 7 windows of 4"):
        make_loader(list(range(30)), 4, 8)
