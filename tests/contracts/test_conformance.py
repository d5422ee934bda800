"""Our own plugins pass the kit that we give to authors, and the kit notices broken promises."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from tests.contracts import networks

from runner import DatasetEntry, ModelEntry, OptimizerEntry
from runner.testing import (
    check_dataset,
    check_framework,
    check_plugin,
    check_processes,
    check_step,
    fake,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

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


def test_every_plugin_of_the_distribution_is_checked() -> None:
    points = entry_points(group="runner.plugins")
    own = {p.name: p.value for p in points if p.dist is not None and p.dist.name == "vision-runner"}
    assert own == PLUGINS


@pytest.mark.parametrize("module", [*PLUGINS.values(), "runner.testing.fake"])
def test_plugins_keep_their_static_promises(module: str) -> None:
    check_plugin(module)


def check_engine(arguments: Mapping[str, Any], **changes: Any) -> None:
    """Check numbers, then promises, with the same network."""
    check_step(**arguments)
    others = {k: v for k, v in arguments.items() if k not in {"network", "function"}}
    check_framework(model=arguments["network"], **{**others, **changes})


def test_the_fake_framework_conforms() -> None:
    check_engine(networks.in_fake(), model_options=fake.LinearOptions(noise=0.01))


def test_two_processes_of_the_fake_framework_conform() -> None:
    check_processes(networks.in_fake, plugin="runner.testing.fake")


def test_the_torch_framework_conforms() -> None:
    pytest.importorskip("torch")
    check_engine(networks.in_torch(), learning_rate=0.1)


def test_the_torch_framework_conforms_with_a_resnet_and_adamw() -> None:
    pytest.importorskip("torch")
    found = networks.entries("runner_torch.plugin", "torch", "cpu", "adamw")
    model: Any = networks.registry_of("runner_torch.plugin").find(ModelEntry, "resnet18", "torch")
    check_framework(model=model.entry, **found, learning_rate=1e-3, image_size=16)


@pytest.mark.parametrize(
    ("mode", "optimizer", "learning_rate"),
    [("graph", "sgd", 0.1), ("pynative", "adamw", 0.02)],
)
def test_the_mindspore_framework_conforms(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Literal["graph", "pynative"],
    optimizer: str,
    learning_rate: float,
) -> None:
    pytest.importorskip("mindspore")
    from runner_mindspore.options import MindSporeOptions

    monkeypatch.chdir(tmp_path)  # MindSpore leaves files there when something fails
    found = networks.registry_of("runner_mindspore.plugin").find(
        OptimizerEntry, optimizer, "mindspore"
    )
    check_engine(
        {**networks.in_mindspore(), "framework_options": MindSporeOptions(mode=mode)},
        optimizer=found.entry,
        learning_rate=learning_rate,
    )


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "mindspore"])
def test_two_processes_conform(framework: str) -> None:
    pytest.importorskip(framework)
    check_processes(getattr(networks, f"in_{framework}"))


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
    entry: Any = networks.registry_of(module).find(DatasetEntry, name).entry
    check_dataset(entry, entry.config())


def changing_reads() -> Callable[[int], bytes]:
    count = itertools.count()
    return lambda _index: bytes([next(count) % 256])


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
    entry: Any = (
        networks.registry_of("runner.testing.fake").find(DatasetEntry, "fake_colours").entry
    )

    def open_flawed(config: fake.ColoursOptions, split: str) -> Any:
        good = fake.Colours(config, split)
        parts = {name: getattr(good, name) for name in ("classes", "labels", "read", "describe")}
        parts |= changes
        parts["labels"] = np.array(parts["labels"], np.int64)
        return SimpleNamespace(**parts)

    with pytest.raises(AssertionError, match=message):
        check_dataset(replace(entry, open=open_flawed), entry.config())
