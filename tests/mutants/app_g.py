"""Wrong and other right answers to appendix G's exercises."""

from __future__ import annotations

import codecs
import heapq
from collections import deque

import torch

from tests.mutants.cases import mutant, right

# G.1 Predict: who waits how long?

TURNS, KEPT = ([1, 1, 2, 2], [4, 1, 3, 4]), ([1, 1, 2, 4], [3, 1, 3, 5])


@right("G.1", "as tensors, and with names")
def waits_other_containers():
    names = dict(zip(("Ann", "Bob", "Cleo", "Dan"), TURNS[0], strict=True))
    return names, torch.tensor(TURNS[1]), tuple(KEPT[0]), KEPT[1]


@mutant("G.1", "the rules swapped", says="one in place of the other")
def waits_swapped():
    return *KEPT, *TURNS


@mutant("G.1", "counted from 0", says="count from 0")
def waits_from_zero():
    return ([0, 0, 1, 1], *TURNS[1:], *KEPT)


@mutant("G.1", "who is served goes to the front again", says="round robin, first token: Dan.*late")
def waits_front():
    return (*KEPT, *KEPT)


@mutant("G.1", "a number for one user", says="expected four")
def waits_one():
    return TURNS[0], 4, *KEPT


# G.2 A stream, cut anywhere


@right("G.2", "letters decoded as they come, lines split")
def events_by_decoder():
    def read(chunks):
        decoder, text = codecs.getincrementaldecoder("utf-8")(), ""
        for chunk in chunks:
            text += decoder.decode(chunk)
            while "\n\n" in text:
                event, text = text.split("\n\n", 1)
                if event.startswith("data: "):
                    yield event.removeprefix("data: ")

    return read


@right("G.2", "a line at a time")
def events_by_line():
    def read(chunks):
        line, data = bytearray(), None
        for byte in (byte for chunk in chunks for byte in chunk):
            if byte != 10:
                line.append(byte)
                continue
            if not line and data is not None:
                yield data.decode()
                data = None
            if line.startswith(b"data: "):
                data = bytes(line[6:])
            line.clear()

    return read


@mutant("G.2", "each chunk is an event", says="gave one")
def events_by_chunk():
    return lambda chunks: (chunk.decode().strip().removeprefix("data: ") for chunk in chunks)


@mutant("G.2", "chunks split, and nothing kept", says="cut in four")
def events_without_rest():
    def read(chunks):
        for chunk in chunks:
            for event in chunk.decode().split("\n\n"):
                if event.startswith("data: "):
                    yield event[6:]

    return read


@mutant("G.2", "each chunk decoded alone", says="middle of a letter")
def events_decode_chunks():
    def read(chunks):
        text = ""
        for chunk in chunks:
            text += chunk.decode()
            *events, text = text.split("\n\n")
            yield from (event[6:] for event in events if event.startswith("data: "))

    return read


@mutant("G.2", "read to the end first", says="before you give the first")
def events_at_the_end():
    def read(chunks):
        *events, _ = b"".join(chunks).decode().split("\n\n")
        return [event[6:] for event in events if event.startswith("data: ")]

    return read


@mutant("G.2", "all marks taken out", says="only the first")
def events_replace():
    def read(chunks):
        rest = b""
        for chunk in chunks:
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                if event.startswith(b"data: "):
                    yield event.decode().replace("data: ", "")

    return read


@mutant("G.2", "the rest counts as an event", says="no event")
def events_with_rest():
    def read(chunks):
        rest = b""
        for chunk in chunks:
            *events, rest = (rest + chunk).split(b"\n\n")
            yield from (event[6:].decode() for event in events if event.startswith(b"data: "))
        if rest:
            yield rest[6:].decode()

    return read


# G.3 A bug hunt: somebody is passed over


@right("G.3", "with a deque")
def step_deque():
    def step(jobs, seats):
        line, names = deque(jobs), []
        for _ in range(min(seats, len(line))):
            job = line.popleft()
            job[1] -= 1
            names.append(job[0])
            if job[1]:
                line.append(job)
        jobs[:] = line
        return names

    return step


@mutant("G.3", "as it was given", says="job 1.*got nothing")
def step_as_given():
    def step(jobs, seats):
        names = []
        for job in jobs:
            if len(names) == seats:
                break
            names.append(job[0])
            job[1] -= 1
            jobs.remove(job)
            if job[1] > 0:
                jobs.append(job)
        return names

    return step


@mutant("G.3", "a loop over a copy, and nobody leaves the front", says="behind those who wait")
def step_stay():
    def step(jobs, seats):
        names = []
        for job in list(jobs[:seats]):
            names.append(job[0])
            job[1] -= 1
            if job[1] <= 0:
                jobs.remove(job)
        return names

    return step


@mutant("G.3", "as many turns as seats, even with fewer jobs", says="two tokens")
def step_twice():
    def step(jobs, seats):
        names = []
        for _ in range(seats):
            if jobs:
                job = jobs.pop(0)
                job[1] -= 1
                names.append(job[0])
                if job[1]:
                    jobs.append(job)
        return names

    return step


@mutant("G.3", "who is finished stays", says="finished and still in line")
def step_keeps():
    def step(jobs, seats):
        turn = jobs[:seats]
        for job in turn:
            job[1] -= 1
        jobs[:] = jobs[seats:] + turn
        return [name for name, _ in turn]

    return step


@mutant("G.3", "who was served is dropped", says="lost")
def step_loses():
    def step(jobs, seats):
        turn = jobs[:seats]
        for job in turn:
            job[1] -= 1
        jobs[:] = jobs[seats:]
        return [name for name, _ in turn]

    return step


# G.4 Fair to people, not to questions


@right("G.4", "a heap of users")
def turn_by_heap():
    def turn(waiting, seats, given):
        questions = {}
        for i, user in enumerate(waiting):
            questions.setdefault(user, deque()).append(i)
        heap = [(given.get(user, 0), mine[0], user) for user, mine in questions.items()]
        heapq.heapify(heap)
        chosen = []
        while heap and len(chosen) < seats:
            had, place, user = heapq.heappop(heap)
            chosen.append(questions[user].popleft())
            if questions[user]:
                heapq.heappush(heap, (had + 1, questions[user][0], user))
        return tuple(chosen)

    return turn


@mutant("G.4", "round robin over questions", says="fewest tokens")
def turn_by_question():
    return lambda waiting, seats, given: list(range(min(seats, len(waiting))))


@mutant("G.4", "this step's tokens not counted", says="those of this step counted")
def turn_without_step():
    def turn(waiting, seats, given):
        order = sorted(range(len(waiting)), key=lambda i: given.get(waiting[i], 0))
        return order[:seats]

    return turn


@mutant("G.4", "one question a user, and the other seats empty", says="no seat stays empty")
def turn_one_each():
    def turn(waiting, seats, given):
        firsts = [i for i, user in enumerate(waiting) if user not in waiting[:i]]
        return sorted(firsts, key=lambda i: given.get(waiting[i], 0))[:seats]

    return turn


def needy(waiting, seats, given, had, pick=min):
    """The rule, counting in `had`."""
    chosen = []
    for _ in range(min(seats, len(waiting))):
        free = [i for i in range(len(waiting)) if i not in chosen]
        fewest = min(had.get(waiting[i], 0) for i in free)
        user = waiting[next(i for i in free if had.get(waiting[i], 0) == fewest)]
        chosen.append(pick(i for i in free if waiting[i] == user))
        had[user] = had.get(user, 0) + 1
    return chosen


@mutant("G.4", "counted in the caller's dictionary", says="has changed")
def turn_changes():
    return lambda waiting, seats, given: needy(waiting, seats, given, given)


@mutant("G.4", "the user's last question first", says="the first of each user")
def turn_last():
    return lambda waiting, seats, given: needy(waiting, seats, given, dict(given), max)
