"""A kind of entry that core does not have: its type, its row, and a plugin with one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from runner import hookimpl, options
from runner.entries import Entry
from runner.plugins.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmenterEntry(Entry):
    """Something that changes images, named under ``augmenters:``."""

    framework: str = ""
    modes: tuple[str, ...] = ()
    apply: Callable[[Any, bytes], bytes]


ROW = Kind(name="augmenter", entry=AugmenterEntry, section="augmenters", several=True)


@options
class MirrorOptions:
    """Keys of an item of `augmenters` with `name: mirror`."""

    share: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the images."""


def mirror(options: MirrorOptions, image: bytes) -> bytes:
    return image


@hookimpl
def runner_register_augmenters() -> Iterable[AugmenterEntry]:
    yield AugmenterEntry(
        name="mirror", framework="fake", summary="Mirrors", config=MirrorOptions, apply=mirror
    )
