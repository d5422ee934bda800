"""Start-up of the command line, as ratios to a process that imports what it is made of.

    python benchmarks/startup.py [--rounds 15]

Each round starts every command once, in turns, so that what else the machine does falls on all of
them. A figure is the median of the rounds' ratios of processor time (user and system) to that of

    python -c 'import typer, yaml, pluggy, pydantic'

Python keeps compiled modules where it may write them; where PYTHONDONTWRITEBYTECODE is set and
nothing has compiled them before (`make` does), every start compiles anew and takes half as long
again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

import runner

BASE = ("-c", "import typer, yaml, pluggy, pydantic")
COMMANDS = ("--help", "list-plugins", "list recipes", "explain quickstart")


def seconds(arguments: tuple[str, ...]) -> float:
    """Return the processor time of a process of this interpreter."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    ratios: dict[str, list[float]] = {command: [] for command in COMMANDS}
    for number in range(rounds + 1):
        base = seconds(BASE)
        for command, found in ratios.items():
            taken = seconds(("-m", "runner", *command.split()))
            if number:  # the first round fills caches
                found.append(taken / base)
    if not Path(cache_from_source(str(runner.__file__))).exists():
        print("no compiled modules are kept: every start compiles them")
    for command, found in ratios.items():
        print(f"runner {command:20} {statistics.median(found):.2f}")


if __name__ == "__main__":
    main()
