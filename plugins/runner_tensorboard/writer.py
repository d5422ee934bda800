"""Event files for TensorBoard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tensorboardX import SummaryWriter

if TYPE_CHECKING:
    from runner.contracts import EpochMetrics, RunInfo


def write_recipe(run: RunInfo) -> None:
    """Write the resolved recipe under the tag ``recipe``."""
    text = json.dumps(run.recipe, indent=2, ensure_ascii=False)
    text = text.encode(errors="backslashreplace").decode()  # names that are no text
    with _writer(run, "recipe") as writer:
        # TensorBoard renders Markdown, where an indented block keeps its line breaks.
        writer.add_text("recipe", "\n".join(f"    {line}" for line in text.splitlines()), 0)


def write_metrics(run: RunInfo, metrics: EpochMetrics) -> None:
    """Write one scalar per metric, with dots as slashes: ``val/top1`` over epochs."""
    with _writer(run, f"epoch-{metrics.epoch:06d}") as writer:
        for name, value in metrics.values.items():
            writer.add_scalar(name.replace(".", "/"), value, metrics.epoch)


def _writer(run: RunInfo, suffix: str) -> SummaryWriter:
    # File names hold the time in seconds: the suffix keeps the files of quick epochs apart.
    return SummaryWriter(str(run.folder / "tensorboard"), filename_suffix=f".{suffix}")
