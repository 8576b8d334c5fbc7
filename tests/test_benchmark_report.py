"""Means, intervals and differences of hand-computed cases, and how the report says them."""

import csv
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from captum_unioncam.benchmark.gallery import most_disputed
from captum_unioncam.benchmark.measure_picture import disagreement
from captum_unioncam.benchmark.presets import PRESETS, labelled
from captum_unioncam.benchmark.report import means_table, write_report
from captum_unioncam.benchmark.rows import appending
from captum_unioncam.benchmark.settings import keep
from captum_unioncam.benchmark.table import Estimate, resampled, table_of
from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.metrics import METRICS, metric_of
from tests.test_benchmark_rows import SETTINGS


def row(image, method, drop, *, label=0, predicted=0, seconds=1.0, metric="average_drop"):
    return {
        "image": image,
        "class": label,
        "predicted": predicted,
        "labels": [label],
        "method": method,
        "metrics": {metric: drop},
        "disagreement": 0.0,
        "forwards": 3.0,
        "seconds": seconds,
        "row": 1,
        "rows": 1,
    }


def two_methods(*drops):
    return [
        row(f"{i:03}", method, drop)
        for i, pair in enumerate(drops)
        for method, drop in zip(("Grad-CAM", "UnionCAM"), pair, strict=True)
    ]


def test_the_resamples_of_three_images():
    values = np.array([0.0, 3.0, 12.0])
    means, drawn = resampled([values], [0, 1, 2], resamples=20_000)
    assert means == [5.0]
    exact = sorted(np.mean(draw) for draw in itertools.product(values, repeat=3))
    found, counts = np.unique(drawn, return_counts=True)
    expected, expected_counts = np.unique(exact, return_counts=True)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(counts / 20_000, expected_counts / 27, atol=0.01)
    # 0 is drawn three times in 1 of 27 cases, more than 2.5 %; so is 12.
    assert table_of(
        [row(str(i), m, v) for i, v in enumerate(values) for m in SETTINGS.methods], SETTINGS
    ).means["Grad-CAM"]["average_drop"] == Estimate(5.0, 0.0, 12.0)


def test_the_interval_of_many_images_is_the_normal_one():
    values = np.random.default_rng(1).normal(3, 2, 400)
    _, drawn = resampled([values], range(400))
    low, high = np.percentile(drawn[:, 0], [2.5, 97.5])
    half = 1.96 * values.std() / 20
    assert abs(low - (values.mean() - half)) < 0.02
    assert abs(high - (values.mean() + half)) < 0.02


def test_rows_of_one_image_are_drawn_together():
    # Image 0 has two rows: it is drawn twice (mean 3), once (all three rows) or never (8).
    means, drawn = resampled([np.array([2.0, 4.0, 8.0])], [0, 0, 1])
    np.testing.assert_allclose(means, [14 / 3])
    np.testing.assert_allclose(np.unique(drawn[:, 0].round(9)), [3.0, round(14 / 3, 9), 8.0])


def test_columns_see_the_same_draws():
    values = np.random.default_rng(0).normal(size=50)
    _, drawn = resampled([values, values + 0.5], range(50))
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], 0.5)
    again = resampled([values + 0.5], range(50))[1]
    np.testing.assert_array_equal(again[:, 0], drawn[:, 1])


def test_the_best_threshold_is_chosen_per_resample():
    hits = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    means, drawn = resampled([hits, np.array([[1.0, 0.0], [0.0, 1.0]])], [0, 1])
    np.testing.assert_array_equal(means, [1.0, 0.5])
    assert set(drawn[:, 0]) == {1.0}
    assert set(drawn[:, 1]) == {0.5, 1.0}


def test_paired_differences():
    drops = [(20.0 + i, 19.0 + i) for i in range(10)]
    table = table_of(two_methods(*drops)[::-1], SETTINGS)
    assert table.reference == "UnionCAM"
    assert list(table.differences) == ["Grad-CAM"]
    difference = table.differences["Grad-CAM"]["average_drop"]
    # The same in every image, however much images differ.
    np.testing.assert_allclose(difference, (1.0, 1.0, 1.0))
    assert difference.excludes_zero
    mixed = table_of(two_methods((1.0, 0.0), (0.0, 1.0)), SETTINGS)
    assert mixed.differences["Grad-CAM"]["average_drop"] == Estimate(0.0, -1.0, 1.0)
    assert not mixed.differences["Grad-CAM"]["average_drop"].excludes_zero
    assert not Estimate(1.0, 0.0, 2.0).excludes_zero
    assert Estimate(-1.0, -2.0, -0.1).excludes_zero


@pytest.mark.parametrize(
    ("first", "second", "reference"),
    [
        ("gradcam", "scorecam", ""),
        ("gradcam", "unioncam.region", ""),
        ("gradcam", "unioncam:theta=30", "UnionCAM"),
        ("unioncam:theta=30", "unioncam", "UnionCAM"),
        ("unioncam:theta=30", "unioncam:theta=50", "Grad-CAM"),
    ],
)
def test_compared_is_with_unioncam_in_whole(first, second, reference):
    other = replace(SETTINGS, methods={"Grad-CAM": first, "UnionCAM": second})
    table = table_of(two_methods((1.0, 2.0)), other)
    assert table.reference == reference
    assert set(table.differences) == (
        {"Grad-CAM", "UnionCAM"} - {reference} if reference else set()
    )


def test_the_order_of_rows_does_not_matter():
    rows = two_methods(*np.random.default_rng(0).normal(20, 5, (30, 2)).tolist())
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    assert table_of(shuffled, SETTINGS) == table_of(rows, SETTINGS)


def test_classes_count_alike_over_classes():
    rows = [
        row(image, method, hit, label=label)
        for method in SETTINGS.methods
        for image, label, hit in [("a", 0, 1.0), ("b", 0, 1.0), ("c", 0, 1.0), ("d", 7, 0.0)]
    ]
    table = table_of(rows, SETTINGS)
    assert table.means["UnionCAM"]["average_drop"].mean == 0.75
    assert table.over_classes["UnionCAM"]["average_drop"] == 0.5


def write_run(folder, rows, settings=SETTINGS):
    keep(settings, folder)
    with appending(folder / "rows-0.jsonl") as append:
        for image in rows:
            append([image])
    return write_report(folder)


def test_the_report_says_it(tmp_path):
    rows = two_methods(*[(30.0 + i, 20.0 + i) for i in range(25)])
    rows[1]["seconds"] = 5.0
    rows[0]["predicted"] = 4
    errors = [{"image": f"bad{i:02}.jpg", "error": "no picture"} for i in range(12)]
    keep(SETTINGS, tmp_path)
    with appending(tmp_path / "rows-0.jsonl") as append:
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            append([first, second])
        for error in errors:
            append([error])
    table = write_report(tmp_path)
    assert (table.images, table.pairs, len(table.errors)) == (25, 25, 12)
    assert table.accuracy == 0.96
    text = (tmp_path / "report.md").read_text()
    for part in (
        "# 2 methods on 25 pictures",
        "Measured: 25 pictures; 12 could not be.",
        "is among the labels of 96.0 %",
        "Layer: `features.3`.",
        "Class explained: the most probable class.",
        SETTINGS.command(tmp_path),
        "Average drop % ↓",
        "42.0 [",
        "**+10 [+10, +10]** ▼",
        "bad09.jpg: no picture",
        "and 2 more",
        "`--alone` measures",
    ):
        assert part in text
    assert "bad10" not in text
    assert "relative time" not in text
    assert "too narrow" not in text
    lines = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    assert [(line["method"], line["metric"]) for line in lines] == list(
        itertools.product(SETTINGS.methods, ("average_drop", "forwards", "seconds"))
    )
    assert lines[0]["spec"] == "gradcam"
    assert float(lines[0]["mean"]) == 42.0
    assert float(lines[0]["difference"]) == 10.0
    assert (lines[0]["excludes_zero"], lines[3]["difference"]) == ("True", "")
    before = (tmp_path / "report.csv").read_bytes()
    write_report(tmp_path)
    assert (tmp_path / "report.csv").read_bytes() == before
    assert not list(tmp_path.glob(".*partial"))


def test_times_compare_where_methods_ran_alone(tmp_path):
    rows = two_methods((1.0, 2.0), (3.0, 4.0))
    for i, found in enumerate(rows):
        found["seconds"] = [0.5, 2.0][i % 2]
    keep(replace(SETTINGS, alone=True), tmp_path)
    with appending(tmp_path / "rows-0.jsonl") as append:
        append(rows[:2])
        append(rows[2:])
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    cells = [line.split("|")[-2].strip() for line in text.splitlines() if line.startswith("| ")]
    assert [cells[0], *cells[2:4]] == ["relative time", "1.00", "4.00"]
    assert "intervals are too narrow" in text


def test_better_and_worse_follow_the_metrics_direction(tmp_path):
    settings = replace(SETTINGS, metrics=["insertion"])
    keep(settings, tmp_path)
    with appending(tmp_path / "rows-0.jsonl") as append:
        for i in range(20):
            append(
                [
                    row(str(i), "Grad-CAM", 0.25, metric="insertion"),
                    row(str(i), "UnionCAM", 0.5, metric="insertion"),
                ]
            )
    write_report(tmp_path)
    assert "**-0.25 [-0.25, -0.25]** ▼" in (tmp_path / "report.md").read_text()


def test_a_report_of_errors_alone(tmp_path):
    table = write_run(tmp_path, [{"image": "bad.jpg", "error": "broken"}])
    assert (table.images, table.means, table.accuracy) == (0, {}, None)
    text = (tmp_path / "report.md").read_text()
    assert "bad.jpg: broken" in text
    assert "## Means" not in text


def test_disagreement():
    ramp = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert disagreement([ramp], (2, 2)) == 0
    assert disagreement([ramp, 3 * ramp + 5], (2, 2)) == pytest.approx(0, abs=1e-12)
    assert disagreement([ramp, -ramp], (2, 2)) == pytest.approx(2)
    # Columns against rows: no correlation. With the ramp 0 1 2 3, r is 1/sqrt(5) and 2/sqrt(5).
    columns, rows = torch.tensor([[[[0.0, 1], [0, 1]]]]), torch.tensor([[[[0.0, 0], [1, 1]]]])
    assert disagreement([columns, rows], (2, 2)) == pytest.approx(1)
    three = disagreement([ramp, columns, rows], (2, 2))
    assert three == pytest.approx((3 - 3 / 5**0.5) / 3)
    flat = torch.full((1, 1, 3, 3), 0.1)
    assert disagreement([flat, flat], (7, 7)) == 1
    tiny = [scale * ramp for scale in (1.0, 1e-10, 1e-30)]
    assert disagreement(tiny, (8, 8)) == pytest.approx(0, abs=1e-6)
    # Maps of other sizes are compared at the size of the input.
    large = torch.nn.functional.interpolate(ramp, (8, 8), mode="bilinear")
    assert disagreement([ramp, large], (8, 8)) == pytest.approx(0, abs=1e-6)


def test_the_most_disputed_images():
    found = [row(f"{i}", "UnionCAM", 0.0) | {"disagreement": i % 4} for i in range(9)]
    assert list(most_disputed([*found, {"image": "x", "error": "broken"}], 4)) == [
        "3",
        "7",
        "2",
        "6",
    ]


def test_presets_name_what_there_is():
    for name, preset in PRESETS.items():
        labels = labelled(preset.methods)
        assert "unioncam" in labels.values(), name
        assert {metric.partition(":")[0] for metric in preset.metrics} <= set(METRICS)
        assert all(metric_of(metric).title for metric in preset.metrics)
    assert list(labelled(PRESETS["ablation"].methods)) == [
        *("Grad-CAM", "UnionCAM denoised", "UnionCAM region", "UnionCAM union", "UnionCAM")
    ]
    theta = [parse_spec(spec).options for spec in PRESETS["theta"].methods]
    swept = {(o.get("theta", 10), o.get("denoise_on", "all")) for o in theta}
    assert swept == set(itertools.product((0, 10, 30, 50, 70, 90), ("all", "positive")))
    assert len(theta) == 12


def test_methods_that_are_no_methods():
    with pytest.raises(ValueError, match="names no method"):
        labelled([])
    with pytest.raises(ValueError, match="names 'gradcam' twice"):
        labelled(["gradcam", "unioncam", "gradcam"])
    with pytest.raises(ValueError, match="no method 'unioncm'; closest: 'unioncam'"):
        labelled(["unioncm"])


POINTING = "grid_pointing_at_area:area=0.25"


def of_three(values, metric):
    """Rows of Grad-CAM, UnionCAM and a control, all with one metric."""
    return [
        row(f"{metric}{i:03}", method, value, metric=metric)
        for i, triple in enumerate(values)
        for method, value in zip(("Grad-CAM", "UnionCAM", "All ones"), triple, strict=True)
    ]


def with_controls():
    methods = {"Grad-CAM": "gradcam", "UnionCAM": "unioncam", "All ones": "ones"}
    return replace(SETTINGS, methods=methods, metrics=["average_drop", POINTING])


def test_rivals_are_the_best_others_that_are_no_controls():
    table = table_of(of_three([(20.0 + i, 18.0 + i, 0.0) for i in range(9)], "average_drop"),
                     with_controls())  # fmt: skip
    rivals = {method: found["average_drop"] for method, found in table.rivals.items()}
    assert {m: r.method for m, r in rivals.items()} == {
        "Grad-CAM": "UnionCAM", "UnionCAM": "Grad-CAM", "All ones": "UnionCAM"
    }  # fmt: skip
    assert rivals["Grad-CAM"].difference == Estimate(2.0, 2.0, 2.0)
    assert rivals["UnionCAM"].difference == Estimate(-2.0, -2.0, -2.0)
    assert rivals["All ones"].difference.mean == -22.0


def test_mosaics_are_a_kind_of_rows_of_their_own(tmp_path):
    settings = with_controls()
    drops = of_three([(20.0 + i, 18.0 + i, 0.0) for i in range(9)], "average_drop")
    shares = of_three([(0.9, 0.5 + i / 10, 0.25) for i in range(3)], POINTING)
    table = table_of([*shares, *drops], settings)
    assert (table.images, table.mosaics, table.pairs) == (9, 3, 9)
    assert table.means["UnionCAM"][POINTING].mean == pytest.approx(0.6)
    assert table.means["UnionCAM"]["average_drop"].mean == pytest.approx(22.0)
    # Each kind is drawn by its own images, as it would be alone.
    assert table.means["UnionCAM"] == {
        **table_of(drops, settings).means["UnionCAM"],
        **table_of(shares, settings).means["UnionCAM"],
    }


def test_how_often_a_method_is_better(tmp_path):
    settings = with_controls()
    drops = of_three([(20.0 + i, 18.0 + i, 0.0) for i in range(9)], "average_drop")
    shares = of_three([(0.9, 0.5 + i / 10, 0.25) for i in range(3)], POINTING)
    keep(settings, tmp_path)
    with appending(tmp_path / "rows-0.jsonl") as append:
        for image in sorted({one["image"] for one in [*drops, *shares]}):
            append([one for one in [*drops, *shares] if one["image"] == image])
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Measured: 9 pictures, 3 mosaics of 2 x 2 of them; none was skipped." in text
    section = text.partition("## Better and worse")[2]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| ")
    ]
    assert lines[0][1:3] == ["better than UnionCAM", "worse than UnionCAM"]
    found = {line[0]: line[1:] for line in lines[2:]}
    assert found["Grad-CAM"] == ["1 of 2"] * 4
    assert found["UnionCAM"][:2] == ["–", "–"]
    assert found["UnionCAM"][2:4] == ["1 of 2", "1 of 2"]
    pointing = "Grid pointing at area area=0.25"
    assert [line for line in section.splitlines() if line.startswith("- ")] == [
        "- Grad-CAM is worse than UnionCAM on Average drop.",
        "- Grad-CAM is worse than the best other on Average drop.",
        f"- UnionCAM is worse than the best other on {pointing}.",
        f"- All ones is worse than UnionCAM on {pointing}.",
        f"- All ones is worse than the best other on {pointing}.",
    ]
    assert "Of fewer than 20 images or mosaics such intervals are too narrow." in text
    assert found["All ones"][2:4] == ["1 of 2", "1 of 2"]
    with (tmp_path / "report.csv").open(newline="") as file:
        by_metric = {(r["method"], r["metric"]): r for r in csv.DictReader(file)}
    assert by_metric["Grad-CAM", POINTING]["best_other"] == "UnionCAM"
    assert float(by_metric["Grad-CAM", POINTING]["from_best_other"]) == pytest.approx(0.3)


def test_metrics_of_mosaics_not_reached_yet_are_blank():
    settings = with_controls()
    drops = of_three([(20.0 + i, 18.0 + i, 0.0) for i in range(9)], "average_drop")
    lines = means_table(table_of(drops, settings), settings)
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert (cells[0], cells[2]) == ("Grad-CAM", "–")
