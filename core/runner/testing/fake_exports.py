"""Exports of the fake framework: NumPy archives, and a conversion that rounds them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, Union, final

from annotated_types import Ge, Gt

from runner.contracts import ArtifactInfo
from runner.errors import ArtifactError, CheckpointError
from runner.options import options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import Engine, Predictor
    from runner.entries import ConversionRequest, EngineSpec
    from runner.testing.fake_engine import Linear

FORMAT = "fake_npz"
FILE = "model.npz"


@options
class NpzOptions:
    """How the exported file differs from the model."""

    error: float = 0.0
    """Number added to the first class's logit, so that verification fails."""
    seconds: Annotated[float, Ge(0)] = 0.0
    """Time that writing takes."""


@options
class RoundedOptions:
    """What the conversion makes of an archive."""

    decimals: Annotated[int, Ge(0)] = 2
    """Digits of the weights after the point."""
    calibration_images: Annotated[int, Ge(0)] = 0
    """Images whose normalised pixels are averaged into the details."""
    batch_size: Union[Annotated[int, Gt(0)], None] = None  # noqa: UP007  evaluated on Python 3.10
    """The only number of images that the file takes; any when left out."""
    input_type: Literal["float32", "float16", "uint8"] = "float32"
    """What the file takes."""
    runs_here: bool = True
    """Whether there is a predictor for the format."""
    source_error: float = 0.0
    """The ``error`` that the archive is exported with."""


def read_npz(path: Path) -> Mapping[str, NDArray[Any]]:
    """Read weights from an ``.npz`` file.

    Raises:
        CheckpointError: It is none, or damaged.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} cannot be read as weights: {type(error).__name__}: {error}; expected a "
            "complete file that numpy.savez wrote"
        ) from error


def export_npz(engine: Engine, spec: EngineSpec, config: NpzOptions, folder: Path) -> ArtifactInfo:
    """Write the evaluation weights to ``model.npz``."""
    import numpy as np

    time.sleep(config.seconds)
    weights = dict(engine.evaluation_weights())
    weights["head.bias"] = weights["head.bias"] + config.error * np.eye(spec.num_classes)[0]
    arrays: dict[str, Any] = weights  # NumPy 2 types its other keyword arguments, NumPy 1 does not
    np.savez(folder / FILE, **arrays)
    grid = getattr(spec.model_options, "grid", 1)
    return ArtifactInfo(
        format=FORMAT,
        file=FILE,
        input_name="images",
        input_shape=("batch", 3, *spec.image_size),
        output_name="logits",
        details={"grid": grid},
    )


def source_options(config: RoundedOptions) -> Mapping[str, Any]:
    """Return what the archive is exported with."""
    return {"error": config.source_error}


def convert_npz(request: ConversionRequest) -> ArtifactInfo:
    """Write the archive again, with rounded weights."""
    import numpy as np

    config: RoundedOptions = request.options
    weights = read_npz(request.source / request.info.file)
    rounded: dict[str, Any] = {
        name: np.round(value, config.decimals) for name, value in weights.items()
    }
    np.savez(request.folder / FILE, **rounded)
    batches = list(request.calibration(config.calibration_images))
    details = {
        **request.info.details,
        "mean": request.spec.mean,
        "std": request.spec.std,
        "calibration_batches": [len(batch) for batch in batches],
        "calibration_mean": float(np.concatenate(batches).mean()) if batches else None,
    }
    first = "batch" if config.batch_size is None else config.batch_size
    return replace(
        request.info,
        format=FORMAT if config.runs_here else "fake_card_npz",
        input_shape=(first, *request.info.input_shape[1:]),
        input_type=config.input_type,
        details=details,
    )


@final
@dataclass(frozen=True, slots=True)
class NpzPredictor:
    """The exported classifier."""

    model: Linear
    weights: Mapping[str, NDArray[Any]]
    info: ArtifactInfo

    def predict(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return logits ``[B, K]``.

        Raises:
            ArtifactError: There are more or fewer images than the file takes.
        """
        batch = self.info.input_shape[0]
        if batch not in ("batch", len(inputs)):
            raise ArtifactError(f"found {len(inputs)} images, expected {batch}")
        return self.model.logits(self.weights, self.model.pool(self._pixels(inputs)))

    def _pixels(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return normalised pixels ``[B, H, W, C]``."""
        import numpy as np

        if self.info.input_type == "uint8":
            if inputs.dtype != np.uint8:
                raise ArtifactError(f"found {inputs.dtype}, expected uint8")
            mean, std = (np.asarray(self.info.details[name]) for name in ("mean", "std"))
            return np.asarray((inputs / 255 - mean) / std)
        return inputs.astype(self.info.input_type).transpose(0, 2, 3, 1)

    def describe(self) -> Mapping[str, Any]:
        """Return the runtime's name."""
        return {"runtime": "numpy"}


def load_npz(folder: Path, info: ArtifactInfo) -> Predictor:
    """Load ``model.npz``."""
    from runner.testing.fake_engine import Linear

    weights = read_npz(folder / info.file)
    grid = int(info.details["grid"])
    model = Linear(len(weights["head.bias"]), grid=grid, noise=0.0)
    return NpzPredictor(model, weights, info)
