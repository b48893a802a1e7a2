r"""Named ways to clean a text before its words are looked up, made only of parts that `tokenizer.json` can store.

Each name stands for a normaliser (rewrites the text) and a pre-tokeniser (cuts it into words), so that whoever loads
the tokenizer gets both without this package. That is also why the rules are replacements by constants and not Python
code: a rule can delete, mark or insert, but it cannot compute.

Patterns use only what Oniguruma, which reads them in `tokenizers`, has in common with JavaScript's `u` flag, which
reads them in transformers.js: no possessive quantifiers, atomic groups, `\K`, `\X` or `(?i:...)`. `\w` and `\s` differ
there, so `_replace` writes them out. A match starts only where a run starts, so time is linear in the length.
"""

import re

from tokenizers import Regex, normalizers
from tokenizers.normalizers import Lowercase, Normalizer, Replace
from tokenizers.pre_tokenizers import PreTokenizer, Split, WhitespaceSplit

NORMALIZERS = ("none", "semeval", "tweet")


def build_normalizer(name: str, lowercase: bool) -> tuple[Normalizer, PreTokenizer]:
    """Build the two stages that turn a text into words.

    Args:
        name: One of `NORMALIZERS`.

            - `none`: the text as it is, cut at white space. A word `<pad>` becomes `<unk>`: text is never padding.
            - `semeval`: a raw tweet becomes the form in which the SemEval-2016 files of the source tutorial are:
              lower case, words of `a-z ' - .` only, and the placeholders `<<<MENTION>>>`, `<<<HASHTAG>>>`,
              `<<<URL>>>`, `<<<DIGIT>>>`. It gives the tutorial's vocabulary to raw text. Everything else (emoji, words
              with a digit or an accent) is dropped, as it was there.
            - `tweet`: nothing is dropped. HTML entities are decoded, URLs, handles and numbers become `<url>`,
              `<user>`, `<number>`, a character that comes three times or more in a row is kept twice (`soooo` →
              `soo`). Words, punctuation marks, emoticons and emoji are tokens of their own, so `#word` is two.
        lowercase: Lower the case. The words of `semeval` are always lower case; there it concerns the placeholders
            only, which the files have in capitals.

    Returns:
        The normaliser and the pre-tokeniser.
    """
    rules = {"none": _none_rules, "semeval": _semeval_rules, "tweet": _tweet_rules}[name](lowercase)
    return normalizers.Sequence(rules), _tweet_words() if name == "tweet" else WhitespaceSplit()


def _portable(pattern: str) -> Regex:
    """Write out the classes that JavaScript defines otherwise."""
    word = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}²³¹¼½¾"  # Oniguruma's \w
    classes = {r"\w": f"[{word}]", r"\W": f"[^{word}]", r"\s": r"\p{White_Space}", r"\S": r"\P{White_Space}"}
    for short, written in classes.items():
        pattern = pattern.replace(short, written)
    return Regex(pattern)


def _replace(pattern: str, content: str = " ") -> Normalizer:
    return Replace(_portable(pattern), content)


def _none_rules(lowercase: bool) -> list[Normalizer]:
    case = [Lowercase()] if lowercase else []
    return [*case, Replace(Regex(r"(?<!\S)<pad>(?!\S)"), "<unk>")]


# semeval: learnt from 6,000 aligned rows: the tweets were cut by a tweet tokenizer, then each token was kept,
# replaced by a placeholder or dropped. What follows marks the places where that tokenizer cut, and drops at the end.
_EDGE = "[\"'“”‘’«»{}()\\[\\]*&]"  # cut off at the edge of a word; within a word they make it a word to drop
_RUN = r'[^\s.,?"]'  # what a word with an apostrophe can run over
_END = r'(?![^\s“"?!,:;])'  # what may follow the last dot of an abbreviation
_INITIAL = r"(?:^|\W)[a-zA-Z]"  # no lookbehind, which Oniguruma refuses in a lookbehind
_TITLE = r"(?:^|\W)(?:[mMsSdDjJ][rR]|[mM]r?s|[rR]ep|[sS]en|[sS]t)"
_PLACEHOLDERS = ("url", "mention", "hashtag", "digit")
_NAMES = f"(?:{'|'.join(_PLACEHOLDERS)})"


def _semeval_rules(lowercase: bool) -> list[Normalizer]:
    capitals = [] if lowercase else [Replace(f"<<<{name}>>>", f"<<<{name.upper()}>>>") for name in _PLACEHOLDERS]
    opening = rf"<(?!<<{_NAMES}>>>|(?<=<<)<{_NAMES}>>>|(?<=<<<){_NAMES}>>>)"
    closing = rf">(?!(?<=<<<{_NAMES}>)>>|(?<=<<<{_NAMES}>>)>|(?<=<<<{_NAMES}>>>))"
    return [
        _replace(r"&(?:amp;)+", "&"),
        Replace("&lt;", "<"),
        Replace("&gt;", ">"),
        _replace(r"&(?:#0*39|#[xX]0*27|apos);", "'"),
        _replace(r"&(?:quot|nbsp|#160);"),
        _replace(rf"(?<![^\s:;.,]){_EDGE}+(?=[a-zA-Z0-9])|(?<=[a-zA-Z0-9]){_EDGE}+(?![^\s:;.,])"),
        _replace(r"(?:[hH][tT][tT][pP][sS]?://|[wW][wW][wW]\.)[^\s<>]+", " <<<url>>> "),
        # "can't" stays; in "couldn't!" the apostrophe ties the mark to the word, and both are dropped
        _replace(rf"""(?<!{_RUN})(?![@#]|[a-zA-Z'-]+(?!{_RUN}))[^\s.,?"'’]+['’]{_RUN}*"""),
        _replace(r"(?<![a-zA-Z0-9._%+-])[a-zA-Z0-9._%+-]+@[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+"),  # e-mail
        _replace(rf"[@＠]\w+(?:['’]{_RUN}*)?|(?<!\()@(?!\S)", " <<<mention>>> "),
        _replace(rf"#\w+(?:['’]{_RUN}*)?|#(?![^\s:;,.!?])", " <<<hashtag>>> "),
        _replace(r"(?<![0-9])[0-9]+(?:[.:,][0-9]+)+"),  # times, decimals, thousands: dropped, not <<<digit>>>
        # emoticons with letters, before their letters look like words
        _replace(r"(?<![0-9])[:;=](?:[^a-zA-Z0-9 ]|[oO])?(?:D+|(?:[pPd3]+|[oO]+|[vV]+|[sS]+)(?!\w))|<3+"),
        # a dot stays after a title (mr.) and in initials (u.s., e.g), and separates everywhere else
        _replace(
            rf"(?!(?<={_TITLE})\.|(?<={_INITIAL})\.(?:[a-zA-Z]|(?<={_INITIAL}\.[a-zA-Z]\.))"
            rf"(?:\.[a-zA-Z]){{0,8}}\.?{_END})\."
        ),
        *(
            _replace(f"<<<{''.join(f'[{letter}{letter.upper()}]' for letter in name)}>>>", f"<<<{name}>>> ")
            for name in _PLACEHOLDERS
        ),
        _replace(rf'[,!?:;…“”‘’"~–—―=←-⇿♫♪★☆♥❤♡☹-☻]|{opening}|{closing}|--+|->'),
        Lowercase(),
        _replace(r"(?<!\S)[0-9]+(?!\S)", "<<<digit>>>"),
        # what is neither a word nor a placeholder goes
        _replace(rf"(?<!\S)(?!(?:(?=['.-]*[a-z])[a-z'.-]+|<<<{_NAMES}>>>)(?!\S))\S+"),
        *capitals,
    ]


# tweet: what other signs are written as, what becomes a placeholder, each in this order, and what is a word; these
# patterns mean the same to Python's `re`, of the characters that `inference/tweet_words.py` knows. The backslash forms
# are how some published tweet files write these signs.
TWEET_SIGNS: tuple[tuple[re.Pattern[str] | str, str], ...] = (
    (re.compile(r"&(?:amp;)+"), "&"),  # first: tweets are often escaped twice
    ("&lt;", "<"),
    ("&gt;", ">"),
    (re.compile(r"\\u2019|\\u2018|’|‘|&#39;|&#039;|&#x27;|&apos;|&rsquo;|&lsquo;|&#8217;|&#8216;"), "'"),
    (re.compile(r'\\"|\\u201c|\\u201d|“|”|&quot;|&#34;|&ldquo;|&rdquo;|&#8220;|&#8221;'), '"'),
    (r"\u002c", ","),
    (re.compile(r"\\n|&nbsp;|&#160;"), " "),
)
TWEET_PLACEHOLDERS = (
    (r'[hH][tT][tT][pP][sS]?://[^\s<>")\]]+', "<url>"),
    (r'[wW][wW][wW]\.[^\s<>")\]]+', "<url>"),
    (r"@\w+", "<user>"),
    # 7, 3.39, 82,000, 7:40 in 7:40pm; not b4, 2nd, <3
    (r"(?<!\w)(?!(?<=<)3(?!\w))[0-9]+(?:(?:[.,:][0-9]+)+|(?!\w))", "<number>"),
)
TWEET_WORDS = "|".join(
    (
        r"\w+(?:'\w+)*",  # don't, b4
        r"\.\.?|!!?|\?\??",
        r"<(?:url>|user>|number>|3)",
        r"[:;=][-o*'^]?(?:[)(\[\]{}@|/\\]+|[dDpPoOsS](?!\w))|\([-o*'^]?[:;=]|-_+-|\^_*\^|>_+<",  # faces
        r"[!-/:-@\[-`{-~]",
    )
)


# A rule that finds nothing costs 0.3 us a tweet, so that rare characters share one rule.
def _tweet_rules(lowercase: bool) -> list[Normalizer]:
    case = [Lowercase()] if lowercase else []
    return [
        *(
            _replace(written.pattern, sign) if isinstance(written, re.Pattern) else Replace(written, sign)
            for written, sign in TWEET_SIGNS
        ),
        *(_replace(pattern, placeholder) for pattern, placeholder in TWEET_PLACEHOLDERS),
        *case,
        _replace(r"([^\n])(?=\1\1)|\uFE0F", ""),  # U+FE0F only asks for a coloured picture of the same sign
    ]


def _tweet_words() -> PreTokenizer:
    """Cut out words, then signs: an emoji with its skin tone, or a family of them, is one (Unicode's grapheme)."""
    extend = "\\p{M}\u200c\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"
    flag, joiner, picture = "[\U0001f1e6-\U0001f1ff]", "\u200d", r"\p{Extended_Pictographic}"
    signs = (
        f"{flag}{{2}}(?={flag})",  # in a row of flags
        f"(?:{flag}{{1,2}}|{picture}(?:[{extend}]*{joiner}{picture})*)[{extend}{joiner}]*",
        rf"(?![{extend}{joiner}])[\p{{Cc}}\p{{Cf}}](?<!\s)",
        rf"\S[{extend}{joiner}]*",
    )
    return Split(_portable("|".join((TWEET_WORDS, *signs))), "removed", invert=True)
