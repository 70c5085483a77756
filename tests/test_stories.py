"""The story world: exact probabilities, certain facts, splits that hold out what they say."""

import math
import re
from itertools import islice

import pytest

from shared.stories import END_OF_TEXT, SPLITS, corpus_entropy, stories, story_text, tell
from shared.stories.chance import Dice, Mismatch, Replay, derivations
from shared.stories.plots import PLOTS, WEIGHTS
from shared.stories.school import NUMBERS, OPPOSITES, PASTS, SCHOOL
from shared.stories.world import (
    ADJECTIVES,
    BOYS,
    GIRLS,
    NEW_BOYS,
    NEW_GIRLS,
    NEW_THINGS,
    THINGS,
    held_out_pair,
)


def some(count, split="train", seed=0):
    return list(islice(stories(seed, split), count))


def test_same_seed_same_stories_and_other_seed_other_stories():
    assert [s.text for s in some(5)] == [s.text for s in some(5)]
    assert some(1)[0].text != some(1, seed=1)[0].text
    assert some(1)[0].text != some(1, "validation")[0].text


@pytest.mark.parametrize("seed", [0, 1])
def test_the_text_betrays_every_decision(seed):
    """So the log-probability of the decisions is the log-probability of the text."""
    for story in some(25, seed=seed):
        told = derivations(tell, story.text)
        assert len(told) == 1, story.text
        assert told[0][1] == pytest.approx(story.log_prob)


def test_derivations_counts_every_way_to_tell_a_text():
    def tell_letters(chance, wanted):
        text = chance.pick(["a", "b"]) + chance.pick(["", "b"]) + chance.pick(["", "b"])
        if not wanted.startswith(text):
            raise Mismatch
        return type("Told", (), {"text": text})()

    ways = derivations(tell_letters, "ab")
    assert sorted(decisions for decisions, _ in ways) == [[0, 0, 1], [0, 1, 0]]
    assert sum(math.exp(p) for _, p in ways) == pytest.approx(0.25)


def test_probabilities_of_all_tellings_sum_to_one():
    """On a small teller, where all can be listed."""

    def tell_small(chance, wanted):
        text = chance.pick("xy", (3, 1))
        text += "!" if chance.maybe(0.2) else "?"
        if not wanted.startswith(text):
            raise Mismatch
        return type("Told", (), {"text": text})()

    total = sum(
        math.exp(p) for text in ("x!", "x?", "y!", "y?") for _, p in derivations(tell_small, text)
    )
    assert total == pytest.approx(1.0)


def test_dice_follow_their_weights():
    dice = Dice(3)
    drawn = sum(dice.pick((0, 1), (1, 3)) for _ in range(4000))
    assert abs(drawn / 4000 - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 4000)
    assert len(dice.decisions) == 4000


def test_picking_from_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to pick from"):
        Dice(0).pick([])


def test_a_replay_tells_the_same_story():
    dice = Dice("again")
    story = tell(dice)
    assert tell(Replay(dice.decisions)).text == story.text


def test_a_departing_text_is_a_mismatch():
    dice = Dice("again")
    text = tell(dice).text
    with pytest.raises(Mismatch):
        tell(Replay(dice.decisions), wanted=text[:40] + "#" + text[41:])


def test_size_of_the_world():
    assert len(PLOTS) >= 40 and len({p.__name__ for p in PLOTS}) == len(PLOTS) == len(WEIGHTS)
    told = some(4000)
    assert {s.plot for s in told} == {p.__name__ for p in PLOTS}
    words = {w.lower() for s in told for w in re.findall(r"[A-Za-z]+", s.text)}
    assert len(words) >= 500
    assert len({s.text for s in told}) > 3950  # only the shortest tales and sums repeat


def test_held_out_pairs_never_meet_in_training():
    pairs = [(n, t) for n in GIRLS + BOYS for t in THINGS if held_out_pair(n, t)]
    assert len(pairs) == pytest.approx(len(GIRLS + BOYS) * len(THINGS) / 40, rel=0.05)
    for split in ("train", "validation", "new_wordings"):
        for story in some(1500, split):
            assert not any(held_out_pair(n, t) for n in story.people for t in story.things)


def test_every_story_of_new_combinations_has_a_new_pair():
    for story in some(800, "new_combinations"):
        if story.people and story.things:
            assert any(held_out_pair(n, t) for n in story.people for t in story.things), story.text


def test_new_entities_share_no_name_and_no_thing_with_training():
    for story in some(500, "new_entities"):
        assert set(story.people) <= set(NEW_GIRLS + NEW_BOYS)
        assert set(story.things) <= set(NEW_THINGS)
        assert not set(re.findall(r"[A-Z][a-z]+", story.text)) & set(GIRLS + BOYS)


def test_new_wordings_are_new():
    def openings(split):
        return {" ".join(s.text.split()[:2]) for s in some(3000, split)}

    assert "Nobody else" in openings("new_wordings")
    assert "Nobody else" not in openings("train") | openings("validation")


def test_probes_stand_before_the_holders_name():
    count = 0
    for split in SPLITS:
        for story in some(400, split):
            for probe in story.probes:
                assert story.text[probe.start :].startswith(probe.answer)
                assert probe.answer in story.text[: probe.start]
                assert ("who_has", probe.thing, probe.answer) in {
                    (f.kind, f.about, f.answer) for f in story.facts
                }
                count += 1
    assert count > 500


def test_facts_agree_with_the_text():
    for story in some(1500):
        for fact in story.facts:
            assert fact.answer.removeprefix("because ") in story.text, (fact, story.text)
            if fact.kind in ("who_has", "where_is", "who_found"):
                assert fact.about in story.things


def test_hand_made_derivation_of_a_lending_story():
    """A lent thing that was not given back is with the borrower."""
    for story in some(3000):
        if story.plot == "lend_and_forget":
            lender, borrower = story.people[0], story.people[1]
            facts = {(f.kind, f.answer) for f in story.facts}
            assert ("who_has", borrower) in facts and ("who_gave", lender) in facts


def test_no_broken_english():
    for story in some(3000):
        text = story.text
        assert not re.search(r"[{}|()~]|  | [.,!?]|\.\.", text), text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiouh]", text.split("\n")[0]), text
        assert text.count('"') % 2 == 0, text
        assert re.match(r'"?[A-Z]', text) and re.search(r'[.!?]"?$', text), text
        assert not re.search(r"[.?!] [a-z]", re.sub(r'[.?!]" [a-z]', "", text)), text


def test_school_is_right():
    """Said again, backwards, counted, added, put in order: computed a second time."""
    told = {s.text: s.plot for s in some(6000)}
    seen = dict.fromkeys((f.__name__ for f in SCHOOL), 0)
    for text, plot in told.items():
        rows = [row.split(", ") for row in re.findall(r": ([a-z, ]+)\.", text)]
        if plot == "say_after_me":
            assert rows[0] == rows[1] and len(set(rows[0])) == len(rows[0])
            assert len(rows) == 2 or rows[2] == rows[0][::-1]
            if made := re.search(r"(?:made|was) (\w+)\.$", text):
                assert NUMBERS.index(made[1]) == len(rows[0])
        elif plot == "in_order":
            assert [NUMBERS.index(w) for w in rows[1]] == sorted(map(NUMBERS.index, rows[0]))
        elif plot == "sums":
            one, sign, other, result = re.search(
                r": (\w+) (\w+) (\w+)\. \w+ is (\w+)\.", text
            ).groups()
            one, other, result = map(NUMBERS.index, (one, other, result))
            assert result == (one + other if sign == "plus" else one - other)
        elif plot == "no_sooner_said":
            now, then = re.search(r"(?:I|we) (\w+) .*(?:And \w+|So they) (\w+) ", text).groups()
            assert PASTS[now] == then
        elif plot == "the_other_way_round":
            one, other = re.search(r'(\w+)[,?]" .*"No, (?:it is )?(\w+),"', text).groups()
            assert (one, other) in OPPOSITES.items() or (other, one) in OPPOSITES.items()
        else:
            continue
        seen[plot] += 1
    assert min(seen.values()) > 50, seen


def test_story_text_is_whole_stories():
    text = story_text(5000, seed=2)
    assert len(text.encode()) >= 5000 and text.endswith(END_OF_TEXT)
    told = text.split(END_OF_TEXT)[:-1]
    assert told == [s.text for s in some(len(told), seed=2)]


def test_entropy_is_the_mean_surprise():
    entropy = corpus_entropy(num_stories=300)
    told = some(300, "validation")
    bits = -sum(s.log_prob for s in told) / math.log(2)
    assert entropy.bits_per_byte == pytest.approx(bits / sum(len(s.text.encode()) for s in told))
    assert 0 < entropy.standard_error < 0.05 * entropy.bits_per_byte


@pytest.mark.parametrize(
    "call",
    [
        lambda: next(stories(split="test")),
        lambda: story_text(0),
        lambda: corpus_entropy(1),
    ],
)
def test_bad_arguments_are_named(call):
    with pytest.raises(ValueError, match="expected"):
        call()


def test_an_adjective_is_said_once_at_most_and_its_article_fits():
    seen = 0
    for story in some(200):
        for noun in story.things:
            said = re.findall(rf"\b({'|'.join(ADJECTIVES)}) {noun}\b", story.text)
            assert len(said) <= 1, story.text
            seen += len(said)
        for article, adjective in re.findall(rf"\b([Aa]n?) ({'|'.join(ADJECTIVES)})\b", story.text):
            assert (article.lower() == "an") == (adjective[0] in "aeiou"), story.text
    assert seen > 100
