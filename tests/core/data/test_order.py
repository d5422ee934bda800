from __future__ import annotations

import numpy as np
import pytest

from runner.data.order import Augmentation, epoch_order, share


def test_epoch_order_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    order = epoch_order(100, seed=3, epoch=1)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(100))
    assert np.array_equal(order, epoch_order(100, seed=3, epoch=1))
    assert not np.array_equal(order, epoch_order(100, seed=3, epoch=2))
    assert not np.array_equal(order, epoch_order(100, seed=4, epoch=1))


def test_epoch_order_is_the_same_in_every_release() -> None:
    assert epoch_order(8, seed=1, epoch=0).tolist() == [4, 7, 1, 5, 2, 3, 0, 6]


def test_augmentation_depends_on_seed_epoch_and_index_only() -> None:
    def draw(seed: int, epoch: int, index: int) -> float:
        return Augmentation(seed, epoch).generator(index).random()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, 2, 3), draw(2, 1, 3), draw(1, 3, 2), draw(1, 2, 4)}) == 4
    epoch = Augmentation(1, 2)
    epoch.generator(9).random(1000)
    assert epoch.generator(3).random() == draw(1, 2, 3)


def test_seeds_of_any_size_work() -> None:
    assert Augmentation(2**80, 0).generator(0).random() != Augmentation(0, 0).generator(0).random()


@pytest.mark.parametrize(("count", "world_size"), [(10, 1), (10, 3), (2, 4), (0, 2)])
def test_shares_are_a_partition(count: int, world_size: int) -> None:
    parts = [list(range(count))[share(count, rank, world_size)] for rank in range(world_size)]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_rank_outside_of_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="rank is 2, expected 0 to 1"):
        share(10, 2, 2)
