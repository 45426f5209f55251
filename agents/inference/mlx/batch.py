"""The rows that decode together: each step gives every row one token. Runs on the model's thread."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import mlx.core as mx
import msgspec
import numpy as np
import structlog
from mlx_lm.generate import BatchGenerator

from agents.inference.adapters.mixed import RoutedModel
from agents.inference.candidates import seed_of, temperature_of
from agents.inference.mlx.loading import ModelBundle, think_markers
from agents.inference.mlx.pace import PrefillPace
from agents.inference.mlx.prefill import ScoredPrefill, ScoredToken, SharedPrefill
from agents.inference.mlx.processors import make_processors, top_tokens
from agents.inference.mlx.prompt_cache import PrefixCache
from agents.inference.mlx.rows import DecodingRow
from agents.inference.mlx.sampling import make_sampler
from agents.inference.mlx.scoring import Ballots
from agents.inference.mlx.work import Work
from agents.inference.requests import make_overflow
from agents.inference.settings import InferenceSettings
from agents.inference.text import Kind, TextFilter
from agents.inference.tools import CallCollector
from agents.inference.vocabulary import ByteDetokenizer
from schemas.findings import Echo

_log = structlog.get_logger("inference")


class Batch:
    """``active`` work and its rows in mlx-lm's generator.

    ``whole_only``: the caches cannot be cut to a shorter prompt, so they are also kept at the end of the prompt.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        bundle: ModelBundle,
        model: RoutedModel,
        *,
        generator: BatchGenerator,
        prefixes: PrefixCache,
        whole_only: bool,
    ) -> None:
        self._settings, self._model = settings, model
        self._tokenizer, self._encoder, self._grammars = bundle.tokenizer, bundle.encoder, bundle.grammars
        self._syntax, self._vocabulary = bundle.syntax, bundle.vocabulary
        self.generator, self._prefixes, self._whole_only = generator, prefixes, whole_only
        self._pace = PrefillPace(most=settings.prefill_step, seconds=settings.prefill_seconds)
        self._last_piece: dict[str, int] = {}
        self.active: list[Work] = []
        self._rows: dict[int, tuple[Work, DecodingRow]] = {}
        self._tokens_decoded = self._prompt_tokens = self._prefix_tokens = self._active_bytes = 0

    @property
    def gauges(self) -> dict[str, float]:
        """Counts and bytes."""
        return {
            "active_rows": float(len(self._rows)),
            "active_requests": float(len(self.active)),
            "tokens_decoded_total": float(self._tokens_decoded),
            "prompt_tokens_total": float(self._prompt_tokens),
            "prefix_tokens_total": float(self._prefix_tokens),
            "prefix_bytes": float(self._prefixes.nbytes),
            "mlx_active_bytes": float(self._active_bytes),
        }

    def forget(self) -> None:
        """Drop every cached prompt."""
        self._prefixes.forget()

    def begin(self, work: Work) -> None:
        """Start the work, which is in :attr:`active`. Prompts of several candidates or choices, of more than one piece,
        and those whose tokens are scored are processed first, piece by piece."""
        scored = work.request.wants_scored_prompt
        layers, known_tokens = (None, 0) if scored else self._prefixes.find(work.context, work.shared_tokens)
        self._prompt_tokens += work.prompt_tokens - known_tokens
        self._prefix_tokens += known_tokens
        slot = work.seat.slot if work.seat is not None else 0
        cache = self._model.make_cache(slot, layers, factor=work.factor)
        unknown = len(work.shared_tokens) - known_tokens
        if scored:
            top = work.request.sampling.top_logprobs
            work.prefill = ScoredPrefill(self._model, work.prompt.tokens, cache=cache, top=top)
        elif work.choices or (work.shared_tokens and work.request.n > 1) or self._cut(unknown) < unknown:
            work.prefill = SharedPrefill(self._model, work.shared_tokens, cache=cache, known_tokens=known_tokens)
        else:
            self._insert(work, known_tokens=known_tokens, caches=[cache])

    def prefill(self) -> None:
        """Process one piece of a prompt, or of ballots, that are not done; each tenant has its turn, and each work of a
        tenant. Rows that wait for their first token may have theirs before."""
        works = [work for work in self.active if work.prefill is not None or work.scoring is not None]
        if not works or (self._pace.owes_first_tokens() and self._awaits_first_token):
            return
        work = min(works, key=lambda work: self._last_piece.get(work.request.tenant, 0))
        self._note_piece(work)
        if work.scoring is not None:
            with self._pace.measure_piece(0):
                done = work.scoring.advance(self._pace.length(alone=self._is_alone))
            if done:
                self._finish(work, scores=work.scoring.scores)
        elif (prefill := work.prefill) is not None:
            if self._rows:
                mx.synchronize()  # the decoding step that mlx-lm has begun is no part of the piece
            length = self._cut(len(work.shared_tokens) - prefill.done)
            with self._pace.measure_piece(length):
                done = prefill.advance(length)
            if done:
                self._finish_prefill(work, prefill)
                work.prefill = None

    def _cut(self, tokens: int) -> int:
        return self._pace.cut(tokens, alone=self._is_alone)

    @property
    def _is_alone(self) -> bool:
        return len(self.active) == 1

    @property
    def _awaits_first_token(self) -> bool:
        return any(not row.decoded for _, row in self._rows.values())

    def _note_piece(self, work: Work) -> None:
        """Put the work behind the other works of its tenant, and the tenant behind the others."""
        self.active = [*(other for other in self.active if other is not work), work]
        tenants = {other.request.tenant for other in self.active}
        latest = max(self._last_piece.values(), default=0)
        self._last_piece = {tenant: piece for tenant, piece in self._last_piece.items() if tenant in tenants}
        self._last_piece[work.request.tenant] = latest + 1

    def decode(self) -> None:
        """Decode one token for every row."""
        if not self._rows:
            return
        if self._awaits_first_token:
            with self._pace.measure_first_tokens():
                self._decode()
        else:
            self._decode()

    def _decode(self) -> None:
        # mlx-lm starts the next step before it returns this one's tokens. When every row's token
        # budget ends with this token, that next step is useless, and the model skips it.
        ending = self._model.ending = all(0 < row.decoded == row.budget - 1 for _, row in self._rows.values())
        prompts, responses = self.generator.next()
        self._keep_prompts(prompts)
        self._active_bytes = int(mx.get_active_memory())
        if not responses:
            return
        logprobs = _read_logprobs(responses)
        self._tokens_decoded += len(responses)
        self._fail_overflows(responses, logprobs)
        owners = {response.uid: self._rows[response.uid][0] for response in responses}
        stopped_uids = [
            response.uid for response, logprob in zip(responses, logprobs, strict=True) if self._take(response, logprob)
        ]
        for work in [work for work in self.active if work.done and not work.unwanted]:
            self._finish(work)
        # Last, because keeping a cache waits for the step that mlx-lm has begun: no request shall wait for that.
        for response in responses:
            if response.finish_reason is not None:
                tokens = response.all_tokens[:-1] if ending else response.all_tokens
                self._prefixes.keep(owners[response.uid].context, tokens, response.prompt_cache[:-1])
        if stopped_uids:
            self._remove(stopped_uids, owners)

    def leave(self, work: Work) -> None:
        """Take out a request that nobody waits for any more. What was read of its prompt, and decoded of its first row,
        is kept: it may come again, or go on."""
        self.active.remove(work)
        if (prefill := work.prefill) is not None and prefill.done > prefill.known_tokens:
            self._prefixes.keep(work.context, work.prompt.tokens[: prefill.done], prefill.cache[:-1])
        uids = [uid for uid, (owner, _) in self._rows.items() if owner is work]
        if uids:
            self._remove(uids, dict.fromkeys(uids[:1], work))
        for uid in uids:
            del self._rows[uid]
        _log.info("request left the batch", decoded=sum(row.decoded for row in work.rows))

    def _finish_prefill(self, work: Work, prefill: SharedPrefill) -> None:
        cache = prefill.cache
        if work.choices or work.request.n > 1 or self._whole_only:
            self._prefixes.keep(work.context, work.shared_tokens, cache[:-1])
        if isinstance(prefill, ScoredPrefill) and work.echo is not None:
            work.echo = self._score_echo(work.echo, work, prefill)
        if work.choices:
            work.scoring = Ballots(self._model, cache, work.tails, work.choices)
        else:
            self._insert(work, known_tokens=len(work.shared_tokens), caches=[cache] * work.request.n)

    def _score_echo(self, echo: Echo, work: Work, prefill: ScoredPrefill) -> Echo:
        """The echo with its tokens; the prompt may have a token before them that begins every text."""
        first: ScoredToken = (work.prompt.tokens[0], 0.0, [])
        tokens = [first, *prefill.scored_tokens][work.prompt.added :]
        return msgspec.structs.replace(echo, tokens=tuple(self._vocabulary.make_entry(*token) for token in tokens))

    def _insert(self, work: Work, *, known_tokens: int, caches: Sequence[Any]) -> None:
        """Give the rows to the generator; ``caches`` hold the first ``known_tokens`` tokens of the prompt."""
        tokens, sampling = list(work.prompt.tokens), work.request.sampling
        rows = [self._row(work, index) for index in range(work.request.n)]
        warm = self._settings.candidate_temperature
        uids = self.generator.insert(
            [tokens[known_tokens:] for _ in caches],
            max_tokens=[work.budget] * len(caches),
            caches=list(caches),
            all_tokens=[tokens[:known_tokens] for _ in caches],
            logits_processors=[make_processors(sampling, tokens, self._grammars, work.request.grammar) for _ in caches],
            samplers=[
                make_sampler(
                    sampling, temperature=temperature_of(sampling, row.index, candidate_temperature=warm), seed=row.seed
                )
                for row in rows
            ],
        )
        work.uids, work.rows = tuple(uids), rows
        self._rows.update({uid: (work, row) for uid, row in zip(uids, rows, strict=True)})

    def _row(self, work: Work, index: int) -> DecodingRow:
        sampling, tooling = work.request.sampling, work.request.tooling
        calls = CallCollector(self._syntax, tooling) if tooling is not None else None
        continues_text = work.request.continues_text and self._vocabulary.knows_bytes
        return DecodingRow(
            index=index,
            budget=work.budget,
            seed=seed_of(sampling, index),
            detokenizer=ByteDetokenizer(self._vocabulary) if continues_text else self._tokenizer.detokenizer,
            calls=calls,
            filter=TextFilter(
                stops=sampling.stop,
                markers=think_markers(self._tokenizer) if work.request.continuation is None else None,
                calls=calls.marks if calls is not None else None,
                begins=_first_kind(work),
            ),
            eos=frozenset(self._tokenizer.eos_token_ids),
        )

    def _fail_overflows(self, responses: Sequence[Any], logprobs: Sequence[float]) -> None:
        """End work one of whose tokens was drawn from what are no numbers; it leaves the batch before the next step."""
        for response, logprob in zip(responses, logprobs, strict=True):
            work = self._rows[response.uid][0]
            with work.lock:
                if not work.unwanted and not math.isfinite(logprob):
                    work.unwanted = True
                    work.send(make_overflow())

    def _take(self, response: Any, logprob: float) -> bool:
        """Give a row its token. Returns whether the row ended although the generator would go on with it."""
        work, row = self._rows[response.uid]
        sampling, ended, stopped = work.request.sampling, response.finish_reason is not None, False
        with work.lock:
            if not work.unwanted:
                if sampling.logprobs and response.token not in row.eos:
                    best = top_tokens(response.logprobs, sampling.top_logprobs) if sampling.top_logprobs else []
                    row.tokens.append(self._vocabulary.make_entry(response.token, logprob, best))
                pieces = row.take(response.token, logprob, last=ended)
                stopped = row.finish_reason is not None and not ended
                for piece in pieces if row.index == 0 and work.live else ():
                    work.send(piece)
        if ended or stopped:
            del self._rows[response.uid]
        return stopped

    def _remove(self, uids: list[int], owners: Mapping[int, Work]) -> None:
        """Take rows out of the generator that would go on with them, and keep the caches of those in ``owners``."""
        for uid, (cache, tokens) in self.generator.remove(uids, return_prompt_caches=True).items():
            if uid in owners:
                self._prefixes.keep(owners[uid].context, tokens, cache[:-1])

    def _keep_prompts(self, prompts: Sequence[Any]) -> None:
        """Keep caches that cannot be cut at the end of the prompt, which the next turn's prompt begins with."""
        uids = [response.uid for response in prompts if response.end_of_prompt and response.uid in self._rows]
        if not uids or not self._whole_only:
            return
        for uid, (cache, tokens) in self.generator.extract_cache(uids).items():
            self._prefixes.keep(self._rows[uid][0].context, tokens, cache[:-1])

    def _finish(self, work: Work, *, scores: tuple[tuple[float, ...], ...] = ()) -> None:
        self.active.remove(work)
        work.send(work.outcome(scores=scores))


def _read_logprobs(responses: Sequence[Any]) -> list[float]:
    """The log-probability of each row's token.

    Float32 is read without an MLX operation, which would queue behind the next step that is already running. NumPy has
    no bfloat16, so for other types an operation is needed and does queue.
    """
    if responses[0].logprobs.dtype == mx.float32:
        return [float(np.asarray(response.logprobs)[response.token]) for response in responses]
    return cast(list[float], mx.stack([response.logprobs[response.token] for response in responses]).tolist())


def _first_kind(work: Work) -> Kind:
    """The kind of text that the answer begins with; under a schema there is no reasoning before it."""
    if work.request.tooling is not None and work.request.tooling.must_call:
        return "tool"
    return "reasoning" if work.prompt.thinking and work.request.grammar is None else "content"
