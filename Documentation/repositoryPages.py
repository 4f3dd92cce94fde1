"""MkDocs hook: pages of the site that are files of the repository, with their links rewritten."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "Testing/Benchmarks/README.md": "benchmarks.md",
    "Testing/Benchmarks/research_log.md": "research-log.md",
}
_OWN_PAGES = "Documentation/pages/"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the pictures that they show."""
    pictures: set[str] = set()
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_with_site_links(text, source, pictures)))
    for own in sorted((ROOT / _OWN_PAGES).glob("*.md")):  # only for the pictures that they show
        _with_site_links(own.read_text(encoding="utf-8"), _OWN_PAGES + own.name, pictures)
    for picture in sorted(pictures):
        files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of the pages in this folder, too."""
    return _with_site_links(markdown, _OWN_PAGES + page.file.src_uri, set()) if _is_own(page.file.src_uri) else markdown


def _is_own(page: str) -> bool:
    return page not in PAGES.values()


def _with_site_links(text: str, source: str, pictures: set[str]) -> str:
    """Links to pages of the site and to pictures as the site needs them; other files of the repository as text."""

    def rewrite(match: re.Match) -> str:
        mark, label, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if mark:
            pictures.add(path)
            return f"![{label}]({path})"
        if path in PAGES:
            return f"[{label}]({PAGES[path]}{anchor})"
        if path.startswith(_OWN_PAGES):
            return f"[{label}]({path.removeprefix(_OWN_PAGES)}{anchor})"
        return f"{label} (`{path}`)" if label.strip("`") != path else f"`{path}`"

    return _LINK.sub(rewrite, text)
