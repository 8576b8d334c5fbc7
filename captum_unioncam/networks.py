"""``captum_unioncam.vision.networks`` under its first name."""

from captum_unioncam.vision.networks import (
    Network,
    NetworkError,
    demo_network,
    fill,
    find_class,
    find_device,
    find_layer,
    imagenet_names,
    load_network,
    load_state,
    standard_preprocess,
)

__all__ = [
    "Network",
    "NetworkError",
    "demo_network",
    "fill",
    "find_class",
    "find_device",
    "find_layer",
    "imagenet_names",
    "load_network",
    "load_state",
    "standard_preprocess",
]
