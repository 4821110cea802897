"""The native service over gRPC, by a client that is generated from the .proto."""

import importlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tests.system.harness import ServerProcess
from tests.system.tiny_model import VOCAB, write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "packages/server/src/tupelo_server/rpc/tupelo.proto"
KEY = "sesame"
METADATA = (("authorization", f"Bearer {KEY}"),)
GREEDY = {"temperature": 0.0, "max_new_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


@pytest.fixture(scope="module")
def served(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A tiny random model behind a key, over HTTP and gRPC."""
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    flags = ["--load-format", "dummy", "--grpc-port", str(port), "--check-integrity"]
    with ServerProcess(
        folder, tmp_path_factory.mktemp("log"), *flags, environment={"TUPELO_API_KEY": KEY}
    ) as server:
        yield server


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The messages, generated in a process of its own as a user would."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "generated.proto").write_text(
        PROTO.read_text().replace("package tupelo.v1", "package generated.v1")
    )
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--python_out={folder}",
         f"--grpc_python_out={folder}", "generated.proto"],
        check=True,
    )  # fmt: skip
    stub = folder / "generated_pb2_grpc.py"
    stub.write_text(stub.read_text().replace("/generated.v1.", "/tupelo.v1."))
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("generated_pb2")
        module.stub = importlib.import_module("generated_pb2_grpc").TupeloStub  # type: ignore[attr-defined]
    finally:
        sys.path.remove(str(folder))
    return module


@pytest.fixture
def channel(served: ServerProcess, port: int) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as found:
        yield found


@pytest.fixture
def stub(channel: grpc.Channel, client: ModuleType) -> Any:
    return client.stub(channel)


def ids(count: int) -> list[int]:
    return [(7 * i) % (VOCAB - 1) + 1 for i in range(count)]


def test_generation_equals_the_http_route(
    stub: Any, client: ModuleType, served: ServerProcess
) -> None:
    request = client.GenerateRequest(
        input_ids=client.TokenIds(ids=ids(9)),
        sampling_params=client.SamplingParams(**GREEDY),
        return_logprob=True,
        top_logprobs_num=2,
    )
    streamed = list(stub.Generate(request, metadata=METADATA, timeout=60))
    assert len(streamed) > 3
    request.whole = True
    (whole,) = stub.Generate(request, metadata=METADATA, timeout=60)
    body = {"input_ids": ids(9), "sampling_params": GREEDY, "return_logprob": True}
    reply = httpx.post(
        f"{served.url}/generate", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60
    ).json()
    assert list(whole.output_ids) == [i for r in streamed for i in r.output_ids]
    assert list(whole.output_ids) == reply["output_ids"]
    assert whole.text == "".join(r.text for r in streamed) == reply["text"]
    assert whole.finish_reason == streamed[-1].finish_reason == "length"
    assert (whole.prompt_tokens, whole.completion_tokens) == (9, 12)
    assert [r.token_id for r in whole.logprobs] == reply["output_ids"]
    wanted = [row[0] for row in reply["meta_info"]["output_token_logprobs"]]
    assert [r.logprob for r in whole.logprobs] == pytest.approx(wanted, abs=1e-5)
    assert all(len(r.top) == 2 for r in whole.logprobs)


def test_several_samples_have_their_index(stub: Any, client: ModuleType) -> None:
    params = client.SamplingParams(n=3, max_new_tokens=4, ignore_eos=True, sampling_seed=1)
    request = client.GenerateRequest(text="w5 w6 w7", sampling_params=params)
    ends = [r for r in stub.Generate(request, metadata=METADATA, timeout=60) if r.finish_reason]
    assert sorted(r.index for r in ends) == [0, 1, 2]


def test_bad_requests_say_what_is_wrong(stub: Any, client: ModuleType) -> None:
    params = client.SamplingParams
    cases = [
        (client.GenerateRequest(), "text"),
        (client.GenerateRequest(text="w1", sampling_params=params(top_p=2.0)), "top_p"),
        (client.GenerateRequest(text="w1", top_logprobs_num=3), "top_logprobs_num"),
        (client.GenerateRequest(input_ids=client.TokenIds(ids=[VOCAB])), "input_ids"),
        (client.GenerateRequest(text="w1", sampling_params=params(regex="a", ebnf="b")), None),
        (client.GenerateRequest(text="w1 " * 200, sampling_params=params(max_new_tokens=100)),
         "text"),
    ]  # fmt: skip
    for request, param in cases:
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Generate(request, metadata=METADATA, timeout=60))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, request
        trailers = dict(caught.value.trailing_metadata())
        assert param is None or trailers.get("tupelo-param") == param
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(client.EmbedRequest(text="w1"), metadata=METADATA, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_methods_need_a_key(stub: Any, client: ModuleType) -> None:
    for call in (
        lambda m: list(stub.Generate(client.GenerateRequest(text="w1"), metadata=m, timeout=60)),
        lambda m: stub.Tokenize(client.TokenizeRequest(text="w1"), metadata=m, timeout=60),
        lambda m: stub.GetModelInfo(client.ModelInfoRequest(), metadata=m, timeout=60),
        lambda m: stub.FlushCache(client.FlushCacheRequest(), metadata=m, timeout=60),
    ):
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.RpcError) as caught:
                call(metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert stub.Health(client.HealthRequest(), timeout=60).ready


def test_text_and_ids(stub: Any, client: ModuleType) -> None:
    tokens = stub.Tokenize(client.TokenizeRequest(text="w3 w9"), metadata=METADATA, timeout=60)
    assert list(tokens.ids) == [3, 9]
    text = stub.Detokenize(client.DetokenizeRequest(ids=[3, 9]), metadata=METADATA, timeout=60)
    assert text.text == "w3 w9"
    info = stub.GetModelInfo(client.ModelInfoRequest(), metadata=METADATA, timeout=60)
    assert (info.architecture, info.vocab_size) == ("LlamaForCausalLM", VOCAB)
    stub.FlushCache(client.FlushCacheRequest(), metadata=METADATA, timeout=60)


@pytest.mark.parametrize("how", ["cancel", "abort"])
def test_ending_a_call_frees_its_pages(
    how: str, stub: Any, client: ModuleType, served: ServerProcess
) -> None:
    params = client.SamplingParams(max_new_tokens=200, ignore_eos=True)
    request = client.GenerateRequest(text="w5 w6", sampling_params=params, rid="mine")
    call = stub.Generate(request, metadata=METADATA, timeout=60)
    next(call)
    if how == "cancel":
        call.cancel()
    else:
        stub.Abort(client.AbortRequest(rid="mine"), metadata=METADATA, timeout=60)
        assert [r.finish_reason for r in call][-1] == "abort"
    owned = lambda: served.metric("tupelo:pages_owned")  # noqa: E731
    served.wait_for(lambda: owned() == 0, 10)


def test_reflection_lists_and_describes(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "tupelo.v1.Tupelo" in database.get_services()
    file = database.FindFileContainingSymbol("tupelo.v1.Tupelo")
    (service,) = file.service
    assert "Generate" in [method.name for method in service.method]


def test_the_health_service_follows_readiness(channel: grpc.Channel, served: ServerProcess) -> None:
    health = health_pb2_grpc.HealthStub(channel)

    def status() -> int:
        request = health_pb2.HealthCheckRequest(service="tupelo.v1.Tupelo")
        found: int = health.Check(request, timeout=10).status
        return found

    states = health_pb2.HealthCheckResponse
    served.wait_for(lambda: status() == states.SERVING, 10)
    served.engine.send_signal(signal.SIGSTOP)
    try:
        served.wait_for(lambda: status() == states.NOT_SERVING, 15)
    finally:
        served.engine.send_signal(signal.SIGCONT)
    served.wait_for(lambda: status() == states.SERVING, 15)


def test_a_taken_port_ends_the_start(port: int, served: ServerProcess, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    command = [sys.executable, "-m", "tupelo", "serve", str(folder), "--load-format", "dummy"]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--port", "0", "--grpc-port", str(port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "--grpc-port" in done.stderr
    assert time.monotonic() - began < 60


def test_the_compiled_descriptors_are_those_of_the_proto() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "ci" / "proto.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
