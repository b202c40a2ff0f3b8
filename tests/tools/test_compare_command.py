#!/usr/bin/env python3
"""`demist compare` and `demist bench` from outside: statuses, JSON, the page, and how it looks in
a browser. The third folder of the command line holds a backend with a wrong kernel."""
import html.parser
import json
import os
import platform
import shutil
import subprocess
import unittest
import zlib

import commandtest
from commandtest import CommandTest

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
                None)
VOID = {'meta', 'img', 'br', 'hr', 'link', 'input'}


class Page(html.parser.HTMLParser):
    """Checks that every element is closed by its own end tag; gathers addresses and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.text, self.tags = [], [], '', []
        self.feed(text)
        self.close()
        assert not self.open, 'never closed: %s' % self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ('src', 'href', 'xlink:href')]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, '</%s> within %s' % (tag, self.open)
        self.open.pop()

    def handle_data(self, data):
        self.text += data


def png_pixels(data):
    """Width, height and the rows of an 8-bit RGB or RGBA PNG, as Chromium writes them."""
    assert data[:8] == b'\x89PNG\r\n\x1a\n'
    at, packed, width, height, step = 8, b'', 0, 0, 0
    while at < len(data):
        size = int.from_bytes(data[at:at + 4], 'big')
        kind, chunk = data[at + 4:at + 8], data[at + 8:at + 8 + size]
        if kind == b'IHDR':
            width, height = int.from_bytes(chunk[:4], 'big'), int.from_bytes(chunk[4:8], 'big')
            assert chunk[8] == 8 and chunk[9] in (2, 6)
            step = 3 if chunk[9] == 2 else 4
        elif kind == b'IDAT':
            packed += chunk
        at += size + 12
    raw, rows, above = zlib.decompress(packed), [], bytes(width * step)
    for y in range(height):
        begin = y * (width * step + 1)
        kind, line = raw[begin], bytearray(raw[begin + 1:begin + 1 + width * step])
        for i, value in enumerate(line):
            left = line[i - step] if i >= step else 0
            up, corner = above[i], above[i - step] if i >= step else 0
            if kind == 1:
                line[i] = (value + left) & 255
            elif kind == 2:
                line[i] = (value + up) & 255
            elif kind == 3:
                line[i] = (value + (left + up) // 2) & 255
            elif kind == 4:
                guess = left + up - corner
                nearest = min((left, up, corner), key=lambda v: abs(guess - v))
                line[i] = (value + nearest) & 255
        rows.append([tuple(line[i:i + 3]) for i in range(0, len(line), step)])
        above = bytes(line)
    return width, height, rows


class Compare(CommandTest):
    """Points from the example; the MLP's nodes are called after their weights."""

    def setUp(self):
        super().setUp()
        self.points = os.path.join(commandtest.SOURCE, 'examples/straight-path.ini')

    def compare(self, *more, backends='reference,wrong', node='nn.2', factor='1'):
        return self.demist('compare', self.points, '--backends', backends, '--steps', '6',
                           '--plugin-path', commandtest.SPECIMENS,
                           '--set', 'backend.wrong.node=' + node,
                           '--set', 'backend.wrong.factor=' + factor, *more)

    def test_agreement_ends_with_status_0(self):
        self.assertEqual(self.compare(backends='reference,cpu'), 0, self.err)
        self.assertIn('cpu agrees with reference', self.out)
        self.assertEqual(self.err, '')

    def test_a_wrong_kernel_ends_with_status_3_and_its_name(self):
        self.assertEqual(self.compare(factor='1.001'), 3)
        self.assertIn('wrong DISAGREES: the first node that leaves its tolerance is nn.2 (linear)',
                      self.out)

    def test_an_error_within_the_bounds_ends_with_status_0(self):
        self.assertEqual(self.compare(factor='1.000004'), 0, self.out)

    def test_nan_ends_with_status_3(self):
        self.assertEqual(self.compare(factor='0'), 3)
        self.assertIn('nn.2', self.out)
        self.assertIn('not finite', self.out)

    def test_json_is_one_object_and_nothing_else(self):
        self.assertEqual(self.compare('--json', factor='1.001'), 3)
        told = json.loads(self.out)
        self.assertIs(told['disagrees'], True)
        run = told['runs'][0]
        self.assertEqual((run['sampler'], run['steps']), ('ddim', 6))
        reference, wrong = run['backends']
        self.assertEqual(reference['name'], 'reference')
        self.assertEqual(wrong['first_bad_node'], 'nn.2')
        self.assertEqual([step['step'] for step in wrong['steps']], list(range(1, 7)))
        for step in wrong['steps']:
            for kind in ('teacher_forced', 'free_running'):
                self.assertEqual(set(step[kind]), {'max', 'rms', 'psnr'})
        for side in run['backends']:
            for key in ('ms_per_step', 'first_step_ms', 'peak_memory_bytes'):
                self.assertGreater(side[key], 0, key)
        bad = [node for node in wrong['nodes'] if node.get('exceeds')]
        self.assertEqual([node['name'] for node in bad], ['nn.2'])
        self.assertGreater(bad[0]['ratio'], 1)

    def test_results_but_for_times_and_memory_are_the_same_twice(self):
        def told():
            self.compare('--json', backends='reference,cpu,wrong', factor='1.001')
            out = json.loads(self.out)
            for side in out['runs'][0]['backends']:
                for key in ('ms_per_step', 'first_step_ms', 'peak_memory_bytes'):
                    del side[key]
            return out
        self.assertEqual(told(), told())

    def test_a_case_is_kept_and_replayed(self):
        self.assertEqual(self.compare('--save-case', 'cases', factor='1.001'), 3)
        self.assertEqual(self.files('cases'), ['ddim-wrong.safetensors', 'ddim-wrong.txt'])
        self.assertIn('demist compare --replay cases/ddim-wrong.safetensors', self.out)
        replay = ('compare', '--replay', 'cases/ddim-wrong.safetensors')
        self.assertEqual(self.demist(*replay, '--backends', 'cpu,reference', '--json'), 0, self.err)
        told = json.loads(self.out)
        self.assertEqual(told['node'], 'nn.2')
        self.assertEqual([side['exceeds'] for side in told['backends']], [False, False])
        self.assertEqual(self.demist(*replay, '--plugin-path', commandtest.SPECIMENS, self.points,
                                     '--set', 'backend.wrong.node=nn.2',
                                     '--set', 'backend.wrong.factor=1.001'), 3, self.err)
        self.assertIn('leaves its tolerance', self.out)

    def test_mistakes_are_usage(self):
        self.refuses(2, '--backends', args=('compare', 'run.ini'))
        self.refuses(2, 'name 2 to', args=('compare', 'run.ini', '--backends', 'reference'))
        self.refuses(2, 'cpu:bf16', args=('compare', 'run.ini', '--backends', 'cpu,cpu:half'))
        self.refuses(2, '--samplers: no sampler "nonesuch"',
                     args=('compare', 'run.ini', '--backends', 'cpu,reference', '--samplers',
                           'nonesuch'))
        self.refuses(2, '--steps: ', args=('compare', 'run.ini', '--backends', 'cpu,reference',
                                           '--steps', 'many'))
        self.refuses(2, '--observe', args=('compare', 'run.ini', '--backends', 'cpu,reference',
                                           '--observe', 'some'))
        self.refuses(1, 'run.ini', args=('compare', '--replay', 'run.ini'))
        self.refuses(2, '--replay', args=('compare', '--replay', 'run.ini', '--html', 'page.html'))

    def page(self, *more, **options):
        self.compare('--html', 'page.html', *more, **options)
        return self.read('page.html').decode()

    def test_the_page_is_well_formed_and_needs_nothing_else(self):
        page = Page(self.page(backends='reference,cpu,wrong', factor='1.001'))
        for address in page.addresses:
            self.assertTrue(address.startswith(('data:', '#')), address[:60])
        self.assertNotIn('script', page.tags)
        for words in ('cpu agrees with reference', 'wrong disagrees with reference', 'nn.2',
                      'Environment', platform.release()):
            self.assertIn(words, page.text)

    def test_the_page_is_always_replaced(self):
        self.write('page.html', 'something else')
        self.assertIn('agrees', self.page(backends='reference,cpu'))
        self.assertEqual([f for f in self.files('.') if f.startswith('page')], ['page.html'])

    def test_a_page_that_cannot_be_written_is_known_early(self):
        self.refuses(1, 'nowhere/page.html', args=('compare', self.points, '--backends',
                                                   'reference,cpu', '--html', 'nowhere/page.html',
                                                   '--set', 'sample.images=100000'))
        self.assertNotIn('page', ''.join(self.files('.')))

    def test_names_are_text_in_the_page(self):
        source = open(self.points).read().replace(
            'straight-path/', os.path.join(commandtest.SOURCE, 'examples/straight-path/'))
        self.write('<b>&.ini', source)
        self.assertEqual(self.demist('compare', '<b>&.ini', '--backends', 'reference,cpu',
                                     '--steps', '3', '--html', 'page.html'), 0, self.err)
        self.assertIn('&lt;b&gt;&amp;.ini', self.read('page.html').decode())

    @unittest.skipUnless(CHROMIUM, 'there is no chromium to draw the page with')
    def test_a_browser_draws_the_page(self):
        for factor, word, colour in (('1', 'agrees', (238, 248, 241)),
                                     ('1.001', 'disagrees', (253, 238, 238))):
            self.page(factor=factor)
            flags = ['--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
                     '--user-data-dir=' + self.path('profile'), '--window-size=900,1400']
            done = subprocess.run([CHROMIUM, *flags, '--screenshot=' + self.path('page.png'),
                                   'file://' + self.path('page.html')], cwd=self.dir,
                                  capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            width, height, rows = png_pixels(self.read('page.png'))
            self.assertEqual((width, height), (900, 1400))
            colours = {pixel for row in rows for pixel in row}
            self.assertIn(colour, colours, 'the verdict "%s" is not to be seen' % word)
            self.assertGreater(len(colours), 100) # text, curves, points
            filled = [y for y, row in enumerate(rows) if any(pixel != (255, 255, 255)
                                                             for pixel in row)]
            self.assertGreater(max(filled), 1000)


class Bench(CommandTest):
    def test_json_has_what_programs_need(self):
        self.succeeds('bench', 'run.ini', '--backends', 'reference,cpu', '--json', '--threads', '1')
        told = json.loads(self.out)
        self.assertEqual((told['batch'], told['threads'], told['steps']), (2, 1, 20))
        self.assertEqual([side['name'] for side in told['backends']], ['reference', 'cpu'])
        for side in told['backends']:
            for key in ('ms_per_step', 'images_per_s', 'gflops', 'peak_memory_bytes',
                        'first_step_ms', 'peak_gflops'):
                self.assertGreater(side[key], 0, key)
            self.assertLessEqual(side['fastest_ms'], side['ms_per_step'])
            self.assertGreaterEqual(side['measured_steps'], 5)
            self.assertEqual(side['evaluations_per_step'], 1)
            self.assertNotIn('profile', side)
            self.assertAlmostEqual(side['images_per_s'] * side['ms_per_step'] / 1e3 * 20, 2, 6)

    def test_the_batch_is_whole_where_the_run_has_fewer_images(self):
        self.succeeds('bench', 'run.ini', '--backends', 'cpu', '--json', '--set', 'sample.images=1',
                      '--set', 'sample.batch=7')
        self.assertEqual(json.loads(self.out)['batch'], 7)

    def test_the_profile_names_ops(self):
        self.succeeds('bench', 'run.ini', '--backends', 'reference', '--profile', '--json')
        profile = json.loads(self.out)['backends'][0]['profile']
        self.assertIn('linear', [op['op'] for op in profile])
        self.assertAlmostEqual(sum(op['share'] for op in profile), 1, 6)
        self.succeeds('bench', 'run.ini', '--backends', 'reference', '--profile')
        self.assertRegex(self.out, r'linear +2 ')

    def test_mistakes_are_usage(self):
        self.refuses(2, '--backends', args=('bench', 'run.ini'))
        self.refuses(2, '--backends nonesuch: no backend',
                     args=('bench', 'run.ini', '--backends', 'nonesuch'))

    def test_a_chain_of_one_step_is_measured_too(self):
        self.succeeds('bench', 'run.ini', '--backends', 'cpu', '--json', '--set', 'sample.steps=1')
        self.assertGreater(json.loads(self.out)['backends'][0]['ms_per_step'], 0)


if __name__ == '__main__':
    commandtest.main()
