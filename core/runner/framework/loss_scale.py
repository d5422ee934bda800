"""What a checkpoint keeps of a loss scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class ScaleState:
    """The state of a loss scale: its kind, to which subclasses add what the next step needs."""

    kind = "none"

    def state(self) -> Mapping[str, Any]:
        """Return what the next step depends on (JSON)."""
        return {"kind": self.kind}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state`` returned.

        Raises:
            CheckpointError: It is of another kind.
        """
        if state.get("kind") != self.kind:
            raise CheckpointError(
                f"the checkpoint has loss scale {state.get('kind')!r}, this run {self.kind!r}; "
                "continue with the same precision.loss_scale"
            )
