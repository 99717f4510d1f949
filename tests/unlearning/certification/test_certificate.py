from __future__ import annotations

import dataclasses
import json
import math

import pytest

from unlearning.certification.certificate import Certificate, Certifying, Constant
from unlearning.certified import Certified
from unlearning.certified_removal import CertifiedRemoval
from unlearning.retrain import Retrain


def certificate(**changes: object) -> Certificate:
    constants = {"M": Constant(1.0, "assumed"), "C": Constant(20.0, "proven"), "e": Constant(1e-3, "measured")}
    given = {
        "verdict": "uncertified", "reason": "The bound is vacuous.", "sensitivity": 3102.0,
        "norm_bound": "bound on the distance to retraining", "sigma": 0.001, "epsilon": 1.0, "delta": 1e-5,
        "mechanism": "analytic", "implied_epsilon": 8.0e8, "constants": constants,
    }  # fmt: skip
    return Certificate(**{**given, **changes})  # type: ignore[arg-type]


def test_describe_is_one_line_with_every_number() -> None:
    assert certificate().describe() == (
        "uncertified: The bound is vacuous. Delta = 3102 (bound on the distance to retraining), sigma = 0.001; "
        "asked epsilon = 1 at delta = 1e-05 (analytic calibration), implied epsilon = 8e+08; "
        "M = 1 (assumed), C = 20 (proven), e = 0.001 (measured)."
    )


def test_as_dict_is_json_and_keeps_everything() -> None:
    plain = certificate().as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert set(plain) == {field.name for field in dataclasses.fields(Certificate)}
    assert plain["constants"]["M"] == {"value": 1.0, "status": "assumed"}
    assert plain["sensitivity"] == 3102.0


def test_a_number_that_is_not_finite_becomes_none() -> None:
    plain = certificate(implied_epsilon=math.inf, constants={"x": Constant(math.nan, "measured")}).as_dict()
    assert plain["implied_epsilon"] is None
    assert plain["constants"]["x"]["value"] is None
    assert json.dumps(plain, allow_nan=False)


def test_a_certificate_cannot_be_improved_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        certificate().verdict = "certified"  # type: ignore[misc]


def test_which_procedures_certify() -> None:
    assert isinstance(Certified(), Certifying)
    assert isinstance(CertifiedRemoval(), Certifying)
    assert not isinstance(Retrain(), Certifying)
