"""The whole network: a context once per section, then denoising steps that use it."""

from torch import Tensor, nn

from flagst.nn.gene_denoiser import GeneDenoiser
from flagst.nn.graph_encoder import N_EDGE_FEATURES, SpatialGraphEncoder
from flagst.nn.latent_denoiser import LatentDenoiser

DENOISERS = {"latent": LatentDenoiser, "gene": GeneDenoiser}


class FlagNetwork(nn.Module):
    """Spatial graph encoder and denoiser.

    Parameters
    ----------
    d_image
        Width of the whitened image features.
    n_genes
        Genes of the panel.
    d_state
        Width of the diffusion state; ``n_genes`` for the gene-token denoiser.
    denoiser
        ``"latent"`` or ``"gene"``.
    condition_on_mean
        Feed the regression mean to the denoiser through the context.
    d_context, d_edge, n_layers, n_heads, dropout
        Size of the context, and of its encoder: see :class:`SpatialGraphEncoder`.
    denoiser_kwargs
        Passed to the denoiser.

    Raises
    ------
    ValueError
        ``d_edge`` is not 0, 1 or 2.

    Examples
    --------
    >>> import torch
    >>> from flagst.nn import FlagNetwork
    >>> network = FlagNetwork(5, n_genes=20, d_state=4, d_context=8)
    >>> state, hidden = network(torch.randn(7, 4), torch.ones(7, 1), torch.randn(7, 8), None, None)
    >>> state.shape, hidden.shape
    (torch.Size([7, 4]), torch.Size([7, 256]))
    """

    def __init__(
        self,
        d_image: int,
        n_genes: int,
        d_state: int,
        *,
        denoiser: str = "latent",
        condition_on_mean: bool = True,
        d_context: int = 64,
        d_edge: int = N_EDGE_FEATURES,
        n_layers: int = 1,
        n_heads: int = 4,
        dropout: float = 0.3,
        denoiser_kwargs: dict | None = None,
    ):
        super().__init__()
        kwargs = denoiser_kwargs or {}
        self.encoder = SpatialGraphEncoder(
            d_image, d_context, d_edge=d_edge, n_layers=n_layers, n_heads=n_heads, dropout=dropout
        )
        self.mean_encoder = _mean_encoder(n_genes, d_context, dropout) if condition_on_mean else None
        self.denoiser = DENOISERS[denoiser](d_state, d_context, **kwargs)

    def encode_image(self, image: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Context of the image and the positions, ``(n_spots, d_context)``.

        Examples
        --------
        >>> import torch
        >>> from flagst.nn import FlagNetwork
        >>> itself = torch.arange(7)
        >>> edges = torch.stack([itself, itself]), torch.ones(7, 2)
        >>> FlagNetwork(5, n_genes=20, d_state=4, d_context=8).encode_image(torch.randn(7, 5), *edges).shape
        torch.Size([7, 8])
        """
        return self.encoder(image, edge_index, edge_attr)

    def add_mean(self, context: Tensor, mean: Tensor | None) -> Tensor:
        """Context H: that of the image, and what the regression mean ``(n_spots, n_genes)`` adds to it.

        The regression mean is a function of the image features, so that nothing measured enters here.

        Examples
        --------
        >>> import torch
        >>> from flagst.nn import FlagNetwork
        >>> FlagNetwork(5, n_genes=20, d_state=4, d_context=8).add_mean(torch.zeros(7, 8), torch.randn(7, 20)).shape
        torch.Size([7, 8])
        """
        return context if self.mean_encoder is None else context + self.mean_encoder(mean)

    def forward(
        self, x: Tensor, sigma: Tensor, context: Tensor, mix_index: Tensor | None, mix_weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Raw network output ``(n_spots, d_state)`` and the hidden state of the alignment block."""
        return self.denoiser(x, sigma, context, mix_index, mix_weight)


def _mean_encoder(n_genes: int, d_context: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(n_genes, d_context), nn.SiLU(), nn.Dropout(dropout), nn.Linear(d_context, d_context))
