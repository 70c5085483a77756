"""Appendix E: low-rank adapters, merged and apart, in files, and on a base of four bits."""

from __future__ import annotations

import copy
import importlib.util
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F

from shared.appendices import (
    ALL_TARGETS,
    ATTENTION_TARGETS,
    LORA_TARGETS,
    FourBitLinear,
    Int8Embedding,
    Int8Linear,
    LoRALinear,
    LowRankChange,
    adapter_tensors,
    add_lora,
    base_key,
    even_levels,
    generate_cached,
    load_adapter,
    lora_layers,
    lora_ledger,
    lora_tuning,
    matrix_shape,
    merge_lora,
    normal_levels,
    pack_pairs,
    quantise_to_levels,
    replace_matrices,
    save_adapter,
    share_heads,
    sharing_copy,
    stored_bytes,
    trained_parameters,
    unmerge_lora,
    unpack_pairs,
    wide_B,
    without_lora,
)
from shared.artifacts import ROOT
from shared.previous_chapters import (
    GPTConfig,
    LabelBatches,
    build_optimizers,
    classifier_from,
    generate,
    load_checkpoint,
    pretrain,
    save_checkpoint,
    training_step,
)
from tests.test_ch04_gpt_model import dice, some_ids, stirred

ODD = GPTConfig(vocab_size=61, context_length=23, embed_dim=24, num_heads=6, num_layers=3)
NO_BIAS = GPTConfig(97, 11, 40, 5, 2, qkv_bias=False)
SOME_TARGETS = [("q",), ("v", "q"), ("k",), ATTENTION_TARGETS, ("up", "down"), ALL_TARGETS]


def filled(model, seed=0):
    """The model with B no longer zero, as after training."""
    rng = dice(seed)
    for layer in lora_layers(model).values():
        layer.B.data.normal_(std=0.1, generator=rng)
    return model


def random_linear(features, out, bias=True, seed=0):
    layer, rng = nn.Linear(features, out, bias=bias), dice(seed)
    for p in layer.parameters():
        p.data.normal_(generator=rng)
    return layer


# The layer


def test_values_by_hand():
    base = nn.Linear(3, 2)
    base.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    base.bias.data = torch.tensor([10.0, 20.0])
    layer = LoRALinear(base, rank=1, alpha=3.0)
    layer.A.data, layer.B.data = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[1.0], [2.0]])
    # A x = 4 - 1 = 3; times B (3, 6), times alpha 3: (9, 18); W x + b = (14, 25)
    assert layer(torch.tensor([4.0, 5.0, 1.0])).tolist() == [23.0, 43.0]
    assert layer.delta().tolist() == [[3.0, 0.0, -3.0], [6.0, 0.0, -6.0]]


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (5, 1)])
@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (3, 16.0), (4, 2.5)])
@pytest.mark.parametrize("bias", [True, False])
def test_peft_gives_the_same_output_and_gradients(shape, rank, alpha, bias):
    base = random_linear(*shape, bias)
    ours = LoRALinear(copy.deepcopy(base), rank, alpha)
    ours.A.data.normal_(generator=dice(1))
    ours.B.data.normal_(generator=dice(2))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"], lora_dropout=0.0)
    theirs = get_peft_model(nn.Sequential(base), config).base_model.model[0]
    theirs.lora_A["default"].weight.data.copy_(ours.A)
    theirs.lora_B["default"].weight.data.copy_(ours.B)
    x = torch.randn(2, 5, shape[0], generator=dice(3))
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [ours(inputs[0]), theirs(inputs[1])]
    assert torch.allclose(*outputs, atol=1e-5)
    weights = torch.randn(outputs[0].shape, generator=dice(4))
    for out in outputs:
        (out * weights).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-5)
    for mine, other in (
        (ours.A, theirs.lora_A["default"].weight),
        (ours.B, theirs.lora_B["default"].weight),
    ):
        assert mine.grad.abs().max() > 0.01
        assert torch.allclose(mine.grad, other.grad, rtol=1e-5, atol=1e-4)
    assert ours.base.weight.grad is None and theirs.base_layer.weight.grad is None
    assert torch.allclose(ours.delta(), theirs.get_delta_weight("default"), atol=1e-5)


def test_peft_on_a_whole_model():
    """Unfused targets of a GPTModel, wrapped by peft by their names."""
    model = stirred(ODD)
    ours = filled(add_lora(model, 3, 5.0, ("out", "up", "down")))
    targets = ["attention.out", "feed_forward.up", "feed_forward.down"]
    wrapped = get_peft_model(
        copy.deepcopy(model), LoraConfig(r=3, lora_alpha=5, target_modules=targets)
    )
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == trained_parameters(
        ours
    )
    for name, layer in lora_layers(ours).items():
        theirs = wrapped.base_model.model.get_submodule(name)
        theirs.lora_A["default"].weight.data.copy_(layer.A)
        theirs.lora_B["default"].weight.data.copy_(layer.B)
    ids = some_ids(2, 9, ODD)
    assert torch.allclose(ours(ids), wrapped.base_model.model(ids), atol=1e-5)
    assert not torch.allclose(ours(ids), model(ids), atol=1e-2)


def test_parts_change_their_rows_alone():
    base = random_linear(5, 12)
    layer = LoRALinear(base, 2, 6.0, parts=[(7, 12), (0, 3)], generator=dice(0))
    layer.B.data.normal_(generator=dice(1))
    assert layer.A.shape == (4, 5) and layer.B.shape == (8, 2)
    change = layer.delta()
    assert not change[3:7].any() and change[:3].any() and change[7:].any()
    assert torch.allclose(change[:3], 3.0 * layer.B[:3] @ layer.A[:2], atol=1e-6)
    assert torch.allclose(change[7:], 3.0 * layer.B[3:] @ layer.A[2:], atol=1e-6)
    x = torch.randn(4, 5, generator=dice(2))
    assert torch.allclose(layer(x), base(x) + x @ change.T, atol=1e-5)
    assert wide_B(layer).shape == (12, 4)


def test_first_a_is_as_pefts():
    layer = LoRALinear(nn.Linear(400, 30), 50, 1.0, generator=dice(5))
    assert layer.A.abs().max() <= 400**-0.5 and not layer.B.any()
    assert layer.A.std().item() == pytest.approx(400**-0.5 / 3**0.5, rel=0.03)
    again = LoRALinear(nn.Linear(400, 30), 50, 1.0, generator=dice(5))
    assert torch.equal(layer.A, again.A)


@pytest.mark.parametrize("rank", [0, -1, 2.0, True, "8"])
def test_ranks_that_make_no_sense(rank):
    with pytest.raises(ValueError, match="rank=.*whole number"):
        LoRALinear(nn.Linear(3, 3), rank, 1.0)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_alphas_that_make_no_sense(alpha):
    with pytest.raises(ValueError, match="alpha=.*above 0"):
        LoRALinear(nn.Linear(3, 3), 1, alpha)


@pytest.mark.parametrize("parts", [[], [(0, 0)], [(2, 1)], [(0, 3), (2, 5)], [(3, 7)], [(-1, 2)]])
def test_parts_that_make_no_sense(parts):
    with pytest.raises(ValueError, match=r"parts=.*from 0 to 6"):
        LowRankChange((6, 3), 1, 1.0, parts)


@pytest.mark.parametrize("thing", [nn.Embedding(4, 3), nn.LayerNorm(3), nn.GELU(), "linear"])
def test_what_is_no_linear_layer(thing):
    with pytest.raises(TypeError, match="expected a linear layer"):
        matrix_shape(thing)


def test_a_tied_head_is_no_layer_of_its_own():
    with pytest.raises(TypeError, match="TiedHead"):
        LoRALinear(stirred(ODD).output_head, 1, 1.0)


# In the model


@pytest.mark.parametrize("config", [ODD, NO_BIAS], ids=str)
@pytest.mark.parametrize("targets", SOME_TARGETS, ids=str)
def test_nothing_is_changed_at_first_and_the_ledger_adds_up(config, targets):
    model, ids = stirred(config), some_ids(2, 9, config)
    tuned = add_lora(model, 3, 6.0, targets)
    assert torch.equal(tuned(ids), model(ids))
    ledger = lora_ledger(model, 3, targets)
    assert sum(ledger.values()) == trained_parameters(tuned)
    assert set(ledger) - {"head", "new rows"} == set(targets)
    trained = {n.rpartition(".")[2] for n, p in tuned.named_parameters() if p.requires_grad}
    assert trained == {"A", "B"}


def test_each_target_changes_its_own_rows():
    model = stirred(ODD)
    for target, path in LORA_TARGETS.items():
        tuned = filled(add_lora(model, 2, 4.0, (target,)))
        plain = without_lora(tuned)
        for name, weight in dict(model.named_parameters()).items():
            moved = (dict(plain.named_parameters())[name] - weight).abs()
            if name.endswith(path + ".weight"):
                rows = moved.flatten(1).any(1)
                thirds = {"q": slice(0, 24), "k": slice(24, 48), "v": slice(48, 72)}
                own = torch.zeros_like(rows)
                own[thirds.get(target, slice(None))] = True
                assert torch.equal(rows, own), (target, name)
            else:
                assert not moved.any(), (target, name)


def test_only_the_adapter_moves_in_training():
    model = stirred(ODD)
    before = {n: p.clone() for n, p in model.named_parameters()}
    tuned = add_lora(model, 2, 4.0, ALL_TARGETS)
    first = {n: t.clone() for n, t in adapter_tensors(tuned).items()}
    optimizers = build_optimizers(tuned, lora_tuning(rate=0.01))
    assert sum(p.numel() for o in optimizers for g in o.param_groups for p in g["params"]) == (
        trained_parameters(tuned)
    )
    ids = some_ids(4, 12, ODD)
    losses = [training_step(tuned, optimizers, [(ids[:, :-1], ids[:, 1:])])[0] for _ in range(30)]
    assert losses[-1] < losses[0] - 0.3
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(not torch.equal(t, first[n]) for n, t in adapter_tensors(tuned).items())


def test_a_classifiers_head_is_trained_and_the_base_is_not():
    gpt = stirred(ODD)
    classifier = classifier_from(gpt, 3, seed=1)
    tuned = add_lora(classifier, 2, 4.0)
    assert {"output_head.weight", "output_head.bias"} <= set(tuned.lora_names)
    assert sum(lora_ledger(classifier, 2).values()) == trained_parameters(tuned)
    rows = some_ids(12, 9, ODD).tolist()
    stream = LabelBatches(rows, [0, 1, 2] * 4, 3, epochs=2, batch_size=4)
    head = classifier.output_head.weight.clone()
    pretrain(tuned, stream, lora_tuning(rate=0.01), watch_every=10**9)
    assert torch.equal(classifier.output_head.weight, head)
    assert not torch.equal(tuned.output_head.weight, head)


@pytest.mark.parametrize("small", [False, True])
def test_new_rows_are_trained_at_both_ends(small):
    model, ids = stirred(ODD), some_ids(3, 9, ODD)
    if small:
        model = replace_matrices(model, Int8Linear, Int8Embedding)
    tuned = add_lora(model, 2, 4.0, new_rows=5)
    assert torch.equal(tuned(ids), model(ids))
    tuned(ids[:, :-1]).logsumexp(-1).sum().backward()
    new = tuned.token_embedding.new
    assert new.shape == (5, 24) and (new.grad.abs().sum(1) > 0).all()  # the head reads all rows
    new.data += 1.0
    moved = (tuned(ids) - model(ids)).abs().amax((0, 1))
    unused = not (ids >= 56).any()
    assert (moved[56:] > 0.1).all() and (not unused or not moved[:56].any())
    plain = without_lora(tuned, merged=not small)
    assert torch.allclose(plain(ids), tuned(ids), atol=1e-5)


def test_a_module_may_be_trained_whole():
    model = stirred(ODD)
    tuned = add_lora(model, 1, 1.0, trainable=["final_norm", "token_embedding"])
    assert {"final_norm.weight", "final_norm.bias", "token_embedding.weight"} <= set(
        tuned.lora_names
    )
    tuned.token_embedding.weight.data.zero_()
    assert model.token_embedding.weight.any()
    assert tuned.output_head.weight is tuned.token_embedding.weight


def test_heads_that_share_keys():
    model, ids = share_heads(stirred(ODD), 2), some_ids(2, 9, ODD)
    tuned = add_lora(model, 3, 6.0, ("k", "v"))
    assert torch.equal(tuned(ids), model(ids))
    assert sum(lora_ledger(model, 3, ("k", "v")).values()) == trained_parameters(tuned)
    assert tuned.blocks[0].attention.qkv.parts == ((24, 32), (32, 40))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"targets": ()}, "expected some of q, k, v"),
        ({"targets": ("q", "q")}, "each once"),
        ({"targets": ("qkv",)}, "expected some of q, k, v"),
        ({"targets": ("output_head",)}, "tied head"),
        ({"targets": ("q", "head")}, "new_rows"),
        ({"trainable": ("output_head",)}, "name token_embedding"),
        ({"trainable": ("blocks.7",)}, "names no module"),
        ({"new_rows": 62}, "1 to 61"),
        ({"rank": 0}, "whole number"),
        ({"alpha": 0.0}, "above 0"),
    ],
)
def test_settings_that_make_no_sense(settings, says):
    model = stirred(ODD)
    with pytest.raises(ValueError, match=says):
        add_lora(model, **settings)
    assert trained_parameters(model) == model.num_parameters() and not lora_layers(model)


def test_other_models_and_second_adapters_are_refused():
    with pytest.raises(TypeError, match="a Linear: expected a GPTModel"):
        add_lora(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="an adapter already"):
        add_lora(add_lora(stirred(ODD)))


def test_a_copy_shares_all_but_its_own():
    model = stirred(ODD)
    copied = sharing_copy(model, ["final_norm"])
    for (name, mine), (_, theirs) in zip(
        copied.named_parameters(), model.named_parameters(), strict=True
    ):
        own = name.startswith("final_norm")
        assert (mine.data_ptr() == theirs.data_ptr()) != own, name
        assert mine.requires_grad == own and theirs.requires_grad, name


# Merging


@pytest.mark.parametrize("config", [ODD, NO_BIAS], ids=str)
@pytest.mark.parametrize("targets", SOME_TARGETS, ids=str)
def test_merged_and_apart_give_the_same_logits(config, targets):
    model, ids = stirred(config), some_ids(2, 9, config)
    tuned = filled(add_lora(model, 3, 6.0, targets))
    apart, base = tuned(ids), model(ids)
    assert not torch.allclose(apart, base, atol=1e-3)
    merge_lora(tuned)
    assert torch.allclose(tuned(ids), apart, atol=1e-5)
    assert torch.equal(model(ids), base), "the shared base was written to"
    plain = without_lora(tuned)
    assert torch.allclose(plain(ids), apart, atol=1e-5) and not lora_layers(plain)
    assert type(plain) is type(model) and plain.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(without_lora(tuned, merged=False)(ids), base)
    unmerge_lora(tuned)
    assert torch.equal(tuned(ids), apart)
    for name, layer in lora_layers(tuned).items():
        assert torch.equal(layer.base.weight, model.get_submodule(name).weight)


def test_merging_twice_or_without_need_is_refused():
    tuned = add_lora(stirred(ODD))
    with pytest.raises(ValueError, match="not merged"):
        unmerge_lora(tuned)
    merge_lora(tuned)
    with pytest.raises(ValueError, match="merged already"):
        merge_lora(tuned)
    for function in (merge_lora, unmerge_lora, without_lora):
        with pytest.raises(ValueError, match="no adapter|not merged"):
            function(stirred(ODD))


@pytest.mark.parametrize("make", [Int8Linear, FourBitLinear])
def test_a_rounded_base_takes_no_merge(make):
    tuned = add_lora(replace_matrices(stirred(ODD), make))
    with pytest.raises(ValueError, match="few levels"):
        merge_lora(tuned)
    assert not any(layer.kept for layer in lora_layers(tuned).values())


def test_generation_with_an_adapter_apart_and_merged():
    tuned = filled(add_lora(stirred(ODD), 2, 4.0, ALL_TARGETS)).eval()
    prompt, settings = [[1, 2, 3], [4, 5, 6]], {"temperature": 0}
    told = generate(tuned, prompt, 12, **settings)
    assert generate_cached(tuned, prompt, 12, **settings) == told
    assert generate_cached(without_lora(tuned), prompt, 12, **settings) == told


# Files


def test_an_adapter_comes_back_bit_for_bit(tmp_path):
    model, ids = stirred(ODD), some_ids(2, 9, ODD)
    tuned = filled(add_lora(model, 3, 6.0, ("q", "down"), new_rows=4, trainable=["final_norm"]))
    tuned.token_embedding.new.data.normal_(generator=dice(9))
    save_adapter(tmp_path / "a.safetensors", tuned, taught="plurals")
    loaded, notes = load_adapter(tmp_path / "a.safetensors", model)
    assert torch.equal(loaded(ids), tuned(ids)) and notes == {"taught": "plurals"}
    assert loaded.lora == tuned.lora and not loaded.training
    assert (tmp_path / "a.safetensors").stat().st_size < 4 * trained_parameters(tuned) + 4000


def test_merged_adapters_are_saved_as_well(tmp_path):
    model, ids = stirred(ODD), some_ids(2, 9, ODD)
    tuned = filled(add_lora(model, 2, 4.0))
    apart = tuned(ids)
    merge_lora(tuned)
    save_adapter(tmp_path / "a.safetensors", tuned)
    assert torch.equal(load_adapter(tmp_path / "a.safetensors", model)[0](ids), apart)


def test_a_classifiers_adapter_brings_its_head(tmp_path):
    gpt, ids = stirred(ODD), some_ids(2, 9, ODD)
    tuned = filled(add_lora(classifier_from(gpt, 3, seed=1), 2, 4.0))
    save_adapter(tmp_path / "a.safetensors", tuned)
    other_head = classifier_from(gpt, 3, seed=2)
    assert torch.equal(load_adapter(tmp_path / "a.safetensors", other_head)[0](ids), tuned(ids))
    for base in (gpt, classifier_from(gpt, 4)):
        with pytest.raises(ValueError, match=r"does not fit this base in \['output_head"):
            load_adapter(tmp_path / "a.safetensors", base)


def test_another_base_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    model = stirred(ODD)
    save_adapter(path, filled(add_lora(model, 2, 4.0)))
    with pytest.raises(ValueError, match="trained on other weights.*train it anew"):
        load_adapter(path, stirred(ODD, seed=5))
    nearly = copy.deepcopy(model)
    nearly.blocks[2].norm1.bias.data[3] += 1e-6
    with pytest.raises(ValueError, match="trained on other weights"):
        load_adapter(path, nearly)
    with pytest.raises(ValueError, match="embed_dim is 24 in the file, 40 here"):
        load_adapter(path, stirred(NO_BIAS))
    with pytest.raises(ValueError, match="an adapter already"):
        load_adapter(path, add_lora(model))


def test_files_that_are_no_adapter(tmp_path):
    model = stirred(ODD)
    save_checkpoint(tmp_path / "whole.safetensors", model)
    with pytest.raises(ValueError, match="load it with load_checkpoint"):
        load_adapter(tmp_path / "whole.safetensors", model)
    save_adapter(tmp_path / "a.safetensors", add_lora(model))
    with pytest.raises(ValueError, match="do not fit"):
        load_checkpoint(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="damaged"):
        load_adapter(tmp_path / "a.safetensors", model)
    with pytest.raises(FileNotFoundError, match="missing"):
        load_adapter(tmp_path / "b.safetensors", model)
    with pytest.raises(ValueError, match="ends in .safetensors"):
        save_adapter(tmp_path / "a.pt", add_lora(model))
    with pytest.raises(ValueError, match="without an adapter"):
        save_adapter(tmp_path / "c.safetensors", model)


def test_a_failed_save_leaves_the_older_file(tmp_path):
    path, model = tmp_path / "a.safetensors", stirred(ODD)
    save_adapter(path, add_lora(model), note=1)
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    with pytest.raises(TypeError):
        save_adapter(path, add_lora(model), note=object())
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == before
    assert json.loads(before[1])["adapter"]["targets"] == ["q", "v"]


def test_a_merged_model_is_an_ordinary_checkpoint(tmp_path):
    tuned, ids = filled(add_lora(stirred(ODD), 2, 4.0, new_rows=3)), some_ids(2, 9, ODD)
    save_checkpoint(tmp_path / "m.safetensors", without_lora(tuned))
    loaded, _ = load_checkpoint(tmp_path / "m.safetensors", ODD)
    assert torch.allclose(loaded(ids), tuned(ids), atol=1e-5)


def test_several_adapters_on_one_base():
    model, ids = stirred(ODD), some_ids(2, 9, ODD)
    one, two = (filled(add_lora(model, 2, 4.0), seed) for seed in (1, 2))
    first = one(ids)
    merge_lora(two)
    assert torch.equal(one(ids), first) and not torch.allclose(two(ids), first, atol=1e-3)
    assert one.blocks[0].norm1.weight.data_ptr() == two.blocks[0].norm1.weight.data_ptr()
    assert one.lora_base == two.lora_base == base_key(add_lora(model, 5, 1.0))


# Few bits


def test_normal_levels_are_those_of_the_paper():
    """The table in appendix E of Dettmers et al. (2023), to six digits."""
    table = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
    table += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    assert torch.allclose(normal_levels(), torch.tensor(table), atol=2e-6)


@pytest.mark.parametrize("levels", [normal_levels(), even_levels()], ids=["normal", "even"])
@pytest.mark.parametrize(("shape", "block"), [((7, 9), 4), ((3, 5), 64), ((8, 16), 16)])
def test_each_number_gets_its_nearest_level(levels, shape, block):
    weight = torch.randn(shape, generator=dice(0))
    codes, scale = quantise_to_levels(weight, levels, block)
    flat = weight.flatten().tolist()
    for i, number in enumerate(flat):
        largest = max(abs(x) for x in flat[i // block * block : (i // block + 1) * block])
        assert scale[i // block].item() == pytest.approx(largest)
        distances = (levels * largest - number).abs()
        assert distances[codes[i].long()] <= distances.min() + 1e-6
    assert torch.equal(unpack_pairs(pack_pairs(codes)), codes)


def test_zeros_stay_zeros_and_the_largest_stays():
    weight = torch.tensor([[0.0, -3.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    for levels in (normal_levels(), even_levels()):
        layer = nn.Linear(4, 2)
        layer.weight.data = weight
        back = FourBitLinear(layer, levels, block=4).weight
        assert back[weight == 0].abs().max() == 0 and back[0, 1] == -3


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(9, 7), (64, 3)])
def test_output_and_gradient_are_those_of_the_rounded_matrix(shape, bias):
    linear = random_linear(*shape, bias)
    small = FourBitLinear(linear, block=16)
    assert matrix_shape(small) == shape[::-1]
    x = torch.randn(2, 5, shape[0], generator=dice(1), requires_grad=True)
    out = small(x)
    out.square().sum().backward()
    found, x.grad = x.grad, None
    wanted = F.linear(x, small.weight, linear.bias)
    wanted.square().sum().backward()
    assert torch.allclose(out, wanted, atol=1e-5) and torch.allclose(found, x.grad, atol=1e-3)


def test_the_way_back_keeps_no_float_matrix():
    linear, kept = random_linear(40, 30), []
    small = FourBitLinear(linear)
    x = torch.randn(2, 40, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        small(x)
    assert sum(kept) < 1200


def test_four_bits_take_an_eighth():
    small = FourBitLinear(nn.Linear(128, 64, bias=False))
    assert stored_bytes(small) == 128 * 64 // 2 + 4 * 128 * 64 // 64 + 4 * 16


@pytest.mark.parametrize("block", [0, 1, 7])
def test_blocks_that_make_no_sense(block):
    with pytest.raises(ValueError, match="even number"):
        quantise_to_levels(torch.ones(4, 4), normal_levels(), block)


def test_other_numbers_of_levels_are_refused():
    with pytest.raises(ValueError, match=r"shape \(8,\), expected \(16,\)"):
        FourBitLinear(nn.Linear(4, 4), torch.linspace(-1, 1, 8))


@pytest.mark.parametrize("make", [Int8Linear, FourBitLinear])
@pytest.mark.parametrize("config", [ODD, NO_BIAS], ids=str)
def test_a_rounded_base_can_be_tuned(make, config):
    model, ids = stirred(config), some_ids(4, 9, config)
    small = replace_matrices(model, make, Int8Embedding)
    assert stored_bytes(small) < stored_bytes(model) / 2
    tuned = add_lora(small, 2, 4.0, ALL_TARGETS)
    assert torch.equal(tuned(ids), small(ids))
    frozen = {n: b.clone() for n, b in tuned.named_buffers()}
    optimizers = build_optimizers(tuned, lora_tuning(rate=0.01))
    batch = (ids[:, :-1], ids[:, 1:])
    losses = [training_step(tuned, optimizers, [batch])[0] for _ in range(30)]
    assert losses[-1] < losses[0] - 0.3
    assert all(torch.equal(b, frozen[n]) for n, b in tuned.named_buffers())


def test_an_adapter_of_a_rounded_base_wants_that_base(tmp_path):
    model, path = stirred(ODD), tmp_path / "a.safetensors"
    small = replace_matrices(model, FourBitLinear)
    tuned, ids = filled(add_lora(small, 2, 4.0)), some_ids(2, 9, ODD)
    save_adapter(path, tuned)
    assert torch.equal(load_adapter(path, small)[0](ids), tuned(ids))
    with pytest.raises(ValueError, match="trained on other weights"):
        load_adapter(path, model)


def test_rounding_a_model_that_has_an_adapter_is_refused():
    with pytest.raises(ValueError, match="an adapter already"):
        replace_matrices(add_lora(stirred(ODD)), FourBitLinear)


# The long comparisons


@pytest.fixture(scope="module")
def experiments():
    path = ROOT / "appendix" / "e_lora" / "experiments.py"
    spec = importlib.util.spec_from_file_location("lora_experiments", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["claims", "instructions", "manner", "rates", "rounding"])
def test_results_are_those_of_the_command(experiments, name):
    content = json.loads((experiments.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert content["settings"] == json.loads(json.dumps(experiments.SETTINGS[name]))
    assert {"what", "command", "machine", "date"} <= content.keys()
    made = [(run["condition"], run["seed"]) for run in content["runs"]]
    assert made and len(set(made)) == len(made) and set(made) <= set(experiments.jobs(name))
    for run in content["runs"]:
        assert run["loss"] is None or run["answers"].count("1") == run["right"] <= run["asked"]
        assert run["loss"] is None or len(run["answers"]) == run["asked"]


def test_a_change_is_cut_to_its_largest_directions(experiments):
    before, after = stirred(ODD, seed=1), stirred(ODD, seed=2)
    for rank in (0, 3, 24):
        cut = experiments.matrices(experiments.cut_change(before, after, rank))
        for name, start in experiments.matrices(before).items():
            change, end = cut[name] - start, experiments.matrices(after)[name]
            lost = torch.linalg.svdvals(end - start)[rank:].square().sum()
            assert torch.linalg.matrix_rank(change, rtol=1e-4) == min(rank, min(start.shape))
            assert (cut[name] - end).square().sum().item() == pytest.approx(lost.item(), abs=1e-3)
