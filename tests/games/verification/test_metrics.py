"""The metrics of the verification game: they are defined where a record has their numbers, and nowhere else."""

import math

import pytest

from games.game import Part
from games.verification.metrics import METRICS

VALUES = {"released": 0.9, "original": 0.95, "naive": 0.8, "equal": 0.85, "equal_to_original": 0.87}
RECORD = {
    "verdict": {
        "passed": False, "statistic": 12.0, "threshold": "inf", "level": None, "power": 0.5, "p_value": 0.01,
        "details": {"hit_rate": [0.1, 0.2, "nan"], "p": [0.9, 0.8, 0.7], "rejected": [True, False, False]},
    },
    "worth": {
        name: {
            **{place: {"accuracy": value, "macro_f1": value / 2} for place in ("test", "deleted", "retained")},
            "membership": value,
        }
        for name, value in VALUES.items()
    },
    "errors": None,
    "cost": {"provider_gradients": 50, "provider_updates": 5, "naive_gradients": 100, "naive_updates": 10,
             "verification_gradients": 25, "verification_predictions": 7},
    "seconds": {"provider": 1.0, "naive": 4.0, "verification": 0.5},
    "proof": None,
}  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}


def values(name, record=RECORD):
    return BY_NAME[name].values(Part("all", "", record))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("passes", {"all": 0.0}),
        ("statistic", {"all": 12.0}),
        ("threshold", {}),
        ("level", {}),
        ("hit_rate", {"all": 0.15}),
        ("users_rejecting", {"all": 1 / 3}),
        ("relative_gradients", {"all": 0.5}),
        ("relative_seconds", {"all": 0.25}),
        ("proof_megabytes", {}),
        ("error_p50", {}),
        ("exact", {}),
        ("distance_to_naive", {}),
    ],
)
def test_values(name, expected):
    assert values(name) == pytest.approx(expected)


def test_what_is_kept_is_over_retraining_with_as_many_updates():
    assert values("retained_information")["all"] == pytest.approx(0.9 - 0.85)
    assert values("retained_information_original")["all"] == pytest.approx(0.95 - 0.87)
    assert values("test_gain")["all"] == pytest.approx(0.05)
    assert values("retained_membership")["all"] == pytest.approx(0.05)


def test_names_are_unique_and_help_says_what_they_are():
    assert len(BY_NAME) == len(METRICS)
    assert all(metric.help.endswith(".") and metric.help[0] != " " for metric in METRICS)


def test_errors_and_proofs_are_read():
    errors = {"all": {"p50": 1e-4, "zero": 0.5, "n": 4}, "overlap": 0.25, "relative": {"p50": 0.1}}
    record = {**RECORD, "errors": errors, "proof": {"bytes": 2_500_000, "steps": 12, "folder": None}}
    assert values("error_p50", record) == {"all": 1e-4}
    assert values("error_relative_p50", record) == {"all": 0.1}
    assert values("overlap", record) == {"all": 0.25}
    assert values("exact", record) == {"all": 0.5}
    assert values("proof_megabytes", record) == {"all": 2.5}
    assert not any(map(math.isnan, values("proof_steps", record).values()))
