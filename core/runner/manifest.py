"""What a run ran on: ``manifest.json``."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from runner.contracts import Device, Engine
    from runner.plan import Plan
    from runner.plugins import PluginInfo
    from runner.session import Split

OWN_PACKAGES = ("numpy", "pillow", "pluggy", "pydantic", "pyyaml", "safetensors", "typer")


def describe(
    plan: Plan,
    plugins: Sequence[PluginInfo],
    *,
    device: Device,
    engine: Engine,
    splits: Sequence[Split],
    command: Sequence[str],
) -> dict[str, Any]:
    """Return the manifest of a run (JSON)."""
    return {
        "recipe": plan.name,
        "seed": plan.recipe.seed,
        "command": list(command),
        "environment": environment(package_names(plan)),
        "plugins": [
            {"name": item.name, "version": item.version, "distribution": item.distribution}
            for item in plugins
            if item.state == "ready"
        ],
        "device": dict(device.describe()),
        "engine": dict(engine.report()),
        "data": {split.name: split.fingerprint() for split in splits},
    }


def package_names(plan: Plan) -> list[str]:
    """Return the distributions whose versions decide a run's result."""
    by_module = metadata.packages_distributions()
    modules = {
        module
        for item in plan.entries(training=True, exporting=True)
        for module in item.entry.requires
    }
    required = {name for module in modules for name in by_module.get(module, ())}
    return sorted({*OWN_PACKAGES, *required})


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """Return the interpreter, the machine and the versions of ``packages`` (JSON)."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "host": platform.node(),
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "packages": {"vision-runner": _version("vision-runner")}
        | {name: _version(name) for name in packages},
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
