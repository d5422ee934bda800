"""Loss scaling: keep small fp16 gradients from vanishing (Micikevicius et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from runner.framework.loss_scale import ScaleState
from runner_mindspore.autoload import Tensor, ms, nn, ops

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runner.recipe.schema import PrecisionSection

START, FACTOR, WINDOW = 65536.0, 2.0, 2000
"""Of the dynamic scale: its first value, what it is multiplied and divided by, and the steps
without an overflow before it grows. The defaults of torch, and of MindSpore's models."""


class LossScale(ScaleState, nn.Cell):
    """What happens to the loss before, and to the gradients after, the backward pass.

    The methods without side effects on the host are compiled into the step.
    """

    skips = False
    """Whether a step whose gradients overflow is skipped."""

    def scale(self, loss: Tensor) -> Tensor:
        """Multiply the loss."""
        return loss

    def unscale(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Divide the gradients; once per step, after the last backward pass."""
        return gradients

    def adapt(self, finite: Tensor) -> Tensor:
        """Change the factor after a step whose gradients were finite, or not; return ``finite``."""
        return finite


@final
class NoLossScale(LossScale):
    """The loss as it is."""


class UncheckedLossScale(LossScale):
    """A constant factor; overflowing gradients reach the weights, and the run stops on them.

    ``FixedLossScaleManager`` with ``drop_overflow_update=False`` behaves like this.
    """

    kind = "static"

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def scale(self, loss: Tensor) -> Tensor:
        """Multiply the loss by the factor."""
        return loss * self.factor

    def unscale(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Divide the gradients by the factor."""
        return multiply(gradients, Tensor(1 / self.factor, ms.float32))

    def state(self) -> Mapping[str, Any]:
        """Return the factor."""
        return {"kind": self.kind, "factor": self.factor}


@final
class StaticLossScale(UncheckedLossScale):
    """A constant factor; a step whose gradients overflow is skipped."""

    skips = True


@final
class DynamicLossScale(LossScale):
    """A factor that is halved, and the step skipped, when gradients overflow.

    It starts at 65536 and doubles after 2000 steps without an overflow.
    """

    kind = "dynamic"
    skips = True

    def __init__(self) -> None:
        super().__init__()
        self.factor = _parameter(START, ms.float32, "loss_scale.factor")
        self.steps = _parameter(0, ms.int32, "loss_scale.steps")

    def scale(self, loss: Tensor) -> Tensor:
        """Multiply the loss by the present factor."""
        return loss * self.factor

    def unscale(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Divide the gradients by the present factor."""
        return multiply(gradients, 1 / self.factor)

    def adapt(self, finite: Tensor) -> Tensor:
        """Halve the factor after an overflow; double it after enough steps without one."""
        steps = ops.where(finite, self.steps + 1, 0)
        grows = steps >= WINDOW
        change = ops.where(grows, FACTOR, ops.where(finite, 1.0, 1 / FACTOR))
        factor = ops.assign(self.factor, self.factor * change)
        steps = ops.assign(self.steps, ops.where(grows, 0, steps).astype(ms.int32))
        return ops.depend(finite, (factor, steps))

    def state(self) -> Mapping[str, Any]:
        """Return the factor and how long it has been in force."""
        factor, steps = float(self.factor.asnumpy()), int(self.steps.asnumpy())
        return {"kind": self.kind, "factor": factor, "steps": steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state`` returned."""
        super().load_state(state)
        ops.assign(self.factor, Tensor(state["factor"], ms.float32))
        ops.assign(self.steps, Tensor(state["steps"], ms.int32))


def _parameter(value: float, dtype: ms.Type, name: str) -> ms.Parameter:
    return ms.Parameter(Tensor(value, dtype), name=name, requires_grad=False)


_multiply = ops.MultitypeFuncGraph("multiply")


@_multiply.register("Tensor", "Tensor")
def _multiply_one(factor: Tensor, gradient: Tensor) -> Tensor:
    return gradient * factor


_hyper_map = ops.HyperMap()


def multiply(gradients: tuple[Tensor, ...], factor: Tensor) -> tuple[Tensor, ...]:
    """Multiply each gradient by a scalar."""
    return _hyper_map(ops.partial(_multiply, factor), gradients)


def loss_scale(section: PrecisionSection) -> LossScale:
    """Make the loss scale that a recipe asks for."""
    scale = section.effective_loss_scale
    if scale == "none":
        return NoLossScale()
    if scale == "dynamic":
        return DynamicLossScale()
    return StaticLossScale(scale) if section.skip_overflow else UncheckedLossScale(scale)
