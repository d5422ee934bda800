"""Weights from anywhere, under canonical (torchvision) names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from runner import checkpoint, display, foreign
from runner.errors import CheckpointError, PluginError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from runner.entries import FrameworkEntry
    from runner.registry import Registered, Registry


def read(path: Path, framework: FrameworkEntry, registry: Registry) -> Mapping[str, NDArray[Any]]:
    """Read a run (its best checkpoint), a checkpoint, a safetensors file, or a foreign format.

    Args:
        path: The file or folder.
        framework: The framework that is to use the weights; it reads its own formats here.
        registry: Other frameworks, which read theirs in a child process.

    Raises:
        CheckpointError: The file is missing, damaged, or of no known format or number type.
        PluginError: The framework that knows the format is not installed.
    """
    if (path / "checkpoints").is_dir():
        path = checkpoint.of_run(path / "checkpoints")
    if path.is_dir():
        return checkpoint.load(path).evaluation_weights
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}; expected a checkpoint folder or a file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if framework.read_weights and path.suffix in framework.weight_suffixes:
        return framework.read_weights(path)
    return foreign.read(path, _reader(path, registry))


def files_at(path: Path, registry: Registry) -> list[Path]:
    """Return the weights files that a path stands for: itself, or those in a folder.

    Those in a folder are in the order of the numbers in their names. A folder of checkpoints has
    none.
    """
    if path.is_file():
        return [path]
    endings = {suffix for item in registry.entries("framework") for suffix in _suffixes(item)}
    found = [item for item in path.glob("*") if item.is_file() and item.suffix in endings]
    return sorted(found, key=_by_number)


def _by_number(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", path.stem)], path.name


def _reader(path: Path, registry: Registry) -> str:
    """Return the name of a framework that knows the format of a file and is installed."""
    frameworks = registry.entries("framework")
    readers = [item for item in frameworks if path.suffix in _suffixes(item)]
    if not readers:
        known = sorted({suffix for item in frameworks for suffix in _suffixes(item)})
        raise CheckpointError(
            f"{path} is of no format that an installed plugin can read; expected a checkpoint "
            f"folder, or a file that ends in {', '.join(['.safetensors', *known])}"
        )
    usable = next((item for item in readers if not item.reason), None)
    if usable is None:
        found = readers[0]
        raise PluginError(
            f"{path} is a file of {found.entry.name}, which {found.plugin} reads, but "
            f"{found.reason}; or convert it to .safetensors where that is installed"
        )
    return usable.entry.name


def _suffixes(framework: Registered) -> tuple[str, ...]:
    entry = cast("FrameworkEntry", framework.entry)
    return entry.weight_suffixes if entry.read_weights else ()


def _read_safetensors(path: Path) -> Mapping[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a complete safetensors file: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; check its permissions") from error
    except (TypeError, AttributeError, KeyError) as error:
        # How the reader ends when NumPy has no such type.
        raise _unknown_type(path, str(error)) from error
    # Types that other packages add to NumPy are unknown to the rest of the program.
    odd = sorted({str(array.dtype) for array in arrays.values() if array.dtype.kind not in "biuf"})
    if odd:
        raise _unknown_type(path, ", ".join(odd))
    return arrays


def _unknown_type(path: Path, found: str) -> CheckpointError:
    source, target = str(path), str(path.with_suffix(".fp32.safetensors"))
    program = (
        "from safetensors.torch import load_file, save_file; "
        f"save_file({{n: t.float() if t.is_floating_point() else t "
        f"for n, t in load_file({source!r}).items()}}, {target!r})"
    )
    return CheckpointError(
        f"{path} holds numbers of a type that NumPy lacks, such as bfloat16 ({found}); convert "
        "them to float32 with the framework that wrote the file, for PyTorch: "
        f"python -c {display.quote(program)}"
    )
