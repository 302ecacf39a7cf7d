"""The benchmark of out-of-distribution scores: the rows that it prints."""

import numpy as np
import out_of_distribution


def test_rows_are_auroc_and_share_above_one():
    row = out_of_distribution.row_of("other", np.array([0.2, 0.5, 1.2]), np.array([0.4, 1.1, 1.5, 2.0]))
    # of 12 pairs the other spot is further away in 9: not (0.4, 0.5), (0.4, 1.2), (1.1, 1.2)
    assert row == ("other", "0.750", "0.750")
