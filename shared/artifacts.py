"""Where the course keeps what running makes: checkpoints, tokenizers, downloads, ledgers.

Everything lies under one git-ignored folder, `artifacts/` beside the README, or where the
environment variable `COURSE_ARTIFACTS` points. A path carries a key made from everything that
its content depends on, so a file made with other settings is never found by mistake.
"""

from __future__ import annotations

import dataclasses
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

    Parts may be dataclasses, dicts, lists, texts, numbers, or None.

    Example:
        >>> key_of({"vocab_size": 300}, "stories") == key_of({"vocab_size": 301}, "stories")
        False
    """
    plain = [dataclasses.asdict(p) if dataclasses.is_dataclass(p) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


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

    Example:
        >>> with written_whole("model.safetensors") as temporary:
        ...     save(temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
