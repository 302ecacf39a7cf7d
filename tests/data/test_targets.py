"""Targets: values, dtypes, untouched input, errors."""

import numpy as np
import pytest
import scipy.sparse as sp

from flagst.data.targets import TARGETS, to_target

COUNTS = np.array([[0, 1, 3], [7, 0, 15]], dtype=np.int64)
TOTALS = np.array([100, 1000])


def test_values():
    np.testing.assert_allclose(to_target(COUNTS, None, "log2"), [[0, 1, 2], [3, 0, 4]])
    np.testing.assert_allclose(
        to_target(COUNTS, TOTALS, "lognorm"), np.log1p(COUNTS / TOTALS[:, None] * 1e4), rtol=1e-6
    )
    np.testing.assert_array_equal(to_target(COUNTS - 5.5, None, "identity"), COUNTS - 5.5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("container", [np.asarray, np.float32, sp.csr_matrix, sp.csc_array])
def test_container_does_not_matter_and_is_not_changed(target, container):
    counts = container(COUNTS)
    result = to_target(counts, TOTALS, target)
    assert isinstance(result, np.ndarray) and result.dtype == np.float32
    np.testing.assert_allclose(result, to_target(COUNTS, TOTALS, target))
    result[:] = -1
    np.testing.assert_array_equal(counts.toarray() if sp.issparse(counts) else counts, COUNTS)


def test_errors():
    with pytest.raises(ValueError, match="target must be one of .*'raw'"):
        to_target(COUNTS, TOTALS, "raw")
    with pytest.raises(ValueError, match="needs total_counts"):
        to_target(COUNTS, None, "lognorm")
    with pytest.raises(ValueError, match=r"must be \(2,\).*got shape \(3,\)"):
        to_target(COUNTS, np.ones(3), "lognorm")
    with pytest.raises(ValueError, match="1 of 2 spots are not, first at row 1"):
        to_target(COUNTS, np.array([10, 0]), "lognorm")
    with pytest.raises(ValueError, match="smaller than the sum.*1 of 2"):
        to_target(COUNTS, np.array([100, 21]), "lognorm")
    with pytest.raises(ValueError, match="negative values.*raw counts"):
        to_target(-COUNTS, TOTALS, "log2")
    with pytest.raises(ValueError, match="NaN"):
        to_target(COUNTS * np.nan, TOTALS, "identity")
    with pytest.raises(ValueError, match="n_spots, n_genes"):
        to_target(COUNTS[0], TOTALS, "log2")
