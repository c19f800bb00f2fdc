"""Frobenius inner products, cosines and projections of updates, from r x r Grams: dW is never formed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tasks.geometry.delta import Array, Dense, Factors, LoraDelta, Rescaled, Update, formed, shared
from tasks.geometry.factored import factor

CANCELS = 1e-6
"""Share of |dW|^2 below which |dW|^2 - |P dW|^2 has lost too many digits and the remainder is computed itself."""


def module_inner(a: Update, b: Update) -> float:
    """``<dW_a, dW_b>_F`` of one module.

    ``tr(A_a^T B_a^T B_b A_b) = sum((B_a^T B_b) * (A_a A_b^T))``: two (r_a, r_b) Grams. Rounding is relative to
    ``|B_a| |A_a| |B_b| |A_b|``. With a dense update on one side ``sum((W A^T) * B)``, with two ``sum(W * W')``.

    Rows rescaled beside a product: ``<diag(d) W, diag(d') W> = sum_i d_i d'_i |w_i|^2`` and ``<diag(d) W, B A> =
    sum_i d_i <(W A^T)_i, b_i>``, so that of the base only its rows' norms and W A^T are needed. Two such updates must
    have one base.
    """
    if isinstance(a, Dense) and isinstance(b, Dense):
        return float(np.vdot(a.W, b.W))
    if isinstance(b, Dense):
        return module_inner(b, a)
    if isinstance(a, Dense):
        product = float(np.vdot(a.W @ b.A.T, b.B))
        if isinstance(b, Factors):
            return b.scale * product
        return product + float(b.d @ np.einsum("ij,ij->i", a.W, b.base.W))
    if isinstance(b, Rescaled) and not isinstance(a, Rescaled):
        return module_inner(b, a)
    product = float(np.sum((a.B.T @ b.B) * (a.A @ b.A.T)))
    if isinstance(a, Factors):
        assert isinstance(b, Factors)
        return a.scale * b.scale * product
    if isinstance(b, Factors):
        return b.scale * (product + _rows(a.d, a.base.W @ b.A.T, b.B))
    rows = float(np.sum(a.d * b.d * a.base.squared))
    return rows + product + _rows(a.d, b.along, b.B) + _rows(b.d, a.along, a.B)


def _rows(d: Array, along: Array, b: Array) -> float:
    """``<diag(d) W, B A>`` of ``along`` = W A^T."""
    return float(d @ np.einsum("ij,ij->i", along, b))


def module_residual(d: Update, reference: Update) -> float:
    """``|dW - P dW|_F^2`` of one module, P the orthogonal projection on the line spanned by the reference's update."""
    dd, dr, rr = module_inner(d, d), module_inner(d, reference), module_inner(reference, reference)
    if rr <= 0:
        return dd
    rest = dd - dr * dr / rr
    return rest if rest >= CANCELS * dd else remainder(d, reference, dr / rr)


def remainder(d: Update, reference: Update, coefficient: float) -> float:
    """``|dW - c dW_ref|_F^2`` without cancellation: for updates that are nearly parallel."""
    if not (isinstance(d, Factors) and isinstance(reference, Factors)):
        return float(np.sum((formed(d) - coefficient * formed(reference)) ** 2))
    # Factored as [B_d, B_r] [scale_d A_d; -c scale_r A_r].
    _, b = np.linalg.qr(np.hstack([d.B, reference.B]))
    _, a = np.linalg.qr(np.vstack([d.scale * d.A, -coefficient * reference.scale * reference.A]).T)
    return float(np.sum((b @ a.T) ** 2))


def quotient(numerator: Array, denominator: Array) -> Array:
    """Element by element; NaN for a zero denominator: a zero update has no direction, so nothing to compare."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def cosine_of(inner: Array, squared_a: Array, squared_b: Array) -> Array:
    """Cosine from inner products and squared norms, in [-1, 1]; NaN where an update is zero. Any one shape."""
    # Roots first: the product of two squared norms may underflow.
    return np.clip(quotient(inner, np.sqrt(np.maximum(squared_a, 0)) * np.sqrt(np.maximum(squared_b, 0))), -1, 1)


def ratio_of(squared_a: Array, squared_b: Array) -> Array:
    """``|a| / |b|`` from squared norms; NaN where b is zero."""
    return np.sqrt(np.maximum(quotient(squared_a, squared_b), 0))


def fraction_of(residual: Array, squared: Array) -> Array:
    """``sqrt(residual / squared)`` in [0, 1]; NaN for a zero update."""
    return np.sqrt(np.clip(quotient(residual, squared), 0, 1))


def inner(a: LoraDelta, b: LoraDelta) -> dict[str, float]:
    """``<dW_a, dW_b>_F`` for every shared module."""
    return _inner(compact(a), compact(b))


def norm(delta: LoraDelta) -> float:
    """Frobenius norm of the whole update, scale included, over all its modules."""
    return math.sqrt(sum(map(_squared, compact(delta).modules.values())))


def module_cosines(a: LoraDelta, b: LoraDelta) -> dict[str, float]:
    """Cosine of the two updates in every shared module; NaN where one of them is zero."""
    a, b = compact(a), compact(b)
    products = _inner(a, b)
    squared = [np.array([_squared(delta.modules[name]) for name in products]) for delta in (a, b)]
    return dict(zip(products, cosine_of(np.array(list(products.values())), *squared).tolist(), strict=True))


def cosine_matrix(deltas: Sequence[LoraDelta]) -> Array:
    """(M, M) global cosines: each module's update flattened, the modules concatenated.

    An entry is taken over the modules that its two adapters share (norms included), so that it equals the pair's own
    comparison whatever else is in the list. NaN, also on the diagonal, for a zero update. `InputError` where two
    adapters share no module.

    Examples
    --------
    >>> import numpy as np
    >>> from tasks.geometry.delta import Factors, LoraDelta
    >>> start = np.array([[1.0, 0.0, 0.0]])  # lora_A, (1, 3)
    >>> a = LoraDelta({"layers.0.q_proj": Factors(np.array([[1.0], [0.0]]), start, 1.0)})
    >>> b = LoraDelta({"layers.0.q_proj": Factors(np.array([[3.0], [4.0]]), start, 1.0)})
    >>> cosine_matrix([a, b]).round(3).tolist()
    [[1.0, 0.6], [0.6, 1.0]]
    """
    deltas = [compact(delta) for delta in deltas]
    squared = [{name: _squared(factors) for name, factors in delta.modules.items()} for delta in deltas]
    cosines = np.empty((len(deltas), len(deltas)))
    for i, a in enumerate(deltas):
        for j in range(i, len(deltas)):
            products = squared[i] if i == j else _inner(a, deltas[j])
            sums = [sum(norms[name] for name in products) for norms in (squared[i], squared[j])]
            cosines[i, j] = cosines[j, i] = cosine_of(np.array(sum(products.values())), *map(np.array, sums))
    return cosines


def orthogonal_fraction(delta: LoraDelta, reference: LoraDelta) -> float:
    """``|dW - P_ref dW|_F / |dW|_F`` over the shared modules, in [0, 1] (arXiv 2606.23740).

    P_ref is the projection on the reference MODULE BY MODULE. We read this as: in each module, the orthogonal
    projection, in the Frobenius inner product, on the one-dimensional span of the reference's update of that module.
    The paper's figures support it: its cosine .74 goes with the fraction .67 = sqrt(1 - .74^2). It is at most
    sqrt(1 - global cosine^2), with equality where all modules have one coefficient.

    A module where the reference is zero counts as wholly orthogonal; NaN when ``delta`` itself is zero.

    Examples
    --------
    Of an update with cosine .6 to the reference in its one module, sqrt(1 - .36) = .8 is outside the reference:

    >>> import numpy as np
    >>> from tasks.geometry.delta import Factors, LoraDelta
    >>> start = np.array([[1.0, 0.0, 0.0]])
    >>> reference = LoraDelta({"layers.0.q_proj": Factors(np.array([[1.0], [0.0]]), start, 1.0)})
    >>> delta = LoraDelta({"layers.0.q_proj": Factors(np.array([[3.0], [4.0]]), start, 1.0)})
    >>> round(orthogonal_fraction(delta, reference), 6)
    0.8
    """
    delta, reference = compact(delta), compact(reference)
    names = shared(delta, reference)
    rest = sum(module_residual(delta.modules[name], reference.modules[name]) for name in names)
    return float(fraction_of(np.array(rest), np.array(sum(_squared(delta.modules[name]) for name in names))))


def compact(delta: LoraDelta) -> LoraDelta:
    """The same updates, refactored by their SVDs.

    Grams of the factors as they are round relative to the factors' size, squared. Where that is far above the update's
    (badly conditioned factors, terms that cancel), cosines would be wrong; after this, a zero update is exactly 0.
    """
    svds = {name: factor(factors) for name, factors in delta.modules.items()}
    return LoraDelta({name: Factors(svd.U * svd.s, svd.V.T, 1.0) for name, svd in svds.items()}, delta.source)


def _inner(a: LoraDelta, b: LoraDelta) -> dict[str, float]:
    return {name: module_inner(a.modules[name], b.modules[name]) for name in shared(a, b)}


def _squared(factors: Factors) -> float:
    return module_inner(factors, factors)
