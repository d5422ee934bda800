"""A dataset with a loader of its own, which keeps count of what it is asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from runner import DatasetEntry, hookimpl
from runner.testing.fake import Colours, ColoursOptions

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from runner.contracts import Batch
    from runner.data.transforms.options import Transform
    from runner.entries import LoaderRequest

OPENED: list[AcmeLoader] = []


class AcmeLoader:
    """Core's loader, observed."""

    def __init__(self, request: LoaderRequest) -> None:
        from runner.data.loader import ImageLoader

        self.request = request
        self.batches = 0
        self.closed = False
        self._loader = ImageLoader(
            request.dataset,
            request.transforms,
            request.section,
            seed=request.seed,
            report_damaged=request.report_damaged,
        )
        OPENED.append(self)

    @property
    def transforms(self) -> Sequence[Transform]:
        return self._loader.transforms

    @property
    def stops_at_damage(self) -> bool:
        return self._loader.stops_at_damage

    def train_batches(self, epoch: int, **arguments: Any) -> Generator[Batch, None, None]:
        for batch in self._loader.train_batches(epoch, **arguments):
            self.batches += 1
            yield batch

    def eval_batches(self, batch_size: int, **arguments: Any) -> Generator[Batch, None, None]:
        for batch in self._loader.eval_batches(batch_size, **arguments):
            self.batches += 1
            yield batch

    def report(self) -> Mapping[str, Any]:
        return {"readers": int(os.environ.get("ACME_READERS", "1"))}

    def close(self) -> None:
        self.closed = True
        self._loader.close()


@hookimpl
def runner_register_datasets() -> Iterable[DatasetEntry]:
    yield DatasetEntry(
        name="acme_colours",
        summary="Colours, read by Acme",
        config=ColoursOptions,
        framework="fake",
        open=Colours,
        open_loader=AcmeLoader,
    )
