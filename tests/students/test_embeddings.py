"""Fewer dimensions and other rows of an embedding table."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from hf_distill.students.embeddings import mean_of_pieces, principal_components


def test_principal_components_are_those_of_scikit_learn():
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 7.0)) + 3
    mean, directions, share = principal_components(rows, 4)
    reference = PCA(4, svd_solver="full").fit(rows.double().numpy())
    assert np.allclose(mean, reference.mean_)
    assert share == pytest.approx(reference.explained_variance_ratio_.sum())
    same = (directions.T.numpy() * reference.components_).sum(1)
    assert np.allclose(np.abs(same), 1)
    assert torch.equal(directions, principal_components(rows, 4)[1])
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()


def test_mean_of_pieces():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 8.0]])
    rows = mean_of_pieces(weight, [[0, 2], [], [1], [0, 0, 2]])
    assert torch.allclose(rows[[0, 2, 3]], torch.tensor([[3.0, 5.0], [3.0, 4.0], [7 / 3, 4.0]]))
    assert torch.allclose(rows[1], rows[[0, 2, 3]].mean(0))
    assert torch.allclose(mean_of_pieces(weight[:, 0], [[0, 1]]), torch.tensor([2.0]))
