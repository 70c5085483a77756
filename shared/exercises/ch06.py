"""Checks and quick questions of chapter 6: classification fine-tuning."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shared.exercises.checking import Wrong, exercise, expect, expect_same, expect_tensor
from shared.exercises.questions import question, right, wrong
from shared.previous_chapters import IGNORED, GPTConfig, GPTModel, next_token_loss


def number(given: Any, what: str) -> float:
    """`given` as a float, if it is one finite number."""
    if isinstance(given, Tensor) and given.numel() == 1:
        given = given.item()
    try:
        value = float(given)
    except (TypeError, ValueError):
        raise Wrong(f"{what}: of type {type(given).__name__}, expected one number.") from None
    expect(not isinstance(given, str), f"{what}: a text, expected one number.")
    expect(math.isfinite(value), f"{what}: {value}, expected a finite number.")
    return value


def numbers(given: Any, count: int, what: str) -> list[float]:
    """`given` as so many floats."""
    try:
        items = list(given)
    except TypeError:
        raise Wrong(f"{what}: of type {type(given).__name__}, expected {count} numbers.") from None
    expect(len(items) == count, f"{what}: {len(items)} things, expected {count} numbers.")
    return [number(item, f"{what}, number {i + 1} of {count}") for i, item in enumerate(items)]


@exercise("6.1", "Predict: the same filter on another phone")
def base_rates(dice, answer):
    """Four shares: precision at half spam and at 2 %, right answers of the filter and of never."""
    given = numbers(answer, 4, "your prediction")
    expect(
        all(0 <= x <= 1 for x in given),
        f"shares lie between 0 and 1 (98 % is 0.98), and one of yours is {max(given, key=abs):g}.",
    )
    total, found, alarms = 10_000, 0.95, 0.02

    def called(share: float) -> tuple[float, float]:
        return found * share * total, alarms * (1 - share) * total

    (half_hits, half_alarms), (hits, false) = called(0.5), called(0.02)
    half, phone = half_hits / (half_hits + half_alarms), hits / (hits + false)
    near = lambda x, y: abs(x - y) < 0.0011
    for place, name in ((0, "first"), (1, "second")):
        expect(
            not near(given[place], found),
            f"your {name} number is the recall: of what is spam, the share that is called so. "
            "Precision asks the other way round: of what is called spam, how much is?",
        )
    ratio = "how many are called spam, and how many of those are? That ratio is not your number."
    expect(near(given[0], half), f"the first: of 10,000 messages, half of them spam, {ratio}")
    expect(
        not near(given[1], half),
        "the second: the filter is the same, and still its precision is not. Count again in "
        "10,000 messages of which 200 are spam.",
    )
    expect(near(given[1], phone), f"the second: of 10,000 messages, 200 of them spam, {ratio}")
    expect(
        abs(given[2] - 0.9794) < 0.00055,
        "the third: right are the spams that are found, and the hams that are left alone. "
        f"You say that these are {given[2] * total:,.0f} of 10,000.",
    )
    expect(
        abs(given[3] - 0.98) < 0.00045,
        f"the fourth: whoever never says spam is right on every ham. You say {given[3]:g}.",
    )
    return "On the phone, every second message that it takes away is ham."


@exercise("6.2", "A bug hunt: who is in the batch?")
def last_logits(dice, answer):
    """`answer(logits, token_ids) -> (rows, classes)` at the last real token; 0 is the filling."""
    ids = torch.randint(1, 90, (4, 9), generator=dice)
    lengths = [9, 5, 3, 7]
    ids[:, 0] = 0  # end of text in front
    ids[3, 3] = 0  # and in the middle
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = 0
    logits = torch.randn(4, 9, 3, generator=dice)
    given = answer(logits.clone(), ids.clone())
    expect_tensor(given, (4, 3), "your logits (rows, classes)")
    wider = torch.cat([logits, torch.randn(4, 4, 3, generator=dice)], dim=1)
    more = answer(wider.clone(), torch.cat([ids, torch.zeros(4, 4, dtype=torch.long)], dim=1))
    expect_tensor(more, (4, 3), "your logits (rows, classes)")
    for row, length in enumerate(lengths):
        place, after = _place(given[row], logits[row]), _place(more[row], wider[row])
        expect(
            torch.equal(given[row], more[row]),
            f"the message in row {row} gets another answer when a longer message joins the batch: "
            f"with {9 - length} places of filling behind it, it is read at {place}, with "
            f"{13 - length} at {after}. Its {length} tokens are the same.",
        )
        expect(
            torch.equal(given[row], logits[row, length - 1]),
            f"the message in row {row}, {ids[row].tolist()}, is read at {place}. Its last token "
            f"stands at place {length - 1}.",
        )
    return "Whoever else is in the batch, each message gets the same answer."


def _place(read: Tensor, logits: Tensor) -> str:
    """At which place of a row these logits stand."""
    found = (logits == read).all(-1).nonzero().flatten().tolist()
    return f"place {found[0]}" if found else "no place of its row"


@exercise("6.3", "Macro F1")
def macro_f1(dice, answer):
    """`answer(guessed, labels, num_classes) -> float`, from lists of classes."""
    drawn = torch.randint(0, 4, (2, 40), generator=dice)
    drawn[1, drawn[0] == 2] = 2  # some right ones
    guessed, labels = drawn[0].tolist(), drawn[1].tolist()
    guessed = [0 if g == 3 else g for g in guessed]  # class 3 is never said
    labels[:3] = [3, 3, 3]
    cases = [
        ("the example by hand", [0, 0, 0, 1, 1], [0, 0, 1, 1, 0], 2),
        ("four classes, one of them never said", guessed, labels, 4),
        ("three classes, and nobody is ever in the last", [0, 1, 1, 0, 1], [0, 1, 0, 0, 1], 3),
        ("nothing right at all", [1, 0, 1], [0, 1, 0], 2),
    ]
    values = [
        number(answer(list(said), list(true), count), f"your macro F1 ({name})")
        for name, said, true, count in cases
    ]
    known = [_f1(said, true, count) for _, said, true, count in cases]
    off = [abs(v - wanted) > 1e-4 for v, (wanted, _) in zip(values, known, strict=True)]
    if any(off):
        name, value, (wanted, others) = next(
            (case[0], v, k) for case, v, k, o in zip(cases, values, known, off, strict=True) if o
        )
        for place, (_, why) in enumerate(others):
            also = [abs(v - k[1][place][0]) < 1e-6 for v, k in zip(values, known, strict=True)]
            expect(not all(also), f"{name}: {value:.3f}, expected {wanted:.3f}. {why}")
        expect_same(value, wanted, f"your macro F1 ({name})", atol=1e-4)
    return "Each class has one voice, however rare it is."


def _f1(said: Sequence[int], true: Sequence[int], count: int) -> tuple[float, list]:
    """The right value, and what other formulas give, with what to say about them."""
    pairs = list(zip(said, true, strict=True))
    hits = [sum(g == y == c for g, y in pairs) for c in range(count)]
    called, real = (
        [said.count(c) for c in range(count)],
        [list(true).count(c) for c in range(count)],
    )
    each = [2 * h / (a + b) if h else 0.0 for h, a, b in zip(hits, called, real, strict=True)]
    some = [f for f, a, b in zip(each, called, real, strict=True) if a + b]
    precision = sum(h / a if a else 0.0 for h, a in zip(hits, called, strict=True)) / count
    recall = sum(h / b if b else 0.0 for h, b in zip(hits, real, strict=True)) / count
    both = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    others = [
        (
            sum(hits) / len(pairs),
            "That is the share of right answers: frequent classes rule it.",
        ),
        (
            sum(each) / max(1, sum(h > 0 for h in hits)),
            "You left out the classes of which nothing was right; they count, with 0.",
        ),
        (sum(some) / len(some), "You left out the class that nobody is in; it counts, with 0."),
        (both, "First one F1 for each class, then their mean; not the other way round."),
        (
            sum(f * b for f, b in zip(each, real, strict=True)) / len(pairs),
            "You weighted each class by how frequent it is. Here, all classes weigh the same.",
        ),
        (sum(each), "That is the sum over the classes; divide it by how many there are."),
        (round(sum(each) / count, 3), "Right, but rounded: return it as it is."),
        (round(sum(each) / count, 2), "Right, but rounded: return it as it is."),
        (recall, "That is the mean recall. F1 asks about precision as well."),
        (precision, "That is the mean precision. F1 asks about recall as well."),
    ]
    return sum(each) / count, others


@exercise("6.4", "A threshold for a promise")
def threshold_for(dice, answer):
    """`answer(scores, labels, wanted)`: the lowest score with at least that precision, or None."""
    cases = [
        ("the example by hand", [0.9, 0.8, 0.6, 0.4], [1, 0, 1, 0], 0.6),
        ("the surest message is a ham", [0.95, 0.9, 0.8, 0.7, 0.6], [0, 1, 1, 1, 0], 0.7),
        ("two messages with the same score", [0.9, 0.9, 0.4, 0.2], [1, 0, 0, 1], 0.8),
        ("a promise that nobody can keep", [0.7, 0.6, 0.5], [0, 0, 1], 0.9),
        ("all are spam", [0.3, 0.2, 0.25], [1, 1, 1], 0.5),
    ]
    scores = (torch.randperm(60, generator=dice) + 20).div(100)
    scores[:20] = scores[20:40]  # equal ones
    chance = scores.sub(0.2).div(0.6).clamp(0, 1)
    labels = (torch.rand(60, generator=dice) < chance).long().tolist()
    levels = sorted({round(p, 9) for _, p in _precisions(scores.tolist(), labels)})
    for place in (len(levels) // 3, len(levels) * 2 // 3):
        middle = (levels[place] + levels[place - 1]) / 2  # no precision lies exactly there
        cases.append(("sixty messages", scores.tolist(), labels, middle))
    for name, given, truth, wanted in cases:
        good = [t for t, p in _precisions(given, truth) if p >= wanted]
        value = answer(list(given), list(truth), wanted)
        if value is None:
            best = max(p for _, p in _precisions(given, truth))
            expect(
                not good,
                f"{name}: you return None for a precision of {wanted:.2f}, but there is a "
                f"threshold that reaches {best:.2f}. Precision may rise again further down.",
            )
            continue
        value = number(value, f"your threshold ({name})")
        expect(
            good,
            f"{name}: no threshold has a precision of {wanted:.2f}; expected None, not {value:g}.",
        )
        hits, called = _called(given, truth, value - 1e-6)
        expect(called, f"{name}: above your threshold {value:g} there is no message at all.")
        expect(
            hits / called >= wanted,
            f"{name}: from your threshold {value:g} on, {called} messages are called spam and "
            f"{hits} of them are. You promised {wanted:.0%}.",
        )
        expect(
            value < min(good) + 1e-4,
            f"{name}: {value:g} keeps the promise, and so does {min(good):g}, which finds more of "
            "the spam. Take the lowest.",
        )
        expect(
            value > min(good) - 1e-4,
            f"{name}: {value:g} is none of the scores; the lowest that keeps the promise is "
            f"{min(good):g}.",
        )
    return "The promise is kept, and as much spam as can be is found."


def _called(scores: Sequence[float], labels: Sequence[int], threshold: float) -> tuple[int, int]:
    chosen = [y for s, y in zip(scores, labels, strict=True) if s >= threshold]
    return sum(chosen), len(chosen)


def _precisions(scores: Sequence[float], labels: Sequence[int]) -> list[tuple[float, float]]:
    found = [(t, *_called(scores, labels, t)) for t in sorted(set(scores))]
    return [(t, hits / called) for t, hits, called in found]


TRAIN = (
    "Your parcel waits at the depot, pay 250 now",
    "Dinner is at six, bring the dog",
    "ok",
)
TEST = (
    ("Dinner is at six, bring the dog", "word for word in training"),
    ("YOUR PARCEL   waits at the depot, pay 250 NOW", "the same but for capitals and spaces"),
    ("Your parcel waits at the depot, pay 999 now", "the same but for the digits"),
    ("Dinner is at six, bring the cat", "one word changed"),
    ("The choir meets on Tuesday in the hall", "not near to training, only to another test"),
    ("bring the dog", "not near: it shares all that it has, but the two together are mostly other"),
    ("depot the at waits parcel your now 250 pay", "not near: the same words in another order"),
    ("The choir meets on Tuesday in the old hall", "not near to training, only to another test"),
    ("no", "not near: a short text of its own"),
    ("ok", "a short text, word for word in training"),
)


@exercise("6.5", "What leaks from training into the test")
def leaks(dice, answer):
    """`answer(train, test, least) -> places in test`; Jaccard of runs of five letters."""
    order = torch.randperm(len(TEST), generator=dice).tolist()
    tests = [TEST[i] for i in order]
    for least in (0.5, 0.95):
        given = answer(list(TRAIN), [text for text, _ in tests], least)
        try:
            given = list(given)
            expect(
                not any(isinstance(i, bool) for i in given),
                "you return True or False for texts; return the places in `test`, such as [0, 3].",
            )
            found = sorted(int(i) for i in given)
        except (TypeError, ValueError):
            raise Wrong("return the places in `test`, such as [0, 3].") from None
        expect(
            all(0 <= i < len(tests) for i in found),
            f"your places {found} do not all lie in `test`, which has {len(tests)} texts.",
        )
        expect(len(found) == len(set(found)), f"a place comes twice in {found}.")
        for place, (text, note) in enumerate(tests):
            nearest = max(_alike(text, other) for other in TRAIN)
            told = f"{text!r} ({note})"
            if nearest >= least:
                expect(
                    place in found,
                    f"{told} is not found at least={least}: its similarity to a training text is "
                    f"{nearest:.2f}.",
                )
            else:
                expect(
                    place not in found,
                    f"{told} is taken for a leak at least={least}: its nearest training text has "
                    f"the similarity {nearest:.2f}.",
                )
    return "Copies in other clothes are found, and strangers are left alone."


def _runs(text: str) -> set[str]:
    same = "".join("#" if letter in "0123456789" else letter for letter in text.lower())
    short = " ".join(same.split())
    return set(map("".join, zip(*(short[k:] for k in range(5)), strict=False))) or {short}


def _alike(one: str, other: str) -> float:
    a, b = _runs(one), _runs(other)
    return len(a & b) / len(a | b)


def _small_classifier(dice: torch.Generator) -> nn.Module:
    seed = int(torch.randint(1000, (), generator=dice))
    config = GPTConfig(vocab_size=11, context_length=8, embed_dim=12, num_heads=3, num_layers=1)
    model = GPTModel(config, seed=seed)
    model.output_head = nn.Linear(12, 2)
    nn.init.normal_(model.output_head.weight, std=0.1, generator=dice)
    nn.init.zeros_(model.output_head.bias)
    return model


def _label_batches(dice: torch.Generator, count: int) -> list[tuple[Tensor, Tensor]]:
    batches = []
    for _ in range(count):
        targets = torch.full((3, 7), IGNORED)
        targets[:, -1] = torch.randint(2, (3,), generator=dice)
        batches.append((torch.randint(11, (3, 7), generator=dice), targets))
    return batches


@exercise("6.6", "A bug hunt: the head alone")
def head_step(dice, answer):
    """`answer(model, optimizer, inputs, targets) -> loss`: one step of the head, nothing else."""
    model = _small_classifier(dice)
    first, *batches = _label_batches(dice, 5)
    for warm in (False, True):
        trained, alone = copy.deepcopy(model), copy.deepcopy(model)
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.02, weight_decay=0.5)
        other = torch.optim.AdamW(alone.parameters(), lr=0.02, weight_decay=0.5)
        if warm:  # one step in which everything learns
            _plain_step(trained, optimizer, first)
            _plain_step(alone, other, first)
            alone.load_state_dict(trained.state_dict())
        rest = [p for n, p in alone.named_parameters() if not n.startswith("output_head")]
        for p in rest:
            p.requires_grad_(False)
            p.grad = None
        before = {n: p.detach().clone() for n, p in trained.named_parameters()}
        for inputs, targets in batches:
            wanted = _plain_step(alone, other, (inputs, targets))
            loss = number(answer(trained, optimizer, inputs, targets), "the loss that you return")
            _look_at_frozen(trained, before, warm)
            _look_at_head(trained, alone, before)
            expect_same(loss, wanted, "the loss that you return", atol=1e-4)
    return "The head learns, and not one number below it moves."


def _plain_step(model: nn.Module, optimizer, batch: tuple[Tensor, Tensor]) -> float:
    loss = next_token_loss(model, *batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _look_at_head(model: nn.Module, wanted: nn.Module, before: dict[str, Tensor]) -> None:
    right = dict(wanted.named_parameters())
    for name, parameter in model.named_parameters():
        if name.startswith("output_head"):
            expect(
                not torch.equal(parameter, before[name]),
                f"after your step {name} is what it was: the head learns nothing.",
            )
            expect(
                torch.allclose(parameter, right[name], atol=1e-4),
                f"{name} has moved, but not as the head moves when it is trained alone by the "
                "same optimizer.",
            )


def _look_at_frozen(model: nn.Module, before: dict[str, Tensor], warm: bool) -> None:
    when = "after a step in which everything was trained, and then yours" if warm else "in a step"
    for name, parameter in model.named_parameters():
        if name.startswith("output_head"):
            continue
        change = (parameter.detach() - before[name]).abs().max()
        size = before[name].abs().sum()
        share = float(parameter.detach().abs().sum() / size) if size > 0 else 1.0
        expect(
            change == 0,
            f"{when}, {name} has moved, by up to {float(change):.2g}, and should not: added up, "
            f"its numbers are {share:.1%} of what they were. The head alone was to learn.",
        )


STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def _paired(recipe: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    gains = [b - a for a, b in zip(recipe, other, strict=True)]
    count, mean = len(gains), sum(gains) / len(gains)
    spread = math.sqrt(sum((g - mean) ** 2 for g in gains) / (count - 1))
    reach = STUDENT[count - 1] * spread / math.sqrt(count)
    return mean, mean - reach, mean + reach


@exercise("6.7", "Five changes, eight seeds")
def seed_interval(dice, answer, real, runs):
    """`answer(recipe, other) -> (mean, low, high)` over seeds; the changes that are real."""
    for count in (4, 7):
        luck = 0.1 * torch.randn(count, generator=dice).double()
        recipe = (0.8 + luck).tolist()
        other = (0.82 + luck + 0.02 * torch.randn(count, generator=dice).double()).tolist()
        mean, low, high = numbers(answer(list(recipe), list(other)), 3, "your (mean, low, high)")
        wanted = _paired(recipe, other)
        expect(
            abs(mean + wanted[0]) > 1e-6,
            f"your mean is {mean:+.3f}: that is how much better the recipe is. Expected how much "
            "better the change is, other minus recipe.",
        )
        expect_same(mean, wanted[0], "the mean difference", atol=1e-6)
        for reach, why in _other_reaches(recipe, other):
            expect(abs((high - low) / 2 - reach) > 1e-5 * reach, why)
        expect_same([low, high], list(wanted[1:]), "the interval", atol=1e-4)
    try:
        named = set(real)
    except TypeError:
        raise Wrong("`real` should be a set of names of changes.") from None
    truly = set()
    for name, shares in runs.items():
        if name != "the recipe":
            _, low, high = _paired(runs["the recipe"], shares)
            truly |= {name} if low > 0 or high < 0 else set()
            told = f"{name!r}: its interval goes from {low:+.3f} to {high:+.3f}"
            expect(name in named or name not in truly, f"{told}. 0 is outside; that is real.")
            expect(name not in named or name in truly, f"{told}. It holds 0; that may be luck.")
    extra = named - set(runs)
    expect(not extra and "the recipe" not in named, f"{extra or 'the recipe'}: no such change.")
    return f"Real: {', '.join(sorted(truly)) or 'none'}."


def _other_reaches(recipe: Sequence[float], other: Sequence[float]) -> list[tuple[float, str]]:
    """Half widths that other formulas give, with what to say about them."""
    a, b = torch.tensor(recipe).double(), torch.tensor(other).double()
    gains, count = b - a, len(a)
    t, root = STUDENT[count - 1], math.sqrt(count)
    apart = math.sqrt((a.var() + b.var()) / count)
    wide = (
        "your interval is far too wide: it takes the two groups apart. The same seed stands at "
        "the same place of both, so look at the differences, seed by seed."
    )
    return [
        (t * apart, wide),
        (1.96 * apart, wide),
        (STUDENT.get(2 * count - 2, 2.18) * apart, wide),
        (
            t * float(gains.std()),
            "your interval says how far single runs lie apart. How sure is their mean? "
            "That is the spread over the root of how many there are.",
        ),
        (
            1.96 * float(gains.std()) / root,
            "1.96 is for many runs. For so few, the spread itself is only guessed: take the "
            "factor from T95.",
        ),
        (
            t * float(gains.std(correction=0)) / root,
            "your spread divides by the number of runs; divide by one less, since the mean was "
            "taken from the same runs.",
        ),
        (
            STUDENT[count] * float(gains.std()) / root,
            f"with {count} runs, the place to look at in T95 is {count - 1}.",
        ),
    ]


READINGS = ("too sure", "about right", "too modest", "cannot tell")


@exercise("6.8", "Read four diagrams")
def reliability(dice, answer):
    """What each of the diagrams A to D says, in the words of `READINGS`."""
    expect(
        isinstance(answer, dict) and set(answer) == set("ABCD"),
        'give one reading for each diagram: {"A": "too sure", "B": …, "C": …, "D": …}.',
    )
    said = {k: str(v).strip().lower() for k, v in answer.items()}
    for name, word in said.items():
        expect(word in READINGS, f"{name}: {word!r} is none of {', '.join(READINGS)}.")
    pair = (said["A"], said["C"])
    expect(
        pair != ("too modest", "too sure"),
        "A and C are the wrong way round. A dot below the dashed line: it was right less often "
        "than it was sure.",
    )
    clues = {
        "A": ("too sure", "where are its dots, below the line or above it, and do the bars reach?"),
        "C": ("too modest", "read one of its dots aloud: when it was … % sure, it was right in …"),
        "B": ("about right", "its bars are short, and where do they lie with respect to the line?"),
        "D": ("cannot tell", "how long are its bars, and would another line fit between them?"),
    }
    for name, (word, clue) in clues.items():
        expect(said[name] == word, f"{name} is not {said[name]!r}: {clue}")
    return "Dots say which way, bars say how sure you can be of it."


QUESTIONS = [
    question(
        "6.a",
        "The test holds 900 hams and 100 spams. The matrix, rows *is*, columns *said*: "
        "`[[890, 10], [40, 60]]`. Which sentence is true?",
        wrong(
            "It is right on 95 %, so it finds 95 % of the spam.",
            "It is right on 950 of 1,000. Of the 100 spams it finds 60.",
        ),
        right(
            "It misses 40 % of the spam, and one of seven messages that it calls spam is ham.",
            "Lower row: 40 of 100 missed. Right column: 10 of 70 are ham.",
        ),
        wrong(
            "It loses 10 % of the hams.",
            "10 of 900, about 1 %. The 10 is a count, not a share of its row.",
        ),
    ),
    question(
        "6.b",
        "Somebody fills the rows up on the *left*, to read all of them in the last column, and "
        "changes nothing else in our model. What happens?",
        wrong(
            "Nothing: the last column now holds the last real token.",
            "It does, but that token has looked at all the filling before it.",
        ),
        right(
            "The answer depends on the company again: the token sees the filling before it.",
            "It looks back at the filling, and its own place number has changed as well. Filling "
            "on the left needs a mask, and places counted from the first real token.",
        ),
        wrong(
            "The model raises an error.",
            "Nothing complains. That is what makes this mistake expensive.",
        ),
    ),
    question(
        "6.c",
        "Two classifiers answer the same 1,000 messages. Both are right on 930, both wrong on 20, "
        "only the first on 32, only the second on 18. Which of these messages say anything about "
        "which one is better?",
        wrong("All 1,000.", "Where both are right or both wrong, neither is ahead."),
        right(
            "The 50 on which they disagree.",
            "If they were equally good, these would fall like coins: 32 of 50 or more, on one "
            "side or the other, comes in about 6 of 100 cases. This is McNemar's test.",
        ),
        wrong(
            "The 70 on which at least one is wrong.",
            "Twenty of those are wrong for both, and tell nothing about the difference.",
        ),
    ),
    question(
        "6.d",
        "You choose the temperature on the *training* part, which the model knows by heart. What "
        "comes out?",
        right(
            "A temperature below 1, and chances that are still further from the truth.",
            "On texts that it knows it is nearly always right, so being surer costs nothing there.",
        ),
        wrong(
            "About the same as on the validation part: it is one number.",
            "One number cannot be learnt by heart, but the logits that it is fitted to were.",
        ),
        wrong(
            "A temperature far above 1.",
            "That would make it less sure where it is nearly always right; the loss would rise.",
        ),
    ),
    question(
        "6.e",
        "Spam is 1 in 50. You weigh each spam's loss by 49, so that both labels count the same, "
        "and train to the end. What is true of the chances that come out?",
        wrong(
            "They are now the true chances, since both labels were treated fairly.",
            "They are the chances in a world where half of the messages are spam.",
        ),
        right(
            "A message with 50 % has a true chance of about 2 %.",
            "The odds were multiplied by 49. Divide them by 49 again, or move the threshold.",
        ),
        wrong(
            "Nothing changes: weights alter how fast it learns, not what.",
            "They alter what has the lowest loss. A weight of 49 is like 49 copies.",
        ),
    ),
    question(
        "6.f",
        "A run with one change is better than the recipe by 0.4 points, on the same 2,000 "
        "messages; two runs of the recipe with other seeds differ by 0.7 points. What do you say?",
        wrong(
            "2,000 messages are many: the change helps.",
            "Many messages make sure which of these two *runs* is better, not which *way*.",
        ),
        right(
            "Nothing yet: other seeds alone move it further than that.",
            "Repeat both with the same seeds, and look at the differences, seed by seed.",
        ),
        wrong(
            "The change does nothing.",
            "That has not been shown either. The effect may be there, and too small to be seen "
            "with one run of each.",
        ),
    ),
]
