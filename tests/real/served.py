"""Small networks that were taught what they say, and an HTTP server in OpenAI's form from which others ask them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

STEPS = 1500
"""Of training at most; 300 and 150 are enough."""


def prompt_of(question: str) -> str:
    """What the networks are asked; lm-evaluation-harness writes it by its task, the server for a chat."""
    return f"Question: {question}\nAnswer:"


class Taught:
    """A random Qwen3 of two layers, one token a character, trained until its greedy answers are those that it was
    taught: ``{question: answer}``. `teach` goes on from there."""

    def __init__(self, tokenizer: Path, seed: int = 0) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        torch.manual_seed(seed)
        self.model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(self.tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=16, intermediate_size=128, max_position_embeddings=64,
                tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None,
            )
        )  # fmt: skip

    def teach(self, answers: Mapping[str, str]) -> int:
        """Train on all answers at once; returns the steps that it took."""
        end = self.tokenizer.eos_token_id
        rows = []
        for question, answer in answers.items():
            start, rest = (self.tokenizer(text)["input_ids"] for text in (prompt_of(question), f" {answer}"))
            rows.append((start + rest + [end], [-100] * len(start) + rest + [end]))
        longest = max(len(ids) for ids, _ in rows)
        ids, labels = (
            torch.tensor([row[side] + [fill] * (longest - len(row[side])) for row in rows])
            for side, fill in ((0, 0), (1, -100))
        )
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        for step in range(STEPS):
            if step % 25 == 0 and all(
                self.answer(prompt_of(question)) == f" {one}" for question, one in answers.items()
            ):
                return step
            loss = self.model(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        raise AssertionError(f"it does not say what it was taught after {STEPS} steps; loss {loss.item()}")

    @torch.inference_mode()
    def answer(self, prompt: str, tokens: int = 16) -> str:
        """The greedy continuation, up to its end."""
        ids = torch.tensor([self.tokenizer(prompt)["input_ids"]])
        out = self.model.generate(ids, max_new_tokens=tokens, do_sample=False)
        said = self.tokenizer.convert_ids_to_tokens(out[0, ids.shape[1] :].tolist(), skip_special_tokens=True)
        return "".join(said)  # the tokenizer's own `decode` writes spaces between characters


@contextmanager
def serving(models: Mapping[str, Taught], asked: list[tuple[str, str, str]]) -> Iterator[str]:
    """The address of a server that answers completions and chats by ``models``, each under its name; what it was asked
    and said is added to ``asked``: (model, prompt, answer)."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            chat = self.path.endswith("/chat/completions")
            if chat:
                content = request["messages"][-1]["content"]
                text = content if isinstance(content, str) else "".join(part["text"] for part in content)
                prompt = prompt_of(text)
            else:
                prompt = request["prompt"] if isinstance(request["prompt"], str) else request["prompt"][0]
            with lock:
                said = models[request["model"]].answer(prompt)
                asked.append((request["model"], prompt, said))
            for stop in request.get("stop") or []:
                said = said.partition(stop)[0]
            self._send(_reply(request["model"], prompt, said, chat))

        def _send(self, reply: dict[str, Any]) -> None:
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _reply(model: str, prompt: str, said: str, chat: bool) -> dict[str, Any]:
    counts = {"prompt_tokens": len(prompt), "completion_tokens": len(said), "total_tokens": len(prompt) + len(said)}
    body = {"message": {"role": "assistant", "content": said}} if chat else {"text": said}
    return {
        "id": "1",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", **body}],
        "usage": counts,
    }
