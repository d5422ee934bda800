"""The folder that a run leaves: ``runs/<recipe>/<time>/``.

recipe.yaml      the resolved recipe; it can start the next run
manifest.json    versions, plugins, data fingerprint, seed, command line, hardware
events.jsonl     what happened, line by line
checkpoints/     step_00000450/, ..., best.json
exports/         one folder per exported artifact
result.json      the figures of a finished run
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge
from typing_extensions import NotRequired, TypedDict

from runner.errors import CheckpointError, StorageError, UsageError
from runner.storage import files, paths, records, results

if TYPE_CHECKING:
    from collections.abc import Mapping

UNFINISHED = ".unfinished"
"""End of the name of a folder that is to become that of a run."""
UNFINISHED_S = 60.0
"""Age from which such a folder is removed, if nobody works in it."""


@records.schema(extra="allow")
class _Manifest(TypedDict):
    recipe: records.Text
    folder: records.Text
    export: bool
    world_size: NotRequired[Annotated[int, Ge(1)]]
    environment: dict[records.Text, Any]
    device: dict[records.Text, Any]
    engine: dict[records.Text, Any]
    data: dict[records.Text, Any]
    loader: NotRequired[dict[records.Text, Any]]


MANIFEST = records.Kind(
    file="manifest.json",
    schema=_Manifest,
    error=CheckpointError,
    remedy="start the run again",
)
RESULT = records.Kind(
    file="result.json",
    schema=results.SCHEMA,
    error=CheckpointError,
    remedy="remove it, and `runner resume` writes it again from the last checkpoint",
)


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run."""

    OWN: ClassVar[frozenset[str]] = frozenset(
        {
            "recipe.yaml",
            "manifest.json",
            "events.jsonl",
            "checkpoints",
            "exports",
            "result.json",
        }
    )
    """What the run itself keeps in its folder."""
    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        """What the run ran on."""
        return self.path / "manifest.json"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def exports(self) -> Path:
        """The folder of exported artifacts."""
        return self.path / "exports"

    @property
    def result(self) -> Path:
        """The figures of the finished run."""
        return self.path / "result.json"

    def check_own(self) -> None:
        """Refuse a run folder from which writing would lead elsewhere.

        Raises:
            StorageError: A link, a pipe or a device is in it.
        """
        for path in sorted(self.path.iterdir()):
            try:
                paths.inside(self.path, path.name)
            except ValueError as error:
                raise StorageError(
                    f"cannot work in {self.path}: {error}; a run writes into its own folder only: "
                    "put a file or folder in its place, or move the whole run"
                ) from None

    def read_manifest(self) -> dict[str, Any]:
        """Return what ``manifest.json`` says.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        try:
            return records.read(self.manifest, MANIFEST).content
        except OSError as error:
            raise CheckpointError(
                f"{self.manifest} cannot be read: {error.strerror}; {MANIFEST.remedy}"
            ) from None

    def write_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``result.json``, and return what it holds.

        Raises:
            StorageError: It cannot be written.
        """
        return records.write(self.result, RESULT, result)

    def read_result(self) -> dict[str, Any] | None:
        """Return what ``result.json`` holds; ``None`` if the run is not finished.

        Raises:
            CheckpointError: It is damaged.
        """
        try:
            found = records.read(self.result, RESULT)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(
                f"{self.result} cannot be read: {error.strerror}; {RESULT.remedy}"
            ) from None
        content = where_it_is(found.content, self.path)
        return records.seal(RESULT, content) if found.checked else content


def where_it_is(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a result with the paths of a run that was copied or moved after it had finished."""
    before = Path(result["folder"])
    if before.absolute() == folder.absolute():
        return dict(result)

    def moved(path: str) -> str:
        own = Path(path).is_relative_to(before)
        return str(folder / Path(path).relative_to(before)) if own else path

    exports = [{**item, "folder": moved(item["folder"])} for item in result.get("exports", ())]
    return {**result, "folder": str(folder), "exports": exports}


def create(root: Path, recipe_name: str, recipe_text: str, manifest: Mapping[str, Any]) -> RunDir:
    """Make a run folder below ``root``, with what it holds from the start.

    It is complete or not there: it gets its name when recipe and manifest are on the disk.

    Raises:
        StorageError: The folder cannot be written.
    """
    parent = root / recipe_name
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(parent)
        unfinished = RunDir(parent / f".{secrets.token_hex(8)}{UNFINISHED}")
        unfinished.path.mkdir()
    except OSError as error:
        raise StorageError(
            f"cannot create a run folder in {parent}: {error.strerror}; "
            "choose another place with --runs-dir"
        ) from error
    try:
        with files.lock(unfinished.path):
            write_begin(unfinished, recipe_text, manifest)
            return RunDir(_give_name(unfinished.path, stamp))
    finally:
        shutil.rmtree(unfinished.path, ignore_errors=True)


def write_begin(folder: RunDir, recipe_text: str, manifest: Mapping[str, Any]) -> None:
    """Write what a run folder holds from the start.

    Raises:
        StorageError: It cannot be written.
    """
    files.write_text(folder.recipe, recipe_text)
    records.write(folder.manifest, MANIFEST, manifest)


def _remove_unfinished(parent: Path) -> None:
    """Remove what processes have left that were killed while they made their run folder."""
    for path in parent.glob(f".*{UNFINISHED}"):
        with suppress(OSError, UsageError), files.lock(path):  # its process is alive otherwise
            if time.time() - path.stat().st_mtime > UNFINISHED_S:
                shutil.rmtree(path)


def _give_name(unfinished: Path, stamp: str) -> Path:
    """Rename a folder to the first name that is free."""
    parent = unfinished.parent
    for attempt in range(100):
        path = parent / (f"{stamp}-{attempt}" if attempt else stamp)
        if path.exists() or path.is_symlink():
            continue
        try:
            unfinished.rename(path)
            files.sync(parent)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):  # taken meanwhile
                continue
            raise StorageError(f"cannot create {path}: {error.strerror}") from error
        return path
    raise StorageError(f"cannot create a run folder in {parent}: 100 names are taken")


def find(path: Path) -> RunDir:
    """Return the run that ``path`` is, or lies in.

    Raises:
        UsageError: There is no run, or a link in one leads out of it.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  which keeps links, unlike resolve()
    named = next(filter(_is_run, (path, *absolute.parents)), None)
    found = path if named == path else next(filter(_is_run, path.resolve().parents), None)
    if named and not (found and found.resolve() == named.resolve()):
        raise UsageError(
            f"{path} leads out of the run {named}, to {path.resolve()}; only what lies in a run is "
            f"its own: name that, or a checkpoint in {named} itself"
        )
    if found:
        return RunDir(found)
    if path.is_dir() and {item.name for item in path.iterdir()} <= {"recipe.yaml"}:
        raise UsageError(
            f"{path} holds no run: whoever made this folder was ended before the run had begun, "
            "so there is nothing to continue; start the run again, and remove the folder"
        )
    for name in ("recipe.yaml", "manifest.json"):
        if (path / name).exists() and not (path / name).is_file():
            kind = paths.kind_of((path / name).stat().st_mode)
            raise UsageError(f"{path / name} is {kind}; expected a regular file")
    _refuse_folder_of_runs(path)
    end = f", a link to {path.readlink()}," if path.is_symlink() else ""
    raise UsageError(
        f"{path}{end} is not a run: expected a folder with recipe.yaml and manifest.json, "
        "such as runs/quickstart/20260131-120000"
    )


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file() and (folder / "manifest.json").is_file()


def _refuse_folder_of_runs(path: Path) -> None:
    inside = sorted(file.parent for file in path.glob("*/recipe.yaml")) if path.is_dir() else []
    if inside:
        raise UsageError(
            f"{path} is a folder of runs; name one of them, the latest is {inside[-1]}"
        )
