"""Chapter 4: what its prose and captions claim in words, and no cell of it asserts."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from book.records import record, series
from stylegan2.equalized import EqualizedLinear
from stylegan2.modulation import Conv2dWeightModulate, inverse_std, weights_are_smaller
from stylegan2.resample import Smooth
from stylegan2.weights import load

NOTEBOOK = Path(__file__).parents[2] / "chapters/04_weight_demodulation.ipynb"
DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


@pytest.fixture(scope="module")
def chapter() -> dict[str, Any]:
    """The chapter's imports, functions and classes up to the trained toys, without what it computes."""
    found: dict[str, Any] = {"device": torch.device("cpu")}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and not cell["metadata"].get("setup"):
            kept = [node for node in ast.parse("".join(cell["source"])).body if isinstance(node, DEFINING)]
            exec(compile(ast.Module(kept, []), cell["id"], "exec"), found)
        if cell["id"] == "cut-code":
            return found
    raise AssertionError("the chapter has no cell cut-code")


@pytest.fixture(scope="module")
def droplet(chapter: dict[str, Any]) -> Any:
    """The chapter's first generator under the normalisation, trained as in the smoke budget."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOOK_BUDGET", "smoke")
        return chapter["trained"]("normalise", seed=0)


def outliers(maps: Tensor) -> Tensor:
    """Distance of each pixel from its map's median, in median distances."""
    away = (maps - maps.flatten(-2).median(-1).values[..., None, None]).abs()
    return away / away.flatten(-2).median(-1).values[..., None, None]


@torch.no_grad()
def test_the_droplet_is_at_one_place_and_of_one_height_in_all_samples(chapter: dict[str, Any], droplet: Any) -> None:
    torch.manual_seed(11)
    droplet(chapter["details"](64))
    maps = droplet.layers[2].maps  # [64, 6, 32, 32]
    hottest = outliers(maps).flatten(2).argmax(2)  # [sample, map]
    rows, columns = hottest // 32, hottest % 32
    for i in range(maps.shape[1]):
        usual = hottest[:, i].mode().values
        near = (rows[:, i] - usual // 32).abs().maximum((columns[:, i] - usual % 32).abs()) <= 3
        assert near.float().mean() > 0.9, "the spot stands at the same place in nearly all samples"
    at = hottest[:, 0].mode().values
    height = maps.flatten(2)[:, 0, at] - maps[:, 0].flatten(1).median(1).values
    assert height.std() < 0.2 * height.mean().abs()


@torch.no_grad()
def test_the_droplet_nearly_cancels_in_the_image(chapter: dict[str, Any], droplet: Any) -> None:
    torch.manual_seed(11)
    image = droplet(chapter["details"](64))
    in_maps = outliers(droplet.layers[2].maps).flatten(2).amax(2).mean()
    in_image = outliers(image).flatten(2).amax(2).mean()
    assert in_image < in_maps / 2


@torch.no_grad()
def test_strong_samples_come_out_too_weak(chapter: dict[str, Any], droplet: Any) -> None:
    """The contrast that is painted, over the one asked for, by regression over the image."""
    torch.manual_seed(11)
    texture = chapter["textures"](64)
    ratios = []
    for strength in (0.5, 4.0):
        target = strength * texture
        ratios.append(((droplet(target) * target).sum() / target.square().sum()).item())
    faint, strong = ratios
    assert strong < 0.9 < faint


def test_a_taller_spike_passes_strength_on_over_a_longer_range(chapter: dict[str, Any]) -> None:
    """Measured in float64 on normalised maps: how far a doubling of the strength is from a doubling behind."""
    torch.manual_seed(0)
    texture = chapter["textures"](1, maps=1).double()

    def range_of(height: float) -> float:
        strengths = [2**e for e in torch.linspace(-3, 3, 25).tolist()]
        out = [(a * chapter["contrast_after_norm"](a * texture, height)).item() for a in strengths]
        straight = [a for a, y in zip(strengths, out, strict=True) if y > 0.9 * out[0] * a / strengths[0]]
        return max(straight)

    ranges = [range_of(height) for height in (0.0, 32.0, 128.0, 512.0)]
    assert ranges == sorted(set(ranges))


@torch.no_grad()
def test_noise_counts_for_less_under_a_large_style_unless_it_comes_after_demodulation() -> None:
    """Its share in the variance of what goes on: scale, convolve, add noise, normalise; and the order of StyleGAN2."""
    torch.manual_seed(0)
    conv, x = Conv2dWeightModulate(32, 32, 3), torch.randn(4, 32, 32, 32)
    plain = Conv2dWeightModulate(32, 32, 3, demodulate=False)
    noise = torch.randn(4, 1, 32, 32)
    shares = {}
    for name, layer in (("before", plain), ("after", conv)):
        signals = [layer(x, torch.full((4, 32), size)).var() for size in (1.0, 4.0)]
        shares[name] = [(noise.var() / (noise.var() + signal)).item() for signal in signals]
    assert shares["before"][1] < shares["before"][0] / 5
    assert shares["after"][1] == pytest.approx(shares["after"][0], rel=1e-4)


@torch.no_grad()
def test_modulation_alone_piles_up_and_the_border_costs_strength() -> None:
    def strengths(modulated_only: bool, boost: float = 1.0, padding: str = "constant") -> Tensor:
        torch.manual_seed(0)
        x, found = torch.randn(4, 64, 16, 16), []
        for layer in range(8):
            weight, s = torch.randn(64, 64, 3, 3), (1 + 2 * torch.rand(4, 64)) * (boost if layer == 1 else 1)
            lengths = math.sqrt(64 * 9) if modulated_only else \
                torch.einsum("bi,oikl->boikl", s, weight).flatten(2).norm(dim=2)[..., None, None]
            x = F.conv2d(F.pad(x * s[..., None, None], (1, 1, 1, 1), mode=padding), weight) / lengths
            x = F.leaky_relu(x, 0.2) * math.sqrt(2)
            found.append(x.square().mean().sqrt())
        return torch.stack(found)

    alone, boosted = strengths(True), strengths(True, boost=4.0)
    growth = alone[1:] / alone[:-1]
    assert growth.min() > 1.5
    assert growth.mean().item() == pytest.approx(2, abs=0.3)
    torch.testing.assert_close(boosted[1:] / alone[1:], torch.full((7,), 4.0))
    demodulated = strengths(False)
    torch.testing.assert_close(strengths(False, boost=4.0), demodulated)
    assert demodulated.min() > 0.5
    assert demodulated.max() < 1.1
    assert (demodulated < strengths(False, padding="circular")).all()


@torch.no_grad()
def test_the_forecast_holds_on_independent_input_and_scatters_on_smooth_maps(chapter: dict[str, Any]) -> None:
    torch.manual_seed(1)
    weight, s = torch.randn(32, 16, 3, 3), torch.rand(1, 16) * 3
    off = {}
    for name, x in (("noise", torch.randn(64, 16, 32, 32)), ("smooth", chapter["textures"](64, 16))):
        ratio = F.conv2d(x * s[..., None, None], weight).std((0, 2, 3)) * inverse_std(weight, s, 0.0)[0]
        off[name] = (ratio - 1).abs()
    assert off["noise"].max() < 0.02
    assert off["smooth"].max() > 0.15
    assert off["smooth"].mean() > 5 * off["noise"].mean()


@torch.no_grad()
def test_raising_one_style_takes_from_all_other_shares_and_the_equation_is_the_variance() -> None:
    """Shares measured by convolving one map at a time, not from the weights."""
    torch.manual_seed(0)
    conv, noise = Conv2dWeightModulate(4, 6, 3), torch.randn(16, 4, 66, 66)

    def measured(s: Tensor) -> Tensor:
        scale = inverse_std(conv.weight, s[None], 0.0)[0, :, None, None]
        parts = [F.conv2d(noise[:, i:i + 1] * s[i], conv.weight[:, i:i + 1]) * scale for i in range(4)]
        return torch.stack([part.var((0, 2, 3)) for part in parts], dim=1)  # [out, in]

    ones = torch.ones(4)
    raised = ones.clone()
    raised[0] = 2.0
    before, after = measured(ones), measured(raised)
    assert (after[:, 0] > before[:, 0]).all()
    assert (after[:, 1:] < before[:, 1:]).all()
    torch.testing.assert_close(after.sum(1), torch.ones(6), atol=0.03, rtol=0)
    energy = raised**2 * conv.weight.square().sum((2, 3))
    torch.testing.assert_close(after, energy / energy.sum(1, keepdim=True), atol=0.02, rtol=0)


@torch.no_grad()
def test_without_a_bias_a_style_cannot_tell_w_from_half_of_it() -> None:
    torch.manual_seed(0)
    conv, x, w = Conv2dWeightModulate(16, 16, 3), torch.randn(4, 16, 8, 8), torch.randn(4, 8)
    for bias, same in ((0.0, True), (1.0, False)):
        style = EqualizedLinear(8, 16, bias=bias)
        assert torch.allclose(conv(x, style(w)), conv(x, style(w / 2)), atol=1e-4) is same
    assert torch.equal(EqualizedLinear(8, 16, bias=1.0)(0 * w), torch.ones(4, 16))


@pytest.mark.parametrize("up", [False, True])
def test_without_demodulation_the_gradient_is_not_at_a_right_angle(up: bool) -> None:
    """So the chapter's equation holds because of demodulation, and for each output map by itself."""
    torch.manual_seed(0)
    x, s = torch.randn(4, 8, 8, 8).double(), torch.rand(4, 8).double()
    cosines = {}
    for demodulate in (True, False):
        conv = Conv2dWeightModulate(8, 5, 3, demodulate, up=up).double()
        (g,) = torch.autograd.grad(conv(x, s).sin().sum(), conv.weight)
        cosines[demodulate] = F.cosine_similarity(conv.weight.flatten(1), g.flatten(1)).abs()
    assert cosines[True].max() < 1e-8
    assert cosines[False].max() > 1e-3


@pytest.mark.parametrize("name", ["toyfaces-32", "emoji-32"])
def test_in_trained_generators_demodulated_weights_have_grown_and_those_of_to_rgb_have_shrunk(name: str) -> None:
    for layer in load(record(name)).generator.modules():
        if isinstance(layer, Conv2dWeightModulate):
            assert (layer.weight.detach().square().mean().sqrt() > 1) == layer.demodulate


def test_eps_is_felt_by_vanishing_styles_only_and_sooner_with_scaled_weights() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64, 3, 3).double()

    def std(w: Tensor, size: float) -> float:
        s = torch.full((1, 64), size).double()
        return (inverse_std(w, s, 1e-8) / inverse_std(w, s, 0.0)).mean().item()

    scaled = weight / math.sqrt(64 * 9)
    for size in (1.0, 1e-2):
        assert std(weight, size) == pytest.approx(std(scaled, size), abs=1e-4)
    for size in (1e-4, 1e-5):
        assert std(scaled, size) < std(weight, size) - 0.2


def test_a_sum_of_thousands_of_squares_is_too_coarse_in_bfloat16() -> None:
    torch.manual_seed(0)
    weight, s = torch.randn(64, 512, 3, 3), torch.randn(4, 512)
    exact = torch.einsum("bi,oikl->boikl", s.double(), weight.double()).flatten(2).norm(dim=2).reciprocal()
    with torch.autocast("cpu", torch.bfloat16):
        ours = inverse_std(weight, s, 0.0)
        coarse = F.linear(s.square(), weight.square().sum((2, 3))).float().rsqrt()
    assert (ours / exact - 1).abs().max() < 1e-5
    assert (coarse / exact - 1).abs().max() > 1e-3


@torch.no_grad()
def test_in_float16_activations_times_styles_overflow_where_those_of_a_standard_length_do_not() -> None:
    torch.manual_seed(0)
    conv, x, s = Conv2dWeightModulate(16, 16, 3), torch.randn(2, 16, 8, 8), 3e4 * torch.randn(2, 16)
    assert not (x * s[:, :, None, None]).half().isfinite().all()
    expected = conv(x, s)
    with torch.autocast("cpu", torch.float16):
        for y in (conv.scale_weights(x.half(), s), conv.scale_activations(x.half(), s)):
            torch.testing.assert_close(y.float(), expected, atol=0.02, rtol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(conv.scale_activations(x.bfloat16(), s).float(), expected, atol=0.1, rtol=0.1)


def test_the_rule_compares_counts_per_sample_and_leaves_a_cpu_with_the_second_form() -> None:
    for features, side in ((512, 8), (512, 16), (256, 32), (128, 64), (32, 256)):
        weight = torch.empty(features, features, 3, 3, device="meta")
        scaled_weights, scaled_activations = features * features * 9, 2 * features * side * side
        x = torch.empty(16, features, side, side, device="meta")
        assert weights_are_smaller(x, weight) == (scaled_weights < scaled_activations)
        assert not weights_are_smaller(torch.empty(16, features, side, side), torch.empty(weight.shape))


@torch.no_grad()
def test_doubling_takes_most_of_independent_noise_and_leaves_smooth_maps(chapter: dict[str, Any]) -> None:
    """The variance that is left of noise, from the taps: each output pixel is a weighted sum of the inputs."""
    torch.manual_seed(0)
    up = Conv2dWeightModulate(32, 32, 3, up=True)
    impulse = torch.zeros(1, 1, 9, 9)
    impulse[..., 4, 4] = 1
    kernels = torch.randn(2000, 1, 3, 3)
    answers = Smooth(padding=1, gain=4.0)(F.conv_transpose2d(impulse, kernels.transpose(0, 1), stride=2))
    left = (answers.square().sum((2, 3)).squeeze(0) / 4 / kernels.square().sum((1, 2, 3))).mean()  # 4 pixels for one
    found = {}
    for name, x in (("noise", torch.randn(16, 32, 32, 32)), ("smooth", chapter["textures"](16, 32))):
        found[name] = up(x, torch.ones(16, 32))[..., 4:-4, 4:-4].var().item()
    assert found["noise"] == pytest.approx(left.item(), abs=0.04)
    assert found["noise"] < 0.5
    assert found["smooth"] > 0.8


def test_at_32_pixels_demodulation_ends_farther_from_the_data_in_each_seed() -> None:
    runs = series("ablation")
    ends = {name: runs[name]["measures"][-1]["frechet"] for name in runs}
    for seed in range(3):
        assert ends[f"B-{seed}"] > ends[f"A-{seed}"]
        a, b = runs[f"A-{seed}"], runs[f"B-{seed}"]
        assert a["settings"]["resolution"] == b["settings"]["resolution"] == 32
        assert a["images"] == b["images"]
