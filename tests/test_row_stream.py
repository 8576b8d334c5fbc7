"""Masked forwards: run by another callable, short of memory, shared by several targets."""

import copy
import warnings

import pytest
import torch
from torch import nn

from captum_unioncam import RISE, LayerAblationCAM, LayerScoreCAM, LayerUnionCAM
from captum_unioncam.engine.layer_state import SharedMeasurements, measure_layer
from captum_unioncam.engine.request import checked_request
from tests.networks import NETWORKS
from tests.test_forwards import counting


def failing_above(net, most, tried):
    def forward(*inputs):
        tried.append(len(inputs[0]))
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return net(*inputs)

    return forward


def test_memory_that_runs_out_halves_the_rows():
    net, layer, x = NETWORKS["vgg_like"]()
    expected = LayerUnionCAM(net, layer).attribute(x, 1)
    tried = []
    with pytest.warns(UserWarning, match=r"14 rows .* 3 do: pass perturbations_per_eval=1") as seen:
        attr = LayerUnionCAM(failing_above(net, 4, tried), layer).attribute(
            x, 1, perturbations_per_eval=7
        )
    torch.testing.assert_close(attr, expected)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert tried[1:4] == [12, 6, 3]


def test_features_whose_memory_runs_out():
    net, layer, x = NETWORKS["vgg_like"]()
    expected = LayerAblationCAM(net, layer).attribute(x, 1)
    shapes = []

    def narrow(module, args):
        shapes.append(len(args[0]))
        if len(args[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = net[-1].register_forward_pre_hook(narrow)
    with pytest.warns(UserWarning, match="do not fit the device's memory, 3 do"):
        attr = LayerAblationCAM(net, layer).attribute(x, 1, perturbations_per_eval=3)
    handle.remove()
    torch.testing.assert_close(attr, expected)


def test_memory_that_never_suffices_is_an_error():
    net, layer, x = NETWORKS["vgg_like"]()
    tried = []
    method = LayerScoreCAM(net, layer)
    with pytest.raises(torch.OutOfMemoryError):
        method.attribute(x, 1, scorer=failing_above(net, 0, tried), perturbations_per_eval=2)
    assert tried == [4, 2, 1]


def test_the_scorer_runs_what_is_masked_and_nothing_else():
    net, layer, x = NETWORKS["vgg_like"]()
    clean, masked = [], []
    own = LayerUnionCAM(net, layer).attribute(x, 1)
    attr = LayerUnionCAM(counting(net, clean), layer).attribute(
        x, 1, scorer=counting(copy.deepcopy(net), masked)
    )
    torch.testing.assert_close(attr, own, atol=0, rtol=0)
    assert clean == [2]
    assert sum(masked) > 6
    rise = RISE(net).attribute(x, 1, n_masks=8, scorer=counting(net, masked))
    torch.testing.assert_close(rise, RISE(net).attribute(x, 1, n_masks=8))


def test_a_scorer_in_half_precision():
    net, layer, x = NETWORKS["vgg_like"]()
    net, x = net.float(), x.float()
    half = copy.deepcopy(net).bfloat16()
    seen = []
    half.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    exact = LayerScoreCAM(net, layer).attribute(x, 1)
    attr = LayerScoreCAM(net, layer).attribute(x, 1, scorer=half)
    assert set(seen) == {torch.bfloat16}
    assert attr.dtype == torch.float32
    scale = exact.abs().max()
    torch.testing.assert_close(attr / scale, exact / scale, atol=0.02, rtol=0)


def test_a_scorer_in_training_mode_is_held_in_evaluation():
    net, layer, x = NETWORKS["gap_head"]()
    scorer = copy.deepcopy(net).train()
    scorer.append(nn.Dropout(0.9).train())
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    torch.testing.assert_close(LayerScoreCAM(net, layer).attribute(x, 1, scorer=scorer), expected)
    assert all(m.training for m in scorer.modules())


@pytest.mark.parametrize(
    ("scorer", "error", "message"),
    [
        (3, TypeError, "scorer must be callable, a name or None, got int"),
        ("model", ValueError, "scorer must be one of 'auto', .*, got 'model'"),
        ("onnx", ValueError, "closest: 'onnxruntime'"),
    ],
)
def test_a_scorer_must_be_callable_or_a_name(scorer, error, message):
    net, layer, x = NETWORKS["vgg_like"]()
    with pytest.raises(error, match=message):
        LayerUnionCAM(net, layer).attribute(x, 1, scorer=scorer)


def test_a_compiled_scorer():
    net, layer, x = NETWORKS["vgg_like"]()
    compiled = torch.compile(copy.deepcopy(net), backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attr = LayerUnionCAM(net, layer).attribute(x, 1, scorer=compiled)
    torch.testing.assert_close(attr, LayerUnionCAM(net, layer).attribute(x, 1))


class Viewed(nn.Module):
    def forward(self, x):
        return x.view(x.shape[0], -1)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("freeze", [True, False])
def test_scorers_that_flatten_with_view(freeze):
    net, layer, x = NETWORKS["vgg_like"]()
    expected = LayerUnionCAM(net, layer).attribute(x, 1)
    viewing = copy.deepcopy(net)
    flatten = next(name for name, m in viewing.named_children() if isinstance(m, nn.Flatten))
    setattr(viewing, flatten, Viewed())
    if freeze:
        scorer = torch.jit.freeze(torch.jit.trace(viewing, x[:1]))
    else:
        scorer = torch.compile(viewing, backend="eager", dynamic=True)
    attr = LayerUnionCAM(net, layer).attribute(x, 1, scorer=scorer)
    torch.testing.assert_close(attr, expected)


def test_targets_measured_together_share_the_table():
    net, layer, x = NETWORKS["vgg_like"]()
    rows, shared = [], SharedMeasurements()
    calls = [checked_request(counting(net, rows), layer, x, target) for target in (0, [3, 1])]
    one, two = (measure_layer(request, shared=shared) for request in calls)
    with one as (first,), two as (second,):
        tables = [state.channel_scores() for state in (first, second, first)]
        shared = sum(rows)
    assert tables[0] is tables[2]
    for target, table in zip((0, [3, 1]), tables[:2], strict=True):
        with measure_layer(checked_request(net, layer, x, target)) as (alone,):
            for found, expected in zip(table, alone.channel_scores(), strict=True):
                torch.testing.assert_close(found, expected)
    rows.clear()
    with measure_layer(calls[0]) as (alone,):
        alone.channel_scores()
    assert shared == sum(rows) + 2
