"""Measure how well a model translates messages.

Requests translations of the sentences beside this folder, with the documented request, and scores them with sacrebleu.
OPENAI_BASE_URL and OPENAI_API_KEY name the endpoint, as `cocoon connect` prints them.
"""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
# The client's own instructions, so that there is only one copy of them.
INSTRUCTIONS = REPOSITORY / "measurements/client/src/messenger/prompts/translate.txt"
SENTENCES = HERE.parent / "sentences.tsv"
SOURCE = "en"
NAMES = {"fr": "French", "de": "German", "es": "Spanish", "ru": "Russian"}
# Several times what any of these sentences needs; it stops a model that does not end its answer.
MOST_TOKENS = 200
# Time limit for one answer, in seconds.
TIMEOUT = 600


def sentences(count):
    """Returns the first `count` sentences, or all of them, as a list for each language."""
    head, *rows = [line.split("\t") for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    return {language: [row[column] for row in rows[:count]] for column, language in enumerate(head)}


def request(model, language, text):
    """Returns the body of the documented request."""
    told = INSTRUCTIONS.read_text(encoding="utf-8").rstrip()
    told = told.replace("{from}", "").replace("{to}", NAMES[language])
    return {
        "model": model,
        "messages": [{"role": "system", "content": told}, {"role": "user", "content": text}],
        "max_completion_tokens": MOST_TOKENS,
        "temperature": 0,
    }


def ask(base_url, key, body):
    """Returns the answer, whether it was cut at the limit, and its number of tokens."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    asked = urllib.request.Request(f"{base_url}/chat/completions", json.dumps(body).encode(), headers)
    # Without a proxy, because the endpoint is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=TIMEOUT) as answer:
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"the endpoint answers with status {error.code}: {error.read(2000).decode(errors='replace')}")
    except (OSError, ValueError) as error:
        sys.exit(f"the endpoint does not answer: {error}")
    choice = told["choices"][0]
    return (
        (choice["message"]["content"] or "").strip(),
        choice["finish_reason"] == "length",
        told["usage"]["completion_tokens"],
    )


def evaluate(options, base_url, key):
    """Returns the translations into every chosen language, with their scores."""
    from sacrebleu.metrics import BLEU, CHRF

    bleu, chrf = BLEU(), CHRF()
    wanted = sentences(options.sentences)
    results = {}
    for language in options.to:
        found, cut, tokens = [], 0, 0
        begun = time.monotonic()
        for number, text in enumerate(wanted[SOURCE], 1):
            answer, was_cut, count = ask(base_url, key, request(options.model, language, text))
            found.append(answer)
            cut += was_cut
            tokens += count
            print(f"\r{NAMES[language]}: {number} of {len(wanted[SOURCE])}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        references = [wanted[language]]
        results[language] = {
            "chrf": round(chrf.corpus_score(found, references).score, 2),
            "bleu": round(bleu.corpus_score(found, references).score, 2),
            "cut": cut,
            "completion_tokens": tokens,
            "seconds": round(time.monotonic() - begun, 1),
            "translations": found,
        }
    signatures = {"chrf": str(chrf.get_signature()), "bleu": str(bleu.get_signature())}
    return {
        "model": options.model,
        "sentences": len(wanted[SOURCE]),
        "languages": results,
        "signatures": signatures if results else {},
    }


def table(report):
    """Yields the lines of the report as text."""
    yield f"{report['model']}: {report['sentences']} sentences from English"
    yield f"{'into':<10} {'chrF':>6} {'BLEU':>6} {'cut':>4} {'tokens':>7} {'seconds':>8}"
    for language, row in report["languages"].items():
        yield (
            f"{NAMES[language]:<10} {row['chrf']:>6.2f} {row['bleu']:>6.2f} {row['cut']:>4}"
            f" {row['completion_tokens']:>7} {row['seconds']:>8.1f}"
        )
    for name, signature in report["signatures"].items():
        yield f"{name}: {signature}"


def languages(text):
    named = text.split(",")
    for language in named:
        if language not in NAMES:
            raise argparse.ArgumentTypeError(f"`{language}` is not one of {', '.join(NAMES)}")
    return named


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="identifier of the model at the endpoint")
    parser.add_argument("--to", type=languages, default=list(NAMES), help="languages, comma-separated [default: fr,de,es,ru]")
    parser.add_argument("--sentences", type=int, help="number of sentences to use, from the first [default: all]")
    parser.add_argument("--json", action="store_true", help="print JSON, including the translations")
    parser.add_argument("--requests", action="store_true", help="print the requests, one per line, and send none")
    options = parser.parse_args()
    if options.requests:
        for language in options.to:
            for text in sentences(options.sentences)[SOURCE]:
                print(json.dumps(request(options.model, language, text)))
        return
    try:
        base_url, key = os.environ["OPENAI_BASE_URL"].rstrip("/"), os.environ["OPENAI_API_KEY"]
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set: `cocoon connect` prints what belongs there")
    report = evaluate(options, base_url, key)
    print(json.dumps(report, ensure_ascii=False) if options.json else "\n".join(table(report)))


main()
