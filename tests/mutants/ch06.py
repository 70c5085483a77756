"""Wrong and other right answers to chapter 6's exercises."""

from __future__ import annotations

import re
import statistics

import torch

from shared.previous_chapters import next_token_loss
from tests.mutants.cases import mutant, right

# 6.1 · base rates


@right("6.1", "by Bayes' rule, as a tensor")
def rates_by_bayes():
    prior = torch.tensor([0.5, 0.02])
    found, alarms = 0.95 * prior, 0.02 * (1 - prior)
    filtered = found[1] + 0.98 * (1 - prior[1])
    return torch.cat([found / (found + alarms), filtered[None], 1 - prior[1:]])


@right("6.1", "rounded by hand")
def rates_rounded():
    return [0.979, 0.492, 0.979, 0.98]


@mutant("6.1", "the same precision on the phone", says="still its precision is not")
def rates_unmoved():
    return [0.979, 0.979, 0.979, 0.98]


@mutant("6.1", "recall for precision", says="that is|is the recall")
def rates_recall():
    return [0.979, 0.95, 0.979, 0.98]


@mutant("6.1", "in percent", says="0 and 1")
def rates_percent():
    return [97.9, 49.2, 97.9, 98.0]


@mutant("6.1", "right answers as on the exam", says="the third")
def rates_exam():
    return [0.979, 0.492, 0.965, 0.98]


@mutant("6.1", "three numbers", says="expected 4")
def rates_three():
    return [0.979, 0.492, 0.979]


# 6.2 · the last real token


def at(logits, places):
    return logits[torch.arange(len(logits)), places]


@right("6.2", "from behind, the first that is no filling")
def last_from_behind():
    def read(logits, ids, filling=0):
        return at(logits, ids.shape[1] - 1 - (ids != filling).flip(1).int().argmax(1))

    return read


@right("6.2", "row by row, in a loop")
def last_by_loop():
    def read(logits, ids, filling=0):
        rows = []
        for row, scores in zip(ids.tolist(), logits, strict=True):
            while row and row[-1] == filling:
                row.pop()
            rows.append(scores[len(row) - 1])
        return torch.stack(rows)

    return read


@mutant("6.2", "as given: the first filling, minus one", says="longer message joins the batch")
def last_as_given():
    def read(logits, ids, filling=0):
        return at(logits, (ids == filling).int().argmax(1) - 1)

    return read


@mutant("6.2", "counts what is no filling, minus one", says="Its last token")
def last_counted():
    def read(logits, ids, filling=0):
        return at(logits, (ids != filling).sum(1) - 1)

    return read


@mutant("6.2", "counts, and forgets the token in the middle", says="row 3.*Its last token")
def last_counted_better():
    def read(logits, ids, filling=0):
        return at(logits, (ids != filling).sum(1))

    return read


@mutant("6.2", "reads the last column", says="longer message joins the batch")
def last_column():
    return lambda logits, ids, filling=0: logits[:, -1]


@mutant("6.2", "one place too far", says="longer message|place")
def last_too_far():
    def read(logits, ids, filling=0):
        places = (torch.arange(ids.shape[1]) * (ids != filling)).argmax(1) + 1
        return at(logits, places.clamp(max=ids.shape[1] - 1))

    return read


# 6.3 · macro F1


def parts(guessed, labels, count):
    pairs = list(zip(guessed, labels, strict=True))
    for c in range(count):
        hits = sum(g == y == c for g, y in pairs)
        said, real = guessed.count(c), labels.count(c)
        yield hits, said, real


@right("6.3", "harmonic means from a matrix of counts")
def f1_matrix():
    def score(guessed, labels, count):
        flat = torch.tensor(labels) * count + torch.tensor(guessed)
        matrix = flat.bincount(minlength=count * count).view(count, count).double()
        precision = (matrix.diag() / matrix.sum(0)).nan_to_num()
        recall = (matrix.diag() / matrix.sum(1)).nan_to_num()
        return (2 * precision * recall / (precision + recall)).nan_to_num().mean()

    return score


@mutant("6.3", "the share of right answers", says="share of right answers")
def f1_accuracy():
    return lambda g, y, n: sum(a == b for a, b in zip(g, y, strict=True)) / len(y)


@mutant("6.3", "leaves out empty classes", says="left out")
def f1_present():
    def score(guessed, labels, count):
        return statistics.mean(
            2 * h / (s + r) for h, s, r in parts(guessed, labels, count) if s + r
        )

    return score


@mutant("6.3", "F1 of the means", says="one F1 for each class|by hand")
def f1_of_means():
    def score(guessed, labels, count):
        found = list(parts(guessed, labels, count))
        precision = statistics.mean(h / s if s else 0 for h, s, _ in found)
        recall = statistics.mean(h / r if r else 0 for h, _, r in found)
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    return score


@mutant("6.3", "weighted by how frequent a class is", says="weighted each class|by hand")
def f1_weighted():
    def score(guessed, labels, count):
        found = parts(guessed, labels, count)
        return sum(r * 2 * h / (s + r) if h else 0 for h, s, r in found) / len(labels)

    return score


@mutant("6.3", "divides by zero", says="ZeroDivisionError")
def f1_zero():
    def score(guessed, labels, count):
        return statistics.mean(2 * h / (s + r) for h, s, r in parts(guessed, labels, count))

    return score


@mutant("6.3", "a list, one F1 for each class", says="expected one number")
def f1_list():
    def score(guessed, labels, count):
        return [2 * h / (s + r) if h else 0.0 for h, s, r in parts(guessed, labels, count)]

    return score


# 6.4 · a threshold for a promise


@right("6.4", "every score tried")
def threshold_brute():
    def find(scores, labels, wanted):
        good = []
        for t in set(scores):
            chosen = [y for s, y in zip(scores, labels, strict=True) if s >= t]
            if sum(chosen) / len(chosen) >= wanted:
                good.append(t)
        return min(good, default=None)

    return find


@right("6.4", "with tensors, a table of all pairs")
def threshold_tensor():
    def find(scores, labels, wanted):
        s, y = torch.tensor(scores, dtype=torch.double), torch.tensor(labels).double()
        above = (s[None] >= s[:, None]).double()  # (threshold, message)
        good = s[(above @ y) / above.sum(1) >= wanted]
        return good.min() if len(good) else None

    return find


def ranked(scores, labels):
    return sorted(zip(scores, labels, strict=True), reverse=True)


@mutant("6.4", "stops where the promise is first broken", says="None|Take the lowest")
def threshold_stops():
    def find(scores, labels, wanted):
        best, hits = None, 0
        for place, (score, label) in enumerate(ranked(scores, labels), 1):
            hits += label
            if hits / place < wanted:
                return best
            best = score
        return best

    return find


@mutant("6.4", "parts messages with equal scores", says="You promised|expected None")
def threshold_ties():
    def find(scores, labels, wanted):
        best, hits = None, 0
        for place, (score, label) in enumerate(ranked(scores, labels), 1):
            hits += label
            best = score if hits / place >= wanted else best
        return best

    return find


@mutant("6.4", "the highest that keeps the promise", says="finds more of the spam")
def threshold_highest():
    def find(scores, labels, wanted):
        hits = 0
        for place, (score, label) in enumerate(ranked(scores, labels), 1):
            hits += label
            if hits / place >= wanted:
                return score

    return find


@mutant("6.4", "above the threshold, not from it on", says="promise")
def threshold_strict():
    def find(scores, labels, wanted):
        good = []
        for t in set(scores):
            chosen = [y for s, y in zip(scores, labels, strict=True) if s > t]
            if chosen and sum(chosen) / len(chosen) >= wanted:
                good.append(t)
        return min(good, default=None)

    return find


@mutant("6.4", "the threshold is the wanted precision", says="promise|more of the spam|None")
def threshold_is_wanted():
    return lambda scores, labels, wanted: wanted


# 6.5 · leaks


def runs(text, lower=True, digits=True, size=5):
    text = " ".join((text.lower() if lower else text).split())
    text = re.sub(r"\d", "#", text) if digits else text
    return {text[i : i + size] for i in range(max(1, len(text) - size + 1))}


def finder(pieces, alike=lambda a, b: len(a & b) / len(a | b)):
    def find(train, test, least):
        learned = [pieces(text) for text in train]
        return [
            i for i, t in enumerate(test) if any(alike(pieces(t), own) >= least for own in learned)
        ]

    return find


@right("6.5", "a table of which run stands where")
def leaks_by_table():
    def find(train, test, least):
        names = {}
        rows = [[names.setdefault(r, len(names)) for r in runs(t)] for t in [*train, *test]]
        table = torch.zeros(len(rows), len(names))
        for row, places in zip(table, rows, strict=True):
            row[places] = 1
        one, other = table[len(train) :], table[: len(train)]
        both = one @ other.T
        either = one.sum(1)[:, None] + other.sum(1)[None] - both
        return set((both / either >= least).any(1).nonzero().flatten().tolist())

    return find


@mutant("6.5", "word for word only", says="but for capitals|but for the digits|one word changed")
def leaks_exact():
    return lambda train, test, least: [i for i, t in enumerate(test) if t in train]


@mutant("6.5", "how much of the test text is known", says="is taken for a leak")
def leaks_contained():
    return finder(runs, lambda own, other: len(own & other) / len(own))


@mutant("6.5", "words in place of runs of letters", says="another order|not found|for a leak")
def leaks_words():
    return finder(lambda text: set(text.lower().split()))


@mutant("6.5", "capitals kept", says="capitals and spaces")
def leaks_capitals():
    return finder(lambda text: runs(text, lower=False))


@mutant("6.5", "digits kept", says="but for the digits")
def leaks_digits():
    return finder(lambda text: runs(text, digits=False))


@mutant("6.5", "compares with the other tests, too", says="another test")
def leaks_tests():
    def find(train, test, least):
        every = [*train, *test]
        alike = lambda a, b: len(a & b) / len(a | b)
        return [
            i
            for i, t in enumerate(test)
            if any(
                alike(runs(t), runs(o)) >= least for j, o in enumerate(every) if j != i + len(train)
            )
        ]

    return find


@mutant("6.5", "a short text has no run", says="ZeroDivision|short text")
def leaks_short():
    def pieces(text):
        text = re.sub(r"\d", "#", " ".join(text.lower().split()))
        return {text[i : i + 5] for i in range(len(text) - 4)}

    return finder(pieces, lambda a, b: len(a & b) / len(a | b) if a | b else 0.0)


# 6.6 · the head alone


def split_names(model):
    named = list(model.named_parameters())
    head = [p for n, p in named if n.startswith("output_head")]
    return head, [p for n, p in named if not n.startswith("output_head")]


@right("6.6", "no gradient asked for before the way back")
def head_requires():
    def step(model, optimizer, inputs, targets):
        head, rest = split_names(model)
        for p in rest:
            p.requires_grad_(False)
        optimizer.zero_grad()
        loss = next_token_loss(model, inputs, targets)
        loss.backward()
        optimizer.step()
        for p in rest:
            p.requires_grad_(True)
        return loss.item()

    return step


@right("6.6", "copies of the rest put back after the step")
def head_put_back():
    def step(model, optimizer, inputs, targets):
        _, rest = split_names(model)
        copies = [p.detach().clone() for p in rest]
        loss = next_token_loss(model, inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p, kept in zip(rest, copies, strict=True):
                p.copy_(kept)
        return loss.detach()

    return step


def head_mutant(before_step, choose=lambda head, rest: rest):
    def step(model, optimizer, inputs, targets):
        loss = next_token_loss(model, inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        for p in choose(*split_names(model)):
            before_step(p)
        optimizer.step()
        return loss.item()

    return step


@mutant("6.6", "as given: gradients of zero", says="has moved.*what they were")
def head_as_given():
    return head_mutant(lambda p: p.grad.zero_())


@mutant("6.6", "frozen after the way back", says="has moved")
def head_too_late():
    return head_mutant(lambda p: p.requires_grad_(False))


@mutant("6.6", "the head is what stays", says="has moved|head learns nothing")
def head_inverted():
    return head_mutant(lambda p: setattr(p, "grad", None), lambda head, rest: head)


@mutant("6.6", "no step at all", says="head learns nothing")
def head_no_step():
    def step(model, optimizer, inputs, targets):
        loss = next_token_loss(model, inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        return loss.item()

    return step


@mutant("6.6", "a rate of its own, without the optimiser", says="not as the head moves")
def head_by_hand():
    def step(model, optimizer, inputs, targets):
        head, _ = split_names(model)
        loss = next_token_loss(model, inputs, targets)
        for p, g in zip(head, torch.autograd.grad(loss, head), strict=True):
            p.data -= 0.02 * g
        return loss.item()

    return step


# 6.7 · seeds

RUNS = {
    "the recipe": [0.80, 0.84, 0.79, 0.83, 0.82, 0.85, 0.81, 0.80],
    "another order": [0.81, 0.83, 0.79, 0.84, 0.82, 0.84, 0.81, 0.80],
    "less": [0.78, 0.82, 0.76, 0.81, 0.81, 0.82, 0.79, 0.78],
    "lucky": [0.86, 0.85, 0.80, 0.83, 0.83, 0.89, 0.80, 0.81],
}
T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def paired(recipe, other):
    gains = [b - a for a, b in zip(recipe, other, strict=True)]
    reach = T95[len(gains) - 1] * statistics.stdev(gains) / len(gains) ** 0.5
    return statistics.mean(gains) - reach, statistics.mean(gains) + reach


@right("6.7", "with the statistics module, names as a list")
def seeds_statistics():
    def interval(recipe, other):
        low, high = paired(recipe, other)
        return [(low + high) / 2, low, high]

    return interval, ["less"], RUNS


@mutant("6.7", "recipe minus other", says="how much better the recipe is")
def seeds_sign():
    def interval(recipe, other):
        low, high = paired(other, recipe)
        return (low + high) / 2, low, high

    return interval, {"less"}, RUNS


def with_reach(reach):
    def interval(recipe, other):
        a, b = torch.tensor(recipe).double(), torch.tensor(other).double()
        mean, wide = (b - a).mean().item(), float(reach(a, b))
        return mean, mean - wide, mean + wide

    return interval, {"less"}, RUNS


@mutant("6.7", "1.96 for few runs", says="1.96 is for many")
def seeds_normal():
    return with_reach(lambda a, b: 1.96 * (b - a).std() / len(a) ** 0.5)


@mutant("6.7", "not paired", says="seed by seed")
def seeds_unpaired():
    return with_reach(lambda a, b: T95[len(a) - 1] * ((a.var() + b.var()) / len(a)) ** 0.5)


@mutant("6.7", "the spread of single runs", says="single runs")
def seeds_spread():
    return with_reach(lambda a, b: T95[len(a) - 1] * (b - a).std())


@mutant("6.7", "spread over n", says="one less")
def seeds_biased():
    return with_reach(lambda a, b: T95[len(a) - 1] * (b - a).std(correction=0) / len(a) ** 0.5)


@mutant("6.7", "T95 at n", says="place to look")
def seeds_wrong_t():
    return with_reach(lambda a, b: T95[len(a)] * (b - a).std() / len(a) ** 0.5)


@mutant("6.7", "the larger mean is believed", says="'lucky'.*may be luck")
def seeds_believes():
    return seeds_statistics.make()[0], {"less", "lucky"}, RUNS


@mutant("6.7", "only gains count as real", says="'less'.*that is real")
def seeds_only_gains():
    return seeds_statistics.make()[0], set(), RUNS


# 6.8 · diagrams


@right("6.8", "in capitals")
def diagrams_capitals():
    return {"D": "Cannot tell", "A": "Too sure", "B": "About right", "C": "Too modest"}


@mutant("6.8", "above and below confused", says="wrong way round")
def diagrams_swapped():
    return {"A": "too modest", "B": "about right", "C": "too sure", "D": "cannot tell"}


@mutant("6.8", "believes the dots of few messages", says="D is not.*how long are its bars")
def diagrams_dots():
    return {"A": "too sure", "B": "about right", "C": "too modest", "D": "too sure"}


@mutant("6.8", "never sure of anything", says="do the bars reach")
def diagrams_shy():
    return dict.fromkeys("ABCD", "cannot tell")


@mutant("6.8", "a list in place of names", says="one reading for each")
def diagrams_list():
    return ["too sure", "about right", "too modest", "cannot tell"]
