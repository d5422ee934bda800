"""Devices: what they are, why they are missing, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("mindspore")

import runner_mindspore
from runner.errors import DeviceError
from runner_mindspore.autoload import ms
from runner_mindspore.device import FEWEST_THREADS, open_device, probe_device
from runner_mindspore.traits import ASCEND, CPU, GPU

if TYPE_CHECKING:
    from runner_mindspore.device import MindSporeDevice
    from runner_mindspore.traits import DeviceTraits

ABSENT = [
    pytest.param(
        traits,
        marks=pytest.mark.skipif(
            probe_device(traits).available, reason=f"this machine has a {traits.kind}"
        ),
    )
    for traits in (GPU, ASCEND)
]


def test_the_processor_is_always_there() -> None:
    assert probe_device(CPU).available


@pytest.mark.parametrize("traits", ABSENT)
def test_a_missing_card_is_explained_quietly(
    traits: DeviceTraits, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert traits.visible_devices is not None
    monkeypatch.setenv(traits.visible_devices, "3")
    found = probe_device(traits)
    assert not found.available
    for part in (ms.__version__, f"{traits.kind}.is_available()", traits.needs, "is '3'"):
        assert part in found.reason
    assert "\n" not in found.reason
    assert capfd.readouterr() == ("", "")


def test_the_library_that_cannot_be_loaded_is_named() -> None:
    found = probe_device(ASCEND)
    if not found.available:
        assert re.search(r"; Load dynamic library: libmindspore_ascend\S+ failed", found.reason)


@pytest.mark.parametrize("traits", ABSENT)
def test_opening_a_missing_card_says_what_to_do(traits: DeviceTraits) -> None:
    with pytest.raises(DeviceError, match=rf"no {traits.kind} device can be used: .*--device cpu"):
        open_device(traits)


class Driver:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 6)


def test_the_launcher_chooses_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("runner_mindspore.device._module", lambda traits: Driver)
    monkeypatch.setattr("runner_mindspore.device._choose", lambda target, i: chosen.append(i))
    monkeypatch.delenv("DEVICE_ID", raising=False)
    assert open_device(ASCEND).index == 0
    assert open_device(ASCEND, index=3).index == 3
    monkeypatch.setenv("DEVICE_ID", "5")
    assert open_device(ASCEND).index == 5
    assert chosen == [0, 3, 5]
    with pytest.raises(DeviceError, match=r"device\.index is 3, but the launcher .* card 5"):
        open_device(ASCEND, index=3)


def test_cards_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner_mindspore.device._module", lambda traits: Driver)
    assert probe_device(ASCEND).count == 6
    assert probe_device(CPU).count is None
    monkeypatch.delenv("DEVICE_ID", raising=False)
    with pytest.raises(DeviceError, match=r"ascend has no index 6: 6 visible.*at most 5"):
        open_device(ASCEND, index=6)


def test_a_driver_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        @staticmethod
        def is_available() -> bool:
            raise OSError("driver too old\nand more")

    monkeypatch.setattr("runner_mindspore.device._module", lambda traits: Driver)
    found = probe_device(ASCEND)
    assert not found.available
    assert found.reason.endswith("is_available() raised OSError: driver too old")


@pytest.mark.parametrize(
    ("traits", "compute", "message"),
    [
        (CPU, "bf16", r"cpu cannot compute in bf16: .* on the CPU; set .* to fp32 or fp16"),
        (GPU, "bf16", r"gpu cannot compute in bf16"),
        (replace(ASCEND, hardware_bf16=lambda: False), "bf16", "the hardware has no bf16"),
    ],
)
def test_formats_that_a_device_does_not_have_are_refused(
    device: MindSporeDevice, traits: DeviceTraits, compute: Any, message: str
) -> None:
    found = replace(device, traits=traits)
    with pytest.raises(DeviceError, match=message):
        found.check_format(compute, "auto")
    found.check_format("fp16", "auto")
    found.check_format("fp32", "auto")


def test_newer_cards_compute_in_bf16(device: MindSporeDevice) -> None:
    traits = replace(ASCEND, hardware_bf16=lambda: True)
    replace(device, traits=traits).check_format("bf16", "auto")


THREADS = """
import os
from runner.errors import DeviceError
from runner_mindspore.device import configure_cpu
from runner_mindspore.options import CpuOptions
cores = os.sched_getaffinity(0)
print(configure_cpu(CpuOptions())["threads"] == len(cores))
print(configure_cpu(CpuOptions(threads=2))["threads"])
print(configure_cpu(CpuOptions(threads=2))["threads"])
for count in (3, 10_000):
    try:
        configure_cpu(CpuOptions(threads=count))
    except DeviceError as error:
        print(error)
"""


def test_threads_are_set_once_in_a_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True
    )
    first, two, again, other, many = done.stdout.splitlines()
    assert (first, two, again) == ("True", "2", "2")
    assert re.search("use one number of threads in a process|at most 2", other)
    assert re.search(r"threads is 10000, but this process has \d+ cores", many)


LAUNCHED = """
from runner_mindspore.device import configure_cpu
from runner_mindspore.options import CpuOptions
print(configure_cpu(CpuOptions(threads={threads}))["threads"])
"""


@pytest.mark.parametrize(
    ("variable", "threads", "expected"),
    [
        ("1", None, FEWEST_THREADS),
        ("2,1", None, 2),
        ("1000", None, max(len(os.sched_getaffinity(0)), FEWEST_THREADS)),
        ("1000", 2, 2),
        ("", None, len(os.sched_getaffinity(0))),
    ],
)
def test_one_of_several_processes_takes_its_share_of_the_cores(
    variable: str, threads: int | None, expected: int
) -> None:
    several = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "OMP_NUM_THREADS": variable}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHED.format(threads=threads)],
        env={**os.environ, **several},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == expected


def test_what_is_known_about_the_processor(device: MindSporeDevice) -> None:
    assert device.name == "cpu"
    assert json.loads(json.dumps(device.describe()))["device"] == "cpu"
    peak = device.peak_memory_bytes()
    assert peak is not None
    assert peak > 50 * 2**20
    device.synchronize()


def test_only_the_table_of_devices_names_them() -> None:
    folder = Path(runner_mindspore.__file__).parent
    free = {"device.py", "traits.py", "options.py", "plugin.py", "__init__.py", "rank_table.py"}
    free |= {"importer.py", "importer_options.py"}  # which read the words of other programs
    sources = [path for path in folder.glob("*.py") if path.name not in free]
    assert len(sources) > 10
    code = {
        path.name: re.sub(r'""".*?"""|#.*', "", path.read_text(), flags=re.S) for path in sources
    }
    named = {name for name, text in code.items() if re.search(r"cuda|\bnpu\b|ascend", text, re.I)}
    assert named == set()


def test_registration_imports_no_framework() -> None:
    code = (
        "import sys, runner_mindspore.plugin as p;"
        "[list(f()) for n, f in vars(p).items() if n.startswith('runner_reg')];"
        "print([m for m in ('mindspore', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
