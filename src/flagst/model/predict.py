"""What a trained model does with a query: predictions, posterior samples, the spatial context."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from flagst._checks import require_unique
from flagst._keys import LAYERS, PARAM, TABLE
from flagst.data.measured import section_rows
from flagst.data.prediction_record import check_request, table_of, write_prediction
from flagst.data.prediction_table import empty_query, prediction_table
from flagst.model.predict_to_zarr import predict_to_zarr
from flagst.model.tradeoff import front
from flagst.model.training import plain_history
from flagst.sampling.layers import compute_layers, layer_names
from flagst.sampling.out_of_distribution import query_scores
from flagst.sampling.quantiles import calibration_record, require_calibrated
from flagst.sampling.sampler import WINDOW_SPOTS, SectionPart, SectionSampler
from flagst.sampling.unmeasured_genes import GeneSamples

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from flagst.data.prediction_store import ArrayFolder


logger = logging.getLogger(__name__)


class Prediction:
    """Everything that comes after training; a part of :class:`flagst.FLAG`."""

    def predict(
        self,
        adata: "AnnData | SpatialData | None" = None,
        *,
        structure: float = 0.5,
        n_samples: int = 1,
        seed: int = 0,
        layer: str = LAYERS.draw,
        return_std: bool = False,
        quantiles: Sequence[float] = (),
        genes: Sequence[str] | None = None,
        allow_missing: bool = False,
        window_spots: int | None = None,
        table_key: str = TABLE,
    ) -> AnnData:
        """Predict expression: ``clip(m + structure * (d - m))``, with one posterior sample ``d`` and the mean ``m``.

        Parameters
        ----------
        adata
            Spots with positions and image features. Expression is not needed. ``None`` takes the registered data. Every
            section must be whole.
        structure
            From 0 to 1. 0 gives the fitted mean, which is most accurate spot by spot. 1 gives a posterior sample, which
            varies over the tissue as measured expression does. Values between trade accuracy for structure. The
            residual of each gene is rescaled so that its Moran's I matches the training sections, as far as the tissue
            is in distribution: see :func:`flagst.sampling.moran_matching.moran_factors`. No effect with
            ``preset="paper"``, which has no mean.
        n_samples
            Posterior samples behind the standard deviation and the quantiles. The prediction itself does not depend on
            it.
        seed
            Seed of the sample. The noise of a spot is keyed by (seed, section, spot name), so that it does not depend
            on the order of spots.
        layer
            Name of the layer.
        return_std
            Write the standard deviation over ``n_samples`` (at least 2) posterior samples, not calibrated.
        quantiles
            Levels to write, such as ``(0.05, 0.95)`` for 90 % intervals, from ``n_samples`` (at least 20) posterior
            samples. They are calibrated per gene, from 0.01 to 0.99, on tissue that was held out of the denoiser's
            training: see :class:`flagst.sampling.quantiles.IntervalCalibration`. The calibration is empirical. Three or
            four sections give no finite-sample guarantee for a new section, and none for another patient.
        genes
            Genes to predict; ``None`` for the panel. Also genes **that were not in training**, where the model was made
            with ``gfm=`` a key of ``adata.varm`` in which they have a vector: see
            :class:`flagst.regression.GeneTransfer`. They are marked ``False`` in ``var["flagst_trained"]``. Their level
            is uncertain: compare spots, not genes. They have no quantiles.
        allow_missing
            Predict genes that the query lacks. They are marked ``False`` in ``var["flagst_measured"]``.
        window_spots
            Sections with more spots are predicted in windows of so many, each with its surroundings. The numbers are
            the same up to rounding. ``None`` for 4,096, and fewer where there are very many genes. See
            :meth:`predict_to_zarr` for predictions that do not fit in memory.
        table_key
            Table of a SpatialData.

        Returns
        -------
        The query itself when it holds exactly the predicted genes, else a new AnnData of them.

        Writes
        ------
        ``layers[layer]``, ``layers[layer + "_mean"]`` and, if asked, ``layers[layer + "_std"]`` and
        ``layers[layer + "_q05"]`` (digits of the level): ``(n_spots, n_genes)`` float32 in the unit of the target, 0 or
        more, never NaN.

        ``obs["flagst_ood"]``: ``(n_spots,)`` float64, how far the tissue of a spot is from the training images. Above 1
        it is further away than 95 % of the spots of left-out training sections: see
        :class:`flagst.sampling.out_of_distribution.OutOfDistribution`.

        ``var["flagst_train_pcc"]`` (NaN for genes that were not in training), ``var["flagst_trained"]``,
        ``uns["flagst"]["params"]``, and ``uns["flagst"]["predictions"][layer]``: how the layer was made. With quantiles
        also ``uns["flagst"]["calibration"][layer]``: the share of held-out values below them, before and after
        calibration.

        A SpatialData whose table has other genes too gets a second table ``flagst``, in which earlier predictions of
        the same spots and genes stay.

        Raises
        ------
        RuntimeError
            The model is not trained.
        KeyError, ValueError
            The query lacks something, its image features are of another kind, or an argument is out of range.

        Warns
        -----
        UserWarning
            Quantiles are not calibrated, as nothing was held out in training.

        Examples
        --------
        >>> prediction = model.predict(adata, structure=0.5, n_samples=20, quantiles=(0.05, 0.95))
        >>> [name for name in ("flagst", "flagst_mean", "flagst_std", "flagst_q95") if name in prediction.layers]
        ['flagst', 'flagst_mean', 'flagst_q95']
        """
        self._require_trained()
        request = {"structure": structure, "n_samples": n_samples, "return_std": return_std}
        request["quantiles"] = tuple(quantiles)
        self._check_request(layer=layer, window_spots=window_spots, **request)
        query = self._registered() if adata is None else table_of(adata, table_key)
        wanted = self.genes_ if genes is None else self._wanted(genes, quantiles=request["quantiles"])
        samplers = self._samplers(query, n_genes=len(wanted), window_spots=window_spots)
        table = prediction_table(
            query, wanted, allow_missing=allow_missing, panel=genes is None, counts_layer=self.setup_["layer"]
        )
        layers = layer_names(return_std, request["quantiles"])
        predicted = {name: np.empty((query.n_obs, len(wanted)), np.float32) for name in layers}
        for rows, sampler in samplers:
            for places, part in sampler.parts(self._n_held(**request)):
                for name, values in self._compute_layers(part, wanted, seed=seed, **request).items():
                    predicted[name][rows[places]] = values
        record = self._record(wanted, samplers, layer=layer, seed=seed, **request)
        return write_prediction(adata, query, table, predicted, **record)

    predict_to_zarr = predict_to_zarr

    def sample(
        self, adata: "AnnData | SpatialData | None" = None, n_samples: int = 8, *, seed: int = 0, table_key: str = TABLE
    ) -> np.ndarray:
        """Posterior samples: structure 1.

        Parameters
        ----------
        adata, seed, table_key
            As in :meth:`predict`.
        n_samples
            Number of samples. With a regression mean the first is the sample behind :meth:`predict`.

        Returns
        -------
        ``(n_samples, n_spots, n_genes)`` float32 in the unit of the target, 0 or more; genes in the order of
        ``genes_``.

        Raises
        ------
        RuntimeError
            The model is not trained.
        KeyError, ValueError
            As :meth:`predict`; ``n_samples`` is below 1.

        Examples
        --------
        >>> model.sample(adata, n_samples=3).shape == (3, *adata.shape)
        True
        """
        self._require_trained()
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1; got {n_samples}.")
        query = self._registered() if adata is None else table_of(adata, table_key)
        out = np.empty((n_samples, query.n_obs, len(self.genes_)), dtype=np.float32)
        for rows, sampler in self._samplers(query):
            out[:, rows] = sampler.samples(n_samples, seed)
        return out

    def get_latent_representation(
        self, adata: "AnnData | SpatialData | None" = None, *, table_key: str = TABLE
    ) -> np.ndarray:
        """Spatial context H of every spot: the output of the graph encoder, not the latent state of the diffusion.

        It depends on the image and the positions only.

        Parameters
        ----------
        adata, table_key
            As in :meth:`predict`.

        Returns
        -------
        ``(n_spots, n_networks * d_context)`` float32: the contexts of the cross-fitted networks side by side.

        Raises
        ------
        RuntimeError
            The model is not trained.
        KeyError, ValueError
            As :meth:`predict`.

        Examples
        --------
        >>> adata.obsm["X_flagst"] = model.get_latent_representation(adata)
        >>> adata.obsm["X_flagst"].shape
        (180, 48)
        """
        self._require_trained()
        query = self._registered() if adata is None else table_of(adata, table_key)
        parts = [(rows, sampler.context()) for rows, sampler in self._samplers(query)]
        out = np.empty((query.n_obs, parts[0][1].shape[1]), dtype=np.float32)
        for rows, context in parts:
            out[rows] = context
        return out

    def prepare_query(
        self, adata: "AnnData | SpatialData", *, genes: Sequence[str] | None = None, table_key: str = TABLE
    ) -> AnnData:
        """A table with the genes to predict and no expression, for slides that have none.

        Parameters
        ----------
        adata
            Spots with positions, sections and image features. Its genes, if any, are not used.
        genes, table_key
            As in :meth:`predict`.

        Returns
        -------
        AnnData ``(n_spots, n_genes)`` with X ``None``; :meth:`predict` fills its layers.

        Raises
        ------
        RuntimeError
            ``genes`` are given, and the model is not trained.
        KeyError, TypeError, ValueError
            No such table, or genes that the model cannot predict.

        Examples
        --------
        >>> query = model.prepare_query(adata)
        >>> query.X is None, query.n_vars
        (True, 20)
        """
        if genes is not None:
            self._require_trained()  # it is training that says which genes there are vectors of
        wanted = self.genes_ if genes is None else self._wanted(genes, quantiles=())
        return empty_query(table_of(adata, table_key), wanted)

    front = front

    def _wanted(self, genes: Sequence[str], *, quantiles: tuple[float, ...]) -> list[str]:
        """Genes asked for, when they can be predicted."""
        wanted = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
        require_unique(wanted, where="genes=", hint="Name each gene once.")
        if not wanted:
            raise ValueError("genes= is empty. Leave it out for the panel.")
        if wanted == self.genes_:
            return wanted
        if self.fitted_.latent is None:
            raise ValueError("Without a regression mean (preset='paper') only the whole panel can be predicted.")
        panel, known = set(self.genes_), set() if self.unmeasured_ is None else set(self.unmeasured_.names)
        unknown = [gene for gene in wanted if gene not in panel and gene not in known]
        if unknown:
            raise ValueError(
                f"The model was not trained on {unknown[:5]} ({len(unknown)} genes), and has no vectors for them; it "
                f"knows vectors of {len(known)} genes beside its panel. Train with gfm= a key of adata.varm that holds "
                "vectors of these genes too: flagst.pp.gene_embeddings(adata, source, genes=...), after "
                "flagst.pp.add_genes(adata, genes) where the table lacks them."
            )
        if quantiles:
            raise ValueError("Quantiles are calibrated for the panel as a whole. Leave out quantiles= or genes=.")
        return wanted

    def _check_request(self, *, layer: str, window_spots: int | None, **request) -> None:
        """Raise a ``ValueError`` for arguments that are out of range."""
        check_request(layer=layer, counts_layer=self.setup_["layer"], **request)
        require_calibrated(self.intervals_, request["quantiles"])
        if window_spots is not None and window_spots < 1:
            raise ValueError(f"window_spots must be at least 1; got {window_spots}. Leave it out for {WINDOW_SPOTS}.")

    def _n_held(self, *, n_samples: int, return_std: bool, quantiles: tuple[float, ...], **request) -> int:
        """Posterior samples that a prediction holds at once."""
        own = 1 if self.fitted_.latent is not None else self.settings_.n_average
        return max(own, n_samples if return_std or quantiles else 1)

    def _compute_layers(self, part: SectionPart, wanted: list[str], **request) -> dict[str, np.ndarray]:
        """Layers of some spots for the genes that are wanted."""
        if wanted != self.genes_:
            part = GeneSamples(part, self.genes_, wanted, self.unmeasured_)
        return compute_layers(part, intervals=self.intervals_, **request)

    def _record(
        self,
        wanted: list[str],
        samplers: list[tuple[np.ndarray, SectionSampler]],
        *,
        layer: str,
        structure: float,
        seed: int,
        n_samples: int,
        quantiles: tuple[float, ...],
        **request,
    ) -> dict:
        """What a prediction says of itself, for :func:`flagst.data.prediction_record.write_prediction`."""
        train_pcc = dict(zip(self.genes_, self.fitted_.train_pcc, strict=True))
        params = {
            PARAM.target: self.settings_.target,
            PARAM.section_key: self.setup_["section_key"],
            PARAM.structure: float(structure),
            PARAM.seed: int(seed),
            PARAM.n_samples: int(n_samples),
            PARAM.counts_layer: self.setup_["layer"],
            PARAM.model: type(self).__name__,
        }
        return {
            "layer": layer,
            "params": params,
            "train_pcc": np.array([train_pcc.get(gene, np.nan) for gene in wanted]),
            "genes": wanted,
            "trained": np.array([gene in train_pcc for gene in wanted]),
            "history": plain_history(self.history_),
            "ood": query_scores(self.ood_, samplers),
            "quantiles": quantiles,
            "calibration": calibration_record(self.intervals_, quantiles) if quantiles else None,
        }

    def _samplers(
        self, query: AnnData, *, states: "Callable[[int], ArrayFolder] | None" = None, **windows
    ) -> list[tuple[np.ndarray, SectionSampler]]:
        """Rows and sampler of every section of a query.

        ``states`` says where the states of a section are kept, by its number; ``windows`` as in
        :class:`SectionSampler`.
        """
        sections = self._sections(query, measured=False)
        self._check_features(query, sections[0].image.shape[1])
        rows = section_rows(query, self.setup_["section_key"]).values()
        self.module.eval()
        foreign = sorted({s.layout for s in sections} - set(self.fitted_.moran))
        if foreign and self.fitted_.latent is not None and self.settings_.match_moran:
            logger.warning(
                "Spot layout %s was not among the training sections' (%s): Moran's I of samples is not matched.",
                ", ".join(foreign), ", ".join(sorted(self.fitted_.moran)),
            )  # fmt: skip
        samplers = []
        for number, section in enumerate(sections):
            # Moran's I of the training sections holds as far as spots are in distribution
            weight = float((self.ood_.score(section.image) <= 1).mean())
            parts = section, self.fitted_, self.settings_, self.module
            kept = None if states is None else states(number)
            samplers.append(SectionSampler(*parts, moran_weight=weight, states=kept, **windows))
        return list(zip(rows, samplers, strict=True))
