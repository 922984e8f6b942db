"""Overrides that make a program run in seconds, once it is compiled."""

SYNTHETIC = (
    "dataset.synthetic.num_users=12",
    "dataset.synthetic.num_items=10",
    "dataset.synthetic.num_tags=4",
    "dataset.synthetic.num_clusters=3",
    "dataset.synthetic.log_density=0.4",
)
TRAINING = (
    "world_model.embedding_dim=4",
    "world_model.hidden=(8,)",
    "world_model.members=2",
    "world_model.epochs=1",
    "world_model.batch_size=32",
    "environment.max_turn=5",
    "tracker.kind=average",
    "recommender.hidden=(8,)",
    "training.environments=8",
    "training.batch_size=16",
    "evaluation.episodes=6",
)
REFERENCES = (
    "selector.k_sel=3",
    "selector.width=8",
    "reward.neighbours=3",
    "training.steps_per_epoch=80",
)
