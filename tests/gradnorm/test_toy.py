"""The toy problem: its law, its network, its four ways to weigh, its record."""

import json

import pytest
import torch

from gradnorm.__main__ import main
from gradnorm.toy import METHODS, ToyNetwork, UncertaintyWeighter, make_tasks, scales_of, train


def test_tasks_follow_the_papers_law():
    """tanh saturates, as B has variance 10 and x has 250 dimensions; tasks agree as far as B outweighs the ε_i."""
    tasks = make_tasks([2.0, 30.0], seed=1, train=2000, test=10)
    assert tasks.y.shape == (2000, 2, 100)
    assert tasks.x_test.shape == (10, 250)
    assert tasks.y.abs().amax(dim=(0, 2)).tolist() == pytest.approx([2, 30])
    unit = tasks.y / tasks.scales[:, None]
    # cos of the angle between B + ε₁ and B + ε₂ is 10 / 13.5; the signs of two such projections then correlate by
    # 2/π · arcsin of it.
    expected = 2 / torch.pi * torch.asin(torch.tensor(10 / 13.5))
    assert float((unit[:, 0].sign() * unit[:, 1].sign()).mean()) == pytest.approx(float(expected), abs=0.03)
    assert float(unit.square().mean()) > 0.95


def test_tasks_depend_on_the_seed_alone():
    first, again, other = (make_tasks([1.0, 2.0], seed=seed, train=5, test=5) for seed in (0, 0, 1))
    assert torch.equal(first.y, again.y)
    assert not torch.equal(first.y, other.y)


def test_scales():
    assert scales_of(2) == [1, 100]
    assert scales_of(10) == scales_of(10) != scales_of(10, seed=1)
    assert min(scales_of(500)) > 0
    assert 30 < sum(scales_of(500)) / 500 < 50  # E|N(0, 50²)| = 39.9


def test_network():
    network = ToyNetwork(3)
    assert network.last_shared is network.trunk[6].weight
    losses = network.losses(torch.zeros(4, 250), torch.zeros(4, 3, 100))
    assert [loss.shape for loss in losses] == [()] * 3


def test_uncertainty_weights_go_to_one_over_the_loss():
    weighter = UncertaintyWeighter(2)
    optimizer = torch.optim.SGD(weighter.parameters(), lr=0.5)
    values = torch.tensor([0.5, 4.0], requires_grad=True)
    for _ in range(200):
        optimizer.zero_grad()
        result = weighter(list(values.unbind()))
        optimizer.step()
    assert [float(w) for w in result.weights.values()] == pytest.approx([2, 0.25], rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_training_learns_and_repeats(method):
    tasks = make_tasks([1.0, 3.0, 10.0], train=500, test=100)
    run, again = (train(method, tasks, steps=60, every=30) for _ in range(2))
    assert run == again
    assert run.steps == [0, 30, 60]
    assert run.ratios[0] == [1, 1, 1]
    assert sum(run.ratios[-1]) < 2.99
    if method in ("equal", "gradnorm", "oracle"):
        assert all(sum(weights) == pytest.approx(3, rel=1e-5) for weights in run.weights)
    if method == "oracle":
        assert run.weights[0][0] / run.weights[0][2] == pytest.approx(100)
    if method == "gradnorm":
        first, *_, last = run.weights[-1]
        assert first > 1 > last, "the small task gains weight"


def test_unknown_method():
    with pytest.raises(ValueError, match="equal, gradnorm, uncertainty, oracle"):
        train("best", make_tasks([1.0, 2.0], train=5, test=5), steps=1)


def test_command_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gradnorm.toy.PROBLEMS", ((2, 1e-4, 100),))
    assert main(["toy", "--seeds", "2", "--out", str(tmp_path / "new")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "new/history.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["method"]) for line in lines] == [(s, m) for s in (0, 1) for m in METHODS]
    assert all(line["steps"] == [0, 100] and len(line["ratios"]) == len(line["weights"]) == 2 for line in lines)
    settings = json.loads((tmp_path / "new/settings.json").read_text())
    assert settings["alpha"] == 0.12
    assert {"command", "minutes", "device", "commit"} <= set(json.loads((tmp_path / "new/run.json").read_text()))
    assert capsys.readouterr().out.count("mean loss ratio") == 8


def test_command_refuses_a_folder_it_cannot_write(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["toy", "--out", str(tmp_path / "file")]) == 2
    assert "error" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["toy", "--seeds", "0"])
