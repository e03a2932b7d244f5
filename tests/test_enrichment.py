"""Odds ratios and exact tests against other people's."""
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, fisher_exact

from motiflab.enrichment import enrichment, fisher_greater, odds_ratio


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    n = 400
    return pd.DataFrame(dict(element=rng.choice(["Ti", "Zn", "Mg"], n), symbol=rng.choice(["O:6", "T:4"], n), weight=1,
                             corner=rng.random(n) < .7, edge=rng.random(n) < .3, face=False, isolated=rng.random(n) < .05))


def test_agrees_with_scipy(rows):
    selected = (rows.element == "Ti").to_numpy() & (np.arange(400) < 300)
    found = enrichment(rows, selected)
    for r in found.itertuples():
        has = rows[r.feature].to_numpy() if r.group == "connection" else (rows[dict(element="element", geometry="symbol")[r.group]] == r.feature).to_numpy()
        table = [[(has & selected).sum(), (~has & selected).sum()], [(has & ~selected).sum(), (~has & ~selected).sum()]]
        assert (r.inside, r.overall) == (table[0][0], has.sum())
        assert r.p == pytest.approx(fisher_exact(table, "greater")[1], rel=1e-6)
        a, b, c, d = np.ravel(table) + 0.5
        assert r.odds_ratio == pytest.approx(a * d / b / c)
    assert np.allclose(found.q, false_discovery_control(found.p)) and found.feature[0] == "Ti"


def test_everything_and_nothing(rows):
    assert len(enrichment(rows, np.zeros(400, bool))) == 0
    whole = enrichment(rows, np.ones(400, bool))
    assert (whole.p == 1).all() and (whole.q == 1).all()
    with pytest.raises(ValueError, match="one for each"): enrichment(rows, [True])


def test_weights_are_repeated_rows(rows):
    selected = np.arange(400) % 7 == 0
    weighted = enrichment(rows.assign(weight=3), selected)
    repeated = enrichment(pd.concat([rows] * 3), np.tile(selected, 3))
    pd.testing.assert_frame_equal(weighted, repeated)


def test_a_random_selection_is_rarely_enriched(rows):
    rng = np.random.default_rng(0)
    hits = [(enrichment(rows, rng.random(400) < 0.2).q < 0.05).any() for _ in range(100)]
    assert np.mean(hits) < 0.12


def test_extremes_stay_finite():
    assert np.isfinite(odds_ratio([0, 5], 5, [0, 5], 10)).all() and 0 <= fisher_greater([5], 5, [5], 10)[0] <= 1
