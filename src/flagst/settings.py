"""Named sets of choices: flagst's defaults and the published recipe."""

from dataclasses import asdict, dataclass, field, replace

from flagst._checks import require_one_of


@dataclass(frozen=True)
class Settings:
    """Every choice that makes a FLAG model.

    Attributes
    ----------
    target
        Unit in which the model works: ``"lognorm"``, ``"log2"`` or ``"identity"``.
    regression
        ``"mixed"`` (ridge with kernel ridge) or ``"ridge"``. ``None`` for no regression mean: the diffusion is then of
        the target itself.
    denoiser
        ``"latent"`` or ``"gene"``.
    n_latent
        Components of the residual that are diffused; only for the latent denoiser around a regression mean.
    process, solver, n_steps
        Noise process and the solver of its probability-flow ODE, see :mod:`flagst.diffusion`.
    process_kwargs
        Constants of the noise process, such as ``{"sigma_max": 40.0}``.
    n_average
        Without a regression mean, posterior samples that are averaged into a prediction; 1 for a single sample.
    edges
        Use the spatial graph. ``False``: mean, network and samples use no positions, so that ``match_moran`` has no
        effect. Folds and the noise scale still use them.
    joint
        Denoise neighbouring spots jointly.
    diffusion
        ``False``: noise of the residual's own covariance instead of a trained diffusion; needs a regression mean.
    cross_fit
        Train one network per fold of the sections, each without its fold. In a posterior sample they take turns.
        Samples on a fold from the network that has not seen it set the noise scale and calibrate quantiles.
        ``False``: one network on everything, and nothing is calibrated.
    gfm
        ``"coexpression"``; a key of ``adata.varm`` (a vector per gene) or ``adata.obsm`` (with three axes a vector
        per spot and gene, with two one per spot); or ``None`` for no alignment.
    align_weight
        Weight of the alignment loss.
    match_moran
        Rescale the residual of each gene so that its Moran's I matches the training sections, see
        :func:`flagst.sampling.moran_matching.moran_factors`.
    balance_noise
        Remove chance correlations between the components of a sample and the noise beside them, as far as a section's
        size allows, see :func:`flagst.sampling.balanced_noise.balance_noise`.
    max_steps
        Optimiser steps of all networks together when ``train(max_epochs=None)``.
    network
        Further arguments of :class:`flagst.nn.FlagNetwork`.
    """

    target: str = "lognorm"
    regression: str | None = "mixed"
    denoiser: str = "latent"
    n_latent: int = 16
    process: str = "edm"
    process_kwargs: dict = field(default_factory=dict)
    solver: str = "dpm++2m"
    n_steps: int = 20
    n_average: int = 1
    edges: bool = True
    joint: bool = True
    diffusion: bool = True
    cross_fit: bool = True
    gfm: str | None = "coexpression"
    align_weight: float = 0.5
    match_moran: bool = True
    balance_noise: bool = True
    max_steps: int = 1200
    network: dict = field(default_factory=dict)

    def d_state(self, n_genes: int) -> int:
        """Width of the diffusion state: components of a residual, or all genes."""
        return self.n_latent if self.denoiser == "latent" and self.regression is not None else n_genes

    def to_dict(self) -> dict:
        """Plain dictionary."""
        return asdict(self)


PRESETS = {
    "default": Settings(),
    # arXiv 2605.18055; 101 noise levels give its 201 network evaluations with Heun
    "paper": Settings(
        target="log2",
        regression=None,
        denoiser="gene",
        process="ve",
        solver="heun",
        n_steps=101,
        n_average=8,
        joint=False,
        cross_fit=False,
        max_steps=4000,
        network={"denoiser_kwargs": {"width": 384, "n_blocks": 12, "n_heads": 6, "align_block": 8}},
    ),
}

CHOICES = {
    "target": ("lognorm", "log2", "identity"),
    "regression": ("mixed", "ridge", None),
    "denoiser": ("latent", "gene"),
    "process": ("edm", "ve"),
    "solver": ("dpm++2m", "heun"),
}


def resolve(preset: str, *, target: str | None, gfm: str | None, **changes) -> Settings:
    """A preset with some choices changed; ``target=None`` keeps the preset's.

    Raises
    ------
    ValueError
        Unknown preset or choice, a number below 1, or choices that exclude each other.
    TypeError
        A choice that does not exist.
    """
    require_one_of(preset, PRESETS, name="preset")
    base = PRESETS[preset]
    settings = replace(base, **{"target": target or base.target, "gfm": gfm, **changes})
    for name, allowed in CHOICES.items():
        require_one_of(getattr(settings, name), allowed, name=name)
    for name in ("n_latent", "n_steps", "n_average", "max_steps"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1; got {getattr(settings, name)}.")
    if settings.align_weight < 0:
        raise ValueError(f"align_weight must not be negative; got {settings.align_weight}.")
    if settings.regression is None and not settings.diffusion:
        raise ValueError("Without a regression mean there is nothing but the diffusion; got diffusion=False.")
    if settings.regression is not None and settings.n_average > 1:
        raise ValueError(
            f"n_average={settings.n_average} averages samples where regression=None. Around a regression mean a "
            "prediction is one sample, and structure says how much of it; pass n_average=1."
        )
    return settings
