"""Families about lists, words and single sentences, whose answers follow a rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from shared.instructions import words
from shared.instructions.draw import Content, Draw, held_out
from shared.stories import world
from shared.stories.school import NUMBERS
from shared.stories.world import PLACES

Sentence = tuple[str, str, tuple[tuple[str, str], ...]]  # before, after, pairs of words in it


# ---- lists ---------------------------------------------------------------------------------------
def _list(draw: Draw, pool: tuple[str, ...], shortest: int = 2) -> list[str]:
    return draw.sample(pool, draw.randint(6, 8) if draw.longer else draw.randint(shortest, 5))


def _neighbours(items: list[str]) -> tuple[tuple[str, str], ...]:
    """Pairs side by side, in the order of the alphabet, so that reversing does not change them."""
    return tuple((min(p), max(p)) for p in zip(items, items[1:], strict=False))


def reverse(draw: Draw) -> Content:
    """A list backwards: "kite, drum, bell" → "bell, drum, kite"."""
    items = _list(draw, draw.things)
    return Content("reverse", ", ".join(items), ", ".join(items[::-1]), pairs=_neighbours(items))


def count(draw: Draw) -> Content:
    """How many words a list has: "three"."""
    items = _list(draw, draw.things, shortest=1)
    pairs = _neighbours(items)
    return Content("count", ", ".join(items), NUMBERS[len(items)], pairs=pairs)


def sort(draw: Draw) -> Content:
    """Numbers in words, smallest first: "nine, two" → "two, nine"."""
    items = _list(draw, NUMBERS[1:])
    answer = ", ".join(sorted(items, key=NUMBERS.index))
    return Content("sort", ", ".join(items), answer, pairs=_neighbours(items))


def sum_(draw: Draw) -> Content:
    """Sums and differences in words, up to ten, also of things: "two kites plus one kite".

    Tests ask for sums of things, since training has nearly all sums of plain numbers.
    """
    first, second = draw.randint(0, 5), draw.randint(0, 5)
    plus = draw.maybe(0.5)
    terms = [first if plus else first + second, second]
    signs = ["plus" if plus else "minus"]
    total = first + second if plus else first
    if draw.longer:
        signs, terms = [*signs, "minus"], [*terms, draw.randint(0, total)]
        total -= terms[-1]
    thing = draw.thing() if draw.split != "train" or draw.maybe(0.75) else ""
    said = [_so_many(number, thing) for number in terms]
    text = " ".join(
        [said[0], *(f"{sign} {one}" for sign, one in zip(signs, said[1:], strict=True))]
    )
    pairs = tuple((NUMBERS[number], thing) for number in (*terms, total) if thing)
    return Content("sum", text, _so_many(total, thing), pairs=pairs)


def _so_many(number: int, thing: str) -> str:
    """The number in words, of things if there are some: "one kite", "two kites"."""
    if not thing:
        return NUMBERS[number]
    return f"{NUMBERS[number]} {thing if number == 1 else words.plural(thing)}"


# ---- sentences -----------------------------------------------------------------------------------
def _sentences(draw: Draw, wordings: str, make: Callable[[Draw], Sentence]) -> Content:
    """One or two sentences made by `make`; three or four in the split "longer"."""
    number = draw.choice((3, 4)) if draw.longer else 2 if draw.maybe(0.2) else 1
    made = [make(draw) for _ in range(number)]
    before, after = (" ".join(one[side] for one in made) for side in (0, 1))
    return Content(wordings, before, after, pairs=tuple(p for one in made for p in one[2]))


def _alone(draw: Draw) -> bool:
    """Whether to ask about a single word, which is never long, a pair or about somebody new."""
    return not draw.new and draw.split not in ("longer", "new_combinations") and draw.maybe(0.35)


def opposite(draw: Draw) -> Content:
    """The opposite of a word or a sentence: "The barn was big." → "The barn was small."."""
    if _alone(draw):
        word = draw.choice(_OPPOSITE_WORDS)
        return Content("opposite", word, words.OPPOSITE[word])
    return _sentences(draw, "opposite in a sentence", _opposite_sentence)


def _opposite_sentence(draw: Draw) -> Sentence:
    kinds = ["thing", "person", "way", "deed", "deed to a thing"]
    kind = draw.choice(kinds if draw.new else [*kinds, "place"])
    pair = draw.choice(words.OPPOSITES[kind])
    one, other = pair if draw.maybe(0.5) else pair[::-1]
    name, verb = draw.name(), draw.choice(_MOVES)
    noun = draw.place() if kind == "place" else draw.thing()
    frame, word = {
        "thing": (f"The {noun} was {{}}.", noun),
        "place": (f"The {noun} was {{}}.", noun),
        "person": (f"{name} was {{}}.", name),
        "way": (f"{name} {verb} {{}}.", verb),
        "deed": (f"{name} {{}}.", name),
        "deed to a thing": (f"{name} {{}} the {noun}.", noun),
    }[kind]
    pairs = ((one, word), (other, word), *([(name, noun)] if kind == "deed to a thing" else ()))
    return frame.format(one), frame.format(other), pairs


def past_tense(draw: Draw) -> Content:
    """From now to yesterday: "Mia walks to the barn." → "Mia walked to the barn."."""
    if _alone(draw):
        verb = draw.choice(_VERBS)
        return Content("past of a verb", verb, words.past(verb))
    return _sentences(draw, "past_tense", _past_sentence)


def _past_sentence(draw: Draw, name: str = "") -> Sentence:
    name, place, thing = name or draw.name(), draw.place(), draw.thing()
    verbs, rest, word = draw.choice(
        (
            (words.VERBS_WITH_THING, f" the {thing}", thing),
            (words.VERBS_TO, f" to the {place}", place),
            (words.VERBS_IN, f" {PLACES[place]} the {place}", place),
            (words.VERBS_ALONE, "", name),
        )
    )
    verb = draw.choice(verbs)
    before, after = f"{name} {words.present(verb)}{rest}.", f"{name} {words.past(verb)}{rest}."
    return before, after, ((words.past(verb), word), *([(name, thing)] if word == thing else ()))


def passive(draw: Draw) -> Content:
    """What was done, by whom: "Tom carried the kite." → "The kite was carried by Tom."."""
    return _sentences(draw, "passive", _passive_sentence)


def _passive_sentence(draw: Draw) -> Sentence:
    name, verb, thing = draw.name(), draw.choice(words.VERBS_WITH_THING), draw.thing()
    past, done = words.past(verb), words.participle(verb)
    pairs = ((past, thing), (name, thing))
    return f"{name} {past} the {thing}.", f"The {thing} was {done} by {name}.", pairs


def plural(draw: Draw) -> Content:
    """More than one: "box" → "boxes", "Mia has one red box." → "Mia has two red boxes."."""
    if draw.new and draw.maybe(0.35) or _alone(draw):
        noun = _noun(draw)
        return Content("plural", noun, words.plural(noun))
    if not draw.longer and draw.maybe(0.3):
        noun, adjective = _noun(draw), draw.choice(world.ADJECTIVES)
        after = f"two {adjective} {words.plural(noun)}"
        return Content(
            "plural of one", f"one {adjective} {noun}", after, pairs=((adjective, noun),)
        )
    return _sentences(draw, "plural of one", _plural_sentence)


def _noun(draw: Draw) -> str:
    return draw.thing() if draw.new or draw.maybe(0.4) else draw.choice(_NOUNS)


def _plural_sentence(draw: Draw) -> Sentence:
    """A thing that somebody has, or anything that can be seen."""
    name, adjective = draw.name(), draw.choice(world.ADJECTIVES)
    own = draw.maybe(0.5)
    noun = draw.thing() if own or draw.new else draw.choice(words.MORE_NOUNS)
    verb = draw.choice(("has", "needs", "found") if own else ("saw", "drew", "liked"))
    if draw.maybe(0.5):
        frame, pairs = f"{name} {verb} {{}} {adjective} {{}}.", ((adjective, noun), (name, noun))
    else:
        frame, pairs = f"{name} {verb} {{}} {{}}.", ((name, noun),)
    return frame.format("one", noun), frame.format("two", words.plural(noun)), pairs


# ---- another name --------------------------------------------------------------------------------
def rename(draw: Draw) -> Content | None:
    """The same about somebody else of the same gender; in "longer" there is another person, too."""
    people = [draw.name(), draw.name()] if draw.longer else [draw.name()]
    number = 8 if draw.longer else draw.choice((1, 2))
    made = [_past_sentence(draw, draw.choice(people)) for _ in range(number)]
    text = " ".join(one[1] for one in made)
    content = Content("rename", text, "", pairs=tuple(pair for one in made for pair in one[2]))
    return _with_other_name(draw, content, people)


def _with_other_name(draw: Draw, content: Content, people: Sequence[str]) -> Content | None:
    """The content with one of its people called otherwise; None if nobody can be."""
    text, apart = content.input, draw.split == "new_combinations"
    old = draw.choice([name for name in people if name in text])
    pool = draw.girls if old in draw.girls else draw.boys
    others = [name for name in pool if draw.new or held_out(old, name) == apart]
    others = [name for name in others if name not in text]
    if not others:
        return None
    new = draw.choice(others)
    swapped = tuple((new if a == old else a, new if b == old else b) for a, b in content.pairs)
    return replace(
        content,
        answer=re.sub(rf"\b{old}\b", new, text),
        slots={"old": old, "new": new},
        pairs=(*content.pairs, *swapped, (old, new)),
    )


_OPPOSITE_WORDS = tuple(words.OPPOSITE)
_MOVES = tuple(map(words.past, ("walk", "run", "dance", "march", "play", "work", "sing", "read")))
_VERBS = words.VERBS_WITH_THING + words.VERBS_TO + words.VERBS_IN + words.VERBS_ALONE
_NOUNS = (*words.MORE_NOUNS, *words.ABSTRACT_NOUNS)
