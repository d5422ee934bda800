"""Finding the scales of integers from images."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from simulated_accelerator import STATE

if TYPE_CHECKING:
    import torch


class CalibrationAlgo(enum.Enum):
    LINEAR_CALIBRATION = 0


class DataLoaderCalibrator:
    def __init__(
        self,
        dataloader: torch.utils.data.DataLoader[Any],
        *,
        algo_type: CalibrationAlgo,
        max_calibration_samples: int,
    ) -> None:
        if not isinstance(algo_type, CalibrationAlgo):
            raise TypeError(f"expected a CalibrationAlgo, found {algo_type!r}")
        self.dataloader, self.limit = dataloader, max_calibration_samples

    def calibrate(self) -> None:
        for images, _labels in self.dataloader:
            STATE.calls["ptq.images"] += len(images)
