"""Offline reinforcement learning for recommender systems with dynamic rewards, in JAX.

A short map; `darlr_jax.types` is the architecture in one file::

    types        axis legend and the records that cross folders
    config       frozen dataclasses, validation, dotted overrides
    methods      the comparison table: a method is a row
    presets      data set x method -> configuration, each number with its source
    data         raw files -> one Dataset record
    networks     the only place that knows Flax modules
    world_model  logged feedback -> predicted rewards, variances, embeddings
    simulation   the environment, reward estimates, penalties
    agents       one actor-critic loss, used twice: selector and recommender
    training     one compiled epoch of both agents
    offline      SQN, BCQ, CQL, CRR: learners that see the log alone
    baselines    bandits on one world model; floor and ceiling
    evaluation   the three modes FB, NX_0, NX_10
    experiment   a learner and its arrays, and the compiled epoch over all seeds
    runs         the host side: what a run leaves behind
    files        folders that are whole or not there

Folders import strictly lower rows only (`tests/test_architecture.py`). Importing the
package itself imports nothing else.
"""

__version__ = "0.1.0"
