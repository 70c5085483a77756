"""The laptop speedrun: its text is counted, its rules hold, its board says what was measured."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from appendix.d_training_tricks.speedrun import __main__ as command
from appendix.d_training_tricks.speedrun import board, measure, rules
from appendix.d_training_tricks.speedrun.rules import Refused
from appendix.d_training_tricks.speedrun.text import (
    BUDGET,
    VOCAB_SIZE,
    Text,
    bytes_per_token,
    floor,
    held_out,
    nats_per_token,
    tokenizer,
)
from shared.previous_chapters import IGNORED, GPTConfig, GPTModel, count_targets
from shared.stories import END_OF_TEXT, stories

ENTRIES = sorted((board.HERE / "entries").glob("*.py"))
BOARD = board.read_board()


class Small(nn.Module):
    """A causal model of one table, with dropout, so that randomness is used in training."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCAB_SIZE, 8)
        self.dropout = nn.Dropout(0.2)
        nn.init.normal_(self.table.weight, std=0.3)

    def forward(self, ids):
        return self.dropout(self.table(ids)) @ self.table.weight.T


def learn(text, seed, model=None, again=1):
    """A toy entry: small windows, plain gradient descent."""
    model = model or Small()
    while text.left:
        inputs, targets = text.windows(4, 16)
        for _ in range(again):
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
        yield model


def toy(train, tokens=640):
    return SimpleNamespace(train=train, TOKENS=tokens)


@pytest.fixture
def few(monkeypatch):
    """Six held-out stories in place of all."""
    told, batches = held_out(6)
    monkeypatch.setattr(measure, "held_out", lambda: (told, batches))


# --- the text


@pytest.mark.parametrize(
    "ask",
    [
        lambda text: text.windows(3, 17),
        lambda text: text.stories(150),
        lambda text: text.stories(90, longest=30),
    ],
)
def test_every_token_is_counted_and_the_last_batch_ends_at_the_budget(ask):
    text, asked, places = Text(1000, seed=3), 0, 0
    while text.left:
        inputs, targets = ask(text)
        assert inputs.shape == targets.shape
        asked += count_targets((inputs, targets))
        places += inputs.numel()
        assert (text.given, text.places) == (asked, places)
    assert asked == 1000 and text.progress == 1.0
    with pytest.raises(ValueError, match="all 1,000 tokens were read"):
        ask(text)


def test_windows_follow_each_other_and_repeat_nothing():
    text = Text(600, seed=1)
    batches = [text.windows(2, 50) for _ in range(6)]
    inputs = torch.cat([inputs.flatten() for inputs, _ in batches])
    targets = torch.cat([targets.flatten() for _, targets in batches])
    assert torch.equal(inputs[1:], targets[:-1])
    end = tokenizer().special_tokens[END_OF_TEXT]
    assert inputs[0] == end and (inputs == end).sum() > 3
    first = tokenizer().decode(inputs.tolist()).split(END_OF_TEXT)[1]
    assert first == next(stories(7_000_001, "train")).text


def test_stories_are_whole_of_like_length_and_not_told_twice():
    text, seen = Text(4000, seed=2), []
    while text.left > 400:
        inputs, targets = text.stories(200, longest=40)
        lengths = (targets != IGNORED).sum(1)
        assert lengths.max() <= 40 and lengths.min() >= lengths.max() - 10
        assert inputs.numel() <= 200 or len(inputs) == 1
        for row, asked in zip(inputs, targets, strict=True):
            ids = row[: int((asked != IGNORED).sum())].tolist()
            assert ids[0] == tokenizer().special_tokens[END_OF_TEXT]
            seen.append(tuple(ids))
    assert len(seen) > 80 and len(set(seen)) > 0.9 * len(seen)  # short ones may be told alike


def test_seeds_give_other_stories_and_the_same_seed_the_same():
    one, other, again = (Text(500, seed=s).stories(300)[0] for s in (0, 1, 0))
    assert torch.equal(one, again)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_the_text_says_what_was_wrong():
    with pytest.raises(ValueError, match="tokens=0"):
        Text(0, seed=0)
    with pytest.raises(ValueError, match="rows=0"):
        Text(10, seed=0).windows(0, 5)
    with pytest.raises(ValueError, match="longest=3"):
        Text(10, seed=0).stories(50, longest=3)


def test_every_story_is_shorter_than_the_text_promises():
    told, batches = held_out()
    assert len(told) == 300
    assert max(inputs.shape[1] for inputs, _ in batches) < Text.longest


# --- the loss


def test_loss_is_the_runners_own_sum():
    told, batches = held_out(5)
    total = sum(map(count_targets, batches))
    equal = [torch.full((*x.shape, VOCAB_SIZE), -math.log(VOCAB_SIZE)) for x, _ in batches]
    assert nats_per_token(equal, batches) == pytest.approx(math.log(VOCAB_SIZE), abs=1e-6)
    ids = sum(len(tokenizer().encode(story.text)) + 1 for story in told)
    assert ids == total
    assert 0.4 < floor() < 0.8 and 3 < bytes_per_token() < 5


def test_logits_that_do_not_sum_to_one_gain_nothing(few):
    class Shifted(Small):
        def forward(self, ids):
            return super().forward(ids) + 50.0  # would be a 'probability' far above 1

    torch.manual_seed(0)
    plain, shifted = Small(), Shifted()
    shifted.load_state_dict(plain.state_dict())
    assert measure.loss_of(shifted) == pytest.approx(measure.loss_of(plain), abs=1e-4)


# --- runs


def test_a_run_counts_and_does_not_depend_on_how_often_it_is_looked_at(few):
    often = measure.run_entry(toy(learn), seed=0, looks=(64, 100, 128, 320))
    never = measure.run_entry(toy(learn), seed=0, looks=())
    assert often.loss == never.loss
    assert often.tokens == never.tokens == 640
    assert [tokens for tokens, _ in often.curve] == [64, 128, 320, 640]  # 100 falls into a step
    assert often.curve[-1] == never.curve[-1]
    assert measure.run_entry(toy(learn), seed=1, looks=()).loss != never.loss


def test_a_run_leaves_the_callers_randomness_alone(few):
    torch.manual_seed(5)
    measure.run_entry(toy(learn), seed=0, looks=(64,))
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_reading_twice_is_refused(few):
    with pytest.raises(Refused, match="read 128 ids while learning, but the text handed out 64"):
        measure.run_entry(toy(lambda t, s: learn(t, s, again=2)), seed=0)


def test_reading_past_the_meter_is_refused(few):
    def train(text, seed):
        model = Small()
        while text.left:
            inputs, _ = text.windows(4, 16)
            model.table.weight[inputs].sum().backward()
            yield model

    with pytest.raises(Refused, match="nothing could be counted"):
        measure.run_entry(toy(train), seed=0)


class Ahead(Small):
    """Mixes in the token that comes next."""

    def forward(self, ids):
        return super().forward(ids) + super().forward(ids.roll(-1, 1))


class Beside(Small):
    """Mixes in what the other rows say."""

    def forward(self, ids):
        return super().forward(ids) + super().forward(ids).mean(0)


class Forgetful(Small):
    """Answers differently each time."""

    def forward(self, ids):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(ids) * self.calls


@pytest.mark.parametrize(
    "kind, message",
    [(Ahead, "not causal"), (Beside, "neighbours"), (Forgetful, "not causal|the same question")],
)
def test_models_that_look_where_they_may_not_are_refused(few, kind, message):
    def train(text, seed):  # one step, its reading counted once
        model = kind()
        while text.left:
            text.windows(4, 16)
            nn.Embedding.forward(model.table, torch.zeros(1, dtype=torch.long))
            model.table(torch.zeros(1, 1, dtype=torch.long))
            yield model

    with pytest.raises(Refused, match=message):
        measure.run_entry(toy(train, 64), seed=0)


def test_the_course_model_passes_the_check_for_causality():
    rules.check_causal(GPTModel(GPTConfig(VOCAB_SIZE, 256, 16, 2, 1, dropout=0.1), seed=0).train())


@pytest.mark.parametrize(
    "model, message",
    [
        (nn.Embedding(VOCAB_SIZE, 500), "1,024,000 parameters and buffers"),
        ("a string", "yielded a str"),
    ],
)
def test_what_is_no_model_or_too_large_is_refused(model, message):
    with pytest.raises(Refused, match=message):
        rules.check_model(model)


def test_buffers_count_too():
    model = Small()
    model.register_buffer("hidden", torch.zeros(1_000_000))
    with pytest.raises(Refused, match="1,016,384 parameters and buffers"):
        rules.check_model(model)


def test_wrong_shapes_infinite_answers_and_no_model_are_refused(few):
    ids = torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(Refused, match="expected logits of shape"):
        rules.log_probabilities(nn.Embedding(VOCAB_SIZE, 7), ids)
    broken = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)
    nn.init.constant_(broken.weight, math.nan)
    with pytest.raises(Refused, match="not finite"):
        rules.log_probabilities(broken, ids)
    with pytest.raises(Refused, match="yielded no model"):
        measure.run_entry(toy(lambda text, seed: iter(())), seed=0)


def test_too_slow_is_refused(few, monkeypatch):
    monkeypatch.setattr(measure, "MAX_SECONDS", 0.0)
    with pytest.raises(Refused, match="0 s are over after 64 tokens"):
        measure.run_entry(toy(learn), seed=0)


# --- scripts


GOOD = '''"""An idea."""
from torch import nn
TOKENS = 1000
def train(text, seed):
    yield nn.Embedding(2, 2)
'''


def test_a_good_script_is_loaded(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    assert rules.load_entry(path).TOKENS == 1000


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s + "#\n" * 196, "201 lines, and 200 are allowed"),
        (lambda s: s.replace('"""An idea."""', ""), "no docstring"),
        (lambda s: s.replace("1000", "10**9"), f"1 to {BUDGET:,}"),
        (lambda s: s.replace("def train", "def other"), "no function `train"),
        (lambda s: s + "print('loss 0.1')\n", "uses print"),
        (lambda s: s + "import shared.stories\n", "imports shared.stories"),
        (lambda s: s + "from shared.stories import stories\n", "imports shared.stories"),
        (lambda s: s + "from shared.previous_chapters import story_model\n", "uses story_model"),
        (lambda s: s + "from shared import previous_chapters\n", "imports shared"),
        (lambda s: s + "import os\n", "imports os"),
        (lambda s: s + "open('x')\n", "uses open"),
        (lambda s: s + "def f(text):\n    text._told\n", "text._told is the runner's own"),
    ],
)
def test_scripts_that_break_a_rule_are_refused_by_name(tmp_path, change, message):
    path = tmp_path / "mine.py"
    path.write_text(change(GOOD))
    with pytest.raises(Refused, match=r"mine\.py: .*") as refusal:
        rules.load_entry(path)
    assert message in str(refusal.value)


def test_the_command_says_why_it_refuses(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(GOOD + "import os\n")
    assert command.main([str(path)]) == 1
    assert "refused: mine.py: imports os" in capsys.readouterr().err
    assert command.main(["no_such_entry"]) == 1
    assert "01_plain" in capsys.readouterr().err
    assert command.main([]) == 1


# --- the board


def result(name, tokens, losses, **changes):
    runs = [
        {"seed": s, "loss": x, "tokens": tokens, "curve": [[8192, 5.0], [tokens, x]]}
        for s, x in enumerate(losses)
    ]
    mean, above = measure.interval(losses)
    made = {"entry": name, "idea": "An idea.", "lines": 9, "script": name, "date": "2026-01-01"}
    made |= {"machine": "m", "tokens": tokens, "numbers": 5, "seconds": 1.0, "loss": mean}
    return made | {"at_most": mean + above, "runs": runs} | changes


def test_interval_is_students():
    mean, above = measure.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert above == pytest.approx(2.920 / math.sqrt(3), abs=1e-3)  # the standard deviation is 1
    with pytest.raises(ValueError, match="1 seeds"):
        measure.interval([1.0])


def test_records_fall_only_to_fewer_tokens_and_a_sure_loss(tmp_path):
    board.add_record(result("01_first", 100_000, [2.0, 2.01, 1.99]), tmp_path)
    for wrong, message in (
        (result("02", 100_000, [1.0, 1.0, 1.0]), "Lower TOKENS"),
        (result("02", 50_000, [1.9, 1.9]), "2 seeds"),
        (result("02", 50_000, [1.8, 2.1, 1.95]), "the target is 2.000"),
    ):
        with pytest.raises(Refused, match=message):
            board.add_record(wrong, tmp_path)
    verdict = board.add_record(result("02_second", 50_000, [1.9, 1.91, 1.89]), tmp_path)
    assert "2.0 times fewer" in verdict
    written = (tmp_path / "board.md").read_text()
    assert "| 50,000 | 2.0 | 3: 1.900" in written
    picture = (tmp_path / "board.svg").read_text()
    assert picture.count("<circle") == 2 and "02_second" in picture
    assert json.loads((tmp_path / "results" / "02_second.json").read_text())["tokens"] == 50_000


def test_the_board_is_what_its_results_say():
    records = BOARD["records"]
    assert records, "no records"
    assert (board.HERE / "board.md").read_text("utf-8") == board.board_text(BOARD)
    assert (board.HERE / "board.svg").read_text("utf-8") == board.board_picture(BOARD)
    for number, record in enumerate(records, 1):
        kept = json.loads((board.HERE / "results" / f"{record['entry']}.json").read_text())
        losses = [run["loss"] for run in kept["runs"]]
        mean, above = measure.interval(losses)
        assert record["number"] == number
        assert (record["loss"], record["at_most"]) == (round(mean, 4), round(mean + above, 4))
        assert {run["tokens"] for run in kept["runs"]} == {record["tokens"]}
        path = board.HERE / "entries" / f"{record['entry']}.py"
        assert record["script"] == measure.fingerprint(path), f"{path.name} changed since its run"
        assert record["idea"] == rules.load_entry(path).__doc__.strip().splitlines()[0]
    for before, after in zip(records, records[1:], strict=False):
        replayed = copy.deepcopy(records[: after["number"] - 1])
        kept = json.loads((board.HERE / "results" / f"{after['entry']}.json").read_text())
        assert board.judge(kept, replayed) and after["tokens"] < before["tokens"]


def test_the_best_takes_at_most_a_seventh_of_the_first():
    assert 7 * BOARD["records"][-1]["tokens"] <= BOARD["records"][0]["tokens"]


def test_every_entry_is_on_the_board():
    assert [r["entry"] for r in BOARD["records"]] == [path.stem for path in ENTRIES]


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_every_entry_keeps_the_rules_and_learns(path, few):
    run = measure.run_entry(rules.load_entry(path), seed=0, tokens=3000, looks=())
    assert run.tokens == 3000
    assert run.loss < math.log(VOCAB_SIZE)
