"""The page on experiment trackers: its code runs, and what it logged is the comparison."""

import io
import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from tests.test_docs import BLOCK, DOCS

COMPARISON, TENSORBOARD, MLFLOW = (
    match[3] for match in BLOCK.finditer((DOCS / "trackers.md").read_text())
)


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """Return a function that runs a block of the page after its first one."""
    monkeypatch.chdir(tmp_path)

    def run(block):
        names = {}
        exec(COMPARISON, names)
        exec(block, names)
        return names["result"]

    return run


def pixels_of(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def pixels_in(content):
    with Image.open(content) as image:
        return np.asarray(image.convert("RGB"))


def test_tensorboard(logged, tmp_path):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard, which the extra dev brings, is not installed",
    )
    result = logged(TENSORBOARD)
    events = accumulators.EventAccumulator(str(tmp_path / "runs" / "maps")).Reload()
    tags = events.Tags()
    [shown] = events.Images("maps")
    assert shown.step == 3
    drawn = pixels_in(io.BytesIO(shown.encoded_image_string))
    assert np.array_equal(drawn, pixels_of(result.figure()))
    [table] = events.Tensors(tags["tensors"][0])
    lines = table.tensor_proto.string_val[0].decode().splitlines()
    assert lines == [f"    {line}" for line in repr(result).splitlines()]
    wanted = {
        f"{metric}/{row['method']}": row[metric]
        for row in result.summary()
        for metric in result.metrics
    }
    assert len(wanted) == 4
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    assert found == {tag: [(3, pytest.approx(value))] for tag, value in wanted.items()}


def test_mlflow(logged, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    result = logged(MLFLOW)
    run = mlflow.last_active_run()
    for row in result.summary():
        for metric in result.metrics:
            value = run.data.metrics[f"{metric}/{row['method']}"]
            assert value == pytest.approx(row[metric])

    def artifact(name):
        return mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name)

    assert np.array_equal(pixels_in(artifact("maps.png")), pixels_of(result.figure()))
    with open(artifact("rows.json"), encoding="utf-8") as file:
        table = json.load(file)
    assert len(table["data"]) == len(result.rows) == 4
    column = table["columns"].index("insertion")
    assert [row[column] for row in table["data"]] == pytest.approx(
        [row["insertion"] for row in result.rows]
    )
    with open(artifact("maps.html"), encoding="utf-8") as file:
        assert file.read().startswith("<!doctype html>")
