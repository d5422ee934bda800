"""The encoded images that MindSpore's pipeline decodes: read ahead by threads, and checked once.

A JPEG that libjpeg refuses can do anything to MindSpore 2.10: cause an error that does not name
the file, leave a copy of the image in the working directory, or end the process with a
segmentation fault, which 4 in 10 did with changed bytes in the header. So Pillow looks at an image
before MindSpore does, once in a process, and a black one takes the place of a damaged one. Of
24,000 JPEGs with changed bytes Pillow accepted 13,198, and none of these ended the process.
"""

from __future__ import annotations

import io
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, final

import numpy as np
from PIL import Image

from runner.contracts import DamagedImage
from runner.data.decode import DamagedImageError, check, read
from runner.data.decode_options import Noticed
from runner.data.transforms.options import RandomCrop, fixed_size
from runner_mindspore.transforms import undecodable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    from numpy.typing import NDArray

    from runner.contracts import Dataset
    from runner.data.decode_options import Notice
    from runner.data.transforms.options import Transform

_IMAGES_PER_TASK = 8
_TASKS_PER_THREAD = 2
_JPEG = b"\xff\xd8"
_OTHER_DECODER = "save the image as PNG or JPEG, or use dataset.name: class_folders"


@final
class Images:
    """The images of a split, and those among them that cannot be decoded."""

    def __init__(
        self,
        dataset: Dataset,
        transforms: Sequence[Transform],
        report_noticed: Callable[[Notice], None],
    ) -> None:
        self._dataset = dataset
        self.noticed = Noticed(report_noticed)
        """What was noticed when the images were looked at."""
        self._checked = np.zeros(len(dataset.labels), bool)
        self._damaged: dict[int, DamagedImage] = {}
        crops = [step.size for step in transforms if isinstance(step, RandomCrop)]
        self._black = _black(max([*fixed_size(transforms), *crops]))

    def encoded(self, index: int) -> NDArray[np.uint8]:
        """Return an image as it is stored, or a black one if it is damaged; safe for threads."""
        if index not in self._damaged:
            try:
                return np.frombuffer(self._read(index), np.uint8)
            except DamagedImageError as error:
                self._damaged[index] = DamagedImage(
                    index=index, description=error.description, reason=error.reason
                )
        return self._black

    def damaged_among(self, indices: NDArray[np.int64]) -> list[DamagedImage]:
        """Return those of the images, which were all encoded, that are damaged."""
        return [self._damaged[index] for index in indices.tolist() if index in self._damaged]

    def _read(self, index: int) -> bytes:
        content = read(self._dataset, index)
        assert isinstance(content, bytes), "image files are encoded"
        if not self._checked[index]:
            name = self._dataset.describe(index)
            _check(content, name, partial(self.noticed.note, name))
            self._checked[index] = True
        return content


@final
class Source:
    """Images in a given order with their positions, in the form that ``GeneratorDataset`` takes."""

    def __init__(
        self, images: Images, order: NDArray[np.int64], threads: ThreadPoolExecutor, count: int
    ) -> None:
        """Read nothing yet.

        Args:
            images: Where the images come from.
            order: Positions in the dataset.
            threads: A pool that reads.
            count: Its threads.
        """
        self._images = images
        self.order = order
        self._threads = threads
        self._ahead = count * _TASKS_PER_THREAD
        self.handed_out = 0
        """Images that the pipeline has taken."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], np.int64]]:
        """Yield encoded images and their positions."""
        starts = range(0, len(self.order), _IMAGES_PER_TASK)
        parts = iter([self.order[start : start + _IMAGES_PER_TASK] for start in starts])
        pending: deque[tuple[NDArray[np.int64], Future[list[NDArray[np.uint8]]]]] = deque()
        try:
            for part in islice(parts, self._ahead):
                pending.append((part, self._threads.submit(self._read, part)))
            while pending:
                indices, task = pending.popleft()
                for index, content in zip(indices, task.result(), strict=True):
                    self.handed_out += 1
                    yield content, index
                for part in islice(parts, 1):
                    pending.append((part, self._threads.submit(self._read, part)))
        finally:
            for _, task in pending:
                task.cancel()

    def _read(self, part: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        return [self._images.encoded(index) for index in part.tolist()]


def _check(content: bytes, description: str, notice: Callable[[str, str], None]) -> None:
    """Make sure that MindSpore decodes an image.

    Raises:
        DamagedImageError: It is damaged, or in a format that MindSpore does not decode.
    """
    name = check(content, description, notice)
    if name in {"GIF", "WEBP"}:
        raise DamagedImageError(
            description, f"MindSpore does not decode {name} images; {_OTHER_DECODER}"
        )
    if content.startswith(_JPEG):
        return
    # MindSpore's other decoders fail cleanly, and are stricter: a wrong checksum is an error.
    reason = undecodable(np.frombuffer(content, np.uint8))
    if reason is not None:
        raise DamagedImageError(
            description, f"MindSpore cannot decode it: {reason}; {_OTHER_DECODER}"
        )


def _black(side: int) -> NDArray[np.uint8]:
    """Return a PNG that no transform finds too small."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)
