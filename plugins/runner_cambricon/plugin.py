"""The entries of this plugin. Nothing here imports torch until an entry is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.entries import DeviceEntry


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer the vendor's cards."""
    return ()
