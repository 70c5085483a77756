"""Check and quick questions of chapter 1: what a language model is."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from shared.exercises.checking import exercise, expect
from shared.exercises.questions import question, right, wrong

ENOUGH = 16  # words in the reader's text
AFTER_THE = {"cat": Fraction(1, 2), "dog": Fraction(1, 4), "hen": Fraction(1, 4)}
POSSIBLE, IMPOSSIBLE = "the dog saw the cat", "the hen saw the dog"


def follow(words: list[str], first: str) -> dict[str, Fraction]:
    """How likely each word is after `first`, by counting pairs."""
    found = Counter(b for a, b in zip(words, words[1:], strict=False) if a == first)
    return {word: Fraction(count, found.total()) for word, count in found.items()}


def steps(words: list[str], sentence: str) -> list[tuple[str, str, Fraction]]:
    """Each pair of neighbours in a sentence, and how likely the second is after the first."""
    said = sentence.split()
    pairs = zip(said, said[1:], strict=False)
    return [(a, b, follow(words, a).get(b, Fraction(0))) for a, b in pairs]


def product(parts: list[tuple[str, str, Fraction]]) -> Fraction:
    """The probability of the whole sentence, once its first word is there."""
    whole = Fraction(1)
    for _, _, part in parts:
        whole *= part
    return whole


def note_on(words: list[str]) -> str:
    """What may have gone wrong with the spelling of a text that does not give what it should."""
    for word in words:
        if word != word.lower():
            return f" ({word!r} and {word.lower()!r} are two different words here.)"
        if len(word) > 1 and word[-1] in ".,;:!?":
            return f" ({word!r} and {word[:-1]!r} are two different words: put a space between.)"
    return ""


def told(parts: list[tuple[str, str, Fraction]]) -> str:
    return " · ".join(f"{b} after {a} {part}" for a, b, part in parts)


@exercise("1.1", "Write the text that it was counted on")
def teach_by_text(dice, answer):
    """`answer`: a text whose bigram counts have the four properties of the task."""
    expect(
        isinstance(answer, str),
        f"your answer is a {type(answer).__name__}; write one text, between quotation marks.",
    )
    words = answer.split()
    expect(len(words) > 1, "there is no pair of words in your text yet.")
    expect(
        len(words) <= ENOUGH,
        f"your text has {len(words)} words, and {ENOUGH} is the limit (a '.' counts as a word "
        "if a space stands before it).",
    )
    found = follow(words, "the")
    if found != AFTER_THE:
        named = ", ".join(f"{word} {part}" for word, part in found.items()) or "nothing"
        expect(
            False,
            f"after 'the' your text gives: {named}. Wanted: cat 1/2, dog 1/4, hen 1/4."
            + note_on(words),
        )
    expect(
        f" {POSSIBLE} " not in f" {' '.join(words)} ",
        f"'{POSSIBLE}' stands in your text word for word; the model shall make it up itself.",
    )
    possible = steps(words, POSSIBLE)
    expect(
        product(possible) == Fraction(1, 16),
        f"'{POSSIBLE}' gets {product(possible)}, wanted 1/16. Its steps: {told(possible)}.",
    )
    impossible = steps(words, IMPOSSIBLE)
    expect(
        product(impossible) == 0,
        f"'{IMPOSSIBLE}' shall be impossible, and gets {product(impossible)}. "
        f"Its steps: {told(impossible)}.",
    )
    return f"{len(words)} words, and a sentence in the model's head that you never wrote."


QUESTIONS = [
    question(
        "1.a",
        'A bigram model was counted on the three sentences of the chapter: "the cat sat on the mat '
        '. the dog sat on the cat . the cat saw the dog ." Which of these can it never write?',
        wrong("the cat saw the mat", "It can: saw → the and the → mat were both seen, apart."),
        wrong("the dog sat on the dog", "It can: each pair of neighbours stands in the text."),
        right(
            "the dog saw the cat",
            "No dog ever saw anything: after dog came sat and the full stop. One pair that was "
            "never seen makes the whole impossible, however sensible it is.",
        ),
        wrong("the cat . the cat .", "It can, and would not notice that it says so twice."),
    ),
    question(
        "1.b",
        "Two words may follow, with probabilities 0.8 and 0.2. What does temperature ½ make of "
        "the 0.8?",
        wrong("0.4", "Halving both would leave them with a sum of ½."),
        wrong("0.64", "That is its square; it still has to be divided by the sum of the squares."),
        wrong("0.8", "That is temperature 1, which changes nothing."),
        right("about 0.94", "Squares: 0.64 and 0.04, that is 16 parts to 1, and 16/17 is 0.94."),
    ),
    question(
        "1.c",
        "You let the same teller tell a hundred times as many stories, and count four words back "
        "as before. Which of the three failures stays exactly as it was?",
        wrong("Most contexts are new.", "Fewer are: the lines of section 1.9 fall, if slowly."),
        wrong(
            "Every word is a stranger.",
            "To the table it still is, but with more text each thing has been seen in more places "
            "of its own, so it hurts less.",
        ),
        right(
            "What matters is far away.",
            "Four words are four words. No amount of text shows the model the fifth.",
        ),
    ),
    question(
        "1.d",
        "A model gives the right word a probability of 0.5 at 999 places of a text, and 0 at one. "
        "What is its typical probability (the geometric mean)?",
        right(
            "0",
            "The product has a factor of 0, and so has every mean made from it. A model that says "
            "'impossible' must never be wrong.",
        ),
        wrong("about 0.4995", "That is the ordinary mean, which forgives a single 0."),
        wrong("0.5", "That is the probability at most places; the one 0 still multiplies."),
    ),
    question(
        "1.e",
        "Two networks answer the same kind of question, each on 100 questions of its own: one is "
        "right 54 times, the other 48 times. What do you know?",
        wrong(
            "The first is better.",
            "With 100 questions, each share is uncertain by about 0.1 to either side (the interval "
            "of section 1.11). Six apart is well within luck.",
        ),
        wrong(
            "They are equally good.",
            "Not shown to differ is not shown to be equal: a true difference of 0.1 would often "
            "look like this.",
        ),
        right(
            "Too little: ask more questions.",
            "The intervals, about 44 to 63 and 38 to 58, overlap widely. To tell 54 % from 48 % "
            "takes a thousand questions or so for each.",
        ),
    ),
]
