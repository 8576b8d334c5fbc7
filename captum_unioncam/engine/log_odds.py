"""Log-odds of classes, which do not saturate where probabilities do."""

import torch
from torch import Tensor

from captum_unioncam.engine.target_scores import at_least_float32


def log_odds(output: Tensor) -> Tensor:
    r"""Return the log-odds of every class, a `score` for any method and metric.

    .. math:: \log \frac{p_c}{1 - p_c} = z_c - \log \sum_{d \neq c} e^{z_d}

    with z the raw output over dimension 1 and p its softmax. Between 0.999 and 0.99999 a
    probability hardly differs, and log-odds do by 4.6. One output per example is itself the
    log-odds of a sigmoid and stays as it is.

    Args:
        output (Tensor): logits, (N, classes, ...); not probabilities.

    Returns:
        *Tensor* of the output's shape, in float32 or better.

    Examples::

        >>> log_odds(torch.tensor([[2.0, 0.0], [100.0, -100.0]]))
        tensor([[   2.,   -2.],
                [ 200., -200.]])
    """
    z = at_least_float32(output)
    if z.dim() < 2 or z.shape[1] == 1:
        return z
    best = z.argmax(1, keepdim=True)
    others = z.scatter(1, best, -torch.inf).logsumexp(1, keepdim=True)
    log_p = z.log_softmax(1)
    # 1 - p loses all digits for the best class alone, whose rivals are summed without it.
    of_others = log_p - torch.log1p(-log_p.exp().clamp(max=0.75))
    return of_others.scatter(1, best, z.gather(1, best) - others)
