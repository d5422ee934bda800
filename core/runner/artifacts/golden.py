"""The images that an artifact carries, with what the live model answered to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.artifacts.artifact import GOLDEN
from runner.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import Engine
    from runner.session.opening import Split


def read(val: Split, count: int) -> list[tuple[bytes, str]]:
    """Return raw images spread over the split, and the endings their files should have."""
    import numpy as np

    from runner.data.decode import DamagedImageError
    from runner.data.samples import preprocess, sample_bytes

    total = len(val.dataset.labels)
    samples = []
    for index in np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)).tolist():
        data, suffix = sample_bytes(val.dataset, index)
        try:
            name = val.dataset.describe(index)
            preprocess(data, val.loader.transforms, name, decoding=val.decoding)
        except DamagedImageError:
            if val.loader.stops_at_damage:
                raise
            continue  # reported and counted when the split was evaluated
        samples.append((data, suffix))
    if not samples:
        raise DataError("none of the images chosen to verify an export can be read")
    return samples


def write(samples: list[tuple[bytes, str]], val: Split, engine: Engine, folder: Path) -> list[str]:
    """Store raw images, their pixels, and the engine's logits; return the files' names."""
    import numpy as np
    from safetensors.numpy import save_file

    from runner.data.samples import preprocess

    names = []
    for position, (data, suffix) in enumerate(samples):
        names.append(f"golden/{position:02d}{suffix}")
        (folder / names[-1]).write_bytes(data)
    pixels: NDArray[np.uint8] = np.stack(
        [preprocess(data, val.loader.transforms, decoding=val.decoding) for data, _ in samples]
    )
    save_file({"pixels": pixels, "logits": engine.predict(pixels)}, folder / GOLDEN)
    return names
