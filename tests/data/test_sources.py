"""The table of sources: consistent with the loaders, and with what publishers count."""

import dataclasses
import re
from urllib.parse import urlsplit

import numpy as np
import pytest

from darlr_jax.config import DatasetConfig
from darlr_jax.data import coat, kuairand, kuairec, loading, movielens, sources, yahoo
from darlr_jax.data.sources import SOURCES, Published

NEEDED = {
    "coat": set(coat.FILES),
    "kuairec": set(kuairec.FILES),
    "kuairand": set(kuairand.FILES),
    "movielens": set(movielens.FILES),
    "yahoo": set(),  # nothing that could be downloaded
}
DOWNLOADS = [
    pytest.param(download, id=f"{source.name}-{download.name}")
    for source in SOURCES.values()
    for download in source.downloads
]
HEX_DIGITS = {"sha256": 64, "md5": 32}


@pytest.mark.parametrize("name", NEEDED)
def test_downloads_bring_what_the_loader_needs(name):
    files = SOURCES[name].files

    assert set(files) == NEEDED[name]
    assert len(files) == len(set(files))


def test_every_data_set_with_files_has_a_source():
    assert set(SOURCES) == set(NEEDED)
    assert all(name == source.name for name, source in SOURCES.items())


def test_what_cannot_be_downloaded_says_how_to_get_it():
    assert SOURCES["yahoo"].downloads == ()
    for part in (*yahoo.FILES, "sign its agreement", "DIR/yahoo", "https://"):
        assert part in SOURCES["yahoo"].by_hand
    for name, source in SOURCES.items():
        assert (source.by_hand is None) == bool(source.downloads), name
        assert "\n" not in source.terms + (source.by_hand or "")
        assert source.page.startswith("https://")


@pytest.mark.parametrize("download", DOWNLOADS)
def test_addresses_name_one_file(download):
    names = {urlsplit(url).path.rpartition("/")[2] for url in download.urls}

    assert names == {download.name}
    assert all(urlsplit(url).scheme in ("https", "http") for url in download.urls)
    assert urlsplit(download.urls[0]).scheme == "https"


@pytest.mark.parametrize("download", DOWNLOADS)
def test_checksums_and_limits(download):
    algorithm, _, digest = download.checksum.partition(":")

    assert re.fullmatch(f"[0-9a-f]{{{HEX_DIGITS[algorithm]}}}", digest)
    assert 0 < download.size < download.size_limit
    if download.is_archive:
        assert download.unpacked_limit > download.size
    else:
        assert download.files == (download.name,)


def test_names_and_kinds():
    kinds = {
        download.name: download.is_archive
        for source in SOURCES.values()
        for download in source.downloads
    }

    assert kinds == {
        "coat.zip": True,
        "coat_pseudoGT_ratingM.ascii": False,
        "KuaiRec.zip": True,
        "KuaiRand-Pure.tar.gz": True,
        "ml-1m.zip": True,
    }


# --- published counts -----------------------------------------------------------------


def test_published_counts():
    """Protocol 1.2, row by row; KuaiRec's small matrix is 99.6 % full."""
    kuairec_counts = SOURCES["kuairec"].statistics
    cells = kuairec_counts.environment_users * kuairec_counts.environment_items

    assert cells == 4_694_397
    assert kuairec_counts.rows_held_out / cells == pytest.approx(
        kuairec_counts.density, abs=5e-4
    )
    assert SOURCES["coat"].statistics.rows_log == 290 * 24
    assert SOURCES["coat"].statistics.rows_held_out == 290 * 16
    assert SOURCES["yahoo"].statistics.rows_held_out == 5_400 * 10
    # Both standard logs of KuaiRand-Pure, 4/08-4/21 and 4/22-5/08, have 1,436,609 rows.
    assert SOURCES["kuairand"].statistics.rows_log + 295_497 == 1_436_609


def test_counts_bear_the_names_of_the_published_ones(dataset):
    fields = {field.name for field in dataclasses.fields(Published)}

    assert set(sources.count(dataset)) == fields - {"reference"}


def test_counts_of_a_data_set(dataset):
    assert sources.count(dataset) == {
        "users": 200,
        "items": 120,
        "rows_log": 3600,
        "rows_held_out": 1200,
        "rows": 4800,
        "rows_log_repeated": 0,
        "environment_users": 200,
        "environment_items": 120,
        "density": 0.05,
    }


def twice(log):
    """The rows of a log, and all of them again."""
    names = ("users", "items", "labels", "rewards")
    return dataclasses.replace(
        log, **{name: np.concatenate([getattr(log, name)] * 2) for name in names}
    )


def test_repeated_pairs_count_once_in_the_density(dataset):
    counts = sources.count(
        dataclasses.replace(dataset, held_out=twice(dataset.held_out))
    )

    assert (counts["rows_held_out"], counts["density"]) == (2400, 0.05)


def test_repeated_rows_of_the_log_are_counted(dataset):
    counts = sources.count(dataclasses.replace(dataset, log=twice(dataset.log)))

    assert (counts["rows_log"], counts["rows_log_repeated"]) == (7200, 3600)


def test_differences_are_named(dataset):
    published = Published(
        reference="(somewhere)", users=200, items=121, rows=48_000, density=0.0504
    )

    assert published.differences(sources.count(dataset)) == [
        "items: 121 published (somewhere), 120 found",
        "rows: 48,000 published (somewhere), 4,800 found",
    ]
    worse = dataclasses.replace(published, items=120, rows=4800, density=0.0506)
    assert worse.differences(sources.count(dataset)) == [
        "density: 0.0506 published (somewhere), 0.05 found"
    ]


def test_coat_twin_has_the_published_counts(coat_twin):
    data = coat.load(coat_twin)

    assert SOURCES["coat"].statistics.differences(sources.count(data)) == []


@pytest.mark.data
@pytest.mark.parametrize("name", SOURCES)
def test_real_counts(real_data_dir, name):
    folder = real_data_dir / name
    if not all((folder / file).exists() for file in NEEDED[name] or yahoo.FILES):
        pytest.skip(f"not all official files of {name} are at hand")
    data = loading.load_dataset(DatasetConfig(name=name), str(real_data_dir))

    assert SOURCES[name].statistics.differences(sources.count(data)) == []
