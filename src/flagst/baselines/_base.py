"""The interface that all baselines share with FLAG: set up, train, predict."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_one_of, require_whole
from flagst._keys import LAYERS, OBS, OBSM, PARAM, SLOT, TABLE, UNS
from flagst.data.from_anndata import check_registered, panel_genes, sections_from_anndata
from flagst.data.measured import counts_name, section_rows
from flagst.data.prediction_record import check_request, table_of, write_prediction
from flagst.data.prediction_table import check_features, prediction_table
from flagst.data.sections import Section
from flagst.data.targets import TARGETS

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


@dataclass(frozen=True)
class BaselineSetup:
    """Where a table keeps what a baseline reads; the arguments of :meth:`Baseline.setup_anndata`."""

    section_key: str = OBS.section
    layer: str | None = None
    spatial_key: str = OBSM.spatial
    image_key: str = OBSM.image
    genes: list[str] | None = None

    @classmethod
    def recorded(cls, adata: "AnnData") -> "BaselineSetup":
        """What :meth:`Baseline.setup_anndata` wrote into a table; the defaults where it was not called."""
        found = dict(adata.uns.get(UNS.flagst, {}).get(SLOT.setup, {}))
        return cls(**found | ({"genes": list(found["genes"])} if found else {}))

    def record(self, adata: "AnnData") -> None:
        """Write it into a table, with plain values only."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        adata.uns[UNS.flagst] = dict(adata.uns.get(UNS.flagst, {})) | {SLOT.setup: found}

    def checked(self, adata: "AnnData") -> tuple["BaselineSetup", float | None]:
        """Itself with the names of the genes, after all checks of a table; and its first count that is not whole."""
        setup = replace(self, genes=panel_genes(adata, self.genes))
        return setup, check_registered(adata, **asdict(setup))


class Baseline(ABC):
    """A prediction to compare FLAG with.

    It has FLAG's own ``setup_anndata``, ``train`` and ``predict``. A seed gives one draw, and there is no standard
    deviation. ``sample``, ``save``, ``load`` and the registration of a SpatialData are FLAG's alone.

    Parameters
    ----------
    adata
        Training table, or a SpatialData whose ``"table"`` it is. Without a call of :meth:`setup_anndata` it is read
        with the defaults of that method.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``; predictions come back in this unit.
    setup
        What a FLAG model has registered and checked, used by :meth:`flagst.FLAG.front`; otherwise leave it out.

    Raises
    ------
    KeyError
        A slot of the table is missing; the message names the call that makes it.
    TypeError
        ``adata`` is neither an AnnData nor a SpatialData.
    ValueError
        An unknown target, contents that cannot be right, fewer than 50 spots, or counts that are no whole numbers for
        another target than ``"identity"``.
    """

    #: Whether ``structure`` changes what is predicted.
    has_dial = False

    def __init__(self, adata: "AnnData | SpatialData", *, target: str = "lognorm", setup: BaselineSetup | None = None):
        require_one_of(target, TARGETS, name="target")
        self.adata, self.target = table_of(adata), target
        if setup is None:
            setup, fraction = BaselineSetup.recorded(self.adata).checked(self.adata)
            if target != "identity":
                require_whole(fraction, where=counts_name(setup.layer))
        self.setup_, self.genes_ = setup, setup.genes
        self.is_trained_ = False
        #: (n_genes,) cross-fitted Pearson correlation on the training spots; None where there is none.
        self.train_pcc_: np.ndarray | None = None

    @classmethod
    def setup_anndata(
        cls,
        adata: "AnnData",
        *,
        section_key: str = OBS.section,
        layer: str | None = None,
        spatial_key: str = OBSM.spatial,
        image_key: str = OBSM.image,
        genes: list[str] | None = None,
    ) -> None:
        """Check a table and record where it keeps what; valid for every baseline.

        It is needed only where a table keeps something elsewhere than under the defaults.

        Parameters
        ----------
        adata
            Training table: raw counts, ``obs[section_key]``, ``obsm[spatial_key]`` ``(n_spots, 2)`` x then y in
            full-resolution pixels, ``obsm[image_key]`` ``(n_spots, d_image)``.
        section_key, layer, spatial_key, image_key
            Where to look; ``layer=None`` is X.
        genes
            The panel; ``None`` takes ``var["flagst_panel"]`` if present, else all genes.

        Writes
        ------
        ``uns["flagst"]["setup"]``: the arguments, which go with copies of the table and into its files.

        Raises
        ------
        KeyError
            A slot is missing; the message names the call that makes it.
        TypeError
            A SpatialData: pass its table.
        ValueError
            Contents that cannot be right, or fewer than 50 spots.

        Examples
        --------
        >>> flagst.baselines.Ridge.setup_anndata(adata, genes=["SIM001", "SIM004"])
        >>> flagst.baselines.Ridge(adata).genes_
        ['SIM001', 'SIM004']
        """
        setup = BaselineSetup(section_key, layer, spatial_key, image_key, genes)
        setup.checked(adata)[0].record(adata)

    def train(self) -> None:
        """Fit on the registered table.

        Raises
        ------
        KeyError, ValueError
            The table has changed since it was checked.

        Examples
        --------
        >>> knn = flagst.baselines.KNN(adata)
        >>> knn.train()
        >>> knn.is_trained_
        True
        """
        setup = asdict(self.setup_)
        self.features_ = dict(self.adata.uns.get(UNS.flagst, {}).get(SLOT.features, {}))
        sections = sections_from_anndata(self.adata, target=self.target, **setup)
        self.d_features_ = sections[0].image.shape[1]
        self._fit(sections)
        self.is_trained_ = True

    def predict(
        self,
        adata: "AnnData | SpatialData | None" = None,
        *,
        structure: float = 0.5,
        seed: int = 0,
        layer: str = LAYERS.draw,
        allow_missing: bool = False,
        table_key: str = TABLE,
    ) -> "AnnData":
        """Predict expression as :meth:`flagst.FLAG.predict` does, without ``n_samples`` and ``return_std``.

        Parameters
        ----------
        adata
            Query with whole sections, positions and image features; ``None`` for the training table.
        structure
            Between 0, which gives the mean, and 1, which gives a full draw. Baselines without noise ignore it.
        seed
            Seed of the draw. The noise of a spot depends on the seed, its section and its name, not on the other
            spots. Baselines without noise ignore it.
        layer
            Name of the layer.
        allow_missing
            Predict genes the query lacks; they are marked ``False`` in ``var["flagst_measured"]``.
        table_key
            Table of a SpatialData.

        Returns
        -------
        The query itself when it holds exactly the model's genes, else a new AnnData of them.

        Writes
        ------
        ``layers[layer]`` and ``layers[layer + "_mean"]``, (n_spots, n_genes) float32 in the unit of the
        target; ``uns["flagst"]["params"]``; ``var["flagst_train_pcc"]`` where a cross-fitted one exists.

        Raises
        ------
        RuntimeError
            Not trained.
        KeyError
            The query lacks positions or image features.
        ValueError
            The query lacks genes, its features are of another kind, ``structure`` is out of range, or ``layer`` has a
            ``/`` or is that of the raw counts.

        Examples
        --------
        >>> ridge = flagst.baselines.Ridge(adata)
        >>> ridge.train()
        >>> prediction = ridge.predict(adata.copy(), layer="ridge")
        >>> prediction.layers["ridge"].shape == prediction.layers["ridge_mean"].shape == adata.shape
        True
        """
        if not self.is_trained_:
            raise RuntimeError(f"{type(self).__name__} is not trained. Run train() first.")
        check_request(structure=structure, layer=layer, counts_layer=self.setup_.layer)
        query = self.adata if adata is None else table_of(adata, table_key)
        sections = self._query_sections(query)
        table = prediction_table(query, self.genes_, allow_missing=allow_missing, counts_layer=self.setup_.layer)
        predicted = {part: np.empty((query.n_obs, len(self.genes_)), np.float32) for part in ("draw", "mean")}
        rows = section_rows(query, self.setup_.section_key)
        for section in sections:
            drawn, mean = self._predict_section(section, structure=structure, seed=seed)
            predicted["draw"][rows[section.name]], predicted["mean"][rows[section.name]] = drawn, mean
        params = {
            PARAM.target: self.target,
            PARAM.section_key: self.setup_.section_key,
            PARAM.structure: float(structure),
            PARAM.seed: int(seed),
            PARAM.counts_layer: self.setup_.layer,
            PARAM.model: type(self).__name__,
        }
        return write_prediction(
            adata, query, table, predicted, layer=layer, params=params, train_pcc=self.train_pcc_, genes=self.genes_
        )

    def _query_sections(self, query: "AnnData") -> list[Section]:
        """Sections of a query, expression not needed."""
        keys = {name: getattr(self.setup_, name) for name in ("section_key", "spatial_key", "image_key")}
        sections = sections_from_anndata(query, **keys)
        width = sections[0].image.shape[1]
        image_key = self.setup_.image_key
        check_features(query, self.features_, d_image=self.d_features_, found=width, image_key=image_key)
        return sections

    @abstractmethod
    def _fit(self, sections: list[Section]) -> None:
        """Fit on sections with targets."""

    @abstractmethod
    def _predict_section(self, section: Section, *, structure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Prediction and mean of a section, each ``(n_spots, n_genes)`` in the unit of the target."""
