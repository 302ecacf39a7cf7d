"""What is fitted before any gradient step: the regression mean, the latent basis, Moran's I of the genes."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flagst.data.graph import MORAN_NEIGHBOURS, knn
from flagst.data.sections import Section, stack_targets
from flagst.data.windows import pad_columns
from flagst.metrics import per_gene_pcc
from flagst.regression import LatentBasis, RegressionStage, neighbour_moran
from flagst.regression.features import NEIGHBOURHOODS
from flagst.regression.folds import MIN_SECTIONS

if TYPE_CHECKING:
    from flagst.settings import Settings

#: Moran's I of fewer spots is too noisy to use.
MIN_MORAN_SPOTS = 10


@dataclass(frozen=True)
class Fitted:
    """Fitted parts of a model, numpy only; saved with it.

    Attributes
    ----------
    stage
        Scaling, context features and regression mean.
    latent
        The latent basis of the residual, ``None`` without a regression mean.
    train_pcc
        ``(n_genes,)`` Pearson correlation of the cross-fitted mean on the training spots.
    moran
        Per spot layout ``(n_genes,)`` Moran's I of the measured target, mean over the training sections of that
        layout: Moran's I of one layout says nothing about another. NaN for genes that vary in none of them.
    """

    stage: RegressionStage
    latent: LatentBasis | None
    train_pcc: np.ndarray
    moran: dict[str, np.ndarray]


@dataclass(frozen=True)
class TrainingData:
    """What the denoiser is trained on, one array per training section.

    Attributes
    ----------
    mean
        ``(n_spots, n_genes)`` cross-fitted standardised mean.
    state
        ``(n_spots, d_state)`` clean state.
    expression
        ``(n_spots, n_genes)`` standardised measured expression.
    moran
        ``(n_genes,)`` Moran's I from :func:`section_moran`, or ``None``.
    """

    mean: list[np.ndarray]
    state: list[np.ndarray]
    expression: list[np.ndarray]
    moran: list[np.ndarray | None]


def fit_mean(sections: list[Section], settings: "Settings") -> tuple[RegressionStage, np.ndarray]:
    """Fit the regression mean.

    Parameters
    ----------
    sections
        Training sections with targets.
    settings
        Choices of the model.

    Returns
    -------
    The fitted stage, and the cross-fitted standardised mean of all spots, ``(n_spots, n_genes)``.

    Warns
    -----
    UserWarning
        With one or two sections, which are cut into spatial blocks.
    """
    if len(sections) < MIN_SECTIONS:
        warnings.warn(
            f"With {len(sections)} section(s), validation and cross-fitting use spatial blocks: neighbouring tissue is "
            "on both sides, and the numbers are optimistic for a new section. Add sections if you can.",
            UserWarning,
            stacklevel=3,
        )
    return RegressionStage.fit(
        [s.image for s in sections],
        [s.neighbours for s in sections],
        [s.coords for s in sections],
        [s.target for s in sections],
        regression=settings.regression or "ridge",
        neighbourhoods=NEIGHBOURHOODS if settings.edges else (),
    )


def fit_latent(
    sections: list[Section], stage: RegressionStage, mean: np.ndarray, settings: "Settings"
) -> tuple[Fitted, TrainingData]:
    """Fit the latent basis of the residual, and turn measured expression into diffusion states.

    Also computes Moran's I of the genes and the correlation of the cross-fitted mean, which are kept with the model.

    Parameters
    ----------
    sections, settings
        As in :func:`fit_mean`.
    stage, mean
        From :func:`fit_mean`.

    Returns
    -------
    What is kept with the model, and what the denoiser is trained on. Without a regression mean the state is the target.
    """
    target = stack_targets(sections)
    split = np.cumsum([len(s) for s in sections])[:-1]
    expression = stage.scaler.standardise(target)
    if settings.regression is None:
        latent, state = None, target
    else:
        n_latent = settings.d_state(target.shape[1])
        names = np.repeat(np.arange(len(sections)), [len(s) for s in sections])
        latent, state = LatentBasis.fit(expression - mean, names, n_latent=n_latent)
        state = pad_columns(state, n_latent)
    moran = [section_moran(section) for section in sections]
    data = TrainingData(*(np.split(values, split) for values in (mean, state, expression)), moran)
    train_pcc = np.nan_to_num(per_gene_pcc(mean, expression))
    return Fitted(stage, latent, train_pcc, mean_moran(sections, moran)), data


def section_moran(section: Section, rows: np.ndarray | None = None) -> np.ndarray | None:
    """Moran's I of every gene's measured target, ``(n_genes,)``, NaN for genes that do not vary.

    Parameters
    ----------
    section
        With a target.
    rows
        The spots that count; ``None`` for all. Fewer than 10 give ``None``.
    """
    kept = np.arange(len(section)) if rows is None else rows
    if len(kept) < MIN_MORAN_SPOTS:
        return None
    target, k = section.target[kept], MORAN_NEIGHBOURS[section.layout]
    near = section.nearest(k) if rows is None else knn(section.coords[kept], k)[0]
    return np.where(target.max(axis=0) > target.min(axis=0), neighbour_moran(target, near), np.nan)


def mean_moran(sections: list[Section], moran: list[np.ndarray | None]) -> dict[str, np.ndarray]:
    """Per layout, the mean over its sections in which a gene varies, ``(n_genes,)``; NaN where there is none."""
    found: dict[str, list[np.ndarray]] = {}
    for section, of_section in zip(sections, moran, strict=True):
        if of_section is not None:
            found.setdefault(section.layout, []).append(of_section)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return {layout: np.nanmean(of_layout, axis=0) for layout, of_layout in found.items()}
