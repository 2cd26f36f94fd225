"""The same checks on public recipes and on ours: what they get wrong, and the test that holds our side.

    python benchmarks/recipes_defects.py [--peer FOLDER]

Checkpointing: the function of guided-diffusion-sdk (OpenAI's, which many projects carry). Per-sample gradients: torch's
own `call_for_per_sample_grads`. `FOLDER` is one that guided_diffusion lies in, where it is not installed.
"""

import argparse
import sys
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

from gradnorm import per_sample_gradients
from gradnorm.checkpoint import checkpoint

Seen = tuple[str, bool]
Recompute = Callable[[Callable[..., Tensor], list[Tensor], list[Tensor]], Tensor]  # function, inputs, parameters
PerSample = Callable[[nn.Module, Tensor, Tensor, str], dict[str, Tensor]]  # module, x, y, reduction


def attempt(check: Callable[[], Seen]) -> Seen:
    """What a check saw; an exception is what it saw too, and is right only where the check says so itself."""
    try:
        return check()
    except Exception as error:  # whatever a public recipe raises
        return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}", False


def gradients(recompute: Recompute | None, network: nn.Module, *inputs: Tensor) -> list[Tensor | None]:
    """By the parameters; without `recompute` those of the plain call."""
    network.zero_grad()
    torch.manual_seed(1)
    parameters = list(network.parameters())
    out = network(*inputs) if recompute is None else recompute(network, list(inputs), parameters)
    torch.manual_seed(2)  # what is drawn between the two passes
    out.float().square().sum().backward()
    return [p.grad for p in parameters]


def off(found: list[Tensor | None], wanted: list[Tensor | None]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))


def dropout(recompute: Recompute) -> Seen:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 4)), torch.randn(16, 8)
    x.requires_grad_()
    error = off(gradients(recompute, network, x), gradients(None, network, x))
    return f"gradient {error:.0%} off", error < 1e-6


def autocast(recompute: Recompute) -> Seen:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 4)), torch.randn(16, 8).requires_grad_()
    seen = []
    network[0].register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        out = recompute(network, [x], list(network.parameters()))
    out.float().sum().backward()
    told = ", ".join(str(dtype).removeprefix("torch.") for dtype in seen)
    return f"first and second run in {told}", len(seen) == 2 and seen[0] == seen[1]


def second_derivative(recompute: Recompute) -> Seen:
    x = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    y = recompute(lambda x: x**3, [x], []) + x**2
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    return f"second derivative of x³ + x² at 1.5: {bend[1]:g}, by hand 11", bool(torch.allclose(bend, 6 * x + 2))


def integers(recompute: Recompute) -> Seen:
    torch.manual_seed(0)
    table, index = nn.Embedding(5, 3), torch.tensor([0, 3, 3])
    error = off(gradients(recompute, table, index), gradients(None, table, index))
    return f"gradient of an embedding {error:.0%} off", error == 0


def by_autograd_grad(recompute: Recompute) -> Seen:
    torch.manual_seed(0)
    network, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    out = recompute(network, [x], list(network.parameters()))
    (slope,) = torch.autograd.grad(out.sum(), network.weight)
    return "gradient by autograd.grad", bool(torch.allclose(slope, x.sum(0).expand(2, -1)))


def agrees(per_sample: PerSample, network: nn.Module, x: Tensor, reduction: str = "sum") -> Seen:
    """Against a loop over samples."""
    y = torch.randn_like(network(x).detach())
    found = per_sample(network, x, y, reduction)
    error = 0.0
    for i in range(len(x)):
        loss = F.mse_loss(network(x[i:i + 1]), y[i:i + 1], reduction="sum")
        for name, slope in zip(dict(network.named_parameters()),
                               torch.autograd.grad(loss, list(network.parameters())), strict=True):
            error = max(error, float((found[name][i] - slope).abs().max() / slope.abs().max().clamp(min=1e-12)))
    return f"{error:.0e} off", error < 1e-4


def padding(per_sample: PerSample) -> Seen:
    torch.manual_seed(0)
    table = nn.Embedding(5, 3, padding_idx=0)
    found = per_sample(table, torch.tensor([[0, 1], [0, 2]]), torch.ones(2, 2, 3), "sum")["weight"]
    return f"gradient of the padding row up to {found[:, 0].abs().max():.1f}, should be 0", not found[:, 0].any()


def twice(per_sample: PerSample) -> Seen:
    torch.manual_seed(0)
    network, x = nn.Linear(3, 2), torch.randn(4, 3)
    per_sample(network, x, torch.zeros(4, 2), "sum")
    per_sample(network, x, torch.zeros(4, 2), "sum")
    left = [name for name, p in network.named_parameters() if p.grad is not None or hasattr(p, "grad_sample")]
    return "left behind on " + (", ".join(left) or "nothing"), not left


CHECKPOINTING: dict[str, tuple[Callable[[Recompute], Seen], str]] = {
    "dropout draws the same masks": (dropout, "test_dropout_draws_the_same_masks"),
    "autocast is replayed": (autocast, "test_autocast_is_replayed"),
    "second derivatives": (second_derivative, "test_second_derivatives_are_right_not_cut"),
    "integer inputs": (integers, "test_integers_numbers_names_and_nested_results"),
    "by autograd.grad": (by_autograd_grad, "test_by_autograd_grad"),
}
PER_SAMPLE: dict[str, tuple[Callable[[PerSample], Seen], str]] = {
    "a linear layer": (lambda f: agrees(f, nn.Linear(3, 2), torch.randn(4, 3)), "test_linear_layer_by_hand"),
    "a transposed convolution": (
        lambda f: agrees(f, nn.ConvTranspose2d(2, 3, 3), torch.randn(4, 2, 5, 5)), "test_engines_agree"),
    "PReLU": (lambda f: agrees(f, nn.PReLU(), torch.randn(4, 3)), "test_engines_agree"),
    "RMSNorm": (lambda f: agrees(f, nn.RMSNorm(3), torch.randn(4, 3)), "test_engines_agree"),
    "padding_idx": (padding, "test_reasons_by_layer"),
    "called twice": (twice, "test_leaves_nothing_behind"),
}


def torchs_per_sample(network: nn.Module, x: Tensor, y: Tensor, reduction: str) -> dict[str, Tensor]:
    loss = F.mse_loss(call_for_per_sample_grads(network, loss_reduction=reduction)(x), y, reduction=reduction)
    loss.backward()
    return {name: p.grad_sample for name, p in network.named_parameters()}


def our_per_sample(network: nn.Module, x: Tensor, y: Tensor, reduction: str) -> dict[str, Tensor]:
    return per_sample_gradients(network, x, lambda out, y: F.mse_loss(out, y, reduction=reduction), targets=y,
                                loss_reduction=reduction)


def table(title: str, peer: str, checks: dict, theirs: Callable, ours: Callable) -> None:
    print(f"\n| {title} | {peer} | ours | held by |\n|---|---|---|---|")
    for name, (check, test) in checks.items():
        seen = []
        for recipe in (theirs, ours):
            torch.manual_seed(0)
            seen.append(attempt(lambda check=check, recipe=recipe: check(recipe)))
        cells = " | ".join(f"{'ok' if ok else '**wrong**'}: {told}" for told, ok in seen)
        print(f"| {name} | {cells} | {test} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a folder that guided_diffusion lies in")
    options = parser.parse_args()
    sys.path += [options.peer] if options.peer else []
    warnings.simplefilter("ignore")  # it uses names that torch has deprecated
    from guided_diffusion.nn import checkpoint as public

    table("checkpointing", "guided-diffusion", CHECKPOINTING,
          lambda function, inputs, parameters: public(function, inputs, parameters, True),
          lambda function, inputs, parameters: checkpoint(function, *inputs, parameters=parameters))
    table("per-sample gradients", "torch", PER_SAMPLE, torchs_per_sample, our_per_sample)


if __name__ == "__main__":
    main()
