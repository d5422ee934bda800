"""What steps return while the device still computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, final

from runner.contracts import EvalCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Computing(Generic[T]):
    """A value that is still on the device."""

    fetch: Callable[[], T]
    """Copy it to the host, which waits for the device."""

    def read(self) -> T:
        """Wait for the device and return the value."""
        return self.fetch()


def deferred_counts(fetch: Callable[[], Sequence[float]], count: int) -> Computing[EvalCounts]:
    """Return the counts of an evaluation batch, once the device has them.

    Args:
        fetch: Copies top-1, top-5 and the sum of the losses to the host.
        count: Images of the batch.
    """

    def counts() -> EvalCounts:
        top1, top5, loss_sum = fetch()
        return EvalCounts(top1=int(top1), top5=int(top5), loss_sum=loss_sum, count=count)

    return Computing(counts)
