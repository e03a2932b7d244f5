"Every format that is read, whole and broken, from files, folders and archives"
import bz2
import gzip
import io
import json
import lzma
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from motiflab.crystals import read_crystals
from motiflab.errors import UserError
from motiflab.files import walk_json
from motiflab.structures import NotACrystal, make_structure, parse_species

SALT = Structure(Lattice.cubic(3.99), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CIF = """data_halite
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na+ 0 0 0 1
Cl1 Cl- 0.5 0.5 0.5 1
"""
POSCAR = "salt\n1.0\n3.99 0 0\n0 3.99 0\n0 0 3.99\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
XYZ = '2\nLattice="3.99 0 0 0 3.99 0 0 0 3.99" Properties=species:S:1:pos:R:3 energy=-3.5\nNa 0 0 0\nCl 1.995 1.995 1.995\n'
LINE = json.dumps(dict(id="salt", lattice=SALT.lattice.matrix.tolist(), species=["Na", "Cl"], frac=SALT.frac_coords.tolist(), n=1.5))


def read(path, text=None, **how):
    if text is not None: path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_crystals(path, progress=False, **how)


def reason(path, text, **how):
    "The one reason for which nothing was read"
    crystals = read(path, text, **how)
    assert len(crystals) == 0 and len(crystals.skipped) == 1
    assert path.name in crystals.skipped.reason[0] # where to look
    return crystals.skipped.reason[0]


# ---------------------------------------------------------------- one crystal in every format
@pytest.mark.parametrize("name, text", [
    ("salt.cif", CIF), ("POSCAR", POSCAR), ("CONTCAR.salt", POSCAR), ("salt.vasp", POSCAR), ("salt.xyz", XYZ), ("salt.extxyz", XYZ),
    ("salt.json", json.dumps(SALT.as_dict())), ("salt.json", json.dumps([SALT.as_dict()])), ("salt.jsonl", LINE), ("salt.json", LINE + "\n" + LINE),
    ("salt.csv", 'id,cif\nsalt,"' + CIF.replace('"', '""') + '"\n'), ("salt.csv", 'id,cif\nsalt,"' + SALT.to(fmt="cif").replace('"', '""') + '"\n'),
    ("salt.txt", CIF), ("mystery", POSCAR), ("salt.cif", "\ufeff" + CIF), ("salt.cif", CIF.replace("\n", "\r\n")),
    ("salt.json", json.dumps(dict(id="salt", structure=SALT.as_dict(), n=2))), ("salt.json", json.dumps({"salt": SALT.as_dict()})),
])
@pytest.mark.parametrize("pack, ext", [(None, ""), (gzip.compress, ".gz")])
def test_every_format(tmp_path, name, text, pack, ext):
    data = text.encode()
    crystals = read(tmp_path / (name + ext), pack(data) if pack else data)
    assert len(crystals) >= 1 and not len(crystals.skipped)
    assert crystals.structures.iloc[0].composition.reduced_formula == "NaCl"


def test_other_compressions(tmp_path):
    assert len(read(tmp_path / "a.cif.bz2", bz2.compress(CIF.encode()))) == len(read(tmp_path / "b.cif.xz", lzma.compress(CIF.encode()))) == 1


def test_names_come_from_files(tmp_path):
    assert list(read(tmp_path / "salt.cif.gz", gzip.compress(CIF.encode())).frame.index) == ["salt"]
    assert list(read(tmp_path / "POSCAR", POSCAR).frame.index) == ["POSCAR"]
    assert list(read(tmp_path / "POSCAR.Fe2O3", POSCAR).frame.index) == ["POSCAR.Fe2O3"]
    assert list(read(tmp_path / "two.cif", CIF + CIF.replace("halite", "again")).frame.index) == ["two:halite", "two:again"]
    assert list(read(tmp_path / "two.xyz", XYZ + XYZ).frame.index) == ["two:1", "two:2"]
    assert list(read(tmp_path / "no_id.jsonl", LINE.replace('"id"', '"name"')).frame.index) == ["no_id.jsonl:1"]


# ---------------------------------------------------------------- what is no crystal gets one sentence
@pytest.mark.parametrize("name, text, words", [
    ("eggs.cif", "eggs, milk", "no CIF"), ("empty.cif", "", "empty"), ("blank.cif", "  \n\n", "no CIF"), ("binary.cif", bytes(range(256)) * 9, "no CIF"),
    ("x.cif", CIF.replace("Na+", "Xx+"), "'Xx+'"), ("x.cif", CIF.replace("0 0 0 1", "0 0 0 0.4"), "partly occupied"),
    ("x.cif", CIF.replace("0.5 0.5 0.5 1", "0 0 0 1"), "x.cif"), ("x.cif", CIF.split("loop_")[0], "no atoms"),
    ("x.cif", CIF.replace("_cell_length_a 5.64", "_cell_length_a 0"), "x.cif"), ("x.cif", CIF.replace("_cell_length_a 5.64", "_cell_length_a nan"), "x.cif"),
    ("x.cif", CIF.replace("Cl- 0.5", "Cl- ?"), "no coordinates"), ("x.cif", CIF.replace("Cl- 0.5", "Cl- half"), "x.cif"),
    ("x.cif", CIF + ";\nan open quotation", "no end"),
    ("POSCAR", POSCAR.replace("Na Cl\n", ""), "does not name its elements"), ("POSCAR", POSCAR.replace("Na", "Xx"), "POSCAR"), ("POSCAR", "", "empty"),
    ("POSCAR", POSCAR.replace("3.99 0 0\n", "0 3.99 0\n"), "no volume"), ("POSCAR", POSCAR[:60], "POSCAR"), ("POSCAR", "a letter\nto a friend\n", "no POSCAR"),
    ("POSCAR", POSCAR.replace("0.5 0.5 0.5", "nan 0.5 0.5"), "not-a-number"), ("POSCAR", POSCAR.replace("1 1\nD", "0 0\nD"), "at least 1 site"),
    ("x.xyz", XYZ.split("Properties")[0].replace("Lattice", "Box") + "\nNa 0 0 0\nCl 1 1 1\n", "molecule"), ("x.xyz", XYZ[:-30], "ends after"),
    ("x.xyz", "hello\n", "number of atoms"), ("x.xyz", XYZ.replace("Cl 1", "Zz 1"), "'Zz'"), ("x.xyz", XYZ.replace("3.99 0 0 0 3.99", "3.99 0 0 3.99 0"), "no volume"),
    ("x.json", "{", "not JSON"), ("x.json", '{"a": 1}', "no structure"), ("x.json", "", "empty"), ("x.json", "[1]", "int"),
    ("x.jsonl", "oops", "not JSON"), ("x.jsonl", '{"id": 7}', "lattice, species and frac"), ("x.jsonl", "[]", "list"), ("x.jsonl", "", "empty"),
    ("x.jsonl", LINE.replace('"Na"', '"Xx"'), "'Xx'"), ("x.jsonl", LINE.replace("[0.5, 0.5, 0.5]", "[0.5, 0.5]"), "coordinates"),
    ("x.jsonl", LINE.replace("[0.5, 0.5, 0.5]", "[0.5, 0.5, NaN]"), "not-a-number"), ("x.jsonl", LINE.replace("[0.5, 0.5, 0.5]", "[0.5, null, 0.5]"), "coordinates"),
    ("x.jsonl", LINE.replace('["Na", "Cl"]', '["Na"]'), "coordinates"), ("x.jsonl", LINE.replace('["Na", "Cl"]', "[]"), "no atom"),
    ("x.jsonl", LINE.replace('["Na", "Cl"]', '"NaCl"'), "list"), ("x.jsonl", LINE.replace('["Na", "Cl"]', "[null, 1]"), "None"),
    ("x.jsonl", LINE.replace('["Na", "Cl"]', '[{"Na": 0.5, "K": 0.5}, "Cl"]'), "partly occupied"), ("x.jsonl", "[" * 100_000, "JSON"),
    ("x.csv", "id,cif\n7,eggs\n", "no CIF"), ("x.csv", "id,cif\n7,\n", "structure"),
])
def test_no_crystal(tmp_path, name, text, words):
    found = reason(tmp_path / name, text)
    assert words in found and "\n" not in found and found.endswith(".") and len(found) < 400


def test_one_bad_line_loses_one_crystal(tmp_path):
    crystals = read(tmp_path / "x.jsonl", "\n".join([LINE, LINE.replace("Na", "Xx").replace("salt", "bad"), "", "{", LINE.replace("salt", "last")]))
    assert list(crystals.frame.index) == ["salt", "last"]
    assert crystals.skipped.id.tolist() == ["bad", "x.jsonl:4"] and crystals.skipped.stage.eq("read").all()
    assert crystals.skipped.reason[0].startswith("x.jsonl:2: ")


def test_no_crystal_that_is_one(tmp_path):
    "Elements, alloys, noble gases and atoms outside the cell are read as given"
    for species in (["Fe"], ["Ni", "Al"], ["Ar"], ["D", "O"], ["Lr"], [26], ["Fe3+"]):
        line = json.dumps(dict(lattice=np.eye(3).tolist(), species=species, frac=[[1.25, -3, 0.1]] * len(species)))
        crystals = read(tmp_path / "x.jsonl", line)
        assert len(crystals) == 1 and crystals.structures.iloc[0].frac_coords[0].tolist() == [1.25, -3, 0.1]
    assert parse_species("D").symbol == "H"


# ---------------------------------------------------------------- disorder
def test_majority(tmp_path):
    mixed = CIF.replace("Na1 Na+ 0 0 0 1", "Na1 Na 0 0 0 0.7\nK1 K 0 0 0 0.3").replace("Cl-", "Cl")
    assert len(read(tmp_path / "x.cif", mixed)) == 0
    assert read(tmp_path / "x.cif", mixed, disorder="majority").structures.iloc[0].formula == "Na4 Cl4"
    empty = CIF.replace("Na1 Na+ 0 0 0 1", "Na1 Na 0 0 0 0.3").replace("Cl-", "Cl")
    assert read(tmp_path / "x.cif", empty, disorder="majority").structures.iloc[0].formula == "Cl4"
    assert "mostly empty" in reason(tmp_path / "x.cif", empty.replace("0.5 0.5 0.5 1", "0.5 0.5 0.5 0.2"), disorder="majority")
    with pytest.raises(UserError, match="majority"): read(tmp_path / "x.cif", mixed, disorder="majorty")


def test_rounded_and_mixed_valence_sites_are_full():
    assert len(make_structure(np.eye(3), [{"Fe": 0.9999}], [[0, 0, 0]])) == 1
    assert make_structure(np.eye(3), [{"Fe2+": 0.5, "Fe3+": 0.5}], [[0, 0, 0]])[0].specie.oxi_state == 2.5
    with pytest.raises(NotACrystal): make_structure(np.eye(3), [{"Fe": 1.0, "Mn": 1.0}], [[0, 0, 0]], disorder="majority")


# ---------------------------------------------------------------- CIF
def test_cif_traps(tmp_path):
    dots = CIF.replace("0 0 0 1", "0 0 0 .").replace("0.5 0.5 0.5 1", "0.5 0.5 0.5 ?") # no occupancy given is 1
    assert read(tmp_path / "x.cif", dots).structures.iloc[0].formula == "Na4 Cl4"
    bibliography = "data_global\n_publ_author_name 'A. Author'\n" + CIF
    crystals = read(tmp_path / "x.cif", bibliography)
    assert len(crystals) == 1 and not len(crystals.skipped)
    half = read(tmp_path / "x.cif", CIF + "data_lost\n_cell_length_a 3\n")
    assert len(half) == 1 and half.skipped.id.tolist() == ["x:lost"]


def test_cif_overlap_is_flagged_or_skipped(tmp_path):
    near = CIF.replace("0.5 0.5 0.5", "0.01 0 0").replace("F m -3 m", "P 1")
    crystals = read(tmp_path / "near.cif", near)
    assert len(crystals) == 1 and crystals.flagged.id.tolist() == ["near"] and "0.0564 angstrom" in crystals.flagged.reason[0]


def test_large_cell(tmp_path):
    big = Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]) * (10, 10, 10)
    line = json.dumps(dict(id="big", lattice=big.lattice.matrix.tolist(), species=[s.specie.symbol for s in big], frac=big.frac_coords.tolist()))
    crystals = read(tmp_path / "big.jsonl", line)
    assert len(crystals["big"]) == 2000 and not len(crystals.flagged)


# ---------------------------------------------------------------- POSCAR and XYZ
def test_poscar_kinds(tmp_path):
    spaced = POSCAR.replace("Direct", "Selective dynamics\nDirect").replace("0 0 0\n0.5 0.5 0.5", "0 0 0 T T F\n0.5 0.5 0.5 T T F")
    cart = POSCAR.replace("Direct", "Cartesian").replace("0.5 0.5 0.5", "1.995 1.995 1.995")
    volume = cart.replace("1.0\n", f"{-3.99**3 * 8}\n", 1)
    old = POSCAR.replace("Na Cl\n", "").replace("0 0 0\n0.5 0.5 0.5", "0 0 0 Na\n0.5 0.5 0.5 Cl")
    for text in (spaced, cart, old, POSCAR.replace("Na Cl", "Na_pv/0123abc Cl/4567def")):
        assert np.allclose(read(tmp_path / "POSCAR", text).structures.iloc[0].distance_matrix, SALT.distance_matrix)
    assert np.allclose(read(tmp_path / "POSCAR", volume).structures.iloc[0].distance_matrix, 2 * SALT.distance_matrix)


def test_xyz_properties(tmp_path):
    text = XYZ.replace("energy=-3.5", 'energy=-3.5 id=nacl-1 name="rock salt" stress="1 2 3" ok=T pbc="T T T"')
    crystals = read(tmp_path / "x.xyz", text + "\n\n" + XYZ)
    assert list(crystals.frame.index) == ["nacl-1", "x:2"]
    assert crystals.frame.loc["nacl-1", ["energy", "name", "ok"]].tolist() == [-3.5, "rock salt", True] and crystals.frame.stress.iloc[0] == [1, 2, 3]
    numbered = XYZ.replace("species:S:1", "Z:I:1").replace("Na ", "11 ").replace("Cl ", "17 ")
    assert read(tmp_path / "z.xyz", numbered).structures.iloc[0].formula == "Na1 Cl1"


# ---------------------------------------------------------------- tables and JSON
def test_matbench_layouts(tmp_path):
    cell = SALT.as_dict()
    split = dict(index=[3, 5], columns=["structure", "n"], data=[[cell, 1.5], [cell, 2.5]])
    columns = dict(n={"0": 1.5, "1": 2.5}, structure={"0": cell, "1": cell}, late={"0": "a", "1": "b"})
    crystals = read(tmp_path / "s.json.gz", gzip.compress(json.dumps(split).encode()))
    assert list(crystals.frame.index) == [3, 5] and crystals.frame.n.tolist() == [1.5, 2.5] and crystals[3] == SALT
    crystals = read(tmp_path / "c.json", json.dumps(columns))
    assert list(crystals.frame.index) == [0, 1] and crystals.frame.n.tolist() == [1.5, 2.5] and crystals.frame.late.tolist() == ["a", "b"]
    one = read(tmp_path / "c.json", json.dumps(columns), limit=1)
    assert one.frame[["n", "late"]].values.tolist() == [[1.5, "a"]]
    bad = dict(split, data=[[cell, 1.5], [dict(cell, sites=[]), 2.5]])
    assert read(tmp_path / "s.json", json.dumps(bad)).skipped.id.tolist() == [5]


def test_several_structure_columns(tmp_path):
    other = Structure(Lattice.cubic(3), ["Po"], [[0, 0, 0]]).as_dict()
    split = dict(index=[0], columns=["structure initial", "e", "structure"], data=[[other, 1.0, SALT.as_dict()]])
    crystals = read(tmp_path / "s.json", json.dumps(split))
    assert crystals[0] == SALT and crystals.properties == ["e"]


def test_csv(tmp_path):
    quoted = '"' + CIF.replace('"', '""') + '"'
    text = "material_id,cif,n,label,flag\n" + "".join(f"{i},{quoted},{n},{label},{flag}\n" for i, n, label, flag in
                                                       [(1, "1.5", "007", "True"), (2, "", "x", "False"), (3, "2", "", "True")]) + "4,oops,1,1,True\n"
    crystals = read(tmp_path / "x.csv", text)
    assert list(crystals.frame.index) == [1, 2, 3] and crystals.frame.label.tolist() == ["007", "x", ""] and crystals.frame.flag.tolist() == [True, False, True]
    assert crystals.frame.n.dtype == float and np.isnan(crystals.frame.n[2]) and len(crystals.skipped) == 1
    with pytest.raises(UserError, match="column `cif`"): read(tmp_path / "y.csv", "id,n\n1,2\n")


def test_damaged_archive_keeps_what_came_before(tmp_path):
    rng = np.random.default_rng(0)
    lines = "\n".join(LINE.replace("salt", f"s{i}-{rng.integers(10**12)}") for i in range(3000))
    whole = gzip.compress(lines.encode())
    crystals = read(tmp_path / "x.jsonl.gz", whole[: len(whole) // 2])
    assert 500 < len(crystals) < 3000 and "in part" in crystals.skipped.reason.iloc[-1]
    assert "cannot be read" in reason(tmp_path / "y.jsonl.gz", b"this is not gzip")


def test_truncated_json_keeps_what_came_before(tmp_path):
    text = json.dumps(dict(index=list(range(50)), columns=["structure"], data=[[SALT.as_dict()]] * 50))
    crystals = read(tmp_path / "x.json", text[: len(text) // 2])
    assert 20 <= len(crystals) < 30 and len(crystals.skipped) == 1


# ---------------------------------------------------------------- folders
def test_folder(tmp_path):
    for name, text in {"a.cif": CIF, "b/a.cif": CIF, "b/POSCAR": POSCAR, "README.md": "# data", "notes.txt": "eggs", "id_prop.csv": "a,1.5\n", "odd.dat": CIF,
                       "slab.xsf": "CRYSTAL", ".hidden.cif": CIF, ".git/x.cif": CIF, "bad.cif": "eggs", "c.png": "\x89PNG"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    crystals = read(tmp_path)
    assert set(crystals.frame.index) == {"a", "b/a", "b/POSCAR", "odd.dat"} and set(crystals.skipped.id) == {"bad", "slab.xsf"}
    assert "convert" in crystals.skipped.set_index("id").reason["slab.xsf"]
    again = read_crystals([tmp_path / "a.cif", tmp_path / "b" / "a.cif"], progress=False)
    assert list(again.frame.index) == ["a", "a~2"]


def test_folder_links_in_circles(tmp_path):
    (tmp_path / "a.cif").write_text(CIF)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    assert len(read(tmp_path)) == 1


def test_folder_with_odd_things(tmp_path):
    import os
    (tmp_path / "a.cif").write_text(CIF)
    (tmp_path / "lost.cif").symlink_to(tmp_path / "nowhere.cif")
    os.mkfifo(tmp_path / "pipe") # would wait for ever
    crystals = read(tmp_path)
    assert list(crystals.frame.index) == ["a"] and len(crystals.skipped) == 1 and "lost.cif" in crystals.skipped.reason[0]


def test_text_that_is_no_path():
    for source in (CIF * 20, "x\0y"):
        with pytest.raises(UserError, match="no file, folder or dataset"): read_crystals(source)


def test_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match="no crystal in the folder"): read(tmp_path)
    with pytest.raises(UserError, match="no format"): read(tmp_path / "README.md", "hello")
    with pytest.raises(UserError, match="salt.cif"):
        (tmp_path / "salt.cif").write_text(CIF)
        read(tmp_path / "slat.cif")
    with pytest.raises(UserError, match="Nothing"): read_crystals([])
    with pytest.raises(UserError, match="limit"): read(tmp_path, limit=0)


# ---------------------------------------------------------------- hostile text
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from([("x.cif", CIF), ("POSCAR", POSCAR), ("x.xyz", XYZ), ("x.json", json.dumps(SALT.as_dict())), ("x.jsonl", LINE), ("x.csv", "id,cif\n1," + LINE)]),
       at=st.floats(0, 1), length=st.integers(0, 30), new=st.text(max_size=12), data=st.binary(max_size=4))
def test_mutations_never_raise(tmp_path, kind, at, length, new, data):
    "Whatever happens to a file, it is read or it is a row of skipped, and what is read is finite"
    name, text = kind
    i = int(at * len(text))
    blob = text[:i].encode() + new.encode("utf-8", "replace") + data + text[i + length:].encode()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        crystals = read(tmp_path / name, blob) if not name.endswith("csv") or blob.startswith(b"id,cif\n") else None
    if crystals is None: return
    assert len(crystals) + len(crystals.skipped) >= 1
    for _, s in crystals:
        assert len(s) and np.isfinite(s.frac_coords).all() and s.volume > 0 and s.is_ordered and all(site.specie.Z >= 1 for site in s)
    crystals.flagged


@settings(max_examples=80, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
                    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=4), x, max_size=4), max_leaves=25).filter(lambda v: isinstance(v, (list, dict))),
       st.integers(1, 7))
def test_walk_json_is_json(value, step):
    "The scanner sees what json.loads sees, however the text is cut into chunks"
    class Drip(io.StringIO):
        def read(self, n=-1): return super().read(step)
    out = [] if isinstance(value, list) else {}
    for key, sub, inner in walk_json(Drip(json.dumps(value))):
        if key is None: out.append(inner)
        elif sub is None: out[key] = inner
        elif isinstance(out[key], list): out[key].append(inner)
        else: out[key][sub] = inner
    assert out == value
