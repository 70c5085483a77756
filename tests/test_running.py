"""Running and tidying notebooks, and what pytest makes of broken ones."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys

import nbformat
import pytest

from shared import notebooks
from shared.artifacts import ROOT
from shared.notebooks import (
    NotebookError,
    all_notebooks,
    course,
    execute,
    is_current,
    main,
    run,
    sample_of,
    tidy,
)


@pytest.fixture(autouse=True)
def own_artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.delenv("FORCE", raising=False)


def write(path, *sources, tags=()):
    """A notebook of code cells; a source that begins with # is Markdown."""
    cells = []
    for source in sources:
        kind = (
            nbformat.v4.new_markdown_cell if source.startswith("# ") else nbformat.v4.new_code_cell
        )
        cells.append(kind(source))
    cells[-1].metadata.tags = list(tags)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def outputs(path):
    return [c.get("outputs") for c in nbformat.read(path, as_version=4).cells]


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def tidied(*given):
    cell = nbformat.v4.new_code_cell("1", execution_count=7, outputs=list(given))
    return tidy(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs


# Running


def test_it_runs_in_its_own_folder_with_this_python(tmp_path):
    where = "import os, sys\nassert os.getcwd() == %r, os.getcwd()\nassert sys.executable == %r"
    path = write(tmp_path / "deep" / "n.ipynb", where % (str(tmp_path / "deep"), sys.executable))
    execute(path)


def test_it_asks_for_no_kernel_by_name(tmp_path):
    path = write(tmp_path / "n.ipynb", "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec = {"name": "nowhere", "display_name": "?", "language": "python"}
    nbformat.write(notebook, path)
    assert run([path]) == 0
    assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"


def test_running_saves_and_running_again_changes_no_byte(tmp_path, capsys):
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()"
    path = write(tmp_path / "n.ipynb", "# T", "print('a')\nprint('b')", "6 * 7", plot)
    assert run([path]) == 0
    first = path.read_bytes()
    assert "ran in" in capsys.readouterr().out
    _, text, result, picture = outputs(path)
    assert text[0].text == "a\nb\n" and result[0].data["text/plain"] == "42"
    assert "image/png" in picture[0].data
    assert run([path], force=True) == 0
    assert path.read_bytes() == first and first.endswith(b"}\n")


def test_what_did_not_change_is_not_run_again(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "n.ipynb", "# T", "print('a')")
    assert not is_current(path)
    run([path])
    assert is_current(path)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# Better prose"
    nbformat.write(notebook, path)
    assert is_current(path)
    run([path])
    assert "unchanged since its last run" in capsys.readouterr().out
    notebook.cells[1].source = "print('b')"
    nbformat.write(notebook, path)
    assert not is_current(path)
    run([path])
    assert is_current(path)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = []
    nbformat.write(notebook, path)
    assert not is_current(path)


def test_a_change_in_what_it_imports_makes_it_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    (tmp_path / "shared").mkdir()
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "shared" / "texts.py").write_text("A = 1")
    path = write(tmp_path / "ch03_c" / "ch03_c.ipynb", "1")
    run([path])
    assert is_current(path)
    write(tmp_path / "ch04_d" / "ch04_d.ipynb", "#| export\nA = 1")
    assert is_current(path)  # what comes later cannot matter
    write(tmp_path / "ch02_b" / "ch02_b.ipynb", "#| export\nB = 1")
    assert not is_current(path)
    run([path])
    (tmp_path / "shared" / "texts.py").write_text("A = 2")
    assert not is_current(path)


def test_force_runs_everything(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "n.ipynb", "1")
    monkeypatch.setenv("FORCE", "1")
    assert main(["run", str(path)]) == 0 and main(["run", str(path)]) == 0
    assert capsys.readouterr().out.count("ran in") == 2


@pytest.mark.parametrize(
    "source, reason",
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import os\nos._exit(1)", "Kernel died"),
        ("import sys\nprint('careful', file=sys.stderr)", "wrote to stderr:\ncareful"),
        ("get_ipython().showtraceback((OSError, OSError('shown only'), None))", "shown only"),
    ],
)
def test_a_notebook_that_fails_is_not_saved(tmp_path, capsys, source, reason):
    path = write(tmp_path / "n.ipynb", "# T", "1", source)
    before = path.read_bytes()
    assert main(["run", str(path)]) == 1
    printed = capsys.readouterr().out
    assert "n.ipynb: NOT saved" in printed and reason in printed
    assert f"n.ipynb, cell 3 ({source.splitlines()[0]!r})" in printed
    assert path.read_bytes() == before and not is_current(path)


def test_a_cell_that_hangs_is_stopped(tmp_path):
    path = write(tmp_path / "n.ipynb", "import time\ntime.sleep(60)")
    with pytest.raises(NotebookError, match="cell 1"):
        execute(path, timeout=1)


def test_errors_on_purpose_may_stand(tmp_path):
    path = write(tmp_path / "n.ipynb", "1 / 0", tags=["raises-exception"])
    assert run([path]) == 0 and outputs(path)[0][0].ename == "ZeroDivisionError"


def test_the_course_shows_times_and_the_last_sample_and_saves_nothing(tmp_path, capsys):
    one = write(tmp_path / "a.ipynb", "print('once upon a time')", tags=["sample"])
    two = write(tmp_path / "b.ipynb", "print('no sample')")
    before = [one.read_bytes(), two.read_bytes()]
    assert course([one, two]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("1/2  a ") and printed[0].endswith(" s")
    assert printed[2].startswith("2 of 2 chapters ran") and printed[-1] == "once upon a time"
    assert [one.read_bytes(), two.read_bytes()] == before


def test_the_course_goes_on_after_a_failure_and_says_so(tmp_path, capsys):
    one, two = write(tmp_path / "a.ipynb", "1 / 0"), write(tmp_path / "b.ipynb", "1")
    assert main(["course", str(one), str(two)]) == 1
    printed = capsys.readouterr().out
    assert "FAILED" in printed and "1 of 2 chapters ran" in printed


def test_a_sample_may_be_a_value_or_missing(tmp_path):
    assert sample_of(execute(write(tmp_path / "a.ipynb", "'text'", tags=["sample"]))) == "'text'"
    assert sample_of(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])) is None


@pytest.mark.parametrize("wrong", [["run"], ["run", "nowhere.ipynb"], ["walk"]])
def test_a_command_that_makes_no_sense_says_so(wrong, capsys):
    with pytest.raises(SystemExit):
        main(wrong)
    assert "error:" in capsys.readouterr().err


def test_the_order_is_chapters_then_exercises_then_appendices(tmp_path):
    places = (
        "ch02_b/ch02_exercises",
        "appendix/a_primer/a_primer",
        "ch10_z/ch10_z",
        "ch02_b/ch02_b",
        "ch01_a/ch01_a",
    )
    for place in places:
        write(tmp_path / f"{place}.ipynb", "1")
    assert [p.stem for p in all_notebooks(tmp_path)] == [
        "ch01_a",
        "ch02_b",
        "ch10_z",
        "ch02_exercises",
        "a_primer",
    ]


# Tidying


def test_streams_are_merged_and_rewritten_lines_settled():
    picture = nbformat.v4.new_output("display_data", {"image/png": "x"})
    text, shown = tidied(stream("a"), stream("b\nstep 1\r"), picture, stream("step 2\n"))
    assert text.text == "ab\nstep 2\n" and shown.data == {"image/png": "x"}


def test_bars_end_up_as_one_line_without_their_timing():
    bar = "\rwork:   0%|   | 0/3 [00:00<?, ?it/s]\rwork: 100%|███| 3/3 [00:01<00:00, 2.9it/s]\n"
    (text,) = tidied(stream("before\n"), stream(bar, "stderr"), stream("after\n"))
    assert text.name == "stdout" and text.text == "work: 100%|███| 3/3\nbefore\nafter\n"
    (text,) = tidied(stream("\r0it [00:00, ?it/s]\r7it [00:01, 6.5it/s]\n", "stderr"))
    assert text.text == "7it\n"


def test_complaints_beside_bars_stay_complaints():
    bar = "\r100%|███| 3/3 [00:01<00:00, 2.9it/s]\n"
    (text,) = tidied(stream(bar + "Warning: bad\n", "stderr"))
    assert text.name == "stderr" and "Warning: bad" in text.text


def test_counts_ids_and_metadata_are_settled():
    code, prose = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    cells = [prose("# T", id="same"), code("1", execution_count=9), code("2")]
    cells[1].metadata = {"tags": ["a"], "collapsed": True, "execution": {"started": "now"}}
    cells[2].metadata = {"nbgrader": {"grade": True}, "scrolled": False, "tags": []}
    cells[2].execution_count = 12
    cells[2].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"})]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.cells[1].id = "same"
    notebook.metadata = {"widgets": {"state": 1}, "language_info": {"version": "3.12.1"}}
    tidy(notebook)
    assert [c.get("execution_count") for c in notebook.cells] == [None, 1, 2]
    assert notebook.cells[2].outputs[0].execution_count == 2
    assert notebook.cells[0].id == "same" and len({c.id for c in notebook.cells}) == 3
    assert [c.metadata for c in notebook.cells] == [
        {},
        {"tags": ["a"]},
        {"nbgrader": {"grade": True}},
    ]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert "version" not in notebook.metadata.language_info
    again = tidy(copy.deepcopy(notebook))
    assert again == notebook
    nbformat.validate(notebook)


def test_widget_views_go_and_their_pictures_stay():
    view = {notebooks.WIDGET: {"model_id": "1"}, "text/plain": "VBox()"}
    picture = {"image/png": "x", "text/plain": "<Figure>"}
    kept = tidied(*(nbformat.v4.new_output("display_data", d) for d in (picture, view)))
    assert [o.data for o in kept] == [picture]


# Under nbval


def nbval(folder):
    shutil.copy(ROOT / "conftest.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-rs"]
    command += ["--nbval-cell-timeout=60", "-v", "--color=no", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


def checked(source, *shown):
    cell = nbformat.v4.new_code_cell(
        source, execution_count=1, metadata={"tags": ["nbval-check-output"]}
    )
    cell.outputs = [stream(text) for text in shown]
    return cell


def test_pytest_runs_notebooks_in_order_and_tells_each_fault_once(tmp_path):
    write(tmp_path / "appendix" / "a_x" / "a_x.ipynb", "1")
    write(
        tmp_path / "ch02_b" / "ch02_b.ipynb",
        "#| export\ndef made_in_two():\n    return 1",
        "1 / 0",
        "print('never')",
    )
    needs = "from shared.previous_chapters import made_in_two"
    write(
        tmp_path / "ch03_c" / "ch03_c.ipynb", needs, "#| export\ndef made_in_three():\n    return 1"
    )
    write(tmp_path / "ch04_d" / "ch04_d.ipynb", needs.replace("two", "three"))
    cells = [checked("print('b')", "a\n"), checked("print('c')", "c\n")]
    (tmp_path / "ch05_e").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "ch05_e" / "ch05_e.ipynb")
    write(tmp_path / "ch06_f" / "ch06_f.ipynb", "import os\nos._exit(1)", "2")
    printed = nbval(tmp_path)
    lines = [x.split("/")[-1].split() for x in printed.splitlines() if "::Cell" in x and "%]" in x]
    results = [(x[0].partition(":")[0], int(x[1]), x[2]) for x in lines]
    assert results == [
        ("ch02_b", 0, "PASSED"),
        ("ch02_b", 1, "FAILED"),
        ("ch02_b", 2, "SKIPPED"),
        ("ch03_c", 0, "SKIPPED"),
        ("ch03_c", 1, "SKIPPED"),
        ("ch04_d", 0, "SKIPPED"),
        ("ch05_e", 0, "FAILED"),
        ("ch05_e", 1, "PASSED"),
        ("ch06_f", 0, "FAILED"),
        ("ch06_f", 1, "SKIPPED"),
        ("a_x", 0, "PASSED"),
    ]
    assert "needs made_in_two; ch02_b.ipynb: cell 1 failed" in printed
    assert "the kernel died while it ran this cell" in printed
    assert "seconds per notebook" in printed


def test_a_saved_panel_passes_under_nbval(tmp_path):
    code = (
        "import matplotlib.pyplot as plt\nfrom shared.panels import panel\n"
        "def draw(a):\n    print(a)\n    plt.plot([a])\n    plt.show()\npanel(draw, a=(0, 4, 1));"
    )
    path = write(tmp_path / "ch02_b" / "ch02_b.ipynb", code, tags=["nbval-ignore-output"])
    assert run([path]) == 0
    saved = json.loads(path.read_text("utf-8"))["cells"][0]["outputs"]
    assert [o["output_type"] for o in saved] == ["stream", "display_data"]
    assert "1 passed" in nbval(tmp_path)
