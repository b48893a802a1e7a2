"""TSV files of a few rows, and how to read them."""

from hypothesis import HealthCheck, settings

from hf_rnn.data.load import load_tsv

GOOD = b"good day\tpositive\nbad day\tnegative\n"
NAMES = ["negative", "positive"]

SAME_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, content):
    path.write_bytes(content)
    return str(path)


def load_train(path, **options):
    """Return the rows of one file of training rows, as (text, label name)."""
    train = load_tsv({"train": path}, splits=["train"], **options)["train"]
    names = train.features["label"].names
    return [(row["text"], names[row["label"]]) for row in train]
