"""Text on which tokenizers go wrong: digits, runs of spaces, many scripts, split characters.
Written for this check."""

import random

PROMPT = "The river was wide and slow, and on its far bank stood"

PROSE = (
    "In the spring of 1848 the town kept two clocks: one at the station, one above the bakery. They"
    " never agreed. Travellers learned to ask which time was meant, and the baker, who was proud of"
    ' his, would answer only "mine". When the railway company offered to mend it for $12.50, he'
    " refused; at 06:59 each morning he set it by the smell of the first loaves, which, he said,"
    " had never been late.\n\ndef mean(values):\n    total = 0.0\n    for value in values:\n       "
    " total += value\n    return total / len(values)  # fails on an empty list\n\n| year | loaves |"
    " clocks |\n|-----:|-------:|-------:|\n| 1848 |  10400 |      2 |\n| 1849 |  11017 |     "
    " 1 |\n"
)

TEXTS = [
    PROMPT,
    PROSE,
    "a",
    " a",
    "  a",
    "a ",
    "a  b   c    d     e        f                g",
    " \n \n\n \t\t \r\n\r\n  end",
    "\n\n\n\n\n\n",
    "\t\tif (x)\n\t\t\treturn  1;\n",
    (
        "0 1 22 333 4444 55555 666666 7777777 3.14159 1,000,000 12:34:56 2026-11-22 0x1F 1e-10 +44"
        " (0)20 7946 0958"
    ),
    "١٢٣ ४५६ ７８９ Ⅻ ½ x² H₂O",
    "I'm you're HE'LL we'Ve they'd it's 'tis rock'n'roll O'Neill ''quoted'' don’t",
    "Straße, naïve façade, œuvre, Ångström, İstanbul, ǅ, ﬁn",
    "e\u0301 n\u0303 A\u030a \u1e9b\u0323 decomposed; é ñ Å composed",
    "Быстрая лиса перепрыгнула через ленивую собаку в 1999 году.",
    "Η γρήγορη αλεπού πηδά πάνω από το τεμπέλικο σκυλί.",
    "这只敏捷的棕色狐狸跳过了那只懒狗。价格是３０元，共12个。",
    "素早い茶色の狐がのろまな犬を飛び越える。カタカナ、ひらがな、漢字。",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다. 2026년 11월",
    "الثعلب البني السريع يقفز فوق الكلب الكسول ٢٠٢٦",
    "השועל החום המהיר קופץ מעל הכלב העצלן, 17%.",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "Nhanh như cáo nâu nhảy qua con chó lười biếng.",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ☃️ 🇫🇷🇯🇵 ©®™ → ≠ ∑ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀",
    (
        "zero\u200bwidth non\u00a0breaking thin\u2009space ideographic\u3000space \ufeffbom"
        " soft\u00adhyphen \u2028line"
    ),
    "control \x01\x02\x1b[31mred\x1b[0m \x7f",
    "https://example.org/a/b?c=d&e=%20f#g user.name+tag@example.co.uk C:\\Users\\x /usr/bin/env",
    "for(int i=0;i<10;++i){a[i]^=b[i]<<2|~c;} // !=== <=> ->* ::",
    '<b>bold</b> &amp; <!-- note --> {"key": [1, 2.5e3, null]} $\\frac{a}{b}$ ```code```',
    "CamelCaseIdentifier snake_case_identifier SCREAMING_CASE kebab-case-word v2.0.1-rc.3",
    "!!!???...,,,;;;---___===***///\\\\\\((()))[[]]{{}}",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    (
        "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch"
        " pneumonoultramicroscopicsilicovolcanoconiosis"
    ),
    "mixed中文and English和123数字with,标点。符号!",
]

_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    "      \t\n",
    ".,;:!?'\"()[]{}<>/\\|@#$%^&*-_=+~`",
    "éèüßñçøåæœžščłđğıİ",
    "абвгдежзийклмнопрстуфхцчшщ",
    "的一是不了人我在有他这中大来上国",
    "あいうえおカキクケコ한국어조선",
    "ابتثجحخदनपफแโไ",
    "😀🎉👍🏽\u200d\u0301\u00a0\u3000",
)


def random_texts(count: int, seed: int = 0) -> list[str]:
    """``count`` short texts that mix alphabets at random; the same for the same seed."""
    draw = random.Random(seed)
    return [
        "".join(
            "".join(draw.choices(draw.choice(_ALPHABETS), k=draw.randint(1, 6)))
            for _ in range(draw.randint(1, 12))
        )
        for _ in range(count)
    ]
