"""What goes wrong inside a module, as one sentence: in which layer, what torch said, and the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from data.errors import UserError

WAYS_OUT = {  # words of what torch says, or of the layer, and what to do about it
    ("gru", "lstm", "rnn"): (
        "write the recurrence with linear layers, or as a loop over nn.GRUCell or nn.RNNCell whose first state is "
        "torch.zeros_like(...) of something computed from the input"
    ),
    ("saved tensor hooks",): "do without torch.utils.checkpoint",
    (".item()", "data-dependent control flow", "numpy()", "data pointer", "access storage"): (
        "compute with tensors alone: no .item(), float() or .numpy() of one, and no `if` on its values, among which "
        "torch.where chooses"
    ),
    ("inplace", "in-place", "in place"): "write x = x + y in place of x += y or x.add_(y)",
    ("autograd.function", "setup_context"): (
        "give the torch.autograd.Function a setup_context, a jvp and generate_vmap_rule = True, or do without it"
    ),
    ("randomness",): "draw in training mode only, `if self.training`",
    ("forward ad", "derivative for", "not implemented", "jvp"): "use operations that can be differentiated twice",
}


@contextmanager
def explained(what: str, module: nn.Module, again: Callable[[], object] | None = None) -> Iterator[None]:
    """Whatever is raised inside becomes one sentence with the layer that raised it.

    Hooks may change what torch does (its attention has a fast path without them), so where `again` is given they are
    set only when it runs once more, after a failure.
    """
    layers: list[str] = []
    try:
        if again is not None:
            yield
        else:
            with watched(module, layers.append, lambda name, given, out: layers.pop()):
                yield
    except UserError:
        raise
    except Exception as error:
        layers = layers if again is None else _at_work(module, again)
        layer = named(module, layers[-1] if layers else "")
        text = f"{type(error).__name__} {error} {layer}".lower()
        ways = (way for words, way in WAYS_OUT.items() if any(word in text for word in words))
        advice = next(ways, "HYDRA_FULL_ERROR=1 in the environment shows where")
        raise UserError(f"model: it {what}, in {layer} ({first_sentence(error)}); {advice}.") from error


def _at_work(module: nn.Module, run: Callable[[], object]) -> list[str]:
    """The layers that were at work, from the outermost, when `run` failed."""
    layers: list[str] = []
    with watched(module, layers.append, lambda name, given, out: layers.pop()):
        try:
            run()
        except Exception:
            return layers
    return []


@contextmanager
def watched(
    module: nn.Module, begin: Callable[[str], object], end: Callable[[str, Any, Any], object]
) -> Iterator[None]:
    """Call `begin` before the forward pass of every layer and `end` after it, with what it took and gave.

    Where the pass fails `end` is not called.
    """

    def hooks(name: str, part: nn.Module) -> list[RemovableHandle]:
        def before(module: nn.Module, given: object) -> None:
            begin(name)

        def after(module: nn.Module, given: object, out: object) -> None:
            end(name, given, out)

        return [part.register_forward_pre_hook(before), part.register_forward_hook(after)]

    handles = [handle for name, part in module.named_modules() for handle in hooks(name, part)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def named(module: nn.Module, name: str) -> str:
    """How to speak of the layer `name` of a module, "" being the module itself."""
    kind = type(module.get_submodule(name)).__name__
    return f"its layer {name!r} ({kind})" if name else f"the forward pass of {kind} itself"


def first_sentence(error: BaseException) -> str:
    """The kind of an error, and what it says first."""
    lines = str(error).strip().splitlines()
    said = lines[0].partition(". ")[0].rstrip(".:")[:160] if lines else ""
    return ": ".join(filter(None, (type(error).__name__, said)))
