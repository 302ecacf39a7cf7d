"""Network evaluations of a whole section, window by window, of a module that is trained.

The state of the diffusion is kept for the whole section, and every network evaluation is made for one window after
the other, each with the halo that a single evaluation looks at. So a section in windows is the section as a whole:
halos are not solved, only read, and no window has a border of its own.
"""

from collections.abc import Callable, Iterable
from itertools import cycle

import torch
from torch import Tensor

from flagst._keys import TENSOR
from flagst.module.flag_module import SOLVERS, FlagModule

GRAPH = (TENSOR.image, TENSOR.edge_index, TENSOR.edge_attr)


def encoder_hops(module: FlagModule) -> int:
    """Edges that one evaluation of the graph encoder reaches."""
    return len(module.networks[0].encoder.attention)


def denoiser_hops(module: FlagModule) -> int:
    """Edges that one evaluation of the denoiser reaches: one per block that mixes neighbours."""
    return len(module.networks[0].denoiser.blocks) if module.joint else 0


@torch.no_grad()
def encode_windows(
    module: FlagModule, windows: Iterable[dict[str, Tensor]], n_spots: int, networks: Iterable[int]
) -> dict[int, Tensor]:
    """Context of the image and the positions, without the regression mean's part.

    Parameters
    ----------
    module
        In evaluation mode.
    windows
        From :func:`flagst.data.inputs.encoder_window`; their cores are the section.
    n_spots
        Of the section.
    networks
        Networks that are asked for.

    Returns
    -------
    Network -> ``(n_spots, d_context)`` float32 on the module's device.
    """
    networks = list(networks)
    width = module.networks[0].encoder.input[-1].out_features
    out = {number: torch.empty(n_spots, width, device=module.device) for number in networks}
    for window in windows:
        graph = [window[key].to(module.device) for key in GRAPH]
        core = window[TENSOR.core].to(module.device)
        rows = window[TENSOR.rows].to(module.device)[core]
        for number in networks:
            out[number][rows] = module.networks[number].encoder(*graph)[core]
    return out


@torch.no_grad()
def add_mean_context(module: FlagModule, contexts: dict[int, Tensor], rows: Tensor, mean: Tensor) -> None:
    """Add the regression mean's part to the context of some spots, in place.

    Parameters
    ----------
    contexts
        From :func:`encode_windows`.
    rows, mean
        ``(n_rows,)`` int64 and ``(n_rows, n_genes)`` float32 standardised.
    """
    for number, context in contexts.items():
        context[rows.to(module.device)] += module.networks[number].mean_encoder(mean.to(module.device))


@torch.no_grad()
def draw_in_windows(
    module: FlagModule,
    windows: list[dict[str, Tensor]],
    contexts: dict[int, Tensor],
    noise: Tensor,
    *,
    solver: str,
    n_steps: int,
    done: Callable[[], None] = lambda: None,
) -> Tensor:
    """One draw of the diffusion state, as :meth:`FlagModule.draw` makes it.

    Parameters
    ----------
    module
        In evaluation mode.
    windows
        From :func:`flagst.data.inputs.denoiser_window`; their cores are the section.
    contexts
        Full contexts of the networks that take turns.
    noise
        ``(n_spots, d_state)`` standard normal.
    solver, n_steps
        As in :meth:`FlagModule.draw`.
    done
        Called after every window of every evaluation.

    Returns
    -------
    ``(n_spots, d_state)`` float32 on the CPU.
    """
    windows = [{key: value.to(module.device) for key, value in window.items()} for window in windows]
    turns = cycle(contexts.items())

    def raw(x: Tensor, sigma: Tensor) -> Tensor:
        number, context = next(turns)
        out = torch.empty_like(x)
        for window in windows:
            rows, core = window[TENSOR.rows], window[TENSOR.core]
            mix = (window[TENSOR.mix_index], window[TENSOR.mix_weight]) if module.joint else (None, None)
            out[rows[core]] = module.networks[number](x[rows], sigma[rows], context[rows], *mix)[0][core]
            done()
        return out

    sigmas = module.process.schedule(n_steps).to(module.device)
    return SOLVERS[solver](module.process.denoiser(raw), noise.to(module.device), sigmas).cpu()


def count_evaluations(solver: str, n_steps: int) -> int:
    """Network evaluations of one draw."""
    return n_steps if solver == "dpm++2m" else 2 * n_steps - 1
