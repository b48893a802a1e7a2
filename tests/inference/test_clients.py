"""Other libraries around a model of this package; each is skipped where it is not installed."""

import numpy as np
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


def test_mlflow_logs_the_fit_of_a_pipeline(mlflow, fitted):
    """By itself it logs only classes of scikit-learn, such as a pipeline around the estimator."""
    mlflow.sklearn.autolog(log_models=False)
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline

    with mlflow.start_run() as run:
        make_pipeline(clone(fitted)).fit(TEXTS, LABELS)
    data = mlflow.get_run(run.info.run_id).data
    assert data.params["rnnclassifier__hidden_size"] == "8" and "training_accuracy_score" in data.metrics


def test_yellowbrick_draws_a_report(fitted):
    pytest.importorskip("yellowbrick", reason="yellowbrick is not installed")
    from yellowbrick.classifier import ConfusionMatrix

    drawn = ConfusionMatrix(fitted, is_fitted=True, force_model=True)  # it reads tags of scikit-learn < 1.6
    score = drawn.score(np.array(TEXTS), np.array(LABELS))
    assert score == pytest.approx(fitted.score(TEXTS, LABELS)) and drawn.confusion_matrix_.sum() == len(TEXTS)
