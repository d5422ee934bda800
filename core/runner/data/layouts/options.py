"""What recipes say of the datasets."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Optional

from annotated_types import Ge, Gt, Le, Lt

from runner.data.layouts.images import IMAGE_ENDINGS
from runner.data.size_limits import MAX_SIDE
from runner.options import options

Images = Annotated[int, Gt(0), Le(20_000_000)]
"""More than ImageNet-21k has; labels and order of a split lie in memory."""


Side = Annotated[int, Gt(0), Le(MAX_SIDE)]


def _extensions() -> list[str]:
    return list(IMAGE_ENDINGS)


@options
class ClassFoldersOptions:
    """Images in `<root>/<split folder>/<class>/`."""

    root: str
    """Folder that holds the split folders; `~` is the home folder."""
    train: str = "train"
    """Folder of the training images, below `root`."""
    val: str = "val"
    """Folder of the validation images, below `root`."""
    extensions: list[str] = field(default_factory=_extensions)
    """File endings that are images, in upper or lower case; other files are counted and left."""
    missing_classes: bool = False
    """Let classes be without validation images, and without a folder for them."""


@options
class ClassFoldersWithListsOptions:
    """Images in `<root>/<split folder>/<class>/`, with labels in `<root>/<list>`."""

    root: str
    """Folder that holds the split folders and the lists."""
    train: str = "train"
    """Folder of the training images, below `root`."""
    val: str = "val"
    """Folder of the validation images, below `root`."""
    train_list: str = "train.txt"
    """Lines of `<path> <label>` below `root`; paths start at the split folder or at `root`."""
    val_list: str = "val.txt"
    """The same for the validation images."""
    # Optional[] in place of `| None`: pydantic evaluates it on Python 3.10 as well.
    first_label: Optional[Annotated[int, Ge(0)]] = None  # noqa: UP045
    """Label of the first class in the lists, such as 1, which is taken off every label; 0 when left
    out, and some image must have it then."""


@options
class ListFileOptions:
    """Images listed in text files."""

    root: str
    """Folder at which the paths in the lists start."""
    train_list: Optional[str] = None  # noqa: UP045
    """File with lines of `<path> <label>`; relative to `root` unless absolute."""
    val_list: Optional[str] = None  # noqa: UP045
    """The same for the validation images."""
    class_names: Optional[str] = None  # noqa: UP045
    """File with one class name per line, in label order; labels are the names if left out."""
    first_label: Optional[Annotated[int, Ge(0)]] = None  # noqa: UP045
    """Label of the first class in the lists, such as 1, which is taken off every label; 0 when left
    out, and some image must have it then."""
    missing_classes: bool = False
    """Let classes be without validation images, and names of `class_names` without any image."""


@options
class FlatValLabelOptions:
    """Validation images in one folder, with labels in one file beside it."""

    root: str
    """Folder that holds both."""
    val: str = "val"
    """Folder of the images, below `root`."""
    labels: str = "val_label.txt"
    """File below `root` with lines of `<file name> <label>`; the ending of an image may be left out
    or another one."""
    class_names: Optional[str] = None  # noqa: UP045
    """File with one class name per line, in label order; labels are the names if left out."""
    first_label: Optional[Annotated[int, Ge(0)]] = None  # noqa: UP045
    """Label of the first class in the lists, such as 1, which is taken off every label; 0 when left
    out, and some image must have it then."""
    extensions: list[str] = field(default_factory=_extensions)
    """File endings that are images, in upper or lower case; other files are counted and left."""


@options
class SyntheticOptions:
    """Generated images of coloured noise; every class has a tint that can be learnt."""

    train_count: Images = 1280
    """Images in the training split."""
    val_count: Images = 256
    """Images in the validation split."""
    size: tuple[Side, Side] = (224, 224)
    """Height and width."""
    class_count: Annotated[int, Gt(0), Le(1_000_000)] = 10
    """Labels are drawn evenly from this many classes."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """The same seed gives the same images."""


@options
class DigitsOptions:
    """The 1,797 scanned digits of scikit-learn (UCI optical recognition, test set)."""

    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of each class that is kept for validation; always the same images."""
