"""What ``runner import-args`` makes of the original scripts is what docs/migration.md says."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner import recipe
from runner.migration.import_args import carry_out
from runner.planning.loading import load
from runner.plugins import loading

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"
ARGUMENTS = {
    "Cambricon vision_classification": "{}",
    "Ascend ResNet50": "ResNet50_for_PyTorch/test/{} --data_path=/x",
    "Ascend MobileNetV2": "MobileNetV2_for_PyTorch/test/{} --data_path=/x",
    "MindSpore ResNeXt152": "scripts/{}",
}
POSITIONS = {
    "run_distribute_train.sh": "FILE /x/train",
    "run_standalone_train.sh": "0 /x/train",
    "run_distribute_train_gpu.sh": "/x/train",
    "run_standalone_train_gpu.sh": "/x/train",
    "run_eval_gpu.sh": "/x/val FILE.ckpt",
}
NEEDS_MORE = ("train_performance_multinodes.sh", "run_infer_310.sh")
"""Scripts whose row depends on their arguments."""


def rows() -> Iterator[Any]:
    """Yield each script of the page with the start of its command line and the command here."""
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:].partition(":")[0]
        found = re.fullmatch(
            r"\| (?:later: )?`(\w+\.sh)` \| `runner ((?:train|run) [^`]*)`.*", line
        )
        if found and found[1] not in NEEDS_MORE:
            start = ARGUMENTS[section].format(found[1])
            end = POSITIONS.get(found[1], "")
            if "eval_1p" in found[1]:
                end = "--checkpoint=FILE"
            yield pytest.param(f"bash {start} {end}".strip(), found[2], id=f"{section} {found[1]}")


@pytest.fixture(autouse=True, scope="module")
def plugins_loaded_once() -> Iterator[None]:
    found = loading.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", lambda: found)
        yield


def resolved(words: list[str]) -> Any:
    """Resolve a command of ``runner``, without what names files."""
    overrides = []
    for option, text in pairwise(words):
        if option == "--set":
            overrides.append(text)
        elif option == "--devices":
            overrides.append(f"device.count={text}")
        elif option in {"--precision", "--device"}:
            overrides.append(f"{option[2:]}={text}")
    found: Any = recipe.resolved(load(words[1], overrides, allow_unset=True).plan.recipe)
    found["dataset"].pop("root")
    for key in ("weights", "weights_key"):
        found["model"].pop(key, None)
    return found


@pytest.mark.parametrize(("line", "command"), list(rows()))
def test_the_page_and_the_importers_agree(line, command):
    imported = shlex.split(carry_out([line], importer="", output=None).command)
    ours = imported[imported.index("runner") + 1 :]
    theirs = shlex.split(command)
    assert ours[:2] == theirs[:2]
    assert resolved(ours) == resolved(theirs)


def test_the_page_has_rows():
    assert len(list(rows())) > 60
