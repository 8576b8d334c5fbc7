"""Maps of the demo network on two photographs, kept as numbers that must not move.

python -m tests.golden writes them again, after a formula was changed on purpose; --far says how far
the maps made here are from those kept.
"""

import argparse
import json
from pathlib import Path

import torch
from skimage import data

from captum_unioncam import compare
from captum_unioncam.vision.networks import demo_network

FILE = Path(__file__).with_name("golden.json")
# A layer whose gradients differ from place to place, so that θ counts.
LAYER = "_blocks.7"
PHOTOGRAPHS = {"coffee": data.coffee, "chelsea": data.chelsea}
SPECS = (
    *("gradcam", "gradcam++", "layercam", "hirescam", "scorecam", "unioncam", "fusioncam"),
    *("unioncam.denoised:theta=50", "unioncam.region", "unioncam.union:theta=50", "ablationcam"),
)
# Of a map's largest value: what other processors and versions of torch differ by is smaller, and
# a percentile that is off by one, or a weight by a part in a hundred, larger.
TOLERANCE = 2e-4


def inputs_of(name):
    """Return the middle of a photograph and a black one as inputs: versions resize differently."""
    pixels = torch.from_numpy(PHOTOGRAPHS[name]()).permute(2, 0, 1)
    top, left = ((length - 224) // 2 for length in pixels.shape[1:])
    middle = pixels[None, :, top : top + 224, left : left + 224].float()
    return (middle - 127) / 128, torch.full_like(middle, -127 / 128)


def maps(photographs=tuple(PHOTOGRAPHS)):
    """Return the maps by photograph and spec, in one thread, on the CPU."""
    network, threads = demo_network(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = {}
        for name in photographs:
            x, black = inputs_of(name)
            result = compare(
                {spec: spec for spec in SPECS}, x, "top1", forward_func=network.model,
                layer=network.model.get_submodule(LAYER), baselines=black, metrics=[],
            )  # fmt: skip
            made[name] = {spec: cam[0, 0] for spec, cam in result.maps.items()}
    finally:
        torch.set_num_threads(threads)
    return made


def kept():
    """Return the maps that are kept."""
    return {
        name: {spec: torch.tensor(values) for spec, values in by_spec.items()}
        for name, by_spec in json.loads(FILE.read_text(encoding="utf-8")).items()
    }


def off(found, expected):
    """Return the largest difference of two maps as a part of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def write():
    """Write the maps with five digits, a line for each."""
    blocks = [
        f'{json.dumps(name)}: {{\n' + ",\n".join(
            f" {json.dumps(spec)}: "
            + json.dumps([[float(f"{value:.5g}") for value in row] for row in cam.tolist()])
            for spec, cam in by_spec.items()
        ) + "\n}"
        for name, by_spec in maps().items()
    ]  # fmt: skip
    FILE.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--far", action="store_true", help="write nothing, only compare")
    if not parser.parse_args().far:
        write()
        print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB")
        return
    expected = kept()
    for name, by_spec in maps().items():
        for spec, cam in by_spec.items():
            print(f"{off(cam, expected[name][spec]):.1e}  {name}  {spec}")


if __name__ == "__main__":
    main()
