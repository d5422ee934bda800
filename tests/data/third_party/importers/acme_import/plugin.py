"""Two programs with a script of the same name, and one whose importer is broken."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runner import ImporterEntry, Translation, hookimpl
from runner.migration.command_line import Option, parse, split, starts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OPTIONS = (
    Option(names=("-b", "--batch-size"), default=8, type=int),
    Option(names=("--epochs",), default=3, type=int),
    Option(names=("--rate",), default=0.05, type=float),
    Option(names=("--smoothing",), default=0.1, type=float),
    Option(names=("--crop",), default=8, type=int),
    Option(names=("--data",), default=""),
    Option(names=("--evaluate",), default=""),
    Option(names=("--fast",), default=False, type=None, note="had no effect there"),
)


def recognises(words: Sequence[str]) -> bool:
    line = split(words)
    return line is not None and line.name in {"paint.py", "both.sh"}


def recognises_other(words: Sequence[str]) -> bool:
    return starts(words, ("both.sh", "broken.py"))


def translate(words: Sequence[str]) -> Translation:
    line = split(words)
    assert line is not None
    given = parse(line.name, OPTIONS, line.arguments)
    smoothing = given["smoothing"]
    overrides = {
        "train.batch_size": given["batch_size"],
        "train.epochs": given["epochs"],
        "optimizer.learning_rate": given["rate"],
        "loss.label_smoothing": smoothing,
        "loss.smooth_over": "others" if smoothing else None,
        "train.clip_grad_norm": None,
        "transforms.train": [{"name": "random_crop", "size": given["crop"], "padding": 1}],
    }
    if given["data"]:
        overrides["model.weights"] = given["data"]
    weights = (given["evaluate"],) if given["evaluate"] else ()
    return Translation(
        command="eval" if weights else "train",
        recipe="acme_colours",
        overrides=overrides,
        arguments=weights,
        environment={"ACME": line.environment["ACME"]} if "ACME" in line.environment else {},
        notes=given.notes,
    )


def translate_other(words: Sequence[str]) -> Translation:
    line = split(words)
    assert line is not None
    if PurePosixPath(line.script).name == "broken.py":
        return Translation(command="train", recipe="acme_colours", overrides={"train.epoch": 1})
    return Translation(command="run", recipe="acme_colours")


@hookimpl
def runner_register_importers() -> Iterable[ImporterEntry]:
    yield ImporterEntry(
        name="acme_paint", summary="Acme paint", recognises=recognises, translate=translate
    )
    yield ImporterEntry(
        name="acme_other",
        summary="Acme other",
        recognises=recognises_other,
        translate=translate_other,
    )
