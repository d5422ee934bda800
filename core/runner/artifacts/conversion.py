"""Conversions: artifacts that are made from what an exporter wrote, such as quantised ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.entries import ConversionRequest, ConverterEntry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runner.artifacts.artifact import Artifact
    from runner.artifacts.calibration import Calibration
    from runner.contracts import ArtifactInfo
    from runner.planning.plan import Plan


def convert(
    plan: Plan,
    position: int,
    original: Artifact,
    calibration: Calibration,
    classes: Sequence[str],
    folder: Path,
) -> ArtifactInfo:
    """Make item ``position`` of the recipe's ``export`` list from an exporter's artifact.

    Raises:
        ArtifactError: The conversion failed.
    """
    entry = plan.exporter_entries[position]
    assert isinstance(entry, ConverterEntry), "an exporter has no source"
    return entry.convert(
        ConversionRequest(
            source=original.folder,
            info=original.info,
            spec=plan.engine_spec(len(classes), training=False),
            transforms=plan.recipe.transforms.eval,
            options=plan.recipe.export[position].options,
            calibration=calibration.batches,
            folder=folder,
        )
    )
