"""Batches of augmented images, in an order that only seed and epoch decide.

Threads decode and augment: Pillow releases the interpreter lock while it works, so threads reach
the speed of processes without copying pixels between them. Every image has its own slot in its
batch and its own random generator, so the number of threads changes nothing in the result.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

import numpy as np

from runner.contracts import DamagedImage
from runner.data.cache import PixelCache
from runner.data.damage import DamagedImages, fill_up
from runner.data.decode import DamagedImageError, decode, read
from runner.data.decode_options import AS_STORED, Noticed, unreported
from runner.data.order import Augmentation, eval_indices, train_indices
from runner.data.size_limits import check_batches, check_threads
from runner.data.transforms.apply import TooLargeError, apply
from runner.data.transforms.options import check_not_random, fixed_size, largest_size
from runner.data.workers import background_threads
from runner.errors import DataError, RunnerError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    from numpy.typing import NDArray

    from runner.contracts import Batch, Dataset
    from runner.data.decode_options import Decoding, Notice
    from runner.data.transforms.apply import Decoded
    from runner.data.transforms.options import Transform
    from runner.recipe.schema import LoaderSection


_IMAGES_PER_TASK = 4
"""Images that a thread handles in a row; few, so that the threads finish a batch together."""


@final
class ImageLoader:
    """Reads the images of one split for training or evaluation."""

    def __init__(
        self,
        dataset: Dataset,
        transforms: Sequence[Transform],
        section: LoaderSection,
        *,
        seed: int,
        report_damaged: Callable[[DamagedImage], None],
        decoding: Decoding = AS_STORED,
        report_noticed: Callable[[Notice], None] = unreported,
    ) -> None:
        """Prepare to read; threads start with the first batch.

        Args:
            dataset: The split.
            transforms: Steps from a decoded image to the network's input.
            section: How to read.
            seed: Seed of order and augmentation.
            report_damaged: Called once for every image that is skipped, in the order of reading.
            decoding: How encoded images become pixels.
            report_noticed: Called with what decoding notices, of images of this process.

        Raises:
            DataError: The transforms do not end at a fixed size.
        """
        self._size = fixed_size(transforms)
        self._dataset = dataset
        self._transforms = tuple(transforms)
        self._section = section
        self._seed = seed
        self._damaged = DamagedImages(section, report_damaged)
        self._decoding = decoding
        self._noticed = Noticed(report_noticed)
        self._cache = PixelCache(int(section.cache_gib * 2**30))
        self._threads: ThreadPoolExecutor | None = None

    @property
    def transforms(self) -> Sequence[Transform]:
        """Steps from a decoded image to the network's input."""
        return self._transforms

    @property
    def cache(self) -> PixelCache:
        """Decoded images that are kept in memory."""
        return self._cache

    @property
    def stops_at_damage(self) -> bool:
        """Whether a damaged image ends the run."""
        return self._damaged.stop

    @property
    def damaged(self) -> Sequence[DamagedImage]:
        """Images skipped so far, each once."""
        return self._damaged.found

    def train_batches(
        self,
        epoch: int,
        *,
        batch_size: int,
        steps: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Generator[Batch, None, None]:
        """Yield one batch per step of a shuffled epoch.

        Args:
            epoch: Number of the epoch, from 0.
            batch_size: Images of a step over all ranks together.
            steps: Steps of the epoch; the last batch is smaller when the images run out, and filled
                up with the epoch's first images until the ranks have equally many.
            first_step: Step to continue from; what lies before is not read.
            rank: Which contiguous part of each batch to yield.
            world_size: Number of ranks.

        Raises:
            DataError: An image is damaged or does not fit the transforms, or no image is left
                of a batch.
        """
        chosen = train_indices(
            len(self._dataset.labels),
            self._seed,
            epoch,
            batch_size=batch_size,
            steps=steps,
            first_step=first_step,
            rank=rank,
            world_size=world_size,
        )
        augmentation = Augmentation(self._seed, epoch)
        with closing(self._batches(chosen, augmentation)) as batches:
            for batch, indices in zip(batches, chosen, strict=True):
                yield fill_up(batch, len(indices))

    def eval_batches(
        self, batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> Generator[Batch, None, None]:
        """Yield every image of the split once over all ranks, in order, without padding.

        Args:
            batch_size: Images in one batch of one rank; the last batch may be smaller.
            rank: Which contiguous part of the split to yield.
            world_size: Number of ranks.

        Raises:
            DataError: An image is damaged or does not fit the transforms, or a transform is
                random.
        """
        check_not_random(self._transforms)
        chosen = eval_indices(
            len(self._dataset.labels), batch_size, rank=rank, world_size=world_size
        )
        with closing(self._batches(chosen, None)) as batches:
            yield from (batch for batch in batches if len(batch.indices))

    def report(self) -> Mapping[str, Any]:
        """Return that nothing is in effect beyond the recipe."""
        return {}

    def close(self) -> None:
        """Stop the threads. Batches can be asked for again, which starts new ones."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None

    def _batches(
        self, chosen: Sequence[NDArray[np.int64]], augmentation: Augmentation | None
    ) -> Generator[Batch, None, None]:
        """Read batches ahead and yield them in order."""
        ahead = min(len(chosen), self._section.prefetch_batches + 1)
        check_batches(len(chosen[0]) if chosen else 0, ahead, self._size)
        check_threads(self._section.workers, largest_size(self._transforms))
        pending: deque[_Pending] = deque()
        waiting = iter(chosen)
        self._noticed.begin()
        try:
            for _ in range(self._section.prefetch_batches):
                self._start_next(waiting, pending, augmentation)
            while pending:
                ready = self._finish(pending[0])
                pending.popleft()
                self._start_next(waiting, pending, augmentation)
                self._noticed.tell()
                yield ready
            self._noticed.tell_totals(sum(map(len, chosen)))
        finally:
            # Also when the consumer stops early, or an image is damaged.
            for batch in pending:
                batch.abandon()

    def _start_next(
        self,
        waiting: Iterator[NDArray[np.int64]],
        pending: deque[_Pending],
        augmentation: Augmentation | None,
    ) -> None:
        indices = next(waiting, None)
        if indices is None:
            return
        if self._threads is None:
            self._threads = background_threads(self._section.workers)
        images = np.empty((len(indices), *self._size, 3), np.uint8)
        parts = [
            slice(start, start + _IMAGES_PER_TASK)
            for start in range(0, len(indices), _IMAGES_PER_TASK)
        ]
        works = [
            partial(self._read_into, images[part], indices[part], augmentation) for part in parts
        ]
        tasks = tuple((work, self._threads.submit(work)) for work in works)
        pending.append(_Pending(images=images, indices=indices, tasks=tasks))

    def _read_into(
        self,
        slots: NDArray[np.uint8],
        indices: NDArray[np.int64],
        augmentation: Augmentation | None,
    ) -> list[DamagedImage]:
        """Read images into the slots of their batch, on a thread; return those that cannot be."""
        damaged: list[DamagedImage] = []
        for slot, index in zip(slots, indices.tolist(), strict=True):
            try:
                random = augmentation.generator(index) if augmentation else None
                slot[...] = apply(self._decoded(index), self._transforms, random)
            except TooLargeError as error:
                name = self._dataset.describe(index)
                damaged.append(DamagedImage(index=index, description=name, reason=str(error)))
            except DamagedImageError as error:
                damaged.append(
                    DamagedImage(index=index, description=error.description, reason=error.reason)
                )
            except RunnerError:
                raise
            except ValueError as error:  # what a transform says of this image
                raise DataError(f"{self._dataset.describe(index)}: {error}") from error
            except Exception as error:
                place = self._dataset.describe(index)
                raise DataError(f"{place}: {type(error).__name__}: {error}") from error
        return damaged

    def _decoded(self, index: int) -> Decoded:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        content = read(self._dataset, index)
        if isinstance(content, np.ndarray):
            return self._cache.put(index, content)
        name = self._dataset.describe(index)
        image = decode(content, name, self._decoding, partial(self._noticed.note, name))
        return self._cache.put(index, image)

    def _finish(self, batch: _Pending) -> Batch:
        damaged = batch.complete()
        return self._damaged.batch(batch.images, batch.indices, self._dataset.labels, damaged)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """A batch that threads are filling."""

    images: NDArray[np.uint8]
    indices: NDArray[np.int64]
    tasks: tuple[tuple[Callable[[], list[DamagedImage]], Future[list[DamagedImage]]], ...]

    def complete(self) -> list[DamagedImage]:
        """Wait until every image is there, doing what no thread has begun.

        The consumer has nothing else to do, and unlike the threads it has full priority: a
        machine that is busy with other work cannot starve it.
        """
        done: dict[int, list[DamagedImage]] = {}
        # From the end, while the threads work from the front.
        for number, (work, future) in reversed(list(enumerate(self.tasks))):
            if future.cancel():
                done[number] = work()
        for number, (_, future) in enumerate(self.tasks):
            if number not in done:
                done[number] = future.result()
        return [image for number in sorted(done) for image in done[number]]

    def abandon(self) -> None:
        """Make sure that no thread writes into the batch any more."""
        # One that could be cancelled never runs; waiting for it could take for ever, because only
        # a thread of the pool would report it, and the pool may be closed.
        wait([future for _, future in self.tasks if not future.cancel()])
