from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest
from PIL import Image

from runner.data.loader import ImageLoader
from runner.data.order import epoch_order
from runner.data.samples import sample_bytes
from runner.data.transforms.options import (
    CenterCrop,
    ColorJitter,
    HorizontalFlip,
    RandomResizedCrop,
    Resize,
    Transform,
)
from runner.errors import DataError
from runner.recipe.schema import LoaderSection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from runner.contracts import Batch, DamagedImage

TRAIN: list[Transform] = [
    RandomResizedCrop(name="random_resized_crop", size=16),
    HorizontalFlip(name="horizontal_flip"),
    ColorJitter(name="color_jitter", brightness=0.4, contrast=0.4, saturation=0.4),
]
EVAL: list[Transform] = [
    Resize(name="resize", shorter_side=20),
    CenterCrop(name="center_crop", size=16),
]


def encoded(index: int, file_format: str = "JPEG") -> bytes:
    random = np.random.default_rng(index)
    pixels = random.integers(0, 256, (24 + index % 5, 30 - index % 3, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


@final
class Images:
    """Encoded images in memory, some of which can be replaced."""

    def __init__(self, count: int = 37) -> None:
        self.content: list[bytes | NDArray[np.uint8] | Exception] = [
            encoded(index) for index in range(count)
        ]
        self.reads: list[int] = []
        self.threads: set[str] = set()

    @property
    def classes(self) -> Sequence[str]:
        return ("a", "b", "c")

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.arange(len(self.content), dtype=np.int64) % 3

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        self.reads.append(index)
        self.threads.add(threading.current_thread().name)
        content = self.content[index]
        if isinstance(content, Exception):
            raise content
        return content

    def describe(self, index: int) -> str:
        return f"image-{index}.jpg"


def loader(
    dataset: Images,
    transforms: Sequence[Transform] = TRAIN,
    *,
    seed: int = 5,
    report: Callable[[DamagedImage], None] = lambda image: None,
    **section: Any,
) -> ImageLoader:
    return ImageLoader(
        dataset, transforms, LoaderSection(**section), seed=seed, report_damaged=report
    )


def same(first: Iterable[Batch], second: Iterable[Batch]) -> bool:
    return all(
        np.array_equal(a.images, b.images)
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


def test_a_batch_is_a_part_of_the_order() -> None:
    dataset = Images()
    batches = list(loader(dataset).train_batches(2, batch_size=8, steps=4))
    assert [batch.images.shape for batch in batches] == [(8, 16, 16, 3)] * 4
    assert batches[0].images.dtype == np.uint8
    indices = np.concatenate([batch.indices for batch in batches])
    assert np.array_equal(indices, epoch_order(37, 5, 2)[:32])
    assert np.array_equal(batches[1].labels, dataset.labels[batches[1].indices])


def test_the_last_batch_is_smaller_when_it_is_kept() -> None:
    batches = list(loader(Images()).train_batches(0, batch_size=8, steps=5))
    assert [len(batch.labels) for batch in batches] == [8, 8, 8, 8, 5]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("prefetch_batches", [1, 3])
def test_threads_and_prefetch_change_nothing(workers: int, prefetch_batches: int) -> None:
    expected = loader(Images(), workers=1).train_batches(1, batch_size=9, steps=4)
    other = loader(Images(), workers=workers, prefetch_batches=prefetch_batches)
    assert same(expected, other.train_batches(1, batch_size=9, steps=4))
    other.close()


def test_epochs_and_seeds_differ() -> None:
    def first(epoch: int, seed: int) -> bytes:
        reader = loader(Images(), seed=seed)
        return next(reader.train_batches(epoch, batch_size=8, steps=1)).images.tobytes()

    assert len({first(0, 5), first(1, 5), first(0, 6)}) == 3


def test_resuming_continues_at_the_step_and_reads_nothing_before() -> None:
    whole = list(loader(Images()).train_batches(3, batch_size=8, steps=4))
    dataset = Images()
    rest = list(loader(dataset).train_batches(3, batch_size=8, steps=4, first_step=2))
    assert same(whole[2:], rest)
    assert sorted(dataset.reads) == sorted(np.concatenate([b.indices for b in rest]).tolist())
    assert list(loader(dataset).train_batches(3, batch_size=8, steps=4, first_step=4)) == []


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_every_batch(world_size: int) -> None:
    whole = list(loader(Images()).train_batches(0, batch_size=12, steps=3))
    ranks = [
        list(
            loader(Images()).train_batches(
                0, batch_size=12, steps=3, rank=rank, world_size=world_size
            )
        )
        for rank in range(world_size)
    ]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert np.array_equal(np.concatenate([part.images for part in parts]), batch.images)
        assert np.array_equal(np.concatenate([part.indices for part in parts]), batch.indices)


def test_a_last_batch_is_filled_up_until_ranks_share_it_evenly() -> None:
    ranks = [
        list(loader(Images(33)).train_batches(0, batch_size=8, steps=5, rank=rank, world_size=4))
        for rank in range(4)
    ]
    assert [[len(batch.labels) for batch in batches] for batches in ranks] == [[2, 2, 2, 2, 1]] * 4
    order = epoch_order(33, 5, 0).tolist()
    last = np.concatenate([batches[-1].indices for batches in ranks])
    assert last.tolist() == [order[32], *order[:3]]


def test_a_batch_with_fewer_images_than_ranks_is_refused() -> None:
    batches = loader(Images(1)).train_batches(0, batch_size=8, steps=1, world_size=4)
    with pytest.raises(DataError, match=r"step 0 .* has 2 images for 4 devices; .* drop"):
        list(batches)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_sees_every_image_once(world_size: int) -> None:
    batches = [
        batch
        for rank in range(world_size)
        for batch in loader(Images(), EVAL).eval_batches(8, rank=rank, world_size=world_size)
    ]
    indices = np.concatenate([batch.indices for batch in batches])
    assert indices.tolist() == list(range(37))
    expected = next(loader(Images(), EVAL, workers=1).eval_batches(37))
    assert np.array_equal(np.concatenate([batch.images for batch in batches]), expected.images)


def test_random_steps_are_refused_in_evaluation() -> None:
    with pytest.raises(DataError, match="random steps: random_resized_crop, horizontal_flip"):
        list(loader(Images()).eval_batches(8))


def test_images_must_leave_with_one_size() -> None:
    with pytest.raises(DataError, match=r"do not end at a fixed size; add \{name: center_crop"):
        loader(Images(), EVAL[:1])


class TestDamagedImages:
    def damaged(self, *indices: int) -> Images:
        dataset = Images()
        for index in indices:
            dataset.content[index] = encoded(index)[:300]
        return dataset

    def test_stop_names_the_image_and_the_way_out(self) -> None:
        batches = loader(self.damaged(9), EVAL).eval_batches(8)
        assert next(batches).indices.tolist() == list(range(8))
        with pytest.raises(DataError, match=r"^image-9.jpg: .*[Tt]runcated.*damaged_images=skip"):
            next(batches)

    def test_skip_leaves_them_out_and_reports_each_once(self) -> None:
        reported: list[DamagedImage] = []
        reader = loader(
            self.damaged(3, 20),
            EVAL,
            damaged_images="skip",
            max_damaged=2,
            report=reported.append,
        )
        for _ in range(2):
            batches = list(reader.eval_batches(8))
            assert [len(batch.images) for batch in batches] == [7, 8, 7, 8, 5]
        assert [image.index for image in reported] == [3, 20]
        assert reported[0].description == "image-3.jpg"
        assert reader.damaged == tuple(reported)
        kept = np.concatenate([batch.indices for batch in batches])
        expected = next(loader(Images(), EVAL).eval_batches(37)).images
        images = np.concatenate([batch.images for batch in batches])
        assert np.array_equal(images, expected[kept])

    def test_too_many_stop_and_are_listed(self) -> None:
        reader = loader(self.damaged(3, 4, 20), EVAL, damaged_images="skip", max_damaged=2)
        with pytest.raises(DataError, match=r"3 damaged .* loader.max_damaged = 2") as caught:
            list(reader.eval_batches(8))
        assert [f"image-{i}.jpg: " in str(caught.value) for i in (3, 4, 20)] == [True] * 3

    def test_a_file_that_cannot_be_read_is_damaged(self) -> None:
        dataset = Images()
        dataset.content[2] = FileNotFoundError(2, "No such file or directory")
        reader = loader(dataset, EVAL)
        with pytest.raises(DataError, match=r"image-2.jpg: cannot be read: No such file"):
            list(reader.eval_batches(8))

    def test_evaluation_goes_on_without_a_batch_of_damaged_images(self) -> None:
        reader = loader(self.damaged(0, 1), EVAL, damaged_images="skip", max_damaged=2)
        assert sum(len(batch.indices) for batch in reader.eval_batches(2)) == 35

    def test_training_fills_the_batch_up_with_what_is_left_of_it(self) -> None:
        order = epoch_order(37, 5, 0).tolist()
        damaged = self.damaged(order[1], order[9])
        reader = loader(damaged, TRAIN, damaged_images="skip", max_damaged=2)
        batches = list(reader.train_batches(0, batch_size=4, steps=9, first_step=0))
        assert {len(batch.indices) for batch in batches} == {4}
        assert batches[0].indices.tolist() == [order[0], order[2], order[3], order[0]]
        assert batches[2].indices.tolist() == [order[8], order[10], order[11], order[8]]
        first = batches[0]
        assert np.array_equal(first.images[0], first.images[3])
        assert first.labels[0] == first.labels[3]

    def test_training_does_not_go_on_without_a_whole_batch(self) -> None:
        damaged = self.damaged(*epoch_order(37, 5, 0)[:2].tolist())
        reader = loader(damaged, TRAIN, damaged_images="skip", max_damaged=2)
        with pytest.raises(DataError, match="every image of a batch is damaged"):
            list(reader.train_batches(0, batch_size=2, steps=2))


def test_an_error_of_a_dataset_names_the_image() -> None:
    dataset = Images()
    dataset.content[30] = RuntimeError("no such key")
    batches = loader(dataset, EVAL).eval_batches(8)
    assert [len(next(batches).labels) for _ in range(3)] == [8, 8, 8]
    with pytest.raises(DataError, match=r"image-30.jpg: RuntimeError: no such key") as caught:
        next(batches)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_the_cache_holds_what_fits_and_changes_no_pixel() -> None:
    plain = [list(loader(Images()).train_batches(e, batch_size=8, steps=4)) for e in range(2)]
    dataset = Images()
    image_bytes = 30 * 28 * 3
    cached = loader(dataset, cache_gib=10 * image_bytes / 2**30)
    for epoch in range(2):
        assert same(plain[epoch], cached.train_batches(epoch, batch_size=8, steps=4))
    assert 10 <= cached.cache.images < 20
    assert cached.cache.bytes <= 10 * image_bytes
    assert 0 < cached.cache.hits <= cached.cache.images
    assert len(dataset.reads) == 64 - cached.cache.hits
    everything = loader(Images(), cache_gib=1)
    for epoch in range(2):
        assert same(plain[epoch], everything.train_batches(epoch, batch_size=8, steps=4))


def test_a_consumer_may_leave_early() -> None:
    before = set(threading.enumerate())
    dataset = Images()
    reader = loader(dataset, prefetch_batches=2)
    batches = reader.train_batches(0, batch_size=4, steps=9)
    next(batches)
    batches.close()
    reads = len(dataset.reads)
    assert reads <= 4 * 4
    reader.close()
    assert len(dataset.reads) == reads
    assert set(threading.enumerate()) <= before
    # A closed loader starts again when it is asked to.
    assert len(list(reader.train_batches(0, batch_size=4, steps=2))) == 2
    reader.close()


def test_a_loader_may_be_closed_before_its_batches() -> None:
    reader = loader(Images(), prefetch_batches=4, workers=1)
    batches = reader.train_batches(0, batch_size=4, steps=9)
    next(batches)
    reader.close()
    batches.close()  # must not wait for what the closed threads will never report


def test_batches_are_read_ahead_but_not_far() -> None:
    dataset = Images()
    reader = loader(dataset, EVAL, prefetch_batches=2)
    batches = reader.eval_batches(4)
    next(batches)
    deadline = threading.Event()
    for _ in range(1000):
        if len(dataset.reads) == 12:
            break
        deadline.wait(0.02)
    deadline.wait(0.05)
    assert sorted(dataset.reads) == list(range(12))
    assert any(name.startswith("runner-images") for name in dataset.threads)
    batches.close()
    reader.close()


def test_pixels_are_taken_as_they_are() -> None:
    dataset = Images(2)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    dataset.content = [pixels, pixels.copy()]
    batch = next(loader(dataset, EVAL[1:]).eval_batches(2))
    assert np.array_equal(batch.images[0], pixels)


def test_samples_keep_their_bytes_or_become_png() -> None:
    dataset = Images(3)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    dataset.content[1:] = [encoded(1, "WEBP"), pixels]
    assert sample_bytes(dataset, 0) == (dataset.content[0], ".jpg")
    assert sample_bytes(dataset, 1)[1] == ".webp"
    data, suffix = sample_bytes(dataset, 2)
    assert suffix == ".png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
