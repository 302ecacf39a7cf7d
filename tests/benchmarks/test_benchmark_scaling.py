"""Cost of a prediction against spots and genes."""

import numpy as np
import pytest
import scaling


def test_slopes_are_those_of_the_logarithms():
    assert scaling.slope([10, 100, 1000], [3, 30, 300]) == pytest.approx(1)
    assert scaling.slope([1, 2, 4], [1, 4, 16]) == pytest.approx(2)
    assert np.isnan(scaling.slope([10], [3]))


def test_spots_lie_on_a_hex_grid():
    from scipy.spatial import cKDTree

    grid = scaling.hex_grid(400)
    distances = cKDTree(grid).query(grid, k=7)[0][:, 1:]
    inside = (grid > 150).all(axis=1) & (grid < grid.max(axis=0) - 150).all(axis=1)
    np.testing.assert_allclose(distances[inside], scaling.PITCH)
    assert len(np.unique(grid, axis=0)) == 400


def test_the_table_has_both_slopes():
    records = [
        {
            "spots": s,
            "genes": g,
            "threads": 2,
            "seconds": s / 1000 * (g / 10) ** 2,
            "peak_mb": s**0.5,
            "more_mb": g,
            "written_mib": s * g * 8 / 1024**2,
        }
        for s, g in ((1000, 10), (10_000, 10), (10_000, 100))
    ]
    predictions, slopes, archive = (
        [line.split() for line in t.splitlines()] for t in scaling.prediction_tables(records)
    )
    assert predictions[1:] == [
        ["1,000", "10", "1.0", "1.00", "32", "10", "0"],
        ["10,000", "10", "10.0", "1.00", "100", "10", "1"],
        ["10,000", "100", "1000.0", "100.00", "100", "100", "8"],
    ]
    found = {name: [abs(float(cell)) for cell in cells] for name, *cells in slopes[1:]}
    assert found == {"spots": [1.0, 0.5, 0.0], "genes": [2.0, 0.0, 1.0]}
    # 200 million spots at 1 ms of two threads, 100 of them with ten times the genes; 8 bytes for every number
    assert archive[1:] == [["10", "111", "0.0"], ["100", "11,111", "0.1"]]


def test_schedules_are_compared_with_the_published_one(monkeypatch):
    calls = []

    class Model:
        def sample(self, query, n_samples):
            calls.append((query.n_obs, n_samples))

    made = []
    monkeypatch.setattr(scaling, "trained", lambda n_genes, **settings: made.append(settings) or Model())
    found = scaling.schedules()
    assert [(name, n) for name, n, _ in found] == [
        ("gene tokens, published", 1608), ("gene tokens, 20 evaluations", 20), ("latent, 20 evaluations (default)", 20),
    ]  # fmt: skip
    assert calls == 7 * [(180, 1)] and made[0]["solver"] == "heun" and "denoiser" not in made[2]
    lines = scaling.schedule_table([("published", 1608, 1500.0), ("ours", 20, 20.0)]).splitlines()
    assert lines[1].split() == ["published", "1,608", "1.5e+03", "1", "times"]
    assert lines[2].split() == ["ours", "20", "20", "75", "times"]


@pytest.mark.slow
@pytest.mark.skipif(not scaling.Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.filterwarnings("ignore")
def test_a_small_run():
    [training], [record] = scaling.measure([150], [6], threads=1, max_steps=2)
    assert (record["spots"], record["genes"], training["genes"]) == (150, 6, 6)
    assert record["seconds"] > 0 and record["peak_mb"] > record["more_mb"] > 0
    assert training["seconds"] > 0 and training["peak_mb"] > 100 and record["written_mib"] > 150 * 6 * 4 / 1024**2
    assert scaling.training_table([training]).splitlines()[1].split()[:2] == ["702", "6"]
