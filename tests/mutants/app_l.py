"""Wrong and other right answers to appendix L's exercises."""

from __future__ import annotations

import heapq
import math
from functools import cache

from tests.mutants.cases import mutant, right


def kitchen(log=math.log, empty_at_first=1.0, emptied=lambda stir: 1 - stir, guard=True):
    """The entropy of the kitchen with its parts exchanged."""

    def entropy(steps, ingredients, stir):
        shares = (stir, 1 - stir)
        choice = -sum(p * log(p) for p in shares if p > 0 or not guard)
        total, empty = 0.0, empty_at_first
        for _ in range(steps):
            total += empty * log(ingredients) + (1 - empty) * choice
            empty = (1 - empty) * emptied(stir)
        return total

    return entropy


@right("L.1", "from the last step backwards")
def kitchen_backwards():
    def entropy(steps, ingredients, stir):
        choice = -sum(p * math.log(p) for p in (stir, 1 - stir) if p)
        empty = full = 0.0
        for _ in range(steps):
            full, empty = choice + stir * full + (1 - stir) * empty, math.log(ingredients) + full
        return empty

    return entropy


@right("L.1", "the state as a recursion")
def kitchen_recursive():
    def entropy(steps, ingredients, stir):
        @cache
        def chance_empty(step):
            return 1.0 if step == 0 else (1 - chance_empty(step - 1)) * (1 - stir)

        binary = sum(-p * math.log(p) for p in (stir, 1 - stir) if p > 0)
        return sum(
            chance_empty(t) * math.log(ingredients) + (1 - chance_empty(t)) * binary
            for t in range(steps)
        )

    return entropy


@mutant("L.1", "in bits", says="in bits")
def kitchen_bits():
    return kitchen(log=math.log2)


@mutant("L.1", "always empty", says="as if the pot were empty")
def kitchen_always_empty():
    return lambda steps, ingredients, stir: steps * math.log(ingredients)


@mutant("L.1", "stirring empties the pot", says="if stirring emptied")
def kitchen_swapped():
    return kitchen(emptied=lambda stir: stir)


@mutant("L.1", "0 times ln 0", says="raised ValueError|0 · ln 0")
def kitchen_unguarded():
    return kitchen(guard=False)


@mutant("L.1", "half empty from the start", says="example by hand")
def kitchen_half():
    return kitchen(empty_at_first=0.5)


@right("L.2", "from the two sketches alone")
def sketch_heaps():
    def estimate(one, other, k):
        a, b = set(heapq.nsmallest(k, one)), set(heapq.nsmallest(k, other))
        chosen = heapq.nsmallest(k, a | b)
        return len([x for x in chosen if x in a and x in b]) / len(chosen)

    return estimate


@right("L.2", "merging two sorted lists")
def sketch_merge():
    def estimate(one, other, k):
        a, b, both, seen = sorted(one)[:k], sorted(other)[:k], 0, 0
        while seen < k and (a or b):
            low = min(a[:1] + b[:1])
            both += a[:1] == b[:1]
            a, b = [x for x in a if x != low], [x for x in b if x != low]
            seen += 1
        return both / seen

    return estimate


@mutant("L.2", "common numbers of the sketches, over k", says="You count 6")
def sketch_over_k():
    return lambda one, other, k: len({*sorted(one)[:k]} & {*sorted(other)[:k]}) / k


@mutant("L.2", "Jaccard of the sketches", says="all numbers in either sketch")
def sketch_jaccard_of_sketches():
    def estimate(one, other, k):
        a, b = {*sorted(one)[:k]}, {*sorted(other)[:k]}
        return len(a & b) / len(a | b)

    return estimate


@mutant("L.2", "always divides by k", says="fewer than k")
def sketch_short():
    return lambda one, other, k: len({*sorted(one | other)[:k]} & one & other) / k


@mutant("L.2", "looks at one set only", says="on average|by hand|fewer than k")
def sketch_one_sided():
    def estimate(one, other, k):
        chosen = sorted(one)[:k]
        return sum(x in other for x in chosen) / len(chosen)

    return estimate


@mutant("L.2", "the smallest number alone", says="by hand")
def sketch_one_place():
    return lambda one, other, k: float(min(one) == min(other))


def leaks(text_step=1, test_step=1, last=1, one_set=True):
    """Runs of words with other steps."""

    def left_out(texts, tests, size):
        def runs(text, step):
            words = text.split()
            starts = range(0, len(words) - size + last, step(size))
            return {tuple(words[i : i + size]) for i in starts}

        known = [runs(test, test_step) for test in tests]
        return [i for i, text in enumerate(texts) if any(runs(text, text_step) & k for k in known)]

    text_step, test_step = (
        step if callable(step) else (lambda size, n=step: n) for step in (text_step, test_step)
    )
    return left_out


@right("L.3", "runs at every word")
def leaks_every_word():
    return leaks()


@right("L.3", "looks for each run in the tests' text")
def leaks_by_text():
    def left_out(texts, tests, size):
        joined = " | ".join(f" {test} " for test in tests)
        found = set()
        for i, text in enumerate(texts):
            words = text.split()
            for start in range(len(words) - size + 1):
                if f" {' '.join(words[start : start + size])} " in joined:
                    found.add(i)
        return found

    return left_out


@mutant("L.3", "as given: steps of a whole run", says="one more word before it.*stays in")
def leaks_as_given():
    return leaks(lambda size: size, lambda size: size)


@mutant("L.3", "mended on one side only", says="middle of a test.*stays in|end of a test.*stays in")
def leaks_texts_only():
    return leaks(1, lambda size: size)


@mutant("L.3", "the last run forgotten", says="stays in")
def leaks_last():
    return leaks(last=0)


@mutant("L.3", "the tests joined to one", says="begins in one test.*is left out")
def leaks_joined():
    return lambda texts, tests, size: leaks()(texts, [" ".join(tests)], size)


@mutant("L.3", "single words", says="is left out")
def leaks_words():
    def left_out(texts, tests, size):
        known = {word for test in tests for word in test.split()}
        return [i for i, t in enumerate(texts) if sum(w in known for w in t.split()) >= size]

    return left_out


def packer(choose=min, shut=0, fits=lambda used, length, room: used + length <= room, order=None):
    """First fit over open rows, with its parts exchanged."""

    def pack(lengths, room, most_open):
        rows, still_open, used = [], [], []
        numbers = range(len(lengths)) if order is None else order(lengths)
        for i in numbers:
            possible = [r for r in still_open if fits(used[r], lengths[i], room)]
            if possible:
                row = choose(possible, key=lambda r: r if choose is min else used[r])
                rows[row].append(i)
                used[row] += lengths[i]
                continue
            if len(still_open) == most_open:
                still_open.pop(shut)
            still_open.append(len(rows))
            rows.append([i])
            used.append(lengths[i])
        return rows

    return pack


@right("L.4", "a list of open rows with their rooms")
def stream_rows():
    return packer()


@right("L.4", "room left kept beside each row")
def stream_rooms():
    def pack(lengths, room, most_open):
        rows, left = [], []
        for number, length in enumerate(lengths):
            for r in range(len(rows)):
                if left[r] is not None and left[r] >= length:
                    rows[r].append(number)
                    left[r] -= length
                    break
            else:
                waiting = [r for r, space in enumerate(left) if space is not None]
                if len(waiting) >= most_open:
                    left[waiting[0]] = None
                rows.append([number])
                left.append(room - length)
        return rows

    return pack


@mutant("L.4", "only the newest row is open", says="row 0 holds stories \\[0\\], expected")
def stream_next_fit():
    return lambda lengths, room, most_open: packer()(lengths, room, 1)


@mutant("L.4", "no row is ever closed", says="holds stories|rows, expected")
def stream_never_shut():
    return lambda lengths, room, most_open: packer()(lengths, room, 10**9)


@mutant("L.4", "closes the newest row", says="holds stories|rows, expected")
def stream_shuts_newest():
    return packer(shut=-1)


@mutant("L.4", "the fullest row that fits", says="holds stories")
def stream_best_fit():
    return packer(choose=max)


@mutant("L.4", "never quite full", says="holds stories|rows, expected")
def stream_not_full():
    return packer(fits=lambda used, length, room: used + length < room)


@mutant("L.4", "forgets what is in the row", says="tokens")
def stream_overfull():
    return packer(fits=lambda used, length, room: length <= room)


@mutant("L.4", "sorts first", says="holds stories")
def stream_sorted():
    return packer(order=lambda lengths: sorted(range(len(lengths)), key=lambda i: -lengths[i]))
