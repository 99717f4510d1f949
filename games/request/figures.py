"""Figures of a request game: targets before and after, reliability, ROC of the filter, selected examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from games.game import Drawing
from games.request.direction import of_direction
from games.request.words import NAMES, heading
from metrics.wording import bracketed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from data.examples import Data

# Okabe-Ito, told apart by readers with any common colour vision
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
COLOUR = {"over": ORANGE, "under": BLUE}
SHOWN = 10  # selected examples per row of the image grid
ALONE = 4  # states of the targets' figure without other requests
GAP, ROOM = 1.25, 1.4  # distance of images in the grid, in widths and heights
CAPTIONS = {
    "targets": "Confidence and entropy of every target before the attack, after it, under random and nearest deletions "
    "of the same size, and after the defense; the thick line is the mean with its 95% interval over requests.",
    "reliability": "Accuracy against confidence on the test set, before and after the attack.",
    "roc": "Malicious against benign requests that the defense would flag, over all thresholds.",
    "selected": "Targets (left) and the first training examples requested for them, with labels.",
}


def figures(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], data: Data | None) -> Iterator[Drawing]:
    """The figures that the records support, one at a time; without `data` that of selected examples is left out."""
    result = {"games": list(records), "summary": summary}
    drawings: dict[str, Callable[[], Figure | None]] = {
        "targets": lambda: _targets(result),
        "reliability": lambda: _reliability(result),
        "roc": lambda: _roc(result),
        "selected": lambda: None if data is None else _selected(result, data),
    }
    for name, drawing in drawings.items():
        figure = drawing()
        if figure is not None:
            yield Drawing(name, figure, CAPTIONS[name], _alt(summary) if name == "targets" else CAPTIONS[name])


def _alt(summary: Mapping[str, Any]) -> str:
    sentences = []
    for direction, part in summary.items():
        means = {state: part["victim_seed"][state]["confidence"]["mean"] for state in part["victim_seed"]}
        sentences.append(
            f"{NAMES[direction].lower()}, {part['targets']} targets: mean confidence {means['before']:.2f} before, "
            f"{means['after']:.2f} after the attack, {means['defended']:.2f} with the defense, "
            f"{means['random']:.2f} after random deletions."
        )
    return " ".join(sentences)


def _targets(result: Mapping[str, Any]) -> Figure:
    """Confidence and entropy of every target before, after, after the defense, and under the random control."""
    from matplotlib.figure import Figure

    directions = list(result["summary"])
    states = [("before", "before"), ("after", "after"), ("random", "random\ncontrol"), ("nearest", "nearest\ncontrol")]
    if result["games"][0]["detection"]["defense"] != "none":
        states += [("defended", "after +\ndefense"), ("defended_random", "control,\nlikewise")]
    figure = Figure(figsize=(0.9 * len(states) * len(directions), 4.8))
    axes = figure.subplots(2, len(directions), squeeze=False, sharey="row")
    for column, direction in enumerate(directions):
        for row, (quantity, label) in enumerate(
            (("confidence", "confidence in the label"), ("entropy", "entropy (nats)"))
        ):
            axis = axes[row][column]
            for game in result["games"]:
                mine = of_direction(game, direction)
                for i in mine:
                    values = [game["victim_seed"][state][quantity][i] for state, _ in states]
                    _joined(axis, values, color=COLOUR[direction], alpha=0.3, linewidth=0.8)
            means = [result["summary"][direction]["victim_seed"][state][quantity] for state, _ in states]
            centre = [float(each["mean"]) for each in means]
            reach = [[c - float(m["low"]) for c, m in zip(centre, means, strict=True)],
                     [float(m["high"]) - c for c, m in zip(centre, means, strict=True)]]  # fmt: skip
            bars = axis.errorbar(range(len(states)), centre, yerr=reach, color="black", marker="o", capsize=3)
            bars[0].set_linestyle("none")
            _joined(axis, centre, color="black", linewidth=1.5)
            axis.set_xticks(range(len(states)), [name for _, name in states], fontsize=8)
            if column == 0:
                axis.set_ylabel(label)
            if row == 0:
                axis.set_title(f"{_name(result, direction)} (n = {result['summary'][direction]['targets']} targets)")
    over = result["summary"][directions[0]]["victim_seed"]["after"]["confidence"]["over"]
    said = f"Judged with the victim's own seed. Thin lines: targets. Black: means with 95% intervals over {over}."
    figure.supxlabel(said, fontsize=7)
    figure.align_ylabels()
    figure.tight_layout()
    return figure


def _joined(axis: Any, values: Sequence[float], **style: Any) -> None:
    """Values of the states, joined by lines but for the step into a stream, which is another situation."""
    for part in (slice(ALONE), slice(ALONE, None)):
        axis.plot(range(len(values))[part], values[part], **style)


def _reliability(result: Mapping[str, Any]) -> Figure:
    """Accuracy against confidence on the test set, before and after the attack of each direction (first seed)."""
    from matplotlib.figure import Figure

    diagrams = result["games"][0]["victim_seed"]["reliability"]
    figure = Figure(figsize=(3.6, 3.4))
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", label="calibrated")
    styles = {"before": ("black", "o"), "over": (ORANGE, "^"), "under": (BLUE, "s")}
    for name, diagram in diagrams.items():
        colour, marker = styles[name]
        label = name if name == "before" else f"after, {_name(result, name)}"
        filled = [i for i, count in enumerate(diagram["count"]) if count > 0]
        x, y = ([float(diagram[key][i]) for i in filled] for key in ("confidence", "accuracy"))
        axis.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1, label=label, alpha=0.85)
    axis.set(
        xlabel="mean confidence in bin (15 bins)",
        ylabel="accuracy in bin",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        aspect="equal",
    )
    axis.legend(frameon=False, fontsize=7, loc="lower right")
    figure.tight_layout()
    return figure


def _roc(result: Mapping[str, Any]) -> Figure | None:
    """ROC of the filter's score per direction and seed; None without a filter or without malicious requests."""
    from matplotlib.figure import Figure

    curves = [
        (direction, game["detection"][direction])
        for game in result["games"]
        for direction in result["summary"]
        if game["detection"][direction] is not None and game["detection"]["defense"] != "none"
    ]
    if not curves:
        return None
    figure = Figure(figsize=(3.6, 3.4))
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", label="chance")
    named = set()
    for direction, found in curves:
        auroc = bracketed(result["summary"][direction]["filter"]["auroc"])
        label = None if direction in named else f"{_name(result, direction)}, AUROC {auroc}"
        named.add(direction)
        axis.step(
            found["roc"]["fpr"], found["roc"]["tpr"], where="post", color=COLOUR[direction], linewidth=1.2, label=label
        )
    axis.set(
        xlabel="benign requests flagged",
        ylabel="malicious requests flagged",
        xlim=(0, 1),
        ylim=(0, 1.01),
        aspect="equal",
    )
    axis.legend(frameon=False, fontsize=7, loc="lower right")
    figure.tight_layout()
    return figure


def _selected(result: Mapping[str, Any], data: Data) -> Figure | None:
    """For the first targets of each direction, the target and the training examples that were requested, as images."""
    game = result["games"][0]
    if not data.is_image or game.get("handed_in") or game.get("spares"):  # positions are not those in the data set
        return None
    import torch
    from matplotlib.figure import Figure

    rows = []
    for direction in result["summary"]:
        mine = of_direction(game, direction)
        filled = [i for i in mine if game["requests"][game["targets"]["aim"][i]]["indices"]]
        rows += [(direction, i) for i in filled[:3]]
    if not rows:
        return None
    figure = Figure(figsize=(0.62 * (SHOWN + 1), 0.78 * len(rows) + 0.3))
    axis = figure.subplots()
    height, width = data.shape[1:]
    step, line_height = round(GAP * width), ROOM * height
    for line, (direction, i) in enumerate(rows):
        position, label = game["targets"]["position"][i], game["targets"]["label"][i]
        chosen = game["requests"][game["targets"]["aim"][i]]["indices"][:SHOWN]
        names = [f"{direction}: {data.classes[label]}", *(data.classes[int(data.train.y[index])] for index in chosen)]
        _strip(axis, data, torch.stack([data.test.x[position], *data.train.x[chosen]]), line * line_height, step, names)
    axis.set(xlim=(0, (SHOWN + 1) * step), ylim=(len(rows) * line_height, -0.3 * height), aspect="equal")
    axis.axis("off")
    axis.set_title("target (left) and the first training examples requested for it, with labels", fontsize=8)
    figure.tight_layout()
    return figure


def _name(result: Mapping[str, Any], direction: str) -> str:
    name = heading(direction, result["games"][0]["criterion"])
    return name[0].lower() + name[1:]


def _strip(axis: Any, data: Data, x: Tensor, top: float, step: int, labels: Sequence[str]) -> None:
    """Examples side by side, as one image on one axis: matplotlib resamples every image on its own, for seconds."""
    pictures = (x * data.std + data.mean).clamp(0, 1).cpu().permute(0, 2, 3, 1)
    count, height, width, channels = pictures.shape
    strip = pictures.new_full((height, count, step, channels), 0.0 if channels == 1 else 1.0)  # white
    strip[:, :, :width] = pictures.transpose(0, 1)
    shown = strip.reshape(height, count * step, channels).squeeze(-1).numpy()
    axis.imshow(shown, cmap="gray_r", vmin=0, vmax=1, extent=(0, count * step, top + height, top))
    for place, label in enumerate(labels):
        left = place * step + width / 2
        axis.text(left, top - 0.06 * height, label, fontsize=6, ha="center", va="bottom")
