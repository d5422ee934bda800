"""What decoders say of an image, which would otherwise stand on standard error without its name.

Pillow warns in Python; libtiff, which decodes most TIFF files for it, writes lines from C. Both are
collected for the image that the thread is decoding.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 300
"""Characters that are kept of one message."""
_TIFF = (b"II", b"MM")
"""How TIFF files begin."""

_heard = threading.local()


@contextmanager
def heard(data: bytes) -> Iterator[list[str]]:
    """Collect what is said while an image is decoded on this thread.

    Args:
        data: The encoded image.
    """
    if data[:2] in _TIFF:
        _listen_to_libtiff()
    _listen_to_warnings()
    said: list[str] = []
    _heard.said = said
    try:
        yield said
    finally:
        _heard.said = None


def shown(said: list[str]) -> str:
    """Return the first of several messages, and how many there are."""
    more = len(set(said)) - 1
    return said[0] + (f" (and {more} more)" if more > 0 else "")


def _take(text: str) -> bool:
    """Keep a message of the image that this thread is decoding; say whether there is one."""
    said: list[str] | None = getattr(_heard, "said", None)
    if said is None:
        return False
    said.append(" ".join(text.split())[:LIMIT])
    return True


def _listen_to_warnings() -> None:
    """Take Pillow's warnings, each time: a filter of the process shows one once, and to nobody."""
    former = warnings.showwarning
    if getattr(former, "takes_decoders", False):
        return

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if not _take(str(message)):
            former(message, category, *place, **more)

    show.takes_decoders = True  # type: ignore[attr-defined]
    warnings.filterwarnings("always", category=UserWarning, module=r"PIL\.", append=True)
    warnings.showwarning = show


@functools.cache
def _listen_to_libtiff() -> None:
    """Put a handler in place of libtiff's own, where Pillow has loaded it as a library."""
    library = _loaded("libtiff")
    if library is None:
        return
    handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(_handle)
    _kept.append(handler)
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        put = getattr(library, name, None)
        if put is not None:
            put.restype = ctypes.c_void_p
            put(handler)


_kept: list[object] = []
"""What C may call as long as the process lives."""


def _handle(module: bytes | None, form: bytes, values: int | None) -> None:
    text = ctypes.create_string_buffer(LIMIT)
    _vsnprintf()(text, LIMIT, form, ctypes.c_void_p(values))
    where = f"{module.decode(errors='replace')}: " if module and module != b"tempfile.tif" else ""
    _take(f"{where}{text.value.decode(errors='replace')}")


@functools.cache
def _vsnprintf() -> Callable[..., int]:
    function: Callable[..., int] = ctypes.CDLL(None).vsnprintf
    return function


def _loaded(name: str) -> ctypes.CDLL | None:
    """Return a library that is in this process already; ``None`` if it is not, or nobody tells."""
    try:
        lines = Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines()
        path = next((line.split(maxsplit=5)[5] for line in lines if f"/{name}" in line), None)
        return ctypes.CDLL(path) if path else None
    except (OSError, IndexError):
        return None
