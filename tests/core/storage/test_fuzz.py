"""Damaged records and files are refused in words, or mean what was written."""

from __future__ import annotations

import pytest
from tests.core.storage.fuzz_records import (
    accepted,
    damaged,
    every_bit,
    files_of,
    records_of,
    some_bits,
)

from runner.storage import checkpoint

SEED = 20261129
BITS, DAMAGES = 300, 40
EXPORT = "export: [{name: fake_npz, verify_images: 1}]\n"


@pytest.fixture
def finished(project):
    assert project.run(extra=EXPORT).code == 0
    return project.run_folder()


def test_some_one_bit_changes_of_each_record(finished):
    for target in records_of(finished):
        taken, total = accepted(target, some_bits(target.path.read_bytes(), BITS, SEED))
        assert total == BITS
        assert taken < 0.05 * total, "white space, and digits beyond a float's precision"


def test_damage_to_each_record_and_each_file(finished):
    for target in [*records_of(finished), *files_of(finished)]:
        data = target.path.read_bytes()
        changes = [item for item in damaged(data, DAMAGES, SEED) if item != data]
        taken, total = accepted(target, iter(changes))
        assert total > DAMAGES / 2
        assert taken <= 0.2 * total, target.path


@pytest.mark.slow
def test_every_one_bit_change_of_a_checkpoints_record(finished):
    """Those of all records are tried by benchmarks/fuzz_records.py, which takes minutes."""
    [target] = (item for item in records_of(finished) if item.path.name == checkpoint.INFO)
    data = target.path.read_bytes()
    taken, total = accepted(target, every_bit(data))
    assert total == 8 * len(data)
    assert taken < 0.05 * total


@pytest.mark.slow
def test_a_thousand_damaged_files(finished):
    targets = [*records_of(finished), *files_of(finished)]
    each = -(-1000 // len(targets))
    for target in targets:
        data = target.path.read_bytes()
        accepted(target, (item for item in damaged(data, each, SEED) if item != data))
