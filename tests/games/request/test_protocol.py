"""The sentence of a result that says how it came about."""

from __future__ import annotations

from typing import Any

from games.request.protocol import protocol


def record(attack: dict[str, Any], own: bool = False, copies: bool = False, attack_s: float = 1.0) -> dict[str, Any]:
    request: dict[str, Any] = {"indices": [1, 2], **({"copies": "0f"} if copies else {})}
    config = {"attack": attack, "game": {"service": {"record": "own" if own else "submitted"}}}
    return {
        "config": config, "requests": [request] * 3, "records": 2000, "seconds": {"attack": attack_s, "judgement": 5.0}
    }  # fmt: skip


ATTACK = {"_target_": "attacks.requester.misclassification.Misclassification", "budget": 30, "access": "black_box"}


def test_stored_records() -> None:
    """Seconds are means over games; the share is that of the budget."""
    said = protocol([record(ATTACK, attack_s=1.0), record(ATTACK, attack_s=2.0)])
    assert said == (
        "Protocol: misclassification, black-box access; at most 30 of 2,000 training records a request (1.5%); stored "
        "records; 1.5 s for 3 requests, 5.0 s to judge them."
    )


def test_copies_and_what_the_server_does_with_them() -> None:
    ball = {**ATTACK, "copies": {"norm": "linf", "radius": 0.3}}
    assert "copies of records within 0.3 in l-infinity; the server computes" in protocol([record(ball, copies=True)])
    pushed = protocol([record({**ATTACK, "radius": 20.0}, own=True, copies=True)])
    assert "copies of records within 20 in l2; the server deletes its own records" in pushed
    assert "; copies of records; the" in protocol([record(ATTACK, copies=True)])


def test_an_attack_without_access_and_budget() -> None:
    said = protocol([record({"_target_": "attacks.none.NoAttack"})])
    assert said == "Protocol: none, stored records; 1.0 s for 3 requests, 5.0 s to judge them."


def test_rows_that_were_handed_in_and_their_ball() -> None:
    moved = record({**ATTACK, "radius": 0.5, "norm": "l2"}) | {"handed_in": 12}
    assert "stored records; 12 of those that are named were handed in before training, within 0.5 in l2 of" in protocol(
        [moved]
    )
    matching = {**ATTACK, "method": "matching", "matching": {"radius": 0.3}}
    assert "within 0.3 in l-infinity of what they were" in protocol([record(matching) | {"handed_in": 3}])
    anywhere = protocol([record({**matching, "method": "near"}) | {"handed_in": 3}])
    assert "handed in before training; 1.0 s" in anywhere
