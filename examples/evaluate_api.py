"""Compare a model behind an OpenAI-compatible endpoint with guessing and the paper's models on 2x2 puzzles.

Usage: python examples/evaluate_api.py BASE_URL MODEL [EPISODES] [KEY=VALUE ...]

vLLM:    vllm serve Qwen/Qwen2.5-VL-7B-Instruct --limit-mm-per-prompt '{"image": 20}'
         python examples/evaluate_api.py http://localhost:8000/v1 Qwen/Qwen2.5-VL-7B-Instruct
OpenAI:  export OPENAI_API_KEY=...
         python examples/evaluate_api.py https://api.openai.com/v1 MODEL 20 price_in=2.5 price_out=10 max_cost=5
Gemini:  export GEMINI_API_KEY=...
         URL=https://generativelanguage.googleapis.com/v1beta/openai
         python examples/evaluate_api.py $URL MODEL 20 api_key_env=GEMINI_API_KEY requests_per_minute=10
Hugging Face's own server, which takes no stop texts for models with images:
         transformers serve FOLDER --host localhost --port 8000
         python examples/evaluate_api.py http://localhost:8000/v1 FOLDER 20 send_stop=false

KEY=VALUE are options of agile_gym.policies.api.options.ChatAPIOptions or, after "env.", of the environment, such
as env.image_size=224; values are JSON, or texts. API keys come from environment variables only.
On the command line, with everything kept and resumed: agile-gym eval --policy api:MODEL --policy-option base_url=URL
"""

import json
import sys

from tqdm import tqdm

from agile_gym import AgileGymError, make_policy
from agile_gym.evaluation import EvaluationPlan, SuiteEntry, evaluate, format_tables, summarize


def read_option(word):
    """Read KEY=VALUE; the value is JSON if it can be read as such, else a text."""
    key, _, value = word.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def play(label, player, episodes, options):
    """Play puzzles of both levels, print a table, and return False if the endpoint failed on the way."""
    plan = EvaluationPlan(label, [SuiteEntry("2x2", levels=(0, 1), episodes=episodes)], options=options)
    results, failure = [], None
    with tqdm(total=len(plan), desc=label) as bar:

        def on_result(result):
            results.append(result)
            bar.set_postfix_str(f"Acc {100 * sum(r.solved for r in results) / len(results):.1f}%", refresh=False)
            bar.update()

        try:
            evaluate(player, plan, batch=16, on_result=on_result)
        except AgileGymError as error:  # finished episodes count all the same
            failure = error
    if results:
        print(format_tables(summarize(results), label))
    if failure is not None:
        print(f"{label} stopped after {len(results)} of {len(plan)} puzzles: {failure}", file=sys.stderr)
    return failure is None


def main(base_url, model, *words):
    """Evaluate."""
    episodes = int(words[0]) if words and words[0].isdigit() else 20
    given = dict(read_option(word) for word in words if "=" in word)
    options = {"image_size": 448, "prompt": "full"}
    options.update({key[4:]: value for key, value in given.items() if key.startswith("env.")})
    policy_options = {key: value for key, value in given.items() if not key.startswith("env.")}
    try:
        policy = make_policy("api", model=model, base_url=base_url, **{"max_concurrency": 16, **policy_options})
    except AgileGymError as error:
        sys.exit(f"{error}")
    with policy:
        play("random", make_policy("random"), episodes, options)
        complete = play(model, policy, episodes, options)
        spent = policy.usage
    print(
        f"\n{spent.answers} turns from {spent.requests} requests; {spent.prompt_tokens:,} tokens read "
        f"({spent.cached_tokens:,} of them cached), {spent.new_tokens:,} written; {spent.cut} turns cut at max_tokens, "
        f"{spent.withheld} refused"
    )
    if policy.options.price_in is not None:
        print(f"cost: {spent.cost:.4f}")
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
