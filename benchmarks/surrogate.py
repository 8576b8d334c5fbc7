"""How near maps of fewer masks come to exact ones, on a folder of photographs.

``python -m benchmarks.surrogate DIR 64 128`` explains the most probable class of every
photograph in DIR by the demo network, over black, exactly and by 64 and 128 masks. Prints the
Pearson correlations of the maps (UnionCAM's, then Score-CAM's) as they are found, then means and
worst. It takes minutes for every few photographs: exact UnionCAM, and a run for every budget.
"""

import sys
from pathlib import Path

import torch

from captum_unioncam import compare, suggest_layer
from captum_unioncam.comparison.method_spec import parse_spec
from captum_unioncam.metrics.similarity import correlation
from captum_unioncam.vision import networks
from captum_unioncam.vision.pictures import load_picture

EXACT = ("unioncam", "scorecam")


def main(folder: str, budgets: list[str]) -> None:
    network = networks.load_network("demo")
    layer = suggest_layer(network.model).layer
    found: dict[str, list[float]] = {f"{m}:max_masks={n}": [] for m in EXACT for n in budgets}
    for path in sorted(Path(folder).glob("*.jpg")):
        x, black, _ = network.prepare(load_picture(path))
        with torch.no_grad():
            target = int(network.model(x).argmax())
        result = compare(
            [*EXACT, *found], x, target, forward_func=network.model, layer=layer,
            baselines=black, metrics=(),
        )  # fmt: skip
        for spec, values in found.items():
            maps = [result.maps[parse_spec(one).title()] for one in (spec, spec.partition(":")[0])]
            values += correlation(*maps).tolist()
        print(path.name, *(f"{values[-1]:.4f}" for values in found.values()), flush=True)
    for spec, values in found.items():
        print(f"{spec}: mean {sum(values) / len(values):.4f}, worst {min(values):.3f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
