"Atom and motif graphs: against pymatgen, under everything that leaves a crystal the same, and through the cache"
import os
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Element, Lattice, Structure

from motiflab.crystals import CrystalSet, read_crystals
from motiflab.errors import UserError
from motiflab.graphs import AtomGraph, GraphSet, GraphSettings, MotifGraph, build_graphs, cgcnn_categories
from motiflab.graphs.atoms import atom_part
from motiflab.graphs.features import CGCNN_ORDER, CGCNN_PROPERTIES, MOTIF_ELEMENTS, STATISTICS, chemical_valence, motif_composition
from motiflab.graphs.motifs import motif_part, table_rows
from motiflab.motifs import MotifTable, extract_motifs
from motiflab.motifs.rows import plain_crystal

WHOLE, CUT, NEAR = AtomGraph(vectors=True), AtomGraph(ties="cut"), AtomGraph(neighbors=None, cutoff=5.0)
SETTINGS = [WHOLE, AtomGraph(neighbors=24), NEAR, AtomGraph(method="voronoi")]
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [.5, .5, .5]])
RUTILE = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [.3053, .3053, 0]])
PEROVSKITE = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[.5, .5, .5], [0, 0, 0], [.5, 0, 0]])
DIAMOND = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.567), ["C"], [[0, 0, 0]])
IRON = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [.5, .5, .5]])


@pytest.fixture(scope="module")
def real() -> CrystalSet: return read_crystals("matbench_dielectric", progress=False).sample(60, seed=3)


def build(crystals, atoms=WHOLE, motifs=None, **options) -> GraphSet:
    return build_graphs(crystals, GraphSettings(atoms, motifs), **{"n_jobs": 1, "cache": False, "progress": False} | options)


def edges(graph) -> np.ndarray: # (n_edges, 3) atomic numbers of receiver and sender, length; sorted
    j, i = graph.edge_index.numpy()
    z = graph.z.numpy()
    rows = np.column_stack([z[i], z[j], graph.edge_length.numpy()])
    return rows[np.lexsort((rows[:, 2].round(3), rows[:, 1], rows[:, 0]))]


def same_edges(a: np.ndarray, b: np.ndarray) -> bool:
    "The same pairs of elements at the same lengths; the order within rounding does not count"
    if a.shape != b.shape or not (a[:, :2] == b[:, :2]).all(): return False
    lengths = lambda rows: np.concatenate([np.sort(rows[(rows[:, :2] == pair).all(1), 2]) for pair in np.unique(rows[:, :2], axis=0)] or [np.zeros(0)])
    return bool(np.allclose(lengths(a), lengths(b), atol=2e-4))


def turned(structure: Structure) -> Structure:
    "Rotated and moved, with atoms out of the box"
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    return Structure(structure.lattice.matrix @ turn, structure.species, structure.frac_coords + [0.37, -2.21, 1.13])


def shuffled(structure: Structure) -> Structure:
    order = np.random.default_rng(6).permutation(len(structure))
    return Structure(structure.lattice, [structure.species[i] for i in order], structure.frac_coords[order])


class TestAtomGraph:
    @pytest.mark.parametrize("atoms", SETTINGS, ids=["12", "24", "radius", "voronoi"])
    @pytest.mark.parametrize("change", [turned, shuffled], ids=["moved", "permuted"])
    def test_the_same_crystal_gives_the_same_graph(self, real, atoms, change):
        for structure in [SALT, RUTILE, PEROVSKITE, DIAMOND, IRON, *real.structures[:20]]:
            a, b = build([structure, change(structure)], atoms)
            assert same_edges(edges(a), edges(b)), structure.formula

    @pytest.mark.parametrize("atoms", SETTINGS, ids=["12", "24", "radius", "voronoi"])
    def test_a_supercell_repeats_every_edge(self, real, atoms):
        for structure in [SALT, RUTILE, PEROVSKITE, IRON, *(s for s in real.structures[:20] if len(s) < 20)]:
            one, many = build([structure, structure.make_supercell([[2, 0, 0], [0, 1, 0], [0, 1, 2]], in_place=False)], atoms)
            assert same_edges(np.repeat(edges(one), 4, axis=0), edges(many)), structure.formula

    def test_another_cell_of_the_same_lattice(self):
        a, b = build([SALT, SALT.get_primitive_structure()])
        assert same_edges(edges(a), np.repeat(edges(b), 4, axis=0))

    def test_a_cut_at_the_number_depends_on_the_order_of_atoms(self):
        "What whole shells are there for: the twelfth neighbour in rock salt is one of twelve"
        a, b = build([SALT, SALT.get_primitive_structure()], CUT)
        assert (torch.bincount(a.edge_index[1]) == 12).all() and (torch.bincount(build([SALT])[0].edge_index[1]) == 18).all()
        whom = lambda g: Counter(zip(*(map(tuple, (g.edge_index.numpy())))))
        assert len(set(whom(a).values())) > 1 # of equal neighbours some were chosen

    def test_pymatgen_finds_the_same_neighbours(self, real):
        for structure, graph in zip(real.structures, build(real, AtomGraph(neighbors=None, cutoff=5.0, vectors=True))):
            i, j, image, d = structure.get_neighbor_list(5.0)
            vector = structure.lattice.get_cartesian_coords(structure.frac_coords[j] + image - structure.frac_coords[i])
            ours = np.column_stack([graph.edge_index[1], graph.edge_index[0], graph.edge_vector.numpy().round(2) + 0.0])
            theirs = np.column_stack([i, j, vector.round(2) + 0.0])
            assert len(ours) == len(theirs), structure.formula
            assert np.allclose(np.sort(d), np.sort(graph.edge_length.numpy()), atol=1e-4)
            assert (np.bincount(i, minlength=len(structure)) == np.bincount(graph.edge_index[1], minlength=len(structure))).all()
            close = abs(np.sort(ours[:, 2:], axis=0) - np.sort(theirs[:, 2:], axis=0)).max() if len(ours) else 0
            assert close < 0.011, structure.formula

    def test_the_nearest_are_the_nearest_and_end_with_a_shell(self, real):
        for structure, graph in zip(real.structures, build(real)):
            i, _, _, d = structure.get_neighbor_list(8.0)
            for atom in range(len(structure)):
                all_of_them, ours = np.sort(d[i == atom]), graph.edge_length[graph.edge_index[1] == atom].numpy()
                assert len(ours) >= min(12, len(all_of_them)) and np.allclose(ours, all_of_them[:len(ours)], atol=1e-4)
                assert len(ours) == len(all_of_them) or all_of_them[len(ours)] > ours[11] + 5e-4

    def test_edges_are_sorted_and_vectors_have_their_length(self, real):
        for graph in build(real):
            target = graph.edge_index[1]
            assert (target.diff() >= 0).all() and (graph.edge_length.diff()[target.diff() == 0] >= -1e-6).all()
            assert torch.allclose(graph.edge_vector.norm(dim=1), graph.edge_length, atol=1e-5)

    def test_few_neighbours_stay_few(self):
        "Two atoms in a large cell have each other; nobody is padded"
        pair = build([Structure(Lattice.cubic(30), ["Na", "Cl"], [[0, 0, 0], [.08, 0, 0]])])[0]
        assert pair.edge_index.tolist() == [[1, 0], [0, 1]] and torch.allclose(pair.edge_length, torch.tensor(2.4))

    @pytest.mark.parametrize("atoms", SETTINGS, ids=["12", "24", "radius", "voronoi"])
    def test_an_isolated_atom_is_a_graph(self, atoms):
        alone = build([Structure(Lattice.cubic(30), ["Xe"], [[0.2, 0.3, 0.4]])], atoms)[0]
        assert alone.num_nodes == 1 and alone.edge_index.shape == (2, 0) and alone.edge_length.shape == (0,)

    def test_a_cell_of_one_atom_is_its_own_neighbour(self):
        copper = Structure(Lattice([[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]]), ["Cu"], [[0, 0, 0]])
        graph = build([copper])[0]
        assert graph.edge_index.unique().tolist() == [0] and len(graph.edge_length) == 12

    def test_voronoi_neighbours_of_textbook_crystals(self):
        counts = [Counter(torch.bincount(g.edge_index[1]).tolist()) for g in build([SALT, DIAMOND, PEROVSKITE], AtomGraph(method="voronoi"))]
        assert counts == [{6: 8}, {4: 8}, {12: 1, 6: 4}] # strontium has 12 oxygens, titanium 6, oxygen 2 Ti and 4 Sr
        graph = build([SALT], AtomGraph(method="voronoi"))[0]
        assert torch.allclose(graph.edge_face, torch.tensor([[1.0, 2.82 ** 2]]).expand(48, 2), atol=1e-4)

    def test_flat_and_long_cells(self):
        "The first guess at the distance assumes an even density; it must not matter"
        for lattice in (Lattice.orthorhombic(2.5, 2.5, 60), Lattice.orthorhombic(2.2, 40, 40), Lattice.from_parameters(3, 3, 30, 90, 90, 12)):
            structure = Structure(lattice, ["C", "O"], [[0, 0, 0], [0, .45, .02]])
            _, _, _, d = structure.get_neighbor_list(6.0)
            assert np.allclose(np.sort(build([structure], AtomGraph(neighbors=None, cutoff=6.0))[0].edge_length), np.sort(d), atol=1e-5)
            i, _, _, d = structure.get_neighbor_list(8.0)
            ours = build([structure])[0]
            for atom in range(2):
                mine = ours.edge_length[ours.edge_index[1] == atom].numpy()
                assert len(mine) >= min(12, (i == atom).sum()) and np.allclose(mine, np.sort(d[i == atom])[:len(mine)], atol=1e-5)

    @pytest.mark.parametrize("options, word", [(dict(method="voronoy"), "'voronoi'"), (dict(ties="shel"), "'shell'"), (dict(neighbors=0), "neighbors"),
                                               (dict(neighbors=2.5), "neighbors"), (dict(cutoff=-1.0), "cutoff"), (dict(cutoff=float("nan")), "cutoff")])
    def test_an_impossible_choice_is_named(self, options, word):
        with pytest.raises(UserError, match=word): AtomGraph(**options)


class TestCategories:
    def test_the_table_has_the_shape_and_the_ones_of_the_definition(self):
        table = cgcnn_categories()
        assert table.shape == (119, 93) and set(np.unique(table)) == {0, 1} and not table[0].any()
        known = table[1:84][[z not in (2, 10, 18) for z in range(1, 84)]]
        assert (known.sum(1) == 9).all() # one category a property
        assert (table[[2, 10, 18]].sum(1) == 8).all() # no electronegativity

    def test_elements_that_a_chemist_knows(self):
        ends = np.cumsum([0, *(CGCNN_PROPERTIES[p][2] for p in CGCNN_ORDER)])
        def category(symbol: str, name: str) -> int:
            k = CGCNN_ORDER.index(name)
            return int(cgcnn_categories()[Element(symbol).Z, ends[k]:ends[k + 1]].argmax()) + 1
        assert [category(s, "group") for s in ("H", "Fe", "O", "Xe", "Gd")] == [1, 8, 16, 18, 3]
        assert [category(s, "period") for s in ("H", "O", "Pb", "La", "Lu", "U")] == [1, 2, 6, 8, 8, 9]
        assert [category(s, "block") for s in ("He", "C", "Fe", "U")] == [1, 2, 3, 4]
        assert category("F", "electronegativity") == 10 and category("Cs", "electronegativity") == 1
        assert category("Cs", "volume") == 10 and category("B", "volume") == 1 and category("He", "ionization") == 10
        assert [chemical_valence(Element(s).Z) for s in ("Na", "Ga", "Zn", "Fe", "Cl")] == [1, 3, 12, 8, 7]

    def test_a_table_that_is_shared_cannot_be_written_to(self):
        with pytest.raises(ValueError): cgcnn_categories()[1, 1] = 5

    def test_statistics_of_a_motif(self):
        numbers = motif_composition(np.array([0, 5]), np.array([14, 8, 8, 8, 8]))[0]
        named = dict(zip(STATISTICS, numbers[86:]))
        assert np.isclose(named["mean number"], (14 + 32) / 5 / 100) and np.isclose(named["range number"], 0.06)
        assert np.isclose(named["mean electronegativity"], (1.90 + 4 * 3.44) / 5) and np.isclose(named["mean p electrons"], (2 + 16) / 5 / 10)
        assert np.isclose(named["share of s electrons"], 10 / 28)

    def test_heavy_and_noble_atoms_give_finite_numbers(self):
        every = motif_composition(np.arange(119), np.arange(1, 119))
        assert np.isfinite(every).all() and abs(every).max() < 10
        assert {z for z in range(1, 119) if every[z - 1, :86].sum() == 0} == set(range(1, 119)) - set(MOTIF_ELEMENTS)


@pytest.fixture(scope="module")
def table(real) -> MotifTable: return extract_motifs(real, n_jobs=1, progress=False)


@pytest.fixture(scope="module")
def dual(real) -> GraphSet: return build(real, NEAR, MotifGraph())


class TestMotifGraph:
    def test_motifs_and_connections_are_those_of_the_table(self, real, table, dual):
        assert dual.ids == real.frame.index.tolist()
        for name, graph in zip(dual.ids, dual):
            motifs, connections = table.motifs[table.motifs.crystal_id == name], table.connections[table.connections.crystal_id == name]
            assert graph.motif_atom.tolist() == motifs.site.tolist() and graph.motif_edge_index.shape[1] == 2 * len(connections)
            assert graph.ligand_index.shape[1] == motifs.cn.sum() and torch.bincount(graph.ligand_index[1], minlength=len(motifs)).tolist() == motifs.cn.tolist()
            assert torch.allclose(graph.motif_edge_length.sort().values[::2].double(), torch.tensor(np.sort(connections.distance.to_numpy())), atol=1e-4)
            kinds = graph.motif_edge_attr[:, :3].sum(0) / 2
            assert kinds.tolist() == [(connections.kind == k).sum() for k in ("corner", "edge", "face")]

    def test_each_connection_goes_both_ways(self, dual):
        for graph in dual:
            there = Counter(zip(*graph.motif_edge_index.tolist(), graph.motif_edge_length.tolist()))
            assert all(there[j, i, d] == n for (i, j, d), n in there.items())
            assert (graph.motif_edge_index[1].diff() >= 0).all()

    def test_numbers_of_a_motif(self, dual):
        x = dual.arrays["motif_x"]
        assert x.shape[1] == 164 and torch.isfinite(x).all() and torch.allclose(x[:, :86].sum(1), torch.ones(len(x)), atol=1e-5)
        orders = x[:, 103:]
        assert (orders == 0).any() and orders.abs().max() < 25

    def test_numbers_of_a_site(self, table, dual):
        "Oxidation state and whether it is known, coordination number, symmetry measure over ten"
        site = dual.arrays["motif_site"].double().numpy()
        assert np.allclose(site[:, 0], table.motifs.oxidation.fillna(0)) and (site[:, 1] == table.motifs.oxidation.notna()).all()
        assert (site[:, 2] == table.motifs.cn).all() and np.allclose(site[:, 3], table.motifs.csm.fillna(0) / 10, atol=1e-5)

    def test_a_supercell_repeats_every_motif(self):
        for structure in (RUTILE, PEROVSKITE):
            one, many = build([structure, structure.make_supercell([2, 1, 2], in_place=False)], NEAR, MotifGraph())
            assert many.n_motifs == 4 * one.n_motifs and torch.allclose(many.motif_x.mean(0), one.motif_x.mean(0), atol=1e-4)
            assert torch.allclose(many.motif_edge_length.sort().values, one.motif_edge_length.repeat_interleave(4).sort().values, atol=1e-4)
            assert torch.allclose(many.motif_edge_attr.sum(0), 4 * one.motif_edge_attr.sum(0), atol=1e-2)

    def test_a_given_table_gives_the_same_graphs(self, real, table, dual):
        again = build(real, NEAR, MotifGraph(), table=table)
        assert again.hash == dual.hash

    def test_a_table_of_other_crystals_is_refused(self, real, table):
        some = real.head(3)
        with pytest.raises(UserError, match="none of these crystals"): build(CrystalSet(some.frame.set_axis(["x", "y", "z"])), NEAR, MotifGraph(), table=table)
        swapped = CrystalSet(some.frame.assign(structure=[SALT, RUTILE, IRON]))
        with pytest.raises(UserError, match="other crystals"): build(swapped, NEAR, MotifGraph(), table=table)

    def test_a_crystal_that_the_table_lacks_is_named(self, real, table):
        name = table.motifs.crystal_id.iloc[0]
        without = MotifTable(table.motifs[table.motifs.crystal_id != name], table.connections[table.connections.crystal_id != name], table.skipped)
        graphs = build(real, NEAR, MotifGraph(), table=without)
        assert graphs[graphs.ids.index(name)].n_motifs == 0 and "no motif" in graphs.skipped.set_index("id").reason[name]

    def test_a_table_of_more_crystals_in_another_order(self, real, table, dual):
        some = real.subset(real.frame.index[[7, 3, 11]])
        turned_round = MotifTable(table.motifs.iloc[::-1].sort_values("crystal_id", kind="stable"), table.connections.iloc[::-1], table.skipped)
        graphs = build(some, NEAR, MotifGraph(), table=turned_round)
        for graph, k in zip(graphs, (7, 3, 11)):
            assert sorted(graph.motif_atom.tolist()) == dual[k].motif_atom.tolist()
            assert torch.equal(graph.motif_edge_length.sort().values, dual[k].motif_edge_length.sort().values)

    def test_rutile(self):
        graph = build([RUTILE], NEAR, MotifGraph())[0]
        assert graph.n_motifs == 2 and graph.motif_edge_attr.shape == (20, 7) and len(graph.ligand_index[0]) == 12
        edge = graph.motif_edge_attr[:, 1] == 1
        assert edge.sum() == 4 and torch.allclose(graph.motif_edge_length[edge], torch.tensor(2.959), atol=1e-4) # along c, to its own images
        assert (graph.motif_edge_index[0][edge] == graph.motif_edge_index[1][edge]).all() and (graph.motif_edge_attr[edge, 3] == 2).all()
        corner = graph.motif_edge_attr[graph.motif_edge_attr[:, 0] == 1]
        assert (corner[:, 3] == 1).all() and torch.allclose(corner[:, 4], corner[:, 5]) # one ligand, one angle

    def test_a_straight_bridge_has_the_cosine_of_180_degrees(self):
        graph = build([PEROVSKITE], NEAR, MotifGraph(centers=("Ti",)))[0]
        assert graph.n_motifs == 1 and graph.motif_edge_index.tolist() == [[0] * 6, [0] * 6]
        assert torch.allclose(graph.motif_edge_attr[:, 4:], torch.tensor(-1.0), atol=1e-6)

    @pytest.mark.parametrize("change", [turned, shuffled], ids=["moved", "permuted"])
    def test_the_same_crystal_gives_the_same_motif_graph(self, real, change):
        for structure in [RUTILE, PEROVSKITE, *real.structures[:8]]:
            a, b = build([structure, change(structure)], NEAR, MotifGraph(cutoff=6.0))
            assert a.n_motifs == b.n_motifs and a.motif_edge_index.shape == b.motif_edge_index.shape, structure.formula
            if not a.n_motifs: continue
            assert torch.allclose(a.motif_edge_length.sort().values, b.motif_edge_length.sort().values, atol=1e-4)
            assert torch.allclose(a.motif_edge_attr.sum(0), b.motif_edge_attr.sum(0), atol=1e-2, rtol=1e-4)
            assert torch.allclose(a.motif_x.sort(0).values, b.motif_x.sort(0).values, atol=1e-3)

    def test_a_cutoff_adds_motifs_that_share_nothing(self, real, dual):
        for crystal, graph, wide in zip(real.structures, dual, build(real, NEAR, MotifGraph(cutoff=6.0))):
            shared = wide.motif_edge_attr[:, :3].sum(1) > 0
            assert shared.sum() == graph.motif_edge_index.shape[1] and torch.equal(wide.motif_x, graph.motif_x)
            assert (wide.motif_edge_length[~shared] <= 6.0001).all() and not wide.motif_edge_attr[~shared].any()
            if not graph.n_motifs: continue
            centres = Structure.from_sites([crystal[i] for i in graph.motif_atom.tolist()])
            within = len(centres.get_neighbor_list(6.0)[0])
            assert (wide.motif_edge_length <= 6.0).sum() == within

    def test_a_metal_has_no_motifs_and_is_a_graph(self):
        graphs = build(pd.Series(dict(iron=IRON, salt=SALT)), NEAR, MotifGraph())
        assert len(graphs) == 2 and graphs[0].n_motifs == 0 and graphs[0].motif_x.shape == (0, 164) and graphs[0].motif_edge_index.shape == (2, 0)
        assert graphs.skipped.to_dict("records")[0] | dict(reason="") == dict(id="iron", stage="motifs", reason="")
        assert graphs.batch([0, 1]).motif_atom.tolist() == [i + 2 for i in graphs[1].motif_atom.tolist()]

    def test_only_metals(self):
        graphs = build([IRON, IRON], NEAR, MotifGraph(cutoff=5.0))
        assert graphs.arrays["motif_x"].shape == (0, 164) and graphs.batch([1, 0]).motif_batch.shape == (0,)

    @pytest.mark.parametrize("options, word", [(dict(ligands="chemenf"), "'chemenv'"), (dict(centers="cation"), "'cations'"), (dict(cutoff=0.0), "cutoff")])
    def test_an_impossible_choice_is_named(self, options, word):
        with pytest.raises(UserError, match=word): MotifGraph(**options)


class TestBuild:
    def test_settings_survive_json(self):
        import json

        for settings in (GraphSettings(), GraphSettings(AtomGraph(None, 5.0), MotifGraph(("Ti", "Al"), "crystalnn", 7.0))):
            assert GraphSettings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings

    @pytest.mark.parametrize("values, word", [(dict(atom={}), "'atoms'"), (dict(atoms=dict(neighbours=3)), "'neighbors'"), (dict(motifs=dict(cutof=3)), "'cutoff'"), (dict(atoms=3), "dictionary")])
    def test_unknown_settings_are_named(self, values, word):
        with pytest.raises(UserError, match=word): GraphSettings.from_dict(values)

    def test_what_cannot_be_a_graph_is_skipped_with_a_sentence(self):
        half = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
        close = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.01, 0, 0]])
        flat = Structure(Lattice([[3, 0, 0], [0, 3, 0], [3, 3, 0]]), ["Na"], [[0, 0, 0]])
        given = CrystalSet(pd.DataFrame(dict(structure=[half, SALT, close, flat, RUTILE]), index=list("abcde")), skipped=[dict(id="z", stage="read", reason="No lattice.")])
        graphs = build(given, NEAR, MotifGraph())
        assert graphs.ids == ["b", "e"] and graphs.skipped.id.tolist() == ["z", "a", "c", "d"] and graphs.skipped.stage.tolist() == ["read"] + ["graphs"] * 3
        assert "partly" in graphs.skipped.reason[1] and "0.04 angstrom" in graphs.skipped.reason[2] and "volume" in graphs.skipped.reason[3]
        for atoms in SETTINGS: assert build(given, atoms).ids == ["b", "e"]

    @pytest.mark.parametrize("atoms", SETTINGS, ids=["12", "24", "radius", "voronoi"])
    def test_a_cell_without_room_for_its_atoms_is_refused_before_any_search(self, atoms):
        thin = Structure(Lattice.orthorhombic(3, 3, 1e-7), ["Na"], [[0, 0, 0]])
        graphs = build([thin, SALT], atoms)
        assert len(graphs) == 1 and "room" in graphs.skipped.reason[0]

    @pytest.mark.parametrize("matrix, frac, word", [([[np.nan, 0, 0], [0, 3, 0], [0, 0, 3]], [0, 0, 0], "finite"), (np.eye(3) * 3, [np.inf, 0, 0], "Fractional")])
    def test_numbers_that_are_none(self, matrix, frac, word):
        plain = plain_crystal(SALT)
        broken = plain._replace(matrix=np.array(matrix, float), frac=np.array([frac], float), numbers=np.array([11]))
        part = atom_part([plain, broken, plain])
        assert list(part.reasons) == [1] and word in part.reasons[1] and part.n_atoms.tolist() == [8, 8]

    def test_no_crystal_left_is_one_sentence(self):
        with pytest.raises(UserError, match="partly"): build([Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])])
        with pytest.raises(UserError, match="no crystal"): build([])
        with pytest.raises(UserError, match="read_crystals"): build("matbench_dielectric")

    def test_a_table_without_a_motif_graph_is_a_mistake(self, real, table):
        with pytest.raises(UserError, match="MotifGraph"): build(real, table=table)

    def test_processes_and_threads_give_the_same(self, real, dual):
        many = build(real, NEAR, MotifGraph(), n_jobs=2)
        assert many.hash == dual.hash and many.skipped.equals(dual.skipped)

    def test_chunks_do_not_show(self, real):
        "Built in one call or one by one"
        together = build(real)
        for k in (0, 5, 59):
            alone = build(real.subset([real.frame.index[k]]))[0]
            assert torch.equal(alone.edge_index, together[k].edge_index) and torch.equal(alone.edge_length, together[k].edge_length)

    def test_no_sign_of_other_crystals_in_a_chunk_that_failed(self):
        fine = build([SALT, RUTILE])
        mixed = build([SALT, Structure(Lattice.cubic(4), ["Na", "Na"], [[0, 0, 0], [0, 0, 0]]), RUTILE])
        assert all(torch.equal(fine.arrays[k], mixed.arrays[k]) for k in fine.arrays)


@pytest.fixture
def folder(tmp_path) -> Path:
    with patch.dict(os.environ, MOTIFLAB_CACHE=str(tmp_path)): yield tmp_path / "graphs"


class TestCache:
    def test_a_second_call_maps_what_the_first_wrote(self, real, folder):
        first = build(real, NEAR, MotifGraph(), cache=True)
        again = build(real, NEAR, MotifGraph(), cache=True)
        assert first.saved_hash is None and again.saved_hash == first.hash == again.hash
        assert again.ids == first.ids and again.skipped.equals(first.skipped) and again.settings == first.settings
        assert len(list(folder.iterdir())) == 1
        with open("/proc/self/maps") as maps: assert str(folder) in maps.read()

    def test_what_matters_gives_another_entry(self, real, table, folder):
        few, n = real.head(3), 0
        moved = CrystalSet(few.frame.assign(structure=[s.copy().translate_sites([0], [1e-6, 0, 0]) for s in few.structures]))
        renamed = CrystalSet(few.frame.set_axis(["x", "y", "z"]))
        near = CrystalSet(few.frame, min_distance=0.1)
        charged = CrystalSet(few.frame.assign(structure=[s.copy().add_oxidation_state_by_site([1] * (len(s) - 1) + [1 - len(s)]) for s in few.structures]))
        calls = [(few, WHOLE, None, {}), (few, CUT, None, {}), (few, NEAR, None, {}), (few, WHOLE, MotifGraph(), {}), (few, WHOLE, MotifGraph(cutoff=5.0), {}),
                 (few, WHOLE, MotifGraph(), dict(table=table)), (moved, WHOLE, None, {}), (renamed, WHOLE, None, {}), (near, WHOLE, None, {}), (charged, WHOLE, None, {}),
                 (real.head(2), WHOLE, None, {}), (few.subset(few.frame.index[::-1]), WHOLE, None, {})]
        for n, (crystals, atoms, motifs, options) in enumerate(calls, 1):
            build(crystals, atoms, motifs, cache=True, **options)
            assert len(list(folder.iterdir())) == n, n
        for crystals, atoms, motifs, options in calls: assert build(crystals, atoms, motifs, cache=True, **options).saved_hash

    @pytest.mark.parametrize("where", ["edge_length.npy", "starts_edge.npy", "meta.json"])
    @pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
    def test_a_damaged_entry_is_built_again(self, real, folder, where, damage):
        few = real.head(4)
        whole = build(few, cache=True)
        file = next(folder.iterdir()) / where
        content = bytearray(file.read_bytes())
        if damage == "remove": file.unlink()
        elif damage == "cut": file.write_bytes(content[:len(content) // 2])
        else:
            content[-20 if where != "meta.json" else 20] ^= 4
            file.write_bytes(content)
        mended = build(few, cache=True)
        assert mended.saved_hash is None and mended.hash == whole.hash
        assert build(few, cache=True).saved_hash == whole.hash

    def test_a_cache_that_cannot_be_written_costs_a_warning(self, real, folder):
        with patch.object(GraphSet, "save", side_effect=OSError(28, "No space left on device")):
            with pytest.warns(UserWarning, match="No space left"): graphs = build(real.head(2), cache=True)
        assert len(graphs) == 2

    def test_without_the_cache_nothing_is_written(self, real, folder):
        build(real.head(2), cache=False)
        assert not folder.exists()
