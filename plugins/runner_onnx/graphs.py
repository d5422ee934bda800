"""What conversions share: reading a graph, its opset, and errors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from runner.errors import ArtifactError, RunnerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

FILE = "model.onnx"


def load(path: Path, *, opset: int = 0) -> onnx.ModelProto:
    """Read a file, and raise its opset to ``opset`` where it is lower."""
    import onnx
    from onnx import version_converter

    model = onnx.load(str(path))
    return version_converter.convert_version(model, opset) if opset_of(model) < opset else model


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators."""
    own = (item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    return int(next(own))


@contextmanager
def explained(what: str, path: Path) -> Iterator[None]:
    """Turn an exception of the packages that convert into an ``ArtifactError``.

    Args:
        what: What is done, such as ``quantise``.
        path: The file it is done to.
    """
    import onnxruntime

    try:
        yield
    except (RunnerError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ArtifactError(
            f"ONNX Runtime {onnxruntime.__version__} cannot {what} {path}: "
            f"{type(error).__name__}: {error}; leave the conversion out, or export the model with "
            "another opset or framework"
        ) from error
