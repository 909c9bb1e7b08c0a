// An exported classifier in JavaScript, for node (classify.mjs) and for browsers (index.html). Its answers are those of
// runtime.py: the model is run by onnxruntime, and texts are read by the tokenizer of @huggingface/transformers, whose
// pipeline() knows no custom type of model and is not used.

const UNLIMITED = 1e18; // transformers writes 1e30 where a tokenizer has no limit
// Tokenizers of transformers that number the texts of a pair; their configs do not say so.
const SEGMENTED = /^((|Conv|Mobile|Squeeze)Bert|Deberta(V2)?|DPR.+Encoder|FNet)Tokenizer(Fast)?$/;

export class Student {
  // read(name) resolves to the bytes of a file of the student's folder, or to null where there is none.
  static async load({ ort, PreTrainedTokenizer, read, int8 = false }) {
    const student = new Student();
    const name = `onnx/model${int8 ? "_quantized" : ""}.onnx`;
    const model = await needed(read, name, "Write it with hf_distill.export_onnx, or download onnx/ too.");
    const saved = "Save the student and its fast tokenizer there with save_pretrained.";
    student.config = json(await needed(read, "config.json", saved), "config.json");
    const settings = json((await read("tokenizer_config.json")) ?? encode("{}"), "tokenizer_config.json");
    const tokenizer = json(await needed(read, "tokenizer.json", saved), "tokenizer.json");
    if (settings.split_special_tokens) {
      throw new Error("tokenizer_config.json: split_special_tokens is true, which JavaScript cannot do. Use runtime.py.");
    }
    student.tokenizer = new PreTrainedTokenizer(tokenizer, settings);
    student.limit = Math.min(settings.model_max_length ?? UNLIMITED, UNLIMITED);
    student.left = (settings.truncation_side ?? tokenizer.truncation?.direction ?? "right").toLowerCase() === "left";
    const inputs = settings.model_input_names ?? [];
    student.segmented = inputs.includes("token_type_ids") || SEGMENTED.test(settings.tokenizer_class ?? "");
    const threshold = student.config.cascade_threshold ?? 0;
    if (!(threshold >= 0 && threshold <= 1) || (threshold && student.config.problem_type === "regression")) {
      throw new Error(`cascade_threshold: expected 0 to 1 for classes, got ${JSON.stringify(threshold)}. Remove it.`);
    }
    const heat = student.config.cascade_temperature ?? 1;
    if (!(typeof heat === "number" && heat >= 0.01 && heat <= 100)) {
      throw new Error(`cascade_temperature: expected 0.01 to 100, got ${JSON.stringify(heat)}. Fit the cascade again.`);
    }
    student.ort = ort;
    student.session = await ort.InferenceSession.create(model);
    if (!student.session.outputNames.includes("logits")) {
      throw new Error(`${name}: expected the output logits, got ${student.session.outputNames}. Only classifiers are read.`);
    }
    return student;
  }

  // {label, score} of a text or a pair; of all classes, the best first, with all.
  async classify(text, pair = null, { all = false } = {}) {
    for (const [name, value] of Object.entries({ text, pair: pair ?? "" })) {
      if (typeof value !== "string") throw new TypeError(`${name}: expected a string, got ${JSON.stringify(value)}`);
    }
    const { ids, types } = this.read(text, pair || null);
    const length = Math.max(1, ids.length); // a text without tokens is one masked position
    const filled = (values, padding) => Array.from({ length }, (_, place) => values[place] ?? padding);
    const given = {
      input_ids: filled(ids, this.config.pad_token_id ?? 0),
      attention_mask: filled(ids.map(() => 1), 0),
      token_type_ids: filled(this.segmented ? types : [], 0),
    };
    const feeds = {};
    for (const name of this.session.inputNames) {
      if (!(name in given)) throw new Error(`The model has an input ${name}, which is unknown here. Use runtime.py.`);
      feeds[name] = new this.ort.Tensor("int64", BigInt64Array.from(given[name].map(BigInt)), [1, length]);
    }
    const { logits } = await this.session.run(feeds);
    if (logits.dims.length !== 2) throw new Error("This student tags words, and JavaScript cannot split texts. Use runtime.py.");
    const values = Array.from(logits.data);
    if (!values.every(Number.isFinite)) throw new Error("The logits are not finite. Export the student again.");
    return this.answers(values, all);
  }

  answers(logits, all) {
    const names = this.config.id2label ?? {};
    const problem = this.config.problem_type ?? (logits.length === 1 ? "multi_label_classification" : "single");
    const several = problem === "multi_label_classification";
    let scores = logits;
    if (several) scores = logits.map((value) => 1 / (1 + Math.exp(-value)));
    else if (problem !== "regression") {
      const highest = Math.max(...logits);
      const powers = logits.map((value) => Math.exp(value - highest));
      const sum = powers.reduce((total, value) => total + value);
      scores = powers.map((value) => value / sum);
    }
    const sides = several ? scores.map((score) => [score, 1 - score]) : [scores];
    const sure = Math.min(...sides.map((each) => confidence(each, this.config.cascade_temperature ?? 1)));
    const threshold = this.config.cascade_threshold ?? null;
    const deferred = threshold === null ? {} : { deferred: sure < threshold };
    const answers = scores.map((score, number) => ({ label: names[number] ?? `LABEL_${number}`, score, ...deferred }));
    answers.sort((one, other) => other.score - one.score);
    return all ? answers : answers[0];
  }

  // The ids and segments of a text or pair, cut as transformers cuts them: JavaScript's tokenizer would lose the last
  // special token, and with it more than half of what a short limit leaves.
  read(text, pair) {
    const options = { return_tensor: false, return_token_type_ids: true };
    const whole = this.tokenizer(text, { ...options, text_pair: pair });
    const [ids, types] = [whole.input_ids, whole.token_type_ids ?? []];
    if (ids.length <= this.limit) return { ids, types };
    const alone = (part) => this.tokenizer(part, { ...options, add_special_tokens: false }).input_ids;
    const parts = [alone(text), ...(pair === null ? [] : [alone(pair)])];
    const kept = lengths(parts.map((part) => part.length), this.limit - ids.length + parts.flat().length);
    const places = [];
    let end = 0;
    for (const [number, part] of parts.entries()) {
      const start = found(ids, part, end);
      for (let place = end; place < start; place++) places.push(place);
      const first = this.left ? start + part.length - kept[number] : start;
      for (let place = first; place < first + kept[number]; place++) places.push(place);
      end = start + part.length;
    }
    for (let place = end; place < ids.length; place++) places.push(place);
    return { ids: places.map((place) => ids[place]), types: places.map((place) => types[place] ?? 0) };
  }
}

// The probability of the answer, as of logits that are divided by a temperature.
function confidence(probabilities, temperature) {
  const highest = Math.max(...probabilities);
  if (temperature === 1) return highest;
  return 1 / probabilities.reduce((total, value) => total + (value / highest) ** (1 / temperature), 0);
}

// How many tokens of each text stay: the longer text is cut first, as in the tokenizers library.
function lengths(whole, limit) {
  if (limit < 0) throw new Error("model_max_length leaves no room for the special tokens.");
  if (whole.length === 1) return [Math.min(whole[0], limit)];
  let [short, long] = [...whole].sort((one, other) => one - other);
  long = short > limit ? short : Math.max(short, limit - short);
  if (short + long > limit) [short, long] = [Math.floor(limit / 2), Math.floor(limit / 2) + (limit % 2)];
  return whole[0] > whole[1] ? [long, short] : [short, long];
}

// Where the tokens of a text begin in those of the whole.
function found(ids, part, from) {
  let start = from;
  while (start + part.length <= ids.length && !part.every((id, place) => ids[start + place] === id)) start++;
  if (start + part.length > ids.length) throw new Error("The tokenizer reads this text otherwise when it is alone.");
  return start;
}

async function needed(read, name, remedy) {
  const bytes = await read(name);
  if (bytes === null) throw new Error(`The folder has no ${name}. ${remedy}`);
  return bytes;
}

function encode(text) {
  return new TextEncoder().encode(text);
}

function json(bytes, name) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new Error(`${name}: expected JSON: ${error.message}. Save it again.`, { cause: error });
  }
}
