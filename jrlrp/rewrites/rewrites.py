"""The rewrites: passes over a program, each with the rewrites that are tried with each equation, in order."""

from jrlrp.rewrites import arithmetic, exponentials, late_division, log_sum_exp, matrix_products, softmax, sums
from jrlrp.rewrites.canonical import Rewrite

PASSES: tuple[tuple[Rewrite, ...], ...] = (
    (
        matrix_products.outer_product,
        matrix_products.sum_of_products,
        exponentials.exponential,
        exponentials.exponential_less_one,
        sums.moved_reciprocal,
        sums.factor_of_a_sum,
        sums.masked_sum,
        sums.padded,
        softmax.share,
        late_division.divided_late,
        matrix_products.sum_of_products,  # of what was divided late
        log_sum_exp.exponential_of_logarithm,
        log_sum_exp.logarithm_of_softmax,
        log_sum_exp.log_sum_exp,
        log_sum_exp.log_add_exp,
        arithmetic.identity,
        arithmetic.reciprocal,
        arithmetic.sign,
        arithmetic.choice_of_negatives,
        matrix_products.scaled_factor,
        arithmetic.mixture,
    ),
    (exponentials.shift_under_exponential,),
)
