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


def test_weights_that_settled_can_be_frozen() -> None:
    """"Set `weighter.frozen = True`: they stay", in the proportions that were found, and nothing is measured."""
    w = nn.Parameter(torch.zeros(1))
    weighter = GradNormLossWeighter(num_losses=2, learning_rate=0.1, grad_norm_parameters=w)
    weighter([4 * w.sum() + 1, w.sum() + 1])
    found = weighter.loss_weights.clone()
    assert found[0] < 1 < found[1]
    weighter.frozen = True
    assert not weighter([4 * w.sum() + 1, w.sum() + 1]).norms
    assert torch.equal(weighter.loss_weights, found)


def test_a_task_without_labels_waits() -> None:
    """A zero that the mask leaves out trains nothing, is not taken for L(0), and leaves its weight alone."""
    w = nn.Parameter(torch.zeros(1))
    weighter = GradNormLossWeighter(num_losses=3, learning_rate=0.1, grad_norm_parameters=w)
    weighter([4 * w.sum() + 1, w.sum() + 1, torch.zeros(())], loss_mask=[True, True, False])
    assert weighter.loss_weights[2] == 1
    assert weighter.initted.tolist() == [True, True, False]
    torch.testing.assert_close(w.grad, torch.tensor([5.0]))
    torch.testing.assert_close(weighter.loss_weights.sum(), torch.tensor(3.0))
