#!/usr/bin/env python3
"""The command as its users meet it: calls, files, exit statuses, and every error with its text."""
import fcntl
import json
import math
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import termios
import time

import commandtest
from commandtest import (CONFIG, CommandTest, floats, read_tensors, tensor_bytes, weights)


def npy(raw):
    """Shape and floats of an .npy file of float32."""
    length = struct.unpack('<H', raw[8:10])[0]
    header = raw[10:10 + length].decode()
    shape = [int(n) for n in re.search(r"'shape': \(([^)]*)\)", header)[1].split(',') if n.strip()]
    data = raw[10 + length:]
    return shape, struct.unpack('<%df' % (len(data) // 4), data)


class Configuration(CommandTest):
    """Mistakes in an INI file: status 2, and a message that starts with the place."""

    def starts_with(self, place):
        self.assertTrue(self.err.startswith(place), self.err)

    def line_of(self, text):
        with open(self.path('run.ini')) as file:
            return next(i for i, line in enumerate(file, 1) if line.startswith(text))

    def test_unknown_key_names_the_nearest(self):
        self.config('eta = 0.5', 'etta = 0.5')
        self.refuses(2, 'etta', 'did you mean "eta"')
        self.starts_with('run.ini:%d: ' % self.line_of('etta'))

    def test_unknown_section_names_the_nearest(self):
        self.config('[output]', '[outputs]')
        self.refuses(2, '[outputs]', 'output')
        self.starts_with('run.ini:%d: ' % self.line_of('[outputs]'))

    def test_wrong_type(self):
        self.config('images = 5', 'images = five')
        self.refuses(2, 'images', 'five', 'expected')
        self.starts_with('run.ini:%d: ' % self.line_of('images'))

    def test_guidance_of_a_network_that_knows_none(self):
        self.config('images = 5', 'images = 5\nguidance_scale = 2')
        self.refuses(2, 'guidance_scale', 'no condition')
        self.starts_with('run.ini:%d: ' % self.line_of('guidance_scale'))

    def test_options_of_the_default_backend_are_placed_at_their_section(self):
        self.config('use = reference\n', 'precision = tf32\n')
        self.refuses(2, 'precision = tf32')
        self.starts_with('run.ini:%d: ' % self.line_of('[backend]'))

    def test_range_of_large_numbers_is_told(self):
        self.refuses(2, 'from 0 to 9223372036854774784',
                     args=('sample', 'run.ini', '--set', 'sample.seed=18446744073709551615'))
        self.refuses(2, 'from 1 to 1000000',
                     args=('sample', 'run.ini', '--set', 'schedule.steps=1000001'))

    def test_out_of_range(self):
        self.config('eta = 0.5', 'eta = 1.5')
        self.refuses(2, 'eta', '1.5', 'from 0 to 1')
        self.starts_with('run.ini:%d: ' % self.line_of('eta'))

    def test_missing_section(self):
        self.config('[schedule]\nuse = linear\nsteps = 20\n', '')
        self.refuses(2, '[schedule] use is not set', 'demist plugins')
        self.starts_with('run.ini: ')

    def test_duplicate_key_names_both_lines(self):
        self.config('seed = 3', 'seed = 3\nseed = 4')
        first = self.line_of('seed')
        self.refuses(2, 'seed', str(first))
        self.starts_with('run.ini:%d: ' % (first + 1))

    def test_over_long_line_is_refused_by_its_number(self):
        self.config('seed = 3', 'seed = 3 ; ' + 'x' * 250)
        self.refuses(2, 'bytes long')
        self.starts_with('run.ini:%d: ' % self.line_of('seed'))

    def test_set_is_validated_like_the_file(self):
        self.refuses(2, 'eta', 'from 0 to 1',
                     args=('sample', 'run.ini', '--set', 'sampler.ddim.eta=2'))
        self.starts_with('--set: ')
        self.refuses(2, 'section.key=value', args=('sample', 'run.ini', '--set', 'eta'))

    def test_schedule_that_cannot_have_these_steps(self):
        self.config('beta_end = 0.3', 'beta_end = 1')
        self.refuses(2, 'schedule linear', 'beta')
        self.starts_with('run.ini:%d: ' % self.line_of('use = linear'))

    def test_steps_that_do_not_exist(self):
        self.config('images = 5', 'images = 5\nsteps = ddim13')
        self.refuses(2, 'ddim13')
        self.starts_with('run.ini:%d: ' % (self.line_of('images') + 1))

    def test_options_that_a_plugin_refuses_have_a_place(self):
        text = CONFIG.replace('use = mlp', 'use = unet')
        text = text.replace('[network.mlp]\nhidden = 8', '[network.unet]\nimage_size = 33')
        self.write('run.ini', text)
        line = text.split('\n').index('use = unet') + 1
        self.refuses(2, 'run.ini:%d: ' % line, 'image_size')

    def test_files_that_nothing_would_read(self):
        self.config('images = 5', 'images = 5\nstart_file = x.npz')
        self.refuses(2, '[sample] start_file', 'set start = file', 'remove the key')
        self.starts_with('run.ini:%d: ' % self.line_of('start_file'))
        self.refuses(2, '--set: [noise] file', 'set source = file',
                     args=('sample', 'run.ini', '--set', 'sample.start_file=',
                           '--set', 'noise.file=x.npz'))
        self.refuses(2, '[noise] file', args=('sample', 'run.ini', '--set', 'sample.start_file=',
                                              '--set', 'noise.source=torch-cpu',
                                              '--set', 'noise.file=x.npz'))
        self.succeeds('sample', 'run.ini', '--set', 'sample.start_file=')

    def test_sampler_and_schedule_that_do_not_fit(self):
        self.config('use = linear', 'use = straight')
        self.refuses(2, 'straight', 'linear',
                     args=('sample', 'run.ini', '--set', 'sampler.use=ddpm',
                           '--set', 'network.mlp.predict=x1', '--set', 'network.mlp.time=t'))
        self.starts_with('--set: sampler ddpm needs a variance-preserving schedule')

    def test_format_that_does_not_fit_the_data(self):
        self.config('formats = npy', 'formats = grid')
        self.refuses(2, 'grid is for images', 'plot')
        self.starts_with('run.ini:%d: ' % self.line_of('formats'))

    def test_unreadable_file(self):
        self.refuses(2, '"missing.ini"', 'No such file', args=('sample', 'missing.ini'))
        self.refuses(2, 'Is a directory', args=('sample', '.'))

    def test_nothing_is_written_after_a_mistake(self):
        self.config('eta = 0.5', 'eta = 1.5')
        self.refuses(2)
        self.assertEqual(self.files(), [])


class Usage(CommandTest):
    def test_usage_errors_are_status_2(self):
        self.refuses(2, 'COMMAND is missing', args=())
        self.refuses(2, '"sampel"', 'did you mean "sample"', args=('sampel',))
        self.refuses(2, 'CONFIG is missing', args=('sample',))
        self.refuses(2, 'unrecognized option', args=('sample', 'run.ini', '--frobnicate'))
        self.refuses(2, '--threads', args=('sample', 'run.ini', '--threads', 'many'))
        self.refuses(2, '--in FILE', args=('predict', 'run.ini'))
        self.refuses(2, '--out FILE', args=('predict', 'run.ini', '--in', 'x'))
        self.refuses(2, 'one CONFIG', args=('sample', 'run.ini', 'run.ini'))
        self.refuses(2, 'FILE is missing', args=('inspect',))

    def test_help_and_version_go_to_standard_output(self):
        self.succeeds('--version')
        self.assertRegex(self.out, r'^demist \d+\.\d+\.\d+\n$')
        for args in ((), ('sample',), ('predict',), ('plugins',), ('devices',), ('inspect',)):
            self.succeeds(*args, '--help')
            self.assertIn('Usage: demist', self.out)
            self.assertEqual(self.err, '')

    def test_full_standard_output_is_an_error(self):
        for args in (('plugins',), ('--help',), ('sample', 'run.ini', '-q')):
            with open('/dev/full', 'w') as full:
                self.assertEqual(self.demist(*args, stdout=full), 1)
            self.assertIn('No space left', self.err)


    def test_messages_go_into_no_file_where_standard_descriptors_are_closed(self):
        for closed in ((2,), (1, 2), (0, 1, 2)):
            done = subprocess.run(
                self.arguments(('sample', 'run.ini', '-T', 't.safetensors')), cwd=self.dir,
                env=self.environment(), close_fds=False, timeout=240,
                preexec_fn=lambda: [os.close(fd) for fd in closed])
            self.assertEqual(done.returncode, 1 if 1 in closed else 0)
            tensors, _ = read_tensors(self.path('t.safetensors'))
            self.assertEqual(tensors['x'][1][1:], [5, 2])
            self.assertEqual(npy(self.read('out/samples.npy'))[0], [5, 2])


class Sample(CommandTest):
    def test_paths_of_files_go_to_standard_output(self):
        self.succeeds('sample', 'run.ini')
        self.assertEqual(self.out, 'out/samples.npy\n')
        self.assertIn('5 images', self.err)
        self.assertEqual(npy(self.read('out/samples.npy'))[0], [5, 2])

    def test_quiet_says_nothing(self):
        self.succeeds('sample', 'run.ini', '--quiet')
        self.assertEqual(self.err, '')

    def test_images_depend_on_neither_threads_nor_batch_nor_company(self):
        self.succeeds('sample', 'run.ini', '--threads', '1')
        whole = npy(self.read('out/samples.npy'))[1]
        for backend in ('reference', 'cpu'):
            runs = []
            for more in ((), ('--threads', '3'), ('--set', 'sample.batch=5'),
                         ('--set', 'sample.batch=1')):
                self.succeeds('sample', 'run.ini', '--overwrite', '--set',
                              'backend.use=' + backend, *more)
                runs.append(npy(self.read('out/samples.npy'))[1])
            self.succeeds('sample', 'run.ini', '--overwrite', '--set', 'backend.use=' + backend,
                          '--set', 'sample.first=3', '--set', 'sample.images=1')
            alone = npy(self.read('out/samples.npy'))[1]
            self.assertEqual(len(set(runs)), 1)
            self.assertEqual(alone, runs[0][6:8])
            for a, b in zip(whole, runs[0]):
                self.assertAlmostEqual(a, b, delta=1e-4)

    def test_relative_paths_start_at_the_ini_file_and_at_the_working_directory(self):
        os.mkdir(self.path('sub'))
        for name in ('run.ini', 'net.safetensors'):
            shutil.move(self.path(name), self.path('sub/' + name))
        self.succeeds('sample', 'sub/run.ini')
        self.assertEqual(self.out, 'out/samples.npy\n')
        self.refuses(1, 'net.safetensors', args=('sample', 'sub/run.ini', '--set',
                                                 'network.checkpoint=net.safetensors'))

    def test_trajectory_holds_every_state(self):
        self.succeeds('sample', 'run.ini', '--trajectory', 't.safetensors')
        tensors, metadata = read_tensors(self.path('t.safetensors'))
        self.assertEqual(tensors['x'][:2], ('F32', [21, 5, 2]))
        self.assertEqual(tensors['timesteps'], ('I64', [20], tuple(range(19, -1, -1))))
        self.assertEqual(tensors['x'][2][-10:], npy(self.read('out/samples.npy'))[1])
        self.assertIn('seed = 3', metadata['demist'])
        before = self.read('t.safetensors')
        self.succeeds('sample', 'run.ini', '--trajectory', 't.safetensors', '--set',
                      'sample.batch=5')
        after = read_tensors(self.path('t.safetensors'))[0]
        self.assertEqual(after, read_tensors(self.write('before', before))[0])

    def test_trajectory_replaces_none_of_the_results(self):
        for name in 'out/samples.npy', './out//samples.npy':
            self.refuses(1, 'samples.npy', 'another name',
                         args=('sample', 'run.ini', '--trajectory', name))
        self.succeeds('sample', 'run.ini', '--trajectory', 'out/t.safetensors')

    def test_trajectory_of_a_path_has_its_times(self):
        self.config('use = linear', 'use = straight')
        self.succeeds('sample', 'run.ini', '--trajectory', 't.safetensors',
                      '--set', 'network.mlp.predict=x1', '--set', 'network.mlp.time=t')
        dtype, shape, times = read_tensors(self.path('t.safetensors'))[0]['timesteps']
        self.assertEqual((dtype, shape), ('F32', [20]))
        self.assertAlmostEqual(times[0], 0.95, places=6)
        self.assertEqual(times[-1], 0)

    def test_files_of_another_run_are_not_touched(self):
        self.config('formats = npy', 'formats = npy, safetensors')
        self.succeeds('sample', 'run.ini')
        first = {name: self.read('out/' + name) for name in self.files()}
        self.assertEqual(sorted(first), ['samples.npy', 'samples.safetensors'])
        self.succeeds('sample', 'run.ini')  # the same run again replaces its own
        self.assertEqual(self.files(), sorted(first))
        self.succeeds('sample', 'run.ini', '--set', 'sample.seed=4')
        self.assertIn('notice', self.err)
        self.assertEqual(self.out.split(), ['out/samples-2.npy', 'out/samples-2.safetensors'])
        for name, content in first.items():
            self.assertEqual(self.read('out/' + name), content)
        self.succeeds('sample', 'run.ini', '--set', 'sample.seed=5', '--overwrite')
        self.assertNotEqual(self.read('out/samples.npy'), first['samples.npy'])

    def test_two_runs_at_once_keep_apart(self):
        runs = [self.start('sample', 'run.ini', '--set', 'sample.seed=%d' % seed)
                for seed in (10, 11)]
        names = []
        for run in runs:
            out, err = run.communicate(timeout=240)
            self.assertEqual(run.returncode, 0, err)
            names.append(out.strip())
        self.assertEqual(sorted(names), ['out/samples-2.npy', 'out/samples.npy'])
        for seed, name in zip((10, 11), names):
            self.succeeds('sample', 'run.ini', '--set', 'sample.seed=%d' % seed,
                          '--set', 'output.dir=alone', '--overwrite')
            self.assertEqual(self.read(name), self.read('alone/samples.npy'))

    def test_data_become_noise_and_noise_data(self):
        self.write('run.ini', CONFIG.replace('formats = npy\n', '').replace('eta = 0.5', 'eta = 0'))
        start = [0.25, -0.5, 0.125, 0, 1, -1, 0.5, 0.75, -0.25, 0.0625]
        self.write('data.safetensors', tensor_bytes({'x_0': floats([5, 2], start)}))
        up = ('sample', 'run.ini', '--set', 'sample.start=file', '--set', 'sample.direction=encode',
              '--set', 'sample.start_file=data.safetensors')
        self.succeeds(*up, '--trajectory', 't.safetensors')
        self.assertEqual(self.out, 'out/x_T.safetensors\n')
        tensors, metadata = read_tensors(self.path('out/x_T.safetensors'))
        self.assertEqual(tensors['x_T'][:2], ('F32', [5, 2]))
        self.assertIn('direction = encode', metadata['demist'])
        self.refuses(1, 'x_T.safetensors', 'another name',
                     args=(*up, '--trajectory', 'out/x_T.safetensors'))
        states = read_tensors(self.path('t.safetensors'))[0]
        self.assertEqual(states['timesteps'], ('I64', [20], tuple(range(20))))
        self.assertEqual(states['x'][2][:10], tuple(start))
        self.assertEqual(states['x'][2][-10:], tensors['x_T'][2])

        self.succeeds('sample', 'run.ini', '--set', 'sample.start=file', '--trajectory', 't.safetensors',
                      '--set', 'sample.start_file=out/x_T.safetensors')
        states = read_tensors(self.path('t.safetensors'))[0]
        self.assertEqual(states['x'][2][:10], tensors['x_T'][2])
        self.assertEqual(states['timesteps'][2], tuple(range(19, -1, -1)))

        self.succeeds(*up, '--explain')
        for fragment in ('20 steps from data to noise at 0', 'end at alpha_bar = 0',
                         'encoded to x_T: a file', 'from data.safetensors'):
            self.assertIn(fragment, self.out)
        self.refuses(2, 'sampler ddim as configured draws noise', 'eta = 0',
                     args=(*up, '--set', 'sampler.ddim.eta=0.5'))
        self.refuses(2, '--set: [sample] direction = encode needs data', 'start = file',
                     args=('sample', 'run.ini', '--set', 'sample.direction=encode'))

    def test_empty_formats_write_nothing(self):
        self.config('formats = npy', 'formats =')
        self.succeeds('sample', 'run.ini', '--trajectory', 't.safetensors')
        self.assertEqual((self.out, self.files()), ('', []))


class Explain(CommandTest):
    def test_explain_prints_all_and_writes_nothing(self):
        self.succeeds('sample', 'run.ini', '--explain', '--set', 'sample.seed=9')
        for fragment in ('eta = 0.5', 'run.ini:17', '--set', 'default', 'beta_start',
                         'sampler-ddim.so', 'ABI 1.', '20 steps at 19', 'alpha_bar',
                         'as built: graph denoise', 'as compiled: graph denoise', 'parameters',
                         'backend reference', 'philox', 'net.safetensors'):
            self.assertIn(fragment, self.out)
        self.assertEqual(self.files(), [])

    def test_explain_validates_sections_that_are_not_in_use(self):
        self.config('[output]', '[sampler.ddpm]\nvarianse = large\n[output]')
        self.succeeds('sample', 'run.ini')
        self.refuses(2, 'varianse', 'variance', args=('sample', 'run.ini', '--explain'))
        self.assertTrue(self.err.startswith('run.ini:'), self.err)

    def test_explain_tells_which_sections_it_cannot_check(self):
        self.config('[output]', '[backend.absent]\nwarp = 9\n[output]')
        self.succeeds('sample', 'run.ini', '--explain')
        self.assertIn('[backend.absent]', self.out)
        self.assertIn('not checked', self.out)


class Predict(CommandTest):
    def expected(self, rows):
        """The MLP by hand: out of rows (x, y, t)."""
        tensors = {name: struct.unpack('<%df' % (len(raw) // 4), raw)
                   for name, (_, _, raw) in weights().items()}
        out = []
        for row in rows:
            hidden = [max(0, tensors['model.0.bias'][j] +
                          sum(tensors['model.0.weight'][3 * j + i] * row[i] for i in range(3)))
                      for j in range(8)]
            out += [tensors['model.2.bias'][k] +
                    sum(tensors['model.2.weight'][8 * k + j] * hidden[j] for j in range(8))
                    for k in range(2)]
        return out

    def predict(self, *sets):
        return self.demist('predict', 'run.ini', '--in', 'in.safetensors',
                           '--out', 'out.safetensors', *sets)

    def test_times_as_index_and_as_the_network_has_them(self):
        x = floats([2, 2], [0.1, -0.7, 0.4, 1.1])
        index = ('I64', [2], struct.pack('<2q', 4, 19))
        network = floats([2, 1], [0.2, 0.95])
        expected = self.expected([(0.1, -0.7, 0.2), (0.4, 1.1, 0.95)])
        for tensors in ({'t': index}, {'t_index': index}, {'t': network}, {'t_network': network},
                        {'t_index': index, 't_network': network}):
            self.write('in.safetensors', tensor_bytes(dict(tensors, x=x)))
            for backend in ('reference', 'cpu'):
                self.assertEqual(self.predict('--set', 'backend.use=' + backend), 0, self.err)
                dtype, shape, out = read_tensors(self.path('out.safetensors'))[0]['out']
                self.assertEqual((dtype, shape), ('F32', [2, 2]))
                for a, b in zip(out, expected):
                    self.assertAlmostEqual(a, b, delta=1e-6)

    def test_unknown_tensors_are_ignored_with_a_notice(self):
        self.write('in.safetensors', tensor_bytes({'x': floats([1, 2], [1, 2]),
                                                   't': floats([1], [0.5]),
                                                   'eps': floats([1], [0.5])}))
        self.assertEqual(self.predict(), 0)
        self.assertIn('notice', self.err)
        self.assertIn('eps', self.err)

    def test_refuses_two_times_that_differ(self):
        x = floats([1, 2], [1, 2])
        self.write('in.safetensors', tensor_bytes({'x': x, 't': floats([1], [0.5]),
                                                   't_network': floats([1], [0.5])}))
        self.assertEqual(self.predict(), 1)
        self.assertIn('both give the time', self.err)
        self.write('in.safetensors', tensor_bytes({
            'x': x, 't_index': ('I64', [1], struct.pack('<q', 4)),
            't_network': floats([1], [0.3])}))
        self.assertEqual(self.predict(), 1)
        self.assertIn('converts to', self.err)
        self.assertFalse(os.path.exists(self.path('out.safetensors')))


class Plugins(CommandTest):
    def specimen(self, name, as_name='sampler-specimen.so', folder='plugins'):
        os.makedirs(self.path(folder), mode=0o755, exist_ok=True)
        os.chmod(self.path(folder), 0o755)
        shutil.copy(os.path.join(commandtest.SPECIMENS, 'specimen-%s.so' % name),
                    self.path(folder + '/' + as_name))
        os.chmod(self.path(folder + '/' + as_name), 0o755)

    def refuses_specimen(self, *fragments):
        self.refuses(2, *fragments, args=('sample', 'run.ini', '--plugin-path',
                                          self.path('plugins'), '--set', 'sampler.use=specimen'))
        self.assertTrue(self.err.startswith('--set: '), self.err)

    def test_absent_plugin_tells_where_it_was_sought(self):
        self.config('use = ddim', 'use = dddim')
        self.refuses(2, 'sampler "dddim"', commandtest.PLUGINS, 'sampler-dddim.so',
                     'did you mean "ddim"')
        self.assertTrue(self.err.startswith('run.ini:15: '), self.err)

    def test_plugin_needing_a_newer_abi(self):
        self.specimen('newer-minor')
        self.refuses_specimen('1.7', 'sampler-specimen.so')

    def test_plugin_of_another_epoch(self):
        self.specimen('other-epoch')
        self.refuses_specimen('2.3', 'sampler-specimen.so')

    def test_plugin_without_its_symbol(self):
        self.specimen('no-symbol')
        self.refuses_specimen('demist_plugin_v1', 'sampler-specimen.so')

    def test_plugin_with_a_missing_symbol(self):
        self.specimen('undefined')
        self.refuses_specimen('undefined symbol', 'sampler-specimen.so')

    def test_file_that_is_no_plugin(self):
        self.specimen('good')
        self.write('plugins/sampler-specimen.so', b'no library at all')
        self.refuses_specimen('sampler-specimen.so')

    def test_world_writable_plugin_directory(self):
        self.specimen('good')
        os.chmod(self.path('plugins'), 0o777)
        self.refuses_specimen(self.path('plugins'), 'writ')

    def test_world_writable_plugin_file(self):
        self.specimen('good')
        os.chmod(self.path('plugins/sampler-specimen.so'), 0o777)
        self.refuses_specimen('sampler-specimen.so', 'writ')

    def test_plugins_lists_good_shadowed_and_broken_ones(self):
        self.specimen('good')
        self.specimen('good', folder='second')
        self.specimen('no-symbol', as_name='sampler-broken.so')
        args = ('plugins', '-P', 'plugins', '-P', self.path('second'))
        self.succeeds(*args)
        for fragment in ('ddim', 'specimen', 'shadowed', 'broken', commandtest.PLUGINS):
            self.assertIn(fragment, self.out)
        self.succeeds(*args, '--json')
        listing = json.loads(self.out)
        self.assertIn(('sampler', 'specimen'),
                      [(p['kind'], p['name']) for p in listing['plugins']])
        # An installed demist is the last place of the search, and shadowed as a whole.
        self.assertEqual([p['file'] for p in listing['shadowed'] if p['name'] == 'specimen'],
                         [self.path('second/sampler-specimen.so')])
        self.assertEqual([p['name'] for p in listing['broken']], ['broken'])

    def test_ini_of_a_plugin_can_be_used(self):
        self.succeeds('plugins', 'sampler.ddim', '--ini')
        self.assertIn('[sampler.ddim]', self.out)
        self.config('[sampler.ddim]\neta = 0.5\n', self.out)
        self.succeeds('sample', 'run.ini')
        self.succeeds('plugins', 'sampler.ddim', '--json')
        self.assertEqual(json.loads(self.out)['options'][0]['key'], 'eta')

    def test_all_sections_as_ini(self):
        self.succeeds('plugins', '--ini')
        for section in ('backend', 'schedule', 'network', 'sampler', 'sample', 'noise', 'output',
                        'sampler.ddim', 'backend.cpu', 'network.mlp'):
            self.assertIn('[%s]\n' % section, self.out)
        self.succeeds('plugins', 'sample', '--ini')
        self.assertTrue('[sample]' in self.out and 'seed = 0' in self.out, self.out)

    def test_unknown_name(self):
        self.refuses(2, '"nothing"', args=('plugins', 'nothing'))
        self.refuses(1, 'ddpm', args=('plugins', 'sampler.ddpn'))

    def test_devices(self):
        self.specimen('no-symbol', as_name='backend-broken.so')
        self.succeeds('devices', '-P', 'plugins')
        for fragment in ('backend reference', 'backend cpu', 'CPU', 'backend broken',
                         'cannot be used'):
            self.assertIn(fragment, self.out)
        self.succeeds('devices', '--json', '-P', 'plugins')
        backends = {b['backend']: b for b in json.loads(self.out)['backends']}
        self.assertEqual(backends['cpu']['devices'][0]['type'], 'CPU')
        self.assertIsNone(backends['cpu']['unusable'])
        self.assertIn('demist_plugin_v1', backends['broken']['unusable'])

    def test_cuda_is_refused_where_there_is_no_gpu_and_nothing_else_suffers(self):
        if not os.path.exists(os.path.join(commandtest.PLUGINS, 'backend-cuda.so')):
            self.skipTest('built without the CUDA Toolkit')
        hidden = {'CUDA_VISIBLE_DEVICES': ''}
        self.succeeds('devices', env=hidden)
        self.assertRegex(self.out, r'backend cuda\n +no device')
        self.succeeds('plugins', 'backend.cuda', env=hidden)
        self.assertIn('tuning = cached', self.out)
        for args in (('sample', 'run.ini', '--set', 'backend.use=cuda'),
                     ('compare', 'run.ini', '--backends', 'reference,cuda:bf16')):
            self.refuses(1, 'backend cuda: there is no CUDA device here', 'NVIDIA', args=args,
                         env=hidden)
        self.succeeds('sample', 'run.ini', env=hidden)


class Checkpoints(CommandTest):
    def refuses_net(self, content, *fragments):
        self.write('net.safetensors', content)
        self.refuses(1, 'net.safetensors', *fragments)
        self.assertTrue(self.err.startswith('demist: '), self.err)
        self.refuses(1, 'net.safetensors', *fragments, args=('inspect', 'net.safetensors'))

    def test_truncated(self):
        whole = tensor_bytes(weights())
        for size in (0, 4, 8, 40, len(whole) - 1):
            self.refuses_net(whole[:size])

    def test_header_longer_than_the_file(self):
        self.refuses_net(struct.pack('<Q', 2**62) + b'{}')

    def test_overlapping_tensors(self):
        text = json.dumps({'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]},
                           'b': {'dtype': 'F32', 'shape': [2], 'data_offsets': [4, 12]}}).encode()
        self.refuses_net(struct.pack('<Q', len(text)) + text + bytes(12), 'overlap')

    def test_offsets_outside_the_file(self):
        text = json.dumps({'a': {'dtype': 'F32', 'shape': [2**40],
                                 'data_offsets': [0, 2**42]}}).encode()
        self.refuses_net(struct.pack('<Q', len(text)) + text + bytes(12))

    def test_billions_of_dimensions(self):
        text = json.dumps({'a': {'dtype': 'F32', 'shape': [1] * 100000,
                                 'data_offsets': [0, 4]}}).encode()
        self.refuses_net(struct.pack('<Q', len(text)) + text + bytes(4), 'dimensions')

    def test_pickle_that_calls_a_command_is_not_executed(self):
        import io
        import zipfile
        pickle = (b'\x80\x02cos\nsystem\nX' + struct.pack('<I', 12) + b'touch hacked\x85R.')
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, 'w') as out:
            out.writestr('archive/data.pkl', pickle)
            out.writestr('archive/version', b'3\n')
        self.refuses_net(archive.getvalue(), 'os.system')
        self.assertFalse(os.path.exists(self.path('hacked')))

    def test_all_that_does_not_fit_is_listed_at_once(self):
        tensors = weights()
        del tensors['model.0.bias']
        tensors['model.2.weight'] = floats([3, 8], [0.0] * 24)
        tensors['model.9.weight'] = floats([1], [0.0])
        self.write('net.safetensors', tensor_bytes(tensors))
        self.refuses(1, 'model.0.bias', 'model.2.weight', 'model.9.weight', '[3,8]', '[2,8]',
                     args=('sample', 'run.ini', '--set', 'network.mlp.dim=2'))

    def test_unreadable_checkpoint(self):
        os.remove(self.path('net.safetensors'))
        self.refuses(1, 'net.safetensors', 'No such file')
        os.mkdir(self.path('net.safetensors'))
        self.refuses(1, 'net.safetensors', 'not a regular file')

    def test_network_that_yields_nan_names_step_and_image(self):
        tensors = weights()
        tensors['model.2.bias'] = floats([2], [math.nan, 0])
        self.write('net.safetensors', tensor_bytes(tensors))
        for backend in ('reference', 'cpu'):
            self.refuses(1, 'step', 'image 0',
                         args=('sample', 'run.ini', '--set', 'backend.use=' + backend))
            self.assertEqual(self.files(), [])

    def test_inspect_lists_tensors_and_totals(self):
        self.write('net.safetensors', tensor_bytes(weights(), {'note': 'made by hand'}))
        self.succeeds('inspect', 'net.safetensors')
        for fragment in ('model.0.weight', '[8,3]', 'f32', '4 tensors', '50 elements',
                         'made by hand'):
            self.assertIn(fragment, self.out)
        self.succeeds('inspect', 'net.safetensors', '--json')
        found = json.loads(self.out)
        self.assertEqual((found['n_tensors'], found['elements'], found['bytes']), (4, 50, 200))
        self.assertEqual(found['metadata'], {'note': 'made by hand'})
        self.assertEqual(found['tensors'][0]['shape'], [8, 3])

    def test_inspect_makes_a_description_that_runs(self):
        self.write('net.safetensors', tensor_bytes(weights()))
        self.succeeds('inspect', 'net.safetensors', '--ini')
        self.assertIn('hidden = 8\n', self.out)
        self.assertIn('prefix = model\n', self.out)
        os.mkdir(self.path('elsewhere'))
        self.write('elsewhere/made.ini', self.out)
        self.succeeds('sample', 'elsewhere/made.ini', '--set', 'output.formats=npy',
                      '--set', 'sample.images=4')
        self.assertEqual(self.files(), ['samples.npy'])
        self.succeeds('inspect', 'net.safetensors', '--ini', '--json')
        found = json.loads(self.out)
        self.assertEqual((found['network'], found['prefix']), ('mlp', 'model'))
        values = {(s['section'], s['key']): s for s in found['settings']}
        self.assertEqual(values['network.mlp', 'hidden']['origin'], 'shapes')
        self.assertEqual(values['schedule', 'steps']['origin'], 'assumed')

    def test_inspect_probes_with_data(self):
        self.write('net.safetensors', tensor_bytes(weights()))
        self.write('data.safetensors', tensor_bytes({
            'x_0': floats([32, 2], [0.1 * (i % 7) for i in range(64)])}))
        self.succeeds('inspect', 'net.safetensors', '--ini', '--probe', 'data.safetensors',
                      '--json')
        found = json.loads(self.out)
        for c in found['probe']:
            self.assertEqual(c['tied'], c['log_ratio'] <= 2 * c['log_ratio_stderr'] + 0.002)
        self.assertTrue(found['probe'][0]['tied'])
        chosen = dict(s.split('=') for s in found['probe'][0]['set'])
        values = {s['section'] + '.' + s['key']: s for s in found['settings']}
        self.assertEqual(values['schedule.steps']['value'], chosen['schedule.steps'])
        self.assertEqual(values['schedule.steps']['origin'], 'probed')

    def test_inspect_refuses_what_it_does_not_know(self):
        self.write('net.safetensors', tensor_bytes(weights()))
        self.refuses(1, 'below prefix ema', args=('inspect', 'net.safetensors', '--ini', '-x', 'ema'))
        self.refuses(1, 'none.npy', args=('inspect', 'net.safetensors', '--ini', '-p', 'none.npy'))
        self.refuses(2, '--probe is for --ini', args=('inspect', 'net.safetensors', '-p', 'x.npy'))

    def test_a_picture_tells_its_run_and_makes_it_again(self):
        self.config('formats = npy', 'formats = npy, svg, plot')
        self.succeeds('sample', 'run.ini')
        self.succeeds('inspect', 'out/points.png')
        self.assertIn('[sampler.ddim]', self.out)
        os.mkdir(self.path('elsewhere'))
        self.write('elsewhere/again.ini', self.out)
        self.succeeds('sample', 'elsewhere/again.ini', '--set', 'output.dir=again')
        self.assertEqual(self.read('again/samples.npy'), self.read('out/samples.npy'))


class Disks(CommandTest):
    """No space is an error with a text, and no half file keeps its name."""

    def limit(self, size):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def test_no_space_for_outputs(self):
        self.config('images = 5', 'images = 4000')
        self.config('batch = 2', 'batch = 1000')
        self.write('run.ini', CONFIG.replace('images = 5', 'images = 4000')
                   .replace('batch = 2', 'batch = 1000'))
        self.refuses(1, 'out/samples.npy', 'File too large', preexec_fn=self.limit(8192))
        self.assertEqual(self.files(), [])

    def test_no_space_for_a_trajectory(self):
        self.assertEqual(self.demist('sample', 'run.ini', '--trajectory', 't.safetensors',
                                     preexec_fn=self.limit(1024)), 1)
        self.assertIn('t.safetensors', self.err)
        self.assertFalse([name for name in os.listdir(self.dir) if name.startswith('t.')])
        self.assertEqual(self.demist('sample', 'run.ini', '--trajectory', '/dev/full'), 1)
        self.assertIn('No space left', self.err)
        self.assertEqual(self.files(), ['samples.npy'])

    def test_unwritable_trajectory_is_known_before_the_run(self):
        for path in ('missing/t.safetensors', '.', 300 * 'x'):
            self.refuses(1, path, args=('sample', 'run.ini', '--trajectory', path))
            self.assertNotIn('steps in', self.err)
            self.assertEqual(self.files(), [])

    def test_no_space_for_a_prediction(self):
        self.write('in.safetensors', tensor_bytes({'x': floats([1, 2], [1, 2]),
                                                   't': floats([1], [0.5])}))
        self.refuses(1, 'No space left', args=('predict', 'run.ini', '--in', 'in.safetensors',
                                               '--out', '/dev/full'))

    def test_output_dir_that_cannot_be_made(self):
        self.write('out', 'a file')
        self.refuses(1, '"out', 'Not a directory')


class Interruption(CommandTest):
    """Ctrl-C: status 130, and finished batches are kept."""

    def setUp(self):
        super().setUp()
        self.write('run.ini', CONFIG.replace('images = 5', 'images = 100000')
                   .replace('batch = 2', 'batch = 1').replace('steps = 20', 'steps = 500')
                   .replace('0.01', '1e-4').replace('0.3', '0.02'))

    def wait_for_batches(self, run):
        line = ''
        while 'batch 3/' not in line:
            line = run.stderr.readline()
            self.assertTrue(line, 'it ended before it was interrupted')

    def interrupt(self, with_signal):
        run = self.start('sample', 'run.ini')
        self.wait_for_batches(run)
        run.send_signal(with_signal)
        out, err = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 130, err)
        return out, err

    def test_interrupt_keeps_finished_batches(self):
        for with_signal in (signal.SIGINT, signal.SIGTERM):
            out, err = self.interrupt(with_signal)
            name = out.strip()
            shape, values = npy(self.read(name))
            self.assertGreaterEqual(shape[0], 3)
            self.assertIn('%d finished images are kept' % shape[0], err)
            self.assertTrue(all(math.isfinite(v) for v in values))
            self.assertEqual(len(values), 2 * shape[0])

    def test_what_is_kept_is_what_a_shorter_run_makes(self):
        name = self.interrupt(signal.SIGINT)[0].strip()
        self.succeeds('sample', 'run.ini', '--set', 'sample.images=3', '--set',
                      'output.dir=short')
        self.assertEqual(npy(self.read('short/samples.npy'))[1], npy(self.read(name))[1][:6])

    def test_second_interrupt_ends_at_once(self):
        run = self.start('sample', 'run.ini', '--set', 'schedule.steps=1000')
        self.wait_for_batches(run)
        run.send_signal(signal.SIGSTOP)  # so that both arrive before it can stop by itself
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGTERM)
        run.send_signal(signal.SIGCONT)
        run.communicate(timeout=60)
        self.assertEqual(run.returncode, 130)


    def test_interrupt_before_a_run_ends_at_once(self):
        os.mkfifo(self.path('fifo.ini'))
        for with_signal in (signal.SIGINT, signal.SIGTERM):
            run = self.start('sample', 'fifo.ini')
            with open(self.path('fifo.ini'), 'w'):  # opens when the command reads
                run.send_signal(with_signal)
                try:
                    run.wait(timeout=2)
                except subprocess.TimeoutExpired:
                    pass  # TSan holds signals back until a read returns: it does, now
            run.communicate(timeout=60)
            self.assertEqual(run.returncode, 130)


class Terminal(CommandTest):
    """Progress is one line that is rewritten at most ten times a second."""

    def on_terminal(self, *args, columns=100):
        """Runs the command with a terminal as standard error; all that it was sent."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
        run = subprocess.Popen(self.arguments(args), cwd=self.dir, stdout=subprocess.DEVNULL,
                               stderr=theirs, env=self.environment(TERM='xterm'))
        os.close(theirs)
        sent = b''
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            sent += piece
        os.close(ours)
        self.assertEqual(run.wait(timeout=60), 0, sent)
        return sent.decode()

    def long_run(self):
        return ('sample', 'run.ini', '--set', 'sample.images=2000', '--set', 'sample.batch=10')

    def test_progress_line_is_rewritten_and_erased(self):
        began = time.monotonic()
        sent = self.on_terminal(*self.long_run())
        seconds = time.monotonic() - began
        lines = re.findall(r'\r([^\r\x1b\n]+)', sent)
        self.assertTrue(lines)
        for line in lines:
            self.assertRegex(line, r'^ *\d+%  \[#*\.*\]  step \d+/20  batch \d+/200')
            self.assertLess(len(line), 100)
        self.assertLessEqual(len(lines), 10 * seconds + 2)
        self.assertRegex(sent.split('\x1b[K')[-1], r'^demist: 2000 images in [^\r]*it/s\r\n$')

    def test_progress_line_fits_a_narrow_terminal(self):
        sent = self.on_terminal(*self.long_run(), columns=30)
        for line in re.findall(r'\r([^\r\x1b\n]+)', sent):
            self.assertLess(len(line), 30)

    def test_quiet_draws_nothing(self):
        self.assertEqual(self.on_terminal(*self.long_run(), '-q'), '')


class Manual(CommandTest):
    """demist(1) is complete."""

    def setUp(self):
        super().setUp()
        with open(os.path.join(commandtest.SOURCE, 'docs/demist.1')) as file:
            self.page = file.read().replace('\\-', '-')

    def test_man_page_has_every_key_of_the_programs_own_sections(self):
        for section in ('backend', 'schedule', 'network', 'sampler', 'sample', 'noise', 'output'):
            self.succeeds('plugins', section, '--ini')
            keys = re.findall(r'^;?\s?([a-z0-9_]+) =', self.out, re.M)
            self.assertTrue(keys)
            stanza = self.page.split('.Ss [%s]\n' % section)
            self.assertEqual(len(stanza), 2, 'no .Ss [%s]' % section)
            stanza = re.split(r'^\.S[sh] ', stanza[1], flags=re.M)[0]
            for key in keys:
                self.assertRegex(stanza, r'(?m)^\.It (Li|Cm) %s\b' % key)

    def test_man_page_has_every_option(self):
        for command in ('sample', 'predict', 'evaluate', 'plugins', 'devices', 'inspect'):
            self.succeeds(command, '--help')
            self.assertIn('demist ' + command, self.page.replace('.Nm ', 'demist '))
            for option in re.findall(r'--([a-z-]+)', self.out.split('Mandatory')[0]):
                self.assertIn('Fl -' + option, self.page, command)

    def test_man_page_is_well_formed(self):
        if not shutil.which('mandoc'):
            self.skipTest('mandoc is not installed')
        done = subprocess.run(['mandoc', '-Tlint', '-Wwarning',
                               os.path.join(commandtest.SOURCE, 'docs/demist.1')],
                              capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout), (0, ''), done.stdout)


if __name__ == '__main__':
    commandtest.main()
