"""Devices: what they are, why they are missing, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

import runner_torch
from runner.errors import DeviceError
from runner.framework.cores import available_cores
from runner.recipe.schema import PrecisionSection
from runner_torch.autoload import torch
from runner_torch.device import configure_cpu, open_device, probe_device, set_tf32
from runner_torch.options import CpuOptions
from runner_torch.precision import autocast
from runner_torch.traits import CPU, CUDA

if TYPE_CHECKING:
    from runner_torch.device import TorchDevice

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_the_processor_is_always_there() -> None:
    assert probe_device(CPU).available


def test_vendor_packages_are_not_loaded_by_themselves() -> None:
    assert os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"


@needs_no_gpu
def test_a_missing_gpu_is_explained() -> None:
    found = probe_device(CUDA)
    assert not found.available
    assert torch.__version__ in found.reason
    assert re.search("driver|No CUDA GPUs|built without CUDA", found.reason)


@needs_no_gpu
def test_opening_a_missing_gpu_says_what_to_do() -> None:
    with pytest.raises(DeviceError, match=r"no cuda device can be used: torch .*--device cpu"):
        open_device(CUDA)


@needs_no_gpu
def test_autocast_that_torch_would_switch_off_is_refused(device: TorchDevice) -> None:
    absent = replace(device, traits=CUDA)
    with pytest.raises(DeviceError, match=r"cannot compute in bf16: .*CUDA is not available"):
        absent.check_precision(PrecisionSection(compute="bf16"))
    with (
        pytest.warns(UserWarning, match="CUDA is not available"),
        pytest.raises(DeviceError, match=r"set precision\.loss_scale to a number"),
    ):
        absent.loss_scaler()


def test_hardware_that_only_pretends_to_have_bf16_is_refused(device: TorchDevice) -> None:
    traits = replace(CPU, hardware_bf16=lambda: False)
    with pytest.raises(DeviceError, match="the hardware has no bf16"):
        replace(device, traits=traits).check_precision(PrecisionSection(compute="bf16"))
    replace(device, traits=traits).check_precision(PrecisionSection(compute="fp16"))


@pytest.mark.parametrize(
    ("compute", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_autocast_computes_in_the_format(
    device: TorchDevice, compute: Literal["fp32", "bf16", "fp16"], dtype: torch.dtype
) -> None:
    precision = PrecisionSection(compute=compute)
    device.check_precision(precision)
    with autocast("cpu", precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_vendor_brings_its_package_and_its_loss_scaler(device: TorchDevice) -> None:
    missing = replace(CPU, vendor_package="no_such_vendor")
    found = probe_device(missing)
    assert not found.available
    assert "ModuleNotFoundError: No module named 'no_such_vendor'" in found.reason
    with pytest.raises(DeviceError, match="no_such_vendor"):
        open_device(missing)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    assert replace(device, traits=replace(CPU, loss_scaler=lambda: scaler)).loss_scaler() is scaler


def test_threads(monkeypatch: pytest.MonkeyPatch, device: TorchDevice) -> None:
    assert configure_cpu(CpuOptions(threads=2))["threads"] == torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert configure_cpu(CpuOptions())["threads"] == available_cores()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert configure_cpu(CpuOptions())["threads"] == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "auto")  # which says nothing
    assert configure_cpu(CpuOptions())["threads"] == available_cores()


def test_what_is_known_about_the_processor(device: TorchDevice) -> None:
    assert device.name == "cpu"
    assert json.loads(json.dumps(device.describe()))["device"] == "cpu"
    peak = device.peak_memory_bytes()
    assert peak is not None
    assert peak > 50 * 2**20
    device.synchronize()


def test_random_states_can_be_put_back(device: TorchDevice) -> None:
    states = device.random_states()
    first = torch.rand(3)
    device.set_random_states(states)
    assert torch.equal(torch.rand(3), first)


def test_tf32_is_off_unless_asked_for() -> None:
    for enabled in (True, False):
        set_tf32(enabled=enabled)
        assert torch.backends.cudnn.allow_tf32 is enabled
        assert torch.backends.cuda.matmul.allow_tf32 is enabled


def test_only_the_table_of_devices_names_them() -> None:
    folder = Path(runner_torch.__file__).parent
    free = {"device.py", "traits.py", "options.py", "plugin.py", "__init__.py"}
    sources = [path for path in folder.glob("*.py") if path.name not in free]
    assert len(sources) > 5
    named = {p.name for p in sources if re.search(r"cuda|\bnpu\b|\bmlu\b", p.read_text())}
    assert named == set()


def test_registration_imports_no_framework() -> None:
    code = (
        "import sys, runner_torch.plugin as p, runner_onnx.plugin as o;"
        "[list(f()) for m in (p, o) for n, f in vars(m).items() if n.startswith('runner_reg')];"
        "print([m for m in ('torch', 'torchvision', 'numpy', 'pydantic', 'onnxruntime')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
