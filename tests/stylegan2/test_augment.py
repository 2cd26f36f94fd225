"""Adaptive augmentation: every transformation against something made without it, the resampling, the controller."""

import colorsys
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch.autograd import gradcheck, gradgradcheck

from stylegan2 import Discriminator, GradientPenalty
from stylegan2.augment import (
    COLOUR,
    GEOMETRY,
    AdaptiveAugment,
    about_grey,
    colour,
    geometry,
    recolour,
    rotate,
)
from stylegan2.warp import affine_warp


def augment(*transformations, p=1.0, seed=0, **options):
    torch.manual_seed(seed)
    module = AdaptiveAugment(transformations=transformations or None, **options)
    module.p.fill_(p)
    return module


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def turned(angle):
    return F.pad(rotate(angle), (0, 1))  # by no step


# --- the exact ones ---


def test_p_of_zero_is_the_identity():
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    assert augment(p=0)(images) is images


@pytest.mark.parametrize("side", [4, 32, 256])
def test_a_sample_that_nothing_happens_to_comes_out_bit_for_bit(side):
    """On a GPU nothing is skipped at p = 0; and at any p most samples must not be touched."""
    images = torch.rand(5, 3, side, side) * 2 - 1
    nothing = augment(p=0).draw(5)
    assert torch.equal(affine_warp(images, geometry(nothing, side)), images)
    assert torch.equal(recolour(images, colour(nothing)), images)


def outcomes(name, candidates, images):
    """Which of the candidates every output is, bit for bit."""
    out = augment(name)(images)
    found = []
    for i in range(len(images)):
        matches = [k for k, candidate in candidates.items() if torch.equal(out[i], candidate[i])]
        assert len(matches) == 1
        found.append(matches[0])
    return found


def test_x_flip():
    images = torch.rand(64, 3, 8, 8)
    found = outcomes("x_flip", {"as is": images, "flipped": images.flip(-1)}, images)
    assert 16 < found.count("flipped") < 48


def test_quarter_turns():
    images = torch.rand(64, 3, 8, 8)
    found = outcomes("quarter_turns", {k: torch.rot90(images, k, (2, 3)) for k in range(4)}, images)
    assert all(found.count(k) > 4 for k in range(4))


def test_whole_shift():
    images = torch.rand(600, 3, 16, 16)
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (2, 2), (2, 2)], mode="symmetric")
    steps = list(itertools.product(range(-2, 3), repeat=2))  # up to 16/8 pixels
    candidates = {(y, x): torch.from_numpy(padded[:, :, 2 + y:18 + y, 2 + x:18 + x]) for y, x in steps}
    found = outcomes("whole_shift", candidates, images)
    assert set(found) == set(steps)
    # U(−2, 2) rounded: the ends are half as likely as the rest.
    assert sum(abs(x) == 2 for _, x in found) / 600 == pytest.approx(1 / 4, abs=0.1)


# --- the resampling ---


def keys(t, a=-0.75):
    """The kernel of cubic convolution, from Keys's paper."""
    t = abs(t)
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def looked_up(image, x, y):
    """One value of one channel at a position, by the definition, with numpy's mirror padding (three images wide)."""
    side = len(image)
    padded = np.pad(image, side, mode="symmetric")
    column, row = (x + 1) * side / 2 - 0.5 + side, (y + 1) * side / 2 - 0.5 + side
    return sum(keys(row - r) * keys(column - c) * padded[r, c]
               for r in range(math.floor(row) - 1, math.floor(row) + 3)
               for c in range(math.floor(column) - 1, math.floor(column) + 3))


@settings(max_examples=15, deadline=None)
@given(angle=st.floats(-4, 4), factor=st.floats(0.7, 1.4), step=st.floats(-0.5, 0.5), side=st.sampled_from([4, 5, 8]))
def test_warp_looks_up_where_the_matrix_points(angle, factor, step, side):
    torch.manual_seed(0)
    image = torch.rand(1, 1, side, side, dtype=torch.float64)
    matrix = torch.tensor([[factor * math.cos(angle), -math.sin(angle), step],
                           [math.sin(angle), factor * math.cos(angle), -0.3 * step]], dtype=torch.float64)
    out = affine_warp(image, matrix[None])[0, 0]
    centre = [(2 * i + 1) / side - 1 for i in range(side)]
    for r, c in [(0, 0), (1, 2), (side - 1, 0), (side // 2, side - 1)]:
        x, y = (matrix @ vector(centre[c], centre[r], 1)).tolist()
        assert out[r, c].item() == pytest.approx(looked_up(image[0, 0].numpy(), x, y), abs=1e-12)


def test_a_turn_goes_the_way_that_scipy_turns():
    """A smooth picture, so that the two interpolations agree; its middle, where the border cannot be seen."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    picture = np.cos(4 * x + 1) * np.sin(3 * y + x)
    ours = affine_warp(torch.from_numpy(picture)[None, None], turned(vector(math.radians(20))))[0, 0].numpy()
    theirs = ndimage.rotate(picture, 20, reshape=False, order=3)
    np.testing.assert_allclose(ours[16:48, 16:48], theirs[16:48, 16:48], atol=1e-2)
    assert np.abs(ours - ndimage.rotate(picture, -20, reshape=False, order=3))[16:48, 16:48].max() > 0.1


@pytest.mark.parametrize(("cycles", "error"), [(0.1, 0.03), (0.2, 0.03), (0.3, 0.07)])
def test_a_turn_keeps_sine_waves(cycles, error):
    """Root mean square error of a wave of so many cycles a pixel after a turn, against the turned wave itself."""
    side, torn = 64, []
    c = torch.linspace(-1, 1, side + 1, dtype=torch.float64)[:-1] + 1 / side
    y, x = torch.meshgrid(c, c, indexing="ij")
    for angle in torch.linspace(0.1, 1.5, 15, dtype=torch.float64):
        cos, sin = angle.cos(), angle.sin()
        waves = [torch.cos(math.pi * side * cycles * u) for u in (x, cos * x - sin * y)]
        found = affine_warp(waves[0][None, None], turned(angle[None]))[0, 0]
        torn.append((found - waves[1])[20:44, 20:44].square().mean().sqrt().item())
    assert sum(torn) / len(torn) < error


def test_scaling_and_shifting_move_a_spot_where_they_should():
    """A Gaussian spot at (0.25, −0.125): the matrix takes positions in the output to the image, so x ↦ (x − t)/f."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 65, dtype=torch.float64)[:-1] + 1 / 64] * 2, indexing="ij")
    spot = torch.exp(-((x - 0.25)**2 + (y + 0.125)**2) * 60)[None, None]
    matrix = torch.diag(vector(0.8, 1.25)) @ torch.tensor([[1, 0, -0.1], [0, 1, 0.2]], dtype=torch.float64)
    out = affine_warp(spot, matrix[None])[0, 0]
    mean = [(out * c).sum().item() / out.sum().item() for c in (x, y)]
    assert mean == pytest.approx([0.25 / 0.8 + 0.1, -0.125 / 1.25 - 0.2], abs=2e-3)


def test_lookups_differentiate_twice():
    torch.manual_seed(0)
    images = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    matrix = torch.eye(2, 3, dtype=torch.float64) + 0.3 * torch.randn(2, 2, 3, dtype=torch.float64)
    weight = torch.randn(2, 1, 4, 4, dtype=torch.float64)

    def curved(x):  # something whose second derivative is not zero
        return affine_warp(x, matrix).pow(3) * weight

    assert gradcheck(curved, (images,))
    assert gradgradcheck(curved, (images,))


def test_the_first_derivative_is_that_of_grid_sample():
    torch.manual_seed(0)
    images = torch.randn(3, 2, 8, 8, requires_grad=True)
    matrix = torch.eye(2, 3, dtype=torch.float64) + 0.3 * torch.randn(3, 2, 3, dtype=torch.float64)
    grid = F.affine_grid(matrix.float(), [3, 2, 8, 8], align_corners=False)
    theirs = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    ours, probe = affine_warp(images, matrix), torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(ours, images, probe), torch.autograd.grad(theirs, images, probe),
                               rtol=1e-4, atol=1e-5)


def test_r1_looks_through_every_transformation():
    """d/dθ of R1 through the whole pipeline, against finite differences along a random direction."""
    torch.manual_seed(0)
    discriminator, images = Discriminator(3, 4, 4).double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    parameters = list(discriminator.parameters())
    direction = [torch.randn_like(p) for p in parameters]

    def r1(step):
        x, moved = images.clone().requires_grad_(), {}
        for (name, p), d in zip(discriminator.named_parameters(), direction, strict=True):
            moved[name] = p + step * d
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", lambda self: self)  # the score is given out in float32
            seen = augment(seed=3)(x)
            return GradientPenalty()(x, torch.func.functional_call(discriminator, moved, (seen,)))

    step = torch.zeros([], dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(r1(step), step)
    with torch.enable_grad():
        values = [r1(torch.tensor(sign * 1e-6, dtype=torch.float64)).item() for sign in (1, -1)]
    assert slope.item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


def test_a_constant_colour_stays_constant_under_geometry():
    colours = torch.rand(32, 3, 1, 1) * 2 - 1
    out = augment(*GEOMETRY)(colours.expand(-1, -1, 16, 16).contiguous())
    torch.testing.assert_close(out, colours.expand(-1, -1, 16, 16), atol=4e-6, rtol=0)


# --- colour ---


def test_a_third_of_a_turn_of_the_hue_permutes_the_channels():
    """About the grey axis that is exact; and it is what a third of a turn means in HSV."""
    colours = torch.rand(20, 3, 1, 1, dtype=torch.float64)
    third = torch.full([20], 2 * math.pi / 3, dtype=torch.float64)
    out = recolour(colours, F.pad(about_grey(torch.ones_like(third), third.cos(), third.sin()), (0, 1)))
    for before, after in zip(colours.flatten(1).tolist(), out.flatten(1).tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb((hue + 1 / 3) % 1, saturation, value))


def test_hue_keeps_luma_and_chroma_and_can_turn_anywhere():
    red = vector(1, -1, -1)[None, :, None, None].expand(500, -1, -1, -1)
    out = augment("hue")(red).flatten(1)
    torch.testing.assert_close(out.sum(dim=1), torch.full([500], -1.0, dtype=torch.float64))
    torch.testing.assert_close(out.norm(dim=1), torch.full([500], math.sqrt(3), dtype=torch.float64))
    angle = torch.atan2(math.sqrt(3) * (out[:, 1] - out[:, 2]), 2 * out[:, 0] - out[:, 1] - out[:, 2])
    assert stats.kstest(angle.numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 0.001


def test_luma_flip_and_saturation_on_known_colours():
    """Orange (1, 0, −1) has luma 0; on top of grey g, the flip leaves it and turns g to −g."""
    image = (vector(1, 0, -1) + 0.25)[None, :, None, None].expand(200, -1, -1, -1)
    flipped = augment("luma_flip")(image).flatten(1)
    expected = {True: vector(1, 0, -1) - 0.25, False: vector(1, 0, -1) + 0.25}
    happened = [bool(torch.isclose(row, expected[True]).all()) for row in flipped]
    assert 60 < sum(happened) < 140
    torch.testing.assert_close(flipped, torch.stack([expected[h] for h in happened]))
    saturated = augment("saturation")(image).flatten(1) - 0.25
    factor = saturated[:, 0]
    torch.testing.assert_close(saturated, factor[:, None] * vector(1, 0, -1))
    assert stats.kstest(factor.log2().numpy(), stats.norm(0, 1).cdf).pvalue > 0.001


def test_brightness_and_contrast():
    image = vector(0.5, 0, -0.5)[None, :, None, None].expand(500, -1, -1, -1)
    step = augment("brightness")(image).flatten(1) - vector(0.5, 0, -0.5)
    torch.testing.assert_close(step, step[:, :1].expand(-1, 3))
    assert stats.kstest(step[:, 0].numpy(), stats.norm(0, 0.2).cdf).pvalue > 0.001
    out = augment("contrast")(image).flatten(1)
    torch.testing.assert_close(out, out[:, :1] * vector(1, 0, -1))
    assert stats.kstest((2 * out[:, 0]).log2().numpy(), stats.norm(0, 0.5).cdf).pvalue > 0.001


# --- what is drawn, and how often ---


def drawn(name, n=2000, side=16):
    return geometry(augment(name).draw(n), side)


def test_geometry_is_drawn_as_the_paper_says():
    isotropic, anisotropic = drawn("isotropic_scale"), drawn("anisotropic_scale")
    assert torch.equal(isotropic[:, 0, 0], isotropic[:, 1, 1])
    torch.testing.assert_close(torch.det(anisotropic[:, :, :2]), torch.ones(2000, dtype=torch.float64))
    for matrices in (isotropic, anisotropic):
        assert stats.kstest(matrices[:, 0, 0].log2().numpy(), stats.norm(0, 0.2).cdf).pvalue > 0.001
    turns = drawn("turn_before")[:, :, :2]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(2, dtype=torch.float64).expand(2000, -1, -1))
    angles = torch.atan2(turns[:, 1, 0], turns[:, 0, 0])
    assert stats.kstest(angles.numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 0.001
    for steps in drawn("shift")[:, :, 2].T:  # N(0, 1/8) sides: two units are a side
        assert stats.kstest(steps.numpy() / 2, stats.norm(0, 1 / 8).cdf).pvalue > 0.001


def homogeneous(rows, size):
    """Rows of a matrix of homogeneous coordinates, with the last one, which is always the same."""
    last = torch.eye(size, dtype=torch.float64)[-1:].expand(len(rows), 1, -1)
    return torch.cat([rows, last], dim=1)


def alone(drawn, name):
    """What was drawn, with all but one transformation left out."""
    nothing = torch.zeros_like(drawn[name].uniform)
    return {key: value if key == name else type(value)(nothing, nothing) for key, value in drawn.items()}


def test_geometry_is_the_product_of_its_transformations_in_the_order_of_the_paper():
    """Pixels move by the inverse of the matrix that looks them up."""
    together, moved = augment(seed=2).draw(50), torch.eye(3, dtype=torch.float64)
    for name in GEOMETRY:  # what happens to the image first comes first
        moved = torch.linalg.inv(homogeneous(geometry(alone(together, name), 16), 3)) @ moved
    found = torch.linalg.inv(homogeneous(geometry(together, 16), 3))
    torch.testing.assert_close(found, moved, rtol=1e-8, atol=1e-8)


def test_colour_is_the_product_of_its_transformations_in_the_order_of_the_paper():
    together, product = augment(seed=2).draw(50), torch.eye(4, dtype=torch.float64)
    for name in COLOUR:
        product = homogeneous(colour(alone(together, name)), 4) @ product
    torch.testing.assert_close(homogeneous(colour(together), 4), product)


def test_what_is_drawn_for_one_transformation_is_nothing_for_the_others():
    """Nor does it depend on them whether it takes part."""
    chances = augment("hue", "shift", p=0.5).draw(4000)
    for name in (*GEOMETRY, *COLOUR):
        if name not in ("hue", "shift"):
            assert not chances[name].uniform.any()
            assert not chances[name].normal.any()
    both = [(chances[name].normal[0] != 0) for name in ("hue", "shift")]
    assert stats.binomtest(int((both[0] & both[1]).sum()), 4000, 0.25).pvalue > 0.001
    numbers = chances["hue"].uniform[0][both[0]].numpy()
    assert stats.kstest(numbers, stats.uniform(-0.5, 1).cdf).pvalue > 0.001


@pytest.mark.parametrize("name", ["isotropic_scale", "shift", "brightness", "contrast", "hue"])
def test_each_happens_with_probability_p(name):
    image = torch.rand(1, 3, 4, 4).expand(2000, -1, -1, -1)
    changed = (augment(name, p=0.3)(image) != image).flatten(1).any(dim=1).sum().item()
    assert stats.binomtest(changed, 2000, 0.3).pvalue > 0.001


def test_the_two_rotations_together_happen_with_probability_p():
    image = torch.rand(1, 3, 4, 4).expand(2000, -1, -1, -1)
    changed = (augment("turn_before", "turn_after", p=0.6)(image) != image).flatten(1).any(dim=1).sum().item()
    assert stats.binomtest(changed, 2000, 0.6).pvalue > 0.001


def test_contrast_comes_after_brightness():
    """It stretches the brightness of a grey image: std(b·2^n) = 0.2·exp((0.5·ln 2)²), not 0.2."""
    image = torch.zeros(1, 3, 4, 4).expand(4000, -1, -1, -1)
    out = augment("brightness", "contrast")(image)[:, 0, 0, 0]
    assert out.std().item() == pytest.approx(0.2 * math.exp((0.5 * math.log(2))**2), rel=0.06)


def test_the_same_seed_gives_the_same_images_and_autocast_does_not_matter():
    images = torch.rand(8, 3, 16, 16) * 2 - 1
    first = augment(seed=5, p=0.5)(images)
    with torch.autocast("cpu", torch.bfloat16):
        second = augment(seed=5, p=0.5)(images)
    assert second.dtype == torch.float32
    assert torch.equal(first, second)
    assert augment(p=0.5)(images.bfloat16()).dtype == torch.float32
    assert not torch.equal(first, augment(seed=6, p=0.5)(images))


# --- the controller ---


def test_p_reaches_one_after_the_ramp_and_stays():
    module, sure = AdaptiveAugment(ramp=500_000), torch.ones(1000, 1)
    for images in range(1000, 500_001, 1000):
        module.observe(sure)
        if images % 4000 == 0:
            assert module.adjust().item() == 1
            assert module.p.item() == pytest.approx(images / 500_000, rel=1e-4)
    for _ in range(8):
        module.observe(sure)
    module.adjust()
    assert module.p.item() == 1


@settings(max_examples=30, deadline=None)
@given(positive=st.integers(0, 100), start=st.floats(0, 1), target=st.sampled_from([0.3, 0.6]))
def test_p_moves_towards_the_target(positive, start, target):
    module = AdaptiveAugment(target=target, ramp=1000)
    module.p.fill_(start)
    scores = torch.full([100, 1], -2.0)
    scores[:positive] = 0.5
    for part in scores.split(25):
        module.observe(part)
    r = (2 * positive - 100) / 100
    assert module.adjust().item() == pytest.approx(r, abs=1e-6)
    if abs(r - target) > 1e-6:
        assert module.p.item() == pytest.approx(min(1, max(0, start + math.copysign(0.1, r - target))), abs=1e-6)


def test_nothing_observed_leaves_p_alone():
    module = augment(p=0.4)
    module.adjust()
    assert module.p.item() == pytest.approx(0.4)


def test_two_processes_that_add_their_signs_go_the_way_of_one():
    scores = torch.randn(64, 1)
    one, halves = augment(p=0.5), [augment(p=0.5), augment(p=0.5)]
    one.observe(scores)
    for half, part in zip(halves, scores.split(32), strict=True):
        half.observe(part)
    total = halves[0].signs + halves[1].signs
    for module in halves:
        module.signs.copy_(total)
    assert {m.adjust().item() for m in halves} == {one.adjust().item()}
    assert {m.p.item() for m in halves} == {one.p.item()}


def test_a_state_dict_resumes_exactly():
    torch.manual_seed(0)
    scores, module = torch.randn(6, 16, 1), augment(ramp=3000, p=0.2)
    resumed = AdaptiveAugment(ramp=3000)
    for i, batch in enumerate(scores):
        if i == 3:
            resumed.load_state_dict(module.state_dict())
        for m in [module, resumed][:1 + (i >= 3)]:
            m.observe(batch)
            if i % 2:
                m.adjust()
    assert torch.equal(module.p, resumed.p)
    assert 0 < module.p.item() != pytest.approx(0.2)


def test_an_unknown_transformation_is_named():
    with pytest.raises(ValueError, match="cutout"):
        AdaptiveAugment(transformations=["x_flip", "cutout"])
    with pytest.raises(ValueError, match="no transformation is named"):
        AdaptiveAugment(transformations=[])
