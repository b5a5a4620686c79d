import pytest

from tinylm import terminal


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets, on a console that is no terminal; returns (now, lines)."""
    now, lines = [0.0], []
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(terminal.console, "print", lambda text, **_: lines.append(text))
    return now, lines


def test_a_log_file_gets_a_line_now_and_then(clock):
    now, lines = clock
    with terminal.progress_bar("training", 100, "steps") as bar:
        for second in range(100):
            now[0] = float(second)
            bar.advance(1, "1.2k tokens/s")
    assert len(lines) == 3
    assert lines[0] == "training: 31/100 steps 1.2k tokens/s about 1.1 min left"


def test_what_is_quickly_done_says_nothing(clock):
    _, lines = clock
    assert list(terminal.track([1, 2, 3], "reading")) == [1, 2, 3]
    assert not lines


def test_without_a_total_there_is_no_time_left(clock):
    now, lines = clock
    with terminal.progress_bar("counting", None, "MB") as bar:
        now[0] = 40.0
        bar.advance(5)
    assert lines == ["counting: 5 MB"]
