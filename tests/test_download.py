"""The download layer against a server on this machine that misbehaves in every way we know of."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shared import download as layer
from shared.download import DownloadError, download, hub_file, mirrors

BODY = bytes(range(256)) * 1231 + b"end"  # 315,139 bytes: several chunks, an odd length
SHA = hashlib.sha256(BODY).hexdigest()
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Answers the n-th request for a path with the n-th of its answers, then with the last."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.log: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def plan(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers)
        return self.url + path

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.log]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.log.append((self.path, dict(self.headers)))
        answers = self.server.answers.get(self.path, [status(404)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.close_connection = True
        try:
            answer(self)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, *_) -> None:
        pass


def serve(
    body: bytes = BODY,
    *,
    etag: str | None = '"v1"',
    stop: int | None = None,
    ranges: bool = True,
    lie: int = 0,
    heed_if_range: bool = True,
    pause: float = 0.0,
    **headers: str,
) -> Answer:
    """A file server; `stop` bytes into each answer it hangs up (after `pause` seconds)."""

    def answer(h: BaseHTTPRequestHandler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", h.headers.get("Range", "")) if ranges else None
        if asked and heed_if_range and h.headers.get("If-Range", etag) != etag:
            asked = None
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, len(body)) if asked and asked[2] else len(body)
        if asked and start >= len(body):
            h.send_response(416)
            h.send_header("Content-Range", f"bytes */{len(body)}")
            h.send_header("Content-Length", "0")
            h.end_headers()
            return
        h.send_response(206 if asked else 200)
        if asked:
            h.send_header("Content-Range", f"bytes {start + lie}-{end - 1}/{len(body)}")
        if etag:
            h.send_header("ETag", etag)
        for name, value in headers.items():
            h.send_header(name.replace("_", "-"), value)
        h.send_header("Content-Length", str(end - start))
        h.end_headers()
        h.wfile.write(body[start:end][:stop])
        h.wfile.flush()
        time.sleep(pause)

    return answer


def status(code: int, **headers: str) -> Answer:
    def answer(h: BaseHTTPRequestHandler) -> None:
        h.send_response(code)
        for name, value in headers.items():
            h.send_header(name.replace("_", "-"), value)
        h.send_header("Content-Length", "0")
        h.end_headers()

    return answer


def without_length(body: bytes, *, chunked: bool = False, finished: bool = True) -> Answer:
    def answer(h: BaseHTTPRequestHandler) -> None:
        h.send_response(200)
        if chunked:
            h.send_header("Transfer-Encoding", "chunked")
        h.end_headers()
        h.wfile.write(b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)
        if chunked and finished:
            h.wfile.write(b"0\r\n\r\n")

    return answer


def drip(body: bytes = BODY) -> Answer:
    """One byte now and then: never silent, never done."""

    def answer(h: BaseHTTPRequestHandler) -> None:
        h.send_response(200)
        h.send_header("Content-Length", str(len(body)))
        h.end_headers()
        for i in range(200):
            h.wfile.write(body[i : i + 1])
            h.wfile.flush()
            time.sleep(0.05)

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def offline_otherwise(monkeypatch) -> None:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "GUTENBERG_MIRROR", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def fetch(urls, path: Path, **options) -> Path:
    return download(urls, path, **{"timeout": 5.0, "pause": 0.01, **options})


def left_over(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- it works


def test_whole_file_and_nothing_beside_it(server, tmp_path):
    path = fetch(server.plan("/f", serve()), tmp_path / "f.bin", sha256=SHA, size=len(BODY))
    assert path.read_bytes() == BODY
    assert left_over(tmp_path) == ["f.bin"]


def test_second_call_does_not_ask_the_server(server, tmp_path):
    url = server.plan("/f", serve(), status(500))
    fetch(url, tmp_path / "f.bin")
    fetch(url, tmp_path / "f.bin")
    fetch(url, tmp_path / "f.bin", sha256=SHA)
    assert len(server.log) == 1


def test_folders_are_made_and_redirects_followed(server, tmp_path):
    server.plan("/there", serve())
    url = server.plan("/here", status(302, Location="/there"))
    assert fetch(url, tmp_path / "a" / "b" / "f.bin").read_bytes() == BODY


def test_empty_file_is_a_whole_file(server, tmp_path):
    assert fetch(server.plan("/f", serve(b"")), tmp_path / "f").read_bytes() == b""


def test_a_file_put_there_by_hand_is_checked(server, tmp_path):
    path = tmp_path / "f.bin"
    path.write_bytes(BODY[:1000])
    assert fetch(server.plan("/f", serve()), path, size=len(BODY)).read_bytes() == BODY


def test_progress_is_shown_and_stderr_stays_empty(server, tmp_path, capsys, monkeypatch):
    real = layer.tqdm
    monkeypatch.setattr(layer, "tqdm", lambda **k: real(**{**k, "delay": 0, "mininterval": 0}))
    fetch(server.plan("/f", serve()), tmp_path / "f.bin")
    out, err = capsys.readouterr()
    assert "f.bin" in out and "100%" in out and "315k/315k" in out
    assert err == ""


# --- interrupted and resumed


def test_goes_on_where_the_connection_broke(server, tmp_path):
    url = server.plan("/f", serve(stop=100_000), serve(stop=100_001), serve())
    assert fetch(url, tmp_path / "f.bin").read_bytes() == BODY
    assert server.ranges() == [None, "bytes=100000-", "bytes=200001-"]
    assert [h.get("If-Range") for _, h in server.log] == [None, '"v1"', '"v1"']


def test_goes_on_in_a_later_call(server, tmp_path):
    url = server.plan("/f", serve(stop=100_000), status(500), status(500), status(500), serve())
    with pytest.raises(DownloadError, match=r"315,139|0\.1 MB are kept"):
        fetch(url, tmp_path / "f.bin")
    assert left_over(tmp_path) == ["f.bin.part", "f.bin.part.json"]
    assert fetch(url, tmp_path / "f.bin").read_bytes() == BODY
    assert server.ranges()[-1] == "bytes=100000-"
    assert left_over(tmp_path) == ["f.bin"]


def test_many_breaks_are_fine_while_each_attempt_brings_something(server, tmp_path):
    url = server.plan("/f", serve(stop=40_000))
    assert fetch(url, tmp_path / "f.bin", tries=2).read_bytes() == BODY
    assert len(server.log) == 8


def test_killed_between_the_last_byte_and_the_name(server, tmp_path):
    url, path = server.plan("/f", serve()), tmp_path / "f.bin"
    (tmp_path / "f.bin.part").write_bytes(BODY)
    note = {"url": url, "validator": '"v1"', "total": len(BODY), "sha256": None}
    (tmp_path / "f.bin.part.json").write_text(json.dumps(note))
    assert fetch(url, path).read_bytes() == BODY
    assert server.ranges() == [f"bytes={len(BODY) - 1}-"]


def test_last_modified_serves_when_there_is_no_etag(server, tmp_path):
    date = "Tue, 01 Feb 2022 10:00:00 GMT"
    broken = serve(etag=None, stop=100_000, Last_Modified=date, heed_if_range=False)
    whole = serve(etag=None, Last_Modified=date, heed_if_range=False)
    assert fetch(server.plan("/f", broken, whole), tmp_path / "f.bin").read_bytes() == BODY
    assert server.log[1][1]["If-Range"] == date


@pytest.mark.parametrize("etag", [None, 'W/"v1"'], ids=["no validator", "weak ETag"])
def test_starts_over_when_the_server_cannot_vouch_for_its_file(server, tmp_path, etag):
    url = server.plan("/f", serve(etag=etag, stop=100_000), serve(etag=etag))
    assert fetch(url, tmp_path / "f.bin").read_bytes() == BODY
    assert server.ranges() == [None, None]


def test_starts_over_when_range_is_ignored(server, tmp_path):
    url = server.plan("/f", serve(stop=100_000), serve(ranges=False))
    assert fetch(url, tmp_path / "f.bin").read_bytes() == BODY
    assert server.ranges() == [None, "bytes=100000-"]


@pytest.mark.parametrize("heed", [True, False], ids=["If-Range heeded", "If-Range ignored"])
@pytest.mark.parametrize("length", [315_139, 200_003, 50_001])
def test_a_file_that_changed_between_attempts_is_not_glued(server, tmp_path, heed, length):
    new = bytes(reversed(BODY))[:length]
    changed = serve(new, etag='"v2"', heed_if_range=heed)
    url = server.plan("/f", serve(stop=100_000), changed)
    assert fetch(url, tmp_path / "f.bin").read_bytes() == new


def test_the_wrong_part_of_the_file_is_refused(server, tmp_path):
    url = server.plan("/f", serve(stop=100_000), serve(lie=7))
    with pytest.raises(DownloadError, match="another part of the file"):
        fetch(url, tmp_path / "f.bin")
    assert not (tmp_path / "f.bin").exists()


def test_a_spoiled_note_means_starting_over(server, tmp_path):
    (tmp_path / "f.bin.part").write_bytes(b"rubbish")
    (tmp_path / "f.bin.part.json").write_text('{"colour": "red"')
    assert fetch(server.plan("/f", serve()), tmp_path / "f.bin").read_bytes() == BODY


# --- a half is never taken for a whole


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_always_hangs_up_early(server, tmp_path, ranges):
    url = server.plan("/f", serve(stop=0 if ranges else 100_000, ranges=ranges))
    with pytest.raises(DownloadError, match="ended after [0-9,]+ of 315,139 bytes"):
        fetch(url, tmp_path / "f.bin")
    assert not (tmp_path / "f.bin").exists()


@pytest.mark.parametrize("chunked", [True, False])
def test_no_length_is_refused_unless_something_else_tells(server, tmp_path, chunked):
    url = server.plan("/f", without_length(BODY, chunked=chunked))
    with pytest.raises(DownloadError, match="does not say how long"):
        fetch(url, tmp_path / "f.bin")
    assert fetch(url, tmp_path / "by_size", size=len(BODY)).read_bytes() == BODY
    assert fetch(url, tmp_path / "by_sha", sha256=SHA).read_bytes() == BODY
    assert fetch(url, tmp_path / "by_check", check=ends_with_end).read_bytes() == BODY


@pytest.mark.parametrize("chunked", [True, False])
def test_a_half_without_length_is_noticed(server, tmp_path, chunked):
    url = server.plan("/f", without_length(BODY[:9_999], chunked=chunked, finished=False))
    for n, test in enumerate([{"size": len(BODY)}, {"sha256": SHA}, {"check": ends_with_end}]):
        with pytest.raises(DownloadError):
            fetch(url, tmp_path / str(n), **test)
        assert not (tmp_path / str(n)).exists()


def ends_with_end(path: Path) -> None:
    if not path.read_bytes().endswith(b"end"):
        raise ValueError("it does not end with 'end'")


# --- corrupted


def test_corrupted_once_then_right(server, tmp_path):
    bad = BODY[:5] + b"?" + BODY[6:]
    url = server.plan("/f", serve(bad), serve())
    assert fetch(url, tmp_path / "f.bin", sha256=SHA).read_bytes() == BODY


def test_corrupted_always_is_refused_and_an_old_file_stays(server, tmp_path):
    path = tmp_path / "f.bin"
    path.write_bytes(b"old")
    url = server.plan("/f", serve(BODY[:5] + b"?" + BODY[6:]))
    with pytest.raises(DownloadError, match=f"SHA-256 is [0-9a-f]{{12}}… instead of {SHA[:12]}"):
        fetch(url, path, sha256=SHA)
    assert path.read_bytes() == b"old"
    assert left_over(tmp_path) == ["f.bin"]
    assert len(server.log) == 2


def test_another_file_of_the_wrong_size_is_not_even_fetched(server, tmp_path):
    with pytest.raises(DownloadError, match="offers 315,139 bytes instead of 12"):
        fetch(server.plan("/f", serve()), tmp_path / "f.bin", size=12)


def test_a_log_in_page_instead_of_the_file(server, tmp_path):
    url = server.plan("/f", serve(b"<html>Welcome to the hotel's network</html>"))
    with pytest.raises(DownloadError, match="does not end with 'end'"):
        fetch(url, tmp_path / "f.bin", check=ends_with_end)
    assert left_over(tmp_path) == []


def test_compressed_on_the_way_is_refused(server, tmp_path):
    with pytest.raises(DownloadError, match="compressed"):
        fetch(server.plan("/f", serve(Content_Encoding="gzip")), tmp_path / "f.bin")


# --- refused, silent, slow, absent


def test_not_found_is_not_asked_for_twice(server, tmp_path):
    with pytest.raises(DownloadError, match="404 Not Found"):
        fetch(server.url + "/nothing", tmp_path / "f.bin")
    assert len(server.log) == 1


def test_server_errors_are_asked_again(server, tmp_path):
    url = server.plan("/f", status(500), status(429), serve())
    assert fetch(url, tmp_path / "f.bin").read_bytes() == BODY


def test_a_server_that_falls_silent(server, tmp_path):
    url = server.plan("/f", serve(stop=100_000, pause=2.0), serve())
    assert fetch(url, tmp_path / "f.bin", timeout=0.3).read_bytes() == BODY
    assert server.ranges()[1] == "bytes=100000-"


def test_a_server_that_drips_has_stalled(server, tmp_path):
    with pytest.raises(DownloadError, match=r"nothing came for 0\.3 s|fewer than"):
        fetch(server.plan("/f", drip()), tmp_path / "f.bin", timeout=0.3, tries=1)


def test_mirrors_in_order_and_a_dead_host_is_asked_about_one_file_only(server, tmp_path):
    dead = "http://127.0.0.1:9"  # the discard port: nobody listens
    good = server.plan("/f", serve())
    urls = [f"{dead}/a", f"{dead}/b", server.url + "/nothing", good]
    assert fetch(urls, tmp_path / "f.bin").read_bytes() == BODY
    with pytest.raises(DownloadError) as caught:
        fetch(urls[:3], tmp_path / "g.bin", tries=2)
    assert "/a (" in str(caught.value) and "/b" not in str(caught.value)
    assert "404 Not Found" in str(caught.value)


def test_another_mirror_goes_on_only_with_a_checksum(server, tmp_path):
    one = server.plan("/1", serve(stop=100_000), status(404))
    two = server.plan("/2", serve(etag='"other"'))
    assert fetch([one, two], tmp_path / "a.bin", sha256=SHA).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=100000-", "bytes=100000-"]
    one = server.plan("/1", serve(stop=100_000), status(404))
    assert fetch([one, two], tmp_path / "b.bin").read_bytes() == BODY
    assert server.ranges()[-1] is None


def test_the_error_is_one_paragraph_that_says_everything(server, tmp_path):
    with pytest.raises(DownloadError) as caught:
        fetch(server.url + "/nothing", tmp_path / "f.bin")
    text = str(caught.value)
    assert "\n" not in text
    for part in (server.url + "/nothing", "404", str(tmp_path / "f.bin"), "english_text()"):
        assert part in text
    assert "story_text()" in text


@pytest.mark.parametrize("url", ["ftp://example.org/f", "/etc/hosts", "file:///etc/hosts"])
def test_only_http_addresses(url, tmp_path):
    with pytest.raises(ValueError, match="http://"):
        fetch(url, tmp_path / "f.bin")


def test_no_address_at_all(tmp_path):
    with pytest.raises(ValueError, match="at least one URL"):
        fetch([], tmp_path / "f.bin")


# --- the disk


def test_no_room_is_said_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(layer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"needs 0\.3 MB more .* 1,000 bytes are free"):
        fetch(server.plan("/f", serve()), tmp_path / "f.bin")
    assert left_over(tmp_path) == []


def test_disk_full_in_the_middle_then_room_again(server, tmp_path, monkeypatch):
    url, real = server.plan("/f", serve()), layer._opened

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if self.file.tell() > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

    @layer.contextlib.contextmanager
    def opened(*arguments):
        with real(*arguments) as file:
            yield Full(file)

    monkeypatch.setattr(layer, "_opened", opened)
    with pytest.raises(DownloadError, match="the disk is full.*goes on where it stopped"):
        fetch(url, tmp_path / "f.bin")
    assert not (tmp_path / "f.bin").exists() and len(server.log) == 1
    monkeypatch.setattr(layer, "_opened", real)
    assert fetch(url, tmp_path / "f.bin").read_bytes() == BODY
    assert server.ranges()[-1].startswith("bytes=1")


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="could not be written"):
        fetch(server.plan("/f", serve()), tmp_path / "file" / "f.bin")


def test_two_processes_do_not_write_one_part(server, tmp_path):
    url, path = server.plan("/f", serve()), tmp_path / "f.bin"
    with layer._locked(path), pytest.raises(DownloadError, match="another process"):
        fetch(url, path)
    assert fetch(url, path).read_bytes() == BODY


def test_an_interrupt_keeps_what_came(server, tmp_path, monkeypatch):
    url, real = server.plan("/f", serve()), layer.tqdm

    class Interrupting(real):
        def update(self, n=1):
            super().update(n)
            if self.n > 100_000:
                raise KeyboardInterrupt

    monkeypatch.setattr(layer, "tqdm", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        fetch(url, tmp_path / "f.bin")
    monkeypatch.setattr(layer, "tqdm", real)
    assert fetch(url, tmp_path / "f.bin").read_bytes() == BODY
    assert int(server.ranges()[-1].split("=")[1][:-1]) > 100_000


# --- only the beginning


def test_only_the_first_bytes(server, tmp_path):
    url = server.plan("/f", serve(), serve(ranges=False))
    assert fetch(url, tmp_path / "a", first_bytes=70_001).read_bytes() == BODY[:70_001]
    assert fetch(url, tmp_path / "b", first_bytes=70_001).read_bytes() == BODY[:70_001]
    assert server.ranges() == ["bytes=0-70000", "bytes=0-70000"]


def test_first_bytes_of_a_shorter_file_and_resumed(server, tmp_path):
    url = server.plan("/f", serve(stop=100_000), serve())
    assert fetch(url, tmp_path / "a", first_bytes=10**9).read_bytes() == BODY
    url = server.plan("/g", serve(stop=50_000), serve())
    assert fetch(url, tmp_path / "b", first_bytes=70_001).read_bytes() == BODY[:70_001]
    assert server.ranges()[-1] == "bytes=50000-70000"


# --- the hub


def hub(server: Server, body: bytes = BODY, sha256: str = SHA) -> str:
    """Answer as the hub does: a redirect that carries the checksum, then the bytes."""
    server.plan("/bytes", serve(body))
    path = "/datasets/someone/words/resolve/main/words.txt"
    server.plan(path, status(302, Location="/bytes", X_Linked_ETag=f'"{sha256}"'))
    return path


def test_hub_mirror_by_environment_and_its_checksum(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    wanted = hub(server)
    path = hub_file("someone/words", "words.txt", repo_type="dataset", timeout=5.0, pause=0.01)
    assert path.read_bytes() == BODY and server.log[0][0] == wanted
    assert path.relative_to(tmp_path).as_posix() == "downloads/someone--words/main/words.txt"


def test_hub_file_that_is_not_what_the_hub_published(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    hub(server, BODY[:-1] + b"?")
    with pytest.raises(DownloadError, match="SHA-256"):
        hub_file("someone/words", "words.txt", repo_type="dataset", timeout=5.0, pause=0.01)


def test_hub_offline_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE forbids.*english_text"):
        hub_file("someone/words", "words.txt")


def test_mirrors_from_the_environment(monkeypatch):
    assert mirrors("GUTENBERG_MIRROR", "https://a") == ["https://a"]
    monkeypatch.setenv("GUTENBERG_MIRROR", " https://b/ , http://c:8080/d")
    assert mirrors("GUTENBERG_MIRROR", "https://a") == ["https://b", "http://c:8080/d"]
