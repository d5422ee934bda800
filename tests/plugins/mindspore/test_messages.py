"""What MindSpore says, as it arrives in our messages."""

from __future__ import annotations

import pytest

from runner_mindspore.messages import WORDING, reason

RULE = "-" * 52
NOT_ENOUGH = f"""{RULE}
- Memory not enough:
{RULE}
Memory isn't enough and alloc failed, kernel name: Default/ReLU-op0, alloc size: 205520896B.

{RULE}
- C++ Call Stack: (For framework developers)
{RULE}
mindspore/ccsrc/runtime/graph_scheduler/graph_scheduler.cc:812 Run
"""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("For 'Sub', x is wrong.\n\n- C++ Call Stack"), "For 'Sub', x is wrong."),
        (
            RuntimeError(NOT_ENOUGH),
            "Memory not enough: Memory isn't enough and alloc failed, kernel name: "
            "Default/ReLU-op0, alloc size: 205520896B.",
        ),
        (RuntimeError(), None),
    ],
)
def test_reasons_are_one_line(error: Exception, expected: str | None) -> None:
    name = type(error).__name__
    assert reason(error) == (name if expected is None else f"{name}: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NOT_ENOUGH, True),
        ("Allocate output memory failed, alloc size:5B\nutils.cc:1300 MallocForOutputs", True),
        ("Out of Memory!!! Request memory size: 9 GiB", True),
        ("For 'Sub', x and y must have the same shape", False),
    ],
)
def test_running_out_of_memory_is_recognised(text: str, expected: bool) -> None:
    assert WORDING.is_out_of_memory(RuntimeError(text)) is expected
