"""What nbdev's `show_doc` shows, as directives of Sphinx's Python domain: signature, docstring, docments, link to the source."""
from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import cached_property
from typing import Any, get_type_hints

from fastcore.docments import docments
from names import ROOT, is_code
from symbols import Symbol, Symbols

EMPTY = inspect.Parameter.empty
_NO_DOCMENT = re.compile(r"^(type: ignore(\[[\w, -]+\])?|noqa(: \w+)?)\s*#?\s*") # what a comment says to tools


def unwrapped(value: Any) -> Any:
    "The Python function behind a property, a cached, compiled or decorated one"
    if isinstance(value, property): value = value.fget
    if isinstance(value, cached_property): value = value.func
    value = getattr(value, "__func__", value)
    value = getattr(value, "py_func", value)
    return inspect.unwrap(value) if callable(value) else value


def _short(value: Any, longest: int = 40) -> str: # a default as the signature shows it; the table has more room
    text = getattr(value, "__name__", None) if inspect.isclass(value) or inspect.isroutine(value) else None
    text = text or repr(value)
    if "\n" in text or text.startswith("<") or " at 0x" in text: return "..."
    return text if len(text) <= longest else "..."


def signature(value: Any) -> str: # without types, which stand in the table
    "The arguments as one writes them"
    try: s = inspect.signature(value if inspect.isclass(value) else unwrapped(value))
    except (TypeError, ValueError): return "()" if not inspect.isclass(value) else ""
    parameters = list(s.parameters.values())
    if not inspect.isclass(value) and parameters and parameters[0].name in ("self", "cls"): parameters = parameters[1:]
    shown = []
    for p in parameters:
        if p.default is EMPTY: p = p.replace(annotation=EMPTY)
        else: p = p.replace(annotation=EMPTY, default=_Shown(_short(p.default)))
        shown.append(p)
    return str(s.replace(parameters=shown, return_annotation=EMPTY)).replace("\\", "\\\\")


class _Shown(str): # a default that prints itself as it is
    __repr__ = str.__str__


def _options(value: Any) -> dict[str, str]: # what typer says of a command's options
    try: hints = get_type_hints(unwrapped(value), include_extras=True)
    except (NameError, TypeError, AttributeError): return {}
    found = {}
    for name, hint in hints.items():
        told = [m.help for m in getattr(hint, "__metadata__", ()) if getattr(m, "help", None)]
        if told: found[name] = told[0]
    return found


def _cell(text: str) -> str: # of a table
    return " ".join(str(text).split()).replace("|", "\\|")


def _type(annotation: Any) -> str:
    if annotation is EMPTY or annotation is None: return ""
    if inspect.isclass(annotation): return annotation.__name__
    return str(annotation).replace("typing.", "").strip("'\"")


def table(value: Any, symbols: Symbols, module: str) -> str:
    "The docments: a row an argument, and what is returned"
    whole = value if inspect.isclass(value) else unwrapped(value)
    if inspect.isclass(value) and not getattr(value.__init__, "__module__", "").startswith("motiflab"): return "" # the arguments of a library's class
    try: documented = docments(whole, full=True, returns=True)
    except (TypeError, ValueError, OSError, SyntaxError, IndexError): return ""
    told, rows = _options(value), []
    for name, d in documented.items():
        if name in ("self", "cls"): continue
        words, kind = _NO_DOCMENT.sub("", d.get("docment") or "") or told.get(name) or "", _type(d.get("anno"))
        if name == "return":
            if not (words or kind) or kind == "None": continue
            rows.append(("**returns**", kind, "", words))
        else:
            default = "" if d.get("default", EMPTY) is EMPTY else f"`{_short(d['default'], 100)}`"
            rows.append((f"`{name}`", kind, default, words))
    if not any(kind or words for _, kind, _, words in rows): return ""
    cells = [(name, symbols.type(kind, module), default, symbols.link(words, module)) for name, kind, default, words in rows]
    used = [i for i in range(4) if i < 2 or any(row[i] for row in cells)] # no empty columns
    head = ("argument", "type", "default", "meaning")
    lines = [[head[i] for i in used], ["---"] * len(used), *([_cell(row[i]) for i in used] for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def source(value: Any, repository: str) -> str: # a link, or nothing for what has no lines of its own
    "Where the code stands"
    try:
        file = inspect.getsourcefile(unwrapped(value))
        line = inspect.getsourcelines(unwrapped(value))[1]
    except (TypeError, OSError): return ""
    if not file or not file.startswith(str(ROOT / "motiflab")): return ""
    return f"{repository}/blob/main/{file.removeprefix(str(ROOT) + '/')}#L{line}"


def words(value: Any) -> str: # Markdown
    "What the docstring says"
    text = inspect.getdoc(value if inspect.isclass(value) or isinstance(value, property) else unwrapped(value)) or ""
    return "" if inspect.isclass(value) and text.startswith(f"{value.__name__}(") else text


def _directive(kind: str, name: str, module: str, body: str, depth: int, options: str = "") -> str:
    fence = ":" * (12 - 3 * depth)
    return f"{fence}{{py:{kind}}} {name}\n:module: {module}\n{options}\n{body.strip()}\n{fence}"


def _body(value: Any, symbols: Symbols, module: str, repository: str) -> str:
    where = source(value, repository)
    link = f"[source]({where}){{.source-link}}" if where else ""
    return "\n\n".join(p for p in (link, symbols.link(words(value), module), table(value, symbols, module)) if p)


def _member(symbol: Symbol, symbols: Symbols, repository: str) -> str:
    value, static = symbol.value, ""
    kind = "property" if isinstance(value, (property, cached_property)) else "method"
    owner = getattr(importlib.import_module(symbol.module), symbol.name.split(".")[0])
    raw = inspect.getattr_static(owner, symbol.name.split(".")[1])
    if isinstance(raw, classmethod): static = ":classmethod:\n"
    if isinstance(raw, staticmethod): static = ":staticmethod:\n"
    arguments = "" if kind == "property" else signature(value)
    return _directive(kind, symbol.name + arguments, symbol.module, _body(value, symbols, symbol.module, repository), 2, static)


def _bases(value: type, symbols: Symbols, module: str) -> str:
    roles = [symbols.role(b.__name__, module) or f"`{b.__module__.split('.')[0]}.{b.__name__}`" for b in value.__bases__ if b.__module__ not in ("builtins", "typing") and not b.__name__.startswith("_")]
    return "Bases: " + ", ".join(roles) if roles else ""


def show(symbol: Symbol, symbols: Symbols, repository: str) -> str: # MyST
    "One public name with all that is said of it, a class with its members"
    value, anchor = symbol.value, f'<span id="{symbol.name}"></span>\n\n' # as nbdev's own sites call it
    if inspect.isclass(value):
        members = [s for s in symbols.all if s.module == symbol.module and s.name.startswith(symbol.name + ".")]
        parts = [_bases(value, symbols, symbol.module), _body(value, symbols, symbol.module, repository), *(_member(m, symbols, repository) for m in members)]
        kind = "exception" if issubclass(value, BaseException) else "class"
        return anchor + _directive(kind, symbol.name + signature(value), symbol.module, "\n\n".join(p for p in parts if p), 1)
    if inspect.isroutine(unwrapped(value)) and unwrapped(value) is not None and hasattr(unwrapped(value), "__code__"):
        return anchor + _directive("function", symbol.name + signature(value), symbol.module, _body(value, symbols, symbol.module, repository), 1)
    return anchor + _constant(symbol, symbols)


def _constant(symbol: Symbol, symbols: Symbols) -> str:
    "A constant with its value and the comment that stands beside it"
    text = assigned(symbol)[0]
    options, said = (f":value: {text}\n" if text else ""), constant(symbol)
    return _directive("data", symbol.name, symbol.module, symbols.link(said, symbol.module) if said != f"`{text}`" else "", 1, options)


def assigned(symbol: Symbol) -> tuple[str, str]: # the expression where it is short, the comment beside it
    "What a constant is made of"
    lines = inspect.getsource(importlib.import_module(symbol.module)).splitlines()
    for node in ast.parse("\n".join(lines)).body:
        names = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if not any(isinstance(n, ast.Name) and n.id == symbol.name or isinstance(n, ast.Tuple) and symbol.name in [getattr(e, "id", "") for e in n.elts] for n in names): continue
        comment = re.search(r"(?<!['\"&\w])#\s+([^'\"]*|.*[^'\"])$", lines[node.lineno - 1])
        expression = ast.unparse(node.value) if node.value and isinstance(names[0], ast.Name) else ""
        return expression if len(expression) <= 90 else "", comment[1] if comment else ""
    return "", ""


def constant(symbol: Symbol) -> str: # Markdown
    "What is said of a constant: its comment, the help of a command's option, or its value"
    value, comment = assigned(symbol)
    told = [m.help for m in getattr(symbol.value, "__metadata__", ()) if getattr(m, "help", None)]
    return comment or (told[0] if told else f"`{value}`" if value and "`" not in value else "")


def _first_sentence(text: str) -> str:
    return re.split(r"(?<!\bal\.)(?<!\bPhys\.)(?<!\bChem\.)(?<!\bSci\.)(?<!\bMater\.)(?<=[.;:])\s", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0].rstrip(";:")


def names(listed: list[Symbol], symbols: Symbols, module: str) -> str: # MyST
    "A table of names with what each is, in half a sentence"
    if not listed: return ""
    lines = ["| name | what it is |", "|---|---|"]
    for s in listed:
        said = _first_sentence(words(s.value)) if is_code(s.value) else constant(s)
        lines.append(f"| {{py:obj}}`{s.name} <{s.target}>` | {_cell(symbols.link(said, module))} |")
    return "\n".join(lines)
