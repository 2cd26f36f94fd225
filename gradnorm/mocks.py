"""A small network with many losses, for trying a loss weighter and for tests."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor, nn

from gradnorm._typing import Float


class MockNetworkWithMultipleLosses(nn.Module):
    """A shared backbone of three linear layers, and `num_losses` heads that turn its output into one loss each.

    The losses are mean squares: positive, each of its own head, and all depend on `backbone_parameter`.

    Args:
        dim: width of the input and of every layer.
        num_losses: how many heads.
    """

    def __init__(self, dim: int, num_losses: int = 2) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.heads = nn.ModuleList(nn.Linear(dim, 1) for _ in range(num_losses))

    @property
    def backbone_parameter(self) -> nn.Parameter:
        """The weight of the last shared layer: W."""
        return self.backbone.get_parameter(f"{len(self.backbone) - 1}.weight")

    @overload
    def forward(self, x: Tensor, return_backbone_outputs: Literal[False] = False) -> list[Tensor]: ...

    @overload
    def forward(self, x: Tensor, return_backbone_outputs: Literal[True]) -> tuple[list[Tensor], Tensor]: ...

    def forward(
        self, x: Float[Tensor, "batch dim"], return_backbone_outputs: bool = False
    ) -> list[Tensor] | tuple[list[Tensor], Float[Tensor, "batch dim"]]:
        """The losses of a batch; with `return_backbone_outputs`, also the activations that they all come through."""
        shared = self.backbone(x)
        losses = [head(shared).square().mean() for head in self.heads]
        return (losses, shared) if return_backbone_outputs else losses
