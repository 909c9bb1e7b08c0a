"""Write the repository's public address wherever it is needed: once it has one, or when it moves.

    make address URL=https://github.com/owner/name

The badges of the tutorials then open them in Colab, and their first cell installs from the address. The package's
metadata, the citation and the site name it. The README installs from it, and its links and pictures are absolute, so
that they work on a package index too.
"""

import re
import sys
from pathlib import Path

COLAB = "https://colab.research.google.com/"
KEYS = {"setup.cfg": "url = ", "mkdocs.yml": "repo_url: ", "CITATION.cff": "repository-code: "}


def write(root: Path, url: str) -> None:
    """Write an address into the files of a repository, in place of another or of none.

    Args:
        root: of the repository.
        url: on GitHub, from which Colab opens notebooks.
    Raises:
        ValueError: another address.
    """
    found = re.fullmatch(r"https://github\.com/([\w-]+/[\w.-]+?)(?:\.git)?/?", url)
    if found is None:
        raise ValueError(f"URL: expected https://github.com/owner/name, from which Colab opens notebooks; got {url!r}.")
    url = f"https://github.com/{found[1]}"
    write_readme(root / "README.md", found[1])
    for book in sorted(root.glob("examples/notebooks/*.ipynb")):
        badge = f"({COLAB}github/{found[1]}/blob/main/{book.relative_to(root).as_posix()})"
        text = re.sub(rf"\({COLAB}(?!assets)[^)]*\)", badge, book.read_text(encoding="utf-8"))
        text = re.sub(r'(?m)^( *"SOURCE = ).*?(\\n",)$', rf'\1\\"git+{url}\\"\2', text)
        text = re.sub(r'(?m)^ *"\*In Colab\'s dialog .*\n', "", text)  # how to find it without an address
        book.write_text(text, encoding="utf-8")
    for name, key in KEYS.items():
        lines = (root / name).read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if not line.startswith(key)]
        kept.insert(next(row for row, line in enumerate(kept) if line[:1].isalpha()) + 1, key + url)
        (root / name).write_text("\n".join(kept) + "\n", encoding="utf-8")


def write_readme(path: Path, name: str) -> None:
    """Make the links and pictures of a README absolute, and its install line one that needs no checkout.

    Args:
        path: of the README.
        name: "owner/name" on GitHub.
    """
    text = path.read_text(encoding="utf-8")
    # Back to relative links first, in case the repository has moved.
    text = re.sub(
        r"\]\(https://(?:github\.com/[^/]+/[^/]+/blob|raw\.githubusercontent\.com/[^/]+/[^/]+)/main/", "](", text
    )
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\1https://raw.githubusercontent.com/{name}/main/", text)
    text = re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:|#)", rf"\1https://github.com/{name}/blob/main/", text)
    text = re.sub(r"(?m)^pip install (?:\.|git\+).*$", f"pip install git+https://github.com/{name}", text)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        write(Path(__file__).parents[1], *sys.argv[1:2] or [""])
    except ValueError as error:
        sys.exit(str(error))
