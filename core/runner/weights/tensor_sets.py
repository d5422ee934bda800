"""Which of a file's tensors a model takes, and what they are called there.

A file may hold several sets: the weights and their average, a teacher and a student; each under a
key, or behind a prefix of its names. A set fits when every tensor of the model is in it, once what
wrappers put before the names is removed.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, final

from runner.errors import CheckpointError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

COUNTER = "num_batches_tracked"
"""Leaf of a counter that programs before torch 0.4.1, and all of MindSpore, do not keep."""
BESIDE_MODEL = frozenset({"n_averaged", "num_updates", "total_ops", "total_params"})
"""Leaves of tensors that averaging and counting of operations add to a model's."""
AVERAGE = re.compile(r"(^|[._])(ema|averaged?|swa)([._]|$)", re.IGNORECASE)
"""What the key or the prefix of an average has in it."""
NO_AVERAGE = re.compile(
    r"(^|[._])(non?|not|without|pre|before)[._](ema|averaged?|swa)([._]|$)", re.IGNORECASE
)
"""What has that in it, and says the opposite."""
SWAPPED = frozenset({"state_dict", "ema_state_dict"})
"""Keys of MMEngine's files, where the average and what is averaged change places on saving."""
SWAPPED_MARK = "steps"
"""What MMEngine's average has, and no model's tensors have."""
INSIDE = re.compile(r"\b(_orig_mod|module)\.")
"""What a wrapped part of a model has in the middle of its names."""
MOST_PREFIXES = 3
"""Prefixes that one set may have, such as ``backbone.`` and ``head.``."""
MOST_OTHERS = 8
"""Prefixes that are looked at in place of one of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSet:
    """One set of a file, as the model would name it."""

    key: str
    """Where in the file; empty for its top."""
    prefixes: tuple[str, ...]
    """What is removed from its names."""
    names: Mapping[str, str]
    """Names in the file by name in the model."""
    unused: tuple[str, ...]
    """Names in the file that have these prefixes, and are no names of the model."""
    apart: tuple[str, ...]
    """Names in the file that have other prefixes."""
    swapped: bool = False
    """Whether the key says of an average what is true of the raw weights, and the reverse."""

    @property
    def label(self) -> str:
        """What chooses it: a key, a prefix, or both."""
        prefix = self.prefixes[0].rstrip(".") if self.prefixes else ""
        return ".".join(part for part in (self.key, prefix) if part)

    @property
    def is_average(self) -> bool:
        """Whether it is the average of another set."""
        marked = any(_marks_average(part) for part in (self.key, *self.prefixes))
        return marked != self.swapped

    def answers_to(self, choice: str) -> bool:
        """Say whether a user who names a key or a prefix means this one."""
        prefixes = {prefix.rstrip(".") for prefix in self.prefixes}
        return choice.rstrip(".") in {self.label, self.key, *prefixes} - {""}


def find(
    keys: Mapping[str, Collection[str]], model: Collection[str], needed: Collection[str]
) -> list[TensorSet]:
    """Return the sets of a file, those first that hold most of the model.

    Args:
        keys: Names of the tensors by the key of the file that they are kept under.
        model: Names of the model's tensors.
        needed: Those of them that weights must have.
    """
    found = [
        item for key, names in keys.items() for item in _sets_of(key, list(names), model, needed)
    ]
    if keys.keys() >= SWAPPED and SWAPPED_MARK in keys["ema_state_dict"]:
        found = [replace(item, swapped=item.key in SWAPPED) for item in found]
    return sorted(found, key=lambda item: -len(item.names.keys() & set(needed)))


def _marks_average(text: str) -> bool:
    return bool(AVERAGE.search(text)) and not NO_AVERAGE.search(text)


def _sets_of(
    key: str, names: Sequence[str], model: Collection[str], needed: Collection[str]
) -> Iterator[TensorSet]:
    """Yield one set for each prefix behind which all that is needed is, or else the best try."""
    read = _Names(model)
    wanted = set(needed)
    counts = read.prefixes(names, wanted)
    whole = [prefix for prefix, count in counts.items() if count >= len(wanted) > 0]
    for prefix in whole:
        others = tuple(other for other in whole if len(other) > len(prefix))
        yield read.set_of(key, [prefix], [n for n in names if not n.startswith(others)])
    if not whole:
        for prefixes in read.splits(names, wanted):
            yield read.set_of(key, prefixes, names)


@final
class _Names:
    """Names of tensors, compared with a model's."""

    def __init__(self, model: Collection[str]) -> None:
        self._model = set(model)

    def bare(self, name: str, prefix: str) -> str:
        """Return a name without a prefix, and without the marks of wrapped parts inside."""
        rest = name[len(prefix) :]
        return rest if rest in self._model else INSIDE.sub("", rest)

    def prefixes(self, names: Sequence[str], wanted: set[str]) -> Counter[str]:
        """Count how many names are wanted ones behind each prefix, which may be empty."""
        splits = ((name, name[:end]) for name in names for end in _ends(name))
        return Counter(prefix for name, prefix in splits if self.bare(name, prefix) in wanted)

    def splits(self, names: Sequence[str], wanted: set[str]) -> list[list[str]]:
        """Return the prefixes of each set that is behind several, or those of the best try.

        Where other prefixes give the same as one of the best, each is in one of the sets, with
        those that it has most in common with.
        """
        given = self._best_prefixes(names, wanted)
        if set().union(*given.values()) != wanted:
            return [list(given)]
        left = [name for name in names if not self._is_taken(name, given)]
        counts = [(part, self.prefixes(left, part)) for part in given.values()]
        others = [[q for q, n in count.items() if n >= len(part)] for part, count in counts]
        choices = [[p, *more[:MOST_OTHERS]] for p, more in zip(given, others, strict=True)]
        found: list[list[str]] = []
        for prefixes in sorted(map(list, product(*choices)), key=_unlikeness):
            if not set(prefixes) <= {prefix for item in found for prefix in item}:
                found.append(prefixes)
        return found

    def _is_taken(self, name: str, given: Mapping[str, set[str]]) -> bool:
        return any(name.startswith(p) and self.bare(name, p) in part for p, part in given.items())

    def _best_prefixes(self, names: Sequence[str], wanted: set[str]) -> dict[str, set[str]]:
        """Return the prefixes that, one after the other, give most of what is still missing.

        Each comes with what it gives.
        """
        found: dict[str, set[str]] = {}
        missing, left = set(wanted), list(names)
        while missing and len(found) < MOST_PREFIXES:
            counts = self.prefixes(left, missing)
            if not counts:
                break
            # of two that give as much, the shorter leaves less unexplained
            prefix = max(counts, key=lambda p: (counts[p], -len(p)))
            taken = [n for n in left if n.startswith(prefix) and self.bare(n, prefix) in missing]
            found[prefix] = {self.bare(name, prefix) for name in taken}
            missing -= found[prefix]
            left = sorted(set(left) - set(taken))
        return found

    def set_of(self, key: str, prefixes: list[str], names: Sequence[str]) -> TensorSet:
        """Return what is found behind prefixes."""
        found: dict[str, str] = {}
        unused, apart = [], []
        for name in names:
            own = [prefix for prefix in prefixes if name.startswith(prefix)]
            bare = next((b for p in own if (b := self.bare(name, p)) in self._model), None)
            if bare is not None and bare not in found:
                found[bare] = name
            elif own or not prefixes:
                unused.append(name)
            else:
                apart.append(name)
        return TensorSet(
            key=key,
            prefixes=tuple(prefix for prefix in prefixes if prefix),
            names=found,
            unused=tuple(unused),
            apart=tuple(apart),
        )


def _unlikeness(prefixes: Sequence[str]) -> tuple[int, int]:
    """Return how little prefixes look like those of one set: their roots, and averages with raw."""
    roots = {prefix.partition(".")[0] for prefix in prefixes}
    return len(roots), len({_marks_average(prefix) for prefix in prefixes})


def _ends(name: str) -> Iterator[int]:
    """Yield the length of each beginning of a name that ends with a dot, or is empty."""
    yield 0
    for position, letter in enumerate(name):
        if letter == ".":
            yield position + 1


def choose(
    found: Sequence[TensorSet], complete: Sequence[TensorSet], choice: str | None
) -> TensorSet:
    """Return the set that a user means, or the only one that fits; of two, the average.

    Args:
        found: All sets of a file, the best first.
        complete: Those that fit.
        choice: ``ema`` for the average, ``raw`` for what is averaged, a key or a prefix.

    Raises:
        CheckpointError: There is no such set, or several fit.
    """
    candidates = list(complete) or list(found[:1])
    if choice is not None:
        candidates = _chosen(found, candidates, choice)
    averages = [item for item in candidates if item.is_average]
    if len(candidates) > 1 and len(averages) == 1:
        return averages[0]
    if len(candidates) > 1:
        raise CheckpointError(
            f"several sets of tensors fit the model: {_listed(candidates)}; name one with "
            "model.weights_key, or --weights of a command that takes a model"
        )
    return candidates[0]


def _chosen(
    found: Sequence[TensorSet], complete: Sequence[TensorSet], choice: str
) -> list[TensorSet]:
    named = [item for item in found if item.answers_to(choice)]
    if not named and choice in ("ema", "raw"):
        named = [item for item in complete if item.is_average == (choice == "ema")]
    if not named:
        raise CheckpointError(
            f"there are no weights {choice!r}; expected one of: {_listed(found)}, or ema or raw "
            "where there is an average"
        )
    whole = [item for item in named if item in complete]
    return whole or named[:1]


def _listed(items: Sequence[TensorSet]) -> str:
    return ", ".join(
        f"{item.label or 'the top of the file'} ({counted(len(item.names), 'tensor')} of the model)"
        for item in items[:8]
    )
