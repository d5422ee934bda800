"""What ``result.json`` must hold, so that the summary of a run can be written from it."""

from __future__ import annotations

from typing import Annotated, Any, Union

from annotated_types import Ge
from pydantic import AfterValidator
from typing_extensions import NotRequired, TypedDict

from runner.storage import records
from runner.storage.records import Number, Text

Count = Annotated[int, Ge(0)]
_ACCURACY = ("val.top1", "val.loss", "val.count")
_SPEED = ("train.images_per_s", "train.data_wait")


def _with_numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """Refuse metrics of which the summary would write one that is missing or null."""
    read = [name for name in metrics if name.startswith("throughput.")]
    for together in (_ACCURACY, _SPEED):
        read += together if together[0] in metrics else ()
    for name in read:
        if metrics.get(name) is None:
            raise ValueError(f"{name!r} is missing or null, expected a number")
    return metrics


Metrics = Annotated[
    dict[Text, Union[Number, None]],  # noqa: UP007  evaluated on Python 3.10
    AfterValidator(_with_numbers),
]


@records.schema(extra="allow")
class _Verification(TypedDict):
    max_difference: Number
    images: Count


@records.schema(extra="allow")
class _Comparison(TypedDict):
    images: Count
    top1_agreement: Number
    top1_drop: Number
    max_difference: Number


@records.schema(extra="allow")
class _Source(TypedDict):
    name: Text


@records.schema(extra="allow")
class _Export(TypedDict):
    name: Text
    folder: Text
    verified: Union[bool, None]  # noqa: UP007
    reason: NotRequired[Text]
    error: NotRequired[Text]
    verification: NotRequired[_Verification]
    metrics: NotRequired[Metrics]
    source: NotRequired[_Source]
    source_metrics: NotRequired[Metrics]
    comparison: NotRequired[_Comparison]


def _accounted_for(record: dict[str, Any]) -> dict[str, Any]:
    """Refuse an export that does not say how its verification has ended."""
    needed = "reason" if record["verified"] is None else "verification"
    if needed not in record and not ("error" in record and needed == "verification"):
        raise ValueError(f"{needed!r} is missing")
    return record


@records.schema(extra="allow")
class _Reference(TypedDict):
    metric: Text
    value: Number
    source: Text
    hardware: Union[Text, None]  # noqa: UP007
    note: Union[Text, None]  # noqa: UP007
    measured: Union[Number, None]  # noqa: UP007


@records.schema(extra="allow")
class _Lost(TypedDict):
    missing: list[Text]


@records.schema(extra="allow")
class Result(TypedDict):
    """All that the summary reads; what else a run tells is kept."""

    recipe: Text
    folder: Text
    model: Text
    framework: Text
    device: Text
    precision: Text
    metrics: Metrics
    epochs: NotRequired[Count]
    steps: NotRequired[Count]
    reached_target: NotRequired[bool]
    best_top1: NotRequired[Union[Number, None]]  # noqa: UP007
    best_epoch: NotRequired[Union[Count, None]]  # noqa: UP007
    val_images_in_train: NotRequired[Union[Count, None]]  # noqa: UP007
    skipped_steps: NotRequired[Count]
    folder_lost: NotRequired[list[_Lost]]
    exports: list[Annotated[_Export, AfterValidator(_accounted_for)]]
    reference: list[_Reference]
    seconds: Number


def _trained(result: dict[str, Any]) -> dict[str, Any]:
    """Refuse a result that leaves out part of how training has ended."""
    needed = ("steps", "reached_target") if "epochs" in result else ()
    if result.get("best_top1") is not None:
        needed = (*needed, "best_epoch")
    for name in needed:
        if result.get(name) is None:
            raise ValueError(f"{name!r} is missing or null")
    return result


SCHEMA = Annotated[Result, AfterValidator(_trained)]
