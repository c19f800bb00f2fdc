"""Linear centred kernel alignment (CKA) of representations, debiased and biased, whole or streamed in batches.

Sources: biased, Kornblith et al. 2019 (arXiv 1905.00414), section 3; debiased, the unbiased HSIC_1 of Song et al. 2012
(JMLR 13) in numerator and denominator, as Nguyen et al. 2021 (arXiv 2010.15327) have it, by the U-centring of Szekely
and Rizzo 2014 (Annals of Statistics 42). A ratio of unbiased estimates: the bias is smaller, not gone. Kornblith's
biased form is far above 0 for independent data with fewer rows than features: 0.96 for 100 rows of 2,560.

Shapes: ``n`` rows (prompts or tokens), ``p`` features, ``_M`` representations of the same rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.core.errors import InputError
from tasks.geometry.cka_sums import Array, Sums

Route = Literal["gram", "covariance"]

_ROUNDING = 1e-10
"""A debiased HSIC of x with itself below this share of the biased one is what rounding leaves of 0."""


def linear_cka(x: ArrayLike, y: ArrayLike, debiased: bool = True) -> float:
    """Linear CKA of ``x`` (n, p) and ``y`` (n, q): 1 for equal up to rotation, scale and shift; about 0 for unrelated.

    Biased values are in [0, 1], debiased ones in [-1, 1]. Where there is none, NaN with a `RuntimeWarning` that says
    why; `cka_with_reason` returns both. Raises `InputError` for shapes that do not pair up.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((200, 5))
    >>> rotation, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    >>> round(linear_cka(x, 3 * x @ rotation + 1), 6)  # the same representation, rotated, scaled and shifted
    1.0
    >>> abs(linear_cka(x, rng.standard_normal((200, 5)))) < 0.1  # unrelated
    True
    """
    value, reason = cka_with_reason(x, y, debiased)
    if reason is not None:
        warnings.warn(f"linear_cka is NaN: {reason}", RuntimeWarning, stacklevel=2)
    return value


def cka_with_reason(x: ArrayLike, y: ArrayLike, debiased: bool = True) -> tuple[float, str | None]:
    """``(value, None)``, or ``(NaN, why)``: too few rows, no variance, NaN or infinite entries, rows equally far apart.

    Arguments as in `linear_cka`.
    """
    both = [_floating(x), _floating(y)]
    if any(a.ndim != 2 for a in both) or len(both[0]) != len(both[1]):
        raise InputError(f"x {both[0].shape} and y {both[1].shape}: need (n, p) and (n, q)")
    accumulator = Accumulator([a.shape[1] for a in both], len(both[0]))
    accumulator.add(both)
    return accumulator.result().pair(0, 1, debiased)


@dataclass(frozen=True, eq=False)
class Similarities:
    """Inner products of M centred Gram matrices, of which CKA is the cosine."""

    rows: int
    biased: Array
    """(M, M) |Xc^T Yc|_F^2; HSIC_0 but for a factor that cancels."""
    unbiased: Array
    """(M, M) n (n - 3) HSIC_1; NaN for fewer than 4 rows."""
    faults: tuple[str | None, ...]
    """Why a representation has no CKA with any other; None where it has."""

    def pair(self, a: int, b: int, debiased: bool = True) -> tuple[float, str | None]:
        """``(value, None)`` or ``(NaN, why)`` of representations number ``a`` and ``b``."""
        if reason := self._reason(a, b, debiased):
            return math.nan, reason
        products = self.unbiased if debiased else self.biased
        value = products[a, b] / (math.sqrt(products[a, a]) * math.sqrt(products[b, b]))
        return float(np.clip(value, -1.0, 1.0)), None  # beyond 1 by rounding only (Cauchy-Schwarz)

    def _reason(self, a: int, b: int, debiased: bool) -> str | None:
        if self.rows < (needed := 4 if debiased else 2):
            return f"{'debiased' if debiased else 'biased'} CKA needs {needed} rows, there are {self.rows}"
        for one in (a, b):
            if fault := self.faults[one]:
                return fault
            # Never negative but for rounding: it is the squared norm of the U-centred Gram matrix.
            if debiased and not self.unbiased[one, one] > _ROUNDING * self.biased[one, one]:
                return "debiased HSIC with itself is 0: all rows are equally far apart"
        return None


class Accumulator:
    """CKA of every pair of M representations of the same rows, added in batches; float64 from the first product on.

    ``widths``: their numbers of features; ``rows``: the most rows that will come. What is held is the smaller, in
    bytes, of

    - ``"gram"``: the rows themselves in the precision they come in (``itemsize`` bytes), n * sum(p) entries; a Gram
      pairs rows of different batches, so one pass cannot have it without them. `result` makes M Grams of n x n.
    - ``"covariance"``: float64 (cross-)covariances, p_a x p_b for every a <= b, and sums whose size does not know n.

    Both agree to 1e-12 but for outliers: the covariances hold the Gram's diagonal, which the debiased estimator takes
    out again, so a row 1,000 spreads away leaves 8 digits of theirs. ``route`` forces one. For representations of equal
    width p and float32 rows the border is at n = (M + 1) p.
    """

    def __init__(self, widths: Sequence[int], rows: int, route: Route | None = None, itemsize: int = 8) -> None:
        held = {"gram": itemsize * rows * sum(widths), "covariance": Sums.nbytes(widths)}
        self.route: Route = route or ("gram" if held["gram"] <= held["covariance"] else "covariance")
        self.nbytes = held[self.route]
        self._widths, self._rows = tuple(widths), rows
        self._kept: list[list[NDArray[Any]]] = [[] for _ in widths]
        self._sums = Sums(widths) if self.route == "covariance" else None
        self._seen = 0
        self._raw = np.zeros(len(self._widths))  # sums of squares as they came, to tell variance from rounding
        self._eps = 0.0

    def add(self, batch: Sequence[ArrayLike]) -> None:
        """Add ``b`` rows: M arrays (b, p). Raises `InputError` for other shapes and for more rows than announced."""
        arrays = [_floating(one) for one in batch]
        if [a.shape for a in arrays] != [(len(arrays[0]), width) for width in self._widths]:
            raise InputError(f"batch of {[a.shape for a in arrays]}: need (b, p) for p in {self._widths}")
        self._seen += len(arrays[0])
        if self._seen > self._rows:
            raise InputError(f"batch: more than the {self._rows} rows that were announced")
        self._eps = max(self._eps, *(float(np.finfo(a.dtype).eps) for a in arrays))
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinite entries are reported as such
            for i, a in enumerate(arrays):
                self._raw[i] += np.sum(np.square(a, dtype=np.float64))
                if self._sums is None:
                    self._kept[i].append(np.array(a))  # a copy: the caller's may be a view of something large
            if self._sums is not None:
                self._sums.add([a.astype(np.float64) for a in arrays])

    def result(self) -> Similarities:
        """Inner products of what was added; from kept rows by Grams or covariances, whichever are smaller."""
        with np.errstate(invalid="ignore", over="ignore"):
            variance, biased, unbiased = self._products()
        return Similarities(self._seen, biased, unbiased, tuple(map(self._fault, variance, self._raw)))

    def _products(self) -> tuple[Array, Array, Array]:
        sums = self._sums
        if sums is None:
            features = [_centred(kept, width) for kept, width in zip(self._kept, self._widths, strict=True)]
            if 8 * len(features) * self._seen**2 <= Sums.nbytes(self._widths):
                return np.array([np.sum(x**2) for x in features]), *_from_grams(features)
            sums = Sums(self._widths)
            sums.add(features)
        return sums.variance(), sums.biased(), sums.unbiased()

    def _fault(self, variance: float, raw: float) -> str | None:
        if not math.isfinite(raw):
            return "NaN or infinite entries"
        if variance <= (4 * self._eps) ** 2 * raw:
            return f"zero variance: all {self._seen} rows are equal"
        return None


def _from_grams(features: Sequence[Array]) -> tuple[Array, Array]:
    """(M, M) biased and unbiased inner products from centred (n, p_m) features; holds M matrices of n x n."""
    n, count = len(features[0]), len(features)
    grams = np.empty((count, n, n))
    for gram, x in zip(grams, features, strict=True):
        np.matmul(x, x.T, out=gram)
    flat = grams.reshape(count, -1)
    biased = flat @ flat.T
    if n < 4:
        return biased, np.full_like(biased, np.nan)
    for gram in grams:
        _u_centre(gram)
    return biased, flat @ flat.T


def _u_centre(gram: Array) -> None:
    """U-centre an (n, n) matrix in place (Szekely and Rizzo 2014): zero diagonal and zero row sums."""
    n = len(gram)
    np.fill_diagonal(gram, 0.0)
    sums = gram.sum(axis=0) / (n - 2)
    gram -= sums[:, None] + sums[None, :] - sums.sum() / (n - 1)
    np.fill_diagonal(gram, 0.0)


def _centred(kept: Sequence[NDArray[Any]], width: int) -> Array:
    """(n, p) float64 without its mean; exactly 0 where all rows are equal, hence the first row before the mean."""
    x = np.concatenate(kept, dtype=np.float64) if kept else np.zeros((0, width))
    x -= x[:1].copy()
    return x - x.mean(axis=0) if len(x) else x


def _floating(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    return array if array.dtype in (np.float16, np.float32, np.float64) else array.astype(np.float64)
