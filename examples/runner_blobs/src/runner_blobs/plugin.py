"""What this package offers. Frameworks are imported inside functions, not here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from runner import DatasetEntry, ModelEntry, hookimpl, options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.contracts import Dataset


@options
class TinyCnnOptions:
    """The keys of `model:` besides `name`."""

    width: Annotated[int, Gt(0)] = 8
    """Channels of the first convolution."""


@options
class BlobsOptions:
    """The keys of `dataset:` besides `name`."""

    count: Annotated[int, Ge(8)] = 960
    """Training images; validation has a quarter of them."""
    size: Annotated[int, Ge(16)] = 32
    """Height and width in pixels."""


def build(config: TinyCnnOptions, num_classes: int) -> Any:
    """Build the model."""
    from .net import tiny_cnn

    return tiny_cnn(config.width, num_classes)


def open_blobs(config: BlobsOptions, split: str) -> Dataset:
    """Open a split."""
    from .shapes import Blobs

    return Blobs(config.count if split == "train" else config.count // 4, config.size, split)


@hookimpl
def runner_register_models() -> Iterable[ModelEntry]:
    """Offer the model."""
    yield ModelEntry(
        name="tiny_cnn",
        framework="torch",
        summary="Three convolutions, a few thousand parameters",
        config=TinyCnnOptions,
        requires=("torch",),
        install="pip install 'vision-runner[torch]'",
        build=build,
    )


@hookimpl
def runner_register_datasets() -> Iterable[DatasetEntry]:
    """Offer the dataset, to every framework."""
    yield DatasetEntry(
        name="blobs", summary="Coloured shapes", config=BlobsOptions, open=open_blobs
    )
