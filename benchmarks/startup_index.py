"""Start-up with as many image files as ImageNet-21k: listing, index, memory of each process.

    python benchmarks/startup_index.py --folder /dev/shm [--images 140000 1400000 14197122]

Makes class folders whose files are hard links to one empty file, named as those of ImageNet, and
removes them at the end. A link needs no inode of its own on a disk, but tmpfs counts it as one;
sizes that FOLDER has no room for are left out, and said so. As root, a tmpfs with enough of them
that nobody else sees is one command:

    unshare -m sh -c 'mount -t tmpfs -o size=8g,nr_inodes=16m tmpfs /mnt &&
        python benchmarks/startup_index.py --folder /mnt'

Every figure is taken in a process of its own, of folders that the system has just written and
holds in memory: a disk or a network adds the time to read them, once for each process that lists.

    strings   every process lists, and holds a string for each path and int64 labels
    listed    every process lists (RUNNER_INDEX=none)
    indexed   one process lists, writes the index and maps it
    cached    a process finds the index, checks that it is current, and maps it

Memory is what opening the split adds: `own` is memory of the process, and the rest of its RSS are
pages of the file that it maps, which all processes of a machine have in common; PSS divides them
among these. `order` is the time until the
images of the first steps of an epoch are known, for one of eight ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.data.index.sources import SETTLED_S

IMAGES = 14_197_122
CLASSES = 21_841
MODES = ("strings", "listed", "indexed", "cached")
RANKS = 8
BATCH = 4096
LINKS_OF_A_FILE = 60_000
"""ext4 allows 65,000."""


def make_tree(root: Path, images: int) -> None:
    """Make class folders of about 650 images, as ImageNet-21k has."""
    classes = max(images * CLASSES // IMAGES, 1)
    made = 0
    for number in range(classes):
        name = f"n{number:08d}"
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for position in range(images * number // classes, images * (number + 1) // classes):
            if made % LINKS_OF_A_FILE == 0:
                source = root / f"source_{made}"
                source.touch()
            os.link(source, f"{folder}/{name}_{position}.JPEG")
            made += 1


def memory() -> dict[str, int]:
    """Return the memory of this process in bytes, by the kernel's names."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}


def open_as(mode: str, root: Path) -> Any:
    """Open the split in one of the ways."""
    import numpy as np

    from runner.data.layouts.class_folders import open_class_folders
    from runner.data.layouts.images import IMAGE_ENDINGS, list_images, subfolders
    from runner.data.plugin import ClassFoldersOptions

    if mode != "strings":
        return open_class_folders(ClassFoldersOptions(root=str(root)), "train")
    paths, counts = [], []
    classes = subfolders(root / "train")
    for name in classes:
        found, _ = list_images(str(root / "train" / name), f"{name}/", IMAGE_ENDINGS)
        paths += found
        counts.append(len(found))
    return paths, np.repeat(np.arange(len(classes), dtype=np.int64), counts)


def measure(mode: str, root: Path) -> None:
    """Open the split in this process, print figures, and stay until told to go."""
    import numpy as np

    from runner.data import order, plugin  # noqa: F401  importing is not part of the figures

    np.arange(10).sum()
    before = memory()
    start, cpu = time.perf_counter(), time.process_time()
    split = open_as(mode, root)
    figures: dict[str, Any] = {
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
    }
    if mode != "strings":
        figures["source"] = split.index.source if split.index else "listed"
    print(json.dumps(figures), flush=True)
    sys.stdin.readline()  # all processes have opened it
    after = memory()
    added = {name: after[name] - before[name] for name in ("Rss", "Pss")}
    own = after["Anonymous"] - before["Anonymous"]
    print(json.dumps({"rss": added["Rss"], "pss": added["Pss"], "own": own}), flush=True)
    sys.stdin.readline()
    print(json.dumps({} if mode == "strings" else first_step(split)), flush=True)


def first_step(split: Any) -> dict[str, Any]:
    """Measure the time to the images of the first step, and to the fingerprint."""
    from runner.data import order

    start = time.process_time()
    images = len(split.labels)
    steps = order.train_indices(
        images, 1, 0, batch_size=BATCH, steps=images // BATCH, rank=RANKS - 1, world_size=RANKS
    )
    first = [split.describe(index) for index in steps[0].tolist()]
    figures = {"order_s": time.process_time() - start, "first": len(first)}
    start = time.process_time()
    split.sha256()
    return {**figures, "fingerprint_s": time.process_time() - start}


def run(mode: str, root: Path, count: int, index: Path) -> list[dict[str, Any]]:
    """Measure in as many processes at once, and return the figures of each."""
    if mode == "indexed":
        shutil.rmtree(index, ignore_errors=True)
    where = str(index) if mode in ("indexed", "cached") else "none"
    command = [sys.executable, __file__, "--folder", str(root), "--measure", mode]
    children = [
        subprocess.Popen(
            command,
            env={**os.environ, "RUNNER_INDEX": where},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    found: list[dict[str, Any]] = [{} for _ in children]
    for _ in range(3):
        for child, figures in zip(children, found, strict=True):
            assert child.stdout is not None
            figures.update(json.loads(child.stdout.readline()))
        for child in children:
            assert child.stdin is not None
            with suppress(BrokenPipeError):  # one that has said all
                child.stdin.write("\n")
                child.stdin.flush()
    for child in children:
        child.communicate()
    return found


def report(images: int, mode: str, found: list[dict[str, Any]], index: Path) -> dict[str, Any]:
    """Sum up the processes of one measurement, and print a line."""
    sums = {key: sum(one[key] for one in found) for key in ("cpu_s", "rss", "pss", "own")}
    row = {
        "images": images,
        "mode": mode,
        "processes": len(found),
        "seconds": max(one["seconds"] for one in found),
        "listed": sum(one.get("source", "listed") == "listed" for one in found),
        **sums,
        "order_s": statistics.median(one.get("order_s", 0) for one in found),
        "fingerprint_s": max(one.get("fingerprint_s", 0) for one in found),
        "index_bytes": sum(file.stat().st_size for file in index.glob("*.index")),
    }
    mib = {key: row[key] / len(found) / 2**20 for key in ("rss", "pss", "own")}
    print(
        f"| {images:,} | {mode} | {len(found)} | {row['listed']} | {row['seconds']:.2f} "
        f"| {row['cpu_s']:.2f} | {mib['rss']:.0f} | {mib['own']:.0f} | {mib['pss']:.0f} "
        f"| {row['order_s']:.2f} |",
        flush=True,
    )
    return row


def lacks(folder: Path, images: int) -> str:
    """Say what a folder has too little of for so many images."""
    system = os.statvfs(folder)
    inodes, free = system.f_favail, system.f_bavail * system.f_frsize
    is_tmpfs = any(
        line.split()[4] == str(folder) and " - tmpfs " in line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )
    needed = CLASSES + (images if is_tmpfs else 1000)
    if inodes < needed:
        return f"{inodes:,} inodes are free, {needed:,} needed"
    room = 60 * images
    return "" if is_tmpfs or free >= room else f"{free >> 20} MiB are free, {room >> 20} needed"


def compare(images: int, folder: Path) -> list[dict[str, Any]]:
    """Make a tree, measure, and remove it."""
    root, index = folder / "startup_index", folder / "startup_index_kept"
    rows = []
    try:
        start = time.perf_counter()
        make_tree(root, images)
        sys.stderr.write(f"{images:,} links made in {time.perf_counter() - start:.0f} s\n")
        time.sleep(SETTLED_S + 1)  # an index is kept of folders that have come to rest
        for mode in MODES:
            for count in (1, 2, RANKS) if mode in ("indexed", "cached") else (1,):
                rows.append(report(images, mode, run(mode, root, count, index), index))
    finally:
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(index, ignore_errors=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[140_000, 1_400_000, IMAGES])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", choices=MODES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.folder)
        return
    print(
        "| images | how | processes | of which list | s | CPU s | RSS MiB each | own MiB each "
        "| PSS MiB each | order s |\n" + "|---" * 10 + "|",
        flush=True,
    )
    rows = []
    for images in arguments.images:
        missing = lacks(arguments.folder, images)
        if missing:
            print(f"{images:,} images: left out, {arguments.folder} has no room: {missing}")
            continue
        rows += compare(images, arguments.folder)
    if arguments.output:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "rows": rows}
        arguments.output.write_text(json.dumps(machine, indent=2) + "\n")


if __name__ == "__main__":
    main()
