"""Train the course's GPT on token shards: on one process, or shared among several.

    python appendix/j_scaling/train.py SHARDS OUT                        one process
    torchrun --nproc-per-node 2 … train.py SHARDS OUT --parallel ddp     or fsdp, or tp

Each way gives the same losses, up to rounding. Processes talk through gloo on CPUs, and through
nccl where each has a CUDA GPU (never tried: the course was made without GPUs). OUT gets a line a
step in `history.jsonl`, what each process keeps in `held-RANK.json`, and checkpoints. Started
again, a run goes on from the last one, on as many processes as you like, in any of the ways.

AdamW trains everything, since it treats each number alone. Muon (chapter 5) needs a whole matrix,
and here a process may hold a piece of it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInputOutput,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from shared.appendices import TokenShards, qkv_rank_order, rank_batch
from shared.previous_chapters import (
    FastLinear,
    GPTConfig,
    GPTModel,
    TiedHead,
    differences,
    fill_model,
    learning_rate_at,
    next_token_loss,
    read_checkpoint,
    save_checkpoint,
)

WAYS = ("none", "ddp", "fsdp", "tp")
Place = tuple[int, int, torch.device]  # this process's rank, how many there are, its device
AVERAGES = ("exp_avg", "exp_avg_sq")  # what AdamW remembers of each weight


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path, help="folder of token shards")
    parser.add_argument("out", type=Path, help="folder for history and checkpoints, seen by all")
    parser.add_argument(
        "--parallel",
        nargs="+",
        choices=WAYS,
        default=["none"],
        metavar="WAY",
        help=f"{', '.join(WAYS)}; of several, each gets a folder in OUT",
    )
    numbers = {"steps": 20, "batch-size": 8, "context-length": 64, "embed-dim": 64}
    numbers |= {"num-heads": 4, "num-layers": 2, "seed": 0, "save-every": 10}
    numbers |= {"stop-at": 0, "kill-at": 0}  # to try it: end early; the last rank dies, once
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=0.003)
    return parser.parse_args()


def join_group() -> Place:
    """Meet the other processes, if torchrun started us: (rank, number of ranks, device)."""
    device = torch.device("cpu")
    if torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1)):  # one for each
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:  # plain python
        return 0, 1, device
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size(), device


class SplitHead(TiedHead):
    """The tied head in PyTorch's plain words, which work on a split matrix too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def split_matrices(model: GPTModel, mesh: DeviceMesh, order: Tensor) -> None:
    """Tensor parallelism: of each pair, cut the first by its outputs, the second by its inputs."""
    for module in model.modules():
        if type(module) is FastLinear:
            module.__class__ = nn.Linear  # a convolution cannot be split
    for block in model.blocks:
        for p in block.attention.qkv.parameters():
            p.data = p.data[order.to(p.device)]  # each rank's heads lie together
        block.attention.num_heads //= mesh.size()
    whole, plan = Replicate(), {}
    for first, second in (
        ("attention.qkv", "attention.out"),
        ("feed_forward.up", "feed_forward.down"),
    ):
        plan |= {f"blocks.*.{first}": ColwiseParallel(), f"blocks.*.{second}": RowwiseParallel()}
    plan["token_embedding"] = RowwiseParallel(input_layouts=whole)  # a rank knows its own tokens,
    model.output_head.__class__ = SplitHead  # and scores them; then all scores are collected
    plan["output_head"] = PrepareModuleInputOutput(
        input_layouts=(whole,),
        desired_input_layouts=(whole,),
        output_layouts=(Shard(-1),),
        desired_output_layouts=(whole,),
    )
    parallelize_module(model, mesh, plan)


def share(model: GPTModel, parallel: str, device: torch.device, order: Tensor | None) -> nn.Module:
    """What to call for logits; from now on `model` holds what this process keeps."""
    cuda = device.type == "cuda"
    if parallel == "none":
        return model
    if parallel == "ddp":
        called = DistributedDataParallel(model, device_ids=[device.index] if cuda else None)
        called.config = model.config  # which the loss asks for
        return called
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    if parallel == "tp":
        split_matrices(model, mesh, order)
        return model
    types = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if cuda else MixedPrecisionPolicy()
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh, mp_policy=types)
    return model


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def clip(model: nn.Module, longest: float) -> float:
    """Shorten the whole gradient to `longest`, wherever its pieces lie; return its length."""
    gradients = [p.grad for p in model.parameters()]
    squares = torch.zeros(2, device=own_part(gradients[0]).device)  # of what all have; of pieces
    for g in gradients:
        piece = isinstance(g, DTensor) and g.placements[0].is_shard()
        squares[int(piece)] += own_part(g).square().sum()
    if dist.is_initialized():
        dist.all_reduce(squares[1])
    length = squares.sum().sqrt().item()
    for g in gradients:
        own_part(g).mul_(min(1.0, longest / (length + 1e-6)))
    return length


class Run:
    """A model in training, and this process's share of it."""

    def __init__(self, args: argparse.Namespace, way: str, out: Path, place: Place) -> None:
        self.args, self.way, self.out, (self.rank, self.ranks, self.device) = args, way, out, place
        if (way == "none") != (not dist.is_initialized()):
            found = f"--parallel {way} and {self.ranks} process(es)"
            raise SystemExit(f"{found}: start ddp, fsdp and tp with torchrun, none with python.")
        out.mkdir(parents=True, exist_ok=True)
        self.attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        self.shards, self.step = TokenShards(args.shards), 0
        sizes = (args.context_length, args.embed_dim, args.num_heads, args.num_layers)
        self.model = GPTModel(GPTConfig(self.shards.vocab_size, *sizes), seed=args.seed)
        names = ("steps", "batch_size", "seed", "rate")
        self.settings = {name: getattr(args, name) for name in names}
        self.settings["tokens"] = len(self.shards)
        heads = (args.embed_dim, args.num_heads, self.ranks)
        self.order = qkv_rank_order(*heads) if way == "tp" else None
        sheets = sorted(out.glob("step-*.json"))  # written last, so the other file is there
        tensors = self.read(sheets[-1].with_suffix(".safetensors")) if sheets else {}
        self.called = share(self.model.to(self.device), way, self.device, self.order)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), args.rate, (0.9, 0.95), weight_decay=0.0, foreach=False
        )
        if tensors:
            self.put_averages(tensors)

    def read(self, path: Path) -> dict[str, Tensor]:
        """Weights into the model, before it is shared; all tensors of the checkpoint."""
        tensors, content = read_checkpoint(path)
        if other := differences(content["notes"]["settings"], self.settings):
            raise SystemExit(f"{path} is of another run: {'; '.join(other)}. Give another OUT.")
        fill_model(self.model, tensors, path)
        self.step = content["notes"]["step"]
        return tensors

    def reordered(self, name: str) -> bool:
        return self.order is not None and ".qkv." in name

    def put_averages(self, tensors: dict[str, Tensor]) -> None:
        """Give AdamW back what it remembered: to each process its own piece."""
        for name, p in self.model.named_parameters():
            self.optimizer.state[p]["step"] = torch.tensor(float(self.step))
            for key in AVERAGES:
                full = tensors[f"{key}.{name}"]
                full = (full[self.order] if self.reordered(name) else full).to(self.device)
                if isinstance(p, DTensor):
                    full = distribute_tensor(full, p.device_mesh, p.placements)
                self.optimizer.state[p][key] = full

    def save(self) -> None:
        """A checkpoint as a single process would write it. Rank 0 writes; all have to call this."""
        tensors = {}
        for name, p in self.model.named_parameters():
            for kind, part in {"model": p, **self.optimizer.state[p]}.items():
                full = part.detach()
                full = full.full_tensor() if isinstance(part, DTensor) else full
                inverse = self.order.argsort() if self.reordered(name) and full.ndim else ...
                tensors[f"{kind}.{name}"] = full[inverse].cpu()
        if self.rank == 0:
            path = self.out / f"step-{self.step:06d}.safetensors"
            plain = GPTModel(self.model.config, seed=0)
            fill_model(plain, tensors, path)
            rest = {name: t for name, t in tensors.items() if name.startswith(AVERAGES)}
            save_checkpoint(path, plain, rest, step=self.step, settings=self.settings)

    def train_step(self) -> dict:
        """Batch, loss, backward, clip, step; what to note down."""
        args, start, mine = self.args, time.perf_counter(), {}
        if self.way in ("ddp", "fsdp"):  # in tp, all ranks work on the same rows
            mine = {"rank": self.rank, "num_ranks": self.ranks}
        sizes = {"batch_size": args.batch_size, "context_length": args.context_length}
        batch = rank_batch(self.shards, self.step, seed=args.seed, **sizes, **mine)
        loss = next_token_loss(self.called, *batch)
        loss.backward()
        loss, norm = loss.detach(), clip(self.model, 1.0)
        if mine:
            dist.all_reduce(loss)
            loss /= self.ranks
        if not math.isfinite(loss.item() + norm):
            raise FloatingPointError(f"step {self.step}: loss {loss.item()}, gradient {norm}.")
        factor = learning_rate_at((self.step + 0.5) / args.steps, warmup=0.05)
        self.optimizer.param_groups[0]["lr"] = args.rate * factor
        self.optimizer.step()
        line = {"step": self.step, "loss": loss.item(), "norm": norm, "ranks": self.ranks}
        return line | {"seconds": time.perf_counter() - start, "clock": time.time()}

    def note_held(self) -> None:
        """Write down how many bytes this process keeps, counted tensor by tensor."""
        parameters = list(self.model.parameters())
        held = {"weights": parameters, "gradients": [p.grad for p in parameters]}
        held["averages"] = [self.optimizer.state[p][key] for p in parameters for key in AVERAGES]
        sizes = {what: sum(own_part(t).nbytes for t in those) for what, those in held.items()}
        (self.out / f"held-{self.rank}.json").write_text(json.dumps(sizes), "utf-8")

    def train(self) -> None:
        end = self.args.stop_at or self.args.steps
        while self.step < end:
            if self.step == self.args.kill_at > 0 and self.rank == self.ranks - 1:
                die_once(self.args.out / "killed")
            line = self.train_step() | {"attempt": self.attempt}
            self.step += 1
            if self.rank == 0:
                with open(self.out / "history.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            if self.step == end:
                self.note_held()
            self.optimizer.zero_grad()
            if self.step % self.args.save_every == 0 or self.step == end:
                self.save()


def die_once(mark: Path) -> None:
    """End this process as a power cut would; but not again after a restart."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def main() -> None:
    args, place = read_arguments(), join_group()
    for way in args.parallel:
        Run(args, way, args.out / way if len(args.parallel) > 1 else args.out, place).train()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
