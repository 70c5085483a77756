"""Fine-tuning: claims, the classifier, where it is read, its stream, its files, and the figures."""

from __future__ import annotations

import copy
import re
from itertools import islice

import pytest
import torch

from shared.previous_chapters import (
    END_OF_TEXT,
    IGNORED,
    BagOfWords,
    BPETokenizer,
    GPTClassifier,
    GPTConfig,
    GPTModel,
    LabelBatches,
    MeanHead,
    Recipe,
    TextBatches,
    best_temperature,
    calibration_error,
    claims,
    classifier_from,
    classify,
    confidence_bins,
    confusion_matrix,
    evaluate,
    evaluating,
    fine_tuning,
    label_batch,
    label_logits,
    load_checkpoint,
    load_classifier,
    next_token_loss,
    paired_bootstrap,
    pieces_of,
    precision_recall,
    pretrain,
    save_checkpoint,
    save_classifier,
    text_rows,
    train_last,
    words_of,
)
from shared.stories import story_text

CONFIG = GPTConfig(vocab_size=300, context_length=23, embed_dim=24, num_heads=3, num_layers=2)
ROWS = [[1] * n for n in (5, 2, 9, 1, 7, 3, 11, 4, 6, 8, 13)]  # odd lengths, one of one token
LABELS = [0, 1, 2] * 3 + [0, 1]


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(story_text(20_000, seed=3), 300, (END_OF_TEXT,))


@pytest.fixture
def gpt():
    return GPTModel(CONFIG, seed=1)


def same(one, other) -> bool:
    """Whether two models hold the same numbers, bit for bit."""
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def some_claims(count, **settings):
    return list(islice(claims(**settings), count))


# --- claims


def test_claims_come_in_pairs_about_one_story_half_of_them_true():
    found = some_claims(400, seed=4)
    assert [c.is_true for c in found] == [True, False] * 200
    for true, false in zip(found[::2], found[1::2], strict=True):
        assert true.story == false.story and true.name != false.name
        assert true.name_first.split("? ", 1)[1] == false.name_first.split("? ", 1)[1]


def test_claims_agree_with_the_facts_of_the_world():
    compared = 0
    for claim in some_claims(600, seed=5, split="validation", both=False):
        holders = {f.about: f.answer for f in claim.story.facts if f.kind == "who_has"}
        thing = claim.story.probes[0].thing
        if thing in holders:
            compared += 1
            assert (holders[thing] == claim.name) == claim.is_true, claim.name_last
    assert compared > 300


def test_a_false_name_stands_in_the_story_too_and_a_true_claim_is_its_text():
    for claim in some_claims(400, seed=6):
        if not claim.is_true:
            assert re.search(rf"\b{claim.name}\b", claim.before), claim.name_last
        else:
            assert claim.story.text.startswith(claim.name_last)
        assert claim.name_first.startswith(f"{claim.name}? {claim.before[:10]}")
        assert claim.name_last.endswith((".", "!", "?", '"'))


def test_claims_are_the_same_for_the_same_seed_and_alternate_for_an_exam():
    assert some_claims(20, seed=7) == some_claims(20, seed=7) != some_claims(20, seed=8)
    exam = some_claims(101, seed=7, both=False)
    assert sum(claim.is_true for claim in exam) == 51
    assert len({claim.story.text for claim in exam}) > 95
    with pytest.raises(ValueError, match="split"):
        some_claims(1, split="nowhere")


def test_counting_words_does_not_tell_whether_a_claim_is_true():
    learned, asked = some_claims(2000, seed=9), some_claims(1000, split="validation", both=False)
    for form in ("name_first", "name_last"):
        texts = [getattr(claim, form) for claim in learned]
        bag = BagOfWords(texts, [int(claim.is_true) for claim in learned])
        said = bag.scores([getattr(claim, form) for claim in asked]) > 0
        right = sum(s == c.is_true for s, c in zip(said.tolist(), asked, strict=True))
        assert right <= 0.60 * len(asked), (form, right)


# --- a bag of words


def test_words_numbers_and_pairs():
    assert words_of("Win 500 now!", pairs=False) == ["win", "###", "now", "!"]
    assert words_of("Don't, don't") == ["don't", ",", "don't ,", ", don't"]
    assert words_of("") == []


def test_a_bag_of_words_learns_a_word_and_not_its_place():
    texts = ["free tea now", "now tea", "tea is free", "is tea here", "free here", "here now"] * 5
    bag = BagOfWords(texts, [1, 0, 1, 0, 1, 0] * 5, pairs=False)
    scores = bag.scores(["a free thing", "a thing free a", "a thing", ""])
    assert scores[0] > 0 > scores[2]
    assert torch.equal(scores[0], scores[1]) and torch.equal(scores[2], scores[3])
    by_hand = (bag.weights[0] + bag.weights[bag.places["free"]]) / 2**0.5
    assert torch.allclose(scores[:1], by_hand)


def test_a_bag_of_words_names_what_it_cannot_use():
    with pytest.raises(ValueError, match="0 texts"):
        BagOfWords([], [])
    with pytest.raises(ValueError, match="2 texts, 1 labels"):
        BagOfWords(["a", "b"], [1])
    with pytest.raises(ValueError, match="text 1 has the label 2"):
        BagOfWords(["a", "b"], [1, 2])


# --- the classifier


def test_a_classifier_is_the_same_model_with_another_head(gpt):
    model = classifier_from(gpt, 3, seed=2)
    ids = torch.randint(300, (1, 7), generator=torch.Generator().manual_seed(0))
    seen = []
    for one in (gpt, model):
        with evaluating(one):
            one.final_norm.register_forward_hook(lambda module, given, out: seen.append(out))
            logits = one(ids)
    assert torch.equal(*seen) and logits.shape == (1, 7, 3)
    assert model.num_parameters() == gpt.num_parameters() + 3 * 24 + 3
    assert {n for n, _ in model.named_parameters()} - {n for n, _ in gpt.named_parameters()} == {
        "output_head.weight",
        "output_head.bias",
    }
    before = copy.deepcopy(gpt.state_dict())
    with torch.no_grad():
        model.token_embedding.weight.add_(1)
    assert all(torch.equal(v, before[n]) for n, v in gpt.state_dict().items()), "not a copy"


def test_heads_depend_on_the_seed_alone(gpt):
    state = torch.get_rng_state()
    assert same(classifier_from(gpt, 3, seed=2), classifier_from(gpt, 3, seed=2))
    assert torch.equal(state, torch.get_rng_state()), "it took random numbers from outside"
    assert not same(classifier_from(gpt, 3, seed=2), classifier_from(gpt, 3, seed=3))
    with pytest.raises(ValueError, match="num_classes=1"):
        GPTClassifier(CONFIG, 1)
    with pytest.raises(ValueError, match="token ids"):
        classifier_from(gpt)(torch.tensor([[300]]))


def test_the_mean_head_is_a_linear_layer_on_the_mean_so_far():
    head, x = MeanHead(4, 3), torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    result = head(x)
    for place in range(5):
        mean = x[:, : place + 1].mean(dim=1)
        assert torch.allclose(result[:, place], mean @ head.weight.T + head.bias, atol=1e-6)


@pytest.mark.parametrize("mean", [False, True])
def test_the_filling_has_no_say_at_the_last_real_token(gpt, mean):
    model = classifier_from(gpt, 3, mean=mean)
    row, found = [5, 9, 200, 7], {"last": [], "first": [], "last_padded": []}
    for read, answers in found.items():
        for width in (4, 5, 11, 23):
            inputs, targets = label_batch([row], [1], 3, read, width)
            with evaluating(model):
                answers.append(model(inputs)[targets != IGNORED][0])
    for read in ("last", "first"):
        for answer in found[read]:
            assert torch.allclose(answer, found[read][0], atol=1e-6), read
    assert torch.allclose(found["last_padded"][0], found["last"][0], atol=1e-6)
    assert not torch.allclose(found["last_padded"][-1], found["last"][0], atol=1e-4)


# --- where the label stands


def test_positions_on_a_batch_made_by_hand():
    x = IGNORED
    wanted = {
        "first": [[1, x, x], [0, x, x], [2, x, x]],
        "last": [[x, x, 1], [x, 0, x], [2, x, x]],
        "last_padded": [[x, x, 1], [x, x, 0], [x, x, 2]],
    }
    for read, targets in wanted.items():
        inputs, found = label_batch([[7, 5, 6], [7, 8], [9]], [1, 0, 2], 3, read)
        assert inputs.tolist() == [[7, 5, 6], [7, 8, 0], [9, 0, 0]]
        assert found.tolist() == targets, read
    inputs, found = label_batch([[7]], [1], width=4)  # a batch of one
    assert inputs.tolist() == [[7, 0, 0, 0]] and found.tolist() == [[1, x, x, x]]


def test_the_loss_is_the_cross_entropy_of_the_labels(gpt):
    model = classifier_from(gpt, 3, seed=5)
    batch = label_batch(ROWS[:4], [2, 0, 1, 2], 3)
    with evaluating(model):
        alone = [model(torch.tensor([row]))[0, -1].log_softmax(-1) for row in ROWS[:4]]
        wanted = -sum(row[label] for row, label in zip(alone, (2, 0, 1, 2), strict=True)) / 4
        assert torch.allclose(next_token_loss(model, *batch), wanted, atol=1e-5)
    assert abs(evaluate(model, [batch]) - wanted.item()) < 1e-5


def test_what_makes_no_batch_is_named():
    with pytest.raises(ValueError, match="text 1 has the label 2; expected 0 to 1"):
        label_batch([[1], [2]], [0, 2])
    with pytest.raises(ValueError, match="label -100"):
        label_batch([[1]], [IGNORED])
    with pytest.raises(ValueError, match="0 texts"):
        label_batch([], [])
    with pytest.raises(ValueError, match="row 1 has no token"):
        label_batch([[1], []], [0, 1])
    with pytest.raises(ValueError, match="read='middle'"):
        label_batch([[1]], [0], read="middle")


# --- texts as rows


def test_rows_begin_with_the_end_of_text_token(tokenizer):
    end = tokenizer.special_tokens[END_OF_TEXT]
    (row,) = text_rows(["Mia had a kite."], tokenizer, 99)
    assert row[0] == end and tokenizer.decode(row[1:]) == "Mia had a kite."
    assert text_rows([END_OF_TEXT], tokenizer, 99)[0].count(end) == 1, "a text may not end itself"
    assert text_rows([], tokenizer, 99) == []


def test_a_long_text_loses_its_end_with_a_warning_and_an_empty_one_is_named(tokenizer):
    (whole,) = text_rows(["Mia had a kite."], tokenizer, 99)
    with pytest.warns(UserWarning, match=f"1 of 2 texts .* has {len(whole)} tokens.*ends are cut"):
        cut, short = text_rows(["Mia had a kite.", "M"], tokenizer, 4)
    assert cut == whole[:4] and len(short) == 2
    with pytest.raises(ValueError, match="text 1 is empty"):
        text_rows(["a", " \n"], tokenizer, 99)
    with pytest.raises(TypeError, match="into a list"):
        text_rows("a text", tokenizer, 99)


# --- the stream


def batch_lists(stream):
    return [[x.tolist() for x in batch] for batch in stream]


def test_each_epoch_holds_every_row_once_with_its_label():
    rows = [[n] * n for n in range(1, 12)]
    stream = LabelBatches(rows, LABELS, 3, epochs=2, batch_size=4, seed=3)
    seen = []
    for inputs, targets in stream:
        assert inputs.shape == targets.shape and inputs.shape[1] % 8 == 0
        for given, asked in zip(inputs, targets, strict=True):
            length = int((given != 0).sum())
            assert given[:length].tolist() == [length] * length
            assert asked[length - 1] == LABELS[length - 1] and (asked != IGNORED).sum() == 1
            seen.append(length)
    assert sorted(seen[:11]) == sorted(seen[11:]) == list(range(1, 12))
    assert seen[:11] != seen[11:], "the second epoch came in the same order"


def test_pairs_stay_together_and_rows_of_like_length_do():
    rows = [[i + 1] * (1 + (i // 2) % 9) for i in range(40)]
    stream = LabelBatches(rows, [0, 1] * 20, batch_size=4, together=2)
    for inputs, _ in stream:
        names = inputs[:, 0].tolist()
        assert all(b == a + 1 and a % 2 for a, b in zip(names[::2], names[1::2], strict=True))
    assert pieces_of([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]


def test_a_stream_goes_on_where_it_was():
    def fresh():
        return LabelBatches(ROWS, LABELS, 3, epochs=2.5, batch_size=3, skip=0.3, seed=1)

    whole = batch_lists(fresh())
    for after in (0, 1, 4, 5, len(whole) - 1):
        stream, later = fresh(), fresh()
        begun = [[x.tolist() for x in batch] for batch in islice(stream, after)]
        later.place = stream.place
        assert begun + batch_lists(later) == whole


def test_skipping_leaves_out_tokens_and_never_the_first():
    rows = [list(range(1, 21))] * 200
    stream = LabelBatches(rows, [0] * 200, batch_size=50, skip=0.25, seed=2)
    lengths = []
    for inputs, targets in stream:
        for given, asked in zip(inputs, targets, strict=True):
            kept = [i for i in given.tolist() if i]
            assert kept[0] == 1 and kept == sorted(kept) and asked[len(kept) - 1] == 0
            lengths.append(len(kept))
    assert abs(sum(lengths) / 200 - (1 + 19 * 0.75)) < 0.6 and len(set(lengths)) > 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": []}, "0 texts"),
        ({"labels": [0, 3]}, "label 3; expected 0 to 1"),
        ({"rows": [[1], []]}, "row 1"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 3, "together": 2}, "together=2"),
        ({"read": "middle"}, "read='middle'"),
    ],
)
def test_what_makes_no_stream_is_named(changed, message):
    given = {"rows": [[1], [2]], "labels": [0, 1]} | changed
    if not given["rows"]:
        given["labels"] = []
    with pytest.raises(ValueError, match=re.escape(message)):
        LabelBatches(given.pop("rows"), given.pop("labels"), **given)
    with pytest.raises(TypeError, match="reed"):
        LabelBatches([[1]], [0], reed="last")


def test_texts_are_read_whole_in_each_epoch():
    rows = [[1] * n for n in (2, 5, 9, 3)]
    stream = TextBatches(rows, epochs=2, tokens_per_batch=10)
    asked = [int((targets != IGNORED).sum()) for _, targets in stream]
    assert sum(asked) == 2 * sum(len(row) - 1 for row in rows)
    with pytest.raises(ValueError, match="two ids"):
        TextBatches([[1]])


# --- training


def toy(count=60):
    """Rows whose label is whether their second token is a 7."""
    dice = torch.Generator().manual_seed(4)
    firsts = torch.randint(0, 2, (count,), generator=dice).tolist()
    sizes = torch.randint(1, 9, (count,), generator=dice).tolist()
    rows = [[0, 7 if f else 8, *range(20, 20 + n)] for f, n in zip(firsts, sizes, strict=True)]
    return rows, firsts


def test_fine_tuning_learns_and_goes_on_bit_for_bit_after_a_stop(gpt, tmp_path):
    rows, labels = toy()

    def learn(**settings):
        model, stream = classifier_from(gpt, 2), LabelBatches(rows, labels, epochs=6, batch_size=6)
        pretrain(model, stream, fine_tuning(3), **settings)
        return model

    def power_cut(model):
        raise RuntimeError("power cut")

    whole = learn()
    assert (label_logits(whole, rows).argmax(1) == torch.tensor(labels)).float().mean() > 0.95
    saving = {"checkpoint": tmp_path / "run.safetensors", "checkpoint_every": 4}
    with pytest.raises(RuntimeError, match="power cut"):
        learn(watch=power_cut, watch_every=[17], **saving)
    assert same(learn(**saving), whole)


@pytest.mark.parametrize(("layers", "moves"), [(0, ()), (1, ("blocks.1.", "final_norm."))])
def test_what_is_frozen_stays_bit_for_bit(gpt, layers, moves):
    rows, labels = toy()
    model = classifier_from(gpt, 2)
    train_last(model, layers)
    before = copy.deepcopy(model.state_dict())
    pretrain(model, LabelBatches(rows, labels, batch_size=7), fine_tuning())
    for name, value in model.state_dict().items():
        free = name.startswith(("output_head.", *moves))
        assert torch.equal(value, before[name]) != free, name


def test_all_is_trained_again_after_a_part_was(gpt):
    model = classifier_from(gpt, 2)
    train_last(model, 0)
    assert sum(p.requires_grad for p in model.parameters()) == 2
    train_last(model, None)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="layers=3, expected 0 to 2"):
        train_last(model, 3)


def test_the_recipe_is_gentle_and_can_be_changed():
    gentle = fine_tuning(7, momentum=0.9)
    assert isinstance(gentle, Recipe) and (gentle.seed, gentle.momentum) == (7, 0.9)
    assert gentle.matrix_rate < Recipe().matrix_rate and gentle.table_rate < Recipe().table_rate


# --- for use


def test_logits_come_in_the_order_of_the_rows_whatever_their_company(gpt):
    model = classifier_from(gpt, 3)
    dice = torch.Generator().manual_seed(5)
    rows = [torch.randint(300, (n,), generator=dice).tolist() for n in (5, 23, 1, 7, 2, 9, 3)]
    with evaluating(model):
        alone = torch.stack([model(torch.tensor([row]))[0, -1] for row in rows])
    for batch_size in (1, 3, 64):
        assert torch.allclose(label_logits(model, rows, batch_size=batch_size), alone, atol=1e-5)
    assert label_logits(model, []).shape == (0, 3)


def test_classify_any_number_of_texts_of_any_length(gpt, tokenizer):
    model = classifier_from(gpt, 3)
    texts = ["Mia", "Tom had a red kite and Mia had none.", "A", "Ben?"]
    chances = classify(model, tokenizer, texts)
    assert chances.shape == (4, 3) and torch.allclose(chances.sum(dim=1), torch.ones(4))
    for text, row in zip(texts, chances, strict=True):
        assert torch.allclose(classify(model, tokenizer, [text])[0], row, atol=1e-6)
    hot = classify(model, tokenizer, texts, temperature=1e4)
    assert torch.allclose(hot, torch.full((4, 3), 1 / 3), atol=1e-3)
    assert classify(model, tokenizer, []).shape == (0, 3)
    with pytest.warns(UserWarning, match="ends are cut"):
        classify(model, tokenizer, ["Mia had a kite. " * 20])
    with pytest.raises(ValueError, match="temperature=0"):
        classify(model, tokenizer, texts, temperature=0)


@pytest.mark.parametrize("mean", [False, True])
def test_a_saved_classifier_comes_back_equal(gpt, tmp_path, mean):
    model = classifier_from(gpt, 3, seed=9, mean=mean)
    path, names = tmp_path / "c.safetensors", ["ham", "spam", "advertising"]
    save_classifier(path, model, names, read="first", temperature=1.7, trained_on="nothing")
    loaded, notes = load_classifier(path)
    assert same(model, loaded) and loaded.mean is mean and not loaded.training
    assert torch.equal(label_logits(loaded, ROWS), label_logits(model, ROWS))
    assert (notes["label_names"], notes["read"], notes["temperature"]) == (names, "first", 1.7)
    assert notes["trained_on"] == "nothing"


def test_files_of_another_kind_are_refused(gpt, tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, gpt)
    with pytest.raises(ValueError, match="holds no classifier"):
        load_classifier(path)
    model = classifier_from(gpt, 3)
    with pytest.raises(ValueError, match="2 names for 3 labels"):
        save_classifier(path, model, ["ham", "spam"])
    with pytest.raises(ValueError, match="read='middle'"):
        save_classifier(path, model, ["a", "b", "c"], read="middle")
    assert same(load_checkpoint(path)[0], gpt), "the older file was lost"
    with pytest.raises(FileNotFoundError, match="missing"):
        load_classifier(tmp_path / "none.safetensors")


# --- figures


def test_confusion_matrix_by_hand():
    found = confusion_matrix([1, 1, 0, 0, 2], [1, 0, 0, 2, 2], 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    for guessed, labels in (([2], [0]), ([0], [2]), ([0], [0, 1]), ([], [])):
        with pytest.raises(ValueError, match="label|texts"):
            confusion_matrix(guessed, labels)


def test_precision_and_recall_by_hand_with_equal_scores():
    thresholds, precision, recall = precision_recall([0.5, 0.9, 0.5, 0.1], [1, 1, 0, 0])
    assert thresholds.tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert precision.tolist() == pytest.approx([1, 2 / 3, 2 / 4])
    assert recall.tolist() == pytest.approx([1 / 2, 1, 1])
    with pytest.raises(ValueError, match="no label is 1"):
        precision_recall([0.3], [0])


def test_bootstrap_against_hand_computation():
    first, second = [True] * 6 + [False] * 4, [True] * 3 + [False] * 7
    gain, low, high = paired_bootstrap(first, second)
    # 3 of 10 differ: each draw is a binomial mean with p = 0.3, n = 10.
    assert gain == pytest.approx(0.3) and (low, high) == pytest.approx((0.0, 0.6), abs=0.11)
    assert paired_bootstrap(first, first) == (0, 0, 0)
    back = paired_bootstrap(second, first)
    assert back[0] == -gain and back[1] == pytest.approx(-high) and back[2] == pytest.approx(-low)
    wide = paired_bootstrap(first * 100, second * 100)  # 1000 texts: spread 0.458 / root of 1000
    assert wide[2] - wide[1] == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 1000) ** 0.5, rel=0.05)
    for one, other in (([], []), ([True], [True, False])):
        with pytest.raises(ValueError, match="answers"):
            paired_bootstrap(one, other)


def test_calibration_error_against_hand_computation():
    assert calibration_error([0.9] * 8 + [0.6] * 2, [True] * 9 + [False]) == pytest.approx(0.1)
    assert calibration_error([1.0, 1.0], [True, True]) == 0
    assert calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0)
    bins = confidence_bins([0.05, 0.95, 1.0], [False, True, True])
    assert [(b.total, b.right) for b in bins] == [(1, 0), (2, 2)]
    assert bins[1].confidence == pytest.approx(0.975)
    for given in (([], []), ([0.5], [True, True]), ([1.2], [True])):
        with pytest.raises(ValueError, match="confidences"):
            calibration_error(*given)


def test_temperature_finds_how_much_too_sure_the_logits_are():
    dice = torch.Generator().manual_seed(6)
    honest = 2 * torch.randn(4000, 3, generator=dice)
    labels = torch.multinomial(honest.softmax(-1), 1, generator=dice).flatten().tolist()
    assert best_temperature(2.5 * honest, labels) == pytest.approx(2.5, rel=0.08)
    assert best_temperature(0.5 * honest, labels) == pytest.approx(0.5, rel=0.08)
    with pytest.raises(ValueError, match="label 3"):
        best_temperature(honest[:1], [3])
