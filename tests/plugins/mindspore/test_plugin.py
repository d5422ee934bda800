"""The entries that the plugin registers; all but one test run without MindSpore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from runner.entries import Entry, ImporterEntry, LauncherEntry
from runner.plugins.loading import load
from runner_mindspore import plugin

if TYPE_CHECKING:
    from tests.plugins.mindspore.conftest import MakeBatches, MakeSpec

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
    assert "mindspore" in entry.requires
    assert entry.install.startswith("pip install 'vision-runner[mindspore")
    required = '{"root": "."}' if entry.name == "mindspore_folders" else "{}"
    TypeAdapter(entry.config).validate_json(required)


def test_names_are_unique_in_their_kind() -> None:
    names = [(type(entry), entry.name) for entry in ENTRIES]
    assert len(set(names)) == len(names)


def test_signals_are_waited_for_in_a_thread() -> None:
    (framework,) = plugin.runner_register_frameworks()
    assert framework.takes_signals


def test_cards_are_chosen_by_their_variable() -> None:
    devices = {entry.name: entry for entry in plugin.runner_register_devices()}
    assert devices["gpu"].visible_devices == "CUDA_VISIBLE_DEVICES"
    assert devices["ascend"].visible_devices == "ASCEND_RT_VISIBLE_DEVICES"
    assert devices["cpu"].visible_devices is None


def test_an_engine_trains_through_the_entries(
    make_spec: MakeSpec, make_batches: MakeBatches
) -> None:
    pytest.importorskip("mindspore")
    (framework,) = plugin.runner_register_frameworks()
    cpu = next(d for d in plugin.runner_register_devices() if d.name == "cpu")
    assert cpu.probe().available
    engine = framework.open(make_spec(), cpu.open(cpu.config()))
    before = engine.weights()
    engine.train_step(make_batches(1)[0], 0.1)
    engine.synchronize()
    assert not np.array_equal(engine.weights()["fc.weight"], before["fc.weight"])
