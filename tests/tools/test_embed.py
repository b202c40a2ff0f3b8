#!/usr/bin/env python3
"""examples/embed.c does what the command does. DEMIST_EMBED is the program, built against the
shared library."""
import os
import re
import struct
import subprocess

import commandtest
from commandtest import CommandTest


class Embed(CommandTest):
    def embed(self, *args):
        done = subprocess.run([os.environ['DEMIST_EMBED'], *args], cwd=self.dir, text=True,
                              env=self.environment(), capture_output=True, timeout=240)
        self.out, self.err = done.stdout, done.stderr
        return done.returncode

    def test_a_program_gets_what_the_command_writes(self):
        self.succeeds('sample', 'run.ini')
        self.assertEqual(self.embed('run.ini', 'output.dir=embedded'), 0, self.err)
        raw = self.read('embedded/samples.npy')
        self.assertEqual(raw, self.read('out/samples.npy'))
        values = struct.unpack('<10f', raw[-40:])
        for i in range(5):
            mean, low, high = map(float, re.search(
                r'image %d: mean (\S+), from (\S+) to (\S+)' % i, self.out).groups())
            pair = values[2 * i:2 * i + 2]
            self.assertAlmostEqual(mean, sum(pair) / 2, places=6)
            self.assertAlmostEqual(low, min(pair), places=6)
            self.assertAlmostEqual(high, max(pair), places=6)
        self.assertIn('file embedded/samples.npy', self.out)

    def test_a_program_is_told_every_step(self):
        self.assertEqual(self.embed('run.ini'), 0, self.err)
        steps = re.findall(r'^batch (\d) of 3, step (\d+) of 20$', self.err, re.M)
        self.assertEqual(steps, [(str(b), str(s)) for b in (1, 2, 3) for s in range(21)])

    def test_a_program_gets_the_error(self):
        self.assertEqual(self.embed('run.ini', 'sampler.ddim.eta=2'), 1)
        self.assertIn('--set: [sampler.ddim]', self.err)


if __name__ == '__main__':
    commandtest.main()
