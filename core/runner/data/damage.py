"""Images that cannot be read or decoded, and what a recipe says about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from runner.contracts import Batch
from runner.errors import DataError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from runner.contracts import DamagedImage
    from runner.recipe.schema import LoaderSection


@final
class DamagedImages:
    """The damaged images of a split, which end the run or are left out and counted."""

    def __init__(self, section: LoaderSection, report: Callable[[DamagedImage], None]) -> None:
        """Begin with none.

        Args:
            section: Whether to stop, and at how many.
            report: Called once for every image that is left out.
        """
        self._section = section
        self._report = report
        self._found: dict[int, DamagedImage] = {}

    @property
    def stop(self) -> bool:
        """Whether the first one ends the run."""
        return self._section.damaged_images == "stop"

    @property
    def found(self) -> Sequence[DamagedImage]:
        """Those left out so far, each once."""
        return tuple(self._found.values())

    def batch(
        self,
        images: NDArray[np.uint8],
        indices: NDArray[np.int64],
        labels: NDArray[np.integer[Any]],
        damaged: Sequence[DamagedImage],
    ) -> Batch:
        """Make a batch without the damaged images in it; it may be empty.

        Args:
            images: Pixels ``[B, H, W, C]``, of which those of damaged images do not matter.
            indices: Positions of the images in the dataset ``[B]``.
            labels: Labels of the whole dataset ``[N]``.
            damaged: The damaged images among them.

        Raises:
            DataError: The recipe says to stop at a damaged image, or there are too many.
        """
        for image in damaged:
            self._note(image)
        if damaged:
            keep = ~np.isin(indices, [image.index for image in damaged])
            images, indices = images[keep], indices[keep]
        return Batch(
            images=images, labels=labels[indices].astype(np.int64, copy=False), indices=indices
        )

    def _note(self, image: DamagedImage) -> None:
        if self.stop:
            raise DataError(
                f"{image.description}: {image.reason}; repair or remove the image, or leave such "
                "images out and count them: --set loader.damaged_images=skip "
                "--set loader.max_damaged=100"
            )
        if image.index in self._found:
            return
        self._found[image.index] = image
        self._report(image)
        if len(self._found) > self._section.max_damaged:
            listed = "\n".join(f"  {one.description}: {one.reason}" for one in self.found)
            raise DataError(
                f"{counted(len(self._found), 'damaged image')}, more than loader.max_damaged = "
                f"{self._section.max_damaged}; repair or remove them, or raise the limit:\n{listed}"
            )


def fill_up(batch: Batch, size: int) -> Batch:
    """Return a batch for training, in which images that are left take the place of damaged ones.

    The gradient is the mean over the batches of all processes, which must therefore have one size.

    Args:
        batch: What is left of a batch.
        size: Images that it should have.

    Raises:
        DataError: None is left.
    """
    left = len(batch.indices)
    if left == 0:
        raise DataError("every image of a batch is damaged; repair the dataset")
    if left == size:
        return batch
    taken = np.resize(np.arange(left), size)
    return Batch(
        images=batch.images[taken], labels=batch.labels[taken], indices=batch.indices[taken]
    )
