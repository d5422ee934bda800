"""A back-end of ``torch.distributed`` under a vendor's name, which drives gloo on the processor.

It is a process group and not a back-end in torch's sense: torch would hand the latter the wrapped
tensors of the processor, and what moves between cards could not be told from what does not.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.utils import _pytree as pytree

from simulated_accelerator.state import STATE
from simulated_accelerator.tensor import DeviceTensor, host

OPERATIONS = [
    "allreduce",
    "allreduce_coalesced",
    "broadcast",
    "reduce",
    "barrier",
    "send",
    "recv",
    "gather",
    "scatter",
    "alltoall",
    "alltoall_base",
    "all_to_all_single",
    "allgather",
    "allgather_coalesced",
    "_allgather_base",
    "all_gather_single",
    "all_gather_single_coalesced",
    "reduce_scatter",
    "_reduce_scatter_base",
    "reduce_scatter_single",
    "gather_single",
]


class Group(dist.ProcessGroup):
    """The processes of one run, each with its card."""

    def __init__(self, label: str, options: Any) -> None:
        # torch binds (rank, size) too, but its stubs name only (store, rank, size)
        super().__init__(options.group_rank, options.group_size)  # type: ignore[call-arg, unused-ignore]
        from torch.distributed.distributed_c10d import ProcessGroupGloo

        self._label = label
        group = getattr(options, "process_group", None)  # torch 2.11 does not say for what it is
        self._takes_host = group is None or torch.device("cpu") in group._device_types
        self._gloo = ProcessGroupGloo(
            options.store, options.group_rank, options.group_size, options.timeout
        )
        kinds = dist.ProcessGroup.BackendType
        self._set_default_backend(kinds.CUSTOM)
        self._register_backend(torch.device(STATE.kind), kinds.CUSTOM, self._gloo)
        if self._takes_host:  # such as "cpu:gloo,npu:hccl"
            self._register_backend(torch.device("cpu"), kinds.GLOO, self._gloo)

    def getBackendName(self) -> str:  # noqa: N802  torch's name
        return self._label

    def call(self, name: str, args: Any, kwargs: Any) -> Any:
        STATE.calls[f"{self._label}.{name}"] += 1
        tensors = [a for a in pytree.tree_leaves(args) if isinstance(a, torch.Tensor)]
        if not self._takes_host and not all(isinstance(a, DeviceTensor) for a in tensors):
            raise RuntimeError(f"No backend type associated with device type cpu ({self._label})")
        return getattr(self._gloo, name)(*pytree.tree_map(host, args), **kwargs)


def _forward(name: str) -> Any:
    def call(self: Group, *args: Any, **kwargs: Any) -> Any:
        return self.call(name, args, kwargs)

    return call


def register(label: str) -> None:
    """Offer the back-end to ``init_process_group``."""
    if not dist.is_available():
        return
    for name in OPERATIONS:
        setattr(Group, name, _forward(name))

    def create(options: Any, _own: object = None) -> Group:
        return Group(label, options)

    dist.Backend.register_backend(label, create, extended_api=True, devices=[STATE.kind])
