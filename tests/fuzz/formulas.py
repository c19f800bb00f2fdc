"""Answers that are formulas: what models write, and what hangs those who compute it."""

from __future__ import annotations

from hypothesis import strategies as st

BOMBS = (
    "9^{9^{9^{9}}}", "10^{10^{10}}", "2^{10^{11}}", "9^9^9^9", "(10^{10})!", "10000000!", "((9!)!)!", "1e999999",
    "10^{-10^{9}}",
    r"\frac{1}{10^{10^{8}}}", r"\sqrt{\sqrt{\sqrt{\sqrt{10^{10^9}}}}}", r"\binom{10^{9}}{10^{8}}", "x^{x^{x^{x}}}=3",
    r"\sum_{n=1}^{10^{12}} n^2", r"\prod_{k=1}^{10^{9}} k", r"\int_0^{10^9} e^{x^2} dx", r"\lim_{x\to0} x^{x^x}",
    "\\frac{" * 100, "\\frac{1}{" * 60 + "1" + "}" * 60, "(" * 240 + "1" + ")" * 240, "{" * 250 + "}" * 250,
    "-" * 400, "1+" * 240 + "1",
    r"\sqrt{" * 80 + "2" + "}" * 80, "x_{" * 100 + "1" + "}" * 100, "9" * 490, "0." + "0" * 480 + "1", "1,234," * 80,
    r"\begin{pmatrix}" + "1&" * 150 + r"1\end{pmatrix}", r"\{" + "1," * 200 + r"1\}", "|" * 300, "^" * 300, "$" * 400,
)  # fmt: skip

_ATOMS = st.sampled_from(
    ["0", "1", "-1", "2", "72", "1,234", "0.5", ".5", "1/2", "x", "y", "pi", r"\pi", "e", "i", r"\infty", "50%",
    r"50\%",
     "$5", r"\$5", "12 apples", r"\text{yes}", "A", "(B)", "\u221e", "½", "−3", "٣", "1e5", "1E999", "NaN", "", " "]
)  # fmt: skip
_BINARY = st.sampled_from(["+", "-", "*", "/", "^", "=", "<", r"\cdot ", r"\times ", ",", ";", r"\pm ", "!", " "])
_WRAP = st.sampled_from(
    [r"\frac{{{a}}}{{{b}}}", r"\sqrt{{{a}}}", r"\sqrt[{b}]{{{a}}}", "({a})", r"\left({a}\right)", "{a}^{{{b}}}",
    "[{a},{b})",
     r"\{{{a},{b}\}}", r"{a}_{{{b}}}", "|{a}|", r"\log_{{{a}}}{{{b}}}", r"\sin({a})", r"\boxed{{{a}}}", "${a}$",
     r"\text{{{a}}}",
     r"{a}\%", "{a}!", r"\binom{{{a}}}{{{b}}}", r"\begin{{pmatrix}}{a}&{b}\end{{pmatrix}}", r"{a}^\circ", "{a}"]
)  # fmt: skip


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, _BINARY, inner).map("".join),
        st.tuples(_WRAP, inner, inner).map(lambda parts: parts[0].format(a=parts[1], b=parts[2])),
    )


FORMULAS = st.recursive(_ATOMS, _grown, max_leaves=6)
_FRAMES = st.sampled_from(
    ["{}", "\\boxed{{{}}}", "The answer is {}.", "#### {}", "A: {}", "so\nAnswer: {}",
    "\\boxed{{{}}} and \\boxed{{{}}}",
     "<think>x</think> \\boxed{{{}}}", "\\boxed {{{}", "\\fbox{{{}}}\n\n", "**Final answer: {}**", "\\[ {} \\]",
     "$$ {} $$"]
)  # fmt: skip


def framed(formulas: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A completion that ends, in one way or another, in a formula."""
    return st.tuples(_FRAMES, formulas).map(lambda parts: parts[0].format(*[parts[1]] * parts[0].count("{}")))
