"""Whether an exported model does what the live model does, and a conversion what its source does.

The stored images are replayed from their raw bytes, so that a difference in pre-processing is told
apart from a difference in the graph.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner import metrics
from runner.artifacts import GOLDEN
from runner.errors import ArtifactError

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.artifacts import Artifact, ArtifactModel
    from runner.contracts import Loader
    from runner.metrics import Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How an artifact compares with the live model it came from."""

    images: int
    pixels_equal: bool
    """The pre-processing gave the pixels that the live model saw."""
    max_difference: float
    """Largest difference of logits, relative to the largest magnitude of the live model's."""
    tolerance: float
    same_top1: int
    """Images for which both choose the same class."""
    runtime: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the artifact agrees with the live model."""
        return self.pixels_equal and self.max_difference <= self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A converted artifact beside the one it was made from, on the same images."""

    images: int
    top1_agreement: float
    """Share of the images for which both choose the same class."""
    max_difference: float
    """Largest difference of logits, relative to the largest magnitude of the source's."""
    top1_drop: float
    """Top-1 accuracy of the source, less that of the converted artifact."""


def verify(artifact: Artifact, model: ArtifactModel) -> Verification:
    """Replay the stored images and compare with what the live model answered.

    Raises:
        ArtifactError: A logit is not finite.
    """
    import numpy as np
    from safetensors.numpy import load_file

    from runner.data.samples import preprocess

    golden = load_file(artifact.folder / GOLDEN)
    pixels = np.stack(
        [
            preprocess((artifact.folder / name).read_bytes(), artifact.transforms)
            for name in artifact.golden
        ]
    )
    # The graph is fed with the stored pixels: a difference in pre-processing shows on its own.
    logits, expected = model.logits(golden["pixels"]), golden["logits"]
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise ArtifactError(
            f"{artifact.folder}: the logits of {int((~finite).sum())} of {len(finite)} stored "
            "images are not finite; use a type with a wider range, such as fp32"
        )
    return Verification(
        images=len(expected),
        pixels_equal=bool(np.array_equal(pixels, golden["pixels"])),
        max_difference=_difference(logits, expected) / (_magnitude(expected) or 1.0),
        tolerance=artifact.tolerance,
        same_top1=int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum()),
        runtime=dict(model.describe()),
    )


def check(artifact: Artifact, result: Verification) -> None:
    """Turn a failed verification into an error.

    Raises:
        ArtifactError: The pixels or the logits differ.
    """
    if not result.pixels_equal:
        raise ArtifactError(
            f"{artifact.folder}: the pre-processing here gives other pixels than the live model "
            "saw; compare the versions of pillow in manifest.json and here"
        )
    if not result.passed:
        raise ArtifactError(
            f"{artifact.folder}: the logits differ from the live model's by "
            f"{result.max_difference:.2e} of their largest magnitude, "
            f"allowed {result.tolerance:.2e} "
            f"(top-1 agrees on {result.same_top1} of {result.images} images); "
            "raise export.tolerance only if that is expected, as for a reduced precision"
        )


def compare(
    converted: ArtifactModel, source: ArtifactModel, loader: Loader, batch_size: int
) -> tuple[Evaluation, Evaluation, Comparison]:
    """Evaluate two artifacts on every image of the split, each read once.

    Args:
        converted: What was made of the source.
        source: What is expected to be as good or better.
        loader: The images, with pre-processing that belongs to both.
        batch_size: Images in one call.

    Returns:
        Evaluation of the first, evaluation of the second, and how they compare.
    """
    first, second = [], []
    same, difference, magnitude = 0, 0.0, 0.0
    with closing(loader.eval_batches(batch_size)) as batches:
        for batch in batches:
            logits, expected = converted.logits(batch.images), source.logits(batch.images)
            first.append(metrics.count_correct(logits, batch.labels))
            second.append(metrics.count_correct(expected, batch.labels))
            same += int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum())
            difference = max(difference, _difference(logits, expected))
            magnitude = max(magnitude, _magnitude(expected))
    after, before = metrics.total(first), metrics.total(second)
    comparison = Comparison(
        images=before.count,
        top1_agreement=same / before.count,
        max_difference=difference / (magnitude or 1.0),
        top1_drop=before.top1 - after.top1,
    )
    return after, before, comparison


def _difference(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    import numpy as np

    return float(np.abs(logits - expected).max())


def _magnitude(logits: NDArray[np.float32]) -> float:
    import numpy as np

    return float(np.abs(logits).max())
