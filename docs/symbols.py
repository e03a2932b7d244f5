"""Which public name stands on which page, so that backticks become links."""
from __future__ import annotations

import importlib
import re
from collections import defaultdict
from dataclasses import dataclass

from names import modules, public_names

_CODE = re.compile(r"(?<![`\[\w{}])`([A-Za-z_][\w.]*)(\(\))?`(?![`\]])")
_WORD = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Symbol:
    module: str # where it is defined
    name: str # `Atlas`, or `Atlas.show` of a member
    value: object

    @property
    def target(self) -> str: # what a cross-reference names
        return f"{self.module}.{self.name}"


class Symbols:
    "Looks names up: whole ones, those that another module hands on, and bare ones where only one can be meant"
    def __init__(self):
        self.all = [Symbol(*found) for found in public_names()]
        self.modules = [name for name, _ in modules()]
        self.targets = {s.target: s.target for s in self.all}
        bare = defaultdict(set)
        for s in self.all:
            if "." not in s.name or s.name.count(".") == 1: bare[s.name].add(s.target)
        self.bare = dict(bare)
        self._hand_on()

    def _hand_on(self) -> None:
        "Names that a module's `__all__` takes from another: `motiflab.motifs.extract_motifs`"
        defined = {id(s.value): s for s in self.all if "." not in s.name and callable(s.value)}
        self.handed_on: dict[str, list[Symbol]] = {}
        for name in self.modules:
            module = importlib.import_module(name)
            for public in getattr(module, "__all__", ()):
                symbol = defined.get(id(getattr(module, public, None)))
                if symbol is None or symbol.module == name: continue
                self.targets.setdefault(f"{name}.{public}", symbol.target)
                self.handed_on.setdefault(name, []).append(symbol)

    def find(self, name: str, module: str = "") -> str | None: # the target, None for a word that is no name or could be several
        "What `name` means on the page of `module`"
        if name in self.targets: return self.targets[name]
        if f"{module}.{name}" in self.targets: return self.targets[f"{module}.{name}"]
        if f"motiflab.{name}" in self.targets: return self.targets[f"motiflab.{name}"]
        candidates = self.bare.get(name, set())
        return next(iter(candidates)) if len(candidates) == 1 else None

    def role(self, name: str, module: str = "", call: str = "") -> str | None: # MyST's cross-reference
        "A link, unless the word may mean something else: a plain one away from its own page, or a library's name that the module uses"
        if name in self.modules: return f"{{py:mod}}`{name} <{name}>`"
        target = self.find(name, module)
        plain = name.isalpha() and name.islower() and not call
        if plain and target != f"{module}.{name}": return None
        held = getattr(importlib.import_module(module), name, None) if module and "." not in name else None
        if held is not None and not getattr(held, "__module__", "motiflab").startswith("motiflab"): return None
        return f"{{py:obj}}`{name}{call} <{target}>`" if target else None

    def link(self, text: str, module: str = "") -> str:
        "Markdown with links in place of backticks around public names; fenced code and headings stay as they are"
        lines, fenced, columns = text.split("\n"), False, False
        for i, line in enumerate(lines):
            if line.startswith("|"): columns = line.startswith("| column |") or columns and lines[i - 1].startswith("|")
            if columns and line.startswith("|"): continue # names of a table's columns are not ours
            if re.match(r"\s*(```|~~~)", line): fenced = not fenced
            elif not fenced and not line.startswith(("    ", "#")):
                lines[i] = _CODE.sub(lambda m: self.role(m[1], module, m[2] or "") or m[0], line)
        return "\n".join(lines)

    def type(self, annotation: str, module: str = "") -> str:
        "An annotation with links for the classes that are ours"
        parts, at = [], 0
        for word in _WORD.finditer(annotation):
            role = self.role(word[0], module)
            if not role: continue
            parts += [annotation[at:word.start()], role]
            at = word.end()
        parts.append(annotation[at:])
        return "".join(p if p.startswith("{py:") else f"`{p}`" if p.strip() and "`" not in p else p for p in (p.strip() for p in parts) if p)
