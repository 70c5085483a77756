"""Run the course's notebooks: to save their outputs, or to see that the whole course works.

    python -m shared.notebooks run PATH… | all    execute, tidy, save (FORCE=1: even if unchanged)
    python -m shared.notebooks tidy PATH… | all   tidy what is saved, without executing
    python -m shared.notebooks course             run all chapters; change nothing, show a sample

A notebook is saved only if every cell ran, nothing was written to stderr and no panel failed. It
is skipped when neither its code nor anything that it can import has changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from shared.artifacts import ROOT, artifacts_folder, written_whole
from shared.export import ExportError, chapter_notebooks, render

CELL_TIMEOUT = 1800  # seconds; no cell of the course comes near
KERNEL_SPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
WIDGET = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r"^[^\n]*?\d+%\|[^|\n]*\|[^\n]*$")  # a tqdm bar with a total
COUNTER = re.compile(r"^[^\n]*\d+\w* ?\[\d+:\d\d, +[^\]\n]*\]$")  # one without


class NotebookError(Exception):
    """A notebook did not run to its end as it should; it was not saved."""


# Which notebooks there are


def order_key(path: Path) -> tuple:
    """Sort key of the course's order: chapters, then exercises, then appendices."""
    chapter = re.match(r"ch\d\d_", path.parent.name) and path.stem == path.parent.name
    exercises = path.stem.endswith("_exercises")
    return (0 if chapter else 1 if exercises else 2, str(path))


def all_notebooks(root: Path = ROOT) -> list[Path]:
    """Every notebook of the course, in its order."""
    found = [*root.glob("ch[0-9][0-9]_*/*.ipynb"), *root.glob("appendix/*/*.ipynb")]
    return sorted(found, key=order_key)


# Tidying


def _settled(text: str) -> str:
    """What a terminal would show in the end: carriage returns overwrite, finished bars keep
    their count and lose their timing, which would differ on every run."""
    kept: list[str] = []
    for line in text.split("\n"):
        line = next((part for part in reversed(line.split("\r")) if part.strip()), "")
        line = line.replace("\x1b[A", "").rstrip()
        if BAR.match(line) or COUNTER.match(line):
            line = re.sub(r" *\[[^\[\]]*\]$", "", line)
        kept.append(line)
    return "\n".join(kept)


def _is_bar(text: str) -> bool:
    """Whether a stream holds progress bars and nothing else."""
    lines = [line for line in re.split(r"[\r\n]|\x1b\[A", text) if line.strip()]
    return bool(lines) and all(BAR.match(x.rstrip()) or COUNTER.match(x.rstrip()) for x in lines)


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs with one stream of each name; progress bars, which tqdm writes to stderr, are
    no complaint and go to stdout."""
    texts: dict[str, list[str]] = {}
    for output in outputs:
        if output.output_type == "stream":
            texts.setdefault(output.name, []).append(output.text)
    moved = "stderr" in texts and _is_bar("".join(texts["stderr"]))
    merged: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}
    for output in outputs:
        if output.output_type != "stream":
            merged.append(output)
            continue
        name = "stdout" if moved else output.name
        if name not in streams:
            streams[name] = nbformat.v4.new_output("stream", name=name)
            merged.append(streams[name])
        if not moved:
            streams[name].text += output.text
    if moved:
        bars, rest = "".join(texts["stderr"]), "".join(texts.get("stdout", []))
        streams["stdout"].text = bars.rstrip() + ("\n" + rest if rest else "\n")
    return merged


def _tidy_outputs(outputs: list[NotebookNode], count: int) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in _merged(outputs):
        if WIDGET in output.get("data", {}):
            continue  # it would need the widget's state; the panel's picture stands beside it
        if output.output_type == "stream":
            output.text = _settled(output.text)
            if not output.text.strip():
                continue
        if output.output_type == "execute_result":
            output.execution_count = count
        if "metadata" in output:
            output.metadata = NotebookNode()
        kept.append(output)
    return kept


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Remove from a notebook, in place, what differs between runs or machines; return it.

    Counts go from 1 in order, ids are kept (made from the text where missing or doubled), widget
    state goes, streams are merged and progress bars settled, and of the metadata stay the
    kernel's name, the language, tags and what nbgrader needs.
    """
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(KERNEL_SPEC), language_info=NotebookNode(LANGUAGE)
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    count = 0
    seen: set[str] = set()
    for cell in notebook.cells:
        kept = {k: cell.metadata[k] for k in ("tags", "nbgrader") if cell.metadata.get(k)}
        cell.metadata = NotebookNode(kept)
        cell.source = cell.source.rstrip()
        identity, salt = cell.get("id"), 0
        while not identity or identity in seen:
            text = f"{cell.cell_type}{salt}{cell.source}"
            identity, salt = hashlib.sha256(text.encode()).hexdigest()[:8], salt + 1
        cell.id = identity
        seen.add(identity)
        if cell.cell_type == "code":
            ran = bool(cell.source) and cell.get("execution_count") is not None
            count += ran
            cell.execution_count = count if ran else None
            cell.outputs = _tidy_outputs(cell.outputs, count)
    return notebook


def save(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook whole, or leave the old one."""
    text = nbformat.writes(notebook, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"
    if path.exists() and path.read_text("utf-8") == text:
        return
    with written_whole(path) as temporary:
        temporary.write_text(text, "utf-8", newline="\n")


# Running


class _ThisPython(KernelSpecManager):
    """Whatever kernel a notebook asks for, it gets the interpreter that runs this."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


class _Manager(AsyncKernelManager):
    def __init__(self, **options) -> None:
        super().__init__(**(options | {"kernel_spec_manager": _ThisPython()}))


def kernel_environment() -> dict[str, str]:
    """The environment for a notebook's kernel: figures inline, no debugger's warnings."""
    environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    return environment


def execute(
    path: Path, on_cell: Callable[[int, int], None] | None = None, timeout: float = CELL_TIMEOUT
) -> NotebookNode:
    """Run a notebook in its own folder and return it with its outputs; nothing is saved.

    Args:
        path: the notebook.
        on_cell: called before each code cell with its number and how many there are.
        timeout: seconds for one cell.

    Raises:
        NotebookError: a cell raised, wrote to stderr, or killed its kernel; names the cell.
    """
    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        kernel_manager_class=_Manager,
        kernel_name="python3",
        timeout=timeout,
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    # Without a front end's part in it, a panel's output lands in the cell as ordinary output.
    client.comm_open_handlers.clear()
    at = [-1]

    def started(cell: NotebookNode, cell_index: int) -> None:
        at[0] = cell_index
        if on_cell and cell.cell_type == "code":
            on_cell(next(i for i, c in enumerate(code, 1) if c is cell), len(code))

    client.on_cell_start = started
    try:
        client.execute(env=kernel_environment())
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookError(f"{_place(path, notebook, at[0])}:\n{error}") from None
    problems = [p for i in range(len(notebook.cells)) for p in _complaints(path, notebook, i)]
    if problems:
        raise NotebookError("\n".join(problems))
    return notebook


def _place(path: Path, notebook: NotebookNode, index: int) -> str:
    lines = notebook.cells[index].source.splitlines() or [""]
    return f"{path.name}, cell {index + 1} ({lines[0]!r})"


def _complaints(path: Path, notebook: NotebookNode, index: int) -> Iterable[str]:
    """Errors that the cell's status did not tell (from a widget's callback), and stderr."""
    cell = notebook.cells[index]
    if "raises-exception" in cell.metadata.get("tags", []):
        return
    for output in _merged(cell.get("outputs", [])):
        if output.output_type == "error":
            yield f"{_place(path, notebook, index)}: {output.ename}: {output.evalue}"
        elif output.get("name") == "stderr" and output.text.strip():
            yield f"{_place(path, notebook, index)} wrote to stderr:\n{output.text.strip()}"


# What a notebook's outputs depend on


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _inputs(path: Path) -> str:
    """Digest of the notebook's code and of what it can import."""
    cells = nbformat.read(path, as_version=4).cells
    code = [c for c in cells if c.cell_type == "code"]
    texts = [f"{c.source.rstrip()}{c.metadata.get('tags') or []}" for c in code]
    support = [*ROOT.glob("shared/**/*.py"), ROOT / "requirements.txt"]
    skip = {"notebooks.py", "export.py", "previous_chapters.py", "appendices.py"}
    texts += [p.read_text("utf-8") for p in sorted(support) if p.name not in skip]
    chapter = re.match(r"ch(\d\d)_", path.parent.name)
    before = int(chapter[1]) - 1 if chapter and path.stem == path.parent.name else None
    try:
        texts.append(render(ROOT, upto=before))
    except ExportError:
        texts.append((ROOT / "shared" / "previous_chapters.py").read_text("utf-8"))
    return _digest(*texts, f"{sys.version_info[:2]}")


def _outputs(path: Path) -> str:
    """Digest of the saved outputs."""
    cells = nbformat.read(path, as_version=4).cells
    return _digest(*(json.dumps(c.get("outputs", []), sort_keys=True) for c in cells))


def _stamp(path: Path) -> Path:
    return artifacts_folder() / "notebooks" / f"{path.stem}.json"


def is_current(path: Path) -> bool:
    """Whether the saved outputs came from the code and the imports as they are now."""
    try:
        stamp = json.loads(_stamp(path).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return stamp == {"inputs": _inputs(path), "outputs": _outputs(path)}


# Commands


def _progress(label: str) -> Callable[[int, int], None] | None:
    """Shows which cell runs, on a terminal only."""
    if not sys.stdout.isatty():
        return None
    return lambda cell, cells: print(f"\r{label}  cell {cell} of {cells} ", end="", flush=True)


def _say(line: str) -> None:
    print(f"\r\x1b[K{line}" if sys.stdout.isatty() else line, flush=True)


def _plain(error: NotebookError) -> str:
    """Its text, without colours where nobody sees them."""
    return str(error) if sys.stdout.isatty() else re.sub(r"\x1b\[[\d;]*m", "", str(error))


def _label(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def run(paths: list[Path], force: bool = False) -> int:
    """Execute, tidy and save each notebook; return how many failed."""
    failed = 0
    for path in paths:
        label = _label(path)
        if not force and is_current(path):
            _say(f"{label}: unchanged since its last run")
            continue
        start, inputs = time.perf_counter(), _inputs(path)
        before = path.read_bytes()
        try:
            notebook = execute(path, _progress(label))
        except NotebookError as error:
            _say(f"{label}: NOT saved\n{_plain(error)}\n")
            failed += 1
            continue
        if path.read_bytes() != before:
            _say(f"{label}: NOT saved: it was changed on disk while it ran; run it again")
            failed += 1
            continue
        save(tidy(notebook), path)
        with written_whole(_stamp(path)) as temporary:
            temporary.write_text(json.dumps({"inputs": inputs, "outputs": _outputs(path)}))
        _say(f"{label}: ran in {time.perf_counter() - start:.0f} s, saved")
    return failed


def sample_of(notebook: NotebookNode) -> str | None:
    """The text that the last cell tagged `sample` printed, if there is one."""
    for cell in reversed(notebook.cells):
        if cell.cell_type == "code" and "sample" in cell.metadata.get("tags", []):
            texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
            return "".join(texts).strip() or None
    return None


def course(paths: list[Path] | None = None) -> int:
    """Run the chapters in order without changing them; return how many failed."""
    paths = chapter_notebooks() if paths is None else paths
    failed, sample, began = 0, None, time.perf_counter()
    for number, path in enumerate(paths, start=1):
        label = f"{number}/{len(paths)}  {path.stem:28}"
        start = time.perf_counter()
        try:
            sample = sample_of(execute(path, _progress(label))) or sample
            result = ""
        except NotebookError as error:
            failed, result = failed + 1, f"  FAILED\n{_plain(error)}\n"
        _say(f"{label} {time.perf_counter() - start:6.1f} s{result}")
    minutes = (time.perf_counter() - began) / 60
    print(f"{len(paths) - failed} of {len(paths)} chapters ran, {minutes:.1f} min in all")
    if sample:
        print(f"\nWritten by the model at the end:\n\n{sample}")
    return failed


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m shared.notebooks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("run", "tidy", "course"))
    parser.add_argument("notebooks", nargs="*", help="paths, or all")
    parser.add_argument("--force", action="store_true", help="run even if nothing changed")
    options = parser.parse_intermixed_args(arguments)
    paths = [Path(name).resolve() for name in options.notebooks if name != "all"]
    if "all" in options.notebooks:
        paths = all_notebooks()
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        parser.error(f"no such notebook: {', '.join(missing)}")
    if options.command == "course":
        return min(course(paths or None), 1)
    if not options.notebooks:
        parser.error(f"{options.command} which notebooks? Give paths, or all")
    if options.command == "tidy":
        for path in paths:
            save(tidy(nbformat.read(path, as_version=4)), path)
        return 0
    return min(run(paths, options.force or os.environ.get("FORCE") == "1"), 1)


if __name__ == "__main__":
    sys.exit(main())
