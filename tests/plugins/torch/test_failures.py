"""What is said when torch fails over shapes, kernels or memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runner import ModelEntry
from runner.errors import DeviceError, UsageError
from runner.recipe.schema import PrecisionSection
from runner_torch.autoload import torch
from runner_torch.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.torch.conftest import MakeBatches, MakeEngine, MakeSpec

    from runner_torch.device import TorchDevice


def entry_of(forward: Callable[[torch.Tensor], torch.Tensor]) -> ModelEntry:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.fc(forward(images).mean(dim=(2, 3)))
            return logits

    return ModelEntry(
        name="odd", summary="Fails", framework="torch", build=lambda options, classes: Net()
    )


def test_a_size_that_a_model_does_not_take_is_refused_before_anything_is_trained(
    make_engine: MakeEngine,
) -> None:
    message = (
        r"(?s)model alexnet does not take images of 32 x 32 pixels in evaluation.*"
        r"transforms\.eval.*torch says:\n.*Output size is too small"
    )
    with pytest.raises(UsageError, match=message):
        make_engine(model="alexnet")


def test_a_size_that_a_model_checks_itself_is_refused_as_well(make_engine: MakeEngine) -> None:
    def forward(images: torch.Tensor) -> torch.Tensor:
        torch._assert(images.shape[2] == 224, "Wrong image height! Expected 224")
        return images

    message = r"(?s)odd does not take images of 32 x 32 .*Wrong image height! Expected 224"
    with pytest.raises(UsageError, match=message):
        make_engine(model=entry_of(forward))


def test_a_size_that_training_alone_has_is_refused_in_its_first_step(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    engine = make_engine(model="alexnet", image_size=(64, 64))
    message = r"(?s)alexnet does not take images of 48 x 48 pixels in training.*transforms\.train"
    with pytest.raises(UsageError, match=message):
        engine.train_step(make_batches(1, size=48)[0], 0.1)


def test_a_size_that_training_alone_has_is_refused_when_the_engine_is_opened(
    make_engine: MakeEngine,
) -> None:
    with pytest.raises(UsageError, match=r"(?s)alexnet does not take images of 48 x 48.*training"):
        make_engine(model="alexnet", image_size=(64, 64), smallest_pass=(4, 48, 48))


def test_a_missing_kernel_names_the_format_and_the_way_out(make_engine: MakeEngine) -> None:
    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.bincount(images.bfloat16().flatten())  # of integers alone

    with pytest.raises(DeviceError, match=r"(?s)cpu cannot compute model odd in bf16.*fp32.*says:"):
        make_engine(model=entry_of(forward), precision=PrecisionSection(compute="bf16"))


def test_no_memory_on_the_processor_names_the_key_to_lower(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    def forward(images: torch.Tensor) -> torch.Tensor:
        return images if len(images) == 1 else torch.empty(len(images) << 46)

    engine = make_engine(model=entry_of(forward))
    (batch,) = make_batches(1)
    with pytest.raises(
        DeviceError, match=r"cpu is out of memory with 4 images.*micro_batch_size=2"
    ):
        engine.train_step(batch, 0.1)
    with pytest.raises(
        DeviceError, match=r"cpu is out of memory with 4 images.*eval\.batch_size=2"
    ):
        engine.predict(batch.images)


def test_no_memory_for_the_model_itself(device: TorchDevice, make_spec: MakeSpec) -> None:
    def build(options: object, classes: int) -> torch.nn.Module:
        return torch.nn.Linear(1 << 40, 1 << 10)

    entry = ModelEntry(name="vast", summary="Too large", framework="torch", build=build)
    message = r"(?s)cpu has no memory for model vast .*torch says:\n.*can't allocate memory"
    with pytest.raises(DeviceError, match=message):
        open_engine(make_spec(model=entry), device)


def test_trying_a_size_changes_nothing(make_engine: MakeEngine, make_batches: MakeBatches) -> None:
    """Its statistics and random numbers are those of an engine that has tried none."""

    def states(engine: Any) -> list[bytes]:
        return [
            array.tobytes()
            for array in (*engine.weights().values(), *engine.state().tensors.values())
        ]

    engine = make_engine(model="resnet18", ema_decay=0.9)
    before = states(engine)
    engine._check_image_size()
    assert states(engine) == before
