"""Batch normalisation over all processes, in a group of one: it computes what torch's layer does.

``test_group.py`` has two processes.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")

from runner_torch.autoload import torch
from runner_torch.batch_norm import SyncBatchNorm, synchronize
from runner_torch.optimizers import parameter_groups
from runner_torch.traits import CPU, CUDA

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    """A group of this process alone."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # torch exports it
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values whose mean is large beside their deviation."""
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(shape, generator=generator) * 2 + 30).to(dtype)


def passes(layer: torch.nn.Module, values: torch.Tensor) -> list[torch.Tensor]:
    """Take two passes; return outputs, gradients and statistics."""
    found = []
    for scale in (1.0, 0.5):
        inputs = (values * scale).requires_grad_()
        output = layer(inputs)
        weights = torch.arange(output.numel(), dtype=torch.float32).view(output.shape).sin()
        (output.float() * weights).sum().backward()
        assert inputs.grad is not None
        found += [output.detach(), inputs.grad]
    found += [p.grad for p in layer.parameters() if p.grad is not None]
    return [*found, *layer.buffers(), layer.eval()(values).detach()]


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.BatchNorm2d(4),
        torch.nn.BatchNorm2d(4, momentum=None, eps=1e-3),
        torch.nn.BatchNorm2d(4, affine=False),
        torch.nn.BatchNorm2d(4, track_running_stats=False),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_computes_what_torch_does(
    layer: torch.nn.BatchNorm2d, layout: torch.memory_format
) -> None:
    if layer.affine:
        torch.nn.init.uniform_(layer.weight)
        torch.nn.init.uniform_(layer.bias)
    other = synchronize(copy.deepcopy(layer), native=CPU.native_sync_batch_norm)
    assert isinstance(other, SyncBatchNorm)
    assert list(other.state_dict()) == list(layer.state_dict())
    values = images(6, 4, 5, 3).to(memory_format=layout)
    layer = copy.deepcopy(layer)
    for found, expected in zip(passes(other, values), passes(layer, values), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_takes_vectors_and_lower_formats() -> None:
    """Statistics are computed in fp32, and the output has the format of the images."""
    for layer, values in (
        (torch.nn.BatchNorm1d(4), images(6, 4)),
        (torch.nn.BatchNorm2d(4), images(6, 4, 5, 3, dtype=torch.bfloat16)),
    ):
        other = synchronize(copy.deepcopy(layer), native=False)
        tolerance = 1e-4 if values.dtype == torch.float32 else 5e-2
        for found, expected in zip(passes(other, values), passes(layer, values), strict=True):
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_a_network_keeps_its_names_and_what_is_not_decayed() -> None:
    def build() -> torch.nn.Module:
        block = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        return torch.nn.Sequential(block, torch.nn.Flatten(), torch.nn.Linear(4, 2))

    for native in (False, CUDA.native_sync_batch_norm):
        network = synchronize(build(), native=native)
        kinds = [type(layer) for layer in network.modules()]
        assert (torch.nn.SyncBatchNorm if native else SyncBatchNorm) in kinds
        assert torch.nn.BatchNorm2d not in kinds
        assert list(network.state_dict()) == list(build().state_dict())
        spared = parameter_groups(network, 0.1, ("norm",))[1]["params"]
        layer = network.get_submodule("0.1")
        assert {id(p) for p in spared} == {id(p) for p in layer.parameters()}
