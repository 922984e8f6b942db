"""MovieLens-1M: three small files computed by hand, and what is refused."""

import numpy as np
import pytest

from darlr_jax.config import CompletionConfig
from darlr_jax.data import loading, movielens
from darlr_jax.data.completion import Completed
from darlr_jax.data.dataset import DataError

TINY = CompletionConfig(ranks=(1,), regularisation=(1.0,), sweeps=2)

# User 1 rates five movies, hence the last one is held out; user 2 rates two.
RATINGS = (
    "1::10::5::300",
    "1::1::4::100",
    "2::7::3::50",
    "1::20::2::900",
    "1::7::1::200",
    "1::12::4::300",
    "2::10::5::40",
)
USERS = ("2::F::25::20::55455", "1::M::1::10::48067-1234")
MOVIES = (
    "10::GoldenEye (1995)::Action|Thriller",
    "1::Toy Story (1995)::Animation|Children's|Comedy",
    '7::Misérables, "Les" (1995)::Drama',
    "4::Never rated::Western",
    "12::Rated::Comedy|Action",
    "20::Rated last::War",
)
CONTENTS = {
    movielens.RATINGS: RATINGS,
    movielens.USERS: USERS,
    movielens.MOVIES: MOVIES,
}


def write(folder, name, lines, end="\n"):
    text = "".join(line + end for line in lines)
    (folder / name).write_bytes(text.encode("latin-1"))


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / "movielens"
    folder.mkdir()
    for name, lines in CONTENTS.items():
        write(folder, name, lines)
    return tmp_path


@pytest.fixture
def data(data_dir):
    return movielens.load(data_dir, TINY)


def test_record_is_consistent(data):
    loading.check(data)
    assert set(data.sources) == set(movielens.FILES)
    assert data.item_dense.shape == (6, 0)


def test_log_is_what_came_first(data):
    # Positions of the movies 1, 4, 7, 10, 12, 20 are 0 to 5.
    assert data.log.users.tolist() == [0, 0, 1, 0, 0, 1]
    assert data.log.items.tolist() == [3, 0, 2, 2, 4, 3]
    assert data.log.labels.tolist() == data.log.rewards.tolist() == [5, 4, 3, 1, 4, 5]
    assert data.log.times.tolist() == [300, 100, 50, 200, 300, 40]


def test_held_out_is_what_came_last(data):
    assert data.held_out.users.tolist() == [0]
    assert data.held_out.items.tolist() == [5]
    assert data.held_out.rewards.tolist() == [2]
    assert data.held_out.times.tolist() == [900]


def test_environment_has_what_the_log_rates(data):
    assert (data.num_logged_users, data.num_logged_items) == (2, 6)
    assert data.environment_users.tolist() == [0, 1]
    assert data.environment_items.tolist() == [0, 2, 3, 4]


def test_user_features(data):
    codes = {f.name: (f.codes.tolist(), f.size) for f in data.user_features}

    assert codes == {
        "gender": ([[1], [0]], 2),
        "age": ([[0], [2]], 7),
        "occupation": ([[10], [20]], 21),
    }


def test_genres(data):
    (genres,) = data.item_features

    assert (genres.name, genres.size, genres.padded) == ("genres", 19, True)
    assert genres.codes.tolist() == [
        [3, 4, 5], [18, 0, 0], [8, 0, 0], [1, 16, 0], [1, 5, 0], [17, 0, 0]
    ]  # fmt: skip
    assert data.item_tags.shape == (4, 18)
    assert [np.flatnonzero(row).tolist() for row in data.item_tags] == [
        [2, 3, 4], [7], [0, 15], [0, 4]
    ]  # fmt: skip


def test_majority_genres(data):
    # Rows rated 4 or 5: Action 3, Comedy 2, Thriller 2 of 9 genres are 7/9 <= 0.8.
    assert data.dominated.tolist() == [[True, False, True, True]]
    assert data.dominated_names == ("genres",)


def test_matrix_is_completed_from_all_ratings(data_dir, monkeypatch):
    calls = []

    def record(*args, low, high):
        calls.append((args, low, high))
        return Completed(np.arange(12, dtype=np.float32).reshape(2, 6), "method", [])

    monkeypatch.setattr(movielens, "complete", record)
    data = movielens.load(data_dir, TINY)

    assert data.true_reward.tolist() == [[0, 2, 3, 4], [6, 8, 9, 10]]
    assert data.ground_truth.endswith("self-selected (not debiased): method")
    (((users, items, rewards, weights, shape, config), low, high),) = calls
    assert users.tolist() == [0, 0, 1, 0, 0, 0, 1]
    assert items.tolist() == [3, 0, 2, 5, 2, 4, 3]
    assert rewards.tolist() == [5, 4, 3, 2, 1, 4, 5]
    assert weights.tolist() == 7 * [1]
    assert (shape, config, low, high) == ((2, 6), TINY, 1, 5)


def test_matrix_of_the_real_completion_is_within_the_stars(data):
    assert data.true_reward.min() >= 1
    assert data.true_reward.max() <= 5
    assert data.true_reward.std() > 0


def test_publishers_folder_is_accepted(data_dir):
    expected = movielens.load(data_dir, TINY)
    (data_dir / "movielens").rename(data_dir / "ml-1m")
    (data_dir / "movielens").mkdir()
    (data_dir / "ml-1m").rename(data_dir / "movielens" / "ml-1m")

    found = movielens.load(data_dir, TINY)

    assert found.log.items.tolist() == expected.log.items.tolist()
    assert found.sources == expected.sources


def test_order_and_line_ends_of_users_and_movies_do_not_matter(data_dir):
    expected = movielens.load(data_dir, TINY)
    write(data_dir / "movielens", movielens.USERS, USERS[::-1], "\r\n")
    write(data_dir / "movielens", movielens.MOVIES, MOVIES[::-1], "\r\n")

    found = movielens.load(data_dir, TINY)

    assert found.log.items.tolist() == expected.log.items.tolist()
    assert found.item_features[0].codes.tolist() == (
        expected.item_features[0].codes.tolist()
    )
    assert [f.codes.tolist() for f in found.user_features] == (
        [f.codes.tolist() for f in expected.user_features]
    )


def test_repeated_ratings_stay(data_dir):
    write(data_dir / "movielens", movielens.RATINGS, [*RATINGS, "2::10::1::41"])

    assert movielens.load(data_dir, TINY).log.rewards.tolist() == [5, 4, 3, 1, 4, 5, 1]


@pytest.mark.parametrize("name", movielens.FILES)
def test_missing_file(data_dir, name):
    path = data_dir / "movielens" / name
    path.unlink()

    with pytest.raises(DataError, match="no such file") as caught:
        movielens.load(data_dir, TINY)

    assert str(caught.value).startswith(f"{path}: ")
    assert "grouplens.org/datasets/movielens/1m" in str(caught.value)


@pytest.mark.parametrize("name", movielens.FILES)
def test_empty_file(data_dir, name):
    (data_dir / "movielens" / name).write_bytes(b"")

    with pytest.raises(DataError, match=f"{name}: is empty"):
        movielens.load(data_dir, TINY)


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        (movielens.RATINGS, "1::10::5", "line 3: expected 4 fields, found 3"),
        (movielens.RATINGS, "1::10::5::3::9", "line 3: expected 4 fields, found 5"),
        (movielens.RATINGS, "1:10:5:300", "line 3: expected 4 fields, found 1"),
        (movielens.RATINGS, "1::10::6::300", "line 3, column 'rating'"),
        (movielens.RATINGS, "1::10::4.5::300", "line 3, column 'rating'"),
        (movielens.RATINGS, "1::10::nan::300", "line 3, column 'rating'"),
        (movielens.RATINGS, "1::10::5::-1", "line 3, column 'time'"),
        (movielens.RATINGS, "1::10::5::1e300", "line 3, column 'time'"),
        (movielens.RATINGS, "1::10::5::15000000000000000000", "line 3, column 'time'"),
        (movielens.RATINGS, "1::10::5::", "line 3, column 'time'"),
        (movielens.RATINGS, "x::10::5::300", "line 3, column 'user'"),
        (movielens.RATINGS, "3::10::5::300",
         "line 3, column 'user': expected an id of users.dat, found 3"),
        (movielens.RATINGS, "1::11::5::300",
         "line 3, column 'movie': expected an id of movies.dat, found 11"),
        (movielens.USERS, "3::F::25::20", "line 3: expected 5 fields, found 4"),
        (movielens.USERS, "3::X::25::20::1",
         "line 3, column 'gender': expected one of F, M, found 'X'"),
        (movielens.USERS, "3::F::26::20::1", "line 3, column 'age'"),
        (movielens.USERS, "3::F::25::21::1", "line 3, column 'occupation'"),
        (movielens.USERS, "0::F::25::20::1", "line 3, column 'user'"),
        (movielens.USERS, "1::F::25::20::1",
         "line 3, column 'user': expected every id once, found 1 again"),
        (movielens.MOVIES, "3::Title", "line 3: expected 3 fields, found 2"),
        (movielens.MOVIES, "3::A::B::Drama", "line 3: expected 3 fields, found 4"),
        (movielens.MOVIES, "3::Title::", "line 3, column 'genres'"),
        (movielens.MOVIES, "3::Title::Drama|Gossip",
         "line 3, column 'genres': expected one of Action"),
        (movielens.MOVIES, "3::Title::Drama||War", "found ''"),
        (movielens.MOVIES, "10::Title::Drama",
         "line 3, column 'movie': expected every id once, found 10 again"),
    ],
)  # fmt: skip
def test_malformed_line_is_refused(data_dir, name, line, expected):
    lines = [*CONTENTS[name][:2], line, *CONTENTS[name][2:]]
    write(data_dir / "movielens", name, lines)

    with pytest.raises(DataError) as caught:
        movielens.load(data_dir, TINY)

    message = str(caught.value)
    assert message.startswith(f"{data_dir / 'movielens' / name}: ")
    assert expected in message
    assert "\n" not in message


def test_truncated_file_is_refused(data_dir):
    path = data_dir / "movielens" / movielens.RATINGS
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(DataError, match=r"line 7: expected 4 .*is it truncated\?"):
        movielens.load(data_dir, TINY)


@pytest.fixture(scope="module")
def real(real_data_dir):
    if not (real_data_dir / "movielens").is_dir():
        pytest.skip("needs the files of MovieLens-1M")
    return movielens.load(real_data_dir, TINY)


@pytest.mark.data
def test_real_counts(real):
    assert len(real.log) + len(real.held_out) == 1_000_209
    assert (real.num_logged_users, real.num_logged_items) == (6_040, 3_883)
    assert real.num_users == 6_040
    assert real.num_items <= 3_706
    assert real.item_features[0].codes.shape == (3_883, 6)


@pytest.mark.data
def test_real_users_have_four_fifths_logged(real):
    logged = np.bincount(real.log.users)
    held_out = np.bincount(real.held_out.users)

    np.testing.assert_array_equal(held_out, (logged + held_out) // 5)
