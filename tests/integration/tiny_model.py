"""Writes a tiny random ternary checkpoint of family B with a byte-level tokenizer.

The protocol tests run against it: it loads in milliseconds, needs nothing but the standard library,
and its output is arbitrary bytes, so that replacement characters occur as a matter of course.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from random_checkpoint import config_of, write_checkpoint  # noqa: E402

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def write_tiny_model(directory: Path):
    write_checkpoint(directory, config_of("B", ffn=256), chat_template=CHAT_TEMPLATE)
