"""Image features of a spot with those of its surroundings, as a small design matrix."""

from dataclasses import dataclass

import numpy as np

from flagst.regression.axes import principal_axes

#: Numbers of nearest spots whose mean features are appended: about two pitches around.
NEIGHBOURHOODS = (18,)


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
        n_components: int = 100,
        n_white: int = 50,
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
        """
        centred = [image - image.mean(axis=0, dtype=np.float64) for image in images]
        scale = np.concatenate(centred).std(axis=0)
        scale = np.where(scale > 1e-8, scale, 1.0)
        scaled = [values / scale for values in centred]
        joined = [_append_means(v, n, neighbourhoods) for v, n in zip(scaled, neighbours, strict=True)]
        components, _ = principal_axes(np.concatenate(joined), n_components)
        axes, sd = principal_axes(np.concatenate(scaled), n_white)
        return cls(scale, components, axes / sd[:, None], tuple(neighbourhoods))

    def transform(self, image: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
        """Design matrix ``(n_spots, n_components)`` of a whole section."""
        scaled = self._scaled(image)
        return _append_means(scaled, neighbours, self.neighbourhoods) @ self.components.T

    def whiten(self, image: np.ndarray) -> np.ndarray:
        """``(n_spots, n_white)`` unit-variance components of a whole section, clipped to +-4."""
        return np.clip(self._scaled(image) @ self.whitening.T, -4, 4)

    def _scaled(self, image: np.ndarray) -> np.ndarray:
        return (image - image.mean(axis=0, dtype=np.float64)) / self.scale


def _append_means(values: np.ndarray, neighbours: np.ndarray, neighbourhoods: tuple[int, ...]) -> np.ndarray:
    means = [values[neighbours[:, :k]].mean(axis=1) for k in neighbourhoods]
    return np.hstack([values, *means])
