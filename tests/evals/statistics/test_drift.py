from hypothesis import given
from hypothesis import strategies as st

from compression_gates.evals.statistics.drift import MIN_RUNS, WINDOWS, thirds


@given(st.integers(0, 200))
def test_thirds_are_the_ends_of_windows_that_end_now(count):
    windows = list(thirds(count))
    assert len(windows) <= len(WINDOWS)
    assert bool(windows) == (count >= MIN_RUNS)
    for first, latest in windows:
        size = count - first.start
        assert latest.stop == count
        assert first.stop - first.start == latest.stop - latest.start == size // 3
        assert first.stop <= latest.start
        assert size in (*WINDOWS, count)


def test_a_short_series_is_one_window():
    assert list(thirds(7)) == [(slice(0, 2), slice(5, 7))]
    assert len(list(thirds(15))) == 1
    assert len(list(thirds(31))) == 2
