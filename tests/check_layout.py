#!/usr/bin/env python3
"""The house's rules, which no compiler flag can hold alone.

Includes point one way: include <- core <- plugins <- pipelines <- tools; the plugins that ship see
<demist/...> and their own folder; public headers see each other and the C standard library. File
names are unique, so that a name says which file is meant. Calls that go wrong in C stay behind the
one wrapper each that exists for them. Prints every violation as FILE:LINE and fails if there is one.

    check_layout.py [ROOT]
"""
import pathlib
import re
import sys

# Folder: the folders of the project whose headers it may include by name, beside <demist/...>.
LAYERS = {
    'include': [],
    'core': ['core'],
    'plugins': ['core', 'plugins'],
    'pipelines': ['core', 'plugins', 'pipelines'],
    'tools': ['core', 'plugins', 'pipelines', 'tools'],
}
SHIPPED = ['schedules', 'samplers', 'networks', 'backends']
SOURCES = [*LAYERS, *SHIPPED]
OTHERS = ['tests', 'docs', 'examples', 'bench', 'scripts']
# Data, not files of the project's own; and what every folder may have.
DATA = ['tests/data/', 'tests/fuzz/corpus/']
COMMON_NAMES = ['meson.build', '.clang-tidy']

# C11's: nothing of POSIX may be needed to use the ABI.
C_HEADERS = {name + '.h' for name in '''assert complex ctype errno fenv float inttypes iso646 limits
locale math setjmp signal stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn
string tgmath threads time uchar wchar wctype'''.split()}

# Call: the only file that may make it, None for none.
BANNED = {'strtod_l': 'core/number.c', 'strtod': None, 'strtof': None, 'atoi': None, 'atof': None,
          'strcpy': None, 'strcat': None, 'sprintf': None, 'gets': None, 'setlocale': None,
          'rand': None, 'srand': None, 'exit': None, 'abort': None}
CALL = re.compile(r'(?<![\w.>])(' + '|'.join(BANNED) + r')\s*\(')
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def code_only(text):
    """The text without comments and literals, with the same line numbers."""
    return COMMENT_OR_STRING.sub(lambda m: '\n' * m.group().count('\n') + ' ', text)


def files(root, folders):
    for folder in folders:
        for path in sorted((root / folder).rglob('*')):
            name = path.relative_to(root).as_posix()
            if path.is_file() and '__pycache__' not in name and not name.startswith(tuple(DATA)):
                yield name


def include_fault(name, kind, target, owners):
    """Why file `name` may not include `target`; None when it may."""
    top = name.split('/')[0]
    if kind == '<':
        if target.startswith('demist/'):
            return None
        if top == 'include' and target not in C_HEADERS:
            return 'a public header includes the C standard library and <demist/...> only'
        return None
    if top in SHIPPED:
        own = pathlib.PurePosixPath(name).parent
        if len(own.parts) > 1 and (own / target).as_posix() in owners.get(target, []):
            return None
        return 'a plugin that ships includes <demist/...> and its own folder only'
    places = {owner.split('/')[0] for owner in owners.get(target, [])}
    if not places:
        return 'no such header in the project'
    if not places <= set(LAYERS[top]):
        return f'{top} may not include headers of {", ".join(sorted(places))}'
    return None


def check(root):
    everything = list(files(root, SOURCES + OTHERS))
    owners = {}
    for name in everything:
        owners.setdefault(name.rsplit('/', 1)[-1], []).append(name)
    faults = [f'{paths[1]}: the name is taken by {paths[0]}' for name, paths in owners.items()
              if len(paths) > 1 and name not in COMMON_NAMES]
    sources = [n for n in everything if n.split('/')[0] in SOURCES and n.endswith(('.c', '.h'))]
    for name in sources:
        text = (root / name).read_text(encoding='utf-8')
        for number, line in enumerate(text.splitlines(), 1):
            include = INCLUDE.match(line)
            fault = include and include_fault(name, *include.groups(), owners)
            if fault:
                faults.append(f'{name}:{number}: "{include.group(2)}": {fault}')
        for number, line in enumerate(code_only(text).splitlines(), 1):
            for call in CALL.findall(line):
                if BANNED[call] != name:
                    faults.append(f'{name}:{number}: {call}() is banned here')
    return len(sources), faults


def main():
    default = pathlib.Path(__file__).resolve().parent.parent
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    n, faults = check(root)
    if n == 0:
        faults.append(f'{root}: no sources found')
    print('\n'.join(faults) if faults else f'{n} source files keep the rules')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
