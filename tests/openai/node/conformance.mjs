// Checks with OpenAI's official client for Node that the endpoint behaves as applications expect.
//
// The model recites the alphabet: at a temperature of zero it answers "abcdef...", one token per letter, and the ID of a
// token is its byte. OPENAI_BASE_URL and OPENAI_API_KEY name the endpoint; the argument is the model.

import assert from "node:assert/strict";
import OpenAI from "openai";

const MODEL = process.argv[2];
const HI = [{ role: "user", content: "Hi" }];
// The model prefers none of the tokens that a grammar allows. Without this bias it could emit white space for ever.
const NO_SPACE = { 9: -100, 10: -100, 13: -100, 32: -100 };
const WEATHER = {
  type: "function",
  function: {
    name: "weather",
    parameters: {
      type: "object",
      properties: { city: { type: "string", enum: ["Kyiv"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};
const NAMED = { type: "function", function: { name: "weather" } };

const client = new OpenAI({ maxRetries: 0, timeout: 300_000 });

const chat = (fields = {}) =>
  client.chat.completions.create({ model: MODEL, messages: HI, max_completion_tokens: 4, temperature: 0, ...fields });
const text = (answer, choice = 0) => answer.choices[choice].message.content;

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const refused = (kind, param, code, promise) =>
  assert.rejects(promise, (error) => {
    assert.ok(error instanceof kind, `${error}`);
    assert.deepEqual([error.param, error.code], [param, code], error.message);
    return true;
  });

const checks = {
  async models() {
    const list = await all(await client.models.list());
    assert.equal(list.length, 1);
    assert.deepEqual([list[0].id, list[0].context_length, list[0].pricing], [MODEL, 1024, null]);
    assert.equal((await client.models.retrieve(MODEL)).quantization, "F32");
    await refused(OpenAI.NotFoundError, "model", "model_not_found", client.models.retrieve("other"));
  },

  async a_whole_answer() {
    const answer = await chat();
    assert.deepEqual([text(answer), answer.choices[0].finish_reason], ["abcd", "length"]);
    assert.match(answer.system_fingerprint, /^fp_[0-9a-f]{12}$/);
    assert.equal(answer.usage.prompt_tokens_details.cached_tokens, 0);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + 4);
  },

  async a_stream() {
    const chunks = await all(await chat({ stream: true, stream_options: { include_usage: true } }));
    const told = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
    assert.deepEqual([told, chunks.at(-2).choices[0].finish_reason], ["abcd", "length"]);
    assert.deepEqual([chunks.at(-1).choices, chunks.at(-1).usage.completion_tokens], [[], 4]);
    // The client's helper assembles a stream by itself.
    const whole = await client.chat.completions
      .stream({ model: MODEL, messages: HI, max_completion_tokens: 4, temperature: 0 })
      .finalContent();
    assert.equal(whole, "abcd");
  },

  async seeds_and_choices() {
    const warm = { temperature: 1, max_completion_tokens: 12 };
    const answer = await chat({ n: 2, seed: 7, ...warm });
    const said = [text(answer, 0), text(answer, 1)];
    assert.notEqual(said[0], said[1]);
    assert.equal(text(await chat({ seed: 8, ...warm })), said[1]);
    assert.notEqual(text(await chat(warm)), text(await chat(warm)));
  },

  async stops() {
    const answer = await chat({ stop: ["xyz", "de"], max_completion_tokens: 20 });
    assert.deepEqual([text(answer), answer.choices[0].finish_reason], ["abc", "stop"]);
  },

  async log_probabilities() {
    const told = (await chat({ logprobs: true, top_logprobs: 2 })).choices[0].logprobs.content;
    assert.equal(told.map((token) => token.token).join(""), "abcd");
    assert.ok(told.every((token) => token.top_logprobs.length === 2 && token.logprob < 0));
  },

  async biases() {
    assert.equal(text(await chat({ logit_bias: { ["q".charCodeAt(0)]: 100 } })), "qqqq");
  },

  async json_answers() {
    const schema = {
      type: "object",
      properties: { word: { const: "abc" }, count: { type: "integer", enum: [3] } },
      required: ["word", "count"],
      additionalProperties: false,
    };
    const response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
    const answer = await chat({ response_format, logit_bias: NO_SPACE, max_completion_tokens: 100 });
    assert.deepEqual(JSON.parse(text(answer)), { word: "abc", count: 3 });
  },

  async tools() {
    const fields = { tools: [WEATHER], max_completion_tokens: 100 };
    const answer = await chat({ ...fields, tool_choice: "required" });
    const { message, finish_reason } = answer.choices[0];
    assert.deepEqual([finish_reason, message.content, message.tool_calls.length], ["tool_calls", null, 1]);
    const [call] = message.tool_calls;
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Kyiv" });
    const followed = [...HI, message, { role: "tool", tool_call_id: call.id, content: "sunny" }];
    assert.equal(text(await chat({ tools: [WEATHER], messages: followed })), "abcd");
    const stream = client.chat.completions.stream({
      model: MODEL, messages: HI, temperature: 0, ...fields, tool_choice: NAMED,
    });
    const whole = await stream.finalMessage();
    assert.equal(whole.tool_calls[0].function.name, "weather");
    assert.deepEqual(JSON.parse(whole.tool_calls[0].function.arguments), { city: "Kyiv" });
  },

  async completions() {
    const fields = { model: MODEL, prompt: "a", max_tokens: 3, temperature: 0 };
    assert.equal((await client.completions.create(fields)).choices[0].text, "bcd");
    const chunks = await all(await client.completions.create({ ...fields, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), "bcd");
    const echo = client.completions.create({ ...fields, echo: true });
    await refused(OpenAI.BadRequestError, "echo", "unsupported_parameter", echo);
  },

  async errors() {
    const long = [{ role: "user", content: "x".repeat(2000) }];
    for (const [fields, param, code] of [
      [{ temprature: 1 }, "temprature", "unknown_parameter"],
      [{ verbosity: "low" }, "verbosity", "unsupported_parameter"],
      [{ temperature: 3 }, "temperature", null],
      [{ messages: long }, "messages", "context_length_exceeded"],
    ]) {
      await refused(OpenAI.BadRequestError, param, code, chat(fields));
    }
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log("ok", name);
}
