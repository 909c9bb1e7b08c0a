"""Links of a page to a file of the repository outside docs/: on the site they become the file's name.

The pages are read on GitHub too, where such links work. A file that is not there is a warning, so `make docs` fails.
"""

import logging
import re
from pathlib import Path

logger = logging.getLogger("mkdocs.hooks.links")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown, page, config, **_):
    docs = Path(config["docs_dir"]).resolve()
    here = (docs / page.file.src_uri).parent

    def named(link):
        text, path = link[1], (here / link[2]).resolve()
        if path.is_relative_to(docs):
            return link[0]
        if not path.exists():
            logger.warning("%s: there is no %s", page.file.src_uri, link[2])
        name = path.relative_to(docs.parent).as_posix()
        return f"{text} (`{name}`)" if text not in (name, f"`{name}`") else f"`{name}`"

    return LINK.sub(named, markdown)
