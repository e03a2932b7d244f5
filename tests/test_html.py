"""The page that can be mailed, as a file (what it does in a browser is tested in tests/browser)."""
import base64
import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from motiflab.atlasdata import atlas_data
from motiflab.crystals import CrystalSet
from motiflab.errors import UserError
from motiflab.html import atlas_page, packed, page_data, safe_json, write_atlas
from motiflab.motifs.table import MotifTable

BAD = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def data():
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [.5, .5, .5]])
    ligands = [dict(site=n.index, image=[int(i) for i in n.image]) for n in cell.get_neighbors(cell[0], 2.2)]
    row = dict(site=0, element="Mg", oxidation=2.0, symbol="O:6", name="octahedron", cn=6, csm=0.0, multiplicity=4, order_parameters=[], ligands=ligands)
    ids = [BAD, 7, "big"]
    table = MotifTable([row | dict(crystal_id=i) for i in ids])
    crystals = CrystalSet(pd.DataFrame(dict(structure=[cell, cell.get_primitive_structure(), cell * (3, 3, 3)], gap=[7.8, np.nan, 7.0]), index=ids))
    table.motifs.loc[1, "ligands"] = None
    table.motifs.at[1, "ligands"] = []
    return atlas_data(table, pd.DataFrame([[1., 0], [0, 1]], index=["Mg|O:6", "Zn|T:4"]), crystals, projection="pca")


def test_json_in_a_script_element():
    value = {"a": [BAD, "\u2028\u2029&", float("inf"), np.float32(1.5), np.int64(3), np.nan, np.array([1.0, np.nan])]}
    text = safe_json(value)
    assert not set(text) & set("<>&\u2028\u2029") and json.loads(text) == {"a": [BAD, "\u2028\u2029&", None, 1.5, 3, None, [1.0, None]]}
    assert json.loads(gzip.decompress(base64.b64decode(packed(value)))) == json.loads(text)
    assert packed(value) == packed(value) # the same page for the same atlas


def test_page_holds_what_it_needs_and_asks_for_nothing(data):
    page = atlas_page(data, BAD)
    head = page[:page.index("<style>")]
    assert BAD not in head and "default-src 'none'" in head and "connect-src" not in head
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?!data:|[\"'])", page[:200_000])
    known = json.loads(re.search(r'id="atlas-data">(.*?)</script>', page, re.S)[1])
    drawings = json.loads(gzip.decompress(base64.b64decode(re.search(r'id="atlas-crystals">(.*?)</script>', page, re.S)[1])))
    assert known["kinds"]["kind"][0] == "Mg|O:6" and known["formulas"] == {"MgO": [0]}
    assert BAD in {d["id"] for d in drawings} and all(len(d["xyz"]) == 3 * len(d["element"]) for d in drawings)
    assert page.count(BAD) == 0


def test_examples_are_small_cells_first_and_limited(data):
    known, drawings = page_data(data, max_examples=2)
    assert [d["id"] for d in drawings] == ["7", BAD] and known["kinds"]["held"] == [3, 0]
    assert page_data(data, max_examples=0)[1] == []


def test_the_old_page_stays_when_the_new_cannot_be_written(data, tmp_path, monkeypatch):
    path = tmp_path / "atlas.html"
    path.write_text("old")
    from pathlib import Path
    def full(self, *args, **kwargs): raise OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left"): write_atlas(data, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["missing/atlas.html", "."])
def test_the_place_is_looked_at_before_anything_is_drawn(data, tmp_path, monkeypatch, place):
    import motiflab.html as html
    monkeypatch.setattr(html, "atlas_page", lambda *args: pytest.fail("drawn in vain"))
    with pytest.raises(UserError, match="folder") as error: write_atlas(data, tmp_path / place)
    assert " -o" not in str(error.value)


def test_colours_keep_their_order_whatever_properties_are_called(data):
    cell = data.crystals.frame.structure.iloc[0]
    crystals = CrystalSet(pd.DataFrame({"structure": [cell, cell, cell], "2024": [1., 2, 3], "geometry": [3., 2, 1]}, index=data.crystals.frame.index))
    known = page_data(atlas_data(data.table, pd.DataFrame([[1., 0], [0, 1]], index=["Mg|O:6", "Zn|T:4"]), crystals, projection="pca"))[0]
    assert known["colors"][0] == "geometry" and known["colors"][-2:] == ["2024", "geometry (property)"] and set(known["colors"]) == set(known["colorings"])
    assert known["colorings"]["geometry"]["legend"] and known["colorings"]["geometry (property)"]["scale"]


def test_same_atlas_same_page(data): assert atlas_page(data) == atlas_page(data)
