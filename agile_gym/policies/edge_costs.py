"""Edge costs: the fit of every pair of pieces as neighbours, from the pixels along their edges.

The dissimilarity is a robust form of the Mahalanobis gradient compatibility of Gallagher (2012): the colour gradient
across the joint is compared with the gradients just inside both pieces, each gradient measured in units of the piece's
own gradient covariance. As Pomeranz et al. (2011) found for other measures, the absolute value means little (every
piece fits a flat sky), so it is judged against the other candidates of both edges.

References:
    A. C. Gallagher, "Jigsaw puzzles with pieces of unknown orientation", CVPR 2012.
    D. Pomeranz, M. Shemesh, O. Ben-Shahar, "A fully automated greedy square jigsaw puzzle solver", CVPR 2011.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ConfigurationError

__all__ = ["edge_costs"]

_NOISE_VARIANCE = 4.0  # added to the gradient covariances, in squared grey levels: sensor noise and rounding
_SLOPE_WEIGHT = 0.5  # how much the gradient at one pixel row, against the piece's mean gradient, predicts the joint's
_TAIL = 3.0  # squared Mahalanobis distance at which a residual begins to count as an outlier (Student's t)
_TEMPERATURE = 0.4  # neighbouring pixels are alike: the distance of a whole edge counts as that of some 2.5 pixels

_Costs = NDArray[np.float64]


def edge_costs(pieces: Sequence[NDArray[np.uint8]]) -> tuple[_Costs, _Costs]:
    """Rate every pair of pieces as horizontal and as vertical neighbours.

    Args:
        pieces: N pieces of one shape (h, w, 3), RGB, uint8; h and w are at least 1.

    Returns:
        Two tables (N, N), float64, at least 0, +inf on the diagonal. ``right[i, j]`` is the cost of piece ``j`` to the
        right of piece ``i``, ``below[i, j]`` that of piece ``j`` under piece ``i``: minus the logarithm of how likely
        ``j`` is among all candidates for that edge of ``i``, plus the same for ``i`` among the candidates of ``j``.

    Raises:
        ConfigurationError: If there is no piece, or the pieces are not all uint8 of one shape (h, w, 3).
    """
    if len(pieces) == 0:
        raise ConfigurationError("At least 1 piece is needed, got 0.")
    arrays = [np.asarray(piece) for piece in pieces]
    first = arrays[0].shape
    for index, array in enumerate(arrays):
        if array.ndim != 3 or array.shape[2] != 3 or array.size == 0 or array.dtype != np.uint8:
            raise ConfigurationError(
                f"A piece is an RGB image of shape (h, w, 3), uint8, h and w at least 1; "
                f"piece {index} has shape {array.shape}, {array.dtype}."
            )
        if array.shape != first:
            raise ConfigurationError(
                f"All pieces have one shape; piece 0 has {first} and piece {index} has {array.shape}."
            )
    stack = np.stack(arrays)  # (N, h, w, 3)
    return _joint_costs(stack), _joint_costs(stack.transpose(0, 2, 1, 3))


def _joint_costs(stack: NDArray[np.uint8]) -> _Costs:
    """Return the cost (N, N) of every pair of pieces (N, h, w, 3) as left and right neighbour; see `edge_costs`."""
    count, length, width, _ = stack.shape
    strips = stack[:, :, [0, min(1, width - 1), max(width - 2, 0), width - 1]].astype(np.float32)
    left, left_inner, right_inner, right = (strips[:, :, k] for k in range(4))  # each (N, h, 3)
    # Seen from the right edge outwards, and from the left edge outwards; both tables are [own piece, other piece].
    distances = _outward_distances(right, right_inner, left) + _outward_distances(left, left_inner, right).T
    energies = distances / (_TEMPERATURE * length)
    np.fill_diagonal(energies, np.inf)
    if count == 1:
        return energies
    return np.maximum(2 * energies + _log_sum(-energies, 1) + _log_sum(-energies, 0), 0.0)


def _outward_distances(
    edge: NDArray[np.float32], inner: NDArray[np.float32], other: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Measure how badly the gradient across each joint agrees with the gradient inside one of the pieces.

    Args:
        edge: Outermost pixels of each piece along the joint, (N, s, 3), grey levels 0-255.
        inner: The pixels next to them, away from the joint, (N, s, 3).
        other: Pixels that the other pieces would bring to the joint, (N, s, 3).

    Returns:
        A table (N, N): entry ``[i, j]`` is the sum over the s pixels of ``log(1 + d^2 / tail)``, where d is the
        Mahalanobis distance between the gradient from piece ``i`` to ``j`` and the one expected from ``i``.
    """
    count, length, _ = edge.shape
    gradient = edge - inner
    mean = gradient.mean(axis=1, keepdims=True)
    residual = gradient - mean
    covariance: NDArray[np.float32] = np.einsum("nsc,nsd->ncd", residual, residual) / length
    covariance += _NOISE_VARIANCE * np.eye(3, dtype=np.float32)
    # L with L L^T = covariance^-1, so that |x L| is the Mahalanobis length of the row vector x.
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    expected = edge + mean + _SLOPE_WEIGHT * residual
    table = np.empty((count, count))
    for i in range(count):
        deviation = ((other - expected[i]).reshape(-1, 3) @ whitening[i]).reshape(count, length, 3)
        squared = np.einsum("nsc,nsc->ns", deviation, deviation)
        table[i] = np.log1p(squared / _TAIL).sum(axis=1)
    return table


def _log_sum(values: _Costs, axis: int) -> _Costs:
    """Return log(sum(exp(values))) along an axis, kept as an axis of length 1."""
    top = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - top).sum(axis=axis, keepdims=True)) + top
