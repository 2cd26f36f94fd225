"""Chapter 10: claims of its text that no cell of the chapter shows."""

import pytest
import torch
from torch import Tensor, nn

from gradnorm.per_sample import EngineRefusal, per_sample_gradients


def squares(output: Tensor) -> Tensor:
    return output.square().sum()


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.ConvTranspose2d(3, 2, 3), torch.randn(4, 3, 5, 5)),
        (nn.Sequential(nn.Linear(4, 4), nn.PReLU()), torch.randn(4, 4)),
        (nn.BatchNorm1d(4).eval(), torch.randn(4, 4)),
        (nn.RMSNorm(4), torch.randn(4, 4)),
    ],
)
def test_what_expanded_weights_do_not_know(module: nn.Module, x: Tensor) -> None:
    """Transposed convolutions, PReLU, BatchNorm, RMSNorm; hooks do all four."""
    with pytest.raises(EngineRefusal):
        per_sample_gradients(module, x, squares, engine="expanded_weights")
    hooks = per_sample_gradients(module, x, squares, engine="hooks")
    loop = per_sample_gradients(module, x, squares, engine="loop")
    for name, gradient in hooks.items():
        torch.testing.assert_close(gradient, loop[name])


def test_every_sample_draws_its_own_dropout_mask_under_vmap() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1, bias=False))
    gradients = per_sample_gradients(net, torch.ones(3, 64), torch.sum, engine="vmap")["1.weight"]  # [3, 1, 64]
    assert set(gradients.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[1], gradients[2])


class Counts(nn.Module):
    """Sums up its inputs in a buffer, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """x through the linear layer."""
        self.seen.add_(x.detach().sum())
        return self.linear(x)


def test_vmap_refuses_to_write_into_a_buffer() -> None:
    with pytest.raises(RuntimeError, match="in-place"):
        per_sample_gradients(Counts(), torch.randn(3, 4), squares, engine="vmap")


def test_one_draw_of_noise_for_the_sum() -> None:
    """The noise of a private step has standard deviation σC in the sum; a draw for each sample would have √n times."""
    torch.manual_seed(0)
    n, sigma, most = 16, 2.0, 0.5
    of_the_sum = sigma * most * torch.randn(20_000)
    of_each = (sigma * most * torch.randn(20_000, n)).sum(dim=1)
    assert of_the_sum.std() == pytest.approx(sigma * most, rel=0.03)
    assert of_each.std() == pytest.approx(sigma * most * n**0.5, rel=0.03)


def test_a_modules_backward_hook_forbids_what_an_edge_allows() -> None:
    """An in-place operation after the layer."""
    layer = nn.Linear(2, 2)
    handle = layer.register_full_backward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="inplace"):
        nn.functional.relu_(layer(torch.randn(3, 2)))
    handle.remove()
    edge = torch.autograd.graph.get_gradient_edge(output := layer(torch.randn(3, 2)))
    (delta,) = torch.autograd.grad(nn.functional.relu_(output).sum(), [edge])
    assert torch.equal(delta, (output > 0).to(delta))
