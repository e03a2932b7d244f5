"""The literature: nbs/references.bib, and what each page cites of it, with DOIs."""
from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import bibtexparser

_NAME = r"[A-ZÀ-Þ][\w’'-]+"
_MENTION = re.compile(rf"(?P<first>{_NAME})(?:(?P<second>\s+and\s+{_NAME})|(?P<more>\s+et\s+al\.))?,?\s+(?:\((?P<in>(?:19|20)\d\d)\)|(?P<bare>(?:19|20)\d\d))")
_DOI = re.compile(r"doi\.org/(10\.\d{4,}/[^\s)\]\"<>`]+[^\s)\]\"<>`.,;])|doi:\s?(10\.\d{4,}/[^\s)\]\"<>`]+[^\s)\]\"<>`.,;])")
_LINKED = re.compile(r"\[[^\]]*\]\([^)]*\)|`[^`]*`")


def _plain(name: str) -> str: # letters without accents, lower case
    return "".join(c for c in unicodedata.normalize("NFKD", name) if c.isalpha()).lower()


@dataclass(frozen=True)
class Reference:
    key: str
    authors: tuple[str, ...] # "Surname, Given"
    title: str
    where: str # journal, volume, page
    year: str
    url: str # by its DOI
    place: str = "" # a pattern for volume and first page

    def written_out(self, text: str) -> bool:
        "Whether the text names the first author and the place, as in `Pauling, J. Am. Chem. Soc. 51, 1010 (1929)`"
        return bool(self.place) and self.authors[0].split(",")[0] in text and re.search(self.place, text) is not None

    @property
    def line(self) -> str: # of a list of references, Markdown
        people = [" ".join(reversed([p.strip() for p in a.split(",", 1)])) for a in self.authors]
        said = f"{people[0]} et al." if len(people) > 6 else ", ".join(people[:-1]) + (" and " if len(people) > 1 else "") + people[-1]
        shown = self.url.removeprefix("https://doi.org/").removeprefix("https://")
        return f"{said.removesuffix('.')}. {self.title}. *{self.where}* ({self.year}). [{shown}]({self.url})"


class References:
    "All that may be cited"
    def __init__(self, path: Path):
        parser = bibtexparser.bparser.BibTexParser(common_strings=True)
        entries = bibtexparser.loads(path.read_text(encoding="utf-8"), parser).entries
        self.all = {e["ID"]: self._read(e) for e in entries}
        self.by_doi = {r.url.removeprefix("https://doi.org/").lower(): r for r in self.all.values()}

    @staticmethod
    def _read(entry: dict) -> Reference:
        clean = {k: " ".join(v.replace("{", "").replace("}", "").split()) for k, v in entry.items()}
        where = " ".join(clean.get(k, "") for k in ("journal", "booktitle", "publisher") if clean.get(k))
        where += "".join(f" {clean['volume']}" if "volume" in clean else "") + (f", {clean['pages']}" if "pages" in clean else "")
        url = f"https://doi.org/{clean['doi']}" if "doi" in clean else clean["url"]
        page = re.split("[-–]", clean.get("pages", ""))[0]
        place = rf"\b{re.escape(clean['volume'])}\**,\s+{re.escape(page)}\b" if page and "volume" in clean else ""
        return Reference(clean["ID"], tuple(clean["author"].split(" and ")), clean["title"], where.replace("\\&", "&"), clean["year"], url, place)

    def mentioned(self, found: re.Match) -> Reference | None:
        "The reference that `Xie and Grossman (2018)` means"
        def fits(r: Reference) -> bool:
            family = [_plain(a.split(",")[0].split()[-1]) for a in r.authors]
            if r.year != (found["in"] or found["bare"]) or family[0] != _plain(found["first"]): return False
            return len(family) == 2 and family[1] == _plain(found["second"].split()[-1]) if found["second"] else len(family) > 2 if found["more"] else len(family) == 1
        fitting = [r for r in self.all.values() if fits(r)]
        return fitting[0] if len(fitting) == 1 else None

    def cite(self, text: str) -> tuple[str, list[Reference], list[str]]: # with links; what is cited; what is not in the list
        "Links for `Ward et al. (2017)` in one cell's Markdown"
        cited, unknown = [], []
        for doi in dict.fromkeys(a or b for a, b in _DOI.findall(text)):
            if doi.lower() in self.by_doi: cited.append(self.by_doi[doi.lower()])
            else: unknown.append(doi)
        kept: list[str] = []
        bare = _LINKED.sub(lambda m: kept.append(m[0]) or f"\0{len(kept) - 1}\0", text)

        def link(m: re.Match) -> str:
            reference = self.mentioned(m)
            if reference is None:
                if m["second"] or m["more"]: unknown.append(m[0]) # one word and a year may be anything
                return m[0]
            cited.append(reference)
            return f"[{m[0]}]({reference.url})"

        linked = _MENTION.sub(link, bare)
        cited += [r for r in self.all.values() if r.written_out(text)]
        return re.sub("\0(\\d+)\0", lambda m: kept[int(m[1])], linked), cited, unknown
