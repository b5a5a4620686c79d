"""Random strings from all over Unicode, for checking that no text is lost."""

import random

from tinylm.tokenizer.source import Source

# (first, last) code points: planes in daily use, then anything.
_BLOCKS = (
    (0x20, 0x7E),
    (0x20, 0x7E),
    (0x00, 0x1F),
    (0xA0, 0x24F),
    (0x300, 0x36F),
    (0x370, 0x5FF),
    (0x600, 0x8FF),
    (0x900, 0xDFF),
    (0xE00, 0x11FF),
    (0x1E00, 0x206F),
    (0x2070, 0x2BFF),
    (0x3000, 0x30FF),
    (0x4E00, 0x9FFF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xE000, 0xF8FF),
    (0xF900, 0xFFFD),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x2FFFF),
    (0x100000, 0x10FFFD),
    (0x10000, 0x1FFFF),
)


def unicode_strings(number: int, source: Source, seed: int = 0) -> list[str]:
    """``number`` strings of 1-24 pieces: characters of random blocks, runs of space, spellings of
    added tokens."""
    generator = random.Random(seed)
    added = [token["content"] for token in source.data["added_tokens"]]
    return [_string(generator, added) for _ in range(number)]


def _string(generator: random.Random, added: list[str]) -> str:
    pieces = []
    blocks = generator.sample(_BLOCKS, generator.randint(1, 3))
    for _ in range(generator.randint(1, 24)):
        dice = generator.random()
        if dice < 0.08:
            pieces.append(
                generator.choice((" ", "\n", "\t", "\r\n", "\u3000", "\u2581"))
                * generator.randint(1, 5)
            )
        elif dice < 0.1 and added:
            pieces.append(generator.choice(added))
        else:
            pieces.append(chr(generator.randint(*generator.choice(blocks))))
    return "".join(pieces)
