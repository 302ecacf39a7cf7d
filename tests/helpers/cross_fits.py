"""Cross-fitted predictions by scikit-learn, fold by fold."""

import numpy as np
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.preprocessing import KernelCenterer


def slow_cross_fit(design, target, folds, alpha):
    """Ridge regression, ``(n_spots, n_genes)``."""
    out = np.zeros_like(target)
    for fold in np.unique(folds):
        test = folds == fold
        fitted = Ridge(alpha=alpha).fit(design[~test], target[~test])
        out[test] = fitted.predict(design[test]).reshape(test.sum(), -1)
    return out


def slow_kernel_cross_fit(gram, target, folds, alpha):
    """Kernel ridge; the mean of the training spots is subtracted, in feature space and from the target."""
    out = np.zeros_like(target)
    for fold in np.unique(folds):
        test = folds == fold
        centre, offset = KernelCenterer(), target[~test].mean(axis=0)
        own = centre.fit_transform(gram[np.ix_(~test, ~test)])
        fitted = KernelRidge(alpha=alpha, kernel="precomputed").fit(own, target[~test] - offset)
        out[test] = fitted.predict(centre.transform(gram[np.ix_(test, ~test)])) + offset
    return out
