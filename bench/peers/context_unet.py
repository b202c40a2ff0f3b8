#!/usr/bin/env python3
"""demist beside PyTorch eager on a ContextUnet checkpoint: cold start, and time per evaluation.

    bench/peers/context_unet.py CHECKPOINT.pth --demist build/tools/demist [--threads 2] [--runs 7]

Both sides sample 4 images with DDIM in 20 steps from a cold process (medians of whole wall
times), and a warm chain is timed per step at several batches. The results are compared too: both
start from the same x_T. The PyTorch model below is written for this benchmark; its first block has
no shortcut, as demist's `shortcut = zero`.
"""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time

from peerlib import cpu_name, run, write_safetensors

T, BETA = 500, (1e-4, 0.02)

INI = """[schedule]
use = linear
steps = 500
[schedule.linear]
beta_start = 1e-4
beta_end = 0.02
indexing = one
[network]
use = context-unet
checkpoint = {checkpoint}
[sampler]
use = ddim
[sample]
steps = trailing{steps}
images = {images}
batch = {images}
[noise]
source = file
file = {noise}
[output]
dir = {out}
formats = npy
"""


def build(torch):
    nn = torch.nn

    def block(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 3, 1, 1), nn.BatchNorm2d(o), nn.GELU())

    class Double(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.conv1, self.conv2 = block(i, o), block(o, o)

        def forward(self, x):
            return self.conv2(self.conv1(x))

    class Stack(nn.Module):
        def __init__(self, *layers):
            super().__init__()
            self.model = nn.Sequential(*layers)

        def forward(self, x):
            return self.model(x)

    def embed(i, o):
        return Stack(nn.Linear(i, o), nn.GELU(), nn.Linear(o, o))

    class Net(nn.Module):
        def __init__(self, n, c, h, channels=3):
            super().__init__()
            self.n = n
            self.init_conv = Double(channels, n)
            self.down1 = Stack(Double(n, n), Double(n, n), nn.MaxPool2d(2))
            self.down2 = Stack(Double(n, 2 * n), Double(2 * n, 2 * n), nn.MaxPool2d(2))
            self.to_vec = nn.Sequential(nn.AvgPool2d(4), nn.GELU())
            self.timeembed1, self.timeembed2 = embed(1, 2 * n), embed(1, n)
            self.contextembed1, self.contextembed2 = embed(c, 2 * n), embed(c, n)
            self.up0 = nn.Sequential(
                nn.ConvTranspose2d(2 * n, 2 * n, h // 4, h // 4), nn.GroupNorm(8, 2 * n), nn.ReLU()
            )
            self.up1 = Stack(nn.ConvTranspose2d(4 * n, n, 2, 2), Double(n, n), Double(n, n))
            self.up2 = Stack(nn.ConvTranspose2d(2 * n, n, 2, 2), Double(n, n), Double(n, n))
            self.out = nn.Sequential(
                nn.Conv2d(2 * n, n, 3, 1, 1), nn.GroupNorm(8, n), nn.ReLU(),
                nn.Conv2d(n, channels, 3, 1, 1),
            )

        def forward(self, x, t, c):
            x = self.init_conv(x) / 1.414
            d1 = self.down1(x)
            d2 = self.down2(d1)
            v = self.to_vec(d2)
            as_map = lambda e: e[:, :, None, None]
            u = self.up0(v)
            u = as_map(self.contextembed1(c)) * u + as_map(self.timeembed1(t))
            u = self.up1(torch.cat((u, d2), 1))
            u = as_map(self.contextembed2(c)) * u + as_map(self.timeembed2(t))
            u = self.up2(torch.cat((u, d1), 1))
            return self.out(torch.cat((u, x), 1))

    return Net


def load(torch, checkpoint):
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    n = state["init_conv.conv1.0.weight"].shape[0]
    c = state["contextembed1.model.0.weight"].shape[1]
    net = build(torch)(n, c, 4 * state["up0.0.weight"].shape[2])
    net.load_state_dict(state)
    return net.eval(), c, 4 * state["up0.0.weight"].shape[2]


def ddim(torch, net, x, c, steps):
    beta = torch.linspace(BETA[0], BETA[1], T + 1, dtype=torch.float64)
    alpha_bar = torch.cumsum(torch.log(1 - beta), 0).exp()
    alpha_bar[0] = 1
    for i in range(T, 0, -(T // steps)):
        a, a1 = float(alpha_bar[i]), float(alpha_bar[i - T // steps])
        t = torch.full((len(x), 1), i / T)
        eps = net(x, t, c)
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = a1**0.5 * x0 + (1 - a1) ** 0.5 * eps
    return x


def torch_side(args):
    """One process of PyTorch: samples, writes the result, prints the seconds a step takes."""
    import numpy
    import torch

    torch.set_num_threads(args.threads)
    net, c, h = load(torch, args.checkpoint)
    x = torch.from_numpy(numpy.load(args.noise))
    with torch.inference_mode():
        context = torch.zeros(len(x), c)
        result = ddim(torch, net, x, context, args.steps)
        seconds = []
        for _ in range(args.repeat):
            start = time.perf_counter()
            ddim(torch, net, x, context, args.steps)
            seconds.append((time.perf_counter() - start) / args.steps)
    numpy.save(args.result, result.numpy())
    print(statistics.median(seconds) if seconds else 0)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("checkpoint")
    p.add_argument("--demist", default="demist")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--runs", type=int, default=7)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--torch-side", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--noise", help=argparse.SUPPRESS)
    p.add_argument("--result", help=argparse.SUPPRESS)
    p.add_argument("--repeat", type=int, default=0, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.torch_side:
        return torch_side(args)

    import numpy

    env = dict(os.environ, OPENBLAS_NUM_THREADS="1")
    print(f"{cpu_name()}; {args.threads} threads; DDIM, {args.steps} steps; medians of {args.runs}")
    with tempfile.TemporaryDirectory() as work:
        for images in (1, 4, 16):
            noise = numpy.random.default_rng(0).standard_normal((images, 3, 16, 16), numpy.float32)
            numpy.save(f"{work}/x.npy", noise)
            write_safetensors(f"{work}/x.safetensors", {"x_T": noise})
            with open(f"{work}/run.ini", "w") as f:
                f.write(INI.format(checkpoint=os.path.abspath(args.checkpoint), steps=args.steps,
                                   images=images, noise=f"{work}/x.safetensors", out=work))
            ours = [args.demist, "sample", f"{work}/run.ini", "--quiet", "--overwrite",
                    "--threads", str(args.threads)]
            theirs = [sys.executable, os.path.abspath(__file__), args.checkpoint, "--torch-side",
                      "--threads", str(args.threads), "--noise", f"{work}/x.npy",
                      "--result", f"{work}/torch.npy", "--steps", str(args.steps)]
            cold = {"demist": [], "torch": []}
            for _ in range(args.runs): # alternately, so that both see the same machine
                cold["demist"].append(run(ours)[0])
                cold["torch"].append(run(theirs, env=env)[0])
            difference = abs(numpy.load(f"{work}/samples.npy") - numpy.load(f"{work}/torch.npy")).max()
            step = float(run(theirs + ["--repeat", str(args.runs)], env=env)[1])
            chain = json.loads(run([args.demist, "bench", f"{work}/run.ini", "--backends", "cpu",
                                     "--json", "--threads", str(args.threads)])[1])
            ours_step = chain["backends"][0]["ms_per_step"]
            a, b = (statistics.median(cold[k]) for k in ("demist", "torch"))
            print(f"batch {images:2}: cold process {a:6.3f} s, PyTorch {b:6.3f} s ({b / a:4.1f} times); "
                  f"a step {ours_step:6.2f} ms, PyTorch {1e3 * step:6.2f} ms "
                  f"({1e3 * step / ours_step:4.2f} times); results differ by {difference:.1e}")


if __name__ == "__main__":
    main()
