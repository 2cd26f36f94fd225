"""Images per second of a G + D training step, ours against labml-nn's annotated StyleGAN2, in one run.

    python benchmarks/train_step.py [--n-features 32 --max-features 256 --batch 32 --threads 2 --seconds 15 --rounds 3]

Both train 32² networks of the same widths with their own losses and optimizers, without penalties and without reading
data. The two take turns, so that a machine that changes its speed changes it for both; the ratio is taken round by
round. Its last line is a row for benchmarks/README.md.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch

from stylegan2.training.config import Settings
from stylegan2.training.step import Players, Step
from stylegan2.training.trainer import cpu_name

LOG_RESOLUTION, D_LATENT = 5, 256


def our_step(options: argparse.Namespace) -> Callable[[], None]:
    """The main phases of `stylegan2.training.step`."""
    settings = Settings(n_features=options.n_features, max_features=options.max_features, d_latent=D_LATENT,
                        precision=options.precision, style_mixing=0)
    step = Step(Players(settings), settings)
    real = torch.rand(options.batch, 3, 32, 32) * 2 - 1

    def run() -> None:
        step.train_discriminator(real)
        step.train_generator(options.batch)

    return run


def labml_step(options: argparse.Namespace) -> Callable[[], None]:
    """What labml-nn's experiment.py does in a step between its penalties (that file itself needs torchvision)."""
    from labml_nn.gan.stylegan import Discriminator, Generator, MappingNetwork

    mapping = MappingNetwork(D_LATENT, 8)
    generator = Generator(LOG_RESOLUTION, D_LATENT, options.n_features, options.max_features)
    discriminator = Discriminator(LOG_RESOLUTION, options.n_features, options.max_features)
    modules = (mapping, generator, discriminator)
    rates = (1e-5, 1e-3, 1e-3)
    adams = [torch.optim.Adam(m.parameters(), lr=r, betas=(0.0, 0.99)) for m, r in zip(modules, rates, strict=True)]
    real = torch.rand(options.batch, 3, 32, 32)

    def generate() -> torch.Tensor:
        w = mapping(torch.randn(options.batch, D_LATENT))[None].expand(generator.n_blocks, -1, -1)
        sides = [4 << i for i in range(generator.n_blocks)]
        noise = [(None if i == 0 else torch.randn(options.batch, 1, r, r), torch.randn(options.batch, 1, r, r))
                 for i, r in enumerate(sides)]
        return generator(w, noise)

    def update(loss: torch.Tensor, players: list[int]) -> None:
        loss.backward()
        for i in players:
            torch.nn.utils.clip_grad_norm_(modules[i].parameters(), max_norm=1.0)
            adams[i].step()

    def run() -> None:
        adams[2].zero_grad()
        fake, true = discriminator(generate().detach()), discriminator(real)
        update(torch.relu(1 - true).mean() + torch.relu(1 + fake).mean(), [2])
        adams[0].zero_grad()
        adams[1].zero_grad()
        update(-discriminator(generate()).mean(), [0, 1])

    return run


def images_per_second(run: Callable[[], None], batch: int, seconds: float) -> float:
    """Steps for at least so long, after one that is not counted."""
    run()
    start = time.perf_counter()
    for steps in itertools.count(1):
        run()
        passed = time.perf_counter() - start
        if passed > seconds:
            return steps * batch / passed
    raise AssertionError("unreachable")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-features", type=int, default=32)
    parser.add_argument("--max-features", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of ours; labml-nn's is fp32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    try:
        steps = {"ours": our_step(options), "labml-nn": labml_step(options)}
    except ImportError as error:
        raise SystemExit(f"{error}: pip install --no-deps -r benchmarks/requirements.txt") from None
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, run in steps.items():
            speeds[name].append(images_per_second(run, options.batch, options.seconds))
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["labml-nn"], strict=True)]
    for name, values in speeds.items():
        print(f"{name:10} {statistics.median(values):7.1f} images/s   ({min(values):.1f} to {max(values):.1f})")
    print(f"ratio      {statistics.median(ratios):7.2f}            ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"| {options.n_features}/{options.max_features}, batch {options.batch}, {options.precision} | "
          f"{statistics.median(speeds['ours']):.1f} | {statistics.median(speeds['labml-nn']):.1f} | "
          f"{statistics.median(ratios):.2f} | {cpu_name()}, {options.threads} threads, torch {torch.__version__} |")


if __name__ == "__main__":
    main()
