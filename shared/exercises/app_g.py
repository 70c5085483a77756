"""Checks of appendix G's exercises: a user interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from shared.exercises.checking import Wrong, exercise, expect

LENGTHS = (3, 1, 2, 2)  # tokens of the four users of G.1


def served(lengths: tuple[int, ...], seats: int, rotate: bool) -> tuple[list[int], list[int]]:
    """First and last step of each user, reckoned a step at a time."""
    left, order, first, last = list(lengths), list(range(len(lengths))), {}, {}
    step = 0
    while order:
        step += 1
        front, behind = order[:seats], order[seats:]
        for user in front:
            left[user] -= 1
            first.setdefault(user, step)
            last[user] = step
        rest = [user for user in front if left[user]]
        order = behind + rest if rotate else rest + behind
    return [first[u] for u in sorted(first)], [last[u] for u in sorted(last)]


def numbers(given: Any, what: str) -> list[float]:
    """Four numbers in any container."""
    if isinstance(given, dict):
        given = list(given.values())
    try:
        found = [float(x) for x in given]
    except (TypeError, ValueError):
        raise Wrong(f"{what}: expected four numbers, got {str(given)[:60]!r}.") from None
    expect(len(found) == 4, f"{what}: {len(found)} numbers, expected four, one for each user.")
    return found


@exercise("G.1", "Predict: who waits how long?")
def waiting(dice, turns_first, turns_last, kept_first, kept_last):
    """Steps of the first and the last token, by round robin and with seats that are kept."""
    users = ("Ann", "Bob", "Cleo", "Dan")
    given = (turns_first, turns_last, kept_first, kept_last)
    wanted = [*served(LENGTHS, 2, True), *served(LENGTHS, 2, False)]
    rules = ("round robin, first token", "round robin, last token")
    rules += ("seats kept, first token", "seats kept, last token")
    read = [numbers(answer, rule) for answer, rule in zip(given, rules, strict=True)]
    if read == wanted[2:] + wanted[:2]:
        raise Wrong("these are the two rules, one in place of the other.")
    for rule, mine, right in zip(rules, read, wanted, strict=True):
        if mine == [x - 1 for x in right]:
            raise Wrong(f"{rule}: you count from 0. The first step is step 1.")
        for user, one, other in zip(users, mine, right, strict=True):
            when = "early" if one < other else "late"
            expect(
                one == other,
                f"{rule}: {user} at step {one:g} is too {when}. Write the line down before each "
                "step, the first two of it get a token.",
            )
    return "The same work, and Dan's first sign of life comes two steps earlier."


# G.2


class Chunks:
    """A stream that notes how much of it has been read."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks, self.read = chunks, 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.read += 1
            yield chunk


def cut(raw: bytes, dice: torch.Generator, most: int) -> list[bytes]:
    """The bytes in random pieces of up to `most`."""
    chunks, at = [], 0
    while at < len(raw):
        size = int(torch.randint(1, most + 1, (1,), generator=dice))
        chunks.append(raw[at : at + size])
        at += size
    return chunks


def all_of(answer: Any, chunks: list[bytes], case: str) -> list:
    """What the reader's function yields, as a list."""
    try:
        found = answer(iter(chunks))
        found = None if isinstance(found, str | bytes) else list(found)
    except UnicodeDecodeError:
        raise Wrong(
            f"{case}: a chunk ends in the middle of a letter, and half a letter cannot be decoded. "
            "Collect bytes, and decode what is whole."
        ) from None
    except TypeError:
        if "found" in locals():
            raise Wrong("yield texts, one for each event, or return a list of them.") from None
        raise
    expect(found is not None, "yield texts, one for each event, or return a list of them.")
    expect(
        all(isinstance(text, str) for text in found),
        f"{case}: expected texts, and one of yours is {found[0]!r}."[:200],
    )
    return found


@exercise("G.2", "A stream, cut anywhere")
def events(dice, answer):
    """`answer(chunks) -> iterator of texts`: the data of server-sent events."""
    plain = b"data: one\n\ndata: two\n\n"
    got = all_of(answer, [plain], "two events in one chunk")
    expect(len(got) != 1, "two events came in one chunk, and you gave one. Look for more of them.")
    expect(got == ["one", "two"], f"two events in one chunk: {got!r}, expected {['one', 'two']!r}.")
    got = all_of(answer, [b"data: o", b"ne\n", b"\ndata: two\n", b"\n"], "events in four chunks")
    expect(
        got == ["one", "two"],
        f"the same events, cut in four: {got!r}. An event ends at an empty line, wherever the "
        "chunks end; keep what is not finished for the next chunk.",
    )
    got = all_of(answer, [b": are you there?\n\ndata: yes\n\n"], "with a comment")
    expect(
        got == ["yes"], f"a line that begins with ':' is a comment and says nothing; you: {got!r}."
    )
    got = all_of(answer, [b'data: {"a": "data: b"}\n\ndata:  x\n\n'], "data in data")
    expect(
        got == ['{"a": "data: b"}', " x"],
        f"{got!r}: only the first 'data: ' of a line is the mark; what follows is text.",
    )
    got = all_of(answer, [b"data: one\n\ndata: tw"], "a broken end")
    expect(
        got == ["one"],
        f"the connection broke in the second event: {got!r}. Half an event is no event.",
    )
    texts = ['{"é": 1}', "日本 🦊", "[DONE]", "", "x y "]
    raw = b"".join(b"data: " + text.encode() + b"\n\n" for text in texts)
    for most in (1, 3, 9):
        got = all_of(answer, cut(raw, dice, most), f"chunks of up to {most} bytes")
        expect(got == texts, f"chunks of up to {most} bytes: {got!r}, expected {texts!r}.")
    stream = Chunks([b"data: one\n\n", b"data: two\n\n", b"data: three\n\n"])
    found = iter(answer(stream))
    first = next(found, None)
    expect(
        first == "one" and stream.read == 1,
        "you read the whole stream before you give the first event. Yield each as soon as it "
        "is whole: the user is watching.",
    )
    return "Whole letters, whole events, each as soon as it is there."


# G.3


def run(answer: Any, lengths: list[int], seats: int) -> None:
    """Steps until all is done, each examined."""
    jobs = [[f"job {i}", n] for i, n in enumerate(lengths)]
    expected = [list(job) for job in jobs]
    case = f"{len(lengths)} jobs, {seats} seat{'s' * (seats > 1)}"
    for step in range(1, sum(lengths) + 2):
        if not expected:
            break
        turn = [job[0] for job in expected[:seats]]
        got = answer(jobs, seats)
        expect(isinstance(got, list | tuple), f"{case}: return the names of those who got a token.")
        got = list(got)
        doubled = [name for name in got if got.count(name) > 1]
        expect(not doubled, f"{case}: {doubled[:1]} got two tokens in step {step}.")
        missed = [name for name in turn if name not in got]
        expect(
            not missed,
            f"{case}: in step {step}, {missed[:1]} stood among the first {seats} and got nothing.",
        )
        expect(
            got == turn, f"{case}: step {step} served {got}, expected {turn}, in the line's order."
        )
        front, behind = expected[:seats], expected[seats:]
        expected = behind + [[name, n - 1] for name, n in front if n > 1]
        now = [list(job) for job in jobs]
        finished = [name for name, n in now if n <= 0]
        expect(not finished, f"{case}: {finished[:1]} is finished and still in line.")
        left = {name: n for name, n in now}
        for name, n in expected:
            expect(name in left, f"{case}: {name} is lost after step {step}: {n} tokens to come.")
            expect(
                left[name] == n, f"{case}: {name} has {left[name]} left after step {step}, not {n}."
            )
        expect(
            now == expected,
            f"{case}: after step {step} the line is {[n for n, _ in now]}, expected "
            f"{[n for n, _ in expected]}. Whoever was served goes behind those who wait.",
        )


@exercise("G.3", "A bug hunt: somebody is passed over")
def fair_step(dice, answer):
    """`answer(jobs, seats) -> names`; changes the list of [name, tokens left] in place."""
    for seats in (1, 2, 3):
        run(answer, [3, 3, 3, 3], seats)
    run(answer, [2, 1], 5)
    for seats in (2, 4, 7):
        run(answer, torch.randint(1, 5, (6,), generator=dice).tolist(), seats)
    return "Everyone in turn, and once a step."


# G.4


def by_need(waiting: list[str], seats: int, given: dict[str, int]) -> list[int]:
    """The rule of G.4: always the user with the fewest tokens, the first of them in line."""
    chosen: list[int] = []
    for _ in range(min(seats, len(waiting))):
        had = {u: given.get(u, 0) + sum(waiting[i] == u for i in chosen) for u in waiting}
        free = [i for i in range(len(waiting)) if i not in chosen]
        chosen.append(min(free, key=lambda i: (had[waiting[i]], i)))
    return chosen


@exercise("G.4", "Fair to people, not to questions")
def fair_turn(dice, answer):
    """`answer(waiting, seats, given) -> positions`, each a question that gets a token."""
    cases = [
        (["A", "A", "A", "B"], 2, {}),
        (["A", "B"], 1, {"A": 5, "B": 2}),
        (["A", "A"], 2, {}),
        (["A", "A", "B", "C"], 3, {"A": 1, "B": 1, "C": 9}),
        (["A"], 4, {}),
        ([], 2, {"A": 1}),
    ]
    for _ in range(30):
        size, seats, *had = torch.randint(1, 9, (5,), generator=dice).tolist()
        names = ["ABC"[i] for i in torch.randint(0, 3, (size,), generator=dice).tolist()]
        cases.append((names, seats, dict(zip("ABC", had, strict=True))))
    for waiting, seats, given in cases:
        before = dict(given)
        got = answer(list(waiting), seats, given)
        case = f"waiting {waiting}, seats {seats}, given {before}"
        try:
            got = [int(i) for i in got]
        except (TypeError, ValueError):
            raise Wrong(f"{case}: return a list of positions in `waiting`, not {got!r}.") from None
        expect(given == before, f"{case}: `given` has changed. Count on a copy of it.")
        expect(len(set(got)) == len(got), f"{case}: one question got two tokens: {got}.")
        expect(
            all(0 <= i < len(waiting) for i in got), f"{case}: {got}, which are no positions in it."
        )
        room = min(seats, len(waiting))
        expect(
            len(got) == room,
            f"{case}: {len(got)} get a token, though {room} could: no seat stays empty.",
        )
        wanted = by_need(waiting, seats, given)
        names = [waiting[i] for i in got]
        expect(
            sorted(names) == sorted(waiting[i] for i in wanted),
            f"{case}: you give to {names}, expected {[waiting[i] for i in wanted]}. Each seat goes "
            "to the user with the fewest tokens so far, those of this step counted.",
        )
        expect(
            sorted(got) == sorted(wanted),
            f"{case}: the right users, but questions {sorted(got)}; expected {sorted(wanted)}, the "
            "first of each user's in the line.",
        )
    return "Eight windows open get nobody eight shares."
