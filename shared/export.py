"""Collect the exported cells of the chapters into `shared/previous_chapters.py`.

Those of the appendices go to `shared/appendices.py` in the same way; they build on all chapters.

A code cell whose first line is `#| export` holds imports, definitions and constants, nothing that
runs. They are gathered in chapter order: imports once at the top, then every definition as it
stands in its notebook, with a comment that says which notebook and which section taught it.

    python -m shared.export            write both modules
    python -m shared.export --check    compare only; exit with 1 and say which definition drifted
    python -m shared.export --upto 3 --output FILE    only chapters 1 to 3, elsewhere

Reads the notebooks as plain JSON and imports neither torch nor Jupyter, so it takes under a second.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pyflakes import messages
from pyflakes.checker import Checker

from shared.artifacts import ROOT, written_whole

MODULE = "shared.previous_chapters"
APPENDICES = "shared.appendices"
MARKER = re.compile(r"#\|\s*export\s*$")
MAGIC = re.compile(r"\s*([%!?]|[\w.]+\?{1,2}\s*$|[\w, ]+=\s*[%!])")
WIDTH = 100

DOCSTRING = '''\
"""Everything that the {which} define for one another, collected from their notebooks.

Written by `make export` from the cells that begin with `#| export`; a change made here is lost.
Each definition names the notebook and the section that teach it: change it there.
"""'''


class ExportError(Exception):
    """The exported cells cannot become a module; one line per problem."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Cell:
    """One exported cell: where it stands and what it holds."""

    notebook: Path
    number: int  # counted over all cells of the notebook from 1, as a reader would
    source: str
    section: str

    @property
    def first_line(self) -> str:
        """The first line after the marker that says something."""
        lines = [line for line in self.source.splitlines()[1:] if line.strip()]
        return lines[0].strip() if lines else self.source.strip()

    def problem(self, what: str) -> str:
        """`what`, with notebook, cell and the cell's first line."""
        return f"{self.notebook.name}, cell {self.number} ({self.first_line!r}): {what}"


@dataclass(frozen=True)
class Block:
    """A definition, or a constant, with the comments above it."""

    names: tuple[str, ...]
    lines: tuple[str, ...]
    is_definition: bool
    cell: Cell
    blank_before: bool = False


@dataclass
class Chapter:
    """What one notebook exports."""

    notebook: Path
    title: str
    cells: list[Cell] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    imports: list[tuple[Import, Cell]] = field(default_factory=list)
    from_earlier: list[tuple[str, str, Cell]] = field(default_factory=list)  # module, name, cell

    @property
    def module(self) -> str:
        """The module that its exported cells go to."""
        return MODULE if re.match(r"ch\d\d_", self.notebook.name) else APPENDICES

    @property
    def number(self) -> int:
        """Its place in the course: appendices follow the chapters, by their letters."""
        name = self.notebook.name
        return int(name[2:4]) if self.module == MODULE else 100 + ord(name[0])

    @property
    def names(self) -> dict[str, Cell]:
        """Every name this chapter exports, and the cell that does so."""
        return {name: block.cell for block in self.blocks for name in block.names}


@dataclass(frozen=True)
class Import:
    """One imported name: `import module [as alias]` or `from module import name [as alias]`."""

    module: str
    name: str | None = None
    alias: str | None = None

    @property
    def bound(self) -> str:
        """The name it makes."""
        return self.alias or self.name or self.module.partition(".")[0]

    @property
    def meaning(self) -> str:
        """What that name stands for, the same for every way to write it."""
        if self.name:
            return f"{self.module}.{self.name}"
        return self.module if self.alias else self.bound

    def __str__(self) -> str:
        what = f"import {self.name or self.module}"
        if self.alias:
            what += f" as {self.alias}"
        return f"from {self.module} {what}" if self.name else what


# Reading notebooks


def chapter_notebooks(root: Path = ROOT) -> list[Path]:
    """The chapters' notebooks in order, without exercises and solutions."""
    found = root.glob("ch[0-9][0-9]_*/ch[0-9][0-9]_*.ipynb")
    return sorted(p for p in found if not p.stem.endswith(("_exercises", "_solutions")))


def appendix_notebooks(root: Path = ROOT) -> list[Path]:
    """The appendices' notebooks in the order of their letters, without solutions."""
    found = root.glob("appendix/[a-z]_*/[a-z]_*.ipynb")
    return sorted(p for p in found if p.stem == p.parent.name)


def source_of(cell: dict) -> str:
    """A cell's source as one text; notebooks store either a text or a list of lines."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _headings(markdown: str) -> Iterator[str]:
    """The headings of a Markdown cell as plain words; code fences are passed over."""
    outside = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.DOTALL | re.MULTILINE)
    for text in re.findall(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$", outside, flags=re.MULTILINE):
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
        yield re.sub(r"\s+", " ", re.sub(r"[`*]|\$", "", text)).strip()


def read_chapter(notebook: Path) -> tuple[Chapter, list[str]]:
    """The exported cells of a notebook with the sections they stand in, and what is wrong."""
    problems: list[str] = []
    section = title = ""
    chapter = Chapter(notebook, "")
    for number, raw in enumerate(json.loads(notebook.read_text("utf-8"))["cells"], start=1):
        source = source_of(raw).replace("\r\n", "\n").strip("\n")
        if raw["cell_type"] == "markdown":
            for section in _headings(source):
                title = title or section
        elif raw["cell_type"] == "code":
            marked = [i for i, line in enumerate(source.splitlines()) if MARKER.match(line)]
            cell = Cell(notebook, number, source, section)
            if marked == [0]:
                chapter.cells.append(cell)
            elif marked:
                problems.append(cell.problem("'#| export' must stand once, as the first line"))
    chapter.title = title or notebook.stem
    for cell in chapter.cells:
        problems += _take_apart(cell, chapter)
    return chapter, problems


# Taking a cell apart


def _take_apart(cell: Cell, chapter: Chapter) -> list[str]:
    """Put the cell's imports and definitions into `chapter`; return what is wrong with it."""
    try:
        tree = ast.parse(cell.source)
    except SyntaxError as error:
        line = cell.source.splitlines()[(error.lineno or 1) - 1]
        if any(MAGIC.match(text) for text in (line, cell.first_line)):
            return [cell.problem(f"a magic or shell line cannot be exported: {line.strip()!r}")]
        return [cell.problem(f"syntax error in line {error.lineno}: {error.msg}: {line.strip()!r}")]
    problems = []
    lines = cell.source.splitlines()
    end = 1  # the marker
    for index, node in enumerate(tree.body):
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        if start <= end:
            problems.append(cell.problem(f"two statements in line {start}: give each its own"))
            continue
        above = lines[end : start - 1]
        following = tree.body[index + 1 :]
        limit = following[0].lineno - 1 if following else len(lines)
        end = _end_of(node, lines, limit)
        if isinstance(node, ast.Import | ast.ImportFrom):
            problems += _take_import(node, cell, chapter)
            continue
        names = _names_of(node)
        if names is None:
            what = lines[start - 1].strip()
            problems.append(cell.problem(f"only imports, definitions and CONSTANTS: {what!r} runs"))
            continue
        definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        blank_before = bool(above) and not above[0].strip()
        body = [*_stripped(above), *lines[start - 1 : end]]
        if definition:
            body = _with_origin(node, body, start - 1 - len(_stripped(above)), _origin(cell))
        chapter.blocks.append(Block(names, tuple(body), definition, cell, blank_before))
    return problems


def _end_of(node: ast.stmt, lines: list[str], limit: int) -> int:
    """Last line of a statement, with the indented comments that close its body."""
    end = node.end_lineno or node.lineno
    for number in range(end, limit):
        text = lines[number]
        if text.strip() and not (text[0].isspace() and text.strip().startswith("#")):
            break
        if text.strip():
            end = number + 1
    return end


def _stripped(lines: list[str]) -> list[str]:
    """Without blank lines at its beginning and, where nothing else is left, at its end."""
    while lines and not lines[0].strip():
        lines = lines[1:]
    return lines


def _names_of(node: ast.stmt) -> tuple[str, ...] | None:
    """Names that a definition or constant makes; None for a statement that runs."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        targets: list[ast.expr] = [node.target]
    elif isinstance(node, ast.Assign):
        targets = node.targets
    else:
        return None
    parts = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
    if not all(isinstance(part, ast.Name) for part in parts):
        return None
    names = tuple(part.id for part in parts)
    # Constants are UPPER_CASE, aliases of types CamelCase; a lower-case name is a running variable.
    return names if all(re.match(r"_?[A-Z]", name) for name in names) else None


def _origin(cell: Cell) -> str:
    """The comment that leads back to the lesson."""
    text = f"# {cell.notebook.name}"
    if cell.section:
        text += f', "{cell.section}"'
    return text if len(text) <= WIDTH - 4 else text[: WIDTH - 8] + '..."'


def _with_origin(node: ast.stmt, body: list[str], offset: int, origin: str) -> list[str]:
    """The definition's lines with `origin` inside its body, after the docstring.

    `offset` is how many lines of the cell come before `body`.
    """
    first = node.body[0]
    if first.lineno == node.lineno or not body[first.lineno - 1 - offset][: first.col_offset] == (
        " " * first.col_offset
    ):
        return [origin, *body]  # `def f(): ...` in one line has no room inside
    comment = " " * first.col_offset + origin
    if ast.get_docstring(node, clean=False) is not None:
        at = first.end_lineno - offset
        gap = [""] if isinstance(node, ast.ClassDef) else []
        return [*body[:at], *gap, comment, *body[at:]]
    at = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", ()))]) - 1 - offset
    while body[at - 1].strip().startswith("#"):
        at -= 1
    return [*body[:at], comment, *body[at:]]


def _take_import(node: ast.Import | ast.ImportFrom, cell: Cell, chapter: Chapter) -> list[str]:
    """Put imported names into `chapter`; return what is wrong with them."""
    written = ast.unparse(node)
    if isinstance(node, ast.ImportFrom):
        if node.level:
            return [cell.problem(f"relative import: {written!r}; write the full name")]
        if any(alias.name == "*" for alias in node.names):
            return [cell.problem(f"star import: {written!r}; name what you need")]
        if node.module in (MODULE, APPENDICES):
            if any(alias.asname for alias in node.names):
                return [cell.problem(f"{written!r}: keep the names as their chapters export them")]
            chapter.from_earlier += [(node.module, alias.name, cell) for alias in node.names]
            if node.module != chapter.module:  # in its own module the name stands already
                chapter.imports += [(Import(node.module, alias.name), cell) for alias in node.names]
            return []
    imports = [
        Import(node.module, alias.name, _alias(alias))
        if isinstance(node, ast.ImportFrom)
        else Import(alias.name, None, _alias(alias))
        for alias in node.names
    ]
    for module in (MODULE, APPENDICES):
        if any(module in (i.meaning, i.module) for i in imports):
            return [cell.problem(f"{written!r}: write 'from {module} import NAME'")]
    chapter.imports += [(i, cell) for i in imports]
    return []


def _alias(alias: ast.alias) -> str | None:
    return alias.asname if alias.asname != alias.name else None


# Looking for what is wrong


def _undefined(chapter: Chapter) -> Iterator[str]:
    """Names that a chapter's exported cells use but neither define nor import."""
    owners: list[Cell] = []
    text: list[str] = []
    for cell in chapter.cells:
        lines = cell.source.splitlines()
        text += lines
        owners += [cell] * len(lines)
    try:
        tree = ast.parse("\n".join(text))
    except SyntaxError:
        return  # reported with its own cell already
    for message in Checker(tree, filename=str(chapter.notebook)).messages:
        if isinstance(message, messages.UndefinedName):
            cell, name = owners[message.lineno - 1], message.message_args[0]
            yield cell.problem(
                f"undefined name {name!r}: export its definition, or import it in an exported cell"
            )


def _clashes(chapters: list[Chapter]) -> Iterator[str]:
    """Names exported twice, imported for two things, or imported before they exist."""
    exported: dict[str, tuple[int, Cell]] = {}
    imported: dict[str, tuple[str, Cell]] = {}
    everything = {name: c for c in reversed(chapters) for name in c.names}  # the first one counts
    for chapter in chapters:
        for module, name, cell in chapter.from_earlier:
            where = everything.get(name)
            if where and where.module == module and where.number < chapter.number:
                continue
            reason = ""
            if where and where.module != module:
                reason = f"; it stands in {where.module}, from {where.notebook.name}"
            elif where:
                reason = f"; {where.notebook.name} does, and comes no earlier"
            yield cell.problem(f"imports {name!r}, which no earlier chapter exports{reason}")
        for block in chapter.blocks:
            for name in block.names:
                if name in exported:
                    other = exported[name][1]
                    place = f"{other.notebook.name}, cell {other.number}"
                    yield block.cell.problem(f"{name!r} is exported twice, first in {place}")
                exported.setdefault(name, (chapter.number, block.cell))
        for imp, cell in chapter.imports:
            meaning, other = imported.setdefault(imp.bound, (imp.meaning, cell))
            if meaning != imp.meaning:
                place = f"{other.notebook.name}, cell {other.number}"
                yield cell.problem(f"'{imp}': {imp.bound!r} already means {meaning} in {place}")
    for name, (_, cell) in exported.items():
        own = (f"{MODULE}.{name}", f"{APPENDICES}.{name}")
        if name in imported and imported[name][0] not in own:
            other = imported[name][1]
            place = f"{other.notebook.name}, cell {other.number}"
            yield cell.problem(f"{name!r} is exported, and imported for something else in {place}")


def collect(root: Path = ROOT, upto: int | None = None) -> list[Chapter]:
    """All chapters and appendices with what they export.

    Args:
        root: the course's folder.
        upto: the last chapter to take, and no appendix; everything if None.

    Raises:
        ExportError: a cell that cannot be exported; one line per problem, all of them.
    """
    chapters, problems = [], []
    notebooks = chapter_notebooks(root)
    if upto is None:
        notebooks += appendix_notebooks(root)
    for notebook in notebooks:
        if upto is not None and int(notebook.name[2:4]) > upto:
            continue
        chapter, wrong = read_chapter(notebook)
        chapters.append(chapter)
        problems += [*wrong, *_undefined(chapter)]
    problems += _clashes(chapters)
    if problems:
        raise ExportError(dict.fromkeys(problems))
    return chapters


# Writing the module


def _natural(name: str) -> list:
    """Sort key that puts `x2` before `x10` and ignores case first."""
    return [int(p) if p.isdigit() else p.lower() for p in re.split(r"(\d+)", name)] + [name]


def _kind(name: str) -> int:
    """Constants, then classes, then the rest: the order that isort gives names of one module."""
    return 0 if len(name) > 1 and name.isupper() else 1 if name[:1].isupper() else 2


def _section(module: str) -> int:
    top = module.partition(".")[0]
    if top == "__future__":
        return 0
    return 1 if top in sys.stdlib_module_names else 3 if top == "shared" else 2


def _render_imports(imports: Iterable[Import]) -> str:
    """Import statements in the order and form that ruff's isort rule asks for."""
    sections: dict[int, list[str]] = {}
    imports = set(imports)
    for plain in sorted((i for i in imports if not i.name), key=lambda i: _natural(i.module)):
        sections.setdefault(_section(plain.module), []).append(str(plain))
    members = [i for i in imports if i.name]
    for module in sorted({i.module for i in members}, key=_natural):
        of_module = [i for i in members if i.module == module]
        of_module.sort(key=lambda i: (_kind(i.name), _natural(i.name), i.alias or ""))
        here = sections.setdefault(_section(module), [])
        joined = [i.name for i in of_module if not i.alias]
        statements = [str(i) for i in of_module if i.alias]
        if joined:
            line = f"from {module} import {', '.join(joined)}"
            if len(line) > WIDTH:
                listed = "".join(f"    {name},\n" for name in joined)
                line = f"from {module} import (\n{listed})"
            first = next(k for k, i in enumerate(of_module) if not i.alias)
            statements.insert(sum(1 for i in of_module[:first] if i.alias), line)
        here += statements
    return "\n\n".join("\n".join(sections[key]) for key in sorted(sections))


def _needed_imports(chapters: list[Chapter], body: str) -> list[Import]:
    """The imports that `body` uses, each name in the form in which it was first written."""
    forms: dict[str, Import] = {}
    for chapter in chapters:
        for imp, _ in chapter.imports:
            key = str(imp) if not imp.name and not imp.alias else imp.bound
            forms.setdefault(key, imp)
    # The __future__ imports must stand first; then one name a line, so a line number is a name.
    listed = sorted(forms.values(), key=lambda i: i.module != "__future__")
    tree = ast.parse("\n".join([*map(str, listed), body]))
    unused = {
        message.lineno - 1
        for message in Checker(tree).messages
        if isinstance(message, messages.UnusedImport)
    }
    return [imp for number, imp in enumerate(listed) if number not in unused]


def _render_body(chapters: list[Chapter]) -> str:
    """Headings and definitions, in order."""
    parts: list[str] = []
    for chapter in chapters:
        if not chapter.blocks:
            continue
        heading = [f"# {'-' * (WIDTH - 2)}", f"# {chapter.title}"[:WIDTH]]
        heading += [f"# {chapter.notebook.parent.name}/{chapter.notebook.name}", heading[0]]
        parts.append(("\n\n\n" if parts else "") + "\n".join(heading))
        previous = None
        for block in chapter.blocks:
            same_cell = previous is not None and previous.cell is block.cell
            lines = list(block.lines)
            new_group = not same_cell or (previous is not None and previous.is_definition)
            if not block.is_definition and new_group:
                lines.insert(0, _origin(block.cell))
            if block.is_definition or previous is None or previous.is_definition:
                gap = "\n\n\n"
            else:
                gap = "\n\n" if new_group or block.blank_before else "\n"
            parts.append(gap + "\n".join(lines))
            previous = block
    return "".join(parts)


def _render_all(chapters: list[Chapter]) -> str:
    """`__all__`, with a comment per chapter."""
    lines = []
    for chapter in chapters:
        public = [name for name in chapter.names if not name.startswith("_")]
        if public:
            lines += [f"    # {chapter.notebook.stem}", *(f'    "{name}",' for name in public)]
    return "\n".join(["__all__ = [", *lines, "]"]) if lines else "__all__: list[str] = []"


def render(root: Path = ROOT, upto: int | None = None, module: str = MODULE) -> str:
    """The whole module as text; equal notebooks give equal bytes.

    Args:
        root: the course's folder.
        upto: the last chapter to take; all if None.
        module: the chapters' or the appendices'.

    Raises:
        ExportError: a cell that cannot be exported.
    """
    chapters = [chapter for chapter in collect(root, upto) if chapter.module == module]
    body = _render_body(chapters)
    imports = _render_imports(_needed_imports(chapters, body))
    docstring = DOCSTRING.format(which="chapters" if module == MODULE else "appendices")
    head = [docstring, imports, _render_all(chapters)]
    text = "\n\n".join(part for part in head if part)
    return text + ("\n\n\n" + body if body else "") + "\n"


# Comparing and writing


def _definitions(text: str) -> dict[str, str]:
    """Every definition and constant of a module with its exact text."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return {}
    lines = text.splitlines()
    found = {}
    for node in tree.body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        for name in _names_of(node) or ():
            found[name] = "\n".join(lines[start - 1 : node.end_lineno])
    return found


def target_of(module: str, root: Path = ROOT) -> Path:
    """Where a module is kept: its name as a path."""
    return root.joinpath(*module.split(".")).with_suffix(".py")


def drift(
    root: Path = ROOT, target: Path | None = None, upto: int | None = None, module: str = MODULE
) -> list[str]:
    """What differs between the notebooks and the module at `target`, one line per definition.

    Empty when the module is current.

    Raises:
        ExportError: a cell that cannot be exported.
    """
    target = target or target_of(module, root)
    wanted = render(root, upto, module)
    written = target.read_text("utf-8") if target.exists() else ""
    if wanted == written:
        return []
    chapters = [chapter for chapter in collect(root, upto) if chapter.module == module]
    if not written:
        nothing = module == APPENDICES and not any(chapter.names for chapter in chapters)
        return [] if nothing else [f"{target.name} does not exist"]
    new, old = _definitions(wanted), _definitions(written)
    places = {name: cell for c in chapters for name, cell in c.names.items()}
    changes = []
    for name, cell in places.items():
        place = f"{cell.notebook.name}, cell {cell.number}"
        if name not in old:
            changes.append(f"{place}: {name} is not in {target.name} yet")
        elif new[name] != old[name]:
            changes.append(f"{place}: {name} differs from the one in {target.name}")
    changes += [f"{target.name}: no notebook exports {name}" for name in old if name not in new]
    return changes or [f"{target.name}: its imports, order or comments differ"]


def export_all(
    root: Path = ROOT, target: Path | None = None, upto: int | None = None, module: str = MODULE
) -> None:
    """Write `shared/previous_chapters.py` from the notebooks as they are saved, and say so.

    Call it at the end of a notebook after changing an exported cell, having saved the notebook;
    later chapters then use the change. The file is written only if it differs, and whole.

    Raises:
        ExportError: a cell that cannot be exported; the old file stays.
    """
    root = Path(root)
    target = Path(target) if target else target_of(module, root)
    changes = drift(root, target, upto, module)
    if not changes:
        print(f"{target.name} is current")
        return
    with written_whole(target) as temporary:
        temporary.write_text(render(root, upto, module), "utf-8", newline="\n")
    print(f"{target.name} written:")
    print("\n".join(f"  {change}" for change in changes))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m shared.export", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("--upto", type=int, metavar="CHAPTER", help="chapters up to this one only")
    parser.add_argument("--output", type=Path, help="write the chapters' module here instead")
    parser.add_argument("--root", type=Path, default=ROOT, help="the course's folder")
    options = parser.parse_args(arguments)
    whole = options.upto is None and options.output is None
    modules = (MODULE, APPENDICES) if whole else (MODULE,)
    changes: list[str] = []
    try:
        for module in modules:
            given = (options.root, options.output, options.upto, module)
            if options.check:
                changes += drift(*given)
            else:
                export_all(*given)
    except ExportError as error:
        print(f"Nothing exported. What to mend:\n{error}", file=sys.stderr)
        return 1
    if changes:
        print("\n".join(changes), file=sys.stderr)
        print("Run `make export` and commit the result.", file=sys.stderr)
        return 1
    if options.check:
        print("what the notebooks export is current")
    return 0


if __name__ == "__main__":
    sys.exit(main())
