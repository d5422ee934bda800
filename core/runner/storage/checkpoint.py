"""Checkpoints: a folder that is either complete or not there.

    step_00000450/
        weights.safetensors     weights and buffers under canonical (torchvision) names
        state.safetensors       optimizer, loss scale, EMA, random states
        recipe.yaml             the resolved recipe
        checkpoint.json         position, class names, metrics, and size and SHA-256 of the others

A checkpoint is written under a temporary name, flushed to the disk, and renamed. Nothing in it is
pickled, so that a checkpoint from a stranger is data.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from annotated_types import Ge, Le, Len
from typing_extensions import NotRequired, TypedDict

from runner.contracts import EngineState
from runner.errors import CheckpointError, NonFiniteError, StorageError
from runner.storage import files, paths, records
from runner.storage.lookalikes import same_looking
from runner.storage.records import Number, Text
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

WEIGHTS, STATE, RECIPE, INFO = (
    "weights.safetensors",
    "state.safetensors",
    "recipe.yaml",
    "checkpoint.json",
)
BEST = "best.json"
HEADER = "vision_runner"
"""Key in the header of ``weights.safetensors``, of what a copy of it alone has to say."""
ASIDE = ".old"
"""End of the name of a checkpoint that another one is about to replace."""
Count = Annotated[int, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]


@records.schema()
class _FileRecord(TypedDict):
    bytes: Count
    sha256: Text


@records.schema()
class _PositionRecord(TypedDict):
    step: Count
    epoch: Count
    step_in_epoch: Count
    loss_sum: NotRequired[Number]
    loss_count: NotRequired[Count]
    skipped_steps: NotRequired[Count]
    best_top1: NotRequired[Union[Share, None]]  # noqa: UP007  evaluated on Python 3.10
    best_epoch: NotRequired[Union[Count, None]]  # noqa: UP007


@records.schema()
class _InfoRecord(TypedDict):
    position: _PositionRecord
    classes: Annotated[list[Text], Len(1)]
    weights_kind: Literal["raw", "ema"]
    metrics: dict[Text, Number]
    state_values: dict[Text, Any]
    files: dict[Text, _FileRecord]


@records.schema()
class _HeaderRecord(TypedDict):
    classes: Annotated[list[Text], Len(1)]
    weights_kind: Literal["raw", "ema"]


_Best = TypedDict("_Best", {"checkpoint": Text, "val.top1": Share})
records.schema()(_Best)

INFO_KIND = records.Kind(
    file=INFO,
    schema=_InfoRecord,
    error=CheckpointError,
    remedy="use another checkpoint",
    unchecked_format=1,
)
HEADER_KIND = records.Kind(
    file=WEIGHTS,
    schema=_HeaderRecord,
    error=CheckpointError,
    remedy="use the checkpoint that it was copied from",
)
BEST_KIND = records.Kind(
    file=BEST, schema=_Best, error=CheckpointError, remedy="remove it, or name a checkpoint"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where in a run a checkpoint was taken, and the sums that its next log line needs."""

    step: int
    """Optimizer steps taken."""
    epoch: int
    """Epochs finished, evaluation included."""
    step_in_epoch: int
    """Steps taken in the current epoch; all of them when only its evaluation is missing."""
    loss_sum: float = 0.0
    """Sum of the losses of the current epoch's steps."""
    loss_count: int = 0
    skipped_steps: int = 0
    """Steps of the whole run that were skipped because their gradients overflowed."""
    best_top1: float | None = None
    best_epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What ``checkpoint.json`` says."""

    position: Position
    classes: tuple[str, ...]
    weights_kind: str
    """``raw``, or ``ema`` when evaluation uses an average of the weights."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    state_values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory."""

    path: Path
    info: CheckpointInfo
    weights: Mapping[str, NDArray[Any]]
    state: EngineState
    checked: bool = True
    """Whether ``checkpoint.json`` has a checksum; older ones have none."""

    @property
    def evaluation_weights(self) -> Mapping[str, NDArray[Any]]:
        """The weights that evaluation and export use."""
        if self.info.weights_kind == "raw":
            return self.weights
        prefix = "ema/"
        tensors = self.state.tensors
        return {name[len(prefix) :]: tensors[name] for name in tensors if name.startswith(prefix)}


def save(
    folder: Path,
    info: CheckpointInfo,
    *,
    weights: Mapping[str, NDArray[Any]],
    state: EngineState,
    recipe_text: str,
) -> Path:
    """Write a checkpoint into ``folder`` and return its path.

    Raises:
        NonFiniteError: A weight is NaN or infinite; nothing is written.
        StorageError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    from safetensors import SafetensorError

    check_finite(weights)
    _check_values(info.state_values)
    own_folder(folder)
    final = folder / _name(info.position.step)
    temporary = folder / f".{final.name}.tmp"
    try:
        try:
            _write(temporary, info, weights, state, recipe_text)
            _put_in_place(temporary, final)
        except (OSError, SafetensorError):
            if temporary.is_dir():
                raise
            # the run folder was removed meanwhile, and is made again
            _write(temporary, info, weights, state, recipe_text)
            _put_in_place(temporary, final)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"cannot write the checkpoint {final}: {error}; {_last_good(folder)}"
        ) from error
    finally:
        files.remove_folder(temporary)
    return final


def _write(
    temporary: Path,
    info: CheckpointInfo,
    weights: Mapping[str, NDArray[Any]],
    state: EngineState,
    recipe_text: str,
) -> None:
    """Write the files of a checkpoint, until all of them are on the disk."""
    from safetensors.numpy import save_file

    files.remove_folder(temporary)
    temporary.mkdir(parents=True)
    header = {"classes": info.classes, "weights_kind": info.weights_kind}
    text = records.as_text(HEADER_KIND, records.seal(HEADER_KIND, header))
    save_file(_contiguous(weights), temporary / WEIGHTS, metadata={HEADER: text})
    save_file(_contiguous(state.tensors), temporary / STATE)
    files.write_through(temporary / RECIPE, recipe_text.encode())
    listed = {name: _file_record(temporary / name) for name in (WEIGHTS, STATE, RECIPE)}
    record = records.seal(INFO_KIND, {**asdict(info), "files": listed})
    files.write_through(temporary / INFO, records.as_text(INFO_KIND, record).encode())
    for name in (WEIGHTS, STATE):
        files.sync(temporary / name)
    files.sync(temporary)


def complete(path: Path, position: Position, metrics: Mapping[str, float]) -> None:
    """Say in a checkpoint that was taken before its epoch was evaluated how that has ended.

    Raises:
        CheckpointError: Its record is damaged.
        StorageError: It cannot be written; the record is untouched.
    """
    content = read_info(path).content
    values = {"position": asdict(position), "metrics": dict(metrics)}
    records.write(path / INFO, INFO_KIND, {**content, **values})


def rename_classes(path: Path, names: Sequence[str]) -> None:
    """Give the classes of a checkpoint other names, in its record and with its weights.

    Raises:
        CheckpointError: It is damaged.
        StorageError: It cannot be written; it is as it was.
    """
    saved, final = load(path), path.resolve()
    temporary = final.with_name(f".{final.name}.tmp")
    info = replace(saved.info, classes=tuple(names))
    try:
        _write(temporary, info, saved.weights, saved.state, (path / RECIPE).read_text("utf-8"))
        _put_in_place(temporary, final)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error
    finally:
        files.remove_folder(temporary)


def is_complete(path: Path) -> bool:
    """Say whether a folder is a checkpoint, and not one that is half-deleted."""
    return (path / INFO).is_file()


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and check every file against its checksum.

    Raises:
        CheckpointError: It is not a checkpoint, is damaged, or is of a later format.
    """
    record = read_info(path)
    content = record.content
    for name, expected in content["files"].items():
        _check_file(path, name, expected)
    position = content["position"]
    info = CheckpointInfo(
        position=Position(**{**position, "loss_sum": float(position.get("loss_sum", 0.0))}),
        classes=tuple(content["classes"]),
        weights_kind=content["weights_kind"],
        metrics={
            name: value if isinstance(value, int) else float(value)
            for name, value in content["metrics"].items()
        },
        state_values=content["state_values"],
    )
    return Checkpoint(
        path=path,
        info=info,
        weights=_load_tensors(path / WEIGHTS),
        state=EngineState(tensors=_load_tensors(path / STATE), values=info.state_values),
        checked=record.checked,
    )


def _load_tensors(path: Path) -> Mapping[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file of NumPy's types: {error}"
        ) from error


def listing(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first; nothing there is changed.

    A process that was killed while it replaced a checkpoint has left the former one aside, which
    counts as it is.
    """
    patterns = (f".step_*{ASIDE}", "step_*")  # of one name the last counts
    paths_found = (path for each in patterns for path in folder.glob(each))
    found = {_final_name(path): path for path in paths_found if is_complete(path)}
    return [path for _, path in sorted(found.items())]


def put_back(folder: Path) -> None:
    """Give a checkpoint its name that a process has left aside; for those that work in a run.

    Raises:
        StorageError: It cannot be renamed.
    """
    for aside in folder.glob(f".step_*{ASIDE}"):
        final = folder / _final_name(aside)
        if is_complete(final):
            continue
        try:
            files.remove_folder(final)
            aside.rename(final)
        except OSError as error:
            raise StorageError(f"cannot rename {aside} to {final}: {error.strerror}") from error


def _final_name(path: Path) -> str:
    """Return the name of a checkpoint, which may have been left aside."""
    return path.name.removeprefix(".").removesuffix(ASIDE)


def latest(folder: Path) -> Path:
    """Return the most recent checkpoint of a run.

    Raises:
        CheckpointError: There is none, or it is not the run's own.
    """
    found = latest_if_any(folder)
    if found is None:
        raise CheckpointError(
            f"no checkpoint in {folder}; the run ended before its first one, start it again"
        )
    return found


def latest_if_any(folder: Path) -> Path | None:
    """Return the most recent checkpoint of a run; ``None`` if it has none yet.

    Raises:
        CheckpointError: It is a link: what stands at its end may be of another run.
    """
    found = listing(folder)[-1:]
    if found and found[0].is_symlink():
        raise CheckpointError(
            f"the latest checkpoint of the run, {found[0]}, is a link to {found[0].readlink()}; "
            "only what lies in a run is its own: remove the link, or put a copy in its place"
        )
    return found[0] if found else None


def of_run(folder: Path) -> Path:
    """Return the checkpoint that stands for a run: its best, or the latest if none is marked.

    Raises:
        CheckpointError: There is none.
    """
    return best(folder) or latest(folder)


def best(folder: Path) -> Path | None:
    """Return the checkpoint with the best accuracy, if it is known."""
    try:
        named = records.read(folder / BEST, BEST_KIND).content["checkpoint"]
        path = paths.inside(folder, named)
        if path.parent != folder:
            raise ValueError(f"{named!r} is not the name of a checkpoint")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / BEST} cannot be used: {error}; {BEST_KIND.remedy}"
        ) from None
    aside = path.with_name(f".{path.name}{ASIDE}")
    return next((item for item in (path, aside) if item.is_dir()), None)


def mark_best(folder: Path, path: Path, top1: float) -> None:
    """Remember that ``path`` has the best accuracy."""
    records.write(folder / BEST, BEST_KIND, {"checkpoint": path.name, "val.top1": top1})


def remove_old(folder: Path, *, keep: int, keep_best: bool) -> list[Path]:
    """Delete all but the ``keep`` most recent checkpoints and the best; return what went."""
    put_back(own_folder(folder))
    found = _own(listing(folder))
    protected = {*found[-keep:], *([best(folder)] if keep_best else [])}
    for path in folder.glob(".step_*"):  # left by a process that was killed while it saved
        files.remove_folder(path)
    for path in folder.glob("step_*"):  # or while it removed
        if not is_complete(path):
            files.remove_folder(path)
    return _remove(path for path in found if path not in protected)


def remove_later(folder: Path, step: int) -> list[Path]:
    """Delete the checkpoints after ``step``, from which the run continues; return what went.

    Left alone, they would count as the most recent ones and push out those still to come.
    """
    put_back(own_folder(folder))
    return _remove(path for path in _own(listing(folder)) if path.name > _name(step))


def own_folder(folder: Path) -> Path:
    """Return the folder of a run's checkpoints, which are written and removed there.

    Raises:
        StorageError: It is a link: what stands at its end is somebody else's.
    """
    if folder.is_symlink():
        raise StorageError(
            f"{folder} is a link to {folder.readlink()}, and checkpoints are removed there; put a "
            "folder in its place, or let the whole run live elsewhere with --runs-dir"
        )
    return folder


def _own(found: Iterable[Path]) -> list[Path]:
    """Leave out links: what they point to is not this run's to count or to remove."""
    return [path for path in found if not path.is_symlink()]


def _name(step: int) -> str:
    return f"step_{step:08d}"


_WITHOUT_IMAGES = (
    "; if there are no images of these classes here, make an empty folder for each and set "
    "dataset.missing_classes=true"
)


def under_other_names(model: object) -> str:
    """Return the advice for classes that are the same under other names."""
    return (
        f"; if they are the same under other names: runner relabel {model} NAMES, where NAMES is a "
        "file with one name per line, in the order of the labels"
    )


def check_classes(
    expected: Sequence[str], found: Sequence[str], source: str, *, model: object = ""
) -> None:
    """Compare class names with those the weights were trained for.

    Args:
        expected: Those of the model.
        found: Those of the data.
        source: What the data is called in the message.
        model: The path of what `runner relabel` would name anew; "" if the caller adds advice.

    Raises:
        CheckpointError: A class is missing, extra, or at another position.
    """
    if tuple(expected) == tuple(found):
        return
    missing = [name for name in expected if name not in set(found)]
    extra = [name for name in found if name not in set(expected)]
    if missing or extra:
        detail = "; ".join(
            f"{label} {', '.join(names[:5])}{' ...' if len(names) > 5 else ''} ({len(names)})"
            for label, names in (("missing", missing), ("unknown", extra))
            if names
        ) + same_looking(missing[:100], extra)
    else:
        position = next(
            i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]
        )
        detail = (
            f"class {position} is {found[position]!r}, expected {expected[position]!r}, as the "
            "order is that of the labels"
        )
    raise CheckpointError(
        f"the classes of {source} are not those of the checkpoint: {detail}; "
        f"expected the {counted(len(expected), 'class')} that the model was trained with"
        + ("" if extra or not missing else _WITHOUT_IMAGES)
        + (under_other_names(model) if model and len(extra) == len(missing) > 0 else "")
    )


def _contiguous(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Lay arrays out in C order: safetensors writes memory as it lies, whatever the strides."""
    import numpy as np

    return {name: np.asarray(array, order="C") for name, array in tensors.items()}


def _put_in_place(temporary: Path, final: Path) -> None:
    """Rename, moving an earlier checkpoint of the same step out of the way."""
    if not is_complete(final):  # half-deleted: what was left aside is worth more
        files.remove_folder(final)
    files.replace_folder(temporary, final, final.with_name(f".{final.name}{ASIDE}"))


def _remove(paths: Iterable[Path]) -> list[Path]:
    removed = list(paths)
    try:
        for path in removed:
            # The record goes first: a half-deleted folder is never taken for a checkpoint.
            (path / INFO).unlink()
            shutil.rmtree(path)
    except OSError as error:
        raise StorageError(f"cannot remove an old checkpoint: {error}") from error
    return removed


def check_finite(weights: Mapping[str, NDArray[Any]]) -> None:
    """Refuse weights that cannot be continued from.

    Raises:
        NonFiniteError: One is NaN or infinite.
    """
    import numpy as np

    for name, array in weights.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NonFiniteError(
                f"weight {name!r} holds NaN or infinity, so no checkpoint is written; "
                "lower optimizer.learning_rate, or set train.clip_grad_norm"
            )


def _file_record(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def _check_values(values: Mapping[str, Any]) -> None:
    place = records.non_finite(dict(values))
    if place is not None:
        raise NonFiniteError(
            f"the engine's state has a number at {place!r} that is not finite, so no checkpoint is "
            "written; keep such numbers in a tensor of the state"
        )


def read_info(path: Path) -> records.Record:
    """Read the record of a checkpoint, without its weights.

    Raises:
        CheckpointError: It is not a checkpoint, was changed, or is of a later format.
    """
    try:
        record = records.read(path / INFO, INFO_KIND, remedy=lambda: _last_good(path.parent, path))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{path} is not a checkpoint: it has no {INFO}; "
            "expected a folder such as runs/quickstart/20260131-120000/checkpoints/step_00000450"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path / INFO} cannot be read: {error.strerror}") from None
    listed = record.content["files"]
    if set(listed) != {WEIGHTS, STATE, RECIPE}:
        raise CheckpointError(
            f"{path / INFO} is damaged: it lists {sorted(listed)}; {_last_good(path.parent, path)}"
        )
    return record


def _check_file(folder: Path, name: str, expected: Mapping[str, Any]) -> None:
    found = _damage(folder, name, expected)
    if found:
        raise CheckpointError(f"{found}; {_last_good(folder.parent, folder)}")


def _damage(folder: Path, name: str, expected: Mapping[str, Any]) -> str:
    """Return what is wrong with a file, or an empty text."""
    try:
        path = paths.file_in(folder, name)
        size = path.stat().st_size
        if size != expected["bytes"]:
            found = counted(size, "byte")
            return f"{path} is damaged: it has {found}, expected {expected['bytes']:,}"
        if _file_record(path)["sha256"] != expected["sha256"]:
            return f"{path} is damaged: its SHA-256 differs from {INFO}"
    except FileNotFoundError:
        return f"{folder / name} is missing"
    except ValueError as error:
        return f"{folder}: {error}"
    except OSError as error:
        return f"{folder / name} cannot be read: {error.strerror}"
    return ""


def checked_recipe(folder: Path) -> Path:
    """Return the recipe in a checkpoint, once it is what ``checkpoint.json`` says.

    Raises:
        CheckpointError: It is not, or ``folder`` is no checkpoint.
    """
    _check_file(folder, RECIPE, read_info(folder).content["files"][RECIPE])
    return folder / RECIPE


def _last_good(folder: Path, damaged: Path | None = None) -> str:
    # one that was left aside gets another name before anything continues from it
    others = [path for path in listing(folder) if path != damaged and path.name[0] != "."]
    if not others:
        return f"{folder} has no other checkpoint"
    return f"continue from the one before with: runner resume {others[-1]}"
