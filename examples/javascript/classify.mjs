// Classify texts with an exported student, each answer in one line of JSON:
//
//     ONNXRUNTIME_NODE_INSTALL=skip npm install      (skip: no download of CUDA libraries)
//     node classify.mjs FOLDER "a text" "another" [--pair "the second text of each"] [--int8]
//     node classify.mjs FOLDER --file texts.json     (a list of texts, or of pairs [text, pair])

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { PreTrainedTokenizer } from "@huggingface/transformers";
import * as ort from "onnxruntime-node";
import { Student } from "./student.mjs";

async function main() {
  const options = { pair: { type: "string" }, file: { type: "string" }, int8: { type: "boolean" } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const [folder, ...texts] = positionals;
  if (folder === undefined) throw new Error('Expected: node classify.mjs FOLDER "a text"');
  const given = texts.map((text) => [text, values.pair]);
  if (values.file !== undefined) {
    for (const row of JSON.parse(await readFile(values.file, "utf8"))) given.push([row].flat());
  }
  if (given.length === 0) throw new Error('Expected at least one text: node classify.mjs FOLDER "a text"');
  const read = async (name) => {
    try {
      return await readFile(join(folder, name));
    } catch (error) {
      if (["ENOENT", "ENOTDIR"].includes(error.code)) return null;
      throw error;
    }
  };
  const student = await Student.load({ ort, PreTrainedTokenizer, read, int8: values.int8 });
  for (const [text, pair] of given) console.log(JSON.stringify(await student.classify(text, pair)));
}

main().catch((error) => {
  console.error(`classify.mjs: ${error.message}`);
  process.exitCode = 1;
});
