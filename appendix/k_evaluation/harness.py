"""Lets EleutherAI's lm-evaluation-harness score the course's models.

`CourseScorer` works without the harness; `harness_model` and `run_task` need it installed:
`pip install lm_eval`. Everything stays on this machine: the model is in memory, tasks are files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from shared.appendices import ChoiceQuestion, generate_cached, price_continuations, price_text
from shared.previous_chapters import END_OF_TEXT, BPETokenizer, GPTModel

TASK = "story_endings"


class Asked(Protocol):
    """A request of the harness: all that is used of it."""

    args: tuple


class CourseScorer:
    """The three things that the harness asks of a model, over the course's model and tokenizer."""

    def __init__(self, model: GPTModel, tokenizer: BPETokenizer) -> None:
        super().__init__()  # the harness's class beside this one has a state of its own
        self.course_model, self.course_tokenizer = model, tokenizer

    def loglikelihood(self, requests: Sequence[Asked]) -> list[tuple[float, bool]]:
        """For each (context, continuation): its log-probability, and whether it is greedy text."""
        pairs = [request.args for request in requests]
        priced = price_continuations(self.course_model, self.course_tokenizer, pairs)
        return [(-price.nats, greedy) for price, greedy in priced]

    def loglikelihood_rolling(self, requests: Sequence[Asked]) -> list[float]:
        """The log-probability of each whole text, in windows that lie side by side."""
        stride = self.course_model.config.context_length
        model, tokenizer = self.course_model, self.course_tokenizer
        return [-price_text(model, tokenizer, r.args[0], stride).nats for r in requests]

    def generate_until(self, requests: Sequence[Asked]) -> list[str]:
        """For each (context, settings): greedy text up to the first of settings["until"].

        Raises:
            ValueError: settings ask for sampling, or for more tokens than the context holds.
        """
        return [self._continue(*request.args) for request in requests]

    def _continue(self, context: str, settings: dict) -> str:
        if settings.get("do_sample") or settings.get("temperature"):
            raise ValueError(f"{settings}: only greedy text; take temperature 0.")
        many, room = settings.get("max_gen_toks", 64), self.course_model.config.context_length
        if not 1 <= many < room:
            raise ValueError(f"max_gen_toks={many}, expected 1 to {room - 1}.")
        end = self.course_tokenizer.special_tokens[END_OF_TEXT]
        prompt = [end, *self.course_tokenizer.encode(context)][-(room - many) :]
        (row,) = generate_cached(self.course_model, [prompt], many, temperature=0, eos_id=end)
        text = self.course_tokenizer.decode(i for i in row[len(prompt) :] if i != end)
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        return text[: min([text.find(s) for s in stops if s and s in text], default=len(text))]


def harness_model(model: GPTModel, tokenizer: BPETokenizer) -> CourseScorer:
    """The same as a model of the harness, to be given to `lm_eval.simple_evaluate(model=…)`.

    Raises:
        ImportError: the harness is not installed.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError:
        raise ImportError("the harness is not installed; try: pip install lm_eval") from None

    class CourseLM(CourseScorer, LM):
        """The reader's model, as the harness wants it."""

    return CourseLM(model, tokenizer)


def write_task(folder: Path, questions: Sequence[ChoiceQuestion]) -> Path:
    """Write questions as a task of the harness, and return its folder.

    Raises:
        ValueError: no questions.
    """
    if not questions:
        raise ValueError("write_task: no questions.")
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": q.prompt, "choices": q.choices, "answer": q.answer} for q in questions]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{TASK}.jsonl").write_text(lines, encoding="utf-8")
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{TASK}.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (folder / f"{TASK}.yaml").write_text(
        json.dumps(task, indent=1), encoding="utf-8"
    )  # JSON is YAML
    return folder


def run_task(scorer: CourseScorer, folder: Path) -> dict[str, float]:
    """The harness's own scores of that task: acc is the sum, acc_norm is per byte or letter."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(scorer, tasks=[TASK], task_manager=manager, bootstrap_iters=0)
    return {name: found["results"][TASK][f"{name},none"] for name in ("acc", "acc_norm")}
