"""A model that takes images, with random weights, so small that vLLM starts on it at once.

A program of its own, `python -m tests.engines.seeing FOLDER`, because transformers and torch take long to import.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

SIDE, IMAGE_TOKENS = 28, 4  # of an image in pixels; each becomes so many tokens, and a few that stand around them
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}{% endif %}\n{% endfor %}assistant:"
)


def main(folder: Path) -> None:
    """Write the checkpoint."""
    tokenizers: Any = import_module("tokenizers")
    transformers: Any = import_module("transformers")
    idefics3: Any = import_module("transformers.models.idefics3.configuration_idefics3")
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles]
    words = ["<s>", "</s>", "<pad>", "<unk>", *special, *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
    by_bytes = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[], unk_token="<unk>")
    )
    by_bytes.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    by_bytes.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=by_bytes,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=special,
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    few = {"num_hidden_layers": 2, "num_attention_heads": 2}
    text = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=256,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        **few,
    )
    vision = idefics3.Idefics3VisionConfig(
        hidden_size=32, intermediate_size=64, image_size=SIDE, patch_size=SIDE // 2, **few
    )
    image = words.index("<image>")
    config = idefics3.Idefics3Config(
        vision_config=vision, text_config=text, image_token_id=image, scale_factor=1, pad_token_id=2
    )
    torch: Any = import_module("torch")
    torch.manual_seed(0)  # the same weights, and so the same answers, every time
    transformers.Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    pixels = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}, "do_image_splitting": False}
    _write(folder / "preprocessor_config.json", image_processor_type="Idefics3ImageProcessor", **pixels)
    _write(folder / "processor_config.json", processor_class="Idefics3Processor", image_seq_len=IMAGE_TOKENS)


def _write(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(fields))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
