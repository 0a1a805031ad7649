"""Positions stay exact in every dtype, far past 65,536 tokens."""

import pytest
import torch


HALVES = [torch.float16, torch.bfloat16]
FAR = 70_000


def loaded(model, dtype, tmp_path):
    """The model as `from_pretrained` loads it in another dtype."""
    model.save_pretrained(tmp_path)
    return type(model).from_pretrained(tmp_path, dtype=dtype).eval()


def tokens(length):
    """Segments of one to three tokens; 3 and 7 end one."""
    ids = torch.randint(20, 60, (1, length), generator=torch.Generator().manual_seed(1))
    ids[:, ::4], ids[:, 1::4] = 3, 7
    return ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@torch.inference_mode()
def test_segments_are_counted_exactly_past_65536(model, dtype, tmp_path):
    ids = tokens(2 * FAR)
    segments = loaded(model, dtype, tmp_path).get_decoder().segment(ids)
    expected, positions, segment, position = [], [], 0, 0
    ends_unit = {3, 7}.union(*model.config.inner_separator_token_ids)
    for token in ids[0].tolist():
        expected.append(segment)
        positions.append(position)
        segment, position = segment + (token in (3, 7)), 0 if token in ends_unit else position + 1
    assert expected[-1] > 65_536
    assert segments.segment_ids[0].tolist() == expected
    assert segments.intra_positions[0].tolist() == positions


@pytest.mark.parametrize("dtype", HALVES)
@torch.inference_mode()
def test_5000_segments_in_16_bits_stay_near_float64(model, dtype, tmp_path):
    """The truth has the same rounded weights, so that the difference is that of the arithmetic."""
    ids = tokens(10_000)
    rounded = loaded(model, dtype, tmp_path)
    assert rounded.get_decoder().segment(ids).segment_ids.max() == 5000
    exact = loaded(rounded, torch.float64, tmp_path)
    actual, expected = (each.get_decoder()(ids).last_hidden_state[0, -2000:].double() for each in (rounded, exact))
    error = (actual - expected).norm() / expected.norm()
    # A few roundings, one after the other; angles that a layer learns have those of all separators added up.
    roundings = 64 if model.config.inter_encoding == "selective_rope" else 4
    assert error < roundings * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALVES)
@torch.inference_mode()
def test_16_bits_tell_neighbouring_segments_apart_however_far_they_are(model, dtype, tmp_path):
    """Both encodings see differences of segments alone, so that a shift of all changes nothing but roundings.

    An index that was rounded to 16 bits would stand still over 256 segments there.
    """
    model = loaded(model, dtype, tmp_path)
    ids = tokens(60)
    near = model.get_decoder().segment(ids).ids()
    of_segments = near.view(1, 60, -1)[..., 0]
    logits = []
    for segment_ids in (of_segments, of_segments + FAR, of_segments // 8 * 8 + FAR):
        given = near.clone()
        given.view(1, 60, -1)[..., 0] = segment_ids
        embeddings = model.get_input_embeddings()(ids)
        logits.append(model(inputs_embeds=embeddings, segment_ids=given).logits.float())
    same, shifted, still = logits
    error, effect = ((each - same).norm() / same.norm() for each in (shifted, still))
    assert error < 4 * torch.finfo(dtype).eps
    assert effect > 0.4


@pytest.mark.parametrize("batch_size", [1, 3])
@torch.inference_mode()
def test_float64_computes_in_float64(model, batch_size, tmp_path):
    """Cached steps equal one forward to the last digits of float64, where float32 would differ by 1e-7."""
    model = loaded(model, torch.float64, tmp_path)
    ids = tokens(batch_size * 40).view(batch_size, 40)
    expected = model(ids, use_cache=False).logits
    assert expected.dtype == torch.float64
    first = model(ids[:, :17])
    rest = model(ids[:, 17:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], dim=1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", HALVES)
@torch.inference_mode()
def test_autocast_leaves_float64_alone(model, dtype, tmp_path):
    model = loaded(model, torch.float64, tmp_path)
    ids = tokens(60)
    with torch.autocast("cpu", dtype):
        actual = model(ids).logits
    torch.testing.assert_close(actual, model(ids).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_training_step_under_autocast_has_the_gradients_of_float32(model, dtype):
    ids = tokens(120).view(2, 60)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype, enabled=enabled):
            loss = model(ids, labels=ids, use_cache=False).loss
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for (name, _), exact, rounded in zip(model.named_parameters(), *gradients, strict=True):
        # What CABLE learns has a gradient that is a small difference of large numbers, that of angles is a sum.
        in_layer = {"cable": 96, "selective_rope": 32} if "layer_encoding" in name else {}
        roundings = in_layer.get(model.config.inter_encoding, 16)
        assert rounded.dtype == torch.float32
        assert (rounded - exact).norm() < roundings * torch.finfo(dtype).eps * exact.norm()
