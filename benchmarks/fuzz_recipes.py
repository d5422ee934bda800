"""Mutated recipes: each is refused in words or explained, within 5 s and 1 GB.

    python benchmarks/fuzz_recipes.py --count 20000 --seed 1

Recipes of the project are mutated as text, as lines, as trees and through overrides; each goes the
way of ``runner explain``: composed, checked, resolved, explained. No framework is imported.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from runner.distributed.launching.shell import Start
from runner.distributed.machines import Machines
from runner.errors import RunnerError
from runner.planning.plan import resolve
from runner.plugins import loading
from runner.recipe import compose, validate
from runner.terminal import display
from runner.training import explanation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from runner.plugins.registry import Registry

RECIPES = Path(__file__).parents[1] / "recipes"
LIMIT_S = 5.0
"""Seconds of the processor, so that a busy machine makes no difference."""
LIMIT_GB = 1.0
LONGEST_MESSAGE = 4000
"""Characters of one message: about a screen."""

LONG = "a" * 5000
DIGITS = "9" * 5000
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 10**12, 10**300, -(10**300), 0.0, -0.0, 1e-300, 1e300, 0.5,
    float("nan"), float("inf"), -float("inf"), "", " ", "a", "~", "null", ".nan", LONG, DIGITS,
    "../" * 50, "a\\nb", "\\x1b[31m", "${HOME}", "${NO_SUCH}", "${", "${A:-${B}}", [], [[]], [None],
    {}, {"name": None}, {"name": float("nan")}, {"name": LONG}, {"name": []}, [1] * 300, {"a": {}},
    "synthetic", "onnx", "cosine", "cpu", "torch", "mindspore", "\u202eabc", "\ud800", 2**63, 2**64,
)  # fmt: skip
CHARACTERS = "\t\n :-[]{},&*!|>'\"%@`#?~\x00\x1b\u2028\ufeffé0aA.$"
PIECES = ("<<: *a", "&a ", "*a", "!!python/object:os.system ", "---\n", "...\n", "? a\n: b\n",
          "- - - ", "extends: nothing\n", f"{LONG}: 1\n", "? [1]\n", "\t")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One mutated recipe."""

    text: str
    overrides: tuple[str, ...]


class Hung(Exception):  # noqa: N818  an outcome
    """It took longer than it may."""


def cases(seed: int, count: int) -> Iterator[Case]:
    """Yield mutated recipes; the same ones for the same seed."""
    chance = random.Random(seed)
    files = sorted(RECIPES.glob("*.yaml"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    mutations: tuple[Callable[[random.Random, str], Case], ...] = (
        _characters, _lines, _tree, _tree, _tree, _overrides, _overrides,
    )  # fmt: skip
    for number in range(count):
        if number % 50 == 7:
            yield _sizes(chance, chance.choice(texts))
        yield chance.choice(mutations)(chance, chance.choice(texts))


def _characters(chance: random.Random, text: str) -> Case:
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(text) + 1)
        end = place + chance.choice((0, 0, 1, 3, 20))
        new = chance.choice((chance.choice(CHARACTERS), chance.choice(PIECES), ""))
        text = text[:place] + new + text[end:]
    return Case(text, ())


def _lines(chance: random.Random, text: str) -> Case:
    lines = text.splitlines(keepends=True)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(lines))
        match chance.randrange(5):
            case 0:
                lines.insert(place, chance.choice(lines))
            case 1:
                lines[place] = " " * chance.randint(1, 5) + lines[place]
            case 2:
                lines[place] = lines[place].lstrip()
            case 3:
                lines.insert(place, chance.choice(PIECES))
            case _ if len(lines) > 1:
                del lines[place]
    return Case("".join(lines), ())


def _tree(chance: random.Random, text: str) -> Case:
    tree: Any = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for _ in range(chance.randint(1, 3)):
        _change(chance, tree)
    return Case(
        json.dumps(tree, allow_nan=True).replace("NaN", ".nan").replace("Infinity", ".inf"), ()
    )


def _change(chance: random.Random, tree: Any) -> None:
    parent, key = tree, None
    node = tree
    while isinstance(node, dict | list) and node and (key is None or chance.random() < 0.7):
        parent = node
        key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node = parent[key]
    if key is None:
        return
    match chance.randrange(4):
        case 0 if isinstance(parent, dict):
            parent[
                chance.choice((LONG, "name", "options", "", "0", "size", "a.b", str(key) + "s"))
            ] = copy.deepcopy(chance.choice(VALUES))
        case 1 if isinstance(parent, dict):
            del parent[key]
        case 2 if isinstance(parent, list):
            parent.insert(0, copy.deepcopy(chance.choice(VALUES)))
        case _:
            parent[key] = copy.deepcopy(chance.choice(VALUES))


def _overrides(chance: random.Random, text: str) -> Case:
    keys = (
        "train.epochs", "train.batch_size", "dataset", "dataset.name", "dataset.root", "model.name",
        "model", "export", "export.0", "export.0.name", "export.0.opset", f"export.{DIGITS}",
        f"transforms.eval.{DIGITS}.name", "transforms.train", "transforms.eval.0.size", LONG,
        f"{LONG}.{LONG}", "device.name", "device.count", "framework", "optimizer.learning_rate",
        "schedule.warmup_epochs", "schedule.milestones", "eval.every_epochs", "loggers.0",
        "dataset.images", "dataset.size", "dataset.train_images", ".", "a..b", "seed", "precision",
        "checkpoint.every_epochs", "distributed.restarts", "throughput.0.skip_steps", "summary", "",
    )  # fmt: skip
    values = [json.dumps(value) if not isinstance(value, str) else value for value in VALUES]
    pairs = (f"{chance.choice(keys)}={chance.choice(values)}" for _ in range(chance.randint(1, 4)))
    return Case(text, tuple(pairs))


def _sizes(chance: random.Random, text: str) -> Case:
    count = chance.choice((1000, 20000))
    extra = chance.choice((
        "".join(f"key_{i}: {i}\n" for i in range(count)),
        "note: [" + "1, " * count + "1]\n",
        "export:\n" + "  - onnx\n" * min(count, 2000),
        "note: " + "[" * count + "\n",
        "note: " + "{a: " * count + "\n",
        "".join(f"x{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" if i else "x0: &a0 [1]\n"
                for i in range(40)),
        "note: " + "x" * (50 * count) + "\n",
    ))  # fmt: skip
    return Case(f"{text}\n{extra}", ())


def outcome(case: Case, folder: Path, registry: Registry) -> str:
    """Do what ``runner explain`` does; return what a user reads."""
    file = folder / "mutated.yaml"
    file.write_text(case.text, encoding="utf-8", errors="surrogatepass")
    try:
        document = compose(file, case.overrides, environ={}, allow_unset=True, registry=registry)
        plan = resolve(
            "mutated", validate(document, registry), registry, unset=document.unset and ()
        )
        start = Start(command=["run", str(file)], runs_dir=Path("runs"), machines=Machines())
        explanation.as_text(plan, document, start)
    except RunnerError as error:
        return str(error)
    return ""


def peak_gb() -> float:
    """Return the most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def check(case: Case, folder: Path, registry: Registry, held_gb: float) -> str | None:
    """Return what is wrong with the outcome of a case, if anything is.

    Args:
        case: The recipe and its overrides.
        folder: Where recipes are that it may extend.
        registry: The entries that it may name.
        held_gb: Peak of memory before the first case; a process of tests may hold a framework.
    """
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        text = outcome(case, folder, registry)
    except Hung:
        return f"no end within {LIMIT_S} s"
    except Exception:  # noqa: BLE001  whatever it is, a user would see it
        return "".join(traceback.format_exc().splitlines(keepends=True)[-7:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    longest = max(map(len, display.messages(text.splitlines()).splitlines()), default=0)
    if longest > LONGEST_MESSAGE:
        return f"a message of {longest:,} characters: {text[:200]}"
    gigabytes = peak_gb() - held_gb
    if gigabytes > LIMIT_GB:
        return f"{gigabytes:.1f} GB of memory, after {time.monotonic() - began:.1f} s"
    return None


def run(seed: int, count: int) -> list[tuple[int, Case, str]]:
    """Check many cases; return those that are wrong, with their number."""

    def ring(_number: int, _frame: FrameType | None) -> NoReturn:
        raise Hung

    before = signal.signal(signal.SIGPROF, ring)
    registry = loading.load()
    found, held_gb = [], peak_gb()
    try:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(RECIPES, folder, dirs_exist_ok=True)  # which recipes extend
            for number, case in enumerate(cases(seed, count)):
                wrong = check(case, Path(folder), registry, held_gb)
                if wrong:
                    found.append((number, case, wrong))
                    if "of memory" in wrong:
                        break
    finally:
        signal.signal(signal.SIGPROF, before)
    return found


def main() -> None:
    """Print what is wrong, once for each last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found = run(arguments.seed, arguments.count)
    kinds: dict[str, tuple[int, Case, str, int]] = {}
    for number, case, wrong in found:
        key = "|".join(wrong.splitlines()[-3:])[:160]
        first = kinds.get(key, (number, case, wrong, 0))
        kinds[key] = (*first[:3], first[3] + 1)
    for number, case, wrong, times in kinds.values():
        print(f"case {number} and {times - 1} more, {str(case.overrides)[:200]}\n{wrong[:1500]}\n")
    print(f"{len(found)} of {arguments.count} recipes are not answered in words")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
