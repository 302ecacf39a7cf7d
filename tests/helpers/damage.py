"""Ways to spoil a table, shared by tests of different rooms."""

import scipy.sparse as sp


def set_counts(row, column, value):
    """A function that writes ``value`` into ``adata.X[row, column]``."""

    def change(adata):
        dense = adata.X.toarray()
        dense[row, column] = value
        adata.X = sp.csr_matrix(dense)

    return change
