/** From texts to the answers of `OnnxModel`, in a browser or in Node. `HEADS`, at the end, has an entry per head. */
"use strict";
const PROMPT_TOKENS = 512; // at once
const toBytes = (text) => Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
const runModule = (code) => import(URL.createObjectURL(new Blob([code], {type: "text/javascript"})));
const toProbabilities = (logits) => {
  const most = Math.max(...logits), powers = logits.map((logit) => Math.exp(logit - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
};

/** Return the functions of a model: those that read texts, and that of its head. */
async function load(engine, model) {
  const [ort, {Tokenizer}] = await Promise.all([runModule(engine.ort), runModule(engine.tokenizers)]);
  const wasm = new Blob([toBytes(engine.wasm)]).stream().pipeThrough(new DecompressionStream("gzip"));
  ort.env.wasm.wasmBinary = await new Response(wasm).arrayBuffer();
  ort.env.wasm.numThreads = 1; // more need headers of a server
  return connect(ort, await ort.InferenceSession.create(toBytes(model.graph)), makeReader(Tokenizer, model), model);
}

function connect(ort, session, reader, model) {
  /** Return the outputs for rows of ids; `states` are the outputs of a language model for the tokens before. */
  async function run(rows, states) {
    const time = Math.max(1, ...rows.map((row) => row.length)), given = {};
    const [ids, mask] = [0, 1].map(() => new BigInt64Array(rows.length * time));
    rows.forEach((row, number) => row.forEach((id, place) => {
      ids[number * time + place] = BigInt(id);
      mask[number * time + place] = 1n;
    }));
    [given.input_ids, given.attention_mask] = [ids, mask].map((data) => new ort.Tensor("int64", data, [rows.length, time]));
    for (const {name, shape} of session.inputMetadata.slice(2)) { // such as `past_hidden_state`
      const sizes = shape.map((size) => (typeof size === "string" ? rows.length : size));
      const zeros = new Float32Array(sizes.reduce((product, size) => product * size, 1));
      given[name] = states?.[name.replace("past", "present")] ?? new ort.Tensor("float32", zeros, sizes);
    }
    return session.run(given);
  }
  /** Return the numbers of a row of an output, such as those of a text, or of a token of the only text. */
  const takeRow = ({data, dims}, row) => Array.from(data.slice(row * dims.at(-1), (row + 1) * dims.at(-1)));
  return {...reader, ...HEADS[model.head]({run, takeRow, model, ...reader})};
}

/** Return the functions of a tokenizer. */
function makeReader(Tokenizer, model) {
  const tokenizer = new Tokenizer(model.tokenizer, {...model.specialTokens, clean_up_tokenization_spaces: false});
  const room = model.maxLength - model.around.flat().length;
  const cut = (ids, limit) => (model.truncationSide === "left" ? ids.slice(Math.max(0, ids.length - limit)) : ids.slice(0, limit));
  const surround = (rows) => rows.reduce((row, ids, number) => row.concat(ids, model.around[number + 1]), model.around[0]);

  /** Return the ids of a text, or of the two texts of a pair, where the longer one is cut first. */
  function tokenize(texts) {
    const rows = texts.map((text) => tokenizer.encode(text, {add_special_tokens: false}).ids);
    const few = Math.min(Math.floor(room / 2), ...rows.map((ids) => ids.length));
    const isLonger = rows.length === 1 ? [] : rows[0].length > rows[1].length ? [true, false] : [false, true];
    return surround(rows.map((ids, number) => cut(ids, rows.length === 1 ? room : isLonger[number] ? room - few : few)));
  }

  /** Return the words of a text as the tokenizer cuts it: ids, and places in the text. */
  function split(text) {
    const words = [];
    let start = 0;
    const addKnown = (token, from, to) => tokenizer.added_tokens_map.has(token) && words.push({start: from, end: to, ids: [tokenizer.added_tokens_map.get(token).id]});
    for (const [number, section] of tokenizer.splitter_unnormalized.split(text).entries()) {
      const places = Array.from(section).flatMap((sign) => Array(sign.length).fill([start, start += sign.length]));
      if (addKnown(section, start - section.length, start)) continue;
      const read = normalize(tokenizer.normalizer, {text: section, places});
      let done = 0;
      for (const piece of tokenizer.splitter_normalized.split(read.text)) {
        const [first] = read.places[done], [, last] = read.places[done + piece.length - 1];
        let from = done;
        done += piece.length;
        if (addKnown(piece, first, last)) continue;
        for (const word of tokenizer.pre_tokenizer?.(piece, {section_index: number}) ?? [piece]) {
          const form = read.text.includes(word, from) ? word : word.replace(/^▁/u, "");
          const at = read.text.indexOf(form, from);
          from = at + form.length;
          if (at < 0 || from > done) throw new Error(`the word ${word} has no place in the text`);
          const ids = tokenizer.model([word]).map((token) => tokenizer.token_to_id(token) ?? tokenizer.model.unk_token_id);
          if (ids.length) words.push({start: read.places[at][0], end: read.places[from - 1][1], ids});
        }
      }
    }
    return words;
  }

  /** Return a text after a step of the tokenizer, with the place of each of its signs in the text before all steps. */
  function normalize(step, {text, places}) {
    if (!step) return {text, places};
    if (step.normalizers) return step.normalizers.reduce((read, next) => normalize(next, read), {text, places});
    const kept = {text: "", places: []};
    const add = (string, from) => { kept.text += string; for (const place of from) kept.places.push(place); };
    let last = 0;
    for (const {0: found, index} of text.matchAll(step.pattern ?? /[^]/gu)) { // steps without a pattern go by characters
      const end = index + found.length, content = step.pattern ? step.config.content : step.normalize(found);
      add(text.slice(last, index), places.slice(last, index));
      add(content, Array(content.length).fill(places[Math.max(0, end - 1)]));
      last = end;
    }
    add(text.slice(last), places.slice(last));
    return kept;
  }
  return {tokenize, split, surround, decode: (ids) => (ids.length ? tokenizer.decode(ids) : "")};
}

const HEADS = {
  /** `score`: the scores of texts, each a list of one or two texts, in the order of the labels. */
  classifier: ({run, takeRow, tokenize, model}) => ({
    score: async (texts) => {
      const {logits} = await run(texts.map(tokenize));
      const rows = texts.map((_, row) => takeRow(logits, row));
      if (model.kind === "softmax") return rows.map(toProbabilities);
      return model.kind === "values" ? rows : rows.map((row) => row.map((logit) => 1 / (1 + Math.exp(-logit))));
    },
  }),

  /** `tag`: the entities of a text, or each word where tags mark no entities: label, start, end and score. */
  tagger: ({run, takeRow, split, surround, model}) => ({
    tag: async (text) => {
      const pieces = split(text), words = [], entities = [];
      if (!pieces.length) return [];
      const {logits} = await run([surround([pieces.flatMap(({ids}) => ids)])]);
      let place = model.around[0].length, open = false;
      for (const {start, end, ids} of pieces) {
        const last = words.at(-1);
        if (last && start < last.end) last.end = Math.max(end, last.end);
        else {
          const scores = toProbabilities(takeRow(logits, place)), score = Math.max(...scores);
          const before = text.slice(last?.end ?? 0, start).split(/\p{White_Space}/u).at(-1); // of a link that the tokenizer rewrites
          words.push({label: model.labels[scores.indexOf(score)], start: start - (/[\p{L}\p{N}]/u.test(before) ? before.length : 0), end, score});
        }
        place += ids.length;
      }
      if (!model.entities) return words;
      for (const {label, ...word} of words) {
        const kind = label.slice(2), last = entities.at(-1);
        if (open && label[0] === "I" && last.label === kind) {
          last.end = word.end;
          last.scores.push(word.score);
        } else if (kind) entities.push({...word, label: kind, scores: [word.score]});
        open = Boolean(kind);
      }
      return entities.map(({scores, ...entity}) => ({...entity, score: scores.reduce((sum, score) => sum + score, 0) / scores.length}));
    },
  }),

  /** `begin`: a story with a prompt; `write`: read or add some tokens at each turn, until the model ends it; `read`: what they say. */
  writer: ({run, takeRow, tokenize, decode, model}) => ({
    begin: (prompt) => ({prompt: tokenize([prompt]), made: [], unread: tokenize([prompt]), states: null}),
    read: ({prompt, made}) => decode([...prompt, ...made]).slice(decode(prompt).length),
    write: async function* (story, temperature) {
      while (story.unread.length) {
        story.states = await run([story.unread.splice(0, PROMPT_TOKENS)], story.states);
        if (!story.unread.length) {
          const {logits} = story.states, scores = takeRow(logits, logits.dims[1] - 1);
          // the largest sum of score and Gumbel noise is a draw from the softmax
          const noisy = temperature > 0 ? scores.map((score) => score / temperature - Math.log(-Math.log(Math.random()))) : scores;
          if (model.unknown !== null) noisy[model.unknown] = -Infinity;
          const id = noisy.indexOf(noisy.reduce((most, score) => Math.max(most, score)));
          if (!model.ends.includes(id)) story.unread = [story.made[story.made.length] = id];
        }
        yield;
      }
    },
  }),

  /** `encode`: the vectors of texts, of length 1. */
  encoder: ({run, takeRow, tokenize}) => ({
    encode: async (texts) => {
      const {sentence_embedding: vectors} = await run(texts.map((text) => tokenize([text])));
      return texts.map((_, row) => takeRow(vectors, row));
    },
  }),
};
