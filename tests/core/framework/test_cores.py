"""Threads follow what a container may use, as control groups of both versions tell it."""

from __future__ import annotations

import os

import pytest

from runner.framework.cores import available_cores, cpu_quota, threads_asked_for, visible_cores

V1 = "30 25 0:26 {root} {place} rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "31 25 0:27 {root} {place} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
OTHER = "32 25 0:28 / /elsewhere rw - cgroup cgroup rw,memory\n33 1 8:1 / / rw - ext4 /dev/sda rw\n"


@pytest.fixture
def system(tmp_path):
    """Write what the kernel tells of this process; return the folder that it is told in."""

    def write(mount, groups, root="/"):
        place = tmp_path / "cgroup"
        (tmp_path / "mountinfo").write_text(OTHER + mount.format(root=root, place=place))
        (tmp_path / "cgroup").mkdir()
        (tmp_path / "cgroup.txt").write_text(groups)
        return place

    return write


def quota_of(tmp_path, place):
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "mountinfo").write_text((tmp_path / "mountinfo").read_text())
    (proc / "cgroup").write_text((tmp_path / "cgroup.txt").read_text())
    return cpu_quota(proc)


def limit(folder, quota, period=100_000, version=2):
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def test_version_2_with_the_container_as_the_root_that_it_sees(system, tmp_path):
    place = system(V2, "0::/\n")
    limit(place, 250_000)
    assert quota_of(tmp_path, place) == 2.5


def test_the_smallest_quota_of_the_groups_around_counts(system, tmp_path):
    place = system(V2, "0::/slice/job/step\n")
    for name, quota in (("", "max"), ("slice", 400_000), ("slice/job", 150_000)):
        limit(place / name, quota)
    limit(place / "slice/job/step", "max")
    assert quota_of(tmp_path, place) == 1.5


def test_version_1_without_a_view_of_the_container(system, tmp_path):
    place = system(V1, "4:memory:/other\n3:cpu,cpuacct:/docker/abc\n0::/\n", root="/docker/abc")
    limit(place, 50_000, version=1)
    assert quota_of(tmp_path, place) == 0.5


def test_version_1_without_a_limit(system, tmp_path):
    place = system(V1, "3:cpuacct,cpu:/\n")
    limit(place, -1, version=1)
    assert quota_of(tmp_path, place) is None


def test_a_group_of_another_container_is_not_looked_for(system, tmp_path):
    place = system(V2, "0::/../other\n", root="/own")
    limit(place, 300_000)
    assert quota_of(tmp_path, place) == 3.0


def test_where_nothing_is_told_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "threads"), [("3", 3), (" 4,2", 4), ("0", None), ("auto", None), ("-1", None)]
)
def test_a_number_of_threads_is_one_that_openmp_takes(monkeypatch, text, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads_asked_for() == threads


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (0.5, 1), (2.9, 2), (8.0, 4)])
def test_whole_cores_of_the_quota_count_and_no_more_than_there_are(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr("runner.framework.cores.cpu_quota", lambda: quota)
    assert (visible_cores(), available_cores()) == (4, expected)
