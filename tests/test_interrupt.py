"""What an interrupt waits for."""

from __future__ import annotations

import os
import signal

import pytest

from boxmed_ray.interrupt import finish_first


def _interrupted(times: int, done: list[str]) -> None:
    with finish_first():
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        done.append("the rest")


def test_the_first_interrupt_waits_for_the_block_to_end() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        _interrupted(1, done)
    assert done == ["the rest"]


def test_the_second_interrupt_does_not_wait() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        _interrupted(2, done)
    assert done == []


def test_without_an_interrupt_handlers_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with finish_first():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
