"""The routes: a page, and as much of OpenAI's API as a chat needs."""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from shared.serving.reading import LARGEST_BODY, Asked, BadRequest, parse_json, read_request

PAGE = Path(__file__).with_name("page.html")
HERE = ("127.0.0.1", "localhost", "::1")  # names of this machine
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Answers(Protocol):
    """What the routes need to be served: see `Service` in appendix G."""

    name: str
    tokenizer: Any

    def ask(self, messages: list[dict[str, str]], deliver, **settings) -> Any: ...


class TooMany(Exception):
    """So many are in line that nobody else is let in."""


def chat_app(service: Answers) -> Starlette:
    """The web application that answers with `service`.

    GET / (the page), GET /v1/models, GET /v1/models/NAME, POST /v1/chat/completions.
    """

    async def page(request: Request) -> Response:
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return HTMLResponse(PAGE.read_text("utf-8"), headers=headers)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_card(service, started)]})

    async def one_model(request: Request) -> Response:
        if request.path_params["name"] != service.name:
            raise HTTPException(
                404, f"there is no such model here; this server has {service.name!r}"
            )
        return JSONResponse(_card(service, started))

    async def completions(request: Request) -> Response:
        asked = read_request(parse_json(await _body(request)), service.name)
        return await _answer(service, asked, request)

    started = int(time.time())
    routes = [
        Route("/", page),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route("/v1/chat/completions", completions, methods=["POST"]),
    ]
    handlers = {
        BadRequest: _refuse,
        HTTPException: _other,
        ClientDisconnect: _gone,
        Exception: _broken,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    return OnlyFromHere(app)


class OnlyFromHere:
    """Turns away what a page of another site sends through the reader's own browser."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = headers.get(b"host", ""), headers.get(b"origin")
            if not _is_here(f"http://{host}") or (origin is not None and not _is_here(origin)):
                told = "this server answers only to pages and programs of its own machine"
                error = BadRequest(told, code="forbidden", status=403)
                return await _refuse(None, error)(scope, receive, send)
        await self.app(scope, receive, send)


def _is_here(address: str) -> bool:
    try:
        return urlsplit(address).hostname in HERE
    except ValueError:
        return False


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest(
            f"content-type {kind or 'missing'}: send application/json",
            code="media_type",
            status=415,
        )
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > LARGEST_BODY:
            raise BadRequest(
                f"the body has over {LARGEST_BODY:,} bytes: send only the latest messages",
                code="body_too_large",
                status=413,
            )
    return b"".join(parts)


async def _answer(service: Answers, asked: Asked, request: Request) -> Response:
    """Put the question in line, and pass on the pieces of its answer."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue()

    def deliver(piece) -> None:  # called in the service's thread
        if not loop.is_closed():
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    try:
        job = await run_in_threadpool(service.ask, asked.messages, deliver, **asked.settings)
    except ValueError as error:
        raise BadRequest(str(error), "messages", "context_length_exceeded") from None
    except OverflowError as error:
        told = {"status": 429, "type": "rate_limit_error"}
        raise BadRequest(str(error), code="too_many_requests", **told) from None
    except RuntimeError as error:
        told = {"status": 503, "type": "server_error"}
        raise BadRequest(str(error), code="unavailable", **told) from None
    reply = Reply(service, asked, job, pieces)
    headers = {"X-Dropped-Messages": str(job.dropped), "Cache-Control": "no-store"}
    if asked.stream:
        return StreamingResponse(reply.events(), media_type="text/event-stream", headers=headers)
    return JSONResponse(await reply.whole(request), headers=headers)


class Reply:
    """An answer on its way to one client, in OpenAI's form."""

    def __init__(self, service: Answers, asked: Asked, job: Any, pieces: asyncio.Queue) -> None:
        self.service, self.asked, self.job, self.pieces = service, asked, job, pieces
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events, one for each token; when the client leaves, the job is cancelled."""
        try:
            yield self.event({"role": "assistant", "content": ""})
            while True:
                piece = await self.pieces.get()
                if piece.ended in ("error", "cancelled"):
                    yield _event({"error": _failure(piece)})
                    return
                if piece.text or piece.chances:
                    yield self.event({"content": piece.text}, chances=piece.chances)
                if piece.ended:
                    break
            yield self.event({}, ended=piece.ended)
            if self.asked.with_usage:
                yield _event(self.envelope("chat.completion.chunk", [], usage=self.usage()))
            yield "data: [DONE]\n\n"
        finally:
            self.job.cancelled = True  # nothing happens where it had ended

    async def whole(self, request: Request) -> dict:
        """All of the answer at once; when the client leaves, the job is cancelled."""
        leaving = asyncio.ensure_future(_left(request))
        text, chances = "", []
        try:
            while True:
                getting = asyncio.ensure_future(self.pieces.get())
                await asyncio.wait({getting, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    raise ClientDisconnect
                piece = getting.result()
                text += piece.text
                chances += [piece.chances] if piece.chances else []
                if piece.ended:
                    break
        finally:
            leaving.cancel()
            self.job.cancelled = True
        if piece.ended in ("error", "cancelled"):
            failure = _failure(piece)
            told = {"status": 500, "type": failure["type"]}
            raise BadRequest(failure["message"], code=failure["code"], **told)
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": piece.ended}
        choice["logprobs"] = self.logprobs(chances) if self.asked.with_chances else None
        return self.envelope("chat.completion", [choice], usage=self.usage())

    def event(self, delta: dict, ended: str | None = None, chances: tuple = ()) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": ended}
        choice["logprobs"] = self.logprobs([chances]) if chances else None
        return _event(self.envelope("chat.completion.chunk", [choice]))

    def envelope(self, kind: str, choices: list, **more) -> dict:
        about = {"id": self.id, "object": kind, "created": self.created}
        return about | {"model": self.service.name, "choices": choices} | more

    def usage(self) -> dict[str, int]:
        read, written = self.job.prompt_tokens, self.job.new_tokens
        counted = {"prompt_tokens": read, "completion_tokens": written}
        return counted | {"total_tokens": read + written}

    def logprobs(self, chances: list[tuple]) -> dict:
        """Each chosen token with those it was chosen from."""
        content = []
        for (token, chance), *others in chances:
            best = [self.token(*other) for other in others]
            content.append(self.token(token, chance) | {"top_logprobs": best})
        return {"content": content, "refusal": None}

    def token(self, token: int, chance: float) -> dict:
        raw = self.service.tokenizer.vocab[token]
        log = max(math.log(chance), -9999.0) if chance > 0 else -9999.0  # JSON has no infinity
        return {"token": raw.decode("utf-8", "replace"), "logprob": log, "bytes": list(raw)}


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _failure(piece) -> dict:
    """What to say when an answer broke off."""
    message = piece.error or "the answer was cancelled"
    return {"message": message, "type": "server_error", "param": None, "code": "answer_failed"}


def _event(content: dict) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _card(service: Answers, created: int) -> dict:
    return {"id": service.name, "object": "model", "created": created, "owned_by": "you"}


def _refuse(request: Request | None, error: BadRequest) -> Response:
    return JSONResponse({"error": error.error}, error.status)


def _other(request: Request, error: HTTPException) -> Response:
    """Unknown addresses and methods."""
    told = error.detail
    if error.status_code == 404 and told == "Not Found":
        told = f"nothing at {request.url.path}: see /v1/models and /v1/chat/completions"
    if error.status_code == 405:
        told = f"{request.method} is not for {request.url.path}"
    content = BadRequest(told, code="not_found", status=error.status_code).error
    return JSONResponse({"error": content}, error.status_code, headers=error.headers)


def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # nobody reads it


def _broken(request: Request, error: Exception) -> Response:
    message = f"the server made a mistake: {type(error).__name__}"
    content = {"message": message, "type": "server_error", "param": None, "code": "internal"}
    return JSONResponse({"error": content}, 500)
