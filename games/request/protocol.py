"""What a result of a request game has to say of how it came about, in one sentence for a terminal and a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from data.naming import option
from metrics.wording import count

NORMS = {"linf": "l-infinity", "l2": "l2"}


def protocol(records: Sequence[Mapping[str, Any]]) -> str:
    """Who knew what, how much was asked for, in which form, what the server did with it, and the seconds it took."""
    first = records[0]
    attack, requests = first["config"]["attack"], first["requests"]
    said = [str(attack.get("access", "")).replace("_", "-") + " access" if "access" in attack else ""]
    if "budget" in attack:
        share = 100 * attack["budget"] / first["records"]
        said.append(f"at most {attack['budget']} of {first['records']:,} training records a request ({share:.2g}%)")
    said.append(_form(attack, any("copies" in request for request in requests)))
    said.append(_handed_in(attack, first.get("handed_in", 0)))
    if any("copies" in request for request in requests):
        own = first["config"]["game"]["service"]["record"] == "own"
        said.append("the server deletes its own records" if own else "the server computes with the copies")
    seconds = [fmean(record["seconds"][stage] for record in records) for stage in ("attack", "judgement")]
    said.append(f"{seconds[0]:.1f} s for {count(len(requests), 'request')}, {seconds[1]:.1f} s to judge them")
    return f"Protocol: {option(first['config'], 'attack')}, {'; '.join(each for each in said if each)}."


def _form(attack: Mapping[str, Any], copies: bool) -> str:
    """What requests are made of: stored records, or copies, with the ball that these lie in where one is set."""
    if not copies:
        return "stored records"
    ball = attack.get("copies", attack)
    if "radius" not in ball:
        return "copies of records"
    return f"copies of records {_within(ball)}"


def _handed_in(attack: Mapping[str, Any], count: int) -> str:
    """How many of the records that requests name the attacker had handed in, and how far they were moved at most."""
    if not count:
        return ""
    said = f"{count:,} of those that are named were handed in before training"
    ball = {**attack["matching"], "norm": "linf"} if attack.get("method") == "matching" else attack
    return f"{said}, {_within(ball)} of what they were" if "radius" in ball else said


def _within(ball: Mapping[str, Any]) -> str:
    """The ball around a record, by its settings."""
    return f"within {ball['radius']:g} in {NORMS.get(ball.get('norm', 'l2'), ball.get('norm'))}"
