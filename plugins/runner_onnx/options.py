"""Options of the entries."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from runner.options import options


@options
class Int8Options:
    """Static quantisation to 8 bits."""

    calibration_batches: Annotated[int, Gt(0)] = 5
    """Batches of `eval.batch_size` validation images, spread over the classes, that the ranges of
    activations are measured on."""
    reduce_range: bool = False
    """Weights of 7 bits, for processors without VNNI, where sums of 8-bit products can saturate."""


@options
class Int16Options:
    """Static quantisation to 16 bits for activations and 8 for weights."""

    calibration_batches: Annotated[int, Gt(0)] = 5
    """Batches of `eval.batch_size` validation images, spread over the classes, that the ranges of
    activations are measured on."""


@options
class Fp16Options:
    """Weights and arithmetic in half precision."""

    keep_io_types: bool = True
    """Input and logits stay fp32; otherwise the file takes and gives fp16."""
