import pytest

from hf_rnn.utils.errors import DataError, HubError, ModelError, UserError, explain


def test_an_error_of_a_library_becomes_one_of_a_line_with_its_cause():
    message = r"^no answer: first second$"
    explained = explain("no answer", HubError, (OSError,))
    with pytest.raises(HubError, match=message) as caught, explained:
        raise OSError("first\n  second")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(ModelError, match=r"^damaged: KeyError$"), explain("damaged"):
        raise KeyError


def test_an_error_that_is_explained_or_not_expected_passes():
    explained = DataError("rows.csv: empty file", "rows.csv")
    with pytest.raises(DataError) as caught, explain("damaged", ModelError):
        raise explained
    assert caught.value is explained
    with pytest.raises(KeyError), explain("no answer", HubError, (OSError,)):
        raise KeyError
    with pytest.raises(KeyboardInterrupt), explain("damaged"):
        raise KeyboardInterrupt
    for error_type in (DataError, HubError, ModelError):
        assert issubclass(error_type, UserError)
