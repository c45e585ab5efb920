"""How busy serving is, by clocks that the test moves."""

from __future__ import annotations

from selflearn.api.services import Activity


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_the_longest_wait_is_of_those_who_wait_and_of_those_who_waited_since_the_last_call() -> None:
    clock = Clock()
    activity = Activity(clock, clock)
    assert activity.take_longest_wait() == 0.0
    first, second = activity.begin(), activity.begin()
    clock.seconds = 3.0
    activity.first_token(first)
    third = activity.begin()
    clock.seconds = 4.0
    assert activity.take_longest_wait() == 4.0  # the second still waits
    activity.first_token(second)
    activity.first_token(second)
    assert activity.take_longest_wait() == 4.0
    assert activity.take_longest_wait() == 1.0  # the third
    clock.seconds = 6.0
    activity.end(third)  # without a token
    assert activity.take_longest_wait() == 3.0
    assert activity.take_longest_wait() == 0.0


def test_it_is_idle_from_the_end_of_the_last_request() -> None:
    clock = Clock()
    activity = Activity(clock, clock)
    clock.seconds = 2.0
    assert (activity.running, activity.idle_seconds) == (0, 2.0)
    tickets = [activity.begin(), activity.begin()]
    activity.first_token(tickets[0])
    activity.end(tickets[0])
    clock.seconds = 5.0
    assert (activity.running, activity.idle_seconds) == (1, 0.0)
    activity.end(tickets[1])
    clock.seconds = 9.0
    assert (activity.running, activity.idle_seconds) == (0, 4.0)
