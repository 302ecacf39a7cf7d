"""From a network's features to a prediction: its weights are part of the model."""

import numpy as np
import pytest
import torch

from flagst import FLAG
from flagst.datasets import simulated_sections
from flagst.encoders import CallableEncoder
from flagst.pp import image_features


def encode(sdata, seed):
    """The table with features of a small random network."""
    torch.manual_seed(seed)
    parts = [torch.nn.Conv2d(3, 6, 5, stride=4), torch.nn.GELU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    network = CallableEncoder(torch.nn.Sequential(*parts), name="net", patch_px=32, patch_um=100, licence="ours")
    image_features(sdata, encoder=network, progress=False, n_jobs=1)
    return sdata.tables["table"].copy()


def test_features_of_other_weights_are_refused_at_prediction(make):
    sdata = simulated_sections(n_sections=2, n_spots=60, n_genes=12)
    first, second = encode(sdata, seed=0), encode(sdata, seed=1)
    train, query, other = first[first.obs["section"] == first.obs["section"].iloc[0]].copy(), first.copy(), second
    record = train.uns["flagst"]["features"]["X_image"]
    assert record["encoder"] == "net" and record["encoder_params"]["licence"] == "ours"
    FLAG.setup_anndata(train)
    model = FLAG(train, n_latent=4, network=make.SMALL)
    model.train(**make.QUICK)
    assert np.isfinite(model.predict(query).layers["flagst"]).all()
    with pytest.raises(ValueError, match=r"encoder_params \{'sha256': '\w+'\}; the query's have \{'sha256': '\w+'\}"):
        model.predict(other)
