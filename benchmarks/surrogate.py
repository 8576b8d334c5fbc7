"""How near maps of fewer masks come to exact ones, on folders of photographs.

``python -m benchmarks.surrogate DIR 64 128 auto auto:0.05`` explains the most probable class of
every photograph in DIR, over black, exactly and with 64 masks, 128, as many as the tolerance by
default needs and as many as 0.05 needs. It prints, for Score-CAM's map with either of its weights,
and with ``--union-cam`` for UnionCAM's, which needs three more forwards for every budget, the mean
number of masks, the mean, 5th percentile and smallest Pearson correlation with the exact map (zero
for blank maps), the share of 0.995 and more, and the ratio of estimated and true deviation. All
budgets share the exact map's forwards; ``--keep`` stores what the masks scored, so that another
run only predicts.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_unioncam import LayerUnionCAM, suggest_layer
from captum_unioncam.engine import TOLERANCE, LayerState, weighted_sum
from captum_unioncam.engine.layer_state import measure_layer
from captum_unioncam.engine.surrogate import Weights
from captum_unioncam.methods.score_cam import channel_weights
from captum_unioncam.metrics.similarity import correlation
from captum_unioncam.vision.networks import load_network
from captum_unioncam.vision.pictures import load_picture

GOAL = 0.995
MAPS = ("Score-CAM", "Score-CAM, softmax", "UnionCAM")


class Found(NamedTuple):
    """What a budget gave on one photograph, a value for each of `MAPS` that is compared.

    Attributes:
        correlations (list[float]): of its maps with the exact ones.
        masks (list[int]): how many it took.
        deviations (list[float]): what was estimated.
    """

    correlations: list[float]
    masks: list[int]
    deviations: list[float]


def main() -> None:
    """Measure what the command line names, and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.surrogate", description=__doc__)
    parser.add_argument("folder", type=Path, help="photographs, .jpg")
    parser.add_argument("budgets", nargs="+", help="numbers of masks, auto or auto:TOLERANCE")
    parser.add_argument("--model", default="demo", help="as of unioncam (default: %(default)s)")
    parser.add_argument("--scorer", help="what runs masked photographs (default: the model)")
    parser.add_argument("--keep", type=Path, help="folder for what the masks scored")
    parser.add_argument("--union-cam", action="store_true", help="compare its maps as well")
    parser.add_argument("--n", type=int, help="the first so many photographs only")
    arguments = parser.parse_args()
    network = load_network(arguments.model)
    union_cam = LayerUnionCAM(network.model, suggest_layer(network.model).layer)
    found: dict[str, list[Found]] = {budget: [] for budget in arguments.budgets}
    for path in sorted(arguments.folder.glob("*.jpg"))[: arguments.n]:
        kept = arguments.keep and arguments.keep / f"{path.parent.name}__{path.stem}.pt"
        x, black, _ = network.prepare(load_picture(path))
        with torch.no_grad():
            target = int(network.model(x).argmax())
        asked = {"inputs": x, "target": target, "baselines": black, "scorer": arguments.scorer}
        prepared = union_cam.prepare(asked)
        with measure_layer(prepared.request) as (state,):
            know(state, kept)
            options = prepared.options if arguments.union_cam else None
            compare = partial(maps_of, union_cam, state, options)
            exact = compare(None, TOLERANCE)
            for budget, ones in found.items():
                ones.append(of_budget(state, budget, exact, compare))
        print(path.name, *(f"{v[-1].correlations[0]:.4f}" for v in found.values()), flush=True)
    print(table(found))


def of_budget(
    state: LayerState, budget: str, exact: list[Tensor], compare: Callable[..., list[Tensor]]
) -> Found:
    """Return what a budget gives on a photograph."""
    name, _, tolerance = budget.partition(":")
    max_masks: Any = name if name == "auto" else int(name)
    tolerated = float(tolerance or TOLERANCE)
    maps = compare(max_masks, tolerated)
    by_weights: tuple[Weights, Weights] = ("score", "softmax")
    spent = [state.channel_scores(max_masks, tolerated, weights).spent for weights in by_weights]
    masks, deviations = ([v.item() for v in values] for values in zip(*spent, strict=True))
    found = [correlation(m, e).nan_to_num(0).item() for m, e in zip(maps, exact, strict=True)]
    # UnionCAM's map rests on the same masks as Score-CAM's.
    return Found(found, [*masks, masks[0]], [*deviations, deviations[0]])


def maps_of(
    union_cam: LayerUnionCAM,
    state: LayerState,
    options: dict[str, Any] | None,
    max_masks: Any,
    tolerance: float,
) -> list[Tensor]:
    """Return the maps that are compared, in the order of `MAPS`; UnionCAM's if it has options."""
    by_weights: tuple[Weights, Weights] = ("score", "softmax")
    maps = [
        weighted_sum(
            channel_weights(state.channel_scores(max_masks, tolerance, weights), weights),
            state.activations,
        )
        for weights in by_weights
    ]
    if options is not None:
        own = {**options, "max_masks": max_masks, "tolerance": tolerance}
        maps.append(union_cam.map(state, own)[0])
    return maps


def know(state: LayerState, kept: Path | None) -> None:
    """Take what the masks score from a file, or write it there."""
    if kept is None:
        return
    if not kept.exists():
        exact = state.channel_scores()
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"logits": exact.logits, "scores": exact.scores}, kept)
        return
    measured = state.measured_once("channels", state.activations)
    masks, read = measured.masks, torch.load(kept, weights_only=True)
    for values, name in zip(measured.values, ("logits", "scores"), strict=True):
        values[masks.inverse, 0] = read[name][masks.channels].to(values)
    measured.known[:] = True


def table(found: dict[str, list[Found]]) -> str:
    """Return the comparison of all budgets as Markdown."""
    heads = ["map", "`max_masks`", "masks, mean", "most", "correlation, mean", "5 %", "worst"]
    heads += [f"&ge; {GOAL}", "estimate / deviation"]
    lines = [" | ".join(["", *heads, ""]).strip(), "| --- | --- |" + " ---: |" * 7]
    compared = max(len(one.correlations) for ones in found.values() for one in ones)
    for number, name in enumerate(MAPS[:compared]):
        for budget, ones in found.items():
            r = torch.tensor([one.correlations[number] for one in ones]).double()
            masks = torch.tensor([one.masks[number] for one in ones]).double()
            estimates = torch.tensor([one.deviations[number] for one in ones]).double()
            off = (r.clamp(min=1e-3) ** -2 - 1).clamp(min=0).mean().sqrt()
            lines.append(
                f"| {name} | {budget} | {masks.mean():.1f} | {masks.max():.0f} | {r.mean():.4f} | "
                f"{r.quantile(0.05):.4f} | {r.min():.4f} | {(r >= GOAL).double().mean():.2f} | "
                f"{estimates.square().mean().sqrt() / off:.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
