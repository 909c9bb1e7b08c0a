"""Links and pictures of a page outside docs/: on the site a link becomes the file's name, and a picture is copied.

The pages are read on GitHub too, where such links work. A file that is not there is a warning, so `make docs` fails.
"""

import logging
import os
import re
from pathlib import Path

from mkdocs.structure.files import File

logger = logging.getLogger("mkdocs.hooks.links")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")

PICTURE = re.compile(r"(!\[[^\]]*\]\()(\.\./[^)\s]*\.png)\)")


def on_files(files, config):
    docs = Path(config["docs_dir"]).resolve()
    for page in files.documentation_pages():
        for _, link in PICTURE.findall(page.content_string):
            path = ((docs / page.src_uri).parent / link).resolve()
            name = pictures_name(path, docs)
            if path.is_file() and not path.is_relative_to(docs) and files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def pictures_name(path, docs):
    """Where a picture of the repository is on the site."""
    return "pictures/" + path.relative_to(docs.parent).as_posix().replace("/", "-")


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

    def copied(picture):
        path = (here / picture[2]).resolve()
        return f"{picture[1]}{os.path.relpath(docs / pictures_name(path, docs), here)})"

    return PICTURE.sub(copied, LINK.sub(named, markdown))
