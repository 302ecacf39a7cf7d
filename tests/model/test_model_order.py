"""structure="auto": the smallest structure with the order of the training sections, without a look at the query."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest

from flagst import FLAG
from flagst.data.graph import moran_graph
from flagst.model.order import STRUCTURES, TrainingOrder

N_SIDE, N_GENES = 12, 20


def by_hand(values, coords):
    """Mean Moran's I and mean absolute correlation, loop by loop."""
    graph = moran_graph(coords, "square").toarray()
    morans = []
    for gene in values.T.astype(float):
        z = gene - gene.mean()
        morans.append(len(z) / graph.sum() * (z @ graph @ z) / (z @ z))
    correlation = np.corrcoef(values.T.astype(float))
    strength = [abs(correlation[i, j]) for i in range(len(correlation)) for j in range(i)]
    return np.mean(morans), np.mean(strength)


class Predictor:
    """A smooth mean shared by all genes, and independent noise: order falls as the structure grows."""

    def __init__(self, seed=0, noise=1.0):
        rng = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(np.arange(N_SIDE), np.arange(N_SIDE)), -1).reshape(-1, 2) * 100.0
        self.mean = 5 + np.sin(grid[:, :1] / 300) * np.linspace(0.5, 1.5, N_GENES)
        self.noise = noise * rng.normal(size=self.mean.shape)
        self.section = Sized(coords=grid, layout="square", target=self.mean + 0.6 * self.noise)

    def along(self, structures, n_draws, seed):
        for structure in structures:
            yield structure, (self.mean + structure * self.noise)[None]


class Sized(SimpleNamespace):
    def __len__(self):
        return len(self.coords)


def test_what_is_kept_of_the_training_sections():
    sections = [Predictor(seed).section for seed in range(3)]
    found = np.array([by_hand(s.target, s.coords) for s in sections])
    order = TrainingOrder.fit(sections)
    np.testing.assert_allclose([order.moran["square"], order.correlation], found.mean(axis=0), atol=1e-6)
    expected = np.maximum(found.std(axis=0, ddof=1), 0.02)
    tolerances = [order.moran_tolerance["square"], order.correlation_tolerance]
    np.testing.assert_allclose(tolerances, expected, atol=1e-6)


def test_the_smallest_structure_that_is_as_ordered():
    """Measured sections are the mean plus 0.6 of the noise: so much is needed, less only by the tolerance."""
    order = TrainingOrder.fit([Predictor(seed).section for seed in range(3)])
    query = Predictor(seed=9)
    chosen = order.choose([query], seed=0)
    assert chosen in STRUCTURES and 0.4 <= chosen <= 0.7
    for structure, values in query.along(STRUCTURES, 1, 0):
        moran, strength = by_hand(values[0], query.section.coords)
        fits = moran <= order.moran["square"] + order.moran_tolerance["square"]
        fits &= strength <= order.correlation + order.correlation_tolerance
        if structure == chosen:
            assert fits
            break
        assert not fits


def test_moran_is_compared_with_sections_of_the_same_layout(caplog):
    """Rough training sections of another layout change nothing; alone, they leave the correlation to compare."""
    square = [Predictor(seed).section for seed in range(3)]
    rough = [Predictor(seed, noise=4.0).section for seed in range(3, 6)]
    for section in rough:
        section.layout = "hex"
    alone, both, other = (TrainingOrder.fit(sections) for sections in (square, square + rough, rough))
    assert both.moran["square"] == alone.moran["square"] != both.moran["hex"]
    assert both.moran_tolerance["square"] == alone.moran_tolerance["square"]
    query = Predictor(seed=9)
    for limit in (both, other):  # of Moran's I alone
        object.__setattr__(limit, "correlation", 1.0)
    assert both.choose([query], 0) == alone.choose([query], 0) and not caplog.records
    assert other.choose([query], 0) == 0.0
    assert "training sections of the same layout; there are none of ['square']" in caplog.text


def test_draws_that_stay_too_ordered_are_taken_whole():
    order = TrainingOrder.fit([Predictor(seed).section for seed in range(3)])
    assert order.choose([Predictor(seed=9, noise=0.1)], seed=0) == 1.0


def test_sections_are_averaged_and_tiny_ones_left_out():
    order = TrainingOrder.fit([Predictor(seed).section for seed in range(3)])
    tiny = Predictor()
    tiny.section = Sized(coords=tiny.section.coords[:5], layout="square")
    usual = Predictor(seed=9)
    assert order.choose([usual, tiny], 0) == order.choose([usual], 0)
    with pytest.raises(ValueError, match="section of at least 10 spots"):
        order.choose([tiny], 0)


@pytest.fixture(scope="module")
def model(make):
    """No diffusion: noise of the residual's covariance is as good for this."""
    made = make.model(make.table(n_genes=12), diffusion=False)
    made.train()
    return made


def test_predict_records_one_value_and_writes_that_prediction(model, make):
    query = make.table(names=("X", "Y"), n_genes=12, seed=7)
    model.predict(query, structure="auto", seed=4)
    chosen = query.uns["flagst"]["params"]["structure"]
    assert type(chosen) is float and 0 <= chosen <= 1
    again = model.predict(query.copy(), structure=chosen, seed=4)
    np.testing.assert_array_equal(again.layers["flagst"], query.layers["flagst"])
    rows = [(query.obs["section"] == name).to_numpy() for name in ("X", "Y")]
    found = [by_hand(query.layers["flagst"][r], 0.5 * query.obsm["spatial"][r]) for r in rows]
    moran, strength = np.mean(found, axis=0)
    order = model.order_
    as_ordered = moran <= order.moran["square"] + order.moran_tolerance["square"]
    assert chosen == 1 or (as_ordered and strength <= order.correlation + order.correlation_tolerance)


def test_the_expression_of_the_query_is_not_read(model, make, tmp_path):
    query = make.table(names=("X", "Y"), n_genes=12, seed=7)
    shuffled, blind = query.copy(), ad.AnnData(obs=query.obs, var=query.var, obsm=dict(query.obsm))
    blind.uns["flagst"] = query.uns["flagst"]
    shuffled.X = shuffled.X[np.random.default_rng(0).permutation(query.n_obs)]
    model.save(str(tmp_path / "model"))
    layers = []
    for table in (query, shuffled, blind):
        FLAG.load(str(tmp_path / "model")).predict(table, structure="auto")
        layers.append(table.layers["flagst"])
    for other in layers[1:]:
        np.testing.assert_array_equal(other, layers[0])


def test_other_words_are_refused(model, query):
    with pytest.raises(ValueError, match="structure must be between 0 and 1; got automatic"):
        model.predict(query, structure="automatic")
