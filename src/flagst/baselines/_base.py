"""The interface every baseline shares with FLAG: setup, train, predict."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from flagst._checks import require_one_of
from flagst._keys import LAYERS, OBS, OBSM, PARAM, SLOT, TABLE, UNS
from flagst.data.from_anndata import check_registered, panel_genes, sections_from_anndata
from flagst.data.measured import section_rows
from flagst.data.prediction_record import check_request, table_of, write_prediction
from flagst.data.prediction_table import check_features, prediction_table
from flagst.data.sections import Section
from flagst.data.targets import TARGETS

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


@dataclass(frozen=True)
class Registration:
    """Where a table keeps what a baseline reads; the arguments of :meth:`Baseline.setup_anndata`."""

    section_key: str
    layer: str | None
    spatial_key: str
    image_key: str
    genes: list[str]


#: ``id(adata)`` -> its registration, forgotten together with the AnnData.
_REGISTERED: dict[int, Registration] = {}


class Baseline(ABC):
    """A prediction to compare FLAG with.

    Behind FLAG's own ``setup_anndata``, ``train`` and ``predict``. There is one draw per seed and no standard
    deviation: ``n_samples``, ``return_std`` and ``sample`` are FLAG's alone, and so are saving, loading and
    the registration of a SpatialData.

    Parameters
    ----------
    adata
        Training table, or a SpatialData whose ``"table"`` it is. Registered with the defaults of
        :meth:`setup_anndata` unless that was called on it.
    target
        ``"lognorm"``, ``"log2"`` or ``"identity"``; predictions come back in this unit.

    Raises
    ------
    KeyError, ValueError
        As :meth:`setup_anndata`; an unknown target.
    """

    #: Whether ``structure`` changes what is predicted.
    has_dial = False

    def __init__(self, adata: "AnnData | SpatialData", *, target: str = "lognorm"):
        require_one_of(target, TARGETS, name="target")
        self.adata, self.target = table_of(adata), target
        self.setup_ = _REGISTERED.get(id(self.adata)) or _register(self.adata)
        self.genes_ = self.setup_.genes
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
        """Check a table and remember where it keeps what; valid for every baseline. Optional.

        Parameters
        ----------
        adata, section_key, layer, spatial_key, image_key, genes
            As in :meth:`flagst.FLAG.setup_anndata`. Nothing is written to ``adata``.

        Raises
        ------
        KeyError
            A slot is missing; the message names the call that makes it.
        ValueError
            Contents that cannot be right, fewer than 50 spots included.
        """
        _REGISTERED[id(adata)] = _register(
            adata,
            section_key=section_key,
            layer=layer,
            spatial_key=spatial_key,
            image_key=image_key,
            genes=genes,
        )
        weakref.finalize(adata, _REGISTERED.pop, id(adata), None)

    def train(self) -> None:
        """Fit on the registered table."""
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
            0 gives the mean, 1 a full draw. Baselines without noise ignore it.
        seed
            Seed of the draw. The noise of a spot is keyed by (seed, section, spot name). Baselines
            without noise ignore it.
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
        KeyError, ValueError
            The query lacks something, its features are of another kind, ``structure`` is out of range, or
            ``layer`` has a ``/``.
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


@contextmanager
def registered(adata: "AnnData", **setup) -> Iterator[None]:
    """Baselines made in here read a table as ``setup`` says, the arguments of :meth:`Baseline.setup_anndata`."""
    before = _REGISTERED.get(id(adata))
    _REGISTERED[id(adata)] = Registration(**setup)
    try:
        yield
    finally:
        _REGISTERED.pop(id(adata))
        if before is not None:
            _REGISTERED[id(adata)] = before


def _register(
    adata: "AnnData",
    *,
    section_key: str = OBS.section,
    layer: str | None = None,
    spatial_key: str = OBSM.spatial,
    image_key: str = OBSM.image,
    genes: list[str] | None = None,
) -> Registration:
    registration = Registration(section_key, layer, spatial_key, image_key, panel_genes(adata, genes))
    check_registered(adata, **asdict(registration))
    return registration
