"""``torch_npu`` for tests: the names that the plugin uses, with the vendor's signatures."""

from __future__ import annotations

from typing import Any

from simulated_accelerator import plug_in
from torch_npu import switches

__version__ = "0.0.simulated"

npu: Any = plug_in("npu", collectives="hccl", visible_devices="ASCEND_RT_VISIBLE_DEVICES")
switches.add_to(npu)
npu.amp = switches.amp()
