"""The instruction data: right answers, honest splits, wordings that a small model can read."""

import re
import zlib
from collections import Counter
from functools import cache
from itertools import islice

import pytest

from shared.instructions import (
    FAMILIES,
    FAMILIES_OF,
    SHARES,
    SPLITS,
    Example,
    about_stories,
    about_words,
    instructions,
    leakage,
    open_instructions,
    short_tales,
    words,
)
from shared.instructions.about_stories import BRIEFLY_WITH, PLOTS_WITH
from shared.instructions.draw import Content, Draw, held_out
from shared.instructions.renaming import renamed
from shared.instructions.wordings import NEW_WORDINGS, WORDINGS
from shared.stories import Fact, Story, school, stories, world
from shared.stories.plots import PLOTS

STORY_FAMILIES = ("who_has", "where_is", "who_found", "who_gave", "why", "yes_no")
THINGS = world.THINGS + words.UNHEARD_THINGS
EACH = [(split, family) for split in SPLITS for family in FAMILIES_OF[split]]


@cache
def some(count, split="train", family=None, seed=0):
    return tuple(islice(instructions(seed, split, family and [family]), count))


def words_of(text):
    return re.findall(r"[A-Za-z]+", text)


# ---- the answers, computed a second time ---------------------------------------------------------
def number(word):
    names = (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty"
    ).split()
    return names.index(word)


def test_lists_against_plain_python():
    for split in ("train", "new_entities", "longer"):
        for e in some(100, split, "reverse"):
            assert e.answer.split(", ")[::-1] == e.content.split(", ")
        for e in some(100, split, "count"):
            assert number(e.answer) == len(e.content.split(", "))
    for e in some(100, "longer", "sort") + some(100, "train", "sort"):
        given, answer = ([number(w) for w in t.split(", ")] for t in (e.content, e.answer))
        assert sorted(given) == answer


def test_sums_against_plain_python():
    signs = {"plus": "+", "minus": "-"}
    for e in some(300, "train", "sum") + some(100, "longer", "sum") + some(50, "unheard", "sum"):
        terms = re.split(r" (plus|minus) ", e.content)
        total = eval("".join(signs.get(t) or str(number(t.split()[0])) for t in terms))
        assert number(e.answer.split()[0]) == total and 0 <= total <= 10
        said = [tuple(t.split()) for t in [*terms[::2], e.answer]]
        if len(said[0]) == 2:  # "one kite", and two kites
            forms = (
                {n if number == "one" else words.plural(n) for number, _ in said} for n in THINGS
            )
            assert {noun for _, noun in said} in forms, e
        else:
            assert all(len(one) == 1 for one in said)


def test_passive_against_a_pattern():
    for e in some(200, "train", "passive") + some(100, "new_entities", "passive"):
        before, after = e.content.split(". "), e.answer.split(". ")
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            name, verb, thing = re.fullmatch(r"(\w+) (\w+) the (\w+)\.?", one).groups()
            found = re.fullmatch(rf"The {thing} was (\w+) by {name}\.?", other)
            assert found[1] == verb or found[1] in words.PARTICIPLES.values()


@pytest.mark.parametrize(
    ("verb", "present", "past", "participle"),
    [
        ("carry", "carries", "carried", "carried"),
        ("drop", "drops", "dropped", "dropped"),
        ("watch", "watches", "watched", "watched"),
        ("visit", "visits", "visited", "visited"),
        ("play", "plays", "played", "played"),
        ("go", "goes", "went", "went"),
        ("take", "takes", "took", "taken"),
        ("hide", "hides", "hid", "hidden"),
        ("fix", "fixes", "fixed", "fixed"),
        ("need", "needs", "needed", "needed"),
        ("hurry", "hurries", "hurried", "hurried"),
        ("drag", "drags", "dragged", "dragged"),
        ("clean", "cleans", "cleaned", "cleaned"),
        ("show", "shows", "showed", "shown"),
    ],
)
def test_verbs_by_hand(verb, present, past, participle):
    assert words.present(verb) == present
    assert words.past(verb) == past
    assert words.participle(verb) == participle


def test_all_regular_pasts_are_spelled_as_these():
    regular = {v for v in about_words._VERBS if v not in words.IRREGULAR_PASTS}
    doubled = {v for v in regular if words.past(v) == v + v[-1] + "ed"}
    assert doubled == set("skip hop drop wrap grab drag nod shrug".split())
    dropped_y = {v for v in regular if words.past(v).endswith("ied")}
    assert dropped_y == set("hurry carry dry cry".split())
    assert not any(words.past(v).endswith("eed") for v in regular)


def test_nouns_by_hand():
    given = "kite box baby leaf mouse key bus potato brush scarf monkey child sheep fly knife"
    right = "kites boxes babies leaves mice keys buses potatoes brushes scarves monkeys children"
    assert [words.plural(n) for n in given.split()] == [*right.split(), "sheep", "flies", "knives"]


def test_no_word_list_is_small_or_says_a_word_twice():
    pairs = {frozenset(pair) for pairs in words.OPPOSITES.values() for pair in pairs}
    nouns = {*world.THINGS, *words.MORE_NOUNS, *words.ABSTRACT_NOUNS}
    assert len(pairs) >= 40 and len(words.VERBS_WITH_THING) >= 40
    assert len(set(about_words._VERBS)) == len(about_words._VERBS) >= 60
    assert len(nouns) >= 150
    assert len(words.UNHEARD_GIRLS + words.UNHEARD_BOYS) == 24 and len(words.UNHEARD_THINGS) == 20
    names = world.GIRLS + world.BOYS
    names += words.UNHEARD_GIRLS + words.UNHEARD_BOYS
    assert len(set(names)) == len(names)
    things = world.THINGS + words.UNHEARD_THINGS
    assert len(set(things)) == len(things)
    assert not [thing for thing in things if thing[0] in "aeiou"]
    assert set(words.IRREGULAR_PLURALS) <= nouns


def test_unheard_words_are_no_words_of_the_stories():
    told = {w for story in islice(stories(1), 2000) for w in words_of(story.text)}
    things = words.UNHEARD_THINGS
    assert not told & {*things, *map(words.plural, things)}
    names = {*words.UNHEARD_GIRLS, *words.UNHEARD_BOYS}
    assert not {w.lower() for w in told} & {name.lower() for name in names}


def test_spared_words_are_some_of_the_stories_own():
    told = {w for story in islice(stories(1), 2000) for w in words_of(story.text)}
    assert words.SPARED <= told and not words.SPARED & {*words.GIRLS, *words.BOYS, *words.THINGS}
    assert len(words.SPARED_GIRLS) == len(words.SPARED_BOYS) == 5 and len(words.SPARED_THINGS) == 10


def test_each_word_has_one_opposite_and_is_the_opposite_of_that():
    pairs = {pair for pairs in words.OPPOSITES.values() for pair in pairs}
    assert len(words.OPPOSITE) == 2 * len({frozenset(pair) for pair in pairs})
    assert all(words.OPPOSITE[words.OPPOSITE[word]] == word for word in words.OPPOSITE)
    assert words.OPPOSITE["big"] == "small" and words.OPPOSITE["lent"] == "borrowed"


def test_stories_and_instructions_teach_the_same_pairs():
    assert all(words.OPPOSITE[a] == b for a, b in school.OPPOSITES.items())
    known = {verb: past for verb, past in school.PASTS.items() if verb in words.VERBS_TO}
    assert len(known) > 10 and all(words.past(verb) == past for verb, past in known.items())


def test_an_opposite_changes_one_word_of_each_sentence():
    for e in some(200, "train", "opposite") + some(100, "longer", "opposite"):
        before, after = words_of(e.content), words_of(e.answer)
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        assert len(changed) == max(1, e.content.count("."))
        assert all(words.OPPOSITE[a] == b for a, b in changed)


def test_a_name_is_changed_everywhere_and_nothing_else_is():
    girls = {*world.GIRLS, *words.UNHEARD_GIRLS}
    for e in some(200, "train", "rename") + some(100, "longer", "rename"):
        before, after = words_of(e.content), words_of(e.answer)
        changed = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
        assert len(changed) == 1
        ((old, new),) = changed
        assert old not in after and new not in before and (old in girls) == (new in girls)
        assert {old, new} <= set(words_of(e.instruction))


# ---- on stories ----------------------------------------------------------------------------------
def test_story_answers_say_what_the_story_says():
    for family in STORY_FAMILIES:
        for e in some(200, "train", family):
            told = set(words_of(e.input)) | {"Yes", "No", "is", "with", "got", "from"}
            told |= {"Because", "The", "the", "Is", "found", "in", "on", "by", "at"}
            assert set(words_of(e.answer)) <= told | {w.capitalize() for w in told}, e
    for e in some(200, "train", "why"):
        assert e.answer[1:-1].partition(" ")[2] in e.input
    for e in some(200, "train", "where_is"):
        place = e.answer.removesuffix(".").split(" ", 3)[3]
        assert place.split()[0] == world.PLACES[place.split()[2]] and place.split()[2] in e.input


def test_answers_are_the_facts_of_the_story(monkeypatch):
    patterns = {
        "who_has": r"The (?P<about>\w+) is with (?P<answer>\w+)\.",
        "where_is": r"The (?P<about>\w+) is (?:in|on|by|at) the (?P<answer>\w+)\.",
        "who_found": r"(?P<answer>\w+) found the (?P<about>\w+)\.",
        "who_gave": r"(?P<to>\w+) got the (?P<about>\w+) from (?P<answer>\w+)\.",
    }
    asked = Counter()
    for number, story in enumerate(islice(stories(2), 600)):
        monkeypatch.setattr(about_stories, "story_for", lambda *_, story=story: story)
        facts = {(f.kind, f.about, f.answer) for f in story.facts}
        for family, pattern in patterns.items():
            content = getattr(about_stories, family)(Draw(f"facts {number}", "train"))
            if content is not None:
                found = re.fullmatch(pattern, content.answer)
                thing = found["about"] + (f" to {found['to']}" if family == "who_gave" else "")
                assert (family, thing, found["answer"]) in facts
                asked[family] += 1
        content = about_stories.why(Draw(f"facts {number}", "train"))
        if content is not None:
            about = f"{content.slots['name']} {content.slots['feeling']}"
            assert ("why", about, "b" + content.answer[1:-1]) in facts
            asked["why"] += 1
    assert len(asked) == 5 and min(asked.values()) >= 5


def test_what_happened_twice_is_not_asked(monkeypatch):
    story = Story(
        text="Omar gave Ella a lamp. Ella gave it to Emma. Emma gave it back to Ella.",
        log_prob=0.0,
        facts=(
            Fact("who_gave", "lamp to Ella", "Omar"),
            Fact("who_gave", "lamp to Emma", "Ella"),
            Fact("who_gave", "lamp to Ella", "Emma"),
        ),
        probes=(),
        plot="",
        people=("Omar", "Ella", "Emma"),
        things=("lamp",),
    )
    monkeypatch.setattr(about_stories, "story_for", lambda *_: story)
    answers = {about_stories.who_gave(Draw(str(i), "train")).answer for i in range(20)}
    assert answers == {"Emma got the lamp from Ella."}


def test_renaming_changes_the_text_and_the_answer_alike():
    content = Content(
        wordings="who_has",
        input="Mia had a kite. Tom wanted Mia's kite. He took a bell and two bells.",
        answer="Mia has the kite.",
        slots={"thing": "kite"},
        pairs=(("Mia", "kite"), ("Tom", "kite")),
        wanted=("Tom",),
        people=("Mia", "Tom"),
        things=("kite", "bell"),
    )
    new = renamed(content, Draw("any", "unheard"))
    (girl, boy), (kite, bell) = new.people, new.things
    assert (
        girl in words.UNHEARD_GIRLS and boy in words.UNHEARD_BOYS and kite in words.UNHEARD_THINGS
    )
    assert bell == "bell"  # its plural stands in the text
    assert new.input == (
        f"{girl} had a {kite}. {boy} wanted {girl}'s {kite}. He took a bell and two bells."
    )
    assert new.answer == f"{girl} has the {kite}." and new.slots == {"thing": kite}
    assert new.pairs == ((girl, kite), (boy, kite)) and new.wanted == (boy,)


def test_scenery_stays_what_it_is():
    text = "Mia had a hat. On a branch lay a straw hat."
    content = Content("who_has", text, "Mia has the hat.", people=("Mia",), things=("hat",))
    assert renamed(content, Draw("any", "train")).things == ("hat",)


def test_yes_and_no_are_balanced_and_the_wrong_name_is_in_the_story():
    answers = Counter()
    for e in some(600, "validation", "yes_no"):
        holder, verdict = re.search(r"Is (\w+) \w+\? (Yes|No)\.$", e.answer).groups()
        asked = set(words_of(e.instruction)) & words.NAMES
        assert len(asked) == 1 and asked <= set(words_of(e.input))
        assert (verdict == "Yes") == (asked == {holder})
        answers[verdict] += 1
    assert 0.42 < answers["Yes"] / 600 < 0.58


def test_training_asks_each_yes_and_no_of_the_same_story_in_the_same_words():
    asked = [e for e in some(2000) if e.family == "yes_no"]
    for one, other in zip(asked[::2], asked[1::2], strict=False):
        assert one.input == other.input and one.instruction != other.instruction
        assert {one.answer[-4:], other.answer[-4:]} == {"Yes.", " No."}
        names = [set(words_of(e.instruction)) & words.NAMES for e in (one, other)]
        assert [len(words_of(e.instruction)) for e in (one, other)] and names[0] != names[1]


def test_short_tales_name_everybody_and_are_short():
    told = list(islice(short_tales(1), 1500))
    assert told[:5] == list(islice(short_tales(1), 5)) != list(islice(short_tales(2), 5))
    assert words.SPARED <= {w for story in told for w in words_of(story.text)}
    assert sum(len(story.text.split()) for story in told) < 25 * len(told)


def test_the_plots_that_are_looked_for_are_there_and_none_is_missing():
    plots = {plot.__name__ for plot in PLOTS}
    assert all(set(some.split()) <= plots for some in PLOTS_WITH.values())
    assert all(set(some.split()) <= plots for some in BRIEFLY_WITH.values())
    for kind in BRIEFLY_WITH.keys() - {"who_has"}:
        assert set(BRIEFLY_WITH[kind].split()) <= set(PLOTS_WITH[kind].split())
    for story in islice(stories(3), 1500):
        for fact in story.facts:
            assert fact.kind == "who_has" or story.plot in PLOTS_WITH[fact.kind].split()


def test_a_continuation_is_right_by_its_rule():
    e = Example("continue_story", "Use the word kite.", "Mia ran.", "…", wanted=("kite", "Tom"))
    assert e.is_right("Tom had a kite.") and e.is_right('"My kite!" said Tom. "Oh!"')
    assert not e.is_right("Tom had kites.")
    assert not e.is_right("Tom had a kite")
    assert not e.is_right("Tom had a kite. " * 21)
    assert not e.is_right("")


def test_the_wanted_words_do_not_stand_in_the_beginning():
    for e in some(200, "train", "continue_story"):
        assert 1 <= len(e.wanted) <= 2 and all(w in e.instruction for w in e.wanted)
        assert not set(e.wanted) & set(words_of(e.input))


# ---- every family and split ----------------------------------------------------------------------
@pytest.mark.parametrize(("split", "family"), EACH)
def test_every_answer_is_right_and_another_is_not(split, family):
    for e in some(300, split, family):
        assert e.family == family
        assert e.is_right(e.answer) and e.is_right(f" {e.answer}\n")
        assert not e.is_right(e.answer + " x") and not e.is_right("")
        assert (
            e.content.lower() in (e.input or e.instruction).lower()
            and e.instruction[0] == e.instruction[0].upper()
        )
        assert not re.search(r"[{}]|  ", e.instruction + e.input + e.answer), e


def test_same_seed_same_examples_and_other_seed_or_split_other_examples():
    assert list(islice(instructions(4), 30)) == list(islice(instructions(4), 30))
    assert some(30, seed=4) != some(30, seed=5)
    assert {e.instruction + e.input for e in some(30)}.isdisjoint(
        e.instruction + e.input for e in some(30, "validation")
    )


def test_streams_do_not_disturb_each_other():
    one, other = instructions(4), instructions(4)
    mixed = [(next(one), next(instructions(5)), next(other)) for _ in range(30)]
    assert all(a == b for a, _, b in mixed)


def test_families_are_as_frequent_as_their_shares_and_open_ones_are_few():
    count = Counter(e.family for e in some(4000))
    assert set(count) == {*FAMILIES, "open"}
    wanted = {family: SHARES.get(family, 1.0) for family in FAMILIES}
    wanted["yes_no"] *= 2  # yes and no of the same story
    for family, share in wanted.items():
        expected = 4000 * (1 - count["open"] / 4000) * share / sum(wanted.values())
        assert 0.7 < count[family] / expected < 1.3, family
    assert 70 < count["open"] < 190
    even = Counter(e.family for e in some(1600, "validation"))
    assert "open" not in even and min(even.values()) > 60 and max(even.values()) < 140


# ---- the splits ----------------------------------------------------------------------------------
def test_training_never_names_what_new_entities_is_about():
    for split in ("train", "validation", "longer", "new_wordings", "new_combinations"):
        for e in some(3000 if split == "train" else 300, split):
            said = set(words_of(f"{e.instruction} {e.input} {e.answer}"))
            assert not said & (words.SPARED | words.UNHEARD), e


def test_every_new_entities_example_names_one_and_no_known_name():
    for split, theirs in (("new_entities", words.SPARED), ("unheard", words.UNHEARD)):
        for e in some(600, split):
            said = set(words_of(f"{e.instruction} {e.input} {e.answer}"))
            said |= {word.removesuffix("s") for word in said} | {w.removesuffix("es") for w in said}
            assert said & theirs, e
            assert not said & (words.NAMES - theirs), e


def test_training_keeps_the_held_out_pairs_apart():
    people, things = {*world.GIRLS, *world.BOYS}, set(world.THINGS)
    apart = {(p, t) for p in people for t in things if world.held_out_pair(p, t)}
    for e in some(3000):
        if e.family in ("open", "count", "reverse"):
            continue
        for one in [e.content] if e.family in STORY_FAMILIES else re.split(r"(?<=\.) ", e.content):
            said = set(words_of(one))
            met = {(p, t) for p in said & people for t in said & things} & apart
            # A thing of the scenery is nobody's: "a bell rang".
            assert all(not re.search(rf"the {t}\b", one) for _, t in met), e


def test_new_combinations_has_pairs_that_training_keeps_apart():
    def pairs(e):
        items = e.content.split(", ")
        return {tuple(sorted(p)) for p in zip(items, items[1:], strict=False)}

    for family in ("reverse", "count", "sort"):
        known = {p for e in some(1000, "train", family) for p in pairs(e)}
        for e in some(200, "new_combinations", family):
            assert any(held_out(*p) for p in pairs(e)) and not pairs(e) <= known
    thing_counted = re.compile(r"([a-z]+) ([a-z]+?)e?s?(?= plus| minus|$)")
    for e in some(200, "new_combinations", "sum"):
        said = thing_counted.findall(e.content) + thing_counted.findall(e.answer)
        things = [(n, t) for n, _ in said for t in world.THINGS if t in e.content]
        assert any(held_out(*pair) for pair in things), e


def test_verbs_and_objects_of_new_combinations():
    def pairs(e):
        for one in e.content.removesuffix(".").split(". "):
            name, verb, thing = re.fullmatch(r"(\w+) (\w+) the (\w+)", one).groups()
            yield from ((verb, thing), (name, thing))

    assert not any(held_out(*p) for e in some(500, "train", "passive") for p in pairs(e))
    assert all(
        any(held_out(*p) for p in pairs(e)) for e in some(200, "new_combinations", "passive")
    )


def test_held_out_pairs_are_the_same_on_every_machine():
    assert held_out("carried", "kite") == (zlib.crc32(b"carried kite") % 20 == 0)
    some_pairs = [(v, t) for v in words.VERBS_WITH_THING for t in world.THINGS]
    share = sum(held_out(*pair) for pair in some_pairs) / len(some_pairs)
    assert 0.03 < share < 0.07
    assert held_out("Mia", "kite") == world.held_out_pair("Mia", "kite")


@pytest.mark.parametrize("family", FAMILIES)
def test_longer_inputs_are_longer_than_any_in_training(family):
    longest = max(len(e.content.split()) for e in some(1000, "train", family))
    shortest = min(len(e.content.split()) for e in some(300, "longer", family))
    assert shortest > longest
    assert max(len(e.content.split()) for e in some(300, "longer", family)) <= 110


@pytest.mark.parametrize("split", [split for split in SPLITS if split != "train"])
def test_no_test_prompt_stands_in_training(split):
    table = leakage(some(5000), some(2000, split))
    assert table.loc["all", "tests"] == 2000
    assert table.loc["all", "prompts"] == 0 and table.loc["all", "inputs"] == 0


def test_leakage_counts_what_leaks():
    train = [
        Example("count", "How many?", "kite, drum", "two", content="kite, drum"),
        Example("sum", "What is one plus one?", "", "two", content="one plus one"),
    ]
    test = [
        train[0],
        Example("count", "Count!", "kite, drum", "two", content="kite, drum"),
        Example("count", "Count!", "kite, bell", "two", content="kite, bell"),
        Example("sum", "Work this out.", "one plus one", "two", content="one plus one"),
        Example("sort", "Sort.", "two, one", "one, two", content="two, one"),
    ]
    table = leakage(train, test)
    assert list(table.loc["count"]) == [3, 1, 2, 3]
    assert list(table.loc["sum"]) == [1, 0, 1, 1]
    assert list(table.loc["sort"]) == [1, 0, 0, 0]
    assert list(table.loc["all"]) == [5, 1, 3, 4]


# ---- wordings ------------------------------------------------------------------------------------
def bare(wording):
    return tuple(w.lower() for w in words_of(re.sub(r"\{\w+\}", "", wording)))


def test_held_out_wordings_are_made_of_words_that_training_reads():
    known = {word for wordings in WORDINGS.values() for w in wordings for word in bare(w)}
    for wordings in NEW_WORDINGS.values():
        for wording in wordings:
            assert set(bare(wording)) <= known, wording


def test_enough_wordings_and_the_held_out_ones_differ_by_more_than_a_small_word():
    small = set("a an the is it this that in at of to and or please".split())
    assert WORDINGS.keys() == NEW_WORDINGS.keys()
    for key, wordings in WORDINGS.items():
        assert len(set(wordings)) >= 8 and len(set(NEW_WORDINGS[key])) >= 4
        for new in NEW_WORDINGS[key]:
            for old in wordings:
                rest = [[w for w in bare(one) if w not in small] for one in (new, old)]
                assert rest[0] != rest[1], (new, old)


def test_new_wordings_are_used_there_and_nowhere_else():
    new = {bare(w) for wordings in NEW_WORDINGS.values() for w in wordings}
    old = {bare(w) for wordings in WORDINGS.values() for w in wordings}
    assert not new & old
    for e in some(200, "new_wordings", "count"):
        assert any(bare(e.instruction) == bare(w) for w in NEW_WORDINGS["count"])


# ---- open ones, and mistakes of the caller -------------------------------------------------------
def test_open_instructions_are_many_and_each_is_asked_once():
    given = open_instructions()
    assert len({e.answer for e in given}) >= 60
    assert len({e.instruction for e in given}) == len(given)
    assert {e.family for e in given} == {"open"} and not any(e.input or e.wanted for e in given)
    assert all(len(e.answer) < 200 and e.answer[-1] in ".!?" for e in given)


@pytest.mark.parametrize(
    "call",
    [
        lambda: instructions(split="test"),
        lambda: instructions(families=["who_is"]),
        lambda: instructions(split="new_entities", families=["sort"]),
        lambda: instructions(families=[]),
    ],
)
def test_bad_arguments_are_named(call):
    with pytest.raises(ValueError, match="expected"):
        call()
