"""Draw every method's map of one photograph: python docs/make_pictures.py [METHOD ...].

Run by hand when a method is added or its maps change; the pictures are committed. SS-CAM, RISE
and Extremal Perturbations need minutes, the others seconds.
"""

import sys
from pathlib import Path

from method_pages import WITHOUT_PICTURE, file_name
from PIL import Image
from skimage import data

from captum_unioncam import METHODS
from captum_unioncam.commands.demo import demo_session
from captum_unioncam.commands.explain import explained
from captum_unioncam.comparison.drawing import save
from captum_unioncam.comparison.figure import draw
from captum_unioncam.engine.arguments import check_choice

PICTURES = Path(__file__).parent / "pictures"


def main(names: list[str]) -> None:
    """Draw the named methods, or all that the demo network has a map for."""
    for name in names:
        check_choice("method", name, tuple(METHODS))
    photograph = Image.fromarray(data.coffee())
    for name in names or [name for name in METHODS if name not in WITHOUT_PICTURE]:
        session = demo_session(explained(name), quiet=False)
        shown = session.compared(photograph, "coffee")
        path = PICTURES / f"{file_name(name)}.png"
        save(draw([shown], session.class_name, session.heading()), path)
        with Image.open(path) as picture:
            # A palette makes the file a fifth of the size.
            small = picture.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
