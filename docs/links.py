"""Every link and picture of the built site leads somewhere: to a page, to a place on it, to a file."""
from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from names import ROOT

_DOI = re.compile(r"^/10\.\d{4,9}/\S+$")


@dataclass
class _Found(HTMLParser):
    ids: set[str] = field(default_factory=set)
    links: list[tuple[str, str]] = field(default_factory=list) # (attribute, address)

    def __post_init__(self): super().__init__()

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("id", "name") and value: self.ids.add(value)
            if name in ("href", "src") and value is not None: self.links.append((name, value))


@lru_cache(maxsize=None)
def _read(path: Path) -> _Found:
    found = _Found()
    found.feed(path.read_text(encoding="utf-8"))
    return found


def _outside(address: str, attribute: str, repository: str, branch: str) -> str: # what is wrong, empty when nothing is
    "Addresses on other hosts: a reader's page may link to them, but loads nothing from them"
    parts = urlsplit(address)
    if attribute == "src": return "is loaded from another host"
    if parts.hostname == "doi.org" and not _DOI.match(parts.path): return "is no DOI"
    base = urlsplit(repository).path
    at = re.match(rf"{re.escape(base)}/(?:blob|tree|edit)/{re.escape(branch)}/(.+)$", parts.path) if parts.hostname == "github.com" else None
    colab = re.match(rf"/github{re.escape(base)}/blob/{re.escape(branch)}/(.+)$", parts.path) if parts.hostname == "colab.research.google.com" else None
    file = at or colab
    return "is not in the repository" if file and not (ROOT / unquote(file[1])).exists() else ""


def _inside(address: str, page: Path, site: Path) -> str:
    parts = urlsplit(address)
    target = page if not parts.path else (site / parts.path.lstrip("/") if parts.path.startswith("/") else Path(os.path.normpath(page.parent / unquote(parts.path))))
    if target.is_dir(): target = target / "index.html"
    if not target.exists(): return "leads nowhere"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target).ids: return "has no such place on its page"
    return ""


def broken(site: Path, repository: str, branch: str) -> list[str]: # a sentence for each
    "What a reader would click in vain"
    found = []
    for page in sorted(site.rglob("*.html")):
        if "_static" in page.parts or page.name == "atlas.html": continue
        for attribute, address in dict.fromkeys(_read(page).links):
            kind = urlsplit(address)
            if kind.scheme in ("data", "mailto", "javascript"): continue
            wrong = _outside(address, attribute, repository, branch) if kind.scheme in ("http", "https") or address.startswith("//") else _inside(address, page, site)
            if wrong: found.append(f"{page.relative_to(site)}: {address[:160]} {wrong}")
    return found
