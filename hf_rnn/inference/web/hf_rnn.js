// Run a text classifier of hf_rnn in plain JavaScript: tokenizer.json and model.safetensors to labels and scores.
// In a page: <script src="hf_rnn.js">, which defines `hfRnn`. In Node: require("./hf_rnn.js"). It needs no other file.
//
//   const model = hfRnn.load({config, tokenizer, tokenizer_config, weights});
//   model.predict("best concert of my life!");  // {label: "positive", score: 0.93}
//
// Legend: T tokens of a text, E embedding, H hidden per direction, S width of a state, G gates x H.
"use strict";

const hfRnn = (() => {
  // ---- tokenizer: each function does what the part of the same name does in the library `tokenizers` ----

  const CLASSES = {s: "\\p{White_Space}", S: "\\P{White_Space}"}; // JavaScript's \s has other characters
  const escapeRegex = (text) => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  const compile = ({String: text, Regex: pattern}) =>
    new RegExp(text === undefined ? pattern.replace(/\\(.)/gs, (both, sign) => CLASSES[sign] ?? both) : escapeRegex(text), "gu");
  const lowercase = (text) => Array.from(text, (sign) => sign.toLowerCase()).join(""); // without the final sigma
  const unaccent = (text) => text.normalize("NFD").replace(/\p{Mn}/gu, "");
  const IDEOGRAPH = new RegExp(
    "[\u4e00-\u9fff\u3400-\u4dbf\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2b81f}\\u{2b920}-\\u{2ceaf}\uf900-\ufaff\\u{2f800}-\\u{2fa1f}]", "gu");

  function buildNormalizer(part) {
    switch (part?.type) {
      case undefined: return (text) => text;
      case "Sequence": {
        const parts = part.normalizers.map(buildNormalizer);
        return (text) => parts.reduce((result, run) => run(result), text);
      }
      case "Lowercase": return lowercase;
      case "Replace": {
        const pattern = compile(part.pattern);
        return (text) => text.replace(pattern, () => part.content);
      }
      case "Strip": {
        const sides = [part.strip_left && "^\\p{White_Space}+", part.strip_right && "\\p{White_Space}+$"].filter(Boolean);
        return (text) => sides.reduce((result, side) => result.replace(new RegExp(side, "u"), ""), text);
      }
      case "StripAccents": return (text) => text.replace(/\p{Mn}/gu, "");
      case "NFC": case "NFD": case "NFKC": case "NFKD": return (text) => text.normalize(part.type);
      case "BertNormalizer": return (text) => {
        if (part.clean_text) {
          text = text.replace(/(?![\t\n\r])[\0\ufffd\p{Cc}\p{Cf}\p{Co}]/gu, "").replace(/\p{White_Space}/gu, " ");
        }
        if (part.handle_chinese_chars) text = text.replace(IDEOGRAPH, " $& ");
        if (part.strip_accents ?? part.lowercase) text = unaccent(text);
        return part.lowercase ? lowercase(text) : text;
      };
      default: throw new Error(`unknown normalizer ${part.type}`);
    }
  }

  const words = (text) => text.split(/\p{White_Space}+/u).filter(Boolean);

  function buildPreTokenizer(part) { // a text to pieces
    switch (part?.type) {
      case undefined: return (text) => [text];
      case "Sequence": {
        const parts = part.pretokenizers.map(buildPreTokenizer);
        return (text) => parts.reduce((pieces, cut) => pieces.flatMap(cut), [text]);
      }
      case "WhitespaceSplit": return words;
      case "BertPreTokenizer": return (text) => words(text).flatMap((word) => word.match(/[!-/:-@[-`{-~\p{P}]|[^!-/:-@[-`{-~\p{P}]+/gu));
      case "Split": {
        const pattern = compile(part.pattern), kept = part.behavior === "Isolated";
        return (text) => {
          const pieces = [];
          let end = 0;
          const add = (piece, found) => { if (piece && (kept || found === part.invert)) pieces.push(piece); };
          for (const match of text.matchAll(pattern)) {
            add(text.slice(end, match.index), false);
            add(match[0], true);
            end = match.index + match[0].length;
          }
          add(text.slice(end), false);
          return pieces;
        };
      }
      case "Metaspace": return (text) => {
        text = text.replaceAll(" ", part.replacement);
        if (part.prepend_scheme !== "never" && !text.startsWith(part.replacement)) text = part.replacement + text;
        return part.split === false ? [text] : text.split(new RegExp(`(?=${part.replacement})`, "u"));
      };
      default: throw new Error(`unknown pre-tokenizer ${part.type}`);
    }
  }

  function buildVocabulary(model) { // a piece to ids
    if (model.type === "Unigram") return buildUnigram(model);
    const ids = new Map(Object.entries(model.vocab)), unknown = ids.get(model.unk_token);
    if (model.type === "WordLevel") return (word) => [ids.get(word) ?? unknown];
    if (model.type === "WordPiece") return (word) => {
      const signs = Array.from(word), found = [];
      if (signs.length > model.max_input_chars_per_word) return [unknown];
      for (let start = 0, end; start < signs.length; start = end) {
        let id;
        for (end = signs.length; end > start; end--) {
          id = ids.get((start ? model.continuing_subword_prefix : "") + signs.slice(start, end).join(""));
          if (id !== undefined) break;
        }
        if (id === undefined) return [unknown];
        found.push(id);
      }
      return found;
    };
    if (model.type !== "BPE") throw new Error(`unknown model ${model.type}`);
    const ranks = new Map(model.merges.map((merge, rank) => [Array.isArray(merge) ? merge.join(" ") : merge, rank]));
    return (word) => {
      const parts = Array.from(word, (sign) => (ids.has(sign) ? sign : null)); // null: unknown
      for (;;) {
        let best = Infinity, place = -1;
        for (let i = 0; i + 1 < parts.length; i++) {
          const rank = parts[i] === null || parts[i + 1] === null ? undefined : ranks.get(`${parts[i]} ${parts[i + 1]}`);
          if (rank < best) [best, place] = [rank, i];
        }
        if (place < 0) return parts.map((sign) => ids.get(sign) ?? unknown);
        parts.splice(place, 2, parts[place] + parts[place + 1]);
      }
    };
  }

  function buildUnigram({vocab, unk_id: unknown}) { // the most probable pieces (Viterbi)
    const ids = new Map(vocab.map(([piece], id) => [piece, id]));
    const longest = vocab.reduce((most, [piece]) => Math.max(most, piece.length), 0);
    const unlikely = vocab.reduce((least, [, score]) => Math.min(least, score), Infinity) - 10;
    return (word) => {
      const best = Array.from({length: word.length + 1}, () => ({score: -Infinity}));
      best[0].score = 0;
      const reach = (start, end, id, score) => {
        if (best[start].score + score > best[end].score) best[end] = {score: best[start].score + score, start, id};
      };
      for (let start = 0; start < word.length; start += word.codePointAt(start) > 0xffff ? 2 : 1) {
        const next = start + (word.codePointAt(start) > 0xffff ? 2 : 1);
        let single = false;
        for (let end = next; end <= Math.min(word.length, start + longest); end++) {
          const id = ids.get(word.slice(start, end));
          if (id === undefined) continue;
          reach(start, end, id, vocab[id][1]);
          single ||= end === next;
        }
        if (!single) reach(start, next, unknown, unlikely);
      }
      const found = [];
      for (let end = word.length; end > 0; end = best[end].start) {
        if (best[end].id !== unknown || found.at(-1) !== unknown) found.push(best[end].id); // unknown ones are one
      }
      return found.reverse();
    };
  }

  function buildTokenizer(parts, settings) { // a text to ids
    const normalize = buildNormalizer(parts.normalizer), cut = buildPreTokenizer(parts.pre_tokenizer);
    const look = buildVocabulary(parts.model), kept = new Map();
    const lookUp = (piece) => {
      let ids = kept.get(piece);
      if (ids === undefined) {
        if (kept.size > 20000) kept.clear();
        kept.set(piece, (ids = look(piece)));
      }
      return ids;
    };
    const special = new Map(
      parts.added_tokens.filter((token) => !(token.special && settings.split_special_tokens)).map((token) => [token.content, token.id]));
    const marks = special.size ? new RegExp(`(${[...special.keys()].map(escapeRegex).join("|")})`, "u") : null;
    const template = parts.post_processor?.single ?? [{Sequence: {}}];
    const around = template.map((part) => (part.SpecialToken ? parts.post_processor.special_tokens[part.SpecialToken.id].ids : null));
    const room = (settings.model_max_length ?? Infinity) - around.flat().filter((id) => id !== null).length;
    return (text) => {
      const pieces = marks ? text.split(marks) : [text];
      const ids = pieces.flatMap((piece) => (special.has(piece) ? [special.get(piece)] : piece ? cut(normalize(piece)).flatMap(lookUp) : []));
      const read = ids.length <= room ? ids : settings.truncation_side === "left" ? ids.slice(-room) : ids.slice(0, room);
      return around.flatMap((extra) => extra ?? read);
    };
  }

  // ---- network ----

  function readWeights(bytes) { // safetensors: the length of a JSON header, the header, the numbers
    bytes = typeof bytes === "string" ? decodeBase64(bytes) : bytes;
    if (bytes.byteOffset % 4) bytes = Uint8Array.from(bytes); // Float32Array needs it aligned
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const start = 8 + Number(view.getBigUint64(0, true)), weights = {};
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
    for (const [name, {dtype, data_offsets: [first, end]}] of Object.entries(header)) {
      if (name === "__metadata__") continue;
      if (dtype !== "F32") throw new Error(`${name} is ${dtype}: save the model in float32`);
      weights[name] = new Float32Array(bytes.buffer, bytes.byteOffset + start + first, (end - first) / 4);
    }
    return weights;
  }

  function decodeBase64(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    if (typeof Buffer !== "undefined") return Buffer.from(text, "base64");
    return Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  }

  const sigmoid = (x) => 1 / (1 + Math.exp(-x));

  // A linear layer: the numbers of four rows side by side, which is up to twice as fast, and rows up to a multiple of 4.
  function pack(matrix, bias) {
    const rows = 4 * Math.ceil(bias.length / 4), width = matrix.length / bias.length, packed = new Float32Array(rows * width);
    for (let row = 0, place = 0; row < bias.length; row++) {
      for (let i = 0; i < width; i++, place++) packed[((row >> 2) * width + i) * 4 + (row & 3)] = matrix[place];
    }
    const padded = new Float32Array(rows);
    padded.set(bias);
    return {packed, bias: padded};
  }

  function multiply(out, {packed, bias}, vector) {
    for (let row = 0, place = 0; row < bias.length; row += 4) {
      let a = bias[row], b = bias[row + 1], c = bias[row + 2], d = bias[row + 3];
      for (let i = 0; i < vector.length; i++, place += 4) {
        const value = vector[i];
        a += packed[place] * value;
        b += packed[place + 1] * value;
        c += packed[place + 2] * value;
        d += packed[place + 3] * value;
      }
      out[row] = a;
      out[row + 1] = b;
      out[row + 2] = c;
      out[row + 3] = d;
    }
    return out;
  }

  // One step of a cell: `x` (G) is W_ih x_t + b_ih, `r` (G) is W_hh h + b_hh; changes h, and c of an LSTM.
  const simple = (activate) => (x, r, h) => {
    for (let i = 0; i < h.length; i++) h[i] = activate(x[i] + r[i]);
  };
  const CELLS = {
    rnn_tanh: simple(Math.tanh),
    rnn_relu: simple((value) => Math.max(value, 0)),
    gru(x, r, h) { // gates r z n
      for (let i = 0, size = h.length; i < size; i++) {
        const z = sigmoid(x[size + i] + r[size + i]);
        const n = Math.tanh(x[2 * size + i] + sigmoid(x[i] + r[i]) * r[2 * size + i]);
        h[i] = (1 - z) * n + z * h[i];
      }
    },
    lstm(x, r, h, c) { // gates i f g o
      for (let i = 0, size = h.length; i < size; i++) {
        c[i] = sigmoid(x[size + i] + r[size + i]) * c[i] + sigmoid(x[i] + r[i]) * Math.tanh(x[2 * size + i] + r[2 * size + i]);
        h[i] = sigmoid(x[3 * size + i] + r[3 * size + i]) * Math.tanh(c[i]);
      }
    },
    min_gru(x, r, h) { // gate, candidate
      for (let i = 0, size = h.length; i < size; i++) {
        const z = sigmoid(x[i]);
        h[i] = (1 - z) * h[i] + z * x[size + i];
      }
    },
  };

  const mean = (states, size) => {
    const sum = new Float64Array(size);
    for (const state of states) for (let i = 0; i < size; i++) sum[i] += state[i];
    return sum.map((value) => value / Math.max(states.length, 1));
  };
  const max = (states, size) => {
    const most = new Float64Array(size).fill(states.length ? -Infinity : 0);
    for (const state of states) for (let i = 0; i < size; i++) if (state[i] > most[i]) most[i] = state[i];
    return most;
  };
  const POOLINGS = { // states (T, S) to a vector, zero for a text without tokens
    mean,
    max,
    mean_max: (states, size) => Float64Array.of(...mean(states, size), ...max(states, size)),
    last(states, size, weights, hidden) { // of each direction, after the last token that it read
      return Float64Array.from({length: size}, (_, i) => states.at(i < hidden ? -1 : 0)?.[i] ?? 0);
    },
    attention(states, size, weights) {
      const context = weights["pooler.context.weight"], {projection} = weights, keys = new Float32Array(projection.bias.length);
      const scores = states.map((state) => {
        multiply(keys, projection, state);
        return context.reduce((sum, value, i) => sum + value * Math.tanh(keys[i]), 0);
      });
      const shares = softmax(scores), pooled = new Float64Array(size);
      states.forEach((state, t) => { for (let i = 0; i < size; i++) pooled[i] += shares[t] * state[i]; });
      return pooled;
    },
  };

  const softmax = (values) => {
    const most = values.reduce((a, b) => Math.max(a, b), -Infinity), powers = Array.from(values, (value) => Math.exp(value - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => power / sum);
  };
  const erf = (x) => { // within 1.5e-7: Abramowitz and Stegun 1964, formula 7.1.26
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-x * x);
    return Math.sign(x) * (1 - tail);
  };
  const ACTIVATIONS = {
    linear: (x) => x,
    relu: (x) => Math.max(x, 0),
    tanh: Math.tanh,
    gelu: (x) => (x / 2) * (1 + erf(x * Math.SQRT1_2)),
  };

  function buildNetwork(config, weights) { // ids to logits
    const {embedding_size: width, hidden_size: hidden, num_hidden_layers: depth} = config;
    const step = CELLS[config.cell_type], pool = POOLINGS[config.pooling], activate = ACTIVATIONS[config.classifier_activation];
    if (!step || !pool || !activate) throw new Error(`unknown cell ${config.cell_type} or pooling ${config.pooling}`);
    const directions = config.bidirectional ? 2 : 1, size = directions * hidden;
    const layers = Array.from({length: depth}, (_, layer) => Array.from({length: directions}, (_, direction) => {
      const cell = `rnn.layers.${layer}.directions.${direction}.cell`;
      const [input, recurrent] = ["ih", "hh"].map((kind) => {
        const matrix = weights[`${cell}.weight_${kind}_l0`];
        return matrix && pack(matrix, weights[`${cell}.bias_${kind}_l0`]);
      });
      return {input, recurrent};
    }));
    const head = pack(weights["classifier.weight"], weights["classifier.bias"]), labels = weights["classifier.bias"].length;
    if (weights["pooler.projection.weight"]) {
      weights.projection = pack(weights["pooler.projection.weight"], weights["pooler.projection.bias"]);
    }
    const table = weights["rnn.embedding.weight"], gates = layers[0][0].input.bias.length;
    const project = (layer, vector) => layers[layer].map(({input}) => multiply(new Float32Array(gates), input, vector));
    const known = new Map(); // the first layer's inputs of each token that has been read
    const projectToken = (id) => {
      let inputs = known.get(id);
      if (inputs === undefined) {
        if (known.size * gates * directions > 1 << 23) known.clear();
        known.set(id, (inputs = project(0, table.subarray(id * width, (id + 1) * width))));
      }
      return inputs;
    };
    return (ids) => {
      let inputs = ids.map(projectToken), states = [];
      for (let layer = 0; layer < depth; layer++) {
        if (layer) inputs = states.map((state) => project(layer, state));
        states = ids.map(() => new Float32Array(size));
        layers[layer].forEach(({recurrent}, direction) => {
          const h = new Float32Array(hidden), c = new Float32Array(hidden), r = new Float32Array(gates);
          for (let t = 0; t < ids.length; t++) {
            const place = direction ? ids.length - 1 - t : t;
            if (recurrent) multiply(r, recurrent, h);
            step(inputs[place][direction], r, h, c);
            states[place].set(h, direction * hidden);
          }
        });
      }
      return multiply(new Float32Array(head.bias.length), head, pool(states, size, weights, hidden).map(activate)).subarray(0, labels);
    };
  }

  // ---- model ----

  const WORD = /(?:https?:\/\/|www\.)\S+|[@#]?[\p{L}\p{M}\p{N}_'’-]+|[^\p{White_Space}\p{L}\p{N}]+/giu;
  const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;

  function findWords(text) { // the places [start, end) of words and of runs of other signs
    const pattern = UNSPACED.test(text) ? /\p{L}\p{M}*|[^\p{White_Space}\p{L}]+/gu : WORD;
    return Array.from(text.matchAll(pattern), (match) => [match.index, match.index + match[0].length]);
  }

  /**
   * Load a model.
   * @param {object} parts `config`, `tokenizer` and `tokenizer_config`: the content of the JSON files of a finished folder;
   *   `weights`: its model.safetensors in float32, as Uint8Array or base64.
   */
  function load({config, tokenizer, tokenizer_config: settings, weights}) {
    const tokenize = buildTokenizer(tokenizer, settings), logits = buildNetwork(config, readWeights(weights));
    const labels = Object.keys(config.id2label).map((id) => config.id2label[id]);
    const numbers = config.problem_type === "regression";
    const apart = !numbers && (config.problem_type === "multi_label_classification" || labels.length === 1);
    /** Return the scores of a text in the order of `labels`: probabilities, or for regression the values. */
    const scores = (text) => {
      const found = Array.from(logits(tokenize(text)));
      return numbers ? found : apart ? found.map(sigmoid) : softmax(found);
    };
    const best = (found) => found.reduce((most, score, id) => (score > found[most] ? id : most), 0);
    /** Return `{label, score}`; for several labels `{labels, scores}`, for numbers `{values}`. */
    const predict = (text) => {
      const found = scores(text), byLabel = Object.fromEntries(labels.map((label, id) => [label, found[id]]));
      if (numbers) return {values: byLabel};
      if (apart) return {labels: labels.filter((_, id) => found[id] > (config.label_thresholds?.[id] ?? 0.5)), scores: byLabel};
      return {label: labels[best(found)], score: found[best(found)]};
    };
    /**
     * Return each word of a text with its effect: the score of the best label less its score without the word.
     * @param {number} most Words to leave out one by one, from the first.
     */
    const explain = (text, most = 256) => {
      const whole = scores(text), label = best(whole);
      const parts = findWords(text).slice(0, most).map(([start, end]) => {
        const without = scores(`${text.slice(0, start)} ${text.slice(end)}`);
        return {start, end, effect: whole[label] - without[label]};
      });
      return {label: labels[label], words: parts};
    };
    /** Return the words for people of an answer of `predict`. */
    const caption = (answer) => {
      if (numbers) return labels.map((label) => `${label} ${Number(answer.values[label].toPrecision(4))}`).join(", ");
      return apart ? answer.labels.join(", ") || "no label" : answer.label;
    };
    return {labels, tokenize, logits, scores, predict, explain, caption, kind: numbers ? "numbers" : apart ? "labels" : "label"};
  }

  return {load, buildTokenizer};
})();

if (typeof module !== "undefined") module.exports = hfRnn;
