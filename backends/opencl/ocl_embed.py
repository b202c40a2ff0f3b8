#!/usr/bin/env python3
"""Embeds kernel files: ocl_embed.py OUTPUT.c FILE.cl…

The result defines ocl_sources (ocl_device.h). Bytes instead of string literals, which need be no
longer than 4095 in C. Each file starts with a #line, so that compilers' messages name its lines.
"""
import pathlib
import sys


def array(path):
    text = '#line 1 "%s"\n%s' % (path.name, path.read_text(encoding='utf-8'))
    # Some OpenCL compilers refuse what is not ASCII, even in comments.
    data = text.encode('ascii', 'replace') + b'\0'
    rows = [', '.join(map(str, data[i:i + 24])) for i in range(0, len(data), 24)]
    return 'static const char %s_cl[] = {\n    %s};\n' % (path.stem, ',\n    '.join(rows))


def main():
    paths = [pathlib.Path(name) for name in sys.argv[2:]]
    parts = ['#include "ocl_device.h"\n'] + [array(path) for path in paths]
    parts.append('const struct ocl_source ocl_sources[] = {')
    parts += ['    {"%s", %s_cl},' % (path.name, path.stem) for path in paths]
    parts += ['    {NULL, NULL}};', '']
    pathlib.Path(sys.argv[1]).write_text('\n'.join(parts), encoding='ascii')


main()
