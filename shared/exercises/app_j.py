"""Checks of appendix J's exercises: scaling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import torch

from shared.exercises.checking import exercise, expect, expect_error, expect_number

# J.1

WEIGHTS, GRADIENTS, OPTIMISER = 2, 2, 12  # bytes for each parameter


@exercise("J.1", "Predict: how many cards?")
def cards(dice, prediction, answer):
    """`answer(parameters, card_bytes, stage, other_bytes) -> cards`; `prediction` three numbers."""
    expect(
        isinstance(prediction, list | tuple) and len(prediction) == 3,
        f"predict the cards of stages 1, 2 and 3 in a list; you have {prediction!r:.60}.",
    )
    for stage, wanted in enumerate((None, 3, 3, 2)):
        told = f"a billion parameters on cards of 10 GB, 2 GB for the rest, stage {stage}"
        _expect_cards(answer(10**9, 10 * 10**9, stage, 2 * 10**9), wanted, told)
    for stage in (1, 2, 3):
        shared = sum((OPTIMISER, GRADIENTS, WEIGHTS)[:stage])
        for parameters, many in ((10**6, 1), (3 * 10**6, 4), (7 * 10**5, 17), (10**6, 16000)):
            if parameters * shared % many:
                continue
            fits = parameters * (16 - shared) + parameters * shared // many
            told = f"stage {stage}, where {many} card{'s' * (many > 1)} hold everything"
            _expect_cards(answer(parameters, fits, stage, 0), many, f"{told} to the last byte")
            short = _cards(parameters, fits + 5, stage, 6)
            _expect_cards(answer(parameters, fits + 5, stage, 6), short, f"{told} but one byte")
    for stage in (0, 1, 2, 3):
        shared = sum((OPTIMISER, GRADIENTS, WEIGHTS)[:stage])
        whole = 10**6 * (16 - shared)
        told = f"stage {stage} on cards with room for no more than what is never divided"
        _expect_cards(answer(10**6, whole + 9, stage, 9), None if stage else 1, told)
        _expect_cards(answer(10**6, 10, stage, 20), None, "cards too small for the rest alone")
    for _ in range(12):
        a, b, c = torch.rand(3, generator=dice).tolist()
        parameters, stage = int(10 ** (8 + 3 * a)), int(4 * b)
        card, other = int((20 + 70 * c) * 10**9), int(9 * a * 10**9)
        told = f"{parameters} parameters, cards of {card} bytes, {other} for the rest"
        given = answer(parameters, card, stage, other)
        _expect_cards(given, _cards(parameters, card, stage, other), f"{told}, stage {stage}")
    right = [_cards(13 * 10**9, 80 * 10**9, stage, 10 * 10**9) for stage in (1, 2, 3)]
    held = [p == wanted for p, wanted in zip(prediction, right, strict=True)]
    missed = ", ".join(str(i) for i, fine in enumerate(held, 1) if not fine)
    expect(
        all(held),
        f"your function is right. Your prediction for stage {missed} did not come true: ask your "
        "function, find out why, and say what you would predict now.",
    )
    return "What is not divided sets the limit, however many cards there are."


def _cards(parameters: int, card: int, stage: int, other: int) -> int | None:
    """In whole bytes: room that is left for the divided part, and how often that goes in."""
    shared = sum((OPTIMISER, GRADIENTS, WEIGHTS)[:stage]) * parameters
    room = card - other - (16 * parameters - shared)
    if shared == 0:
        return 1 if room >= 0 else None
    return -(-shared // room) if room > 0 else None


def _expect_cards(given, wanted: int | None, told: str) -> None:
    if wanted is None:
        expect(
            given is None,
            f"{told}: {given!r:.40}. No number of cards is enough there; return None.",
        )
        return
    expect(given is not None, f"{told}: you return None, but {wanted} would be enough.")
    number = expect_number(given, told)
    expect(number == int(number), f"{told}: {number:.2f} cards; there are only whole ones.")
    expect(number == wanted, f"{told}: {int(number)}, expected {wanted}.")


# J.2


@exercise("J.2", "A bug hunt: the rows nobody reads")
def rows_by_rank(dice, answer):
    """`answer(count, rank, ranks, epoch, seed) -> rows`."""
    for count, ranks in ((6, 1), (12, 3), (23, 4), (41, 2), (3, 5)):
        for epoch in (0, 3):
            seed = int(torch.randint(50, (), generator=dice))
            _expect_shared_out(answer, count, ranks, epoch, seed)
    draw = lambda epoch, seed: _shares(answer, 40, 2, epoch, seed)
    expect(draw(1, 5) == draw(1, 5), "asked twice for the same epoch and seed: two orders.")
    expect(draw(1, 5) != draw(2, 5), "epochs 1 and 2 have the same order of rows.")
    expect(draw(1, 5) != draw(1, 6), "with another seed, the order is the same.")
    expect(
        all(share != sorted(share) for share in draw(0, 3)),
        "40 rows on 2 ranks: each rank reads its rows from the first to the last; expected chance.",
    )
    mine = [set(draw(epoch, 5)[0]) for epoch in range(4)]
    expect(
        any(rows != mine[0] for rows in mine),
        "rank 0 gets the same rows in each epoch, in another order. Shuffle before you share out.",
    )
    return "Every row is somebody's, and nobody waits."


def _shares(answer, count, ranks, epoch, seed) -> list[list[int]]:
    shares, told = [], f"{count} rows on {ranks} rank{'s' * (ranks > 1)}"
    for rank in range(ranks):
        rows = answer(count, rank, ranks, epoch, seed)
        expect(
            hasattr(rows, "__len__") and not isinstance(rows, str | dict),
            f"return a list of row numbers; you return {rows!r:.40}.",
        )
        numbers = [expect_number(row, f"{told}: a row's number") for row in rows]
        wild = [row for row in numbers if row != int(row) or not 0 <= row < count]
        expect(not wild, f"{told}: rank {rank} should read row {(wild or [0])[0]:g}.")
        shares.append([int(row) for row in numbers])
    return shares


def _expect_shared_out(answer, count, ranks, epoch, seed) -> None:
    shares = _shares(answer, count, ranks, epoch, seed)
    told = f"{count} rows on {ranks} rank{'s' * (ranks > 1)}, epoch {epoch}"
    lengths = [len(share) for share in shares]
    read = Counter(row for share in shares for row in share)
    nobody = sorted(set(range(count)) - set(read))
    twice = [row for row in sorted(read) if read[row] > 1]
    by = [str(rank) for rank, share in enumerate(shares) if twice and twice[0] in share]
    also = f" Row {twice[0]} is read by rank{'s' * (len(by) > 1)} {', '.join(by)}." if twice else ""
    expect(
        not nobody, f"{told}: row{'s' * (len(nobody) > 1)} {_few(nobody)}: read by nobody.{also}"
    )
    expect(
        len(set(lengths)) == 1,
        f"{told}: the ranks read {lengths} rows. Those with more will wait for the others' "
        "gradients, for ever; give all as many, by letting some rows be read twice.",
    )
    most = -(-count // ranks)
    expect(
        lengths[0] == most,
        f"{told}: each rank reads {lengths[0]} rows, but {most} are enough.{also}",
    )
    expect(
        max(read.values()) - min(read.values()) <= 1,
        f"{told}: one row is read {max(read.values())} times, another {min(read.values())} times.",
    )


def _few(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:6])) + (" …" if len(rows) > 6 else "") or "none"


# J.3


@exercise("J.3", "A timetable for four stages")
def timetable(dice, answer):
    """`answer(stage, stages, bites) -> [("F", bite), …, ("B", bite), …]`."""
    for stages, bites in ((2, 2), (1, 3), (3, 5), (4, 8), (4, 2), (5, 1), (6, 11)):
        told = f"{stages} stage{'s' * (stages > 1)}, {bites} bite{'s' * (bites > 1)}"
        orders = [_order(answer(s, stages, bites), s, bites, told) for s in range(stages)]
        ends = _run(orders, told)
        ticks, least = max(ends.values()) + 1, 2 * (bites + stages - 1)
        expect(
            ticks <= least,
            f"{told}: right, but it takes {ticks} ticks, and {least} are enough. "
            f"{_late(orders, ends)}",
        )
        for stage, order in enumerate(orders):
            held, most = 0, 0
            for kind, _ in order:
                held += 1 if kind == "F" else -1
                most = max(most, held)
            expect(
                most <= stages - stage,
                f"{told}: right, and quick, but stage {stage} keeps the activations of {most} "
                f"bites at once, and needs no more than {stages - stage}.",
            )
    return "As quick as can be, and no more kept than there are stages ahead."


def _order(given, stage: int, bites: int, told: str) -> list[tuple[str, int]]:
    """What a stage is to do, examined for itself."""
    expect(
        isinstance(given, list | tuple)
        and all(isinstance(job, list | tuple) and len(job) == 2 for job in given)
        and all(job[0] in ("F", "B") and not isinstance(job[1], str) for job in given),
        f'{told}: stage {stage} should get a list such as [("F", 0), ("B", 0)]; you return '
        f"{given!r:.60}.",
    )
    order = [(kind, int(expect_number(bite, "the number of a bite"))) for kind, bite in given]
    for kind, name in (("F", "forward"), ("B", "backward")):
        done = sorted(bite for k, bite in order if k == kind)
        expect(
            done == list(range(bites)),
            f"{told}: stage {stage} runs {name} for these bites: {_few(done)}; expected each of "
            f"0 to {bites - 1} once.",
        )
    for bite in range(bites):
        expect(
            order.index(("F", bite)) < order.index(("B", bite)),
            f"{told}: stage {stage} runs bite {bite} backward before it has run it forward.",
        )
    return order


def _needs(stage: int, kind: str, bite: int, stages: int) -> tuple[int, str, int] | None:
    """The job of another stage that must be done before."""
    if kind == "F":
        return (stage - 1, "F", bite) if stage > 0 else None
    return (stage + 1, "B", bite) if stage < stages - 1 else None


def _run(orders: list[list], told: str) -> dict[tuple[int, str, int], int]:
    """The tick of each job, if every stage works down its list as soon as it can."""
    ends: dict[tuple[int, str, int], int] = {}
    at, tick = [0] * len(orders), 0
    while any(place < len(order) for place, order in zip(at, orders, strict=True)):
        ready = []
        for stage, order in enumerate(orders):
            if at[stage] < len(order):
                needed = _needs(stage, *order[at[stage]], len(orders))
                if needed is None or needed in ends:
                    ready.append(stage)
        if not ready:
            stage = next(s for s, order in enumerate(orders) if at[s] < len(order))
            kind, bite = orders[stage][at[stage]]
            other = _needs(stage, kind, bite, len(orders))
            raise_stuck(told, stage, kind, bite, other[0])
        for stage in ready:
            ends[stage, *orders[stage][at[stage]]] = tick
            at[stage] += 1
        tick += 1
    return ends


def raise_stuck(told: str, stage: int, kind: str, bite: int, other: int) -> None:
    way = {"F": "forward", "B": "backward"}[kind]
    expect(
        False,
        f"{told}: everybody waits. Stage {stage} wants to run bite {bite} {way}, which stage "
        f"{other} has not done, since its own list has something else before it.",
    )


def _late(orders: list[list], ends: dict) -> str:
    """Where the last stage, which never needs to wait for a backward pass, is idle too long."""
    last = len(orders) - 1
    for before, job in zip(orders[last], orders[last][1:], strict=False):
        start, end = ends[last, *before], ends[last, *job]
        if end > start + 1:
            name = f"{'forward' if job[0] == 'F' else 'backward'} of bite {job[1]}"
            return f"The last stage waits from tick {start + 1} to {end - 1} for the {name}."
    return "Some stage could have gone on with another bite while it waited."


# J.4


@exercise("J.4", "A model that will be used")
def used(dice, answer):
    """`answer(loss, served, law) -> (parameters, tokens)`."""
    easy = {"E": 1.0, "A": 10.0, "alpha": 0.5, "B": 10.0, "beta": 0.5}
    for served in (0.0, 4000.0):
        _expect_cheapest(answer, 2.0, served, easy, f"the law by hand, {served:g} tokens served")
    for _ in range(6):
        a, b, c, d = torch.rand(4, generator=dice).tolist()
        law = {"E": round(1.2 + a, 2), "A": round(200 + 400 * b), "alpha": round(0.3 + 0.1 * c, 3)}
        law |= {"B": round(300 + 500 * d), "beta": round(0.27 + 0.1 * a, 3)}
        loss = round(law["E"] + 0.25 + 0.5 * c, 3)
        for served in (0.0, 10 ** (8 + 4 * b)):
            told = f"loss {loss} with {law}, {served:.3g} tokens served"
            _expect_cheapest(answer, loss, served, law, told)
    for loss in (1.0, 0.7):
        expect_error(
            ValueError,
            lambda loss=loss: answer(loss, 0.0, dict(easy)),
            f"a loss of {loss} with E = 1.0: no size reaches it; expected a ValueError.",
        )
    return "Whoever will be asked often had better be small."


def _tokens(parameters: float, loss: float, law: dict) -> float:
    """How many tokens bring a model of this size to the loss."""
    left = loss - law["E"] - law["A"] / parameters ** law["alpha"]
    return (law["B"] / left) ** (1 / law["beta"]) if left > 0 else math.inf


def _cost(parameters: float, tokens: float, served: float) -> float:
    return 6 * parameters * tokens + 2 * parameters * served


def _cheapest(loss: float, served: float, law: dict, cost: Callable = _cost) -> float:
    """The lowest cost: thirds, since the cost falls and then rises along log N."""
    smallest = math.log(law["A"] / (loss - law["E"])) / law["alpha"]
    low, high = smallest, smallest + 40
    price = lambda x: cost(math.exp(x), _tokens(math.exp(x), loss, law), served)
    for _ in range(200):
        one, two = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, two) if price(one) < price(two) else (one, high)
    return math.exp((low + high) / 2)


def _expect_cheapest(answer, loss: float, served: float, law: dict, told: str) -> None:
    given = answer(loss, served, dict(law))
    expect(
        hasattr(given, "__len__") and not isinstance(given, str | dict) and len(given) == 2,
        f"{told}: return two numbers, parameters and tokens; you return {given!r:.60}.",
    )
    size = expect_number(given[0], f"{told}: the parameters")
    tokens = expect_number(given[1], f"{told}: the tokens")
    expect(
        size > 0 and tokens > 0,
        f"{told}: {size:.4g} parameters and {tokens:.4g} tokens; both must be above 0.",
    )
    best = _cheapest(loss, served, law)
    turned = abs(tokens / best - 1) < 0.02 and abs(size / _tokens(best, loss, law) - 1) < 0.02
    expect(
        not turned or abs(size / tokens - 1) < 0.05,
        f"{told}: {size:.4g} parameters, {tokens:.4g} tokens. Right numbers, in the wrong order.",
    )
    reached = law["E"] + law["A"] / size ** law["alpha"] + law["B"] / tokens ** law["beta"]
    expect(
        abs(reached - loss) < 2e-3 * (loss - law["E"]),
        f"{told}: {size:.4g} parameters and {tokens:.4g} tokens reach {reached:.4f}.",
    )
    least, price = (_cost(n, _tokens(n, loss, law), served) for n in (best, size))
    usual = _cheapest(loss, 0.0, law)
    expect(
        served == 0 or abs(size / usual - 1) > 0.02 or abs(best / usual - 1) < 0.04,
        f"{told}: {size:.4g} parameters, as if nobody would ever use the model.",
    )
    expect(
        price < 1.002 * least,
        f"{told}: {size:.4g} parameters and {tokens:.4g} tokens cost {price:.4g} FLOPs in all, "
        f"{100 * (price / least - 1):.1f} % more than a {'smaller' if best < size else 'larger'} "
        "model that reaches the same loss.",
    )
