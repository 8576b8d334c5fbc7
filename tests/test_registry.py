"""The registry is complete and tells the truth."""

import re
from pathlib import Path

import pytest
import torch

import captum_unioncam
from captum_unioncam import METHODS
from captum_unioncam.commands import main as cli
from captum_unioncam.commands.methods import methods_table
from tests.methods import OURS
from tests.networks import NETWORKS
from tests.oracles import features, gradient, masks, searched

ROOT = Path(__file__).parents[1]
NAMES = {
    "cam": "LayerOriginalCAM",
    "gradcam": "LayerGradCam",
    "gradcam++": "LayerGradCAMPlusPlus",
    "smoothgradcam++": "LayerSmoothGradCAMPlusPlus",
    "xgradcam": "LayerXGradCAM",
    "augmentedgradcam": "LayerAugmentedGradCAM",
    "integratedgradcam": "LayerIntegratedGradCAM",
    "layercam": "LayerCAM",
    "hirescam": "LayerHiResCAM",
    "rise": "RISE",
    "scorecam": "LayerScoreCAM",
    "sscam": "LayerSSCAM",
    "iscam": "LayerISCAM",
    "fimfscorecam": "LayerFIMFScoreCAM",
    "groupcam": "LayerGroupCAM",
    "ablationcam": "LayerAblationCAM",
    "ablationcam++": "LayerAblationCAMPlusPlus",
    "reciprocam": "LayerReciproCAM",
    "vitreciprocam": "LayerViTReciproCAM",
    "fdcam": "LayerFDCAM",
    "featurecam": "LayerFeatureCAM",
    "grad++scorecam": "LayerGradPlusPlusScoreCAM",
    "unioncam": "LayerUnionCAM",
    "fusioncam": "LayerFusionCAM",
    "ones": "LayerOnesCAM",
    "random": "LayerRandomCAM",
    "center": "LayerCenterCAM",
}
# Compared with a naive version in a test file of their own, or defined by one line.
ORACLES_ELSEWHERE = {
    *("gradcam", "unioncam", "rise", "extremalperturbations", "vitreciprocam", "legrad"),
    *("ones", "random", "center"),
}


def test_names_and_classes():
    # Names that scripts use stay; methods that are added need no entry here.
    assert NAMES.items() <= {name: method.cls.__name__ for name, method in METHODS.items()}.items()
    for name, method in METHODS.items():
        if name != "gradcam":
            assert getattr(captum_unioncam, method.cls.__name__) is method.cls
            assert method.cls.__name__ in captum_unioncam.__all__


def test_every_method_has_an_oracle():
    oracles = gradient.ORACLES | masks.ORACLES | features.ORACLES | searched.ORACLES
    assert oracles.keys() | ORACLES_ELSEWHERE == set(METHODS)
    for name, oracle in oracles.items():
        assert oracle.cls is METHODS[name].cls


@pytest.mark.parametrize("name", METHODS)
def test_metadata(name):
    method = METHODS[name]
    assert method.forwards.at_most(8, 9) >= 1
    if method.source.year:
        assert method.source.link.startswith("https://")
        assert 2016 <= method.source.year <= 2026
        assert method.source.paper
    if name != "gradcam":
        assert method.cls.__doc__
        assert ">>>" in method.cls.__doc__ or ">>>" in method.cls.attribute.__doc__
        needs = getattr(method.cls, "needs_gradients", False)
        assert needs == method.needs_gradients
    if method.source.certainty == "our reading":
        assert "reading" in method.cls.__doc__, "the docstring must say that it is a reading"


@pytest.mark.filterwarnings("ignore:.*is blank for example")
@pytest.mark.parametrize("made", OURS, ids=lambda made: made.name)
def test_rows_forwarded_are_those_announced(made):
    made.accepts()
    net, layer, x = NETWORKS["vgg_like"]()
    rows, suffix_rows = [], []
    net.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))
    net[7].register_forward_hook(lambda m, args, out: suffix_rows.append(len(out)))
    cls = made.method.cls
    method = cls(net, layer) if made.method.needs_layer else cls(net)
    method.attribute(x[:1], 1)
    counted = suffix_rows if "suffix" in made.method.forwards.text else rows
    assert sum(counted) <= made.method.forwards.at_most(7, 36)


def test_command(capsys):
    assert cli.main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert all(line.split()[0] in METHODS for line in listed.splitlines()[1:])
    assert len(listed.splitlines()) == len(METHODS) + 1


def test_documented_table_is_the_registrys():
    page = (ROOT / "docs" / "methods.md").read_text()
    table = re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", page, re.DOTALL)
    assert table is not None
    assert table[1].strip() == methods_table(markdown=True)


@pytest.mark.filterwarnings("ignore:.*is blank for example")
def test_signed_maps_by_default():
    torch.manual_seed(0)
    net, layer, x = NETWORKS["signed"]()
    signed = {
        made.name
        for made in OURS
        if made.name not in ("cam", "vitreciprocam", "legrad")
        and (made(net, layer).attribute(x, 0) < -1e-6).any()
    }
    assert {"gradcam++", "xgradcam", "layercam", "hirescam", "scorecam", "ablationcam"} <= signed
