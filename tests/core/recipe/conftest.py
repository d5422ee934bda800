from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge

from runner.entries import (
    DatasetEntry,
    DeviceEntry,
    Entry,
    ExporterEntry,
    FrameworkEntry,
    ModelEntry,
    OptimizerEntry,
)
from runner.options import options
from runner.plugins.registry import PluginInfo, Registered, Registry
from runner.recipe import Document, Recipe, compose, validate


@options
class FolderOptions:
    root: str
    """Folder with one folder per class."""
    depth: int | None = 3


@options
class NetOptions:
    width: Annotated[float, Ge(0.25)] = 1.0
    """Factor on the channels."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    blocks: tuple[int, int] = (2, 2)


@options
class SgdOptions:
    momentum: Annotated[float, Ge(0)] = 0.9
    nesterov: bool = False


@options
class AdamOptions:
    betas: tuple[float, float] = (0.9, 0.999)


@options
class TiedOptions:
    low: int = 0
    high: int = 1

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low}, expected less than high, which is {self.high}")


def never(*_: Any) -> Any:
    raise AssertionError("an entry was opened while a recipe was read")


PLUGIN = PluginInfo(
    name="fake", module="fake.plugin", distribution="fake-dist", version="1.0", state="ready"
)


def make_registry(*extra: Entry) -> Registry:
    entries: list[Entry] = [
        FrameworkEntry(name="fake", summary="Fake", open=never),
        DeviceEntry(name="cpu", framework="fake", summary="CPU", probe=never, open=never),
        DatasetEntry(name="toy", summary="Toy", open=never),
        DatasetEntry(name="folders", summary="Folders", config=FolderOptions, open=never),
        ModelEntry(name="net", framework="fake", summary="Net", config=NetOptions, build=never),
        ModelEntry(name="other", framework="fake", summary="Other", build=never),
        OptimizerEntry(name="sgd", framework="fake", summary="SGD", config=SgdOptions, build=never),
        OptimizerEntry(
            name="adam", framework="fake", summary="Adam", config=AdamOptions, build=never
        ),
        ExporterEntry(
            name="file", framework="fake", summary="File", config=TiedOptions, export=never
        ),
        *extra,
    ]
    registered = [Registered(entry=entry, plugin=PLUGIN) for entry in entries]
    return Registry([PLUGIN], registered)


BASE = """\
summary: A toy
framework: fake
device: cpu
dataset: toy
transforms:
  train: [{name: random_crop, size: 8}]
  eval: [{name: center_crop, size: 8}]
model:
  name: net
optimizer:
  name: sgd
  learning_rate: 0.1
train:
  epochs: 2
  batch_size: 4
"""


@pytest.fixture(scope="session")
def registry() -> Registry:
    return make_registry()


@pytest.fixture
def registry_with() -> Callable[..., Registry]:
    """Make a registry with more entries."""
    return make_registry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a complete recipe, base.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE, encoding="utf-8")
    return tmp_path


Write = Callable[..., Document]
Check = Callable[..., Recipe]


@pytest.fixture
def document(folder: Path) -> Write:
    """Write r.yaml and compose it."""

    def write(
        text: str, *overrides: str, environ: dict[str, str] | None = None, allow_unset: bool = False
    ) -> Document:
        Path("r.yaml").write_text(text, encoding="utf-8")
        return compose(Path("r.yaml"), overrides, environ=environ or {}, allow_unset=allow_unset)

    return write


@pytest.fixture
def check(document: Write, registry: Registry) -> Check:
    """Write r.yaml, compose and validate it."""

    def run(text: str, *overrides: str, **arguments: Any) -> Recipe:
        return validate(document(text, *overrides, **arguments), registry)

    return run
