"""Thousands of epochs in one process: nothing grows, and nothing becomes slower.

The long form has as many epochs as eight hours of MBPO on Coat, at 0.6 s each.
"""

from __future__ import annotations

import os
import pathlib
import statistics
from typing import NamedTuple

import jax
import pytest

from darlr_jax import config as config_lib
from darlr_jax.data.loading import load_dataset
from darlr_jax.presets import preset
from experiments import session, training
from tests.experiments.sizes import SYNTHETIC, TRAINING
from tests.soak.scale import LONG, count, report

EPOCHS = count(short=200, long=48_000)
UNSAVED = count(short=200, long=12_000)  # epochs of a second run, without checkpoints
CHECKPOINT_EVERY = 10
SETTINGS = (
    *SYNTHETIC,
    *TRAINING,
    "training.steps_per_epoch=80",
    "evaluation.all_users=false",
)
GROWTH = 16 << 20  # bytes of the process that are no leak, but what allocators keep
SLOWER = 1.05  # the last tenth of the epochs may take so many times what the first took


class Sample(NamedTuple):
    """What the process holds after an epoch."""

    seconds: float  # of the epoch
    memory: int  # bytes in RAM
    files: int  # open
    arrays: int  # on the devices
    array_bytes: int


def take_sample(seconds: float) -> Sample:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    arrays = jax.live_arrays()
    return Sample(
        seconds,
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir("/proc/self/fd")),
        len(arrays),
        sum(array.nbytes for array in arrays),
    )


class Recorder:
    """Takes the place of what shows the progress to a user."""

    samples: list[Sample]

    def __init__(self, *_: object):
        type(self).samples = []

    def update(self, epoch: int, env_steps: int, seconds: float, headline: object):
        self.samples.append(take_sample(seconds))

    def close(self) -> None:
        pass


def samples_of(folder, epochs, checkpoint_every):
    """One sample an epoch of a run."""
    overrides = config_lib.parse_overrides(SETTINGS) | {"training.epochs": epochs}
    config = config_lib.replace(preset("synthetic", "mbpo"), overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Progress", Recorder)
        session.train(
            {str(folder / "run"): config},
            load_dataset(config.dataset),
            [0],
            cache_dir=folder,
            resume="never",
            overwrite=False,
            checkpoint_every=checkpoint_every,
        )
    assert len(Recorder.samples) == epochs
    return Recorder.samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Those of a long run."""
    return samples_of(tmp_path_factory.mktemp("flat"), EPOCHS, CHECKPOINT_EVERY)


def tenth(samples, which):
    """A tenth of the samples; the first begins when all is loaded and compiled."""
    samples = samples[len(samples) // 50 :]
    size = len(samples) // 10
    return samples[size * which : size * (which + 1)]


def of(samples, field):
    return [getattr(sample, field) for sample in samples]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("field", ["files", "arrays", "array_bytes"])
def test_no_more_of_them_at_the_end_than_at_the_beginning(samples, field):
    early, late = (of(tenth(samples, which), field) for which in (0, 9))
    report(f"{field} over {EPOCHS} epochs", first=max(early), last=max(late))
    assert min(late) <= max(early)  # single samples meet checkpoints being written


def growth_of_memory(samples, what):
    """Bytes from the first tenth of the samples to the last, by their medians."""
    early, late = (of(tenth(samples, which), "memory") for which in (0, 9))
    first, last = statistics.median(early), statistics.median(late)
    report(
        f"memory over {len(samples)} epochs {what}",
        first_MiB=f"{first / 2**20:.1f}",
        last_MiB=f"{last / 2**20:.1f}",
    )
    return last - first


@pytest.mark.timeout(7200)
def test_memory_is_flat_with_checkpoints(samples):
    """The storage keeps some of each (docs/reliability.md)."""
    number = len(samples) // CHECKPOINT_EVERY
    assert growth_of_memory(samples, f"with {number} checkpoints") <= GROWTH


@pytest.mark.timeout(7200)
def test_memory_is_flat_without_checkpoints(tmp_path):
    samples = samples_of(tmp_path, UNSAVED, checkpoint_every=UNSAVED)
    assert growth_of_memory(samples, "without checkpoints") <= GROWTH


@pytest.mark.timeout(7200)
@pytest.mark.skipif(not LONG, reason="too few epochs for a time; see `make soak`")
def test_the_last_epochs_are_as_fast_as_the_first(samples):
    """The quarter of the epochs that others on this machine have disturbed least."""
    early, late = (
        statistics.quantiles(of(tenth(samples, which), "seconds"))[0]
        for which in (0, 9)
    )
    report(f"seconds an epoch over {EPOCHS} epochs", first=f"{early:.5f}",
           last=f"{late:.5f}")  # fmt: skip
    assert late <= SLOWER * early
