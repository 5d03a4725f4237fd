#!/usr/bin/env python3
"""Makes anew what the models in the box (share/megabyte) were trained on: books, and text and sources that Debian
12's packages carry. Needs Debian's apt-get and dpkg-deb, no root; installs nothing.

    scripts/box_corpus.py --books train.txt --book-bytes 80000000 --out out/corpus

Writes train/KIND.txt and valid/KIND.txt for each kind in scripts/box_corpus.tsv (held out are whole packages, never
parts of one), train/books.txt, and manifest.tsv: each package with its version and what was taken of it.

A package gives the files that match its patterns, are UTF-8 and hold neither 0x00 nor lines longer than
5000 bytes (no one wrote those by hand), in the order of the SHA-256 of their paths, until its limit is reached. Packed
files are unpacked first. The same bytes are never taken twice. With the pattern .tar it gives the beginning of the tar
archive that it holds, programs and all.
"""
import argparse
import fnmatch
import gzip
import hashlib
import io
import lzma
import pathlib
import subprocess
import sys
import tarfile
import zipfile
import zlib

LARGEST_FILE = 200_000  # of a longer one the beginning counts, up to the end of a line
SMALLEST_FILE = 200
LONGEST_LINE = 5000


def unpacked(path, data):
    """The files in `data`: of an archive those inside, of a .gz the one; of a damaged one, a test's, none."""
    try:
        if path.endswith((".tar.xz", ".tar.gz", ".tar.bz2")):
            with tarfile.open(fileobj=io.BytesIO(data)) as inner:
                return [(f"{path}/{member.name}", inner.extractfile(member).read()) for member in inner if member.isfile()]
        if path.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(data)) as inner:
                return [(f"{path}/{name}", inner.read(name)) for name in inner.namelist()]
        if path.endswith(".gz"):
            return [(path[:-3], gzip.decompress(data))]
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, OSError, EOFError, RuntimeError):
        return []
    return [(path, data)]


def tar_of(package):
    """The package's files as one tar archive."""
    return subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE, check=True).stdout


def files(package):
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as outer:
            for member in outer:
                if member.isfile():
                    yield from unpacked(member.name.removeprefix("./"), outer.extractfile(member).read())
    if process.returncode != 0:
        sys.exit(f"dpkg-deb cannot read {package}")


def text_of(data):
    """What is taken of a file, or nothing."""
    if len(data) > LARGEST_FILE:
        data = data[: data.rfind(b"\n", 0, LARGEST_FILE) + 1]
    if len(data) < SMALLEST_FILE or b"\0" in data or max(map(len, data.split(b"\n"))) > LONGEST_LINE:
        return None
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    return data


def chosen(package, patterns, limit, seen):
    found = [(hashlib.sha256(path.encode()).digest(), data) for path, data in files(package)
             if ".min." not in path and any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)]
    total = 0
    for _, data in sorted(found):
        text, digest = text_of(data), hashlib.sha256(data).digest()
        if text is None or digest in seen:
            continue
        if total + len(text) > limit:
            continue
        seen.add(digest)
        total += len(text)
        yield text


def download(packages, folder):
    """One .deb for each package, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [package for package in packages if not list(folder.glob(f"{package}_*.deb"))]
    if missing and subprocess.run(["apt-get", "download", "-q", *missing], cwd=folder).returncode != 0:
        sys.exit("apt-get download failed: is this Debian 12, and are its lists there (apt-get update)?")
    return {package: next(folder.glob(f"{package}_*.deb")) for package in packages}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=pathlib.Path, required=True, help="books to train on, one text file")
    parser.add_argument("--book-bytes", type=int, required=True, help="how much of them, from the beginning")
    parser.add_argument("--part", type=float, default=1, help="so much of what is taken of each package to train on")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()

    lines = pathlib.Path(__file__).with_suffix(".tsv").read_text().splitlines()
    wanted = [line.split("\t") for line in lines if line and not line.startswith("#")]
    packages = download([package for *_, package, _ in wanted], options.out / "packages")
    seen, manifest = set(), ["kind\tsplit\tpackage\tversion\tfiles\tbytes\n"]
    for split in ("train", "valid"):
        (options.out / split).mkdir(exist_ok=True)
        for old in (options.out / split).glob("*.txt"):
            old.unlink()
    # Held-out packages go last: what they share with those before is not held out, and so left out.
    for kind, split, limit, package, patterns in sorted(wanted, key=lambda line: line[1] == "valid"):
        size = int(float(limit) * (options.part if split == "train" else 1) * 1e6)
        if patterns == ".tar":
            texts = [tar_of(packages[package])[:size]]
        else:
            texts = list(chosen(packages[package], patterns.split(), size, seen))
        if not texts:
            sys.exit(f"{package}: no file matches {patterns}")
        with open(options.out / split / f"{kind}.txt", "ab") as out:
            out.writelines(texts)
        version = subprocess.run(["dpkg-deb", "-f", packages[package], "Version"], capture_output=True, text=True)
        manifest.append("\t".join([kind, split, package, version.stdout.strip(), str(len(texts)),
                                   str(sum(map(len, texts)))]) + "\n")
        print(manifest[-1], end="", flush=True)
    with open(options.books, "rb") as books:
        text = books.read(options.book_bytes)
    (options.out / "train" / "books.txt").write_bytes(text)
    (options.out / "manifest.tsv").write_text("".join(manifest))


main()
