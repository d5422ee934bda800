"""Offline models: the ONNX file, what AIPP does before it, and the commands from there to a score.

    resnet50.onnx                the network, whose input is a normalised image
    aipp_resnet50.aippconfig     how the device makes that of pixels
    1_pixels.sh                  writes pixels and labels, on any machine with this package
    2_convert.sh                 compiles the two files above to resnet50_bs64.om
    3_infer.sh                   runs it over the pixels, on a machine with the card
    4_score.sh                   computes the accuracy

The compiler runs at once where it is installed. The scripts work in the current folder.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from runner.artifacts.offline.pixels import DEVICE_CROP, on_host
from runner.contracts import ArtifactInfo
from runner.errors import ArtifactError, UsageError
from runner.terminal import display
from runner_ascend import aipp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runner.artifacts.offline.pixels import HostPart
    from runner.data.transforms.options import Transform
    from runner.entries import ConversionRequest, ExportPlan
    from runner_ascend.om_options import OmOptions

PIXELS, LABELS, RESULTS = "prep_dataset", "val_label.txt", "result"
CONVERT_SCRIPT = "2_convert.sh"
_WORDS = 2000
"""Characters of the compiler's output that an error repeats, from the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """Files of an artifact."""

    onnx: str
    aipp: str
    om: str


def convert(request: ConversionRequest) -> ArtifactInfo:
    """Write an offline model, or all that makes one where the compiler is.

    Raises:
        ArtifactError: The device would cut other pixels than the evaluation, or the compiler
            failed.
        OSError: A file cannot be written.
    """
    options = cast("OmOptions", request.options)
    spec, folder = request.spec, request.folder
    try:
        part = _on_host(request.transforms, options)
    except UsageError as error:
        raise ArtifactError(str(error)) from error
    model = spec.model.name
    names = _Names(
        onnx=options.onnx_file or f"{model}.onnx",
        aipp=f"aipp_{model}.aippconfig",
        om=f"{model}_bs{options.batch_size}.om",
    )
    shutil.copyfile(request.source / request.info.file, folder / names.onnx)
    text = aipp.config(part, mean=spec.mean, std=spec.std, csc_switch=options.csc_switch)
    (folder / names.aipp).write_text(text, encoding="ascii")
    command = atc_command(
        options, names.onnx, names.aipp, names.om, request.info.input_name, spec.image_size
    )
    _write_scripts(folder, names, command, options)
    compiled = _compile(folder, command, names.om)
    return ArtifactInfo(
        format="om",
        file=names.om,
        input_name=request.info.input_name,
        input_shape=(options.batch_size, part.height, part.width, 3),
        input_type="uint8",
        output_name=request.info.output_name,
        is_written=compiled,
        details={
            "onnx": names.onnx,
            "opset": request.info.details.get("opset"),
            "aipp": names.aipp,
            DEVICE_CROP: part.crop is not None,
            "crop": asdict(part.crop) if part.crop else None,
            "soc_version": options.soc_version,
            "atc": command,
            "compiled": compiled,
        },
    )


def refuses(plan: ExportPlan) -> str:
    """Say why the device cannot do the last crop of an evaluation; "" if it can."""
    try:
        _on_host(plan.transforms, plan.options)
    except UsageError as error:
        return str(error)
    return ""


def _on_host(transforms: Sequence[Transform], options: OmOptions) -> HostPart:
    try:
        return on_host(transforms, device_crop=options.crop == "device")
    except UsageError as error:
        raise UsageError(f"{error} (export om with crop: host)") from error


def atc_command(
    options: OmOptions,
    onnx: str,
    config: str,
    om: str,
    input_name: str,
    image_size: tuple[int, int],
) -> list[str]:
    """Return the command line that compiles an ONNX file, in the folder that holds it.

    Args:
        options: What to compile for.
        onnx: The ONNX file.
        config: The AIPP file.
        om: The file to make.
        input_name: Name of the ONNX input.
        image_size: Its height and width.
    """
    shape = ",".join(map(str, (options.batch_size, 3, *image_size)))
    return [
        "atc",
        f"--model={onnx}",
        "--framework=5",  # ONNX
        f"--output={om.removesuffix('.om')}",
        "--input_format=NCHW",
        f"--input_shape={input_name}:{shape}",
        *(["--enable_small_channel=1"] if options.enable_small_channel else []),
        f"--log={options.log}",
        f"--soc_version={options.soc_version}",
        f"--insert_op_conf={config}",
        *options.atc_arguments,
    ]


def _compile(folder: Path, command: Sequence[str], om: str) -> bool:
    """Run the compiler if it is here, and say whether it was."""
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode or not (folder / om).is_file():
        found = (
            f"left with {done.returncode}" if done.returncode else f"succeeded, but wrote no {om}"
        )
        raise ArtifactError(
            f"atc {found}; the command was: {display.command(command)}; it said: "
            f"{done.stdout.strip()[-_WORDS:] or 'nothing'}"
        )
    return True


def _write_scripts(folder: Path, names: _Names, atc: Sequence[str], options: OmOptions) -> None:
    infer = ["python3", "-m", "ais_bench", "--model"]
    places = ["--input", f"./{PIXELS}/", "--output", "./", "--output_dirname", RESULTS]
    rest = shlex.join([*places, "--outfmt", "TXT", *options.infer_arguments])
    _write_script(
        folder / "1_pixels.sh",
        "Writes the pixels of all validation images, and their labels, into the current folder.\n"
        "# Arguments go to both commands, such as --set dataset.root=/data/imagenet",
        f'runner offline pixels "$here" --output {PIXELS} "$@"\n'
        f'runner offline labels "$here" --output {LABELS} "$@"\n',
    )
    _write_script(
        folder / CONVERT_SCRIPT,
        "Compiles the model, on a machine with CANN: source its set_env.sh first.",
        f'cd "$here"\n{shlex.join(atc)} "$@"\n',
    )
    _write_script(
        folder / "3_infer.sh",
        f"Runs the model over ./{PIXELS}, on a machine with a card and ais_bench; the logits go\n"
        f"# to ./{RESULTS}. Further arguments go to ais_bench, such as --device 1 or --loop 1000",
        f'{shlex.join(infer)} "$here"/{shlex.quote(names.om)} {rest} "$@"\n',
    )
    _write_script(
        folder / "4_score.sh",
        f"Computes the accuracy from ./{RESULTS} and ./{LABELS}: acc.log and result.json.",
        f'runner offline score . --results {RESULTS} --labels {LABELS} "$@"\n',
    )


def _write_script(path: Path, comment: str, commands: str) -> None:
    path.write_text(
        f"#!/bin/sh\n# {comment}\nset -eu\n"
        f'here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)\n{commands}',
        encoding="utf-8",
    )
    path.chmod(0o755)
