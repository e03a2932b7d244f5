"""The table that extraction makes: its rows, its reasons, its files."""
import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from motiflab.crystals import CrystalSet, read_crystals
from motiflab.errors import UserError
from motiflab.motifs import MotifTable, concat_motifs, extract_motifs, load_motifs, save_motifs

QUIET = dict(progress=False)


@pytest.fixture(scope="module")
def embedded(): return read_crystals("matbench_dielectric", progress=False)


def some(crystals, n, max_sites=14):
    small = crystals.frame[[len(s) <= max_sites for s in crystals.frame.structure]]
    return CrystalSet(small.sample(n, random_state=0))


@pytest.fixture(scope="module")
def table(embedded): return extract_motifs(some(embedded, 24), n_jobs=2, **QUIET)


def test_every_cation_has_a_row_and_every_crystal_an_end(embedded, table):
    seen = set(table.motifs.crystal_id) | set(table.skipped.id)
    assert seen == set(some(embedded, 24).frame.index)
    assert table.motifs.order_parameters.map(len).eq(61).all()
    assert (table.motifs.cn == table.motifs.ligands.map(len)).all()


def test_connections_say_what_the_ligands_say(table):
    "Shared ligands, counted again from the motifs' own lists"
    ligands = {(m.crystal_id, m.site): {(l["site"], *l["image"]) for l in m.ligands} for m in table.motifs.itertuples()}
    for c in table.connections.itertuples():
        other = {(atom, *np.add(image, c.image)) for atom, *image in ligands[c.crystal_id, c.site_j]}
        shared = ligands[c.crystal_id, c.site_i] & other
        assert len(shared) == c.n_shared == len(c.angles) and c.kind == ("corner", "edge", "face")[min(c.n_shared, 3) - 1]


def test_parquet_round_trip(table, tmp_path):
    again = load_motifs(save_motifs(table, tmp_path))
    pd.testing.assert_frame_equal(again.connections.drop(columns=["image", "angles"]), table.connections.drop(columns=["image", "angles"]))
    assert again.motifs.crystal_id.dtype == table.motifs.crystal_id.dtype
    assert all(np.array_equal(a, b) for a, b in zip(again.motifs.order_parameters, table.motifs.order_parameters))
    assert len(concat_motifs([again, table])) == 2 * len(table)


def test_a_missing_table_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="motiflab extract"): load_motifs(tmp_path)
    with pytest.raises(UserError, match="crystal_id"): MotifTable(pd.DataFrame({"a": [1]}))


def test_a_damaged_table_names_the_command(table, tmp_path):
    path = save_motifs(table, tmp_path) / "motifs.parquet"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="not a whole motif table"): load_motifs(tmp_path)
    pd.DataFrame({"another": [1]}).to_parquet(path)
    with pytest.raises(UserError, match="not a whole motif table"): load_motifs(tmp_path)


ROCKSALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [.5, .5, .5]])


def reason(structure, **options):
    table = extract_motifs([structure], n_jobs=1, **QUIET | options)
    assert len(table) == 0 and table.skipped.stage.tolist() == ["extract"]
    return table.skipped.reason[0]


def test_reasons():
    lattice = Lattice.cubic(4.0)
    assert reason(Structure(lattice, ["Cu"], [[0, 0, 0]])).startswith("No cation")
    assert reason(Structure(lattice, ["Ti", "Al"], [[0, 0, 0], [.5, .5, .5]])).startswith("No anion")
    assert "occupied" in reason(Structure(lattice, [{"Mg": .5, "Fe": .5}, "O"], [[0, 0, 0], [.5, .5, .5]]))
    near = Structure(lattice, ["Mg", "O", "O"], [[0, 0, 0], [.5, .5, .5], [.5, .5, .55]])
    assert "0.2 angstrom" in reason(near)
    assert len(extract_motifs(near, min_distance=0, n_jobs=1, **QUIET)) == 1
    assert "no Ti" in reason(ROCKSALT, centers=["Ti"])


def test_centres_can_be_any_site():
    assert extract_motifs(ROCKSALT, centers="all", n_jobs=1, **QUIET).kinds.value_counts().to_dict() == {"Mg|O:6": 4, "O|O:6": 4}
    copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]])
    table = extract_motifs(copper, centers="all", n_jobs=1, **QUIET)
    assert table.kinds.tolist() == ["Cu|C:12"] * 4 and len(table.connections) > 0
    assert extract_motifs(copper, centers=["Cu"], n_jobs=1, **QUIET).motifs.cn.tolist() == [12] * 4


def test_a_cation_without_ligands_and_a_coordination_without_a_geometry_keep_their_rows():
    salt = Structure.from_spacegroup("Pm-3m", Lattice.cubic(4.15), ["Ca", "B"], [[0, 0, 0], [.207, .5, .5]])
    assert extract_motifs(salt, n_jobs=1, **QUIET).motifs[["symbol", "name", "cn"]].values.tolist() == [["UNKNOWN:24", "unknown", 24]]
    far = Structure(Lattice.cubic(12.0), ["Na", "Mg", "O"], [[.5, .5, .5], [0, 0, 0], [.17, 0, 0]])
    lonely = extract_motifs(far, n_jobs=1, **QUIET).motifs.set_index("element")
    assert lonely.loc["Mg", "cn"] == 1


def test_one_atom_in_a_vast_cell_does_not_hang():
    sparse = Structure(Lattice.orthorhombic(60, 40, 40), ["Na", "Cl"], [[0, 0, 0], [.04, 0, 0]])
    assert extract_motifs(sparse, n_jobs=1, **QUIET).motifs.symbol.tolist() == ["S:1"]
