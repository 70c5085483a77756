"""The teller: turns what happens into English, one choice at a time.

A wording is a text with alternatives `(a|b|c)`, each as likely as the others, and slots `{…}`:

- `{a}`           a person's name; `{a.he}` `{a.him}` `{a.his}` `{a.girl}` the word for them
- `{A}` `{a.s}`   a person as subject: the name, or he/she where nobody else could be meant
- `{x}` `{X}`     a thing: "the kite", or "it" where nothing else could be meant
- `{x.a}`         "a kite"; `{x.bare}` "kite". Often "a red kite" or "red kite" at first
- `{p.in}` `{p.to}` `{p.the}`   a place: "in the barn", "to the barn", "the barn"
- `{said}` `{gave}` `{went}`   one of several verbs (`VERBS`)
- `{a.answer}`    the name of a thing's holder at the end of a story: what a probe asks for

A capital letter begins a sentence. A wording that begins with `~` is kept for the split
"new_wordings". Names, nouns and adjectives are drawn when they are first said, so the text shows
every decision that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from shared.stories.chance import Chance, Mismatch
from shared.stories.world import (
    ADJECTIVES,
    BOYS,
    GIRLS,
    NEW_BOYS,
    NEW_GIRLS,
    NEW_THINGS,
    PLACES,
    SPLITS,
    THINGS,
    Person,
    Place,
    Thing,
    World,
    held_out_pair,
)

VERBS = {
    "said": "(said|called|whispered|cried)",
    "gave": "(gave|handed|passed)",
    "went": "(went|walked|ran|hurried|marched)",
}


@cache
def _compile(template: str) -> tuple:
    """Cut a wording into texts, ("pick", options) and ("slot", letter, form, capital)."""
    nodes, i = [], 0
    while i < len(template):
        if template[i] == "(":
            depth, start, options = 1, i + 1, []
            i += 1
            while depth:
                if template[i] == "(":
                    depth += 1
                elif template[i] == ")":
                    depth -= 1
                elif template[i] == "|" and depth == 1:
                    options.append(template[start:i])
                    start = i + 1
                i += 1
            options.append(template[start : i - 1])
            nodes.append(("pick", tuple(_compile(option) for option in options)))
        elif template[i] == "{":
            end = template.index("}", i)
            name, _, form = template[i + 1 : end].partition(".")
            if name in VERBS:
                nodes += _compile(VERBS[name])
            else:
                nodes.append(("slot", name.lower(), form, name.isupper()))
            i = end + 1
        else:
            ends = [e for e in (template.find("(", i), template.find("{", i)) if e >= 0]
            end = min(ends, default=len(template))
            nodes.append(template[i:end])
            i = end
    return tuple(nodes)


@cache
def _split_wordings(wordings: tuple[str, ...], new: bool) -> tuple[tuple, ...]:
    """The compiled wordings that a split may use: the held-out ones, or all the others."""
    kept = [w[1:] for w in wordings if w.startswith("~")] if new else []
    kept = kept or [w for w in wordings if not w.startswith("~")]
    return tuple(_compile(w) for w in kept)


@dataclass(frozen=True)
class Probe:
    """A place in the text where only the world's state tells what comes next.

    `text[:start]` ends before the name of who holds `thing`; `answer` is that name.
    """

    start: int
    answer: str
    thing: str


class Tale:
    """A story in the making: its world, its text so far, and the choices behind it.

    Args:
        chance: makes every decision.
        split: one of `SPLITS`.
        wanted: if given, telling stops with `Mismatch` where the text departs from it.

    Raises:
        ValueError: unknown split.
    """

    def __init__(self, chance: Chance, split: str = "train", wanted: str | None = None) -> None:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
        self.chance, self.split, self.wanted = chance, split, wanted
        self.world = World()
        self.text = ""
        self.facts: list[tuple[str, str, str]] = []
        self.probes: list[Probe] = []
        self._separator = ""
        self._recent: tuple[set[int], set[int]] = (set(), set())
        self._pair_done = False
        new = split == "new_entities"
        self._girls, self._boys = (NEW_GIRLS, NEW_BOYS) if new else (GIRLS, BOYS)
        self.nouns = NEW_THINGS if new else THINGS

    # ---- who and what there is --------------------------------------------------------------
    def person(self) -> Person:
        """Somebody new, still without a name."""
        self.world.people.append(Person())
        return self.world.people[-1]

    def people(self, count: int) -> list[Person]:
        return [self.person() for _ in range(count)]

    def thing(self) -> Thing:
        """Something new, still without a noun."""
        self.world.things.append(Thing())
        return self.world.things[-1]

    def things(self, count: int) -> list[Thing]:
        return [self.thing() for _ in range(count)]

    def place(self) -> Place:
        """Somewhere new, still without a noun."""
        self.world.places.append(Place())
        return self.world.places[-1]

    def _fits(self, name: str, noun: str) -> bool:
        """Whether this split lets the two stand in one story."""
        held_out = held_out_pair(name, noun)
        if self.split == "new_combinations":
            return held_out or self._pair_done
        return not held_out

    def _name(self, person: Person) -> None:
        used = {p.name for p in self.world.people}
        nouns = [t.noun for t in self.world.things if t.noun]
        person.name = self.chance.pick(
            [
                name
                for name in self._girls + self._boys
                if name not in used and all(self._fits(name, noun) for noun in nouns)
            ]
        )
        person.girl = person.name in self._girls
        self._pair_done = self._pair_done or bool(nouns)

    def _noun(self, thing: Thing) -> None:
        used = {t.noun for t in self.world.things}
        names = [p.name for p in self.world.people if p.name]
        # One new pair is enough: the hero's. Two people rarely share a held-out thing.
        judges = names[:1] if self.split == "new_combinations" else names
        thing.noun = self.chance.pick(
            [
                noun
                for noun in self.nouns
                if noun not in used and all(self._fits(name, noun) for name in judges)
            ]
        )
        self._pair_done = self._pair_done or bool(names)

    # ---- telling ----------------------------------------------------------------------------
    def say(self, *wordings: str, **roles: Person | Thing | Place | str) -> None:
        """Tell one of `wordings`, with its slots filled by `roles`."""
        options = _split_wordings(wordings, self.split == "new_wordings")
        people, things = self._recent
        self._mentioned: tuple[set[int], set[int]] = (set(), set())
        self._near = (set(people), set(things))
        self._emit(self._separator)
        self._separator = " "
        self._tell(self.chance.pick(options), roles)
        self._recent = self._mentioned

    def add(self, text: str) -> None:
        """Tell these words as they are, right behind the last wording."""
        self._emit(text)

    def paragraph(self) -> None:
        """Begin a new paragraph with the next wording."""
        self._separator = "\n\n"

    def _emit(self, text: str) -> None:
        if self.wanted is not None and not self.wanted.startswith(text, len(self.text)):
            raise Mismatch
        self.text += text

    def _tell(self, nodes: tuple, roles: dict) -> None:
        for node in nodes:
            if isinstance(node, str):
                self._emit(node)
            elif node[0] == "pick":
                self._tell(self.chance.pick(node[1]), roles)
            else:
                _, letter, form, capital = node
                role = roles[letter]
                if isinstance(role, Person):
                    subject = capital and not form
                    words = self._person_words(role, "s" if subject else form)
                elif isinstance(role, Thing):
                    self._tell_thing(role, form, capital)
                    continue
                elif isinstance(role, Place):
                    words = self._place_words(role, form)
                else:
                    self._tell(_compile(role), roles)
                    continue
                self._emit(words[0].upper() + words[1:] if capital else words)

    def _person_words(self, person: Person, form: str) -> str:
        if not person.name:
            self._name(person)
            known = False
        else:
            known = id(person) in self._near[0]
        self._mentioned[0].add(id(person))
        near = self._near[0] | self._mentioned[0]
        self._near[0].add(id(person))
        if form in ("he", "him", "his"):
            return person.pronoun(form)
        if form == "girl":
            return "girl" if person.girl else "boy"
        if form == "answer":
            self.probes.append(Probe(len(self.text), person.name, self._last_thing.noun))
            return person.name
        if form == "s" and known:
            rivals = any(
                p.girl == person.girl and p is not person and id(p) in near
                for p in self.world.people
            )
            if not rivals and self.chance.maybe(0.6):
                return person.pronoun("he")
        return person.name

    def _tell_thing(self, thing: Thing, form: str, capital: bool) -> None:
        self._last_thing = thing
        first, known = not thing.noun, id(thing) in self._near[1]
        self._mentioned[1].add(id(thing))
        alone = self._near[1] | self._mentioned[1] == {id(thing)}
        self._near[1].add(id(thing))
        if form == "" and known and alone and self.chance.maybe(0.4):
            return self._emit("It" if capital else "it")
        if first and self.chance.maybe(0.7):
            thing.adjective = self.chance.pick(ADJECTIVES)
        words = thing.adjective + " " if first and thing.adjective else ""
        indefinite = "an " if words[:1] in tuple("aeiou") else "a "
        article = {"a": indefinite, "bare": ""}.get(form, "the ")
        self._emit(article.capitalize() if capital else article)
        self._emit(words)
        if first:
            self._noun(thing)
        self._emit(thing.noun)

    def _place_words(self, place: Place, form: str) -> str:
        if not place.noun:
            used = {p.noun for p in self.world.places}
            place.noun = self.chance.pick([noun for noun in PLACES if noun not in used])
        word = {"in": PLACES[place.noun] + " the ", "to": "to the ", "the": "the "}[form]
        return word + place.noun

    # ---- what the world remembers -------------------------------------------------------------
    def fact(self, kind: str, about: str, answer: str) -> None:
        """Remember something that a reader of this story could be asked."""
        self.facts.append((kind, about, answer))
