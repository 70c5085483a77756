"""Wrong and other right answers to chapter 7's exercises."""

from __future__ import annotations

import codecs
import math
import re
import statistics

import torch

from shared.previous_chapters import IGNORED, pad_rows
from tests.mutants.cases import mutant, right

SYSTEM, USER, ASSISTANT, END = 256, 257, 258, 259
MARK = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
ROLE = {mark: role for role, mark in MARK.items()}

# 7.1 · who is asked


@right("7.1", "counted on a row of marks and letters")
def asked_counted():
    row = "U123456E" + "AxxxxE" + "U123E" + "AyyyyyyyyyE"
    last = row.rindex("A")
    return torch.tensor([40, len(row) - last - 1, 5 + len(row) - last - 1, len(row) - 1])


@mutant("7.1", "the rows as they are", says="a place fewer")
def asked_unshifted():
    return [41, 10, 15, 29]


@mutant("7.1", "without the ends", says="learn to stop")
def asked_endless():
    return [40, 9, 13, 29]


@mutant("7.1", "with the assistant's mark", says="written by us")
def asked_marks():
    return [40, 11, 17, 29]


@mutant("7.1", "both answers with one end", says="third: you say 14")
def asked_one_end():
    return [40, 10, 14, 29]


@mutant("7.1", "filling asked, too", says="the filling never")
def asked_filling():
    return [40, 10, 15, 40]


@mutant("7.1", "the first token is asked for", says="nothing is before")
def asked_first():
    return [40, 10, 15, 30]


# 7.2 · a form


def form(message):
    return [MARK[message["role"]], *message["content"].encode("utf-8"), END]


def row_of(messages):
    return [i for message in messages for i in form(message)]


def talk_of(ids):
    if not ids or ids[0] not in ROLE:
        raise ValueError("no role")
    starts = [place for place, i in enumerate(ids) if i in ROLE] + [len(ids)]
    parts = [ids[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    return [
        {
            "role": ROLE[part[0]],
            "content": bytes(i for i in part[1:] if i < 256).decode("utf-8", "replace"),
        }
        for part in parts
    ]


@right("7.2", "by slices, a tensor as row")
def form_slices():
    return (lambda messages: torch.tensor(row_of(messages))), talk_of


@right("7.2", "with a decoder that takes byte by byte")
def form_decoder():
    def back(ids):
        talk, decoder = [], None
        for i in [*ids, None]:
            if (i in ROLE or i is None) and talk:
                talk[-1]["content"] += decoder.decode(b"", final=True)
            if i in ROLE:
                talk.append({"role": ROLE[i], "content": ""})
                decoder = codecs.getincrementaldecoder("utf-8")("replace")
            elif i is not None and i < 256:
                if not talk:
                    raise ValueError(i)
                talk[-1]["content"] += decoder.decode(bytes([i]))
        return talk

    return row_of, back


@mutant("7.2", "a text, searched for marks", says="became a mark")
def form_of_text():
    def to_row(messages):
        text = "".join(f"<{m['role']}>{m['content']}<end>" for m in messages)
        names = {f"<{role}>": mark for role, mark in MARK.items()} | {"<end>": END}
        pieces = re.split("(" + "|".join(names) + ")", text)
        return [i for p in pieces for i in ([names[p]] if p in names else p.encode())]

    return to_row, talk_of


@mutant("7.2", "spaces stripped", says="at place|ids, expected")
def form_strips():
    return lambda ms: row_of([m | {"content": m["content"].strip()} for m in ms]), talk_of


@mutant("7.2", "letters in place of bytes", says="at place|ids, expected")
def form_ord():
    def to_row(messages):
        return [i for m in messages for i in (MARK[m["role"]], *map(ord, m["content"]), END)]

    return to_row, talk_of


@mutant("7.2", "no end", says="each message ends")
def form_endless():
    return lambda ms: [i for i in row_of(ms) if i != END], talk_of


@mutant("7.2", "decodes byte by byte", says="content of message")
def form_bytewise():
    def back(ids):
        talk = []
        for i in ids:
            if i in ROLE:
                talk.append({"role": ROLE[i], "content": ""})
            elif i != END:
                talk[-1]["content"] += chr(i)
        return talk

    return row_of, back


@mutant("7.2", "waits for the end of a message", says="ends within its last|messages came out")
def form_waits():
    def back(ids):
        if ids[0] not in ROLE:
            raise ValueError(ids[0])
        whole = [i for i in ids]
        last = max((p + 1 for p, i in enumerate(whole) if i == END), default=0)
        return talk_of(whole[:last])

    return row_of, back


@mutant("7.2", "takes a text that nobody says", says="nobody says this text")
def form_nobody():
    return row_of, lambda ids: talk_of(ids if ids[0] in ROLE else [USER, *ids])


# 7.3 · it cannot stop


@right("7.3", "with chapter 5's pad_rows")
def batch_pad_rows():
    def make(rows, starts, filling=END):
        inputs, targets = pad_rows(rows)
        for given, target, row, start in zip(inputs, targets, rows, starts, strict=True):
            given[len(row) - 1 :] = filling
            target[: start - 1] = IGNORED
        return inputs, targets

    return make


@right("7.3", "plain lists, row by row")
def batch_lists():
    def make(rows, starts, filling=END):
        width = max(map(len, rows)) - 1
        inputs, targets = [], []
        for row, start in zip(rows, starts, strict=True):
            more = width - len(row) + 1
            inputs.append(row[:-1] + [filling] * more)
            targets.append([IGNORED] * (start - 1) + row[start:] + [IGNORED] * more)
        return torch.tensor(inputs), torch.tensor(targets)

    return make


def filled(rows, filling):
    ids = torch.full((len(rows), max(map(len, rows))), filling)
    for row, place in zip(rows, ids, strict=True):
        place[: len(row)] = torch.tensor(row)
    return ids[:, :-1], ids[:, 1:].clone()


@mutant("7.3", "as given", says="never told that its turn ends")
def batch_as_given():
    def make(rows, starts, filling=END):
        inputs, targets = filled(rows, filling)
        targets[targets == filling] = IGNORED
        for target, start in zip(targets, starts, strict=True):
            target[: start - 1] = IGNORED
        return inputs, targets

    return make


def by_length(before=-1, after=-1):
    def make(rows, starts, filling=END):
        inputs, targets = filled(rows, filling)
        for target, row, start in zip(targets, rows, starts, strict=True):
            target[: max(0, start + before)] = IGNORED
            target[len(row) + after :] = IGNORED
        return inputs, targets

    return make


@mutant("7.3", "the mask one too late", says="expected")
def batch_late():
    return by_length(before=0)


@mutant("7.3", "asks for the whole prompt", says="the prompt asks for")
def batch_prompt():
    return by_length(before=-99)


@mutant("7.3", "one end of the filling is asked for", says="behind the row")
def batch_long():
    return by_length(after=0)


@mutant("7.3", "the end cut off as well", says="never told that its turn ends")
def batch_short():
    return by_length(after=-2)


@mutant("7.3", "nothing of the filling masked", says="behind the row")
def batch_filling():
    return by_length(after=99)


@mutant("7.3", "targets not shifted", says="expected|asks for")
def batch_unshifted():
    def make(rows, starts, filling=END):
        inputs, targets = by_length()(rows, starts, filling)
        moved = torch.full_like(targets, IGNORED)
        moved[:, 1:] = targets[:, :-1]
        return inputs, moved

    return make


# 7.4 · packing


def packed(rows, mask=None, positions=None, targets=None):
    ids = [i for row in rows for i in row]
    owner = [n for n, row in enumerate(rows) for _ in row]
    may = mask or (lambda i, j: owner[i] == owner[j] and j <= i)
    table = [[bool(may(i, j)) for j in range(len(ids))] for i in range(len(ids))]
    places = positions or [p for row in rows for p in range(len(row))]
    goals = targets or [i for row in rows for i in [*row[1:], IGNORED]]
    return tuple(torch.tensor(x) for x in (ids, places, table, goals))


@right("7.4", "blocks on a diagonal")
def pack_blocks():
    def pack(rows):
        blocks = [torch.ones(len(row), len(row)).tril() for row in rows]
        ids, goals = torch.cat([torch.tensor(row) for row in rows]), []
        for row in rows:
            goals += row[1:] + [IGNORED]
        places = torch.cat([torch.arange(len(row)) for row in rows])
        return ids, places, torch.block_diag(*blocks) > 0, torch.tensor(goals)

    return pack


@mutant("7.4", "causal, and nothing else", says="looks over the border")
def pack_causal():
    return lambda rows: packed(rows, mask=lambda i, j: j <= i)


@mutant("7.4", "the same row, and nothing else", says="which comes later")
def pack_future():
    def pack(rows):
        owner = [n for n, row in enumerate(rows) for _ in row]
        return packed(rows, mask=lambda i, j: owner[i] == owner[j])

    return pack


@mutant("7.4", "True means hidden", says="does not see|sees")
def pack_inverted():
    def pack(rows):
        ids, places, mask, goals = packed(rows)
        return ids, places, ~mask, goals

    return pack


@mutant("7.4", "positions go on", says="the positions")
def pack_positions():
    return lambda rows: packed(rows, positions=list(range(sum(map(len, rows)))))


@mutant("7.4", "the long row shifted", says="first token of row 1")
def pack_shifted():
    def pack(rows):
        ids = [i for row in rows for i in row]
        return packed(rows, targets=[*ids[1:], IGNORED])

    return pack


@mutant("7.4", "nobody sees themselves", says="place 0 .* does not see place 0")
def pack_strict():
    def pack(rows):
        owner = [n for n, row in enumerate(rows) for _ in row]
        return packed(rows, mask=lambda i, j: owner[i] == owner[j] and j < i)

    return pack


# 7.5 · stop words


@right("7.5", "letter by letter")
def stop_letters():
    def until(pieces, stops):
        waiting = ""
        for piece in pieces:
            for letter in piece:
                waiting += letter
                if any(waiting.endswith(stop) for stop in stops):
                    stop = next(stop for stop in stops if waiting.endswith(stop))
                    yield waiting[: -len(stop)]
                    return
                while waiting and not any(stop.startswith(waiting) for stop in stops):
                    yield waiting[0]
                    waiting = waiting[1:]
        yield waiting

    return until


@right("7.5", "with a regular expression")
def stop_regex():
    def until(pieces, stops):
        word = re.compile("|".join(map(re.escape, stops)))
        begun = [re.escape(s[:n]) for s in stops for n in range(len(s) - 1, 0, -1)]
        tail = re.compile("(?:" + "|".join(begun) + r")\Z")
        text, shown = "", 0
        for piece in pieces:
            text += piece
            found = word.search(text, shown) or tail.search(text, shown)
            end = found.start() if found else len(text)
            if end > shown:
                yield text[shown:end]
                shown = end
            if word.search(text, shown):
                return
        yield text[shown:]

    return until


@mutant("7.5", "looks in each piece alone", says="shown is 'Hello ST'")
def stop_piecewise():
    def until(pieces, stops):
        for piece in pieces:
            places = [piece.find(stop) for stop in stops if stop in piece]
            yield piece[: min(places, default=len(piece))]
            if places:
                return

    return until


@mutant("7.5", "waits for the whole text", says="when the next piece was taken")
def stop_at_last():
    def until(pieces, stops):
        text = "".join(pieces)
        yield text[: min((text.find(s) for s in stops if s in text), default=len(text))]

    return until


@mutant("7.5", "always holds back as much as a stop word", says="when the next piece was taken")
def stop_fixed_lag():
    def until(pieces, stops):
        waiting, lag = "", max(map(len, stops)) - 1
        for piece in pieces:
            waiting += piece
            places = [waiting.find(s) for s in stops if s in waiting]
            if places:
                yield waiting[: min(places)]
                return
            ready = max(0, len(waiting) - lag)
            yield waiting[:ready]
            waiting = waiting[ready:]
        yield waiting

    return until


def holding(find_held, rest=True, stop_early=True, choose=min):
    def until(pieces, stops):
        waiting, over = "", False
        for piece in pieces:
            if over:
                continue
            waiting += piece
            places = [waiting.find(s) for s in stops if s in waiting]
            if places:
                yield waiting[: choose(places)]
                if stop_early:
                    return
                over = True
                continue
            held = find_held(waiting, stops)
            yield waiting[: len(waiting) - held]
            waiting = waiting[len(waiting) - held :]
        if rest and not over:
            yield waiting

    return until


def longest_begun(waiting, stops):
    lengths = [n for s in stops for n in range(1, len(s)) if waiting.endswith(s[:n])]
    return max(lengths, default=0)


@mutant("7.5", "the shortest beginning is held back", says="shown is")
def stop_shortest():
    def held(waiting, stops):
        lengths = [n for s in stops for n in range(1, len(s)) if waiting.endswith(s[:n])]
        return min(lengths, default=0)

    return holding(held)


@mutant("7.5", "what waits at the end is lost", says="shown is 'a START, not a '")
def stop_loses_rest():
    return holding(longest_begun, rest=False)


@mutant("7.5", "reads on behind the stop word", says="nobody will see")
def stop_reads_on():
    return holding(longest_begun, stop_early=False)


@mutant("7.5", "the last of several stop words", says="shown is")
def stop_last():
    return holding(longest_begun, choose=max)


# 7.6 · it answers for you


@right("7.6", "by places of marks")
def answers_places():
    def targets(ids):
        given = [IGNORED] * (len(ids) - 1)
        for start in (place for place, i in enumerate(ids) if i == ASSISTANT):
            end = ids.index(END, start)
            given[start:end] = ids[start + 1 : end + 1]
        return given

    return targets


@right("7.6", "as a tensor, from whoever spoke last")
def answers_tensor():
    def targets(ids):
        row = torch.tensor(ids)
        places = torch.arange(len(ids)).where(row >= 256, torch.zeros(len(ids), dtype=torch.long))
        speaker = row[places.cummax(0).values]
        return row[1:].masked_fill(speaker[:-1] != ASSISTANT, IGNORED)

    return targets


def spoken(order):
    def targets(ids):
        speaker, given = None, []
        for i, following in zip(ids, ids[1:], strict=False):
            speaker, asked = order(i, following, speaker)
            given.append(following if asked else IGNORED)
        return given

    return targets


@mutant("7.6", "as given", says="does not wait for the user")
def answers_as_given():
    def order(i, following, speaker):
        speaker = i if i in ROLE else speaker
        return (None if i == END else speaker), speaker == ASSISTANT

    return spoken(order)


@mutant("7.6", "without the end", says="not learn to stop")
def answers_endless():
    def order(i, following, speaker):
        speaker = i if i >= 256 else speaker
        return speaker, speaker == ASSISTANT and following != END

    return spoken(order)


@mutant("7.6", "the mask not shifted", says="does not wait|nothing is asked")
def answers_unshifted():
    def order(i, following, speaker):
        asked = speaker == ASSISTANT
        speaker = i if i in ROLE else None if i == END else speaker
        return speaker, asked

    return spoken(order)


@mutant("7.6", "only the last answer", says="nothing is asked for")
def answers_last():
    def targets(ids):
        given = answers_places.make()(ids)
        last = max((p for p, i in enumerate(ids) if i == ASSISTANT), default=len(ids))
        return [IGNORED] * min(last, len(given)) + given[last:]

    return targets


@mutant("7.6", "the user is asked for, too", says="is asked for, expected nothing")
def answers_everybody():
    return lambda ids: ids[1:]


@mutant("7.6", "targets as long as the row", says="one fewer")
def answers_long():
    return lambda ids: [*answers_places.make()(ids), IGNORED]


# 7.7 · the judge

WORTH = {"first": 1.0, "tie": 0.5, "second": 0.0}


def interval(scores):
    mean = statistics.mean(scores)
    reach = 1.96 * statistics.stdev(scores) / math.sqrt(len(scores))
    return mean, mean - reach, mean + reach


@right("7.7", "with the statistics module")
def wins_statistics():
    turned = {"first": "second", "second": "first", "tie": "tie"}
    return lambda vs: list(interval([(WORTH[a] + WORTH[turned[b]]) / 2 for a, b in vs]))


@mutant("7.7", "the second verdict not turned round", says="second.*is a win of ours")
def wins_unturned():
    return lambda vs: interval([(WORTH[a] + WORTH[b]) / 2 for a, b in vs])


@mutant("7.7", "one order only", says="first order alone")
def wins_one_order():
    return lambda vs: interval([WORTH[a] for a, _ in vs])


@mutant("7.7", "two verdicts are two questions", says="two verdicts on one question")
def wins_doubled():
    return lambda vs: interval([v for a, b in vs for v in (WORTH[a], 1 - WORTH[b])])


@mutant("7.7", "ties left out", says="you leave it out")
def wins_no_ties():
    def share(verdicts):
        scores = [v for a, b in verdicts for v in (WORTH[a], 1 - WORTH[b]) if v != 0.5]
        return interval(scores)

    return share


@mutant("7.7", "ties lost", says="you count it as lost")
def wins_ties_lost():
    return lambda vs: interval([((a == "first") + (b == "second")) / 2 for a, b in vs])


@mutant("7.7", "the spread for the error of the mean", says="the interval")
def wins_spread():
    def share(verdicts):
        scores = [(WORTH[a] + 1 - WORTH[b]) / 2 for a, b in verdicts]
        mean, reach = statistics.mean(scores), 1.96 * statistics.stdev(scores)
        return mean, mean - reach, mean + reach

    return share


# 7.8 · families


def p_value(a, b, sides=2):
    n = a + b
    return min(1.0, sides * sum(math.comb(n, k) for k in range(min(a, b) + 1)) / 2**n)


@right("7.8", "by the row of Pascal's triangle")
def families_pascal():
    def real(table):
        found = []
        for name, (a, b, *_) in table.items():
            row = [1]
            for _ in range(a + b):
                row = [x + y for x, y in zip([0, *row], [*row, 0], strict=True)]
            few = min(a, b)
            outside = sum(c for k, c in enumerate(row) if k <= few or k >= a + b - few)
            if outside / 2 ** (a + b) * len(table) < 0.05:
                found.append(name)
        return found

    return real


@mutant("7.8", "each family on its own", says="with 4 families to look at")
def families_uncorrected():
    return lambda table: {n for n, (a, b, *_) in table.items() if p_value(a, b) < 0.05}


@mutant("7.8", "one side only", says="with 4 families to look at")
def families_one_sided():
    return lambda table: {
        n for n, (a, b, *_) in table.items() if p_value(a, b, sides=1) * len(table) < 0.05
    }


@mutant("7.8", "only where the first is better", says="0 to 12.*Real")
def families_first():
    return lambda table: {
        n for n, (a, b, *_) in table.items() if a > b and p_value(a, b) * len(table) < 0.05
    }


@mutant("7.8", "shares of all questions, not paired", says="Real|not below")
def families_shares():
    def real(table):
        found = set()
        for name, (a, b, both, neither) in table.items():
            n = a + b + both + neither
            one, other = (a + both) / n, (b + both) / n
            error = math.sqrt((one * (1 - one) + other * (1 - other)) / n)
            if abs(one - other) > 2.9 * error:
                found.add(name)
        return found

    return real


@mutant("7.8", "the largest difference is always real", says="not below")
def families_largest():
    return lambda table: {max(table, key=lambda n: abs(table[n][0] - table[n][1]))}
