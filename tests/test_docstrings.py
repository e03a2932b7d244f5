"""Every public name says what it is."""
from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def names():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import names
    finally: sys.path.remove(str(ROOT / "docs"))
    return names


def test_every_public_name_has_a_docstring(names):
    missing = names.without_docstring()
    assert not missing, "These say nothing of themselves: " + ", ".join(f"{module}.{name}" for module, name in missing)


def test_the_list_of_public_names_is_whole_and_without_others(names):
    found = {(module, name): value for module, name, value in names.public_names()}
    assert ("motiflab.motifs.extract", "extract_motifs") in found and ("motiflab.motifs", "extract_motifs") not in found # defined there, re-exported here
    assert ("motiflab.motif2vec", "Motif2Vec.reweighted") in found and ("motiflab.estimators", "CrystalRegressor.predict") in found
    assert ("motiflab.models.registry", "MODELS") in found and ("motiflab.models.hybrid", "DeCGCNN") in found # constants, classes made by a function
    assert ("motiflab.motifs.measure", "search_shapes") in found # compiled
    assert not [name for _, name in found if name.split(".")[-1].startswith("_")]
    assert not names.is_code(found["motiflab.folds", "Fit"]) # an alias of a type


def test_a_docstring_that_is_not_there_is_found(names):
    from dataclasses import dataclass

    @dataclass
    class Point: x: int
    class Said(Point): "Says something"

    assert not names._docstring(Point) and names._docstring(Said) and inspect.getdoc(Point)
