"""Command lines and places, checked as text; no torch needed but for the choice of cards."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.entries import LaunchRequest
from runner.errors import DeviceError, UsageError
from runner_torch.launch import LocalPlace, launch, launched_world_size, local_place
from runner_torch.options import CpuOptions, CudaOptions, TorchOptions
from runner_torch.traits import CUDA, available_cores

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was launched."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def request_for(
    count: int, device: str = "cpu", options: CpuOptions | CudaOptions | None = None
) -> LaunchRequest:
    return LaunchRequest(
        count=count,
        arguments=["train", "quickstart"],
        device=device,
        device_options=options or CpuOptions(),
        framework_options=TorchOptions(),
        log_folder=Path("logs"),
    )


def be_launched(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int) -> None:
    for name, value in zip(VARIABLES, (rank, processes, rank, processes), strict=False):
        monkeypatch.setenv(name, str(value))


def test_torchrun_starts_the_processes_and_they_share_the_cores() -> None:
    (command,) = launch(request_for(2))
    assert command.arguments == [
        sys.executable,
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "runner", "train", "quickstart"),
    ]
    assert command.environment == {"OMP_NUM_THREADS": str(max(1, available_cores() // 2))}
    (command,) = launch(request_for(4 * available_cores()))
    assert command.environment == {"OMP_NUM_THREADS": "1"}


def test_threads_that_the_user_has_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (command,) = launch(request_for(2))
    assert command.environment == {}


def test_one_card_for_several_processes_is_refused() -> None:
    launch(request_for(2, "cuda", CudaOptions()))
    with pytest.raises(UsageError, match=r"device\.index is 1, and 2 processes take a card each"):
        launch(request_for(2, "cuda", CudaOptions(index=1)))


def test_a_process_knows_that_it_was_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_world_size() is None
    assert local_place() is None
    be_launched(monkeypatch, 3, 4)
    assert launched_world_size() == 4
    assert local_place() == LocalPlace(rank=3, processes=4)


def test_every_process_takes_the_card_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from runner_torch import device

    chosen: list[int] = []
    cards = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 4, set_device=chosen.append
    )
    monkeypatch.setattr(device, "_import_module", lambda traits: cards)
    assert device.open_device(CUDA, index=2).torch_device.index == 2
    be_launched(monkeypatch, 3, 4)
    assert device.open_device(CUDA).torch_device.index == 3
    assert chosen == [2, 3]
    with pytest.raises(UsageError, match=r"device\.index is 2"):
        device.open_device(CUDA, index=2)
    be_launched(monkeypatch, 3, 5)
    with pytest.raises(DeviceError, match=r"5 processes need .* cuda .* 4 are visible .*devices 4"):
        device.open_device(CUDA)
