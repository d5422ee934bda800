"""``torch_mlu`` for tests: the names that the plugin uses, with the vendor's signatures."""

from __future__ import annotations

from simulated_accelerator import plug_in

__version__ = "0.0.simulated"

mlu = plug_in("mlu", collectives="cncl", visible_devices="MLU_VISIBLE_DEVICES")

from torch_mlu import ptq, ts  # noqa: E402  they need the kind
from torch_mlu.inputs import Input  # noqa: E402

__all__ = ["Input", "mlu", "ptq", "ts"]
