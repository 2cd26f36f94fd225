"""The programs that are compared: a G + D training step of each, on networks of the same widths.

No penalties, no data, no average of the generator: what all of them have in common. Each keeps its own losses, its own
optimizers and its own way through the step.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from unittest import mock

import torch

from stylegan2.equalized import scaled_at_once
from stylegan2.training.config import Settings
from stylegan2.training.phases import Phases
from stylegan2.training.players import Players
from stylegan2.training.step import Step, frozen

D_LATENT = 256
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        resolution: side of the images.
        n_features: channels at that resolution; they double with each halving of it, up to max_features.
        batch: images per step.
        precision: of our main phases (fp32 or bf16).
        compile: compile our networks for the main phases.
        noise: feed noise maps to ours, as the others always do.
    """

    resolution: int = 32
    n_features: int = 32
    max_features: int = 256
    batch: int = 32
    precision: str = "fp32"
    compile: bool = False
    noise: bool = True

    @property
    def log_resolution(self) -> int:
        return self.resolution.bit_length() - 1

    def real_images(self) -> torch.Tensor:
        return torch.rand(self.batch, 3, self.resolution, self.resolution, device=DEVICE) * 2 - 1


def our_step(case: Case) -> Step:
    """Networks and optimizers of a run of ours."""
    settings = Settings(resolution=case.resolution, n_features=case.n_features, max_features=case.max_features,
                        d_latent=D_LATENT, batch_size=case.batch, precision=case.precision, noise=case.noise,
                        style_mixing=0.0)
    players = Players(settings).to(DEVICE)
    if case.compile:
        players.compile()
    return Step(players)


def ours(case: Case) -> Callable[[], None]:
    """The main phases of `stylegan2.training`."""
    step, real = our_step(case), case.real_images()
    phases: Phases = step.phases

    def run() -> None:
        with scaled_at_once(step.players.trained):
            step.update_discriminator.descend(
                half(part) for part in step.parts(real, None) for half in (phases.real_loss, phases.fake_loss))
        with frozen(step.players.discriminator), scaled_at_once(step.players.discriminator):
            step.update_generator.descend(map(phases.generator_loss, step.draw(case.batch)))
        phases.take_w()

    return run


def labml_nn(case: Case) -> Callable[[], None]:
    """What labml-nn's experiment.py does in a step between its penalties (that file itself needs torchvision)."""
    from labml_nn.gan.stylegan import Discriminator, Generator, MappingNetwork

    mapping = MappingNetwork(D_LATENT, 8).to(DEVICE)
    generator = Generator(case.log_resolution, D_LATENT, case.n_features, case.max_features).to(DEVICE)
    discriminator = Discriminator(case.log_resolution, case.n_features, case.max_features).to(DEVICE)
    modules, rates = (mapping, generator, discriminator), (1e-5, 1e-3, 1e-3)
    adams = [torch.optim.Adam(m.parameters(), lr=r, betas=(0.0, 0.99)) for m, r in zip(modules, rates, strict=True)]
    real = case.real_images()

    def generate() -> torch.Tensor:
        w = mapping(torch.randn(case.batch, D_LATENT, device=DEVICE))[None].expand(generator.n_blocks, -1, -1)
        noise: list[tuple[torch.Tensor | None, torch.Tensor]] = []
        for i in range(generator.n_blocks):
            one, two = torch.randn(2, case.batch, 1, 4 << i, 4 << i, device=DEVICE)
            noise.append((one if i else None, two))
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


def stylegan2_pytorch(case: Case) -> Callable[[], None]:
    """What stylegan2-pytorch's Trainer.train does in a step between its penalties.

    Its `network_capacity` counts the generator's channels at half of the full resolution, the discriminator's by four.
    """
    package = import_without_cuda("stylegan2_pytorch.stylegan2_pytorch")
    n, limit = case.n_features, case.max_features
    style = package.StyleVectorizer(D_LATENT, 8).to(DEVICE)
    generator = package.Generator(case.resolution, D_LATENT, n // 2, fmap_max=limit).to(DEVICE)
    discriminator = package.Discriminator(case.resolution, n // 4, fmap_max=limit).to(DEVICE)
    players = torch.optim.Adam([*style.parameters(), *generator.parameters()], lr=1e-4, betas=(0.5, 0.9))
    critic = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.9))
    real = case.real_images()

    def generate() -> torch.Tensor:
        z = torch.randn(case.batch, D_LATENT, device=DEVICE)
        w = package.styles_def_to_tensor(package.latent_to_w(style, [(z, generator.num_layers)]))
        return generator(w, torch.rand(case.batch, case.resolution, case.resolution, 1, device=DEVICE))

    def run() -> None:
        critic.zero_grad()
        fake, true = discriminator(generate().clone().detach())[0], discriminator(real)[0]
        package.hinge_loss(fake, true).backward()
        critic.step()
        players.zero_grad()
        package.gen_hinge_loss(discriminator(generate())[0], None).backward()
        players.step()

    return run


def import_without_cuda(name: str) -> ModuleType:
    """Import a module that refuses to be imported without a GPU, and for whose trainer much is imported: the networks
    need neither. What is not installed is replaced by nothing.
    """
    with ExitStack() as stack:
        stack.enter_context(mock.patch("torch.cuda.is_available", return_value=True))
        for absent in ("fire", "torchvision", "aim", "vector_quantize_pytorch"):
            if importlib.util.find_spec(absent) is None:
                stack.enter_context(mock.patch.dict(sys.modules, {absent: mock.MagicMock()}))
        return importlib.import_module(name)


PROGRAMS: dict[str, Callable[[Case], Callable[[], None]]] = {
    "ours": ours, "labml-nn": labml_nn, "stylegan2-pytorch": stylegan2_pytorch}


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def machine(threads: int) -> str:
    """What the figures were measured on, in words."""
    from stylegan2.training.provenance import cpu_name

    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{cpu_name()}, {threads} threads"
    return f"{name}, torch {torch.__version__}"
