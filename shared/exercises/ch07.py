"""Checks and quick questions of chapter 7: instruction fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from shared.exercises.checking import Wrong, exercise, expect, expect_error, expect_same
from shared.exercises.questions import question, right, wrong
from shared.previous_chapters import IGNORED

SYSTEM, USER, ASSISTANT, END = 256, 257, 258, 259  # the marks; below 256 stand the bytes
NAMES = {SYSTEM: "<sys>", USER: "<user>", ASSISTANT: "<asst>", END: "<end>"}
ROLE = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}


def named(i: int) -> str:
    """An id as a reader knows it: a mark, or a letter in quotes."""
    if i == IGNORED:
        return "nothing"
    return NAMES.get(i) or (repr(chr(i)) if 0 <= i < 256 else f"the id {i}")


def draw(dice: torch.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=dice))


def letters(dice: torch.Generator, count: int) -> str:
    """Some small letters."""
    return bytes(torch.randint(97, 123, (count,), generator=dice).tolist()).decode()


def whole(given: Any, what: str) -> list[int]:
    """`given` as a flat list of whole numbers."""
    try:
        return [int(x) for x in given]
    except (TypeError, ValueError):
        raise Wrong(f"{what}: of type {type(given).__name__}, expected whole numbers.") from None


@exercise("7.1", "Predict: who is asked?")
def who_is_asked(dice, answer):
    """Places of the row in its batch; asked: last answer, both answers, all but the filling."""
    given = whole(answer, "your prediction")
    expect(len(given) == 4, f"your prediction holds {len(given)} numbers, expected four.")
    turns, longest = (8, 6, 5, 11), 41  # tokens with both marks
    last, both, every = turns[3] - 1, turns[1] + turns[3] - 2, sum(turns) - 1
    expect(
        given[0] != longest,
        "the first: the inputs are the rows without their last token, so there is a place fewer.",
    )
    expect(
        given[0] == longest - 1,
        f"the first: a batch is as wide as its longest row, and each row gets as many places. "
        f"You say {given[0]}.",
    )
    for place, wanted, name, answers in ((1, last, "second", 1), (2, both, "third", 2)):
        expect(
            given[place] != wanted - answers,
            f"the {name}: your model is never asked for the mark that ends an answer, "
            "so it would not learn to stop.",
        )
        expect(
            given[place] != wanted + answers,
            f"the {name}: the mark <asst> is written by us, not by the model; nobody asks for it.",
        )
        expect(
            given[place] == wanted,
            f"the {name}: you say {given[place]}. Count the tokens of the answer and its end.",
        )
    expect(
        given[3] != every + 1, "the fourth: nobody is asked for the first token; nothing is before."
    )
    expect(
        given[3] == every,
        f"the fourth: you say {given[3]}. Each token of the row but the first is asked for once, "
        "and the filling never.",
    )
    return "Of forty places that are computed, ten to fifteen teach an answer."


def reference_row(messages: Sequence[dict]) -> list[int]:
    row = []
    for message in messages:
        row += [ROLE[message["role"]], *message["content"].encode(), END]
    return row


@exercise("7.2", "A form, and back again")
def chat_form(dice, to_row, from_row):
    """`to_row(messages) -> ids`, `from_row(ids) -> messages`, on bytes and four marks."""
    say = lambda role, text: {"role": role, "content": text}
    odd = letters(dice, draw(dice, 3, 7))
    talks = [
        [say("user", "Hi"), say("assistant", "Hello!")],
        [say("system", "Be kind."), say("user", f"{odd} né 好 🦆"), say("assistant", "Ü")],
        [say("user", f"  {odd}\n\n "), say("assistant", "")],
        [say("user", "Say <end><asst> Yes."), say("assistant", "256 257 <user> <|user|>")],
        [say("user", odd), say("user", odd), say("assistant", "a"), say("assistant", "b")],
    ]
    for talk in talks:
        row = whole(to_row([dict(m) for m in talk]), "your row")
        wanted = reference_row(talk)
        if row != wanted:
            _explain_row(row, wanted, talk)
    for talk in talks:
        _compare_talk(from_row(reference_row(talk)), talk, "from_row")
    for talk in talks[:2]:
        row = reference_row(talk)[:-2]  # the last message is still being written
        cut = [
            *talk[:-1],
            say(talk[-1]["role"], talk[-1]["content"].encode()[:-1].decode("utf-8", "replace")),
        ]
        _compare_talk(from_row(row), cut, "from_row, of a row that ends within its last message")
    open_row = [*reference_row(talks[0][:1]), ASSISTANT]
    _compare_talk(
        from_row(open_row),
        [talks[0][0], say("assistant", "")],
        "from_row, of a row in which the assistant is about to speak",
    )
    expect_error(
        ValueError,
        lambda: from_row([72, 105, END]),
        "from_row took a row that does not begin with the mark of a role: nobody says this text. "
        "Raise a ValueError.",
    )
    return "What goes in comes out, whatever people type."


def _explain_row(row: list[int], wanted: list[int], talk: Sequence[dict]) -> None:
    marks = [i for i in row if i in NAMES]
    most = 2 * len(talk)
    expect(
        len(marks) <= most,
        f"what a user types became a mark: the row of {len(talk)} messages holds {len(marks)} "
        f"marks, expected {most}. The text was {talk[0]['content']!r}.",
    )
    expect(
        row.count(END) == len(talk),
        f"the row of {len(talk)} messages holds {row.count(END)} of the mark {NAMES[END]}; "
        "each message ends with one.",
    )
    for place, (a, b) in enumerate(zip(row, wanted, strict=False)):
        expect(a == b, f"the row of {talk}: at place {place} stands {a}, expected {b}.")
    expect(False, f"the row of {talk} has {len(row)} ids, expected {len(wanted)}.")


def _compare_talk(given: Any, talk: Sequence[dict], what: str) -> None:
    expect(
        isinstance(given, list | tuple),
        f"{what}: of type {type(given).__name__}, expected a list of messages.",
    )
    expect(len(given) == len(talk), f"{what}: {len(given)} messages came out, {len(talk)} went in.")
    for place, (one, other) in enumerate(zip(given, talk, strict=True)):
        expect(isinstance(one, dict), f"{what}: message {place} is no dict with role and content.")
        for key in ("role", "content"):
            expect(
                one.get(key) == other[key],
                f"{what}: the {key} of message {place} is {one.get(key)!r}, expected "
                f"{other[key]!r}.",
            )


@exercise("7.3", "A bug hunt: it cannot stop talking")
def chat_batch(dice, answer):
    """`answer(rows, starts, filling) -> inputs, targets`, with the end mark as filling, too."""
    rows, starts = [], []
    for asked, said in ((4, 3), (2, 6), (7, 1)):
        prompt = [USER, *letters(dice, asked).encode(), END, ASSISTANT]
        rows.append([*prompt, *letters(dice, said).encode(), END])
        starts.append(len(prompt))
    for filling in (0, END):
        given = answer([list(row) for row in rows], list(starts), filling)
        expect(
            isinstance(given, tuple | list) and len(given) == 2,
            "return two things, inputs and targets.",
        )
        inputs, targets = (x.tolist() if isinstance(x, Tensor) else x for x in given)
        width = max(map(len, rows)) - 1
        for name, x in (("inputs", inputs), ("targets", targets)):
            shape = (len(x), len(x[0]))
            expect(shape == (3, width), f"your {name} have the shape {shape}, expected {3, width}.")
        for r, (row, start) in enumerate(zip(rows, starts, strict=True)):
            _look_at_row(r, row, start, inputs[r], targets[r], filling)
    return "It is asked for the end of each answer, and for nothing behind it."


def _look_at_row(r: int, row: list, start: int, read: list, asked: list, filling: int) -> None:
    about = f"with {named(filling) if filling else filling} as filling, row {r}"
    for place in range(len(read)):
        inside = place < len(row) - 1
        token = row[place] if inside else filling
        expect(
            read[place] == token or (not inside and place == len(row) - 1 and read[place] == END),
            f"{about} reads {read[place]} at place {place}, expected {token}.",
        )
        where = f"{about}, place {place}, where {named(token) if token else 'filling'} is read"
        if not inside:
            expect(
                asked[place] == IGNORED,
                f"{where}: behind the row, {named(asked[place])} is asked for.",
            )
        elif place < start - 1:
            expect(
                asked[place] == IGNORED,
                f"{where}: the prompt asks for {named(asked[place])}; only the answer should.",
            )
        elif place == len(row) - 2:
            expect(
                asked[place] == END,
                f"{where}: after the last letter of the answer nothing is asked for. "
                "A model that learns from this is never told that its turn ends.",
            )
        else:
            expect(
                asked[place] == row[place + 1],
                f"{where}: {named(asked[place])} is asked for, expected {named(row[place + 1])}.",
            )


@exercise("7.4", "Several rows in one, without looking over")
def packing(dice, answer):
    """`answer(rows) -> ids, positions, mask, targets`, all of the total length."""
    lengths = [draw(dice, 3, 5), 2, draw(dice, 4, 6), 1]
    rows = [torch.randint(1, 99, (n,), generator=dice).tolist() for n in lengths]
    given = answer([list(row) for row in rows])
    expect(
        isinstance(given, tuple | list) and len(given) == 4,
        "return four things: ids, positions, mask, targets.",
    )
    ids, positions, mask, targets = (torch.as_tensor(x) for x in given)
    total = sum(lengths)
    for name, x in (("ids", ids), ("positions", positions), ("targets", targets)):
        expect(
            tuple(x.shape) == (total,), f"{name} of shape {tuple(x.shape)}, expected {(total,)}."
        )
    expect(
        tuple(mask.shape) == (total, total),
        f"your mask has the shape {tuple(mask.shape)}, expected {total, total}.",
    )
    expect(
        set(mask.flatten().tolist()) <= {0, 1},
        "your mask should hold True (may look) and False, and it holds other numbers.",
    )
    expect_same(ids, [i for row in rows for i in row], "the ids")
    row_of = [r for r, n in enumerate(lengths) for _ in range(n)]
    expect_same(positions, [p for n in lengths for p in range(n)], "the positions")
    sees = mask.bool()
    for i in range(total):
        for j in range(total):
            here, there = f"place {i} (row {row_of[i]})", f"place {j} (row {row_of[j]})"
            may = row_of[i] == row_of[j] and j <= i
            if bool(sees[i, j]) != may:
                expect(row_of[i] == row_of[j], f"{here} sees {there}: it looks over the border.")
                expect(j <= i, f"{here} sees {there}, which comes later.")
                expect(False, f"{here} does not see {there}, and it may (True means: may look).")
    for i in range(total):
        last = i == total - 1 or row_of[i + 1] != row_of[i]
        if last:
            expect(
                int(targets[i]) == IGNORED,
                f"place {i}, the last of row {row_of[i]}, is asked for {int(targets[i])}"
                + ("" if i == total - 1 else f", the first token of row {row_of[i] + 1}")
                + ": a row's last token has nothing behind it.",
            )
        else:
            expect(
                int(targets[i]) == int(ids[i + 1]),
                f"place {i} is asked for {int(targets[i])}, expected the next token of its row, "
                f"{int(ids[i + 1])}.",
            )
    return "Not one place is filling, and nobody looks over to the neighbours."


class _Source:
    """Pieces that come one by one; knows how many were taken."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces, self.taken = list(pieces), 0

    def __iter__(self) -> Iterator[str]:
        for piece in self.pieces:
            self.taken += 1
            yield piece


@exercise("7.5", "A stop word that comes in pieces")
def until_stop(dice, answer):
    """`answer(pieces, stops)` yields text up to the first stop word, each letter when it may."""
    cases = [
        (["He", "llo", " you"], ["STOP"]),
        (["Hello ", "ST", "OP", " more"], ["STOP"]),
        (["a ST", "ART, not a S"], ["STOP"]),
        (["one\n", "\n", "\nUs", "er: two"], ["\n\nUser:"]),
        (["x##", "#E", "ND tail"], ["##END", "<stop>"]),
        (["x#", "#", "END tail"], ["##END"]),
        (["a<st", "op>b", "##END"], ["##END", "<stop>"]),
        (["both ##END and <stop> here"], ["<stop>", "##END"]),
        (["STOP", " at once"], ["STOP"]),
    ]
    cut = letters(dice, 9) + " <|end|> " + letters(dice, 5)
    places = sorted({0, len(cut), *(draw(dice, 1, len(cut) - 1) for _ in range(7))})
    cases.append(([cut[a:b] for a, b in zip(places, places[1:], strict=False)], ["<|end|>"]))
    cases.append((list(cut), ["<|end|>", letters(dice, 12)]))
    for pieces, stops in cases:
        _one_stream(answer, pieces, stops)
    return "No letter of a stop word is ever shown, and none is held back for longer than needed."


def _one_stream(answer, pieces: Sequence[str], stops: Sequence[str]) -> None:
    source, shown = _Source(pieces), ""
    about = f"pieces {pieces}, stop words {stops}"
    given = answer(source, list(stops))
    expect(
        hasattr(given, "__iter__"), f"of type {type(given).__name__}, expected text piece by piece."
    )
    expect(not isinstance(given, str), "a text; give it piece by piece, with `yield`.")
    whole_text = "".join(pieces)
    found = [p for p in (whole_text.find(s) for s in stops) if p >= 0]
    end = min(found, default=len(whole_text))
    stopped_at = min((whole_text.find(s) + len(s) for s in stops if s in whole_text), default=None)
    steps = iter(given)
    for _ in range(2 * len(whole_text) + 100):
        before = source.taken
        try:
            text = next(steps)
        except StopIteration:
            break
        expect(
            isinstance(text, str),
            f"{about}: you yield something of type {type(text).__name__}, not a text.",
        )
        # Whatever was ready before this piece was taken should have been shown by then.
        if source.taken > before:
            read = "".join(pieces[: source.taken - 1])
            due = _ready(read, stops)
            expect(
                len(shown) >= len(due) or len(due) > end,
                f"{about}: {read!r} had come, and only {shown!r} was shown when the next piece was "
                "taken; the rest of it cannot be the beginning of a stop word.",
            )
        shown += text
        expect(
            whole_text[:end].startswith(shown),
            f"{about}: shown is {shown!r}, and it should end as {whole_text[:end]!r}.",
        )
    expect(
        shown == whole_text[:end],
        f"{about}: shown is {shown!r}, expected {whole_text[:end]!r}.",
    )
    if stopped_at is not None:
        sizes = [len("".join(pieces[: k + 1])) for k in range(len(pieces))]
        needed = next(k + 1 for k, size in enumerate(sizes) if size >= stopped_at)
        expect(
            source.taken <= needed,
            f"{about}: the stop word was there after {needed} pieces, and {source.taken} were "
            "taken: the model goes on writing what nobody will see.",
        )


def _ready(read: str, stops: Sequence[str]) -> str:
    """What of the text so far cannot be the beginning of a stop word."""
    held = max(
        (n for s in stops for n in range(1, len(s)) if read.endswith(s[:n])),
        default=0,
    )
    return read[: len(read) - held]


@exercise("7.6", "A bug hunt: it answers for you")
def chat_targets(dice, answer):
    """`answer(ids) -> targets`, one shorter: the assistant's words and ends, the rest IGNORED."""
    word = lambda: letters(dice, draw(dice, 1, 4))
    say = lambda *roles: [{"role": r, "content": word()} for r in roles]
    talks = [
        say("user", "assistant"),
        say("user", "assistant", "user", "assistant"),
        say("system", "user", "assistant", "user"),
        say("user", "assistant", "assistant", "user", "assistant"),
        say("user"),
    ]
    for talk in talks:
        ids = reference_row(talk)
        given = whole(answer(list(ids)), "your targets")
        expect(
            len(given) == len(ids) - 1,
            f"{len(given)} targets for a row of {len(ids)} ids, expected one fewer.",
        )
        wanted, speaker = [], None
        for i, following in zip(ids, ids[1:], strict=False):
            speaker = i if i in NAMES else speaker
            wanted.append(following if speaker == ASSISTANT else IGNORED)
        for place, (one, other) in enumerate(zip(given, wanted, strict=True)):
            if one != other:
                _explain_target(place, ids, one, other)
    return "Every word of the assistant is asked for, and so is its silence."


def _explain_target(place: int, ids: Sequence[int], one: int, other: int) -> None:
    row = "".join(NAMES.get(i) or chr(i) for i in ids)
    where = f"in the row {row}, at place {place}, where {named(ids[place])} is read"
    expect(
        not (ids[place] == END and other == IGNORED),
        f"{where}, {named(one) if one != IGNORED else one} is asked for: a model that learns this "
        "does not wait for the user after its answer. It begins the next turn itself.",
    )
    expect(
        other != END,
        f"{where}, the answer's end is not asked for: it would not learn to stop.",
    )
    expect(
        one != IGNORED,
        f"{where}, nothing is asked for; expected {named(other)}, which the assistant says.",
    )
    said = named(one) if one >= 0 else one
    wish = "nothing" if other == IGNORED else named(other)
    expect(False, f"{where}, {said} is asked for, expected {wish}.")


VALUE = {"first": 1.0, "tie": 0.5, "second": 0.0}


def _win(verdicts: Sequence[tuple[str, str]]) -> tuple[float, float, float]:
    scores = [(VALUE[a] + 1 - VALUE[b]) / 2 for a, b in verdicts]
    mean, count = sum(scores) / len(scores), len(scores)
    spread = math.sqrt(sum((s - mean) ** 2 for s in scores) / (count - 1))
    reach = 1.96 * spread / math.sqrt(count)
    return mean, mean - reach, mean + reach


@exercise("7.7", "Who wins, and is the judge fair?")
def win_share(dice, answer):
    """`answer(verdicts) -> (share, low, high)`; each question judged in both orders."""
    words = ["first", "second", "tie"]
    drawn = torch.multinomial(torch.tensor([0.6, 0.25, 0.15]), 80, True, generator=dice).tolist()
    other = torch.multinomial(torch.tensor([0.4, 0.4, 0.2]), 80, True, generator=dice).tolist()
    many = [(words[a], words[b]) for a, b in zip(drawn, other, strict=True)]
    hand = [("first", "second"), ("first", "first"), ("tie", "second"), ("second", "tie")]
    cases = {"the example by hand": hand, "eighty questions": many}
    given = {name: _three(answer(list(verdicts))) for name, verdicts in cases.items()}
    off = [n for n, verdicts in cases.items() if abs(given[n][0] - _win(verdicts)[0]) > 1e-5]
    for place, why in enumerate(OTHER_WINS if off else ()):
        also = [abs(given[n][0] - _other_wins(v)[place]) < 1e-5 for n, v in cases.items()]
        expect(not all(also), f"{off[0]}: {given[off[0]][0]:.3f}. {why}" if off else "")
    for name, verdicts in cases.items():
        (share, low, high), wanted = given[name], _win(verdicts)
        expect_same(share, wanted[0], f"{name}: the share", atol=1e-5)
        expect(low < high, f"{name}: an interval from {low:.3f} to {high:.3f}.")
        both = [v for a, b in verdicts for v in (VALUE[a], 1 - VALUE[b])]
        half = 1.96 * float(torch.tensor(both).std()) / math.sqrt(len(both))
        expect(
            abs((high - low) / 2 - half) > 1e-4,
            f"{name}: your interval counts two verdicts on one question as two questions. The two "
            "are not independent: first one score for each question.",
        )
        expect_same([low, high], list(wanted[1:]), f"{name}: the interval", atol=1e-4)
    return "A judge who always likes the first place cannot help anybody here."


def _three(given: Any) -> tuple[float, float, float]:
    expect(
        isinstance(given, tuple | list | Tensor) and len(given) == 3,
        "return three numbers: (share, low, high).",
    )
    try:
        share, low, high = (float(x) for x in given)
    except (TypeError, ValueError):
        raise Wrong(f"return three numbers, not {given!r}.") from None
    return share, low, high


OTHER_WINS = (
    "In the second verdict ours stood second: there, 'second' is a win of ours.",
    "That is the first order alone. What of the second verdict?",
    "That is the second order alone. What of the first verdict?",
    "A tie is half a win; you count it as lost.",
    "A tie is half a win; you leave it out.",
)


def _other_wins(verdicts: Sequence[tuple[str, str]]) -> list[float]:
    """What other ways of counting give, in the order of `OTHER_WINS`."""
    count = len(verdicts)
    a, b = [VALUE[x] for x, _ in verdicts], [VALUE[y] for _, y in verdicts]
    decided = [v for x, y in zip(a, b, strict=True) for v in (x, 1 - y) if v != 0.5]
    wins = sum((x == 1) + (y == 0) for x, y in zip(a, b, strict=True))
    return [
        (sum(a) + sum(b)) / (2 * count),
        sum(a) / count,
        1 - sum(b) / count,
        wins / (2 * count),
        sum(decided) / max(1, len(decided)),
    ]


def sign_test(first: int, second: int) -> float:
    """How often coins fall at least as far to one side as this; 1 if there is nothing to see."""
    total, few = first + second, min(first, second)
    return min(1.0, 2 * sum(math.comb(total, k) for k in range(few + 1)) / 2**total)


@exercise("7.8", "Sixteen families, how many differences?")
def families(dice, answer):
    """`answer(table) -> names`, table: name -> (only first right, only second, both, neither)."""
    names = [letters(dice, 5) for _ in range(12)]
    cases = [
        (
            "a table of one family, 9 to 1",
            {"sort": (9, 1, 20, 10)},
        ),
        (
            "four families, one of them 9 to 1",
            {
                "sort": (9, 1, 20, 10),
                "sum": (3, 4, 30, 3),
                "why": (0, 0, 40, 0),
                "count": (1, 0, 39, 0),
            },
        ),
        (
            "three families, 0 to 12 and 12 to 0 among them",
            {"sort": (0, 12, 20, 8), "sum": (12, 0, 20, 8), "why": (5, 5, 25, 5)},
        ),
        (
            "two families of many questions, with few disagreements",
            {"sort": (40, 41, 5, 900), "sum": (9, 0, 900, 91)},
        ),
    ]
    drawn = {}
    for place, name in enumerate(names):
        apart = draw(dice, 4, 20)
        chance = 0.9 if place % 5 == 0 else 0.5
        first = int((torch.rand(apart, generator=dice) < chance).sum())
        drawn[name] = (first, apart - first, 15, 40 - 15 - apart if apart < 25 else 0)
    cases.append(("twelve families", drawn))
    for name, table in cases:
        given = answer(dict(table))
        try:
            found = set(given)
        except TypeError:
            raise Wrong("return the names of the families, as a set or a list.") from None
        count = len(table)
        for family, (first, second, *_) in table.items():
            chance = sign_test(first, second)
            told = (
                f"{name}: {family!r}, {first} to {second}. Coins do this or more in {chance:.2%} "
                "of the cases"
            )
            real = chance * count < 0.05
            if real:
                expect(
                    family in found,
                    f"{told}; times {count}, the number of families, that is below 5 %. Real.",
                )
            else:
                expect(
                    family not in found,
                    f"{told}; with {count} families to look at, some family does so in up to "
                    f"{min(1, chance * count):.0%}. That is not below 5 %.",
                )
        expect(found <= set(table), f"{name}: {found - set(table)} is in no table.")
    return "What is left is hardly luck."


QUESTIONS = [
    question(
        "7.a",
        "The rule of an exam says: small letters, all punctuation removed, then compare. The right "
        "answer is `3.5`. What is wrong with that?",
        wrong("Nothing; a stated rule is a good rule.", "Stated is not enough: look what it does."),
        right(
            "`35` counts as right, and so does `3,5`.",
            "Normalise only what you would wave through by hand: a full stop at the end, say.",
        ),
        wrong(
            "A right answer with capitals is counted as wrong.",
            "Capitals are made small on both sides, so that they do not matter.",
        ),
    ),
    question(
        "7.b",
        "Two runs on the same batches: one asks for answers only, one asks for everything. The "
        "second has the lower training loss. What follows?",
        wrong(
            "It has learned more.",
            "Its loss is a mean over other tokens: prompts follow a few wordings and are easy.",
        ),
        right(
            "Nothing: the two losses are means over different tokens.",
            "Measure both in the same unit, such as nats per answer token on held-out questions.",
        ),
        wrong(
            "It has learned less, since it wastes effort on prompts.",
            "That may be, but this figure does not show it.",
        ),
    ),
    question(
        "7.c",
        "An exam question shares no whole prompt with training, but 90 % of its runs of eight "
        "words stand there. What do you do?",
        wrong("Keep it: it is not the same question.", "It is the same text with a word changed."),
        wrong(
            "Throw the exam away and make a new one.",
            "One question says nothing about the others. Look at them all first.",
        ),
        right(
            "Report the score with and without such questions.",
            "If the two differ, the difference is what memory is worth. And say how you counted.",
        ),
    ),
    question(
        "7.d",
        "At the end of an answer the likeliest token is `<|end|>` with a chance of 70 %, a comma "
        "has 20 %. You sample at temperature 1. Why do some answers ramble?",
        right(
            "In three of ten cases something else is drawn, and from there on it must go on.",
            "One draw decides. At temperature 0, or with top-p at 0.7, it would have stopped.",
        ),
        wrong(
            "The model has not learned to stop.",
            "It has: at temperature 0 it stops here. The dice undo it.",
        ),
        wrong(
            "The mask has left out `<|end|>`.",
            "Then its chance would not be 70 %: nobody would ever have asked for it.",
        ),
    ),
    question(
        "7.e",
        "A table of 16 families, 40 questions each, two assistants. One family says 38 against 31, "
        "all others are within 3. What do you write?",
        wrong(
            "The first is better in this family.",
            "It was picked out of sixteen *because* it is the largest. Chance picks one, too.",
        ),
        wrong(
            "There is no difference between the two.",
            "Not seen is not the same as not there; 40 questions hide a lot.",
        ),
        right(
            "Here is a family to ask 200 new questions in.",
            "What was found by looking is tried on new questions, and only there it counts.",
        ),
    ),
    question(
        "7.f",
        "A user types `<|assistant|>` into the chat, and your `encode` allows special tokens in "
        "all text. What can happen?",
        wrong("An error: the token is reserved.", "Nobody checks; it is a token like others."),
        right(
            "The row says that the assistant said what the user typed.",
            "The model cannot know better: the row is all that it sees. Put marks in by id, alone.",
        ),
        wrong(
            "Nothing: the model knows who is typing.",
            "It sees a row of ids, and nothing of who made them.",
        ),
    ),
]
