#!/usr/bin/env python3
"""Plugins see include/ and their own folder alone: check-includes.py BUILD_DIR SOURCE_DIR.

Reads the compile commands of every source below schedules/, samplers/, networks/ and backends/.
System directories (/usr/include/…) come with libraries and are allowed. What tests compile of them
once more, with headers of their own, is not looked at."""
import json
import os
import shlex
import sys

FOLDERS = ("schedules", "samplers", "networks", "backends")


def include_dirs(command, directory):
    words = iter(shlex.split(command))
    for word in words:
        for flag in ("-I", "-isystem", "-iquote", "-idirafter", "-include"):
            if word == flag:
                yield os.path.realpath(os.path.join(directory, next(words)))
                break
            if word.startswith(flag) and flag in ("-I", "-isystem"):
                yield os.path.realpath(os.path.join(directory, word[len(flag):]))
                break


def main():
    build, source = (os.path.realpath(path) for path in sys.argv[1:3])
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        commands = json.load(file)
    checked, wrong = 0, []
    for entry in commands:
        directory = entry["directory"]
        path = os.path.realpath(os.path.join(directory, entry["file"]))
        folder = os.path.relpath(path, source).split(os.sep)[0]
        if folder not in FOLDERS or entry.get("output", "").startswith("tests" + os.sep):
            continue
        checked += 1
        for seen in include_dirs(entry["command"], directory):
            inside = seen.startswith(source + os.sep) and not seen.startswith(build + os.sep)
            allowed = (os.path.join(source, "include"), os.path.dirname(path))
            if inside and seen not in allowed:
                wrong.append(f"{os.path.relpath(path, source)} sees {os.path.relpath(seen, source)}")
    if not checked:
        sys.exit("no plugin's compile command was found")
    if wrong:
        sys.exit("plugins include nothing of the project but include/ and their own folder:\n"
                 + "\n".join(sorted(set(wrong))))
    print(f"{checked} compile commands of plugins looked at")


if __name__ == "__main__":
    main()
