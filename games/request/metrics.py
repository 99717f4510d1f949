"""From the record of a game to what a table shows and a claim compares: numbers per target, or per seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

from games.request.effects import FRESH, STATES, effects, fresh_effects
from games.request.part import Game, Values, game, whole
from games.request.row import STAGES, number

PER_TARGET = ("confidence", "entropy", "kept", "attained", "success")
LEAST = 0.2  # of `moved_STATE`
PER_MODEL = (
    "accuracy", "ece", "adaptive_ece", "brier", "nll", "auroc_of_confidence", "conformal_coverage",
    "conformal_set_size", "mean_confidence", "mean_entropy",
)  # fmt: skip
FORGETTING = (
    "accuracy_deleted", "accuracy_retained", "distance", "relative_distance", "prediction_distance", "disagreement",
    "certified", "certificate_bound", "certificate_epsilon",
)  # fmt: skip
CHANGED = tuple(state for state in STATES if state != "before")


def measure(record: Mapping[str, Any], direction: str, metric: str) -> Values:
    """The metric, one of `known()`, of one game and direction, by unit; units where it is not defined are left out."""
    return known()[metric](game(record, direction))


@cache
def known() -> dict[str, Callable[[Game], Values]]:
    """Every metric that a table may name.

    STATE is one of before, after (the attack alone), random and nearest (controls of the same size: random records, the
    nearest to the targets), stream (attack and benign requests, no filter), defended (what the filter accepted),
    stream_random and defended_random (the random control treated alike), processed (quarantine processed too), benign.

    * Of targets: `confidence_STATE` of the label predicted before, `entropy_STATE` in nats, `kept_STATE` (1 where the
      label is kept); `confidence_change_STATE`, `entropy_change_STATE` since before; `gain_STATE`, the change of
      confidence that was wanted (positive is as wanted); `moved_STATE`, 1 where the gain is >= 0.2 and the label kept;
      `flipped_STATE`, 1 where the label is lost. By the attack's own goal, which its record names: `success_STATE`, 1
      or 0; `attained_STATE`, how much of it; `effect`, attained after the attack - after a random request of the same
      size; `effect_defended`, the same where both went through the filter. Of any attack: `gain`, confidence after the
      attack - after the random request, as wanted; `gain_kept`, of the targets that keep their label; `gain_counted`,
      of all, where confidence that was gained does not count on either side if the label is lost.
    * With fresh seeds: `fresh_confidence_STATE` and the others of targets for the states nothing, after, random,
      defended, defended_random; `fresh_effect`, `fresh_effect_defended`, `fresh_gain`.
    * Of models: `accuracy_STATE`, `ece_STATE` and the other metrics; `accuracy_change_STATE` and so on since before.
    * Of forgetting, for the states after and random: `accuracy_deleted_STATE`, `accuracy_retained_STATE` (training
      records); against plain retraining `distance_STATE` of parameters, `relative_distance_STATE` (1 is what doing
      nothing gives), `prediction_distance_STATE` (total variation on test inputs), `disagreement_STATE`;
      `relative_distance_in_sequence`, a request in two halves; `certified_STATE`, `certificate_bound_STATE`,
      `certificate_epsilon_STATE`; `seconds_forget_one`, `seconds_retrain_one`, `relative_seconds`, their ratio.
    * Of the filter: `auroc`, `tpr_at_1`, `tpr_at_5`, `caught`, `benign_rejected`, `auroc_S1`, `auroc_S8`,
      `benign_only_rejected`, and of a harder benign population `harder_only_rejected`.
    * Costs, of the whole game: `queries`, `predictions`, `operator_calls`, `seconds`, `seconds_attack`,
      `seconds_judgement`; `queries_per_request`; `requested`, deletions of a request.
    """
    found: dict[str, Callable[[Game], Values]] = {}
    for state in STATES:
        for metric in PER_TARGET:
            found[f"{metric}_{state}"] = partial(Game.own, state=state, metric=metric)
        for metric in PER_MODEL:
            found[f"{metric}_{state}"] = partial(Game.models, state=state, metric=metric)
    for state in CHANGED:
        for metric in ("confidence", "entropy"):
            found[f"{metric}_change_{state}"] = partial(_changed, state=state, metric=metric)
        for metric in PER_MODEL:
            found[f"{metric}_change_{state}"] = partial(_model_changed, state=state, metric=metric)
        found |= {
            f"gain_{state}": partial(_gain, state=state), f"moved_{state}": partial(_moved, state=state),
            f"flipped_{state}": partial(_flipped, state=state),
        }  # fmt: skip
    for state in ("after", "random"):
        for metric in FORGETTING:
            found[f"{metric}_{state}"] = partial(Game.models, state=state, metric=metric)
    for state in FRESH:
        for metric in PER_TARGET:
            found[f"fresh_{metric}_{state}"] = partial(Game.fresh, state=state, metric=metric)
    found |= {"gain": _wanted_effect, "gain_kept": _gain_kept, "gain_counted": _gain_counted, "fresh_gain": _fresh_gain}
    for name, state in (("effect", "after"), ("effect_defended", "defended")):
        found |= {name: partial(_effect, state=state), f"fresh_{name}": partial(_fresh_effect, state=state)}
    for name in ("auroc", "tpr_at_1", "tpr_at_5"):
        found[name] = partial(_detected, path=("decision", name))
    found |= {name: partial(_detected, path=(name,)) for name in ("caught", "benign_rejected")}
    found |= {f"auroc_{score}": partial(_detected, path=(score, "auroc")) for score in ("S1", "S8")}
    found |= {"requested": _requested, "queries_per_request": _queries}
    for which, name in enumerate(("benign_only_rejected", "harder_only_rejected")):
        found[name] = partial(_benign_only, which=which)
    for name in ("queries", "predictions", "operator_calls"):
        found[name] = partial(_count, name=name)
    found |= {
        f"seconds_{stage}": partial(_seconds, stage=stage)
        for stage in ("attack", "judgement", "forget_one", "retrain_one")
    }
    found |= {"relative_seconds": _relative_seconds, "relative_distance_in_sequence": _in_sequence}
    return found | {"seconds": _all_seconds}


def _minus(first: Values, second: Values, sign: int = 1) -> Values:
    return {unit: sign * (first[unit] - second[unit]) for unit in first if unit in second}


def _changed(of: Game, state: str, metric: str) -> Values:
    return _minus(of.own(state, metric), of.own("before", metric))


def _model_changed(of: Game, state: str, metric: str) -> Values:
    return _minus(of.models(state, metric), of.models("before", metric))


def _gain(of: Game, state: str) -> Values:
    return _minus(of.own(state, "confidence"), of.own("before", "confidence"), of.sign)


def _moved(of: Game, state: str) -> Values:
    kept = of.own(state, "kept")
    return {unit: float(gain >= LEAST and kept[unit] == 1) for unit, gain in _gain(of, state).items()}


def _flipped(of: Game, state: str) -> Values:
    return {unit: 1 - kept for unit, kept in of.own(state, "kept").items()}


def _effect(of: Game, state: str) -> Values:
    return of.by_target(effects(of.record, state, of.mine))


def _wanted_effect(of: Game) -> Values:
    return _minus(of.own("after", "confidence"), of.own("random", "confidence"), of.sign)


def _gain_kept(of: Game) -> Values:
    kept = of.own("after", "kept")
    return {unit: gain for unit, gain in _wanted_effect(of).items() if kept[unit] == 1}


def _gain_counted(of: Game) -> Values:
    return _minus(_counted(of, "after"), _counted(of, "random"))


def _counted(of: Game, state: str) -> Values:
    kept = of.own(state, "kept")
    return {unit: gain if kept[unit] == 1 else min(gain, 0.0) for unit, gain in _gain(of, state).items()}


def _fresh_effect(of: Game, state: str) -> Values:
    if of.record["fresh_seeds"] is None:
        return {}
    return of.by_target(fresh_effects(of.record, state, of.mine))


def _fresh_gain(of: Game) -> Values:
    return _minus(of.fresh("after", "confidence"), of.fresh("random", "confidence"), of.sign)


def _detected(of: Game, path: Sequence[str]) -> Values:
    return of.detection(*path)


def _benign_only(of: Game, which: int) -> Values:
    kinds: list[list[float]] = list(of.record["detection"]["benign_rejected"].values())
    if of.record["detection"]["defense"] == "none" or len(kinds) <= which:
        return {}
    rates = kinds[which]
    return whole(sum(rates) / len(rates))


def _requested(of: Game) -> Values:
    sizes = [len(of.record["requests"][aim]["indices"]) for aim in of.aims]
    return whole(sum(sizes) / len(sizes))


def _queries(of: Game) -> Values:
    return whole(of.record["queries"] / len(of.record["requests"]))


def _count(of: Game, name: str) -> Values:
    return whole(number(of.record[name]))


def _seconds(of: Game, stage: str) -> Values:
    return whole(number(of.record["seconds"].get(stage)))  # retraining may be left out


def _all_seconds(of: Game) -> Values:
    return whole(float(sum(of.record["seconds"][stage] for stage in STAGES)))


def _relative_seconds(of: Game) -> Values:
    seconds = of.record["seconds"]
    return whole(seconds["forget_one"] / seconds["retrain_one"] if "retrain_one" in seconds else None)


def _in_sequence(of: Game) -> Values:
    return whole(number(of.record["in_sequence"].get("relative_distance")))
