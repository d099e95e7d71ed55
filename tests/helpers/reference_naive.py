"""The published network once more, from its equations (docs/reference.md, section 1): loops and float64, for one image at a time.

Independent of model/: it shares no line with it, and takes a state dict as numpy arrays. tests/test_reference.py also
runs it with single lines made wrong, to show that the comparison sees each of them.
"""
import numpy as np


class Naive:
    """Logits of a state dict {key: float64 array}; `spiking`: neurons integrate and fire, and keep their state."""

    def __init__(self, state, image_size, levels=16, spiking=False, scale=None):
        self.state, self.image_size, self.levels, self.spiking = state, image_size, levels, spiking
        self.scale = scale
        self.potential = {}
        self.activity = {}
        self.patch = state["patch_embed.proj.weight"].shape[-1]
        self.depths = []
        while f"layers.{len(self.depths)}.blocks.0.norm1.weight" in state:
            stage, depth = len(self.depths), 0
            while f"layers.{stage}.blocks.{depth}.norm1.weight" in state:
                depth += 1
            self.depths.append(depth)
        rows = max(len(v) for k, v in state.items() if k.endswith("relative_position_bias_table"))
        self.window = (round(rows ** 0.5) + 1) // 2

    def fire(self, name, x):
        """The `if` of key `name` on an array of any shape."""
        up = float(self.state[f"{name}.up"][0])
        if self.spiking:
            v = self.potential.get(name, np.full(x.shape, 0.5))
            v = v + x / up
            spike = np.where(v >= 1, 1.0, 0.0)
            v = v - spike
            self.potential[name] = v
            out = up * spike
        else:
            out = np.clip(np.floor(x * self.levels / up + 0.5) / self.levels, 0, 1) * up
        self.activity.setdefault(name, []).append(out / up)
        return out

    def linear(self, name, x):
        """y = W x + b for each token."""
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        out = np.array([weight @ token for token in x])
        return out if bias is None else out + bias

    def batch_norm(self, name, x):
        """(x - mean) / sqrt(var + eps) * gamma + beta for each channel."""
        part = {key: self.state[f"{name}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
        return (x - part["running_mean"]) / np.sqrt(part["running_var"] + 1e-5) * part["weight"] + part["bias"]

    def layer_norm(self, name, x):
        """Each token over its own channels."""
        out = []
        for token in x:
            mean = token.sum() / len(token)
            variance = ((token - mean) ** 2).sum() / len(token)
            out.append((token - mean) / np.sqrt(variance + 1e-5) * self.state[f"{name}.weight"] + self.state[f"{name}.bias"])
        return np.array(out)

    def embed(self, image):
        """[C, H, W] -> tokens [N, embedding]."""
        kernel, bias, p = self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"], self.patch
        side = self.image_size // p
        tokens = []
        for row in range(side):
            for column in range(side):
                part = image[:, row * p:(row + 1) * p, column * p:(column + 1) * p]
                tokens.append(np.array([(kernel[o] * part).sum() for o in range(len(kernel))]) + bias)
        tokens = np.array(tokens)
        if "patch_embed.norm.weight" in self.state:
            tokens = self.batch_norm("patch_embed.norm", tokens)
        tokens = self.fire("patch_embed.proj_if", tokens)
        if "absolute_pos_embed" in self.state:
            for number in range(len(tokens)):
                tokens[number] += self.state["absolute_pos_embed"][0, number]
        return tokens

    def attention(self, name, y, side, window, shift):
        """Window attention of tokens [N, C] in raster order."""
        channels = y.shape[1]
        table = self.state[f"{name}.relative_position_bias_table"]
        heads = table.shape[1]
        head = channels // heads
        qkv = self.linear(f"{name}.qkv", y)
        q = self.fire(f"{name}.q_if", qkv[:, :channels])
        k = self.fire(f"{name}.k_if", qkv[:, channels:2 * channels])
        v = self.fire(f"{name}.v_if", qkv[:, 2 * channels:])
        places = [(row, column) for row in range(window) for column in range(window)]
        cuts = [(top, left) for top in range(0, side, window) for left in range(0, side, window)]

        def token(place):
            """Token at a place of the map that is rolled up and left by `shift`."""
            return (place[0] + shift) % side * side + (place[1] + shift) % side

        def region(place):
            """Which of the nine regions of the rolled map a place lies in."""
            return tuple((x >= side - window) + (x >= side - shift) for x in place)

        score = np.zeros((len(cuts), heads, len(places), len(places)))
        for w, (top, left) in enumerate(cuts):
            spots = [token((top + row, left + column)) for row, column in places]
            for h in range(heads):
                part = slice(h * head, (h + 1) * head)
                for i, query in enumerate(spots):
                    for j, key in enumerate(spots):
                        score[w, h, i, j] = (q[query, part] * k[key, part]).sum() / np.sqrt(head)
                        if self.scale is not None:
                            score[w, h, i, j] = (q[query, part] * k[key, part]).sum() * self.scale
        score = self.fire(f"{name}.attn_if", score)
        out = np.zeros_like(y)
        for w, (top, left) in enumerate(cuts):
            there = [(top + row, left + column) for row, column in places]
            spots = [token(place) for place in there]
            for h in range(heads):
                part = slice(h * head, (h + 1) * head)
                for i in range(len(places)):
                    row = np.zeros(len(places))
                    for j in range(len(places)):
                        down, right = (places[i][axis] - places[j][axis] + window - 1 for axis in (0, 1))
                        row[j] = score[w, h, i, j] + table[down * (2 * window - 1) + right, h]
                        if shift and region(there[i]) != region(there[j]):
                            row[j] += -100
                    row = np.exp(row - row.max())
                    row = row / row.sum()
                    out[spots[i], part] = sum(row[j] * v[spots[j], part] for j in range(len(places)))
        out = self.fire(f"{name}.attn_v_if", out)
        return self.fire(f"{name}.proj_if", self.linear(f"{name}.proj", out))

    def mlp(self, name, x):
        """Two linear layers; BatchNorm after each where the state dict has it."""
        for number in (1, 2):
            x = self.linear(f"{name}.fc{number}", x)
            if f"{name}.norm{number}.weight" in self.state:
                x = self.batch_norm(f"{name}.norm{number}", x)
            x = self.fire(f"{name}.fc{number}_if", x)
        return x

    def block(self, name, number, x, side):
        """One transformer block."""
        window, shift = self.window, self.window // 2 if number % 2 == 1 else 0
        if side <= self.window:
            window, shift = side, 0
        s = x
        y = self.fire(f"{name}.shortcut1_if", self.batch_norm(f"{name}.norm1", x))
        x = s + self.attention(f"{name}.attn", y, side, window, shift)
        x = self.batch_norm(f"{name}.norm2", x)
        return x + self.mlp(f"{name}.mlp", self.fire(f"{name}.shortcut2_if", x))

    def merge(self, name, x, side):
        """2x2 tokens -> one."""
        tokens = []
        for row in range(0, side, 2):
            for column in range(0, side, 2):
                four = [x[(row + dy) * side + column + dx] for dy, dx in ((0, 0), (1, 0), (0, 1), (1, 1))]
                tokens.append(np.concatenate(four))
        x = self.batch_norm(f"{name}.norm", np.array(tokens))
        return self.fire(f"{name}.reduction_if", self.linear(f"{name}.reduction", x))

    def step(self, image):
        """Logits [classes] of one image [C, H, W]; in one time step where the neurons spike."""
        x, side = self.embed(image), self.image_size // self.patch
        for stage, depth in enumerate(self.depths):
            for number in range(depth):
                x = self.block(f"layers.{stage}.blocks.{number}", number, x, side)
            if stage + 1 < len(self.depths):
                x = self.merge(f"layers.{stage}.downsample", x, side)
                side //= 2
        x = self.layer_norm("norm", x)
        mean = sum(x) / len(x)
        return self.linear("head", mean[None])[0]


def qcfs(state, images, levels=16, scale=None):
    """Logits [B, classes] of images [B, C, S, S]."""
    return np.array([Naive(state, images.shape[-1], levels, scale=scale).step(image) for image in images])


def stepwise(state, images, steps, scale=None):
    """Running sums of logits [T, B, classes]."""
    out = []
    for image in images:
        network = Naive(state, images.shape[-1], spiking=True, scale=scale)
        out.append(np.cumsum([network.step(image) for _ in range(steps)], 0))
    return np.array(out).swapaxes(0, 1)
