"""What must be the same: on all processes of a run, and in a run that continues.

Each process makes a table of what decides its numbers. Only digests travel where all is well; where
one differs, the tables of rank 0 and of the lowest rank that has another one are compared.
"""

from __future__ import annotations

import hashlib
import json
import socket
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from runner import recipe
from runner.errors import DataError, UsageError
from runner.session.opening import Split
from runner.training.manifest import DISTRIBUTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from runner.distributed.ranks import Ranks
    from runner.planning.plan import Plan
    from runner.recipe.schema import Recipe

RESUMABLE = (
    "loader.workers=",
    "loader.prefetch_batches=",
    "loader.cache_gib=",
    "train.log_every_steps=",
    "checkpoint.",
    "loggers",
    "throughput",
    "distributed.",
    "dataset.root=",
    "device.",
)
"""What may change on the way without changing what the model sees."""
ON_REQUEST = ("train.epochs=", "train.target_top1=", "eval.", "export")
"""What ``resume --set`` may change besides: how long a run trains, what is made of its model."""
PER_MACHINE = (
    "loader.workers=",
    "loader.prefetch_batches=",
    "loader.cache_gib=",
    "dataset.root=",
    "model.weights=",
    "device.cards",
    "distributed.bind_cores=",
)
"""What may differ between the machines of a run: what each can do, and where its files are. What
is in the files may not."""
Table = dict[str, Any]


def describe(plan: Plan, command: str) -> Table:
    """Return what decides the numbers of a process, before data is opened (JSON values by key).

    Args:
        plan: The recipe.
        command: What the process was asked to do, and with which run.
    """
    table = {"command": command, **values(plan.recipe, PER_MACHINE)}
    return table | {f"version of {name}": found for name, found in _versions(plan)}


def values(checked: Recipe, spared: Sequence[str]) -> Table:
    """Return the values of a recipe by their keys, such as ``train.epochs``.

    Args:
        checked: The recipe.
        spared: Beginnings of keys, with ``=`` behind a whole one, that are left out.
    """
    return flat_values(recipe.resolved(checked), spared)


def flat_values(resolved: Mapping[str, Any], spared: Sequence[str] = ()) -> Table:
    """Return what ``values`` does, of a recipe that is no longer more than data."""
    flat = _flat(resolved, "")
    return {key: value for key, value in flat if not f"{key}=".startswith(tuple(spared))}


def describe_weights(weights: Mapping[str, NDArray[Any]]) -> Table:
    """Return what identifies weights that were read from a file (JSON values by key)."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode(errors="surrogateescape"))
        digest.update(np.ascontiguousarray(weights[name]).data)
    return {"digest of model.weights": digest.hexdigest()[:16]}


def check_process(table: Table, ranks: Ranks) -> None:
    """Refuse processes that would not compute the same.

    Raises:
        UsageError: A rank differs from rank 0, which names the difference.
    """
    found = _difference(table, ranks)
    if found:
        advice = "use the same command, recipe and package versions on every machine"
        ranks.lead(lambda: _raise(UsageError(f"{found}; {advice}")))


def check_data(splits: Sequence[Split], ranks: Ranks) -> None:
    """Refuse processes that see other data than rank 0.

    Raises:
        DataError: A rank differs from rank 0, which names the difference.
    """
    if not _difference(_table(splits, Split.fingerprint), ranks):
        return
    found = _difference(_table(splits, _parts), ranks)
    advice = "every machine needs the same images: the same files under the same names"
    ranks.lead(lambda: _raise(DataError(f"{found}; {advice}")))


def changes(before: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield every key with two values, and both of them."""
    for key in sorted({*before, *here}):
        one, other = (_text(table, key) for table in (before, here))
        if one != other:
            yield key, one, other


def _difference(table: Table, ranks: Ranks) -> str:
    """Say how the lowest rank that differs from rank 0 does; "" if none does."""
    if ranks.group is None:
        return ""
    text = json.dumps({"host": socket.gethostname(), "table": table})
    digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
    differs = digest != ranks.share_text(digest, 0)
    lowest = ranks.lowest(differs)
    if lowest is None:
        return ""
    count = int(ranks.sum([float(differs)])[0])
    first = json.loads(ranks.share_text(text, 0))
    other = json.loads(ranks.share_text(text, lowest))
    found = [
        f"{key}: {here} on rank 0, {there} on rank {lowest}"
        for key, here, there in changes(first["table"], other["table"])
    ]
    others = f" (and {count - 1} more)" if count > 1 else ""
    return (
        f"rank {lowest} on {other['host']}{others} differs from rank 0 on {first['host']}: "
        f"{'; '.join(found)}"
    )


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the scalars of nested data with their dotted keys."""
    members: Any = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for name, member in members:
        yield from _flat(member, f"{key}.{name}" if key else str(name))
    if not members:
        yield key, value


def _text(table: Mapping[str, Any], key: str) -> str:
    return json.dumps(table[key]) if key in table else "nothing"


def _versions(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the packages whose code computes, and their versions."""
    used = (plan.framework, plan.device, plan.dataset, plan.model, plan.optimizer)
    required = {module for item in used if item for module in item.entry.requires}
    modules = {module.partition(".")[0] for module in required}
    names = {DISTRIBUTIONS.get(module, module) for module in modules}
    for name in sorted({"vision-runner", "numpy", "pillow", *names}):
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:  # a module of a package with another name
            continue


def _table(splits: Sequence[Split], describe_split: Callable[[Split], Table]) -> Table:
    found = {split.name: describe_split(split) for split in splits}
    return {f"{name}.{key}": value for name, table in found.items() for key, value in table.items()}


def _parts(split: Split) -> Table:
    """Return what the fingerprint of a split is made of, each part by itself."""
    labels = np.asarray(split.dataset.labels, np.int64)
    names = (split.dataset.describe(index).rpartition("/")[2] for index in range(len(labels)))
    return {
        "images": len(labels),
        "classes": len(split.classes),
        "digest of class names": _digest("\0".join(split.classes).encode(errors="surrogateescape")),
        "digest of labels": _digest(labels.tobytes()),
        "digest of file names": _digest("\0".join(names).encode(errors="surrogateescape")),
        "checksum over sizes and contents of some files": split.fingerprint().get("content"),
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _raise(error: Exception) -> None:
    raise error
