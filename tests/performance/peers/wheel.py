"""Times one answer of the Python wheel `mistralrs`: `wheel.py MODEL PROMPT TOKENS`, where MODEL is a GGUF file and
PROMPT a text file. Prints one line of JSON."""

import json
import os
import sys
import time

from mistralrs import ChatCompletionRequest, Runner, Which

model, prompt, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
folder, file = os.path.split(os.path.abspath(model))
runner = Runner(which=Which.GGUF(quantized_model_id=folder, quantized_filename=file))


def answer(text, tokens):
    """Returns the seconds until each chunk of the answer, and the usage that the last chunks report."""
    request = ChatCompletionRequest(
        messages=[{"role": "user", "content": text}],
        model="default",
        max_tokens=tokens,
        temperature=0.0,
        stream=True,
    )
    began, times, usage = time.perf_counter(), [], None
    for chunk in runner.send_chat_completion_request(request):
        times.append(time.perf_counter() - began)
        usage = getattr(chunk, "usage", None) or usage
    return times, usage


answer("Hi", 4)
with open(prompt, encoding="utf-8") as file:
    times, usage = answer(file.read(), tokens)
print(
    json.dumps(
        {
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else len(times),
            "first": times[0],
            "last": times[-1],
        }
    )
)
