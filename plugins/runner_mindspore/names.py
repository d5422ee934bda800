"""Names of tensors: those of MindSpore programs, and torchvision's, which are canonical.

Nothing here imports MindSpore.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from runner.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from runner.contracts import StoredWeights

LEAVES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""What normalisation layers call their tensors in MindSpore, and in torch; in torch's order."""

PER_WEIGHT_STATE = (
    *("moments", "accum", "stat", "moment1", "moment2", "vhat", "adam_m", "adam_v"),
    *("lamb_m", "lamb_v", "mean_grad", "mean_square", "moment", "accu_grads"),
)
"""Prefixes under which MindSpore's optimizers keep one tensor for each weight."""
SCALAR_STATE = re.compile(
    r"global_step|learning_rate(_group_\d+)?|momentum|beta[12]_power|scale_(value|sense)|counter|"
    r"current_iterator_step|last_overflow_iterator_step|epoch_num|step_num"
)
"""What MindSpore's optimizers, loss scalers and callbacks save beside it."""
WRAPPER = re.compile(r"^(network\.)+")
"""What training wrappers put before every name."""
PIECE = re.compile(r"(.+)\.convs\.(\d+)\.(\w+)")
"""One of the convolutions that stand for a grouped one in MindSpore models."""


Rules: TypeAlias = "tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]"


class Dialect(NamedTuple):
    """How a model collection names the layers of a model that is otherwise torchvision's."""

    marker: str
    """A tensor that only its files have."""
    rules: Rules
    """Beginnings of names, and what torchvision has in their place; the first that fits counts."""
    model_options: Mapping[str, str] = {}
    """Options that make the network what it is there: their names and shapes do not tell."""


def _flat_layer(match: re.Match[str]) -> str:
    """Nest the first and last layers of MindCV's MobileNetV2 as torchvision does."""
    number = int(match[1])
    return f"features.0.{number}." if number < 2 else f"features.18.{number - 20}."


def _flat_block(match: re.Match[str]) -> str:
    """Nest the layers of a block of MindCV's MobileNetV2; its last convolution stays flat.

    Every convolution is followed by a normalisation and, but for the last, an activation.
    """
    block, layer = int(match[1]) - 2, int(match[2])
    stage, part = divmod(layer, 3)
    last = 1 if block == 1 else 2
    inner = f"{stage + part}" if stage == last else f"{stage}.{part}"
    return f"features.{block}.conv.{inner}."


END_PADDED = {"max_pool_padding": "end"}
"""Both collections pool behind the first layer with ``pad_mode="same"``."""

DIALECTS = {
    "ResNeXt of MindSpore models": Dialect(
        "backbone.layer1.0.down_sample.conv.weight",
        (
            (r"backbone\.(conv|bn)\.", r"\g<1>1."),
            (r"backbone\.(.*)\.down_sample\.conv\.", r"\1.downsample.0."),
            (r"backbone\.(.*)\.down_sample\.bn\.", r"\1.downsample.1."),
            (r"backbone\.", ""),
            (r"head\.fc\.", "fc."),
        ),
        END_PADDED,
    ),
    "ResNet and ResNeXt of MindCV": Dialect(
        "layer2.0.down_sample.0.weight",
        ((r"(.*)\.down_sample\.", r"\1.downsample."), (r"classifier\.", "fc.")),
        END_PADDED,
    ),
    "MobileNetV2 of MindCV": Dialect(
        "features.3.layers.0.weight",
        (
            (r"features\.(\d+)\.layers\.(\d+)\.", _flat_block),
            (r"features\.(0|1|20|21)\.", _flat_layer),
        ),
    ),
    "MobileNetV2 of MindSpore models": Dialect(
        "features.0.features.0.weight",
        ((r"(.*)\.features\.([01])\.", r"\1.\2."), (r"dense\.", "classifier.1.")),
    ),
}


def torch_leaves(names: Iterable[str]) -> dict[str, str]:
    """Map names to those with torch's words for the tensors of normalisation layers.

    Layers keep their order, and the tensors of each come in torch's order.
    """
    parts = {name: name.rpartition(".") for name in names}
    leaves_of: dict[str, set[str]] = {}
    for owner, _, leaf in parts.values():
        leaves_of.setdefault(owner, set()).add(leaf)
    order = {name: position for position, name in enumerate(LEAVES)}
    first = {owner: position for position, owner in enumerate(leaves_of)}
    mapped = {}
    for name in sorted(parts, key=lambda n: (first[parts[n][0]], order.get(parts[n][2], 0))):
        owner, dot, leaf = parts[name]
        # other layers may have a gamma or a beta of their own
        norm = {"gamma", "beta"} <= leaves_of[owner]
        mapped[name] = f"{owner}{dot}{LEAVES.get(leaf, leaf) if norm else leaf}"
    return mapped


def dialect_of(names: Collection[str]) -> Dialect | None:
    """Return the dialect that the names of a file are in; ``None`` if they are torchvision's."""
    known = {WRAPPER.sub("", name) for name in names}
    return next((dialect for dialect in DIALECTS.values() if dialect.marker in known), None)


def sources(names: Collection[str]) -> dict[str, list[str]]:
    """Return the tensors of a file that make up each canonical one; mostly one.

    The pieces of a grouped convolution come in order. Left out are the states of optimizers and
    loss scalers: ``PER_WEIGHT_STATE`` before the name of a weight, and ``SCALAR_STATE``. Names that
    no dialect knows stay as they are.

    Raises:
        CheckpointError: Pieces are missing, or two tensors mean the same.
    """
    plain = {name: WRAPPER.sub("", name) for name in names}
    known = set(plain.values())
    dialect = dialect_of(names)
    rules = dialect.rules if dialect else ()
    found: dict[str, dict[int, str]] = {}
    for name, short in plain.items():
        if not _is_state(short, known):
            target, number = _target(short, rules)
            other = found.setdefault(target, {}).setdefault(number, name)
            if other != name:
                raise CheckpointError(
                    f"{other} and {name} both mean {target}; remove one of them from the file"
                )
    for target, pieces in found.items():
        missing = sorted(set(range(max(pieces) + 1)) - set(pieces))
        if missing:
            raise CheckpointError(
                f"{target} is in pieces, of which the file lacks {missing} of 0 to {max(pieces)}; "
                "use a complete file"
            )
    return {
        canonical: [found[target][number] for number in sorted(found[target])]
        for target, canonical in torch_leaves(found).items()
    }


def are_native(names: Iterable[str]) -> bool:
    """Say whether the names of a file's tensors are those of a MindSpore program."""
    known = list(names)
    return any(name.endswith(".moving_mean") for name in known) or dialect_of(known) is not None


def translated(stored: StoredWeights) -> StoredWeights:
    """Give tensors of a MindSpore program torchvision's names, whatever file they come from.

    Raises:
        CheckpointError: A tensor is incomplete, or there twice.
    """
    options: dict[str, str] = {}
    sets = {}
    for key, tensors in stored.sets.items():
        dialect = dialect_of(tensors)
        options |= dialect.model_options if dialect else {}
        sets[key] = {
            name: tensors[pieces[0]]
            if len(pieces) == 1
            else np.concatenate([tensors[piece] for piece in pieces])
            for name, pieces in sources(tensors).items()
        }
    return replace(stored, sets=sets, model_options={**stored.model_options, **options})


def translate_weights(stored: StoredWeights) -> StoredWeights | None:
    """Translate what is in MindSpore's words; ``None`` if it is not."""
    return translated(stored) if any(map(are_native, stored.sets.values())) else None


def _is_state(name: str, known: Collection[str]) -> bool:
    prefix, _, weight = name.partition(".")
    per_weight = prefix in PER_WEIGHT_STATE and WRAPPER.sub("", weight) in known
    return per_weight or bool(SCALAR_STATE.fullmatch(name))


def _target(name: str, rules: Rules) -> tuple[str, int]:
    """Return the tensor that one of a file belongs to, and its position in it."""
    for pattern, replacement in rules:
        if re.match(pattern, name):
            name = re.sub(pattern, replacement, name, count=1)
            break
    piece = PIECE.fullmatch(name)
    return (f"{piece[1]}.{piece[3]}", int(piece[2])) if piece else (name, 0)
