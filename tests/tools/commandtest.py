"""What the tests of the command share: the command itself, scratch folders, tensor files.

A test program is a module of unittest classes that ends with commandtest.main(). It is called as

    python3 test_X.py DEMIST PLUGIN_DIR SPECIMEN_DIR SOURCE_ROOT

and prints a line for each test as CMocka does, so that they are counted alike.
"""
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

DEMIST = PLUGINS = SPECIMENS = SOURCE = None


def tensor_bytes(tensors, metadata=None):
    """A safetensors file of {name: (dtype, shape, bytes)}."""
    header, data = {}, b''
    if metadata:
        header['__metadata__'] = metadata
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {'dtype': dtype, 'shape': shape,
                        'data_offsets': [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data


def floats(shape, values):
    return ('F32', list(shape), struct.pack('<%df' % len(values), *values))


def read_tensors(path):
    """{name: (dtype, shape, values)} and the metadata of a safetensors file."""
    with open(path, 'rb') as file:
        raw = file.read()
    length = struct.unpack('<Q', raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    metadata = header.pop('__metadata__', {})
    formats = {'F32': 'f', 'I64': 'q'}
    out = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry['data_offsets'])
        letter = formats[entry['dtype']]
        values = struct.unpack('<%d%s' % ((end - begin) // struct.calcsize(letter), letter),
                               raw[begin:end])
        out[name] = (entry['dtype'], entry['shape'], values)
    return out, metadata


def weights(seed=1, scale=1.0):
    """A small MLP 3 -> 8 -> 2 with reproducible weights, as a network `mlp` reads it."""
    state = seed

    def draw(n):
        nonlocal state
        out = []
        for _ in range(n):
            state = (state * 1103515245 + 12345) % 2**31
            out.append(scale * (state / 2**31 - 0.5))
        return out

    return {'model.0.weight': floats([8, 3], draw(24)), 'model.0.bias': floats([8], draw(8)),
            'model.2.weight': floats([2, 8], draw(16)), 'model.2.bias': floats([2], draw(2))}


CONFIG = '''[backend]
use = reference
[schedule]
use = linear
steps = 20
[schedule.linear]
beta_start = 0.01
beta_end = 0.3
[network]
use = mlp
checkpoint = net.safetensors
[network.mlp]
hidden = 8
[sampler]
use = ddim
[sampler.ddim]
eta = 0.5
[sample]
images = 5
batch = 2
seed = 3
[output]
dir = out
formats = npy
'''


class CommandTest(unittest.TestCase):
    """A scratch folder with run.ini and net.safetensors, which is the working directory."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='demist-test-')
        os.chmod(self.dir, 0o755)
        self.addCleanup(shutil.rmtree, self.dir)
        self.write('net.safetensors', tensor_bytes(weights()))
        self.write('run.ini', CONFIG)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, content):
        mode = 'wb' if isinstance(content, bytes) else 'w'
        with open(self.path(name), mode) as file:
            file.write(content)
        return self.path(name)

    def read(self, name):
        with open(self.path(name), 'rb') as file:
            return file.read()

    def config(self, old, new):
        """Replaces a piece of run.ini, which must be there."""
        self.assertIn(old, CONFIG)
        self.write('run.ini', CONFIG.replace(old, new))

    def files(self, folder='out'):
        where = self.path(folder)
        return sorted(os.listdir(where)) if os.path.isdir(where) else []

    def arguments(self, args):
        return [DEMIST] + [str(a) for a in args]

    def environment(self, **more):
        env = dict(os.environ, DEMIST_PLUGIN_PATH=PLUGINS, XDG_CONFIG_HOME=self.dir)
        env.update(more)
        return env

    def start(self, *args, **popen):
        return subprocess.Popen(self.arguments(args), cwd=self.dir, env=self.environment(),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)

    def demist(self, *args, env=None, **popen):
        """Runs the command; self.out, self.err and the exit status."""
        popen.setdefault('stdout', subprocess.PIPE)
        done = subprocess.run(self.arguments(args), cwd=self.dir, stderr=subprocess.PIPE,
                              env=self.environment(**(env or {})), text=True, timeout=240, **popen)
        self.out, self.err = done.stdout or '', done.stderr
        self.assertIn(done.returncode, (0, 1, 2, 3, 130),
                      'exit status %d: %s' % (done.returncode, self.err))
        return done.returncode

    def succeeds(self, *args, **options):
        status = self.demist(*args, **options)
        self.assertEqual(status, 0, self.err)

    def refuses(self, status, *fragments, args=('sample', 'run.ini'), **options):
        """The command ends with this status, says all fragments on standard error, and has
        printed no result."""
        found = self.demist(*args, **options)
        self.assertEqual(found, status, self.err)
        for fragment in fragments:
            self.assertIn(fragment, self.err)
        self.assertEqual(self.out, '')


class Result(unittest.TextTestResult):
    """A line for each test as CMocka prints it."""

    def line(self, word, test):
        print('[ %8s ] %s' % (word, test._testMethodName), flush=True)

    def startTest(self, test):
        super().startTest(test)
        self.line('RUN     ', test)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.line('OK', test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line('SKIPPED ', test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.line('FAILED  ', test)

    def addError(self, test, err):
        super().addError(test, err)
        self.line('FAILED  ', test)


def main():
    global DEMIST, PLUGINS, SPECIMENS, SOURCE
    DEMIST, PLUGINS, SPECIMENS, SOURCE = (os.path.abspath(a) for a in sys.argv[1:5])
    # The module that calls is __main__; this one was imported by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runner = unittest.TextTestRunner(stream=sys.stderr, resultclass=Result)
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules['__main__'])
    only = sys.argv[5:]
    if only:
        suite = unittest.defaultTestLoader.loadTestsFromNames(only, sys.modules['__main__'])
    sys.exit(not runner.run(suite).wasSuccessful())
