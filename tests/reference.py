"""The formulas of agents, networks and the world model once more, slowly.

Written from their definitions: one element at a time, loops instead of array programs,
no masks where leaving out does the same, double precision. Parameters are read by their
names; shapes are those of one element.
"""

from __future__ import annotations

import math

import jax
import numpy as np


def random_params(network, seed=0, scale=0.5, args=()):
    """Parameters of order one, so that no term of a network is negligible."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *args)
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return (scale * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


# --- distributions over actions -------------------------------------------------------


def probabilities(logits, mask=None):
    """Softmax over the actions that the mask allows, 0 for the others."""
    logits = np.asarray(logits, np.float64)
    allowed = [a for a in range(len(logits)) if mask is None or mask[a]]
    peak = max(logits[a] for a in allowed)
    total = sum(math.exp(logits[a] - peak) for a in allowed)
    found = np.zeros(len(logits))
    for a in allowed:
        found[a] = math.exp(logits[a] - peak) / total
    return found


def log_probability(logits, action, mask=None):
    """Logarithm of the action's probability, exact for improbable actions too."""
    logits = np.asarray(logits, np.float64)
    allowed = [logits[a] for a in range(len(logits)) if mask is None or mask[a]]
    peak = max(allowed)
    return logits[action] - peak - math.log(sum(math.exp(z - peak) for z in allowed))


def entropy(probs):
    """-sum p log p in nats; impossible actions add nothing."""
    return -sum(p * math.log(p) for p in probs if p > 0)


# --- actor and critic -----------------------------------------------------------------


def discounted_returns(reward, discount, bootstrap):
    """G_t = sum over n of (gamma_t ... gamma_{t+n-1}) r_{t+n}, then the bootstrap."""
    reward = [*np.asarray(reward, np.float64), float(bootstrap)]
    returns = []
    for t in range(len(discount)):
        total, factor = 0.0, 1.0
        for n in range(t, len(reward)):
            total += factor * reward[n]
            factor *= discount[n] if n < len(discount) else 1.0
        returns.append(total)
    return np.array(returns)


def actor_critic_loss(
    log_prob, value, entropy, target, advantage, weight, *, value_weight, entropy_weight
):
    """Total, policy, value and entropy terms, one action after another."""
    policy = error = mean_entropy = 0.0
    for m in range(len(weight)):
        policy -= weight[m] * log_prob[m] * advantage[m]
        error += weight[m] * (target[m] - value[m]) ** 2
        mean_entropy += weight[m] * entropy[m]
    total = policy + value_weight * error - entropy_weight * mean_entropy
    return np.array([total, policy, error, mean_entropy])


# --- layers ---------------------------------------------------------------------------


def affine(params, inputs):
    """x W + b (b where there is one) of a dense layer, wrapped or not."""
    params = params.get("Dense_0", params)
    found = np.asarray(inputs, np.float64) @ np.asarray(params["kernel"], np.float64)
    return found + np.asarray(params["bias"], np.float64) if "bias" in params else found


def relu_layers(params, inputs):
    """Linear-ReLU layers named Linear_0, Linear_1, ..."""
    for n in range(len(params)):
        inputs = np.maximum(affine(params[f"Linear_{n}"], inputs), 0.0)
    return inputs


def layer_norm(params, x, epsilon=1e-5):
    """Mean 0 and variance 1 over the entries of a vector, then scale and shift."""
    scale, bias = np.asarray(params["scale"]), np.asarray(params["bias"])
    return (x - x.mean()) / math.sqrt(x.var() + epsilon) * scale + bias


def position(place, width):
    """sin and cos of place / 10000^(2i / width), in turn."""
    code = []
    for d in range(width):
        angle = place / 10_000 ** (2 * (d // 2) / width)
        code.append(math.sin(angle) if d % 2 == 0 else math.cos(angle))
    return np.array(code)


def attention(params, query_token, tokens, heads):
    """What one token reads from all of them, head after head."""
    width = len(query_token) // heads
    query = affine(params["query"], query_token)
    keys = [affine(params["key"], token) for token in tokens]
    values = [affine(params["value"], token) for token in tokens]
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = [query[part] @ key[part] / math.sqrt(width) for key in keys]
        shares = probabilities(scores)
        mixed.append(
            sum(p * value[part] for p, value in zip(shares, values, strict=True))
        )
    return affine(params["out"], np.concatenate(mixed))


def transformer(params, tokens, heads, reads=0):
    """Post-norm encoder over the tokens that exist, newest first; reads one of them."""
    tokens = [
        np.asarray(token, np.float64) + position(place, len(token))
        for place, token in enumerate(tokens)
    ]
    for n in range(len(params)):
        layer = params[f"EncoderLayer_{n}"]
        following = []
        for token in tokens:
            read = attention(layer["Attention_0"], token, tokens, heads)
            hidden = layer_norm(layer["LayerNorm_0"], token + read)
            inner = np.maximum(affine(layer["Linear_0"], hidden), 0.0)
            inner = affine(layer["Linear_1"], inner)
            following.append(layer_norm(layer["LayerNorm_1"], hidden + inner))
        tokens = following
    return tokens[reads]


# --- the recommender ------------------------------------------------------------------


def tracker_tokens(vectors, items, rewards, low, high):
    """[e(item), scaled reward] of the items of a window that exist (not -1)."""
    tokens = []
    for item, reward in zip(items, rewards, strict=True):
        if item != -1:
            scaled = min((reward - low) / (high - low), 1.0)
            tokens.append(np.array([*np.asarray(vectors)[item], scaled]))
    return tokens


def actor_critic(params, state):
    """Logits and value of the recommender's head."""
    hidden = relu_layers(params["MLP_0"], state)
    return affine(params["actor"], hidden), affine(params["critic"], hidden)[0]


# --- the selector ---------------------------------------------------------------------


def selector_pick(params, config, feedback, context, seen):
    """Logits over users and value after `seen`, the current user and her picks so far.

    The tokens are those of the last `config.window` users seen.
    """
    tokens = []
    for user in seen[::-1][: config.window]:
        of_user = affine(params["user_token"], feedback[user])
        tokens.append(of_user + affine(params["context_token"], context))
    hidden = transformer(params["transformer"], tokens, config.heads)
    query = affine(params["actor"], hidden)
    logits = [
        query @ affine(params["user_key"], row) / math.sqrt(config.width)
        for row in feedback
    ]
    value = affine(params["critic"], relu_layers(params["critic_hidden"], hidden))[0]
    return np.array(logits), value


def selector_episode(params, config, feedback, context, user, picked):
    """Log-probability, value and entropy of each pick, replayed one after another."""
    log_probs, values, entropies = [], [], []
    for j, pick in enumerate(picked):
        seen = [user, *picked[:j]]
        logits, value = selector_pick(params, config, feedback, context, seen)
        free = [u not in seen for u in range(len(feedback))]
        log_probs.append(log_probability(logits, pick, free))
        entropies.append(entropy(probabilities(logits, free)))
        values.append(value)
    return np.array(log_probs), np.array(values), np.array(entropies)


def diversity_gain(picked, similarity):
    """Mean of 1 - cos over the users picked before, 0 for the first pick."""
    gains = []
    for j, pick in enumerate(picked):
        distances = [1.0 - similarity[v, pick] for v in picked[:j]]
        gains.append(sum(distances) / len(distances) if distances else 0.0)
    return np.array(gains)


def intrinsic_reward(mode, user, item, picked, base, similarity, lambda_s, lambda_d):
    """Running mean of the picks' estimates, taken as `mode` says, and both gains."""
    diversity = diversity_gain(picked, similarity)
    column = [base[u, item] for u in range(len(base))]
    origin = {
        "raw": 0.0,
        "item_centred": sum(column) / len(column),
        "user_centred": base[user, item],
        "absent": None,
    }[mode]
    rewards = []
    for j, pick in enumerate(picked):
        reward = lambda_s * similarity[user, pick] + lambda_d * diversity[j]
        if origin is not None:
            asked = picked[: j + 1]
            reward += sum(base[v, item] - origin for v in asked) / len(asked)
        rewards.append(reward)
    return np.array(rewards)


# --- the world model ------------------------------------------------------------------


def deepfm_side(params, fields, codes):
    """Embeddings (0 where absent) and summed linear weights of one user or item.

    Args:
      params: of the DeepFM.
      fields: (name, padded) of each field.
      codes: the codes of each field, the id's first.
    """
    embeddings, linear = [], 0.0
    for (name, padded), slots in zip(fields, codes, strict=True):
        for code in slots:
            absent = padded and code == 0
            embedding = np.asarray(params[f"embedding_{name}"][code], np.float64)
            embeddings.append(embedding * 0 if absent else embedding)
            linear += 0.0 if absent else float(params[f"linear_{name}"][code])
    return embeddings, linear


def deepfm(params, user_side, item_side, dense, sigmoid=False):
    """Mean and log-variance for one user and one item, each a `deepfm_side`."""
    embeddings = user_side[0] + item_side[0]
    logit = user_side[1] + item_side[1] + float(params["bias"][0])
    for f in range(len(embeddings)):
        for g in range(f):
            logit += embeddings[f] @ embeddings[g]
    hidden = relu_layers(params["deep"], np.concatenate([*embeddings, dense]))
    logit += affine(params["mean_head"], hidden)[0]
    if len(dense):
        logit += affine(params["dense_linear"], dense)[0]
    mean = 1 / (1 + math.exp(-logit)) if sigmoid else logit
    log_variance = affine(params["log_variance_head"], hidden)[0]
    log_variance = 0.5 - softplus(0.5 - log_variance)
    return mean, -10 + softplus(log_variance + 10)


def softplus(x):
    """log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def pointneg_loss(positives, negatives, labels, weights):
    """(y+ - y)^2 / var+ + y-^2 / var- + log var+ + log var-, summed over pairs.

    `positives` and `negatives` are (mean, log-variance) of each pair.
    """
    total = 0.0
    for (fit, s), (push, t), label, weight in zip(
        positives, negatives, labels, weights, strict=True
    ):
        terms = (fit - label) ** 2 / math.exp(s) + push**2 / math.exp(t) + s + t
        total += weight * terms
    return total


def squares(tree):
    """Sum of the squares of every number in nested dictionaries of arrays."""
    if isinstance(tree, dict):
        return sum(squares(branch) for branch in tree.values())
    return float((np.asarray(tree, np.float64) ** 2).sum())


def ndcg(predicted, labels, k):
    """DCG of the predicted order over DCG of the best one; ties in given order."""

    def dcg(order):
        top = enumerate(order[:k])
        return sum(labels[n] / math.log2(rank + 2) for rank, n in top)

    rows = range(len(labels))
    by_prediction = sorted(rows, key=lambda n: -predicted[n])
    return dcg(by_prediction) / dcg(sorted(rows, key=lambda n: -labels[n]))


def pair_accuracy(predicted, labels):
    """Share of the pairs with unequal labels that are ranked rightly; ties are half."""
    scores = []
    for n in range(len(labels)):
        for m in range(len(labels)):
            if labels[n] > labels[m]:
                tie = predicted[n] == predicted[m]
                scores.append(0.5 if tie else float(predicted[n] > predicted[m]))
    return sum(scores) / len(scores)


def top_gain(predicted, labels):
    """Mean of the third predicted best less the mean of all; tied rows share places."""
    places = (len(labels) + 2) // 3
    total = 0.0
    for score, label in zip(predicted, labels, strict=True):
        ahead = sum(other > score for other in predicted)
        tied = sum(other == score for other in predicted)
        total += label * min(max((places - ahead) / tied, 0.0), 1.0)
    return total / places - sum(labels) / len(labels)
