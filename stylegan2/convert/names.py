"""What the published networks call their tensors, and what ours call them."""

from collections.abc import Collection, Sequence

LINEAR = {"weight": "weight.weight", "bias": "bias"}
TO_RGB = {"weight": "conv.weight", "bias": "bias", "affine.weight": "to_style.weight.weight",
          "affine.bias": "to_style.bias"}
STYLE_BLOCK = {**TO_RGB, "noise_strength": "noise_strength", "noise_const": "noise_const"}


def layer(published: str, ours: str, parts: dict[str, str]) -> dict[str, str]:
    return {f"{published}.{theirs}": f"{ours}.{name}" for theirs, name in parts.items()}


def misfit(wanted: Collection[str], found: Collection[str], prefix: str = "") -> str:
    """What is missing, or else left over, in a sentence; nothing where the names agree.

    Args:
        prefix: that the names have in the file.
    """
    for these, what in ((set(wanted) - set(found), "missing"), (set(found) - set(wanted), "left over")):
        if these:
            return f"{what}: {listed([prefix + name for name in sorted(these)])}"
    return ""


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names in a sentence, the first dozen of them."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def mapping_names(n_layers: int, conditional: bool = False) -> dict[str, str]:
    """Published name to ours, for the mapping network of a generator."""
    names = {"w_avg": "mean_w"}
    for i in range(n_layers):
        names |= layer(f"fc{i}", f"layers.{i}", LINEAR)
    return names | (layer("embed", "embedding.linear", LINEAR) if conditional else {})


def synthesis_names(log_resolution: int) -> dict[str, str]:
    """Published name to ours, for the generator."""
    names = {"b4.const": "initial_constant", **layer("b4.conv1", "style_block", STYLE_BLOCK),
             **layer("b4.torgb", "to_rgb", TO_RGB)}
    for i in range(log_resolution - 2):
        published, ours = f"b{8 << i}", f"blocks.{i}"
        names |= layer(f"{published}.conv0", f"{ours}.style_block1", STYLE_BLOCK)
        names |= layer(f"{published}.conv1", f"{ours}.style_block2", STYLE_BLOCK)
        names |= layer(f"{published}.torgb", f"{ours}.to_rgb", TO_RGB)
    return names


def discriminator_names(log_resolution: int, label_layers: int | None = None) -> dict[str, str]:
    """Published name to ours, for the discriminator; if it is conditional, with so many layers after the embedding of
    the label.
    """
    names = layer(f"b{1 << log_resolution}.fromrgb", "from_rgb.0", LINEAR)
    for i in range(log_resolution - 2):
        published, ours = f"b{1 << log_resolution - i}", f"blocks.{i}"
        names |= layer(f"{published}.conv0", f"{ours}.block.0", LINEAR)
        names |= layer(f"{published}.conv1", f"{ours}.block.3", LINEAR)
        names[f"{published}.skip.weight"] = f"{ours}.residual.1.weight.weight"
    names |= layer("b4.conv", "conv.0", LINEAR)
    names |= layer("b4.fc", "final.0", LINEAR)
    names |= layer("b4.out", "final.2", LINEAR)
    if label_layers is not None:
        names |= layer("mapping.embed", "embedding.0.linear", LINEAR)
        for i in range(label_layers):
            names |= layer(f"mapping.fc{i}", f"embedding.1.{i}", LINEAR)
    return names
