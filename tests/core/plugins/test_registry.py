from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runner import ConverterEntry, ExporterEntry, FrameworkEntry, ModelEntry, PredictorEntry
from runner.entries import ExportEntry
from runner.errors import UsageError
from runner.options import NoOptions
from runner.planning.sources import find_source
from runner.plugins.registry import PluginInfo, Registered, Registry, UnknownEntryError

if TYPE_CHECKING:
    from runner.entries import Entry

READY = PluginInfo(
    name="good", module="good.plugin", distribution="good-dist", version="1", state="ready"
)
FAILED = PluginInfo(
    name="bad", module="bad.plugin", distribution="bad-dist", version="2", state="failed",
    reason="ImportError: no",
)  # fmt: skip


def nothing(*_: object, **__: object) -> Any:
    raise NotImplementedError


def model(name: str, framework: str, plugin: PluginInfo = READY) -> Registered[ModelEntry]:
    entry = ModelEntry(name=name, framework=framework, summary="A test", build=nothing)
    return Registered(entry=entry, plugin=plugin)


def predictor(
    name: str, *formats: str, missing: tuple[str, ...] = ()
) -> Registered[PredictorEntry]:
    entry = PredictorEntry(
        name=name,
        summary="A test",
        formats=formats,
        load=nothing,
    )
    return Registered(entry=entry, plugin=READY, missing=missing)


def test_find_returns_the_entry_or_explains_choices() -> None:
    registry = Registry([READY], [model("resnet18", "torch"), model("resnet50", "torch")])
    assert registry.find(ModelEntry, "resnet50", "torch").entry.name == "resnet50"
    assert registry.find(ModelEntry, "resnet50").entry.name == "resnet50"
    with pytest.raises(UnknownEntryError) as caught:
        registry.find(ModelEntry, "resnet51", "torch")
    assert str(caught.value) == (
        "unknown model 'resnet51' for torch; did you mean 'resnet50'?; choices: resnet18, resnet50"
    )
    assert isinstance(caught.value, UsageError)


def test_a_name_of_another_framework_is_pointed_out() -> None:
    registry = Registry([READY], [model("a", "torch"), model("b", "mindspore")])
    with pytest.raises(UnknownEntryError, match="'b' exists for mindspore"):
        registry.find(ModelEntry, "b", "torch")


def exporter(name: str, framework: str) -> Registered[ExporterEntry]:
    entry = ExporterEntry(name=name, framework=framework, summary="A test", export=nothing)
    return Registered(entry=entry, plugin=READY)


def test_only_what_can_work_is_suggested() -> None:
    converter = ConverterEntry(name="onnx_int8", summary="A test", source="onnx", convert=nothing)
    int8 = Registered(entry=converter, plugin=READY)
    lacking = Registered(
        entry=ExporterEntry(name="onn", framework="jax", summary="A test", export=nothing),
        plugin=READY,
        missing=("jax",),
        reason="jax is not installed",
    )
    registry = Registry(
        [READY], [int8, lacking, exporter("onnx", "torch"), exporter("savedmodel", "jax")]
    )
    with pytest.raises(UnknownEntryError) as caught:
        registry.find(ExportEntry, "onnx", "jax")
    assert str(caught.value) == (
        "unknown exporter 'onnx' for jax; choices: savedmodel; 'onnx' exists for torch"
    )
    with pytest.raises(UnknownEntryError, match="did you mean 'onnx_int8'"):
        registry.find(ExportEntry, "onnx_int", "torch")
    with pytest.raises(UsageError) as caught_source:
        find_source(converter, NoOptions(), "jax", registry)
    assert "did you mean" not in str(caught_source.value)


def test_several_frameworks_need_a_choice() -> None:
    registry = Registry([READY], [model("a", "torch"), model("a", "mindspore")])
    with pytest.raises(UnknownEntryError, match="several frameworks: mindspore, torch; name one"):
        registry.find(ModelEntry, "a")
    assert registry.find(ModelEntry, "a", "torch").framework == "torch"


def test_plugins_that_could_not_be_used_are_named() -> None:
    registry = Registry([READY, FAILED], [])
    with pytest.raises(UnknownEntryError) as caught:
        registry.find(FrameworkEntry, "torch")
    assert str(caught.value) == (
        "unknown framework 'torch'; no framework is registered; "
        "plugin 'bad' (bad-dist 2) is failed: ImportError: no"
    )


def test_entries_keep_order_and_filter_by_framework() -> None:
    framework: Entry = FrameworkEntry(name="torch", summary="A test", open=nothing)
    items: list[Registered[Entry]] = [
        model("b", "torch"),
        model("a", "mindspore"),
        Registered(entry=framework, plugin=READY),
    ]
    registry = Registry([READY], items)
    assert [i.entry.name for i in registry.entries(ModelEntry)] == ["b", "a"]
    assert [i.entry.name for i in registry.entries(ModelEntry, "torch")] == ["b"]
    assert registry.find(FrameworkEntry, "torch").framework == "any"
    assert [item.kind for item in items] == ["model", "model", "framework"]


def test_a_clash_takes_only_the_shared_name() -> None:
    other = PluginInfo(name="other", module="other", state="ready")
    registry = Registry([READY, other], [model("x", "torch"), model("x", "torch", other)])
    assert registry.entries(ModelEntry) == ()
    assert [len(group) for group in registry.clashes()] == [2]
    with pytest.raises(UnknownEntryError) as caught:
        registry.find(ModelEntry, "x", "torch")
    assert "plugin 'good' (good-dist 1) and plugin 'other' (other)" in str(caught.value)
    assert "RUNNER_DISABLE_PLUGINS=other" in str(caught.value)


def test_the_first_predictor_that_can_run_a_format_is_taken() -> None:
    items = [predictor("a", "om", missing=("acl",)), predictor("b", "onnx", "om")]
    registry = Registry([READY], items)
    assert registry.predictor("om").entry.name == "b"
    assert Registry([READY], items[:1]).predictor("om").entry.name == "a"
    with pytest.raises(UnknownEntryError, match="'engine'; formats that can be run: om, onnx"):
        registry.predictor("engine")
