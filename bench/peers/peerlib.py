"""What the comparisons with other programs share: processes, files, the machine's name."""
import json
import os
import struct
import subprocess
import time

TYPES = {"F32": "float32", "F64": "float64", "F16": "float16", "I64": "int64", "I32": "int32",
         "U8": "uint8"}


def cpu_name():
    with open("/proc/cpuinfo") as f:
        names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    return f"{names[0]}, {len(os.sched_getaffinity(0))} cores" if names else "unknown CPU"


def run(command, **kwargs):
    """Seconds and standard output of a process; what it complains of ends this one."""
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:3])} … ended with {done.returncode}:\n{done.stderr}")
    return seconds, done.stdout


def write_safetensors(path, tensors):
    names = {type_: name for name, type_ in TYPES.items()}
    header, data = {}, []
    end = 0
    for name, array in tensors.items():
        data.append(array.tobytes())
        header[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape),
                        "data_offsets": [end, end + len(data[-1])]}
        end += len(data[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.writelines(data)


def read_safetensors(path):
    import numpy

    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(size))
        data = f.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        array = numpy.frombuffer(data[start:end], TYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors
