"Explanations: what hybrids lean on, what their vectors know, energies of sites, contributions of motifs, and every way in which they cannot be had"
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from motiflab.atlasdata import atlas_data, coloring_of
from motiflab.cli import run as motiflab
from motiflab.crystals import CrystalSet, read_crystals
from motiflab.descriptors import DescriptorSettings
from motiflab.errors import UserError
from motiflab.explain import (METHODS, bare_encoder, gradient_parts, held_out_r2, importance, pooled_vectors, representation_features, representation_r2, share_of_descriptors,
                              site_energies)
from motiflab.explain_figures import contribution_crystal, contribution_words, importance_figure, r2_figure, share_figure
from motiflab.graphs import AtomGraph, GraphSettings, MotifGraph, build_graphs
from motiflab.models import build_model
from motiflab.motif_contributions import motif_contributions, node_entries
from motiflab.motifs import extract_motifs
from motiflab.training import TrainSettings, read_targets, split_by_seed, train

ATOMS = AtomGraph(neighbors=6, cutoff=5.0)
BANK = DescriptorSettings(bank=("density", "volume_per_atom", "crystal_system"), columns=("same", "hole"))
QUICK = TrainSettings(epochs=25, batch_size=16, learning_rate=6e-3, accelerator="cpu")
SPLIT = (0.55, 0.15, 0.3)


@pytest.fixture(scope="module")
def crystals():
    "Small crystals with a quantity that is one descriptor and noise, a constant column, and one with holes"
    found = read_crystals("matbench_dielectric", progress=False).filter(only="Li Na K Mg Ca Sr Ba Al Si Zn O S F Cl P".split(), max_sites=8).sample(130, seed=3)
    rng, density = np.random.default_rng(0), np.array([s.density for s in found.structures])
    found.frame["heavy"] = 2 * density + rng.normal(scale=0.3, size=len(found))
    found.frame["light"] = rng.normal(size=len(found))
    found.frame["dense"] = np.where(found.frame["heavy"] > found.frame["heavy"].median(), "yes", "no")
    found.frame["same"] = 1.0
    found.frame["hole"] = np.where(rng.random(len(found)) < 0.5, rng.normal(size=len(found)), np.nan)
    return found


@pytest.fixture(scope="module")
def graphs(crystals): return build_graphs(crystals, GraphSettings(ATOMS, descriptors=BANK), n_jobs=1, progress=False)


def trained(name, graphs, crystals, target, settings=QUICK, **options):
    "A small network, trained for a moment"
    torch.manual_seed(0)
    targets = read_targets(crystals, target)
    more = dict(n_descriptors=len(BANK.names), joint=(32,)) if name.startswith("de-") else {}
    return train(build_model(name, n_outputs=targets.n_outputs, n_blocks=1, width=12, **more, **options), graphs, targets, split_by_seed(len(graphs), SPLIT), settings)


@pytest.fixture(scope="module")
def run(graphs, crystals): return trained("de-cgcnn", graphs, crystals, ["heavy", "light"])


# -------------------------------------------------- importance
@pytest.mark.parametrize("method", METHODS)
def test_the_descriptor_that_is_the_target_comes_first(run, graphs, crystals, method):
    table = importance(run, graphs, crystals.frame["heavy"], method, seed=1)
    assert table.feature[0] == "density" and table.kind[0] == "descriptor" and table.importance[0] > 2 * table.importance[1]
    assert table.importance.is_monotonic_decreasing and len(table) == 5 + run.model.encoder.width
    constant = table.set_index("feature").loc["same"]
    assert constant.importance == 0 and constant.spread == 0
    assert 0.4 < share_of_descriptors(table) <= 1


def test_importance_is_measured_on_test_crystals_and_is_the_same_twice(run, graphs, crystals):
    table = importance(run, graphs)
    assert (table.n_crystals == len(run.split["test"])).all() # the truth is that of the run's own table
    pd.testing.assert_frame_equal(table, importance(run, crystals, n_jobs=1), atol=1e-6, rtol=1e-3) # of crystals as of graphs, with the truth of their column
    assert not table.importance.equals(importance(run, graphs, seed=1).importance)
    few = crystals.subset([i for i in crystals.frame.index if i in set(run.split["test"])])
    assert (importance(run, few, n_jobs=1).n_crystals == len(few)).all()
    train_only = graphs.subset([k for k, i in enumerate(graphs.ids) if i in set(run.split["train"])])
    with pytest.raises(UserError, match="not learned from"): importance(run, train_only, crystals.frame["heavy"])
    renamed = CrystalSet(few.frame.set_axis([f"new {i}" for i in few.frame.index], axis=0))
    assert np.isclose(importance(run, renamed, n_jobs=1).importance[0], importance(run, few, n_jobs=1).importance[0], rtol=0.5) # crystals that are new to it


def test_permutation_is_the_growth_of_the_error_in_units(run, graphs, crystals):
    "All columns shuffled: what is left is the error of predictions of other crystals"
    block = importance(run, graphs, n_repeats=20, group=True).set_index("kind")
    alone = importance(run, graphs, n_repeats=20)
    heavy = crystals.frame["heavy"][run.split["test"]]
    mad = (heavy - heavy.mean()).abs().mean()
    assert block.importance["descriptor"] > 0.25 * mad and block.importance["descriptor"] >= alone.importance[0] - 0.05
    assert set(block.feature) == {"all descriptors", "all learned features"}
    assert block.importance["descriptor"] < 3 * mad # not in standard deviations, nor squared


def test_several_targets_are_asked_by_name(run, graphs):
    light = importance(run, graphs, target="light")
    assert light.importance[0] < 0.3 * importance(run, graphs, target="heavy").importance[0]
    with pytest.raises(UserError, match="light"): importance(run, graphs, target="lihgt")


def test_classes_are_explained_by_log_loss_and_logit(graphs, crystals):
    run = trained("de-cgcnn", graphs, crystals, "dense", replace(QUICK, epochs=12))
    for method in METHODS: assert importance(run, graphs, crystals.frame["dense"], method).feature[:2].isin(["density", "volume_per_atom"]).any(), method
    own = importance(run, crystals, method="forest", n_jobs=1) # the truth is the crystals' own column
    assert (own.n_crystals == len(run.split["train"])).all() and importance(run, graphs, target="yes").equals(importance(run, graphs))
    for target in ("no", "nonsense"):
        with pytest.raises(UserError, match="it can be 'yes'"): importance(run, graphs, target=target)


def test_one_of_many_classes_is_asked_against_the_rest(graphs, crystals):
    thirds = np.digitize(crystals.frame["heavy"], np.quantile(crystals.frame["heavy"], [0.33, 0.66]))
    some = CrystalSet(crystals.frame.assign(third=np.array(["low", "middle", "high"])[thirds]))
    run = trained("de-cgcnn", graphs, some, "third", replace(QUICK, epochs=4))
    for method in METHODS:
        one, other = (importance(run, graphs, some.frame["third"], method, target=t) for t in ("low", "high"))
        assert not one.importance.equals(other.importance) and (one.n_crystals == other.n_crystals).all(), method
    with pytest.raises(UserError, match="did you mean 'middle'"): importance(run, graphs, target="midle")


def test_the_forest_wants_the_truth_of_training_crystals(run, graphs, crystals):
    assert (importance(run, crystals, method="forest", n_jobs=1).n_crystals == len(run.split["train"])).all()
    with pytest.raises(UserError, match="training crystals"): importance(run, graphs, method="forest") # a run keeps no truth of them
    test_only = graphs.subset([k for k, i in enumerate(graphs.ids) if i in set(run.split["test"])])
    with pytest.raises(UserError, match="training crystals"): importance(run, test_only, crystals.frame["heavy"], "forest")


def test_a_run_that_knows_crystals_by_place_is_not_asked(crystals):
    from motiflab.estimators import CrystalRegressor

    few = crystals.subset(list(crystals.frame.index[:24]))
    told = CrystalRegressor("de-cgcnn", settings=dict(epochs=1), options=dict(width=8, n_blocks=1)).fit(few, few.frame["heavy"])
    for given in (few, CrystalSet(few.frame.set_axis(range(24)[::-1], axis=0))):
        with pytest.raises(UserError, match="by their place"): importance(told.model_, given, given.frame["heavy"], n_jobs=1)
    with pytest.raises(UserError, match="CrystalRegressor: take its `model_`"): importance(told, few, n_jobs=1)


def test_gradients_are_complete(run, graphs):
    batch = graphs.batch(range(20))
    with torch.no_grad(): seen = run.model.represent(batch)
    outputs = lambda x: run.model.forward_from(x)[:, 0]
    parts = gradient_parts(outputs, seen, seen.mean(0))
    with torch.no_grad(): ends = outputs(seen) - outputs(seen.mean(0)[None])
    assert torch.allclose(parts.sum(1), ends, atol=1e-3) and ends.abs().max() > 0.1
    assert torch.allclose(outputs(seen), run.model(batch)[:, 0], atol=1e-6)


def test_features_are_all_columns_once(run):
    for group in (False, True):
        columns = [c for f in representation_features(run, group) for c in f.columns]
        assert sorted(columns) == list(range(run.model.encoder.width + 2 * len(BANK.names)))
    assert sum(len(f.columns) for f in representation_features(run) if f.name == "crystal_system") == 14


def test_importance_needs_descriptors(run, graphs, crystals):
    plain = build_graphs(crystals, GraphSettings(ATOMS), n_jobs=1, progress=False)
    with pytest.raises(UserError, match="de-cgcnn"): importance(replace(run, model=build_model("cgcnn")), plain)
    with pytest.raises(UserError, match="permutation"): importance(run, graphs, method="permutations")
    with pytest.raises(UserError, match="n_repeats"): importance(run, graphs, n_repeats=0)
    with pytest.raises(UserError, match="other settings"): importance(run, plain)
    with pytest.raises(UserError, match="not a ndarray"): importance(run, graphs, crystals.frame["heavy"].to_numpy())
    with pytest.raises(UserError, match="not a str"): importance("folder", graphs)


# -------------------------------------------------- what a representation knows
def test_r2_is_that_of_crystals_held_out(run, graphs, crystals):
    known = representation_r2(run, crystals, ["density", "volume_per_atom"], n_jobs=1)
    assert known.name == "de-cgcnn" and (known <= 1).all()
    own = pd.DataFrame(pooled_vectors(run, graphs) @ np.random.default_rng(0).normal(size=(run.model.encoder.width, 1)), index=graphs.ids, columns=["own"])
    own["noise"], own["constant"] = np.random.default_rng(1).normal(size=len(own)), 3.0
    table = representation_r2(run, crystals, own, n_jobs=1)
    assert table["own"] > 0.999 and table["noise"] < 0.05 and np.isnan(table["constant"])
    assert held_out_r2(np.eye(4), np.ones(4)) != held_out_r2(np.eye(4), np.ones(4)) # a constant has none
    with pytest.raises(UserError, match="too few"): representation_r2(run, crystals.sample(10, seed=0), own["own"], n_jobs=1)
    own["sparse"] = own["own"].where(np.arange(len(own)) < 20)
    with pytest.warns(UserWarning, match="1 of 4 descriptors.*'sparse', of 20 crystals"): found = representation_r2(run, crystals, own, n_jobs=1)
    assert np.isnan(found["sparse"]) and found["own"] == table["own"]


def test_r2_of_what_is_no_table_of_these_crystals(run, graphs, crystals):
    own = pd.DataFrame(dict(own=np.arange(len(graphs)) ** 0.5), index=graphs.ids)
    for wrong, folds, said in ((own.assign(word="x"), 5, "'word' holds 'x'"), (pd.concat([own, own]), 5, "several rows"), (own.set_axis([f"z{k}" for k in range(len(own))], axis=0), 5, "such as 'z0'"), (own, 1, "folds=1")):
        with pytest.raises(UserError, match=said): representation_r2(run, crystals, wrong, folds, n_jobs=1)
    with pytest.raises(UserError, match="not a GraphSet"): representation_r2(run, graphs)


@pytest.mark.parametrize("name", ["cgcnn", "megnet", "amdnet"])
def test_a_bare_encoder_is_what_the_hybrid_would_see(name, crystals):
    torch.manual_seed(0)
    model, few = build_model(name, n_blocks=1, width=8), crystals.sample(4, seed=0)
    graphs = build_graphs(few, replace(model.graph_settings, atoms=ATOMS), n_jobs=1, progress=False)
    pooled = bare_encoder(model.eval())
    with torch.no_grad(): found, whole = pooled.encode(graphs.batch(range(4))), model.encode(graphs.batch(range(4)))
    assert found.shape[1] == pooled.width == build_model(f"de-{name}", n_blocks=1, width=8).encoder.width and found.shape != whole.shape
    weights = model.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in pooled.state_dict().items())


# -------------------------------------------------- sites
@pytest.fixture(scope="module")
def linear(crystals):
    plain = build_graphs(crystals, GraphSettings(ATOMS), n_jobs=1, progress=False)
    return trained("cgcnn", plain, crystals, ["light", "heavy"], replace(QUICK, epochs=4), readout="linear", hidden=12), plain


def test_site_energies_average_to_the_prediction(linear, crystals):
    run, plain = linear
    for target in ("light", "heavy"):
        sites = site_energies(run, crystals, target, n_jobs=1)
        mean = sites.groupby("crystal_id").contribution.mean()
        assert np.allclose(mean, run.predict(plain)[target][mean.index], atol=1e-4) and sites.contribution.std() > 1e-3
    one = crystals.frame.structure.iloc[0]
    own = sites[sites.crystal_id == crystals.frame.index[0]]
    assert own.site.tolist() == list(range(len(one))) and own.element.tolist() == [s.specie.symbol for s in one]


def test_site_energies_need_the_linear_readout_and_say_who_has_none(run, linear, crystals):
    with pytest.raises(UserError, match="de-cgcnn"): site_energies(run, crystals)
    for given in (crystals.structures.tolist(), linear[1]):
        with pytest.raises(UserError, match="have to be a CrystalSet"): site_energies(linear[0], given)
    with pytest.raises(UserError, match="readout='mean'"): site_energies(replace(run, model=build_model("cgcnn")), crystals)
    from pymatgen.core import Lattice, Structure

    shared = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    both = CrystalSet(pd.DataFrame(dict(structure=[crystals.frame.structure.iloc[0], shared]), index=["whole", "shared"]))
    with pytest.warns(UserWarning, match="1 of 2 crystals.*'shared'"): sites = site_energies(linear[0], both, n_jobs=1)
    assert set(sites.crystal_id) == {"whole"}


# -------------------------------------------------- motifs
@pytest.fixture(scope="module")
def oxides():
    found = read_crystals("matbench_dielectric", progress=False).filter(only="Ba Ca Zn Ti Si Al O".split(), max_sites=14).sample(7, seed=2)
    from pymatgen.core import Lattice, Structure

    frame = pd.concat([found.frame, pd.DataFrame(dict(structure=[Structure(Lattice.cubic(4.0), ["Ar"], [[0, 0, 0]])]), index=["<argon>"])]) # no motif
    frame["heavy"], frame["hole"] = np.arange(len(frame)) ** 2.0, np.where(np.arange(len(frame)) % 3, np.arange(len(frame)) * 0.5, np.nan)
    return CrystalSet(frame)


@pytest.fixture(scope="module")
def table(oxides): return extract_motifs(oxides, n_jobs=1, progress=False)


def motif_run(name, oxides, table, run, **options):
    "A run of a network with first weights over motifs, its outputs as wide as those of a trained one"
    told = DescriptorSettings(bank=("density",), columns=("hole",)) if name.startswith("de-") else None
    graphs = build_graphs(oxides, GraphSettings(ATOMS, MotifGraph(), descriptors=told), n_jobs=1, table=table, progress=False)
    torch.manual_seed(1)
    model = build_model(name, width=12, n_blocks=2, **options, **(dict(n_descriptors=2) if told else {}))
    model.learn_scales(graphs)
    with torch.no_grad(): model.head.weight.mul_(30)
    targets = read_targets(oxides, "heavy").info
    return replace(run, model=model.eval(), targets=targets, normaliser=replace(run.normaliser, mean=(5.0,), std=(2.0,)), facts=run.facts | dict(graphs=graphs.settings)), graphs


@pytest.mark.parametrize("name, options", [("amdnet", dict(atom="cgcnn", cross=True)), ("amdnet", dict(atom="megnet")), ("mnet", {}), ("de-amdnet", dict(atom="schnet")), ("de-mnet", {})])
def test_motif_contributions_sum_to_the_prediction(name, options, oxides, table, run):
    one, graphs = motif_run(name, oxides, table, run, **options)
    found = motif_contributions(one, oxides, table, n_jobs=1)
    c = found.crystals
    way = c.prediction - c.baseline
    assert np.allclose(c.motifs + c.atoms + c.descriptors, way, atol=2e-3 * way.abs().max()) and way.abs().max() > 5e-3
    assert np.allclose(c.prediction, one.predict(graphs)["heavy"][c.index], atol=1e-4)
    assert (c.atoms.abs().max() > 0) == ("amdnet" in name) and (c.descriptors.abs().max() > 0) == name.startswith("de-")
    assert np.allclose(found.motifs.groupby("crystal_id").contribution.sum()[c.index], c.motifs)
    assert list(found.skipped.id) == ["<argon>"] and "<argon>" not in c.index


def test_motifs_have_their_kind_and_equal_ones_equal_parts(oxides, table, run):
    found = motif_contributions(motif_run("amdnet", oxides, table, run)[0], oxides, n_jobs=1)
    kinds = table.motifs.assign(kind=table.kinds).set_index(["crystal_id", "site"]).kind
    ours = found.motifs.set_index(["crystal_id", "site"])
    assert ours.kind.sort_index().equals(kinds.loc[list(ours.index)].sort_index()) and len(ours) == len(kinds)
    by_kind = found.by_kind()
    assert np.isclose(by_kind.total.sum(), found.crystals.motifs.sum()) and by_kind.motifs.sum() == len(ours)
    assert by_kind.contribution.abs().is_monotonic_decreasing and (found.by_kind(2).crystals >= 2).all()
    with pytest.raises(UserError, match="no motif|No motif|motif"): found.of("<argon>")


def test_an_average_crystal_of_like_motifs_adds_nothing_to_itself(oxides, table, run):
    "One crystal against itself, where all motifs are alike; against others they do add"
    one, _ = motif_run("mnet", oxides, table, run)
    kinds = table.kinds.groupby(table.motifs.crystal_id).nunique()
    alike = oxides.subset([i for i in oxides.frame.index if i == kinds.index[kinds == 1][0]])
    x = build_graphs(alike, one.graph_settings, n_jobs=1, progress=False).arrays["motif_x"]
    if not torch.allclose(x, x[:1].expand_as(x), atol=1e-5): pytest.skip("its motifs are of one kind but not of one shape")
    assert motif_contributions(one, alike, n_jobs=1).motifs.contribution.abs().max() < 1e-5
    assert motif_contributions(one, alike, reference=oxides, n_jobs=1).motifs.contribution.abs().max() > 1e-4


def test_contributions_need_motifs(run, crystals, oxides):
    with pytest.raises(UserError, match="sees no motifs"): motif_contributions(run, crystals)
    with pytest.raises(UserError, match="sees no motifs"): node_entries(build_model("cgcnn"))
    one, _ = motif_run("mnet", oxides, extract_motifs(oxides, n_jobs=1, progress=False), run)
    with pytest.raises(UserError, match="None of the crystals has a motif"): motif_contributions(one, oxides.subset(["<argon>"]), n_jobs=1)
    with pytest.raises(UserError, match="None of the reference crystals has a motif"): motif_contributions(one, oxides, reference=oxides.subset(["<argon>"]), n_jobs=1)
    with pytest.raises(UserError, match="have to be a CrystalSet"): motif_contributions(one, oxides.structures.tolist())
    with pytest.raises(UserError, match="n_steps"): motif_contributions(one, oxides, n_steps=0)


@pytest.mark.parametrize("rule", [dict(centers="all"), dict(centers=["Ti"])])
def test_a_table_of_another_rule_is_refused(rule, oxides, table, run):
    one, _ = motif_run("mnet", oxides, table, run)
    with pytest.raises(UserError, match="another rule.*centers='cations'"): motif_contributions(one, oxides, extract_motifs(oxides, n_jobs=1, progress=False, **rule), n_jobs=1)


# -------------------------------------------------- figures and the atlas
def test_figures_show_what_the_tables_hold(run, graphs, crystals):
    tables = {m: importance(run, graphs, crystals.frame["heavy"], m) for m in METHODS}
    figure = importance_figure(tables)
    drawn = sorted(v for t in figure.data[:2] for v in t.y)
    assert np.allclose(drawn, sorted(tables["permutation"].importance[:9])) and len(figure.data) == 6
    assert share_figure({m: share_of_descriptors(t) for m, t in tables.items()}).data[0].y[2] == share_of_descriptors(tables["forest"])
    assert r2_figure({"<b>a</b>": pd.Series(dict(x=0.5))}).data[0].name == "&lt;b&gt;a&lt;/b&gt;"
    for empty in (lambda: importance_figure({}), lambda: r2_figure({}), lambda: share_figure({})):
        with pytest.raises(UserError): empty()


def test_polyhedra_have_the_colour_of_their_contribution(oxides, table, run):
    found = motif_contributions(motif_run("mnet", oxides, table, run)[0], oxides, table, n_jobs=1)
    which = found.motifs.groupby("crystal_id").contribution.agg(np.ptp).idxmax()
    figure, own = contribution_crystal(found, oxides, which), found.of(which)
    solid = {t.name: t.color for t in figure.data if t.type == "mesh3d" and "site" in (t.name or "")}
    assert len(solid) == len(own) and len(set(solid.values())) > 1
    end = solid[next(n for n in solid if f"site {own.abs().idxmax()}:" in n)]
    assert end == ("#b3261e" if own[own.abs().idxmax()] > 0 else "#1f5fb4") and figure.data[-1].marker.cmax == own.abs().max()
    assert contribution_words(found) == "contribution to heavy"
    with pytest.raises(UserError, match="nowhere"): contribution_crystal(found, oxides, "nowhere")


def test_the_atlas_is_coloured_by_numbers_of_ones_own(tmp_path, table):
    kinds = sorted(set(table.kinds))
    vectors = pd.DataFrame(np.random.default_rng(0).normal(size=(len(kinds), 3)), index=kinds)
    data = atlas_data(table, vectors, projection="pca")
    assert data.add_columns(pd.DataFrame({"<i>gain</i>": [1.0, -3.0], "only up": [1.0, 2.0]}, index=kinds[:2])) == ["<i>gain</i>", "only up"]
    signed, up = coloring_of(data, "<i>gain</i>"), coloring_of(data, "only up")
    assert signed.scale[0] == -signed.scale[1] and up.scale[0] >= 1 and signed.ramp != up.ramp and signed.colors.count("#b4bac3") == len(kinds) - 2
    for wrong, said in ((pd.Series(dict(x=1.0)), "None of"), (pd.Series({kinds[0]: "much"}), "no numbers"), ([1, 2], "Series"), (pd.Series([1.0, 2.0], index=kinds[:1] * 2), "several rows"),
                        (pd.DataFrame(dict(full=[1.0, 2.0], hollow=[np.nan, 3.0]), index=[kinds[0], "Foo|X:3"]), "'hollow' has no number")):
        with pytest.raises(UserError, match=said): data.add_columns(wrong)
    from motiflab.html import atlas_page

    page = atlas_page(data)
    assert "<i>gain</i>" not in page and "i\\u003egain" in page


def test_columns_on_the_command_line(tmp_path, capsys):
    file, page = tmp_path / "gain.csv", tmp_path / "atlas.html"
    file.write_text("kind,gain\nZn|T:4,-1.5\nSi|T:4,0.5\n")
    assert motiflab(["atlas", "-o", str(page), "--method", "pca", "--columns", str(file)]) == 0 and '"gain"' in page.read_text()
    file.write_text("kind,gain\nZn|T:4,-1.5\nFoo|X:3,2\nBar,3\n")
    capsys.readouterr()
    assert motiflab(["atlas", "-o", str(page), "--method", "pca", "--columns", str(file)]) == 0 and "2 of 3 kinds of the columns are not on this map" in capsys.readouterr().err
    file.write_text("motif,gain\nZn|T:4,-1.5\n")
    assert motiflab(["atlas", "-o", str(page), "--method", "pca", "--columns", str(file)]) == 2 and "column `kind`" in capsys.readouterr().err
