"""``python3 -m ais_bench``: packs files to batches, runs them, and writes one text for each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ais_bench.infer.interface import InferSession


def main():
    parser = argparse.ArgumentParser("ais_bench", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--output_dirname", required=True)
    parser.add_argument("--outfmt", choices=["BIN", "TXT"], default="BIN")
    parser.add_argument("--batchsize", type=int)
    parser.add_argument("--device", type=int, default=0)
    given = parser.parse_args()
    session = InferSession(given.device, given.model)
    batch, *shape = session.input_shape
    if given.batchsize not in (None, batch):
        raise SystemExit(f"[ERROR] the model takes batches of {batch}")
    size = int(np.prod(shape))
    files = sorted(path for path in Path(given.input).iterdir() if path.is_file())
    results = Path(given.output) / given.output_dirname
    results.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(files), batch):
        part = files[start : start + batch]
        pixels = np.zeros((batch, size), np.uint8)  # the last batch is filled up
        for row, file in zip(pixels, part, strict=False):
            data = np.fromfile(file, np.uint8)
            if len(data) != size:
                raise SystemExit(f"[ERROR] {file} has {len(data)} bytes, expected {size}")
            row[:] = data
        outputs = session.infer([pixels.reshape(batch, *shape)])
        for number, output in enumerate(outputs):
            for file, row in zip(part, output, strict=False):
                save(results / f"{file.stem}_{number}", row, given.outfmt)
    summary = {"filesinfo": {str(n): [str(file)] for n, file in enumerate(files)}}
    path = Path(given.output) / f"{given.output_dirname}_summary.json"
    path.write_text(json.dumps(summary))


def save(stem, row, form):
    if form == "TXT":
        Path(f"{stem}.txt").write_text(" ".join(repr(float(value)) for value in row) + "\n")
    else:
        row.tofile(f"{stem}.bin")


main()
