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
    lines = scaling.table(records).splitlines()
    assert lines[2:5] == [
        "| 1,000 | 10 | 1.0 | 1.00 | 32 | 10 | 0 |",
        "| 10,000 | 10 | 10.0 | 1.00 | 100 | 10 | 1 |",
        "| 10,000 | 100 | 1000.0 | 100.00 | 100 | 100 | 8 |",
    ]
    found = [[abs(float(cell)) for cell in line.split("|")[2:-1]] for line in lines[8:10]]
    assert found == [[1.0, 0.5, 0.0], [2.0, 0.0, 1.0]] and lines[8].startswith("| spots")
    # 200 million spots at 1 ms of two threads, 100 of them with ten times the genes; 8 bytes for every number
    assert lines[-2:] == ["| 10 | 111 | 0.0 |", "| 100 | 11,111 | 0.1 |"]


@pytest.mark.slow
@pytest.mark.skipif(not scaling.Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.filterwarnings("ignore")
def test_a_small_run():
    [training], [record] = scaling.measure([150], [6], threads=1, max_steps=2)
    assert (record["spots"], record["genes"], training["genes"]) == (150, 6, 6)
    assert record["seconds"] > 0 and record["peak_mb"] > record["more_mb"] > 0
    assert training["seconds"] > 0 and training["peak_mb"] > 100 and record["written_mib"] > 150 * 6 * 4 / 1024**2
    assert "| 702 | 6 |" in scaling.training_table([training])
