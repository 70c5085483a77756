"""Where the course keeps what running makes: checkpoints, tokenizers, downloads, ledgers.

Everything lies under one git-ignored folder, `artifacts/` beside the README, or where the
environment variable `COURSE_ARTIFACTS` points. A path carries a key made from everything that
its content depends on, so a file made with other settings is never found by mistake.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def artifacts_folder() -> Path:
    """The folder for everything that running makes; created if missing."""
    folder = Path(os.environ.get("COURSE_ARTIFACTS") or ROOT / "artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def key_of(*parts: object) -> str:
    """Twelve hexadecimal digits that change when any part changes.

    Parts may be dataclasses, dicts, lists, paths, texts, numbers, or None, also nested.

    Example:
        >>> key_of({"vocab_size": 300}, "stories") == key_of({"vocab_size": 301}, "stories")
        False
    """
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(part: object) -> object:
    """What JSON does not know, in words that it knows."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return dataclasses.asdict(part)
    if isinstance(part, os.PathLike):
        return os.fspath(part)
    raise TypeError(
        f"no key can be made of {part!r} ({type(part).__name__}); "
        "give dataclasses, dicts, lists, paths, texts, numbers or None"
    )


def artifact_path(name: str, *parts: object) -> Path:
    """Path for an artifact called `name` that depends on `parts`; its parent folder exists.

    `name` may hold one folder and a suffix: `artifact_path("tokenizers/stories.json", config)`
    gives `artifacts/tokenizers/stories-1a2b3c4d5e6f.json`.
    """
    path = artifacts_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.stem}-{key_of(*parts)}{path.suffix}") if parts else path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it there only if the block ends without error.

    So a file is never seen half written, and an old one stays until the new one is complete.

    Raises:
        OSError: no space left, with what to do about it; the old file stays.

    Example:
        >>> with written_whole("model.safetensors") as temporary:
        ...     save(temporary)
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        _settle(temporary, path)
        os.replace(temporary, path)
    except Exception as error:
        # Libraries that write through other languages wrap the system's error in their own.
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left" not in str(error):
            raise
        raise OSError(
            errno.ENOSPC,
            "no space left on the disk; what was there before is unharmed. Free some space, or "
            "let the environment variable COURSE_ARTIFACTS name a folder on another disk",
            str(path),
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _settle(temporary: Path, path: Path) -> None:
    """Bring the bytes to the disk, and give the file the rights that an ordinary one has."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(path.stat().st_mode if path.exists() else 0o666 & ~umask)
