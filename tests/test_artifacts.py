"""Artifacts: keys tell settings apart, and a file is whole or not there."""

import dataclasses
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shared import artifacts
from shared.artifacts import artifact_path, artifacts_folder, key_of, written_whole


@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int = 300
    name: str = "stories"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "here"))
    return tmp_path / "here"


def test_a_key_is_the_same_in_every_process_and_on_every_day():
    assert key_of({"vocab_size": 300}, "stories") == "101bf27802cc"
    code = "from shared.artifacts import key_of; print(key_of({'vocab_size': 300}, 'stories'))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert printed.stdout.decode().strip() == "101bf27802cc"


def test_a_key_does_not_depend_on_the_order_of_a_dict():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "one, other",
    [
        (({"a": 1},), ({"a": 2},)),
        ((Config(),), (Config(vocab_size=301),)),
        (([1, 2],), ([2, 1],)),
        (("ab", "c"), ("a", "bc")),
        ((None,), ()),
        (({"inner": Config()},), ({"inner": Config(name="real")},)),
        ((Path("a"),), (Path("b"),)),
    ],
)
def test_other_parts_give_another_key(one, other):
    assert key_of(*one) != key_of(*other)


def test_a_dataclass_keys_as_its_fields():
    assert key_of(Config()) == key_of({"vocab_size": 300, "name": "stories"})


def test_what_has_no_stable_form_is_refused():
    with pytest.raises(TypeError, match="no key can be made of .*object"):
        key_of(object())


def test_paths_stand_in_the_folder_that_was_asked_for(own_folder):
    assert artifacts_folder() == own_folder and own_folder.is_dir()
    path = artifact_path("tokenizers/stories.json", Config())
    assert path == own_folder / "tokenizers" / f"stories-{key_of(Config())}.json"
    assert path.parent.is_dir() and not path.exists()
    assert artifact_path("plain.txt") == own_folder / "plain.txt"


def test_without_the_variable_artifacts_stand_beside_the_readme(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_ARTIFACTS")
    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    assert artifacts_folder() == tmp_path / "artifacts"


def test_a_file_appears_only_when_whole(tmp_path):
    path = tmp_path / "new folder" / "model.json"
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".json" and temporary.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError("wrong"), KeyboardInterrupt()])
def test_the_old_file_stays_when_writing_fails(tmp_path, failure):
    path = tmp_path / "model.json"
    path.write_text("old")
    with pytest.raises(type(failure)), written_whole(path) as temporary:
        temporary.write_text("half of the n")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_keeps_the_old_file_and_says_what_to_do(tmp_path, full):
    path = tmp_path / "model.json"
    path.write_text("old")
    with pytest.raises(OSError, match="no space left.*COURSE_ARTIFACTS") as caught:
        with written_whole(path):
            raise full
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_at_the_last_moment(tmp_path, monkeypatch):
    path = tmp_path / "model.json"
    path.write_text("old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"), written_whole(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_another_error_of_the_system_passes_unchanged(tmp_path):
    with pytest.raises(PermissionError, match="^.Errno 13. not yours"):
        with written_whole(tmp_path / "x"):
            raise PermissionError(errno.EACCES, "not yours")


@pytest.mark.skipif(os.name == "nt", reason="POSIX rights")
def test_rights_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with written_whole(tmp_path / "ours") as temporary:
        temporary.write_text("")
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "ours")]
    assert rights[0] == rights[1]
