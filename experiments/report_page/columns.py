"""What the results table of the page shows: which columns, under which headings, in which units."""

from __future__ import annotations

from dataclasses import dataclass

DIRECTIONS = {"over": "over-confidence", "under": "under-confidence"}


@dataclass(frozen=True)
class Column:
    """One column: its key in the frame, its heading, its group of columns, and how its numbers are written."""

    key: str
    title: str
    group: str = ""
    digits: int = 3
    percent: bool = False
    signed: bool = False
    printed: bool = True  # on paper, where there is room for fewer columns
    help: str = ""


SETTINGS = (
    Column("attack", "attack", help="what the requester does"),
    Column("access", "access", help="white-box: sees the model; black-box: only asks it; empty: needs no access"),
    Column("procedure", "procedure", help="how the provider unlearns"),
    Column("defense", "defense", help="what the provider does about malicious requests; in brackets its score"),
    Column("data", "data"),
    Column("model", "model"),
    Column("mode", "mode", help="single: one request per target; set: one request for all targets of a direction"),
    Column("direction", "direction", help="over: the attacker raises confidence; under: lowers it"),
)

METRICS = (
    Column("effect", "effect", "Effect", signed=True,
           help="what the attack attained of its own goal, minus what a random request of its size did"),
    Column("effect_defended", "with defense", "Effect", signed=True,
           help="the same where both went through the defense; with none: whole streams"),
    Column("success_after", "success", "Targets (%)", 0, True,
           help="targets on which the attack reached its own goal"),
    Column("success_defended", "with defense", "Targets (%)", 0, True,
           help="the same with the defense; with none: in the whole stream"),
    Column("kept_after", "label kept", "Targets (%)", 0, True, printed=False,
           help="targets whose predicted label stayed after the attack"),
    Column("confidence_before", "before", "Confidence", help="mean probability of the label predicted at first"),
    Column("confidence_after", "after", "Confidence", help="after the attacker's request"),
    Column("confidence_random", "random", "Confidence", help="after a random request of the same size"),
    Column("confidence_nearest", "nearest", "Confidence", printed=False,
           help="after as many records nearest to the target were deleted"),
    Column("confidence_defended", "defended", "Confidence",
           help="after the accepted requests; with no defense: the whole stream"),
    Column("accuracy_before", "before", "Test accuracy (%)", 1, True, printed=False),
    Column("accuracy_after", "after", "Test accuracy (%)", 1, True, printed=False),
    Column("auroc", "AUROC", "Filter", help="how well the defense's score tells malicious from benign requests"),
    Column("tpr_at_5", "TPR at 5%", "Filter", help="malicious requests caught at 5% false positives"),
    Column("queries", "queries", "Cost", 0, printed=False, help="black-box queries of the attack"),
    Column("seconds", "seconds", "Cost", 1, printed=False, help="victim, attack and judgement together"),
)  # fmt: skip
