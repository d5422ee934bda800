"""A vendor that Vision Runner has never heard of."""

from __future__ import annotations

from simulated_accelerator import plug_in

__version__ = "0.0.simulated"

acme = plug_in("acme", collectives="accl", visible_devices="ACME_VISIBLE_DEVICES")
