"""What this machine offers, and what stands in the way."""

from __future__ import annotations

import ipaddress
import os
import resource
import shutil
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.distributed.meeting import network
from runner.entries import (
    DeviceEntry,
    ExportEntry,
    FrameworkEntry,
    LoggerEntry,
    PredictorEntry,
)
from runner.plugins.loading import own_distributions
from runner.plugins.probe import probe
from runner.training import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runner.plugins.registry import Registry

MIN_FREE_GIB = 2.0
MIN_FILES = 256
OWN_FILES = 128
"""Files that a process has open beside its connections: libraries, logs, images."""


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
        for kind in (FrameworkEntry, ExportEntry, PredictorEntry, LoggerEntry)
        for item in registry.entries(kind)
        for name in item.entry.requires
    }
    environment = manifest.environment([*manifest.OWN_PACKAGES, *manifest.distributions(modules)])
    yield Finding(topic="python", ok=True, text=f"{environment['python']}, {sys.executable}")
    yield Finding(topic="machine", ok=True, text=_machine(environment))
    yield _disk(runs_dir)
    yield _network()
    yield _limits()
    yield from copies()
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
    for item in registry.entries(DeviceEntry):
        found = probe(item.framework, item.entry.name)
        word = "available" if found.available else "not available"
        yield Finding(
            topic="device",
            ok=True,
            text=f"{item.framework} {item.entry.name}: {word}{_because(found.reason)}",
        )


def copies() -> Iterator[Finding]:
    """Tell of further copies of the product's metadata on the path."""
    found = own_distributions()
    for other in found[1:]:
        yield Finding(
            topic="package",
            ok=False,
            text=f"metadata of vision-runner {other.version} was left behind in "
            f"{other.locate_file('')}; {found[0].version} runs, so remove the other",
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


def _network() -> Finding:
    own = {
        f"{address} ({name})"
        for name, address in network.interfaces()
        if not ipaddress.ip_address(address).is_loopback
        and not ipaddress.ip_address(address).is_link_local
    }
    text = ", ".join(sorted(own)) or "no address towards other machines"
    return Finding(topic="network", ok=True, text=f"{socket.gethostname()}: {text}")


def _limits() -> Finding:
    """Look at what several processes need: each has a connection to every other one."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    locked = "any" if memory == resource.RLIM_INFINITY else f"{memory // 2**20} MiB of"
    text = f"{files} open files in a process, {locked} locked memory, which RDMA needs"
    if enough := files >= MIN_FILES:
        text += f"; enough files for runs on about {files - OWN_FILES} devices"
    else:
        text += f"; a loader and its connections need {MIN_FILES}: ulimit -n {4 * MIN_FILES}"
    return Finding(topic="limits", ok=enough, text=text)


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""
