"""Messages for the classifier: the file, the split, near-duplicates, the real collection."""

from __future__ import annotations

import io
import random
import re
import zipfile
from collections import Counter

import pytest

from shared import messages as module
from shared.download import DownloadError
from shared.messages import Message, messages, near_duplicates, sms_spam_collection, split_messages
from tests.test_download import Server, serve, server, status, without_length  # noqa: F401

# --- the messages


@pytest.fixture(scope="module")
def every() -> list[Message]:
    return messages()


def test_there_are_thousands_half_of_them_spam(every):
    assert len(every) >= 4_150
    assert 2 * sum(m.is_spam for m in every) == len(every)
    assert all(type(m.is_spam) is bool for m in every)


def test_kinds_are_few_and_of_decent_size(every):
    for is_spam in (False, True):
        kinds = Counter(m.kind for m in every if m.is_spam == is_spam)
        assert 15 <= len(kinds) <= 25
        assert min(kinds.values()) >= 15
        assert max(kinds.values()) < 0.15 * sum(kinds.values())
    hard = [m for m in every if m.kind == "sounds_like_spam"]
    assert len(hard) >= 80 and not any(m.is_spam for m in hard)
    by_label = [{m.kind for m in every if m.is_spam == is_spam} for is_spam in (False, True)]
    assert not by_label[0] & by_label[1]


def test_the_order_mixes_labels_and_kinds(every):
    for start in range(0, len(every) - 400, 400):
        piece = every[start : start + 400]
        assert 140 < sum(m.is_spam for m in piece) < 260
        assert len({m.kind for m in piece}) > 25


def test_texts_are_one_line_and_short(every):
    for m in every:
        assert m.text == " ".join(m.text.split()) and m.text.isprintable(), m
        assert 4 <= len(m.text) <= 300, m
    lengths = sorted(len(m.text) for m in every)
    assert 80 < lengths[len(lengths) // 2] < 150


def test_only_domains_that_are_nobodys(every):
    found = 0
    for m in every:
        for domain in re.findall(r"(?<![\w/])(?:[\w-]+\.)+[a-z]{2,}\b", m.text, re.IGNORECASE):
            found += 1
            assert domain.endswith(".example"), m
        for address in re.findall(r"\S+@\S+", m.text):
            assert re.search(r"@[\w.-]+\.example\b", address), m
    assert found > 1_000


def test_only_numbers_that_are_nobodys(every):
    reserved = re.compile(r"555-01\d\d|07700 900\d{3}")
    found = 0
    for m in every:
        found += len(reserved.findall(m.text))
        rest = reserved.sub("#", m.text)
        assert not re.search(r"\b555[- ]\d|\b\+?(?:44 ?|0)7\d{3}", rest), m
        for run in re.findall(r"\d(?:[ ()-]{0,2}\d){6,}", rest):  # seven digits or more
            raise AssertionError((run, m))
        for code in re.findall(r"(?i)\b(?:text|txt|send|reply)\b [^.!?]*? to (\d{3,})", rest):
            assert len(code) == 5, m
    assert found > 300


@pytest.mark.parametrize(
    "name",
    "whatsapp telegram amazon netflix paypal apple google facebook dhl ups usps fedex hmrc dvla "
    "microsoft instagram tesco uber ebay spotify tiktok snapchat samsung nokia iphone barclays "
    "hsbc lloyds revolut venmo zelle vodafone verizon ikea walmart aldi nhs medicaid".split()
    + ["royal mail", "cash app"],
)
def test_no_real_firm(every, name):
    pattern = re.compile(rf"\b{name}s?\b", re.IGNORECASE)
    innocent = {"apple": "two apple trees", "ups": "pop ups"}.get(name, "\0")
    found = [m.text for m in every if pattern.search(m.text) and innocent not in m.text]
    found = [t for t in found if not (name == "ups" and not re.search(r"\bUPS\b", t))]
    assert not found


def test_no_word_gives_the_label_away(every):
    for word in ("free", "win", "won", "click", "urgent", "account", "prize", "code", "card"):
        spam = [m.is_spam for m in every if re.search(rf"\b{word}\b", m.text.lower())]
        assert 0.02 < sum(spam) / len(spam) < 0.98, word
    for is_spam in (False, True):
        links = sum(".example" in m.text for m in every if m.is_spam == is_spam)
        assert links >= 70
        assert sum(m.is_spam == is_spam for m in every) - links >= 900


def test_none_is_like_another(every):
    assert near_duplicates([m.text for m in every]) == []


# --- a damaged file


GOOD = "ham\tfamily\tHome by six, love\nspam\tprize\tYou won! Ring 555-0100\n"


def test_a_sound_file(tmp_path):
    path = tmp_path / "m.tsv"
    expected = [
        Message("Home by six, love", False, "family"),
        Message("You won! Ring 555-0100", True, "prize"),
    ]
    for data in (GOOD, GOOD.rstrip("\n"), GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD):
        path.write_bytes(data.encode())
        assert module._read(path) == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ham\tfamily", r"found 'ham\\tfamily'; expected label<TAB>kind<TAB>text"),
        ("ham\tfamily\tone\ttwo", r"found 'ham\\tfamily\\tone\\ttwo'; expected label"),
        ("", "found ''; expected label<TAB>kind<TAB>text"),
        ("Ham\tfamily\tHello", 'found the label \'Ham\'; expected "ham" or "spam"'),
        ("ham\tFamily life\tHello", "found the kind 'Family life'; expected small letters"),
        ("ham\tfamily\t", "found the text ''; expected no space around it"),
        ("ham\tfamily\tHello ", "found the text 'Hello '; expected no space around it"),
        ("spam\tprize\tHome by six, love", "found 'Home by six, love' again; expected each"),
        ("ham\tfamily\tcaf\udce9", "found the byte 0xe9; expected UTF-8"),
        ("x" * 500, r"found 'x{59}…'; expected label"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path, line, problem):
    path = tmp_path / "m.tsv"
    text = f"{GOOD}{line}\nham\tfamily\tAll well\n"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"m.tsv, line 3: {problem}"):
        module._read(path)


def test_a_file_without_one_of_the_labels(tmp_path, monkeypatch):
    path = tmp_path / "m.tsv"
    path.write_text(GOOD.splitlines()[0])
    monkeypatch.setattr(module, "FILE", path)
    with pytest.raises(ValueError, match="m.tsv: found 1 messages; expected some of ham and of"):
        messages()


# --- the split


def made(spam: int, ham: int) -> list[Message]:
    return [Message(f"message {i}", i < spam, "made") for i in range(spam + ham)]


def test_split_is_disjoint_complete_and_stratified(every):
    parts = split_messages(every)
    assert [len(p) for p in parts] == [4034, 578, 1152]
    assert sorted((m for p in parts for m in p), key=str) == sorted(every, key=str)
    assert len({m for p in parts for m in p}) == len(every)
    for part in parts:
        assert 2 * sum(m.is_spam for m in part) == len(part)
        for start in range(0, len(part) - 99, 100):
            assert 30 < sum(m.is_spam for m in part[start : start + 100]) < 70


def test_split_depends_on_seed_and_texts_only(every):
    parts = split_messages(every, seed=3)
    mixed = list(every)
    random.Random(0).shuffle(mixed)
    assert split_messages(mixed, seed=3) == parts
    assert split_messages(tuple(every), seed=3) == parts
    assert split_messages(every, seed=4) != parts
    texts = {m.text for m in parts[0]}
    again = sum(m.text in texts for m in split_messages(every, seed=4)[0]) / len(texts)
    assert 0.65 < again < 0.75  # as chance would have it


def test_split_is_the_same_on_every_machine():
    train, validation, test = split_messages(made(4, 6), 0.5, 0.25)
    names = [[m.text.split()[1] for m in part] for part in (train, validation, test)]
    assert names == EXPECTED


EXPECTED = [["8", "2", "6", "5", "0"], ["9", "3"], ["1", "7", "4"]]


@pytest.mark.parametrize(
    ("spam", "ham", "train", "validation", "sizes"),
    [
        (7, 5, 0.7, 0.1, None),
        (13, 29, 0.7, 0.1, [(9, 1, 3), (20, 3, 6)]),
        (747, 4827, 0.7, 0.1, [(523, 75, 149), (3379, 483, 965)]),
        (3, 0, 0.34, 0.33, [(1, 1, 1)]),
        (101, 10, 0.5, 0.3, [(50, 31, 20), (5, 3, 2)]),
    ],
)
def test_odd_sizes(spam, ham, train, validation, sizes):
    if sizes is None:
        with pytest.raises(ValueError, match="5 ham messages would be split into 4, 0, 1"):
            split_messages(made(spam, ham), train, validation)
        return
    parts = split_messages(made(spam, ham), train, validation)
    found = [tuple(sum(m.is_spam == s for m in p) for p in parts) for s in (True, False)]
    assert found[: len(sizes)] == sizes
    assert sum(map(len, parts)) == spam + ham


@pytest.mark.parametrize(
    ("train", "validation"),
    [(0.9, 0.1), (0.8, 0.3), (0, 0.5), (0.5, 0), (-0.1, 0.5), (1, 0.1), (float("nan"), 0.1)],
)
def test_shares_that_leave_nothing(train, validation):
    with pytest.raises(ValueError, match=f"train={train}, validation={validation}; expected two"):
        split_messages(made(50, 50), train, validation)


def test_nothing_to_split():
    with pytest.raises(ValueError, match="no messages given"):
        split_messages([])


# --- near-duplicates


def by_force(texts: list[str], threshold: float) -> list[tuple[int, int, float]]:
    def grams(text: str) -> set[str]:
        text = re.sub(r"\s+", " ", text.strip().lower())
        return {text} if len(text) < 5 else {text[k : k + 5] for k in range(len(text) - 4)}

    sets = [grams(t) for t in texts]
    pairs = ((i, j) for i in range(len(sets)) for j in range(i + 1, len(sets)))
    alike = ((i, j, len(sets[i] & sets[j]) / len(sets[i] | sets[j])) for i, j in pairs)
    return [(i, j, s) for i, j, s in alike if s >= threshold]


@pytest.mark.parametrize("threshold", [0.02, 0.2, 0.5, 1.0])
def test_near_duplicates_as_by_force(every, threshold):
    rng = random.Random(5)
    texts = [m.text for m in rng.sample(every, 150)]
    for text in rng.sample(texts, 60):  # mutants: a letter changed, a word gone, other spaces
        at = rng.randrange(len(text))
        texts.append(text[:at] + "#" + text[at + 1 :])
        texts.append(" ".join(w for w in text.split() if rng.random() < 0.9))
        texts.append("  " + text.upper().replace(" ", " \t "))
    texts += ["", " ", "ok", "OK", "okay", "okay!", "abcab" * 9]
    rng.shuffle(texts)
    found = near_duplicates(texts, threshold)
    assert found == by_force(texts, threshold)
    assert len(found) > 60


def test_near_duplicates_by_hand():
    assert near_duplicates(["abcdef", "abcdeg", "ABCDE f", "xyzxyz"], 0.1) == [
        (0, 1, 1 / 3),
        (0, 2, 1 / 4),
        (1, 2, 1 / 4),
    ]
    assert near_duplicates([]) == near_duplicates(["alone"]) == []
    for threshold in (0, -1, 1.01):
        with pytest.raises(ValueError, match="threshold=.*expected above 0, at most 1"):
            near_duplicates(["a"], threshold)


# --- the real collection (a server on this machine)

REAL = [("spam" if i % 8 == 0 else "ham", f"no {i}, “caf\x85é” &lt;#&gt;") for i in range(5_003)]
TSV = "".join(f"{label}\t{text}\n" for label, text in REAL).encode()


def zipped(*files: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return buffer.getvalue()


ZIP = zipped(("SMSSpamCollection", TSV), ("readme", b"Read me."))


@pytest.fixture
def mirror(server: Server, monkeypatch, tmp_path) -> Server:  # noqa: F811
    """The collection's address is a server here, and its downloads go to a folder of the test."""
    monkeypatch.setenv("SMS_SPAM_MIRROR", f"{server.url}/a.zip, {server.url}/b.tsv")
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    real = module.download
    fast = {"timeout": 5.0, "pause": 0.01}
    monkeypatch.setattr(module, "download", lambda *a, **k: real(*a, **{**k, **fast}))
    return server


@pytest.mark.parametrize(
    "body",
    [ZIP, zipped(("sms/SMSSpamCollection", TSV)), TSV, TSV.replace(b"\n", b"\r\n"), TSV[:-1]],
    ids=["zip", "zip with a folder", "TSV", "TSV from Windows", "no last line feed"],
)
def test_the_collection_is_fetched_once(mirror, body, tmp_path):
    mirror.plan("/a.zip", serve(body), status(500))
    for _ in range(2):
        found = sms_spam_collection()
        assert [(("spam" if m.is_spam else "ham"), m.text) for m in found] == REAL
        assert {m.kind for m in found} == {"sms"}
    assert len(mirror.log) == 1
    kept = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    assert kept == ["downloads/sms_spam_collection/SMSSpamCollection"]


def test_the_next_address_is_asked_when_one_fails(mirror):
    mirror.plan("/b.tsv", serve(TSV))
    assert len(sms_spam_collection()) == len(REAL)
    assert [path for path, _ in mirror.log] == ["/a.zip", "/b.tsv"]


def test_no_length_is_no_trouble(mirror):
    mirror.plan("/a.zip", without_length(ZIP, chunked=True))
    assert len(sms_spam_collection()) == len(REAL)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"<html>Welcome to our network</html>", "line 1: found '<html>.*expected ham<TAB>text"),
        (b"", "line 1: found ''"),
        (zipped(("readme", b"Read me.")), "holds no SMSSpamCollection"),
        (zipped(("SMSSpamCollection", TSV[:90_000])), "messages; expected at least 5,000|line"),
        (b"".join(TSV.splitlines(True)[:4_999]), "has 4,999 messages; expected at least 5,000"),
        (TSV.replace(b"spam\t", b"ham\t"), "all its messages have one label"),
        (TSV.replace(b"spam\tno 800,", b"spam no 800,"), "line 801: found 'spam no 800"),
        (TSV.replace(b"ham\tno 9,", b"eggs\tno 9,"), "line 10: found 'eggs"),
        (TSV.decode().encode("utf-16"), "line 1: found the byte 0xff; expected UTF-8"),
    ],
    ids="log-in empty member short few label tab eggs encoding".split(),
)
def test_a_wrong_file_is_refused(mirror, body, problem, tmp_path):
    mirror.plan("/a.zip", serve(body))
    mirror.plan("/b.tsv", serve(body))
    with pytest.raises(DownloadError, match=problem):
        sms_spam_collection()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("cut", [4, 2_000, len(ZIP) - 30])
@pytest.mark.parametrize("told", [True, False])
def test_a_truncated_zip_is_refused(mirror, cut, told):
    answer = serve(ZIP, stop=cut, ranges=False) if told else without_length(ZIP[:cut])
    mirror.plan("/a.zip", answer)
    mirror.plan("/b.tsv", answer)
    with pytest.raises(DownloadError, match="connection ended after|broken zip file"):
        sms_spam_collection()


def test_a_spoiled_byte_in_the_zip_is_refused(mirror):
    at = len(ZIP) // 3
    mirror.plan("/a.zip", serve(ZIP[:at] + bytes([ZIP[at] ^ 255]) + ZIP[at + 1 :]))
    with pytest.raises(DownloadError, match="broken zip file"):
        sms_spam_collection()


def test_a_spoiled_file_on_the_disk_is_fetched_again(mirror, tmp_path):
    path = tmp_path / "downloads" / "sms_spam_collection" / "SMSSpamCollection"
    path.parent.mkdir(parents=True)
    path.write_bytes(TSV[:1000])
    mirror.plan("/a.zip", serve(ZIP))
    assert len(sms_spam_collection()) == len(REAL)


def test_no_network_is_one_clear_error(mirror, monkeypatch):
    monkeypatch.setenv("SMS_SPAM_MIRROR", "http://127.0.0.1:9/a.zip")  # nobody listens there
    with pytest.raises(DownloadError, match=r"No network is needed for messages\(\)"):
        sms_spam_collection()


def test_the_addresses_without_a_mirror(monkeypatch):
    asked = []

    def never(urls, path, **options):
        asked.extend(urls)
        raise DownloadError(options["advice"])

    monkeypatch.delenv("SMS_SPAM_MIRROR", raising=False)
    monkeypatch.setattr(module, "download", never)
    with pytest.raises(DownloadError, match="come with the course"):
        sms_spam_collection()
    assert len(asked) >= 3 and all(url.startswith("https://") for url in asked)
    assert any(url.endswith(".zip") for url in asked) and any(u.endswith(".tsv") for u in asked)
