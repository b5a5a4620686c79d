"""Numbers for people: durations and counts."""


def hours(seconds: float | None) -> str:
    """ "1,200 h", "3 h 20 min", "12 min", "40 s", "unknown"."""
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds > 360_000:
        return f"{seconds / 3600:,.0f} h"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def millions(number: float) -> str:
    """ "737.3k", "31.9M", "50B"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"
