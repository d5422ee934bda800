"""Damage every record and file of a finished run, and see that its readers refuse it in words.

    python benchmarks/fuzz_records.py runs/quickstart/20260131-120000

Every bit of every record is changed once, and 2,000 files are damaged at random, in a copy. What is
neither refused nor taken for what was written ends the program with the file and the change.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.core.storage.fuzz_records import accepted, damaged, every_bit, files_of, records_of

SEED = 20261129


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a finished run with one exported artifact")
    parser.add_argument("--files", type=int, default=2000, help="how many damaged files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = shutil.copytree(arguments.run, Path(scratch) / "run")
        for target in records_of(run):
            start = time.perf_counter()
            taken, total = accepted(target, every_bit(target.path.read_bytes()))
            seconds = time.perf_counter() - start
            print(f"{target.path.name}: {total} bits, {taken} mean the same, {seconds:.0f} s")
        targets = [*records_of(run), *files_of(run)]
        each = -(-arguments.files // len(targets))
        for target in targets:
            data = target.path.read_bytes()
            changes = (item for item in damaged(data, each, SEED) if item != data)
            taken, total = accepted(target, changes)
            print(f"{target.path.name}: {total} damaged, {taken} mean the same")


if __name__ == "__main__":
    main()
