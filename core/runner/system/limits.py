"""Limits of the operating system or of a container that a process has met, named as their owner."""

from __future__ import annotations

import errno
import re
import resource
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = re.compile(r"Too many open files")
THREADS = re.compile(r"can't start new thread|Resource temporarily unavailable|pthread_create")
MEMORY = re.compile(
    r"failed to map segment|[Cc]annot allocate memory|MemoryError|bad_alloc|can't allocate memory"
)


def hint(error: BaseException) -> str:
    """Return what to append to the message of an error: the limit behind it, or ""."""
    found = explain("\n".join(_texts(error)))
    return f"; {found}" if found else ""


def explain(text: str) -> str:
    """Name the limit that a text of a library or the system is about; "" if it is about none."""
    if FILES.search(text):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"a process may have {limit} files open (ulimit -n): raise this limit"
    if THREADS.search(text):
        return "; or ".join((*_of_addresses(), *_of_processes()))  # a thread's stack takes some
    return "".join(_of_addresses()) if MEMORY.search(text) else ""


def _of_addresses() -> Iterator[str]:
    if (size := resource.getrlimit(resource.RLIMIT_AS)[0]) >= 0:
        yield (
            f"a process may have {size / 2**30:.1f} GiB of addresses (ulimit -v): raise this "
            "limit, as frameworks map much more than they use"
        )


def _of_processes() -> Iterator[str]:
    if limits := list(_of_threads()):
        number, name = min(limits)
        yield (
            f"there may be {number} processes and threads ({name}): raise this limit, or use "
            "fewer, with loader.workers, device.threads or OMP_NUM_THREADS"
        )


def _of_threads() -> Iterator[tuple[int, str]]:
    from runner.framework.cores import groups

    for group in groups("pids"):
        with suppress(OSError, ValueError):  # "max" is no number
            yield int((group / "pids.max").read_text(encoding="ascii")), "pids.max of the container"
    if (own := resource.getrlimit(resource.RLIMIT_NPROC)[0]) >= 0:
        yield own, "of this user: ulimit -u"


def _texts(error: BaseException | None) -> Iterator[str]:
    """Yield what an error and those that have led to it say."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            yield "Too many open files"  # in whatever language the system says it
        error = error.__cause__ or error.__context__
