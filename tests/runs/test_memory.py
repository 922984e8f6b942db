"""memory.py: what a process may take, where a batch system or container says less."""

from __future__ import annotations

import pytest

from darlr_jax.runs import memory

GIB = 2**30


@pytest.fixture
def limits(tmp_path):
    """Limits by group file -> those of a process in some groups."""

    def read(groups, files):
        for name, text in files.items():
            file = tmp_path / "root" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "cgroup").write_text(groups)
        return list(memory.limits_of_job(tmp_path / "cgroup", tmp_path / "root"))

    return read


def test_every_group_above_the_process_counts(limits):
    files = {
        "job/step/memory.max": "max\n",
        "job/memory.max": f"{32 * GIB}\n",
        "memory.max": f"{64 * GIB}\n",
        "other/memory.max": "1\n",
    }
    assert limits("0::/job/step\n", files) == [32 * GIB, 64 * GIB]


def test_where_each_controller_has_its_own_tree(limits):
    files = {
        "memory/job/memory.limit_in_bytes": f"{8 * GIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",  # no limit
        "cpu/job/memory.limit_in_bytes": "1\n",
    }
    groups = "9:name=systemd:/\n4:memory:/job\n3:cpu:/job\n0::/\n"
    assert min(limits(groups, files)) == 8 * GIB


def test_where_nothing_is_told(limits, tmp_path):
    assert limits("0::/outside/of/what/is/seen\n", {}) == []
    assert list(memory.limits_of_job(tmp_path / "absent", tmp_path)) == []


def test_of_a_cpu_there_is_no_more_than_a_job_may_have(monkeypatch):
    whole = memory.memory_of_device()
    monkeypatch.setattr(memory, "limits_of_job", lambda: iter([whole - 1, whole + 1]))
    assert memory.memory_of_device() == whole - 1
