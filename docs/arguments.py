"""Tables of every argument and every recipe key, made from the dataclasses.

    python docs/arguments.py

In a page of `docs/api`, what follows the comment `<!-- arguments -->` becomes the fields that `DistillationArguments`
adds to `TrainingArguments`, and what follows `<!-- recipe keys -->` the keys of a recipe, section by section; `make
docs` does the same for the site. Types and defaults are the dataclasses' own. The help is that of the field's metadata,
or else of the `Attributes:` or `Args:` section of the docstring.
"""

import dataclasses
import inspect
import re
import typing
from pathlib import Path

HEADER = "| key | type | default | meaning |\n|---|---|---|---|\n"
SECTION = re.compile(r"^ *(?:Attributes|Args):\n(.*?)(?=^ *(?:Returns|Raises|Source):\n|^ *>>> |\Z)", re.M | re.S)
ENTRY = re.compile(r"^( +)(\w+): (.*(?:\n\1 +\S.*)*)", re.M)


def documented(owner) -> dict[str, str]:
    """Name to description, from the docstring of a class."""
    section = SECTION.search(inspect.cleandoc(owner.__doc__ or "") + "\n")
    entries = ENTRY.findall(section[1]) if section else []
    return {name: " ".join(text.split()) for _, name, text in entries}


def default_of(field) -> str:
    """The default value of a field as Markdown."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    return "see below" if dataclasses.is_dataclass(value) else f"`{value!r}`"


def type_of(owner, name: str) -> str:
    """The annotation of a field, as it is in the code."""
    annotation = next(found[name] for found in map(inspect.get_annotations, owner.__mro__) if name in found)
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)  # without the modules


def row(name: str, kind: str, default: str, text: str) -> str:
    kind, text = kind.replace("|", "\\|"), text.replace("|", "\\|")
    return f"| `{name}` | {kind} | {default} | {text} |\n"


def table(owner, prefix: str = "", names=None, inside=()) -> str:
    """A table of the fields of a dataclass.

    Args:
        owner: the dataclass.
        prefix: of the keys.
        names: the fields to list. None: all.
        inside: keys of sections, whose tables have an anchor of that name.
    Raises:
        ValueError: a field without a description.
    """
    text, rows = documented(owner), []
    for field in dataclasses.fields(owner):
        if names is not None and field.name not in names:
            continue
        described = field.metadata.get("help") or text.get(field.name)
        if prefix + field.name in inside:
            link = f"[keys](#{prefix}{field.name})"
            described = f"a section: {link}" if described.startswith("see `") else f"{described} {link}"
        if not described:
            raise ValueError(f"{owner.__name__}.{field.name} has no description. Add it to the class's docstring.")
        rows.append(row(prefix + field.name, f"`{type_of(owner, field.name)}`", default_of(field), described))
    return f'<div class="keys" markdown>\n\n{HEADER}{"".join(rows)}\n</div>\n'


def sections(owner, prefix: str = "") -> list[tuple[str, type]]:
    """(key, dataclass) of every section inside a dataclass, in depth-first order."""
    hints, found = typing.get_type_hints(owner), []
    for field in dataclasses.fields(owner):
        inside = [hints[field.name], *typing.get_args(hints[field.name])]
        for part in inside:
            if dataclasses.is_dataclass(part):
                key = f"{prefix}{field.name}"
                found += [(key, part), *sections(part, f"{key}.")]
    return found


def own_fields(config) -> set[str]:
    """The fields that a config adds to its parent."""
    return {field.name for field in dataclasses.fields(config)} & inspect.get_annotations(config).keys()


def arguments_table() -> str:
    """The fields that `DistillationArguments` adds."""
    from hf_distill.training.arguments import Objective, Placement

    return table(Objective) + table(Placement).removeprefix(HEADER)


def recipe_tables() -> str:
    """The keys of a recipe, section by section."""
    from hf_distill.recipes.recipe import STUDENTS, Recipe
    from hf_distill.training.arguments import Objective

    keys = dict(sections(Recipe))
    parts = ["## Top level\n", table(Recipe, inside=keys)]
    for key, part in keys.items():
        parts += [f"\n## {key} {{#{key}}}\n", table(part, f"{key}.", inside=keys)]
        if key == "student":
            for kind, config in STUDENTS.items():
                parts += [f"\n### student.config, kind: {kind}\n", table(config, "student.config.", own_fields(config))]
    parts += [
        "\n## distill\n",
        "The fields below, and every argument of `transformers.TrainingArguments`. `matching` is a list; each item has "
        "a `kind` and the arguments of that [matching](matchings.md). A list in place of the section gives several "
        "stages. A translation also has `targets` and `sequences`, described under `distill` at the top level.\n",
        table(Objective, "distill."),
    ]
    return "\n".join(parts)


PAGES = ("arguments.md", "recipe_keys.md")
MARKERS = {"<!-- arguments -->": arguments_table, "<!-- recipe keys -->": recipe_tables}


def on_page_markdown(markdown, **_):
    """The hook of mkdocs: a page with its tables as they are now."""
    for marker, made in MARKERS.items():
        if marker in markdown:
            return f"{markdown.partition(marker)[0]}{marker}\n\n{made()}"
    return markdown


if __name__ == "__main__":
    for name in PAGES:
        page = Path(__file__).parent / "api" / name
        page.write_text(on_page_markdown(page.read_text(encoding="utf-8")), encoding="utf-8")
