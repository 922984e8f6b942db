"""What the metrics of a run say of its health: rules from rows to warnings.

Each rule reads one seed's metrics over its epochs so far and says at which of them it
holds; nothing is drawn from later epochs, so that a resumed run finds what the
uninterrupted one found. The thresholds are ours. They were set on runs of the published
protocol on Coat, where they name the selector's reward hacking (method 10) and, of 27
recommenders' critics, none. That the published recommenders, which are not paid for
entropy, become deterministic is true of nearly all of them, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

# A rule holds where what it looks for has lasted for so many epochs, or is a mean of so
# many: a score has noise.
PATIENCE = 5

DIVERGED = 10.0  # value loss, in units of its smallest value so far
NEGLIGIBLE = 0.01  # of the first value loss; a smaller minimum counts as this
DETERMINISTIC = 0.01  # nats; a policy below it has no choice left
COMMITTEE = 1.5  # users picked, in units of k_sel: everyone gets nearly the same ones
FEWER = 0.5  # users picked, in units of the first epoch's
SHORTER = 0.8  # episode length, in units of its longest mean so far
DEARER = 1.2  # penalty, in units of what it was when episodes were longest
INFLATED = 2.0  # inflation, in units of the first epoch's
NOTICEABLE = 0.05  # of the mean estimate; a smaller rise of the inflation is none
IMPROVED = 1.01  # score, in units of the mean of the first epochs

SCORES = ("NX_0_all_users_R_tra", "NX_0_R_tra")  # the first that a run has
LENGTH = "FB_len_tra"  # repeats allowed and users leave: the rules of training
_AGENTS = ("recommender", "selector")

Metrics = Mapping[str, np.ndarray]  # of one seed: name -> [epochs]


class Symptom(NamedTuple):
    """A rule that holds for a seed, with the first epoch at which it does."""

    rule: str  # "diverging critic (selector)"
    seed: int
    epoch: int
    seen: str  # the numbers
    remedy: str  # what to change


class Finding(NamedTuple):
    """What a rule makes of one seed."""

    holds: np.ndarray  # [epochs] bool
    seen: Callable[[int], str]  # the index of an epoch -> the numbers


class Rule(NamedTuple):
    """One way in which training goes wrong."""

    name: str
    needs: tuple[str, ...]  # columns; a run without them is not judged
    judge: Callable[[Metrics], Finding]
    remedy: str


class History:
    """The metrics of every seed so far, as far as the rules read them."""

    def __init__(self, rows: Iterable[Mapping[str, float]] = ()):
        """Begins with `rows`, one a seed and epoch, those of a seed in their order."""
        self._seeds: dict[int, dict[str, list[float]]] = {}
        self.append(rows)

    def append(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Adds rows of later epochs."""
        for row in rows:
            columns = self._seeds.setdefault(int(row["seed"]), {})
            for name in _READ & set(row):
                columns.setdefault(name, []).append(row[name])

    def seeds(self) -> dict[int, Metrics]:
        """Seed -> column -> `[epochs]`."""
        return {
            seed: {name: np.array(column, float) for name, column in columns.items()}
            for seed, columns in sorted(self._seeds.items())
        }


def find_symptoms(history: History, k_sel: int | None = None) -> list[Symptom]:
    """The symptoms of a run: each rule once a seed, in the order of the epochs.

    Args:
      history: its metrics.
      k_sel: users that a learned selector picks; None where nothing is picked.
    """
    symptoms = []
    for seed, metrics in history.seeds().items():
        for rule in _rules(metrics, k_sel):
            finding = rule.judge(metrics)
            if finding.holds.any():
                first = int(np.argmax(finding.holds))
                epoch = int(metrics["epoch"][first])
                seen = finding.seen(first)
                symptoms.append(Symptom(rule.name, seed, epoch, seen, rule.remedy))
    return sorted(symptoms, key=lambda symptom: symptom.epoch)


def _rules(metrics: Metrics, k_sel: int | None) -> list[Rule]:
    """The rules that this run can be judged by."""
    score = next((name for name in SCORES if name in metrics), SCORES[-1])
    rules = [_diverging_critic(agent) for agent in _AGENTS]
    rules += [_deterministic_policy(agent) for agent in _AGENTS]
    rules += [_early_termination(), _reward_hacking(score)]
    if k_sel is not None:
        rules.append(_committee(k_sel))
    return [rule for rule in rules if set(rule.needs) <= set(metrics)]


def _diverging_critic(agent: str) -> Rule:
    """The value loss grows far beyond its smallest value, and stays there."""
    name = f"{agent}_value_loss"

    def judge(metrics: Metrics) -> Finding:
        loss = metrics[name]
        least = np.maximum(np.fmin.accumulate(loss), NEGLIGIBLE * loss[0])
        return Finding(
            _lasting(loss > DIVERGED * least),
            lambda n: f"value loss {loss[n]:.3g} after {least[n]:.3g}",
        )

    remedy = f"lower {agent}.learning_rate or {agent}.value_weight"
    return Rule(f"diverging critic ({agent})", (name,), judge, remedy)


def _deterministic_policy(agent: str) -> Rule:
    """The policy's entropy is all but zero: it explores nothing any more."""
    name = f"{agent}_entropy"
    remedies = {
        "recommender": "raise recommender.entropy_weight, or set "
        "recommender.mask_used_items=true",
        "selector": "raise selector.entropy_weight or selector.lambda_d",
    }

    def judge(metrics: Metrics) -> Finding:
        entropy = metrics[name]
        return Finding(
            _lasting(entropy < DETERMINISTIC),
            lambda n: f"policy entropy {max(0.0, entropy[n]):.2g} nats",
        )

    return Rule(f"collapsed policy ({agent})", (name,), judge, remedies[agent])


def _committee(k_sel: int) -> Rule:
    """The selector picks nearly the same few users for everyone."""
    name = "effective_users_picked"

    def judge(metrics: Metrics) -> Finding:
        users = metrics[name]
        few = (users < COMMITTEE * k_sel) & (users < FEWER * users[0])
        return Finding(
            _lasting(few),
            lambda n: (
                f"{users[n]:.1f} users picked for all (first epoch {users[0]:.0f}"
                f", k_sel {k_sel})"
            ),
        )

    remedy = "set selector.reward_estimate=item_centred or absent, or raise "
    remedy += "selector.entropy_weight"
    return Rule("collapsed selection", (name,), judge, remedy)


def _early_termination() -> Rule:
    """Episodes shorten while the penalty grows: to leave is cheaper than to go on."""

    def judge(metrics: Metrics) -> Finding:
        length, penalty = _recent(metrics[LENGTH]), _recent(metrics["penalty"])
        longest = _running_argmax(length)
        before = penalty[longest]
        shorter = length < SHORTER * length[longest]
        return Finding(
            shorter & (penalty > DEARER * before) & (penalty > 0),
            lambda n: (
                f"{LENGTH} {length[longest[n]]:.1f} -> {length[n]:.1f}, penalty "
                f"{before[n]:.3g} -> {penalty[n]:.3g}"
            ),
        )

    needs = (LENGTH, "penalty")
    return Rule("early termination", needs, judge, "lower reward.lambda_u")


def _reward_hacking(score: str) -> Rule:
    """The references' estimates rise above the user's own; the true reward does not."""

    def judge(metrics: Metrics) -> Finding:
        inflation, reached = _recent(metrics["inflation"]), _recent(metrics[score])
        first, scale = metrics["inflation"][0], abs(metrics["estimate"][0])
        start = reached[min(PATIENCE, len(reached)) - 1]
        risen = inflation - first > np.maximum(
            (INFLATED - 1) * abs(first), NOTICEABLE * scale
        )
        later = np.arange(len(reached)) >= 2 * PATIENCE - 1
        return Finding(
            later & risen & (reached < start + (IMPROVED - 1) * abs(start)),
            lambda n: (
                f"inflation {first:.3g} -> {inflation[n]:.3g}, {score} "
                f"{start:.4g} -> {reached[n]:.4g}"
            ),
        )

    remedy = "set selector.reward_estimate=item_centred, user_centred or absent"
    return Rule(
        "reward hacking (selector)", ("inflation", "estimate", score), judge, remedy
    )


def _windows(values: np.ndarray) -> np.ndarray:
    """The last `PATIENCE` values at each epoch that has so many, `[n, PATIENCE]`."""
    if len(values) < PATIENCE:
        return np.zeros((0, PATIENCE))
    return np.lib.stride_tricks.sliding_window_view(values, PATIENCE)


def _lasting(holds: np.ndarray) -> np.ndarray:
    """Where `holds [epochs]` is true for the last `PATIENCE` epochs."""
    lasting = np.zeros(len(holds), bool)
    lasting[PATIENCE - 1 :] = _windows(holds).all(axis=1)
    return lasting


def _recent(values: np.ndarray) -> np.ndarray:
    """The mean of the last `PATIENCE` epochs, at each epoch; nan before there are."""
    means = np.full(len(values), np.nan)
    means[PATIENCE - 1 :] = _windows(values).mean(axis=1)
    return means


def _running_argmax(values: np.ndarray) -> np.ndarray:
    """The index of the first of the largest values so far, at each epoch."""
    largest = np.fmax.accumulate(values)
    is_new = np.append(True, ~(largest[1:] <= largest[:-1]))
    return np.maximum.accumulate(np.where(is_new, np.arange(len(values)), 0))


_READ = {
    *("epoch", "penalty", "inflation", "estimate", "effective_users_picked", LENGTH),
    *(f"{agent}_{name}" for agent in _AGENTS for name in ("value_loss", "entropy")),
    *SCORES,
}
