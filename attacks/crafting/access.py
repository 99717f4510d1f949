"""What an attack may reach, and the sentences that refuse it more, or less, than it claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from data.errors import UserError
from unlearning.procedure import Procedure
from unlearning.service import OpenService, Service

AccessMode = Literal["auto", "white_box", "black_box", "transfer"]  # auto: white-box where there is a gradient
Opened = Literal["white_box", "transfer"]  # the accesses with an opened service: the provider, or a surrogate of it
Access = OpenService | Service  # what an attack is given, by its mode


def opens(access: str) -> bool:
    """Whether an attack with that access is given an opened service and searches with `search_white_box`."""
    return access in get_args(Opened)


def resolved_access(claimed: AccessMode, accesses: Sequence[Access]) -> AccessMode:
    """The access that an attack has: what it claims, and for `auto` what it was given."""
    if claimed != "auto":
        return claimed
    return "white_box" if accesses and isinstance(accesses[0], OpenService) else "black_box"


def require_opened(access: AccessMode, wanted: Mapping[str, bool]) -> None:
    """Raise UserError where a black box, which shows no slopes, is asked for what needs them: `wanted` options."""
    named = [name for name, is_set in wanted.items() if is_set]
    if access == "black_box" and named:
        raise UserError(
            f"{' and '.join(named)} {'need' if named[1:] else 'needs'} attack.access=white_box (or transfer); a black "
            "box shows no slopes."
        )


def require_white_box(accesses: Sequence[Access], attack: str) -> OpenService:
    """The one opened service of an attack, of the provider or a surrogate, whatever its procedure; no black box."""
    service = accesses[0] if accesses else None
    if not isinstance(service, OpenService):
        raise UserError(f"attack={attack} with attack.access=white_box needs an opened service, not a black box.")
    return service


def require_gradient(procedure: Procedure, attack: str) -> None:
    """Raise UserError where an attack that differentiates the procedure meets one without a gradient."""
    if not procedure.differentiable:
        name = type(procedure).__name__
        raise UserError(
            f"A white-box {attack} attack needs the gradient of the unlearning procedure in the request; {name} has "
            "none; use attack.access=black_box, if the attack has that, or a procedure with one, such as retrain."
        )


def require_black_box(access: Access) -> Service:
    """The service of a black-box attack; an opened one is refused, since it gives more than the threat model allows."""
    if isinstance(access, OpenService):
        raise UserError(
            "A black-box attack takes a Service, not an opened one; serve() closes a provider into a Service."
        )
    return access
