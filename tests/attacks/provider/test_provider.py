"""What a provider must give: a model of the same architecture with finite parameters."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from attacks.provider.provider import pretended
from data.errors import UserError
from models.logistic import Logistic
from models.training import initialise
from models.victim import Victim


def victim(width: int = 3) -> Victim:
    return Victim(*initialise(lambda: Logistic(shape=(width,), classes=2), 0, torch.zeros(2, width)))


def said(released: object) -> str:
    provider = SimpleNamespace(name="mine", pretend=lambda demand: released)
    with pytest.raises(UserError) as error:
        pretended(provider, SimpleNamespace(original=victim()))
    return str(error.value)


def test_what_is_no_model_of_the_kind_is_refused() -> None:
    broken = {name: torch.full_like(value, torch.nan) for name, value in victim().moving.items()}
    assert said(None) == "attack=mine: pretend() must give a Victim, and gave a NoneType."
    assert said(victim(4)) == "attack=mine: pretend() gave a model of another architecture."
    assert said(replace(victim(), parameters=broken)).startswith("attack=mine gave a model that is not finite")
    own = SimpleNamespace(pretend=lambda demand: victim())
    assert torch.equal(pretended(own, SimpleNamespace(original=victim())).flat(), victim().flat())
