"""What a run does when its folder is removed or moved away while it works there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from runner.storage import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from runner.storage.events import EventLog
    from runner.storage.rundir import RunDir

NAMES = ("recipe.yaml", "manifest.json", "events.jsonl", "checkpoints")
"""What is looked for: all that a run may have while it works."""


@final
class Keeper:
    """Notices that the folder of a run is gone, and writes again what can be.

    That is recipe, manifest and the whole event log, which can be read as long as it is open. What
    was trained is in the next checkpoint. Others, such as further logs, begin anew.
    """

    def __init__(
        self, folder: RunDir, events: EventLog, stack: ExitStack, begin_anew: Callable[[], None]
    ) -> None:
        """Take what a run folder holds.

        Args:
            folder: It is complete, and locked by this process.
            events: The log that is written there.
            stack: What is left at the end of the run, such as the lock of a new folder.
            begin_anew: Opens what else is written there once more.
        """
        self._folder = folder
        self._events = events
        self._stack = stack
        self._begin_anew = begin_anew
        self._recipe = folder.recipe.read_bytes()
        self._manifest = folder.manifest.read_bytes()
        self._place = _identity(folder)
        self.losses: list[dict[str, Any]] = []
        """What was missing each time (JSON), for the result of the run."""

    def take_recipe(self) -> None:
        """Take the recipe again, which the run has changed."""
        self._recipe = self._folder.recipe.read_bytes()

    def look(self) -> None:
        """Look whether the event log is where it was; write what is missing if it is not.

        Raises:
            StorageError: It cannot be written.
            UsageError: Another process works there by now.
        """
        if not self._events.is_lost():
            return
        folder = self._folder
        missing = [name for name in NAMES if not (folder.path / name).exists()]
        folder.path.mkdir(parents=True, exist_ok=True)
        if _identity(folder) != self._place:
            self._stack.enter_context(files.lock(folder.path))
            self._place = _identity(folder)
        for path, data in ((folder.recipe, self._recipe), (folder.manifest, self._manifest)):
            if not path.exists():
                files.write_bytes(path, data)
        self._events.write_again()
        self._begin_anew()
        self.losses.append({"missing": missing})
        self._events.emit("run.folder_lost", folder=str(folder.path), missing=missing)


def _identity(folder: RunDir) -> tuple[int, int]:
    found = folder.path.stat()
    return found.st_dev, found.st_ino
