"""Chapter 17: claims of its text that no cell of the chapter shows."""

import torch
from torch import nn

from gradnorm import GradNormLossWeighter


def test_a_weight_in_bfloat16_would_not_move() -> None:
    """"A step of a bfloat16 weight near 1 would round to nothing below 0.004", so ours stays float32."""
    one = torch.ones((), dtype=torch.bfloat16)
    assert one + 0.0038 == one
    assert one + 0.0042 != one
    network = nn.Sequential(nn.Linear(2, 2), GradNormLossWeighter(num_losses=2)).half()
    assert network[0].weight.dtype == torch.float16
    assert network[1].loss_weights.dtype == torch.float32


def test_the_penalty_of_a_mask_keeps_its_weight() -> None:
    """The table's advice: mask a penalty, and it is trained on at its weight while the others are balanced."""
    w = nn.Parameter(torch.zeros(1))
    weighter = GradNormLossWeighter(
        {"a": 1.0, "b": 1.0, "penalty": 1.0}, learning_rate=0.1, grad_norm_parameters=w,
        loss_mask={"a": True, "b": True, "penalty": False},
    )  # fmt: skip
    weighter({"a": 6 * w.sum() + 1, "b": 2 * w.sum() + 1, "penalty": 0.01 * w.sum() + 1})
    assert weighter.loss_weights[2] == 1
    assert weighter.loss_weights[0] < 1 < weighter.loss_weights[1]
    torch.testing.assert_close(w.grad, torch.tensor([8.01]))
