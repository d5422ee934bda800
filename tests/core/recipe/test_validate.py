from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from runner.data.transforms.options import CenterCrop, RandomCrop
from runner.entries import ModelEntry
from runner.errors import PluginError, RecipeError
from runner.options import NoOptions, options
from runner.recipe import compose, validate

Check = Any  # the `check` fixture


def problems(check: Check, text: str, *overrides: str, **arguments: Any) -> list[str]:
    with pytest.raises(RecipeError) as error:
        check(text, *overrides, **arguments)
    return [str(problem) for problem in error.value.problems]


def test_a_recipe_becomes_frozen_sections(check: Check) -> None:
    recipe = check(
        "extends: base.yaml\nmodel: {name: net, width: 2, blocks: [1, 3], weights: w.pth}\n"
        "precision: bf16\nexport: [file]\n"
    )
    assert asdict(recipe.model.options) == {"width": 2.0, "stem": "imagenet", "blocks": (1, 3)}
    assert recipe.model.weights == "w.pth"
    assert asdict(recipe.optimizer.options) == {"momentum": 0.9, "nesterov": False}
    assert recipe.device.options == NoOptions()
    assert recipe.precision.compute == "bf16"
    assert recipe.export[0].name == "file"
    assert recipe.transforms.train == [RandomCrop(name="random_crop", size=8)]
    assert recipe.transforms.eval == [CenterCrop(name="center_crop", size=8)]
    with pytest.raises(AttributeError):
        recipe.seed = 2


# What stands below `extends: base.yaml`, and all that is said about it.
BROKEN = {
    "unknown section": (
        "optimiser: sgd",
        ["r.yaml:2:1: unknown section 'optimiser'; did you mean 'optimizer'?"],
    ),
    "key at the wrong level": (
        "batch_size: 8",
        ["r.yaml:2:1: unknown section 'batch_size'; it is a key of train and eval"],
    ),
    "nothing like it": (
        "zzz: 8",
        [
            "r.yaml:2:1: unknown section 'zzz'; a recipe has summary, framework, device, "
            "precision, seed, dataset, transforms, loader, model, loss, optimizer, schedule, "
            "train, distributed, eval, checkpoint, export, loggers, throughput, reference"
        ],
    ),
    "unknown key": (
        "train: {epoch: 3}",
        ["r.yaml:2:9: unknown key 'epoch' in train; did you mean 'epochs'?"],
    ),
    "unknown key, nothing near": (
        "eval: {zzz: 3}",
        [
            "r.yaml:2:8: unknown key 'zzz' in eval; its keys are batch_size, every_epochs, "
            "start_epoch"
        ],
    ),
    "wrong type": (
        "train: {epochs: '3'}",
        ["r.yaml:2:17: train.epochs: expected a whole number, got '3'; write 3 without quotes"],
    ),
    "fraction": (
        "train: {epochs: 3.5}",
        ["r.yaml:2:17: train.epochs: expected a whole number, got 3.5"],
    ),
    "truth for number": (
        "train: {epochs: true}",
        ["r.yaml:2:17: train.epochs: expected a whole number, got true"],
    ),
    "YAML 1.1 truth": (
        "checkpoint: {keep_best: yes}",
        ["r.yaml:2:25: checkpoint.keep_best: expected true or false, got 'yes'; write true"],
    ),
    "number for text": (
        "summary: 3",
        ["r.yaml:2:10: summary: expected text, got 3; quote it: '3'"],
    ),
    "number in another notation for text": (
        "summary: 1e5",
        ["r.yaml:2:10: summary: expected text, got 100000.0; quote it: '1e5'"],
    ),
    "line break in a path": (
        'model: {weights: "a\\nb"}',
        [
            "r.yaml:2:18: model.weights: holds the control character \\n; expected a text of one "
            "line without any, so rename what has it in its name, or link to it"
        ],
    ),
    "end of a line of Windows": (
        'model: {weights: "a\\r"}',
        [
            "r.yaml:2:18: model.weights: holds a carriage return (\\r), with which lines end in "
            "files of Windows, such as a .env; remove it there: sed -i 's/\\r$//' FILE"
        ],
    ),
    "bound": (
        "train: {epochs: 0}",
        ["r.yaml:2:17: train.epochs: expected a number above 0, got 0"],
    ),
    "bound of a list item": (
        "transforms: {std: [1, 0, x]}",
        [
            "r.yaml:2:23: transforms.std.1: expected a number above 0, got 0",
            "r.yaml:2:26: transforms.std.2: expected a number, got 'x'",
        ],
    ),
    "infinity": (
        "optimizer: {learning_rate: .inf}",
        ["r.yaml:2:28: optimizer.learning_rate: expected a finite number, got .inf"],
    ),
    "not a number": (
        "optimizer: {momentum: .nan}",
        ["r.yaml:2:23: optimizer.momentum: expected a finite number, got .nan"],
    ),
    "too few items": (
        "transforms: {mean: [0.5]}",
        ["r.yaml:2:20: transforms.mean: expected 3 items, got 1"],
    ),
    "too many items": (
        "transforms: {mean: [0.5, 0.5, 0.5, 0.5]}",
        ["r.yaml:2:20: transforms.mean: expected at most 3 items, got 4"],
    ),
    "list for mapping": (
        "eval: [3]",
        ["r.yaml:2:7: eval: expected a mapping of keys, got a list"],
    ),
    "text for list": (
        "export: file",
        ["r.yaml:2:9: export: expected a list, got 'file'"],
    ),
    "choice": (
        "schedule: cosin",
        [
            "r.yaml:2:11: schedule.name: expected constant, step, multistep, cosine or linear, "
            "got 'cosin'; did you mean 'cosine'?"
        ],
    ),
    "choice or number": (
        "precision: {compute: fp16, loss_scale: dynamik}",
        [
            "r.yaml:2:40: precision.loss_scale: expected auto, none, dynamic or a number, "
            "got 'dynamik'; did you mean 'dynamic'?"
        ],
    ),
    "unknown transform": (
        "transforms: {eval: [{name: centre_crop, size: 8}]}",
        [
            "r.yaml:2:28: transforms.eval.0.name: expected random_resized_crop, random_crop, "
            "horizontal_flip, color_jitter, resize or center_crop, got 'centre_crop'; "
            "did you mean 'center_crop'?"
        ],
    ),
    "transform without name": (
        "transforms: {eval: [{size: 8}]}",
        ["r.yaml:2:21: missing key 'name' in transforms.eval.0"],
    ),
    "transform without braces": (
        "transforms: {eval: [center_crop]}",
        [
            "r.yaml:2:21: transforms.eval.0: expected a mapping of keys, got 'center_crop'; "
            "write {name: center_crop}"
        ],
    ),
    "key of a transform": (
        "transforms: {eval: [{name: center_crop, sise: 8}]}",
        ["r.yaml:2:41: unknown key 'sise' in transforms.eval.0; did you mean 'size'?"],
    ),
    "value in a transform": (
        "transforms: {eval: [{name: resize, shorter_side: -1}]}",
        ["r.yaml:2:50: transforms.eval.0.shorter_side: expected a number above 0, got -1"],
    ),
    "rule of a transform": (
        "transforms: {eval: [{name: resize}]}",
        [
            "r.yaml:2:21: transforms.eval.0: resize needs one of shorter_side (keeps the aspect "
            "ratio) and exact ([height, width])"
        ],
    ),
    "no fixed size": (
        "transforms: {eval: [{name: resize, shorter_side: 9}]}",
        [
            "r.yaml:2:20: transforms.eval: images must leave with one fixed size to form a "
            "batch; add {name: center_crop, size: 224}, another crop, or resize with exact"
        ],
    ),
    "no transforms": (
        "transforms: {train: []}",
        [
            "r.yaml:2:21: transforms.train: images must leave with one fixed size to form a "
            "batch; add {name: random_resized_crop, size: 224}, another crop, or resize with exact"
        ],
    ),
    "unknown entry": (
        "model: nett",
        ["r.yaml:2:8: unknown model 'nett' for fake; did you mean 'net'?; choices: net, other"],
    ),
    "unknown framework hides the rest": (
        "framework: fakee\nmodel: nett",
        ["r.yaml:2:12: unknown framework 'fakee'; did you mean 'fake'?; choices: fake"],
    ),
    "key of an entry": (
        "model: {widht: 2}",
        ["r.yaml:2:9: unknown key 'widht' in model (model 'net'); did you mean 'width'?"],
    ),
    "key of no entry": (
        "model: {name: other, width: 2}",
        [
            "r.yaml:2:22: unknown key 'width' in model (model 'other'); its keys are "
            "fresh_classifier, name, weights, weights_key"
        ],
    ),
    "the word options": (
        "model: {options: {width: 2}}",
        [
            "r.yaml:2:9: unknown key 'options' in model (model 'net'); its keys are blocks, "
            "fresh_classifier, name, stem, weights, weights_key, width"
        ],
    ),
    "value of an entry": (
        "model: {stem: cifar10, width: 0, blocks: [1]}",
        [
            "r.yaml:2:15: model.stem: expected imagenet or cifar, got 'cifar10'; "
            "did you mean 'cifar'?",
            "r.yaml:2:31: model.width: expected a number of at least 0.25, got 0",
            "r.yaml:2:42: model.blocks: expected 2 items, got 1",
        ],
    ),
    "missing key of an entry": (
        "dataset: folders",
        [
            "r.yaml:2:1: missing key 'root' in dataset: folder with one folder per class",
        ],
    ),
    "rule of an entry": (
        "export: [{name: file, low: 3}]",
        ["r.yaml:2:10: export.0: low is 3, expected less than high, which is 1"],
    ),
    "missing key of a section": (
        "optimizer: adam",
        [
            "r.yaml:2:1: missing key 'learning_rate' in optimizer: peak learning rate, for the "
            "global batch of this recipe"
        ],
    ),
    "null for a needed key": (
        "train: {epochs: null}",
        ["r.yaml:2:9: missing key 'epochs' in train: passes over the training images"],
    ),
    "missing name": (
        "export: [{tolerance: 1e-3}]",
        [
            "r.yaml:2:10: missing key 'name' in export.0: an exporter entry of the framework, such "
            "as `onnx`"
        ],
    ),
    "one of a list": (
        "reference: [{metric: val.top1, value: 1, source: ''}]",
        ["r.yaml:2:50: reference.0.source: expected text of at least 1 characters, got ''"],
    ),
    "train without optimizer": (
        "optimizer: null",
        [
            "base.yaml:13:1: train needs a section `optimizer`, such as "
            "optimizer: {name: sgd, learning_rate: 0.1}"
        ],
    ),
    "fp16 without a loss scale": (
        "precision: {compute: fp16, loss_scale: none}",
        [
            "r.yaml:2:40: precision.loss_scale: fp16 needs a loss scale to train; set loss_scale "
            "to auto, dynamic, or a number such as 128"
        ],
    ),
    "multistep without milestones": (
        "schedule: multistep",
        [
            "r.yaml:2:11: schedule.name: multistep needs milestones, the epochs at which it "
            "decays, such as [30, 60, 80]"
        ],
    ),
    "milestones out of order": (
        "schedule: {name: multistep, milestones: [3, 3]}",
        [
            "r.yaml:2:41: schedule.milestones: expected epochs in rising order, got [3, 3]",
        ],
    ),
    "memory beyond any machine": (
        "loader: {cache_gib: 1.0e+308}",
        [
            "r.yaml:2:21: loader.cache_gib: expected a number of at most 100000, got 1e+308",
        ],
    ),
    "skip nothing": (
        "loader: {damaged_images: skip}",
        [
            "r.yaml:2:26: loader.damaged_images: skip needs max_damaged, the number of images "
            "that may be skipped"
        ],
    ),
    "micro batch": (
        "train: {micro_batch_size: 8}",
        ["r.yaml:2:27: train.micro_batch_size: expected at most batch_size, which is 4, got 8"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_recipes(check: Check, case: str) -> None:
    text, expected = BROKEN[case]
    assert problems(check, f"extends: base.yaml\n{text}\n") == expected


INEFFECTIVE = [
    ("schedule: {name: cosine, milestones: [3]}", "schedule.milestones", "with name: cosine"),
    ("schedule: {name: cosine, gamma: 0.1}", "schedule.gamma", "with name: cosine"),
    ("schedule: {every_epochs: 3}", "schedule.every_epochs", "with name: constant"),
    ("schedule: {update: epoch}", "schedule.update", "with name: constant"),
    ("schedule: {name: step, decay_from: start}", "schedule.decay_from", "with name: step"),
    ("schedule: {name: step, decay_epochs: 3}", "schedule.decay_epochs", "with name: step"),
    (
        "schedule: {name: linear, min_learning_rate: 0}",
        "schedule.min_learning_rate",
        "with name: linear",
    ),
    ("schedule: {warmup: linear}", "schedule.warmup", "with warmup_epochs: 0"),
    ("schedule: {warmup_update: step}", "schedule.warmup_update", "with warmup_epochs: 0"),
    (
        "schedule: {name: cosine, decay_from: start}",
        "schedule.decay_from",
        "with warmup_epochs: 0",
    ),
    (
        "schedule: {warmup_epochs: 1, warmup_factor: 0.2}",
        "schedule.warmup_factor",
        "with warmup: linear",
    ),
    (
        "schedule: {warmup_epochs: 1, warmup: constant, warmup_update: epoch}",
        "schedule.warmup_update",
        "with warmup: constant",
    ),
    ("precision: {loss_scale: dynamic}", "precision.loss_scale", "with compute: fp32"),
    ("loader: {max_damaged: 3}", "loader.max_damaged", "with damaged_images: stop"),
    ("loss: {smooth_over: others}", "loss.smooth_over", "with label_smoothing: 0"),
    ("train: null\nschedule: cosine\noptimizer: null", "schedule", "without a section `train`"),
    (
        "train: null\noptimizer: null\ncheckpoint: {keep: 3}",
        "checkpoint",
        "without a section `train`",
    ),
    (
        "train: null\noptimizer: null\neval: {every_epochs: 3}",
        "eval.every_epochs",
        "without a section `train`",
    ),
]


@pytest.mark.parametrize(("text", "key", "reason"), INEFFECTIVE)
def test_keys_without_effect(check: Check, text: str, key: str, reason: str) -> None:
    found = (
        problems(check, f"extends: base.yaml\ntransforms: {{train: null}}\n{text}\n")
        if ("train: null" in text)
        else problems(check, f"extends: base.yaml\n{text}\n")
    )
    assert [message.partition(": ")[2] for message in found] == [
        f"{key} has no effect {reason}; remove it"
    ]


def test_keys_of_a_base_are_taken_back_with_null(check: Check, folder: Path) -> None:
    Path("warm.yaml").write_text(
        "extends: base.yaml\nschedule: {warmup_epochs: 1, warmup: from_zero}\n"
    )
    text = "extends: warm.yaml\nschedule: {warmup_epochs: 0}\n"
    assert problems(check, text) == [
        "warm.yaml:2:30: schedule.warmup has no effect with warmup_epochs: 0; "
        "switch it off with `warmup: null`"
    ]
    recipe = check(text, "schedule.warmup=null")
    assert (recipe.schedule.warmup_epochs, recipe.schedule.warmup) == (0, "linear")


def test_null_is_a_value_of_an_entry_s_option(check: Check) -> None:
    recipe = check("extends: base.yaml\ndataset: {name: folders, root: x, depth: null}\n")
    assert recipe.dataset.options.depth is None


def test_a_recipe_may_only_evaluate(check: Check) -> None:
    recipe = check(
        "extends: base.yaml\ntrain: null\noptimizer: null\ntransforms: {train: null}\n"
        "precision: fp16\n"
    )
    assert (recipe.train, recipe.optimizer, recipe.transforms.train) == (None, None, [])


def test_everything_at_once_in_the_order_of_the_file(check: Check, folder: Path) -> None:
    base = Path("base.yaml")
    base.write_text(base.read_text().replace("epochs: 2", "epochs: two"))
    found = problems(
        check,
        "extends: base.yaml\n"
        "seed: -1\n"
        "seed: 2\n"
        "dataset: {name: folders, root: '${DATA}', num_classes: 0}\n"
        "model: {name: net, width: x}\n"
        "optimizer: {name: sgd, learning_rte: 0.1, momentum: -1}\n"
        "export: [{name: file, lowe: 1}, {name: fil}]\n",
        "loss.label_smoothng=0.1",
        "trian.epochs=3",
    )
    assert found == [
        "r.yaml:2:7: seed: expected a number of at least 0, got -1",
        "r.yaml:3:1: the key 'seed' is given twice, first at line 2; remove one",
        "r.yaml:4:32: dataset.root: the environment variable DATA is not set; set it with: "
        "export DATA=... or --set dataset.root=...",
        "r.yaml:4:56: dataset.num_classes: expected a number above 0, got 0",
        "r.yaml:5:27: model.width: expected a number, got 'x'",
        "r.yaml:6:24: unknown key 'learning_rte' in optimizer (optimizer 'sgd'); "
        "did you mean 'learning_rate'?",
        "r.yaml:6:53: optimizer.momentum: expected a number of at least 0, got -1",
        "r.yaml:7:23: unknown key 'lowe' in export.0 (export 'file'); did you mean 'low'?",
        "r.yaml:7:40: unknown exporter 'fil' for fake; did you mean 'file'?; choices: file",
        "base.yaml:14:11: train.epochs: expected a whole number, got 'two'",
        "--set trian.epochs=3: unknown section 'trian'; did you mean 'train'?",
        "--set loss.label_smoothng=0.1: unknown key 'label_smoothng' in loss; "
        "did you mean 'label_smoothing'?",
    ]


def test_an_empty_recipe_lists_what_it_needs(check: Check) -> None:
    assert problems(check, "seed: 1\n") == [
        "r.yaml:1:1: missing key 'summary': one line for lists",
        "r.yaml:1:1: missing section 'framework': which framework trains and evaluates the model",
        "r.yaml:1:1: missing section 'device': which accelerator to use, and how many",
        "r.yaml:1:1: missing section 'dataset': where the images and their labels come from",
        "r.yaml:1:1: missing section 'transforms': from a decoded image to the network's input",
        "r.yaml:1:1: missing section 'model': the classifier",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "unknown key 'epoch' in train; did you mean 'epochs'?"),
        ("train.epochs=0", "train.epochs: expected a number above 0, got 0"),
        ("model.widht=2", "unknown key 'widht' in model (model 'net'); did you mean 'width'?"),
        ("a.b=c", None),
    ],
)
def test_overrides_are_checked(check: Check, override: str, message: str | None) -> None:
    found = problems(check, "extends: base.yaml\n", override)
    assert len(found) == 1
    if message:
        assert found == [f"--set {override}: {message}"]
    else:
        assert found[0].startswith(f"--set {override}: unknown section 'a'; a recipe has ")


def test_half_a_character_is_named(check: Check) -> None:
    [found] = problems(check, "extends: base.yaml\n", 'summary="\\ud800"')
    assert "summary: expected text, got \\ud800, which is half a character" in found


def test_unset_variables_may_be_allowed(check: Check) -> None:
    text = "extends: base.yaml\ndataset: {name: folders, root: '${DATA}'}\n"
    recipe = check(text, allow_unset=True)
    assert recipe.dataset.options.root == "${DATA}"


@options
class Clashing:
    weights: int = 1


class NotOptions:
    def __init__(self, x: int) -> None:
        self.x = x


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            Clashing,
            "model 'odd' of plugin fake 1.0 has the option 'weights', which is a key of every "
            "section `model`; the plugin must rename it",
        ),
        (NotOptions, "the options of model 'odd' of plugin fake 1.0 cannot be read: "),
    ],
)
def test_unusable_options_of_a_plugin(
    folder: Path, registry_with: Any, config: type, message: str
) -> None:
    entry = ModelEntry(name="odd", framework="fake", summary="Odd", config=config, build=print)
    Path("r.yaml").write_text("extends: base.yaml\nmodel: odd\n")
    document = compose(Path("r.yaml"), environ={})
    with pytest.raises(PluginError) as error:
        validate(document, registry_with(entry))
    assert str(error.value).startswith(message)


def test_a_variable_that_was_left_open_is_named_where_a_number_is_needed(check: Check) -> None:
    text = "extends: base.yaml\ntrain:\n  batch_size: ${BATCHX}\n"
    [problem] = problems(check, text, allow_unset=True)
    assert problem.startswith("r.yaml:3:15: ")
    assert "train.batch_size: the environment variable BATCHX is not set" in problem


@pytest.mark.parametrize("value", ["2024", "1e5", "{x}", "[a, b]", "true"])
def test_an_override_that_is_no_text_says_how_to_write_it(check: Check, value: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check("extends: base.yaml\n", f"model.weights={value}")
    [problem] = caught.value.problems
    advice = problem.message.partition("; as a text, write ")[2]
    option, override = shlex.split(advice)
    assert option == "--set"
    assert check("extends: base.yaml\n", override).model.weights == value


def test_an_override_that_is_no_yaml_says_how_to_write_it(check: Check) -> None:
    advice = r"text that begins with \[ is written --set 'model\.weights=\"\[old\] x\"'"
    with pytest.raises(RecipeError, match=advice):
        check("extends: base.yaml\n", "model.weights=[old] x")


def test_a_summary_may_have_several_lines(check: Check) -> None:
    assert check("extends: base.yaml\n", 'summary="one\\ntwo"').summary == "one\ntwo"
