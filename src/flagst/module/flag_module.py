"""FLAG as an scvi-tools module: encode once, corrupt, denoise, align."""

from collections.abc import Callable
from itertools import cycle

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from flagst._keys import TENSOR
from flagst.diffusion import EDM, VESDE, NoiseProcess, denoising_loss, dpm_solver_pp_2m, heun
from flagst.nn import LOSS, FlagNetwork

PROCESSES: dict[str, type[NoiseProcess]] = {"edm": EDM, "ve": VESDE}
SOLVERS = {"dpm++2m": dpm_solver_pp_2m, "heun": heun}
VALIDATION_SEED = 0


class FlagModule(BaseModuleClass):
    """Graph-conditioned diffusion with gene-model alignment.

    Parameters
    ----------
    d_image, n_genes, d_state
        Widths of the image features, the panel and the diffusion state.
    process
        ``"edm"`` or ``"ve"``.
    joint
        Mix the states of neighbouring spots while denoising.
    n_networks
        Networks of the same shape, each trained on its own windows; a draw takes them in turn, one per
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
        joint: bool = True,
        n_networks: int = 1,
        **network_kwargs,
    ):
        super().__init__()
        self.process = PROCESSES[process]()
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
        self.alignment = nn.ModuleList(make_head(network.width) for network in self.networks)
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
        return {"context": self.networks[network].encode(image, edge_index, edge_attr, mean)}

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

    @torch.no_grad()
    def context(self, tensors: dict[str, Tensor], network: int = 0) -> Tensor:
        """Context H of a whole section from one network, ``(n_spots, d_context)``."""
        return self.inference(**self._get_inference_input(tensors) | {"network": network})["context"]

    @torch.no_grad()
    def draw(
        self,
        tensors: dict[str, Tensor],
        noise: Tensor,
        *,
        solver: str,
        n_steps: int,
        networks: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Draws of the diffusion state.

        Parameters
        ----------
        tensors
            One whole section, see :func:`flagst.data.inputs.section_inputs`.
        noise
            ``(n_draws, n_spots, d_state)`` standard normal.
        solver, n_steps
            ``"dpm++2m"``: ``n_steps`` network evaluations; ``"heun"``: ``2 * n_steps - 1``.
        networks
            Networks that take turns; ``None`` for all of them. Their number does not change the number
            of evaluations.

        Returns
        -------
        ``(n_draws, n_spots, d_state)`` on the CPU. The context is encoded once per network for all draws.
        """
        tensors = {key: value.to(self.device) for key, value in tensors.items()}
        mix = tensors[TENSOR.mix_index], tensors[TENSOR.mix_weight]
        used = range(len(self.networks)) if networks is None else networks
        contexts = {number: self.context(tensors, number) for number in used}

        def in_turn() -> Callable[[Tensor, Tensor], Tensor]:
            turns = cycle(contexts.items())

            def raw(x: Tensor, sigma: Tensor) -> Tensor:
                number, context = next(turns)
                return self._network(number, x, sigma, context, *mix)[0]

            return self.process.denoiser(raw)

        sigmas = self.process.schedule(n_steps).to(self.device)
        return torch.stack([SOLVERS[solver](in_turn(), z.to(self.device), sigmas).cpu() for z in noise])


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _number(tensors: dict[str, Tensor]) -> int:
    """The network a window belongs to."""
    return int(tensors.get(TENSOR.network, 0))
