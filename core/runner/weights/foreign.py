"""Reading a weights file with a framework that the run does not use, in a child process.

A framework changes the process that imports it: environment variables, signal handlers, what the
libraries that it shares with another framework may do. None of that may reach the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from runner.contracts import StoredWeights
from runner.entries import FrameworkEntry
from runner.errors import CheckpointError, PluginError, RunnerError
from runner.plugins import loading
from runner.system import interpreter

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

MARKER = "runner-foreign: "
"""What an explained error begins with; libraries print before and after it."""


def read(path: Path, framework: str) -> StoredWeights:
    """Read the sets of tensors in a file.

    Args:
        path: The file.
        framework: Name of the framework whose ``read_weights`` knows the format.

    Raises:
        CheckpointError: The framework cannot read the file.
        PluginError: The framework cannot be imported.
    """
    with tempfile.TemporaryDirectory(prefix="runner-weights-") as folder:
        target = Path(folder) / "weights.safetensors"
        command = interpreter.module("runner.weights.foreign", framework, str(path), str(target))
        child = subprocess.run(
            command.arguments,
            env={**os.environ, **command.environment},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if child.returncode == 0:
            return _taken(target)
    explained = [line for line in child.stdout.splitlines() if line.startswith(MARKER)]
    if explained:
        kind = PluginError if child.returncode == PluginError.exit_code else CheckpointError
        raise kind(json.loads(explained[-1].removeprefix(MARKER)))
    words = child.stderr.strip().splitlines()
    raise CheckpointError(
        f"{path} cannot be read with {framework}: the process that read it ended with status "
        f"{child.returncode}: {words[-1] if words else 'no answer'}"
    )


def main() -> None:
    """Read the file named on the command line, and write it as safetensors."""
    from runner.plugins.returns import as_stored

    framework, path, target = sys.argv[1:]
    entry = loading.load().find(FrameworkEntry, framework).entry
    assert entry.read_weights is not None, "it was chosen because it reads weights"
    try:
        weights = as_stored(entry.read_weights(Path(path)), framework)
    except RunnerError as error:
        sys.stdout.write(f"\n{MARKER}{json.dumps(str(error))}\n")
        sys.stdout.flush()  # before anything that a library prints when the process ends
        sys.exit(error.exit_code)
    _give(weights, Path(target))


def _give(stored: StoredWeights, target: Path) -> None:
    """Write weights for the process that asked for them; names get the number of their set."""
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {
        f"{number}:{name}": np.asarray(array, order="C")
        for number, tensors in enumerate(stored.sets.values())
        for name, array in tensors.items()
    }
    save_file(arrays, target)
    record = {
        "order": list(arrays),
        "keys": list(stored.sets),
        "ignored": list(stored.ignored),
        "model_options": dict(stored.model_options),
    }
    target.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")


def _taken(target: Path) -> StoredWeights:
    """Return what another process has written."""
    from safetensors.numpy import load_file

    arrays = load_file(target)
    record = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    sets: list[dict[str, NDArray[Any]]] = [{} for _ in record["keys"]]
    for numbered in record["order"]:
        number, _, name = numbered.partition(":")
        sets[int(number)][name] = arrays[numbered]
    return StoredWeights(
        sets=dict(zip(record["keys"], sets, strict=True)),
        ignored=tuple(record["ignored"]),
        model_options=record["model_options"],
    )


if __name__ == "__main__":
    main()
