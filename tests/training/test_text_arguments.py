"""Which texts to read: one place is named, its columns are found, and a limit on leaks is a share."""

import pytest

from hf_rnn.training.arguments.run_arguments import parse_argv, parse_settings
from hf_rnn.training.arguments.text_arguments import DataArguments, TableArguments
from hf_rnn.utils.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "data_dir is not set.*dataset_name"),
        ({"data_dir": "nowhere"}, "data_dir nowhere does not exist"),
        ({"data_dir": ".", "dataset_name": "me/x"}, "both set: give one"),
        ({"data_dir": ".", "dataset_config": "en"}, "dataset_config en needs .* dataset_name"),
    ],
)
def test_one_place_of_texts(settings, message):
    with pytest.raises(UserError, match=message):
        TableArguments(**settings).check_source()


def test_columns_by_number_or_name():
    layout = TableArguments(text_column="2", label_column="mood", header=True).layout()
    assert (layout["text_column"], layout["label_column"], layout["header"]) == (2, "mood", True)
    assert TableArguments(data_dir=".").layout()["label_column"] is None
    assert TableArguments(data_dir=".", label_column="1").layout()["label_column"] == 1
    named = TableArguments(dataset_name="me/x", max_bad_rows="3", label_column="mood").layout(named=True)
    assert named == {"text_column": "text", "label_column": "mood", "max_bad_rows": "3"}


@pytest.mark.parametrize(
    ("written", "share"), [("1%", 0.01), ("0.01", 0.01), ("0", 0.0), ("0%", 0.0), ("100%", 1.0), (" 2.5 %", 0.025)]
)
def test_a_limit_on_leaks_is_a_share(written, share):
    assert DataArguments(fail_on_leak=written).leak_limit() == pytest.approx(share)


@pytest.mark.parametrize("written", ["1", "5", "-1%", "101%", "few", "nan", "inf", "%", ""])
def test_what_is_no_share_is_refused(written):
    with pytest.raises(UserError, match="fail_on_leak.*such as 1% or 0.01"):
        DataArguments(fail_on_leak=written)


def test_no_limit_on_leaks():
    assert DataArguments().leak_limit() is None


@pytest.mark.parametrize("written", ["dataset_name: me/x\ndataset_config: en\n", "data_dir: texts\n"])
def test_a_flag_for_the_place_of_the_texts_replaces_a_recipes(tmp_path, written):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(written)
    given = {"data_dir": "other"} if "dataset" in written else {"dataset_name": "me/other"}
    ((flag, value),) = given.items()
    for data in (
        parse_argv(["--recipe", str(recipe), f"--{flag}", value, "--output_dir", "out"]).data,
        parse_settings({"recipe": str(recipe), **given, "output_dir": "out"}).data,
    ):
        assert (data.data_dir, data.dataset_name, data.dataset_config) == (
            given.get("data_dir"),
            given.get("dataset_name"),
            None,
        )
