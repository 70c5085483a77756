"""How wrong and right answers are written down, found and judged."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.exercises.checking import Verdict, examine

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Case:
    """An answer to an exercise: `make` returns it, or a tuple where the check takes several.

    `says` is a regular expression for what the reader must be told about a wrong one.
    """

    number: str
    what: str
    make: Callable[[], Any]
    is_right: bool
    says: str = ""

    def verdict(self) -> Verdict:
        """What the exercise's check says to it."""
        made = self.make()
        return examine(self.number, made if isinstance(made, tuple) else (made,))

    def goes_as_it_should(self, verdict: Verdict) -> bool:
        """A right answer is accepted; a wrong one is not, and the reason is the one expected."""
        if self.is_right:
            return verdict.right
        return verdict.kind in ("wrong", "raised") and bool(re.search(self.says, verdict.text))


def mutant(number: str, what: str, says: str = "") -> Callable[[Callable], Case]:
    """A wrong answer: the function below returns it."""
    return lambda make: Case(number, what, make, False, says)


def right(number: str, what: str) -> Callable[[Callable], Case]:
    """Another right answer, unlike the one in the solutions: the function below returns it."""
    return lambda make: Case(number, what, make, True)


def cases() -> list[Case]:
    """All of them, in the order of the exercises."""
    found: list[Case] = []
    for path in sorted([*HERE.glob("ch*.py"), *HERE.glob("app_*.py")]):
        module = importlib.import_module(f"tests.mutants.{path.stem}")
        found += [thing for thing in vars(module).values() if isinstance(thing, Case)]
    return found
