"""A lean forward pass for the Llama family, over packed sequences of several versions at once.

The layers' weights are taken out of the transformers model and put together: one matrix for query, key and value, one
for gate and up, packed once for the CPU's matrix units. Rows of one version stand together, and each run of them adds
its own low-rank product to the base's, so versions share every other step.

Only what :func:`supports` accepts comes here; every other architecture runs as transformers wrote it
(``selflearn.serving.runners``). The engine compares both on the probe before it trusts this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from selflearn.errors import ModelError
from selflearn.models.adapter import Array
from selflearn.serving.cache import BlockCache, CachePlan, CacheShape, attend

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
#: The linear layers of a decoder layer, by the product they are computed in.
PRODUCTS: Mapping[str, tuple[str, ...]] = {
    "attention_in": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_out": ("self_attn.o_proj",),
    "mlp_in": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp_out": ("mlp.down_proj",),
}

SMALL, LARGE = 8, 32

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class LowRank:
    """The adapters of the layers in one product, as one: ``down`` [d_in, ranks] and ``up`` [ranks, d_out], fp32.

    ``up`` is block-diagonal over the layers and carries the scale, as ``bias`` [d_out] does, the change of the biases.
    """

    down: Tensor
    up: Tensor
    bias: Tensor | None = None

    def add(self, result: Tensor, inputs: Tensor) -> Tensor:
        """``result`` plus the low-rank product, computed in fp32 and rounded once, as PEFT does."""
        before = result.float() if self.bias is None else result.float() + self.bias
        return torch.addmm(before, inputs.float() @ self.down, self.up).to(result.dtype)


#: Per decoder layer, by product. The base has none.
Adapter = Sequence[Mapping[str, LowRank]] | None


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive rows of a packed batch that belong to one version."""

    rows: slice
    adapter: Adapter


@dataclass(frozen=True, slots=True)
class _Layer:
    products: Mapping[str, Linear]
    attention_norm: Tensor
    mlp_norm: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None


def supports(model: PreTrainedModel) -> bool:
    """Whether this forward pass computes what the model computes."""
    config = model.config
    return (
        config.model_type in FAMILY
        and config.hidden_act == "silu"
        and not getattr(config, "use_sliding_window", False)
        and (config.model_type != "mistral" or config.sliding_window is None)
    )


class FusedDecoder:
    """The model's layers. With ``take`` the model's own linear layers are empty afterwards, one after the other."""

    def __init__(self, model: PreTrainedModel, *, take: bool = False) -> None:
        inner: Any = model.model
        self._embedding: Tensor = inner.embed_tokens.weight
        self._rotary: nn.Module = inner.rotary_emb
        self._norm, self._epsilon = inner.norm.weight, float(inner.norm.variance_epsilon)
        attention: Any = inner.layers[0].self_attn
        self._head_size = int(attention.head_dim)
        self._scale = float(attention.scaling)
        heads: Any = model.config
        self._query_heads, self._heads = int(heads.num_attention_heads), int(heads.num_key_value_heads)
        head: Any = model.get_output_embeddings()
        self._head = _linear([head])
        first = inner.layers[0]
        #: Features in and out of each of ``PRODUCTS``.
        self.sizes = [_sizes([first.get_submodule(part) for part in parts]) for parts in PRODUCTS.values()]
        self._layers = [_read(layer, take) for layer in inner.layers]
        self.device = self._embedding.device

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self._layers)

    @property
    def shared_heads(self) -> int:
        """Query heads per key head."""
        return self._query_heads // self._heads

    @property
    def cache_shape(self) -> CacheShape:
        return CacheShape(len(self._layers), self._heads, self._head_size, self._embedding.dtype)

    def forward(
        self, ids: Tensor, positions: Tensor, cache: BlockCache, plan: CachePlan, runs: Sequence[Run], wanted: Tensor
    ) -> Tensor:
        """Logits [wanted, vocabulary] of the packed tokens at ``wanted``; ``ids`` and ``positions`` are [tokens]."""
        surplus = _rounded(len(ids)) - len(ids)
        ids, positions = functional.pad(ids, (0, surplus)), functional.pad(positions, (0, surplus))
        hidden = functional.embedding(ids, self._embedding)
        cosine, sine = self._rotary(hidden, positions.unsqueeze(0))
        rotation = cosine[0].unsqueeze(1), _signed(sine[0]).unsqueeze(1)
        adapted = [run for run in runs if run.adapter is not None]
        for number, layer in enumerate(self._layers):
            adapters = [(run.rows, run.adapter[number]) for run in adapted if run.adapter is not None]
            hidden = self._layer(layer, hidden, rotation, cache.layers[number], plan, adapters)
        if not len(wanted):  # a piece from the middle of a prompt
            return hidden.new_empty((0, self._embedding.shape[0]))
        rows = functional.pad(wanted, (0, _rounded(len(wanted)) - len(wanted)))
        hidden = functional.rms_norm(hidden[rows], self._norm.shape, self._norm, self._epsilon)
        return self._head(hidden)[: len(wanted)]

    def _layer(
        self,
        layer: _Layer,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        store: tuple[Tensor, Tensor],
        plan: CachePlan,
        adapters: list[tuple[slice, Mapping[str, LowRank]]],
    ) -> Tensor:
        def product(name: str, inputs: Tensor) -> Tensor:
            result = layer.products[name](inputs)
            for rows, adapter in adapters:
                if rows.stop - rows.start == len(inputs):
                    return adapter[name].add(result, inputs)
                result[rows] = adapter[name].add(result[rows], inputs[rows])
            return result

        normed = functional.rms_norm(hidden, layer.attention_norm.shape, layer.attention_norm, self._epsilon)
        states = product("attention_in", normed).view(len(hidden), -1, self._head_size)
        turned, value = states[:, : -self._heads], states[:, -self._heads :]
        if layer.query_norm is not None and layer.key_norm is not None:
            turned = self._normed_heads(turned, layer.query_norm, layer.key_norm)
        turned = turned * rotation[0] + _swapped(turned) * rotation[1]
        query, key = turned[:, : self._query_heads], turned[:, self._query_heads :]
        real = len(plan.slots)  # what is beyond only rounds the products' size
        attended = attend(query[:real], key[:real], value[:real], store, plan, self._scale).flatten(1)
        hidden = hidden + product("attention_out", functional.pad(attended, (0, 0, 0, len(hidden) - real)))
        normed = functional.rms_norm(hidden, layer.mlp_norm.shape, layer.mlp_norm, self._epsilon)
        gate, up = product("mlp_in", normed).chunk(2, dim=-1)
        return hidden + product("mlp_out", functional.silu(gate) * up)

    def _normed_heads(self, states: Tensor, query_norm: Tensor, key_norm: Tensor) -> Tensor:
        query, key = states[:, : self._query_heads], states[:, self._query_heads :]
        size = (self._head_size,)
        normed = (
            functional.rms_norm(query, size, query_norm, self._epsilon),
            functional.rms_norm(key, size, key_norm, self._epsilon),
        )
        return torch.cat(normed, dim=1)


def adapter_of(
    factors: Mapping[str, tuple[Array, Array]], scale: float, biases: Mapping[str, Array], decoder: FusedDecoder
) -> Adapter:
    """Puts saved factors together: layer names of the model to A [rank, d_in] and B [d_out, rank].

    ``biases`` [d_out] are the changes of those layers' biases that were trained, before the scale. Raises
    ``ModelError`` when the factors are not those of exactly the decoder's layers.
    """
    names = {f"model.layers.{number}.{part}" for number in range(decoder.depth) for part in chain(*PRODUCTS.values())}
    if set(factors) != names:
        odd = sorted(set(factors) ^ names)
        raise ModelError(
            f"The adapter does not fit the model: {len(odd)} layers are on one side only, first {odd[0]}. Use the base "
            "model that it was trained on."
        )
    adapter = []
    for number in range(decoder.depth):
        layer = {}
        for (name, parts), sizes in zip(PRODUCTS.items(), decoder.sizes, strict=True):
            names_here = [f"model.layers.{number}.{part}" for part in parts]
            pairs = [factors[layer_name] for layer_name in names_here]
            bias = _bias([biases.get(layer_name) for layer_name in names_here], pairs, scale)
            layer[name] = _low_rank(pairs, scale, bias, sizes, decoder.device)
        adapter.append(layer)
    return adapter


def same_adapter(
    adapter: Sequence[Mapping[str, LowRank]],
    factors: Mapping[str, tuple[Array, Array]],
    scale: float,
    biases: Mapping[str, Array],
) -> bool:
    """Whether an adapter, read back from where it computes, holds exactly these factors and biases."""
    for number, layer in enumerate(adapter):
        for name, parts in PRODUCTS.items():
            down, up = layer[name].down.cpu().numpy(), layer[name].up.cpu().numpy()
            names = [f"model.layers.{number}.{part}" for part in parts]
            pairs = [factors[layer_name] for layer_name in names]
            if not _same_bias(layer[name].bias, _bias([biases.get(layer_name) for layer_name in names], pairs, scale)):
                return False
            row = column = 0
            for factor_a, factor_b in pairs:
                features, rank = factor_b.shape
                block = up[row : row + rank, column : column + features]
                if not (
                    np.array_equal(down[:, row : row + rank].T, factor_a) and np.array_equal(block.T, factor_b * scale)
                ):
                    return False
                row, column = row + rank, column + features
    return True


def _bias(biases: Sequence[Array | None], factors: Sequence[tuple[Array, Array]], scale: float) -> Array | None:
    """The scaled biases of the layers in one product, one after the other, zero where there is none; or no bias."""
    if all(bias is None for bias in biases):
        return None
    sizes = [len(factor_b) for _, factor_b in factors]
    filled = [np.zeros(n, np.float32) if bias is None else bias for bias, n in zip(biases, sizes, strict=True)]
    return np.concatenate(filled) * scale


def _same_bias(held: Tensor | None, saved: Array | None) -> bool:
    if held is None or saved is None:
        return held is None and saved is None
    return np.array_equal(held.cpu().numpy(), saved)


def _low_rank(
    factors: Sequence[tuple[Array, Array]],
    scale: float,
    bias: Array | None,
    sizes: tuple[int, int],
    device: torch.device,
) -> LowRank:
    found = {factor_a.shape[1] for factor_a, _ in factors}, sum(len(factor_b) for _, factor_b in factors)
    if found != ({sizes[0]}, sizes[1]):
        raise ModelError(
            f"The adapter does not fit the model: a product of {sizes[0]} to {sizes[1]} features was found to have "
            f"{found[0]} to {found[1]}. Use the base model that it was trained on."
        )
    down = np.concatenate([factor_a for factor_a, _ in factors]).T
    up = np.zeros((down.shape[1], sizes[1]), dtype=np.float32)
    row = column = 0
    for _, factor_b in factors:
        features, rank = factor_b.shape
        up[row : row + rank, column : column + features] = (factor_b * scale).T
        row, column = row + rank, column + features
    put = [torch.from_numpy(array).to(device) for array in (np.ascontiguousarray(down), up)]
    return LowRank(put[0], put[1], None if bias is None else torch.from_numpy(bias).to(device))


def _read(layer: Any, take: bool) -> _Layer:
    attention = layer.self_attn
    products = {
        name: _linear([layer.get_submodule(part) for part in parts], take=take) for name, parts in PRODUCTS.items()
    }
    query_norm, key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return _Layer(
        products,
        layer.input_layernorm.weight,
        layer.post_attention_layernorm.weight,
        None if query_norm is None else query_norm.weight,
        None if key_norm is None else key_norm.weight,
    )


def _sizes(modules: Sequence[nn.Linear]) -> tuple[int, int]:
    return modules[0].in_features, sum(module.out_features for module in modules)


def _linear(modules: Sequence[nn.Linear], take: bool = False) -> Linear:
    """One product over all ``modules``; with ``take`` their own weights are emptied, since nothing reads them again."""
    weight = (
        torch.cat([module.weight.detach() for module in modules]) if len(modules) > 1 else modules[0].weight.detach()
    )
    biases: list[Tensor | None] = [module.bias for module in modules]
    present = [bias.detach() for bias in biases if bias is not None]
    bias = torch.cat(present) if present else None
    if take:
        for module in modules:
            module.weight.data = torch.empty(0, dtype=weight.dtype, device=weight.device)
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return _packed(weight, bias)
    return lambda inputs: functional.linear(inputs, weight, bias)


def _packed(weight: Tensor, bias: Tensor | None) -> Linear:
    """The product with a weight in the layout of oneDNN's kernels: packed once instead of at every call."""
    layout = torch.ops.mkldnn._reorder_linear_weight(weight)
    compute = torch.ops.mkldnn._linear_pointwise.default
    return lambda inputs: compute(inputs, layout, bias, "none", [], "")


def _rounded(rows: int) -> int:
    """The size in which so many rows are computed: 1, 2, 4, 8, then multiples of 8, and of 32 from 32 on.

    oneDNN makes and keeps code for each size of each product, some 3 MB for all layers. With every number of tokens
    that a step can have it would take most of a gigabyte within minutes.
    """
    if rows <= SMALL:
        return 1 << max(0, rows - 1).bit_length()
    step = SMALL if rows <= LARGE else LARGE
    return -(-rows // step) * step


def _signed(sine: Tensor) -> Tensor:
    half = sine.shape[-1] // 2
    return torch.cat((-sine[..., :half], sine[..., half:]), dim=-1)


def _swapped(states: Tensor) -> Tensor:
    """Both halves of each head change places; with the sign in the sine this is RoPE's rotation (Su et al., 2021)."""
    return states.roll(states.shape[-1] // 2, dims=-1)
