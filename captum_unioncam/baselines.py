"""What hides a picture: what masked-out parts show instead of it, as functions and by name."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_unioncam.engine import BaselineType, Seed, check_choice, generator_of, resize


def black_baseline(mean: Sequence[float], std: Sequence[float], like: Tensor) -> Tensor:
    r"""Return the black image as a model sees it that normalises with `mean` and `std`.

    A black pixel is :math:`(0 - mean) / std` per channel. With it as baseline, masking in the
    model's input space equals masking the picture itself and normalising afterwards.

    Args:
        mean (Sequence[float]): one mean per channel, for pictures in [0, 1].
        std (Sequence[float]): one standard deviation per channel, positive.
        like (Tensor): inputs of shape (N, channels, *spatial); gives shape, dtype and device.

    Returns:
        *Tensor* of shape (1, channels, *spatial), a baseline for any Captum method.

    Raises:
        TypeError: if `like` is not a floating point tensor.
        ValueError: if `mean`, `std` and the channels of `like` differ in number, or a standard
            deviation is not positive.

    Examples::

        >>> images = torch.zeros(4, 3, 8, 8)
        >>> baseline = black_baseline([0.5, 0.5, 0.5], [0.25, 0.25, 0.5], images)
        >>> baseline.shape, baseline[0, :, 0, 0]
        (torch.Size([1, 3, 8, 8]), tensor([-2., -2., -1.]))
    """
    if not isinstance(like, Tensor) or not like.is_floating_point():
        kind = like.dtype if isinstance(like, Tensor) else type(like).__name__
        raise TypeError(f"like must be a floating point Tensor, the model's inputs; got {kind}")
    means, stds = (torch.as_tensor(values).to(like).flatten() for values in (mean, std))
    channels = like.shape[1] if like.dim() > 1 else 0
    if not len(means) == len(stds) == channels:
        raise ValueError(
            f"mean and std need one value per channel: got {len(means)} and {len(stds)} for "
            f"inputs of shape {tuple(like.shape)}"
        )
    if not bool((stds > 0).all()):
        raise ValueError(f"std must be positive, got {stds.tolist()}")
    black = (-means / stds).reshape(1, -1, *[1] * (like.dim() - 2))
    return black.expand(1, *like.shape[1:]).contiguous()


def mean_colour(x: Tensor) -> Tensor:
    """Return the mean of every channel of every example, (N, C, 1, ...), in float32 or better.

    Examples::

        >>> mean_colour(torch.tensor([[[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]]])).tolist()
        [[[3.0], [1.0]]]
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide.mean(tuple(range(2, x.dim())), keepdim=True)


def blurred(x: Tensor, size: int = 51, stdev: float = 50.0) -> Tensor:
    """Blur inputs (N, C, *spatial) by a Gaussian of `size` pixels, reflected at the borders.

    On inputs of less than half of `size` the Gaussian ends where its reflection would.

    Examples::

        >>> blurred(torch.tensor([[[0.0, 0.0, 9.0, 0.0, 0.0]]]), size=3)
        tensor([[[0.0000, 2.9998, 3.0004, 2.9998, 0.0000]]])
    """

    def kernel(lines: Tensor) -> list[float]:
        half = min(size // 2, lines.shape[-1] - 1)
        offsets = torch.arange(-half, half + 1, device=lines.device, dtype=lines.dtype)
        weights = (-0.5 * (offsets / stdev) ** 2).exp()
        values: list[float] = (weights / weights.sum()).tolist()
        return values

    return _smoothed(x, kernel, "reflect")


def blurred_as_in_rise(x: Tensor, size: int = 11, stdev: float = 5.0) -> Tensor:
    """Blur inputs (N, C, *spatial) by RISE's kernel, with zeros beyond the borders.

    Examples::

        >>> blurred_as_in_rise(torch.tensor([[[0.0, 0.0, 9.0, 0.0, 0.0]]]), 3, 1.0)
        tensor([[[0.0000, 2.6649, 3.6703, 2.6649, 0.0000]]])
    """
    return _smoothed(x, lambda _: rise_kernel(size, stdev), "constant")


def rise_kernel(size: int, stdev: float) -> list[float]:
    """Return RISE's blur along one dimension; that of an image is its outer product.

    A Gaussian of SciPy's default reach, four standard deviations to either side, is folded back
    into `size` pixels wherever it passes their ends.

    Examples::

        >>> [round(weight, 4) for weight in rise_kernel(5, 1.0)]
        [0.0584, 0.2421, 0.3989, 0.2421, 0.0584]
    """
    reach = int(4 * stdev + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    weights = (-0.5 * (offsets.double() / stdev) ** 2).exp()
    places = (size // 2 + offsets) % (2 * size)
    folded = torch.minimum(places, 2 * size - 1 - places)
    kernel = torch.zeros(size, dtype=torch.float64).index_add_(0, folded, weights / weights.sum())
    values: list[float] = kernel.tolist()
    return values


def _smoothed(x: Tensor, kernel: Callable[[Tensor], list[float]], beyond: str) -> Tensor:
    """Return x smoothed along every spatial dimension, in float32 or better.

    Args:
        x (Tensor): inputs, (N, C, *spatial).
        kernel (Callable): takes lines (*, length), returns weights, an odd number of them.
        beyond (str): what lies beyond the borders, as ``torch.nn.functional.pad`` calls it.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    for dim in range(2, x.dim()):
        lines = x.movedim(dim, -1)
        length = lines.shape[-1]
        weights = kernel(lines)
        half = len(weights) // 2
        padded = F.pad(lines.reshape(-1, 1, length), (half, half), mode=beyond)
        # Shifted sums rather than a convolution keep the precision under a caller's autocast.
        smooth = torch.zeros_like(padded[..., :length])
        for shift, weight in enumerate(weights):
            smooth += weight * padded[..., shift : shift + length]
        x = smooth.reshape(lines.shape).movedim(-1, dim)
    return x


def coarse_noise(x: Tensor, cells: int = 14, seed: Seed = 0) -> Tensor:
    """Return coarse noise of each input's own colours, (N, C, *spatial), in float32 or better.

    Normal values in the middles of `cells` cells a side, linear in between, have the mean and
    standard deviation of each channel of each example there, and are clipped to its range. All
    examples show the same pattern, so that none depends on its batch.

    Args:
        x (Tensor): inputs, (N, C, *spatial).
        cells (int, optional): cells along each side, at most one a pixel. Default: 14
        seed (int or torch.Generator, optional): of the values; the random state of torch is not
            touched. Default: 0

    Examples::

        >>> coarse_noise(torch.rand(2, 3, 224, 224)).shape
        torch.Size([2, 3, 224, 224])
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    size = [min(cells, length) for length in x.shape[2:]]
    # Drawn on the CPU and in float64, to be the same wherever the model runs.
    drawn = torch.randn(
        (1, x.shape[1], *size), generator=generator_of(seed), dtype=torch.float64
    ).to(x)
    dims = tuple(range(2, x.dim()))
    mean, std = x.mean(dims, keepdim=True), x.std(dims, correction=0, keepdim=True)
    noise = mean + std * resize(drawn, x.shape[2:])
    return noise.clamp(x.amin(dims, keepdim=True), x.amax(dims, keepdim=True))


def of_each_input(made: Callable[[Tensor], Tensor], inputs: Any) -> BaselineType:
    """Make a baseline of every input that is a picture, a signal or a volume; 0 for all others.

    Args:
        made (Callable): takes one input (N, C, *spatial), returns its baseline.
        inputs (Tensor or tuple[Tensor, ...]): inputs, unchecked; nothing is raised for wrong ones.

    Returns:
        *Tensor*, number, or a tuple of them if `inputs` is a tuple.
    """
    if isinstance(inputs, tuple):
        return tuple(_of_one_input(made, x) for x in inputs)
    return _of_one_input(made, inputs)


def _of_one_input(made: Callable[[Tensor], Tensor], x: Any) -> Tensor | int:
    has_pixels = (
        isinstance(x, Tensor)
        and x.is_floating_point()
        and 3 <= x.dim() <= 5
        and x.numel() > 0
        and bool(x.isfinite().all())
    )
    return made(x.detach()) if has_pixels else 0


class Baseline(NamedTuple):
    """A kind of what hides a picture.

    Attributes:
        about (str): what it is, for tables and help.
        function (Callable): called as ``function(inputs, black)``, with inputs as the network
            takes them and the black picture as it sees it; returns one baseline per input.
    """

    about: str
    function: Callable[[Any, BaselineType], BaselineType]


BASELINES: dict[str, Baseline] = {
    "black": Baseline("a black picture", lambda _, black: black),
    "mean": Baseline(
        "each picture's mean colour", lambda inputs, _: of_each_input(mean_colour, inputs)
    ),
    "blur": Baseline(
        "each picture blurred over 51 pixels", lambda inputs, _: of_each_input(blurred, inputs)
    ),
    "noise": Baseline(
        "coarse noise of each picture's colours",
        lambda inputs, _: of_each_input(coarse_noise, inputs),
    ),
}


def named_baseline(name: str, inputs: Any, black: BaselineType) -> BaselineType:
    """Return a baseline by the name of its kind, for any Captum method and any metric.

    Args:
        name (str): one of :data:`BASELINES`: "black", "mean", "blur" or "noise".
        inputs (Tensor or tuple[Tensor, ...]): inputs as the network takes them.
        black (scalar, Tensor or tuple): the black picture as the network sees it, such as
            :func:`black_baseline` returns.

    Returns:
        *scalar*, *Tensor* or *tuple* that broadcasts to the inputs; 0 for an input without
        pixels, except of "black".

    Raises:
        ValueError: if there is no such kind, naming the closest one.

    Examples::

        >>> images = torch.rand(2, 3, 8, 8)
        >>> named_baseline("mean", images, black=0).shape
        torch.Size([2, 3, 1, 1])
        >>> named_baseline("blur", images, black=0).shape
        torch.Size([2, 3, 8, 8])
    """
    check_choice("baseline", name, tuple(BASELINES))
    return BASELINES[name].function(inputs, black)
