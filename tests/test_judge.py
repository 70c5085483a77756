"""The judge: a server on loopback that is good, slow, or talks nonsense; and none at all."""

from __future__ import annotations

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shared.judge import Judge, JudgeError, find_judge, parse_grade

MODELS = {"data": [{"id": "large-one"}]}


def saying(text: str) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


@pytest.fixture
def server():
    """Starts servers; `asked` of each keeps what it was asked."""
    running = []

    def start(answer, models=MODELS, status: int = 200, wait: float = 0.0):
        class Handler(BaseHTTPRequestHandler):
            def reply(self, content):
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                time.sleep(wait)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass  # whoever asked has gone

            def do_GET(self):
                self.server.asked.append(self.path)
                self.reply(models)

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                self.server.asked.append((self.path, json.loads(self.rfile.read(length))))
                self.reply(answer)

            def log_message(self, *_):
                pass

        made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        made.asked, made.block_on_close = [], False
        made.address = f"http://127.0.0.1:{made.server_address[1]}"
        threading.Thread(target=made.serve_forever, daemon=True).start()
        running.append(made)
        return made

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


def free_address() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}"


def test_a_good_answer_is_a_grade(server):
    one = server(saying("Grade: 85"))
    judge = find_judge([free_address(), one.address + "/v1/"], timeout=5)
    assert judge == Judge(one.address, "large-one")
    assert judge.grade("Hello!", "Hello, {you}!", timeout=5) == 85
    path, body = one.asked[-1]
    assert path == "/v1/chat/completions" and body["model"] == "large-one"
    (message,) = body["messages"]
    assert message["role"] == "user" and "Hello, {you}!" in message["content"]


@pytest.mark.parametrize(
    "said, grade",
    [
        ("100", 100),
        ("0", 0),
        ("80/100", 80),
        ("I would say 80 out of 100.", 80),
        ("70 of 100", 70),
        ("<think>20? No, 30.</think>\n\n75", 75),
        ("**90**", 90),
        ("Two good points and 1 bad one.\nGrade: 60", 60),
        ("Grade: 100/100", 100),
    ],
)
def test_grades_are_found(said, grade):
    assert parse_grade(said) == grade


@pytest.mark.parametrize("said", ["", "very good", "1000", "-5", "3.5", None, "<think>50"])
def test_what_is_no_grade_is_refused(said):
    with pytest.raises(JudgeError, match="no number from 0 to 100"):
        parse_grade(said)


@pytest.mark.parametrize(
    "answer", [b"<html>", [], {}, {"choices": []}, {"choices": [{}]}, saying("good"), b"\xff"]
)
def test_garbage_is_named(server, answer):
    judge = Judge(server(answer).address, "m")
    with pytest.raises(JudgeError):
        judge.grade("Hello!", "Hi!", timeout=5)


def test_an_error_of_the_server_is_named(server):
    with pytest.raises(JudgeError, match="did not answer.*500"):
        Judge(server(saying("50"), status=500).address, "m").grade("a", "b", timeout=5)


def test_a_slow_judge_is_not_waited_for(server):
    slow = server(saying("50"), wait=3.0)
    start = time.perf_counter()
    assert find_judge([slow.address], timeout=0.2) is None
    with pytest.raises(JudgeError, match="did not answer"):
        Judge(slow.address, "m").grade("a", "b", timeout=0.2)
    assert time.perf_counter() - start < 2


def test_no_server_is_no_judge():
    start = time.perf_counter()
    assert find_judge([free_address(), free_address()]) is None
    assert time.perf_counter() - start < 2
    with pytest.raises(JudgeError, match="did not answer"):
        Judge(free_address(), "m").grade("a", "b")


@pytest.mark.parametrize("models", [{"data": []}, {}, [], b"no json", {"data": [{}]}])
def test_a_server_without_models_is_no_judge(server, models):
    assert find_judge([server(saying("50"), models).address], timeout=5) is None


def test_the_environment_names_a_judge(server, monkeypatch):
    one = server(saying("50"))
    monkeypatch.setenv("COURSE_JUDGE", one.address)
    monkeypatch.setenv("http_proxy", free_address())  # is not used
    assert find_judge(timeout=5) == Judge(one.address, "large-one")
    monkeypatch.setenv("COURSE_JUDGE", "nonsense")
    assert find_judge() is None
