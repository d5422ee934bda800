"""Write the evaluation model to a file, and run such files.

Every export is of a fresh copy in fp32, which takes normalised images ``[B, 3, H, W]`` and returns
logits ``[B, K]``; with any B, except for AIR. The engine's own net is not touched. The copy is
never used twice: MindSpore changes a net when it exports it to ONNX, and fails the next time.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from runner.errors import ArtifactError, StorageError
from runner.framework.graphs import BATCH, INPUT, OUTPUT, artifact_info
from runner_mindspore.autoload import Tensor, ms, nn
from runner_mindspore.messages import quiet, reason
from runner_mindspore.traits import by_target
from runner_mindspore.weights import evaluation_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import ArtifactInfo, Engine
    from runner.entries import EngineSpec
    from runner.options import NoOptions

RAW = "unfinished.onnx"
"""What MindSpore writes, before its output is given the dimension of the batch."""


def export_mindir(
    engine: Engine,
    spec: EngineSpec,
    options: NoOptions,  # noqa: ARG001  every exporter is given its options
    folder: Path,
) -> ArtifactInfo:
    """Write ``model.mindir``, which MindSpore runs without the model's code.

    Raises:
        ArtifactError: The model cannot be compiled for any number of images, or is too large.
        OSError: The file cannot be written.
    """
    example = _any_batch(spec.image_size)
    file = _export(engine, spec, example, folder, "MINDIR")
    details = {"mindspore": ms.__version__}
    return artifact_info(spec, format_name="mindir", file=file, details=details)


def export_air(
    engine: Engine,
    spec: EngineSpec,
    options: NoOptions,  # noqa: ARG001  every exporter is given its options
    folder: Path,
) -> ArtifactInfo:
    """Write ``model.air``, for one image at a time; the compiler of Ascend writes it.

    Raises:
        ArtifactError: The device is another one, or the model cannot be compiled.
        OSError: The file cannot be written.
    """
    traits = by_target(ms.get_context("device_target"))
    if not traits.writes_air:
        raise ArtifactError(
            f"AIR files are written by the compiler of Ascend, and this process runs on "
            f"device {traits.kind}; use device: ascend, or export: mindir or onnx, which any "
            "device writes"
        )
    shape = (1, 3, *spec.image_size)
    file = _export(engine, spec, Tensor(np.zeros(shape, np.float32)), folder, "AIR")
    details = {"mindspore": ms.__version__}
    info = artifact_info(spec, format_name="air", file=file, details=details)
    return replace(info, input_shape=shape)


def _export(
    engine: Engine, spec: EngineSpec, example: Tensor, folder: Path, file_format: str
) -> str:
    """Write ``model.<format>``, in a format of MindSpore's own; return the file's name."""
    path = folder / f"model.{file_format.lower()}"
    path.unlink(missing_ok=True)
    before = set(folder.iterdir())
    net = _Named(evaluation_model(spec, engine.evaluation_weights()))
    syntax = ms.get_context("jit_syntax_level")
    with _plain_name(folder) as plain:
        try:
            ms.export(net, example, file_name=f"{plain}/model", file_format=file_format)
        except Exception as error:
            # Without a number it comes from Python code, such as for sources that are not there.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise _failed(spec, file_format, error) from error
        finally:
            ms.set_context(jit_syntax_level=syntax)  # which an export that fails does not restore
    if not path.is_file():
        names = ", ".join(sorted(item.name for item in set(folder.iterdir()) - before))
        raise ArtifactError(
            f"MindSpore wrote {names} in place of {path.name}: it splits models of more than 1 GiB "
            "into several files; export: onnx writes one"
        )
    path.chmod(0o644)  # MindSpore writes files that even their owner may not replace
    return path.name


def export_onnx(
    engine: Engine,
    spec: EngineSpec,
    options: NoOptions,  # noqa: ARG001  MindSpore writes opset 11 only
    folder: Path,
) -> ArtifactInfo:
    """Write ``model.onnx``, one file with the weights inside.

    Raises:
        ArtifactError: MindSpore has no ONNX for an operation of the model, or writes a graph that
            is not valid.
        OSError: The file cannot be written.
        StorageError: The same, where MindSpore does not raise its error.
    """
    import onnx

    path = folder / "model.onnx"
    model = _onnx_model(engine, spec, folder)
    # The example's number of images stays in the output, whatever `dynamic_axes` says.
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = BATCH
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _failed(spec, "ONNX", error) from error
    path.write_bytes(model.SerializeToString())
    details = {
        "opset": next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        "ir_version": model.ir_version,
        "nodes": len(model.graph.node),
        "mindspore": ms.__version__,
    }
    return artifact_info(spec, format_name="onnx", file=path.name, details=details)


def _onnx_model(engine: Engine, spec: EngineSpec, folder: Path) -> Any:
    """Return the model as MindSpore writes it."""
    import onnx

    example = Tensor(np.zeros((2, 3, *spec.image_size), np.float32))
    raw = folder / RAW
    net = _Named(evaluation_model(spec, engine.evaluation_weights()))
    with _plain_name(folder) as plain, quiet() as messages:
        try:
            ms.onnx.export(
                net,
                example,
                file_name=f"{plain}/{RAW}",
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: BATCH}},
            )
        except Exception as error:
            raise _failed(spec, "ONNX", error) from error
    if not raw.is_file():  # a full disk is logged, and the file removed
        raise StorageError(f"MindSpore cannot write {raw}: {'; '.join(messages)}")
    model = onnx.load(str(raw))
    raw.unlink()
    return model


def _failed(spec: EngineSpec, file_format: str, error: Exception) -> ArtifactError:
    others = " and ".join(name for name in ("mindir", "onnx") if name != file_format.lower())
    return ArtifactError(
        f"MindSpore {ms.__version__} cannot export {spec.model.name} to {file_format}: "
        f"{reason(error)}; try export: {others}"
    )


@final
class _Named(nn.Cell):
    """A net whose input has the name that artifacts state; files get it from the argument."""

    def __init__(self, net: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.set_train(mode=False)

    def construct(self, input: Tensor) -> Tensor:  # noqa: A002  see above
        return self.net(input)


@contextlib.contextmanager
def _plain_name(folder: Path) -> Iterator[str]:
    """Give a folder a second name in ASCII: MindSpore refuses to write to paths with others."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        name = Path(f"/proc/self/fd/{descriptor}")
        yield str(name if name.exists() else folder)  # only Linux has such names
    finally:
        os.close(descriptor)


def _any_batch(image_size: tuple[int, int]) -> Tensor:
    """Describe inputs of any number of images, so that no number is compiled anew."""
    return Tensor(shape=[None, 3, *image_size], dtype=ms.float32)


@final
class MindirPredictor:
    """A ``.mindir`` file, compiled once for any number of images."""

    def __init__(self, path: Path, image_size: tuple[int, int]) -> None:
        try:
            self._cell = nn.GraphCell(ms.load(str(path)))
            self._cell.set_inputs(_any_batch(image_size))
        except Exception as error:
            raise ArtifactError(
                f"{path} cannot be loaded by mindspore {ms.__version__}: "
                f"{reason(error)}; export the model again"
            ) from error

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for normalised inputs ``[B, C, H, W]``."""
        logits = self._cell(Tensor(inputs)).asnumpy()
        return np.array(logits, np.float32)  # a copy: MindSpore may use the memory again

    def describe(self) -> Mapping[str, Any]:
        """Return which runtime ran, and on which device (JSON)."""
        return {
            "runtime": "mindspore",
            "version": ms.__version__,
            "device": by_target(ms.get_context("device_target")).kind,
        }


def load_mindir(folder: Path, info: ArtifactInfo) -> MindirPredictor:
    """Load ``info.file`` from ``folder``.

    Raises:
        ArtifactError: The file is damaged, or of a newer MindSpore.
    """
    height, width = (int(length) for length in info.input_shape[2:])
    return MindirPredictor(folder / info.file, (height, width))
