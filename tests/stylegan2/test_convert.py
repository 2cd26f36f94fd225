"""With published weights copied in, ours computes the same numbers as an independent derivation (reference.py)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2 import Discriminator, Generator, GradientPenalty, MappingNetwork, path_lengths
from stylegan2.convert import from_published, to_published
from stylegan2.convert.names import discriminator_names, mapping_names, synthesis_names
from tests.stylegan2 import reference

D_LATENT = 24
SIZES = {8: (12, 20), 16: (6, 16), 64: (4, 16)}  # resolution: n_features, max_features


def channels_of(resolution):
    n_features, max_features = SIZES[resolution]
    return {4 << i: min(max_features, n_features * resolution // (4 << i)) for i in range(resolution.bit_length() - 2)}


def published(resolution, **more):
    return reference.random_tensors(resolution, channels=channels_of(resolution), d=D_LATENT, **more)


@pytest.fixture(params=SIZES, ids="{}px".format)
def resolution(request):
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def case(request, resolution):
    """Tensors, our networks, and the tolerances of this precision: of an output's range, and of a gradient's."""
    tensors = published(resolution)
    networks = from_published(tensors)
    if request.param == torch.float64:
        tensors = {name: tensor.double() for name, tensor in tensors.items()}
        networks = tuple(network.double() for network in networks)
    output, gradient = (1e-5, 1e-4) if request.param == torch.float32 else (1e-9, 1e-9)
    return tensors, networks, output, gradient


def dtype_of(tensors):
    return tensors["G.mapping.w_avg"].dtype


def normal(*shape, dtype=torch.float32, seed=1):
    """The same numbers in either precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def far(ours, theirs):
    """The largest difference as a share of the range of `theirs`."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / (theirs.max() - theirs.min())).item()


def ws_of(tensors, networks, batch=3):
    """A w of its own for every layer, [batch, layers, d] as published; large enough for styles to matter."""
    return normal(batch, networks[1].n_layers, D_LATENT, dtype=dtype_of(tensors), seed=2)


# --- the same numbers -------------------------------------------------------------------------------------------------

def test_mapping(case):
    tensors, (mapping, _, _), output, _ = case
    z = normal(16, D_LATENT, dtype=dtype_of(tensors))
    assert far(mapping(z), reference.mapping(tensors, z)) <= min(1e-6, output)


@pytest.mark.parametrize("noise", ["const", "list", None])
def test_synthesis(case, noise):
    tensors, (_, generator, _), output, _ = case
    ws = ws_of(tensors, case[1])
    theirs = ours = noise
    if noise == "list":
        theirs = {(4 << i, conv): normal(len(ws), 1, 4 << i, 4 << i, dtype=ws.dtype, seed=9 * i + conv)
                  for i in range(generator.n_blocks) for conv in (0, 1)}
        ours = [(theirs[4 << i, 0], theirs[4 << i, 1]) for i in range(generator.n_blocks)]
    with torch.no_grad():
        assert far(generator(ws.transpose(0, 1), ours), reference.synthesis(tensors, ws, theirs)) <= output


def test_both_forms_of_the_modulated_convolution(case, monkeypatch):
    """A CPU takes the one, a GPU may take the other: each is held to the reference."""
    from stylegan2 import modulation
    tensors, (_, generator, _), output, _ = case
    ws = ws_of(tensors, case[1])
    with torch.no_grad():
        theirs = reference.synthesis(tensors, ws)
        for weights in (True, False):
            monkeypatch.setattr(modulation, "weights_are_smaller", lambda x, weight, form=weights: form)
            assert far(generator(ws.transpose(0, 1), "const"), theirs) <= output


@pytest.mark.parametrize("cutoff", [None, 0, 3])
def test_truncation(case, cutoff):
    tensors, (mapping, generator, _), output, _ = case
    z, layers = normal(2, D_LATENT, dtype=dtype_of(tensors)), generator.n_layers
    theirs = reference.truncated(tensors, reference.mapping(tensors, z), 0.6, layers, cutoff)
    ours = mapping.truncate(mapping(z).expand(layers, -1, -1), 0.6, cutoff)
    assert far(ours.transpose(0, 1), theirs) <= min(1e-6, output)
    with torch.no_grad():
        assert far(generator(ours, "const"), reference.synthesis(tensors, theirs)) <= output


@pytest.mark.parametrize("batch", [1, 3, 4, 8])
def test_discriminator(case, batch, resolution):
    tensors, (_, _, discriminator), output, _ = case
    x = normal(batch, 3, resolution, resolution, dtype=dtype_of(tensors))
    with torch.no_grad():
        theirs = reference.discriminator(tensors, x)
        # One score has no range, so the tolerance is of the scores' size.
        assert (discriminator(x)[:, 0] - theirs).abs().max() <= output * theirs.abs().max()


def test_every_epsilon():
    """Where what is divided by is tiny, and ε decides: z near 0, styles near 0, and images that are all the same."""
    tensors = {name: tensor.double() for name, tensor in published(8).items()}
    for name in tensors:
        if "conv" in name and "affine" in name:
            tensors[name] *= 1e-5
    mapping, generator, discriminator = (network.double() for network in from_published(tensors))
    z = 1e-4 * normal(3, D_LATENT, dtype=torch.float64)
    w = reference.mapping(tensors, z)
    assert far(mapping(z), w) <= 1e-9
    ws = torch.stack([w] * 4, dim=1)
    # float32 held these weights on the way in.
    assert far(generator(ws.transpose(0, 1), "const"), reference.synthesis(tensors, ws)) <= 1e-6
    x = normal(1, 3, 8, 8, dtype=torch.float64).expand(4, -1, -1, -1)
    theirs = reference.discriminator(tensors, x)
    assert (discriminator(x)[:, 0] - theirs).abs().max() <= 1e-9 * theirs.abs().max()


@pytest.mark.parametrize("layers", [1, 3])
def test_classes(layers):
    """The label's embedding beside z in the mapping network, and in the discriminator as a projection."""
    tensors = {name: tensor.double() for name, tensor in published(8, classes=5, layers=layers).items()}
    mapping, _, discriminator = (network.double() for network in from_published(tensors))
    z, labels = normal(8, D_LATENT, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 4, 1, 0])
    assert far(mapping(z, labels), reference.mapping(tensors, z, labels)) <= 1e-9
    x = normal(8, 3, 8, 8, dtype=torch.float64)
    assert far(discriminator(x, labels)[:, 0], reference.discriminator(tensors, x, labels)) <= 1e-9


def test_random_noise(resolution):
    """Fresh maps from N(0, 1): the reference, given maps drawn in the same order, makes the same images."""
    tensors = published(resolution)
    _, generator, _ = from_published(tensors)
    ws = normal(2, generator.n_layers, D_LATENT)
    torch.manual_seed(4)
    with torch.no_grad():
        ours = generator(ws.transpose(0, 1), "random")
    torch.manual_seed(4)
    layers = [(4, 1)] + [(8 << i, conv) for i in range(generator.n_blocks - 1) for conv in (0, 1)]
    noise = {(r, conv): torch.randn(2, 1, r, r) for r, conv in layers}
    assert far(ours, reference.synthesis(tensors, ws, noise)) <= 1e-5


# --- the same gradients -----------------------------------------------------------------------------------------------

def relative(ours, theirs):
    """‖difference‖ / ‖theirs‖ over a whole set of gradients."""
    difference = math.sqrt(sum((a - b).square().sum().item() for a, b in zip(ours, theirs, strict=True)))
    return difference / math.sqrt(sum(b.square().sum().item() for b in theirs))


def gradients(value, module, names, prefix, tensors, their_value):
    """The gradients of our value and of theirs, for every parameter, in the same order and the same shapes."""
    parameters = dict(module.named_parameters())
    pairs = [(parameters[ours], tensors[prefix + name]) for name, ours in names.items() if ours in parameters]
    ours, theirs = (
        torch.autograd.grad(total, [pair[side] for pair in pairs], allow_unused=True, materialize_grads=True)
        for side, total in enumerate((value, their_value)))
    return [gradient.reshape(other.shape) for gradient, other in zip(ours, theirs, strict=True)], theirs


def test_r1(case, resolution):
    tensors, (_, _, discriminator), _, tolerance = case
    tensors = {name: tensor.requires_grad_(name.startswith("D.")) for name, tensor in tensors.items()}
    x = normal(4, 3, resolution, resolution, dtype=dtype_of(tensors)).requires_grad_()
    ours = GradientPenalty()(x, discriminator(x))
    gradient, = torch.autograd.grad(reference.discriminator(tensors, x).sum(), x, create_graph=True)
    theirs = sum((sample**2).sum() for sample in gradient) / len(gradient)
    assert ours.item() == pytest.approx(theirs.item(), rel=tolerance)
    names = discriminator_names(resolution.bit_length() - 1)
    assert relative(*gradients(ours, discriminator, names, "D.", tensors, theirs)) <= tolerance


def test_path_lengths(case, resolution):
    tensors, (_, generator, _), _, tolerance = case
    ws = ws_of(tensors, case[1], batch=2).requires_grad_()
    tensors = {name: tensor.requires_grad_(name.startswith("G.synthesis.")) for name, tensor in tensors.items()}
    y = normal(2, 3, resolution, resolution, dtype=ws.dtype, seed=3) / resolution
    w = ws.detach().transpose(0, 1).requires_grad_()
    ours = path_lengths(w, generator(w, "const"), y)
    gradient, = torch.autograd.grad((reference.synthesis(tensors, ws) * y).sum(), ws, create_graph=True)
    theirs = torch.stack([torch.stack([layer.dot(layer) for layer in sample]).mean().sqrt() for sample in gradient])
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)
    names = synthesis_names(resolution.bit_length() - 1)
    assert relative(*gradients(ours.sum(), generator, names, "G.synthesis.", tensors, theirs.sum())) <= tolerance


# --- which tensor goes where ------------------------------------------------------------------------------------------

def test_prefixes_and_arrays():
    """Prefixes may be left out, arrays are as good as tensors, and either network may be absent."""
    tensors = published(8)
    arrays = {name.removeprefix("G.").removeprefix("D."): tensor.numpy() for name, tensor in tensors.items()}
    for whole, bare in zip(from_published(tensors), from_published(arrays), strict=True):
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, bare.state_dict()[name])
    only_g = from_published({name: tensor for name, tensor in tensors.items() if name.startswith("G.")})
    only_d = from_published({name: tensor for name, tensor in tensors.items() if name.startswith("D.")})
    assert [network is None for network in only_g] == [False, False, True]
    assert [network is None for network in only_d] == [True, True, False]


def test_sizes_are_read_off(resolution):
    mapping, generator, discriminator = from_published(published(resolution, layers=5))
    n_features, max_features = SIZES[resolution]
    log_resolution = resolution.bit_length() - 1
    expected = (MappingNetwork(D_LATENT, 5), Generator(log_resolution, D_LATENT, n_features, max_features),
                Discriminator(log_resolution, n_features, max_features))
    for network, other in zip((mapping, generator, discriminator), expected, strict=True):
        assert {name: tensor.shape for name, tensor in network.state_dict().items()} == {
            name: tensor.shape for name, tensor in other.state_dict().items()}


@settings(max_examples=15, deadline=None)
@given(log_resolution=st.integers(3, 5), n_features=st.integers(1, 5), max_features=st.integers(5, 12),
       layers=st.integers(1, 4), d=st.integers(1, 6), classes=st.integers(0, 3))
def test_round_trip(log_resolution, n_features, max_features, layers, d, classes):
    networks = (MappingNetwork(d, layers, n_classes=classes), Generator(log_resolution, d, n_features, max_features),
                Discriminator(log_resolution, n_features, max_features, n_classes=classes, label_layers=classes))
    tensors = to_published(*networks)
    assert sum(map(len, (network.state_dict() for network in networks))) == len(tensors)
    for network, again in zip(networks, from_published(tensors), strict=True):
        state = again.state_dict()
        assert state.keys() == network.state_dict().keys()
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, state[name]), name


def test_published_names_are_these():
    """Spelt out once, so that a slip in names.py, which reads and writes, cannot hide."""
    names = {*published(8)} - {name for name in published(8) if name.endswith("resample_filter")}
    assert names == {
        *(f"G.mapping.{name}" for name in mapping_names(2)), *(f"G.synthesis.{name}" for name in synthesis_names(3)),
        *(f"D.{name}" for name in discriminator_names(3))}


@pytest.mark.parametrize("name", [
    "G.mapping.fc1.bias", "G.mapping.w_avg", "G.synthesis.b4.const", "G.synthesis.b8.conv0.noise_strength",
    "G.synthesis.b4.torgb.affine.weight", "D.b8.skip.weight", "D.b4.out.bias", "D.b8.fromrgb.weight",
    "G.mapping.fc0.weight", "G.synthesis.b4.conv1.weight", "D.b4.conv.weight"])
def test_a_missing_tensor_is_named(name):
    tensors = published(8)
    del tensors[name]
    with pytest.raises(ValueError, match=rf"missing: .*{name.split('.', 2)[-1]}"):
        from_published(tensors)


@pytest.mark.parametrize("name", [
    "G.synthesis.b8.skip.weight", "G.mapping.extra", "D.b4.mbstd.weight", "augment_pipe.p", "G.synthesis.input.freqs"])
def test_a_tensor_that_has_no_place_is_named(name):
    with pytest.raises(ValueError, match=name):
        from_published({**published(8), name: torch.zeros(3)})


def test_wrong_shapes_and_filters():
    def changed(**values):
        return {**published(8), **{name.replace("__", "."): value for name, value in values.items()}}
    with pytest.raises(ValueError, match=r"torgb.bias is \[1\].*has \[3\]"):
        from_published(changed(G__synthesis__b8__torgb__bias=torch.zeros(1)))
    with pytest.raises(ValueError, match=r"fc0.weight has shape \[24\]"):
        from_published(changed(G__mapping__fc0__weight=torch.zeros(24)))
    with pytest.raises(ValueError, match=r"b8.resample_filter is not the filter"):
        from_published({**published(8), "D.b8.resample_filter": torch.full((4, 4), 1 / 16)})
    with pytest.raises(ValueError, match="b12"):
        from_published({**published(8), "D.b12.conv0.weight": torch.zeros(2, 2, 3, 3)})
    with pytest.raises(ValueError, match="there are no tensors"):
        from_published({})


def test_channels_off_the_rule():
    odd = reference.random_tensors(16, channels={4: 16, 8: 10, 16: 6}, d=8)
    with pytest.raises(ValueError, match=r"\[16, 10, 6\] channels.*\[16, 12, 6\]"):
        from_published(odd)


def test_integers_do_not_pass_for_weights():
    tensors = {**published(8), "G.mapping.w_avg": np.array(["w"] * D_LATENT)}
    with pytest.raises(TypeError):
        from_published(tensors)
