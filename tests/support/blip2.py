"""A tiny model that takes images: a BLIP-2 without weights, behind the tiny model's tokenizer.

Of the models for which vLLM needs no torchvision it is one of the smallest. Start it with
`OPTIONS`: vLLM makes the weights, so that answers mean nothing.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from dynamo_cli.models import tiny

OPTIONS = ("--load-format", "dummy", "--max-model-len", "1024")
PIXELS, PATCH, QUERIES = 28, 14, 4
"""Side of an image and of its patches, in pixels, and the tokens that an image takes."""

IMAGE, IMAGE_ID = "<image>", tiny.SHAPE.vocab
CHAT = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] or '' }}{% endfor %}{% endif %}"
    "{% endfor %}"
)


def write(folder: Path) -> None:
    """Write its configuration, tokenizer and image processor into `folder`."""
    tiny.write(folder)
    (folder / "model.safetensors").unlink()
    (folder / "chat_template.jinja").write_text(CHAT)
    ids = json.loads((folder / "generation_config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    first = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"].append({**first, "id": IMAGE_ID, "content": IMAGE})
    _save(folder / "tokenizer.json", tokenizer)
    _save(folder / "config.json", _config(ids))
    images = {
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "Blip2Processor",
        "size": {"height": PIXELS, "width": PIXELS},
    }
    _save(folder / "preprocessor_config.json", images)
    both = {"processor_class": "Blip2Processor", "num_query_tokens": QUERIES}
    _save(folder / "processor_config.json", both)


def _config(ids: dict[str, int]) -> dict[str, Any]:
    small = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2}
    return {
        "architectures": ["Blip2ForConditionalGeneration"],
        "model_type": "blip-2",
        "dtype": "bfloat16",
        "num_query_tokens": QUERIES,
        "image_token_index": IMAGE_ID,
        "image_token_id": IMAGE_ID,
        "use_decoder_only_language_model": True,
        "text_config": {
            "model_type": "opt",
            "architectures": ["OPTForCausalLM"],
            "vocab_size": IMAGE_ID + 32,
            "word_embed_proj_dim": 64,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "max_position_embeddings": 1024,
            **small,
            **ids,
        },
        "vision_config": {
            "model_type": "blip_2_vision_model",
            "num_hidden_layers": 1,
            "image_size": PIXELS,
            "patch_size": PATCH,
            **small,
        },
        "qformer_config": {
            "model_type": "blip_2_qformer",
            "vocab_size": 8,
            "num_hidden_layers": 1,
            "encoder_hidden_size": 64,
            **small,
        },
    }


def image(red: int) -> str:
    """The URL of an image of one color, for a request."""
    made = io.BytesIO()
    Image.new("RGB", (PIXELS, PIXELS), (red, 0, 0)).save(made, "PNG")
    return "data:image/png;base64," + base64.b64encode(made.getvalue()).decode()


def _save(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
