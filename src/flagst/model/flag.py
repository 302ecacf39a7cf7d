"""FLAG: the scvi-tools-style model class."""

import logging
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rich.pretty  # noqa: F401  view_anndata_setup() of scvi-tools 1.4.2 relies on someone importing it
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager, fields
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin
from scvi.train import TrainRunner

from flagst._checks import require_key
from flagst._keys import LAYERS, OBS, OBSM, PARAM, SLOT, TABLE, UNS
from flagst.data.from_anndata import check_registered, panel_genes, sections_from_anndata
from flagst.data.measured import section_rows
from flagst.data.section import Section
from flagst.data import query as queries
from flagst.model.fitting import GFM_HINT, fit_before_diffusion, gene_embeddings
from flagst.model.loading import require_same_genes, require_same_sections
from flagst.model.predicting import SectionPredictor, predict_layers
from flagst.model.presets import resolve
from flagst.data.record import (
    add_prediction_table,
    check_request,
    is_spatialdata,
    prediction_layers,
    record_prediction,
    table_of,
)
from flagst.model.quiet import quiet_libraries
from flagst.model.spread import calibrate_spread
from flagst.model.training import plain_history, train_diffusion
from flagst.model.validation import StructureScore, StructureStopping, held_out_rows
from flagst.model.windows import split_windows
from flagst.module import FlagModule
from flagst.train import FlagTrainingPlan, WindowSplitter

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = logging.getLogger(__name__)

IMAGE_FIELD = "image_features"
MAX_WHITE = 50


class FLAG(UnsupervisedTrainingMixin, BaseModelClass):
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
        Gene embeddings to align to: ``"coexpression"`` (of the training spots), a key of
        ``adata.varm``, or ``None`` for no alignment.
    seed
        Seed of the network's weights.
    table_key
        Table of a SpatialData.
    **changes
        Any other attribute of :class:`flagst.model.presets.Settings`.

    Raises
    ------
    ValueError
        An unknown preset or choice.

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
        if adata is not None and gfm not in (None, "coexpression"):
            require_key(self.adata.varm, gfm, where="adata.varm", hint=GFM_HINT)
        self.setup_ = dict(self.registry_["setup_args"])
        self.genes_ = [str(gene) for gene in self.setup_["genes"]]
        self.d_features_ = int(self.summary_stats[f"n_{IMAGE_FIELD}"])
        self.fitted_, self.seed_, self.features_ = None, seed, {}
        self.sections_ = [] if adata is None else list(section_rows(self.adata, self.setup_["section_key"]))
        self._reset_module()
        self._model_summary_string = (
            f"FLAG: {len(self.genes_)} genes, target {self.settings_.target}, "
            f"{self.settings_.denoiser} denoiser, alignment {self.settings_.gfm}"
        )
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        section_key: str = OBS.section,
        layer: str | None = None,
        spatial_key: str = OBSM.spatial,
        image_key: str = OBSM.image,
        genes: list[str] | None = None,
        **kwargs,
    ) -> None:
        """Register a table. Cheap: no image is opened.

        Parameters
        ----------
        adata
            Raw counts, ``obs[section_key]``, ``obsm[spatial_key]`` ``(n_spots, 2)`` x then y in
            full-resolution pixels, ``obsm[image_key]`` ``(n_spots, d_image)`` from
            :func:`flagst.pp.image_features`.
        section_key, layer, spatial_key, image_key
            Where to look; ``layer=None`` is X.
        genes
            The panel; ``None`` takes ``var["flagst_panel"]`` if present, else all genes.

        Raises
        ------
        KeyError
            A slot is missing; the message names the call that makes it.
        ValueError
            Contents that cannot be right, see :func:`flagst.data.from_anndata.check_registered`.
        """
        genes = panel_genes(adata, genes)
        check_registered(
            adata, section_key=section_key, spatial_key=spatial_key, image_key=image_key, layer=layer, genes=genes
        )
        arguments = cls._get_setup_method_args(**locals())
        manager = AnnDataManager(
            fields=[
                fields.LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False, correct_data_format=False),
                fields.CategoricalObsField("section", section_key),
                fields.ObsmField("positions", spatial_key),
                fields.ObsmField(IMAGE_FIELD, image_key),
            ],
            setup_method_args=arguments,
        )
        with quiet_libraries():
            manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def setup_spatialdata(cls, sdata: "SpatialData", *, table_key: str = TABLE, **kwargs) -> None:
        """Register the table of a SpatialData, extracting image features first where there are none.

        Parameters
        ----------
        sdata
            Images, shapes and one table, see :func:`flagst.io.check`.
        table_key
            Name of the table.
        **kwargs
            Passed to :meth:`setup_anndata`.
        """
        from flagst import pp

        table = table_of(sdata, table_key)
        image_key, section_key = kwargs.get("image_key", OBSM.image), kwargs.get("section_key", OBS.section)
        if image_key not in table.obsm:
            check_registered(
                table,
                section_key=section_key,
                spatial_key=kwargs.get("spatial_key", OBSM.spatial),
                image_key=None,
                layer=kwargs.get("layer"),
                genes=panel_genes(table, kwargs.get("genes")),
            )
            pp.image_features(sdata, table_key=table_key, section_key=section_key, key_added=image_key)
        cls.setup_anndata(table, **kwargs)

    def train(
        self,
        max_epochs: int | None = None,
        *,
        early_stopping: bool = True,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: dict | None = None,
        datasplitter_kwargs: dict | None = None,
        **trainer_kwargs,
    ) -> None:
        """Fit the regression mean, then train the diffusion of its cross-fitted residual.

        Parameters
        ----------
        max_epochs
            Epochs of about 24 optimiser steps; ``None`` makes ``settings_.max_steps`` steps.
        early_stopping
            Hold one section out of the diffusion (a block of each when there are one or two), stop
            when the structure of draws on it no longer improves, and keep the best weights. The
            denoising loss is no guide: it rises long before the structure of draws gets worse. The
            regression mean uses all sections.
        accelerator, devices
            As in scvi-tools.
        plan_kwargs, datasplitter_kwargs
            For :class:`flagst.train.FlagTrainingPlan` and :class:`flagst.train.WindowSplitter`.
        **trainer_kwargs
            For :class:`scvi.train.Trainer`.

        Writes
        ------
        ``history_`` (losses per epoch), ``fitted_``, and the module's weights: their exponential
        moving average.

        Raises
        ------
        ValueError
            No registered data, or counts that are no counts.

        Warns
        -----
        UserWarning
            With one or two sections: validation and cross-fitting then use spatial blocks.
        """
        self.is_trained_, self.history_ = False, {}
        sections = self._sections(self._registered(), measured=True)
        self.features_ = deepcopy(dict(self.adata.uns.get(UNS.flagst, {}).get(SLOT.features, {})))
        self.fitted_, data = fit_before_diffusion(sections, self.settings_)
        self._reset_module()
        predictors = [self._predictor(s, mean=mean) for s, mean in zip(sections, data.mean, strict=True)]
        held_out = stopping = None
        if early_stopping and self.settings_.regression is not None:
            held_out = held_out_rows(sections)
            stopping = StructureStopping(StructureScore(predictors, held_out))
        if self.settings_.diffusion:
            gfm = self.settings_.gfm
            training, validation = split_windows(predictors, data, held_out)
            train_diffusion(
                self,
                training,
                validation,
                alignment=None if gfm is None else gene_embeddings(self.adata, sections, self.genes_, gfm=gfm),
                stopping=stopping,
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                plan_kwargs=plan_kwargs or {},
                datasplitter_kwargs=datasplitter_kwargs or {},
                **trainer_kwargs,
            )
        if stopping is not None and stopping.score.parts:
            stopping.score.use(self.module.eval())
            residual = calibrate_spread(stopping.score, self.fitted_.residual)
            self.fitted_ = replace(self.fitted_, residual=residual)
        self.is_trained_ = True

    def predict(
        self,
        adata: "AnnData | SpatialData | None" = None,
        *,
        structure: float = 0.5,
        n_samples: int = 1,
        seed: int = 0,
        layer: str = LAYERS.draw,
        return_std: bool = False,
        allow_missing: bool = False,
        table_key: str = TABLE,
    ) -> AnnData:
        """Predict expression: ``clip(m + structure * (d - m))``, one draw ``d`` around the mean ``m``.

        Parameters
        ----------
        adata
            Spots with positions and image features, expression not needed; ``None`` for the
            registered data. Every section must be whole.
        structure
            0 gives the fitted mean, most accurate spot by spot; 1 a full draw, with the variation
            and the correlations of measured expression; values between trade one for the other.
            No effect with ``preset="paper"``, which has no mean to move from.
        n_samples
            Full draws behind the standard deviation. It never changes the prediction itself.
        seed
            Seed of the draw. The noise of a spot is keyed by (seed, section, spot name).
        layer
            Name of the layer.
        return_std
            Write the standard deviation over ``n_samples`` (at least 2) full draws.
        allow_missing
            Predict genes the query lacks; they are marked ``False`` in ``var["flagst_measured"]``.
        table_key
            Table of a SpatialData.

        Returns
        -------
        The query itself when it holds exactly the model's genes, else a new AnnData of them.

        Writes
        ------
        ``layers[layer]``, ``layers[layer + "_mean"]`` and, if asked, ``layers[layer + "_std"]``:
        ``(n_spots, n_genes)`` float32 in the unit of the target, never NaN;
        ``var["flagst_train_pcc"]``, ``uns["flagst"]["params"]``. A SpatialData whose table has
        other genes too gets a second table ``flagst``.

        Raises
        ------
        RuntimeError
            The model is not trained.
        KeyError, ValueError
            The query lacks something, or its image features are of another kind.
        """
        self._require_trained()
        check_request(structure=structure, layer=layer)
        if return_std and n_samples < 2:
            raise ValueError(f"return_std=True needs n_samples of at least 2; got {n_samples}.")
        query = self._registered() if adata is None else table_of(adata, table_key)
        predictors = self._predictors(query)
        table = queries.prediction_table(query, self.genes_, allow_missing=allow_missing)
        n_std = n_samples if return_std else 0
        predicted = predict_layers(predictors, structure=structure, seed=seed, n_std=n_std)
        names = {"draw": layer} | prediction_layers(layer)
        params = {
            PARAM.target: self.settings_.target,
            PARAM.section_key: self.setup_["section_key"],
            "structure": float(structure),
            "seed": int(seed),
            "n_samples": int(n_samples),
            "layer": layer,
        }
        record_prediction(
            table,
            {names[part]: values for part, values in predicted.items()},
            params=params,
            train_pcc=self.fitted_.train_pcc,
            genes=self.genes_,
            history=plain_history(self.history_),
        )
        if table is not query and is_spatialdata(adata):
            add_prediction_table(adata, table, query)
        return table

    def sample(
        self, adata: "AnnData | SpatialData | None" = None, n_samples: int = 8, *, seed: int = 0, table_key: str = TABLE
    ) -> np.ndarray:
        """Full draws, structure 1.

        Parameters
        ----------
        adata, seed, table_key
            As in :meth:`predict`.
        n_samples
            Number of draws; the first is the draw behind :meth:`predict`.

        Returns
        -------
        ``(n_samples, n_spots, n_genes)`` float32 in the unit of the target; genes in the order of
        ``genes_``.
        """
        self._require_trained()
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1; got {n_samples}.")
        query = self._registered() if adata is None else table_of(adata, table_key)
        out = np.empty((n_samples, query.n_obs, len(self.genes_)), dtype=np.float32)
        for rows, predictor in self._predictors(query):
            out[:, rows] = predictor.draws(n_samples, seed)
        return out

    def get_latent_representation(
        self, adata: "AnnData | SpatialData | None" = None, *, table_key: str = TABLE
    ) -> np.ndarray:
        """Spatial context H of every spot, from the image and the positions only.

        Returns
        -------
        ``(n_spots, d_context)`` float32.
        """
        self._require_trained()
        query = self._registered() if adata is None else table_of(adata, table_key)
        parts = [(rows, predictor.context()) for rows, predictor in self._predictors(query)]
        out = np.empty((query.n_obs, parts[0][1].shape[1]), dtype=np.float32)
        for rows, context in parts:
            out[rows] = context
        return out

    def prepare_query(self, adata: "AnnData | SpatialData", *, table_key: str = TABLE) -> AnnData:
        """A table with the model's genes and no expression, for slides that have none.

        Parameters
        ----------
        adata
            Spots with positions, sections and image features; its genes, if any, are left behind.

        Returns
        -------
        AnnData ``(n_spots, n_genes)`` with X ``None``; :meth:`predict` fills its layers.
        """
        return queries.empty_query(table_of(adata, table_key), self.genes_)

    @classmethod
    def load(cls, dir_path: str, adata: AnnData | None = None, **kwargs) -> "FLAG":
        """Load a saved model; no AnnData is needed to predict.

        Parameters
        ----------
        dir_path
            Folder written by ``save``.
        adata
            Training data, only to go on training; genes in any order. New sections are for
            :meth:`predict`.
        **kwargs
            As in scvi-tools.

        Raises
        ------
        KeyError, ValueError
            ``adata`` is not the training data: other genes, sections or image features.
        """
        dir_path = str(dir_path)
        with quiet_libraries():
            if adata is None:
                saved = f"{kwargs.get('prefix') or ''}adata.h5ad"
                return super().load(dir_path, None if (Path(dir_path) / saved).exists() else False, **kwargs)
            model, adata = super().load(dir_path, False, **kwargs), table_of(adata)
            require_same_genes(model.get_var_names(), adata.var_names, where=dir_path)
            sections = model._sections(adata, measured=True)
            require_same_sections(model.sections_, sections, where=dir_path)
            model._check_features(adata, sections[0].image.shape[1])
            return super().load(dir_path, adata, **kwargs)

    def _reset_module(self) -> None:
        """A network with fresh weights, drawn from ``seed``."""
        settings = self.settings_
        latent = settings.denoiser == "latent"
        with torch.random.fork_rng():
            torch.manual_seed(self.seed_)
            self.module = self._module_cls(
                min(MAX_WHITE, self.d_features_),
                len(self.genes_),
                settings.n_latent if latent else len(self.genes_),
                process=settings.process,
                joint=settings.joint and settings.edges,
                denoiser=settings.denoiser,
                condition_on_mean=settings.regression is not None,
                **settings.network,
            )

    def _registered(self) -> AnnData:
        if self.adata is None:
            raise ValueError("This model was loaded without its training data. Pass adata=.")
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

    def _predictors(self, query: AnnData) -> list[tuple[np.ndarray, SectionPredictor]]:
        """Rows and predictor of every section of a query."""
        sections = self._sections(query, measured=False)
        width = sections[0].image.shape[1]
        self._check_features(query, width)
        rows = section_rows(query, self.setup_["section_key"]).values()
        self.module.eval()
        return [(r, self._predictor(s)) for r, s in zip(rows, sections, strict=True)]

    def _check_features(self, adata: AnnData, width: int) -> None:
        image_key = self.setup_["image_key"]
        queries.check_features(adata, self.features_, d_image=self.d_features_, found=width, image_key=image_key)

    def _predictor(self, section: Section, *, mean: np.ndarray | None = None) -> SectionPredictor:
        return SectionPredictor(section, self.fitted_, self.settings_, self.module, mean=mean)
