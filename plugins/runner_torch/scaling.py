"""Loss scaling: keep small fp16 gradients from vanishing (Micikevicius et al. 2018)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, final

from runner.framework.loss_scale import ScaleState
from runner_torch.autoload import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runner.recipe.schema import PrecisionSection
    from runner_torch.device import TorchDevice


class LossScale(ScaleState, ABC):
    """What happens to the loss before, and to the gradients after, the backward pass."""

    @abstractmethod
    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """Multiply the loss."""

    @abstractmethod
    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients; once per step, after the last backward pass."""

    @abstractmethod
    def step(self, optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
        """Update the weights; return whether the update was skipped, ``None`` if it cannot be."""


@final
class NoLossScale(LossScale):
    """The loss as it is."""

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        return loss

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Do nothing."""

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the weights."""
        optimizer.step()


@final
class StaticLossScale(LossScale):
    """A constant factor; a step whose gradients overflow is skipped.

    MindSpore's ``FixedLossScaleManager`` behaves like this. The scaler of the dynamic scale looks
    for infinite gradients, because on some hardware only a vendor's own knows how; what it makes of
    the factor is put back.
    """

    kind = "static"

    def __init__(self, factor: float, device: TorchDevice) -> None:
        self._factor = factor
        self._scaler = device.loss_scaler()
        self._scaler.load_state_dict({**self._scaler.state_dict(), "scale": factor})
        self._one = torch.ones((), device=device.torch_device)

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """Multiply the loss by the factor."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the factor, and look for infinite ones."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Update the weights if no gradient overflowed."""
        self._scaler.step(optimizer)
        self._scaler.update()  # lowers the factor after an overflow, which is how it shows
        skipped = self._scaler.scale(self._one) < self._factor
        self._scaler.update(self._factor)
        return skipped

    def state(self) -> Mapping[str, Any]:
        """Return the factor."""
        return {"kind": self.kind, "factor": self._factor}


@final
class UncheckedLossScale(LossScale):
    """A constant factor; overflowing gradients reach the weights, and the run stops on them.

    Apex's static scale and MindSpore's ``drop_overflow_update=False`` behave like this. No number
    is read from the device.
    """

    kind = "static"

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """Multiply the loss by the factor."""
        return loss * self._factor

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the factor."""
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, 1 / self._factor)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the weights."""
        optimizer.step()

    def state(self) -> Mapping[str, Any]:
        """Return the factor."""
        return {"kind": self.kind, "factor": self._factor}


@final
class DynamicLossScale(LossScale):
    """A factor that is halved, and the step skipped, when gradients overflow.

    It starts at 65536 and doubles after 2000 steps without an overflow, torch's defaults. Torch
    reads one number from the device per step to decide, unless the optimizer is a fused one.
    """

    kind = "dynamic"

    def __init__(self, device: TorchDevice) -> None:
        self._scaler = device.loss_scaler()
        self._one = torch.ones((), device=device.torch_device)

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """Multiply the loss by the present factor."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients, and look for infinite ones."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Update the weights if no gradient overflowed, and adapt the factor."""
        before = self._scaler.scale(self._one)  # on the device: reading it would wait
        self._scaler.step(optimizer)
        self._scaler.update()
        return self._scaler.scale(self._one) < before

    def state(self) -> Mapping[str, Any]:
        """Return the factor and how long it has been in force."""
        return {"kind": self.kind, **self._scaler.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state`` returned."""
        super().load_state(state)
        self._scaler.load_state_dict({k: v for k, v in state.items() if k != "kind"})


def loss_scale(section: PrecisionSection, device: TorchDevice) -> LossScale:
    """Make the loss scale that a recipe asks for."""
    scale = section.effective_loss_scale
    if scale == "none":
        return NoLossScale()
    if scale == "dynamic":
        return DynamicLossScale(device)
    return StaticLossScale(scale, device) if section.skip_overflow else UncheckedLossScale(scale)
