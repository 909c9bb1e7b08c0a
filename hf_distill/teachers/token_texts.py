"""What a tokenizer calls its tokens, to compare with what a server calls them."""

import re
from typing import Any

TOKEN_ID = re.compile(r"token_id:(\d+)")  # as vLLM calls a token with return_tokens_as_token_ids


class OtherTokenizerError(ValueError):
    """A server that reads or returns other tokens than the tokenizer's."""


class TokenTexts:
    """The texts of a tokenizer's tokens.

    Args:
        tokenizer: whose token ids are sent to a server.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.number = max(tokenizer.get_vocab().values()) + 1
        self._texts: dict[int, str] = {}
        self._ids: dict[str, list[int]] = {}

    def text(self, token: int) -> str:
        """A token, decoded alone."""
        if token not in self._texts:
            self._texts[token] = self.tokenizer.decode([token])
        return self._texts[token]

    def difference(self, token: int, text: str | None) -> str | None:
        """In what a server's text of a token differs from the tokenizer's; None where they agree.

        Args:
            token: its id.
            text: as the server decodes it; None or a name by its id where it does not.
        """
        if token >= self.number:
            return f"it returned the token {token}, and the tokenizer has {self.number}"
        own = self.text(token)
        if text is None or TOKEN_ID.fullmatch(text) or "\ufffd" in text + own:  # the last: a part of a character
            return None
        if _plain(text) in (_plain(own), _plain(str(self.tokenizer.convert_ids_to_tokens(token)))):
            return None
        return f"its token {token} is {text!r}, and the tokenizer's is {own!r}"

    def ids(self, text: str) -> list[int]:
        """The tokens that a server may call so."""
        by_id = TOKEN_ID.fullmatch(text)
        if by_id is not None:
            return [int(by_id[1])] if int(by_id[1]) < self.number else []
        if not self._ids:
            for token in range(self.number):
                for name in {self.text(token), self.tokenizer.convert_ids_to_tokens(token)}:
                    self._ids.setdefault(name, []).append(token)
        return self._ids.get(text, [])


def _plain(text: str) -> str:
    """A token without the marks of spaces, which servers and tokenizers write differently."""
    return text.replace("▁", " ").replace("Ġ", " ").strip()
