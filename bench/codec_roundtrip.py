#!/usr/bin/env python3
"""Compresses and decompresses files of all kinds, and reports what came of each kind.

    bench/codec_roundtrip.py build/megabyte --model DIR --files 2000 /usr/share /usr/lib /usr/bin

Takes so many files from the folders, evenly from the sorted list of those that are not larger than
--largest, and makes the awkward ones itself: empty, single bytes, zeros, random bytes, lengths
around a stream's. Every archive must decode to the same bytes, and be no longer than the file by
more than 64 bytes and 0.1%. Exit code 1 if any is.
"""
import argparse
import collections
import concurrent.futures
import os
import random
import subprocess
import sys
import tempfile

KINDS = {"ELF program or library": lambda name, head: head.startswith(b"\x7fELF"),
         "image": lambda name, head: head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")) or name.endswith(".svg"),
         "compressed": lambda name, head: head.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd")),
         "text": lambda name, head: is_text(head),
         "other binary": lambda name, head: True}


def is_text(head):
    try:
        head[:-4].decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def kind_of(name):
    with open(name, "rb") as file:
        head = file.read(4096)
    return next(kind for kind, holds in KINDS.items() if holds(name, head))


def found(folders, largest, count):
    files = []
    for folder in folders:
        for path, names, inside in os.walk(folder):
            names.sort()
            for name in inside:
                file = os.path.join(path, name)
                if os.path.isfile(file) and not os.path.islink(file) and os.access(file, os.R_OK) \
                        and 0 < os.path.getsize(file) <= largest:
                    files.append(file)
    files.sort()
    step = max(1, len(files) / count)
    return [files[int(i * step)] for i in range(min(count, len(files)))]


def made(folder):
    chance = random.Random(1)
    contents = [b""] + [bytes([b]) for b in (0, 10, 32, 65, 255)]
    for length in (2, 100, 16383, 16384, 16385, 40000):
        contents += [bytes(length), chance.randbytes(length), b"ab" * (length // 2),
                     bytes(range(256)) * (length // 256 + 1)]
    for i, content in enumerate(contents):
        name = os.path.join(folder, f"{i}")
        with open(name, "wb") as file:
            file.write(content)
        yield name


def roundtrip(options, name):
    """The sizes of file and archive, or what went wrong."""
    with open(name, "rb") as file:
        original = file.read()
    model = ["--model", options.model, "--threads", "1", "--quiet"]
    packed = subprocess.run([options.megabyte, "compress", "-", *model], input=original, capture_output=True)
    if packed.returncode != 0:
        return packed.stderr.decode(errors="replace")
    back = subprocess.run([options.megabyte, "decompress", "-", *model], input=packed.stdout, capture_output=True)
    if back.returncode != 0:
        return back.stderr.decode(errors="replace")
    if back.stdout != original:
        return "came back as other bytes"
    if len(packed.stdout) > 1.001 * len(original) + 64:
        return f"grew from {len(original)} to {len(packed.stdout)} bytes"
    return len(original), len(packed.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("megabyte")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--largest", type=int, default=32768, help="bytes of the largest file taken")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [("made here", name) for name in made(folder)]
        files += [(kind_of(name), name) for name in found(options.folders, options.largest, options.files)]
        kinds, failed = collections.defaultdict(lambda: [0, 0, 0, 0]), 0
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = pool.map(lambda each: roundtrip(options, each[1]), files)
            for i, ((kind, name), result) in enumerate(zip(files, results)):
                if isinstance(result, str):
                    failed += 1
                    print(f"{name}: {result.strip()}", file=sys.stderr)
                    continue
                row = kinds[kind]
                row[0] += 1
                row[1] += result[0]
                row[2] += result[1]
                row[3] += result[1] >= result[0]
                if sys.stderr.isatty():
                    print(f"\r{i + 1}/{len(files)}", end="", file=sys.stderr)
    print("| kind | files | bytes | archives | of which not shorter |\n|---|---|---|---|---|")
    for kind, (count, original, archive, longer) in sorted(kinds.items()):
        print(f"| {kind} | {count} | {original} | {archive} | {longer} |")
    print(f"\n{len(files)} files, {failed} failed")
    sys.exit(failed > 0)


main()
