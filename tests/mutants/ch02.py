"""Wrong and other right answers to chapter 2's exercises."""

from __future__ import annotations

import codecs
import re
from functools import cache

import numpy as np
import torch

from tests.mutants.cases import mutant, right

# 2.1


@right("2.1", "bytes, as the chapter writes them")
def merges_in_bytes():
    return [(b"a", b"n"), (b"b", b"an"), (b"a", b"a"), (b"ban", b"d"), (b"ban", b"an")]


@mutant("2.1", "aaa counted as one pair", says="round 3.*3 times, and there is .* so 4 times")
def merges_without_overlap():
    return [("a", "n"), ("b", "an"), ("ban", "d"), ("a", "a"), ("ban", "an")]


@mutant("2.1", "the counts of the words forgotten", says="round 1: 'n' and 'a'.* 4 times")
def merges_na_first():
    return [("n", "a"), ("b", "a"), ("a", "a"), ("ban", "d"), ("ban", "an")]


@mutant("2.1", "the tie the other way", says="round 5.*greatest goes first")
def merges_smallest_tie():
    return [("a", "n"), ("b", "an"), ("a", "a"), ("ban", "d"), ("aa", "a")]


@mutant("2.1", "letters that are joined already", says="round 2.*nowhere neighbours")
def merges_of_letters():
    return [("a", "n"), ("n", "d"), ("a", "a"), ("b", "a"), ("ban", "an")]


@mutant("2.1", "tokens in place of pairs", says="is no pair")
def merges_as_tokens():
    return ["an", "ban", "aa", "band", "banan"][:1] + ["x"] * 4


# 2.2


@right("2.2", "letter by letter, numbers cut with slices")
def numbers_by_hand():
    def cut(text):
        done, i = [], 0
        is_letter = lambda c: c.isascii() and c.isalpha()
        while i < len(text):
            j = i + (text[i] == " " and is_letter(text[i + 1 : i + 2]))
            kind = is_letter if is_letter(text[j : j + 1]) else str.isdigit
            k = j
            while k < len(text) and kind(text[k]):
                k += 1
            k = max(k, i + 1)
            first = (k - i) % 3 if text[i].isdigit() else k - i
            done += [text[i : i + first]] if first else []
            done += [text[n : n + 3] for n in range(i + first, k, 3)]
            i = k
        return done

    return cut


@mutant("2.2", "from the left, as GPT-4 does", says="counted from the left")
def numbers_from_left():
    return lambda text: re.findall(r" ?[A-Za-z]+|[0-9]{1,3}|[\s\S]", text)


@mutant("2.2", "each digit alone", says="you cut '1|2|3|4'")
def numbers_one_by_one():
    return lambda text: re.findall(r" ?[A-Za-z]+|[0-9]|[\s\S]", text)


@mutant("2.2", "the space goes with the number", says="space before a number")
def numbers_with_space():
    return lambda text: re.findall(
        r" ?[A-Za-z]+| ?[0-9]{1,3}(?=(?:[0-9]{3})*(?![0-9]))|[\s\S]", text
    )


@mutant("2.2", "a dot that does not match a new line", says="nothing may be lost")
def numbers_without_new_lines():
    return lambda text: re.findall(r" ?[A-Za-z]+|[0-9]{1,3}(?=(?:[0-9]{3})*(?![0-9]))|.", text)


@mutant("2.2", "an empty piece when three divides", says="empty piece")
def numbers_with_empty():
    def cut(text):
        done = []
        for piece in re.findall(r" ?[A-Za-z]+|[0-9]+|[\s\S]", text):
            first = len(piece) % 3 if piece.isdigit() else len(piece)
            done += [piece[:first], *(piece[n : n + 3] for n in range(first, len(piece), 3))]
        return done

    return cut


# 2.3


@right("2.3", "find and partition, no pattern")
def marks_by_find():
    def cut(text, marks):
        done = []
        while text:
            found = [(text.find(mark), mark) for mark in marks if mark in text]
            at, mark = min(found, default=(len(text), ""))
            done += [part for part in (text[:at], mark) if part]
            text = text[at + len(mark) :]
        return done

    return cut


@mutant("2.3", "as given", says="come to pieces")
def marks_as_given():
    return lambda text, marks: [x for x in re.split("(" + "|".join(marks) + ")", text) if x]


@mutant("2.3", "escapes the bar alone", says="does not run at all|come to pieces")
def marks_bar_only():
    def cut(text, marks):
        pattern = "|".join(mark.replace("|", r"\|") for mark in marks)
        return [x for x in re.split(f"({pattern})", text) if x]

    return cut


@mutant("2.3", "no group, so the marks are dropped", says="text or marks are lost")
def marks_dropped():
    return lambda text, marks: [x for x in re.split("|".join(map(re.escape, marks)), text) if x]


@mutant("2.3", "empty pieces kept", says="holds an empty piece")
def marks_with_empty():
    return lambda text, marks: re.split("(" + "|".join(map(re.escape, marks)) + ")", text)


# 2.4


@right("2.4", "by recursion")
def wordpiece_recursive():
    def cut(word, vocabulary):
        def rest(start):
            if start == len(word):
                return []
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in vocabulary:
                    after = rest(end)
                    return None if after is None else [piece, *after]
            return None

        found = rest(0)
        return ["[UNK]"] if found is None else found

    return cut


def _greedy(word, vocabulary, mark="##", lengths=reversed, unknown=lambda done: ["[UNK]"]):
    done, start = [], 0
    while start < len(word):
        for end in lengths(range(start + 1, len(word) + 1)):
            piece = (mark if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return unknown(done)
        done.append(piece)
        start = end
    return done


@mutant("2.4", "the shortest piece first", says=r"'hen': you give .*longest piece goes first")
def wordpiece_shortest():
    return lambda word, vocabulary: _greedy(word, vocabulary, lengths=iter)


@mutant("2.4", "no ## inside words", says="only pieces with ##")
def wordpiece_unmarked():
    return lambda word, vocabulary: _greedy(word, vocabulary, mark="")


@mutant("2.4", "keeps what it had before [UNK]", says="the whole word is one")
def wordpiece_partial():
    return lambda word, vocabulary: _greedy(word, vocabulary, unknown=lambda done: [*done, "[UNK]"])


@mutant("2.4", "goes back until the rest fits", says="longest piece|fits and is longer|expected")
def wordpiece_backtracking():
    def cut(word, vocabulary, mark=""):
        if not word:
            return []
        for end in range(1, len(word) + 1):
            if mark + word[:end] in vocabulary:
                rest = cut(word[end:], vocabulary, "##")
                if rest != ["[UNK]"]:
                    return [mark + word[:end], *rest]
        return ["[UNK]"]

    return cut


# 2.5


@right("2.5", "the standard library's incremental decoder")
def reading_by_codecs():
    def read(pieces):
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for piece in pieces:
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)

    return read


@right("2.5", "as many bytes as can be decoded")
def reading_by_error():
    def read(pieces):
        rest = b""
        for piece in pieces:
            rest += piece
            while rest:
                try:
                    text, used = rest.decode(), len(rest)
                except UnicodeDecodeError as error:
                    text, used = rest[: error.start].decode(), error.start
                    if error.reason != "unexpected end of data":
                        text, used = text + "�", error.end
                    elif not used:
                        break
                yield text
                rest = rest[used:]
        yield rest.decode(errors="replace")

    return read


@mutant("2.5", "each piece on its own", says="two pieces is broken")
def reading_each():
    def read(pieces):
        for piece in pieces:
            yield piece.decode("utf-8", errors="replace")

    return read


@mutant("2.5", "everything at the end", says="has to wait")
def reading_at_the_end():
    def read(pieces):
        yield b"".join(pieces).decode("utf-8", errors="replace")

    return read


@mutant("2.5", "waits until all bytes at hand fit", says="has to wait")
def reading_all_or_nothing():
    def read(pieces):
        rest = b""
        for piece in pieces:
            rest += piece
            try:
                yield rest.decode()
            except UnicodeDecodeError:
                continue
            rest = b""
        yield rest.decode(errors="replace")

    return read


@mutant("2.5", "incomplete bytes ignored", says="given out|in the end")
def reading_ignoring():
    def read(pieces):
        for piece in pieces:
            yield piece.decode("utf-8", errors="ignore")

    return read


@mutant("2.5", "forgets what is left at the end", says="in the end, expected 'end�'")
def reading_without_end():
    def read(pieces):
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for piece in pieces:
            yield decoder.decode(piece)

    return read


# 2.6


def _windows(ids, starts, length, shift=1):
    rows = [ids[a : a + length + shift] for a in starts]
    return [(row[:length], row[shift:]) for row in rows]


@right("2.6", "tensors and unfold")
def windows_by_unfold():
    def cut(ids, length):
        rows = torch.tensor(ids).unfold(0, length + 1, length)
        return [(row[:-1], row[1:]) for row in rows]

    return cut


@right("2.6", "inputs and targets cut apart")
def windows_by_zip():
    def cut(ids, length):
        count = (len(ids) - 1) // length
        inputs = [ids[i * length : (i + 1) * length] for i in range(count)]
        targets = [ids[i * length + 1 : (i + 1) * length + 1] for i in range(count)]
        return list(zip(inputs, targets, strict=True))

    return cut


@mutant("2.6", "as given", says="is asked for in no window")
def windows_as_given():
    return lambda ids, n: _windows(ids, range(0, len(ids) - n, n + 1), n)


@mutant("2.6", "the last whole window left out", says="would fill a window")
def windows_without_last():
    return lambda ids, n: _windows(ids, range(0, len(ids) - n - 1, n), n)


@mutant("2.6", "a short window at the end", says="inputs and .* targets, expected")
def windows_with_rest():
    return lambda ids, n: _windows(ids, range(0, len(ids) - 1, n), n)


@mutant("2.6", "windows overlap by one", says="is asked for 2 times")
def windows_overlapping():
    return lambda ids, n: _windows(ids, range(0, len(ids) - n, max(1, n - 1)), n)


@mutant("2.6", "targets are the inputs", says="asked for itself")
def windows_unshifted():
    return lambda ids, n: [(row, row) for row, _ in _windows(ids, range(0, len(ids) - n, n), n)]


@mutant("2.6", "all inputs, then all targets", says="expected a pair of rows")
def windows_transposed():
    return lambda ids, n: tuple(zip(*_windows(ids, range(0, len(ids) - n, n), n), strict=True))


@mutant("2.6", "targets two places later", says="expected the token after it")
def windows_shifted_twice():
    return lambda ids, n: _windows(ids, range(0, len(ids) - n - 1, n), n, shift=2)


# 2.7


@right("2.7", "in another order")
def curves_reordered():
    return {"D": "capitals", "C": "greek letters", "B": "stories", "A": "backwards"}


@mutant("2.7", "Greek and capitals exchanged", says="C is not 'capitals'.*below one character")
def curves_greek_capitals():
    return {"A": "backwards", "B": "stories", "C": "capitals", "D": "greek letters"}


@mutant("2.7", "backwards and capitals exchanged", says="D is not 'backwards'")
def curves_backwards_capitals():
    return {"A": "capitals", "B": "stories", "C": "greek letters", "D": "backwards"}


@mutant("2.7", "one name twice", says="each of the four")
def curves_twice():
    return dict.fromkeys("ABCD", "stories")


@mutant("2.7", "a letter forgotten", says="with the keys")
def curves_short():
    return {"B": "stories", "C": "greek letters", "D": "capitals"}


# 2.8

MEASURED = {
    "as it was": [2.0, 2.1, 2.2, 2.05, 1.95, 2.15, 2.0, 2.1],
    "up": [2.01, 2.12, 2.21, 2.06, 1.97, 2.16, 2.01, 2.12],
    "down": [1.9, 2.0, 2.0, 1.9, 1.8, 2.05, 1.9, 1.95],
    "same": [2.01, 2.09, 2.21, 2.04, 1.96, 2.14, 2.01, 2.09],
}
SEEN = {"up": "more", "down": "less", "same": "cannot tell"}


def _with(interval, **verdicts):
    return interval, SEEN | verdicts, MEASURED


def _paired(before, after, factor):
    shifts = np.subtract(after, before)
    half = factor * shifts.std(ddof=1) / len(shifts) ** 0.5
    return shifts.mean() - half, shifts.mean() + half


@right("2.8", "NumPy")
def interval_by_numpy():
    return _with(_paired)


@right("2.8", "a tensor, written out")
def interval_as_tensor():
    def interval(before, after, factor):
        shifts = torch.tensor(after) - torch.tensor(before)
        n = len(shifts)
        variance = (shifts.square().sum() - n * shifts.mean() ** 2) / (n - 1)
        half = factor * (variance / n).sqrt()
        return torch.stack([shifts.mean() - half, shifts.mean() + half])

    return _with(interval)


@mutant("2.8", "the pairs ignored", says="ignores the pairs")
def interval_unpaired():
    def interval(before, after, factor):
        half = factor * ((np.var(before, ddof=1) + np.var(after, ddof=1)) / len(before)) ** 0.5
        middle = np.mean(after) - np.mean(before)
        return middle - half, middle + half

    return _with(interval)


@mutant("2.8", "before minus after", says="wrong sign")
def interval_reversed():
    return _with(lambda before, after, factor: _paired(after, before, factor))


@mutant("2.8", "not divided by the root of n", says="was not divided by √n")
def interval_of_single_texts():
    def interval(before, after, factor):
        shifts = np.subtract(after, before)
        half = factor * shifts.std(ddof=1)
        return shifts.mean() - half, shifts.mean() + half

    return _with(interval)


@mutant("2.8", "NumPy's std as it comes", says="n − 1")
def interval_population():
    def interval(before, after, factor):
        shifts = np.subtract(after, before)
        half = factor * shifts.std() / len(shifts) ** 0.5
        return shifts.mean() - half, shifts.mean() + half

    return _with(interval)


@mutant("2.8", "1.96 always", says="1.96 in place of")
def interval_normal():
    return _with(lambda before, after, factor: _paired(before, after, 1.96))


@mutant("2.8", "no difference taken for equality of means", says="same: you say 'less'.*0 lie")
def verdict_by_mean():
    return _with(_paired, same="less")


@mutant("2.8", "a small difference taken for none", says="up: you say 'cannot tell'")
def verdict_by_size():
    return _with(_paired, up="cannot tell")


# 2.9


@right("2.9", "remembered recursion")
def cut_by_recursion():
    def cut(word, log_probs):
        @cache
        def best(start):
            if start == len(word):
                return 0.0, ()
            found = []
            for end in range(start + 1, len(word) + 1):
                rest = best(end) if word[start:end] in log_probs else None
                if rest:
                    found.append(
                        (rest[0] + log_probs[word[start:end]], (word[start:end], *rest[1]))
                    )
            return max(found, default=None)

        whole = best(0)
        if whole is None:
            raise ValueError(f"{word!r} cannot be cut")
        return list(whole[1])

    return cut


@mutant("2.9", "the longest piece first", says="you take the longest piece first")
def cut_longest():
    def cut(word, log_probs):
        pieces = []
        while word:
            end = max((n for n in range(1, len(word) + 1) if word[:n] in log_probs), default=0)
            if not end:
                raise ValueError("no cut")
            pieces.append(word[:end])
            word = word[end:]
        return pieces

    return cut


@mutant("2.9", "the likeliest piece first", says="you take the longest|adds up to|expected")
def cut_likeliest_piece():
    def cut(word, log_probs):
        pieces = []
        while word:
            fits = [word[:n] for n in range(1, len(word) + 1) if word[:n] in log_probs]
            if not fits:
                raise ValueError("no cut")
            pieces.append(max(fits, key=log_probs.get))
            word = word[len(pieces[-1]) :]
        return pieces

    return cut


def _recursive(word, log_probs, score):
    if not word:
        return []
    found = []
    for end in range(1, len(word) + 1):
        if word[:end] in log_probs:
            try:
                found.append([word[:end], *_recursive(word[end:], log_probs, score)])
            except ValueError:
                continue
    if not found:
        raise ValueError("no cut")
    return max(found, key=lambda pieces: score([log_probs.get(piece) for piece in pieces]))


@mutant("2.9", "every rest worked out again", says="again and again")
def cut_without_memory():
    return lambda word, log_probs: _recursive(word, log_probs, sum)


@mutant("2.9", "the fewest pieces", says="you take the longest|adds up to|expected")
def cut_fewest():
    return lambda word, log_probs: _recursive(word, log_probs, lambda parts: -len(parts))


@mutant("2.9", "no word for what cannot be cut", says="expected a ValueError")
def cut_without_error():
    def cut(word, log_probs):
        best = [(0.0, [])]
        for end in range(1, len(word) + 1):
            tries = [
                (best[start][0] + log_probs.get(word[start:end], -1e9), start)
                for start in range(end)
            ]
            score, start = max(tries)
            best.append((score, [*best[start][1], word[start:end]]))
        return best[-1][1]

    return cut
