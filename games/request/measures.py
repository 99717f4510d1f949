"""What a metric of the request game measures in one direction of a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from games.game import Part, Values
from games.metric import number, whole
from games.request.direction import Direction
from games.request.effects import effects, fresh_effects, split_effects

Measure = Callable[[Direction], Values]
LEAST = 0.2  # of `moved`


def own(state: str, name: str) -> Measure:
    """A metric of the targets, judged with the victim's own seed."""
    return lambda of: of.own(state, name)


def models(state: str, name: str) -> Measure:
    """A metric of the models."""
    return lambda of: of.models(state, name)


def fresh(state: str, name: str) -> Measure:
    """A metric of the targets, averaged over fresh seeds."""
    return lambda of: of.fresh(state, name)


def minus(first: Values, second: Values, sign: int = 1) -> Values:
    """The differences of the units that both have."""
    return {unit: sign * (first[unit] - second[unit]) for unit in first if unit in second}


def difference(first: Measure, second: Measure) -> Measure:
    """One measure less another."""
    return lambda of: minus(first(of), second(of))


def gain(state: str) -> Measure:
    """Change of confidence since before, as the attacker wants it."""
    return lambda of: minus(of.own(state, "confidence"), of.own("before", "confidence"), of.sign)


def moved(state: str) -> Measure:
    """1 where that is at least LEAST and the label is kept."""

    def measure(of: Direction) -> Values:
        kept = of.own(state, "kept")
        return {unit: float(gain >= LEAST and kept[unit] == 1) for unit, gain in gain(state)(of).items()}

    return measure


def flipped(state: str) -> Measure:
    """1 where the label is lost."""
    return lambda of: {unit: 1 - kept for unit, kept in of.own(state, "kept").items()}


def effect(state: str) -> Measure:
    """What was attained in a state less what its control attained."""
    return lambda of: of.by_target(effects(of.record, state, of.mine))


def fresh_effect(state: str) -> Measure:
    """The same with fresh seeds."""

    def measure(of: Direction) -> Values:
        return {} if of.record["fresh_seeds"] is None else of.by_target(fresh_effects(of.record, state, of.mine))

    return measure


def wanted_effect(of: Direction) -> Values:
    """Confidence after the attack less after the random request, as wanted."""
    return minus(of.own("after", "confidence"), of.own("random", "confidence"), of.sign)


def gain_kept(of: Direction) -> Values:
    """The same, of the targets that keep their label."""
    kept = of.own("after", "kept")
    return {unit: gain for unit, gain in wanted_effect(of).items() if kept[unit] == 1}


def counted(state: str) -> Measure:
    """Gains of a state, in which confidence gained does not count where the label is lost."""

    def measure(of: Direction) -> Values:
        kept = of.own(state, "kept")
        return {unit: gain if kept[unit] == 1 else min(gain, 0.0) for unit, gain in gain(state)(of).items()}

    return measure


def fresh_gain(of: Direction) -> Values:
    """`wanted_effect` with fresh seeds."""
    return minus(of.fresh("after", "confidence"), of.fresh("random", "confidence"), of.sign)


def detected(*path: str) -> Measure:
    """A number of what the filter did."""
    return lambda of: of.detection(*path)


def split(state: str, name: str) -> Measure:
    """A metric of the targets after requests (`attack`), or their controls (`random`), that are split."""

    def measure(of: Direction) -> Values:
        found = of.record["detection"].get("split")
        return {} if found is None else of.targets(found[state], name)

    return measure


def split_effect(of: Direction) -> Values:
    """What split requests attained less what their controls did, through the filter."""
    found = of.record["detection"].get("split")
    return {} if found is None else of.by_target(split_effects(of.record, of.mine))


def split_detected(*path: str) -> Measure:
    """A number of what the filter did with split requests."""
    return lambda of: {} if of.record["detection"].get("split") is None else of.detected("split", of.name, *path)


def benign_only(which: int) -> Measure:
    """The mean share rejected in benign batches of the first or second kind."""

    def measure(of: Direction) -> Values:
        kinds: list[Sequence[float]] = list(of.record["detection"]["benign_rejected"].values())
        if of.record["detection"]["defense"] == "none" or len(kinds) <= which:
            return {}
        return whole(sum(kinds[which]) / len(kinds[which]))

    return measure


def of_record(name: str) -> Measure:
    """A number of the whole game."""
    return lambda of: whole(number(of.record[name]))


def seconds(stage: str) -> Measure:
    """Seconds of a stage."""
    return lambda of: whole(number(of.record["seconds"].get(stage)))  # retraining may be left out


def relative_seconds(of: Direction) -> Values:
    """Seconds of forgetting over those of retraining."""
    seconds = of.record["seconds"]
    return whole(seconds["forget_one"] / seconds["retrain_one"] if "retrain_one" in seconds else None)


def requested(of: Direction) -> Values:
    """Mean size of the requests."""
    sizes = [len(of.record["requests"][goal]["indices"]) for goal in of.goals]
    return whole(sum(sizes) / len(sizes))


def requested_share(of: Direction) -> Values:
    """The same as a share of the training records; undefined in records that do not say how many there are."""
    records = of.record.get("records")
    return {} if records is None else {unit: size / records for unit, size in requested(of).items()}


def trials(part: Part) -> int:
    """Targets that share a request share a model, so that only their mean counts."""
    of = cast(Direction, part)
    return len(of.mine) if len(of.mine) == len(of.goals) else 0


STAGES = ("victim", "attack", "judgement")  # of a game; its other seconds are those of single requests, among these


def queries(of: Direction) -> Values:
    """Black-box queries over requests."""
    return whole(of.record["queries"] / len(of.record["requests"]))


def memory(of: Direction) -> Values:
    """Peak memory of the process in MB."""
    return whole(number(of.record["memory_mb"]["peak"]))


def all_seconds(of: Direction) -> Values:
    """Seconds of all stages."""
    return whole(float(sum(of.record["seconds"][stage] for stage in STAGES)))


def in_sequence(of: Direction) -> Values:
    """The relative distance to retraining of a request in two halves."""
    return whole(number(of.record["in_sequence"].get("relative_distance")))
