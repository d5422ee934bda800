"""Which image comes when, and with what randomness, as a pure function of seed and epoch.

Nothing here depends on workers, devices or the point at which a run was resumed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

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
