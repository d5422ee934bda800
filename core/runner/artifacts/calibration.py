"""The images that a conversion measures the ranges of activations on."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from runner.planning.plan import Plan
    from runner.session.opening import Split


@final
class Calibration:
    """Images of the validation split in an order of which every beginning covers the classes.

    The first images of class folders would be of one class, and ranges that they alone give clip
    what the other classes do. The order depends on the labels alone, so that the same images come
    every time.
    """

    def __init__(self, plan: Plan, val: Split) -> None:
        self._plan = plan
        self._val = val
        self.images = 0
        """Images that were handed out."""
        self.seen: set[int] = set()
        """Their labels."""

    def batches(self, images: int) -> Iterator[NDArray[np.float32]]:
        """Yield normalised images in batches ``[B, C, H, W]`` of ``eval.batch_size``.

        Args:
            images: How many; fewer where the split has fewer.
        """
        import numpy as np

        from runner.data.normalize import normalize

        transforms, size = self._plan.recipe.transforms, self._plan.recipe.eval.batch_size
        labels = self._val.dataset.labels
        chosen = islice(self._readable(spread(labels).tolist()), images)
        while part := list(islice(chosen, size)):
            self.images += len(part)
            self.seen.update(int(labels[index]) for index, _ in part)
            pixels = np.stack([image for _, image in part])
            yield normalize(pixels, transforms.mean, transforms.std)

    def coverage(self) -> dict[str, Any]:
        """Return how many images there were, of how many of the classes (JSON)."""
        return {
            "images": self.images,
            "classes": len(self.seen),
            "of_classes": len(self._present()),
            "order": "spread over the classes of the validation split",
        }

    def missing(self) -> list[str]:
        """Return the classes of the split of which there was no image."""
        return [self._val.classes[label] for label in self._present() if label not in self.seen]

    def _present(self) -> list[int]:
        import numpy as np

        found: list[int] = np.unique(self._val.dataset.labels).tolist()
        return found

    def _readable(self, indices: list[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Read images; those that are damaged were reported when the split was evaluated."""
        from runner.data.decode import DamagedImageError, read
        from runner.data.samples import preprocess

        dataset, loader = self._val.dataset, self._val.loader
        for index in indices:
            try:
                name = dataset.describe(index)
                yield index, preprocess(read(dataset, index), loader.transforms, name)
            except DamagedImageError:
                if loader.stops_at_damage:
                    raise


def spread(labels: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the order of images of which every beginning covers the classes evenly.

    One image of each class comes first, then a second one of each, and so on. Classes, and the
    images of one class, are taken in the order of their number's bits reversed: the first few are
    spread over all.
    """
    import numpy as np

    order = np.argsort(labels, kind="stable")
    classes, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rounds = np.empty(len(labels), np.int64)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        rounds[start : start + count] = _scattered(count)
    turns = np.repeat(_scattered(len(classes)), counts)
    found: NDArray[np.int64] = order[np.lexsort((turns, rounds))]
    return found


def _scattered(count: int) -> NDArray[np.int64]:
    """Return for each of ``count`` things in a row when it comes, so that few are spread."""
    import numpy as np

    bits = max(count - 1, 1).bit_length()
    numbers = np.arange(count)
    reversed_bits = sum(((numbers >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
    turns = np.empty(count, np.int64)
    turns[np.argsort(reversed_bits, kind="stable")] = numbers
    return turns
