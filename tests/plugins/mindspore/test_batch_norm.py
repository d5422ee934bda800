"""Batch normalisation over all processes, in every number format; test_group.py has two of them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.recipe.schema import PrecisionSection

pytest.importorskip("mindspore")

from runner_mindspore.autoload import Tensor, nn, ops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.mindspore.conftest import MakeBatches, MakeEngine, Mode


class OfOne(nn.Cell):
    """An exchange in a group of one."""

    def construct(self, values: Tensor) -> Tensor:
        return values


class Alone:
    """A group of one."""

    rank, world_size = 0, 1

    def broadcast_in_place(self, _parameters: object) -> None:
        pass

    def gradient_reducer(self, _parameters: object) -> nn.Cell:
        return OfOne()

    def describe(self) -> dict[str, Any]:
        return {}

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize("level", ["auto", pytest.param("O2", marks=pytest.mark.slow), "O3"])
def test_it_is_that_of_a_single_process_in_fp32(
    make_engine: MakeEngine,
    make_batches: MakeBatches,
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    level: str,
) -> None:
    monkeypatch.setattr(ops, "AllGather", OfOne)
    monkeypatch.setattr(ops, "AllReduce", OfOne)
    precision = {"compute": "fp16", "loss_scale": 1024.0}
    synchronized = make_engine(
        mode=mode,
        precision=PrecisionSection(level=level, **precision),  # type: ignore[arg-type]
        group=Alone(),
        sync_batch_norm=True,
    )
    plain = make_engine(
        mode=mode,
        precision=PrecisionSection(level=level, batch_norm="fp32", **precision),  # type: ignore[arg-type]
    )
    for batch in make_batches(2, images=8):
        losses = [engine.train_step(batch, 0.05).read().loss for engine in (synchronized, plain)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert synchronized.report()["batch_norm"] == "fp32"
    assert synchronized.report()["sync_batch_norm"]
    weights = plain.weights()
    for name, array in synchronized.weights().items():
        np.testing.assert_allclose(array, weights[name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert np.unique(weights["bn.running_var"]).size > 1
