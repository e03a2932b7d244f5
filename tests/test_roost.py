"Roost: formulas from batches, attention against its equation, and that no structure is seen"
import pytest
import torch
from pymatgen.core import Lattice, Structure
from torch.nn import functional as F

from motiflab.crystals import read_crystals
from motiflab.graphs import AtomGraph, GraphSet, GraphSettings, build_graphs
from motiflab.graphs.merged import merge_equal
from motiflab.models import build_model
from motiflab.models.readouts import READOUTS
from motiflab.models.roost import formula

RUTILE = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [.3053, .3053, 0]])
ANATASE = Structure.from_spacegroup("I4_1/amd", Lattice.tetragonal(3.784, 9.515), ["Ti", "O"], [[0, 0, 0], [0, 0, .2081]])
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [.5, .5, .5]])


def build(structures, **options) -> GraphSet:
    return build_graphs(list(structures), GraphSettings(AtomGraph(**options)), n_jobs=1, cache=False, progress=False)


def small(**options):
    torch.manual_seed(0)
    return build_model("roost", **dict(width=16, hidden=24, dense=[32, 8]) | options)


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    return list(read_crystals("matbench_dielectric", progress=False).frame.structure[:60:6])


def test_formulas_are_pymatgens(structures):
    for graphs in (build(structures), merge_equal(build(structures))):
        found = formula(graphs.batch(range(len(graphs))))
        for c, structure in enumerate(structures):
            mine = found.crystal == c
            assert dict(zip(found.z[mine].tolist(), found.count[mine].tolist())) == {e.Z: n for e, n in structure.composition.items()}
            assert torch.allclose(found.share[mine].sum(), torch.ones(()))
            pairs = mine[found.target]
            assert pairs.sum() == mine.sum() ** 2 and mine[found.source[pairs]].all()
    assert len(set(zip(found.source.tolist(), found.target.tolist()))) == len(found.source) and (found.target.diff() >= 0).all()


@pytest.mark.parametrize("readout", ["weighted", *READOUTS])
def test_structure_is_not_seen(readout):
    "Polymorphs, supercells, strained crystals and other graphs of them"
    model = small(readout=readout).eval()
    answers = [model(g.batch(range(5))) for g in (build([RUTILE, ANATASE, SALT, SALT * (2, 1, 1), SALT.copy().apply_strain(.1)], **o) for o in (dict(neighbors=1), {}, dict(triplets=4)))]
    answers.append(model(merge_equal(build([RUTILE, ANATASE, SALT, SALT * (2, 1, 1), SALT.copy().apply_strain(.1)])).batch(range(5))))
    for found in answers:
        assert torch.allclose(found, answers[0], atol=1e-6) and (found[0] - found[2]).abs() > 1e-5 and torch.allclose(found[2], found[4], atol=1e-6)
        if readout != "sum": assert torch.allclose(found[0], found[1], atol=1e-6) and torch.allclose(found[2], found[3], atol=1e-6)


def test_shares_are_seen():
    first, second = small().eval()(build([Structure(SALT.lattice, ["Na"] * 4 + ["Cl"] * 4, SALT.frac_coords), Structure(SALT.lattice, ["Na"] * 5 + ["Cl"] * 3, SALT.frac_coords)]).batch([0, 1]))
    assert (first - second).abs() > 1e-5


def test_attention_written_out(structures):
    "One receiver and one head at a time, each with a matrix of its own, averaged over the heads"
    model, batch = small(), build(structures).batch(range(len(structures)))
    part = model.part(batch)
    vectors, block = model.start(batch, part), model.blocks[0]
    block.power.data = torch.tensor([.5, 1., 2.])
    found, heads, hidden = block(vectors, part).nodes, block.heads, block.hidden
    first, bias = block.first.weight.view(2, heads, hidden, -1), block.first.bias.view(2, heads, hidden)
    last = heads * block.last.weight.view(-1, heads, hidden)
    for i in range(len(part.z)):
        others = part.source[part.target == i]
        rows = torch.cat([vectors.nodes[i].expand(len(others), -1), vectors.nodes[others]], 1)
        out = []
        for h in range(heads):
            score = F.leaky_relu(rows @ first[0, h].T + bias[0, h]) @ block.score[h]
            weight = part.share[others] ** block.power[h] * score.exp()
            said = F.leaky_relu(rows @ first[1, h].T + bias[1, h]) @ last[:, h].T + block.last.bias
            out.append((weight / weight.sum()) @ said)
        assert torch.allclose(found[i], vectors.nodes[i] + torch.stack(out).mean(0), atol=1e-5)


def test_defaults_are_the_papers():
    model = build_model("roost")
    assert [layer.out_features for layer in model.dense.layers] == [1024, 512, 256, 128, 64] and len(model.blocks) == 3 and model.blocks[0].heads == 3 and not model.takes_motifs
