"""ONNX models, executed by ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from runner.errors import ArtifactError
from runner.framework.cores import available_cores, threads_asked_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import ArtifactInfo

PROVIDERS = ("CPUExecutionProvider",)


@final
class OnnxPredictor:
    """An ONNX file in a session of ONNX Runtime."""

    def __init__(self, path: Path, info: ArtifactInfo, *, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._version = onnxruntime.__version__
        self._threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=list(PROVIDERS)
            )
        except Exception as error:
            raise ArtifactError(
                f"ONNX Runtime {self._version} cannot load {path}: {error}; "
                "export the model again, or install a runtime for its opset"
            ) from error
        self._input = _find(info.input_name, self._session.get_inputs(), path)
        self._input_type = info.input_type
        self._output = _find(info.output_name, self._session.get_outputs(), path)

    def predict(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for ``inputs`` as ``ArtifactInfo.input_type`` says."""
        import numpy as np

        typed = inputs.astype(self._input_type, copy=False)
        logits: NDArray[Any] = self._session.run([self._output], {self._input: typed})[0]
        return logits.astype(np.float32, copy=False)

    def describe(self) -> Mapping[str, Any]:
        """Return which runtime and provider really ran (JSON)."""
        return {
            "runtime": "onnxruntime",
            "version": self._version,
            "providers": self._session.get_providers(),
            "threads": self._threads,
        }


def _find(name: str, values: Sequence[Any], path: Path) -> str:
    names = [value.name for value in values]
    if name not in names:
        raise ArtifactError(
            f"{path} has no input or output {name!r}, it has {', '.join(names)}; "
            "the file and its description do not belong together, so export the model again"
        )
    return name


def load_onnx(folder: Path, info: ArtifactInfo) -> OnnxPredictor:
    """Load ``info.file`` from ``folder``.

    Args:
        folder: Folder of the artifact.
        info: What the exporter said about it.

    Raises:
        ArtifactError: The file cannot be loaded.
    """
    # Left to itself the runtime starts a thread for each core of the machine, also for those
    # that this process may not use.
    threads = threads_asked_for() or available_cores()
    return OnnxPredictor(folder / info.file, info, threads=threads)


def executes(folder: Path, info: ArtifactInfo) -> str:
    """Return which files a model reads beside its own, or an empty text."""
    path = folder / info.file
    if b"location" not in path.read_bytes():  # the key under which a file would be named
        return ""
    try:
        import onnx
    except ImportError as error:
        return f"reads of files, perhaps; this cannot be told without onnx ({error})"
    try:
        model = onnx.load(str(path), load_external_data=False)
        tensors = list(onnx.external_data_helper._get_all_tensors(model))
    except Exception as error:  # noqa: BLE001  whatever a stranger's file leads to
        return f"what nobody can tell, as onnx cannot read it: {error}"
    named = [
        entry.value
        for tensor in tensors
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    return f"a read of the file {named[0]!r}" if named else ""
