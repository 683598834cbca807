"""Checks with OpenAI's official Python client that the endpoint behaves as applications expect.

The model recites the alphabet: at a temperature of zero it answers "abcdef...", one token per letter, and the ID of a
token is its byte. OPENAI_BASE_URL and OPENAI_API_KEY name the endpoint; the argument is the model.
"""

import json
import sys
from typing import Literal

import openai
from openai import OpenAI
from pydantic import BaseModel

MODEL = sys.argv[1]
HI = [{"role": "user", "content": "Hi"}]
# The model prefers none of the tokens that a grammar allows. Without this bias it could emit white space for ever.
NO_SPACE = {"9": -100, "10": -100, "13": -100, "32": -100}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Kyiv"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
# The model begins a call with one token and ends it with another. The penalty lets it choose each of them once.
CALL = {"logit_bias": NO_SPACE | {"279": 19, "280": 18.5}, "presence_penalty": 2, "max_completion_tokens": 100}
NAMED = {"type": "function", "function": {"name": "weather"}}

client = OpenAI(max_retries=0, timeout=300)


def chat(messages=HI, **fields):
    fields = {"max_completion_tokens": 4, "temperature": 0} | fields
    return client.chat.completions.create(model=MODEL, messages=messages, **fields)


def text(answer, choice=0):
    return answer.choices[choice].message.content


def refused(error, param, code, call):
    try:
        call()
    except error as found:
        assert (found.param, found.code) == (param, code), found
        return
    raise AssertionError(f"{param} was not refused")


def models():
    (model,) = client.models.list().data
    assert model.id == MODEL and model.context_length == 1024
    assert model.quantization == "F32" and model.pricing is None
    assert client.models.retrieve(MODEL).id == MODEL
    refused(openai.NotFoundError, "model", "model_not_found", lambda: client.models.retrieve("other"))


def a_whole_answer():
    answer = chat()
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason, choice.message.role) == ("abcd", "length", "assistant")
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint.startswith("fp_") and chat().id != answer.id
    usage = answer.usage
    assert usage.completion_tokens == 4 and usage.prompt_tokens_details.cached_tokens == 0
    assert usage.total_tokens == usage.prompt_tokens + 4
    assert text(chat(max_completion_tokens=openai.omit, max_tokens=2)) == "ab"


def a_stream():
    for hidden in [True, False]:
        options = {"include_usage": True, "include_obfuscation": hidden}
        chunks = list(chat(stream=True, stream_options=options))
        assert chunks[0].choices[0].delta.role == "assistant"
        told = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert told == "abcd" and chunks[-2].choices[0].finish_reason == "length"
        assert chunks[-1].usage.completion_tokens == 4 and chunks[-1].choices == []
        assert all(c.usage is None for c in chunks[:-1])


def seeds_and_choices():
    warm = {"temperature": 1, "max_completion_tokens": 12}
    answer = chat(n=3, seed=7, **warm)
    said = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(said)) == 3
    assert answer.usage.completion_tokens == 36
    assert [text(chat(seed=seed, **warm)) for seed in [7, 8, 9]] == said
    assert text(chat(**warm)) != text(chat(**warm)), "answers without a seed are alike"
    streamed = ["", "", ""]
    for chunk in chat(n=3, seed=7, stream=True, **warm):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == said


def stops():
    for stop in ["de", ["xyz", "d"]]:
        answer = chat(stop=stop, max_completion_tokens=20)
        assert (text(answer), answer.choices[0].finish_reason) == ("abc", "stop")


def log_probabilities():
    told = chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert [token.token for token in told] == ["a", "b", "c", "d"]
    for token in told:
        assert token.bytes == list(token.token.encode()) and -9999 <= token.logprob <= 0
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token
        assert token.top_logprobs[0].logprob == token.logprob >= token.top_logprobs[1].logprob
    streamed = [c.choices[0].logprobs for c in chat(logprobs=True, stream=True)]
    assert sum(len(logprobs.content) for logprobs in streamed if logprobs) == 4
    assert chat().choices[0].logprobs is None


def biases_and_penalties():
    assert text(chat(logit_bias={str(ord("q")): 100})) == "qqqq"
    plain = text(chat(max_completion_tokens=27))
    assert plain[26] == "a", plain
    for penalty in ["frequency_penalty", "presence_penalty"]:
        assert text(chat(max_completion_tokens=27, **{penalty: 2}))[26:27] != "a", penalty
    # Sampling parameters that OpenAI's API does not have.
    only = {"top_k": 1, "min_p": 0.5, "repetition_penalty": 1.0}
    assert text(chat(temperature=1, extra_body=only)) == "abcd"


def json_answers():
    answer = chat(
        response_format={"type": "json_object"}, logit_bias=NO_SPACE | {str(ord("}")): 50}, max_completion_tokens=20
    )
    assert (json.loads(text(answer)), answer.choices[0].finish_reason) == ({}, "stop")

    class Answer(BaseModel):
        word: Literal["abc"]
        sure: Literal[True]

    # The answer fits the schema at every temperature.
    for temperature in [0, 1.5]:
        answer = client.chat.completions.parse(
            model=MODEL, messages=HI, response_format=Answer, temperature=temperature, seed=1,
            logit_bias=NO_SPACE, max_completion_tokens=100,
        )
        assert answer.choices[0].message.parsed == Answer(word="abc", sure=True)
    schema = {"name": "bad", "schema": {"type": "nonsense"}}
    refused(
        openai.BadRequestError, None, "invalid_schema",
        lambda: chat(response_format={"type": "json_schema", "json_schema": schema}),
    )


def tools():
    for choice in ["required", NAMED]:
        answer = chat(tools=[WEATHER], tool_choice=choice, max_completion_tokens=100)
        message = answer.choices[0].message
        assert answer.choices[0].finish_reason == "tool_calls" and message.content is None, answer
        (call,) = message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Kyiv"})
    # Arguments are an object even if their schema does not say so. The model would rather write a text.
    parameters = {key: value for key, value in WEATHER["function"]["parameters"].items() if key != "type"}
    untyped = {"type": "function", "function": WEATHER["function"] | {"parameters": parameters}}
    answer = chat(tools=[untyped], tool_choice="required", max_completion_tokens=100)
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) == {"city": "Kyiv"}
    # This changes nothing within the schema, even if it refers to itself.
    node = {
        "type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"], "additionalProperties": False
    }
    listed = {"name": "weather", "parameters": {"anyOf": [node, {"type": "null"}]}}
    answer = chat(
        tools=[{"type": "function", "function": listed}], tool_choice="required", max_completion_tokens=100,
        logit_bias=NO_SPACE,
    )
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) == {"next": None}
    # The client's message object is sent back unchanged, with the tool's answer.
    followed = chat([*HI, message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}], tools=[WEATHER])
    assert text(followed) == "abcd" and followed.usage.prompt_tokens > answer.usage.prompt_tokens
    assert text(chat(tools=[WEATHER], tool_choice="none")) == "abcd"
    chunks = list(chat(tools=[WEATHER], tool_choice=NAMED, max_completion_tokens=100, stream=True))
    pieces = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
    assert pieces[0].id.startswith("call_") and pieces[0].function.name == "weather"
    assert json.loads("".join(piece.function.arguments for piece in pieces)) == {"city": "Kyiv"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def strict_tools():
    class Weather(BaseModel):
        city: Literal["Kyiv"]

    # This tool is strict. The model decides whether to call it.
    tool = openai.pydantic_function_tool(Weather, name="weather")
    assert tool["function"]["strict"]
    assert text(chat(tools=[tool])) == "abcd"
    answer = client.chat.completions.parse(
        model=MODEL, messages=HI, tools=[tool], parallel_tool_calls=False, temperature=0, **CALL
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, answer
    (call,) = choice.message.tool_calls
    assert call.function.parsed_arguments == Weather(city="Kyiv")
    # The call of a tool that is not strict is whatever the model makes of it, here no call at all.
    assert text(chat(tools=[WEATHER], **CALL)).startswith('<tool_call>{"name":"weather"</tool_call>abc')
    unknown = WEATHER["function"] | {"strict": True, "parameters": {"type": "object", "oneOf": []}}
    refused(
        openai.BadRequestError, "tools[0].function.parameters", "invalid_schema",
        lambda: chat(tools=[{"type": "function", "function": unknown}]),
    )


def roles_and_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    plain = chat([{"role": "system", "content": "ab"}, *HI]).usage.prompt_tokens
    assert chat([{"role": "developer", "content": parts}, *HI]).usage.prompt_tokens == plain
    harmless = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    assert text(chat(**harmless)) == "abcd"
    # `padding` is not a field of OpenAI's; `cocoon connect` replaces it with its own.
    assert text(chat(extra_body={"padding": "mine"})) == "abcd"


def completions():
    def complete(prompt="a", **fields):
        return client.completions.create(model=MODEL, prompt=prompt, **({"max_tokens": 3, "temperature": 0} | fields))

    answer = complete(logprobs=1)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, answer.object) == ("bcd", "length", "text_completion")
    assert answer.usage.prompt_tokens == 1 and choice.logprobs.tokens == ["b", "c", "d"]
    assert choice.logprobs.text_offset == [0, 1, 2]
    assert "".join(c.choices[0].text for c in complete(["x"], stream=True)) == "yza"
    refused(openai.BadRequestError, "echo", "unsupported_parameter", lambda: complete(echo=True))
    refused(openai.BadRequestError, "prompt", None, lambda: complete(["a", "b"]))


def errors():
    for fields, param, code in [
        ({"extra_body": {"temprature": 1}}, "temprature", "unknown_parameter"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"temperature": 3}, "temperature", None),
        ({"n": 9}, "n", None),
        ({"max_completion_tokens": 5000}, "max_completion_tokens", None),
        ({"messages": [{"role": "user", "content": "x" * 2000}]}, "messages", "context_length_exceeded"),
    ]:
        refused(openai.BadRequestError, param, code, lambda: chat(**fields))


for check in [
    models, a_whole_answer, a_stream, seeds_and_choices, stops, log_probabilities, biases_and_penalties,
    json_answers, tools, strict_tools, roles_and_parts, completions, errors,
]:
    check()
    print("ok", check.__name__, flush=True)
