#!/usr/bin/env python3
"""The CPU backend's instructions for each operation of a small U-Net, counted by callgrind: a change
that makes kernels longer, or no longer takes the fast ones, fails here on any machine, however busy.

    test_cpu_instructions.py COUNT_CPU COMPILER

Counts are divided by the operations of the plain algorithm. valgrind knows no AVX-512: the AVX2 level
stands for all, as they share their source. Compilers differ; a bound is a tenth above what gcc 12 or
clang 14 needed when it was set.
"""
import glob
import subprocess
import sys
import tempfile
import unittest

CASES = ("avx2", "avx2-strict")
# instructions for each operation, at most
BOUNDS = {"gcc": {"avx2": 0.134, "avx2-strict": 0.201}, "clang": {"avx2": 0.160, "avx2-strict": 0.284}}


def count(program, folder):
    """{case: instructions for each operation}"""
    done = subprocess.run(
        ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no",
         f"--callgrind-out-file={folder}/out", program],
        capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    flops = {case: float(n) for case, n in (line.split() for line in done.stdout.splitlines())}
    counts = {}
    for path in glob.glob(f"{folder}/out*"):
        with open(path) as f:
            lines = f.read().splitlines()
        case = next((l.rsplit(" ", 1)[1] for l in lines if l.startswith("desc: Trigger: Client")), None)
        total = next(int(l.split()[1]) for l in lines if l.startswith("totals:"))
        if case in flops:
            counts[case] = total / flops[case]
    return counts


class Instructions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            cls.counts = count(PROGRAM, folder)
        print({case: round(n, 4) for case, n in cls.counts.items()}, file=sys.stderr)

    def test_every_case_was_counted(self):
        self.assertEqual(set(self.counts), set(CASES))

    def test_no_level_takes_more_instructions_for_an_operation_than_it_did(self):
        if COMPILER not in BOUNDS:
            self.skipTest(f"no bounds for {COMPILER}")
        for case, bound in BOUNDS[COMPILER].items():
            with self.subTest(case):
                self.assertLess(self.counts[case], bound)

    def test_winograd_saves_a_quarter(self):
        self.assertLess(self.counts["avx2"], 3 / 4 * self.counts["avx2-strict"])


if __name__ == "__main__":
    PROGRAM, COMPILER = sys.argv[1:3]
    del sys.argv[1:3]
    unittest.main()
