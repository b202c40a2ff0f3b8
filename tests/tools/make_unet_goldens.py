#!/usr/bin/env python3
"""Writes tests/data/unet/*.safetensors: small U-Nets in the variants that no reference checkpoint
has (guided-diffusion's options, super-resolution, other prediction types), evaluated with PyTorch;
and likelihoods with the noise that PyTorch itself draws.

The model below is written from the published description, as plain functions that ask for their
parameters by name. Parameters are not stored: a formula makes them from their names, here and in
tests/pipelines/unetgolden.c, so that a file holds only inputs, results and, as metadata, the list
of names and shapes and the run's description.
"""
import json
import math
import pathlib
import struct

import numpy as np
import torch
import torch.nn.functional as F

OUT = pathlib.Path(__file__).parent.parent / "data" / "unet"


def parameter_values(name, shape):
    state = 2166136261
    for byte in name.encode():
        state = (state ^ byte) * 16777619 % 2**32
    values = np.empty(math.prod(shape))
    for i in range(values.size):
        state = (state * 1664525 + 1013904223) % 2**32
        values[i] = 2 * ((state >> 8) / 2**24) - 1
    if len(shape) >= 2:
        values *= math.sqrt(3 / math.prod(shape[1:]))
    else:
        values = 0.3 * values + (1 if name.endswith("weight") else 0)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


class Unet:
    """The options are the INI's."""

    def __init__(self, **options):
        self.o = dict(conv_resample=True, use_scale_shift_norm=True, resblock_updown=False,
                      num_classes=0, small_size=0, num_head_channels=-1, num_heads=4,
                      num_heads_upsample=-1, attention_order="legacy", learn_sigma=False,
                      predict="eps", sigma="range", rescale_timesteps=True)
        self.o.update(options)
        self.o["learned"] = 2 if self.o["learn_sigma"] else 1
        self.parameters = {}

    def p(self, name, *shape):
        if name not in self.parameters:
            self.parameters[name] = parameter_values(name, shape)
        assert self.parameters[name].shape == shape
        return self.parameters[name]

    def linear(self, at, x, out):
        return F.linear(x, self.p(at + ".weight", out, x.shape[1]), self.p(at + ".bias", out))

    def conv(self, at, x, out, k, stride=1):
        return F.conv2d(x, self.p(at + ".weight", out, x.shape[1], k, k),
                        self.p(at + ".bias", out), stride=stride, padding=k // 2)

    def norm(self, at, x):
        c = x.shape[1]
        return F.group_norm(x, 32, self.p(at + ".weight", c), self.p(at + ".bias", c), eps=1e-5)

    def residual(self, at, x, emb, out, change=lambda x: x):
        h = self.conv(at + ".in_layers.2", change(F.silu(self.norm(at + ".in_layers.0", x))), out, 3)
        x = change(x)
        scales = self.o["use_scale_shift_norm"]
        e = self.linear(at + ".emb_layers.1", F.silu(emb), 2 * out if scales else out)
        e = e[:, :, None, None]
        if scales:
            scale, shift = e[:, :out], e[:, out:]
            h = self.norm(at + ".out_layers.0", h) * (1 + scale) + shift
        else:
            h = self.norm(at + ".out_layers.0", h + e)
        h = self.conv(at + ".out_layers.3", F.silu(h), out, 3)
        if x.shape[1] != out:
            x = self.conv(at + ".skip_connection", x, out, 1)
        return x + h

    def attention(self, at, x, heads):
        n, c, height, width = x.shape
        if self.o["num_head_channels"] > 0:
            heads = c // self.o["num_head_channels"]
        d = c // heads
        h = self.norm(at + ".norm", x).reshape(n, c, -1)
        h = F.conv1d(h, self.p(at + ".qkv.weight", 3 * c, c, 1), self.p(at + ".qkv.bias", 3 * c))
        parts = []
        for head in range(heads):
            if self.o["attention_order"] == "legacy":
                q, k, v = (h[:, 3 * d * head + d * i:3 * d * head + d * (i + 1)] for i in range(3))
            else:
                q, k, v = (h[:, c * i + d * head:c * i + d * (head + 1)] for i in range(3))
            scale = d ** -0.25
            weight = torch.softmax((q * scale).transpose(1, 2) @ (k * scale), dim=2)  # [n, to, from]
            parts.append(v @ weight.transpose(1, 2))
        h = F.conv1d(torch.cat(parts, 1), self.p(at + ".proj_out.weight", c, c, 1),
                     self.p(at + ".proj_out.bias", c))
        return x + h.reshape(n, c, height, width)

    def embedding(self, t, y):
        c = self.o["num_channels"]
        frequency = torch.exp(-math.log(10000) * torch.arange(c // 2, dtype=torch.float32) / (c // 2))
        angle = t[:, None] * frequency[None]
        e = torch.cat([angle.cos(), angle.sin()] + [torch.zeros(len(t), 1)] * (c % 2), 1)
        e = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", e, 4 * c)), 4 * c)
        if self.o["num_classes"]:
            e = e + self.p("label_emb.weight", self.o["num_classes"], 4 * c)[y]
        return e

    def __call__(self, x, t, y=None, low_res=None):
        o = self.o
        image, channels = x.shape[2], x.shape[1]
        widths = [int(m * o["num_channels"]) for m in o["channel_mult"]]
        rates = [image // r for r in o["attention_resolutions"]]
        up_heads = o["num_heads"] if o["num_heads_upsample"] < 0 else o["num_heads_upsample"]
        emb = self.embedding(t, y)
        halve, double = lambda x: F.avg_pool2d(x, 2), lambda x: F.interpolate(x, scale_factor=2)
        if o["small_size"]:
            low_res = F.interpolate(low_res, (image, image), mode="bilinear", align_corners=False)
            x = torch.cat([x, low_res], 1)

        h = self.conv("input_blocks.0.0", x, widths[0], 3)
        skips = [h]
        for level, width in enumerate(widths):
            for _ in range(o["num_res_blocks"]):
                at = f"input_blocks.{len(skips)}"
                h = self.residual(at + ".0", h, emb, width)
                if 2**level in rates:
                    h = self.attention(at + ".1", h, o["num_heads"])
                skips.append(h)
            if level + 1 < len(widths):
                at = f"input_blocks.{len(skips)}.0"
                if o["resblock_updown"]:
                    h = self.residual(at, h, emb, width, halve)
                else:
                    h = self.conv(at + ".op", h, width, 3, 2) if o["conv_resample"] else halve(h)
                skips.append(h)
        h = self.residual("middle_block.0", h, emb, widths[-1])
        h = self.attention("middle_block.1", h, o["num_heads"])
        h = self.residual("middle_block.2", h, emb, widths[-1])
        block = 0
        for level, width in reversed(list(enumerate(widths))):
            for i in range(o["num_res_blocks"] + 1):
                at, layer = f"output_blocks.{block}", 1
                h = self.residual(at + ".0", torch.cat([h, skips.pop()], 1), emb, width)
                if 2**level in rates:
                    h = self.attention(f"{at}.{layer}", h, up_heads)
                    layer += 1
                if level and i == o["num_res_blocks"]:
                    if o["resblock_updown"]:
                        h = self.residual(f"{at}.{layer}", h, emb, width, double)
                    else:
                        h = double(h)
                        if o["conv_resample"]:
                            h = self.conv(f"{at}.{layer}.conv", h, width, 3)
                block += 1
        return self.conv("out.2", F.silu(self.norm("out.0", h)), o["learned"] * channels, 3)


# ------------------------------------------------------------------- chains

T, KEPT = 100, [0, 25, 50, 74, 99]  # steps = 5 of 100
BETA = (1e-4, 0.1)


def tables():
    """Of the kept steps: ᾱ, ᾱ of the step before, β, and the variances small and large."""
    whole = np.cumprod(1 - np.linspace(*BETA, T, dtype=np.float64))
    bar = whole[KEPT]
    before = np.append(1.0, bar[:-1])
    beta = 1 - bar / before
    small = beta * (1 - before) / (1 - bar)
    small[0] = small[1]
    return bar, before, beta, small, np.append(small[1], beta[1:])


def chain(net, sampler, x, noise, y, low_res):
    """x_0 after five steps; x_0 estimates clamped, except where the network predicts the mean."""
    bar, before, beta, small, large = tables()
    c = x.shape[1]
    for k, i in enumerate(reversed(range(len(KEPT)))):
        t = torch.full((len(x),), float(KEPT[i]))
        if net.o["rescale_timesteps"]:
            t = t * (1000.0 / T)
        out = net(x.float(), t, y, low_res).double()
        out, extra = out[:, :c], out[:, c:]
        x = x.double()
        c1 = beta[i] * math.sqrt(before[i]) / (1 - bar[i])
        c2 = (1 - before[i]) * math.sqrt(1 - beta[i]) / (1 - bar[i])
        signal, sigma = math.sqrt(bar[i]), math.sqrt(1 - bar[i])
        x0 = {"eps": lambda: (x - sigma * out) / signal, "x0": lambda: out,
              "v": lambda: signal * x - sigma * out, "mean": lambda: None}[net.o["predict"]]()
        x0 = None if x0 is None else x0.clamp(-1, 1)
        mean = out if x0 is None else c1 * x0 + c2 * x
        if sampler == "ddim":
            eps = (x - signal * x0) / sigma
            x = math.sqrt(before[i]) * x0 + math.sqrt(1 - before[i]) * eps
        else:
            if sampler == "small":
                logvar = torch.full_like(x, math.log(small[i]))
            elif sampler == "large":
                logvar = torch.full_like(x, math.log(large[i]))
            elif net.o["sigma"] == "logvar":
                logvar = extra
            else:
                f = (extra + 1) / 2
                logvar = f * math.log(beta[i]) + (1 - f) * math.log(small[i])
            x = mean + (i > 0) * torch.exp(logvar / 2) * noise[k].double()
        x = x.float()
    return x


# -------------------------------------------------------------- likelihoods

def normal_cdf(x):
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def bits(net, x0, y):
    """[N, steps] vb, xstart_mse and mse in the order of evaluation, t falling, and [N] prior_bpd of
    one batch; noise is PyTorch's own stream, one draw for each t."""
    bar, before, beta, small, _ = tables()
    mean = lambda value: value.mean((1, 2, 3))
    columns = {"vb": [], "xstart_mse": [], "mse": []}
    for i in reversed(range(len(KEPT))):
        noise = torch.randn(x0.shape)
        signal, sigma = math.sqrt(bar[i]), math.sqrt(1 - bar[i])
        x = np.float32(signal) * x0 + np.float32(sigma) * noise
        t = torch.full((len(x),), KEPT[i] * (1000.0 / T))
        out, v = net(x, t, y).double().chunk(2, 1)
        x, truth = x.double(), x0.double()
        guess = ((x - sigma * out) / signal).clamp(-1, 1)
        c1 = beta[i] * math.sqrt(before[i]) / (1 - bar[i])
        c2 = (1 - before[i]) * math.sqrt(1 - beta[i]) / (1 - bar[i])
        f = (v + 1) / 2
        logvar = f * math.log(beta[i]) + (1 - f) * math.log(small[i])
        away = c1 * (truth - guess)  # between the means of q and p, which share c2·x
        if i > 0:
            log_q = math.log(small[i])
            nats = 0.5 * (logvar - log_q - 1 + torch.exp(log_q - logvar) + away**2 / logvar.exp())
        else:
            scale, centred = torch.exp(-0.5 * logvar), truth - c1 * guess - c2 * x
            low, high = (normal_cdf(scale * (centred + s / 255)) for s in (-1, 1))
            inner = torch.where(truth > 0.999, 1 - low, high - low)
            nats = -torch.where(truth < -0.999, high, inner).clamp(min=1e-12).log()
        columns["vb"].append(mean(nats) / math.log(2))
        columns["xstart_mse"].append(mean((guess - truth) ** 2))
        columns["mse"].append(mean(((x - signal * guess) / sigma - noise) ** 2))
    result = {name: torch.stack(column, 1) for name, column in columns.items()}
    log_q = math.log(1 - bar[-1])
    prior = 0.5 * (-1 - log_q + math.exp(log_q) + bar[-1] * x0.double() ** 2)
    result["prior_bpd"] = mean(prior) / math.log(2)
    result["total_bpd"] = result["vb"].sum(1) + result["prior_bpd"]
    return result


# -------------------------------------------------------------------- files

def save(name, tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for key, tensor in tensors.items():
        array = tensor.detach().numpy()
        kind = {"float32": "F32", "int64": "I64"}[str(array.dtype)]
        raw = np.ascontiguousarray(array).tobytes()
        header[key] = {"dtype": kind, "shape": list(array.shape),
                       "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def ini_value(value):
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def describe(image, sampler, options):
    ini = f"""[schedule]
use = linear
steps = {T}
[schedule.linear]
beta_start = {BETA[0]}
beta_end = {BETA[1]}
[network]
use = unet
[network.unet]
image_size = {image}
"""
    ini += "".join(f"{key} = {ini_value(value)}\n" for key, value in options.items())
    return ini + f"[sampler]\nuse = {sampler}\n"


def save_golden(name, net, tensors, ini):
    keys = "".join(f"{key} {ini_value(list(value.shape))}\n" for key, value in net.parameters.items())
    save(name, tensors, {"ini": ini, "keys": keys})


def make(name, image, channels, sampler, **options):
    torch.manual_seed(len(name))
    net = Unet(**options)
    n = 2
    shape = (n, channels, image, image)
    tensors = {"x": torch.randn(shape), "t_network": torch.tensor([3.0, 740.5]),
               "x_T": torch.randn(shape), "noise": torch.randn(len(KEPT), *shape)}
    if net.o["num_classes"]:
        tensors["y"] = torch.tensor([1, net.o["num_classes"] - 1])
    if net.o["small_size"]:
        tensors["low_res"] = torch.rand(n, channels, *[net.o["small_size"]] * 2) * 2 - 1
    y, low_res = tensors.get("y"), tensors.get("low_res")
    with torch.no_grad():
        tensors["out"] = net(tensors["x"], tensors["t_network"], y, low_res)
        tensors["x_0"] = chain(net, sampler, tensors["x_T"], tensors["noise"], y, low_res)
    use = {"small": "ddpm", "large": "ddpm", "learned": "learned-sigma", "ddim": "ddim"}[sampler]
    ini = describe(image, use, options)
    if use == "ddpm":
        ini += f"[sampler.ddpm]\nvariance = {sampler}\n"
    ini += f"[sample]\nsteps = {len(KEPT)}\nimages = {n}\n"
    if y is not None:
        ini += f"labels = {ini_value(y.tolist())}\n"
    save_golden(name, net, tensors, ini)
    print(f"{name}: max|out| {tensors['out'].abs().max():.3f}")


def make_likelihood(name, image, sizes, seed, **options):
    """Batches of these sizes, one after the other as a process would evaluate them."""
    net, n = Unet(**options), sum(sizes)
    rng = np.random.default_rng(seed)
    pixels = rng.choice([0, 1, 100, 101, 180, 254, 255], (n, 3, image, image))
    x0 = torch.from_numpy((pixels / np.float32(127.5) - 1).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, options["num_classes"], n))
    torch.manual_seed(seed)
    with torch.no_grad():
        parts = [bits(net, *batch) for batch in zip(x0.split(sizes), y.split(sizes))]
    tensors = {key: torch.cat([part[key] for part in parts]).float() for key in parts[0]}
    ini = describe(image, "learned-sigma", options)
    ini += f"[sample]\nsteps = {len(KEPT)}\nseed = {seed}\nbatch = {sizes[0]}\n"
    save_golden(name, net, {"x_0": x0, "y": y, **tensors}, ini + "[noise]\nsource = torch-cpu\n")
    print(f"{name}: {tensors['total_bpd'].tolist()}")


make("guided-updown", 8, 3, "learned", num_channels=32, num_res_blocks=1, channel_mult=[1, 1],
     attention_resolutions=[4], resblock_updown=True, attention_order="new", num_head_channels=8,
     num_classes=5, learn_sigma=True, sigma="logvar", rescale_timesteps=False)
make("pooling", 8, 1, "small", num_channels=32, num_res_blocks=2, channel_mult=[1, 1],
     attention_resolutions=[8, 4], conv_resample=False, use_scale_shift_norm=False, num_heads=2,
     num_heads_upsample=4, predict="x0")
make("upsampler", 8, 3, "learned", num_channels=32, num_res_blocks=1, channel_mult=[1, 1],
     attention_resolutions=[4], num_heads=1, small_size=3, num_classes=3, learn_sigma=True)
make("odd-embedding", 4, 3, "ddim", num_channels=33, num_res_blocks=1, channel_mult=[0.9697, 1.9394],
     attention_resolutions=[4], attention_order="new", num_heads=4, predict="v")
make("updown-legacy", 8, 3, "large", num_channels=32, num_res_blocks=2, channel_mult=[1, 1, 1],
     attention_resolutions=[4], resblock_updown=True, num_heads=4, use_scale_shift_norm=False,
     predict="mean")
make_likelihood("likelihood", 8, [2, 1], 11, num_channels=32, num_res_blocks=1, channel_mult=[1, 1],
                attention_resolutions=[4], num_heads=2, num_classes=3, learn_sigma=True)
