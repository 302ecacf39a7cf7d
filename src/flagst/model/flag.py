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
from flagst.data import query as queries
from flagst.data.from_anndata import sections_from_anndata
from flagst.data.identity import spot_digests
from flagst.data.measured import section_rows, training_spacing
from flagst.data.record import table_of
from flagst.data.section import Section
from flagst.model.aligning import build_alignment, require_vectors
from flagst.model.fitting import fit_before_diffusion
from flagst.model.held_out import HeldOutTissue, held_out_parts
from flagst.model.intervals import calibrate_intervals
from flagst.model.order import TrainingOrder
from flagst.model.persistence import Persistence
from flagst.model.predicting import SectionPredictor
from flagst.model.prediction import Prediction
from flagst.model.presets import resolve
from flagst.model.registration import IMAGE_FIELD, Registration
from flagst.model.spread import calibrate_spread
from flagst.model.training import check_trainer_arguments, train_diffusion
from flagst.model.unlike import FamiliarTissue
from flagst.model.unmeasured import fit_unmeasured
from flagst.model.windows import split_windows
from flagst.module import FlagModule
from flagst.regression import count_networks, network_folds
from flagst.train import FlagTrainingPlan, WindowSplitter
from flagst.train.ranks import is_distributed

if TYPE_CHECKING:
    from spatialdata import SpatialData

MAX_WHITE = 50


class FLAG(Registration, Persistence, Prediction, UnsupervisedTrainingMixin, BaseModelClass):
    """Spatial gene expression from H&E histology, with its gene and spatial structure.

    A regression mean from image features and their surroundings, plus a diffusion of what the mean
    leaves over: few whitened components per spot, denoised jointly over neighbouring spots,
    conditioned on a spatial graph encoder and aligned with gene embeddings in training.

    Parameters
    ----------
    adata
        Table registered with :meth:`setup_anndata`, or the SpatialData registered with
        :meth:`setup_spatialdata`.
    registry
        Registry of a saved model; used by :meth:`load`.
    preset
        ``"default"``, or ``"paper"`` for the published choices.
    target
        ``"lognorm"`` (log1p of counts per 10,000), ``"log2"`` (log2(count + 1)) or ``"identity"``;
        ``None`` keeps the preset's. Predictions come back in this unit.
    gfm
        Gene embeddings to align to: ``"coexpression"`` (of the training spots); a key of ``adata.varm`` (a vector per
        gene) or ``adata.obsm`` (vectors per spot and gene, or per spot), see :func:`flagst.pp.gene_embeddings`; or
        ``None`` for no alignment.
    seed
        Seed of the network's weights.
    table_key
        Table of a SpatialData.
    **changes
        Any other attribute of :class:`flagst.model.presets.Settings`.

    Raises
    ------
    ValueError
        An unknown preset or choice, or counts that are no whole numbers; only ``target="identity"`` takes those.

    Source
    ------
    FLAG, ICML 2026, arXiv 2605.18055. The regression mean, the residual, its latent components,
    joint denoising and the EDM noise process are ours; ``preset="paper"`` switches them off.

    Examples
    --------
    >>> import flagst
    >>> sdata = flagst.datasets.simulated_sections()
    >>> flagst.FLAG.setup_spatialdata(sdata)
    >>> model = flagst.FLAG(sdata)
    >>> model.train()
    >>> prediction = model.predict(sdata)
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
        self.intervals_ = self.familiar_ = self.order_ = self.unmeasured_ = self.spacing_ = None
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
        """Fit the regression mean, then train the diffusion of its cross-fitted residual.

        With three sections or more, three networks are trained, each without every third section (with one or
        two sections four, each without one block of each): draws on tissue that a network has not seen set the
        spread of the draws and calibrate quantiles. The regression mean uses all sections.

        Parameters
        ----------
        max_epochs
            Epochs of about 24 optimiser steps; ``None`` makes ``settings_.max_steps`` steps. With several ranks
            these are the steps of all of them together: epochs see the same windows in fewer steps.
        accelerator, devices
            As in scvi-tools. ``devices=4, strategy="ddp"`` trains in four processes, see :doc:`/distributed`.
        plan_kwargs, datasplitter_kwargs
            For :class:`flagst.train.FlagTrainingPlan` and :class:`flagst.train.WindowSplitter`.
        **trainer_kwargs
            For :class:`scvi.train.Trainer`. ``early_stopping=True`` looks at the denoising loss of held-out
            tissue, which rises long before the structure of draws gets worse.

        Writes
        ------
        ``history_`` (losses per epoch), ``fitted_``, ``familiar_`` and ``order_`` (what training images and
        training expression look like), ``spacing_`` (how far apart spots are), ``unmeasured_`` (genes that have a
        vector beside the panel's), ``intervals_`` (calibration of quantiles, from the held-out tissue), and the
        module's weights: their exponential moving average.

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
        """
        if trainer_kwargs.get("early_stopping") and not (self.settings_.cross_fit and self.settings_.diffusion):
            raise ValueError("early_stopping=True needs networks with tissue that they do not see. Use cross_fit=True.")
        if trainer_kwargs.get("early_stopping") and is_distributed(trainer_kwargs.get("strategy")):
            raise ValueError("early_stopping=True works in one process only; with strategy='ddp' pass max_epochs.")
        check_trainer_arguments(trainer_kwargs)
        sections = self._sections(self._registered(), measured=True)
        self.is_trained_, self.history_, self.intervals_, self.unmeasured_ = False, {}, None, None
        self.features_ = deepcopy(dict(self.adata.uns.get(UNS.flagst, {}).get(SLOT.features, {})))
        self.fitted_, data = fit_before_diffusion(sections, self.settings_)
        self.familiar_, self.order_ = FamiliarTissue.fit(sections), TrainingOrder.fit(sections)
        self.spacing_ = training_spacing(self.adata, sections)
        self.unmeasured_ = fit_unmeasured(self.adata, self.genes_, self.fitted_, data, self.settings_)
        self._reset_module()
        folds = None
        if self.settings_.cross_fit:
            folds = network_folds([s.coords for s in sections])
        predictors = [self._predictor(s, mean=mean) for s, mean in zip(sections, data.mean, strict=True)]
        if self.settings_.diffusion:
            rows = list(section_rows(self.adata, self.setup_["section_key"]).values())
            found = {"sections": sections, "genes": self.genes_, "rows": np.concatenate(rows)}
            alignment = build_alignment(self.adata, self.settings_, **found)
            of_spots = alignment is not None and alignment.held is not None
            training, validation = split_windows(predictors, data, folds, rows if of_spots else None)
            train_diffusion(
                self,
                training,
                validation,
                alignment=alignment,
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                plan_kwargs=plan_kwargs or {},
                datasplitter_kwargs=datasplitter_kwargs or {},
                **trainer_kwargs,
            )
        self.module.eval()
        if folds is not None and self.fitted_.residual is not None:
            clean = {s.name: state for s, state in zip(sections, data.state, strict=True)}
            held_out = HeldOutTissue(held_out_parts(predictors, folds, data.order), clean)
            self.fitted_ = replace(self.fitted_, residual=calibrate_spread(held_out, self.fitted_.residual))
            self.intervals_ = calibrate_intervals(held_out.parts, self.fitted_)
        self.is_trained_ = True

    def _reset_module(self) -> None:
        """Networks with fresh weights, drawn from ``seed``."""
        settings = self.settings_
        with torch.random.fork_rng():
            torch.manual_seed(self.seed_)
            self.module = self._module_cls(
                min(MAX_WHITE, self.d_features_),
                len(self.genes_),
                settings.d_state(len(self.genes_)),
                process=settings.process,
                joint=settings.joint and settings.edges,
                denoiser=settings.denoiser,
                condition_on_mean=settings.regression is not None,
                n_networks=count_networks(int(self.summary_stats["n_section"]), cross_fit=settings.cross_fit),
                **settings.network_kwargs,
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
        queries.check_features(adata, self.features_, d_image=self.d_features_, found=width, image_key=image_key)

    def _predictor(self, section: Section, **known) -> SectionPredictor:
        return SectionPredictor(section, self.fitted_, self.settings_, self.module, **known)
