"""What is fitted before any gradient step: regression mean, residual state, spatial order."""

import warnings
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from flagst.data.graph import MORAN_NEIGHBOURS, knn
from flagst.data.inputs import N_EDGES, section_inputs
from flagst.data.section import Section, stack_targets
from flagst.metrics import per_gene_pcc
from flagst.model.presets import Settings
from flagst.regression import RegressionStage, ResidualModel, neighbour_moran
from flagst.regression.context import NEIGHBOURHOODS

#: Smaller sections have no spatial order to speak of.
MIN_SPOTS = 10


@dataclass(frozen=True)
class Fitted:
    """Fitted parts of a model, numpy only; saved with it.

    Attributes
    ----------
    stage
        Scaling, context features and regression mean.
    residual
        The residual's state space, ``None`` without a regression mean.
    train_pcc
        ``(n_genes,)`` Pearson correlation of the cross-fitted mean on the training spots.
    order
        Per spot layout ``(n_genes,)`` Moran's I of the measured target, mean over the training sections of that
        layout: that of one layout says nothing about another. NaN for genes that vary in none of them.
    """

    stage: RegressionStage
    residual: ResidualModel | None
    train_pcc: np.ndarray
    order: dict[str, np.ndarray]


@dataclass(frozen=True)
class TrainingData:
    """Per training section: the cross-fitted mean, clean state, standardised expression, and spatial order."""

    mean: list[np.ndarray]
    state: list[np.ndarray]
    expression: list[np.ndarray]
    order: list[np.ndarray | None]


def fit_before_diffusion(sections: list[Section], settings: Settings) -> tuple[Fitted, TrainingData]:
    """Fit the regression mean and turn measured expression into diffusion states.

    Parameters
    ----------
    sections
        Training sections with targets.
    settings
        Choices of the model.

    Returns
    -------
    What is kept with the model, and what the diffusion is trained on.

    Warns
    -----
    UserWarning
        With one or two sections, which are cut into spatial blocks.
    """
    if len(sections) < 3:
        warnings.warn(
            f"With {len(sections)} section(s), validation and cross-fitting use spatial blocks: neighbouring tissue is "
            "on both sides, and the numbers are optimistic for a new section. Add sections if you can.",
            UserWarning,
            stacklevel=3,
        )
    stage, mean = RegressionStage.fit(
        [s.image for s in sections],
        [s.neighbours for s in sections],
        [s.coords for s in sections],
        [s.target for s in sections],
        regression=settings.regression or "ridge",
        neighbourhoods=stage_neighbourhoods(settings),
    )
    target = stack_targets(sections)
    split = np.cumsum([len(s) for s in sections])[:-1]
    expression = stage.scaler.standardise(target)
    if settings.regression is None:
        residual, state = None, target
    else:
        n_latent = settings.d_state(target.shape[1])
        names = np.repeat(np.arange(len(sections)), [len(s) for s in sections])
        residual, state = ResidualModel.fit(expression - mean, names, n_latent=n_latent)
        state = pad_columns(state, n_latent)
    orders = [section_order(section) for section in sections]
    data = TrainingData(*(np.split(values, split) for values in (mean, state, expression)), orders)
    train_pcc = np.nan_to_num(per_gene_pcc(mean, expression))
    return Fitted(stage, residual, train_pcc, mean_order(sections, orders)), data


def section_order(section: Section, rows: np.ndarray | None = None) -> np.ndarray | None:
    """Moran's I of every gene's measured target, ``(n_genes,)``, NaN for genes that do not vary.

    Parameters
    ----------
    section
        With a target.
    rows
        The spots that count; ``None`` for all. Fewer than 10 have no order: ``None``.
    """
    kept = np.arange(len(section)) if rows is None else rows
    if len(kept) < MIN_SPOTS:
        return None
    target, k = section.target[kept], MORAN_NEIGHBOURS[section.layout]
    near = section.nearest(k) if rows is None else knn(section.coords[kept], k)[0]
    return np.where(target.max(axis=0) > target.min(axis=0), neighbour_moran(target, near), np.nan)


def mean_order(sections: list[Section], orders: list[np.ndarray | None]) -> dict[str, np.ndarray]:
    """Per layout, the mean over its sections in which a gene varies, ``(n_genes,)``; NaN where there is none."""
    found: dict[str, list[np.ndarray]] = {}
    for section, order in zip(sections, orders, strict=True):
        if order is not None:
            found.setdefault(section.layout, []).append(order)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return {layout: np.nanmean(of_layout, axis=0) for layout, of_layout in found.items()}


def stage_neighbourhoods(settings: Settings) -> tuple[int, ...]:
    """Neighbourhood means of the context features; none when the spatial graph is off."""
    return NEIGHBOURHOODS if settings.edges else ()


def network_inputs(
    section: Section, fitted: Fitted, mean: np.ndarray, settings: Settings, d_image: int
) -> dict[str, Tensor]:
    """Tensors of a whole section, see :func:`flagst.data.inputs.section_inputs`."""
    white = pad_columns(fitted.stage.context.whiten(section.image), d_image)
    k = N_EDGES if settings.edges else 0
    given = mean if settings.regression is not None else None
    return section_inputs(white, section.neighbours[:, :k], section.distances[:, :k], given)


def pad_columns(values: np.ndarray, width: int) -> np.ndarray:
    """Zero columns on the right up to ``width``: few spots have fewer components than asked for."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))
