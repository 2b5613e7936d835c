from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import gevent
import pytest

from lk_users.interrupt import spare_greenlets

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_comes_to_the_main_greenlet_and_the_one_it_came_upon_goes_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    went_on = []

    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        went_on.append("here")
        gevent.sleep(0)
        went_on.append("and in its next turn")

    spare_greenlets()
    worker = gevent.spawn(work)
    with pytest.raises(KeyboardInterrupt):
        worker.join()
    worker.join()
    assert went_on == ["here", "and in its next turn"]
    assert worker.successful()
    assert capfd.readouterr().err == ""


def test_ctrl_c_while_all_wait_is_no_crash_of_the_hub(capfd: pytest.CaptureFixture[str]) -> None:
    spare_greenlets()
    gevent.get_hub().loop.run_callback(signal.raise_signal, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        gevent.sleep(60)
    assert capfd.readouterr().err == ""


def test_ctrl_c_in_the_main_greenlet_is_what_it_always_was() -> None:
    spare_greenlets()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_who_ignores_it_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spare_greenlets()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
