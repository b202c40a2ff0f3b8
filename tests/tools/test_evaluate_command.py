#!/usr/bin/env python3
"""`demist evaluate nll` from outside: the JSON against the reference's terms, the text, statuses."""
import json
import os
import signal
import struct
import zlib

import commandtest
from commandtest import CommandTest

DATA = os.environ.get('DEMIST_TEST_DATA')
CRAWL = DATA and os.path.join(DATA, 'crawl-unet')

CONFIG = '''[backend]
use = cpu
[schedule]
use = cosine
steps = 1000
[network]
use = unet
checkpoint = %s/checkpoint.safetensors
[network.unet]
image_size = 32
num_channels = 32
num_res_blocks = 1
learn_sigma = true
num_classes = 8
[sampler]
use = learned-sigma
[sample]
steps = 4
images = 1
labels = 0-7
'''


def png(width, height, rows):
    def chunk(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I',
                                                                        zlib.crc32(kind + body))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0,
                                                              0))
            + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + row for row in rows)))
            + chunk(b'IEND', b''))


class EvaluateTest(CommandTest):
    def setUp(self):
        if not CRAWL or not os.path.isdir(CRAWL):
            if os.environ.get('DEMIST_REQUIRE_DATA') == '1':
                self.fail('DEMIST_REQUIRE_DATA=1, but crawl-unet is missing')
            self.skipTest('crawl-unet is not in DEMIST_TEST_DATA')
        super().setUp()
        self.write('crawl.ini', CONFIG % CRAWL)
        self.bpd = os.path.join(CRAWL, 'bpd.safetensors')

    def nll(self, *args, data=None):
        return ('evaluate', 'nll', 'crawl.ini', '--data', data or self.bpd, *args)

    def test_json_has_the_references_terms(self):
        self.succeeds(*self.nll('--json', '--set', 'sample.steps=25', '--set', 'noise.source=file',
                                '--set', 'noise.file=' + self.bpd))
        found = json.loads(self.out)
        want = commandtest.read_tensors(self.bpd)[0]
        self.assertTrue(found['complete'])
        self.assertEqual(len(found['images']), 4)
        for i, image in enumerate(found['images']):
            for key in ('total_bpd', 'prior_bpd'):
                self.assertLess(abs(image[key] - want[key][2][i]), 1e-4 * want[key][2][i] + 1e-9)
            for key in ('vb', 'xstart_mse', 'mse'):
                row = want[key][2][25 * i:25 * (i + 1)][::-1]  # there t falls
                self.assertEqual(len(image[key]), 25)
                for a, b in zip(image[key], row):
                    self.assertLess(abs(a - b), 1e-4 * abs(b) + 1e-9)
        for key in ('total_bpd', 'prior_bpd'):
            values = [image[key] for image in found['images']]
            mean = sum(values) / 4
            self.assertAlmostEqual(found['mean'][key], mean, 10)
            error = (sum((v - mean)**2 for v in values) / 12)**0.5
            self.assertAlmostEqual(found['stderr'][key], error, 10)
        for t in range(25):
            mean = sum(image['vb'][t] for image in found['images']) / 4
            self.assertAlmostEqual(found['mean']['vb'][t], mean, 10)

    def test_text_ends_with_the_total_and_its_error(self):
        self.succeeds(*self.nll())
        lines = self.out.splitlines()
        self.assertEqual(lines[0].split()[:2], ['t', 'vb'])
        self.assertEqual([line.split()[0] for line in lines[1:5]], ['0', '1', '2', '3'])
        self.assertRegex(lines[-1], r'^total +\d+\.\d+ ± \d+\.\d+ bits per dimension$')

    def test_sampled_steps_state_their_error(self):
        self.succeeds(*self.nll('--json', '--importance', '2'))
        found = json.loads(self.out)
        self.assertEqual(found['importance'], 2)
        for image in found['images']:
            self.assertNotIn('vb', image)
            self.assertGreaterEqual(image['sampling_error'], 0)
        self.assertGreater(found['stderr']['sampling'], 0)
        self.succeeds(*self.nll('--importance', '2'))
        self.assertIn('adds an error of', self.out)

    def test_a_folder_of_pictures_of_another_size(self):
        os.mkdir(self.path('tiles'))
        for i, name in enumerate(('a_1.png', 'b_1.png', 'b_2.png')):
            rows = [bytes((x * 3 + y * 5 + i * 40) % 256 for x in range(3 * 70)) for y in range(50)]
            self.write('tiles/' + name, png(70, 50, rows))
        self.succeeds(*self.nll('--json', data='tiles'))
        self.assertEqual(len(json.loads(self.out)['images']), 3)
        self.assertIn('make 2 classes, and the network has 8', self.err)

    def test_mistakes_are_told(self):
        os.mkdir(self.path('empty'))
        self.refuses(2, 'say what to evaluate', args=('evaluate',))
        self.refuses(2, 'nothing to evaluate', args=('evaluate', 'fid', 'crawl.ini'))
        self.refuses(2, '--data is missing', args=('evaluate', 'nll', 'crawl.ini'))
        self.refuses(2, 'even number', args=self.nll('--importance', '3'))
        self.refuses(1, 'have pictures', args=self.nll(data='empty'))
        self.refuses(1, 'nowhere', args=self.nll('--json', data='nowhere'))
        self.write('broken.npz', b'PK\3\4')
        self.refuses(1, 'broken.npz', args=self.nll(data='broken.npz'))
        self.refuses(1, 'network takes 3×32×32',
                     args=self.nll(data=os.path.join(DATA, 'mnist/t10k-images-idx3-ubyte.gz')))

    def test_interrupt_ends_the_json(self):
        run = self.start(*self.nll('--json', '--set', 'sample.batch=1', '--set',
                                   'sample.steps=50'))
        first = run.stdout.readline() + run.stdout.readline()  # the first image is there
        run.send_signal(signal.SIGINT)
        found = json.loads(first + run.stdout.read())
        err = run.stderr.read()
        run.wait(timeout=60)
        run.stdout.close()
        run.stderr.close()
        if run.returncode == 0:
            self.assertTrue(found['complete'])  # it was faster than the signal
        else:
            self.assertEqual(run.returncode, 130, err)
            self.assertFalse(found['complete'])
            self.assertLess(len(found['images']), 4)


if __name__ == '__main__':
    commandtest.main()
