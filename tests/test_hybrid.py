"Descriptors beside a graph: what is put there, how it is scaled, and every way in which that can go wrong"

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from motiflab.baselines import ALONE, descriptors_alone
from motiflab.cli import run as motiflab
from motiflab.crystals import CrystalSet, read_crystals
from motiflab.descriptors import DescriptorSettings, descriptor_table
from motiflab.descriptors.blocks import named_descriptors
from motiflab.errors import UserError
from motiflab.estimators import CrystalRegressor
from motiflab.graphs import AtomGraph, GraphSettings, MotifGraph, build_graphs
from motiflab.models import MODELS, build_model
from motiflab.models.hybrid import FAR, HYBRIDS, Hybrid
from motiflab.named import predict_crystals
from motiflab.recipes import recipe
from motiflab.runs import load_run
from motiflab.targets import Targets, check_leakage, read_targets, split_by_seed
from motiflab.training import TrainSettings, train

CELL = DescriptorSettings(bank=("n_atoms", "volume_per_atom", "density"))
QUICK = TrainSettings(epochs=4, batch_size=16, learning_rate=5e-3, patience=None, accelerator="cpu")
SMALL = dict(width=16, n_blocks=1, joint=[16])


@pytest.fixture(scope="module")
def crystals() -> CrystalSet:
    found = read_crystals("matbench_dielectric", progress=False).filter(only="Li Na K Mg Ca Al Si Zn O S F".split(), max_sites=12).sample(60, seed=2)
    rng = np.random.default_rng(0)
    frame = found.frame.assign(extensive=[len(s) * 2.0 + s.density / 10 for s in found.structures], noise=rng.normal(size=60), gappy=np.where(np.arange(60) % 3, rng.normal(size=60), np.nan), empty=np.nan)
    return CrystalSet(frame)


def settings(**descriptors) -> GraphSettings: return GraphSettings(AtomGraph(neighbors=6, cutoff=5.0), descriptors=DescriptorSettings(**descriptors))


def graphs_of(crystals, **descriptors): return build_graphs(crystals, settings(**descriptors), n_jobs=1, cache=False, progress=False)


def small(graphs, name="de-cgcnn", seed=0, **options):
    torch.manual_seed(seed)
    return build_model(name, 1, n_descriptors=graphs.arrays["descriptor"].shape[1], **SMALL | options)


@pytest.fixture(scope="module")
def graphs(crystals): return graphs_of(crystals, bank=("n_atoms", "volume_per_atom", "crystal_system"), columns=["noise", "gappy"])


# -------------------------------------------------- what stands beside the graph
def test_blocks_are_the_tables_of_their_makers(crystals):
    from motiflab.baselines import composition_statistics
    from motiflab.descriptors import DescriptorBank
    from motiflab.motifs import extract_motifs

    some = crystals.sample(12, seed=0)
    table, _ = descriptor_table(some, DescriptorSettings(bank=("density", "a"), composition=True, motifs=True, columns=("n",)), n_jobs=1)
    assert table[["density", "a"]].equals(DescriptorBank(["density", "a"], n_jobs=1).table(some)) and table["n"].equals(some.frame["n"].astype(float))
    assert np.allclose(table[list(composition_statistics(some))], composition_statistics(some))
    motifs = extract_motifs(some, n_jobs=1, progress=False)
    one = motifs.motifs[motifs.motifs.crystal_id == motifs.motifs.crystal_id.iloc[0]]
    row = table.loc[one.crystal_id.iloc[0]]
    assert row["motifs per atom"] == len(one) / len(some.frame.structure[one.crystal_id.iloc[0]]) and row["mean ligands of a motif"] == one.cn.mean()
    for symbol, n in one.symbol.value_counts().items():
        if f"share of {symbol}" in row: assert np.isclose(row[f"share of {symbol}"], n / len(one))
    ends = motifs.connections[(motifs.connections.crystal_id == one.crystal_id.iloc[0]) & (motifs.connections.kind == 2)]
    assert np.isclose(row["edges per motif"], 2 * len(ends) / len(one))


def test_a_mean_vector_is_the_mean_of_its_motifs(crystals):
    from motiflab.motif2vec import Motif2Vec
    from motiflab.motifs import extract_motifs

    oxides = CrystalSet(crystals.frame[[set("O") <= {e.symbol for e in s.composition} for s in crystals.structures]].iloc[:4])
    table, _ = descriptor_table(oxides, DescriptorSettings(bank=False, motif2vec=True), n_jobs=1)
    motifs = extract_motifs(oxides, n_jobs=1, progress=False)
    vectors, i = Motif2Vec.shipped().vectors_, oxides.frame.index[0]
    assert np.allclose(table.loc[i], vectors.reindex(motifs.kinds[motifs.motifs.crystal_id == i]).mean(), equal_nan=True) and table.shape == (4, 60)


def test_settings_are_checked_and_survive_json():
    full = DescriptorSettings(bank=("a", "b"), composition=True, columns=["x"])
    assert DescriptorSettings.from_dict(full.as_dict()) == full and GraphSettings.from_dict(GraphSettings(descriptors=full).as_dict()).descriptors == full
    assert "descriptors" not in GraphSettings().as_dict()
    with pytest.raises(UserError, match="density"): DescriptorSettings(bank=("densty",))
    with pytest.raises(UserError, match="none is named"): DescriptorSettings(bank=False)
    with pytest.raises(UserError, match="called 'density'"): DescriptorSettings(columns=("density",))
    with pytest.raises(UserError, match="composition"): DescriptorSettings.from_dict(dict(compositon=True))
    for wrong in (dict(bank="density"), dict(columns="good"), dict(bank=3), dict(bank=None), dict(composition="yes"), dict(face_tolerance=-1), dict(bank=("a", "a"))):
        with pytest.raises(UserError, match="must be|called 'a'"): DescriptorSettings.from_dict(wrong)
    assert named_descriptors(None) is None and named_descriptors(["motifs", "x"]) == DescriptorSettings(bank=False, motifs=True, columns=("x",))


def test_descriptors_are_computed_once(crystals, tmp_path, monkeypatch):
    import motiflab.graphs.build as building

    monkeypatch.setenv("MOTIFLAB_CACHE", str(tmp_path))
    asked = []
    monkeypatch.setattr(building, "descriptor_table", lambda *a: asked.append(a) or descriptor_table(*a))
    build = lambda **d: build_graphs(crystals, settings(bank=("density",), **d), n_jobs=1, progress=False)
    first, again, more = build(), build(), build(columns=("noise",))
    assert len(asked) == 1 and torch.equal(first.arrays["descriptor"], again.arrays["descriptor"]) and more.arrays["descriptor"].shape == (60, 2)
    for file in (tmp_path / "descriptors").glob("*.npz"): file.write_bytes(b"damaged")
    assert torch.equal(build().arrays["descriptor"], first.arrays["descriptor"]) and len(asked) == 2


def test_what_is_undefined_is_noted_and_the_crystal_stays(crystals):
    frame = crystals.frame.iloc[:10].copy()
    overlap = frame.structure.iloc[0].copy()
    overlap.append(overlap[0].specie, overlap[0].frac_coords + 0.02)
    frame.at[frame.index[0], "structure"] = overlap
    found = graphs_of(CrystalSet(frame, min_distance=0.0), bank=("mean_voronoi_cn", "density"))
    assert len(found) == 10 and found.arrays["descriptor"].shape == (10, 2)
    rows = found.skipped[found.skipped.stage == "descriptors"]
    assert set(rows.id) == {found.ids[k] for k in torch.isnan(found.arrays["descriptor"]).any(1).nonzero()[:, 0].tolist()}


# -------------------------------------------------- the network
@pytest.mark.parametrize("kind", HYBRIDS, ids=lambda k: k.name)
def test_every_encoder_has_a_companion(kind, crystals):
    model = MODELS[kind.name](kind.Options(n_descriptors=3, joint=(8,)), 2)
    wanted = GraphSettings(AtomGraph(**{**kind.default_atoms, "neighbors": 6}), MotifGraph() if kind.takes_motifs else None, kind.takes_periods, CELL)
    graphs = build_graphs(crystals.sample(5, seed=1), wanted, n_jobs=1, cache=False, progress=False)
    model.learn_scales(graphs)
    assert model.eval()(graphs.batch(range(5))).shape == (5, 2) and kind.takes_descriptors and model.graph_settings.descriptors is not None
    assert model.encoder.name == kind.name.removeprefix("de-") and isinstance(model.encoder.head, torch.nn.Identity)


def test_scales_come_from_training_crystals_alone(graphs, crystals):
    split = split_by_seed(60, seed=0)
    run = train(small(graphs), graphs, read_targets(crystals, "extensive"), split, QUICK)
    values = graphs.arrays["descriptor"][split.train].double()
    assert np.allclose(run.model.scale.mean, np.nanmean(values, 0), rtol=1e-4, atol=1e-6)
    spread = np.nanstd(values, 0)
    assert np.allclose(run.model.scale.inverse, np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0), rtol=1e-3)


def test_missing_values_are_marked_and_far_ones_held(graphs):
    model = small(graphs)
    model.learn_scales(graphs)
    told = model.scale(graphs.arrays["descriptor"])
    k, gap = told.shape[1] // 2, torch.isnan(graphs.arrays["descriptor"][:, -1])
    assert gap.sum() == 20 and torch.equal(told[:, -1] == 1, gap) and (told[gap, k - 1] == 0).all() and torch.isfinite(told).all()
    assert model.scale(torch.full((1, k), 1e9)).max() == FAR


def test_a_descriptor_without_any_value_is_left_out_with_a_word(crystals):
    graphs = graphs_of(crystals, bank=("density",), columns=["empty"])
    model = small(graphs)
    with pytest.warns(UserWarning, match="'empty'"): run = train(model, graphs, read_targets(crystals, "extensive"), split_by_seed(60), QUICK)
    assert (model.scale(graphs.arrays["descriptor"])[:, [1, 3]] == 0).all() and np.isfinite(run.score("mae"))


def test_it_learns_what_only_descriptors_tell(crystals):
    targets, split, long = read_targets(crystals, "extensive"), split_by_seed(60, (0.7, 0.15, 0.15), seed=1), TrainSettings(**{**QUICK.as_dict(), "epochs": 60})
    blind = train(small(graphs_of(crystals, columns=("noise",), bank=False)), graphs_of(crystals, columns=("noise",), bank=False), targets, split, long)
    told = graphs_of(crystals, bank=("n_atoms", "volume_per_atom"))
    assert train(small(told), told, targets, split, long).score("mae", "validation") < 0.5 * blind.score("mae", "validation")


def test_a_frozen_encoder_stays_and_another_does_not(graphs, crystals):
    plain = build_model("cgcnn", 1, width=16, n_blocks=1)
    for frozen in (True, False):
        model = small(graphs, frozen=frozen).take_encoder(plain)
        train(model, graphs, read_targets(crystals, "extensive"), split_by_seed(60), QUICK)
        same = all(torch.equal(v, plain.state_dict()[k]) for k, v in model.encoder.state_dict().items())
        assert same == frozen
    with pytest.raises(UserError, match="same options"): small(graphs).take_encoder(build_model("cgcnn", 1, width=32, n_blocks=1))


def test_saved_loaded_and_resumed(graphs, crystals, tmp_path):
    targets, split = read_targets(crystals, "extensive"), split_by_seed(60)
    whole = train(small(graphs), graphs, targets, split, QUICK, tmp_path / "whole")
    cut = TrainSettings(**{**QUICK.as_dict(), "epochs": 2})
    train(small(graphs), graphs, targets, split, cut, tmp_path / "cut")
    resumed = train(small(graphs), graphs, targets, split, QUICK, tmp_path / "cut", resume=True)
    assert np.allclose(resumed.predictions["extensive_predicted"], whole.predictions["extensive_predicted"], rtol=1e-6)
    loaded = load_run(tmp_path / "whole")
    assert isinstance(loaded.model, Hybrid) and torch.equal(loaded.model.scale.mean, whole.model.scale.mean)
    said = predict_crystals(loaded, crystals, n_jobs=1, cache=False, progress=False).set_index("id")["extensive"]
    assert np.allclose(said.loc[whole.predictions.index], whole.predictions["extensive_predicted"], rtol=1e-4)
    with pytest.raises(UserError, match="'noise'"): predict_crystals(loaded, CrystalSet(crystals.frame[["structure"]]), n_jobs=1, cache=False, progress=False)


# -------------------------------------------------- what cannot be
def test_the_target_among_the_descriptors_is_refused_by_name(crystals):
    scaled = CrystalSet(crystals.frame.assign(sites=[-3.0 * len(s) + 1 for s in crystals.structures], extent=[float(len(s)) for s in crystals.structures]))
    graphs = graphs_of(scaled, bank=("density",), columns=["extent"])
    by_class = read_targets(scaled, "extent", threshold=6)
    with pytest.raises(UserError, match="among"): train(small(graphs), graphs, by_class, split_by_seed(60), QUICK)
    for target in ("extent", "sites"):
        with pytest.raises(UserError, match=f"'extent'.*{'among' if target == 'extent' else 'sites'}"): train(small(graphs), graphs, read_targets(scaled, target), split_by_seed(60), QUICK)
    plain = build_model("cgcnn", 1, width=16, n_blocks=1)
    assert np.isfinite(train(plain, graphs, read_targets(scaled, "extent"), split_by_seed(60), QUICK).score("mae")) # it does not read them


def test_a_table_of_other_crystals_is_refused(crystals):
    bare = build_graphs(crystals, GraphSettings(AtomGraph(neighbors=6, cutoff=5.0)), n_jobs=1, cache=False, progress=False)
    table = crystals.frame[["noise", "gappy"]]
    assert torch.allclose(bare.with_descriptors(table.sample(frac=1, random_state=0)).arrays["descriptor"][:, 0], torch.tensor(table["noise"].to_numpy(), dtype=torch.float32))
    for wrong, said in ((table.iloc[1:], f"1 of 60 crystals, such as '{bare.ids[0]}'"), (table.set_axis([f"other{k}" for k in range(60)]), "60 of 60"),
                        (pd.concat([table, table.iloc[:1]]), f"several rows for crystal '{bare.ids[0]}'"), (table.assign(word="x"), "'word' is not of numbers"),
                        (table.assign(far=np.inf), "'far' holds an infinite"), (table[[]], "no column")):
        with pytest.raises(UserError, match=said): bare.with_descriptors(wrong)


def test_columns_that_are_not_there_or_hold_text(crystals):
    with pytest.raises(UserError, match="did you mean 'noise'"): graphs_of(crystals, columns=["noize"])
    with pytest.raises(UserError, match="'spoilt' holds 'abc'"): graphs_of(CrystalSet(crystals.frame.assign(spoilt=["abc"] + [1.0] * 59)), columns=["spoilt"])


def test_graphs_without_or_with_other_descriptors(graphs, crystals):
    bare = build_graphs(crystals, GraphSettings(AtomGraph(neighbors=6, cutoff=5.0)), n_jobs=1, cache=False, progress=False)
    with pytest.raises(UserError, match="have none"): small(graphs)(bare.batch([0, 1]))
    with pytest.raises(UserError, match="n_descriptors=1"): small(graphs)(graphs_of(crystals, bank=("density",)).batch([0, 1]))
    with pytest.raises(UserError, match="de-cgcnn"): recipe("quick", "cgcnn", DescriptorSettings())
    assert recipe("quick", "de-cgcnn").graphs.descriptors == DescriptorSettings() and recipe("cogn", "de-amdnet", CELL).graphs.motifs is not None


def test_copies_of_the_target_are_found_however_they_are_dressed():
    rng = np.random.default_rng(3)
    y, names = rng.gamma(2.0, size=60), tuple(range(60))
    number, halves = Targets(names=("y",), values=y[:, None], ids=names), Targets(names=("c",), task="classification", classes=(0, 1), values=(y > 1.5)[:, None].astype(float), ids=names)
    for copy in (y.round(3), np.log(y), -1e5 + y, np.float32(y * 1e-3 + 10.0)):
        with pytest.raises(UserError, match="'d' is the target 'y'"): check_leakage(pd.DataFrame(dict(d=copy)), number)
    for copy in (y, np.where(y > 1.5, 7.0, 2.0)):
        with pytest.raises(UserError, match="'d' is the target 'c'"): check_leakage(pd.DataFrame(dict(d=copy)), halves)
    check_leakage(pd.DataFrame(dict(good=y + 0.2 * rng.normal(size=60), noise=rng.normal(size=60), gap=np.full(60, np.nan))), number)
    check_leakage(pd.DataFrame(dict(good=y + 0.2 * rng.normal(size=60))), halves)


def test_small_units_are_as_good_as_large_ones(crystals):
    frame = crystals.frame.assign(joule=crystals.frame["noise"] * 1.6e-19, same=5e-20)
    graphs = build_graphs(CrystalSet(frame), settings(bank=False, columns=("joule", "noise", "same")), n_jobs=1, cache=False, progress=False)
    model = small(graphs)
    model.learn_scales(graphs)
    told = model.scale(graphs.arrays["descriptor"])
    assert torch.allclose(told[:, 0], told[:, 1], atol=1e-4) and told[:, 1].std() > 0.9 and (told[:, 2] == 0).all()


def test_every_missing_block_has_a_reason(crystals):
    from pymatgen.core import Lattice, Structure

    iron = Structure(Lattice.cubic(2.8), ["Fe"], [[0, 0, 0]])
    odd = CrystalSet(pd.concat([crystals.frame[["structure"]].iloc[:3], pd.DataFrame(dict(structure=[iron]), index=["iron"])]))
    found = graphs_of(odd, bank=("density",), motifs=True, motif2vec=True)
    gaps = torch.isnan(found.arrays["descriptor"]).any(1)
    assert gaps[3] and set(found.skipped[found.skipped.stage == "descriptors"].id) == {found.ids[k] for k in gaps.nonzero()[:, 0].tolist()}
    model = small(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = train(small(graphs_of(crystals, bank=("density",), motifs=True, motif2vec=True)), graphs_of(crystals, bank=("density",), motifs=True, motif2vec=True), read_targets(crystals, "extensive"), split_by_seed(60), QUICK)
    with pytest.warns(UserWarning, match="lack descriptors"): predict_crystals(run, odd, n_jobs=1, cache=False, progress=False)
    assert model.encoder is not None


def test_a_frozen_encoder_that_learned_nothing_is_warned_of(graphs):
    with pytest.warns(UserWarning, match="take_encoder"): small(graphs, frozen=True).learn_scales(graphs)
    with pytest.raises(UserError, match="run.model"): small(graphs).take_encoder("run")
    with pytest.raises(UserError, match="list of widths"): build_model("de-cgcnn", joint=64)


def test_an_estimator_takes_columns_of_ones_own(crystals):
    how = dict(settings=dict(epochs=1, accelerator="cpu"), graphs=settings(bank=False, columns=("noise",)), options=dict(width=8, n_blocks=1))
    fitted = CrystalRegressor("de-cgcnn", **how).fit(crystals.frame, crystals.frame["extensive"])
    assert np.isfinite(fitted.predict(crystals.frame)).all()
    with pytest.raises(UserError, match="'noise'"): fitted.predict(crystals.structures)


# -------------------------------------------------- descriptors alone
@pytest.mark.parametrize("kind", ALONE)
def test_descriptors_alone(kind, graphs, crystals):
    table, targets, split = pd.DataFrame(graphs.arrays["descriptor"][:, :-1].numpy(), graphs.ids), read_targets(crystals, ["extensive", "gappy"]), split_by_seed(60) # all but `gappy`
    values = descriptors_alone(table, targets, split, kind)
    true = targets.values[split.test, 0]
    assert values.shape == (60, 2) and abs(values[split.test, 0] - true).mean() < abs(true - true.mean()).mean() and np.array_equal(values, descriptors_alone(table, targets, split, kind))
    with pytest.raises(UserError, match="forest"): descriptors_alone(table, targets, split, "forrest")
    assert np.array_equal(descriptors_alone(table[::-1], targets, split, kind), values)
    with pytest.raises(UserError, match="1 of 60"): descriptors_alone(table.iloc[1:], targets, split, kind)
    with pytest.raises(UserError, match="'extensive' is among"): descriptors_alone(table.assign(extensive=1.0), targets, split, kind)


# -------------------------------------------------- on the command line
def test_trained_and_asked_from_the_command_line(crystals, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [dict(id=i, lattice=s.lattice.matrix.tolist(), species=[x.specie.symbol for x in s], frac=s.frac_coords.tolist(), extensive=e, noise=n)
            for i, s, e, n in crystals.frame[["structure", "extensive", "noise"]].itertuples()]
    pd.DataFrame(rows).to_json("data.jsonl", orient="records", lines=True)
    ask = lambda *words: motiflab(["train", "-d", "data.jsonl", "-t", "extensive", "--recipe", "quick", "--epochs", "2", "--jobs", "1", *words])
    assert ask("-m", "de-cgcnn", "-o", "run", "--descriptors", "bank", "--descriptors", "noise") == 0
    assert motiflab(["predict", "run", "data.jsonl", "-o", "said.csv", "--jobs", "1"]) == 0 and pd.read_csv("said.csv")["extensive"].notna().sum() == 60
    capsys.readouterr()
    assert ask("-m", "cgcnn", "-o", "other", "--descriptors", "bank") == 2 and "de-cgcnn" in capsys.readouterr().err
    assert ask("-m", "de-cgcnn", "-o", "third", "--descriptors", "extensive") == 2 and "'extensive' is among the descriptors" in " ".join(capsys.readouterr().err.split())
