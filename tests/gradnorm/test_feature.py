"""Where gradients are measured: on parameters and modules, at activations, on the way of the one backward pass."""

import collections

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses
from gradnorm.checkpoint import checkpoint
from gradnorm.linear import linear_lengths, linear_use, parameter_lengths
from gradnorm.measure import gradient_lengths, gradient_vectors

DIM = 8


def by_name(losses):
    return {str(i): loss for i, loss in enumerate(losses)}


def heads(network, views):
    return [head(z).square().mean() for head, z in zip(network.heads, views, strict=True)]


# ——— several parameters, modules ———


def test_a_module_stands_for_its_parameters(make, batches):
    network, _ = make()
    layer, x = network.backbone[-1], batches(1)[0]
    network.backbone[0].bias.requires_grad_(False)
    ways = {
        "module": layer,
        "parameters": [layer.weight, layer.bias],
        "both": [layer, network.backbone[0]],
        "all of them": [layer.weight, layer.bias, network.backbone[0].weight],
    }
    found = {}
    for name, shared in ways.items():
        weighter = GradNormLossWeighter(num_losses=3, grad_norm_parameters=shared)
        found[name] = torch.stack(list(weighter(network(x)).norms.values()))
    torch.testing.assert_close(found["module"], found["parameters"], rtol=0, atol=0)
    torch.testing.assert_close(found["both"], found["all of them"], rtol=0, atol=0)
    assert (found["both"] > found["module"]).all()


# ——— activations ———


def test_activations_in_place_of_a_parameter(make, batches):
    network, _ = make()
    weighter = GradNormLossWeighter(num_losses=3, learning_rate=0.1)
    losses, shared = network(batches(1)[0], return_backbone_outputs=True)
    expected = [torch.autograd.grad(loss, shared, retain_graph=True)[0].norm() for loss in losses]
    result = weighter(losses, shared)
    torch.testing.assert_close(list(result.norms.values()), expected)
    assert not torch.equal(weighter.loss_weights, torch.ones(3))


def test_several_activations_count_as_one_vector(make, batches):
    network, _ = make()
    weighter = GradNormLossWeighter(num_losses=3)
    first = network.backbone[0](batches(1)[0])
    second = network.backbone[2](first.sin())
    losses = [head(first + second.sin()).square().mean() for head in network.heads]
    expected = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, [first, second], retain_graph=True)]).norm()
                for loss in losses]  # fmt: skip
    torch.testing.assert_close(list(weighter(losses, [first, second]).norms.values()), expected)


# ——— share: one backward pass ———


def test_share_measures_what_activations_do(make, batches):
    """Norms, weights and the network's gradients; the latter to the last bit, in the same order of summation."""
    outcomes = []
    for shared in (False, True):
        network, weighter = make(grad_norm_parameters=None)
        for x in batches(5):
            network.zero_grad()
            z = network.backbone(x)
            losses = heads(network, weighter.share(z) if shared else [z] * 3)
            result = weighter(losses, None if shared else z)
        outcomes.append((result, weighter.loss_weights, [p.grad for p in network.parameters()]))
    (slow, slow_weights, slow_gradients), (fast, fast_weights, fast_gradients) = outcomes
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(fast_weights, slow_weights, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(fast_gradients, slow_gradients, rtol=1e-5, atol=1e-7)
    assert not torch.equal(fast_weights, torch.ones(3))


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_share_leaves_the_weighted_sums_gradients_bit_for_bit(make, batches, gradients, scale):
    network, weighter = make(grad_norm_parameters=None, loss_weights=[0.5, 2.0, 0.5])
    for x in batches(5):
        w = weighter.loss_weights.clone()
        network.zero_grad()
        (sum(wi * loss for wi, loss in zip(w, network(x), strict=True)) * scale).backward()
        expected = gradients(network)
        network.zero_grad()
        weighter(heads(network, weighter.share(network.backbone(x))), scale=scale)
        assert all(torch.equal(a, b) for a, b in zip(gradients(network), expected, strict=True))


def test_share_needs_one_backward_pass(make, batches):
    network, weighter = make(grad_norm_parameters=None)
    counts = collections.Counter()
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            module.weight.register_hook(lambda _, name=name: counts.update([name]))
    weighter(heads(network, weighter.share(network.backbone(batches(1)[0]))))
    assert len(counts) == 6
    assert set(counts.values()) == {1}


def test_share_of_several_features(make, batches):
    network, weighter = make(grad_norm_parameters=None)
    x = batches(1)[0]
    first = network.backbone[0](x)
    second = network.backbone[2](first.sin())
    pairs = zip(network.heads, weighter.share(first), weighter.share(second), strict=True)
    losses = [head(a + b.sin()).square().mean() for head, a, b in pairs]
    result = weighter.weigh(losses)
    expected = []
    for head in network.heads:  # what comes back to each feature from its own use, not through the other
        a, b = first.detach().requires_grad_(), second.detach().requires_grad_()
        pieces = torch.autograd.grad(head(a + b.sin()).square().mean(), [a, b])
        expected.append(torch.cat([piece.flatten() for piece in pieces]).norm())
    result.backward()
    torch.testing.assert_close(list(weighter.update().norms.values()), expected)


def test_gradients_inside_a_loss_do_not_count(make, batches):
    """A gradient penalty goes through the views before the total is back-propagated."""
    network, weighter = make(grad_norm_parameters=None)
    x = batches(1)[0].requires_grad_()

    def losses(views):
        first, *rest = heads(network, views)
        (slope,) = torch.autograd.grad(first, x, create_graph=True)
        return [first + slope.square().sum(), *rest]

    z = network.backbone(x)
    expected = gradient_lengths(by_name(losses([z] * 3)), [z])
    result = weighter(losses(weighter.share(z)))
    torch.testing.assert_close(torch.stack(list(result.norms.values()))[1:], expected[1:])
    assert result.norms["0"] > 0


def test_share_costs_nothing_where_nothing_is_measured(make, batches):
    network, weighter = make(grad_norm_parameters=None, update_every=2)
    z = network.backbone(batches(1)[0])
    assert weighter.share(z)[0] is not z
    weighter.frozen = True
    assert weighter.share(z) == (z, z, z)
    weighter.frozen = False
    assert weighter.eval().share(z) == (z, z, z)
    weighter.train()
    weighter(heads(network, weighter.share(z)), retain_graph=True)
    assert weighter.share(z) == (z, z, z), "the second step is not due"
    with torch.no_grad():
        assert len(weighter.share(network.backbone(batches(1)[0]))) == 3


def test_a_loss_that_does_not_use_its_view(make, batches):
    network, weighter = make(grad_norm_parameters=None)
    views = weighter.share(network.backbone(batches(1)[0]))
    with pytest.raises(ValueError, match="loss '1' does not depend on"):
        weighter(heads(network, [views[0], views[0], views[2]]))
    assert weighter.loss_weights.tolist() == [1, 1, 1]


# ——— a linear layer's weight ———


@pytest.mark.parametrize("shape", [(3, 12), (11, 12), (2, 4, 12)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_weights_lengths_without_its_gradients(shape, bias):
    torch.manual_seed(0)
    layer, before = nn.Linear(12, 7, bias=bias).double(), nn.Linear(12, 12).double()
    z = layer(before(torch.randn(shape, dtype=torch.float64)).relu())
    losses = by_name([z.sin().sum(), (z**2).mean(), z[..., 0].exp().mean()])
    use = linear_use(losses, layer.weight)
    assert use is not None
    expected = gradient_lengths(losses, [layer.weight])
    torch.testing.assert_close(linear_lengths(losses, use), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(parameter_lengths(losses, [layer.weight]), expected, rtol=1e-12, atol=0)


def test_no_gradient_of_the_weights_size_is_made():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.data_ptr() != layer.weight.data_ptr():
                self.largest = max(self.largest, result.numel())
            return result

    layer = nn.Linear(300, 200)
    for rows, small in ((4, True), (300, False)):
        z = layer(torch.randn(rows, 300))
        with Sizes() as sizes:
            parameter_lengths(by_name([z.square().sum(), z.sum()]), [layer.weight])
        assert (sizes.largest < layer.weight.numel()) == small


def scaled_product(x, layer):
    return torch.addmm(layer.bias, x, layer.weight.t(), alpha=2.0)


@pytest.mark.parametrize(
    "use",
    [
        lambda x, layer: layer(layer(x)),
        lambda x, layer: layer(x) + layer.weight.sum(),
        lambda x, layer: x @ layer.weight,
        lambda x, layer: x @ layer.weight.t() @ layer.weight.t(),
        lambda x, layer: x @ (2 * layer.weight).t(),
        scaled_product,
    ],
)
def test_every_other_use_of_a_weight_is_measured_plainly(use):
    torch.manual_seed(0)
    layer = nn.Linear(12, 12).double()
    z = use(torch.randn(3, 12, dtype=torch.float64), layer)
    losses = by_name([z.sin().sum(), z.square().mean()])
    assert linear_use(losses, layer.weight) is None
    torch.testing.assert_close(parameter_lengths(losses, [layer.weight]), gradient_lengths(losses, [layer.weight]))


def test_a_loss_beside_the_linear_layer():
    layer, own = nn.Linear(12, 7), nn.Parameter(torch.ones(()))
    weighter = GradNormLossWeighter(num_losses=2, grad_norm_parameters=layer.weight)
    for stranger in (own.square(), torch.ones(())):
        with pytest.raises(ValueError, match=r"loss '1' (does not depend on|has no graph).*loss_mask"):
            weighter([layer(torch.randn(3, 12)).sum(), stranger])
    assert own.grad is None


def test_under_autocast(batches):
    """bfloat16 activations between float32 parameters: the same lengths, to bfloat16's three digits."""
    torch.manual_seed(0)
    network = MockNetworkWithMultipleLosses(DIM, 3)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = network(batches(1)[0])
        weighter = GradNormLossWeighter(num_losses=3, grad_norm_parameters=network.backbone_parameter)
        found.append(torch.stack(list(weighter(losses).norms.values())))
        assert found[-1].dtype == torch.float32
    torch.testing.assert_close(*found, rtol=0.05, atol=0)


def test_detached_losses_are_named(make, batches):
    """All of them under no_grad, or one."""
    network, weighter = make(grad_norm_parameters=None)
    _, shared = network(batches(1)[0], return_backbone_outputs=True)
    views = weighter.share(shared)
    losses = [view.square().mean() for view in views]
    with pytest.raises(ValueError, match="loss '1' has no graph: it was detached or computed under no_grad"):
        weighter([losses[0], losses[1].detach(), losses[2]])
    weighter.share(shared)
    with pytest.raises(ValueError, match="loss '0' has no graph"):
        weighter([loss.detach() for loss in losses])


# ——— numbers of other kinds ———


@pytest.mark.parametrize("rows", [3, 20])  # fewer than the layer is wide, and more
def test_lengths_of_complex_gradients(rows):
    """As those of the real and imaginary parts, taken for real parameters."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 4, bias=False, dtype=torch.complex128)
    x = torch.randn(rows, 8, dtype=torch.complex128)
    parts = torch.view_as_real(layer.weight.detach()).clone().requires_grad_()

    def losses(weight):
        z = x @ weight.T
        return by_name([(z - i).abs().pow(3).sum() for i in range(3)])

    expected = gradient_vectors(losses(torch.view_as_complex(parts)), [parts])
    lengths = torch.stack([row.norm() for row in expected])
    found = by_name([(layer(x) - i).abs().pow(3).sum() for i in range(3)])
    torch.testing.assert_close(parameter_lengths(found, [layer.weight]), lengths)
    torch.testing.assert_close(gradient_lengths(found, [layer.weight]), lengths)
    torch.testing.assert_close(gradient_vectors(found, [layer.weight]), expected)
    assert linear_use(found, layer.weight) is None


@pytest.mark.parametrize("parts", [1, 2])
def test_a_complex_trunk_is_balanced(parts):
    """In one part, by lengths; in two, by joined vectors."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 4, bias=False, dtype=torch.complex64)
    weighter = GradNormLossWeighter(
        num_losses=2, grad_norm_parameters=layer, learning_rate=0.1
    )
    x = torch.randn(3, 8, dtype=torch.complex64)
    for part in range(parts):
        z = layer(x)
        result = weighter(
            [z.abs().sum(), (z - 1).abs().sum()], grad_step=part == parts - 1
        )
    z = layer(x)
    for loss, norm in zip(
        [z.abs().sum(), (z - 1).abs().sum()], result.norms.values(), strict=True
    ):
        (gradient,) = torch.autograd.grad(loss, layer.weight, retain_graph=True)
        torch.testing.assert_close(norm, gradient.abs().square().sum().sqrt())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_linear_layers_length_in_half_precision(dtype):
    """δ δᵀ and h hᵀ would overflow float16, and lose bfloat16's few digits."""
    torch.manual_seed(0)
    layer = nn.Linear(256, 8, dtype=dtype)
    h = (100 * torch.randn(4, 256)).to(dtype)
    z = layer(h).float()
    losses = by_name([z.sin().sum() * 50 * (i + 1) for i in range(2)])
    use = linear_use(losses, layer.weight)
    assert use is not None
    found = linear_lengths(losses, use)
    deltas = [
        torch.autograd.grad(loss, use.output, retain_graph=True)[0].double()
        for loss in losses.values()
    ]
    expected = torch.stack([(delta.T @ h.double()).norm() for delta in deltas])
    assert expected.max() > 65504
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    with torch.autocast("cpu", torch.bfloat16):  # which would round the products
        torch.testing.assert_close(linear_lengths(losses, use), found, rtol=0, atol=0)


# ——— what a graph hides ———


def reentrant(function, x):
    return torch_checkpoint(function, x, use_reentrant=True)


def test_a_reentrant_checkpoint_is_named(make, batches):
    """The trunk's parameters are in no graph: the message says why, and what to do."""
    network, weighter = make()
    x = batches(1)[0].requires_grad_()
    told = r"does not depend on.*use_reentrant=True.*gradnorm\.checkpoint\.checkpoint"
    with pytest.raises(ValueError, match=told):
        weighter(heads(network, [reentrant(network.backbone, x)] * 3))
    z = network.backbone(x)
    with pytest.raises(ValueError, match=told):  # seen by one loss, hidden from another
        weighter([network.heads[0](z).sum(), network.heads[1](z).sum(),
                  reentrant(network.backbone, x).sum()])  # fmt: skip
    for run in (
        checkpoint,
        lambda function, x: torch_checkpoint(function, x, use_reentrant=False),
    ):
        fresh = GradNormLossWeighter(
            num_losses=3, grad_norm_parameters=network.backbone_parameter
        )
        result = fresh(heads(network, [run(network.backbone, x)] * 3))
        assert len(result.norms) == 3
    with pytest.raises(ValueError, match="does not depend on") as refused:
        weighter([nn.Parameter(torch.ones(())) * 1 for _ in range(3)])
    assert "reentrant" not in str(refused.value)


def test_activations_made_in_a_reentrant_checkpoint_are_no_part_of_a_graph(
    make, batches
):
    """Kept from inside, or shared inside: neither requires a gradient; told why."""
    network, _ = make()
    x, kept = batches(1)[0].requires_grad_(), []

    def keeping(x):
        kept.append(network.backbone(x))
        return kept[-1] + 0

    losses = heads(network, [reentrant(keeping, x)] * 3)
    weighter = GradNormLossWeighter(num_losses=3)
    with pytest.raises(
        ValueError, match=r"does not require a gradient.*use_reentrant=True"
    ):
        weighter(losses, kept[0])

    def sharing(x):
        return torch.stack(weighter.share(network.backbone(x)))

    with pytest.raises(
        ValueError, match=r"what share\(z\) returns.*use_reentrant=True"
    ):
        weighter(heads(network, reentrant(sharing, x)))


def test_share_sees_through_a_reentrant_checkpoint(make, batches):
    """The lengths are taken in the one backward pass, which goes through it."""
    network, _ = make()
    x, found = batches(1)[0].requires_grad_(), []
    for run in (lambda function, x: function(x), reentrant):
        weighter = GradNormLossWeighter(num_losses=3)
        views = weighter.share(run(network.backbone, x))
        losses = [
            run(head, z).square().mean()
            for head, z in zip(network.heads, views, strict=True)
        ]
        found.append(torch.stack(list(weighter(losses).norms.values())))
    torch.testing.assert_close(*found)
