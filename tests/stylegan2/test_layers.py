"""Equalized layers, resampling, mapping, minibatch standard deviation, the average."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2 import (
    Discriminator,
    DownSample,
    EqualizedConv2d,
    EqualizedLinear,
    MappingNetwork,
    MiniBatchStdDev,
    Smooth,
    UpSample,
)
from stylegan2.ema import decay_of, update_average


def test_equalized_linear_is_scaled_at_run_time():
    layer = EqualizedLinear(50, 20, bias=1.0, gain=2.0, lr_mul=0.01).double()
    x = torch.randn(3, 50, dtype=torch.float64)
    expected = x @ layer.weight.weight.T * (2 * 0.01 / math.sqrt(50)) + layer.bias * 0.02
    torch.testing.assert_close(layer(x), expected)
    assert layer.weight.weight.std().item() == pytest.approx(100, rel=0.1)
    torch.testing.assert_close(layer.bias * 0.01, torch.ones(20, dtype=torch.float64))


def test_gain_in_the_weight_is_gain_after_the_activation():
    torch.manual_seed(0)
    carried = EqualizedConv2d(3, 5, 3, padding=1, gain=math.sqrt(2)).double()
    torch.nn.init.normal_(carried.bias)
    plain = EqualizedConv2d(3, 5, 3, padding=1).double()
    plain.load_state_dict(carried.state_dict())
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(F.leaky_relu(carried(x), 0.2), math.sqrt(2) * F.leaky_relu(plain(x), 0.2))


def test_equalized_learning_rate_equalizes():
    """One Adam step moves the used weight of a wide and a narrow layer by the same share of its size."""
    shares = []
    for fan_in in (8, 512):
        torch.manual_seed(0)
        layer = EqualizedLinear(fan_in, 64)
        adam = torch.optim.Adam(layer.parameters(), lr=0.01)
        before = layer.weight().detach()
        layer(torch.randn(16, fan_in)).square().sum().backward()
        adam.step()
        shares.append(((layer.weight() - before).abs().mean() / before.std()).item())
    assert shares[0] == pytest.approx(shares[1], rel=0.05)


@pytest.mark.parametrize("layer", [UpSample(), DownSample()])
def test_resampling_keeps_a_constant(layer):
    out = layer(torch.full((1, 2, 8, 8), 0.7))
    torch.testing.assert_close(out[..., 1:-1, 1:-1], torch.full_like(out[..., 1:-1, 1:-1], 0.7))


@settings(max_examples=15, deadline=None)
@given(channels=st.integers(1, 5), side=st.sampled_from([2, 4, 6, 8]), seed=st.integers(0, 2**31))
def test_resampling_equals_the_plain_filter(channels, side, seed):
    """Against zero insertion or decimation, and one convolution per channel with the outer product of [1, 3, 3, 1]."""
    x = torch.randn(2, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64)
    kernel = (torch.outer(taps, taps) / 64)[None, None]

    def plain(image, pad):  # pad: left, right, top, bottom
        return torch.cat([F.conv2d(F.pad(image[:, c:c + 1], pad), kernel) for c in range(channels)], dim=1)

    inserted = torch.zeros(2, channels, 2 * side, 2 * side, dtype=torch.float64)
    inserted[..., ::2, ::2] = x
    torch.testing.assert_close(UpSample().double()(x), 4 * plain(inserted, (2, 1, 2, 1)))
    torch.testing.assert_close(DownSample().double()(x), plain(x, (1, 1, 1, 1))[..., ::2, ::2])
    torch.testing.assert_close(Smooth(padding=2).double()(x), plain(x, (2, 2, 2, 2)))


@pytest.mark.parametrize("seed", range(5))
def test_w_has_unit_scale_at_the_start(seed):
    torch.manual_seed(seed)
    mapping = MappingNetwork(512, 8)
    assert 0.8 <= mapping(torch.randn(1024, 512)).std().item() <= 1.5


def test_mapping_does_not_depend_on_the_length_of_z():
    mapping = MappingNetwork(16, 2).double()
    z = torch.randn(4, 16, dtype=torch.float64)
    torch.testing.assert_close(mapping(z), mapping(10 * z), rtol=1e-6, atol=1e-8)


def test_mean_of_w_and_truncation():
    mapping = MappingNetwork(8, 1)
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    mapping.update_mean(first)
    mapping.update_mean(second)
    expected = 0.995 * (0.005 * first.mean(0)) + 0.005 * second.mean(0)
    torch.testing.assert_close(mapping.mean_w, expected)
    w = torch.randn(3, 2, 8)
    torch.testing.assert_close(mapping.truncate(w, 0.7), expected + 0.7 * (w - expected))
    torch.testing.assert_close(mapping.truncate(w, 1.0), w)


def test_truncation_of_the_coarse_layers():
    mapping = MappingNetwork(8, 1)
    mapping.mean_w.normal_()
    w = torch.randn(6, 3, 8)
    out = mapping.truncate(w, 0.5, cutoff=4)
    torch.testing.assert_close(out[:4], (w[:4] + mapping.mean_w) / 2)
    assert torch.equal(out[4:], w[4:])
    torch.testing.assert_close(mapping.truncate(w, 0.5, cutoff=6), mapping.truncate(w, 0.5))
    for wrong in ((w, -1), (w[0], 2)):
        with pytest.raises(ValueError, match="a cutoff is the number of layers"):
            mapping.truncate(wrong[0], 0.5, cutoff=wrong[1])


@torch.no_grad()
@pytest.mark.parametrize("n_classes", [0, 3])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_mapping_is_the_published_one(n_classes, n_layers):
    """z, beside it the embedded label, both normalised; then layers at a hundredth of the rate with gain √2."""
    torch.manual_seed(0)
    mapping = MappingNetwork(4, n_layers, n_classes=n_classes).double()
    for parameter in mapping.parameters():
        torch.nn.init.normal_(parameter, std=50)  # biases too, at the size of stored weights
    z, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    w = z / (z.pow(2).mean(dim=1, keepdim=True) + 1e-8).sqrt()
    if n_classes:
        linear = mapping.embedding.linear
        embedded = torch.stack([linear.weight.weight[:, label] for label in labels]) / math.sqrt(3) + linear.bias
        w = torch.cat([w, embedded / (embedded.pow(2).mean(dim=1, keepdim=True) + 1e-8).sqrt()], dim=1)
    for layer in mapping.layers:
        w = w @ layer.weight.weight.T * (0.01 / math.sqrt(w.shape[1])) + 0.01 * layer.bias
        w = math.sqrt(2) * torch.where(w > 0, w, 0.2 * w)
    torch.testing.assert_close(mapping(z, labels if n_classes else None), w)


def test_mapping_without_layers_only_normalises():
    z = torch.randn(5, 4)
    torch.testing.assert_close(MappingNetwork(4, 0)(z), z * (4 / z.pow(2).sum(dim=1, keepdim=True)).sqrt())
    with pytest.raises(ValueError, match="labels need at least one layer"):
        MappingNetwork(4, 0, n_classes=2)


@settings(max_examples=20, deadline=None)
@given(groups=st.integers(1, 3), size=st.integers(1, 4), features=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_minibatch_std_equals_the_formula(groups, size, features, seed):
    batch = groups * size
    x = torch.randn(batch, features, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    out = MiniBatchStdDev(group_size=size)(x)
    torch.testing.assert_close(out[:, :features], x)
    effective_groups = batch // min(size, batch)
    for i in range(batch):
        members = x[i % effective_groups::effective_groups]
        mean = sum(members) / len(members)
        variance = sum((m - mean) ** 2 for m in members) / len(members)
        expected = float((variance + 1e-8).sqrt().mean())
        assert out[i, features].flatten().tolist() == pytest.approx([expected] * 6, rel=1e-10)


def test_minibatch_std_names_a_batch_it_cannot_group():
    with pytest.raises(ValueError, match="6 does not split into groups of 4"):
        MiniBatchStdDev(4)(torch.zeros(6, 2, 4, 4))
    assert Discriminator(2, 8, 8)(torch.zeros(2, 3, 4, 4)).shape == (2, 1)  # a batch below the group size is one group


def test_average_forgets_half_in_a_half_life():
    average, module = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    start, target = copy.deepcopy(average), copy.deepcopy(module)
    for step in range(100):
        update_average(average, module, decay_of(10, 10**9 + step, half_life=1000))
    torch.testing.assert_close(average.weight, (start.weight + target.weight) / 2)


def test_average_copies_buffers_and_starts_at_the_first_network():
    average, module = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    module.running_mean.fill_(3.0)
    assert decay_of(32, 0, half_life=1000) == 0.0
    update_average(average, module, 0.9)
    assert average.running_mean.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("seen", [100, 1000, 5000])
def test_ramp_up_shortens_the_half_life(seen):
    assert decay_of(10, seen, half_life=10_000) == pytest.approx(0.5 ** (10 / min(10_000, 0.05 * seen)))
