"""What the simulated cards of this process remember, and the environment that describes them.

Variables, all optional:

    SIMULATED_CARDS      how many cards the machine has, 1 if unset; 0 for none
    SIMULATED_BROKEN     a text with which importing the vendor package fails
    SIMULATED_BF16       0 for cards that compute no bfloat16
    SIMULATED_RECORD     a file; each process appends one JSON line when it ends
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from typing import Any


@dataclass
class Card:
    """One simulated card."""

    random: torch.Tensor
    """State of its generator, apart from the processor's."""
    allocated: int = 0
    peak: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    """How often each ATen operator ran on it."""

    def hold(self, size: int) -> None:
        self.allocated += size
        self.peak = max(self.peak, self.allocated)

    def release(self, size: int) -> None:
        self.allocated -= size


class State:
    """The cards of this process."""

    kind = ""
    visible_devices = ""
    current = 0

    def __init__(self) -> None:
        self.cards: dict[int, Card] = {}
        self.calls: Counter[str] = Counter()
        """How often each function of the vendor's module was called."""
        self.options: dict[str, Any] = {}
        """What was put into effect through the vendor's switches."""

    def begin(self, kind: str, visible_devices: str) -> None:
        self.kind, self.visible_devices = kind, visible_devices
        if path := os.environ.get("SIMULATED_RECORD"):
            atexit.register(self._write, Path(path))

    @property
    def bf16(self) -> bool:
        return os.environ.get("SIMULATED_BF16") != "0"

    @property
    def count(self) -> int:
        physical = int(os.environ.get("SIMULATED_CARDS", "1"))
        visible = os.environ.get(self.visible_devices)
        if visible is None:
            return physical
        return sum(int(part) < physical for part in visible.split(",") if part.strip())

    def number(self, index: int) -> int:
        """Return the machine's number of a visible card."""
        visible = os.environ.get(self.visible_devices)
        return index if visible is None else int(visible.split(",")[index])

    def index(self, device: object) -> int:
        """Return which card a device, string, number or ``None`` means."""
        if isinstance(device, str):
            device = torch.device(device)
        if isinstance(device, torch.device):
            device = device.index
        index = self.current if device is None else device
        if not isinstance(index, int) or not 0 <= index < self.count:
            raise RuntimeError(f"{self.kind}: invalid device {index}, {self.count} visible")
        return index

    def card(self, device: object = None) -> Card:
        index = self.index(device)
        if index not in self.cards:
            self.cards[index] = Card(fresh_random_state(torch.initial_seed()))
        return self.cards[index]

    def choose(self, device: object) -> None:
        """Make a card the one that this process works with."""
        index = self.index(device)
        if index != self.current and self.card().peak:
            raise RuntimeError(
                f"simulated {self.kind}: tensors are on card {self.current} already, "
                "and a process has one card only"
            )
        self.current = index

    def check_device(self, device: torch.device) -> None:
        """Refuse a place where no tensor can be."""
        # 0 is what torch itself calls the card of this process
        if device.type == "cpu" or (device.type == self.kind and not device.index):
            return
        if device.type != self.kind or device.index != self.current:
            raise RuntimeError(
                f"simulated {self.kind}: no tensor can be on {device}, "
                f"the card of this process is {self.current}"
            )

    def take_record(self) -> dict[str, Any]:
        """Return what was done since the last time, by card, call and option."""
        record = {
            "arguments": sys.argv,
            "calls": dict(self.calls),
            "options": dict(self.options),
            "cards": {
                str(index): {
                    "number": self.number(index),
                    "peak": card.peak,
                    "operations": dict(card.operations),
                }
                for index, card in self.cards.items()
                if card.operations
            },
        }
        self.calls.clear()
        self.options.clear()
        for card in self.cards.values():
            card.operations.clear()
            card.peak = card.allocated
        return record

    def _write(self, path: Path) -> None:
        with path.open("a") as file:
            file.write(json.dumps(self.take_record()) + "\n")


def fresh_random_state(seed: int) -> torch.Tensor:
    return torch.Generator().manual_seed(seed).get_state()


STATE = State()
