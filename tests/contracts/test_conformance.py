"""Our own plugins pass the kit that we give to authors, and the kit notices broken promises."""

from __future__ import annotations

import importlib
import itertools
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from runner import EngineState, StepResult
from runner.contracts import Engine
from runner.plugins.loading import load
from runner.testing import check_dataset, check_framework, check_plugin, fake
from runner.testing.fake_engine import FakeEngine, Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from runner.contracts import Batch, Device, EngineSpec
    from runner.plugins.registry import Registry

PLUGINS = {
    "ascend": "runner_ascend.plugin",
    "cambricon": "runner_cambricon.plugin",
    "data": "runner.data.plugin",
    "logs": "runner.loggers.plugin",
    "mindspore": "runner_mindspore.plugin",
    "onnx": "runner_onnx.plugin",
    "tensorboard": "runner_tensorboard.plugin",
    "torch": "runner_torch.plugin",
}


def registry_of(module: str) -> Registry:
    plugin = importlib.import_module(module)
    return load(extra=[("own", plugin)], environ={"RUNNER_PLUGINS": ""}).registry


def entries(
    registry: Registry, framework: str, device: str, model: str, optimizer: str
) -> tuple[Any, Any, Any, Any]:
    return (
        registry.find("framework", framework).entry,
        registry.find("device", device, framework).entry,
        registry.find("model", model, framework).entry,
        registry.find("optimizer", optimizer, framework).entry,
    )


def test_every_plugin_of_the_distribution_is_checked() -> None:
    points = entry_points(group="runner.plugins")
    own = {p.name: p.value for p in points if p.dist is not None and p.dist.name == "vision-runner"}
    assert own == PLUGINS


@pytest.mark.parametrize("module", [*PLUGINS.values(), "runner.testing.fake"])
def test_plugins_keep_their_static_promises(module: str) -> None:
    check_plugin(module)


def test_the_fake_framework_conforms() -> None:
    registry = registry_of("runner.testing.fake")
    check_framework(
        *entries(registry, "fake", "fake_cpu", "linear", "fake_sgd"),
        model_options=fake.LinearOptions(noise=0.01),
    )


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("sgd", 0.02), ("adamw", 1e-3)])
def test_the_torch_framework_conforms(optimizer: str, learning_rate: float) -> None:
    pytest.importorskip("torch")
    registry = registry_of("runner_torch.plugin")
    check_framework(
        *entries(registry, "torch", "cpu", "resnet18", optimizer), learning_rate=learning_rate
    )


@pytest.mark.parametrize(
    ("mode", "optimizer", "learning_rate"),
    [("graph", "sgd", 0.05), ("pynative", "adamw", 0.02)],
)
def test_the_mindspore_framework_conforms(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Literal["graph", "pynative"],
    optimizer: str,
    learning_rate: float,
) -> None:
    pytest.importorskip("mindspore")
    from runner_mindspore.autoload import Tensor, nn
    from runner_mindspore.options import MindSporeOptions

    class Net(nn.Cell):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, stride=4, pad_mode="pad", padding=1)
            self.bn = nn.BatchNorm2d(8)
            self.fc = nn.Dense(8, classes)

        def construct(self, images: Tensor) -> Tensor:
            return self.fc(self.bn(self.conv(images)).mean((2, 3)))

    monkeypatch.chdir(tmp_path)  # MindSpore leaves files there when something fails
    registry = registry_of("runner_mindspore.plugin")
    framework, device, model, update = entries(registry, "mindspore", "cpu", "resnet18", optimizer)
    check_framework(
        framework,
        device,
        replace(model, build=lambda options, classes: Net(classes)),  # compiles in a tenth
        update,
        framework_options=MindSporeOptions(mode=mode),
        learning_rate=learning_rate,
    )


@pytest.mark.parametrize(
    ("module", "name", "needs"),
    [
        ("runner.data.plugin", "digits", "sklearn"),
        ("runner.data.plugin", "synthetic", "numpy"),
        ("runner.testing.fake", "fake_colours", "numpy"),
    ],
)
def test_datasets_conform(module: str, name: str, needs: str) -> None:
    pytest.importorskip(needs)
    entry: Any = registry_of(module).find("dataset", name).entry
    check_dataset(entry, entry.config())


def changing_reads() -> Callable[[int], bytes]:
    count = itertools.count()
    return lambda _index: bytes([next(count) % 256])


def unchanged(engine: FakeEngine) -> dict[str, Any]:
    names = [name for name in vars(Engine) if not name.startswith("_")]
    return {name: getattr(engine, name) for name in names}


def no_update(engine: FakeEngine) -> dict[str, Any]:
    return {"train_step": lambda *_: Ready(StepResult(loss=1.0))}


def weights_are_a_view(engine: FakeEngine) -> dict[str, Any]:
    return {"weights": lambda: vars(engine)["_weights"]}


def any_names_are_accepted(engine: FakeEngine) -> dict[str, Any]:
    def load(weights: Mapping[str, Any]) -> None:
        if set(weights) == set(engine.weights()):
            engine.load_weights(weights)

    return {"load_weights": load}


def the_buffer_is_forgotten(engine: FakeEngine) -> dict[str, Any]:
    def load(weights: Mapping[str, Any]) -> None:
        engine.load_weights({n: 0 * a if n == "batches_seen" else a for n, a in weights.items()})

    return {"load_weights": load}


def any_state_is_accepted(engine: FakeEngine) -> dict[str, Any]:
    return {"load_state": lambda state: engine.load_state(state) if state.values else None}


def momentum_is_forgotten(engine: FakeEngine) -> dict[str, Any]:
    def load(state: EngineState) -> None:
        kept = {name: a for name, a in state.tensors.items() if not name.startswith("velocity.")}
        engine.load_state(EngineState(tensors=kept, values=state.values))

    return {"load_state": load}


def evaluation_counts_twice(engine: FakeEngine) -> dict[str, Any]:
    def eval_step(batch: Batch) -> Ready:
        counts = engine.eval_step(batch).read()
        return Ready(replace(counts, count=2 * counts.count))

    return {"eval_step": eval_step}


def the_average_has_another_name(engine: FakeEngine) -> dict[str, Any]:
    def state() -> EngineState:
        found = engine.state()
        renamed = {name.replace("ema/", "ema."): a for name, a in found.tensors.items()}
        return EngineState(tensors=renamed, values=found.values)

    return {"state": state}


def nan_counts_as_the_first_class(engine: FakeEngine) -> dict[str, Any]:
    def eval_step(batch: Batch) -> Ready:
        counts = engine.eval_step(batch).read()
        if np.isfinite(counts.loss_sum):
            return Ready(counts)
        return Ready(replace(counts, top1=1, top5=1))

    return {"eval_step": eval_step}


def predictions_in_double(engine: FakeEngine) -> dict[str, Any]:
    return {"predict": lambda images: engine.predict(images).astype("float64")}


def report_holds_an_object(engine: FakeEngine) -> dict[str, Any]:
    return {"report": lambda: {"device": object()}}


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (unchanged, None),
        (no_update, "moved the loss from 1.0000 to 1.0000 only"),
        (weights_are_a_view, r"weights\(\) returned a view"),
        (any_names_are_accepted, "load_weights accepted missing"),
        (the_buffer_is_forgotten, "weights differ after a resume: batches_seen"),
        (any_state_is_accepted, "accepted an empty state"),
        (momentum_is_forgotten, "differ after a resume"),
        (evaluation_counts_twice, "eval_step counted . of 16, predictions say . of 8"),
        (the_average_has_another_name, "the tensors ema/<name> of state"),
        (nan_counts_as_the_first_class, r"with weights of nan eval_step counted .* = \(1, 1, 8\)"),
        (predictions_in_double, "predict returned float64"),
        (report_holds_an_object, "must be JSON"),
    ],
)
def test_the_kit_notices_a_flawed_engine(
    flaw: Callable[[FakeEngine], dict[str, Any]], message: str | None
) -> None:
    framework, *others = entries(
        registry_of("runner.testing.fake"), "fake", "fake_cpu", "linear", "fake_sgd"
    )

    def open_flawed(spec: EngineSpec, device: Device) -> Any:
        engine = FakeEngine(spec, device)
        return SimpleNamespace(**(unchanged(engine) | flaw(engine)))

    flawed = replace(framework, open=open_flawed)
    if message is None:
        check_framework(flawed, *others)
    else:
        with pytest.raises(AssertionError, match=message):
            check_framework(flawed, *others)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("import numpy", "importing flawed_plugin imports numpy"),
        ("def build(options): ...", "build is called with 2 positional arguments"),
        ("@options\nclass Config:\n    depth: int = 1", "option Config.depth has no docstring"),
        ("@options\nclass Config:\n    depth: Missing", "cannot be checked by pydantic"),
        ("@dataclass\nclass Config:\n    depth: int = 1", "accepts unknown keys"),
        ("del runner_register_models", "implements no hook"),
    ],
)
def test_the_kit_notices_a_flawed_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, message: str
) -> None:
    source = f"""
from __future__ import annotations
from dataclasses import dataclass
from runner import ModelEntry, NoOptions, hookimpl, options
Config = NoOptions
def build(options, num_classes): ...
@hookimpl
def runner_register_models():
    yield ModelEntry(name="m", framework="f", summary="s", config=Config, build=build)
{lines}
"""
    (tmp_path / "flawed_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flawed_plugin", raising=False)
    with pytest.raises(AssertionError, match=message):
        check_plugin("flawed_plugin")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 1, 3]}, "the label 3 has no name"),
        ({"labels": [0, -1, 1]}, "a label is -1"),
        ({"labels": []}, "there is no image"),
        ({"classes": ("a", "a", "b")}, "class names are not unique"),
        ({"read": lambda index: [[0]]}, "read returned list"),
        ({"read": changing_reads()}, "differs when it is read from several threads"),
        ({"describe": lambda index: ""}, "empty name"),
    ],
)
def test_the_kit_notices_a_flawed_dataset(changes: dict[str, Any], message: str) -> None:
    entry: Any = registry_of("runner.testing.fake").find("dataset", "fake_colours").entry

    def open_flawed(config: fake.ColoursOptions, split: str) -> Any:
        good = fake.Colours(config, split)
        parts = {name: getattr(good, name) for name in ("classes", "labels", "read", "describe")}
        parts |= changes
        parts["labels"] = np.array(parts["labels"], np.int64)
        return SimpleNamespace(**parts)

    with pytest.raises(AssertionError, match=message):
        check_dataset(replace(entry, open=open_flawed), entry.config())
