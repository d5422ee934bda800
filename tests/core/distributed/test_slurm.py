"""Runs under SLURM, whose programs are stood in for by ``slurm_tools``."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from runner.distributed.machine_options import from_options
from runner.distributed.machines import Machines
from runner.distributed.place import take
from runner.distributed.reporting.reporter import Reporter
from runner.distributed.slurm import environment
from runner.entries import Attempt, Place
from runner.errors import UsageError
from runner.planning.loading import load
from runner.storage import checkpoint

TOOLS = Path(__file__).with_name("slurm_tools.py")
NODES = "sim[0-1]"
FAKE_DISTRIBUTION = Path(__file__).parents[2] / "data" / "third_party" / "fake_framework"
SLOW = ("--set", "framework.seconds_per_step=0.1")
SAVES = ("--set", "checkpoint.every_steps=5")


def install(folder: Path) -> None:
    """Write the programs into a folder for ``PATH``."""
    folder.mkdir()
    for name in ("srun", "scontrol"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {TOOLS} {name} "$@"\n')
        program.chmod(0o755)


def signal_steps(job: str, number: signal.Signals, **variables: int) -> int:
    """Signal all processes of a job's steps, as SLURM does, and return how many there were.

    The batch script is none of them.

    Args:
        job: Number of the job.
        number: The signal.
        variables: What else they have in their environment, such as the number of their node.
    """
    marks = {f"SLURM_JOB_ID={job}".encode(), b"SIM_STEP=1"}
    marks |= {f"{name}={value}".encode() for name, value in variables.items()}
    count = 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if marks <= set(path.read_bytes().split(b"\0")):
                os.kill(int(path.parent.name), number)
                count += 1
    return count


@pytest.fixture
def job(monkeypatch) -> str:
    """Provide the number of a job that no other test has, nor the port that follows from it."""
    number = str(random.randrange(10**6, 10**7))
    monkeypatch.setenv("SLURM_JOB_ID", number)
    monkeypatch.setenv("SLURM_JOB_NODELIST", NODES)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    return number


@pytest.fixture
def cluster(project, job, monkeypatch) -> Cluster:
    """Provide SLURM's programs."""
    tools = project.path / "slurm"
    install(tools)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SIM_REQUEUED", str(project.path / "requeued"))
    return Cluster(project=project, job=job)


@dataclass(frozen=True)
class Cluster:
    project: Any
    job: str

    def step(self, *arguments, nodes=1, each=2):
        """Start the same command as each task of a step."""
        tasks = ("srun", f"--nodes={nodes}", f"--ntasks-per-node={each}")
        return self.start(*tasks, sys.executable, "-m", "runner", *arguments)

    def start(self, *command):
        return subprocess.Popen(
            command,
            cwd=self.project.path,
            env={**os.environ, "PYTHONPATH": str(FAKE_DISTRIBUTION)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def finish(process):
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err

    def requeued(self) -> list[str]:
        file = Path(os.environ["SIM_REQUEUED"])
        return file.read_text().split() if file.exists() else []


def in_a_step(**changes: str) -> dict[str, str]:
    """Return what task 5 of 8, on the second of two nodes, sees."""
    return {
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node-a",
        "SLURM_STEP_ID": "2",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
        "SLURM_NODEID": "1",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        **changes,
    }


def test_with_one_task_for_each_device_slurm_says_the_rank():
    place = environment.place(in_a_step())
    assert place is not None
    assert (place.rank, place.world_size, place.local_rank, place.local_world_size) == (5, 8, 1, 4)
    assert (place.nodes, place.node_rank, place.host) == (2, 1, "node-a")
    assert place.port == environment.port(in_a_step())
    assert place.port != environment.port(in_a_step(SLURM_STEP_ID="3"))
    assert place.port in environment.PORTS


def test_with_one_task_on_each_machine_that_task_starts_the_processes():
    each = in_a_step(SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="1", SLURM_LOCALID="0")
    assert environment.place(each) == Place(whole_machine=True, node_rank=1, nodes=2)
    assert environment.place({}) is None
    assert environment.place({"SLURM_JOB_ID": "77", "SLURM_PROCID": "0"}) is None


def test_a_step_has_the_same_number_when_its_job_is_queued_again():
    first = environment.attempt(in_a_step())
    assert first == Attempt(job="slurm 77.2", number=0, known_by="count")
    assert environment.attempt(in_a_step(SLURM_RESTART_COUNT="1")) == replace(first, number=1)
    assert environment.attempt({"SLURM_JOB_ID": "77"}) is None


@pytest.mark.parametrize(
    ("changes", "devices", "words"),
    [
        ({}, 4, r"8 tasks on 2 nodes, and the recipe asks for 4 devices: .*per-node=1.*devices 8"),
        ({"SLURM_STEP_TASKS_PER_NODE": "5,3"}, 8, r"one has more than another \(5, 3\)"),
        ({"SLURM_LOCALID": "2"}, 8, r"task 5 .* is number 2 on node 1.*--distribution=block"),
        ({"SLURM_JOB_NODELIST": ""}, 8, r"names its nodes; add --rdzv"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(changes, devices, words):
    def read(environ):
        environment.place(environ)
        environment.check_tasks(environ, devices)

    with pytest.raises(UsageError, match=words):
        read(in_a_step(**changes))


def test_the_first_node_is_asked_for(cluster, monkeypatch):
    environ = in_a_step(SLURM_STEP_NODELIST="sim[0-1]", SLURM_STEP_NUM_TASKS="2")
    assert from_options("", None, "", environ).host == "127.0.0.1"
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match=r"scontrol show hostnames sim\[0-1\] does not tell"):
        environment.meeting_point(environ)


def test_threads_follow_the_cores_of_a_task():
    assert environment.threads({"SLURM_CPUS_PER_TASK": "6"}) == {"OMP_NUM_THREADS": "6"}
    assert environment.threads({"SLURM_CPUS_PER_TASK": "6", "OMP_NUM_THREADS": "2"}) == {}
    assert environment.threads({}) == {}


def test_a_framework_without_ranks_of_its_own_needs_one_task_on_each_machine(project, monkeypatch):
    for name, value in in_a_step().items():
        monkeypatch.setenv(name, value)
    plan = load(str(project.write_recipe()), ["device.count=8"]).plan
    entry = replace(plan.framework_entry, rank_environment=None)
    plan = replace(plan, framework=replace(plan.framework, entry=entry))
    with pytest.raises(UsageError, match=r"8 tasks, .* fake needs its own launcher: .*per-node=1"):
        take(plan, Machines(), Reporter())
    with pytest.raises(UsageError, match="leave out --nnodes"):
        take(
            load(str(project.write_recipe()), ["device.count=8"]).plan,
            Machines(count=2, port=1),
            Reporter(),
        )


def test_machines_are_not_named_beside_a_launcher(project, monkeypatch):
    monkeypatch.setenv("RUNNER_FAKE_WORLD_SIZE", "2")
    plan = load(str(project.write_recipe()), ["device.count=2"]).plan
    with pytest.raises(UsageError, match=r"a launcher has started 2 processes.*leave out --nnodes"):
        take(plan, Machines(count=2, port=1), Reporter())


def test_tasks_for_each_device_train_together(project, cluster):
    recipe = project.write_recipe()
    code, out, err = cluster.finish(cluster.step("run", recipe, "--devices", "2", "--json"))
    assert code == 0, err
    assert json.loads(out)["world_size"] == 2


def test_one_task_on_each_machine_needs_no_options(project, cluster):
    recipe = project.write_recipe()
    process = cluster.step("run", recipe, "--devices", "2", "--json", nodes=2, each=1)
    code, out, err = cluster.finish(process)
    assert code == 0, err
    assert json.loads(out)["world_size"] == 2
    assert "--node-rank" not in err, "the command is the user's"
    assert err.count("launch: ") == 2


def start_job(project, cluster, *options):
    """Write a batch script, start it, wait for a checkpoint; return script, process and runs."""
    batch = project.path / "job.sh"
    recipe = project.write_recipe()
    written = project.runner(
        "launch", recipe, "--slurm", "--output", batch, *options, *SLOW, *SAVES
    )
    assert written.code == 0, written.err
    process = cluster.start("bash", str(batch))
    runs = project.path / "runs" / f"slurm-{cluster.job}"
    project.wait_for(lambda: [*runs.glob("*/*/checkpoints/step_*")])
    return batch, process, runs


@pytest.mark.slow
def test_a_job_that_gives_way_is_queued_again_and_continues_its_run(project, cluster):
    options = ("--devices", "4", "--nnodes", "2", "--sbatch=--partition=gpu")
    batch, process, runs = start_job(project, cluster, *options)
    assert signal_steps(cluster.job, signal.SIGTERM) > 4, "launchers get it as well"
    code, _, err = cluster.finish(process)
    assert code == 143, err
    assert cluster.requeued() == [cluster.job]
    [folder] = [path.parent for path in runs.glob("*/*/manifest.json")]
    saved = checkpoint.load(checkpoint.latest(folder / "checkpoints")).info

    code, _, err = cluster.finish(cluster.start("bash", str(batch)))
    assert code == 0, err
    [result] = runs.glob("*/*/result.json")
    assert result.parent == folder
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    [resumed] = [event for event in events if event["event"] == "run.resumed"]
    assert resumed["step"] == saved.position.step

    code, out, _ = cluster.finish(cluster.start("bash", str(batch)))
    assert code == 0
    assert "is finished" in out
    assert cluster.requeued() == [cluster.job]


@pytest.mark.slow
def test_a_job_that_may_goes_on_without_a_node_that_was_lost(project, cluster):
    options = ("--devices", "2", "--nnodes", "1:2", "--set", "distributed.restarts=1")
    _, process, runs = start_job(project, cluster, *options)
    assert signal_steps(cluster.job, signal.SIGKILL, SLURM_NODEID=1) > 1
    code, _, err = cluster.finish(process)
    assert code == 0, err
    assert "devices: 1 of the 2 that the recipe asks for" in err
    [result] = runs.glob("*/*/result.json")
    assert json.loads(result.read_text())["world_size"] == 1


def test_the_batch_script_is_what_was_asked_for(project):
    recipe = project.write_recipe()
    written = project.runner(
        *("launch", recipe, "--devices", "32", "--nnodes", "2:4", "--slurm"),
        *("--sbatch=--partition=gpu", "--sbatch=--signal=TERM@300", "--sbatch=--no-requeue"),
        *("--set", "train.batch_size=32", "--runs-dir", "my runs"),
    )
    assert written.code == 0, written.err
    subprocess.run(["bash", "-n"], input=written.out, text=True, check=True)
    directives = [
        line.removeprefix("#SBATCH ")
        for line in written.out.splitlines()
        if line.startswith("#SBATCH")
    ]
    assert directives == [
        "--job-name=colours",
        "--nodes=4",
        "--ntasks-per-node=1",
        "--open-mode=append",
        "--no-kill",
        "--partition=gpu",
        "--signal=TERM@300",
        "--no-requeue",
    ]
    assert "runs='my runs'/slurm-$SLURM_JOB_ID" in written.out
    assert f"command=(run {recipe} --devices 32 --set train.batch_size=32" in written.out
    assert '--nnodes 2:4 --rdzv "$head:$port"' in written.out
    assert "  --kill-on-bad-exit=0 --wait=0 --no-kill \\\n" in written.out
    assert 'command=(resume "$run" --devices 32)' in written.out
    spaced = recipe.rename(recipe.with_name("two words.yaml"))
    done = project.runner("launch", spaced, "--devices", "2", "--nnodes", "2", "--slurm")
    assert "#SBATCH --job-name='two words'" in done.out


def test_no_text_becomes_a_directive_or_a_command(project):
    """Names and values with quotes, variables and line breaks are one word each, or refused."""
    odd = project.write_recipe(name="a'b $(touch made) `touch made`")
    runs = "r\n#SBATCH --array=1-9\ntouch made"
    options = ("--devices", "2", "--nnodes", "2", "--slurm", "--runs-dir", runs)
    value = 'summary=x"; touch made; $(touch made)'
    written = project.runner("launch", odd, *options, "--set", value)
    assert written.code == 0, written.err
    assert "#SBATCH --array" not in written.out.splitlines()
    lines = written.out.splitlines()
    settings = [line for line in lines if line.startswith(("runs=", "  command="))]
    show = r'printf "%s\0" "$runs" "${command[@]}"'
    shown = "\n".join(["SLURM_JOB_ID=1", "run=x", *settings, show])
    done = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True)
    words = done.stdout.split("\0")
    assert words[0] == f"{runs}/slurm-1"
    assert not (project.path / "made").exists()
    broken = odd.rename(odd.with_name("x\n#SBATCH --array=1-9\n.yaml"))
    refused = project.runner("launch", broken, *options)
    assert refused.code == 2
    assert ":1:1: the file's name holds the control character \\n; rename it" in refused.err
    folded = project.write_recipe().with_name("folded.yaml")
    text = project.write_recipe().read_text()
    folded.write_text(text.replace("summary: Colours", "summary: |\n  x\n  #SBATCH -a 1\n  y"))
    written = project.runner("launch", folded, *options)
    assert written.code == 0
    assert "#SBATCH -a" not in written.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sbatch", "--nodes=3"], "the script decides --nodes"),
        (["--sbatch", "-p gpu"], "expected one long option"),
        (["--sbatch", "--comment=two words"], "expected one long option"),
        (["--rdzv", "a:1"], "--rdzv has no effect with --slurm"),
    ],
)
def test_options_that_a_batch_script_cannot_have_are_refused(project, options, words):
    recipe = project.write_recipe()
    done = project.runner("launch", recipe, "--devices", "2", "--nnodes", "2", "--slurm", *options)
    assert done.code == 2
    assert words in done.err


def test_launch_prints_the_command_of_each_machine(project):
    recipe = project.write_recipe()
    done = project.runner(
        *("launch", recipe, "--devices", "2", "--nnodes", "2", "--rdzv", "node-0:29500"),
        *("--set", "train.epochs=2"),
    )
    assert done.code == 0, done.err
    common = f"runner run {recipe} --devices 2 --set train.epochs=2"
    assert done.out.splitlines() == [
        f"{common} --nnodes 2 --rdzv node-0:29500 --node-rank {rank}  # on machine {rank}"
        for rank in range(2)
    ]
    done = project.runner("launch", recipe, "--devices", "4", "--nnodes", "3", "--rdzv", "a:1")
    assert done.code == 2
    assert "4 devices on 3 machines" in done.err
    done = project.runner("launch", recipe, "--sbatch=--partition=gpu")
    assert "--sbatch is for a batch script: add --slurm" in done.err
    done = project.runner("launch", recipe, "--rdzv", "a:1")
    assert "--rdzv has no effect on one machine: add --nnodes N" in done.err
