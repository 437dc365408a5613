"""The chat template of each tokenizer version, without tools: what mistral-common writes for the same chat.

v1 writes [INST] as text, later versions as control tokens. SentencePiece tokenizers begin every text with a blank, tekken adds none.
Up to v3 the system text is part of a user message (v1: the first, later: the last); from v7 on it has control tokens of its own.
Tools are written by tokens/mistral_tools.py.   Source: https://docs.mistral.ai/guides/tokenization/ and instruct.py in mistral-common
"""

_SYSTEM = "{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else none %}{%- set turns = messages[1:] if system is not none else messages %}"
_REFUSAL = (
    "{%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) or turn['role'] not in ('user', 'assistant') %}"
    "{{- raise_exception('after an optional system message, user and assistant must take turns') }}{%- endif %}"
)
_LAST_USER = (
    "{%- set last = namespace(user=-1) %}"
    "{%- for turn in turns %}{%- if turn['role'] == 'user' %}{%- set last.user = loop.index0 %}{%- endif %}{%- endfor %}"
)


def in_user_message(blank: str) -> str:
    """v2 and v3: the system text precedes the last user message. blank: what every text begins with."""
    return (
        f"{_SYSTEM}{_LAST_USER}{{{{- bos_token }}}}"
        f"{{%- for turn in turns %}}{_REFUSAL}"
        f"{{%- if turn['role'] == 'assistant' %}}{{{{- '{blank}' + turn['content'].rstrip(' ') + eos_token }}}}"
        f"{{%- elif loop.index0 == last.user and system is not none %}}{{{{- '[INST]{blank}' + system + '\\n\\n' + turn['content'] + '[/INST]' }}}}"
        f"{{%- else %}}{{{{- '[INST]{blank}' + turn['content'] + '[/INST]' }}}}{{%- endif %}}"
        "{%- endfor %}"
    )


def with_system_tokens(blank: str) -> str:
    """v7 and later: [SYSTEM_PROMPT] … [/SYSTEM_PROMPT] at the beginning."""
    return (
        f"{_SYSTEM}{{{{- bos_token }}}}"
        f"{{%- if system is not none %}}{{{{- '[SYSTEM_PROMPT]{blank}' + system + '[/SYSTEM_PROMPT]' }}}}{{%- endif %}}"
        f"{{%- for turn in turns %}}{_REFUSAL}"
        f"{{%- if turn['role'] == 'assistant' %}}{{{{- '{blank}' + turn['content'].rstrip(' ') + eos_token }}}}"
        f"{{%- else %}}{{{{- '[INST]{blank}' + turn['content'] + '[/INST]' }}}}{{%- endif %}}"
        "{%- endfor %}"
    )


AS_TEXT = (  # v1
    f"{_SYSTEM}{{{{- bos_token }}}}"
    f"{{%- for turn in turns %}}{_REFUSAL}"
    "{%- if turn['role'] == 'assistant' %}{{- ' ' + turn['content'] + eos_token }}"
    "{%- elif loop.first and system is not none %}{{- ' [INST] ' + system + '\\n\\n' + turn['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' [INST] ' + turn['content'] + ' [/INST]' }}{%- endif %}"
    "{%- endfor %}"
)

# Comments at the beginning of the templates of v11 and v13, from which tokens/mistral_tools.py knows how these versions write calls.
CALLS_WITH_IDS = "{#- calls: [TOOL_CALLS] name [CALL_ID] id [ARGS] arguments #}"
CALLS_WITHOUT_IDS = "{#- calls: [TOOL_CALLS] name [ARGS] arguments #}"
