import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agile_gym.errors import ConfigurationError
from agile_gym.models import sampling
from agile_gym.models.sampling import SamplingOptions, draw, log_probs

NONE_FORBIDDEN = torch.zeros(6, dtype=torch.bool)
LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
SHARES = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum()


def share_drawn(options, logits=LOGITS, count=4000):
    logps = log_probs(logits, NONE_FORBIDDEN, options.temperature).expand(count, -1)
    rngs = [np.random.default_rng([7, i]) for i in range(count)]
    return np.bincount(draw(logps, options, rngs).numpy(), minlength=6) / count


@pytest.mark.slow
def test_draws_follow_the_probabilities():
    np.testing.assert_allclose(share_drawn(SamplingOptions()), SHARES, atol=0.03)


def test_temperature_divides_the_logits():
    shares = np.exp(LOGITS.numpy() / 2) / np.exp(LOGITS.numpy() / 2).sum()
    np.testing.assert_allclose(share_drawn(SamplingOptions(temperature=2.0)), shares, atol=0.03)
    assert share_drawn(SamplingOptions(temperature=0)).tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.slow
def test_top_k_and_top_p_leave_the_likeliest():
    top2 = share_drawn(SamplingOptions(top_k=2))
    np.testing.assert_allclose(
        top2, [SHARES[0] / SHARES[:2].sum(), SHARES[1] / SHARES[:2].sum(), 0, 0, 0, 0], atol=0.03
    )
    # 0.57 and 0.21 make 0.78; the third is needed for 0.8 and the fourth is not.
    top = share_drawn(SamplingOptions(top_p=0.8))
    assert SHARES[:2].sum() < 0.8 < SHARES[:3].sum()
    np.testing.assert_allclose(top[:3], SHARES[:3] / SHARES[:3].sum(), atol=0.03)
    assert top[3:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("options", [{}, {"top_p": 0.8}, {"top_k": 5}])
def test_the_lowest_and_the_highest_number_draw_what_can_be_drawn(options):
    class Fixed:
        def __init__(self, number):
            self.number = number

        def random(self):
            return self.number

    forbidden = torch.tensor([True, False, False, False, True, True])
    logps = log_probs(LOGITS, forbidden, 1.0).expand(2, -1)
    ends = [Fixed(0.0), Fixed(np.nextafter(1.0, 0.0))]
    last = 2 if options == {"top_p": 0.8} else 3
    assert SHARES[1:3].sum() > 0.8 * SHARES[1:4].sum() > SHARES[1]
    assert draw(logps, SamplingOptions(**options), ends).tolist() == [1, last]


def test_top_p_takes_no_more_than_it_needs():
    logps = torch.tensor([0.125, 0.5, 0.25, 0.125]).log().expand(500, -1)
    rngs = [np.random.default_rng(i) for i in range(500)]
    for top_p, kept in ((0.4995, {1}), (0.5005, {1, 2}), (0.7495, {1, 2})):
        assert set(draw(logps, SamplingOptions(top_p=top_p), rngs).tolist()) == kept


def kept_by_hand(probs, top_k, top_p):
    """Return which tokens top_k and top_p leave, by their definitions."""
    order = np.argsort(-probs, kind="stable")
    order = order[:top_k] if top_k else order
    kept, mass = set(), 0.0
    for token in order:
        if mass >= top_p * probs[order].sum():
            break
        kept.add(int(token))
        mass += probs[token]
    return kept


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 40), st.just(0) | st.integers(0, 45), st.sampled_from([0.05, 0.3, 0.7, 0.95, 1.0]),
    st.integers(1, 50), st.integers(0, 2**31),
)  # fmt: skip
def test_what_can_be_drawn_is_what_the_definitions_leave(count, top_k, top_p, often, seed):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, count).astype(np.float32))
    logps = log_probs(logits, torch.zeros(count, dtype=torch.bool), 1.0)
    probs = logps.double().exp().numpy()
    kept = kept_by_hand(probs, top_k, top_p)

    class Fixed:
        def __init__(self, number):
            self.number = number

        def random(self):
            return self.number

    # Where the first number is drawn that a token answers to, and the last one.
    share = np.array([probs[token] if token in kept else 0 for token in range(count)])
    ends = share.cumsum() / share.sum()
    rows = [(token, number) for token in sorted(kept) for number in (ends[token] - share[token] / share.sum(),
                                                                      ends[token])]  # fmt: skip
    inside = [number + (-1e-5 if last else 1e-5) * share[token] / share.sum()
              for last, (token, number) in zip([False, True] * len(kept), rows, strict=True)]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_OFTEN_ENOUGH", often)
        drawn = draw(logps.expand(len(rows), -1), SamplingOptions(top_k=top_k, top_p=top_p), [Fixed(n) for n in inside])
    wide = [share[token] / share.sum() > 1e-3 for token, _ in rows]  # else 1e-5 is not a small part of it
    assert [t for t, w in zip(drawn.tolist(), wide, strict=True) if w] == [
        token for (token, _), w in zip(rows, wide, strict=True) if w
    ]
    assert set(drawn.tolist()) <= kept


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=12), st.integers(0, 2**31), st.data())
def test_a_draw_depends_on_its_own_row_and_seed_only(values, seed, data):
    count = len(values)
    forbidden = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    forbidden[0] = False
    row = log_probs(torch.tensor(values), forbidden, 1.0)
    others = log_probs(torch.randn(3, count), forbidden, 1.0)
    options = SamplingOptions(top_p=0.9, top_k=3)
    alone = draw(row[None], options, [np.random.default_rng(seed)])
    together = draw(torch.cat([others, row[None]]), options, [np.random.default_rng(n) for n in (1, 2, 3, seed)])
    assert alone[0] == together[-1]
    assert not forbidden[together].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "number from 0"),
        ({"temperature": float("nan")}, "number from 0"),
        ({"top_p": 0}, "above 0, up to 1"),
        ({"top_p": 1.5}, "above 0, up to 1"),
        ({"top_k": -1}, "0 for all"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"stop": "</code>"}, "tuple of texts"),
        ({"stop": ("",)}, "not empty"),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(ConfigurationError, match=message):
        SamplingOptions(**options)
