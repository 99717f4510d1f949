"""Verifying a proof that somebody handed over: with one's own records and machine, without the provider."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from data.errors import UserError
from data.examples import Data, Examples
from data.machine import MOST_THREADS, be_deterministic, use_device, use_threads
from data.paths import is_folder, reason
from models.training import Build
from models.trial import try_out
from proofs.audits import CHECKS, checked_names
from proofs.checking import Checked, check_proof
from proofs.commitment import DIGEST, NOTHING, digests
from proofs.header import Architecture, Records
from proofs.outcome import Outcome
from proofs.problems import Expected, Problem
from proofs.reader import Proof, open_proof
from proofs.replay import Replay

Whole = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Positive = Annotated[int, Field(ge=1, le=MOST_THREADS, strict=True)]
ALWAYS = ("architecture", "complete")  # without them nothing else means anything
OURS = "models."
PLAIN = re.compile(r"[\w.-]*")  # what an option of an architecture may be, and no expression


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Asked:
    """What a verifier asks; `conf/verify.yaml` explains each."""

    deleted: list[Whole] | str | None
    order: Whole | None
    checks: Literal["all"] | list[str]
    queries: Whole
    tolerance: Annotated[float, Field(ge=0, strict=True)] | None
    workers: Literal["auto"] | Positive
    threads: Literal["auto"] | Positive
    device: str
    json: str | None


@plain_dataclass(frozen=True, eq=False)
class Supplied:
    """What whoever runs a verification supplies to it.

    `load` gives the data set of a configuration and `build` the architecture of a configuration `model` with a module
    of it; `ours` are the configurations of our own architectures, each with every option that it has.
    """

    load: Callable[[Mapping[str, Any]], Data]
    build: Callable[[Mapping[str, Any], Data], tuple[Build, nn.Module]]
    ours: Sequence[Mapping[str, Any]]


def verify(config: Mapping[str, Any], supplied: Supplied) -> int:
    """Verify the proof that a configuration names and print the result; returns 0, or 1 where it does not verify.

    Raises UserError for what is no proof, or cannot be read as one, and for what was asked wrongly.
    """
    began = perf_counter()
    proof = open_proof(_place(config["proof"]))
    proof.check_files()
    asked = Asked(**{each.name: config[each.name] for each in fields(Asked)})  # type: ignore[arg-type]
    _check_output(asked.json)
    device, workers = _machine(asked, proof)
    if config.get("data") is None:
        raise UserError(f"Name the data that the proof is about, as in data=mnist; it calls them {_called(proof)}.")
    expected, data, skipped = _expected(config, asked, proof, supplied, device)
    outcome = Outcome(proof, data.name, len(expected.deleted), asked.deleted is not None)
    print(outcome.heading, flush=True)
    names = [name for name in dict.fromkeys((*ALWAYS, *_names(asked))) if name not in skipped]
    found = _checked(proof, expected, names, asked, workers, skipped)
    outcome = outcome.ended(found, names, skipped, asked.tolerance is not None, perf_counter() - began)
    print(outcome.result)
    if asked.json is not None:
        _write(asked.json, outcome.content())
    return 0 if outcome.verifies else 1


def _place(proof: object) -> Path:
    if isinstance(proof, str) and proof.strip():
        return Path(proof)
    raise UserError(f"Name one proof: python experiments/verify.py PROOF data=NAME; it is {proof!r:.60} now.")


def _called(proof: Proof) -> str:
    said = proof.header.records
    return f"{said.name or 'nothing'}: {said.n:,} records of shape {said.shape}"


def _check_output(file: str | None) -> None:
    if file is not None and (not file.strip() or not is_folder(Path(file).parent) or is_folder(Path(file))):
        raise UserError(f"json={file} is no place for a file; name one in a folder that is there.")


def _machine(asked: Asked, proof: Proof) -> tuple[torch.device, int]:
    """The device, and the workers; of what is `auto` that with which the proof was made, so that replays are exact."""
    said, cores = proof.header.machine, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    made = said.get("threads")
    threads = asked.threads
    if threads == "auto":
        threads = made if isinstance(made, int) and 1 <= made <= cores else 1
    device = use_device("cpu" if asked.device == "auto" and said.get("device") == "cpu" else asked.device)
    use_threads(threads)
    be_deterministic(device)
    several = cores if threads == 1 and device.type == "cpu" else 1
    return device, several if asked.workers == "auto" else asked.workers


def _names(asked: Asked) -> list[str]:
    return list(CHECKS) if asked.checks == "all" else checked_names(asked.checks)


def _expected(
    config: Mapping[str, Any], asked: Asked, proof: Proof, supplied: Supplied, device: torch.device
) -> tuple[Expected, Data, dict[str, str]]:
    """What the verifier holds against the proof, and why some checks cannot be made, by name."""
    order = proof.header.order if asked.order is None else asked.order
    skipped = _impossible(proof, order)
    if asked.checks != "all":
        for name in set(_names(asked)) & skipped.keys():
            raise UserError(f"checks: {name} cannot be checked, since {skipped[name]}; leave it out.")
    if (model := config.get("model")) is None:
        model = node_of(proof.header.architecture, supplied.ours)
    data = supplied.load(config)
    check_records(proof.header.records, data)
    deleted = positions(asked.deleted, len(data.train), proof)
    build, module = supplied.build(model, data)
    if not type(module).__module__.startswith(OURS):
        try_out(build, data.train, len(data.classes), derivatives=False)
    return Expected(data.train.to(device), deleted, build, order=order), data, skipped


def _impossible(proof: Proof, order: int | None) -> dict[str, str]:
    found = {"final": "the released model is not here", "distance": "the model before deletion is not here"}
    if order is None:
        found["order"] = "nobody gave a seed for the order of the records"
    else:
        found["random_order"] = "the order follows from a seed, which the check order is about"
    if proof.header.begins == "model":
        found["initialisation"] = "it begins with the model before deletion, which is not here"
        found["initial_distribution"] = "it begins with the model before deletion"
    return found


def node_of(said: Architecture, ours: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The configuration of the architecture that a proof names, if it is one of `ours`, with options that it has.

    Raises UserError for any other: what a proof names is not looked up anywhere else.
    """
    if said.name is None:
        raise UserError("The proof is of an architecture that is none of ours; give yours with model=NAME.")
    nodes = {str(node["_target_"]).removeprefix(OURS): node for node in ours}
    if said.name not in nodes:
        raise UserError(
            f"The proof names the architecture {said.name!r:.60}, and ours are {', '.join(nodes)}; give yours with "
            "model=NAME."
        )
    known = [name for name in nodes[said.name] if not name.startswith("_")]
    for name, value in said.options.items():
        words = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
        if name not in known or not all(map(PLAIN.fullmatch, words)):
            raise UserError(
                f"The proof says {name}={value!r} of {said.name}, whose options are {', '.join(known) or 'none'}; give "
                "the architecture with model=NAME."[:400]
            )
    return {"_target_": f"{OURS}{said.name}", "_partial_": True, **said.options}


def check_records(said: Records, data: Data) -> None:
    """Raise UserError where the data set cannot be what a proof is about, whatever the hashes of its records are."""
    if (said.n, said.shape) != (len(data.train), data.shape):
        raise UserError(
            f"The proof is about {said.n:,} records of shape {said.shape} ({said.name:.60}), and data={data.name} has "
            f"{len(data.train):,} of shape {data.shape}; choose the data, and their settings, that were trained on."
        )


def positions(asked: list[int] | str | None, n: int, proof: Proof) -> Tensor:
    """The positions (d,) of deleted records: a list, or that in a file, or what the proof says. Raises UserError."""
    found: object = list(proof.header.deleted) if asked is None else asked
    if isinstance(asked, str):
        try:
            found = json.loads(Path(asked).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"deleted={asked} cannot be read ({reason(error)}); it is a list, as [3,17].") from error
    if not isinstance(found, list) or not all(type(each) is int for each in found):
        raise UserError(f"deleted={asked!s:.60} has no list of positions; write [3,17].")
    for each in found:
        if not 0 <= each < n:
            raise UserError(f"deleted has {each:,}, and records have the positions 0 to {n - 1:,}.")
    return torch.tensor(sorted(set(found)), dtype=torch.long)


def _checked(
    proof: Proof, expected: Expected, names: list[str], asked: Asked, workers: int, skipped: dict[str, str]
) -> Checked:
    """What is found; of other records than those of the proof only that, since nothing else would mean anything."""
    if "commitment" in names and (other := other_records(proof, expected.records)) is not None:
        skipped |= dict.fromkeys((*(n for n in names if n != "commitment"), "replay"), "the records are other ones")
        return Checked((other,), Replay(), asked.tolerance or 0.0)
    return check_proof(proof, expected, names, asked.queries, asked.tolerance, workers)


def other_records(proof: Proof, records: Examples) -> Problem | None:
    """The first record that is not the one at its position in the proof; those without a hash there may be any."""
    own, said = digests(records), proof.hashes()
    rows = range(0, len(said), DIGEST)
    differ = [i for i in rows if said[i : i + DIGEST] not in (own[i : i + DIGEST], NOTHING)]
    if not differ:
        return None
    first = differ[0] // DIGEST
    return Problem(
        "commitment", None, "records", f"Record {first:,} of the data is not record {first:,} of the proof; of "
        f"{len(rows):,} records {len(differ):,} differ."
    )  # fmt: skip


def _write(file: str, content: dict[str, Any]) -> None:
    try:
        Path(file).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"json={file} cannot be written ({reason(error)}); name another file.") from error
