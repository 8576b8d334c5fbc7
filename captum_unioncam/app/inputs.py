"""What a visitor chooses, in the sidebar."""

import hashlib
from typing import NamedTuple

import streamlit as st
from torch import Tensor

from captum_unioncam.app import work
from captum_unioncam.app.choices import (
    SAMPLES,
    Choice,
    Picture,
    Settings,
    check_typed,
    has_option,
    unmarked,
    with_options,
)
from captum_unioncam.app.work import Loaded
from captum_unioncam.baselines import BASELINES
from captum_unioncam.methods.method_spec import parse_spec, parts
from captum_unioncam.methods.registry import METHODS
from captum_unioncam.metrics import metric_of
from captum_unioncam.scorers import BUILDERS, is_installed

# Formats that Pillow decodes itself.
FORMATS = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
OTHER = "another one …"
BUDGETS: dict[str, float | str | None] = {
    "64 masks": 64,
    "128 masks": 128,
    "256 masks": 256,
    "as many as the map needs": "auto",
    "all": None,
}
METRICS = ("beta", "average_drop", "insertion", "deletion")
FURTHER_METRICS = ("average_increase", "average_gain", "complexity", "coherency", "adcc")


class Wanted(NamedTuple):
    """What is chosen now.

    Attributes:
        picture (Picture): the picture.
        loaded (Loaded): the network.
        choice (Choice): everything that the result depends on.
    """

    picture: Picture
    loaded: Loaded
    choice: Choice


def wanted(settings: Settings) -> Wanted:
    """Show what there is to choose; return what is chosen.

    Raises:
        ValueError: if it cannot be explained so; the message says why, in one sentence.
    """
    with st.sidebar:
        picture = _picture()
        model, weights = _network(settings)
        loaded = _loaded(model, weights, settings.device)
        layer = _layer(loaded)
        classes = _classes(loaded, picture, (model, weights))
        specs = _methods()
        with st.expander("Parameters"):
            specs, baseline, metrics, scorer = _parameters(specs)
    choice = Choice(
        picture.digest, model, weights, layer, classes, specs, metrics, baseline, scorer
    )  # fmt: skip
    return Wanted(picture, loaded, choice)


def _picture() -> Picture:
    dropped = st.file_uploader(
        "Pictures", type=list(FORMATS), accept_multiple_files=True,
        help="They stay in this program's memory and are gone when the page is closed.",
    )  # fmt: skip
    files = {f"{file.name} ({n})" if n else file.name: file for n, file in enumerate(dropped)}
    names = [*files, *SAMPLES]
    name = st.selectbox(
        "Picture", names, format_func=lambda n: f"{n} (sample)" if n in SAMPLES else n
    )
    if name in files:
        content = files[name].getvalue()
        return Picture(files[name].name, content, hashlib.sha256(content).hexdigest())
    sample: Picture = _sample(name)
    return sample


@st.cache_data(show_spinner=False)
def _sample(name: str) -> Picture:
    content = Picture(name, b"", "", SAMPLES[name]).load().tobytes()
    return Picture(name, content, hashlib.sha256(content).hexdigest(), SAMPLES[name])


def _network(settings: Settings) -> tuple[str, str]:
    """Return the network's name and its weights."""
    known = list(dict.fromkeys([*settings.models, "demo"]))
    if settings.is_closed:
        known = list(settings.models)
    elif len(known) < 10:
        known.append(OTHER)
    label = {"demo": "demo (EfficientNet-Lite0)"}
    model = st.selectbox("Network", known, format_func=lambda name: label.get(name, name))
    # Not every version of Streamlit refuses what no page offers.
    if model not in known:
        raise ValueError(f"{model} is none of the networks to choose from.")
    if model != OTHER:
        return model, settings.weights if model == settings.models[0] else "DEFAULT"
    typed = st.text_input(
        "Its name", placeholder="resnet50, timm:convnext_tiny, hf:FOLDER",
        help="A classifier of torchvision or timm, or a local folder of transformers. A function "
        "of your own is named when the app is started.",
    )  # fmt: skip
    weights = st.text_input(
        "File of its weights", placeholder="/path/to/weights.pth",
        help="On the machine that runs the app; without one they are downloaded.",
    )  # fmt: skip
    if not typed.strip():
        raise ValueError("Give the name of a network, or choose another one.")
    return check_typed(typed, settings), weights.strip() or "DEFAULT"


@st.cache_resource(max_entries=2, show_spinner="Loading the network")
def _loaded(model: str, weights: str, device: str | None) -> Loaded:
    return work.load(model, weights, device)


def _layer(loaded: Loaded) -> str:
    layer: str = st.selectbox(
        "Layer", loaded.layers, help=loaded.why,
        format_func=lambda name: f"{name} (suggested)" if name == loaded.suggested else name,
    )  # fmt: skip
    if not loaded.suggested:
        st.caption(loaded.why)
    return layer


def _classes(loaded: Loaded, picture: Picture, network: tuple[str, str]) -> tuple[int, ...]:
    """Return the classes that are chosen; none where the network has a single output."""
    kept = st.session_state.setdefault("probabilities", {})
    key = (picture.digest, *network)
    if key not in kept:
        place = st.empty()
        with work.my_turn(lambda: place.caption(work.WAITING)):
            # Only the latest: what was chosen of other pictures is chosen anew.
            st.session_state.probabilities = kept = {key: work.probabilities(loaded, picture)}
        place.empty()
    found: Tensor = kept[key]
    if found.numel() == 1:
        st.caption(f"{unmarked(loaded.network.class_name(0))}: {float(found):.3g}")
        return ()
    ranked = found.argsort(descending=True).tolist()
    chosen = st.multiselect(
        "Classes", ranked, default=ranked[:1], max_selections=5, key=f"classes {key}",
        format_func=lambda n: f"{loaded.network.class_name(n)}, {found[n]:.1%}",
        help="The most probable ones come first; type to find another by its name.",
    )  # fmt: skip
    if not chosen:
        raise ValueError("Choose at least one class.")
    return tuple(chosen)


def _methods() -> tuple[str, ...]:
    chosen = st.multiselect(
        "Methods", list(METHODS), default=["gradcam", "unioncam"],
        format_func=lambda name: METHODS[name].title,
    )  # fmt: skip
    if not chosen:
        raise ValueError("Choose at least one method.")
    return tuple(chosen)


def _parameters(specs: tuple[str, ...]) -> tuple[tuple[str, ...], str, tuple[str, ...], str]:
    """Return methods with their options, the baseline, the metrics and the scorer."""
    further = st.text_input(
        "Methods with options", placeholder="unioncam:alpha=count, groupcam:groups=16",
        help="As on the command line, separated by commas; 'unioncam.denoised' and "
        "'unioncam.region' are the maps that UnionCAM unites.",
    )  # fmt: skip
    specs = (*specs, *parts(further))
    theta: float | None = None
    budget: float | str | None = None
    if has_option(specs, "theta"):
        theta = st.slider("θ: percentile of gradients that are dropped", 0.0, 100.0, 10.0, step=1.0)
    if has_option(specs, "max_masks"):
        budget = BUDGETS[
            st.selectbox(
                "Budget", list(BUDGETS),
                help="How many masked pictures are forwarded; scores of the other channels are "
                "predicted.",
            )
        ]  # fmt: skip
    specs = with_options(specs, theta=theta, max_masks=budget)
    # Two names of one method would be one column.
    specs = tuple({parse_spec(spec).title(): spec for spec in specs}.values())
    baseline = st.selectbox(
        "Masked-out parts show", list(BASELINES), format_func=lambda name: BASELINES[name].about
    )
    metrics = st.multiselect(
        "Metrics", [*METRICS, *FURTHER_METRICS], default=METRICS,
        format_func=lambda name: metric_of(name).title,
    )  # fmt: skip
    scorer = st.selectbox(
        "Runtime of masked pictures",
        ["fastest", "model", *(name for name in BUILDERS if is_installed(name))],
        help="'fastest' takes the fastest runtime that agrees with the network where every channel "
        "is masked; for a budget the network itself is faster.",
    )
    return specs, baseline, tuple(metrics), scorer
