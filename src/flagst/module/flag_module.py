"""FLAG as an scvi-tools module: encode once, corrupt, denoise, align."""

from collections.abc import Callable, Iterable
from itertools import cycle

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from flagst._keys import TENSOR
from flagst.diffusion import PROCESSES, SOLVERS, denoising_loss
from flagst.nn import LOSS, FlagNetwork

VALIDATION_SEED = 0
#: What the graph encoder takes of a window.
GRAPH = (TENSOR.image, TENSOR.edge_index, TENSOR.edge_attr)


class FlagModule(BaseModuleClass):
    """Graph-conditioned diffusion with gene-model alignment.

    Parameters
    ----------
    d_image, n_genes, d_state
        Widths of the image features, the panel and the diffusion state.
    process, process_kwargs
        ``"edm"`` or ``"ve"``, and constants of the noise process, see :mod:`flagst.diffusion`.
    joint
        Mix the states of neighbouring spots while denoising.
    n_networks
        Networks of the same shape, each trained on its own windows. In a sample they take turns, one per
        network evaluation.
    **network_kwargs
        See :class:`flagst.nn.FlagNetwork`.
    """

    def __init__(
        self,
        d_image: int,
        n_genes: int,
        d_state: int,
        *,
        process: str = "edm",
        process_kwargs: dict | None = None,
        joint: bool = True,
        n_networks: int = 1,
        **network_kwargs,
    ):
        super().__init__()
        self.process = PROCESSES[process](**process_kwargs or {})
        self.d_image, self.n_genes, self.joint = d_image, n_genes, joint
        self.networks = nn.ModuleList(
            FlagNetwork(d_image, n_genes, d_state, **network_kwargs) for _ in range(n_networks)
        )
        self.alignment = None

    @property
    def device(self) -> torch.device:
        """Where the networks are: all of them are in one place, and asking every weight takes longer than a layer."""
        return next(self.parameters()).device

    def attach_alignment(self, make_head: Callable[[int], nn.Module], *, controls: bool = False) -> None:
        """Add an alignment head to every network for a training run.

        Parameters
        ----------
        make_head
            Makes a head of :mod:`flagst.nn.alignment_heads` for a hidden state of some width.
        controls
            Also score shuffled vectors in training; in validation they are scored in any case.
        """
        self.alignment = nn.ModuleList(make_head(network.denoiser.d_hidden) for network in self.networks)
        self._controls = controls

    def detach_alignment(self) -> None:
        """Drop the alignment heads: embeddings are used in training only."""
        self.alignment = None

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict:
        return {
            "image": tensors[TENSOR.image],
            "edge_index": tensors[TENSOR.edge_index],
            "edge_attr": tensors[TENSOR.edge_attr],
            "mean": tensors.get(TENSOR.mean),
            "network": _number(tensors),
        }

    @auto_move_data
    def inference(
        self, image: Tensor, edge_index: Tensor, edge_attr: Tensor, mean: Tensor | None, network: int = 0
    ) -> dict:
        """Context H ``(n_spots, d_context)`` of one network."""
        used = self.networks[network]
        return {"context": used.add_mean(used.encode_image(image, edge_index, edge_attr), mean)}

    def _get_generative_input(self, tensors: dict[str, Tensor], inference_outputs: dict, **kwargs) -> dict:
        return {
            "context": inference_outputs["context"],
            "state": tensors[TENSOR.state],
            "mix_index": tensors[TENSOR.mix_index],
            "mix_weight": tensors[TENSOR.mix_weight],
            "network": _number(tensors),
        }

    @auto_move_data
    def generative(
        self, context: Tensor, state: Tensor, mix_index: Tensor, mix_weight: Tensor, network: int = 0
    ) -> dict:
        """Corrupt the clean state and denoise it: the loss of each spot, and the hidden state."""
        # validation repeats the same noise, so that epochs differ by the weights alone
        generator = None if self.training else torch.Generator().manual_seed(VALIDATION_SEED)
        sigma = self.process.sample_sigma(len(state), generator=generator).to(state)
        noise = torch.randn(state.shape, generator=generator).to(state)
        hidden = []

        def raw(x: Tensor, level: Tensor) -> Tensor:
            output, state_of_block = self._network(network, x, level, context, mix_index, mix_weight)
            hidden.append(state_of_block)
            return output

        denoise = self.process.denoiser(raw)
        per_spot = denoising_loss(denoise, state, sigma, noise, process=self.process)
        return {"denoising": per_spot, "hidden": hidden[0]}

    def loss(self, tensors: dict[str, Tensor], inference_outputs: dict, generative_outputs: dict) -> LossOutput:
        """``L_score + align_weight * L_align``, mean over the spots of the window's core."""
        core = tensors[TENSOR.core].to(self.device)
        denoising = generative_outputs["denoising"][core].mean()
        loss, extra = denoising, {"denoising_loss": denoising}
        if self.alignment is not None:
            expression = tensors[TENSOR.expression].to(self.device)
            scored = self._controls or not self.training
            generator = torch.Generator().manual_seed(VALIDATION_SEED) if scored else None
            head = self.alignment[_number(tensors)]
            of_spots = [_on(self.device, tensors.get(key)) for key in (TENSOR.embedding, TENSOR.read_genes)]
            aligned = head(generative_outputs["hidden"], expression, *of_spots, controls=generator)
            loss = loss + head.weight * aligned[LOSS][core].mean()
            extra |= {name: value[core].mean() for name, value in aligned.items()}
        return LossOutput(loss=loss, extra_metrics=extra, n_obs_minibatch=int(core.sum()))

    def _network(
        self, number: int, x: Tensor, sigma: Tensor, context: Tensor, mix_index: Tensor, mix_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        mix = (mix_index, mix_weight) if self.joint else (None, None)
        return self.networks[number](x, sigma, context, *mix)

    @property
    def encoder_hops(self) -> int:
        """Edges that one evaluation of the graph encoder reaches."""
        return self.networks[0].encoder.n_hops

    @property
    def denoiser_hops(self) -> int:
        """Edges that one evaluation of the denoiser reaches; 0 where spots are denoised one by one."""
        return self.networks[0].denoiser.n_hops if self.joint else 0

    @torch.no_grad()
    def encode_image(
        self, windows: Iterable[dict[str, Tensor]], n_spots: int, networks: Iterable[int]
    ) -> dict[int, Tensor]:
        """Contexts of the image and the positions of a section, window by window.

        Parameters
        ----------
        windows
            From :func:`flagst.data.windows.encoder_window`; their cores are the section.
        n_spots
            Of the section.
        networks
            Networks that are asked for.

        Returns
        -------
        Network -> ``(n_spots, d_context)`` float32 on the module's device, without the part of the regression mean.
        """
        used = {number: self.networks[number] for number in networks}
        out = {n: torch.empty(n_spots, network.encoder.d_out, device=self.device) for n, network in used.items()}
        for window in windows:
            graph = [window[key].to(self.device) for key in GRAPH]
            core = window[TENSOR.core].to(self.device)
            rows = window[TENSOR.rows].to(self.device)[core]
            for number, network in used.items():
                out[number][rows] = network.encode_image(*graph)[core]
        return out

    @torch.no_grad()
    def add_mean(self, contexts: dict[int, Tensor], rows: Tensor, mean: Tensor) -> None:
        """Add the part of the regression mean to the contexts of some spots, in place.

        Parameters
        ----------
        contexts
            From :meth:`encode_image`.
        rows, mean
            ``(n_rows,)`` int64 and ``(n_rows, n_genes)`` float32 standardised.
        """
        rows, mean = rows.to(self.device), mean.to(self.device)
        for number, context in contexts.items():
            context[rows] = self.networks[number].add_mean(context[rows], mean)

    @torch.no_grad()
    def solve(
        self,
        windows: list[dict[str, Tensor]],
        contexts: dict[int, Tensor],
        noise: Tensor,
        *,
        solver: str,
        n_steps: int,
        done: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """One sample of the diffusion state of a section.

        The state is kept for the whole section. Every network evaluation is made window by window, each with the halo
        that one evaluation reaches. So windows have no borders of their own, and a small section is one window.

        Parameters
        ----------
        windows
            From :func:`flagst.data.windows.denoiser_window`; their cores are the section.
        contexts
            Contexts H of the networks that take turns, one per network evaluation. Their number does not change the
            number of evaluations.
        noise
            ``(n_spots, d_state)`` standard normal.
        solver, n_steps
            See :data:`flagst.diffusion.SOLVERS`.
        done
            Called after every window of every evaluation.

        Returns
        -------
        ``(n_spots, d_state)`` float32 on the CPU.
        """
        windows = [{key: value.to(self.device) for key, value in window.items()} for window in windows]
        turns = cycle(contexts.items())

        def raw(x: Tensor, sigma: Tensor) -> Tensor:
            number, context = next(turns)
            out = torch.empty_like(x)
            for window in windows:
                rows, core = window[TENSOR.rows], window[TENSOR.core]
                mix = window[TENSOR.mix_index], window[TENSOR.mix_weight]
                out[rows[core]] = self._network(number, x[rows], sigma[rows], context[rows], *mix)[0][core]
                done()
            return out

        sigmas = self.process.schedule(n_steps).to(self.device)
        return SOLVERS[solver].solve(self.process.denoiser(raw), noise.to(self.device), sigmas).cpu()


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _number(tensors: dict[str, Tensor]) -> int:
    """The network a window belongs to."""
    return int(tensors.get(TENSOR.network, 0))
