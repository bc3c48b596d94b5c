"""Truncated sampling (top_k, top_p): which tokens it can choose, and a policy confined to them.

Pure functions. The rules are those of vLLM's sampler, in its order: logits over the temperature, then top_k (a tie with
the k-th counts as kept), then top_p on what is left (a token is cut while the mass up to it, smallest first, is at most
1 - p; the likeliest always stays). vLLM's GPU kernel differs in one thing: of a tie at the k-th place it keeps only as
many as fit.

Why the *behaviour's* set, and not the present policy's. At a prefix s the logged token was drawn from

    mu(a|s) = pi_b(a|s) / pi_b(S_b)  for a in S_b,  else 0,      S_b = kept_set(pi_b(.|s)),

and mu is what the log holds. An importance ratio is unbiased only if its numerator lives where mu does. pi_theta itself
does not: pi_theta / mu has the mean pi_theta(S_b) under mu, not 1, so ratios are too small by the mass that was cut.
Truncating pi_theta by its own set S_theta gives the distribution that would be served, but S_theta moves with theta:
where it lacks the logged token the ratio is 0 without a gradient, where it has tokens outside S_b there are no data,
and the objective jumps as tokens enter and leave. So both sides are confined to one set, which is fixed data:

    pi_theta^S(a|s) = pi_theta(a|s) / pi_theta(S_b),   rho = pi_theta^S(a|s) / mu(a|s),   E_mu[rho] = 1, exactly.

At theta = b, rho is 1. This is PPO on the action space that was open to the behaviour at s ("keeping the sampling
mask", DeepSeek-V3.2). Its limits, said plainly:

- It does not see the mass outside S_b: moving that costs nothing here. What guards it is the hard KL budget, which is
  measured on whole distributions (`learn.drift`).
- S_b is not logged. It is recomputed from the version that answered, and believed only where the logprob of each token
  comes out as logged, i.e. where the two kept masses agree to within the tolerance. Two tokens whose logits differ by
  less than the engine's and the trainer's rounding can trade places at the boundary unseen; the ratio at theta = b
  stays right even then.

The KL to the base in the reward is between the same confined distributions, log mu - log pi_ref^S. Against the whole
pi_ref it would grow by -log pi_ref(S_b), which no policy that keeps to S_b can change, is not 0 for the base itself,
and taxes an answer for passing through prefixes where the base is unsure.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kept_set(scaled: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Which tokens truncated sampling keeps, as vLLM's sampler decides it.

    Args:
        scaled: float32 logits over the temperature, [P, V].
        top_k: int64 [P]; 0 or more than V: off.
        top_p: float32 [P], in (0, 1]; 1: off.

    Returns:
        bool [P, V], at least one True in each row.
    """
    vocabulary = scaled.shape[-1]
    ascending, order = scaled.sort(dim=-1)
    wanted = torch.where((top_k <= 0) | (top_k > vocabulary), vocabulary, top_k)
    dropped = ascending < ascending.gather(-1, (vocabulary - wanted)[:, None])
    mass = ascending.masked_fill(dropped, -torch.inf).softmax(dim=-1).cumsum(dim=-1)
    dropped |= (mass <= 1 - top_p[:, None]) & (top_p < 1)[:, None]
    dropped[:, -1] = False
    return torch.empty_like(dropped).scatter_(-1, order, ~dropped)


def confine(scaled: Tensor, kept: Tensor) -> Tensor:
    """Logits whose softmax is confined to `kept`: bool of the same shape, or one that broadcasts.

    What is cut becomes the least finite number rather than -inf, so that p log p is 0 there and not NaN.
    """
    return scaled.masked_fill(~kept, torch.finfo(scaled.dtype).min)
