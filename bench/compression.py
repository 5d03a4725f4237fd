#!/usr/bin/env python3
"""Sizes and speeds of `megabyte compress` beside other compressors, in one run: a Markdown table.

    bench/compression.py build/megabyte --model DIR --model ANOTHER book.txt source.tar mixed.tar

The others are Debian's: xz -9e, zstd -19, bzip2 -9, brotli -q 11 and 7z's PPMd (order 32, 256 MiB); those that
are not there are left out. Every archive is decoded and compared. Seconds are of the wall, of one run each,
with as many threads as each takes by itself (--threads for megabyte).
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
import shutil


def others(packed, original):
    seven = shutil.which("7zz") or shutil.which("7z")
    yield "bzip2 -9", ["bzip2", "-9", "-c", original], ["bzip2", "-dc", packed]
    yield "xz -9e", ["xz", "-9e", "-c", original], ["xz", "-dc", packed]
    yield "zstd -19", ["zstd", "-q", "-19", "-c", original], ["zstd", "-q", "-dc", packed]
    yield "brotli -q 11", ["brotli", "-q", "11", "-w", "24", "-c", original], ["brotli", "-dc", packed]
    yield "7z PPMd", [seven, "a", "-bd", "-y", "-m0=PPMd:o=32:mem=256m", packed, original], [seven, "x", "-so", packed]


def timed(command, output):
    start = time.monotonic()
    done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return time.monotonic() - start


def row(name, original, pack, unpack, packed, back, bytes_of_stdout=True):
    if os.path.exists(packed):
        os.remove(packed)
    with open(packed if bytes_of_stdout else os.devnull, "wb") as out:
        encode = timed(pack, out)
    with open(back, "wb") as out:
        decode = timed(unpack, out)
    if open(back, "rb").read() != open(original, "rb").read():
        sys.exit(f"{name} gave back other bytes of {original}")
    size, archive = os.path.getsize(original), os.path.getsize(packed)
    return f"| {name} | {archive} | {8 * archive / size:.3f} | {size / encode / 1e6:.3g} | {size / decode / 1e6:.3g} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("megabyte")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--model", required=True, action="append", help="may be named several times")
    parser.add_argument("--threads", default="0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        packed, back = os.path.join(folder, "packed.7z"), os.path.join(folder, "back")  # 7z insists
        for file in options.files:
            print(f"\n{os.path.basename(file)}, {os.path.getsize(file)} bytes:\n")
            print("| | bytes | bits per byte | MB/s in | MB/s out |\n|---|---|---|---|---|", flush=True)
            for name, pack, unpack in others(packed, file):
                if pack[0] and shutil.which(pack[0]):
                    print(row(name, file, pack, unpack, packed, back, "PPMd" not in name), flush=True)
            for folder in options.model:
                model = ["--model", folder, "--threads", options.threads, "--quiet"]
                print(row(f"**megabyte compress** ({os.path.basename(os.path.normpath(folder))})", file,
                          [options.megabyte, "compress", file, "-o", "-", *model],
                          [options.megabyte, "decompress", packed, "-o", "-", *model], packed, back), flush=True)


main()
