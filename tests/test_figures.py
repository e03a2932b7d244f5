"Figures hold the numbers that they should, live, as a page and as a picture; curves follow a training wherever it is watched"
from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image
from pymatgen.core import Lattice, Structure

from motiflab.crystalset import CrystalSet
from motiflab.curves import VIEWS, LiveCurves, curves, status
from motiflab.errors import UserError
from motiflab.figures import (bootstrap_interval, calibration, crystal_elements, crystal_sizes, element_errors, error_by_element, error_by_range, error_by_size, frame_scores, model_figures,
                              outcomes, parity, roc)
from motiflab.pictures import COLORS, INK, Picture, label, layout, pictures_page, still, write_html

BAD = "</script><img src=x onerror=alert(1)>"


def predicted(n: int = 50, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    true = rng.uniform(1, 5, n)
    return pd.DataFrame(dict(true=true, predicted=true + rng.normal(0, 0.3, n), uncertainty=0.3), index=pd.Index([f"mp-{i}" for i in range(n)], name="id"))


def history(n: int, score: str = "validation_mae") -> pd.DataFrame:
    e = np.arange(n)
    return pd.DataFrame({"epoch": e, "loss": np.exp(-e / 5.), "validation_loss": 0.3 + np.exp(-e / 4.), score: np.abs(e - 6) / 10 + 0.4, "seconds": 2.0})


def pixels(picture: Picture) -> np.ndarray: # (height, width, 4)
    return np.asarray(Image.open(io.BytesIO(picture.png())).convert("RGBA"))


def says(picture: Picture) -> str: return " | ".join([picture.layout.title.text or "", *(a.text for a in picture.layout.annotations)])


# ---------------------------------------------------------------- parity
def test_parity_shows_each_crystal_and_the_scores_of_all():
    frame = predicted()
    figure, error = parity(frame, "band gap", "eV"), (frame.predicted - frame.true).abs().mean()
    diagonal, points = figure.data
    assert sorted(points.text) == sorted(frame.index) and all(frame.loc[i, "true"] == x and frame.loc[i, "predicted"] == y for i, x, y in zip(points.text, points.x, points.y))
    assert f"MAE {error:.3g} eV" in says(figure) and "50 crystals" in says(figure) and "not predicted" not in says(figure)
    assert tuple(figure.layout.xaxis.range) == tuple(figure.layout.yaxis.range) == tuple(diagonal.x) == tuple(diagonal.y) and figure.layout.yaxis.scaleanchor == "x"
    assert min(diagonal.x) < frame.drop(columns="uncertainty").min().min() and max(diagonal.x) > frame.drop(columns="uncertainty").max().max()
    assert "true %{x" in points.hovertemplate and figure.layout.xaxis.title.text == "true band gap (eV)"


def test_the_crowd_is_hot():
    frame = pd.DataFrame(dict(true=[*np.full(40, 1.0), 5.0], predicted=[*np.linspace(0.99, 1.01, 40), 3.0]), index=range(41))
    points = parity(frame).data[1]
    heat = dict(zip(points.text, points.marker.color))
    assert heat["40"] == min(heat.values()) == 0 and heat["20"] > 0.9 and points.text[-1] != "40"


def test_parity_counts_those_without_a_number():
    frame = predicted()
    frame.iloc[:3, 1], frame.iloc[3, 0], frame.iloc[4, 1] = np.nan, np.nan, np.inf
    figure, scores = parity(frame), frame_scores(frame)
    assert (scores["n"], scores["without"]) == (45, 4) and "45 crystals<br>4 not predicted" in says(figure) and len(figure.data[1].x) == 45


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_crystal(n):
    figure = parity(predicted(3)[:n])
    assert len(figure.data[1].x) == n and f"{n} crystals" in says(figure) and figure.layout.xaxis.range[0] < figure.layout.xaxis.range[1]
    assert pixels(figure)[..., 3].any()


def test_several_panels_have_one_range_and_their_names():
    frames = {"megnet": predicted(), "<b>amdnet</b>": predicted(seed=1), "c": predicted(seed=2), "d": predicted(seed=3)}
    figure = parity(frames)
    assert len(figure.data) == 8 and len({tuple(figure.layout[f"{w}axis{k}"].range) for w in "xy" for k in ("", 2, 3, 4)}) == 1
    assert "megnet" in says(figure) and "&lt;b&gt;amdnet" in says(figure)
    boxes = [(*figure.layout[f"xaxis{k}"].domain, *figure.layout[f"yaxis{k}"].domain) for k in ("", 2, 3, 4)]
    assert all(a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2] for k, a in enumerate(boxes) for b in boxes[k + 1:])


def test_many_points_go_to_webgl():
    assert parity(predicted(3001)).data[1].type == "scattergl" and parity(predicted(3000)).data[1].type == "scatter"


@pytest.mark.parametrize("draw, words", [(lambda: parity({}), "no table of predictions"), (lambda: parity(pd.DataFrame(dict(true=[1.]))), "needs the column 'predicted'; it has true"),
                                         (lambda: parity(dict(a=predicted(), b=pd.DataFrame())), r"\(b\) needs the column 'true'; it has none"),
                                         (lambda: calibration(predicted().drop(columns="uncertainty")), "needs the column 'uncertainty'"), (lambda: error_by_range(predicted(), [1, 1]), "rising edges")])
def test_tables_that_do_not_fit(draw, words):
    with pytest.raises(UserError, match=words): draw()


# ---------------------------------------------------------------- errors by size, element, range
@pytest.fixture(scope="module")
def few(): # four crystals with known errors
    cells = [Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [.5, .5, .5]]), Structure(Lattice.cubic(4.1), ["Cs", "Br"], [[0, 0, 0], [.5, .5, .5]]),
             Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], [[0, 0, 0], [.5, .5, .5], [.5, .5, 0], [.5, 0, .5], [0, .5, .5]]), Structure(Lattice.cubic(3), ["Po"], [[0, 0, 0]])]
    crystals = CrystalSet(pd.DataFrame(dict(structure=cells), index=["a", "b", "c", "d"]))
    return crystals, pd.DataFrame(dict(true=[1., 2, 3, 4], predicted=[1.1, 2.3, 2.0, np.nan]), index=crystals.frame.index)


def test_errors_of_elements(few):
    crystals, frame = few
    table = element_errors(frame, crystal_elements(crystals))
    assert table.loc["Cs"].tolist() == pytest.approx([0.2, 2]) and table.loc["O"].tolist() == pytest.approx([1, 1]) and table.index[0] == "Cs" and "Po" not in table.index # not predicted
    cells, others = error_by_element(frame, crystal_elements(crystals), "eV").data
    z = np.asarray(cells.z, float)
    assert z[5, 0] == pytest.approx(0.2) and z[1, 15] == pytest.approx(1.0) and np.isfinite(z).sum() == 6 # Cs in the sixth row, O in the second
    assert "<b>Cs</b><br>MAE 0.2 eV<br>2 crystals" in np.asarray(cells.customdata).ravel() and {"Po", "H", "U"} <= set(others.text) and "Cs" not in others.text and len(others.text) == 103 - 6


def test_elements_beyond_the_table_and_none_at_all(few):
    crystals, frame = few
    elements = crystal_elements(crystals).copy()
    elements["a"] = {"Cs", "Og"}
    assert np.isfinite(np.asarray(error_by_element(frame, elements).data[0].z, float)).sum() == 5 # Cl is gone, Og has no place
    only = error_by_element(frame[:1], elements[:1])
    assert pixels(only)[..., 3].any() and "Cs<br>0.10" in np.asarray(only.data[0].text).ravel()


def test_nothing_predicted_is_said_not_raised(few):
    crystals, frame = few
    nothing = frame.assign(predicted=np.nan)
    with pytest.raises(UserError, match="predicted"): error_by_element(nothing, crystal_elements(crystals))
    with pytest.raises(UserError, match="predicted"): error_by_size(nothing, crystal_sizes(crystals))


def test_errors_of_sizes(few):
    crystals, frame = few
    assert crystal_sizes(crystals).to_dict() == dict(a=2, b=2, c=5, d=1)
    box, means = error_by_size(frame, crystal_sizes(crystals)).data
    assert np.allclose(means.y, [0.2, 1.0]) and np.allclose(box.median, [0.2, 1.0])
    with pytest.raises(UserError, match="number of atoms of every crystal"): error_by_size(frame, crystal_sizes(crystals)[1:])


def test_sizes_share_all_crystals():
    frame = predicted(300)
    sizes = pd.Series(np.random.default_rng(0).integers(1, 80, 300), index=frame.index)
    figure = error_by_size(frame, sizes)
    counts = [int(w.split("<br>")[1]) for w in figure.layout.xaxis.ticktext]
    assert sum(counts) == 300 and 5 <= len(counts) <= 8 and min(counts) > 20
    assert np.average(figure.data[1].y, weights=counts) == pytest.approx((frame.predicted - frame.true).abs().mean())


def test_errors_of_ranges():
    frame = pd.DataFrame(dict(true=[0, 0.5, 1, 3, 9.], predicted=[0.2, 0.9, 1.5, 3, 8.]))
    figure = error_by_range({"a": frame, "b": frame.iloc[:3]}, [0, 1, 2, np.inf], "gap", "eV")
    a, b = figure.data
    assert np.allclose(a.y, [0.3, 0.5, 0.5]) and np.allclose(b.y[:2], [0.3, 0.5]) and np.isnan(b.y[2]) and list(a.customdata) == [2, 1, 2]
    assert list(figure.layout.xaxis.ticktext) == ["0–1<br>2", "1–2<br>1", "over 2<br>2/0"]
    assert a.y[0] - a.error_y.arrayminus[0] >= 0.2 - 1e-9 and a.y[0] + a.error_y.array[0] <= 0.4 + 1e-9
    pixels(figure)


def test_bootstrap_covers_and_repeats():
    errors = np.abs(np.random.default_rng(0).normal(size=400))
    low, high = bootstrap_interval(errors)
    assert low < errors.mean() < high and (low, high) == bootstrap_interval(errors) != bootstrap_interval(errors, seed=1)
    assert high - low == pytest.approx(2 * 1.96 * errors.std() / 20, rel=0.15)


# ---------------------------------------------------------------- classes, calibration
def test_roc_has_the_area_of_scikit_learn():
    from sklearn.metrics import roc_auc_score
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 80).astype(float)
    frame = pd.DataFrame(dict(true=true, predicted=np.clip(0.5 + 0.3 * (true - 0.5) + rng.normal(0, 0.3, 80), 0, 1)))
    figure = roc({"a": frame, "b": frame.assign(predicted=true)}, "<metal>")
    assert f"AUC {roc_auc_score(true, frame.predicted):.3f}, 80 crystals" in figure.data[1].name and "AUC 1.000" in figure.data[3].name
    cut = figure.data[2]
    assert (cut.x[0], cut.y[0]) == (((frame.predicted >= .5) & (true == 0)).sum() / (true == 0).sum(), ((frame.predicted >= .5) & (true == 1)).sum() / true.sum())
    assert "&lt;metal&gt;" in figure.layout.xaxis.title.text and "<metal>" not in figure.layout.xaxis.title.text
    with pytest.raises(UserError, match="both classes; all 80"): roc(frame.assign(true=1.0))


def test_calibration_counts_who_lies_within():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(dict(true=rng.normal(size=4000), predicted=0.0, uncertainty=1.0))
    honest, bold = calibration({"honest": frame, "bold": frame.assign(uncertainty=0.5)}).data[1:]
    assert np.abs(np.array(honest.y) - honest.x).max() < 0.03 and (np.array(bold.y) < np.array(bold.x)).all()
    assert re.fullmatch(r"honest off by 0\.0\d\d, 4,000 crystals", honest.name)


def run_like(task="regression", classes=(), names=("n",), **columns) -> SimpleNamespace:
    "What figures see of a run"
    ids = [f"c{i}" for i in range(len(next(iter(columns.values()))))]
    table = pd.DataFrame(dict(split="test", **columns), index=pd.Index(ids, name="id"))
    return SimpleNamespace(predictions=table, history=history(5), targets=SimpleNamespace(task=task, classes=classes, names=names, units=tuple("eV" for _ in names)))


def test_figures_of_a_run_with_two_targets(few):
    crystals, frame = few
    crystals = CrystalSet(crystals.frame.set_axis([f"c{i}" for i in range(4)]))
    run = run_like(names=("x", "y"), x=frame.true.to_numpy(), x_predicted=frame.predicted.to_numpy(), x_uncertainty=np.full(4, .1), y=np.full(4, np.nan), y_predicted=np.ones(4), y_uncertainty=np.ones(4))
    assert [len(model_figures(run, c)) for c in (None, crystals)] == [3, 5] # curves; parity, calibration; size, elements; nothing of y, which is not known
    assert model_figures(run)[0].layout.yaxis2.title.text == "validation MAE (standard deviations)"


def test_figures_of_classes():
    two = run_like("classification", ("<= 1", "> 1"), ("gap",), gap=["<= 1", "> 1", "> 1", None], gap_predicted=[.2, .9, .4, .5], gap_uncertainty=[.1] * 4)
    frame = outcomes(two.predictions, "gap", positive="> 1")
    assert frame.true.tolist()[:3] == [0, 1, 1] and np.isnan(frame.true.iloc[3]) and len(model_figures(two)) == 2
    assert "&gt; 1" in model_figures(two)[1].layout.yaxis.title.text
    one = run_like("classification", ("a", "b"), ("k",), k=["a", "a"], k_predicted=[.2, .3], k_uncertainty=[.1] * 2)
    three = run_like("classification", ("a", "b", "c"), ("k",), k=["a", "b"], k_predicted=["a", "c"], k_uncertainty=[.1] * 2)
    assert len(model_figures(one)) == len(model_figures(three)) == 1 # the curves alone: no ROC of one class or of three


def test_outcomes_name_the_near_miss():
    run = run_like(n=[1., 2], n_predicted=[1., 2], n_uncertainty=[.1, .1])
    assert list(outcomes(run.predictions, "n")) == ["true", "predicted", "uncertainty"]
    with pytest.raises(UserError, match="no target 'm': there is 'n'"): outcomes(run.predictions, "m")
    with pytest.raises(UserError, match="test"): outcomes(run.predictions, "n", "tests")


# ---------------------------------------------------------------- pictures
def test_names_are_text():
    frame = predicted(2).set_axis([BAD, "b$x$"])
    figure = parity({BAD: frame}, BAD, BAD, label(BAD))
    assert figure.data[1].text[0].startswith("&lt;/script&gt;") or figure.data[1].text[1].startswith("&lt;/script&gt;")
    assert "<img" not in str(figure.to_dict()) and "<img" not in str(curves(history(3), BAD).to_dict())
    page = pictures_page([figure], BAD, BAD)
    assert "<img src=x" not in page.replace("&lt;", "") and page.count("</script>") == 3 # of the figure, plotly and the page
    pixels(figure) # dollars are no formula
    assert label("a" * 80).endswith("…") and len(label("a" * 80)) == 60 and label(" a \n b ") == "a b"


def test_a_still_shows_what_the_live_figure_shows():
    seen = pixels(parity(predicted()))
    assert seen.shape[:2] == (460, 860) and seen[0, 0, 3] in (0, 255)
    red, green, blue = (seen[..., k].astype(int) for k in range(3))
    assert ((red > 180) & (green < 130) & (blue < 130)).sum() > 20 # the crowd
    assert ((abs(red - green) < 20) & (abs(green - blue) < 30) & (red < 160)).sum() > 500 # words and axes
    empty = pixels(parity(predicted()[:0]))
    assert (seen[..., :3] != empty[..., :3]).any(-1).sum() > 1500


@pytest.mark.parametrize("draw", [lambda: curves(history(30), "eV"), lambda: curves(history(0)), lambda: calibration(predicted()), lambda: error_by_range(predicted(), [1, 2, 5]),
                                  lambda: error_by_size(predicted(), {f"mp-{i}": i % 9 + 1 for i in range(50)}), lambda: error_by_element(predicted(), {f"mp-{i}": ["O"] for i in range(50)}),
                                  lambda: roc(predicted().assign(true=lambda f: f.true > 3))], ids=["curves", "empty", "calibration", "range", "size", "element", "roc"])
def test_stills_are_not_blank(draw):
    seen = pixels(draw())
    assert seen.shape[1] == 860 and (seen[..., :3] != seen[0, 0, :3]).any(-1).sum() > 1000


def test_a_logarithmic_still_has_plain_numbers():
    ax = still(curves(history(10))).axes
    assert ax[0].get_yscale() == "log" and ax[1].get_yscale() == "linear"
    ax[0].figure.canvas.draw()
    said = [t.get_text() for t in ax[0].get_yticklabels()]
    assert {"0.2", "0.5", "1"} <= set(said)


def test_a_still_of_something_else_is_refused():
    with pytest.raises(UserError, match="draw 'pie'"): still(go.Figure(go.Pie(values=[1, 2])))


def test_a_notebook_gets_both():
    bundle = parity(predicted(3))._repr_mimebundle_()
    seen = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert seen.convert("RGBA").getpixel((0, 0))[3] == 0 # for pages of any colour
    assert set(bundle) == {"application/vnd.plotly.v1+json", "image/png", "text/plain"}
    json.dumps(bundle["application/vnd.plotly.v1+json"], allow_nan=False)
    assert bundle["text/plain"] == "Picture: untitled, 2 traces"


def test_files(tmp_path):
    figure = parity(predicted(5))
    page = write_html([figure, figure], tmp_path / "a.html", "Two").read_text(encoding="utf-8")
    assert page.count('class="card"') == 2 and "<h1>Two</h1>" in page and not re.search(r'(src|href)="?(http|//)', page.partition("</main>")[0])
    assert figure.write_png(tmp_path / "a.png", 400).stat().st_size > 5000 and Image.open(tmp_path / "a.png").size == (400, 460)
    with pytest.raises(UserError, match="no folder"): write_html(figure, tmp_path / "no/a.html")
    with pytest.raises(UserError, match="is a folder"): write_html(figure, tmp_path)


def test_words_are_seen_on_white_and_on_black():
    light = lambda c: sum(w * (p / 12.92 if p <= .04045 else ((p + .055) / 1.055) ** 2.4) for w, p in zip((.2126, .7152, .0722), (int(c[i:i + 2], 16) / 255 for i in (1, 3, 5))))
    for ground, least in (("#ffffff", 4), ("#111111", 4)):
        a, b = sorted((light(INK), light(ground)))
        assert (b + .05) / (a + .05) > least
    assert layout()["paper_bgcolor"] == "rgba(0,0,0,0)" and len(set(COLORS)) == len(COLORS)


# ---------------------------------------------------------------- curves
def test_curves_mark_the_best():
    figure = curves(history(12), "eV", "t")
    loss, validation, score, best = figure.data
    assert (best.x[0], best.y[0]) == (6, 0.4) and list(score.x) == list(range(12)) and list(loss.y) == history(12).loss.tolist()
    assert figure.layout.yaxis.type == "log" and figure.layout.yaxis2.type is None and figure.layout.yaxis2.title.text == "validation MAE (eV)"
    accuracy = curves(history(12, "validation_accuracy"))
    assert accuracy.data[3].x[0] == 0 and "accuracy" in accuracy.layout.yaxis2.title.text # 1.0 at first, the highest


def test_curves_of_gaps_and_of_nothing():
    some = history(4)
    some.loc[:1, "validation_mae"] = np.nan
    assert curves(some).data[3].x[0] == 3 and len(curves(some.assign(validation_mae=np.nan)).data[3].x) == 0
    assert len(curves(some.drop(columns="validation_mae")).data[2].x) == 4


def test_status_says_how_far_and_how_long():
    said = status(history(8), 20, "eV")
    assert said.startswith("8 of 20 epochs · loss ") and "validation MAE 0.5 eV, best 0.4 at epoch 6" in said and said.endswith("at most 24 s to go")
    assert status(history(20), 20).startswith("20 of 20 epochs") and "to go" not in status(history(20), 20)
    assert status(history(0), 20) == "0 of 20 epochs"
    assert status(history(8).assign(seconds=60.), 20).endswith("12 min to go") and status(history(8).assign(seconds=3600.), 20).endswith("12.0 h to go")


class Training:
    "What a callback sees of a training"
    def __init__(self, epochs=6, task="regression", names=("gap",), units=("eV",)):
        self.trainer = SimpleNamespace(is_global_zero=True, world_size=1, num_training_batches=4, fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(completed=2)))))
        self.module = SimpleNamespace(settings=SimpleNamespace(epochs=epochs), data=SimpleNamespace(targets=SimpleNamespace(task=task, names=names, units=units)), progress=SimpleNamespace(history=[]))

    def go(self, watch, start=0, stop=6, error=None, later=lambda: None):
        self.module.progress.history = history(start).to_dict("records")
        watch.on_train_start(self.trainer, self.module)
        for k in range(start, stop):
            later()
            watch.on_train_batch_end(self.trainer, self.module)
            self.module.progress.history = history(k + 1).to_dict("records")
            watch.on_train_epoch_end(self.trainer, self.module)
        if error is None: watch.on_train_end(self.trainer, self.module)
        else: watch.on_exception(self.trainer, self.module, error)


@pytest.fixture
def shown(monkeypatch): # what was displayed
    import IPython.display
    found = []
    class Handle:
        def update(self, what): found.append(what)
    monkeypatch.setattr(IPython.display, "display", lambda what, **_: (found.append(what), Handle())[1])
    return found


def clock(monkeypatch, step: float):
    "A clock that goes only when told to"
    now = [100.0]
    monkeypatch.setattr("motiflab.curves.time", SimpleNamespace(monotonic=lambda: now[0]))
    def later(): now[0] += step
    return later


def last_view(kind, monkeypatch):
    "Watch with a view that is kept"
    made = []
    monkeypatch.setitem(VIEWS, kind, lambda *a, make=VIEWS[kind]: (made.append(make(*a)), made[-1])[1])
    return LiveCurves(kind), made


def test_a_widget_follows_the_epochs(shown, monkeypatch):
    watch, made = last_view("widget", monkeypatch)
    Training().go(watch, later=clock(monkeypatch, 1))
    view = made[0]
    assert len(shown) == 1 and view.box is shown[0] and list(view.figure.data[2].x) == list(range(6)) and list(view.figure.data[0].y) == history(6).loss.tolist()
    assert view.bar.value == 6 and view.bar.bar_style == "success" and "6 of 6 epochs" in view.words.value and watch.view is None
    assert view.figure.layout.yaxis2.title.text == "validation MAE (eV)"


def test_a_widget_steps_within_an_epoch_and_is_drawn_at_most_twice_a_second(shown, monkeypatch):
    watch, made = last_view("widget", monkeypatch)
    training, later = Training(), clock(monkeypatch, 0.1)
    later(), later(), later(), later()
    watch.on_train_start(training.trainer, training.module)
    watch.on_train_batch_end(training.trainer, training.module)
    assert made[0].bar.value == 0.5 # two of four batches
    for k in (1, 2, 3):
        later()
        training.module.progress.history = history(k).to_dict("records")
        watch.on_train_epoch_end(training.trainer, training.module)
    assert len(made[0].figure.data[0].x) == 0 and made[0].words.value.startswith("<span>3 of 6") # words are always new
    watch.on_train_end(training.trainer, training.module)
    assert len(made[0].figure.data[0].x) == 3 and made[0].bar.value == 6 # stopped early: done all the same


def test_a_resumed_training_begins_where_it_stood(shown, monkeypatch):
    watch, made = last_view("widget", monkeypatch)
    training = Training()
    training.module.progress.history = history(4).to_dict("records")
    watch.on_train_start(training.trainer, training.module)
    assert made[0].bar.value == 4 and list(made[0].figure.data[0].x) == [0, 1, 2, 3]


def test_a_failure_is_seen(shown, monkeypatch):
    watch, made = last_view("widget", monkeypatch)
    Training().go(watch, 0, 2, ValueError("NaN"))
    assert made[0].bar.bar_style == "danger" and made[0].bar.value == 2 and len(made[0].figure.data[0].x) == 2
    watch, made = last_view("widget", monkeypatch)
    Training().go(watch, 0, 0, KeyboardInterrupt()) # before the first epoch
    assert made[0].bar.bar_style == "danger" and made[0].bar.value == 0 and watch.view is None


def test_a_picture_where_there_are_no_widgets(shown, monkeypatch):
    Training(epochs=20).go(LiveCurves("still"), 0, 20, later=clock(monkeypatch, 1.1))
    assert len(shown) == 7 and all(isinstance(p, Picture) for p in shown) and list(shown[-1].data[0].x) == list(range(20))
    assert shown[-1].layout.title.text.startswith("20 of 20 epochs") and len(shown[0].data[0].x) < 10


def test_lines_in_a_file(capsys, monkeypatch):
    Training(epochs=12).go(LiveCurves("line"), 0, 12, later=clock(monkeypatch, 11))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and lines[-1].startswith("12 of 12 epochs") and len(set(lines)) == len(lines) and all("epochs · loss" in l and "\x1b" not in l for l in lines)


def test_lines_of_a_failure_and_of_a_finished_training(capsys):
    Training().go(LiveCurves("line"), 0, 2, ValueError("NaN"))
    assert capsys.readouterr().err.splitlines() == [status(history(2), 6, "eV")]
    Training().go(LiveCurves("line"), 0, 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("training, unit", [(Training(), " (eV)"), (Training(names=("a", "b"), units=("eV", "")), " (standard deviations)"), (Training(task="classification", units=("",)), ""), (Training(units=()), "")])
def test_the_unit_of_the_score(training, unit, shown, monkeypatch):
    watch, made = last_view("widget", monkeypatch)
    training.go(watch, 0, 0)
    said = made[0].figure.layout.yaxis2.title.text
    assert said == ("validation MAE" if training.module.data.targets.task == "regression" else "validation accuracy") + unit


def test_one_process_speaks():
    training, watch = Training(), LiveCurves("widget")
    training.trainer.is_global_zero = False
    training.go(watch)
    assert watch.view is None


def test_several_processes_have_no_widgets(capsys):
    training = Training()
    training.trainer.world_size = 2
    training.go(LiveCurves("widget"))
    assert "6 of 6 epochs" in capsys.readouterr().err


def test_show_is_checked_and_a_callback_can_travel():
    import pickle
    with pytest.raises(UserError, match="'widget'"): LiveCurves("widgets")
    watch = LiveCurves()
    watch.view = lambda: None
    assert pickle.loads(pickle.dumps(watch)).view is None


def test_no_lightning_for_a_figure():
    code = "import sys; import motiflab.figures, motiflab.pictures; assert not {'lightning', 'torch', 'matplotlib', 'pymatgen'} & set(sys.modules), {'lightning', 'torch', 'matplotlib', 'pymatgen'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
