"""MindSpore's own pipeline: core's order and labels, its own pixels, and nothing left behind."""

from __future__ import annotations

import io
import os
import random
import re
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mindspore")

from runner.data import decode
from runner.data.layouts.class_folders import open_class_folders
from runner.data.layouts.options import ClassFoldersOptions
from runner.data.loader import ImageLoader
from runner.data.transforms.options import (
    CenterCrop,
    ColorJitter,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    Resize,
)
from runner.entries import DatasetEntry, LoaderRequest
from runner.errors import DataError, UsageError
from runner.plugins.loading import load
from runner.recipe.schema import LoaderSection
from runner.testing import check_dataset
from runner_mindspore.autoload import ms
from runner_mindspore.pipeline import open_loader, pipeline_seed

if TYPE_CHECKING:
    from runner.contracts import DamagedImage
    from runner.data.decode_options import Notice

COUNT = 37
TRAIN = [
    RandomResizedCrop(name="random_resized_crop", size=16),
    HorizontalFlip(name="horizontal_flip"),
    ColorJitter(name="color_jitter", brightness=0.4, contrast=0.4, saturation=0.4),
]
EVAL = [
    Resize(name="resize", shorter_side=20),
    CenterCrop(name="center_crop", size=16),
]


def photo(index, size=None):
    """Return a smooth image, as photographs are; on noise, every resizer differs."""
    generator = np.random.default_rng(index)
    width, height = size or (30 - index % 3, 24 + index % 5)
    small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, file_format="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path, monkeypatch):
    """Work in an empty folder, and find it empty afterwards."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Two classes of JPEG and PNG files, in both splits."""
    root = tmp_path_factory.mktemp("images")
    write(root)
    return root


def write(root, count=COUNT):
    for split in ("train", "val"):
        for index in range(count):
            name = f"{index:03}" + (".jpg" if index % 3 else ".png")
            file = root / split / ("cat" if index < count // 2 else "dog") / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(photo(index), "JPEG" if index % 3 else "PNG"))


def files(root, split="val"):
    return sorted((root / split).rglob("*.*"))


def request(root, transforms, split="train", seed=5, report=None, **section):
    options = ClassFoldersOptions(root=str(root))
    return LoaderRequest(
        dataset=open_class_folders(options, split),
        options=options,
        transforms=transforms,
        section=LoaderSection(**{"workers": 1, **section}),
        seed=seed,
        report_damaged=report or (lambda damaged: pytest.fail(str(damaged))),
    )


def core_loader(asked):
    return ImageLoader(
        asked.dataset,
        asked.transforms,
        asked.section,
        seed=asked.seed,
        report_damaged=asked.report_damaged,
    )


def threads():
    """Count the threads of this process, those of C++ as well."""
    return len(list(Path("/proc/self/task").iterdir()))


def falls_to(count):
    """Wait until there are no more threads; joined ones may be listed a little longer."""
    deadline = time.monotonic() + 20
    while threads() > count and time.monotonic() < deadline:
        time.sleep(0.01)
    return threads() <= count


def train(loader, epoch=0, batch_size=8, steps=5, **arguments):
    with closing(loader):
        return list(loader.train_batches(epoch, batch_size=batch_size, steps=steps, **arguments))


def evaluate(loader, batch_size=8, **arguments):
    with closing(loader):
        return list(loader.eval_batches(batch_size, **arguments))


def pixels(batches):
    return np.concatenate([batch.images for batch in batches])


def indices(batches):
    return np.concatenate([batch.indices for batch in batches])


def assert_same(one, other):
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first.indices, second.indices)
        np.testing.assert_array_equal(first.labels, second.labels)
        np.testing.assert_array_equal(first.images, second.images)


def assert_close(one, other, levels):
    difference = np.abs(pixels(one).astype(int) - pixels(other))
    assert difference.max() <= levels


class TestOrder:
    @pytest.mark.parametrize("epoch", [0, 1])
    @pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 3)])
    def test_it_is_that_of_cores_loader(self, intact, epoch, rank, world_size):
        asked = request(intact, TRAIN)
        own = train(open_loader(asked), epoch, rank=rank, world_size=world_size)
        core = train(core_loader(asked), epoch, rank=rank, world_size=world_size)
        assert len(own) == len(core) == 5  # the last batch has 5 images, of which 2 are rank 1's
        for batch, expected in zip(own, core, strict=True):
            np.testing.assert_array_equal(batch.indices, expected.indices)
            np.testing.assert_array_equal(batch.labels, expected.labels)
            assert batch.images.shape == expected.images.shape
            assert batch.images.dtype == np.uint8
            assert (batch.indices.dtype, batch.labels.dtype) == (np.int64, np.int64)

    def test_pixels_belong_to_their_index(self, intact):
        whole = [Resize(name="resize", exact=(24, 24), interpolation="bicubic")]
        asked = request(intact, whole, workers=min(2, os.cpu_count() or 1))
        for own, core in zip(train(open_loader(asked)), train(core_loader(asked)), strict=True):
            assert_close([own], [core], levels=1)

    @pytest.mark.parametrize("world_size", [1, 2, 3])
    def test_evaluation_sees_every_image_once(self, intact, world_size):
        asked = request(intact, EVAL, "val")
        ranks = [
            evaluate(open_loader(asked), rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        seen = [index for batches in ranks for index in indices(batches).tolist()]
        assert seen == list(range(COUNT))
        labels = [label for batches in ranks for batch in batches for label in batch.labels]
        assert labels == asked.dataset.labels.tolist()

    def test_a_rank_without_images_gets_no_batch(self, intact, tmp_path):
        write(tmp_path, count=2)
        asked = request(tmp_path, EVAL, "val")
        assert evaluate(open_loader(asked), rank=0, world_size=3) == []


class TestAugmentation:
    def test_it_repeats(self, intact):
        asked = request(intact, TRAIN)
        assert_same(train(open_loader(asked)), train(open_loader(asked)))

    def test_it_depends_on_seed_epoch_and_rank(self, intact):
        kinds = [
            train(open_loader(request(intact, TRAIN, seed=seed)), epoch)
            for seed, epoch in ((5, 0), (5, 1), (6, 0))
        ]
        by_index = [pixels(batches)[indices(batches).argsort()] for batches in kinds]
        assert all(
            not np.array_equal(one, other)
            for number, one in enumerate(by_index)
            for other in by_index[:number]
        )
        assert pipeline_seed(5, 0, 0) != pipeline_seed(5, 0, 1)

    def test_seeds_are_never_the_one_that_means_none(self):
        seeds = {pipeline_seed(seed, epoch, 0) for seed in range(20) for epoch in range(20)}
        assert len(seeds) == 400
        assert min(seeds) >= 2**30
        assert max(seeds) < 2**31

    @pytest.mark.parametrize("first_step", [1, 3, 4])
    def test_a_resume_continues_with_the_same_pixels(self, intact, first_step):
        asked = request(intact, TRAIN, workers=min(2, os.cpu_count() or 1))
        straight = train(open_loader(asked), 1)
        assert_same(straight[first_step:], train(open_loader(asked), 1, first_step=first_step))

    def test_a_resume_without_random_steps_reads_only_the_rest(self, intact, monkeypatch):
        asked = request(intact, EVAL)
        straight = train(open_loader(asked))
        reads = []
        read = decode.read

        def noting(dataset, index):
            reads.append(index)
            return read(dataset, index)

        monkeypatch.setattr("runner_mindspore.encoded.read", noting)
        assert_same(straight[4:], train(open_loader(asked), first_step=4))
        assert sorted(reads) == sorted(straight[4].indices.tolist())

    def test_random_crops_lie_anywhere_in_the_padded_image(self, tmp_path):
        file = tmp_path / "train" / "cat" / "0.png"
        file.parent.mkdir(parents=True)
        ramp = np.zeros((16, 16, 3), np.uint8)
        ramp[..., 0], ramp[..., 1] = np.arange(1, 17), np.arange(1, 17)[:, None]
        file.write_bytes(encoded(Image.fromarray(ramp), "PNG"))
        asked = request(tmp_path, [RandomCrop(name="random_crop", size=16, padding=2)])
        offsets = set()
        for epoch in range(60):
            [batch] = train(open_loader(asked), epoch, batch_size=1, steps=1)
            offsets.add(tuple((batch.images[0, 8, 8, :2].astype(int) - 9).tolist()))
        assert {x for x, _ in offsets} == {y for _, y in offsets} == {-2, -1, 0, 1, 2}


class TestPixels:
    @pytest.mark.parametrize(
        ("transforms", "levels"),
        [
            ([CenterCrop(name="center_crop", size=16), HorizontalFlip(name="horizontal_flip")], 0),
            ([Resize(name="resize", exact=(19, 17), interpolation="bicubic")], 1),
            ([Resize(name="resize", exact=(90, 80))], 1),
            (
                [
                    Resize(name="resize", shorter_side=12, interpolation="bicubic"),
                    Resize(name="resize", exact=(20, 20), interpolation="bicubic"),
                ],
                2,
            ),
            (
                [
                    Resize(name="resize", exact=(24, 24), interpolation="bicubic"),
                    RandomResizedCrop(
                        name="random_resized_crop",
                        size=20,
                        scale=(1.0, 1.0),
                        ratio=(1.0, 1.0),
                        interpolation="bicubic",
                    ),
                ],
                2,
            ),
        ],
        ids=["crop, flip", "bicubic", "enlarge", "shorter side", "resized crop"],
    )
    def test_they_are_cores_where_the_filters_agree(self, tmp_path, transforms, levels):
        for index in range(6):
            file = tmp_path / "train" / "cat" / f"{index}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(photo(index, (28, 20 + 2 * index))))
        certain = [
            HorizontalFlip(name="horizontal_flip", probability=1.0)
            if isinstance(step, HorizontalFlip)
            else step
            for step in transforms
        ]
        asked = request(tmp_path, certain)
        own, core = (
            train(open_one(asked), batch_size=6, steps=1) for open_one in (open_loader, core_loader)
        )
        assert_close(own, core, levels)

    def test_a_bilinear_reduction_is_not_antialiased_which_the_report_says(self, intact):
        asked = request(intact, EVAL, "val")
        own, core = evaluate(open_loader(asked)), evaluate(core_loader(asked))
        difference = np.abs(pixels(own).astype(int) - pixels(core))
        assert 0 < difference.mean() < 6
        assert open_loader(asked).report()["differences"] == [
            "center_crop: offsets are rounded down",
            "resize: bilinear without antialiasing",
        ]

    def test_where_nothing_differs_the_report_says_nothing(self, intact):
        exact = [Resize(name="resize", exact=(16, 16), interpolation="bicubic")]
        assert open_loader(request(intact, exact)).report()["differences"] == []


class TestRefusals:
    def test_a_transform_that_mindspore_does_not_have(self, intact):
        with pytest.raises(UsageError, match=r"no transform 'solarize'.*class_folders"):
            open_loader(request(intact, [*EVAL, SimpleNamespace(name="solarize")]))

    def test_transforms_without_a_fixed_size(self, intact):
        with pytest.raises(DataError, match="do not end at a fixed size"):
            open_loader(request(intact, EVAL[:1]))

    def test_random_steps_in_evaluation(self, intact):
        with pytest.raises(DataError, match="random steps: random_resized_crop"):
            evaluate(open_loader(request(intact, TRAIN)))

    def test_a_cache_that_would_have_no_effect(self, intact):
        with pytest.raises(UsageError, match=r"loader\.cache_gib is 0\.5, but"):
            open_loader(request(intact, EVAL, cache_gib=0.5))

    def test_an_image_that_does_not_fit(self, intact):
        large = [RandomCrop(name="random_crop", size=64)]
        with pytest.raises(DataError, match=r"\.(jpg|png): RandomCrop: .*crop size is bigger"):
            train(open_loader(request(intact, large)))


def truncated(content):
    return content[: len(content) // 2]


def broken_table(content):
    """Return a JPEG whose Huffman table MindSpore's decoder would read beyond its end."""
    start = content.index(b"\xff\xc4") + 5
    return content[:start] + b"\xff" * 16 + content[start + 16 :]


def without_scan(content):
    """Return a JPEG of headers only, for which MindSpore's decoder would divide by zero."""
    return content[: content.index(b"\xff\xda")] + b"\xff\xd9"


def wrong_checksum(content):
    """Return a PNG that Pillow reads and MindSpore does not."""
    return content[:-1] + bytes([content[-1] ^ 255])


DAMAGE = {
    "truncated JPEG": (7, truncated, "cannot be decoded: .*[Tt]runcated"),
    "JPEG with a broken table": (8, broken_table, "cannot be decoded"),
    "JPEG without a scan": (10, without_scan, "cannot be decoded"),
    "truncated PNG": (9, truncated, "cannot be decoded"),
    "empty": (10, lambda _: b"", "the file is empty"),
    "text": (11, lambda _: b"hello", "not an image"),
    "GIF": (13, lambda _: encoded(photo(1), "GIF"), "MindSpore does not decode GIF .*; save"),
    "WebP": (14, lambda _: encoded(photo(1), "WEBP"), "MindSpore does not decode WEBP .*; save"),
}


class TestDamage:
    @pytest.fixture(params=DAMAGE.values(), ids=list(DAMAGE))
    def damaged(self, request, tmp_path):
        index, damage, message = request.param
        write(tmp_path)
        for split in ("train", "val"):
            file = files(tmp_path, split)[index]
            file.write_bytes(damage(file.read_bytes()))
        return tmp_path, index, message

    def test_it_ends_the_run_at_the_image(self, damaged):
        root, index, message = damaged
        asked = request(root, EVAL, "val")
        with closing(open_loader(asked)) as loader, closing(loader.eval_batches(4)) as batches:
            for _ in range(index // 4):
                next(batches)
            with pytest.raises(DataError, match=f"{files(root)[index]}: .*{message}"):
                next(batches)

    def test_it_is_left_out_counted_and_nothing_else_changes(self, damaged):
        root, index, message = damaged
        found: list[DamagedImage] = []
        skipping = {"damaged_images": "skip", "max_damaged": 1, "report": found.append}
        loader = open_loader(request(root, EVAL, "val", **skipping))
        with closing(loader):
            twice = [list(loader.eval_batches(8)) for _ in range(2)]
        [image] = found
        assert image.index == index
        assert image.description == str(files(root)[index])
        assert re.search(message, image.reason)
        assert indices(twice[0]).tolist() == [i for i in range(COUNT) if i != index]
        assert [len(batch.indices) for batch in twice[0]].count(7) == 1
        assert_same(*twice)

    def test_training_and_its_resume_put_the_same_images_in_its_place(self, tmp_path):
        write(tmp_path)
        file = files(tmp_path, "train")[7]
        file.write_bytes(truncated(file.read_bytes()))
        found: list[DamagedImage] = []
        skipping = {"damaged_images": "skip", "max_damaged": 1, "report": found.append}
        loader = open_loader(request(tmp_path, TRAIN, **skipping))
        with closing(loader):
            first, second = (list(loader.train_batches(0, batch_size=8, steps=5)) for _ in range(2))
        assert_same(first, second)
        assert set(indices(first).tolist()) == {i for i in range(COUNT) if i != 7}
        assert len(indices(first)) == COUNT
        assert [image.index for image in found] == [7]
        resumed = train(open_loader(request(tmp_path, TRAIN, **skipping)), first_step=3)
        assert_same(first[3:], resumed)

    def test_a_batch_of_nothing_else_ends_training(self, tmp_path):
        write(tmp_path)
        for file in files(tmp_path, "train"):
            file.write_bytes(b"")
        skipping = {"damaged_images": "skip", "max_damaged": 99, "report": lambda _: None}
        with pytest.raises(DataError, match="every image of a batch is damaged"):
            train(open_loader(request(tmp_path, TRAIN, **skipping)))

    def test_too_many_end_the_run(self, tmp_path):
        write(tmp_path)
        for index in (4, 7):
            file = files(tmp_path)[index]
            file.write_bytes(truncated(file.read_bytes()))
        found: list[DamagedImage] = []
        skipping = {"damaged_images": "skip", "max_damaged": 1, "report": found.append}
        with pytest.raises(DataError, match=r"2 damaged images, more than loader\.max_damaged = 1"):
            evaluate(open_loader(request(tmp_path, EVAL, "val", **skipping)))
        assert [image.index for image in found] == [4, 7]

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path):
        write(tmp_path)
        asked = request(tmp_path, EVAL, "val")
        files(tmp_path)[3].unlink()
        with pytest.raises(DataError, match=r"003\.png: cannot be read: No such file"):
            evaluate(open_loader(asked))

    def test_what_only_mindspore_does_not_decode_is_named(self, tmp_path):
        write(tmp_path)
        file = files(tmp_path)[9]
        file.write_bytes(wrong_checksum(file.read_bytes()))
        asked = request(tmp_path, EVAL, "val")
        assert len(indices(evaluate(core_loader(asked)))) == COUNT
        with pytest.raises(
            DataError, match=r"009\.png: MindSpore cannot decode it: .*failed; save"
        ):
            evaluate(open_loader(asked))

    def test_a_picture_that_lies_about_its_format_is_read(self, tmp_path):
        write(tmp_path)
        for index, kind in ((4, "PNG"), (5, "BMP"), (7, "TIFF"), (8, "PPM")):
            files(tmp_path)[index].write_bytes(encoded(photo(index), kind))
        crop = [CenterCrop(name="center_crop", size=16)]
        asked = request(tmp_path, crop, "val")
        assert indices(evaluate(open_loader(asked))).tolist() == list(range(COUNT))

    def test_images_are_checked_once(self, intact, monkeypatch):
        checked = []
        check = decode.check

        def noting(content, description, notice):
            checked.append(description)
            return check(content, description, notice)

        monkeypatch.setattr("runner_mindspore.encoded.check", noting)
        with closing(open_loader(request(intact, TRAIN))) as loader:
            for epoch in range(2):
                assert len(list(loader.train_batches(epoch, batch_size=8, steps=5))) == 5
        assert len(checked) == len(set(checked)) == COUNT


class TestTurnedImages:
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
    def test_they_are_left_as_core_leaves_them_and_are_counted(self, tmp_path, file_format):
        write(tmp_path)
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = [path for path in files(tmp_path) if path.suffix == ".jpg"]
        for path in turned:
            photo(0, (40, 30)).save(path, file_format, exif=exif, quality=95)
        told: list[Notice] = []
        asked = replace(
            request(tmp_path, [Resize(name="resize", exact=(30, 40))], "val"),
            report_noticed=told.append,
        )
        with closing(open_loader(asked)) as loader, closing(core_loader(asked)) as core:
            for _ in range(2):
                pairs = zip(loader.eval_batches(4), core.eval_batches(4), strict=True)
                for own, expected in pairs:
                    difference = own.images.astype(int) - expected.images.astype(int)
                    assert abs(difference).max() <= 2
        assert [notice.images for notice in told] == [None, len(turned)]


class TestProcess:
    def test_workers_are_limited_to_the_processors_and_it_is_reported(self, intact):
        cores = os.cpu_count() or 1
        loader = open_loader(request(intact, TRAIN, workers=cores + 5))
        assert len(indices(train(loader))) == COUNT
        report = loader.report()
        assert report["workers"] == cores
        [adjustment] = report["adjustments"]
        assert f"loader.workers is {cores + 5}" in adjustment
        assert f"{cores} are used" in adjustment

    def test_what_is_asked_for_is_reported_without_adjustment(self, intact):
        report = open_loader(request(intact, TRAIN)).report()
        assert report["workers"] == 1
        assert report["adjustments"] == []
        assert report["pipeline"] == f"mindspore.dataset {ms.__version__}"

    def test_global_settings_and_random_states_stay(self, intact):
        config = ms.dataset.config
        before = (config.get_seed(), config.get_prefetch_size())
        random.seed(1)
        np.random.seed(1)
        expected = (random.random(), np.random.random())
        random.seed(1)
        np.random.seed(1)
        train(open_loader(request(intact, TRAIN)))
        assert (random.random(), np.random.random()) == expected
        assert (config.get_seed(), config.get_prefetch_size()) == before

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads with /proc")
    def test_no_thread_is_left_when_the_consumer_stops_early(self, intact):
        loader = open_loader(request(intact, TRAIN))
        train(loader)  # what the first pipeline of the process starts stays
        before = threads()
        batches = loader.train_batches(0, batch_size=2, steps=18)
        next(batches)
        assert threads() > before
        batches.close()
        loader.close()
        assert falls_to(before)

    def test_closing_the_loader_stops_a_pipeline_that_is_read(self, intact):
        loader = open_loader(request(intact, TRAIN))
        batches = loader.train_batches(0, batch_size=2, steps=18)
        next(batches)
        before = threads()
        loader.close()
        assert falls_to(before - 1)
        batches.close()
        assert len(indices(train(loader))) == COUNT  # closed loaders begin again

    def test_batches_stay_as_they_were_while_others_are_read(self, intact):
        loader = open_loader(request(intact, TRAIN))
        batches = loader.train_batches(0, batch_size=4, steps=9)
        with closing(loader), closing(batches):
            first = next(batches)
            copy = first.images.copy()
            assert len(list(batches)) == 8
        np.testing.assert_array_equal(first.images, copy)


def test_the_entry_is_a_dataset_of_this_framework_with_the_keys_of_class_folders(intact):
    registry = load()
    entry, core = (
        registry.find(DatasetEntry, name, "mindspore").entry
        for name in ("mindspore_folders", "class_folders")
    )
    options = entry.config(root=str(intact))
    check_dataset(entry, options)
    for split in ("train", "val"):
        own, expected = entry.open(options, split), core.open(options, split)
        assert own.classes == expected.classes
        np.testing.assert_array_equal(own.labels, expected.labels)
        names = range(len(own.labels))
        assert [own.describe(i) for i in names] == [expected.describe(i) for i in names]
    assert entry.open_loader is not None
    with closing(entry.open_loader(request(intact, EVAL, "val"))) as loader:
        assert loader.transforms == tuple(EVAL)
        assert loader.stops_at_damage
