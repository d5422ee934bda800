"""Models compiled for MLUs by MagicMind, and their runtime.

The vendor's compiler takes a TorchScript module with images of a fixed size, and the result is
saved, loaded and run without the model's code. The interface is the one that ``classify_infer.py``
of Cambricon's public ``pytorch_modelzoo`` calls, with ``torch_mlu`` 1.x; releases without it are
refused by name.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any, final

from runner.contracts import ArtifactInfo
from runner.errors import ArtifactError, MissingRuntimeError
from runner_torch.autoload import torch
from runner_torch.messages import reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

    from runner.entries import ConversionRequest
    from runner_cambricon.options import MagicMindOptions

FORMAT = "magicmind"
FILE = "model.pt"
INPUT_TYPES = {"fp32": torch.float32, "fp16": torch.float16}
QUANTIZED_TYPES = {"int8": torch.int8, "int16": torch.int16}


def convert(request: ConversionRequest) -> ArtifactInfo:
    """Compile an exported program, and calibrate it where the options ask for integers.

    Raises:
        ArtifactError: There is no card, the vendor's package has no compiler, the compiler fails,
            or there are fewer images than one batch to calibrate with.
    """
    options: MagicMindOptions = request.options
    vendor = _compiler()
    shape = (options.batch_size, 3, *request.spec.image_size)
    specification: dict[str, Any] = {
        "inputs": [vendor.Input(shape, dtype=torch.float32, format=torch.contiguous_format)],
        "device": {"mlu_id": 0},
        "enabled_precisions": {INPUT_TYPES[options.precision]},
        "truncate_long_and_double": True,
    }
    details: dict[str, Any] = {
        "precision": options.precision,
        "quantize": options.quantize,
        "torch_mlu": str(vendor.__version__),
    }
    if options.quantize is not None:
        specification["enabled_precisions"].add(QUANTIZED_TYPES[options.quantize])
        images = _calibration_images(request, options)
        details["calibration_images"] = len(images)
        specification["calibrator"] = _calibrator(vendor, images, options.batch_size)
    try:
        traced = _traced(request.source / request.info.file, shape)
        compiled = vendor.ts.compile(traced, **specification)
        with _quiet_torchscript():
            torch.jit.save(compiled, str(request.folder / FILE))
    except Exception as error:  # the compiler raises what it likes
        raise ArtifactError(
            f"torch_mlu {vendor.__version__} cannot compile {request.spec.model.name} with "
            f"{details}: {reason(error)}"
        ) from error
    return ArtifactInfo(
        format=FORMAT,
        file=FILE,
        input_name=request.info.input_name,
        input_shape=shape,
        output_name=request.info.output_name,
        details=details,
    )


def _compiler() -> ModuleType:
    """Import the vendor's package.

    Raises:
        ArtifactError: It finds no card, or has no compiler.
    """
    vendor = _vendor(ArtifactError)
    missing = [name for name in ("Input", "ts", "ptq") if not hasattr(vendor, name)]
    if missing:
        raise ArtifactError(
            f"torch_mlu {vendor.__version__} has no {', '.join(missing)}: this release comes "
            "without the compiler that classify_infer.py of Cambricon's model zoo calls; "
            "export onnx instead"
        )
    return vendor


def _vendor(error: type[ArtifactError]) -> ModuleType:
    """Import the vendor's package where it finds a card, or raise the error."""
    from runner_cambricon.traits import MLU
    from runner_torch.device import probe_device

    found = probe_device(MLU)
    if not found.available:
        raise error(f"models compiled by MagicMind need an MLU: {found.reason}")
    import torch_mlu

    vendor: ModuleType = torch_mlu
    return vendor


@contextlib.contextmanager
def _quiet_torchscript() -> Iterator[None]:
    """Ignore that torch deprecates TorchScript: it is what the vendor's compiler takes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.")
        yield


def _traced(program: Path, shape: tuple[int, ...]) -> Any:
    """Trace an exported program with images of one shape, in evaluation mode."""
    with _quiet_torchscript():
        # the program checks the size of its batch, which is fixed from here on
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean")
        module = torch.export.load(program).module()
        trace: Any = torch.jit.trace
        return trace(module, torch.zeros(shape), check_trace=False)


def _calibration_images(request: ConversionRequest, options: MagicMindOptions) -> torch.Tensor:
    """Return whole batches of images ``[N, 3, H, W]`` from the validation split."""
    batches = request.calibration(options.calibration_batches * options.batch_size)
    parts = [torch.from_numpy(batch) for batch in batches]
    images = torch.cat(parts) if parts else torch.empty(0)
    lacking = options.too_few(len(images))
    if lacking:  # of those that can be read
        raise ArtifactError(lacking)
    return images[: len(images) // options.batch_size * options.batch_size]


def _calibrator(vendor: ModuleType, images: torch.Tensor, batch_size: int) -> object:
    from torch.utils.data import DataLoader, TensorDataset

    labels = torch.zeros(len(images), dtype=torch.int64)
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch_size)
    calibrator: object = vendor.ptq.DataLoaderCalibrator(
        loader,
        algo_type=vendor.ptq.CalibrationAlgo.LINEAR_CALIBRATION,
        max_calibration_samples=len(images),
    )
    return calibrator


@final
class MagicMindPredictor:
    """A compiled model on the first visible card."""

    def __init__(self, path: Path, info: ArtifactInfo) -> None:
        vendor = _vendor(MissingRuntimeError)
        self._device = torch.device("mlu", 0)
        self._type = INPUT_TYPES[info.details["precision"]]
        self._runtime = {
            "runtime": FORMAT,
            "version": str(vendor.__version__),
            "device": str(self._device),
            "input": info.details["precision"],
        }
        try:
            with _quiet_torchscript():
                load: Any = torch.jit.load
                self._module = load(str(path)).to(self._device)
        except Exception as error:
            raise ArtifactError(
                f"{path} cannot be loaded by torch_mlu {vendor.__version__}: {reason(error)}; "
                "compile the model again"
            ) from error

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for normalised inputs ``[B, C, H, W]``."""
        images = torch.from_numpy(inputs).to(self._device, self._type)
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._module(images).float().cpu().numpy()
        return logits

    def describe(self) -> Mapping[str, Any]:
        """Return which runtime ran (JSON)."""
        return self._runtime


def load(folder: Path, info: ArtifactInfo) -> MagicMindPredictor:
    """Load ``info.file`` from ``folder``.

    Raises:
        ArtifactError: The file cannot be loaded.
        MissingRuntimeError: There is no card.
    """
    return MagicMindPredictor(folder / info.file, info)
