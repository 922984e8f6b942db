"""What the metrics of a run say of its health: rules from rows to warnings.

Each rule follows one seed epoch by epoch and keeps a few numbers of what it has seen.
So an epoch costs the same however many there were, and a resumed run, whose rules are
shown its rows again, finds what the uninterrupted one found. The thresholds are ours.
They were set on runs of the published protocol on Coat, where they name the selector's
reward hacking and, of 27 recommenders' critics, none (of later runs that of `ips`, in
three of five seeds). That the published recommenders, which are not paid for entropy,
become deterministic is true of nearly all of them, and said. A score that was reached
within the first epochs cannot rise any more: such a run is named for reward hacking
where its references answer more and more, however high its score is.
"""

from __future__ import annotations

import abc
import collections
import math
from collections.abc import Collection, Container, Iterable, Mapping
from typing import NamedTuple

from darlr_jax.runs.columns import ALL_USERS, SCORE

# A rule holds where what it looks for has lasted for so many epochs, or is a mean of so
# many: a score has noise.
PATIENCE = 5

DIVERGED = 10.0  # value loss, in units of its smallest value so far
NEGLIGIBLE = 0.01  # of the first value loss; a smaller minimum counts as this
BLIND = 0.25  # share of the returns' variance that a critic foresees
DETERMINISTIC = 0.01  # nats; a policy below it has no choice left
COMMITTEE = 1.5  # users picked, in units of k_sel: everyone gets nearly the same ones
FEWER = 0.5  # users picked, in units of the first epoch's
SHORTER = 0.8  # episode length, in units of its longest mean so far
DEARER = 1.2  # penalty, in units of what it was when episodes were longest
INFLATED = 2.0  # inflation, in units of the first epoch's
NOTICEABLE = 0.05  # of the mean estimate; a smaller rise of the inflation is none
IMPROVED = 1.01  # score, in units of the mean of the first epochs

_SCORES = (ALL_USERS, SCORE)  # the first that a run has
LENGTH = "FB_len_tra"  # repeats allowed and users leave: the rules of training
_AGENTS = ("recommender", "selector")

Row = Mapping[str, float]  # seed, epoch and metrics


class Symptom(NamedTuple):
    """A rule that holds for a seed, with the first epoch at which it does."""

    rule: str  # "diverging critic (selector)"
    seed: int
    epoch: int
    seen: str  # the numbers
    remedy: str  # what to change


class Rule(abc.ABC):
    """One way in which training goes wrong, looked for in one seed."""

    name: str
    needs: tuple[str, ...]  # columns; a run without them is not judged
    remedy: str

    @abc.abstractmethod
    def look(self, row: Row) -> str | None:
        """The numbers, where the rule holds after this epoch, the next of the seed."""


class Watch:
    """Follows the seeds of a run."""

    def __init__(self, k_sel: int | None = None):
        """Starts before the first epoch.

        Args:
          k_sel: users that a learned selector picks; None where nothing is picked.
        """
        self._k_sel = k_sel
        self._rules: dict[int, list[Rule]] = {}  # seed -> those that have not held yet

    def look(self, rows: Iterable[Row]) -> list[Symptom]:
        """The symptoms that begin with these rows, each rule once a seed.

        Args:
          rows: of the epochs that follow, one a seed and epoch; those of a seed in
            their order.
        """
        found = []
        for row in rows:
            seed, epoch = int(row["seed"]), int(row["epoch"])
            if seed not in self._rules:
                self._rules[seed] = _rules(row, self._k_sel)
            for rule in list(self._rules[seed]):
                seen = rule.look(row)
                if seen is not None:
                    found.append(Symptom(rule.name, seed, epoch, seen, rule.remedy))
                    self._rules[seed].remove(rule)
        return sorted(found, key=lambda symptom: (symptom.epoch, symptom.seed))


def score_name(metrics: Container[str]) -> str | None:
    """The metric that epochs are judged by; None where none of its kind is measured."""
    return next((name for name in _SCORES if name in metrics), None)


def find_symptoms(rows: Iterable[Row], k_sel: int | None = None) -> list[Symptom]:
    """The symptoms of a whole run, in the order of the epochs; see `Watch`."""
    return Watch(k_sel).look(rows)


def rules_for(
    columns: Collection[str], k_sel: int | None = None
) -> tuple[list[str], list[str]]:
    """Names of the rules that a run with these columns is judged by, and of the others.

    What asks about a learned selection is neither where nothing is picked.
    """
    rules = _all_rules(columns, k_sel)
    judged = [rule.name for rule in rules if set(rule.needs) <= set(columns)]
    return judged, [rule.name for rule in rules if rule.name not in judged]


def _rules(row: Row, k_sel: int | None) -> list[Rule]:
    """The rules that a run with these columns can be judged by."""
    return [rule for rule in _all_rules(row, k_sel) if set(rule.needs) <= set(row)]


def _all_rules(columns: Container[str], k_sel: int | None) -> list[Rule]:
    score = score_name(columns) or _SCORES[-1]
    rules: list[Rule] = [_DivergingCritic(agent) for agent in _AGENTS]
    rules += [_BlindCritic(agent) for agent in _AGENTS]
    rules += [_DeterministicPolicy(agent) for agent in _AGENTS]
    rules += [_EarlyTermination(), _RewardHacking(score)]
    if k_sel is not None:
        rules.append(_Committee(k_sel))
    return rules


# --- rules ----------------------------------------------------------------------------


class _DivergingCritic(Rule):
    """The value loss grows far beyond its smallest value, and stays there."""

    def __init__(self, agent: str):
        self.name = f"diverging critic ({agent})"
        self.remedy = f"lower {agent}.learning_rate or {agent}.value_weight"
        self._loss = f"{agent}_value_loss"
        self.needs = (self._loss,)
        self._first = _First()
        self._least = math.inf
        self._lasts = _Lasting()

    def look(self, row: Row) -> str | None:
        loss = row[self._loss]
        first = self._first(loss)
        if loss < self._least:
            self._least = loss
        least = max(NEGLIGIBLE * first, self._least)
        if not self._lasts(loss > DIVERGED * least):
            return None
        return f"value loss {loss:.3g} after {least:.3g}"


class _BlindCritic(Rule):
    """The critic foresees next to nothing of the returns: advantages are noise.

    So it is where an episode has a fixed length and states do not tell how much of it
    is left.
    """

    def __init__(self, agent: str):
        self.name = f"blind critic ({agent})"
        self.remedy = f"set {agent}.critic_target=mean_reward"
        self._explained = f"{agent}_explained_variance"
        self.needs = (self._explained,)
        self._epochs = 0
        self._lasts = _Lasting()

    def look(self, row: Row) -> str | None:
        self._epochs += 1
        explained = row[self._explained]
        lasts = self._lasts(explained < BLIND)
        if not (lasts and self._epochs >= 2 * PATIENCE):  # first it has to learn
            return None
        return f"the value explains {explained:.0%} of the returns' variance"


class _DeterministicPolicy(Rule):
    """The policy's entropy is all but zero: it explores nothing any more."""

    _REMEDIES: Mapping[str, str] = {
        "recommender": "raise recommender.entropy_weight, or set "
        "recommender.mask_used_items=true",
        "selector": "raise selector.entropy_weight or selector.lambda_d",
    }

    def __init__(self, agent: str):
        self.name = f"collapsed policy ({agent})"
        self.remedy = self._REMEDIES[agent]
        self._entropy = f"{agent}_entropy"
        self.needs = (self._entropy,)
        self._lasts = _Lasting()

    def look(self, row: Row) -> str | None:
        entropy = row[self._entropy]
        if not self._lasts(entropy < DETERMINISTIC):
            return None
        return f"policy entropy {max(0.0, entropy):.2g} nats"


class _Committee(Rule):
    """The selector picks nearly the same few users for everyone."""

    name = "collapsed selection"
    needs = ("effective_users_picked",)
    remedy = (
        "set selector.reward_estimate=item_centred or absent, or raise "
        "selector.entropy_weight"
    )

    def __init__(self, k_sel: int):
        self._k_sel = k_sel
        self._first = _First()
        self._lasts = _Lasting()

    def look(self, row: Row) -> str | None:
        users = row["effective_users_picked"]
        first = self._first(users)
        few = users < COMMITTEE * self._k_sel and users < FEWER * first
        if not self._lasts(few):
            return None
        return (
            f"{users:.1f} users picked for all (first epoch {first:.0f}, "
            f"k_sel {self._k_sel})"
        )


class _EarlyTermination(Rule):
    """Episodes shorten while the penalty grows: to leave is cheaper than to go on."""

    name = "early termination"
    needs = (LENGTH, "penalty")
    remedy = "lower reward.lambda_u"

    def __init__(self) -> None:
        self._length, self._penalty = _Recent(), _Recent()
        self._longest = self._before = math.nan  # penalty, when they were longest

    def look(self, row: Row) -> str | None:
        length, penalty = self._length(row[LENGTH]), self._penalty(row["penalty"])
        if math.isnan(self._longest) or length > self._longest:
            self._longest, self._before = length, penalty
        shorter = length < SHORTER * self._longest
        if not (shorter and penalty > DEARER * self._before and penalty > 0):
            return None
        return (
            f"{LENGTH} {self._longest:.1f} -> {length:.1f}, penalty "
            f"{self._before:.3g} -> {penalty:.3g}"
        )


class _RewardHacking(Rule):
    """The references' estimates rise above the user's own; the true reward does not."""

    name = "reward hacking (selector)"
    remedy = "set selector.reward_estimate=item_centred, user_centred or absent"

    def __init__(self, score: str):
        self.needs = ("inflation", "estimate", score)
        self._score = score
        self._epochs = 0
        self._first, self._scale = _First(), _First()
        self._inflation, self._reached = _Recent(), _Recent()
        self._start = math.nan  # score of the first epochs

    def look(self, row: Row) -> str | None:
        self._epochs += 1
        first, scale = self._first(row["inflation"]), self._scale(row["estimate"])
        inflation = self._inflation(row["inflation"])
        reached = self._reached(row[self._score])
        if self._epochs == PATIENCE:
            self._start = reached
        rise = inflation - first
        risen = rise > (INFLATED - 1) * abs(first) and rise > NOTICEABLE * abs(scale)
        better = self._start + (IMPROVED - 1) * abs(self._start)
        if not (self._epochs >= 2 * PATIENCE and risen and reached < better):
            return None
        return (
            f"inflation {first:.3g} -> {inflation:.3g}, {self._score} "
            f"{self._start:.4g} -> {reached:.4g}"
        )


# --- what rules keep of what they have seen -------------------------------------------


class _First:
    """The first value."""

    def __init__(self) -> None:
        self._value: float | None = None

    def __call__(self, value: float) -> float:
        if self._value is None:
            self._value = value
        return self._value


class _Lasting:
    """Whether something has held for the last `PATIENCE` epochs."""

    def __init__(self) -> None:
        self._epochs = 0

    def __call__(self, holds: bool) -> bool:
        self._epochs = self._epochs + 1 if holds else 0
        return self._epochs >= PATIENCE


class _Recent:
    """The mean of the last `PATIENCE` values; nan before there are so many."""

    def __init__(self) -> None:
        self._values: collections.deque[float] = collections.deque(maxlen=PATIENCE)

    def __call__(self, value: float) -> float:
        self._values.append(value)
        whole = len(self._values) == PATIENCE
        return sum(self._values) / PATIENCE if whole else math.nan
