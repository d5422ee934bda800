"""What this package offers; what ``lazy`` names imports frameworks, this module does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import DatasetEntry, ModelEntry, hookimpl, lazy

from .options import BlobsOptions, TinyCnnOptions

if TYPE_CHECKING:
    from collections.abc import Iterable


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
        build=lazy("runner_blobs.net:tiny_cnn"),
    )


@hookimpl
def runner_register_datasets() -> Iterable[DatasetEntry]:
    """Offer the dataset, to every framework."""
    yield DatasetEntry(
        name="blobs",
        summary="Coloured shapes",
        config=BlobsOptions,
        open=lazy("runner_blobs.shapes:open_blobs"),
    )
