"""What a run ran on: ``manifest.json``."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from runner import __version__
from runner.framework.cores import visible_cores
from runner.plugins.returns import origin, report

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from runner.contracts import Device, Engine
    from runner.planning.plan import Plan
    from runner.plugins.registry import PluginInfo
    from runner.session.opening import Split

OWN_PACKAGES = ("numpy", "pillow", "pluggy", "pydantic", "pyyaml", "safetensors", "typer")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""Distributions whose module has another name."""


def describe(
    plan: Plan,
    plugins: Sequence[PluginInfo],
    *,
    device: Device,
    engine: Engine,
    splits: Sequence[Split],
    command: Sequence[str],
    export: bool,
    world_size: int,
) -> dict[str, Any]:
    """Return the manifest of a run (JSON)."""
    return {
        "recipe": plan.name,
        "seed": plan.recipe.seed,
        "command": list(command),
        "folder": str(Path.cwd()),
        "export": export,
        "world_size": world_size,
        "environment": environment(package_names(plan)),
        "plugins": [
            {"name": item.name, "version": item.version, "distribution": item.distribution}
            for item in plugins
            if item.state == "ready"
        ],
        "device": report(device.describe(), f"{origin(plan.device)}, describe()"),
        "engine": dict(engine.report()),
        "data": {split.name: split.record() for split in splits},
        "loader": {
            f"{split.name}.{key}": value
            for split in splits
            for key, value in split.loader.report().items()
        },
    }


def package_names(plan: Plan) -> list[str]:
    """Return the distributions whose versions decide a run's result."""
    modules = {
        module
        for item in plan.entries(training=True, exporting=True)
        for module in item.entry.requires
    }
    required = [name for name in distributions(modules) if _version(name) is not None]
    return sorted({*OWN_PACKAGES, *required})


def distributions(modules: Iterable[str]) -> list[str]:
    """Return the distributions that modules are installed from, sorted.

    A module that no installed distribution claims stands for the distribution of its name. Python
    3.10 knows no modules of wheels without ``top_level.txt``.
    """
    by_module = metadata.packages_distributions()
    found: set[str] = set()
    for module in modules:
        top = module.partition(".")[0]
        found.update(by_module.get(top) or [DISTRIBUTIONS.get(top, top)])
    return sorted(found)


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """Return the interpreter, the machine and the versions of ``packages`` (JSON)."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "host": platform.node(),
        "cpus": visible_cores(),
        "packages": {"vision-runner": __version__} | {name: _version(name) for name in packages},
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
