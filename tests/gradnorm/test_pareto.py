"""The shortest convex combination: against exact arithmetic, scipy, and the mistakes that a public snippet makes."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from gradnorm.pareto import (
    EXACT_UP_TO,
    active_set,
    affine_minimizer,
    common_descent,
    frank_wolfe,
    gram_matrix,
    min_norm_point,
    two_loss_weights,
)


def excess_bound(weights: torch.Tensor, gradients: list[list[int]]) -> tuple[Fraction, Fraction]:
    """‖d‖² and 2 (‖d‖² − min ⟨g_i, d⟩), which bounds ‖d‖² − ‖d*‖²: in rational numbers, free of rounding."""
    exact = [Fraction(w) for w in weights.tolist()]
    exact = [w / sum(exact) for w in exact]
    d = [sum(w * g for w, g in zip(exact, column, strict=True)) for column in zip(*gradients, strict=True)]
    squared = sum((x * x for x in d), Fraction(0))
    slopes = [sum((x * g for x, g in zip(d, row, strict=True)), Fraction(0)) for row in gradients]
    return squared, 2 * (squared - min(slopes))


def gram_of(gradients: list[list[int]]) -> torch.Tensor:
    rows = torch.tensor(gradients, dtype=torch.float64)
    return rows @ rows.T


def brute_force(gram: np.ndarray) -> float:
    """The smallest αᵀ G α on the simplex: the best stationary point of every face."""
    best = np.inf
    for size in range(1, len(gram) + 1):
        for face in combinations(range(len(gram)), size):
            sub = gram[np.ix_(face, face)]
            alpha = np.linalg.pinv(sub) @ np.ones(size)
            if (alpha >= 0).all() and alpha.sum() > 0:
                alpha /= alpha.sum()
                best = min(best, alpha @ sub @ alpha)
    return best


def integer_gradients(tasks: st.SearchStrategy[int]) -> st.SearchStrategy[list[list[int]]]:
    """Small integers in few dimensions: parallel, opposite, equal, zero and dependent gradients come by themselves."""
    shapes = st.tuples(tasks, st.integers(1, 4))
    return shapes.flatmap(
        lambda shape: st.lists(
            st.lists(st.integers(-3, 3), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
        )
    )


@settings(max_examples=150, deadline=None)
@given(integer_gradients(st.integers(1, EXACT_UP_TO)))
@example([[1, 0], [2, 0]])  # parallel
@example([[1, 2], [-2, -4]])  # opposite
@example([[0, 0], [1, 3]])  # zero
@example([[1, 3], [1, 3], [1, 3]])  # equal
@example([[3, 1], [-3, 1], [0, -3], [0, 0]])
def test_optimal_in_exact_arithmetic(gradients):
    """α ≥ 0, Σ α = 1, and Karush-Kuhn-Tucker: ⟨g_i, d⟩ ≥ ‖d‖² for every i."""
    point = min_norm_point(gram_of(gradients))
    assert (point.weights >= 0).all()
    assert abs(float(point.weights.sum()) - 1) < 1e-12
    squared, bound = excess_bound(point.weights, gradients)
    assert bound <= Fraction(1, 10**10)
    assert point.squared_norm == pytest.approx(float(squared), abs=1e-10)
    assert point.gap == pytest.approx(float(bound), abs=1e-10)


@pytest.mark.parametrize("tasks", range(2, 11))
@pytest.mark.parametrize("seed", range(3))
def test_excess_over_brute_force_and_scipy(tasks, seed):
    """Gradients of very different lengths that share a part, as tasks do."""
    generator = np.random.default_rng(seed)
    lengths = 10 ** generator.uniform(-1, 1, (tasks, 1))
    rows = lengths * (generator.normal(size=(tasks, 30)) + generator.normal(size=30))
    gram = rows @ rows.T
    point = min_norm_point(torch.from_numpy(gram))
    best = brute_force(gram)
    assert point.squared_norm <= best * (1 + 1e-9)
    found = minimize(
        lambda a: a @ gram @ a / best, np.full(tasks, 1 / tasks), jac=lambda a: 2 * gram @ a / best, method="SLSQP",
        bounds=[(0, 1)] * tasks, constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        options={"ftol": 1e-12, "maxiter": 500},
    )  # fmt: skip
    assert point.squared_norm / best <= found.fun + 1e-9
    assert point.gap <= 1e-9 * best


@pytest.mark.parametrize("exponent", [0, 3, 6])
def test_lengths_that_differ_by_powers_of_ten(exponent):
    """Three short and three long gradients: the short ones decide, and must not drown in the long ones' rounding."""
    rows = torch.randn(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.3
    rows[:3] *= 10.0**-exponent
    gram = rows @ rows.T
    point = min_norm_point(gram)
    best = brute_force(gram.numpy())
    assert point.squared_norm <= best * (1 + 1e-6)
    assert (point.weights[:3] > 0).sum() > 1


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-12, 1e-4), st.integers(2, 12), st.integers(0, 1000))
def test_nearly_equal_gradients(distance, tasks, seed):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(5, dtype=torch.float64, generator=generator)
    rows = common + distance * torch.randn(tasks, 5, dtype=torch.float64, generator=generator)
    point = min_norm_point(rows @ rows.T)
    d = point.weights @ rows
    assert d.square().sum() - (rows @ d).min() <= 1e-6 * d.square().sum()


@settings(max_examples=50, deadline=None)
@given(integer_gradients(st.integers(2, 25)))
def test_frank_wolfe_is_certified(gradients):
    """Its gap is what exact arithmetic says, and it ends within it."""
    weights = frank_wolfe(gram_of(gradients), tolerance=1e-6)
    assert (weights >= 0).all()
    _, bound = excess_bound(weights, gradients)
    assert bound <= 1e-6 * min(sum(x * x for x in row) for row in gradients) + 1e-10


@pytest.mark.parametrize("tasks", [11, 40])
def test_many_tasks(tasks):
    rows = torch.randn(tasks, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    gram = rows @ rows.T
    point = min_norm_point(gram)
    exact = active_set(gram)
    assert -1e-12 <= point.squared_norm - exact @ gram @ exact <= point.gap + 1e-12
    assert point.gap <= 1e-9 * gram.diagonal().min()


def test_frank_wolfe_says_so_where_it_was_stopped():
    """Three steps are not enough: the gap covers what is missing."""
    rows = torch.randn(20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = rows @ rows.T
    weights, exact = frank_wolfe(gram, max_steps=3), active_set(gram)
    slopes = gram @ weights
    excess = weights @ slopes - exact @ gram @ exact
    assert excess / (exact @ gram @ exact) > 0.01
    assert excess <= 2 * (weights @ slopes - slopes.min())


def test_affine_minimizer_by_hand():
    """g = (2, 1), (0, 1): the line y = 1 is nearest the origin at (0, 1); for (2, 1), (1, 1) beyond the second."""
    both = torch.tensor([True, True])
    for rows, expected in (([[2, 1], [0, 1]], [0.0, 1.0]), ([[2, 1], [1, 1]], [-1.0, 2.0])):
        torch.testing.assert_close(affine_minimizer(gram_of(rows), both), torch.tensor(expected, dtype=torch.float64))


# The two-loss snippet. Each mistake is written out as the snippet makes it, and the property that ours has refuses it.


def snippet_numerator(gram):
    """(g1 − g0)·g0 where (g1 − g0)·g1 belongs."""
    first = ((gram[0, 1] - gram[0, 0]) / (gram[0, 0] - 2 * gram[0, 1] + gram[1, 1])).clamp(0, 1)
    return torch.stack((first, 1 - first))


def snippet_swapped(gram):
    return two_loss_weights(gram).flip(0)


def kkt_violations(solver) -> int:
    """How many of 200 random pairs the solver's weights are not optimal for."""
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for _ in range(200):
        rows = torch.randn(2, 10, dtype=torch.float64, generator=generator)
        d = solver(rows @ rows.T) @ rows
        wrong += bool(((rows @ d) < d.square().sum() - 1e-9).any())
    return wrong


def test_numerator_and_order_of_the_closed_form():
    assert kkt_violations(two_loss_weights) == 0
    assert kkt_violations(snippet_numerator) > 150
    assert kkt_violations(snippet_swapped) > 150


@settings(max_examples=50, deadline=None)
@given(integer_gradients(st.just(2)))
def test_closed_form_is_the_active_set(gradients):
    gram = gram_of(gradients)
    closed, exact = two_loss_weights(gram), active_set(gram)
    assert closed @ gram @ closed == pytest.approx(float(exact @ gram @ exact), abs=1e-10)


class TwoTasks(nn.Module):
    """A trunk of two layers and two heads that disagree."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(2))
        self.inputs, self.targets = torch.randn(32, 5), torch.randn(2, 32, 1)
        self.double()

    def losses(self, features=None):
        features = self.trunk(self.inputs.double()) if features is None else features
        return [(h(features) - t.double()).square().mean() for h, t in zip(self.heads, self.targets, strict=True)]


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def test_uses_every_shared_parameter():
    """The snippet keeps `[0]` of autograd.grad: the first parameter's gradient; its weights are others."""
    network = TwoTasks()
    shared = list(network.trunk.parameters())
    losses = network.losses()
    rows = torch.stack([flat(torch.autograd.grad(loss, shared, retain_graph=True)) for loss in losses])
    found = common_descent(losses, shared)
    torch.testing.assert_close(flat(found.direction), found.weights @ rows)
    assert (rows @ flat(found.direction) >= found.squared_norm * (1 - 1e-9)).all()
    first_only = common_descent(losses, shared[:1])
    assert (first_only.weights - found.weights).abs().max() > 1e-3
    assert not (rows @ (first_only.weights @ rows) >= (first_only.weights @ rows).square().sum() * (1 - 1e-9)).all()


def test_leaves_accumulated_gradients_alone():
    """The snippet zeroes `.grad`; here what a caller has accumulated stays, bit for bit, and the graph lives on."""
    network = TwoTasks()
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = [parameter.grad.clone() for parameter in network.parameters()]
    losses = network.losses()
    found = common_descent(losses, list(network.trunk.parameters()))
    assert all(torch.equal(p.grad, b) for p, b in zip(network.parameters(), before, strict=True))
    (found.weights * torch.stack(losses)).sum().backward()
    for parameter, b, d in zip(network.trunk.parameters(), before, found.direction, strict=False):
        torch.testing.assert_close(parameter.grad, b + d)


def test_clips_the_gradients_themselves():
    """The snippet clips `.grad`, which holds something else. Here g_i is shortened before anything is made of it."""
    network = TwoTasks()
    shared = list(network.trunk.parameters())
    losses = [100 * network.losses()[0], network.losses()[1]]
    rows = torch.stack([flat(torch.autograd.grad(loss, shared, retain_graph=True)) for loss in losses])
    lengths = rows.norm(dim=1)
    limit = float(lengths.min()) / 2
    clipped = rows * limit / lengths[:, None]
    point = min_norm_point(clipped @ clipped.T)
    found = common_descent(losses, shared, max_norm=limit)
    torch.testing.assert_close(flat(found.direction), point.weights @ clipped)
    torch.testing.assert_close(found.weights @ rows, flat(found.direction))  # the weights are those of the losses
    loose = common_descent(losses, shared, max_norm=float(lengths.max()) * 2)
    torch.testing.assert_close(loose.weights, common_descent(losses, shared).weights)


def test_a_step_lowers_both_losses_and_at_features_too():
    network = TwoTasks()
    shared = list(network.trunk.parameters())
    before = network.losses()
    found = common_descent({"a": before[0], "b": before[1]}, shared)
    with torch.no_grad():
        for parameter, d in zip(shared, found.direction, strict=True):
            parameter -= 1e-3 * d
        after = network.losses()
    assert all(a < b for a, b in zip(after, before, strict=True))
    features = network.trunk(network.inputs.double())
    at_features = common_descent(network.losses(features), features)
    assert at_features.direction[0].shape == features.shape
    features.backward(*at_features.direction)
    total = torch.autograd.grad((at_features.weights * torch.stack(network.losses())).sum(), shared)
    for parameter, expected in zip(shared, total, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_a_parameter_that_one_loss_does_not_use():
    a, b = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
    found = common_descent([a.sum(), (a + b).sum()], [a, b])  # g = (1, 0) and (1, 1): the shortest is (1, 0)
    assert found.weights.tolist() == [1, 0]
    assert [d.item() for d in found.direction] == [1, 0]
    torch.testing.assert_close(
        gram_matrix([[a.detach(), None], [a.detach(), b.detach()]]), torch.tensor([[9.0, 9], [9, 25]]).double()
    )


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        (torch.zeros(0, 0), "one or more"),
        (torch.tensor([[1.0, torch.nan], [0, 1]]), "finite"),
        (torch.tensor([[1.0, 0], [0, -1]]), "inner products"),
        (torch.tensor([[1.0, 0.5], [0, 1]]), "symmetric"),
    ],
)
def test_bad_gram_matrices(gram, message):
    with pytest.raises(ValueError, match=message):
        min_norm_point(gram)


def test_bad_losses():
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="loss '1' has no graph"):
        common_descent([w.sum(), torch.tensor(1.0)], w)
    with pytest.raises(ValueError, match="loss 'b' does not depend"):
        common_descent({"a": w.sum(), "b": nn.Parameter(torch.ones(2)).sum()}, w)
    with pytest.raises(ValueError, match="'0' has a gradient that is not finite"):
        common_descent([w.sum() * torch.inf, w.sum()], w)
    with pytest.raises(ValueError, match="max_norm"):
        common_descent([w.sum(), w.sum()], w, max_norm=0.0)


@pytest.mark.parametrize(
    ("losses", "shared", "error", "message"),
    [
        ([], nn.Linear(2, 1), ValueError, "needs losses and what they share; got 0 and 2"),
        ([torch.ones(())], [], ValueError, "got 1 and 0"),
        ([1.0], nn.Linear(2, 1), TypeError, "loss '0' must be a scalar tensor, got float"),
        ({"a": torch.ones(2)}, nn.Linear(2, 1), ValueError, r"loss 'a' must be a scalar, got shape \(2,\)"),
        ([torch.ones(())], [None], TypeError, "tensor .* or a module, or several in a list; got NoneType"),
    ],
)
def test_arguments_of_the_wrong_kind(losses, shared, error, message, plain_types):
    with pytest.raises(error, match=message):
        common_descent(losses, shared)


def test_a_list_is_no_gram_matrix(plain_types):
    with pytest.raises(TypeError, match=r"takes a tensor .* got list"):
        min_norm_point([[1.0, 0.0], [0.0, 1.0]])


def test_a_module_stands_for_its_parameters():
    trunk = nn.Linear(3, 2)
    trunk.bias.requires_grad_(False)
    first, second = trunk(torch.ones(1, 3))[0]
    by_module, by_hand = common_descent([first, second], trunk), common_descent([first, second], [trunk.weight])
    assert torch.equal(by_module.weights, by_hand.weights)
    assert [d.shape for d in by_module.direction] == [(2, 3)]


def test_complex_numbers_are_refused_and_their_parts_are_not(plain_types):
    """A Gram matrix would drop imaginary parts; of the parts as reals it is right."""
    w = nn.Parameter(torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128))
    losses = [w.abs().square().sum(), (w - 1j).abs().square().sum()]
    with pytest.raises(
        ValueError, match=r"complex: share a real tensor.*view_as_complex"
    ):
        common_descent(losses, w)
    parts = nn.Parameter(torch.view_as_real(w.detach()).clone())
    z = torch.view_as_complex(parts)
    found = common_descent(
        [z.abs().square().sum(), (z - 1j).abs().square().sum()], parts
    )
    rows = torch.stack([2 * w.detach(), 2 * (w.detach() - 1j)])
    gram = (rows @ rows.conj().T).real
    assert found.squared_norm == pytest.approx(
        float(found.weights @ gram @ found.weights)
    )
    with pytest.raises(ValueError, match=r"gram\.real"):
        min_norm_point(rows @ rows.conj().T)


def test_what_a_reentrant_checkpoint_hides_is_named():
    trunk, x = nn.Linear(3, 2), torch.ones(1, 3, requires_grad=True)
    first, second = torch_checkpoint(trunk, x, use_reentrant=True)[0]
    with pytest.raises(
        ValueError, match=r"does not depend on.*use_reentrant=True, which.*hides"
    ):
        common_descent([first, second], trunk)
    kept = []
    first, second = torch_checkpoint(
        lambda x: kept.append(trunk(x)) or kept[0] + 0, x, use_reentrant=True
    )[0]
    with pytest.raises(
        ValueError, match=r"does not require a gradient.*use_reentrant=True"
    ):
        common_descent([first, second], kept[0])
    first, second = torch_checkpoint(trunk, x, use_reentrant=False)[0]
    assert common_descent([first, second], trunk).squared_norm > 0
