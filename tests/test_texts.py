"""Texts to train on: collected English, the reader's own files, books and stories."""

from __future__ import annotations

import re

import pytest

from shared import texts
from shared.download import DownloadError
from shared.texts import english_text, gutenberg_book, paragraphs_of_prose, text_from, tiny_stories
from tests.test_download import Server, serve, server, status  # noqa: F401

LICENCE = "THIS IS THE LICENCE. " * 20
BOOK = (
    "\ufeffThe Project Gutenberg eBook of A Pond\r\n\r\n" + LICENCE + "\r\n\r\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK A POND ***\r\n\r\n"
    "Produced by a friend\r\nof ponds.\r\n\r\n\r\n"
    "A POND\r\n\r\nOnce there was a café by a pond.\r\n\r\nThe end.\r\n\r\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK A POND ***\r\n\r\n" + LICENCE
)


# --- english_text


def test_there_are_a_few_megabytes_of_prose():
    text = english_text()
    assert len(text.encode()) > 3_000_000
    words = re.findall("[a-z]+", text.lower())
    assert 0.04 < words.count("the") / len(words) < 0.12
    assert not re.search(r">>>|```|:func:|://|\\", text)


def test_every_paragraph_comes_once_and_is_a_sentence():
    paragraphs = english_text().split("\n\n")
    assert len(paragraphs) == len(set(paragraphs))
    assert all(re.search(r"[.!?][\"')]?$", p) for p in paragraphs)
    assert all(p == p.strip() and "\n" not in p for p in paragraphs)


def test_a_beginning_is_a_beginning_and_long_enough():
    small, large = english_text(100_003), english_text(300_001)
    assert large.startswith(small)
    assert 100_003 <= len(small.encode()) < 130_000
    assert english_text(300_001) == large


def test_the_order_is_made_from_the_documents_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(texts, "PACKAGES", {"tqdm": "tqdm", "no_such_package": "no-such-package"})
    monkeypatch.setattr(texts.sysconfig, "get_path", lambda _: str(tmp_path / "nowhere"))
    first = english_text()
    for file in (tmp_path / "texts").iterdir():
        file.unlink()
    assert english_text() == first and "progress" in first
    for document in first.split("\n\n")[:5]:
        assert document


def test_splits_share_no_document_and_make_the_whole():
    bar = "\x00"
    parts = {s: english_text(split=s, separator=bar).split(bar) for s in ("train", "validation")}
    whole = english_text(separator=bar).split(bar)
    assert not set(parts["train"]) & set(parts["validation"])
    assert sorted(parts["train"] + parts["validation"]) == sorted(whole)
    assert 0.05 < len(parts["validation"]) / len(whole) < 0.15


def test_more_than_there_is_and_unknown_split():
    with pytest.raises(ValueError, match=r"1,000,000,000 bytes asked for.*story_text"):
        english_text(10**9)
    with pytest.raises(ValueError, match="split='test'"):
        english_text(split="test")


@pytest.mark.parametrize(
    ("raw", "prose"),
    [
        (
            "Rolls a :class:`~a.b.Tensor` along a ``dim`` [1]_ of it,\n"
            "and *all* of its many long rows.",
            "Rolls a Tensor along a dim of it, and all of its many long rows.",
        ),
        (
            "Read [the guide](http://x.org/y) before you use any of `these`, as it is quite short.",
            "Read the guide before you use any of these, as it is quite short.",
        ),
        (
            "- A first point that is on\n  two lines, as it is of some length.\n- no.",
            "A first point that is on two lines, as it is of some length.",
        ),
        (
            "Notes\n-----\nThe “order” of the rows in it is kept — as it was when it came in.",
            'The "order" of the rows in it is kept - as it was when it came in.',
        ),
    ],
)
def test_marks_are_taken_away(raw, prose):
    assert paragraphs_of_prose(raw) == [prose]


@pytest.mark.parametrize(
    "raw",
    [
        "Too short to be of any use.",
        ">>> print('The quick brown fox jumps over the lazy dog and it is on the run.')",
        "It is so::\n\n    The code is here and it is not to be in the text that we want to have.",
        ".. math::\n\n    The sum of all the parts is as large as the whole of it is.",
        "```\nThe code is here and it is not to be in the text that we want to have at all.\n```",
        "x : array of the size that is in the table, or the one that is given to it as a default.",
        "| The | table | is | a | row | of | it | and | is | not | to | be | in | the | text |.",
        "THE SOFTWARE IS PROVIDED AS IS AND IN NO EVENT SHALL ANY OF THE AUTHORS BE LIABLE TO YOU.",
        "Alpha, beta, gamma, delta, epsilon, zeta, eta, theta, iota, kappa, lambda.",
    ],
)
def test_what_is_no_prose_is_left_out(raw):
    assert paragraphs_of_prose(raw) == []


def test_strings_are_found_without_running_the_module(tmp_path):
    module = tmp_path / "m.py"
    quotes = '"""'
    module.write_text(
        f"raise SystemExit  # an apostrophe's {quotes} trap\n"
        f"x = '{quotes}'\n"
        f"def f():\n    {quotes}\\\n    {'A line of the docstring. ' * 5}\n    {quotes}\n"
        f"y = f{quotes}{'{x} is not a text of its own. ' * 5}{quotes}\n"
    )
    assert texts._strings(module) == [("A line of the docstring. " * 5).strip()]


# --- text_from


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings(tmp_path, encoding, capsys):
    (tmp_path / "a.txt").write_bytes("Zoë said:\r\n“Où?”\rFin.".encode(encoding))
    assert text_from(tmp_path / "a.txt") == "Zoë said:\n“Où?”\nFin."
    assert ("Windows-1252" in capsys.readouterr().out) == (encoding == "cp1252")


def test_a_named_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes("Жил-был пруд.".encode("cp1251"))
    assert text_from(tmp_path / "a.txt", encoding="cp1251") == "Жил-был пруд."
    with pytest.raises(ValueError, match="could not be read as utf-8"):
        text_from(tmp_path / "a.txt", encoding="utf-8")
    with pytest.raises(ValueError, match="klingon"):
        text_from(tmp_path / "a.txt", encoding="klingon")


def test_a_folder_in_order_without_the_hidden(tmp_path):
    for name in ("b.txt", "a/z.md", ".hidden/c.txt", "a/.d.txt", "e.py", "f.TXT"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty.txt").touch()
    assert text_from(tmp_path) == "a/z.md\n\nb.txt\n\nf.TXT"
    assert text_from(tmp_path, suffixes=[".py"], separator="") == "e.py"


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "a.txt").write_text("mine")
    assert text_from("~/a.txt") == "mine"


def test_clear_errors(tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(FileNotFoundError, match="Did you mean .*diary.txt"):
        text_from(tmp_path / "dairy.txt")
    with pytest.raises(FileNotFoundError, match="folder .* is not there either"):
        text_from(tmp_path / "no" / "dairy.txt")
    (tmp_path / "blank.txt").write_text(" \n ")
    with pytest.raises(ValueError, match="blank.txt is empty"):
        text_from(tmp_path / "blank.txt")
    for name, data in {"p.docx": b"PK\x03\x04\0\0\0", "q.txt": bytes(range(128, 160)) * 9}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} is not a text file"):
            text_from(tmp_path / name)
    (tmp_path / "sub").mkdir()
    with pytest.raises(ValueError, match="holds no file that ends in .md, .rst"):
        text_from(tmp_path / "sub")
    (tmp_path / "sub" / "x.txt").touch()
    with pytest.raises(ValueError, match="holds 1 text files, all empty"):
        text_from(tmp_path / "sub")


# --- from the network (a server on this machine)


@pytest.fixture
def mirror(server: Server, monkeypatch, tmp_path) -> Server:  # noqa: F811
    monkeypatch.setenv("GUTENBERG_MIRROR", server.url)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    return server


def test_a_book_without_its_licence_fetched_once(mirror):
    mirror.plan("/cache/epub/123/pg123.txt", serve(BOOK.encode()), status(500))
    text = "A POND\n\nOnce there was a café by a pond.\n\nThe end.\n"
    assert gutenberg_book(123) == text
    assert gutenberg_book(123) == text
    assert len(mirror.log) == 1


@pytest.mark.parametrize("place", ["/1/2/123/123-8.txt", "/files/123/123-0.txt"])
def test_a_book_elsewhere_on_a_mirror_in_another_encoding(mirror, place):
    mirror.plan(place, serve(BOOK.removeprefix("\ufeff").encode("latin-1")))
    assert "café" in gutenberg_book(123)


def test_older_marks_of_the_licence():
    old = (
        "x\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\nThe tale.\n\n\n"
        "End of The Project Gutenberg Etext of A Tale\n\nmore"
    )
    assert texts._without_licence(old) == "The tale.\n"
    this = "*** START OF THIS PROJECT GUTENBERG EBOOK\nA LONG TITLE ***\n\nIt.\n\n"
    assert texts._without_licence(this + "*** END OF THIS PROJECT GUTENBERG EBOOK") == "It.\n"


def test_half_a_book_and_a_log_in_page_are_refused(mirror):
    mirror.plan("/cache/epub/5/pg5.txt", serve(BOOK.encode()[:600]))
    with pytest.raises(DownloadError, match="the book's end is missing"):
        gutenberg_book(5)
    mirror.plan("/cache/epub/6/pg6.txt", serve(b"<html>Welcome to our network</html>"))
    with pytest.raises(DownloadError, match="no book of Project Gutenberg.*english_text"):
        gutenberg_book(6)


@pytest.mark.parametrize("number", [0, -3, "11", 1.0, True])
def test_not_a_book_number(number):
    with pytest.raises(ValueError, match="no book's number"):
        gutenberg_book(number)


STORIES = "".join(f"Story {i} of Zoë, who swam.\n{texts.END_OF_STORY}\n" for i in range(4000))
HUB = "/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-{}.txt"


@pytest.mark.parametrize("num_bytes", [1, 41, 42, 43, 5_000, 10**6])
def test_whole_stories_and_no_more_fetched_than_needed(mirror, num_bytes):
    mirror.plan(HUB.format("train"), serve(STORIES.encode()))
    text = tiny_stories(num_bytes)
    assert STORIES.startswith(text) and text.endswith(texts.END_OF_STORY + "\n")
    size = len(text.encode())
    assert num_bytes <= size + 1 < num_bytes + 60 or text == STORIES
    assert mirror.log[0][1]["Range"] == f"bytes=0-{num_bytes + 20_000 - 1}"


def test_story_splits_and_bad_arguments(mirror):
    mirror.plan(HUB.format("valid"), serve(STORIES.encode()))
    assert tiny_stories(100, split="validation").startswith("Story 0")
    with pytest.raises(ValueError, match="split='valid'"):
        tiny_stories(split="valid")
    with pytest.raises(ValueError, match="num_bytes=0"):
        tiny_stories(0)


def test_a_page_that_is_no_stories(mirror):
    mirror.plan(HUB.format("train"), serve(b"<html>Please log in</html>"))
    with pytest.raises(DownloadError, match="holds no <|endoftext|>"):
        tiny_stories(100)
