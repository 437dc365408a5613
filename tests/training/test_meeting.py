"""The processes of one start find each other, whatever an earlier start left in the store."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event

import pytest
import torch.distributed as dist

from mistral_lib.training.processes import distributed, meeting


def met(store: dist.Store, ranks: tuple[int, ...]) -> list[str]:
    """The words of three processes, which look into the store in this order."""
    with ThreadPoolExecutor(3) as pool:
        return [future.result() for future in [pool.submit(meeting.agreed_word, store, rank, 3, 10.0) for rank in ranks]]


def test_each_start_has_a_word_of_its_own_in_the_same_store() -> None:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=5))
    words = [met(store, ranks) for ranks in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2))]
    assert [len(set(word)) for word in words] == [1, 1, 1, 1] and len({word[0] for word in words}) == 4


def test_a_process_that_is_left_alone_says_so() -> None:
    store = dist.HashStore()
    met(store, (0, 1, 2))
    for rank in (0, 1):
        with pytest.raises(TimeoutError, match=f"process {rank} of 3 did not find all others within 0 s"):
            meeting.agreed_word(store, rank, 3, 0.3)


def test_a_store_that_does_not_answer_is_a_lost_process(monkeypatch: pytest.MonkeyPatch) -> None:
    over = Event()

    class Silent:
        def add(self, *_: object) -> int:
            over.wait(60)
            return 0

    clock = [0.0]
    monkeypatch.setattr(distributed, "ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(distributed.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(distributed, "_joined", [distributed.Joined(None, Silent())])
    watch = distributed.Watch()
    for seconds in (600, 1200):
        clock[0] = seconds
        watch.look()
    clock[0] = 1900
    with pytest.raises(distributed.LostProcess, match="gave no sign for 1800 s"):
        watch.look()
    over.set()


def test_a_process_that_waits_gives_up_only_if_the_signs_of_the_first_one_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(distributed.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(distributed, "_joined", [distributed.Joined(None, dist.HashStore())])
    watch = distributed.Watch()

    def look(seconds: float) -> None:
        clock[0] += seconds
        watch.look()

    for seconds in (3600, 3600):
        look(seconds)  # no sign so far: the first process may be downloading
    distributed.give_sign()
    for _ in range(4):
        look(1200)
        distributed.give_sign()
    look(1200)
    with pytest.raises(distributed.LostProcess, match="another of the 1 processes gave no sign for 1800 s"):
        look(1900)
