"""Panels: drawn once at their starting values, redrawn when a control moves, errors not hidden."""

import ipywidgets as widgets
import nbformat
import pytest

from shared import panels
from shared.notebooks import NotebookError, execute, tidy
from shared.panels import panel


@pytest.fixture
def shown(monkeypatch):
    """The widgets that panels display, as a list."""
    found = []
    monkeypatch.setattr(panels, "display", found.append)
    return found


def controls(box) -> dict:
    return {w.description: w for w in box.children if hasattr(w, "value")}


def test_it_draws_once_with_the_starting_values(shown):
    calls = []
    panel(
        lambda **values: calls.append(values),
        temperature=(0.7, (0.1, 3.0, 0.1)),
        kind=("b", ["a", "b", "c"]),
        seed=(0, 10, 1),
        on=True,
        text="hello",
    )
    assert calls == [{"temperature": 0.7, "kind": "b", "seed": 5, "on": True, "text": "hello"}]
    assert list(controls(shown[0])) == ["temperature", "kind", "seed", "on", "text"]


def test_moving_a_control_redraws_with_all_values(shown):
    calls = []
    panel(lambda **values: calls.append(values), a=(1, (0, 9, 1)), b=["x", "y"])
    moved = controls(shown[0])
    moved["a"].value = 7
    moved["b"].value = "y"
    moved["b"].value = "y"  # unchanged: nothing to redraw
    assert calls[1:] == [{"a": 7, "b": "x"}, {"a": 7, "b": "y"}]
    assert not moved["a"].continuous_update


def test_a_slow_panel_waits_for_its_button(shown):
    calls = []
    panel(lambda a: calls.append(a), slow=True, a=(1, (0, 9, 1)))
    controls(shown[0])["a"].value = 3
    assert calls == []
    next(w for w in shown[0].children if isinstance(w, widgets.Button)).click()
    assert calls == [3]


def test_a_widget_may_be_given_as_it_is(shown):
    calls = []
    panel(lambda a: calls.append(a), a=widgets.IntText(value=42))
    assert calls == [42]


@pytest.mark.parametrize("bad", [None, object(), (1, 2, 3, 4), int, widgets.Output(), []])
def test_a_control_that_no_widget_shows_is_refused_by_name(shown, bad):
    with pytest.raises(ValueError, match="panel control wrong="):
        panel(lambda wrong: None, wrong=bad)
    assert shown == []


@pytest.mark.parametrize("bad", [(99, (0, 9, 1)), ("z", ["a", "b"]), ("text", (0.0, 1.0, 0.1))])
def test_a_start_outside_the_choices_is_refused(shown, bad):
    with pytest.raises(ValueError, match=f"panel control n: cannot start at {bad[0]!r}"):
        panel(lambda n: None, n=bad)


@pytest.mark.parametrize("slow", [False, True])
def test_a_control_that_the_function_does_not_take_is_refused(shown, slow):
    with pytest.raises(TypeError, match="unexpected keyword argument 'b'"):
        panel(lambda a: None, slow=slow, a=(0, 9, 1), b=(0, 9, 1))


def test_an_error_in_the_first_drawing_is_raised(shown):
    def draw(a):
        raise ZeroDivisionError("drawn wrongly")

    with pytest.raises(ZeroDivisionError, match="drawn wrongly"):
        panel(draw, a=(0, 9, 1))
    assert shown == []


def test_an_error_in_a_later_drawing_is_raised_where_nobody_watches(shown):
    def draw(a):
        return 1 / a

    panel(draw, a=(1, (0, 9, 1)))
    with pytest.raises(ZeroDivisionError):
        controls(shown[0])["a"].value = 0


START = "import matplotlib.pyplot as plt\nfrom shared.panels import panel\n"
DRAW = "def draw(a):\n    print('drawn at', a)\n    plt.plot([0, a])\n    plt.show()\n"


def notebook_at(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_committed_notebook_shows_the_panels_first_picture(tmp_path):
    code = f"{START}{DRAW}print('above')\npanel(draw, a=(3, (0, 9, 1)));"
    notebook = tidy(execute(notebook_at(tmp_path / "n.ipynb", code)))
    text, picture = notebook.cells[0].outputs
    assert text.text == "above\ndrawn at 3\n"
    assert picture.data["image/png"].startswith("iVBOR") and not picture.metadata
    assert "widgets" not in notebook.metadata


def test_in_a_kernel_a_moved_control_redraws_in_place_of_the_old_picture(tmp_path):
    watch = (
        "import shared.panels\nfound = []\nshared.panels.display = found.append\n"
        "calls = []\npanel(lambda a: calls.append(a), a=(3, (0, 9, 1)))"
    )
    move = "found[0].children[0].value = 8\nassert calls == [3, 8], calls"
    execute(notebook_at(tmp_path / "n.ipynb", START, watch, move))


@pytest.mark.parametrize("later", [False, True])
def test_an_error_in_a_panel_stops_the_notebook(tmp_path, later):
    body = "def draw(a):\n    return 1 / a\n"
    code = f"panel(draw, a=({1 if later else 0}, (0, 9, 1)));"
    grab = "import shared.panels\nfound = []\nshared.panels.display = found.append\n"
    move = "found[0].children[0].value = 0" if later else "pass"
    path = notebook_at(tmp_path / "n.ipynb", START + grab + body, code, move)
    with pytest.raises(NotebookError, match="ZeroDivisionError"):
        execute(path)
