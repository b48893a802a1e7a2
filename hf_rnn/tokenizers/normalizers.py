r"""Normalisers: how a text is cleaned and cut into words, of parts that `tokenizer.json` can store.

A normaliser is an entry of `NORMALIZERS`: a function that builds a normaliser (rewrites the text)
and a pre-tokeniser (cuts it into words) of the `tokenizers` library. So the tokenizer works without
this package, and rules are replacements by constants: they can delete, mark or insert, but not
compute.

Patterns use only the syntax that Oniguruma (`tokenizers`) shares with JavaScript's `u` flag
(transformers.js): no possessive quantifiers, atomic groups, `\K`, `\X` or `(?i:...)`. `\w` and `\s`
differ, so `replace` writes them out. A match starts only where a run starts, so time is linear in
the length.
"""

from collections.abc import Callable

from tokenizers import Regex, normalizers
from tokenizers.normalizers import Lowercase, Normalizer, Replace
from tokenizers.pre_tokenizers import PreTokenizer, Split, WhitespaceSplit

CAPITAL, ALL_CAPITALS = "⇧⇪"  # tokens before words


def build_normalizer(name: str, lowercase: bool) -> tuple[Normalizer, PreTokenizer]:
    """Return the two stages of an entry of `NORMALIZERS`.

    - `none`: the text as it is, cut at white space. A word `<pad>` becomes `<unk>`: text is never
      padding.
    - `cased`: for tags of words. Nothing is replaced. Words, punctuation marks, URLs, handles,
      hashtags and emoticons are tokens of their own. With `lowercase`, a token ⇧ precedes a word
      that had a capital, and ⇪ one that began with two.
    - `tweet`: nothing is dropped. HTML entities are decoded; URLs, handles and numbers become
      `<url>`, `<user>`, `<number>`; of a character three times or more in a row two remain (`soooo`
      → `soo`). Words, punctuation marks, emoticons and emoji are tokens of their own, so `#word` is
      two.
    """
    return NORMALIZERS[name](lowercase)


def _portable(pattern: str) -> Regex:
    """Write out the classes that JavaScript defines differently."""
    word = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}²³¹¼½¾"  # Oniguruma's \w
    classes = {
        r"\w": f"[{word}]",
        r"\W": f"[^{word}]",
        r"\s": r"\p{White_Space}",
        r"\S": r"\P{White_Space}",
    }
    for short, written in classes.items():
        pattern = pattern.replace(short, written)
    return Regex(pattern)


def replace(pattern: str, content: str = " ") -> Normalizer:
    """Return the rule that writes a constant in place of each match of a pattern."""
    return Replace(_portable(pattern), content)


def _build_none(lowercase: bool) -> tuple[Normalizer, PreTokenizer]:
    case = [Lowercase()] if lowercase else []
    return normalizers.Sequence(
        [*case, Replace(Regex(r"(?<!\S)<pad>(?!\S)"), "<unk>")]
    ), WhitespaceSplit()


# tweet: patterns and what is written in their place, in this order. The backslash forms are
# spellings in some published tweet files. A rule without a match costs 0.3 us per tweet, so rare
# characters share one rule.
_TWEET_RULES = (
    (r"&(?:amp;)+", "&"),  # first: tweets are often escaped twice
    ("&lt;", "<"),
    ("&gt;", ">"),
    (r"\\u2019|\\u2018|’|‘|&#39;|&#039;|&#x27;|&apos;|&rsquo;|&lsquo;|&#8217;|&#8216;", "'"),
    (r'\\"|\\u201c|\\u201d|“|”|&quot;|&#34;|&ldquo;|&rdquo;|&#8220;|&#8221;', '"'),
    (r"\\u002c", ","),
    (r"\\n|&nbsp;|&#160;", " "),
    (r'[hH][tT][tT][pP][sS]?://[^\s<>")\]]+', "<url>"),
    (r'[wW][wW][wW]\.[^\s<>")\]]+', "<url>"),
    (r"@\w+", "<user>"),
    # 7, 3.39, 82,000, 7:40 in 7:40pm; not b4, 2nd, <3, </3, :3
    (r"(?<!\w)(?!(?<=<|</|(?:^|\W)[:;=])3(?!\w))[0-9]+(?:(?:[.,:][0-9]+)+|(?!\w))", "<number>"),
)
_WORDS = "|".join(
    (
        r"\w+(?:'\w+)*",  # don't, b4, xD, T_T
        r"\.\.?|!!?|\?\??",
        # <<<MENTION>>> of prepared files is one word
        r"<(?:url>|user>|number>|eos>|3|/3|<<\w+>>>)",
        # :) :-( :'( >:( :* :3 ;P (: -_- ^^ >_< \o/
        r"[>}]?[:;=][-o*'^]?(?:[)(\[\]{}@|/\\*]+|[dDpPoOsSxXcC3](?!\w))|\([-o*'^]?[:;=]|-_+-|\^_*\^|>_+<|\\[oO]/",
        r"[!-/:-@\[-`{-~]",
    )
)


def _build_tweet(lowercase: bool) -> tuple[Normalizer, PreTokenizer]:
    rules = [replace(pattern, content) for pattern, content in _TWEET_RULES]
    rules += [Lowercase()] if lowercase else []
    # each character of a row before its last two, except in <<<MENTION>>>; U+FE0F only asks for a
    # coloured picture
    rules.append(replace(r"(?!<<<\w|(?<=\w)>>>)([^\n])(?=\1\1)|\uFE0F", ""))
    # words, then signs: an emoji with its skin tone, or a family of them, is one (Unicode's
    # grapheme)
    extend = "\\p{M}\u200c\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"
    flag = "[\U0001f1e6-\U0001f1ff]"
    joiner = "\u200d"
    picture = r"\p{Extended_Pictographic}"
    signs = (
        f"{flag}{{2}}(?={flag})",  # in a row of flags
        f"(?:{flag}{{1,2}}|{picture}(?:[{extend}]*{joiner}{picture})*)[{extend}{joiner}]*",
        rf"(?![{extend}{joiner}])[\p{{Cc}}\p{{Cf}}](?<!\s)",
        rf"\S[{extend}{joiner}]*",
    )
    words = Split(_portable("|".join((_WORDS, *signs))), "removed", invert=True)
    return normalizers.Sequence(rules), words


def plain_placeholders() -> list[Normalizer]:
    """Return rules that write handles, links and placeholders in words that BERT's pieces know.

    A handle becomes `@user` and a link `http`. Other placeholders of the tutorial's files become
    their sign.
    """
    rules = (
        (r"<<<(?:MENTION|mention)>>>|(?<!\w|@)@\w+", "@user"),
        (r"<<<(?:URL|url)>>>|[hH][tT][tT][pP][sS]?://\S+|(?<!\w)[wW][wW][wW]\.\S+", "http"),
        ("<<<(?:HASHTAG|hashtag)>>>", "#"),
        ("<<<(?:DIGIT|digit)>>>", "0"),
    )
    return [replace(pattern, content) for pattern, content in rules]


def capital_marks() -> list[Normalizer]:
    """Return rules that put ⇧ before a word with a capital, and ⇪ before one with two."""
    rules = []
    for capital in map(chr, range(ord("A"), ord("Z") + 1)):
        # a rule per letter, as a replacement is a constant
        start = rf"(?<![\p{{L}}\p{{N}}])(?<!<<<){capital}"
        rules.append(replace(rf"{start}(?=\p{{Lu}})", ALL_CAPITALS + capital.lower()))
        rules.append(replace(start, CAPITAL + capital.lower()))
    return rules


def _build_cased(lowercase: bool) -> tuple[Normalizer, PreTokenizer]:
    rules: list[Normalizer] = [Replace("\ufe0f", "")]
    rules += [*capital_marks(), Lowercase()] if lowercase else []
    words = "|".join(
        (f"[{CAPITAL}{ALL_CAPITALS}]", r"https?://\S+|www\.\S+", r"[@#]\w+", _WORDS, r"\S")
    )
    return normalizers.Sequence(rules), Split(_portable(words), "removed", invert=True)


NORMALIZERS: dict[str, Callable[[bool], tuple[Normalizer, PreTokenizer]]] = {
    "none": _build_none,
    "tweet": _build_tweet,
    "cased": _build_cased,
}
