"""Training that starts from a trained network instead of random weights."""

from dataclasses import replace

from stylegan2.files import load_module, with_prefix
from stylegan2.training.config import Settings
from stylegan2.training.players import Players
from stylegan2.weights import Networks

SIZES = ("model", "resolution", "channels", "n_features", "max_features", "d_latent",
         "mapping_layers", "style", "generator", "discriminator", "labels")
"""Settings that the tensors of the networks follow from."""


def started_from(settings: Settings, default: Settings) -> Settings:
    """The defaults of a run that starts from networks with these settings."""
    kept = {name: getattr(settings, name) for name in (*SIZES, "noise", "minibatch_std")}
    return replace(default, growing=False, **kept)


def take_over(players: Players, start: Networks) -> bool:
    """Give the players the weights of trained networks; the generator is the averaged one where
    there is no other. The running mean of path lengths is that of the generator.

    Returns:
        whether there was a discriminator: without one, that of the players stays as it is.

    Raises:
        ValueError: they know other classes; or nothing is there of what is to be frozen.
        CheckpointError: the networks have other sizes than the players.
    """
    if (known := start.n_classes) != (wanted := players.mapping.n_classes):
        raise ValueError(f"{start.path} was trained with {known or 'no'} classes, and the set has "
                         f"{wanted or 'none that are asked for'}: start from another network, "
                         f"or leave out --labels")
    if players.settings.freeze_d and not with_prefix("discriminator", start.tensors):
        raise ValueError(f"{start.path} has no discriminator, of which --freeze-d could keep "
                         "something: leave that out")
    average = with_prefix("average", start.tensors)
    found = {"average": average, "trained": with_prefix("trained", start.tensors) or average}
    for name in ("discriminator", "path_length"):
        if part := with_prefix(name, start.tensors):
            found[name] = part
    for name, part in found.items():
        load_module("", getattr(players, name), part, start.path)
    return "discriminator" in found
