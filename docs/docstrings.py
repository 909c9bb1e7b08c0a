"""Docstrings as the reader of the site's API pages needs them; in the code they stay as short as they are."""

import re

import griffe

# A section is only seen after an empty line.
SECTION = re.compile(r"(?<!\n)\n(?=(?:Args|Attributes|Returns|Yields|Raises|Source):\n)")
# From a prompt to the next empty line: Markdown would take >>> for a quotation.
DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.M)


class Docstrings(griffe.Extension):
    """Sets sections apart and fences doctests."""

    def on_instance(self, *, obj, **_):
        if obj.docstring is not None:
            value = SECTION.sub("\n\n", obj.docstring.value)
            obj.docstring.value = DOCTEST.sub(r"```pycon\n\g<0>\n```", value)
