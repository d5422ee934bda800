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
from runner.entries import DatasetEntry, lazy
from runner.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def runner_register_datasets() -> Iterable[DatasetEntry]:
    """Offer the layouts that image-classification data comes in."""
    yield DatasetEntry(
        name="class_folders",
        summary="Images in <root>/{train,val}/<class>/",
        config=ClassFoldersOptions,
        open=lazy("runner.data.layouts.class_folders:open_class_folders"),
    )
    yield DatasetEntry(
        name="class_folders_with_lists",
        summary="Class folders, with labels in <root>/train.txt and val.txt",
        config=ClassFoldersWithListsOptions,
        open=lazy("runner.data.layouts.lists:open_class_folders_with_lists"),
    )
    yield DatasetEntry(
        name="list_file",
        summary="Images and labels listed in text files",
        config=ListFileOptions,
        open=lazy("runner.data.layouts.lists:open_list_file"),
    )
    yield DatasetEntry(
        name="flat_val_label",
        summary="Validation images in <root>/val/, labels in <root>/val_label.txt",
        config=FlatValLabelOptions,
        open=lazy("runner.data.layouts.lists:open_flat_val_label"),
    )
    yield DatasetEntry(
        name="synthetic",
        summary="Generated images, for trials without data",
        config=SyntheticOptions,
        open=lazy("runner.data.layouts.generated:open_synthetic"),
    )
    yield DatasetEntry(
        name="digits",
        summary="1,797 scanned digits of 8x8 pixels that come with scikit-learn",
        config=DigitsOptions,
        open=lazy("runner.data.layouts.generated:open_digits"),
        requires=("sklearn",),
        install="pip install 'vision-runner[digits]'",
    )
