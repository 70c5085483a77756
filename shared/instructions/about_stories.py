"""Families that ask about a story: who, where, why, yes or no, and how it goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import count

from shared.instructions.draw import Content, Draw, fits_length
from shared.stories import Fact, Story, tell
from shared.stories.chance import Dice, T
from shared.stories.plots import PLOTS, TINY
from shared.stories.school import SCHOOL
from shared.stories.world import PLACES

# The plots that can tell of it, since a story drawn at random seldom does; "longer" needs the first
# table, and the second has those of them that often do so in few words.
PLOTS_WITH = {
    "where_is": "buried_for_later still_there joke",
    "who_found": "is_this_yours still_there wind_takes_it lost_and_told wrongly_accused "
    "hidden_treasure message_in_bottle found_and_returned found_by_a_friend treasure_map "
    "found_by_two finders_keepers joke left_behind trading_up",
    "who_gave": "hand_to_hand who_is_there lent_two_things gift_passed_on secret_gift "
    "lend_and_forget passed_around moving_away reward found_and_returned thank_you_present "
    "found_by_a_friend owned_up birthday broken_while_lent taken_and_sorry two_errands "
    "lend_and_return spring_cleaning guarded taken_and_caught thief_animal one_each pulled_out "
    "messenger quarrel promise_kept bet wind_takes_it new_in_school dark_way_home lending_chain "
    "left_behind",
    "why": "mended_by_friend wrongly_accused gift_passed_on trade_regretted new_in_school "
    "lend_and_forget dark_way_home moving_away broken_while_lent wrong_size_gift made_together "
    "contest found_by_two race finders_keepers refused_then_shared taken_and_caught guarded",
    "short": "calling good_morning hand_to_hand where_is_everyone not_there mine_and_yours "
    "is_this_yours where_to whose_is_it packing one_each who_is_there still_there",
}
BRIEFLY_WITH = {
    "who_has": "is_this_yours hand_to_hand mine_and_yours whose_is_it packing one_each "
    "who_is_there good_morning still_there new_in_school birthday promise_kept spring_cleaning "
    "market_stall wrong_size_gift",
    "where_is": "still_there buried_for_later",
    "who_found": "is_this_yours still_there",
    "who_gave": "hand_to_hand who_is_there birthday spring_cleaning new_in_school one_each "
    "promise_kept",
    "why": "new_in_school wrong_size_gift contest",
}
_SENTENCE = re.compile(r'(?:(?<=[.!?])|(?<=[.!?]"))\s+(?=["A-Z])')


LONGEST_REST = 45  # words of a continuation
LONGEST_STORY = 75  # words of a beginning and its rest, so that both fit into a small context


class Steered(Dice):
    """Dice whose plot is one of `plots`; all plots if it is empty."""

    def __init__(self, seed: str, plots: Sequence[str] = ()) -> None:
        super().__init__(seed)
        self._plots = plots

    def pick(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        if options is PLOTS and self._plots:
            weights = [
                weight if option.__name__ in self._plots else 0.0
                for option, weight in zip(options, weights, strict=True)
            ]
        self.pick = super().pick  # the plot is the first decision, and the only one to steer
        return self.pick(options, weights)


@cache
def _plots(kind: str, longer: bool) -> frozenset[str]:
    table = PLOTS_WITH if longer else PLOTS_WITH | BRIEFLY_WITH
    return frozenset(table.get(kind, "").split())


def story_for(draw: Draw, kind: str = "") -> Story:
    """A story that may hold a fact of this kind."""
    split = "new_combinations" if draw.split == "new_combinations" else "train"
    return tell(Steered(f"{draw.split} {draw.random()}", _plots(kind, draw.longer)), split=split)


def short_tales(seed: int) -> Iterator[Story]:
    """Tales of a few lines and tales of words and numbers, without end, with all names and things.

    To be read between instructions, so that a model does not forget those it is never asked about.
    """
    plots = [plot.__name__ for plot in (*TINY, *SCHOOL)]
    return (tell(Steered(f"short {seed} {number}", plots)) for number in count())


def fact_of(draw: Draw, kind: str) -> tuple[Story, Fact] | None:
    """A story and one of its facts; None if it has none of this kind with one answer only.

    Now and then the story comes without its last paragraph, which only rounds it off, as a user
    might tell it.
    """
    story = story_for(draw, kind)
    if draw.maybe(0.3):
        story = replace(story, text=story.text.rpartition("\n\n")[0] or story.text)
    facts = [f for f in story.facts if f.kind == kind]
    asked = [f.about for f in facts]
    facts = [f for f in facts if asked.count(f.about) == 1]
    return (story, draw.choice(facts)) if facts else None


def about(story: Story, wordings: str, answer: str, **slots: str) -> Content:
    """A content whose input is the whole story."""
    people, things = story.people, story.things
    pairs = tuple((name, thing) for name in people for thing in things)
    return Content(wordings, story.text, answer, slots, pairs, (), people, things)


def who_has(draw: Draw) -> Content | None:
    """The holder of a thing at the end: "The kite is with Mia."."""
    if not (drawn := fact_of(draw, "who_has")):
        return None
    story, fact = drawn
    return about(story, "who_has", f"The {fact.about} is with {fact.answer}.", thing=fact.about)


def where_is(draw: Draw) -> Content | None:
    """The place of a thing that nobody has: "The kite is in the barn."."""
    if not (drawn := fact_of(draw, "where_is")):
        return None
    story, fact = drawn
    answer = f"The {fact.about} is {PLACES[fact.answer]} the {fact.answer}."
    return about(story, "where_is", answer, thing=fact.about)


def who_found(draw: Draw) -> Content | None:
    """The finder: "Jack found the plate."."""
    if not (drawn := fact_of(draw, "who_found")):
        return None
    story, fact = drawn
    return about(story, "who_found", f"{fact.answer} found the {fact.about}.", thing=fact.about)


def who_gave(draw: Draw) -> Content | None:
    """The giver: "Mia got the kite from Tom."."""
    if not (drawn := fact_of(draw, "who_gave")):
        return None
    story, fact = drawn
    thing, _, name = fact.about.partition(" to ")
    answer = f"{name} got the {thing} from {fact.answer}."
    return about(story, "who_gave", answer, thing=thing, name=name)


def why(draw: Draw) -> Content | None:
    """The reason of a feeling: "Because everyone clapped."."""
    if not (drawn := fact_of(draw, "why")):
        return None
    story, fact = drawn
    name, feeling = fact.about.split()
    answer = fact.answer[0].upper() + fact.answer[1:] + "."
    return about(story, "why", answer, name=name, feeling=feeling)


def yes_no(draw: Draw) -> Content | None:
    """Who has a thing, and so, whether somebody does: "The kite is with Tom. Is Tom Mia? No."."""
    if not (drawn := fact_of(draw, "who_has")):
        return None
    story, fact = drawn
    others = [name for name in story.people if name != fact.answer]
    if not others:
        return None
    other, yes = draw.choice(others), draw.maybe(0.5) != draw.turned
    asked = fact.answer if yes else other
    verdict = "Yes" if yes else "No"
    answer = f"The {fact.about} is with {fact.answer}. Is {fact.answer} {asked}? {verdict}."
    return about(story, "yes_no", answer, name=asked, thing=fact.about)


def continue_story(draw: Draw) -> Content | None:
    """The rest of a story that must use one or two given words, which its beginning has not."""
    story = story_for(draw)
    cuts = [m.span() for m in _SENTENCE.finditer(story.text)]
    cuts = [(end, start) for end, start in cuts if story.text.count('"', 0, end) % 2 == 0]
    cuts = cuts if draw.longer else cuts[:3]
    cuts = [c for c in cuts if fits_length(story.text[: c[0]], "continue_story", draw.longer)]
    if not cuts or len(story.text.split()) > LONGEST_STORY:
        return None
    end, start = draw.choice(cuts)
    beginning, rest = story.text[:end], story.text[start:]
    places = [place for place in PLACES if f"the {place}" in rest]
    new = [word for word in (*story.people, *story.things, *places) if _has(rest, word)]
    new = [word for word in new if not _has(beginning, word)]
    known = any(name in beginning for name in story.people)
    if not known or not new or len(rest.split()) > LONGEST_REST:
        return None
    wanted = tuple(draw.sample(new, min(len(new), draw.choice((1, 2)))))
    slot = f"the word{'s' if len(wanted) == 2 else ''} {' and '.join(wanted)}"
    content = about(story, "continue_story", rest, words=slot)
    return replace(content, input=beginning, wanted=wanted)


def _has(text: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", text) is not None


def is_right_continuation(reply: str, wanted: Sequence[str]) -> bool:
    """Whether a reply uses every wanted word, ends as a sentence does and is not too long."""
    reply = reply.strip()
    ends = re.search(r"""[.!?]["'”’]?$""", reply) is not None
    return ends and len(reply.split()) <= LONGEST_REST and all(_has(reply, w) for w in wanted)
