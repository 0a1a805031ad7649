"""The server of one model, under load on loopback: every answer is that of `generate`, or one clear error."""

import gc
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice, pairwise
from typing import NamedTuple

import psutil
import pytest
import requests
import torch
from families import FAMILIES
from server import running
from tiny import LEVELS, TINY
from transformers import ContinuousBatchingConfig
from transformers.generation.continuous_batching.requests import RequestState
from word_tokenizer import EOS, make_word_tokenizer, random_words


TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"
BLOCKS = {"num_blocks": 30, "page_size": 8, "max_batch_tokens": 64}  # so few that requests of one round start again
MOST = 30 * 8
"""Tokens of a request, its answer included."""


def make_model(family="llama", **fields):
    torch.manual_seed(0)
    fields = {"inter_encoding": "alibi", "eos_token_id": EOS, **fields}
    return FAMILIES[family].make_causal_lm(**{**TINY, **fields}).eval()


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = make_word_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def model():
    return make_model()


def alone(model, tokenizer, prompt, length):
    """The text and the number of tokens that `generate` writes."""
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    given = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
    written = model.generate(ids, max_new_tokens=length, **given)[0, ids.shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True), len(written)


def post(url, path, body, **kwargs):
    return requests.post(f"{url}/v1/{path}", json=body, timeout=60, **kwargs)


def events(response):
    """What a stream of server-sent events holds."""
    lines = [line for line in response.iter_lines(decode_unicode=True) if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def text_of(body, path):
    choice = body["choices"][0]
    if path == "completions":
        return choice["text"]
    return (choice["message"] if "message" in choice else choice["delta"]).get("content", "")


def asked(path, prompt, length, **fields):
    said = {"prompt": prompt} if path == "completions" else {"messages": [{"role": "user", "content": prompt}]}
    return {"model": "tiny", "max_tokens": length, **said, **fields}


MALFORMED = [
    ("completions", {"model": "tiny", "max_tokens": 3}, 400, "prompt: a text of at least one character"),
    ("chat/completions", {"model": "tiny", "messages": []}, 400, "at least one message"),
    ("chat/completions", asked("chat/completions", 7, 3), 400, "content must be text"),
    ("completions", asked("completions", "w01 " * MOST, 3), 400, "a request can have 240"),
    ("completions", asked("completions", "w01", MOST), 400, "together a request can have 240"),
    ("completions", asked("completions", "w01", 3, model="large"), 400, "pinned to 'tiny'; requested 'large'"),
    ("completions", asked("completions", "w01", 0), 400, "max_tokens: must be a whole number of at least 1"),
    ("completions", asked("completions", " ", 3), 400, "the prompt has no token"),
    ("completions", asked("completions", "w01", 3, temperature="hot"), 400, "temperature: must be a number"),
    ("completions", asked("completions", "w01", 3, temperature=0.5), 400, "temperature, top_p: with continuous"),
    ("completions", asked("completions", "w01", 3, stop="w02"), 400, "stop: with continuous batching"),
    ("completions", asked("completions", "w01", 3, seed="now"), 400, "seed: "),
    ("completions", asked("completions", "w01", 3, generation_config="{"), 400, "generation_config: "),
    ("completions", asked("completions", "w01", 3, colour="red"), 422, "Unexpected fields"),
    ("completions", "{", 422, "JSON decode error"),
    ("responses", {"input": "w01"}, 404, "answers /v1/chat/completions and /v1/completions"),
]


CALL = {"type": "function", "id": "1", "function": {"name": "look", "arguments": '{"at": "w01"}'}}
# Of both ways to write answers: what is asked for besides, of texts, of chats or of both, and the message.
REFUSED = [
    ("both", {"n": 2}, "n: 2 is not taken here, only 1: leave it out"),
    ("completions", {"best_of": 3}, "best_of: 3 is not taken here, only 1"),
    ("completions", {"echo": True}, "echo: True is not taken here, only False"),
    ("completions", {"logprobs": 0}, "logprobs: 0 is not taken here"),
    ("completions", {"logit_bias": {"5": 1}}, "logit_bias: taken by /v1/chat/completions alone"),
    ("chat/completions", {"response_format": {"type": "json_object"}}, "response_format: {'type': 'json_object'}"),
    ("chat/completions", {"tool_choice": "required"}, "tool_choice: 'required' is not taken here, only 'auto'"),
    ("both", {"presence_penalty": 0.5}, "presence_penalty: 0.5 is not taken here, only 0"),
    ("both", {"frequency_penalty": -1}, "frequency_penalty: must be a number from -0.99 to 2, got -1"),
    ("both", {"seed": 10**30}, "seed: must have 64 bits"),
    ("both", {"seed": True}, "seed: True has the wrong type"),
    ("both", {"stop": [1]}, "stop: must be a text or a list of texts, none of them empty, got [1]"),
    ("both", {"stop": ""}, "stop: must be a text"),
    ("chat/completions", {"logit_bias": {"w01": 1}}, "logit_bias: must give numbers to tokens from 0 to"),
    ("chat/completions", {"logit_bias": {"100000": 1}}, "logit_bias: must give numbers to tokens from 0 to"),
    ("chat/completions", {"tools": [1]}, "tools: each must be an object"),
    ("chat/completions", {"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs: tokenize: the server"),
    (
        "chat/completions",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
        "tool_calls must be",
    ),
    ("chat/completions", {"messages": [{"role": "assistant", "tool_calls": 1}]}, "tool_calls must be a list"),
]
# What clients send along and means nothing.
HARMLESS = {"n": 1, "user": "me", "seed": 7, "stop": None, "stream_options": None, "presence_penalty": 0}


class Load(NamedTuple):
    """What 64 clients ask for, as far as they wait for an answer with the answers of `generate`."""

    ordinary: list[tuple[str, int]]
    expected: list[tuple[str, int]]
    endless: list[str]
    """Prompts with long answers, for which nobody waits."""


def make_load(model, tokenizer):
    draw = random.Random(0)
    ordinary = [(random_words(draw.randint(1, 80), seed=draw.random()), draw.randint(1, 12)) for _ in range(40)]
    beginnings = (random_words(20, seed=f"{at}") for at in count())
    endless = (prompt for prompt in beginnings if alone(model, tokenizer, prompt, 50)[1] == 50)
    return Load(ordinary, [alone(model, tokenizer, *each) for each in ordinary], list(islice(endless, 8)))


def one_round(server, load, seed):
    """64 requests at once: mixed, some of which nobody waits for, some malformed; returns what went wrong."""

    def answered(at):
        prompt, length = load.ordinary[at]
        path = ("completions", "chat/completions")[at % 2]
        streamed = at % 4 > 1
        response = post(server.url, path, asked(path, prompt, length, stream=streamed), stream=streamed)
        bodies = events(response) if streamed else [response.json()]
        text, length = "".join(text_of(body, path) for body in bodies), bodies[-1]["usage"]["completion_tokens"]
        assert (response.status_code, text, length) == (200, *load.expected[at])

    def left(at):
        body = asked("completions", load.endless[at], 200, stream=True)
        with post(server.url, "completions", body, stream=True) as response:
            lines = response.iter_lines()
            for _ in range(3):
                assert next(lines)
                next(lines)  # what parts events

    def malformed(at):
        path, body, status, message = MALFORMED[at % len(MALFORMED)]
        if isinstance(body, str):
            header = {"content-type": "application/json"}
            response = requests.post(f"{server.url}/v1/{path}", data=body, headers=header, timeout=60)
        else:
            response = post(server.url, path, body)
        assert (response.status_code, message in response.text) == (status, True), response.text

    jobs = (
        [(answered, at) for at in range(40)] + [(left, at) for at in range(8)] + [(malformed, at) for at in range(16)]
    )
    random.Random(seed).shuffle(jobs)
    with ThreadPoolExecutor(len(jobs)) as pool:
        started = threading.Barrier(len(jobs))
        done = [pool.submit(lambda job=job, at=at: (started.wait(), job(at))) for job, at in jobs]
    return [repr(each.exception()) for each in done if each.exception() is not None]


def check_nothing_is_left(server):
    server.wait_until_idle()
    manager = server.answers.manager._cb
    assert not manager.output_router.result_handlers
    cache = manager.batch_processor.cache
    cache.evict_cached_blocks()  # of prompts that may come again
    cache.pool.try_to_free_sectors()
    assert cache.compute_free_capacity() == 1
    assert post(server.url, "completions", asked("completions", "w05", 2)).status_code == 200
    server.wait_until_idle()
    assert manager.output_router.output_queue.qsize() == 0
    gc.collect()
    assert sum(isinstance(each, RequestState) for each in gc.get_objects()) <= 1  # the batch that was last
    assert requests.get(f"{server.url}/health", timeout=5).json() == {"status": "ok"}


def test_64_requests_at_once(model, tokenizer):
    load = make_load(model, tokenizer)
    with running(model, tokenizer, ContinuousBatchingConfig(**BLOCKS)) as server:
        resident = []
        for seed in range(3):
            assert one_round(server, load, seed) == []
            check_nothing_is_left(server)
            resident.append(psutil.Process().memory_info().rss)
        # what is left of requests would come with every round, unlike pages that the allocator keeps for new threads
        assert min(later - earlier for earlier, later in pairwise(resident)) < 4e6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {"inter_encoding": "rope", **LEVELS}),
        ("gpt_neox", {"inter_encoding": "hybrid", "hybrid_max_period": 20.0}),
    ],
    ids=["levels", "gpt_neox"],
)
def test_64_requests_at_once_of_other_models(family, fields, tokenizer):
    model = make_model(family, **fields)
    load = make_load(model, tokenizer)
    with running(model, tokenizer, ContinuousBatchingConfig(**BLOCKS)) as server:
        assert one_round(server, load, 0) == []
        check_nothing_is_left(server)


def test_a_request_of_no_length_takes_what_there_is(model, tokenizer):
    with running(model, tokenizer, ContinuousBatchingConfig(**{**BLOCKS, "num_blocks": 4})) as server:
        body = asked("completions", "w01 w02 w03", None)
        usage = post(server.url, "completions", body).json()["usage"]
        expected = alone(model, tokenizer, "w01 w02 w03", 4 * 8 - 3)
        assert usage == {"prompt_tokens": 3, "completion_tokens": expected[1], "total_tokens": 3 + expected[1]}


def test_an_id_may_be_given_twice_and_again_by_a_client_who_left(model, tokenizer):
    with running(model, tokenizer, ContinuousBatchingConfig(**BLOCKS)) as server:
        given = {"headers": {"x-request-id": "mine"}}
        expected = {prompt: alone(model, tokenizer, prompt, 3)[0] for prompt in ("w01", "w02")}
        with server.answers.manager._cb.pause():
            streams = {
                prompt: post(
                    server.url, "completions", asked("completions", prompt, 3, stream=True), stream=True, **given
                )
                for prompt in expected
            }
            with post(server.url, "completions", asked("completions", "w03", 200, stream=True), stream=True, **given):
                pass  # it leaves before anything is written
            last = ThreadPoolExecutor(1).submit(
                post, server.url, "completions", asked("completions", "w01", 3), **given
            )
        for prompt, stream in streams.items():
            written = events(stream)
            assert "".join(text_of(event, "completions") for event in written) == expected[prompt]
            assert {event["id"] for event in written} == {"mine"}
        assert last.result().json()["choices"][0]["text"] == expected["w01"]
        check_nothing_is_left(server)


@pytest.mark.parametrize("batching", [ContinuousBatchingConfig(**BLOCKS), None], ids=["together", "one by one"])
def test_what_would_be_passed_over_or_break_is_refused(batching, model, tokenizer):
    with running(model, tokenizer, batching) as server:
        for path in ("completions", "chat/completions"):
            for only, fields, message in REFUSED:
                if only in (path, "both"):
                    response = post(server.url, path, asked(path, "w01", 3) | fields)
                    assert (response.status_code, message in response.text) == (400, True), (fields, response.text)
            body = post(server.url, path, asked(path, "w01", 3) | HARMLESS).json()
            assert text_of(body, path) == alone(model, tokenizer, "w01", 3)[0]
        called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        said = [{"role": "user", "content": "w01", "tool_calls": None}, called, {"role": "user", "content": "w02"}]
        response = post(server.url, "chat/completions", {"model": "tiny", "max_tokens": 3, "messages": said})
        assert response.status_code == 200, response.text


def test_a_seed_is_refused_where_all_draw_from_the_same_numbers(tokenizer):
    model = make_model()
    model.generation_config.do_sample = True
    with running(model, tokenizer, ContinuousBatchingConfig(**BLOCKS)) as server:
        refused = post(server.url, "completions", asked("completions", "w01", 3, seed=1))
        assert (refused.status_code, "seed: with continuous batching all answers" in refused.text) == (400, True)
        assert post(server.url, "completions", asked("completions", "w01", 3)).status_code == 200


def test_an_error_in_the_middle_of_an_answer_is_json(model, tokenizer, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('no "room"\nhere')

    with running(model, tokenizer, None) as server:
        monkeypatch.setattr(model, "generate", fail)
        (event,) = events(post(server.url, "completions", asked("completions", "w01", 3, stream=True), stream=True))
        assert event == {"error": 'no "room"\nhere'}


def test_a_batch_that_ends_takes_no_request_that_would_wait_for_ever(model, tokenizer):
    with running(model, tokenizer, ContinuousBatchingConfig(**BLOCKS)) as server:
        batch = server.answers.manager._cb
        status = batch.background_thread_status
        status.request_stop(status.FLUSH_AND_STOP, 0)
        for streamed in (False, True):
            response = post(server.url, "completions", asked("completions", "w01", 3, stream=streamed))
            assert (response.status_code, "takes no further request" in response.text) == (503, True), response.text
        assert not batch.output_router.result_handlers


@pytest.mark.parametrize("encoding", ["rope", "kerple"])
def test_one_by_one_serves_every_encoding_and_draws(encoding, tokenizer):
    model = make_model(inter_encoding=encoding)
    prompt = random_words(30, seed=1)
    expected = alone(model, tokenizer, prompt, 12)
    with running(model, tokenizer, None) as server:
        for path in ("completions", "chat/completions"):
            body = post(server.url, path, asked(path, prompt, 12)).json()
            assert (text_of(body, path), body["usage"]["completion_tokens"]) == expected
            streamed = events(post(server.url, path, asked(path, prompt, 12, stream=True), stream=True))
            assert "".join(text_of(body, path) for body in streamed) == expected[0]
        hot = asked("completions", prompt, 12, temperature=2.0)
        drawn = [
            post(server.url, "completions", {**hot, "seed": seed}).json()["choices"][0]["text"] for seed in (1, 1, 2)
        ]
        assert drawn[0] == drawn[1] != drawn[2]
        with post(server.url, "completions", asked("completions", prompt, 10_000, stream=True), stream=True) as left:
            next(left.iter_lines())
        assert (
            post(server.url, "completions", asked("completions", prompt, 12)).json()["choices"][0]["text"]
            == expected[0]
        )


def test_a_model_without_a_chat_template_says_so(model):
    with running(model, make_word_tokenizer(), ContinuousBatchingConfig(**BLOCKS)) as server:
        refused = post(server.url, "chat/completions", asked("chat/completions", "w01", 3))
        assert (refused.status_code, "no chat template: use /v1/completions" in refused.text) == (400, True)
        assert post(server.url, "completions", asked("completions", "w01", 3)).status_code == 200


def test_a_template_that_refuses_a_turn_is_a_bad_request(model):
    tokenizer = make_word_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('a system turn comes first') }}"
    with running(model, tokenizer, None) as server:
        refused = post(server.url, "chat/completions", asked("chat/completions", "w01", 3))
        assert (refused.status_code, "a system turn comes first" in refused.text) == (400, True)


def test_the_model_stays_whatever_a_client_asks_for(model, tokenizer):
    with running(model, tokenizer, None) as server:
        listed = requests.get(f"{server.url}/v1/models", timeout=5).json()["data"]
        assert [each["id"] for each in listed] == ["tiny"]
        assert requests.post(f"{server.url}/reset", timeout=5).status_code == 200
        (other,) = events(requests.post(f"{server.url}/load_model", json={"model": "other"}, timeout=5))
        assert other["status"] == "error"
        (own,) = events(requests.post(f"{server.url}/load_model", json={"model": "tiny"}, timeout=5))
        assert own["status"] == "ready"
        assert post(server.url, "completions", asked("completions", "w01", 3)).status_code == 200


def test_a_batch_that_died_is_a_server_that_is_not_well(model, tokenizer, monkeypatch):
    with running(model, tokenizer, ContinuousBatchingConfig(**BLOCKS)) as server:

        def fail(*args, **kwargs):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(server.answers.manager._cb.batch_processor, "_generation_step", fail)
        for statuses in ({500, 503}, {503}):  # the request that met it, and the next
            response = post(server.url, "completions", asked("completions", "w01", 3))
            assert response.status_code in statuses
            assert "out of memory" in response.text
        assert requests.get(f"{server.url}/health", timeout=5).status_code == 503
