"""The architecture in one file: the records that cross module borders.

Data flows through them in this order::

    Dataset -> WorldModelTables -> SimulationTables -> EnvState -> Transition
            -> TrainState -> EpisodeMetrics

`(protocol N)` and `(method N)`, in any docstring, point to section N of
docs/protocol.md and docs/method.md.

Axis legend, used in every comment and docstring that does not name its own:

    B  episodes of a batch          U  users               W  window of a tracker
    T  turns of an episode          I  items (actions)     M  transitions of a minibatch
    K  reference users (k_sel)      C  item tags           N  window of the exit rule;
    S  seeds                        G  clusters, groups       rows of a log; cells
    E  ensemble members             F  width of a feedback vector
    D  width of a state: of the recommender's, and in queries, keys and tokens of the
       selector's

A `NamedTuple` is a record that flows; a `struct.PyTreeNode` is state that is
carried and updated with `.replace`. Shapes are those of one element; a leading B, T or
S is added where a function is lifted with `vmap` or `scan`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import struct

Array = jax.Array
Key = jax.Array  # a typed key, from jax.random.key; whoever receives one consumes it
Params = Any  # a pytree of arrays
Table = Any  # an array: NumPy where it is built, on the device where it is used

EMPTY = -1  # an item slot of a history that holds nothing yet
UNVISITED = float("-inf")  # a cell of `previous_estimates` without an estimate


class Network(NamedTuple):
    """The border to the neural-network library: two pure functions."""

    init: Callable[..., Params]  # (key) -> params; a tracker's: (key, item vectors)
    apply: Callable[..., Any]  # (params, *inputs) -> outputs


class SelectorNetwork(NamedTuple):
    """As `Network`, with the work that depends on the user alone done once."""

    init: Callable[..., Params]  # (key) -> params
    encode_users: Callable[..., UserCodes]  # (params, feedback [U, F]) -> codes
    # (params, context [D], or [2D-1] with the item) -> [w_sel, 4, D] of the selector
    encode_context: Callable[..., Array]
    apply: Callable[..., SelectorOutput]  # (params, [w_sel, 4, D], valid) -> output


class ActorCriticOutput(NamedTuple):
    """What the recommender computes from its state."""

    logits: Array  # [I]
    value: Array  # []


class SelectorOutput(NamedTuple):
    """What the selector computes from its state."""

    query: Array  # [D]; its dot products with the users' keys are the logits
    value: Array  # []


class Images(NamedTuple):
    """Tokens, and what the attention that reads them makes of each.

    All of it is linear: the images of a sum are sums of images.
    """

    token: Any  # [..., D]
    query: Any  # [..., D]
    key: Any  # [..., D]
    value: Any  # [..., D]


class UserCodes(NamedTuple):
    """Projections of the feedback vectors p_u, computed once per set of parameters."""

    images: Array  # [U, 4, D] `Images` of what the selector's state holds of a user
    keys: Any  # [U, D] what a selector state is compared with; see `agents.pools`


class WorldModelTables(NamedTuple):
    """What the policies need of a fitted world model (protocol 2.5)."""

    prediction: Table  # [U, I] r_hat, mean of the members' means
    variance: Table  # [U, I] P_U, largest predicted variance of a member
    item_vectors: Table  # [I, D-1] member 0: embeddings of id and features, dense ones
    user_vectors: Table  # [U, ?] member 0, likewise


class EntropyTables(NamedTuple):
    """k-order entropy of what users did next in the log (protocol 3.3)."""

    single: Table  # [I] order 1; 1 for items that the log never continues
    pair_codes: Table  # [P] int32, sorted: smaller item * I + larger item, then fill
    pair_entropy: Table  # [P] order 2; a pair that is not listed has entropy 1
    low: Table  # [] smallest possible bonus, sum over the orders in use
    high: Table  # [] largest possible bonus


class Coefficients(NamedTuple):
    """The numbers that may change without a new compilation."""

    lambda_u: Array  # [] weight of the uncertainty penalty
    lambda_e: Array  # [] weight of the entropy bonus
    lambda_s: Array  # [] weight of the similarity gain
    lambda_d: Array  # [] weight of the diversity gain
    denominator_floor: Array  # [] of r_s + r_d in the dynamic penalty
    steps_per_epoch: Array  # [] int32 transitions after which an epoch ends


class RewardTables(NamedTuple):
    """The reward that the agents train on, before coefficients are applied."""

    base: Table  # [U, I] what reference users are asked for
    item_mean: Table  # [I] of the base table over users
    static: Table  # [U, I] estimate of a method without references (and of a warm-up)
    uncertainty: Table  # [U, I] static uncertainty of that estimate; [0, 0]: none
    entropy: EntropyTables
    estimate_low: Table  # [] bounds of the base table, whatever estimates (published)
    estimate_high: Table  # []
    uncertainty_low: Table  # []
    uncertainty_high: Table  # []


class Clusters(NamedTuple):
    """A partition of the users into G groups of equal size, the last may be short."""

    members: Table  # [G, S] int32 users, EMPTY where the last group is short
    slot: Table  # [U] int32 where each user stands in `members`, flattened


class UserTables(NamedTuple):
    """What is known of the users before any policy is trained."""

    feedback: Table  # [U, F] p_u
    similarity: Table  # [U, U] cosine of the feedback vectors
    neighbours: Table  # [U, K] the k most similar users, without the user itself
    # Whom the selector may pick: everybody else (None), those in the user's row [U, C]
    # by rising id, or everybody else by way of clusters.
    pool: Any = None


class EnvParams(NamedTuple):
    """The world as arrays; data sets differ here and not in code."""

    item_tags: Table  # [I, C] float32 0/1
    item_distance: Table  # [I, I], or [0, 0] where the exit rule does not need it
    exit_threshold: Table  # []
    num_users: Table  # [] users that an episode may start with


class SimulationTables(NamedTuple):
    """Every large array of policy training: an argument of the program, no closure."""

    env: EnvParams
    rewards: RewardTables
    users: UserTables
    item_vectors: Table  # [I, D-1] where the state tracker's item embeddings start
    exposure_distance: Table  # [I, I], or [0, 0] where the reward does not ask for it


class EnvState(struct.PyTreeNode):
    """One episode in progress; H = max(W, N), or T too where the reward asks for it."""

    user: Array  # [] int32
    turn: Array  # [] int32, recommendations made
    discount: Array  # [] 1 while the user stays, 0 once she has left
    items: Array  # [H] int32, newest first; the start token, I, then EMPTY at reset
    rewards: Array  # [H] what was paid for them
    used: Array  # [I] bool, recommended in this episode


class Observation(NamedTuple):
    """What the recommender sees: its last W recommendations and what they paid."""

    items: Array  # [W] int32, newest first; the start token is I, EMPTY where absent
    rewards: Array  # [W] float32


class RewardScale(NamedTuple):
    """Rewards enter the state as (r - low) / (high - low), at most 1."""

    low: Array  # []
    high: Array  # []


class Estimate(NamedTuple):
    """What a reward estimator says of one recommendation."""

    value: Array  # [] r_hat or r_hat_dyn
    uncertainty: Array  # [] P_U or P'_U


class References(NamedTuple):
    """The reference users of one recommendation."""

    users: Array  # [K] int32
    similarity: Array  # [K] r_s of each pick
    diversity: Array  # [K] r_d of each pick


class SelectorTrajectory(NamedTuple):
    """The K picks of one recommendation, as learning needs them."""

    context: Array  # [D] state of the recommender, detached; and its item, if shown
    users: Array  # [K] int32 picked users
    value: Array  # [K] critic when picking
    reward: Array  # [K] r_sel


class Transition(NamedTuple):
    """One recommendation of a training episode."""

    user: Array  # [] int32
    observation: Observation  # before the recommendation
    used: Array  # [I] bool, or [0] where items are not masked in training
    item: Array  # [] int32
    value: Array  # [] critic before learning
    reward: Array  # [] shaped; with separate passes, what these leave as well
    discount: Array  # [] 0 if the episode ended with this step
    weight: Array  # [] 1 if the episode was still going before this step
    selector: SelectorTrajectory | None
    metrics: dict[str, Array]  # scalars to be averaged over real transitions


class ItemFacts(NamedTuple):
    """What the metrics ask of the items, all of it from the log."""

    dominated: Table  # [G, I] float32 0/1: items of majority categories, a group a row
    popularity: Table  # [I] share of the logged users who met the item, above 0


class EvaluationTables(NamedTuple):
    """What evaluation needs and training must not see."""

    env: EnvParams
    true_reward: Table  # [U, I]
    items: ItemFacts
    activity: Table  # [U] int32 group of each user by logged rows: 0 light, 2 heavy
    scale: RewardScale  # of true rewards in the state


class Trajectories(NamedTuple):
    """Evaluation episodes."""

    items: Array  # [T, B] int32
    rewards: Array  # [T, B] true rewards, 0 after the end
    weights: Array  # [T, B] 1 for real recommendations


class AgentState(NamedTuple):
    """What an agent has learned."""

    params: Params
    opt_state: Any


class TrainState(struct.PyTreeNode):
    """A training run between two epochs; all that a checkpoint holds."""

    recommender: AgentState
    selector: AgentState | None
    previous_estimates: Array  # [U, I] r_hat_{-1}, or [0, 0] where nothing needs it
    key: Key  # of training
    # constant; methods with one seed are evaluated on the same users
    evaluation_key: Key
    epoch: Array  # [] int32
    env_steps: Array  # [] int32, real transitions so far


class Policy(NamedTuple):
    """How a trained learner recommends. Both functions are _unbatched_."""

    # (params, key, user [], observation, used [I] bool or None, scale) -> item [];
    # the key is consumed, items in `used` must not be recommended
    act: Callable[..., Array]
    # (params, item [], weight []) -> params: what has been recommended (weight 0: was
    # not) changes what will be; None where it does not
    update: Callable[..., Params] | None = None


class Learner(NamedTuple):
    """A learning algorithm of one seed; lift its functions over seeds with `vmap`.

    Everything here is static: `tables`, the arrays that the algorithm reads, come as an
    argument. States are those of the algorithm's choice (A2C: `TrainState`), but have
    its `evaluation_key`, `epoch` and `env_steps`.
    """

    config: Any  # ExperimentConfig
    # (key, tables) -> state; the key is consumed, and the last of four that it is split
    # into is the state's `evaluation_key`, so that all methods meet the same users
    init: Callable[..., Any]
    # (state, tables, coefficients) -> (state, scalar metrics); counts epoch, env_steps;
    # ends as `coefficients.steps_per_epoch` says, where it counts transitions at all
    train_epoch: Callable[..., tuple[Any, dict[str, Array]]]
    policy: Policy
    policy_params: Callable[..., Params]  # (state, tables) -> what the policy acts by
    # (state, params) -> state: keeps what an updating policy learned in evaluation
    after_evaluation: Callable[..., Any] | None = None
    # (state) -> what it last estimated that cells pay [U, I], UNVISITED elsewhere
    estimates: Callable[..., Array] | None = None
    program: Any = None  # what the functions are bound to, where that is of interest


class EpisodeMetrics(NamedTuple):
    """The metrics of one evaluation mode (protocol 6).

    Those from Novelty on are ours; Diversity is that of a successor of the protocol.
    What may be nan is named in `runs.columns.MAY_BE_UNDEFINED`: in any other metric
    that marks a seed as failed.
    """

    R_tra: Array  # mean sum of true rewards of an episode
    len_tra: Array  # mean length of an episode
    R_each: Array  # total reward / total steps
    CV: Array  # distinct items / I
    CV_turn: Array  # distinct items / recommendations
    MCD: Array  # share of recommendations from majority categories; nan without any
    Diversity: Array  # mean of 1 - similarity over an episode's pairs; nan without tags
    Novelty: Array  # mean of -ln(popularity) of what was recommended
    Gini: Array  # inequality of the items' shares of recommendations; 0 is equal
    CV_light: Array  # CV among the third of the users with the fewest logged rows
    CV_medium: Array  # the middle third
    CV_heavy: Array  # the third with the most
