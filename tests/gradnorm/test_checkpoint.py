"""Recomputation: the gradients of the plain call, of every order, and what makes the second run equal the first."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from gradnorm.checkpoint import checkpoint, checkpoint_sequential


class Segment(nn.Module):
    """Two layers used, one not."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.unused = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(2, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.b(self.dropout(self.a(x).tanh())).sin()


class Counting(nn.Module):
    """Counts how often it runs."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.runs = inner, 0

    def forward(self, *args):
        self.runs += 1
        return self.inner(*args)


def inputs(*shape, dtype=torch.float64):
    return torch.randn(*(shape or (3, 4)), dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


def gradients(call, module, x):
    """By backward(); None stays None."""
    module.zero_grad()
    x.grad = None
    call(module, x).square().sum().backward()
    return [x.grad, *(p.grad for p in module.parameters())]


def same(found, expected, **tolerance):
    assert [g is None for g in found] == [g is None for g in expected]
    for a, b in zip(found, expected, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, **tolerance)


def plain(module, *args):
    return module(*args)


def test_same_gradients_as_plain_and_as_torch():
    module, x = Segment().double(), inputs()
    expected = gradients(plain, module, x)
    assert expected[-1] is None  # of a parameter that the segment does not use
    same(gradients(checkpoint, module, x), expected, rtol=0, atol=0)
    torchs = gradients(lambda m, x: torch_checkpoint(m, x, use_reentrant=False), module, x)
    same(gradients(checkpoint, module, x), torchs, rtol=0, atol=0)


def test_activations_are_not_kept_and_the_segment_runs_twice():
    module, x, alive = Counting(Segment().double()), inputs(), []
    module.inner.a.register_forward_hook(lambda layer, args, out: alive.append(weakref.ref(out)))
    y = checkpoint(module, x)
    gc.collect()
    assert alive[0]() is None
    assert module.runs == 1
    y.sum().backward()
    assert module.runs == 2
    del y
    gc.collect()
    assert all(out() is None for out in alive)


def test_by_autograd_grad():
    """torch's reentrant form refuses this."""
    module, x = Segment().double(), inputs()
    wanted = [x, module.a.weight]
    expected = torch.autograd.grad(module(x).square().sum(), wanted)
    y = checkpoint(module, x).square().sum()
    same(torch.autograd.grad(y, wanted, retain_graph=True), expected)
    same(torch.autograd.grad(y, wanted), expected)  # and a second time
    with pytest.raises(RuntimeError, match="reentrant"):
        torch.autograd.grad(torch_checkpoint(module, x, use_reentrant=True).sum(), wanted)


def second_order(call, module, x):
    """A gradient penalty: by x with a graph, then by the parameters."""
    (slope,) = torch.autograd.grad(call(module, x).pow(3).sum(), x, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), [x, *module.a.parameters(), module.b.weight])


def test_second_derivatives_are_right_not_cut():
    """The recipe's backward records no graph: its second derivative is silently that of something else."""
    module, x = Segment().double(), inputs()
    same(second_order(checkpoint, module, x), second_order(plain, module, x))


def test_second_derivative_recomputes_too():
    module, x = Counting(Segment().double()), inputs()
    (slope,) = torch.autograd.grad(checkpoint(module, x).pow(3).sum(), x, create_graph=True)
    assert module.runs == 2
    slope.square().sum().backward()
    assert module.runs > 2


def test_gradgradcheck_and_third_order():
    module, x = Segment().double(), inputs(2, 4)
    weights = [p.detach().clone().requires_grad_() for p in (module.a.weight, module.b.weight)]

    def segment(x, a, b):
        return torch.tanh(x @ a.T) @ b.T

    assert torch.autograd.gradcheck(lambda *t: checkpoint(segment, *t), (x, *weights))
    assert torch.autograd.gradgradcheck(lambda *t: checkpoint(segment, *t), (x, *weights))

    def third(call):
        value = call(segment, x, *weights).pow(2).sum()
        for _ in range(2):
            (slope,) = torch.autograd.grad(value, x, create_graph=True)
            value = slope.pow(2).sum()
        return torch.autograd.grad(value, [x, *weights])

    same(third(checkpoint), third(lambda f, *t: f(*t)))


def test_one_input_is_computed_from_another():
    """Paths between the inputs, outside of the segment, are counted once; so is a weight used in and outside of it."""
    module, x = Segment().double(), inputs()

    def both(call):
        y = module.b(module.a(x).tanh())
        out = call(lambda u, v: (module(u) * v).sum(), x, y)
        (slope,) = torch.autograd.grad(out, x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), [x, module.a.weight, module.b.weight])

    used = [*module.a.parameters(), *module.b.parameters()]
    same(both(lambda f, *t: checkpoint(f, *t, parameters=used)), both(lambda f, *t: f(*t)))


@pytest.mark.parametrize("order", [1, 2])
def test_dropout_draws_the_same_masks(order):
    """The recipe draws new ones: its gradient belongs to another function. The state afterwards is as of one run."""
    module, x = Segment(dropout=0.5).double(), inputs()
    take = gradients if order == 1 else second_order
    results, states = [], []
    for call in (plain, checkpoint):
        torch.manual_seed(3)
        results.append(take(call, module, x))
        states.append(torch.get_rng_state())
    same(results[1], results[0])
    assert torch.equal(*states)


def test_autocast_is_replayed():
    """The backward pass is outside of autocast: without a replay it would recompute in float32."""
    module, x = Segment(), inputs(dtype=torch.float32)
    seen = []
    module.a.register_forward_hook(lambda layer, args, out: seen.append(out.dtype))
    results = []
    for call in (plain, checkpoint):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = call(module, x)
        assert y.dtype == torch.bfloat16
        results.append(torch.autograd.grad(y.float().square().sum(), [x, module.a.weight]))
    same(results[1], results[0], rtol=0, atol=0)
    assert seen == [torch.bfloat16] * 3


def test_autocast_hands_out_no_weights_that_were_cast_without_a_graph():
    """A layer used in a segment and, in the same autocast region, after it: both uses count.

    Newer versions of torch look at the graph before they hand a cached weight out; for the older ones that we also run
    on, the segment runs without the cache.
    """
    layer, x, cached = nn.Linear(4, 4), inputs(dtype=torch.float32), []
    layer.register_forward_hook(lambda *_: cached.append(torch.is_autocast_cache_enabled()))

    def twice(call):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(call(layer, x))
        return torch.autograd.grad(y.float().sum(), layer.weight)

    same(twice(checkpoint), twice(plain), rtol=1e-2, atol=1e-2)
    assert cached[:3] == [False, True, False]  # in the segment, after it, in the segment again


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(7, 3), nn.Linear(3, 2)

    def forward(self, index, options, *, scale):
        y = self.out(self.words(index)) * scale * options["gain"]
        return {"y": (y, y.argmax(dim=-1)), "index": index, "name": options["name"], "none": None}


def test_integers_numbers_names_and_nested_results():
    module = Embedded()
    index, gain = torch.randint(0, 7, (5,)), torch.ones(1, requires_grad=True)
    options = {"gain": gain, "name": "words"}
    expected = module(index, options, scale=2.0)
    found = checkpoint(module, index, options, scale=2.0)
    assert found.keys() == expected.keys()
    assert found["name"] == "words"
    assert found["none"] is None
    assert torch.equal(found["y"][1], expected["y"][1])
    assert not found["y"][1].requires_grad
    wanted = [gain, *module.parameters()]
    same(torch.autograd.grad(found["y"][0].sum(), wanted), torch.autograd.grad(expected["y"][0].sum(), wanted))


def test_an_output_that_the_loss_does_not_use_gives_none():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    x = inputs(3, 2, dtype=torch.float32)
    first, _ = checkpoint(lambda x: (a(x), b(x)), x, parameters=[*a.parameters(), *b.parameters()])
    first.sum().backward()
    assert a.weight.grad is not None
    assert b.weight.grad is None


def test_frozen_inputs_and_parameters():
    module = Segment().double()
    module.a.requires_grad_(False)
    x = inputs().detach()
    expected = torch.autograd.grad(module(x).sum(), module.b.weight)
    same(torch.autograd.grad(checkpoint(module, x).sum(), module.b.weight), expected)
    with torch.no_grad():
        assert not checkpoint(module, x).requires_grad


@pytest.mark.parametrize("leaf", [True, False])
def test_a_tensor_that_would_get_no_gradient_is_found(leaf):
    """The recipe leaves a weight that a lambda brings along without a gradient, and says nothing."""
    weight = nn.Parameter(torch.ones(4, dtype=torch.float64))
    used = weight if leaf else weight * 2
    y = checkpoint(lambda x: x * used, inputs())
    with pytest.raises(ValueError, match=r"a tensor of shape \(4,\) that requires a gradient and would get none"):
        y.sum().backward()
    if not leaf:
        with pytest.raises(ValueError, match="pass a tensor that is computed from others as an argument"):
            checkpoint(lambda x: x * used, inputs(), parameters=[used])


def test_changes_in_place_are_refused():
    with pytest.raises(RuntimeError, match="changes an argument in place"):
        checkpoint(lambda x: x.mul_(2), inputs() * 1)


@pytest.mark.parametrize("segments", [1, 2, 3, 7])
def test_sequential(segments):
    torch.manual_seed(0)
    layers = nn.Sequential(*(Counting(nn.Sequential(nn.Linear(4, 4), nn.Tanh())) for _ in range(7))).double()
    x = inputs()
    expected = gradients(plain, layers, x)
    for layer in layers:
        layer.runs = 0
    same(gradients(lambda m, x: checkpoint_sequential(m, segments, x), layers, x), expected)
    again = sum(layer.runs == 2 for layer in layers)
    assert 7 - again == -(-7 // segments) or 7 - again == 7 // segments  # the last piece is not run again


@pytest.mark.parametrize("segments", [0, 8])
def test_sequential_refuses(segments):
    with pytest.raises(ValueError, match=f"between 1 and the number of layers, 7; got {segments}"):
        checkpoint_sequential([nn.Identity()] * 7, segments, inputs())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_random_state_and_autocast():
    module, x = Segment(dropout=0.5).cuda(), inputs(dtype=torch.float32).detach().cuda().requires_grad_()
    results = []
    for call in (plain, checkpoint):
        torch.manual_seed(3)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = call(module, x)
        F.dropout(torch.ones(8, device="cuda"))
        results.append(torch.autograd.grad(y.float().square().sum(), [x, module.a.weight]))
    same(results[1], results[0])


def test_goes_with_saved_tensors_elsewhere_and_inside_torchs_checkpoint():
    layer = nn.Linear(3, 3).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    wanted = torch.autograd.grad(layer(x).tanh().sum(), (x, *layer.parameters()))

    def segment(x):
        return checkpoint(lambda x: layer(x).tanh(), x, parameters=layer.parameters())

    with torch.autograd.graph.save_on_cpu():
        out = segment(x).sum()
    for gradient, right in zip(torch.autograd.grad(out, (x, *layer.parameters())), wanted, strict=True):
        torch.testing.assert_close(gradient, right)
    out = torch_checkpoint(segment, x, use_reentrant=False).sum()
    for gradient, right in zip(torch.autograd.grad(out, (x, *layer.parameters())), wanted, strict=True):
        torch.testing.assert_close(gradient, right)


def test_complex_numbers():
    """Inputs, parameters and results; derivatives of the first and the second order."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, dtype=torch.complex128)
    x = torch.randn(5, 4, dtype=torch.complex128, requires_grad=True)
    wanted = [x, *layer.parameters()]
    found = []
    for run in (checkpoint, plain):
        first = torch.autograd.grad(
            run(layer, x).abs().pow(3).sum(), wanted, create_graph=True
        )
        found.append(
            [
                *first,
                *torch.autograd.grad(sum(g.abs().pow(3).sum() for g in first), wanted),
            ]
        )
    same(*found)
