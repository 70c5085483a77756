"""A larger model on this machine that grades open answers; whoever has none goes on without.

Any server with OpenAI's chat API will do: Ollama, vLLM, llama.cpp. Only this machine is asked,
unless the environment variable COURSE_JUDGE names another address.

>>> judge = find_judge()
>>> judge.grade("Say hello.", "Hello! It is good to see you.") if judge else "no judge here"
"""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException

ADDRESSES = ("http://localhost:11434", "http://localhost:8000")  # Ollama's and vLLM's usual ports
ASK = """\
You grade the answer of a very small assistant that knows little more than children's stories.
A good answer is friendly, honest, plain English, and fits what was said. Give one whole number \
from 0 (useless) to 100 (as good as it could be), and nothing else.

Said to the assistant: {question}
The assistant's answer: {answer}
Grade:"""

# Never through a proxy: what is asked is on this machine, or named by its owner.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class JudgeError(Exception):
    """The judge gave no grade: it did not answer in time, or with something else."""


@dataclass(frozen=True)
class Judge:
    """A server and the model on it that grades."""

    address: str
    model: str

    def grade(self, question: str, answer: str, timeout: float = 30.0) -> int:
        """How good the answer is, from 0 to 100.

        Raises:
            JudgeError: no answer within `timeout` seconds, or no grade in it.
        """
        message = {"role": "user", "content": ASK.format(question=question, answer=answer)}
        body = {"model": self.model, "messages": [message], "temperature": 0, "max_tokens": 400}
        content = _ask(f"{self.address}/v1/chat/completions", timeout, body)
        try:
            said = content["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise JudgeError(f"the judge's answer has no message: {str(content)[:100]}") from None
        return parse_grade(said)


def find_judge(addresses: Sequence[str] | None = None, timeout: float = 0.5) -> Judge | None:
    """The first server that answers and has a model; None if there is none.

    Args:
        addresses: such as "http://localhost:8000"; None for COURSE_JUDGE, or the usual ones.
        timeout: seconds to wait for each.
    """
    named = os.environ.get("COURSE_JUDGE", "")
    for address in addresses or ([named] if named else ADDRESSES):
        address = address.rstrip("/").removesuffix("/v1")
        try:
            return Judge(address, _ask(f"{address}/v1/models", timeout)["data"][0]["id"])
        except (JudgeError, KeyError, IndexError, TypeError):
            continue
    return None


def parse_grade(said: object) -> int:
    """The grade in what a judge said: its last whole number from 0 to 100.

    What stands between <think> and </think> does not count, and neither does "of 100".

    Raises:
        JudgeError: there is none.

    Example:
        >>> parse_grade("I would say 80 out of 100.")
        80
    """
    text = re.sub(r"<think>.*?(</think>|$)", "", str(said), flags=re.S)
    text = re.sub(r"\s*(/|out of|of)\s*100\b", "", text)
    numbers = re.findall(r"(?<![\w.,-])\d{1,3}(?![\w,]|\.\d)", text)
    grades = [int(number) for number in numbers if int(number) <= 100]
    if not grades:
        raise JudgeError(f"the judge gave no number from 0 to 100: {str(said)[:100]!r}")
    return grades[-1]


def _ask(url: str, timeout: float, body: dict | None = None) -> dict:
    """What a server answers, as JSON. Raises JudgeError."""
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with _opener.open(request, timeout=timeout) as answer:
            content = json.loads(answer.read(1_000_000))
    except (OSError, ValueError, HTTPException) as error:  # refused, slow, cut off, no JSON
        raise JudgeError(f"the judge at {url} did not answer: {error}") from None
    if not isinstance(content, dict):
        raise JudgeError(f"the judge at {url} answered with something else: {str(content)[:100]}")
    return content
