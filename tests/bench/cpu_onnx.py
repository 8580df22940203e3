"""ONNX Runtime's operators of attention as contenders of cpu_peers.py: a model of one node for each row."""
import numpy as np

import cpu_rows

OPERATORS = ("ort-mha", "ort-gqa", "ort-attention")

why_not = None
try:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
except ImportError as error:
    why_not = error
CONTRIB = "com.microsoft"


def version():
    return onnxruntime.__version__


class Graph:
    """One node: its attributes, and its inputs in order, None for those left out."""

    def __init__(self, operator, domain, attributes):
        self.operator, self.domain, self.attributes = operator, domain, attributes
        self.inputs, self.outputs = [], []

    def model(self):
        def infos(tensors):
            return [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                    for name, value in tensors if value is not None]
        node = helper.make_node(self.operator, [name if value is not None else "" for name, value in self.inputs],
                                [name for name, _ in self.outputs], domain=self.domain, **self.attributes)
        graph = helper.make_graph([node], "row", infos(self.inputs), infos(self.outputs))
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=11).SerializeToString()


def packed(t):
    """[B, N, H * D] of [B, H, N, D]."""
    b, h, n, d = t.shape
    out = cpu_rows.aligned((b, n, h * d), t.dtype)
    out.reshape(b, n, h, d)[...] = t.transpose(0, 2, 1, 3)
    return out


def mha(row, inputs):
    """k and v as [B, H, N, D], which spares it turning them round."""
    if row.kind in ("softcap", "decode") or row.type != "f32":
        raise NotImplementedError
    graph = Graph("MultiHeadAttention", CONTRIB, {"num_heads": row.heads, "unidirectional": int(row.kind == "causal")})
    bias = None if row.kind in ("full", "causal") else cpu_rows.bias(row, inputs)
    graph.inputs = [("q", packed(inputs.q)), ("k", inputs.k), ("v", inputs.v), ("bias", None), ("padding", None),
                    ("attention_bias", bias)]
    return graph


def gqa(row, inputs):
    """Its mask is causal. Of decode the last key is new and the rest the past, in a buffer that it appends to."""
    if row.kind in ("full", "prefix") or row.type == "bf16":
        raise NotImplementedError
    graph = Graph("GroupQueryAttention", CONTRIB, {
        "num_heads": row.heads, "kv_num_heads": row.kv_heads, "softcap": cpu_rows.CAP if row.kind == "softcap" else 0.0,
        "local_window_size": row.window if row.kind == "sliding" else -1})
    decodes = row.kind == "decode"
    fresh = [packed(t[:, :, -1:]) if decodes else packed(t) for t in (inputs.k, inputs.v)]
    bias = cpu_rows.bias(row, inputs) if row.kind in ("alibi", "document") else None
    past = (inputs.k, inputs.v) if decodes else (None, None)
    graph.inputs = [("q", packed(inputs.q)), ("k", fresh[0]), ("v", fresh[1]), ("past_key", past[0]),
                    ("past_value", past[1]), ("seqlens_k", np.full(row.batch, row.n - 1, np.int32)),
                    ("total", np.array(row.n, np.int32)), ("cos", None), ("sin", None), ("position", None),
                    ("attention_bias", bias)]
    graph.outputs = [("present_key", inputs.k if decodes else np.empty_like(inputs.k)),
                     ("present_value", inputs.v if decodes else np.empty_like(inputs.v))]
    return graph


def attention(row, inputs):
    """The operator of the standard."""
    if row.type == "bf16":
        raise NotImplementedError
    graph = Graph("Attention", "", {"is_causal": int(row.kind in ("causal", "softcap")),
                                    "softcap": cpu_rows.CAP if row.kind == "softcap" else 0.0})
    bias = None
    if row.kind in ("sliding", "alibi", "document", "prefix"):
        bias = cpu_rows.bias(row, inputs)
    graph.inputs = [("q", inputs.q), ("k", inputs.k), ("v", inputs.v), ("mask", bias)]
    return graph


class Contender:
    def __init__(self, name, row, inputs, threads):
        graph = dict(zip(OPERATORS, (mha, gqa, attention)))[name](row, inputs)
        self.row = row
        flat = graph.inputs[0][1].ndim == 3
        self.out = cpu_rows.aligned(graph.inputs[0][1].shape, inputs.q.dtype)
        graph.outputs.insert(0, ("out", self.out))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.force_spinning_stop", "1")  # not into the next contender's time
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(graph.model(), options, ["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        self.kept = []  # tensors whose memory is bound
        for bind, tensors in ((self.binding.bind_ortvalue_input, graph.inputs),
                              (self.binding.bind_ortvalue_output, graph.outputs)):
            for tensor_name, value in tensors:
                if value is not None:
                    self.kept.append((value, onnxruntime.OrtValue.ortvalue_from_numpy(value)))
                    bind(tensor_name, self.kept[-1][1])
        self.flat = flat

    def launch(self):
        self.session.run_with_iobinding(self.binding)

    def result(self):
        if not self.flat:
            return self.out
        row = self.row
        return self.out.reshape(row.batch, row.queries, row.heads, row.dim).transpose(0, 2, 1, 3)

    def close(self):
        self.session = self.binding = None
        self.kept = []
