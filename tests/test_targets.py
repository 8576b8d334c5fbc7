"""Targets that are callables: in every method and metric, wrong ones, and those of the package."""

import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from torch import nn

from captum_unioncam import (
    LayerAblationCAM,
    LayerGradCAMPlusPlus,
    LayerHiResCAM,
    LayerOriginalCAM,
    LayerScoreCAM,
    LayerSmoothGradCAMPlusPlus,
    LayerUnionCAM,
)
from captum_unioncam.engine.callable_targets import take_rows
from captum_unioncam.metrics import average_drop, deletion, insertion, road
from captum_unioncam.targets import (
    BoxScore,
    ClassContrast,
    ClassOverRegion,
    EmbeddingSimilarity,
    Regression,
    ScoredModel,
    similar_classes,
)
from tests.methods import everywhere
from tests.networks import NETWORKS, gap_head, images, seeded, vgg_like

pytestmark = pytest.mark.filterwarnings("ignore:.*is blank for example")


class Returns(nn.Module):
    """A network whose scores come in another form."""

    def __init__(self, net, form):
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x):
        return self.form(self.net(x))


def as_detections(scores):
    return [{"row": row} for row in scores]


def of_detections(output):
    return torch.stack([found["row"][2] for found in output])


def as_mapping(scores):
    return OrderedDict(other=None, deep={"scores": scores}, aux=(scores, scores))


def of_mapping(output):
    return output["deep"]["scores"][:, 2]


def second_class(output):
    return output[:, 2]


FORMS = {
    "tensor": (lambda scores: scores, second_class),
    "list": (as_detections, of_detections),
    "mapping": (as_mapping, of_mapping),
}


@everywhere
@pytest.mark.parametrize("form", FORMS)
def test_a_callable_is_the_raw_output_that_it_returns(cls, form):
    cls.accepts()
    net, layer, x = vgg_like()
    wrapped, (_, target) = Returns(net, FORMS[form][0]).eval(), FORMS[form]
    options = {"score": "logit"} if "score" in cls.method.options else {}
    expected = cls(net, layer).attribute(x, 2, **options)
    torch.testing.assert_close(cls(wrapped, layer).attribute(x, target), expected)
    torch.testing.assert_close(cls(wrapped, layer).attribute(x, [target, target]), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", [average_drop, insertion, deletion, road])
def test_metrics(metric, form):
    net, _, x = vgg_like()
    wrapped, (_, target) = Returns(net, FORMS[form][0]).eval(), FORMS[form]
    maps = images(2, 1, 6, 6, seed=1)
    # A drop is defined for positive scores.
    x = x if (net(x)[:, 2] > 0).all() else -x
    expected = metric(net, x, maps, target=2, score="logit")
    torch.testing.assert_close(metric(wrapped, x, maps, target=target), expected)
    torch.testing.assert_close(metric(wrapped, x, maps, target=[target, target]), expected)


class Times:
    def __init__(self, factor, at):
        self.factor, self.at = factor, at

    def __call__(self, output):
        return output[:, self.at] * self.factor


@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("cls", [LayerScoreCAM, LayerUnionCAM, LayerAblationCAM])
def test_each_example_has_its_own(cls, rows):
    net, layer, x = vgg_like()
    x = torch.cat([x, x.flip(3)])
    targets = [Times(1 + n, n) for n in range(4)]
    together = cls(net, layer).attribute(x, targets, perturbations_per_eval=rows)
    for n, target in enumerate(targets):
        alone = cls(net, layer).attribute(x[n : n + 1], target)
        torch.testing.assert_close(together[n : n + 1], alone)


def test_no_probability_is_made_of_a_callables_value():
    net, layer, x = vgg_like()
    maps = [
        LayerScoreCAM(net, layer).attribute(x, second_class, score=score)
        for score in ("probability", "logit")
    ]
    assert torch.equal(*maps)


def test_take_rows_keeps_the_class_of_mappings():
    class Output(OrderedDict):
        pass

    some = take_rows(
        Output(a=torch.arange(3), b=None, c=[{"x": n} for n in range(3)]), torch.tensor([2, 0])
    )
    assert isinstance(some, Output)
    assert some["a"].tolist() == [2, 0]
    assert some["b"] is None
    assert some["c"] == [{"x": 2}, {"x": 0}]
    with pytest.raises(TypeError, match="rows can be told apart"):
        take_rows(object(), torch.tensor([0]))


def constant(output):
    return torch.ones(len(output), dtype=output.dtype)


WRONG = {
    "detached": (lambda o: o[:, 2].detach(), ValueError, "target loses the gradient"),
    "constant": (constant, ValueError, "target loses the gradient"),
    "summed": (lambda o: o.sum(), ValueError, r"one score per row, shape \(2,\), got shape \(\)"),
    "wide": (lambda o: o, ValueError, r"got shape \(2, 5\); pick one of each row"),
    "column": (lambda o: o[:, :1], ValueError, r"got shape \(2, 1\); pick one"),
    "fewer": (lambda o: o[:1, 0], ValueError, r"got shape \(1,\); dimension 0"),
    "indices": (lambda o: o.argmax(1), TypeError, "floating point scores, got torch.int64"),
    "numbers": (lambda o: o[:, 2].tolist(), TypeError, "got list; torch.stack makes one"),
    "infinite": (lambda o: o[:, 2] / 0, ValueError, "values of the target hold NaN or infinity"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_callables(name):
    target, error, match = WRONG[name]
    net, layer, x = vgg_like()
    with pytest.raises(error, match=match):
        LayerGradCAMPlusPlus(net, layer).attribute(x, target)
    assert not net._forward_hooks
    assert not layer._forward_hooks
    if name not in ("detached", "constant"):
        with pytest.raises(error, match=match):
            average_drop(net, x, x, target=target)
    else:
        assert LayerScoreCAM(net, layer).attribute(x, target).shape == (2, 1, 6, 6)


def test_wrong_combinations():
    net, layer, x = vgg_like()
    cam = LayerScoreCAM(net, layer)
    with pytest.raises(ValueError, match="leave out score="):
        cam.attribute(x, second_class, score=torch.sigmoid)
    with pytest.raises(ValueError, match="target has 3 entries for 2 examples"):
        cam.attribute(x, [second_class] * 3)
    with pytest.raises(TypeError, match="a target index must be an int"):
        cam.attribute(x, [second_class, 1])
    with pytest.raises(TypeError, match="a callable that takes"):
        cam.attribute(x, "second")
    net, layer, x = gap_head()
    with pytest.raises(ValueError, match="reads the weights of one class"):
        LayerOriginalCAM(net, layer).attribute(x, second_class)


def test_an_output_without_a_gradient_is_not_blamed_on_the_target():
    net, layer, x = vgg_like()

    def forward(x):
        with torch.no_grad():
            return net(x)

    with pytest.raises(ValueError, match="no gradients flow from the output"):
        LayerGradCAMPlusPlus(forward, layer).attribute(x, second_class)


PICKLED = [
    ClassOverRegion(1, torch.ones(2, 2)),
    BoxScore((0, 0, 2, 2), 1),
    EmbeddingSimilarity(torch.ones(4)),
    ClassContrast(1, [0, 2], 0.5, "probability"),
    Regression(1, "down"),
]


@pytest.mark.parametrize("target", PICKLED, ids=lambda target: type(target).__name__)
def test_targets_can_be_pickled_and_named(target):
    assert repr(pickle.loads(pickle.dumps(target))) == repr(target)
    assert "tensor" not in repr(target)


def test_class_over_a_region_is_the_papers_sum():
    net, layer, x = NETWORKS["convolutional"]()
    mask = images(8, 8, seed=3) > 0.6
    y = net(x).detach()
    p = y.exp() / y.exp().sum(1, keepdim=True)
    for values, probability in ((y, False), (p, True)):
        for reduce in ("sum", "mean"):
            target = ClassOverRegion(2, mask, reduce, probability)
            for n in range(len(x)):
                terms = [
                    values[n, 2, i, j].item() for i in range(8) for j in range(8) if mask[i, j]
                ]
                naive = sum(terms) / (len(terms) if reduce == "mean" else 1)
                assert target(y)[n].item() == pytest.approx(naive)
    # One pixel is the index of that pixel.
    one = torch.zeros(8, 8).bool()
    one[3, 4] = True
    for target in (ClassOverRegion(2, one), ClassOverRegion(2, (slice(3, 4), slice(4, 5)), "sum")):
        torch.testing.assert_close(
            LayerHiResCAM(net, layer).attribute(x, target),
            LayerHiResCAM(net, layer).attribute(x, (2, 3, 4)),
        )
    weights = images(8, 8, seed=4)
    expected = (y[:, 2] * weights).sum((1, 2)) / weights.sum()
    torch.testing.assert_close(ClassOverRegion(2, weights)(y), expected)


def test_wrong_regions():
    net, layer, x = NETWORKS["convolutional"]()
    cam = LayerScoreCAM(net, layer)
    with pytest.raises(
        ValueError, match=r"region has size \(4, 8\), but the model's output has \(8, 8\)"
    ):
        cam.attribute(x, ClassOverRegion(1, torch.ones(4, 8)))
    with pytest.raises(ValueError, match="lies beyond the model's output"):
        cam.attribute(x, ClassOverRegion(1, (slice(9, 12), slice(0, 3))))
    with pytest.raises(ValueError, match="has 1 slices"):
        cam.attribute(x, ClassOverRegion(1, (slice(0, 3),)))
    with pytest.raises(ValueError, match="class 7 is out of range"):
        cam.attribute(x, ClassOverRegion(7))
    with pytest.raises(ValueError, match=r"needs outputs of shape \(N, classes, \*size\)"):
        LayerScoreCAM(*vgg_like()[:2]).attribute(vgg_like()[2], ClassOverRegion(1))
    with pytest.raises(ValueError, match="region is empty"):
        ClassOverRegion(1, torch.zeros(3, 3))
    with pytest.raises(ValueError, match="at least 0"):
        ClassOverRegion(1, -torch.ones(3, 3))
    with pytest.raises(ValueError, match="NaN"):
        ClassOverRegion(1, torch.full((3, 3), torch.nan))
    with pytest.raises(TypeError, match="got list"):
        ClassOverRegion(1, [[1]])
    with pytest.raises(ValueError, match="reduce must be one of"):
        ClassOverRegion(1, reduce="max")


def iou(a, b):
    """Count the quarter pixels in both boxes and in either."""
    both = either = 0
    for i in range(80):
        for j in range(80):
            x, y = (i + 0.5) / 4, (j + 0.5) / 4
            inside = [box[0] < x < box[2] and box[1] < y < box[3] for box in (a, b)]
            both, either = both + all(inside), either + any(inside)
    return both / either


def test_box_scores_are_matched_by_overlap_and_class():
    boxes = [[0, 0, 8, 8], [1, 1, 9, 9.5], [10, 10, 14, 18], [0, 0, 8, 8]]
    found = {
        "boxes": torch.tensor(boxes),
        "labels": torch.tensor([1, 1, 2, 2]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6], requires_grad=True),
    }
    for box, label, least in (
        ([1, 1, 8, 9], 1, 0.5), ([1, 1, 8, 9], 2, 0.5), ([1, 1, 8, 9], None, 0.5),
        ([10, 11, 14, 18], 2, 0.8), ([10, 11, 14, 18], 1, 0.1), ([1, 1, 8, 9], 1, 0.9),
    ):  # fmt: skip
        overlaps = [
            iou(box, other) if label in (None, kind) else 0.0
            for other, kind in zip(boxes, found["labels"].tolist(), strict=True)
        ]
        best = max(range(4), key=overlaps.__getitem__)
        p = found["scores"][best].item() if overlaps[best] >= least else 0.0
        for weighting, naive in (("score", p), ("iou", p * overlaps[best])):
            value = BoxScore(box, label, least, weighting)([found])
            assert value.item() == pytest.approx(naive)
            assert value.requires_grad


class Detector(nn.Module):
    """A detector of two boxes that do not move, their scores the mean of the maps below them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        maps = self.conv(x).relu().mean(1)
        results = []
        for one in maps:
            scores = torch.stack([one[:4, :4].mean(), one[4:, 4:].mean()]).tanh()
            boxes = torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8]], dtype=x.dtype)
            shown = scores > 0.05
            results.append(
                {
                    "boxes": boxes[shown],
                    "labels": torch.tensor([1, 2])[shown],
                    "scores": scores[shown],
                }
            )
        return results


def test_detection_explains_the_box():
    net = seeded(Detector(), 3)
    x = images(2, 3, 8, 8)
    assert all(len(found["scores"]) == 2 for found in net(x))
    targets = [BoxScore((0, 0, 4, 4), 1), BoxScore((4, 4, 8, 8), 2)]
    maps = LayerHiResCAM(net, net.conv).attribute(x, targets)
    assert maps[0, 0, :4, :4].any()
    assert not maps[0, 0, 4:].any()
    assert not maps[1, 0, :4].any()
    score_cam = LayerScoreCAM(net, net.conv).attribute(x, targets)
    assert score_cam.isfinite().all()
    with pytest.raises(
        ValueError, match=r"no detection in clean picture 0 .* of class 2, with IoU 1.00"
    ):
        LayerScoreCAM(net, net.conv).attribute(x, BoxScore((4, 4, 8, 8), 1))
    blank = LayerScoreCAM(net, net.conv).attribute(x, BoxScore((4, 4, 8, 8), 1, must_match=False))
    assert not blank.any()
    assert average_drop(net, x, maps, target=targets).shape == (2,)
    with torch.no_grad():
        net.conv.bias.fill_(-9)
    with pytest.raises(ValueError, match="it found nothing"):
        LayerScoreCAM(net, net.conv).attribute(x, targets[0])


def test_wrong_boxes():
    with pytest.raises(ValueError, match="x1 < x2"):
        BoxScore((4, 0, 2, 5))
    with pytest.raises(TypeError, match="a number"):
        BoxScore(("a", 0, 2, 5))
    with pytest.raises(ValueError, match="iou must be"):
        BoxScore((0, 0, 2, 5), iou=0)
    with pytest.raises(TypeError, match="label must be an int"):
        BoxScore((0, 0, 2, 5), "cat")
    net, layer, x = vgg_like()
    with pytest.raises(TypeError, match="needs a detector's output"):
        LayerScoreCAM(net, layer).attribute(x, BoxScore((0, 0, 2, 5)))


def test_similarity_to_an_embedding():
    net, layer, x = vgg_like()
    e = images(5, seed=2) - 0.5
    value = EmbeddingSimilarity(e)(net(x))
    named = EmbeddingSimilarity(e, "image_embeds")({"image_embeds": net(x), "text": None})
    for n, z in enumerate(net(x).tolist()):
        dot = sum(a * b for a, b in zip(z, e.tolist(), strict=True))
        length = math.sqrt(sum(a * a for a in z)) * math.sqrt(sum(b * b for b in e.tolist()))
        assert value[n].item() == pytest.approx(dot / length)
    assert torch.equal(named, value)
    assert EmbeddingSimilarity(e)(torch.zeros(1, 5)).item() == 0
    assert LayerScoreCAM(net, layer).attribute(x, [EmbeddingSimilarity(z) for z in net(x)]).any()
    for wrong, error in ((e[None], ValueError), (e * 0, ValueError), (e * torch.nan, ValueError),
                         (torch.ones(5).int(), TypeError)):  # fmt: skip
        with pytest.raises(error, match="embedding"):
            EmbeddingSimilarity(wrong)
    with pytest.raises(ValueError, match=r"embeddings \(N, 4\) are expected"):
        EmbeddingSimilarity(e[:4])(net(x))
    with pytest.raises(ValueError, match="no entry 'image'; it has image_embeds"):
        EmbeddingSimilarity(e, "image")({"image_embeds": net(x)})


@pytest.mark.parametrize("weighting", ["mean", "probability"])
def test_contrast_is_finer_cams_objective(weighting):
    net, layer, x = vgg_like()
    y = net(x)
    target = ClassContrast(2, [0, 4, 1], 0.6, weighting)
    for n, row in enumerate(y.tolist()):
        p = [math.exp(v) / sum(math.exp(w) for w in row) for v in row]
        weights = [p[d] if weighting == "probability" else 1.0 for d in (0, 4, 1)]
        terms = [w * (row[2] - 0.6 * row[d]) for w, d in zip(weights, (0, 4, 1), strict=True)]
        assert target(y)[n].item() == pytest.approx(sum(terms) / sum(weights))

    def published(output):
        w = output.softmax(1)[:, [0, 4, 1]]
        w = torch.ones_like(w) if weighting == "mean" else w
        return (w * (output[:, 2:3] - 0.6 * output[:, [0, 4, 1]])).sum(1) / w.sum(1)

    cam = LayerHiResCAM(net, layer)
    torch.testing.assert_close(cam.attribute(x, target), cam.attribute(x, published))
    torch.testing.assert_close(
        cam.attribute(x, ClassContrast(2, 0, 0.0, weighting)), cam.attribute(x, 2)
    )


def test_similar_classes_are_the_nearest():
    y = torch.tensor([[1.0, 5.0, 4.0, -9.0], [0.0, 9.0, 3.0, 4.0]])
    assert similar_classes(y, [1, 2], 2) == [(2, 0), (3, 0)]
    assert similar_classes(y, -1, 1) == [(0,), (2,)]
    with pytest.raises(ValueError, match="with more of them"):
        similar_classes(y, 1, 4)


def test_wrong_contrasts():
    for references in ([], [1], [2, 2], 1):
        with pytest.raises(ValueError, match="references must be classes other than 1"):
            ClassContrast(1, references)
    with pytest.raises(ValueError, match="gamma"):
        ClassContrast(1, [0], -1)
    with pytest.raises(ValueError, match="class 8 is out of range"):
        ClassContrast(1, [8])(torch.zeros(2, 3))


def test_regression():
    net, layer, x = vgg_like()
    up = LayerHiResCAM(net, layer).attribute(x, Regression(3))
    assert torch.equal(up, LayerHiResCAM(net, layer).attribute(x, 3))
    assert torch.equal(LayerHiResCAM(net, layer).attribute(x, Regression(3, "down")), -up)
    assert Regression()(torch.tensor([[1.0], [2.0]])).tolist() == [1, 2]
    assert Regression((1, 0))(torch.arange(8.0).reshape(2, 2, 2)).tolist() == [2, 6]
    with pytest.raises(ValueError, match="target is missing"):
        Regression()(torch.zeros(2, 3))


def test_scored_model_takes_targets_to_captums_methods():
    net, layer, x = vgg_like()
    target = ClassContrast(2, [0, 1])
    scored = ScoredModel(Returns(net, lambda y: {"logits": y}).eval(), target).eval()
    cam = LayerGradCam(scored, layer).attribute(x)
    expected = LayerGradCam(net, layer).attribute(x, 2) - 0.5 * (
        LayerGradCam(net, layer).attribute(x, 0) + LayerGradCam(net, layer).attribute(x, 1)
    )
    torch.testing.assert_close(cam, expected)
    assert IntegratedGradients(scored).attribute(x, n_steps=3).shape == x.shape
    each = ScoredModel(net, [target, ClassContrast(1, 3)])
    assert torch.equal(each(x)[1:], ClassContrast(1, 3)(net(x[1:])))
    with pytest.raises(ValueError, match="this attribution repeats examples"):
        IntegratedGradients(each).attribute(x, n_steps=3)
    with pytest.raises(TypeError, match="a list of callables, got int"):
        ScoredModel(net, 3)


def test_noisy_inputs_need_no_match():
    net = seeded(Detector(), 3)
    x = images(1, 3, 8, 8)
    target = BoxScore((0, 0, 4, 4), 1)
    cam = LayerSmoothGradCAMPlusPlus(net, net.conv)
    assert cam.attribute(x, target, n_samples=3, stdev=5.0).isfinite().all()


def test_torchvisions_segmentation_and_detection():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    models = torchvision.models
    x = torch.rand(1, 3, 64, 96)
    net = models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    mask = torch.zeros(64, 96).bool()
    mask[:32, :48] = True
    layer = net.backbone["16"]
    cam = LayerHiResCAM(net, layer).attribute(x, ClassOverRegion(1, mask))
    assert cam.shape == (1, 1, 4, 6)
    assert isinstance(net(x), Mapping)
    expected = LayerHiResCAM(lambda x: net(x)["out"][:, 1][:, mask].mean(1), layer).attribute(x)
    torch.testing.assert_close(cam, expected)


@pytest.mark.exhaustive
def test_torchvisions_detector():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=5, box_score_thresh=0.0,
        box_detections_per_img=10,
    ).eval()  # fmt: skip
    x = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        found = net(x)
    targets = [BoxScore(one["boxes"][0], int(one["labels"][0])) for one in found]
    cam = LayerGradCAMPlusPlus(net, list(net.backbone.body.children())[-1])
    maps = cam.attribute(x, targets)
    assert maps.isfinite().all()
    assert maps.any()
