"""Checkpoints of other programs, built here by hand from the description of their layout, and the networks that they
belong to, written down once more from the papers: nothing of the converter is used for either.
"""

import argparse
import math
import pickle
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from stylegan2 import load
from stylegan2.cli import parse
from stylegan2.convert import PickleError, read_checkpoint, to_port
from stylegan2.weights import read_networks
from tests.stylegan2 import reference

SIDE, D, LAYERS, CHANNELS = 16, 12, 3, {4: 16, 8: 12, 16: 6}
FIR = torch.tensor([[a * b / 64 for a in (1, 3, 3, 1)] for b in (1, 3, 3, 1)])


def normal(*shape, std=1.0, mean=0.0):
    return mean + std * torch.randn(shape)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * (theirs.max() - theirs.min()).item())


# --- rosinality's port ------------------------------------------------------------------------------------------------

def port_generator(seed=0):
    """A state dict with nothing at its neutral start."""
    torch.manual_seed(seed)
    state = {"input.input": normal(1, CHANNELS[4], 4, 4)}
    for i in range(LAYERS):
        state |= {f"style.{i + 1}.weight": normal(D, D, std=100), f"style.{i + 1}.bias": normal(D, std=30)}

    def conv(name, c_in, c_out, k):
        state[f"{name}.conv.weight"] = normal(1, c_out, c_in, k, k)
        state[f"{name}.conv.modulation.weight"] = normal(c_in, D)
        state[f"{name}.conv.modulation.bias"] = normal(c_in, std=0.3, mean=1)

    def styled(name, c_in, c_out):
        conv(name, c_in, c_out, 3)
        state[f"{name}.noise.weight"] = normal(1, std=0.5)
        state[f"{name}.activate.bias"] = normal(c_out, std=0.3)

    def to_rgb(name, c_in):
        conv(name, c_in, 3, 1)
        state[f"{name}.bias"] = normal(1, 3, 1, 1, std=0.3)

    styled("conv1", CHANNELS[4], CHANNELS[4])
    to_rgb("to_rgb1", CHANNELS[4])
    state["noises.noise_0"] = normal(1, 1, 4, 4)
    for k, r in enumerate((8, 16)):
        styled(f"convs.{2 * k}", CHANNELS[r // 2], CHANNELS[r])
        styled(f"convs.{2 * k + 1}", CHANNELS[r], CHANNELS[r])
        to_rgb(f"to_rgbs.{k}", CHANNELS[r])
        state[f"convs.{2 * k}.conv.blur.kernel"] = 4 * FIR
        state[f"to_rgbs.{k}.upsample.kernel"] = 4 * FIR
        for i in (2 * k + 1, 2 * k + 2):
            state[f"noises.noise_{i}"] = normal(1, 1, r, r)
    return state


def port_discriminator(seed=1):
    torch.manual_seed(seed)
    state = {"convs.0.0.weight": normal(CHANNELS[16], 3, 1, 1), "convs.0.1.bias": normal(CHANNELS[16])}
    for i, r in ((1, 16), (2, 8)):
        c, out = CHANNELS[r], CHANNELS[r // 2]
        state |= {f"convs.{i}.conv1.0.weight": normal(c, c, 3, 3), f"convs.{i}.conv1.1.bias": normal(c),
                  f"convs.{i}.conv2.0.kernel": FIR, f"convs.{i}.conv2.1.weight": normal(out, c, 3, 3),
                  f"convs.{i}.conv2.2.bias": normal(out), f"convs.{i}.skip.0.kernel": FIR,
                  f"convs.{i}.skip.1.weight": normal(out, c, 1, 1)}
    c = CHANNELS[4]
    return state | {
        "final_conv.0.weight": normal(c, c + 1, 3, 3), "final_conv.1.bias": normal(c),
        "final_linear.0.weight": normal(c, 16 * c), "final_linear.0.bias": normal(c),
        "final_linear.1.weight": normal(1, c), "final_linear.1.bias": normal(1)}


def activated(x, bias):
    return F.leaky_relu(x + bias.reshape(1, -1, *[1] * (x.ndim - 2)), 0.2) * math.sqrt(2)


def filtered(x, gain, pad):
    c = x.shape[1]
    return F.conv2d(F.pad(x, (*pad, *pad)), gain * FIR.expand(c, 1, 4, 4), groups=c)


def doubled(x):
    """Zeros between the pixels, then the filter."""
    n, c, h, w = x.shape
    zeros = torch.zeros(n, c, 2 * h, 2 * w)
    zeros[:, :, ::2, ::2] = x
    return filtered(zeros, 4, (2, 1))


def port_modulated(s, name, x, w, up=False, demodulate=True):
    weight = s[f"{name}.conv.weight"]
    _, _, c_in, k, _ = weight.shape
    style = w @ s[f"{name}.conv.modulation.weight"].T / math.sqrt(D) + s[f"{name}.conv.modulation.bias"]
    weight = weight / math.sqrt(c_in * k * k) * style[:, None, :, None, None]
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    images = []
    for one, kernel in zip(x, weight, strict=True):
        if up:  # a transposed convolution by a stride of 2, then the filter
            images.append(filtered(F.conv_transpose2d(one[None], kernel.transpose(0, 1), stride=2), 4, (1, 1)))
        else:
            images.append(F.conv2d(one[None], kernel, padding=k // 2))
    return torch.cat(images)


def port_w(s, z):
    w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
    for i in range(1, LAYERS + 1):
        w = activated(w @ s[f"style.{i}.weight"].T * 0.01 / math.sqrt(D), 0.01 * s[f"style.{i}.bias"])
    return w


def port_images(s, w):
    """Images of the port's generator, one w for all layers, stored noise."""
    def styled(name, i, x, up=False):
        x = port_modulated(s, name, x, w, up)
        return activated(x + s[f"{name}.noise.weight"] * s[f"noises.noise_{i}"], s[f"{name}.activate.bias"])

    x = styled("conv1", 0, s["input.input"].expand(len(w), -1, -1, -1))
    image = port_modulated(s, "to_rgb1", x, w, demodulate=False) + s["to_rgb1.bias"]
    for k in range(2):
        x = styled(f"convs.{2 * k + 1}", 2 * k + 2, styled(f"convs.{2 * k}", 2 * k + 1, x, up=True))
        image = doubled(image) + port_modulated(s, f"to_rgbs.{k}", x, w, demodulate=False) + s[f"to_rgbs.{k}.bias"]
    return image


def port_scores(s, x):
    def conv(name, x, bias=None, stride=1, pad=0):
        weight = s[f"{name}.weight"]
        x = F.conv2d(x, weight / math.sqrt(weight[0].numel()), stride=stride, padding=pad)
        return x if bias is None else activated(x, s[bias])

    x = conv("convs.0.0", x, "convs.0.1.bias")
    for i in (1, 2):
        y = conv(f"convs.{i}.conv1.0", x, f"convs.{i}.conv1.1.bias", pad=1)
        y = conv(f"convs.{i}.conv2.1", filtered(y, 1, (2, 2)), f"convs.{i}.conv2.2.bias", stride=2)
        x = (y + conv(f"convs.{i}.skip.1", filtered(x, 1, (1, 1)), stride=2)) / math.sqrt(2)
    n = len(x)
    std = (x.reshape(min(n, 4), -1, *x.shape[1:]).var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    x = torch.cat([x, std.repeat(min(n, 4)).reshape(n, 1, 1, 1).expand(n, 1, 4, 4)], 1)
    x = conv("final_conv.0", x, "final_conv.1.bias", pad=1).flatten(1)
    x = activated(x @ s["final_linear.0.weight"].T / math.sqrt(x.shape[1]), s["final_linear.0.bias"])
    return x @ s["final_linear.1.weight"].T / math.sqrt(x.shape[1]) + s["final_linear.1.bias"]


@pytest.fixture
def port(tmp_path):
    """A file as the port's training writes it, with options and optimizers, and its content."""
    content = {"g": port_generator(2), "g_ema": port_generator(), "d": port_discriminator(),
               "latent_avg": normal(D), "args": argparse.Namespace(size=SIDE, lr=0.002),
               "d_optim": {"state": {0: {"step": 5, "exp_avg": normal(3)}}, "param_groups": [{"lr": 0.1}]}}
    torch.save(content, tmp_path / "network.pt")
    return tmp_path / "network.pt", content


def test_the_port_makes_the_same_images(port):
    path, content = port
    trained, z = load(path), normal(3, D)
    w = content["latent_avg"] + 0.7 * (port_w(content["g_ema"], z) - content["latent_avg"])
    close(trained(z, 0.7), port_images(content["g_ema"], w))


def test_the_ports_other_networks_are_taken_over(port, tmp_path):
    """The generator that was trained, and the discriminator's scores."""
    path, content = port
    command = parse(["train", "--from", str(path), "--run", str(tmp_path / "run"), "--images", "4", "--batch-size",
                     "4", "--no-augment"])
    from stylegan2.training.trainer import Trainer

    players = Trainer(tmp_path / "run", command.settings).players
    x, z = normal(4, 3, SIDE, SIDE), normal(2, D)
    close(players.discriminator(x), port_scores(content["d"], x))
    w = players.mapping(z)
    close(w, port_w(content["g"], z))
    close(players.generator(w.expand(3, -1, -1), "const"), port_images(content["g"], w))


def test_a_port_without_a_mean_w_gets_one(port, tmp_path):
    path, content = port
    del content["latent_avg"]
    torch.save(content, path)
    networks = read_networks(path)
    assert any("10,000" in note for note in networks.notes)
    mean = networks.tensors["average.mapping.mean_w"]
    spread = port_w(content["g_ema"], normal(20_000, D))
    assert (mean - spread.mean(0)).abs().max() < 5 * spread.std(0).max() / math.sqrt(10_000)


def test_what_is_written_for_the_port_is_what_it_was(port, tmp_path):
    """Bit for bit, filters too; and so through every other format."""
    path, content = port
    before = read_networks(path)
    for i, name in enumerate(("a.npz", "b.safetensors", "folder", "c.pt")):
        parse(["convert", str(path), "--to", str(tmp_path / name)]).execute()
        path = tmp_path / name
        after = read_networks(path)
        kept = {k: v for k, v in before.tensors.items() if i == 3 or not k.startswith("trained.")}
        assert {k for k in after.tensors if not k.startswith("trained.")} == {
            k for k in kept if not k.startswith("trained.")}
        assert all(torch.equal(after.tensors[k], v) for k, v in kept.items() if k in after.tensors)
    written = torch.load(tmp_path / "c.pt", weights_only=True)
    for key in ("g_ema", "d"):
        assert written[key].keys() == content[key].keys()
        assert all(torch.equal(written[key][name], tensor) for name, tensor in content[key].items())
    assert torch.equal(written["latent_avg"], content["latent_avg"])
    parse(["convert", str(port[0]), "--to", str(tmp_path / "direct.pt")]).execute()
    direct = torch.load(tmp_path / "direct.pt", weights_only=True)
    assert all(torch.equal(direct["g"][name], tensor) for name, tensor in content["g"].items())


# --- TensorFlow -------------------------------------------------------------------------------------------------------

@pytest.fixture
def tf(monkeypatch):
    """A stand-in for the class whose name the pickles carry; reading must not look at it."""
    module = types.ModuleType("dnnlib.tflib.network")
    module.Network = type("Network", (), {"__module__": module.__name__})
    util = types.ModuleType("dnnlib.util")
    util.EasyDict = type("EasyDict", (dict,), {"__module__": util.__name__})
    for name, made in (("dnnlib", types.ModuleType("dnnlib")), ("dnnlib.tflib", types.ModuleType("dnnlib.tflib")),
                       (module.__name__, module), (util.__name__, util)):
        monkeypatch.setitem(sys.modules, name, made)

    def network(variables, components=(), **options):
        made = module.Network()
        made.__dict__ = {"version": 4, "name": "G", "static_kwargs": util.EasyDict(options),
                         "components": util.EasyDict(components), "build_module_src": "raise SystemExit",
                         "build_func_name": "G", "variables": list(variables.items())}
        return made

    return network


def tf_generator(network, seed=0):
    random = np.random.default_rng(seed)

    def normal(*shape, std=1.0):
        return (std * random.standard_normal(shape)).astype("f4")

    def conv(name, k, c_in, c_out):
        return {f"{name}/weight": normal(k, k, c_in, c_out), f"{name}/bias": normal(c_out, std=0.3),
                f"{name}/mod_weight": normal(D, c_in), f"{name}/mod_bias": normal(c_in, std=0.3)}

    def styled(name, c_in, c_out):
        return {**conv(name, 3, c_in, c_out), f"{name}/noise_strength": np.float32(random.standard_normal())}

    mapping = {}
    for i in range(LAYERS):
        mapping |= {f"Dense{i}/weight": normal(D, D, std=100), f"Dense{i}/bias": normal(D, std=30)}
    synthesis = {"4x4/Const/const": normal(1, CHANNELS[4], 4, 4), "noise0": normal(1, 1, 4, 4),
                 **styled("4x4/Conv", CHANNELS[4], CHANNELS[4]), **conv("4x4/ToRGB", 1, CHANNELS[4], 3)}
    for k, r in enumerate((8, 16)):
        synthesis |= {**styled(f"{r}x{r}/Conv0_up", CHANNELS[r // 2], CHANNELS[r]),
                      **styled(f"{r}x{r}/Conv1", CHANNELS[r], CHANNELS[r]), **conv(f"{r}x{r}/ToRGB", 1, CHANNELS[r], 3),
                      f"noise{2 * k + 1}": normal(1, 1, r, r), f"noise{2 * k + 2}": normal(1, 1, r, r)}
    own = {"lod": np.float32(0), "dlatent_avg": normal(D)}
    parts = {"mapping": network(mapping), "synthesis": network(synthesis)}
    return network(own, parts, architecture="skip"), own, mapping, synthesis


def tf_discriminator(network):
    random = np.random.default_rng(9)

    def layer(name, *shape, bias=True):
        made = {f"{name}/weight": random.standard_normal(shape).astype("f4")}
        return made | ({f"{name}/bias": random.standard_normal(shape[-1]).astype("f4")} if bias else {})

    c = CHANNELS
    variables = {**layer("16x16/FromRGB", 1, 1, 3, c[16]), "lod": np.float32(0)}
    for r in (16, 8):
        variables |= {**layer(f"{r}x{r}/Conv0", 3, 3, c[r], c[r]),
                      **layer(f"{r}x{r}/Conv1_down", 3, 3, c[r], c[r // 2]),
                      **layer(f"{r}x{r}/Skip", 1, 1, c[r], c[r // 2], bias=False)}
    variables |= {**layer("4x4/Conv", 3, 3, c[4] + 1, c[4]), **layer("4x4/Dense0", 16 * c[4], c[4]),
                  **layer("Output", c[4], 1)}
    return network(variables, architecture="resnet"), variables


def tf_images(own, mapping, synthesis, z, psi):
    """The generator as TensorFlow computes it: dense layers from the right, correlations with [k, k, in, out], and
    up-sampling *before* the correlation: zeros between the pixels, the kernel, the filter."""
    v = {name: torch.from_numpy(np.asarray(array)) for name, array in {**mapping, **synthesis, **own}.items()}
    w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
    for i in range(LAYERS):
        w = activated(w @ v[f"Dense{i}/weight"] * 0.01 / math.sqrt(D), 0.01 * v[f"Dense{i}/bias"])
    w = v["dlatent_avg"] + psi * (w - v["dlatent_avg"])

    def correlated(name, x, up=False, demodulate=True):
        kernel = v[f"{name}/weight"]
        k, _, c_in, _ = kernel.shape
        style = w @ v[f"{name}/mod_weight"] / math.sqrt(D) + v[f"{name}/mod_bias"] + 1
        kernel = kernel[None] / math.sqrt(k * k * c_in) * style[:, None, None, :, None]  # [n, k, k, in, out]
        if demodulate:
            kernel = kernel * torch.rsqrt(kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        if up:
            n, c, h, _ = x.shape
            zeros = torch.zeros(n, c, 2 * h, 2 * h)
            zeros[:, :, ::2, ::2] = x
            x = F.pad(zeros, (2, 1, 2, 1))  # the transposed convolution's own border
        else:
            x = F.pad(x, [k // 2] * 4)
        patches = F.unfold(x, k)  # [n, in·k·k, places]
        by_place = kernel.permute(0, 4, 3, 1, 2).flatten(2)  # [n, out, in·k·k]
        side = x.shape[-1] - k + 1
        y = (by_place @ patches).unflatten(2, (side, side))
        return filtered(y, 4, (1, 1)) if up else y

    def styled(name, noise, x, up=False):
        x = correlated(name, x, up)
        return activated(x + v[f"{name}/noise_strength"] * v[noise], v[f"{name}/bias"])

    def rgb(name, x):
        return correlated(name, x, demodulate=False) + v[f"{name}/bias"][:, None, None]

    x = styled("4x4/Conv", "noise0", v["4x4/Const/const"].expand(len(w), -1, -1, -1))
    image = rgb("4x4/ToRGB", x)
    for k, r in enumerate((8, 16)):
        x = styled(f"{r}x{r}/Conv0_up", f"noise{2 * k + 1}", x, up=True)
        x = styled(f"{r}x{r}/Conv1", f"noise{2 * k + 2}", x)
        image = doubled(image) + rgb(f"{r}x{r}/ToRGB", x)
    return image


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensorflow_makes_the_same_images(tf, tmp_path, protocol):
    averaged, own, mapping, synthesis = tf_generator(tf)
    trained, *_ = tf_generator(tf, seed=1)
    discriminator, variables = tf_discriminator(tf)
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps((trained, discriminator, averaged), protocol))
    z = normal(3, D)
    close(load(path)(z, 0.7), tf_images(own, mapping, synthesis, z, 0.7))
    found = read_checkpoint(path)
    assert not torch.equal(found.average["G.synthesis.b4.const"], found.trained["G.synthesis.b4.const"])
    x = normal(4, 3, SIDE, SIDE)
    names = {"16x16/FromRGB": "convs.0", "4x4/Conv": "final_conv", "4x4/Dense0": "final_linear.0",
             "Output": "final_linear.1"}
    state = {}  # the port's discriminator above, with these numbers
    for name, array in variables.items():
        array = torch.from_numpy(np.asarray(array))
        *layer, last = name.split("/")
        value = array.T if array.ndim == 2 else array.permute(3, 2, 0, 1) if array.ndim == 4 else array
        if (theirs := names.get("/".join(layer))) is not None:
            number = "" if "linear" in theirs else {"weight": ".0", "bias": ".1"}[last]
            state[f"{theirs}{number}.{last}"] = value
        elif layer:
            side, part = layer
            theirs, first = {"Conv0": ("conv1", 0), "Conv1_down": ("conv2", 1), "Skip": ("skip", 1)}[part]
            i = {"16x16": 1, "8x8": 2}[side]
            state[f"convs.{i}.{theirs}.{first + (last == 'bias')}.{last}"] = value
    from stylegan2.convert import from_published

    close(from_published(found.discriminator)[2](x), port_scores(state, x))


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("8x8/ToRGB/weight"), "config-c or -d"),
    (lambda s: s.update({"4x4/Const/StyleMod/weight": np.zeros((2, 2), "f4")}), "config-a or -b"),
    (lambda s: s.update({"ToRGB_lod0/weight": np.zeros((2, 2), "f4")}), "config-a or -b"),
    (lambda s: s.update({"8x8/Skip/weight": np.zeros((1, 1, 2, 2), "f4")}), "residual generator"),
    (lambda s: s.pop("8x8/Conv1/bias"), "missing: synthesis/8x8/Conv1/bias"),
    (lambda s: s.update({"8x8/Else": np.zeros(2, "f4")}), "left over: synthesis/8x8/Else"),
    (lambda s: s.update({"8x8/Conv1/bias": np.full(12, np.nan, "f4")}), "not finite"),
    (lambda s: s.update({"8x8/Conv1/bias": "words"}), "is a str, not an array")])
def test_other_tensorflow_networks_are_named(tf, tmp_path, change, message):
    averaged, *_ = tf_generator(tf)
    synthesis = averaged.components["synthesis"]
    variables = dict(synthesis.variables)
    change(variables)
    if message == "config-c or -d":
        variables = {k: v for k, v in variables.items() if not k.startswith("4x4/ToRGB")}
    synthesis.variables = list(variables.items())
    discriminator, _ = tf_discriminator(tf)
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps((averaged, discriminator, averaged)))
    with pytest.raises(ValueError, match=message):
        read_networks(path)


# --- published names --------------------------------------------------------------------------------------------------

def test_safetensors_under_published_names(tmp_path):
    tensors = reference.random_tensors(SIDE, channels=CHANNELS, d=D, layers=2)
    save_file({name: t.clone() for name, t in tensors.items()}, tmp_path / "misnamed.bin")
    z = normal(3, D)
    ws = reference.truncated(tensors, reference.mapping(tensors, z), 0.7, layers=6)
    close(load(tmp_path / "misnamed.bin")(z, 0.7), reference.synthesis(tensors, ws, "const"))


def test_the_command_lines_files(port, tmp_path, capsys):
    """Every file that is written loads as the same generator."""
    path, _ = port
    z, made = normal(2, D), load(path)
    for name in ("a.npz", "b.safetensors", "c.pt", "folder", "network-1.5"):
        parse(["convert", str(path), "--to", str(tmp_path / name)]).execute()
        assert "a generator of 16² images; its discriminator" in capsys.readouterr().out
        assert torch.equal(load(tmp_path / name)(z), made(z))
        with pytest.raises(FileExistsError):
            parse(["convert", str(path), "--to", str(tmp_path / name)]).execute()
    with pytest.raises(ValueError, match=r"ends in \.ckpt: a file ends in"):
        parse(["convert", str(path), "--to", str(tmp_path / "a.ckpt")]).execute()


# --- what is not read -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("content", "message"), [
    ({"GAN": {"G.x": torch.zeros(1)}, "version": "1.8"}, "lucidrains"),
    ({"generator": {"x": torch.zeros(1)}, "g_running": {}}, "a checkpoint of StyleGAN "),
    ({"layer.weight": torch.zeros(2)}, "a bare state dict of another network"),
    ({"epoch": 3}, "a file with epoch"), ([1, 2], "a file with list")])
@pytest.mark.parametrize("zipped", [True, False])
def test_other_pt_files_are_named(tmp_path, content, message, zipped):
    torch.save(content, tmp_path / "other.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(PickleError, match=message):
        load(tmp_path / "other.pt")


def test_an_alias_free_network_is_named(tmp_path):
    tensors = {"G.synthesis.input.weight": torch.zeros(2), "G.synthesis.L0_36_512.weight": torch.zeros(2)}
    save_file(tensors, tmp_path / "r.safetensors")
    with pytest.raises(ValueError, match="alias-free generator"):
        load(tmp_path / "r.safetensors")


def test_missing_left_over_and_wrong_tensors_of_the_port_are_named(port, tmp_path):
    path, content = port
    for change, message in (
            (lambda g: g.pop("conv1.activate.bias"), "g_ema: missing: conv1.activate.bias"),
            (lambda g: g.update(more=torch.zeros(1)), "g_ema: left over: more"),
            (lambda g: g.update({"convs.0.conv.blur.kernel": FIR}), "blur.kernel is not the filter"),
            (lambda g: g.update({"to_rgb1.bias": torch.zeros(3)}), r"to_rgb1.bias has shape \[3\]"),
            (lambda g: g.update({"conv1.activate.bias": torch.zeros(5)}), r"b4.conv1.bias is \[5\]"),
            (lambda g: g.update({"conv1.activate.bias": torch.full((16,), math.inf)}), "not finite")):
        changed = {**content, "g_ema": dict(content["g_ema"])}
        change(changed["g_ema"])
        torch.save(changed, path)
        with pytest.raises(ValueError, match=message):
            load(path)


def test_code_in_a_pt_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    torch.save({"g_ema": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(PickleError, match="alone are read"):
        load(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_of_ours(port, tmp_path, data):
    """A file that is cut short or has a wrong byte is refused in a sentence, or is still the network that it was."""
    path, _ = port
    kind = data.draw(st.sampled_from(["pt", "safetensors", "npz"]))
    source = tmp_path / f"whole.{kind}"
    if kind == "pt":
        source = path
    elif not source.exists():
        parse(["convert", str(path), "--to", str(source)]).execute()
    content = bytearray(source.read_bytes())
    if data.draw(st.booleans()):
        content = content[:data.draw(st.integers(0, len(content) - 1))]
    else:
        at = data.draw(st.integers(0, min(len(content) - 1, 4000)))
        content[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "damaged").write_bytes(content)
    said = "damaged"
    try:
        load(tmp_path / "damaged")
    except (ValueError, OSError) as error:
        said = str(error)
    assert "damaged" in said


def test_a_description_of_the_port_covers_every_tensor():
    """to_port gives what `port_generator` describes, for other sizes too."""
    tensors = reference.random_tensors(8, channels={4: 8, 8: 4}, d=D, layers=5)
    generator = {k: v for k, v in tensors.items() if k.startswith("G.") and "filter" not in k and "w_avg" not in k}
    state = to_port(generator)
    assert sum(name.startswith("style.") for name in state) == 10
    assert {name for name in state if "blur" in name or "upsample" in name} == {
        "convs.0.conv.blur.kernel", "to_rgbs.0.upsample.kernel"}
    assert len(state) == len(generator) + 2
