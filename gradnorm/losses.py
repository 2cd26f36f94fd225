"""Losses as they come: their forms, names and masks, initial weights and values, and
those that cannot be balanced.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradnorm._typing import Bool, Float

Losses = (
    Mapping[str, Any] | Sequence[Any] | Tensor
)  # of scalar tensors: `losses_by_name` refuses the rest
Mask = (
    Mapping[str, Any] | Sequence[Any] | Tensor
)  # of bools: `masked_in` refuses the rest
POSITIVE = (
    sys.float_info.min
)  # the smallest number for `require` that is greater than 0
ON_BAD_LOSS = ("skip", "raise")


def require(
    value: float, name: str, at_least: float = 0.0, at_most: float = sys.float_info.max
) -> None:
    """Raise a ValueError that names the value, unless it is a finite number in
    [at_least, at_most].
    """
    if not at_least <= value <= at_most:
        low = "> 0" if at_least == POSITIVE else f"≥ {at_least:g}"
        high = "" if at_most == sys.float_info.max else f" and ≤ {at_most:g}"
        raise ValueError(f"{name} must be finite, {low}{high}; got {value}")


def require_integer(value: int, name: str, at_least: int) -> None:
    """Raise a TypeError that names the value, unless it is an integer; a ValueError, if
    it is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    require(float(value), name, float(at_least))


def require_backward(accelerator: Any) -> None:
    """Raise a TypeError unless it is None or has a method `backward`."""
    if accelerator is not None and not callable(getattr(accelerator, "backward", None)):
        raise TypeError(
            "accelerator must have a method backward(loss), as that of Hugging Face Accelerate does; "
            f"got {type(accelerator).__name__}"
        )


def require_one_of(value: str, name: str, choices: Sequence[str]) -> None:
    """Raise a ValueError that names the choices, unless the value is one of them."""
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}"
        )


def name_losses(
    num_losses: int | None,
    weights: Mapping | Sequence | Tensor | None,
    names: Sequence[str] | None,
) -> list[str]:
    """The losses' names ("0", "1", … if not given), their number being what all that
    was given agrees on.

    Raises:
        TypeError: a number in place of weights.
        ValueError: nothing was given, or fewer than two losses, or numbers that
            disagree, or a name twice.
    """
    if isinstance(weights, int | float):
        raise TypeError(
            f"loss_weights has an entry for each loss, got {weights}; for so many, write num_losses={weights}"
        )
    if names is None and isinstance(weights, Mapping):
        names = list(weights)
    counts = {len(given) for given in (weights, names) if given is not None}
    counts |= set() if num_losses is None else {num_losses}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(
            "give the number of losses, at least two, by num_losses, loss_weights or loss_names, and let those given "
            f"agree; got num_losses={num_losses}, loss_weights={weights}, loss_names={names}"
        )
    if names is None:
        return [str(i) for i in range(counts.pop())]
    if len(set(names)) < len(names):
        raise ValueError(f"loss_names must differ from one another, got {tuple(names)}")
    return list(names)


def initial_weights(
    given: Mapping[str, float] | Sequence[float] | Tensor | None,
    names: Sequence[str],
    as_given: bool,
) -> Float[Tensor, " tasks"]:
    """Weights to start from: 1 each, or those given, rescaled to Σ w = T unless they
    are to be used as given.

    Raises:
        KeyError: weights by names that are not `names`.
        ValueError: a weight that is not positive and finite.
    """
    if isinstance(given, Mapping):
        given = entries_in_order(names, given, "loss_weights")
    weights = (
        torch.ones(len(names))
        if given is None
        else torch.as_tensor(given).detach().float()
    )
    if not (weights.isfinite() & (weights > 0)).all():
        raise ValueError(
            f"loss_weights must be positive and finite, got {weights.tolist()}"
        )
    return weights.clone() if as_given else weights * (len(names) / weights.sum())


def entries_in_order(
    names: Sequence[str], given: Mapping[str, Any], what: str
) -> list[Any]:
    """The entries of a dict in the order of the losses. Raises a KeyError if its keys
    are not the losses' names.
    """
    if set(given) != set(names):
        raise KeyError(
            f"{what} has an entry for {tuple(given)}; it needs one for each loss: {', '.join(names)}"
        )
    return [given[name] for name in names]


def losses_by_name(losses: Losses, names: Sequence[str]) -> dict[str, Tensor]:
    """The losses by name, in the order of `names`, whatever form they come in.

    A dict is read by its keys, and a named tuple by its fields where names were chosen;
    everything else by position.

    Raises:
        KeyError: keys or fields that are not `names`.
        TypeError: a loss that is no tensor.
        ValueError: a wrong number of losses, or one that is not a scalar.
    """
    if (
        hasattr(losses, "_asdict") and names[0] != "0"
    ):  # no field can be called "0": these names were chosen
        losses = losses._asdict()
    if isinstance(losses, Mapping):
        if set(losses) != set(names):
            raise KeyError(
                f"got losses named {tuple(losses)}, this weighter has {tuple(names)}; pass exactly these, or construct "
                f"the weighter with loss_names={tuple(losses)}"
            )
        losses = [losses[name] for name in names]
    if isinstance(losses, Tensor) and losses.ndim != 1:
        raise ValueError(
            f"losses in one tensor must be 1-D, an entry for each loss; got shape {tuple(losses.shape)}"
        )
    if len(losses) != len(names):
        raise ValueError(
            f"got {len(losses)} losses, this weighter has {len(names)}: {', '.join(names)}"
        )
    for name, loss in zip(names, losses, strict=True):
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"loss {name!r} must be a scalar tensor, got {type(loss).__name__}"
            )
        if loss.ndim != 0:
            raise ValueError(
                f"loss {name!r} must be a scalar, got shape {tuple(loss.shape)}; reduce it with .mean()"
            )
    return dict(zip(names, losses, strict=True))


def masked_in(names: Sequence[str], mask: Mask | None) -> dict[int, str]:
    """The losses that a mask lets GradNorm balance, by position; all of them without a
    mask.

    Args:
        mask: bools, by name or one for each loss in the losses' order.

    Raises:
        KeyError: a mask by names that are not `names`.
        TypeError: an entry that is not a bool (indices, numbers).
        ValueError: a mask of another length, or with fewer than two losses in it.
    """
    if mask is None:
        return dict(enumerate(names))
    if isinstance(mask, Mapping):
        mask = entries_in_order(names, mask, "loss_mask")
    entries = mask.tolist() if isinstance(mask, Tensor) else list(mask)
    if not all(isinstance(entry, bool) for entry in entries):
        raise TypeError(
            f"loss_mask needs True or False for each of {', '.join(names)}, in this order or in a dict by name; "
            f"got {mask}"
        )
    chosen = {
        task: name
        for task, (name, inside) in enumerate(zip(names, entries, strict=False))
        if inside
    }
    if len(entries) != len(names) or len(chosen) < 2:
        raise ValueError(
            f"loss_mask needs one entry for each of {', '.join(names)} and at least two that are True, got {mask}; "
            "to balance nothing, set freeze=True"
        )
    return chosen


def known_losses(
    names: Sequence[str], given: Mapping[str, float] | Sequence[float] | None
) -> dict[int, float]:
    """The initial losses that are known beforehand, by position.

    Raises:
        KeyError: a name that no loss has.
        ValueError: a sequence that has not one entry for each loss, or a loss that is
            not positive and finite.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if len(given) != len(names):
            raise ValueError(
                f"initial_losses needs an entry for each of {', '.join(names)}, got {len(given)}; "
                "name those you know in a dict, and the others are measured"
            )
        given = dict(zip(names, given, strict=True))
    if strange := set(given) - set(names):
        raise KeyError(
            f"initial_losses has {', '.join(sorted(strange))}; the losses are {', '.join(names)}"
        )
    for name, loss in given.items():
        require(loss, f"initial_losses[{name!r}]", at_least=POSITIVE)
    return {names.index(name): float(loss) for name, loss in given.items()}


def known_at_once(tensor: Tensor) -> bool:
    """Whether the host can read it without waiting."""
    return tensor.device.type == "cpu"


class LateFlags:
    """Flags that a device sets one after another, as far as the host has heard of them.

    To read a tensor of a GPU is to wait for it. This asks for a copy and does not wait:
    `follow` returns what earlier copies have brought. Flags are only ever set, so that
    what it returns may be late and is never wrong. On the CPU it is never late.
    """

    def __init__(self, count: int) -> None:
        self.heard = torch.zeros(count, dtype=torch.bool)

    def follow(self, flags: Bool[Tensor, " count"]) -> list[bool]:
        """The flags, or those of them that the host has heard of."""
        if flags.is_cuda and not self.heard.is_pinned():
            self.heard = self.heard.pin_memory()  # a copy into other memory would wait
        self.heard.copy_(flags, non_blocking=True)
        return self.heard.tolist()


class BadLosses:
    """Which losses can be balanced; of the others it warns once, or raises.

    Args:
        names: of all losses.
        alpha: with α > 0 a loss must be positive: r_i^α has no meaning for another.
        policy: "raise" refuses a loss that cannot be balanced, and waits for the device
            in every update to see that there is none; "skip" leaves it out of the
            update.
    """

    def __init__(self, names: Sequence[str], alpha: float, policy: str) -> None:
        self.names, self.positive, self.policy = list(names), alpha > 0, policy
        self.warned = False
        self.met: Tensor | None = None  # the bad ones in all updates so far, [tasks]
        self.heard = LateFlags(len(self.names))

    def usable(
        self, losses: Float[Tensor, " tasks"], lengths: Float[Tensor, " tasks"]
    ) -> Bool[Tensor, " tasks"] | None:
        """Which losses are finite, with a finite gradient, and positive if α > 0; None
        where the host knows without waiting that all of them are.

        Args:
            lengths: of the gradients; -1 for a loss that is not to be balanced.

        Raises:
            ValueError: the policy is "raise" and a loss is bad. A gradient that is not
                finite raises nothing: a GradScaler makes some now and then.
        """
        lowest = 0.0 if self.positive else -math.inf
        if known_at_once(losses):
            numbers = zip(losses.tolist(), lengths.tolist(), strict=True)
            if all(lowest < a < math.inf and 0 <= b < math.inf for a, b in numbers):
                return None
        good = (losses > lowest) & (losses < math.inf)
        usable = good & (lengths >= 0) & (lengths < math.inf)
        bad = ~usable & (lengths != -1)
        if known_at_once(bad) and not bad.any():
            return usable
        if self.policy == "raise":
            self.refuse(losses, ~good & (lengths != -1))
        if not self.warned:
            self.met = bad if self.met is None else self.met.to(bad.device) | bad
            self.warn(self.heard.follow(self.met))
        return usable

    @property
    def needs(self) -> str:
        """What is asked of a loss, for messages."""
        positive = " and positive (α > 0)" if self.positive else ""
        return f"a loss that GradNorm balances must be finite{positive}"

    def refuse(self, losses: Tensor, bad: Tensor) -> None:
        """Raise a ValueError if there are bad losses."""
        if any(flags := bad.tolist()):
            told = [
                (name, float(loss))
                for name, loss, is_bad in zip(self.names, losses, flags, strict=True)
                if is_bad
            ]
            raise ValueError(
                f"{self.needs}, got {dict(told)}; mask it, freeze, or leave it out with "
                "on_bad_loss='skip'"
            )

    def warn(self, bad: list[bool]) -> None:
        """Warn of bad losses or gradients if there are some, the first time."""
        if any(bad):
            self.warned = True
            left_out = [n for n, is_bad in zip(self.names, bad, strict=True) if is_bad]
            warnings.warn(
                f"GradNorm leaves the weights of {', '.join(left_out)} as they are in "
                f"this update (on a GPU: in an earlier one): {self.needs}, and its "
                "gradient finite. Further updates that leave losses out do so silently; "
                "their norms are NaN then",
                RuntimeWarning,
                stacklevel=3,
            )
