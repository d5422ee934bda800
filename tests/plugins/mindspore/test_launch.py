"""Command lines, environments and rank tables, checked as text; no MindSpore needed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runner.distributed.launching import cards
from runner.distributed.machines import Machines
from runner.distributed.meeting import network
from runner.entries import Command, DeviceEntry, LaunchRequest, Place
from runner.errors import DeviceError, UsageError
from runner.options import NoOptions
from runner.plugins import loading
from runner.system import interpreter
from runner_mindspore import rank_table
from runner_mindspore.launch import launch, place, pod_place, rank_table_place
from runner_mindspore.options import MindSporeOptions

LAUNCH_VARIABLES = ("MS_ROLE", "MS_WORKER_NUM", "RANK_TABLE_FILE", "RANK_SIZE", "RANK_ID")
SECOND_OF_TWO = Machines(
    count=2, rank=1, host="10.0.0.7", port=29500, address="10.0.0.8", interface="eth1"
)
CORES = len(os.sched_getaffinity(0))
OWN_BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """This environment's programs are found first, and nothing was launched."""
    monkeypatch.setenv("PATH", f"{OWN_BIN}{os.pathsep}{os.environ['PATH']}")
    for name in (*LAUNCH_VARIABLES, "MS_NODE_TIMEOUT", "MS_HEARTBEAT_RETRY_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MS_SUBMODULE_LOG_v", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def request_for(
    device: str = "ascend", count: int = 8, machines: Machines | None = None, **options: str
) -> LaunchRequest:
    machines = machines or Machines()
    return LaunchRequest(
        count=count,
        local_count=machines.share(count),
        machines=machines,
        rendezvous_s=90.5,
        arguments=["train", "recipes/resnext152_ascend.yaml"],
        device=device,
        device_options=NoOptions(),
        framework_options=MindSporeOptions(**options),  # type: ignore[arg-type]
        log_folder=Path("logs"),
    )


def words(command: Command) -> list[str]:
    """The command line without the port, which depends on what is free."""
    return [word for word in command.arguments if not word.startswith("--master_port=")]


def port(command: Command) -> int:
    (word,) = (word for word in command.arguments if word.startswith("--master_port="))
    return int(word.partition("=")[2])


def test_msrun_starts_eight_ascend_cards():
    (command,) = launch(request_for())
    assert words(command) == [
        "msrun",
        "--worker_num=8",
        "--local_worker_num=8",
        "--master_addr=127.0.0.1",
        "--cluster_time_out=91",
        "--log_dir=logs",
        "--join=True",
        "--bind_core=True",
        *("python", interpreter.BOOT, "runner", "train", "recipes/resnext152_ascend.yaml"),
    ]
    assert command.environment == {"MS_SUBMODULE_LOG_v": "{DISTRIBUTED:3}"}


def test_on_several_machines_each_starts_its_own_processes():
    (command,) = launch(request_for("cpu", 4, SECOND_OF_TWO))
    assert command.arguments == [
        "msrun",
        "--worker_num=4",
        "--local_worker_num=2",
        "--master_addr=10.0.0.7",
        "--master_port=29500",
        "--node_rank=1",
        "--cluster_time_out=91",
        "--log_dir=logs",
        "--join=True",
        *("python", interpreter.BOOT, "runner", "train", "recipes/resnext152_ascend.yaml"),
    ]


def test_the_libraries_are_told_the_way_to_other_machines():
    registry = loading.load(environ={})
    found = registry.entries(DeviceEntry, "mindspore")
    entries = {item.entry.name: item.entry for item in found}
    assert network.environment(entries["ascend"], SECOND_OF_TWO, {}) == {"HCCL_IF_IP": "10.0.0.8"}
    assert network.environment(entries["gpu"], SECOND_OF_TWO, {}) == {"NCCL_SOCKET_IFNAME": "eth1"}
    assert network.environment(entries["cpu"], SECOND_OF_TWO, {}) == {}
    assert cards.environment(entries["ascend"], [4, 5], {}) == {"ASCEND_RT_VISIBLE_DEVICES": "4,5"}


def test_on_the_cpu_cores_are_shared_and_times_are_set():
    (command,) = launch(request_for("cpu", 2))
    assert "--worker_num=2" in command.arguments
    assert not [word for word in command.arguments if word.startswith("--bind")]
    assert command.environment["OMP_NUM_THREADS"] == str(max(1, CORES // 2))
    assert command.environment["MS_NODE_TIMEOUT"] == "10"
    assert command.environment["MS_HEARTBEAT_RETRY_TIMEOUT"] == "10"


POD = {
    "MS_ROLE": "MS_WORKER",
    "MS_WORKER_NUM": "4",
    "MS_LOCAL_WORKER": "2",
    "MS_NODE_RANK": "1",
    "MS_SCHED_HOST": "job-0",
    "MS_SCHED_PORT": "8118",
    "MINDX_TASK_ID": "7",
}
"""What the AscendJob of MindCluster's operator tells a pod."""


def test_the_place_of_a_pod_is_not_that_of_a_process(monkeypatch):
    for name, value in POD.items():
        monkeypatch.setenv(name, value)
    assert (place(os.environ), rank_table_place(os.environ)) == (None, None)
    machine = Place(whole_machine=True, node_rank=1, nodes=2, host="job-0", port=8118)
    assert pod_place(os.environ) == machine
    (command,) = launch(request_for("cpu", 2))
    assert set(POD) - set(command.unset) == {"MINDX_TASK_ID"}


@pytest.mark.parametrize("role", ["MS_WORKER", "MS_SCHED"])
def test_in_a_pod_msrun_still_tells_its_processes_their_place(monkeypatch, role):
    for name, value in {**POD, "MS_ROLE": role, "RANK_ID": "0", "DEVICE_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    found = place(os.environ)
    assert found is not None
    assert found.world_size == 4
    assert found.local_rank == found.rank == (0 if role == "MS_WORKER" else None)
    assert pod_place(os.environ) is None


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("MS_NODE_TIMEOUT", "99")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (command,) = launch(request_for("cpu", 2))
    assert "OMP_NUM_THREADS" not in command.environment
    assert "MS_NODE_TIMEOUT" not in command.environment


def test_msrun_finds_this_interpreter(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    (command,) = launch(request_for())
    path = command.environment["PATH"]
    assert path == f"{OWN_BIN}{os.pathsep}/usr/bin"
    python = command.arguments[command.arguments.index(interpreter.BOOT) - 1]
    found = shutil.which(python, path=path)
    assert found is not None
    assert Path(found).samefile(sys.executable)


def test_the_port_is_free_and_the_same_when_asked_again():
    first = port(launch(request_for())[0])
    assert port(launch(request_for())[0]) == first
    with socket.socket() as other_job:
        other_job.bind(("127.0.0.1", first))
        assert port(launch(request_for())[0]) != first


def test_runs_with_other_folders_use_other_ports():
    request = request_for()
    other = replace(request, log_folder=Path("other"))
    assert port(launch(request)[0]) != port(launch(other)[0])


def card(device: int, rank: int, server: int = 1) -> dict[str, str]:
    return {
        "device_id": str(device),
        "device_ip": f"192.168.{100 + device % 4}.{server}0{device // 4}",
        "rank_id": str(rank),
    }


def two_servers() -> dict[str, object]:
    return {
        "version": "1.0",
        "server_count": "2",
        "server_list": [
            {
                "server_id": f"10.0.0.{server}",
                "device": [card(i, (server - 1) * 8 + i, server) for i in range(8)],
                "host_nic_ip": "reserve",
            }
            for server in (1, 2)
        ],
        "status": "completed",
    }


@pytest.fixture
def table_file(tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(two_servers()), encoding="utf-8")
    return path


def test_rank_table_gives_each_process_its_card(table_file):
    commands = launch(request_for(count=16, launcher="rank_table", rank_table=str(table_file)))
    assert len(commands) == 16
    assert list(commands[9].arguments) == ["runner", "train", "recipes/resnext152_ascend.yaml"]
    assert commands[9].environment == {
        "RANK_TABLE_FILE": str(table_file),
        "RANK_SIZE": "16",
        "RANK_ID": "9",
        "DEVICE_ID": "1",
        "HCCL_CONNECT_TIMEOUT": "91",  # distributed.rendezvous_s, in whole seconds
        "DEPLOY_MODE": "0",
        "GE_USE_STATIC_MEMORY": "1",
    }
    assert (commands[7].host, commands[8].host) == ("10.0.0.1", "10.0.0.2")
    assert [command.environment["RANK_ID"] for command in commands] == [
        str(rank) for rank in range(16)
    ]


def test_rank_table_must_be_there_and_fit(table_file, tmp_path):
    missing = str(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"cannot read rank table .*none\.json: No such file"):
        launch(request_for(launcher="rank_table", rank_table=missing))
    with pytest.raises(UsageError, match="has 16 devices, the recipe asks for 8"):
        launch(request_for(launcher="rank_table", rank_table=str(table_file)))
    with pytest.raises(UsageError, match="rank tables are for the cards of device ascend"):
        launch(request_for("cpu", 16, launcher="rank_table", rank_table=str(table_file)))
    with pytest.raises(UsageError, match=r"says which machines there are .* leave out --nnodes"):
        launch(
            request_for(
                "ascend", 16, SECOND_OF_TWO, launcher="rank_table", rank_table=str(table_file)
            )
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"launcher": "rank_table"}, "launcher rank_table needs rank_table, the file"),
        ({"rank_table": "table.json"}, "rank_table has no effect with launcher msrun"),
    ],
)
def test_launcher_and_table_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        MindSporeOptions(**options)


def change(table, *keys_and_value):
    *keys, last, value = keys_and_value
    for key in keys:
        table = table[key]
    table[last] = value


@pytest.mark.parametrize(
    ("place_and_value", "message"),
    [
        (("version", "2.0"), r"version: .*'1\.0', found '2\.0'"),
        (("status", "initializing"), "status: .*'completed', found 'initializing'"),
        (("server_count", "3"), "server_count: found '3', but server_list has 2 servers"),
        (("server_list", 1, "device", 2, "device_id", 2), r"server_list\.1\.device\.2\.device_id:"),
        (
            ("server_list", 0, "device", 3, "rank_id", "4"),
            r".*rank_id: .*missing: 3; repeated or unexpected: 4",
        ),
        (("server_list", 0, "server_id", None), r"server_list\.0\.server_id: .*found None"),
    ],
)
def test_wrong_tables_name_file_and_key(tmp_path, place_and_value, message):
    table = two_servers()
    change(table, *place_and_value)
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(UsageError, match=rf"wrong\.json: {message}"):
        rank_table.read(path)


def test_a_table_cut_short_is_named(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text('{"version": "1.0",', encoding="utf-8")
    with pytest.raises(UsageError, match=r"cut\.json: file: Invalid JSON"):
        rank_table.read(path)


def write_addresses(folder: Path, server: int) -> Path:
    path = folder / f"hccn{server}.conf"
    lines = [f"address_{i}={card(i, 0, server)['device_ip']}\nnetmask_{i}=x\n" for i in range(8)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_tables_are_written_and_merged_in_order(tmp_path, capsys):
    for server in (1, 2):
        addresses = str(write_addresses(tmp_path, server))
        arguments = ["make", "--server", f"10.0.0.{server}", "--addresses", addresses]
        assert rank_table.main([*arguments, "--folder", str(tmp_path)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in written] == [
        "hccl_8p_01234567_10.0.0.1.json",
        "hccl_8p_01234567_10.0.0.2.json",
    ]
    merge = ["merge", *map(str, written), "--folder", str(tmp_path)]
    assert rank_table.main(merge) == 0
    merged = Path(capsys.readouterr().out.strip())
    assert merged.name == "hccl_2s_16p.json"
    assert json.loads(merged.read_text(encoding="utf-8")) == two_servers()
    assert rank_table.read(merged).ranks[9][0] == "10.0.0.2"


@pytest.mark.parametrize("devices", ["0-3", "4-5", "4,5", "7", "0-7"])
def test_cards_of_one_ring_or_all_work_together(devices, tmp_path, capsys):
    arguments = ["make", "--server", "10.0.0.1", "--devices", devices, "--folder", str(tmp_path)]
    addresses = ["--addresses", str(write_addresses(tmp_path, 1))]
    assert rank_table.main([*arguments, *addresses]) == 0
    ranks = rank_table.read(Path(capsys.readouterr().out.strip())).ranks
    assert [card.rank_id for _, card in ranks] == [str(rank) for rank in range(len(ranks))]


@pytest.mark.parametrize("devices", [[2, 3, 4, 5], [0, 2], [0, 1, 2, 3, 4, 5, 6], [7, 8]])
def test_other_cards_do_not(devices):
    with pytest.raises(UsageError, match="cannot work together"):
        rank_table.make("10.0.0.1", devices, dict.fromkeys(devices, "192.168.0.1"))


def test_what_is_missing_for_a_table_is_named(tmp_path, capsys):
    with pytest.raises(UsageError, match=r"no address known for cards 2, 3; .*address_0="):
        rank_table.make("10.0.0.1", [0, 1, 2, 3], {0: "a", 1: "b"})
    arguments = ["make", "--server", "10.0.0.1", "--addresses", str(tmp_path / "none")]
    assert rank_table.main(arguments) == 2
    assert "cannot read" in capsys.readouterr().err
    one = rank_table.make("10.0.0.1", [0], {0: "a"})
    with pytest.raises(UsageError, match=r"server 10\.0\.0\.1 is in two of the tables"):
        rank_table.merge([one, one])


def test_a_table_and_a_choice_of_cards_exclude_each_other(tmp_path):
    """The choice numbers the cards anew, from 0; the table has the numbers of before."""
    path = write_addresses(tmp_path, 1)
    make = ["make", "--server", "10.0.0.1", "--devices", "4-7", "--addresses", str(path)]
    assert rank_table.main([*make, "--folder", str(tmp_path)]) == 0
    [table] = tmp_path.glob("hccl_*.json")
    request = request_for(count=4, launcher="rank_table", rank_table=str(table))
    assert [c.environment["DEVICE_ID"] for c in launch(request)] == ["4", "5", "6", "7"]
    with pytest.raises(UsageError, match=r"device\.cards names 4,5,6,7, and .* --devices 4,5,6,7"):
        launch(replace(request, cards=[4, 5, 6, 7]))


def test_a_launched_process_knows_how_many_there_are(monkeypatch):
    assert rank_table_place(os.environ) is None
    monkeypatch.setenv("RANK_TABLE_FILE", "table.json")  # left over in a user's profile
    assert rank_table_place(os.environ) is None
    monkeypatch.setenv("RANK_ID", "3")
    monkeypatch.setenv("RANK_SIZE", "16")
    assert rank_table_place(os.environ) == Place(rank=3, world_size=16)
    monkeypatch.delenv("RANK_SIZE")
    with pytest.raises(DeviceError, match=r"RANK_SIZE is '', expected a number"):
        rank_table_place(os.environ)


@pytest.mark.parametrize("role", ["MS_WORKER", "MS_SCHED"])
def test_processes_of_msrun_know_how_many_there_are(monkeypatch, role):
    monkeypatch.setenv("MS_ROLE", role)
    monkeypatch.setenv("MS_WORKER_NUM", "8")
    found = place(os.environ)
    assert found is not None
    assert found.world_size == 8


def test_launching_imports_no_mindspore():
    import subprocess

    code = (
        "import os, sys; from runner_mindspore.launch import place; "
        "place(os.environ); assert 'mindspore' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
