"""Checks and quick questions of chapter 2: tokenization."""

from __future__ import annotations

import itertools
import math
import random
import re
import string
from collections import Counter

import torch

from shared.exercises.checking import Wrong, exercise, expect, expect_error, expect_same
from shared.exercises.questions import question, right, wrong
from shared.stories import story_text


def rng_of(dice: torch.Generator) -> random.Random:
    """Python's own random numbers, seeded by the check's."""
    return random.Random(int(torch.randint(2**31, (1,), generator=dice)))


def pieces_of(given, what: str, kind: type = str) -> list:
    """A list of texts (or of `kind`), or `Wrong`."""
    expect(
        isinstance(given, list | tuple),
        f"{what}: a {type(given).__name__}, expected a list of {kind.__name__}.",
    )
    odd = [type(x).__name__ for x in given if not isinstance(x, kind)]
    if odd:
        raise Wrong(f"{what}: holds a {odd[0]}, expected {kind.__name__} and nothing else.")
    return list(given)


# 2.1

CORPUS = {"aaa": 2, "banana": 2, "band": 3}
ROUNDS = 5


@exercise("2.1", "Be the trainer")
def predict_merges(dice, answer):
    """`answer`: the first five pairs that BPE joins in `CORPUS`, followed round by round."""
    expect(
        isinstance(answer, list | tuple) and len(answer) == ROUNDS,
        f"give a list of {ROUNDS} pairs, such as [('x', 'y'), ('xy', 'z'), …].",
    )
    words = {tuple(word): count for word, count in CORPUS.items()}
    for number, given in enumerate(answer, 1):
        expect(
            isinstance(given, list | tuple) and len(given) == 2,
            f"round {number}: {given!r} is no pair; write the two tokens, ('x', 'yz').",
        )
        pair = tuple(x.decode() if isinstance(x, bytes) else x for x in given)
        counts = Counter()
        for word, count in words.items():
            for two in zip(word, word[1:], strict=False):
                counts[two] += count
        most = max(counts.values())
        expect(
            counts[pair],
            f"round {number}: the tokens {pair[0]!r} and {pair[1]!r} are nowhere neighbours, "
            "after what was joined before.",
        )
        expect(
            counts[pair] == most,
            f"round {number}: {pair[0]!r} and {pair[1]!r} are neighbours {counts[pair]} times, "
            f"and there is a pair that is so {most} times.",
        )
        greater = [two for two in counts if counts[two] == most and two > pair]
        expect(
            not greater,
            f"round {number}: {most} times is the most, and yours is not the only such pair. "
            "Of equally frequent ones the greatest goes first, in the order of a dictionary.",
        )
        words = {_joined(word, pair): count for word, count in words.items()}
    left = sum(len(word) * count for word, count in words.items())
    letters = sum(len(word) * count for word, count in CORPUS.items())
    return f"{letters} letters in {sum(CORPUS.values())} words have become {left} tokens."


def _joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    done: list[str] = []
    fresh = False  # whether the last one was joined in this round and is not to be used again
    for token in word:
        if done and not fresh and (done[-1], token) == pair:
            done[-1] += token
            fresh = True
        else:
            done.append(token)
            fresh = False
    return tuple(done)


# 2.2


@exercise("2.2", "Numbers, cut from the right")
def cut_numbers(dice, answer):
    """`answer(text)`: letters with a space before, digits in threes from the right, rest alone."""
    rng = rng_of(dice)
    one_by_one = [("1234567", ["1", "234", "567"]), ("12345", ["12", "345"]), ("7", ["7"])]
    one_by_one += [("666", ["666"]), (" hens", [" hens"]), (" 42", [" ", "42"])]
    one_by_one += [("x86", ["x", "86"]), ("3.14159", ["3", ".", "14", "159"])]
    one_by_one += [("it cost 1000\n", ["it", " cost", " ", "1", "000", "\n"])]
    parts: list[str] = []
    for _ in range(12):
        parts += [rng.choice([" ", ""]) + "".join(rng.choices(string.ascii_letters, k=3)), "-"]
        head = "".join(rng.choices(string.digits, k=rng.randint(1, 3)))
        parts += [
            head,
            *("".join(rng.choices(string.digits, k=3)) for _ in range(rng.randrange(4))),
        ]
        parts += [rng.choice("?!,;\n\t")]
    for text, wanted in [*one_by_one, ("".join(parts), parts)]:
        given = pieces_of(answer(text), f"your pieces of {text!r}")
        joined = "".join(given)
        expect(
            joined == text,
            f"your pieces of {_cut_short(text)!r}, joined, are {_cut_short(joined)!r}: "
            "nothing may be lost or added.",
        )
        expect("" not in given, f"there is an empty piece in your cut of {_cut_short(text)!r}.")
        if given == wanted:
            continue
        if text == "1234567" and given == ["123", "456", "7"]:
            raise Wrong(
                "'1234567' becomes 123|456|7: counted from the left, so that units stand alone "
                "here and in a group of three elsewhere. Count from the right: 1|234|567."
            )
        if " 42" in text and any(re.fullmatch(" [0-9]+", piece) for piece in given):
            raise Wrong(f"{text!r}: the space before a number is a piece of its own here.")
        at = next(i for i, (a, b) in enumerate(zip(given, wanted, strict=False)) if a != b)
        shown = "|".join(given[max(0, at - 2) : at + 4])
        meant = "|".join(wanted[max(0, at - 2) : at + 4])
        raise Wrong(f"{_cut_short(text)!r}: you cut {shown!r}, expected {meant!r}.")
    return "Units stand with units, and thousands begin where they begin."


def _cut_short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[:most] + " …"


# 2.3


@exercise("2.3", "A bug hunt: the mark that was no mark")
def cut_at_marks(dice, answer):
    """`answer(text, marks)`: the text between the marks and the marks, in order, nothing empty."""
    tries = [
        ("The end.<|endoftext|>Once", ["<|endoftext|>"], ["The end.", "<|endoftext|>", "Once"]),
        ("is 3 < 5?", ["<|endoftext|>"], ["is 3 < 5?"]),
        ("<|end|><|end|>a", ["<|end|>", "<|user|>"], ["<|end|>", "<|end|>", "a"]),
        ("SAY [SEP] it.", ["[SEP]"], ["SAY ", "[SEP]", " it."]),
        ("a\n***\nb*c", ["***"], ["a\n", "***", "\nb*c"]),
        ("e.g. <s>", ["<s>", "</s>"], ["e.g. ", "<s>"]),
        ("", ["<s>"], []),
    ]
    for text, marks, wanted in tries:
        try:
            given = pieces_of(answer(text, list(marks)), f"your pieces of {text!r}")
        except re.error:
            raise Wrong(
                f"with the mark {marks[0]!r} your code does not run at all: "
                "any text may be a mark, also one made of signs."
            ) from None
        expect(
            "".join(given) == text,
            f"your pieces of {text!r}, joined, are {''.join(given)!r}: text or marks are lost.",
        )
        expect("" not in given, f"your cut of {text!r} holds an empty piece: {given}.")
        torn = [mark for mark in marks if mark in text and mark not in given]
        if torn:
            raise Wrong(
                f"with the mark {torn[0]!r}, the text {text!r} is cut into {given}: "
                "the mark itself has come to pieces."
            )
        expect(
            given == wanted,
            f"with the marks {marks}, the text {text!r} is cut into {given}, expected {wanted}.",
        )
    return "A mark is a mark, and a '<' is a '<'."


# 2.4


@exercise("2.4", "BERT's way: the longest piece that fits")
def wordpiece(dice, answer):
    """`answer(word, vocabulary)`: greedy longest match, `##` inside words, or `["[UNK]"]`."""
    small = {"h", "hen", "he", "##n", "##s", "##ns", "n", "s", "##house", "house", "##h"}
    tries = [
        ("hen", ["hen"], "the longest piece goes first"),
        ("hens", ["hen", "##s"], "inside a word only pieces with ## count"),
        ("henhouse", ["hen", "##house"], "inside a word only pieces with ## count"),
        ("hes", ["he", "##s"], "inside a word only pieces with ## count"),
        ("nhouse", ["n", "##house"], "inside a word only pieces with ## count"),
        ("henx", ["[UNK]"], "if any rest fits no piece, the whole word is one [UNK]"),
        ("xhen", ["[UNK]"], "if any rest fits no piece, the whole word is one [UNK]"),
        ("henhe", ["[UNK]"], "'he' is there to begin a word and not to go on with one"),
        ("", [], "an empty word has no pieces"),
    ]
    rng = rng_of(dice)
    letters = set("abc") | {"##a", "##b", "##c"}
    for _ in range(20):
        letters.add(rng.choice(["", "##"]) + "".join(rng.choices("abc", k=rng.randint(2, 4))))
    for _ in range(20):
        word = "".join(rng.choices("abc", k=9))
        tries.append((word, None, "always the longest piece that fits, from left to right"))
    for word, wanted, why in tries:
        known = small if wanted is not None else letters
        given = pieces_of(answer(word, set(known)), f"your pieces of {word!r}")
        if wanted is None:
            _check_greedy(word, given, known)
            continue
        with_unknown = "[UNK]" in given and len(given) > 1
        expect(not with_unknown, f"{word!r}: you give {given}, expected {wanted}: {why}.")
        expect(given == wanted, f"{word!r}: you give {given}, expected {wanted}; {why}.")
    return "Short code, and one word in a foreign script is enough to see its weakness."


def _check_greedy(word: str, given: list[str], known: set[str]) -> None:
    """Each piece is in the table, they spell the word, and none could have been longer."""
    at = 0
    for number, piece in enumerate(given):
        mark = "##" if number else ""
        plain = piece.removeprefix(mark)
        expect(
            piece in known and piece.startswith(mark) and word.startswith(plain, at),
            f"{word!r}: your piece {piece!r} is not in the table or does not stand there: {given}.",
        )
        longer = [n for n in range(len(plain) + 1, len(word) - at + 1)]
        better = [mark + word[at : at + n] for n in longer if mark + word[at : at + n] in known]
        if better:
            raise Wrong(f"{word!r}: you took {piece!r}, and {better[-1]!r} fits and is longer.")
        at += len(plain)
    expect(at == len(word), f"{word!r}: your pieces {given} do not spell the whole word.")


# 2.5


@exercise("2.5", "Letters that arrive in halves")
def read_along(dice, answer):
    """`answer(pieces)` yields text as soon as its bytes are complete."""
    rng = rng_of(dice)
    _follow(answer, [b"a", b"b"], "")
    _follow(answer, [b"caf\xc3", b"\xa9!"], "")
    _follow(answer, [b"\xf0\x9f", b"\x90", b"\x94 hen"], "")
    whole = "naïve 漢字 🐔 hens, Ελλάς – 👩‍🚀!" * 2
    for most in (1, 3, 7):
        data, pieces = whole.encode(), []
        while data:
            size = rng.randint(1, most)
            pieces, data = [*pieces, data[:size]], data[size:]
        _follow(answer, pieces, "")
    for pieces in (
        [b"end\xe6\xbc"],
        [b"\xe6\xbc", b"A"],
        [b"a\xff", b"b", b"c"],
        [b"\xc3", b"\xc3\xa9"],
    ):
        _follow(answer, pieces, " (Bytes that can never become a letter are �.)")
    expect("".join(answer(iter([]))) == "", "no pieces: no text.")
    return "Nothing comes early, nothing late, and nothing is broken."


def _follow(answer, pieces: list[bytes], note: str) -> None:
    """Hand out the pieces one by one and look at what had been given before each."""
    received: list[str] = []
    wanted = b"".join(pieces).decode("utf-8", errors="replace")
    shown = f"of {pieces[:4]}{' …' if len(pieces) > 4 else ''}"

    def source():
        for number, piece in enumerate(pieces):
            if not note:
                _compare_so_far("".join(received), b"".join(pieces[:number]), shown)
            yield piece

    given = answer(source())
    expect(given is not None, "your function gives nothing; give the text out with `yield`.")
    for text in given:
        expect(isinstance(text, str), f"you give out a {type(text).__name__}, expected str.")
        received.append(text)
    got = "".join(received)
    expect(got == wanted, f"{shown} you make {got!r} in the end, expected {wanted!r}.{note}")


def _compare_so_far(got: str, data: bytes, shown: str) -> None:
    complete = data.decode("utf-8", errors="ignore")  # an unfinished letter at the end is left out
    if got == complete:
        return
    if "�" in got:
        raise Wrong(f"{shown} you make {got!r}: a letter whose bytes come in two pieces is broken.")
    expect(
        not complete.startswith(got) or len(got) >= len(complete),
        f"{shown}, when {data!r} has arrived, {complete!r} is complete, and you have given out "
        f"{got!r}: whoever reads along has to wait.",
    )
    raise Wrong(f"{shown}, after {data!r}, you have given out {got!r}, expected {complete!r}.")


# 2.6


@exercise("2.6", "A bug hunt: what nobody is asked")
def cut_windows(dice, answer):
    """`answer(ids, context_length)`: windows side by side, targets one place later."""
    first = 100 + int(torch.randint(50, (1,), generator=dice))
    for num_ids, length in ((13, 4), (14, 4), (16, 4), (9, 8), (10, 1), (31, 5)):
        ids = list(range(first, first + num_ids))
        case = f"{num_ids} ids, context length {length}"
        windows = []
        for pair in answer(list(ids), length):
            is_pair = hasattr(pair, "__len__") and len(pair) == 2
            rows = [_plain_row(row) if hasattr(row, "__len__") else row for row in pair]
            expect(
                is_pair and all(isinstance(row, list) for row in rows),
                f"{case}: one of your windows is {_cut_short(str(pair))}; expected a pair of rows, "
                "the inputs and the targets.",
            )
            windows.append(rows)
        expect(windows, f"{case}: you return no window at all.")
        for inputs, targets in windows:
            expect(
                len(inputs) == len(targets) == length,
                f"{case}: a window of {len(inputs)} inputs and {len(targets)} targets, "
                f"expected {length} of each.",
            )
            if targets != [i + 1 for i in inputs]:
                words = "itself" if targets == inputs else f"{targets[0]}"
                raise Wrong(
                    f"{case}: after token {inputs[0]} the model is asked for {words}; "
                    f"expected the token after it, {inputs[0] + 1}."
                )
        asked = Counter(target for _, targets in windows for target in targets)
        twice = [i for i, n in asked.items() if n > 1]
        if twice:
            raise Wrong(f"{case}: token {twice[0]} is asked for {asked[twice[0]]} times.")
        last = max(asked, default=ids[0])
        for i in ids[1:]:
            expect(
                asked[i] or i > last,
                f"{case}, the ids {ids[0]} to {ids[-1]}: token {i} is asked for in no window, and "
                f"it stands before the last target, {last}.",
            )
        expect(
            ids[-1] - last < length,
            f"{case}: the last target is {last}, and {ids[-1] - last} more would fill a window.",
        )
    return "Every token but the first is asked for once."


def _number(x):
    return x.item() if hasattr(x, "item") else x


def _plain_row(row) -> list:
    return row.tolist() if hasattr(row, "tolist") else list(row)


# 2.7

KINDS = {
    "A": "backwards",
    "B": "stories",
    "C": "greek letters",
    "D": "capitals",
}
LATIN, GREEK = "abcdefghijklmnopqrstuvwxyz", "αβκδεφγηιξκλμνοπθρστυωωχυζ"


def unnamed_texts(num_bytes: int = 10_000) -> dict[str, str]:
    """Four texts for exercise 2.7, made from the same stories, under letters in place of names."""
    text = story_text(num_bytes, seed=7, split="validation").replace("<|endoftext|>", "\n").lower()
    made = {
        "stories": text,
        "capitals": text.upper(),
        "backwards": re.sub("[a-z]+", lambda word: word[0][::-1], text),
        "greek letters": text.translate(str.maketrans(LATIN, GREEK)),
    }
    return {letter: made[kind] for letter, kind in KINDS.items()}


TOLD = {
    "A": "starts at one character per token and rises, but far less than the highest one: its "
    "letters are known and some of its pairs, and hardly any of its words",
    "B": "rises far above the others: whole words of it were learned",
    "C": "lies below one character per token: a character of it must be more than one byte",
    "D": "starts at one character per token and stays near it: every character is one byte, and "
    "next to none of its pairs stood in the training text",
}


@exercise("2.7", "Four curves without names")
def name_curves(dice, answer):
    """`answer`: which text belongs to each letter."""
    expect(
        isinstance(answer, dict) and set(answer) == set(KINDS),
        'give a dictionary with the keys "A", "B", "C" and "D".',
    )
    for letter, given in answer.items():
        expect(
            given in KINDS.values(),
            f"{letter}: {given!r} is none of {', '.join(sorted(KINDS.values()))}.",
        )
    expect(len(set(answer.values())) == len(KINDS), "each of the four texts has one curve.")
    for letter in "CBDA":
        expect(
            answer[letter] == KINDS[letter],
            f"{letter} is not '{answer[letter]}': this curve {TOLD[letter]}.",
        )
    return "A tokenizer shows what it was raised on."


# 2.8

VERDICTS = ("more", "less", "cannot tell")


def _t_interval(differences: list[float], factor: float) -> tuple[float, float]:
    values = torch.tensor(differences, dtype=torch.float64)
    half = factor * float(values.std(unbiased=True)) / math.sqrt(len(differences))
    return float(values.mean()) - half, float(values.mean()) + half


@exercise("2.8", "Which change is real?")
def real_differences(dice, interval, verdicts, measured):
    """`interval(before, after, factor)`, and what it says of the changes that were measured."""
    for size, factor in ((5, 2.776), (8, 2.365), (12, 2.201)):
        hard = 3 * torch.randn(size, generator=dice, dtype=torch.float64)  # hard and easy texts
        shift = 0.4 + 0.2 * torch.randn(size, generator=dice, dtype=torch.float64)
        before, after = hard.tolist(), (hard + shift).tolist()
        given = interval(list(before), list(after), factor)
        ends = _plain_row(given) if hasattr(given, "__len__") else [given]
        expect(
            len(ends) == 2 and all(isinstance(end, int | float) for end in map(_number, ends)),
            f"your interval is {_cut_short(str(given))}, expected two numbers, (low, high).",
        )
        low, high = map(float, ends)
        a, b = _t_interval(shift.tolist(), factor)
        expect(
            low == low and high == high and low <= high, f"your interval goes from {low} to {high}."
        )
        middle, half = (low + high) / 2, (high - low) / 2
        for value, why in (
            (-(a + b) / 2, "has the wrong sign: a change that gives more is after − before > 0"),
            (0.0, "lies around 0; it belongs around the mean of the differences"),
        ):
            expect(abs(middle - value) > 1e-6, f"the middle of your interval, {middle:.3f}, {why}.")
        expect_same(middle, (a + b) / 2, "the middle of your interval")
        true, n = (b - a) / 2, size
        alone = factor * float((hard.var() + (hard + shift).var()).sqrt()) / math.sqrt(n)
        for value, why in (
            (true * math.sqrt(n), "was not divided by √n: that is how far single texts spread"),
            (true / math.sqrt(n), "was divided by n; expected √n"),
            (true * math.sqrt((n - 1) / n), "divides the squares by n; with a sample it is n − 1"),
            (alone, "ignores the pairs: how hard a text is falls away if you subtract first"),
            (true / factor, "lacks the factor"),
            (true / factor * 1.96, "has 1.96 in place of the factor for so few"),
        ):
            expect(abs(half - value) > 1e-6, f"the half-width of your interval {why}.")
        expect_same(half, true, "the half-width of your interval")
    expect(
        isinstance(verdicts, dict) and set(verdicts) == set(measured) - {"as it was"},
        f"verdicts: a dictionary with the keys {sorted(set(measured) - {'as it was'})}.",
    )
    factors = {8: 2.365}
    base = measured["as it was"]
    for name, given in verdicts.items():
        expect(given in VERDICTS, f"{name}: {given!r} is none of {', '.join(VERDICTS)}.")
        shifts = [b - a for a, b in zip(base, measured[name], strict=True)]
        low, high = _t_interval(shifts, factors[len(base)])
        wanted = "more" if low > 0 else "less" if high < 0 else "cannot tell"
        expect(
            given == wanted,
            f"{name}: you say '{given}', and the interval goes from {low:+.4f} to {high:+.4f}. "
            "Where does 0 lie?",
        )
    return "Whether a difference is real and whether it is large are two questions."


# 2.9


class Watched(dict):
    """A table that counts how often it is asked, and stops somebody who asks without end."""

    def __init__(self, table: dict[str, float], most: int) -> None:
        super().__init__(table)
        self.most = most

    def _count(self) -> None:
        self.most -= 1
        if self.most < 0:
            raise Wrong(
                "for one word of 40 letters your code has looked up 50,000 pieces: it works out "
                "the same rest of the word again and again. Remember what you have found."
            )

    def __contains__(self, key: object) -> bool:
        self._count()
        return super().__contains__(key)

    def __getitem__(self, key: str) -> float:
        self._count()
        return super().__getitem__(key)

    def get(self, key: str, default=None):
        self._count()
        return super().get(key, default)


def _best_of_all(word: str, scores: dict[str, float]) -> list[str]:
    """Every way to cut a short word, tried."""
    found = []
    for walls in itertools.product((False, True), repeat=len(word) - 1):
        cuts = [0, *(i for i, wall in enumerate(walls, 1) if wall), len(word)]
        pieces = [word[a:b] for a, b in itertools.pairwise(cuts)]
        if all(piece in scores for piece in pieces):
            found.append((sum(scores[piece] for piece in pieces), pieces))
    return max(found)[1]


@exercise("2.9", "The likeliest cut")
def likeliest_cut(dice, answer):
    """`answer(word, log_probs)`: the pieces with the greatest sum of log-probabilities."""
    hand = {"t": -4.0, "h": -4.0, "e": -4.0, "n": -4.0, "the": -2.0, "th": -3.0, "en": -2.5}
    given = pieces_of(answer("then", dict(hand)), "your cut of 'then'")
    expect(
        given != ["the", "n"],
        "'then': you take the longest piece first, the|n with −6; th|en has −5.5, which is more.",
    )
    expect(given == ["th", "en"], f"'then': you cut {given}, expected ['th', 'en'].")
    rng = rng_of(dice)
    for _ in range(12):
        scores = {letter: -rng.uniform(3, 5) for letter in "abc"}
        for _ in range(14):
            piece = "".join(rng.choices("abc", k=rng.randint(2, 4)))
            scores[piece] = -rng.uniform(3, 9)
        word = "".join(rng.choices("abc", k=rng.randint(1, 9)))
        given = pieces_of(answer(word, dict(scores)), f"your cut of {word!r}")
        expect("".join(given) == word, f"your pieces {given} do not spell {word!r}.")
        expect(all(p in scores for p in given), f"{given} holds a piece that is not in the table.")
        best = _best_of_all(word, scores)
        sums = [sum(scores[piece] for piece in pieces) for pieces in (given, best)]
        expect(
            sums[0] > sums[1] - 1e-9,
            f"{word!r}: your cut {'|'.join(given)} adds up to {sums[0]:.2f}, and {'|'.join(best)} "
            f"to {sums[1]:.2f}.",
        )
    expect_error(
        ValueError,
        lambda: answer("ax", {"a": -1.0}),
        "'ax' with a table that holds only 'a': no cut is possible, expected a ValueError.",
    )
    table = Watched({"a": -1.0, "aa": -1.5, "aaa": -2.6}, most=50_000)
    expect(
        list(answer("a" * 40, table)) == ["aa"] * 20,
        "forty times 'a': expected twenty pieces 'aa'.",
    )
    looks = 50_000 - table.most
    return f"Forty letters have 2³⁹ cuts, and you looked into the table {looks:,} times."


QUESTIONS = [
    question(
        "2.a",
        "You put the words of a text into another order, each with its space before it. What "
        "happens to the number of its tokens, with the pattern of this chapter?",
        wrong(
            "It rises: what often stands together is torn apart.",
            "So it would if tokens could reach across a gap. The text is cut into words first, "
            "and each word is encoded alone.",
        ),
        right(
            "Nothing.",
            "Each word, with its space, is encoded on its own. (The first word, which has no "
            "space, may gain one.)",
        ),
        wrong("It falls.", "Nothing new can be joined: no merge ever crosses the gap."),
    ),
    question(
        "2.b",
        "A byte-level tokenizer has 1,024 tokens, one of them special. How many merges did it "
        "learn?",
        wrong("1,023", "The 256 bytes are in the table before anything is learned."),
        wrong("768", "Nearly: the special token has an id too, and is no merge."),
        right("767", "1,024 less 256 bytes less one special token."),
    ),
    question(
        "2.c",
        "It was trained on English stories. Now it reads the letter λ, which no story has. What "
        "does the network get?",
        right(
            "Two ids, one for each byte.",
            "In UTF-8, λ is two bytes, and this pair was never joined. Both rows of the network's "
            "table are as they were at random, if no other such text was read.",
        ),
        wrong("One id that means 'unknown'.", "There is none: that was the virtue of bytes."),
        wrong("An error.", "A tokenizer of words would have no row for it; one of bytes has."),
    ),
    question(
        "2.d",
        "A vocabulary grows from 1,024 to 2,048 tokens, with 128 numbers for each. How many more "
        "numbers must the table of embeddings learn?",
        wrong("1,024", "That is how many rows there are more; each has 128 numbers."),
        right("131,072", "1,024 more rows of 128 numbers each."),
        wrong("262,144", "That is the whole new table; half of it was there before."),
    ),
    question(
        "2.e",
        "1,000 ids, windows of context length 10, stride 10. How many whole windows are there?",
        wrong("100", "The last one would need an eleventh id: the target of its last token."),
        right("99", "99 windows ask for tokens 1 to 990; nine are left, and ten would be needed."),
        wrong("990", "That is nearly the number for a stride of 1."),
    ),
    question(
        "2.f",
        "You and a friend train on the same text, and break ties between pairs in opposite ways. "
        "Both tokenizers compress equally well. May you use your friend's model with yours?",
        wrong(
            "Yes: they are equally good.",
            "Equally good, and not the same: what is id 300 here may be id 301 there.",
        ),
        wrong(
            "Yes, if the vocabularies are equally large.",
            "Then nothing crashes, which makes it worse: it would be wrong without a sound.",
        ),
        right(
            "No: its ids mean other tokens.",
            "From the first tie that they decide differently on, ids name other pieces. The model "
            "would read nonsense, without any error.",
        ),
    ),
]
