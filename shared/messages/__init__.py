"""Short messages, spam and not: written by hand for this course, or the real SMS Spam Collection.

`messages` needs no network. Half of its messages are spam; a part of each half is hard, since
it sounds like the other. Names, firms and numbers are invented or kept for films and books.
`sms_spam_collection` fetches messages that people really had on their phones.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.artifacts import artifacts_folder
from shared.download import download, mirrors

__all__ = ["Message", "messages", "near_duplicates", "sms_spam_collection", "split_messages"]

FILE = Path(__file__).with_name("messages.tsv")
LABELS = {"ham": False, "spam": True}
SLUG = re.compile("[a-z]+(_[a-z]+)*")
GRAM = 5  # letters; long enough that a shared one is seldom chance

# The same file, zipped by its keepers and plain.
ADDRESSES = (
    "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
    "https://archive.ics.uci.edu/ml/machine-learning-databases/00228/smsspamcollection.zip",
    "https://raw.githubusercontent.com/justmarkham/pycon-2016-tutorial/master/data/sms.tsv",
)
MEMBER = "SMSSpamCollection"
LEAST = 5_000  # lines: the collection has 5,574, copies of it may lack a few
WITHOUT_NETWORK = (
    "No network is needed for messages() in shared.messages: its messages, half of them spam, "
    "come with the course."
)


@dataclass(frozen=True)
class Message:
    """A short message; `kind` is what it is about, such as "parcel" or "family"."""

    text: str
    is_spam: bool
    kind: str


def messages() -> list[Message]:
    """All messages that were written for this course, half of them spam, in mixed order.

    No two are alike (see `near_duplicates`). Links end in `.example`, which is nobody's, and
    numbers are those that are kept for films and books.

    Raises:
        ValueError: the file that holds them is damaged; says where.

    Example:
        >>> [m.text for m in messages() if m.kind == "pets"][0]
    """
    return _read(FILE)


def split_messages(
    every: Sequence[Message], train: float = 0.7, validation: float = 0.1, seed: int = 0
) -> tuple[list[Message], list[Message], list[Message]]:
    """Three lists without overlap (train, validation, test), each with the same share of spam.

    Who goes where depends on the texts and the seed, not on the order of `every`. Of each label
    `train` and `validation` go to the first two lists, to the nearest whole number; the rest is
    the test.

    Args:
        train, validation: shares, above 0 and together below 1.

    Raises:
        ValueError: impossible shares, or so few messages that a list would lack a label.

    Example:
        >>> train, validation, test = split_messages(messages())
    """
    if not (train > 0 and validation > 0 and train + validation < 1):
        raise ValueError(
            f"split_messages: train={train}, validation={validation}; expected two shares above 0 "
            "that leave something for the test, such as 0.7 and 0.1"
        )
    if not every:
        raise ValueError("split_messages: no messages given; expected some, as from messages()")

    def order(message: Message) -> bytes:
        return hashlib.sha256(f"{seed}\n{message.text}".encode()).digest()

    mixed = sorted(every, key=order)
    parts: tuple[list[Message], ...] = ([], [], [])
    for is_spam in sorted({m.is_spam for m in every}):
        group = [m for m in mixed if m.is_spam == is_spam]
        first, second = (round(share * len(group)) for share in (train, train + validation))
        pieces = group[:first], group[first:second], group[second:]
        if not all(pieces):
            sizes = ", ".join(str(len(piece)) for piece in pieces)
            raise ValueError(
                f"split_messages: {len(group)} {'spam' if is_spam else 'ham'} messages would be "
                f"split into {sizes}; expected at least 1 in each of train, validation and test. "
                "Give more messages or other shares."
            )
        for part, piece in zip(parts, pieces, strict=True):
            part.extend(piece)
    # By the digests' ends: by their beginnings a list would start with messages of one label only.
    first, second, rest = (sorted(part, key=lambda m: order(m)[::-1]) for part in parts)
    return first, second, rest


def near_duplicates(texts: Sequence[str], threshold: float = 0.5) -> list[tuple[int, int, float]]:
    """Pairs of texts that share much: (i, j, similarity), i < j, in order.

    The similarity is Jaccard's: of all runs of five letters that stand in either text, the share
    that stands in both, whatever the capitals and the width of spaces. Exact, every pair.

    Args:
        threshold: the least similarity that counts, above 0 and at most 1.

    Example:
        >>> near_duplicates(["See you at the gate", "see you at the gate x", "Home by six"])
        [(0, 1, 0.8823529411764706)]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"near_duplicates: threshold={threshold}; expected above 0, at most 1")
    grams = [_grams(text) for text in texts]
    holders: defaultdict[str, list[int]] = defaultdict(list)  # gram -> texts before this one
    pairs = []
    for j, own in enumerate(grams):
        shared: Counter[int] = Counter()
        for gram in own:
            shared.update(holders[gram])
            holders[gram].append(j)
        for i, both in shared.items():
            similarity = both / (len(own) + len(grams[i]) - both)
            if similarity >= threshold:
                pairs.append((i, j, similarity))
    return sorted(pairs)


def sms_spam_collection() -> list[Message]:
    """The SMS Spam Collection: 5,574 real messages in English, 747 of them spam.

    They are fetched once and kept. `SMS_SPAM_MIRROR` names one or more other addresses of the
    file, zipped or plain. The messages are as people wrote them, coarse ones too; some come more
    than once, and marks such as `&lt;#&gt;` stand where their collectors hid a number.

    Raises:
        DownloadError: they could not be fetched.

    Source: Almeida, Gómez Hidalgo and Yamakami 2011, Contributions to the Study of SMS Spam
        Filtering; UCI Machine Learning Repository, https://doi.org/10.24432/C5CC84, CC BY 4.0.

    Example:
        >>> spam = [m for m in sms_spam_collection() if m.is_spam]
    """
    urls = [url for url in mirrors("SMS_SPAM_MIRROR", "") if url] or ADDRESSES
    path = artifacts_folder() / "downloads" / "sms_spam_collection" / MEMBER
    return _collection(download(urls, path, check=_collection, advice=WITHOUT_NETWORK))


# --- the files


def _read(path: Path) -> list[Message]:
    """The messages of a file with `label<TAB>kind<TAB>text` on each line."""
    found: dict[str, Message] = {}
    for number, line in _lines(path.read_bytes(), path.name):
        where, fields = f"{path}, line {number}", line.split("\t")
        if len(fields) != 3:
            raise ValueError(f"{where}: found {_short(line)}; expected label<TAB>kind<TAB>text")
        label, kind, text = fields
        if label not in LABELS:
            raise ValueError(f'{where}: found the label {_short(label)}; expected "ham" or "spam"')
        if not SLUG.fullmatch(kind):
            raise ValueError(f"{where}: found the kind {_short(kind)}; expected small letters")
        if not text or text != text.strip():
            raise ValueError(f"{where}: found the text {_short(text)}; expected no space around it")
        if text in found:
            raise ValueError(f"{where}: found {_short(text)} again; expected each message once")
        found[text] = Message(text, LABELS[label], kind)
    if len({m.is_spam for m in found.values()}) < 2:
        raise ValueError(f"{path}: found {len(found)} messages; expected some of ham and of spam")
    return list(found.values())


def _collection(path: Path) -> list[Message]:
    """The messages of the SMS Spam Collection's file, zipped or plain; ValueError if it is not."""
    data = path.read_bytes()
    if data.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if n.rsplit("/", 1)[-1] == MEMBER]
                if not names:
                    raise ValueError(f"the zip file holds no {MEMBER}")
                data = archive.read(names[0])
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise ValueError(f"it is a broken zip file ({error})") from None
    found = []
    for number, line in _lines(data, MEMBER):
        label, _, text = line.partition("\t")
        if label not in LABELS or not text:
            raise ValueError(
                f"{MEMBER}, line {number}: found {_short(line)}; expected ham<TAB>text or "
                "spam<TAB>text (a log-in page, perhaps)"
            )
        found.append(Message(text, LABELS[label], "sms"))
    if len(found) < LEAST:
        raise ValueError(f"it has {len(found):,} messages; expected at least {LEAST:,}")
    if len({m.is_spam for m in found}) < 2:
        raise ValueError("all its messages have one label; expected ham and spam")
    return found


def _lines(data: bytes, name: str) -> list[tuple[int, str]]:
    """Numbered lines, split at line feeds only: a message may hold other breaks."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name}, line {number}: found the byte {data[error.start]:#04x}; expected UTF-8"
        ) from None
    lines = text.removesuffix("\n").split("\n")
    return [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1)]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _grams(text: str) -> set[str]:
    """The runs of five letters; a shorter text is one run."""
    text = " ".join(text.lower().split())
    return {text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1))}
