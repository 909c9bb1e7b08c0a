"""Whatever docs, examples, notebooks, benchmarks and cards import of hf_distill is there."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "examples", "benchmarks", "model_cards")
FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "hf_distill/reports/model_card_template.md")),
    *(path for folder in FOLDERS for ending in ("md", "py", "ipynb") for path in (ROOT / folder).rglob(f"*.{ending}")),
]
FILES = [path for path in FILES if "node_modules" not in path.parts]
# Within Markdown, an import ends with its line or its parenthesis.
IMPORT = re.compile(r"^[ >]*((?:from hf_distill\S* import|import hf_distill).*?(?:\([^)]*\))?)\s*$", re.MULTILINE)


def code(path: Path) -> str:
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        sources = [cell.source for cell in cells if cell.cell_type == "code"]
        return "\n".join(source for source in sources if not source.startswith("%%"))  # which are no Python
    text = path.read_text()
    return text if path.suffix == ".py" else "\n".join(IMPORT.findall(text))


def names(source: str) -> set[tuple[str, str | None]]:
    """Modules of hf_distill, and what is imported from them."""
    source = re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)  # a notebook's own commands
    found: set[tuple[str, str | None]] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
    return {each for each in found if each[0].split(".")[0] == "hf_distill"}


def is_there(module: str, name: str | None) -> bool:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        return False
    inside = hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None
    return name is None or hasattr(found, name) or inside


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_imported_is_there(path):
    missing = [(module, name) for module, name in names(code(path)) if not is_there(module, name)]
    assert not missing


def test_every_kind_of_file_names_something():
    """The test above would pass if it found no imports."""
    for ending in (".md", ".py", ".ipynb"):
        assert any(names(code(path)) for path in FILES if path.suffix == ending)
    assert names(code(ROOT / "README.md"))
    assert not is_there("hf_distill", "Distil") and not is_there("hf_distill.losses", "kl")


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_documented_names_are_there(path):
    """`::: hf_distill.students.tokenizer.student_tokenizer`, and the members chosen of it."""
    text = path.read_text()
    for full in re.findall(r"^::: (hf_distill\S*)", text, re.MULTILINE):
        assert is_there(full, None) or is_there(*full.rpartition(".")[::2]), full


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "model_cards/README.md"])
def test_links_lead_to_files(name):
    """Those of docs/ are checked by `make docs`."""
    page = ROOT / name
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())}
    missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert not missing
