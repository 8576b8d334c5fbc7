"""LeGrad: gradients of a vision transformer's attention maps (Bousselham et al., ICCV 2025)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    Forwards,
    GradKwargs,
    Inputs,
    LayerOptions,
    LayerState,
    Request,
    Source,
    TargetType,
)
from captum_unioncam.engine.arguments import check_count_or_none
from captum_unioncam.engine.attention import AttentionMaps
from captum_unioncam.engine.before_layer import rebuilt
from captum_unioncam.engine.captum_compat import run_forward
from captum_unioncam.engine.modules import describe_layer, model_behind
from captum_unioncam.engine.request import copied
from captum_unioncam.engine.target_scores import output_as_read

Blocks = Annotated[int | None, check_count_or_none]
Pooling = Literal["mean", "own"]
NEEDED = (
    "LeGrad needs a vision transformer: blocks of one kind in an nn.Sequential or nn.ModuleList, "
    "each with one self-attention over all the tokens of its input, as torchvision's "
    "VisionTransformer, timm's ViT and DeiT and transformers' ViT have; "
)
APART = "what follows the blocks here depends on more than each row's tokens"


class LayerLeGrad(ClassActivationMap):
    r"""LeGrad: what of the attention each block would have to pay for its tokens to score more.

    .. math::
        L_j = \frac{1}{B} \sum_{l} \frac{1}{HT} \sum_{h, i}
        \mathrm{ReLU}\left( \frac{\partial s^l}{\partial A^l_{hij}} \right), \qquad
        s^l = C(\mathrm{pool}(Z^l))

    with :math:`A^l` the attention weights of block l over its H heads and T tokens, from query i
    to key j, :math:`Z^l` the tokens that the block returns, pool their mean over all T, and C what
    the model does after its last block, up to the target's raw output; B blocks are averaged. The
    map holds the keys that are patches.

    As in the authors' code, the intermediate tokens of a block go straight to the model's end, and
    the mean also takes the place of the class token of the last block; ``pooling="own"`` gives
    :math:`Z^l` to the model's end as it is, which then pools as it always does. The authors' code
    takes the last two blocks by default, ``blocks=2``; here it is all of them up to the layer. It
    resizes each block's map and min-max scales the sum; this is the sum's mean, as it is, which
    resizing leaves the same. Models that pool by attention are refused: the authors explain these
    by the attention of the pooling.

    The layer says where the tokens are and up to which block they count: a block, a module within
    one, as the norm that :func:`~captum_unioncam.suggest_layer` names, or a module around them,
    such as the encoder. Inside the call attention is computed step by step, so that there are
    weights to differentiate; the model is not touched.

    Cost: two forwards and two backwards, of which the second ends at each block's attention.

    Source: Bousselham, Boggust, Chaybouti, Strobelt, Kuehne: LeGrad: An Explainability Method for
    Vision Transformers via Feature Formation Sensitivity. ICCV, 2025.
    https://arxiv.org/abs/2404.03214

    Examples::

        >>> import torch
        >>> from torchvision.models import VisionTransformer
        >>> vit = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
        >>> _ = nn.init.normal_(vit.heads.head.weight)
        >>> legrad = LayerLeGrad(vit, vit.encoder.layers[-1])
        >>> legrad.attribute(torch.rand(2, 3, 32, 32), target=1).shape
        torch.Size([2, 1, 4, 4])
    """

    name = "LeGrad"
    source = Source(
        "Bousselham et al., ICCV", 2025, "https://arxiv.org/abs/2404.03214", "authors' code"
    )
    forwards = Forwards("2", 2)

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        blocks: Blocks = None,
        pooling: Pooling = "mean",
        **options: Unpack[LayerOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            blocks (int, optional): how many of the last blocks to average over, up to the layer's;
                None takes all. Default: None
            pooling (str, optional): what the model's end makes a score of: the "mean" of a block's
                tokens, or its tokens as they are, pooled by the model's "own" way.
                Default: "mean"
        """
        return self.explain(locals())

    def cam(self, state: LayerState, blocks: Blocks, pooling: Pooling) -> Tensor:
        request, shape = state.request, state.layer_tensor.shape
        chain, last = _blocks_of(request)
        first = 0 if blocks is None else max(0, last + 1 - blocks)
        gradients = _attention_gradients(state, chain, slice(first, last + 1), pooling)
        # Mean over heads and queries: what each key, a token, is attended for.
        keys = torch.stack([g.relu().mean((1, 2)) for g in gradients]).mean(0)
        positions = shape[1:-1]
        if keys.shape[1] != positions.numel():
            raise ValueError(
                f"{NEEDED}{request.layer_name} gives shape {tuple(shape)}, but the blocks attend "
                f"over {keys.shape[1]} tokens"
            )
        return state.layout.to_maps(keys.reshape(len(keys), *positions, 1).to(state.activations))


def _blocks_of(request: Request) -> tuple[list[nn.Module], int]:
    """Return the blocks that run one after the other, and the number of the layer's."""
    model, layer = model_behind(request.forward_func), request.layer
    if model is None:
        raise ValueError(f"{NEEDED}forward_func hides the model: pass the model itself")
    chains = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.Sequential | nn.ModuleList)
        and len(module)
        and len({type(block) for block in module}) == 1
    ]
    # A single module in a container is seldom a block; where there are longer ones they count.
    chains = [chain for chain in chains if len(chain) > 1] + [c for c in chains if len(c) == 1]
    for chain in chains:
        for number, block in enumerate(chain):
            if any(module is layer for module in block.modules()):
                return chain, number
    within = set(layer.modules())
    for chain in chains:
        if chain[0] in within:
            return chain, len(chain) - 1
    raise ValueError(f"{NEEDED}{request.layer_name} is in no such block, nor around them")


def _attention_gradients(
    state: LayerState, chain: list[nn.Module], kept: slice, pooling: Pooling
) -> list[Tensor]:
    """Return the gradients of each kept block's score at its attention, (N, heads, T, T) each."""
    request, count = state.request, state.request.num_examples
    inputs, extra = copied(request.inputs), copied(request.extra)
    with torch.enable_grad(), AttentionMaps() as attention:
        tokens: list[Tensor] = []
        weights: list[Tensor] = []

        def stacked() -> Tensor:
            """Return the tokens of each kept block as rows of their own, then the model's own."""
            rows = tokens[kept]
            if pooling == "mean":
                rows = [z.mean(1, keepdim=True).expand_as(z) for z in rows]
            return torch.cat([*rows, tokens[-1]])

        with _in_blocks(request, chain, attention, tokens, weights, stacked):
            try:
                returned = run_forward(request.forward_func, inputs, None, extra)
            except RuntimeError as error:
                # It ran on the clean inputs: what fails are the rows of several blocks.
                if not tokens or len(tokens) < len(chain):
                    raise
                raise ValueError(f"{NEEDED}{APART}") from error
        rows = torch.arange(count).repeat(len(tokens[kept]) + 1)
        output = output_as_read(request.target, returned, len(rows))
        scores = state.target.raw(output, rows)
        _check_rows_are_apart(state, scores[-count:].detach())
        try:
            gradients = torch.autograd.grad(scores[:-count].sum(), weights[kept])
        except RuntimeError as error:
            if "used in the graph" not in str(error):
                raise
            raise ValueError(
                f"{NEEDED}here the target does not depend on the attention of a block"
            ) from error
    return [g.reshape(count, -1, *g.shape[-2:]) for g in gradients]


@contextmanager
def _in_blocks(
    request: Request,
    chain: list[nn.Module],
    attention: AttentionMaps,
    tokens: list[Tensor],
    weights: list[Tensor],
    stacked: Any,
) -> Iterator[None]:
    """Note every block's tokens and attention, each on a graph of its own.

    The last block gives what `stacked` returns.
    """
    starts: list[int] = []
    rows = request.num_examples

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        starts.append(len(attention.maps))
        if not args or not isinstance(args[0], Tensor):
            raise ValueError(f"{NEEDED}{describe(module)} does not take its tokens by position")
        # Scores of later blocks must not reach the attention of earlier ones.
        return (args[0].detach().requires_grad_(), *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        own = attention.maps[starts[-1] :]
        made = output[0] if isinstance(output, tuple | list) else output
        count = made.flatten(1, -2).shape[1] if isinstance(made, Tensor) else 0
        if len(own) != 1 or own[0].shape[-2:] != (count, count) or len(own[0]) % rows:
            shapes = ", ".join(str(tuple(map_.shape)) for map_ in own) or "none"
            raise ValueError(
                f"{NEEDED}{describe(module)} returns {count} tokens and has the attention weights "
                f"{shapes}"
            )
        tokens.append(made)
        weights.append(own[0])
        if len(tokens) < len(chain):
            return None
        given = stacked()
        if isinstance(output, tuple | list):
            return rebuilt(output, [given, *output[1:]])
        return given

    def describe(module: nn.Module) -> str:
        return describe_layer(request.forward_func, module)

    handles = []
    try:
        for block in chain:
            handles.append(block.register_forward_pre_hook(before))
            handles.append(block.register_forward_hook(after))
        yield
        if len(tokens) != len(chain) or len(attention.maps) != len(chain):
            raise ValueError(
                f"{NEEDED}of {len(chain)} blocks {len(tokens)} ran, and there was attention "
                f"{len(attention.maps)} times, also elsewhere"
            )
    finally:
        for handle in handles:
            handle.remove()


def _check_rows_are_apart(state: LayerState, own: Tensor) -> None:
    """Raise ValueError unless the model's own tokens earn among other rows what they earn alone."""
    expected = state.logits.to(own)
    tolerance = torch.finfo(state.layer_tensor.dtype).eps ** 0.5
    if not bool(((own - expected).abs() <= tolerance * (1 + expected.abs())).all()):
        raise ValueError(f"{NEEDED}{APART}")
