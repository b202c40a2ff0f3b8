#!/usr/bin/env python3
"""demist beside PyTorch on the run that an INI file describes: how far apart, and how fast.

    bench/peers/unet_chain.py examples/crawl.ini --demist build/tools/demist [--set section.key=value]

Both sides read the same file (network unet; samplers ddpm, learned-sigma and ddim) and the same
checkpoint, and take the same noise. Compared are the network's outputs at states of PyTorch's chain
(`demist predict`), and every state of two chains that run freely (`demist sample`). PyTorch is timed
as it is, with channels last, and compiled; the best counts. The status is 1 where the network differs
by more than 2e-5 of its largest value, or a state of the chains by 1e-3 in the root mean square: that
is a wrong coefficient. Single pixels drift further apart, as where x_0 is a small difference of large
numbers a step enlarges what it inherits.

The model is the one in unet.py beside this file, or with --model original that of improved_diffusion
or guided_diffusion, if such a package is installed. Noise is that of the INI file where its source is
`file` or `torch-cpu`; else a file is made for both sides, as PyTorch has no Philox of these bits.
"""
import argparse
import configparser
import json
import math
import os
import statistics
import sys
import tempfile
import time

from peerlib import cpu_name, read_safetensors, run, write_safetensors

# What the keys of a run are without a value; a key that is not here must not be set.
DEFAULTS = {
    "schedule": {"use": None, "steps": "1000"},
    "schedule.linear": {"beta_start": "auto", "beta_end": "auto", "indexing": "zero"},
    "schedule.cosine": {"offset": "0.008", "max_beta": "0.999"},
    "network": {"use": None, "checkpoint": None, "prefix": ""},
    "network.unet": {
        "image_size": "64", "num_channels": "128", "num_res_blocks": "2", "channel_mult": "auto",
        "attention_resolutions": "16,8", "num_heads": "4", "num_heads_upsample": "-1",
        "num_head_channels": "-1", "attention_order": "legacy", "use_scale_shift_norm": "true",
        "resblock_updown": "false", "conv_resample": "true", "num_classes": "0",
        "null_class": "-1", "learn_sigma": "false", "sigma": "range", "predict": "eps",
        "predict_xstart": "false", "rescale_timesteps": "true", "small_size": "0", "dropout": "0"},
    "sampler": {"use": None},
    "sampler.ddpm": {"variance": "large"},
    "sampler.learned-sigma": {},
    "sampler.ddim": {"eta": "0"},
    "sample": {"steps": "", "leading_offset": "0", "images": "16", "first": "0", "batch": "auto",
               "seed": "0", "labels": "", "clip_denoised": "auto", "start": "normal",
               "guidance_scale": "1", "low_res": ""},
    "noise": {"source": "philox", "file": "", "draws": "improved"},
}
FIXED = {("sample", "first"): "0", ("sample", "start"): "normal", ("sample", "guidance_scale"): "1",
         ("noise", "draws"): "improved", ("schedule.linear", "indexing"): "zero"}


def fail(text):
    raise SystemExit(f"unet_chain: {text}")


class Run:
    """An INI file with overrides; get(section, key) is a text."""

    def __init__(self, path, overrides):
        self.folder = os.path.dirname(os.path.abspath(path))
        self.ini = configparser.ConfigParser(inline_comment_prefixes=(";",), interpolation=None,
                                             default_section="")
        with open(path) as f:
            self.ini.read_file(f)
        self.set = {}
        for override in overrides:
            name, value = override.split("=", 1)
            section, key = name.rsplit(".", 1)
            self.set[section, key] = value
        used = ["schedule", "network", "network.unet", "sampler", "sample", "noise",
                "schedule." + self.get("schedule", "use"), "sampler." + self.get("sampler", "use")]
        for section in used:
            if section not in DEFAULTS:
                fail(f"[{section}] is not among what is compared here")
            keys = set(self.ini[section] if self.ini.has_section(section) else [])
            for key in sorted(keys | {k for s, k in self.set if s == section}):
                if key not in DEFAULTS[section]:
                    fail(f"[{section}] {key} is not among what is compared here")
                wanted = FIXED.get((section, key))
                if wanted is not None and self.get(section, key) != wanted:
                    fail(f"[{section}] {key} is compared at {wanted} only")

    def get(self, section, key):
        if (section, key) in self.set:
            return self.set[section, key]
        value = self.ini.get(section, key, fallback=DEFAULTS.get(section, {}).get(key))
        return value if value is not None else fail(f"[{section}] {key} is missing")

    def path(self, section, key):
        value = self.get(section, key)
        return value if (section, key) in self.set else os.path.join(self.folder, value)

    def whole(self, section, key):
        return int(self.get(section, key))

    def true(self, section, key):
        return self.get(section, key) == "true"

    def numbers(self, section, key, kind=int):
        return [kind(item) for item in self.get(section, key).split(",")]


# ------------------------------------------------------------------- the process, in float64

def alpha_bars(r):
    import numpy as np

    T = r.whole("schedule", "steps")
    if r.get("schedule", "use") == "cosine":
        offset, most = (float(r.get("schedule.cosine", k)) for k in ("offset", "max_beta"))
        f = [math.cos((i / T + offset) / (1 + offset) * math.pi / 2) ** 2 for i in range(T + 1)]
        beta = np.minimum(1 - np.array(f[1:]) / np.array(f[:-1]), most)
    else:
        ends = []
        for key, end in (("beta_start", 1e-4), ("beta_end", 0.02)):
            value = r.get("schedule.linear", key)
            ends.append(end * 1000 / T if value == "auto" else float(value))
        beta = np.linspace(*ends, T)
    return np.cumprod(1 - beta)


def sections(T, counts):
    """As many steps of each of equal parts of 0 … T−1."""
    kept, start = [], 0
    for i, count in enumerate(counts):
        size = T // len(counts) + (i < T % len(counts))
        stride, at = (size - 1) / (count - 1) if count > 1 else 1, 0.0
        for _ in range(count):
            kept.append(start + round(at))
            at += stride
        start += size
    return kept


def kept_steps(r):
    """Rising indices."""
    T, spec = r.whole("schedule", "steps"), r.get("sample", "steps").strip()
    word = spec.rstrip("0123456789")
    if not spec:
        return list(range(T))
    if "," in spec or not word:
        return sections(T, [int(item) for item in spec.split(",")])
    n = int(spec[len(word):])
    if word == "ddim":
        return list(range(0, T, next(s for s in range(1, T) if len(range(0, T, s)) == n)))
    kept = {"leading": lambda i: i * (T // n) + r.whole("sample", "leading_offset"),
            "trailing": lambda i: round((n - i) * T / n) - 1,
            "linspace": lambda i: round(i * (T - 1) / max(n - 1, 1)),
            "quadratic": lambda i: 4 * T * i * i // (5 * max(n - 1, 1) ** 2)}
    if word not in kept:
        fail(f"[sample] steps = {spec} is not among what is compared here")
    return sorted(kept[word](i) for i in range(n))


def labels(r, n):
    if not r.whole("network.unet", "num_classes"):
        return None
    text = r.get("sample", "labels")
    if text.startswith("@"):
        with open(os.path.join(r.folder, text[1:])) as f:
            text = ",".join(line.split("#")[0] for line in f)
    listed = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        low, _, high = item.partition("-")
        listed.extend(range(int(low), int(high or low) + 1))
    return [listed[i % len(listed)] for i in range(n)]


def low_res(r, n):
    """[n, C, s, s] of the arr_0 of an .npz, or of a safetensors file's low_res."""
    import numpy as np

    if not r.whole("network.unet", "small_size"):
        return None
    path = r.path("sample", "low_res")
    if path.endswith(".npz"):
        images = np.load(path)["arr_0"].transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    else:
        images = read_safetensors(path)["low_res"]
    return np.stack([images[i % len(images)] for i in range(n)]).astype(np.float32)


# ------------------------------------------------------------------- PyTorch

def load_weights(torch, r):
    path, prefix = r.path("network", "checkpoint"), r.get("network", "prefix")
    if path.endswith(".safetensors"):
        state = {k: torch.from_numpy(v.copy()) for k, v in read_safetensors(path).items()}
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    for part in filter(None, prefix.split(".")):
        inner = {k[len(part) + 1:]: v for k, v in state.items() if k.startswith(part + ".")}
        state = state[part] if part in state else inner
    return {k: v.float() for k, v in state.items()}


def flags(r, channels):
    u = "network.unet"
    mult = r.get(u, "channel_mult")
    out = {key: r.whole(u, key) for key in
           ("image_size", "num_channels", "num_res_blocks", "num_heads", "num_heads_upsample",
            "num_head_channels", "num_classes", "small_size")}
    out |= {key: r.true(u, key) for key in
            ("learn_sigma", "use_scale_shift_norm", "resblock_updown", "conv_resample")}
    out["attention_resolutions"] = r.numbers(u, "attention_resolutions")
    out["channel_mult"] = None if mult == "auto" else r.numbers(u, "channel_mult", float)
    out["attention_order"] = r.get(u, "attention_order")
    out["channels"] = channels
    return out


def original(f):
    """UNetModel or SuperResModel of an installed package, with its own names for the flags."""
    from unet import default_mult

    guided = (f["num_head_channels"] > 0 or f["resblock_updown"] or f["attention_order"] == "new")
    mult = f["channel_mult"] or default_mult(f["image_size"], f["small_size"])
    options = dict(in_channels=f["channels"], model_channels=f["num_channels"],
                   out_channels=f["channels"] * (1 + f["learn_sigma"]),
                   num_res_blocks=f["num_res_blocks"], channel_mult=tuple(mult),
                   attention_resolutions=tuple(f["image_size"] // a
                                               for a in f["attention_resolutions"]),
                   conv_resample=f["conv_resample"], num_classes=f["num_classes"] or None,
                   num_heads=f["num_heads"], num_heads_upsample=f["num_heads_upsample"],
                   use_scale_shift_norm=f["use_scale_shift_norm"])
    for name in ("guided_diffusion",) if guided else ("improved_diffusion", "guided_diffusion"):
        try:
            module = __import__(name + ".unet").unet
        except ImportError:
            continue
        if name == "guided_diffusion":
            options |= dict(image_size=f["image_size"], num_head_channels=f["num_head_channels"],
                            resblock_updown=f["resblock_updown"],
                            use_new_attention_order=f["attention_order"] == "new")
        return (module.SuperResModel if f["small_size"] else module.UNetModel)(**options), name
    return fail("no package of the original is installed that has these flags")


class Chain:
    """The sampler of a run, one step at a time, on whole batches of float32."""

    def __init__(self, torch, r, net, device, y, low):
        import numpy as np

        self.torch, self.r, self.net, self.device = torch, r, net, device
        self.kept = kept_steps(r)
        bar = alpha_bars(r)[self.kept]
        before = np.append(1.0, bar[:-1])
        beta = 1 - bar / before
        small = beta * (1 - before) / (1 - bar)
        self.bar, self.before, self.beta = bar, before, beta
        self.small = np.append(small[1:2], small[1:])
        self.c1 = beta * np.sqrt(before) / (1 - bar)
        self.c2 = (1 - before) * np.sqrt(1 - beta) / (1 - bar)
        self.given = {}
        if y is not None:
            self.given["y"] = torch.tensor(y, device=device)
        if low is not None:
            self.given["low_res"] = torch.from_numpy(low).to(device)
        self.sampler = r.get("sampler", "use")
        self.predict = ("x0" if r.true("network.unet", "predict_xstart")
                        else r.get("network.unet", "predict"))
        self.clip = r.get("sample", "clip_denoised") != "false"

    def time(self, i):
        """What the network sees at kept step i."""
        t = float(self.kept[i])
        if self.r.true("network.unet", "rescale_timesteps"):
            t *= 1000.0 / self.r.whole("schedule", "steps")
        return t

    def evaluate(self, i, x):
        t = self.torch.full((len(x),), self.time(i), device=self.device)
        return self.net(x, t, **self.given)

    def step(self, i, x, z):
        """x at kept step i → the next x; z: standard normals."""
        signal, noise = math.sqrt(self.bar[i]), math.sqrt(1 - self.bar[i])
        out = self.evaluate(i, x)
        extra = None
        if self.r.true("network.unet", "learn_sigma"):
            out, extra = out.chunk(2, 1)
        if self.predict == "mean":
            x0 = (out - self.c2[i] * x) / self.c1[i]
        elif self.predict == "x0":
            x0 = out
        elif self.predict == "v":
            x0 = signal * x - noise * out
        else:
            x0 = x / signal - math.sqrt(1 / self.bar[i] - 1) * out
        if self.clip:
            x0 = x0.clamp(-1, 1)
        if self.sampler == "ddim":
            return self.ddim(i, x, x0, (x - signal * x0) / noise, z)
        mean = out if self.predict == "mean" else self.c1[i] * x0 + self.c2[i] * x
        return mean + self.sigma(i, extra) * z if i > 0 else mean

    def ddim(self, i, x, x0, eps, z):
        bar, before, eta = self.bar[i], self.before[i], float(self.r.get("sampler.ddim", "eta"))
        sigma = eta * math.sqrt((1 - before) / (1 - bar)) * math.sqrt(1 - bar / before)
        x = math.sqrt(before) * x0 + math.sqrt(1 - before - sigma**2) * eps
        return x + sigma * z if sigma > 0 else x

    def sigma(self, i, extra):
        if self.sampler == "ddpm":
            variance = self.r.get("sampler.ddpm", "variance")
            return math.sqrt(self.small[i] if variance == "small" else self.beta[i])
        if self.r.get("network.unet", "sigma") == "logvar":
            return self.torch.exp(0.5 * extra)
        high, low = math.log(self.beta[i]), math.log(self.small[i])
        f = (extra + 1) / 2
        return self.torch.exp(0.5 * (f * high + (1 - f) * low))

    def run(self, x, noise, steps=None):
        """All states of the chain, from x_T on."""
        states = [x]
        for k, i in enumerate(reversed(range(len(self.kept)))):
            if steps is not None and k == steps:
                break
            states.append(self.step(i, states[-1], noise[k]))
        return states


def tunings(torch, net, wanted):
    """The ways to run a network, by name."""
    for name in wanted:
        if name == "eager":
            yield name, net
        elif name == "channels-last":
            yield name, net.to(memory_format=torch.channels_last)
        elif name == "compiled":
            yield name, torch.compile(net.to(memory_format=torch.channels_last))
        else:
            fail(f"--tune {name}: eager, channels-last or compiled")


def torch_side(args):
    """A process of its own: writes states and outputs, prints the times as JSON."""
    import numpy as np
    import torch
    from unet import UNet

    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    r = Run(args.config, args.set)
    given = read_safetensors(args.noise)
    n, channels = given["x_T"].shape[:2]
    f, name = flags(r, channels), "bench/peers/unet.py"
    if args.model == "original":
        net, name = original(f)
    else:
        net = UNet(**f)
    net.load_state_dict(load_weights(torch, r))
    net = net.eval().to(args.device)
    x = torch.from_numpy(given["x_T"]).to(args.device)
    noise = torch.from_numpy(given["noise"]).to(args.device)
    chain = Chain(torch, r, net, args.device, labels(r, n), low_res(r, n))
    with torch.inference_mode():
        states = chain.run(x, noise)
        n_steps = len(chain.kept)
        places = sorted({round(k * (n_steps - 1) / 7) for k in range(8)})
        outs = [chain.evaluate(n_steps - 1 - k, states[k]) for k in places]
        as_array = lambda tensors: torch.stack(tensors).float().cpu().numpy()
        y = labels(r, n)
        result = {"states": as_array(states), "x": as_array([states[k] for k in places]),
                  "out": as_array(outs),
                  "kept": np.array(chain.kept[::-1]),
                  "t_index": np.array([chain.kept[n_steps - 1 - k] for k in places])}
        if y is not None:
            result["y"] = np.array(y)
        write_safetensors(args.result, result)

        timed, best = min(n_steps, 20), {}
        for tuning, chain.net in tunings(torch, net, args.tune.split(",")):
            start = time.perf_counter()
            chain.run(x, noise, 2)
            print(f"{tuning}: ready after {time.perf_counter() - start:.1f} s", file=sys.stderr)
            seconds = []
            for _ in range(args.runs):
                start = time.perf_counter()
                chain.run(x, noise, timed)
                if args.device != "cpu":
                    torch.cuda.synchronize()
                seconds.append((time.perf_counter() - start) / timed)
            best[tuning] = 1e3 * statistics.median(seconds)
    print(json.dumps({"model": name, "version": torch.__version__, "ms_per_step": best}))


# ------------------------------------------------------------------- both

def make_noise(r, path, channels, steps):
    """The file of noise for both sides, and what demist must be told."""
    import numpy as np

    n, size = r.whole("sample", "images"), r.whole("network.unet", "image_size")
    shape, source = (n, channels, size, size), r.get("noise", "source")
    told = ["--set", "noise.source=file", "--set", f"noise.file={path}"]
    if source == "file":
        given = read_safetensors(r.path("noise", "file"))
        x, noise = given["x_T"][:n], given.get("noise", np.zeros((steps, *shape), np.float32))
        noise = noise[:steps, :n]
    elif source == "torch-cpu":
        import torch

        if r.get("sample", "batch") != str(n):
            fail("[sample] batch must be that of images, as torch-cpu reproduces one process")
        torch.manual_seed(r.whole("sample", "seed"))
        x = torch.randn(shape).numpy()
        noise = np.stack([torch.randn(shape).numpy() for _ in range(steps)])
        told = []
    else:
        rng = np.random.default_rng(r.whole("sample", "seed"))
        x = rng.standard_normal(shape, np.float32)
        noise = rng.standard_normal((steps, *shape), np.float32)
    write_safetensors(path, {"x_T": np.ascontiguousarray(x), "noise": np.ascontiguousarray(noise)})
    return told


def channels_of(r, args):
    """Of an image, as demist finds them in the checkpoint."""
    listed = json.loads(run([args.demist, "inspect", r.path("network", "checkpoint"), "--json"])[1])
    prefix = r.get("network", "prefix")
    key = ".".join(filter(None, [prefix, "input_blocks.0.0.weight"]))
    shape = next(t["shape"] for t in listed["tensors"] if t["name"] == key)
    return shape[1] // (2 if r.whole("network.unet", "small_size") else 1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("config")
    p.add_argument("--demist", default="demist")
    p.add_argument("--plugin-path", action="append", default=[])
    p.add_argument("--set", action="append", default=[], metavar="section.key=value")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--runs", type=int, default=5, help="timed chains of PyTorch")
    p.add_argument("--model", choices=("own", "original"), default="own")
    p.add_argument("--device", default="cpu", help="PyTorch's; demist's is [backend] use")
    p.add_argument("--tune", default="eager,channels-last,compiled")
    p.add_argument("--torch-side", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--noise", help=argparse.SUPPRESS)
    p.add_argument("--result", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.torch_side:
        return torch_side(args)

    import numpy as np

    r = Run(args.config, args.set)
    steps, n = len(kept_steps(r)), r.whole("sample", "images")
    demist = lambda command: [args.demist, command, args.config, "--threads", str(args.threads),
                              *(f"--plugin-path={path}" for path in args.plugin_path)]
    with tempfile.TemporaryDirectory() as work:
        told = [f"--set={s}" for s in args.set]
        noise = make_noise(r, f"{work}/noise.safetensors", channels_of(r, args), steps)
        _, answer = run([sys.executable, os.path.abspath(__file__), args.config, "--torch-side",
                         "--threads", str(args.threads), "--runs", str(args.runs), *told,
                         "--model", args.model, "--device", args.device, "--tune", args.tune,
                         "--noise", f"{work}/noise.safetensors",
                         "--result", f"{work}/torch.safetensors"])
        peer, theirs = json.loads(answer), read_safetensors(f"{work}/torch.safetensors")

        outs = []  # row by row, as labels differ within a batch
        for k in range(len(theirs["x"])):
            rows = {"x": theirs["x"][k], "t_index": np.full(n, theirs["t_index"][k])}
            if "y" in theirs:
                rows["y"] = theirs["y"]
            write_safetensors(f"{work}/in.safetensors", rows)
            run(demist("predict") + told + ["--in", f"{work}/in.safetensors",
                                            "--out", f"{work}/out.safetensors"])
            outs.append(read_safetensors(f"{work}/out.safetensors")["out"])
        at_once = ["--set", f"sample.batch={n}"]
        seconds, _ = run(demist("sample") + told + noise + at_once +
                         ["--trajectory", f"{work}/chain.safetensors", "--quiet",
                          "--set", "output.formats=", "--set", f"output.dir={work}"])
        ours = read_safetensors(f"{work}/chain.safetensors")
        backend = r.ini.get("backend", "use", fallback="cpu")
        backend = r.set.get(("backend", "use"), backend)
        speed = json.loads(run(demist("bench") + told + at_once +
                               ["--backends", backend, "--json"])[1])["backends"][0]

    if list(ours["timesteps"]) != list(theirs["kept"]):
        fail(f"demist visits {list(ours['timesteps'])[:4]} …, PyTorch {list(theirs['kept'])[:4]} …")
    scale = abs(theirs["out"]).max(axis=(1, 2, 3, 4))
    network = abs(np.stack(outs) - theirs["out"]).max(axis=(1, 2, 3, 4)) / scale
    apart = (ours["x"] - theirs["states"]).reshape(steps + 1, -1)
    chain, rms = abs(apart).max(axis=1), (apart**2).mean(axis=1) ** 0.5
    tuning = min(peer["ms_per_step"], key=peer["ms_per_step"].get)
    torch_ms, demist_ms = peer["ms_per_step"][tuning], speed["ms_per_step"]
    print(f"{args.config}: {r.get('sampler', 'use')}, {steps} steps, {n} images at once; "
          f"{args.threads} threads of {cpu_name()}")
    print(f"demist: {backend} {speed['precision']} ({speed['device']}, {speed['detail']}); "
          f"PyTorch {peer['version']} on {args.device}, model {peer['model']}")
    print(f"network, {len(network)} times of the chain: largest difference {network.max():.1e} of "
          f"the largest value, at t = {theirs['t_index'][network.argmax()]}")
    print(f"free-running chains: largest difference {chain.max():.1e}, after step {chain.argmax()}; "
          f"x_0 {chain[-1]:.1e}, its root mean square {rms[-1]:.1e}")
    print(f"a step: demist {demist_ms:.2f} ms; PyTorch "
          + ", ".join(f"{name} {ms:.2f} ms" for name, ms in peer["ms_per_step"].items())
          + f"; best PyTorch / demist {torch_ms / demist_ms:.2f}")
    print(f"the whole chain: demist {seconds:.2f} s with its start, PyTorch {steps * torch_ms / 1e3:.2f} s "
          "without")
    return 0 if network.max() <= 2e-5 and rms.max() <= 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
