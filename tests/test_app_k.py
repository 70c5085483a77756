"""Appendix K: prices of texts, multiple choice, tests, contamination, judges, memory, harness."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import util
from itertools import combinations, islice, product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from shared.appendices import (
    REPLY_RULES,
    ChoiceQuestion,
    TextPrice,
    ask_server,
    choice_prices,
    choice_scores,
    cohens_kappa,
    ending_form,
    ending_questions,
    exact_match,
    exposure,
    generate_cached,
    holm,
    longest_copy,
    mcnemar,
    ngram_overlap,
    ngram_set,
    normalise_reply,
    order_test,
    pass_at_k,
    price_continuations,
    price_rows,
    price_text,
    rank_auc,
    rolling_windows,
    split_continuation,
)
from shared.artifacts import ROOT
from shared.previous_chapters import END_OF_TEXT, BPETokenizer, GPTConfig, GPTModel, story_nats
from shared.stories import stories, story_text

HERE = ROOT / "appendix" / "k_evaluation"


def loaded(name: str) -> ModuleType:
    """A module that lies beside the notebook."""
    spec = util.spec_from_file_location(f"app_k_{name}", HERE / f"{name}.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(story_text(20_000), 300, special_tokens=(END_OF_TEXT,))


@pytest.fixture(scope="module")
def model(tokenizer: BPETokenizer) -> GPTModel:
    """Untrained, with scores far enough apart to tell tokens apart."""
    one = GPTModel(GPTConfig(len(tokenizer.vocab), 23, 12, 3, 2), seed=1)
    for parameter in one.parameters():
        parameter.data.mul_(4)
    return one.eval()


def by_hand(model: GPTModel, ids: list[int], context: int) -> list[float]:
    """Each id but the first, priced alone with as much as fits before it."""
    paid = []
    for i in range(1, len(ids)):
        logits = model(torch.tensor([ids[max(0, i - context) : i]]))[0, -1]
        paid.append(F.cross_entropy(logits[None], torch.tensor([ids[i]])).item())
    return paid


# --- prices


def test_windows_pay_for_each_id_once_and_never_outgrow_the_context():
    for ids, context in product((1, 2, 5, 8, 23), (1, 3, 7)):
        for stride in range(1, context + 1):
            plan = list(rolling_windows(ids, context, stride))
            assert [i for _, a, b in plan for i in range(a, b)] == list(range(1, ids))
            assert all(
                0 <= start < first < stop <= start + context + 1 for start, first, stop in plan
            )
            assert all(first - start >= context - stride + 1 for start, first, _ in plan[1:])


def test_windows_by_hand():
    assert list(rolling_windows(11, 4, 4)) == [(0, 1, 5), (4, 5, 9), (6, 9, 11)]
    assert list(rolling_windows(8, 4, 2)) == [(0, 1, 5), (2, 5, 7), (3, 7, 8)]


@pytest.mark.parametrize("stride", [0, 5, -1])
def test_a_stride_that_leaves_gaps_is_refused(stride):
    with pytest.raises(ValueError, match="expected 1 to context_length=4"):
        list(rolling_windows(9, 4, stride))


def test_stride_one_is_the_price_with_all_that_fits(model, tokenizer):
    text = story_text(200, seed=5)
    ids = [tokenizer.special_tokens[END_OF_TEXT], *tokenizer.encode(text, allowed_special="all")]
    price = price_text(model, tokenizer, text, 1)
    assert price.nats == pytest.approx(sum(by_hand(model, ids, 23)), rel=1e-5)
    assert price.tokens == len(ids) - 1
    assert price.num_bytes == len(text.replace(END_OF_TEXT, "").encode())


def test_disjoint_windows_start_anew(model, tokenizer):
    text = "ä" + next(stories(3)).text
    ids = [tokenizer.special_tokens[END_OF_TEXT], *tokenizer.encode(text)]
    cut = range(0, len(ids) - 1, 23)
    assert len(ids) % 23 != 1  # the last window reaches back
    whole = [sum(by_hand(model, ids[i : i + 24], 23)) for i in cut[:-1]]
    last = by_hand(model, ids[-24:], 23)[-(len(ids) - 1 - cut[-1]) :]
    price = price_text(model, tokenizer, text, 23)
    assert price.nats == pytest.approx(sum(whole) + sum(last), rel=1e-5)
    assert price.num_bytes == len(text.encode())


def test_one_story_costs_what_chapter_5_says(tokenizer):
    wide = GPTModel(GPTConfig(len(tokenizer.vocab), 512, 12, 3, 1), seed=2)
    story = next(stories(4))
    price = price_text(wide, tokenizer, story.text + END_OF_TEXT)
    assert price.nats == pytest.approx(story_nats(wide, tokenizer, [story]), rel=1e-5)


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary(tokenizer):
    flat = GPTModel(GPTConfig(len(tokenizer.vocab), 23, 12, 3, 1), seed=2)
    for parameter in flat.parameters():
        parameter.data.zero_()
    price = price_text(flat, tokenizer, "Mia had a kite.", 5)
    assert price.perplexity == pytest.approx(len(tokenizer.vocab), rel=1e-4)
    assert price.bits_per_byte == pytest.approx(price.tokens * math.log2(300) / 15, rel=1e-4)


def test_an_empty_text_has_no_price(model, tokenizer):
    with pytest.raises(ValueError, match="empty"):
        price_text(model, tokenizer, END_OF_TEXT)


def test_rows_keep_their_order_and_their_favourites(model):
    dice = random.Random(0)
    rows = [[dice.randrange(300) for _ in range(n)] for n in (5, 2, 19, 24, 3, 7, 2)]
    for row, price in zip(rows, price_rows(model, rows, at_once=3), strict=True):
        logits = model(torch.tensor([row[:-1]]))[0]
        assert price.nats.tolist() == pytest.approx(by_hand(model, row, 23), rel=1e-4)
        assert price.likeliest.tolist() == (logits.argmax(-1) == torch.tensor(row[1:])).tolist()


# --- multiple choice


def test_a_continuation_is_cut_out_of_the_whole(tokenizer):
    end = tokenizer.special_tokens[END_OF_TEXT]
    for context, after in (
        ("Mia had", " a kite"),
        ("Mia had ", "a kite"),
        ("", "Mia"),
        ("a\n\n", "B"),
    ):
        before, cut = split_continuation(tokenizer, context, after)
        assert before[0] == end and before[1:] + cut == tokenizer.encode(context + after)
        assert tokenizer.decode(cut).lstrip() == after.lstrip()
    same = split_continuation(tokenizer, "Mia had", " a kite")
    assert split_continuation(tokenizer, "Mia had ", "a kite") == same
    with pytest.raises(ValueError, match="empty"):
        split_continuation(tokenizer, "Mia", "")


def test_continuations_are_priced_after_their_context(model, tokenizer):
    pairs = [
        ("Mia", " had a"),
        ("", "Ben ran."),
        ("One day Mia had a very long way to go to", " the lake"),
    ]
    for (context, after), (price, greedy) in zip(
        pairs, price_continuations(model, tokenizer, pairs), strict=True
    ):
        before, cut = split_continuation(tokenizer, context, after)
        row = (before + cut)[-24:]
        assert price.nats == pytest.approx(sum(by_hand(model, row, 23)[-len(cut) :]), rel=1e-4)
        assert (price.tokens, price.num_bytes, greedy) == (len(cut), len(after), False)
    with pytest.raises(ValueError, match="context_length=23"):
        price_continuations(model, tokenizer, [("a", "xyz " * 30)])


def test_greedy_text_is_known_as_such(model, tokenizer):
    start = tokenizer.encode("Mia had")
    row = generate_cached(
        model, [[tokenizer.special_tokens[END_OF_TEXT], *start]], 3, temperature=0
    )
    text = tokenizer.decode(row[0][1 + len(start) :])
    ((_, greedy),) = price_continuations(model, tokenizer, [("Mia had", text)])
    before, cut = split_continuation(tokenizer, "Mia had", text)
    assert greedy == (before + cut == row[0])  # true where the text is encoded as it was written


def test_scores_by_hand():
    prices = [TextPrice(2.0, 1, 3), TextPrice(3.0, 3, 12)]
    prior = [TextPrice(2.5, 1, 3), TextPrice(6.0, 3, 12)]
    assert choice_scores(prices).tolist() == [-2.0, -3.0]
    assert choice_scores(prices, "token").tolist() == [-2.0, -1.0]
    assert choice_scores(prices, "byte").tolist() == pytest.approx([-2 / 3, -0.25])
    assert choice_scores(prices, prior=prior).tolist() == [0.5, 3.0]
    with pytest.raises(ValueError, match="per='letter'"):
        choice_scores(prices, "letter")
    with pytest.raises(ValueError, match="prior"):
        choice_scores(prices, prior=prior[:1])


def test_prices_of_choices_stay_with_their_questions(model, tokenizer):
    questions = [
        ChoiceQuestion("Mia", (" ran", " sat."), 0, "So"),
        ChoiceQuestion("B", ("!",), 0, "C"),
    ]
    for neutral in (False, True):
        prices = choice_prices(model, tokenizer, questions, neutral)
        assert [len(p) for p in prices] == [2, 1]
        prompt = "So" if neutral else "Mia"
        ((alone, _),) = price_continuations(model, tokenizer, [(prompt, " sat.")])
        assert prices[0][1].nats == pytest.approx(alone.nats, rel=1e-4)


@pytest.mark.parametrize("mixed", [False, True])
def test_questions_are_about_what_is_so(mixed):
    told = {}
    for story in islice(stories(2, "validation"), 300):
        if story.probes:
            told[story.text[: story.text.rfind("\n\n", 0, story.probes[-1].start)]] = story
    questions = ending_questions(25, 2, mixed)
    assert len(questions) == 25 and questions == ending_questions(25, 2, mixed)
    assert len({question.answer for question in questions}) == 4
    for question in questions:
        story, right = told[question.prompt], question.choices[question.answer]
        probe = story.probes[-1]
        assert right in story.text and probe.answer in right
        assert len(set(question.choices)) == 4
        for choice in question.choices:
            assert (choice == right) == (probe.answer in choice) and probe.thing in choice
        assert all(any(n in c for c in question.choices) for n in story.people[:4])


def test_forms_have_two_blanks_and_no_name():
    known = [(s, f) for s in islice(stories(9), 300) if (f := ending_form(s))]
    assert len(known) > 50
    for story, form in known:
        probe = story.probes[-1]
        assert form.format(who=probe.answer, thing=probe.thing) in story.text
        assert not any(name in form for name in story.people)


# --- exact match and several tries


@pytest.mark.parametrize(
    "rule, given, becomes",
    [
        ("spaces", " a  b\n", "a b"),
        ("case", "Die Straße", "die strasse"),
        ("marks", "Yes, it's so.", "Yes its so"),
        ("articles", "The cat ate an apple", "cat ate apple"),
        ("numbers", "3 of 10, not 13", "three of ten, not 13"),
    ],
)
def test_each_rule(rule, given, becomes):
    assert normalise_reply(given, [rule]) == becomes


def test_exact_match_forgives_what_it_is_told_to():
    assert not exact_match("The 3.", ["three"]) and exact_match(
        "The 3.", ["two", "three"], REPLY_RULES
    )
    assert not exact_match("there", ["re"], REPLY_RULES)  # an article inside a word is none
    assert exact_match(" x ", [" x "]) and not exact_match("x", [" x "])
    with pytest.raises(ValueError, match="'accents'"):
        normalise_reply("é", ["accents"])


def test_pass_at_k_counts_draws():
    for n in range(1, 8):
        for c, k in product(range(n + 1), range(1, n + 1)):
            draws = list(combinations([True] * c + [False] * (n - c), k))
            wanted = sum(map(any, draws)) / len(draws)
            assert pass_at_k(n, c, k) == pytest.approx(wanted)
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert pass_at_k(10_000, 3, 5_000) == pytest.approx(0.875, abs=1e-3)
    for wrong in ((5, 6, 1), (5, 1, 6), (5, 1, 0), (0, 0, 1)):
        with pytest.raises(ValueError, match="expected 1 ≤ k ≤ n"):
            pass_at_k(*wrong)


# --- tests


def test_mcnemar_by_hand():
    one = [True] * 1 + [False] * 8 + [True] * 5
    two = [False] * 1 + [True] * 8 + [True] * 5
    assert mcnemar(one, two) == (1, 8, pytest.approx(2 * 10 / 512))
    assert mcnemar(two, one)[2] == mcnemar(one, two)[2]
    assert mcnemar([1, 0], [1, 0]) == (0, 0, 1.0)
    assert mcnemar([1, 0], [0, 1]) == (1, 1, 1.0)
    with pytest.raises(ValueError, match="1 and 2 answers"):
        mcnemar([True], [True, False])


def test_mcnemar_raises_false_alarms_rarely():
    dice = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(400):
        answers = torch.rand(2, 200, generator=dice) < 0.8
        alarms += mcnemar(*answers.tolist())[2] < 0.05
    assert 2 <= alarms <= 28  # at most 5 %, and it does raise some


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == pytest.approx([1.0, 1.0])
    assert holm([]) == [] and holm([0.2]) == [0.2]
    with pytest.raises(ValueError, match="0 to 1"):
        holm([1.2])


def test_auc_and_kappa_by_hand():
    assert rank_auc([3.0, 1.0], [2.0, 0.0]) == 0.75
    assert rank_auc([1.0], [1.0, 1.0]) == 0.5
    assert cohens_kappa(list("AAAABBBBBB"), list("AAABABBBBB")) == pytest.approx(
        (0.8 - 0.52) / 0.48
    )
    assert cohens_kappa([0, 1, 2], [0, 1, 2]) == 1.0
    assert cohens_kappa([0, 0, 1, 1], [0, 1, 0, 1]) == 0.0
    for call in (lambda: rank_auc([], [1.0]), lambda: cohens_kappa([], [])):
        with pytest.raises(ValueError, match="0 "):
            call()
    with pytest.raises(ValueError, match="no agreement can be measured"):
        cohens_kappa([1, 1], [1, 1])


# --- what was seen


def test_ngrams_by_hand():
    seen = ngram_set(["Mia had a kite.", "so"], 3)
    assert seen == {("Mia", "had", "a"), ("had", "a", "kite.")}
    assert ngram_overlap("Now Mia had a ball", seen, 3) == pytest.approx(1 / 3)
    assert ngram_overlap("Mia had a kite.", seen, 3) == 1
    with pytest.raises(ValueError, match="2 words"):
        ngram_overlap("Mia had", seen, 3)
    with pytest.raises(ValueError, match="n=0"):
        ngram_set(["a"], 0)


class Reciter(torch.nn.Module):
    """A model that knows one row by heart, and goes on with it for as long as it is followed."""

    def __init__(self, vocab_size: int, row: list[int]) -> None:
        super().__init__()
        self.config = GPTConfig(vocab_size, 200, 4, 2, 1)
        self.row, self.some = row, torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, self.config.vocab_size)
        for line, given in zip(logits, ids.tolist(), strict=True):
            for place in range(min(len(given), len(self.row) - 1)):
                if given[: place + 1] != self.row[: place + 1]:
                    break
                line[place, self.row[place + 1]] = 5.0
        return logits


def test_the_order_gives_itself_away(tokenizer):
    items = ["Mia ran.", "Ben sat.", "On we go!", "Four cups?", "No."]
    row = [tokenizer.special_tokens[END_OF_TEXT], *tokenizer.encode(" ".join(items))]
    guilty = Reciter(len(tokenizer.vocab), row)
    assert order_test(guilty, tokenizer, items, 49) <= 0.04
    assert order_test(guilty, tokenizer, items[::-1], 49) > 0.1
    innocent = Reciter(len(tokenizer.vocab), [])
    assert order_test(innocent, tokenizer, items, 49) == 1.0  # all orders cost the same
    with pytest.raises(ValueError, match="2 items"):
        order_test(guilty, tokenizer, items[:2])
    with pytest.raises(ValueError, match="context_length=200"):
        order_test(guilty, tokenizer, ["word " * 90] * 3)


def slow_copy(text: str, corpus: str) -> int:
    """The length of the longest copy, all pairs tried."""
    a, b, best = text.split(), corpus.split(), 0
    for i, j in product(range(len(a)), range(len(b))):
        k = 0
        while i + k < len(a) and j + k < len(b) and a[i + k] == b[j + k]:
            k += 1
        best = max(best, k)
    return best


def test_the_longest_copy_is_the_longest():
    dice = random.Random(0)
    for size in (0, 1, 7, 30):
        text = " ".join(dice.choices("ab abc c d".split(), k=size))
        corpus = "\n".join(dice.choices("ab abc c d".split(), k=40))
        assert len(longest_copy(text, corpus).split()) == slow_copy(text, corpus)
    assert longest_copy("so the cat  sat down", "the cat\nsat on the mat") == "the cat sat"
    assert longest_copy("art", "a cart") == ""


def test_exposure_by_hand():
    assert exposure(1.0, [2.0, 3.0, 4.0]) == 2.0
    assert exposure(5.0, [2.0, 3.0, 4.0]) == 0.0
    assert exposure(2.0, [2.0]) == 0.0  # a tie is no knowledge
    with pytest.raises(ValueError, match="no other"):
        exposure(1.0, [])


# --- a judge on this machine


@contextmanager
def answering(content: object) -> Iterator[str]:
    """A server on this machine that answers everything with `content`."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_is_asked():
    with answering({"choices": [{"message": {"content": "Mia has it."}}]}) as address:
        assert ask_server(address, "some-model", "Who has it?") == "Mia has it."
    with answering({"error": "no such model"}) as address:
        with pytest.raises(ConnectionError, match="does the server run"):
            ask_server(address, "some-model", "Who has it?")
    with pytest.raises(ConnectionError, match="gave no answer"):
        ask_server(address, "some-model", "Who has it?", timeout=2)


# --- the harness


def request(*args: object) -> SimpleNamespace:
    return SimpleNamespace(args=args)


def test_the_adapter_gives_what_the_harness_wants(model, tokenizer):
    scorer = loaded("harness").CourseScorer(model, tokenizer)
    pairs = [("Mia had", " a kite"), ("", "Ben")]
    wanted = price_continuations(model, tokenizer, pairs)
    given = scorer.loglikelihood([request(*pair) for pair in pairs])
    assert given == [(-price.nats, greedy) for price, greedy in wanted]
    text = next(stories(6)).text
    (rolling,) = scorer.loglikelihood_rolling([request(text)])
    assert rolling == -price_text(model, tokenizer, text, 23).nats


def test_the_adapter_writes_until_it_is_told_to_stop(model, tokenizer):
    scorer = loaded("harness").CourseScorer(model, tokenizer)
    (whole,) = scorer.generate_until([request("Mia had", {"until": [], "max_gen_toks": 12})])
    assert len(whole) > 2
    for stop in (whole[2:4], [whole[2:4], "never"]):
        (cut,) = scorer.generate_until([request("Mia had", {"until": stop, "max_gen_toks": 12})])
        assert cut == whole[: whole.index(whole[2:4])]
    long = "Mia had a kite. " * 20  # does not fit, and keeps its end
    assert scorer.generate_until([request(long, {"until": [], "max_gen_toks": 5})])
    for settings in ({"do_sample": True}, {"max_gen_toks": 23}, {"max_gen_toks": 0}):
        with pytest.raises(ValueError, match="greedy|max_gen_toks"):
            scorer.generate_until([request("Mia", settings)])


def test_a_task_is_a_file(tmp_path):
    harness = loaded("harness")
    question = ChoiceQuestion("Mia ran.", ("\n\nA", "\n\nÄ"), 1)
    folder = harness.write_task(tmp_path / "new", [question])
    rows = [json.loads(line) for line in (folder / "story_endings.jsonl").read_text().splitlines()]
    assert rows == [{"prompt": "Mia ran.", "choices": ["\n\nA", "\n\nÄ"], "answer": 1}]
    task = json.loads((folder / "story_endings.yaml").read_text())
    assert Path(task["dataset_kwargs"]["data_files"]["test"]).is_file()
    with pytest.raises(ValueError, match="no questions"):
        harness.write_task(tmp_path, [])


def test_without_the_harness_it_says_what_to_do(model, tokenizer, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.api.model", None)
    with pytest.raises(ImportError, match="pip install lm_eval"):
        loaded("harness").harness_model(model, tokenizer)


def test_the_harness_finds_the_same_accuracy(tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm_eval is optional")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    harness = loaded("harness")
    wide = GPTModel(GPTConfig(len(tokenizer.vocab), 400, 12, 3, 1), seed=3)
    questions = ending_questions(30, 4)
    prices = choice_prices(wide, tokenizer, questions)
    answers = [question.answer for question in questions]
    ours = {
        name: sum(
            int(choice_scores(p, per).argmax()) == a for p, a in zip(prices, answers, strict=True)
        )
        for name, per in (("acc", "text"), ("acc_norm", "byte"))
    }
    folder = harness.write_task(tmp_path / "task", questions)
    found = harness.run_task(harness.harness_model(wide, tokenizer), folder)
    assert found == {name: pytest.approx(right / 30) for name, right in ours.items()}


def test_the_harness_lays_the_same_windows():
    utils = pytest.importorskip("lm_eval.utils", reason="lm_eval is optional")
    for many, context in ((10, 4), (8, 4), (3, 4), (23, 7)):
        ids = list(range(100, 100 + many))
        theirs = utils.get_rolling_token_windows(ids, 0, context, 1)
        theirs = [utils.make_disjoint_window(pair) for pair in theirs]
        whole = [0, *ids]
        plan = rolling_windows(len(whole), context, context)
        ours = [(whole[start:first], whole[first:stop]) for start, first, stop in plan]
        assert [(list(before), list(after)) for before, after in theirs] == ours


# --- the experiments


@pytest.mark.parametrize("name", ["strides", "tokenizers", "contamination", "canaries"])
def test_results_say_what_they_are(name):
    found = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert {"what", "command", "settings", "machine", "date", "runs"} <= found.keys()
    assert len({run["seed"] for run in found["runs"]}) >= 3
    assert all(run["seconds"] > 0 for run in found["runs"])


def test_exam_halves_are_different_questions():
    planted, clean = loaded("experiments").exam_halves(6)
    assert len(planted) == len(clean) == 18
    assert not {e.content for e in planted} & {e.content for e in clean}
    assert [e.family for e in planted] == [e.family for e in clean]


def test_secrets_are_planted_as_often_as_said(tokenizer):
    experiments = loaded("experiments")
    told = [
        experiments.secret(owner, words)
        for times, owner, words in experiments.planted_secrets(1)
        for _ in range(times)
    ]
    rows = experiments.canary_rows(1, tokenizer, count=20)
    texts = [tokenizer.decode(row[1:-1]) for row in rows]
    assert sorted(t for t in texts if t.startswith("The secret of")) == sorted(told)
    assert len(told) == 3 * (1 + 4 + 16 + 64)
