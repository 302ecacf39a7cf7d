"""Calibrated quantiles: the correction against a loop, coverage on fresh values, and what predict writes."""

from types import SimpleNamespace
from zlib import crc32

import anndata as ad
import numpy as np
import pytest

from flagst import FLAG
from flagst._keys import prediction_layers, quantile_part
from flagst.metrics import share_below
from flagst.sampling import quantiles
from flagst.sampling.quantiles import calibrate_intervals, sample_quantiles

N_SIDE, N_GENES = 14, 6
N_SPOTS = N_SIDE**2


class Sampler:
    """Stands in for a section's sampler: its samples are narrower than the truth, and off by a constant."""

    n_genes = N_GENES

    def __init__(self, *, width=0.6, bias=0.3, centre=5.0, seed=0, name="A"):
        rng = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(np.arange(N_SIDE), np.arange(N_SIDE)), -1).reshape(-1, 2) * 100.0
        self.mean = centre + rng.normal(size=(N_SPOTS, N_GENES))
        self.sd = np.linspace(0.5, 2.0, N_GENES)
        self.width, self.bias = width, bias
        self.section = SimpleNamespace(name=name, coords=grid, target=self.truth(rng))

    def truth(self, rng):
        """Measured values, clipped at zero."""
        return np.clip(self.mean + self.sd * rng.normal(size=self.mean.shape), 0, None).astype(np.float32)

    def samples(self, n_samples, seed):
        rng = np.random.default_rng([crc32(str(seed).encode()), n_samples])
        noise = self.width * self.sd * rng.normal(size=(n_samples, *self.mean.shape))
        return np.clip(self.mean + self.bias + noise, 0, None).astype(np.float32)

    def whole(self):
        """The section as one part: itself."""
        return self

    def resampled(self, n_states, n_noises, seed):
        """Here nothing is shared between the samples of a state."""
        yield from self.samples(n_states * n_noises, seed)


def calibrated(sampler, rows=None):
    return calibrate_intervals([(sampler, np.arange(N_SPOTS) if rows is None else rows)])


def test_the_correction_is_the_conformal_one(monkeypatch):
    """Without shrinkage: a loop over genes, with the quantile at rank (n + 1) q counted by hand."""
    monkeypatch.setattr(quantiles, "SHRINKAGE_SPOTS", 0)
    sampler = Sampler()
    found = calibrated(sampler)
    samples = np.stack(list(sampler.whole().resampled(quantiles.N_STATES, quantiles.N_NOISES, "intervals")))
    assert len(samples) == 50
    for level, rank in ((0.05, int(0.05 * (N_SPOTS + 1))), (0.9, int(np.ceil(0.9 * (N_SPOTS + 1))))):
        row = int(np.flatnonzero(np.isclose(found.levels, level))[0])
        for gene in range(N_GENES):
            ordered = np.sort(samples[:, :, gene], axis=0)
            place = level * (len(samples) + 1) - 1  # the k-th of n samples is the quantile k / (n + 1)
            low = int(place)
            curve = ordered[low] + (place - low) * (ordered[low + 1] - ordered[low])
            unit = np.sqrt(np.mean([np.var(samples[:, s, gene], ddof=1) for s in range(N_SPOTS)]))
            scores = np.sort((sampler.section.target[:, gene] - curve) / unit)
            assert found.shift[row, gene] == pytest.approx(scores[rank - 1], abs=2e-3)


def test_shrinkage_is_a_weighted_mean_with_the_pooled_correction(monkeypatch):
    shifts = {}
    for spots in (0, 60, 10**12):
        monkeypatch.setattr(quantiles, "SHRINKAGE_SPOTS", spots)
        shifts[spots] = calibrated(Sampler()).shift
    assert np.ptp(shifts[10**12], axis=1).max() < 1e-5  # one correction for all genes
    weight = N_SPOTS / (N_SPOTS + 60)
    np.testing.assert_allclose(shifts[60], weight * shifts[0] + (1 - weight) * shifts[10**12], atol=1e-4)


@pytest.mark.parametrize("width", [0.4, 0.8, 1.5])
def test_intervals_cover_fresh_values(width):
    """Too narrow, nearly right, too wide; always biased."""
    sampler, rows = Sampler(width=width), np.arange(N_SPOTS)
    found = calibrate_intervals([(Sampler(width=width, seed=s), rows) for s in range(1, 6)])
    fresh = np.stack([sampler.truth(np.random.default_rng(seed)) for seed in range(100, 110)])
    levels = (0.05, 0.25, 0.5, 0.95)
    raw = sample_quantiles(sampler.samples(50, 5), levels)
    moved = found.move(sampler.samples(50, 5), levels)
    for level, after in zip(levels, moved, strict=True):
        assert (fresh <= after).mean() == pytest.approx(level, abs=0.025)
    inside = ((fresh >= moved[0]) & (fresh <= moved[-1])).mean(axis=(0, 1))
    assert (np.abs(inside - 0.9) < 0.06).all()
    assert abs(((fresh >= raw[0]) & (fresh <= raw[-1])).mean() - 0.9) > 0.05


def test_what_is_reported_is_what_happens():
    """The check over blocks is as good as fresh values; before it, narrow samples cover too little."""
    found = calibrated(Sampler(width=0.5))
    record = found.record((0.05, 0.95))
    assert record["calibrated"] and record["levels"] == [0.05, 0.95] and record["n_spots"] == N_SPOTS
    np.testing.assert_allclose(record["share_after"], (0.05, 0.95), atol=0.02)
    assert record["share_before"][1] - record["share_before"][0] < 0.75
    assert record["interval_after"] == pytest.approx(0.9, abs=0.03) and record["interval_before"] < 0.75


def test_zeros_stay_zeros_where_the_samples_are_right():
    """Half of the values are clipped: a bound of zero covers them, and nothing is moved away from it."""
    sampler = Sampler(width=1.0, bias=0.0, centre=0.0)
    found = calibrated(sampler)
    samples = sampler.samples(50, 9)
    raw, moved = sample_quantiles(samples, (0.05, 0.95)), found.move(samples, (0.05, 0.95))
    assert (moved[0] == 0).mean() == pytest.approx((raw[0] == 0).mean(), abs=0.05)
    fresh = np.stack([sampler.truth(np.random.default_rng(seed)) for seed in range(100, 110)])
    curve = found.move(samples, found.levels)
    shares = np.mean([share_below(curve, found.levels, values)[1] for values in fresh], axis=0)
    np.testing.assert_allclose(shares, found.levels, atol=0.03)
    row = int(np.flatnonzero(np.isclose(found.levels, 0.5))[0])
    below, by_lot, at_or_below = found.before[:, row]
    # half of the measurements are tied with a median of zero
    assert below < 0.3 and at_or_below > 0.6 and by_lot == pytest.approx(0.5, abs=0.03)


def test_quantiles_never_cross_and_keep_their_order():
    sampler = Sampler(width=0.5, bias=1.0)
    found, samples = calibrated(sampler), sampler.samples(30, 1)
    levels = (0.9, 0.05, 0.5, 0.06)
    moved = found.move(samples, levels)
    ordered = moved[np.argsort(levels)]
    assert (np.diff(ordered, axis=0) >= 0).all() and moved.dtype == np.float32 and moved.min() >= 0
    np.testing.assert_allclose(moved[2], found.move(samples, (0.5,))[0], atol=1e-5)


def test_equal_samples_stay_unmodified():
    sampler = Sampler(width=0.0)
    moved = calibrated(sampler).move(sampler.samples(20, 0), (0.05, 0.95))
    np.testing.assert_allclose(moved, np.broadcast_to(sampler.samples(1, 0), moved.shape), atol=1e-4)


def test_large_sections_are_thinned(monkeypatch):
    monkeypatch.setattr(quantiles, "MAX_SAMPLE_VALUES", 100 * N_GENES * quantiles.N_STATES * quantiles.N_NOISES)
    assert calibrated(Sampler()).n_spots == 98


def test_of_many_sections_one_spot_each_is_enough(monkeypatch):
    monkeypatch.setattr(quantiles, "MAX_SAMPLE_VALUES", 3 * N_GENES * quantiles.N_STATES * quantiles.N_NOISES)
    parts = [(Sampler(seed=i, name=name), np.arange(N_SPOTS)) for i, name in enumerate("ABC")]
    assert calibrate_intervals(parts).n_spots == 3


def test_sections_are_counted_once_whatever_they_were_held_out_in():
    rows = np.arange(N_SPOTS)
    one, two = Sampler(), Sampler(seed=1, name="B")
    for parts, sections, blocks in (
        ([(one, rows[k::4]) for k in range(4)], 1, 4),
        ([(p, rows[k::4]) for p in (one, two) for k in range(4)], 2, 8),
        ([(one, rows), (two, rows)], 2, 2),
    ):
        found = calibrate_intervals(parts)
        assert (found.n_sections, found.n_blocks) == (sections, blocks)
        assert found.n_spots == sections * N_SPOTS
        record = found.record((0.05, 0.95))
        assert [record[f"n_{name}"] for name in ("sections", "blocks", "spots")] == [
            sections, blocks, sections * N_SPOTS
        ]  # fmt: skip


def test_quantiles_are_calibrated_with_the_noise_scale_that_predictions_have(make, monkeypatch):
    from flagst.model import flag

    seen = []
    monkeypatch.setattr(flag, "calibrate_intervals", lambda parts: seen.extend(parts) or calibrate_intervals(parts))
    model = make.model(make.table())
    model.train(**make.QUICK | {"max_epochs": 1})
    assert len(seen) == 3 and model.intervals_ is not None
    for sampler, _ in seen:
        assert sampler.fitted is model.fitted_


def test_names_of_quantiles():
    found = [quantile_part(q) for q in (0.05, 0.95, 0.5, 0.025, 0.975, 0.1)]
    assert found == ["q05", "q95", "q50", "q025", "q975", "q10"]
    assert prediction_layers("x", (0.05,)) == {"mean": "x_mean", "std": "x_std", "q05": "x_q05"}


def test_predict_writes_quantiles_and_nothing_else_changes(trained, query):
    alone = trained.predict(query.copy(), layer="p")
    trained.predict(query, layer="p", n_samples=25, quantiles=(0.05, 0.95))
    for name in ("p", "p_mean"):
        np.testing.assert_array_equal(query.layers[name], alone.layers[name])
    assert {k for k in query.layers if k is not None} == {"p", "p_mean", "p_q05", "p_q95"}
    low, high = query.layers["p_q05"], query.layers["p_q95"]
    assert low.dtype == high.dtype == np.float32 and low.shape == query.shape
    assert (low >= 0).all() and (low <= high).all() and (high - low).mean() > 0.1
    record = query.uns["flagst"]["calibration"]["p"]
    assert record["calibrated"] and record["n_sections"] == record["n_blocks"] == 3 and record["n_spots"] == 120
    samples = trained.sample(query, 25)
    rows = (query.obs["section"] == "Y").to_numpy()
    expected = trained.intervals_.move(samples[:, rows], (0.05, 0.95))
    np.testing.assert_array_equal(high[rows], expected[1])


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_quantiles_survive_files_and_reloading(trained, query, tmp_path, kind):
    trained.predict(query, n_samples=20, quantiles=(0.05, 0.95))
    trained.save(str(tmp_path / "model"))
    again = FLAG.load(str(tmp_path / "model")).predict(query.copy(), n_samples=20, quantiles=(0.05, 0.95))
    np.testing.assert_array_equal(again.layers["flagst_q95"], query.layers["flagst_q95"])
    path = tmp_path / f"predicted.{kind}"
    getattr(query, f"write_{kind}")(path)
    found = getattr(ad, f"read_{kind}")(path)
    np.testing.assert_array_equal(found.layers["flagst_q05"], query.layers["flagst_q05"])
    stored, written = (t.uns["flagst"]["calibration"]["flagst"] for t in (found, query))
    for key, value in written.items():
        np.testing.assert_array_equal(stored[key], value)


def test_training_twice_calibrates_alike(make, trained):
    model = make.model(make.table())
    model.train(**make.QUICK)
    np.testing.assert_array_equal(model.intervals_.shift, trained.intervals_.shift)


def test_without_held_out_tissue_a_warning_says_so(make, query):
    model = make.model(make.table(), diffusion=False, cross_fit=False)
    model.train()
    assert model.intervals_ is None
    with pytest.warns(UserWarning, match="not calibrated: nothing was held out"):
        model.predict(query, n_samples=20, quantiles=(0.5,))
    assert query.uns["flagst"]["calibration"]["flagst"] == {"calibrated": False, "levels": [0.5]}
    np.testing.assert_allclose(query.layers["flagst_q50"], np.median(model.sample(query, 20), axis=0), atol=1e-5)


def test_bad_requests(trained, query):
    with pytest.raises(ValueError, match="quantiles must lie between 0 and 1"):
        trained.predict(query, n_samples=50, quantiles=(0.0, 0.95))
    with pytest.raises(ValueError, match="n_samples of at least 20; got 1. Pass n_samples=50"):
        trained.predict(query, quantiles=(0.05, 0.95))
    with pytest.raises(ValueError, match=r"calibrated from 0.01 to 0.99; got \[0.001\]"):
        trained.predict(query, n_samples=50, quantiles=(0.001, 0.5))
    assert "flagst" not in query.layers


def test_three_sections_are_checked_by_leaving_each_out():
    rows = np.arange(N_SPOTS)
    parts = [
        (Sampler(seed=i, name=name, bias=bias), rows)
        for i, (name, bias) in enumerate(zip("ABC", (0, 0.3, 1), strict=True))
    ]
    found, moved = calibrate_intervals(parts), []
    for number, (sampler, _) in enumerate(parts):
        others = calibrate_intervals([part for i, part in enumerate(parts) if i != number])
        samples = np.stack(list(sampler.whole().resampled(quantiles.N_STATES, quantiles.N_NOISES, "intervals")))
        moved.append(others.move(samples, found.levels))
    measured = np.concatenate([sampler.section.target for sampler, _ in parts])
    expected = share_below(np.concatenate(moved, axis=1), found.levels, measured)
    np.testing.assert_allclose(found.after, expected, atol=1e-6)
