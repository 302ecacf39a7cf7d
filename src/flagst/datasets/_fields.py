"""Outlines, spot arrays and random fields of simulated sections, on a grid that is coarser than the image."""

import numpy as np

UM_PER_PX = 1.0
PITCH_UM = 100.0
SPOT_DIAMETER_UM = 65.0
GRID_PX = 8  # pixels per grid point
MARGIN_UM = 130.0  # empty slide around the tissue


def lay_out(n_spots: int, rng: np.random.Generator) -> tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]:
    """A tissue outline with exactly ``n_spots`` spots of a hexagonal array.

    Returns
    -------
    Shape of the coarse grid; distance to the border of the tissue on it (micrometres, positive inside); array row and
    column of the spots (n_spots, 2); and their coordinates (n_spots, 2), x then y, micrometres.
    """
    row_um = PITCH_UM * np.sqrt(3) / 2
    radius = np.sqrt(n_spots * PITCH_UM * row_um) / 2  # half the side of a square with this many spots
    side = int(np.ceil(2 * (radius * 1.08 + MARGIN_UM) / (GRID_PX * UM_PER_PX)))
    grid = (side, side)
    step = GRID_PX * UM_PER_PX
    axis = (np.arange(side) + 0.5) * step - side * step / 2
    distance = (np.abs(axis[:, None]) ** 4 + np.abs(axis[None, :]) ** 4) ** 0.25
    edge = side * step / 2 - np.maximum(np.abs(axis[:, None]), np.abs(axis[None, :]))
    ragged = distance + 0.1 * radius * field(grid, max(radius / 3, 80), rng)
    ragged += 4 * np.clip(MARGIN_UM - edge, 0, None)  # keep the tissue away from the border of the image

    rows, columns = np.indices((int(side * step / row_um), int(side * step / PITCH_UM))).reshape(2, -1)
    coords = np.column_stack([(columns + 0.5 * (rows % 2) + 0.5) * PITCH_UM, (rows + 0.5) * row_um])
    height = sample(ragged, coords)
    chosen = np.sort(np.argsort(height, kind="stable")[:n_spots])  # the innermost
    border = height[chosen].max() + SPOT_DIAMETER_UM
    position = np.column_stack([rows, 2 * columns + rows % 2])[chosen]
    return grid, border - ragged, position, coords[chosen]


def field(grid: tuple[int, int], length_um: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian random field of unit variance on the coarse grid."""
    from scipy.ndimage import gaussian_filter

    sigma = length_um / (2 * UM_PER_PX * GRID_PX)
    smooth = gaussian_filter(rng.standard_normal(grid), sigma, mode="wrap")
    return (smooth - smooth.mean()) / smooth.std()


def sample(values: np.ndarray, coords: np.ndarray) -> np.ndarray:
    """Values (n_spots,) of a field (rows, columns) on the coarse grid at ``coords`` (n_spots, 2), x then y, um."""
    from scipy.ndimage import map_coordinates

    grid = coords[:, ::-1].T / (UM_PER_PX * GRID_PX) - 0.5
    return map_coordinates(values, grid, order=1, mode="nearest")
