"""Import torch without the vendor packages that it would otherwise import on its own.

``import torch`` imports every installed package that announces itself as a device back-end, and
fails altogether when one of them does (for lack of the vendor's own libraries, for example), on
whatever device the user wanted to train. The variable below switches that off for this process
and its children; the device that needs a vendor package imports it by name, and reports its
failure as that device's. A value that the user has set is left alone.

All modules of this plugin take torch from here, so that none can import it too early.
"""

from __future__ import annotations

import os

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import torch  # after the variable above, which it reads

__all__ = ["torch"]
