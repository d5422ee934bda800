"""What kinds of device do differently, one row each, and the entry that a row becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from runner.contracts import Availability
from runner.entries import DeviceEntry
from runner.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from runner.contracts import Device


def _nothing(_index: int) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTraits:
    """One kind of device, as far as it does not depend on the framework, which adds fields."""

    kind: str
    """Name of the device entry."""
    vendor_package: str | None = None
    """Module whose import adds the kind to the framework, such as ``torch_acme``."""
    is_host: bool = False
    """The kind is the processor itself: one device, no index, no memory or random state of its
    own, nothing to wait for."""
    distributed_backend: str
    """Library of collective operations on the kind, such as ``nccl``."""
    group_environment: Mapping[str, str] = field(default_factory=dict)
    """Environment of processes that train together, where the user has not set it."""
    visible_devices: str | None = None
    """Environment variable that chooses physical cards."""
    card_environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables that make its numbers those that the vendor's tools show."""
    interface_variables: tuple[str, ...] = ()
    """Environment variables that take the network interface towards other machines."""
    address_variables: tuple[str, ...] = ()
    """Environment variables that take the address of this machine towards others."""
    native_sync_batch_norm: bool = False
    """The framework has kernels for its own synchronised batch normalisation on this kind."""
    refused_formats: Mapping[str, str] = field(default_factory=dict)
    """Values of ``precision.compute`` that the kind does not compute in, and why."""
    slow_formats: Mapping[str, str] = field(default_factory=dict)
    """Values of ``precision.compute`` that it takes many times as long for as for fp32, and why."""
    hardware_bf16: Callable[[], bool] | None = None
    """Ask the hardware for bf16, for kinds of which only some cards have it."""
    describe: Callable[[int], Mapping[str, Any]] = field(default=_nothing)
    """Return what identifies the hardware with this index (JSON)."""


TraitsT = TypeVar("TraitsT", bound=DeviceTraits)


def entry_of(
    traits: TraitsT,
    *,
    framework: str,
    requires: tuple[str, ...],
    summary: str,
    config: type,
    install: str,
    configure: Callable[[Any], Mapping[str, Any]] | None,
    probe_device: Callable[[TraitsT], Availability],
    open_device: Callable[..., Device],
) -> DeviceEntry:
    """Make the entry of a kind of device, which recipes name by ``traits.kind``.

    Args:
        traits: What the kind does differently.
        framework: Name of the framework.
        requires: Modules that the framework needs; the vendor's package is added.
        summary: One line for lists.
        config: The class, made with ``runner.options``, of the device's keys in a recipe.
        install: The command that installs the framework and what else the kind needs.
        configure: Puts the options into effect and returns what is in effect (JSON).
        probe_device: Whether the machine has one. A ``lazy`` function, as the next: both import the
            framework.
        open_device: Opens one, given the traits, ``configure`` for the options where there is one,
            and their ``index`` where they have it.
    """
    package = () if traits.vendor_package is None else (traits.vendor_package,)
    return DeviceEntry(
        name=traits.kind,
        summary=summary,
        config=config,
        requires=(*requires, *package),
        install=install,
        framework=framework,
        probe=partial(_probe, probe_device, traits, framework),
        open=partial(_open, open_device, traits, configure),
        visible_devices=traits.visible_devices,
        card_environment=traits.card_environment,
        interface_variables=traits.interface_variables,
        address_variables=traits.address_variables,
        is_host=traits.is_host,
        refused_formats=traits.refused_formats,
        slow_formats=traits.slow_formats,
    )


def _probe(
    probe_device: Callable[[TraitsT], Availability], traits: TraitsT, framework: str
) -> Availability:
    try:
        return probe_device(traits)
    except (ImportError, PluginError) as error:
        return Availability(available=False, reason=f"{framework} cannot be imported: {error}")


def _open(
    open_device: Callable[..., Device],
    traits: DeviceTraits,
    configure: Callable[[Any], Mapping[str, Any]] | None,
    options: Any,
) -> Device:
    settings = None if configure is None else partial(configure, options)
    chosen = {"index": options.index} if hasattr(options, "index") else {}
    return open_device(traits, configure=settings, **chosen)
