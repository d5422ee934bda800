"""What is seen of processes: how they end, who hangs, and what the other machines tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.cli.console import RankConsole
from runner.distributed.launching import start as launch
from runner.distributed.launching.task import Task
from runner.distributed.reporting import channel, child
from runner.distributed.reporting.progress import Progress
from runner.distributed.reporting.stacks import Call
from runner.distributed.signals import heard
from runner.distributed.supervising import output, watcher
from runner.distributed.supervising import stop as stopping
from runner.distributed.supervising.failures import Failure, Failures
from runner.distributed.supervising.heartbeat import Life
from runner.distributed.supervising.hung import Sight, find_elsewhere, find_suspect
from runner.distributed.supervising.processes import GONE, Ends, how_ended, state
from runner.distributed.supervising.reports import Process
from runner.distributed.supervising.stop import Stop, StoppedError
from runner.entries import Command
from runner.errors import OtherRankError, StorageError
from runner.storage.events import EventLog

LAUNCHER = """
import os, subprocess, sys, time
from runner.distributed.reporting import reporter

def rank(number, *words):
    code = "import sys, time; from runner.distributed.reporting import reporter"
    code += "; own = reporter.of_process(); number = int(sys.argv[1])"
    for word in words:
        code += "; " + word
    return subprocess.Popen([sys.executable, "-c", code, str(number)])

MET = "own.started(number); own.met(number)"
DONE = "own.done(number)"
FAILS = "own.left({}, 5, 'no data', again=False)"
NOTICES = "own.left(number, 1, 'one is gone', again=True, follows=True)"
"""
"""Ranks that only tell what real ones do."""


@pytest.fixture
def outcome_of(plan, monkeypatch):
    """Provide a way to have a launcher that is a few lines of Python, and ranks that only tell."""
    monkeypatch.setattr(launch, "probe", lambda *_: plan.device_entry.probe())

    def run(lines, **distributed):
        section = replace(plan.recipe.distributed, **distributed)
        entry = replace(
            plan.framework_entry,
            launch=lambda request: [
                Command(arguments=[sys.executable, "-c", LAUNCHER + textwrap.dedent(lines)])
            ],
        )
        changed = replace(
            plan,
            recipe=replace(plan.recipe, distributed=section),
            framework=replace(plan.framework, entry=entry),
        )
        task = Task.of(changed, ["run"], Path("runs"), export=False)
        return launch.carry_out(changed, task, Path("runs"), EventLog(), hears=heard())

    return run


def test_a_rank_that_dies_is_named_and_none_is_left(project, outcome_of):
    with pytest.raises(OtherRankError, match=r"^rank 1 on .* was killed by SIGKILL") as caught:
        outcome_of(
            """
            waits = "import os; [time.sleep(0.1) for _ in iter(lambda: os.path.exists('k'), True)]"
            ranks = [rank(0, MET, waits, "time.sleep(0.5)", NOTICES, "time.sleep(100)"),
                     rank(1, MET, "time.sleep(100)")]
            print(ranks[0].pid, file=open("rank0", "w"))
            while open(os.environ["RUNNER_LAUNCH_STATUS"]).read().count("met") < 2:
                time.sleep(0.05)
            ranks[1].kill()
            open("k", "w")
            time.sleep(2)
            sys.exit(1)
            """
        )
    assert caught.value.exit_code == 1
    left = int(Path("rank0").read_text())
    project.wait_for(lambda: state(left) in GONE)


def test_a_rank_that_dies_when_it_is_done_is_no_failure_unless_it_has_the_result(outcome_of):
    dies = "import os; os.kill(os.getpid(), 9)"
    tells = "own.hand_over({'steps': 3})"
    lines = "rank(0, MET, DONE, {!r}), rank(1, MET, DONE, {!r}); time.sleep(4); sys.exit(1)"
    assert outcome_of(lines.format(f"time.sleep(1); {tells}", dies)) == {"steps": 3}
    with pytest.raises(OtherRankError, match=r"^rank 0 on .* was killed by SIGKILL"):
        outcome_of(lines.format(f"time.sleep(1); {dies}", "pass"))


def test_a_launcher_that_does_not_end_is_ended_once_there_is_the_result(outcome_of, monkeypatch):
    monkeypatch.setattr(watcher, "LEAVE_S", 0.5)
    result = "own.hand_over({'steps': 3})"
    assert outcome_of(f"rank(0, MET, DONE, {result!r}); time.sleep(1000)") == {"steps": 3}


def test_processes_that_are_done_do_not_hold_up_a_machine_without_rank_0(outcome_of, monkeypatch):
    monkeypatch.setattr(watcher, "LEAVE_S", 0.5)
    stays = "rank({}, MET, DONE, 'time.sleep(1000)')"
    assert outcome_of(f"{stays.format(1)}; {stays.format(2)}.wait()") is None


def test_a_result_that_never_comes_is_an_error(outcome_of):
    folder = "from pathlib import Path; own.folder(Path('run'))"
    with pytest.raises(OtherRankError, match=r"^rank 0 has not told its result within 1 s"):
        outcome_of(
            f"""
            ranks = [rank(number, MET, {folder!r}, DONE) for number in (1, 2)]
            [process.wait() for process in ranks]
            """,
            timeout_s=1.0,
        )


def test_a_result_is_not_waited_for_once_machine_0_is_gone(outcome_of, monkeypatch):
    gone = Failure(reason="machine 0 (node-a) has given no sign of life", words=True)
    monkeypatch.setattr(Life, "lost", lambda _: gone)
    folder = "from pathlib import Path; own.folder(Path('run'))"
    with pytest.raises(OtherRankError, match=r"^machine 0 \(node-a\) has given no sign of life"):
        outcome_of(f"rank(1, MET, {folder!r}, DONE).wait(); rank(2, MET, {folder!r}, DONE).wait()")


def test_words_before_the_meeting_are_the_error_and_its_status(outcome_of):
    with pytest.raises(OtherRankError, match=r"^no data; what it has printed is in") as caught:
        outcome_of(
            """
            rank(0, "own.started(0)", FAILS.format(None)).wait()
            sys.exit(1)
            """,
            restarts=3,
        )
    assert caught.value.exit_code == 5


def test_a_launcher_that_fails_on_its_own_is_shown(outcome_of, capsys):
    with pytest.raises(OtherRankError, match=r"ended with status 3 before any process had begun"):
        outcome_of("sys.exit(print('no such option', file=sys.stderr) or 3)", restarts=2)
    assert "no such option" in capsys.readouterr().err
    [told] = Path("runs").glob("*.launch/failures.jsonl")
    assert "ended with status 3" in json.loads(told.read_text())["reason"]


def test_a_process_that_never_meets_the_others_hangs(outcome_of):
    with pytest.raises(OtherRankError, match=r"^the run hangs.* s without progress") as caught:
        outcome_of(
            """
            helper = rank(7, "own.started()", "time.sleep(100)")
            rank(0, "own.started(0)", "time.sleep(100)").wait()
            """,
            timeout_s=1.0,
            rendezvous_s=5.0,
        )
    assert "did not help" not in str(caught.value)


def test_a_launch_in_which_nothing_begins_hangs(outcome_of):
    limits = {"timeout_s": 0.5, "rendezvous_s": 0.5}
    with pytest.raises(OtherRankError, match=r"^no process has begun within \d+ s of the launch"):
        outcome_of("time.sleep(1000)", **limits)


def test_what_cannot_be_written_before_the_start_is_told_to_all(outcome_of, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StorageError, match=r"cannot write .*gone.*: No such file or directory"):
        outcome_of("pass")
    [told] = Path("runs").glob("*.launch/failures.jsonl")
    failure = json.loads(told.read_text())
    assert "cannot write" in failure["reason"]
    assert (failure["code"], failure["again"]) == (StorageError.exit_code, False)


def test_a_process_that_cannot_show_its_progress_says_so(tmp_path):
    with pytest.raises(StorageError, match=r"cannot write .*gone.*; make room .* TMPDIR"):
        Progress(tmp_path / "gone" / "status")


def test_a_line_that_a_full_disk_has_cut_is_passed_over(tmp_path):
    file = tmp_path / "status"
    file.write_text('{"what": "met", "pro{"what": "met", "process": 1}\n')
    with file.open("a") as more:
        more.write('{"what": "done", "process": 2, "rank": 1}\n')
    [note] = channel.read(file)
    assert (note.what, note.process, note.fields) == ("done", 2, {"rank": 1})
    assert note.end == file.stat().st_size


def test_ends_are_told_in_their_order_with_signal_or_status():
    sleeper = [sys.executable, "-c", "import time; time.sleep(100)"]
    first, second = (subprocess.Popen(sleeper) for _ in range(2))
    with Ends() as ends:
        both = {first.pid, second.pid}
        assert ends.wait(both, 0.01) == {}
        first.send_signal(signal.SIGSEGV)
        assert ends.wait(both, 60) == {first.pid: -signal.SIGSEGV}
        second.kill()
        assert ends.wait(both, 60) == {second.pid: -signal.SIGKILL}
        assert ends.wait(both, 0.01) == {}
    first.wait()
    second.wait()
    assert how_ended(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert how_ended(3) == "ended with status 3, without saying why"


def test_a_launcher_s_log_tells_what_was_seen_too_late(tmp_path):
    log = tmp_path / "launcher.log"
    log.write_text(
        "failed (exitcode: -15) local_rank: 0 (pid: 99) of binary: python\n"
        "  exitcode  : -9 (pid: 123)\n"
    )
    assert output.find_code(log, 123) == -9
    assert output.find_code(log, 12) is None


def sight(rank, **changes):
    values = {"seconds": 5.0, "marks": 7, "activity": "training", "state": "S", "place": "poll"}
    values["calls"] = [Call("group.py", "10", "sum")]
    return Sight(process=Process(number=100, since=0.0, rank=rank), **{**values, **changes})


FORWARD = {"calls": [Call("model.py", "10", "forward")]}
AGAIN = {"calls": [Call("group.py", "20", "sum")]}
LEADS = {"calls": [Call("group.py", "10", "sum"), Call("run.py", "10", "_result")]}
SILENT: dict[str, Any] = {"calls": []}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (({}, FORWARD, {}), 1),
        (({}, AGAIN, {}), None),  # one that asks again and again waits
        (({}, {"place": "nanosleep"}, {}), 1),
        (({}, FORWARD, FORWARD, {}), None),
        (({}, AGAIN, FORWARD), 2),
        ((LEADS, {}, FORWARD, {}), 2),
        (({}, {}, SILENT), None),  # who does not answer is nowhere
        ((SILENT, FORWARD, SILENT), None),
        (({}, FORWARD, SILENT), None),
        (({}, {}, {}), None),
        (({}, FORWARD), None),
        (({},), None),
    ],
)
def test_one_that_is_elsewhere_in_its_program_is_found_among_several(changes, found):
    suspect = find_elsewhere([sight(rank, **own) for rank, own in enumerate(changes)])
    assert (suspect.process.rank if suspect else None) == found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"state": "T"}, 1),
        ({"marks": 6}, 1),
        ({}, None),
    ],
)
def test_the_one_that_the_others_wait_for_is_found_where_it_differs(change, found):
    suspect = find_suspect([sight(0), sight(1, **change), sight(2)])
    assert (suspect.process.rank if suspect else None) == found


def test_one_that_does_not_wait_is_found_among_those_that_say_so():
    waits = {"activity": "waiting for rank 0"}
    suspect = find_suspect([sight(0, activity="saving step 100"), sight(1, **waits)])
    assert suspect is not None
    assert suspect.process.rank == 0
    assert find_suspect([sight(0)]) is None


def test_of_several_machines_the_first_cause_counts_and_not_what_follows(tmp_path):
    file = tmp_path / "failures.jsonl"
    here, there = (Failures(file, "second attempt", machine) for machine in range(2))
    Failures(file, "first attempt", 1).write(Failure(reason="was lost before"))
    here.write(Failure(reason="has lost another", rank=0, follows=True))
    assert here.first() is None
    there.write(Failure(reason="was killed", rank=3, host="node-b", lost=[3]))
    here.write(Failure(reason="fails later", rank=1))
    with file.open("a") as cut:
        cut.write('{"attempt": "second')
    first = here.first()
    assert first is not None
    assert (str(first), list(first.lost)) == ("rank 3 on node-b was killed", [3])
    other = there.of_others()
    assert other is not None
    assert other.reason == "fails later"


def test_where_all_machines_wait_the_one_behind_the_others_hangs(tmp_path):
    file = tmp_path / "failures.jsonl"
    here, there, beyond = (Failures(file, "first attempt", machine) for machine in range(3))
    waits = Failure(reason="waited 3 s in vain", rank=0, follows=True, marks=41)
    here.write(waits)
    assert here.furthest_behind() is None  # no other one has told anything yet
    culprit = Failure(reason="hangs", rank=1, host="node-b", lost=[1])
    there.write(replace(waits, marks=40, hangs=culprit))
    beyond.write(replace(waits, marks=41, hangs=replace(culprit, rank=2)))
    assert here.first() is None
    found = here.furthest_behind()
    assert found is not None
    assert str(found) == "rank 1 on node-b hangs"
    beyond.write(replace(waits, marks=40, hangs=replace(culprit, rank=2), differs=True))
    assert str(here.furthest_behind()) == "rank 2 on node-b hangs"
    beyond.write(replace(waits, marks=40))
    here.write(replace(waits, marks=40))
    assert here.furthest_behind() is None  # two have come equally far: the network may be cut


def test_cores_are_shared_as_neighbours_and_everyone_has_one():
    cores = [0, 1, 4, 5, 6]
    assert [child.share(cores, rank, 2) for rank in range(2)] == [[0, 1], [4, 5, 6]]
    assert [child.share([3], rank, 2) for rank in range(2)] == [[3], [3]]


def test_a_signal_asks_politely_only_while_there_are_processes():
    with Stop(heard()) as stop:
        with stop.politely():
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)  # the same request
            assert (stop.number, stop.at_once) == (signal.SIGHUP, False)
        with pytest.raises(StoppedError):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_warning_that_comes_again_ends_nothing(monkeypatch):
    monkeypatch.setattr(stopping, "REPEAT_S", 0.0)
    with Stop(heard()) as stop, stop.politely():
        for number in (signal.SIGUSR1, signal.SIGXCPU, signal.SIGXCPU, signal.SIGTERM):
            os.kill(os.getpid(), number)
            assert (stop.number, stop.at_once) == (signal.SIGUSR1, False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.at_once


def test_a_console_shows_what_a_file_gains_and_cuts_no_letter(tmp_path, capsys):
    file = tmp_path / "rank_0.log"
    console = output.Console()
    console.copy()
    console.follow(file)
    console.copy()
    text = "größer\n".encode()
    file.write_bytes(text[:3])
    console.copy()
    with file.open("ab") as more:
        more.write(text[3:])
    console.copy()
    assert capsys.readouterr().err == "größer\n"


def test_a_console_that_is_gone_stops_nothing(tmp_path, monkeypatch):
    class Gone:
        def write(self, _text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    console, file = output.Console(), tmp_path / "log"
    file.write_text("epoch 1\n")
    console.follow(file)
    console.copy()
    RankConsole(1)("warning", {"message": "slow"})


def test_hung_says_what_a_process_does():
    line = str(sight(1, activity="saving step 100", state="D", place="io_schedule"))
    assert line == (
        "rank 1 (process 100): saving step 100, waiting for a disk or a driver in io_schedule, "
        "at group.py:10 in sum, 5 s without progress"
    )
