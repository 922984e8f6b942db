"""Archives: what is wanted comes out whole; what is hostile or damaged is refused."""

import contextlib
import gzip
import io
import os
import random
import stat
import struct
import tarfile
import zipfile

import pytest

from darlr_jax.data import archives
from darlr_jax.data.dataset import DataError

RATINGS = b"user,item,rating\n1,2,5\n" * 1000
USERS = b"user,age\n1,30\n"
MEMBERS = ("ratings.csv", "features/users.csv")
CONTENTS = {
    "Set 2.0/README.md": b"# Set\n",
    "Set 2.0/data/ratings.csv": RATINGS,
    "Set 2.0/data/old_ratings.csv": b"old",
    "Set 2.0/data/features/users.csv": USERS,
    "__MACOSX/Set 2.0/data/._ratings.csv": b"\0",
}
LIMIT = 1 << 20


def make_zip(path, contents=CONTENTS, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.mkdir("Set 2.0")
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def make_tar(path, contents=CONTENTS):
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(directory("Set 2.0"))
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def directory(name):
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


MAKERS = {"zip": make_zip, "tar.gz": make_tar}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "set"


@pytest.fixture(params=MAKERS)
def make(request, tmp_path):
    """Makes an archive of one kind, with the contents given."""
    maker = MAKERS[request.param]
    return lambda *contents: maker(tmp_path / f"archive.{request.param}", *contents)


def unpack(archive, folder, members=MEMBERS, size_limit=LIMIT):
    return archives.unpack(archive, folder, members=members, size_limit=size_limit)


def files(folder):
    """All files below, temporary ones included."""
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def refuses(archive, folder, *parts, **more):
    """Asserts one line with all `parts`, and that no file has been left."""
    with pytest.raises(DataError) as caught:
        unpack(archive, folder, **more)
    message = str(caught.value)
    assert message.startswith(f"{archive}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert files(folder) == []


def test_wanted_files_come_out_and_nothing_else(make, folder):
    paths = unpack(make(), folder)

    assert paths == [folder / "ratings.csv", folder / "features" / "users.csv"]
    assert [path.read_bytes() for path in paths] == [RATINGS, USERS]
    assert files(folder) == sorted(paths)


def test_kind_is_told_by_content(make, folder, tmp_path):
    archive = make().rename(tmp_path / "download")

    assert len(unpack(archive, folder)) == 2


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_both_common_kinds_of_zip(tmp_path, folder, compression):
    archive = make_zip(tmp_path / "a.zip", compression=compression)

    assert unpack(archive, folder)[0].read_bytes() == RATINGS


def test_names_with_a_leading_dot(make, folder):
    archive = make({"./ratings.csv": RATINGS, "./features/users.csv": USERS})

    assert unpack(archive, folder)[1].read_bytes() == USERS


def test_file_of_the_same_name_is_replaced(make, folder):
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_bytes(b"old")

    assert unpack(make(), folder)[0].read_bytes() == RATINGS


def test_empty_file(make, folder):
    (path,) = unpack(make({"a/ratings.csv": b""}), folder, members=["ratings.csv"])

    assert path.read_bytes() == b""


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 70_000, 1 << 20, 3 << 20])
def test_sizes_around_blocks(make, folder, size):
    content = random.Random(0).randbytes(size)
    contents = {"before.csv": b"x" * 300, "ratings.csv": content, "z.csv": b"z"}

    paths = unpack(
        make(contents), folder, members=["ratings.csv", "z.csv"], size_limit=8 << 20
    )

    assert [path.read_bytes() for path in paths] == [content, b"z"]


def test_missing_members_are_named(make, folder):
    archive = make({"a/ratings.csv": RATINGS})

    refuses(archive, folder, "holds no features/users.csv; is it the official archive?")


def test_part_of_a_name_is_no_match(make, folder):
    archive = make({"a/old_ratings.csv": b"", "a/ratings.csv/x": b""})

    refuses(archive, folder, "holds no ratings.csv", members=["ratings.csv"])


def test_member_that_is_there_twice(make, folder):
    archive = make({**CONTENTS, "other/ratings.csv": b"other"})

    refuses(archive, folder, "holds ratings.csv more than once")


@pytest.mark.parametrize(
    "name",
    ["../ratings.csv", "a/../../ratings.csv", "/ratings.csv", "..", "/etc/passwd",
     "..\\ratings.csv", "C:\\ratings.csv", "c:/ratings.csv", "\\\\host\\ratings.csv"],
)  # fmt: skip
def test_name_that_leads_elsewhere(make, folder, name):
    archive = make({**CONTENTS, name: b"evil"})

    refuses(archive, folder, repr(name), "leads out of the archive's folder")
    assert not list(folder.parent.parent.glob("*.csv"))


# --- links, devices, encryption -------------------------------------------------------


def make_special_tar(path, kind, **fields):
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("a/ratings.csv")
        member.type = kind
        for name, value in fields.items():
            setattr(member, name, value)
        archive.addfile(member)
    return path


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (tarfile.SYMTYPE, {"linkname": "/etc/passwd"}),
        (tarfile.LNKTYPE, {"linkname": "/etc/passwd"}),
        (tarfile.CHRTYPE, {"devmajor": 1, "devminor": 5}),
        (tarfile.BLKTYPE, {"devmajor": 8}),
        (tarfile.FIFOTYPE, {}),
        (tarfile.DIRTYPE, {}),
    ],
)
def test_tar_member_that_is_no_ordinary_file(tmp_path, folder, kind, fields):
    archive = make_special_tar(tmp_path / "a.tar.gz", kind, **fields)

    expected = "a/ratings.csv: is a link, a folder or a device"
    refuses(archive, folder, expected, members=["ratings.csv"])


def test_link_that_nobody_wants_is_passed_over(tmp_path, folder):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("a/latest")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
        member = tarfile.TarInfo("a/ratings.csv")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"1,2"))

    (ratings,) = unpack(path, folder, members=["ratings.csv"])

    assert ratings.read_bytes() == b"1,2"
    assert files(folder) == [ratings]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFBLK, stat.S_IFDIR])
def test_zip_member_that_is_no_ordinary_file(tmp_path, folder, kind):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a/ratings.csv")
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, b"/etc/passwd")

    expected = "a/ratings.csv: is a link, a folder or a device"
    refuses(path, folder, expected, members=["ratings.csv"])


def edit_headers(path, offset, value):
    """Sets two bytes of the local and of the central header of a one-member zip."""
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    for start in (offset, central + offset + 2):
        data[start : start + 2] = struct.pack("<H", value)
    path.write_bytes(data)


def test_encrypted_zip(tmp_path, folder):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/ratings.csv", RATINGS)
    edit_headers(path, 6, 1)  # the flag "encrypted"

    refuses(path, folder, "ratings.csv: is encrypted", members=["ratings.csv"])


@pytest.mark.parametrize("method", [9, 12, 14, 99])  # deflate64, bzip2, LZMA, AES
def test_uncommon_compression(tmp_path, folder, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/ratings.csv", RATINGS)
    edit_headers(path, 8, method)

    expected = "ratings.csv: is compressed in an uncommon way"
    refuses(path, folder, expected, members=["ratings.csv"])


def test_zip_of_a_later_version(tmp_path, folder):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/ratings.csv", RATINGS)
    edit_headers(path, 4, 99)

    refuses(path, folder, "(zip file version 9.9)", members=["ratings.csv"])


# --- bombs ----------------------------------------------------------------------------


def test_more_than_the_limit(make, folder):
    archive = make({"a/ratings.csv": b"\0" * LIMIT, "a/features/users.csv": b"\0"})

    refuses(archive, folder, f"unpacks to more than {LIMIT} bytes")


def test_exactly_the_limit(tmp_path, folder):
    archive = make_zip(tmp_path / "a.zip", {"ratings.csv": b"\0" * LIMIT})

    assert len(unpack(archive, folder, members=["ratings.csv"])) == 1


def test_zip_whose_header_lies(tmp_path, folder):
    path = make_zip(tmp_path / "a.zip", {"ratings.csv": b"\0" * 50 * LIMIT})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 50 * LIMIT), struct.pack("<I", 9)))

    refuses(path, folder, "is damaged or truncated", members=["ratings.csv"])


def test_tar_with_a_bomb_that_nobody_wants(tmp_path, folder):
    archive = make_tar(
        tmp_path / "a.tar.gz", {"bomb": b"\0" * 5 * LIMIT, "ratings.csv": RATINGS}
    )

    refuses(archive, folder, f"more than {LIMIT} bytes", members=["ratings.csv"])


def with_size(member, size):
    """The header of a tar member that claims another size; base 256 as it is large."""
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (
        b"\x80" + size.to_bytes(11, "big")
        if size >= 0
        else (size.to_bytes(12, "big", signed=True))
    )
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_tar_header_of_a_gigabyte(tmp_path, folder, kind):
    member = tarfile.TarInfo("x")
    member.type = kind
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(with_size(member, 1 << 30) + bytes(10 * LIMIT)))

    refuses(path, folder, "is damaged or truncated (a header of 1073741824 bytes)")


def test_tar_member_of_a_terabyte(tmp_path, folder):
    path = tmp_path / "a.tar.gz"
    header = with_size(tarfile.TarInfo("ratings.csv"), 1 << 40)
    path.write_bytes(gzip.compress(header + bytes(10_240)))

    refuses(path, folder, f"unpacks to more than {LIMIT} bytes")


def test_tar_member_of_negative_size(tmp_path, folder):
    path = tmp_path / "a.tar.gz"
    header = with_size(tarfile.TarInfo("other.csv"), -1024)
    path.write_bytes(gzip.compress(header + bytes(10_240)))

    refuses(path, folder, "is damaged or truncated")


# --- damage ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"P", b"<html>Not found</html>", bytes(5000)])
def test_no_archive(tmp_path, folder, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)

    refuses(path, folder, "is neither a zip nor a tar.gz; delete it and fetch it again")


def test_gzip_that_holds_no_tar(tmp_path, folder):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(b"user,item\n" * 1000))

    refuses(path, folder, "is damaged or truncated")


def test_no_file(tmp_path, folder):
    refuses(tmp_path / "absent.zip", folder, "No such file or directory")


def test_folder_that_cannot_be_written(make, tmp_path):
    folder = tmp_path / "occupied"
    folder.write_text("a file")

    with pytest.raises(DataError, match=f"{folder}"):
        unpack(make(), folder)


def test_truncated_anywhere(make, folder):
    archive = make()
    whole = archive.read_bytes()
    for length in [*range(2, len(whole), 37), len(whole) - 1]:
        archive.write_bytes(whole[:length])

        refuses(archive, folder, "is damaged or truncated")


def test_damaged_anywhere(make, folder):
    """One bit is wrong: it is noticed, or it stands where it changes nothing wanted."""
    archive = make()
    whole = archive.read_bytes()
    draw = random.Random(0)
    noticed = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.randrange(2, len(whole))] ^= 1 << draw.randrange(8)
        archive.write_bytes(damaged)
        try:
            paths = unpack(archive, folder)
        except DataError:
            noticed += 1
        else:
            assert [path.read_bytes() for path in paths] == [RATINGS, USERS]
            for path in paths:
                path.unlink()
        assert files(folder) == []
    assert noticed > 40


def test_checksum_at_the_end_of_a_tar_counts(tmp_path, folder):
    path = make_tar(tmp_path / "a.tar.gz")
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # of the CRC of all that was compressed
    path.write_bytes(data)

    refuses(path, folder, "CRC check failed")


def test_zip_with_a_wrong_position(tmp_path, folder):
    path = make_zip(tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    data[-6:-2] = struct.pack("<I", len(data))  # where the list of members begins
    path.write_bytes(data)

    refuses(path, folder, "is damaged or truncated")


def test_interruption_leaves_no_half_file(make, folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(archives._Budget, "spend", interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        unpack(make(), folder)

    assert os.path.isdir(folder)
    assert files(folder) == []
