"""What a run holds in memory, by what `demist bench` tells: not for sanitizers, whose own is more."""
import json
import os
import unittest

import commandtest
from commandtest import CommandTest, tensor_bytes

# Memory that malloc fills is memory used, though the program may never touch it.
os.environ['MALLOC_PERTURB_'] = '0'
WIDTH, LAYERS = 1536, 6
MEBIBYTE = 1 << 20


def wide_weights():
    """An MLP 3 -> WIDTH -> ... -> WIDTH -> 2 of LAYERS square matrices; zeros cost what others do."""
    widths = [3] + [WIDTH] * (LAYERS + 1) + [2]
    tensors = {}
    for i, (inner, outer) in enumerate(zip(widths, widths[1:])):
        tensors['model.%d.weight' % (2 * i)] = ('F32', [outer, inner], bytes(4 * inner * outer))
        tensors['model.%d.bias' % (2 * i)] = ('F32', [outer], bytes(4 * outer))
    return tensor_bytes(tensors)


class Memory(CommandTest):
    def test_a_checkpoint_is_not_kept_beside_the_packed_weights(self):
        self.write('wide.safetensors', wide_weights())
        self.succeeds('bench', 'run.ini', '--backends', 'cpu', '--json', '--set', 'sample.steps=2',
                      '--set', 'network.checkpoint=wide.safetensors', '--set',
                      'network.mlp.hidden=' + ','.join([str(WIDTH)] * (LAYERS + 1)))
        side = json.loads(self.out)['backends'][0]
        needs = side['param_bytes'] + side['arena_bytes']
        checkpoint = os.path.getsize(self.path('wide.safetensors'))
        self.assertGreaterEqual(side['param_bytes'], checkpoint - MEBIBYTE)
        self.assertGreaterEqual(side['peak_memory_bytes'], needs)
        self.assertLess(side['peak_memory_bytes'], needs + 40 * MEBIBYTE)
        self.assertGreater(checkpoint, 50 * MEBIBYTE) # or it would not be seen


if __name__ == '__main__':
    commandtest.main()
