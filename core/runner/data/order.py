"""Which image comes when, and with what randomness, as a pure function of seed and epoch.

Nothing here depends on workers, devices or the point at which a run was resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final, overload

import numpy as np

from runner.errors import DataError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The order and the augmentation of an epoch must not be correlated: each has its own stream.
_ORDER, _AUGMENTATION = (0,), (1,)


def epoch_order(num_images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle the positions of ``num_images`` images for one epoch.

    Returns:
        A permutation ``[N]``, drawn from PCG64 seeded with ``(seed, epoch)``.
    """
    return _shuffled(num_images, seed, epoch, np.int64)


def _shuffled(num_images: int, seed: int, epoch: int, kind: type[Any]) -> NDArray[Any]:
    """Shuffle positions of any type of integers; the order does not depend on it."""
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=_ORDER)
    positions = np.arange(num_images, dtype=kind)
    np.random.Generator(np.random.PCG64(sequence)).shuffle(positions)
    return positions


@final
class Augmentation:
    """The random numbers that augment the images of one epoch, one stream per image.

    The streams come from Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    SC 2011): the epoch is its key and the image its counter, so no stream overlaps another and
    none has to be drawn before another.
    """

    def __init__(self, seed: int, epoch: int) -> None:
        sequence = np.random.SeedSequence([seed, epoch], spawn_key=_AUGMENTATION)
        self._key = sequence.generate_state(2, np.uint64)

    def generator(self, index: int) -> np.random.Generator:
        """Return the generator of the image at position ``index`` of the dataset."""
        # 256-bit counter: the highest word is the image, the rest counts its 2**194 numbers.
        return np.random.Generator(np.random.Philox(key=self._key, counter=index << 192))


def share(count: int, rank: int, world_size: int) -> slice:
    """Return the contiguous part of ``count`` items that belongs to ``rank``.

    Parts differ by one item at most, and together they are all items, each once.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}, expected 0 to {world_size - 1}")
    return slice(count * rank // world_size, count * (rank + 1) // world_size)


@final
class Batches(Sequence["NDArray[np.int64]"]):
    """The positions of the images of one rank, batch by batch, made when they are asked for."""

    def __init__(
        self, full: NDArray[np.integer[Any]], rest: Sequence[NDArray[np.integer[Any]]]
    ) -> None:
        """Put full batches ``[steps, B]`` before others."""
        self._full = full
        self._rest = rest

    def __len__(self) -> int:
        return len(self._full) + len(self._rest)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int64]: ...

    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.int64]]: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        index = range(len(self))[index]
        full = len(self._full)
        found = self._full[index] if index < full else self._rest[index - full]
        return found.astype(np.int64)


def train_indices(
    count: int,
    seed: int,
    epoch: int,
    *,
    batch_size: int,
    steps: int,
    first_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Sequence[NDArray[np.int64]]:
    """Return the positions of the images of one rank in each step of a shuffled epoch.

    Args:
        count: Images in the dataset.
        seed: Seed of the order.
        epoch: Number of the epoch, from 0.
        batch_size: Images of a step over all ranks together.
        steps: Steps of the epoch; the last batch is smaller when the images run out, and filled
            up with the epoch's first images until the ranks have equally many.
        first_step: Step to begin with.
        rank: Which contiguous part of each batch to return.
        world_size: Number of ranks.

    Raises:
        DataError: A step has no image for this rank.
    """
    # Of 14 million images the order takes 57 MB; this rank's part is copied, and the rest goes.
    order = _shuffled(count, seed, epoch, np.int32 if count <= 2**31 else np.int64)
    end = max(first_step, min(steps, count // batch_size))
    whole = order[first_step * batch_size : end * batch_size].reshape(-1, batch_size)
    full = whole[:, share(batch_size, rank, world_size)].copy()
    rest = []
    for step in range(end, steps):
        last = order[step * batch_size :]
        last = np.concatenate([last, order[: -len(last) % world_size]])
        rest.append(last[share(len(last), rank, world_size)])
        _check_any(rest[-1], step, len(last), world_size)
    if len(full):
        _check_any(full[0], first_step, batch_size, world_size)
    return Batches(full, rest)


def _check_any(own: NDArray[np.integer[Any]], step: int, images: int, world_size: int) -> None:
    if len(own) == 0:
        raise DataError(
            f"step {step} of the epoch has {counted(images, 'image')} for {world_size} devices; "
            "set train.last_batch: drop"
        )


def eval_indices(
    count: int, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> list[NDArray[np.int64]]:
    """Return the positions of all images in order, each on one rank, in batches.

    Args:
        count: Images in the dataset.
        batch_size: Images in one batch of one rank; the last batch may be smaller.
        rank: Which contiguous part of the dataset to return.
        world_size: Number of ranks.
    """
    part = share(count, rank, world_size)
    own = np.arange(part.start, part.stop, dtype=np.int64)
    return [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
