from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from runner.data.plugin import runner_register_datasets
from runner.recipe.schema import DatasetSection

if TYPE_CHECKING:
    from runner.entries import DatasetEntry


def test_entries_are_complete() -> None:
    entries = list(runner_register_datasets())
    assert [entry.name for entry in entries] == [
        "class_folders",
        "class_folders_with_lists",
        "list_file",
        "flat_val_label",
        "synthetic",
        "digits",
    ]
    assert {entry.framework for entry in entries} == {"any"}
    assert entries[-1].requires == ("sklearn",)
    assert entries[-1].install == "pip install 'vision-runner[digits]'"


def test_listing_datasets_imports_nothing_heavy() -> None:
    code = (
        "import sys; from runner.data.plugin import runner_register_datasets as r; list(r()); "
        "print([m for m in ('numpy', 'PIL', 'pydantic', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("entry", list(runner_register_datasets()), ids=lambda entry: entry.name)
def test_options_do_not_hide_keys_of_the_section(entry: DatasetEntry) -> None:
    own = {item.name for item in fields(entry.config)}
    assert not own & {item.name for item in fields(DatasetSection)}
