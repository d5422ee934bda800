"""Command lines and places, checked as text; no torch needed but for the choice of cards."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from runner.distributed.launching import cards
from runner.distributed.machines import Machines
from runner.distributed.meeting import network
from runner.distributed.place import attempt, find, others_left_out, rank_of
from runner.distributed.reporting.reporter import Reporter
from runner.entries import Attempt, LaunchRequest, Place
from runner.errors import DeviceError, UsageError
from runner.framework.cores import available_cores
from runner.planning.loading import load
from runner.system.interpreter import BOOT
from runner_torch.device_entry import device_entry
from runner_torch.launch import (
    AUTOLOAD,
    env_place,
    launch,
    rank_environment,
)
from runner_torch.options import CpuOptions, CudaOptions, TorchOptions
from runner_torch.traits import CUDA

if TYPE_CHECKING:
    from runner.planning.plan import Plan

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
WATCHED = ("--max-restarts", "0", "--redirects", "3", "--log-dir", "logs")
CUDA_ENTRY = device_entry(CUDA, summary="GPU", config=CudaOptions, install="")
SECOND_OF_TWO = Machines(
    count=2, rank=1, host="10.0.0.7", port=29500, address="10.0.0.8", interface="eth1"
)


@pytest.fixture
def plan() -> Plan:
    """Provide a plan for PyTorch."""
    return load("quickstart").plan


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was launched."""
    for name in (*VARIABLES, "GLOO_SOCKET_IFNAME", "TORCH_DEVICE_BACKEND_AUTOLOAD"):
        monkeypatch.delenv(name, raising=False)


def request_for(
    count: int,
    device: str = "cpu",
    options: CpuOptions | CudaOptions | None = None,
    machines: Machines | None = None,
) -> LaunchRequest:
    machines = machines or Machines()
    return LaunchRequest(
        count=count,
        local_count=machines.share(count),
        arguments=["train", "quickstart", "--rdzv", "a:1"],
        device=device,
        device_options=options or CpuOptions(),
        framework_options=TorchOptions(),
        machines=machines,
        rendezvous_s=90.5,
        log_folder=Path("logs"),
    )


def be_launched(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int) -> None:
    for name, value in zip(VARIABLES, (rank, processes, rank, processes), strict=False):
        monkeypatch.setenv(name, str(value))


def test_torchrun_starts_the_processes_and_they_share_the_cores() -> None:
    (command,) = launch(request_for(2))
    assert command.arguments == [
        sys.executable,
        *(BOOT, "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
        *("--nproc-per-node", "2", *WATCHED),
        *("--", BOOT, "runner", "train", "quickstart", "--rdzv", "a:1"),
    ]
    threads = str(max(1, available_cores() // 2))
    assert command.environment == {"OMP_NUM_THREADS": threads, **AUTOLOAD}
    (command,) = launch(request_for(4 * available_cores()))
    assert command.environment == {"OMP_NUM_THREADS": "1", **AUTOLOAD}


def test_on_several_machines_each_starts_its_own_processes() -> None:
    (command,) = launch(request_for(4, machines=SECOND_OF_TWO))
    assert command.arguments == [
        *(sys.executable, BOOT, "torch.distributed.run", "--nnodes", "2", "--node-rank", "1"),
        *("--master-addr", "10.0.0.7", "--master-port", "29500", "--rdzv-conf", "timeout=91"),
        *("--nproc-per-node", "2", *WATCHED),
        *("--", BOOT, "runner", "train", "quickstart", "--rdzv", "a:1"),
    ]
    threads = str(max(1, available_cores() // 2))
    network = {"GLOO_SOCKET_IFNAME": "eth1"}
    assert command.environment == {"OMP_NUM_THREADS": threads, **network, **AUTOLOAD}


# What operators of Kubernetes tell a pod: Kubeflow's TrainJob (Trainer 2.3), its PyTorchJob with a
# Master (Training Operator 1.9), and MindCluster's AscendJob, with two cards and with one.
MASTER = {"MASTER_ADDR": "job-0", "MASTER_PORT": "23456"}
TRAIN_JOB = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "auto",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "job-0",
    "PET_MASTER_PORT": "23456",
}
PYTORCH_JOB = {**MASTER, "WORLD_SIZE": "2", "RANK": "1", "PYTHONUNBUFFERED": "1"}
ASCEND_JOB = {
    **MASTER,
    "WORLD_SIZE": "4",
    "RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "LOCAL_RANK": "0,1",
    "MINDX_TASK_ID": "7",
}
ONE_CARD = {**ASCEND_JOB, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
PODS = [TRAIN_JOB, PYTORCH_JOB, ASCEND_JOB, ONE_CARD]


def place_of_rank(plan: Plan) -> tuple[int, int | None]:
    found = rank_of(plan)
    assert found is not None
    return found.world_size, found.local_rank


@pytest.mark.parametrize("variables", PODS)
def test_the_place_of_a_pod_is_not_that_of_a_process(plan, monkeypatch, variables) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find(plan) == Place(whole_machine=True, node_rank=1, nodes=2, host="job-0", port=23456)
    (command,) = launch(request_for(2))
    assert sorted(command.unset) == sorted(name for name in variables if name[:4] == "PET_")


@pytest.mark.parametrize("variables", PODS)
def test_in_a_pod_torchrun_still_tells_its_processes_their_place(
    plan, monkeypatch, variables
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    be_launched(monkeypatch, 1, 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    assert place_of_rank(plan) == (2, 1)


def test_a_pod_that_is_alone_or_told_nothing_has_no_place(plan, monkeypatch) -> None:
    assert find(plan) is None
    for name, value in {**PYTORCH_JOB, "WORLD_SIZE": "1", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    found = find(plan)
    assert found is not None
    assert found.nodes == 1
    assert not others_left_out(found, Machines(), Reporter())
    monkeypatch.delenv("MASTER_PORT")
    assert find(plan) is None


def test_a_job_of_torchrun_is_known_by_its_number_or_its_place(plan, monkeypatch, tmp_path) -> None:
    assert attempt(plan, Reporter()) is None
    be_launched(monkeypatch, 1, 2)
    for name, value in {**MASTER, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    anonymous = Attempt(job="none at job-0:23456", number=0, known_by="launcher")
    assert attempt(plan, Reporter()) == anonymous
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert attempt(plan, Reporter()) == Attempt(job="night", number=1)
    watched = Reporter(tmp_path / "status")
    assert attempt(plan, watched) is None  # runner itself starts that torchrun
    monkeypatch.setenv("MINDX_TASK_ID", "7")
    assert attempt(plan, watched) == Attempt(job="AscendJob 7")


def test_the_launcher_leaves_the_arguments_of_the_processes_alone() -> None:
    run = pytest.importorskip("torch.distributed.run")
    for machines in (Machines(), SECOND_OF_TWO):
        (command,) = launch(request_for(4, machines=machines))
        words = [*command.arguments[3:]]
        parsed = run.parse_args(words)
        assert (parsed.module, parsed.training_script) == (False, BOOT)
        assert parsed.training_script_args == ["runner", "train", "quickstart", "--rdzv", "a:1"]
        assert parsed.max_restarts == 0
        if machines.several:
            assert (parsed.nnodes, parsed.node_rank, parsed.master_port) == ("2", 1, 29500)


def test_the_interface_that_the_user_has_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    (command,) = launch(request_for(4, machines=SECOND_OF_TWO))
    assert "GLOO_SOCKET_IFNAME" not in command.environment


def test_a_batch_system_can_make_a_process_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(
        rank=3,
        world_size=4,
        local_rank=1,
        local_world_size=2,
        node_rank=1,
        nodes=2,
        host="10.0.0.7",
        port=29500,
        interface="eth1",
    )
    found = rank_environment(place)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.7", "29500")
    assert found["GLOO_SOCKET_IFNAME"] == "eth1"
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert env_place(os.environ) == replace(place, interface="")


def test_nccl_is_told_the_interface_towards_other_machines() -> None:
    assert network.environment(CUDA_ENTRY, SECOND_OF_TWO, {}) == {"NCCL_SOCKET_IFNAME": "eth1"}
    assert network.environment(CUDA_ENTRY, SECOND_OF_TWO, {"NCCL_SOCKET_IFNAME": "ib0"}) == {}
    assert network.environment(CUDA_ENTRY, Machines(), {}) == {}


def test_cards_have_the_numbers_that_nvidia_smi_shows() -> None:
    assert cards.environment(CUDA_ENTRY, [2, 0], {}) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "2,0",
    }


def test_threads_that_the_user_has_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (command,) = launch(request_for(2))
    assert command.environment == AUTOLOAD


def test_one_card_for_several_processes_is_refused() -> None:
    launch(request_for(2, "cuda", CudaOptions()))
    with pytest.raises(UsageError, match=r"device\.index is 1, and 2 processes take a card each"):
        launch(request_for(2, "cuda", CudaOptions(index=1)))


def test_a_process_knows_that_it_was_launched(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(plan) is None
    be_launched(monkeypatch, 3, 4)
    assert place_of_rank(plan) == (4, 3)
    monkeypatch.setenv("WORLD_SIZE", "")
    with pytest.raises(DeviceError, match=r"WORLD_SIZE is '', expected the number .* or unset it"):
        find(plan)


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
