"ALIGNN and the line graph: angles against plain geometry, the network against its equations"
import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure
from torch.nn import functional as F

from motiflab.crystals import read_crystals
from motiflab.errors import UserError
from motiflab.graphs import AtomGraph, GraphSet, GraphSettings, atoms, build_graphs
from motiflab.graphs.merged import merge_equal
from motiflab.models import build_model
from motiflab.recipes import RECIPES, recipe
from motiflab.targets import TargetInfo, read_targets, split_by_seed
from motiflab.training import TrainSettings, train

ISOLATED = Structure(Lattice.cubic(20), ["He"], [[0, 0, 0]])


def build(structures, **options) -> GraphSet:
    return build_graphs(list(structures), GraphSettings(AtomGraph(**options)), n_jobs=1, cache=False, progress=False)


def everything(graphs: GraphSet): return graphs.batch(range(len(graphs)))


def small(**options): # a network with fresh weights
    torch.manual_seed(0)
    return build_model("alignn", **dict(width=12, embedding=8, n_blocks=2, n_gcn=1) | options)


def molecule(*angles: float, ends: str = "HHH") -> Structure: # bonds of 1 angstrom to an oxygen atom, in a plane, in degrees
    a = np.radians(angles)
    return Structure(Lattice.cubic(12), ["O", *ends[:len(a)]], [[0, 0, 0], *np.stack([np.cos(a), np.sin(a), 0 * a], 1)], coords_are_cartesian=True)


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    frame = read_crystals("matbench_dielectric", progress=False).frame
    return [s for s in frame.structure if 4 <= len(s) <= 10][:24:4]


class TestLineGraph:
    @pytest.mark.parametrize("method", ["distance", "voronoi"])
    def test_angles_are_those_of_the_nearest(self, structures, method):
        "Every ordered pair of an atom's near edges once, with the cosine of their vectors"
        for graph in build(structures, triplets=5, vectors=True, method=method):
            length, vector, target = graph.edge_length.numpy(), graph.edge_vector.double().numpy(), graph.edge_index[1].numpy()
            wanted = {}
            for i in range(graph.num_nodes):
                edges = np.flatnonzero(target == i)
                near = [e for e in edges if length[e] <= np.sort(length[edges])[:5][-1] + 1e-3] if len(edges) else []
                wanted |= {(a, b): vector[a] @ vector[b] / np.linalg.norm(vector[a]) / np.linalg.norm(vector[b]) for a in near for b in near if a != b}
            found = dict(zip(map(tuple, graph.triplet_index.T.tolist()), graph.triplet_cosine.tolist()))
            assert len(found) == graph.triplet_index.shape[1] and found.keys() == wanted.keys()
            assert max((abs(found[k] - wanted[k]) for k in wanted), default=0) < 1e-5
            assert (graph.triplet_index[1].diff() >= 0).all()

    def test_a_supercell_has_the_same_angles_more_often(self, structures):
        for one, two in zip(build(structures, triplets=6), build([s * (1, 2, 1) for s in structures], triplets=6)):
            a, b = one.triplet_cosine.sort().values.repeat_interleave(2), two.triplet_cosine.sort().values
            assert len(a) == len(b) and torch.allclose(a, b, atol=2e-4)

    def test_few_edges(self):
        graphs = build([ISOLATED, molecule(0, 104.5), Structure(Lattice.cubic(3), ["Po"], [[0, 0, 0]])], cutoff=3.2, triplets=12)
        assert graphs.starts["triplet"].diff().tolist() == [0, 3 * 2, 6 * 5]
        assert sorted(graphs[2].triplet_cosine.round(decimals=4).tolist()) == [-1] * 6 + [0] * 24

    def test_too_many_are_refused_with_a_reason(self, structures, monkeypatch):
        monkeypatch.setattr(atoms, "MOST_TRIPLETS", 900)
        graphs = build([molecule(0, 104.5), *structures], triplets=12)
        assert 0 < len(graphs) <= len(structures) and graphs.starts["triplet"].diff().max() <= 900
        assert len(graphs.skipped) + len(graphs) == 1 + len(structures) and graphs.skipped.reason.str.contains("lower triplets, neighbors or cutoff").all()

    @pytest.mark.parametrize("wrong", [0, 1, 2.5, True])
    def test_impossible_numbers(self, wrong):
        with pytest.raises(UserError, match="triplets"): AtomGraph(triplets=wrong)

    def test_settings_without_angles_are_as_before(self):
        assert "triplets" not in GraphSettings().as_dict()["atoms"] and GraphSettings.from_dict(GraphSettings().as_dict()) == GraphSettings()
        assert GraphSettings.from_dict(GraphSettings(AtomGraph(triplets=4)).as_dict()).atoms.triplets == 4

    def test_saved_and_loaded(self, structures, tmp_path):
        graphs = build(structures, triplets=4)
        again = GraphSet.load(graphs.save(tmp_path / "graphs"))
        assert again.hash == graphs.hash and again.batch([2, 0]).triplet_index.equal(graphs.subset([2, 0]).batch([0, 1]).triplet_index)

    def test_merged_counts_add_up(self, structures):
        whole = build(structures, triplets=8)
        for one, two in zip(whole, merge_equal(whole)):
            to = two.triplet_index[1]
            times = two.triplet_count * two.edge_count[to] * two.atom_count[two.edge_index[1, to]]
            assert times.sum() == len(one.triplet_cosine) and abs((times * two.triplet_cosine).sum() - one.triplet_cosine.sum()) < 1e-3 * len(one.triplet_cosine)
            assert (two.edge_index[1][two.triplet_index[0]] == two.edge_index[1][to]).all()


def convolution(conv, nodes, edges, source, target):
    "Equations of the edge-gated convolution, one node at a time; nodes, edges"
    u, a = conv.node.weight.chunk(2)
    v, b = conv.sent.weight.chunk(2)
    bias_u, bias_a = conv.node.bias.chunk(2)
    bias_v, bias_b = conv.sent.bias.chunk(2)
    m = torch.cat([nodes[target], nodes[source], edges], 1) @ torch.cat([a, b, conv.edge.weight], 1).T + bias_a + bias_b + conv.edge.bias
    heard = []
    for i in range(len(nodes)):
        gate, value = m[target == i].sigmoid(), nodes[source[target == i]] @ v.T + bias_v
        heard.append((gate * value).sum(0) / (gate.sum(0) + 1e-6))
    norm = lambda layer, x: (x - x.mean(0)) / (x.var(0, unbiased=False) + layer.eps).sqrt() * layer.weight + layer.bias
    new = nodes + F.silu(norm(conv.node_norm, nodes @ u.T + bias_u + torch.stack(heard)))
    return new, edges if conv.edge_norm is None else edges + F.silu(norm(conv.edge_norm, m))


class TestNetwork:
    def test_layer_written_out(self, structures):
        "Line graph first, then the atom graph with the new bonds"
        batch, model = everything(build(structures, triplets=4)), small()
        part = model.part(batch)
        before = model.start(batch, part)
        layer, found = model.blocks[0], model.blocks[0](before, part)
        bonds, angles = convolution(layer.line, before.edges, before.fixed.vectors, *batch.triplet_index)
        nodes, bonds = convolution(layer.bond, before.nodes, bonds, *batch.edge_index)
        for ours, plain in [(found.nodes, nodes), (found.edges, bonds), (found.fixed.vectors, angles)]: assert torch.allclose(ours, plain, atol=2e-5)

    def test_inputs_are_the_papers(self, structures):
        model, batch = build_model("alignn"), everything(build(structures[:2], triplets=4))
        cosine = batch.triplet_cosine[:9]
        centres = torch.linspace(-1, 1, 40)
        assert torch.allclose(model.expand_angles(cosine), torch.exp(-(cosine[:, None] - centres) ** 2 / (2 / 39)), atol=1e-5)
        assert model.expand.n == 80 and model.width == 256 and len(model.blocks) == 8 and model.graph_settings.atoms == AtomGraph(neighbors=12, cutoff=8.0, triplets=12)

    def test_sees_angles_that_distances_do_not_show(self):
        "But not between bonds that are all alike: the shares of alike partners add up to one, whatever the angles"
        def apart(model, ends):
            first, second = model(everything(build([molecule(0, 90, 180, ends=ends), molecule(0, 120, 240, ends=ends)], cutoff=1.2, triplets=4)))
            return (first - second).abs().item()
        seen = apart(small(), "HFN")
        assert seen > 1e-4
        for model in (small(n_blocks=0, n_gcn=3), build_model("cgcnn")): assert apart(model, "HFN") < 1e-5
        assert apart(small(), "HHH") < seen / 10

    def test_graphs_without_angles(self, structures):
        batch = everything(build(structures))
        with pytest.raises(UserError, match="triplets=12"): small()(batch)
        assert small(n_blocks=0)(batch).isfinite().all()

    def test_trains_on_merged_graphs(self, structures):
        graphs = build([*structures, *structures], triplets=4)
        targets = read_targets(pd.DataFrame(dict(volume=[s.volume / len(s) for s in structures * 2])), "volume")
        run = train(small(), graphs, targets, split_by_seed(12, (.7, .3, 0.), 0), TrainSettings(epochs=2, accelerator="cpu"))
        assert np.isfinite(run.score("mae", "validation"))

    @pytest.mark.parametrize("name", RECIPES)
    def test_recipes_build_its_graphs(self, name):
        found = recipe(name, "alignn")
        assert found.graphs.atoms.triplets == 12 and found.model == "alignn" and found.build(TargetInfo(("n",))).options["n_gcn"] == 4
