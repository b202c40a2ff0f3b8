"""bench/cuda_all.py where there is no GPU: its sections with stand-ins, and a report whatever happens.

    python3 test_cuda_bench.py DEMIST PLUGIN_DIR SPECIMEN_DIR SOURCE_ROOT
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import commandtest


class CudaBench(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.report = self.folder.name + '/report'
        self.build = os.path.dirname(os.path.dirname(commandtest.DEMIST))

    def tearDown(self):
        self.folder.cleanup()

    def command(self, *words, build=None):
        return [sys.executable, commandtest.SOURCE + '/bench/cuda_all.py', '--dry-run', '--without-torch',
                '--build', build or self.build, '--report', self.report, *words]

    def run_it(self, *words, **kw):
        done = subprocess.run(self.command(*words, **kw), capture_output=True, text=True, timeout=120)
        return done, self.told()

    def told(self):
        with open(self.report + '.json') as f:
            return json.load(f)

    def test_the_report_has_every_section_and_the_speeds(self):
        only = 'device,build,compare,peaks,speed'
        done, told = self.run_it('--only', only, build=self.fake_ninja())
        self.assertEqual([s['name'] for s in told['sections']], only.split(','), done.stderr)
        self.assertTrue(told['state'].startswith('finished'), told['state'])
        self.assertEqual([s for s in self.steps(told) if s['status'] in ('FAILED', 'stopped')], [])
        self.assertEqual(done.returncode, 0)
        rows = [(r['engine'], r['batch']) for r in told['speed']]
        self.assertEqual(rows, [('demist', 1), ('demist', 2)])
        self.assertTrue(all(r['images_per_s'] > 0 for r in told['speed']))
        self.assertTrue(all(0 < r['of_matrix_peak'] < 10 for r in told['speed']))
        with open(self.report + '.md') as f:
            self.assertIn('| bf16 | demist | ', f.read())

    def test_a_section_that_fails_stops_no_other(self):
        done, told = self.run_it('--only', 'device,ops,sanitizer', build=self.folder.name)
        self.assertEqual(done.returncode, 1)
        self.assertEqual([s['name'] for s in told['sections']], ['device', 'ops', 'sanitizer'])
        self.assertEqual({s['status'] for s in told['sections'][1]['steps']}, {'FAILED'})
        self.assertIn('No such file', told['sections'][1]['steps'][0]['text'])
        self.assertEqual(len(told['sections'][2]['steps']), 2)

    def test_the_budget_ends_what_takes_longer(self):
        build = self.fake_ops('sleep 60')
        start = time.monotonic()
        done, told = self.run_it('--only', 'ops', '--budget', '4', build=build)
        self.assertLess(time.monotonic() - start, 30)
        self.assertEqual([s['status'] for s in self.steps(told)], ['stopped', 'left out', 'left out'])

    def test_a_signal_leaves_a_report(self):
        build = self.fake_ops('sleep 60')
        child = subprocess.Popen(self.command('--only', 'device,ops', build=build), stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, text=True)
        for _ in range(600):  # until the slow section has begun
            if os.path.exists(build + '/begun'):
                break
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 1)
        told = self.told()
        self.assertTrue(told['state'].startswith('interrupted'), told['state'])
        self.assertEqual(told['sections'][0]['steps'][0]['status'], 'ok')
        self.assertIn('stand-in: ok', out)

    # --- stand-ins ---

    def steps(self, told):
        return [step for section in told['sections'] for step in section['steps']]

    def fake_ninja(self):
        """The build directory with nothing to build."""
        build = self.folder.name + '/build'
        os.mkdir(build)
        for name in ('tools', 'plugins', 'tests'):
            os.symlink(f'{self.build}/{name}', f'{build}/{name}')
        with open(build + '/build.ninja', 'w') as f:
            f.write('build all: phony\n')
        return build

    def fake_ops(self, script):
        build = self.folder.name + '/build'
        os.makedirs(build + '/tests/cuda-emulator')
        for name in ('ops', 'contract'):
            path = f'{build}/tests/cuda-emulator/test_backend_{name}_cuda_emulated'
            with open(path, 'w') as f:
                f.write(f'#!/bin/sh\n: >{build}/begun\n{script}\n')
            os.chmod(path, 0o755)
        return build


if __name__ == '__main__':
    commandtest.main()
