"""What tells torch_npu's libraries about cards and network; nothing of the vendor's is imported."""

from __future__ import annotations

from runner.distributed.launching import cards
from runner.distributed.machines import Machines
from runner.distributed.meeting import network
from runner.entries import DeviceEntry
from runner.plugins import loading


def test_hccl_is_told_the_address_of_this_machine_and_which_cards_to_use():
    found = loading.load(environ={}).find(DeviceEntry, "npu", "torch")
    entry = found.entry
    machines = Machines(count=2, rank=1, host="10.0.0.7", port=1, address="10.0.0.8")
    assert network.environment(entry, machines, {}) == {"HCCL_IF_IP": "10.0.0.8"}
    assert network.environment(entry, machines, {"HCCL_IF_IP": "10.1.0.8"}) == {}
    assert cards.environment(entry, [0, 2], {}) == {"ASCEND_RT_VISIBLE_DEVICES": "0,2"}
