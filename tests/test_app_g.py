"""Appendix G: many users on one model, and the server around it, asked as its users will ask."""

from __future__ import annotations

import http.client
import importlib.util
import json
import queue
import random
import re
import shutil
import socket
import string
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch
from torch import nn

from shared.appendices import (
    Job,
    Service,
    Speech,
    Writer,
    certain,
    fit_messages,
    likeliest,
    receive_token,
    take_turn,
)
from shared.artifacts import ROOT
from shared.previous_chapters import (
    CHAT_TOKENS,
    END_OF_TEXT,
    BPETokenizer,
    GPTConfig,
    GPTModel,
    chat_ids,
    next_logits,
    reply,
    trim_chat,
)
from shared.serving import listen, serving
from shared.serving.reading import LARGEST_BODY

openai = pytest.importorskip("openai", reason="the openai client is not installed")

TOKENIZER = BPETokenizer.train("a", 261, [END_OF_TEXT, *CHAT_TOKENS])  # bytes and marks
MARKS = frozenset(TOKENIZER.special_tokens.values())
HELLO = [{"role": "user", "content": "Hello!"}]
CONTEXT = 200


def untrained(context=CONTEXT, seed=0):
    return GPTModel(GPTConfig(261, context, 24, 3, 2), seed=seed)


class Alphabet(nn.Module):
    """Says abc…, one letter after another from a on, and never ends; may be slow, or fail."""

    def __init__(self, delay=0.0, context=CONTEXT):
        super().__init__()
        self.config, self.delay, self.steps = GPTConfig(261, context, 24, 3, 2), delay, 0
        self.weight, self.broken = nn.Parameter(torch.zeros(1)), False

    def forward(self, token_ids):
        time.sleep(self.delay)
        self.steps += 1
        if self.broken:
            raise MemoryError("no room")
        a = ord("a")
        letter = (token_ids >= a) & (token_ids < a + 26)
        following = torch.where(letter, (token_ids - a + 1) % 26 + a, a)
        return 9.0 * nn.functional.one_hot(following, 261).float()


def letters(n):
    return (string.ascii_lowercase * 10)[:n]


def new_job(text="Hello!", **settings):
    got = []
    row = chat_ids(TOKENIZER, [{"role": "user", "content": text}], reply=True)
    job = Job(row, Speech(TOKENIZER), got.append, MARKS, **settings)
    job.got = got
    return job


def text_of(job):
    return "".join(piece.text for piece in job.got)


# Text as it comes


@pytest.mark.parametrize(
    "text, stops, shown",
    [
        ("to the E", ["END"], "to the"),
        ("to the East", ["END"], "to the East"),
        ("aab", ["abab", "b!"], "a"),
        ("a \n", [], "a"),
        ("END", [], "END"),
        ("", ["x"], ""),
        ("xx", ["xxx"], ""),
    ],
)
def test_what_can_be_shown_already(text, stops, shown):
    assert certain(text, stops) == shown


def test_speech_is_the_text_up_to_the_first_stop_word_however_it_is_cut():
    dice = random.Random(0)
    for _ in range(800):
        text = "".join(dice.choices("ab \né", k=dice.randint(0, 14)))
        stops = [
            "".join(dice.choices("ab é", k=dice.randint(1, 3))) for _ in range(dice.randint(0, 2))
        ]
        wanted = text.lstrip()
        for n in range(len(wanted) + 1):  # the first that is complete ends it
            places = [wanted[:n].find(stop) for stop in stops if stop in wanted[:n]]
            if places:
                wanted = wanted[: min(places)]
                break
        speech, shown = Speech(TOKENIZER, stops), []
        for token in text.encode():
            if not speech.ended:
                shown.append(speech.add(token))
        shown.append(speech.rest())
        assert "".join(shown) == wanted.rstrip(), (text, stops, shown)
        assert not any("\ufffd" in piece for piece in shown)


def test_half_a_letter_at_the_end_is_said_to_be_one():
    speech = Speech(TOKENIZER)
    assert [speech.add(0xC3), speech.rest()] == ["", "\ufffd"]


def test_chances_are_of_the_model_whatever_was_chosen():
    logits = torch.tensor([0.0, 2.0, 1.0])
    chances = logits.softmax(0).tolist()
    got = likeliest(logits, 0, 2)
    assert [i for i, _ in got] == [0, 1, 2]
    assert [c for _, c in got] == pytest.approx([chances[0], chances[1], chances[2]])
    assert likeliest(logits, 1, 9)[1:] == likeliest(logits, 1, 3)[1:]
    assert len(likeliest(logits, 1, 0)) == 1 and likeliest(logits, 1, None) == ()


# The line


def test_company_changes_no_answer():
    model = untrained()
    settings = [
        dict(temperature=t, top_p=p, seed=s)
        for s, (t, p) in enumerate([(0, 1), (0.7, 1), (1.3, 0.9), (2, 1), (1, 0.5)])
    ]
    writer = Writer(model, seats=2)
    jobs = [new_job("x" * (5 * i + 1), limit=7 + 3 * i, **s) for i, s in enumerate(settings)]
    for job in jobs:
        writer.add(job)
    while writer.line:
        writer.step()
    for i, (job, chosen) in enumerate(zip(jobs, settings, strict=True)):
        alone = new_job("x" * (5 * i + 1), limit=7 + 3 * i, **chosen)
        while not alone.ended:
            receive_token(alone, next_logits(model, [alone.row])[0])
        assert job.row == alone.row and job.ended == alone.ended and text_of(job) == text_of(alone)


def test_one_user_gets_what_reply_gives():
    model, job = untrained(), new_job(limit=40)
    writer = Writer(model)
    writer.add(job)
    while writer.line:
        writer.step()
    assert text_of(job) == reply(model, TOKENIZER, ["Hello!"], max_new_tokens=40)[0]


@pytest.mark.parametrize("users, seats", [(1, 4), (7, 3), (12, 5), (9, 1), (6, 6)])
def test_nobody_waits_longer_than_promised(users, seats):
    writer, dice = Writer(Alphabet(), seats), random.Random(users)
    jobs = [new_job(limit=dice.randint(1, 20)) for _ in range(users)]
    for job in jobs:
        writer.add(job)
    waited = dict.fromkeys(jobs, 0)
    while writer.line:
        turn = writer.step()
        assert len(turn) == len(set(turn)) <= seats
        for job in jobs:
            if not job.ended:
                waited[job] = 0 if job in turn else waited[job] + 1
                assert waited[job] < -(-users // seats)
    assert [text_of(job) for job in jobs] == [letters(job.limit) for job in jobs]
    assert all([p.ended for p in job.got if p.ended] == ["length"] for job in jobs)


def test_who_has_left_is_sent_home_and_costs_nothing():
    line = deque(new_job() for _ in range(5))
    for job in list(line)[1:3]:
        job.cancelled = True
    turn = take_turn(line, 2)
    assert len(turn) == 2 and len(line) == 1 and not any(job.cancelled for job in turn)


def test_an_error_of_one_is_not_an_error_of_all():
    class Blind(Alphabet):
        def forward(self, token_ids):
            logits = super().forward(token_ids)
            logits[(token_ids == ord("?")).any(1)] = torch.nan
            return logits

    def hang_up(piece):
        raise ConnectionError("gone")

    writer = Writer(Blind(), seats=4)
    good, bad, gone = new_job(limit=5), new_job("what?", limit=5, temperature=1.0), new_job(limit=5)
    gone.deliver = hang_up
    for job in (bad, gone, good):
        writer.add(job)
    while writer.line:
        writer.step()
    assert (good.ended, bad.ended, gone.ended) == ("length", "error", "error")
    assert text_of(good) == "abcde" and bad.got[-1].error


def test_a_step_that_fails_ends_its_answers_and_the_next_one_works():
    model = Alphabet()
    with closing(Service(model, TOKENIZER)) as service:
        model.broken = True
        assert "no room" in ask(service, limit=3)[-1].error
        model.broken = False
        assert "".join(piece.text for piece in ask(service, limit=3)) == "abc"
        assert service.open_jobs == 0


def ask(service, messages=HELLO, **settings):
    """All pieces of an answer."""
    pieces, got = queue.SimpleQueue(), []
    service.ask(messages, pieces.put, **settings)
    while not got or not got[-1].ended:
        got.append(pieces.get(timeout=30))
    return got


@pytest.mark.parametrize("bad", [dict(temperature=-1.0), dict(top_p=0.0)])
def test_settings_that_cannot_be_used(bad):
    with closing(Service(Alphabet(), TOKENIZER)) as service:
        with pytest.raises(ValueError, match=next(iter(bad))):
            service.ask(HELLO, print, **bad)
        assert service.open_jobs == 0


def test_no_seats():
    with pytest.raises(ValueError, match="seats=0"):
        Writer(Alphabet(), seats=0)


# Conversations that are too long


def test_fitting_is_trimming():
    dice, outcomes = random.Random(1), set()
    for _ in range(400):
        talk = [{"role": "system", "content": "s" * dice.randint(1, 60)}] * dice.randint(0, 1)
        for _ in range(dice.randint(1, 8)):
            talk.append({"role": "user", "content": "u" * dice.randint(1, 70)})
            replies = dice.choice([0, 1, 1, 1, 2])
            talk += [{"role": "assistant", "content": "a" * dice.randint(1, 70)}] * replies
        talk.append({"role": "user", "content": "é" * dice.randint(1, 90)})
        results = []
        for fit in (trim_chat, fit_messages):
            try:
                results.append(fit(talk, TOKENIZER, 150))
            except ValueError:
                results.append("too long")
        assert results[0] == results[1], talk
        outcomes.add("refused" if results[0] == "too long" else len(results[0]) < len(talk))
    assert outcomes == {"refused", True, False}


def test_a_long_conversation_costs_no_more_than_a_short_one():
    talk = [*HELLO, {"role": "assistant", "content": "Yes?"}] * 20_000 + HELLO
    start = time.perf_counter()
    kept = fit_messages(talk, TOKENIZER, 150)
    assert kept[-1] == HELLO[0] and time.perf_counter() - start < 2  # trim_chat takes hours


def test_a_long_message_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="room for 150.*fewer words"):
        fit_messages([{"role": "user", "content": "x" * 5000}], TOKENIZER, 150)


# The service


def test_who_asks_too_many_is_told_so():
    model = Alphabet(delay=0.01)
    with closing(Service(model, TOKENIZER, most=3)) as service:
        jobs = [service.ask(HELLO, lambda piece: None, limit=100) for _ in range(3)]
        with pytest.raises(OverflowError, match="3 is the most"):
            service.ask(HELLO, print)
        jobs[0].cancelled = True
        wait_for(lambda: service.open_jobs == 2)
        service.ask(HELLO, lambda piece: None, limit=1)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_closing_tells_everybody_and_lets_nobody_in():
    service, pieces = Service(Alphabet(delay=0.02), TOKENIZER, seats=2), queue.SimpleQueue()
    for _ in range(6):
        service.ask(HELLO, pieces.put, limit=150)
    service.close()
    ended = []
    while not pieces.empty():
        ended += [p for p in [pieces.get()] if p.ended]
    assert len(ended) == 6 and all("closing" in piece.error for piece in ended)
    with pytest.raises(RuntimeError, match="closing"):
        service.ask(HELLO, print)
    assert not service.thread.is_alive() and service.open_jobs == 0


def test_an_idle_service_does_nothing():
    model = Alphabet()
    with closing(Service(model, TOKENIZER)) as service:
        ask(service, limit=4)
        steps = model.steps
        time.sleep(0.2)
        assert model.steps == steps == 4


def test_without_a_seed_each_answer_is_another_and_with_one_the_same():
    with closing(Service(untrained(), TOKENIZER)) as service:
        said = lambda **s: "".join(p.text for p in ask(service, temperature=1.5, limit=30, **s))
        assert said() != said()
        assert said(seed=5) == said(seed=5)


# The server


@pytest.fixture(scope="module")
def service():
    with closing(Service(Alphabet(delay=0.004), TOKENIZER, most=120)) as service:
        yield service


@pytest.fixture(scope="module")
def address(service):
    with serving(service) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def asking(client, messages=HELLO, **settings):
    return client.chat.completions.create(model="assistant", messages=messages, **settings)


def send(address, body, method="POST", path="/v1/chat/completions", **headers):
    """(status, content) of a plain HTTP request."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    headers = {"Content-Type": "application/json"} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content) if content[:1] == b"{" else content.decode()


def test_the_openai_client_gets_an_answer(client):
    done = asking(client, max_tokens=5)
    [choice] = done.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "abcde")
    assert choice.finish_reason == "length" and choice.logprobs is None
    prompt = len(chat_ids(TOKENIZER, HELLO, reply=True))
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (prompt, 5)
    assert done.usage.total_tokens == prompt + 5 and done.object == "chat.completion"


def test_the_openai_client_gets_a_stream(client):
    chunks = list(
        asking(client, max_completion_tokens=4, stream=True, stream_options={"include_usage": True})
    )
    texts = [c.choices[0].delta.content for c in chunks if c.choices]
    assert texts == ["", "a", "b", "c", "d", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None] * 5 + ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 4
    assert len({c.id for c in chunks}) == 1


def test_the_stream_comes_while_it_is_written():
    with closing(Service(Alphabet(delay=0.05), TOKENIZER)) as slow, serving(slow) as address:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
            came = [time.monotonic() for _ in asking(client, max_tokens=10, stream=True)]
    gaps = sorted(b - a for a, b in zip(came, came[1:], strict=False))
    assert gaps[len(gaps) // 2] > 0.03, "all pieces came at once"


def test_stop_words(client):
    done = asking(client, stop=["def", "zz"])
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("abc", "stop")
    chunks = list(asking(client, stop="def", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "abc"


def test_chances(client):
    done = asking(client, max_tokens=3, logprobs=True, top_logprobs=2)
    content = done.choices[0].logprobs.content
    assert [t.token for t in content] == ["a", "b", "c"] and content[1].bytes == [98]
    chance = torch.tensor([9.0] + [0.0] * 260).log_softmax(0)[0].item()
    assert content[0].logprob == pytest.approx(chance, abs=1e-5)
    assert [len(t.top_logprobs) for t in content] == [2, 2, 2]
    assert content[2].top_logprobs[0].token == "c"
    chunks = list(asking(client, max_tokens=3, logprobs=True, stream=True))
    streamed = [c.choices[0].logprobs.content[0].token for c in chunks if c.choices[0].logprobs]
    assert streamed == ["a", "b", "c"]


def test_other_forms_of_messages(client):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    talk = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    done = asking(client, talk, max_tokens=1, n=1, frequency_penalty=0, user="me")
    same = [{"role": "system", "content": "Be kind."}, *HELLO]
    assert done.usage.prompt_tokens == len(chat_ids(TOKENIZER, same, reply=True))


def test_models(client):
    assert [model.id for model in client.models.list()] == ["assistant"]
    assert client.models.retrieve("assistant").owned_by == "you"
    with pytest.raises(openai.NotFoundError, match="assistant"):
        client.models.retrieve("gpt-9")


def test_a_long_conversation_is_cut_and_says_so(address, client):
    talk = [*HELLO, {"role": "assistant", "content": "Yes?"}] * 200 + HELLO
    response = client.chat.completions.with_raw_response.create(
        model="assistant", messages=talk, max_tokens=2
    )
    assert int(response.headers["X-Dropped-Messages"]) > 300
    assert response.parse().choices[0].message.content == "ab"


def test_an_answer_ends_where_the_context_is_full(client):
    done = asking(client, max_tokens=10**30)
    assert done.choices[0].finish_reason == "length" and done.usage.total_tokens == CONTEXT


def test_the_clients_errors(client):
    with pytest.raises(openai.BadRequestError, match="too long.*fewer words") as caught:
        asking(client, [{"role": "user", "content": "x" * 900}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        asking(client, temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="n=2 is not supported"):
        asking(client, n=2)


BAD = {
    "no JSON": (b"{", 400, "not valid JSON"),
    "nothing": (b"", 400, "not valid JSON"),
    "no UTF-8": (b'{"messages": "\xff"}', 400, "not valid JSON"),
    "a list": ([], 400, "expected an object"),
    "deep": (b"[" * 100_000, 400, "nested too deeply"),
    "a very long number": (b'{"seed": ' + b"9" * 9000 + b"}", 400, "not valid JSON"),
    "no messages": ({}, 400, "messages=null"),
    "empty messages": ({"messages": []}, 400, "one or more messages"),
    "messages a text": ({"messages": "Hello!"}, 400, "expected a list"),
    "a message a text": ({"messages": ["Hello!"]}, 400, r"messages\[0\]"),
    "no role": ({"messages": [{"content": "x"}]}, 400, "role=null"),
    "a wizard": ({"messages": [{"role": "wizard", "content": "x"}]}, 400, '"wizard".*expected'),
    "a role of lists": ({"messages": [{"role": [], "content": "x"}]}, 400, "role"),
    "no content": ({"messages": [{"role": "user"}]}, 400, "expected a text"),
    "blanks": ({"messages": [{"role": "user", "content": " \n"}]}, 400, "empty"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "parts",
    ),
    "half a pair": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "surrogate"),
    "no user last": ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, 400, "last"),
    "hot": ({"messages": HELLO, "temperature": "hot"}, 400, 'temperature="hot"'),
    "nan": (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400, "NaN"),
    "true": ({"messages": HELLO, "temperature": True}, 400, "temperature=true"),
    "top_p 0": ({"messages": HELLO, "top_p": 0}, 400, "above 0"),
    "max_tokens 0": ({"messages": HELLO, "max_tokens": 0}, 400, "1 or more"),
    "max_tokens 1.5": ({"messages": HELLO, "max_tokens": 1.5}, 400, "whole number"),
    "a huge seed": ({"messages": HELLO, "seed": 2**64}, 400, "seed"),
    "stop": ({"messages": HELLO, "stop": [""]}, 400, "stop"),
    "stops": ({"messages": HELLO, "stop": list("abcde")}, 400, "up to 4"),
    "stream": ({"messages": HELLO, "stream": "yes"}, 400, "true or false"),
    "stream 1": ({"messages": HELLO, "stream": 1}, 400, "true or false"),
    "options": ({"messages": HELLO, "stream_options": 3}, 400, "an object"),
    "top_logprobs": ({"messages": HELLO, "top_logprobs": 3}, 400, "needs logprobs"),
    "many": ({"messages": HELLO, "logprobs": True, "top_logprobs": 21}, 400, "from 0 to 20"),
    "tools": ({"messages": HELLO, "tools": [{}]}, 400, "not supported"),
    "oversized": (b" " * (LARGEST_BODY + 1), 413, "bytes"),
    "a book": ({"messages": [{"role": "user", "content": "x" * 900_000}]}, 400, "too long"),
    "a book of rules": (
        {"messages": [{"role": "system", "content": "x " * 999}, *HELLO]},
        400,
        "too long",
    ),
}


@pytest.mark.parametrize("body, status, says", BAD.values(), ids=BAD)
def test_bad_requests_are_told_what_is_wrong(address, body, status, says):
    got, content = send(address, body if isinstance(body, bytes) else json.dumps(body))
    assert got == status and set(content) == {"error"}
    assert set(content["error"]) == {"message", "type", "param", "code"}
    assert re.search(says, content["error"]["message"]), content
    assert len(content["error"]["message"]) < 400


def test_whatever_is_sent_nothing_breaks(address, service):
    dice = random.Random(3)
    junk = [None, True, -1, 0, 1e999, "", "x", [], {}, [[]], "\u0000", 10**40, {"role": "user"}]
    good = {"messages": HELLO, "max_tokens": 1, "temperature": 0.5, "top_p": 0.9, "seed": 1}
    good |= {
        "stop": ["q"],
        "stream": False,
        "logprobs": True,
        "top_logprobs": 2,
        "model": "assistant",
    }
    good |= {"stream_options": None, "tools": None, "n": 1}
    statuses = set()
    for _ in range(250):
        body = good | {dice.choice(list(good)): dice.choice(junk) for _ in range(2)}
        if dice.random() < 0.3:
            body["messages"] = [
                dict(HELLO[0], **{dice.choice(["role", "content"]): dice.choice(junk)})
            ]
        raw = json.dumps(body).encode()
        if dice.random() < 0.2:
            raw = raw[: dice.randint(0, len(raw))]
        status, _ = send(address, raw)
        statuses.add(status)
    assert statuses == {200, 400, 404}
    assert service.open_jobs == 0


def test_addresses_and_methods_and_kinds(address):
    assert send(address, None, "GET", "/v1/nothing")[0] == 404
    status, content = send(address, None, "GET")
    assert status == 405 and "GET" in content["error"]["message"]
    status, content = send(address, "{}", Content_Type="text/plain")
    assert status == 415 and "application/json" in content["error"]["message"]
    status, page = send(address, None, "GET", "/")
    assert status == 200 and "<title>Your assistant</title>" in page


def test_what_is_no_http_at_all_does_no_harm(address):
    host, port = address.removeprefix("http://").split(":")
    for rubbish in (
        b"\x00\xff\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(rubbish)
    assert send(address, json.dumps({"messages": HELLO, "max_tokens": 1}))[0] == 200


# On this machine only


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "8.8.8.8"])
def test_it_binds_to_loopback_only(host):
    with pytest.raises(ValueError, match="only to its own machine"):
        listen(0, host)


def test_it_is_bound_to_loopback(service):
    for host in ("127.0.0.1", "localhost"):
        with closing(listen(0, host)) as opened:
            assert opened.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken_or_none():
    with closing(listen(0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} cannot be used.*already"):
            listen(port)
    with pytest.raises(ValueError, match="port=70000"):
        listen(70_000)


def test_pages_of_other_sites_are_turned_away(address):
    for headers in (
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Host": "elsewhere.example"},
    ):
        status, content = send(address, json.dumps({"messages": HELLO, "max_tokens": 1}), **headers)
        assert status == 403 and "own machine" in content["error"]["message"]
    for origin in (address, "http://localhost:8888"):
        assert (
            send(address, json.dumps({"messages": HELLO, "max_tokens": 1}), Origin=origin)[0] == 200
        )


# Leaving


def test_a_client_that_leaves_a_stream_frees_its_seat():
    model = Alphabet(delay=0.05)
    with closing(Service(model, TOKENIZER)) as service, serving(service) as address:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            with asking(client, stream=True, max_tokens=180) as chunks:
                for _ in range(4):
                    next(chunks)
                assert service.open_jobs == 1
            wait_for(lambda: service.open_jobs == 0, 3)
        assert model.steps < 60


def test_a_client_that_does_not_wait_for_the_whole_frees_its_seat():
    model = Alphabet(delay=0.05)
    with closing(Service(model, TOKENIZER)) as service, serving(service) as address:
        with openai.OpenAI(
            base_url=f"{address}/v1", api_key="none", timeout=0.5, max_retries=0
        ) as hasty:
            with pytest.raises(openai.APITimeoutError):
                asking(hasty, max_tokens=180)
        wait_for(lambda: service.open_jobs == 0, 3)
        assert model.steps < 60


def test_closing_while_answers_are_written():
    with closing(Service(Alphabet(delay=0.02), TOKENIZER)) as service:
        with serving(service) as address:
            with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
                chunks = asking(client, stream=True, max_tokens=180)
                next(chunks)
                service.close()
                with pytest.raises(openai.APIError, match="closing"):
                    list(chunks)
                with pytest.raises(openai.InternalServerError, match="closing"):
                    asking(client.with_options(max_retries=0))
    with pytest.raises(OSError):
        send(address, "{}")


def test_too_many_at_once_are_told_to_come_back():
    with (
        closing(Service(Alphabet(delay=0.02), TOKENIZER, most=2)) as service,
        serving(service) as address,
    ):
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            open_streams = [asking(client, stream=True, max_tokens=180) for _ in range(2)]
            with pytest.raises(openai.RateLimitError, match="ask again in a moment"):
                asking(client)
            for chunks in open_streams:
                chunks.close()


# Fifty at once


def test_fifty_clients_lose_nothing_and_none_starves():
    model, seats, clients = untrained(), 8, 50
    alone = {}
    with closing(Service(model, TOKENIZER, seats=seats)) as service, serving(service) as address:
        gate = threading.Barrier(clients)

        def one(number, wait=True):
            settings = dict(temperature=1.0, seed=number, max_tokens=20, stream=True)
            messages = [{"role": "user", "content": "x" * (number % 9 + 1)}]
            with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
                if wait:
                    gate.wait()
                chunks, came, text = asking(client, messages, **settings), [], ""
                for chunk in chunks:
                    came.append(time.monotonic())
                    text += chunk.choices[0].delta.content or ""
                return text, came[1:], chunk.choices[0].finish_reason

        with ThreadPoolExecutor(clients) as crowd:
            results = list(crowd.map(one, range(clients)))
        alone = {number: one(number, wait=False) for number in range(0, clients, 7)}
        assert service.open_jobs == 0
    assert all(reason in ("length", "stop") for _, _, reason in results)
    assert all(results[number][0] == text for number, (text, _, _) in alone.items())
    lasting = [came for _, came, reason in results if reason == "length"]
    assert len(lasting) > 20
    began, ended = min(c[0] for c in lasting), max(c[-1] for c in lasting)
    assert max(came[0] for came in lasting) < began + 0.5 * (ended - began), (
        "one began when others were done"
    )
    longest = max(b - a for came in lasting for a, b in zip(came, came[1:], strict=False))
    assert longest < 0.5 * (ended - began), "somebody was forgotten for half of the time"


# The command


def test_serve_py_says_what_is_wrong_and_make_knows_it(monkeypatch, capsys):
    path = ROOT / "appendix/g_user_interface/serve.py"
    spec = importlib.util.spec_from_file_location("serve_py", path)
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    monkeypatch.setattr(serve, "assistant_model", lambda recipe: (Alphabet(), TOKENIZER))
    assert serve.main(["--host", "0.0.0.0"]) == 1
    assert "only to its own machine" in capsys.readouterr().err
    with closing(listen(0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main(["--port", str(port)]) == 1
    assert f"port {port}" in capsys.readouterr().err
    assert "appendix/g_user_interface/serve.py" in (ROOT / "Makefile").read_text("utf-8")


# In a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if PROGRAM is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def slow():
    with closing(Service(Alphabet(delay=0.03), TOKENIZER)) as service, serving(service) as address:
        yield service, address


@pytest.fixture
def page(browser, slow):
    page = browser.new_page()
    page.asked, page.problems = [], []
    page.on("request", lambda request: page.asked.append(request))
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.set_default_timeout(15_000)
    page.goto(slow[1])
    yield page
    assert all(r.url.startswith((slow[1], "data:")) for r in page.asked), "it asked somebody else"
    page.close()


def said(page):
    return page.locator(".turn.assistant .said").last.inner_text()


def bodies(page):
    return [r.post_data_json for r in page.asked if r.method == "POST"]


def say(page, text):
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def finished(page):
    page.locator("#send").wait_for(state="visible")
    page.locator(".writing").wait_for(state="detached")


def settle(page, longest=10):
    page.evaluate(f"document.getElementById('longest').value = {longest}")


def test_type_stream_reload_and_go_on(page):
    settle(page, 30)
    say(page, "Hello!")
    page.locator(".token").nth(2).wait_for()
    early = said(page)
    assert letters(30).startswith(early) and len(early) < 30, "it did not stream"
    finished(page)
    assert said(page) == letters(30)
    page.reload()
    assert said(page) == letters(30) and page.locator(".turn").count() == 2
    settle(page, 10)
    say(page, "And <b>then</b>?")
    finished(page)
    assert page.locator(".turn").count() == 4 and page.locator(".user .said b").count() == 0
    roles = [m["role"] for m in bodies(page)[-1]["messages"]]
    assert roles == ["user", "assistant", "user"] and page.problems == []


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop_keeps_what_was_said_and_frees_the_seat(page, slow, how):
    settle(page, 150)
    say(page, "Hello!")
    page.locator(".token").nth(2).wait_for()
    page.locator("#stop").click() if how == "button" else page.keyboard.press("Escape")
    finished(page)
    text = said(page)
    assert 0 < len(text) < 120 and letters(150).startswith(text)
    assert page.get_by_text("Stopped.").is_visible()
    wait_for(lambda: slow[0].open_jobs == 0, 3)
    page.reload()
    assert said(page) == text


def test_a_reload_in_the_middle_leaves_the_server_in_peace(page, slow):
    settle(page, 150)
    say(page, "Hello!")
    page.locator(".token").nth(2).wait_for()
    page.reload()
    wait_for(lambda: slow[0].open_jobs == 0, 3)
    assert letters(150).startswith(said(page))


def test_regenerate_temperature_system_and_new_chat(page):
    settle(page)
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("System prompt").fill("Be kind.")
    page.get_by_label("Temperature").fill("1.2")
    say(page, "Hello!")
    finished(page)
    page.get_by_role("button", name="Regenerate").click()
    finished(page)
    first, second = bodies(page)
    assert first["messages"] == second["messages"] and first["seed"] != second["seed"]
    assert first["messages"][0] == {"role": "system", "content": "Be kind."}
    assert first["temperature"] == 1.2 and page.locator(".turn").count() == 2
    page.reload()
    assert page.get_by_label("Temperature").input_value() == "1.2"
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".turn").count() == 0
    page.reload()
    assert page.locator(".turn").count() == 0


def test_chances_under_the_pointer_and_by_keyboard(page):
    settle(page)
    say(page, "Hello!")
    finished(page)
    page.locator(".token").nth(2).hover()
    box = page.locator("#chances")
    box.wait_for(state="visible")
    chosen = box.locator(".chosen")
    assert chosen.locator("code").inner_text() == "c" and chosen.locator("b").inner_text().endswith(
        "%"
    )
    assert box.locator("div").count() >= 5
    page.mouse.move(0, 0)
    box.wait_for(state="hidden")
    page.locator(".assistant .said").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert box.locator(".chosen code").inner_text() == "b"
    assert page.locator("#told").text_content().startswith("b: ")


def test_the_keyboard_finds_tokens_that_are_out_of_sight(page):
    page.set_viewport_size({"width": 360, "height": 420})
    settle(page, 150)
    say(page, "Hello! " * 20)
    page.locator(".writing").wait_for(state="detached")
    page.locator(".assistant .said").evaluate("said => said.focus({ preventScroll: true })")
    page.keyboard.press("ArrowLeft")  # to the last one
    page.locator("#log").evaluate("log => { log.scrollTop = 0; }")
    page.wait_for_timeout(200)
    assert page.locator("#chances").is_hidden(), "it points at what cannot be seen"
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(200)
    assert page.locator("#chances").is_visible() and page.locator(".here").is_visible()


def test_a_message_that_is_too_long_comes_back_to_be_changed(page):
    say(page, "x" * 900)
    page.get_by_role("alert").get_by_text("too long").wait_for()
    assert page.locator(".turn").count() == 0
    assert page.get_by_label("Your message").input_value() == "x" * 900
    settle(page)
    say(page, "short")
    finished(page)
    assert said(page) == letters(10) and page.locator("#problem").text_content() == ""


def test_it_says_so_when_the_server_is_gone(browser):
    with closing(Service(Alphabet(), TOKENIZER)) as service:
        with serving(service) as address:
            page = browser.new_page()
            page.goto(address)
            page.locator("#model").get_by_text("assistant").wait_for()
        say(page, "Hello!")
        page.get_by_role("alert").get_by_text("cannot be reached").wait_for()
        assert page.get_by_role("button", name="Regenerate").is_enabled()
        page.close()


def test_two_windows_write_at_the_same_time(page, browser, slow):
    other = browser.new_page()
    other.goto(slow[1])
    for window in (page, other):
        settle(window, 60)
        say(window, "Hello!")
    for window in (page, other):
        window.locator(".token").nth(3).wait_for()
    assert slow[0].open_jobs == 2, "one waited for the other"
    for window in (page, other):
        finished(window)
        assert said(window) == letters(60)
    other.close()
