"""MindSpore's own input pipeline in place of core's loader: C++ threads decode and augment.

Images, order, labels and which images count as damaged are those of core's loader. What differs:

- pixels: ``bilinear`` is not antialiased, and ``center_crop`` rounds its offsets down. ``bicubic``
  and changes of colour are within one level of Pillow's;
- augmentation: random numbers belong to a thread, so they depend on ``loader.workers`` and on the
  number of devices. A run that is resumed in the middle of an epoch decodes what it has trained on
  again, to come to the same numbers, and under another number of workers it says so;
- speed: C++ threads hold no interpreter lock. In the first epoch of a process Pillow looks at each
  image as well (see ``encoded``), which costs as much again as half of the rest.
"""

from __future__ import annotations

import multiprocessing
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, final

import numpy as np

from runner.data.damage import DamagedImages, fill_up
from runner.data.order import eval_indices, train_indices
from runner.data.transforms.options import check_not_random, random_steps
from runner.errors import DataError, UsageError
from runner_mindspore.autoload import ms
from runner_mindspore.encoded import Images, Source
from runner_mindspore.transforms import differences, misfit, operations

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from runner.contracts import Batch, Loader
    from runner.data.transforms.options import Transform
    from runner.entries import LoaderRequest

_AUGMENTATION = (2,)
"""Keeps the seed of the pipeline apart from those of core's order and augmentation."""


def open_loader(request: LoaderRequest) -> Loader:
    """Read a split with MindSpore's pipeline.

    Raises:
        DataError: The transforms do not end at a fixed size.
        UsageError: A setting or a transform cannot take effect here.
    """
    return PipelineLoader(request)


@final
class PipelineLoader:
    """Reads the images of one split with ``mindspore.dataset``."""

    def __init__(self, request: LoaderRequest) -> None:
        """Prepare to read; threads start with the first batch."""
        section = request.section
        if section.cache_gib > 0:
            raise UsageError(
                f"loader.cache_gib is {section.cache_gib}, but MindSpore's pipeline keeps no "
                "decoded images; set loader.cache_gib=0, or dataset.name=class_folders"
            )
        self._dataset = request.dataset
        self._transforms = tuple(request.transforms)
        self._seed = request.seed
        self._workers = min(section.workers, multiprocessing.cpu_count())
        self._workers_asked = section.workers
        self._prefetch = section.prefetch_batches
        self._damaged = DamagedImages(section, request.report_damaged)
        self._images = Images(request.dataset, self._transforms, request.report_noticed)
        self._differences = differences(self._transforms)
        self._threads: ThreadPoolExecutor | None = None
        self._running: set[Any] = set()
        self._is_random = bool(random_steps(self._transforms))
        operations(self._transforms)  # refuses what MindSpore does not have, before anything runs

    @property
    def transforms(self) -> Sequence[Transform]:
        """Steps from a decoded image to the network's input."""
        return self._transforms

    @property
    def stops_at_damage(self) -> bool:
        """Whether a damaged image ends the run."""
        return self._damaged.stop

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
        """Yield one batch per step of a shuffled epoch; see ``ImageLoader.train_batches``."""
        chosen = train_indices(
            len(self._dataset.labels),
            self._seed,
            epoch,
            batch_size=batch_size,
            steps=steps,
            rank=rank,
            world_size=world_size,
        )
        seed = pipeline_seed(self._seed, epoch, rank)
        with closing(self._batches(chosen, first_step, seed)) as batches:
            for batch, indices in zip(batches, chosen[first_step:], strict=True):
                yield fill_up(batch, len(indices))

    def eval_batches(
        self, batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> Generator[Batch, None, None]:
        """Yield every image once over all ranks, in order; see ``ImageLoader.eval_batches``."""
        check_not_random(self._transforms)
        chosen = eval_indices(
            len(self._dataset.labels), batch_size, rank=rank, world_size=world_size
        )
        seed = pipeline_seed(self._seed, 0, rank)  # nothing is drawn
        with closing(self._batches(chosen, 0, seed)) as batches:
            yield from (batch for batch in batches if len(batch.indices))

    def report(self) -> Mapping[str, Any]:
        """Return what is in effect, and in which way the pixels are not core's."""
        adjustments = []
        if self._workers < self._workers_asked:
            adjustments.append(
                f"loader.workers is {self._workers_asked}, and MindSpore allows no more than the "
                f"{self._workers} processors of this machine: {self._workers} are used"
            )
        return {
            "pipeline": f"mindspore.dataset {ms.__version__}",
            "workers": self._workers,
            "differences": self._differences,
            "adjustments": adjustments,
        }

    def close(self) -> None:
        """Stop all threads. Batches can be asked for again, which starts new ones."""
        for rows in list(self._running):
            self._stop(rows)
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None

    def _batches(
        self, chosen: Sequence[NDArray[np.int64]], first_step: int, seed: int
    ) -> Generator[Batch, None, None]:
        """Yield the batches from ``first_step`` on; all have one size, but the last."""
        begin = 0 if self._is_random else first_step
        if begin == len(chosen):
            return
        size, skipped, passed = len(chosen[0]), first_step - begin, 0
        source = self._source(np.concatenate(chosen[begin:]))
        rows = self._start(source, size, skip=skipped, seed=seed)
        try:
            for number, (images, indices) in enumerate(rows, start=skipped + 1):
                passed = number * size
                damaged = self._images.damaged_among(indices)
                self._images.noticed.tell()
                yield self._damaged.batch(images, indices, self._dataset.labels, damaged)
            self._images.noticed.tell_totals(len(source.order))
        except RuntimeError as error:
            self._explain(source.order[passed : source.handed_out], error)
            raise
        finally:
            self._stop(rows)

    def _source(self, order: NDArray[np.int64]) -> Source:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._workers, "runner-images")
        return Source(self._images, order, self._threads, self._workers)

    def _start(self, source: Source, batch_size: int, *, skip: int, seed: int) -> Any:
        """Return an iterator over batches of pixels and positions, as NumPy arrays."""
        rows = ms.dataset.GeneratorDataset(
            source,
            ["image", "index"],
            num_parallel_workers=1,
            python_multiprocessing=False,
            shuffle=False,
        )
        rows = rows.map(operations(self._transforms), ["image"], num_parallel_workers=self._workers)
        rows = rows.batch(batch_size, num_parallel_workers=1)
        if skip:
            rows = rows.skip(skip)
        with _settings(seed, self._prefetch):
            iterator = rows.create_tuple_iterator(num_epochs=1, output_numpy=True, do_copy=False)
        self._running.add(iterator)
        return iterator

    def _stop(self, rows: Any) -> None:
        rows.stop()
        self._running.discard(rows)

    def _explain(self, taken: NDArray[np.int64], error: RuntimeError) -> None:
        """Find the image on which the pipeline failed, among the last that it has taken.

        Raises:
            DataError: An image does not fit the transforms.
        """
        for index in reversed(taken.tolist()):
            reason = misfit(self._transforms, self._images.encoded(index))
            if reason is not None:
                raise DataError(f"{self._dataset.describe(index)}: {reason}") from error


@contextmanager
def _settings(seed: int, prefetch: int) -> Iterator[None]:
    """Set what MindSpore takes from its global configuration when it creates an iterator."""
    config = ms.dataset.config
    seed_before, prefetch_before = config.get_seed(), config.get_prefetch_size()
    # set_seed() seeds these two as well
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        config.set_seed(seed)
        config.set_prefetch_size(prefetch)
        yield
    finally:
        config.set_seed(seed_before)
        config.set_prefetch_size(prefetch_before)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def pipeline_seed(seed: int, epoch: int, rank: int) -> int:
    """Return the seed of the pipeline that augments an epoch on one rank.

    It is below 2**31 because MindSpore adds the number of the thread, and not below 2**30 because
    5489 means that there is no seed.
    """
    sequence = np.random.SeedSequence([seed, epoch, rank], spawn_key=_AUGMENTATION)
    return int(sequence.generate_state(1)[0]) % 2**30 + 2**30
