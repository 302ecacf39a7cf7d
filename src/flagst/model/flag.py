"""FLAG: the scvi-tools-style model class."""

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import rich.pretty  # noqa: F401  view_anndata_setup() of scvi-tools 1.4.2 relies on someone importing it
import torch
from anndata import AnnData
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin
from scvi.train import TrainRunner

from flagst._keys import SLOT, TABLE, UNS
from flagst.data.from_anndata import sections_from_anndata
from flagst.data.identity import spot_digests
from flagst.data.measured import section_rows, training_spacing
from flagst.data.prediction_record import table_of
from flagst.data.prediction_table import check_features
from flagst.data.sections import Section
from flagst.model.alignment_targets import build_alignment, require_vectors
from flagst.model.persistence import Persistence
from flagst.model.predict import Prediction
from flagst.model.registration import IMAGE_FIELD, Registration
from flagst.model.training import check_training, train_denoiser
from flagst.model.training_windows import split_windows, training_inputs
from flagst.module import FlagModule
from flagst.regression import count_networks, network_folds
from flagst.regression.features import N_WHITE
from flagst.sampling.fit import TrainingData, fit_latent, fit_mean
from flagst.sampling.held_out import HeldOutTissue, held_out_samplers
from flagst.sampling.noise_scale import calibrate_noise_scale
from flagst.sampling.out_of_distribution import OutOfDistribution
from flagst.sampling.quantiles import calibrate_intervals
from flagst.sampling.unmeasured_genes import fit_unmeasured
from flagst.settings import resolve
from flagst.train import FlagTrainingPlan, WindowSplitter

if TYPE_CHECKING:
    from spatialdata import SpatialData


class FLAG(Registration, Persistence, Prediction, UnsupervisedTrainingMixin, BaseModelClass):
    """Spatial gene expression from H&E histology, with its gene-gene correlation and spatial autocorrelation.

    The model is a regression mean from image features and their surroundings, plus a diffusion of the residual: few
    whitened components per spot, denoised jointly over neighbouring spots, conditioned on a spatial graph encoder, and
    aligned with gene embeddings in training.

    Parameters
    ----------
    adata
        Table registered with :meth:`setup_anndata`, or the SpatialData registered with :meth:`setup_spatialdata`.
    registry
        Registry of a saved model; used by :meth:`load`.
    preset
        ``"default"``, or ``"paper"`` for the published choices.
    target
        ``"lognorm"`` (log1p of counts per 10,000), ``"log2"`` (log2(count + 1)) or ``"identity"``; ``None`` keeps the
        preset's. Predictions come back in this unit.
    gfm
        Gene embeddings to align to: ``"coexpression"`` (of the training spots); a key of ``adata.varm``
        (``(n_genes, d)``) or ``adata.obsm`` (``(n_spots, n_genes, d)`` or ``(n_spots, d)``), see
        :func:`flagst.pp.gene_embeddings`; or ``None`` for no alignment.
    seed
        Seed of the initial weights, and of training.
    table_key
        Table of a SpatialData.
    **changes
        Any other attribute of :class:`flagst.settings.Settings`.

    Raises
    ------
    KeyError, TypeError, ValueError
        An unknown preset or choice, data that were not registered, or counts that are not whole numbers (only
        ``target="identity"`` takes those).

    Source
    ------
    FLAG, ICML 2026, arXiv 2605.18055. The regression mean, the residual, its latent components, joint denoising and the
    EDM noise process are ours; ``preset="paper"`` switches them off.

    Examples
    --------
    >>> flagst.FLAG.setup_spatialdata(sdata)
    >>> model = flagst.FLAG(sdata, target="log2")
    >>> model.genes_[:2], model.is_trained_
    (['...', '...'], False)
    """

    _module_cls = FlagModule
    _training_plan_cls = FlagTrainingPlan
    _data_splitter_cls = WindowSplitter
    _train_runner_cls = TrainRunner

    def __init__(
        self,
        adata: "AnnData | SpatialData | None" = None,
        registry: dict | None = None,
        *,
        preset: str = "default",
        target: str | None = None,
        gfm: str | None = "coexpression",
        seed: int = 0,
        table_key: str = TABLE,
        **changes,
    ):
        super().__init__(None if adata is None else table_of(adata, table_key), registry)
        self.settings_ = resolve(preset, target=target, gfm=gfm, **changes)
        if adata is not None:
            require_vectors(self.adata, self.settings_)
            self._require_whole_counts()
        self.setup_ = dict(self.registry_["setup_args"])
        self.genes_ = [str(gene) for gene in self.setup_["genes"]]
        self.d_features_ = int(self.summary_stats[f"n_{IMAGE_FIELD}"])
        self.fitted_, self.seed_, self.features_ = None, seed, {}
        self.intervals_ = self.ood_ = self.unmeasured_ = self.spacing_ = None
        self.spots_ = {} if adata is None else spot_digests(self.adata, self.setup_["section_key"])
        self._reset_module()
        self._model_summary_string = (
            f"FLAG: {len(self.genes_)} genes, target {self.settings_.target}, "
            f"{self.settings_.denoiser} denoiser, alignment {self.settings_.gfm}"
        )

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: dict | None = None,
        datasplitter_kwargs: dict | None = None,
        **trainer_kwargs,
    ) -> None:
        """Fit the regression mean, then train the diffusion of its cross-fitted residual, then calibrate.

        With three sections or more, three networks are trained, each without every third section. With one or two
        sections four are trained, each without one block of each section. Samples on tissue that a network has not seen
        set the noise scale and calibrate quantiles. The regression mean uses all sections.

        Parameters
        ----------
        max_epochs
            Epochs of about 24 optimiser steps; ``None`` makes ``settings_.max_steps`` steps. With several ranks these
            are the steps of all of them together: epochs see the same windows in fewer steps.
        accelerator, devices
            As in scvi-tools. ``devices=4, strategy="ddp"`` trains in four processes, see :doc:`/distributed`.
        plan_kwargs, datasplitter_kwargs
            For :class:`flagst.train.FlagTrainingPlan` and :class:`flagst.train.WindowSplitter`.
        **trainer_kwargs
            For :class:`scvi.train.Trainer`. ``early_stopping=True`` monitors the denoising loss of held-out tissue,
            which rises long before the structure of samples gets worse.

        Writes
        ------
        ``history_``: losses per epoch. ``fitted_``: the mean and the latent basis. ``ood_``: what training images look
        like. ``spacing_``: how far apart spots are. ``unmeasured_``: genes that have a vector and are not in the panel.
        ``intervals_``: calibration of quantiles, from the held-out tissue. The module's weights are their exponential
        moving average.

        Raises
        ------
        TypeError
            An argument that scvi-tools' trainer does not have.
        ValueError
            No registered data, counts that are no counts, ``early_stopping`` without cross-fitted networks or with
            several ranks, or several devices without ``strategy="ddp"``.

        Warns
        -----
        UserWarning
            With one or two sections: validation and cross-fitting then use spatial blocks.

        Examples
        --------
        >>> model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
        >>> sorted(model.history_)[0], model.is_trained_
        ('align_loss_shuffled_genes_validation', True)
        """
        check_training(self.settings_, trainer_kwargs)
        sections = self._sections(self._registered(), measured=True)
        self.is_trained_, self.history_, self.intervals_ = False, {}, None
        stage, mean = fit_mean(sections, self.settings_)
        self.fitted_, data = fit_latent(sections, stage, mean, self.settings_)
        self._describe(sections, data)
        self._reset_module()
        folds = network_folds([s.coords for s in sections]) if self.settings_.cross_fit else None
        if self.settings_.diffusion:
            trainer = {"accelerator": accelerator, "devices": devices, "max_epochs": max_epochs, **trainer_kwargs}
            kwargs = {"plan_kwargs": plan_kwargs or {}, "datasplitter_kwargs": datasplitter_kwargs or {}}
            self._train_denoiser(sections, data, folds, **kwargs, **trainer)
        self.module.eval()
        if folds is not None and self.fitted_.latent is not None:
            self._calibrate(sections, data, folds)
        self.is_trained_ = True

    def _describe(self, sections: list[Section], data: TrainingData) -> None:
        """What is kept of the training sections for queries: their features, their spacing, vectors of other genes."""
        self.features_ = deepcopy(dict(self.adata.uns.get(UNS.flagst, {}).get(SLOT.features, {})))
        self.ood_ = OutOfDistribution.fit(sections)
        self.spacing_ = training_spacing(self.adata, sections)
        self.unmeasured_ = fit_unmeasured(self.adata, self.genes_, self.fitted_, data, self.settings_)

    def _train_denoiser(
        self, sections: list[Section], data: TrainingData, folds: list[np.ndarray] | None, **kwargs
    ) -> None:
        """Train the networks on windows of the sections, each without its fold."""
        rows = list(section_rows(self.adata, self.setup_["section_key"]).values())
        found = {"sections": sections, "genes": self.genes_, "rows": np.concatenate(rows)}
        alignment = build_alignment(self.adata, self.settings_, **found)
        of_spots = alignment is not None and alignment.held is not None
        parts = self.settings_, self.module.d_image
        inputs = [training_inputs(s, self.fitted_, m, *parts) for s, m in zip(sections, data.mean, strict=True)]
        coords = [section.coords for section in sections]
        training, validation = split_windows(inputs, coords, data, folds, rows if of_spots else None)
        train_denoiser(self, training, validation, alignment=alignment, **kwargs)

    def _calibrate(self, sections: list[Section], data: TrainingData, folds: list[np.ndarray]) -> None:
        """Set the noise scale, then calibrate quantiles, on tissue that the network of a fold has not seen."""

        def held_out() -> list:
            return held_out_samplers(sections, data, folds, self.fitted_, self.settings_, self.module)

        clean = {s.name: state for s, state in zip(sections, data.state, strict=True)}
        latent = calibrate_noise_scale(HeldOutTissue(held_out(), clean), self.fitted_.latent)
        self.fitted_ = replace(self.fitted_, latent=latent)
        self.intervals_ = calibrate_intervals(held_out())

    def _reset_module(self) -> None:
        """Networks with initial weights, random by ``seed``."""
        settings = self.settings_
        with torch.random.fork_rng():
            torch.manual_seed(self.seed_)
            self.module = self._module_cls(
                min(N_WHITE, self.d_features_),
                len(self.genes_),
                settings.d_state(len(self.genes_)),
                process=settings.process,
                process_kwargs=settings.process_kwargs,
                joint=settings.joint and settings.edges,
                denoiser=settings.denoiser,
                condition_on_mean=settings.regression is not None,
                n_networks=count_networks(int(self.summary_stats["n_section"]), cross_fit=settings.cross_fit),
                **settings.network,
            )

    def _registered(self) -> AnnData:
        if self.adata is None:
            raise ValueError(
                "This model was loaded without its training data. Pass other data as adata=; to go on training load it "
                "with FLAG.load(dir_path, adata=...)."
            )
        return self.adata

    def _require_trained(self) -> None:
        if not self.is_trained_:
            raise RuntimeError("The model is not trained. Run model.train() first.")

    def _sections(self, adata: AnnData, *, measured: bool) -> list[Section]:
        keys = {name: self.setup_[name] for name in ("section_key", "spatial_key", "image_key")}
        if not measured:
            return sections_from_anndata(adata, **keys)
        target, layer = self.settings_.target, self.setup_["layer"]
        return sections_from_anndata(adata, genes=self.genes_, target=target, layer=layer, **keys)

    def _check_features(self, adata: AnnData, width: int) -> None:
        image_key = self.setup_["image_key"]
        check_features(adata, self.features_, d_image=self.d_features_, found=width, image_key=image_key)
