"""PyTorch and NumPy beside Solstice, called as `solstice bench --child` is; only `xtask/src/peers.rs` and `gpu_check.rs` call it.

    torch_peer.py --models mlp --devices torch|torch-compile|torch-cuda|openblas --seconds 3 --threads 2

prints one line of JSON. The models are those of plugins/mlp, plugins/convnet and plugins/gpt in the settings of `solstice bench`; the number of
parameters shows that they are. The loops are what a user writes: eager f32, the optimizer as it comes, the batch on the device already.
`--devices list` prints what there is: {"torch": "2.15.0+cpu", "cuda": null, "openblas": "OpenBLAS 0.3.30"}.
"""

import argparse
import gc
import json
import os
import sys
import time


def process_began():
    """When this process began, on the clock of time.perf_counter; the imports count."""
    now = time.perf_counter()
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
            return now - (float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK"))
    except OSError:
        return now


BEGAN = process_began()
BATCHES = {"mlp": 128, "convnet": 64, "gpt": 12}
CONTEXT, VOCABULARY, WIDTH, HEADS, LAYERS = 64, 65, 128, 4, 4
# As in host/app/src/commands/bench.rs.
SECS_TIMED_TOGETHER = 0.02


def refuse(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def peak_memory_mib():
    """Largest resident set of this process so far."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))
    except OSError:
        return 0.0


def measure(one, finish, seconds):
    """Seconds of a step (median over groups of steps) and of the way to the first one. `finish` waits for the device."""
    one()
    finish()
    first = time.perf_counter() - BEGAN
    warm, begin = 0, time.perf_counter()
    while warm < 2 or time.perf_counter() - begin < 1.0:
        one()
        finish()
        warm += 1
    together = max(1, min(1000, int(SECS_TIMED_TOGETHER * warm / (time.perf_counter() - begin))))
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 3:
        start = time.perf_counter()
        for _ in range(together):
            one()
        finish()
        times.append((time.perf_counter() - start) / together)
    times.sort()
    return times[len(times) // 2], first


def make_model(torch, name):
    nn, functional = torch.nn, torch.nn.functional
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )
    if name == "convnet":
        return nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Linear(128, 10),
        )

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1 = nn.LayerNorm(WIDTH, bias=False)
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
            self.proj = nn.Linear(WIDTH, WIDTH, bias=False)
            self.ln2 = nn.LayerNorm(WIDTH, bias=False)
            self.fc = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
            self.fc_proj = nn.Linear(4 * WIDTH, WIDTH, bias=False)

        def forward(self, x):
            batch, tokens, _ = x.shape
            parts = self.qkv(self.ln1(x)).split(WIDTH, dim=2)
            query, key, value = (part.view(batch, tokens, HEADS, WIDTH // HEADS).transpose(1, 2) for part in parts)
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))
            return x + self.fc_proj(functional.gelu(self.fc(self.ln2(x))))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(VOCABULARY, WIDTH)
            self.wpe = nn.Embedding(CONTEXT, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.ln_f = nn.LayerNorm(WIDTH, bias=False)
            self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
            self.head.weight = self.wte.weight
            for weight in self.parameters():
                if weight.dim() == 2:
                    nn.init.normal_(weight, std=0.02)

        def forward(self, tokens):
            x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
            for block in self.blocks:
                x = block(x)
            return self.head(self.ln_f(x)).flatten(0, 1)

    return Gpt()


def make_step(torch, name, device, compiled):
    """A training step as a function without arguments, and the number of parameters."""
    torch.manual_seed(0)
    batch = BATCHES[name]
    if name == "gpt":
        x = torch.randint(VOCABULARY, (batch, CONTEXT), device=device)
        y = torch.randint(VOCABULARY, (batch * CONTEXT,), device=device)
    else:
        x = torch.rand(batch, 1, 28, 28, device=device)
        y = torch.randint(10, (batch,), device=device)
    model = make_model(torch, name).to(device)
    parameters = sum(weight.numel() for weight in model.parameters())
    optimizer = (torch.optim.AdamW if name == "gpt" else torch.optim.Adam)(model.parameters(), lr=1e-3)
    if compiled:
        model = torch.compile(model)

    def one():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return one, parameters


def step_memory_mib(torch, name, device):
    """Most memory that tensors took at once: parameters, optimizer, batch, gradients, activations, temporaries of the kernels.

    On CUDA the allocator knows. On the CPU the profiler sees every allocation and release of PyTorch's allocator; the model is made under it, and the
    largest running sum over three steps is what counts.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        one, _ = make_step(torch, name, device, False)
        for _ in range(3):
            one()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        one, _ = make_step(torch, name, device, False)
        for _ in range(3):
            one()
    events = (event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / 2**20


def time_model(torch, args, name):
    device = "cuda" if args.devices == "torch-cuda" else "cpu"
    one, parameters = make_step(torch, name, device, args.devices == "torch-compile")
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    secs, first = measure(one, finish, args.seconds)
    loss = one().item()
    if loss != loss:
        refuse(f"the loss of {name} is {loss}")
    peak = peak_memory_mib()
    del one
    gc.collect()
    memory = step_memory_mib(torch, name, device)
    return {
        "ms_per_step": secs * 1e3, "samples_per_sec": BATCHES[name] / secs, "parameters": parameters, "peak_memory_mib": peak,
        "device_memory_mib": memory, "first_step_secs": first,
    }


def sizes_of(name):
    """`matmul-512` or `matmul-64x784x512`: rows, inner size, columns."""
    try:
        sizes = [int(size) for size in name.removeprefix("matmul-").split("x")]
    except ValueError:
        sizes = []
    if len(sizes) == 1:
        return sizes * 3
    if len(sizes) != 3:
        refuse(f"there is no `{name}`; there are mlp, convnet, gpt, and products as matmul-512 or matmul-64x784x512")
    return sizes


def time_product(make, multiply, finish, args, name):
    rows, inner, columns = sizes_of(name)
    left, right, out = make(rows, inner), make(inner, columns), make(rows, columns)
    secs, first = measure(lambda: multiply(left, right, out), finish, args.seconds)
    return {
        "ms_per_step": secs * 1e3, "samples_per_sec": 1 / secs, "parameters": 0, "peak_memory_mib": peak_memory_mib(),
        "device_memory_mib": None, "first_step_secs": first,
        "gflops_per_sec": 2e-9 * rows * inner * columns / secs,
    }


def blas_of_numpy(numpy):
    blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas['version']}"


def listing():
    found = {"torch": None, "cuda": None, "openblas": None}
    try:
        import torch

        found["torch"] = torch.__version__
        found["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    except ImportError:
        pass
    try:
        import numpy

        found["openblas"] = blas_of_numpy(numpy)
    except ImportError:
        pass
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="mlp")
    parser.add_argument("--devices", required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.devices == "list":
        print(json.dumps(listing()))
        return
    name = args.models
    if args.devices == "openblas":
        for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(args.threads)
        import numpy

        if not name.startswith("matmul-"):
            refuse(f"NumPy multiplies matrices; it does not train `{name}`")
        random = numpy.random.default_rng(0)
        make = lambda rows, columns: random.uniform(-1, 1, (rows, columns)).astype(numpy.float32)
        multiply = lambda left, right, out: numpy.matmul(left, right, out=out)
        figure, adapter = time_product(make, multiply, lambda: None, args, name), blas_of_numpy(numpy)
    elif args.devices in ("torch", "torch-compile", "torch-cuda"):
        import torch

        torch.set_num_threads(args.threads)
        # f32 means f32 on tensor cores' machines too; it is PyTorch's default for products.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        if name.startswith("matmul-"):
            device = "cuda" if args.devices == "torch-cuda" else "cpu"
            finish = torch.cuda.synchronize if device == "cuda" else lambda: None
            make = lambda rows, columns: torch.rand(rows, columns, device=device) * 2 - 1
            multiply = lambda left, right, out: torch.mm(left, right, out=out)
            figure = time_product(make, multiply, finish, args, name)
        elif name in BATCHES:
            figure = time_model(torch, args, name)
        else:
            refuse(f"there is no model `{name}`; there are {', '.join(BATCHES)}, and products as matmul-512")
        on = torch.cuda.get_device_name() if args.devices == "torch-cuda" else f"{torch.get_num_threads()} threads"
        adapter = f"PyTorch {torch.__version__}, {on}"
    else:
        refuse(f"there is no `{args.devices}` here; there are torch, torch-compile, torch-cuda and openblas")
    print(json.dumps({"model": name, "device": args.devices, "adapter": adapter, **figure}))


main()
