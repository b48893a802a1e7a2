"""A text is never read as another: encodings are found, refused, or logged as a guess."""

import logging

import pytest

from hf_rnn.data.load import load_tsv
from hf_rnn.data.read import read_table
from hf_rnn.data.report import DataReport
from hf_rnn.utils.errors import DataError

# Article 1 of the Universal Declaration of Human Rights
ARTICLES = {
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. "
    "Sie sind mit Vernunft "
    "und Gewissen begabt und sollen einander im Geiste der Brüderlichkeit begegnen.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits. "
    "Ils sont doués "
    "de raison et de conscience et doivent agir envers leurs frères et sœurs.",
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, "
    "dotados como "
    "están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
    "Polish": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. "
    "Są oni "
    "obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "Czech": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv. "
    "Jsou nadáni rozumem "
    "a svědomím a mají spolu jednat v duchu bratrství.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены "
    "разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Arabic": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "Chinese": "人人生而自由,在尊严和权利上一律平等。"
    "他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "Japanese": "すべての人間は、生まれながらにして自由であり、"
    "かつ、尊厳と権利とについて平等である。",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
}
FOUND = [("German", "utf-8"), ("Russian", "utf-8-sig"), ("Chinese", "utf-16"), ("German", "cp1252")]
FOUND += [("French", "cp1252"), ("Spanish", "latin-1")]
ASKED = [("Russian", "cp1251"), ("Russian", "koi8-r"), ("Polish", "cp1250"), ("Czech", "iso8859-2")]
ASKED += [("Greek", "cp1253"), ("Arabic", "cp1256"), ("Chinese", "gbk"), ("Japanese", "shift_jis")]
ASKED += [("Korean", "euc-kr"), ("Thai", "cp874")]


def save(path, language, encoding):
    """Write the words of an article in rows of five; return the texts."""
    words = ARTICLES[language].split(" ")
    texts = [" ".join(words[start : start + 5]) for start in range(0, len(words), 5)]
    lines = "".join(f"{text};{number}\n" for number, text in enumerate(texts))
    path.write_bytes(f"text;label\n{lines}".encode(encoding))
    return texts


@pytest.mark.parametrize(("language", "encoding"), FOUND)
def test_an_encoding_is_found_and_a_guess_is_logged(tmp_path, caplog, language, encoding):
    texts = save(tmp_path / "a.csv", language, encoding)
    assert read_table(tmp_path / "a.csv").cells("text") == texts
    if encoding.startswith("utf"):
        assert not caplog.messages
    else:
        assert (
            "cp1252 is a guess" in caplog.text
            and next(text for text in texts if not text.isascii()) in caplog.text
        )


@pytest.mark.parametrize(("language", "encoding"), ASKED)
def test_another_encoding_is_asked_for(tmp_path, language, encoding):
    texts = save(tmp_path / "a.csv", language, encoding)
    with pytest.raises(DataError, match="give its encoding, such as --encoding"):
        read_table(tmp_path / "a.csv")
    assert read_table(tmp_path / "a.csv", encoding=encoding).cells("text") == texts


FILLER = b"nothing but ASCII here;0\n" * 50_000  # over a mebibyte


@pytest.mark.parametrize(
    ("lines", "bad"),
    [
        ([b"caf\xe9;1\n", FILLER, "schöner Tag;1\n".encode() * 5], [2]),
        ([b"caf\xe9;1\n", b"na\xefve;0\n", "schöner Tag;1\n".encode()], [2, 3]),
        (["schöner Tag;1\n".encode(), b"caf\xe9;1\n"], [3]),
    ],
)
def test_a_line_of_utf8_is_never_read_otherwise(tmp_path, lines, bad):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text;label\n" + b"".join(lines))
    table = read_table(path)
    assert [row.line for row in table.rejected.values()] == bad
    texts = table.cells("text")
    assert "schöner Tag" in texts and not any("Ã" in (text or "") for text in texts)
    with pytest.raises(DataError, match=rf"a.csv:{bad[0]}: not UTF-8: .*--encoding"):
        load_tsv(path, report=DataReport())


def test_a_named_encoding_needs_no_guess(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    texts = save(tmp_path / "a.csv", "German", "cp1252")
    assert read_table(tmp_path / "a.csv", encoding="cp1252").cells("text") == texts
    assert not caplog.messages
