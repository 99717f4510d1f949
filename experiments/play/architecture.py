"""The victim's architecture from its configuration, with one sentence where that is wrong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from data import memory
from data.errors import UserError
from data.examples import Data
from data.paths import reason
from data.randomness import seeded
from data.signatures import parameters_of, takes
from experiments.cli.build import build

OURS = "models."  # the package of the toolkit's own architectures
BYTES = 16  # a parameter in training: its value, its gradient, its momentum and the copy that is kept, in float32


@dataclass(frozen=True, eq=False)
class Architecture:
    """Builds the module that the config `node` describes, each time from its options anew.

    `shape` and `classes` of the data are passed on to constructors that take them.
    """

    node: Mapping[str, Any]
    given: Mapping[str, Any]

    def __call__(self) -> nn.Module:
        """A fresh module, drawn from the global generators as they stand."""
        return build({**self.node, "_partial_": True}, "model")(**self.given)


def architecture_of(node: Mapping[str, Any], data: Data) -> tuple[Architecture, nn.Module]:
    """The architecture that the config `node` describes, for the examples of a data set, and one module of it.

    Raises UserError where the constructor refuses its options or fails, and for a model that cannot fit into memory.
    """
    given = {"shape": data.shape, "classes": len(data.classes)}
    with seeded(0):
        build({**node, "_partial_": True} if isinstance(node, Mapping) else node, "model")  # says what cannot be loaded
        _check_options(node)
        found = Architecture(node, {name: value for name, value in given.items() if takes(node["_target_"], name)})
        _check_size(found)
        return _constructed(found, data)


def _constructed(architecture: Architecture, data: Data) -> tuple[Architecture, nn.Module]:
    """The architecture with a module that it built; without what its constructor hands on where nobody takes it."""
    from experiments.cli.explain import construction

    target = architecture.node["_target_"]
    try:
        module: object = architecture()
        if not isinstance(module, nn.Module):
            raise UserError(f"model: {target} gives a {type(module).__name__}, and must give a torch.nn.Module.")
        return architecture, module
    except UserError:
        raise
    except Exception as error:
        unexpected = re.search(r"unexpected keyword argument '(shape|classes)'", str(error))
        if isinstance(error, TypeError) and unexpected and unexpected[1] in architecture.given:
            fewer = {name: value for name, value in architecture.given.items() if name != unexpected[1]}
            return _constructed(Architecture(architecture.node, fewer), data)
        known = construction(error, "model", target) if isinstance(error, TypeError) else None
        raise UserError(
            known
            or f"model: {target} cannot be built for examples of shape {tuple(data.shape)} and {len(data.classes)} "
            f"classes ({type(error).__name__}: {reason(error)[:200]}); HYDRA_FULL_ERROR=1 in the environment shows "
            "where."
        ) from error


def _check_options(node: Mapping[str, Any]) -> None:
    """Raise UserError for options that the constructor does not have, as `model._target_=...` may leave them."""
    target = node["_target_"]
    unknown = [name for name in map(str, node) if not name.startswith("_") and not takes(target, name)]
    if not unknown:
        return
    options = [name for name in parameters_of(target) or () if name not in ("shape", "classes", "self")]
    known = f"its options are {', '.join(options)}" if options else "it has no options"
    text = f"model: {target} has no option {' and no option '.join(map(repr, unknown))}; {known}"
    if target.startswith(OURS):
        raise UserError(f"{text}.")
    drop = " ".join(f"'~model.{name}'" for name in unknown)
    raise UserError(
        f"{text}: where they come from the option of the group model that was chosen, add {drop} to the command line, "
        f"or choose an option of your own."
    )


def _check_size(architecture: Architecture) -> None:
    """Raise UserError for a model that cannot be trained in this machine's memory, before any of it is taken."""
    try:
        with warnings.catch_warnings(), seeded(0), torch.device("meta"):
            warnings.simplefilter("ignore")
            module = architecture()
        count = sum(each.numel() for each in (*module.parameters(), *module.buffers()))
    except UserError:
        raise
    except Exception:  # a constructor that computes with its numbers cannot be run without them
        return
    there = memory.available()
    if count * BYTES > there:
        raise UserError(
            f"model: {count:,} parameters take {count * BYTES / 1e9:,.0f} GB in training, {BYTES} bytes each, and "
            f"there are {there / 1e9:,.0f} GB of free memory; choose smaller widths."
        )
