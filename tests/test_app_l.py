"""Appendix L: worlds, near-duplicates, filters, leaks, mixtures, packing and a teacher."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
import torch

from shared.appendices import (
    DIRT,
    FEWEST_STOPS,
    MOST_STOPS,
    STATIONS,
    TRAVELLERS,
    PackedGPT,
    Train,
    agreed_answer,
    batches_in_order,
    dirtied,
    estimated_jaccard,
    first_fit_decreasing,
    first_of_each_group,
    jaccard,
    joined_rows,
    leaked_ngrams,
    line_entropy,
    line_stories,
    lsh_chance,
    lsh_pairs,
    minhash_signatures,
    mixed_rows,
    places_in_story,
    rule_findings,
    shingle_number,
    shingles,
    story_numbers,
    tell_line,
    temperature_shares,
    word_runs,
)
from shared.artifacts import ROOT
from shared.messages import near_duplicates
from shared.previous_chapters import GPTConfig, GPTModel, pad_rows
from shared.stories import stories
from shared.stories.chance import Dice, Mismatch, Replay, derivations

ODD = GPTConfig(vocab_size=37, context_length=29, embed_dim=24, num_heads=6, num_layers=3)

# The train line


def test_the_state_of_the_train():
    train = Train(station=5)
    assert train.change("Mia") and train.aboard == {"Mia"}
    train.move()
    assert train.station == 0 and not train.change("Mia")
    assert not train.aboard and train.left_at == {"Mia": STATIONS[0]}


def test_a_line_story_told_by_given_decisions():
    # start Elm, 2 stops; Tom, first wording; Tom again, second wording
    told = tell_line(Replay([3, 0, 3, 0, 3, 1]))
    expected = "The train is at Elm. Tom gets on. Next stop Fir. Tom steps down."
    assert told.text == f"{expected} On the train: nobody."
    assert told.log_prob == pytest.approx(-math.log(6 * 3 * 8 * 8))
    assert [(f.kind, f.about, f.answer) for f in told.facts] == [
        ("who_is_aboard", "train", "nobody"),
        ("where_off", "Tom", "Fir"),
    ]


def test_line_entropy_by_enumeration():
    """-Σ p ln p over all decisions, counted: stories of n stops are 6 · 8ⁿ equally likely ones."""
    total = 0.0
    for stops in range(FEWEST_STOPS, MOST_STOPS + 1):
        chance = 1 / (6 * 3 * 8**stops)
        total += 6 * 8**stops * -chance * math.log(chance)
    assert line_entropy() == pytest.approx(total) == pytest.approx(9.1287, abs=1e-4)


def test_line_stories_are_seeded_and_end_with_who_is_aboard():
    first, again = (list(islice(line_stories(seed=4), 60)) for _ in range(2))
    assert first == again and first != list(islice(line_stories(seed=5), 60))
    for told in first:
        aboard: set[str] = set()
        for who in TRAVELLERS:
            times = sum(told.text.count(f"{who} {verb}") for verb in ("gets", "climbs", "steps"))
            aboard |= {who} if times % 2 else set()
        assert told.text.endswith(f"On the train: {', '.join(sorted(aboard)) or 'nobody'}.")
        assert len(derivations(tell_line, told.text)) == 1


def test_a_line_story_departs_from_what_is_wanted():
    with pytest.raises(Mismatch):
        tell_line(Dice("any"), "The train is nowhere.")


# Near-duplicates


def test_shingles_and_jaccard_by_hand():
    assert shingles("The cat, the CAT!", 2) == {"the cat", "cat the"}
    assert shingles("one two", 3) == {"one two"} and shingles("", 3) == {""}
    assert jaccard(shingles("a b c", 2), shingles("a b d", 2)) == pytest.approx(1 / 3)
    assert jaccard(set(), set()) == 1.0 and jaccard({1}, set()) == 0.0
    with pytest.raises(ValueError, match="size=0"):
        shingles("a", 0)


def test_shingle_numbers_are_the_same_everywhere():
    assert shingle_number("the cat") == 3042635075010022360


def test_signatures_against_a_loop_in_plain_python():
    """Numpy's wrapping arithmetic, checked with Python's unbounded numbers."""
    sets = [{"a b", "b c"}, {"c d"}, {"a b", "x y", "z z"}]
    a, b = np.random.default_rng(9).integers(2**64, size=(2, 7), dtype=np.uint64).tolist()
    expected = [
        [
            min(((f | 1) * shingle_number(s) + g) % 2**64 >> 32 for s in members)
            for f, g in zip(a, b, strict=True)
        ]
        for members in sets
    ]
    found = minhash_signatures(sets, 7, seed=9)
    assert found.dtype == np.uint32 and found.tolist() == expected


@pytest.mark.parametrize("shared", [0, 7, 40, 93, 100])
def test_minhash_is_unbiased_within_its_stated_error(shared):
    """Over 60 independent pairs: the mean is the truth, the spread sqrt(J (1 - J) / k)."""
    k, pairs = 96, 60
    sets = []
    for n in range(pairs):
        sets.append({f"{n} {i}" for i in range(100)})
        sets.append({f"{n} {i}" for i in range(100 - shared, 200 - shared)})
    truth = shared / (200 - shared)
    signatures = minhash_signatures(sets, k, seed=shared)
    estimates = estimated_jaccard(signatures[::2], signatures[1::2])
    error = math.sqrt(truth * (1 - truth) / k)
    assert abs(estimates.mean() - truth) <= 4 * error / pairs**0.5 + 1e-12
    assert estimates.std() <= 1.4 * error + 1e-12
    assert estimates.std() >= 0.65 * error


def test_signatures_complain():
    for sets, hashes in (([], 4), ([{"a"}, set()], 4), ([{"a"}], 0)):
        with pytest.raises(ValueError, match="minhash_signatures: .* sets"):
            minhash_signatures(sets, hashes)


def test_lsh_by_hand():
    signatures = np.array([[1, 2, 3, 4], [1, 2, 9, 9], [7, 7, 9, 9], [2, 1, 4, 3]])
    assert lsh_pairs(signatures, 2) == [(0, 1), (1, 2)]
    assert lsh_pairs(signatures, 4) == [(0, 1), (1, 2)]
    assert lsh_pairs(signatures, 1) == []
    assert lsh_chance(0.5, 3, 2) == pytest.approx(1 - 0.75**3)
    with pytest.raises(ValueError, match="divides 4"):
        lsh_pairs(signatures, 3)


def test_lsh_finds_what_the_curve_says():
    sets = []
    for n in range(300):
        sets.append({f"{n} {i}" for i in range(60)})
        sets.append({f"{n} {i}" for i in range(20, 80)})  # similarity 40 / 80
    found = set(lsh_pairs(minhash_signatures(sets, 30, seed=1), 10))
    share = np.mean([(2 * n, 2 * n + 1) in found for n in range(300)])
    assert abs(share - lsh_chance(0.5, 10, 3)) < 0.1


def test_all_near_duplicates_are_found_as_by_the_exact_way():
    """shared.messages finds pairs by five letters; on the same sets both must agree."""
    texts = ["see you at the gate", "see you at the gate x", "home by six", "home by six o"]
    exact = [(i, j) for i, j, _ in near_duplicates(texts, 0.6)]
    sets = [{t[i : i + 5] for i in range(len(t) - 4)} for t in texts]
    quick = lsh_pairs(minhash_signatures(sets, 128), 64)
    assert exact == [p for p in quick if jaccard(sets[p[0]], sets[p[1]]) >= 0.6] != []


def test_the_first_of_each_group_stays():
    assert first_of_each_group(6, [(4, 5), (0, 3), (3, 4)]) == [0, 1, 2]
    assert first_of_each_group(3, []) == [0, 1, 2]
    assert first_of_each_group(4, [(0, 2), (1, 2)]) == [0, 3]
    chain = [(i, i + 1) for i in range(3000)]
    assert first_of_each_group(3001, chain[::-1]) == [0]


# Filters


def test_rules_by_hand():
    fine = "Mia had a kite. She gave it to Tom, and he was happy."
    assert rule_findings(fine) == []
    assert rule_findings("Mia had a kite.") == ["length"]
    assert rule_findings(fine[:-1]) == ["no end"]
    assert "symbols" in rule_findings(fine.replace("t", "#"))
    assert rule_findings("The cat sat on it. " * 5) == ["repetition"]
    odd = "Zu tor mak lim. Pel ast hin dol gar, ost bem ril."
    assert rule_findings(odd) == ["no common words"]


def test_dirt_is_dirt_and_seeded():
    text = next(s.text for s in stories(3) if len(s.text.split()) > 40)
    for kind in DIRT:
        spoiled = dirtied(text, kind, random.Random(1))
        assert spoiled != text and spoiled == dirtied(text, kind, random.Random(1))
    shuffled = dirtied(text, "shuffled", random.Random(1))
    clean = lambda t: Counter(w.strip('.,!?"') for w in t.split())
    assert clean(shuffled) == clean(text)
    with pytest.raises(ValueError, match="kind='rust'"):
        dirtied(text, "rust", random.Random(1))


def test_rules_lose_few_clean_stories():
    told = [s.text for s in islice(stories(77), 400)]
    assert sum(bool(rule_findings(text)) for text in told) <= 8


# Leaks


def test_leaked_ngrams_by_hand():
    tests = ["the cat sat up", "a b"]
    assert leaked_ngrams(["so the cat sat down"], tests, 3) == [0.6]
    assert leaked_ngrams(["The cat; sat UP!", "up sat cat the", "cat"], tests, 3) == [1.0, 0, 0]
    assert leaked_ngrams(["a b a b"], tests, 2) == [1.0]
    assert leaked_ngrams(["x"], [], 3) == [0.0]
    assert word_runs("a b c", 2) == ["a b", "b c"] and word_runs("a", 2) == []
    with pytest.raises(ValueError, match="size=0"):
        leaked_ngrams(["a"], ["a"], 0)


def test_leaks_only_fall_with_longer_runs():
    tests = [s.text for s in islice(stories(1, "validation"), 30)]
    texts = [s.text for s in islice(stories(2), 60)]
    shares = [leaked_ngrams(texts, tests, n) for n in (1, 2, 4, 7)]
    for small, large in zip(shares, shares[1:], strict=False):
        assert all(a >= b for a, b in zip(small, large, strict=True))
    assert max(shares[0]) > 0.5


# Mixing


def test_temperature_shares_by_hand():
    assert temperature_shares([90, 10]) == pytest.approx([0.9, 0.1])
    assert temperature_shares([81, 1], 2) == pytest.approx([0.9, 0.1])
    assert temperature_shares([5, 1, 1], 1e9) == pytest.approx([1 / 3] * 3)
    for sizes, temperature in (([1, 0], 1), ([1], 0), ([], 1)):
        with pytest.raises(ValueError, match="above 0"):
            temperature_shares(sizes, temperature)


def test_mixed_rows_have_their_shares():
    domains = [[[0] * n for n in (3, 9, 5)] * 40, [[1, 1, 1]]]
    rows = mixed_rows(domains, [0.8, 0.2], tokens=1000, seed=3)
    tokens = Counter()
    for row in rows:
        tokens[row[0]] += len(row) - 1
    assert 800 <= tokens[0] < 809 and 200 <= tokens[1] < 203
    assert rows == mixed_rows(domains, [0.8, 0.2], tokens=1000, seed=3)
    assert {row[0] for row in rows[:20]} == {0, 1}, "not shuffled"
    for shares, given in (([1.0], domains), ([0.5, 0.5], [domains[0], []])):
        with pytest.raises(ValueError, match="expected one for each"):
            mixed_rows(given, shares, 10)


# Packing


def test_first_fit_decreasing_by_hand():
    assert first_fit_decreasing([2, 5, 4, 3], 7) == [[1, 0], [2, 3]]
    assert first_fit_decreasing([], 7) == []
    with pytest.raises(ValueError, match="an item of 8 does not fit into 7"):
        first_fit_decreasing([8], 7)


@pytest.mark.parametrize("seed", range(5))
def test_first_fit_decreasing_keeps_its_promise(seed):
    """Everything once, nothing over, no two bins that could be one, and 11/9 of what is needed."""
    dice = random.Random(seed)
    lengths = [dice.randint(1, 40) for _ in range(150)]
    bins = first_fit_decreasing(lengths, 41)
    sums = [sum(lengths[i] for i in b) for b in bins]
    assert sorted(i for b in bins for i in b) == list(range(150)) and max(sums) <= 41
    assert all(a + b > 41 for a, b in combinations(sums, 2))
    assert len(bins) <= 11 / 9 * math.ceil(sum(lengths) / 41) + 1


def test_joined_rows_share_their_marks():
    rows = [[0, 5, 6, 0], [0, 7, 0], [0, 8, 8, 8, 0]]
    packed = joined_rows(rows, 5)
    assert packed == [[0, 8, 8, 8, 0], [0, 5, 6, 0, 7, 0]]
    asked = lambda some: sum(len(row) - 1 for row in some)
    assert asked(packed) == asked(rows)


def test_stories_in_a_row_are_numbered():
    ids = torch.tensor([[0, 5, 6, 0, 7], [0, 1, 1, 1, 1]])
    assert story_numbers(ids, 0).tolist() == [[1, 1, 1, 2, 2], [1] * 5]
    assert places_in_story(ids, 0).tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]


def test_a_packed_story_gets_the_logits_that_it_gets_alone():
    plain, packed = GPTModel(ODD, seed=3).eval(), PackedGPT(ODD, end_id=0, seed=3).eval()
    dice = torch.Generator().manual_seed(0)
    for p in plain.parameters():
        p.data.add_(0.2 * torch.randn(p.shape, generator=dice))
    packed.load_state_dict(plain.state_dict())
    rows = [[0, *torch.randint(1, 37, (n,), generator=dice).tolist(), 0] for n in (7, 3, 12)]
    whole = [i for row in rows for i in row[:-1]]
    with torch.no_grad():
        together = packed(torch.tensor([whole, whole]))[1]
        alone = torch.cat([plain(torch.tensor([row[:-1]]))[0] for row in rows])
        mixed = plain(torch.tensor([whole]))[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert (mixed - alone).abs().max() > 1e-2, "the plain model would do as well"


def test_packed_gpt_ignores_what_fills_a_row():
    packed = PackedGPT(ODD, end_id=36, seed=1).eval()
    inputs, _ = pad_rows([[36, 5, 6, 7, 36], [36, 9, 36]])
    with torch.no_grad():
        short, both = packed(torch.tensor([[36, 9]])), packed(inputs)
    torch.testing.assert_close(both[1, :2], short[0])


# A teacher, an order, the results


def test_agreed_answers():
    assert agreed_answer(["two", "ten", "two"], 2) == "two"
    assert agreed_answer(["two", "ten", "two"], 3) is None
    with pytest.raises(ValueError, match="no answers"):
        agreed_answer([], 1)


def test_batches_in_order():
    rows = [[0] * n for n in (3, 9, 5, 4, 7, 6)]
    short = batches_in_order(rows, "short first", 8)
    assert short == batches_in_order(rows, "long first", 8)[::-1]
    longest = [max(map(len, group)) for group in short]
    assert longest == sorted(longest)
    mixed = batches_in_order(rows, "random", 8, seed=1)
    assert sorted(map(repr, mixed)) == sorted(map(repr, short)) and mixed != short
    with pytest.raises(ValueError, match="order='up'"):
        batches_in_order(rows, "up", 8)


@pytest.mark.parametrize(
    "name", ["duplicates", "filters", "mixing", "packing", "curriculum", "synthetic"]
)
def test_results_are_whole_and_say_where_they_are_from(name):
    path = ROOT / "appendix" / "l_making_data" / "results" / f"{name}.json"
    found = json.loads(path.read_text("utf-8"))
    assert {"what", "command", "settings", "machine", "date", "data"} <= set(found)
    assert name in found["command"]
    runs = Counter((run["condition"], run["seed"]) for run in found["runs"])
    conditions, seeds = {c for c, _ in runs}, {s for _, s in runs}
    assert len(seeds) >= 3 and len(runs) == len(conditions) * len(seeds), "runs are missing"
    assert set(runs.values()) == {1} and all(run["seconds"] > 0 for run in found["runs"])
