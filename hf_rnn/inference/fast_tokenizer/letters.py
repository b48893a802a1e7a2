"""Letters whose lower case and kind are the same to Python and to a tokenizer, whatever Unicode each is of.

Latin, Greek, Cyrillic, Hebrew, Arabic, kana, Chinese, Hangul. Not among them is the capital sigma, which Python lowers
by its place in the word.
"""

LETTERS = (  # as they stand in brackets in a pattern
    r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u012f\u0131-\u024f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a4-\u03ce"
    r"\u0400-\u0481\u048a-\u04ff\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fd5"
    r"\uac00-\ud7a3"
)
