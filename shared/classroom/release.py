"""What the students of a class get of one chapter: its exercises, and the course up to there.

The release is put together from what the exercises import, so nothing else can be left in it: no
solutions, no hidden tests, no checks of other chapters, no tests, nothing of the teacher's, and
`previous_chapters.py` only up to the chapters before. `leaks` searches what was made.

`nbgrader_course` lays out the same chapter for a class that uses nbgrader itself.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from shared.artifacts import ROOT
from shared.exercises import build
from shared.export import collect, render

SHORTEST = 24  # characters of a line that gives something away; shorter ones are everywhere
CHECKS = ("__init__.py", "checking.py", "questions.py")  # of shared/exercises, with the part's own


class ReleaseError(ValueError):
    """No release can be made; says why."""


def label_of(named: str) -> str:
    """How files call a chapter or an appendix that somebody names "3", "ch03" or "F".

    Example:
        >>> label_of("3"), label_of("F")
        ('ch03', 'app_f')
    """
    named = named.lower().removeprefix("app_").removeprefix("ch")
    return f"ch{int(named):02}" if named.isdigit() else f"app_{named}"


def source_path(label: str, root: Path = ROOT) -> Path:
    """The solved notebook of a chapter or an appendix.

    Raises:
        ReleaseError: there is none; says which there are.
    """
    known = {path.stem.removesuffix("_solutions"): path for path in build.solved_notebooks(root)}
    if label not in known:
        raise ReleaseError(
            f"there are no exercises {label!r}; there are: {', '.join(known) or 'none'}"
        )
    return known[label]


def title_of(label: str) -> str:
    """As people call it: "Chapter 3", "Appendix F"."""
    return (
        f"Chapter {int(label[2:])}" if label.startswith("ch") else f"Appendix {label[-1].upper()}"
    )


def chapters_before(label: str) -> int | None:
    """The number of the last chapter before a chapter; None for an appendix: all come before it."""
    return int(label[2:]) - 1 if label.startswith("ch") else None


def students_notebook(source: Path) -> NotebookNode:
    """The exercises with blanks; cells of checks cannot be edited or deleted by accident.

    Raises:
        shared.exercises.build.BuildError: the source cannot be used.
    """
    made = build.with_blanks(nbformat.read(source, as_version=4), source.name)
    for cell in made.cells:
        if cell.metadata.get("nbgrader", {}).get("locked"):
            cell.metadata |= {"editable": False, "deletable": False}
    return made


# The course as far as the students need it


def imported(code: str) -> set[str]:
    """The modules of the course that a text of Python names, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.partition(".")[0] == "shared"}


def exported(module: str) -> set[str]:
    """The names in `__all__` of a module's text."""
    for node in ast.parse(module).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def code_of(notebook: NotebookNode) -> str:
    """The code of a notebook as one text, without the cells that are not Python alone."""
    kept = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            try:
                ast.parse(cell.source)
            except SyntaxError:
                continue
            kept.append(cell.source)
    return "\n\n".join(kept)


def needed_files(notebook: NotebookNode, label: str, root: Path) -> dict[Path, str | None]:
    """Paths below the root, with a text where it is not the file's own.

    Starts from what the notebook and its checks import, and follows imports to their end.
    """
    before = render(root, upto=chapters_before(label))
    kept = {Path("shared/__init__.py"): None, Path("shared/previous_chapters.py"): before}
    kept |= {Path("shared/exercises") / name: None for name in CHECKS}
    kept[Path(f"shared/exercises/{label}.py")] = None
    texts = [code_of(notebook), before]
    texts += [(root / path).read_text("utf-8") for path, text in kept.items() if text is None]
    while texts:
        for name in imported(texts.pop()):
            for path in _files_of(name, root):
                if path in kept or path.parts[:2] == ("shared", "exercises"):
                    continue
                kept[path] = None
                if path.suffix == ".py":
                    texts.append((root / path).read_text("utf-8"))
    return kept


def _files_of(module: str, root: Path) -> Iterator[Path]:
    """The files of a module; for a package all its data and its `__init__.py`."""
    path = Path(*module.split("."))
    if (root / path.with_suffix(".py")).is_file():
        yield path.with_suffix(".py")
    if (root / path / "__init__.py").is_file():
        for file in sorted((root / path).iterdir()):
            if file.is_file() and (file.suffix != ".py" or file.name == "__init__.py"):
                yield file.relative_to(root)


def write_course(folder: Path, label: str, root: Path = ROOT) -> None:
    """Write the part of the course that the exercises of a chapter need.

    Raises:
        ReleaseError: there are no such exercises.
        shared.exercises.build.BuildError, shared.export.ExportError: a source cannot be used.
    """
    notebook = students_notebook(source_path(label, root))
    for path, text in needed_files(notebook, label, root).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            shutil.copyfile(root / path, target)
        else:
            target.write_text(text, "utf-8", newline="\n")


def _project(folder: Path, root: Path) -> str:
    """A pyproject.toml for the packages that are in the folder."""
    about = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    inits = sorted(folder.glob("shared/**/__init__.py"))
    packages = [".".join(path.parent.relative_to(folder).parts) for path in inits]
    data = about["tool"]["setuptools"].get("package-data", {})
    lines = ["[build-system]", *_toml(about["build-system"]), "", "[project]"]
    lines += [*_toml(about["project"]), "", "[tool.setuptools]", *_toml({"packages": packages})]
    kept = {f'"{name}"': files for name, files in data.items() if name in packages}
    if kept:
        lines += ["", "[tool.setuptools.package-data]", *_toml(kept)]
    return "\n".join(lines) + "\n"


def _toml(values: dict) -> list[str]:
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]


README = """\
# {title}: exercises

Set up once (Python 3.11 or 3.12), in this folder:

```
python3 -m venv .venv
.venv/bin/pip install -r requirements.txt
.venv/bin/jupyter lab {name}
```

On Windows: `py -3.12 -m venv .venv`, then `.venv\\Scripts\\pip` and `.venv\\Scripts\\jupyter`.

Fill in where it says `# your answer`; the check below answers at once. Leave the cells of the
checks as they are. Hand in one file, `{name}`, under that name.
"""


def release(label: str, folder: Path, root: Path = ROOT) -> Path:
    """Make the students' copy of a chapter in `folder`, in place of what was released there.

    Returns:
        The folder's `.zip`, beside it.

    Raises:
        ReleaseError: no such exercises, something that must not be in it is, or the folder
            holds something else.
    """
    source = source_path(label, root)
    name = build.blank_path(source, root).name
    if folder.exists():
        if any(folder.iterdir()) and not (folder / name).is_file():
            raise ReleaseError(f"{folder} is no earlier release of {label}: name another")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_course(folder, label, root)
    nbformat.write(students_notebook(source), folder / name)
    shutil.copyfile(root / "requirements.txt", folder / "requirements.txt")
    shutil.copyfile(root / "LICENSE", folder / "LICENSE")
    (folder / "pyproject.toml").write_text(_project(folder, root), "utf-8")
    (folder / "README.md").write_text(README.format(title=title_of(label), name=name), "utf-8")
    found = leaks(folder, label, root)
    if found:
        shutil.rmtree(folder)
        raise ReleaseError("not released, for it would give away:\n  " + "\n  ".join(found))
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))


# Looking for what must not be in it


def secrets_of(source: Path) -> dict[str, str]:
    """What students must not see, as lines without blanks, and what it is.

    Written apart from the making of blanks, so that each finds the other's mistakes.
    """
    given, secrets = "", {}
    for number, cell in enumerate(nbformat.read(source, as_version=4).cells, 1):
        where = f"{source.name}, cell {number}: "
        hidden = "its reasoning" if "solution" in cell.metadata.get("tags", []) else ""
        for line in cell.source.splitlines():
            words = line.split()
            if words[:2] == ["###", "BEGIN"]:
                hidden = "an answer" if words[2] == "SOLUTION" else "a hidden test"
            squeezed = _squeezed(line)
            if not hidden:
                given += squeezed
            elif len(squeezed) >= SHORTEST:
                secrets[squeezed] = where + hidden
            if words[:2] == ["###", "END"]:
                hidden = ""
    # What a hint says on purpose, or what stands in the part that is given, is no secret.
    return {line: what for line, what in secrets.items() if line not in given}


def _squeezed(line: str) -> str:
    return re.sub(r"\s+", "", line.partition("  #")[0])


def leaks(folder: Path, label: str, root: Path = ROOT) -> list[str]:
    """What in a release gives something away; empty if nothing does.

    Looks for marks and lines of the solutions, for cells of the teacher's, for what this and
    later chapters export, and for files that have no place in it.
    """
    found: list[str] = []
    secrets = secrets_of(source_path(label, root))
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        place = path.relative_to(folder).as_posix()
        text = path.read_text("utf-8", "replace")
        if path.suffix == ".ipynb":
            notebook = nbformat.read(path, as_version=4)
            text = "\n".join(cell.source for cell in notebook.cells)
            if any("solution" in cell.metadata.get("tags", []) for cell in notebook.cells):
                found.append(f"{place}: a cell tagged `solution`")
            if any(cell.get("outputs") for cell in notebook.cells):
                found.append(f"{place}: outputs")
            if build.MARK.search(text):
                found.append(f"{place}: a mark of a solution or a hidden test")
        squeezed = re.sub(r"\s+", "", text)
        told = Counter(what for line, what in secrets.items() if line in squeezed)
        # A check may need the same formula as an answer in one line; two lines are a copy.
        few = 1 if place == f"shared/exercises/{label}.py" else 0
        found += [f"{place}: {what}, {n} lines" for what, n in told.items() if n > few]
        if re.search(r"solutions|classroom|mutants|^tests|test_", place):
            found.append(f"{place}: has no place in a release")
        if place.startswith(("shared/exercises/ch0", "shared/exercises/app_")):
            if path.stem != label:
                found.append(f"{place}: checks of other exercises")
    last = chapters_before(label)
    if last is None:
        return found
    later = {name for c in collect(root) if c.number > last for name in c.names}
    module = (folder / "shared" / "previous_chapters.py").read_text("utf-8")
    return found + [
        f"shared/previous_chapters.py: {node.name}, which {label} or a later notebook teaches"
        for node in ast.parse(module).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in later
    ]


# nbgrader's own layout


def nbgrader_course(label: str, folder: Path, root: Path = ROOT) -> Path:
    """Add a chapter to a course folder of nbgrader's, which then works there as it is.

    Returns:
        The chapter's folder below `source/`.

    Raises:
        ReleaseError: there are no such exercises.
    """
    source = source_path(label, root)
    target = folder / "source" / label
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target / build.blank_path(source, root).name)
    shutil.copyfile(Path(__file__).with_name("nbgrader_config.py"), folder / "nbgrader_config.py")
    course = folder.resolve() / "course" / label
    shutil.rmtree(course, ignore_errors=True)
    write_course(course, label, root)
    kernel = folder / "kernels" / f"jailed-{label}"
    kernel.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "shared.classroom.jail", "{connection_file}", str(course)]
    spec = {"argv": argv, "language": "python", "interrupt_mode": "message"}
    spec["display_name"] = f"Python in a jail, with the course as far as {label} needs it"
    (kernel / "kernel.json").write_text(json.dumps(spec, indent=1), "utf-8")
    return target
