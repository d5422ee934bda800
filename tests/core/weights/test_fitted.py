"""Weights of a file as a model takes them, whatever program wrote it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from runner.contracts import StoredWeights
from runner.errors import CheckpointError
from runner.weights.fitted import Source, Target, fit

CLASSES = ("ant", "bee", "cat")


def tensors(classes: int = 3, value: float = 1.0) -> dict[str, Any]:
    """A small network with a normalisation, in torchvision's order."""
    return {
        "conv1.weight": np.full((4, 3, 3, 3), value, np.float32),
        "bn1.weight": np.full(4, value, np.float32),
        "bn1.running_mean": np.full(4, value, np.float32),
        "bn1.num_batches_tracked": np.array(7),
        "layer1.0.conv1.weight": np.full((4, 4, 1, 1), value, np.float32),
        "fc.weight": np.arange(classes * 4, dtype=np.float32).reshape(classes, 4) * value,
        "fc.bias": np.arange(classes, dtype=np.float32) * value,
    }


@dataclass(frozen=True)
class Options:
    max_pool_padding: str = "symmetric"


TARGET = Target(tensors=tensors(value=0.0), num_classes=3, options=Options(), classes=CLASSES)


def source(sets: dict[str, dict[str, Any]], **others: Any) -> Source:
    return Source(stored=StoredWeights(sets=sets, **others))


def prefixed(prefix: str, value: float = 1.0) -> dict[str, Any]:
    return {f"{prefix}{name}": array for name, array in tensors(value=value).items()}


def assert_whole(weights: Any, value: float = 1.0) -> None:
    expected = tensors(value=value)
    assert list(weights) == list(expected)
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "submodule.", "module._orig_mod.", "model.", "net.", "encoder."),
        *("backbone.", "model.module.", "_model.backbone.", "network.network."),
    ],
)
@pytest.mark.parametrize("key", ["", "state_dict", "net"])
def test_prefixes_of_wrappers(key: str, prefix: str) -> None:
    fitted = fit(source({key: prefixed(prefix)}), TARGET, None)
    assert_whole(fitted.weights)
    assert fitted.notes == (f"removed {prefix!r} from the names",)


def test_two_prefixes_that_make_one_model() -> None:
    """OpenMMLab's classifiers have a backbone and a head."""
    names = {n: ("head." if n.startswith("fc.") else "backbone.") + n for n in tensors()}
    found = {names[name]: array for name, array in tensors().items()}
    fitted = fit(source({"state_dict": found}), TARGET, None)
    assert_whole(fitted.weights)
    assert fitted.notes == ("removed 'backbone.' and 'head.' from the names",)


def test_parts_that_were_compiled_or_wrapped_inside() -> None:
    found = {
        name.replace("layer1.0.", "layer1._orig_mod.0."): array for name, array in tensors().items()
    }
    assert_whole(fit(source({"": found}), TARGET, None).weights)


def test_a_model_whose_own_names_look_like_a_wrapper() -> None:
    own = {f"features.module.{name}": array for name, array in tensors().items()}
    target = replace(TARGET, tensors=own)
    assert list(fit(source({"": own}), target, None).weights) == list(own)


def test_counters_that_older_programs_do_not_keep() -> None:
    found = {name: array for name, array in tensors().items() if "num_batches" not in name}
    fitted = fit(source({"": found}), TARGET, None)
    assert fitted.weights["bn1.num_batches_tracked"] == 0
    assert fitted.notes == (
        "counting begins at 0 for 1 counter that it lacks (num_batches_tracked)",
    )


def test_short_numbers_become_fp32() -> None:
    found = {n: a.astype(np.float16) if a.dtype.kind == "f" else a for n, a in tensors().items()}
    weights = fit(source({"": found}), TARGET, None).weights
    assert {array.dtype for array in weights.values()} == {np.dtype("f4"), np.dtype("i8")}


@pytest.mark.parametrize(
    ("raw", "average"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("params", "params_ema"),
        ("raw", "ema"),
    ],
)
def test_of_weights_and_their_average_the_average_is_taken(raw: str, average: str) -> None:
    stored = {
        raw: tensors(value=1.0),
        average: {"n_averaged": np.array(3), **prefixed("module.", 2.0)},
    }
    fitted = fit(source(stored), TARGET, None)
    assert_whole(fitted.weights, 2.0)
    assert fitted.notes[0] == (
        f"took the average {average}.module; there is also {raw} (model.weights_key, --weights)"
    )
    assert_whole(fit(source(stored), TARGET, "ema").weights, 2.0)
    assert_whole(fit(source(stored), TARGET, average).weights, 2.0)
    assert_whole(fit(source(stored), TARGET, "raw").weights, 1.0)
    assert_whole(fit(source(stored), TARGET, raw).weights, 1.0)


def test_an_average_behind_a_prefix() -> None:
    stored = {"": prefixed("model.", 1.0) | prefixed("ema_model.", 2.0)}
    assert_whole(fit(source(stored), TARGET, None).weights, 2.0)
    assert_whole(fit(source(stored), TARGET, "model").weights, 1.0)


def mmengine(with_mark: bool) -> dict[str, dict[str, Any]]:
    """What MMEngine's EMAHook saves: it exchanges the two in ``before_save_checkpoint``."""
    mark = {"steps": np.array(7)} if with_mark else {}
    return {"state_dict": tensors(value=2.0), "ema_state_dict": mark | prefixed("module.", 1.0)}


def test_the_average_of_mmengine_is_where_the_weights_are() -> None:
    fitted = fit(source(mmengine(True)), TARGET, None)
    assert_whole(fitted.weights, 2.0)
    assert fitted.notes[0].startswith("took the average state_dict; there is also ema_state_dict")
    assert "MMEngine keeps the average in state_dict, not in ema_state_dict" in fitted.notes
    assert_whole(fit(source(mmengine(True)), TARGET, "ema").weights, 2.0)
    assert_whole(fit(source(mmengine(True)), TARGET, "raw").weights, 1.0)
    assert_whole(fit(source(mmengine(False)), TARGET, None).weights, 1.0)


def split(backbone: str, head: str, value: float) -> dict[str, Any]:
    """A model whose last layer has another prefix than the rest."""
    return {
        (head if name.startswith("fc.") else backbone) + name: array
        for name, array in tensors(value=value).items()
    }


def test_an_average_behind_two_prefixes() -> None:
    stored = {
        "": split("model.backbone.", "model.head.", 1.0)
        | split("ema_model.backbone.", "ema_model.head.", 2.0)
    }
    fitted = fit(source(stored), TARGET, None)
    assert_whole(fitted.weights, 2.0)
    assert "took the average ema_model.backbone; there is also model.backbone" in fitted.notes[0]
    assert_whole(fit(source(stored), TARGET, "raw").weights, 1.0)
    one_head = split("backbone.", "head.", 1.0) | split("ema_backbone.", "head.", 2.0)
    assert "took the average ema_backbone" in fit(source({"": one_head}), TARGET, None).notes[0]


@pytest.mark.parametrize(
    ("one", "other"), [("encoder_q.", "encoder_k."), ("student.backbone.", "teacher.backbone.")]
)
def test_two_models_that_share_a_head_are_not_guessed_between(one: str, other: str) -> None:
    stored = {"": split(one, "head.", 1.0) | split(other, "head.", 1.0)}
    for name in [*stored[""]]:
        if name.startswith(other):
            stored[""][name] = stored[""][name] * 3
    with pytest.raises(CheckpointError, match="several sets of tensors fit") as caught:
        fit(source(stored), TARGET, None)
    for prefix in (one, other):
        assert f"{prefix[:-1]} (7 tensors of the model)" in str(caught.value)
    taken = fit(source(stored), TARGET, other[:-1]).weights
    assert np.array_equal(taken["conv1.weight"], np.full((4, 3, 3, 3), 3.0))


def test_a_key_that_denies_an_average_is_none() -> None:
    stored = {"model": tensors(value=1.0), "model_non_ema": tensors(value=2.0)}
    with pytest.raises(CheckpointError, match="several sets of tensors fit"):
        fit(source(stored), TARGET, None)
    stored["model_ema"] = tensors(value=3.0)
    assert_whole(fit(source(stored), TARGET, None).weights, 3.0)


@pytest.mark.parametrize("kind", ["i8", "i1", "?"])
def test_whole_numbers_are_no_weights(kind: str) -> None:
    found = tensors() | {"fc.weight": tensors()["fc.weight"].astype(kind)}
    with pytest.raises(CheckpointError, match=rf"1 tensor .*: fc\.weight \({np.dtype(kind)}\)"):
        fit(source({"": found}), TARGET, None)


def test_the_only_tensors_of_a_file_under_a_key_of_no_model_are_named() -> None:
    fitted = fit(source({"optimizer.momentum_buffer": tensors()}), TARGET, None)
    assert fitted.notes == ("took optimizer.momentum_buffer, the only tensors of the file",)


def test_what_a_last_layer_lacks_is_named() -> None:
    found = {name: array for name, array in tensors().items() if name != "fc.bias"}
    with pytest.raises(CheckpointError, match=r"their last layer has no fc\.bias; to train"):
        fit(source({"": found}), TARGET, None)


@pytest.mark.parametrize("keyed", [True, False])
def test_two_models_of_a_file_are_not_guessed_between(keyed: bool) -> None:
    sets = (
        {"student": tensors(value=1.0), "teacher": tensors(value=2.0)}
        if keyed
        else {"": prefixed("student.", 1.0) | prefixed("teacher.", 2.0)}
    )
    with pytest.raises(CheckpointError) as caught:
        fit(source(sets), TARGET, None)
    assert str(caught.value) == (
        "several sets of tensors fit the model: student (7 tensors of the model), teacher (7 "
        "tensors of the model); name one with model.weights_key, or --weights of a command that "
        "takes a model"
    )
    assert_whole(fit(source(sets), TARGET, "teacher").weights, 2.0)
    with pytest.raises(CheckpointError, match="no weights 'ema'; expected one of: student"):
        fit(source(sets), TARGET, "ema")


def test_one_set_under_two_keys_is_one() -> None:
    assert_whole(fit(source({"model": tensors(), "state_dict": tensors()}), TARGET, None).weights)


def test_what_is_no_part_of_the_model_is_left_out_by_name() -> None:
    stored = prefixed("model.") | {"criterion.weight": np.zeros(3), "model.total_ops": np.zeros(1)}
    fitted = fit(source({"": stored}, ignored=("args (argparse.Namespace)",)), TARGET, None)
    assert_whole(fitted.weights)
    assert fitted.notes[1:] == (
        "left out model.total_ops, criterion.weight",
        "ignored args (argparse.Namespace)",
    )


def test_a_larger_network_is_not_taken_for_a_smaller_one() -> None:
    deeper = tensors() | {"layer1.1.conv1.weight": np.zeros((4, 4, 1, 1), np.float32)}
    for prefix in ("", "module."):
        found = {f"{prefix}{name}": array for name, array in deeper.items()}
        with pytest.raises(CheckpointError, match=r"unexpected: .*layer1.1.conv1.weight"):
            fit(source({"": found}), TARGET, None)
    with pytest.raises(CheckpointError, match=r"missing: layer1.1.conv1.weight"):
        fit(source({"": tensors()}), replace(TARGET, tensors=deeper), None)


def test_weights_of_another_network_are_named() -> None:
    found = {n: a for n, a in tensors().items() if "layer1" not in n}
    other = replace(source({"": found}), network="shufflenet_v2_x0_5")
    with pytest.raises(
        CheckpointError, match=r"these are weights of shufflenet_v2_x0_5, and the m"
    ):
        fit(other, replace(TARGET, network="resnet18"), None)
    assert_whole(fit(replace(source({"": tensors()}), network="a"), TARGET, None).weights)


def test_a_prefix_that_does_not_help_enough_is_named_with_its_matches() -> None:
    found = {n: a for n, a in prefixed("backbone.").items() if "layer1" not in n}
    with pytest.raises(CheckpointError) as caught:
        fit(source({"state_dict": found}), TARGET, None)
    assert (
        "(1 difference, 7 tensors in the model); their names begin with 'backbone.', without "
        "which 6 are names of the model, which has 7" in str(caught.value)
    )


def test_another_number_of_classes_names_the_way() -> None:
    for training in (True, False):
        with pytest.raises(CheckpointError) as caught:
            fit(source({"": tensors(classes=5)}), replace(TARGET, training=training), None)
        assert "the weights have 5, the model has 3" in str(caught.value)
        assert "set model.fresh_classifier=true" in str(caught.value)


@pytest.mark.parametrize("classes", [5, 3, 0])
def test_a_last_layer_is_left_fresh_where_that_is_asked_for(classes: int) -> None:
    found = {n: a for n, a in tensors(classes=classes).items() if classes or n[:3] != "fc."}
    with_names = replace(source({"": found}), classes=tuple("vwxyz"[:classes]))
    target = replace(TARGET, training=True, fresh_classifier=True)
    fitted = fit(with_names, target, None)
    assert np.array_equal(fitted.weights["fc.weight"], np.zeros((3, 4)))
    assert np.array_equal(fitted.weights["conv1.weight"], np.ones((4, 3, 3, 3)))
    assert "fc.bias, fc.weight stay fresh, for 3 classes" in fitted.notes


def test_weights_without_a_last_layer_name_the_way() -> None:
    found = {name: array for name, array in tensors().items() if not name.startswith("fc.")}
    with pytest.raises(CheckpointError, match=r"no last layer; .* model.fresh_classifier=true"):
        fit(source({"": found}), replace(TARGET, training=True), None)


def with_classes(*names: str) -> Source:
    return replace(source({"": tensors()}), classes=names)


def test_classes_in_another_order_are_followed_by_name() -> None:
    fitted = fit(with_classes("cat", "ant", "bee"), TARGET, None)
    expected = tensors()
    assert np.array_equal(fitted.weights["fc.bias"], expected["fc.bias"][[1, 2, 0]])
    assert np.array_equal(fitted.weights["fc.weight"], expected["fc.weight"][[1, 2, 0]])
    assert np.array_equal(fitted.weights["conv1.weight"], expected["conv1.weight"])
    assert fitted.notes == ("the classes have another order, so the last layer is ordered by name",)


def test_other_classes_are_refused_by_name() -> None:
    for training in (True, False):
        target = replace(TARGET, training=training)
        with pytest.raises(CheckpointError) as caught:
            fit(with_classes("ant", "bee", "dog"), target, None)
        assert "missing dog (1); unknown cat (1)" in str(caught.value)
        assert ("model.fresh_classifier=true" in str(caught.value)) == training


def test_data_without_class_names_is_told_how_to_have_some() -> None:
    with pytest.raises(CheckpointError, match=r"--set dataset\.class_names=names\.txt"):
        fit(with_classes(*CLASSES), replace(TARGET, classes=("0", "1", "2")), None)


HEAD = {"aux1.conv.weight": (2, 4, 1, 1), "aux1.fc.weight": (3, 2), "aux1.fc.bias": (3,)}


def with_heads(value: float) -> dict[str, Any]:
    heads = {name: np.full(shape, value, np.float32) for name, shape in HEAD.items()}
    whole = tensors(value=value)
    last = {name: whole.pop(name) for name in ("fc.weight", "fc.bias")}
    return {**whole, **heads, **last}


AUX = {"aux_heads": ("aux1.", "aux2.")}


def test_evaluation_ignores_auxiliary_heads() -> None:
    without = replace(TARGET, heads=AUX)
    assert_whole(fit(source({"": with_heads(1.0)}), without, None).weights)
    assert_whole(
        fit(source({"model": prefixed("module.") | with_heads(1.0)}), without, None).weights
    )
    have = replace(without, tensors=with_heads(0.0))
    fitted = fit(source({"": tensors()}), have, None)
    assert list(fitted.weights) == list(with_heads(0.0))
    assert fitted.notes == ("it lacks 3 tensors of auxiliary heads, used in training only",)
    assert np.array_equal(fitted.weights["fc.bias"], tensors()["fc.bias"])


@pytest.mark.parametrize(("found", "model", "way"), [(0, 1, "false"), (1, 0, "true")])
def test_training_names_the_option_of_auxiliary_heads(found: int, model: int, way: str) -> None:
    both = (tensors(), with_heads(1.0))
    target = replace(TARGET, tensors=both[model], heads=AUX, training=True)
    with pytest.raises(CheckpointError, match=f"set model.aux_heads={way}"):
        fit(source({"": both[found]}), target, None)


def test_the_classifiers_of_auxiliary_heads_are_fresh_too() -> None:
    target = replace(
        TARGET, tensors=with_heads(0.0), heads=AUX, training=True, fresh_classifier=True
    )
    weights = fit(source({"": with_heads(1.0)}), target, None).weights
    assert {name for name in weights if not weights[name].any()} == {
        *("aux1.fc.weight", "aux1.fc.bias", "fc.weight", "fc.bias")
    }


def test_a_network_that_pools_otherwise_is_refused() -> None:
    other = source({"": tensors()}, model_options={"max_pool_padding": "end"})
    with pytest.raises(CheckpointError, match=r"max_pool_padding end, .* set model.max_pool_pad"):
        fit(other, TARGET, None)
    assert_whole(fit(other, replace(TARGET, options=Options("end")), None).weights)
    [note] = fit(other, replace(TARGET, training=True), None).notes
    assert "training starts from there" in note
