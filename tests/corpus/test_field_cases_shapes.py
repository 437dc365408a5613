"""Rows as public reports describe them, each kind with its right outcome: what is mapped, what is rejected and why, what is counted.

A case is (rows, expected): a chat as `role: text` lines, `!` after the role of a turn that is not graded; a document as its text; or the
reason of a rejection in brackets.
"""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Record, UnmappableError, record_of
from mistral_lib.preparation import explore, prepare
from mistral_lib.run import Run, files
from mistral_lib.run.settings import Settings
from tests.support.corpora import rows as plain_rows
from tests.support.corpora import short_run

Q, A, Q2, A2 = "How does the harbor crane work?", "It lifts boxes with steel ropes.", "And at night?", "At night it rests."
BAD, SYSTEM, CONTEXT = "BADTURN, do not learn this.", "You are a harbor master.", "The crane was built in 1911."
PAIR, TWO_ROUNDS = f"user: {Q}\nassistant: {A}", f"user: {Q}\nassistant: {A}\nuser: {Q2}\nassistant: {A2}"
WITH_SYSTEM, WITH_CONTEXT = f"system: {SYSTEM}\n{PAIR}", f"user: {Q}\n\n{CONTEXT}\nassistant: {A}"
CHAT = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
SHAREGPT = [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]
TOOL = {"name": "rate", "description": "exchange rate", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
CALL = {"name": "rate", "arguments": {"a": "x"}}
CALLED = f"user: {Q}\nassistant: {json.dumps(CALL, separators=(',', ':'))}\ntool: 1.5\nassistant: {A}"


def said(role: str, text: object, **more: object) -> dict:
    return {"role": role, "content": text, **more}


def spoken(who: str, answers: str) -> dict:
    return {"conversations": [{"from": who, "value": Q}, {"from": answers, "value": A}]}


ROLE_NAMES = [("human", "gpt"), ("user", "assistant"), ("Human", "Assistant"), ("human", "chatgpt"), ("human", "bing"), ("human", "bard"),
              ("human", "claude"), ("human", "bot"), ("customer", "agent"), ("USER", "ASSISTANT"), ("Q", "A"), ("input", "output"), ("human", "llm"),
              ("student", "teacher"), ("instruction", "response"), (" User ", "AI")]  # fmt: skip
CHAT_KEYS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat", "chat_history", "message", "items", "Messages",
             "my_private_key_for_it")  # fmt: skip

CASES: dict[str, list[tuple[object, str]]] = {
    "01 role names": [
        *((spoken(*names), PAIR) for names in ROLE_NAMES),
        (spoken("hummany", "gpt"), "[unknown_role hummany]"),
        (spoken("human", "narrator"), "[unknown_role narrator]"),
    ],
    "02 chat lists": [
        *(({"id": 7, key: CHAT}, PAIR) for key in CHAT_KEYS),
        ({"conversations": [{"role": "user", "value": Q}, {"role": "assistant", "value": A}]}, PAIR),
        ({"messages": [{"role": "user", "text": Q}, {"role": "assistant", "text": A}]}, PAIR),
        ({"conversation": [{"speaker": "user", "text": Q}, {"speaker": "bot", "text": A}]}, PAIR),
        ({"conversation": [{"human": Q, "assistant": A}, {"human": Q2, "assistant": A2}]}, TWO_ROUNDS),
        ({"conversations": [{"user": Q, "assistant": A}]}, PAIR),
        ({"conversations": [[Q, A], [Q2, A2]]}, TWO_ROUNDS),
        ({"messages": {"role": ["user", "assistant"], "content": [Q, A]}}, PAIR),
        ({"messages": [Q, A]}, "[turns_without_a_role]"),
        ({"dialog": [Q, A]}, "[unknown_shape]"),
        ({"prompt": Q, "completion": A, "turns": 2, "messages": 2, "chat": "web", "thread": ["x"]}, PAIR),
        (CHAT, PAIR),
        (SHAREGPT, PAIR),
    ],
    "03 system and tools beside": [
        ({"system": SYSTEM, "conversations": SHAREGPT}, WITH_SYSTEM),
        ({"system": SYSTEM, "messages": CHAT}, WITH_SYSTEM),
        ({"system": SYSTEM, "messages": [said("system", SYSTEM), *CHAT]}, WITH_SYSTEM),
        ({"system_prompt": SYSTEM, "instruction": Q, "output": A}, WITH_SYSTEM),
        ({"id": "niv.0", "system_prompt": SYSTEM, "question": Q, "response": A}, WITH_SYSTEM),
        ({"system": f"SYSTEM: {SYSTEM}", "chat": f"USER: {Q}\n\n\nASSISTANT: {A} <|endoftext|>\n\n\n"}, WITH_SYSTEM),
        ({"system": SYSTEM, "question": Q, "chosen": A, "rejected": BAD}, WITH_SYSTEM),
        ({"messages": CHAT, "context": CONTEXT}, f"system: {CONTEXT}\n{PAIR}"),
        ({"tools": [TOOL], "messages": [said("user", Q), said("assistant", None, tool_calls=[{"id": "c1", "type": "function", "function": {"name": "rate", "arguments": '{"a": "x"}'}}]), said("tool", "1.5", tool_call_id="c1"), said("assistant", A)]}, f"tools: rate\n{CALLED}"),
        ({"tools": json.dumps([TOOL]), "conversations": [SHAREGPT[0], {"from": "function_call", "value": json.dumps(CALL)}, {"from": "observation", "value": "1.5"}, SHAREGPT[1]]}, f"tools: rate\n{CALLED}"),
        ({"functions": [{"type": "function", "function": TOOL}], "messages": CHAT}, f"tools: rate\n{PAIR}"),
        ({"tools": "Use the rate tool.", "messages": CHAT}, f"system: Use the rate tool.\n{PAIR}"),
        ({"query": Q, "tools": json.dumps([TOOL]), "answers": json.dumps([CALL])}, f'tools: rate\nuser: {Q}\nassistant: {json.dumps(CALL, separators=(",", ":"))}'),
        ({"chat": f'USER: {Q}\n\nASSISTANT: <functioncall> {{"name": "rate", "arguments": \'{{"a": "x"}}\'}} <|endoftext|>\n\nFUNCTION RESPONSE: 1.5\n\nASSISTANT: {A} <|endoftext|>'}, CALLED),
    ],
    "04 weights, names, refusals": [
        ({"messages": [said("user", Q2), said("assistant", BAD, weight=0), *CHAT]}, f"user: {Q2}\nassistant!: {BAD}\n{PAIR}"),
        ({"messages": [said("user", Q2), said("assistant", BAD, weight=0.0), said("user", Q), said("assistant", A, weight=1)]}, f"user: {Q2}\nassistant!: {BAD}\n{PAIR}"),
        ({"messages": [*CHAT, said("user", Q2), said("assistant", BAD, weight=0)]}, PAIR),
        ({"messages": [said("user", Q), said("assistant", BAD, weight=0)]}, "[no_graded_answer]"),
        ({"messages": [said("user", Q), said("assistant", BAD, train=False)]}, "[no_graded_answer]"),
        ({"messages": [said("user", Q), said("assistant", BAD, loss_weight=0)]}, "[no_graded_answer]"),
        ({"messages": [said("user", Q), said("assistant", BAD, weight=0), said("assistant", A, weight=1)]}, PAIR),
        ({"prompt": Q, "completion": BAD, "weight": 0}, "[weight_is_zero]"),
        ({"prompt": Q, "completion": BAD, "train": False}, "[weight_is_zero]"),
        ({"prompt": Q, "completion": A, "weight": 1}, PAIR),
        ({"messages": [said("user", Q), said("assistant", None, refusal=A)]}, PAIR),
        ({"messages": [said("user", Q, name="anna"), said("user", Q2, name="ben"), said("assistant", A)]}, f"user: {Q}\n\n{Q2}\nassistant: {A}"),
    ],
    "05 messages as text": [
        *(({key: json.dumps(CHAT)}, PAIR) for key in ("messages", "conversations")),
        ({"conversations": json.dumps(SHAREGPT)}, PAIR),
        ({"messages": [json.dumps(one) for one in CHAT]}, PAIR),
        ({"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1:])}, PAIR),
        ({"chosen": json.dumps(CHAT), "rejected": json.dumps([CHAT[0], said("assistant", BAD)])}, PAIR),
        ({"messages": str(CHAT)}, "[messages_are_python_text]"),
        ({"messages": "no list"}, "[messages_are_not_a_list_of_objects]"),
        ({"prompt": '[{"a": 1}]', "completion": A}, f'user: [{{"a": 1}}]\nassistant: {A}'),
    ],
    "06 content parts": [
        ({"messages": [said("user", [{"type": "text", "text": Q}]), said("assistant", [{"type": "text", "text": A, "image_url": None}])]}, PAIR),
        ({"messages": [said("user", [{"type": "input_text", "text": Q}]), said("assistant", [{"type": "output_text", "text": A}])]}, PAIR),
        ({"messages": [said("user", {"content_type": "text", "parts": [Q]}), said("assistant", {"content_type": "text", "parts": [A]})]}, PAIR),
        ({"messages": [said("user", [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]), CHAT[1]]}, f"user: One.\nTwo.\nassistant: {A}"),
        ({"messages": [said("user", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": Q}]), CHAT[1]]}, "[content_part_is_image]"),
        ({"messages": [said("user", [{"type": "text", "text": Q}, {"type": "image", "text": None, "index": 0}]), CHAT[1]]}, "[content_part_is_image]"),
        ({"messages": [said("user", [{"type": "input_audio", "input_audio": "x"}]), CHAT[1]]}, "[content_part_is_audio]"),
        ({"messages": [said("user", []), CHAT[1]]}, "[empty_message]"),
        ({"system": SYSTEM, "messages": [said("user", Q), said("assistant", [{"type": "text", "text": "Let me look."}, {"type": "tool_use", "id": "t1", "name": "rate", "input": {"a": "x"}}]), said("user", [{"type": "tool_result", "tool_use_id": "t1", "content": "1.5"}]), said("assistant", [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": A}])]}, f'system: {SYSTEM}\nuser: {Q}\nassistant: Let me look.\n\n{json.dumps(CALL, separators=(",", ":"))}\ntool: 1.5\nassistant: <think>\nhm\n</think>\n\n{A}'),
    ],
    "07 not in turn": [
        ({"messages": [said("assistant", A2), *CHAT]}, PAIR),
        ({"messages": [*CHAT, said("user", Q2)]}, PAIR),
        ({"messages": [said("system", "One."), said("system", "Two."), *CHAT]}, f"system: One.\n\nTwo.\n{PAIR}"),
        ({"messages": [*CHAT, said("system", "Now in French."), said("user", Q2), said("assistant", A2)]}, f"{PAIR}\nuser: Now in French.\n\n{Q2}\nassistant: {A2}"),
        ({"messages": [said("user", Q), said("assistant", A), said("assistant", A2)]}, f"user: {Q}\nassistant: {A}\n\n{A2}"),
        ({"messages": []}, "[no_answer_at_the_end]"),
        ({"messages": CHAT[1:]}, "[no_question]"),
        ({"messages": CHAT[:1]}, "[no_answer_at_the_end]"),
        ({"messages": [said("user", Q), said("assistant", "")]}, "[empty_message]"),
    ],
    "10 preferences and ratings": [
        ({"prompt": Q, "completion": A, "label": True}, PAIR),
        ({"prompt": Q, "completion": BAD, "label": False}, "[answer_is_rated_bad]"),
        ({"messages": [CHAT[0], said("assistant", BAD)], "kto_tag": False}, "[answer_is_rated_bad]"),
        ({"messages": CHAT, "kto_tag": True}, PAIR),
        ({"prompt": Q, "response": BAD, "helpfulness": 0}, "[answer_is_rated_bad]"),
        ({"instruction": "Feeling?", "output": "negative", "label": 0}, "user: Feeling?\nassistant: negative"),
        ({"instruction": Q, "input": CONTEXT, "chosen": A, "rejected": BAD}, WITH_CONTEXT),
        ({"conversations": SHAREGPT[:1], "chosen": {"from": "gpt", "value": A}, "rejected": {"from": "gpt", "value": BAD}}, PAIR),
        ({"messages": CHAT[:1], "chosen": CHAT[1:], "rejected": [said("assistant", BAD)]}, PAIR),
        ({"prompt": Q, "chosen": A, "rejected": None}, PAIR),
        ({"prompt": Q2, "chosen": CHAT, "rejected": [CHAT[0], said("assistant", BAD)], "score_chosen": 8.0}, PAIR),
        ({"question": Q, "response_j": A, "response_k": BAD}, PAIR),
        ({"instruction": Q, "output": [A, BAD]}, "[several_answers_without_a_rank]"),
        ({"prompt": Q, "responses": [BAD, A], "scores": [0.1, 0.9]}, PAIR),
        ({"prompt": Q, "responses": [BAD, A], "ranks": [2, 1]}, PAIR),
        ({"instruction": Q, "completions": [{"response": BAD, "overall_score": 3.0}, {"response": A, "overall_score": 8.5}]}, PAIR),
        ({"prompt": Q, "response_a": BAD, "response_b": A, "preference": "b"}, PAIR),
        ({"prompt": Q, "response_a": A, "response_b": BAD, "winner": "model_a"}, PAIR),
        ({"prompt": Q, "response1": A, "response2": BAD, "overall_preference": -2}, PAIR),
        ({"prompt": Q, "response_a": A, "response_b": BAD, "winner": "tie"}, "[preference_is_a_tie]"),
        ({"prompt": Q, "response_a": A, "response_b": BAD}, "[several_answers_without_a_rank]"),
    ],
    "11 reasoning": [
        ({"Question": Q, "Complex_CoT": "Think.", "Response": A}, f"user: {Q}\nassistant: <think>\nThink.\n</think>\n\n{A}"),
        ({"question": Q, "rationale": "Think.", "answer": A}, f"user: {Q}\nassistant: <think>\nThink.\n</think>\n\n{A}"),
        ({"messages": [CHAT[0], {**CHAT[1], "reasoning_content": "Think."}]}, f"user: {Q}\nassistant: <think>\nThink.\n</think>\n\n{A}"),
        ({"messages": [said("developer", SYSTEM), CHAT[0], {**CHAT[1], "thinking": "Think.", "channel": "final"}]}, f"system: {SYSTEM}\nuser: {Q}\nassistant: <think>\nThink.\n</think>\n\n{A}"),
        ({"messages": [CHAT[0], said("assistant", f"<think>Think.</think>{A}")]}, f"user: {Q}\nassistant: <think>Think.</think>{A}"),
    ],
    "12 trees and lone turns": [
        ({"message_tree_id": "t", "prompt": {"text": Q, "role": "prompter", "replies": [{"text": BAD, "role": "assistant", "rank": 1, "replies": []}, {"text": A, "role": "assistant", "rank": 0, "replies": []}]}}, PAIR),
        ({"message_id": "m1", "parent_id": "m0", "role": "assistant", "text": A, "lang": "en"}, "[single_turn_of_a_conversation]"),
        ({"message_id": "m0", "parent_id": None, "role": "prompter", "text": Q}, "[single_turn_of_a_conversation]"),
        (said("user", Q), "[single_turn_of_a_conversation]"),
        ({"from": "human", "value": Q}, "[single_turn_of_a_conversation]"),
        ({"speaker": "B", "utterance": Q}, "[single_turn_of_a_conversation]"),
        ({"id": 0, "parent_id": None, "instruction": Q, "output": A}, PAIR),
        ({"id": 1, "parent_id": 0, "instruction": Q2, "output": A2}, "[earlier_turns_are_in_other_rows]"),
        ({"text": A, "author": "Ada", "user": "u1"}, A),
    ],
    "13 exports of chat programs": [
        ({"title": "x", "mapping": {"a": {"id": "a", "message": None, "parent": None, "children": ["b"]}, "b": {"id": "b", "message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": [Q]}}, "parent": "a", "children": ["z", "c"]}, "z": {"id": "z", "message": {"author": {"role": "assistant"}, "content": {"parts": [BAD]}}, "parent": "b", "children": []}, "c": {"id": "c", "message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": [A]}}, "parent": "b", "children": []}}}, PAIR),
        ({"uuid": "u", "chat_messages": [{"uuid": "x", "text": Q, "sender": "human", "content": [{"type": "text", "text": Q}]}, {"uuid": "y", "text": A, "sender": "assistant"}]}, PAIR),
        ({"guild": {"id": "1"}, "messages": [{"id": "0", "type": "Default", "content": A, "author": {"name": "bob"}}]}, "[turn_without_a_role]"),
        ({"name": "chat", "messages": [{"id": 0, "type": "message", "from": "Bob", "text": A}]}, "[unknown_role bob]"),
        ({"type": "message", "user": "U00", "text": A, "ts": "1704.0"}, "[single_turn_of_a_conversation]"),
        ({"id": "U01", "name": "x", "profile": {"email": "y"}}, "[unknown_shape]"),
    ],
    "14 annotations": [
        ({"id": 0, "data": {"text": Q}, "annotations": [{"result": [{"type": "textarea", "value": {"text": [A]}}]}], "predictions": []}, PAIR),
        ({"data": {"text": Q}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["positive"]}}]}]}, f"user: {Q}\nassistant: positive"),
        ({"data": {"prompt": Q, "response": BAD}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["bad"]}}]}]}, "[answer_is_rated_bad]"),
        ({"data": {"prompt": Q, "response": A}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["good"]}}]}]}, PAIR),
        ({"data": {"prompt": Q, "response": BAD}, "annotations": [{"was_cancelled": True, "result": []}, {"result": [{"type": "textarea", "value": {"text": [A]}}]}]}, PAIR),
        ({"data": {"text": Q}, "annotations": []}, "[task_without_annotation]"),
        ({"id": "a", "fields": {"instruction": Q, "response": BAD}, "responses": [{"values": {"corrected": {"value": A}}}]}, PAIR),
    ],
    "16 instruction data": [
        *(({question: Q, answer: A}, PAIR) for question, answer in (
            ("query", "response"), ("question", "response"), ("prompt", "output"), ("instruction", "answer"), ("instruction", "completion"), ("input", "output"),
            ("input", "target"), ("inputs", "targets"), ("source", "target"), ("human", "bot"), ("user", "assistant"), ("Question", "Answer"), ("INSTRUCTION", "RESPONSE"),
            (" prompt ", "completion "), ("article", "highlights"), ("content", "summary"), ("text", "summary"), ("text", "target"), ("document", "summary"))),
        *(({"prompt": Q, key: CONTEXT, "completion": A}, WITH_CONTEXT) for key in ("context", "input")),
        *(({"question": Q, key: CONTEXT, "answer": A}, WITH_CONTEXT) for key in ("context", "input", "passage", "schema")),
        ({"instruction": "", "input": Q, "output": A}, PAIR),
        ({"instruction": None, "input": Q, "output": A}, PAIR),
        ({"instruction": Q, "input": "", "output": A, "system": SYSTEM, "history": [[Q2, A2]]}, f"system: {SYSTEM}\nuser: {Q2}\nassistant: {A2}\n{PAIR}"),
        ({"instruction": Q, "output": A, "history": [said("user", Q2), said("assistant", A2)]}, f"user: {Q2}\nassistant: {A2}\n{PAIR}"),
        ({"instruction": Q, "output": A, "history": "[]"}, PAIR),
        ({"instruction": Q, "output": A, "history": None}, PAIR),
        ({"instruction": Q, "output": {"x": 1.1, "y": "b"}}, f'user: {Q}\nassistant: {{"x":1.1,"y":"b"}}'),
        ({"id": "s0", "instruction": Q, "instances": [{"input": "", "output": A}]}, PAIR),
        ({"title": "Title", "text": A}, f"Title\n\n{A}"),
        ({"translation": {"en": Q, "fr": A}}, f"user: en: {Q}\n\nfr:\nassistant: {A}"),
        ({"messages": [], "prompt": Q, "completion": A}, PAIR),
        ({"text": "", "prompt": Q, "completion": A}, PAIR),
        ({"prompt": "", "completion": "", "text": A}, A),
    ],
    "34 nothing in an optional cell": [
        *(({"instruction": Q, "input": nothing, "output": A, "system": nothing}, PAIR)
          for nothing in (math.nan, "nan", "NaN", "None", "null", "<noinput>", "N/A", "", "  ", [], {}, None)),
        ({"instruction": Q, "input": 0, "output": A}, f"user: {Q}\n\n0\nassistant: {A}"),
        ({"question": "Is it empty?", "answer": "None"}, "user: Is it empty?\nassistant: None"),
    ],
    "53 labels": [
        ({"text": Q, "label": "positive"}, f"user: {Q}\nassistant: positive"),
        ({"text": Q, "label": 1}, f"user: {Q}\nassistant: 1"),
        ({"text": Q, "label": 0, "label_text": "negative"}, f"user: {Q}\nassistant: negative"),
        ({"sentence": Q, "class": "question"}, f"user: {Q}\nassistant: question"),
        ({"review": Q, "sentiment": "neutral"}, f"user: {Q}\nassistant: neutral"),
        ({"utterance": Q, "intent": "ask"}, f"user: {Q}\nassistant: ask"),
        ({"tweet": Q, "emotion": "joy"}, f"user: {Q}\nassistant: joy"),
        ({"headline": Q, "category": "sport"}, f"user: {Q}\nassistant: sport"),
        ({"Text": Q, "Label": "spam"}, f"user: {Q}\nassistant: spam"),
        ({"text": Q, "labels": ["a", "b"]}, f"user: {Q}\nassistant: a, b"),
        ({"title": "Title", "content": Q, "label": "x"}, f"user: Title\n\n{Q}\nassistant: x"),
        ({"premise": Q, "hypothesis": A, "label": "neutral"}, f"user: premise: {Q}\n\nhypothesis: {A}\nassistant: neutral"),
        ({"sentence1": Q, "sentence2": A, "label": -1}, "[label_is_missing]"),
        ({"text": A, "category": "news"}, A),
    ],
    "questions with answers": [
        ({"id": "5", "title": "T", "context": CONTEXT, "question": Q, "answers": {"text": [A], "answer_start": [3]}}, WITH_CONTEXT),
        ({"context": CONTEXT, "question": Q, "answers": {"text": [A, "ropes"], "answer_start": [3, 9]}}, WITH_CONTEXT),
        ({"context": CONTEXT, "question": Q, "answers": {"text": [], "answer_start": []}}, "[no_answer_given]"),
        ({"question": Q, "answers": [{"text": A, "answer_start": 0}]}, PAIR),
        ({"question": Q, "answer": [A, "ropes"]}, PAIR),
        ({"question": Q, "answer": True}, f"user: {Q}\nassistant: true"),
        ({"question": Q, "answer": {"value": A, "aliases": ["x"]}}, PAIR),
    ],
    "multiple choice": [
        *((row, f"user: {Q}\n\nA. red\nB. blue\nassistant: B. blue") for row in (
            {"question": Q, "choices": ["red", "blue"], "answer": 1}, {"question": Q, "choices": ["red", "blue"], "answer": "B"},
            {"question": Q, "choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "B"}, {"question": Q, "options": ["red", "blue"], "answer": "blue"},
            {"question": Q, "options": {"A": "red", "B": "blue"}, "answer": "blue", "answer_idx": "B"}, {"ctx": Q, "endings": ["red", "blue"], "label": "1"},
            {"Question": Q, "A": "red", "B": "blue", "Answer": "B"}, {"question": Q, "opa": "red", "opb": "blue", "cop": 1},
            {"question": Q, "option_a": "red", "option_b": "blue", "answer": "(b)"}, {"question": Q, "choices": json.dumps(["red", "blue"]), "answer": 1})),
        ({"premise": Q, "choice1": "red", "choice2": "blue", "label": 1}, f"user: {Q}\n\n1. red\n2. blue\nassistant: 2. blue"),
        ({"sentence": Q, "option1": "red", "option2": "blue", "answer": "2"}, f"user: {Q}\n\n1. red\n2. blue\nassistant: 2. blue"),
        ({"article": CONTEXT, "question": Q, "options": ["red", "blue"], "answer": "A"}, f"user: {Q}\n\n{CONTEXT}\n\nA. red\nB. blue\nassistant: A. red"),
        ({"question": Q, "choices": ["red", "blue"], "answer": "E"}, "[answer_is_no_option]"),
        ({"question": Q, "choices": ["red", "blue"], "answer": 2}, "[answer_is_no_option]"),
        ({"question": Q, "choices": ["red", "blue"]}, "[no_answer_given]"),
        ({"prompt": Q, "completion": A, "options": {"temperature": 0.7, "max_tokens": 9}}, PAIR),
        ({"prompt": Q, "completion": A, "choices": [{"index": 0}, {"index": 1}]}, PAIR),
    ],
    "a cell that says nothing, or that rates, is no answer": [
        *(({"conversations": SHAREGPT, "tools": nothing, "system": ""}, PAIR) for nothing in ("[]", "{}", "null", "None", " [ ] ")),
        ({"text": Q, "sentiment": -1}, f"user: {Q}\nassistant: -1"),
        ({"text": Q, "label": -1}, "[label_is_missing]"),
        ({"text": Q, "label": "INSULT", "answer": "reject"}, "[answer_is_rated_bad]"),
        ({"text": Q, "label": "INSULT", "answer": "ignore"}, "[task_without_annotation]"),
        ({"text": Q, "label": "INSULT", "answer": "accept"}, f"user: {Q}\nassistant: INSULT"),
        ({"text": Q, "options": [{"id": "A", "text": "Billing"}, {"id": "B", "text": "Tech"}], "accept": ["A", "B"], "answer": "accept"}, f"user: {Q}\nassistant: Billing, Tech"),
        ({"text": Q, "options": [{"id": "A", "text": "Billing"}], "accept": [], "answer": "accept"}, "[task_without_annotation]"),
        ({"text": Q, "answer": "accept"}, f"user: {Q}\nassistant: accept"),
        ({"text": Q, "annotation": "positive"}, f"user: {Q}\nassistant: positive"),
        *(({"message_id": "m", "parent_id": parent, "text": A, "role": role, "labels": {"name": ["spam"], "value": [0.0], "count": [3]}}, "[single_turn_of_a_conversation]")
          for parent, role in ((None, "prompter"), ("p", "assistant"))),
        ({"text": Q, "sender": "customer", "intent": "ask"}, f"user: {Q}\nassistant: ask"),
        ({"prompt": Q, "response": A, "chosen": True}, PAIR),
        ({"prompt": Q, "response": BAD, "chosen": False}, "[answer_is_rated_bad]"),
        ({"question": Q, "answer": BAD, "is_correct": False}, "[answer_is_rated_bad]"),
        ({"question": Q, "answer": BAD, "correct": False}, "[answer_is_rated_bad]"),
        ({"prompt": Q, "completion": BAD, "accepted": False}, "[answer_is_rated_bad]"),
        ({"prompt": Q, "completion": A, "accepted": True}, PAIR),
        *(({"text": BAD, **weight}, "[weight_is_zero]") for weight in ({"weight": 0}, {"train": False}, {"weight": "0"})),
        *(({"messages": [said("user", Q2), said("assistant", BAD, **bad), said("user", Q), said("assistant", A, **good)]}, f"user: {Q2}\nassistant!: {BAD}\n{PAIR}")
          for bad, good in (({"loss": False}, {"loss": True}), ({"loss_mask": 0}, {"loss_mask": 1}), ({"masked": True}, {"masked": False}))),
    ],
    "the right one of several answers": [
        ({"question": Q, "context": CONTEXT, "answers": ["red", "blue"], "label": 1}, f"user: {Q}\n\n{CONTEXT}\n\nA. red\nB. blue\nassistant: B. blue"),
        ({"question": Q, "answers": ["red", "blue"], "answer": "red", "label": "color"}, f"user: {Q}\nassistant: red"),
        ({"question": Q, "answers": ["red", "crimson"]}, f"user: {Q}\nassistant: red"),
        ({"prompt": f"\n\nHuman: {Q}\n\nAssistant: ", "answers": [{"answer": BAD, "rank": 2.0}, {"answer": A, "rank": 1.0}]}, PAIR),
        ({"question": Q, "answers": {"text": [BAD, A], "score": [1, 99]}}, PAIR),
        ({"context": CONTEXT, "question": Q, "answerA": "red", "answerB": "blue", "answerC": "tan", "label": "2"}, f"user: {Q}\n\n{CONTEXT}\n\nA. red\nB. blue\nC. tan\nassistant: B. blue"),
        ({"context": CONTEXT, "question": Q, "answer0": "red", "answer1": "blue", "answer2": "tan", "label": 1}, f"user: {Q}\n\n{CONTEXT}\n\n0. red\n1. blue\n2. tan\nassistant: 1. blue"),
        ({"question": Q, "answer_a": "red", "answer_b": "blue", "answer_c": "tan", "correct": "B"}, f"user: {Q}\n\nA. red\nB. blue\nC. tan\nassistant: B. blue"),
        ({"sentence": Q, "option1": "red", "option2": "blue", "answer": 1}, f"user: {Q}\n\n1. red\n2. blue\nassistant: 1. red"),
        ({"question": Q, "option1": "red", "option2": "blue", "correct": 2}, f"user: {Q}\n\n1. red\n2. blue\nassistant: 2. blue"),
        ({"question": Q, "option1": "red", "option2": "blue", "correct": 0}, "[answer_is_no_option]"),
        ({"question": Q, "choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": 1}, f"user: {Q}\n\n1. red\n2. blue\nassistant: 1. red"),
        ({"premise": CONTEXT, "choice1": "red", "choice2": "blue", "question": "effect", "label": 0}, f"user: effect\n\n{CONTEXT}\n\n1. red\n2. blue\nassistant: 1. red"),
        ({"question": Q, "hint": CONTEXT, "choices": ["red", "blue"], "answer": 0}, f"user: {Q}\n\n{CONTEXT}\n\nA. red\nB. blue\nassistant: A. red"),
        *(({"prompt": Q, "response_1": A, "response_2": BAD, key: value}, "[preference_does_not_say_which]") for key in ("label", "choice") for value in (0, 1)),
        ({"prompt": Q, "response_1": BAD, "response_2": A, "choice": 2}, PAIR),
        ({"prompt": Q, "response_1": A, "response_2": BAD, "winner": 1}, PAIR),
        ({"prompt": Q, "response_0": A, "response_1": BAD, "label": 0}, PAIR),
        ({"prompt": Q, "response_1": A, "response_2": BAD, "response_3": BAD, "label": 1}, "[several_answers_without_a_rank]"),
        ({"prompt": Q, "completions": [A, BAD], "labels": [True, False]}, "[several_answers_without_a_rank]"),
    ],
    "what belongs to the prompt": [
        ({"prompt": f"\n\nHuman: {Q2}\n\nAssistant: {A2}\n\nHuman: {Q}\n\nAssistant:", "chosen": f" {A}", "rejected": BAD}, f"user: {Q2}\nassistant: {A2}\n{PAIR}"),
        ({"prompt": f"Human: {Q}\n\nAssistant:", "completion": A}, PAIR),
        ({"subject": "Crane", "body": Q, "answer": A}, f"user: Crane\n\n{Q}\nassistant: {A}"),
        ({"title": "Crane", "body": Q, "answer": A}, f"user: Crane\n\n{Q}\nassistant: {A}"),
        ({"question": "Crane", "body": Q, "answer": A}, f"user: Crane\n\n{Q}\nassistant: {A}"),
        ({"text": Q, "code": "def lift(box):\n    return box"}, f"user: {Q}\nassistant: def lift(box):\n    return box"),
        ({"text": A, "code": "E12"}, A),
        ({"history": f"User: {Q2}\nBot: {A2}", "input": Q, "output": A}, f"user: {Q2}\nassistant: {A2}\n{PAIR}"),
        ({"history": CONTEXT, "input": Q, "output": A}, f"system: {CONTEXT}\n{PAIR}"),
        ({"history": "nan", "input": Q, "output": A}, PAIR),
        ({"context": [said("user", Q2), said("assistant", A2), said("user", Q)], "response": A}, f"user: {Q2}\nassistant: {A2}\n{PAIR}"),
        ({"messages": [said("user", Q2), said("assistant", A2), said("user", Q)], "completion": A}, f"user: {Q2}\nassistant: {A2}\n{PAIR}"),
        ({"messages": [said("system", SYSTEM), said("user", Q)], "response": A}, WITH_SYSTEM),
        ({"messages": [said("user", Q)], "answer": [said("assistant", A)]}, PAIR),
        ({"messages": CHAT, "response": BAD}, PAIR),
        ({"question": Q, "reasoning": "Think.", "response": f"<think>\nThink.\n</think>\n\n{A}"}, f"user: {Q}\nassistant: <think>\nThink.\n</think>\n\n{A}"),
    ],
    "turns in other spellings": [
        ({"turns": [{"speaker": "USER", "utterance": Q}, {"speaker": "SYSTEM", "utterance": A}]}, PAIR),
        ({"messages": [said("system", SYSTEM), said("user", Q)]}, "[no_answer_at_the_end]"),
        ({"systemInstruction": {"parts": [{"text": SYSTEM}]}, "contents": [{"role": "user", "parts": [{"text": Q}]}, {"role": "model", "parts": [{"text": A}]}]}, WITH_SYSTEM),
        ({"messages": [{"author": "user", "content": Q}, {"author": "bot", "content": A}]}, PAIR),
        ({"Messages": [{"Role": "User", "Content": Q}, {"Role": "Assistant", "Content": A}]}, PAIR),
        ({"messages": [CHAT[0], said("assistant", A, function_call={"name": None, "arguments": None})]}, PAIR),
        ({"messages": [CHAT[0], said("assistant", A, tool_calls=[{"id": None, "function": {"name": None}}])]}, PAIR),
        ({"conversation": "c-17", "prompt": Q, "response": A}, PAIR),
    ],
    "55 plain tables": [
        ({"data": "2024-01-01", "pergunta": Q, "resposta": A}, PAIR),
        ({"data": A}, A),
        ({"product": "rope", "price": "3", "description": A}, "[unknown_shape]"),
        ({"data": "2024-01-01", "price": 3}, "[unknown_shape]"),
    ],
}  # fmt: skip


def shown(record: Record) -> str:
    """A record as the cases write it."""
    if record.text is not None:
        return record.text
    lines = [f"tools: {', '.join(tool['function']['name'] for tool in record.tools)}"] if record.tools else []
    for message in record.messages:
        calls = [json.dumps(call["function"], separators=(",", ":")) for call in message.get("tool_calls", [])]
        text = "\n\n".join(part for part in (message["content"], *calls) if part)
        lines.append(f"{message['role']}{'' if message.get('graded', True) else '!'}: {text}")
    return "\n".join(lines)


def outcome(row: sources.Row, settings: Settings) -> str:
    try:
        return shown(record_of(row, settings))
    except UnmappableError as reason:
        return f"[{' '.join(part for part in (str(reason), reason.role) if part)}]"


def read(path: Path, **settings: object) -> list[str]:
    """The outcome of each row of a file."""
    (file,) = sources.find([str(path)], "corpus")
    return [outcome(row, Settings(**settings)) for row in sources.rows_of(file, Settings(**settings))]


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_row_has_its_right_outcome(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row, _ in CASES[name]))
    assert read(path) == [expected for _, expected in CASES[name]]


TABLES = ["05 messages as text", "34 nothing in an optional cell", "16 instruction data", "multiple choice", "03 system and tools beside"]


@pytest.mark.parametrize("name", TABLES)
def test_the_same_rows_in_parquet_with_the_keys_of_all_rows_have_the_same_outcome(name: str, tmp_path: Path) -> None:
    """Arrow gives each row the keys of all rows, with nulls; here one file for each set of keys and kinds of values."""
    for number, (row, expected) in enumerate(CASES[name]):
        if isinstance(row, dict) and not any(isinstance(value, dict) and not value for value in row.values()):
            filled = {**row, "a_column_of_other_rows": None}
            pd.DataFrame([filled, filled]).to_parquet(tmp_path / f"{number}.parquet")
            assert read(tmp_path / f"{number}.parquet") == [expected] * 2, row


def test_a_table_of_csv_has_the_same_outcome(tmp_path: Path) -> None:
    row = {"id": "1", "Instruction": Q, "input": "nan", "OUTPUT": A, "messages": ""}
    page = io.StringIO()
    writer = csv.DictWriter(page, row)
    writer.writeheader()
    writer.writerow(row)
    (tmp_path / "rows.csv").write_text(page.getvalue())
    assert read(tmp_path / "rows.csv") == [PAIR]
    pd.DataFrame({"instruction": [Q], "input": [np.nan], "output": [A]}).to_parquet(tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [PAIR]


def test_odd_domain_values_do_not_crash(tmp_path: Path) -> None:
    odd = ["a/b", "../x", "a\nb", " ", 5, None, ["x"], {"k": 1}, "x" * 300, "me" + "@" + "corp.com", "\u202eabc", "<b>", "CON", "0", ""]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"domain": value, "prompt": Q, "completion": A}) + "\n" for value in odd))
    (file,) = sources.find([str(tmp_path / "rows.jsonl")], "corpus")
    records = [record_of(row, Settings()) for row in sources.rows_of(file, Settings())]
    assert [shown(record) for record in records] == [PAIR] * len(odd) and all(record.domain for record in records)
    assert not any("@" in record.domain for record in records) and not any("domain" in record.unused for record in records)


# -- values that hold several rows, and arrays that are one chat ---------------------------------------------------------

ARTICLE = {"title": "T", "paragraphs": [{"context": CONTEXT, "qas": [{"id": "1", "question": Q, "answers": [{"text": A, "answer_start": 0}]}, {"id": "2", "question": Q2, "is_impossible": True, "answers": []}]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("squad.json", {"version": "1.1", "data": [ARTICLE, ARTICLE]}, [WITH_CONTEXT, "[no_answer_given]"] * 2),
        ("squad.jsonl", ARTICLE, [WITH_CONTEXT, "[no_answer_given]"]),
        ("columns.json", {"prompt": [Q, Q2], "completion": [A, A2]}, [PAIR, f"user: {Q2}\nassistant: {A2}"]),
        ("labels.jsonl", {"text": [Q, Q2], "label": [0, 1]}, [f"user: {Q}\nassistant: 0", f"user: {Q2}\nassistant: 1"]),
        ("one_chat.json", CHAT, [PAIR]),
        ("two_chats.json", [CHAT, SHAREGPT], [PAIR, PAIR]),
        ("chat_on_a_line.jsonl", CHAT, [PAIR]),
        ("columns_with_an_id.json", {"id": 3, "question": [Q, Q2], "answer": [A, A2]}, [PAIR, f"user: {Q2}\nassistant: {A2}"]),
        ("tokens.jsonl", {"id": 3, "text": ["EU", "rejects"], "ner_tags": [3, 0]}, ["EU\nrejects"]),
        ("parallel_answers.json", {"question": Q, "answers": [A, A]}, [PAIR]),
    ],
)
def test_a_value_of_several_rows_is_taken_apart_and_a_list_of_turns_is_one_chat(name, content, expected, tmp_path) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    assert read(tmp_path / name) == expected


# -- what the report names -----------------------------------------------------------------------------------------------


def unused(row: Mapping[str, object], **settings: object) -> tuple[str, ...]:
    return record_of(sources.Row("a.jsonl:1", row), Settings(**settings)).unused


def test_every_filled_key_is_used_or_named() -> None:
    assert unused({"prompt": Q, "completion": A, "id": 3, "Source": "web", "input": "nan", "empty": "", "none": None}) == ("id", "Source")
    assert unused({"messages": [said("user", Q, name="anna"), said("assistant", A, audio="x")], "score": 0.5}) == (
        "score",
        "messages.audio",
        "messages.name",
    )
    assert unused({"system": SYSTEM, "tools": [TOOL], "messages": CHAT, "weight": 1, "domain": "x", "ticket_id": "t1"}) == ()
    assert unused({"prompt": Q, "chosen": A, "rejected": BAD, "margin": 2}) == ("margin",)
    assert unused({"ask": Q, "say": A, "page": 1}, columns={"prompt": "ask", "answer": "say"}) == ("page",)
    assert unused({"say": A, "messages": CHAT, "sys": SYSTEM}, columns={"system": "sys"}) == ("say",)
    assert unused({"prompt": Q, "completion": A, "mail " + "me" + "@" + "corp.com": 1, "x" * 500: 1}) == ("mail <EMAIL>", "x" * 40)
    assert unused({"data": {"question": Q, "answer": A, "color": "red"}, "page": 1}) == ("page", "data.color")


def test_columns_may_name_system_text_and_tools() -> None:
    row = sources.Row("a.jsonl:1", {"talk": CHAT, "role text": SYSTEM, "api": [TOOL]})
    columns = {"messages": "talk", "system": "role text", "tools": "api"}
    assert shown(record_of(row, Settings(columns=columns))) == f"tools: rate\n{WITH_SYSTEM}"


def test_report_and_inventory_name_keys_roles_and_tools(home: Path, tiny_model: str) -> None:
    rows = [*plain_rows("red", 60), *(spoken("hummany", "gpt") for _ in range(2)), {"color": "x", "size": 3}, {"prompt": Q, "completion": A, "score": 7},
            {"tools": [TOOL], "messages": [said("user", Q2), said("assistant", "", tool_calls=[{"function": CALL}])]},
            {"messages": [said("user", Q2), said("assistant", BAD, weight=0), said("user", "Now?"), said("assistant", "Now it lifts a big box.")]}]  # fmt: skip
    files.write_json_lines(home / "corpora" / "mine" / "red.jsonl", rows)
    run = Run.open(short_run(run_name="names", corpus_paths=["corpora/mine"], base_model=tiny_model, max_tokens=256, validation_share=0.2, test_share=0.2,
                             max_rejected_share=0.5, shortest_answer=1, group_key="", most_repeated_pattern=0))  # fmt: skip
    totals = explore.explore(run)["totals"]
    report = prepare.prepare(run)
    assert report["unknown_roles"] == totals["unknown_roles"] == {"hummany": 2}
    assert report["unused_keys"]["module"] == 60 and report["unused_keys"]["score"] == report["unused_keys"]["color"] == 1
    assert totals["unused_keys"] == {"module": 60, "score": 1} and totals["unknown_shapes"] == [
        {"keys": {"color": 1, "size": 0}, "rows": 1}
    ]
    assert report["tool_use"] == {"tool_calls": 1, "tools": 1, "ungraded_answers": 1} and report["tools_written_as"] == "text"
    assert report["rejected"] == {"unknown_role": 2, "unknown_shape": 1}
    kept = pd.read_parquet(run.folder / "data" / "records.parquet")
    with_tools = kept[kept["tools"].notna()]
    assert len(with_tools) == 1 and json.loads(with_tools["tools"].iloc[0])[0]["function"] == TOOL


def test_a_corpus_without_a_record_says_what_its_rows_look_like(home: Path, tiny_model: str) -> None:
    rows = [{"product": f"rope {n}", "price": n, "description": f"{A} {n}"} for n in range(9)]
    files.write_json_lines(home / "corpora" / "mine" / "products.jsonl", [*rows, spoken("hummany", "gpt")])
    run = Run.open(short_run(run_name="none", corpus_paths=["corpora/mine"], base_model=tiny_model))
    with pytest.raises(explore.NoRecordError) as error:
        explore.explore(run)
    message = str(error.value)
    assert "9 rows have the keys product, price, description" in message and "hummany (1)" in message
    assert 'columns = {"prompt": "product", "answer": "description"}' in message
    with pytest.raises(prepare.EmptySplitError, match=r"columns.*hummany") as error:
        prepare.prepare(run)
    assert "description (9)" in str(error.value)
    mapped = run.settings.model_copy(update={"run_name": "some", "columns": {"prompt": "product", "answer": "description"}})
    assert explore.explore(Run.open(mapped))["totals"]["shapes"] == {"columns": 9}


SECRET = "AKIA" + "QWERTZ7KLM" + "NB4V2X"


def test_secrets_in_tools_calls_and_results_are_redacted(home: Path, tiny_model: str) -> None:
    key = "\n".join(("-----BEGIN " + "RSA PRIVATE KEY-----", "MIIEpAIBAAKCAQEA7bq" * 4, "-----END " + "RSA PRIVATE KEY-----"))
    tool = {**TOOL, "description": f"password = {SECRET}"}
    turns = [said("user", Q), said("assistant", "", tool_calls=[{"id": "abcdefghi", "function": {"name": "rate", "arguments": {"key": key, "n": 1}}}]),
             said("tool", json.dumps({"token": SECRET}), tool_call_id="abcdefghi"), said("assistant", A)]  # fmt: skip
    files.write_json_lines(home / "corpora" / "mine" / "red.jsonl", [*plain_rows("red", 60), {"messages": turns, "tools": [tool]}])
    run = Run.open(short_run(run_name="secrets", corpus_paths=["corpora/mine"], base_model=tiny_model, max_tokens=512))
    report = prepare.prepare(run)
    kept = pd.read_parquet(run.folder / "data" / "records.parquet")
    text = "".join(kept["messages"].dropna()) + "".join(kept["tools"].dropna())
    assert SECRET not in text and "MIIEp" not in text and report["redacted"]["private_key"] == 1
    (messages,) = [json.loads(one) for one in kept["messages"].dropna() if "tool_calls" in one]
    assert messages[1]["tool_calls"][0]["function"]["arguments"]["n"] == 1 and messages[2]["tool_call_id"] == "abcdefghi"
