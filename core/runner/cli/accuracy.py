"""Accuracy as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any


def percent(share: float) -> str:
    """Write a share of 1 as a percentage."""
    return f"{100 * share:.2f} %"


def accuracy(metrics: Mapping[str, Any]) -> str:
    """Write the accuracy and what it was measured on."""
    images = display.counted(metrics["val.count"], "image")
    shares = ", ".join(top_shares(metrics))
    return f"{shares}, loss {metrics['val.loss']:.4f}, on {images}"


def top_shares(metrics: Mapping[str, Any]) -> list[str]:
    """Write top-1, and top-5 where there are more classes than that."""
    return [
        f"{title} {percent(metrics[name])}"
        for title, name in (("top-1", "val.top1"), ("top-5", "val.top5"))
        if name in metrics
    ]


def accuracy_report(record: Mapping[str, Any]) -> Iterator[str]:
    """Write what is known of a conversion's accuracy: its source's, its own, and how they compare.

    Args:
        record: What ``export.carry_out`` returned for a conversion.
    """
    name, source = record["name"], record["source"]["name"]
    width = max(len(name), len(source))
    if "source_metrics" in record:
        yield f"{source:<{width}}  {accuracy(record['source_metrics'])}"
    if "metrics" in record:
        yield f"{name:<{width}}  {accuracy(record['metrics'])}"
    if "comparison" in record:
        found = record["comparison"]
        points = -100 * found["top1_drop"] + 0.0  # which makes -0.0 positive
        yield (
            f"same class for {percent(found['top1_agreement'])} of "
            f"{display.counted(found['images'], 'image')}, top-1 {points:+.2f} points, largest "
            f"difference of logits {found['max_difference']:.1e}"
        )
