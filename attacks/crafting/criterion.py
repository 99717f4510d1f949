"""What counts as success of a requester attack: a criterion, which the attack carries and the record names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from data.errors import UserError

if TYPE_CHECKING:
    from attacks.crafting.perturbation import Perturbation
    from data.examples import Data


class Criterion(Protocol):
    """The role of a criterion, read by every table and figure.

    `change` (T,) is how far the probability of the label predicted at first moved in the wanted direction, `kept` (T,)
    whether that label is still predicted. `attained` (T,) in [-1, 1] is how much of its goal the attack reached under
    its own constraint, by which attacks are ranked; `success` (T,) bool whether that counts. `directed` says whether
    the direction (over, under) is part of the goal. Where it has a label `toward` that targets are to get, `kept` says
    instead whether they have another one still, and no target has that label at first. Where it has a `perturbation`,
    `kept` says whether the label is predicted for the worst input near the target, too.
    """

    @property
    def name(self) -> str: ...
    @property
    def goal(self) -> str: ...
    @property
    def measure(self) -> str: ...
    @property
    def directed(self) -> bool: ...
    def attained(self, change: Tensor, kept: Tensor) -> Tensor: ...
    def success(self, change: Tensor, kept: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ConfidenceMoved:
    """Confidence moved by at least `least` as wanted, and the label was kept: attacks on uncertainty.

    attained = change where the label was kept, and where it was lost min(change, 0): a lost label breaks the attack's
    promise, so that it cannot count as confidence gained, nor hide that it was moved the wrong way. The comparison
    with `least` is exact.
    """

    least: float = 0.2
    name: ClassVar[str] = "confidence moved"
    measure: ClassVar[str] = "change of confidence as wanted, at most 0 where the label is lost"
    directed: ClassVar[bool] = True

    @property
    def goal(self) -> str:
        """The success in words."""
        return f"confidence moved by at least {self.least:g} as wanted, label kept"

    def attained(self, change: Tensor, kept: Tensor) -> Tensor:
        """The change (T,) of each target, at most 0 where it lost its label."""
        return torch.where(kept.bool(), change, change.clamp_max(0))

    def success(self, change: Tensor, kept: Tensor) -> Tensor:
        """Whether each target (T,) moved far enough and kept its label."""
        return (change >= self.least) & kept.bool()


@dataclass(frozen=True)
class LabelFlipped:
    """The predicted label is no longer that of the victim, or is the label `toward`: attacks that misclassify.

    attained is 1 or 0.
    """

    toward: int | None = None
    name: ClassVar[str] = "label flipped"
    directed: ClassVar[bool] = False

    @property
    def goal(self) -> str:
        """The success in words."""
        return "predicted label changed" if self.toward is None else f"predicted label became {self.toward}"

    @property
    def measure(self) -> str:
        """What is counted, in words."""
        return f"1 where the label {'changed' if self.toward is None else f'became {self.toward}'}, else 0"

    def attained(self, change: Tensor, kept: Tensor) -> Tensor:
        """1 where the label (T,) changed."""
        return 1 - kept.to(change.dtype)

    def success(self, change: Tensor, kept: Tensor) -> Tensor:
        """Whether the label (T,) changed."""
        return ~kept.bool()


@dataclass(frozen=True)
class LabelLostNearby:
    """Some input within the `perturbation` of the target is predicted to have another label: attacks on robustness.

    attained is 1 or 0, and 1 before anything is deleted where the label is lost nearby already: what the attack adds to
    that is its effect over the control. 1 less the mean is robust accuracy on targets, as far as the search for the
    worst input goes.
    """

    perturbation: Perturbation
    name: ClassVar[str] = "label lost nearby"
    directed: ClassVar[bool] = False

    @property
    def goal(self) -> str:
        """The success in words."""
        how = self.perturbation
        search = f"{how.steps} steps of ascent to each of {how.rivals} labels" if how.rivals else f"{how.steps} steps"
        return f"another label within {how.radius:g} of the target in {how.norm} ({search})"

    @property
    def measure(self) -> str:
        """What is counted, in words."""
        return "1 where an input near the target has another label, else 0"

    def attained(self, change: Tensor, kept: Tensor) -> Tensor:
        """1 where the label (T,) is lost nearby."""
        return 1 - kept.to(change.dtype)

    def success(self, change: Tensor, kept: Tensor) -> Tensor:
        """Whether the label (T,) is lost nearby."""
        return ~kept.bool()


def check_label(toward: int | None, data: Data) -> None:
    """Raise UserError where the label that targets are to get is none of the data set's."""
    if toward is not None and toward >= len(data.classes):
        raise UserError(f"attack.toward={toward} is no label; labels are 0 to {len(data.classes) - 1}.")


def criterion_of(attack: object) -> Criterion:
    """The criterion of an attack: its `criterion`, or `ConfidenceMoved()` where it carries none."""
    found: Criterion = getattr(attack, "criterion", None) or ConfidenceMoved()
    return found


def described(criterion: Criterion) -> dict[str, Any]:
    """The criterion as a record names it."""
    return {name: getattr(criterion, name) for name in ("name", "goal", "measure", "directed")}
