"""Text to train on: real English without a download, your own files, and two public libraries.

`english_text` collects prose from the documentation of the packages that the course needs
anyway. `text_from` reads your files. `gutenberg_book` and `tiny_stories` need a network once.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from inspect import cleandoc
from pathlib import Path

from tqdm import tqdm

from shared.artifacts import artifact_path, artifacts_folder, written_whole
from shared.download import download, hub_file, mirrors

# Packages that requirements.txt brings along, by import name: distribution name. A fixed list,
# so that whatever else is installed does not change the text.
PACKAGES = {
    "IPython": "ipython", "PIL": "pillow", "_pytest": "pytest", "anyio": "anyio",
    "asttokens": "asttokens", "attr": "attrs", "babel": "babel", "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil", "fontTools": "fonttools", "fsspec": "fsspec",
    "httpx": "httpx", "huggingface_hub": "huggingface_hub", "ipykernel": "ipykernel",
    "ipywidgets": "ipywidgets", "jedi": "jedi", "jinja2": "jinja2",
    "jsonschema": "jsonschema", "jupyter_client": "jupyter_client",
    "jupyter_core": "jupyter_core", "jupyter_server": "jupyter_server",
    "jupyterlab": "jupyterlab", "markdown_it": "markdown-it-py", "matplotlib": "matplotlib",
    "mistune": "mistune", "mpmath": "mpmath", "nbclient": "nbclient",
    "nbconvert": "nbconvert", "nbformat": "nbformat", "networkx": "networkx",
    "numpy": "numpy", "packaging": "packaging", "pandas": "pandas", "parso": "parso",
    "pexpect": "pexpect", "platformdirs": "platformdirs", "pluggy": "pluggy",
    "prompt_toolkit": "prompt_toolkit", "pygments": "pygments", "pyparsing": "pyparsing",
    "requests": "requests", "rich": "rich", "safetensors": "safetensors",
    "setuptools": "setuptools", "soupsieve": "soupsieve", "sympy": "sympy",
    "tiktoken": "tiktoken", "torch": "torch", "tornado": "tornado", "tqdm": "tqdm",
    "traitlets": "traitlets", "urllib3": "urllib3", "zmq": "pyzmq",
}  # fmt: skip
RECIPE = 1  # raise it when the rules below change, so that an old collection is not found
SKIPPED_FOLDERS = {"test", "tests", "testing", "_vendor", "site-packages", "lib2to3", "idlelib"}
DOCUMENT = 1000  # bytes: docstrings of one file are joined until they are about this long
BETWEEN = "\n\x1e\n"  # between documents in the collected file
SUFFIXES = (".txt", ".md", ".rst", ".text")

ROLE = re.compile(r":[a-z:]+:`([^`<]*?)(?:\s*<[^`>]*>)?`|`([^`<]+?)\s*<[^`>]*>`_{0,2}")
LINK = re.compile(r"!\[[^]]*\]\([^)]*\)|\[([^]]+)\](?:\([^)]*\)|\[[^]]*\])")
NOTE = re.compile(r"\s*\[[0-9#*a-zA-Z]{1,12}\]_")
BULLET = re.compile(r"(\s*)(?:[-*+•]|\(?\d{1,2}[.)])\s+(?=\S)")
# Comments and short strings are matched too, so that a quotation mark in one opens nothing.
TEXT = re.compile(
    r"""#[^\n]*|(?:[rRfFbBuU]{0,2})(\"{3}|'{3})((?s:\\.|[^\\])*?)\1"""
    r"""|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
)
RULE = re.compile(r"[-=~^*+#\"'.]{3,}")
WORD = re.compile(r"[(\"']*[A-Za-z][a-z]*(?:['-][A-Za-z]+)*[)\"']*[.,;:!?]*[)\"']*")
COMMON = frozenset(
    "a an and are as at be been but by can do each for from has have if in into is it its may "
    "more no not of on one only or other same so some such than that the their them then there "
    "these they this to two used was when where which will with you your".split()
)
PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "...", "\xa0": " "})  # noqa: E501  # fmt: skip


def english_text(
    num_bytes: int | None = None, *, split: str = "all", separator: str = "\n\n"
) -> str:
    """Real English with no download: prose from the documentation of installed packages.

    The order is fixed, and documents of all packages are mixed, so that a beginning is a
    sample of the whole. The first call collects for about half a minute; later ones read the
    collected file.

    Args:
        num_bytes: whole documents until at least this many bytes (UTF-8); None for all.
        split: "train" (nine tenths of the documents), "validation" (the others), or "all".
        separator: what stands between two documents.

    Raises:
        ValueError: more was asked for than there is, or an unknown split.

    Example:
        >>> text = english_text(num_bytes=1_000_000)
    """
    if split not in ("all", "train", "validation"):
        raise ValueError(f'english_text: split={split!r}; expected "all", "train" or "validation"')
    chosen, length = [], 0
    for document in _collected():
        if split != "all" and (int(_order(document), 16) % 10 == 0) != (split == "validation"):
            continue
        if num_bytes is not None and length >= num_bytes:
            break
        length += len((separator if chosen else "").encode()) + len(document.encode())
        chosen.append(document)
    if num_bytes is not None and length < num_bytes:
        raise ValueError(
            f"english_text: {num_bytes:,} bytes asked for, and the documentation on this machine "
            f"holds {length:,} (split {split!r}). Ask for fewer, or for all with num_bytes=None; "
            "story_text() in shared.stories has no end."
        )
    return separator.join(chosen)


def text_from(
    path_or_folder: str | Path,
    *,
    encoding: str | None = None,
    suffixes: Iterable[str] = SUFFIXES,
    separator: str = "\n\n",
) -> str:
    """The text of a file of yours, or of all text files in a folder and its folders, in order.

    UTF-8, UTF-16 and UTF-32 are recognised; anything else is read as Windows-1252, and said.
    Line ends become "\\n".

    Args:
        encoding: of the files, if you know it.
        suffixes: of the files that count in a folder. Hidden files and folders do not.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no text in it: empty, not a text file, or not in the given encoding.

    Example:
        >>> text = text_from("~/my_diary")
    """
    path = Path(path_or_folder).expanduser()
    if path.is_dir():
        kinds = {s.lower() for s in suffixes}
        files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in kinds and p.is_file()]
        files = [p for p in files if not _hidden(p.relative_to(path))]
        if not files:
            raise ValueError(f"{path} holds no file that ends in {', '.join(sorted(kinds))}")
    elif path.exists():
        files = [path]
    else:
        raise FileNotFoundError(f"there is no {path} (looked in {Path.cwd()}).{_neighbour(path)}")
    texts = [t for t in (_read_text(file, encoding) for file in files) if t.strip()]
    if not texts:
        what = "is empty" if path.is_file() else f"holds {len(files)} text files, all empty"
        raise ValueError(f"{path} {what}; there is nothing to read")
    return separator.join(texts)


def gutenberg_book(number: int) -> str:
    """A book of Project Gutenberg by its number, without the licence before and after it.

    It is fetched once and kept. `GUTENBERG_MIRROR` names one or more other servers.

    Raises:
        ValueError: not a book's number.
        DownloadError: it could not be fetched.

    Example:
        >>> alice = gutenberg_book(11)
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(
            f"gutenberg_book: {number!r} is no book's number; expected a whole number such as 11, "
            "the last part of the address of a book's page on gutenberg.org"
        )
    digits = "/".join(str(number)[:-1]) or "0"
    places = [
        f"cache/epub/{number}/pg{number}.txt",
        f"ebooks/{number}.txt.utf-8",
        f"files/{number}/{number}-0.txt",
        f"{digits}/{number}/{number}-0.txt",
        f"{digits}/{number}/{number}-8.txt",
        f"{digits}/{number}/{number}.txt",
    ]
    servers = mirrors("GUTENBERG_MIRROR", "https://www.gutenberg.org")
    path = artifacts_folder() / "downloads" / "gutenberg" / f"{number}.txt"
    urls = [f"{server}/{place}" for server in servers for place in places]
    return _without_licence(_read_text(download(urls, path, check=_is_whole_book), None))


def tiny_stories(num_bytes: int = 2_000_000, *, split: str = "train") -> str:
    """Whole stories of TinyStories (Eldan & Li 2023, written by GPT-4), at least `num_bytes`
    of them or all there are.

    Only that much is fetched, once. Between stories stands `<|endoftext|>` on its own line.
    `HF_ENDPOINT` names a mirror of the Hugging Face hub.

    Args:
        split: "train" (2.2 GB in all) or "validation" (22 MB in all).

    Raises:
        ValueError: an unknown split, or a number of bytes below 1.
        DownloadError: it could not be fetched.

    Example:
        >>> text = tiny_stories(500_000)
    """
    if split not in ("train", "validation"):
        raise ValueError(f'tiny_stories: split={split!r}; expected "train" or "validation"')
    if num_bytes < 1:
        raise ValueError(f"tiny_stories: num_bytes={num_bytes}; expected at least 1")
    name = f"TinyStoriesV2-GPT4-{'train' if split == 'train' else 'valid'}.txt"
    slack = 20_000  # longer than any story, so that the last one can be whole
    path = hub_file(
        "roneneldan/TinyStories",
        name,
        repo_type="dataset",
        first_bytes=num_bytes + slack,
        check=_has_stories,
    )
    with open(path, "rb") as file:
        data = file.read(num_bytes + slack)
    if len(data) < num_bytes:  # that is all there is
        return data.decode("utf-8", errors="replace")
    mark = END_OF_STORY.encode()
    last = data.find(mark, max(0, num_bytes - len(mark)))
    last = last if last >= 0 else data.rfind(mark)
    return data[: last + len(mark)].decode("utf-8", errors="replace") + "\n"


END_OF_STORY = "<|endoftext|>"


# --- english_text: where the words come from, and what counts as prose


def _collected() -> list[str]:
    """All documents, from the file of an earlier call if nothing was installed since."""
    versions = {name: _version(name) for name in sorted(PACKAGES.values())}
    path = artifact_path("texts/english.txt", RECIPE, platform.python_version(), versions)
    if not path.is_file():
        documents = sorted(set(_documents()), key=_order)
        with written_whole(path) as temporary:
            temporary.write_text(BETWEEN.join(documents), encoding="utf-8", newline="\n")
    return path.read_text(encoding="utf-8").split(BETWEEN)


def _order(document: str) -> str:
    """Mixes the documents, always in the same way, whatever else is installed."""
    return hashlib.md5(document.encode(), usedforsecurity=False).hexdigest()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _documents() -> Iterator[str]:
    """Prose documents of about `DOCUMENT` bytes; no paragraph comes twice."""
    seen: set[str] = set()
    files = [*_sources()]
    bar = tqdm(files, desc="collecting English", unit="file", file=sys.stdout, delay=0.5)
    for path in bar:
        gathered: list[str] = []
        for raw in _strings(path):
            for paragraph in paragraphs_of_prose(raw):
                # The first sixty letters: near-copies of a paragraph are copies too.
                key = re.sub("[^a-z]", "", paragraph.lower())[:60]
                if key not in seen:
                    seen.add(key)
                    gathered.append(paragraph)
            if sum(map(len, gathered)) >= DOCUMENT:
                yield "\n\n".join(gathered)
                gathered = []
        if sum(map(len, gathered)) >= DOCUMENT // 4:
            yield "\n\n".join(gathered)


def _sources() -> Iterator[Path]:
    """Every file that may hold documentation, in a fixed order."""
    folders = [Path(sysconfig.get_path("stdlib"))]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)  # finds without importing
        for place in (spec.submodule_search_locations or []) if spec else []:
            folders.append(Path(place))
    for folder in folders:
        yield from _files(folder)
    for name in PACKAGES.values():
        for file in (importlib.metadata.files(name) or []) if _version(name) else []:
            if file.name == "METADATA":
                yield Path(file.locate())


def _files(folder: Path) -> Iterator[Path]:
    for place, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
        yield from (Path(place, n) for n in sorted(names) if n.endswith((".py", ".rst", ".md")))


def _strings(path: Path) -> list[str]:
    """The triple-quoted texts of a module, without importing it; or a page's text."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    if path.suffix != ".py":
        return [source]
    texts = (m[2] for m in TEXT.finditer(source) if m[2] and not m[0].startswith(("f", "F")))
    return [cleandoc(text.removeprefix("\\\n")).strip() for text in texts if len(text) > 80]


def paragraphs_of_prose(raw: str) -> list[str]:
    """The paragraphs of a docstring or a README that are plain English sentences.

    Code, tables, signatures, headings, lists of arguments and mathematics are left out, and
    the marks of reStructuredText and Markdown with them.

    Example:
        >>> paragraphs_of_prose("The ``sum`` of all the numbers in a list that you gave to it.")
        ['The sum of all the numbers in a list that you gave to it.']
    """
    found, block, depth, code = [], [], 0, None
    fenced = False
    for line in [*raw.expandtabs().splitlines(), ""]:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text.startswith(("```", "~~~")):
            fenced, text = not fenced, ""
        if code is not None and text and indent <= code:
            code = None
        if block and RULE.fullmatch(text):  # the block was a heading
            block, text = [], ""
        bullet = BULLET.match(line)
        ends = not text or fenced or code is not None or bullet or (block and indent != depth)
        if ends and block:
            found.append(" ".join(block))
            block = []
        if not text or fenced or code is not None:
            continue
        if text.startswith((".. math", ".. code", ".. plot", ".. ipython", ".. doctest", ">>>")):
            code = indent - (1 if text.startswith(">>>") else 0)
        elif text.startswith(".. "):
            continue
        else:
            block.append(text[bullet.end() - indent :] if bullet else text)
            depth = bullet.end() if bullet else indent
            if text.endswith("::"):
                code = indent
    return [p for p in map(_plain, filter(_may_be_prose, found)) if _is_prose(p)]


def _plain(paragraph: str) -> str:
    text = paragraph.translate(PLAIN)
    text = ROLE.sub(lambda m: (m[1] or m[2] or "").split(".")[-1].lstrip("~!"), text)
    text = NOTE.sub("", LINK.sub(lambda m: m[1] or "", text))
    text = re.sub(r"``?([^`]+)``?", r"\1", text)
    text = re.sub(r"(?<![\w*])\*{1,2}([^*\s][^*]*)\*{1,2}(?![\w*])", r"\1", text)
    return re.sub(r"\s+", " ", text).strip()


def _may_be_prose(text: str) -> bool:
    """A quick look before the marks are cleaned away, which takes longer."""
    return len(text) >= 60 and text[0] in "\"'(ABCDEFGHIJKLMNOPQRSTUVWXYZ*`:[“"


def _is_prose(text: str) -> bool:
    if not 60 <= len(text) <= 3000 or not re.match(r"[\"'(]?[A-Z]", text):
        return False
    if not re.search(r"[.!?][\"')]?$", text) or re.search(
        r"[\\|{}<>=@#`_~$^]|://|\*\*|\.\.\.\.", text
    ):
        return False
    words = text.split()
    whole = sum(bool(WORD.fullmatch(w)) for w in words)
    common = sum(w.strip("(\"'.,;:!?)").lower() in COMMON for w in words)
    return len(words) >= 10 and whole >= 0.85 * len(words) and common >= 0.25 * len(words)


# --- text_from: encodings and clear errors


def _read_text(path: Path, encoding: str | None) -> str:
    data = path.read_bytes()
    marks = [
        (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ]  # fmt: skip
    marked = next((name for mark, name in marks if data.startswith(mark)), None)
    if encoding is None and marked is None and b"\0" in data[:100_000]:
        raise ValueError(
            f"{path} is not a text file (it holds zero bytes). Save it as plain text: most "
            'programs offer that under "Save as" or "Export".'
        )
    try:
        text = data.decode(encoding or marked or "utf-8")
    except (UnicodeDecodeError, LookupError) as error:
        if encoding or marked:
            raise ValueError(f"{path} could not be read as {encoding or marked}: {error}") from None
        text = data.decode("cp1252", errors="replace")
        strange = sum(not (c.isprintable() or c in "\n\r\t\f\v") for c in text[:100_000])
        strange += text[:100_000].count("\ufffd")
        if strange > 0.01 * min(len(text), 100_000):
            raise ValueError(
                f"{path} is not a text file, or in an encoding that was not recognised. Save it "
                'as plain text in UTF-8, or name its encoding, as in encoding="cp1251".'
            ) from None
        print(f"{path.name} is not UTF-8: read as Windows-1252. If letters look wrong, name the")
        print('encoding, as in text_from(..., encoding="cp1251").')
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _neighbour(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} is not there either."
    close = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 1)
    return f" Did you mean {path.parent / close[0]}?" if close else ""


# --- books and stories from the network


BEGIN = re.compile(
    r"^\s*\*{3}\s*START OF (?:THE|THIS) PROJECT GUTENBERG[^\n]*(?:\n[^\n]+)*?\*{3}\s*$"
    r"|^\*END\*?\s*THE SMALL PRINT[^\n]*\*END\*\s*$",
    re.MULTILINE | re.IGNORECASE,
)
END = re.compile(
    r"^\s*\*{3}\s*END OF (?:THE|THIS) PROJECT GUTENBERG"
    r"|^\s*End of (?:the |this )?Project Gutenberg",
    re.MULTILINE | re.IGNORECASE,
)
CREDITS = re.compile(r"\A(?:\s*(?:Produced by|E-?text prepared by|Credits:)[^\n]*(?:\n[^\n]+)*\n)")


def _without_licence(text: str) -> str:
    """The book between Project Gutenberg's marks, without the line of credits."""
    starts = [m.end() for m in BEGIN.finditer(text)]
    text = text[starts[-1] :] if starts else text
    end = END.search(text)
    text = text[: end.start()] if end else text
    return CREDITS.sub("", text).strip() + "\n"


def _is_whole_book(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")
    if "gutenberg" not in text[:20_000].lower():
        raise ValueError("it is no book of Project Gutenberg (a log-in page, perhaps)")
    if not END.search(text):
        raise ValueError("the book's end is missing")


def _has_stories(path: Path) -> None:
    with open(path, "rb") as file:
        if END_OF_STORY.encode() not in file.read(100_000):
            raise ValueError(f"it holds no {END_OF_STORY} (a log-in page, perhaps)")
