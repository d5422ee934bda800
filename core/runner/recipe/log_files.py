"""Where the loggers of a recipe write: never over what a run itself keeps in its folder."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from runner.storage.rundir import RunDir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runner.recipe.schema import LoggerSection
    from runner.recipe.source import KeyPath


def unusable(loggers: Sequence[LoggerSection | None]) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path and the message of each ``file`` that a logger may not write.

    Args:
        loggers: The sections; ``None`` for one that is itself wrong.
    """
    taken: dict[PurePath, int] = {}
    for position, section in enumerate(loggers):
        file = getattr(section.options, "file", None) if section else None
        if not isinstance(file, str):
            continue
        path = _plain(file)
        reason = _reason(file, path)
        if path in taken:
            reason = f"loggers.{taken[path]} writes it too; expected a file of its own for each"
        taken.setdefault(path, position)
        if reason:
            key = ("loggers", position, "file")
            yield key, f"loggers.{position}.file: got {file!r}, but {reason}"


def _plain(file: str) -> PurePath:
    """Return a path without ``a/..``; one that leads out of the run folder begins with ``..``."""
    parts: list[str] = []
    for part in PurePath(file).parts:
        if part == ".." and parts and parts[-1] not in ("..", "/"):
            parts.pop()
        else:
            parts.append(part)
    return PurePath(*parts)


def _reason(file: str, path: PurePath) -> str:
    if not path.parts or file.endswith("/"):
        return "this is a folder; expected the name of a file, such as steps.csv"
    if path.parts[0] == "..":
        return (
            "this leads out of the run folder; expected a file below it, or an absolute path if "
            "it shall lie elsewhere"
        )
    if path.parts[0] in RunDir.OWN:
        return "the run keeps its own records there; expected another name, such as steps.csv"
    return ""
