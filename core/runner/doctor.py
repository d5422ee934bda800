"""What this machine offers, and what stands in the way."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner import manifest
from runner.probe import probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runner.registry import Registry

MIN_FREE_GIB = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    ok: bool
    text: str


def examine(registry: Registry, runs_dir: Path) -> Iterator[Finding]:
    """Look at the interpreter, the machine, the plugins, and every device (in a child process)."""
    modules = {
        name
        for kind in ("framework", "exporter", "predictor", "logger")
        for item in registry.entries(kind)
        for name in item.entry.requires
    }
    environment = manifest.environment([*manifest.OWN_PACKAGES, *manifest.distributions(modules)])
    yield Finding(topic="python", ok=True, text=f"{environment['python']}, {sys.executable}")
    yield Finding(topic="machine", ok=True, text=_machine(environment))
    yield _disk(runs_dir)
    for name, version in environment["packages"].items():
        needed = name in {"vision-runner", *manifest.OWN_PACKAGES}
        yield Finding(
            topic="package",
            ok=version is not None or not needed,
            text=f"{name} {version or 'not installed'}",
        )
    for info in registry.plugins:
        ok = info.state in {"ready", "disabled", "unavailable"}
        yield Finding(
            topic="plugin", ok=ok, text=f"{info.name}: {info.state}{_because(info.reason)}"
        )
    for item in registry.entries("device"):
        found = probe(item.framework, item.entry.name)
        word = "available" if found.available else "not available"
        yield Finding(
            topic="device",
            ok=True,
            text=f"{item.framework} {item.entry.name}: {word}{_because(found.reason)}",
        )


def _machine(environment: dict[str, object]) -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{environment['platform']}, {environment['cpus']} CPUs, {pages:.0f} GiB of memory"


def _disk(runs_dir: Path) -> Finding:
    folder = next(path for path in (runs_dir, *runs_dir.resolve().parents) if path.exists())
    free = shutil.disk_usage(folder).free / 2**30
    writable = os.access(folder, os.W_OK)
    advice = "" if writable else "; not writable, choose another with --runs-dir"
    if free < MIN_FREE_GIB:
        advice += "; a checkpoint may not fit, set checkpoint.keep or --runs-dir"
    return Finding(
        topic="disk",
        ok=writable and free >= MIN_FREE_GIB,
        text=f"{free:.1f} GiB free for runs in {folder}{advice}",
    )


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""
