"""Diffusion of expression without a regression mean: of the spots alone, or jointly with the gene-gene correlation.

What the curse of gene dimension is shown with. A state has one row per spot and, in the joint model, one more
per gene: the correlation matrix of the section's genes, off the diagonal and scaled to unit variance, is a second
thing to denoise. Its denoised form moves the spots' expression along correlated genes before each evaluation, and a
consistency loss asks the correlation of the denoised expression to be the denoised correlation. Baselines of the
benchmark: the package has neither.
"""

import numpy as np
import torch
from torch import Tensor, nn

from flagst._keys import TENSOR
from flagst.data.inputs import N_EDGES, section_inputs
from flagst.data.section import Section, stack_targets
from flagst.diffusion import EDM, dpm_solver_pp_2m
from flagst.nn import FlagNetwork
from flagst.regression import TargetScaler
from flagst.regression.context import ContextFeatures

LEARNING_RATE, WEIGHT_DECAY, CLIP, EMA_DECAY = 1e-3, 0.1, 1.0, 0.985
MAX_STEPS, N_SOLVER_STEPS, D_EDGE = 600, 20, 32
CONSISTENCY = 0.5
#: Genes whose pairs enter the consistency loss of a step; more would take as long as all the rest.
N_CONSISTENT = 400


class EdgeDenoiser(nn.Module):
    """Raw output for a noisy symmetric matrix ``(n_genes, n_genes)``: ``U U'`` of gene vectors read from it."""

    def __init__(self, n_genes: int, d_context: int):
        super().__init__()
        self.genes = nn.Parameter(torch.randn(n_genes, D_EDGE) / D_EDGE**0.5)
        self.level = nn.Linear(d_context + 1, D_EDGE)
        self.mix = nn.Sequential(nn.Linear(2 * D_EDGE, 2 * D_EDGE), nn.SiLU(), nn.Linear(2 * D_EDGE, D_EDGE))
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, edges: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        read = edges @ self.genes / len(edges) ** 0.5
        level = self.level(torch.cat([context.mean(dim=0), sigma.log().view(1)]))
        vectors = self.mix(torch.cat([self.genes, read], dim=1)) + level
        return self.gain * (vectors @ vectors.T) / D_EDGE**0.5


class GraphDiffusion(nn.Module):
    """Denoiser of rows: spots first, then, with ``joint``, genes.

    Parameters
    ----------
    d_image, n_genes
        Widths.
    joint
        Denoise the correlation matrix too.
    """

    def __init__(self, d_image: int, n_genes: int, *, joint: bool):
        super().__init__()
        self.nodes = FlagNetwork(d_image, n_genes, n_genes, condition_on_mean=False)
        self.edges = EdgeDenoiser(n_genes, 64) if joint else None
        self.along = nn.Parameter(torch.tensor(0.1))
        self.process = EDM()

    def raw(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """Raw output of all rows."""
        n_spots = len(context)
        if self.edges is None:
            return self.nodes(x, sigma, context, None, None)[0]
        scaled = (x[n_spots:] + x[n_spots:].T) / 2
        output = self.edges(scaled, sigma[0], context)
        c_skip, c_out, c_in = self.process.scalings(sigma[0])
        denoised = c_skip / c_in * scaled + c_out * output
        moved = x[:n_spots] @ denoised / denoised.shape[1]
        spots = self.nodes(x[:n_spots] + self.along * moved, sigma[:n_spots], context, None, None)[0]
        return torch.cat([spots, output])

    def loss(self, clean: Tensor, context: Tensor) -> Tensor:
        """Denoising loss of the rows and, in the joint model, the consistency loss.

        A noise level per spot; one for the whole section where correlations are denoised with it.
        """
        n_spots = len(context)
        sigma = self.process.sample_sigma(n_spots if self.edges is None else 1).expand(len(clean), 1)
        noisy = clean + sigma * _symmetric_noise(clean, n_spots)
        denoised = self.process.denoiser(lambda x, level: self.raw(x, level, context))(noisy, sigma)
        squared = self.process.loss_weight(sigma) * (denoised - clean) ** 2
        loss = squared[:n_spots].mean()
        if self.edges is None:
            return loss
        kept = torch.randperm(clean.shape[1])[:N_CONSISTENT]
        of_spots = _correlation(denoised[:n_spots, kept])
        of_edges = denoised[n_spots:][kept][:, kept]
        scale = _correlation(clean[:n_spots, kept]).fill_diagonal_(0).std() + 1e-6
        apart = ((of_spots.fill_diagonal_(0) / scale - of_edges) ** 2).mean()
        return loss + squared[n_spots:].mean() + CONSISTENCY * apart / (1 + sigma[0, 0] ** 2)


class GraphDiffusionModel:
    """Fit on training sections, draw on another."""

    def __init__(self, *, joint: bool, seed: int, max_steps: int = MAX_STEPS):
        self.joint, self.seed, self.max_steps = joint, seed, max_steps

    def fit(self, train: list[Section]) -> None:
        """Train on whole sections in turn; the weights end as their moving average."""
        torch.manual_seed(self.seed)
        image = [s.image for s in train]
        self.context = ContextFeatures.fit(image, [s.neighbours for s in train], neighbourhoods=())
        self.scaler = TargetScaler.fit(stack_targets(train))
        inputs = [self._inputs(section) for section in train]
        states = [self._state(section) for section in train]
        self.network = GraphDiffusion(inputs[0][TENSOR.image].shape[1], states[0].shape[1], joint=self.joint)
        parameters = list(self.network.parameters())
        optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, LEARNING_RATE, total_steps=self.max_steps, pct_start=max(0.1, 1.5 / self.max_steps)
        )
        average = [p.detach().clone() for p in parameters]
        for step in range(self.max_steps):
            number = step % len(train)
            context = self._encode(inputs[number])
            optimiser.zero_grad()
            self.network.loss(states[number], context).backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - EMA_DECAY)
        with torch.no_grad():
            for parameter, value in zip(parameters, average, strict=True):
                parameter.copy_(value)
        self.network.eval()

    @torch.no_grad()
    def predict(self, section: Section) -> np.ndarray:
        """One draw, ``(n_spots, n_genes)`` in the unit of the target."""
        torch.manual_seed(self.seed)
        context, n_genes = self._encode(self._inputs(section)), len(self.scaler.mean)
        n_rows = len(section) + (n_genes if self.joint else 0)
        noise = _symmetric_noise(torch.empty(n_rows, n_genes), len(section))
        denoise = self.network.process.denoiser(lambda x, sigma: self.network.raw(x, sigma, context))
        drawn = dpm_solver_pp_2m(denoise, noise, self.network.process.schedule(N_SOLVER_STEPS))
        return self.scaler.restore(drawn[: len(section)].numpy())

    def _encode(self, inputs: dict[str, Tensor]) -> Tensor:
        keys = (TENSOR.image, TENSOR.edge_index, TENSOR.edge_attr)
        return self.network.nodes.encode(*(inputs[key] for key in keys), None)

    def _inputs(self, section: Section) -> dict[str, Tensor]:
        white = self.context.whiten(section.image)[:, :50]
        return section_inputs(white, section.neighbours[:, :N_EDGES], section.distances[:, :N_EDGES], None)

    def _state(self, section: Section) -> Tensor:
        """Rows of a section: standardised expression and, if joint, its correlations with unit variance."""
        spots = torch.as_tensor(self.scaler.standardise(section.target), dtype=torch.float32)
        if not self.joint:
            return spots
        edges = _correlation(spots).fill_diagonal_(0)
        return torch.cat([spots, edges / (edges.std() + 1e-6)])


def _symmetric_noise(like: Tensor, n_spots: int) -> Tensor:
    """Standard normal; the rows beyond the spots are a symmetric matrix."""
    noise = torch.randn(like.shape)
    square = noise[n_spots:]
    if len(square):
        noise[n_spots:] = torch.triu(square) + torch.triu(square, 1).T
    return noise


def _correlation(values: Tensor) -> Tensor:
    """Pearson correlation of the columns."""
    unit = values - values.mean(dim=0)
    unit = unit / (unit.norm(dim=0) + 1e-6)
    return unit.T @ unit
