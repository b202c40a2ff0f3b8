#!/usr/bin/env python3
"""The CUDA backend on a machine with an NVIDIA GPU, in one call of less than 8 minutes: build, check,
time. Writes REPORT.json and REPORT.md after every step, so that both are there however it ends, and
prints the latter. Exit status 1 if a check failed.

    bench/cuda_all.py [--build build-cuda] [--report build-cuda/cuda-report] [--budget 460]
                      [--batches 1,16,64,256] [--precisions bf16,tf32] [--networks cifar,imagenet64]
                      [--only build,ops,…] [--without-torch] [--dry-run]

Sections. Each has seconds of its own; what it does not need is for those behind it, and what it cannot
do in time is left out with a line. None stops the others.

    device     the GPU, its driver, clocks and capability
    build      meson and ninja, release, code for this GPU's capability alone
    ops        every op in every precision against the reference; the contract of demist/backend.h
    sanitizer  compute-sanitizer memcheck and racecheck over the ops
    chains     reference chains in float32 (DEMIST_TEST_DATA; skipped without)
    compare    demist compare on a U-Net: cpu, cuda in each precision, opencl where it has a GPU
    peaks      the largest matrix products and copies, by PyTorch, else as demist measures its own
    speed      images/s of the U-Nets of improved-diffusion, as `demist bench` tells them (whole steps of
               DDIM), beside PyTorch eager (channels_last, autocast) and torch.compile with
               mode=max-autotune, on the same random weights; and as a share of the peaks. torch.compile
               begins in the background when the build does, since it takes minutes

--dry-run goes through every section without a GPU: the emulated device for the ops, the cpu backend and
PyTorch's CPU for the rest, a stand-in for compute-sanitizer, and small networks. It shows that this
script works, and says nothing of CUDA.

Predictions and results belong into bench/cuda-notes.md.
"""
import argparse
import array
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import cpu_peers  # noqa: E402  (the same networks, checkpoints and INI files)

TOP = os.path.dirname(HERE)
SECTIONS = {"device": 5, "build": 130, "ops": 50, "sanitizer": 60, "chains": 40, "compare": 30,
            "peaks": 15, "speed": 130}
PRECISIONS = ["f32", "strict", "tf32", "bf16", "f16"]
cpu_peers.NETWORKS["small"] = dict(title="small U-Net", image_size=32, num_channels=32, num_res_blocks=1,
                                   learn_sigma=True)
MULT = {64: (1, 2, 3, 4), 32: (1, 2, 2, 2)}

# One process for one network, precision and mode; a line of JSON for every batch. seconds = 0: compiles
# and says nothing.
TORCH = r"""
import json, statistics, sys, time
sys.path.insert(0, sys.argv[1])
import torch, unet
device, mode, precision, flags, weights, batches, seconds = json.loads(sys.argv[2])
torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
model = unet.UNet(**flags).eval()
model.load_state_dict(torch.load(weights))
model = model.to(device).to(memory_format=torch.channels_last)
if mode == "compile":
    model = torch.compile(model, **({"mode": "max-autotune"} if device == "cuda" else {"backend": "eager"}))
cast = {"bf16": torch.bfloat16, "f16": torch.float16}.get(precision)
wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
for batch in batches:
    x = torch.randn(batch, 3, flags["image_size"], flags["image_size"], device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    t = torch.arange(batch, device=device, dtype=torch.float32)
    try:
        with torch.inference_mode(), torch.autocast(device, cast, enabled=cast is not None):
            for _ in range(3):
                model(x, t)
            wait()
            times, end = [], time.monotonic() + seconds
            while seconds and (len(times) < 5 or (time.monotonic() < end and len(times) < 200)):
                start = time.perf_counter()
                model(x, t)
                wait()
                times.append(time.perf_counter() - start)
        if times:
            print(json.dumps([batch, batch / statistics.median(times)]), flush=True)
    except torch.cuda.OutOfMemoryError:
        print(json.dumps([batch, None]), flush=True)
"""
# FLOP/s of square products and bytes/s of a copy, both read and written.
PEAKS = r"""
import json, sys, time
import torch
device, n, bytes_copied, precisions = json.loads(sys.argv[1])
wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
def fastest(fn):
    best = float("inf")
    for _ in range(8):
        wait()
        start = time.perf_counter()
        fn()
        wait()
        best = min(best, time.perf_counter() - start)
    return best
for precision in precisions:
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    kind = {"bf16": torch.bfloat16, "f16": torch.float16}.get(precision, torch.float32)
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    print(json.dumps([precision, 2 * n ** 3 / fastest(lambda: a @ b)]), flush=True)
a = torch.zeros(bytes_copied // 4, device=device)
b = torch.empty_like(a)
print(json.dumps(["copy", 2 * bytes_copied / fastest(lambda: b.copy_(a))]), flush=True)
"""
# compute-sanitizer's command line without what it does.
SANITIZER = r"""
import subprocess, sys
words = sys.argv[1:]
assert words[0] == "--tool" and words[2:4] == ["--error-exitcode", "9"], words
sys.exit(9 if subprocess.call(words[4:]) else 0)
"""


def random_weights(network, path):
    """What cpu_peers.make_network writes, for a machine without PyTorch: names, shapes, and numbers of
    the right size, which repeat."""
    f = cpu_peers.flags_of(network)
    wide, blocks = f["num_channels"], f["num_res_blocks"]
    widths, shapes = [m * wide for m in MULT[f["image_size"]]], {}

    def layer(name, out, *inner):
        shapes[name + ".weight"], shapes[name + ".bias"] = [out, *inner], [out]

    def residual(name, c, out):
        layer(name + ".in_layers.0", c)
        layer(name + ".in_layers.2", out, c, 3, 3)
        layer(name + ".emb_layers.1", 2 * out, 4 * wide)
        layer(name + ".out_layers.0", out)
        layer(name + ".out_layers.3", out, out, 3, 3)
        if c != out:
            layer(name + ".skip_connection", out, c, 1, 1)

    def attention(name, c):
        layer(name + ".norm", c)
        layer(name + ".qkv", 3 * c, c, 1)
        layer(name + ".proj_out", c, c, 1)

    layer("time_embed.0", 4 * wide, wide)
    layer("time_embed.2", 4 * wide, 4 * wide)
    layer("input_blocks.0.0", wide, 3, 3, 3)
    side, c, skips = f["image_size"], wide, [wide]
    for level, out in enumerate(widths):
        for _ in range(blocks):
            residual(f"input_blocks.{len(skips)}.0", c, out)
            c = out
            if side in (16, 8):
                attention(f"input_blocks.{len(skips)}.1", c)
            skips.append(c)
        if level + 1 < len(widths):
            layer(f"input_blocks.{len(skips)}.0.op", c, c, 3, 3)
            skips.append(c)
            side //= 2
    residual("middle_block.0", c, c)
    attention("middle_block.1", c)
    residual("middle_block.2", c, c)
    n = 0
    for level in reversed(range(len(widths))):
        for i in range(blocks + 1):
            residual(f"output_blocks.{n}.0", c + skips.pop(), widths[level])
            c = widths[level]
            if side in (16, 8):
                attention(f"output_blocks.{n}.1", c)
            if level > 0 and i == blocks:
                layer(f"output_blocks.{n}.{2 if side in (16, 8) else 1}.conv", c, c, 3, 3)
                side *= 2
            n += 1
    layer("out.0", c)
    layer("out.2", 6 if f["learn_sigma"] else 3, c, 3, 3)
    draw = random.Random(1)
    pattern = [draw.gauss(0, 1) for _ in range(4093)]
    header, at, parts = {}, 0, []
    for name, shape in shapes.items():
        count = fan = 1
        for k, size in enumerate(shape):
            count, fan = count * size, fan * (size if k else 1)
        norm = len(shape) == 1 and name.endswith("weight")
        values = array.array("f", [(1 if norm else 0) + v * (0.1 if norm else fan ** -0.5) for v in pattern])
        parts.append((values.tobytes() * (count // len(pattern) + 1))[:4 * count])
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.writelines(parts)
    return {name: tuple(shape) for name, shape in shapes.items()}


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


class Report:
    """What is known so far; both files are replaced whole after every change."""

    def __init__(self, path, about):
        self.path, self.data = path, dict(about, state="unfinished", device={}, peaks={}, sections=[], speed=[])
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self.write()

    def section(self, name):
        self.data["sections"].append({"name": name, "seconds": 0, "steps": []})

    def step(self, title, status, seconds=0.0, text=""):
        """status: ok, FAILED, skipped, left out, stopped"""
        self.data["sections"][-1]["steps"].append(
            {"title": title, "status": status, "seconds": round(seconds, 1), "text": text.strip()[-4000:]})
        print(f"  {title}: {status}, {seconds:.1f} s", file=sys.stderr, flush=True)
        self.write()

    def failures(self):
        return [(s["name"], step) for s in self.data["sections"] for step in s["steps"]
                if step["status"] == "FAILED"]

    def write(self):
        for end, text in ((".json", json.dumps(self.data, indent=1)), (".md", self.markdown())):
            with open(self.path + end + ".tmp", "w") as f:
                f.write(text + "\n")
            os.replace(self.path + end + ".tmp", self.path + end)

    def markdown(self):
        d = self.data
        lines = [f"### {d['device'].get('name', 'unknown device')}, {d['date']}{', DRY RUN' if d['dry_run'] else ''}",
                 "", f"{d['state']}, commit {d['commit']}"]
        lines += [f"{key}: {value}" for key, value in d["device"].items() if key != "name"]
        lines += [f"peak, {key}: {value:.4g} {'GB/s' if key == 'copy' else 'GFLOP/s'} ({d['peaks_by']})"
                  for key, value in d["peaks"].items()]
        for network in dict.fromkeys(row["network"] for row in d["speed"]):
            batches = sorted({row["batch"] for row in d["speed"] if row["network"] == network})
            lines += ["", f"**{network}**, images/s; in brackets: share of the matrix peak, of the bandwidth", "",
                      "| precision | engine | " + " | ".join(f"batch {b}" for b in batches) + " |",
                      "|---|---|" + "---|" * len(batches)]
            cells = {}
            for row in d["speed"]:
                if row["network"] == network:
                    cells.setdefault((row["precision"], row["engine"]), {})[row["batch"]] = row
            for (precision, engine), by in cells.items():
                lines.append(f"| {precision} | {engine} | " + " | ".join(cell(by.get(b)) for b in batches) + " |")
        for s in d["sections"]:
            lines += ["", f"**{s['name']}**, {s['seconds']:.0f} s", ""]
            lines += [told(step) for step in s["steps"]]
        return "\n".join(lines)


def told(step):
    text = step["text"]
    line = f"- {step['title']}: {step['status']}, {step['seconds']} s"
    return f"{line}\n\n```\n{text}\n```\n" if "\n" in text else f"{line}: {text}" if text else line


def cell(row):
    if row is None:
        return "–"
    if row["images_per_s"] is None:
        return row["why"]
    shares = [f"{100 * row[key]:.0f} %" for key in ("of_matrix_peak", "of_bandwidth") if row.get(key)]
    return f"{row['images_per_s']:.4g}" + (f" ({', '.join(shares)})" if shares else "")


class Run:
    def __init__(self, args):
        self.args, self.start = args, time.monotonic()
        self.children = []
        self.deadline = self.start + args.budget
        commit = subprocess.run(["git", "-C", TOP, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        self.report = Report(args.report, {"date": time.strftime("%Y-%m-%d"), "dry_run": args.dry_run,
                                           "budget": args.budget, "peaks_by": "-",
                                           "commit": commit.stdout.strip() or "unknown"})
        self.backend, self.torch_device = ("cpu", "cpu") if args.dry_run else ("cuda", "cuda")
        self.checkpoints, self.with_torch, self.background, self.gflop = None, None, None, {}

    # --- commands ---

    def begin(self, command, out, **kw):
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=TOP,
                                 start_new_session=True, **kw)
        self.children.append(child)
        return child

    def end(self, child):
        """With all that it has started."""
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()
        if child in self.children:
            self.children.remove(child)

    def call(self, title, command, limit, tell=False, optional=False, **kw):
        """Its output, whole or as far as it came, or None if nothing ran or it failed. tell: the report has
        it. optional: what fails says nothing about demist."""
        limit = min(limit, self.deadline - time.monotonic())
        if limit < 2:
            self.report.step(title, "left out", text="no time")
            return None
        begun = time.monotonic()
        status, text, stopped = None, "", False
        with tempfile.TemporaryFile() as out:
            try:
                child = self.begin(command, out, **kw)
                try:
                    status = child.wait(limit)
                except subprocess.TimeoutExpired:
                    stopped = True
                finally:
                    self.end(child)
                out.seek(0)
                text = out.read().decode(errors="replace")
            except OSError as e:
                text = str(e)
        took = time.monotonic() - begun
        word = ("stopped" if stopped else "skipped" if status == 77 else "ok" if status == 0
                else "skipped" if optional else "FAILED")
        self.report.step(title, word, took, text if word == "FAILED" or tell or (optional and status) else
                         text[-300:] if word == "skipped" else "")
        return text if word in ("ok", "stopped") else None

    def demist(self, title, words, limit, **kw):
        return self.call(title, [f"{self.args.build}/tools/demist", *words, "--plugin-path",
                                 f"{self.args.build}/plugins/modules"], limit, **kw)

    # --- sections ---

    def device(self):
        if self.args.dry_run:
            self.report.data["device"] = {"name": "no device"}
            return self.call("stand-in", [sys.executable, "--version"], 5, tell=True)
        keys = ["name", "driver_version", "compute_cap", "memory.total", "clocks.max.sm", "clocks.max.mem", "power.limit"]
        out = self.call("nvidia-smi", ["nvidia-smi", "--query-gpu=" + ",".join(keys), "--format=csv,noheader"], 10,
                        optional=True)
        if out and out.strip():
            values = [v.strip() for v in out.strip().splitlines()[0].split(",")]
            self.report.data["device"] = dict(zip(keys, values))
        return out

    def build(self):
        b = self.args.build
        capability = self.report.data["device"].get("compute_cap", "").replace(".", "")
        arch = [f"-Dnvidia_arch={capability}"] if capability in ("75", "80", "86", "89", "90") else []
        if not os.path.exists(f"{b}/build.ninja"):
            self.call("meson setup", ["meson", "setup", b, "-Dcuda=enabled", "-Dbuildtype=release",
                                      "-Ddocs=disabled", *arch], 60)
        self.call("ninja", ["ninja", "-C", b], self.args.budget)

    def ops_test(self, precision):
        """Command and environment."""
        if self.args.dry_run:
            return ([f"{self.args.build}/tests/cuda-emulator/test_backend_ops_cuda_emulated", precision],
                    dict(os.environ, CUDA_EMULATOR="capability=9.0"))
        return [f"{self.args.build}/tests/test_backend_ops_cuda", precision], dict(os.environ)

    def ops(self):
        for precision in PRECISIONS[-2:] if self.args.dry_run else PRECISIONS:
            command, env = self.ops_test(precision)
            self.call(f"ops, {precision}", command + ["tuning=off"], 60, env=env)
        if not self.args.dry_run:
            command, env = self.ops_test("bf16")
            self.call("ops, bf16, measured choices", command + ["cache=off"], 60, env=env)
        contract = "cuda-emulator/test_backend_contract_cuda_emulated" if self.args.dry_run else \
            "test_backend_contract_cuda"
        self.call("contract", [f"{self.args.build}/tests/{contract}"], 60)

    def sanitizer(self):
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if self.args.dry_run:
            tool = [sys.executable, "-c", SANITIZER]
        elif os.path.exists(tool):
            tool = [tool]
        else:
            return self.report.step("compute-sanitizer", "left out", text="it is not installed")
        for precision in ["f16"] if self.args.dry_run else ["bf16", "f32"]:
            for check in ("memcheck", "racecheck"):
                command, env = self.ops_test(precision)
                self.call(f"{check}, {precision}",
                          tool + ["--tool", check, "--error-exitcode", "9", *command, "tuning=off"], 45, env=env)

    def chains(self):
        env = dict(os.environ, DEMIST_TEST_BACKEND=self.backend)
        if not self.args.dry_run:
            env["DEMIST_TEST_OPTION"] = "tuning=off"
        for name in ("test_unet_goldens", "test_reference_chains"):
            self.call(name, [f"{self.args.build}/tests/pipelines/{name}"], 10 if self.args.dry_run else 60, env=env)

    def compare(self):
        networks = self.make_checkpoints()
        if not networks:
            return
        if self.args.dry_run:
            sides = ["cpu:f32", "cpu:bf16"]
        else:
            sides = ["cpu:f32", "cuda:f32", "cuda:tf32", "cuda:bf16", "cuda:f16"]
            devices = self.demist("devices", ["devices"], 20, tell=True) or ""
            if ", GPU" in devices.partition("backend opencl")[2].partition("backend")[0]:
                sides.append("opencl:f32")
        self.demist("compare", ["compare", self.ini(networks[0], "f32", 4), "--backends", ",".join(sides)], 90,
                    tell=True)

    def peaks(self):
        if not self.has_torch():
            return self.report.step("peaks", "left out", text="no PyTorch with this device: demist's own are told")
        small = self.args.dry_run
        out = self.call("products and copies",
                        [sys.executable, "-c", PEAKS, json.dumps([self.torch_device, 256 if small else 8192,
                                                                  1 << (20 if small else 30), self.args.precisions])],
                        40, optional=True)
        for line in (out or "").splitlines():
            if line.startswith("["):
                key, rate = json.loads(line)
                self.report.data["peaks"][key] = rate / 1e9
        self.report.data["peaks_by"] = "PyTorch"

    def speed(self):
        if self.background:
            self.end(self.background)
        for network in self.make_checkpoints():
            work = self.traffic(network)
            for precision in self.args.precisions:
                for batch in self.args.batches:
                    self.demist_speed(network, precision, batch, work)
                for mode in ("eager", "compile"):
                    self.torch_speed(network, precision, mode, work)

    # --- speed ---

    def has_torch(self):
        if self.args.without_torch:
            return False
        if self.with_torch is None:
            code = f"import torch, sys; sys.exit(not (torch.cuda.is_available() or {self.args.dry_run}))"
            self.with_torch = subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
        return self.with_torch

    def make_checkpoints(self):
        """The networks that have one now."""
        if self.checkpoints is None:
            self.checkpoints = []
            for network in self.args.networks:
                try:
                    if self.has_torch():
                        cpu_peers.make_network(network, self.folder, onnx=False)
                    else:
                        random_weights(network, f"{self.folder}/{network}.safetensors")
                    self.checkpoints.append(network)
                except Exception as e:  # whatever it is, the others are still to do
                    self.report.step(f"checkpoint of {network}", "FAILED", text=repr(e))
        return self.checkpoints

    def ini(self, network, precision, batch):
        # cpu_peers writes INI files for the CPU: the backend is named on the command line.
        return cpu_peers.write_ini(argparse.Namespace(folder=self.folder, network=network, precision=precision,
                                                      batch=batch), 4 if self.args.dry_run else 16)

    def traffic(self, network):
        """Numbers of parameters and, for an image, of what products read and write; or None."""
        if not self.has_torch():
            return None
        sys.path.insert(0, os.path.join(HERE, "peers"))
        import torch
        import unet
        with torch.device("meta"):
            model = unet.UNet(**cpu_peers.flags_of(network)).eval()
            size = cpu_peers.NETWORKS[network]["image_size"]
            x, t = torch.empty(1, 3, size, size), torch.empty(1)
        moved = []
        for module in model.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv1d)):
                module.register_forward_hook(lambda m, i, o: moved.append(i[0].numel() + o.numel()))
        with torch.inference_mode():
            model(x, t)
        return {"parameters": sum(p.numel() for p in model.parameters()), "activations": sum(moved)}

    def add(self, network, precision, engine, batch, rate, work, gflop=None, **more):
        row = {"network": cpu_peers.NETWORKS[network]["title"], "precision": precision, "engine": engine,
               "batch": batch, "images_per_s": rate, **more}
        peaks = self.report.data["peaks"]
        gflop = self.gflop[network] = gflop or self.gflop.get(network)
        if rate and gflop and peaks.get(precision):
            row["of_matrix_peak"] = rate * gflop / peaks[precision]
        if rate and work and peaks.get("copy"):
            size = 2 if precision in ("bf16", "f16") else 4
            moved = size * (work["parameters"] / batch + work["activations"])
            row["of_bandwidth"] = rate * moved / 1e9 / peaks["copy"]
        self.report.data["speed"].append(row)
        self.report.write()

    def demist_speed(self, network, precision, batch, work):
        title = f"demist, {network}, {precision}, batch {batch}"
        out = self.demist(title, ["bench", self.ini(network, precision, batch), "--json", "--quiet", "--backends",
                                  f"{self.backend}:{precision}"], 40)
        try:
            told = json.loads(out or "")
            side = next(find(told, "images_per_s"))
        except (ValueError, StopIteration):
            return
        if self.report.data["peaks_by"] != "PyTorch" and side.get("peak_gflops"):
            self.report.data["peaks"][precision] = side["peak_gflops"]
            self.report.data["peaks_by"] = "demist's own product"
        self.add(network, precision, "demist", batch, side["images_per_s"], work, told.get("gflop_per_image"),
                 ms_per_step=side["ms_per_step"])

    def torch_command(self, network, precision, mode, batches, seconds):
        return [sys.executable, "-c", TORCH, f"{HERE}/peers",
                json.dumps([self.torch_device, mode, precision, cpu_peers.flags_of(network),
                            f"{self.folder}/{network}.pt", batches, seconds])]

    def torch_speed(self, network, precision, mode, work):
        title = f"PyTorch {mode}, {network}, {precision}"
        if not self.has_torch():
            return self.report.step(title, "left out", text="no PyTorch with this device")
        out = self.call(title, self.torch_command(network, precision, mode, self.args.batches,
                                                  0.1 if self.args.dry_run else 1), self.args.budget, optional=True)
        for line in (out or "").splitlines():
            if line.startswith("["):
                batch, rate = json.loads(line)
                self.add(network, precision, f"PyTorch {mode}", batch, rate, work,
                         **({} if rate else {"why": "out of memory"}))

    def compile_in_background(self):
        """torch.compile keeps what it finds on disk, for the processes that are timed."""
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{self.folder}/inductor")
        os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
        if "speed" not in self.args.only or not self.has_torch():
            return
        jobs = [self.torch_command(network, precision, "compile", self.args.batches, 0)
                for network in self.make_checkpoints() for precision in self.args.precisions]
        code = "import json, subprocess, sys\nfor c in json.loads(sys.argv[1]): subprocess.call(c)"
        self.background = self.begin([sys.executable, "-c", code, json.dumps(jobs)], subprocess.DEVNULL)

    # --- all of it ---

    def interrupted(self, number, frame):
        for name in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT):  # what follows is to be whole
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    def run(self):
        # Whatever ends it, the report is written: a signal, or the budget, should no limit have held.
        signal.signal(signal.SIGTERM, self.interrupted)
        signal.signal(signal.SIGALRM, self.interrupted)
        signal.signal(signal.SIGINT, self.interrupted)
        signal.setitimer(signal.ITIMER_REAL, self.args.budget + 2)
        state = "finished"
        try:
            with tempfile.TemporaryDirectory() as self.folder:
                try:
                    self.sections()
                except KeyboardInterrupt:
                    state = "interrupted"
                finally:
                    for child in list(self.children):
                        self.end(child)
        finally:
            self.report.data["state"] = f"{state} after {time.monotonic() - self.start:.0f} s"
            self.report.write()
            print(self.report.markdown())
        return 1 if self.report.failures() or state != "finished" else 0

    def sections(self):
        share = self.args.budget / sum(SECTIONS[name] for name in self.args.only)
        behind = {name: sum(SECTIONS[later] for later in self.args.only[i + 1:])
                  for i, name in enumerate(self.args.only)}
        for name in self.args.only:
            begun = time.monotonic()
            self.deadline = self.start + self.args.budget - share * behind[name]
            self.report.section(name)
            print(name, file=sys.stderr, flush=True)
            try:
                if name == "build":
                    self.compile_in_background()
                getattr(self, name)()
            except Exception as e:  # a fault of this script's: the others are still to do
                self.report.step(name, "FAILED", text=repr(e))
            self.report.data["sections"][-1]["seconds"] = round(time.monotonic() - begun, 1)
            self.report.write()


def main():
    words = lambda text: text.split(",")  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default=os.path.join(TOP, "build-cuda"))
    parser.add_argument("--report", help="files to write, without .json and .md")
    parser.add_argument("--batches", type=lambda s: [int(b) for b in s.split(",")])
    parser.add_argument("--precisions", type=words)
    parser.add_argument("--networks", type=words)
    parser.add_argument("--budget", type=float, default=460, help="seconds")
    parser.add_argument("--only", type=words, default=list(SECTIONS))
    parser.add_argument("--without-torch", action="store_true", help="demist alone")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    for name in args.only:
        if name not in SECTIONS:
            parser.error(f"no section {name}: there are {', '.join(SECTIONS)}")
    args.only = [name for name in SECTIONS if name in args.only]
    args.networks = args.networks or (["small"] if args.dry_run else ["cifar", "imagenet64"])
    for name in args.networks:
        if name not in cpu_peers.NETWORKS:
            parser.error(f"no network {name}: there are {', '.join(cpu_peers.NETWORKS)}")
    args.batches = args.batches or ([1, 2] if args.dry_run else [64, 16, 1, 256])
    args.precisions = args.precisions or (["bf16"] if args.dry_run else ["bf16", "tf32"])
    args.build = os.path.abspath(args.build)
    args.report = os.path.abspath(args.report or os.path.join(args.build, "cuda-report"))
    sys.exit(Run(args).run())


if __name__ == "__main__":
    main()
