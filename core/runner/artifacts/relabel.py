"""Class names, given anew on purpose: records are checked, so that an editor cannot do it."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from runner.artifacts import artifact
from runner.data.layouts.class_names import read_class_names
from runner.data.layouts.label_file import text_lines
from runner.errors import DataError, StorageError, UsageError
from runner.storage import checkpoint, files, paths, records, rundir
from runner.terminal.display import counted

if TYPE_CHECKING:
    from pathlib import Path


def relabel(path: Path, names_file: Path) -> list[Path]:
    """Give the classes of a checkpoint, an artifact, or all of a run, other names.

    Args:
        path: A checkpoint, an artifact, or a run with all its checkpoints and artifacts.
        names_file: One name a line, in the order of the labels.

    Returns:
        The records that were written.

    Raises:
        UsageError: There is nothing to relabel, or another process works in the run.
        DataError: The file is not one name a line, each once, has another number of names, or a
            name with control characters.
        StorageError: A checkpoint or an artifact of the run is a link.
        RunnerError: A record is damaged, and nothing is written; or the weights of a checkpoint
            are, which stays as it was.
    """
    names = _names(names_file)
    found = _records(path)
    for record, kind in found:
        count = len(records.read(record, kind).content["classes"])
        if count != len(names):
            raise DataError(
                f"{names_file} has {counted(len(names), 'name')}, and {record} "
                f"{counted(count, 'class')}"
            )
    with files.lock(path):
        for record, kind in found:
            if kind is checkpoint.INFO_KIND:
                checkpoint.rename_classes(record.parent, names)
            else:
                records.change(record, kind, classes=names)
    return [record for record, _ in found]


def _names(file: Path) -> list[str]:
    names = read_class_names(file, "")
    for number, name in text_lines(file, ""):
        if any(unicodedata.category(letter) == "Cc" for letter in name):
            raise DataError(f"{file}:{number}: the name {name!r} has control characters")
    return names


def _records(path: Path) -> list[tuple[Path, records.Kind]]:
    """Return the records below a path that hold class names."""
    run = rundir.RunDir(path)
    own = [*checkpoint.listing(run.checkpoints), *sorted(run.exports.glob("*"))]
    try:
        for folder in own:
            paths.inside(path, str(folder.relative_to(path)))
    except ValueError as error:
        raise StorageError(f"cannot write into {path}: {error}; remove the link") from None
    found = [
        (folder / kind.file, kind)
        for folder in (path, *own)
        for kind in (checkpoint.INFO_KIND, artifact.KIND)
        if (folder / kind.file).is_file()
    ]
    if not found:
        raise UsageError(
            f"{path} is neither a checkpoint, nor an exported artifact, nor a run that has one; of "
            "weights that were copied alone, relabel the checkpoint, and copy them anew"
        )
    return found
