"""What is measured in a state of the request game, and the states: labels, units, bounds and intervals, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from metrics.intervals import Interval

UNIT, POSITIVE, SYMMETRIC = (0.0, 1.0), (0.0, float("inf")), (-1.0, 1.0)


@dataclass(frozen=True)
class Quantity:
    """Something that is measured in every state: of targets, of models, or of how well models forgot.

    `share` and `bounds` say which interval is made for it, as in `games.game.Metric`.
    """

    name: str
    label: str
    help: str
    digits: int = 3
    scale: Literal["plain", "share"] = "plain"
    share: bool = False
    bounds: tuple[float, float] | None = None

    def interval(self, groups: Sequence[Sequence[float]], units: str) -> Interval:
        """The mean with its interval from values by seed (`metrics.intervals.interval_of_values`)."""
        from metrics.intervals import interval_of_values  # brings torch, which a listing of games does without

        return interval_of_values(groups, self.share, self.bounds, units)


def _share(name: str, label: str, help: str, digits: int = 3, scale: Literal["plain", "share"] = "plain") -> Quantity:
    return Quantity(name, label, help, digits, scale, share=True)


OF_TARGETS = (
    Quantity("confidence", "confidence", "probability of the label that the victim predicted, in [0, 1]", bounds=UNIT),
    Quantity("entropy", "entropy (nats)", "entropy of the prediction in nats; higher is less certain", bounds=POSITIVE),
    _share("kept", "labels kept (%)", "share of targets whose predicted label stayed", 0, "share"),
    Quantity("attained", "attained", "how much of its goal the attack reached, in [-1, 1]", bounds=SYMMETRIC),
    _share("success", "success (%)", "share of targets on which the attack reached its own goal", 0, "share"),
)
OF_MODELS = (
    _share("accuracy", "test accuracy (%)", "share of the test set that is right", 1, "share"),
    Quantity("ece", "test ECE, 15 bins", "expected calibration error of the top label, 15 equal bins", bounds=UNIT),
    Quantity("adaptive_ece", "adaptive ECE", "the same with bins of equal mass, over all classes", bounds=UNIT),
    Quantity("brier", "Brier score", "mean squared distance of predictions from the truth", bounds=POSITIVE),
    Quantity("nll", "NLL", "negative log-likelihood of the test set, in nats", bounds=POSITIVE),
    _share("auroc_of_confidence", "AUROC of confidence", "how well confidence tells right from wrong answers"),
    _share("conformal_coverage", "90% sets: cover (%)", "share of 90% conformal sets that hold the truth", 1, "share"),
    Quantity("conformal_set_size", "90% sets: size", "mean size of 90% conformal sets", 2, bounds=POSITIVE),
    _share("conformal_empty", "90% sets: empty (%)", "share of 90% conformal sets that are empty", 1, "share"),
    Quantity("mean_confidence", "mean confidence", "mean probability of the top label on the test set", bounds=UNIT),
    Quantity("mean_entropy", "mean entropy", "mean entropy on the test set, in nats", bounds=POSITIVE),
)
OF_FORGETTING = (
    _share("accuracy_deleted", "acc. on deleted (%)", "accuracy on the records that were forgotten", 1, "share"),
    _share("accuracy_retained", "acc. on retained (%)", "accuracy on the records that stay", 1, "share"),
    Quantity("distance", "distance", "distance of the parameters from plain retraining", bounds=POSITIVE),
    Quantity("relative_distance", "dist. to retraining", "the same, over that of doing nothing", bounds=POSITIVE),
    Quantity(
        "prediction_distance",
        "total variation",
        "total variation of predictions from retraining on the test set",
        bounds=UNIT,
    ),
    _share("disagreement", "disagreement", "share of the test set with another label than retraining gives"),
    _share("certified", "certified", "share of requests with a certificate"),
    Quantity("certificate_bound", "bound", "the bound of the certificate on what is left", bounds=POSITIVE),
    Quantity("certificate_epsilon", "epsilon", "the epsilon that the certificate implies", bounds=POSITIVE),
)
ALONE = (  # measured by no model in every state
    Quantity("effect", "effect", "attained after the attack less after its control", bounds=SYMMETRIC),
    Quantity("functional", "attacked objective", "the functional that was attacked; larger is less certain"),
    Quantity("requested", "deletions", "records of a request", 1, bounds=POSITIVE),
)
QUANTITIES = {each.name: each for each in (*OF_TARGETS, *OF_MODELS, *OF_FORGETTING, *ALONE)}
# Every state of the targets, in the order in which they are shown, in words.
STATES = {
    "before": "before anything was deleted",
    "after": "after the attack's request",
    "random": "after a random request of the same size",
    "nearest": "after as many records nearest to the target",
    "stream": "after the whole stream, unfiltered",
    "stream_random": "after the stream of the random request, unfiltered",
    "defended": "after what the defense accepted of the stream",
    "defended_random": "after what it accepted of the stream of the random request",
    "processed": "after the quarantined requests were processed too",
    "benign": "after benign streams",
}
SIGN = {"over": 1, "under": -1}  # of the change of confidence that the attacker wants
# The state that a state is compared with: a random request of the same size, treated alike by the same filter.
CONTROL = {"after": "random", "stream": "stream_random", "defended": "defended_random"}
SHARED = ("before", "benign", "nothing")  # states whose models belong to all requests; the others have one for each
FRESH = ("nothing", "after", "random", "defended", "defended_random")  # states judged with fresh seeds
BESIDE = ("S1", "S8")  # scores of the influence filter that are reported whatever decides: the strongest, a naive one
MEASURED = ("after", "random")  # states whose models are compared with retraining
