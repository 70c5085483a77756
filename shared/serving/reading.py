"""What a client sent, examined: settings that can be used, or an error that says what to change."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

LARGEST_BODY = 1_000_000  # bytes; a conversation that fits the model has some thousands
MOST_ALTERNATIVES = 20  # as OpenAI's API
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
UNSUPPORTED = {  # parameters that would change the answer, and the values that change nothing
    "n": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
}


class BadRequest(Exception):
    """A request that cannot be answered: what to tell the client, in OpenAI's form."""

    def __init__(
        self, message: str, param: str | None = None, code: str = "invalid_value", **other
    ):
        super().__init__(message)
        self.status = other.get("status", 400)
        kind = other.get("type", "invalid_request_error")
        self.error = {"message": message, "type": kind, "param": param, "code": code}


@dataclass(frozen=True)
class Asked:
    """A request for an answer, with everything filled in."""

    messages: list[dict[str, str]]
    settings: dict[str, Any] = field(default_factory=dict)  # for the service
    stream: bool = False
    with_usage: bool = False
    with_chances: bool = False


def parse_json(body: bytes) -> dict:
    """The object in a request's body.

    Raises:
        BadRequest: it is no JSON, or no object.
    """
    try:
        content = json.loads(body)
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply", code="invalid_json") from None
    except ValueError as error:  # includes text that is not UTF-8
        raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(content, dict):
        what = type(content).__name__
        raise BadRequest(f"the body is a {what}; expected an object, {{…}}", code="invalid_json")
    return content


def read_request(content: dict, model: str) -> Asked:
    """The request in `content`, for the model of this name.

    Raises:
        BadRequest: something in it cannot be used; names the parameter.
    """
    asked = content.get("model", model)
    if asked != model:
        raise BadRequest(
            f"there is no model {_short(asked)} here; this server has {model!r}",
            "model",
            "model_not_found",
            status=404,
        )
    for name, harmless in UNSUPPORTED.items():
        if name in content and content[name] not in harmless:
            raise BadRequest(
                f"{name}={_short(content[name])} is not supported here: leave it out",
                name,
                "unsupported_parameter",
            )
    chances = _flag(content, "logprobs")
    count = _whole(content, "top_logprobs", 0, MOST_ALTERNATIVES)
    if count is not None and not chances:
        raise BadRequest("top_logprobs needs logprobs=true", "top_logprobs")
    settings = {
        "temperature": _number(content, "temperature", 0, 2),
        "top_p": _number(content, "top_p", 0, 1, above=True),
        "seed": _whole(content, "seed", -(2**63), 2**63 - 1),
        "limit": _limit(content),
        "stop_words": _stop_words(content.get("stop")),
        "alternatives": (count or 0) if chances else None,
    }
    options = content.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequest("stream_options: expected an object", "stream_options")
    return Asked(
        _messages(content.get("messages")),
        {name: value for name, value in settings.items() if value is not None},
        _flag(content, "stream"),
        _flag(options, "include_usage"),
        chances,
    )


def _messages(given: Any) -> list[dict[str, str]]:
    if not isinstance(given, list) or not given:
        raise BadRequest(
            f"messages={_short(given)}: expected a list of one or more messages, such as "
            '[{"role": "user", "content": "Hello!"}]',
            "messages",
        )
    read = [_message(message, f"messages[{i}]") for i, message in enumerate(given)]
    if read[-1]["role"] != "user":
        raise BadRequest(
            f"the last message is the {read[-1]['role']}'s; expected one of the user, to answer to",
            f"messages[{len(read) - 1}].role",
        )
    return read


def _message(message: Any, place: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise BadRequest(f"{place}={_short(message)}: expected an object with role, content", place)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        raise BadRequest(f"{place}.role={_short(role)}: expected one of {known}", f"{place}.role")
    if isinstance(content, list):  # OpenAI's other form: a list of parts
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
        if set(kinds) - {"text"} or not all(isinstance(text, str) for text in texts):
            raise BadRequest(f"{place}.content: only parts of type text", f"{place}.content")
        content = "".join(texts)
    if not isinstance(content, str):
        raise BadRequest(f"{place}.content={_short(content)}: expected a text", f"{place}.content")
    if not content.strip():
        raise BadRequest(f"{place}.content is empty: leave the message out", f"{place}.content")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise BadRequest(
            f"{place}.content holds half of a surrogate pair, which is no character",
            f"{place}.content",
        ) from None
    return {"role": ROLES[role], "content": content}


def _stop_words(given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, list) or len(words) > 4:
        raise BadRequest(f"stop={_short(given)}: expected a text, or up to 4 in a list", "stop")
    if not all(isinstance(word, str) and 0 < len(word) <= 200 for word in words):
        raise BadRequest("stop: expected texts of 1 to 200 characters", "stop")
    return tuple(words)


def _limit(content: dict) -> int | None:
    newer = _whole(content, "max_completion_tokens", 1, None)
    older = _whole(content, "max_tokens", 1, None)
    return newer if newer is not None else older


def _number(content: dict, name: str, low: float, high: float, above: bool = False) -> float | None:
    value = content.get(name)
    if value is None:
        return None
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high or (above and value == low):
        wanted = f"above {low}, at most {high}" if above else f"from {low} to {high}"
        raise BadRequest(f"{name}={_short(value)}: expected a number {wanted}", name)
    return float(value)


def _whole(content: dict, name: str, low: int, high: int | None) -> int | None:
    value = content.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        wanted = f"of {low} or more" if high is None else f"from {low} to {high}"
        raise BadRequest(f"{name}={_short(value)}: expected a whole number {wanted}", name)
    return value


def _flag(content: dict, name: str) -> bool:
    value = content.get(name)
    if value not in (None, True, False) or isinstance(value, int) and not isinstance(value, bool):
        raise BadRequest(f"{name}={_short(value)}: expected true or false", name)
    return bool(value)


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "…"
