"""The entries that the plugin registers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from runner.contracts import StoredWeights
from runner.entries import Entry, ImporterEntry, LauncherEntry
from runner.plugins.loading import load
from runner_torch import plugin
from runner_torch.autoload import torch

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.torch.conftest import MakeBatches, MakeSpec

REGISTRY = load(extra=[("checked", plugin)], environ={"RUNNER_PLUGINS": ""})
ENTRIES = [
    item.entry
    for item in REGISTRY.entries(Entry)
    if not isinstance(item.entry, (ImporterEntry, LauncherEntry))
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{type(entry).__name__}-{entry.name}")
def test_every_entry_says_what_it_needs_and_has_defaults(entry: Any) -> None:
    assert entry.summary
    assert not entry.summary.endswith(".")
    assert {"torch", "torchvision"} <= set(entry.requires)
    assert entry.install.startswith("pip install 'vision-runner[torch")
    TypeAdapter(entry.config).validate_json("{}")


def test_names_are_unique_in_their_kind() -> None:
    names = [(type(entry), entry.name) for entry in ENTRIES]
    assert len(set(names)) == len(names)


def test_an_engine_trains_through_the_entries(
    make_spec: MakeSpec, make_batches: MakeBatches, tmp_path: Path
) -> None:
    (framework,) = plugin.runner_register_frameworks()
    cpu = next(d for d in plugin.runner_register_devices() if d.name == "cpu")
    assert cpu.probe().available
    engine = framework.open(make_spec(), cpu.open(cpu.config(threads=1)))
    engine.train_step(make_batches(1)[0], 0.1)
    engine.synchronize()
    weights = engine.weights()
    torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, tmp_path / "tiny.pth")
    assert framework.read_weights is not None
    found = framework.read_weights(tmp_path / "tiny.pth")
    assert isinstance(found, StoredWeights)
    assert all(np.array_equal(found.sets[""][name], weights[name]) for name in weights)


def test_cards_are_chosen_by_their_variable() -> None:
    devices = {entry.name: entry for entry in plugin.runner_register_devices()}
    assert devices["cuda"].visible_devices == "CUDA_VISIBLE_DEVICES"
    assert devices["cpu"].visible_devices is None
