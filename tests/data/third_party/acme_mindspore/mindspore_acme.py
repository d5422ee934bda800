"""What a vendor's package does, on the kernels of the processor: it counts cards."""

import os
from types import SimpleNamespace

import mindspore

cards = int(os.environ["SIMULATED_CARDS"])
mindspore.device_context.cpu = SimpleNamespace(
    is_available=lambda: cards > 0, device_count=lambda: cards
)
