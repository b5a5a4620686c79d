"""One document."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    text: str
    source: str  # file name (or dataset id) it came from: reports group by it
    path: int = 0  # which of the paths of a corpus it is from, where they are told apart
    # a conversation that is not text yet: (role, content) of each turn
    messages: tuple[tuple[str, str], ...] = ()
    # of a conversation as text: the stretches [from, to) of characters that count in training
    taught: tuple[tuple[int, int], ...] = ()

    def pieces(self) -> list[tuple[str, bool]]:
        """The text in pieces, and whether each counts in training. A conversation is cut where the
        assistant begins and ends: tokens do not cross these places when it is asked."""
        if not self.taught:
            return [(self.text, True)]
        found, done = [], 0
        for start, end in self.taught:
            found += [(self.text[done:start], False), (self.text[start:end], True)]
            done = end
        found.append((self.text[done:], False))
        return [(text, counts) for text, counts in found if text]
