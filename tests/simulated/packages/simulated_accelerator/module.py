"""The module that a vendor's package adds to torch, such as ``torch.npu``; it counts its calls."""

from __future__ import annotations

import contextlib
import time
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from simulated_accelerator.state import STATE, fresh_random_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GIB = 2**30


class Stream:
    """A queue of work. Everything is done at once here, so there is nothing to wait for."""

    def __init__(self, device: object = None, priority: int = 0) -> None:
        self.device = torch.device(STATE.kind, STATE.index(device))

    def wait_stream(self, stream: Stream) -> None: ...
    def wait_event(self, event: Event) -> None: ...
    def synchronize(self) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def query(self) -> bool:
        return True


class Event:
    """A moment in a queue of work."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.moment = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.moment = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return (end.moment - self.moment) * 1e3

    def wait(self, stream: Stream | None = None) -> None: ...
    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class Properties:
    """What a vendor says about a card."""

    def __init__(self, index: int) -> None:
        self.name = f"Simulated {STATE.kind.upper()}"
        self.total_memory = 32 * GIB
        self.index = index


class Functions:
    """The functions of the module; a name that begins with ``_`` is torch's own convention."""

    def is_available(self) -> bool:
        return self.device_count() > 0

    def device_count(self) -> int:
        return STATE.count

    def is_initialized(self) -> bool:
        return True

    def init(self) -> None: ...
    def _lazy_init(self) -> None: ...
    def empty_cache(self) -> None: ...

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return STATE.current

    def set_device(self, device: object) -> None:
        STATE.choose(device)

    def synchronize(self, device: object = None) -> None:
        STATE.index(device)

    def get_device_name(self, device: object = None) -> str:
        return Properties(STATE.index(device)).name

    def get_device_properties(self, device: object = None) -> Properties:
        return Properties(STATE.index(device))

    def memory_allocated(self, device: object = None) -> int:
        return STATE.card(device).allocated

    def max_memory_allocated(self, device: object = None) -> int:
        return STATE.card(device).peak

    def memory_reserved(self, device: object = None) -> int:
        return STATE.card(device).allocated

    def reset_peak_memory_stats(self, device: object = None) -> None:
        card = STATE.card(device)
        card.peak = card.allocated

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        return 32 * GIB - STATE.card(device).allocated, 32 * GIB

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def is_bf16_supported(self) -> bool:
        return STATE.bf16

    def manual_seed(self, seed: int) -> None:
        STATE.card().random = fresh_random_state(seed)

    def manual_seed_all(self, seed: int) -> None:
        for index in range(STATE.count):
            STATE.card(index).random = fresh_random_state(seed)

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return STATE.card(device).random.clone()

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        STATE.card(device).random = state.clone()

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return [STATE.card(index).random.clone() for index in range(STATE.count)]

    def set_rng_state_all(self, states: list[torch.Tensor]) -> None:
        for index, state in enumerate(states):
            STATE.card(index).random = state.clone()


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Note each call of a function of the vendor's module."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        STATE.calls[function.__name__] += 1
        return function(*args, **kwargs)

    return call


def device_module(kind: str) -> ModuleType:
    """Make ``torch.<kind>``."""
    module = ModuleType(f"torch.{kind}")
    functions = Functions()
    for name in dir(Functions):
        if not name.startswith("__"):
            setattr(module, name, counted(getattr(functions, name)))

    @contextlib.contextmanager
    def stream(chosen: Stream | None) -> Iterator[Stream | None]:
        yield chosen

    @contextlib.contextmanager
    def device(chosen: object) -> Iterator[None]:
        before = STATE.current
        STATE.choose(chosen)
        yield
        STATE.choose(before)

    added = {
        "Stream": Stream,
        "Event": Event,
        "stream": stream,
        "device": device,
        "current_stream": Stream,
        "default_stream": Stream,
        "default_generators": (),
    }
    for name, value in added.items():
        setattr(module, name, value)
    return module
