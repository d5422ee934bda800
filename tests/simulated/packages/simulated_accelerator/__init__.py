"""An accelerator for PyTorch that is not there: real device tensors, computed by the processor.

It uses the place that PyTorch keeps for devices outside its tree (``PrivateUse1``), in pure Python.
The packages beside this one give it a vendor's name and functions, so that the code which is
tested imports ``torch_npu``, for example, as on a machine with such cards. Put their folder on
``PYTHONPATH`` to plug it in. ``simulated_accelerator.state`` lists the environment variables.

A process has one vendor, because torch can be told one name, and one card, the one that
``set_device`` has chosen: several cards need several processes. There are no streams, no formats of
the hardware's own, no compiler and no speed of a real card, so a test that passes here shows
nothing about those.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import backend_registration

from simulated_accelerator import collective, kernels
from simulated_accelerator.module import counted, device_module
from simulated_accelerator.state import STATE

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["STATE", "counted", "plug_in"]


def plug_in(kind: str, *, collectives: str, visible_devices: str) -> ModuleType:
    """Add a kind of device to torch, and return its module.

    Args:
        kind: Name of the kind, such as ``npu``.
        collectives: Name of its back-end for ``torch.distributed``.
        visible_devices: Environment variable that chooses cards.

    Raises:
        ImportError: The environment asks for a broken installation.
    """
    if broken := os.environ.get("SIMULATED_BROKEN"):
        raise ImportError(broken)
    STATE.begin(kind, visible_devices)
    torch_utils: Any = torch.utils  # releases differ in whether they export the next two by name
    torch_utils.rename_privateuse1_backend(kind)
    module = device_module(kind)
    torch_utils.generate_methods_for_privateuse1_backend()
    torch._register_device_module(kind, module)
    registered: Any = torch._C._acc
    registered.register_python_privateuseone_hook(backend_registration._DummyPrivateUse1Hook())
    registered.register_python_privateuseone_device_guard(backend_registration._DummyDeviceGuard())
    sys.modules[f"torch.{kind}"] = module
    kernels.register_factories()
    kernels.register_pinned_memory()
    kernels.register_autocast()
    collective.register(collectives)
    return module
