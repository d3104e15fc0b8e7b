"""Real workers on real Ray that are really killed: a death costs its call a second try, no more."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from optishear.errors import ConfigError, WorkerError
from optishear.workers.cluster import Workers, running
from optishear.workers.pool import MOST_DEATHS, Call, Pool, _lost


ray = pytest.importorskip("ray", reason="Ray is an extra: pip install optishear[ray]")


class Toy:
    """What a replica looks like to a pool."""

    def ready(self, job):
        self.done = []
        if job == "refused":
            raise ConfigError("this host has another torch")
        if job == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return ["prefixes are of no use here"]

    def do(self, method, *arguments):
        return getattr(self, method)(*arguments)

    def pid(self, label):
        self.done.append(label)
        return os.getpid(), list(self.done)

    def killed_once(self, marker):
        """-9 in the middle, unless it was so before."""
        first = not Path(marker).exists()
        Path(marker).touch()
        if first:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    def killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def short_of_memory_once(self, marker):
        first = not Path(marker).exists()
        Path(marker).touch()
        if first:
            raise MemoryError
        return os.getpid()

    def meet(self, place, label):
        """Waits for another worker that is asked the same at the same time."""
        (Path(place) / label).touch()
        while len(list(Path(place).iterdir())) < 2:
            time.sleep(0.01)
        return os.getpid()

    def niceness(self):
        return os.nice(0)

    def buggy(self):
        raise ZeroDivisionError("a bug")


class Broken:
    def __init__(self):
        raise ModuleNotFoundError("No module named 'optishear'")

    def ready(self, job):
        raise AssertionError("nobody gets here")


@pytest.fixture(scope="module", autouse=True)
def session():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with running(Workers(2, 1)):
        yield


@pytest.fixture(scope="module")
def spare():
    """Workers that serve one test after the other: to start one takes seconds."""
    return []


@pytest.fixture
def pool_of(spare):
    pools = []

    def make(number=2, job=None, kind=Toy, **more):
        actor = ray.remote(num_cpus=1, max_restarts=0)(kind)

        def start():
            return spare.pop() if spare and kind is Toy else actor.remote()

        pools.append(Pool(start, job, number, **more))
        return pools[-1]

    yield make
    spare.extend(handle for pool in pools for handle in pool.close())


def call(key, method, *arguments, home=""):
    return Call(key, method, arguments, f"recipe {key}", home)


def test_every_call_is_answered_and_workers_live_on_between_runs(pool_of):
    pool = pool_of()
    first = dict(pool.run([call(str(i), "pid", i) for i in range(5)]))
    assert sorted(first) == ["0", "1", "2", "3", "4"]
    second = dict(pool.run([call(str(i), "pid", i) for i in range(5, 9)]))
    pids = [{pid for pid, _ in answers.values()} for answers in (first, second)]
    assert pids[0] & pids[1]
    assert len(pids[0] | pids[1]) <= 2  # the second may not have begun when the first had done all
    assert sum(max(len(d) for p, d in second.values() if p == pid) for pid in
               {p for p, _ in second.values()}) >= 4  # fmt: skip


def test_workers_give_way_to_nothing_that_this_process_does_not_give_way_to(pool_of):
    """They do what it would do alone: with Ray's own niceness of 15 they starve beside others."""
    assert dict(pool_of(1).run([call("x", "niceness")])) == {"x": os.nice(0)}


def test_what_began_at_one_worker_goes_on_there(pool_of, tmp_path):
    pool = pool_of()
    place = tmp_path / "first"
    place.mkdir()
    first = dict(pool.run([call(key, "meet", str(place), key, home=key) for key in "ab"]))
    assert first["a"] != first["b"]
    for order in ["ab", "ba"] * 4:  # who is free first is not always the same
        again = dict(pool.run([call(key, "pid", 0, home=key) for key in order]))
        assert {key: pid for key, (pid, _) in again.items()} == first


def test_workers_that_were_still_beginning_serve_the_next_pool(pool_of, spare):
    handles = pool_of().close()
    assert len(handles) == 2
    pool = Pool(handles.pop, None, 2)
    assert sorted(dict(pool.run([call(str(i), "pid", i) for i in range(3)]))) == ["0", "1", "2"]
    spare.extend(pool.close())


def test_a_worker_killed_in_the_middle_costs_one_call_a_second_try(pool_of, tmp_path):
    told = []
    pool = pool_of(notice=told.append)
    calls = [
        call("x", "killed_once", str(tmp_path / "x")),
        *(call(f"{i}", "pid", i) for i in range(4)),
    ]
    results = dict(pool.run(calls))
    assert sorted(results) == ["0", "1", "2", "3", "x"]
    assert [text for text in told if "died on recipe x" in text and "done again elsewhere" in text]
    assert told.count("prefixes are of no use here") == 1  # said once, however many say it


def test_a_worker_without_memory_is_replaced(pool_of, tmp_path):
    told = []
    pool = pool_of(1, notice=told.append)
    [(_, before)] = pool.run([call("a", "pid", 0)])
    [(_, after)] = pool.run([call("x", "short_of_memory_once", str(tmp_path / "x"))])
    assert after != before[0]
    assert "ran out of memory" in told[-1]


def test_after_three_deaths_the_call_is_named_and_the_pool_can_go_on(pool_of):
    told = []
    pool = pool_of(notice=told.append)
    with pytest.raises(WorkerError, match=r"3 workers died on recipe bad"):
        list(pool.run([call("bad", "killed"), call("good", "pid", 1)]))
    assert len([text for text in told if "died on recipe bad" in text]) == MOST_DEATHS - 1
    assert [key for key, _ in pool.run([call("good", "pid", 1)])] == ["good"]


def test_a_bug_is_raised_as_it_is_at_once(pool_of):
    pool = pool_of()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(pool.run([call("x", "buggy")]))
    assert [key for key, _ in pool.run([call("good", "pid", 1)])] == ["good"]


def test_workers_that_cannot_begin_say_why(pool_of):
    with pytest.raises(ConfigError, match="another torch"):
        list(pool_of(job="refused").run([call("x", "pid", 1)]))
    with pytest.raises(WorkerError, match=r"No module named 'optishear'.*on every host"):
        list(pool_of(kind=Broken).run([call("x", "pid", 1)]))
    with pytest.raises(WorkerError, match="3 workers in a row died before they had begun"):
        list(pool_of(1, job="dies").run([call("x", "pid", 1)]))


def test_a_result_that_left_with_its_host_is_made_again():
    """Large ones stay where they were made until they are asked for."""
    assert "host left" in _lost(ray.exceptions.ObjectLostError("00" * 28, None, ""))
    assert _lost(ray.exceptions.RayTaskError("f", "", ValueError("a bug"))) is None
