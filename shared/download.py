"""One way to fetch a file: a progress bar, resumed where it stopped, checked, never half a file.

While a download runs, its bytes lie in `NAME.part` and what the server said about them in
`NAME.part.json`. Only a file that came whole and passed its checks gets its real name.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from tqdm import tqdm

from shared.artifacts import artifacts_folder

BUILT_IN = (
    "No network is needed for the built-in data: story_text() in shared.stories tells as many "
    "stories as you want, english_text() in shared.texts collects real English from the "
    "installed packages, and text_from() there reads files of your own."
)
CHUNK = 1 << 16
SLOWEST = 1024  # bytes per `timeout` seconds: a server that gives less has stalled

Check = Callable[[Path], None]


class DownloadError(OSError):
    """A file could not be fetched. The message says what was tried and what to do instead."""


class _Retry(Exception):
    """This attempt failed; another one at the same address may work."""


class _NextMirror(Exception):
    """This address will not give the file, however often it is asked."""


class _Changed(_Retry):
    """The server's file is no longer the one that `.part` began."""


class _Corrupt(Exception):
    """All bytes came, and they are not the file that was wanted."""


@dataclass(frozen=True)
class _Wanted:
    """What is known beforehand about the file, and how patient to be."""

    sha256: str | None
    size: int | None
    check: Check | None
    first_bytes: int | None
    timeout: float

    def problem(self, path: Path, sha256: str | None = None) -> str | None:
        """What is wrong with the file at `path`, or None when it passes every check."""
        found, sha256 = path.stat().st_size, self.sha256 or sha256
        if self.size is not None and found != self.size:
            return f"it has {found:,} bytes instead of {self.size:,}"
        if sha256 and (seen := file_sha256(path)) != sha256.lower():
            return f"its SHA-256 is {seen[:12]}… instead of {sha256[:12].lower()}…"
        try:
            if self.check is not None:
                self.check(path)
        except ValueError as error:
            return str(error)
        return None


@dataclass
class _Source:
    """What a server said about the file of which `.part` holds the beginning."""

    url: str
    validator: str | None = None  # a strong ETag or a Last-Modified date, for If-Range
    total: int | None = None
    sha256: str | None = None  # where the server publishes it, as the Hugging Face hub does


def download(
    urls: str | Sequence[str],
    path: str | Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    check: Check | None = None,
    first_bytes: int | None = None,
    timeout: float = 15.0,
    tries: int = 3,
    pause: float = 1.0,
    advice: str = BUILT_IN,
) -> Path:
    """Fetch a file unless it is there already, and return its path.

    Args:
        urls: one address, or several that offer the same file, tried in order.
        path: where the file goes. A file that is there and passes the checks is kept.
        sha256, size: what the whole file must have; `size` in bytes.
        check: called with the path of the finished file; raises ValueError if it is not right.
        first_bytes: fetch no more than this many bytes from the beginning.
        timeout: seconds without progress after which a connection is given up.
        tries: attempts at one address without any progress; those that progress are free.
        pause: seconds before the second attempt, doubled before each further one.
        advice: last sentence of the error message.

    Raises:
        DownloadError: no address gave the whole file, or there is no room for it. What was
            fetched is kept where it can be continued; `path` is not touched.

    Example:
        >>> download("https://example.org/book.txt", "artifacts/book.txt", size=163_780)
    """
    urls, path = [urls] if isinstance(urls, str) else list(urls), Path(path)
    if not urls:
        raise ValueError("download: no address given; expected at least one URL")
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"download: {url!r} is no http:// or https:// address")
    wanted = _Wanted(sha256, size, check, first_bytes, timeout)
    if path.is_file() and wanted.problem(path) is None:
        return path
    with _locked(path):
        if not (path.is_file() and wanted.problem(path) is None):
            _download_from_any(urls, path, wanted, tries, pause, advice)
    return path


def hub_file(
    repo_id: str,
    filename: str,
    *,
    repo_type: str = "model",
    revision: str = "main",
    **options,
) -> Path:
    """Fetch one file of a repository on the Hugging Face hub, and return its path.

    A copy in your Hugging Face cache is used if there is one. `HF_ENDPOINT` names a mirror,
    `HF_HUB_OFFLINE=1` forbids the network. `options` are those of `download`.

    Raises:
        DownloadError: the file is neither in a cache nor could it be fetched.

    Example:
        >>> hub_file("openai-community/gpt2", "config.json")
    """
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repo_id, filename, repo_type=repo_type, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    first = options.get("first_bytes")
    name = f"first-{first}-of-{Path(filename).name}" if first else filename
    path = artifacts_folder() / "downloads" / repo_id.replace("/", "--") / revision / name
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        if path.is_file():
            return path
        raise DownloadError(
            f"{filename} of {repo_id} is not on this machine, and HF_HUB_OFFLINE forbids the "
            f"network. If you have the file, put it at {path}. {options.get('advice', BUILT_IN)}"
        )
    kind = {"model": "", "dataset": "datasets/", "space": "spaces/"}[repo_type]
    urls = [
        f"{mirror}/{kind}{repo_id}/resolve/{quote(revision, safe='')}/{quote(filename)}"
        for mirror in mirrors("HF_ENDPOINT", "https://huggingface.co")
    ]
    return download(urls, path, **options)


def mirrors(variable: str, default: str) -> list[str]:
    """Base addresses from an environment variable (spaces or commas between several).

    Example:
        >>> mirrors("GUTENBERG_MIRROR", "https://www.gutenberg.org")
        ['https://www.gutenberg.org']
    """
    given = re.split(r"[\s,]+", os.environ.get(variable, "").strip())
    return [m.rstrip("/") for m in given if m] or [default]


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_from_any(
    urls: list[str], path: Path, wanted: _Wanted, tries: int, pause: float, advice: str
) -> None:
    """Try each address in turn until the file is at `path`; else raise DownloadError."""
    part, failures, unreachable = _part(path), {}, set()
    begun = [url for url in urls if _kept_source(path, url, wanted)]
    for url in dict.fromkeys(begun + urls):
        host = urlsplit(url).netloc
        if host in unreachable:
            continue
        stuck, best = 0, _size(part)
        while stuck < tries:
            if stuck:
                time.sleep(pause * 2 ** (stuck - 1))
            try:
                _fetch(url, path, wanted)
                return
            except _NextMirror as error:
                failures[url] = str(error)
                break
            except _Corrupt as error:
                failures[url] = str(error)
                stuck = max(stuck + 1, tries - 1)  # one more attempt, from the beginning
            except DownloadError:
                raise
            except (_Retry, OSError, http.client.HTTPException) as error:
                failures[url] = _reason(error, wanted.timeout)
                if isinstance(error, _Changed):
                    _forget(path)
                progressed = _size(part) > best
                stuck, best = (0 if progressed else stuck + 1), max(best, _size(part))
                if _hopeless(error) and not progressed:
                    stuck = tries
                if stuck >= tries and not isinstance(error, _Retry):
                    unreachable.add(host)
    if not any(_kept_source(path, url, wanted) for url in urls):
        _forget(path)
    raise DownloadError(_message(path, failures, advice))


def _fetch(url: str, path: Path, wanted: _Wanted) -> None:
    """One attempt: continue or begin `.part`, and give it its name if it is whole and right."""
    part, source = _part(path), _kept_source(path, url, wanted)
    start = _size(part) if source else 0
    if source and start and start == _goal(source, wanted):
        start -= 1  # all bytes are here: ask for the last one, to hear that the file is the same
    response = _open(url, start, source, wanted)
    with contextlib.closing(response):
        source, start = _accept(response, url, start, source, wanted)
        goal = _goal(source, wanted)
        _check_room(path, (goal or 0) - start)
        if start == 0:
            _forget(path)
            _note(path).write_text(json.dumps(asdict(source)), encoding="utf-8")
        with _opened(part, "r+b" if start else "wb", path) as file:
            file.truncate(start)
            file.seek(start)
            _copy(response, file, path, start, goal, wanted)
    if goal is not None and _size(part) < goal:
        raise _Retry(f"the connection ended after {_size(part):,} of {goal:,} bytes")
    problem = wanted.problem(part, source.sha256 if wanted.first_bytes is None else None)
    if problem:
        _forget(path)
        raise _Corrupt(f"what came is not the file: {problem}")
    os.replace(part, path)
    _forget(path)


def _open(url: str, start: int, source: _Source | None, wanted: _Wanted):
    """Send the request; HTTP refusals become _NextMirror or _Retry."""
    headers = {"User-Agent": "gpt-from-nothing (a course)", "Accept-Encoding": "identity"}
    if start or wanted.first_bytes:
        end = wanted.first_bytes - 1 if wanted.first_bytes else ""
        headers["Range"] = f"bytes={start}-{end}"
    if start and source and source.validator:
        headers["If-Range"] = source.validator
    opener = urllib.request.build_opener(
        _Redirects, urllib.request.HTTPSHandler(context=_certificates())
    )
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=wanted.timeout)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            reason = f"{error.code} {error.reason}"
            if error.code == 416 and start:  # the file is shorter now than what we have
                raise _Changed("the file has changed on the server") from None
            if error.code == 429 or error.code >= 500:
                raise _Retry(reason) from None
            raise _NextMirror(reason) from None


def _accept(
    response, url: str, start: int, kept: _Source | None, wanted: _Wanted
) -> tuple[_Source, int]:
    """Read the answer's headers: what is coming, and from which byte on."""
    headers = response.headers
    if headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise _NextMirror("the server sends it compressed, so its length cannot be checked")
    etag, dated = headers.get("ETag"), headers.get("Last-Modified")
    source = _Source(url, etag if etag and not etag.startswith("W/") else dated)
    first_answer = getattr(response, "first_redirect", {})
    if re.fullmatch('"?[0-9a-f]{64}"?', linked := first_answer.get("X-Linked-ETag", "")):
        source.sha256 = linked.strip('"')
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", ""))
        total = int(span[3]) if span and span[3] != "*" else None
        if not span or int(span[1]) != start:
            raise _NextMirror("the server answered with another part of the file than asked for")
        another = kept and kept.validator and kept.validator != source.validator
        if start and kept and (total != kept.total or another):
            raise _Changed("the file has changed on the server")
    else:
        start, length = 0, headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
    source.total = total
    if wanted.size is not None and total is not None and total != wanted.size:
        raise _NextMirror(f"the server offers {total:,} bytes instead of {wanted.size:,}")
    sure = wanted.size is not None or wanted.sha256 or wanted.check or source.sha256
    if total is None and not sure:
        raise _NextMirror("the server does not say how long the file is, so a half is not noticed")
    return source, start


def _copy(
    response, file: BinaryIO, path: Path, start: int, goal: int | None, wanted: _Wanted
) -> None:
    """Copy the answer's bytes into `file` with a bar; give up when too few come."""
    limit = wanted.first_bytes if wanted.first_bytes is not None else sys.maxsize
    bar = tqdm(
        total=goal, initial=start, desc=path.name, unit="B", unit_scale=True, file=sys.stdout,
        delay=0.5,
    )  # fmt: skip
    done = mark = start
    deadline = time.monotonic() + wanted.timeout
    with bar:
        while done < limit:
            chunk = response.read1(min(CHUNK, limit - done))
            if not chunk:
                break
            try:
                file.write(chunk)
            except OSError as error:
                raise _disk_error(error, path) from None
            done += len(chunk)
            bar.update(len(chunk))
            if done - mark >= SLOWEST:
                mark, deadline = done, time.monotonic() + wanted.timeout
            elif time.monotonic() > deadline:
                raise TimeoutError
        try:
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise _disk_error(error, path) from None


def _goal(source: _Source, wanted: _Wanted) -> int | None:
    """Bytes that `.part` must have in the end, if known."""
    total = source.total if source.total is not None else wanted.size
    if wanted.first_bytes is None:
        return total
    return total if total is not None and total < wanted.first_bytes else wanted.first_bytes


def _kept_source(path: Path, url: str, wanted: _Wanted) -> _Source | None:
    """Where the kept bytes came from, if the download may go on from them at `url`.

    It may if the server can tell us that its file is still the same (If-Range), or if a
    checksum will tell afterwards; only with a checksum may another mirror go on.
    """
    try:
        source = _Source(**json.loads(_note(path).read_text(encoding="utf-8")))
        goal = _goal(source, wanted)
        known = wanted.sha256 or (source.validator and source.url == url)
        if known and _size(_part(path)) and (goal is None or _size(_part(path)) <= goal):
            return source if source.url == url else _Source(url, None, source.total)
    except (OSError, ValueError, TypeError):
        pass
    return None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, and keep the first one's headers: the hub puts the checksum there."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None:
            new.first_redirect = getattr(req, "first_redirect", headers)
        return new

    def http_response(self, request, response):
        response.first_redirect = getattr(request, "first_redirect", {})
        return response

    https_response = http_response


@functools.lru_cache
def _certificates() -> ssl.SSLContext:
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError, OSError):  # Python on macOS may come without any
        import certifi

        context.load_verify_locations(certifi.where())
    return context


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep a second process from writing the same `.part`; the system frees a dead one's lock."""
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(lock, "a+b")
    except OSError as error:
        raise _disk_error(error, path) from None
    with handle:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DownloadError(
                f"{path.name} is being downloaded by another process, perhaps another notebook. "
                "Wait until that has finished, then run this again."
            ) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()


@contextlib.contextmanager
def _opened(part: Path, mode: str, path: Path) -> Iterator[BinaryIO]:
    try:
        file = open(part, mode)
    except OSError as error:
        raise _disk_error(error, path) from None
    with file:
        yield file


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _forget(path: Path) -> None:
    _part(path).unlink(missing_ok=True)
    _note(path).unlink(missing_ok=True)


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DownloadError(
            f"{path.name} needs {_mb(needed)} more on the disk that holds {path.parent}, and "
            f"{_mb(free)} are free. Make room, or let the environment variable COURSE_ARTIFACTS "
            "name a folder on another disk, then run this again: it goes on where it stopped."
        )


def _disk_error(error: OSError, path: Path) -> DownloadError:
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    what = "the disk is full" if full else error.strerror or str(error)
    return DownloadError(
        f"{path.name} could not be written into {path.parent}: {what}. Make room there, or let "
        "the environment variable COURSE_ARTIFACTS name another folder, then run this again: it "
        "goes on where it stopped."
    )


def _hopeless(error: Exception) -> bool:
    """No such host, or one that is not what it claims: waiting a second will not help."""
    kinds = (socket.gaierror, ssl.SSLCertVerificationError)
    return isinstance(getattr(error, "reason", error), kinds)


def _reason(error: Exception, timeout: float) -> str:
    error = getattr(error, "reason", error)
    if isinstance(error, TimeoutError):
        return f"nothing came for {timeout:g} s"
    if isinstance(error, socket.gaierror):
        return "no such host, or no network"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended in the middle"
    return str(getattr(error, "strerror", None) or error or type(error).__name__).rstrip(".")


def _message(path: Path, failures: dict[str, str], advice: str) -> str:
    tried = "; ".join(f"{url} ({reason})" for url, reason in failures.items())
    kept = _size(_part(path))
    going_on = f" {_mb(kept)} are kept, and the next attempt goes on from there." if kept else ""
    return (
        f"{path.name} could not be downloaded. Tried {tried}.{going_on} If you have the file, "
        f"put it at {path} and run this again. {advice}"
    )


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"
