"""Simulated sections with a known truth: gene programs, of which the image shows some."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_key
from flagst._keys import LAYERS, OBS, OBSM, TABLE, TRUTH, UNS, VARM
from flagst.datasets._fields import GRID_PX, PITCH_UM, SPOT_DIAMETER_UM, UM_PER_PX, field, lay_out, sample
from flagst.datasets._tissue import DOMAINS, draw_section
from flagst.io import Section, build_sdata

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

#: Programs that the image does not show, and the length over which each varies, micrometres; 0: from spot to spot.
HIDDEN = {"gradient": 260.0, "niche": 130.0, "state": 0.0}
PROGRAMS = (*DOMAINS, *HIDDEN)
_N_VISIBLE = len(DOMAINS)

_DOMAIN_LENGTH_UM = 240.0
_DOMAIN_CONTRAST = 2.0
_SHARE_SD = 0.27  # standard deviation of the share of a domain; activities then have about unit variance
_DEPTH_LENGTH_UM = 300.0
_MEAN_DEPTH = 1500.0
_DISPERSION = 2.6


@dataclass
class _Truth:
    """Parameters that all sections share: log-rate of a gene = baseline + loadings @ programs."""

    baseline: np.ndarray  # (n_genes,)
    loadings: np.ndarray  # (n_genes, n_programs)
    dispersion: np.ndarray  # (n_genes,), variance = mean + mean^2 / dispersion


def simulated_sections(n_sections: int = 4, n_spots: int = 400, n_genes: int = 60, seed: int = 0) -> "SpatialData":
    """Simulate H&E sections with spots and raw counts from a known truth.

    Each section has its own layout of four tissue domains (tumour, gland, stroma, immune). Nuclei, glands and fibres in
    its image follow the domains. Genes belong to programs. Four programs are the domains, so the image shows them.
    Three programs are not visible in the image: two vary smoothly in space, one varies from spot to spot. Within a
    section they are uncorrelated with the visible ones. Counts are negative binomial around ``depth x share``. The
    library size varies smoothly, with the tissue, and from spot to spot.

    Parameters
    ----------
    n_sections
        Number of sections, named ``S1``, ``S2``, ...
    n_spots
        Number of spots per section, 10 or more, 100 um apart on a hexagonal array.
    n_genes
        Number of genes, 2 or more.
    seed
        The same seed gives the same data. Images and spots do not depend on ``n_genes``.

    Returns
    -------
    SpatialData as described in :func:`flagst.io.build_sdata`. Its table also has the truth:

    - ``layers["true_rate"]``: (n_spots, n_genes) float32, expected counts;
    - ``obsm["true_programs"]``: (n_spots, n_programs) float32, activity of the programs, about unit variance;
    - ``varm["program_loadings"]``: (n_genes, n_programs) float64, change of the log-rate of a gene per unit of
      activity;
    - ``obs["domain"]``: the domain with the largest share; ``obs["true_depth"]``: expected library size;
    - ``uns["flagst_truth"]``: ``program_names``, ``program_visible``, ``program_length_um``, ``gene_names``,
      ``baseline`` (log), ``dispersion``, ``log_rate_correlation`` (n_genes, n_genes) over all spots, ``seed``.

    Raises
    ------
    ValueError
        A number is too small.

    Examples
    --------
    >>> simulated = flagst.datasets.simulated_sections(n_sections=2, n_spots=20, n_genes=5)
    >>> simulated["table"].shape, simulated["table"].obsm["true_programs"].shape
    ((40, 5), (40, 7))
    """
    if n_sections < 1 or n_spots < 10 or n_genes < 2:
        raise ValueError(
            f"n_sections={n_sections}, n_spots={n_spots}, n_genes={n_genes} is too small. "
            "Use at least 1 section, 10 spots and 2 genes."
        )
    truth_seed, *section_seeds = np.random.SeedSequence(seed).spawn(n_sections + 1)
    truth = _draw_truth(n_genes, np.random.default_rng(truth_seed))
    drawn = [_simulate_section(f"S{i + 1}", n_spots, truth, s) for i, s in enumerate(section_seeds)]
    sdata = build_sdata([section for section, _, _ in drawn])
    adata = sdata.tables[TABLE]
    programs = np.concatenate([activity for _, activity, _ in drawn])
    adata.obsm[OBSM.programs] = programs.astype(np.float32)
    adata.layers[LAYERS.true_rate] = np.concatenate([rate for _, _, rate in drawn]).astype(np.float32)
    adata.varm[VARM.program_loadings] = truth.loadings
    adata.uns[UNS.truth] = {
        TRUTH.program_names: np.array(PROGRAMS, dtype=object),
        TRUTH.program_visible: np.arange(len(PROGRAMS)) < _N_VISIBLE,
        TRUTH.program_length_um: np.array([_DOMAIN_LENGTH_UM] * _N_VISIBLE + list(HIDDEN.values())),
        TRUTH.gene_names: np.array(_gene_names(n_genes), dtype=object),
        TRUTH.baseline: truth.baseline,
        TRUTH.dispersion: truth.dispersion,
        TRUTH.correlation: np.corrcoef(truth.loadings @ programs.T),
        TRUTH.seed: int(seed),
    }
    return sdata


def redraw_counts(data: "SpatialData | AnnData", seed: int, *, hidden: bool = False) -> "csr_matrix":
    """Draw counts again from the truth of simulated sections: an independent replicate of the measurement.

    Parameters
    ----------
    data
        Output of :func:`simulated_sections`, or its table, or any subset of its spots and genes.
    seed
        The same seed gives the same counts.
    hidden
        Draw new values of the programs that the image does not show, too. A perfect model of expression given the image
        would predict this. If False, the replicate has the same programs as the measurement.

    Returns
    -------
    (n_spots, n_genes) csr float32, non-negative integers.

    Raises
    ------
    KeyError
        The table does not have the truth of a simulation.

    Examples
    --------
    >>> counts = flagst.datasets.redraw_counts(sdata, seed=1)
    >>> counts.shape, bool((counts != adata.X).nnz > 0)
    ((180, 20), True)
    """
    import scipy.sparse as sp

    adata = data.tables[TABLE] if hasattr(data, "tables") else data
    hint = "Pass the output of flagst.datasets.simulated_sections."
    require_key(adata.uns, UNS.truth, where="adata.uns", hint=hint)
    require_key(adata.layers, LAYERS.true_rate, where="adata.layers", hint=hint)
    truth = adata.uns[UNS.truth]
    rng = np.random.default_rng([seed, 1])
    rate = np.asarray(adata.layers[LAYERS.true_rate], dtype=np.float64)
    if hidden:
        depth = rate.sum(axis=1, keepdims=True)
        rate = rate * _hidden_change(adata, rng)
        rate *= depth / rate.sum(axis=1, keepdims=True)
    column = {name: i for i, name in enumerate(truth[TRUTH.gene_names])}
    dispersion = np.asarray(truth[TRUTH.dispersion])[[column[name] for name in adata.var_names]]
    return sp.csr_matrix(_draw_counts(rate, dispersion, rng))


def _hidden_change(adata: "AnnData", rng: np.random.Generator) -> np.ndarray:
    """Factor (n_spots, n_genes) of the expected counts if the hidden programs are drawn again."""
    programs = np.asarray(adata.obsm[OBSM.programs], dtype=np.float64)
    coords = np.asarray(adata.obsm[OBSM.spatial]) * UM_PER_PX
    log_depth = np.log(adata.obs[OBS.true_depth].to_numpy())
    change = np.zeros((adata.n_obs, len(HIDDEN)))
    for section in adata.obs[OBS.section].unique():
        rows = np.flatnonzero(adata.obs[OBS.section] == section)
        known = np.column_stack([programs[rows, :_N_VISIBLE], log_depth[rows]])
        change[rows] = _hidden_activity(coords[rows], known, rng) - programs[rows, _N_VISIBLE:]
    return np.exp(change @ np.asarray(adata.varm[VARM.program_loadings])[:, _N_VISIBLE:].T)


def _gene_names(n_genes: int) -> list[str]:
    return [f"SIM{i + 1:0{max(3, len(str(n_genes)))}d}" for i in range(n_genes)]


def _draw_truth(n_genes: int, rng: np.random.Generator) -> _Truth:
    """Each gene follows one program, up or down. Half of the genes follow a second one, more weakly."""
    n_programs = len(PROGRAMS)
    loadings = np.zeros((n_genes, n_programs))
    genes = np.arange(n_genes)
    first = rng.permutation(genes) % n_programs
    second = (first + rng.integers(1, n_programs, n_genes)) % n_programs
    loadings[genes, first] = rng.uniform(0.35, 0.8, n_genes) * rng.choice([1, -1], n_genes, p=[0.75, 0.25])
    weaker = rng.uniform(0.1, 0.4, n_genes) * rng.choice([1, -1], n_genes) * (rng.random(n_genes) < 0.5)
    loadings[genes, second] = weaker
    return _Truth(
        baseline=rng.normal(0, 1.0, n_genes),
        loadings=loadings,
        dispersion=_DISPERSION * rng.lognormal(0, 0.3, n_genes),
    )


def _simulate_section(name: str, n_spots: int, truth: _Truth, seed) -> tuple[Section, np.ndarray, np.ndarray]:
    """One section, the activity of its programs (n_spots, n_programs), and its expected counts (n_spots, n_genes)."""
    import pandas as pd

    # one generator per purpose, so that the image and the spots do not depend on the genes
    layout_rng, image_rng, program_rng, count_rng = (np.random.default_rng(s) for s in seed.spawn(4))
    grid, tissue, position, coords = lay_out(n_spots, layout_rng)
    fields = np.stack([field(grid, _DOMAIN_LENGTH_UM, layout_rng) for _ in DOMAINS])
    shares = np.exp(_DOMAIN_CONTRAST * fields)
    shares /= shares.sum(axis=0)
    image = draw_section(shares, tissue, factor=GRID_PX, um_per_px=UM_PER_PX, rng=image_rng)

    at_spots = np.stack([sample(share, coords) for share in shares], axis=1)
    visible = (at_spots - 1 / len(DOMAINS)) / _SHARE_SD
    cellularity = at_spots[:, DOMAINS.index("immune")] - at_spots[:, DOMAINS.index("stroma")]
    smooth = sample(field(grid, _DEPTH_LENGTH_UM, program_rng), coords)
    own = program_rng.standard_normal(n_spots)
    log_depth = np.log(_MEAN_DEPTH) + 0.25 * cellularity + 0.2 * smooth + 0.2 * own
    hidden = _hidden_activity(coords, np.column_stack([visible, log_depth]), program_rng)
    activity = np.column_stack([visible, hidden])

    log_rate = truth.baseline + activity @ truth.loadings.T
    share = np.exp(log_rate - log_rate.max(axis=1, keepdims=True))
    rate = np.exp(log_depth)[:, None] * share / share.sum(axis=1, keepdims=True)
    obs = pd.DataFrame(index=[f"{name}_{column}x{row}" for row, column in position])
    obs[OBS.array_row], obs[OBS.array_col] = position.T
    obs[OBS.patient] = "simulated"
    obs[OBS.domain] = np.array(DOMAINS, dtype=object)[at_spots.argmax(axis=1)]
    obs[OBS.true_depth] = np.exp(log_depth)
    section = Section(
        name=name,
        coords=coords / UM_PER_PX,
        counts=_draw_counts(rate, truth.dispersion, count_rng),
        genes=_gene_names(len(truth.baseline)),
        obs=obs,
        spot_diameter_px=SPOT_DIAMETER_UM / UM_PER_PX,
        um_per_px=UM_PER_PX,
        layout="hex",
        image=image,
    )
    return section, activity, rate


def _hidden_activity(coords: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Activities of hidden programs, uncorrelated over these spots with ``known`` and with each other.

    Smooth fields on one section correlate by chance. Without the orthogonalisation, no model could predict the
    gene-gene correlation of an unseen section, and the truth would be a poor reference.
    """
    grid = tuple(int(np.ceil((top + PITCH_UM) / (UM_PER_PX * GRID_PX))) for top in coords.max(axis=0)[::-1])
    columns = [
        sample(field(grid, length, rng), coords) if length > 0 else rng.standard_normal(len(coords))
        for length in HIDDEN.values()
    ]
    design = np.column_stack([np.ones(len(coords)), known])
    activity = []
    for column in columns:
        column = column - design @ np.linalg.lstsq(design, column, rcond=None)[0]
        activity.append(column / column.std())
        design = np.column_stack([design, activity[-1]])
    return np.column_stack(activity)


def _draw_counts(rate: np.ndarray, dispersion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Negative binomial counts: Poisson with a gamma-distributed rate. Every spot has at least one count."""
    counts = rng.poisson(rate * rng.gamma(dispersion, 1 / dispersion, rate.shape)).astype(np.float32)
    empty = counts.sum(axis=1) == 0
    counts[empty, rate[empty].argmax(axis=1)] = 1
    return counts
