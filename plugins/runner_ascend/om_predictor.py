"""Offline models on a card, through the Python interface of ais_bench."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from runner.errors import ArtifactError, MissingRuntimeError
from runner_ascend.om import CONVERT_SCRIPT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import ArtifactInfo


@final
class OmPredictor:
    """An offline model on the first visible card."""

    def __init__(self, path: Path, info: ArtifactInfo, session: Any) -> None:
        self._path = path
        self._shape = tuple(int(number) for number in info.input_shape)
        crop = info.details["crop"]
        self._corner = (crop["top"], crop["left"]) if crop else (0, 0)
        self._session = session

    def predict(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for pixels ``[B, H, W, C]``.

        Where the device crops, they are put where it cuts; what surrounds them is never seen.
        """
        import numpy as np

        canvas = inputs
        if inputs.shape != self._shape:
            top, left = self._corner
            canvas = np.zeros(self._shape, np.uint8)
            canvas[:, top : top + inputs.shape[1], left : left + inputs.shape[2]] = inputs
        try:
            logits = self._session.infer([np.ascontiguousarray(canvas)], mode="static")[0]
        except Exception as error:
            raise ArtifactError(f"ais_bench cannot run {self._path}: {error}") from error
        return np.asarray(logits, np.float32).reshape(len(inputs), -1)

    def describe(self) -> Mapping[str, Any]:
        """Return which runtime ran (JSON)."""
        from importlib import metadata

        try:
            version = metadata.version("ais_bench")
        except metadata.PackageNotFoundError:
            version = "unknown"
        return {"runtime": "ais_bench", "version": version, "device_id": 0}


def load_om(folder: Path, info: ArtifactInfo) -> OmPredictor:
    """Load ``info.file`` from ``folder``.

    Raises:
        MissingRuntimeError: It is not compiled yet, or ais_bench is not installed.
        ArtifactError: ais_bench cannot load it.
    """
    path = folder / info.file
    if not path.is_file():
        raise MissingRuntimeError(
            f"the model is not compiled: atc was not found when it was exported, so {info.file} "
            f"is not there; run {folder / CONVERT_SCRIPT} on a machine with CANN"
        )
    try:
        from ais_bench.infer.interface import InferSession
    except ImportError as error:
        raise MissingRuntimeError(
            f"{path} runs with ais_bench on a machine with a card, and it cannot be imported: "
            f"{error}; install it, or follow the numbered scripts in {folder}"
        ) from error
    try:
        session = InferSession(0, str(path))
    except Exception as error:
        raise ArtifactError(f"ais_bench cannot load {path}: {error}") from error
    return OmPredictor(path, info, session)
