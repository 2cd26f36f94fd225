"""Per-sample gradients: four engines against one another and against formulas by hand; what they refuse and leave."""

import importlib
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from gradnorm.checkpoint import checkpoint
from gradnorm.per_sample import ENGINES, EngineRefusal, per_sample_gradients, per_sample_norms, unsupported_layers

BATCH = 5
ALL = {"hooks", "expanded_weights", "vmap", "loop"}


def squared(output, *targets):
    """A loss that treats every element differently."""
    return sum(((output - t).square() * torch.arange(1, output[0].numel() + 1).view(output[:1].shape)).sum() / 7
               for t in targets or (0.5,))  # fmt: skip


class Tied(nn.Module):
    """One layer called twice, whose weight a second layer shares."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(self.a(x).tanh()).tanh())


class OwnParameter(nn.Module):
    """A parameter that no layer holds, and one that the loss does not reach."""

    def __init__(self):
        super().__init__()
        self.linear, self.scale, self.idle = nn.Linear(4, 3), nn.Parameter(torch.randn(3)), nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(x) * self.scale


class InPlace(nn.Module):
    """The layer's output is overwritten: its gradient is that of the node, not of the tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 2, 3)

    def forward(self, x):
        return self.second(F.relu_(self.first(x)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Attention(nn.Module):
    """Self-attention over words, out of linear layers."""

    def __init__(self, **embedding):
        super().__init__()
        self.words, self.norm, self.qkv = nn.Embedding(11, 6, **embedding), nn.LayerNorm(6), nn.Linear(6, 18)
        self.out = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(self.words(x))).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(q, k, v)).mean(dim=1)


def frozen_part():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    net[0].weight.requires_grad_(False)
    net[2].bias.requires_grad_(False)
    return net


def words(*shape):
    return torch.randint(0, 11, shape)


NO_RULE = ALL - {"expanded_weights"}
CASES = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)), (BATCH, 4), ALL),
    "sequence": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3, bias=False)), (BATCH, 7, 4), ALL),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (BATCH, 4, 11), ALL),
    "conv2d": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)), (BATCH, 3, 8, 7), ALL),
    "conv2d same": (lambda: nn.Conv2d(3, 4, 4, padding="same", dilation=2, bias=False), (BATCH, 3, 9, 8), ALL),
    "conv2d circular": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (BATCH, 2, 6, 6), ALL),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (BATCH, 4, 6, 6), ALL),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3, padding=1, stride=2, groups=2), (BATCH, 2, 5, 4, 6), ALL),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, groups=2), (BATCH, 4, 6), NO_RULE),
    "transposed2d": (
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=3, padding=1, output_padding=(2, 1), dilation=2), (BATCH, 3, 4, 5),
        NO_RULE,
    ),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm((3, 4)), nn.LayerNorm(4, bias=False)), (BATCH, 6, 3, 4), ALL),
    "rms norm": (lambda: nn.Sequential(nn.RMSNorm(4), nn.Linear(4, 2)), (BATCH, 6, 4), NO_RULE),
    "group norm": (lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Conv1d(4, 2, 1)), (BATCH, 4, 6), ALL),
    "instance norm": (lambda: nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.Tanh()), (BATCH, 3, 4, 5), ALL),
    "batch norm in eval": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4), nn.Tanh()).eval(), (BATCH, 3, 6), NO_RULE,
    ),
    "prelu": (lambda: nn.Sequential(nn.PReLU(), nn.Linear(4, 4), nn.PReLU(4)), (BATCH, 4), NO_RULE),
    "prelu of channels": (lambda: nn.PReLU(3), (BATCH, 3, 5), NO_RULE),
    "attention": (Attention, words(BATCH, 6), ALL),
    "attention, padded": (lambda: Attention(padding_idx=2), words(BATCH, 6), NO_RULE),
    "tied": (Tied, (BATCH, 4), ALL),
    "own parameter": (OwnParameter, (BATCH, 4), {"vmap", "loop"}),
    "in place": (InPlace, (BATCH, 3, 7), ALL),
    "lstm": (Recurrent, (BATCH, 6, 3), {"expanded_weights", "loop"}),
    "partly frozen": (frozen_part, (BATCH, 4), ALL),
    "a batch of one": (lambda: nn.Linear(4, 2), (1, 4), ALL),
}  # fmt: skip


def case(name):
    make, shape, engines = CASES[name]
    torch.manual_seed(0)
    module = make().double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module, torch.randn(shape, dtype=torch.float64) if isinstance(shape, tuple) else shape, engines


def agree(a, b, tolerance=1e-10):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].shape == b[name].shape
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


def by_hand(module, x, loss, *targets):
    """autograd on one sample after another, written once more, without the package."""
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    parameters = [p for p in module.parameters() if p.requires_grad]
    rows = []
    for n in range(len(x)):
        value = loss(module(x[n : n + 1]), *(t[n : n + 1] for t in targets))
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)])
    return {name: torch.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_engines_agree(name):
    """Each engine gives the gradients that one sample after another gives, or refuses; norms as well."""
    module, x, engines = case(name)
    expected = by_hand(module, x, squared)
    lengths = {key: gradient.flatten(1).norm(dim=1) for key, gradient in expected.items()}
    assert max(float(length.max()) for length in lengths.values()) > 1e-2
    for engine in ENGINES:
        if engine in engines:
            agree(per_sample_gradients(module, x, squared, engine=engine), expected)
            agree(per_sample_norms(module, x, squared, engine=engine), lengths)
        else:
            with pytest.raises(EngineRefusal, match=engine):
                per_sample_gradients(module, x, squared, engine=engine)
    agree(per_sample_gradients(module, x, squared), expected)
    agree(per_sample_norms(module, x, squared), lengths)


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_single_precision_within_1e_6(engine):
    module, x, _ = case("conv2d")
    expected = by_hand(module, x, squared)
    found = per_sample_gradients(module.float(), x.float(), squared, engine=engine)
    for name in expected:
        assert (found[name] - expected[name]).norm() <= 1e-6 * expected[name].norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_linear_layer_by_hand(engine):
    """L_n = ½ ‖W h − t‖²: ∇W = (W h − t) hᵀ, ∇b = W h − t; the norms ‖δ‖ ‖h‖ and ‖δ‖."""
    torch.manual_seed(1)
    layer, h, t = nn.Linear(3, 2), torch.randn(BATCH, 3), torch.randn(BATCH, 2)
    delta = (h @ layer.weight.T + layer.bias - t).detach()

    def half_square(output, target):
        return (output - target).square().sum() / 2

    found = per_sample_gradients(layer, h, half_square, targets=t, engine=engine)
    torch.testing.assert_close(found["weight"], delta[:, :, None] * h[:, None, :])
    torch.testing.assert_close(found["bias"], delta)
    norms = per_sample_norms(layer, h, half_square, targets=t, engine=engine)
    torch.testing.assert_close(norms["weight"], delta.norm(dim=1) * h.norm(dim=1))


@pytest.mark.parametrize("engine", ENGINES)
def test_mean_and_sum_give_the_samples_own_gradients(engine):
    module, x, _ = case("linear")
    labels = torch.randint(0, 3, (BATCH,))
    alone = by_hand(module, x, F.cross_entropy, labels)
    agree(
        per_sample_gradients(module, x, F.cross_entropy, targets=labels, engine=engine, loss_reduction="mean"), alone
    )
    summed = per_sample_gradients(
        module, x, lambda o, t: F.cross_entropy(o, t, reduction="sum"), targets=labels, engine=engine
    )
    agree(summed, alone)


def test_sum_over_samples_is_the_batch_gradient():
    module, x, _ = case("attention")
    squared(module(x)).backward()
    found = per_sample_gradients(module, x, squared)
    for name, p in module.named_parameters():
        torch.testing.assert_close(found[name].sum(dim=0), p.grad)


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.norm, self.out = nn.Embedding(11, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x, scale):
        return self.out(self.norm(self.words(x)).cumsum(dim=0)) * scale


@pytest.mark.parametrize("length", [3, BATCH])  # as long as the batch is large: sizes cannot tell the axes apart
def test_batch_on_the_second_axis(length):
    """The engines agree; ExpandedWeights would read time for the batch, and are not let."""
    torch.manual_seed(0)
    module, x, target = TimeFirst().double(), words(length, BATCH), torch.randn(length, BATCH, 3).double()

    def loss(output, target):
        return (output - target).square().sum()

    expected = by_hand(
        BatchFirst(module), x.T, lambda o, t: loss(o.transpose(0, 1), t.transpose(0, 1)), target.transpose(0, 1)
    )
    for engine in ("hooks", "vmap", "loop"):
        found = per_sample_gradients(module, (x, 2.0), loss, targets=target, engine=engine, batch_first=False)
        agree(found, {name.removeprefix("inner."): g for name, g in expected.items()})
    with pytest.raises(EngineRefusal, match="axis 0 of every layer"):
        per_sample_gradients(module, (x, 2.0), loss, targets=target, engine="expanded_weights", batch_first=False)


class BatchFirst(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.T, 2.0).transpose(0, 1)


class ManyArguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x, shift, *, power, parts):
        return self.linear(x + shift) * parts["gain"] ** power


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_arguments_by_name_nested_and_shared(engine):
    """Dicts in arguments, numbers, and (with batch_size) a tensor that every sample takes whole."""
    torch.manual_seed(0)
    module = ManyArguments().double()
    x, gain = torch.randn(BATCH, 3).double(), torch.rand(BATCH, 1).double()
    inputs = {"x": x, "shift": torch.randn(1, 3).double(), "power": 2, "parts": {"gain": gain}}
    with pytest.raises(ValueError, match=r"batch sizes \[1, 5\]"):
        per_sample_gradients(module, inputs, squared, engine=engine)
    found = per_sample_gradients(module, inputs, squared, engine=engine, batch_size=BATCH)
    for n in range(BATCH):
        one = module(x[n : n + 1], inputs["shift"], power=2, parts={"gain": gain[n : n + 1]})
        expected = torch.autograd.grad(squared(one), list(module.parameters()))
        torch.testing.assert_close(found["linear.weight"][n], expected[0])
        torch.testing.assert_close(found["linear.bias"][n], expected[1])


# What call_for_per_sample_grads refuses, and what it does not.


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss_reduction": "max"}, ValueError, "'sum' or 'mean'; got 'max'"),
        ({"module": torch.tanh}, TypeError, "nn.Module, got builtin"),
        ({"batch_size": 2.0}, TypeError, "integer or None, got float"),
        ({"batch_size": True}, TypeError, "integer or None, got bool"),
        ({"batch_size": 0}, ValueError, "at least 1, got 0"),
        ({"inputs": torch.zeros(0, 4)}, ValueError, "at least 1, got 0"),
        ({"inputs": (3.0,)}, ValueError, "no tensor to read the batch size from"),
        ({"targets": torch.zeros(BATCH + 1)}, ValueError, r"batch sizes \[5, 6\] on axis 0"),
        ({"module": nn.Linear(4, 2).requires_grad_(False)}, ValueError, "no parameter that requires"),
        ({"engine": "hook"}, ValueError, "'auto' or one of hooks, vmap, expanded_weights, loop; got 'hook'"),
    ],
)
def test_bad_arguments(changes, error, message, plain_types):
    arguments = {"module": nn.Linear(4, 2), "inputs": torch.zeros(BATCH, 4), "loss": squared} | changes
    with pytest.raises(error, match=message):
        per_sample_gradients(**arguments)
    with pytest.raises(error, match=message):
        per_sample_norms(**arguments)


@pytest.mark.parametrize("engine", ["hooks", "expanded_weights"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_wrong_reduction_is_found(engine, reduction):
    """torch's would be off by a factor of the batch size, silently."""
    module, x, _ = case("linear")
    other = "mean" if reduction == "sum" else "sum"
    with pytest.raises(ValueError, match=f"loss_reduction='{other}' the loss of samples 0 and 1 should be"):
        per_sample_gradients(
            module, x, lambda o, t: F.mse_loss(o, t, reduction=reduction), targets=torch.ones(BATCH, 3).double(),
            engine=engine, loss_reduction=other,
        )  # fmt: skip


def test_loss_that_mixes_samples_is_found():
    module, x, _ = case("linear")
    with pytest.raises(ValueError, match="does not mix the samples"):
        per_sample_gradients(module, x, lambda output: (output - output.mean(dim=0)).square().sum())


def test_batch_norm_in_training_mode_is_refused_by_all():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    for engine in ENGINES:
        assert unsupported_layers(module, engine)["1"].startswith("BatchNorm1d: its statistics mix the samples")
    told = r"(?s)hooks cannot do 1.*vmap.*loop cannot do 1: BatchNorm1d"
    with pytest.raises(EngineRefusal, match=told):
        per_sample_gradients(module, torch.randn(BATCH, 4), squared)
    assert not unsupported_layers(module.eval(), "loop")


def test_reasons_by_layer():
    attention = nn.MultiheadAttention(4, 2)
    assert "no formula for its in_proj_weight" in unsupported_layers(attention, "hooks")[""]
    assert "no rule for its in_proj_weight" in unsupported_layers(attention, "expanded_weights")[""]
    assert not unsupported_layers(attention, "vmap")
    lstm = nn.Sequential(nn.LSTM(3, 4))
    assert "fused recurrence" in unsupported_layers(lstm, "vmap")["0"]
    assert "batch_first=True" in unsupported_layers(lstm, "expanded_weights")["0"]
    dropping = nn.GRU(3, 4, num_layers=2, dropout=0.5, batch_first=True)
    assert "dropout masks" in unsupported_layers(dropping, "expanded_weights")[""]
    assert not unsupported_layers(dropping.eval(), "expanded_weights")
    embedding = nn.Embedding(5, 3, max_norm=1.0)
    assert "max_norm" in unsupported_layers(embedding, "hooks")[""]
    assert "in place" in unsupported_layers(embedding, "vmap")[""]
    tracking = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
    assert "running statistics" in unsupported_layers(tracking, "loop")[""]
    old_weight_norm = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    assert unsupported_layers(old_weight_norm, "hooks")


class Unseen(nn.Module):
    """The embedding's weight is used once more, outside of the layer, as the output layer of a language model."""

    def __init__(self):
        super().__init__()
        self.words, self.linear = nn.Embedding(11, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(self.words(x)).tanh() @ self.words.weight.T


def test_a_use_that_no_hook_sees_is_found():
    module, x = Unseen().double(), words(BATCH, 3)
    with pytest.raises(EngineRefusal, match=r"words\.weight took part without"):
        per_sample_gradients(module, x, squared, engine="hooks")
    with pytest.raises(EngineRefusal, match="expanded_weights"):
        per_sample_gradients(module, x, squared, engine="expanded_weights")
    agree(per_sample_gradients(module, x, squared), by_hand(module, x, squared))


class ChangesItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x = x.clone()
        y = self.linear(x)
        x.add_(1)
        return y * x


class BatchElsewhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x.transpose(0, 1)).transpose(0, 1)


def test_an_input_that_was_overwritten_is_refused():
    """autograd itself refuses this; hooks would use the numbers that are there now."""
    module, x = ChangesItsInput().double(), torch.randn(BATCH, 7, 4).double()
    told = r"changed in place afterwards|modified by an inplace operation"
    for engine in ENGINES:
        with pytest.raises(RuntimeError, match=told):
            per_sample_gradients(module, x, squared, engine=engine)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        per_sample_gradients(module, x, squared)


def test_a_batch_that_moved_goes_to_another_engine():
    module, x = BatchElsewhere().double(), torch.randn(BATCH, 7, 4).double()
    with pytest.raises(EngineRefusal, match="axis 0 does not count the 5 samples"):
        per_sample_gradients(module, x, squared, engine="hooks")
    agree(per_sample_gradients(module, x, squared), by_hand(module, x, squared))


class DependsOnData(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return x * self.scale if x.sum() > 0 else x * self.scale**3


def test_control_flow_that_depends_on_data_goes_to_the_loop():
    module, x = DependsOnData().double(), torch.randn(BATCH, 3).double()
    with pytest.raises(EngineRefusal, match="vmap"):
        per_sample_gradients(module, x, squared, engine="vmap")
    agree(per_sample_gradients(module, x, squared), by_hand(module, x, squared))


# What is left behind.


def state(module):
    hooks = [len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]
    grads = [(None if p.grad is None else p.grad.clone(), getattr(p, "grad_sample", None)) for p in module.parameters()]
    return hooks, grads


@pytest.mark.parametrize("engine", ENGINES)
def test_leaves_nothing_behind(engine):
    """No `.grad`, no `grad_sample`, no hook, no graph; a second call gives the same; `x.grad` stays."""
    module, x, _ = case("linear")
    x.requires_grad_()
    outside = torch.ones(3, dtype=torch.float64, requires_grad=True)
    before = state(module)
    found = [per_sample_gradients(module, x, lambda o: (o * outside).sum(), engine=engine) for _ in range(2)]
    agree(*found, 0.0)
    assert state(module) == before
    assert x.grad is None
    assert outside.grad is None
    assert not any(g.requires_grad for g in found[0].values())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("where", ["loss", "module"])
def test_cleans_up_after_an_error(engine, where):
    module, x, _ = case("linear")

    def fails(*_):
        raise ZeroDivisionError("on purpose")

    if where == "module":
        module.append(nn.Identity()).register_module("5", nn.Identity())
        module[-1].forward = fails
    before = state(module)
    with pytest.raises(ZeroDivisionError):
        per_sample_gradients(module, x, fails if where == "loss" else squared, engine=engine)
    assert state(module) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_a_grad_sample_that_is_there_is_kept_and_not_added_to(engine):
    """torch's raises here, and adds up where it is not asked; so a leftover of another tool stays what it was."""
    module, x, _ = case("linear")
    expected = by_hand(module, x, squared)
    left = torch.ones(1)
    module[0].weight.grad_sample = left
    module[0].weight.grad = torch.ones_like(module[0].weight)
    agree(per_sample_gradients(module, x, squared, engine=engine), expected)
    assert module[0].weight.grad_sample is left
    assert (module[0].weight.grad == 1).all()
    assert not hasattr(module[0].bias, "grad_sample")


@pytest.mark.parametrize("engine", ENGINES)
def test_works_where_gradients_are_off(engine):
    module, x, _ = case("linear")
    expected = by_hand(module, x, squared)
    with torch.no_grad():
        agree(per_sample_gradients(module, x, squared, engine=engine), expected)


def test_hooks_of_the_user_still_count():
    """A forward hook of the user's that changes a layer's output is part of the function."""
    module, x, _ = case("linear")
    module[0].register_forward_hook(lambda layer, args, output: 3 * output)
    expected = by_hand(module, x, squared)
    for engine in ENGINES:
        agree(per_sample_gradients(module, x, squared, engine=engine), expected)


def test_norms_do_not_make_the_gradients(monkeypatch):
    """An embedding's norms come from the words that occur, a linear layer's from two vectors."""
    monkeypatch.setattr("gradnorm.per_sample.norms.FORMULAS", {})
    module = nn.Sequential(nn.Embedding(100, 8), nn.Flatten(), nn.Linear(32, 1))
    x = torch.tensor([[1, 2, 3, 4], [5, 5, 5, 5]])
    norms = per_sample_norms(module, x, lambda o: o.sum(), engine="hooks")
    delta = module[2].weight.detach().view(4, 8)
    torch.testing.assert_close(norms["0.weight"], torch.stack((delta.norm(), delta.sum(dim=0).norm())))


def test_support_of_no_engine():
    with pytest.raises(ValueError, match="one of hooks, expanded_weights, vmap, loop; got 'auto'"):
        unsupported_layers(nn.Linear(1, 1), "auto")


# ——— torch's private engine is not trusted ———


def test_auto_does_not_try_expanded_weights(monkeypatch):
    def fails(batch):
        raise AssertionError("tried")

    monkeypatch.setitem(ENGINES, "expanded_weights", fails)
    module, x, _ = case("lstm")
    agree(per_sample_gradients(module, x, squared), by_hand(module, x, squared))
    with pytest.raises(AssertionError, match="tried"):
        per_sample_gradients(module, x, squared, engine="expanded_weights")


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(
    ("dtype", "fault"),
    [
        (torch.float64, 0.9999),
        (torch.float32, 0.9),
        (torch.bfloat16, 0.0),
        (torch.float64, float("nan")),
    ],
)
def test_a_wrong_rule_of_torchs_is_found(fault, dtype, reduction, monkeypatch):
    """One parameter's gradients are lost, too short, or not numbers; all else is right.
    The coarser the numbers, the coarser what can be told from rounding.
    """
    module, x, _ = case("linear")
    module, x, targets = (
        module.to(dtype),
        x.to(dtype),
        torch.ones(BATCH, 3, dtype=dtype),
    )
    settings = {
        "engine": "expanded_weights",
        "loss_reduction": reduction,
        "targets": targets,
    }

    def loss(output, target):
        return getattr((output - target).square().sum(dim=1), reduction)()

    assert per_sample_gradients(module, x, loss, **settings)["0.bias"].isfinite().all()
    rules = importlib.import_module(
        "torch.nn.utils._expanded_weights.linear_expanded_weights"
    )
    right = rules.set_grad_sample_if_exists

    def wrong(maybe_expanded, rule):
        right(maybe_expanded, rule)
        original = getattr(maybe_expanded, "orig_weight", None)
        if original is module[0].bias:
            original.grad_sample = original.grad_sample * fault

    monkeypatch.setattr(rules, "set_grad_sample_if_exists", wrong)
    with pytest.raises(EngineRefusal, match=r"give for 0\.bias does not add up"):
        per_sample_gradients(module, x, loss, **settings)
    assert not hasattr(module[0].bias, "grad_sample")


def test_after_an_export_to_onnx():
    """An export in the same process makes torch's private engine wrong by all its size:
    it is refused, and "auto" is right. In a process of its own, for nothing undoes it.
    """
    pytest.importorskip("onnxscript")
    program = """
        import torch
        from torch import nn

        class Labelled(nn.Module):
            def __init__(self):
                super().__init__()
                self.words = nn.Embedding(3, 4)

            def forward(self, z, labels):
                return z * self.words(labels)

        batch = torch.export.Dim("batch")
        given = {"z": torch.zeros(2, 4), "labels": torch.zeros(2, dtype=torch.int64)}
        axes = {"z": {0: batch}, "labels": {0: batch}}
        settings = {"kwargs": given, "dynamic_shapes": axes, "dynamo": True}
        torch.onnx.export(Labelled(), (), verbose=False, **settings)

        from gradnorm.per_sample import EngineRefusal, per_sample_gradients

        torch.manual_seed(0)
        module = nn.LSTM(3, 4, batch_first=True).double()
        x = torch.randn(5, 6, 3).double()
        loss = lambda output: output[0].square().sum()
        right = per_sample_gradients(module, x, loss, engine="loop")
        for engine in ("auto", "expanded_weights"):
            try:
                found = per_sample_gradients(module, x, loss, engine=engine)
            except EngineRefusal:
                print(engine, "refuses")
                continue
            for name, gradient in right.items():
                torch.testing.assert_close(found[name], gradient)
            print(engine, "is right")
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "auto is right" in done.stdout
    assert (
        "expanded_weights refuses" in done.stdout
        or "expanded_weights is right" in done.stdout
    )


def test_the_comparison_draws_the_same_masks_and_leaves_buffers_alone():
    """Dropout inside the network: both passes see one draw, and the next draw is what
    it would have been after one pass.
    """
    module = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    x = torch.randn(BATCH, 4, dtype=torch.float64)
    torch.manual_seed(7)
    found = per_sample_gradients(module, x, squared, engine="expanded_weights")
    after = torch.rand(())
    torch.manual_seed(7)
    squared(module(x)).backward()
    assert torch.rand(()) == after
    for name, p in module.named_parameters():
        torch.testing.assert_close(found[name].sum(dim=0), p.grad)
    norm, x = (
        nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
        torch.randn(BATCH, 3, 6),
    )
    per_sample_gradients(norm, x, squared, engine="expanded_weights")
    torch.testing.assert_close(
        norm.running_mean, 0.1 * x.mean(dim=(0, 2))
    )  # of one pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_comparison_draws_the_same_masks_on_a_gpu():
    module = nn.Sequential(nn.Linear(4, 60), nn.Dropout(0.5), nn.Linear(60, 3)).cuda()
    x = torch.randn(BATCH, 4).cuda()
    torch.manual_seed(7)
    found = per_sample_gradients(module, x, torch.sum, engine="expanded_weights")
    after = torch.rand((), device="cuda")
    torch.manual_seed(7)
    module(x).sum().backward()
    assert torch.rand((), device="cuda") == after
    for name, p in module.named_parameters():
        torch.testing.assert_close(found[name].sum(dim=0), p.grad, rtol=1e-3, atol=1e-3)


def test_rounding_is_not_taken_for_a_wrong_sum():
    """Gradients that are nothing but rounding (a bias before a normalisation), that
    cancel between samples, or that are not finite.
    """
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 1))
    nn.init.ones_(module[1].weight)
    per_sample_gradients(
        module, torch.randn(64, 4), torch.sum, engine="expanded_weights"
    )
    x = torch.randn(1, 4).expand(2, 4) * torch.tensor([[1.0], [-1.0]])  # they cancel
    line = nn.Linear(4, 1, bias=False)
    found = per_sample_gradients(line, x, torch.sum, engine="expanded_weights")[
        "weight"
    ]
    torch.testing.assert_close(found[:, 0], x)
    x = torch.randn(BATCH, 4)
    x[2] = torch.inf
    found = per_sample_gradients(line, x, torch.sum, engine="expanded_weights")[
        "weight"
    ]
    torch.testing.assert_close(found[:, 0], x)


# ——— numbers of other kinds: complex, half precision, several at once ———


class Parts(nn.Module):
    """A complex layer, as a real one of its real and imaginary parts."""

    def __init__(self, layer):
        super().__init__()
        self.weight = nn.Parameter(torch.view_as_real(layer.weight.detach()).clone())
        self.bias = nn.Parameter(torch.view_as_real(layer.bias.detach()).clone())

    def forward(self, x):
        (a, b), (c, d) = self.weight.unbind(dim=-1), x.unbind(dim=-1)
        return torch.stack((c @ a.T - d @ b.T, c @ b.T + d @ a.T), dim=-1) + self.bias


def complex_loss(output):
    return ((output - 0.5).abs() ** 3).sum()


def loss_of_parts(output):
    shift = output.new_tensor([0.5, 0.0])
    return ((output - shift).square().sum(dim=-1).sqrt() ** 3).sum()


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_complex_numbers(engine):
    """As the same layer on real and imaginary parts, or refused; lengths are real."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, dtype=torch.complex128)
    x = torch.randn(BATCH, 4, dtype=torch.complex128)
    if engine in ("hooks", "expanded_weights"):
        with pytest.raises(
            EngineRefusal,
            match=r"(?s)conjugates|real numbers.*'vmap' and 'loop' take these",
        ):
            per_sample_gradients(layer, x, complex_loss, engine=engine)
        return
    expected = by_hand(Parts(layer), torch.view_as_real(x), loss_of_parts)
    found = per_sample_gradients(layer, x, complex_loss, engine=engine)
    agree({name: torch.view_as_real(g) for name, g in found.items()}, expected)
    lengths = {name: g.flatten(1).norm(dim=1) for name, g in expected.items()}
    agree(per_sample_norms(layer, x, complex_loss, engine=engine), lengths)


def test_complex_inputs_of_a_real_layer():
    """Most layers refuse them themselves; RMSNorm takes them."""
    norm, x = nn.RMSNorm(4).double(), torch.randn(BATCH, 4, dtype=torch.complex128)
    expected = by_hand(norm, x, complex_loss)
    with pytest.raises(EngineRefusal, match="RMSNorm saw complex numbers"):
        per_sample_gradients(norm, x, complex_loss, engine="hooks")
    agree(per_sample_gradients(norm, x, complex_loss), expected)
    agree(
        per_sample_norms(norm, x, complex_loss),
        {"weight": expected["weight"].norm(dim=1)},
    )


HALF = {name for name, (_, _, engines) in CASES.items() if "hooks" in engines}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(HALF))
def test_norms_in_half_precision(name, dtype):
    """Their squares are beyond float16's 65504; they are near those of float64."""
    module, x, _ = case(name)
    module = module.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x

    def large(output):
        return output.float().tanh().sum() * 3000

    found = per_sample_norms(module, x, large, engine="hooks")
    exact = module.double()
    x = x.double() if x.is_floating_point() else x
    expected = by_hand(exact, x, lambda output: output.tanh().sum() * 3000)
    for key, gradient in expected.items():
        lengths = gradient.flatten(1).norm(dim=1)
        assert found[key].dtype == torch.float32
        near = (found[key] - lengths).abs() <= 0.1 * lengths + 0.02 * lengths.max() + 30
        assert near.all(), (key, found[key], lengths)
    for engine in {"loop", "vmap"} & CASES[name][2]:
        assert all(
            n.dtype == torch.float64
            for n in per_sample_norms(exact, x, squared, engine=engine).values()
        )


def test_half_precision_norms_of_every_form_do_not_overflow():
    """Both forms of a linear layer's, a bias summed over positions, a tied weight: each
    true length is finite in float32 and beyond float16.
    """
    ones = {"dtype": torch.float16}
    for length in (1, 200):  # the product of Gram matrices, and the gradient itself
        layer, x = nn.Linear(64, 64, **ones), torch.full((2, length, 64), 100.0, **ones)
        norms = per_sample_norms(
            layer, x, lambda o: 1000 * o.float().sum(), engine="hooks"
        )
        expected = torch.tensor([1000.0 * 100 * 64 * length] * 2)
        torch.testing.assert_close(norms["weight"], expected, rtol=1e-3, atol=0)
        torch.testing.assert_close(
            norms["bias"], torch.tensor([1000.0 * 8 * length] * 2), rtol=1e-3, atol=0
        )
    words = nn.Embedding(2, 64, **ones)
    norms = per_sample_norms(
        words, torch.zeros(2, 200, dtype=torch.long), lambda o: 1000 * o.float().sum()
    )
    torch.testing.assert_close(norms["weight"], torch.tensor([1000.0 * 200 * 8] * 2))
    tied = Tied().half()
    with torch.no_grad():
        for p in tied.parameters():
            p.zero_()
    norms = per_sample_norms(
        tied, torch.full((2, 50, 4), 100.0, **ones), lambda o: 30000 * o.float().sum()
    )
    torch.testing.assert_close(
        norms["b.bias"], torch.tensor([30000.0 * 50 * 2] * 2), rtol=1e-3, atol=0
    )


def test_a_loss_that_overflows_in_half_precision_has_gradients():
    """The sum of two losses is inf in float16: it says nothing about the reduction."""
    layer = nn.Linear(3, 2, dtype=torch.float16)
    with torch.no_grad():
        layer.weight.fill_(1)
    x = torch.full((BATCH, 3), 50.0, dtype=torch.float16)
    for engine in ENGINES:
        found = per_sample_gradients(
            layer, x, lambda o: (o.square() * 0.9).sum(), engine=engine
        )
        assert found["weight"].isfinite().all()


@pytest.mark.parametrize(
    "name", ["sequence", "conv2d", "layer norm", "rms norm", "tied"]
)
def test_under_autocast(name):
    """δ is narrower than the weights: gradients are in the weights' type, and near."""
    module, x, _ = case(name)
    expected = by_hand(module, x, squared)
    module, x = module.float(), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        for engine in ("hooks", "loop"):
            found = per_sample_gradients(
                module, x, lambda o: squared(o.float()), engine=engine
            )
            norms = per_sample_norms(
                module, x, lambda o: squared(o.float()), engine=engine
            )
            for key, gradient in expected.items():
                assert found[key].dtype == norms[key].dtype == torch.float32
                assert (found[key] - gradient).norm() <= 0.05 * gradient.norm()
                assert (
                    norms[key] - gradient.flatten(1).norm(dim=1)
                ).norm() <= 0.05 * gradient.norm()


def test_norms_of_a_single_number():
    """A parameter without axes has gradients of shape [batch]."""
    module, x = DependsOnData().double(), torch.randn(BATCH, 3).double()
    expected = by_hand(module, x, squared)["scale"].abs()
    torch.testing.assert_close(per_sample_norms(module, x, squared)["scale"], expected)


def test_an_embedding_with_sparse_gradients():
    """Engines that do not refuse give dense ones, those of the layer without."""
    torch.manual_seed(0)
    dense, x = nn.Embedding(11, 3).double(), words(BATCH, 4)
    sparse = nn.Embedding(11, 3, sparse=True, _weight=dense.weight.detach().clone())
    expected = by_hand(dense, x, squared)
    lengths = {"weight": expected["weight"].flatten(1).norm(dim=1)}
    for engine in ("hooks", "expanded_weights", "loop", "auto"):
        agree(per_sample_gradients(sparse, x, squared, engine=engine), expected)
        agree(per_sample_norms(sparse, x, squared, engine=engine), lengths)


# ——— what a graph hides ———


class Checkpointed(nn.Module):
    """A layer in a checkpoint, with a layer before it or not."""

    def __init__(self, run, before):
        super().__init__()
        self.run, self.before = run, before
        self.first, self.inside, self.last = (
            nn.Linear(4, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 2),
        )

    def forward(self, x):
        return self.last(
            self.run(self.inside, self.first(x) if self.before else x).tanh()
        )


@pytest.mark.parametrize("engine", ["hooks", "expanded_weights", "loop", "auto"])
@pytest.mark.parametrize("before", [False, True])
def test_a_reentrant_checkpoint_is_named(engine, before):
    """Its parameters are in no graph and would get zeros: the cause, and what to do."""

    def reentrant(function, x):
        return torch_checkpoint(function, x, use_reentrant=True)

    module = Checkpointed(reentrant, before).double()
    x = torch.randn(BATCH, 4).double().requires_grad_()
    with pytest.raises(
        EngineRefusal, match=r"use_reentrant=True.*gradnorm\.checkpoint\.checkpoint"
    ):
        per_sample_gradients(module, x, squared, engine=engine)
    others = (
        checkpoint,
        lambda function, x: torch_checkpoint(function, x, use_reentrant=False),
    )
    for other in others:
        module.run = other
        agree(
            per_sample_gradients(module, x, squared, engine="loop"),
            by_hand(module, x, squared),
        )


class PartlyWithoutGraph(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        with torch.no_grad():
            features = self.features(x)
        return self.head(features)


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_a_part_without_a_graph_has_no_gradient(engine):
    module, x = PartlyWithoutGraph().double(), torch.randn(BATCH, 4).double()
    agree(
        per_sample_gradients(module, x, squared, engine=engine),
        by_hand(module, x, squared),
    )
