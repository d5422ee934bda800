"""Exported graphs: the names in them, and what is told about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.contracts import ArtifactInfo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runner.entries import EngineSpec

INPUT, OUTPUT, BATCH = "input", "logits", "batch"
"""Names in exported graphs: the input, the output, and the size of the batch."""


def artifact_info(
    spec: EngineSpec, *, format_name: str, file: str, details: Mapping[str, Any]
) -> ArtifactInfo:
    """Describe a graph from normalised images ``[B, 3, H, W]`` to logits ``[B, K]``, for any B."""
    return ArtifactInfo(
        format=format_name,
        file=file,
        input_name=INPUT,
        input_shape=(BATCH, 3, *spec.image_size),
        output_name=OUTPUT,
        details=details,
    )
