"""The same checks on gradnorm-pytorch and on ours: what public code gets wrong, and the test that holds our side.

    python benchmarks/gradnorm_defects.py [--peer FOLDER]

Every check is a function of the class and returns what it saw, and whether that is right. `FOLDER` is one that
gradnorm-pytorch lies in, where it is not installed.
"""

import argparse
import copy
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses

Check = Callable[[type], tuple[str, bool]]


def network_and_batch() -> tuple[MockNetworkWithMultipleLosses, torch.Tensor]:
    torch.manual_seed(0)
    return MockNetworkWithMultipleLosses(32, 3), torch.randn(16, 32)


def lines(weighter_class: type, slopes: list[float], **settings) -> tuple[nn.Module, Callable[..., list[torch.Tensor]]]:
    """A weighter on one number W, and losses slope · W + level, whose gradients are known."""
    w = nn.Parameter(torch.zeros(1))
    weighter = weighter_class(num_losses=len(slopes), grad_norm_parameters=w, **settings)
    return weighter, lambda *levels: [s * w.sum() + v for s, v in zip(slopes, levels, strict=True)]


def lgrad_in_the_network(weighter_class: type) -> tuple[str, bool]:
    network, x = network_and_batch()
    sum(network(x)).backward()
    plain = [p.grad.clone() for p in network.backbone.parameters()]
    network.zero_grad()
    weighter_class(num_losses=3, grad_norm_parameters=network.backbone_parameter)(network(x))
    off = max(float((p.grad - g).norm() / g.norm()) for p, g in zip(network.backbone.parameters(), plain, strict=True))
    return f"backbone gradient {off:.1%} off", off == 0


def restoring_force(weighter_class: type) -> tuple[str, bool]:
    weighter, losses = lines(weighter_class, [1.0, 1.0], restoring_force_alpha=0.5, learning_rate=0.01)
    weighter(losses(1, 1))
    for _ in range(5):
        weighter(losses(1, 0.1))
    slow, fast = weighter.loss_weights.tolist()
    return f"slow task {slow:.2f}, fast task {fast:.2f}", slow > fast


def sum_over_tasks(weighter_class: type) -> tuple[str, bool]:
    weighter, losses = lines(weighter_class, [6.0, 2.0], learning_rate=0.1)
    weighter(losses(1, 1))
    first = weighter.loss_weights[0].item()
    return f"w₁ after a step {first:.3f}, by the paper {2 * 0.4 / 1.6:.3f}", abs(first - 0.5) < 1e-6


def graph_behind_the_weights(weighter_class: type) -> tuple[str, bool]:
    weighter, losses = lines(weighter_class, [6.0, 2.0])
    for _ in range(100):
        weighter(losses(1, 1))
    node, count = weighter.loss_weights.grad_fn, 0
    while node is not None:
        node, count = (node.next_functions[0][0] if node.next_functions else None), count + 1
    try:
        copy.deepcopy(weighter), weighter.loss_weights.numpy()
    except RuntimeError:
        return f"{count} nodes after 100 steps; deepcopy and .numpy() fail", False
    return f"{count} nodes after 100 steps", count == 0


def one_rank(rank: int, weighter_class: type, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    network, _ = network_and_batch()
    weighter = weighter_class(num_losses=3, grad_norm_parameters=network.backbone_parameter, learning_rate=0.1)
    for step in range(20):
        x = torch.randn(16, 32, generator=torch.Generator().manual_seed(2 * step + rank))
        weighter(network(x))
    torch.save(weighter.loss_weights.detach(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def processes_agree(weighter_class: type) -> tuple[str, bool]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(one_rank, (weighter_class, port, folder), nprocs=2, start_method="spawn")
        first, second = (torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2))
    apart = float((first - second).abs().max())
    return f"two ranks {apart:.3f} apart after 20 steps", apart == 0


def scale_in_the_weights(weighter_class: type) -> tuple[str, bool]:
    moved = []
    for scale in (1.0, 16.0):
        weighter, losses = lines(weighter_class, [1.0, 2.0], learning_rate=0.01)
        weighter(losses(1, 1), scale=scale)
        moved.append(1 - weighter.loss_weights[1].item())
    return f"scale 16 moves the weights {moved[1] / moved[0]:.1f}× as far", abs(moved[1] / moved[0] - 1) < 1e-6


def positive_weights(weighter_class: type) -> tuple[str, bool]:
    weighter, losses = lines(weighter_class, [1.0, 10.0], learning_rate=0.5)
    lowest = 1.0
    for _ in range(5):
        weighter(losses(1, 1))
        lowest = min(lowest, weighter.loss_weights.min().item())
    return f"lowest weight {lowest:.3g}", lowest > 0


def accumulation(weighter_class: type) -> tuple[str, bool]:
    moved = []
    for parts in (1, 4):
        weighter, losses = lines(weighter_class, [1.0, 2.0], learning_rate=0.01)
        for part in range(parts):
            weighter(losses(1, 1), scale=1.0, grad_step=part == parts - 1)
        moved.append(1 - weighter.loss_weights[1].item())
    ratio = moved[1] / moved[0]
    return f"4 equal micro-batches move the weights {ratio:.1f}× as far", abs(ratio - 1) < 1e-6


def accumulation_and_schedule(weighter_class: type) -> tuple[str, bool]:
    whole, parts = [], []
    for count, seen in ((1, whole), (2, parts)):
        weighter, losses = lines(weighter_class, [1.0, 2.0], learning_rate=0.01, update_every=2)
        for step in range(4 * count):
            before = weighter.loss_weights.tolist()
            weighter(losses(1, 1), scale=1 / count, grad_step=step % count == count - 1)
            seen.append(before != weighter.loss_weights.tolist())
    steps = [any(parts[i:i + 2]) for i in range(0, 8, 2)]
    told = f"steps that move the weights: {[i for i, m in enumerate(whole) if m]}, in two parts: "
    return told + str([i for i, m in enumerate(steps) if m]), steps == whole


def same_return(weighter_class: type) -> tuple[str, bool]:
    weighter, losses = lines(weighter_class, [1.0, 2.0], update_every=2)
    kinds = [type(weighter(losses(1, 1))).__name__ for _ in range(2)]
    return f"due: {kinds[0]}, not due: {kinds[1]}", kinds[0] == kinds[1]


def frozen_frees_the_graph(weighter_class: type) -> tuple[str, bool]:
    network, x = network_and_batch()
    losses = network(x)
    weighter_class(num_losses=3, grad_norm_parameters=network.backbone_parameter, frozen=True)(losses)
    try:
        losses[0].backward()
    except RuntimeError:
        return "freed", True
    return "kept: a second backward pass works", False


def mask_counts(weighter_class: type) -> tuple[str, bool]:
    """Two equal losses that are balanced, one that is not: nothing should move."""
    settings = {"restoring_force_alpha": 1.0, "learning_rate": 0.01, "loss_mask": [True, True, False]}
    weighter, losses = lines(weighter_class, [1.0, 3.0, 1.0], **settings)
    weighter(losses(1, 1, 1))
    expected = GradNormLossWeighter(num_losses=2, learning_rate=0.01)  # mean 2: off by −1 and +1
    expected.balance(torch.ones(2), torch.tensor([1.0, 3.0]))
    weights = weighter.loss_weights[:2].tolist()
    told = f"{weights[0]:.4f}, {weights[1]:.4f}; without the third {expected.loss_weights[0]:.4f}, "
    return told + f"{expected.loss_weights[1]:.4f}", torch.allclose(torch.tensor(weights), expected.loss_weights)


def bad_losses(weighter_class: type) -> tuple[str, bool]:
    weighter, losses = lines(weighter_class, [1.0, 2.0, 3.0], restoring_force_alpha=0.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for levels in ((1, 1, 1), (1, 1, 0), (1, 1, -1)):
            weighter(losses(*levels))
    weights = weighter.loss_weights.tolist()
    told = f"weights {[round(w, 3) for w in weights]}, " + ("a warning" if caught else "no warning")
    return told, bool(caught) and all(w == w for w in weights)


def weights_by_position(weighter_class: type) -> tuple[str, bool]:
    try:
        weighter_class([1.0, 3.0])
    except TypeError:
        return "TypeError", False
    return "taken", True


CHECKS: dict[str, tuple[Check, str]] = {
    "L_grad stays out of the network": (lgrad_in_the_network, "test_weighter: …_bit_for_bit"),
    "the slow task gains": (restoring_force, "test_algorithm: test_slow_task_gains_weight"),
    "L_grad is a sum over tasks": (sum_over_tasks, "test_algorithm: test_first_update_written_out"),
    "no graph behind the weights": (graph_behind_the_weights, "test_state: test_memory_is_flat"),
    "processes agree": (processes_agree, "test_distributed: test_processes_equal_one_on_the_joined_batch"),
    "a loss scale stays out": (scale_in_the_weights, "test_accumulation: test_scale_never_reaches_the_weights"),
    "weights are positive": (positive_weights, "test_algorithm: test_weights_are_positive_and_sum_to_the_count"),
    "micro-batches as one": (accumulation, "test_accumulation: test_micro_batches_equal_the_large_batch"),
    "… with update_every": (accumulation_and_schedule, "test_accumulation: test_accumulation_with_update_every"),
    "every call returns the same": (same_return, "test_weighter: test_every_call_returns_the_same_thing"),
    "frozen, the graph is freed": (frozen_frees_the_graph, "test_weighter: test_frozen_only_weighs"),
    "a mask's means are over its losses": (mask_counts, "test_weighter: test_mask_balances_only_what_is_in_it"),
    "a loss ≤ 0 is noticed": (bad_losses, "test_bad_input: test_unusable_losses_are_left_out_with_a_warning"),
    "weights given by position": (weights_by_position, "test_weighter: test_weights_given_by_position"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a folder that gradnorm-pytorch lies in")
    options = parser.parse_args()
    sys.path += [options.peer] if options.peer else []
    from gradnorm_pytorch import GradNormLossWeighter as Peer

    print("| | gradnorm-pytorch | ours | held by |\n|---|---|---|---|")
    for name, (check, test) in CHECKS.items():
        seen = [check(weighter_class) for weighter_class in (Peer, GradNormLossWeighter)]
        cells = " | ".join(f"{'ok' if ok else '**wrong**'}: {told}" for told, ok in seen)
        print(f"| {name} | {cells} | {test} |", flush=True)


if __name__ == "__main__":
    main()
