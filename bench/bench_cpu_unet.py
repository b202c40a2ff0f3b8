#!/usr/bin/env python3
"""PyTorch on the network, weights and input that bench_cpu_unet wrote: milliseconds, and the largest
difference from its output.

    bench_cpu_unet 2 isa=auto - unet.bin && OPENBLAS_NUM_THREADS=1 bench_cpu_unet.py unet.bin [THREADS]

The model is written against PyTorch's own layers, after the names of the parameters; eager float32,
contiguous and channels_last.
"""
import statistics
import sys
import time

import numpy as np
import torch
from torch.nn import functional as F


def read(path):
    tensors = {}
    with open(path, 'rb') as file:
        while line := file.readline():
            name, rank, *shape = line.decode().split()
            shape = [int(s) for s in shape]
            data = np.frombuffer(file.read(4 * int(np.prod(shape))), np.float32).reshape(shape)
            tensors[name] = torch.from_numpy(data.copy())
    return tensors


class Net:
    """The CIFAR-10 U-Net of improved-diffusion, evaluated layer by layer."""

    def __init__(self, p, channels_last):
        keep = torch.channels_last if channels_last else torch.contiguous_format
        self.p = {k: v.contiguous(memory_format=keep) if v.dim() == 4 else v for k, v in p.items()}

    def conv(self, at, x, **kw):
        w = self.p[at + '.weight']
        return F.conv2d(x, w, self.p[at + '.bias'], padding=w.shape[-1] // 2, **kw)

    def linear(self, at, x):
        return F.linear(x, self.p[at + '.weight'], self.p[at + '.bias'])

    def norm(self, at, x):
        return F.group_norm(x, 32, self.p[at + '.weight'], self.p[at + '.bias'], 1e-5)

    def residual(self, at, x, emb):
        h = self.conv(at + '.in_layers.2', F.silu(self.norm(at + '.in_layers.0', x)))
        scale, shift = self.linear(at + '.emb_layers.1', F.silu(emb))[..., None, None].chunk(2, 1)
        h = self.norm(at + '.out_layers.0', h) * (1 + scale) + shift
        h = self.conv(at + '.out_layers.3', F.silu(h))
        if at + '.skip_connection.weight' in self.p:
            x = self.conv(at + '.skip_connection', x)
        return x + h

    def attention(self, at, x):
        n, c, height, width = x.shape
        qkv = self.conv(at + '.qkv', self.norm(at + '.norm', x)).reshape(n * 4, -1, height * width)
        q, k, v = qkv.chunk(3, 1)
        scale = q.shape[1] ** -0.25
        weight = torch.softmax(torch.einsum('bct,bcs->bts', q * scale, k * scale), -1)
        h = torch.einsum('bts,bcs->bct', weight, v).reshape(n, c, height, width)
        return x + self.conv(at + '.proj_out', h)

    def block(self, at, h, emb):
        h = self.residual(at + '.0', h, emb)
        return self.attention(at + '.1', h) if at + '.1.qkv.weight' in self.p else h

    def __call__(self, x, t):
        angle = t[:, None] * torch.exp(-torch.arange(64) * (np.log(10000) / 64))
        emb = self.linear('time_embed.0', torch.cat([angle.cos(), angle.sin()], 1))
        emb = self.linear('time_embed.2', F.silu(emb))
        h = self.conv('input_blocks.0.0', x)
        skips, i = [h], 1
        while any(k.startswith(f'input_blocks.{i}.') for k in self.p):
            at = f'input_blocks.{i}'
            down = at + '.0.op'
            h = self.conv(down, h, stride=2) if down + '.weight' in self.p else self.block(at, h, emb)
            skips.append(h)
            i += 1
        h = self.residual('middle_block.0', h, emb)
        h = self.residual('middle_block.2', self.attention('middle_block.1', h), emb)
        i = 0
        while skips:
            at = f'output_blocks.{i}'
            h = self.block(at, torch.cat([h, skips.pop()], 1), emb)
            if at + '.2.conv.weight' in self.p:
                h = self.conv(at + '.2.conv', F.interpolate(h, scale_factor=2, mode='nearest'))
            i += 1
        return self.conv('out.2', F.silu(self.norm('out.0', h)))


def main():
    p = read(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    x, t, expected = p.pop('x'), p.pop('t'), p.pop('expected')
    with torch.inference_mode():
        out = Net(p, False)(x, t)
        print(f'torch {torch.__version__}: largest difference {(out - expected).abs().max():.2e}, '
              f'largest value {out.abs().max():.2e}')
        for last in False, True:
            net = Net(p, last)
            for n in 1, 4, 16:
                xs = x.repeat((n + 3) // 4, 1, 1, 1)[:n]
                xs = xs.contiguous(memory_format=torch.channels_last) if last else xs.contiguous()
                ts, times = t.repeat((n + 3) // 4)[:n], []
                for _ in range(4 if n > 4 else 8):
                    start = time.perf_counter()
                    net(xs, ts)
                    times.append(time.perf_counter() - start)
                layout = 'channels_last' if last else 'contiguous'
                print(f'{layout:13}  batch {n:2}: median {1e3 * statistics.median(times[1:]):7.1f} ms, '
                      f'best {1e3 * min(times):7.1f} ms')


main()
