"""Files of weights that try to run something, or to be taken for more than they are."""

import io
import json
import pickle
import struct
import tarfile
import zipfile

import pytest
import torch
from torch import nn
from torchvision import models

from captum_unioncam.vision.networks import NetworkError, load_network
from captum_unioncam.vision.weights import load_state

STATE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


class Evil:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def legacy(path, content):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def in_tar(path, content):
    """As torch wrote first; below 2.6 it is unpacked whatever weights_only says."""
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(content, 2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def plain(path, content):
    path.write_bytes(pickle.dumps(content))


def in_zip(path, content):
    """What torch.save writes, with another pickle in it."""
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for info, data in entries:
            harmful = pickle.dumps(content) if info.filename.endswith("data.pkl") else data
            archive.writestr(info.filename, harmful)


@pytest.mark.parametrize(
    "write", [torch.save, legacy, in_tar, plain, in_zip], ids=lambda w: w.__name__
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.SAFETENSORS", "w"])
def test_pickles_are_not_run(write, name, tmp_path):
    path, left = tmp_path / name, tmp_path / "executed"
    if write is torch.save:
        torch.save({"weight": Evil(left)}, path)
    else:
        write(path, {"weight": Evil(left)})
    with pytest.raises(NetworkError, match="is not a plain state dict") as caught:
        load_state(path, "")
    assert "\n" not in str(caught.value)
    assert not left.exists()
    # The file would run: of all places, only here.
    pickle.loads(pickle.dumps(Evil(left))).close()
    assert left.exists()


def test_torchscript_is_not_run(tmp_path, monkeypatch):
    """Its program may read and write files; torch below 2.6 runs it."""
    path = tmp_path / "model.pth"
    torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3)), path)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(NetworkError, match="is not a plain state dict"):
        load_state(path, "")


def test_tar_files_are_not_unpacked(tmp_path, monkeypatch):
    in_tar(tmp_path / "w.pth", STATE)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(NetworkError, match="is not a plain state dict"):
        load_state(tmp_path / "w.pth", "")


@pytest.mark.parametrize("write", [torch.save, lambda content, path: legacy(path, content)])
def test_plain_ones_are_read(write, tmp_path):
    write(STATE, tmp_path / "w.pth")
    found = load_state(tmp_path / "w.pth", "")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("header", [
    {"w": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4]}},
    {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4 * 10**9]}},
    {"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}},
    {"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
    {"../w": 3},
])  # fmt: skip
def test_safetensors_that_lie(header, tmp_path):
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(NetworkError, match="is not a plain state dict"):
        load_state(path, "")
    path.write_bytes(struct.pack("<Q", 2**60) + text)
    with pytest.raises(NetworkError, match="is not a plain state dict"):
        load_state(path, "")


def sparse():
    return torch.sparse_coo_tensor(torch.tensor([[3]]), torch.ones(1), (10**9,))


LARGE = {
    "repeated": lambda: torch.ones(1).expand(10**12),
    "sparse": sparse,
    "nowhere": lambda: torch.empty(10**12, device="meta"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_small_file_makes_no_large_network(kind, tmp_path):
    """The classes are counted from a tensor that is said to be large."""
    state = models.get_model("squeezenet1_1", weights=None, num_classes=3).state_dict()
    torch.save({**state, "classifier.1.bias": LARGE[kind]()}, tmp_path / "w.pth")
    with pytest.raises(NetworkError, match="holds .* of the 10+ values of classifier.1.bias"):
        load_network("squeezenet1_1", str(tmp_path / "w.pth"))


def test_a_tensor_without_values_counts_no_classes(tmp_path):
    state = models.get_model("squeezenet1_1", weights=None, num_classes=3).state_dict()
    torch.save({**state, "more": torch.empty(10**12, 0)}, tmp_path / "w.pth")
    with pytest.raises(NetworkError, match="does not fit the model: 0 tensors missing"):
        load_network("squeezenet1_1", str(tmp_path / "w.pth"))
