"""`torch.jit.trace`, from which OpenVINO and the older ONNX exporter start, and both ONNX exporters: one graph serves
every batch and length, with padding."""

import warnings

import every_encoding
import pytest
import torch
from families import FAMILIES
from tiny import LEVELS, TINY


ENCODINGS = {
    **every_encoding.ENCODINGS,
    "tokens": {"segmentation": "tokens", "intra_encoding": "none"},
    "document": {"segmentation": "document", "inter_encoding": "none"},
    "fixed": {"segmentation": "fixed", "fixed_segment_length": 4},
    "factors": {"log_scale_train_length": 16, "logn_train_length": 16},
    "sinusoidal": {"intra_encoding": "sinusoidal"},
    "alibi with levels": {"inter_encoding": "alibi", **LEVELS},
}
SHAPES = [(1, 2), (3, 40), (2, 12)]


class Logits(torch.nn.Module):
    """The model without a cache, from ids and a mask, which is all that these exporters take."""

    def __init__(self, model):
        super().__init__()
        self.model = model.eval()

    def forward(self, input_ids, attention_mask=None, position_ids=None, segment_ids=None):
        names = {"attention_mask": attention_mask, "position_ids": position_ids, "segment_ids": segment_ids}
        return self.model(input_ids=input_ids, use_cache=False, **names).logits


@pytest.fixture(autouse=True)
def quiet():
    """A trace warns wherever Python decides something."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def model_of(family, name):
    torch.manual_seed(0)
    return Logits(
        FAMILIES[family].make_causal_lm(**{**TINY, **every_encoding.shape_for(family, name), **ENCODINGS[name]})
    )


def inputs_of(batch_size, length):
    """Ids and a mask whose rows have one more padding each, none in the first."""
    ids = torch.randint(1, 60, (batch_size, length), generator=torch.Generator().manual_seed(length))
    return ids, (torch.arange(length) >= torch.arange(batch_size)[:, None]).long()


def compare(run, model):
    """The graph beside the model, at the tokens, in shapes other than that of the trace and in its own."""
    for shape in SHAPES:
        ids, mask = inputs_of(*shape)
        is_token = mask.bool()
        torch.testing.assert_close(run(ids, mask)[is_token], model(ids, mask)[is_token], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_traced_model_serves_every_batch_and_length(family, name):
    model = model_of(family, name)
    traced = torch.jit.trace(model, inputs_of(2, 12), check_trace=False)
    compare(traced, model)
    alone = torch.jit.trace(model, (inputs_of(2, 12)[0],), check_trace=False)
    for shape in SHAPES:
        ids, _ = inputs_of(*shape)
        torch.testing.assert_close(alone(ids), model(ids), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["factors", "alibi", "levels"])
def test_a_traced_model_keeps_what_its_arguments_say(family, name):
    """Documents that are packed otherwise than those of the trace, and given segments: no trace decides these."""
    model = model_of(family, name)

    def arguments(batch_size, length, document):
        ids, _ = inputs_of(batch_size, length)
        column = torch.arange(length).expand(batch_size, -1)
        return ids, None, column % document, column // 3

    first = arguments(2, 12, document=12)  # one document, so that nothing is packed
    for given in (slice(2, 3), slice(3, 4)):
        names = ["input_ids", "attention_mask", "position_ids", "segment_ids"]
        wanted = ["input_ids", *names[given]]
        inputs = {name: value for name, value in zip(names, first, strict=True) if name in wanted}
        traced = torch.jit.trace(model, example_kwarg_inputs=inputs, check_trace=False)
        for shape in SHAPES:
            others = dict(zip(names, arguments(*shape, document=5), strict=True))
            others = {name: others[name] for name in wanted}
            torch.testing.assert_close(traced(**others), model(**others), atol=1e-5, rtol=0)


NEEDS_ONNX = "needs pip install '.[onnx]', which make test does"
WITHOUT_ONNX = {"aten.cummax.default", "aten.view.dtype", "aten.__rshift__.Tensor"}


@pytest.mark.parametrize("name", ["tokens", "hybrid", "alibi with levels"])
def test_an_exported_graph_has_nothing_that_onnx_lacks(family, name):
    """The exporter that starts from `torch.export` takes half a minute a model; this is where it failed."""
    program = torch.export.export(model_of(family, name), inputs_of(2, 12))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not names & WITHOUT_ONNX


def onnx_session(model, folder, **options):
    """The model as an ONNX Runtime session, as a function of ids and mask."""
    runtime = pytest.importorskip("onnxruntime", reason=NEEDS_ONNX)
    path = folder / "model.onnx"
    torch.onnx.export(model, inputs_of(2, 12), path, **options)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs):
        values = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, values)[0])

    return run


AXES = {0: "batch", 1: "length"}


@pytest.mark.parametrize("name", ["alibi with levels", "t5"])
def test_the_older_onnx_exporter(family, name, tmp_path):
    pytest.importorskip("onnx", reason=NEEDS_ONNX)
    model = model_of(family, name)
    names = {"input_names": ["ids", "mask"], "output_names": ["logits"], "dynamic_axes": {"ids": AXES, "mask": AXES}}
    compare(onnx_session(model, tmp_path, dynamo=False, **names), model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid", "levels", "t5"])
def test_the_newer_onnx_exporter(family, name, tmp_path):
    pytest.importorskip("onnxscript", reason=NEEDS_ONNX)
    model = model_of(family, name)
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=4096)}
    compare(onnx_session(model, tmp_path, dynamo=True, dynamic_shapes=(sizes, sizes), verbose=False), model)
