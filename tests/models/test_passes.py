"""Passes are bounded by what models put out, and by their parameters."""

from types import SimpleNamespace

import pytest
import torch

import models.passes
from models.passes import ACTIVATIONS, INFERENCE_ROWS, activations, models_at_once, passes, room
from models.victim import stack
from tests.models.test_victim import inputs, victim


@pytest.mark.parametrize("numbers", [1, 11, 30, 100, 2**24])
def test_no_pass_puts_out_more_than_there_is_room_for(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models times inputs times what layers put out, unless one model with one input puts out more."""
    ensemble, x = stack([victim(seed) for seed in range(7)]), inputs(10)
    each, expected = activations(ensemble, x), ensemble.logits(x)
    monkeypatch.setattr(models.passes, "ACTIVATIONS", numbers)
    which, parts = passes(ensemble, x, INFERENCE_ROWS, 7, count=2)
    assert [k for some in which for k in range(some.start, some.stop)] == list(range(7))
    assert [k for part in parts for k in range(part.start, part.stop)] == list(range(10))
    largest = (which[0].stop - which[0].start) * (parts[0].stop - parts[0].start)
    assert 2 * largest * each <= max(numbers, 2 * each)
    torch.testing.assert_close(ensemble.logits(x), expected, rtol=1e-12, atol=1e-12)


def test_models_held_at_once_have_no_more_parameters_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = victim(0)
    size = model.flat().numel()
    for numbers, expected in ((1, 1), (size, 1), (3 * size, 3), (4 * size - 1, 3)):
        monkeypatch.setattr(models.passes, "ACTIVATIONS", numbers)
        assert models_at_once(model) == models_at_once(stack([model] * 5)) == expected


def test_a_gpu_gives_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixteenth of its memory, four bytes a number; never less than elsewhere."""
    assert room(torch.device("cpu")) == ACTIVATIONS
    for gigabytes, numbers in ((80, 80 * 2**30 // 16 // 4), (0.5, ACTIVATIONS)):
        properties = SimpleNamespace(total_memory=int(gigabytes * 2**30))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=properties: found)
        assert room(torch.device("cuda:1")) == numbers


def test_no_inputs_tell_the_size_of_one() -> None:
    model, x = victim(0), inputs(3)
    assert activations(model, x[:0]) == activations(victim(0), x) == 4 + 4 + 3
