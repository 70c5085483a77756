"""Quick questions: some answers to choose from, and a reason for each."""

from __future__ import annotations

from dataclasses import dataclass

import ipywidgets as widgets
from IPython.display import Markdown, display

from shared.exercises.checking import module_of

LETTERS = "abcdef"


@dataclass(frozen=True)
class Choice:
    """One answer, whether it is right, and why."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question with exactly one right choice."""

    number: str
    text: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.choices) <= len(LETTERS):
            raise ValueError(
                f"question {self.number}: {len(self.choices)} choices, expected 2 to 6"
            )
        if sum(choice.right for choice in self.choices) != 1:
            raise ValueError(f"question {self.number}: exactly one choice must be right")

    @property
    def markdown(self) -> str:
        """The question and its choices, as they stand on the page."""
        lines = [f"- **{a}** {c.text}" for a, c in zip(LETTERS, self.choices, strict=False)]
        return f"**{self.number}** {self.text}\n\n" + "\n".join(lines)

    def feedback(self, letter: str) -> str:
        """What to say to somebody who chose this letter.

        Raises:
            ValueError: there is no such letter.
        """
        letters = LETTERS[: len(self.choices)]
        if len(letter) != 1 or letter not in letters:
            raise ValueError(
                f"{self.number}: answer {letter!r}; expected one of {', '.join(letters)}"
            )
        choice = self.choices[letters.index(letter)]
        return f"{'✓' if choice.right else '✗'} {letter}: {choice.why}"


def question(number: str, text: str, *choices: Choice) -> Question:
    """A question, as the modules of this package write it down."""
    return Question(number, text, choices)


def right(text: str, why: str) -> Choice:
    """The right choice."""
    return Choice(text, why, right=True)


def wrong(text: str, why: str) -> Choice:
    """A choice that somebody who thinks a certain way would take, and what that overlooks."""
    return Choice(text, why)


def questions_of(number: str) -> dict[str, Question]:
    """The questions of the chapter that `number` belongs to, by number."""
    return {asked.number: asked for asked in getattr(module_of(number), "QUESTIONS", ())}


def ask(number: str, answer: str | None = None) -> None:
    """Show a question with its choices to click at; with an answer, say what is to be said of it.

    Raises:
        KeyError: no such question.
        ValueError: the answer is none of the letters.

    Example:
        >>> ask("3.a", "b")
        ✗ b: the softmax takes the place of …
    """
    known = questions_of(number)
    if number not in known:
        raise KeyError(f"no question {number!r}; there are {', '.join(known)}")
    asked = known[number]
    if answer is not None:
        print(asked.feedback(answer))
        return
    display(Markdown(asked.markdown))
    letters = LETTERS[: len(asked.choices)]
    buttons = widgets.ToggleButtons(options=list(letters), value=None)
    buttons.style.button_width = "3em"
    said = widgets.HTML()

    def chosen(change) -> None:
        said.value = f"<p>{asked.feedback(change['new'])}</p>" if change["new"] else ""

    buttons.observe(chosen, names="value")
    display(widgets.VBox([buttons, said]))
