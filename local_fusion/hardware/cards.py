"""Known GPUs: their names as NVML reports them, memory and speed, so that a rig can be planned before it is bought."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024**2

IDLE_BYTES = 768 * _MIB
"""What driver and firmware hold of a GPU that nobody uses: total less free, which `memory.used` does not show.

Outputs of `nvidia-smi --query-gpu=memory.total,memory.free` of idle cards show 448 (T4), 470 (L4), 478 (H100),
474 to 482 (RTX 4090), 486 (RTX 5090), 513 to 626 (A100 40 GB), 579 (A40), 599 (L40S), 599 to 640 (RTX PRO 6000),
643 (RTX 6000 Ada) and 744 to 767 MiB (A800): no card is planned fuller on paper than it will be found.
"""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU by the name that people use, the name that NVML reports, and its total memory in bytes.

    `bandwidth` of its memory is in bytes a second; `flops` are operations a second of its tensor cores, dense, in
    BF16 with sums in 32 bits (FP16 for Turing and Volta, which have no BF16).
    """

    key: str
    name: str
    total_bytes: int
    bandwidth: float
    flops: float


# Total memory in MiB as public outputs of nvidia-smi show it, with ECC as it comes from the factory. A card that comes
# with two sizes of memory under one name carries its size in its key. No cards below compute capability 7.0.
# GB/s of memory and TFLOPS of tensor cores as NVIDIA's data sheets and architecture whitepapers have them: where those
# give figures for sparse matrices, half of it; where only FP8 or FP4 with sparsity ("AI TOPS"), a quarter or an eighth;
# for GeForce cards without a table, twice their FP32 rate, as in the tables of the RTX 3080, 4090 and 5090.
_TABLE = (
    ("RTX2080Ti", "NVIDIA GeForce RTX 2080 Ti", 11264, 616, 53.8),
    ("RTX3060", "NVIDIA GeForce RTX 3060", 12288, 360, 25.5),
    ("RTX3080", "NVIDIA GeForce RTX 3080", 10240, 760, 59.5),
    ("RTX3080Ti", "NVIDIA GeForce RTX 3080 Ti", 12288, 912, 68.2),
    ("RTX3090", "NVIDIA GeForce RTX 3090", 24576, 936, 71.2),
    ("RTX3090Ti", "NVIDIA GeForce RTX 3090 Ti", 24564, 1008, 80.0),
    ("RTX4060Ti-16GB", "NVIDIA GeForce RTX 4060 Ti", 16380, 288, 44.1),
    ("RTX4070", "NVIDIA GeForce RTX 4070", 12282, 504, 58.3),
    ("RTX4070Ti", "NVIDIA GeForce RTX 4070 Ti", 12282, 504, 80.2),
    ("RTX4070TiSuper", "NVIDIA GeForce RTX 4070 Ti SUPER", 16376, 672, 88.2),
    ("RTX4080", "NVIDIA GeForce RTX 4080", 16376, 717, 97.5),
    ("RTX4080Super", "NVIDIA GeForce RTX 4080 SUPER", 16376, 736, 104.4),
    ("RTX4090", "NVIDIA GeForce RTX 4090", 24564, 1008, 165.2),
    ("RTX4090D", "NVIDIA GeForce RTX 4090 D", 24564, 1008, 147.1),
    ("RTX5060Ti-16GB", "NVIDIA GeForce RTX 5060 Ti", 16311, 448, 47.4),
    ("RTX5070", "NVIDIA GeForce RTX 5070", 12227, 672, 61.7),
    ("RTX5070Ti", "NVIDIA GeForce RTX 5070 Ti", 16303, 896, 87.9),
    ("RTX5080", "NVIDIA GeForce RTX 5080", 16303, 960, 112.6),
    ("RTX5090", "NVIDIA GeForce RTX 5090", 32607, 1792, 209.5),
    ("RTXA4000", "NVIDIA RTX A4000", 16376, 448, 76.7),
    ("RTXA5000", "NVIDIA RTX A5000", 24564, 768, 111.1),
    ("RTXA6000", "NVIDIA RTX A6000", 49140, 768, 154.8),
    ("RTX4000Ada", "NVIDIA RTX 4000 Ada Generation", 20475, 360, 106.9),
    ("RTX4500Ada", "NVIDIA RTX 4500 Ada Generation", 24570, 432, 158.5),
    ("RTX6000Ada", "NVIDIA RTX 6000 Ada Generation", 49140, 960, 364.2),
    ("RTXPRO4500", "NVIDIA RTX PRO 4500 Blackwell", 32623, 896, 210.9),
    ("RTXPRO5000", "NVIDIA RTX PRO 5000 Blackwell", 48935, 1344, 258.0),
    ("RTXPRO6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97887, 1792, 503.8),
    ("RTXPRO6000-MaxQ", "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 97887, 1792, 438.9),
    ("RTXPRO6000-Server", "NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, 1597, 500.0),
    ("T4", "Tesla T4", 15360, 320, 65.0),
    ("V100-16GB", "Tesla V100-SXM2-16GB", 16384, 900, 125.0),
    ("V100-32GB", "Tesla V100-SXM2-32GB", 32768, 900, 125.0),
    ("A10", "NVIDIA A10", 23028, 600, 125.0),
    ("A10G", "NVIDIA A10G", 23028, 600, 70.0),
    ("A30", "NVIDIA A30", 24576, 933, 165.0),
    ("A40", "NVIDIA A40", 46068, 696, 149.7),
    ("A100-40GB", "NVIDIA A100-SXM4-40GB", 40960, 1555, 312.0),
    ("A100-40GB-PCIe", "NVIDIA A100-PCIE-40GB", 40960, 1555, 312.0),
    ("A100-80GB", "NVIDIA A100-SXM4-80GB", 81920, 2039, 312.0),
    ("A100-80GB-PCIe", "NVIDIA A100 80GB PCIe", 81920, 1935, 312.0),
    ("A800-80GB", "NVIDIA A800-SXM4-80GB", 81920, 2039, 312.0),
    ("A800-80GB-PCIe", "NVIDIA A800 80GB PCIe", 81920, 1935, 312.0),
    ("L4", "NVIDIA L4", 23034, 300, 121.0),
    ("L20", "NVIDIA L20", 46068, 864, 119.5),
    ("L40", "NVIDIA L40", 46068, 864, 181.0),
    ("L40S", "NVIDIA L40S", 46068, 864, 362.0),
    ("H20", "NVIDIA H20", 97871, 4000, 148.0),
    ("H100", "NVIDIA H100 80GB HBM3", 81559, 3350, 989.4),
    ("H100-PCIe", "NVIDIA H100 PCIe", 81559, 2000, 756.0),
    ("H100-NVL", "NVIDIA H100 NVL", 95830, 3900, 835.5),
    ("H800", "NVIDIA H800", 81559, 3350, 989.4),
    ("H200", "NVIDIA H200", 143771, 4800, 989.4),
    ("H200-NVL", "NVIDIA H200 NVL", 143771, 4800, 835.5),
    ("GH200", "NVIDIA GH200 480GB", 97871, 4000, 989.4),
    ("B200", "NVIDIA B200", 183359, 8000, 2250.0),
    ("B300", "NVIDIA B300 SXM6 AC", 275040, 8000, 2250.0),
    ("GB200", "NVIDIA GB200", 189471, 8000, 2500.0),
)

CARDS = tuple(
    Card(key, name, mib * _MIB, bandwidth * 1e9, tflops * 1e12) for key, name, mib, bandwidth, tflops in _TABLE
)


def find_card(text: str) -> Card | None:
    """The card that is called `text`: its key or NVML's name, in any case, with or without maker and form factor."""
    wanted = _plain(text)
    return _BY_NAME.get(wanted) or _BY_NAME.get(f"rtx{wanted}")


def sizes_of(text: str) -> list[Card]:
    """The cards that are called `text` but for their size or form, where one must be chosen."""
    wanted = _plain(text)
    return [card for card in CARDS if _plain(card.key.partition("-")[0]) in (wanted, f"rtx{wanted}")]


def _plain(name: str) -> str:
    words = name.casefold().replace("-", " ").replace("_", " ").split()
    return "".join(word for word in words if word not in _MAKER and not word.startswith(_FORM))


_MAKER = ("nvidia", "geforce", "tesla")
_FORM = ("sxm", "hbm")
_BY_NAME = {_plain(card.key): card for card in CARDS} | {
    # A name that cards with less memory have as well does not tell which is meant.
    _plain(card.name): card
    for card in CARDS
    if "GB" in card.name or "GB" not in card.key.partition("-")[2]
}
