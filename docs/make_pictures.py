"""Draw every method's map of one photograph: python docs/make_pictures.py [METHOD ...].

Run by hand when a method is added or its maps change; the pictures are committed. SS-CAM and RISE
need minutes, the others seconds.
"""

import sys
from pathlib import Path

import torch
from method_pages import WITHOUT_PICTURE, file_name
from PIL import Image
from skimage import data

from captum_unioncam import METHODS
from captum_unioncam.comparison import drawing as figure
from captum_unioncam.engine.arguments import check_choice
from captum_unioncam.vision import networks

PICTURES = Path(__file__).parent / "pictures"


def main(names: list[str]) -> None:
    """Draw the named methods, or all that the demo network has a map for."""
    for name in names:
        check_choice("method", name, tuple(METHODS))
    network = networks.demo_network()
    layer = networks.find_layer(network.model, "auto", torch.zeros(1, 3, 224, 224))
    photograph = Image.fromarray(data.coffee())
    heading = (
        f"{network.name}, layer {layer.name}, black baseline, default options\n"
        "β: probability of the masked picture minus that of black"
    )
    for name in names or [name for name in METHODS if name not in WITHOUT_PICTURE]:
        subject = figure.Subject(network, layer.layer, name, show_progress=True)
        drawn = figure.draw([figure.explain(subject, "coffee", photograph)], heading)
        path = PICTURES / f"{file_name(name)}.png"
        figure.save(drawn, path)
        with Image.open(path) as picture:
            # A palette makes the file a fifth of the size.
            small = picture.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
