"""The cost model of docs/scale.md: what a step takes on a number of cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WORLD_SIZES = (8, 64, 1024)
IMAGES = 1_281_167
IMAGES_21K = 14_197_122
LOG_EVERY = 20
"""``train.log_every_steps`` unless the recipe says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network as its recipe trains it."""

    name: str
    recipe: str
    parameters: int
    batch: int
    """Images of a step over all cards."""
    cards: int
    """Cards that the recipe is for."""
    images_per_s: float
    """Of one card."""
    source: str


NETWORKS = (
    Network(
        name="ResNet50",
        recipe="resnet50_npu",
        parameters=25_557_032,
        batch=4096,
        cards=8,
        images_per_s=11_898.83 / 8,
        source="published: 11,898.83 images/s on 8 Ascend 910, Ascend ModelZoo-PyTorch, "
        "ResNet50_for_PyTorch, README",
    ),
    Network(
        name="ResNeXt152_64x4d",
        recipe="resnext152_ascend",
        parameters=114_971_944,
        batch=1024,
        cards=8,
        images_per_s=11_898.83 / 8 * 4.1 / 22.9,
        source="assumed: the arithmetic of ResNet50 above (4.1 of 22.9 GMAC per image); published "
        "for 8 V100 are 135 a card (48.75 h, MindSpore models, resnext152_64x4d, README)",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """A machine that nothing here was measured on."""

    cards: int = 8
    cores: int = 192
    memory_gb: int = 768
    link_gb_per_s: float = 12.5
    """Of each card to the next one of a ring: 100 Gbit/s."""
    hop_us: float = 10.0
    """Latency of the network, for each step of a ring."""
    overlap: float = 2 / 3
    """Share of a step, its backward pass, beside which gradients are exchanged."""
    storage_gb_per_s: float = 20.0
    """Of the file system, for all machines together."""


ASSUMED = Assumed()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network on a number of cards."""

    network: Network
    cards: int
    per_card: float
    """Images of a step on one card."""
    measured: dict[str, Any]

    @property
    def machines(self) -> int:
        return -(-self.cards // ASSUMED.cards)

    @property
    def steps(self) -> int:
        """Steps of an epoch of ImageNet-1k."""
        return int(IMAGES // (self.per_card * self.cards))

    @property
    def compute_s(self) -> float:
        return self.per_card / self.network.images_per_s

    @property
    def gradient_bytes(self) -> float:
        """Bytes that each card sends in a step: a ring over fp32 gradients."""
        return 2 * (self.cards - 1) / self.cards * 4 * self.network.parameters

    @property
    def reduce_s(self) -> float:
        hops = 2 * (self.cards - 1)
        return self.gradient_bytes / ASSUMED.link_gb_per_s / 1e9 + hops * ASSUMED.hop_us * 1e-6

    @property
    def exposed_s(self) -> float:
        """What is left of the exchange when the backward pass is over."""
        return max(0.0, self.reduce_s - ASSUMED.overlap * self.compute_s)

    @property
    def exchange_s(self) -> float:
        """A sum of ``Ranks``: that of two, and a message for each further process of the ring."""
        message = self.measured["message_s"] + ASSUMED.hop_us * 1e-6
        return float(self.measured["exchange_s"]["2"] + message * (self.cards - 2))

    @property
    def log_s(self) -> float:
        """The exchange of a log line, spread over its steps."""
        return self.exchange_s / LOG_EVERY

    @property
    def step_s(self) -> float:
        return self.compute_s + self.exposed_s + self.log_s

    @property
    def images_per_s(self) -> float:
        """Of one card, when data is always there."""
        return self.per_card / self.step_s

    @property
    def cores(self) -> float:
        """Cores of a machine that decode."""
        rate = float(self.measured["decode"][self.network.recipe]["images_per_cpu_s"])
        return self.images_per_s * ASSUMED.cards / rate

    @property
    def bytes_per_s(self) -> float:
        """Read by all machines."""
        return self.images_per_s * self.cards * float(self.measured["bytes_per_image"])

    def shares(self) -> dict[str, float]:
        """Return how much of what it may take each part takes; 1 is the limit."""
        return {
            "gradients": self.exposed_s / self.step_s,
            "log line": self.log_s / self.step_s,
            "decoding": self.cores / ASSUMED.cores,
            "file system": self.bytes_per_s / 1e9 / ASSUMED.storage_gb_per_s,
        }

    def binds(self) -> str:
        """Say which part comes nearest to its limit."""
        name, share = max(self.shares().items(), key=lambda item: item[1])
        return f"{name} ({share:.0%})" if share >= 0.1 else f"computing ({name} {share:.0%})"


def cases(measured: dict[str, Any], *, fixed: bool) -> list[Case]:
    """Return all cases, with the recipe's global batch, or with its batch per card."""
    return [
        Case(
            network=network,
            cards=cards,
            per_card=network.batch / (cards if fixed else network.cards),
            measured=measured,
        )
        for network in NETWORKS
        for cards in WORLD_SIZES
    ]
