"""Two processes of msrun on the CPU: what they add, average, share, and how they leave."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from runner.entries import LaunchRequest
from runner_mindspore.launch import launch
from runner_mindspore.options import MindSporeOptions

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("mindspore")

SCRIPT = """
import json, os, time
from pathlib import Path

import numpy as np

from runner_mindspore.autoload import Tensor, ms, nn
from runner_mindspore.device import open_cpu
from runner_mindspore.group import join
from runner_mindspore.options import CpuOptions

group = join(open_cpu(CpuOptions(threads=1)))
rank = group.rank
found = {"role": os.environ["MS_ROLE"], "world_size": group.world_size}

# 2**40 and 1 need more digits than the float32 sums of the CPU have.
found["sum"] = group.sum([2**40 - 1 + rank, 1 / 3, -1.0, float("nan") if rank else 0.0])


def parameters(value):
    arrays = [np.full((2, 3), value), np.full((1,), 10 * value), np.float32(100 * value)]
    tensors = [Tensor(array.astype(np.float32)) for array in arrays]
    return [ms.Parameter(tensor, name=f"p{i}") for i, tensor in enumerate(tensors)]


class Reduce(nn.Cell):
    def __init__(self, reducer):
        super().__init__()
        self.reducer = reducer

    def construct(self, first, second, third):
        return self.reducer((first, second, third))


class Read(nn.Cell):  # compiled before the values change, as an engine's steps are
    def __init__(self, parameter):
        super().__init__()
        self.parameter = parameter

    def construct(self):
        return self.parameter * 2


values = lambda tensors: [np.unique(tensor.asnumpy()).tolist() for tensor in tensors]
for name, mode in (("graph", ms.GRAPH_MODE), ("pynative", ms.PYNATIVE_MODE)):
    ms.set_context(mode=mode)
    mine = parameters(rank + 1)
    shapes = [parameter.shape for parameter in mine]
    read = Read(mine[0])
    read()
    reduce = Reduce(group.gradient_reducer(mine))
    found[f"{name} gradients"] = values(reduce(*parameters(4 * rank + 1)))
    group.mean_in_place(mine)
    found[f"{name} mean"] = [*values(mine), *values([read()])]
    mine = parameters(rank + 1)
    group.broadcast_in_place(mine)
    found[f"{name} broadcast"] = values(mine)
    assert [parameter.shape for parameter in mine] == shapes

if rank == 1:
    time.sleep(1)
    Path("late").touch()
group.close()
found["waited"] = Path("late").exists()
Path(f"rank{rank}.json").write_text(json.dumps(found))
"""


def run_with_msrun(folder: Path) -> subprocess.CompletedProcess[str]:
    """Start the script as core starts ``runner``."""
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    request = LaunchRequest(
        count=2,
        arguments=[],
        device="cpu",
        framework_options=MindSporeOptions(),
        log_folder=folder / "logs",
    )
    (command,) = launch(request)
    arguments = [word for word in command.arguments if word not in {"-m", "runner"}]
    return subprocess.run(
        [*arguments, "script.py"],
        cwd=folder,
        env={**os.environ, **command.environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_processes_work_together(tmp_path):
    done = run_with_msrun(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    # The scheduler runs the script as well, and must not come past join().
    assert len(list(tmp_path.glob("rank*.json"))) == 2
    for rank in range(2):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8"))
        total = found.pop("sum")
        assert total[:3] == [2**41 - 1, 2 / 3, -2.0]
        assert total[3] != total[3]  # not a number on one rank, so on all
        assert found == {
            "role": "MS_WORKER",
            "world_size": 2,
            "waited": True,
            **{f"{mode} gradients": [[3.0], [30.0], [300.0]] for mode in ("graph", "pynative")},
            **{f"{mode} mean": [[1.5], [15.0], [150.0], [3.0]] for mode in ("graph", "pynative")},
            **{f"{mode} broadcast": [[1.0], [10.0], [100.0]] for mode in ("graph", "pynative")},
        }
