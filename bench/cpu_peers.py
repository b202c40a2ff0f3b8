#!/usr/bin/env python3
"""demist's CPU and OpenCL backends beside PyTorch, ONNX Runtime and OpenVINO: milliseconds of one evaluation of
improved-diffusion's U-Nets, peak memory, and how far the outputs are apart. Prints Markdown.

    pip install torch numpy onnx onnxruntime openvino
    bench/cpu_peers.py --build build [--networks cifar,imagenet64] [--batches 1,4,16]
                       [--precisions f32,bf16] [--engines demist,eager,...] [--rounds 9] [--threads 2]
    bench/cpu_peers.py --build build --precisions f32 --networks cifar \
                       --engines opencl,opencl-own,opencl-rule,eager,eager-last   docs/opencl.md's tables

All load one checkpoint of random weights, which the script writes, as a run's INI does. Every engine
is a process of its own that waits until it is told to evaluate; they take turns, so that all see the
same machine and never two thread pools run at once. demist's milliseconds are whole steps of DDIM,
sampler included, through libdemist. PyTorch runs contiguous and channels_last, with tcmalloc if that is
installed; ONNX Runtime and OpenVINO get the model by ONNX export with the batch as a constant. Ratios
are those of the first of demist's engines. Its OpenCL backend runs on the first CPU device; opencl-own
leaves out CLBlast, opencl-rule measures nothing. What they start with is timed as well: from a network in
memory to the first step done, with empty caches (demist's and PoCL's) and with full ones.

Outputs are compared with PyTorch's in f32: the largest difference over the largest value. Memory is the
most that was resident in the process, Python and the compilation included; demist's is that of the
command (`demist bench`), which needs no Python. With --threads 1 processor time is taken, which busy
neighbours disturb less.
"""
import argparse
import ctypes
import glob
import importlib.util
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
NETWORKS = {
    "cifar": dict(title="CIFAR-10 U-Net", image_size=32, num_channels=128, num_res_blocks=3,
                  learn_sigma=True),
    "imagenet64": dict(title="ImageNet-64 U-Net", image_size=64, num_channels=128,
                       num_res_blocks=3, learn_sigma=True),
}
ENGINES = {  # engine: title, modules, [backend] of demist's
    "demist": ("demist", (), "cpu"),
    "opencl": ("demist, opencl", (), "opencl", "device = cpu"),
    "opencl-own": ("demist, opencl, clblast = off", (), "opencl", "device = cpu", "clblast = off"),
    "opencl-rule": ("demist, opencl, tuning = off", (), "opencl", "device = cpu", "tuning = off"),
    "eager": ("PyTorch eager", ("torch",)),
    "eager-last": ("PyTorch eager, channels_last", ("torch",)),
    "compile": ("torch.compile", ("torch",)),
    "ort": ("ONNX Runtime", ("onnx", "onnxruntime")),
    "openvino": ("OpenVINO", ("onnx", "openvino")),
}
OURS = [e for e in ENGINES if ENGINES[e][2:]]
INI = """[backend]
use = {backend}
precision = {precision}
{options}
[schedule]
use = cosine
steps = 4000
[network]
use = unet
checkpoint = {folder}/{network}.safetensors
[network.unet]
image_size = {image_size}
num_channels = {num_channels}
num_res_blocks = {num_res_blocks}
learn_sigma = {learn_sigma}
[sampler]
use = ddim
[sample]
steps = {steps}
images = {batch}
batch = {batch}
"""


# --- files ---

def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": {"float32": "F32", "int64": "I64"}[str(t.dtype)],
                        "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(t.tobytes())


def read_safetensors(path):
    import numpy
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    return {name: numpy.frombuffer(data[slice(*t["data_offsets"])], "<f4").reshape(t["shape"])
            for name, t in header.items() if name != "__metadata__"}


def flags_of(network):
    return {k: v for k, v in NETWORKS[network].items() if k != "title"}


def make_network(network, folder, onnx=True):
    """Writes the checkpoint, inputs for the largest batch and the ONNX model; in a process of its own."""
    sys.path.insert(0, os.path.join(HERE, "peers"))
    import torch
    import unet
    torch.manual_seed(1)
    flags = flags_of(network)
    model = unet.UNet(**flags).eval()
    for name, p in model.named_parameters():
        if p.dim() == 1 and name.endswith("weight"):  # norms that do something
            torch.nn.init.normal_(p, 1, 0.1)
    write_safetensors(f"{folder}/{network}.safetensors",
                      {k: v.numpy() for k, v in model.state_dict().items()})
    torch.save(model.state_dict(), f"{folder}/{network}.pt")
    size = flags["image_size"]
    x, t = torch.randn(16, 3, size, size), 37.25 * torch.arange(1.0, 17.0)
    write_safetensors(f"{folder}/{network}-in.safetensors",
                      {"x": x.numpy(), "t_network": t.numpy()})
    if onnx and importlib.util.find_spec("onnx"):
        torch.onnx.export(model, (x[:2], t[:2]), f"{folder}/{network}.onnx", dynamo=False,
                          opset_version=17, input_names=["x", "t"], output_names=["out"],
                          dynamic_axes={"x": {0: "n"}, "t": {0: "n"}, "out": {0: "n"}})


def inputs(args):
    at = read_safetensors(f"{args.folder}/{args.network}-in.safetensors")
    return at["x"][:args.batch].copy(), at["t_network"][:args.batch].copy()


# --- the engines: each returns a function that evaluates once and returns the output ---

def torch_engine(args):
    sys.path.insert(0, os.path.join(HERE, "peers"))
    import torch
    import unet
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    with torch.device("meta"):  # the file's pages become the parameters
        model = unet.UNet(**flags_of(args.network)).eval()
    model.load_state_dict(torch.load(f"{args.folder}/{args.network}.pt", mmap=True), assign=True)
    x, t = map(torch.from_numpy, inputs(args))
    if args.precision == "bf16":
        model, x = model.bfloat16(), x.bfloat16()
    if args.engine == "eager-last" or (args.engine == "compile" and args.precision == "bf16"):
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(
            memory_format=torch.channels_last)
    if args.engine == "compile":
        model = torch.compile(model)
    with torch.inference_mode():
        model(x, t)

    def run():
        with torch.inference_mode():
            return model(x, t)
    return run, lambda out: out.float().contiguous().numpy()


def ort_engine(args):
    import onnxruntime
    if args.precision != "f32":
        raise RuntimeError("its CPU provider computes in f32 only")
    x, t = inputs(args)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.add_free_dimension_override_by_name("n", args.batch)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(f"{args.folder}/{args.network}.onnx", options,
                                           providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x, "t": t})[0], lambda out: out


def openvino_engine(args):
    import openvino
    core = openvino.Core()
    if args.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("it has no bf16 on this processor")
    x, t = inputs(args)
    model = core.read_model(f"{args.folder}/{args.network}.onnx")
    model.reshape({"x": list(x.shape), "t": list(t.shape)})
    compiled = core.compile_model(model, "CPU", {
        "INFERENCE_PRECISION_HINT": args.precision, "INFERENCE_NUM_THREADS": args.threads,
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1})
    request = compiled.create_infer_request()
    return lambda: request.infer({"x": x, "t": t}), lambda out: out[0]


class Progress(ctypes.Structure):  # the head of demist_progress
    _fields_ = [("size", ctypes.c_size_t), ("batch", ctypes.c_int64), ("n_batches", ctypes.c_int64),
                ("step", ctypes.c_int64)]


ON_PROGRESS = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.POINTER(Progress))


class SampleOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("progress", ON_PROGRESS), ("user", ctypes.c_void_p),
                ("keep_data", ctypes.c_bool), ("wants_data", ctypes.c_bool),
                ("write_outputs", ctypes.c_bool), ("overwrite", ctypes.c_bool),
                ("trajectory", ctypes.c_char_p)]


def serve_demist(args):
    """One long chain, held between its steps until the next evaluation is asked for."""
    lib = ctypes.CDLL(os.path.join(args.build, "libdemist.so"))
    lib.demist_session_create.restype = ctypes.c_void_p
    lib.demist_session_error.restype = ctypes.c_char_p
    session = ctypes.c_void_p(lib.demist_session_create())
    state, now = {"left": 0, "times": [], "mark": 0.0}, clock(args)

    def on_progress(_, progress):
        if progress.contents.step <= 2:  # the compilation, and a warm-up
            return True
        state["left"] -= 1
        state["times"].append(now() - state["mark"])
        if state["left"] <= 0:
            answer(seconds=state["times"]) if state["left"] == 0 else answer(ready=True)
            state["left"], state["times"] = int(sys.stdin.readline() or 0), []
        state["mark"] = now()
        return state["left"] > 0

    def check(status):
        if status != 0:
            raise RuntimeError(lib.demist_session_error(session).decode())
    check(lib.demist_session_plugin_path(session, os.path.join(args.build, "plugins/modules").encode()))
    check(lib.demist_session_threads(session, args.threads))
    check(lib.demist_session_load(session, write_ini(args, 4000, args.engine).encode()))
    callback = ON_PROGRESS(on_progress)
    options = SampleOptions(ctypes.sizeof(SampleOptions), callback)
    options.wants_data = args.engine != "demist"  # devices of a queue are ahead of the callback otherwise
    lib.demist_session_sample(session, ctypes.byref(options), None)
    if state["mark"] == 0:
        raise RuntimeError(lib.demist_session_error(session).decode())


def clock(args):
    return time.process_time if args.threads == 1 else time.perf_counter


def answer(**what):
    print(json.dumps(what), flush=True)


def serve(args):
    """A worker: says ready or why not, then answers every count with that many seconds."""
    try:
        if args.engine in OURS:
            return serve_demist(args)
        engine = {"ort": ort_engine, "openvino": openvino_engine}.get(args.engine, torch_engine)
        run, array = engine(args)
        import numpy
        numpy.save(f"{args.folder}/out-{args.engine}.npy", array(run()))
    except Exception as e:  # one engine that cannot must not end the others' comparison
        return answer(failed=str(e).strip().splitlines()[0] if str(e) else type(e).__name__)
    answer(ready=True)
    now = clock(args)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = now()
            run()
            seconds.append(now() - start)
        answer(seconds=seconds)


# --- demist's command ---

def write_ini(args, steps, engine="demist"):
    path = f"{args.folder}/run-{engine}-{args.network}-{args.precision}-{args.batch}-{steps}.ini"
    backend, *options = ENGINES[engine][2:]
    if options:
        options.insert(0, f"[backend.{backend}]")
    with open(path, "w") as f:
        f.write(INI.format(folder=args.folder, network=args.network, precision=args.precision,
                           batch=args.batch, steps=steps, backend=backend,
                           options="\n".join(options),
                           **{k: str(v).lower() for k, v in flags_of(args.network).items()}))
    return path


def command(args, *words, **env):
    done = subprocess.run([f"{args.build}/tools/demist", *words, "--plugin-path",
                           f"{args.build}/plugins/modules", "--threads", str(args.threads)],
                          capture_output=True, text=True, env=dict(os.environ, **env))
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return done.stdout


def demist_output(args, engine):
    x, t = inputs(args)
    write_safetensors(f"{args.folder}/in.safetensors", {"x": x, "t_network": t})
    command(args, "predict", write_ini(args, 4, engine), "--in", f"{args.folder}/in.safetensors",
            "--out", f"{args.folder}/out.safetensors")
    return read_safetensors(f"{args.folder}/out.safetensors")["out"]


def bench(args, engine, **env):
    return json.loads(command(args, "bench", write_ini(args, 6, engine), "--backends",
                              ENGINES[engine][2], "--json", **env))["backends"][0]


def print_start(args):
    """What the OpenCL backend does before its first step: with empty caches and with full ones."""
    engine = next((e for e in args.engines if "opencl" in ENGINES[e][2:]), None)
    if not engine:
        return
    with tempfile.TemporaryDirectory() as caches:
        env = {"XDG_CACHE_HOME": caches, "POCL_CACHE_DIR": caches}
        cold, warm = (bench(args, engine, **env)["first_step_ms"] / 1e3 for _ in range(2))
    print(f"{ENGINES[engine][0]}, batch {args.batch}: first step done after {cold:.1f} s with empty "
          f"caches, {warm:.2f} s with full ones.", flush=True)


# --- the comparison ---

class Worker:
    def __init__(self, args, engine):
        env = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS=str(args.threads),
                   POCL_MAX_PTHREAD_COUNT=str(args.threads))
        if engine in ("eager", "eager-last", "compile") and args.tcmalloc:
            env["LD_PRELOAD"] = args.tcmalloc
        self.engine, self.times, self.memory, self.difference = engine, [], None, None
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--worker", "--engine", engine, "--build",
             args.build, "--folder", args.folder, "--network", args.network, "--precision",
             args.precision, "--batch", str(args.batch), "--threads", str(args.threads)],
            env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL)
        self.failed = self.read().get("failed")

    def read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": "its process ended"}

    def run(self, n):
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        got = self.read()
        self.failed = got.get("failed")
        self.times += got.get("seconds", [])

    def peak(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def start(args, engine):
    missing = [m for m in ENGINES[engine][1] if not importlib.util.find_spec(m)]
    if missing:
        print(f"{ENGINES[engine][0]}: skipped, no module {missing[0]}", file=sys.stderr)
        return None
    worker = Worker(args, engine)
    if worker.failed:
        print(f"{ENGINES[engine][0]}, {NETWORKS[args.network]['title']}, {args.precision}, batch "
              f"{args.batch}: skipped, {worker.failed}", file=sys.stderr)
        worker.close()
        return None
    return worker


def compare_outputs(args, workers):
    import numpy
    expected = numpy.load(f"{args.folder}/expected-{args.network}.npy")[:args.batch]
    for w in workers:
        out = (demist_output(args, w.engine) if w.engine in OURS
               else numpy.load(f"{args.folder}/out-{w.engine}.npy"))
        w.difference = float(abs(out - expected).max() / abs(expected).max())


def make_expected(args):
    """PyTorch's output for the largest batch in f32."""
    import numpy
    args.precision, args.batch = "f32", max(args.batches)
    worker = Worker(args, "eager")
    if worker.failed:
        sys.exit(f"PyTorch: {worker.failed}")
    worker.close()
    numpy.save(f"{args.folder}/expected-{args.network}.npy", numpy.load(f"{args.folder}/out-eager.npy"))


def compare(args):
    """All engines on one network, precision and batch: {engine: worker with its results}."""
    workers = [w for w in (start(args, e) for e in args.engines) if w]
    compare_outputs(args, workers)
    at_once = 3 if args.batch < 4 else 1
    for i in range(args.rounds):
        for w in workers[i % len(workers):] + workers[:i % len(workers)]:
            w.run(at_once)
            time.sleep(0.02)  # pools that spin have gone to sleep
    for w in workers:
        w.memory = w.peak()
        w.close()
        if w.engine in OURS:
            side = bench(args, w.engine)
            w.memory, w.needs = side["peak_memory_bytes"], side["param_bytes"] + side["arena_bytes"]
    return {w.engine: w for w in workers if not w.failed}


def ratio(results, engines, of, to):
    """By medians and by the least, of the fastest of `engines` to the engine `to`."""
    times = [of(results[e].times) for e in engines if e in results]
    return f"{min(times) / of(results[to].times):.2f}" if times and to in results else "–"


def milliseconds(w):
    return f"{1e3 * statistics.median(w.times):.1f} ({1e3 * min(w.times):.1f})"


def print_table(args, results):
    print(f"\n{NETWORKS[args.network]['title']}, {args.precision}: milliseconds, median (least); "
          "memory; largest difference\n")
    print("| | " + " | ".join(f"batch {n}" for n in args.batches) + " | peak memory, MB | difference |")
    print("|---" * (len(args.batches) + 3) + "|")
    for e in args.engines:
        cells = [r.get(e) for r in results]
        if not any(cells):
            continue
        memory = " / ".join(f"{c.memory / 1e6:.0f}" if c else "–" for c in cells)
        print(f"| {ENGINES[e][0]} | " + " | ".join(milliseconds(c) if c else "–" for c in cells) +
              f" | {memory} | {max(c.difference for c in cells if c):.1e} |")
    ours = [e for e in args.engines if e in OURS]
    others = [e for e in args.engines if e not in OURS]
    if not ours:
        return
    title = ENGINES[ours[0]][0]
    rows = [(f"eager's better layout over {title}", ["eager", "eager-last"]),
            (f"best of the others over {title}", others)]
    rows += [(f"{ENGINES[e][0]} over {title}", [e]) for e in ours[1:]]
    for name, group in rows:
        cells = [f"{ratio(r, group, statistics.median, ours[0])} ({ratio(r, group, min, ours[0])})"
                 for r in results]
        print(f"| *{name}* | " + " | ".join(cells) + " | | |")
    for e in ours:
        needs = " / ".join(f"{r[e].needs / 1e6:.0f}" for r in results if e in r)
        print(f"\n{ENGINES[e][0]}'s packed weights and working memory: {needs} MB.", flush=True)


def describe():
    with open("/proc/cpuinfo") as f:
        about = dict(reversed([map(str.strip, l.split(":", 1)) for l in f if ":" in l]))
    has = [x for x in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if x in about["flags"].split()]
    return (f"{about['model name']} (family {about['cpu family']}, model {about['model']}), "
            f"{len(os.sched_getaffinity(0))} cores, {' '.join(has)}")


def versions(engines):
    from importlib.metadata import version
    modules = sorted({m for e in engines for m in ENGINES[e][1] if importlib.util.find_spec(m)})
    return ", ".join(f"{m} {version(m)}" for m in modules)


def parse():
    def names(choices):
        def convert(text):
            got = text.split(",")
            for g in got:
                if g not in choices:
                    raise argparse.ArgumentTypeError(f"{g}: one of {', '.join(choices)}")
            return got
        return convert
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build", help="demist's build folder")
    p.add_argument("--networks", type=names(NETWORKS), default=list(NETWORKS))
    p.add_argument("--batches", type=lambda s: [int(n) for n in s.split(",")], default=[1, 4, 16])
    p.add_argument("--precisions", type=names(["f32", "bf16"]), default=["f32", "bf16"])
    p.add_argument("--engines", type=names(ENGINES),
                   default=[e for e in ENGINES if not e.startswith("opencl")])
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    for internal in ("engine", "folder", "network", "precision", "make"):
        p.add_argument(f"--{internal}", help=argparse.SUPPRESS)
    p.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    p.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if any(not 1 <= n <= 16 for n in args.batches):
        p.error("--batches: from 1 to 16")
    args.build = os.path.abspath(args.build)
    return args


def main():
    args = parse()
    if args.worker:
        return serve(args)
    if args.make:
        return make_network(args.make, args.folder)
    found = glob.glob("/usr/lib/*/libtcmalloc_minimal.so.*") + glob.glob("/usr/lib/*/libtcmalloc.so.*")
    args.tcmalloc = found[0] if found else None
    print(f"{describe()}; {args.threads} threads{', processor time' if args.threads == 1 else ''}; {versions(args.engines)}; PyTorch with "
          f"{'tcmalloc' if found else 'the C library malloc (no tcmalloc found)'}; "
          f"{args.rounds} rounds, alternating")
    with tempfile.TemporaryDirectory() as args.folder:
        for args.network in args.networks:
            subprocess.run([sys.executable, os.path.abspath(__file__), "--make", args.network,
                            "--folder", args.folder], check=True, stderr=subprocess.DEVNULL)
            make_expected(args)
            for args.precision in args.precisions:
                results = []
                for args.batch in args.batches:
                    results.append(compare(args))
                print_table(args, results)
                print_start(args)


if __name__ == "__main__":
    main()
