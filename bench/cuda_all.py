#!/usr/bin/env python3
"""The CUDA backend on a machine with an NVIDIA GPU, in one call: build, check, time. Prints Markdown;
behind it, what failed. Exit status 1 if a check failed.

    bench/cuda_all.py [--build build-cuda] [--batches 1,16,64,256] [--precisions tf32,bf16]
                      [--networks cifar,imagenet64] [--budget 460] [--only build,ops,…]

Parts, each left out with a line when its time would be over the budget (seconds, all together):

    build      meson and ninja, release
    ops        every op in every precision against the reference; the contract of demist/backend.h
    chains     reference chains in float32 (DEMIST_TEST_DATA; skipped without)
    sanitizer  compute-sanitizer memcheck and racecheck over the ops, where it is installed
    compare    demist compare on a U-Net: cpu, cuda in each precision, opencl where it has a GPU
    speed      images/s of the U-Nets of improved-diffusion, as `demist bench` tells them (whole steps of
               DDIM), beside PyTorch eager (channels_last, autocast) and torch.compile with
               mode=max-autotune, on the same random weights, if PyTorch with CUDA is installed

The share of the peak is of what `demist bench` measures for a large product on the same device.
Predictions and results belong into bench/cuda-notes.md.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import cpu_peers  # noqa: E402  (the same networks, checkpoints and INI files)

TOP = os.path.dirname(HERE)
PARTS = ["build", "ops", "chains", "sanitizer", "compare", "speed"]
PRECISIONS = ["f32", "strict", "tf32", "bf16", "f16"]
TORCH = r"""
import json, statistics, sys, time
sys.path.insert(0, sys.argv[1])
import torch, unet
mode, precision, flags, weights, batches, seconds = json.loads(sys.argv[2])
torch.set_grad_enabled(False)
torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
model = unet.UNet(**flags).eval()
model.load_state_dict(torch.load(weights))
model = model.cuda().to(memory_format=torch.channels_last)
if mode == "compile":
    model = torch.compile(model, mode="max-autotune")
cast = {"bf16": torch.bfloat16, "f16": torch.float16}.get(precision)
for batch in batches:
    x = torch.randn(batch, 3, flags["image_size"], flags["image_size"], device="cuda")
    x = x.contiguous(memory_format=torch.channels_last)
    t = torch.arange(batch, device="cuda", dtype=torch.float32)
    try:
        with torch.inference_mode(), torch.autocast("cuda", cast, enabled=cast is not None):
            for _ in range(4):
                model(x, t)
            torch.cuda.synchronize()
            times, end = [], time.monotonic() + seconds
            while len(times) < 5 or (time.monotonic() < end and len(times) < 200):
                start = time.perf_counter()
                model(x, t)
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        print(json.dumps([batch, batch / statistics.median(times)]), flush=True)
    except torch.cuda.OutOfMemoryError:
        print(json.dumps([batch, None]), flush=True)
"""


class Run:
    def __init__(self, args):
        self.args, self.end, self.failures = args, time.monotonic() + args.budget, []

    def left(self):
        return self.end - time.monotonic()

    def call(self, title, command, limit, **kw):
        """Its output, or None; what fails is told at the end. A limit that is passed is no failure."""
        limit = min(limit, self.left())
        if limit < 5:
            print(f"- {title}: left out, no time")
            return None
        start = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=TOP, **kw)
        except subprocess.TimeoutExpired:
            print(f"- {title}: stopped after {limit:.0f} s")
            return None
        except OSError as e:
            print(f"- {title}: FAILED, {e}")
            self.failures.append((title, str(e)))
            return None
        took = time.monotonic() - start
        if done.returncode == 77:
            print(f"- {title}: skipped: {(done.stdout.strip().splitlines() or ['?'])[-1]}")
            return None
        print(f"- {title}: {'ok' if done.returncode == 0 else 'FAILED'}, {took:.1f} s")
        if done.returncode != 0:
            self.failures.append((title, (done.stdout + done.stderr)[-3000:]))
            return None
        return done.stdout

    # --- parts ---

    def build(self):
        b = self.args.build
        if not os.path.exists(f"{b}/build.ninja"):
            self.call("meson", ["meson", "setup", b, "-Dcuda=enabled", "-Dbuildtype=release"], 60)
        self.call("ninja", ["ninja", "-C", b], 240)

    def ops(self):
        for precision in PRECISIONS:
            self.call(f"ops, {precision}", [f"{self.args.build}/tests/test_backend_ops_cuda", precision,
                                            "tuning=off"], 60)
        self.call("ops, bf16, measured choices",
                  [f"{self.args.build}/tests/test_backend_ops_cuda", "bf16", "cache=off"], 60)
        self.call("contract", [f"{self.args.build}/tests/test_backend_contract_cuda"], 60)

    def chains(self):
        env = dict(os.environ, DEMIST_TEST_BACKEND="cuda", DEMIST_TEST_OPTION="tuning=off")
        for name in ("test_reference_chains", "test_unet_goldens"):
            self.call(name, [f"{self.args.build}/tests/pipelines/{name}"], 90, env=env)

    def sanitizer(self):
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not os.path.exists(tool):
            return print("- compute-sanitizer: left out, it is not installed")
        for check in ("memcheck", "racecheck"):
            for precision in ("f32", "bf16"):
                self.call(f"{check}, {precision}",
                          [tool, "--tool", check, "--error-exitcode", "9",
                           f"{self.args.build}/tests/test_backend_ops_cuda", precision, "tuning=off"],
                          45)

    def demist(self, *words, limit=60, title=None):
        command = [f"{self.args.build}/tools/demist", *words, "--plugin-path",
                   f"{self.args.build}/plugins/modules"]
        return self.call(title or " ".join(words[:1]), command, limit)

    def ini(self, network, precision, batch):
        # cpu_peers writes INI files for the CPU: the backend is named on the command line.
        return cpu_peers.write_ini(argparse.Namespace(folder=self.folder, network=network,
                                                      precision=precision, batch=batch), 8)

    def networks(self):
        if not self.has_torch():
            print("- checkpoints of random weights: left out, there is no PyTorch to write them")
            return []
        for network in self.args.networks:
            cpu_peers.make_network(network, self.folder)
        return self.args.networks

    def compare(self):
        for network in self.names[:1]:
            sides = ["cpu:f32", "cuda:f32", "cuda:tf32", "cuda:bf16", "cuda:f16"]
            devices = self.demist("devices", title="devices") or ""
            print("```\n" + devices.strip() + "\n```")
            if ", GPU" in devices.partition("backend opencl")[2].partition("backend")[0]:
                sides.append("opencl:f32")
            out = self.demist("compare", self.ini(network, "f32", 4), "--backends", ",".join(sides),
                              title="compare " + ",".join(sides), limit=120)
            print("```\n" + (out or "").strip() + "\n```")

    def speed(self):
        for network in self.names:
            print(f"\n**{cpu_peers.NETWORKS[network]['title']}**, images/s\n")
            print("| precision | engine | " + " | ".join(f"batch {b}" for b in self.args.batches) + " |")
            print("|---|---|" + "---|" * len(self.args.batches), flush=True)
            for precision in self.args.precisions:
                self.row(precision, "demist", self.demist_speed(network, precision))
                for mode in ("eager", "compile"):
                    self.row(precision, f"PyTorch {mode}", self.torch_speed(network, precision, mode))

    def row(self, precision, engine, cells):
        print(f"| {precision} | {engine} | " +
              " | ".join(cells.get(b, "–") for b in self.args.batches) + " |", flush=True)

    def demist_speed(self, network, precision):
        cells = {}
        for batch in self.args.batches:
            if self.left() < 10:
                break
            done = subprocess.run(
                [f"{self.args.build}/tools/demist", "bench", self.ini(network, precision, batch), "--json",
                 "--backends", f"cuda:{precision}", "--plugin-path", f"{self.args.build}/plugins/modules"],
                capture_output=True, text=True, timeout=max(5, min(60, self.left())))
            if done.returncode != 0:
                self.failures.append((f"bench {network} {precision} {batch}", done.stderr[-1500:]))
                continue
            side = next(s for s in find(json.loads(done.stdout), "images_per_s"))
            share = 100 * side["gflops"] / side["peak_gflops"] if side.get("peak_gflops") else 0
            cells[batch] = f"{side['images_per_s']:.0f} ({share:.0f} % of peak)"
        return cells

    def torch_speed(self, network, precision, mode):
        cells = {}
        if self.left() < 20:
            return cells
        what = json.dumps([mode, precision, cpu_peers.flags_of(network), f"{self.folder}/{network}.pt",
                           self.args.batches, 2])
        try:
            out = subprocess.run([sys.executable, "-c", TORCH, f"{HERE}/peers", what], text=True,
                                 capture_output=True, timeout=self.left() - 5).stdout
        except subprocess.TimeoutExpired as late:
            out = (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        for line in out.splitlines():
            if line.startswith("["):
                batch, rate = json.loads(line)
                cells[batch] = f"{rate:.0f}" if rate else "out of memory"
        return cells

    def has_torch(self):
        code = "import torch, sys; sys.exit(not torch.cuda.is_available())"
        return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0

    def run(self):
        with tempfile.TemporaryDirectory() as self.folder:
            self.names = None
            for part in self.args.only:
                print(f"\n### {part}\n", flush=True)
                if part in ("compare", "speed") and self.names is None:
                    self.names = self.networks()
                getattr(self, part)()
        for title, text in self.failures:
            print(f"\n### FAILED: {title}\n\n```\n{text}\n```")
        return 1 if self.failures else 0


def find(value, key):
    """Every object in the value that has the key."""
    if isinstance(value, dict):
        if key in value:
            yield value
        for inner in value.values():
            yield from find(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from find(inner, key)


def main():
    words = lambda text: text.split(",")  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default=os.path.join(TOP, "build-cuda"))
    parser.add_argument("--batches", type=lambda s: [int(b) for b in s.split(",")], default=[1, 16, 64, 256])
    parser.add_argument("--precisions", type=words, default=["tf32", "bf16"])
    parser.add_argument("--networks", type=words, default=["cifar", "imagenet64"])
    parser.add_argument("--budget", type=float, default=460)
    parser.add_argument("--only", type=words, default=PARTS)
    args = parser.parse_args()
    args.build = os.path.abspath(args.build)
    sys.exit(Run(args).run())


if __name__ == "__main__":
    main()
