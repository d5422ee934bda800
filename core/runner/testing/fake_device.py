"""The device of the fake framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Mapping


@final
class FakeDevice:
    """The processor that runs this process, by any name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def synchronize(self) -> None:
        """Return at once: nothing runs in the background."""

    def peak_memory_bytes(self) -> int | None:
        """Return ``None``: nothing is measured."""
        return None

    def describe(self) -> Mapping[str, Any]:
        """Return the device's name."""
        return {"device": self.name}
