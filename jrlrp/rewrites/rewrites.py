"""The rewrites: passes over a program, each with the rewrites that are tried with an equation, in order."""

from jrlrp.rewrites import arithmetic, exponentials, log_sum_exp, softmax, sums
from jrlrp.rewrites.canonical import Rewrite

PASSES: tuple[tuple[Rewrite, ...], ...] = (
    (
        exponentials.exponential,
        exponentials.exponential_less_one,
        sums.moved_reciprocal,
        sums.masked_sum,
        softmax.share,
        softmax.divided_after_product,
        log_sum_exp.exponential_of_logarithm,
        log_sum_exp.logarithm_of_softmax,
        log_sum_exp.log_sum_exp,
        log_sum_exp.log_add_exp,
        arithmetic.identity,
        arithmetic.sign,
        arithmetic.outer_product,
        arithmetic.mixture,
    ),
    (exponentials.shift_under_exponential,),
)
