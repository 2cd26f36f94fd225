"""python -m stylegan2 convert: published files to folders, folders to ONNX."""

import builtins
import hashlib
import json
import os
import subprocess
import sys

import jaxtyping
import numpy as np
import pytest
import torch

from stylegan2.commands.convert import Convert
from stylegan2.commands.sample import Sample
from stylegan2.convert import export_onnx, from_published
from stylegan2.files import load_module, load_tensors
from stylegan2.weights import load
from tests.stylegan2 import reference

D_LATENT = 12


def written(path, classes=0, drop=None):
    """An .npz of random networks with the channels min(16, 6·2^k); those whose names hold `drop` are left out."""
    tensors = reference.random_tensors(16, channels={4: 16, 8: 12, 16: 6}, d=D_LATENT, classes=classes)
    tensors = {name: tensor for name, tensor in tensors.items() if drop is None or drop not in name}
    np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    return path, tensors


@pytest.fixture
def converted(tmp_path):
    """A folder of converted networks, and the tensors that they came from."""
    path, tensors = written(tmp_path / "network.npz")
    Convert(path, tmp_path / "converted").execute()
    return tmp_path / "converted", tensors


def test_a_converted_generator_makes_the_images_of_the_published(converted):
    folder, tensors = converted
    trained = load(folder)
    z = torch.randn(3, D_LATENT, generator=torch.Generator().manual_seed(1))
    ws = reference.truncated(tensors, reference.mapping(tensors, z), 0.7, layers=6)
    theirs = reference.synthesis(tensors, ws, "const")  # stored maps: its training had noise
    torch.testing.assert_close(trained(z, 0.7), theirs, rtol=0, atol=1e-5 * (theirs.max() - theirs.min()).item())


def test_the_folder(converted, tmp_path):
    folder, tensors = converted
    settings = load(folder).settings
    assert (settings.resolution, settings.n_features, settings.max_features) == (16, 6, 16)
    assert (settings.d_latent, settings.mapping_layers, settings.noise, settings.labels) == (D_LATENT, 2, True, False)
    content = (tmp_path / "network.npz").read_bytes()
    assert json.loads((folder / "run.json").read_text()) == {
        "converted_from": "network.npz", "sha256": hashlib.sha256(content).hexdigest()}
    _, _, discriminator = from_published(tensors)
    saved, _ = load_tensors(folder / "discriminator.safetensors")
    assert {name.removeprefix("discriminator."): tensor.shape for name, tensor in saved.items()} == {
        name: tensor.shape for name, tensor in discriminator.state_dict().items()}
    weights = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    load_module("discriminator", discriminator, saved, folder)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in discriminator.state_dict().items())


def test_sample_takes_the_folder(converted, tmp_path):
    Sample(run=converted[0], out=tmp_path / "grid.png", rows=2, columns=2).execute()
    assert (tmp_path / "grid.png").stat().st_size > 0


def test_with_classes(tmp_path):
    path, tensors = written(tmp_path / "network.npz", classes=5)
    Convert(path, tmp_path / "converted").execute()
    trained = load(tmp_path / "converted")
    assert trained.settings.labels
    z, labels = torch.randn(3, D_LATENT), torch.tensor([4, 0, 2])
    ws = reference.truncated(tensors, reference.mapping(tensors, z, labels), 1.0, layers=6)
    theirs = reference.synthesis(tensors, ws, "const")
    assert (trained(z, 1.0, labels) - theirs).abs().max() <= 1e-5 * (theirs.max() - theirs.min())


def test_without_a_discriminator(tmp_path, capsys):
    Convert(written(tmp_path / "a.npz", drop="D.")[0], tmp_path / "a").execute()
    assert "no discriminator (the file has none)" in capsys.readouterr().out
    # A discriminator of another architecture does not keep the generator from being read.
    Convert(written(tmp_path / "b.npz", drop=".skip.")[0], tmp_path / "b").execute()
    assert "no discriminator (missing: D.b16.skip.weight, D.b8.skip.weight." in capsys.readouterr().out
    for name in "ab":
        assert not (tmp_path / name / "discriminator.safetensors").exists()
        load(tmp_path / name)


def test_nothing_is_overwritten(converted, tmp_path):
    folder, _ = converted
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        Convert(tmp_path / "network.npz", folder).execute()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "g.onnx").write_text("mine")
    with pytest.raises(FileExistsError, match=r"g\.onnx exists"):
        Convert(folder, tmp_path / "g.onnx").execute()
    assert (tmp_path / "g.onnx").read_text() == "mine"


def test_a_failure_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"a\.npz: missing: G\.synthesis\.b8\.conv1\.bias"):
        Convert(written(tmp_path / "a.npz", drop="b8.conv1.bias")[0], tmp_path / "a").execute()
    with pytest.raises(ValueError, match=r"b\.npz: there is no generator in it"):
        Convert(written(tmp_path / "b.npz", drop="G.")[0], tmp_path / "b").execute()
    with pytest.raises(FileNotFoundError):
        Convert(tmp_path / "none.pkl", tmp_path / "c").execute()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.fixture
def unchecked():
    """Without shape checks: an export traces with symbols, which are not the numbers that annotations promise."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_onnx_with_any_batch_size(converted, tmp_path, unchecked):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "new" / "generator.onnx"
    Convert(converted[0], path).execute()
    assert [other.name for other in path.parent.iterdir()] == ["generator.onnx"]  # no second file with the weights
    session, trained = onnxruntime.InferenceSession(path), load(converted[0])
    for batch, psi in ((1, 1.0), (3, 0.7), (7, 0.0)):
        z = torch.randn(batch, D_LATENT)
        images, = session.run(["images"], {"z": z.numpy(), "psi": np.array(psi, np.float32)})
        theirs = trained(z, psi)
        assert (torch.from_numpy(images) - theirs).abs().max() <= 1e-4 * max(1.0, (theirs.max() - theirs.min()).item())


def test_an_export_says_one_thing(converted, tmp_path):
    """And none of the exporter's own remarks: in a process of its own, as a user sees it."""
    command = [sys.executable, "-m", "stylegan2", "convert", converted[0], "--to", tmp_path / "a.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_onnx_with_classes(tmp_path, unchecked):
    onnxruntime = pytest.importorskip("onnxruntime")
    Convert(written(tmp_path / "network.npz", classes=3)[0], tmp_path / "converted").execute()
    trained = load(tmp_path / "converted")
    export_onnx(trained, tmp_path / "generator.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "generator.onnx")
    z, labels = torch.randn(5, D_LATENT), torch.tensor([0, 1, 2, 2, 0])
    images, = session.run(None, {"z": z.numpy(), "psi": np.array(0.5, np.float32), "labels": labels.numpy()})
    theirs = trained(z, 0.5, labels)
    assert (torch.from_numpy(images) - theirs).abs().max() <= 1e-4 * (theirs.max() - theirs.min())


def test_onnx_that_is_not_installed(converted, tmp_path, monkeypatch):
    found = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "onnxscript":
            raise ImportError("No module named 'onnxscript'")
        return found(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="needs the packages onnx and onnxscript"):
        export_onnx(load(converted[0]), tmp_path / "generator.onnx")
    assert not (tmp_path / "generator.onnx").exists()
