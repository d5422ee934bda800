"""Which image comes when, and with what randomness, as a pure function of seed and epoch.

Nothing here depends on workers, devices or the point at which a run was resumed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from runner.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The order and the augmentation of an epoch must not be correlated: each has its own stream.
_ORDER, _AUGMENTATION = (0,), (1,)


def epoch_order(num_images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle the positions of ``num_images`` images for one epoch.

    Returns:
        A permutation ``[N]``, drawn from PCG64 seeded with ``(seed, epoch)``.
    """
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=_ORDER)
    return np.random.Generator(np.random.PCG64(sequence)).permutation(num_images)


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
) -> list[NDArray[np.int64]]:
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
    order = epoch_order(count, seed, epoch)
    chosen = []
    for step in range(first_step, steps):
        whole = order[step * batch_size : (step + 1) * batch_size]
        if len(whole) < batch_size:
            whole = np.concatenate([whole, order[: -len(whole) % world_size]])
        own = whole[share(len(whole), rank, world_size)]
        if len(own) == 0:
            raise DataError(
                f"step {step} of the epoch has {len(whole)} images for {world_size} devices; "
                "set train.last_batch: drop"
            )
        chosen.append(own)
    return chosen


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
    own = np.arange(count, dtype=np.int64)[share(count, rank, world_size)]
    return [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
