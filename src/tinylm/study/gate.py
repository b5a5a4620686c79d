"""The gate: no verdict between two variations that are both worse than counting pairs of tokens.

A network from random weights that has seen too little text is near the unigram entropy whatever its
shape or vocabulary. What then differs between two of them is how they start, and says nothing about
either. Where one of the two beats the bigram, the verdict stands, and its size is that against a
weak reference.
"""

from typing import Any

FLOORS = ("unigram", "bigram")
BELOW = "no verdict: both worse than bigrams"


def apply(rungs: list[dict[str, Any]]) -> None:
    """Withdraw verdicts of ``rungs`` (of a summary; changed in place) that the gate does not let
    pass. ``floors`` of a rung are bits per byte, None where they were not measured."""
    named = {rung["name"]: rung for rung in rungs}
    for rung in rungs:
        if rung["reference"] and not (beats(rung) or beats(named[rung["reference"]])):
            rung["verdict"] = BELOW


def beats(rung: dict[str, Any]) -> bool:
    """Whether a variation's mean is below the bigram of its training tokens, or nobody knows."""
    floors = rung.get("floors")
    return not floors or rung["mean"] is None or rung["mean"] < floors["bigram"]


def sentence(rungs: list[dict[str, Any]]) -> str:
    """What counting reaches with the same tokens, and who does not: for a report."""
    known = [rung for rung in rungs if rung.get("floors")]
    if not known:
        return "Not measured: these runs are of a version that did not count."
    low, high = (end(rung["floors"]["bigram"] for rung in known) for end in (min, max))
    between = f"{low:.3f}" if high - low < 5e-4 else f"{low:.3f} to {high:.3f}"
    worse = [rung["name"] for rung in known if not beats(rung)]
    text = (
        "Counts of pairs of tokens (absolute discounting) in the same training tokens reach"
        f" {between} bits per byte on the same held-out text. "
    )
    if not worse:
        return text + "All variations are below that."
    if len(worse) == len(known):
        text += "No variation is below that, so there is no verdict between any two."
    else:
        text += f"Not below that: {', '.join(worse)}; between such variations there is no verdict."
    return text
