#!/usr/bin/env bash
# Resolve pyproject.toml anew and write one lock for each Python, with and without MindSpore, and
# one of the lowest versions that its ranges allow. Called by `make upgrade`; needs uv.
set -euo pipefail
cd "$(dirname "$0")/.."

resolve() {  # OUTPUT PYTHON EXTRAS [OPTION...]
    local output=requirements/$1.txt python=$2 extras=()
    for name in $3; do extras+=(--extra "$name"); done
    shift 3
    uv pip compile --quiet --no-python-downloads --upgrade --no-annotate \
        --python-version "$python" --python-platform x86_64-manylinux_2_28 \
        --custom-compile-command "make upgrade" \
        "${extras[@]}" "$@" --output-file "$output" pyproject.toml
}

everything="torch onnx digits tensorboard dev"
for python in 3.10 3.11 3.12 3.13; do
    resolve "python$python" "$python" "$everything" --constraints requirements/held.txt
    # MindSpore has no wheels for Python 3.13
    [ "$python" = 3.13 ] ||
        resolve "python$python-mindspore" "$python" "$everything mindspore" --constraints requirements/held.txt
done
resolve python3.10-lowest 3.10 "torch onnx digits tensorboard dev" --resolution lowest-direct
