"""Other libraries around a model of this package; each is skipped where it is not installed."""

import pytest
from conftest import invent_rows

from hf_rnn import RnnClassifier

pytestmark = pytest.mark.slow
TEXTS, LABELS = (list(column) for column in zip(*invent_rows(90, 5), strict=True))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    settings = {"embedding_size": 16, "hidden_size": 8, "num_train_epochs": 3, "learning_rate": 0.02}
    return RnnClassifier(recipe="scratch", random_state=0, verbose=False, **settings).fit(TEXTS, LABELS)


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    yield mlflow
    mlflow.sklearn.autolog(disable=True)


def test_mlflow_saves_and_serves_the_estimator(mlflow, fitted):
    """By its flavours sklearn and pyfunc."""
    with mlflow.start_run():
        saved = mlflow.sklearn.log_model(fitted, name="model", serialization_format="cloudpickle")
    for load in (mlflow.sklearn.load_model, mlflow.pyfunc.load_model):
        assert list(load(saved.model_uri).predict(TEXTS)) == list(fitted.predict(TEXTS))
