"""Looking into a generator: layers, mixing, truncation, noise, sheets."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from book.records import record
from stylegan2 import Generator, MappingNetwork, explore
from stylegan2.explore.latents import as_noise, stored_maps
from stylegan2.images import images_at_once, to_uint8
from stylegan2.training.config import Settings
from stylegan2.weights import TrainedGenerator, load, sample


def tiny(resolution=16, noise=False):
    """Not trained, but with a mean of w, and with noise that is heard."""
    torch.manual_seed(0)
    options = Settings(resolution=resolution, n_features=4, max_features=8, d_latent=8, mapping_layers=2, noise=noise)
    trained = TrainedGenerator(options, MappingNetwork(8, 2), Generator(options.log_resolution, 8, 4, 8)).eval()
    trained.mapping.mean_w.copy_(torch.randn(8))
    for name, parameter in trained.generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.5)
    return trained


@pytest.fixture(scope="module")
def faces():
    return load(record("toyfaces-32"))


@pytest.mark.parametrize(("resolution", "ranges"), [
    (1024, [(0, 4), (4, 8), (8, 18)]),  # StyleGAN, figure 3: 4²–8², 16²–32², 64²–1024²
    (256, [(0, 4), (4, 6), (6, 14)]), (32, [(0, 2), (2, 4), (4, 8)]), (16, [(0, 2), (2, 4), (4, 6)]),
])
def test_coarse_middle_and_fine(resolution, ranges):
    trained = tiny()
    trained.generator.n_blocks = resolution.bit_length() - 2
    for name, (first, stop) in zip(("coarse", "middle", "fine"), ranges, strict=True):
        assert explore.layer_range(trained, name) == range(first, stop)
    assert explore.layer_range(trained, "all") == range(ranges[-1][1])


def test_spans_of_layers():
    assert explore.layer_range(tiny(), "3") == range(3, 4)
    assert explore.layer_range(tiny(), "2-5") == range(2, 6)


@pytest.mark.parametrize("layers", ["6", "2-6", "4-3", "best", "", "-1", "1:3"])
def test_layers_that_are_none(layers):
    with pytest.raises(ValueError, match="layers is"):
        explore.layer_range(tiny(), layers)


def test_a_generator_of_two_resolutions_has_no_fine_layers():
    with pytest.raises(ValueError, match="4 layers, counted from 0, and that means none"):
        explore.layer_range(tiny(resolution=8), "fine")


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_axes_in_the_order_of_other_programs_are_noticed(faces, batch):
    """[batch, layers, d], also where there are as many images as layers: from one w each, or mixed from two."""
    w = explore.draw_w(faces, batch, seed=1)
    mixed = explore.mix(w, explore.draw_w(faces, batch, seed=2), range(3))
    for ours in (w, mixed, w.clone()):
        images = explore.synthesize(faces, ours)
        with pytest.raises(ValueError, match=r"looks like \[batch, layers, d_latent\].*w\.transpose\(0, 1\)"):
            explore.synthesize(faces, ours.transpose(0, 1).contiguous())
        assert torch.equal(explore.synthesize(faces, ours.transpose(0, 1).contiguous().transpose(0, 1)), images)
    with pytest.raises(ValueError, match="per_layer"):
        explore.synthesize(faces, w[:5, :2])
    with pytest.raises(ValueError, match="per_layer"):
        explore.synthesize(faces, w[:1, :1])


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 18), ends=st.tuples(st.integers(0, 18), st.integers(0, 18)))
def test_mixing_takes_each_layer_from_one_source(n, ends):
    a, b = torch.zeros(n, 2, 3), torch.ones(n, 2, 3)
    first, stop = sorted(min(end, n) for end in ends)
    mixed = explore.mix(a, b, range(first, stop))
    assert mixed[:, 0, 0].tolist() == [float(first <= i < stop) for i in range(n)]
    assert a.sum() == 0


def test_a_grid_mixed_nowhere_and_everywhere_shows_the_pure_sources(faces):
    a, b = explore.draw_w(faces, 2, seed=1), explore.draw_w(faces, 3, seed=2)
    n = faces.generator.n_layers
    nowhere, everywhere = (explore.mixing_grid(faces, a, b, layers) for layers in (range(0), range(n)))
    for i, j in itertools.product(range(2), range(3)):
        torch.testing.assert_close(nowhere[i, j], explore.synthesize(faces, a)[i], atol=1e-4, rtol=0)
        torch.testing.assert_close(everywhere[i, j], explore.synthesize(faces, b)[j], atol=1e-4, rtol=0)
    # Somewhere in between: the rows and the columns both matter, and each cell is the one that its place says.
    mixed = explore.mixing_grid(faces, a, b, range(4, n))
    expected = faces.generator(torch.cat([a[:4, 1:], b[4:, 2:]]), None)[0]
    torch.testing.assert_close(mixed[1, 2], expected, atol=1e-4, rtol=0)


def test_coarse_layers_change_the_image_more_than_fine_ones(faces):
    """What the names promise, on the record: place and shape come from the first layers."""
    a, b = explore.draw_w(faces, 8, seed=1, psi=0.7), explore.draw_w(faces, 8, seed=2, psi=0.7)
    small = [torch.nn.functional.avg_pool2d(explore.synthesize(faces, w), 8)
             for w in (a, *(explore.mix(a, b, explore.layer_range(faces, name)) for name in ("coarse", "fine")))]
    assert (small[1] - small[0]).abs().mean() > 1.5 * (small[2] - small[0]).abs().mean()


def test_mixing_needs_layers():
    one = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="n_layers is 1"):
        explore.mix(one, one, range(1))
    with pytest.raises(ValueError, match="has layers 0 to 3"):
        explore.mix(torch.zeros(4, 1, 3), torch.zeros(4, 1, 3), range(2, 5))


def test_synthesize_wants_one_w_per_layer():
    with pytest.raises(ValueError, match="one w for each of the generator's 6 layers"):
        explore.synthesize(tiny(), torch.zeros(3, 1, 8))


def test_images_do_not_depend_on_the_batch_they_are_made_in(faces):
    w = explore.draw_w(faces, 20)
    torch.testing.assert_close(explore.synthesize(faces, w)[17:], explore.synthesize(faces, w[:, 17:]),
                               atol=1e-4, rtol=0)


def test_truncation(faces):
    w = explore.draw_w(faces, 3)
    grid = explore.truncation_sweep(faces, w, [0.0, 1.0, -1.0, 0.5])
    mean = explore.synthesize(faces, explore.per_layer(faces, faces.mapping.mean_w[None]))
    torch.testing.assert_close(grid[:, 0], mean.expand(3, -1, -1, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(grid[:, 1], explore.synthesize(faces, w), atol=1e-4, rtol=0)
    opposite = explore.synthesize(faces, 2 * faces.mapping.mean_w - w)  # mirrored at the mean
    torch.testing.assert_close(grid[:, 2], opposite, atol=1e-3, rtol=0)
    assert grid[:, 3].std(dim=0).mean() < grid[:, 1].std(dim=0).mean()


def test_truncation_up_to_a_layer(faces):
    w = explore.draw_w(faces, 2)
    grid = explore.truncation_sweep(faces, w, [0.0], cutoff=3)
    by_hand = w.clone()
    by_hand[:3] = faces.mapping.mean_w
    torch.testing.assert_close(grid[:, 0], explore.synthesize(faces, by_hand), atol=1e-4, rtol=0)


def test_the_same_seed_gives_the_same_latents():
    trained = tiny()
    torch.testing.assert_close(explore.draw_w(trained, 2, seed=5), explore.draw_w(trained, 2, seed=5))
    assert not torch.equal(explore.draw_w(trained, 2, seed=5), explore.draw_w(trained, 2, seed=6))


@pytest.mark.parametrize("silent", range(5))
def test_noise_that_a_layer_does_not_listen_to_changes_nothing(silent):
    trained = tiny(noise=True)
    blocks = [trained.generator.style_block,
              *(b for block in trained.generator.blocks for b in (block.style_block1, block.style_block2))]
    blocks[silent].noise_strength.data.zero_()
    variation = explore.noise_variation(trained, explore.draw_w(trained, 2), draws=3)
    assert variation.shape == (5, 2, 16, 16)
    assert [layer for layer in range(5) if variation[layer].max() < 1e-6] == [silent]


def test_variation_is_the_standard_deviation():
    """Of the last noise layer alone, in float64 and by hand, with the same draws."""
    trained, draws = tiny(noise=True), 4
    w = explore.draw_w(trained, 1)
    source, maps = torch.Generator().manual_seed(3), stored_maps(trained)
    noise = [[torch.randn(1, 1, *m.shape[2:], generator=source) for _ in range(draws)] for m in maps][-1]
    images = [trained.double().generator(w.double(), as_noise([*(m.double() for m in maps[:-1]), one.double()]))
              for one in noise]
    expected = torch.stack(images).var(dim=0).sqrt().mean(dim=1)
    variation = explore.noise_variation(trained.float(), w, draws=draws, seed=3)[-1]
    torch.testing.assert_close(variation, expected.float(), atol=1e-5, rtol=1e-3)


def test_stored_maps_given_as_a_list_are_the_stored_maps():
    trained = tiny(noise=True)
    w = explore.draw_w(trained, 2)
    torch.testing.assert_close(trained.generator(w, as_noise(stored_maps(trained))), trained.generator(w, "const"))


def test_noise_that_cannot_vary():
    with pytest.raises(ValueError, match="trained without noise"):
        explore.noise_variation(tiny(), explore.draw_w(tiny(), 1))
    with pytest.raises(ValueError, match="2 or more"):
        explore.noise_variation(tiny(noise=True), explore.draw_w(tiny(), 1), draws=1)


def test_a_sheet_shows_every_image_in_its_place():
    images = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    page = explore.sheet(images)
    assert page.size == (3 * 96, 2 * 96)
    for i, j in itertools.product(range(2), range(3)):
        cell = page.crop((j * 96, i * 96, (j + 1) * 96, (i + 1) * 96)).resize((16, 16), Image.Resampling.NEAREST)
        pixels = torch.tensor(list(cell.get_flattened_data())).reshape(16, 16, 3).permute(2, 0, 1)
        torch.testing.assert_close(pixels, to_uint8(images[i, j]).long())


def test_labels_and_sources_make_room():
    black = -torch.ones(2, 2, 3, 32, 32)
    page = explore.sheet(black, ["a", "b"], ["c", "d"], sources=True)
    left, top = page.width - 2 * 96 - 8, page.height - 2 * 96 - 8
    assert left > 10
    assert top > 10
    column = [page.getpixel((left + 48, y)) for y in range(top, page.height)]
    assert [column.count(colour) for colour in ((0, 0, 0), (255, 255, 255))] == [2 * 96, 8]
    margin = page.crop((0, top, left, page.height)).convert("L")
    assert margin.getextrema()[0] < 100  # something is written there
    with pytest.raises(ValueError, match="there are 3 row labels for 2 rows"):
        explore.sheet(black, ["a", "b", "c"])


def test_sources_stand_at_the_edge():
    grid, a, b = torch.zeros(2, 3, 3, 4, 4), torch.full([2, 3, 4, 4], 0.25), torch.full([3, 3, 4, 4], 0.5)
    whole = explore.with_sources(grid, a, b)
    assert whole[:, :, 0, 0, 0].tolist() == [[1.0, 0.5, 0.5, 0.5], [0.25, 0.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.0]]


def test_no_more_images_are_generated_together_than_fit(monkeypatch):
    trained, sizes = tiny(), []
    trained.generator.register_forward_hook(lambda _, args, out: sizes.append(len(out)))
    whole = sample(trained, 10, seed=3), explore.synthesize(trained, explore.draw_w(trained, 10, seed=3))
    assert sizes == [10, 10]
    monkeypatch.setattr("stylegan2.images.PIXELS_AT_ONCE", 3 * 16**2)
    parts = sample(trained, 10, seed=3), explore.synthesize(trained, explore.draw_w(trained, 10, seed=3))
    assert sizes[2:] == [3, 3, 3, 1] * 2
    for ours, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("side", "count"), [(4, 64), (256, 64), (512, 16), (1024, 4), (4096, 1)])
def test_how_many_fit(side, count):
    """64 at 512² took 14 GiB of activations; 16 take a quarter of that."""
    assert images_at_once(side, 64) == count
