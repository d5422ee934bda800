"""How the fake framework misbehaves, on request."""

from __future__ import annotations

from typing import Annotated, Union

from annotated_types import Ge

from runner.options import options

Step = Union[Annotated[int, Ge(0)], None]  # noqa: UP007  evaluated by pydantic on Python 3.10


@options
class FakeOptions:
    """How the framework misbehaves; steps count from 0 at the start of training.

    Where the environment has ``RUNNER_FAKE_SOUND=1``, as for a run that continues, nothing breaks.
    """

    non_finite_at_step: Step = None
    """Step whose loss, and the weights after it, are not a number."""
    overflow_at_step: Step = None
    """Step that is skipped, as after an overflow under a loss scale."""
    fail_after_steps: Step = None
    """Steps that this process takes before one raises; a resumed run counts from 0 again."""
    hang_at_step: Step = None
    """Step that takes an hour, and says so on standard error."""
    on_rank: Step = None
    """The only process that fails, hangs or loses its loss; all when left out."""
    seconds_per_step: Annotated[float, Ge(0)] = 0.0
    """Time that each step waits."""
