"""The floor: what a phase cannot do without, counted from shapes alone.

A lower bound of ways to compute the same numbers, not of ours alone, so that what ours
wastes shows in the ratio of measured seconds to it. It is not one of every way: a
transformer that drops nothing out, as in evaluation, could project the tokens of a
window once an item instead of at each turn. Three things are counted:

    operations    of matrix products: a product [m, n] x [n, k] takes 2 m n k, and so
                  does each of its two gradients. Sums, norms and comparisons are not
                  counted; they would only raise the floor.
    exponentials  one for each action that a softmax normalises over. Its gradient
                  needs no other.
    bytes         of arrays that come from memory, or go there: parameters and feedback
                  vectors once a collect, and once a gradient step forward and once
                  backward; stored transitions once written, once read; a cell of a
                  table 4 bytes. What lies between stays in caches of any size.

The floor in seconds is the largest of the three over what the machine was measured to
do in a second (`machine.Rates`): a machine could do them at the same time. It knows no
latency, and so is far away where a phase is many tiny steps one after another.

XLA counts too (`compiled.cost_analysis()`), but the body of a loop once, however often
it runs. Ours agrees with it on what has no loop: one recommendation, one pick, one
gradient step of the world model (tests/benchmarks/test_counts.py). Whole phases are
loops over turns, picks, minibatches and blocks of users; there it says nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

from benchmarks.invented import Sizes, clusters_of, feedback_width, item_width
from benchmarks.machine import Rates
from darlr_jax.config import ExperimentConfig

_WORD = 4  # bytes of a float32 and of an int32
_ADAM = 6 * _WORD  # bytes an entry: parameter and both moments, read and written


@dataclasses.dataclass(frozen=True)
class Work:
    """What has to be done."""

    operations: float = 0.0
    exponentials: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Both."""
        return Work(
            self.operations + other.operations,
            self.exponentials + other.exponentials,
            self.bytes + other.bytes,
        )

    def times(self, factor: float) -> Work:
        """As often."""
        return Work(
            self.operations * factor, self.exponentials * factor, self.bytes * factor
        )


class Floor(NamedTuple):
    """The least that some work takes on a machine."""

    seconds: float
    bound_by: str  # what takes longest: a field of `Work`


def floor(work: Work, rates: Rates) -> Floor:
    """The largest of the times that operations, exponentials and bytes take."""
    seconds = {
        "operations": work.operations / rates.operations,
        "exponentials": work.exponentials / rates.exponentials,
        "bytes": work.bytes / rates.bytes,
    }
    bound_by = max(seconds, key=lambda name: seconds[name])
    return Floor(seconds[bound_by], bound_by)


class Shapes(NamedTuple):
    """The lengths of the axes that work is counted from."""

    users: int  # U
    items: int  # I
    state: int  # D, of the recommender
    window: int  # W
    tracker_layers: int  # 0: the average, which has no products
    valued_again: float  # values asked again in another state, of one recommendation
    hidden: tuple[int, ...]  # of the recommender's trunk
    stored_mask: int  # items whose mask a transition stores: I, or 0
    picks: int  # K, 0 without a learned selector
    offered: int  # keys that a query is compared with: U, or fewer with a pool
    references: int  # users who answer, 0 if nobody is asked
    feedback: int  # F
    context: int  # what the selector sees of a recommendation
    width: int  # of the selector
    picks_window: int  # w_sel
    picks_layers: int


def shapes_of(config: ExperimentConfig, sizes: Sizes) -> Shapes:
    """The shapes of a method on tables of these sizes."""
    vector = item_width(config, sizes)
    tracker, chosen = config.tracker, config.selector
    transforms = tracker.kind == "transformer"
    learned = config.reward.has_selector
    answering = {"none": 0, "self": 1}.get(config.reward.references, chosen.k_sel)
    return Shapes(
        users=sizes.users,
        items=sizes.items,
        state=vector + 1,
        window=tracker.window,
        tracker_layers=tracker.layers if transforms else 0,
        valued_again=_valued_again(config),
        hidden=config.recommender.hidden,
        stored_mask=sizes.items if config.recommender.mask_used_items else 0,
        picks=chosen.k_sel if learned else 0,
        offered=_offered(config, sizes.users),
        references=answering,
        feedback=feedback_width(config, sizes),
        context=vector + 1 + vector * chosen.item_in_state,
        width=chosen.width,
        picks_window=chosen.window,
        picks_layers=chosen.layers,
    )


def _valued_again(config: ExperimentConfig) -> float:
    """Values that a turn is asked for beside that of the state it is acted in.

    Those are of turns that are learned in another state, or of all turns where V(s) and
    V(s') are of passes of their own: two, but V(s') of a first turn enters nothing.
    Passes that drop nothing out say the same, and can be one. The figure is that of
    sessions of full length: of shorter ones the first kind is more, the second less.
    """
    tracker, turns = config.tracker, config.environment.max_turn
    drops_out = tracker.kind == "transformer" and tracker.dropout > 0
    if config.recommender.value_passes == "separate" and drops_out:
        return 2.0 - 1.0 / turns
    if not tracker.learns_elsewhere:
        return 0.0
    return min(1.0, max(1, tracker.window - 1) / turns)


def _offered(config: ExperimentConfig, users: int) -> int:
    """Keys that a pick compares: of everybody, of a pool, or of clusters and of one."""
    if config.selector.pool == "nearest":
        return config.selector.pool_size
    return (
        sum(clusters_of(config, users)) if config.selector.pool == "clusters" else users
    )


# --- networks -------------------------------------------------------------------------


def dense(*widths: int) -> float:
    """Operations of layers one after another, for one input."""
    return float(sum(2 * a * b for a, b in itertools.pairwise(widths)))


def encoder(width: int, window: int, layers: int, *, projected: bool = False) -> float:
    """Operations of a transformer of which one token is read.

    A layer projects keys and values of all tokens, and for each token that goes on a
    query, its weights over the window, the mixture, its output and two layers of
    feed-forward; of the last layer one token goes on. With `projected` the first layer
    has query, key and value of each token as a sum of parts that were projected before.
    """
    square, total = dense(width, width), 0.0
    for layer in range(layers):
        going_on = 1 if layer == layers - 1 else window
        mixed = 3 * square + 2 * dense(width, window)
        given = projected and layer == 0
        total += going_on * mixed
        total += 0.0 if given else (going_on + 2 * window) * square
    return total


def valuing(shapes: Shapes) -> float:
    """Operations from the window to the state and its value."""
    tracker = encoder(shapes.state, shapes.window, shapes.tracker_layers)
    return tracker + dense(shapes.state, *shapes.hidden, 1)


def policy(shapes: Shapes) -> float:
    """Operations from the window to the state, the value and the logits."""
    return valuing(shapes) + dense(last_width(shapes), shapes.items)


def last_width(shapes: Shapes) -> int:
    """The width of what the recommender's heads read."""
    return (shapes.state, *shapes.hidden)[-1]


def pick(shapes: Shapes) -> float:
    """Operations of one pick: attention, query and value, all logits."""
    width = shapes.width
    tokens = encoder(width, shapes.picks_window, shapes.picks_layers, projected=True)
    heads = dense(width, width) + dense(width, width, 1)
    return tokens + heads + dense(width, shapes.offered)


def attended(shapes: Shapes) -> float:
    """Operations of the query, key and value that the first layer makes of a token."""
    return 3 * dense(shapes.width, shapes.width)


def projections(shapes: Shapes) -> float:
    """Operations of the tokens and keys of all users, from their feedback."""
    of_user = 2 * dense(shapes.feedback, shapes.width) + attended(shapes)
    return shapes.users * of_user


def recommender_entries(shapes: Shapes) -> int:
    """Entries of the recommender's parameters, biases and norms left out."""
    vectors = (shapes.items + 1) * (shapes.state - 1)
    tracker = shapes.tracker_layers * 6 * shapes.state**2
    trunk = dense(shapes.state, *shapes.hidden, 1) / 2
    return int(vectors + tracker + trunk + last_width(shapes) * shapes.items)


def selector_entries(shapes: Shapes) -> int:
    """Entries of the selector's parameters, likewise."""
    if not shapes.picks:
        return 0
    width = shapes.width
    layers = shapes.picks_layers * 6 * width**2
    return width * (2 * shapes.feedback + shapes.context + 2 * width + 1) + layers


# --- phases ---------------------------------------------------------------------------


def transition_bytes(shapes: Shapes) -> float:
    """Bytes of a stored transition: window, six scalars, mask, and the picks."""
    words = 2 * shapes.window + 6
    if shapes.picks:
        words += shapes.context + 3 * shapes.picks
    return _WORD * words + shapes.stored_mask


def recommending(shapes: Shapes) -> Work:
    """One recommendation as evaluation makes it."""
    return Work(policy(shapes), shapes.items)


def picking(shapes: Shapes) -> Work:
    """The picks of one recommendation, the projections of all users being there."""
    if not shapes.picks:
        return Work()
    context = dense(shapes.context, shapes.width) + attended(shapes)
    compared = float(shapes.picks * shapes.offered)
    return Work(context + shapes.picks * pick(shapes), compared)


def encoding(shapes: Shapes) -> Work:
    """Projections of all feedback vectors, where there is a selector."""
    if not shapes.picks:
        return Work()
    return Work(projections(shapes), 0.0, _WORD * shapes.users * shapes.feedback)


def collecting(shapes: Shapes, transitions: float, collects: float) -> Work:
    """Rollouts.

    A transition reads two cells of tables; with K references as many base rewards and
    similarities, and the K (K - 1) / 2 similarities among them.
    """
    k_sel = shapes.references
    cells = 2 + 2 * k_sel + k_sel * (k_sel - 1) / 2
    again = shapes.valued_again * valuing(shapes)
    stored = Work(again, 0.0, _WORD * cells + transition_bytes(shapes))
    entries = recommender_entries(shapes) + selector_entries(shapes)
    once = encoding(shapes) + Work(bytes=_WORD * entries)
    each = recommending(shapes) + picking(shapes) + stored
    return each.times(transitions) + once.times(collects)


def learning(shapes: Shapes, transitions: float, steps: float) -> Work:
    """Gradient steps of the recommender: every product and its two gradients."""
    forward = recommending(shapes)
    each = Work(3 * forward.operations, forward.exponentials, transition_bytes(shapes))
    once = Work(bytes=_ADAM * recommender_entries(shapes))
    return each.times(transitions) + once.times(steps)


def learning_picks(shapes: Shapes, transitions: float, steps: float) -> Work:
    """Gradient steps of the selector.

    Feedback and context are given: of what projects them there is one gradient, that of
    the weights.
    """
    if not shapes.picks:
        return Work()
    forward, users = picking(shapes), encoding(shapes)
    context = dense(shapes.context, shapes.width)
    each = Work(3 * forward.operations - context, forward.exponentials)
    adam = Work(bytes=_ADAM * selector_entries(shapes))
    return each.times(transitions) + (users.times(2) + adam).times(steps)


def fitting(config: ExperimentConfig, sizes: Sizes, pairs: float, steps: float) -> Work:
    """Gradient steps of the world model, all members: two predictions a pair.

    A gradient step moves every entry, as the decay is of all parameters.
    """
    model = config.world_model
    fields = (*sizes.user_fields, *sizes.item_fields)
    slots = 2 + sum(field.slots for field in fields)
    deep = (slots * model.embedding_dim + sizes.dense, *model.hidden)
    prediction = dense(*deep) + 2 * dense(deep[-1], 1)
    rows = sizes.logged_users + sizes.logged_items + sum(f.size for f in fields)
    entries = rows * (model.embedding_dim + 1) + dense(*deep) / 2 + 2 * deep[-1]
    each = Work(2 * 3 * prediction, 0.0, 5 * _WORD)
    return each.times(pairs) + Work(bytes=_ADAM * entries * model.members).times(steps)
