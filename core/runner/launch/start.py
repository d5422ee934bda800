"""From a plan for several devices to the result of the processes that carry it out."""

from __future__ import annotations

import ctypes
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, final

from runner.entries import LaunchRequest
from runner.errors import DeviceError, OtherRankError
from runner.launch import status as channel
from runner.launch.status import STATUS
from runner.machines import Machines
from runner.plan import check_devices, check_runnable, missing_device
from runner.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from runner.contracts import Availability
    from runner.entries import Command
    from runner.events import EventLog
    from runner.plan import Plan

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 10.0
"""Time in which a launcher may end what it has started."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h
WATCH_S = 0.2
"""How often it is looked which processes there are, and whether the launcher has ended."""


def is_needed(plan: Plan) -> bool:
    """Say whether the recipe asks for several devices and no launcher has started this process.

    Raises:
        DeviceError: A launcher has started another number of processes, or the framework works on
            one device.
    """
    check_devices(plan)
    count, ask = plan.recipe.device.count, plan.framework_entry.launched_world_size
    launched = ask() if ask else None
    if launched is not None and launched != count:
        raise DeviceError(
            f"a launcher has started {launched} processes, and the recipe asks for {count} "
            f"device{'s' if count > 1 else ''}; add --devices {launched}, or start {count}"
        )
    return count > 1 and launched is None


def commands(plan: Plan, arguments: Sequence[str], log_folder: Path) -> Sequence[Command]:
    """Return what starts ``runner`` with some arguments on the recipe's devices.

    Raises:
        DeviceError: The framework has no launcher.
    """
    count, launch = plan.recipe.device.count, plan.framework_entry.launch
    if launch is None:
        raise DeviceError(
            f"the recipe asks for {count} {plan.device_entry.name} devices, and "
            f"{plan.framework_entry.name} has no launcher that would start one process for each; "
            "start them yourself, or add --devices 1"
        )
    return launch(
        LaunchRequest(
            count=count,
            local_count=count,
            arguments=arguments,
            device=plan.device_entry.name,
            device_options=plan.recipe.device.options,
            framework_options=plan.recipe.framework.options,
            machines=Machines(),
            rendezvous_s=plan.recipe.distributed.rendezvous_s,
            log_folder=log_folder,
        )
    )


def line(command: Command) -> str:
    """Write a command as a shell takes it."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
    place = [f" # on {command.host}"] if command.host else []
    return " ".join([*variables, shlex.join(command.arguments), *place])


def log_folder(folder: Path) -> Path:
    """Return a new name beside the run folders, for what the processes print."""
    return folder / datetime.now().strftime("%Y%m%d-%H%M%S.launch")


def carry_out(
    plan: Plan, arguments: Sequence[str], folder: Path, events: EventLog, *, exporting: bool
) -> dict[str, Any] | None:
    """Start the processes, wait for them, and return the result of the run.

    Args:
        plan: The recipe, which asks for several devices.
        arguments: Arguments of ``runner`` in each process.
        folder: Where run folders are made.
        events: Receives the commands.
        exporting: Whether the run writes the artifacts that the recipe lists.

    Raises:
        RunnerError: Something is not installed, a device or a value is missing, or the user has
            to start the processes; or a process has ended without saying why.
        SystemExit: The run has ended with another status than 0, and has said why.
    """
    check_runnable(plan, training=plan.recipe.train is not None, exporting=exporting)
    found = probe(plan.framework_entry.name, plan.device_entry.name)
    if not found.available:
        raise missing_device(plan, found.reason)
    _check_count(plan, found)
    plan.check_complete()
    prepared = commands(plan, arguments, log_folder(folder))
    events.emit("run.launched", commands=[line(command) for command in prepared])
    if len(prepared) > 1:
        raise DeviceError(
            f"the {len(prepared)} commands above start the processes, one for each device; "
            "start them all at the same time, each in a shell of its own"
        )
    with tempfile.TemporaryDirectory(prefix="runner-launch-") as place:
        status = Path(place) / "status"
        status.touch()
        return _Launched(_start(prepared[0], status), status).wait()


def _check_count(plan: Plan, found: Availability) -> None:
    """Refuse more processes than there are devices, before each of them would."""
    asked, entry = plan.recipe.device.count, plan.device_entry
    if found.count is not None and found.count < asked:
        chosen = f" ({entry.visible_devices} chooses which)" if entry.visible_devices else ""
        raise DeviceError(
            f"the recipe asks for {asked} {entry.name} devices, and {found.count} are visible"
            f"{chosen}; add --devices {found.count}, which keeps the global batch, or start the "
            "processes on several machines"
        )


def _end_with_this_process() -> Callable[[], None]:
    """What lets the kernel interrupt a child when its parent is killed, where the kernel can."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for background jobs
        if prctl:
            prctl(PR_SET_PDEATHSIG, signal.SIGINT)

    return prepare


def _start(command: Command, status: Path) -> subprocess.Popen[bytes]:
    try:
        # A session of its own: Ctrl-C reaches this process alone, which passes it on.
        return subprocess.Popen(
            command.arguments,
            env={**os.environ, **command.environment, STATUS: str(status)},
            stdout=2,  # standard error: the result, which this process prints, stands alone
            start_new_session=True,
            preexec_fn=_end_with_this_process(),  # noqa: PLW1509  no threads here
        )
    except OSError as error:
        raise DeviceError(
            f"the launcher {command.arguments[0]} cannot be started: {error.strerror}; "
            "expected a program in PATH"
        ) from error


class _EndedError(Exception):
    """A signal ends everything."""


@final
class _Launched:
    """A launcher that runs."""

    def __init__(self, child: subprocess.Popen[bytes], status: Path) -> None:
        self._child = child
        self._status = status
        self._asked = False
        self._ended: list[int] = []
        self._seen: set[int] = set()
        self._watched: set[int] = set()

    def wait(self) -> dict[str, Any] | None:
        """Pass signals on until it ends, and return the run's result.

        Raises:
            OtherRankError: A process has ended without saying why.
            SystemExit: The run has ended with another status than 0.
        """
        previous = {number: signal.signal(number, self._forward) for number in FORWARDED}
        try:
            code = self._watch()
        except _EndedError as ended:
            self._end()
            raise SystemExit(128 + int(ended.args[0])) from None
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            for watched in self._watched:
                os.close(watched)
        told = self._told("left")
        lost = [rank for rank in self._ended if rank not in {left["rank"] for left in told}]
        if not (code and lost):  # what the others say then is that it is gone
            for left in told:
                raise SystemExit(left["code"])
        if code:
            self._explain(code, lost)
        return next((told["result"] for told in self._told("result")), None)

    def _explain(self, code: int, lost: Sequence[int]) -> NoReturn:
        """Leave no process behind, and say which one has failed, if one has."""
        self._kill_all()
        if lost:
            ranks = " and ".join(f"rank {rank}" for rank in lost)
            raise OtherRankError(
                f"{ranks} ended without saying why, as when a process is killed or memory runs "
                "out; its own output may tell more, and runner resume continues the run"
            )
        raise SystemExit(code if code > 0 else 128 - code)

    def _watch(self) -> int:
        """Wait for the launcher, and notice which process dies first."""
        while (code := self._child.poll()) is None:
            self._wait_for_an_end()
            self._ended = self._ended or self._find_ended()
        return code

    def _wait_for_an_end(self) -> None:
        """Wait until a process ends, or for a while.

        Where the kernel tells, that is at once: a launcher ends the others soon afterwards.
        """
        if sys.platform != "linux":
            time.sleep(WATCH_S)
            return
        for rank, process in self._pids().items():
            if rank not in self._seen:
                self._seen.add(rank)
                with suppress(OSError):
                    self._watched.add(os.pidfd_open(process))
        poll = select.poll()
        for watched in self._watched:
            poll.register(watched, select.POLLIN)
        for ended, _ in poll.poll(1000 * WATCH_S):
            self._watched.remove(ended)
            os.close(ended)

    def _find_ended(self) -> list[int]:
        done = {told["rank"] for told in self._told("done")}
        states = {rank: _state(pid) for rank, pid in self._pids().items() if rank not in done}
        # Those that the launcher has ended because of another are not taken note of by it.
        gone = [rank for rank, state in states.items() if state == ""]
        return gone or [rank for rank, state in states.items() if state == "Z"]

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        """Ask rank 0 to stop; end everything if it was asked before or does not work yet."""
        leader = self._pids().get(0)
        if leader is None or self._asked:
            raise _EndedError(number)
        self._asked = True
        try:
            os.kill(leader, number)
        except ProcessLookupError:
            raise _EndedError(number) from None

    def _pids(self) -> dict[int, int]:
        notes = channel.read(self._status)
        return {note.fields["rank"]: note.process for note in notes if note.what == "met"}

    def _told(self, what: str) -> list[Mapping[str, Any]]:
        return [note.fields for note in channel.read(self._status) if note.what == what]

    def _end(self) -> None:
        """Let the launcher end the processes, and kill what is left of them after a while."""
        self._child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(GRACE_S)
        self._kill_all()
        self._child.wait()

    def _kill_all(self) -> None:
        """Kill what is left of the processes, and wait until the kernel has done so."""
        left = list(self._processes())
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        deadline = time.monotonic() + GRACE_S
        while any(_state(p) not in {"", "Z"} for p in left) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _processes(self) -> Iterator[int]:
        """Find the processes by their environment: they may have left the launcher's session."""
        mark = f"{STATUS}={self._status}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    yield int(path.parent.name)


def _state(process: int) -> str:
    """Return the kernel's letter for the state of a process, ``Z`` for a dead one; "" if gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0]
    except OSError:
        return ""
