"""The rules that a machine can check: the script, the model, and what it read while learning."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from shared.previous_chapters import evaluating

from .text import BUDGET, VOCAB_SIZE, held_out

MAX_LINES = 200
MAX_NUMBERS = 1_000_000  # parameters and buffers
MAX_SECONDS = 300.0  # of training, for each seed, on two cores
ALLOWED = {"__future__", "collections", "contextlib", "copy", "dataclasses", "functools"}
ALLOWED |= {"itertools", "math", "random", "torch", "typing"}
COURSE = {"shared.previous_chapters", "shared.appendices"}
# What of the course brings text that nobody counts, or weights that somebody has trained.
CLOSED = {"shared", "stories", "story_text", "Stories", "StoryBatches", "TextBatches", "tell"}
CLOSED |= {"story_model", "story_checkpoint", "assistant_model", "load_checkpoint", "load_gpt2"}
CLOSED |= {"load_classifier", "read_checkpoint", "story_tokenizer", "watch_stories", "story_rows"}
CLOSED |= {"assistant_checkpoint", "start_model", "gpt2_files", "claims", "artifact_path"}
BUILTINS = {"open", "print", "exec", "eval", "compile", "__import__", "globals", "input"}


class Refused(Exception):
    """An entry breaks a rule. The message says which, and what would be right."""


def load_entry(path: str | Path) -> ModuleType:
    """Read an entry's script, check it, and import it.

    An entry has a docstring whose first line is its idea, `TOKENS`, and `train(text, seed)`, a
    generator that yields the model after each step.

    Raises:
        Refused: it breaks a rule.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    source = path.read_text(encoding="utf-8")
    check_script(source, path.name)
    spec = importlib.util.spec_from_file_location(f"speedrun_{path.stem}", path)
    entry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(entry)
    tokens, train = getattr(entry, "TOKENS", None), getattr(entry, "train", None)
    if type(tokens) is not int or not 1 <= tokens <= BUDGET:
        raise Refused(f"{path.name}: TOKENS={tokens!r}, expected a whole number, 1 to {BUDGET:,}.")
    if not callable(train):
        raise Refused(f"{path.name}: no function `train(text, seed)`; entries/ shows some.")
    return entry


def check_script(source: str, name: str = "the entry") -> None:
    """Refuse a script that is too long, imports what is closed, or writes where it should not."""
    lines = len(source.splitlines())
    if lines > MAX_LINES:
        raise Refused(f"{name}: {lines} lines, and {MAX_LINES} are allowed.")
    tree = ast.parse(source)
    if not (ast.get_docstring(tree) or "").strip():
        raise Refused(f"{name}: no docstring; its first line tells the idea, for the board.")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules, names = [alias.name for alias in node.names], []
        elif isinstance(node, ast.ImportFrom):
            modules, names = ["." * node.level + (node.module or "")], node.names
            names = [alias.name for alias in names]
        else:
            modules, names = [], [node.id] if isinstance(node, ast.Name) else []
            if isinstance(node, ast.Attribute):
                names = [node.attr] if node.attr.startswith("__") else []
                if node.attr.startswith("_") and ast.unparse(node.value).split(".")[0] == "text":
                    raise Refused(f"{name}: text.{node.attr} is the runner's own.")
        for module in modules:
            if module.split(".")[0] not in ALLOWED and module not in COURSE:
                raise Refused(
                    f"{name}: imports {module}; allowed are {', '.join(sorted(ALLOWED | COURSE))}."
                )
        for used in names:
            if used in BUILTINS:
                raise Refused(
                    f"{name}: uses {used}; an entry neither prints nor reads files: the runner "
                    "measures, and hands out the text."
                )
            if used in CLOSED or used == "*" or used == "__globals__":
                raise Refused(
                    f"{name}: uses {used}; text comes from the runner alone, where it is counted, "
                    "and all weights are trained in the run."
                )


class Meter:
    """How many ids each module has read while gradients were on."""

    def __init__(self) -> None:
        self.read: Counter[nn.Module] = Counter()

    @property
    def most(self) -> int:
        """The ids read by the module that has read most."""
        return max(self.read.values(), default=0)

    def note(self, module: nn.Module, inputs: tuple) -> None:
        """A hook that PyTorch calls before each module's forward."""
        if torch.is_grad_enabled() and inputs and isinstance(inputs[0], Tensor):
            ids = inputs[0]
            if ids.dtype in (torch.int64, torch.int32):
                self.read[module] += ids.numel()


@contextmanager
def metering() -> Iterator[Meter]:
    """Inside, every module's reading is counted."""
    meter = Meter()
    handle = nn.modules.module.register_module_forward_pre_hook(meter.note)
    try:
        yield meter
    finally:
        handle.remove()


def check_reading(meter: Meter, places: int) -> None:
    """Refuse a model that has read more than it was handed, or that reads past the meter.

    Raises: Refused.
    """
    if meter.most > places:
        raise Refused(
            f"the model read {meter.most:,} ids while learning, but the text handed out "
            f"{places:,}: each token may be read once. New text costs the same; ask for it."
        )
    if places and not meter.most:
        raise Refused(
            "no module was called with ids while learning, so nothing could be counted; call the "
            "model as model(inputs)."
        )


def count_numbers(model: nn.Module) -> int:
    """Parameters and buffers, each tensor once."""
    tensors = {id(t): t.numel() for t in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())


def check_model(model: object) -> None:
    """Refuse what is no model, or a model that is too large.

    Raises: Refused.
    """
    if not isinstance(model, nn.Module):
        raise Refused(f"train() yielded a {type(model).__name__}; expected the model, a Module.")
    if (numbers := count_numbers(model)) > MAX_NUMBERS:
        raise Refused(f"{numbers:,} parameters and buffers; {MAX_NUMBERS:,} are allowed.")


def log_probabilities(model: nn.Module, inputs: Tensor) -> Tensor:
    """The model's log-probabilities, made by the runner from its logits: they sum to one.

    Raises: Refused if the logits have the wrong shape or are not numbers.
    """
    logits = model(inputs.clone())
    wanted = (*inputs.shape, VOCAB_SIZE)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise Refused(f"model(inputs) gave {found}; expected logits of shape {wanted}.")
    log_probs = logits.float().log_softmax(-1)
    if not log_probs.isfinite().all():
        raise Refused("the logits hold numbers that are not finite; the training has diverged.")
    return log_probs


def check_causal(model: nn.Module, tolerance: float = 1e-3) -> None:
    """Refuse a model whose answer depends on later tokens, on its neighbours, or on the last call.

    Raises: Refused.
    """
    inputs = held_out()[1][0][0][:4].clone()  # four of the longest stories
    dice = torch.Generator().manual_seed(0)
    other = torch.randint(1, VOCAB_SIZE, inputs.shape, generator=dice)
    with evaluating(model):
        before = log_probabilities(model, inputs)
        for place in (1, 2, inputs.shape[1] // 2, inputs.shape[1] - 1):
            changed = torch.cat([inputs[:, :place], other[:, place:]], dim=1)
            gap = (log_probabilities(model, changed) - before)[:, :place].abs().max().item()
            if gap > tolerance:
                raise Refused(
                    f"not causal: with other tokens from place {place} on, the answers before it "
                    f"moved by {gap:.3g} nats. A place may look at itself and those before it."
                )
        beside = torch.cat([inputs[:1], other[1:]])
        gap = (log_probabilities(model, beside) - before)[0].abs().max().item()
        if gap > tolerance:
            raise Refused(f"a row's answers moved by {gap:.3g} nats when its neighbours changed.")
        gap = (log_probabilities(model, inputs) - before).abs().max().item()
        if gap > tolerance:
            raise Refused(f"the same question twice, and the answers differ by {gap:.3g} nats.")
