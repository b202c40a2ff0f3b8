"""The U-Net of improved-diffusion and guided-diffusion in PyTorch's own layers, for benchmarks.

Written for this project after the names and shapes of the checkpoints' tensors; `UNet(**flags)` takes
the flags of the original scripts by demist's names, and `load_state_dict` a checkpoint as it is.
Attention is PyTorch's fused one.
"""
import math

import torch
from torch import nn
from torch.nn import functional as F

MULT = {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4),
        64: (1, 2, 3, 4), 32: (1, 2, 2, 2)}


def default_mult(image_size, small_size=0):
    return MULT[256 if image_size == 512 and small_size else image_size]


def halve(x):
    return F.avg_pool2d(x, 2)


def double(x):
    return F.interpolate(x, scale_factor=2, mode='nearest')


class Residual(nn.Module):
    """resample: what changes the resolution within the block, if anything does."""

    def __init__(self, channels, out, embedding, scale_shift, resample=None):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(),
                                       nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out * (1 + scale_shift)))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, out), nn.SiLU(), nn.Identity(),
                                        nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        self.scale_shift = scale_shift
        self.resample = resample

    def forward(self, x, embedding):
        e = self.emb_layers(embedding)[:, :, None, None]
        if self.resample is None:
            h = self.in_layers(x)
        else:
            h = self.in_layers[2](self.resample(self.in_layers[:2](x)))
            x = self.resample(x)
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[1:](h)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    def __init__(self, channels, heads, order):
        super().__init__()
        self.heads = heads
        self.legacy = order == 'legacy'
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        n, c, height, width = x.shape
        flat = x.reshape(n, c, -1)
        qkv = self.qkv(self.norm(flat))
        if self.legacy:  # [head][q|k|v], else [q|k|v][head]
            qkv = qkv.reshape(n, self.heads, 3, c // self.heads, -1).permute(2, 0, 1, 4, 3)
        else:
            qkv = qkv.reshape(n, 3, self.heads, c // self.heads, -1).permute(1, 0, 2, 4, 3)
        q, k, v = qkv  # [n, heads, tokens, c / heads]
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, c, -1)
        return (flat + self.proj_out(h)).reshape(n, c, height, width)


class Down(nn.Module):
    def __init__(self, channels, conv):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else nn.AvgPool2d(2)

    def forward(self, x):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels, conv):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else nn.Identity()

    def forward(self, x):
        return self.conv(double(x))


class Block(nn.Sequential):
    def forward(self, x, embedding):
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, Residual) else layer(x)
        return x


class UNet(nn.Module):
    """out [N, C or 2C, S, S] of x [N, C, S, S], time [N] (as the network wants it), y [N] of a
    class-conditional network, and low_res [N, C, s, s] of one for super-resolution."""

    def __init__(self, image_size=64, num_channels=128, num_res_blocks=2,
                 attention_resolutions=(16, 8), num_heads=4, num_heads_upsample=-1,
                 learn_sigma=False, num_classes=0, use_scale_shift_norm=True, channel_mult=None,
                 channels=3, num_head_channels=-1, attention_order='legacy', resblock_updown=False,
                 conv_resample=True, small_size=0):
        super().__init__()
        up_heads = num_heads if num_heads_upsample == -1 else num_heads_upsample
        mult = channel_mult or default_mult(image_size, small_size)
        widths = [int(m * num_channels) for m in mult]
        embedding = 4 * num_channels
        self.num_channels = num_channels
        self.time_embed = nn.Sequential(nn.Linear(num_channels, embedding), nn.SiLU(),
                                        nn.Linear(embedding, embedding))
        self.label_emb = nn.Embedding(num_classes, embedding) if num_classes else None
        attends = {image_size // r for r in attention_resolutions}

        def residual(c, out, resample=None):
            return Residual(c, out, embedding, use_scale_shift_norm, resample)

        def attention(c, heads):
            return Attention(c, c // num_head_channels if num_head_channels > 0 else heads,
                             attention_order)

        def block(c, out, rate, heads):
            return [residual(c, out)] + ([attention(out, heads)] if rate in attends else [])

        c, rate = widths[0], 1
        first = nn.Conv2d(channels * (2 if small_size else 1), c, 3, padding=1)
        self.input_blocks = nn.ModuleList([Block(first)])
        skips = [c]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Block(*block(c, width, rate, num_heads)))
                c = width
                skips.append(c)
            if level < len(widths) - 1:
                self.input_blocks.append(Block(residual(c, c, halve) if resblock_updown
                                               else Down(c, conv_resample)))
                skips.append(c)
                rate *= 2
        self.middle_block = Block(residual(c, c), attention(c, num_heads), residual(c, c))
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                layers = block(c + skips.pop(), width, rate, up_heads)
                c = width
                if level and i == num_res_blocks:
                    layers.append(residual(c, c, double) if resblock_updown
                                  else Up(c, conv_resample))
                    rate //= 2
                self.output_blocks.append(Block(*layers))
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(),
                                 nn.Conv2d(c, channels * (1 + learn_sigma), 3, padding=1))

    def forward(self, x, time, y=None, low_res=None):
        half = self.num_channels // 2
        angle = time.float()[:, None] * torch.exp(
            torch.arange(half, dtype=torch.float32, device=x.device) * (-math.log(10000) / half))
        embedding = F.pad(torch.cat([angle.cos(), angle.sin()], 1), (0, self.num_channels % 2))
        embedding = self.time_embed(embedding.to(x.dtype))
        if y is not None:
            embedding = embedding + self.label_emb(y)
        if low_res is not None:
            x = torch.cat([x, F.interpolate(low_res, x.shape[2:], mode='bilinear')], 1)
        skips, h = [], x
        for layers in self.input_blocks:
            h = layers(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for layers in self.output_blocks:
            h = layers(torch.cat([h, skips.pop()], 1), embedding)
        return self.out(h)
