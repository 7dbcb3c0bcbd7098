"""The painter's transformer and its decoder, against the original's numbers and against a GPT spelt out below."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path

import pytest
import torch
from danqing.networks import graph_step, packed_linear
from danqing.networks.decoding import Decoder, decoder_of, write_codes
from danqing.networks.painter_transformer import PainterConfig, PainterTransformer
from danqing.networks.sampling import Sampling, uniforms
from danqing_pack.errors import FormatError, RequestError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

GREEDY, NOTHING = Sampling(do_sample=False), torch.empty(0)
SMALL = {
    "vocab_size": 37, "image_vocab_size": 20, "text_length": 6, "image_length": 9, "n_positions": 15,
    "n_embd": 24, "n_layer": 2, "n_head": 3,
}  # fmt: skip


def network(seed: int = 7, **sizes: int) -> PainterTransformer:
    """A small painter whose weights are large enough that every part of it shows in the codes."""
    torch.manual_seed(seed)
    made = PainterTransformer(PainterConfig(**{**SMALL, **sizes})).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.normal_(0, 1.0 if ".wte." in name or ".wpe." in name else 0.3)
    return made


def texts(count: int = 2, seed: int = 1) -> Tensor:
    return torch.randint(20, 37, (count, 6), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def spelt_out(net: PainterTransformer, tokens: Tensor, embedded: Tensor | None = None) -> Tensor:
    """Scores [B, T, V] by the formulas of the original, in float64, one head at a time."""
    state = {name: value.double() for name, value in net.state_dict().items()}
    config, (_, length) = net.config, tokens.shape
    width = config.n_embd // config.n_head

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"] + state[f"{name}.bias"]

    x = state["gpt.wte.weight"][tokens] + state["gpt.wpe.weight"][:length]
    for layer in range(config.n_layer):
        at = f"gpt.h.{layer}"
        query, key, value = dense(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn").chunk(3, -1)
        seen = torch.zeros_like(x)
        for head in range(config.n_head):
            part = slice(head * width, (head + 1) * width)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / width**0.5
            for i in range(length):
                for j in range(i + 1, length):
                    if max(i, j) >= config.n_unmasked:
                        scores[:, i, j] = -torch.inf
            seen[..., part] = scores.softmax(-1) @ value[..., part]
        x = x + dense(seen, f"{at}.attn.c_proj")
        wide = dense(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc")
        x = x + dense(0.5 * wide * (1 + torch.erf(wide / 2**0.5)), f"{at}.mlp.c_proj")
    if embedded is not None:
        x = with_knowledge(x, embedded)
    return norm(x, "gpt.ln_f") @ state["head.weight"].T


def with_knowledge(x: Tensor, embedded: Tensor) -> Tensor:
    """The reference's rule, one image and one entity at a time."""
    x = x.clone()
    for image, entities in enumerate(embedded.double()):
        text = x[image, : entities.shape[1]].clone()
        weights = torch.stack([(text * entity).sum() for entity in entities])
        weights[weights == 0] = -1e30
        x[image, : entities.shape[1]] += sum(w * e for w, e in zip(weights.softmax(0), entities, strict=True))
    return x


@torch.no_grad()
def one_by_one(net: PainterTransformer, known: Tensor, until: int) -> Tensor:
    """Greedy decoding that reads everything anew for each token."""
    while known.shape[1] < until:
        best = net(known).logits[:, -1].topk(2)
        assert (best.values[:, 0] - best.values[:, 1]).min() > 1e-5, "a tie decides nothing: take another seed"
        known = torch.cat((known, best.indices[:, :1]), dim=1)
    return known


@pytest.fixture(scope="module")
def tiny(painter_folder: Path) -> PainterTransformer:
    return PainterTransformer.from_pretrained(painter_folder / "transformer").eval()


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, Tensor]:
    folder = golden / "easynlp" / "painter_tiny" / "expected"
    parts = [load_file(folder / f"{name}.safetensors") for name in ("transformer", "image", "sampling")]
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    return {**parts[0], **parts[1], **parts[2], "text_ids": torch.tensor([each["input_ids"] for each in tokens])}


def test_the_small_network_tells_right_from_wrong() -> None:
    """Its codes vary, and depend on the text, on the codes before and on the prefix."""
    codes = [write_codes(network(n_unmasked=n), texts(), GREEDY, NOTHING) for n in (0, 6, 10)]
    assert all(len(each.unique()) > 5 for each in codes)
    assert not torch.equal(codes[0], codes[1]) and not torch.equal(codes[1], codes[2])
    assert not torch.equal(codes[0][0], codes[0][1])


# ---- against the original


def test_logits_are_those_of_the_original(tiny: PainterTransformer, expected: dict[str, Tensor]) -> None:
    with torch.no_grad():
        logits = tiny(expected["teacher_forced_input_ids"]).logits
        first = tiny(expected["text_ids"]).logits[:, -1]
    torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(first, expected["first_step_logits"], atol=1e-4, rtol=0)


def test_greedy_codes_are_those_of_the_original(tiny: PainterTransformer, expected: dict[str, Tensor]) -> None:
    assert torch.equal(write_codes(tiny, expected["text_ids"], GREEDY, NOTHING), expected["greedy_image_ids"])


def test_a_continuation_is_that_of_the_original(tiny: PainterTransformer, expected: dict[str, Tensor]) -> None:
    prefix = expected["prefix_image_ids"]
    codes = write_codes(tiny, expected["text_ids"][:2], GREEDY, NOTHING, prefix=prefix)
    assert torch.equal(codes, expected["greedy_continuation_ids"])
    assert torch.equal(codes[:, : prefix.shape[1]], prefix)


@pytest.mark.parametrize(
    ("sampling", "name"),
    [(Sampling(), "probs_topk_default"), (Sampling(top_k=5, temperature=0.7), "probs_top5_temp0.7")],
)
def test_probabilities_are_those_of_the_original(
    sampling: Sampling, name: str, expected: dict[str, Tensor]
) -> None:
    found = sampling.probabilities(expected["first_step_logits"])
    torch.testing.assert_close(found, expected[name], atol=1e-6, rtol=1e-5)
    assert torch.equal(found == 0, expected[name] == 0)


def test_the_loss_is_that_of_the_original_over_image_codes(
    tiny: PainterTransformer, expected: dict[str, Tensor]
) -> None:
    tokens = expected["teacher_forced_input_ids"]
    codes = torch.cat((tokens[:, 32:], torch.tensor([[3], [5]])), dim=1)
    by_hand = -expected["logits"][:, 31:].log_softmax(-1).gather(-1, codes[..., None]).mean()
    torch.testing.assert_close(tiny(tokens, labels=codes).loss, by_hand, atol=1e-5, rtol=0)
    longer = torch.cat((tokens, codes[:, -1:]), dim=1)
    torch.testing.assert_close(tiny(longer, labels=codes).loss, by_hand, atol=1e-5, rtol=0)


# ---- files


def test_files_hold_the_names_of_the_contract_and_nothing_else(tmp_path: Path) -> None:
    net = network(entity_dim=5)
    net.save_pretrained(tmp_path)
    blocks = [f"gpt.h.{i}.{part}" for i in range(2) for part in
              ("ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]  # fmt: skip
    names = [f"{each}.{leaf}" for each in (*blocks, "gpt.ln_f", "ent_emb") for leaf in ("weight", "bias")]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted([*names, "gpt.wte.weight", "gpt.wpe.weight", "head.weight"])
        assert file.get_slice("gpt.h.0.attn.c_attn.weight").get_shape() == [24, 72]
        assert file.get_slice("head.weight").get_shape() == [20, 24]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "danqing_painter_transformer"
    assert config["architectures"] == ["PainterTransformer"]
    assert {**SMALL, "entity_dim": 5}.items() <= config.items()

    again, report = PainterTransformer.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FormatError, match="do not fit into 15 positions"):
        network(text_length=8)


def test_the_attention_implementation_reaches_the_body() -> None:
    config = PainterConfig(**SMALL, n_unmasked=4)
    config._attn_implementation = "eager"
    net = PainterTransformer(config).eval()
    assert net.gpt.config._attn_implementation == "eager"
    torch.testing.assert_close(net(texts()).logits.double(), spelt_out(net, texts()), atol=1e-5, rtol=0)


# ---- the prefix that sees itself


@pytest.mark.parametrize("n_unmasked", [0, 3, 6, 7, 10, 15])
def test_scores_with_a_free_prefix(n_unmasked: int) -> None:
    net, tokens = network(n_unmasked=n_unmasked), torch.cat((texts(), torch.randint(20, (2, 8))), dim=1)
    for length in (1, 6, 10, 14):
        found = net(tokens[:, :length]).logits.double()
        torch.testing.assert_close(found, spelt_out(net, tokens[:, :length]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("n_unmasked", [0, 3, 6, 7, 10, 15])
@pytest.mark.parametrize("given", [0, 1, 4, 9])
def test_codes_with_a_free_prefix(n_unmasked: int, given: int) -> None:
    net, prefix = network(n_unmasked=n_unmasked), torch.randint(20, (2, given))
    known = torch.cat((texts(), prefix), dim=1)
    codes = write_codes(net, texts(), GREEDY, NOTHING, prefix=prefix)
    assert torch.equal(codes, one_by_one(net, known, 15)[:, 6:])


@pytest.mark.parametrize("n_unmasked", [0, 6])
def test_a_cache_of_transformers_continues(n_unmasked: int) -> None:
    net, tokens = network(n_unmasked=n_unmasked), torch.cat((texts(), torch.randint(20, (2, 6))), dim=1)
    whole = net(tokens).logits
    first = net(tokens[:, :7], use_cache=True)
    rest = net(tokens[:, 7:], past_key_values=first.past_key_values, use_cache=True)
    assert net(tokens).past_key_values is None
    torch.testing.assert_close(torch.cat((first.logits, rest.logits), dim=1), whole, atol=1e-4, rtol=0)


def test_a_cache_that_is_not_final_is_refused() -> None:
    net = network(n_unmasked=8)
    cache = net(texts(), use_cache=True).past_key_values
    with pytest.raises(RequestError, match="first 8 positions see each other"):
        net(torch.zeros(2, 1, dtype=torch.int64), past_key_values=cache)


# ---- knowledge


def knowing(seed: int = 2) -> tuple[PainterTransformer, Tensor, Tensor]:
    net = network(seed, entity_dim=5)
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 7, (2, 3, 6), generator=generator)
    return net, words, torch.randn(7, 5, generator=generator)


def test_entities_change_the_text_positions_as_the_original_did() -> None:
    net, words, vectors = knowing()
    tokens = torch.cat((texts(), torch.randint(20, (2, 4))), dim=1)
    with torch.no_grad():
        found, without = net(tokens, words=words, entity_embeddings=vectors).logits, net(tokens).logits
    embedded = vectors.double()[words] @ net.ent_emb.weight.double().T + net.ent_emb.bias.double()
    torch.testing.assert_close(found.double(), spelt_out(net, tokens, embedded), atol=1e-4, rtol=1e-5)
    assert (found[:, :6] - without[:, :6]).abs().amax(dim=(0, 2)).min() > 1e-3
    torch.testing.assert_close(found[:, 6:], without[:, 6:], atol=1e-5, rtol=0)


def test_an_entity_with_a_product_of_zero_does_not_count() -> None:
    from danqing.networks.painter_transformer import with_entities

    states, entity = torch.randn(1, 6, 4), torch.full((1, 1, 6, 4), 3.0)
    negative = -entity * torch.sign((states * entity[:, 0]).sum())  # its product is below zero
    found = with_entities(states, torch.cat((negative, torch.zeros_like(entity)), dim=1))
    torch.testing.assert_close(found, states + negative[:, 0])


def test_the_weights_of_entities_leave_half_precision() -> None:
    from danqing.networks.painter_transformer import with_entities

    # Products beyond the 65,504 that fp16 holds: two entities whose weights are 1 and 0, and not both undefined.
    states = torch.full((1, 64, 64), 8.0, dtype=torch.float16)
    embedded = torch.stack((torch.full((64, 64), 4.0), torch.full((64, 64), 3.0)))[None].half()
    with torch.autocast("cpu", torch.float16):
        found = with_entities(states, embedded)
    assert torch.equal(found.float(), torch.full((1, 64, 64), 12.0))


def test_entities_decide_the_first_code_only() -> None:
    for seed in range(2, 30):
        net, words, vectors = knowing(seed)
        with torch.no_grad():
            first = net(texts(), words=words, entity_embeddings=vectors).logits[:, -1].argmax(-1, keepdim=True)
            if not torch.equal(first, net(texts()).logits[:, -1].argmax(-1, keepdim=True)):
                break
    else:
        pytest.fail("no weights were found for which entities change the first code")
    with torch.no_grad():
        codes = write_codes(net, texts(), GREEDY, NOTHING, entities=net.embed_entities(words, vectors))
    assert torch.equal(codes, one_by_one(net, torch.cat((texts(), first), dim=1), 15)[:, 6:])


def test_entities_that_cannot_be_used_are_refused() -> None:
    net, words, vectors = knowing()
    with pytest.raises(RequestError, match="knows no entities"):
        network()(texts(), words=words, entity_embeddings=vectors)
    with pytest.raises(RequestError, match="give both"):
        net(texts(), words=words)
    with pytest.raises(RequestError, match=r"shape \[batch, entities, 6\], not \[2, 3, 5\]"):
        net(texts(), words=words[..., :5], entity_embeddings=vectors)
    with pytest.raises(RequestError, match="only 4 were given"):
        net(texts()[:, :4], words=words, entity_embeddings=vectors)
    with pytest.raises(RequestError, match="without a cache"):
        net(texts(), words=words, entity_embeddings=vectors, use_cache=True)


# ---- the decoder


@pytest.mark.parametrize("packed", [True, False])
def test_every_step_scores_as_a_whole_pass(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "_probe", lambda dtype: packed)
    net = network()
    sequence = torch.cat((texts(), torch.randint(20, (2, 9))), dim=1)
    with torch.no_grad(), decoder_of(net).run(2, sequence.device) as (room, step):
        whole = net(sequence).logits
        scores = [decoder_of(net).scores(decoder_of(net).read(sequence[:, :6], room))]
        scores += [step(sequence[:, place], place) for place in range(6, 15)]
    torch.testing.assert_close(torch.stack(scores, dim=1), whole[:, 5:], atol=1e-5, rtol=1e-6)


def test_packing_is_used_where_torch_has_it() -> None:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    assert packed_linear.packable(torch.device("cpu"), torch.float32)
    assert not packed_linear.packable(torch.device("cpu"), torch.float16)


def test_packing_that_answers_differently_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    packed_linear._probe.cache_clear()
    right = packed_linear._packed
    monkeypatch.setattr(packed_linear, "_packed", lambda *each, **more: lambda x: right(*each, **more)(x) + 0.01)
    assert not packed_linear.packable(torch.device("cpu"), torch.float32)
    packed_linear._probe.cache_clear()


def test_a_step_of_fixed_shapes_scores_the_same() -> None:
    """What a CUDA graph records, run without one."""
    net, decoder = network(), decoder_of(network())
    decoder = decoder_of(net)
    sequence = torch.cat((texts(), torch.randint(20, (2, 9))), dim=1)
    with torch.no_grad(), decoder.run(2, sequence.device) as (room, step):
        fixed = decoder.room(2, sequence.device).zero_()
        decoder.read(sequence[:, :6], room)
        decoder.read(sequence[:, :6], fixed)
        for place in range(6, 15):
            found = decoder.fixed_step(sequence[:, place], torch.tensor([place]), fixed)
            torch.testing.assert_close(found, step(sequence[:, place], place), atol=1e-5, rtol=1e-6)


def test_bfloat16_writes_nearly_the_same_scores() -> None:
    net = network().bfloat16()
    with torch.no_grad():
        decoder = decoder_of(net)
        found = decoder.scores(decoder.read(texts(), decoder.room(2, torch.device("cpu"))))
    assert found.dtype == torch.bfloat16
    assert (found.double() - spelt_out(net, texts())[:, -1]).abs().max() < 0.25
    assert write_codes(net, texts(), Sampling(top_k=5), uniforms(2, 9, None)).shape == (2, 9)


def test_changed_weights_are_seen() -> None:
    net = network()
    before = write_codes(net, texts(), GREEDY, NOTHING)
    assert decoder_of(net) is decoder_of(net)
    with torch.no_grad():
        net.head.weight.neg_()
    assert torch.equal(write_codes(net, texts(), GREEDY, NOTHING), one_by_one(net, texts(), 15)[:, 6:])
    net.head.weight = torch.nn.Parameter(-net.head.weight.detach())
    assert torch.equal(write_codes(net, texts(), GREEDY, NOTHING), before)
    net.gpt.h[0].mlp.c_fc = torch.nn.Sequential(net.gpt.h[0].mlp.c_fc, torch.nn.Tanh())
    assert torch.equal(write_codes(net, texts(), GREEDY, NOTHING), one_by_one(net, texts(), 15)[:, 6:])
    assert not torch.equal(write_codes(net, texts(), GREEDY, NOTHING), before)
    net.gpt.h[1].attn.c_attn.register_forward_hook(lambda module, given, out: -2 * out)
    after = write_codes(net, texts(), GREEDY, NOTHING)
    assert torch.equal(after, one_by_one(net, texts(), 15)[:, 6:])
    assert not torch.equal(after, before)


def test_a_network_that_has_written_can_be_copied_and_forgotten() -> None:
    import gc
    import weakref

    net = network()
    write_codes(net, texts(), GREEDY, NOTHING)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.head.weight.neg_()
    assert torch.equal(write_codes(twin, texts(), GREEDY, NOTHING), one_by_one(twin, texts(), 15)[:, 6:])
    kept = weakref.ref(net)
    del net
    gc.collect()
    assert kept() is None


def test_threads_share_a_network() -> None:
    net, found = network(), {}
    asked = {seed: texts(3, seed) for seed in range(8)}

    def write(seed: int) -> None:
        numbers = uniforms(3, 9, [torch.Generator().manual_seed(seed * 10 + k) for k in range(3)])
        found[seed] = [write_codes(net, asked[seed], Sampling(top_k=20), numbers) for _ in range(5)]

    threads = [threading.Thread(target=write, args=(seed,)) for seed in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = dict(found)
    for seed in asked:
        write(seed)
        assert all(torch.equal(each, found[seed][0]) for each in [*together[seed], *found[seed]])


def test_nothing_global_changes() -> None:
    packed_linear._probe.cache_clear()
    before = (torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_default_dtype(),
              torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled())  # fmt: skip
    random = torch.random.get_rng_state()
    net = network()
    torch.random.set_rng_state(random)
    write_codes(net, texts(), Sampling(top_k=3), uniforms(2, 9, [torch.Generator(), torch.Generator()]))
    assert torch.equal(torch.random.get_rng_state(), random)
    assert before == (torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_default_dtype(),
                      torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled())  # fmt: skip


def test_autocast_of_a_caller_does_not_reach_the_decoder() -> None:
    net = network()
    with torch.autocast("cpu", torch.bfloat16):
        found = write_codes(net, texts(), GREEDY, NOTHING)
    assert torch.equal(found, write_codes(net, texts(), GREEDY, NOTHING))


def test_a_text_of_another_length_is_refused() -> None:
    with pytest.raises(RequestError, match="reads 6 text tokens, not 5"):
        write_codes(network(), texts()[:, :5], GREEDY, NOTHING)


def test_a_recorded_step_is_borrowed_for_a_run_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way through recordings, each of them played by single kernels."""

    class Played:
        def __init__(self, decoder: Decoder, batch: int) -> None:
            self.decoder, self.batch = decoder, batch
            self.room = decoder.room(batch, decoder.device).zero_()

        def __call__(self, input_ids: Tensor, place: int) -> Tensor:
            return self.decoder.fixed_step(input_ids, torch.tensor([place]), self.room)

    monkeypatch.setattr(graph_step, "GraphStep", Played)
    net = network(n_unmasked=7)
    wanted = [write_codes(net, texts(count), GREEDY, NOTHING) for count in (2, 3)]
    decoder = decoder_of(net)
    pool = decoder.graphs = graph_step.GraphPool()
    for _ in range(2):
        assert all(torch.equal(write_codes(net, texts(len(each)), GREEDY, NOTHING), each) for each in wanted)
    idle = list(pool._idle)
    assert sorted(step.batch for step in idle) == [2, 3]

    def stop(place: int, codes: Tensor) -> None:
        assert [step.batch for step in pool._idle] == [2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_codes(net, texts(3), GREEDY, NOTHING, on_code=stop)
    assert {id(step) for step in pool._idle} == {id(step) for step in idle}
    write_codes(net, texts(4), GREEDY, NOTHING)
    assert [step.batch for step in pool._idle] == [3, 4]


def test_a_device_that_cannot_record_launches_single_kernels(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(decoder: Decoder, batch: int) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph_step, "GraphStep", refuse)
    net = network()
    wanted = write_codes(net, texts(), GREEDY, NOTHING)
    decoder_of(net).graphs = graph_step.GraphPool()
    assert torch.equal(write_codes(net, texts(), GREEDY, NOTHING), wanted)
    assert torch.equal(write_codes(net, texts(), GREEDY, NOTHING), wanted)
    assert [record.message[:47] for record in caplog.records] == ["The decode step runs without a CUDA graph: oper"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_writes_what_single_kernels_write(dtype: torch.dtype) -> None:
    net = network().to("cuda", dtype)
    decoder = decoder_of(net)
    recorded = [write_codes(net, texts(2, seed).cuda(), GREEDY, NOTHING) for seed in (1, 2, 1)]
    assert decoder.graphs is not None and len(decoder.graphs._idle) == 1
    decoder.graphs = None
    launched = [write_codes(net, texts(2, seed).cuda(), GREEDY, NOTHING) for seed in (1, 2, 1)]
    assert all(torch.equal(*pair) for pair in zip(recorded, launched, strict=True))


# ---- training


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        net = network(entity_dim=5, n_unmasked=4).train()
        if checkpointing:
            net.gradient_checkpointing_enable()
        _, words, vectors = knowing()
        tokens, codes = torch.cat((texts(), torch.arange(16).reshape(2, 8)), dim=1), torch.arange(18).reshape(2, 9)
        loss = net(tokens, labels=codes).loss + net(tokens, words, vectors, labels=codes).loss
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
    plain, checkpointed = gradients
    assert all(gradient is not None for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


# ---- sampling


def test_ties_with_the_last_of_the_best_stay_in() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 1.0, 0.0]])
    expected = F.softmax(torch.tensor([[3.0, 1.0, 2.0, 1.0, -torch.inf]]), dim=-1)
    torch.testing.assert_close(Sampling(top_k=3).probabilities(scores), expected)
    assert Sampling(top_k=None).probabilities(scores).min() > 0


def test_draws_follow_the_probabilities() -> None:
    scores = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)) * 2
    sampling, count = Sampling(top_k=12, temperature=0.8), 20000
    drawn = sampling.choose(scores.expand(count, 50), (torch.arange(count) + 0.5) / count)
    found = torch.bincount(drawn, minlength=50) / count
    torch.testing.assert_close(found, sampling.probabilities(scores)[0], atol=2 / count, rtol=0)


def test_no_draw_takes_a_code_of_probability_zero() -> None:
    scores = torch.full((3, 40), -torch.inf)
    scores[:, 7] = scores[:, 30] = 0.0
    largest = 1 - 2**-24
    assert Sampling().choose(scores, torch.tensor([0.0, 0.5, largest])).tolist() == [7, 30, 30]


@pytest.mark.parametrize("top_k", [0, -1, 21, 2.5, True, "5"])
def test_a_top_k_that_cannot_be_taken_is_refused(top_k: object) -> None:
    with pytest.raises(RequestError, match="top_k must lie between 1 and the 20 image codes"):
        Sampling(top_k=top_k).check(20)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0, -0.5, float("nan"), float("inf"), "1", None])
def test_a_temperature_that_makes_no_sense_is_refused(temperature: object) -> None:
    with pytest.raises(RequestError, match="temperature must be a positive number"):
        Sampling(temperature=temperature).check(20)  # type: ignore[arg-type]


def test_an_image_draws_the_same_numbers_alone_and_among_others() -> None:
    def of(*seeds: int) -> Tensor:
        return uniforms(len(seeds), 30, [torch.Generator().manual_seed(seed) for seed in seeds])

    assert torch.equal(of(4, 5, 6)[1:2], of(5))
    assert not torch.equal(of(4, 5)[0], of(4, 5)[1])


def test_one_generator_serves_images_one_after_another() -> None:
    together = uniforms(3, 30, torch.Generator().manual_seed(1))
    single = torch.Generator().manual_seed(1)
    assert torch.equal(together, torch.cat([uniforms(1, 30, single) for _ in range(3)]))
    torch.manual_seed(1)
    assert torch.equal(together, uniforms(3, 30, None))


def test_generators_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match="2 generators were given for 3 images"):
        uniforms(3, 4, [torch.Generator()] * 2)
    with pytest.raises(RequestError, match="must be a torch.Generator"):
        uniforms(2, 4, [1, 2])  # type: ignore[list-item]
