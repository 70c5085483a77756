"""How an answer is examined, and what the reader is told."""

from __future__ import annotations

import dis
import importlib
import linecache
import math
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

SEED = 0  # of what `check` draws; a grader's own seeds are kept out of the student's copy
HERE = Path(__file__).resolve().parent
PACKAGES = Path(torch.__file__).resolve().parent.parent


class Wrong(AssertionError):
    """What is wrong with an answer, in the reader's terms."""


@dataclass(frozen=True)
class Exercise:
    """`examine(dice, *answers)` raises `Wrong`, or returns what else there is to say."""

    number: str
    title: str
    examine: Callable[..., str | None]


@dataclass(frozen=True)
class Verdict:
    """What came of examining an answer: "right", "wrong", "raised" or "unanswered"."""

    kind: str
    text: str = ""

    @property
    def right(self) -> bool:
        return self.kind == "right"


def exercise(number: str, title: str) -> Callable[[Callable], Exercise]:
    """Make a check of the function below: `examine(dice, *answers)`, `dice` a seeded generator."""
    return lambda examine: Exercise(number, title, examine)


def exercises_of(module: ModuleType) -> dict[str, Exercise]:
    """The exercises that a module of this package defines, by number."""
    found = [thing for thing in vars(module).values() if isinstance(thing, Exercise)]
    return {thing.number: thing for thing in found}


def module_of(number: str) -> ModuleType:
    """The module that holds an exercise or a question: "3.2" stands in ch03, "D.1" in app_d.

    Raises:
        KeyError: there is no such chapter.
    """
    part = number.partition(".")[0]
    name = f"ch{int(part):02}" if part.isdigit() else f"app_{part.lower()}"
    try:
        return importlib.import_module(f"shared.exercises.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"shared.exercises.{name}":
            raise
        raise KeyError(f"{number!r}: there are no exercises of {part!r}") from None


def find(number: str) -> Exercise:
    """The exercise of this number.

    Raises:
        KeyError: no such exercise; says which there are.
    """
    known = exercises_of(module_of(number))
    if number not in known:
        raise KeyError(f"no exercise {number!r}; there are {', '.join(known)}")
    return known[number]


# What a check is written with


def expect(condition: object, otherwise: str) -> None:
    """Raise `Wrong(otherwise)` unless the condition holds."""
    if not condition:
        raise Wrong(otherwise)


def expect_same(given: Any, wanted: Any, what: str, atol: float = 1e-5) -> None:
    """Raise `Wrong` unless two tensors, arrays, lists, texts or numbers are the same.

    Shapes come first, then the first place that differs. `what` begins the sentence, and may
    be used as in "your weights".
    """
    given, wanted = _plain(given), _plain(wanted)
    shapes = _shape(given), _shape(wanted)
    if shapes[0] != shapes[1]:
        told = [f"of shape {s}" if s else "a single number or text" for s in shapes]
        raise Wrong(f"{what}: {told[0]}, expected {told[1]}.")
    for place, one, other in _pairs(given, wanted):
        if not _equal(one, other, atol):
            where = f" at {list(place)}" if place else ""
            raise Wrong(f"{what}{where}: {_short(one)}, expected {_short(other)}.")


def expect_tensor(given: Any, shape: tuple[int, ...], what: str) -> None:
    """Raise `Wrong` unless `given` is a tensor of this shape without infinities or nans."""
    if not isinstance(given, torch.Tensor):
        raise Wrong(f"{what}: a {type(given).__name__}, expected a tensor.")
    if tuple(given.shape) != shape:
        raise Wrong(f"{what}: of shape {tuple(given.shape)}, expected {shape}.")
    if not all(_is_finite(x) for x in given.detach().double().flatten().tolist()):
        raise Wrong(f"{what}: holds a nan or an infinity.")


def expect_number(given: Any, what: str) -> float:
    """A finite number, also one in a tensor or an array of its own; or the check fails."""
    if getattr(given, "ndim", None) == 0:
        given = given.item()
    expect(
        isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given),
        f"{what}: return a number; you return {given!r:.60}.",
    )
    return float(given)


def expect_error(kind: type[Exception], call: Callable[[], Any], otherwise: str) -> str:
    """Raise `Wrong(otherwise)` unless `call()` raises an error of this kind; its message."""
    try:
        call()
    except kind as error:
        return str(error)
    raise Wrong(otherwise)


def _plain(thing: Any) -> Any:
    """Tensors and arrays as nested lists of numbers, tuples as lists."""
    if isinstance(thing, torch.Tensor):
        return thing.detach().tolist()
    if isinstance(thing, np.ndarray | np.generic):
        return thing.tolist()
    if isinstance(thing, list | tuple):
        return [_plain(x) for x in thing]
    return thing


def _shape(thing: Any) -> tuple[int, ...]:
    """Lengths of nested lists, down to where they are not all alike."""
    if not isinstance(thing, list):
        return ()
    inner = {_shape(x) for x in thing}
    return (len(thing), *(inner.pop() if len(inner) == 1 else ()))


def _pairs(one: Any, other: Any, place: tuple[int, ...] = ()) -> Iterator[tuple]:
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _pairs(a, b, (*place, i))
    else:
        yield place, one, other


def _is_finite(x: float) -> bool:
    return x == x and x not in (float("inf"), float("-inf"))


def _equal(one: Any, other: Any, atol: float) -> bool:
    numbers = [isinstance(x, int | float) and not isinstance(x, bool) for x in (one, other)]
    if not all(numbers):
        return type(one) is type(other) and one == other
    if not (_is_finite(one) and _is_finite(other)):
        return one == other or (one != one and other != other)
    return abs(one - other) <= atol + 1e-5 * abs(other)


def _short(x: Any) -> str:
    text = f"{x:.4g}" if isinstance(x, float) else repr(x)
    return text if len(text) < 80 else text[:76] + " …"


# Examining


def is_blank(answer: Any) -> bool:
    """Whether an answer was left as it came: None, `...`, or a function with nothing in it."""
    if answer is None or answer is ...:
        return True
    if isinstance(answer, type):
        return any(is_blank(f) for f in vars(answer).values() if isinstance(f, FunctionType))
    if not isinstance(answer, FunctionType):
        return False
    nothing = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE", "POP_TOP"}
    nothing |= {"COPY_FREE_VARS", "RETURN_GENERATOR", "MAKE_CELL"}
    returns_none = {c for c in answer.__code__.co_consts if c is not ...} <= {
        None,
        answer.__doc__,
    }
    return returns_none and all(i.opname in nothing for i in dis.get_instructions(answer))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, random numbers start from a fixed seed; outside, nobody notices."""
    plain, numbers, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    gradients = torch.is_grad_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(numbers)
            torch.set_num_threads(threads)
            torch.set_grad_enabled(gradients)


def examine(number: str, answers: tuple, seed: int = SEED) -> Verdict:
    """What is to be said about these answers; never raises for what an answer does.

    Raises:
        KeyError: no such exercise.
    """
    task = find(number)
    if any(is_blank(answer) for answer in answers):
        return Verdict("unanswered", "not answered yet")
    try:
        with undisturbed():
            return Verdict(
                "right", task.examine(torch.Generator().manual_seed(seed), *answers) or ""
            )
    except Wrong as wrong:
        return Verdict("wrong", str(wrong))
    except NotImplementedError:
        return Verdict("unanswered", "not answered yet")
    except Exception as error:
        return Verdict("raised", _told(error))


def _told(error: Exception) -> str:
    """An error of the reader's own code in one or two lines: what, and in which of their lines."""
    said = f"{type(error).__name__}: {error}".strip().rstrip(":").splitlines()[0]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if HERE in path.parents or PACKAGES in path.parents:
            continue
        line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
        return f"your code raised {said}\n  in {frame.name}, at the line: {line}"
    return f"what your answer gave could not be used: {said}"


# What the notebooks call

_solved: dict[str, bool] = {}


def check(number: str, *answers: Any) -> None:
    """Say at once whether an answer is right, and if not, what is wrong. Raises nothing for it.

    Example:
        >>> check("3.2", cross_attention)
        ✓ 3.2 Cross-attention: right.
    """
    verdict = examine(number, answers)
    _solved[number] = verdict.right
    name = f"{number} {find(number).title}"
    if verdict.right:
        print(f"✓ {name}: right. {verdict.text}".rstrip())
    elif verdict.kind == "unanswered":
        print(f"… {name}: not answered yet.")
    else:
        print(f"✗ {name}: {verdict.text}")


def solved(number: str) -> bool:
    """Whether the last `check` of this exercise was content; says so if it was not."""
    if not _solved.get(number):
        print(f"There is something to see here when exercise {number} is solved.")
    return bool(_solved.get(number))


def require(number: str, *answers: Any, seed: int) -> None:
    """For graders: as `check`, on inputs drawn with `seed`, and an answer not right is an error.

    Raises:
        Wrong: the answer is wrong, missing, or raised an error itself.
    """
    verdict = examine(number, answers, seed)
    if not verdict.right:
        raise Wrong(f"{number} {find(number).title}: {verdict.text}")
