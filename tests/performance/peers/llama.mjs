// Times one answer of llama.cpp, through node-llama-cpp: `llama.mjs MODEL PROMPT TOKENS THREADS`, where MODEL is a GGUF file
// and PROMPT a text file. As with the other engines, the prompt is formatted by the model's own chat template. Prints one line
// of JSON.

import { readFileSync } from "node:fs";
import { performance } from "node:perf_hooks";
import { getLlama } from "node-llama-cpp";

const [model, prompt, tokens, threads] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, maxThreads: Number(threads) });
const loaded = await llama.loadModel({ modelPath: model });
const context = await loaded.createContext({ contextSize: 2048, batchSize: 512, threads: Number(threads) });

// Formats one message as the chat template of SmolLM2 does.
const SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
const turn = (text) =>
  loaded.tokenize(
    `<|im_start|>system\n${SYSTEM}<|im_end|>\n<|im_start|>user\n${text}<|im_end|>\n<|im_start|>assistant\n`,
    true,
  );

async function answer(text, count) {
  const sequence = context.getSequence();
  const asked = turn(text);
  const began = performance.now();
  const times = [];
  for await (const _ of sequence.evaluate(asked, { temperature: 0, yieldEogToken: true })) {
    times.push((performance.now() - began) / 1000);
    if (times.length === count) break;
  }
  sequence.dispose();
  return { asked: asked.length, times };
}

await answer("Hi", 4);
const { asked, times } = await answer(readFileSync(prompt, "utf8"), Number(tokens));
console.log(
  JSON.stringify({
    prompt_tokens: asked,
    completion_tokens: times.length,
    first: times[0],
    last: times.at(-1),
  }),
);
process.exit(0);
