"""The floor: counted operations against hand-computed ones, and against XLA's."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import counts
from benchmarks.counts import Shapes, Work
from benchmarks.invented import (
    Sizes,
    Vocabulary,
    feedback_width,
    invent_fit,
    item_width,
)
from benchmarks.machine import Rates
from darlr_jax import config as config_lib
from darlr_jax.agents import recommender
from darlr_jax.networks.selector import make_selector
from darlr_jax.presets import preset
from darlr_jax.types import Observation, RewardScale
from darlr_jax.world_model.ensemble import train_steps

SHAPES = Shapes(
    users=7, items=11, state=5, window=3, tracker_layers=0, valued_again=0, hidden=(4,),
    stored_mask=0, picks=2, offered=7, references=2, feedback=11, context=5, width=3,
    picks_window=2, picks_layers=1,
)  # fmt: skip
NO_SELECTOR = SHAPES._replace(picks=0, references=0)
# Large enough that what is not counted, norms and sums, is a few per cent.
WIDE = Sizes(
    300, 200, 0, 300, 200, item_fields=(Vocabulary(9, 3),), dense=1
)  # an item vector of 64 * 4 + 1 entries


def test_vectors_hold_every_slot_of_an_id_and_its_features():
    config = preset("coat", "darlr")
    config = config_lib.replace(config, {"selector.feedback": "embedding"})
    sizes = WIDE._replace(user_fields=(Vocabulary(9, 3), Vocabulary(5, 1)))
    width = config.world_model.embedding_dim
    assert feedback_width(config, sizes) == width * (1 + 3 + 1)
    assert item_width(config, sizes) == width * (1 + 3) + 1


def test_layers_by_hand():
    assert counts.dense(5, 4) == 2 * 5 * 4
    assert counts.dense(5, 4, 1) == 2 * 5 * 4 + 2 * 4
    assert counts.dense(5) == 0


def test_one_encoder_layer_by_hand():
    """Window 3, width 5: keys and values of 3 tokens, the rest of 1."""
    projections = 3 * 2 * (2 * 25)  # tokens x (key, value)
    attention = 2 * 3 * 5 + 2 * 3 * 5  # weights and mixture
    own = 4 * (2 * 25)  # query, output, two layers
    assert counts.encoder(5, 3, 1) == projections + attention + own
    given = attention + 3 * (2 * 25)  # output, two layers
    assert counts.encoder(5, 3, 1, projected=True) == given


def test_only_the_last_layer_reads_one_token():
    first = 3 * (4 * 2 * 25 + 2 * (2 * 3 * 5)) + 3 * 2 * (2 * 25)
    assert counts.encoder(5, 3, 2) == first + counts.encoder(5, 3, 1)
    assert counts.encoder(5, 3, 0) == 0


def test_recommendation_by_hand():
    operations = 2 * (5 * 4 + 4 * 1 + 4 * 11)
    assert counts.recommending(SHAPES) == Work(operations, 11, 0)


def test_picks_by_hand():
    token = 2 * (2 * 2 * 3) + 3 * (2 * 9)  # encoder of window 2, projected before
    heads = 2 * 9 + 2 * 9 + 2 * 3  # query, critic's two layers
    logits = 2 * 3 * 7
    context = 2 * 5 * 3 + 3 * (2 * 9)  # its token; query, key and value of that
    picks = counts.picking(SHAPES)
    assert picks == Work(context + 2 * (token + heads + logits), 2 * 7, 0)
    assert counts.picking(NO_SELECTOR) == Work()


def test_feedback_is_read_once_a_collect_and_twice_a_gradient_step():
    encoding = counts.encoding(SHAPES)
    of_user = 2 * (2 * 11 * 3) + 3 * (2 * 9)  # token and key; query, key, value
    assert encoding == Work(7 * of_user, 0, 4 * 7 * 11)
    adam = 24 * counts.selector_entries(SHAPES)
    assert counts.learning_picks(SHAPES, 0, 1).bytes == 2 * encoding.bytes + adam
    assert counts.collecting(SHAPES, 0, 1).operations == encoding.operations


def test_collect_by_hand():
    """Without references: two cells, 12 words stored, parameters once."""
    entries = 12 * 4 + (5 * 4 + 4) + 4 * 11
    made = counts.collecting(NO_SELECTOR, 3, 2)
    assert made.operations == 3 * counts.recommending(NO_SELECTOR).operations
    assert made.bytes == 3 * 4 * (2 + 12) + 2 * 4 * entries


def test_published_readout_values_two_states_of_the_first_turns():
    config = preset("coat", "roler")
    published, newest = (
        counts.shapes_of(config_lib.replace(config, {"tracker.readout": readout}), WIDE)
        for readout in ("published", "newest")
    )
    assert (published.valued_again, newest.valued_again) == (2 / 30, 0)
    again = NO_SELECTOR._replace(valued_again=0.25)
    more = counts.collecting(again, 1, 0).operations
    less = counts.collecting(NO_SELECTOR, 1, 0).operations
    assert more - less == 0.25 * 2 * (5 * 4 + 4)


@pytest.mark.parametrize(
    ("changes", "valued_again"),
    [
        ({}, 2 - 1 / 30),  # V(s) of 30 turns, V(s') of all but the first
        ({"tracker.readout": "newest"}, 2 - 1 / 30),
        ({"environment.max_turn": 1}, 1),
        ({"tracker.dropout": 0.0}, 2 / 30),  # as if passes were shared
        ({"tracker.dropout": 0.0, "tracker.readout": "newest"}, 0),
        ({"tracker.kind": "average"}, 0),
    ],
)
def test_passes_that_drop_out_apart_value_every_turn_twice_more(changes, valued_again):
    changes = {"recommender.value_passes": "separate"} | changes
    config = config_lib.replace(preset("coat", "roler"), changes)
    shapes = counts.shapes_of(config, WIDE)
    assert shapes.valued_again == pytest.approx(valued_again)


def test_learning_is_three_times_acting():
    work = counts.learning(SHAPES, 5, 2)
    assert work.operations == 5 * 3 * counts.recommending(SHAPES).operations
    assert work.exponentials == 5 * 11
    entries = counts.recommender_entries(SHAPES)
    assert work.bytes == 5 * counts.transition_bytes(SHAPES) + 2 * 24 * entries


def test_floor_is_the_slowest_of_three():
    rates = Rates(operations=10.0, exponentials=5.0, bytes=2.0)
    assert counts.floor(Work(100, 10, 10), rates) == (10.0, "operations")
    assert counts.floor(Work(10, 10, 10), rates) == (5.0, "bytes")
    assert counts.floor(Work(1, 10, 1), rates) == (2.0, "exponentials")


def test_work_adds_up():
    assert Work(1, 2, 3) + Work(4, 5, 6).times(2) == Work(9, 12, 15)


@pytest.mark.parametrize(
    ("pool", "offered"),
    [("all", 100), ("nearest", 20), ("clusters", 10 + 10)],
)
def test_pools_offer_fewer(pool, offered):
    changes = {"selector.pool": pool, "selector.pool_size": 20}
    config = config_lib.replace(preset("coat", "darlr"), changes)
    sizes = WIDE._replace(users=100)
    assert counts.shapes_of(config, sizes).offered == offered


def test_shapes_of_a_preset():
    config = preset("kuairec", "darlr")
    sizes = Sizes(1411, 3327, 31, 7176, 10728, (), (Vocabulary(32, 4),), 1)
    shapes = counts.shapes_of(config, sizes)
    assert (shapes.state, shapes.picks, shapes.feedback) == (42, 30, 10728)
    assert (shapes.tracker_layers, shapes.references) == (2, 30)
    static = counts.shapes_of(preset("kuairec", "mbpo"), sizes)
    assert (static.picks, static.references, static.tracker_layers) == (0, 0, 0)


def operations_of(function, *inputs) -> float:
    """What XLA counts in a compiled program without loops."""
    return jax.jit(function).lower(*inputs).compile().cost_analysis()["flops"]


def wide_config(**changes):
    fields = {"world_model.embedding_dim": 64, "selector.width": 64}
    fields |= {"recommender.hidden": (128, 128), "world_model.members": 1}
    return config_lib.replace(preset("coat", "darlr"), fields | changes)


def test_xla_counts_the_same_of_a_recommendation():
    config = wide_config()
    width = item_width(config, WIDE)
    networks = recommender.make_networks(config, WIDE.items, width)
    vectors = jnp.zeros((WIDE.items, width))
    params = recommender.init(jax.random.key(0), vectors, networks)
    window = config.tracker.window
    observation = Observation(jnp.zeros((window,), jnp.int32), jnp.zeros((window,)))
    scale = RewardScale(jnp.zeros(()), jnp.ones(()))

    def outputs(params, observation):
        state = networks.tracker.apply(params.tracker, observation, scale)
        return networks.actor_critic.apply(params.actor_critic, state)

    counted = counts.policy(counts.shapes_of(config, WIDE))
    compiled = operations_of(outputs, params, observation)
    assert counted == pytest.approx(compiled, rel=0.05)


def test_xla_counts_the_same_of_a_pick():
    """Of one token: the rest of a window is there whether it is valid or not."""
    config = wide_config(**{"selector.window": 1})
    shapes = counts.shapes_of(config, WIDE)
    network = make_selector(config.selector, shapes.feedback, shapes.context)
    params = network.init(jax.random.key(0))
    keys = jnp.zeros((WIDE.users, shapes.width))
    images = jnp.zeros((1, 4, shapes.width))

    def logits(params, keys, images):
        query, value = network.apply(params, images, jnp.ones((1,), bool))
        return keys @ query, value

    compiled = operations_of(logits, params, keys, images)
    assert counts.pick(shapes) == pytest.approx(compiled, rel=0.05)


def test_xla_counts_the_same_of_a_gradient_step_of_the_world_model():
    config = wide_config(**{"world_model.batch_size": 512})
    fit = invent_fit(config, WIDE, steps=1)
    step = functools.partial(
        train_steps,
        network=fit.network,
        optimizer=fit.optimizer,
        config=config.world_model,
    )
    inputs = (fit.members, fit.order, fit.pairs, fit.sides)
    compiled = operations_of(jax.vmap(step, (0, 0, None, None)), *inputs)
    counted = counts.fitting(config, WIDE, 512, 1).operations
    # Its embeddings, added up and squared, and Adam are the rest.
    assert 0.9 * compiled < counted < compiled


def test_xla_counts_the_body_of_a_loop_once():
    """Why its count of a whole phase is of no use."""

    def often(times):
        matrix = jnp.ones((32, 32))
        return operations_of(
            lambda x: jax.lax.fori_loop(0, times, lambda _, y: y @ matrix, x), matrix
        )

    assert often(100) == pytest.approx(often(10), rel=0.01)
    assert np.isfinite(often(10))
