"""The exporter: the module it makes, everything it refuses, and how it tells what drifted."""

import json
import subprocess
import sys

import pytest

from shared import export
from shared.artifacts import ROOT
from shared.export import ExportError, drift, export_all, main, render


def cell(source, kind="code"):
    found = {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
    return found | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def text(source):
    return cell(source, "markdown")


class Course:
    """A course in a temporary folder."""

    def __init__(self, root):
        self.root = root
        (root / "shared").mkdir()
        self.target = root / "shared" / "previous_chapters.py"

    def chapter(self, name, *cells, file=None):
        path = self.root / name / f"{file or name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        cells = [cell(c) if isinstance(c, str) else c for c in cells]
        path.write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5}), "utf-8")
        return path

    def render(self, **options):
        return render(self.root, **options)

    def refused(self):
        with pytest.raises(ExportError) as caught:
            self.render()
        assert len(caught.value.problems) == 1, caught.value.problems
        return caught.value.problems[0]


@pytest.fixture
def course(tmp_path):
    return Course(tmp_path)


FIRST = """#| export
import os
from collections.abc import Iterator, Sequence

import numpy as np"""

COUNT = '''#| export
LIMIT = 3  # of something


def count(words: Sequence[str]) -> int:
    """How many there are."""
    return len(words)'''

WALK = """#| export
class Walk:
    steps = LIMIT

    def __iter__(self) -> Iterator[int]:
        yield from range(self.steps)
        # the end"""

LATER = '''#| export
import numpy as np
from shared.previous_chapters import LIMIT, count

from shared.artifacts import artifact_path


def mean(words: list[str]) -> float:
    """
    Their mean length.
    """

    return float(np.mean([count(w) for w in words] + [LIMIT])) if artifact_path("x") else 0.0'''

EXPECTED = '''\
"""Everything that the chapters define for one another, collected from their notebooks.

Written by `make export` from the cells that begin with `#| export`; a change made here is lost.
Each definition names the notebook and the section that teach it: change it there.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from shared.artifacts import artifact_path

__all__ = [
    # ch02_words
    "LIMIT",
    "count",
    "Walk",
    # ch03_means
    "mean",
]


# --------------------------------------------------------------------------------------------------
# Chapter 2: Words and code
# ch02_words/ch02_words.ipynb
# --------------------------------------------------------------------------------------------------


# ch02_words.ipynb, "Counting them"
LIMIT = 3  # of something


def count(words: Sequence[str]) -> int:
    """How many there are."""
    # ch02_words.ipynb, "Counting them"
    return len(words)


class Walk:
    # ch02_words.ipynb, "Walking"
    steps = LIMIT

    def __iter__(self) -> Iterator[int]:
        yield from range(self.steps)
        # the end


# --------------------------------------------------------------------------------------------------
# ch03_means
# ch03_means/ch03_means.ipynb
# --------------------------------------------------------------------------------------------------


def mean(words: list[str]) -> float:
    """
    Their mean length.
    """
    # ch03_means.ipynb

    return float(np.mean([count(w) for w in words] + [LIMIT])) if artifact_path("x") else 0.0
'''


@pytest.fixture
def two(course):
    course.chapter(
        "ch02_words",
        text("# Chapter 2: *Words* and `code`\n\nprose\n\n```python\n# not a heading\n```"),
        FIRST,
        text("## 2.1 Looking\n\nbla\n\n### [Counting](x.md) **them**  ##"),
        COUNT,
        cell("print('not exported')\n%timeit 1"),
        text("## Walking\n#nor this"),
        WALK,
    )
    course.chapter("ch03_means", LATER, "mean(['a'])")
    course.chapter("ch03_means", "#| export\nSECRET = 1", file="ch03_exercises")
    return course


def ruff(*arguments, stdin=None):
    command = [sys.executable, "-m", "ruff", *arguments, "--config", str(ROOT / "pyproject.toml")]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT)


# What it makes


def test_the_module_reads_as_if_written_by_hand(two):
    assert two.render() == EXPECTED


def test_the_module_passes_ruff(two):
    name = ("--stdin-filename", "shared/previous_chapters.py", "-")
    for arguments in (("format", "--check", *name), ("check", *name)):
        result = ruff(*arguments, stdin=two.render())
        assert result.returncode == 0, result.stdout + result.stderr


def test_equal_notebooks_give_equal_bytes(two):
    assert two.render() == two.render()
    code = (
        "from pathlib import Path\nfrom shared.export import render\n"
        f"print(render(Path({str(two.root)!r})), end='')"
    )
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            cwd=ROOT,
        )
        assert run.stdout.decode() == EXPECTED


def test_prose_outputs_and_other_cells_change_nothing(two):
    path = two.root / "ch02_words" / "ch02_words.ipynb"
    notebook = json.loads(path.read_text("utf-8"))
    notebook["cells"].insert(3, text("More prose."))
    notebook["cells"].insert(3, cell("1 + 1"))
    notebook["cells"][-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    notebook["cells"][-1]["source"] = "".join(notebook["cells"][-1]["source"])  # a text, as allowed
    path.write_text(json.dumps(notebook), "utf-8")
    assert two.render() == EXPECTED


def test_the_module_runs(two):
    space = {}
    exec(two.render(), space)
    assert list(space["Walk"]()) == [0, 1, 2] and space["count"]("abcd") == 4
    assert set(space["__all__"]) <= set(space)


def test_upto_stops_after_a_chapter(two):
    part = two.render(upto=2)
    assert "ch03" not in part and "class Walk" in part and "numpy" not in part


def test_no_chapters_give_an_empty_module(course):
    space = {}
    exec(course.render(), space)
    assert space["__all__"] == []


def test_imports_are_sorted_merged_wrapped_and_needed(course):
    imports = """#| export
from __future__ import annotations
import torch.nn.functional as F, zlib
import json as js
from torch import nn, Tensor, float32 as f32, FloatType, CONSTANT, x10, x2
from typing import NamedTuple
from a_module import (
    the_first_long_name, the_second_long_name, the_third_long_name, the_fourth_long_name
)
import shared.figures
import os.path
import os"""
    uses = """#| export
def use(t: Tensor, f: "NamedTuple"):
    names = the_first_long_name, the_second_long_name, the_third_long_name
    names += the_fourth_long_name
    return F, zlib, js, nn, f32, FloatType, CONSTANT, x10, x2, names, shared.figures, os.path"""
    course.chapter("ch02_a", imports, uses)
    course.chapter("ch03_b", "#| export\nfrom torch.nn import functional as F\n\n\nGO = F")
    head = course.render().split("__all__")[0].split('"""')[2].strip()
    assert (
        head
        == """from __future__ import annotations

import json as js
import os
import os.path
import zlib
from typing import NamedTuple

import torch.nn.functional as F
from a_module import (
    the_first_long_name,
    the_fourth_long_name,
    the_second_long_name,
    the_third_long_name,
)
from torch import CONSTANT, FloatType, Tensor, nn, x2, x10
from torch import float32 as f32

import shared.figures"""
    )
    name = ("--stdin-filename", "shared/previous_chapters.py", "-")
    assert ruff("check", "--select", "I,F", *name, stdin=course.render()).returncode == 0


@pytest.mark.parametrize(
    "source, expected",
    [
        ("def f(): ...", '# ch02_a.ipynb, "S"\ndef f(): ...'),
        ("class E(Exception):\n    pass", 'class E(Exception):\n    # ch02_a.ipynb, "S"\n    pass'),
        (
            'class E(Exception):\n    """Bad."""',
            'class E(Exception):\n    """Bad."""\n\n    # ch02_a.ipynb, "S"',
        ),
        (
            "# above\n@staticmethod\ndef f(\n    a,\n):\n    # why\n    return a",
            '# above\n@staticmethod\ndef f(\n    a,\n):\n    # ch02_a.ipynb, "S"\n    # why\n'
            "    return a",
        ),
        (
            "class A:\n    @property\n    def x(self):\n        return 1",
            'class A:\n    # ch02_a.ipynb, "S"\n    @property\n    def x(self):\n        return 1',
        ),
        (
            'async def f():\n    r"""D\n    e\n    """\n\n    return """\nat the edge\n"""',
            'async def f():\n    r"""D\n    e\n    """\n    # ch02_a.ipynb, "S"\n\n'
            '    return """\nat the edge\n"""',
        ),
        ("A, B = 1, 2\nC: int = 3", '# ch02_a.ipynb, "S"\nA, B = 1, 2\nC: int = 3'),
        (
            "A = 1\n\n# of b\nB = [\n    1,\n]",
            '# ch02_a.ipynb, "S"\nA = 1\n\n# of b\nB = [\n    1,\n]',
        ),
    ],
)
def test_bodies_are_verbatim_and_name_their_origin(course, source, expected):
    course.chapter("ch02_a", text("# S"), f"#| export\n\n{source}")
    module = course.render()
    assert module.split("---\n\n\n")[1] == expected + "\n"
    name = ("--stdin-filename", "shared/previous_chapters.py", "-")
    formatted = ruff("format", "--diff", *name, stdin=module)
    assert formatted.returncode == 0, formatted.stdout


def test_private_names_are_defined_but_not_offered(course):
    course.chapter("ch02_a", "#| export\ndef _help():\n    pass\n\n\ndef do():\n    _help()")
    assert "def _help" in course.render() and '"_help"' not in course.render()


def test_a_long_section_title_keeps_to_the_line(course):
    course.chapter("ch02_a", text("# " + "long " * 40), "#| export\ndef f():\n    return 1")
    assert max(map(len, course.render().splitlines())) <= 100


# What it refuses


def test_undefined_name(course):
    course.chapter("ch02_a", "x = 1", "#| export\ndef f():\n    return torch.ones(x)", "f()")
    with pytest.raises(ExportError) as caught:
        course.render()
    where = "ch02_a.ipynb, cell 2 ('def f():'): undefined name"
    assert [p.partition(";")[0].partition(": export")[0] for p in caught.value.problems] == [
        f"{where} 'torch'",
        f"{where} 'x'",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "def f(a=missing):\n    return a",
        "@missing\ndef f():\n    pass",
        "class A(missing):\n    pass",
        "def f(a: missing):\n    return a",
        "def f(a: 'missing'):\n    return a",
        "A = [missing for _ in range(3)]",
    ],
)
def test_undefined_name_anywhere(course, source):
    course.chapter("ch02_a", f"#| export\n{source}")
    assert "undefined name 'missing'" in course.refused()


def test_a_name_defined_too_late_to_be_used(course):
    course.chapter("ch02_a", "#| export\nA = later()", "#| export\ndef later():\n    pass")
    assert "cell 1" in course.refused() and "undefined name 'later'" in course.refused()


def test_another_chapters_name_must_be_imported(course):
    course.chapter("ch02_a", "#| export\nLIMIT = 1")
    course.chapter("ch03_b", "#| export\ndef f():\n    return LIMIT")
    assert "ch03_b.ipynb, cell 1" in course.refused()
    assert "undefined name 'LIMIT'" in course.refused()


def test_an_import_that_only_another_chapter_has(course):
    course.chapter("ch02_a", "#| export\nimport os\n\n\ndef f():\n    return os")
    course.chapter("ch03_b", "#| export\ndef g():\n    return os")
    assert "ch03_b.ipynb, cell 1" in course.refused() and "undefined name 'os'" in course.refused()


@pytest.mark.parametrize("second", ["ch02_a", "ch03_b"])
def test_a_name_exported_twice(course, second):
    one, two = "#| export\ndef f():\n    return 1", "#| export\nclass f:\n    pass"
    if second == "ch02_a":
        course.chapter("ch02_a", one, two)
    else:
        course.chapter("ch02_a", one)
        course.chapter("ch03_b", "1", two)
    number = 2
    message = course.refused()
    assert message.startswith(f"{second}.ipynb, cell {number} ('class f:'): 'f' is exported twice")
    assert "first in ch02_a.ipynb, cell 1" in message


def test_a_name_imported_and_exported(course):
    course.chapter("ch02_a", "#| export\nfrom math import log\n\n\ndef f():\n    return log")
    course.chapter("ch03_b", "#| export\ndef log():\n    return 1")
    assert "'log' is exported, and imported for something else" in course.refused()


def test_one_name_for_two_imports(course):
    course.chapter("ch02_a", "#| export\nfrom math import log\n\n\ndef f():\n    return log")
    course.chapter("ch03_b", "#| export\nfrom numpy import log\n\n\ndef g():\n    return log")
    assert "'log' already means math.log in ch02_a.ipynb, cell 1" in course.refused()


@pytest.mark.parametrize(
    "line, reason",
    [
        ("from math import *", "star import"),
        ("from shared.previous_chapters import *", "star import"),
        ("from .previous_chapters import x", "relative import"),
        ("import shared.previous_chapters", "write 'from shared.previous_chapters import NAME'"),
        ("from shared import previous_chapters as p", "write 'from shared.previous_chapters"),
        ("from shared.previous_chapters import f as g", "keep the names"),
    ],
)
def test_imports_that_hide_where_names_come_from(course, line, reason):
    course.chapter("ch02_a", "1", f"#| export\n{line}")
    assert reason in course.refused() and f"ch02_a.ipynb, cell 2 ({line!r})" in course.refused()


def test_importing_what_nobody_exports(course):
    course.chapter("ch02_a", "#| export\nfrom shared.previous_chapters import nothing")
    assert "imports 'nothing', which no earlier chapter exports" in course.refused()


@pytest.mark.parametrize("where", ["ch02_a", "ch03_b"])
def test_importing_from_oneself_or_from_later(course, where):
    imports = "#| export\nfrom shared.previous_chapters import f\n\n\ndef g():\n    return f()"
    define = "#| export\ndef f():\n    return 1"
    if where == "ch02_a":
        course.chapter("ch02_a", imports, "1")
        course.chapter("ch03_b", define)
        later = "ch03_b"
    else:
        course.chapter("ch03_b", define, imports)
        later = "ch03_b"
    message = course.refused()
    assert message.startswith(f"{where}.ipynb") and f"{later}.ipynb does" in message


@pytest.mark.parametrize(
    "line",
    [
        "print(1)",
        "'a text'",
        "model = dict()",
        "if True:\n    A = 1",
        "for A in range(3):\n    pass",
        "A.b = 1",
        "A += 1",
        "X: int",
        "assert True",
        "try:\n    import regex\nexcept ImportError:\n    import re",
        "del A",
        "await go()",
    ],
)
def test_statements_that_run(course, line):
    course.chapter("ch02_a", f"#| export\nA = 1\n\n\n{line}")
    message = course.refused()
    first = line.splitlines()[0]
    assert message.startswith("ch02_a.ipynb, cell 1 ('A = 1')")
    assert f"{first!r} runs" in message or "syntax error" in message


@pytest.mark.parametrize(
    "line", ["%matplotlib inline", "!pip install x", "x = !ls", "f?", "%%time"]
)
def test_magics(course, line):
    course.chapter("ch02_a", f"#| export\n{line}")
    assert "a magic or shell line" in course.refused() and repr(line) in course.refused()


def test_syntax_errors_say_where(course):
    course.chapter("ch02_a", "1", "#| export\ndef f():\n    retrun 1")
    assert "cell 2 ('def f():'): syntax error in line 3" in course.refused()


def test_two_statements_in_a_line(course):
    course.chapter("ch02_a", "#| export\nA = 1; B = 2")
    assert "two statements in line 2" in course.refused()


def test_a_marker_that_is_not_the_first_line(course):
    course.chapter("ch02_a", "A = 1\n#| export\nB = 2")
    assert "'#| export' must stand once, as the first line" in course.refused()


def test_all_problems_are_told_at_once(course):
    course.chapter("ch02_a", "#| export\nprint(1)", "#| export\nfrom math import *")
    course.chapter("ch03_b", "#| export\ndef f(:")
    with pytest.raises(ExportError) as caught:
        course.render()
    assert len(caught.value.problems) == 3 and str(caught.value).count("\n") == 2


# Drift and the command


def test_a_current_module_has_no_drift_and_is_not_written_again(two, capsys):
    export_all(two.root)
    before = two.target.stat().st_mtime_ns
    assert two.target.read_text("utf-8") == EXPECTED and drift(two.root) == []
    export_all(two.root)
    assert two.target.stat().st_mtime_ns == before
    assert capsys.readouterr().out.endswith("previous_chapters.py is current\n")


def test_drift_names_the_definition_its_notebook_and_cell(two):
    export_all(two.root)
    two.chapter("ch03_means", LATER.replace("else 0.0", "else 1.0"), "#| export\nNEW = 1")
    assert drift(two.root) == [
        "ch03_means.ipynb, cell 1: mean differs from the one in previous_chapters.py",
        "ch03_means.ipynb, cell 2: NEW is not in previous_chapters.py yet",
    ]
    two.chapter("ch03_means", "1")
    assert drift(two.root) == ["previous_chapters.py: no notebook exports mean"]


def test_drift_by_hand_and_in_the_imports(two):
    export_all(two.root)
    two.target.write_text(EXPECTED.replace("return len(words)", "return 0"), "utf-8")
    assert drift(two.root) == [
        "ch02_words.ipynb, cell 4: count differs from the one in previous_chapters.py"
    ]
    two.target.write_text(EXPECTED.replace("Sequence\n", "Sequence as Sequence\n"), "utf-8")
    assert drift(two.root) == ["previous_chapters.py: its imports, order or comments differ"]
    two.target.unlink()
    assert drift(two.root) == ["previous_chapters.py does not exist"]


def test_a_refused_export_leaves_the_old_module(two):
    export_all(two.root)
    two.chapter("ch04_c", "#| export\nprint(1)")
    with pytest.raises(ExportError):
        export_all(two.root)
    assert two.target.read_text("utf-8") == EXPECTED
    assert [p.name for p in two.target.parent.iterdir()] == ["previous_chapters.py"]


def test_the_command(two, capsys, tmp_path):
    place = ["--root", str(two.root), "--output", str(two.target)]
    assert main([*place, "--check"]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main(place) == 0 and main([*place, "--check"]) == 0
    capsys.readouterr()
    two.chapter("ch03_means", LATER.replace("else 0.0", "else 1.0"))
    assert main([*place, "--check"]) == 1
    assert "ch03_means.ipynb, cell 1: mean differs" in capsys.readouterr().err
    two.chapter("ch03_means", "#| export\n%time")
    assert main(place) == 1
    assert "ch03_means.ipynb, cell 1 ('%time'): a magic" in capsys.readouterr().err
    part = tmp_path / "part.py"
    assert main(["--root", str(two.root), "--output", str(part), "--upto", "2"]) == 0
    assert part.read_text("utf-8") == two.render(upto=2)


# --- the appendices: a module of their own, after all chapters


CACHE = """#| export
from shared.previous_chapters import count


def cached(words: list[str]) -> int:
    \"\"\"Counted once.\"\"\"
    return count(words)"""

AGAIN = """#| export
from shared.appendices import cached
from shared.previous_chapters import LIMIT


def again(words: list[str]) -> int:
    \"\"\"Counted again.\"\"\"
    return cached(words) + LIMIT"""


def appendix(course, name, *cells):
    (course.root / "appendix").mkdir(exist_ok=True)
    return course.chapter(f"appendix/{name}", *cells, file=name)


@pytest.fixture
def three(two):
    appendix(two, "f_cache", text("# Appendix F · Caching"), CACHE)
    appendix(two, "g_again", text("# Appendix G · Again"), AGAIN)
    return two


def test_appendices_have_a_module_that_imports_the_chapters(three):
    before = three.render()
    module = three.render(module=export.APPENDICES)
    assert before == EXPECTED  # the chapters' module does not change
    assert "Everything that the appendices define" in module
    assert "from shared.previous_chapters import LIMIT, count\n" in module
    assert "from shared.appendices" not in module
    assert module.index("def cached") < module.index("def again")
    assert '# f_cache.ipynb, "Appendix F · Caching"' in module


def test_both_modules_are_written_and_compared(three, capsys):
    assert main(["--root", str(three.root)]) == 0
    assert (three.root / "shared" / "appendices.py").is_file()
    assert main(["--root", str(three.root), "--check"]) == 0
    appendix(three, "g_again", AGAIN.replace("+ LIMIT", "- LIMIT"))
    capsys.readouterr()
    assert main(["--root", str(three.root), "--check"]) == 1
    assert "g_again.ipynb, cell 1: again differs" in capsys.readouterr().err


def test_without_appendices_there_is_no_module_of_theirs(two):
    assert drift(two.root, module=export.APPENDICES) == []
    appendix(two, "a_primer", text("# A"), "1")
    assert drift(two.root, module=export.APPENDICES) == []


@pytest.mark.parametrize(
    "source, reason",
    [
        ("from shared.previous_chapters import again", "it stands in shared.appendices, from"),
        ("from shared.appendices import count", "it stands in shared.previous_chapters, from"),
        ("from shared.appendices import later", "h_more.ipynb does, and comes no earlier"),
        ("def cached():\n    return 1", "'cached' is exported twice, first in f_cache.ipynb"),
        ("def count():\n    return 1", "'count' is exported twice, first in ch02"),
    ],
)
def test_appendices_import_from_the_right_module(three, source, reason):
    appendix(three, "h_more", f"#| export\n{source}", "#| export\ndef later():\n    return 1")
    assert reason in three.refused()


def test_a_chapter_imports_from_no_appendix(three):
    three.chapter("ch04_late", "#| export\nfrom shared.appendices import cached")
    assert "f_cache.ipynb does, and comes no earlier" in three.refused()


def test_exporting_needs_neither_torch_nor_jupyter():
    code = (
        "import shared.export, sys\n"
        "print([m for m in ('torch', 'IPython', 'nbformat') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


def test_the_marker_is_strict():
    assert export.MARKER.match("#| export") and export.MARKER.match("#|export  ")
    assert not export.MARKER.match("#| exporting") and not export.MARKER.match(" #| export")
