"""The published networks once more, for tests: functions of a dict of tensors under the published names.

Derived from the papers and the documented conventions alone, and written the long way round: every convolution is
patches times a matrix, up-sampling inserts zeros explicitly, a transposed convolution is its definition, styles scale
the weights of each sample, the filter is applied tap by tap. It computes in the precision of the tensors, and nothing
here imports the package.
"""

import math

import torch
import torch.nn.functional as F

TAPS = (1, 3, 3, 1)
ROOT2 = math.sqrt(2)


def random_tensors(resolution, *, channels, d, layers=2, classes=0, seed=0):
    """Tensors of a generator and a discriminator with nothing at its neutral start: noise, biases, and w̄ all matter.

    Args:
        resolution: side of the images.
        channels: resolution → channels.
        d: size of z and w.
        layers: of the mapping network.
        classes: of a conditional network, or 0.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape, std=1.0, mean=0.0):
        return mean + std * torch.randn(shape, generator=random)

    tensors = {}
    fir = torch.tensor([[a * b / 64 for a in TAPS] for b in TAPS])

    def layer(name, *shape, std=1.0, bias=0.3):
        tensors[f"{name}.weight"] = normal(*shape, std=std)
        if bias is not None:
            tensors[f"{name}.bias"] = normal(shape[0], std=bias)

    def styled(name, c_out, c_in, k, side=None):
        layer(name, c_out, c_in, k, k)
        layer(f"{name}.affine", c_in, d)
        tensors[f"{name}.affine.bias"] += 1
        if side:
            tensors[f"{name}.noise_strength"] = normal(std=0.5)
            tensors[f"{name}.noise_const"] = normal(side, side)

    for i in range(layers):
        layer(f"G.mapping.fc{i}", d, 2 * d if classes and i == 0 else d, std=100.0, bias=30.0)
    if classes:
        layer("G.mapping.embed", d, classes)
    tensors["G.mapping.w_avg"] = normal(d)
    sides = [4 << i for i in range(resolution.bit_length() - 2)]
    tensors["G.synthesis.b4.const"] = normal(channels[4], 4, 4)
    for r in sides:
        block, c = f"G.synthesis.b{r}", channels[r]
        if r > 4:
            styled(f"{block}.conv0", c, channels[r // 2], 3, r)
            tensors[f"{block}.conv0.resample_filter"] = fir
        styled(f"{block}.conv1", c, c, 3, r)
        styled(f"{block}.torgb", 3, c, 1)
        tensors[f"{block}.resample_filter"] = fir
    layer(f"D.b{resolution}.fromrgb", channels[resolution], 3, 1, 1)
    for r in sides[1:]:
        layer(f"D.b{r}.conv0", channels[r], channels[r], 3, 3)
        layer(f"D.b{r}.conv1", channels[r // 2], channels[r], 3, 3)
        layer(f"D.b{r}.skip", channels[r // 2], channels[r], 1, 1, bias=None)
        tensors[f"D.b{r}.resample_filter"] = fir
    c = channels[4]
    layer("D.b4.conv", c, c + 1, 3, 3)
    layer("D.b4.fc", c, 16 * c)
    layer("D.b4.out", c if classes else 1, c)
    if classes:
        layer("D.mapping.embed", c, classes)
        for i in range(layers):
            layer(f"D.mapping.fc{i}", c, c, std=100.0, bias=30.0)
    return tensors


# --- the pieces -------------------------------------------------------------------------------------------------------

def act(x, gain=ROOT2):
    return torch.where(x < 0, 0.2 * x, x) * gain


def unit_moment(x):
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-8)


def dense(p, name, x, rate=1.0):
    weight = p[f"{name}.weight"] * (rate / math.sqrt(p[f"{name}.weight"].shape[1]))
    return torch.einsum("oi,bi->bo", weight, x) + p[f"{name}.bias"] * rate


def correlate(x, weight, pad=0, step=1):
    """x [b, i, h, w] against weight [o, i, k, k], or [b, o, i, k, k] for weights of each sample's own."""
    k = weight.shape[-1]
    patches = F.unfold(x, k, padding=pad, stride=step)  # [b, i·k·k, positions]
    if weight.ndim == 4:
        out = torch.einsum("oq,bqn->bon", weight.flatten(1), patches)
    else:
        out = torch.einsum("boq,bqn->bon", weight.flatten(2), patches)
    height = (x.shape[2] + 2 * pad - k) // step + 1
    return out.reshape(len(x), -1, height, out.shape[2] // height)


def insert_zeros(x, trailing):
    """x at the even pixels of a grid twice the size; without the last row and column of zeros unless `trailing`."""
    b, c, h, w = x.shape
    grid = torch.stack([x, torch.zeros_like(x)], dim=-1).reshape(b, c, h, 2 * w)
    grid = torch.stack([grid, torch.zeros_like(grid)], dim=-2).reshape(b, c, 2 * h, 2 * w)
    return grid if trailing else grid[:, :, :-1, :-1]


def fir(x, before, after, gain=1.0):
    """The filter, as a sum of shifted copies; the padding is that of both axes."""
    x = F.pad(x, (before, after, before, after))
    h, w = x.shape[2] - 3, x.shape[3] - 3
    return sum(TAPS[i] * TAPS[j] * (gain / 64) * x[:, :, i:i + h, j:j + w] for i in range(4) for j in range(4))


# --- the generator ----------------------------------------------------------------------------------------------------

def mapping(p, z, labels=None, name="G.mapping"):
    """z [batch, d] (or None) and labels [batch] (or None) to w [batch, d]."""
    parts = [] if z is None else [unit_moment(z)]
    if labels is not None:
        classes = p[f"{name}.embed.weight"].shape[1]
        one_hot = torch.eye(classes, dtype=p[f"{name}.embed.weight"].dtype)[labels]
        parts.append(unit_moment(dense(p, f"{name}.embed", one_hot)))
    x = torch.cat(parts, dim=1)
    i = 0
    while f"{name}.fc{i}.weight" in p:
        x = act(dense(p, f"{name}.fc{i}", x, rate=0.01))
        i += 1
    return x


def truncated(p, w, psi, layers, cutoff=None):
    """w [batch, d] to one per layer [batch, layers, d], the first `cutoff` of them (all, if None) pulled to w̄."""
    average = p["G.mapping.w_avg"]
    pulled = average + psi * (w - average)
    count = layers if cutoff is None else cutoff
    return torch.stack([pulled if i < count else w for i in range(layers)], dim=1)


def styled(p, name, x, w, noise=None, up=False):
    style = dense(p, f"{name}.affine", w)
    weight = p[f"{name}.weight"][None] * style[:, None, :, None, None]
    weight = weight / torch.sqrt((weight**2).sum((2, 3, 4), keepdim=True) + 1e-8)
    if up:
        # A transposed convolution of stride 2: every pixel stamps the kernel, which is a correlation of the zero-filled
        # grid with the kernel turned by 180°.
        x = fir(correlate(insert_zeros(x, trailing=False), weight.flip(-1, -2), pad=2), 1, 1, gain=4)
    else:
        x = correlate(x, weight, pad=1)
    if noise is not None:
        x = x + noise * p[f"{name}.noise_strength"]
    return act(x + p[f"{name}.bias"][None, :, None, None])


def to_rgb(p, name, x, w):
    style = dense(p, f"{name}.affine", w) / math.sqrt(x.shape[1])
    rgb = torch.einsum("oi,bi,bihw->bohw", p[f"{name}.weight"][:, :, 0, 0], style, x)
    return rgb + p[f"{name}.bias"][:, None, None]


def synthesis(p, ws, noise="const"):
    """ws [batch, layers, d] to images.

    Args:
        noise: "const" for the stored maps, None, or a dict {(resolution, 0 or 1): map [batch or 1, 1, side, side]}.
    """
    def map_of(r, conv):
        if noise == "const":
            return p[f"G.synthesis.b{r}.conv{conv}.noise_const"][None, None]
        return None if noise is None else noise[r, conv]

    x = p["G.synthesis.b4.const"].repeat(len(ws), 1, 1, 1)
    x = styled(p, "G.synthesis.b4.conv1", x, ws[:, 0], map_of(4, 1))
    image = to_rgb(p, "G.synthesis.b4.torgb", x, ws[:, 1])
    r, i = 8, 1
    while f"G.synthesis.b{r}.conv0.weight" in p:
        x = styled(p, f"G.synthesis.b{r}.conv0", x, ws[:, i], map_of(r, 0), up=True)
        x = styled(p, f"G.synthesis.b{r}.conv1", x, ws[:, i + 1], map_of(r, 1))
        image = fir(insert_zeros(image, trailing=True), 2, 1, gain=4)
        image = image + to_rgb(p, f"G.synthesis.b{r}.torgb", x, ws[:, i + 2])
        r, i = 2 * r, i + 2
    return image


# --- the discriminator ------------------------------------------------------------------------------------------------

def conv(p, name, x, pad=0, step=1):
    weight = p[f"{name}.weight"]
    x = correlate(x, weight / math.sqrt(weight[0].numel()), pad, step)
    return x + p[f"{name}.bias"][None, :, None, None] if f"{name}.bias" in p else x


def with_group_deviation(x, group=4):
    """One more channel; samples i, i + batch/group, … are a group."""
    groups = max(1, len(x) // group)
    values = torch.stack([torch.stack([x[j] for j in range(i, len(x), groups)]).var(dim=0, unbiased=False).add(1e-8)
                          .sqrt().mean() for i in range(groups)])
    extra = torch.stack([values[i % groups].expand(1, *x.shape[2:]) for i in range(len(x))])
    return torch.cat([x, extra], dim=1)


def discriminator(p, images, labels=None):
    """Images [batch, 3, side, side] to scores [batch]."""
    r = images.shape[-1]
    x = act(conv(p, f"D.b{r}.fromrgb", images))
    while r > 4:
        skip = conv(p, f"D.b{r}.skip", fir(x, 1, 1)[:, :, ::2, ::2]) * math.sqrt(0.5)
        x = act(conv(p, f"D.b{r}.conv0", x, pad=1))
        x = act(conv(p, f"D.b{r}.conv1", fir(x, 2, 2), step=2), math.sqrt(2) * math.sqrt(0.5)) + skip
        r //= 2
    x = act(conv(p, "D.b4.conv", with_group_deviation(x), pad=1))
    x = act(dense(p, "D.b4.fc", x.flatten(1)))
    x = dense(p, "D.b4.out", x)
    if labels is None:
        return x[:, 0]
    embedded = mapping(p, None, labels, name="D.mapping")
    return (x * embedded).sum(1) / math.sqrt(x.shape[1])
