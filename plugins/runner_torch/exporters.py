"""Write the evaluation model to a file, and run such files.

Every export is of a copy in fp32 on the CPU, which takes normalised images ``[B, 3, H, W]`` with
any B, or a fixed one, and returns logits ``[B, K]``. The engine's own model is not touched.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, final

from runner.errors import ArtifactError
from runner.framework.graphs import BATCH, artifact_info
from runner_torch.autoload import torch
from runner_torch.messages import reason
from runner_torch.weights import array_of, evaluation_model, tensor_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import ArtifactInfo, Engine
    from runner.entries import EngineSpec
    from runner.options import NoOptions
    from runner_torch.options import OnnxOptions

FIRST_DYNAMO_OPSET = 18
"""Asked for less, torch's present exporter logs a warning and writes this version."""


def export_onnx(
    engine: Engine, spec: EngineSpec, options: OnnxOptions, folder: Path
) -> ArtifactInfo:
    """Write one file with the weights inside.

    Raises:
        ArtifactError: The exporter fails, or writes another opset than asked for.
        OSError: The file cannot be written.
    """
    import onnx

    module = evaluation_model(spec, engine.evaluation_weights())
    path = folder / options.file
    dynamo = options.opset >= FIRST_DYNAMO_OPSET
    try:
        with quiet_torch():
            export = _export_dynamo if dynamo else _export_torchscript
            export(module, example_images(spec, options.batch_size), path, options)
    except Exception as error:
        failure = _system_error(error)
        if failure is not None:
            raise failure from None
        raise ArtifactError(
            f"torch cannot export {spec.model.name} to ONNX opset {options.opset}: "
            f"{reason(error)}; {_other_opset(dynamo=dynamo)}, or export: torch_export"
        ) from error
    model = onnx.load(str(path), load_external_data=False)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset != options.opset:
        raise ArtifactError(
            f"asked for ONNX opset {options.opset}, torch {torch.__version__} wrote opset {opset}; "
            f"set the export's opset to {opset}"
        )
    details = {
        "opset": opset,
        "ir_version": model.ir_version,
        "nodes": len(model.graph.node),
        "exporter": "torch.export" if dynamo else "TorchScript",
        "torch": str(torch.__version__),
    }
    info = artifact_info(spec, format_name="onnx", file=path.name, details=details)
    return replace(
        with_batch_size(info, options.batch_size),
        input_name=options.input_name,
        output_name=options.output_name,
    )


def _other_opset(*, dynamo: bool) -> str:
    if dynamo:
        return f"try an opset below {FIRST_DYNAMO_OPSET}, which another exporter of torch writes"
    return (
        f"set the export's opset to {FIRST_DYNAMO_OPSET} or more, which another exporter of torch "
        "writes, with operations that this opset lacks"
    )


def _system_error(error: BaseException | None) -> OSError | None:
    """Return the failed system call behind an error, such as a write to a full disk."""
    while error is not None:
        # Without a number it comes from Python code: inspect raises such for missing sources.
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.__cause__
    return None


def _export_dynamo(
    module: torch.nn.Module, example: torch.Tensor, path: Path, options: OnnxOptions
) -> None:
    torch.onnx.export(
        module,
        (example,),
        str(path),
        dynamo=True,
        opset_version=options.opset,
        input_names=[options.input_name],
        output_names=[options.output_name],
        dynamic_shapes=dynamic_shapes(options.batch_size),
        external_data=False,
        verbose=False,
    )


def _export_torchscript(
    module: torch.nn.Module, example: torch.Tensor, path: Path, options: OnnxOptions
) -> None:
    names = (options.input_name, options.output_name)
    with warnings.catch_warnings(), _no_graph_on_stdout():
        # torch deprecates this exporter, but it is the only one that writes these opsets
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module,
            (example,),
            str(path),
            dynamo=False,
            opset_version=options.opset,
            input_names=[options.input_name],
            output_names=[options.output_name],
            dynamic_axes=None if options.batch_size else {name: {0: BATCH} for name in names},
        )


def export_program(
    engine: Engine,
    spec: EngineSpec,
    options: NoOptions,  # noqa: ARG001  every exporter is given its options
    folder: Path,
) -> ArtifactInfo:
    """Write ``model.pt2``, which torch runs without the model's code.

    Raises:
        ArtifactError: The model cannot be traced.
        OSError: The file cannot be written.
    """
    module = evaluation_model(spec, engine.evaluation_weights())
    path = folder / "model.pt2"
    buffer = io.BytesIO()
    try:
        with quiet_torch():
            program = torch.export.export(
                module, (example_images(spec),), dynamic_shapes=dynamic_shapes()
            )
            torch.export.save(program, buffer)
    except Exception as error:
        raise ArtifactError(
            f"torch.export cannot trace {spec.model.name}: {reason(error)}; "
            "its forward must not depend on the values of the images"
        ) from error
    # From Python, because torch's own writer ends the process when the disk is full.
    path.write_bytes(buffer.getbuffer())
    details = {"torch": str(torch.__version__)}
    return artifact_info(spec, format_name="torch_export", file=path.name, details=details)


@contextlib.contextmanager
def _no_graph_on_stdout() -> Iterator[None]:
    """Keep torch from printing the whole graph where it fails, which its own switches do not.

    From torch 2.15 on C++ prints it, which cannot be silenced, but sent to standard error.
    """
    native: Any = torch._C
    print_graph = native._jit_onnx_log
    native._jit_onnx_log = lambda *_: None
    native._jit_set_onnx_log_output_stream("stderr")
    try:
        yield
    finally:
        native._jit_onnx_log = print_graph
        native._jit_set_onnx_log_output_stream("stdout")


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Ignore two warnings that torch 2.11 gives about its own code, and nobody else can act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        yield


def example_images(spec: EngineSpec, batch_size: int | None = None) -> torch.Tensor:
    """Make images ``[B, 3, H, W]`` to trace a model with; 2 of them where any B is to work."""
    return torch.zeros(batch_size or 2, 3, *spec.image_size)


def dynamic_shapes(batch_size: int | None = None) -> Any:
    """Tell ``torch.export`` which dimensions vary: the batch, unless it is fixed."""
    return None if batch_size else ({0: torch.export.Dim(BATCH)},)


def with_batch_size(info: ArtifactInfo, batch_size: int | None) -> ArtifactInfo:
    """Say of an artifact that it takes one number of images only, if it does."""
    if batch_size is None:
        return info
    return replace(info, input_shape=(batch_size, *info.input_shape[1:]))


@final
class ProgramPredictor:
    """A ``.pt2`` file, run on the CPU."""

    def __init__(self, path: Path) -> None:
        try:
            with quiet_torch():
                self._module = torch.export.load(path).module()
        except Exception as error:
            raise ArtifactError(
                f"{path} cannot be loaded by torch {torch.__version__}: "
                f"{reason(error)}; export the model again"
            ) from error

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for normalised inputs ``[B, C, H, W]``."""
        with torch.inference_mode():
            return array_of(self._module(tensor_of(inputs)))

    def describe(self) -> Mapping[str, Any]:
        """Return which runtime ran (JSON)."""
        return {
            "runtime": "torch.export",
            "version": str(torch.__version__),
            "device": "cpu",
            "threads": torch.get_num_threads(),
        }


def load_program(folder: Path, info: ArtifactInfo) -> ProgramPredictor:
    """Load ``info.file`` from ``folder``."""
    return ProgramPredictor(folder / info.file)
