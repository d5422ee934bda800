"""The index of a large split: the same images, kept while they are as they were, and only then."""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from runner.data.image_files import ImageFiles
from runner.data.index import file as index_file
from runner.data.index import listing, sources
from runner.data.index.file import IndexFile, Key
from runner.data.index.paths import path_table
from runner.data.layouts.options import (
    ClassFoldersOptions,
    ClassFoldersWithListsOptions,
    FlatValLabelOptions,
    ListFileOptions,
)
from runner.data.plugin import runner_register_datasets
from runner.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN = {entry.name: entry.open for entry in runner_register_datasets()}
FILES = ("cat/b.JPEG", "cat/a.jpg", "cat/a/c.jpg", "dog/more/ü.PNG", "dog/notes.txt", "dog/z.png")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the index of every split, however recently its folders have changed."""
    monkeypatch.setenv("RUNNER_INDEX", str(tmp_path / "kept"))
    monkeypatch.setattr(sources, "SETTLED_S", 0)
    return tmp_path / "kept"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    touch(tmp_path / "data", *(f"{split}/{name}" for split in ("train", "val") for name in FILES))
    return tmp_path / "data"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def open_images(root: Path, split: str = "train", **options: Any) -> ImageFiles:
    images = OPEN["class_folders"](ClassFoldersOptions(root=str(root), **options), split)
    assert isinstance(images, ImageFiles)
    return images


def told(images: ImageFiles) -> tuple[str, str]:
    assert images.index is not None
    return images.index.source, images.index.reason


def everything(images: ImageFiles) -> tuple[object, ...]:
    names = [images.describe(position) for position in range(len(images.labels))]
    return names, images.labels.tolist(), images.classes, images.ignored_files, images.sha256()


def file_of(images: ImageFiles) -> Path:
    assert images.index is not None
    return Path(images.index.file)


def test_paths_are_what_was_put_in() -> None:
    paths = ["a.jpg", "x/ä b.jpg", "x/y//c", "/abs/d", "x/", "x/e\udcff.jpg", "x/f"]
    table = path_table(paths)
    assert [table[position] for position in range(len(table))] == paths
    assert table[-1] == "x/f"
    assert table.folders == ("", "x/", "x/y//", "/abs/")
    with pytest.raises(IndexError):
        table[7]
    assert len(path_table([])) == 0


def test_a_path_takes_a_few_bytes() -> None:
    table = path_table([f"n{i % 100:08}/n{i % 100:08}_{i}.JPEG" for i in range(10_000)])
    own = table.folder_of.nbytes + table.offsets.nbytes + len(table.names)
    assert own / len(table) < 25


def test_an_index_gives_the_same_images(root: Path, kept: Path) -> None:
    listed, cached = open_images(root), open_images(root)
    assert (told(listed), told(cached)) == (("listed", "there was no index"), ("cached", ""))
    assert everything(listed) == everything(cached)
    assert cached.classes == ("cat", "dog")
    assert cached.labels.dtype == np.uint8
    assert cached.ignored_files == 1
    assert [cached.read(position) for position in range(5)] == [
        f"train/{name}".encode() for name in ("cat/a.jpg", "cat/a/c.jpg", "cat/b.JPEG")
    ] + ["train/dog/more/ü.PNG".encode(), b"train/dog/z.png"]
    assert len(list(kept.glob("*.index"))) == 1
    assert told(open_images(root, "val")) == ("listed", "there was no index")
    assert told(open_images(root, extensions=["jpg", "png"])) == ("listed", "there was no index")


def test_the_fingerprint_is_as_it_always_was(root: Path, kept: Path) -> None:
    open_images(root)
    images = open_images(root)
    digest = hashlib.sha256("\0".join(images.classes).encode())
    digest.update(images.labels.astype(np.int64).tobytes())
    for position in range(len(images.labels)):
        digest.update(images.describe(position).rpartition("/")[2].encode())
    assert images.sha256() == digest.hexdigest()


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file is added": lambda root: touch(root, "train/dog/more/x.jpg"),
    "a file is removed": lambda root: (root / "train/cat/a/c.jpg").unlink(),
    "a file is renamed": lambda root: (root / "train/cat/a.jpg").rename(root / "train/cat/0.jpg"),
    "other files are added": lambda root: touch(root, "train/README"),
    "a class is added": lambda root: touch(root, "train/emu/x.jpg", "val/emu/x.jpg"),
    "times are put back": lambda root: _change_and_put_back(root / "train/dog"),
    "a folder is replaced": lambda root: _replace(root / "train/cat/a"),
    "a link leads elsewhere": lambda root: _lead_elsewhere(root / "train/cat/a"),
}


def _change_and_put_back(folder: Path) -> None:
    before = folder.stat()
    touch(folder, "new.jpg")
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(folder: Path) -> None:
    before = folder.stat()
    folder.rename(folder.with_name(".a"))
    touch(folder, "d.jpg")
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def _lead_elsewhere(folder: Path) -> None:
    folder.rename(folder.with_name(".a"))
    folder.symlink_to(".a")


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_listed_again(root: Path, kept: Path, change: str) -> None:
    open_images(root)
    CHANGES[change](root)
    images = open_images(root)
    source, reason = told(images)
    assert source == "listed"
    assert reason.endswith("has changed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNNER_INDEX", "none")
        plain = open_images(root)
    assert plain.index is None
    assert everything(images) == everything(plain)
    assert told(open_images(root)) == ("cached", "")


def test_the_other_split_counts_as_well(root: Path, kept: Path) -> None:
    open_images(root)
    touch(root, "val/emu/x.jpg")
    with pytest.raises(DataError, match="different classes"):
        open_images(root)


@pytest.mark.parametrize("position", [0, 10, 60, 200, -1, "cut", "empty", "longer"])
def test_a_damaged_index_is_made_anew(root: Path, kept: Path, position: int | str) -> None:
    expected = everything(open_images(root))
    file = file_of(open_images(root))
    content = bytearray(file.read_bytes())
    if isinstance(position, int):
        content[position] ^= 1
    else:
        content = {"cut": content[:-9], "empty": bytearray(), "longer": content + b"\0"}[position]
    file.write_bytes(content)
    images = open_images(root)
    source, reason = told(images)
    assert (source, "cannot be used" in reason) == ("listed", True)
    assert everything(images) == expected
    assert told(open_images(root)) == ("cached", "")


def test_an_index_of_other_data_or_another_format_is_not_used(root: Path, kept: Path) -> None:
    open_images(root)
    file = file_of(open_images(root))
    other = file_of(open_images(root, "val"))
    file.write_bytes(other.read_bytes())
    assert told(open_images(root)) == ("listed", "the index is of other data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_file, "FORMAT", index_file.FORMAT + 1)
        assert told(open_images(root)) == ("listed", "there was no index")


def test_what_may_change_without_a_trace_is_not_kept(
    root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reason() -> str:
        source, text = told(open_images(root))
        assert source == "listed"
        return text

    monkeypatch.setattr(sources, "SETTLED_S", 60)
    assert reason().endswith("has changed in the last 60 s")
    monkeypatch.setattr(sources, "SETTLED_S", 0)
    monkeypatch.setattr(sources, "TIMELESS", ("",))
    assert "file system may have made-up times" in reason()
    monkeypatch.undo()
    monkeypatch.setattr(sources, "SETTLED_S", 0)
    monkeypatch.setenv("RUNNER_INDEX", str(kept))
    os.utime(root / "train/dog/more", ns=(0, 0))
    assert "train/dog/more has no time of modification" in reason()
    (root / "train/cat/link").symlink_to("b.JPEG")
    assert "train/cat/link is a link, and may lead to a folder later" in reason()
    assert not list(kept.glob("*.index"))


def test_what_cannot_be_kept_is_told(root: Path, kept: Path) -> None:
    kept.write_text("a file is in the way")
    source, reason = told(open_images(root))
    assert source == "listed"
    assert reason.startswith("the index ")
    assert "not kept: " in reason


def test_a_full_disk_leaves_nothing(
    root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runner.storage.files.sync", full)
    assert "not kept: " in told(open_images(root))[1]
    assert [path.suffix for path in kept.iterdir()] == [".lock"]


def test_remains_of_killed_processes_go(root: Path, kept: Path) -> None:
    file = file_of(open_images(root))
    old, recent = (file.with_suffix(f".host.{number}.tmp") for number in (1, 2))
    for path in (old, recent):
        path.touch()
    os.utime(old, (0, 0))
    file.unlink()
    open_images(root)
    assert (old.exists(), recent.exists()) == (False, True)


def test_small_splits_leave_no_trace(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "SETTLED_S", 0)
    assert open_images(root).index is None
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(listing, "LEAST_IMAGES", 5)
    assert told(open_images(root)) == ("listed", "there was no index")
    file = file_of(open_images(root))
    assert file.parent == tmp_path / "cache/vision-runner/index"


def _list_and_tell(root: Path, ready: Any, results: Any) -> None:
    sources.SETTLED_S = 0
    ready.wait()
    images = open_images(root)
    results.put((told(images), everything(images)))


def test_one_process_lists_while_the_others_wait(root: Path, kept: Path) -> None:
    expected = everything(open_images(root))
    file = file_of(open_images(root))
    file.unlink()
    context = multiprocessing.get_context("spawn")
    ready, results = context.Event(), context.Queue()
    processes = [
        context.Process(target=_list_and_tell, args=(root, ready, results)) for _ in range(3)
    ]
    with file.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that all of them have to wait
        for process in processes:
            process.start()
        ready.set()
        _wait_for_waiters(file.with_suffix(".lock"), 3)
        _store_as_if_listed(root, file)
    outcomes = [results.get() for _ in processes]
    for process in processes:
        process.join()
    assert outcomes == [(("cached", ""), expected)] * 3


def _store_as_if_listed(root: Path, file: Path) -> None:
    """Do what the process that holds the lock does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IndexFile, "lock", lambda *_: False)
        open_images(root)
    assert file.exists()


def _wait_for_waiters(lock: Path, count: int) -> None:
    """Wait until the kernel lists as many processes that wait for a lock."""
    inode = f":{lock.stat().st_ino} "
    for _ in range(3000):
        lines = Path("/proc/locks").read_text().splitlines()
        if sum("->" in line and inode in line for line in lines) == count:
            return
        time.sleep(0.02)
    raise AssertionError("the processes have not come to wait in 60 s")


def test_a_long_text_file_is_read_by_one_process(
    root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "own.txt").write_text("train/cat/a.jpg 1\ntrain/dog/z.png 0\n" + "\n" * 1000)
    config = ListFileOptions(root=str(root), train_list="own.txt")
    opened = OPEN["list_file"](config, "train")
    assert isinstance(opened, ImageFiles)
    file, expected = file_of(opened), everything(opened)
    content = file.read_bytes()
    file.unlink()
    monkeypatch.setattr("runner.data.layouts.lists.read_list", None)  # it is not called here
    others: list[ImageFiles] = []
    with file.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(
            target=lambda: others.append(OPEN["list_file"](config, "train"))  # type: ignore[arg-type]
        )
        thread.start()
        _wait_for_waiters(file.with_suffix(".lock"), 1)
        file.write_bytes(content)
    thread.join()
    assert [everything(images) for images in others] == [expected]


def test_how_many_a_text_file_may_list_is_told_by_its_size(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    key = Key(layout="list_file", paths=[tmp_path, file, None])
    for size, many in ((99_999_999, True), (999_999, False)):
        with file.open("wb") as out:
            out.truncate(size)
        assert IndexFile(tmp_path, key, least_images=100_000).expects_many() == many


def test_those_who_waited_in_vain_list_at_the_same_time(
    root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SETTLED_S", 60)
    file = file_of(open_images(root))
    was_free = []

    def doubts(_: sources.Sources) -> str:
        with file.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if it is held
        was_free.append(True)
        return "a test"

    monkeypatch.setattr(sources.Sources, "doubts", doubts)
    with file.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=open_images, args=(root,))
        thread.start()
        _wait_for_waiters(file.with_suffix(".lock"), 1)
    thread.join()
    assert was_free


class TestLists:
    def test_a_list_file(self, root: Path, kept: Path) -> None:
        lines = ["train/cat/a.jpg 1", "train/dog/z.png 0", f"{root}/train/cat/b.JPEG 1"]
        (root / "own.txt").write_text("\n".join(lines))
        config = ListFileOptions(root=str(root), train_list="own.txt")
        self.check(lambda: OPEN["list_file"](config, "train"), root / "own.txt")

    def test_class_folders_with_lists(self, root: Path, kept: Path) -> None:
        (root / "train.txt").write_text("cat/a.jpg 0\ndog/z.png 1\n")
        config = ClassFoldersWithListsOptions(root=str(root))
        self.check(lambda: OPEN["class_folders_with_lists"](config, "train"), root / "val.txt")

    def test_labels_beside_a_folder(self, root: Path, kept: Path) -> None:
        touch(root, "flat/a.jpg", "flat/b.jpg")
        (root / "labels.txt").write_text("a.jpg 1\nb.jpg 0\n")
        config = FlatValLabelOptions(root=str(root), val="flat", labels="labels.txt")
        self.check(lambda: OPEN["flat_val_label"](config, "val"), root / "labels.txt")

    def check(self, open_it: Callable[[], Any], file: Path) -> None:
        """Check that the index gives the same, and is no longer used when a file changes."""
        first, second = open_it(), open_it()
        assert [told(first)[0], told(second)[0]] == ["listed", "cached"]
        assert everything(first) == everything(second)
        text = file.read_text() if file.exists() else "cat/a.jpg 0\ndog/z.png 1\n"
        file.write_text(text + "\n")
        third = open_it()
        assert told(third) == ("listed", f"{file} has changed")
        assert everything(third) == everything(first)


def test_the_header_is_readable(root: Path, kept: Path) -> None:
    """What another program would read: the layout that the module describes."""
    images = open_images(root)
    content = file_of(images).read_bytes()
    length = int.from_bytes(content[8:16], "little")
    header = json.loads(content[48 : 48 + length])
    assert header["key"]["layout"] == "class_folders"
    kind, count, start = header["arrays"]["labels"]
    labels = np.frombuffer(content, kind, count, 48 + length + start)
    assert labels.tolist() == images.labels.tolist()


def test_a_run_tells_how_its_images_were_found(project: Any, tmp_path: Path, kept: Path) -> None:
    random = np.random.default_rng(1)
    for name in (f"{s}/{c}/{n}.png" for s in ("train", "val") for c in "ab" for n in range(8)):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (10, 10, 3), np.uint8)).save(path)
    data = f"dataset={{name: class_folders, root: {tmp_path}/images}}"
    for source in ("listed", "cached"):
        outcome = project.run("--set", data, "--set", "train.epochs=1", "--runs-dir", source)
        assert outcome.code == 0, outcome.err
        assert f"train: 16 images {source} in " in outcome.err
        [folder] = (project.path / source).glob("*/*")
        told = [event for event in project.events(folder) if event["event"] == "data.indexed"]
        assert [(event["split"], event["source"]) for event in told] == [
            ("train", source),
            ("val", source),
        ]
