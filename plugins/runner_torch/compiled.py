"""Models that AOTInductor compiles to machine code, and their runtime.

The file holds the code, for processors with the instructions of the one that compiled it, and the
weights. Running it needs torch, but neither the model's Python code nor a compiler.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, final

from runner.errors import ArtifactError
from runner.framework.graphs import artifact_info
from runner_torch.autoload import torch
from runner_torch.exporters import dynamic_shapes, example_images, quiet_torch, with_batch_size
from runner_torch.messages import reason
from runner_torch.weights import array_of, evaluation_model, tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import ArtifactInfo, Engine
    from runner.entries import EngineSpec
    from runner_torch.options import CompiledOptions

FORMAT = "aot_inductor"


def export_compiled(
    engine: Engine, spec: EngineSpec, options: CompiledOptions, folder: Path
) -> ArtifactInfo:
    """Write ``model.pt2``, compiled for this machine's processor.

    Raises:
        ArtifactError: The model cannot be traced or compiled, or there is no C++ compiler.
        OSError: The file cannot be written.
    """
    module = evaluation_model(spec, engine.evaluation_weights())
    shapes = dynamic_shapes(options.batch_size)
    buffer = io.BytesIO()
    try:
        with quiet_torch():
            example = example_images(spec, options.batch_size)
            program = torch.export.export(module, (example,), dynamic_shapes=shapes)
            _inductor().aoti_compile_and_package(program, package_path=buffer)
    except Exception as error:  # a compiler fails with anything
        raise ArtifactError(
            f"AOTInductor of torch {torch.__version__} cannot compile {spec.model.name}: "
            f"{reason(error)}; it needs a C++ compiler, g++ unless CXX names another; "
            "export: torch_export needs none"
        ) from error
    path = folder / "model.pt2"
    path.write_bytes(buffer.getbuffer())
    details = {
        "torch": str(torch.__version__),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    info = artifact_info(spec, format_name=FORMAT, file=path.name, details=details)
    return with_batch_size(info, options.batch_size)


def _inductor() -> Any:
    import torch._inductor

    return torch._inductor


@final
class CompiledPredictor:
    """A compiled ``.pt2`` file, run on the CPU."""

    def __init__(self, path: Path) -> None:
        try:
            with quiet_torch():
                self._model = _inductor().aoti_load_package(str(path))
        except Exception as error:
            raise ArtifactError(
                f"{path} cannot be loaded by torch {torch.__version__} on this processor "
                f"({torch.backends.cpu.get_cpu_capability()}): {reason(error)}; compile the model "
                "again on this machine"
            ) from error

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for normalised inputs ``[B, C, H, W]``."""
        with torch.inference_mode():
            return array_of(self._model(tensor_of(inputs)))

    def describe(self) -> Mapping[str, Any]:
        """Return which runtime ran (JSON)."""
        return {
            "runtime": FORMAT,
            "version": str(torch.__version__),
            "device": "cpu",
            "threads": torch.get_num_threads(),
        }


def load_compiled(folder: Path, info: ArtifactInfo) -> CompiledPredictor:
    """Load ``info.file`` from ``folder``.

    Raises:
        ArtifactError: The file cannot be loaded on this machine.
    """
    return CompiledPredictor(folder / info.file)
