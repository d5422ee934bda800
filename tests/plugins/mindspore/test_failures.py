"""What is said when MindSpore fails over shapes, kernels or memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("mindspore")

from tests.plugins.mindspore.conftest import tiny_entry

from runner import ModelEntry
from runner.errors import DeviceError, UsageError
from runner_mindspore.autoload import Tensor, nn

if TYPE_CHECKING:
    from typing import Any

    from tests.plugins.mindspore.conftest import MakeBatches, MakeEngine


class FixedSize(nn.Cell):
    """A classifier over all pixels, which is made for one size."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc = nn.Dense(3 * 32 * 32, num_classes)

    def construct(self, images: Tensor) -> Tensor:
        return self.fc(self.flatten(images))


def test_a_size_that_a_model_does_not_take_names_it(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    entry = ModelEntry(
        name="fixed",
        summary="Takes one size",
        framework="mindspore",
        build=lambda options, classes: FixedSize(classes),
    )
    (batch,) = make_batches(1, size=16)
    message = r"(?s)fixed does not take images of 16 x 16 pixels in {}.*MindSpore says:\n"
    with pytest.raises(UsageError, match=message.format("training")):
        make_engine(model=entry).train_step(batch, 0.1)
    with pytest.raises(UsageError, match=message.format("evaluation")):
        make_engine(model=entry).eval_step(batch)


@pytest.mark.parametrize(
    ("step", "sizes"),
    [
        ("evaluation", {"image_size": (16, 16)}),
        ("training", {"image_size": (32, 32), "smallest_pass": (4, 16, 16)}),
    ],
)
def test_a_size_that_a_model_does_not_take_is_refused_when_the_engine_is_opened(
    make_engine: MakeEngine, step: str, sizes: dict[str, Any]
) -> None:
    entry = ModelEntry(
        name="fixed",
        summary="Takes one size",
        framework="mindspore",
        build=lambda options, classes: FixedSize(classes),
    )
    message = rf"(?s)fixed does not take images of 16 x 16 pixels in {step}.*MindSpore says:\n"
    with pytest.raises(UsageError, match=message):
        make_engine(model=entry, **sizes)


def test_trying_sizes_draws_the_masks_of_dropout(make_engine: MakeEngine) -> None:
    entry = tiny_entry(dropout=0.5)
    kept, tried = (make_engine(model=entry, smallest_pass=x) for x in (None, (1, 8, 8)))
    for name, array in kept.weights().items():
        assert np.array_equal(tried.weights()[name], array)


def test_a_missing_kernel_names_the_device(
    make_engine: MakeEngine, make_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def construct(self: nn.Cell, images: Tensor) -> Tensor:
        raise TypeError("Unsupported op [Foo] on CPU")

    engine = make_engine()
    monkeypatch.setattr(type(engine._model), "construct", construct)
    with pytest.raises(DeviceError, match=r"(?s)cpu cannot compute model tiny in fp32.*op .Foo"):
        engine.predict(make_batches(1)[0].images)
