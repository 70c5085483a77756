"""Live panels: sliders over a plain function, and under them a ledger of the reader's runs."""

from __future__ import annotations

import base64
import html
import inspect
import io
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import display
from ipywidgets.widgets.interaction import show_inline_matplotlib_plots
from matplotlib.figure import Figure

from shared.artifacts import ROOT
from shared.ledger import Ledger, Run, as_frame, checked, columns_of, number_columns, short

WIDTH, LABEL = "520px", "150px"  # of every control, and of the name before it
MOST_ROWS = 200  # of a ledger shown at once; the CSV holds all


def panel(
    function: Callable[..., Any],
    *,
    slow: bool = False,
    title: str = "",
    ledger: str | None = None,
    **controls,
) -> None:
    """Show sliders for the keyword arguments of `function` and redraw when one moves.

    Args:
        function: draws or prints. It is called here with the controls' starting values, so a
            mistake in it stops the cell, and the page keeps its picture without a live kernel.
        slow: for what takes over a second: a Run button instead of a redraw on every move, and
            no first call. Show a picture of it by a plain call before.
        title: a line above the controls.
        ledger: the name of a `Ledger`. The function then returns its results, a dict of numbers;
            each Run is entered, or in a panel that is not slow, what 'Keep this run' is pressed
            for. The runs stand below in a part that folds out. Nothing is entered without a
            click, so running a notebook leaves the reader's ledger as it is.
        controls: as in `ipywidgets.interact`: a widget, or a tuple `(low, high, step)`, a list
            of choices, a bool or a text. A pair `(value, control)` gives the starting value of
            a tuple or a list.

    Raises:
        ValueError: a control of a kind that no widget shows, a starting value that it cannot
            take, or a name that the ledger cannot use.
        TypeError: `function` does not take these arguments, or there is a ledger and it returns
            no dict of numbers.

    Example:
        >>> panel(plot_softmax, temperature=(1.0, (0.1, 3.0, 0.1)), seed=(0, 9, 1))
        >>> panel(train, slow=True, ledger="ch05_train", learning_rate=(0.01, [0.001, 0.01, 0.1]))
    """
    made = {name: _control(name, control) for name, control in controls.items()}
    inspect.signature(function).bind(**{name: widget.value for name, widget in made.items()})
    for name, widget in made.items():
        _dress(widget, name)
    runs = None if ledger is None else _Runs(Ledger(ledger))
    if runs:
        checked(dict.fromkeys(made), {})  # a control called as a column of the ledger's own
    output = widgets.Output()

    def draw() -> None:
        values = {name: _value(widget) for name, widget in made.items()}
        started = time.perf_counter()
        results = function(**values)
        seconds = time.perf_counter() - started
        show_inline_matplotlib_plots()
        if runs:
            runs.have(values, results, seconds)

    def redraw(_=None) -> None:
        if runs:
            runs.have_none()
        with output:  # shows an error where the picture would be
            output.clear_output(wait=True)
            draw()

    rows: list[widgets.Widget] = list(made.values())
    if title:
        rows.insert(0, widgets.HTML(f"<b>{html.escape(title)}</b>"))
    if slow:
        rows.append(_run_button(redraw, runs))
    else:
        for widget in made.values():
            widget.observe(redraw, names="value")
        _first(draw, output)
    rows.append(output)
    if runs:
        rows += runs.rows(with_button=not slow)
    display(widgets.VBox(rows))


def _dress(widget: widgets.Widget, name: str) -> None:
    """The one look of every control."""
    widget.description = name
    widget.style.description_width = LABEL
    widget.layout.width = WIDTH
    if hasattr(widget, "continuous_update"):
        widget.continuous_update = False


def _value(widget: widgets.Widget) -> Any:
    """What a control says; a slider's 0.30000000000000004 is 0.3, from whichever side it came."""
    value = widget.value
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _button(description: str, style: str = "") -> widgets.Button:
    layout = widgets.Layout(width="150px")
    return widgets.Button(description=description, button_style=style, layout=layout)


def _run_button(redraw: Callable[[], None], runs: _Runs | None) -> widgets.Button:
    button = _button("Run", "primary")

    def run(_) -> None:
        button.disabled, button.description = True, "Running …"
        try:
            redraw()
        finally:
            button.disabled, button.description = False, "Run"
        if runs:
            runs.keep()

    button.on_click(run)
    return button


def _first(draw: Callable[[], None], output: widgets.Output) -> None:
    """Draw into `output`, and raise what it raises: the widget alone would only show it."""
    failure = None
    with output:
        try:
            draw()
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure


def _control(name: str, control: Any) -> widgets.Widget:
    """The widget for one control, at its starting value."""
    start = None
    if isinstance(control, tuple) and len(control) == 2 and isinstance(control[1], tuple | list):
        start, control = control
    made = None
    try:
        if isinstance(control, widgets.ValueWidget):
            return control
        if control is not None and not isinstance(control, type):
            made = widgets.interactive.widget_from_abbrev(control)
    except (TypeError, ValueError) as error:
        raise ValueError(f"panel control {name}={control!r}: {error}") from None
    if not isinstance(made, widgets.ValueWidget) or getattr(made, "options", True) == ():
        raise ValueError(
            f"panel control {name}={control!r}: expected a widget, (low, high, step), "
            "a list of choices, a bool or a text"
        )
    if start is None:
        return made
    try:
        made.value = start
    except Exception:  # traitlets' own error does not name the control
        made.value = made.value
    if made.value != start:  # a slider moves what is out of range to its nearest end
        raise ValueError(
            f"panel control {name}: cannot start at {start!r}; choose a value within {control!r}"
        )
    return made


class _Runs:
    """What stands under a panel: the reader's runs as a table, a plot, a comparison, a CSV.

    All of it is text inside widgets, which are not saved, not even the plot: a notebook's saved
    outputs are the same whether its reader has kept runs or not.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.refreshing, self.varied, self.condemned = False, [], []
        self.last: tuple[dict, dict, float] | None = None
        self.keep_button = _button("Keep this run")
        self.said = widgets.HTML()
        self.table, self.picture, self.differences = (widgets.HTML() for _ in range(3))
        self.x, self.y = widgets.Dropdown(), widgets.Dropdown()
        self.chosen = widgets.SelectMultiple(rows=6)
        for widget, name in ((self.x, "x"), (self.y, "y"), (self.chosen, "runs")):
            _dress(widget, name)
        self.csv_button, self.forget_button = _button("Export as CSV"), _button("Forget …")
        self.yes_button, self.no_button = _button("Yes, forget", "danger"), _button("No, keep")
        self.asking = widgets.HBox([self.yes_button, self.no_button])
        self.fold = widgets.Accordion([self._inside()], layout=widgets.Layout(max_width="900px"))
        self._connect()
        self.refresh()

    def _inside(self) -> widgets.VBox:
        self.table.layout = widgets.Layout(max_height="260px", overflow="auto")
        self.buttons = widgets.HBox([self.csv_button, self.forget_button])
        parts = [self.table, self.x, self.y, self.picture, self.chosen, self.differences]
        self.answer = widgets.HTML()
        return widgets.VBox([*parts, self.buttons, self.answer, self.asking])

    def _connect(self) -> None:
        self.keep_button.on_click(lambda _: self.keep())
        self.csv_button.on_click(lambda _: self.export())
        self.forget_button.on_click(lambda _: self.ask())
        self.yes_button.on_click(lambda _: self.forget())
        self.no_button.on_click(lambda _: self.answered("Nothing was forgotten."))
        for widget in (self.x, self.y):
            widget.observe(lambda _: self.draw(), names="value")
        self.chosen.observe(lambda _: self.compare(), names="value")
        self.fold.observe(lambda _: self.refresh(), names="selected_index")
        self.answered("")

    def rows(self, with_button: bool) -> list[widgets.Widget]:
        """The widgets for the end of the panel."""
        top = [self.keep_button, self.said] if with_button else [self.said]
        return [widgets.HBox(top), self.fold]

    # Keeping

    def have(self, values: dict, results: Any, seconds: float) -> None:
        """Take what was drawn, to be kept or not. Raises as `checked`."""
        checked(values, results)
        self.last = (values, results, seconds)
        self.keep_button.disabled, self.said.value = False, ""

    def have_none(self) -> None:
        """Nothing is drawn: there is nothing to keep."""
        self.last, self.keep_button.disabled, self.said.value = None, True, ""

    def keep(self) -> None:
        """Enter what was drawn last, once."""
        if self.last is None:
            return
        try:
            number = self.ledger.append(*self.last)
        except OSError as error:
            self.said.value = html.escape(f"This run could not be kept: {error}")
            return
        self.have_none()
        self.said.value = f"kept as run {number}"
        self.refresh()

    # Showing

    def refresh(self) -> None:
        """Show the ledger as it is in its file now."""
        try:
            runs = self.ledger.runs()
        except OSError as error:  # no reason to stop a notebook
            self.fold.titles = (f"Your runs cannot be read: {error}",)
            return
        self.fold.titles = (f"Your runs ({len(runs)})",)
        if self.fold.selected_index is None:
            return  # nobody looks
        note, older = self.ledger.note, len(runs) - MOST_ROWS
        self.table.value = (
            (_as_html(_texts(runs[: -MOST_ROWS - 1 : -1])) if runs else "No runs yet.")
            + (f"<p>… and {older} older ones</p>" if older > 0 else "")
            + (f"<p><i>Note: {html.escape(note)}.</i></p>" if note else "")
        )
        for widget in (self.x, self.y, self.chosen, self.buttons):
            widget.layout.display = "" if runs else "none"
        self.refreshing = True
        self._offer(runs)
        self.refreshing = False
        self.draw()
        self.compare()

    def _offer(self, runs: list[Run]) -> None:
        """What can be chosen now; what was chosen before stays, if it is still there."""
        frame = as_frame(runs).reset_index()
        with_numbers = [name for name in number_columns(frame) if name != "run"]
        results = [
            n for n in dict.fromkeys(n for r in runs for n in r.results) if n in with_numbers
        ]
        varied = _varied(runs)
        if self.x.value == "run" and not self.varied:  # for want of something better
            self.x.options = []
        self.varied = varied
        _choose(self.x, list(frame.columns), [*varied, "run"])
        _choose(self.y, with_numbers, [*results, "seconds"])
        still = [number for number in self.chosen.value if number in {run.run for run in runs}]
        self.chosen.options = [(_label(run, [*varied, *results]), run.run) for run in runs[::-1]]
        self.chosen.value = still

    def draw(self) -> None:
        """The plot of the two columns that are chosen."""
        if self.refreshing:
            return
        self.picture.value = ""
        if self.fold.selected_index is None or None in (self.x.value, self.y.value):
            return
        figure = Figure(figsize=(6.5, 3.2))
        self.ledger.plot(self.x.value, self.y.value, figure.subplots())
        content = io.BytesIO()
        figure.savefig(content, format="png")
        code = base64.b64encode(content.getvalue()).decode()
        text = html.escape(f"{self.y.value} of your runs by {self.x.value}")
        self.picture.value = f'<img alt="{text}" src="data:image/png;base64,{code}">'

    def compare(self) -> None:
        """What differs between the chosen runs."""
        if self.refreshing:
            return
        known = [run.run for run in self.ledger.runs()]
        chosen = sorted(number for number in self.chosen.value if number in known)
        if len(chosen) < 2:
            many = "Hold Ctrl (on a Mac: Cmd) and click two runs or more to see what differs."
            self.differences.value = many if len(known) > 1 else ""
            return
        frame = self.ledger.compare(chosen).map(short)
        alike = "These runs are alike in everything."
        self.differences.value = _as_html(frame, index=True) if len(frame) else alike

    # Taking out

    def answered(self, text: str) -> None:
        """Say something below the buttons, and ask nothing any more."""
        self.answer.value, self.asking.layout.display = html.escape(text), "none"

    def export(self) -> None:
        """Write the CSV, beside one that is somebody else's, and say where."""
        path = self.ledger.path.with_suffix(".csv")
        for number in count(1):
            target = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
            try:
                written = self.ledger.export(target)
            except FileExistsError:
                continue
            except (OSError, ValueError) as error:
                return self.answered(f"Nothing was written: {error}")
            aside = "" if number == 1 else f" ({path.name} was changed by somebody, and is kept)"
            return self.answered(f"Written: {_place(written)}{aside}")

    def ask(self) -> None:
        """Ask before anything is forgotten."""
        chosen = list(self.chosen.value)
        if not chosen:
            return self.answered("Choose in the list above which runs to forget.")
        which = f"run {chosen[0]}" if len(chosen) == 1 else f"these {len(chosen)} runs"
        self.answered(f"Forget {which} for good?")
        self.asking.layout.display, self.condemned = "", chosen

    def forget(self) -> None:
        """Forget the runs that were asked about, whatever is chosen by now."""
        known = [run.run for run in self.ledger.runs()]  # another notebook may have been faster
        try:
            gone = self.ledger.forget([number for number in self.condemned if number in known])
        except (OSError, ValueError) as error:
            return self.answered(f"Nothing was forgotten: {error}")
        self.refresh()
        self.answered(f"Forgotten: {gone} run{'' if gone == 1 else 's'}.")


def _choose(dropdown: widgets.Dropdown, columns: list[str], first: list[str]) -> None:
    """Offer these columns; what was chosen stays, else it is the first of `first` there is."""
    before = dropdown.value
    if list(dropdown.options) != columns:
        dropdown.options = columns
        wanted = [name for name in (before, *first) if name in columns]
        dropdown.value = wanted[0] if wanted else None


def _varied(runs: Sequence[Run]) -> list[str]:
    """The parameters that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.parameters)
    return [name for name in names if len({run.parameters.get(name) for run in runs}) > 1]


def _label(run: Run, names: list[str]) -> str:
    """A run in a line: its number, and these parameters and results."""
    cells = {**run.parameters, **run.results}
    told = [f"{name} {short(cells[name], 20)}" for name in names if name in cells]
    return short(" · ".join([str(run.run), *told]), 100)


def _texts(runs: Sequence[Run]) -> pd.DataFrame:
    """The runs as a table shows them; empty where a run has no such thing."""
    rows = []
    for run in runs:
        here = datetime.fromisoformat(run.date).astimezone()
        cells = {**run.parameters, **run.results, "seconds": run.seconds}
        rows.append({name: short(value) for name, value in cells.items()})
        rows[-1]["date"] = here.strftime("%Y-%m-%d %H:%M")
    frame = pd.DataFrame(rows, columns=columns_of(runs)).fillna("")
    frame.insert(0, "run", [run.run for run in runs])
    return frame


def _as_html(texts: pd.DataFrame, index: bool = False) -> str:
    """The table in the page's own style; what is text stays text."""
    return f'<div class="jp-RenderedHTMLCommon">{texts.to_html(border=0, index=index)}</div>'


def _place(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
