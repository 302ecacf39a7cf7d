"""Draw H&E-like sections: stain densities per pixel from the shares of tissue domains, then colours."""

import numpy as np

#: Tissue domains, in the order of the shares that :func:`draw_section` takes.
DOMAINS = ("tumour", "gland", "stroma", "immune")

#: Absorbance of haematoxylin and eosin in red, green, blue: blue-purple and pink.
_HAEMATOXYLIN = np.array([0.70, 0.78, 0.36], dtype=np.float32)
_EOSIN = np.array([0.12, 0.62, 0.34], dtype=np.float32)
_BACKGROUND = np.array([0.02, 0.025, 0.02], dtype=np.float32)


# How each domain looks, in the order of DOMAINS: the cytoplasm's stain, and the nuclei.
_CYTOPLASM_HAEMATOXYLIN = np.array([0.16, 0.06, 0.02, 0.10], dtype=np.float32)
_CYTOPLASM_EOSIN = np.array([0.42, 0.36, 0.50, 0.20], dtype=np.float32)
_NUCLEI = np.array([0.36, 0.10, 0.07, 0.75])  # share of sites with a nucleus
_RADIUS_UM = np.array([4.8, 3.4, 3.0, 2.9])
_ELONGATION = np.array([1.25, 1.4, 2.6, 1.05])
_DARKNESS = np.array([0.85, 0.85, 0.95, 1.25])
_SITE_UM = 8.0  # distance between the sites at which a nucleus may sit
_GLAND_UM = 92.0  # distance between the sites at which a gland may sit
_PIECE = 4096  # nuclei stamped at a time, to bound memory


def draw_section(
    proportions: np.ndarray, tissue: np.ndarray, *, factor: int, um_per_px: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw one section.

    Parameters
    ----------
    proportions
        (4, rows, columns) float, shares of ``DOMAINS`` at each grid point, which sum to one.
    tissue
        (rows, columns) float, approximate distance to the border, micrometres, positive inside.
    factor
        Pixels per grid point.
    um_per_px
        Micrometres per pixel.
    rng
        Random generator.

    Returns
    -------
    (rows * factor, columns * factor, 3) uint8.
    """
    from scipy.ndimage import gaussian_filter

    shares = np.stack([_enlarge(share, factor) for share in proportions])
    depth = _enlarge(tissue, factor)
    inside = np.clip(depth / 5 + 0.5, 0, 1)
    shape = inside.shape

    fibres = _fibres(shape, um_per_px, rng)
    haematoxylin = np.tensordot(_CYTOPLASM_HAEMATOXYLIN, shares, axes=1)
    eosin = np.tensordot(_CYTOPLASM_EOSIN, shares, axes=1)
    eosin *= 1 + shares[DOMAINS.index("stroma")] * (fibres - 0.3) + 0.15 * _noise(shape, 3 / um_per_px, rng)

    lining, cytoplasm, lumen = _draw_glands(shares[DOMAINS.index("gland")], depth, um_per_px, rng)
    eosin += 0.25 * cytoplasm
    haematoxylin += 0.08 * cytoplasm
    nuclei = _nuclei_sites(shares, inside, np.maximum(cytoplasm, lumen), um_per_px, rng)
    nuclei = np.concatenate([nuclei, lining])
    dark = _stamp_ellipses(nuclei, shape) * (1 + 0.25 * _noise(shape, 1.2 / um_per_px, rng))
    open_space = inside * (1 - lumen)
    haematoxylin = (haematoxylin + dark) * open_space
    eosin = (eosin * (1 - 0.5 * np.clip(dark, 0, 1))) * open_space

    strength = rng.uniform(0.9, 1.1, 2)  # each section is stained differently
    density = gaussian_filter(haematoxylin, 0.6)[..., None] * (_HAEMATOXYLIN * np.float32(strength[0]))
    density += gaussian_filter(eosin, 0.6)[..., None] * (_EOSIN * np.float32(strength[1]))
    density += _BACKGROUND
    colour = np.exp(-density, out=density)
    colour *= 255
    colour += rng.standard_normal(shape, dtype=np.float32)[..., None] * 2
    return np.clip(colour, 0, 255, out=colour).astype(np.uint8)


def _enlarge(grid: np.ndarray, factor: int) -> np.ndarray:
    """Bilinear interpolation, ``factor`` times larger. A grid point is the centre of its pixels."""
    from PIL import Image

    rows, columns = grid.shape
    small = Image.fromarray(grid.astype(np.float32))
    return np.asarray(small.resize((columns * factor, rows * factor), Image.Resampling.BILINEAR))


def _noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit variance."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return smooth / smooth.std()


def _fibres(shape: tuple[int, int], um_per_px: float, rng: np.random.Generator) -> np.ndarray:
    """Wavy bundles of collagen, 0 to 1: stripes with smooth noise added to their phase."""
    rows, columns = (np.arange(side, dtype=np.float32) * np.float32(um_per_px) for side in shape)
    angle = rng.uniform(0, np.pi)
    across = rows[:, None] * np.float32(np.cos(angle)) + columns * np.float32(np.sin(angle))
    coarse = 8  # the noise is smooth, so it is computed on a coarse grid
    small = (-(-shape[0] // coarse), -(-shape[1] // coarse))
    bend = _enlarge(_noise(small, 60 / um_per_px / coarse, rng), coarse)[: shape[0], : shape[1]]
    phase = across * np.float32(2 * np.pi / 11) + 14 * bend
    return 0.5 + 0.5 * np.sin(phase + 0.8 * _noise(shape, 2.5 / um_per_px, rng))


def _sites(shape: tuple[int, int], spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Jittered lattice (n_sites, 2), row then column: random, but no two sites overlap."""
    axes = [np.arange(spacing / 2, side, spacing) for side in shape]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    sites = lattice + rng.uniform(-0.35, 0.35, lattice.shape) * spacing
    return np.clip(sites, 0, np.array(shape) - 1)


def _nuclei_sites(shares, inside, glands, um_per_px, rng) -> np.ndarray:
    """Nuclei outside glands (n_nuclei, 6): row, column, two radii (px), angle, darkness."""
    sites = _sites(inside.shape, _SITE_UM / um_per_px, rng)
    row, column = sites.astype(int).T
    share = shares[:, row, column]
    wanted = share * _NUCLEI[:, None]
    free = (inside[row, column] > 0.9) & (glands[row, column] < 0.3)
    kept = free & (rng.random(len(sites)) < wanted.sum(axis=0))
    sites, wanted = sites[kept], wanted[:, kept]
    # the domain of a nucleus is sampled from the local shares
    cumulative = np.cumsum(wanted / wanted.sum(axis=0), axis=0)
    kind = np.minimum((rng.random(len(sites)) > cumulative).sum(axis=0), len(DOMAINS) - 1)
    radius = _RADIUS_UM[kind] / um_per_px * rng.lognormal(0, 0.15, len(sites))
    stretch = np.sqrt(_ELONGATION[kind])
    darkness = _DARKNESS[kind] * rng.uniform(0.75, 1.2, len(sites))
    angle = rng.uniform(0, np.pi, len(sites))
    return np.column_stack([sites, radius * stretch, radius / stretch, angle, darkness])


def _draw_glands(share, depth, um_per_px, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Glands: nuclei of the lining as in :func:`_nuclei_sites`, and maps of cytoplasm and of the empty lumen."""
    sites = _sites(share.shape, _GLAND_UM / um_per_px, rng)
    row, column = sites.astype(int).T
    kept = (depth[row, column] > 55) & (rng.random(len(sites)) < 1.9 * share[row, column] - 0.25)
    sites = sites[kept]
    n_glands = len(sites)
    outer = rng.uniform(24, 38, n_glands) / um_per_px
    stretch = np.sqrt(rng.uniform(1, 1.5, n_glands))
    angle = rng.uniform(0, np.pi, n_glands)
    ones = np.ones(n_glands)
    body = np.column_stack([sites, outer * stretch, outer / stretch, angle, ones])
    hollow = body.copy()
    hollow[:, 2:4] -= 14 / um_per_px
    cytoplasm = np.clip(_stamp_ellipses(body, share.shape), 0, 1)
    lumen = np.clip(_stamp_ellipses(hollow, share.shape), 0, 1)

    n_around = 26
    turn = np.linspace(0, 2 * np.pi, n_around, endpoint=False)[None, :] + rng.uniform(0, 6, (n_glands, 1))
    turn = turn + rng.normal(0, 0.05, turn.shape)
    along = (body[:, 2:3] - 4.5 / um_per_px) * np.cos(turn)
    beside = (body[:, 3:4] - 4.5 / um_per_px) * np.sin(turn)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    lining = np.stack(
        [
            sites[:, :1] + along * cos - beside * sin,
            sites[:, 1:] + along * sin + beside * cos,
            np.full(turn.shape, 3.9 / um_per_px),
            np.full(turn.shape, 2.5 / um_per_px),
            angle[:, None] + turn,
            rng.uniform(0.75, 1.1, turn.shape),
        ],
        axis=-1,
    ).reshape(-1, 6)
    return lining, cytoplasm, lumen


def _stamp_ellipses(ellipses: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Filled ellipses with a soft edge of about one pixel. Overlapping ellipses take the larger value.

    Parameters
    ----------
    ellipses
        (n, 6): row, column, first and second radius (px), angle of the first radius from the row axis, value.
    shape
        Rows and columns of the result.
    """
    canvas = np.zeros(shape, dtype=np.float32)
    if len(ellipses) == 0:
        return canvas
    flat = canvas.reshape(-1)
    order = np.argsort(ellipses[:, 2:4].max(axis=1))
    for start in range(0, len(order), _PIECE):
        part = ellipses[order[start : start + _PIECE]].astype(np.float32)
        reach = int(np.ceil(part[:, 2:4].max())) + 1
        offsets = np.arange(-reach, reach + 1)
        row = part[:, 0].astype(int)[:, None, None] + offsets[None, :, None]
        column = part[:, 1].astype(int)[:, None, None] + offsets[None, None, :]
        down, right = row - part[:, 0, None, None], column - part[:, 1, None, None]
        cos, sin = np.cos(part[:, 4])[:, None, None], np.sin(part[:, 4])[:, None, None]
        first, second = part[:, 2, None, None], part[:, 3, None, None]
        distance = np.hypot((down * cos + right * sin) / first, (right * cos - down * sin) / second)
        value = np.clip((1 - distance) * np.minimum(first, second) + 0.5, 0, 1) * part[:, 5, None, None]
        seen = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1]) & (value > 0)
        np.maximum.at(flat, (row * shape[1] + column)[seen], value[seen].astype(np.float32))
    return canvas
