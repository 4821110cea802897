"""Rows of stacked projections, as slices."""


def elements(heads: slice, head_dim: int) -> slice:
    """The rows of some heads."""
    return slice(heads.start * head_dim, heads.stop * head_dim)


def shifted(rows: slice, by: int) -> slice:
    """The same rows of the next projection in one tensor, ``by`` rows on."""
    return slice(rows.start + by, rows.stop + by)
