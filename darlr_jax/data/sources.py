"""Where the files of each data set come from, and what their publishers count in them.

The checksums of KuaiRec and KuaiRand are those of their Zenodo records, that of Coat's
ground truth is that of the file behind the published results (protocol 1.5). Nobody
publishes a sha256 of coat.zip and ml-1m.zip: theirs are what public projects pin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from urllib.parse import urlsplit

import numpy as np

from darlr_jax.data import coat, kuairand, kuairec, movielens, statistics, yahoo
from darlr_jax.data.dataset import Dataset

_ARCHIVES = (".zip", ".tar.gz")


@dataclasses.dataclass(frozen=True)
class Download:
    """One file to download: an archive, or a file of the data set itself."""

    urls: tuple[str, ...]  # mirrors of the same bytes, the publisher first
    files: tuple[str, ...]  # what of it belongs into the folder of the data set
    size: int  # bytes
    checksum: str | None  # "sha256:<hex>" or "md5:<hex>", None where unknown
    unpacked_limit: int = 0  # bytes that never come out of the official archive

    @property
    def name(self) -> str:
        """The name of the file at its publisher, as "KuaiRec.zip"."""
        return urlsplit(self.urls[0]).path.rpartition("/")[2]

    @property
    def is_archive(self) -> bool:
        """Whether its files must be unpacked."""
        return self.name.endswith(_ARCHIVES)

    @property
    def size_limit(self) -> int:
        """Bytes that no edition of it has."""
        return 2 * self.size


@dataclasses.dataclass(frozen=True)
class Published:
    """Counts as published; None where nobody states them."""

    reference: str
    users: int  # logged
    items: int
    rows_log: int | None = None
    rows_held_out: int | None = None
    rows: int | None = None  # of both
    rows_log_repeated: int | None = None  # beyond the first of their user and item
    environment_users: int | None = None
    environment_items: int | None = None
    density: float | None = None  # share of the environment's cells that are held out

    def differences(self, counts: Mapping[str, int | float]) -> list[str]:
        """One line for each of `count` that is another; a density may be rounded."""
        lines = []
        for name, found in counts.items():
            expected = getattr(self, name)
            if expected is not None and abs(found - expected) > _TOLERANCE[type(found)]:
                lines.append(
                    f"{name}: {expected:,} published {self.reference}, {found:,} found"
                )
        return lines


_TOLERANCE = {int: 0.0, float: 5e-4}


def count(dataset: Dataset) -> dict[str, int | float]:
    """The counts of `Published`, under the same names."""
    items = dataset.num_logged_items
    logged, held_out = (  # distinct pairs
        len(statistics.distinct(log.users.astype(np.int64) * items + log.items))
        for log in (dataset.log, dataset.held_out)
    )
    return {
        "users": dataset.num_logged_users,
        "items": items,
        "rows_log": len(dataset.log),
        "rows_held_out": len(dataset.held_out),
        "rows": len(dataset.log) + len(dataset.held_out),
        "rows_log_repeated": len(dataset.log) - logged,
        "environment_users": dataset.num_users,
        "environment_items": dataset.num_items,
        "density": held_out / (dataset.num_users * dataset.num_items),
    }


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of one data set, which belong into `<data_dir>/<name>/`."""

    name: str
    page: str  # of the publisher
    terms: str  # of use, in one line
    downloads: tuple[Download, ...]
    by_hand: str | None  # how to get what cannot be downloaded
    statistics: Published

    @property
    def files(self) -> tuple[str, ...]:
        """The files that can be downloaded, relative to the folder."""
        return tuple(file for download in self.downloads for file in download.files)


_COAT = Source(
    name="coat",
    page="https://www.cs.cornell.edu/~schnabts/mnar/",
    terms=(
        "CC BY-NC 4.0, ground truth MIT; cite Schnabel et al., ICML 2016, and Huang et "
        "al., RecSys 2020"
    ),
    downloads=(
        Download(
            urls=("https://www.cs.cornell.edu/~schnabts/mnar/coat.zip",),
            files=(coat.TRAIN, coat.TEST, coat.USER_FEATURES, coat.ITEM_FEATURES),
            size=537_499,
            checksum="sha256:"
            "6073d0b515ed1f6e830e4fead66dc76ad7991a7553eaa58e228b234a9d19daed",
            unpacked_limit=20_000_000,
        ),
        Download(
            urls=(
                f"https://raw.githubusercontent.com/BetsyHJ/SOFA/master/data/{coat.TRUTH}",
            ),
            files=(coat.TRUTH,),
            size=174_000,
            checksum=f"md5:{coat.TRUTH_MD5}",
        ),
    ),
    by_hand=None,
    statistics=Published(
        reference="(protocol 1.2)",
        users=290,
        items=300,
        rows_log=6_960,
        rows_held_out=4_640,
        environment_users=290,
        environment_items=300,
    ),
)

_KUAIREC = Source(
    name="kuairec",
    page="https://kuairec.com",
    terms="CC BY-SA 4.0; cite Gao et al., CIKM 2022 (KuaiRec)",
    downloads=(
        Download(
            urls=(
                "https://zenodo.org/records/18164998/files/KuaiRec.zip",
                "https://nas.chongminggao.top:4430/datasets/KuaiRec.zip",
            ),
            files=kuairec.FILES,
            size=431_964_858,
            checksum="md5:261550d472c48eff4990fb13c0e5bcf7",
            unpacked_limit=4_000_000_000,
        ),
    ),
    by_hand=None,
    statistics=Published(
        reference="(protocol 1.2)",
        users=7_176,
        items=10_728,
        rows_log=12_530_806,
        rows_held_out=4_676_570,
        environment_users=1_411,
        environment_items=3_327,
        density=0.996,
    ),
)

_KUAIRAND = Source(
    name="kuairand",
    page="https://kuairand.com",
    terms="CC BY-SA 4.0; cite Gao et al., CIKM 2022 (KuaiRand)",
    downloads=(
        Download(
            urls=(
                "https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
                "https://nas.chongminggao.top:4430/datasets/KuaiRand-Pure.tar.gz",
            ),
            files=kuairand.FILES,
            size=47_432_272,
            checksum="md5:0820331067a3784d9691136f772b35a7",
            unpacked_limit=1_000_000_000,
        ),
    ),
    by_hand=None,
    statistics=Published(
        reference="(protocol 1.2)",
        users=27_285,
        items=7_583,
        # Of 1,436,609 standard rows; those from 4/22 on are not part of the log.
        rows_log=1_141_112,
        rows_held_out=1_186_059,
        environment_users=27_285,
        environment_items=7_583,
    ),
)

_YAHOO = Source(
    name="yahoo",
    page="https://webscope.sandbox.yahoo.com/catalog.php?datatype=r",
    terms="after a signed agreement with Yahoo!, for research; not to be passed on",
    downloads=(),
    by_hand=(
        'ask for the data set "R3 - Yahoo! Music ratings for User Selected and '
        'Randomly Selected songs" at '
        "https://webscope.sandbox.yahoo.com/catalog.php?datatype=r, sign its "
        f"agreement, and put {' and '.join(yahoo.FILES)} into DIR/yahoo, where DIR is "
        "the folder of --data_dir"
    ),
    statistics=Published(
        reference="(protocol 1.2)",
        users=15_400,
        items=1_000,
        rows_log=311_704,
        rows_held_out=54_000,
        environment_users=5_400,
        environment_items=1_000,
    ),
)

_MOVIELENS = Source(
    name="movielens",
    page="https://grouplens.org/datasets/movielens/1m/",
    terms=(
        "research, no commercial use, not to be passed on; cite Harper and Konstan, "
        "ACM TiiS 2015"
    ),
    downloads=(
        Download(
            urls=(
                "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
                # Its certificate has been out of date before; the checksum holds.
                "http://files.grouplens.org/datasets/movielens/ml-1m.zip",
            ),
            files=movielens.FILES,
            size=5_917_549,
            checksum="sha256:"
            "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            unpacked_limit=100_000_000,
        ),
    ),
    by_hand=None,
    statistics=Published(
        reference="by GroupLens",
        users=6_040,
        items=3_883,
        rows=1_000_209,
    ),
)

SOURCES: dict[str, Source] = {
    source.name: source for source in (_COAT, _KUAIREC, _KUAIRAND, _YAHOO, _MOVIELENS)
}
