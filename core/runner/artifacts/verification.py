"""Whether an exported model does what the live model does, and a conversion what its source does.

The stored images are replayed from their raw bytes, so that a difference in pre-processing is told
apart from a difference in the graph.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from runner.artifacts.artifact import GOLDEN, INFO
from runner.data.transforms.options import fixed_size
from runner.entries import ConverterEntry, ExportEntry
from runner.errors import ArtifactError
from runner.plugins.registry import ANY_FRAMEWORK
from runner.session import metrics
from runner.terminal.display import counted
from runner.terminal.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.artifacts.artifact import Artifact, ArtifactModel
    from runner.contracts import Loader
    from runner.plugins.registry import Registry
    from runner.session.metrics import Evaluation

TOLERANCE = 1e-4
"""What an exporter is taken to declare whose plugin is not installed here."""


REDUCED = {"fp16": 0.05, "bf16": 0.1}
"""Largest difference of logits between a live model in a lower format and an artifact in fp32."""
MORE_AGREEMENT = (
    "calibrate on more images, choose a wider type or train longer, or set min_agreement in this "
    "item of export to the share that is enough"
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Verification(Shown):
    """How an artifact compares with the live model it came from."""

    images: int
    pixels_equal: bool
    """The pre-processing gave the pixels that the live model saw."""
    max_difference: float
    """Largest difference of logits, relative to the largest magnitude of the live model's."""
    tolerance: float
    same_top1: int
    """Images for which both choose the same class."""
    min_agreement: float
    """Smallest share of images for which they must."""
    runtime: dict[str, Any]

    def title(self) -> str:
        """Return how it ended."""
        return "passed" if self.passed else "FAILED"

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield what was compared."""
        yield "stored images", self.images
        yield "same pixels", "yes" if self.pixels_equal else "NO"
        yield "largest difference", f"{self.max_difference:.1e}, allowed {self.tolerance:g}"
        yield "same class", self.same_top1

    @property
    def passed(self) -> bool:
        """Whether the artifact agrees with the live model."""
        close = self.pixels_equal and self.max_difference <= self.tolerance
        return close and self.chooses_the_same

    @property
    def chooses_the_same(self) -> bool:
        """Whether the share of equal classes is one that ``min_agreement`` allows.

        The stored images are a sample: twice its standard error below counts as the same.
        """
        share = self.min_agreement
        return self.same_top1 >= self.images * share - 2 * sqrt(self.images * share * (1 - share))


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

    from runner.data.samples import preprocess

    seen, expected = _golden(artifact)
    pixels = np.stack(
        [
            preprocess(
                (artifact.folder / name).read_bytes(),
                artifact.transforms,
                decoding=artifact.decoding,
            )
            for name in artifact.golden
        ]
    )
    # The graph is fed with the stored pixels: a difference in pre-processing shows on its own.
    logits = model.logits(seen)
    finite = np.logical_and.reduce(np.isfinite(logits), axis=1)
    if not finite.all():
        raise ArtifactError(
            f"{artifact.folder}: the logits of {int((~finite).sum())} of "
            f"{counted(len(finite), 'stored image')} are not finite; use a type with a wider "
            "range, such as fp32"
        )
    return Verification(
        images=len(expected),
        pixels_equal=bool(np.array_equal(pixels, seen)),
        max_difference=_difference(logits, expected) / (_magnitude(expected) or 1.0),
        tolerance=artifact.tolerance,
        min_agreement=artifact.min_agreement,
        same_top1=int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum()),
        runtime=dict(model.describe()),
    )


def _golden(artifact: Artifact) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the pixels ``[N, H, W, C]`` that the live model saw, and its logits ``[N, K]``."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = artifact.folder / GOLDEN
    try:
        found = load_file(path)
    except (SafetensorError, OSError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; export it again") from error
    count, shapes = len(artifact.golden), {name: item.shape for name, item in found.items()}
    size = fixed_size(artifact.transforms)
    expected = {"pixels": (count, *size, 3), "logits": (count, len(artifact.classes))}
    types = {name: str(item.dtype) for name, item in found.items()}
    if shapes != expected or types != {"pixels": "uint8", "logits": "float32"}:
        raise ArtifactError(
            f"{path} holds {shapes} of {types}; expected {expected} in uint8 and float32: export "
            "it again"
        )
    return found["pixels"], found["logits"]


def allowed(artifact: Artifact, given: float | None, registry: Registry) -> float:
    """Return the tolerance that counts: what the caller gives, else what the artifact says.

    Raises:
        ArtifactError: The artifact allows more than the exporter that wrote it declares.
    """
    if given is not None:
        return given
    declared = _declared(artifact, registry)
    if artifact.tolerance > declared:
        raise ArtifactError(
            f"{artifact.folder / INFO} allows a difference of {artifact.tolerance:g}, and "
            f"{artifact.exporter or 'its exporter'} declares {declared:g}; give what you allow: "
            f"--tolerance {artifact.tolerance:g}"
        )
    return artifact.tolerance


def _declared(artifact: Artifact, registry: Registry) -> float:
    """Return the largest tolerance of the entries that may have written an artifact.

    It names the one that did; older ones tell a conversion from an export at least.
    """
    candidates = [
        entry
        for entry in (item.entry for item in registry.entries(ExportEntry))
        if entry.framework in {artifact.framework, ANY_FRAMEWORK}
        and (entry.name == artifact.exporter or not artifact.exporter)
        and isinstance(entry, ConverterEntry) == bool(artifact.source)
    ]
    declared = [declared_tolerance(entry, artifact.compute) for entry in candidates]
    return max(declared, default=TOLERANCE)


def check(folder: Path, result: Verification) -> None:
    """Turn a failed verification into an error.

    Raises:
        ArtifactError: The pixels or the logits differ.
    """
    if not result.pixels_equal:
        raise ArtifactError(
            f"{folder}: the pre-processing here gives other pixels than the live model "
            "saw; compare the versions of pillow in manifest.json and here"
        )
    if not result.chooses_the_same:
        raise ArtifactError(
            f"{folder}: it chooses the live model's class for {result.same_top1} of "
            f"{counted(result.images, 'stored image')}, expected a share of "
            f"{result.min_agreement:g}; " + MORE_AGREEMENT
        )
    if not result.passed:
        raise ArtifactError(
            f"{folder}: the logits differ from the live model's by "
            f"{result.max_difference:.2e} of their largest magnitude, "
            f"allowed {result.tolerance:.2e} "
            f"(top-1 agrees on {result.same_top1} of {counted(result.images, 'image')}); "
            "set tolerance in this item of export only if that is expected, as for a reduced "
            "precision"
        )


def check_comparison(artifact: Artifact, result: Comparison, source: str) -> None:
    """Refuse a conversion that chooses other classes than its source.

    Raises:
        ArtifactError: It does, for more images than its entry or the recipe allows.
    """
    if result.top1_agreement < artifact.min_agreement:
        raise ArtifactError(
            f"{artifact.folder}: it chooses the class of the {source} artifact it was made from "
            f"for {100 * result.top1_agreement:.2f} % of {counted(result.images, 'image')}, "
            f"expected at least {100 * artifact.min_agreement:g} %; {MORE_AGREEMENT}"
        )


def declared_tolerance(entry: ExportEntry, compute: str) -> float:
    """Return the largest difference of logits that an entry declares.

    Args:
        entry: Which wrote the artifact.
        compute: Format that the live model computes in; its own rounding counts as well.
    """
    return max(entry.tolerance, REDUCED.get(compute, 0.0))


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
    after = metrics.total(first, converted.num_classes)
    before = metrics.total(second, source.num_classes)
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
