# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""Text on which tokenizers disagree if they can: a seeded mixture, the same bytes every time.

python3 tests/oracle/tokenizer_text.py OUT [BYTES]
"""
import random
import sys
import sysconfig
from pathlib import Path

WORDS = (
    "the of and a to in is you that it he was for on are as with his they I at be this have from or one "
    "had by word but not what all were we when your can said there use an each which she do how their if "
    "will up other about out many then them these so some her would make like him into time has look two "
    "more write go see number no way could people my than first water been call who oil its now find long "
    "down day did get come made may part internationalization pseudopseudohypoparathyroidism "
    "caf\u00e9 na\u00efve d\u00e9j\u00e0 \u0153uvre Stra\u00dfe \u0130stanbul \u01c5emal co\u00f6perate Zo\u00eb"
).split()
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
CODE = (
    "def f(x, *args, **kwargs):\n    return {k: v for k, v in kwargs.items() if k != 'x'}\n",
    "for (int i = 0; i < n; ++i) {\n\t\ta[i] += b[i] << 3;  // shift\n\t}\n\n\n",
    "SELECT * FROM t WHERE a >= 10 AND b <> 'it''s';\r\n",
    "<div class=\"x-y\">&nbsp;</div>\n<!-- <|not_special|> -->\n",
    "\\frac{\\partial L}{\\partial w_{ij}} = \\sum_k \\delta_k x_j \\quad\\forall\\, i\n",
    "https://example.org/a/b?c=d&e=%20f#g user.name+tag@example.co.uk\n",
    "#!/bin/sh\nset -eu; cat <<'EOF' | grep -v '^$' > \"$OUT\"\n",
)
RANGES = {
    "cjk": ((0x4E00, 0x9FA5), (0x3041, 0x3096), (0x30A1, 0x30FA), (0xAC00, 0xD7A3), (0x3400, 0x4DB5)),
    "rare": ((0x20000, 0x2A6D6), (0x10400, 0x1044F), (0x1D400, 0x1D454), (0x12000, 0x12399)),
    "arabic": ((0x0621, 0x064A), (0x064B, 0x0652), (0x0660, 0x0669), (0x0671, 0x06D3)),
    "indic": ((0x0904, 0x0939), (0x093E, 0x094D), (0x0966, 0x096F), (0x0995, 0x09B9), (0x09BE, 0x09C4)),
    "thai": ((0x0E01, 0x0E3A), (0x0E40, 0x0E4E), (0x0E50, 0x0E59)),
    "hebrew": ((0x05D0, 0x05EA), (0x05B0, 0x05BD)),
    "cyrillic": ((0x0410, 0x044F), (0x0400, 0x040F), (0x0483, 0x0487)),
    "greek": ((0x0391, 0x03A1), (0x03A3, 0x03C9), (0x1F00, 0x1F15)),
    "symbols": ((0x2190, 0x21FF), (0x2200, 0x22FF), (0x2500, 0x257F), (0x20A0, 0x20BF), (0x2460, 0x249B)),
    "numbers": ((0x00B2, 0x00B3), (0x00BC, 0x00BE), (0x2160, 0x2188), (0xFF10, 0xFF19), (0x1D7CE, 0x1D7FF)),
    "jamo": ((0x1100, 0x1112), (0x1161, 0x1175), (0x11A8, 0x11C2)),
    "composed": ((0x00C0, 0x00FF), (0x0100, 0x017F), (0x1E00, 0x1EF9), (0x212A, 0x212B), (0xF900, 0xFA0D)),
    "marks": ((0x0300, 0x036F), (0x1DC0, 0x1DC9), (0x20D0, 0x20DC), (0xFE00, 0xFE0F)),
    "any": ((0x0001, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x1FFFF)),
}
EMOJI = (
    "\U0001F600", "\U0001F44D\U0001F3FD", "\U0001F468\u200D\U0001F469\u200D\U0001F467\u200D\U0001F466",
    "\U0001F3F3\uFE0F\u200D\U0001F308", "\U0001F1E9\U0001F1EA", "\U0001F1EF\U0001F1F5", "\u2764\uFE0F",
    "\U0001F469\U0001F3FF\u200D\U0001F680", "1\uFE0F\u20E3", "\u263A", "\U0001F9D1\u200D\U0001F4BB",
    "\U0001F3F4\U000E0067\U000E0062\U000E0073\U000E0063\U000E0074\U000E007F",
)
SPACES = (" ", " ", " ", "  ", "\t", "\n", "\r\n", "\u0085", "\u00A0", "\u2028", "\u2029", "\u3000",
          "\u2003", "\u202F", "\u1680", "\u200B", "\uFEFF", "\v", "\f", "\x1c", "\x00")
BROKEN = (b"\xff", b"\x80", b"\xc3", b"\xe4\xbd", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf",
          b"\xf4\x90\x80\x80", b"\xe0\x80\xaf", b"\xf8\x88\x80\x80\x80", b"\xed\xbf\xbf\xed\xa0\x81")


def characters(rng, name, count):
    return "".join(chr(rng.randint(*rng.choice(RANGES[name]))) for _ in range(count))


def is_assigned(text, known):
    return "".join(c for c in text if known(c))


def piece(rng):
    kind = rng.randrange(20)
    if kind < 6:
        words = [rng.choice(WORDS) for _ in range(rng.randint(4, 30))]
        words = [w.upper() if rng.random() < 0.03 else w.title() if rng.random() < 0.1 else w for w in words]
        return " ".join(words) + rng.choice((". ", ".\n", "? ", "!\n\n", "; ", "...\n"))
    if kind == 6:
        return rng.choice(CODE)
    if kind == 7:
        mark = rng.choice(("'", "'", "\u2019"))
        tail = rng.choice(CONTRACTIONS + ("'\u017f", "'S", "'Re", "'lL", "'x", "'"))
        tail = mark + tail[1:]
        return rng.choice(WORDS) + (tail.upper() if rng.random() < 0.4 else tail) + rng.choice(("", " ", "a"))
    if kind == 8:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 6)))
    if kind == 9:
        return rng.choice((" ", "\n", "\t", "\r\n", "\u00A0", " \n")) * rng.choice((2, 3, 7, 16, 40, 100, 300))
    if kind == 10:
        return "".join(rng.choice("0123456789") for _ in range(rng.choice((1, 2, 3, 4, 7, 10, 40)))) + rng.choice(
            ("", ".", ",", "%", "e-5", "\u00B2"))
    if kind == 11:
        return "".join(rng.choice(EMOJI) for _ in range(rng.randint(1, 5)))
    if kind == 12:
        base = rng.choice("aeiounAEO\u0438\u0905\u03B1 \u00E9\u1EA1")
        return base + characters(rng, "marks", rng.randint(1, 4))
    if kind == 13:
        return "".join(rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") for _ in range(rng.randint(1, 12)))
    if kind == 14:
        return characters(rng, "any", rng.randint(1, 6))
    name = rng.choice(("cjk", "cjk", "arabic", "indic", "thai", "hebrew", "cyrillic", "greek", "symbols",
                       "numbers", "jamo", "composed", "rare"))
    return characters(rng, name, rng.randint(1, 25)) + rng.choice(("", " ", "\u3002", "\n"))


def sources(limit):
    """Code that every Python ships: real, and the same wherever the version is."""
    text = b""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) > limit:
            break
    return text[:limit]


def mixed_text(size=1_500_000, seed=1, known=lambda c: True):
    """Bytes: three quarters seeded mixture with invalid UTF-8 in it, one quarter program text.

    known(c) says whether both sides have the character in their tables of Unicode.
    """
    rng = random.Random(seed)
    out = bytearray()
    while len(out) < size * 3 // 4:
        out += is_assigned(piece(rng), known).encode("utf-8")
        if rng.random() < 0.01:
            out += rng.choice(BROKEN)
    return bytes(out) + sources(size - len(out))


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(mixed_text(int(sys.argv[2]) if len(sys.argv) > 2 else 1_500_000))
