"""Panels: drawn once at their starting values, redrawn when a control moves, errors not hidden."""

import json

import ipywidgets as widgets
import nbformat
import pytest

from shared import panels
from shared.ledger import Ledger
from shared.notebooks import NotebookError, execute, tidy
from shared.panels import panel


@pytest.fixture(autouse=True)
def own_artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))


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


# The ledger under a panel


def scores(a, kind="x"):
    """A panel's function with results."""
    if a == 9:
        raise ZeroDivisionError("nine")
    return {"loss": 10.0 - a, "length": len(kind)}


class Under:
    """What stands under the panel that was shown last, found as a reader finds it: by name."""

    def __init__(self, box) -> None:
        self.found = list(self._all(box))
        (self.fold,) = [w for w in self.found if isinstance(w, widgets.Accordion)]
        self.fold_out = lambda: setattr(self.fold, "selected_index", 0)

    def _all(self, widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from self._all(child)

    def named(self, name):
        (one,) = [w for w in self.found if getattr(w, "description", None) == name]
        return one

    def press(self, name) -> None:
        """A click, which a disabled button would not answer."""
        if not self.named(name).disabled:
            self.named(name).click()

    def says(self, text) -> bool:
        return any(isinstance(w, widgets.HTML) and text in w.value for w in self.found)


def kept(shown, count=0, **controls) -> Under:
    """A panel over `scores`, with so many runs kept, at a = 0, 1, 2, …"""
    panel(scores, ledger="test", a=(0, (0, 9, 1)), **controls)
    under = Under(shown[-1])
    for value in range(count):
        under.named("a").value = value
        under.press("Keep this run")
    return under


def test_nothing_is_kept_without_a_click(shown):
    under = kept(shown)
    under.named("a").value = 5
    under.fold_out()
    assert Ledger("test").runs() == [] and not Ledger("test").path.exists()
    assert under.fold.titles == ("Your runs (0)",) and under.says("No runs yet")


def test_keeping_a_run_enters_what_is_drawn_once(shown):
    under = kept(shown, kind=["long", "x"])
    under.named("a").value = 3
    for _ in range(2):
        under.press("Keep this run")
    (run,) = Ledger("test").runs()
    assert run.parameters == {"a": 3, "kind": "long"} and run.results == {"loss": 7.0, "length": 4}
    assert run.seconds >= 0 and under.says("kept as run 1")
    under.named("a").value = 4
    assert not under.says("kept as")
    under.press("Keep this run")
    assert [run.parameters["a"] for run in Ledger("test").runs()] == [3, 4]
    assert under.fold.titles == ("Your runs (2)",)


def test_what_failed_is_not_kept(shown):
    under = kept(shown)
    with pytest.raises(ZeroDivisionError):
        under.named("a").value = 9
    under.press("Keep this run")
    assert under.named("Keep this run").disabled and Ledger("test").runs() == []


def test_a_slow_panel_enters_each_run_and_says_that_it_runs(shown):
    seen = []

    def train(a):
        seen.append((button.description, button.disabled))
        return scores(a)

    panel(train, slow=True, ledger="test", a=(1, (0, 9, 1)))
    under = Under(shown[0])
    button = under.named("Run")
    assert seen == [] and Ledger("test").runs() == []
    for _ in range(2):
        under.press("Run")
    assert [run.results["loss"] for run in Ledger("test").runs()] == [9.0, 9.0]
    assert seen == [("Running …", True)] * 2 and under.says("kept as run 2")
    under.named("a").value = 9
    under.press("Run")  # its error goes to the log here, and to the panel in a notebook
    assert len(Ledger("test").runs()) == 2 and not button.disabled and button.description == "Run"


@pytest.mark.parametrize("results", [None, 2.5, {"loss": "low"}, {"loss": [1, 2]}])
def test_a_function_without_numbers_is_refused_when_there_is_a_ledger(shown, results):
    panel(lambda a: results, a=(0, 9, 1))
    with pytest.raises(TypeError, match="must be"):
        panel(lambda a: results, ledger="test", a=(0, 9, 1))
    assert len(shown) == 1


@pytest.mark.parametrize("slow", [False, True])
def test_a_control_called_as_a_column_of_the_ledger_is_refused(shown, slow):
    with pytest.raises(ValueError, match="'seconds' is used twice"):
        panel(lambda seconds: {}, ledger="test", slow=slow, seconds=(0, 9, 1))
    with pytest.raises(ValueError, match="letters, digits"):
        panel(scores, ledger="no/name", slow=slow, a=(0, 9, 1))


def test_a_slider_gives_the_number_that_it_shows(shown):
    panel(lambda t: {"twice": 2 * t}, ledger="test", t=(1.0, (0.1, 3.0, 0.1)))
    under = Under(shown[0])
    under.named("t").value = 1.9000000000000001 + 2e-16
    under.press("Keep this run")
    assert Ledger("test").runs()[0].parameters == {"t": 1.9}


def test_a_new_panel_shows_the_runs_of_before(shown):
    kept(shown, 3)
    under = kept(shown)  # as after a restart
    assert under.fold.titles == ("Your runs (3)",)
    under.fold_out()
    assert under.says("<td>3</td>") and under.says("<th>loss</th>")


def test_the_plot_offers_what_varied_first_and_follows_the_choice(shown):
    under = kept(shown, 3, kind=["x", "longer"])
    under.fold_out()
    assert (under.named("x").value, under.named("y").value) == ("a", "loss")
    assert list(under.named("x").options) == [
        "run", "a", "kind", "loss", "length", "seconds", "date",
    ]  # fmt: skip
    assert list(under.named("y").options) == ["a", "loss", "length", "seconds"]
    assert under.says('<img alt="loss of your runs by a" src="data:image/png;base64,iVBOR')
    under.named("y").value = "length"
    under.named("x").value = "kind"
    assert under.says('<img alt="length of your runs by kind"')
    under.named("a").value = 7
    under.press("Keep this run")
    assert under.says('<img alt="length of your runs by kind"'), "the choice stays"


def test_with_one_run_the_plot_is_over_the_runs_until_something_varies(shown):
    under = kept(shown, 1)
    under.fold_out()
    assert under.named("x").value == "run"
    under.named("a").value = 5
    under.press("Keep this run")
    assert under.named("x").value == "a"


def test_chosen_runs_are_compared(shown):
    under = kept(shown, 3)
    under.fold_out()
    assert under.says("click two runs or more")
    assert [label for label, _ in under.named("runs").options][0] == "3 · a 2 · loss 8 · length 1"
    under.named("runs").value = (3, 1)
    assert under.says("<th>loss</th>\n      <td>10</td>\n      <td>8</td>")
    assert not under.says("<th>length</th>\n      <td>")


def test_the_csv_button_says_where_it_wrote_and_spares_what_is_not_its_own(shown):
    under = kept(shown, 2)
    under.fold_out()
    path = Ledger("test").path.with_suffix(".csv")
    under.press("Export as CSV")
    assert under.says(f"Written: {path}") and len(path.read_text().splitlines()) == 3
    path.write_text("my own notes")
    under.press("Export as CSV")
    beside = path.with_name("test-2.csv")
    assert path.read_text() == "my own notes" and len(beside.read_text().splitlines()) == 3
    assert under.says(f"Written: {beside} (test.csv was changed by somebody, and is kept)")


def test_forgetting_asks_first(shown):
    under = kept(shown, 3)
    under.fold_out()
    numbers = lambda: [run.run for run in Ledger("test").runs()]
    asking = lambda: any(
        isinstance(w, widgets.HBox)
        and under.named("Yes, forget") in w.children
        and w.layout.display != "none"
        for w in under.found
    )
    under.press("Forget …")
    assert under.says("Choose in the list above") and not asking()
    under.named("runs").value = (1, 3)
    under.press("Forget …")
    assert under.says("Forget these 2 runs for good?") and asking() and numbers() == [1, 2, 3]
    under.press("No, keep")
    assert under.says("Nothing was forgotten") and not asking() and numbers() == [1, 2, 3]
    under.press("Forget …")
    under.named("runs").value = (2,)  # the question was about the others
    Ledger("test").forget([3])  # by another notebook, meanwhile
    under.press("Yes, forget")
    assert numbers() == [2] and under.says("Forgotten: 1 run.") and not asking()


def test_a_damaged_ledger_is_said_and_stops_nothing(shown):
    kept(shown, 2)
    with open(Ledger("test").path, "ab") as file:
        file.write(b'{"run": 3, "param')
    under = kept(shown)
    under.fold_out()
    assert under.fold.titles == ("Your runs (2)",)
    assert under.says("line 3 of test.jsonl cannot be read")


def test_a_ledger_that_cannot_be_written_or_read_stops_nothing(shown, monkeypatch):
    under = kept(shown)
    Ledger("test").path.mkdir(parents=True)  # a folder where the file should be
    under.press("Keep this run")
    assert under.says("This run could not be kept: ")
    assert "cannot be read" in kept(shown).fold.titles[0]


def test_what_a_reader_types_is_shown_as_text(shown):
    panel(
        lambda text: {"length": len(text)},
        title="<script>",
        ledger="test",
        text="<img src=x onerror=alert(1)>",
    )
    under = Under(shown[0])
    under.press("Keep this run")
    under.fold_out()
    assert under.says("&lt;img src=x onerror=alert(1)&gt;") and not under.says("<img src=x")
    assert under.says("<b>&lt;script&gt;</b>")


def test_all_controls_have_one_look(shown):
    panel(lambda **_: None, a=(0, 9, 1), b=True, c="text", d=["x", "y"], e=(0.0, 1.0, 0.1))
    looks = {(w.layout.width, w.style.description_width) for w in controls(shown[0]).values()}
    assert looks == {(panels.WIDTH, panels.LABEL)}


def test_saved_outputs_are_the_same_whether_the_ledger_holds_runs_or_not(tmp_path):
    code = (
        f"{START}def draw(a):\n    print('drawn at', a)\n    return {{'loss': a}}\n"
        "panel(draw, ledger='test', title='A panel', a=(3, (0, 9, 1)))\n"
        "panel(draw, ledger='test', slow=True, a=(3, (0, 9, 1)))"
    )
    path = notebook_at(tmp_path / "n.ipynb", code)
    outputs = []
    for _ in range(2):
        notebook = tidy(execute(path))
        outputs.append(json.dumps(notebook.cells[0].outputs))
        Ledger("test").append({"a": 1}, {"loss": 2.0}, 1)
    assert outputs[0] == outputs[1] and "drawn at 3" in outputs[0]
    assert len(Ledger("test").runs()) == 2, "running the notebook entered nothing"


def test_in_a_kernel_a_click_keeps_a_run_and_nothing_of_it_is_an_output(tmp_path):
    grab = "import shared.panels\nfound = []\nshared.panels.display = found.append\n"
    code = "panel(lambda a: {'loss': a}, ledger='test', a=(3, (0, 9, 1)))"
    click = (
        "keep, fold = found[0].children[-2].children[0], found[0].children[-1]\n"
        "keep.click()\nfold.selected_index = 0"
    )
    notebook = execute(notebook_at(tmp_path / "n.ipynb", START + grab + code, click))
    assert [run.results for run in Ledger("test").runs()] == [{"loss": 3}]
    assert not notebook.cells[1].outputs
