"""Predictions for image files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from runner.data.layouts.images import IMAGE_ENDINGS, list_images
from runner.data.size_limits import MAX_FILE
from runner.errors import DataError, UsageError
from runner.session import metrics
from runner.storage import files, paths
from runner.terminal import display
from runner.terminal.display import csv_cell
from runner.terminal.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from runner.artifacts.classifier import Classifier
    from runner.data.decode_options import Noticed


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One class that a model considers, with its probability."""

    rank: int
    label: int
    name: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Prediction(Shown):
    """What a model says about one image, or why it could not be read."""

    image: str
    choices: tuple[Choice, ...]
    """Most probable first."""
    error: str = ""

    def title(self) -> str:
        """Return the image."""
        return self.image

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield the classes with their probabilities, or the error."""
        if self.error:
            yield "error", self.error
        for choice in self.choices:
            yield choice.name, f"{100 * choice.probability:.1f} %"


def find_images(given: Sequence[Path]) -> list[Path]:
    """Return the files among those given and, sorted, the images below the folders among them.

    Hidden files and folders in a folder are left out.

    Raises:
        DataError: A folder cannot be listed.
        UsageError: A path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside, _ = list_images(str(path), "", IMAGE_ENDINGS)
            if not inside:
                raise UsageError(
                    f"no image in {path}; expected files that end in {', '.join(IMAGE_ENDINGS)}"
                )
            found += [path / name for name in inside]
        elif path.is_file():
            found.append(path)
        elif path.exists():
            kind = paths.kind_of(path.stat().st_mode)
            raise UsageError(f"{path} is {kind}; expected an image file or a folder of them")
        else:
            raise UsageError(f"no file or folder {path}")
    return found


def predict(
    classifier: Classifier,
    images: Sequence[Path],
    *,
    batch_size: int,
    top: int,
    noticed: Noticed | None = None,
) -> Iterator[Prediction]:
    """Predict each image, in order; one that cannot be read yields its error.

    Args:
        classifier: The model, with its pre-processing.
        images: Image files.
        batch_size: Images in one pass.
        top: Classes of each prediction.
        noticed: Counts and reports what decoding notices.
    """
    import numpy as np

    from runner.data.samples import preprocess

    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        pixels, errors = {}, {}
        for path in part:
            try:
                pixels[path] = preprocess(
                    files.read_regular(path, MAX_FILE),
                    classifier.transforms,
                    str(path),
                    decoding=classifier.decoding,
                    noticed=noticed,
                )
            except (DataError, OSError) as error:
                errors[path] = str(error)
        readable = list(pixels)
        logits = classifier.logits(np.stack([pixels[p] for p in readable])) if readable else None
        rows = (
            {}
            if logits is None
            else dict(zip(readable, metrics.probabilities(logits), strict=False))
        )
        for path in part:
            if path in errors:
                yield Prediction(image=str(path), choices=(), error=errors[path])
                continue
            row = rows[path]
            best = np.argsort(-row, kind="stable")[:top]
            yield Prediction(
                image=str(path),
                choices=tuple(
                    Choice(
                        rank=rank + 1,
                        label=int(label),
                        name=classifier.classes[label],
                        probability=float(row[label]),
                    )
                    for rank, label in enumerate(best)
                ),
            )
    if noticed:
        noticed.tell_totals(len(images))


def as_json(predictions: Sequence[Prediction]) -> str:
    """Write predictions as a JSON list."""
    return json.dumps([asdict(item) for item in predictions], indent=2) + "\n"


def as_csv(predictions: Sequence[Prediction]) -> str:
    """Write one line per image and class; an unreadable image has one line with its error."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("image", "rank", "label", "class", "probability", "error"))
    for item in predictions:
        if item.error:
            writer.writerow((csv_cell(item.image), "", "", "", "", csv_cell(item.error)))
        for choice in item.choices:
            writer.writerow(
                (
                    csv_cell(item.image),
                    choice.rank,
                    choice.label,
                    csv_cell(choice.name),
                    f"{choice.probability:.6f}",
                    "",
                )
            )
    return out.getvalue()


def as_table(predictions: Sequence[Prediction]) -> str:
    """Write one line per image: the classes in order of probability."""
    images = [display.line(item.image) for item in predictions]
    width = max(map(len, images), default=0)
    lines = []
    for image, item in zip(images, predictions, strict=True):
        chosen = "  ".join(f"{c.name} {100 * c.probability:.1f} %" for c in item.choices)
        error = item.error.removeprefix(f"{item.image}: ")
        lines.append(f"{image:<{width}}  {display.line(error or chosen)}")
    return "\n".join(lines) + "\n"
