"""What `make docs` does beside MkDocs, as hooks of mkdocs.yml.

- README and its like are read where they are (`BROUGHT`); nothing is copied into the tree.
- A link to a file of the tree that is no page must name a file that is there. It becomes a link to the repository when
  mkdocs.yml has a ``repo_url``, else the name of the file.
- Headings get the anchors that GitHub gives them, so that one link serves both.
- A list that GitHub shows and MkDocs does not (no blank line before it) fails the build.
- A page that would load something from another host fails the build: the site is read without a network, too.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"

BROUGHT = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reporting.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Files of the tree, and the page of the site that each becomes."""

# Leftmost wins: what stands in code is no link, and a link's text may hold code.
_LINK_OR_CODE = re.compile(
    r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$"
    r"|\[(?P<text>(?:`[^`]*`|[^\[\]`])*)\]\((?P<target>[^()\s]+)\)"
    r"|(?P<ticks>`+)[^`].*?(?P=ticks)",
    re.MULTILINE | re.DOTALL,
)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#|//", re.IGNORECASE)
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|audio|video|embed)\b[^>]*?\bsrc=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|<link\b[^>]*?\bhref=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|@import[^;]*//[^;]+|url\([\"']?(?:https?:)?//[^)]+",
    re.IGNORECASE,
)

_SWALLOWED = re.compile(r"<p>(?:(?!</p>).)*?\n(?P<item>(?:[-*]|\d+\.) [^\n]*)", re.DOTALL)


def slug(heading: str, separator: str = "-") -> str:
    """Return the anchor that GitHub gives a heading: lower case, punctuation gone, each blank a ``separator``."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def relinked(markdown: str, source: str, root: Path = ROOT, repository: str | None = None) -> str:
    """Return a page's text with links that hold within the site.

    Args:
        source: where the text stands in the tree, such as ``docs/sql.md``.
        root: the tree.
        repository: where files that are no page can be seen; None: nowhere, so they are named only.

    Raises:
        FileNotFoundError: a link names a file that the tree has not.
    """
    page = BROUGHT.get(source) or posixpath.relpath(source, DOCS)

    def link(found: re.Match[str]) -> str:
        text, target = found["text"], found["target"]
        if target is None or _ELSEWHERE.match(target):
            return found[0]
        path, mark, anchor = target.partition("#")
        named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (root / named).exists():
            raise FileNotFoundError(f"{source} links to {target}: there is no {named}")
        inside = BROUGHT.get(named)
        if inside is None and named.startswith(f"{DOCS}/"):
            inside = posixpath.relpath(named, DOCS)
        if inside is not None:
            return f"[{text}]({posixpath.relpath(inside, posixpath.dirname(page) or '.')}{mark}{anchor})"
        if repository is not None:
            return f"[{text}]({repository.rstrip('/')}/blob/main/{named}{mark}{anchor})"
        return text if "`" in text or " " in text else f"`{text}`"

    return _LINK_OR_CODE.sub(link, markdown)


def swallowed_lists(html: str) -> list[str]:
    """Return the first item of each list that became part of the paragraph before it."""
    return _SWALLOWED.findall(html)


def loads_from_elsewhere(html: str) -> list[str]:
    """Return what a page or stylesheet would load from another host. Links that somebody has to follow are none."""
    return _LOADED.findall(html)


# --- hooks of MkDocs


def on_config(config: Any) -> Any:
    """Give headings GitHub's anchors."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside ``docs/``."""
    from mkdocs.structure.files import File  # here: tests use what is above without MkDocs

    for source, page in BROUGHT.items():
        if page in files.src_uris:
            raise FileExistsError(f"{DOCS}/{page} and {source} would be the same page")
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Mend the links of one page."""
    sources = {page: source for source, page in BROUGHT.items()}
    source = sources.get(page.file.src_uri, f"{DOCS}/{page.file.src_uri}")
    return relinked(markdown, source, ROOT, config.repo_url)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Fail when a list of the page is shown as running text."""
    if found := swallowed_lists(html):
        raise ValueError(f"{page.file.src_uri}: a list needs a blank line before it: {found}")
    return html


def on_post_build(config: Any) -> None:
    """Fail when anything of the site would be loaded from another host."""
    site = Path(config.site_dir)
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        if found := loads_from_elsewhere(path.read_text("utf-8")):
            raise RuntimeError(f"{path.relative_to(site)} would load {found}")
