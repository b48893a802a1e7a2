"""The normaliser `semeval`: a raw tweet gets the form of the SemEval-2016 files of the source tutorial.

Lower case, words of `a-z ' - .` only, and the placeholders `<<<MENTION>>>`, `<<<HASHTAG>>>`, `<<<URL>>>`,
`<<<DIGIT>>>`. Everything else (emoji, words with a digit or an accent) is dropped, as in the tutorial.

Learnt from 6,000 aligned rows. Their tweets were cut by a tweet tokenizer, then each token was kept, replaced by a
placeholder or dropped. These rules mark the places where that tokenizer cut, and drop at the end.
"""

from tokenizers import Regex, normalizers
from tokenizers.normalizers import Lowercase, Normalizer, Replace

_EDGE = "[\"'“”‘’«»{}()\\[\\]*&]"  # cut off at the edge of a word; within a word they make it a word to drop
_RUN = r'[^\s.,?"]'  # characters that continue a word with an apostrophe
_END = r'(?![^\s“"?!,:;])'  # after the last dot of an abbreviation
_INITIAL = r"(?:^|\W)[a-zA-Z]"  # no lookbehind, which Oniguruma refuses in a lookbehind
_TITLE = r"(?:^|\W)(?:[mMsSdDjJ][rR]|[mM]r?s|[rR]ep|[sS]en|[sS]t)"
_PLACEHOLDERS = ("url", "mention", "hashtag", "digit")
_NAMES = f"(?:{'|'.join(_PLACEHOLDERS)})"


def _replace(pattern: str, content: str = " ") -> Normalizer:
    return Replace(Regex(pattern), content)


def build_semeval(lowercase: bool) -> Normalizer:
    """Return the rules; `lowercase` concerns only the placeholders, which are capitals in the tutorial's files."""
    capitals = [] if lowercase else [Replace(f"<<<{name}>>>", f"<<<{name.upper()}>>>") for name in _PLACEHOLDERS]
    opening = rf"<(?!<<{_NAMES}>>>|(?<=<<)<{_NAMES}>>>|(?<=<<<){_NAMES}>>>)"
    closing = rf">(?!(?<=<<<{_NAMES}>)>>|(?<=<<<{_NAMES}>>)>|(?<=<<<{_NAMES}>>>))"
    rules = [
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
        # drop everything that is neither a word nor a placeholder
        _replace(rf"(?<!\S)(?!(?:(?=['.-]*[a-z])[a-z'.-]+|<<<{_NAMES}>>>)(?!\S))\S+"),
        *capitals,
    ]
    return normalizers.Sequence(rules)
