"""The datasets that come with Vision Runner, as a plugin like any other.

Nothing is read here: the modules that open the data are imported when a dataset is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.data.layouts.options import (
    ClassFoldersOptions,
    ClassFoldersWithListsOptions,
    DigitsOptions,
    FlatValLabelOptions,
    ListFileOptions,
    SyntheticOptions,
)
from runner.entries import DatasetEntry
from runner.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.contracts import Dataset


def _class_folders(config: ClassFoldersOptions, split: str) -> Dataset:
    from runner.data.layouts.class_folders import open_class_folders

    return open_class_folders(config, split)


def _class_folders_with_lists(config: ClassFoldersWithListsOptions, split: str) -> Dataset:
    from runner.data.layouts.lists import open_class_folders_with_lists

    return open_class_folders_with_lists(config, split)


def _list_file(config: ListFileOptions, split: str) -> Dataset:
    from runner.data.layouts.lists import open_list_file

    return open_list_file(config, split)


def _flat_val_label(config: FlatValLabelOptions, split: str) -> Dataset:
    from runner.data.layouts.lists import open_flat_val_label

    return open_flat_val_label(config, split)


def _synthetic(config: SyntheticOptions, split: str) -> Dataset:
    from runner.data.layouts.generated import open_synthetic

    return open_synthetic(config, split)


def _digits(config: DigitsOptions, split: str) -> Dataset:
    from runner.data.layouts.generated import open_digits

    return open_digits(config, split)


@hookimpl
def runner_register_datasets() -> Iterable[DatasetEntry]:
    """Offer the layouts that image-classification data comes in."""
    yield DatasetEntry(
        name="class_folders",
        summary="Images in <root>/{train,val}/<class>/",
        config=ClassFoldersOptions,
        open=_class_folders,
    )
    yield DatasetEntry(
        name="class_folders_with_lists",
        summary="Class folders, with labels in <root>/train.txt and val.txt",
        config=ClassFoldersWithListsOptions,
        open=_class_folders_with_lists,
    )
    yield DatasetEntry(
        name="list_file",
        summary="Images and labels listed in text files",
        config=ListFileOptions,
        open=_list_file,
    )
    yield DatasetEntry(
        name="flat_val_label",
        summary="Validation images in <root>/val/, labels in <root>/val_label.txt",
        config=FlatValLabelOptions,
        open=_flat_val_label,
    )
    yield DatasetEntry(
        name="synthetic",
        summary="Generated images, for trials without data",
        config=SyntheticOptions,
        open=_synthetic,
    )
    yield DatasetEntry(
        name="digits",
        summary="1,797 scanned digits of 8x8 pixels that come with scikit-learn",
        config=DigitsOptions,
        open=_digits,
        requires=("sklearn",),
        install="pip install 'vision-runner[digits]'",
    )
