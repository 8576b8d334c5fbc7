"""Which data set is found in a folder, which pictures are chosen, where boxes end up."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from captum_unioncam.benchmark.data import (
    VOC_CLASSES,
    DataSet,
    Item,
    find_data,
    matched,
    mosaics_of,
    sampled,
)
from captum_unioncam.benchmark.loading import (
    Pictures,
    box_steps,
    moved,
    paper_preprocess,
    prepared,
    scale_of,
)
from captum_unioncam.vision.networks import Network, standard_preprocess

OBJECT = """<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>
<xmax>{}</xmax><ymax>{}</ymax></bndbox><part><name>head</name></part></object>"""


def draw(path, color=(90, 120, 30), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def network(names=(), preprocess=None):
    return Network("net", nn.Identity(), preprocess or paper_preprocess(), names)


def write_voc(root, annotations, image_set="test", year="2007", size=(400, 300)):
    """A VOC devkit: annotations per picture, (class, difficult, 4 corners as VOC counts them)."""
    base = root / "VOCdevkit" / f"VOC{year}"
    (base / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (base / "Annotations").mkdir(exist_ok=True)
    (base / "ImageSets" / "Main" / f"{image_set}.txt").write_text("\n".join(annotations) + "\n")
    for name, objects in annotations.items():
        draw(base / "JPEGImages" / f"{name}.jpg", size=size)
        text = "".join(OBJECT.format(*found) for found in objects)
        (base / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    return base


def test_a_folder_per_class(tmp_path):
    for folder, name in [("n2", "a.jpg"), ("n1", "b.PNG"), ("n1", "notes.txt"), ("n3", "c.jpeg")]:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "n25").mkdir()
    data = find_data(tmp_path)
    assert data.kind == "a folder per class (4 classes)"
    # An empty folder keeps its number, so that the others keep theirs.
    assert data.items == (Item("n1/b.PNG", (0,)), Item("n2/a.jpg", (1,)), Item("n3/c.jpeg", (3,)))


def test_folders_are_outputs_by_name_or_by_number(tmp_path):
    for folder in ("tiger_cat", "Espresso"):
        draw(tmp_path / folder / "a.jpg")
    data = find_data(tmp_path)
    named = matched(data, network(["tench", "espresso", "tiger cat"]), 3)
    assert named.items == (Item("Espresso/a.jpg", (1,)), Item("tiger_cat/a.jpg", (2,)))
    assert matched(data, network(["x", "y"]), 2).items == data.items
    unknown = matched(data, network(), 1000)
    assert unknown.items == (Item("Espresso/a.jpg"), Item("tiger_cat/a.jpg"))
    assert unknown.kind.endswith("2 classes unlike the network's 1000: labels unknown")
    assert not unknown.is_labelled
    # A name that two outputs have says nothing.
    assert not matched(data, network(["espresso", "tiger cat", "tiger cat"]), 3).is_labelled


def test_labels_csv(tmp_path):
    (tmp_path / "labels.csv").write_text(
        'file,class_index,class_name\nb.jpg,7,"loaf, French"\nin/a.jpg,0,tench\n'
    )
    data = find_data(tmp_path)
    assert data.kind == "pictures with labels.csv"
    assert data.items == (Item("b.jpg", (7,)), Item("in/a.jpg", (0,)))
    assert matched(data, network(), 8) is data
    with pytest.raises(ValueError, match=r"gives class 7 to b.jpg, but net has classes 0 to 6"):
        matched(data, network(), 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na.jpg,1\n", "must have the columns file and class_index.*got image, label"),
        ("file,class_index\na.jpg,cat\n", "line 2: needs a file and a class_index from 0"),
        ("file,class_index\na.jpg,-1\n", "line 2: needs a file and a class_index from 0"),
        ("file,class_index\na.jpg\n", "line 2: needs a file"),
        ("file,class_index\na.jpg,1\na.jpg,2\n", "line 3: a.jpg is there twice"),
        ("file,class_index\na.jpg,1\n./a.jpg,2\n", "line 3: a.jpg is there twice"),
        ("file,class_index\n../a.jpg,1\n", "line 2: ../a.jpg is outside"),
        ("file,class_index\n/a.jpg,1\n", "line 2: /a.jpg is outside"),
        ("file,class_index\n", "no pictures in it; looked for pictures with labels.csv"),
    ],
)
def test_wrong_labels_csv(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_data(tmp_path)


def test_labels_csv_in_another_encoding(tmp_path):
    (tmp_path / "labels.csv").write_text("file,class_index\n", encoding="utf-16")
    with pytest.raises(ValueError, match="labels.csv is no text in UTF-8"):
        find_data(tmp_path)


def test_pictures_alone(tmp_path):
    for name in ("b.jpg", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    data = find_data(tmp_path)
    assert (data.kind, data.items) == ("pictures without labels", (Item("a.png"), Item("b.jpg")))
    (tmp_path / "cache").mkdir()
    assert find_data(tmp_path).items == data.items
    (tmp_path / "cache" / "c.jpg").touch()
    with pytest.raises(ValueError, match=r"pictures \(a.png, ...\) and folders of pictures"):
        find_data(tmp_path)


def test_nothing_to_find(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        find_data(tmp_path / "none")
    with pytest.raises(ValueError, match="no pictures in it"):
        find_data(tmp_path)
    with pytest.raises(ValueError, match="--year and --image-set are for a VOC devkit"):
        find_data(tmp_path, year="2007")


def test_voc(tmp_path):
    write_voc(
        tmp_path,
        {
            "000001": [("dog", 0, 1, 1, 400, 300), ("person", 1, 11, 21, 30, 40)],
            "000002": [
                ("dog", 1, 5, 5, 9, 9),
                ("dog", 0, 9, 51, 30, 60),
                ("cat", 0, 1, 2, 3, 4),
            ],
            "000003": [("cow", 1, 5, 5, 9, 9)],
        },
    )
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2007"):
        data = find_data(root)
        assert data.kind == "VOC2007 test"
        assert data.root == tmp_path
    first, second, third = data.items
    cat, dog = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")
    assert first == Item(
        "VOCdevkit/VOC2007/JPEGImages/000001.jpg", (11,), ((dog, (0.0, 0.0, 400.0, 300.0)),)
    )
    # Difficult objects count where the class has another; a class of difficult ones does not.
    assert second.labels == (7, 11)
    assert second.objects == (
        (dog, (4.0, 4.0, 9.0, 9.0)), (dog, (8.0, 50.0, 30.0, 60.0)), (cat, (0.0, 1.0, 3.0, 4.0)),
    )  # fmt: skip
    assert (third.labels, third.objects) == ((), ())
    assert matched(data, network(), 20).items == data.items
    backwards = matched(data, network(VOC_CLASSES[::-1]), 20)
    assert backwards.items[0].labels == (19 - dog,)
    assert backwards.items[0].objects[0][0] == 19 - dog
    assert not matched(data, network(), 1000).has_boxes


def test_years_and_sets_of_voc(tmp_path):
    base = write_voc(tmp_path, {"1": [("dog", 0, 1, 1, 2, 2)]}, "val", "2012")
    assert find_data(tmp_path).kind == "VOC2012 val"
    with pytest.raises(ValueError, match="--image-set must be one of 'val', got 'test'"):
        find_data(tmp_path, image_set="test")
    write_voc(tmp_path, {"2": [("dog", 0, 1, 1, 2, 2)]})
    with pytest.raises(ValueError, match="holds VOC 2007 and 2012: give one with --year"):
        find_data(tmp_path)
    assert find_data(tmp_path, "2007").kind == "VOC2007 test"
    (base / "Annotations" / "1.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"1.xml: not an annotation of VOC \("):
        find_data(tmp_path, "2012")
    (base / "Annotations" / "1.xml").write_text(
        f"<annotation>{OBJECT.format('unicorn', 0, 1, 1, 2, 2)}</annotation>"
    )
    with pytest.raises(ValueError, match="not an annotation of VOC"):
        find_data(tmp_path, "2012")


def test_a_sample_is_the_same_every_time(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}.jpg").touch()
    data = find_data(tmp_path)
    state = torch.get_rng_state()
    chosen = sampled(data, 5, seed=3).items
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(chosen)) == 5
    assert sampled(data, 5, seed=3).items == chosen
    assert sampled(data, 5, seed=4).items != chosen
    assert sampled(data, 12, seed=3).items[:5] == chosen
    for n in (None, 20, 99):
        assert sorted(i.image for i in sampled(data, n, 3).items) == [i.image for i in data.items]


def test_the_digest_sees_other_pictures_and_labels(tmp_path):
    for folder in ("a", "b"):
        draw(tmp_path / folder / "x.png")
    data = find_data(tmp_path)
    before = data.sha256()
    assert find_data(tmp_path).sha256() == before
    assert sampled(data, 1, 0).sha256() != before
    assert matched(data, network(["b", "a"]), 2).sha256() != before
    draw(tmp_path / "b" / "x.png", size=(500, 500))
    assert find_data(tmp_path).sha256() != before


def test_boxes_follow_the_shorter_side_and_the_crop():
    # 400 x 300 to 341 x 256, then columns 58 to 282 and rows 16 to 240.
    objects = [
        (0, (100.0, 50.0, 300.0, 250.0)),
        (1, (0.0, 0.0, 400.0, 300.0)),
        (2, (380.0, 0.0, 400.0, 300.0)),
        (0, (60.0, 10.0, 100.0, 50.0)),
    ]
    x = 341 / 400
    y = 256 / 300
    expected = {
        0: [
            (100 * x - 58, 50 * y - 16, 300 * x - 58, 250 * y - 16),
            (0.0, 0.0, 100 * x - 58, 50 * y - 16),
        ],
        1: [(0.0, 0.0, 224.0, 224.0)],
    }
    usual = standard_preprocess([0.5] * 3, [0.5] * 3)
    older = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    for preprocess in (usual, older, ResNet18_Weights.DEFAULT.transforms()):
        found = moved(objects, (400, 300), box_steps(preprocess))
        assert found.keys() == expected.keys()
        for label, boxes in expected.items():
            np.testing.assert_allclose(found[label], boxes, atol=1e-3)


def test_boxes_follow_what_the_pixels_do():
    picture = Image.new("RGB", (210, 140))
    box = (60, 42, 105, 112)
    picture.paste((255, 255, 255), box)
    for preprocess in (
        standard_preprocess([0.0] * 3, [1.0] * 3),
        ResNet18_Weights.DEFAULT.transforms(),
        v2.Compose([v2.PILToTensor(), v2.CenterCrop((160, 96)), v2.ToDtype(torch.float32, True)]),
        paper_preprocess(),
    ):
        seen = network(preprocess=preprocess).prepare(picture)[2][0, 0]
        rows, columns = (seen > 0.5).nonzero().T
        measured = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        [found] = moved([(0, tuple(map(float, box)))], picture.size, box_steps(preprocess))[0]
        np.testing.assert_allclose(found, [int(edge) for edge in measured], atol=1)


def test_boxes_under_the_papers_resizing():
    found = moved([(4, (100.0, 50.0, 300.0, 250.0))], (400, 300), box_steps(paper_preprocess()))
    expected = [(100 * 0.56, 50 * 224 / 300, 300 * 0.56, 250 * 224 / 300)]
    np.testing.assert_allclose(found[4], expected, atol=1e-3)


def test_boxes_that_hold_no_pixel_are_dropped():
    objects = [(0, (2.0, 2.0, 2.5, 9.0)), (0, (2.0, 2.0, 2.6, 9.0)), (1, (2.6, 2.0, 3.4, 9.0))]
    assert moved(objects, (9, 9), []) == {0: [(2.0, 2.0, 2.6, 9.0)]}
    assert moved([], (9, 9), []) == {}


def test_boxes_cannot_follow_unknown_steps(tmp_path):
    steps = [v2.PILToTensor(), v2.RandomHorizontalFlip(), v2.CenterCrop(8)]
    with pytest.raises(ValueError, match="cannot follow the step RandomHorizontalFlip"):
        box_steps(v2.Compose(steps))
    with pytest.raises(ValueError, match="cannot follow the step function"):
        box_steps(lambda picture: torch.zeros(3, 8, 8))
    # Without boxes any preprocessing will do.
    draw(tmp_path / "a.jpg")
    own = network(preprocess=lambda picture: torch.zeros(3, 8, 8))
    assert Pictures(find_data(tmp_path), own)[0].x.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_are_prepared_in_order(tmp_path, workers):
    for number in range(6):
        draw(tmp_path / f"{number}.png", color=(40 * number, 0, 0))
    (tmp_path / "3.png").write_bytes(b"no picture")
    data = find_data(tmp_path)
    state = torch.get_rng_state()
    found = list(prepared(Pictures(data, network()), [4, 3, 0, 5], workers))
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.item.image for p in found] == ["4.png", "3.png", "0.png", "5.png"]
    assert "3.png: not a readable picture" in found[1].error
    assert [p.error for p in found if p is not found[1]] == ["", "", ""]
    x, black, shown = found[0].x, found[0].black, found[0].shown
    assert x.shape == (1, 3, 224, 224)
    torch.testing.assert_close(x[0, :, 5, 5], torch.tensor([160 / 255, 0, 0]))
    assert not black.any()
    assert torch.equal(shown, x)


def test_a_preprocessing_that_fails_is_said(tmp_path):
    def strict(picture):
        if picture.size[0] < 30:
            raise RuntimeError("too small")
        return torch.zeros(3, 8, 8)

    draw(tmp_path / "a.png", size=(20, 20))
    draw(tmp_path / "b.png")
    small, fine = (Pictures(find_data(tmp_path), network(preprocess=strict))[i] for i in (0, 1))
    assert (small.error, fine.error) == ("too small", "")


@pytest.mark.parametrize(
    ("preprocess", "rows", "columns"),
    [
        (paper_preprocess(), 224 / 375, 224 / 500),
        (v2.Compose([v2.Resize(100), v2.CenterCrop(60)]), 100 / 375, 133 / 500),
        (v2.Compose([v2.Resize(375), v2.CenterCrop(2)]), 1, 1),
        (v2.PILToTensor(), 1, 1),
    ],
)
def test_the_scale_of_a_preprocessing(preprocess, rows, columns):
    assert scale_of((500, 375), box_steps(preprocess)) == pytest.approx((rows, columns))


def test_mosaics_use_every_picture_at_most_once(tmp_path):
    items = tuple(Item(f"{i}.png", (i // 2,)) for i in range(18))
    data = DataSet("some", tmp_path, items)
    mosaics = mosaics_of(data, 2, seed=3)
    assert len(mosaics) == 4
    used = [image for mosaic in mosaics for image in mosaic.cells]
    assert len(set(used)) == len(used) == 16
    label = {item.image: item.labels[0] for item in items}
    for mosaic in mosaics:
        assert mosaic.labels == tuple(label[image] for image in mosaic.cells)
        assert len(set(mosaic.labels)) == 4
        assert mosaic.image == " + ".join(mosaic.cells)
    assert mosaics_of(data, 2, seed=3) == mosaics
    assert mosaics_of(data, 2, seed=4) != mosaics
    assert [len(mosaic.cells) for mosaic in mosaics_of(data, 3, seed=0)] == [9, 9]
    with pytest.raises(ValueError, match="a mosaic of 16 cells needs 16 different classes, got 9"):
        mosaics_of(data, 4, seed=0)
    with pytest.raises(ValueError, match="pictures with one label each.*got some"):
        mosaics_of(DataSet("some", tmp_path, (*items, Item("x.png"))), 2, seed=0)


def test_the_digest_of_mosaics_is_that_of_their_pictures(tmp_path):
    for i in range(4):
        draw(tmp_path / f"{i}.png")
    items = tuple(Item(f"{i}.png", (i,)) for i in range(4))
    plain = DataSet("some", tmp_path, items)
    [mosaic] = mosaics_of(plain, 2, seed=0)
    both = DataSet("some", tmp_path, (*items, mosaic))
    before = plain.sha256(), both.sha256()
    assert len(set(before)) == 2
    draw(tmp_path / "2.png", size=(80, 60))
    assert plain.sha256() != before[0]
    assert DataSet("some", tmp_path, (mosaic,)).sha256() != both.sha256() != before[1]


def test_mosaics_are_prepared_cell_by_cell(tmp_path):
    for i in range(4):
        draw(tmp_path / f"{i}.png", color=(60 * i, 0, 0))
    data = DataSet("some", tmp_path, tuple(Item(f"{i}.png", (i,)) for i in range(4)))
    [mosaic] = mosaics_of(data, 2, seed=0)
    made = Pictures(DataSet("some", tmp_path, (mosaic,)), network())[0]
    assert made.x.shape == made.black.shape == made.shown.shape == (1, 3, 224, 224)
    for cell, label in enumerate(mosaic.labels):
        row, column = divmod(cell, 2)
        corner = made.x[0, 0, 112 * row : 112 * (row + 1), 112 * column : 112 * (column + 1)]
        torch.testing.assert_close(corner, torch.full((112, 112), 60 * label / 255))
    assert not made.black.any()
    (tmp_path / "1.png").write_bytes(b"no picture")
    assert (
        "1.png: not a readable picture"
        in Pictures(DataSet("some", tmp_path, (mosaic,)), network())[0].error
    )


def test_another_photograph_is_the_next_that_fits(tmp_path):
    for i in range(4):
        draw(tmp_path / f"{i}.png", color=(60 * i, 0, 0), size=(40, 30) if i != 2 else (30, 40))
    (tmp_path / "1.png").write_bytes(b"no picture")
    data = find_data(tmp_path)
    fitting = Pictures(data, network(preprocess=v2.Compose([v2.PILToTensor()])), others=True)
    # The second is broken, the third of another size.
    assert fitting[0].other[0, 0, 0, 0] == 180
    assert fitting[3].other[0, 0, 0, 0] == 0
    assert "no other photograph" in fitting[2].error
    assert Pictures(data, network())[0].other.numel() == 0
    [mosaic] = mosaics_of(
        DataSet("", tmp_path, tuple(Item(f"{i}.png", (i,)) for i in range(4))), 2, 0
    )
    with_mosaic = DataSet("", tmp_path, (Item("0.png"), mosaic, Item("3.png")))
    both = Pictures(with_mosaic, network(), others=True)
    torch.testing.assert_close(both[0].other[0, 0, 0, 0], torch.tensor(180 / 255))
