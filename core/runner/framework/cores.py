"""The cores that this process may use: those it may run on, and what its container's quota allows.

``docker --cpus`` and the CPU limits of Kubernetes leave every core in sight and take time away:
with a thread for each core, all of them wait most of the time. Linux tells the quota in control
groups, of version 1 (``cpu.cfs_quota_us``) or 2 (``cpu.max``).
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator


def available_cores() -> int:
    """Return how many threads this process may let compute at the same time, at least 1.

    A part of a core counts for nothing: threads of one operation wait for each other.
    """
    cores, quota = visible_cores(), cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def threads_asked_for() -> int | None:
    """Return the threads that ``OMP_NUM_THREADS`` asks for; ``None`` if it asks for no number."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) or None if first.isdecimal() else None


def visible_cores() -> int:
    """Return how many cores this process may run on: all where the system knows no limit."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(proc: Path = Path("/proc/self")) -> float | None:
    """Return the cores' worth of time that control groups allow; ``None`` where there is no limit.

    Args:
        proc: What the kernel tells of this process.
    """
    found = (quota for group in groups("cpu", proc) for quota in _quotas(group))
    return min(found, default=None)


def check_threads(count: int) -> None:
    """Try whether this process may start the threads of a library that ends it where it cannot.

    Args:
        count: Threads that compute, the calling one included.

    Raises:
        DeviceError: A limit of the system or the container is lower.
    """
    before, may_end = _threads(), threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count - 1):
            thread = threading.Thread(target=may_end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise DeviceError(
            f"this device computes with {count} threads, and this process can have "
            f"{len(started) + 1}"
        ) from error
    finally:
        may_end.set()
        for thread in started:
            thread.join()
        deadline = time.monotonic() + 1.0
        while _threads() > before and time.monotonic() < deadline:
            time.sleep(0.001)  # until Python 3.12 a thread that was joined may not have ended yet


def _threads() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:  # not Linux, where Python's own count has to do
        return threading.active_count()


class _Mount(NamedTuple):
    root: Path
    """The group that is seen at the place."""
    place: Path
    controllers: frozenset[str]
    """Empty for version 2, where a group has all."""


def groups(controller: str, proc: Path = Path("/proc/self")) -> Iterator[Path]:
    """Yield the folders of the process's group and of those around it, which limit it as well.

    Args:
        controller: What the groups limit, such as ``cpu`` or ``pids``.
        proc: What the kernel tells of this process.
    """
    mounts = list(_mounts(proc))
    for line in _lines(proc / "cgroup"):
        _, names, path = line.split(":", 2)
        for mount in mounts:
            if not _has(mount, names, controller):
                continue
            # outside of the container's own view the path is not below the root
            below = Path(path).relative_to(mount.root) if _is_below(path, mount.root) else Path()
            group = mount.place / below
            yield from (group, *(item for item in group.parents if _is_below(item, mount.place)))


def _has(mount: _Mount, names: str, controller: str) -> bool:
    """Return whether a line of a process's groups is about a mount that limits something."""
    if not mount.controllers:  # version 2, whose groups have all
        return not names
    return controller in mount.controllers and controller in names.split(",")


def _mounts(proc: Path) -> Iterator[_Mount]:
    for line in _lines(proc / "mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, place = (Path(text) for text in before.split()[3:5])
        if kind == "cgroup2":
            yield _Mount(root, place, frozenset())
        elif kind == "cgroup":
            yield _Mount(root, place, frozenset(options.split(",")))


def _quotas(group: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):  # "max" is no number
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota_us, period_us = (int((group / name).read_text(encoding="ascii")) for name in names)
        if quota_us > 0:
            yield quota_us / period_us


def _is_below(path: str | Path, folder: Path) -> bool:
    return Path(path).is_relative_to(folder)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
