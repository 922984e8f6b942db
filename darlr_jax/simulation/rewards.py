"""Reward estimators, and the one line where a reward is shaped.

An estimator has the signature `(user, item, references, previous, tables, coefficients)
-> Estimate` and only reads; which one a method uses is decided once, when the training
program is built. All functions are _unbatched_.
"""

from __future__ import annotations

from typing import Protocol

import jax.numpy as jnp

from darlr_jax.simulation.penalties import DynamicUncertainty
from darlr_jax.types import (
    UNVISITED,
    Array,
    Coefficients,
    Estimate,
    References,
    RewardScale,
    RewardTables,
)


class RewardEstimator(Protocol):
    """What a simulated recommendation is estimated to pay, and how sure that is."""

    def __call__(
        self,
        user: Array,
        item: Array,
        references: References | None,
        previous: Array,
        tables: RewardTables,
        coefficients: Coefficients,
    ) -> Estimate:
        """Estimates user `[]`, item `[]`; `previous` is the store of estimates."""


def static_estimate(
    user: Array,
    item: Array,
    references: References | None,
    previous: Array,
    tables: RewardTables,
    coefficients: Coefficients,
) -> Estimate:
    """A cell of frozen tables: GT, MBPO, MOPO, DORL, ROLeR (DORL, static reward)."""
    del references, previous, coefficients
    return Estimate(tables.static[user, item], uncertainty_of(user, item, tables))


def reference_estimate(
    user: Array,
    item: Array,
    references: References | None,
    previous: Array,
    tables: RewardTables,
    coefficients: Coefficients,
) -> Estimate:
    """r_dyn(u, i) = mean over the reference users u' of r_hat(u', i) (DARLR)."""
    assert references is not None, "a reference estimate needs references"
    del previous, coefficients
    value = jnp.mean(tables.base[references.users, item])
    return Estimate(value, uncertainty_of(user, item, tables))


def overwritten_estimate(
    user: Array,
    item: Array,
    references: References | None,
    previous: Array,
    tables: RewardTables,
    coefficients: Coefficients,
) -> Estimate:
    """As `reference_estimate`, the references answering with their latest estimates."""
    assert references is not None, "a reference estimate needs references"
    del coefficients
    latest = previous[references.users, item]
    base = tables.base[references.users, item]
    value = jnp.mean(jnp.where(latest == UNVISITED, base, latest))
    return Estimate(value, uncertainty_of(user, item, tables))


def uncertainty_of(user: Array, item: Array, tables: RewardTables) -> Array:
    """P_U(u, i) of a frozen table; 0 for methods that have none."""
    if not tables.uncertainty.size:
        return jnp.zeros(())
    return tables.uncertainty[user, item]


def with_dynamic_uncertainty(
    estimator: RewardEstimator, formula: DynamicUncertainty
) -> RewardEstimator:
    """The same estimate with P'_U by a formula in place of its static uncertainty."""

    def estimate(
        user: Array,
        item: Array,
        references: References | None,
        previous: Array,
        tables: RewardTables,
        coefficients: Coefficients,
    ) -> Estimate:
        assert references is not None, "the dynamic penalty needs references"
        value = estimator(user, item, references, previous, tables, coefficients).value
        uncertainty = formula(
            value,
            last_estimate(user, item, previous, tables),
            tables.base[references.users, item],
            references.similarity,
            references.diversity,
            coefficients.denominator_floor,
        )
        return Estimate(value, uncertainty)

    return estimate


def last_estimate(
    user: Array, item: Array, previous: Array, tables: RewardTables
) -> Array:
    """r_{-1}(u, i): the stored estimate, the base table's before the first visit."""
    stored = previous[user, item]
    return jnp.where(stored == UNVISITED, tables.base[user, item], stored)


def shape_reward(
    estimate: Estimate, bonus: Array, shift: Array, coefficients: Coefficients
) -> Array:
    """R = r - lambda_U P_U + lambda_E P_E - shift (DORL; DARLR with dynamic terms)."""
    penalty = coefficients.lambda_u * estimate.uncertainty
    return estimate.value - penalty + coefficients.lambda_e * bonus - shift


def reward_bounds(tables: RewardTables, coefficients: Coefficients) -> RewardScale:
    """MIN_R and MAX_R of the published protocol (section 3.1).

    The shift of the shaped reward is MIN_R, and shaped rewards enter the state divided
    by MAX_R - MIN_R. Both come from the bounds that `simulation.tables` chose, also
    where other tables estimate reward and uncertainty.
    """
    lambda_u, lambda_e = coefficients.lambda_u, coefficients.lambda_e
    low = tables.estimate_low - lambda_u * tables.uncertainty_high
    high = tables.estimate_high - lambda_u * tables.uncertainty_low
    return RewardScale(
        low + lambda_e * tables.entropy.low, high + lambda_e * tables.entropy.high
    )
