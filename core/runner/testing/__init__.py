"""What plugin authors use in their tests: checks of the contracts, and a framework to run them on.

    from runner.testing import check_plugin, check_framework

    def test_plugin():
        check_plugin("my_package.plugin")

Every check raises ``AssertionError`` with a message that says what was promised and what was
found, so it works in pytest and in a plain script.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.testing.conformance import check_dataset, check_plugin
    from runner.testing.engine_checks import check_framework
    from runner.testing.group_checks import check_group
    from runner.testing.processes import check_processes
    from runner.testing.step_checks import check_step

MODULES = {
    "check_dataset": "conformance",
    "check_framework": "engine_checks",
    "check_group": "group_checks",
    "check_plugin": "conformance",
    "check_processes": "processes",
    "check_step": "step_checks",
}

__all__ = [
    "check_dataset",
    "check_framework",
    "check_group",
    "check_plugin",
    "check_processes",
    "check_step",
]


def __getattr__(name: str) -> Any:  # the fake framework is imported without NumPy
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)
