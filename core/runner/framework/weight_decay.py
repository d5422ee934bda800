"""Which parameters are decayed."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from runner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


def not_decayed(names: Sequence[str], norms: Collection[str], rules: Iterable[str]) -> set[str]:
    """Return the parameters without weight decay.

    Args:
        names: Canonical names of the trainable parameters.
        norms: Those that belong to normalisation layers.
        rules: ``bias`` (names that end in it), ``norm``, or patterns for names such as
            ``*.bn?.weight``.

    Raises:
        UsageError: A rule matches nothing.
    """
    exempt: set[str] = set()
    for rule in rules:
        if rule == "bias":
            matched = {name for name in names if name.endswith("bias")}
        elif rule == "norm":
            matched = set(norms)
        else:
            matched = {name for name in names if fnmatchcase(name, rule)}
        if not matched:
            raise UsageError(
                f"optimizer.no_weight_decay: {rule!r} matches none of the {len(names)} "
                f"parameters ({_examples(names)}); remove it, or use 'bias', 'norm' "
                "or a pattern such as '*.bn?.weight'"
            )
        exempt |= matched
    return exempt


def _examples(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
