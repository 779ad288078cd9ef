import pickle
import subprocess
import sys

import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.learner import MissingDependencyError
from agile_gym.policies import make_policy
from agile_gym.policies.api.options import ChatAPIOptions, read_key, resolve_url, scrub

LOCAL = "http://127.0.0.1:8000/v1"


def options(**given):
    return ChatAPIOptions.from_options({"base_url": LOCAL, "api_key_env": None, **given})


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/",) * 2,
        (None, "https://api.openai.com/v1"),
    ],
)
def test_addresses(given, resolved):
    assert resolve_url(given) == resolved.rstrip("/")


def test_the_address_comes_from_the_environment_too(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu:8000/v1")
    assert resolve_url(None) == "http://gpu:8000/v1"
    assert resolve_url(LOCAL) == LOCAL
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:hunter22@gpu:8000/v1")
    with pytest.raises(ConfigurationError, match="environment only") as caught:
        resolve_url(None)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        "https://user:hunter22@host/v1",
        "https://hunter22@host/v1",
        "https://:hunter22@host/v1",
        "https://host/v1?key=hunter22",
        "https://host/v1#hunter22",
        "https://user:hunter22@[::1/v1",
        "https://user:hunter22@host:port/v1",
    ],
)
def test_addresses_with_secrets_are_refused_and_not_repeated(given):
    with pytest.raises(ConfigurationError) as caught:
        options(base_url=given)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("given", ["localhost:8000", "ftp://host/v1", "http://", "", "http://a b/v1", 3, "http://h\n/"])
def test_what_is_no_address_is_refused(given):
    with pytest.raises(ConfigurationError, match="http://localhost:8000/v1"):
        options(base_url=given)


def test_an_address_of_a_route_is_refused():
    with pytest.raises(ConfigurationError, match="before '/chat/completions'"):
        options(base_url=f"{LOCAL}/chat/completions")


@pytest.mark.parametrize("name", ["sk-proj-abcdef0123456789", "AIzaSyAbCdEfGhIjKlMnOp", "a b", "", 3])
def test_a_key_in_the_place_of_its_variables_name_is_not_repeated(name):
    with pytest.raises(ConfigurationError, match="not the key itself") as caught:
        options(api_key_env=name)
    if name:
        assert str(name) not in str(caught.value)


def test_openai_asks_for_a_key_and_others_may_do_without():
    with pytest.raises(ConfigurationError, match=r"OPENAI_API_KEY holds no key for https://api\.openai\.com/v1"):
        ChatAPIOptions.from_options({})
    assert read_key("OPENAI_API_KEY") == read_key(None)
    assert ChatAPIOptions.from_options({"base_url": LOCAL}).url == LOCAL


@pytest.mark.parametrize("value", ["sk-\u201cabc\u201d", "sk abc def", "sk-abc\ndef"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(monkeypatch, value):
    monkeypatch.setenv("TEST_API_KEY", value)
    with pytest.raises(ConfigurationError, match="TEST_API_KEY") as caught:
        options(api_key_env="TEST_API_KEY")
    assert "abc" not in str(caught.value)


def test_blanks_around_a_key_are_left_out(monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", " sk-abc\n")
    assert read_key("TEST_API_KEY") == "sk-abc"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temprature": 1}, "Did you mean 'temperature'"),
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"max_tokens": True}, "max_tokens=True"),
        ({"max_tokens_name": "n"}, "max_completion_tokens"),
        ({"stop": "</code>"}, "a list of texts"),
        ({"stop": ["", "a"]}, "a list of texts"),
        ({"window": 0}, "window=0"),
        ({"image_format": "webp"}, "'png', 'jpeg'"),
        ({"jpeg_quality": 101}, "1 to 100"),
        ({"image_detail": "max"}, "'low', 'high'"),
        ({"max_concurrency": 0}, "1 to 1000"),
        ({"max_retries": -1}, "0 to 1000"),
        ({"max_retries": False}, "0 to 1000"),
        ({"request_timeout": 0}, "seconds above 0"),
        ({"turn_timeout": "long"}, "seconds above 0"),
        ({"backoff": -0.1}, "seconds from 0"),
        ({"requests_per_minute": 0}, "a number above 0"),
        ({"tokens_per_minute": -5}, "a number above 0"),
        ({"price_in": -1}, "price_in"),
        ({"max_cost": 1.0}, "price_in and price_out"),
        ({"send_stop": 1}, "True or False"),
        ({"send_seed": "yes"}, "True, False or None"),
        ({"system": 3}, "a text or None"),
        ({"extra_body": [1]}, "a mapping"),
        ({"extra_body": {"model": "x", "messages": []}}, "messages, model"),
        ({"extra_body": {"x": object()}}, "JSON"),
    ],
)
def test_bad_options_are_refused(given, words):
    with pytest.raises(ConfigurationError, match=words):
        options(**given)


def test_the_key_may_not_be_in_the_extra_body(monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", "sk-0123456789")
    with pytest.raises(ConfigurationError, match="holds the key") as caught:
        options(api_key_env="TEST_API_KEY", extra_body={"api_key": "sk-0123456789"})
    assert "sk-0123456789" not in str(caught.value)


GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai"


@pytest.mark.parametrize(
    ("given", "seed", "fields"),
    [
        ({}, None, {"max_tokens": 2048, "stop": ["</code>", "</answer>", "</tool_call>"]}),
        ({"temperature": 0, "max_tokens": 9, "stop": ()}, 7, {"temperature": 0, "max_tokens": 9}),  # greedy: no seed
        ({"temperature": 0, "stop": (), "max_tokens": None, "send_seed": True}, 7, {"temperature": 0, "seed": 7}),
        ({"top_p": 0.9, "max_tokens": None, "send_stop": False}, 7, {"top_p": 0.9, "seed": 7}),
        ({"max_tokens_name": "max_completion_tokens", "max_tokens": 9, "stop": ()}, None, {"max_completion_tokens": 9}),
        ({"stop": (), "send_seed": False}, 7, {"max_tokens": 2048}),
        ({"base_url": None, "api_key_env": "TEST_API_KEY", "stop": ()}, None, {"max_completion_tokens": 2048}),
        ({"base_url": GEMINI, "stop": ()}, 7, {"max_tokens": 2048}),
        ({"base_url": GEMINI, "stop": (), "send_seed": True}, 7, {"max_tokens": 2048, "seed": 7}),
    ],
)  # fmt: skip
def test_fields_of_a_request(given, seed, fields):
    assert options(**given).fields_of_request(seed) == fields


def test_scrub():
    text = scrub("key SECRET1 and data:image/png;base64,AAAA+/= and\n bearer abc.def", "SECRET1")
    assert text == "key *** and data:... and bearer ***"
    assert scrub("none of this", "none") == "none of this"  # the word that is sent where there is no key
    assert len(scrub("x" * 1000, "k", 100)) < 110


def test_options_survive_pickling():
    made = options(stop=["a"], extra_body={"top_k": 3})
    assert pickle.loads(pickle.dumps(made)) == made


def test_the_policy_is_made_by_its_name():
    pytest.importorskip("openai")
    policy = make_policy("api", model="m", base_url=LOCAL)
    assert type(policy).__name__ == "ChatAPIPolicy"
    assert repr(policy) == f"ChatAPIPolicy('m', base_url='{LOCAL}')"
    with pytest.raises(ConfigurationError, match="not the name of a model"):
        make_policy("api", model=" ", base_url=LOCAL)


@pytest.mark.slow
def test_the_client_is_imported_with_the_policy_only():
    code = (
        "import sys, agile_gym.policies, agile_gym.policies.api.policy\n"
        "heavy = {'openai', 'httpx', 'httpx2', 'torch', 'transformers'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_client_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingDependencyError, match=r"agile-gym\[api\]"):
        make_policy("api", model="m", base_url=LOCAL)
