# /// script
# requires-python = ">=3.11"
# dependencies = ["pysword==0.2.8"]
# ///
"""Make bible_en_es.tsv.gz, 27,604 aligned verses in English and Spanish, from two public-domain Bibles.

    pip install pysword==0.2.8
    python examples/data/bible_en_es.py                             # Debian or Ubuntu: calls `apt-get download`
    python examples/data/bible_en_es.py --source folder/with/debs   # sword-text-web and sword-text-sparv
    python examples/data/bible_en_es.py --source /usr/share/sword   # where those two packages are installed

Tab-separated, with a header: book, chapter, verse, en, es. The file is written only if its content has the sha256
below, so figures that were measured on it can be measured again. Takes seconds.

Sources: World English Bible (Debian's sword-text-web 426.0) and Reina-Valera 1909 (sword-text-sparv 2.60), both in the
public domain, from eBible.org. "World English Bible" is a trademark of eBible.org: a changed text must not be called
so.
"""

import argparse
import functools
import gzip
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pysword.modules import SwordModules

PACKAGES = ["sword-text-web", "sword-text-sparv"]
ENGLISH, SPANISH = "engWEB2015eb", "spaRV1909eb"
SHA256 = "f5318c252933f7b81de403357f6faf9d836c9e40f6bdc6001e02f1a97a22e792"  # of the decompressed file
LEFT_OUT = {"Ruth", "Prov", "Luke", "Acts", "Heb"}  # books that nothing trained on this file has seen
LONGEST = 3  # times as many words as the other language; beyond that the two number their verses differently

Reference = tuple[str, int, int]  # book, chapter, verse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder of the two .deb files, or SWORD folder (default: download)")
    parser.add_argument("--output", type=Path, default=Path("bible_en_es.tsv.gz"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = sword_folder(options.source, Path(work))
        rows = list(align(verses(folder, ENGLISH), verses(folder, SPANISH)))
    lines = ["book\tchapter\tverse\ten\tes", *("\t".join(map(str, row)) for row in rows)]
    write("".join(line + "\n" for line in lines), options.output, SHA256)
    print(f"{options.output}: {len(rows)} verses")


def sword_folder(source: Path | None, work: Path) -> Path:
    """The folder that holds mods.d and modules; what has to be downloaded or unpacked goes into `work`.

    Raises:
        ValueError: the source holds neither mods.d nor .deb files.
    """
    if source is None:
        subprocess.run(["apt-get", "download", "--quiet", *PACKAGES], cwd=work, check=True)
        source = work
    if (source / "mods.d").is_dir():
        return source
    packages = sorted(source.glob("*.deb"))
    if not packages:
        raise ValueError(
            f"{source} holds neither mods.d nor .deb files. Expected the .deb files of {' and '.join(PACKAGES)}, or "
            "the folder they install into, /usr/share/sword"
        )
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", package, work], check=True)
    return work / "usr/share/sword"


def verses(folder: Path, module: str) -> dict[Reference, str]:
    """The plain text of each verse of a SWORD module, in the module's order.

    Raises:
        ValueError: the folder has no such module.
    """
    modules = SwordModules(str(folder))
    found = modules.parse_modules()
    if module not in found:
        raise ValueError(f"{folder} has no module {module}, only {sorted(found)}. Add the package: {PACKAGES}")
    bible = modules.get_bible_from_module(module)
    # pysword 0.2.8 decompresses a whole book for each of its verses: a minute, where a cache of one book takes seconds.
    bible._decompressed_text = functools.lru_cache(maxsize=1)(bible._decompressed_text)
    texts = {}
    for books in bible.get_structure().get_books().values():
        for book in books:
            for chapter, _ in enumerate(book.chapter_lengths, start=1):
                # clean=True would glue the words on both sides of a footnote together.
                marked_up = bible.get_iter(book.name, chapter, clean=False)
                for verse, text in enumerate(marked_up, start=1):
                    texts[book.osis_name, chapter, verse] = plain(text)
    return texts


def plain(text: str) -> str:
    """OSIS markup without its tags, footnotes and headings; single spaces, none before punctuation."""
    text = re.sub(r"<(note|title)\b.*?</\1>", " ", text)
    text = re.sub(r"<[^>]+>", "", text)
    return re.sub(r" ([,.;:?!])", r"\1", " ".join(text.split()))


def align(english: dict[Reference, str], spanish: dict[Reference, str]) -> Iterator[tuple[str, int, int, str, str]]:
    """(book, chapter, verse, en, es) of the verses that both have, where one can be the other's translation.

    The Spanish text leaves some verses empty and joins them to a neighbour; their lengths then differ too much.
    """
    for (book, chapter, verse), es in spanish.items():
        en = english.get((book, chapter, verse), "")
        shorter, longer = sorted([len(en.split()), len(es.split())])
        if book not in LEFT_OUT and 0 < longer <= LONGEST * shorter:
            yield book, chapter, verse, en, es


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
            f"lines). The source differs from sword-text-web 426.0 and sword-text-sparv 2.60: another version?"
        )
    path.write_bytes(gzip.compress(raw, mtime=0))  # no time stamp, so that two runs give the same bytes


if __name__ == "__main__":
    main()
