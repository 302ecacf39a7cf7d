"""Principal axes with a fixed sign."""

import numpy as np


def principal_axes(values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``(n, d)`` leading axes of centred ``values`` and the ``(n,)`` standard deviations along them."""
    variance, axes = np.linalg.eigh(values.T @ values / len(values))
    keep = np.argsort(-variance)[:n]
    keep = keep[variance[keep] > 1e-10 * variance.max()]
    axes = axes[:, keep].T
    # eigenvectors have no sign of their own: fix it, or two machines disagree
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return axes * signs[:, None], np.sqrt(variance[keep])
