"Crystals as scikit-learn takes them: contract, cross-validation, pipelines, folders"
import json

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from motiflab.crystals import read_crystals
from motiflab.errors import UserError
from motiflab.estimators import CrystalClassifier, CrystalRegressor, as_array
from motiflab.graphs import AtomGraph, GraphSettings

COMMON = "Li Na K Mg Ca Sr Ba Al Si Zn O S F Cl P".split()
TINY = dict(model="megnet", options=dict(width=16, n_blocks=1), settings=dict(epochs=10, batch_size=8, learning_rate=1e-2, accelerator="cpu"), graphs=GraphSettings(AtomGraph(neighbors=None, cutoff=4.0)))
SHORT = TINY | dict(settings=TINY["settings"] | dict(epochs=2)) # where nothing depends on how well it learned
pytestmark = pytest.mark.filterwarnings("ignore::motiflab.runs.UnseenElements")


@pytest.fixture(scope="module")
def crystals(): return read_crystals("matbench_dielectric", progress=False).filter(only=COMMON, max_sites=8).sample(60, seed=3)


@pytest.fixture(scope="module")
def y(crystals): return np.log(crystals.frame["n"].to_numpy())


@pytest.fixture(scope="module")
def fitted(crystals, y): return CrystalRegressor(**TINY).fit(crystals, y)


def test_parameters_are_as_scikit_learn_wants_them():
    made = CrystalRegressor(**TINY, n_members=2, seed=4)
    copy = clone(made)
    assert copy is not made and copy.get_params(deep=False) == made.get_params(deep=False) and not hasattr(copy, "model_")
    assert copy.set_params(seed=7).seed == 7 and is_regressor(made) and is_classifier(CrystalClassifier())
    with pytest.raises(ValueError): made.set_params(sed=1)
    with pytest.raises(NotFittedError): made.predict([])


def test_all_ways_to_give_crystals_are_the_same(crystals, fitted):
    wanted = fitted.predict(crystals)
    assert wanted.shape == (60,) and np.isfinite(wanted).all()
    for given in (crystals.structures, crystals.frame, list(crystals.structures), as_array(crystals)): assert np.array_equal(fitted.predict(given), wanted)
    back = fitted.predict(list(crystals.structures)[::-1])[::-1]
    assert np.allclose(back, wanted, atol=1e-5)


def test_it_learns(crystals, y, fitted):
    assert fitted.score(crystals, y) > 0.2 > CrystalRegressor(**TINY | dict(settings=dict(epochs=1, learning_rate=1e-6))).fit(crystals, y).score(crystals, y)
    value, spread = fitted.predict(crystals, return_std=True)
    assert value.shape == spread.shape and (spread > 0).all()


def test_fitting_is_repeatable_and_leaves_numpys_numbers_alone(crystals, y, fitted):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    assert np.array_equal(clone(fitted).fit(crystals, y).predict(crystals), fitted.predict(crystals))
    assert (np.random.get_state()[1] == before).all()
    assert not np.array_equal(clone(fitted).set_params(seed=1).fit(crystals, y).predict(crystals), fitted.predict(crystals))


@pytest.mark.parametrize("form", ["list", "series", "array"])
def test_cross_validation(crystals, y, form):
    X = dict(list=list(crystals.structures), series=crystals.structures, array=as_array(crystals))[form]
    scores = cross_val_score(CrystalRegressor(**SHORT), X, y, cv=2, error_score="raise")
    assert scores.shape == (2,) and np.isfinite(scores).all()


def test_folds_are_cut_by_place(crystals, y):
    guess = cross_val_predict(CrystalRegressor(**SHORT), crystals.structures, y, cv=2)
    half = CrystalRegressor(**SHORT).fit(crystals.structures.iloc[30:], y[30:]).predict(crystals.structures.iloc[:30])
    assert np.allclose(guess[:30], half, atol=1e-6)


def test_pipeline_and_search(crystals, y):
    shrink = FunctionTransformer(lambda X: [s.get_primitive_structure() for s in X])
    line = Pipeline([("primitive", shrink), ("network", CrystalRegressor(**SHORT))])
    assert line.fit(list(crystals.structures), y).predict(list(crystals.structures)).shape == (60,)
    found = GridSearchCV(line, {"network__settings": [dict(TINY["settings"], epochs=e) for e in (1, 3)]}, cv=2).fit(list(crystals.structures), y)
    assert found.best_params_["network__settings"]["epochs"] in (1, 3) and clone(line).get_params()["network__model"] == "megnet"


def test_classifier(crystals, y):
    kinds = np.where(y > np.median(y), "high", "low")
    found = CrystalClassifier(**TINY).fit(crystals, kinds)
    p, guess = found.predict_proba(crystals), found.predict(crystals)
    assert found.classes_.tolist() == ["high", "low"] and np.allclose(p.sum(1), 1) and (guess == found.classes_[p.argmax(1)]).all()
    assert np.isclose(found.score(crystals, kinds), (guess == kinds).mean()) and found.score(crystals, kinds) > 0.6
    scores = cross_val_score(CrystalClassifier(**SHORT), crystals.structures, y > np.median(y), cv=2, scoring="roc_auc", error_score="raise")
    assert np.isfinite(scores).all()
    three = np.digitize(y, np.quantile(y, [0.33, 0.66]))
    assert CrystalClassifier(**SHORT).fit(crystals, three).predict_proba(crystals).shape == (60, 3)


def test_several_targets_with_gaps(crystals, y):
    both = np.stack([y, np.where(np.arange(60) % 3 == 0, np.nan, -y)], 1)
    found = CrystalRegressor(**SHORT, n_members=2).fit(crystals, both)
    assert found.predict(crystals).shape == (60, 2) and found.predict(crystals, return_std=True)[1].shape == (60, 2)
    assert np.isfinite(found.score(crystals, both)) and len(found.model_) == 2


@pytest.mark.parametrize("n_members", [1, 2])
def test_a_folder_holds_all(crystals, y, tmp_path, n_members):
    kinds = y > np.median(y)
    for kind, known in ((CrystalRegressor, y), (CrystalClassifier, kinds)):
        made = kind(**SHORT, n_members=n_members).fit(crystals, known)
        again = kind.load(made.save(tmp_path / kind.__name__))
        assert np.array_equal(again.predict(crystals), made.predict(crystals)) and again.seed == made.seed and again.get_params()["model"] == "megnet"
        assert {f.suffix for f in (tmp_path / kind.__name__).rglob("*") if f.is_file()} <= {".json", ".csv", ".safetensors"}
    with pytest.raises(UserError, match="holds a CrystalRegressor, not a CrystalClassifier"): CrystalClassifier.load(tmp_path / "CrystalRegressor")
    content = json.loads((tmp_path / "CrystalRegressor" / "estimator.json").read_text())
    (tmp_path / "CrystalRegressor" / "estimator.json").write_text(json.dumps(content | dict(params=dict(content["params"], seed=1))))
    with pytest.raises(UserError, match="estimator.json is damaged"): CrystalRegressor.load(tmp_path / "CrystalRegressor")


def test_a_crystal_that_is_no_graph(crystals, y, fitted):
    broken = Structure(Lattice.cubic(4), ["Na", "Na"], [[0, 0, 0], [0.001, 0, 0]])
    given = [*crystals.structures.iloc[:5], broken]
    with pytest.warns(UserWarning, match="1 of 6 crystals became no graph .* number 5"): found = fitted.predict(given)
    assert np.isnan(found).tolist() == [False] * 5 + [True]
    with pytest.warns(UserWarning): assert np.isclose(fitted.score(given, np.r_[y[:5], 1.0]), fitted.score(given[:5], y[:5]))
    with pytest.warns(UserWarning):
        assert np.isfinite(CrystalRegressor(**SHORT).fit([*crystals.structures, broken], np.r_[y, 0.5]).predict(crystals)).all()


@pytest.mark.parametrize("X, words", [("one", "One crystal is given"), ([1, 2], "one of them is a int"), ([], "There is no crystal"), (pd.DataFrame(dict(a=[1])), "column `structure`")])
def test_what_is_no_crystal(crystals, fitted, X, words):
    with pytest.raises(UserError, match=words): fitted.predict(crystals.structures.iloc[0] if isinstance(X, str) else X)


@pytest.mark.parametrize("change, words", [(dict(model="megnett"), "did you mean 'megnet'"), (dict(recipe="quik"), "did you mean 'quick'"), (dict(settings=dict(epoch=3)), "did you mean 'epochs'"),
                                           (dict(options=dict(widht=3)), "did you mean 'width'"), (dict(validation_fraction=1.5), "between 0 and 1"), (dict(graphs=dict(atom={})), "did you mean 'atoms'"), (dict(n_members=0), "n_members=0")])
def test_impossible_parameters_are_said_when_fitting(crystals, y, change, words):
    with pytest.raises(UserError, match=words): CrystalRegressor(**TINY | change).fit(crystals, y)


def test_targets_that_do_not_fit(crystals, y):
    with pytest.raises(UserError, match="60 crystals but 50 targets"): CrystalRegressor(**TINY).fit(crystals, y[:50])
    with pytest.raises(UserError, match="nothing to learn"): CrystalRegressor(**TINY).fit(crystals, np.ones(60))
    with pytest.raises(UserError, match="training set has 2 crystals"): CrystalRegressor(**TINY).fit(crystals.structures.iloc[:3], y[:3])
    with pytest.raises(UserError, match="one column, not 2"): CrystalClassifier(**TINY).fit(crystals, np.ones((60, 2)))
