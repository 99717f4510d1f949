"""Writing into what is lent is noticed, through views too; reading and writing into copies is not."""

import pytest
import torch

from data.errors import UserError
from data.untouched import untouched


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.zero_(), lambda x: x.sub_(1), lambda x: x[0].fill_(2), lambda x: x.__setitem__(0, 1.0),
        lambda x: x.flatten().mul_(0), lambda x: x.detach().add_(1),
    ],
)  # fmt: skip
def test_every_way_of_writing_is_named(write):
    x, y = torch.ones(3, 2), torch.zeros(3)
    lent = untouched("attack=mine", {"y": y, "aims.x": x})
    with pytest.raises(UserError, match=r"attack=mine writes into aims\.x"), lent:
        write(x)


def test_reading_and_copies_are_free():
    x = torch.ones(3, 2)
    with untouched("attack=mine", {"x": x}):
        (x - 1).zero_()
        x.clone().zero_()
        x[torch.tensor([0, 1])].zero_()  # indexing by a tensor copies
        x.sum()
