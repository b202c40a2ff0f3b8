#!/usr/bin/env python3
"""Prints "PASSED FAILED SKIPPED" over the JSON logs of meson test.

A program of CMocka or Python's unittest counts as the tests in it, so that one skipped inside a
program is seen; every other program is one test. A program that fails or crashes is at least one failure.

    count_tests.py LOG...
"""
import json
import re
import sys

CMOCKA = re.compile(r'^\[ +(RUN|OK|SKIPPED) +\] \w+$', re.M)

UNITTEST = re.compile(r'^Ran (\d+) tests? in .*\n\n\w+(?: \((.*)\))?$', re.M)


def count_unittest(entry):
    """(run, passed, skipped) of the program, zeros when it is none of unittest's."""
    summary = UNITTEST.search(entry.get('stderr') or '')
    if not summary:
        return 0, 0, 0
    run = int(summary[1])
    bad = {key: int(n) for key, n in re.findall(r'(\w+)=(\d+)', summary[2] or '')}
    skipped = bad.get('skipped', 0)
    return run, run - skipped - bad.get('failures', 0) - bad.get('errors', 0), skipped


def count(entry):
    """(passed, failed, skipped) of one program."""
    if entry['result'] == 'SKIP':
        return 0, 0, 1
    lines = CMOCKA.findall(entry.get('stdout') or '')
    run, passed, skipped = (lines.count(word) for word in ('RUN', 'OK', 'SKIPPED'))
    if not run:
        run, passed, skipped = count_unittest(entry)
    if entry['result'] not in ('OK', 'EXPECTEDFAIL'):
        return passed, max(1, run - passed - skipped), skipped
    return (passed, 0, skipped) if run else (1, 0, 0)


def main():
    total = [0, 0, 0]
    for path in sys.argv[1:]:
        with open(path, encoding='utf-8') as log:
            for line in log:
                total = [a + b for a, b in zip(total, count(json.loads(line)))]
    print(*total)


if __name__ == '__main__':
    main()
