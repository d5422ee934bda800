"""The run folder that all processes work for, and what a further attempt goes on from."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner import recipe
from runner.errors import RecipeError, StorageError, UsageError
from runner.storage import checkpoint, files, rundir
from runner.storage.rundir import RunDir
from runner.training import consistency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from runner.distributed.ranks import Ranks
    from runner.plugins.registry import Registry
    from runner.recipe.schema import Recipe
    from runner.session.opening import Split
    from runner.storage.checkpoint import Checkpoint


MOST_NAMED = 10
"""Changed keys that a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What an earlier attempt of the same command has left."""

    folder: RunDir
    saved: bool
    """Whether it has written a checkpoint, so that the latest of the run is one of its own."""


def earlier(ranks: Ranks) -> Earlier | None:
    """Return what an earlier attempt has left; ``None`` if this is the first.

    All ranks call this together and follow the lowest one that was told.

    Raises:
        UsageError: What it was told is no run any more.
    """
    text = ranks.reporter.continues
    if ranks.lowest(bool(text)) is None:
        return None
    own = ranks.everyone(lambda: rundir.find(Path(text)) if text else None)
    told = ranks.lowest(own is not None)
    assert told is not None
    saved = ranks.lowest(own is not None and own.path != Path(text)) is not None
    path = ranks.share_text(str(own.path) if own else "", told)
    return Earlier(folder=RunDir(Path(path)), saved=saved)


def meet_in(folder: RunDir | None, ranks: Ranks) -> RunDir:
    """Make sure that every rank sees the run folder, and tell who has started it.

    Args:
        folder: The run folder by this rank's own path; ``None`` if it knows none and follows that
            of rank 0.
        ranks: The processes of the run, which all call this together.

    Raises:
        StorageError: A rank does not see the folder of rank 0.
    """
    if ranks.group is not None:
        path = ranks.share_text(str(folder.path.absolute()) if folder else "", 0)
        folder = folder or RunDir(Path(path))
        _look_for_a_mark(folder, path, ranks)
    assert folder is not None
    ranks.reporter.folder(folder.path)
    return folder


def _look_for_a_mark(folder: RunDir, path: str, ranks: Ranks) -> None:
    """Let rank 0 put down a file of a new name, and every rank look for it.

    A folder of this name may well be there where it is not the same one.
    """
    mark = ranks.share_text(f".seen-{secrets.token_hex(8)}", 0)
    ranks.lead(lambda: _create(folder.path, mark))
    try:
        ranks.everyone(lambda: _check_seen(folder.path / mark, path))
    finally:
        if ranks.leads:
            (folder.path / mark).unlink(missing_ok=True)


def _create(folder: Path, mark: str) -> None:
    try:
        for old in folder.glob(".seen-*"):  # left by a process that was killed
            old.unlink(missing_ok=True)
        (folder / mark).touch()
    except OSError as error:
        raise StorageError(f"cannot write into {folder}: {error.strerror}") from error


def _check_seen(mark: Path, path: str) -> None:
    if not mark.exists():
        raise StorageError(
            f"{mark.parent} is not the run folder {path} of rank 0: expected a file system that "
            "all machines share; choose a place on one with --runs-dir"
        )


def saved_state(folder: RunDir, source: Path | None, ranks: Ranks) -> Checkpoint | None:
    """Read a checkpoint on every rank, or the latest of a run; ``None`` if it has none yet.

    Rank 0 decides which: what a shared file system lists may be a little older elsewhere.

    Raises:
        CheckpointError: It is damaged, or a rank does not see it.
    """
    chosen = ranks.lead(lambda: str(_chosen(folder, source) or ""))
    name = ranks.share_text(chosen or "", 0)
    return ranks.everyone(lambda: checkpoint.load(folder.path / name)) if name else None


def check_recipe(folder: RunDir, checked: Recipe, registry: Registry) -> None:
    """Refuse to go on in a run folder with a recipe that was changed since it was made.

    Raises:
        UsageError: A value differs that turns it into a different experiment.
    """
    document = recipe.compose(folder.recipe, (), environ=os.environ)
    begun = recipe.validate(document, registry)
    before, here = (consistency.values(item, consistency.RESUMABLE) for item in (begun, checked))
    found = [f"{key}: {old} -> {new}" for key, old, new in consistency.changes(before, here)]
    if found:
        raise UsageError(
            f"the recipe was changed after the run {folder.path} had begun: "
            f"{'; '.join(found)}; change it back, or start a new run"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """How a recipe differs from the one that the run has had so far."""

    values: Sequence[str] = ()
    """Each key with the value before and the one that counts from here on."""
    recipe_text: str = ""
    """What the run's recipe becomes; "" if it stays."""


def changed(
    folder: RunDir,
    source: Path | None,
    checked: Recipe,
    overrides: Sequence[str],
    registry: Registry,
) -> Changed:
    """Compare a recipe that a run is to continue with and the one it has had so far.

    Args:
        folder: The run.
        source: The checkpoint to continue from; the latest if left out.
        checked: The run's recipe as its file says by now, with the overrides.
        overrides: Texts such as ``train.epochs=3``, each of a key that may change.
        registry: What is installed.

    Raises:
        UsageError: The file was changed by hand, which turns it into a different experiment.
    """
    before = _begun_with(folder, source, registry)
    if before is None:
        return Changed()
    here = consistency.values(checked, ())
    named = tuple(f"{text.partition('=')[0].strip()}{end}" for text in overrides for end in "=.")
    found = list(consistency.changes(before, here))
    allowed = (*consistency.RESUMABLE, *named)
    edited = [item for item in found if not f"{item[0]}=".startswith(allowed)]
    if edited:
        raise UsageError(_edited(folder, edited))
    asked = [text for text in overrides if text.startswith(consistency.ON_REQUEST)]
    if asked:
        document = recipe.compose(folder.recipe, asked, environ=os.environ)
        text = recipe.dump(recipe.validate(document, registry))
    return Changed(values=[_change(item) for item in found], recipe_text=text if asked else "")


def _begun_with(
    folder: RunDir, source: Path | None, registry: Registry
) -> Mapping[str, Any] | None:
    """Return the values a run has had so far; ``None`` where nothing has kept them."""
    saved = source or checkpoint.latest_if_any(folder.checkpoints)
    if saved is None:
        begun = folder.read_manifest().get("resolved")  # older runs have none
        return None if begun is None else consistency.flat_values(begun)
    document = recipe.compose(checkpoint.checked_recipe(saved), (), environ=os.environ)
    return consistency.values(recipe.validate(document, registry), ())


def unused_edit(file: Path, carried: Path, registry: Registry) -> str:
    """Say that a run's recipe was edited where that of its checkpoint is used.

    Args:
        file: The recipe of the run.
        carried: That of the checkpoint.
        registry: What is installed.

    Returns:
        "" if nothing differs that a model's results depend on.
    """
    if not file.is_file() or file.read_bytes() == carried.read_bytes():
        return ""
    try:
        before, here = (
            consistency.values(
                recipe.validate(recipe.compose(item, (), environ=os.environ), registry), ()
            )
            for item in (carried, file)
        )
    except RecipeError:
        return ""  # of a file that is not used
    free = (*consistency.RESUMABLE, *consistency.ON_REQUEST)
    found = [i for i in consistency.changes(before, here) if not f"{i[0]}=".startswith(free)]
    if not found:
        return ""
    return (
        f"{file} was changed since {carried.parent} was written, whose own recipe counts: "
        f"{'; '.join(map(_change, found[:MOST_NAMED]))}; for other values use --set or --recipe"
    )


def _edited(folder: RunDir, found: Sequence[tuple[str, str, str]]) -> str:
    on_request = [item for item in found if f"{item[0]}=".startswith(consistency.ON_REQUEST)]
    ways = "change it back, or start a new run of it"
    if on_request:
        options = " ".join(f"--set {key}={new}" for key, _, new in on_request[:MOST_NAMED])
        ways += f"; if it is meant, say so with {options}"
    more = f" (and {len(found) - MOST_NAMED} more)" if len(found) > MOST_NAMED else ""
    return (
        f"{folder.recipe} was changed since the run's checkpoint was written: "
        f"{'; '.join(_change(item) for item in found[:MOST_NAMED])}{more}; {ways}"
    )


def _change(item: tuple[str, str, str]) -> str:
    key, old, new = item
    return f"{key}: {old} -> {new}"


def changes(
    before: Mapping[str, Any], here: Mapping[str, Any], splits: Sequence[Split]
) -> list[str]:
    """Return what differs between two manifests and may change the numbers of a run.

    Args:
        before: The manifest of the process that began the run.
        here: That of this process.
        splits: The data that it has opened.
    """
    before = {"loader": {}, "world_size": 1, **before}  # older runs have none
    found = [
        f"{part}.{key}: {before[part].get(key)} -> {here[part].get(key)}"
        for part in ("engine", "device", "loader")
        for key in sorted({*before[part], *here[part]})
        if before[part].get(key) != here[part].get(key)
    ]
    if before["world_size"] != here["world_size"]:
        found.append(f"world_size: {before['world_size']} -> {here['world_size']}")
    for split in splits:
        told = split.differences(before["data"][split.name]) if split.name in before["data"] else ()
        found += [f"data.{split.name}: {text}" for text in told]
    return found


def _chosen(folder: RunDir, source: Path | None) -> Path | None:
    with files.lock(folder.path):  # what another process is replacing is not left aside
        checkpoint.put_back(folder.checkpoints)
    latest = checkpoint.latest_if_any(folder.checkpoints)
    if source is None:
        return latest.relative_to(folder.path) if latest else None
    return source.resolve().relative_to(folder.path.resolve())
