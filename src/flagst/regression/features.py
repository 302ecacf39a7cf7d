"""Image features of a spot with those of its surroundings, as a small design matrix."""

from dataclasses import dataclass

import numpy as np

from flagst.regression.pca import principal_axes

#: Numbers of nearest spots whose mean features are appended: about two pitches around.
NEIGHBOURHOODS = (18,)
#: Components of the design matrix, and whitened components of a spot itself for the graph encoder, at most.
N_COMPONENTS, N_WHITE = 100, 50


@dataclass(frozen=True)
class ContextFeatures:
    """Standardised image features and neighbourhood means, projected on principal components.

    Features are centred per section: slides differ in staining, and centring takes out what is
    constant over a slide.

    Attributes
    ----------
    scale
        ``(d_image,)`` standard deviation of the centred training features.
    components
        ``(n_components, d_image * (1 + len(neighbourhoods)))``.
    whitening
        ``(n_white, d_image)``: centred, scaled features to unit-variance components of the spot
        itself, the input of the graph encoder.
    neighbourhoods
        Numbers of nearest spots averaged.

    Examples
    --------
    >>> from flagst.regression import ContextFeatures
    >>> import flagst.data.graph
    >>> rng = np.random.default_rng(0)
    >>> image, coords = rng.normal(size=(40, 6)), rng.uniform(size=(40, 2))
    >>> near = flagst.data.graph.knn(coords, 18)[0]
    >>> ContextFeatures.fit([image], [near]).transform(image, near).shape
    (40, 12)
    """

    scale: np.ndarray
    components: np.ndarray
    whitening: np.ndarray
    neighbourhoods: tuple[int, ...] = NEIGHBOURHOODS

    @classmethod
    def fit(
        cls,
        images: list[np.ndarray],
        neighbours: list[np.ndarray],
        *,
        n_components: int = N_COMPONENTS,
        n_white: int = N_WHITE,
        neighbourhoods: tuple[int, ...] = NEIGHBOURHOODS,
    ) -> "ContextFeatures":
        """Fit on training sections.

        Parameters
        ----------
        images
            Per section ``(n_spots, d_image)``.
        neighbours
            Per section ``(n_spots, k)`` indices, nearest first, self excluded.
        n_components, n_white
            Upper bounds; fewer spots or features give fewer.
        neighbourhoods
            Empty for no surroundings.

        Examples
        --------
        >>> from flagst.regression import ContextFeatures
        >>> import flagst.data.graph
        >>> rng = np.random.default_rng(0)
        >>> image, coords = rng.normal(size=(40, 6)), rng.uniform(size=(40, 2))
        >>> near = flagst.data.graph.knn(coords, 18)[0]
        >>> ContextFeatures.fit([image], [near], n_components=5).components.shape
        (5, 12)
        """
        centred = [image - section_centre(image) for image in images]
        scale = np.concatenate(centred).std(axis=0)
        scale = np.where(scale > 1e-8, scale, 1.0)
        scaled = [values / scale for values in centred]
        joined = [_append_means(v, n, neighbourhoods) for v, n in zip(scaled, neighbours, strict=True)]
        components, _ = principal_axes(np.concatenate(joined), n_components)
        axes, sd = principal_axes(np.concatenate(scaled), n_white)
        return cls(scale, components, axes / sd[:, None], tuple(neighbourhoods))

    def transform(
        self,
        image: np.ndarray,
        neighbours: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        centre: np.ndarray | None = None,
    ) -> np.ndarray:
        """Design matrix ``(n_rows, n_components)`` of some spots of a section.

        Parameters
        ----------
        image, neighbours
            ``(n_spots, d_image)`` and ``(n_spots, k)`` of the whole section.
        rows
            ``(n_rows,)`` spots that are wanted; ``None`` for all.
        centre
            :func:`section_centre` of the section, where it is known already.

        Examples
        --------
        >>> from flagst.regression import ContextFeatures
        >>> import flagst.data.graph
        >>> rng = np.random.default_rng(0)
        >>> image, coords = rng.normal(size=(40, 6)), rng.uniform(size=(40, 2))
        >>> near = flagst.data.graph.knn(coords, 18)[0]
        >>> context = ContextFeatures.fit([image], [near])
        >>> some = context.transform(image, near, rows=np.array([3, 7]))
        >>> np.allclose(some, context.transform(image, near)[[3, 7]])
        True
        """
        centre = section_centre(image) if centre is None else centre
        if rows is None:
            return _append_means(self._scaled(image, centre), neighbours, self.neighbourhoods) @ self.components.T
        near = neighbours[rows, : max(self.neighbourhoods, default=0)]
        kept, position = np.unique(np.concatenate([rows, near.ravel()]), return_inverse=True)
        own, near = position[: len(rows)], position[len(rows) :].reshape(near.shape)
        return _append_means(self._scaled(image[kept], centre), near, self.neighbourhoods, own) @ self.components.T

    def whiten(self, image: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
        """``(n_spots, n_white)`` unit-variance components, clipped to +-4.

        ``image`` is that of a whole section, or any part of it with the ``centre`` of the whole.

        Examples
        --------
        >>> from flagst.regression import ContextFeatures
        >>> import flagst.data.graph
        >>> rng = np.random.default_rng(0)
        >>> image, coords = rng.normal(size=(40, 6)), rng.uniform(size=(40, 2))
        >>> near = flagst.data.graph.knn(coords, 18)[0]
        >>> ContextFeatures.fit([image], [near]).whiten(image).shape
        (40, 6)
        """
        scaled = self._scaled(image, section_centre(image) if centre is None else centre)
        return np.clip(scaled @ self.whitening.T, -4, 4)

    def _scaled(self, image: np.ndarray, centre: np.ndarray) -> np.ndarray:
        return (image - centre) / self.scale


def section_centre(image: np.ndarray) -> np.ndarray:
    """Mean features of a section, ``(d_image,)`` float64.

    Examples
    --------
    >>> from flagst.regression import section_centre
    >>> section_centre(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([2., 3.])
    """
    return image.mean(axis=0, dtype=np.float64)


def _append_means(
    values: np.ndarray,
    neighbours: np.ndarray,
    neighbourhoods: tuple[int, ...],
    own: np.ndarray | slice = slice(None),
) -> np.ndarray:
    # neighbour by neighbour: all at once would take 18 times the memory
    near = [neighbours[:, :k].T for k in neighbourhoods]
    return np.hstack([values[own], *[sum(values[n] for n in columns) / len(columns) for columns in near]])
