"""Principal axes with a fixed sign."""

import numpy as np

#: With more columns than this, and fewer rows than columns, the rows x rows matrix is decomposed: columns x columns
#: would not fit in memory.
WIDE = 5000


def principal_axes(values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``(n, d)`` leading axes of centred ``values`` and the ``(n,)`` standard deviations along them.

    Examples
    --------
    >>> from flagst.regression import principal_axes
    >>> axes, sd = principal_axes(np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 1)
    >>> axes, sd.round(3)
    (array([[1., 0.]]), array([2.121]))
    """
    by_rows = len(values) < values.shape[1] and values.shape[1] > WIDE
    products = values @ values.T if by_rows else values.T @ values
    variance, axes = np.linalg.eigh(products / len(values))
    keep = np.argsort(-variance)[:n]
    keep = keep[variance[keep] > 1e-10 * variance.max()]
    axes = axes[:, keep].T
    if by_rows:
        axes = axes @ values / np.sqrt(len(values) * variance[keep])[:, None]
    # eigenvectors have no sign of their own: fix it, or two machines disagree
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return axes * signs[:, None], np.sqrt(variance[keep])
