"""Weights of a file as a model takes them: under its names, in its number format, of its classes.

Everything that is done to them, and everything of the file that is left out, is noted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np

from runner.errors import CheckpointError
from runner.framework.short_floats import widened
from runner.framework.weights import check_fit
from runner.storage import checkpoint
from runner.terminal.display import counted
from runner.weights import tensor_sets
from runner.weights.tensor_sets import BESIDE_MODEL, COUNTER

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import StoredWeights
    from runner.weights.tensor_sets import TensorSet

SHOWN = 6
"""Names that a note lists before it counts the rest."""
MODEL_KEYS = ("model", "net", "state_dict", "param", "weight", "module", "backbone", "raw", "ema")
"""How keys begin under which programs keep a model; weights under others are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Weights as they were read."""

    stored: StoredWeights
    classes: tuple[str, ...] = ()
    """Names of the classes, where they are known."""
    checked: bool = True
    """False for a checkpoint whose record is older than checksums."""
    network: str = ""
    """Name of the model that they are of, where a recipe comes with them."""
    notes: tuple[str, ...] = ()
    """What to say of them wherever they are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The model that weights are for."""

    tensors: Mapping[str, NDArray[Any]]
    """Its fresh tensors, by canonical name and in its order."""
    num_classes: int
    options: object
    classes: tuple[str, ...] = ()
    """Names of the data's classes; empty where there is no data."""
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """``ModelEntry.training_heads``."""
    training: bool = False
    fresh_classifier: bool = False
    network: str = ""
    """Name of the model."""

    def head_names(self, names: Collection[str]) -> set[str]:
        """Return the names that belong to heads that only training uses."""
        prefixes = tuple(prefix for group in self.heads.values() for prefix in group)
        return {name for name in names if name.startswith(prefixes)} if prefixes else set()

    def classifiers(self) -> list[str]:
        """Return the names of the last layer, and of the last of each auxiliary head.

        Their first dimension is that of the classes.
        """
        heads = [p for group in self.heads.values() for p in group]
        groups = [[n for n in self.tensors if n.startswith(p)] for p in heads]
        groups.append([n for n in self.tensors if not n.startswith(tuple(heads) or "\0")])
        return [name for group in groups for name in self._last_layer(group)]

    def _last_layer(self, names: Sequence[str]) -> list[str]:
        sized = [n for n in names if self.tensors[n].shape[:1] == (self.num_classes,)]
        weights = [name for name in sized if self.tensors[name].ndim > 1]
        owner = weights[-1].rpartition(".")[0] if weights else None
        return [name for name in sized if name.rpartition(".")[0] == owner]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Weights that fit a model."""

    weights: Mapping[str, NDArray[Any]]
    """All tensors of the model, by canonical name."""
    label: str
    """Which set of the file they are; empty if it is the only one."""
    notes: tuple[str, ...]
    """What was done to them, and what was left out."""


def fit(source: Source, target: Target, choice: str | None) -> Fitted:
    """Choose the set of tensors that a user means, and turn it into the model's.

    Args:
        source: What was read.
        target: The model.
        choice: As in ``tensor_sets.choose``.

    Raises:
        CheckpointError: Nothing fits, several sets do, or the classes or the network are others.
    """
    return _Fit(source, target).carry_out(choice)


def check(source: Source, target: Target) -> None:
    """Refuse weights for what is known of them without their tensors, and those of the model.

    Raises:
        CheckpointError: The classes or the network are others.
    """
    _Fit(source, target).check()


@final
class _Fit:
    """The state of one fit."""

    def __init__(self, source: Source, target: Target) -> None:
        self._source = source
        self._target = target
        self._notes = list(source.notes)
        tensors = target.tensors
        self._fresh = set(target.classifiers()) if target.fresh_classifier else set()
        self._spare = set() if target.training else target.head_names(tensors)
        self._needed = [
            name
            for name in tensors
            if name not in self._fresh | self._spare and not name.endswith(COUNTER)
        ]

    def check(self) -> NDArray[np.int64] | None:
        self._check_network()
        return self._order()

    def carry_out(self, choice: str | None) -> Fitted:
        order = self.check()
        chosen, found = self._choose(choice)
        weights, counters = self._weights(chosen)
        strays = self._strays(chosen)
        self._check(chosen, weights, strays)
        self._check_kinds(weights)
        self._note(chosen, found, counters)
        if order is not None:
            weights |= {name: weights[name][order] for name in self._target.classifiers()}
        ordered = {name: weights[name] for name in self._target.tensors}
        return Fitted(weights=ordered, label=chosen.label, notes=tuple(self._notes))

    def _check_network(self) -> None:
        """Compare the options that change what a network computes with the same weights."""
        for key, wanted in self._source.stored.model_options.items():
            found = getattr(self._target.options, key, wanted)
            if found == wanted:
                continue
            message = (
                f"the weights are those of a network with {key} {wanted}, and the recipe's has "
                f"{found}, which computes something else with them"
            )
            if not self._target.training:
                raise CheckpointError(f"{message}; set model.{key}={wanted}")
            self._notes.append(f"{message}: training starts from there (model.{key}={wanted})")

    def _order(self) -> NDArray[np.int64] | None:
        """Return the order in which the data has the classes; ``None`` if it is the same."""
        ours, theirs = self._source.classes, self._target.classes
        if self._target.fresh_classifier or not ours or ours == theirs:
            return None
        if sorted(ours) != sorted(theirs) or len(set(ours)) < len(ours):
            if theirs:
                self._refuse_classes()
            return None
        places = {name: position for position, name in enumerate(ours)}
        self._notes.append("the classes have another order, so the last layer is ordered by name")
        return np.array([places[name] for name in theirs])

    def _refuse_classes(self) -> None:
        try:
            checkpoint.check_classes(self._source.classes, self._target.classes, "the dataset")
        except CheckpointError as error:
            raise CheckpointError(f"{error}{self._way_out()}") from None

    def _way_out(self) -> str:
        if _are_numbers(self._target.classes):
            return (
                "; the data has numbers in place of names: where it is a list, name its classes "
                "with --set dataset.class_names=names.txt"
            )
        if self._target.training:
            return "; to train a last layer for other classes, set model.fresh_classifier=true"
        return checkpoint.under_other_names("MODEL")

    def _choose(self, choice: str | None) -> tuple[TensorSet, list[TensorSet]]:
        keys = self._source.stored.sets
        needed = set(self._needed)
        found = tensor_sets.find(keys, self._target.tensors, needed)
        complete = self._different([item for item in found if needed <= item.names.keys()])
        return tensor_sets.choose(found, complete, choice), complete

    def _different(self, items: list[TensorSet]) -> list[TensorSet]:
        """Leave out sets whose tensors are those of an earlier one."""
        kept: list[TensorSet] = []
        for item in items:
            if not any(self._same(item, other) for other in kept):
                kept.append(item)
        return kept

    def _same(self, one: TensorSet, other: TensorSet) -> bool:
        return all(
            np.array_equal(self._read(one, name), self._read(other, name)) for name in self._needed
        )

    def _read(self, chosen: TensorSet, name: str) -> NDArray[Any]:
        return self._source.stored.sets[chosen.key][chosen.names[name]]

    def _weights(self, chosen: TensorSet) -> tuple[dict[str, NDArray[Any]], int]:
        """Return what there is of the model, and how many counters were missing."""
        weights: dict[str, NDArray[Any]] = {}
        counters = 0
        for name, fresh in self._target.tensors.items():
            if name in self._fresh:
                weights[name] = fresh
            elif name in chosen.names:
                array = widened(self._read(chosen, name))
                weights[name] = (
                    fresh if name in self._spare and array.shape != fresh.shape else array
                )
            elif name in self._spare:
                weights[name] = fresh
            elif name.endswith(COUNTER):
                weights[name] = np.zeros(fresh.shape, fresh.dtype)
                counters += 1
        return weights, counters

    def _strays(self, chosen: TensorSet) -> list[str]:
        """Return the names that the model lacks and that cannot be left out."""
        heads = set() if self._target.training else self._heads_in(chosen)
        return [
            name
            for name in chosen.unused
            if name not in heads and name.rpartition(".")[2] not in BESIDE_MODEL
        ]

    def _heads_in(self, chosen: TensorSet) -> set[str]:
        bare = {_without(name, chosen.prefixes): name for name in chosen.unused}
        return {bare[name] for name in self._target.head_names(bare)}

    def _check(
        self, chosen: TensorSet, weights: Mapping[str, NDArray[Any]], strays: Sequence[str]
    ) -> None:
        shapes = {name: array.shape for name, array in self._target.tensors.items()}
        whole = self._source.stored.sets[chosen.key]
        extra = {name: whole[name] for name in strays}
        check_fit(shapes, {**extra, **weights}, advice=self._advice(chosen, weights, strays))

    def _check_kinds(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Refuse whole numbers in place of weights: quantized ones lack their scale here."""
        wrong = [
            f"{name} ({weights[name].dtype})"
            for name, fresh in self._target.tensors.items()
            if fresh.dtype.kind == "f" and weights[name].dtype.kind != "f"
        ]
        if wrong:
            raise CheckpointError(
                f"{counted(len(wrong), 'tensor')} not of floating point numbers: {_listed(wrong)}; "
                "expected the float weights of the model, before it was quantized or masked"
            )

    def _advice(
        self, chosen: TensorSet, weights: Mapping[str, NDArray[Any]], strays: Sequence[str]
    ) -> str:
        """Say what to do where the cause can be told; empty if it cannot."""
        missing = {name for name in self._target.tensors if name not in weights}
        bare = {_without(name, chosen.prefixes) for name in strays}
        for option, prefixes in self._target.heads.items():
            if missing | bare and all(name.startswith(prefixes) for name in missing | bare):
                return (
                    f"they are {'without' if missing else 'with'} the auxiliary heads that "
                    f"training uses; set model.{option}={'false' if missing else 'true'}"
                )
        theirs, ours = self._source.network, self._target.network
        if theirs and ours and theirs != ours:
            return (
                f"these are weights of {theirs}, and the model is {ours}; set model.name={theirs}"
            )
        last = set(self._target.classifiers())
        if missing and missing <= last and not bare:
            lack = _listed(sorted(missing))
            found = (
                f"their last layer has no {lack}" if missing < last else "they have no last layer"
            )
            return f"{found}; to train a new one, set model.fresh_classifier=true"
        if not chosen.prefixes:
            return ""
        wanted, prefix = len(self._target.tensors), " and ".join(map(repr, chosen.prefixes))
        return (
            f"their names begin with {prefix}, without which {len(chosen.names)} are names of the "
            f"model, which has {wanted}; use weights of the same model and model options"
        )

    def _note(self, chosen: TensorSet, complete: list[TensorSet], counters: int) -> None:
        others = [item.label or "the top of the file" for item in complete if item != chosen]
        if others:
            kind = "the average " if chosen.is_average else ""
            self._notes.append(
                f"took {kind}{chosen.label or 'the top of the file'}; there is also "
                f"{_listed(others)} (model.weights_key, --weights)"
            )
        elif chosen.key and len(self._source.stored.sets) > 1:
            self._notes.append(f"took {chosen.key}")
        elif chosen.key and not chosen.key.lower().startswith(MODEL_KEYS):
            self._notes.append(f"took {chosen.key}, the only tensors of the file")
        if chosen.swapped:
            self._notes.append("MMEngine keeps the average in state_dict, not in ema_state_dict")
        if chosen.prefixes:
            removed = " and ".join(map(repr, chosen.prefixes))
            self._notes.append(f"removed {removed} from the names")
        if self._fresh:
            self._notes.append(
                f"{_listed(sorted(self._fresh))} stay fresh, for "
                f"{counted(self._target.num_classes, 'class')}"
            )
        if counters and any(name.endswith("running_mean") for name in chosen.names):
            lacked = counted(counters, "counter")
            self._notes.append(f"counting begins at 0 for {lacked} that it lacks ({COUNTER})")
        lacking = self._spare - chosen.names.keys()
        if lacking:
            self._notes.append(
                f"it lacks {counted(len(lacking), 'tensor')} of auxiliary heads, used in training "
                "only"
            )
        self._note_ignored(chosen)

    def _note_ignored(self, chosen: TensorSet) -> None:
        left = [name for name in chosen.unused if name not in self._strays(chosen)]
        if left or chosen.apart:
            self._notes.append(f"left out {_listed([*left, *chosen.apart])}")
        if self._source.stored.ignored:
            self._notes.append(f"ignored {_listed(self._source.stored.ignored)}")


def _without(name: str, prefixes: Sequence[str]) -> str:
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return name[len(prefix) :]


def _are_numbers(classes: Sequence[str]) -> bool:
    """Say whether classes are named after their labels, as where nobody knows their names."""
    return all(name == str(label) for label, name in enumerate(classes))


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
