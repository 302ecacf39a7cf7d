"""Registration of training data: the checks, and which slots of a table a model reads."""

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager, fields

from flagst._checks import require_whole
from flagst._keys import OBS, OBSM, TABLE
from flagst.data.from_anndata import check_registered, panel_genes
from flagst.data.measured import counts_name
from flagst.data.prediction_record import record_setup, table_of
from flagst.train.quiet import quiet_libraries

if TYPE_CHECKING:
    from spatialdata import SpatialData

IMAGE_FIELD = "image_features"
#: Key in a registry: the first count that is no whole number, ``None`` when all are.
FRACTION = "first_fraction"


class SectionField(fields.CategoricalObsField):
    """The column of sections. It leaves out categories without a spot, which a subset of a larger table keeps."""

    def register_field(self, adata: AnnData) -> dict:
        """Register the sections that have spots, and the number of the section of every spot."""
        state = super().register_field(adata)
        used, code = np.unique(adata.obs[self.attr_key], return_inverse=True)
        adata.obs[self.attr_key] = code
        return state | {self.CATEGORICAL_MAPPING_KEY: state[self.CATEGORICAL_MAPPING_KEY][used]}


class Registration:
    """The two ways to register training data; a part of :class:`flagst.FLAG`."""

    def _require_whole_counts(self) -> None:
        """Raise a ``ValueError`` for registered counts that are no whole numbers, where the target needs them."""
        if self.settings_.target != "identity":
            where = counts_name(self.registry_["setup_args"]["layer"])
            require_whole(self.registry_[FRACTION], where=where)

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
        """Check and register a table. No image is opened, and counts are read 4,096 spots at a time.

        Parameters
        ----------
        adata
            Raw counts ``(n_spots, n_genes)``, ``obs[section_key]``, ``obsm[spatial_key]`` ``(n_spots, 2)`` x then y in
            full-resolution pixels, and ``obsm[image_key]`` ``(n_spots, d_image)`` from
            :func:`flagst.pp.image_features`.
        section_key, layer, spatial_key, image_key
            Where to look; ``layer=None`` is X.
        genes
            The panel; ``None`` takes ``var["flagst_panel"]`` if present, else all genes.
        **kwargs
            Of scvi-tools, which passes a registry when it transfers one.

        Writes
        ------
        ``uns["flagst"]["params"]``: the section column and the layer of raw counts, for the tools that come after; and
        the slots of scvi-tools, ``uns["_scvi_uuid"]``, ``uns["_scvi_manager_uuid"]`` and ``obs["_scvi_section"]``.

        Raises
        ------
        KeyError
            A slot is missing; the message names the call that makes it.
        TypeError
            A SpatialData: see :meth:`setup_spatialdata`.
        ValueError
            Fewer than 50 spots, a section of one spot, names that are not unique, positions, features or counts that
            are not finite, negative counts, or spots or genes without any count. Counts that are no whole numbers are
            refused later, by the constructor, as it knows the target.

        Examples
        --------
        >>> flagst.FLAG.setup_anndata(adata, genes=["SIM001", "SIM004"])
        >>> flagst.FLAG(adata).genes_
        ['SIM001', 'SIM004']
        """
        genes = panel_genes(adata, genes)
        arguments = cls._get_setup_method_args(**locals())
        fraction = check_registered(
            adata, section_key=section_key, spatial_key=spatial_key, image_key=image_key, layer=layer, genes=genes
        )
        manager = AnnDataManager(
            fields=[
                fields.LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False, correct_data_format=False),
                SectionField("section", section_key),
                fields.ObsmField("positions", spatial_key),
                fields.ObsmField(IMAGE_FIELD, image_key),
            ],
            setup_method_args=arguments,
        )
        with quiet_libraries():
            manager.register_fields(adata, **kwargs)
        manager.registry[FRACTION] = fraction
        cls.register_manager(manager)
        record_setup(adata, section_key=section_key, counts_layer=layer)

    @classmethod
    def setup_spatialdata(cls, sdata: "SpatialData", *, table_key: str = TABLE, **kwargs) -> None:
        """Register the table of a SpatialData. Where it has no image features, they are extracted first.

        Parameters
        ----------
        sdata
            Images, shapes and one table, see :func:`flagst.io.check`.
        table_key
            Name of the table.
        **kwargs
            Passed to :meth:`setup_anndata`.

        Writes
        ------
        What :meth:`setup_anndata` writes, and ``obsm[image_key]``, ``(n_spots, d_image)``, where it was missing: see
        :func:`flagst.pp.image_features`.

        Raises
        ------
        KeyError, TypeError, ValueError
            As :meth:`setup_anndata`; no such table; or images that features cannot be extracted from.

        Examples
        --------
        >>> flagst.FLAG.setup_spatialdata(sdata)
        >>> flagst.FLAG(sdata).adata is sdata.tables["table"]
        True
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
