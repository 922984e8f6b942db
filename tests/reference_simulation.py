"""Slow references, written from the protocol's text: lists, dictionaries and loops.

Nothing here knows JAX, batches or tables of the package. Names follow the text: `past`
is the list of items recommended so far in a session, oldest first.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

START_REWARD = 1.0  # of the start token
NOTHING = -1  # in an empty slot of a history

# --- sessions and the exit rule -------------------------------------------------------


def looked_at(past: list[int], window: int, published: bool) -> list[int]:
    """The past items that the exit rule compares with: a slice of a Python list."""
    turn = len(past)
    return past[turn - window : turn] if published else past[max(0, turn - window) :]


def leaves_by_tags(
    item: int, recent: Sequence[int], tags: Sequence[set[int]], threshold: int
) -> bool:
    """Whether a tag of the item occurs more than `threshold` times among `recent`."""
    counts = collections.Counter(tag for other in recent for tag in tags[other])
    return any(counts[tag] > threshold for tag in tags[item])


def leaves_by_distance(
    item: int, recent: Sequence[int], columns: Sequence[Any], threshold: float
) -> bool:
    """Whether an item of `recent` is nearer than `threshold`: columns of the truth."""
    return any(math.dist(columns[item], columns[other]) < threshold for other in recent)


def newest_first(values: Sequence[Any], start: Any, nothing: Any, slots: int) -> list:
    """A history of `slots`: newest value first, then the start token, then nothing."""
    return ([*reversed(values), start] + [nothing] * slots)[:slots]


# --- entropy --------------------------------------------------------------------------


def entropy_dictionary(walks: Sequence[Sequence[int]], order: int) -> dict:
    """Sorted last items -> normalised entropy of the next; a walk is a user's log."""
    following = collections.defaultdict(collections.Counter)
    for walk in walks:
        for end in range(order, len(walk)):
            following[tuple(sorted(walk[end - order : end]))][walk[end]] += 1
    entropy = {}
    for key, counts in following.items():
        shares = [count / counts.total() for count in counts.values()]
        bits = -sum(share * math.log2(share) for share in shares)
        entropy[key] = bits / math.log2(len(shares)) if len(shares) > 1 else 1.0
    return entropy


def entropy_bonus(
    item: int, past: Sequence[int], entropy: Mapping, orders: Sequence[int]
) -> float:
    """H of the last item(s), the present one included; 1 where unseen or missing."""
    sequence = [*past, item]
    keys = [tuple(sorted(sequence[-order:])) for order in orders]
    return sum(
        entropy.get(key, 1.0) if len(key) == order else 1.0
        for key, order in zip(keys, orders, strict=True)
    )


# --- users ----------------------------------------------------------------------------


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    first, second = [float(x) for x in first], [float(x) for x in second]
    norms = math.sqrt(sum(x * x for x in first) * sum(x * x for x in second))
    product = sum(x * y for x, y in zip(first, second, strict=True))
    return product / norms if norms else 0.0


def nearest(signatures: np.ndarray, user: int, k: int, include_self: bool) -> list[int]:
    """The k most similar users, most similar first; the user itself is the first."""
    others = [other for other in range(len(signatures)) if other != user]
    others.sort(key=lambda other: -cosine(signatures[user], signatures[other]))
    return ([user] if include_self else []) + others[: k - include_self]


def similarity_gains(
    user: int, picked: Sequence[int], feedback: np.ndarray
) -> list[float]:
    return [cosine(feedback[user], feedback[pick]) for pick in picked]


def diversity_gains(picked: Sequence[int], feedback: np.ndarray) -> list[float]:
    gains = []
    for number, pick in enumerate(picked):
        distances = [1 - cosine(feedback[v], feedback[pick]) for v in picked[:number]]
        gains.append(sum(distances) / len(distances) if distances else 0.0)
    return gains


# --- rewards --------------------------------------------------------------------------


def mean(values: Sequence[float]) -> float:
    return sum(float(value) for value in values) / len(values)


def dynamic_uncertainty(
    value: float,
    previous: float,
    similarity: Sequence[float],
    diversity: Sequence[float],
    floor: float,
) -> float:
    """|r_dyn - r_-1| / (r_s + r_d), the gains averaged over the picks."""
    return abs(value - previous) / max(mean(similarity) + mean(diversity), floor)


def neighbour_reward(
    prediction: np.ndarray, signatures: np.ndarray, k: int, weights: str
) -> np.ndarray:
    """ROLeR's table: mean form, II-weight, II-weight-div and II-weight-norm."""
    result = np.zeros(prediction.shape)
    for user in range(len(prediction)):
        near = nearest(signatures, user, k, include_self=True)
        cosines = [cosine(signatures[user], signatures[other]) for other in near]
        for item in range(prediction.shape[1]):
            rows = [float(prediction[other, item]) for other in near]
            weighted = sum(c * r for c, r in zip(cosines, rows, strict=True))
            result[user, item] = {
                "mean": sum(rows) / k,
                "cosine": weighted,
                "cosine_div": weighted / k,
                "cosine_norm": weighted / sum(cosines),
            }[weights]
    return result


def neighbour_variance(
    prediction: np.ndarray, signatures: np.ndarray, k: int
) -> np.ndarray:
    """I-var: population variance of the neighbours' predictions."""
    result = np.zeros(prediction.shape)
    for user in range(len(prediction)):
        near = nearest(signatures, user, k, include_self=True)
        for item in range(prediction.shape[1]):
            rows = [float(prediction[other, item]) for other in near]
            result[user, item] = mean([(row - mean(rows)) ** 2 for row in rows])
    return result


def neighbour_cosine(
    prediction: np.ndarray, signatures: np.ndarray, k: int, reduction: str
) -> np.ndarray:
    """I-cos_{min,avg,max}: 1 - cos over the neighbours, the same for every item."""
    result = np.zeros(prediction.shape)
    reduce = {"min": min, "avg": mean, "max": max}[reduction]
    for user in range(len(prediction)):
        near = nearest(signatures, user, k, include_self=True)
        result[user] = reduce(
            [1 - cosine(signatures[user], signatures[o]) for o in near]
        )
    return result


def reward_bounds(
    prediction: np.ndarray,
    variance: np.ndarray,
    entropies: Sequence[Mapping],
    lambda_u: float,
    lambda_e: float,
) -> tuple[float, float]:
    """MIN_R and MAX_R; `entropies` holds a dictionary for each order in use."""
    lowest = [min([*entropy.values(), 1.0]) for entropy in entropies]
    highest = [1.0 for _ in entropies]  # of the pairs that the log never continues
    low = prediction.min() - lambda_u * variance.max() + lambda_e * sum(lowest)
    high = prediction.max() - lambda_u * variance.min() + lambda_e * sum(highest)
    return float(low), float(high)


class Simulator:
    """What recommendations pay, one turn of all sessions after another.

    A recommendation is (user, item, past items, reference users); `static` and
    `uncertainty` answer where a method has no references or no dynamic penalty.
    """

    def __init__(
        self,
        *,
        base: np.ndarray,
        static: np.ndarray,
        uncertainty: np.ndarray,
        feedback: np.ndarray,
        entropy: Mapping,
        orders: Sequence[int],
        lambda_u: float,
        lambda_e: float,
        floor: float,
        shift: float,
        dynamic: bool = False,
        overwrite: bool = False,
    ):
        self.base, self.static, self.uncertainty = base, static, uncertainty
        self.feedback, self.entropy, self.orders = feedback, entropy, orders
        self.lambda_u, self.lambda_e = lambda_u, lambda_e
        self.floor, self.shift = floor, shift
        self.dynamic, self.overwrite = dynamic, overwrite
        self.stored: dict[tuple[int, int], float] = {}

    def turn(self, recommendations: Sequence[tuple]) -> tuple[list, list]:
        """The estimates and the shaped rewards, both before anything is stored."""
        estimates, rewards = [], []
        for user, item, past, picked in recommendations:
            estimate = self._estimate(user, item, picked)
            penalty = self.lambda_u * self._uncertainty(user, item, picked, estimate)
            bonus = entropy_bonus(item, past, self.entropy, self.orders)
            estimates.append(estimate)
            rewards.append(estimate - penalty + self.lambda_e * bonus - self.shift)
        together = collections.defaultdict(list)
        for (user, item, _, _), estimate in zip(
            recommendations, estimates, strict=True
        ):
            together[user, item].append(estimate)
        self.stored |= {cell: mean(values) for cell, values in together.items()}
        return estimates, rewards

    def _latest(self, user: int, item: int) -> float:
        return self.stored.get((user, item), float(self.base[user, item]))

    def _estimate(self, user: int, item: int, picked: Sequence[int] | None) -> float:
        if picked is None:
            return float(self.static[user, item])
        if self.overwrite:
            return mean([self._latest(pick, item) for pick in picked])
        return mean([self.base[pick, item] for pick in picked])

    def _uncertainty(
        self, user: int, item: int, picked: Sequence[int] | None, estimate: float
    ) -> float:
        if not self.dynamic or picked is None:
            return float(self.uncertainty[user, item])
        return dynamic_uncertainty(
            estimate,
            self._latest(user, item),
            similarity_gains(user, picked, self.feedback),
            diversity_gains(picked, self.feedback),
            self.floor,
        )


# --- learning -------------------------------------------------------------------------


def discounted_returns(rewards: Sequence[float], gamma: float) -> list[float]:
    """G_t = sum of gamma^j r_{t+j} up to the end, worth nothing after it."""
    return [
        sum(gamma**j * float(reward) for j, reward in enumerate(rewards[start:]))
        for start in range(len(rewards))
    ]


def minibatch_sizes(count: int, size: int) -> list[int]:
    """Full minibatches; the remainder joins the last one."""
    sizes = []
    while count >= 2 * size:
        sizes.append(size)
        count -= size
    return [*sizes, count]


# --- evaluation -----------------------------------------------------------------------


def episode_metrics(
    episodes: Sequence[Sequence[tuple[int, float]]],
    dominated: np.ndarray,
    popularity: Sequence[float],
    similarity: Callable[[int, int], float],
    groups: Sequence[int],
) -> dict[str, float]:
    """The metrics of episodes given as lists of (item, true reward).

    `similarity` is that of two items, `groups` the activity group of each episode.
    """
    steps = [step for episode in episodes for step in episode]
    reward = sum(paid for _, paid in steps)
    shown = [item for item, _ in steps]
    majority = [mean([group[item] for item in shown]) for group in dominated]
    size = len(popularity)
    return {
        "R_tra": reward / len(episodes),
        "len_tra": len(steps) / len(episodes),
        "R_each": reward / len(steps),
        "CV": len(set(shown)) / size,
        "CV_turn": len(set(shown)) / len(steps),
        "MCD": mean(majority) if len(majority) else math.nan,
        "Diversity": mean([diversity(episode, similarity) for episode in episodes]),
        "Novelty": mean([-math.log(popularity[item]) for item in shown]),
        "Gini": gini([shown.count(item) for item in range(size)]),
        **{
            f"CV_{name}": len(
                {
                    item
                    for episode, group in zip(episodes, groups, strict=True)
                    for item, _ in episode
                    if group == number
                }
            )
            / size
            for number, name in enumerate(("light", "medium", "heavy"))
        },
    }


def diversity(
    episode: Sequence[tuple[int, float]], similarity: Callable[[int, int], float]
) -> float:
    """Mean of 1 - similarity over the pairs of an episode, 1 where there is none."""
    pairs = itertools.combinations([item for item, _ in episode], 2)
    values = [1 - similarity(*pair) for pair in pairs]
    return mean(values) if values else 1.0


def gini(counts: Sequence[int]) -> float:
    """Mean absolute difference of all pairs over twice the mean."""
    differences = [abs(a - b) for a in counts for b in counts]
    return mean(differences) / (2 * mean(counts))
