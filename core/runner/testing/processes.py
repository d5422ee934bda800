"""Starting the processes that ``check_group`` is called in, with the framework's own launcher.

    python -m runner.testing.processes FILE FUNCTION FOLDER [PLUGIN]

is what each of them runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.distributed.machines import Machines
from runner.entries import LauncherEntry, LaunchRequest
from runner.plugins.loading import load
from runner.testing.group_checks import check_group
from runner.testing.subject import chosen, open_device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    from runner.contracts import Group
    from runner.entries import Command, FrameworkEntry

MODULE = "runner.testing.processes"
EXCHANGE_S = 60.0
"""Time that a process waits for another."""


def check_processes(
    arguments: Callable[[], Mapping[str, Any]],
    *,
    count: int = 2,
    timeout_s: float = 300.0,
    plugin: str = "",
) -> None:
    """Start processes with the framework's ``launch``, and call ``check_group`` in each.

    Args:
        arguments: A function at the top of a module, which returns the arguments of ``check_step``
            by name; every process runs its file.
        count: How many processes.
        timeout_s: Time that all may take.
        plugin: Name of the module that registers the launcher, where it is not installed.

    Raises:
        AssertionError: A check failed in one of them, or they did not end in time.
    """
    given = arguments()
    framework, device = given["framework"], given["device"]
    assert framework.launch is not None, f"framework {framework.name} has no launch()"
    assert framework.join is not None, f"framework {framework.name} has no join()"
    with tempfile.TemporaryDirectory(prefix="check-processes-") as name:
        folder = Path(name)
        words = [inspect.getsourcefile(arguments) or "", arguments.__name__, name]
        words += [plugin] * bool(plugin)
        request = LaunchRequest(
            count=count,
            local_count=count,
            arguments=words,
            device=device.name,
            device_options=chosen(device.config, given.get("device_options")),
            framework_options=chosen(framework.config, given.get("framework_options")),
            machines=Machines(),
            rendezvous_s=timeout_s,
            log_folder=folder / "logs",
        )
        request.log_folder.mkdir()
        commands = [_instead(command, words) for command in framework.launch(request)]
        problem = _carry_out(commands, folder, count, timeout_s)
    assert not problem, f"{count} processes of framework {framework.name}: {problem}"


def _instead(command: Command, words: Sequence[str]) -> Command:
    """Return a command that starts this module in place of ``runner``."""
    found = list(command.arguments)
    place = len(found) - len(words) - 1
    assert found[place:] == ["runner", *words], (
        f"launch() returned a command that ends with {found[place:]}, expected 'runner' and the "
        f"arguments of the request, {words}"
    )
    found[place] = MODULE
    return replace(command, arguments=found)


def _carry_out(commands: Sequence[Command], folder: Path, count: int, timeout_s: float) -> str:
    """Run commands until all processes have said what they found; return what is wrong."""
    output = folder / "output"
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with output.open("wb") as stream:
        launchers = [
            subprocess.Popen(
                command.arguments,
                env={
                    **{k: v for k, v in os.environ.items() if k not in command.unset},
                    **path,
                    **command.environment,
                },
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
            for command in commands
        ]
        try:
            found = _wait(launchers, folder, count, time.monotonic() + timeout_s)
        finally:
            for launcher in launchers:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(launcher.pid, signal.SIGKILL)
                launcher.wait()
    if found is None:
        return f"no answer; they printed:\n{output.read_text('utf-8', 'replace')[-4000:]}"
    return found


def _wait(
    launchers: Sequence[subprocess.Popen[bytes]], folder: Path, count: int, deadline: float
) -> str | None:
    """Return the first problem that a process tells, or nothing once all are done.

    ``None`` if they end, or time does, before all have answered.
    """
    while time.monotonic() < deadline:
        ended = all(launcher.poll() is not None for launcher in launchers)
        answers = [path.read_text("utf-8") for path in sorted(folder.glob("rank*.txt"))]
        problem = next(filter(None, answers), "")
        if problem or (ended and len(answers) == count):
            return problem
        if ended:
            return None
        time.sleep(0.05)
    return None


def main() -> None:
    """Check one process, and write what is wrong into a file."""
    file, function, folder, *plugins = sys.argv[1:]
    given = dict(getattr(_imported(file), function)())
    framework = given["framework"]
    device = open_device(given.pop("device"), given.pop("device_options", None))
    group = framework.join(device, EXCHANGE_S)
    problem = ""
    try:
        _check_place(framework, group, plugins)
        check_group(device=device, group=group, **given)
    except AssertionError as error:
        problem = f"process {group.rank}: {error}"
    except Exception:  # noqa: BLE001  it is told where this one was started
        problem = f"process {group.rank}: {traceback.format_exc()}"
    answer = Path(folder) / f"rank{group.rank}.part"
    answer.write_text(problem, encoding="utf-8")
    answer.rename(answer.with_suffix(".txt"))
    group.close()


def _imported(file: str) -> ModuleType:
    """Import a file, under a name by which MindSpore finds the sources of its classes."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _check_place(framework: FrameworkEntry, group: Group, plugins: Sequence[str]) -> None:
    """Compare what the environment tells with what the processes have found."""
    loaded = load(extra=[(name, importlib.import_module(name)) for name in plugins])
    launchers = loaded.entries(LauncherEntry, framework.name)
    places = [item.entry.place(os.environ) for item in launchers]
    place = next((found for found in places if found and not found.whole_machine), None)
    assert place is not None, (
        f"no launcher of framework {framework.name} knows the place of this process: register a "
        "LauncherEntry that reads what launch() tells it, and name its module as plugin="
    )
    assert place.world_size == group.world_size, (
        f"place() has {place.world_size} processes, the group {group.world_size}"
    )
    for rank in (place.rank, place.local_rank):
        assert rank in {None, group.rank}, f"place() has rank {rank}, the group {group.rank}"


if __name__ == "__main__":
    main()
