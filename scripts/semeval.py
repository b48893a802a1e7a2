"""Give raw tweets the form of the SemEval-2016 files of the source tutorial.

    import semeval  # registers the normalizer, for a program beside this file
    hf_rnn.train("tweets", "out", recipe="scratch", normalizer="semeval")

Lower case, words of `a-z ' - .` only, and the placeholders `<<<MENTION>>>`, `<<<HASHTAG>>>`,
`<<<URL>>>`, `<<<DIGIT>>>`, which alone `lowercase` decides. Everything else (emoji, words with a
digit or an accent) is dropped, as in the tutorial. The rules were learnt from 6,000 aligned rows.
Their tweets were cut by a tweet tokenizer, then each token was kept, replaced or dropped. These
rules mark the places where that tokenizer cut, and drop at the end.
"""

from tokenizers import normalizers
from tokenizers.normalizers import Lowercase, Normalizer, Replace
from tokenizers.pre_tokenizers import PreTokenizer, WhitespaceSplit

from hf_rnn.tokenizers.normalizers import NORMALIZERS, replace

# cut off at the edge of a word; within a word they make it a word to drop
_EDGE = "[\"'“”‘’«»{}()\\[\\]*&]"
_RUN = r'[^\s.,?"]'  # characters that continue a word with an apostrophe
_END = r'(?![^\s“"?!,:;])'  # after the last dot of an abbreviation
_INITIAL = r"(?:^|\W)[a-zA-Z]"  # no lookbehind, which Oniguruma refuses in a lookbehind
_TITLE = r"(?:^|\W)(?:[mMsSdDjJ][rR]|[mM]r?s|[rR]ep|[sS]en|[sS]t)"
_PLACEHOLDERS = ("url", "mention", "hashtag", "digit")
_NAMES = f"(?:{'|'.join(_PLACEHOLDERS)})"


def _lower_placeholder(name: str) -> Normalizer:
    """Return the rule that writes a placeholder in lower case, with a space after it."""
    letters = "".join(f"[{letter}{letter.upper()}]" for letter in name)
    return replace(f"<<<{letters}>>>", f"<<<{name}>>> ")


def build_semeval(lowercase: bool) -> tuple[Normalizer, PreTokenizer]:
    """Return the two stages of the normalizer."""
    capitals = []
    if not lowercase:
        capitals = [Replace(f"<<<{name}>>>", f"<<<{name.upper()}>>>") for name in _PLACEHOLDERS]
    opening = rf"<(?!<<{_NAMES}>>>|(?<=<<)<{_NAMES}>>>|(?<=<<<){_NAMES}>>>)"
    closing = rf">(?!(?<=<<<{_NAMES}>)>>|(?<=<<<{_NAMES}>>)>|(?<=<<<{_NAMES}>>>))"
    rules = [
        replace(r"&(?:amp;)+", "&"),
        Replace("&lt;", "<"),
        Replace("&gt;", ">"),
        replace(r"&(?:#0*39|#[xX]0*27|apos);", "'"),
        replace(r"&(?:quot|nbsp|#160);"),
        replace(rf"(?<![^\s:;.,]){_EDGE}+(?=[a-zA-Z0-9])|(?<=[a-zA-Z0-9]){_EDGE}+(?![^\s:;.,])"),
        replace(r"(?:[hH][tT][tT][pP][sS]?://|[wW][wW][wW]\.)[^\s<>]+", " <<<url>>> "),
        # "can't" stays; in "couldn't!" the apostrophe ties the mark to the word, and both are
        # dropped
        replace(rf"""(?<!{_RUN})(?![@#]|[a-zA-Z'-]+(?!{_RUN}))[^\s.,?"'’]+['’]{_RUN}*"""),
        # e-mail
        replace(r"(?<![a-zA-Z0-9._%+-])[a-zA-Z0-9._%+-]+@[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+"),
        replace(rf"[@＠]\w+(?:['’]{_RUN}*)?|(?<!\()@(?!\S)", " <<<mention>>> "),
        replace(rf"#\w+(?:['’]{_RUN}*)?|#(?![^\s:;,.!?])", " <<<hashtag>>> "),
        # times, decimals, thousands: dropped, not <<<digit>>>
        replace(r"(?<![0-9])[0-9]+(?:[.:,][0-9]+)+"),
        # emoticons with letters, before their letters look like words
        replace(
            r"(?<![0-9])[:;=](?:[^a-zA-Z0-9 ]|[oO])?(?:D+|(?:[pPd3]+|[oO]+|[vV]+|[sS]+)(?!\w))|<3+"
        ),
        # a dot stays after a title (mr.) and in initials (u.s., e.g), and separates everywhere else
        replace(
            rf"(?!(?<={_TITLE})\.|(?<={_INITIAL})\.(?:[a-zA-Z]|(?<={_INITIAL}\.[a-zA-Z]\.))"
            rf"(?:\.[a-zA-Z]){{0,8}}\.?{_END})\."
        ),
        *map(_lower_placeholder, _PLACEHOLDERS),
        replace(rf'[,!?:;…“”‘’"~–—―=←-⇿♫♪★☆♥❤♡☹-☻]|{opening}|{closing}|--+|->'),
        Lowercase(),
        replace(r"(?<!\S)[0-9]+(?!\S)", "<<<digit>>>"),
        # drop everything that is neither a word nor a placeholder
        replace(rf"(?<!\S)(?!(?:(?=['.-]*[a-z])[a-z'.-]+|<<<{_NAMES}>>>)(?!\S))\S+"),
        *capitals,
    ]
    return normalizers.Sequence(rules), WhitespaceSplit()


NORMALIZERS["semeval"] = build_semeval
