"""Makes tests/golden/data/chat_templates.json: what Transformers renders, for the tests of
engine/text/chat_template.

Usage: make_chat_template_goldens.py SHARED_DATA_DIR   (needs `pip install transformers jinja2`)

Two sets of templates go in. The published ones under SHARED_DATA_DIR are third-party and are not
copied: the file holds their names, their fingerprints and the fingerprint of each rendered text, or
the message where a template raises one. Those of chat_template_constructs.py are the project's own
and are there with what they render. The conversations are written here.
"""

import datetime
import glob
import json
import os
import sys

from chat_template_constructs import TEMPLATES, VARIABLES
import transformers.utils.chat_template_utils as chat_template_utils

NOW = 1767323045  # 2026-01-02 03:04:05 UTC


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


chat_template_utils.datetime = FixedClock

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather at a place; it's \"live\" & <fast>",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "a town, e.g. Zürich"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "options": {
                    "type": "object",
                    "properties": {
                        "detail": {"type": "boolean", "description": "more words."},
                        "hours": {"type": "array", "items": {"type": "number"}},
                    },
                    "required": ["detail"],
                },
                "threshold": {"type": ["number", "null"], "default": 0.5},
            },
            "required": ["place"],
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}
NO_PARAMETERS = {
    "type": "function",
    "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}},
}
INTERPRETER = {"type": "code_interpreter"}


def call(name, arguments, call_id="call00001"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def conversations():
    """(name, messages, tools)"""
    user = {"role": "user", "content": "Hello, who are you?"}
    answer = {"role": "assistant", "content": "I'm a small model."}
    more = {"role": "user", "content": "  Tell me a story.\n"}
    system = {"role": "system", "content": "Be brief & \"kind\"."}
    odd = {
        "role": "user",
        "content": "<b>Ünïcödé</b> 🦙 'single' \"double\" {{ braces }} {% tag %} \\n \t\u2028 日本語 <|im_end|>",
    }
    weather_call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [call("get_weather", {"place": "Zürich", "days": 2, "options": {"detail": True}})],
    }
    weather_text_call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [call("get_weather", '{"place": "Z\\u00fcrich", "days": 2}')],
    }
    result = {
        "role": "tool",
        "name": "get_weather",
        "tool_call_id": "call00001",
        "content": '{"sky": "<clear>", "degrees": 21.5}',
    }
    yield "plain", [user], None
    yield "multi_turn", [user, answer, more], None
    yield "three_turns", [user, answer, more, answer, odd], None
    yield "system", [system, user], None
    yield "system_multi_turn", [system, user, answer, odd], None
    yield "odd_text", [odd], None
    yield "empty_content", [{"role": "user", "content": ""}], None
    yield "ends_with_assistant", [user, answer], None
    yield "thinking", [user, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}, more], None
    yield "reasoning", [user, {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}, more], None
    yield "tools", [user], [WEATHER, ADD]
    yield "tools_system", [system, user], [WEATHER, ADD, NO_PARAMETERS]
    yield "tool_call", [user, weather_call, result], [WEATHER]
    yield "tool_call_text_arguments", [user, weather_text_call, result], [WEATHER]
    yield "tool_call_then_chat", [system, user, weather_call, result, answer, more], [WEATHER, ADD]
    two = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call("add", {"a": 1, "b": -2.5}, "call00001"), call("now", {}, "call00002")],
    }
    yield "two_tool_calls", [
        user,
        two,
        {"role": "tool", "name": "add", "tool_call_id": "call00001", "content": "-1.5"},
        {"role": "tool", "name": "now", "tool_call_id": "call00002", "content": "noon"},
    ], [ADD, NO_PARAMETERS]
    yield "code_interpreter", [user], [INTERPRETER, ADD]
    yield "tool_calls_without_tools", [user, weather_call, result, answer], None
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    yield "content_parts", [{"role": "user", "content": parts}], None
    yield "two_users", [user, more], None
    yield "assistant_first", [answer, user], None
    yield "unknown_role", [user, {"role": "critic", "content": "No."}], None
    yield "no_messages", [], None


def cases():
    for name, messages, tools in conversations():
        for add_generation_prompt in (True, False):
            yield name, messages, tools, add_generation_prompt, {}
    # Some templates need a list of tools, even an empty one, or variables of their own.
    own = {"functions": json.dumps([ADD["function"]]), "datetime": "2026-01-02"}
    for name, messages, tools in conversations():
        if not tools:
            yield name + "_no_tools", messages, [], True, own
    add_call = {"role": "assistant", "content": "", "tool_calls": [call("add", {"a": 1, "b": -2.5})]}
    add_result = {"role": "tool", "name": "add", "tool_call_id": "call00001", "content": "-1.5"}
    question = {"role": "user", "content": "What is 1 - 2.5?"}
    for add_generation_prompt in (True, False):
        yield "add", [question], [ADD], add_generation_prompt, own
        yield "add_system", [{"role": "system", "content": "Count."}, question], [ADD], add_generation_prompt, own
        yield "add_call", [question, add_call, add_result], [ADD], add_generation_prompt, own
        yield "add_twice", [question, add_call, add_result, {"role": "assistant", "content": "-1.5"}, question,
                            add_call, add_result, add_result], [ADD, NO_PARAMETERS], add_generation_prompt, own
    user = [{"role": "user", "content": "Hi"}]
    yield "no_thinking", user, None, True, {"enable_thinking": False}
    yield "own_date", user, [WEATHER], True, {"date_string": "1 Jan 2030", "tools_in_user_message": False}
    yield "builtin_tools", user, [WEATHER], True, {"builtin_tools": ["brave_search", "code_interpreter"]}


def render(template, bos, eos, messages, tools, add_generation_prompt, extra):
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [messages],
            tools=tools,
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            bos_token=bos,
            eos_token=eos,
            **extra,
        )
        return {"text": rendered[0]}
    except Exception as error:  # whatever it is, ours must fail as well
        raised = type(error).__name__ == "TemplateError"
        return {"raised": str(error)} if raised else {"fails": type(error).__name__}


def published_templates(shared):
    """(path under shared, text, bos, eos)"""
    for path in sorted(glob.glob(os.path.join(shared, "chat_templates", "*.jinja"))):
        with open(path, encoding="utf-8") as file:
            yield os.path.relpath(path, shared), file.read(), "<s>", "</s>"
    for path in sorted(glob.glob(os.path.join(shared, "tokenizers", "*", "tokenizer_config.json"))):
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        if "chat_template" in config:
            yield (os.path.relpath(path, shared), config["chat_template"], config["bos_token"] or "",
                   config["eos_token"])


def fingerprint(text):
    """FNV-1a, 64 bits, of the UTF-8 text: short to write down, and a few lines of C++ to check."""
    value = 0xCBF29CE484222325
    for byte in text.encode("utf-8"):
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def main():
    shared = sys.argv[1]
    here = os.path.dirname(os.path.abspath(__file__))
    all_cases = list(cases())
    golden = {
        "now": NOW,
        "cases": [
            {"name": name, "messages": messages, "tools": tools, "add_generation_prompt": add, "extra": extra}
            for name, messages, tools, add, extra in all_cases
        ],
        "published": [],
    }
    for name, text, bos, eos in published_templates(shared):
        outcomes = []
        for _, messages, tools, add, extra in all_cases:
            outcome = render(text, bos, eos, messages, tools, add, extra)
            if "text" in outcome:
                outcome = {"fingerprint": fingerprint(outcome["text"])}
            outcomes.append(outcome)
        golden["published"].append(
            {"path": name, "template_fingerprint": fingerprint(text), "bos": bos, "eos": eos, "outcomes": outcomes})
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho", "reasoning": "hm"},
    ]
    golden["constructs"] = {"messages": messages, "variables": VARIABLES, "templates": []}
    for text in TEMPLATES:
        outcome = render(text, "<s>", "</s>", messages, None, True, VARIABLES)
        golden["constructs"]["templates"].append({"template": text, **outcome})
    out = os.path.join(here, "data", "chat_templates.json")
    with open(out, "w", encoding="utf-8") as file:
        json.dump(golden, file, ensure_ascii=False, separators=(",", ":"), sort_keys=False)
        file.write("\n")


if __name__ == "__main__":
    main()
